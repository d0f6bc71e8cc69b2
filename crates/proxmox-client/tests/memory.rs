//! What hostile answers cost in memory. A test binary of its own, because a process has one peak.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

mod common;

use common::{React, Server};
use proxmox_client::{TaskFilter, Upid};

const CAP: usize = 16 * 1024 * 1024;

/// The most memory this process ever had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

/// A list as long as the cap allows, or of that many items.
fn body(item: &str, most: usize) -> Vec<u8> {
    let count = ((CAP - 64) / (item.len() + 1)).min(most);
    let body = format!("{{\"data\":[{}]}}", vec![item; count].join(","));
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn no_answer_costs_ten_times_its_size() {
    let upid: Upid = "UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:".parse().unwrap();
    // Refused before they are parsed: the smallest rows there are.
    for item in ["{\"\":0}", "[]", "0"] {
        let bytes = body(item, usize::MAX);
        let (_server, client) = Server::pinned(move |_, _| React::Send(bytes.clone())).await;
        let before = peak();
        let error = client.tasks(&TaskFilter::default()).await.unwrap_err();
        assert!(error.to_string().contains("ask for less"), "{error}");
        // The server is in this process too, and keeps a copy of what it sends.
        assert!(peak() - before < 3 * CAP, "{item}: {}", peak() - before);
    }
    // Taken: as many lines of a log as may come.
    let bytes = body(r#"{"n":1,"t":"line"}"#, 100_000);
    let (_server, client) = Server::pinned(move |_, _| React::Send(bytes.clone())).await;
    let before = peak();
    assert_eq!(client.task_log(&upid, 0, 0).await.unwrap().lines.len(), 100_000);
    assert!(peak() - before < 10 * CAP, "{}", peak() - before);
    // One warning for all that cannot be read, and no more than its size for the parsing.
    let bytes = body(r#"{"upid":"x"}"#, 100_000);
    let (_server, client) = Server::pinned(move |_, _| React::Send(bytes.clone())).await;
    let error = client.tasks(&TaskFilter::default()).await.unwrap_err();
    assert!(error.to_string().contains("none of 100000"), "{error}");
    assert!(peak() - before < 10 * CAP, "{}", peak() - before);
    // What is no list has no need of so much.
    let bytes = body(r#""a long text to fill the answer with""#, 40_000);
    let (_server, client) = Server::pinned(move |_, _| React::Send(bytes.clone())).await;
    let error = client.version().await.unwrap_err();
    assert!(error.to_string().contains("larger than 1048576 bytes"), "{error}");
}
