//! What of the host's own state decides about an order: its plans, its clock, how old its policy may be; and
//! what the policy asks for besides the rule.

use super::*;
use crate::clock::State;
use crate::plan::{Plan, PlanBook, draft_of};
use crate::policy::{PolicyDocument, Protection};
use protocol::Vmid;

fn under(document: &PolicyDocument, order: &Order) -> (Policy, Order) {
    let policy = Policy::decode(&document.encode()).unwrap();
    let order = Order { policy: (&policy).into(), ..order.clone() };
    (policy, order)
}

fn decide(
    document: &PolicyDocument,
    order: &Order,
    keys: &[SecretKey],
    facts: &HostFacts<'_>,
) -> Result<(), RefusalCode> {
    let (policy, order) = under(document, order);
    let namespace = order.kind().namespace();
    let payload = order.encode();
    let sigs = keys.iter().map(|key| key.sign(namespace, &payload)).collect();
    verify(&Envelope::new(payload.into(), sigs), &policy, facts, NOW)
        .map(drop)
        .map_err(|refusal| refusal.code)
}

/// Both may sign scripts and sessions too, and nothing stands.
fn strict() -> PolicyDocument {
    let mut document = document();
    document.roles[0].namespaces.extend([Namespace::Job, Namespace::Session]);
    document.rules.extend([rule(Kind::JobRun, 1), rule(Kind::GuestStart, 1)]);
    document.rules.push(Rule { standing: false, max_validity_s: 600, ..rule(Kind::SessionOpen, 1) });
    document.rules[0].standing = false;
    document
}

#[test]
fn a_plan_takes_the_place_of_standing() {
    let document = strict();
    let (_, draft) = under(&document, &rollback());
    let plan = Plan {
        v: 1,
        host: host().id,
        host_key_gen: 1,
        draft: draft_of(&draft),
        kind: draft.kind(),
        vmid: None,
        effects: vec![],
        calls: vec![],
        config_sha256: None,
        challenge: Sha256::of(b"challenge"),
        boot_id: "boot".parse().unwrap(),
        boottime_s: 100,
        time: NOW,
        log_size: 7,
    };
    let signed = plan.sign(&SecretKey::from_seed(&[1; 32]));
    let name = PlanRef { sha256: Sha256::of(&signed.payload.0), challenge: plan.challenge };
    let order = Order { plan: Some(name), ..draft.clone() };
    let mut book = PlanBook::default();
    let keys = [alice()];
    let with = |book: &PlanBook, at, clock| {
        decide(&document, &order, &keys, &HostFacts { plans: Some((book, at)), clock, ..host() })
    };
    assert_eq!(decide(&document, &draft, &keys, &host()), Err(RefusalCode::NeedsPlan));
    assert_eq!(with(&book, 100, State::Trusted), Err(RefusalCode::Plan), "nobody made it here");
    book.remember(plan, &signed);
    assert_eq!(with(&book, 100, State::Trusted), Ok(()));
    // The age of a plan is known by the kernel's clock, so the wall clock may be wrong.
    assert_eq!(with(&book, 100, State::Behind), Ok(()));
    assert_eq!(with(&book, 100, State::Suspect), Ok(()));
    assert_eq!(with(&book, 100 + crate::plan::LIFE_S + 1, State::Trusted), Err(RefusalCode::Plan));
    assert_eq!(decide(&document, &order, &keys, &host()), Err(RefusalCode::Plan), "no plans are made here");
    // A plan is no way around the order's own times.
    let late = Order { exp: NOW - 1, ..draft };
    assert_eq!(decide(&document, &late, &keys, &host()), Err(RefusalCode::NeedsPlan));
}

#[test]
fn a_wrong_clock_stops_all_that_has_no_plan() {
    let document = strict();
    let start = start_order();
    for clock in [State::Behind, State::Suspect] {
        let facts = HostFacts { clock, ..host() };
        for order in [&start, &job(), &session()] {
            assert_eq!(decide(&document, order, &[alice()], &host()), Ok(()), "{}", order.kind());
            assert_eq!(
                decide(&document, order, &[alice()], &facts),
                Err(RefusalCode::Clock),
                "{}",
                order.kind()
            );
        }
    }
}

/// What the journal may have forgotten is refused by the floor, whatever the clock says.
#[test]
fn the_signed_floor_ends_an_order_whatever_the_clock_says() {
    let (policy, order) = (policy(), rollback());
    let signed = envelope(&order, &[alice()]);
    let at = |floor: u64, now: u64| {
        let facts = HostFacts { floor, ..host() };
        verify(&signed, &policy, &facts, now).map(drop).map_err(|refusal| refusal.code)
    };
    assert_eq!(at(order.exp - 1, NOW), Ok(()));
    for now in [0, order.nbf, NOW, order.exp, order.exp + 1, u64::MAX] {
        assert_eq!(at(order.exp, now), Err(RefusalCode::Expired), "{now}");
        assert_eq!(at(u64::MAX, now), Err(RefusalCode::Expired), "{now}");
    }
    // The clock decides of what the floor lets through, to the second.
    assert_eq!(at(0, order.exp), Ok(()));
    assert_eq!(at(0, order.exp + 1), Err(RefusalCode::Expired));
    assert_eq!(at(0, order.nbf - CLOCK_SKEW_S), Ok(()));
    assert_eq!(at(0, order.nbf - CLOCK_SKEW_S - 1), Err(RefusalCode::TooEarly));
}

#[test]
fn an_outdated_policy_asks_for_one_more_and_opens_nothing() {
    let document = strict();
    let start = start_order();
    let stale = HostFacts { stale: true, ..host() };
    assert_eq!(decide(&document, &start, &[alice()], &stale), Err(RefusalCode::Threshold));
    assert_eq!(decide(&document, &start, &[alice(), bob()], &stale), Ok(()));
    for order in [job(), session()] {
        assert_eq!(decide(&document, &order, &[alice(), bob()], &stale), Err(RefusalCode::Stale));
    }
}

#[test]
fn protected_guests_need_more() {
    let vmid = rollback().guest.unwrap().vmid;
    let protect = |extra| {
        let mut document = document();
        document.protected = vec![Protection { guests: (vmid, vmid), extra }];
        document
    };
    assert_eq!(decide(&protect(Some(1)), &rollback(), &[alice()], &host()), Err(RefusalCode::Threshold));
    assert_eq!(decide(&protect(Some(1)), &rollback(), &[alice(), bob()], &host()), Ok(()));
    assert_eq!(decide(&protect(None), &rollback(), &[alice(), bob()], &host()), Err(RefusalCode::Protected));
    // The strictest of several counts; another guest and what destroys nothing are as before.
    let mut both = protect(Some(1));
    both.protected.push(Protection { guests: (vmid, vmid), extra: None });
    assert_eq!(decide(&both, &rollback(), &[alice(), bob()], &host()), Err(RefusalCode::Protected));
    let mut other = rollback();
    other.guest.as_mut().unwrap().vmid = Vmid::try_from(150).unwrap();
    assert_eq!(decide(&protect(None), &other, &[alice()], &host()), Ok(()));
    let mut start = protect(None);
    start.rules.push(rule(Kind::GuestStart, 1));
    let order = start_order();
    assert_eq!(decide(&start, &order, &[alice()], &host()), Ok(()));
}

/// Separation of duty: nobody stands for two roles.
#[test]
fn each_role_signs_with_somebody_of_its_own() {
    let mut document = document();
    document.roles[1].namespaces.push(Namespace::Op);
    document.rules[0] = Rule { also: vec!["helpdesk".parse().unwrap()], ..rule(Kind::SnapshotRollback, 2) };
    let orders = |keys: &[SecretKey]| decide(&document, &rollback(), keys, &host());
    assert_eq!(orders(&[alice(), bob()]), Err(RefusalCode::Threshold), "nobody of the helpdesk");
    assert_eq!(orders(&[helpdesk()]), Err(RefusalCode::Threshold));
    assert_eq!(orders(&[alice(), helpdesk()]), Ok(()));
    assert_eq!(orders(&[helpdesk(), bob(), alice()]), Ok(()));
    // Alice in both roles is still one person; with bob, she stands for the helpdesk.
    document.roles[1].members.push("alice".parse().unwrap());
    let orders = |keys: &[SecretKey]| decide(&document, &rollback(), keys, &host());
    assert_eq!(orders(&[alice()]), Err(RefusalCode::Threshold));
    assert_eq!(orders(&[alice(), bob()]), Ok(()));
    assert_eq!(orders(&[alice(), alice()]), Err(RefusalCode::Threshold));
}

/// The signer's anchor in the host's log: what the log was then, and it may have grown since.
#[test]
fn the_log_may_have_grown_since_the_signer_saw_it() {
    let heads = |size: u64| match size {
        6 => Some(Sha256::of(b"six")),
        7 => Some(Sha256::of(b"head")),
        // As no log of ours would say it: what the size rules out is refused by the size alone.
        8 => Some(Sha256::of(b"eight")),
        _ => None,
    };
    let facts = HostFacts { log: Some(LogFacts { size: 7, head_at: &heads }), ..host() };
    let at = |size: u64, head: &[u8], strict: bool| {
        let after = Some(LogAnchor { size, head: Sha256::of(head), strict });
        let order = Order { after, ..rollback() };
        verify(&envelope(&order, &[alice()]), &policy(), &facts, NOW)
            .map(drop)
            .map_err(|refusal| refusal.code)
    };
    assert_eq!(at(6, b"six", false), Ok(()));
    assert_eq!(at(7, b"head", false), Ok(()));
    assert_eq!(at(7, b"head", true), Ok(()));
    for (size, head, strict) in [
        (8, &b"eight"[..], false),
        (8, b"eight", true),
        (6, b"six", true),
        (6, b"head", false),
        (5, b"", false),
    ] {
        assert_eq!(at(size, head, strict), Err(RefusalCode::LogAnchor), "{size} {strict}");
    }
}

/// V1 and the rule's longest validity, to the last one.
#[test]
fn limits_are_the_last_that_is_allowed() {
    let longest = policy().rule(Kind::SnapshotRollback).unwrap().max_validity_s;
    let lasting = |seconds: u64| {
        let order = Order { nbf: NOW, exp: NOW + seconds, ..rollback() };
        run(&envelope(&order, &[alice()])).map(drop).map_err(|refusal| refusal.code)
    };
    assert_eq!(lasting(longest), Ok(()));
    assert_eq!(lasting(longest + 1), Err(RefusalCode::Validity));

    let order = rollback();
    let signed = |count: usize| {
        let keys: Vec<SecretKey> = (0..count).map(|_| alice()).collect();
        run(&envelope(&order, &keys)).map(drop).map_err(|refusal| refusal.code)
    };
    assert_eq!(signed(Envelope::MAX_SIGNATURES), Ok(()), "one person, many times");
    assert_eq!(signed(Envelope::MAX_SIGNATURES + 1), Err(RefusalCode::Size));
    let of_length = |length: usize| {
        let payload = vec![b'x'; length];
        let sigs = vec![alice().sign(Namespace::Op, &payload)];
        code(&Envelope::new(payload.into(), sigs))
    };
    assert_eq!(of_length(Envelope::MAX_PAYLOAD), RefusalCode::BadOrder);
    assert_eq!(of_length(Envelope::MAX_PAYLOAD + 1), RefusalCode::Size);
}
