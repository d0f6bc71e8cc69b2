//! `kill -9` at every durable point. The service is held there, killed and started again; then what it says, what
//! ran, and what the same order means afterwards must fit.

use protocol::privileged::{PrivilegedAnswer, PrivilegedRequest};

use crate::rig::{Process, Rig, code};

struct Crashed {
    rig: Rig,
    ask: PrivilegedRequest,
    op: protocol::Sha256,
    _process: Process,
}

async fn crashed(point: &str) -> Crashed {
    let (rig, process) = Rig::anchored().await;
    drop(process);
    let mut held = rig.start(point).await;
    let envelope = rig.sign(&rig.create());
    let op = envelope.id();
    let ask = PrivilegedRequest::Order { envelope };
    let _asked = rig.send(&ask).await;
    held.says(&format!("holding at {point}")).await;
    held.kill();
    let _process = rig.start("").await;
    Crashed { rig, ask, op, _process }
}

#[tokio::test]
async fn no_crash_makes_it_run_twice_and_none_makes_it_lie() {
    // (point, how often pct ran before, what is said)
    for (point, ran, said) in [
        ("verified", 0, "not known"),
        ("accepted", 0, "not known"),
        ("committed", 0, "not started"),
        ("starting", 0, "unknown"),
        ("ended", 1, "unknown"),
        ("stored", 1, "did"),
    ] {
        let crashed = crashed(point).await;
        let answer = crashed.rig.outcome(crashed.op).await;
        let is = match &answer {
            PrivilegedAnswer::NotKnown {} => "not known",
            PrivilegedAnswer::NotStarted { .. } => "not started",
            PrivilegedAnswer::Unknown { .. } => "unknown",
            PrivilegedAnswer::Did { .. } => "did",
            other => panic!("{point}: {other:?}"),
        };
        assert_eq!((is, crashed.rig.ran("pct", "create")), (said, ran), "{point}");
        assert_eq!(code(&crashed.rig.ask(&crashed.ask).await), "replay", "{point}");
        assert_eq!(crashed.rig.outcome(crashed.op).await, answer, "{point}: said for ever");
        assert_eq!(crashed.rig.ran("pct", "create"), ran, "{point}");
    }
}

/// Nobody had asked in between: then it may come again, once.
#[tokio::test]
async fn before_the_nonce_is_burned_nothing_was_accepted() {
    for point in ["verified", "accepted"] {
        let crashed = crashed(point).await;
        let answer = crashed.rig.ask(&crashed.ask).await;
        assert!(matches!(answer, PrivilegedAnswer::Did { .. }), "{point}: {answer:?}");
        assert_eq!(crashed.rig.ran("pct", "create"), 1);
    }
}
