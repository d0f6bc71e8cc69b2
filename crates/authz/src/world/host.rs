//! What an order states besides its guest: backups, disks, storages, free numbers.

use std::collections::BTreeSet;

use protocol::refs::{BackupRef, DiskRef, FsUuid, VolumeId};

use super::guest::same_volume;
use super::{Refused, World, known, list, wrong};
use crate::order::{Backing, Order, Params, TemplateSource, VolumeOwner};

/// Each stated fact about the host, and whether the order makes sense on it now.
pub(super) fn check(order: &Order, world: &World) -> Result<(), Refused> {
    for backup in order.pre.backups.iter().flatten() {
        same_backup(backup, known(&world.backups, "the backups")?)?;
    }
    let goes = match &order.params {
        Params::BackupDelete(params) => params.remove.as_slice(),
        Params::BackupPrune(params) => params.remove.as_slice(),
        _ => &[],
    };
    // Proxmox would say so of each by itself, after those before it are gone.
    if let Some(kept) = goes.iter().find(|volid| world.protected.contains(volid)) {
        return wrong(format!(
            "backup {kept} is protected, and Proxmox deletes none that is: lift that with backup.protect, or leave it out"
        ));
    }
    let disk = order.pre.disk.as_ref();
    match &order.params {
        Params::BackupPrune(params) => {
            let meant: BTreeSet<&VolumeId> = params.remove.iter().chain(&params.keep).collect();
            let here = |backup: &&BackupRef| backup.volid.storage() == params.storage;
            if let Some(why) = world.unlisted.get(&params.storage) {
                return wrong(format!("storage {} could not be listed: {why}", params.storage));
            }
            let now = known(&world.backups, "the backups")?.iter().filter(here);
            let extra: Vec<&VolumeId> =
                now.map(|now| &now.volid).filter(|now| !meant.contains(now)).collect();
            if extra.is_empty() {
                return Ok(());
            }
            wrong(format!(
                "there are backups that the order neither removes nor keeps ({}): prepare it again",
                list(extra)
            ))
        }
        Params::GuestCreate(params) => {
            if known(&world.vmids, "the numbers of all guests")?.contains(&params.vmid) {
                return wrong(format!("there is a guest {} already: choose another number", params.vmid));
            }
            storage_known(world, &params.storage)?;
            match &params.template {
                TemplateSource::Archive { .. } | TemplateSource::Golden { .. } => Ok(()),
                TemplateSource::Guest { vmid, digest } => {
                    let now = known(&world.template, "the template")?;
                    if !now.template {
                        return wrong(format!("guest {vmid} is no template"));
                    }
                    if now.digest != digest.as_str() {
                        return wrong(format!(
                            "template {vmid} changed since the order was prepared: prepare again"
                        ));
                    }
                    Ok(())
                }
                TemplateSource::Backup { volume, size, ctime } => {
                    let meant = BackupRef { volid: volume.clone(), size: *size, ctime: *ctime };
                    same_backup(&meant, known(&world.backups, "the backups")?)
                }
            }
        }
        Params::VolumeDelete(params) => match &params.owner {
            VolumeOwner::Guest {} => Ok(()),
            VolumeOwner::Gone { vmid, .. } => {
                if known(&world.vmids, "the numbers of all guests")?.contains(vmid) {
                    return wrong(format!("there is a guest {vmid} again: the volume may be its own"));
                }
                let now = known(&world.volumes, "the volumes")?;
                order.pre.volumes.iter().flatten().try_for_each(|volume| {
                    same_volume(volume, now.iter().find(|now| now.volid == volume.volid))
                })
            }
        },
        Params::StorageAdd(params) => {
            let now = known(&world.storages, "the storages")?;
            if now.contains_key(&params.storage) {
                return wrong(format!("there is a storage {} already: choose another name", params.storage));
            }
            match &params.backing {
                Backing::Dir { uuid, .. } => mounted(world, uuid, true),
                Backing::ZfsPool { .. } | Backing::LvmThin { .. } => Ok(()),
            }
        }
        Params::StorageRemove(params) => {
            let now = known(&world.storages, "the storages")?;
            let Some(backing) = now.get(&params.storage) else {
                return wrong(format!("there is no storage {}", params.storage));
            };
            if *known(backing, "what is behind the storage")? == params.backing {
                return Ok(());
            }
            wrong(format!("storage {} is another one than was meant: prepare again", params.storage))
        }
        Params::UsbMount(params) => {
            on_disk(world, disk, &params.uuid)?;
            mounted(world, &params.uuid, false)
        }
        Params::UsbUnmount(params) => {
            on_disk(world, disk, &params.uuid)?;
            mounted(world, &params.uuid, true)
        }
        Params::BackupCreate(params) => storage_known(world, &params.storage),
        Params::TemplateDownload(params) => storage_known(world, &params.storage),
        Params::DiskMove(params) => storage_known(world, &params.storage),
        Params::GuestRestoreOver(params) => storage_known(world, &params.storage),
        Params::GuestStart(_)
        | Params::SnapshotCreate(_)
        | Params::GuestTag(_)
        | Params::GuestGrow(_)
        | Params::GuestShutdown(_)
        | Params::GuestStop(_)
        | Params::GuestReboot(_)
        | Params::GuestSuspend(_)
        | Params::GuestConfig(_)
        | Params::GuestResize(_)
        | Params::SnapshotRollback(_)
        | Params::SnapshotDelete(_)
        | Params::GuestResume(_)
        | Params::BackupDelete(_)
        | Params::BackupProtect(_)
        | Params::GuestDestroy(_)
        | Params::DiskDetach(_)
        | Params::PlanApprove(_)
        | Params::JobRun(_)
        | Params::SessionOpen(_)
        | Params::HostRebind(_)
        | Params::LogReanchor(_)
        | Params::AgentUpdate(_)
        | Params::GuestAdopt(_)
        | Params::GuestRelease(_) => Ok(()),
    }
}

fn same_backup(meant: &BackupRef, now: &[BackupRef]) -> Result<(), Refused> {
    match now.iter().find(|now| now.volid == meant.volid) {
        Some(now) if now == meant => Ok(()),
        Some(_) => wrong(format!(
            "backup {} is another one than was meant (its size or time differs): prepare again",
            meant.volid
        )),
        None => wrong(format!("backup {} is not there: prepare again", meant.volid)),
    }
}

fn storage_known(world: &World, storage: &protocol::refs::StorageId) -> Result<(), Refused> {
    if known(&world.storages, "the storages")?.contains_key(storage) {
        return Ok(());
    }
    wrong(format!("there is no storage {storage}"))
}

/// The disk is there, once, and the filesystem is on it.
fn on_disk(world: &World, disk: Option<&DiskRef>, uuid: &FsUuid) -> Result<(), Refused> {
    let Some(meant) = disk else { return wrong("the order names no disk".into()) };
    let now = known(&world.disks, "the disks")?;
    let found: Vec<_> = now.iter().filter(|now| now.disk.serial == meant.serial).collect();
    match found.as_slice() {
        [] => wrong(format!("there is no disk with serial number {}: connect it", meant.serial)),
        [now] if now.disk != *meant => wrong(format!(
            "the disk with serial number {} is another one than was meant (its WWN or size differs)",
            meant.serial
        )),
        [now] if !now.filesystems.contains(uuid) => {
            wrong(format!("there is no filesystem {uuid} on the disk with serial number {}", meant.serial))
        }
        [_] => Ok(()),
        // Cheap USB bridges give every disk the same one.
        more => wrong(format!("{} disks have the serial number {}", more.len(), meant.serial)),
    }
}

fn mounted(world: &World, uuid: &FsUuid, wanted: bool) -> Result<(), Refused> {
    match (known(&world.mounted, "what is mounted")?.contains(uuid), wanted) {
        (true, true) | (false, false) => Ok(()),
        (true, false) => wrong(format!("filesystem {uuid} is mounted already")),
        (false, true) => wrong(format!("filesystem {uuid} is not mounted")),
    }
}
