//! The first policy of a fleet, and how a policy reads. Pure.

use std::fmt::Write as _;

use authz::order::Binding;
use authz::policy::bounds::{Amounts, Fields, Grow, Rates, Switch};
use authz::policy::{
    Bounds, Credential, MAX_VALIDITY_IMMEDIATE_S, Operator, PolicyDocument, PolicyError, Role, Rule,
};
use authz::{Kind, Namespace, Policy};
use protocol::text::printable;
use protocol::{HostName, Vmid};

use crate::text::{span, utc};

mod bounds;

/// What the operators of a first policy may order: what a host carries out. Everything else is refused there.
fn kinds() -> impl Iterator<Item = Kind> {
    let documents = [Kind::PolicyUpdate, Kind::KeyRevoke];
    let by_nobody = [Kind::PlanApprove, Kind::HostRebind, Kind::LogReanchor, Kind::AgentUpdate];
    Kind::ALL.iter().copied().filter(move |kind| !documents.contains(kind) && !by_nobody.contains(kind))
}

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
    roots: Vec<(HostName, impl Into<Credential>)>,
    root_threshold: Option<u32>,
    guests: Vec<(Vmid, Vmid)>,
    now: u64,
) -> Result<PolicyDocument, PolicyInitError> {
    let role: HostName = "operators".parse().expect("the word follows the rule for names");
    let mut operators: Vec<Operator> = Vec::new();
    for (name, key) in keys {
        add_key(&mut operators, name, key.into());
    }
    let members: Vec<HostName> = operators.iter().map(|operator| operator.name.clone()).collect();
    let mut root_members: Vec<HostName> = Vec::new();
    for (name, key) in roots {
        if !root_members.contains(&name) {
            root_members.push(name.clone());
        }
        add_key(&mut operators, name, key.into());
    }
    let people = members.len();
    let mut roles = vec![Role {
        name: role.clone(),
        namespaces: vec![Namespace::Op, Namespace::Session, Namespace::Job, Namespace::Enroll],
        members: members.clone(),
    }];
    let root = if root_members.is_empty() {
        roles[0].namespaces.insert(1, Namespace::Policy);
        root_members = members;
        role.clone()
    } else {
        let root: HostName = "root".parse().expect("the word follows the rule for names");
        let namespaces = vec![Namespace::Policy];
        roles.push(Role { name: root.clone(), namespaces, members: root_members.clone() });
        root
    };
    let threshold = root_threshold.unwrap_or(if root_members.len() < 2 { 1 } else { 2 });
    let root_role = root.clone();
    let everything = Vmid::try_from(100).ok().zip(Vmid::try_from(999_999_999).ok());
    let document = PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: root, threshold },
        protected: vec![],
        freshness_s: None,
        issued_at: now,
        roles,
        operators,
        rules: kinds()
            .map(|kind| {
                let immediate = kind.binding() == Binding::Immediate;
                // What ends a guest or a disk for good takes two people, where there are two.
                let grave = kind.binding() == Binding::Plan && people > 1;
                Rule {
                    kind,
                    role: if kind.namespace() == Namespace::Policy {
                        root_role.clone()
                    } else {
                        role.clone()
                    },
                    also: vec![],
                    threshold: if grave { 2 } else { 1 },
                    // What can lose data is bound to a plan that the host computes.
                    standing: !immediate
                        && !matches!(kind.binding(), Binding::PlanOrStanding | Binding::Plan),
                    max_validity_s: if immediate { MAX_VALIDITY_IMMEDIATE_S } else { MAX_VALIDITY_S },
                }
            })
            .collect(),
        bounds: Bounds {
            guests: if guests.is_empty() { everything.into_iter().collect() } else { guests },
            start: true,
            tags: true,
            snapshots: true,
            max_snapshots_per_guest: 5,
            max_pool_used_percent: 80,
            max_changes_per_hour: 60,
            fields: Some(first_fields()),
            rates: Some(Rates::default()),
        },
        revoked: vec![],
    };
    // What a host would refuse at enrollment is better refused here.
    match Policy::decode(&document.encode()) {
        Ok(_) => Ok(document),
        Err(source) => Err(PolicyInitError::Inconsistent { why: source.to_string(), source }),
    }
}

/// What 2.13 of the specification allows by default. Backups, downloads and new guests need names of storages
/// and templates, which nobody knows here.
fn first_fields() -> Fields {
    let amounts = |min, max| Some(Amounts { up_percent: 50, down_percent: 50, min, max });
    Fields {
        cores: amounts(1, 32),
        memory: amounts(128, 128 * 1024),
        onboot: Some(Switch { on: true, off: true }),
        description: true,
        grow: Some(Grow { max_bytes_per_step: 32 << 30, max_bytes_per_guest_and_day: 64 << 30 }),
        backups: None,
        downloads: None,
        create: None,
    }
}

fn add_key(operators: &mut Vec<Operator>, name: HostName, key: Credential) {
    match operators.iter_mut().find(|operator| operator.name == name) {
        Some(operator) => operator.keys.push(key),
        None => operators.push(Operator { name, keys: vec![key] }),
    }
}

/// The policy as a person reads it.
pub fn describe(policy: &Policy) -> String {
    let PolicyDocument {
        version,
        issued_at,
        operators,
        roles,
        root,
        rules,
        protected,
        bounds,
        freshness_s,
        revoked,
        ..
    } = policy.document();
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
    let _ = writeln!(text, "  A new policy needs {} of role {}.", root.threshold, root.role);
    if let Some(age) = freshness_s {
        let _ = writeln!(
            text,
            "  Somebody has to say every {} that it is still the newest (writ policy refresh).",
            span(*age)
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
    for guarded in protected {
        let more = match guarded.extra {
            Some(extra) => format!("needs {extra} signer(s) more"),
            None => "is refused, whoever signs".to_owned(),
        };
        let _ = writeln!(
            text,
            "  What destroys something of guests {}-{} {more}.",
            guarded.guests.0, guarded.guests.1
        );
    }
    text.push_str("\nMay change without a signature (from desired state, `writ apply`)\n");
    bounds::describe(&mut text, bounds);
    if !revoked.is_empty() {
        let _ = writeln!(text, "\nRevoked keys\n  {}", list(revoked.iter()));
    }
    for taken in policy.taken() {
        let _ = writeln!(text, "\nRevoked besides: {}", printable(&taken.to_string()));
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

    fn first(
        keys: Vec<(HostName, authz::PublicKey)>,
        guests: Vec<(Vmid, Vmid)>,
    ) -> Result<PolicyDocument, PolicyInitError> {
        first_policy(keys, Vec::<(HostName, Credential)>::new(), None, guests, NOW)
    }

    #[test]
    fn the_root_is_the_operators_or_a_role_of_its_own() {
        let (alice, mallory) = ((name("alice"), alice().public()), (name("bob"), mallory().public()));
        let one = first(vec![alice.clone()], vec![]).unwrap();
        assert_eq!((one.root.role.as_str(), one.root.threshold), ("operators", 1));
        let two = first(vec![alice.clone(), mallory.clone()], vec![]).unwrap();
        assert_eq!((two.root.role.as_str(), two.root.threshold), ("operators", 2));
        let grave = two.rules.iter().find(|rule| rule.kind == Kind::GuestDestroy).unwrap();
        assert_eq!(grave.threshold, 2);
        let apart = first_policy(vec![alice.clone()], vec![mallory.clone()], None, vec![], NOW).unwrap();
        assert_eq!((apart.root.role.as_str(), apart.root.threshold), ("root", 1));
        let policy = Policy::decode(&apart.encode()).unwrap();
        assert!(policy.may_sign(&alice.1, Namespace::Policy).is_none());
        assert!(policy.may_sign(&mallory.1, Namespace::Op).is_none());
        assert!(policy.may_sign(&mallory.1, Namespace::Policy).is_some());
        assert!(first_policy(vec![alice], vec![mallory], Some(2), vec![], NOW).is_err());
    }

    #[test]
    fn a_first_policy_allows_what_it_says_and_nothing_else() {
        let document = first(vec![(name("alice"), alice().public())], vec![]).unwrap();
        let policy = Policy::decode(&document.encode()).unwrap();
        assert!(policy.may_sign(&alice().public(), Namespace::Enroll).is_some());
        assert!(policy.may_sign(&mallory().public(), Namespace::Op).is_none());
        for kind in [Kind::SnapshotRollback, Kind::SnapshotDelete] {
            assert!(policy.rule(kind).is_some_and(|rule| !rule.standing), "{kind} needs a plan");
        }
        assert_eq!(
            policy.rule(Kind::GuestDestroy).map(|rule| (rule.standing, rule.threshold)),
            Some((false, 1))
        );
        assert!(policy.rule(Kind::AgentUpdate).is_none());
        let text = describe(&policy);
        for says in [
            "alice",
            "snapshot.rollback",
            "snapshot.rollback   1 of role operators, bound to a plan, valid for at most 60 min",
            "100-999999999",
            "set its cores        up to 50 % more or 50 % less in a day, from 1 to 32",
            "make a guest         no",
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
        let document = first(keys, vec![]).unwrap();
        assert_eq!((document.operators.len(), document.operators[0].keys.len()), (1, 2));
    }

    #[test]
    fn bad_policies_are_refused_before_they_reach_a_host() {
        let shared = vec![(name("alice"), alice().public()), (name("bob"), alice().public())];
        let error = first(shared, vec![]).unwrap_err().to_string();
        assert!(error.contains("two operators"), "{error}");
        let (low, high) = (Vmid::try_from(100).unwrap(), Vmid::try_from(200).unwrap());
        let turned = first(vec![(name("alice"), alice().public())], vec![(high, low)]);
        assert!(turned.unwrap_err().to_string().contains("range"));
        assert!(first(Vec::new(), vec![]).is_err());
    }
}
