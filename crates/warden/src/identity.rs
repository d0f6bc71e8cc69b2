//! Who this host is: host id, host key and policy, made at the first enrollment and kept.
//!
//! `identity.json` is written last, so a crash before it leaves an unenrolled warden that finishes the
//! same enrollment when it is asked again, with the same key. Once it is there, a missing journal,
//! log, key or policy is damage, never a fresh start.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use authz::log::AuditLog;
use authz::policy::PolicyError;
use authz::{KeyError, Policy, SecretKey};
use protocol::{HostId, Sha256};
use serde::{Deserialize, Serialize};

const IDENTITY: &str = "identity.json";
const HOST_KEY: &str = "host.key";
const POLICY: &str = "policy.json";

/// Why the host's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what we wrote.
    #[error("{path} is damaged: restore it from a backup, or enroll the host again with an empty state directory", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// There is a history without the identity that made it.
    #[error("{path} is missing, although this host has a history in the same directory: restore it, or move the directory away and enroll the host anew", path = .path.display())]
    Lost {
        /// Which file.
        path: PathBuf,
    },
    /// The policy on disk is not the one that was accepted.
    #[error("{path} is not the policy that this host accepted ({expected}): restore it", path = .path.display())]
    OtherPolicy {
        /// Which file.
        path: PathBuf,
        /// The accepted one.
        expected: Sha256,
    },
    /// The policy cannot be lived by.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The host key.
    #[error("the host key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// No randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    v: u32,
    host_id: HostId,
    host_key_gen: u32,
    policy: Sha256,
}

/// An enrolled host.
#[derive(Debug)]
pub struct Identity {
    /// Random, made here.
    pub host_id: HostId,
    /// Counts host keys.
    pub host_key_gen: u32,
    /// Signs receipts.
    pub host_key: SecretKey,
    /// The first policy that this host lived by; [`crate::policies`] has the one in force.
    pub policy: Policy,
    /// Its bytes, for the runner, which lives by the same ones.
    pub policy_bytes: Vec<u8>,
}

impl Identity {
    /// The identity on disk; none before enrollment.
    pub fn load(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(IDENTITY);
        let bytes = match files::read_secret(&path) {
            Ok(bytes) => bytes,
            // An enrollment that a crash interrupted leaves keys, but no history.
            Err(error) if error.is_not_found() && AuditLog::has_history(directory) => {
                return Err(IdentityError::Lost { path });
            }
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: IdentityFile = serde_json::from_slice(&bytes)
            .ok()
            .filter(|f: &IdentityFile| f.v == 1)
            .ok_or(IdentityError::Damaged { path })?;
        let host_key = load_key(directory)?;
        let path = directory.join(POLICY);
        let policy_bytes = files::read_secret(&path)?.to_vec();
        let policy = Policy::decode(&policy_bytes)?;
        if *policy.hash() != file.policy {
            return Err(IdentityError::OtherPolicy { path, expected: file.policy });
        }
        let IdentityFile { host_id, host_key_gen, .. } = file;
        Ok(Some(Self { host_id, host_key_gen, host_key, policy, policy_bytes }))
    }

    /// Makes what an enrolled host needs, except for [`Self::finish`].
    pub fn prepare(directory: &Path, policy_bytes: &[u8], policy: Policy) -> Result<Self, IdentityError> {
        let host_key = match load_key(directory) {
            Ok(key) => key,
            Err(IdentityError::File(error)) if error.is_not_found() => {
                let key = SecretKey::from_seed(&random()?);
                files::write_atomic(&directory.join(HOST_KEY), key.to_openssh("writ host key")?.as_bytes())?;
                key
            }
            Err(error) => return Err(error),
        };
        files::write_atomic(&directory.join(POLICY), policy_bytes)?;
        let host_id = HostId::from_bytes(random()?);
        Ok(Self { host_id, host_key_gen: 1, host_key, policy, policy_bytes: policy_bytes.to_vec() })
    }

    /// The last step: from here on the host is enrolled.
    pub fn finish(&self, directory: &Path) -> Result<(), IdentityError> {
        let file = IdentityFile {
            v: 1,
            host_id: self.host_id,
            host_key_gen: self.host_key_gen,
            policy: *self.policy.hash(),
        };
        let bytes = serde_json::to_vec(&file)
            .map_err(|_| IdentityError::Damaged { path: directory.join(IDENTITY) })?;
        Ok(files::write_atomic(&directory.join(IDENTITY), &bytes)?)
    }
}

fn load_key(directory: &Path) -> Result<SecretKey, IdentityError> {
    let path = directory.join(HOST_KEY);
    let bytes = files::read_secret(&path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| IdentityError::Damaged { path })?;
    Ok(SecretKey::from_openssh(text, None)?)
}

fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| IdentityError::Random(error.to_string()))?;
    Ok(bytes)
}
