//! Disks and volumes.

use authz::Kind;
use authz::order::{
    DetachParams, GrowParams, MoveParams, Params, Preconditions, VolumeDeleteParams, VolumeOwner,
};
use authz::world;
use protocol::ask::Look;
use protocol::refs::{DiskSlot, StorageId, VolumeId, VolumeRef};
use protocol::{GuestKind, Vmid};

use super::facts::{Facts, Guest};
use super::{Parts, PrepareError};
use crate::text::bytes;

/// What is ordered about a guest's disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskWish {
    /// `guest.grow`
    Grow {
        /// Which disk.
        disk: DiskSlot,
        /// To what.
        size: NewSize,
    },
    /// `disk.move`
    Move {
        /// Which disk.
        disk: DiskSlot,
        /// Where to.
        storage: StorageId,
        /// Delete the old volume afterwards.
        delete_source: bool,
    },
    /// `disk.detach`
    Detach(DiskSlot),
    /// `volume.delete` of an unused disk.
    Delete(UnusedDisk),
}

/// An unused disk, by its slot or by its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnusedDisk {
    /// `unused0`
    Slot(DiskSlot),
    /// `local-lvm:vm-101-disk-1`
    Volume(VolumeId),
}

/// `volume.delete` where the guest is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanWish {
    /// The number that the guest had.
    pub vmid: Vmid,
    /// What it was.
    pub kind: GuestKind,
    /// Which volume.
    pub volume: VolumeId,
}

/// How large a disk shall be; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewSize {
    /// So large.
    To(u64),
    /// So much larger than now.
    By(u64),
}

impl DiskWish {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Grow { .. } => Kind::GuestGrow,
            Self::Move { .. } => Kind::DiskMove,
            Self::Detach(_) => Kind::DiskDetach,
            Self::Delete(_) => Kind::VolumeDelete,
        }
    }

    pub(super) fn look(&self, vmid: Vmid) -> Look {
        let backing = matches!(self, Self::Move { .. });
        Look { guest: Some(vmid), backing, ..Look::default() }
    }

    pub(super) fn parts(&self, facts: Facts<'_>, guest: &Guest<'_>) -> Result<Parts, PrepareError> {
        let vmid = guest.vmid;
        let with =
            |volume: VolumeRef| Ok(Preconditions { volumes: Some(vec![volume]), ..guest.configured()? });
        let (params, pre) = match self {
            Self::Grow { disk, size } => {
                let now = guest.disk(disk)?;
                let size = match size {
                    NewSize::To(size) => Some(*size),
                    NewSize::By(more) => now.size.checked_add(*more),
                };
                let Some(size) = size.filter(|size| *size > now.size) else {
                    return Err(PrepareError::Pointless(format!(
                        "disk {disk} of guest {vmid} has {} ({} bytes) now, and disks only grow: give a larger size, or +SIZE",
                        bytes(now.size),
                        now.size
                    )));
                };
                let params = GrowParams { disk: disk.clone(), volume: now.volid.clone(), size };
                (Params::GuestGrow(params), with(now)?)
            }
            Self::Move { disk, storage, delete_source } => {
                let now = guest.disk(disk)?;
                facts.storage(storage)?;
                if now.volid.storage() == *storage {
                    let why = format!("disk {disk} of guest {vmid} is on storage {storage} already");
                    return Err(PrepareError::Pointless(why));
                }
                let params = MoveParams {
                    disk: disk.clone(),
                    volume: now.volid.clone(),
                    storage: storage.clone(),
                    delete_source: *delete_source,
                };
                (Params::DiskMove(params), with(now)?)
            }
            Self::Detach(disk) => {
                let now = guest.disk(disk)?;
                if disk.is_unused() {
                    let why = format!("{disk} of guest {vmid} is detached already: volume.delete deletes it");
                    return Err(PrepareError::Pointless(why));
                }
                let params = DetachParams { disk: disk.clone(), volume: now.volid.clone() };
                (Params::DiskDetach(params), guest.losing(vec![now])?)
            }
            Self::Delete(disk) => {
                let now = unused(guest, disk)?;
                let params = VolumeDeleteParams { volume: now.volid.clone(), owner: VolumeOwner::Guest {} };
                (Params::VolumeDelete(params), guest.losing(vec![now])?)
            }
        };
        Ok(Parts::of_guest(guest, params, pre))
    }
}

/// An unused disk of the guest; others are not deleted.
fn unused(guest: &Guest<'_>, disk: &UnusedDisk) -> Result<VolumeRef, PrepareError> {
    let in_use = |slot: &str| {
        PrepareError::Pointless(format!(
            "{slot} of guest {} is in use: detach it first with disk.detach",
            guest.vmid
        ))
    };
    match disk {
        UnusedDisk::Slot(slot) if slot.is_unused() => guest.disk(slot),
        UnusedDisk::Slot(slot) => Err(guest.disk(slot).err().unwrap_or_else(|| in_use(slot.as_str()))),
        UnusedDisk::Volume(volid) => {
            let config = guest.config()?;
            let volumes = || config.iter().map(|(key, value)| (key, world::volume_in(value)));
            let slot = volumes().find(|(_, volume)| *volume == volid.as_str());
            match slot {
                Some((slot, _)) if slot.starts_with("unused") => guest.volume(volid.as_str()),
                Some((slot, _)) => Err(in_use(slot)),
                None => {
                    let names = volumes().filter(|(key, _)| key.starts_with("unused")).map(|(_, v)| v);
                    let of = format!("guest {}", guest.vmid);
                    Err(PrepareError::not_there(of, "unused disk", volid.as_str(), names))
                }
            }
        }
    }
}

impl OrphanWish {
    pub(super) fn look(&self) -> Look {
        Look { volumes: vec![self.volume.clone()], vmids: true, ..Look::default() }
    }

    pub(super) fn parts(&self, facts: Facts<'_>) -> Result<Parts, PrepareError> {
        let Self { vmid, kind, volume } = self;
        if facts.known(&facts.world.vmids, "the numbers of all guests")?.contains(vmid) {
            return Err(PrepareError::Pointless(format!(
                "there is a guest {vmid}, and the volume may be its own: detach it there, and leave --gone out"
            )));
        }
        let all = facts.known(&facts.world.volumes, "the volume")?;
        let found = all.iter().find(|now| now.volid == *volume).cloned().ok_or_else(|| {
            let names = all.iter().map(|now| now.volid.as_str());
            PrepareError::not_there(format!("host '{}'", facts.host), "volume", volume.as_str(), names)
        })?;
        let owner = VolumeOwner::Gone { vmid: *vmid, kind: *kind };
        let params = VolumeDeleteParams { volume: volume.clone(), owner };
        let pre = Preconditions { volumes: Some(vec![found]), ..Preconditions::default() };
        Ok(Parts::of_host(Params::VolumeDelete(params), pre))
    }
}
