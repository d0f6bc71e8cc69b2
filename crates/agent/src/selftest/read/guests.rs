//! The guests of both kinds, one of each looked at closely, and the tasks.

use proxmox_client::{
    Client, ErrorClass, GuestKind, GuestStatus, RunState, TaskFilter, TaskSource, TaskStatus, Vmid,
};

use super::Seen;
use crate::identity::snapshot_refs;
use crate::selftest::report::{count, some_of};
use crate::selftest::{Check, Findings};

/// A guest may vanish between two reads; after this many it is something else.
const TRIES: usize = 3;

/// Lists, and of one guest of each kind the status, configuration and snapshots.
pub(super) async fn guests(seen: &Seen<'_>, here: Option<usize>, findings: &mut Findings<'_>) {
    let mut listed = Some(0);
    let mut found = Vec::new();
    for (kind, name) in [(GuestKind::Qemu, "vms"), (GuestKind::Lxc, "containers")] {
        match seen.client.guests(kind).await {
            Err(error) => {
                findings.push(seen.needed(name, &error));
                if seen.over() {
                    return;
                }
                listed = None;
            }
            Ok(mut guests) => {
                guests.sort_by_key(|guest| guest.vmid);
                listed = listed.map(|number| number + guests.len());
                findings.push(Check::ok(name, describe(&guests)));
                if !guests.is_empty() {
                    found.push((kind, guests));
                }
            }
        }
    }
    if let (Some(0), Some(0)) = (listed, here) {
        findings.push(Check::ok(
            "guest",
            "none on this node that the token may see, so none was looked at closely",
        ));
    }
    for (kind, guests) in found {
        let vmid = closely(seen.client, kind, &guests).await;
        one(seen, kind, vmid, findings).await;
        if seen.over() {
            return;
        }
    }
}

fn describe(guests: &[GuestStatus]) -> String {
    let words: Vec<String> = guests
        .iter()
        .map(|guest| {
            let state = match &guest.status {
                RunState::Running => "running",
                RunState::Stopped => "stopped",
                RunState::Other(other) => other,
            };
            format!("{} {} ({state})", guest.vmid, guest.name.as_deref().unwrap_or("without a name"))
        })
        .collect();
    if words.is_empty() { "none".to_owned() } else { format!("{}: {}", words.len(), some_of(&words)) }
}

/// The first that is still there.
async fn closely(client: &Client, kind: GuestKind, guests: &[GuestStatus]) -> Vmid {
    for guest in guests.iter().take(TRIES) {
        let gone = client
            .guest_status(kind, guest.vmid)
            .await
            .is_err_and(|error| error.class() == ErrorClass::NotFound);
        if !gone {
            return guest.vmid;
        }
    }
    guests[0].vmid
}

/// Each of these has its own privilege check in Proxmox, and each is needed.
async fn one(seen: &Seen<'_>, kind: GuestKind, vmid: Vmid, findings: &mut Findings<'_>) {
    let guest = match kind {
        GuestKind::Qemu => format!("VM {vmid}"),
        GuestKind::Lxc => format!("container {vmid}"),
    };
    findings.push(match seen.client.guest_status(kind, vmid).await {
        Err(error) => seen.needed("guest", &error),
        Ok(status) => {
            let ha = status.ha.and_then(|ha| ha.managed) == Some(true);
            let lock = status.lock.map(|lock| format!(", locked ({lock})")).unwrap_or_default();
            Check::ok("guest", format!("{guest}{lock}{}", if ha { ", managed by HA" } else { "" }))
        }
    });
    if seen.over() {
        return;
    }
    findings.push(match seen.client.guest_config(kind, vmid).await {
        Err(error) => seen.needed("config", &error),
        Ok(config) => Check::ok(
            "config",
            format!(
                "of {guest}: digest {}, {}, {}",
                config.digest,
                count(config.volids().len(), "volume"),
                count(config.macs().len(), "network card")
            ),
        ),
    });
    if seen.over() {
        return;
    }
    findings.push(match seen.client.snapshots(kind, vmid).await {
        Err(error) => seen.needed("snapshots", &error),
        Ok(list) => match snapshot_refs(&list) {
            Ok(snapshots) => Check::ok("snapshots", format!("of {guest}: {}", snapshots.len())),
            Err(why) => Check::warn("snapshots", format!("of {guest}: {why}")),
        },
    });
}

/// The newest task: its row, its end and its log.
pub(super) async fn tasks(seen: &Seen<'_>, findings: &mut Findings<'_>) {
    let filter = TaskFilter { source: TaskSource::All, limit: Some(5), ..TaskFilter::default() };
    let tasks = match seen.client.tasks(&filter).await {
        Err(error) => return findings.push(seen.needed("tasks", &error)),
        Ok(tasks) => tasks,
    };
    let Some(newest) = tasks.into_iter().max_by_key(|task| task.upid.starttime()) else {
        return findings.push(Check::ok("tasks", "none yet"));
    };
    let upid = &newest.upid;
    findings
        .push(Check::ok("tasks", format!("newest: {} {} by {}", upid.task_type(), upid.id(), upid.user())));
    findings.push(match seen.client.task_status(upid).await {
        // The list is longer than the node's memory (`pve/facts.md` 4.7).
        Err(error) if error.class() == ErrorClass::NotFound => Check::ok("task status", "forgotten already"),
        Err(error) => seen.needed("task status", &error),
        Ok(TaskStatus::Running) => Check::ok("task status", "running"),
        Ok(TaskStatus::Ended { exitstatus }) => {
            Check::ok("task status", exitstatus.unwrap_or_else(|| "ended without a result".to_owned()))
        }
    });
    if seen.over() {
        return;
    }
    findings.push(match seen.client.task_log(upid, 0, 50).await {
        Err(error) => seen.needed("task log", &error),
        Ok(log) => {
            let last = log.lines.last().map(|line| line.text.as_str()).unwrap_or_default();
            let lines = count(usize::try_from(log.total).unwrap_or(usize::MAX), "line");
            Check::ok("task log", format!("{lines}, read until: {last}"))
        }
    });
}
