//! Certificates, tokens, and waiting through trouble.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use proxmox_client::{Delivery, ErrorClass, Pin, PinDir, PinSet, RunState, TaskEnd};
use pve_sim::world::{FaultRule, Mishap, NewCertificate, Release};

use crate::bench::{Bench, LIMIT, Notes, QEMU, client, hurried, snap, spki, vmid};

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::new(release).await;
    pins(&b).await;
    renewed(&b).await;
    copied_by_root(&b).await;
    tokens(&b).await;
    through_trouble(&b).await;
    b.into_notes()
}

fn pin(text: &str) -> PinSet {
    PinSet::new(vec![text.parse::<Pin>().unwrap()]).unwrap()
}

async fn pins(b: &Bench) {
    let (pins, token) = (b.sim.pins(), b.sim.tokens().0);
    for good in [format!("leaf:{}", pins.leaf), format!("spki:{}", pins.spki), format!("ca:{}", pins.ca)] {
        client(&b.sim, &token, pin(&good)).version().await.unwrap();
    }
    let before = b.sim.requests().len();
    for bad in [format!("leaf:{}", pins.spki), format!("spki:{}", pins.ca), format!("ca:{}", pins.leaf)] {
        let error = client(&b.sim, &token, pin(&bad)).version().await.unwrap_err();
        assert_eq!((error.class(), error.delivery()), (ErrorClass::Untrusted, Delivery::NotSent));
        assert!(error.to_string().contains(&pins.leaf) && error.to_string().contains(&pins.spki), "{error}");
    }
    assert_eq!(b.sim.requests().len(), before, "nothing is sent to a stranger");
}

/// The same key again: whoever pins the key goes on and can tell; whoever pins the leaf cannot.
async fn renewed(b: &Bench) {
    let token = b.sim.tokens().1;
    let by_key = client(&b.sim, &token, spki(&b.sim));
    let by_leaf = client(&b.sim, &token, pin(&format!("leaf:{}", b.sim.pins().leaf)));
    let by_ca = client(&b.sim, &token, pin(&format!("ca:{}", b.sim.pins().ca)));
    for one in [&by_key, &by_leaf, &by_ca] {
        one.version().await.unwrap();
    }
    let old = by_key.presented().unwrap();
    b.mishap(Mishap::Certificate { new: NewCertificate::SameKey });
    // The old connections end with their next request.
    for one in [&by_key, &by_ca] {
        one.version().await.unwrap();
        one.version().await.unwrap();
        assert_eq!(one.presented().unwrap().leaf.to_string(), format!("leaf:{}", b.sim.pins().leaf));
    }
    let new = by_key.presented().unwrap();
    assert!(new.leaf != old.leaf && new.spki == old.spki);
    let upid = by_key.start(QEMU, vmid(101)).await.unwrap();
    assert_eq!(by_key.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    let before = b.mutations();
    let error = by_leaf.stop(QEMU, vmid(101)).await.unwrap_err();
    assert_eq!((error.class(), error.delivery()), (ErrorClass::Untrusted, Delivery::NotSent));
    assert_eq!(b.mutations(), before);

    b.mishap(Mishap::Certificate { new: NewCertificate::NewKey });
    let error = by_key.stop(QEMU, vmid(101)).await.unwrap_err();
    assert_eq!((error.class(), error.delivery()), (ErrorClass::Untrusted, Delivery::NotSent));
    let upid = by_ca.stop(QEMU, vmid(101)).await.unwrap();
    assert_eq!(by_ca.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    b.mishap(Mishap::Certificate { new: NewCertificate::NewCa });
    let error = by_ca.stop(QEMU, vmid(101)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Untrusted);
    assert_eq!(b.mutations(), before + 1);
}

/// Root's copy of the new leaf lets a client that pins the old one go on.
async fn copied_by_root(b: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let chmod = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod(directory.path(), 0o755);
    let write = |leaf: &str| {
        let path = directory.path().join("pve-ssl.sha256");
        std::fs::write(&path, leaf).unwrap();
        chmod(&path, 0o644);
    };
    write(&b.sim.pins().leaf);
    let pins = pin(&format!("leaf:{}", b.sim.pins().leaf)).with_root_copy(PinDir::new(directory.path()));
    let token = b.sim.tokens().1;
    let client = client(&b.sim, &token, pins);
    client.version().await.unwrap();
    b.mishap(Mishap::Certificate { new: NewCertificate::NewKey });
    let error = client.start(QEMU, vmid(101)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Untrusted, "root has not said so yet");
    write(&b.sim.pins().leaf);
    let upid = client.start(QEMU, vmid(101)).await.unwrap();
    assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    let shown = client.presented().unwrap();
    assert_eq!(shown.leaf.to_string(), format!("leaf:{}", b.sim.pins().leaf));
    let upid = client.stop(QEMU, vmid(101)).await.unwrap();
    assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
}

async fn tokens(b: &Bench) {
    for token in [
        "writ@pve!report=00000000-0000-4000-8000-000000000000".to_owned(),
        "writ@pve!nosuch=00000000-0000-4000-8000-000000000000".to_owned(),
        b.sim.token("writ@pve!expired"),
    ] {
        let client = client(&b.sim, &token, spki(&b.sim));
        let before = b.sim.requests().len();
        let error = client.version().await.unwrap_err();
        assert_eq!((error.class(), error.delivery()), (ErrorClass::Auth, Delivery::Answered));
        assert_eq!(client.nodes().await.unwrap_err().delivery(), Delivery::NotSent);
        assert_eq!(b.sim.requests().len() - before, 1);
    }
    // Nothing granted: lists are empty, single things are refused before they are looked for.
    let blind = client(&b.sim, &b.sim.token("writ@pve!noacl"), spki(&b.sim));
    assert!(blind.guests(QEMU).await.unwrap().is_empty());
    assert!(blind.storage_list().await.unwrap().is_empty());
    assert!(blind.permissions().await.unwrap().is_empty());
    for number in [100, 999] {
        let error = blind.guest_status(QEMU, vmid(number)).await.unwrap_err();
        let lacks =
            ErrorClass::Permission { path: format!("/vms/{number}"), privilege: "VM.Audit".to_owned() };
        assert_eq!(error.class(), lacks);
    }
}

/// Waiting goes on while daemons restart, the proxy stumbles, the door is shut for a moment and the
/// token is refused once.
async fn through_trouble(b: &Bench) {
    let act = client(&b.sim, &b.sim.tokens().1, spki(&b.sim));
    let guest = vmid(100);
    b.world(|w| w.task_duration = Duration::from_millis(120));
    for (name, trouble) in [
        ("m595", vec![Mishap::Proxy { status: 595, reason: None, later_ms: 0 }]),
        ("m596", vec![Mishap::Proxy { status: 596, reason: None, later_ms: 0 }]),
        ("m599", vec![Mishap::Proxy { status: 599, reason: None, later_ms: 0 }]),
        ("reset", vec![Mishap::Reset { handled: false }, Mishap::Reset { handled: true }]),
        ("m500", vec![Mishap::Error { text: "got timeout".to_owned() }]),
        ("json", vec![Mishap::BadJson { text: None }]),
        ("nodata", vec![Mishap::NoData {}]),
        ("m401", vec![Mishap::Unauthorized { reason: None }]),
    ] {
        let upid = act.snapshot_create(QEMU, guest, &snap(name), "").await.unwrap();
        for mishap in trouble {
            b.fault(FaultRule::new(mishap).method("GET").contains("/status").times(2));
        }
        let end = hurried(act.wait_task(&upid, Duration::from_secs(120))).await;
        assert_eq!(end, TaskEnd::Ok, "{name}");
        b.sim.clear_faults();
        assert!(b.world(|w| w.guests[&100].snapshots.contains_key(name)), "{name}");
    }
    // The daemon restarts: its workers are interrupted, and what came of it is asked once it is back.
    b.world(|w| w.task_duration = Duration::from_secs(3600));
    let upid = act.stop(QEMU, guest).await.unwrap();
    b.mishap(Mishap::DaemonRestart { ms: 0, requests: 5 });
    let end = hurried(act.wait_task(&upid, Duration::from_secs(120))).await;
    assert!(matches!(&end, TaskEnd::Failed { text, .. } if text.contains("interrupt")), "{end:?}");
    let begun = act.guest_status(QEMU, guest).await.unwrap().status;
    assert_eq!(begun == RunState::Running, b.runs(100), "the guest itself is looked at");
    // A door that opens again.
    let upid = act.start(QEMU, vmid(102)).await.unwrap();
    b.mishap(Mishap::Refuse { ms: 3_600_000 });
    let open = async {
        tokio::task::yield_now().await;
        b.sim.listen_again().await;
        b.world(|w| w.tasks.all.last_mut().unwrap().due = Duration::ZERO);
    };
    let (end, ()) = tokio::join!(hurried(act.wait_task(&upid, Duration::from_secs(110))), open);
    assert_eq!(end, TaskEnd::Ok);
    b.world(|w| w.task_duration = Duration::ZERO);
}
