//! What people read.

use super::*;
use crate::prepare::prepare_for_host;
use crate::prepare::{Circumstances, SnapshotWish, Wish, of_report, prepare};
use crate::testing::session as session_params;
use crate::testing::{NOW, believed, done, ended, guest, job, policy, receipt, report, with};
use authz::Event;
use protocol::Nonce;

#[test]
fn a_typed_order_shows_everything_that_is_signed() {
    let with = Circumstances {
        nonce: Nonce::from_bytes([7; 16]),
        now: NOW,
        valid_s: 600,
        reason: "undo the update".parse().unwrap(),
        ticket: Some("OPS-118".parse().unwrap()),
    };
    let vmid = 101.try_into().unwrap();
    let wish = SnapshotWish::Rollback { snapshot: "before-update".parse().unwrap(), start: false };
    let world = of_report(&report(vec![guest(101)]), Some(vmid));
    let made = prepare(&believed(1, "web1"), &policy(), &world, &Wish::Snapshot(vmid, wish), with).unwrap();
    let op = Sha256::of(&made.encode());
    let text = order(&made, &op);
    for says in [
        "Order snapshot.rollback (DESTRUCTIVE)",
        "web1",
        "qemu 101 'db'",
        "everything since is LOST",
        "not started afterwards",
        "UUID 11111111-2222-3333-4444-555555555555",
        "MAC BC:24:11:00:00:01",
        "local-lvm:vm-101-disk-0",
        "the guest is stopped",
        "parent 'first'",
        "2026-11-22 05:03:58Z to 2026-11-22 05:13:58Z, 600 s (10 min)",
        "undo the update",
        "OPS-118",
        &op.to_string(),
        &made.nonce.to_string(),
        &made.policy.sha256.to_string(),
        &made.host.key.to_string(),
    ] {
        assert!(text.contains(says), "{says:?} is missing in\n{text}");
    }
}

#[test]
fn a_started_step_is_a_row() {
    let event = Event::StepStarted {
        generation: 4,
        kind: "guest.start".into(),
        vmid: Some(101.try_into().unwrap()),
        what: "start qemu 101".parse().unwrap(),
        effect: None,
    };
    let host = believed(1, "web1");
    let signed = receipt(1, Some((3, Sha256::of(b"before"))), event);
    let row = receipt_row(&Receipt::verify(&signed, host.id(), &host.key).unwrap());
    assert_eq!([&row[0], &row[2], &row[3]], ["3", "step of generation 4: start qemu 101", "started"]);
}

#[test]
fn scripts_and_sessions_show_everything_that_is_signed() {
    let host = believed(1, "web1");
    let mut params = job();
    params.args = vec!["--all".parse().unwrap(), "two words".parse().unwrap()];
    params.env = vec![authz::order::EnvVar { name: "A".parse().unwrap(), value: "b c".parse().unwrap() }];
    let made = prepare_for_host(&host, &policy(), Params::JobRun(params.clone()), with()).unwrap();
    assert_eq!(about(&made), "job.run as root");
    let text = order(&made, &Sha256::of(b"op"));
    for says in [
        "Order job.run (DESTRUCTIVE)",
        "run a script as root, once",
        "14 bytes",
        &params.script.to_string(),
        "read by /bin/sh",
        "\"--all\"",
        "\"two words\"",
        "A=\"b c\"",
        "killed after 60 s; 1000 bytes of output kept",
        &params.result_key.fingerprint().to_string(),
    ] {
        assert!(text.contains(says), "{says:?} is missing in\n{text}");
    }
    assert!(!text.contains("guest"), "{text}");
    let made = prepare_for_host(&host, &policy(), Params::SessionOpen(session_params()), with()).unwrap();
    assert_eq!(about(&made), "session.open as www-data");
    let text = order(&made, &Sha256::of(b"op"));
    for says in [
        "open an SSH session as www-data: shell, commands and sftp",
        "forward to  127.0.0.1:8006",
        "ends after 600 s (10 min) idle, and after 28800 s (8 h) in any case",
        &session_params().key.fingerprint().to_string(),
    ] {
        assert!(text.contains(says), "{says:?} is missing in\n{text}");
    }
    let ready = Event::SessionReady { op: Sha256::of(b"op"), host_key: session_params().key };
    let signed = receipt(1, None, ready);
    let row = receipt_row(&Receipt::verify(&signed, host.id(), &host.key).unwrap());
    assert!(row[2].contains("session.open") && row[3].contains("SHA256:"), "{row:?}");
    let ran = Outcome::Ran { result: Sha256::of(b"r"), size: 300, duration_ms: 1_250 };
    assert_eq!(outcome(&ran), "the script ran for 1.2 s; its result (300 bytes) is sealed");
}

#[test]
fn a_hosts_words_cannot_move_the_cursor() {
    let evil = "UPID\u{1b}[2K\u{202e}\n";
    let ended_badly = Outcome::Failed { upid: Some(evil.into()), why: "x".parse().unwrap() };
    assert!(!outcome(&ended_badly).contains(['\u{1b}', '\u{202e}']));
    let believed = believed(1, "web1");
    let signed = receipt(1, None, ended(Sha256::of(b"o"), done()));
    let row = receipt_row(&Receipt::verify(&signed, believed.id(), &believed.key).unwrap());
    assert_eq!(row[0], "-");
    assert!(row[3].starts_with("done: "));
}
