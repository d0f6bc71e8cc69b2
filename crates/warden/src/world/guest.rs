//! One guest.

use std::collections::{BTreeMap, BTreeSet};

use authz::world::{GuestNow, SnapshotNow};
use protocol::refs::{HaState, ReplicationId, VolumeFormat, VolumeId, VolumeRef};
use protocol::report::Known;
use protocol::{GuestIdentity, GuestKind, RunState, Vmid};
use proxmox_client::{ApiError, Client, ContentFilter, PendingOption, Snapshot, StorageName};

use serde::{Deserialize, Serialize};

use super::{client_kind, client_vmid, known};

/// How much of a guest is read beside its configuration, state and snapshots: each part costs calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Its volumes with size and format: one call a storage.
    pub volumes: bool,
    /// What high availability is asked to do with it.
    pub ha: bool,
    /// Its replication jobs.
    pub replication: bool,
}

/// Since when a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Of its process on the host.
    pub pid: Option<u64>,
    /// Seconds.
    pub uptime_s: u64,
}

/// A guest as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What it is.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: Vmid,
    /// Name or hostname; empty when it has none.
    pub name: String,
    /// Stable facts.
    pub identity: GuestIdentity,
    /// Of the whole configuration.
    pub digest: String,
    /// The configuration's options as Proxmox spells them, without the digest.
    pub config: BTreeMap<String, String>,
    /// Slot to volume, unused ones too.
    pub slots: BTreeMap<String, String>,
    /// Whether Proxmox's `protection` is on.
    pub protection: bool,
    /// Proxmox's lock word.
    pub lock: Option<String>,
    /// Templates cannot be started or snapshotted.
    pub template: bool,
    /// Sorted.
    pub tags: Vec<String>,
    /// Whether it runs.
    pub state: RunState,
    /// The process that it runs as. None while it does not run, or where Proxmox does not say.
    pub boot: Option<Boot>,
    /// Whether it is paused: running, and standing still. QEMU says so, LXC does not.
    pub paused: bool,
    /// Without the entry `current`.
    pub snapshots: Vec<Snapshot>,
    /// The snapshot that the current state descends from.
    pub parent: Option<String>,
    /// Whether all of this was read from one state of the configuration.
    pub consistent: bool,
    /// Its volumes, sorted.
    pub volumes: Known<Vec<VolumeRef>>,
    /// What high availability is asked to do with it.
    pub ha: Known<HaState>,
    /// Its replication jobs, sorted.
    pub replication: Known<Vec<ReplicationId>>,
}

/// Reads it without its volumes, HA and replication.
pub async fn observe(client: &Client, kind: GuestKind, vmid: Vmid) -> Result<Observed, ApiError> {
    observe_all(client, kind, vmid, Extent::default()).await
}

/// The options of a guest that wait for its next start. A stopped guest has none: it takes every change at
/// once.
pub async fn pending(client: &Client, guest: &Observed) -> Result<Vec<PendingOption>, ApiError> {
    if guest.state == RunState::Stopped {
        return Ok(Vec::new());
    }
    let mut all = client.guest_pending(client_kind(guest.kind), client_vmid(guest.vmid)).await?;
    all.retain(PendingOption::is_pending);
    Ok(all)
}

/// Reads it.
pub async fn observe_all(
    client: &Client,
    ours: GuestKind,
    number: Vmid,
    extent: Extent,
) -> Result<Observed, ApiError> {
    let (kind, vmid) = (client_kind(ours), client_vmid(number));
    let config = client.guest_config(kind, vmid).await?;
    let slots = config.volids();
    let unread = || "nothing that was asked for needs it".to_owned();
    let volumes =
        if extent.volumes { volumes(client, number, &slots).await } else { Known::Unknown(unread()) };
    let ha = if extent.ha { ha(client, number).await } else { Known::Unknown(unread()) };
    let replication =
        if extent.replication { replication(client, number).await } else { Known::Unknown(unread()) };
    let status = client.guest_status(kind, vmid).await?;
    // Last, because its digest shows whether anything changed since the configuration was read.
    let list = client.snapshots(kind, vmid).await?;
    let identity = identity(&config);
    let mut tags = config.tags();
    tags.sort();
    Ok(Observed {
        kind: ours,
        vmid: number,
        protection: config.protection(),
        name: config.name().unwrap_or_default().to_owned(),
        identity,
        lock: config.lock().map(str::to_owned),
        template: config.template(),
        tags,
        state: match status.status {
            proxmox_client::RunState::Running => RunState::Running,
            proxmox_client::RunState::Stopped => RunState::Stopped,
            proxmox_client::RunState::Other(_) => RunState::Unknown,
        },
        boot: status.uptime.map(|uptime_s| Boot { pid: status.pid, uptime_s }),
        paused: status.qmpstatus.as_deref().is_some_and(|word| matches!(word, "paused" | "suspended")),
        // Two reads, one digest: nothing changed in between.
        consistent: list.current.digest.as_ref().is_none_or(|digest| *digest == config.digest),
        parent: list.current.parent,
        snapshots: list.snapshots,
        digest: config.digest,
        config: config.raw,
        slots,
        volumes,
        ha,
        replication,
    })
}

/// The facts that make a guest this one.
pub(crate) fn identity(config: &proxmox_client::GuestConfig) -> GuestIdentity {
    GuestIdentity::from_facts(
        config.smbios_uuid(),
        config.vmgenid(),
        config.meta_ctime(),
        config.macs().into_values(),
        config.volids().into_values(),
    )
}

/// Size and format stand in the storages' lists. A volume that is not listed has neither, and then nothing
/// is said of any: half a list would look like a whole one.
async fn volumes(client: &Client, vmid: Vmid, slots: &BTreeMap<String, String>) -> Known<Vec<VolumeRef>> {
    let names: BTreeSet<&str> = slots.values().map(String::as_str).collect();
    let mut storages: BTreeMap<&str, Vec<proxmox_client::Volume>> = BTreeMap::new();
    let mut found = Vec::new();
    for name in names {
        let storage = name.split_once(':').map_or("", |(storage, _)| storage);
        if !storages.contains_key(storage) {
            let Ok(parsed) = storage.parse::<StorageName>() else {
                return Known::Unknown(format!("{name} names no storage"));
            };
            let filter = ContentFilter { content: None, vmid: Some(client_vmid(vmid)) };
            match client.storage_content(&parsed, filter).await {
                Ok(list) => storages.insert(storage, list),
                Err(error) => {
                    return Known::Unknown(format!("storage {storage} could not be listed: {error}"));
                }
            };
        }
        let listed = storages.get(storage).into_iter().flatten().find(|volume| volume.volid.as_str() == name);
        match listed.and_then(volume_ref) {
            Some(volume) => found.push(volume),
            None => {
                return Known::Unknown(format!("storage {storage} does not tell size and format of {name}"));
            }
        }
    }
    found.sort();
    Known::Known(found)
}

/// A volume as orders name it; none when its size or format is not told.
pub(super) fn volume_ref(volume: &proxmox_client::Volume) -> Option<VolumeRef> {
    let volid: VolumeId = volume.volid.as_str().parse().ok()?;
    let format = match volume.format.as_deref()? {
        "raw" => VolumeFormat::Raw,
        "qcow2" => VolumeFormat::Qcow2,
        "vmdk" => VolumeFormat::Vmdk,
        "subvol" => VolumeFormat::Subvol,
        _ => return None,
    };
    Some(VolumeRef { volid, size: volume.size?, format })
}

async fn ha(client: &Client, vmid: Vmid) -> Known<HaState> {
    let resources = match client.ha_resources().await {
        Ok(resources) => resources,
        Err(error) => return Known::Unknown(format!("high availability could not be asked: {error}")),
    };
    let mut mine = resources.iter().filter(|resource| resource.vmid() == Some(client_vmid(vmid)));
    Known::Known(match mine.next().map(|resource| resource.state.as_deref()) {
        None => HaState::Unmanaged,
        // Proxmox's default, and its older word for it.
        Some(None | Some("started" | "enabled")) => HaState::Started,
        Some(Some("stopped")) => HaState::Stopped,
        Some(Some("disabled")) => HaState::Disabled,
        Some(Some("ignored")) => HaState::Ignored,
        Some(Some(word)) => return Known::Unknown(format!("high availability wants {word:?} of it")),
    })
}

async fn replication(client: &Client, vmid: Vmid) -> Known<Vec<ReplicationId>> {
    let jobs = match known(client.replication_jobs().await) {
        Known::Known(jobs) => jobs,
        Known::Unknown(why) => return Known::Unknown(why),
    };
    let mine = jobs.iter().filter(|job| job.guest == Some(client_vmid(vmid)));
    let named: Result<Vec<ReplicationId>, _> = mine.map(|job| job.id.parse()).collect();
    match named {
        Ok(mut named) => {
            named.sort();
            Known::Known(named)
        }
        Err(error) => Known::Unknown(format!("a replication job's name cannot be read: {error}")),
    }
}

impl Observed {
    /// The same, as orders are compared with it.
    pub fn guest_now(&self) -> GuestNow {
        let snapshots = self.snapshots.iter().map(|snapshot| SnapshotNow {
            name: snapshot.name.clone(),
            time: snapshot.snaptime,
            parent: snapshot.parent.clone(),
            unfinished: snapshot.snapstate.clone(),
        });
        GuestNow {
            kind: self.kind,
            name: self.name.clone(),
            identity: self.identity.clone(),
            digest: self.digest.clone(),
            config: Known::Known(self.config.clone()),
            lock: self.lock.clone(),
            template: self.template,
            state: self.state,
            snapshots: Known::Known(snapshots.collect()),
            consistent: self.consistent,
            volumes: self.volumes.clone(),
            protection: Known::Known(self.protection),
            ha: self.ha.clone(),
            replication: self.replication.clone(),
        }
    }
}
