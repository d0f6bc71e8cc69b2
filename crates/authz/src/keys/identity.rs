//! What an operator signs with, as its public half: a key, or a certificate for one.

use std::fmt;

use data_encoding::BASE64;
use protocol::Fingerprint;

use super::cert::{CertError, Certificate, certified_type};
use super::shape::ShapeError;
use super::{KeyError, OperatorKey, PublicKey, type_name};
use crate::sshsig::Claim;
use crate::wire::take_string;

/// A public key of any accepted type, or an OpenSSH certificate for one. The key is sound; whether the CA
/// signed the certificate is not checked here.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorIdentity {
    blob: Vec<u8>,
    key: OperatorKey,
    certificate: Option<Box<Certificate>>,
}

impl OperatorIdentity {
    /// Parses one line `TYPE AAAA… [comment]` of a `.pub` or `-cert.pub` file. Options are not allowed.
    pub fn from_line(line: &str) -> Result<Self, KeyError> {
        let mut words = line.split_ascii_whitespace();
        let (Some(kind), Some(b64)) = (words.next(), words.next()) else {
            return Err(KeyError::NotAKey);
        };
        if certified_type(kind.as_bytes()).is_none() {
            return OperatorKey::from_line(line).map(Self::from);
        }
        let blob = BASE64.decode(b64.as_bytes()).map_err(|_| KeyError::NotAKey)?;
        if take_string(&mut blob.as_slice()) != Ok(kind.as_bytes()) {
            return Err(KeyError::NotAKey);
        }
        Self::from_blob(blob)
    }

    /// From SSH wire bytes.
    pub fn from_blob(blob: Vec<u8>) -> Result<Self, KeyError> {
        if take_string(&mut blob.as_slice()).is_ok_and(|name| certified_type(name).is_none()) {
            return OperatorKey::from_blob(blob).map(Self::from);
        }
        let certificate = Certificate::parse(&blob).map_err(|error| match error {
            CertError::Key(ShapeError::Type(name)) => KeyError::NeverAccepted(name),
            CertError::Key(ShapeError::Refused(why)) => KeyError::Refused(why),
            CertError::Rule(why) => KeyError::Certificate(why),
            CertError::Key(ShapeError::Damaged(_)) | CertError::Damaged(_) => KeyError::NotAKey,
        })?;
        let key = OperatorKey::from_blob(certificate.subject.clone())?;
        Ok(Self { blob, key, certificate: Some(Box::new(certificate)) })
    }

    /// The SSH wire form: what ssh-agent and SSHSIG call it by.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The key that makes the signatures: the certified one, where it is a certificate.
    pub fn key(&self) -> &OperatorKey {
        &self.key
    }

    /// `SHA256:…` of [`Self::key`].
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// Whether it is a certificate.
    pub fn is_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    pub(crate) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// The first second, unix time, at which it counts no more; none for a key.
    pub fn valid_before(&self) -> Option<u64> {
        self.certificate.as_ref().map(|certificate| certificate.valid_before)
    }

    /// Whether it can count at `now`, unix seconds: a key always.
    pub fn is_current(&self, now: u64) -> bool {
        self.certificate.as_ref().is_none_or(|certificate| certificate.is_current(now, u64::MAX).is_ok())
    }

    /// Whom a signature by it would claim to be by.
    pub fn claim(&self) -> Claim<'_> {
        match &self.certificate {
            None => Claim::Key(self.key.blob()),
            Some(certificate) => certificate.claim(),
        }
    }

    /// As a person reads it: `ssh-rsa key SHA256:…`, `certificate 7 for ssh-ed25519 key SHA256:…`.
    pub fn describe(&self) -> String {
        let key = format!("{} key {}", self.key.type_name(), self.fingerprint());
        match &self.certificate {
            None => key,
            Some(certificate) => format!("certificate {} for {key}", certificate.serial),
        }
    }
}

impl From<OperatorKey> for OperatorIdentity {
    fn from(key: OperatorKey) -> Self {
        Self { blob: key.blob().to_vec(), key, certificate: None }
    }
}

impl From<PublicKey> for OperatorIdentity {
    fn from(key: PublicKey) -> Self {
        OperatorKey::from(key).into()
    }
}

impl fmt::Display for OperatorIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = take_string(&mut self.blob.as_slice()).map(type_name).unwrap_or_default();
        write!(f, "{name} {}", BASE64.encode(&self.blob))
    }
}

impl fmt::Debug for OperatorIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorIdentity({})", self.describe())
    }
}
