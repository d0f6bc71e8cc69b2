//! Root names the policy, the warden brings it, once.

use protocol::runner::{RunnerAnswer, RunnerRequest};
use protocol::{HostId, Sha256};

use crate::rig::{HOST_ID, Rig, Wishes, all, code, policy};

fn why(answer: &RunnerAnswer) -> &str {
    match answer {
        RunnerAnswer::Refused { why, .. } => why,
        _ => panic!("{answer:?}"),
    }
}

/// Everything but Status.
async fn closed(rig: &Rig, expected: &str, says: &str) {
    let (op, job) = rig.script("exit 0");
    let session = RunnerRequest::Session { envelope: rig.sign(&rig.session()) };
    for ask in [job, session, RunnerRequest::JobOutcome { op }, RunnerRequest::Forget { op }] {
        let answer = rig.ask(&ask).await;
        assert_eq!(code(&answer), expected, "{answer:?}");
        assert!(why(&answer).contains(says), "{answer:?}");
    }
}

#[tokio::test]
async fn without_roots_word_there_is_no_anchor() {
    let rig = Rig::new();
    let wishes = Wishes { policy: None, ..Wishes::default() };
    let process = rig.start(&wishes, "").await;
    assert_eq!(rig.status().await.anchored, None);
    closed(&rig, "runner", "policy_sha256").await;
    let answer = rig.anchor().await;
    assert_eq!(code(&answer), "runner");
    assert!(why(&answer).contains("writ policy show"), "{answer:?}");
    let (good, text) = rig.run("status", &wishes).await;
    assert!(good && text.contains("not anchored: root writes"), "{text}");
    drop(process);

    let other = Wishes { policy: Some(Sha256::of(b"other")), ..Wishes::default() };
    let process = rig.start(&other, "").await;
    assert_eq!(code(&rig.anchor().await), "other_policy");
    closed(&rig, "runner", "has not brought it").await;
    drop(process);
    assert_eq!(rig.again().await.output().matches("ERROR").count(), 0, "nothing was left behind");
}

#[tokio::test]
async fn the_first_anchor_stays() {
    let (rig, process) = Rig::anchored().await;
    assert_eq!(rig.anchor().await, RunnerAnswer::Done {}, "the same again is no error");
    let status = rig.status().await.anchored.unwrap();
    assert_eq!((status.host_id, status.host_key_gen), (HOST_ID, 1));
    assert_eq!(status.policy, Sha256::of(&policy().encode()));
    let RunnerRequest::Anchor { policy: bytes, host_id, host_key, .. } = rig.anchor_request() else {
        unreachable!()
    };
    let ask = |policy, host_id, host_key, host_key_gen| RunnerRequest::Anchor {
        policy,
        documents: vec![],
        host_id,
        host_key,
        host_key_gen,
    };
    let mut second = policy();
    second.issued_at += 1;
    for (other, expected) in [
        (ask(bytes.clone(), HostId::from_bytes([9; 16]), host_key, 1), "anchored"),
        (ask(bytes.clone(), host_id, rig.operator.public().to_wire(), 1), "anchored"),
        (ask(bytes.clone(), host_id, host_key, 2), "anchored"),
        (ask(bytes.clone(), host_id, protocol::Ed25519Key::from_bytes([0; 32]), 1), "bad_anchor"),
        (ask(second.encode().into(), host_id, host_key, 1), "other_policy"),
    ] {
        assert_eq!(code(&rig.ask(&other).await), expected);
    }
    assert_eq!(rig.status().await.anchored, Some(status.clone()));
    drop(process);
    let _process = rig.again().await;
    assert_eq!(rig.status().await.anchored, Some(status));
    let (_, ask) = rig.script("exit 0");
    let answers = all(&mut rig.send(&ask).await).await;
    assert!(matches!(answers.last(), Some(RunnerAnswer::Ended { .. })), "{answers:?}");
}

#[tokio::test]
async fn root_can_take_its_word_back_and_give_it_again() {
    let (rig, process) = Rig::anchored().await;
    drop(process);
    for (policy, says) in [(None, "no policy_sha256 any more"), (Some(Sha256::of(b"x")), "correct the line")]
    {
        let wishes = Wishes { policy, ..Wishes::default() };
        let process = rig.start(&wishes, "").await;
        let status = rig.status().await;
        assert!(status.anchored.is_some() && status.closed.unwrap().contains(says));
        closed(&rig, "closed", says).await;
        assert_eq!(code(&rig.anchor().await), "closed");
        drop(process);
        let (good, text) = rig.run("status", &wishes).await;
        assert!(!good && text.contains(says), "{text}");
    }
    let _process = rig.again().await;
    assert_eq!(rig.status().await.closed, None);
    assert_eq!(rig.anchor().await, RunnerAnswer::Done {});
}

fn journal(rig: &Rig) -> std::path::PathBuf {
    let files = std::fs::read_dir(rig.path("state")).unwrap().map(|file| file.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "seg")).unwrap()
}

#[tokio::test]
async fn a_damaged_history_closes_everything() {
    let (rig, process) = Rig::anchored().await;
    let (op, ask) = rig.script("exit 0");
    all(&mut rig.send(&ask).await).await;
    drop(process);
    let path = journal(&rig);
    let good = std::fs::read(&path).unwrap();
    let host = std::fs::read(rig.path("state/host.json")).unwrap();

    std::fs::write(&path, [&good[..], b"WRJN and then the power went"].concat()).unwrap();
    let process = rig.again().await;
    assert_eq!(rig.status().await.closed, None, "a torn end is no damage");
    assert!(matches!(rig.outcome(op).await, RunnerAnswer::Ended { .. }));
    drop(process);

    let mut bad = good.clone();
    bad[10] ^= 1;
    for (what, says) in [
        ("damaged", "damaged at record 0"),
        ("missing", "is missing"),
        ("lost anchor", "host.json is missing"),
    ] {
        match what {
            "damaged" => std::fs::write(&path, &bad).unwrap(),
            "missing" => std::fs::remove_file(&path).unwrap(),
            _ => {
                std::fs::write(&path, &good).unwrap();
                std::fs::remove_file(rig.path("state/host.json")).unwrap();
            }
        }
        let process = rig.again().await;
        assert!(rig.status().await.closed.unwrap().contains(says), "{what}");
        closed(&rig, "closed", says).await;
        assert_eq!(code(&rig.anchor().await), "closed", "{what}");
        drop(process);
        let (good, text) = rig.run("status", &Wishes::default()).await;
        assert!(!good && text.contains(says), "{text}");
    }
    authz::files::write_atomic(&rig.path("state/host.json"), &host).unwrap();
    let _process = rig.again().await;
    assert_eq!(rig.status().await.closed, None);
    assert_eq!(code(&rig.ask(&ask).await), "replay");
}

#[tokio::test]
async fn one_runner_a_state_directory() {
    let (rig, _process) = Rig::anchored().await;
    let (good, text) = rig.run("serve", &Wishes::default()).await;
    assert!(!good && text.contains("another writ-runner uses this state directory"), "{text}");
    assert!(rig.path("run/socket").exists(), "the first one's socket was left alone");
    assert_eq!(rig.anchor().await, RunnerAnswer::Done {});
}

fn signed(payload: Vec<u8>, key: &authz::SecretKey) -> protocol::Envelope {
    let sig = key.sign(authz::Namespace::Policy, &payload);
    protocol::Envelope::new(payload.into(), vec![sig])
}

/// The runner follows the chain by its own judgement, keeps it, and never goes back.
#[tokio::test]
async fn the_chain_is_followed_and_kept() {
    use authz::Policy;
    use authz::policy::PolicyDocument;
    let (rig, process) = Rig::anchored().await;
    let first = Policy::decode(&policy().encode()).unwrap();
    let mut next = PolicyDocument::next_after(&first, runner::now());
    next.rules.truncate(1);
    let two = signed(next.encode(), &rig.operator);
    let ask = |documents| RunnerRequest::Policy { documents };
    let stranger = authz::SecretKey::from_seed(&[66; 32]);
    let bad = rig.ask(&ask(vec![signed(next.encode(), &stranger)])).await;
    assert_eq!(code(&bad), "unknown_signer");
    assert_eq!(rig.ask(&ask(vec![two.clone()])).await, RunnerAnswer::Done {});
    assert_eq!(rig.ask(&ask(vec![two.clone()])).await, RunnerAnswer::Done {}, "known");
    let mut fork = next.clone();
    fork.rules.clear();
    assert_eq!(code(&rig.ask(&ask(vec![signed(fork.encode(), &rig.operator)])).await), "chain");
    let anchored = rig.status().await.anchored.unwrap();
    assert_eq!((anchored.policy, anchored.documents), (Sha256::of(&next.encode()), 1));
    // The same beginning again changes nothing.
    assert_eq!(rig.anchor().await, RunnerAnswer::Done {});
    assert_eq!(rig.status().await.anchored, Some(anchored.clone()));
    drop(process);
}
