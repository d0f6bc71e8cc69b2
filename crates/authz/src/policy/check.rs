//! Whether a policy makes sense: who writes one sees every contradiction before a host does.

use std::collections::BTreeSet;

use protocol::HostName;

use super::{
    Credential, MAX_VALIDITY_IMMEDIATE_S, MAX_VALIDITY_PLAN_S, MAX_VALIDITY_STANDING_S, Operator, Policy,
    PolicyDocument, Protection, Role, Root, Rule,
};
use crate::canonical::MAX_INTEGER;
use crate::keys::OperatorKey;
use crate::namespace::Namespace;
use crate::order::Binding;
use crate::signers::each_has_one;

/// Longest age of the word that a policy is the newest, that a policy may allow; seconds.
const MAX_FRESHNESS_S: u64 = 366 * 24 * 3_600;
/// Most operators.
const MAX_OPERATORS: usize = 256;

pub(super) fn check(document: &PolicyDocument) -> Result<(), String> {
    let PolicyDocument {
        v,
        version,
        prev,
        issued_at,
        operators,
        roles,
        root,
        rules,
        protected,
        bounds,
        freshness_s,
        revoked: _,
    } = document;
    if *v != 1 {
        return Err(format!("format version {v} is not supported: this version reads 1"));
    }
    if *version == 0 || *version > MAX_INTEGER || (*version == 1) != prev.is_none() {
        return Err(
            "version counts from 1, and prev is the hash of the one before, null for version 1".into()
        );
    }
    if *issued_at > MAX_INTEGER {
        return Err("issued_at is above 2^53".into());
    }
    unique(operators.iter().map(|o| &o.name)).map_err(|name| format!("operator {name} stands twice"))?;
    unique(roles.iter().map(|r| &r.name)).map_err(|name| format!("role {name} stands twice"))?;
    unique(rules.iter().map(|r| r.kind)).map_err(|kind| format!("kind {kind} has two rules"))?;
    check_credentials(operators)?;
    for role in roles {
        for member in &role.members {
            if !operators.iter().any(|operator| operator.name == *member) {
                return Err(format!("role {} names {member}, who is no operator", role.name));
            }
        }
        for namespace in &role.namespaces {
            if matches!(namespace, Namespace::Receipt | Namespace::Device | Namespace::Plan) {
                return Err(format!("role {} may not sign for {namespace}: that is a host key's", role.name));
            }
        }
    }
    check_root(document, root)?;
    for rule in rules {
        check_rule(rule, roles)?;
    }
    if let Some(Protection { guests: (first, last), .. }) =
        protected.iter().find(|p| p.guests.0 > p.guests.1 || p.extra == Some(0))
    {
        return Err(format!("protected has the range {first} to {last}, or asks for 0 signers more"));
    }
    if freshness_s.is_some_and(|age| !(3_600..=MAX_FRESHNESS_S).contains(&age)) {
        return Err(format!("freshness_s must be 3600 (an hour) to {MAX_FRESHNESS_S} (a year), or null"));
    }
    bounds.check()
}

/// Somebody must be able to change the policy, with what it does not revoke itself.
fn check_root(document: &PolicyDocument, root: &Root) -> Result<(), String> {
    let Root { role: name, threshold } = root;
    let Some(role) = document.roles.iter().find(|role| role.name == *name) else {
        return Err(format!("root names role {name}, which does not exist"));
    };
    if !role.namespaces.contains(&Namespace::Policy) {
        return Err(format!("role {name} is the root and may not sign for {}", Namespace::Policy));
    }
    let policy = Policy { document: document.clone(), hash: protocol::Sha256::of(b""), taken: Vec::new() };
    if *threshold == 0 || !policy.has_root() {
        return Err(format!(
            "root wants {threshold} signers of role {name}, which has fewer members with keys that are not revoked: \
             nobody could change this policy (certificates do not count for that)"
        ));
    }
    Ok(())
}

fn check_credentials(operators: &[Operator]) -> Result<(), String> {
    let all = || operators.iter().flat_map(|operator| &operator.keys);
    let keys = || all().filter(|credential| credential.authority().is_none()).map(Credential::key);
    // Rule V20 counts distinct operators and distinct keys; a shared key would be one person twice.
    unique(keys())
        .map_err(|key| format!("key {} belongs to two operators or stands twice", key.fingerprint()))?;
    let authorities = || all().filter_map(Credential::authority);
    let cas: BTreeSet<&OperatorKey> = authorities().map(|authority| &authority.ca).collect();
    if let Some(key) = keys().find(|key| cas.contains(key)) {
        return Err(format!(
            "key {} is both an operator's key and a CA: use a key of its own as CA",
            key.fingerprint()
        ));
    }
    // One principal of one CA is one operator.
    unique(authorities().flat_map(|authority| {
        authority.principals.iter().map(move |principal| (&authority.ca, principal.as_str()))
    }))
    .map_err(|(ca, principal)| {
        format!("principal {principal} of CA {} stands for two operators or stands twice", ca.fingerprint())
    })?;
    if operators.len() > MAX_OPERATORS {
        return Err(format!("there are {} operators, at most {MAX_OPERATORS} are allowed", operators.len()));
    }
    for operator in operators {
        if operator.keys.is_empty() {
            return Err(format!("operator {} has no key", operator.name));
        }
        for credential in &operator.keys {
            credential.check().map_err(|why| format!("operator {}: {why}", operator.name))?;
        }
    }
    Ok(())
}

fn check_rule(rule: &Rule, roles: &[Role]) -> Result<(), String> {
    let kind = rule.kind;
    let Some(role) = roles.iter().find(|role| role.name == rule.role) else {
        return Err(format!("the rule for {kind} names role {}, which does not exist", rule.role));
    };
    if !role.namespaces.contains(&kind.namespace()) {
        return Err(format!("role {} may not sign for {}, which {kind} needs", role.name, kind.namespace()));
    }
    let mut every = vec![role];
    unique(std::iter::once(&rule.role).chain(&rule.also))
        .map_err(|name| format!("the rule for {kind} names role {name} twice"))?;
    for name in &rule.also {
        every.push(
            roles
                .iter()
                .find(|role| role.name == *name && role.namespaces.contains(&kind.namespace()))
                .ok_or_else(|| {
                    format!(
                        "the rule for {kind} names role {name}, which does not exist or may not sign for {}",
                        kind.namespace()
                    )
                })?,
        );
    }
    let people: BTreeSet<&HostName> = every.iter().flat_map(|role| &role.members).collect();
    if rule.threshold == 0 || rule.threshold as usize > people.len() {
        return Err(format!(
            "the rule for {kind} wants {} signers of role {}, which has {}",
            rule.threshold,
            role.name,
            people.len()
        ));
    }
    if every.len() > rule.threshold as usize {
        return Err(format!(
            "the rule for {kind} wants a signer of each of {} roles and only {} signers in all",
            every.len(),
            rule.threshold
        ));
    }
    if !each_has_one(&every, &people) {
        return Err(format!("the roles of the rule for {kind} have too few different members"));
    }
    let may_stand = matches!(kind.binding(), Binding::None | Binding::PlanOrStanding | Binding::Standing);
    if rule.standing && !may_stand {
        return Err(format!("{kind} can never stand without a plan"));
    }
    let longest = match kind.binding() {
        Binding::Immediate => MAX_VALIDITY_IMMEDIATE_S,
        _ if rule.standing => MAX_VALIDITY_STANDING_S,
        _ => MAX_VALIDITY_PLAN_S,
    };
    if rule.max_validity_s == 0 || rule.max_validity_s > longest {
        return Err(format!(
            "the rule for {kind} has max_validity_s {}, allowed are 1 to {longest}",
            rule.max_validity_s
        ));
    }
    Ok(())
}

fn unique<T: Ord + Copy>(items: impl Iterator<Item = T>) -> Result<(), T> {
    let mut seen = BTreeSet::new();
    for item in items {
        if !seen.insert(item) {
            return Err(item);
        }
    }
    Ok(())
}
