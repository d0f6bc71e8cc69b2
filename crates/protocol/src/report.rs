//! HostReport v1: what a host knows about itself. Whatever could not be read is [`Known::Unknown`]
//! with the reason, never left out and never shown as healthy.
//!
//! Built so far: identity and versions, node, guests with identity and snapshots, storage, API
//! certificate, warden. The further sections of the design are absent, not empty.

use serde::{Deserialize, Serialize};

use crate::guest::{GuestIdentity, RunState, SnapshotRef};
use crate::ids::{Fingerprint, GuestKind, Sha256, Vmid};

/// A value, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known<T> {
    /// It was read.
    Known(T),
    /// It was not, and why.
    Unknown(String),
}

impl<T> Known<T> {
    /// The value, if it was read.
    pub fn as_known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// A known value from a result; the error's text becomes the reason.
    pub fn from_result<E: std::fmt::Display>(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// One report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// 1.
    pub v: u32,
    /// By the host's clock, unix seconds.
    pub collected_at: u64,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Version of the agent.
    pub agent_version: String,
    /// The warden, as it answers the agent.
    pub warden: Known<WardenReport>,
    /// The Proxmox node.
    pub node: Known<NodeReport>,
    /// The API's certificate.
    pub certificate: Known<CertificateReport>,
    /// All guests of the node, by VMID.
    pub guests: Known<Vec<GuestReport>>,
    /// All storages of the node, by name.
    pub storages: Known<Vec<StorageReport>>,
}

/// The warden's public state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WardenReport {
    /// Version of the warden.
    pub version: String,
    /// Fingerprint of the host key.
    pub host_key: Fingerprint,
    /// Version of the policy in force.
    pub policy_version: u64,
    /// Its hash.
    pub policy: Sha256,
    /// Entries in the audit log.
    pub log_size: u64,
    /// Why it refuses signed orders at the moment, if it does (a damaged journal).
    pub closed: Option<String>,
}

/// The Proxmox node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Node name.
    pub name: String,
    /// `pveversion`, for instance `pve-manager/9.1.8/…`.
    pub pve_version: String,
    /// Running kernel.
    pub kernel: String,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// CPU use, 0 to 1.
    pub cpu: f64,
    /// Logical CPUs.
    pub cpus: u64,
    /// Load over 1, 5 and 15 minutes.
    pub load: Vec<f64>,
    /// Bytes.
    pub memory: Usage,
    /// Bytes of the root file system.
    pub rootfs: Usage,
    /// Bytes.
    pub swap: Usage,
    /// API clock minus host clock, seconds.
    pub clock_offset_s: Known<i64>,
}

/// Bytes used of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes in use.
    pub used: u64,
    /// Bytes in all.
    pub total: u64,
}

/// The certificate that pveproxy serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// File name under /etc/pve/local.
    pub filename: String,
    /// SHA-256 of the certificate, colon-separated upper-case hex as Proxmox shows it.
    pub fingerprint: String,
    /// Unix seconds.
    pub not_after: u64,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Its number.
    pub vmid: Vmid,
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Name or hostname.
    pub name: String,
    /// Whether it runs.
    pub state: RunState,
    /// Seconds; only when running.
    pub uptime_s: Option<u64>,
    /// Bytes.
    pub memory: Option<Usage>,
    /// Configuration facts.
    pub config: Known<GuestConfigReport>,
    /// Snapshots, oldest first.
    pub snapshots: Known<Vec<SnapshotRef>>,
}

/// What is needed of a guest's configuration to name it in an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfigReport {
    /// Proxmox's digest of the whole configuration file.
    pub digest: String,
    /// Stable facts.
    pub identity: GuestIdentity,
    /// Sorted.
    pub tags: Vec<String>,
    /// Proxmox's lock word, when locked.
    pub lock: Option<String>,
    /// Whether Proxmox refuses to destroy it.
    pub protection: bool,
}

/// One storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageReport {
    /// Name.
    pub name: String,
    /// `dir`, `lvmthin`, `zfspool`, …
    pub kind: String,
    /// Whether Proxmox can use it now.
    pub active: bool,
    /// Data; unknown when inactive.
    pub usage: Known<Usage>,
    /// Thin-pool metadata; none where the kind has none.
    pub metadata: Option<Known<Usage>>,
}
