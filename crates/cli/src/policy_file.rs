//! The first policy of a fleet, and how a policy reads. Pure.

use std::fmt::Write as _;

use authz::order::Binding;
use authz::policy::{
    Bounds, Credential, MAX_VALIDITY_IMMEDIATE_S, Operator, PolicyDocument, PolicyError, Role, Rule,
};
use authz::{Kind, Namespace, Policy};
use protocol::text::printable;
use protocol::{HostName, Vmid};

use crate::text::{span, utc};

/// What the operators of a first policy may order. Everything else is refused by the host.
const KINDS: [Kind; 7] = [
    Kind::GuestStart,
    Kind::GuestTag,
    Kind::SnapshotCreate,
    Kind::SnapshotRollback,
    Kind::SnapshotDelete,
    Kind::JobRun,
    Kind::SessionOpen,
];
/// Longest validity of an order under a first policy, seconds.
const MAX_VALIDITY_S: u64 = 3_600;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyInitError {
    /// Inconsistent.
    #[error("no policy can be made of this: {why}")]
    Inconsistent {
        /// In words.
        why: String,
        /// What exactly.
        #[source]
        source: PolicyError,
    },
}

/// A first policy: one role for everybody, one signature per order, careful bounds. The same
/// operator may come several times, with a key each.
pub fn first_policy(
    keys: Vec<(HostName, impl Into<Credential>)>,
    guests: Vec<(Vmid, Vmid)>,
    now: u64,
) -> Result<PolicyDocument, PolicyInitError> {
    let role: HostName = "operators".parse().expect("the word follows the rule for names");
    let mut operators: Vec<Operator> = Vec::new();
    for (name, key) in keys {
        match operators.iter_mut().find(|operator| operator.name == name) {
            Some(operator) => operator.keys.push(key.into()),
            None => operators.push(Operator { name, keys: vec![key.into()] }),
        }
    }
    let everything = Vmid::try_from(100).ok().zip(Vmid::try_from(999_999_999).ok());
    let document = PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: role.clone(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: now,
        roles: vec![Role {
            name: role.clone(),
            namespaces: vec![
                Namespace::Op,
                Namespace::Policy,
                Namespace::Session,
                Namespace::Job,
                Namespace::Enroll,
            ],
            members: operators.iter().map(|operator| operator.name.clone()).collect(),
        }],
        operators,
        rules: KINDS
            .map(|kind| {
                let immediate = kind.binding() == Binding::Immediate;
                Rule {
                    kind,
                    role: role.clone(),
                    also: vec![],
                    threshold: 1,
                    standing: !immediate,
                    max_validity_s: if immediate { MAX_VALIDITY_IMMEDIATE_S } else { MAX_VALIDITY_S },
                }
            })
            .to_vec(),
        bounds: Bounds {
            guests: if guests.is_empty() { everything.into_iter().collect() } else { guests },
            start: true,
            tags: true,
            snapshots: true,
            max_snapshots_per_guest: 5,
            max_pool_used_percent: 80,
            max_changes_per_hour: 60,
        },
        revoked: vec![],
    };
    // What a host would refuse at enrollment is better refused here.
    match Policy::decode(&document.encode()) {
        Ok(_) => Ok(document),
        Err(source) => Err(PolicyInitError::Inconsistent { why: source.to_string(), source }),
    }
}

/// The policy as a person reads it.
pub fn describe(policy: &Policy) -> String {
    let PolicyDocument { version, issued_at, operators, roles, rules, bounds, revoked, .. } =
        policy.document();
    let mut text = format!("Policy version {version} of {}\n  SHA-256 {}\n", utc(*issued_at), policy.hash());
    text.push_str("\nOperators\n");
    for operator in operators {
        for key in &operator.keys {
            let revoked = if policy.is_revoked(key) { "  REVOKED" } else { "" };
            let _ = writeln!(text, "  {:12}  {}{revoked}", operator.name, key.describe());
        }
    }
    text.push_str("\nRoles (who may sign for what)\n");
    for role in roles {
        let _ = writeln!(
            text,
            "  {:12}  {}: {}",
            role.name,
            list(role.members.iter()),
            list(role.namespaces.iter().map(|namespace| namespace.as_str()))
        );
    }
    text.push_str("\nMay be ordered with signatures (all else is refused)\n");
    for Rule { kind, role, also, threshold, standing, max_validity_s } in rules {
        let free = *standing || matches!(kind.binding(), Binding::None | Binding::Immediate);
        let plan = if free { "without a plan" } else { "bound to a plan" };
        let each: String = also.iter().map(|role| format!(" and one of {role}")).collect();
        let _ = writeln!(
            text,
            "  {:18}  {threshold} of role {role}{each}, {plan}, valid for at most {}",
            kind.as_str(),
            span(*max_validity_s)
        );
    }
    text.push_str("\nMay change without a signature (from desired state, `writ apply`)\n");
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let ranges = bounds.guests.iter().map(|(first, last)| format!("{first}-{last}"));
    let _ = writeln!(text, "  guests              {}", list(ranges));
    let _ = writeln!(text, "  start a guest       {}", yes(bounds.start));
    let _ = writeln!(text, "  set its tags        {}", yes(bounds.tags));
    let _ = writeln!(
        text,
        "  take a snapshot     {} (at most {} per guest, and only while the pool stays under {} %)",
        yes(bounds.snapshots),
        bounds.max_snapshots_per_guest,
        bounds.max_pool_used_percent
    );
    let _ = writeln!(text, "  changes per hour    at most {}", bounds.max_changes_per_hour);
    if !revoked.is_empty() {
        let _ = writeln!(text, "\nRevoked keys\n  {}", list(revoked.iter()));
    }
    text
}

/// What root writes on a host so that its runner accepts this policy; nothing where the policy lets nobody
/// order scripts or sessions.
pub fn runner_hint(policy: &Policy) -> Option<String> {
    let wanted = [Kind::JobRun, Kind::SessionOpen].iter().any(|kind| policy.rule(*kind).is_some());
    wanted.then(|| {
        format!(
            "To allow scripts and sessions on a host, root there writes this line into its runner.toml:\n  policy_sha256 = \"{}\"\n",
            policy.hash()
        )
    })
}

fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| printable(&item.to_string())).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, alice, mallory, name};

    #[test]
    fn a_first_policy_allows_what_it_says_and_nothing_else() {
        let document = first_policy(vec![(name("alice"), alice().public())], vec![], NOW).unwrap();
        let policy = Policy::decode(&document.encode()).unwrap();
        assert!(policy.may_sign(&alice().public(), Namespace::Enroll).is_some());
        assert!(policy.may_sign(&mallory().public(), Namespace::Op).is_none());
        assert!(policy.rule(Kind::SnapshotRollback).is_some_and(|rule| rule.standing));
        assert!(policy.rule(Kind::GuestDestroy).is_none());
        let text = describe(&policy);
        for says in [
            "alice",
            "snapshot.rollback",
            "100-999999999",
            &policy.hash().to_string(),
            "job.run             1 of role operators, without a plan, valid for at most 60 min",
            "session.open        1 of role operators, without a plan, valid for at most 10 min",
        ] {
            assert!(text.contains(says), "{text}");
        }
        let session = policy.rule(Kind::SessionOpen).unwrap();
        assert!(!session.standing && policy.rule(Kind::JobRun).unwrap().standing);
        let line = format!("policy_sha256 = \"{}\"", policy.hash());
        assert!(runner_hint(&policy).unwrap().contains(&line));
        let mut guests_only = policy.document().clone();
        guests_only.rules.truncate(5);
        assert_eq!(runner_hint(&Policy::decode(&guests_only.encode()).unwrap()), None);
    }

    #[test]
    fn keys_of_one_operator_are_kept_together() {
        let keys = vec![(name("alice"), alice().public()), (name("alice"), mallory().public())];
        let document = first_policy(keys, vec![], NOW).unwrap();
        assert_eq!((document.operators.len(), document.operators[0].keys.len()), (1, 2));
    }

    #[test]
    fn bad_policies_are_refused_before_they_reach_a_host() {
        let shared = vec![(name("alice"), alice().public()), (name("bob"), alice().public())];
        let error = first_policy(shared, vec![], NOW).unwrap_err().to_string();
        assert!(error.contains("two operators"), "{error}");
        let (low, high) = (Vmid::try_from(100).unwrap(), Vmid::try_from(200).unwrap());
        let turned = first_policy(vec![(name("alice"), alice().public())], vec![(high, low)], NOW);
        assert!(turned.unwrap_err().to_string().contains("range"));
        assert!(first_policy(Vec::<(HostName, Credential)>::new(), vec![], NOW).is_err());
    }
}
