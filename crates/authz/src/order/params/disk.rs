//! Disks and volumes. Their facts (size and format) stand in `pre.volumes`.

use protocol::refs::{DiskSlot, StorageId, VolumeId};
use protocol::{GuestKind, Vmid};
use serde::{Deserialize, Serialize};

use super::{Checked, Wrong, demand};

/// Largest disk, bytes: 128 TiB.
const MAX_DISK: u64 = 1 << 47;

/// Of `guest.grow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowParams {
    /// Which disk.
    pub disk: DiskSlot,
    /// What hangs there; its size now stands in `pre.volumes`.
    pub volume: VolumeId,
    /// Bytes it shall have: more than now, at most 128 TiB, whole KiB.
    pub size: u64,
}

/// Of `disk.move`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveParams {
    /// Which disk.
    pub disk: DiskSlot,
    /// What hangs there.
    pub volume: VolumeId,
    /// Where it goes.
    pub storage: StorageId,
    /// Delete the old volume afterwards; else it stays as an unused disk.
    pub delete_source: bool,
}

/// Of `disk.detach`: the disk leaves the guest's configuration and stays as an unused one. (Proxmox deletes
/// a detached cloud-init drive. An unused disk is deleted by `volume.delete`.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachParams {
    /// Which disk.
    pub disk: DiskSlot,
    /// What hangs there.
    pub volume: VolumeId,
}

/// Of `volume.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeDeleteParams {
    /// Which. Never a backup: that is `backup.delete`.
    pub volume: VolumeId,
    /// Whose.
    pub owner: VolumeOwner,
}

/// Whose a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase", deny_unknown_fields)]
pub enum VolumeOwner {
    /// An unused disk of the order's guest.
    Guest {},
    /// A guest that is gone: the order names none, and no guest with this number may exist.
    Gone {
        /// The number in the volume's name.
        vmid: Vmid,
        /// What the guest was.
        #[serde(rename = "type")]
        kind: GuestKind,
    },
}

impl Checked for GrowParams {
    fn check(&self) -> Result<(), Wrong> {
        let fits = (1024..=MAX_DISK).contains(&self.size) && self.size.is_multiple_of(1024);
        demand(fits, "params.size", "a multiple of 1024, at most 140737488355328 (128 TiB)")
    }
}

impl Checked for MoveParams {
    fn check(&self) -> Result<(), Wrong> {
        demand(self.storage != self.volume.storage(), "params.storage", "another storage than now")
    }
}

impl Checked for DetachParams {}

impl Checked for VolumeDeleteParams {
    fn check(&self) -> Result<(), Wrong> {
        demand(!self.volume.is_backup(), "params.volume", "no backup: those go by backup.delete")
    }
}
