//! Backups. The facts that make a volume id this backup (size and time) stand in `pre.backups`.

use protocol::refs::{StorageId, VolumeId};
use protocol::text::SafeText;
use protocol::{GuestKind, Vmid};
use serde::{Deserialize, Serialize};

use super::{Checked, Wrong, demand, each_once};

/// Of `backup.create`. Always with `remove=0`: Proxmox's default would apply the storage's retention and
/// could delete the only older backup (`pve/facts.md` 7.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupParams {
    /// Where it goes.
    pub storage: StorageId,
    /// How.
    pub mode: BackupMode,
    /// How it is compressed.
    pub compress: Compression,
    /// Keep it from being deleted and pruned.
    pub protected: bool,
    /// Notes, for people.
    pub notes: SafeText,
}

/// How a backup is taken. A mode that interrupts the service is no benign change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupMode {
    /// While it runs.
    Snapshot,
    /// Of a stopped guest; `pre.state` must say so.
    Stop,
}

/// How a backup is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// Zstandard.
    Zstd,
    /// gzip
    Gzip,
    /// LZO
    Lzo,
}

/// Whose backups. The guest need not exist any more, and another one can have its number by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupOwner {
    /// The number it had.
    pub vmid: Vmid,
    /// What it was.
    #[serde(rename = "type")]
    pub kind: GuestKind,
}

/// Of `backup.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupDeleteParams {
    /// Whose.
    pub owner: BackupOwner,
    /// What goes: 1 to 128, each once, the very list of `pre.backups`.
    pub remove: Vec<VolumeId>,
}

/// Of `backup.protect`. What is protected is neither deleted nor pruned; what no longer is can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupProtectParams {
    /// Whose.
    pub owner: BackupOwner,
    /// Which: the one of `pre.backups`.
    pub volume: VolumeId,
    /// Afterwards.
    pub protected: bool,
}

/// Of `backup.prune`: one guest's backups on one storage, the whole list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupPruneParams {
    /// Whose.
    pub owner: BackupOwner,
    /// Where.
    pub storage: StorageId,
    /// What goes: at least one.
    pub remove: Vec<VolumeId>,
    /// What stays: at least one. Together with `remove` the very list of `pre.backups`, and that is all
    /// there is.
    pub keep: Vec<VolumeId>,
}

impl Checked for BackupParams {}

impl Checked for BackupDeleteParams {
    fn check(&self) -> Result<(), Wrong> {
        let fits = (1..=super::super::MAX_BACKUPS).contains(&self.remove.len()) && each_once(&self.remove);
        demand(fits, "params.remove", "a list of 1 to 128, each backup once")
    }
}

impl Checked for BackupProtectParams {
    fn check(&self) -> Result<(), Wrong> {
        demand(self.volume.is_backup(), "params.volume", "a backup (STORAGE:backup/…)")
    }
}

impl Checked for BackupPruneParams {
    fn check(&self) -> Result<(), Wrong> {
        let all = || self.remove.iter().chain(&self.keep);
        demand(!self.remove.is_empty(), "params.remove", "a list of at least one backup")?;
        demand(
            !self.keep.is_empty(),
            "params.keep",
            "a list of at least one backup: use backup.delete for the last",
        )?;
        let fits = all().count() <= super::super::MAX_BACKUPS && each_once(all());
        demand(fits, "params.remove and params.keep", "at most 128 together, each backup once")?;
        let here = all().all(|volid| volid.storage() == self.storage);
        demand(here, "params.remove and params.keep", "backups on params.storage")
    }
}
