//! The test itself. After each change the guest is read again; what it says counts, not the task.

use std::time::Duration;

use proxmox_client::{
    ApiError, GuestConfig, GuestStatus, RunState, SnapshotList, TaskFilter, TaskSource, Upid,
};
use tokio::time::sleep;

use super::before::Before;
use super::call::{Change, Done, Trouble, change};
use super::left::{self, Cleanup};
use super::marks::{another, differences};
use super::{Guest, PREFIX, Shared};
use crate::selftest::read::words;
use crate::selftest::{Check, Findings};

/// How often the guest is read again until it is as it should be.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// The guest as it is now.
#[derive(Debug)]
pub(super) struct World {
    pub(super) snapshots: SnapshotList,
    pub(super) config: GuestConfig,
    pub(super) status: GuestStatus,
}

impl World {
    pub(super) async fn read(guest: &Guest) -> Result<Self, ApiError> {
        let Guest { client, kind, vmid, .. } = guest;
        Ok(Self {
            snapshots: client.snapshots(*kind, *vmid).await?,
            config: client.guest_config(*kind, *vmid).await?,
            status: client.guest_status(*kind, *vmid).await?,
        })
    }

    pub(super) fn runs(&self) -> bool {
        self.status.status == RunState::Running
    }

    pub(super) fn lock(&self) -> Option<&str> {
        self.config.lock().or(self.status.lock.as_deref())
    }

    /// The snapshot the guest descends from; the list's entry for the guest itself may lack it.
    fn parent(&self) -> Option<&str> {
        self.snapshots.current.parent.as_deref().or(self.config.parent())
    }
}

/// A task of the guest that runs now.
pub(super) async fn busy(guest: &Guest) -> Result<Option<Upid>, ApiError> {
    let filter = TaskFilter { source: TaskSource::Active, vmid: Some(guest.vmid), ..TaskFilter::default() };
    let tasks = guest.client.tasks(&filter).await?;
    Ok(tasks.into_iter().find(|task| task.is_running()).map(|task| task.upid))
}

/// All steps, or those up to the first that fails, and then what is left.
pub(super) async fn go(guest: &Guest, before: &Before, trace: &Shared, findings: &mut Findings<'_>) {
    let after = match there_and_back(guest, before, trace, findings).await {
        Ok(()) => Cleanup::Nothing,
        Err(cleanup) => cleanup,
    };
    left::check(guest, before, after, trace, findings).await;
}

async fn there_and_back(
    guest: &Guest,
    before: &Before,
    trace: &Shared,
    findings: &mut Findings<'_>,
) -> Result<(), Cleanup> {
    let step = async |what: Change, findings: &mut Findings<'_>| {
        let done = change(guest, what, &before.tasks, trace, findings).await;
        findings.push(told(guest, what, &done));
        done
    };

    step(Change::Create, findings).await.map_err(|trouble| after_create(&trouble))?;
    reread(guest, before, "list", findings, |world| created(guest, before, world)).await?;

    ready(guest, before, Change::Rollback, findings).await?;
    step(Change::Rollback, findings).await.map_err(|trouble| after_rollback(&trouble))?;
    reread(guest, before, "state", findings, |world| rolled_back(guest, before, world)).await?;

    if before.ran {
        let started = step(Change::Start, findings).await;
        match started {
            // Whatever it is, the snapshot can go; and what is left says whether the guest runs.
            Ok(_) => drop(reread(guest, before, "running", findings, running).await),
            Err(Trouble::NotDone(_) | Trouble::Failed { .. }) => {}
            Err(_) => return Err(Cleanup::Never("the guest may be starting at this moment")),
        }
    }

    ready(guest, before, Change::Delete, findings).await?;
    step(Change::Delete, findings).await.map_err(|_| Cleanup::Never("one attempt to delete it was made"))?;
    let gone = reread(guest, before, "gone", findings, |world| as_before(guest, before, world)).await;
    gone.map_err(|cleanup| match cleanup {
        Cleanup::Another(why) => Cleanup::Another(why),
        _ => Cleanup::Never("the task said that it was deleted"),
    })
}

/// What was seen just before a change.
enum Seen {
    /// All is as it should be.
    Ready,
    /// It may be in a moment.
    NotYet(String),
    /// It will not be.
    Wrong(String),
}

/// The last look before a rollback or a deletion: is it still the guest that the snapshot was taken of, and
/// would the rollback take nothing away from anybody?
async fn ready(
    guest: &Guest,
    before: &Before,
    next: Change,
    findings: &mut Findings<'_>,
) -> Result<(), Cleanup> {
    let name = if next == Change::Rollback { "rollback" } else { "delete" };
    let mut last = String::new();
    for look in 0..LOOKS {
        if look > 0 {
            sleep(PAUSE).await;
        }
        let (world, task) = match (World::read(guest).await, busy(guest).await) {
            (Ok(world), Ok(task)) => (world, task),
            (Err(error), _) | (_, Err(error)) => {
                last = format!("the guest cannot be looked at: {}", words(&error));
                continue;
            }
        };
        if let Some(why) = another(&before.config, &world.config, next == Change::Rollback) {
            findings.push(Check::fail(name, format!("not begun: {}", left::other(&why))));
            return Err(Cleanup::Another(why));
        }
        match safe(guest, before, next, &world, task.as_ref()) {
            Seen::Ready => return Ok(()),
            Seen::NotYet(why) => last = why,
            Seen::Wrong(why) => {
                last = why;
                break;
            }
        }
    }
    findings.push(Check::fail(name, format!("not begun: {last}")));
    Err(Cleanup::IfSafe)
}

fn safe(guest: &Guest, before: &Before, next: Change, world: &World, task: Option<&Upid>) -> Seen {
    match world.snapshots.get(guest.name.as_str()) {
        None => return Seen::Wrong(format!("{} is gone, and this test did not delete it", guest.name)),
        Some(own) if own.snapstate.is_some() => {
            return Seen::NotYet(format!("{} is being worked on", guest.name));
        }
        Some(_) => {}
    }
    if next == Change::Rollback {
        let changed: Vec<&str> =
            differences(&before.config, &world.config).iter().map(|(key, _)| *key).collect();
        if !changed.is_empty() {
            let keys = changed.join(", ");
            return Seen::Wrong(format!(
                "somebody changed it meanwhile ({keys}), and a rollback would lose that"
            ));
        }
        if world.runs() != before.ran {
            return Seen::Wrong("somebody started or stopped it meanwhile".to_owned());
        }
        if let Err(why) = descends(world, Some(guest.name.as_str())) {
            return Seen::Wrong(format!("{why}: somebody took another snapshot, or rolled back"));
        }
    }
    match (world.lock(), task) {
        (Some(lock), _) => Seen::NotYet(format!("the guest is locked ({lock})")),
        (None, Some(upid)) => Seen::NotYet(format!("a task of the guest runs ({upid})")),
        (None, None) => Seen::Ready,
    }
}

pub(super) fn told(guest: &Guest, what: Change, done: &Result<Done, Trouble>) -> Check {
    let doing = match what {
        Change::Create => format!("{} taken", guest.name),
        Change::Rollback => format!("{} rolled back to it", guest.label()),
        Change::Start => format!("{} started again", guest.label()),
        Change::Delete => format!("{} deleted", guest.name),
    };
    match done {
        Ok(done) if done.notes.is_empty() => Check::ok(what.name(), doing),
        Ok(done) => Check::warn(what.name(), format!("{doing}; {}", done.notes.join("; "))),
        Err(trouble) => Check::fail(what.name(), format!("{}: {}", what.doing(), trouble.sentence())),
    }
}

/// What a failed creation allows to do with the snapshot, if there is one.
fn after_create(trouble: &Trouble) -> Cleanup {
    match trouble {
        Trouble::Running(_) => Cleanup::Never("its task still runs"),
        // `left` looks at the guest and its running tasks first, and does nothing if in doubt.
        Trouble::NotDone(_) | Trouble::Failed { .. } | Trouble::NoResult(_) => Cleanup::IfSafe,
        Trouble::Lost(_) => Cleanup::MayCome,
    }
}

/// A rollback that fails half-way needs the snapshot again; one that was refused did not touch a thing.
fn after_rollback(trouble: &Trouble) -> Cleanup {
    use proxmox_client::ErrorClass::{Busy, Locked, NoQuorum, Permission};
    match trouble {
        Trouble::NotDone(_) => Cleanup::IfSafe,
        Trouble::Failed { text, .. } => match proxmox_client::classify_text(text) {
            Busy | Locked { .. } | NoQuorum | Permission { .. } => Cleanup::IfSafe,
            _ if text.contains("is not most recent snapshot") => Cleanup::IfSafe,
            _ => Cleanup::Half("a rollback that failed half-way can be repeated with it"),
        },
        Trouble::NoResult(_) | Trouble::Running(_) | Trouble::Lost(_) => {
            Cleanup::Unsure("nobody knows what became of the rollback")
        }
    }
}

/// Reads the guest until it is as it should be, a few times.
async fn reread(
    guest: &Guest,
    before: &Before,
    name: &'static str,
    findings: &mut Findings<'_>,
    judge: impl Fn(&World) -> Result<String, String>,
) -> Result<(), Cleanup> {
    let mut why = String::new();
    for look in 0..LOOKS {
        if look > 0 {
            sleep(PAUSE).await;
        }
        match World::read(guest).await {
            Err(error) => why = format!("the guest cannot be read again: {}", words(&error)),
            Ok(world) => match judge(&world) {
                _ if another(&before.config, &world.config, false).is_some() => {
                    let found = another(&before.config, &world.config, false).unwrap_or_default();
                    findings.push(Check::fail(name, left::other(&found)));
                    return Err(Cleanup::Another(found));
                }
                Ok(seen) => {
                    findings.push(Check::ok(name, seen));
                    return Ok(());
                }
                Err(wrong) => why = wrong,
            },
        }
    }
    findings.push(Check::fail(name, why));
    Err(Cleanup::IfSafe)
}

fn created(guest: &Guest, before: &Before, world: &World) -> Result<String, String> {
    let name = guest.name.as_str();
    let other =
        world.snapshots.snapshots.iter().find(|other| other.name.starts_with(PREFIX) && other.name != name);
    if let Some(other) = other {
        return Err(format!("another selftest came in between ({}); this one gives way", other.name));
    }
    let Some(own) = world.snapshots.get(name) else {
        return Err(format!("the task ended well, and {name} is not in the list"));
    };
    if let Some(state) = &own.snapstate {
        return Err(format!("{name} is in the list, but half made ({state})"));
    }
    let (wanted, found) = (before.parent(), own.parent.as_deref());
    // A list may tell no parents at all; then the guest's own is all there is.
    let told = world.snapshots.snapshots.iter().any(|snapshot| snapshot.parent.is_some());
    if wanted != found && (told || wanted.is_none()) {
        return Err(format!("{name} descends from {}, not from {}", parent(found), parent(wanted)));
    }
    descends(world, Some(name))?;
    unlocked(world)?;
    Ok(format!("{name} is there, it descends from {}, the guest from it", parent(wanted)))
}

fn rolled_back(guest: &Guest, before: &Before, world: &World) -> Result<String, String> {
    descends(world, Some(guest.name.as_str()))?;
    unlocked(world)?;
    same_config(before, world)?;
    let now = if world.runs() { "running" } else { "stopped" };
    // Without its memory in the snapshot a guest comes back stopped (`pve/facts.md` 6.4).
    if world.runs() {
        return Err("the guest runs after a rollback that should have left it stopped".to_owned());
    }
    let stopped = if before.ran { ", where it ran before, as it must be" } else { ", as before" };
    Ok(format!("it descends from {}, its configuration is the same, it is {now}{stopped}", guest.name))
}

fn running(world: &World) -> Result<String, String> {
    match world.runs() {
        true => Ok("the guest runs again".to_owned()),
        false => Err("the task ended well, and the guest does not run".to_owned()),
    }
}

fn as_before(guest: &Guest, before: &Before, world: &World) -> Result<String, String> {
    if world.snapshots.get(guest.name.as_str()).is_some() {
        return Err(format!("the task ended well, and {} is still in the list", guest.name));
    }
    descends(world, before.parent())?;
    unlocked(world)?;
    same_config(before, world)?;
    let names = |list: &SnapshotList| -> std::collections::BTreeSet<String> {
        list.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect()
    };
    if names(&before.snapshots) != names(&world.snapshots) {
        return Err("it is gone, but the guest's other snapshots are not those of before".to_owned());
    }
    Ok(format!("{} is not there any more, the guest is as before", guest.name))
}

fn descends(world: &World, wanted: Option<&str>) -> Result<(), String> {
    let found = world.parent();
    match found == wanted {
        true => Ok(()),
        false => Err(format!("the guest descends from {}, not from {}", parent(found), parent(wanted))),
    }
}

fn parent(name: Option<&str>) -> &str {
    name.unwrap_or("no snapshot")
}

fn unlocked(world: &World) -> Result<(), String> {
    world.lock().map_or(Ok(()), |lock| Err(format!("the guest is still locked ({lock})")))
}

fn same_config(before: &Before, world: &World) -> Result<(), String> {
    let changed: Vec<&str> = differences(&before.config, &world.config).iter().map(|(key, _)| *key).collect();
    match changed.is_empty() {
        true => Ok(()),
        false => Err(format!("the configuration is not the same any more: {}", changed.join(", "))),
    }
}
