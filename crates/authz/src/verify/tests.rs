use super::*;
use crate::namespace::Namespace;
use crate::order::LogAnchor;
use crate::order::tests::{HOST_KEY, NOW, job, rollback, session, start_order};
use crate::order::{NoParams, Params, PlanRef};
use crate::policy::tests::{alice, bob, document, helpdesk, mallory, policy, rule};
use crate::secret::SecretKey;

mod circumstances;
mod credentials;

fn host() -> HostFacts<'static> {
    HostFacts {
        clock: crate::clock::State::Trusted,
        floor: NOW - 700_000,
        stale: false,
        plans: None,
        id: HostId::from_bytes([0x11; 16]),
        key: Fingerprint::of_key_blob(&HOST_KEY),
        generation: 1,
        log: Some(LogFacts { size: 7, head_at: &|size| (size == 7).then(|| Sha256::of(b"head")) }),
    }
}

fn envelope(order: &Order, keys: &[SecretKey]) -> Envelope {
    let payload = order.encode();
    let sigs = keys.iter().map(|key| key.sign(Namespace::Op, &payload)).collect();
    Envelope::new(payload.into(), sigs)
}

fn run(envelope: &Envelope) -> Result<Authorized<Order>, Refusal> {
    verify(envelope, &policy(), &host(), NOW)
}

fn code(envelope: &Envelope) -> RefusalCode {
    run(envelope).expect_err("must be refused").code
}

#[test]
fn a_good_order_is_authorized_with_its_signers() {
    let order = rollback();
    let envelope = envelope(&order, &[alice()]);
    let authorized = run(&envelope).unwrap();
    assert_eq!(*authorized.get(), order);
    assert_eq!(*authorized.op(), envelope.id());
    assert_eq!(authorized.signers()[0].operator.as_str(), "alice");
}

/// Every semantic change is refused with its own code, signed properly each time.
#[test]
fn orders_for_another_world_are_refused() {
    type Change = fn(&mut Order);
    let cases: [(&str, Change, RefusalCode); 19] = [
        ("other host", |o| o.host.id = HostId::from_bytes([9; 16]), RefusalCode::OtherHost),
        ("other host key", |o| o.host.key = Fingerprint::of_key_blob(b"x"), RefusalCode::OtherHost),
        ("older key generation", |o| o.host.generation = 0, RefusalCode::OtherHost),
        ("a cluster", |o| o.host.cluster = Some("c1".into()), RefusalCode::OtherHost),
        ("other policy", |o| o.policy.sha256 = Sha256::of(b"x"), RefusalCode::OtherPolicy),
        ("newer policy", |o| o.policy.version = 2, RefusalCode::OtherPolicy),
        ("expired", |o| (o.nbf, o.exp) = (NOW - 100, NOW - 1), RefusalCode::Expired),
        ("early", |o| (o.nbf, o.exp) = (NOW + CLOCK_SKEW_S + 1, NOW + 600), RefusalCode::TooEarly),
        ("window too long", |o| o.exp = o.nbf + 3601, RefusalCode::Validity),
        ("backwards window", |o| o.exp = o.nbf - 1, RefusalCode::Validity),
        ("needs two", |o| o.min_signers = 2, RefusalCode::Threshold),
        ("policy needs two", |o| o.params = Params::SnapshotDelete(NoParams {}), RefusalCode::Threshold),
        (
            "no rule",
            |o| (o.params, o.pre.snapshot) = (Params::GuestStart(NoParams {}), None),
            RefusalCode::Kind,
        ),
        (
            "a plan nobody made",
            |o| o.plan = Some(PlanRef { sha256: Sha256::of(b""), challenge: Sha256::of(b"") }),
            RefusalCode::Plan,
        ),
        (
            "log ahead",
            |o| o.after = Some(LogAnchor { size: 8, head: Sha256::of(b"head"), strict: false }),
            RefusalCode::LogAnchor,
        ),
        (
            "log forked",
            |o| o.after = Some(LogAnchor { size: 7, head: Sha256::of(b"fork"), strict: false }),
            RefusalCode::LogAnchor,
        ),
        (
            "log moved on, strict",
            |o| o.after = Some(LogAnchor { size: 6, head: Sha256::of(b"head"), strict: true }),
            RefusalCode::LogAnchor,
        ),
        ("bad order", |o| o.pre.snapshot = None, RefusalCode::BadOrder),
        ("huge number", |o| o.exp = u64::MAX, RefusalCode::BadOrder),
    ];
    for (what, change, expected) in cases {
        let mut order = rollback();
        change(&mut order);
        let refusal = run(&envelope(&order, &[alice()])).expect_err(what);
        assert_eq!(refusal.code, expected, "{what}: {refusal}");
        assert!(refusal.authenticated, "{what}: a known operator signed it");
        assert_eq!(refusal.signers.len(), 1, "{what}");
    }
    let mut order = rollback();
    order.after = Some(LogAnchor { size: 7, head: Sha256::of(b"head"), strict: true });
    run(&envelope(&order, &[alice()])).unwrap();
}

#[test]
fn signatures_that_do_not_count_are_refused() {
    let order = rollback();
    let good = envelope(&order, &[alice()]);
    assert_eq!(code(&Envelope { sigs: vec![], ..good.clone() }), RefusalCode::Unsigned);
    assert_eq!(code(&envelope(&order, &[mallory()])), RefusalCode::UnknownSigner);
    assert_eq!(
        code(&envelope(&order, &[helpdesk()])),
        RefusalCode::UnknownSigner,
        "known, but not for orders"
    );
    assert_eq!(
        code(&envelope(&order, &[alice(), mallory()])),
        RefusalCode::UnknownSigner,
        "one bad one spoils all"
    );
    let mut altered = good.clone();
    let at = altered.payload.0.iter().position(|b| *b == b'1').unwrap();
    altered.payload.0[at] = b'2';
    assert_eq!(code(&altered), RefusalCode::BadSignature);
    let resigned =
        |namespace| Envelope { sigs: vec![alice().sign(namespace, &good.payload.0)], ..good.clone() };
    assert_eq!(code(&resigned(Namespace::Job)), RefusalCode::UnknownSigner, "alice may not sign scripts");
    for never in
        [Namespace::Policy, Namespace::Enroll, Namespace::Login, Namespace::Receipt, Namespace::Device]
    {
        assert_eq!(code(&resigned(never)), RefusalCode::Namespace, "{never}");
    }
    assert_eq!(code(&Envelope { sigs: vec!["junk".into()], ..good.clone() }), RefusalCode::Malformed);
    assert_eq!(code(&Envelope { sigs: vec![good.sigs[0].clone(); 9], ..good.clone() }), RefusalCode::Size);
    let huge = Envelope { payload: vec![b'x'; Envelope::MAX_PAYLOAD + 1].into(), ..good.clone() };
    assert_eq!(code(&huge), RefusalCode::Size);
    // A bad order by a stranger says nothing about how we parse.
    let junk = Envelope::new(b"junk".to_vec().into(), vec![mallory().sign(Namespace::Op, b"junk")]);
    let refusal = run(&junk).unwrap_err();
    assert_eq!((refusal.code, refusal.authenticated), (RefusalCode::UnknownSigner, false));
    let junk = Envelope::new(b"junk".to_vec().into(), vec![alice().sign(Namespace::Op, b"junk")]);
    assert_eq!(code(&junk), RefusalCode::BadOrder);
}

/// A policy that lets alice sign scripts and sessions as well.
fn wider() -> Policy {
    let mut document = document();
    document.roles[0].namespaces.extend([Namespace::Job, Namespace::Session]);
    document.rules.push(rule(Kind::JobRun, 1));
    let minutes = Rule { standing: false, max_validity_s: 600, ..rule(Kind::SessionOpen, 1) };
    document.rules.push(minutes);
    Policy::decode(&document.encode()).unwrap()
}

/// Rule V7: for each kind exactly its own namespace counts, whatever the signer may sign besides.
#[test]
fn every_kind_has_its_own_namespace() {
    let policy = wider();
    let orders = [(rollback(), Namespace::Op), (job(), Namespace::Job), (session(), Namespace::Session)];
    for (mut order, right) in orders {
        order.policy.sha256 = *policy.hash();
        let payload = order.encode();
        for namespace in Namespace::ALL {
            let sigs = vec![alice().sign(*namespace, &payload)];
            let result = verify(&Envelope::new(payload.clone().into(), sigs), &policy, &host(), NOW);
            match result {
                Ok(authorized) => assert_eq!((*namespace, authorized.get()), (right, &order)),
                Err(refusal) => {
                    assert_ne!(*namespace, right, "{refusal}");
                    assert_eq!(refusal.code, RefusalCode::Namespace, "{namespace} for {right}");
                }
            }
        }
        let both = vec![alice().sign(right, &payload), alice().sign(Namespace::Op, &payload)];
        let mixed = verify(&Envelope::new(payload.clone().into(), both), &policy, &host(), NOW);
        assert!(right == Namespace::Op || mixed.unwrap_err().code == RefusalCode::Namespace);
    }
}

/// A session's grant lives for minutes, whatever a policy would like.
#[test]
fn sessions_are_granted_for_minutes() {
    let mut document = wider().document().clone();
    document.rules.last_mut().unwrap().max_validity_s = 601;
    assert!(Policy::decode(&document.encode()).is_err());
    document.rules.last_mut().unwrap().max_validity_s = 600;
    document.rules.last_mut().unwrap().standing = true;
    assert!(Policy::decode(&document.encode()).is_err());
}

/// Where there is no log (the runner), the rest is checked all the same.
#[test]
fn without_a_log_there_is_no_anchor_to_check() {
    let mut order = rollback();
    order.after = Some(LogAnchor { size: 9, head: Sha256::of(b"x"), strict: true });
    let runner = HostFacts { log: None, ..host() };
    let run = |order: &Order| verify(&envelope(order, &[alice()]), &policy(), &runner, NOW);
    assert!(run(&order).is_ok());
    order.host.id = HostId::from_bytes([9; 16]);
    assert_eq!(run(&order).unwrap_err().code, RefusalCode::OtherHost);
}

/// Rule V20: distinct operators and distinct keys.
#[test]
fn a_threshold_counts_people_not_signatures() {
    let mut order = rollback();
    order.params = Params::SnapshotDelete(NoParams {});
    assert_eq!(code(&envelope(&order, &[alice()])), RefusalCode::Threshold);
    assert_eq!(
        code(&envelope(&order, &[alice(), alice()])),
        RefusalCode::Threshold,
        "the same signature twice"
    );
    assert_eq!(run(&envelope(&order, &[alice(), bob()])).unwrap().signers().len(), 2);

    let mut two_keys = document();
    let second = SecretKey::from_seed(&[0xa9; 32]);
    two_keys.operators[0].keys.push(second.public().into());
    let policy = Policy::decode(&two_keys.encode()).unwrap();
    order.policy.sha256 = *policy.hash();
    let refusal = verify(&envelope(&order, &[alice(), second]), &policy, &host(), NOW).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Threshold, "one operator with two keys is one operator");
}

#[test]
fn revoked_keys_and_kinds_that_may_not_stand() {
    let mut order = rollback();
    let mut changed = document();
    changed.revoked.push(alice().public().fingerprint());
    let revoked = Policy::decode(&changed.encode()).unwrap();
    order.policy.sha256 = *revoked.hash();
    let refusal = verify(&envelope(&order, &[alice()]), &revoked, &host(), NOW).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Revoked);

    let mut changed = document();
    changed.rules[0].standing = false;
    let plan_only = Policy::decode(&changed.encode()).unwrap();
    order.policy.sha256 = *plan_only.hash();
    let refusal = verify(&envelope(&order, &[alice()]), &plan_only, &host(), NOW).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NeedsPlan);
}

#[test]
fn every_refusal_code_has_one_spelling() {
    assert_eq!(RefusalCode::OtherHost.to_string(), "other_host");
    assert_eq!(serde_json::from_str::<RefusalCode>("\"replay\"").unwrap(), RefusalCode::Replay);
}

#[test]
fn clock_edges() {
    let order = rollback();
    let envelope = envelope(&order, &[alice()]);
    let at = |now| verify(&envelope, &policy(), &host(), now).map(drop).map_err(|r| r.code);
    assert_eq!(at(order.exp), Ok(()));
    assert_eq!(at(order.exp + 1), Err(RefusalCode::Expired));
    assert_eq!(at(order.nbf - CLOCK_SKEW_S), Ok(()));
    assert_eq!(at(order.nbf - CLOCK_SKEW_S - 1), Err(RefusalCode::TooEarly));
    assert_eq!(at(u64::MAX), Err(RefusalCode::Expired));
    assert_eq!(at(0), Err(RefusalCode::TooEarly));
}
