//! The host itself: its key, its log, its programs. Signed as policy is.

use protocol::refs::{ReleaseVersion, Uuid};
use protocol::{Ed25519Key, Sha256};
use serde::{Deserialize, Serialize};

use super::{Checked, Wrong, demand};

/// Of `host.rebind`: of two machines with one identity, the one that goes on as this host. It gets a new
/// key, so the other one is nobody from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebindParams {
    /// Which of them: the kernel's boot id.
    pub boot_id: Uuid,
    /// The new host key.
    pub host_key: Ed25519Key,
    /// The new key's generation: one more than the order's `host.gen`.
    pub generation: u32,
    /// Where the log goes on.
    pub log: Checkpoint,
}

/// Of `log.reanchor`: a host whose store is damaged begins a new one. Nonces of the old one are
/// forgotten: no order signed before this one's `nbf` counts afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReanchorParams {
    /// The last place in the old log that the signer knows; null when nobody knows any.
    pub last: Option<Checkpoint>,
    /// Begin a new audit log.
    pub log: bool,
    /// Begin a new nonce journal.
    pub journal: bool,
}

/// A place in a host's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Entries.
    pub size: u64,
    /// Hash of the last of them.
    pub head: Sha256,
}

/// Of `agent.update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateParams {
    /// To which version. An older one than is installed is refused.
    pub version: ReleaseVersion,
    /// For which processors.
    pub arch: Arch,
    /// SHA-256 of the package.
    pub sha256: Sha256,
    /// Its bytes, 1 to 1 GiB.
    pub size: u64,
}

/// Processors, as Debian calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64
    Amd64,
    /// 64-bit ARM
    Arm64,
}

impl Checked for RebindParams {
    fn check(&self) -> Result<(), Wrong> {
        demand(self.generation >= 2, "params.generation", "the order's host.gen and one")
    }
}

impl Checked for ReanchorParams {
    fn check(&self) -> Result<(), Wrong> {
        demand(self.log || self.journal, "params.log or params.journal", "true")
    }
}

impl Checked for UpdateParams {
    fn check(&self) -> Result<(), Wrong> {
        demand((1..=1 << 30).contains(&self.size), "params.size", "1 to 1073741824 (1 GiB)")
    }
}
