//! The policy of a host: operators and keys, roles, rules per kind, revocations, and the bounds of
//! unsigned change. One JSON object with one spelling, identified by version and hash.
//!
//! The first one of a host is the one whose hash stood in its enrollment code. Every later one is signed
//! into being ([`chain`]); what operators sign about a policy besides is in [`words`].

use protocol::{Fingerprint, HostName, Sha256, Vmid};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::keys::KeyBytes;
use crate::namespace::Namespace;
use crate::order::Kind;

pub mod allowed_signers;
pub mod bounds;
pub mod chain;
mod check;
mod credential;
pub mod diff;
pub mod krl;
pub mod store;
pub mod words;

pub use bounds::Bounds;
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
    /// Who may change this document.
    pub root: Root,
    /// Who may order what.
    pub rules: Vec<Rule>,
    /// Guests that destructive orders need more for.
    pub protected: Vec<Protection>,
    /// What may change without a signature.
    pub bounds: Bounds,
    /// How old the last signed word that this policy is still the newest may be, seconds; null: any age.
    /// Afterwards orders need one signer more, and scripts and sessions are refused.
    pub freshness_s: Option<u64>,
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

/// Who may change the policy: a role with the namespace `policy.v1@writ`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The role whose members' signatures count.
    pub role: HostName,
    /// How many distinct operators with distinct keys, 1 or more.
    pub threshold: u32,
}

/// Guests that destructive orders need more signers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protection {
    /// First and last VMID.
    pub guests: (Vmid, Vmid),
    /// So many signers more than the rule says, 1 or more; null: never, whoever signs.
    pub extra: Option<u32>,
}

/// Who may order one kind. A kind without a rule cannot be ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The kind, once.
    pub kind: Kind,
    /// The role whose members' signatures count.
    pub role: HostName,
    /// Further roles, of each of which one signer must be: separation of duty. Nobody stands for two of the
    /// roles; their signatures count for the threshold too.
    pub also: Vec<HostName>,
    /// How many distinct operators with distinct keys.
    pub threshold: u32,
    /// Whether it may be ordered without a plan, where the kind allows that at all.
    pub standing: bool,
    /// Longest `exp - nbf`.
    pub max_validity_s: u64,
}

/// A policy that is consistent, with the hash of the bytes it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    document: PolicyDocument,
    hash: Sha256,
    /// What was revoked beside the document, by single signatures.
    taken: Vec<words::Revoked>,
}

impl Policy {
    /// Parses and checks.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_BYTES {
            return Err(PolicyError::TooLarge(bytes.len()));
        }
        let document: PolicyDocument = canonical::decode("policy", bytes)?;
        check::check(&document).map_err(PolicyError::Inconsistent)?;
        Ok(Self { document, hash: Sha256::of(bytes), taken: Vec::new() })
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
        self.has_revoked(&Fingerprint::of_key_blob(&key.key_bytes()))
    }

    /// The same of a key that is only known by its fingerprint.
    pub fn has_revoked(&self, key: &Fingerprint) -> bool {
        self.document.revoked.contains(key)
            || self
                .taken
                .iter()
                .any(|taken| matches!(taken, words::Revoked::Key { key: gone } if gone == key))
    }

    /// Rule V16, of a certificate by serial number or key id. What is revoked for one operator is for all.
    pub(crate) fn is_certificate_revoked(&self, ca: &[u8], serial: u64, key_id: &[u8]) -> bool {
        let name = Fingerprint::of_key_blob(ca);
        let taken = self.taken.iter().any(|taken| match taken {
            words::Revoked::Serial { ca, serial: gone } => *ca == name && *gone == serial,
            words::Revoked::KeyId { ca, key_id: gone } => *ca == name && gone.as_str().as_bytes() == key_id,
            words::Revoked::Key { .. } => false,
        });
        taken
            || self.authorities(ca).any(|(_, authority)| {
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

    /// The role with this name.
    pub fn role(&self, name: &HostName) -> Option<&Role> {
        self.document.roles.iter().find(|role| role.name == *name)
    }

    /// The roles of a rule, its own first.
    pub(crate) fn roles_of(&self, rule: &Rule) -> Vec<&Role> {
        std::iter::once(&rule.role).chain(&rule.also).filter_map(|name| self.role(name)).collect()
    }

    /// What the policy asks for besides the rule where a destructive order is about this guest.
    pub(crate) fn protection(&self, vmid: Vmid) -> Option<&Protection> {
        let meant = self.document.protected.iter().filter(|p| (p.guests.0..=p.guests.1).contains(&vmid));
        // The strictest of several: null is "never".
        meant.max_by_key(|protection| protection.extra.map_or(u64::MAX, u64::from))
    }

    /// The same policy without what somebody revoked.
    #[must_use]
    pub(crate) fn without(mut self, taken: &[words::Revoked]) -> Self {
        for revoked in taken {
            if !self.taken.contains(revoked) {
                self.taken.push(revoked.clone());
            }
        }
        self
    }

    /// What was revoked beside the document.
    pub fn taken(&self) -> &[words::Revoked] {
        &self.taken
    }

    /// Whether the root role could still reach its threshold: keys or CAs that are not revoked, each of
    /// another operator.
    pub(crate) fn has_root(&self) -> bool {
        let root = &self.document.root;
        let able = self.role(&root.role).map_or(0, |role| {
            let standing = |name: &&HostName| {
                self.operator(name).is_some_and(|operator| {
                    operator.keys.iter().any(|c| c.authority().is_none() && !self.is_revoked(c))
                })
            };
            role.members.iter().filter(standing).count()
        });
        able >= root.threshold as usize
    }
}

impl PolicyDocument {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }
}

#[cfg(test)]
pub(crate) mod tests;
