//! Reads a guest from Proxmox: everything that an order or a step says about it, at one moment.

use std::collections::BTreeMap;

use authz::world::{GuestNow, SnapshotNow};
use protocol::report::Known;
use protocol::{GuestIdentity, GuestKind, RunState, Vmid};
use proxmox_client::{ApiError, Client, Snapshot};

/// A guest as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What it is.
    pub kind: GuestKind,
    /// Name or hostname; empty when it has none.
    pub name: String,
    /// Stable facts.
    pub identity: GuestIdentity,
    /// Of the whole configuration.
    pub digest: String,
    /// The configuration's options as Proxmox spells them, without the digest.
    pub config: BTreeMap<String, String>,
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
    /// Without the entry `current`.
    pub snapshots: Vec<Snapshot>,
    /// The snapshot that the current state descends from.
    pub parent: Option<String>,
    /// Whether all of this was read from one state of the configuration.
    pub consistent: bool,
}

/// Reads it.
pub async fn observe(client: &Client, ours: GuestKind, vmid: Vmid) -> Result<Observed, ApiError> {
    let (kind, vmid) = (client_kind(ours), client_vmid(vmid));
    let config = client.guest_config(kind, vmid).await?;
    let status = client.guest_status(kind, vmid).await?;
    let list = client.snapshots(kind, vmid).await?;
    let identity = GuestIdentity::from_facts(
        config.smbios_uuid(),
        config.vmgenid(),
        config.meta_ctime(),
        config.macs().into_values(),
        config.volids().into_values(),
    );
    let mut tags = config.tags();
    tags.sort();
    Ok(Observed {
        kind: ours,
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
        // Two reads, one digest: nothing changed in between.
        consistent: list.current.digest.as_ref().is_none_or(|digest| *digest == config.digest),
        parent: list.current.parent,
        snapshots: list.snapshots,
        digest: config.digest,
        config: config.raw,
    })
}

impl Observed {
    /// The same, as orders are compared with it. What this warden does not read yet is unknown, and an order
    /// that states it is refused.
    pub fn guest_now(&self) -> GuestNow {
        fn unread<T>() -> Known<T> {
            Known::Unknown("this version's warden does not read it".into())
        }
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
            volumes: unread(),
            protection: Known::Known(self.protection),
            ha: unread(),
            replication: unread(),
        }
    }
}

/// The client's own type for the same thing.
pub fn client_kind(kind: GuestKind) -> proxmox_client::GuestKind {
    match kind {
        GuestKind::Qemu => proxmox_client::GuestKind::Qemu,
        GuestKind::Lxc => proxmox_client::GuestKind::Lxc,
    }
}

/// The client's own type for the same number.
pub fn client_vmid(vmid: Vmid) -> proxmox_client::Vmid {
    proxmox_client::Vmid::new(vmid.get()).expect("both types allow 100 to 999999999")
}
