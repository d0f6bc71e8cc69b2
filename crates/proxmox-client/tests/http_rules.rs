//! What goes over the wire, and what is made of what comes back.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{React, Seen, Server};
use proxmox_client::{
    ApiError, Client, Delivery, ErrorClass, GuestKind, SnapshotName, TaskEnd, TaskFilter, Upid, Vmid,
};

const UPID: &str = "UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:";
const VERSION: &str = r#"{"version":"9.1.8","release":"9.1","repoid":"x"}"#;

fn vmid() -> Vmid {
    Vmid::new(100).unwrap()
}

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

async fn snapshot(client: &Client) -> Result<Upid, ApiError> {
    client.snapshot_create(GuestKind::Qemu, vmid(), &name("before"), "a=b; c&d\nä").await
}

/// Two copies of one request must not hide behind "eventually": wait for the count, with a deadline.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not happen within 20 s"));
}

#[tokio::test]
async fn a_post_is_form_encoded_with_a_length_and_the_token() {
    let (server, client) = Server::pinned(|_, _| React::ok(&format!("{UPID:?}"))).await;
    assert_eq!(snapshot(&client).await.unwrap().to_string(), UPID);
    let Seen { method, target, head, body } = server.last();
    assert_eq!((method.as_str(), target.as_str()), ("POST", "/api2/json/nodes/pve1/qemu/100/snapshot"));
    assert_eq!(body, "snapname=before&description=a%3Db%3B+c%26d%0A%C3%A4&vmstate=0");
    let head = head.to_lowercase();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    assert!(head.contains("content-type: application/x-www-form-urlencoded\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: pveapitoken={}\r\n", common::TOKEN)), "{head}");
    assert!(!head.contains("transfer-encoding") && !head.contains("cookie"), "{head}");
}

#[tokio::test]
async fn containers_get_no_vmstate_and_empty_posts_have_a_length() {
    let (server, client) = Server::pinned(|seen, _| React::task(seen)).await;
    client.snapshot_create(GuestKind::Lxc, vmid(), &name("before"), "").await.unwrap();
    assert_eq!(server.last().body, "snapname=before");
    client.snapshot_rollback(GuestKind::Lxc, vmid(), &name("before"), false).await.unwrap();
    assert_eq!(server.last().target, "/api2/json/nodes/pve1/lxc/100/snapshot/before/rollback");
    assert_eq!(server.last().body, "");
    assert!(!server.last().head.to_lowercase().contains("transfer-encoding"));
}

#[tokio::test]
async fn a_delete_has_no_body() {
    let (server, client) = Server::pinned(|seen, _| React::task(seen)).await;
    client.snapshot_delete(GuestKind::Qemu, vmid(), &name("before")).await.unwrap();
    let seen = server.last();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("DELETE", "/api2/json/nodes/pve1/qemu/100/snapshot/before")
    );
    assert_eq!(seen.body, "");
    assert!(!seen.head.to_lowercase().contains("content-type"), "{}", seen.head);
}

#[tokio::test]
async fn upids_are_encoded_in_paths_percent_included() {
    let (server, client) =
        Server::pinned(|_, _| React::ok(r#"{"status":"stopped","exitstatus":"OK"}"#)).await;
    let upid: Upid =
        "UPID:pve2:0000025C:0002E5E8:6B025E8B:download:a%3Ab.iso:tester@pve!full:".parse().unwrap();
    client.task_status(&upid).await.unwrap();
    assert_eq!(
        server.last().target,
        "/api2/json/nodes/pve2/tasks/UPID%3Apve2%3A0000025C%3A0002E5E8%3A6B025E8B%3Adownload%3Aa%253Ab.iso%3Atester%40pve%21full%3A/status"
    );
}

#[tokio::test]
async fn a_config_change_carries_its_digest() {
    let (server, client) = Server::pinned(|_, _| React::ok("null")).await;
    let changes = BTreeMap::from([
        ("tags", "a;b".to_owned()),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0".to_owned()),
    ]);
    client.set_guest_config(GuestKind::Qemu, vmid(), changes, "0123").await.unwrap();
    let seen = server.last();
    assert_eq!(seen.method, "PUT");
    assert_eq!(
        seen.body,
        "net0=virtio%3DBC%3A24%3A11%3A00%3A00%3A01%2Cbridge%3Dvmbr0&tags=a%3Bb&digest=0123"
    );

    for (changes, digest) in [
        (BTreeMap::from([("tags", String::new())]), ""),
        (BTreeMap::from([("digest", "x".to_owned())]), "0123"),
        (BTreeMap::from([("skiplock", "1".to_owned())]), "0123"),
        (BTreeMap::new(), "0123"),
    ] {
        let error = client.set_guest_config(GuestKind::Qemu, vmid(), changes, digest).await.unwrap_err();
        assert_eq!((error.class(), error.delivery()), (ErrorClass::Parameter, Delivery::NotSent));
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_get_survives_two_broken_connections_and_no_more() {
    let (server, client) = Server::pinned(|_, n| if n < 2 { React::Close } else { React::ok(VERSION) }).await;
    client.version().await.unwrap();
    assert_eq!(server.count(), 3);

    let (server, client) = Server::pinned(|_, _| React::Close).await;
    let error = client.version().await.unwrap_err();
    assert_eq!((server.count(), error.class()), (3, ErrorClass::Ambiguous));
}

#[tokio::test]
async fn a_get_is_repeated_while_a_daemon_restarts_and_never_after_a_timeout() {
    let restarting = || React::json("595 Connection refused", "");
    let (server, client) =
        Server::pinned(move |_, n| if n < 2 { restarting() } else { React::ok(VERSION) }).await;
    client.version().await.unwrap();
    assert_eq!(server.count(), 3);
    for status in ["595 No route to host", "596 Connection timed out", "597 ", "500 got timeout", "503 no"] {
        let (server, client) = Server::pinned(move |_, _| React::json(status, "")).await;
        client.version().await.unwrap_err();
        assert_eq!(server.count(), 1, "{status}");
    }
}

/// Sends each kind of mutation once and says what became of it.
async fn mutate(client: &Client) -> [ApiError; 3] {
    let digest = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    let changes = BTreeMap::from([("tags", "a".to_owned())]);
    [
        snapshot(client).await.unwrap_err(),
        client.snapshot_delete(GuestKind::Qemu, vmid(), &name("before")).await.unwrap_err(),
        client.set_guest_config(GuestKind::Qemu, vmid(), changes, digest).await.unwrap_err(),
    ]
}

#[tokio::test]
async fn a_mutation_is_sent_once_whatever_happens() {
    use Delivery::{Answered, MaybeExecuted, NotSent};
    let json = |status: &'static str, body: &'static str, delivery| {
        (Box::new(move || React::json(status, body)) as Box<dyn Fn() -> React + Send + Sync>, delivery)
    };
    let bytes = |bytes: &'static [u8]| {
        (
            Box::new(move || React::SendAndClose(bytes.to_vec())) as Box<dyn Fn() -> React + Send + Sync>,
            MaybeExecuted,
        )
    };
    let faults = [
        (Box::new(|| React::Close) as Box<dyn Fn() -> React + Send + Sync>, MaybeExecuted),
        bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"data\":"),
        bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n{\"data\":"),
        bytes(b"HTTP/1.1 200"),
        bytes(b"garbage\r\n\r\n"),
        json("200 OK", "<html>", MaybeExecuted),
        json("200 OK", "{}", MaybeExecuted),
        json("403 no", "", Answered),
        json("500 can't lock file '/var/lock/x' - got timeout", "", Answered),
        json("501 no", "", Answered),
        json("302 no", "", Answered),
        json("502 no", "", MaybeExecuted),
        json("503 no", "", MaybeExecuted),
        json("504 no", "", MaybeExecuted),
        json("595 Connection refused", "", NotSent),
        json("596 Connection timed out", "", MaybeExecuted),
        json("597 no", "", MaybeExecuted),
        json("598 no", "", MaybeExecuted),
        json("599 no", "", MaybeExecuted),
    ];
    for (react, delivery) in faults {
        let (server, client) = Server::pinned(move |_, _| react()).await;
        for error in mutate(&client).await {
            assert_eq!(error.delivery(), delivery, "{error}");
        }
        assert_eq!(server.count(), 3, "of three mutations, {delivery:?}");
    }
    // A success that lists errors is none; one with an empty list is.
    for (errors, good) in [(r#"{"x":"y"}"#, false), (r#"["x"]"#, false), ("{}", true), ("null", true)] {
        let body = format!(r#"{{"data":{UPID:?},"errors":{errors}}}"#);
        let (_server, client) = Server::pinned(move |_, _| React::json("200 OK", &body)).await;
        let answer = snapshot(&client).await;
        assert_eq!(answer.is_ok(), good, "{answer:?}");
        assert!(answer.err().is_none_or(|error| error.delivery() == Delivery::MaybeExecuted));
    }
    // The task of another node, kind, guest or author.
    for other in [
        "pve9:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full",
        "pve1:000003A4:000359AB:6B025FB3:qmdestroy:100:tester@pve!full",
        "pve1:000003A4:000359AB:6B025FB3:qmsnapshot:101:tester@pve!full",
        "pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:root@pam",
    ] {
        let (server, client) = Server::pinned(move |_, _| React::ok(&format!("\"UPID:{other}:\""))).await;
        let error = snapshot(&client).await.unwrap_err();
        assert_eq!((error.delivery(), error.class()), (Delivery::MaybeExecuted, ErrorClass::Other));
        let text = error.to_string();
        assert!(text.contains(other) && text.contains("not this request's"), "{text}");
        assert_eq!(server.count(), 1, "sent again");
    }
    // An answer that is no UPID where one was promised.
    for data in ["null", "\"OK\"", "7", "\"UPID:x\""] {
        let (server, client) = Server::pinned(move |_, _| React::ok(data)).await;
        assert_eq!(snapshot(&client).await.unwrap_err().delivery(), MaybeExecuted);
        assert_eq!(server.count(), 1, "{data}");
    }
    // A refused token costs one request, and the next ones are not sent at all.
    let (server, client) = Server::pinned(|_, _| React::json("401 no", "")).await;
    let deliveries = mutate(&client).await.map(|error| error.delivery());
    assert_eq!((deliveries, server.count()), ([Answered, NotSent, NotSent], 1));
}

#[tokio::test]
async fn mutations_never_reuse_a_connection_and_reads_do() {
    let (server, client) = Server::pinned(|seen, _| {
        if seen.method == "GET" { React::ok(VERSION) } else { React::ok(&format!("{UPID:?}")) }
    })
    .await;
    for _ in 0..3 {
        client.version().await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    for _ in 0..3 {
        snapshot(&client).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn one_401_pauses_the_client_and_the_reason_is_kept() {
    let (server, client) = Server::pinned(|_, _| {
        React::Send(b"HTTP/1.1 401 invalid token value!\r\nContent-Length: 0\r\n\r\n".to_vec())
    })
    .await;
    let first = client.version().await.unwrap_err();
    assert_eq!(
        (first.class(), first.status(), first.reason()),
        (ErrorClass::Auth, Some(401), Some("invalid token value!"))
    );
    assert_eq!(first.delivery(), Delivery::Answered);
    assert!(first.to_string().contains("pveum user token list tester@pve"), "{first}");
    for _ in 0..3 {
        let error = snapshot(&client.clone()).await.unwrap_err();
        assert_eq!((error.class(), error.delivery()), (ErrorClass::Auth, Delivery::NotSent));
        assert!(error.to_string().contains("invalid token value!"), "{error}");
        assert!(!error.to_string().contains("00000000-0000-4000"), "the secret is shown");
    }
    assert_eq!(server.count(), 1);
    // After thirty seconds the token may try again.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_eq!(client.version().await.unwrap_err().status(), Some(401));
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (server, client) = Server::pinned(|_, _| {
        React::Send(
            b"HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1:1/steal\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    assert_eq!(client.version().await.unwrap_err().status(), Some(301));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn bodies_are_capped_announced_or_not() {
    let (_server, client) = Server::pinned(|_, _| {
        React::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{".to_vec())
    })
    .await;
    assert!(client.version().await.unwrap_err().to_string().contains("larger than"));

    let (_server, client) = Server::pinned(|_, _| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"data\":\"".to_vec();
        bytes.resize(17 * 1024 * 1024, b'x');
        React::SendAndClose(bytes)
    })
    .await;
    let error = client.version().await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn a_huge_error_body_still_gives_the_status() {
    let (_server, client) = Server::pinned(|_, _| {
        React::SendAndClose(
            [&b"HTTP/1.1 500 VM is locked (backup)\r\nConnection: close\r\n\r\n"[..], &[b'x'; 300_000]]
                .concat(),
        )
    })
    .await;
    let error = client.version().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Locked { by: "backup".to_owned() });
}

#[tokio::test]
async fn at_most_two_requests_are_in_flight() {
    // The server withholds its answers, so what has arrived is what is in flight.
    let (open, gate) = tokio::sync::watch::channel(false);
    let (server, client) = Server::pinned(move |seen, _| {
        let body = format!("{{\"data\":{VERSION}}}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
        if seen.target.ends_with("/nodes") { React::ok("[]") } else { React::Behind(gate.clone(), answer) }
    })
    .await;
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.version().await })
        })
        .collect();
    eventually("two requests", || server.count() == 2).await;
    // Time for a third to arrive, measured in whole exchanges on the same event loop.
    let other = server.another_client();
    for _ in 0..10 {
        other.nodes().await.unwrap();
    }
    assert_eq!(server.count(), 2 + 10);
    open.send(true).unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.count(), 6 + 10);
}

#[tokio::test]
async fn what_touches_disks_goes_one_at_a_time_and_leaves_room_for_others() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let (server, client) = Server::pinned(move |seen, _| {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"data\":[]}".to_vec();
        if seen.target.contains("/disks/") { React::Behind(gate.clone(), answer) } else { React::ok("[]") }
    })
    .await;
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.zfs_pools().await })
        })
        .collect();
    eventually("one slow request", || server.count() == 1).await;
    // The other place is free while three more wait, and none of them takes it.
    for _ in 0..10 {
        client.nodes().await.unwrap();
    }
    assert_eq!(server.count(), 1 + 10);
    open.send(true).unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.count(), 4 + 10);
}

#[tokio::test]
async fn the_node_is_asked_once() {
    let identity = common::Identity::self_signed(&["localhost"]);
    let config = common::server_config(identity.chain.clone(), &identity.key, rustls::ALL_VERSIONS);
    let server = Server::start(config, |seen, _| match seen.target.as_str() {
        "/api2/json/nodes" => React::ok(r#"[{"node":"pve1"},{"node":"pve2"}]"#),
        "/api2/json/cluster/status" => {
            React::ok(r#"[{"type":"cluster","name":"lab"},{"type":"node","name":"pve1","local":0},{"type":"node","name":"pve2","local":1}]"#)
        }
        _ => React::ok("[]"),
    })
    .await;
    let client = Client::new(
        format!("https://127.0.0.1:{}", server.address.port()).parse().unwrap(),
        proxmox_client::PinSet::new(vec![identity.spki_pin()]).unwrap(),
        common::TOKEN.parse().unwrap(),
    )
    .unwrap();
    client.guests(GuestKind::Qemu).await.unwrap();
    client.storage_list().await.unwrap();
    assert_eq!(client.node().await.unwrap().as_str(), "pve2");
    let targets: Vec<String> = server.seen.lock().unwrap().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(
        targets,
        [
            "/api2/json/nodes",
            "/api2/json/cluster/status",
            "/api2/json/nodes/pve2/qemu",
            "/api2/json/nodes/pve2/storage"
        ]
    );
}

#[tokio::test]
async fn a_hostile_node_name_is_not_followed_into_a_path() {
    let identity = common::Identity::self_signed(&["localhost"]);
    let config = common::server_config(identity.chain.clone(), &identity.key, rustls::ALL_VERSIONS);
    let server = Server::start(config, |_, _| React::ok(r#"[{"node":"../../access"}]"#)).await;
    let client = Client::new(
        format!("https://127.0.0.1:{}", server.address.port()).parse().unwrap(),
        proxmox_client::PinSet::new(vec![identity.spki_pin()]).unwrap(),
        common::TOKEN.parse().unwrap(),
    )
    .unwrap();
    assert!(client.node_status().await.is_err());
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn find_tasks_asks_for_all_and_keeps_only_its_own() {
    let rows = r#"[
        {"upid":"UPID:pve1:00000001:00000001:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"RUNNING","user":"tester@pve!full"},
        {"upid":"UPID:pve1:00000002:00000001:6B025FB3:qmsnapshot:100:tester@pve!full:","status":"OK","user":"tester@pve","tokenid":"full","endtime":1795317690},
        {"upid":"UPID:pve1:00000003:00000001:6B025FB3:qmsnapshot:100:tester@pve!other:","status":"OK","endtime":1795317690},
        {"upid":"UPID:pve1:00000004:00000001:6B025FB3:qmsnapshot:100:tester@pve:","status":"OK","endtime":1795317690},
        {"upid":"UPID:pve1:00000005:00000001:6B025FB3:qmrollback:100:tester@pve!full:","status":"OK","endtime":1795317690},
        {"upid":"UPID:pve1:00000006:00000001:6B025FB3:qmsnapshot:1000:tester@pve!full:","status":"OK","endtime":1795317690},
        {"upid":"garbage"}
    ]"#;
    let (server, client) = Server::pinned(move |_, _| React::ok(rows)).await;
    let found = client.find_tasks(1_795_317_683, "qmsnapshot", vmid(), client.identity()).await.unwrap();
    assert_eq!(found.iter().map(|task| task.upid.pid()).collect::<Vec<_>>(), [1, 2]);
    assert!(found[0].is_running() && !found[1].is_running());
    assert_eq!(
        server.last().target,
        "/api2/json/nodes/pve1/tasks?source=all&vmid=100&typefilter=qmsnapshot&since=1795317681&limit=500"
    );
    client.tasks(&TaskFilter { errors: true, start: 5, ..TaskFilter::default() }).await.unwrap();
    assert_eq!(server.last().target, "/api2/json/nodes/pve1/tasks?source=archive&errors=1&start=5");
}

#[tokio::test]
async fn the_end_of_a_task_brings_its_log() {
    let upid: Upid = UPID.parse().unwrap();
    let with_exit = |exit: &'static str| {
        Server::pinned(move |seen, _| {
            if seen.target.ends_with("/status") {
                React::ok(&format!(r#"{{"status":"stopped","exitstatus":"{exit}"}}"#))
            } else if seen.target.contains("start=0") {
                React::json(
                    "200 OK",
                    r#"{"data":[{"n":1,"t":"WARN: iothread is ignored"},{"n":2,"t":"TASK WARNINGS: 1"}],"total":40}"#,
                )
            } else if seen.target.contains("start=20") {
                React::json("200 OK", r#"{"data":[{"n":40,"t":"TASK ERROR: no"}],"total":40}"#)
            } else {
                React::json("200 OK", r#"{"data":[],"total":40}"#)
            }
        })
    };
    let minute = Duration::from_secs(60);
    let (_server, client) = with_exit("OK").await;
    assert_eq!(client.wait_task(&upid, minute).await, TaskEnd::Ok);
    let (_server, client) = with_exit("WARNINGS: 1").await;
    let warned = TaskEnd::Warnings { count: 1, lines: vec!["WARN: iothread is ignored".to_owned()] };
    assert_eq!(client.wait_task(&upid, minute).await, warned);
    let (_server, client) = with_exit("no").await;
    let failed = TaskEnd::Failed { text: "no".to_owned(), last_lines: vec!["TASK ERROR: no".to_owned()] };
    assert_eq!(client.wait_task(&upid, minute).await, failed);
    let (server, client) = with_exit("unexpected status").await;
    assert!(matches!(client.wait_task(&upid, minute).await, TaskEnd::Unknown { .. }));
    assert_eq!(server.count(), 1);
}
