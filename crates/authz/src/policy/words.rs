//! What operators sign about a policy, in `policy.v1@writ`: the next policy itself, a revocation, or the word
//! that a policy is still the newest. All of it is for every host that lives by the policy.
//!
//! Rights are given by the root role's threshold and taken away by one signature: a revocation only removes.

use protocol::text::SafeText;
use protocol::{Fingerprint, Sha256};
use serde::{Deserialize, Serialize};

use super::{Policy, PolicyDocument, PolicyError};
use crate::canonical::{self, MAX_INTEGER};
use crate::order::PolicyRef;

/// One thing that counts no more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case", deny_unknown_fields)]
pub enum Revoked {
    /// A key: an operator's, a CA's, or one that a CA certified.
    Key {
        /// Which.
        key: Fingerprint,
    },
    /// One certificate, by its serial number.
    Serial {
        /// Of this CA.
        ca: Fingerprint,
        /// Up to 2^53; revoke others by key id.
        serial: u64,
    },
    /// Certificates with this key id.
    KeyId {
        /// Of this CA.
        ca: Fingerprint,
        /// Exactly.
        key_id: SafeText,
    },
}

impl std::fmt::Display for Revoked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key { key } => write!(f, "key {key}"),
            Self::Serial { ca, serial } => write!(f, "certificate {serial} of CA {ca}"),
            Self::KeyId { ca, key_id } => write!(f, "certificates {:?} of CA {ca}", key_id.as_str()),
        }
    }
}

/// Takes a key or a certificate away, for ever: who needs one again makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// 1.
    pub v: u32,
    /// What.
    pub revoke: Revoked,
    /// The newest policy that the signer knew: binds it to one chain.
    pub policy: PolicyRef,
    /// Unix seconds.
    pub issued_at: u64,
    /// Why, for people.
    pub reason: SafeText,
}

/// Says that a policy is still the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// 1.
    pub v: u32,
    /// Which one.
    pub fresh: PolicyRef,
    /// Unix seconds.
    pub issued_at: u64,
}

/// Whatever is signed in `policy.v1@writ` and is no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The next policy.
    Policy(Box<Policy>),
    /// A revocation.
    Revocation(Revocation),
    /// The newest is still the newest.
    Freshness(Freshness),
}

impl Revocation {
    /// The bytes to sign.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }
}

impl Freshness {
    /// The bytes to sign.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }
}

impl Word {
    /// Parses bytes that are already known to be signed (V17), with one spelling each (V18).
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        /// Which of them it is: each has a field that the others refuse.
        #[derive(Deserialize)]
        struct Glance {
            #[serde(default)]
            revoke: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            fresh: Option<serde::de::IgnoredAny>,
        }
        let numbers = |v: u32, policy: &PolicyRef, serial: u64, issued_at: u64| {
            if v != 1 {
                Err(PolicyError::Inconsistent(format!(
                    "format version {v} is not supported: this version reads 1"
                )))
            } else if [policy.version, serial, issued_at].iter().any(|number| *number > MAX_INTEGER) {
                Err(PolicyError::Inconsistent("a number in it is above 2^53".into()))
            } else {
                Ok(())
            }
        };
        // What is no object at all is a policy that cannot be read: its parser says why.
        match serde_json::from_slice(bytes) {
            Ok(Glance { revoke: Some(_), .. }) => {
                let word: Revocation = canonical::decode("revocation", bytes)?;
                let serial = match word.revoke {
                    Revoked::Serial { serial, .. } => serial,
                    Revoked::Key { .. } | Revoked::KeyId { .. } => 0,
                };
                numbers(word.v, &word.policy, serial, word.issued_at)?;
                Ok(Self::Revocation(word))
            }
            Ok(Glance { fresh: Some(_), .. }) => {
                let word: Freshness = canonical::decode("word of freshness", bytes)?;
                numbers(word.v, &word.fresh, 0, word.issued_at)?;
                Ok(Self::Freshness(word))
            }
            Ok(Glance { .. }) | Err(_) => Ok(Self::Policy(Box::new(Policy::decode(bytes)?))),
        }
    }
}

impl PolicyDocument {
    /// A draft of the version after `policy`, otherwise the same, with what was revoked beside it written in.
    pub fn next_after(policy: &Policy, now: u64) -> Self {
        let mut document = policy.document().clone();
        document.version = policy.version().saturating_add(1);
        document.prev = Some(*policy.hash());
        document.issued_at = now.max(document.issued_at);
        for taken in policy.taken() {
            document.take_away(taken);
        }
        document
    }

    /// Writes a revocation in. Says whether that changed anything.
    pub(crate) fn take_away(&mut self, what: &Revoked) -> bool {
        let mut changed = false;
        match what {
            Revoked::Key { key } if !self.revoked.contains(key) => {
                self.revoked.push(*key);
                changed = true;
            }
            Revoked::Key { .. } => {}
            Revoked::Serial { ca, serial } => {
                self.of_ca(ca, |authority| {
                    if !authority.revoked_serials.contains(serial) {
                        authority.revoked_serials.push(*serial);
                        changed = true;
                    }
                });
            }
            Revoked::KeyId { ca, key_id } => {
                self.of_ca(ca, |authority| {
                    let key_id = key_id.as_str().to_owned();
                    if !authority.revoked_key_ids.contains(&key_id) {
                        authority.revoked_key_ids.push(key_id);
                        changed = true;
                    }
                });
            }
        }
        changed
    }

    /// Whether the document says so by itself.
    pub(crate) fn says(&self, what: &Revoked) -> bool {
        let of_ca = |ca: &Fingerprint, listed: &dyn Fn(&super::Authority) -> bool| {
            let mut authorities = self.operators.iter().flat_map(|operator| &operator.keys);
            authorities.any(|credential| {
                credential.authority().is_some_and(listed) && credential.fingerprint() == *ca
            })
        };
        match what {
            Revoked::Key { key } => self.revoked.contains(key),
            Revoked::Serial { ca, serial } => of_ca(ca, &|found| found.revoked_serials.contains(serial)),
            Revoked::KeyId { ca, key_id } => {
                of_ca(ca, &|found| found.revoked_key_ids.iter().any(|id| id == key_id.as_str()))
            }
        }
    }

    fn of_ca(&mut self, ca: &Fingerprint, mut change: impl FnMut(&mut super::Authority)) {
        for credential in self.operators.iter_mut().flat_map(|operator| &mut operator.keys) {
            if let super::Credential::Authority(authority) = credential
                && authority.ca.fingerprint() == *ca
            {
                change(authority);
            }
        }
    }
}

/// How a policy is named in what is signed.
impl From<&Policy> for PolicyRef {
    fn from(policy: &Policy) -> Self {
        let sha256: Sha256 = *policy.hash();
        Self { version: policy.version(), sha256 }
    }
}
