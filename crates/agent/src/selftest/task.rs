//! `--selftest=task`: a snapshot of one guest, a rollback to it, and its end. The one selftest that changes
//! something, so it looks before every step, believes the world and not the task, and says what it leaves.
//!
//! | module | is |
//! |---|---|
//! | `before` | what is read first, and what forbids the test |
//! | `call` | one change: sent once, its task found and followed to its end |
//! | `steps` | the test itself |
//! | `left` | after a failure: what is there now, and how to be rid of it |
//! | `marks` | whether it is still the same guest, and as it was |
//! | `alone` | one test of a guest at a time on this machine |

mod alone;
mod before;
mod call;
mod left;
mod marks;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use proxmox_client::{Client, GuestKind, NodeName, SnapshotName, Upid, Vmid};

use super::{Check, Findings, Verdict};
use crate::config::ProxmoxSettings;
use crate::{run, sentence};

/// How every snapshot of this test begins.
const PREFIX: &str = "writ-selftest-";
/// How long one task may take.
const TASK_LIMIT: Duration = Duration::from_secs(600);
/// How long the task of a lost answer may take to appear; the proxy in Proxmox gives up after 30 s
/// (`pve/facts.md` 3.8).
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// For the last look around after an interruption.
const LAST_LOOK: Duration = Duration::from_secs(15);

/// Limits of time, so that tests need not wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For each task.
    pub task: Duration,
    /// For the task of a lost answer to appear.
    pub patience: Duration,
    /// Between two lines of progress.
    pub progress: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { task: TASK_LIMIT, patience: PATIENCE, progress: PROGRESS }
    }
}

/// The guest, and under which name it is worked on.
#[derive(Debug, Clone)]
struct Guest {
    client: Client,
    node: NodeName,
    kind: GuestKind,
    vmid: Vmid,
    /// The guest's own.
    title: Option<String>,
    /// The snapshot's.
    name: SnapshotName,
    limits: Limits,
}

impl Guest {
    fn label(&self) -> String {
        let kind = match self.kind {
            GuestKind::Qemu => "VM",
            GuestKind::Lxc => "container",
        };
        let title = self.title.as_ref().map(|title| format!(" ({title})")).unwrap_or_default();
        format!("{kind} {}{title} on {}", self.vmid, self.node)
    }

    /// `qm` or `pct`.
    fn tool(&self) -> &'static str {
        match self.kind {
            GuestKind::Qemu => "qm",
            GuestKind::Lxc => "pct",
        }
    }
}

/// What has been begun; still there when the test itself is interrupted.
#[derive(Debug, Clone, Default)]
struct Trace {
    /// Known as soon as the guest is, and how it was.
    guest: Option<(Guest, Arc<before::Before>)>,
    /// The last change that was begun, none before the first.
    doing: Option<call::Change>,
    /// Its task, once it is known.
    upid: Option<Upid>,
}

/// Shared between the test and whoever ends it early.
type Shared = std::sync::Mutex<Trace>;

fn noted(trace: &Shared, change: impl FnOnce(&mut Trace)) {
    change(&mut trace.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// Makes the test, until it is done or `interrupt` resolves.
pub async fn task(
    settings: &ProxmoxSettings,
    vmid: Vmid,
    allow_stop: bool,
    limits: Limits,
    interrupt: impl Future<Output = ()>,
    findings: &mut Findings<'_>,
) -> Verdict {
    let trace = Shared::default();
    tokio::select! {
        biased;
        () = interrupt => {}
        verdict = all(settings, vmid, allow_stop, limits, &trace, findings) => return verdict,
    }
    let trace = trace.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    left::interrupted(&trace, findings).await;
    Verdict::Failed
}

async fn all(
    settings: &ProxmoxSettings,
    vmid: Vmid,
    allow_stop: bool,
    limits: Limits,
    trace: &Shared,
    findings: &mut Findings<'_>,
) -> Verdict {
    let Some(client) = super::read::connect(settings, findings).await else { return Verdict::Failed };
    let name = match own_name() {
        Ok(name) => name,
        Err(why) => {
            findings.push(Check::fail("snapshot", why));
            return Verdict::Failed;
        }
    };
    // Held until the end: a second test would see no snapshot before this one has made its own.
    let Some(node) = client.presented() else {
        findings.push(Check::fail("alone", "nothing is known of the node's key: try again"));
        return Verdict::Failed;
    };
    let _alone = match alone::alone(&node.spki, vmid) {
        Ok(alone) => alone,
        Err(why) => {
            findings.push(Check::fail("alone", why));
            return Verdict::Refused;
        }
    };
    let found = match before::find(client, settings.node.as_ref(), vmid).await {
        Ok(found) => found,
        Err(stop) => return stop.tell(findings),
    };
    let before::Found { client, node, kind, title } = found;
    let guest = Guest { client, node, kind, vmid, title, name, limits };
    findings.node = Some(guest.node.to_string());
    let before = match before::look(&guest, allow_stop, findings).await {
        Ok(before) => Arc::new(before),
        Err(stop) => return stop.tell(findings),
    };
    if let Err(stop) = before::still(&guest, &before).await {
        return stop.tell(findings);
    }
    noted(trace, |trace| trace.guest = Some((guest.clone(), Arc::clone(&before))));
    steps::go(&guest, &before, trace, findings).await;
    findings.verdict()
}

/// A name that nobody else has.
fn own_name() -> Result<SnapshotName, String> {
    let id = run::random::<8>().map_err(|error| sentence(&error))?;
    let text = format!("{PREFIX}{}", data_encoding::HEXLOWER.encode(&id));
    text.parse().map_err(|error: proxmox_client::IdError| error.to_string())
}

#[cfg(test)]
mod tests;
