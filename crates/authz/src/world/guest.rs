//! The order's guest: is it the one, is it as it was, can this be done to it now?

use std::collections::BTreeMap;

use protocol::refs::VolumeRef;
use protocol::{GuestRef, RunState, SnapshotName, SnapshotRef};

use super::{GuestNow, Refused, SnapshotNow, called, config_sha256, known, list, same, wrong};
use crate::order::{Amount, Order, Params, Preconditions, VolumeOwner};
use crate::refusal::RefusalCode;

/// The guest is the one that was meant, and nothing else works on it. Also for unsigned steps.
///
/// # Errors
/// `guest_identity` or `busy`, with the sentence.
pub fn guest(meant: &GuestRef, seen: &GuestNow) -> Result<(), Refused> {
    guest_but_for(meant, seen, None)
}

/// The same, with a lock that does not count.
fn guest_but_for(meant: &GuestRef, seen: &GuestNow, allowed: Option<&str>) -> Result<(), Refused> {
    let other = |why: String| Err((RefusalCode::GuestIdentity, why));
    if seen.kind != meant.kind {
        return other(format!("{} is a {} guest now, not a {} one", called(meant), seen.kind, meant.kind));
    }
    if seen.name != meant.name {
        return other(format!(
            "guest {} is now called {:?}, not {:?}: it may be another guest",
            meant.vmid, seen.name, meant.name
        ));
    }
    let differences = meant.identity.differences(&seen.identity);
    if differences == ["vmgenid"] {
        return other(format!(
            "guest {} was rolled back, restored or cloned since this was prepared: prepare it again",
            meant.vmid
        ));
    }
    if !differences.is_empty() {
        return other(format!(
            "guest {} is not the one that was meant: {} differ(s) (VMIDs are reused; look at the guest and prepare again)",
            meant.vmid,
            differences.join(", ")
        ));
    }
    if let Some(lock) = seen.lock.as_ref().filter(|lock| Some(lock.as_str()) != allowed) {
        return Err((
            RefusalCode::Busy,
            format!("guest {} is locked ({lock}): wait for that to end, then prepare again", meant.vmid),
        ));
    }
    if !seen.consistent {
        return Err((
            RefusalCode::Busy,
            format!("guest {} was changed while it was read: try again", meant.vmid),
        ));
    }
    Ok(())
}

/// All that an order says about its guest.
pub(super) fn check(order: &Order, meant: &GuestRef, seen: &GuestNow) -> Result<(), Refused> {
    // A guest that is suspended to disk is locked by just that.
    let lock = matches!(order.params, Params::GuestResume(_)).then_some(SUSPENDED);
    guest_but_for(meant, seen, lock)?;
    preconditions(&order.pre, seen)?;
    match &order.params {
        Params::GuestStart(_) => startable(seen),
        Params::GuestResume(_) => resumable(seen),
        Params::SnapshotCreate(params) => snapshot_free(&params.snapshot, seen),
        Params::GuestConfig(params) => {
            let config = known(&seen.config, "the guest's configuration")?;
            params.changes.iter().try_for_each(|change| {
                option(config, change.key.as_str(), change.old.as_ref().map(|old| old.as_str()))
            })
        }
        Params::GuestResize(params) => {
            let config = known(&seen.config, "the guest's configuration")?;
            [
                ("cores", params.cores),
                ("sockets", params.sockets),
                ("memory", params.memory_mib),
                ("swap", params.swap_mib),
            ]
            .into_iter()
            .filter_map(|(key, amount)| Some((key, amount?)))
            .try_for_each(|(key, Amount { old, new: _ })| {
                option(config, key, old.map(|old| old.to_string()).as_deref())
            })
        }
        Params::GuestGrow(params) => slot(seen, params.disk.as_str(), params.volume.as_str()),
        Params::DiskMove(params) => slot(seen, params.disk.as_str(), params.volume.as_str()),
        Params::DiskDetach(params) => slot(seen, params.disk.as_str(), params.volume.as_str()),
        Params::VolumeDelete(params) => match params.owner {
            VolumeOwner::Guest {} => unused(seen, params.volume.as_str()),
            VolumeOwner::Gone { .. } => wrong("the order names a guest, and an owner that is gone".into()),
        },
        Params::GuestTag(_)
        | Params::BackupCreate(_)
        | Params::GuestShutdown(_)
        | Params::GuestStop(_)
        | Params::GuestReboot(_)
        | Params::GuestSuspend(_)
        | Params::SnapshotRollback(_)
        | Params::SnapshotDelete(_)
        | Params::GuestRestoreOver(_)
        | Params::GuestDestroy(_)
        | Params::GuestAdopt(_)
        | Params::GuestRelease(_) => Ok(()),
        Params::GuestCreate(_)
        | Params::TemplateDownload(_)
        | Params::BackupDelete(_)
        | Params::BackupProtect(_)
        | Params::BackupPrune(_)
        | Params::StorageAdd(_)
        | Params::StorageRemove(_)
        | Params::UsbMount(_)
        | Params::UsbUnmount(_)
        | Params::PlanApprove(_)
        | Params::JobRun(_)
        | Params::SessionOpen(_)
        | Params::HostRebind(_)
        | Params::LogReanchor(_)
        | Params::AgentUpdate(_) => {
            Err((RefusalCode::BadOrder, "the order is not about a guest, and names one".into()))
        }
    }
}

/// Each stated fact. `backups` and `disk` are about the host and compared there.
fn preconditions(pre: &Preconditions, seen: &GuestNow) -> Result<(), Refused> {
    let Preconditions {
        state,
        digest,
        config_sha256: hash,
        snapshot,
        volumes,
        snapshots,
        protection,
        ha,
        replication,
        backups: _,
        disk: _,
    } = pre;
    if let Some(state) = state
        && (*state != seen.state || *state == RunState::Unknown)
    {
        return wrong(format!(
            "the guest was {state} when the order was prepared and is {} now: prepare again",
            seen.state
        ));
    }
    let changed = "the guest's configuration changed since the order was prepared: prepare again";
    if digest.as_ref().is_some_and(|digest| digest.as_str() != seen.digest) {
        return wrong(changed.into());
    }
    if let Some(hash) = hash
        && *hash != config_sha256(known(&seen.config, "the guest's configuration")?)
    {
        return wrong(format!("{changed} (its digest is the same, its SHA-256 is not)"));
    }
    if let Some(meant) = snapshot {
        one_snapshot(meant, seen)?;
    }
    if let Some(meant) = snapshots {
        all_snapshots(meant, seen)?;
    }
    if let Some(meant) = volumes {
        let now = known(&seen.volumes, "the guest's volumes")?;
        for volume in meant {
            let found = now.iter().find(|now| now.volid == volume.volid);
            same_volume(volume, found)?;
        }
    }
    same(protection.as_ref(), &seen.protection, "protection", |on| {
        if *on { "on" } else { "off" }.to_owned()
    })?;
    same(ha.as_ref(), &seen.ha, "the state wanted by high availability", ToString::to_string)?;
    if let Some(meant) = replication {
        let sorted = |jobs: &[protocol::refs::ReplicationId]| {
            let mut jobs = jobs.to_vec();
            jobs.sort();
            jobs
        };
        let now = known(&seen.replication, "the guest's replication jobs")?;
        if sorted(meant) != sorted(now) {
            return wrong(format!(
                "the guest's replication jobs were {} when the order was prepared and are {} now: prepare again",
                list(meant),
                list(now)
            ));
        }
    }
    Ok(())
}

/// A volume with its facts, among those that exist.
pub(super) fn same_volume(meant: &VolumeRef, now: Option<&VolumeRef>) -> Result<(), Refused> {
    match now {
        Some(now) if now == meant => Ok(()),
        Some(now) => wrong(format!(
            "volume {} had {} bytes ({}) when the order was prepared and has {} ({}) now: prepare again",
            meant.volid, meant.size, meant.format, now.size, now.format
        )),
        None => wrong(format!("volume {} is not there: prepare again", meant.volid)),
    }
}

fn one_snapshot(meant: &SnapshotRef, seen: &GuestNow) -> Result<(), Refused> {
    let now = known(&seen.snapshots, "the guest's snapshots")?;
    let Some(snapshot) = now.iter().find(|now| now.name == meant.name.as_str()) else {
        return wrong(format!("the guest has no snapshot {}", meant.name));
    };
    if snapshot.time != Some(meant.time) || snapshot.parent != meant.parent {
        return wrong(format!(
            "snapshot {} is another one than was meant (its time or parent differs): prepare again",
            meant.name
        ));
    }
    if let Some(state) = &snapshot.unfinished {
        return wrong(format!("snapshot {} is incomplete ({state}): it cannot be used", meant.name));
    }
    Ok(())
}

fn all_snapshots(meant: &[SnapshotRef], seen: &GuestNow) -> Result<(), Refused> {
    let now = known(&seen.snapshots, "the guest's snapshots")?;
    let extra: Vec<&str> = now
        .iter()
        .map(|snapshot| snapshot.name.as_str())
        .filter(|name| !meant.iter().any(|meant| meant.name.as_str() == *name))
        .collect();
    if !extra.is_empty() {
        return wrong(format!(
            "the guest has snapshots that the order does not name ({}): prepare again",
            protocol::text::printable(&list(&extra))
        ));
    }
    let twice = now.len() != meant.len();
    for snapshot in meant {
        let found = now.iter().find(|now| now.name == snapshot.name.as_str());
        let same = |now: &SnapshotNow| now.time == Some(snapshot.time) && now.parent == snapshot.parent;
        if twice || !found.is_some_and(same) {
            return wrong(format!(
                "snapshot {} is gone, or another one than was meant (its time or parent differs): prepare again",
                snapshot.name
            ));
        }
    }
    Ok(())
}

fn option(config: &BTreeMap<String, String>, key: &str, old: Option<&str>) -> Result<(), Refused> {
    let now = config.get(key).map(String::as_str);
    if now == old {
        return Ok(());
    }
    let show = |value: Option<&str>| {
        value.map_or("not set".to_owned(), |value| format!("{:?}", protocol::text::printable(value)))
    };
    wrong(format!(
        "option {key} was {} when the order was prepared and is {} now: prepare again",
        show(old),
        show(now)
    ))
}

/// What hangs in a slot, by its value: Proxmox writes the volume first, sometimes with its key.
pub fn volume_in(value: &str) -> &str {
    let first = value.split(',').next().unwrap_or(value);
    first.strip_prefix("file=").or_else(|| first.strip_prefix("volume=")).unwrap_or(first)
}

/// The volume hangs in that slot.
fn slot(seen: &GuestNow, disk: &str, volume: &str) -> Result<(), Refused> {
    let config = known(&seen.config, "the guest's configuration")?;
    let now = config.get(disk).map(|value| volume_in(value));
    if now == Some(volume) {
        return Ok(());
    }
    let now = now.map_or("nothing".to_owned(), protocol::text::printable);
    wrong(format!("in slot {disk} there is {now}, not {volume}: prepare again"))
}

/// The volume is the guest's and in no use.
fn unused(seen: &GuestNow, volume: &str) -> Result<(), Refused> {
    let config = known(&seen.config, "the guest's configuration")?;
    // Wherever it is named counts as use, but only its own place as an unused disk shows that it is none.
    let named = |value: &str| value.split([',', '=']).any(|part| part == volume);
    let slots: Vec<&str> =
        config.iter().filter(|(_, value)| named(value)).map(|(key, _)| key.as_str()).collect();
    let unused =
        |slot: &&str| slot.starts_with("unused") && config.get(*slot).is_some_and(|v| volume_in(v) == volume);
    if !slots.is_empty() && slots.iter().all(unused) {
        Ok(())
    } else {
        wrong(format!(
            "volume {volume} is no unused disk of the guest (it is in: {}): detach it first",
            list(&slots)
        ))
    }
}

/// The guest can be started now.
///
/// # Errors
/// `precondition`, with the sentence.
pub fn startable(seen: &GuestNow) -> Result<(), Refused> {
    match seen.state {
        RunState::Stopped if !seen.template => Ok(()),
        RunState::Stopped => wrong("a template cannot be started".into()),
        state => wrong(format!("the guest is {state}, so it is not started")),
    }
}

/// Proxmox's lock word for a guest that is suspended to disk.
const SUSPENDED: &str = "suspended";

/// The guest can go on: as far as can be told from its state and its lock. Whether a running one is paused
/// knows only the host.
fn resumable(seen: &GuestNow) -> Result<(), Refused> {
    match (seen.state, seen.lock.as_deref()) {
        (RunState::Running, None) | (RunState::Stopped, Some(SUSPENDED)) => Ok(()),
        (RunState::Stopped, _) => wrong("the guest is stopped and not suspended: start it instead".into()),
        (state, _) => wrong(format!("the guest is {state}, so it is not resumed")),
    }
}

/// A snapshot of this name can be taken now.
///
/// # Errors
/// `precondition`, with the sentence.
pub fn snapshot_free(name: &SnapshotName, seen: &GuestNow) -> Result<(), Refused> {
    if seen.template {
        return wrong("a template cannot have snapshots".into());
    }
    let now = known(&seen.snapshots, "the guest's snapshots")?;
    if now.iter().any(|snapshot| snapshot.name == name.as_str()) {
        return wrong(format!("the guest has a snapshot {name} already"));
    }
    Ok(())
}
