//! Enrollment: first trust comes from the operator, never from the hub (design section 3).
//!
//! The operator's tool makes an [`EnrollmentCode`] and shows it once. It carries the hub's
//! address and key, a single-use secret for the hub, the hash of the policy that the host may
//! accept, and the secret K, which the hub never sees. The host answers with an
//! [`EnrollmentAnswer`] whose `proof` is an HMAC under K, so the operator's tool knows that the
//! host key it is about to vouch for is the one made where the code was typed in.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::envelope::Signed;
use crate::ids::{Ed25519Key, HostId, HostName, Sha256};

/// Longest hub address in a code, in bytes.
const MAX_URL: usize = 200;
const PREFIX: &str = "writ1-";
const FIXED: usize = 1 + 32 + 16 + 32 + 32;

/// Why a code cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Not one of ours at all.
    #[error("this is not an enrollment code: it must start with {PREFIX} (from `writ enroll new`)")]
    NotACode,
    /// Cut, mistyped or of another version.
    #[error(
        "the enrollment code is damaged (checksum or length is wrong): copy it again, whole, or make a new one with `writ enroll new`"
    )]
    Damaged,
}

/// What `writ enroll new` prints and `writ-agent enroll` reads. Everything in it is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollmentCode {
    /// `https://host:port` of the hub.
    pub hub: String,
    /// SHA-256 of the hub's TLS SubjectPublicKeyInfo.
    pub hub_spki: Sha256,
    /// Shown to the hub once; the hub keeps only its hash.
    pub secret: [u8; 16],
    /// The only policy that the host may accept.
    pub policy: Sha256,
    /// K: proves the host's answer to the operator. Never sent to the hub.
    pub k: [u8; 32],
}

impl fmt::Debug for EnrollmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollmentCode({}, …)", self.hub)
    }
}

impl EnrollmentCode {
    /// The one line to copy.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(FIXED + self.hub.len() + 4);
        bytes.push(1);
        bytes.extend_from_slice(self.hub_spki.as_bytes());
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(self.policy.as_bytes());
        bytes.extend_from_slice(&self.k);
        bytes.extend_from_slice(self.hub.as_bytes());
        bytes.extend_from_slice(&checksum(&bytes));
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = sha2::Sha256::digest(bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

impl FromStr for EnrollmentCode {
    type Err = CodeError;
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(CodeError::NotACode)?;
        if body.len() > (FIXED + MAX_URL + 4) * 4 / 3 + 4 {
            return Err(CodeError::Damaged);
        }
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| CodeError::Damaged)?;
        let (fields, sum) = bytes.split_last_chunk::<4>().ok_or(CodeError::Damaged)?;
        if checksum(fields) != *sum {
            return Err(CodeError::Damaged);
        }
        let mut rest = fields;
        if take::<1>(&mut rest)? != [1] {
            return Err(CodeError::Damaged);
        }
        let hub_spki = Sha256::from_bytes(take(&mut rest)?);
        let secret = take(&mut rest)?;
        let policy = Sha256::from_bytes(take(&mut rest)?);
        let k = take(&mut rest)?;
        let hub = String::from_utf8(rest.to_vec()).map_err(|_| CodeError::Damaged)?;
        if !hub.starts_with("https://")
            || hub.len() > MAX_URL
            || hub.chars().any(|c| c.is_control() || c == ' ')
        {
            return Err(CodeError::Damaged);
        }
        Ok(Self { hub, hub_spki, secret, policy, k })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CodeError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(CodeError::Damaged)?;
    *rest = tail;
    Ok(*head)
}

/// What the host says in return. Everything but `proof` is checked by the operator's tool only
/// after the proof has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentAnswer {
    /// 1.
    pub v: u32,
    /// Made by the host.
    pub host_id: HostId,
    /// The warden's signing key.
    pub host_key: Ed25519Key,
    /// Counts host keys: 1 for the first.
    pub host_key_gen: u32,
    /// The agent's transport key.
    pub device_key: Ed25519Key,
    /// The host key's statement about the device key (namespace `device.v1@writ`).
    pub device_cert: Signed,
    /// The policy that the host accepted.
    pub policy: Sha256,
    /// HMAC-SHA-256 under K over [`EnrollmentAnswer::proof_input`].
    pub proof: Sha256,
    /// The machine's own name; for display until an operator names the host.
    pub hostname: String,
}

impl EnrollmentAnswer {
    /// The bytes under the HMAC.
    pub fn proof_input(
        policy: &Sha256,
        host_id: &HostId,
        host_key: &Ed25519Key,
        device_key: &Ed25519Key,
    ) -> Vec<u8> {
        let mut bytes = b"writ enrollment answer v1\0".to_vec();
        bytes.extend_from_slice(policy.as_bytes());
        bytes.extend_from_slice(host_id.as_bytes());
        bytes.extend_from_slice(host_key.as_bytes());
        bytes.extend_from_slice(device_key.as_bytes());
        bytes
    }
}

/// What an operator signs in namespace `enroll.v1@writ`: this name means this key. Every operator's
/// tool resolves host names through such statements only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostStatement {
    /// 1.
    pub v: u32,
    /// The name operators use.
    pub name: HostName,
    /// Where it stands.
    pub site: HostName,
    /// The host.
    pub host_id: HostId,
    /// Its signing key.
    pub host_key: Ed25519Key,
    /// Which of its keys this is.
    pub host_key_gen: u32,
    /// Its transport key.
    pub device_key: Ed25519Key,
    /// The policy it accepted at enrollment.
    pub policy: Sha256,
    /// Unix seconds.
    pub issued_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> EnrollmentCode {
        EnrollmentCode {
            hub: "https://hub.example:8440".into(),
            hub_spki: Sha256::of(b"spki"),
            secret: [7; 16],
            policy: Sha256::of(b"policy"),
            k: [9; 32],
        }
    }

    #[test]
    fn code_round_trips_and_ignores_surrounding_space() {
        let text = format!("  {}\n", code().encode());
        assert_eq!(text.parse::<EnrollmentCode>().unwrap(), code());
    }

    #[test]
    fn every_damaged_character_is_noticed() {
        let text = code().encode();
        for i in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bytes).unwrap();
            assert_eq!(bad.parse::<EnrollmentCode>(), Err(CodeError::Damaged), "character {i}");
            assert_eq!(text[..i].parse::<EnrollmentCode>(), Err(CodeError::Damaged), "cut at {i}");
        }
        assert_eq!("hello".parse::<EnrollmentCode>(), Err(CodeError::NotACode));
        let huge = format!("{PREFIX}{}", "A".repeat(100_000));
        assert_eq!(huge.parse::<EnrollmentCode>(), Err(CodeError::Damaged));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", code()), "EnrollmentCode(https://hub.example:8440, …)");
    }
}
