//! Volumes that nobody uses. An unused disk of a guest goes by a change of that guest's configuration, which
//! Proxmox compares with the signed digest inside its lock; an orphan has no configuration, and its end needs
//! `Datastore.Allocate`, which the usual role has not.

use authz::RefusalCode;
use authz::order::{Order, VolumeDeleteParams, VolumeOwner};
use authz::world::{Refused, World};
use protocol::GuestKind;
use protocol::refs::{VolumeId, VolumeRef};
use protocol::report::Known;
use proxmox_client::{ApiError, Client, ConfigChange, ContentFilter};
use serde::{Deserialize, Serialize};

use super::backup::{client_storage, client_volid};
use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::create::is_free;
use super::destroy::still_listed;
use super::rights::{self, Right};
use super::{Action, Program, Target};
use crate::world::{Near, client_kind, client_vmid, observe};

/// A volume that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeCall {
    /// An unused disk.
    Unused {
        /// Of which guest.
        guest: Target,
        /// `unused0` …
        slot: String,
        /// Which.
        volume: VolumeId,
        /// The configuration that was signed.
        digest: String,
    },
    /// Of a guest that is gone.
    Orphan {
        /// What it was.
        owner: Target,
        /// Which.
        volume: VolumeRef,
    },
}

/// Of `volume.delete`.
pub(super) fn program(order: &Order, params: &VolumeDeleteParams, world: &World) -> Result<Program, Refused> {
    let bad = |why: &str| (RefusalCode::BadOrder, why.to_owned());
    let stated = order.pre.volumes.iter().flatten().find(|volume| volume.volid == params.volume);
    match &params.owner {
        VolumeOwner::Guest {} => {
            let guest = order.guest.as_ref().ok_or_else(|| bad("the order names no guest"))?;
            let digest =
                order.pre.digest.as_ref().ok_or_else(|| bad("the order does not state pre.digest"))?;
            let slot = match &world.guest {
                Known::Known(now) => match &now.config {
                    Known::Known(config) => config
                        .iter()
                        .find(|(key, value)| {
                            key.starts_with("unused")
                                && value.split(',').next().is_some_and(|v| v == params.volume.as_str())
                        })
                        .map(|(key, _)| key.clone()),
                    Known::Unknown(_) => None,
                },
                Known::Unknown(_) => None,
            };
            let slot = slot.ok_or_else(|| {
                let why = format!("{} is no unused disk of the guest: detach it first", params.volume);
                (RefusalCode::Precondition, why)
            })?;
            let call = VolumeCall::Unused {
                guest: Target { kind: guest.kind, vmid: guest.vmid },
                slot,
                volume: params.volume.clone(),
                digest: digest.to_string(),
            };
            Ok(Program { actions: vec![Action::on_guest(Call::Volume(call))] })
        }
        VolumeOwner::Gone { vmid, kind } => {
            let volume = stated.ok_or_else(|| bad("the order does not state its volume"))?.clone();
            let owner = Target { kind: *kind, vmid: *vmid };
            if client_volid(&volume.volid).vmid() != Some(client_vmid(*vmid)) {
                let why = format!("{} is by its name no volume of guest {vmid}", volume.volid);
                return Err((RefusalCode::BadOrder, why));
            }
            Ok(Program { actions: vec![Action::free(Call::Volume(VolumeCall::Orphan { owner, volume }))] })
        }
    }
}

impl VolumeCall {
    fn volid(&self) -> &VolumeId {
        match self {
            Self::Unused { volume, .. } => volume,
            Self::Orphan { volume, .. } => &volume.volid,
        }
    }
}

impl Answers for VolumeCall {
    fn line(&self) -> String {
        match self {
            Self::Unused { guest, slot, volume, digest } => {
                let method = match guest.kind {
                    GuestKind::Qemu => "POST",
                    GuestKind::Lxc => "PUT",
                };
                format!("{method} {guest}/config delete={slot} ({volume}) digest={digest}")
            }
            Self::Orphan { volume, .. } => format!("DELETE storage content {}", volume.volid),
        }
    }

    fn task(&self) -> Option<TaskName> {
        match self {
            Self::Unused { guest, .. } => match guest.kind {
                GuestKind::Qemu => Some(TaskName { types: vec!["qmconfig"], id: guest.vmid.to_string() }),
                GuestKind::Lxc => None,
            },
            Self::Orphan { owner, volume } => {
                let id = format!("{}@{}", owner.vmid, volume.volid.storage());
                Some(TaskName { types: vec!["imgdel"], id })
            }
        }
    }

    fn rights(&self) -> Vec<Right> {
        let storage = self.volid().storage();
        match self {
            Self::Unused { guest, .. } => vec![
                rights::on_guest(guest.vmid, "VM.Config.Disk"),
                rights::on_storage(&storage, "Datastore.AllocateSpace"),
            ],
            Self::Orphan { .. } => vec![rights::on_storage(&storage, "Datastore.Allocate")],
        }
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        match self {
            Self::Unused { guest, slot, digest, .. } => {
                let change = ConfigChange::new(digest).delete(slot);
                let (kind, vmid) = (client_kind(guest.kind), client_vmid(guest.vmid));
                // Of a machine in a task: freeing a disk can take longer than an answer may.
                Ok(client.change_config(kind, vmid, &change).await?.into())
            }
            Self::Orphan { volume, .. } => {
                Ok(client.volume_delete(&client_volid(&volume.volid)).await?.into())
            }
        }
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let volid = self.volid();
        let named = match self {
            Self::Unused { guest, .. } => {
                let seen = observe(client, guest.kind, guest.vmid).await?;
                seen.config.values().any(|value| value.split([',', '=']).any(|part| part == volid.as_str()))
            }
            Self::Orphan { .. } => false,
        };
        let listed = !still_listed(client, std::slice::from_ref(volid)).await?.is_empty();
        Ok(match (listed, named) {
            (false, false) => Judged::Done(format!("{volid} is gone")),
            (true, true) => Judged::NotDone(format!("{volid} is still there")),
            (true, false) if matches!(self, Self::Orphan { .. }) => {
                Judged::NotDone(format!("{volid} is still there"))
            }
            (true, false) => {
                Judged::Otherwise(format!("{volid} is still there, and the guest does not name it any more"))
            }
            (false, true) => Judged::Otherwise(format!("{volid} is gone, and the guest still names it")),
        })
    }

    async fn ready(&self, near: &Near<'_>) -> Result<(), String> {
        let (owner, volume) = match self {
            Self::Orphan { owner, volume } => (owner, volume),
            Self::Unused { guest, volume, .. } => return held_by_none(near.client, *guest, volume).await,
        };
        is_free(near.client, *owner).await?;
        let list = near
            .client
            .storage_content(&client_storage(&volume.volid.storage()), ContentFilter::default())
            .await
            .map_err(|error| format!("{} could not be read again: {error}", volume.volid))?;
        let now = list.iter().find(|now| now.volid.as_str() == volume.volid.as_str());
        if now.is_some_and(|now| now.size == Some(volume.size)) {
            return Ok(());
        }
        Err(format!("{} is not the volume that was meant any more", volume.volid))
    }
}

/// No snapshot of the guest names it: of one that does Proxmox frees nothing.
async fn held_by_none(client: &Client, guest: Target, volume: &VolumeId) -> Result<(), String> {
    let (kind, vmid) = (client_kind(guest.kind), client_vmid(guest.vmid));
    let unread = |error: ApiError| format!("whether a snapshot holds {volume} could not be read: {error}");
    for snapshot in client.snapshots(kind, vmid).await.map_err(unread)?.snapshots {
        let name =
            snapshot.name.parse().map_err(|_| format!("{:?} is no name of a snapshot", snapshot.name))?;
        let config = client.snapshot_config(kind, vmid, &name).await.map_err(unread)?;
        if config.raw.values().any(|value| value.split(',').any(|part| part == volume.as_str())) {
            return Err(format!(
                "snapshot {} holds {volume}, and Proxmox frees no volume that a snapshot holds: delete the snapshot first, or keep the volume",
                snapshot.name
            ));
        }
    }
    Ok(())
}
