//! One change: sent once, its task found even when the answer is lost, followed to its end.

use std::time::Duration;

use proxmox_client::{ApiError, Delivery, FindTask, FoundTask, TaskEnd, Upid};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::{Guest, Shared, noted};
use crate::selftest::Findings;
use crate::selftest::read::words;
use crate::unix_now;

/// How often the node is asked for the task of a lost answer.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);
/// Where the node's clock is not readable, its tasks of so many seconds count: it may go wrong by hours, and
/// what was there before is known.
const NO_CLOCK: u64 = 86_400;

/// One of the four changes of this test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Rollback,
    Start,
    Delete,
}

impl Change {
    /// As a check is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "snapshot",
            Self::Rollback => "rollback",
            Self::Start => "start",
            Self::Delete => "delete",
        }
    }

    /// For "interrupted while …".
    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Create => "taking the snapshot",
            Self::Rollback => "rolling back",
            Self::Start => "starting the guest",
            Self::Delete => "deleting the snapshot",
        }
    }

    fn task_type(self, guest: &Guest) -> String {
        let verb = match self {
            Self::Create => "snapshot",
            Self::Rollback => "rollback",
            Self::Start => "start",
            Self::Delete => "delsnapshot",
        };
        let prefix = if guest.tool() == "qm" { "qm" } else { "vz" };
        format!("{prefix}{verb}")
    }
}

/// It was done, says the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    /// What the task warned of, and how the task was found if the answer was lost.
    pub(super) notes: Vec<String>,
}

/// It was not, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Proxmox refused, or never heard of it: there is no task.
    NotDone(String),
    /// The task ended and says why.
    Failed {
        /// Its own words.
        text: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// The task ended without a result, or cannot be followed.
    NoResult(String),
    /// The task runs longer than anybody waits.
    Running(Upid),
    /// The answer was lost, and so far no task is to be found.
    Lost(String),
}

impl Trouble {
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::NotDone(why) | Self::NoResult(why) | Self::Lost(why) => why.clone(),
            Self::Failed { text, log } => match log.iter().rev().nth(1) {
                Some(line) => format!("the task failed: {text} (before that: {line})"),
                None => format!("the task failed: {text}"),
            },
            Self::Running(upid) => format!("its task still runs and was not waited for any longer: {upid}"),
        }
    }
}

/// Makes the change. `known` are tasks that are no doing of this test.
pub(super) async fn change(
    guest: &Guest,
    change: Change,
    known: &[Upid],
    trace: &Shared,
    findings: &mut Findings<'_>,
) -> Result<Done, Trouble> {
    let since = match guest.client.node_time().await {
        Ok(time) => time.time,
        Err(_) => unix_now().saturating_sub(NO_CLOCK),
    };
    noted(trace, |trace| (trace.doing, trace.upid) = (Some(change), None));
    let task_type = change.task_type(guest);
    let mut notes = Vec::new();
    let upid = match send(guest, change).await {
        Ok(upid) => upid,
        Err(error) => match error.delivery() {
            Delivery::NotSent | Delivery::Answered => return Err(Trouble::NotDone(words(&error))),
            // Also where another task was named than the one asked for.
            Delivery::MaybeExecuted => {
                let find = FindTask {
                    since,
                    task_types: &[&task_type],
                    id: &guest.vmid.to_string(),
                    user: guest.client.identity(),
                    known,
                };
                let upid = found(guest, &find, &words(&error), findings).await?;
                notes.push(format!("the answer was lost, its task was found: {upid}"));
                upid
            }
        },
    };
    noted(trace, |trace| trace.upid = Some(upid.clone()));
    match follow(guest, &upid, change, findings).await {
        TaskEnd::Ok => Ok(Done { notes }),
        TaskEnd::Warnings { count, lines } => {
            notes.push(format!("the task gave {}: {}", warnings(count), lines.join("; ")));
            Ok(Done { notes })
        }
        TaskEnd::Failed { text, last_lines } => Err(Trouble::Failed { text, log: last_lines }),
        TaskEnd::Unknown { why } => Err(Trouble::NoResult(format!("{why} (task {upid})"))),
        TaskEnd::StillRunning { upid } => Err(Trouble::Running(upid)),
    }
}

fn warnings(count: impl TryInto<usize>) -> String {
    crate::selftest::report::count(count.try_into().unwrap_or(usize::MAX), "warning")
}

async fn send(guest: &Guest, change: Change) -> Result<Upid, ApiError> {
    let Guest { client, kind, vmid, name, .. } = guest;
    match change {
        Change::Create => {
            client
                .snapshot_create(*kind, *vmid, name, "writ-agent --selftest=task; it deletes this itself")
                .await
        }
        // The guest is started by a step of its own, which is judged by itself.
        Change::Rollback => client.snapshot_rollback(*kind, *vmid, name, false).await,
        Change::Start => client.start(*kind, *vmid).await,
        Change::Delete => client.snapshot_delete(*kind, *vmid, name).await,
    }
}

/// Looks for the task of a lost answer. Nothing is sent a second time.
async fn found(
    guest: &Guest,
    find: &FindTask<'_>,
    why: &str,
    findings: &mut Findings<'_>,
) -> Result<Upid, Trouble> {
    findings.progress(&format!("{why}; looking for its task"));
    let end = Instant::now() + guest.limits.patience;
    loop {
        match guest.client.find_task_of(find).await {
            FoundTask::Found(upid) => return Ok(upid),
            FoundTask::Several(all) => {
                return Err(Trouble::Lost(format!(
                    "{why}. {} tasks of that kind began since, so nobody can tell which is this one's",
                    all.len()
                )));
            }
            FoundTask::NotFound | FoundTask::CannotTell(_) if Instant::now() < end => {
                sleep(SEARCH_PAUSE.min(guest.limits.patience)).await;
            }
            FoundTask::NotFound => {
                return Err(Trouble::Lost(format!("{why}. No task of it appeared; it may still come")));
            }
            FoundTask::CannotTell(doubt) => {
                return Err(Trouble::Lost(format!(
                    "{why}. What became of it could not be told within {} s ({doubt}); it may still come",
                    guest.limits.patience.as_secs()
                )));
            }
        }
    }
}

async fn follow(guest: &Guest, upid: &Upid, change: Change, findings: &mut Findings<'_>) -> TaskEnd {
    let began = Instant::now();
    let mut ticks = interval_at(began + guest.limits.progress, guest.limits.progress);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let waiting = guest.client.wait_task(upid, guest.limits.task);
    tokio::pin!(waiting);
    loop {
        tokio::select! {
            end = &mut waiting => return end,
            _ = ticks.tick() => {
                findings.progress(&format!("{}: {} s so far", change.doing(), began.elapsed().as_secs()));
            }
        }
    }
}
