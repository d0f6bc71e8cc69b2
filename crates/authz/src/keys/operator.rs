//! An operator's public key: any of the types in rule V8.

use std::borrow::Cow;
use std::fmt;

use data_encoding::BASE64;
use protocol::Fingerprint;
use serde::{Deserialize, Serialize};

use super::shape::{Shape, ShapeError};
use super::{KeyError, PublicKey};

/// What a policy looks up: a key by its SSH wire bytes, and by nothing else (rule V13).
pub trait KeyBytes {
    /// The SSH wire form.
    fn key_bytes(&self) -> Cow<'_, [u8]>;
}

impl KeyBytes for PublicKey {
    fn key_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.blob())
    }
}

impl KeyBytes for [u8] {
    fn key_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self)
    }
}

/// An operator's public key: Ed25519, ECDSA, RSA of 3072 to 8192 bits, or a security key. A sound point
/// of its curve. Keys of hosts, devices and sessions are always [`PublicKey`]s.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorKey {
    blob: Vec<u8>,
}

impl OperatorKey {
    /// Parses one line `TYPE AAAA… [comment]`. Options are not allowed.
    pub fn from_line(line: &str) -> Result<Self, KeyError> {
        let mut words = line.split_ascii_whitespace();
        let (Some(kind), Some(b64)) = (words.next(), words.next()) else {
            return Err(KeyError::NotAKey);
        };
        if super::type_name(kind.as_bytes()).contains(' ') {
            return Err(KeyError::NotAKey);
        }
        // A type that is never accepted is said first: it is what has to change.
        if let Err(ShapeError::Type(name)) = Shape::fields(kind.as_bytes(), &mut &[][..]) {
            return Err(KeyError::NeverAccepted(name));
        }
        let blob = BASE64.decode(b64.as_bytes()).map_err(|_| KeyError::NotAKey)?;
        let key = Self::from_blob(blob)?;
        if key.type_name() == kind { Ok(key) } else { Err(KeyError::NotAKey) }
    }

    /// From SSH wire bytes.
    pub fn from_blob(blob: Vec<u8>) -> Result<Self, KeyError> {
        let sound = Shape::parse(&blob).map_err(|error| match error {
            ShapeError::Type(name) => KeyError::NeverAccepted(name),
            ShapeError::Refused(why) => KeyError::Refused(why),
            ShapeError::Damaged(_) => KeyError::NotAKey,
        })?;
        if sound.is_sound() { Ok(Self { blob }) } else { Err(KeyError::Unsound) }
    }

    /// The SSH wire form.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// `SHA256:…`
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_key_blob(&self.blob)
    }

    /// As OpenSSH calls it.
    pub fn type_name(&self) -> &'static str {
        self.shape().map_or("", |shape| shape.name())
    }

    /// Whether it is a security key, which can be required to ask for PIN or biometric.
    pub fn is_security_key(&self) -> bool {
        self.shape().is_some_and(|shape| shape.is_security_key())
    }

    /// Always there: the bytes were parsed before.
    pub(crate) fn shape(&self) -> Option<Shape<'_>> {
        Shape::parse(&self.blob).ok()
    }
}

impl KeyBytes for OperatorKey {
    fn key_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.blob)
    }
}

impl From<PublicKey> for OperatorKey {
    fn from(key: PublicKey) -> Self {
        Self { blob: key.blob() }
    }
}

impl TryFrom<String> for OperatorKey {
    type Error = KeyError;
    fn try_from(line: String) -> Result<Self, KeyError> {
        let key = Self::from_line(&line)?;
        // One spelling: no comment, one space.
        if key.to_string() == line { Ok(key) } else { Err(KeyError::NotAKey) }
    }
}

impl From<OperatorKey> for String {
    fn from(key: OperatorKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.type_name(), BASE64.encode(&self.blob))
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorKey({})", self.fingerprint())
    }
}
