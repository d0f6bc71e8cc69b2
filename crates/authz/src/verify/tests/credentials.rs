//! Orders signed with certificates and with keys of other types: whom they count for.

use super::*;
use crate::keys::OperatorKey;
use crate::policy::{Authority, Credential};
use crate::sshsig::tests_of_operators::{Draft, ca, sig, sign_as, strings};

/// Alice and bob by one CA, besides their own keys.
fn by_ca() -> Policy {
    let mut document = document();
    for (operator, name) in [(0, "alice"), (1, "bob")] {
        let authority = Authority::new(ca().public().into(), vec![name.to_owned(), format!("{name}@work")]);
        document.operators[operator].keys.push(Credential::Authority(authority));
    }
    Policy::decode(&document.encode()).unwrap()
}

fn laptop(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// A signature by a laptop's key under a certificate.
fn certified(key: &SecretKey, draft: &Draft, order: &Order) -> String {
    let now = (NOW - 60, NOW + 3_600);
    sign_as(key, &Draft { times: now, ..draft.clone() }.signed(), Namespace::Op, &order.encode())
}

fn order_for(policy: &Policy, params: Params) -> Order {
    let mut order = rollback();
    order.params = params;
    order.policy.sha256 = *policy.hash();
    order
}

fn decide(policy: &Policy, order: &Order, sigs: Vec<String>) -> Result<Vec<String>, RefusalCode> {
    match verify(&Envelope::new(order.encode().into(), sigs), policy, &host(), NOW) {
        Ok(authorized) => Ok(authorized.signers().iter().map(|signer| signer.operator.to_string()).collect()),
        Err(refusal) => Err(refusal.code),
    }
}

#[test]
fn a_certificate_counts_for_the_operator_of_its_principal() {
    let policy = by_ca();
    let order = order_for(&policy, rollback().params);
    for (principal, expected) in [
        (&b"alice"[..], Ok(vec!["alice".to_owned()])),
        (b"bob@work", Ok(vec!["bob".to_owned()])),
        (b"carol", Err(RefusalCode::UnknownSigner)),
        (b"Alice", Err(RefusalCode::UnknownSigner)),
    ] {
        let sig = certified(&laptop(1), &Draft::of(&laptop(1), &[principal]), &order);
        assert_eq!(decide(&policy, &order, vec![sig]), expected, "{}", principal.escape_ascii());
    }
    let both = Draft::of(&laptop(1), &[b"alice", b"bob"]);
    let sig = certified(&laptop(1), &both, &order);
    assert_eq!(decide(&policy, &order, vec![sig]), Err(RefusalCode::Certificate), "one person is not two");
    // The CA's own key orders nothing.
    let sig = ca().sign(Namespace::Op, &order.encode());
    assert_eq!(decide(&policy, &order, vec![sig]), Err(RefusalCode::UnknownSigner));
}

/// Rule V20 where a CA could make one key count for two people.
#[test]
fn two_signers_are_two_operators_with_two_keys() {
    let policy = by_ca();
    let order = order_for(&policy, Params::SnapshotDelete(NoParams {}));
    let sign = |seed, name: &[u8]| certified(&laptop(seed), &Draft::of(&laptop(seed), &[name]), &order);
    let plain = |key: SecretKey| key.sign(Namespace::Op, &order.encode());
    assert!(decide(&policy, &order, vec![sign(1, b"alice"), sign(2, b"bob")]).is_ok());
    assert!(decide(&policy, &order, vec![plain(alice()), sign(2, b"bob")]).is_ok());
    for (what, sigs) in [
        ("one", vec![sign(1, b"alice")]),
        ("one person, two certificates", vec![sign(1, b"alice"), sign(2, b"alice@work")]),
        ("one person, key and certificate", vec![plain(alice()), sign(1, b"alice")]),
        ("one key for two", vec![sign(1, b"alice"), sign(1, b"bob")]),
        ("one key for two, and another", vec![sign(1, b"alice"), sign(1, b"bob"), sign(2, b"alice")]),
    ] {
        assert_eq!(decide(&policy, &order, sigs), Err(RefusalCode::Threshold), "{what}");
    }
    // Bob's own key, certified as alice's, is still bob's.
    let draft = Draft::of(&bob(), &[b"alice"]);
    let sigs = vec![certified(&bob(), &draft, &order), plain(bob())];
    assert_eq!(decide(&policy, &order, sigs), Err(RefusalCode::Threshold));
}

/// Steps 4 and 5 come before the mathematics: a broken signature of a stranger is a stranger's (V22), and of
/// a revoked key a revoked one's.
#[test]
fn strangers_are_turned_away_before_the_mathematics() {
    let policy = by_ca();
    let order = order_for(&policy, rollback().params);
    let broken = strings(&[b"ssh-ed25519", &[1; 64]]);
    let stranger = sig(&mallory().public().blob(), Namespace::Op, &broken);
    assert_eq!(decide(&policy, &order, vec![stranger]), Err(RefusalCode::UnknownSigner));
    let mut draft = Draft::of(&laptop(1), &[b"alice"]);
    draft.ca = mallory().public().blob();
    let stranger = sig(&draft.signed(), Namespace::Op, &broken);
    assert_eq!(decide(&policy, &order, vec![stranger]), Err(RefusalCode::UnknownSigner));

    let good = Draft::of(&laptop(1), &[b"alice"]).signed();
    let known = sig(&good, Namespace::Op, &broken);
    assert_eq!(decide(&policy, &order, vec![known.clone()]), Err(RefusalCode::BadSignature));
    for revoked in [ca().public(), laptop(1).public()] {
        let mut document = policy.document().clone();
        document.revoked.push(revoked.fingerprint());
        let policy = Policy::decode(&document.encode()).unwrap();
        assert_eq!(decide(&policy, &order, vec![known.clone()]), Err(RefusalCode::Revoked));
    }
    // Revoked with one operator's entry, for both.
    let mut document = policy.document().clone();
    if let Credential::Authority(authority) = &mut document.operators[1].keys[1] {
        authority.revoked_serials.push(7);
    }
    let policy = Policy::decode(&document.encode()).unwrap();
    assert_eq!(decide(&policy, &order, vec![known]), Err(RefusalCode::Revoked));
}

#[test]
fn an_operator_may_have_a_key_of_another_type() {
    use p256::ecdsa::signature::Signer as _;
    let key = p256::ecdsa::SigningKey::from_slice(&[0x31; 32]).unwrap();
    let point = key.verifying_key().to_sec1_point(false);
    let blob = strings(&[b"ecdsa-sha2-nistp256", b"nistp256", point.as_bytes()]);
    let mut document = document();
    document.operators[0].keys.push(OperatorKey::from_blob(blob.clone()).unwrap().into());
    let policy = Policy::decode(&document.encode()).unwrap();
    let order = order_for(&policy, rollback().params);
    let signed = crate::sshsig::signed_bytes(Namespace::Op, crate::sshsig::Hash::Sha512, &order.encode());
    let signature: p256::ecdsa::Signature = key.sign(&signed);
    let bytes = signature.to_bytes();
    let number = |bytes: &[u8]| if bytes[0] >= 0x80 { [&[0], bytes].concat() } else { bytes.to_vec() };
    let numbers = strings(&[&number(&bytes[..32]), &number(&bytes[32..])]);
    let sig = sig(&blob, Namespace::Op, &strings(&[b"ecdsa-sha2-nistp256", &numbers]));
    let envelope = Envelope::new(order.encode().into(), vec![sig]);
    let authorized = verify(&envelope, &policy, &host(), NOW).unwrap();
    assert_eq!(authorized.signers()[0].key, Fingerprint::of_key_blob(&blob));
    let mut document = policy.document().clone();
    document.revoked.push(Fingerprint::of_key_blob(&blob));
    let revoked = Policy::decode(&document.encode()).unwrap();
    assert_eq!(verify(&envelope, &revoked, &host(), NOW).unwrap_err().code, RefusalCode::Revoked);
}
