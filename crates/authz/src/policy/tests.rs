//! The people and the policy that this crate's tests share.

use protocol::Vmid;

use super::*;
use crate::secret::SecretKey;

pub(crate) fn alice() -> SecretKey {
    SecretKey::from_seed(&[0xa1; 32])
}

pub(crate) fn bob() -> SecretKey {
    SecretKey::from_seed(&[0xb0; 32])
}

/// May log in and vouch for hosts, may not order anything.
pub(crate) fn helpdesk() -> SecretKey {
    SecretKey::from_seed(&[0xcc; 32])
}

/// Nobody knows him.
pub(crate) fn mallory() -> SecretKey {
    SecretKey::from_seed(&[0x66; 32])
}

fn vmid(number: u32) -> Vmid {
    Vmid::try_from(number + 100).unwrap()
}

fn operator(name: &str, key: &SecretKey) -> Operator {
    Operator { name: name.parse().unwrap(), keys: vec![key.public().into()] }
}

pub(crate) fn rule(kind: Kind, threshold: u32) -> Rule {
    Rule { kind, role: "ops".parse().unwrap(), also: vec![], threshold, standing: true, max_validity_s: 3600 }
}

pub(crate) fn document() -> PolicyDocument {
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: 1_763_000_000,
        operators: vec![operator("alice", &alice()), operator("bob", &bob()), operator("carol", &helpdesk())],
        roles: vec![
            Role {
                name: "ops".parse().unwrap(),
                namespaces: vec![Namespace::Op, Namespace::Policy, Namespace::Enroll],
                members: vec!["alice".parse().unwrap(), "bob".parse().unwrap()],
            },
            Role {
                name: "helpdesk".parse().unwrap(),
                namespaces: vec![Namespace::Enroll],
                members: vec!["carol".parse().unwrap()],
            },
        ],
        rules: vec![rule(Kind::SnapshotRollback, 1), rule(Kind::SnapshotDelete, 2)],
        bounds: Bounds {
            guests: vec![(Vmid::try_from(100).unwrap(), Vmid::try_from(199).unwrap())],
            start: true,
            tags: true,
            snapshots: true,
            max_snapshots_per_guest: 5,
            max_pool_used_percent: 80,
            max_changes_per_hour: 30,
            ..Bounds::default()
        },
        revoked: vec![],
    }
}

pub(crate) fn policy() -> Policy {
    Policy::decode(&document().encode()).unwrap()
}

#[test]
fn a_policy_round_trips_and_its_hash_is_of_its_bytes() {
    let bytes = document().encode();
    let policy = Policy::decode(&bytes).unwrap();
    assert_eq!(*policy.hash(), Sha256::of(&bytes));
    assert_eq!(policy.document().encode(), bytes);
}

#[test]
fn inconsistent_policies_are_refused_with_the_reason() {
    type Change = fn(&mut PolicyDocument);
    let cases: [(Change, &str); 30] = [
        (|p| p.v = 2, "format version 2"),
        (|p| p.version = 2, "version counts from 1"),
        (|p| p.version = 0, "version counts from 1"),
        (|p| (p.version, p.prev) = (u64::MAX, Some(Sha256::of(b""))), "version counts from 1"),
        (|p| p.prev = Some(Sha256::of(b"")), "version counts from 1"),
        (|p| p.root.role = "nobody".parse().unwrap(), "root names role nobody"),
        (|p| p.root.role = "helpdesk".parse().unwrap(), "is the root and may not sign"),
        (|p| p.root.threshold = 0, "root wants 0"),
        (|p| p.root.threshold = 3, "root wants 3"),
        (
            |p| {
                p.root.threshold = 2;
                p.revoked.push(bob().public().fingerprint());
            },
            "nobody could change this policy",
        ),
        (|p| p.protected.push(Protection { guests: (vmid(9), vmid(8)), extra: None }), "range 109 to 108"),
        (|p| p.protected.push(Protection { guests: (vmid(8), vmid(9)), extra: Some(0) }), "0 signers more"),
        (|p| p.freshness_s = Some(60), "an hour"),
        (|p| p.freshness_s = Some(u64::MAX), "a year"),
        (|p| p.rules[0].also.push("ops".parse().unwrap()), "twice"),
        (|p| p.rules[0].also.push("helpdesk".parse().unwrap()), "may not sign"),
        (|p| p.issued_at = u64::MAX, "2^53"),
        (|p| p.operators.push(operator("alice", &mallory())), "operator alice stands twice"),
        (|p| p.operators.push(operator("dave", &alice())), "belongs to two operators"),
        (|p| p.operators[0].keys.push(alice().public().into()), "stands twice"),
        (|p| p.operators[0].keys.clear(), "alice has no key"),
        (|p| p.roles[0].members.push("zed".parse().unwrap()), "no operator"),
        (|p| p.roles[0].namespaces.push(Namespace::Receipt), "host key"),
        (|p| p.rules.push(rule(Kind::SnapshotRollback, 1)), "two rules"),
        (|p| p.rules[0].role = "nobody".parse().unwrap(), "does not exist"),
        (|p| p.rules[0].role = "helpdesk".parse().unwrap(), "may not sign for op.v1@writ"),
        (|p| p.rules[0].threshold = 0, "0 signers"),
        (|p| p.rules[0].threshold = 3, "has 2"),
        (|p| p.rules[0].kind = Kind::GuestDestroy, "never stand"),
        (|p| p.rules[0].max_validity_s = 24 * 3600 + 1, "allowed are"),
    ];
    for (change, says) in cases {
        let mut document = document();
        change(&mut document);
        let error = Policy::decode(&document.encode()).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} should say {says:?}");
    }
    let mut full = document();
    full.bounds.max_pool_used_percent = 96;
    assert!(Policy::decode(&full.encode()).is_err());
    full = document();
    full.bounds.guests[0] = (Vmid::try_from(300).unwrap(), Vmid::try_from(200).unwrap());
    assert!(Policy::decode(&full.encode()).is_err());
}

#[test]
fn hostile_bytes_are_no_policy() {
    let good = document().encode();
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        assert!(Policy::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let text = String::from_utf8(good.clone()).unwrap();
    for bad in [
        text.replacen("{\"v\":1,", "{\"v\":1,\"v\":1,", 1),
        text.replacen("{\"v\":1", "{ \"v\":1", 1),
        text.replacen("\"version\":1", "\"version\":1.0", 1),
        text.replacen("\"revoked\"", "\"extra\":1,\"revoked\"", 1),
        text.replacen("alice", "\\u0061lice", 1),
        format!("\u{feff}{text}"),
        format!("{text}{text}"),
        "[".repeat(10_000),
    ] {
        assert!(Policy::decode(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(60)]);
    }
    assert!(matches!(Policy::decode(&vec![b' '; MAX_BYTES + 1]), Err(PolicyError::TooLarge(_))));
}

#[test]
fn who_may_sign_what() {
    let policy = policy();
    assert!(policy.may_sign(&alice().public(), Namespace::Op).is_some());
    assert!(policy.may_sign(&alice().public(), Namespace::Job).is_none(), "no implicit namespaces (V14)");
    assert!(policy.may_sign(&helpdesk().public(), Namespace::Op).is_none());
    assert!(policy.may_sign(&mallory().public(), Namespace::Op).is_none());
    let mut document = document();
    document.revoked.push(alice().public().fingerprint());
    let policy = Policy::decode(&document.encode()).unwrap();
    assert!(policy.may_sign(&alice().public(), Namespace::Op).is_none());
}

/// What is allowed at most, or at least, is allowed, and the numbers are those of the specification.
#[test]
fn limits_are_the_last_that_is_allowed() {
    let hour = 3_600;
    assert_eq!((MAX_VALIDITY_PLAN_S, MAX_VALIDITY_STANDING_S, MAX_VALIDITY_IMMEDIATE_S), (hour, 86_400, 600));
    assert_eq!((CERT_VALIDITY_S, MAX_CERT_VALIDITY_S, MAX_BYTES), (57_600, 604_800, 65_536));
    assert!(matches!(Policy::decode(&vec![b' '; MAX_BYTES]), Err(PolicyError::Canonical(_))));

    type Change = fn(&mut PolicyDocument, u64);
    let rule_of: fn(Kind, bool) -> Rule = |kind, standing| Rule { standing, ..rule(kind, 1) };
    let validity: Change = |p, n| p.rules[0].max_validity_s = n;
    let cases: [(Change, u64, u64); 6] = [
        (|p, n| (p.version, p.prev) = (n, Some(Sha256::of(b""))), 2, canonical::MAX_INTEGER),
        (|p, n| p.issued_at = n, 0, canonical::MAX_INTEGER),
        (|p, n| p.freshness_s = Some(n), hour, 31_622_400),
        (|p, n| p.root.threshold = n.try_into().unwrap_or(u32::MAX), 1, 2),
        (|p, n| p.rules[1].threshold = n.try_into().unwrap_or(u32::MAX), 1, 2),
        (validity, 1, MAX_VALIDITY_STANDING_S),
    ];
    for (at, (change, least, most)) in cases.into_iter().enumerate() {
        for (value, good) in [(least, true), (most, true), (least.wrapping_sub(1), false), (most + 1, false)]
        {
            let mut document = document();
            change(&mut document, value);
            assert_eq!(Policy::decode(&document.encode()).is_ok(), good, "{at}: {value}");
        }
    }
    for (kind, standing, most) in [
        (Kind::GuestDestroy, false, hour),
        (Kind::SnapshotRollback, false, hour),
        (Kind::SnapshotRollback, true, 24 * hour),
        (Kind::GuestStart, true, 24 * hour),
        (Kind::GuestStop, true, 24 * hour),
        (Kind::SessionOpen, false, 600),
    ] {
        for (value, good) in [(1, true), (most, true), (0, false), (most + 1, false)] {
            let mut document = document();
            document.roles[0].namespaces.push(Namespace::Session);
            document.rules = vec![rule_of(kind, standing)];
            validity(&mut document, value);
            assert_eq!(Policy::decode(&document.encode()).is_ok(), good, "{kind}: {value}");
        }
    }
    let with = |count: u32| {
        let mut document = document();
        document.operators.extend((3..count).map(|n| {
            let seed: Vec<u8> = n.to_be_bytes().repeat(8);
            operator(&format!("o{n}"), &SecretKey::from_seed(&seed.try_into().unwrap()))
        }));
        Policy::decode(&document.encode()).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(with(256), Ok(()));
    assert!(with(257).unwrap_err().contains("257 operators"));
}

/// V13 to V16, asked one by one.
#[test]
fn whose_a_key_is_and_what_a_name_stands_for() {
    let policy = policy();
    let who = |key: SecretKey| policy.operator_of(&key.public()).map(|operator| operator.name.as_str());
    assert_eq!(
        [alice(), bob(), helpdesk(), mallory()].map(who),
        [Some("alice"), Some("bob"), Some("carol"), None]
    );
    let name = |name: &str| -> HostName { name.parse().unwrap() };
    assert_eq!(policy.operator(&name("bob")).unwrap(), &policy.document().operators[1]);
    assert_eq!(policy.operator(&name("dave")), None);
    assert_eq!(policy.role(&name("helpdesk")).unwrap(), &policy.document().roles[1]);
    assert_eq!(policy.role(&name("root")), None);
    assert_eq!(policy.rule(Kind::SnapshotDelete).unwrap(), &policy.document().rules[1]);
    assert_eq!(policy.rule(Kind::GuestDestroy), None);
    assert_eq!((policy.version(), policy.bounds()), (1, &document().bounds));
    assert!(policy.taken().is_empty());
}

/// An end of a protected range belongs to it, and of several protections the strictest counts.
#[test]
fn what_protects_a_guest() {
    let mut document = document();
    let range = |first, last, extra| Protection { guests: (vmid(first), vmid(last)), extra };
    document.protected =
        vec![range(10, 20, Some(2)), range(15, 30, Some(1)), range(20, 20, Some(3)), range(30, 30, None)];
    let policy = Policy::decode(&document.encode()).unwrap();
    for (guest, extra) in [
        (9, None),
        (10, Some(Some(2))),
        (15, Some(Some(2))),
        (20, Some(Some(3))),
        (21, Some(Some(1))),
        (30, Some(None)),
        (31, None),
    ] {
        assert_eq!(policy.protection(vmid(guest)).map(|found| found.extra), extra, "{guest}");
    }
}
