//! Public keys. Those of hosts, devices and sessions are Ed25519, always: [`PublicKey`]. Operators may
//! have any type in rule V8: [`OperatorKey`]. Others that OpenSSH knows are refused by name.

use std::fmt;

use data_encoding::BASE64;
use protocol::{Ed25519Key, Fingerprint};
use serde::{Deserialize, Serialize};

pub(crate) mod cert;
mod identity;
mod operator;
pub(crate) mod shape;

pub use identity::OperatorIdentity;
pub use operator::{KeyBytes, OperatorKey};

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an OpenSSH key line.
    #[error("this is not an OpenSSH public key line (expected: ssh-ed25519 AAAA… comment)")]
    NotAKey,
    /// A key type that is real but not accepted.
    #[error("keys of type {0} are not accepted yet: use an Ed25519 key (ssh-keygen -t ed25519)")]
    Unsupported(String),
    /// A key type that no operator may have.
    #[error(
        "keys of type {0} are not accepted: use an Ed25519 key (ssh-keygen -t ed25519), a security key \
         (-t ed25519-sk), ECDSA, or RSA of 3072 bits or more"
    )]
    NeverAccepted(String),
    /// A good type, but too weak, or made for something else.
    #[error("{0}")]
    Refused(&'static str),
    /// A certificate that can never count (V15).
    #[error("the certificate does not count: {0}")]
    Certificate(&'static str),
    /// Not on its curve, or a point with which anybody could sign.
    #[error("this key is malformed or weak (no sound point of its curve): make a new one with ssh-keygen")]
    Unsound,
    /// An Ed25519 key with which anybody could sign (small order) or that is no point at all.
    #[error("this Ed25519 key is malformed or weak (small order): make a new one with ssh-keygen -t ed25519")]
    Weak,
    /// Not an OpenSSH private key.
    #[error("this is not an OpenSSH private key file (expected: -----BEGIN OPENSSH PRIVATE KEY-----)")]
    NotAPrivateKey,
    /// Encrypted, and no passphrase was given.
    #[error("the private key is protected by a passphrase and none was given")]
    NeedsPassphrase,
    /// Wrong passphrase.
    #[error("the private key could not be decrypted: wrong passphrase?")]
    WrongPassphrase,
}

/// Key types we know by name, to refuse them by name.
const KNOWN_TYPES: [&str; 18] = [
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
    "ssh-rsa-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ssh-dss-cert-v01@openssh.com",
    "mldsa44-ed25519@openssh.com",
    "ssh-ed448",
];

/// The name of a key type as it may be repeated to a user.
pub(crate) fn type_name(name: &[u8]) -> String {
    if name == b"ssh-ed25519" {
        return "ssh-ed25519".to_owned();
    }
    KNOWN_TYPES
        .iter()
        .find(|known| known.as_bytes() == name)
        .map_or_else(|| "unknown to us".to_owned(), |known| (*known).to_owned())
}

/// An operator's or host's public key: a usable, not weak Ed25519 point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ed25519Key", into = "Ed25519Key")]
pub struct PublicKey(pub(crate) Ed25519Key);

impl PublicKey {
    /// Parses one line `ssh-ed25519 AAAA… [comment]`. Options are not allowed.
    pub fn from_line(line: &str) -> Result<Self, KeyError> {
        let mut words = line.split_ascii_whitespace();
        let (Some(kind), Some(b64)) = (words.next(), words.next()) else {
            return Err(KeyError::NotAKey);
        };
        if kind != "ssh-ed25519" {
            let name = type_name(kind.as_bytes());
            return Err(if name.contains(' ') { KeyError::NotAKey } else { KeyError::Unsupported(name) });
        }
        BASE64.decode(b64.as_bytes()).map_err(|_| KeyError::NotAKey)?;
        let key: Ed25519Key = format!("{kind} {b64}").parse().map_err(|_| KeyError::NotAKey)?;
        Self::try_from(key)
    }

    /// The key as the wire vocabulary has it.
    pub fn to_wire(self) -> Ed25519Key {
        self.0
    }

    /// `SHA256:…`
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint()
    }

    /// The SSH wire bytes; keys are compared by these (rule V13).
    pub fn blob(&self) -> Vec<u8> {
        self.0.blob()
    }

    /// Rule V10: `verify_strict`.
    pub(crate) fn verify_strict(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        ed25519_dalek::VerifyingKey::from_bytes(self.0.as_bytes())
            .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl TryFrom<Ed25519Key> for PublicKey {
    type Error = KeyError;
    fn try_from(key: Ed25519Key) -> Result<Self, KeyError> {
        match ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes()) {
            Ok(point) if !point.is_weak() => Ok(Self(key)),
            _ => Err(KeyError::Weak),
        }
    }
}

impl From<PublicKey> for Ed25519Key {
    fn from(key: PublicKey) -> Self {
        key.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_key_types_are_refused_by_name() {
        for name in KNOWN_TYPES {
            assert_eq!(
                PublicKey::from_line(&format!("{name} AAAA someone")),
                Err(KeyError::Unsupported(name.to_owned()))
            );
        }
        for bad in [
            "",
            "ssh-ed25519",
            "hello world",
            "ssh-ed25519 !!!!",
            "ssh-ed25519 AAAA",
            "from=\"x\" ssh-ed25519 AAAA",
        ] {
            assert_eq!(PublicKey::from_line(bad), Err(KeyError::NotAKey), "{bad}");
        }
    }

    #[test]
    fn weak_keys_are_refused() {
        // The identity and the other small-order points would make a signature by anybody valid.
        for point in [
            [0u8; 32],
            {
                let mut one = [0; 32];
                one[0] = 1;
                one
            },
            {
                let mut p = [0xff; 32];
                p[0] = 0xec;
                p[31] = 0x7f;
                p
            },
        ] {
            assert_eq!(PublicKey::try_from(Ed25519Key::from_bytes(point)), Err(KeyError::Weak));
        }
    }
}
