//! Questions to wardens, from the request to the answer.

use std::time::Duration;

use authz::SecretKey;
use hub::Limits;
use protocol::Signed;
use protocol::api::ApiFailure;
use protocol::ask::{Look, MAX_NAMED, MAX_REPLY, Question, Reply};
use protocol::frame::{AgentFrame, HubFrame, Purpose};

use super::client::{Channel, Http, TestHost};
use super::tunnel::{Stand, quick};

fn plan_question() -> Question {
    Question::Plan { draft: b"a draft".to_vec().into() }
}

async fn asked(channel: &mut Channel) -> (u64, Question) {
    match channel.next().await {
        Some(HubFrame::Ask { id, question }) => (id, question),
        other => panic!("a question was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_question_goes_to_the_host_and_its_answer_back_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(dir.path()).await;
    let path = stand.host.path("/ask");
    // Even what no honest host says: whoever asked judges, not the hub.
    let payload = b"{\"not\":\"a plan\"}".to_vec();
    let sig = SecretKey::from_seed(&[66; 32]).sign(authz::Namespace::Plan, &payload);
    let plan = Reply::Plan { plan: Signed { payload: payload.into(), sig } };
    let world = Reply::World { json: vec![0xff; MAX_REPLY].into() };
    let no = Reply::Refused { code: "busy".into(), why: "\u{1b}[2J".into() };
    let look = Question::Look(Look { vmids: true, ..Look::default() });
    for (question, reply) in [(plan_question(), plan), (look.clone(), world), (look, no)] {
        let answered = async {
            let (id, got) = asked(&mut stand.channel).await;
            assert_eq!(got, question);
            stand
                .channel
                .send(&AgentFrame::Answer { id: id + 1, reply: Reply::World { json: vec![].into() } })
                .await;
            stand.channel.send(&AgentFrame::Answer { id, reply: reply.clone() }).await;
        };
        let ((status, got), ()) = tokio::join!(stand.alice.post::<Reply>(&path, &question), answered);
        assert_eq!((status, got), (200, reply));
    }
}

#[tokio::test]
async fn what_no_host_answers_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(dir.path()).await;
    let path = stand.host.path("/ask");
    let refused = async |path: &str, body: &serde_json::Value| {
        let (status, failure): (_, ApiFailure) = stand.alice.post(path, body).await;
        (status, failure.code)
    };
    let storages = vec!["local".parse().unwrap(); MAX_NAMED + 1];
    let wide = serde_json::to_value(Question::Look(Look { storages, ..Look::default() })).unwrap();
    let long = serde_json::to_value(Question::Plan { draft: vec![0; 70_000].into() }).unwrap();
    for body in [wide, long, serde_json::json!({"ask": "plan", "draft": ""})] {
        assert_eq!(refused(&path, &body).await, (422, "bad_question".to_owned()));
    }
    for body in [
        serde_json::json!({"ask": "status"}),
        serde_json::json!({"ask": "step", "step": {}}),
        serde_json::json!({"ask": "plan"}),
        serde_json::json!({"ask": "look", "guest": 101}),
        serde_json::json!([]),
    ] {
        assert_eq!(refused(&path, &body).await, (400, "bad_request".to_owned()), "{body}");
    }
    let good = serde_json::to_value(plan_question()).unwrap();
    let nobody = format!("/api/v1/hosts/{}/ask", "09".repeat(16));
    assert_eq!(refused(&nobody, &good).await, (404, "no_such_host".to_owned()));
    let away = TestHost::enrolled(2, &stand.hub, &stand.alice).await;
    assert_eq!(refused(&away.path("/ask"), &good).await, (409, "offline".to_owned()));
    // The next frame is the first question that was one.
    let (_, (_, got)) = tokio::join!(
        async { tokio::time::timeout(Duration::from_secs(1), stand.alice.post::<Reply>(&path, &good)).await },
        asked(&mut stand.channel)
    );
    assert_eq!(got, plan_question());
}

#[tokio::test]
async fn old_silent_and_lost_agents_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { answer: Duration::from_millis(300), ..quick() };
    let mut stand = Stand::limited(dir.path(), limits).await;
    let path = stand.host.path("/ask");
    let ask = async |alice: &Http| {
        let (status, failure): (_, ApiFailure) = alice.post(&path, &plan_question()).await;
        assert!(failure.message.contains("host"), "{}", failure.message);
        (status, failure.code)
    };
    assert_eq!(ask(&stand.alice).await, (504, "no_answer".to_owned()));
    let (id, _) = asked(&mut stand.channel).await;
    // Too late; nobody minds, and the channel goes on.
    stand.channel.send(&AgentFrame::Answer { id, reply: Reply::World { json: vec![].into() } }).await;

    // An agent of before there were questions is welcome, and asked nothing.
    let mut old = Channel::open(&stand.hub, Some(&stand.host.cert)).await.unwrap();
    let hello = serde_json::to_string(&stand.host.hello(Purpose::Run, "boot", 0)).unwrap();
    old.send_text(&hello.replace("\"v\":2", "\"v\":1")).await;
    assert_eq!(old.next().await, Some(HubFrame::Welcome { v: 1, receipts_held: 0 }));
    assert_eq!(ask(&stand.alice).await, (409, "agent_too_old".to_owned()));
    for v in [0, 3, u32::MAX] {
        let mut other = Channel::open(&stand.hub, Some(&stand.host.cert)).await.unwrap();
        other.send_text(&hello.replace("\"v\":2", &format!("\"v\":{v}"))).await;
        assert!(other.bye().await.contains("update the older one"));
    }
    let alice = &stand.alice;

    // One that breaks the rules loses its channel, and what it was asked is answered at once.
    let mut loud = Channel::welcome(&stand.hub, &stand.host, 0, 0).await;
    let too_long = Reply::World { json: vec![0; MAX_REPLY + 1].into() };
    let breaks = async {
        let (id, _) = asked(&mut loud).await;
        loud.send(&AgentFrame::Answer { id, reply: too_long }).await;
        assert!(loud.bye().await.contains("too long"));
    };
    let (answer, ()) = tokio::join!(ask(alice), breaks);
    assert_eq!(answer, (502, "channel_ended".to_owned()));
}
