//! Whole sequences against the simulated node: what the unit tests cannot show is that the two
//! sides agree.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxmox_client::{
    ApiToken, Client, Delivery, ErrorClass, GuestKind, Pin, PinSet, ResourceKind, RunState, SnapshotName,
    TaskEnd, TaskFilter, TaskSource, TaskStatus, Upid, Vmid, classify_text,
};
use pve_sim::{Sim, SimConfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

async fn start() -> Sim {
    let config = SimConfig { auth_failure_delay: Duration::from_millis(1), ..SimConfig::demo() };
    Sim::start(config).await.unwrap()
}

fn client_with(sim: &Sim, token: &str, pin: &str) -> Client {
    let pins = PinSet::new(vec![pin.parse::<Pin>().unwrap()]).unwrap();
    Client::new(sim.url().parse().unwrap(), pins, token.parse::<ApiToken>().unwrap()).unwrap()
}

fn client(sim: &Sim, token: &str) -> Client {
    client_with(sim, token, &format!("spki:{}", sim.pins().spki))
}

fn reporter(sim: &Sim) -> Client {
    client(sim, &sim.tokens().0)
}

fn actor(sim: &Sim) -> Client {
    client(sim, &sim.tokens().1)
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

/// The simulator's own side door, through a client that trusts its CA.
async fn order(sim: &Sim, path: &str, body: Value) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(sim.ca_pem().as_bytes()).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let http = reqwest::Client::builder().tls_backend_preconfigured(config).build().unwrap();
    let answer = http.post(format!("{}/sim/{path}", sim.url())).json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

fn mutations(sim: &Sim) -> usize {
    sim.requests().iter().filter(|request| request.method != "GET").count()
}

#[tokio::test]
async fn every_kind_of_pin_reaches_the_node_and_a_wrong_one_does_not() {
    let sim = start().await;
    let (pins, token) = (sim.pins(), sim.tokens().0);
    for pin in [format!("leaf:{}", pins.leaf), format!("spki:{}", pins.spki), format!("ca:{}", pins.ca)] {
        assert!(client_with(&sim, &token, &pin).version().await.unwrap().major() >= Some(8));
    }
    let before = sim.requests().len();
    for pin in [format!("leaf:{}", pins.spki), format!("spki:{}", pins.ca), format!("ca:{}", pins.leaf)] {
        let error = client_with(&sim, &token, &pin).version().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Untrusted);
        assert!(error.to_string().contains(&pins.leaf) && error.to_string().contains(&pins.spki), "{error}");
    }
    assert_eq!(sim.requests().len(), before);
}

#[tokio::test]
async fn all_reading_calls_decode() {
    let sim = start().await;
    let client = reporter(&sim);
    assert_eq!(client.node().await.unwrap().as_str(), "pve1");
    assert_eq!(client.nodes().await.unwrap()[0].node, "pve1");
    let status = client.node_status().await.unwrap();
    assert!(status.uptime.is_some() && status.memory.total.is_some() && status.loadavg.len() == 3);
    assert!(client.node_time().await.unwrap().time > 1_700_000_000);
    let permissions = client.permissions().await.unwrap();
    assert!(permissions["/"].contains_key("Sys.Audit"), "{permissions:?}");
    assert!(client.storage_list().await.unwrap().iter().any(|storage| storage.storage == "local-lvm"));
    let pools = client.lvmthin().await.unwrap();
    assert!(pools[0].metadata_size.is_some() && pools[0].metadata_used.is_some());

    let leaf = sim.pins().leaf;
    let certificates = client.certificates_info().await.unwrap();
    let presented = |text: &str| text.replace(':', "").eq_ignore_ascii_case(&leaf);
    assert!(certificates.iter().any(|cert| cert.fingerprint.as_deref().is_some_and(presented)));
    assert!(certificates.iter().all(|cert| cert.notafter.is_some()));

    let resources = client.cluster_resources().await.unwrap();
    for kind in [ResourceKind::Qemu, ResourceKind::Lxc, ResourceKind::Node, ResourceKind::Storage] {
        assert!(resources.iter().any(|resource| resource.kind == kind), "{kind:?}");
    }
    for (kind, number, running) in
        [(GuestKind::Qemu, 100, RunState::Running), (GuestKind::Lxc, 201, RunState::Stopped)]
    {
        assert!(client.guests(kind).await.unwrap().iter().any(|guest| guest.vmid.get() == number));
        assert_eq!(client.guest_status(kind, vmid(number)).await.unwrap().status, running);
        let config = client.guest_config(kind, vmid(number)).await.unwrap();
        assert!(!config.digest.is_empty() && config.name().is_some() && !config.macs().is_empty());
        assert!(!config.volids().is_empty());
        assert_eq!(config.smbios_uuid().is_some(), kind == GuestKind::Qemu);
        assert!(client.feature_snapshot(kind, vmid(number)).await.unwrap());
    }
    let snapshots = client.snapshots(GuestKind::Qemu, vmid(101)).await.unwrap();
    assert_eq!(snapshots.get("before-upgrade").unwrap().description, "before the database upgrade");
    assert_eq!(snapshots.current.parent.as_deref(), Some("before-upgrade"));
    assert_eq!(mutations(&sim), 0);
}

#[tokio::test]
async fn snapshot_rollback_delete_on_both_kinds() {
    let sim = start().await;
    let client = actor(&sim);
    for (kind, number) in [(GuestKind::Qemu, 101), (GuestKind::Lxc, 200)] {
        let guest = vmid(number);
        let upid = client.snapshot_create(kind, guest, &name("writ-test"), "a=b; c&d ä").await.unwrap();
        assert_eq!(
            (upid.node(), upid.id(), upid.user()),
            ("pve1", number.to_string().as_str(), client.identity())
        );
        assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
        let list = client.snapshots(kind, guest).await.unwrap();
        let snapshot = list.get("writ-test").unwrap();
        assert_eq!((snapshot.description.as_str(), snapshot.vmstate), ("a=b; c&d ä", false));
        assert!(snapshot.snaptime.is_some());
        assert_eq!(list.current.parent.as_deref(), Some("writ-test"));

        let upid = client.snapshot_rollback(kind, guest, &name("writ-test"), false).await.unwrap();
        assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
        assert_eq!(client.guest_status(kind, guest).await.unwrap().status, RunState::Stopped);

        let upid = client.snapshot_delete(kind, guest, &name("writ-test")).await.unwrap();
        assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
        assert!(client.snapshots(kind, guest).await.unwrap().get("writ-test").is_none());

        let upid = client.start(kind, guest).await.unwrap();
        assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
        assert_eq!(client.guest_status(kind, guest).await.unwrap().status, RunState::Running);
    }
}

#[tokio::test]
async fn a_task_that_fails_says_why() {
    let sim = start().await;
    let client = actor(&sim);
    // A duplicate name is a 200 with a UPID; only the task knows.
    let upid = client.snapshot_create(GuestKind::Qemu, vmid(101), &name("before-upgrade"), "").await.unwrap();
    let TaskEnd::Failed { text, last_lines } = client.wait_task(&upid, LIMIT).await else { panic!("failed") };
    assert_eq!(text, "snapshot name 'before-upgrade' already used");
    assert!(last_lines.iter().any(|line| line.contains("TASK ERROR")), "{last_lines:?}");

    let upid = client.snapshot_rollback(GuestKind::Qemu, vmid(101), &name("nosuch"), false).await.unwrap();
    let TaskEnd::Failed { text, .. } = client.wait_task(&upid, LIMIT).await else { panic!("failed") };
    assert_eq!(classify_text(&text), ErrorClass::NotFound, "{text}");
}

#[tokio::test]
async fn warnings_are_success_and_a_killed_task_is_unknown() {
    let sim = start().await;
    let client = actor(&sim);
    let snapshot =
        async |text| client.snapshot_create(GuestKind::Qemu, vmid(100), &name(text), "").await.unwrap();

    order(&sim, "warn-next", json!({"task": "qmsnapshot", "count": 2})).await;
    let TaskEnd::Warnings { count, lines } = client.wait_task(&snapshot("warned").await, LIMIT).await else {
        panic!("warnings")
    };
    assert_eq!((count, lines.len()), (2, 2), "{lines:?}");
    assert!(client.snapshots(GuestKind::Qemu, vmid(100)).await.unwrap().get("warned").is_some());

    order(&sim, "fail-next", json!({"task": "qmsnapshot", "kill": true})).await;
    let TaskEnd::Unknown { why } = client.wait_task(&snapshot("killed").await, LIMIT).await else {
        panic!("unknown")
    };
    assert!(why.contains("unexpected status") && why.contains("lock"), "{why}");
}

#[tokio::test]
async fn a_lost_task_becomes_unknown_and_its_log_says_so() {
    let sim = start().await;
    let client = actor(&sim);
    let upid = client.start(GuestKind::Qemu, vmid(101)).await.unwrap();
    assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    assert_eq!(
        client.task_status(&upid).await.unwrap(),
        TaskStatus::Ended { exitstatus: Some("OK".to_owned()) }
    );
    assert!(client.task_log(&upid, 0, 0).await.unwrap().total >= 1);

    order(&sim, "lose-task", json!({"upid": upid.as_str()})).await;
    let error = client.task_status(&upid).await.unwrap_err();
    assert_eq!((error.class(), error.status()), (ErrorClass::NotFound, Some(400)));
    assert!(client.task_log(&upid, 0, 0).await.unwrap().lines[0].text.contains("unable to open file"));
    let TaskEnd::Unknown { why } = client.wait_task(&upid, LIMIT).await else { panic!("unknown") };
    assert!(why.contains("no such task"), "{why}");
}

#[tokio::test]
async fn time_over_is_not_failure_and_waiting_can_go_on() {
    let sim = start().await;
    let client = actor(&sim);
    order(&sim, "task-duration", json!({"ms": 1500})).await;
    let upid = client.start(GuestKind::Qemu, vmid(101)).await.unwrap();
    assert_eq!(client.wait_task(&upid, Duration::ZERO).await, TaskEnd::StillRunning { upid: upid.clone() });
    assert_eq!(client.task_status(&upid).await.unwrap(), TaskStatus::Running);
    let active =
        client.tasks(&TaskFilter { source: TaskSource::Active, ..TaskFilter::default() }).await.unwrap();
    assert!(active.iter().any(|task| task.upid == upid && task.is_running()));
    assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
}

#[tokio::test]
async fn a_dropped_answer_is_found_again_and_not_resent() {
    let sim = start().await;
    let client = actor(&sim);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    order(&sim, "drop-answer-next", json!({"method": "POST", "contains": "/snapshot"})).await;
    let error = client.snapshot_create(GuestKind::Qemu, vmid(100), &name("dropped"), "").await.unwrap_err();
    assert_eq!(
        (error.delivery(), error.class()),
        (Delivery::MaybeExecuted, ErrorClass::Ambiguous),
        "{error}"
    );
    assert_eq!(mutations(&sim), 1, "a mutation was sent again");

    let found = client.find_tasks(since, "qmsnapshot", vmid(100), client.identity()).await.unwrap();
    let [task] = found.as_slice() else { panic!("one task: {found:?}") };
    assert_eq!(client.wait_task(&task.upid, LIMIT).await, TaskEnd::Ok);
    assert!(client.snapshots(GuestKind::Qemu, vmid(100)).await.unwrap().get("dropped").is_some());
    for (kind, guest, user) in [
        ("qmrollback", 100, client.identity()),
        ("qmsnapshot", 101, client.identity()),
        ("qmsnapshot", 100, "writ@pve!report"),
    ] {
        assert!(client.find_tasks(since, kind, vmid(guest), user).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_dropped_read_is_simply_asked_again() {
    let sim = start().await;
    let client = reporter(&sim);
    order(&sim, "drop-answer-next", json!({"method": "GET", "contains": "/version"})).await;
    client.version().await.unwrap();
    assert_eq!(sim.requests().iter().filter(|request| request.path.ends_with("/version")).count(), 2);
}

#[tokio::test]
async fn compare_and_set_of_a_config() {
    let sim = start().await;
    let client = actor(&sim);
    for (kind, number) in [(GuestKind::Qemu, 101), (GuestKind::Lxc, 201)] {
        let before = client.guest_config(kind, vmid(number)).await.unwrap();
        let set = async |digest: &str| {
            let changes =
                BTreeMap::from([("description", "x=1;y&z\nä".to_owned()), ("protection", "1".to_owned())]);
            client.set_guest_config(kind, vmid(number), changes, digest).await
        };
        let error = set("0000000000000000000000000000000000000000").await.unwrap_err();
        assert_eq!(
            (error.class(), error.delivery()),
            (ErrorClass::DigestMismatch, Delivery::Answered),
            "{error}"
        );
        assert_eq!(client.guest_config(kind, vmid(number)).await.unwrap(), before);

        set(&before.digest).await.unwrap();
        let after = client.guest_config(kind, vmid(number)).await.unwrap();
        assert_eq!(after.get("description").unwrap().trim_end(), "x=1;y&z\nä");
        assert!(after.protection() && after.digest != before.digest);
        assert_eq!(set(&before.digest).await.unwrap_err().class(), ErrorClass::DigestMismatch);

        let remove = BTreeMap::from([("delete", "protection".to_owned())]);
        client.set_guest_config(kind, vmid(number), remove, &after.digest).await.unwrap();
        assert!(!client.guest_config(kind, vmid(number)).await.unwrap().protection());
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let sim = start().await;
    let client = reporter(&sim);
    let error = client.snapshot_create(GuestKind::Qemu, vmid(100), &name("nope"), "").await.unwrap_err();
    let lacks = ErrorClass::Permission { path: "/vms/100".to_owned(), privilege: "VM.Snapshot".to_owned() };
    assert_eq!((error.class(), error.delivery()), (lacks, Delivery::Answered), "{error}");

    let error = client.guest_config(GuestKind::Qemu, vmid(999)).await.unwrap_err();
    assert_eq!((error.class(), error.status()), (ErrorClass::NotFound, Some(500)), "{error}");
    // A container is no virtual machine.
    assert_eq!(
        client.guest_status(GuestKind::Qemu, vmid(200)).await.unwrap_err().class(),
        ErrorClass::NotFound
    );
    let elsewhere = client.clone().with_node("nosuch".parse().unwrap());
    assert!(!elsewhere.node_status().await.unwrap_err().to_string().is_empty());

    let foreign: Upid = "UPID:pve1:00000001:00000001:00000001:vzdump:200:root@pam:".parse().unwrap();
    assert_eq!(client.task_status(&foreign).await.unwrap_err().class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn one_bad_token_costs_one_request() {
    let sim = start().await;
    let client = client(&sim, "writ@pve!report=00000000-0000-4000-8000-000000000000");
    assert_eq!(client.version().await.unwrap_err().class(), ErrorClass::Auth);
    for _ in 0..5 {
        let error = client.nodes().await.unwrap_err();
        assert_eq!((error.class(), error.delivery()), (ErrorClass::Auth, Delivery::NotSent));
    }
    assert_eq!(sim.requests().len(), 1);
}
