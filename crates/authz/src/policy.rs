//! The policy of a host: operators and keys, roles, rules per kind, revocations, and the bounds of
//! unsigned change. One JSON object with one spelling, identified by version and hash.
//!
//! So far a host has exactly one policy, the one whose hash stood in its enrollment code; the
//! signed chain of versions is not built, so every policy is version 1 without predecessor.

use std::collections::BTreeSet;

use protocol::{Fingerprint, HostName, Sha256, Vmid};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::keys::{KeyBytes, OperatorKey};
use crate::namespace::Namespace;
use crate::order::{Binding, Kind};

mod credential;

pub use credential::{Authority, CERT_VALIDITY_S, Credential, MAX_CERT_VALIDITY_S, VerifiedKey};

/// Longest validity that a policy may allow: plan-bound orders, seconds.
pub const MAX_VALIDITY_PLAN_S: u64 = 3_600;
/// Longest validity that a policy may allow: standing orders, seconds.
pub const MAX_VALIDITY_STANDING_S: u64 = 24 * 3_600;
/// Longest validity that a policy may allow: orders that neither stand nor have a plan, seconds.
pub const MAX_VALIDITY_IMMEDIATE_S: u64 = 600;
/// Largest policy, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Why bytes are not a policy that a host may live by.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Too large.
    #[error("the policy is {0} bytes long; at most {MAX_BYTES} are allowed")]
    TooLarge(usize),
    /// Not the JSON, or not the one spelling.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// Inconsistent.
    #[error("the policy makes no sense: {0}")]
    Inconsistent(String),
}

/// What is written in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// 1.
    pub v: u32,
    /// Grows by one with each change.
    pub version: u64,
    /// Hash of the policy before; null for the first.
    pub prev: Option<Sha256>,
    /// Unix seconds.
    pub issued_at: u64,
    /// Who exists.
    pub operators: Vec<Operator>,
    /// Who may sign for which authority.
    pub roles: Vec<Role>,
    /// Who may order what.
    pub rules: Vec<Rule>,
    /// What may change without a signature.
    pub bounds: Bounds,
    /// Keys that count no more, whatever else is written.
    pub revoked: Vec<Fingerprint>,
}

/// A person with keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Unique name.
    pub name: HostName,
    /// At least one: keys, and CAs.
    pub keys: Vec<Credential>,
}

/// A set of operators with explicit namespaces (rule V14: there is no implicit "all").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Unique name.
    pub name: HostName,
    /// What their signatures may be for.
    pub namespaces: Vec<Namespace>,
    /// Operators' names.
    pub members: Vec<HostName>,
}

/// Who may order one kind. A kind without a rule cannot be ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The kind, once.
    pub kind: Kind,
    /// The role whose members' signatures count.
    pub role: HostName,
    /// How many distinct operators with distinct keys.
    pub threshold: u32,
    /// Whether it may be ordered without a plan, where the kind allows that at all.
    pub standing: bool,
    /// Longest `exp - nbf`.
    pub max_validity_s: u64,
}

/// What the hub may have changed without a signature. Everything not allowed here is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Ranges of VMIDs that may be touched at all, first and last.
    pub guests: Vec<(Vmid, Vmid)>,
    /// May guests be started?
    pub start: bool,
    /// May tags be changed?
    pub tags: bool,
    /// May snapshots be taken? Only with the space guard below.
    pub snapshots: bool,
    /// Most snapshots of one guest after the step.
    pub max_snapshots_per_guest: u32,
    /// Most percent of a pool's data and of its metadata in use for a step that consumes space.
    pub max_pool_used_percent: u32,
    /// Most unsigned changes in any hour.
    pub max_changes_per_hour: u32,
}

impl Bounds {
    /// Whether the guest may be touched by unsigned steps.
    pub fn allows_guest(&self, vmid: Vmid) -> bool {
        self.guests.iter().any(|(first, last)| (*first..=*last).contains(&vmid))
    }
}

/// A policy that is consistent, with the hash of the bytes it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    document: PolicyDocument,
    hash: Sha256,
}

impl Policy {
    /// Parses and checks.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_BYTES {
            return Err(PolicyError::TooLarge(bytes.len()));
        }
        let document: PolicyDocument = canonical::decode("policy", bytes)?;
        check(&document).map_err(PolicyError::Inconsistent)?;
        Ok(Self { document, hash: Sha256::of(bytes) })
    }

    /// SHA-256 of its bytes.
    pub fn hash(&self) -> &Sha256 {
        &self.hash
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// What is written in it.
    pub fn document(&self) -> &PolicyDocument {
        &self.document
    }

    /// Bounds of unsigned change.
    pub fn bounds(&self) -> &Bounds {
        &self.document.bounds
    }

    /// The rule for a kind.
    pub fn rule(&self, kind: Kind) -> Option<&Rule> {
        self.document.rules.iter().find(|rule| rule.kind == kind)
    }

    /// Whose key this is (rule V13: by the key itself, never by a comment). A CA's key is nobody's: it
    /// certifies, it does not sign (V15).
    pub fn operator_of<K: KeyBytes + ?Sized>(&self, key: &K) -> Option<&Operator> {
        self.listed(key).map(|(operator, _)| operator)
    }

    /// The operator with this name.
    pub fn operator(&self, name: &HostName) -> Option<&Operator> {
        self.document.operators.iter().find(|operator| operator.name == *name)
    }

    /// Whose key this is, and as what it stands there.
    pub(crate) fn listed<K: KeyBytes + ?Sized>(&self, key: &K) -> Option<(&Operator, &Credential)> {
        let raw = key.key_bytes();
        self.document
            .operators
            .iter()
            .flat_map(|operator| operator.keys.iter().map(move |credential| (operator, credential)))
            .find(|(_, credential)| credential.authority().is_none() && credential.key().blob() == &*raw)
    }

    /// The places where this CA stands.
    pub(crate) fn authorities<'a>(
        &'a self,
        ca: &[u8],
    ) -> impl Iterator<Item = (&'a Operator, &'a Authority)> {
        self.document.operators.iter().flat_map(move |operator| {
            let authorities = operator.keys.iter().filter_map(Credential::authority);
            authorities.filter(move |authority| authority.ca.blob() == ca).map(move |found| (operator, found))
        })
    }

    /// Rule V16, of a key: an operator's, a CA's, or one that a CA certified.
    pub fn is_revoked<K: KeyBytes + ?Sized>(&self, key: &K) -> bool {
        self.document.revoked.contains(&Fingerprint::of_key_blob(&key.key_bytes()))
    }

    /// Rule V16, of a certificate by serial number or key id. What is revoked for one operator is for all.
    pub(crate) fn is_certificate_revoked(&self, ca: &[u8], serial: u64, key_id: &[u8]) -> bool {
        self.authorities(ca).any(|(_, authority)| {
            authority.revoked_serials.contains(&serial)
                || authority.revoked_key_ids.iter().any(|revoked| revoked.as_bytes() == key_id)
        })
    }

    /// The operator whom a signature by `key` in `namespace` counts for, in any role. Costs no
    /// public-key mathematics (rules V13, V14, V16, V22).
    pub fn may_sign<K: KeyBytes + ?Sized>(&self, key: &K, namespace: Namespace) -> Option<&Operator> {
        let operator = self.operator_of(key).filter(|_| !self.is_revoked(key))?;
        self.has_namespace(operator, namespace).then_some(operator)
    }

    /// Whether any role of the operator's has this namespace (V14).
    pub(crate) fn has_namespace(&self, operator: &Operator, namespace: Namespace) -> bool {
        let allowed =
            |role: &Role| role.namespaces.contains(&namespace) && role.members.contains(&operator.name);
        self.document.roles.iter().any(allowed)
    }

    /// Whether the operator's signature counts for this rule.
    pub fn counts_for(&self, rule: &Rule, operator: &Operator) -> bool {
        self.document.roles.iter().any(|role| {
            role.name == rule.role
                && role.namespaces.contains(&rule.kind.namespace())
                && role.members.contains(&operator.name)
        })
    }
}

impl PolicyDocument {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }
}

fn check(document: &PolicyDocument) -> Result<(), String> {
    let PolicyDocument { v, version, prev, operators, roles, rules, bounds, issued_at, revoked: _ } =
        document;
    if *v != 1 {
        return Err(format!("format version {v} is not supported: this version reads 1"));
    }
    if *version != 1 || prev.is_some() {
        return Err("only a first policy (version 1, no predecessor) is supported so far".into());
    }
    if *issued_at > canonical::MAX_INTEGER {
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
            if matches!(namespace, Namespace::Receipt | Namespace::Device) {
                return Err(format!("role {} may not sign for {namespace}: that is a host key's", role.name));
            }
        }
    }
    for rule in rules {
        check_rule(rule, roles)?;
    }
    if bounds.max_pool_used_percent > 95 {
        return Err("bounds.max_pool_used_percent is above 95: a full pool corrupts guests".into());
    }
    if let Some((first, last)) = bounds.guests.iter().find(|(first, last)| first > last) {
        return Err(format!("bounds.guests has the range {first} to {last}"));
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
    let members = u32::try_from(role.members.len()).unwrap_or(u32::MAX);
    if rule.threshold == 0 || rule.threshold > members {
        return Err(format!(
            "the rule for {kind} wants {} signers of role {}, which has {members}",
            rule.threshold, role.name
        ));
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

#[cfg(test)]
pub(crate) mod tests;
