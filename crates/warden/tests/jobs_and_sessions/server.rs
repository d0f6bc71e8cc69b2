//! The same through the warden's real socket.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use authz::Outcome;
use local_socket::Framed;
use protocol::frame::OrderState;
use protocol::local::{WardenAnswer, WardenRequest};
use protocol::runner::RunnerAnswer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use warden::{WardenConfig, server};

use crate::fake_runner::Act;
use crate::jobs::{RESULT, ended, ran};
use crate::rig::{Rig, SCRIPT, outcome, within};
use crate::sessions::{over, ready, socket};

fn our_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// A warden on its socket that lets this user in.
async fn serve() -> (Rig, JoinHandle<()>) {
    serve_with(|config| WardenConfig { allowed_uids: vec![our_uid()], ..config }).await
}

async fn serve_with(change: fn(WardenConfig) -> WardenConfig) -> (Rig, JoinHandle<()>) {
    let rig = Rig::start().await.restart_after(|_| (), change).await;
    let listener = server::bind(&rig.dir.path().join("warden.sock")).await.unwrap();
    let warden = rig.warden.clone();
    let task = tokio::spawn(async move { server::serve(&listener, &warden).await });
    (rig, task)
}

async fn ask(dir: &Path, request: &WardenRequest) -> Framed {
    let mut connection = Framed::from(UnixStream::connect(dir.join("warden.sock")).await.unwrap());
    connection.send(request).await.unwrap();
    connection
}

async fn answer(dir: &Path, request: &WardenRequest) -> WardenAnswer {
    within(60, ask(dir, request).await.receive()).await.unwrap().unwrap()
}

/// The agent leaves while its script runs, and asks later; others are answered meanwhile.
#[tokio::test]
async fn a_script_outlives_its_connection_and_blocks_nobody() {
    let (rig, serving) = serve().await;
    let dir = rig.dir.path();
    let (go, gate) = oneshot::channel();
    let acts = vec![Act::Say(RunnerAnswer::Started {}), Act::Await(gate), Act::Say(ended())];
    rig.runner.plan("job", acts);
    let envelope = rig.job(SCRIPT);
    let op = envelope.id();
    let mut first = ask(dir, &WardenRequest::Order { envelope }).await;
    for expected in [OrderState::Verified, OrderState::Committed, OrderState::Executing] {
        assert_eq!(within(60, first.receive()).await.unwrap(), Some(WardenAnswer::Progress(expected)));
    }
    drop(first);
    rig.runner.say("job", vec![ended()]);
    let second = WardenRequest::Order { envelope: rig.job(SCRIPT) };
    let mut connection = ask(dir, &second).await;
    let last = loop {
        match within(60, connection.receive()).await.unwrap().unwrap() {
            WardenAnswer::Progress(_) => {}
            last => break last,
        }
    };
    assert_eq!(*outcome(&rig.read(last)), ran());
    assert!(matches!(answer(dir, &WardenRequest::Status {}).await, WardenAnswer::Status(_)));
    let WardenAnswer::Results { ops } = answer(dir, &WardenRequest::Results {}).await else { panic!() };
    assert!(ops.len() == 1 && !ops.contains(&op));
    go.send(()).unwrap();
    rig.runner.wait("forget", 2).await;
    let WardenAnswer::Results { ops } = answer(dir, &WardenRequest::Results {}).await else { panic!() };
    assert!(ops.len() == 2 && ops.contains(&op));
    let result = answer(dir, &WardenRequest::Result { op }).await;
    assert_eq!(result, WardenAnswer::Result { op, sealed: RESULT.to_vec().into() });
    for _ in 0..2 {
        assert_eq!(answer(dir, &WardenRequest::ResultStored { op }).await, WardenAnswer::Forgotten {});
    }
    let gone = answer(dir, &WardenRequest::Result { op }).await;
    assert!(matches!(gone, WardenAnswer::Refused { code, .. } if code == "no_result"));
    serving.abort();
}

#[tokio::test]
async fn a_session_goes_through_the_socket() {
    let (rig, serving) = serve().await;
    let (mut inside, fd) = socket();
    let acts = vec![Act::Pass(ready(), fd), Act::AwaitEnd, Act::Say(over("left"))];
    rig.runner.plan("session", acts);
    let envelope = rig.session();
    let mut agent = ask(rig.dir.path(), &WardenRequest::Session { envelope: envelope.clone() }).await;
    let answer: WardenAnswer = within(60, agent.receive()).await.unwrap().unwrap();
    assert!(matches!(answer, WardenAnswer::SessionReady { .. }), "{answer:?}");
    let passed = StdStream::from(agent.take_fd().unwrap());
    passed.set_nonblocking(true).unwrap();
    let mut outside = UnixStream::from_std(passed).unwrap();
    outside.write_all(b"x").await.unwrap();
    assert_eq!(within(60, inside.read(&mut [0; 4])).await.unwrap(), 1);
    // Halfway closed is closed: the end still comes.
    agent.finish().await.unwrap();
    let receipt = rig.read(within(60, agent.receive()).await.unwrap().unwrap());
    assert!(matches!(outcome(&receipt), Outcome::Done { .. }), "{}", outcome(&receipt));
    serving.abort();
}

#[tokio::test]
async fn strangers_are_told_why_and_nothing_else() {
    let other = |config| WardenConfig { allowed_uids: vec![our_uid() + 1], ..config };
    let (rig, serving) = serve_with(other).await;
    let socket = rig.dir.path().join("warden.sock");
    let mut connection = Framed::from(UnixStream::connect(&socket).await.unwrap());
    let answer = within(60, connection.receive()).await.unwrap().unwrap();
    assert!(
        matches!(&answer, WardenAnswer::Refused { code, why } if code == "peer" && why.contains("allowed_uids")),
        "{answer:?}"
    );
    assert_eq!(within(60, connection.receive::<WardenAnswer>()).await.unwrap(), None);
    serving.abort();
}

/// What cannot be read is answered; half a request is not, because nobody waits for that.
#[tokio::test]
async fn hostile_requests_are_answered_in_words() {
    let (rig, serving) = serve().await;
    let socket = rig.dir.path().join("warden.sock");
    let frame = |json: &str| [&(json.len() as u32).to_be_bytes()[..], json.as_bytes()].concat();
    for bytes in [
        frame(r#"{"ask":"session"}"#),
        frame(r#"{"ask":"session","envelope":{"payload":"","sigs":[]},"user":"root"}"#),
        frame(r#"{"ask":"result","op":"../../host.key"}"#),
        frame(r#"{"ask":"result_stored","op":""}"#),
        vec![0xff; 8],
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let answer = within(60, Framed::from(stream).receive()).await.unwrap().unwrap();
        assert!(matches!(&answer, WardenAnswer::Refused { code, .. } if code == "request"), "{answer:?}");
    }
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(&frame(r#"{"ask":"status"}"#)[..9]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(within(60, stream.read(&mut [0; 9])).await.unwrap(), 0);
    assert!(matches!(answer(rig.dir.path(), &WardenRequest::Status {}).await, WardenAnswer::Status(_)));
    serving.abort();
}
