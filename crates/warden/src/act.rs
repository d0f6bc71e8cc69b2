//! One mutation: sent to Proxmox once, and what the world must show afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use authz::RefusalCode;
use authz::order::{Order, Params};
use protocol::plan::Step;
use protocol::{GuestKind, RunState, SnapshotName, Tag, Vmid};
use proxmox_client::{ApiError, Client, TaskEnd, Upid};

use crate::check::Refused;
use crate::world::{Observed, client_kind, client_vmid, observe};

/// What to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Start it.
    Start,
    /// Replace its tags, if its configuration still has this digest.
    SetTags {
        /// Sorted.
        tags: Vec<Tag>,
        /// Compare-and-set.
        digest: String,
    },
    /// Take a snapshot.
    SnapshotCreate(SnapshotName),
    /// Back to a snapshot. Hard-stops a running guest.
    SnapshotRollback {
        /// Which.
        snapshot: SnapshotName,
        /// Start the guest afterwards.
        start: bool,
    },
    /// Delete a snapshot.
    SnapshotDelete(SnapshotName),
}

/// A change of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// Kind of the guest.
    pub kind: GuestKind,
    /// Its number; its identity has been checked by the caller.
    pub vmid: Vmid,
    /// What to change.
    pub change: Change,
}

/// What Proxmox did with it.
#[derive(Debug)]
pub enum Sent {
    /// It runs as a task.
    Task(Upid),
    /// It is done already, as far as Proxmox says.
    Synchronous,
}

/// How a task ended that somebody waited for to its end.
#[derive(Debug)]
pub enum End {
    /// `OK`.
    Ok,
    /// Done with warnings: how many, and the lines.
    Warnings(u32, Vec<String>),
    /// Failed, in Proxmox's words.
    Failed(String),
    /// Nobody can say.
    Unknown(String),
}

impl Mutation {
    /// What an order asks for. None when the order is not about a guest, or names no snapshot, which its
    /// parser excludes.
    pub fn of_order(order: &Order) -> Option<Self> {
        let guest = order.guest.as_ref()?;
        let snapshot = || order.pre.snapshot.as_ref().map(|snapshot| snapshot.name.clone());
        let change = match &order.params {
            Params::GuestStart(_) => Change::Start,
            Params::GuestTag(params) => {
                let mut tags = params.tags.clone();
                tags.sort();
                tags.dedup();
                Change::SetTags { tags, digest: order.pre.digest.as_ref()?.to_string() }
            }
            Params::SnapshotCreate(params) => Change::SnapshotCreate(params.snapshot.clone()),
            Params::SnapshotRollback(params) => {
                Change::SnapshotRollback { snapshot: snapshot()?, start: params.start }
            }
            Params::SnapshotDelete(_) => Change::SnapshotDelete(snapshot()?),
            // Not about a guest, or not carried out yet: `check::work` says which.
            _ => return None,
        };
        Some(Self { kind: guest.kind, vmid: guest.vmid, change })
    }

    /// What a step asks for.
    ///
    /// # Errors
    /// `kind`, for what the bounds know and this version does not carry out.
    pub fn of_step(step: &Step) -> Result<Self, Refused> {
        // THE ONE PLACE where the kinds of unsigned steps get hands.
        let change = match step {
            Step::Start { .. } => Change::Start,
            Step::SetTags { digest, tags, .. } => {
                Change::SetTags { tags: tags.clone(), digest: digest.clone() }
            }
            Step::SnapshotCreate { snapshot, .. } => Change::SnapshotCreate(snapshot.clone()),
            Step::Grow { .. }
            | Step::SetCores { .. }
            | Step::SetMemory { .. }
            | Step::SetOnboot { .. }
            | Step::SetDescription { .. }
            | Step::Backup { .. }
            | Step::TemplateDownload { .. }
            | Step::CreateFromTemplate(_) => return Err(not_yet(step)),
        };
        let guest = step.guest().ok_or_else(|| not_yet(step))?;
        Ok(Self { kind: guest.kind, vmid: guest.vmid, change })
    }

    /// Proxmox's task type; none where there is no task (`pve/facts.md` 4.3).
    pub fn task_type(&self) -> Option<&'static str> {
        let (qemu, lxc) = match self.change {
            Change::Start => ("qmstart", "vzstart"),
            Change::SetTags { .. } => return None,
            Change::SnapshotCreate(_) => ("qmsnapshot", "vzsnapshot"),
            Change::SnapshotRollback { .. } => ("qmrollback", "vzrollback"),
            Change::SnapshotDelete(_) => ("qmdelsnapshot", "vzdelsnapshot"),
        };
        Some(match self.kind {
            GuestKind::Qemu => qemu,
            GuestKind::Lxc => lxc,
        })
    }

    /// Whether the task is the one that this mutation starts.
    pub fn is_my_task(&self, upid: &Upid, user: &str) -> bool {
        Some(upid.task_type()) == self.task_type()
            && upid.id() == self.vmid.to_string()
            && upid.user() == user
    }

    /// Sends it, once. An error says by its delivery whether it may have happened.
    pub async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let (kind, vmid) = (client_kind(self.kind), client_vmid(self.vmid));
        let task = match &self.change {
            Change::Start => client.start(kind, vmid).await?,
            Change::SetTags { tags, digest } => {
                let tags = tags.iter().map(Tag::as_str).collect::<Vec<_>>();
                // Proxmox takes an empty list only as a deletion of the option.
                let change =
                    if tags.is_empty() { ("delete", "tags".to_owned()) } else { ("tags", tags.join(";")) };
                client.set_guest_config(kind, vmid, BTreeMap::from([change]), digest).await?;
                return Ok(Sent::Synchronous);
            }
            Change::SnapshotCreate(name) => {
                client.snapshot_create(kind, vmid, &client_name(name), "taken by Writ").await?
            }
            Change::SnapshotRollback { snapshot, start } => {
                client.snapshot_rollback(kind, vmid, &client_name(snapshot), *start).await?
            }
            Change::SnapshotDelete(name) => client.snapshot_delete(kind, vmid, &client_name(name)).await?,
        };
        Ok(Sent::Task(task))
    }

    /// Pure: whether the world shows the change. The sentence says what was seen either way.
    pub fn judge(&self, seen: &Observed) -> Result<String, String> {
        let listed = |name: &SnapshotName| seen.snapshots.iter().find(|s| s.name == name.as_str());
        let lock =
            || seen.lock.as_ref().map_or(String::new(), |lock| format!(", and the guest is locked ({lock})"));
        match &self.change {
            Change::Start if seen.state == RunState::Running => Ok("the guest runs".into()),
            Change::Start => Err(format!("the guest is {}{}", seen.state, lock())),
            Change::SetTags { tags, .. } => {
                let have = if seen.tags.is_empty() { "none".into() } else { seen.tags.join(", ") };
                if seen.tags.iter().map(String::as_str).eq(tags.iter().map(Tag::as_str)) {
                    Ok(format!("the tags are: {have}"))
                } else {
                    Err(format!("the tags are: {have}"))
                }
            }
            Change::SnapshotCreate(name) => match listed(name) {
                Some(snapshot) if snapshot.snapstate.is_none() => Ok(format!("snapshot {name} is there")),
                Some(_) => Err(format!("snapshot {name} is incomplete{}", lock())),
                None => Err(format!("snapshot {name} is not there{}", lock())),
            },
            Change::SnapshotRollback { snapshot, start } => {
                let wanted = if *start { RunState::Running } else { seen.state };
                if seen.parent.as_deref() == Some(snapshot.as_str())
                    && seen.lock.is_none()
                    && seen.state == wanted
                {
                    Ok(format!("the guest stands at snapshot {snapshot} and is {}", seen.state))
                } else {
                    let parent = seen.parent.as_deref().unwrap_or("none");
                    Err(format!("the guest stands at snapshot {parent} and is {}{}", seen.state, lock()))
                }
            }
            Change::SnapshotDelete(name) if listed(name).is_none() => Ok(format!("snapshot {name} is gone")),
            Change::SnapshotDelete(name) => Err(format!("snapshot {name} is still there{}", lock())),
        }
    }

    /// Reads the guest again after a mutation; survives short trouble, because what happened is worth
    /// knowing.
    pub async fn look(&self, client: &Client) -> Result<Observed, ApiError> {
        let mut pause = Duration::from_millis(200);
        loop {
            match observe(client, self.kind, self.vmid).await {
                Ok(seen) => return Ok(seen),
                Err(error) if pause > Duration::from_secs(8) => return Err(error),
                Err(error) => {
                    tracing::warn!(vmid = self.vmid.get(), %error, "cannot read the guest again yet");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}

fn not_yet(step: &Step) -> Refused {
    (
        RefusalCode::Kind,
        format!(
            "this version's warden does not carry out unsigned {} yet: sign an order for it",
            step.kind()
        ),
    )
}

/// Follows a task to its end, however long that takes.
pub async fn follow(client: &Client, upid: &Upid) -> End {
    loop {
        match client.wait_task(upid, Duration::from_secs(3600)).await {
            TaskEnd::StillRunning { .. } => tracing::info!(upid = upid.as_str(), "the task still runs"),
            TaskEnd::Ok => return End::Ok,
            TaskEnd::Warnings { count, lines } => return End::Warnings(count, lines),
            TaskEnd::Failed { text, .. } => return End::Failed(text),
            TaskEnd::Unknown { why } => return End::Unknown(why),
        }
    }
}

fn client_name(name: &SnapshotName) -> proxmox_client::SnapshotName {
    name.as_str().parse().expect("our snapshot names are a part of Proxmox's")
}
