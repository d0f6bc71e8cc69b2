use protocol::Envelope;

use super::*;
use crate::testing::{NOW, believed, done, ended, mallory, name, receipt};

fn op() -> Sha256 {
    Sha256::of(b"order")
}

fn view(receipts: Vec<(u64, Signed)>) -> OrderView {
    OrderView {
        op: op(),
        version: receipts.iter().map(|(version, _)| *version).max().unwrap_or(0),
        submitted_by: name("alice"),
        submitted_at: NOW,
        envelope: Envelope::new(b"order".to_vec().into(), vec![]),
        delivered: true,
        online: true,
        progress: None,
        problem: None,
        result: None,
        receipts: receipts.into_iter().map(|(version, receipt)| OrderReceipt { version, receipt }).collect(),
    }
}

fn refused(code: RefusalCode) -> Outcome {
    Outcome::Refused { code, why: "used before".parse().unwrap() }
}

#[test]
fn the_end_of_this_submission_counts_and_no_older_one() {
    let host = believed(1, "web1");
    let old = receipt(1, None, ended(op(), done()));
    let story1 = story(&view(vec![(3, old.clone())]), 3, &host, &op()).unwrap();
    assert!(story1.end.is_none() && story1.earlier_success.is_some());

    let replay = receipt(1, None, ended(op(), refused(RefusalCode::Replay)));
    let story2 = story(&view(vec![(3, old), (5, replay)]), 4, &host, &op()).unwrap();
    let end = story2.end.unwrap();
    let outcome = end.order_outcome().unwrap().1;
    assert!(is_replay(outcome) && !outcome.is_success());
    assert!(story2.earlier_success.is_some());
}

#[test]
fn a_refusal_outside_the_log_is_the_end_of_nothing() {
    let host = believed(1, "web1");
    let stripped = receipt(1, None, ended(op(), refused(RefusalCode::Unsigned)));
    let real = receipt(1, Some((4, Sha256::of(b"x"))), ended(op(), done()));
    let replay = receipt(1, Some((5, Sha256::of(b"y"))), ended(op(), refused(RefusalCode::Replay)));
    for receipts in [
        vec![(1, stripped.clone()), (2, real.clone()), (3, replay.clone())],
        vec![(1, real), (2, stripped.clone()), (3, replay.clone())],
    ] {
        let end = story(&view(receipts), 0, &host, &op()).unwrap().end.unwrap();
        assert!(end.order_outcome().unwrap().1.is_success());
    }
    let end = story(&view(vec![(1, stripped), (2, replay)]), 0, &host, &op()).unwrap().end.unwrap();
    assert!(is_replay(end.order_outcome().unwrap().1));
}

#[test]
fn a_committed_order_has_not_ended() {
    let event = Event::OrderCommitted { op: op(), kind: "snapshot.rollback".into(), signers: vec![] };
    let story = story(&view(vec![(1, receipt(1, None, event))]), 0, &believed(1, "web1"), &op()).unwrap();
    assert!(story.committed && story.end.is_none());
}

/// A hub that delivers an order twice while it runs gets a refusal of the second copy.
#[test]
fn a_second_copy_of_a_running_order_does_not_end_it() {
    let event = Event::OrderCommitted { op: op(), kind: "job.run".into(), signers: vec![] };
    let committed = receipt(1, Some((4, Sha256::of(b"x"))), event);
    let replay = receipt(1, Some((5, Sha256::of(b"y"))), ended(op(), refused(RefusalCode::Replay)));
    let receipts = vec![(2, committed), (3, replay)];
    let host = believed(1, "web1");
    let running = story(&view(receipts.clone()), 1, &host, &op()).unwrap();
    assert!(running.committed && running.end.is_none());
    // For whoever submits it later, that refusal is the answer.
    assert!(story(&view(receipts), 2, &host, &op()).unwrap().end.is_some());
}

#[test]
fn forged_receipts_are_never_success() {
    let host = believed(1, "web1");
    let genuine = receipt(1, None, ended(op(), done()));
    let by_mallory = Receipt::verify(&genuine, host.id(), &host.key).unwrap().sign(&mallory());
    let other_host = receipt(2, None, ended(op(), done()));
    let mut altered = genuine.clone();
    let place = altered.payload.0.windows(6).position(|w| w == b"rolled").unwrap();
    altered.payload.0[place] = b'R';
    let mut unsigned = genuine.clone();
    unsigned.sig.clear();
    for lie in [by_mallory, other_host, altered, unsigned] {
        // Even next to a genuine one, and even as an old one.
        for receipts in [vec![(1, lie.clone())], vec![(1, genuine.clone()), (2, lie.clone())]] {
            let error = story(&view(receipts), 1, &host, &op()).unwrap_err();
            assert!(error.to_string().starts_with("forged receipt: "), "{error}");
        }
    }
}

#[test]
fn receipts_of_other_orders_are_refused() {
    let host = believed(1, "web1");
    let other = receipt(1, None, ended(Sha256::of(b"another"), done()));
    let step = receipt(
        1,
        None,
        Event::Step {
            generation: 4,
            kind: "guest.start".into(),
            vmid: Some(101.try_into().unwrap()),
            what: "start".parse().unwrap(),
            outcome: done(),
        },
    );
    let started = receipt(
        1,
        None,
        Event::StepStarted {
            generation: 4,
            kind: "guest.start".into(),
            vmid: Some(101.try_into().unwrap()),
            what: "start".parse().unwrap(),
            effect: None,
        },
    );
    for lie in [other, step, started] {
        let error = story(&view(vec![(1, lie)]), 0, &host, &op()).unwrap_err();
        assert!(matches!(error, JudgeError::OtherOrder { .. }), "{error}");
    }
    let mut wrong = view(vec![]);
    wrong.op = Sha256::of(b"another");
    assert!(matches!(story(&wrong, 0, &host, &op()), Err(JudgeError::OtherView { .. })));
}

#[test]
fn another_generation_of_the_key_is_refused() {
    let mut host = believed(1, "web1");
    host.statement.host_key_gen = 2;
    let error = believe(&receipt(1, None, ended(op(), done())), &host).unwrap_err();
    assert!(matches!(error, JudgeError::Generation { expected: 2, found: 1, .. }));
}

fn log(length: u64) -> Vec<Signed> {
    let mut prev = Sha256::from_bytes([0; 32]);
    (0..length)
        .map(|seq| {
            let signed = receipt(1, Some((seq, prev)), ended(Sha256::of(&seq.to_be_bytes()), done()));
            prev = Sha256::of(&signed.payload.0);
            signed
        })
        .collect()
}

fn follow(entries: &[Signed]) -> Result<Chain, ChainError> {
    let (mut chain, host) = (Chain::default(), believed(1, "web1"));
    for entry in entries {
        chain.push(entry, &host)?;
    }
    Ok(chain)
}

#[test]
fn a_whole_log_is_believed_and_every_crack_is_named() {
    let entries = log(4);
    let chain = follow(&entries).unwrap();
    chain.finish(4).unwrap();
    assert!(matches!(chain.finish(5), Err(ChainError::Missing { held: 5, shown: 4 })));

    let gap = [&entries[..1], &entries[2..]].concat();
    assert!(matches!(follow(&gap), Err(ChainError::Place { place: 1, found: 2 })));
    assert!(matches!(follow(&entries[1..]), Err(ChainError::Place { place: 0, found: 1 })));
    let doubled = [&entries[..2], &entries[1..]].concat();
    assert!(matches!(follow(&doubled), Err(ChainError::Place { place: 2, found: 1 })));
    let forked = [&entries[..2], &[receipt(1, Some((2, Sha256::of(b"x"))), ended(op(), done()))]].concat();
    assert!(matches!(follow(&forked), Err(ChainError::Prev { place: 2 })));
    let outside = [&entries[..1], &[receipt(1, None, ended(op(), done()))]].concat();
    assert!(matches!(follow(&outside), Err(ChainError::NoEntry { place: 1 })));
    let foreign = [&entries[..1], &[receipt(2, Some((1, Sha256::of(b"x"))), ended(op(), done()))]].concat();
    assert!(matches!(follow(&foreign), Err(ChainError::Receipt { place: 1, .. })));
    // The first entry must not pretend to continue anything.
    let headless = [receipt(1, Some((0, Sha256::of(b"x"))), ended(op(), done()))];
    assert!(matches!(follow(&headless), Err(ChainError::Prev { place: 0 })));
}

#[test]
fn only_the_hosts_own_word_about_this_order_names_a_sessions_key() {
    let (host, key) = (believed(1, "web1"), mallory().public());
    let ready = |op| Event::SessionReady { op, host_key: key.to_wire() };
    let good = receipt(1, Some((3, Sha256::of(b"x"))), ready(op()));
    assert_eq!(session_host_key(&good, &host, &op()).unwrap(), key);
    let committed = Event::OrderCommitted { op: op(), kind: "session.open".into(), signers: vec![] };
    let weak = Event::SessionReady { op: op(), host_key: protocol::Ed25519Key::from_bytes([0; 32]) };
    for (lie, says) in [
        (receipt(2, None, ready(op())), "forged receipt"),
        (Receipt::verify(&good, host.id(), &host.key).unwrap().sign(&mallory()), "forged receipt"),
        (receipt(1, None, ready(Sha256::of(b"another"))), "wrong or lying"),
        (receipt(1, None, committed), "only accepted"),
        (receipt(1, None, ended(op(), done())), "done: "),
        (receipt(1, None, weak), "malformed or weak"),
    ] {
        let error = session_host_key(&lie, &host, &op()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_sessions_story_knows_that_it_was_open() {
    let host = believed(1, "web1");
    let ready = Event::SessionReady { op: op(), host_key: mallory().public().to_wire() };
    let receipts = vec![(1, receipt(1, None, ready))];
    let new = story(&view(receipts.clone()), 0, &host, &op()).unwrap();
    assert!(new.ready && new.committed && new.end.is_none());
    assert!(!story(&view(receipts), 1, &host, &op()).unwrap().ready);
}
