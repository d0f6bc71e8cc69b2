//! What the parts of an order must say together: parameters, guest, preconditions.

use protocol::refs::{BackupRef, VolumeId};
use protocol::{GuestIdentity, GuestKind, GuestRef, RunState};

use super::params::{
    BackupMode, BackupPruneParams, DetachParams, GrowParams, MoveParams, VolumeOwner, Wrong,
};
use super::pre::{Needs, ORPHAN};
use super::{Order, OrderError, Params};

impl Order {
    /// What this order must state. As its kind says, but a volume without an owner has no guest.
    pub(super) fn needs(&self) -> Needs {
        match &self.params {
            Params::VolumeDelete(params) => match params.owner {
                VolumeOwner::Guest {} => Needs { guest: super::Need::Must, ..self.kind().needs() },
                VolumeOwner::Gone { .. } => ORPHAN,
            },
            _ => self.kind().needs(),
        }
    }

    /// What the parts must say together, once each of them is right.
    pub(super) fn check_together(&self, draft: bool) -> Result<(), OrderError> {
        let kind = self.kind();
        if !draft && matches!(self.params, Params::PlanApprove(_)) && self.plan.is_none() {
            return Err(OrderError::Precondition { kind, missing: "plan" });
        }
        self.parts().map_err(|(field, allowed)| OrderError::Range { kind, field, allowed })
    }

    fn parts(&self) -> Result<(), Wrong> {
        let container = self.guest.as_ref().is_some_and(|guest| guest.kind == GuestKind::Lxc);
        let state = |wanted: RunState, allowed| demand(self.pre.state == Some(wanted), "pre.state", allowed);
        match &self.params {
            Params::GuestShutdown(_) | Params::GuestStop(_) | Params::GuestReboot(_) => {
                state(RunState::Running, "running: there is nothing to stop otherwise")
            }
            Params::GuestSuspend(_) => {
                demand(!container, "guest.type", "qemu: containers cannot be suspended")?;
                state(RunState::Running, "running: there is nothing to suspend otherwise")
            }
            Params::GuestResume(_) => {
                demand(!container, "guest.type", "qemu: containers cannot be suspended")
            }
            Params::GuestConfig(params) => {
                let kind = if container { GuestKind::Lxc } else { GuestKind::Qemu };
                let fits = params.changes.iter().all(|change| change.key.fits(kind));
                demand(fits, "params.changes.key", "an option that guests of this kind have")
            }
            Params::GuestResize(params) => {
                demand(!container || params.sockets.is_none(), "params.sockets", "null for a container")?;
                demand(
                    container || params.swap_mib.is_none(),
                    "params.swap_mib",
                    "null for a virtual machine",
                )
            }
            Params::GuestGrow(GrowParams { disk, volume, size }) => {
                self.check_disk(disk, volume)?;
                demand(!disk.is_unused(), "params.disk", "a disk in use")?;
                let now = self.pre.volumes.iter().flatten().find(|seen| seen.volid == *volume);
                demand(now.is_some_and(|now| now.size < *size), "params.size", "more than the disk has now")
            }
            Params::DiskMove(MoveParams { disk, volume, .. }) => self.check_disk(disk, volume),
            Params::DiskDetach(DetachParams { disk, volume }) => {
                self.check_disk(disk, volume)?;
                // Detaching an unused disk would delete it: that has a kind of its own.
                let fits = disk.as_str() != "rootfs" && !disk.is_unused();
                demand(fits, "params.disk", "neither the root filesystem nor an unused disk (volume.delete)")
            }
            Params::VolumeDelete(params) => match &params.owner {
                VolumeOwner::Guest {} => self.check_volume(&params.volume),
                VolumeOwner::Gone { .. } => demand(
                    self.volids().eq([&params.volume]),
                    "pre.volumes",
                    "the volume that goes, and no other",
                ),
            },
            Params::BackupCreate(params) => match params.mode {
                BackupMode::Snapshot => Ok(()),
                BackupMode::Stop => state(RunState::Stopped, "stopped for params.mode stop"),
            },
            Params::BackupDelete(params) => demand(
                self.backups().eq(&params.remove),
                "pre.backups",
                "the list of params.remove, in its order",
            ),
            Params::BackupProtect(params) => {
                demand(self.backups().eq([&params.volume]), "pre.backups", "params.volume, and no other")
            }
            Params::BackupPrune(BackupPruneParams { remove, keep, .. }) => demand(
                self.backups().eq(remove.iter().chain(keep)),
                "pre.backups",
                "the lists of params.remove and params.keep, in their order",
            ),
            Params::GuestRestoreOver(params) => {
                self.check_volumes()?;
                let others = self.backups().filter(|volid| **volid != params.archive).count();
                let fits = others >= 1 && self.backups().count() == others + 1;
                demand(fits, "pre.backups", "the archive and at least one other backup that must still exist")
            }
            // A guest that runs is stopped by the same order; `pre.state` says that it does.
            Params::GuestDestroy(_) => self.check_volumes(),
            Params::HostRebind(params) => demand(
                self.host.generation.checked_add(1) == Some(params.generation),
                "params.generation",
                "the order's host.gen and one",
            ),
            Params::GuestStart(_)
            | Params::SnapshotCreate(_)
            | Params::GuestTag(_)
            | Params::GuestCreate(_)
            | Params::TemplateDownload(_)
            | Params::SnapshotRollback(_)
            | Params::SnapshotDelete(_)
            | Params::StorageAdd(_)
            | Params::StorageRemove(_)
            | Params::UsbMount(_)
            | Params::UsbUnmount(_)
            | Params::PlanApprove(_)
            | Params::JobRun(_)
            | Params::SessionOpen(_)
            | Params::LogReanchor(_)
            | Params::AgentUpdate(_)
            | Params::GuestAdopt(_)
            | Params::GuestRelease(_) => Ok(()),
        }
    }

    fn volids(&self) -> impl Iterator<Item = &VolumeId> {
        self.pre.volumes.iter().flatten().map(|volume| &volume.volid)
    }

    fn backups(&self) -> impl Iterator<Item = &VolumeId> {
        self.pre.backups.iter().flatten().map(|BackupRef { volid, .. }| volid)
    }

    fn check_disk(&self, disk: &protocol::refs::DiskSlot, volume: &VolumeId) -> Result<(), Wrong> {
        let fits = self.guest.as_ref().is_some_and(|guest| disk.fits(guest.kind));
        demand(fits, "params.disk", "a slot that guests of this kind have")?;
        self.check_volume(volume)
    }

    /// The volume is the guest's, and its facts are stated.
    fn check_volume(&self, volume: &VolumeId) -> Result<(), Wrong> {
        let owned =
            self.identity().is_some_and(|identity| identity.volids.iter().any(|own| own == volume.as_str()));
        demand(owned, "params.volume", "one of guest.identity.volids")?;
        demand(self.volids().any(|volid| volid == volume), "pre.volumes", "a list with params.volume in it")
    }

    /// The whole guest goes: the facts of each of its volumes are stated.
    fn check_volumes(&self) -> Result<(), Wrong> {
        let mut stated: Vec<&str> = self.volids().map(VolumeId::as_str).collect();
        stated.sort_unstable();
        let owned = self.identity().is_some_and(|identity| identity.volids.iter().eq(&stated));
        demand(owned, "pre.volumes", "the volumes of guest.identity.volids, all of them")
    }

    fn identity(&self) -> Option<&GuestIdentity> {
        self.guest.as_ref().map(|guest| &guest.identity)
    }
}

/// A guest's words are shown to whoever signs: nothing in them may disguise anything, and their lists have
/// one order.
pub(super) fn check_guest(guest: &GuestRef) -> Result<(), Wrong> {
    let GuestRef { vmid: _, kind: _, name, identity } = guest;
    let GuestIdentity { smbios_uuid, vmgenid, meta_ctime: _, macs, volids, giid } = identity;
    let id = |id: &Option<String>| {
        id.as_ref().is_none_or(|id| {
            (1..=36).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
    };
    let mac = |mac: &String| {
        mac.len() == 17
            && mac.bytes().enumerate().all(|(at, b)| match at % 3 {
                2 => b == b':',
                _ => b.is_ascii_digit() || (b'A'..=b'F').contains(&b),
            })
    };
    let volid = |volid: &String| {
        (1..=1024).contains(&volid.len())
            && protocol::text::printable(volid) == *volid
            && !volid.contains(' ')
    };
    let sorted = |list: &[String]| list.len() <= 300 && list.windows(2).all(|pair| pair[0] < pair[1]);
    let name_fits = name.len() <= 253 && protocol::text::printable(name) == *name;
    demand(
        name_fits,
        "guest.name",
        "at most 253 bytes without control, bidirectional or zero-width characters",
    )?;
    demand(id(smbios_uuid), "guest.identity.smbios_uuid", "at most 36 of a-z, 0-9 and '-'")?;
    demand(id(vmgenid), "guest.identity.vmgenid", "at most 36 of a-z, 0-9 and '-'")?;
    let hex = |id: &String| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    demand(giid.as_ref().is_none_or(hex), "guest.identity.giid", "32 of 0-9 and a-f, or null")?;
    demand(
        macs.iter().all(mac) && sorted(macs),
        "guest.identity.macs",
        "MAC addresses in upper case, sorted, each once",
    )?;
    demand(
        volids.iter().all(volid) && sorted(volids),
        "guest.identity.volids",
        "volume ids, sorted, each once",
    )
}

fn demand(fits: bool, field: &'static str, allowed: &'static str) -> Result<(), Wrong> {
    if fits { Ok(()) } else { Err((field, allowed)) }
}
