use super::*;
use crate::namespace::Namespace;
use crate::order::LogAnchor;
use crate::order::tests::{HOST_KEY, NOW, rollback};
use crate::order::{NoParams, Params, PlanRef};
use crate::policy::tests::{alice, bob, document, helpdesk, mallory, policy};
use crate::secret::SecretKey;

fn host() -> HostFacts<'static> {
    HostFacts {
        id: HostId::from_bytes([0x11; 16]),
        key: Fingerprint::of_key_blob(&HOST_KEY),
        generation: 1,
        log_size: 7,
        head_at: &|size| (size == 7).then(|| Sha256::of(b"head")),
    }
}

fn envelope(order: &Order, keys: &[SecretKey]) -> Envelope {
    let payload = order.encode();
    let sigs = keys.iter().map(|key| key.sign(Namespace::Op, &payload)).collect();
    Envelope { payload: payload.into(), sigs }
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
        ("no rule", |o| o.params = Params::GuestStart(NoParams {}), RefusalCode::Kind),
        (
            "a plan nobody made",
            |o| o.plan = Some(PlanRef { sha256: Sha256::of(b""), challenge: Sha256::of(b"") }),
            RefusalCode::NeedsPlan,
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
    let job = Envelope { sigs: vec![alice().sign(Namespace::Job, &good.payload.0)], ..good.clone() };
    assert_eq!(code(&job), RefusalCode::Namespace);
    assert_eq!(code(&Envelope { sigs: vec!["junk".into()], ..good.clone() }), RefusalCode::Malformed);
    assert_eq!(code(&Envelope { sigs: vec![good.sigs[0].clone(); 9], ..good.clone() }), RefusalCode::Size);
    let huge = Envelope { payload: vec![b'x'; Envelope::MAX_PAYLOAD + 1].into(), ..good.clone() };
    assert_eq!(code(&huge), RefusalCode::Size);
    // A bad order by a stranger says nothing about how we parse.
    let junk =
        Envelope { payload: b"junk".to_vec().into(), sigs: vec![mallory().sign(Namespace::Op, b"junk")] };
    let refusal = run(&junk).unwrap_err();
    assert_eq!((refusal.code, refusal.authenticated), (RefusalCode::UnknownSigner, false));
    let junk =
        Envelope { payload: b"junk".to_vec().into(), sigs: vec![alice().sign(Namespace::Op, b"junk")] };
    assert_eq!(code(&junk), RefusalCode::BadOrder);
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
    two_keys.operators[0].keys.push(second.public());
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
