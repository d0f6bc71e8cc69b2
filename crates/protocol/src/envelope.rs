//! Signed bytes. The payload is carried verbatim and verified before it is parsed; nobody
//! re-encodes it on the way (`security.md` 2.1).

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::ids::Sha256;

/// Bytes, written as base64 in JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = data_encoding::DecodeError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64.decode(text.as_bytes()).map(Self)
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        BASE64.encode(&bytes.0)
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Bytes {
    /// The length only: payloads and secrets do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.0.len())
    }
}

/// A payload and the armored SSHSIG signatures over exactly these bytes. The namespace is not
/// here on purpose: a verifier uses the one it expects, never one that it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The bytes that were signed.
    pub payload: Bytes,
    /// One armored SSHSIG per signer, at most [`Envelope::MAX_SIGNATURES`].
    pub sigs: Vec<String>,
    /// What travels with the order and is not signed itself: the script of a `job.run`, sealed to the
    /// host's key (crate `sealed`). The signed payload names the hash of what is inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Bytes>,
}

impl Envelope {
    /// Most signatures in one envelope (rule V1).
    pub const MAX_SIGNATURES: usize = 8;
    /// Longest armored signature in bytes (rule V1).
    pub const MAX_ARMOR: usize = 16 * 1024;
    /// Longest payload in bytes (rule V1).
    pub const MAX_PAYLOAD: usize = 64 * 1024;
    /// Longest sealed part in bytes: the longest script ([`crate::job::MAX_SCRIPT`]) and its seal.
    pub const MAX_SEALED: usize = crate::job::MAX_SCRIPT + 4096;

    /// An order that nothing travels with.
    pub const fn new(payload: Bytes, sigs: Vec<String>) -> Self {
        Self { payload, sigs, sealed: None }
    }

    /// What identifies an order everywhere: the hash of its payload, never of a signature,
    /// because signatures are malleable (rule V21).
    pub fn id(&self) -> Sha256 {
        Sha256::of(&self.payload.0)
    }
}

/// A payload with one signature: statements by operators, receipts by hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The bytes that were signed.
    pub payload: Bytes,
    /// Armored SSHSIG.
    pub sig: String,
}
