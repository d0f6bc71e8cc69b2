//! The host around the guests.

use std::collections::{BTreeMap, BTreeSet};

use authz::order::Backing;
use authz::world::TemplateNow;
use protocol::ask::Owner;
use protocol::refs::{BackupRef, StorageId, VolumeId, VolumeRef};
use protocol::report::Known;
use protocol::{GuestKind, Vmid};
use proxmox_client::{Client, Content, ContentFilter, ResourceFilter, StorageName};

use super::guest::volume_ref;
use super::{Near, backing, client_kind, client_vmid, kind_of};

/// A guest's backups.
pub(super) struct Listed {
    /// Those that were found.
    pub(super) backups: Known<Vec<BackupRef>>,
    /// Which storages did not answer, where all were asked, and why.
    pub(super) unlisted: BTreeMap<StorageId, String>,
    /// Which of them Proxmox protects.
    pub(super) protected: BTreeSet<VolumeId>,
}

impl Listed {
    fn unknown(why: String) -> Self {
        Self { backups: Known::Unknown(why), unlisted: BTreeMap::new(), protected: BTreeSet::new() }
    }
}

/// One guest's backups on these storages, each of which must answer. None named: on all that keep backups, and
/// which of them did not answer: one stick that is not plugged in does not hide the others.
pub(super) async fn backups(client: &Client, owner: Owner, storages: &[StorageId]) -> Listed {
    let names = if storages.is_empty() {
        match client.storages_for(Content::Backup).await {
            Ok(list) => list.into_iter().map(|storage| storage.storage).collect(),
            Err(error) => return Listed::unknown(format!("the storages could not be listed: {error}")),
        }
    } else {
        storages.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (mut found, mut unlisted, mut protected) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for name in names {
        match (backups_on(client, owner, &name).await, name.parse::<StorageId>()) {
            (Ok(more), _) => {
                let kept = more.iter().filter(|(_, kept)| *kept).map(|(backup, _)| backup.volid.clone());
                protected.extend(kept);
                found.extend(more.into_iter().map(|(backup, _)| backup));
            }
            (Err(why), Ok(storage)) if storages.is_empty() => drop(unlisted.insert(storage, why)),
            (Err(why), _) => {
                return Listed::unknown(format!("storage {name} could not be listed: {why}"));
            }
        }
    }
    found.sort();
    Listed { backups: Known::Known(found), unlisted, protected }
}

/// With whether Proxmox protects it.
async fn backups_on(client: &Client, owner: Owner, name: &str) -> Result<Vec<(BackupRef, bool)>, String> {
    let storage: StorageName = name.parse().map_err(|_| format!("{name:?} is no storage's name"))?;
    let filter = ContentFilter { content: Some(Content::Backup), vmid: Some(client_vmid(owner.vmid)) };
    let list = client.storage_content(&storage, filter).await.map_err(|error| error.to_string())?;
    let mine = list.iter().filter(|backup| of_kind(backup.volid.guest(), owner.kind));
    mine.map(|backup| {
        let volid: Option<VolumeId> = backup.volid.as_str().parse().ok();
        match (volid, backup.size, backup.ctime) {
            (Some(volid), Some(size), Some(ctime)) => {
                Ok((BackupRef { volid, size, ctime }, backup.protected == Some(true)))
            }
            _ => Err(format!("{} does not tell its size and time", backup.volid)),
        }
    })
    .collect()
}

fn of_kind(named: Option<proxmox_client::GuestKind>, kind: GuestKind) -> bool {
    named.is_none_or(|named| named == client_kind(kind))
}

/// Those of these volumes that exist.
pub(super) async fn volumes(client: &Client, wanted: &BTreeSet<VolumeId>) -> Known<Vec<VolumeRef>> {
    let mut found = Vec::new();
    let storages: BTreeSet<StorageId> = wanted.iter().map(VolumeId::storage).collect();
    for storage in storages {
        let Ok(name) = storage.as_str().parse::<StorageName>() else {
            return Known::Unknown(format!("{storage} is no storage's name"));
        };
        let list = match client.storage_content(&name, ContentFilter::default()).await {
            Ok(list) => list,
            Err(error) => return Known::Unknown(format!("storage {storage} could not be listed: {error}")),
        };
        let mine = list.iter().filter(|volume| wanted.iter().any(|w| w.as_str() == volume.volid.as_str()));
        for volume in mine {
            match volume_ref(volume) {
                Some(volume) => found.push(volume),
                None => return Known::Unknown(format!("{} does not tell its size and format", volume.volid)),
            }
        }
    }
    Known::Known(found)
}

/// Storages, and what is behind them as far as the host tells.
pub(super) async fn storages(near: &Near<'_>) -> Known<BTreeMap<StorageId, Known<Backing>>> {
    let list = match near.client.storage_configs().await {
        Ok(list) => list,
        Err(error) => return Known::Unknown(format!("the storages could not be listed: {error}")),
    };
    let mut found = BTreeMap::new();
    for (storage, behind) in list.iter().zip(backing::of(near.root, &list)) {
        let Ok(name) = storage.storage.parse::<StorageId>() else {
            return Known::Unknown(format!("{:?} is no storage's name", storage.storage));
        };
        found.insert(name, behind);
    }
    Known::Known(found)
}

/// Numbers of all guests of the cluster.
pub(super) async fn vmids(client: &Client) -> Known<BTreeSet<Vmid>> {
    match client.cluster_resources_of(ResourceFilter::Guests).await {
        Ok(list) => Known::Known(
            list.iter()
                .filter_map(|resource| resource.vmid)
                .filter_map(|vmid| Vmid::try_from(vmid.get()).ok())
                .collect(),
        ),
        Err(error) => Known::Unknown(format!("the guests could not be listed: {error}")),
    }
}

/// The guest that another is cloned from.
pub(super) async fn template(client: &Client, vmid: Vmid) -> Known<TemplateNow> {
    let kind = match kind_of(client, vmid).await {
        Ok(Some(kind)) => kind,
        Ok(None) => return Known::Unknown(format!("there is no guest {vmid} on this node")),
        Err(error) => return Known::Unknown(error.to_string()),
    };
    match client.guest_config(client_kind(kind), client_vmid(vmid)).await {
        Ok(config) => Known::Known(TemplateNow { template: config.template(), digest: config.digest }),
        Err(error) => Known::Unknown(error.to_string()),
    }
}
