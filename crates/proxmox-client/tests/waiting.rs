//! Following tasks and guests over the wire. What the schedule does over minutes is tested beside it,
//! in paused time; here the tasks are short.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

mod common;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use common::{React, Seen, Server};
use proxmox_client::{
    Client, Doubt, FindTask, FoundTask, GuestKind, PowerEnd, RunState, TaskEnd, Upid, Vmid, WaitOptions,
};

const LIMIT: Duration = Duration::from_secs(30);
const UPID: &str = "UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:";

fn upid() -> Upid {
    UPID.parse().unwrap()
}

fn vmid() -> Vmid {
    Vmid::new(100).unwrap()
}

fn status(exit: Option<&str>) -> React {
    React::ok(&match exit {
        None => r#"{"status":"running"}"#.to_owned(),
        Some(exit) => format!(r#"{{"status":"stopped","exitstatus":"{exit}"}}"#),
    })
}

fn number(target: &str, name: &str) -> u64 {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map_or(0, |value| value.parse().unwrap())
}

/// A page of a log of that many lines, as Proxmox answers.
fn log_page(seen: &Seen, total: u64) -> React {
    let (start, limit) = (number(&seen.target, "start"), number(&seen.target, "limit"));
    let lines: Vec<String> =
        (start + 1..=total.min(start + limit)).map(|n| format!(r#"{{"n":{n},"t":"line {n}"}}"#)).collect();
    React::json("200 OK", &format!(r#"{{"data":[{}],"total":{total}}}"#, lines.join(",")))
}

fn is_log(seen: &Seen) -> bool {
    seen.target.contains("/log?")
}

#[tokio::test]
async fn a_log_is_handed_on_once_and_in_order_across_pages() {
    // Three looks at a running task whose log grows past a page, then its end.
    let looks = AtomicU64::new(0);
    let (_server, client) = Server::pinned(move |seen, _| {
        if is_log(seen) {
            return log_page(seen, 400 * looks.load(Ordering::SeqCst));
        }
        let look = looks.fetch_add(1, Ordering::SeqCst);
        status((look >= 3).then_some("OK"))
    })
    .await;
    let mut got = Vec::new();
    let end = client.wait_task_with(&upid(), WaitOptions::new(LIMIT), |line| got.push(line.n)).await;
    assert_eq!(end, TaskEnd::Ok);
    assert_eq!(got, (1..=1600).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_cap_leaves_a_gap_before_the_last_lines() {
    let (server, client) =
        Server::pinned(|seen, _| if is_log(seen) { log_page(seen, 5000) } else { status(Some("no")) }).await;
    let options = WaitOptions { most_lines: 10, ..WaitOptions::new(LIMIT) };
    let mut got = Vec::new();
    let end = client.wait_task_with(&upid(), options, |line| got.push(line.n)).await;
    let TaskEnd::Failed { text, last_lines } = end else { panic!("{end:?}") };
    assert_eq!((text.as_str(), last_lines.len()), ("no", 20));
    assert_eq!(got, (1..=10).chain(4981..=5000).collect::<Vec<_>>());
    assert!(server.count() <= 6, "{}", server.count());
}

#[tokio::test]
async fn a_log_that_is_lost_changes_nothing() {
    let gone = r#"{"data":[{"n":1,"t":"unable to open file - No such file or directory"}],"total":1}"#;
    let reactions: [fn(&str) -> React; 4] = [
        |gone| React::json("200 OK", gone),
        |_| React::json("500 no", r#"{"data":null,"message":"no\n"}"#),
        |_| React::ok("\"not a list\""),
        |_| React::Close,
    ];
    for react in reactions {
        let statuses = AtomicUsize::new(0);
        let (_server, client) = Server::pinned(move |seen, _| {
            if is_log(seen) {
                return react(gone);
            }
            status((statuses.fetch_add(1, Ordering::SeqCst) >= 2).then_some("OK"))
        })
        .await;
        let mut got = 0;
        let end = client.wait_task_with(&upid(), WaitOptions::new(LIMIT), |_| got += 1).await;
        assert_eq!((end, got), (TaskEnd::Ok, 0));
    }
}

#[tokio::test]
async fn time_over_hands_on_what_there_is() {
    let (_server, client) =
        Server::pinned(|seen, _| if is_log(seen) { log_page(seen, 3) } else { status(None) }).await;
    let mut got = Vec::new();
    let end = client.wait_task_with(&upid(), WaitOptions::new(Duration::ZERO), |line| got.push(line.n)).await;
    assert_eq!(end, TaskEnd::StillRunning { upid: upid() });
    assert_eq!(got, [1, 2, 3]);
}

#[tokio::test]
async fn stopping_a_task_is_one_delete() {
    let (server, client) = Server::pinned(|_, _| React::ok("null")).await;
    client.task_stop(&upid()).await.unwrap();
    let seen = server.last();
    assert_eq!(seen.method, "DELETE");
    assert!(seen.target.ends_with(
        "/tasks/UPID%3Apve1%3A000003A4%3A000359AB%3A6B025FB3%3Aqmsnapshot%3A100%3Atester%40pve%21full%3A"
    ));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn the_last_lines_are_those_of_the_log_as_it_is_at_the_end() {
    // The cap is reached while the log is short; then it grows.
    let looks = AtomicU64::new(0);
    let (_server, client) = Server::pinned(move |seen, _| {
        if is_log(seen) {
            return log_page(seen, if looks.load(Ordering::SeqCst) < 2 { 50 } else { 3000 });
        }
        status((looks.fetch_add(1, Ordering::SeqCst) >= 2).then_some("OK"))
    })
    .await;
    let options = WaitOptions { most_lines: 10, ..WaitOptions::new(LIMIT) };
    let mut got = Vec::new();
    assert_eq!(client.wait_task_with(&upid(), options, |line| got.push(line.n)).await, TaskEnd::Ok);
    assert_eq!(got, (1..=10).chain(2981..=3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn long_logs_come_whole_or_with_their_end() {
    for (most, total) in [(20_000, 30_000), (u64::MAX, 12_000), (0, 5), (100, 100)] {
        let (_server, client) =
            Server::pinned(
                move |seen, _| {
                    if is_log(seen) { log_page(seen, total) } else { status(Some("OK")) }
                },
            )
            .await;
        let options = WaitOptions { most_lines: most, ..WaitOptions::new(LIMIT) };
        let mut got = Vec::new();
        assert_eq!(client.wait_task_with(&upid(), options, |line| got.push(line.n)).await, TaskEnd::Ok);
        let first = most.min(total);
        let last = first.max(total.saturating_sub(20));
        assert_eq!(got, (1..=first).chain(last + 1..=total).collect::<Vec<_>>(), "{most} of {total}");
    }
}

#[tokio::test]
async fn a_log_that_hangs_costs_no_more_than_one_request() {
    let (_shut, gate) = tokio::sync::watch::channel(false);
    let (_server, client) =
        Server::pinned(
            move |seen, _| {
                if is_log(seen) { React::Behind(gate.clone(), Vec::new()) } else { status(None) }
            },
        )
        .await;
    let started = std::time::Instant::now();
    let limit = Duration::from_secs(1);
    let end = client.wait_task_with(&upid(), WaitOptions::new(limit), |_| {}).await;
    assert_eq!(end, TaskEnd::StillRunning { upid: upid() });
    let took = started.elapsed();
    assert!(took >= limit && took < limit + Duration::from_secs(15), "{took:?}");
}

const SINCE: u64 = 1_795_317_683;

/// Looks for the task with these rows in the list and the node's clock `later` than the request.
async fn look_for(rows: &'static str, later: u64, user: &str) -> FoundTask {
    let (_server, client) = Server::pinned(move |seen, _| {
        if seen.target.contains("/tasks?") {
            React::ok(rows)
        } else if seen.target.ends_with("/time") {
            React::ok(&format!(r#"{{"time":{},"localtime":0,"timezone":"UTC"}}"#, SINCE + later))
        } else {
            React::ok(r#"{"/nodes/pve1":{"VM.Audit":1}}"#)
        }
    })
    .await;
    client.find_task(SINCE, "qmsnapshot", vmid(), user).await
}

const ME: &str = "tester@pve!full";

#[tokio::test]
async fn the_task_of_a_lost_answer_is_found_running_or_finished() {
    // Rows of running tasks carry `user!token`, rows of finished ones split it; the UPID has both.
    for rows in [
        r#"[{"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"RUNNING","user":"tester@pve!full"}]"#,
        r#"[{"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"OK","user":"tester@pve","tokenid":"full","endtime":1}]"#,
    ] {
        let found = look_for(rows, 1, ME).await;
        assert!(matches!(&found, FoundTask::Found(found) if *found == upid()), "{found:?}");
    }
}

#[tokio::test]
async fn no_task_is_said_only_where_it_is_known() {
    let other =
        r#"[{"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!other:","status":"OK"}]"#;
    assert!(matches!(look_for(other, 60, ME).await, FoundTask::NotFound));
    assert!(matches!(look_for("[]", 60, ME).await, FoundTask::NotFound));
    let early = look_for("[]", 5, ME).await;
    assert!(matches!(early, FoundTask::CannotTell(Doubt::TooEarly { seconds: 40 })), "{early:?}");
    let hidden = look_for("[]", 60, "root@pam!backup").await;
    assert!(matches!(hidden, FoundTask::CannotTell(Doubt::Hidden { .. })), "{hidden:?}");
    let two = r#"[
        {"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"OK"},
        {"upid":"UPID:pve1:000003A5:000359AC:6B025FB4:qmsnapshot:100:tester@pve!full:","status":"RUNNING"}
    ]"#;
    assert!(matches!(look_for(two, 60, ME).await, FoundTask::Several(all) if all.len() == 2));

    // What the list does not show may be the task.
    let unread = r#"[
        {"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"OK"},
        {"upid":"UPID:pve 1:000003A5:000359AC:6B025FB4:qmsnapshot:100:tester@pve!full:","status":"RUNNING"}
    ]"#;
    let hidden = look_for(unread, 60, ME).await;
    assert!(matches!(hidden, FoundTask::CannotTell(Doubt::Unreadable { rows: 1 })), "{hidden:?}");
    let none = look_for(r#"[{"upid":"x"},{"pid":1},[]]"#, 60, ME).await;
    let FoundTask::CannotTell(Doubt::NotListed(error)) = none else { panic!("{none:?}") };
    assert!(error.to_string().contains("none of 3"), "{error}");

    let (_server, client) = Server::pinned(|_, _| React::json("596 Connection timed out", "")).await;
    let lost = client.find_task(SINCE, "qmsnapshot", vmid(), ME).await;
    let FoundTask::CannotTell(doubt) = lost else { panic!("{lost:?}") };
    assert!(doubt.to_string().contains("596"), "{doubt}");
}

/// Looks for a task that is not there with a token that may not see the node's clock. The answer is dated
/// 03:23:03, a hundred seconds after `SINCE`, or not at all.
async fn look_without_clock(nodes: &'static str, dated: bool, since: u64) -> FoundTask {
    let (_server, client) = Server::pinned(move |seen, _| {
        if seen.target.contains("/tasks?") {
            let date = if dated { "Date: Sun, 22 Nov 2026 03:23:03 GMT\r\n" } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\n{date}Content-Length: 11\r\n\r\n");
            React::Send(format!("{head}{{\"data\":[]}}").into_bytes())
        } else if seen.target.ends_with("/nodes") {
            React::ok(nodes)
        } else {
            React::json(
                "403 no",
                r#"{"data":null,"message":"Permission check failed (/nodes/pve1, Sys.Audit)\n"}"#,
            )
        }
    })
    .await;
    client.find_task(since, "qmsnapshot", vmid(), ME).await
}

#[tokio::test]
async fn without_the_nodes_clock_the_answers_date_is_all_there_is() {
    const ONE: &str = r#"[{"node":"pve1","status":"online"}]"#;
    const TWO: &str = r#"[{"node":"pve1","status":"online"},{"node":"pve2","status":"online"}]"#;
    assert!(matches!(look_without_clock(ONE, true, SINCE).await, FoundTask::NotFound));
    let early = look_without_clock(ONE, true, SINCE + 90).await;
    assert!(matches!(early, FoundTask::CannotTell(Doubt::TooEarly { seconds: 36..=38 })), "{early:?}");
    // In a cluster another node may have dated it; and this machine's own clock is nobody's.
    for (nodes, dated) in [(TWO, true), (ONE, false), (TWO, false)] {
        let doubt = look_without_clock(nodes, dated, SINCE).await;
        assert!(matches!(doubt, FoundTask::CannotTell(Doubt::NoClock)), "{doubt:?}");
    }
}

#[tokio::test]
async fn tasks_that_were_there_before_are_not_the_one() {
    let two = r#"[
        {"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"RUNNING"},
        {"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"OK"},
        {"upid":"UPID:pve1:000003A5:000359AC:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"OK"},
        {"upid":"UPID:pve1:000003A6:000359AC:6B025FB2:qmsnapshot:100:tester@pve!full:","status":"OK"}
    ]"#;
    let (_server, client) = Server::pinned(move |seen, _| {
        let list = seen.target.contains("/tasks?");
        if list { React::ok(two) } else { React::ok(&format!(r#"{{"time":{}}}"#, SINCE + 60)) }
    })
    .await;
    let known = [upid()];
    let find = FindTask { since: SINCE, task_types: &["qmsnapshot"], id: "100", user: ME, known: &known };
    let found = client.find_task_of(&find).await;
    assert!(matches!(&found, FoundTask::Found(found) if found.pid() == 0x3A5), "{found:?}");
    let all = client.find_task_of(&FindTask { known: &[], ..find }).await;
    assert!(matches!(&all, FoundTask::Several(all) if all.len() == 2), "{all:?}");
    assert_eq!(client.node_clock().await.unwrap(), SINCE + 60);
}

fn guest(state: &str) -> React {
    React::ok(&format!(r#"{{"vmid":100,"status":"{state}","ha":{{"managed":1}}}}"#))
}

async fn power_end(client: &Client) -> (TaskEnd, PowerEnd) {
    let upid = "UPID:pve1:000003A4:000359AB:6B025FB3:hastart:100:tester@pve!full:".parse().unwrap();
    let outcome = client.power_end(GuestKind::Qemu, vmid(), &upid, &RunState::Running, LIMIT).await;
    (outcome.task, outcome.guest)
}

#[tokio::test]
async fn a_task_of_ha_ends_early_and_the_guest_is_followed() {
    let looks = AtomicUsize::new(0);
    let (_server, client) = Server::pinned(move |seen, _| {
        if seen.target.contains("/tasks/") {
            return status(Some("OK"));
        }
        guest(if looks.fetch_add(1, Ordering::SeqCst) >= 3 { "running" } else { "stopped" })
    })
    .await;
    assert_eq!(power_end(&client).await, (TaskEnd::Ok, PowerEnd::Reached));
}

#[tokio::test]
async fn a_guest_that_ha_moved_is_found_elsewhere() {
    let (server, client) = Server::pinned(|seen, _| {
        if seen.target.contains("/tasks/") {
            status(Some("OK"))
        } else if seen.target.contains("/cluster/resources") {
            React::ok(r#"[{"type":"qemu","id":"qemu/100","vmid":100,"node":"pve2","status":"running"}]"#)
        } else {
            React::json(
                "500 no",
                r#"{"data":null,"message":"Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist\n"}"#,
            )
        }
    })
    .await;
    assert_eq!(power_end(&client).await, (TaskEnd::Ok, PowerEnd::Reached));
    assert!(server.last().target.ends_with("/cluster/resources?type=vm"));
}

#[tokio::test]
async fn after_a_failed_task_the_guest_is_looked_at_once() {
    let (server, client) = Server::pinned(|seen, _| {
        if is_log(seen) {
            log_page(seen, 1)
        } else if seen.target.contains("/tasks/") {
            status(Some("VM 100 already running"))
        } else {
            guest("running")
        }
    })
    .await;
    let (task, guest) = power_end(&client).await;
    assert!(matches!(task, TaskEnd::Failed { .. }), "{task:?}");
    assert_eq!(guest, PowerEnd::Reached);
    let looks =
        server.seen.lock().unwrap().iter().filter(|seen| seen.target.ends_with("/status/current")).count();
    assert_eq!(looks, 1);
}
