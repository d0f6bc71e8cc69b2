//! Paths, and the recorded refusals sorted.

use serde::Deserialize;

use super::*;
use crate::wire::classify::ErrorClass;
use crate::wire::error::Delivery;

#[test]
fn segments_are_encoded_once() {
    let upid = "UPID:pve1:0000025C:0002E5E8:6B025E8B:download:a%3Ab.iso:tester@pve!full:";
    assert_eq!(
        encode_path(&["nodes", "pve1", "tasks", upid, "status"]).unwrap(),
        "/nodes/pve1/tasks/UPID%3Apve1%3A0000025C%3A0002E5E8%3A6B025E8B%3Adownload%3Aa%253Ab.iso%3Atester%40pve%21full%3A/status"
    );
    assert_eq!(encode_path(&["a/b?c#d", "ä"]).unwrap(), "/a%2Fb%3Fc%23d/%C3%A4");
}

#[test]
fn segments_that_would_change_the_path_are_refused() {
    for bad in ["", ".", ".."] {
        assert!(encode_path(&["nodes", "pve1", "qemu", "100", "snapshot", bad]).is_err(), "{bad:?}");
    }
    // And what is let through really stays one segment.
    let endpoint: Endpoint = "https://pve1:8006".parse().unwrap();
    let url = endpoint.api(&encode_path(&["qemu", "100", "snapshot", "%2e%2e", "...", "..;"]).unwrap());
    assert_eq!(url.path(), "/api2/json/qemu/100/snapshot/%252e%252e/.../..%3B");
}

#[derive(Deserialize)]
struct Recorded {
    name: String,
    status: u16,
    reason: String,
    body: String,
}

fn recorded() -> Vec<(String, ApiError)> {
    let all: Vec<Recorded> =
        serde_json::from_str(include_str!("../../../tests/fixtures/errors.json")).unwrap();
    all.into_iter()
        .map(|r| {
            let answer = error_answer(r.status, Some(r.reason), r.body.as_bytes());
            (r.name, error("GET", Failure::Answer(answer)))
        })
        .collect()
}

fn error(method: &str, failure: Failure) -> ApiError {
    ApiError::new(method, "/x", &"https://pve1:8006".into(), &"tester@pve!full".into(), failure)
}

fn expected(name: &str) -> ErrorClass {
    let lacks = |path: &str, privilege: &str| ErrorClass::Permission {
        path: path.into(),
        privilege: privilege.into(),
    };
    match name {
        "unknown-token-9"
        | "ticket-login-bad-9"
        | "ticket-post-no-csrf-9"
        | "no-auth-8"
        | "bad-token-secret-8"
        | "unknown-token-8"
        | "unknown-realm-token-8"
        | "expired-token-8" => ErrorClass::Auth,
        "node-status-403-9" => lacks("/nodes/pve1", "Sys.Audit"),
        "node-status-403-8" => lacks("/nodes/pve8", "Sys.Audit"),
        "lxc-unknown-none-token-9" => lacks("/vms/999", "VM.Audit"),
        "lxc-known-none-token-9" => lacks("/vms/200", "VM.Audit"),
        "snap-create-403-9" => lacks("/vms/200", "VM.Snapshot"),
        "snap-rollback-403-9" => lacks("/vms/200", "VM.Snapshot|VM.Snapshot.Rollback"),
        "content-none-9" => lacks("/storage/local", "Datastore.Audit|Datastore.AllocateSpace"),
        "vzdump-403-ro-9" => lacks("/storage/local", "Datastore.AllocateSpace"),
        "vzdump-bk-bwlimit-9" => lacks("/", "Sys.Modify"),
        "privsep-token-acl-but-user-has-none-config-9" => lacks("/vms/100", "VM.Audit"),
        "qemu-snap-403-8" => lacks("/vms/100", "VM.Snapshot"),
        "qemu-config-put-403-9" => lacks(
            "/vms/100",
            "VM.Config.Disk|VM.Config.CDROM|VM.Config.CPU|VM.Config.Memory|VM.Config.Network|VM.Config.HWType|VM.Config.Options|VM.Config.Cloudinit",
        ),
        "qemu-config-put-lock-9" => lacks("", "only root can set 'lock' config"),
        "unknown-path-9" | "unknown-path-nested-9" => ErrorClass::NoSuchMethod,
        "unknown-node-9"
        | "unknown-node-8"
        | "lxc-unknown-config-9"
        | "lxc-unknown-8"
        | "qemu-unknown-config-9"
        | "qemu-unknown-8"
        | "qemu-ct-as-vm-9"
        | "qemu-destroy-unknown-9"
        | "qemu-migrate-9"
        | "content-unknown-storage-9"
        | "task-status-unknown-9" => ErrorClass::NotFound,
        "locked-destroy-9" | "locked-config-put-8" => ErrorClass::Locked { by: "backup".into() },
        "pvedaemon-down-get-9" => ErrorClass::NodeUnreachable,
        "lxc-bad-vmid-9"
        | "lxc-bad-vmid-99-9"
        | "snap-create-bad-name-9"
        | "snap-create-unknown-param-9"
        | "config-lock-clear-skiplock-9"
        | "content-bad-type-9"
        | "vzdump-bad-mode-9"
        | "vzdump-no-vmid-9"
        | "ticket-login-missing-9"
        | "bool-bad-9"
        | "resources-bad-type-9"
        | "multi-errors-9"
        | "qemu-snap-raw-9"
        | "vzdump-script-9"
        | "snapname-41-chars-9"
        | "snapname-40-chars-1char-9"
        | "snapname-dot-9"
        | "get-full-true-9"
        | "qemu-snap-bad-8"
        | "lxc-snap-bad-8" => ErrorClass::Parameter,
        "lxc-create-duplicate-9"
        | "snap-create-current-9"
        | "qemu-destroy-running-9"
        | "qemu-agent-ping-none-9"
        | "qemu-reboot-stopped-9"
        | "longtask-destroy-conflict-9"
        | "qemu-restore-existing-noforce-9"
        | "qemu-destroy-protected-9"
        | "lxc-start-running-9"
        | "lxc-destroy-running-9"
        | "lxc-stop-9"
        | "lxc-restore-force-9"
        | "storage-inactive-content-9"
        | "storage-disabled-content-9"
        | "body-too-large-9" => ErrorClass::Other,
        other => panic!("a recorded refusal without an expectation: {other}"),
    }
}

#[test]
fn recorded_refusals_are_sorted() {
    for (name, error) in recorded() {
        assert_eq!(error.class(), expected(&name), "{name}: {error}");
        let delivery = if error.status() == Some(595) { Delivery::NotSent } else { Delivery::Answered };
        assert_eq!(error.delivery(), delivery, "{name}");
        let text = error.to_string();
        assert!(!text.contains('\n') && text.starts_with("GET /x: ") && text.len() < 1200, "{name}: {text}");
    }
}

#[test]
fn sentences_name_the_remedy() {
    let all = recorded();
    let text = |name: &str| all.iter().find(|(n, _)| n == name).unwrap().1.to_string();
    assert!(text("expired-token-8").contains("pveum user token list tester@pve"));
    assert!(text("snap-create-403-9").contains("lacks VM.Snapshot on /vms/200"));
    assert!(text("lxc-unknown-config-9").contains("nodes/pve1/lxc/999.conf"));
    assert!(text("locked-destroy-9").contains("pct unlock"));
    assert!(text("pvedaemon-down-get-9").contains("systemctl status pvedaemon"));
    let multi = all.iter().find(|(n, _)| n == "multi-errors-9").unwrap();
    assert!(multi.1.errors().unwrap().len() >= 4);
    assert!(multi.1.to_string().contains("memory: type check ('integer') failed"));
}

#[test]
fn without_a_body_the_reason_phrase_is_the_text() {
    let old = error_answer(500, Some("VM is locked (backup)".into()), b"");
    assert_eq!(error("POST", Failure::Answer(old)).class(), ErrorClass::Locked { by: "backup".into() });
    let hostile = error_answer(500, None, b"\xff\x1b[31m{\"data\":");
    let shown = error("POST", Failure::Answer(hostile)).to_string();
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn no_sentence_sends_anybody_to_a_manual_for_programmers() {
    let text =
        "peer closed connection: https://docs.rs/rustls/latest/rustls/manual/index.html#unexpected-eof";
    assert_eq!(without_link(text), "peer closed connection");
    assert_eq!(without_link("connection reset"), "connection reset");
}

#[test]
fn delivery_of_every_failure() {
    let cause = || String::from("x");
    for (failure, delivery) in [
        (Failure::Paused { reason: None, seconds: 3 }, Delivery::NotSent),
        (Failure::Tls { cause: cause() }, Delivery::NotSent),
        (Failure::Connect { cause: cause() }, Delivery::NotSent),
        (Failure::ConnectTimeout, Delivery::NotSent),
        (Failure::Invalid { why: cause() }, Delivery::NotSent),
        (Failure::Timeout, Delivery::MaybeExecuted),
        (Failure::Interrupted { cause: cause() }, Delivery::MaybeExecuted),
        (Failure::TooLarge { what: "is larger than 1 byte".to_owned() }, Delivery::MaybeExecuted),
        (Failure::BadAnswer { why: cause() }, Delivery::MaybeExecuted),
        (Failure::Answer(error_answer(595, None, b"")), Delivery::NotSent),
        (Failure::Answer(error_answer(596, None, b"")), Delivery::MaybeExecuted),
        (Failure::Answer(error_answer(504, None, b"")), Delivery::MaybeExecuted),
        (Failure::Answer(error_answer(408, None, b"")), Delivery::MaybeExecuted),
        (Failure::Answer(error_answer(520, None, b"")), Delivery::MaybeExecuted),
        (Failure::Answer(error_answer(530, None, b"")), Delivery::MaybeExecuted),
        (Failure::Answer(error_answer(409, None, b"")), Delivery::Answered),
        (Failure::Answer(error_answer(501, None, b"")), Delivery::Answered),
        (Failure::Answer(error_answer(500, None, b"")), Delivery::Answered),
    ] {
        let error = error("POST", failure);
        assert_eq!(error.delivery(), delivery, "{error}");
    }
}

#[test]
fn envelopes() {
    assert_eq!(envelope(br#"{"data":null}"#, MAX_BODY).unwrap().value, Value::Null);
    assert_eq!(envelope(br#"{"data":[],"total":"7"}"#, MAX_BODY).unwrap().total, Some(7));
    for bad in [&b""[..], b"[]", b"{}", b"null", b"<html>", b"{\"data\":1} x", b"{\"data\":\"\xff\"}"] {
        assert!(matches!(envelope(bad, MAX_BODY), Err(Failure::BadAnswer { .. })));
    }
}
