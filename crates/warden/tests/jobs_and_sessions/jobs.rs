use authz::{Kind, Namespace, Outcome, Params, RefusalCode, SecretKey};
use protocol::frame::OrderState;
use protocol::job::MAX_SEALED_RESULT;
use protocol::local::WardenAnswer;
use protocol::runner::{AnchorStatus, RunnerAnswer, RunnerRequest};
use protocol::{Bytes, Ed25519Key, Envelope, HostId, Sha256};
use tokio::sync::oneshot;
use warden::answers::SLACK_S;
use warden::jobs::MAX_RUNNING;
use warden::results::{MAX_WAITING, StoredResult};

use crate::fake_runner::Act;
use crate::rig::{Rig, SCRIPT, TIMEOUT_S, code, outcome, seal, sign, within};

pub(crate) const RESULT: &[u8] = b"sealed to the operator";

pub(crate) fn ended() -> RunnerAnswer {
    RunnerAnswer::Ended { sealed: RESULT.to_vec().into(), duration_ms: 1234 }
}

pub(crate) fn good_run() -> Vec<RunnerAnswer> {
    vec![RunnerAnswer::Committed {}, RunnerAnswer::Started {}, ended()]
}

pub(crate) fn ran() -> Outcome {
    Outcome::Ran { result: Sha256::of(RESULT), size: RESULT.len() as u64, duration_ms: 1234 }
}

fn refused(code: &str) -> RunnerAnswer {
    RunnerAnswer::Refused { code: code.into(), why: "the runner's own words".into() }
}

fn unknown() -> RunnerAnswer {
    RunnerAnswer::Unknown { why: "the runner's own words".into() }
}

fn not_started() -> RunnerAnswer {
    RunnerAnswer::NotStarted { why: "the runner's own words".into() }
}

fn waiting(rig: &Rig) -> Vec<Sha256> {
    match rig.warden.results.answer_list() {
        WardenAnswer::Results { ops } => ops,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_script_is_handed_over_once_and_its_result_waits_for_the_hub() {
    let rig = Rig::start().await;
    rig.runner.say("job", good_run());
    let envelope = rig.job(SCRIPT);
    let (receipt, states) = rig.submit(&envelope).await;
    assert_eq!(*outcome(&receipt), ran());
    assert!(receipt.entry.is_some());
    assert_eq!(states, [OrderState::Verified, OrderState::Committed, OrderState::Executing]);
    let bare = Envelope { sealed: None, ..envelope.clone() };
    let identity = rig.identity();
    let op = envelope.id();
    assert_eq!(
        rig.runner.seen(),
        [
            RunnerRequest::Status {},
            RunnerRequest::Anchor {
                policy: identity.policy_bytes.clone().into(),
                documents: vec![],
                host_id: identity.host_id,
                host_key: identity.host_key.public().to_wire(),
                host_key_gen: 1,
            },
            RunnerRequest::Status {},
            RunnerRequest::Job { envelope: bare, script: SCRIPT.to_vec().into() },
            RunnerRequest::Forget { op },
        ]
    );
    assert_eq!((rig.inspect().0, rig.open_orders()), (1, 0));

    // The same order again does not get as far as the runner.
    let (again, states) = rig.submit(&envelope).await;
    assert_eq!((code(&again), states.len()), (RefusalCode::Replay, 0));
    assert_eq!(rig.runner.seen().len(), 5);

    // The result stays until the hub has it, and survives a restart.
    let rig = rig.restart().await;
    let again = rig.submit(&envelope).await.0;
    assert_eq!(code(&again), RefusalCode::Replay);
    assert_eq!(waiting(&rig), [op]);
    for _ in 0..2 {
        assert_eq!(
            rig.warden.results.answer_one(op),
            WardenAnswer::Result { op, sealed: RESULT.to_vec().into() }
        );
    }
    for _ in 0..2 {
        assert_eq!(rig.warden.results.answer_stored(&op), WardenAnswer::Forgotten {});
        assert_eq!(waiting(&rig), []);
    }
    let gone = rig.warden.results.answer_one(op);
    assert!(matches!(gone, WardenAnswer::Refused { code, .. } if code == "no_result"));

    // The runner is anchored by now: the next script needs no Anchor.
    rig.runner.say("job", good_run());
    assert_eq!(*outcome(&rig.submit(&rig.job(SCRIPT)).await.0), ran());
    assert_eq!(rig.runner.count("anchor"), 1);
}

/// None of these burns a nonce, and none is heard of at the runner.
#[tokio::test]
async fn what_was_not_signed_like_this_is_refused() {
    let rig = Rig::start().await;
    let order = rig.job_order(SCRIPT);
    let good = Envelope { sealed: rig.seal(SCRIPT), ..sign(&rig.alice, Namespace::Job, &order) };
    let host = rig.warden.status().enrolled.unwrap().host_key;
    let other = SecretKey::from_seed(&[77; 32]);
    let sealed = |sealed: Option<Bytes>| Envelope { sealed, ..good.clone() };
    let mut altered = good.clone();
    if let Some(bytes) = &mut altered.sealed {
        *bytes.0.last_mut().unwrap() ^= 1;
    }
    let signed = |change: fn(&mut authz::Order)| {
        let mut order = order.clone();
        change(&mut order);
        Envelope { sealed: good.sealed.clone(), ..sign(&rig.alice, Namespace::Job, &order) }
    };
    let mut forged = good.clone();
    let at = forged.payload.0.windows(4).position(|w| w == b"root").unwrap();
    forged.payload.0[at] = b'b';
    let cases = [
        ("no script", sealed(None), RefusalCode::Script),
        ("another script", sealed(seal(&host, b"#!/bin/sh\nreboot now\n")), RefusalCode::Script),
        ("sealed to another key", sealed(seal(&other.public().to_wire(), SCRIPT)), RefusalCode::Script),
        ("altered on the way", altered, RefusalCode::Script),
        ("not sealed", sealed(Some(SCRIPT.to_vec().into())), RefusalCode::Script),
        ("unsigned", Envelope { sigs: vec![], ..good.clone() }, RefusalCode::Unsigned),
        ("altered after signing", forged, RefusalCode::BadSignature),
        (
            "signed by a stranger",
            Envelope { sealed: rig.seal(SCRIPT), ..sign(&other, Namespace::Job, &order) },
            RefusalCode::UnknownSigner,
        ),
        (
            "signed for other orders",
            Envelope { sealed: rig.seal(SCRIPT), ..sign(&rig.alice, Namespace::Op, &order) },
            RefusalCode::Namespace,
        ),
        (
            "signed for sessions",
            Envelope { sealed: rig.seal(SCRIPT), ..sign(&rig.alice, Namespace::Session, &order) },
            RefusalCode::Namespace,
        ),
        (
            "too late",
            signed(|o| {
                o.nbf -= 1000;
                o.exp -= 1000;
            }),
            RefusalCode::Expired,
        ),
        ("for another host", signed(|o| o.host.id = HostId::from_bytes([9; 16])), RefusalCode::OtherHost),
        (
            "a result that anybody could read",
            signed(|o| {
                if let Params::JobRun(params) = &mut o.params {
                    params.result_key = Ed25519Key::from_bytes([0; 32]);
                }
            }),
            RefusalCode::BadOrder,
        ),
    ];
    for (what, envelope, expected) in cases {
        let (receipt, states) = rig.submit(&envelope).await;
        assert_eq!((code(&receipt), states.len()), (expected, 0), "{what}");
    }
    assert_eq!((rig.inspect().0, rig.open_orders()), (0, 0));
    assert_eq!(rig.runner.seen(), []);
    rig.runner.say("job", good_run());
    assert_eq!(*outcome(&rig.submit(&good).await.0), ran(), "and the order itself was not used up");
}

/// A runner that is not there, not willing or not ours is noticed before the nonce is burned.
#[tokio::test(start_paused = true)]
async fn an_unusable_runner_costs_nothing() {
    let rig = Rig::start().await;
    let good = rig.job(SCRIPT);
    let ours = rig.identity();
    let anchored = |change: fn(&mut AnchorStatus)| {
        let mut anchor = AnchorStatus {
            host_id: ours.host_id,
            host_key: ours.host_key.public().to_wire(),
            host_key_gen: ours.host_key_gen,
            policy: *ours.policy.hash(),
            documents: 0,
            fresh_at: 0,
        };
        change(&mut anchor);
        Some(anchor)
    };
    let check = async |says: &str| {
        let (receipt, states) = rig.submit(&good).await;
        assert_eq!((code(&receipt), states.len()), (RefusalCode::Runner, 0), "{says}");
        let why = outcome(&receipt).to_string();
        assert!(why.contains(says), "{why:?} should say {says:?}");
        assert_eq!((rig.inspect().0, rig.open_orders()), (0, 0), "{says}");
    };
    rig.runner.plan("status", vec![]);
    check("broke off").await;
    rig.runner.plan("status", vec![Act::Hang]);
    check("did not answer within 10 s").await;
    rig.runner.plan("status", vec![Act::Junk("hello".into())]);
    check("same version").await;
    rig.runner.say("status", vec![RunnerAnswer::Done {}]);
    check("same version").await;
    rig.runner.say("status", vec![refused("peer")]);
    check("(peer): the runner's own words").await;
    rig.runner.change_status(|status| status.closed = Some("its journal is damaged".into()));
    check("its journal is damaged").await;
    rig.runner.change_status(|status| status.closed = None);
    for change in [
        (|a| a.host_id = HostId::from_bytes([1; 16])) as fn(&mut AnchorStatus),
        |a| a.host_key = Ed25519Key::from_bytes([1; 32]),
        |a| a.host_key_gen += 1,
        |a| a.policy = Sha256::of(b"other"),
    ] {
        rig.runner.change_status(|status| status.anchored = anchored(change));
        check("root anchors the runner anew").await;
    }
    rig.runner.change_status(|status| status.anchored = None);
    rig.runner.say("anchor", vec![refused("policy")]);
    check("(policy): the runner's own words").await;
    rig.runner.plan("anchor", vec![Act::Hang]);
    check("did not answer").await;
    rig.runner.deaf_after(0);
    check("did not answer").await;
    rig.runner.leave().await;
    check("start writ-runner").await;
    assert_eq!(rig.runner.count("job"), 0);

    rig.runner.listen().await;
    rig.runner.say("job", good_run());
    assert_eq!(*outcome(&rig.submit(&good).await.0), ran());
}

#[tokio::test]
async fn without_a_runner_scripts_and_sessions_are_refused_by_name() {
    let rig = Rig::start().await;
    let rig =
        rig.restart_after(|_| (), |config| warden::WardenConfig { runner_socket: None, ..config }).await;
    for receipt in [rig.submit(&rig.job(SCRIPT)).await.0, rig.refused_session(&rig.session()).await] {
        assert_eq!(code(&receipt), RefusalCode::Runner);
        assert!(outcome(&receipt).to_string().contains("runner_socket"), "{}", outcome(&receipt));
    }
    assert_eq!(rig.inspect().0, 0);
}

/// What the runner says after it was handed the script, and how that stands in the log. In no case is it
/// handed over again.
#[tokio::test(start_paused = true)]
async fn every_word_of_the_runner_ends_in_a_true_receipt() {
    use RunnerAnswer::{Committed, Done, NotKnown, Started};
    let rig = Rig::start().await;
    type Plan = fn() -> Vec<Act>;
    fn say(answers: Vec<RunnerAnswer>) -> Vec<Act> {
        answers.into_iter().map(Act::Say).collect()
    }
    let nothing: Plan = Vec::new;
    // On being handed the script; on being asked; the end; what it says; is the runner told to forget?
    let cases: [(Plan, Plan, &str, &str, bool); 21] = [
        (|| say(vec![ended()]), nothing, "ran", "sealed", true),
        (|| say(vec![refused("user")]), nothing, "aborted", "(user): the runner's own words", false),
        // It accepted the order before: what became of that is asked, and the refusal says nothing of it.
        (|| say(vec![refused("replay")]), || say(vec![ended()]), "ran", "sealed", true),
        (|| say(vec![refused("replay")]), || say(vec![unknown()]), "unknown", "own words", true),
        (|| say(vec![Committed {}, not_started()]), nothing, "aborted", "the runner's own words", true),
        (
            || say(vec![Committed {}, Started {}, unknown()]),
            nothing,
            "unknown",
            "the runner's own words",
            true,
        ),
        // Two last answers: the first counts.
        (|| say(vec![Started {}, ended(), not_started()]), nothing, "ran", "sealed", true),
        // The connection is lost, at each point.
        (nothing, || say(vec![NotKnown {}]), "aborted", "never got the script", false),
        (nothing, || say(vec![ended()]), "ran", "sealed", true),
        (nothing, || say(vec![Started {}, ended()]), "ran", "sealed", true),
        (nothing, || say(vec![not_started()]), "aborted", "not started", true),
        (nothing, || say(vec![unknown()]), "unknown", "the runner's own words", true),
        (|| say(vec![Committed {}]), || say(vec![ended()]), "ran", "sealed", true),
        (
            || say(vec![Committed {}]),
            || say(vec![NotKnown {}]),
            "unknown",
            "does not know it any more",
            false,
        ),
        (|| say(vec![Started {}]), || say(vec![unknown()]), "unknown", "the runner's own words", true),
        (|| say(vec![Started {}]), || say(vec![not_started()]), "unknown", "said that the script runs", true),
        // Words that mean nothing.
        (|| vec![Act::Junk(7.into())], || say(vec![NotKnown {}]), "aborted", "never got", false),
        (|| say(vec![Done {}]), || say(vec![ended()]), "ran", "sealed", true),
        (|| say(vec![Committed {}, refused("user")]), || say(vec![unknown()]), "unknown", "own words", true),
        (|| say(vec![NotKnown {}]), || say(vec![NotKnown {}]), "aborted", "never got", false),
        (|| say(vec![Started {}, not_started()]), || say(vec![ended()]), "ran", "sealed", true),
    ];
    for (index, (handed, asked, end, says, forgets)) in cases.into_iter().enumerate() {
        let before = (rig.runner.count("job"), rig.runner.count("forget"));
        rig.runner.plan("job", handed());
        rig.runner.plan("outcome", asked());
        let envelope = rig.job(SCRIPT);
        let (receipt, states) = rig.submit(&envelope).await;
        let shown = outcome(&receipt).to_string();
        let kind = match outcome(&receipt) {
            Outcome::Ran { .. } => "ran",
            Outcome::Aborted { .. } => "aborted",
            Outcome::Unknown { .. } => "unknown",
            _ => "?",
        };
        assert!(kind == end && shown.contains(says), "case {index}: {shown}");
        assert!(states.contains(&OrderState::Committed), "case {index}");
        let executing = states.iter().filter(|state| **state == OrderState::Executing).count();
        assert!(executing <= 1, "case {index}: {states:?}");
        assert_eq!(rig.runner.count("job"), before.0 + 1, "case {index}");
        assert_eq!(rig.runner.count("forget"), before.1 + usize::from(forgets), "case {index}");
        assert_eq!(rig.warden.results.read(&envelope.id()).unwrap().is_some(), end == "ran", "case {index}");
        assert_eq!(code(&rig.submit(&envelope).await.0), RefusalCode::Replay, "case {index}");
        // What was planned and not asked for must not answer the next case.
        rig.runner.forget_plans();
    }
    assert_eq!(rig.open_orders(), 0);
    rig.inspect();
}

/// A runner that takes the script and says nothing more is waited for as long as the script may run, and a
/// little longer; then the truth is that nobody knows.
#[tokio::test(start_paused = true)]
async fn silence_is_unknown_and_no_reason_to_ask_twice() {
    let rig = Rig::start().await;
    let whole = u64::from(TIMEOUT_S) + SLACK_S;
    rig.runner.plan("job", vec![Act::Hang]);
    let begun = tokio::time::Instant::now();
    let (receipt, _) = rig.submit(&rig.job(SCRIPT)).await;
    assert!(matches!(outcome(&receipt), Outcome::Unknown { .. }), "{}", outcome(&receipt));
    assert!(outcome(&receipt).to_string().contains(&format!("within {whole} s")), "{}", outcome(&receipt));
    assert!((whole..whole + 5).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!((rig.runner.count("job"), rig.runner.count("forget")), (1, 0));

    // It is gone right after it was handed the script, and never comes back.
    rig.runner.plan("job", vec![Act::AwaitEnd]);
    let running = rig.spawn(&rig.job(SCRIPT));
    rig.runner.wait("job", 2).await;
    rig.runner.leave().await;
    rig.runner.drop_connections();
    let receipt = rig.read(within(1000, running).await.unwrap());
    assert!(
        outcome(&receipt).to_string().contains("nobody listens")
            || outcome(&receipt).to_string().contains("no such socket"),
        "{}",
        outcome(&receipt)
    );
    assert!(matches!(outcome(&receipt), Outcome::Unknown { .. }));
    assert_eq!(rig.runner.count("job"), 2);
}

/// The runner is restarted in the middle: it is asked until it answers.
#[tokio::test(start_paused = true)]
async fn a_runner_that_comes_back_is_asked_and_not_told_again() {
    let rig = Rig::start().await;
    rig.runner.plan("job", vec![Act::Say(RunnerAnswer::Started {}), Act::AwaitEnd]);
    let envelope = rig.job(SCRIPT);
    let running = rig.spawn(&envelope);
    rig.runner.wait("job", 1).await;
    rig.runner.leave().await;
    rig.runner.drop_connections();
    tokio::time::sleep(std::time::Duration::from_secs(45)).await;
    assert!(!running.is_finished());
    // Up again, but not itself yet; then it is.
    rig.runner.plan("outcome", vec![]);
    rig.runner.say("outcome", vec![refused("closed")]);
    rig.runner.plan("outcome", vec![Act::Junk(serde_json::json!({"answer": "root_shell"}))]);
    rig.runner.say("outcome", vec![RunnerAnswer::Started {}, ended()]);
    rig.runner.listen().await;
    assert_eq!(*outcome(&rig.read(within(1000, running).await.unwrap())), ran());
    assert_eq!((rig.runner.count("job"), rig.runner.count("outcome")), (1, 4));
    assert_eq!(rig.end_of(&envelope), ran());
}

/// The request does not fit into the socket's buffer, and the runner does not read.
#[tokio::test(start_paused = true)]
async fn a_handover_that_stalls_is_settled_by_asking() {
    let rig = Rig::start().await;
    let script = vec![b'#'; protocol::job::MAX_SCRIPT];
    rig.runner.say("job", good_run());
    assert_eq!(*outcome(&rig.submit(&rig.job(&script)).await.0), ran(), "the largest script fits");
    rig.runner.deaf_after(1);
    rig.runner.say("outcome", vec![RunnerAnswer::NotKnown {}]);
    let (receipt, _) = rig.submit(&rig.job(&script)).await;
    assert!(matches!(outcome(&receipt), Outcome::Aborted { .. }), "{}", outcome(&receipt));
    assert_eq!((rig.runner.count("job"), rig.runner.count("outcome")), (1, 1));
}

#[tokio::test]
async fn many_scripts_run_at_once_and_no_more() {
    let rig = Rig::start().await;
    let running: Vec<_> = (0..MAX_RUNNING)
        .map(|_| {
            rig.runner.plan("job", vec![Act::Say(RunnerAnswer::Started {}), Act::AwaitEnd]);
            rig.spawn(&rig.job(SCRIPT))
        })
        .collect();
    rig.runner.wait("job", MAX_RUNNING).await;
    let late = rig.job(SCRIPT);
    let (receipt, _) = rig.submit(&late).await;
    assert_eq!(code(&receipt), RefusalCode::Busy);
    assert_eq!(rig.warden.status().closed, None, "the warden answers meanwhile");
    for job in &running {
        job.abort();
    }
    for job in running {
        assert!(job.await.unwrap_err().is_cancelled());
    }
    rig.runner.say("job", good_run());
    assert_eq!(*outcome(&rig.submit(&late).await.0), ran());
}

#[tokio::test]
async fn results_that_nobody_takes_stop_further_scripts() {
    let rig = Rig::start().await;
    for n in 0..MAX_WAITING {
        let result = StoredResult::new(Sha256::of(&n.to_be_bytes()), vec![1].into(), 1).unwrap();
        rig.warden.results.store(&result).unwrap();
    }
    let envelope = rig.job(SCRIPT);
    let (receipt, _) = rig.submit(&envelope).await;
    assert_eq!(code(&receipt), RefusalCode::Busy);
    assert!(outcome(&receipt).to_string().contains("reaches the hub"), "{}", outcome(&receipt));
    rig.warden.results.answer_stored(&Sha256::of(&0_usize.to_be_bytes()));
    rig.runner.say("job", good_run());
    assert_eq!(*outcome(&rig.submit(&envelope).await.0), ran());
}

/// There is no receipt before the result is durable, and the runner keeps its copy until then.
#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_stored_is_tried_again() {
    let rig = Rig::start().await;
    let directory = rig.dir.path().join("state/results");
    let (go, gate) = oneshot::channel();
    let mut acts = vec![Act::Say(RunnerAnswer::Started {}), Act::Await(gate)];
    acts.push(Act::Say(ended()));
    rig.runner.plan("job", acts);
    let running = rig.spawn(&rig.job(SCRIPT));
    rig.runner.wait("job", 1).await;
    std::fs::remove_dir(&directory).unwrap();
    std::fs::write(&directory, "in the way").unwrap();
    go.send(()).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(100)).await;
    assert!(!running.is_finished());
    assert_eq!((rig.runner.count("job"), rig.runner.count("forget"), rig.log().len()), (1, 0, 1));
    std::fs::remove_file(&directory).unwrap();
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(*outcome(&rig.read(within(1000, running).await.unwrap())), ran());
    assert_eq!((rig.runner.count("job"), rig.runner.count("forget"), waiting(&rig).len()), (1, 1, 1));
}

#[tokio::test]
async fn a_result_that_is_too_large_is_no_success() {
    let rig = Rig::start().await;
    let sealed: Bytes = vec![0; MAX_SEALED_RESULT + 1].into();
    rig.runner.say("job", vec![RunnerAnswer::Ended { sealed, duration_ms: 1 }]);
    let (receipt, _) = rig.submit(&rig.job(SCRIPT)).await;
    assert!(matches!(outcome(&receipt), Outcome::Unknown { .. }), "{}", outcome(&receipt));
    assert_eq!(waiting(&rig), []);
}

/// Two copies of one order at once, as a hub could deliver them.
#[tokio::test]
async fn two_copies_at_once_run_once() {
    let rig = Rig::start().await;
    let envelope = rig.job(SCRIPT);
    rig.runner.say("job", good_run());
    rig.runner.say("job", good_run());
    let (one, two) = tokio::join!(rig.submit(&envelope), rig.submit(&envelope));
    let done = [&one.0, &two.0].into_iter().filter(|r| outcome(r).is_success()).count();
    assert_eq!((done, rig.runner.count("job")), (1, 1), "{} / {}", outcome(&one.0), outcome(&two.0));
}

/// The kinds keep to their own requests.
#[tokio::test]
async fn orders_on_the_wrong_request_are_refused() {
    let rig = Rig::start().await;
    let (receipt, _) = rig.submit(&rig.session()).await;
    assert_eq!(code(&receipt), RefusalCode::Kind);
    assert!(outcome(&receipt).to_string().contains("writ ssh"), "{}", outcome(&receipt));
    let mut start = rig.order(Params::GuestStart(authz::order::NoParams {}));
    start.guest = Some(protocol::GuestRef {
        vmid: 101.try_into().unwrap(),
        kind: protocol::GuestKind::Qemu,
        name: "db".into(),
        identity: protocol::GuestIdentity { smbios_uuid: Some("x".into()), ..Default::default() },
    });
    for envelope in [rig.job(SCRIPT), sign(&rig.alice, Namespace::Op, &start)] {
        let receipt = rig.refused_session(&envelope).await;
        assert_eq!(code(&receipt), RefusalCode::Kind);
        assert!(outcome(&receipt).to_string().contains(Kind::SessionOpen.as_str()), "{}", outcome(&receipt));
    }
    assert_eq!((rig.inspect().0, rig.runner.seen().len()), (0, 0));
}
