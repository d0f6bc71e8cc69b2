//! Snapshots.

use authz::order::{Order, Params};
use authz::world::Refused;
use protocol::{GuestKind, RunState, SnapshotName};
use proxmox_client::{ApiError, Client};
use serde::{Deserialize, Serialize};

use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::rights::{self, Right};
use super::{Target, lock_of, not_yet};
use crate::world::{Observed, client_kind, client_vmid, observe};

/// Something about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCall {
    /// Of which guest.
    pub guest: Target,
    /// Which.
    pub snapshot: SnapshotName,
    /// What.
    pub what: SnapshotWhat,
}

/// What is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum SnapshotWhat {
    /// Take it, without memory.
    Create {},
    /// Back to it. Hard-stops a running guest.
    Rollback {
        /// Start the guest afterwards.
        start: bool,
    },
    /// Delete it.
    Delete {},
}

/// Of an order about a snapshot.
pub(super) fn call(order: &Order, guest: Target) -> Result<Call, Refused> {
    let stated = || order.pre.snapshot.as_ref().map(|snapshot| snapshot.name.clone());
    let (snapshot, what) = match &order.params {
        Params::SnapshotCreate(params) => (Some(params.snapshot.clone()), SnapshotWhat::Create {}),
        Params::SnapshotRollback(params) => (stated(), SnapshotWhat::Rollback { start: params.start }),
        Params::SnapshotDelete(_) => (stated(), SnapshotWhat::Delete {}),
        _ => (None, SnapshotWhat::Delete {}),
    };
    let snapshot = snapshot.ok_or_else(|| not_yet(order))?;
    Ok(Call::Snapshot(SnapshotCall { guest, snapshot, what }))
}

/// Take one.
pub(super) fn create(guest: Target, snapshot: &SnapshotName) -> Call {
    Call::Snapshot(SnapshotCall { guest, snapshot: snapshot.clone(), what: SnapshotWhat::Create {} })
}

impl SnapshotCall {
    /// Pure: whether the guest shows it.
    pub fn judge_seen(&self, seen: &Observed) -> Judged {
        let name = &self.snapshot;
        let listed = seen.snapshots.iter().find(|snapshot| snapshot.name == name.as_str());
        let lock = lock_of(seen);
        match (self.what, listed) {
            (SnapshotWhat::Create {}, Some(snapshot)) if snapshot.snapstate.is_none() => {
                Judged::Done(format!("snapshot {name} is there"))
            }
            (SnapshotWhat::Create {} | SnapshotWhat::Delete {}, Some(snapshot))
                if snapshot.snapstate.is_some() =>
            {
                Judged::Otherwise(format!("snapshot {name} is incomplete{lock}"))
            }
            (SnapshotWhat::Create {}, _) => Judged::NotDone(format!("snapshot {name} is not there{lock}")),
            (SnapshotWhat::Rollback { start }, _) => {
                let wanted = if start { RunState::Running } else { seen.state };
                let parent = seen.parent.as_deref();
                if parent == Some(name.as_str()) && seen.lock.is_none() && seen.state == wanted {
                    Judged::Done(format!("the guest stands at snapshot {name} and is {}", seen.state))
                } else {
                    let parent = parent.unwrap_or("none");
                    let seen = format!("the guest stands at snapshot {parent} and is {}{lock}", seen.state);
                    Judged::NotDone(seen)
                }
            }
            (SnapshotWhat::Delete {}, None) => Judged::Done(format!("snapshot {name} is gone")),
            (SnapshotWhat::Delete {}, Some(_)) => {
                Judged::NotDone(format!("snapshot {name} is still there{lock}"))
            }
        }
    }
}

impl Answers for SnapshotCall {
    fn line(&self) -> String {
        let Self { guest, snapshot, what } = self;
        match what {
            SnapshotWhat::Create {} => format!("POST {guest}/snapshot snapname={snapshot}"),
            SnapshotWhat::Rollback { start } => {
                format!("POST {guest}/snapshot/{snapshot}/rollback start={}", u8::from(*start))
            }
            SnapshotWhat::Delete {} => format!("DELETE {guest}/snapshot/{snapshot}"),
        }
    }

    fn task(&self) -> Option<TaskName> {
        let (qemu, lxc) = match self.what {
            SnapshotWhat::Create {} => ("qmsnapshot", "vzsnapshot"),
            SnapshotWhat::Rollback { .. } => ("qmrollback", "vzrollback"),
            SnapshotWhat::Delete {} => ("qmdelsnapshot", "vzdelsnapshot"),
        };
        let name = match self.guest.kind {
            GuestKind::Qemu => qemu,
            GuestKind::Lxc => lxc,
        };
        Some(TaskName { types: vec![name], id: self.guest.vmid.to_string() })
    }

    fn rights(&self) -> Vec<Right> {
        let mut rights = vec![rights::on_guest(self.guest.vmid, "VM.Snapshot")];
        if let SnapshotWhat::Rollback { start: true } = self.what {
            rights.push(rights::on_guest(self.guest.vmid, "VM.PowerMgmt"));
        }
        rights
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let (kind, vmid) = (client_kind(self.guest.kind), client_vmid(self.guest.vmid));
        let name = client_name(&self.snapshot);
        Ok(match self.what {
            SnapshotWhat::Create {} => client.snapshot_create(kind, vmid, &name, "taken by Writ").await?,
            SnapshotWhat::Rollback { start } => client.snapshot_rollback(kind, vmid, &name, start).await?,
            SnapshotWhat::Delete {} => client.snapshot_delete(kind, vmid, &name).await?,
        }
        .into())
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        Ok(self.judge_seen(&observe(client, self.guest.kind, self.guest.vmid).await?))
    }
}

fn client_name(name: &SnapshotName) -> proxmox_client::SnapshotName {
    name.as_str().parse().expect("our snapshot names are a part of Proxmox's")
}
