//! The orders that this crate's tests share, the golden orders, and the hostile tables.

use protocol::{Ed25519Key, GuestIdentity, GuestKind, RunState, SnapshotRef, Vmid};

use super::*;
use crate::policy::tests::policy;

mod golden;
mod hostile;
mod limits;
mod rules;

pub(crate) const NOW: u64 = 1_763_770_000;
pub(crate) const HOST_KEY: [u8; 32] = [0x4b; 32];

/// A complete rollback order for the shared policy and host.
pub(crate) fn rollback() -> Order {
    let policy = policy();
    Order {
        params: Params::SnapshotRollback(RollbackParams { start: false }),
        host: HostRef {
            id: HostId::from_bytes([0x11; 16]),
            key: Fingerprint::of_key_blob(&HOST_KEY),
            generation: 1,
            cluster: None,
            name: "web1".parse().unwrap(),
        },
        guest: Some(GuestRef {
            vmid: Vmid::try_from(101).unwrap(),
            kind: GuestKind::Qemu,
            name: "db".into(),
            identity: GuestIdentity {
                smbios_uuid: Some("0d6e5c1c-8a5b-4e57-9f3b-111111111111".into()),
                vmgenid: Some("7f2f0c34-3c55-44a5-9d0f-222222222222".into()),
                meta_ctime: Some(1_753_001_234),
                macs: vec!["BC:24:11:00:00:01".into()],
                volids: vec!["local-lvm:vm-101-disk-0".into()],
                giid: None,
            },
        }),
        pre: Preconditions {
            state: Some(RunState::Stopped),
            digest: Some("0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
            snapshot: Some(SnapshotRef {
                name: "before".parse().unwrap(),
                time: 1_763_700_000,
                parent: None,
            }),
            ..Preconditions::default()
        },
        plan: None,
        nonce: Nonce::from_bytes([0x22; 16]),
        nbf: NOW - 10,
        exp: NOW + 600,
        after: None,
        policy: PolicyRef { version: policy.version(), sha256: *policy.hash() },
        min_signers: 1,
        reason: "test".parse().unwrap(),
        ticket: None,
    }
}

/// A complete order to start the same guest.
pub(crate) fn start_order() -> Order {
    let pre = Preconditions { snapshot: None, ..rollback().pre };
    Order { params: Params::GuestStart(NoParams {}), pre, ..rollback() }
}

/// A complete script order.
pub(crate) fn job() -> Order {
    let params = JobParams {
        script: Sha256::of(b"uptime\n"),
        script_len: 7,
        interpreter: "/bin/sh".parse().unwrap(),
        args: vec!["--all".parse().unwrap()],
        user: "root".parse().unwrap(),
        env: vec![EnvVar { name: "LANG".parse().unwrap(), value: "C".parse().unwrap() }],
        timeout_s: 60,
        max_output: 65536,
        result_key: Ed25519Key::from_bytes([0x77; 32]),
    };
    Order {
        params: Params::JobRun(params),
        guest: None,
        pre: Preconditions::default(),
        exp: NOW + 120,
        ..rollback()
    }
}

/// A complete session order.
pub(crate) fn session() -> Order {
    let params = SessionParams {
        key: Ed25519Key::from_bytes([0x78; 32]),
        user: "root".parse().unwrap(),
        mode: SessionMode::Full {},
        forwards: vec!["127.0.0.1:8006".parse().unwrap()],
        idle_s: 600,
        max_s: 3600,
    };
    Order { params: Params::SessionOpen(params), ..job() }
}

/// Numbers and lists outside their limits, and guests where none belongs.
#[test]
fn scripts_and_sessions_have_limits() {
    type Change = (&'static str, fn(&mut Order));
    fn job_of(order: &mut Order) -> &mut JobParams {
        match &mut order.params {
            Params::JobRun(params) => params,
            _ => unreachable!("a script"),
        }
    }
    fn session_of(order: &mut Order) -> &mut SessionParams {
        match &mut order.params {
            Params::SessionOpen(params) => params,
            _ => unreachable!("a session"),
        }
    }
    let jobs: [Change; 8] = [
        ("no script", |o| job_of(o).script_len = 0),
        ("huge script", |o| job_of(o).script_len = 262_145),
        ("no time", |o| job_of(o).timeout_s = 0),
        ("two days", |o| job_of(o).timeout_s = 172_800),
        ("output", |o| job_of(o).max_output = 2_097_153),
        ("arguments", |o| job_of(o).args = vec![SafeText::default(); 65]),
        ("twice the same variable", |o| {
            let again = job_of(o).env.clone();
            job_of(o).env.extend(again);
        }),
        ("a guest", |o| o.guest = rollback().guest),
    ];
    let sessions: [Change; 8] = [
        ("idle 0", |o| session_of(o).idle_s = 0),
        ("idle two days", |o| session_of(o).idle_s = 172_800),
        ("max 0", |o| session_of(o).max_s = 0),
        ("forwards only, to nowhere", |o| {
            (session_of(o).mode, session_of(o).forwards) = (SessionMode::Forward {}, vec![]);
        }),
        ("no command", |o| session_of(o).mode = SessionMode::Exec { command: " ".parse().unwrap() }),
        ("the same forward twice", |o| {
            session_of(o).forwards = vec!["a:1".parse().unwrap(), "a:1".parse().unwrap()];
        }),
        ("a guest's state", |o| o.pre.state = Some(RunState::Running)),
        ("a guest", |o| o.guest = rollback().guest),
    ];
    for (base, changes) in [(job(), &jobs), (session(), &sessions)] {
        assert_eq!(Order::decode(&base.encode()).unwrap(), base);
        for (what, change) in changes {
            let mut order = base.clone();
            change(&mut order);
            assert!(Order::decode(&order.encode()).is_err(), "{what}");
        }
    }
    let text = String::from_utf8(session().encode()).unwrap();
    for (from, to) in [
        ("\"user\":\"root\"", "\"user\":\"-oProxyCommand=x\""),
        ("127.0.0.1:8006", "*:*"),
        ("{\"allow\":\"full\"}", "{\"allow\":\"everything\"}"),
        ("{\"allow\":\"full\"}", "{\"allow\":\"full\",\"agent\":true}"),
        ("\"idle_s\":600", "\"idle_s\":6e2"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Order::decode(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
    }
    let guestless = Order { guest: None, ..rollback() };
    assert!(matches!(
        Order::decode(&guestless.encode()),
        Err(OrderError::Precondition { missing: "guest", .. })
    ));
}

#[test]
fn the_closed_list_is_the_designs() {
    assert_eq!(Kind::ALL.len(), 38);
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse::<Kind>().unwrap(), *kind);
        assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{kind}\""));
        if kind.class() == Class::Benign {
            assert_eq!(kind.binding(), Binding::None);
        }
    }
    assert!(matches!("vm.explode".parse::<Kind>(), Err(OrderError::NoSuchKind(_))));
    let known = String::from_utf8(rollback().encode()).unwrap();
    for (name, how) in [("policy.update", "writ policy apply"), ("key.revoke", "writ policy revoke")] {
        let document = known.replace("snapshot.rollback", name);
        let error = Order::decode(document.as_bytes()).unwrap_err();
        assert!(matches!(error, OrderError::NotAnOrder { .. }), "{name}: {error}");
        assert!(error.to_string().contains(how), "{error}");
    }
}

/// Every spelling of the same order but one is refused, and so is everything that is no order.
#[test]
fn hostile_payloads_are_refused() {
    let good = String::from_utf8(rollback().encode()).unwrap();
    let swap = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let cases = [
        ("duplicate key", swap("\"nbf\":", "\"nbf\":1,\"nbf\":")),
        ("unknown field", swap("\"nbf\":", "\"sudo\":true,\"nbf\":")),
        ("unknown field in params", swap("{\"start\":false}", "{\"start\":false,\"force\":true}")),
        ("unknown field in guest", swap("\"vmid\":101", "\"vmid\":101,\"x\":1")),
        ("params of another kind", swap("{\"start\":false}", "{\"snapshot\":\"s1\"}")),
        ("kind of other params", swap("snapshot.rollback", "snapshot.create")),
        ("unknown kind", swap("snapshot.rollback", "snapshot.explode")),
        ("missing field", swap("\"min_signers\":1,", "")),
        ("wrong type", swap("\"min_signers\":1", "\"min_signers\":\"1\"")),
        ("float", swap("\"min_signers\":1", "\"min_signers\":1.0")),
        ("exponent", swap("\"min_signers\":1", "\"min_signers\":1e0")),
        ("negative", swap("\"min_signers\":1", "\"min_signers\":-1")),
        ("above 2^53", swap("\"exp\":1763770600", "\"exp\":9007199254740993")),
        ("2^64", swap("\"exp\":1763770600", "\"exp\":18446744073709551616")),
        ("version 0", swap("{\"v\":1", "{\"v\":0")),
        ("version 2", swap("{\"v\":1", "{\"v\":2")),
        ("space", swap("{\"v\":1", "{ \"v\":1")),
        ("space in params", swap("{\"start\":false}", "{\"start\": false}")),
        (
            "key order",
            swap("\"ticket\":null", "\"ticket\":null").replacen(
                "\"nbf\":1763769990,\"exp\":1763770600",
                "\"exp\":1763770600,\"nbf\":1763769990",
                1,
            ),
        ),
        ("needless escape", swap("\"test\"", "\"\\u0074est\"")),
        ("bidi", swap("\"test\"", "\"te\u{202e}st\"")),
        ("zero width", swap("\"test\"", "\"te\u{200b}st\"")),
        ("control", swap("\"test\"", "\"te\\u001bst\"")),
        ("lone surrogate", swap("\"test\"", "\"\\ud800\"")),
        ("long text", swap("\"test\"", &format!("\"{}\"", "x".repeat(513)))),
        ("short nonce", swap(&"22".repeat(16), &"22".repeat(15))),
        ("upper-case nonce", swap(&"22".repeat(16), &"AA".repeat(16))),
        ("BOM", format!("\u{feff}{good}")),
        ("trailing bytes", format!("{good} ")),
        ("no newline", good.trim_end().to_owned()),
        ("two objects", format!("{good}{good}")),
        ("empty", String::new()),
        ("null", "null\n".into()),
        ("depth", format!("{}\n", "[".repeat(200_000))),
        ("a megabyte of string", format!("{{\"v\":\"{}\"}}\n", "x".repeat(1 << 20))),
        ("no snapshot named", swap("{\"name\":\"before\",\"time\":1763700000,\"parent\":null}", "null")),
        ("no digest", swap("\"0123456789abcdef0123456789abcdef01234567\"", "null")),
        ("no state", swap("\"stopped\"", "null")),
        ("unknown state", swap("\"stopped\"", "\"unknown\"")),
        ("instance id", swap("\"giid\":null", "\"giid\":\"x\"")),
    ];
    for (what, bad) in cases {
        assert!(bad == good || Order::decode(bad.as_bytes()).is_err(), "{what} was accepted");
        assert!(bad != good, "{what}: the case changes nothing");
    }
    for at in 0..good.len() {
        assert!(Order::decode(&good.as_bytes()[..at]).is_err(), "cut at {at}");
    }
    assert!(Order::decode(b"\xff\xfe").is_err());
}

#[test]
fn a_guest_without_identity_cannot_be_ordered_about() {
    let mut order = rollback();
    order.guest.as_mut().unwrap().identity = GuestIdentity::default();
    assert!(matches!(Order::decode(&order.encode()), Err(OrderError::Precondition { .. })));
}
