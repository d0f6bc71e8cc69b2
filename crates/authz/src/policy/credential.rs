//! What an operator may sign with, as a policy writes it: a key as one OpenSSH line, a security key that must
//! ask for its PIN, or a CA whose certificates stand for the operator.

use std::borrow::Cow;

use protocol::Fingerprint;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::canonical::MAX_INTEGER;
use crate::keys::cert::is_principal;
use crate::keys::{KeyBytes, OperatorKey, PublicKey};

/// Longest validity of certificates where nothing else is written, seconds (V15).
pub const CERT_VALIDITY_S: u64 = 16 * 3_600;
/// Longest validity of certificates that a policy may allow, seconds.
pub const MAX_CERT_VALIDITY_S: u64 = 7 * 24 * 3_600;

/// One thing that an operator may sign with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Credential {
    /// A key: `"ssh-ed25519 AAAA…"`.
    Key(OperatorKey),
    /// A security key whose owner must also give PIN or biometric (V12):
    /// `{"key":"sk-ssh-ed25519@openssh.com AAAA…","verify_required":true}`.
    Verified(VerifiedKey),
    /// A CA (V15): `{"ca":"ssh-ed25519 AAAA…","principals":["alice"],…}`.
    Authority(Authority),
}

/// A security key of which PIN or biometric is demanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedKey {
    /// The key.
    pub key: OperatorKey,
    /// Always true: without it, write the key's line.
    pub verify_required: bool,
}

/// A CA, and which of its certificates stand for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Authority {
    /// The CA's plain key.
    pub ca: OperatorKey,
    /// A certificate must name one of these, exactly.
    pub principals: Vec<String>,
    /// Longest window of a certificate, seconds.
    pub max_validity_s: u64,
    /// Whether the certified key must be a security key that asked for PIN or biometric.
    pub verify_required: bool,
    /// Certificates of this CA that count no more, for whichever operator, by serial number (V16).
    pub revoked_serials: Vec<u64>,
    /// The same by key id.
    pub revoked_key_ids: Vec<String>,
}

impl Authority {
    /// A CA with the defaults: 16 hours, nothing revoked.
    pub fn new(ca: OperatorKey, principals: Vec<String>) -> Self {
        Self {
            ca,
            principals,
            max_validity_s: CERT_VALIDITY_S,
            verify_required: false,
            revoked_serials: Vec::new(),
            revoked_key_ids: Vec::new(),
        }
    }
}

impl Credential {
    /// The key: the operator's own, or the CA's.
    pub fn key(&self) -> &OperatorKey {
        match self {
            Self::Key(key) => key,
            Self::Verified(verified) => &verified.key,
            Self::Authority(authority) => &authority.ca,
        }
    }

    /// `SHA256:…` of [`Self::key`].
    pub fn fingerprint(&self) -> Fingerprint {
        self.key().fingerprint()
    }

    /// As a person reads it: whose certificates count is more than a fingerprint.
    pub fn describe(&self) -> String {
        let key = self.fingerprint();
        let pin = if self.verify_required() { ", with PIN or biometric" } else { "" };
        match self {
            Self::Key(_) | Self::Verified(_) => format!("{key}{pin}"),
            Self::Authority(authority) => format!(
                "certificates by CA {key} for {}, valid for at most {} s{pin}",
                authority.principals.join(", "),
                authority.max_validity_s
            ),
        }
    }

    /// The CA, if it is one.
    pub fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Authority(authority) => Some(authority),
            Self::Key(_) | Self::Verified(_) => None,
        }
    }

    /// Whether PIN or biometric is demanded (V12).
    pub fn verify_required(&self) -> bool {
        match self {
            Self::Key(_) => false,
            Self::Verified(verified) => verified.verify_required,
            Self::Authority(authority) => authority.verify_required,
        }
    }

    /// Whether it makes sense by itself.
    pub(super) fn check(&self) -> Result<(), String> {
        let key = self.fingerprint();
        match self {
            Self::Key(_) => Ok(()),
            Self::Verified(verified) if !verified.verify_required => {
                Err(format!("key {key} has verify_required false: write its line instead of the object"))
            }
            Self::Verified(verified) if !verified.key.is_security_key() => {
                Err(format!("key {key} has verify_required, and only security keys (sk-) can ask for a PIN"))
            }
            Self::Verified(_) => Ok(()),
            Self::Authority(authority) => authority.check().map_err(|why| format!("CA {key} {why}")),
        }
    }
}

impl Authority {
    fn check(&self) -> Result<(), String> {
        if self.principals.is_empty() {
            return Err("has no principals: name those that stand for the operator".into());
        }
        if !self.principals.iter().all(|principal| is_principal(principal)) {
            return Err("has a principal that is no plain word (no spaces, commas, wildcards)".into());
        }
        if !(60..=MAX_CERT_VALIDITY_S).contains(&self.max_validity_s) {
            return Err(format!(
                "has max_validity_s {}, allowed are 60 to {MAX_CERT_VALIDITY_S}",
                self.max_validity_s
            ));
        }
        if self.revoked_serials.iter().any(|serial| *serial > MAX_INTEGER) {
            return Err("has a revoked serial above 2^53: revoke that certificate by its key id".into());
        }
        Ok(())
    }
}

impl KeyBytes for Credential {
    fn key_bytes(&self) -> Cow<'_, [u8]> {
        self.key().key_bytes()
    }
}

impl From<OperatorKey> for Credential {
    fn from(key: OperatorKey) -> Self {
        Self::Key(key)
    }
}

impl From<PublicKey> for Credential {
    fn from(key: PublicKey) -> Self {
        Self::Key(key.into())
    }
}

/// The fields of both objects. Which of them must be there is decided by `key` or `ca`.
#[derive(DeriveDeserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    key: Option<OperatorKey>,
    ca: Option<OperatorKey>,
    principals: Option<Vec<String>>,
    max_validity_s: Option<u64>,
    verify_required: Option<bool>,
    revoked_serials: Option<Vec<u64>>,
    revoked_key_ids: Option<Vec<String>>,
}

impl Fields {
    fn credential(self) -> Result<Credential, &'static str> {
        match self {
            Self {
                key: Some(key),
                ca: None,
                principals: None,
                max_validity_s: None,
                verify_required: Some(verify_required),
                revoked_serials: None,
                revoked_key_ids: None,
            } => Ok(Credential::Verified(VerifiedKey { key, verify_required })),
            Self {
                key: None,
                ca: Some(ca),
                principals: Some(principals),
                max_validity_s: Some(max_validity_s),
                verify_required: Some(verify_required),
                revoked_serials: Some(revoked_serials),
                revoked_key_ids: Some(revoked_key_ids),
            } => Ok(Credential::Authority(Authority {
                ca,
                principals,
                max_validity_s,
                verify_required,
                revoked_serials,
                revoked_key_ids,
            })),
            _ => Err(
                "an operator's key is a line, or {key, verify_required}, or {ca, principals, max_validity_s, \
                 verify_required, revoked_serials, revoked_key_ids}, all fields present",
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Credential;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an operator's key: an OpenSSH line, or an object with key or ca")
            }
            fn visit_str<E: de::Error>(self, line: &str) -> Result<Credential, E> {
                OperatorKey::try_from(line.to_owned()).map(Credential::Key).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Credential, A::Error> {
                let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
                fields.credential().map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests;
