use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use authz::{Event, Namespace, Outcome, Params, Receipt, RefusalCode};
use local_socket::Framed;
use protocol::local::WardenAnswer;
use protocol::runner::{RunnerAnswer, RunnerRequest};
use protocol::{Ed25519Key, Envelope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::fake_runner::Act;
use crate::rig::{Rig, code, outcome, sign, within};

const KEY: Ed25519Key = Ed25519Key::from_bytes([5; 32]);

pub(crate) fn ready() -> RunnerAnswer {
    RunnerAnswer::SessionReady { host_key: KEY }
}

pub(crate) fn over(why: &str) -> RunnerAnswer {
    RunnerAnswer::SessionEnded { why: why.into(), duration_ms: 2500 }
}

/// The end that sshd would have, and the other one.
pub(crate) fn socket() -> (UnixStream, OwnedFd) {
    let (inside, outside) = StdStream::pair().unwrap();
    inside.set_nonblocking(true).unwrap();
    (UnixStream::from_std(inside).unwrap(), outside.into())
}

struct Open {
    agent: Framed,
    task: JoinHandle<()>,
    /// sshd's end and the agent's.
    inside: UnixStream,
    outside: UnixStream,
}

/// A session that is open, and what the runner does afterwards.
async fn open(rig: &Rig, envelope: &Envelope, then: Vec<Act>) -> Open {
    let (inside, fd) = socket();
    let mut acts = vec![Act::Say(RunnerAnswer::Committed {}), Act::Pass(ready(), fd)];
    acts.extend(then);
    rig.runner.plan("session", acts);
    let (mut agent, task) = rig.ask_session(envelope);
    let answer: WardenAnswer = within(60, agent.receive()).await.unwrap().unwrap();
    let WardenAnswer::SessionReady { receipt } = answer else { panic!("{answer:?}") };
    let receipt = rig.read_signed(&receipt);
    assert_eq!(receipt.event, Event::SessionReady { op: envelope.id(), host_key: KEY });
    assert!(receipt.entry.is_some());
    let passed = StdStream::from(agent.take_fd().unwrap());
    assert!(agent.take_fd().is_none());
    passed.set_nonblocking(true).unwrap();
    Open { agent, task, inside, outside: UnixStream::from_std(passed).unwrap() }
}

async fn end(rig: &Rig, open: &mut Open) -> Receipt {
    let answer = within(700, open.agent.receive()).await.unwrap().unwrap();
    rig.read(answer)
}

#[tokio::test]
async fn bytes_flow_past_the_warden_until_the_agent_leaves() {
    let rig = Rig::start().await;
    let envelope = rig.session();
    let mut open = open(&rig, &envelope, vec![Act::AwaitEnd, Act::Say(over("the warden left"))]).await;
    open.outside.write_all(b"SSH-2.0-client").await.unwrap();
    let mut bytes = [0; 14];
    within(60, open.inside.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"SSH-2.0-client");
    open.inside.write_all(b"SSH-2.0-server").await.unwrap();
    within(60, open.outside.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"SSH-2.0-server");
    // The agent has the only copy: when it closes, the other end sees that.
    drop(open.outside);
    assert_eq!(within(60, open.inside.read(&mut bytes)).await.unwrap(), 0);
    assert_eq!(rig.warden.sessions.count(), 1);

    drop(open.agent);
    rig.runner.wait_ends(1).await;
    within(60, open.task).await.unwrap();
    assert_eq!(
        rig.end_of(&envelope).to_string(),
        "done: the session lasted 2.5 s and ended: the agent closed its connection (the runner: the warden left)"
    );
    assert_eq!((rig.warden.sessions.count(), rig.open_orders(), rig.inspect().0), (0, 0, 1));
    let session = RunnerRequest::Session { envelope: envelope.clone() };
    assert_eq!(rig.runner.seen().last(), Some(&session));
    assert_eq!(code(&rig.refused_session(&envelope).await), RefusalCode::Replay);
    assert_eq!(rig.runner.count("session"), 1);
}

#[tokio::test]
async fn the_runners_end_is_the_agents_last_answer() {
    let rig = Rig::start().await;
    let envelope = rig.session();
    let mut open = open(&rig, &envelope, vec![Act::Say(over("idle for 60 s"))]).await;
    let receipt = end(&rig, &mut open).await;
    assert_eq!(outcome(&receipt).to_string(), "done: the session lasted 2.5 s and ended: idle for 60 s");
    assert_eq!(
        within(60, open.agent.receive::<WardenAnswer>()).await.unwrap(),
        None,
        "and that was the last"
    );
    within(60, open.task).await.unwrap();
    assert_eq!(*outcome(&receipt), rig.end_of(&envelope));
}

#[tokio::test]
async fn each_operator_has_one_session_unless_the_configuration_says_more() {
    let rig = Rig::start().await;
    let first = rig.session();
    let held = open(&rig, &first, vec![Act::AwaitEnd, Act::Say(over("x"))]).await;
    let second = rig.session();
    let receipt = rig.refused_session(&second).await;
    assert_eq!(code(&receipt), RefusalCode::Sessions);
    assert!(outcome(&receipt).to_string().contains("alice has 1 session"), "{}", outcome(&receipt));
    assert_eq!(rig.inspect().0, 1, "the second order is not used up");
    let bobs = sign(&rig.bob, Namespace::Session, &rig.session_order());
    let other = open(&rig, &bobs, vec![Act::AwaitEnd, Act::Say(over("x"))]).await;
    drop(held.agent);
    within(60, held.task).await.unwrap();
    let third = open(&rig, &second, vec![Act::AwaitEnd, Act::Say(over("x"))]).await;
    drop((other.agent, third.agent));
    within(60, other.task).await.unwrap();
    within(60, third.task).await.unwrap();

    let two = |config| warden::WardenConfig { sessions_per_operator: 2, ..config };
    let rig = rig.restart_after(|_| (), two).await;
    let held = [
        open(&rig, &rig.session(), vec![Act::Hang]).await,
        open(&rig, &rig.session(), vec![Act::Hang]).await,
    ];
    assert_eq!(code(&rig.refused_session(&rig.session()).await), RefusalCode::Sessions);
    for session in held {
        session.task.abort();
    }
}

#[tokio::test]
async fn what_was_not_signed_like_this_is_refused() {
    let rig = Rig::start().await;
    let order = rig.session_order();
    let good = sign(&rig.alice, Namespace::Session, &order);
    let signed = |change: fn(&mut authz::Order)| {
        let mut order = order.clone();
        change(&mut order);
        sign(&rig.alice, Namespace::Session, &order)
    };
    for (what, envelope, expected) in [
        ("unsigned", Envelope { sigs: vec![], ..good.clone() }, RefusalCode::Unsigned),
        ("for scripts", sign(&rig.alice, Namespace::Job, &order), RefusalCode::Namespace),
        ("for too long", signed(|o| o.exp += 1), RefusalCode::Validity),
        (
            "too late",
            signed(|o| {
                o.nbf -= 1000;
                o.exp -= 1000;
            }),
            RefusalCode::Expired,
        ),
        (
            "for anybody",
            signed(|o| {
                if let Params::SessionOpen(params) = &mut o.params {
                    params.key = Ed25519Key::from_bytes([0; 32]);
                }
            }),
            RefusalCode::BadOrder,
        ),
    ] {
        assert_eq!(code(&rig.refused_session(&envelope).await), expected, "{what}");
    }
    rig.runner.leave().await;
    assert_eq!(code(&rig.refused_session(&good).await), RefusalCode::Runner);
    assert_eq!((rig.inspect().0, rig.open_orders(), rig.runner.seen().len()), (0, 0, 0));
    assert_eq!(rig.warden.sessions.count(), 0);
    rig.runner.listen().await;
    let open = open(&rig, &good, vec![Act::Say(over("x"))]).await;
    within(60, open.task).await.unwrap();
}

/// A runner that opens no session, or opens it wrongly. Nobody is connected to anything.
#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_open_is_aborted() {
    let rig = Rig::start().await;
    let refused = || RunnerAnswer::Refused { code: "user".into(), why: "no such account".into() };
    let mut ends = Vec::new();
    let mut fd = || {
        let (inside, fd) = socket();
        ends.push(inside);
        fd
    };
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let cases = [
        (vec![], "broke off"),
        (vec![Act::Say(RunnerAnswer::Committed {})], "broke off"),
        (vec![Act::Say(refused())], "(user): no such account"),
        (vec![Act::Say(RunnerAnswer::NotStarted { why: "no sshd".into() })], "no sshd"),
        (vec![Act::Say(over("sshd ended"))], "before it was ready: sshd ended"),
        (vec![Act::Say(RunnerAnswer::Started {})], "something else"),
        (vec![Act::Junk(serde_json::json!({"answer": "session_ready"}))], "same version"),
        (vec![Act::Hang], "did not open it within 60 s"),
        (vec![Act::Say(ready())], "handed over no socket"),
        (vec![Act::Say(ready()), Act::Hang], "handed over no socket"),
        (vec![Act::Pass(refused(), fd()), Act::Hang], "(user): no such account"),
        (
            vec![Act::Pass(RunnerAnswer::Ended { sealed: vec![].into(), duration_ms: 1 }, fd())],
            "something else",
        ),
        (vec![Act::Pass(RunnerAnswer::Committed {}, fd()), Act::Pass(ready(), fd())], "more than one socket"),
        (vec![Act::Pass(ready(), file), Act::Hang], "no unix socket"),
    ];
    let count = cases.len();
    for (acts, says) in cases {
        rig.runner.plan("session", acts);
        let envelope = rig.session();
        let receipt = rig.refused_session(&envelope).await;
        let shown = outcome(&receipt).to_string();
        assert!(matches!(outcome(&receipt), Outcome::Aborted { .. }), "{says}: {shown}");
        assert!(
            shown.contains(says) && shown.contains("nobody was connected"),
            "{shown:?} should say {says:?}"
        );
        assert_eq!(rig.end_of(&envelope), *outcome(&receipt));
        assert!(receipt.entry.is_some());
    }
    let sessions_ready = rig.log().iter().filter(|r| matches!(r.event, Event::SessionReady { .. })).count();
    assert_eq!((sessions_ready, rig.warden.sessions.count(), rig.open_orders()), (0, 0, 0));
    assert_eq!(rig.inspect().0, count, "each is used up");
    // Whatever was handed over is closed again.
    for mut inside in ends {
        assert_eq!(within(60, inside.read(&mut [0])).await.unwrap(), 0);
    }
}

/// The agent leaves while the runner starts the session: the socket that comes later is closed.
#[tokio::test]
async fn an_agent_that_leaves_early_gets_no_session() {
    let rig = Rig::start().await;
    let (mut inside, fd) = socket();
    rig.runner.plan("session", vec![Act::AwaitEnd, Act::Pass(ready(), fd)]);
    let envelope = rig.session();
    let (agent, task) = rig.ask_session(&envelope);
    rig.runner.wait("session", 1).await;
    drop(agent);
    within(60, task).await.unwrap();
    rig.runner.wait_ends(1).await;
    assert!(rig.end_of(&envelope).to_string().contains("the agent left before"));
    assert_eq!(within(60, inside.read(&mut [0])).await.unwrap(), 0);
}

/// After it was ready: who ends it, and what can be said then.
#[tokio::test(start_paused = true)]
async fn an_open_session_ends_in_true_words() {
    let rig = Rig::start().await;
    // The runner dies.
    let envelope = rig.session();
    let mut lost = open(&rig, &envelope, vec![]).await;
    let receipt = end(&rig, &mut lost).await;
    assert!(matches!(outcome(&receipt), Outcome::Unknown { .. }), "{}", outcome(&receipt));
    assert!(outcome(&receipt).to_string().contains("broke off"), "{}", outcome(&receipt));

    // It says something that makes no sense, and then ends it.
    for nonsense in [Act::Say(ready()), Act::Say(RunnerAnswer::Started {})] {
        let acts = vec![nonsense, Act::AwaitEnd, Act::Say(over("killed"))];
        let mut open = open(&rig, &rig.session(), acts).await;
        let shown = outcome(&end(&rig, &mut open).await).to_string();
        assert!(shown.starts_with("done:") && shown.contains("has no place in a session"), "{shown}");
    }
    let mut junk = open(&rig, &rig.session(), vec![Act::Junk(7.into()), Act::Hang]).await;
    let receipt = end(&rig, &mut junk).await;
    assert!(matches!(outcome(&receipt), Outcome::Unknown { .. }), "{}", outcome(&receipt));

    // The agent leaves, and the runner does not say that it has ended it.
    let envelope = rig.session();
    let deaf = open(&rig, &envelope, vec![Act::Hang]).await;
    drop(deaf.agent);
    within(60, deaf.task).await.unwrap();
    let shown = rig.end_of(&envelope).to_string();
    assert!(shown.starts_with("unknown:") && shown.contains("within 30 s"), "{shown}");
    assert!(shown.contains("the agent closed its connection"), "{shown}");

    // The agent speaks, which it must not.
    let acts = vec![Act::AwaitEnd, Act::Say(over("killed"))];
    let mut rude = open(&rig, &rig.session(), acts).await;
    rude.agent.send(&protocol::local::WardenRequest::Status {}).await.unwrap();
    assert!(outcome(&end(&rig, &mut rude).await).to_string().starts_with("done:"));

    // The runner does not keep to the time limit (600 s).
    let begun = tokio::time::Instant::now();
    let acts = vec![Act::AwaitEnd, Act::Say(over("killed"))];
    let mut long = open(&rig, &rig.session(), acts).await;
    let shown = outcome(&end(&rig, &mut long).await).to_string();
    assert!(shown.contains("its time was over"), "{shown}");
    assert!((660..670).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());

    // Somebody ends it from here.
    let acts = vec![Act::AwaitEnd, Act::Say(over("killed"))];
    let mut ended = open(&rig, &rig.session(), acts).await;
    rig.warden
        .sessions
        .end("its key was revoked", |_, operators| operators.contains(&"bob".parse().unwrap()));
    assert!(tokio::time::timeout(Duration::from_secs(5), ended.agent.closed()).await.is_err(), "not bob's");
    rig.warden.sessions.end("its key was revoked", |op, _| *op != envelope.id());
    let shown = outcome(&end(&rig, &mut ended).await).to_string();
    assert!(shown.contains("its key was revoked (the runner: killed)"), "{shown}");
    assert_eq!((rig.warden.sessions.count(), rig.open_orders()), (0, 0));
    rig.inspect();
}

/// The warden ends with an open session: both ends see their connections close.
#[tokio::test]
async fn a_session_ends_with_the_warden() {
    let rig = Rig::start().await;
    let envelope = rig.session();
    let mut open = open(&rig, &envelope, vec![Act::AwaitEnd]).await;
    open.task.abort();
    assert!(open.task.await.unwrap_err().is_cancelled());
    rig.runner.wait_ends(1).await;
    assert_eq!(within(60, open.agent.receive::<WardenAnswer>()).await.unwrap(), None);
    assert_eq!(rig.warden.sessions.count(), 0);
    let rig = rig.restart().await;
    assert!(rig.end_of(&envelope).to_string().starts_with("done: the warden ended while"));
}
