//! Backups.

use authz::order::{BackupMode, BackupParams, Compression};
use clap::{ArgGroup, Args};
use protocol::GuestKind;
use protocol::refs::{StorageId, VolumeId};
use protocol::text::SafeText;

use super::values::{backup_mode, compression, guest_kind};
use super::{Asked, OpArgs, OpOptions};
use crate::prepare::{BackupChange, BackupWish, Keep, Wish};

/// `backup.create`
#[derive(Debug, Args)]
pub struct CreateBackup {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// Where the backup goes
    #[arg(long)]
    storage: StorageId,
    /// While it runs, or of a stopped guest
    #[arg(long, default_value = "snapshot", value_parser = backup_mode())]
    mode: BackupMode,
    /// How it is compressed (a backup server does that by itself)
    #[arg(long, default_value = "zstd", value_parser = compression())]
    compress: Compression,
    /// Keep it from being deleted and pruned
    #[arg(long)]
    protected: bool,
    /// Notes, for people
    #[arg(long, default_value = "")]
    notes: SafeText,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// Whose backups.
#[derive(Debug, Args)]
struct Whose {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// What the guest is or was, where nothing else tells
    #[arg(long = "type", value_parser = guest_kind(), value_name = "TYPE")]
    kind: Option<GuestKind>,
}

/// `backup.delete`
#[derive(Debug, Args)]
pub struct DeleteBackups {
    /// Whose
    #[command(flatten)]
    whose: Whose,
    /// The backups
    #[arg(required = true, value_name = "VOLUME")]
    backups: Vec<VolumeId>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `backup.prune`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("stays").required(true))]
pub struct PruneBackups {
    /// Whose
    #[command(flatten)]
    whose: Whose,
    /// On which storage
    #[arg(long)]
    storage: StorageId,
    /// What stays, by name
    #[arg(long, num_args = 1.., value_name = "VOLUME", group = "stays")]
    keep: Vec<VolumeId>,
    /// How many of the newest stay
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=127), value_name = "N", group = "stays")]
    keep_last: Option<u32>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `backup.protect`
#[derive(Debug, Args)]
pub struct ProtectBackup {
    /// Whose
    #[command(flatten)]
    whose: Whose,
    /// The backup
    #[arg(value_name = "VOLUME")]
    backup: VolumeId,
    /// Lift the protection: it can be deleted and pruned from then on
    #[arg(long)]
    off: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

impl CreateBackup {
    pub(super) fn ask(self) -> Asked {
        let Self { at: OpArgs { host, vmid }, storage, mode, compress, protected, notes, options } = self;
        let params = BackupParams { storage, mode, compress, protected, notes };
        Asked::new(host, options, Wish::Backup(vmid, params))
    }
}

impl Whose {
    fn ask(self, options: OpOptions, change: BackupChange) -> Asked {
        let Self { at: OpArgs { host, vmid }, kind } = self;
        Asked::new(host, options, Wish::Backups(BackupWish { vmid, kind, change }))
    }
}

impl DeleteBackups {
    pub(super) fn ask(self) -> Asked {
        let Self { whose, backups, options } = self;
        whose.ask(options, BackupChange::Delete(backups))
    }
}

impl PruneBackups {
    pub(super) fn ask(self) -> Asked {
        let Self { whose, storage, keep, keep_last, options } = self;
        let keep = match keep_last {
            Some(count) => Keep::Last(count as usize),
            None => Keep::Named(keep),
        };
        whose.ask(options, BackupChange::Prune { storage, keep })
    }
}

impl ProtectBackup {
    pub(super) fn ask(self) -> Asked {
        let Self { whose, backup, off, options } = self;
        whose.ask(options, BackupChange::Protect { volume: backup, protected: !off })
    }
}
