use super::*;
use crate::testing::{NOW, believed, guest, policy, report, snapshot};

fn with() -> Circumstances {
    Circumstances {
        nonce: Nonce::from_bytes([7; 16]),
        now: NOW,
        valid_s: 600,
        reason: "undo the update".parse().unwrap(),
        ticket: Some("OPS-118".parse().unwrap()),
    }
}

fn vmid() -> Vmid {
    Vmid::try_from(101).unwrap()
}

fn rollback() -> Wish {
    Wish::Rollback { snapshot: "before-update".parse().unwrap(), start: true }
}

fn all() -> Vec<Wish> {
    vec![
        Wish::Start,
        Wish::Tag(vec!["prod".parse().unwrap(), "a".parse().unwrap(), "prod".parse().unwrap()]),
        Wish::SnapshotCreate("fresh".parse().unwrap()),
        rollback(),
        Wish::SnapshotDelete("first".parse().unwrap()),
    ]
}

fn made(wish: &Wish, guest: GuestReport) -> Result<Order, PrepareError> {
    prepare(&believed(1, "web1"), &policy(), &report(vec![guest]), vmid(), wish, with())
}

#[test]
fn every_kind_makes_an_order_that_a_host_can_read() {
    for wish in all() {
        let order = made(&wish, guest(101)).unwrap();
        let again = Order::decode(&order.encode()).unwrap();
        assert_eq!(again, order);
        assert_eq!(order.kind(), wish.kind());
        assert_eq!((order.nbf, order.exp, order.nonce), (NOW, NOW + 600, Nonce::from_bytes([7; 16])));
        assert_eq!(order.host.key, believed(1, "web1").key.fingerprint());
        assert_eq!(order.policy.sha256, *policy().hash());
        assert!(!order.guest.as_ref().unwrap().identity.is_empty());
    }
    let order = made(&rollback(), guest(101)).unwrap();
    assert_eq!(order.pre.snapshot, Some(snapshot("before-update", NOW - 3_000, Some("first"))));
    assert_eq!(order.pre.state, Some(RunState::Stopped));
    let Params::GuestTag(tags) = made(&all()[1], guest(101)).unwrap().params else { panic!("tags") };
    assert_eq!(tags.tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "prod"]);
}

#[test]
fn missing_facts_are_named_and_nothing_is_made_up() {
    let unknown_config = GuestReport { config: Known::Unknown("403 Forbidden".into()), ..guest(101) };
    for wish in all() {
        let error = made(&wish, unknown_config.clone()).unwrap_err().to_string();
        assert!(error.contains("the configuration") && error.contains("403 Forbidden"), "{error}");
    }
    let mut faceless = guest(101);
    if let Known::Known(config) = &mut faceless.config {
        config.identity = protocol::GuestIdentity::default();
    }
    assert!(made(&Wish::Start, faceless).unwrap_err().to_string().contains("an identity"));
    let no_snapshots = GuestReport { snapshots: Known::Unknown("timed\u{1b}[31m out".into()), ..guest(101) };
    let error = made(&rollback(), no_snapshots).unwrap_err().to_string();
    assert!(error.contains("the snapshots") && !error.contains('\u{1b}'), "{error}");
    let no_state = GuestReport { state: RunState::Unknown, ..guest(101) };
    assert!(made(&rollback(), no_state).unwrap_err().to_string().contains("the state"));

    let mut blind = report(vec![]);
    blind.guests = Known::Unknown("no answer".into());
    let error = prepare(&believed(1, "web1"), &policy(), &blind, vmid(), &rollback(), with()).unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    assert!(matches!(made(&rollback(), guest(102)), Err(PrepareError::NoSuchGuest { .. })));
}

#[test]
fn snapshots_are_looked_up_by_name() {
    let wish = Wish::SnapshotDelete("before-updat".parse().unwrap());
    assert!(made(&wish, guest(101)).unwrap_err().to_string().contains("did you mean 'before-update'"));
    let none = GuestReport { snapshots: Known::Known(vec![]), ..guest(101) };
    assert!(made(&wish, none).unwrap_err().to_string().contains("it has none"));
    let taken = Wish::SnapshotCreate("first".parse().unwrap());
    assert!(matches!(made(&taken, guest(101)), Err(PrepareError::SnapshotExists { .. })));
    let running = GuestReport { state: RunState::Running, ..guest(101) };
    assert!(matches!(made(&Wish::Start, running), Err(PrepareError::Running { .. })));
}

#[test]
fn disguises_are_not_signed() {
    for evil in ["db\u{1b}[1A", "db\u{202e}", "db\n  host  web1"] {
        let named = GuestReport { name: evil.into(), ..guest(101) };
        assert!(matches!(made(&rollback(), named), Err(PrepareError::Disguised { what: "name", .. })));
        let mut config = guest(101);
        if let Known::Known(facts) = &mut config.config {
            facts.identity.volids.push(evil.into());
        }
        assert!(matches!(made(&rollback(), config), Err(PrepareError::Disguised { what: "volume", .. })));
        let snapshots = Known::Known(vec![snapshot("before-update", NOW, Some(evil))]);
        let parent = GuestReport { snapshots, ..guest(101) };
        assert!(matches!(made(&rollback(), parent), Err(PrepareError::Disguised { .. })));
    }
}

#[test]
fn what_the_policy_forbids_is_said_before_anybody_signs() {
    let long = Circumstances { valid_s: 3_601, ..with() };
    let facts = report(vec![guest(101)]);
    let host = believed(1, "web1");
    let error = prepare(&host, &policy(), &facts, vmid(), &rollback(), long).unwrap_err();
    assert!(matches!(error, PrepareError::Validity { max_s: 3_600, .. }));

    let mut document = policy().document().clone();
    document.rules.retain(|rule| rule.kind != Kind::SnapshotDelete);
    document.rules.iter_mut().for_each(|rule| rule.standing = false);
    let strict = Policy::decode(&document.encode()).unwrap();
    let check = |wish: &Wish| prepare(&host, &strict, &facts, vmid(), wish, with());
    assert_eq!(check(&all()[4]), Err(PrepareError::NoRule(Kind::SnapshotDelete)));
    // It will be bound to a plan.
    assert!(check(&rollback()).is_ok());
    assert!(check(&Wish::Start).is_ok());
}
