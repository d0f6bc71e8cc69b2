//! What a crash of the warden leaves on the disk, at each of its points, and what the next start makes of it.

use std::path::Path;

use authz::verify::{HostFacts, LogFacts};
use authz::{Authorized, Order, Outcome, RefusalCode};
use protocol::runner::{RunnerAnswer, RunnerRequest};
use protocol::{Ed25519Key, Envelope};
use tokio::sync::oneshot;
use warden::identity::Identity;
use warden::ledger::{Ledger, OpenOrder, Stage};
use warden::now;
use warden::results::{Results, StoredResult};

use crate::fake_runner::Act;
use crate::jobs::{RESULT, ended, good_run, ran};
use crate::rig::{Rig, SCRIPT, TIMEOUT_S, code, outcome, within};

/// How far the warden had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    /// The order is written down; the nonce is not burned.
    Verified,
    /// Burned and logged.
    Committed,
    /// About to hand over, or handed over.
    Handing,
    /// The result is stored.
    Stored,
    /// The receipt is logged.
    Logged,
}

fn authorize(rig: &Rig, envelope: &Envelope) -> Authorized<Order> {
    let identity = rig.identity();
    let host = HostFacts {
        clock: authz::clock::State::Trusted,
        floor: 0,
        stale: false,
        plans: None,
        id: identity.host_id,
        key: identity.host_key.public().fingerprint(),
        generation: 1,
        log: Some(LogFacts { size: 1, head_at: &|_| None }),
    };
    authz::verify::verify(envelope, &identity.policy, &host, now()).unwrap()
}

/// Stops the warden, leaves its disk as if it had been killed there, and starts it again.
async fn killed_at(rig: Rig, envelope: &Envelope, came: Came, extra: &[authz::Event]) -> Rig {
    let (authorized, identity) = (authorize(&rig, envelope), rig.identity());
    rig.restart_after(|state| leave(state, identity, &authorized, came, extra), |config| config).await
}

fn leave(
    state: &Path,
    identity: Identity,
    authorized: &Authorized<Order>,
    came: Came,
    extra: &[authz::Event],
) {
    let (mut ledger, left) = Ledger::open(state, identity.into(), "boot").unwrap();
    assert!(left.is_empty());
    let mut open = OpenOrder::new(authorized);
    ledger.write_open(&open).unwrap();
    if came >= Came::Committed {
        ledger.commit(authorized, now()).unwrap();
    }
    if came >= Came::Handing {
        open.stage = Stage::Handing { t0: now() };
        ledger.write_open(&open).unwrap();
    }
    for event in extra {
        ledger.append(event.clone(), now()).unwrap();
    }
    if came >= Came::Stored {
        let result = StoredResult::new(open.op, RESULT.to_vec().into(), 1234).unwrap();
        Results::open(state).unwrap().store(&result).unwrap();
    }
    if came >= Came::Logged {
        let event = authz::Event::Order {
            op: open.op,
            kind: Some("job.run".into()),
            vmid: None,
            signers: open.signers.clone(),
            outcome: ran(),
        };
        ledger.append(event, now()).unwrap();
    }
}

/// A script, killed at each point, with everything that the runner can answer about it.
#[tokio::test(start_paused = true)]
async fn a_script_never_runs_twice_whenever_the_warden_is_killed() {
    let not_started = || RunnerAnswer::NotStarted { why: "its own words".into() };
    let unknown = || RunnerAnswer::Unknown { why: "its own words".into() };
    type Answer<'a> = &'a dyn Fn() -> Vec<Act>;
    let silent: Answer<'_> = &|| vec![Act::Hang];
    let cases: [(Came, Answer<'_>, &str, usize, usize); 9] = [
        (
            Came::Committed,
            silent,
            "aborted, nothing changed: the warden ended after the nonce was burned",
            0,
            0,
        ),
        (Came::Handing, &|| vec![Act::Say(ended())], "the script ran", 1, 1),
        (
            Came::Handing,
            &|| vec![Act::Say(RunnerAnswer::Started {}), Act::Say(ended())],
            "the script ran",
            1,
            1,
        ),
        (
            Came::Handing,
            &|| vec![Act::Say(RunnerAnswer::NotKnown {})],
            "the runner never got the script",
            1,
            0,
        ),
        (Came::Handing, &|| vec![Act::Say(not_started())], "was not started: its own words", 1, 1),
        (Came::Handing, &|| vec![Act::Say(unknown())], "unknown: its own words", 1, 1),
        (Came::Handing, silent, "unknown: the runner did not say within", 1, 0),
        (Came::Stored, silent, "the script ran", 0, 1),
        (Came::Logged, silent, "the script ran", 0, 1),
    ];
    for (came, answer, says, asked, forgets) in cases {
        let rig = Rig::start().await;
        let envelope = rig.job(SCRIPT);
        rig.runner.plan("outcome", answer());
        let rig = killed_at(rig, &envelope, came, &[]).await;
        let shown = rig.end_of(&envelope).to_string();
        assert!(shown.contains(says), "{came:?}: {shown}");
        let counts = ["job", "outcome", "forget"].map(|request| rig.runner.count(request));
        assert_eq!(counts, [0, asked, forgets], "{came:?}, {says}");
        let kept = rig.warden.results.read(&envelope.id()).unwrap().map(|result| result.sealed.0);
        assert_eq!(kept.as_deref(), shown.contains("the script ran").then_some(RESULT), "{came:?}");
        assert_eq!((rig.inspect().0, rig.open_orders()), (1, 0), "{came:?}");
        let again = rig.submit(&envelope).await.0;
        assert_eq!(code(&again), RefusalCode::Replay, "{came:?}");
        assert_eq!(rig.runner.count("job"), 0);
    }
}

#[tokio::test]
async fn an_order_that_was_not_committed_may_come_again() {
    let rig = Rig::start().await;
    let envelope = rig.job(SCRIPT);
    let rig = killed_at(rig, &envelope, Came::Verified, &[]).await;
    assert_eq!((rig.inspect(), rig.open_orders()), ((0, 1), 0));
    rig.runner.say("job", good_run());
    assert_eq!(*outcome(&rig.submit(&envelope).await.0), ran());
}

/// The runner is away when it is to be told: it is told when it is back.
#[tokio::test(start_paused = true)]
async fn the_runner_is_told_to_forget_when_it_can_be() {
    let rig = Rig::start().await;
    let envelope = rig.job(SCRIPT);
    rig.runner.say("job", good_run());
    for _ in 0..3 {
        rig.runner.plan("forget", vec![]);
    }
    assert_eq!(*outcome(&rig.submit(&envelope).await.0), ran());
    assert_eq!(rig.open_orders(), 1, "kept until the runner knows");
    within(100, async {
        while rig.open_orders() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let forgotten: Vec<_> =
        rig.runner.seen().into_iter().filter(|r| matches!(r, RunnerRequest::Forget { .. })).collect();
    assert_eq!(forgotten, vec![RunnerRequest::Forget { op: envelope.id() }; 4]);
    assert_eq!(rig.end_of(&envelope), ran());
    let rig = rig.restart().await;
    assert_eq!(rig.runner.count("forget"), 4, "once is enough");
}

/// However the script ended, and by the next warden where this one could not.
#[tokio::test(start_paused = true)]
async fn the_next_warden_tells_the_runner_to_forget() {
    let why = || "its own words".parse().unwrap();
    for end in [ran(), Outcome::Aborted { why: why() }, Outcome::Unknown { upid: None, why: why() }] {
        let rig = Rig::start().await;
        let envelope = rig.job(SCRIPT);
        rig.runner.plan("forget", vec![]);
        let (op, kind) = (envelope.id(), Some("job.run".into()));
        let event = authz::Event::Order { op, kind, vmid: None, signers: vec![], outcome: end.clone() };
        let rig = killed_at(rig, &envelope, Came::Handing, &[event]).await;
        let counts = ["job", "outcome", "forget"].map(|request| rig.runner.count(request));
        assert_eq!((counts, rig.open_orders()), ([0, 0, 2], 0), "{end}");
        assert_eq!(rig.end_of(&envelope), end);
        let rig = rig.restart().await;
        assert_eq!(rig.runner.count("forget"), 2, "once is enough");
    }
}

/// Killed for real in the middle, as far as a task can be: while the runner has the script.
#[tokio::test]
async fn a_script_goes_on_while_the_warden_is_away() {
    let rig = Rig::start().await;
    rig.runner.plan("job", vec![Act::Say(RunnerAnswer::Started {}), Act::AwaitEnd]);
    let envelope = rig.job(SCRIPT);
    let running = rig.spawn(&envelope);
    rig.runner.wait("job", 1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    rig.runner.wait_ends(1).await;
    rig.runner.say("outcome", vec![ended()]);
    let rig = rig.restart().await;
    assert_eq!(rig.end_of(&envelope), ran());
    assert_eq!((rig.runner.count("job"), rig.runner.count("outcome")), (1, 1));
}

/// A slow copy of an order must not write over how far the other one has come: after a crash the warden
/// would say that the script was never handed over.
#[tokio::test]
async fn a_late_copy_does_not_hide_that_the_script_was_handed_over() {
    let rig = Rig::start().await;
    rig.runner.say("job", good_run());
    rig.submit(&rig.job(SCRIPT)).await;
    let envelope = rig.job(SCRIPT);
    let (go, gate) = oneshot::channel();
    rig.runner.plan("status", vec![Act::Await(gate), Act::Say(rig.runner.status())]);
    let late = rig.spawn(&envelope);
    rig.runner.wait("status", 2).await;
    rig.runner.plan("job", vec![Act::Say(RunnerAnswer::Started {}), Act::AwaitEnd]);
    let early = rig.spawn(&envelope);
    rig.runner.wait("job", 2).await;
    go.send(()).unwrap();
    assert_eq!(code(&rig.read(within(60, late).await.unwrap())), RefusalCode::Replay);
    early.abort();
    assert!(early.await.unwrap_err().is_cancelled());
    rig.runner.say("outcome", vec![ended()]);
    let rig = rig.restart().await;
    assert_eq!(rig.end_of(&envelope), ran());
    assert_eq!((rig.runner.count("job"), rig.runner.count("outcome")), (2, 1));
}

/// A result that was damaged on the disk is fetched from the runner again, which has it still.
#[tokio::test]
async fn a_damaged_result_is_fetched_again() {
    let rig = Rig::start().await;
    let envelope = rig.job(SCRIPT);
    let results = Results::open(&rig.dir.path().join("state")).unwrap();
    let other = StoredResult::new(envelope.id(), RESULT.to_vec().into(), 1234).unwrap();
    results.store(&other).unwrap();
    let path = rig.dir.path().join(format!("state/results/{}.json", envelope.id()));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    rig.runner.say("outcome", vec![ended()]);
    let rig = killed_at(rig, &envelope, Came::Handing, &[]).await;
    assert_eq!(rig.end_of(&envelope), ran());
    assert_eq!(rig.warden.results.read(&envelope.id()).unwrap(), Some(other));
}

/// Sessions end with the warden; what is said of them depends on how far they were and what the runner says.
#[tokio::test(start_paused = true)]
async fn a_session_that_was_interrupted_is_told_truly() {
    let ready = |envelope: &Envelope| authz::Event::SessionReady {
        op: envelope.id(),
        host_key: Ed25519Key::from_bytes([5; 32]),
    };
    for (came, was_ready, open, reachable, says) in [
        (Came::Committed, false, 0, true, "aborted, nothing changed: the warden ended before"),
        (Came::Handing, false, 3, true, "aborted, nothing changed: the warden ended before"),
        (Came::Handing, true, 0, true, "done: the warden ended while"),
        (Came::Handing, true, 2, true, "unknown: the warden ended while"),
        (Came::Handing, true, 0, false, "unknown: the warden ended while"),
    ] {
        let rig = Rig::start().await;
        let envelope = rig.session();
        rig.runner.change_status(|status| status.sessions = open);
        if !reachable {
            rig.runner.leave().await;
        }
        let extra: Vec<_> = was_ready.then(|| ready(&envelope)).into_iter().collect();
        let rig = killed_at(rig, &envelope, came, &extra).await;
        let shown = rig.end_of(&envelope).to_string();
        assert!(shown.starts_with(says), "{shown} should start with {says}");
        assert_eq!((rig.runner.count("session"), rig.runner.count("forget")), (0, 0));
        assert_eq!((rig.inspect().0, rig.open_orders()), (1, 0));
        assert!(matches!(rig.end_of(&envelope), Outcome::Aborted { .. }) != was_ready);
    }
}

/// The time that is left counts from the handover, which was right before the crash here.
#[tokio::test(start_paused = true)]
async fn a_restart_waits_as_long_as_the_script_may_run() {
    let rig = Rig::start().await;
    let envelope = rig.job(SCRIPT);
    rig.runner.plan("outcome", vec![Act::Hang]);
    let begun = tokio::time::Instant::now();
    let rig = killed_at(rig, &envelope, Came::Handing, &[]).await;
    assert!(rig.end_of(&envelope).to_string().starts_with("unknown"));
    let waited = begun.elapsed().as_secs();
    let most = u64::from(TIMEOUT_S) + warden::answers::SLACK_S;
    assert!((most - 5..most + 15).contains(&waited), "{waited} s");
}
