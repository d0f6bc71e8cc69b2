//! Disks and volumes.

use clap::Args;
use protocol::GuestKind;
use protocol::refs::{DiskSlot, StorageId};

use super::values::{guest_kind, new_size, unused_disk};
use super::{Asked, OpArgs, OpOptions};
use crate::prepare::{DiskWish, NewSize, OrphanWish, UnusedDisk, Wish};

/// `guest.grow`
#[derive(Debug, Args)]
pub struct GrowDisk {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// The disk's slot, such as scsi0 or rootfs
    #[arg(value_name = "SLOT")]
    disk: DiskSlot,
    /// So large, such as 48G; or so much larger, such as +16G
    #[arg(value_parser = new_size)]
    size: NewSize,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `disk.move`
#[derive(Debug, Args)]
pub struct MoveDisk {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// The disk's slot, such as scsi0 or rootfs
    #[arg(value_name = "SLOT")]
    disk: DiskSlot,
    /// Where it goes
    #[arg(long, value_name = "STORAGE")]
    to: StorageId,
    /// Delete the old volume afterwards; else it stays as an unused disk
    #[arg(long)]
    delete_source: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `disk.detach`
#[derive(Debug, Args)]
pub struct DetachDisk {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// The disk's slot, such as scsi1 or mp0
    #[arg(value_name = "SLOT")]
    disk: DiskSlot,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `volume.delete`
#[derive(Debug, Args)]
pub struct DeleteVolume {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// An unused disk's slot, such as unused0, or a volume as STORAGE:NAME
    #[arg(value_name = "VOLUME", value_parser = unused_disk)]
    disk: UnusedDisk,
    /// The guest is gone, and this is what it was: the volume is an orphan
    #[arg(long, value_parser = guest_kind(), value_name = "TYPE")]
    gone: Option<GuestKind>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

impl GrowDisk {
    pub(super) fn ask(self) -> Asked {
        let Self { at, disk, size, options } = self;
        Asked::disk(at, options, DiskWish::Grow { disk, size })
    }
}

impl MoveDisk {
    pub(super) fn ask(self) -> Asked {
        let Self { at, disk, to, delete_source, options } = self;
        Asked::disk(at, options, DiskWish::Move { disk, storage: to, delete_source })
    }
}

impl DetachDisk {
    pub(super) fn ask(self) -> Asked {
        let Self { at, disk, options } = self;
        Asked::disk(at, options, DiskWish::Detach(disk))
    }
}

impl DeleteVolume {
    pub(super) fn ask(self) -> Asked {
        let Self { at, disk, gone, options } = self;
        match (disk, gone) {
            (UnusedDisk::Volume(volume), Some(kind)) => {
                let OpArgs { host, vmid } = at;
                Asked::new(host, options, Wish::Orphan(OrphanWish { vmid, kind, volume }))
            }
            // A guest that is gone has no slots: looking for it says so.
            (disk, _) => Asked::disk(at, options, DiskWish::Delete(disk)),
        }
    }
}
