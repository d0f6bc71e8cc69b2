//! Backups: taken, protected, deleted one by one. Proxmox's own pruning is never asked for: what it removes
//! follows from a retention that nobody signed.

use std::time::Duration;

use authz::RefusalCode;
use authz::order::{self, BackupParams, Order, Params};
use authz::world::{Refused, World};
use protocol::refs::{BackupRef, StorageId, VolumeId};
use protocol::report::Known;
use proxmox_client::{
    ApiError, Backup, Client, Content, ContentFilter, StorageName, Upid, Volid, Volume, VolumeChange,
};
use serde::{Deserialize, Serialize};

use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::rights::{self, Right};
use super::{Action, Program, Target, not_yet};
use crate::world::{Near, client_kind, client_vmid};

/// A node makes one backup at a time. So long this one waits for another; Proxmox's default is three hours.
const LOCKWAIT: Duration = Duration::from_secs(60);

/// Something about a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum BackupCall {
    /// Take one, and remove no older one.
    Create {
        /// Of which guest.
        guest: Target,
        /// Where it goes.
        storage: StorageId,
        /// Whether the guest is stopped; else it is taken while it runs.
        stopped: bool,
        /// How it is packed.
        compress: order::Compression,
        /// Keep it from being deleted.
        protected: bool,
        /// For people.
        notes: String,
        /// This guest's backups on that storage before; none when they were not read.
        before: Option<Vec<VolumeId>>,
    },
    /// Delete this one.
    Delete {
        /// Whose, by its name.
        owner: Target,
        /// Which.
        backup: BackupRef,
    },
    /// Protect it from being deleted, or no longer.
    Protect {
        /// Whose.
        owner: Target,
        /// Which.
        backup: BackupRef,
        /// Afterwards.
        protected: bool,
    },
}

/// Of `backup.create`.
pub(super) fn create(params: &BackupParams, guest: Target, world: &World) -> Result<Call, Refused> {
    let before = match &world.backups {
        Known::Known(list) => list.iter().map(|backup| backup.volid.clone()).collect(),
        Known::Unknown(why) => {
            let why = format!(
                "the backups that there are could not be read, so the new one could not be told from them: {why}"
            );
            return Err((RefusalCode::Precondition, why));
        }
    };
    Ok(Call::Backup(BackupCall::Create {
        guest,
        storage: params.storage.clone(),
        stopped: params.mode == order::BackupMode::Stop,
        compress: params.compress,
        protected: params.protected,
        notes: params.notes.to_string(),
        before: Some(before),
    }))
}

/// Of an unsigned step: nothing of it can interrupt the guest or delete an older backup.
pub(super) fn unsigned(guest: Target, storage: &StorageId, stopped: bool) -> Call {
    Call::Backup(BackupCall::Create {
        guest,
        storage: storage.clone(),
        stopped,
        compress: order::Compression::Zstd,
        protected: false,
        notes: "taken by Writ".to_owned(),
        before: None,
    })
}

/// Of the kinds that are about backups that exist.
pub(super) fn program(order: &Order) -> Result<Program, Refused> {
    let (owner, remove) = match &order.params {
        Params::BackupDelete(params) => (&params.owner, &params.remove),
        Params::BackupPrune(params) => (&params.owner, &params.remove),
        Params::BackupProtect(params) => {
            let owner = Target { kind: params.owner.kind, vmid: params.owner.vmid };
            let backup = stated(order, &params.volume)?;
            let call = BackupCall::Protect { owner, backup, protected: params.protected };
            return Ok(Program { actions: vec![Action::free(Call::Backup(call))] });
        }
        _ => return Err(not_yet(order)),
    };
    let owner = Target { kind: owner.kind, vmid: owner.vmid };
    let delete = |volume: &VolumeId| {
        let backup = stated(order, volume)?;
        if backup.volid.backup_owner().is_some_and(|named| named != (owner.kind, owner.vmid)) {
            let why = format!("{volume} is by its name no backup of {owner}");
            return Err((RefusalCode::BadOrder, why));
        }
        Ok(Action::free(Call::Backup(BackupCall::Delete { owner, backup })))
    };
    Ok(Program { actions: remove.iter().map(delete).collect::<Result<_, _>>()? })
}

fn stated(order: &Order, volume: &VolumeId) -> Result<BackupRef, Refused> {
    let found = order.pre.backups.iter().flatten().find(|backup| backup.volid == *volume);
    found.cloned().ok_or_else(|| (RefusalCode::BadOrder, format!("the order does not state {volume}")))
}

/// All that a storage lists of one guest's backups.
async fn list(client: &Client, owner: Target, storage: &StorageId) -> Result<Vec<Volume>, ApiError> {
    let Ok(name) = storage.as_str().parse::<StorageName>() else { return Ok(Vec::new()) };
    let filter = ContentFilter { content: Some(Content::Backup), vmid: Some(client_vmid(owner.vmid)) };
    let mut list = client.storage_content(&name, filter).await?;
    list.retain(|backup| backup.volid.guest().is_none_or(|kind| kind == client_kind(owner.kind)));
    Ok(list)
}

/// It is there, and still the one that was signed.
pub(super) async fn still_this(client: &Client, owner: Target, backup: &BackupRef) -> Result<(), String> {
    let list = list(client, owner, &backup.volid.storage())
        .await
        .map_err(|error| format!("{} could not be read again: {error}", backup.volid))?;
    match list.iter().find(|now| now.volid.as_str() == backup.volid.as_str()) {
        Some(now) if now.size == Some(backup.size) && now.ctime == Some(backup.ctime) => Ok(()),
        Some(_) => Err(format!("{} is another backup now: its size or time differs", backup.volid)),
        None => Err(format!("{} is not there any more", backup.volid)),
    }
}

impl BackupCall {
    fn judge_list(&self, list: &[Volume], since: Option<u64>) -> Judged {
        match self {
            Self::Create { guest, storage, protected, before, .. } => {
                let known = |volume: &&Volume| {
                    before.iter().flatten().any(|before| before.as_str() == volume.volid.as_str())
                };
                let young = |volume: &&Volume| since.is_none_or(|since| volume.ctime >= Some(since));
                let new: Vec<_> = list.iter().filter(|v| !known(v) && young(v)).collect();
                let told = match (before, since) {
                    (None, None) => {
                        return Judged::Otherwise(format!(
                            "nobody can tell a new backup on {storage} from older ones"
                        ));
                    }
                    _ => new.as_slice(),
                };
                match told {
                    [] => Judged::NotDone(format!("there is no new backup of {guest} on {storage}")),
                    [one] if one.size.is_none_or(|size| size == 0) => {
                        Judged::Otherwise(format!("{} is there and empty", one.volid))
                    }
                    [one] if *protected && one.protected != Some(true) => {
                        Judged::Otherwise(format!("{} is there and not protected", one.volid))
                    }
                    [one] => Judged::Done(format!(
                        "{} is there ({} bytes{})",
                        one.volid,
                        one.size.unwrap_or(0),
                        if *protected { ", protected" } else { "" }
                    )),
                    more => {
                        Judged::Otherwise(format!("{} new backups of {guest} are on {storage}", more.len()))
                    }
                }
            }
            Self::Delete { backup, .. } | Self::Protect { backup, .. } => {
                let found = list.iter().find(|now| now.volid.as_str() == backup.volid.as_str());
                match (self, found) {
                    (Self::Protect { protected, .. }, Some(now)) => {
                        let is = now.protected == Some(true);
                        let word = if is { "protected" } else { "not protected" };
                        Judged::when(is == *protected, format!("{} is {word}", backup.volid))
                    }
                    (Self::Protect { .. }, None) => Judged::Otherwise(format!("{} is gone", backup.volid)),
                    (_, None) => Judged::Done(format!("{} is gone", backup.volid)),
                    (_, Some(now)) => {
                        let word = if now.protected == Some(true) { ", protected" } else { "" };
                        Judged::NotDone(format!("{} is still there{word}", backup.volid))
                    }
                }
            }
        }
    }

    fn place(&self) -> (Target, StorageId) {
        match self {
            Self::Create { guest, storage, .. } => (*guest, storage.clone()),
            Self::Delete { owner, backup } | Self::Protect { owner, backup, .. } => {
                (*owner, backup.volid.storage())
            }
        }
    }
}

impl Answers for BackupCall {
    fn line(&self) -> String {
        match self {
            Self::Create { guest, storage, stopped, compress, protected, notes, .. } => format!(
                "POST vzdump vmid={} storage={storage} mode={} compress={} protected={} remove=0 lockwait=1 notes-template={}",
                guest.vmid,
                if *stopped { "stop" } else { "snapshot" },
                packed(*compress).1,
                u8::from(*protected),
                protocol::text::printable(notes)
            ),
            Self::Delete { backup, .. } => format!("DELETE storage content {}", backup.volid),
            Self::Protect { backup, protected, .. } => {
                format!("PUT storage content {} protected={}", backup.volid, u8::from(*protected))
            }
        }
    }

    fn task(&self) -> Option<TaskName> {
        match self {
            Self::Create { guest, .. } => {
                Some(TaskName { types: vec!["vzdump"], id: guest.vmid.to_string() })
            }
            Self::Delete { owner, backup } => {
                let id = format!("{}@{}", owner.vmid, backup.volid.storage());
                Some(TaskName { types: vec!["imgdel"], id })
            }
            Self::Protect { .. } => None,
        }
    }

    fn rights(&self) -> Vec<Right> {
        let (owner, storage) = self.place();
        vec![
            rights::on_guest(owner.vmid, "VM.Backup"),
            rights::on_storage(&storage, "Datastore.AllocateSpace"),
        ]
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        match self {
            Self::Create { guest, storage, stopped, compress, protected, notes, .. } => {
                let name: StorageName = client_storage(storage);
                let mut backup = Backup::new(client_vmid(guest.vmid), name)
                    .mode(match stopped {
                        true => proxmox_client::BackupMode::Stop,
                        false => proxmox_client::BackupMode::Snapshot,
                    })
                    .compress(packed(*compress).0)
                    .wait_for_others(LOCKWAIT);
                if *protected {
                    backup = backup.protected();
                }
                if !notes.is_empty() {
                    // What looks like a variable would be filled in: these are words for people.
                    backup = backup.notes(&notes.replace("{{", "{ {"));
                }
                Ok(client.backup(&backup).await?.into())
            }
            Self::Delete { backup, .. } => {
                Ok(client.volume_delete(&client_volid(&backup.volid)).await?.into())
            }
            Self::Protect { backup, protected, .. } => {
                let change = VolumeChange::new().protected(*protected);
                client.volume_update(&client_volid(&backup.volid), &change).await?;
                Ok(Sent::AtOnce)
            }
        }
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let (owner, storage) = self.place();
        Ok(self.judge_list(&list(client, owner, &storage).await?, None))
    }

    async fn ready(&self, near: &Near<'_>) -> Result<(), String> {
        match self {
            Self::Create { storage, .. } => super::create::room(near.client, storage, 1).await,
            Self::Delete { owner, backup } | Self::Protect { owner, backup, .. } => {
                still_this(near.client, *owner, backup).await
            }
        }
    }

    async fn judge_task(&self, near: &Near<'_>, task: Option<&Upid>) -> Result<Judged, ApiError> {
        let (owner, storage) = self.place();
        Ok(self.judge_list(&list(near.client, owner, &storage).await?, task.map(Upid::starttime)))
    }

    async fn asides(&self, client: &Client, task: &Upid) -> Vec<String> {
        let Self::Create { .. } = self else { return Vec::new() };
        match client.task_log(task, 0, 0).await {
            Ok(log) => log.lines.iter().filter_map(|line| aside(&line.text)).collect(),
            Err(error) => vec![format!("the log of the backup could not be read: {error}")],
        }
    }
}

/// What a backup's log tells and its result does not.
fn aside(line: &str) -> Option<String> {
    if line.contains("trying 'suspend' mode instead") {
        let why = "its volumes cannot be snapshotted, so the guest was suspended while it was backed up";
        return Some(why.to_owned());
    }
    let left_out = line.contains("excluding") && (line.contains("mount point") || line.contains("disk"));
    left_out.then(|| protocol::text::printable(line))
}

fn packed(compress: order::Compression) -> (proxmox_client::Compression, &'static str) {
    match compress {
        order::Compression::None => (proxmox_client::Compression::None, "0"),
        order::Compression::Zstd => (proxmox_client::Compression::Zstd, "zstd"),
        order::Compression::Gzip => (proxmox_client::Compression::Gzip, "gzip"),
        order::Compression::Lzo => (proxmox_client::Compression::Lzo, "lzo"),
    }
}

/// The client's own type for the same name.
pub(super) fn client_storage(name: &StorageId) -> StorageName {
    name.as_str().parse().expect("our storage names are a part of Proxmox's")
}

/// The client's own type for the same volume.
pub(super) fn client_volid(volid: &VolumeId) -> Volid {
    volid.as_str().parse().expect("our volume ids are a part of Proxmox's")
}
