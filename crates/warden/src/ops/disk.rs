//! Disks of a guest: grown, moved to another storage, detached. Each is sent with the digest that was
//! signed, and what became of it is read from the slots, the unused disks, what is pending, and the
//! storages' own lists.

use authz::RefusalCode;
use authz::order::{Order, Params};
use authz::world::{Refused, World};

use protocol::refs::{DiskSlot, StorageId, VolumeId, VolumeRef};
use protocol::report::Known;
use protocol::{GuestKind, RunState};
use proxmox_client::{ApiError, Client, ConfigChange, GrowTo, MoveVolume, StorageName};
use serde::{Deserialize, Serialize};

use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::rights::{self, Right};
use super::{Target, lock_of, not_yet};
use crate::world::{Extent, Observed, client_kind, client_vmid, observe_all, pending};

/// Of an unsigned step: from so many bytes to so many.
pub(super) fn grow(
    guest: Target,
    disk: &DiskSlot,
    volume: &VolumeId,
    (from, to): (u64, u64),
    digest: &str,
) -> Call {
    let what = DiskWhat::Grow { from, to };
    Call::Disk(DiskCall {
        guest,
        disk: disk.clone(),
        volume: volume.clone(),
        digest: digest.to_owned(),
        what,
    })
}

/// Something about one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskCall {
    /// Of which guest.
    pub guest: Target,
    /// Where it hangs.
    pub disk: DiskSlot,
    /// Which volume that is.
    pub volume: VolumeId,
    /// The configuration that it was decided on.
    pub digest: String,
    /// What.
    pub what: DiskWhat,
}

/// What is done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskWhat {
    /// It gets this size.
    Grow {
        /// Bytes that it has.
        from: u64,
        /// Bytes that it shall have, whole KiB.
        to: u64,
    },
    /// It is copied to another storage and used from there.
    Move {
        /// Which.
        storage: StorageId,
        /// The old volume goes; else it stays, as an unused disk.
        delete_source: bool,
    },
    /// It leaves its slot and stays, as an unused disk.
    Detach {},
}

/// Storages round sizes up to whole blocks or extents of their own, none of them larger than this.
const ROUNDED_UP: u64 = 128 << 20;

/// Whether it is a container that runs, as far as is known.
pub(super) fn needs_rest(world: &World) -> bool {
    matches!(&world.guest, Known::Known(now) if now.kind == GuestKind::Lxc && now.state == RunState::Running)
}

/// Of an order about a disk.
pub(super) fn call(order: &Order, guest: Target) -> Result<Call, Refused> {
    let bad = |why: &str| (RefusalCode::BadOrder, why.to_owned());
    let digest = order.pre.digest.as_ref().ok_or_else(|| bad("the order names no digest"))?.to_string();
    let (disk, volume, what) = match &order.params {
        Params::GuestGrow(params) => {
            let stated = order.pre.volumes.iter().flatten().find(|stated| stated.volid == params.volume);
            let from = stated.ok_or_else(|| bad("the order does not say how large the disk is"))?.size;
            (&params.disk, &params.volume, DiskWhat::Grow { from, to: params.size })
        }
        Params::DiskMove(params) => {
            let (storage, delete_source) = (params.storage.clone(), params.delete_source);
            (&params.disk, &params.volume, DiskWhat::Move { storage, delete_source })
        }
        Params::DiskDetach(params) => (&params.disk, &params.volume, DiskWhat::Detach {}),
        _ => return Err(not_yet(order)),
    };
    Ok(Call::Disk(DiskCall { guest, disk: disk.clone(), volume: volume.clone(), digest, what }))
}

/// What is looked at after a call.
#[derive(Debug, Clone)]
pub struct DiskSeen<'a> {
    /// The guest, with its volumes.
    pub guest: &'a Observed,
    /// Whether the slot is emptied at the guest's next start only.
    pub pending_removal: bool,
    /// Whether the old volume is still on its storage; none when its storage cannot be listed.
    pub old_is_there: Option<bool>,
}

impl DiskCall {
    /// Pure: whether the guest shows it.
    pub fn judge_seen(&self, seen: &DiskSeen<'_>) -> Judged {
        match &self.what {
            DiskWhat::Grow { from, to } => self.grown(seen.guest, *from, *to),
            DiskWhat::Move { storage, delete_source } => self.moved(seen, storage, *delete_source),
            DiskWhat::Detach {} => self.detached(seen),
        }
    }

    fn in_slot<'a>(&self, seen: &'a Observed) -> Option<&'a str> {
        seen.slots.get(self.disk.as_str()).map(String::as_str)
    }

    /// The unused slot in which the old volume is.
    fn unused<'a>(&self, seen: &'a Observed) -> Option<&'a str> {
        let mut slots = seen.slots.iter().filter(|(slot, _)| slot.starts_with("unused"));
        slots.find(|(_, volume)| **volume == self.volume.as_str()).map(|(slot, _)| slot.as_str())
    }

    /// Something else hangs in the slot.
    fn elsewhere(&self, seen: &Observed) -> Judged {
        let now = self.in_slot(seen).map_or("nothing".to_owned(), protocol::text::printable);
        let lock = lock_of(seen);
        Judged::Otherwise(format!("in slot {} there is {now}, not {}{lock}", self.disk, self.volume))
    }

    fn grown(&self, seen: &Observed, from: u64, to: u64) -> Judged {
        if self.in_slot(seen) != Some(self.volume.as_str()) {
            return self.elsewhere(seen);
        }
        let lock = lock_of(seen);
        let size = match &seen.volumes {
            Known::Known(volumes) => {
                volumes.iter().find(|volume: &&VolumeRef| volume.volid == self.volume).map(|v| v.size)
            }
            Known::Unknown(_) => None,
        };
        // The configuration only says what Proxmox wrote there, so it does for refusing and not for more.
        let Some(size) = size else {
            let why = match &seen.volumes {
                Known::Unknown(why) => protocol::text::printable(why),
                Known::Known(_) => "its storage does not list it".to_owned(),
            };
            return Judged::Otherwise(format!("the size of {} cannot be read ({why}){lock}", self.volume));
        };
        match size {
            size if size == to => Judged::Done(format!("{} has {size} bytes{lock}", self.volume)),
            size if size > to && size - to < ROUNDED_UP => {
                Judged::Done(format!("{} has {size} bytes: its storage rounded {to} up{lock}", self.volume))
            }
            size if size == from => Judged::NotDone(format!("{} has {size} bytes{lock}", self.volume)),
            size => Judged::Otherwise(format!(
                "{} had {from} bytes, was to have {to} and has {size}{lock}",
                self.volume
            )),
        }
    }

    fn moved(&self, seen: &DiskSeen<'_>, storage: &StorageId, delete_source: bool) -> Judged {
        let guest = seen.guest;
        let lock = lock_of(guest);
        let now = match self.in_slot(guest) {
            Some(now) if now == self.volume.as_str() => {
                return Judged::NotDone(format!("{} still is {now}{lock}", self.disk));
            }
            Some(now) if now.split(':').next() == Some(storage.as_str()) => protocol::text::printable(now),
            _ => return self.elsewhere(guest),
        };
        let unused = self.unused(guest);
        let old = match (delete_source, unused, seen.old_is_there) {
            (true, None, Some(false)) => Ok("the old volume is gone".to_owned()),
            (true, Some(slot), _) => Err(format!("{} is still there, as {slot}", self.volume)),
            (true, None, Some(true)) => Err(format!("{} is still on its storage", self.volume)),
            (true, None, None) => {
                Err(format!("whether {} is gone cannot be read from its storage", self.volume))
            }
            (false, Some(slot), Some(true) | None) => Ok(format!("{} stays, as {slot}", self.volume)),
            // A snapshot that holds it keeps it from being listed as unused.
            (false, None, Some(true)) if !guest.snapshots.is_empty() => {
                Ok(format!("{} stays on its storage, where snapshots hold it", self.volume))
            }
            (false, None, Some(true)) => {
                Err(format!("{} is on its storage, and is no unused disk of the guest", self.volume))
            }
            (false, _, Some(false)) => Err(format!("{} is gone, and was to stay", self.volume)),
            (false, None, None) => Err(format!("{} is no unused disk of the guest", self.volume)),
        };
        match old {
            Ok(old) => Judged::Done(format!("{} is {now} now; {old}{lock}", self.disk)),
            Err(old) => Judged::Otherwise(format!("{} is {now} now, but {old}{lock}", self.disk)),
        }
    }

    fn detached(&self, seen: &DiskSeen<'_>) -> Judged {
        let guest = seen.guest;
        let (disk, volume, lock) = (&self.disk, &self.volume, lock_of(guest));
        if seen.pending_removal {
            return Judged::Done(format!(
                "{disk} goes at the guest's next start; until then {volume} is still attached and in use{lock}"
            ));
        }
        match (self.in_slot(guest), self.unused(guest)) {
            (Some(now), _) if now == volume.as_str() => {
                Judged::NotDone(format!("{disk} still is {volume}{lock}"))
            }
            (Some(_), _) => self.elsewhere(guest),
            (None, Some(slot)) => Judged::Done(format!("{disk} is empty; {volume} stays, as {slot}{lock}")),
            // Proxmox makes a new one whenever it needs it.
            (None, None) if volume.as_str().contains("cloudinit") => {
                Judged::Done(format!("{disk} is empty, and the cloud-init drive {volume} is gone{lock}"))
            }
            (None, None) => Judged::Otherwise(match seen.old_is_there {
                Some(false) => format!("{disk} is empty, and {volume} is gone, which was to stay{lock}"),
                _ => format!("{disk} is empty, and {volume} is no unused disk of the guest{lock}"),
            }),
        }
    }

    /// Whether the old volume is on its storage. Only asked where the slots do not show it.
    async fn old_is_there(&self, client: &Client) -> Option<bool> {
        let storage: StorageName = self.volume.storage().as_str().parse().ok()?;
        let filter =
            proxmox_client::ContentFilter { content: None, vmid: Some(client_vmid(self.guest.vmid)) };
        let list = client.storage_content(&storage, filter).await.ok()?;
        Some(list.iter().any(|volume| volume.volid.as_str() == self.volume.as_str()))
    }
}

impl Answers for DiskCall {
    fn line(&self) -> String {
        let Self { guest, disk, volume: _, digest, what } = self;
        let kind = guest.kind;
        match what {
            DiskWhat::Grow { to, .. } => {
                let size = GrowTo::bytes(*to).map_or_else(|| to.to_string(), |to| to.to_string());
                format!("PUT {guest}/resize disk={disk} size={size} digest={digest}")
            }
            DiskWhat::Move { storage, delete_source } => {
                let (path, name) = match kind {
                    GuestKind::Qemu => ("move_disk", "disk"),
                    GuestKind::Lxc => ("move_volume", "volume"),
                };
                let delete = u8::from(*delete_source);
                format!("POST {guest}/{path} {name}={disk} storage={storage} delete={delete} digest={digest}")
            }
            DiskWhat::Detach {} => format!("PUT {guest}/config delete={disk} digest={digest}"),
        }
    }

    fn task(&self) -> Option<TaskName> {
        let types = match (&self.what, self.guest.kind) {
            (DiskWhat::Grow { .. }, _) => "resize",
            (DiskWhat::Move { .. }, GuestKind::Qemu) => "qmmove",
            (DiskWhat::Move { .. }, GuestKind::Lxc) => "move_volume",
            (DiskWhat::Detach {}, _) => return None,
        };
        Some(TaskName { types: vec![types], id: self.guest.vmid.to_string() })
    }

    fn rights(&self) -> Vec<Right> {
        let mut rights = vec![rights::on_guest(self.guest.vmid, "VM.Config.Disk")];
        match &self.what {
            DiskWhat::Grow { .. } => {
                rights.push(rights::on_storage(&self.volume.storage(), "Datastore.AllocateSpace"));
            }
            DiskWhat::Move { storage, .. } => {
                rights.push(rights::on_storage(storage, "Datastore.AllocateSpace"));
            }
            DiskWhat::Detach {} => {}
        }
        rights
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let (kind, vmid) = (client_kind(self.guest.kind), client_vmid(self.guest.vmid));
        let disk = self.disk.as_str();
        match &self.what {
            DiskWhat::Grow { to, .. } => {
                let to = GrowTo::bytes(*to).expect("the order's parser takes whole KiB only");
                Ok(client.grow_volume_to(kind, vmid, disk, to, Some(&self.digest)).await?.into())
            }
            DiskWhat::Move { storage, delete_source } => {
                let storage = storage.as_str().parse().expect("our storage names are a part of Proxmox's");
                let what = MoveVolume::to_storage(disk, storage).digest(&self.digest);
                let what = if *delete_source { what.then_delete_original() } else { what };
                Ok(client.move_volume(kind, vmid, &what).await?.into())
            }
            DiskWhat::Detach {} => {
                client.change_config_now(kind, vmid, &ConfigChange::new(&self.digest).delete(disk)).await?;
                Ok(Sent::AtOnce)
            }
        }
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let sizes = matches!(self.what, DiskWhat::Grow { .. });
        let extent = Extent { volumes: sizes, ..Extent::default() };
        let guest = observe_all(client, self.guest.kind, self.guest.vmid, extent).await?;
        let removed = matches!(self.what, DiskWhat::Detach {}) && self.in_slot(&guest).is_none();
        let pending_removal =
            removed && pending(client, &guest).await?.iter().any(|option| option.key == self.disk.as_str());
        let old_is_there = if sizes { None } else { self.old_is_there(client).await };
        Ok(self.judge_seen(&DiskSeen { guest: &guest, pending_removal, old_is_there }))
    }
}
