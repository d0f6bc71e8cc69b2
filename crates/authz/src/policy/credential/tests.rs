use super::*;
use crate::policy::tests::{alice, bob, document, mallory};
use crate::policy::{Policy, PolicyDocument};

fn token() -> OperatorKey {
    // The point of any sound Ed25519 key, as a security key.
    let mut blob = Vec::new();
    for field in [b"sk-ssh-ed25519@openssh.com".as_slice(), alice().public().to_wire().as_bytes(), b"ssh:"] {
        crate::wire::put_string(&mut blob, field);
    }
    OperatorKey::from_blob(blob).unwrap()
}

fn authority(principal: &str) -> Authority {
    Authority::new(mallory().public().into(), vec![principal.to_owned()])
}

fn with(credential: Credential) -> PolicyDocument {
    let mut document = document();
    document.operators[0].keys.push(credential);
    document
}

#[test]
fn each_form_has_one_spelling_and_keys_are_still_lines() {
    let line = serde_json::to_string(&Credential::from(alice().public())).unwrap();
    assert_eq!(line, format!("\"{}\"", alice().public()), "as policies always had it");
    let verified = Credential::Verified(VerifiedKey { key: token(), verify_required: true });
    let expected = format!("{{\"key\":\"{}\",\"verify_required\":true}}", token());
    assert_eq!(serde_json::to_string(&verified).unwrap(), expected);
    let ca = Credential::Authority(authority("alice"));
    let expected = format!(
        "{{\"ca\":\"{}\",\"principals\":[\"alice\"],\"max_validity_s\":57600,\"verify_required\":false,\
         \"revoked_serials\":[],\"revoked_key_ids\":[]}}",
        mallory().public()
    );
    assert_eq!(serde_json::to_string(&ca).unwrap(), expected);
    for credential in [alice().public().into(), verified, ca] {
        let text = serde_json::to_string(&credential).unwrap();
        assert_eq!(serde_json::from_str::<Credential>(&text).unwrap(), credential);
    }
    assert_eq!(Credential::from(alice().public()).describe(), alice().public().fingerprint().to_string());
    let said = Credential::Authority(authority("alice")).describe();
    assert!(said.contains("certificates by CA SHA256:") && said.contains("for alice"), "{said}");
    let policy = with(Credential::Verified(VerifiedKey { key: token(), verify_required: true }));
    assert_eq!(Policy::decode(&policy.encode()).unwrap().document().encode(), policy.encode());
}

#[test]
fn other_spellings_are_refused() {
    let key = alice().public();
    for bad in [
        format!("\"{key} comment\""),
        format!("\" {key}\""),
        format!("\"{}\"", key.to_string().replacen(' ', "  ", 1)),
        "\"ssh-dss AAAA\"".to_owned(),
        "\"cert-authority ssh-ed25519 AAAA\"".to_owned(),
        "\"\"".to_owned(),
        "1".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        format!("{{\"key\":\"{key}\"}}"),
        format!("{{\"ca\":\"{key}\"}}"),
        format!("{{\"key\":\"{key}\",\"ca\":\"{key}\",\"verify_required\":true}}"),
        format!("{{\"key\":\"{key}\",\"verify_required\":true,\"x\":1}}"),
        format!("{{\"key\":\"{key}\",\"key\":\"{key}\",\"verify_required\":true}}"),
        format!("{{\"key\":\"{key}\",\"verify_required\":true,\"principals\":[\"a\"]}}"),
    ] {
        assert!(serde_json::from_str::<Credential>(&bad).is_err(), "{bad}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let plain = |verify_required| {
        Credential::Verified(VerifiedKey { key: mallory().public().into(), verify_required })
    };
    let ca = |change: fn(&mut Authority)| {
        let mut authority = authority("alice");
        change(&mut authority);
        with(Credential::Authority(authority))
    };
    let mut shared = with(Credential::Authority(authority("alice")));
    shared.operators[1].keys.push(Credential::Authority(authority("alice")));
    let mut apart = shared.clone();
    apart.operators[1].keys[1] = Credential::Authority(authority("bob"));
    Policy::decode(&apart.encode()).unwrap();
    let own = Authority::new(bob().public().into(), vec!["alice".to_owned()]);
    for (document, says) in [
        (with(plain(true)), "only security keys"),
        (with(plain(false)), "write its line"),
        (ca(|a| a.principals.clear()), "no principals"),
        (ca(|a| a.principals = vec!["al*".into()]), "no plain word"),
        (ca(|a| a.principals = vec!["a,b".into()]), "no plain word"),
        (ca(|a| a.principals = vec!["a".into(), "a".into()]), "stands twice"),
        (ca(|a| a.max_validity_s = 59), "allowed are"),
        (ca(|a| a.max_validity_s = MAX_CERT_VALIDITY_S + 1), "allowed are"),
        (ca(|a| a.revoked_serials = vec![u64::MAX]), "2^53"),
        (shared, "two operators"),
        (with(Credential::Authority(own)), "both an operator's key and a CA"),
        (with(alice().public().into()), "stands twice"),
    ] {
        let error = Policy::decode(&document.encode()).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} should say {says:?}");
    }
}

/// What is allowed at most, or at least, is allowed.
#[test]
fn limits_are_the_last_that_is_allowed() {
    for change in [
        (|a| a.max_validity_s = 60) as fn(&mut Authority),
        |a| a.max_validity_s = MAX_CERT_VALIDITY_S,
        |a| a.revoked_serials = vec![0, MAX_INTEGER],
    ] {
        let mut authority = authority("alice");
        change(&mut authority);
        Policy::decode(&with(Credential::Authority(authority)).encode()).unwrap();
    }
}

/// V12: who must give PIN or biometric, and that a person is told so.
#[test]
fn what_asks_for_a_pin_says_so() {
    let plain = Credential::from(alice().public());
    let verified = Credential::Verified(VerifiedKey { key: token(), verify_required: true });
    let mut ca = authority("alice");
    assert!(!Credential::Authority(ca.clone()).verify_required());
    ca.verify_required = true;
    let ca = Credential::Authority(ca);
    assert!(!plain.verify_required() && verified.verify_required() && ca.verify_required());
    assert!(verified.describe().ends_with(", with PIN or biometric"));
    assert!(ca.describe().ends_with("valid for at most 57600 s, with PIN or biometric"), "{}", ca.describe());
    // Which kind of thing it is decides what it may do.
    assert!(plain.authority().is_none() && verified.authority().is_none());
    assert_eq!(ca.authority().unwrap().principals, ["alice"]);
    assert_eq!(verified.fingerprint(), token().fingerprint());
    let wrong = serde_json::from_str::<Credential>("1").unwrap_err().to_string();
    assert!(wrong.contains("an OpenSSH line, or an object with key or ca"), "{wrong}");
}
