use super::*;
use crate::order::Kind;
use crate::order::tests::{job, rollback, session};
use crate::policy::tests::{alice, bob, document, helpdesk, mallory, policy, rule};
use crate::policy::{PolicyDocument, Protection, Rule};
use crate::secret::SecretKey;

fn by(operator: &str, key: &SecretKey) -> Signatory {
    Signatory { operator: operator.parse().unwrap(), key: key.public().into() }
}

fn counted(document: &PolicyDocument, order: &Order, by: &[Signatory], stale: bool) -> (u32, u32, bool) {
    let policy = Policy::decode(&document.encode()).unwrap();
    let count = count(order, &policy, by, stale).unwrap();
    (count.have, count.need, count.missing.is_none())
}

#[test]
fn distinct_people_with_distinct_keys_of_the_role_count() {
    let (document, order) = (document(), rollback());
    let (a, b) = (by("alice", &alice()), by("bob", &bob()));
    let two = Order { min_signers: 2, ..order.clone() };
    assert_eq!(counted(&document, &order, &[], false), (0, 1, false));
    assert_eq!(counted(&document, &order, std::slice::from_ref(&a), false), (1, 1, true));
    assert_eq!(counted(&document, &two, std::slice::from_ref(&a), false), (1, 2, false));
    assert_eq!(counted(&document, &two, &[a.clone(), b.clone()], false), (2, 2, true));
    let again = [a.clone(), by("alice", &mallory())];
    assert_eq!(counted(&document, &two, &again, false), (1, 2, false), "one person with two keys");
    assert_eq!(counted(&document, &order, &[by("carol", &helpdesk())], false), (0, 1, false), "another role");
    let shared = [a.clone(), by("bob", &alice())];
    let missing = count(&two, &policy(), &shared, false).unwrap().missing.unwrap();
    assert!(missing.contains("for two operators"), "{missing}");
    assert_eq!(signers_needed(&order, &policy()), Some(1));
    assert_eq!(signers_needed(&Order { min_signers: 3, ..order }, &policy()), Some(3));
    assert_eq!(signers_needed(&job(), &policy()), None, "no rule");
}

/// Separation of duty: two of one role are enough people, and not the right ones.
#[test]
fn a_role_that_must_be_among_them_is_missed() {
    let mut document = document();
    document.roles[1].namespaces.push(Namespace::Op);
    document.rules[0] = Rule { also: vec!["helpdesk".parse().unwrap()], ..rule(Kind::SnapshotRollback, 2) };
    let order = rollback();
    let (a, b, c) = (by("alice", &alice()), by("bob", &bob()), by("carol", &helpdesk()));
    assert_eq!(counted(&document, &order, &[a.clone(), b.clone()], false), (2, 2, false));
    assert_eq!(counted(&document, &order, &[a.clone(), c.clone()], false), (2, 2, true));
    assert_eq!(counted(&document, &order, std::slice::from_ref(&c), false), (1, 2, false));
    let policy = Policy::decode(&document.encode()).unwrap();
    let missing = count(&order, &policy, &[a, b], false).unwrap().missing.unwrap();
    assert!(missing.contains("helpdesk") && missing.contains("nobody counts for two"), "{missing}");
}

#[test]
fn an_outdated_policy_wants_one_more_and_some_orders_nobody_can_sign() {
    let (document, order) = (document(), rollback());
    let (a, b) = (by("alice", &alice()), by("bob", &bob()));
    assert_eq!(counted(&document, &order, std::slice::from_ref(&a), true), (1, 2, false));
    assert_eq!(counted(&document, &order, &[a.clone(), b.clone()], true), (2, 2, true));
    let refused = |document: &PolicyDocument, order: &Order, stale| {
        let policy = Policy::decode(&document.encode()).unwrap();
        count(order, &policy, &[a.clone(), b.clone()], stale).unwrap_err().0
    };
    assert_eq!(refused(&document, &job(), false), RefusalCode::Kind);
    let mut open = document.clone();
    open.roles[0].namespaces.extend([Namespace::Job, Namespace::Session]);
    open.rules.push(rule(Kind::JobRun, 1));
    open.rules.push(Rule { standing: false, max_validity_s: 600, ..rule(Kind::SessionOpen, 1) });
    assert_eq!(counted(&open, &job(), std::slice::from_ref(&a), false), (1, 1, true));
    for order in [job(), session()] {
        assert_eq!(refused(&open, &order, true), RefusalCode::Stale);
    }
    let vmid = order.guest.as_ref().unwrap().vmid;
    let mut guarded = document;
    guarded.protected = vec![Protection { guests: (vmid, vmid), extra: None }];
    assert_eq!(refused(&guarded, &order, false), RefusalCode::Protected);
    guarded.protected[0].extra = Some(1);
    assert_eq!(counted(&guarded, &order, std::slice::from_ref(&a), false), (1, 2, false));
}
