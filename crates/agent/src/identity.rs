//! From Proxmox's words to the wire vocabulary. The warden re-reads the same facts and compares
//! them with what was reported; both spell them through [`GuestIdentity::from_facts`].

use protocol::guest::{GuestIdentity, RunState, SnapshotRef};
use protocol::report::{GuestConfigReport, Usage};
use protocol::{GuestKind, SnapshotName, Vmid};
use proxmox_client::{GuestConfig, SnapshotList};

/// The stable facts of a guest.
pub fn identity_of(config: &GuestConfig) -> GuestIdentity {
    GuestIdentity::from_facts(
        config.smbios_uuid(),
        config.vmgenid(),
        config.meta_ctime(),
        config.macs().into_values(),
        config.volids().into_values(),
    )
}

/// What a report says of a configuration.
pub fn config_report(config: &GuestConfig) -> GuestConfigReport {
    let mut tags = config.tags();
    tags.sort_unstable();
    tags.dedup();
    GuestConfigReport {
        digest: config.digest.clone(),
        identity: identity_of(config),
        tags,
        lock: config.lock().map(str::to_owned),
        protection: config.protection(),
    }
}

/// Snapshots, oldest first. One that cannot be named, timed or used makes the list unknown: it
/// must neither be taken for a good snapshot nor for a free name.
pub fn snapshot_refs(list: &SnapshotList) -> Result<Vec<SnapshotRef>, String> {
    let mut refs = Vec::new();
    for snapshot in &list.snapshots {
        let shown = protocol::text::printable(&snapshot.name);
        if let Some(state) = &snapshot.snapstate {
            return Err(format!(
                "snapshot {shown} is half made or half deleted ({state}): wait for that operation to end, or remove the leftover on the host"
            ));
        }
        let name: SnapshotName = snapshot
            .name
            .parse()
            .map_err(|_| format!("snapshot {shown} has a name that Writ cannot carry"))?;
        let time = snapshot.snaptime.ok_or_else(|| format!("snapshot {shown} has no time"))?;
        refs.push(SnapshotRef { name, time, parent: snapshot.parent.clone() });
    }
    refs.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
    Ok(refs)
}

/// A kind in the wire vocabulary.
pub fn kind_of(kind: proxmox_client::GuestKind) -> GuestKind {
    match kind {
        proxmox_client::GuestKind::Qemu => GuestKind::Qemu,
        proxmox_client::GuestKind::Lxc => GuestKind::Lxc,
    }
}

/// A run state in the wire vocabulary; a word we do not know is unknown.
pub fn state_of(state: &proxmox_client::RunState) -> RunState {
    match state {
        proxmox_client::RunState::Running => RunState::Running,
        proxmox_client::RunState::Stopped => RunState::Stopped,
        proxmox_client::RunState::Other(_) => RunState::Unknown,
    }
}

/// A VMID in the wire vocabulary; both types have the same range.
pub fn vmid_of(vmid: proxmox_client::Vmid) -> Result<Vmid, protocol::IdError> {
    vmid.get().try_into()
}

/// Bytes used of a total, when both are there.
pub fn usage_of(used: Option<u64>, total: Option<u64>) -> Option<Usage> {
    Some(Usage { used: used?, total: total? })
}
