use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc;

use super::*;
use crate::live::{Handle, Registered};
use crate::testing::TestHub;

const HOST: HostId = HostId::from_bytes([1; 16]);

async fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|ctx| Poll::Ready(Pin::new(&mut *future).poll(ctx))).await
}

fn operator(name: &str) -> HostName {
    name.parse().unwrap()
}

fn question() -> Question {
    Question::Plan { draft: vec![1].into() }
}

fn no() -> Reply {
    Reply::Refused { code: "busy".into(), why: "later".into() }
}

fn join(hub: &TestHub, host: HostId, answers: bool) -> (Registered, mpsc::Receiver<HubFrame>) {
    let (tunnels, frames) = mpsc::channel(64);
    let handle = Handle { wake: Arc::default(), last_seen: Arc::default(), tunnels, answers };
    (hub.app.live.register(host, "boot", handle), frames)
}

fn origin(host_id: HostId, registered: &Registered) -> Origin {
    Origin { host_id, channel: registered.id }
}

/// `security.md` 4.8, "resources": 100 000 plan requests of one operator. Few reach the host, nothing
/// grows, and somebody else's question still gets through.
#[tokio::test]
async fn a_flood_of_questions_is_held_back() {
    let hub = TestHub::new().await;
    let (registered, mut frames) = join(&hub, HOST, true);
    tokio::time::pause();
    let questions = &hub.app.questions;
    let (mut sent, mut rate, mut many) = (0, 0, 0);
    let mut under_way = Vec::new();
    for _ in 0..100_000 {
        let (hub_app, questions) = (hub.app.clone(), questions.clone());
        let mut asking =
            Box::pin(async move { questions.ask(&hub_app, &HOST, &operator("alice"), question()).await });
        match poll(&mut asking).await {
            Poll::Pending => under_way.push(asking),
            Poll::Ready(Err(AskError::Rate(HOST))) => rate += 1,
            Poll::Ready(Err(AskError::ManyOfOperator)) => many += 1,
            Poll::Ready(other) => panic!("{other:?}"),
        }
        // The host answers as fast as it can.
        if under_way.len() == PER_OPERATOR {
            for asking in under_way.drain(..) {
                let HubFrame::Ask { id, .. } = frames.try_recv().unwrap() else { panic!() };
                assert_eq!(questions_answer(&hub, id, &registered), Answered::Passed);
                assert_eq!(asking.await, Ok(no()));
                sent += 1;
            }
        }
    }
    drop(under_way);
    while frames.try_recv().is_ok() {
        sent += 1;
    }
    assert_eq!((sent, sent + rate + many), (PER_MINUTE, 100_000));
    {
        let inside = questions.lock();
        assert_eq!((inside.open.len(), inside.asked.len()), (0, 1), "who left is forgotten");
        assert!(inside.asked.values().all(|times| times.len() <= PER_MINUTE));
    }
    let bob = operator("bob");
    let mut bobs = Box::pin(questions.ask(&hub.app, &HOST, &bob, question()));
    assert!(poll(&mut bobs).await.is_pending(), "bob is heard all the same");
    drop(bobs);
    tokio::time::advance(MINUTE).await;
    let alice = operator("alice");
    let mut again = Box::pin(questions.ask(&hub.app, &HOST, &alice, question()));
    assert!(poll(&mut again).await.is_pending(), "a minute later she is heard again");
    assert_eq!(questions.lock().asked.len(), 1, "and bob's minute is over");
}

fn questions_answer(hub: &TestHub, id: u64, registered: &Registered) -> Answered {
    hub.app.questions.answer(id, origin(HOST, registered), no())
}

#[tokio::test]
async fn few_are_under_way_for_an_operator_and_for_a_host() {
    let hub = TestHub::new().await;
    let other = HostId::from_bytes([2; 16]);
    let (_one, _frames) = join(&hub, HOST, true);
    let (_two, _other_frames) = join(&hub, other, true);
    let names: Vec<HostName> = ["alice", "bob", "carol"].map(operator).into();
    let mut under_way = Vec::new();
    for name in &names[..2] {
        for _ in 0..PER_OPERATOR {
            let mut asking = Box::pin(hub.app.questions.ask(&hub.app, &HOST, name, question()));
            assert!(poll(&mut asking).await.is_pending());
            under_way.push(asking);
        }
    }
    let ask = |host, name| hub.app.questions.ask(&hub.app, host, name, question());
    assert_eq!(ask(&other, &names[0]).await, Err(AskError::ManyOfOperator));
    assert_eq!(ask(&HOST, &names[2]).await, Err(AskError::ManyOfHost(HOST)));
    let mut elsewhere = Box::pin(ask(&other, &names[2]));
    assert!(poll(&mut elsewhere).await.is_pending(), "another host is free");
    under_way.clear();
    let mut again = Box::pin(ask(&HOST, &names[2]));
    assert!(poll(&mut again).await.is_pending(), "who leaves makes room");
}

#[tokio::test]
async fn an_answer_counts_on_its_channel_and_once() {
    let hub = TestHub::new().await;
    let stranger = HostId::from_bytes([2; 16]);
    let (registered, mut frames) = join(&hub, HOST, true);
    let (strangers, _theirs) = join(&hub, stranger, true);
    let alice = operator("alice");
    let mut asking = Box::pin(hub.app.questions.ask(&hub.app, &HOST, &alice, question()));
    assert!(poll(&mut asking).await.is_pending());
    let Some(HubFrame::Ask { id, question: asked }) = frames.recv().await else { panic!() };
    assert_eq!(asked, question());
    let answer = |id, origin| hub.app.questions.answer(id, origin, no());
    assert_eq!(answer(id, origin(stranger, &strangers)), Answered::Nobody);
    assert_eq!(answer(id, Origin { host_id: HOST, channel: registered.id + 99 }), Answered::Nobody);
    for other in [0, id + 1, u64::MAX] {
        assert_eq!(answer(other, origin(HOST, &registered)), Answered::Nobody);
    }
    assert!(poll(&mut asking).await.is_pending());
    assert_eq!(answer(id, origin(HOST, &registered)), Answered::Passed);
    assert_eq!(answer(id, origin(HOST, &registered)), Answered::Nobody, "a second answer is nobody's");
    assert_eq!(asking.await, Ok(no()));
}

#[tokio::test]
async fn a_host_that_cannot_answer_is_said_at_once_or_in_time() {
    let hub = TestHub::new().await;
    tokio::time::pause();
    let alice = operator("alice");
    let ask = || hub.app.questions.ask(&hub.app, &HOST, &alice, question());
    assert_eq!(ask().await, Err(AskError::Offline(HOST)));
    let (old, _frames) = join(&hub, HOST, false);
    assert_eq!(ask().await, Err(AskError::TooOld(HOST)));
    hub.app.live.unregister(&old);

    let (registered, mut frames) = join(&hub, HOST, true);
    assert_eq!(ask().await, Err(AskError::NoAnswer { host: HOST, seconds: 50 }));
    let Some(HubFrame::Ask { id, .. }) = frames.recv().await else { panic!() };
    assert_eq!(questions_answer(&hub, id, &registered), Answered::Nobody, "too late");

    let mut asking = Box::pin(ask());
    assert!(poll(&mut asking).await.is_pending());
    let (newer, _newer_frames) = join(&hub, HOST, true);
    assert_eq!(asking.await, Err(AskError::ChannelEnded(HOST)), "replaced by another channel");
    hub.app.live.unregister(&newer);

    // An agent that does not read what it is sent.
    let (tunnels, _unread) = mpsc::channel(1);
    let handle = Handle { wake: Arc::default(), last_seen: Arc::default(), tunnels, answers: true };
    let _stuck = hub.app.live.register(HOST, "boot", handle);
    let mut first = Box::pin(ask());
    assert!(poll(&mut first).await.is_pending());
    assert_eq!(ask().await, Err(AskError::ManyOfHost(HOST)));
    hub.app.live.stop();
    assert_eq!(first.await, Err(AskError::Stopping));
    assert_eq!(hub.app.questions.lock().open.len(), 0);
}
