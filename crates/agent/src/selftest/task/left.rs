//! After the test: what is there now that was not there before, and how to be rid of it.

use std::time::Duration;

use proxmox_client::{ErrorClass, GuestKind, TaskStatus, Upid};
use tokio::time::sleep;

use super::before::Before;
use super::call::{Change, change};
use super::marks::{another, differences, told as changes};
use super::steps::{World, busy, told};
use super::{Guest, LAST_LOOK, Shared, Trace, noted};
use crate::selftest::read::words;
use crate::selftest::{Check, Findings};

const MAY_COME: &str = "a request whose answer was not seen may still be carried out";
/// A lock, and a task in the list of those that run, may outlast the task's end by a moment.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(700);

/// What may be done with the own snapshot if it is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cleanup {
    /// There should be none.
    Nothing,
    /// Delete it, if the guest is unlocked, no task of it runs, and the snapshot is whole.
    IfSafe,
    /// The same; and if it is not there it may still come, because an answer was lost.
    MayCome,
    /// It stays, because the disks may be rolled back by halves.
    Half(&'static str),
    /// It stays, because that is not known.
    Unsure(&'static str),
    /// It stays: somebody must look first.
    Never(&'static str),
    /// Another guest has the number now, for this reason.
    Another(String),
}

impl Cleanup {
    fn deletes(&self) -> bool {
        matches!(self, Self::IfSafe | Self::MayCome)
    }
}

/// What a rollback did to the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disks {
    /// It was not begun, or is done.
    Whole,
    /// It failed half-way.
    Half,
    /// Nobody knows yet.
    Unsure,
}

/// What is there now.
struct Now {
    world: World,
    /// A task of the guest that runs; or why that is not known.
    task: Result<Option<Upid>, String>,
}

impl Now {
    /// Reads the guest, again if it may be at rest in a moment.
    async fn read(guest: &Guest) -> Result<Self, Check> {
        let mut look = 0;
        loop {
            let world = World::read(guest).await.map_err(|error| match error.class() {
                // An unknown node is not found either.
                ErrorClass::NotFound if words(&error).contains("onfiguration file") => gone(guest),
                _ => unread(guest, &words(&error)),
            })?;
            let task = busy(guest).await.map_err(|error| words(&error));
            let now = Self { world, task };
            look += 1;
            if now.at_rest() || look >= LOOKS {
                return Ok(now);
            }
            sleep(PAUSE).await;
        }
    }

    fn at_rest(&self) -> bool {
        self.world.lock().is_none() && self.task == Ok(None)
    }
}

/// Puts right what can be put right safely, and says what is left.
pub(super) async fn check(
    guest: &Guest,
    before: &Before,
    cleanup: Cleanup,
    trace: &Shared,
    findings: &mut Findings<'_>,
) {
    let left = put_right(guest, before, &cleanup, trace, findings).await;
    findings.push(left.unwrap_or_else(|check| check));
}

async fn put_right(
    guest: &Guest,
    before: &Before,
    cleanup: &Cleanup,
    trace: &Shared,
    findings: &mut Findings<'_>,
) -> Result<Check, Check> {
    if let Cleanup::Another(why) = cleanup {
        return Err(taken(guest, why));
    }
    let read = async || {
        let now = Now::read(guest).await?;
        match another(&before.config, &now.world.config, false) {
            Some(why) => Err(taken(guest, &why)),
            None => Ok(now),
        }
    };
    let mut now = read().await?;
    let mut rolled = false;
    noted(trace, |trace| rolled = trace.doing.is_some_and(|doing| doing != Change::Create));
    // The rollback stops the guest; its end is known here, so starting it again cannot collide.
    if before.ran && rolled && !now.world.runs() && now.at_rest() && cleanup.deletes() {
        let started = change(guest, Change::Start, &before.tasks, trace, findings).await;
        findings.push(told(guest, Change::Start, &started));
        now = read().await?;
    }
    let own = now.world.snapshots.get(guest.name.as_str());
    if own.is_some_and(|own| own.snapstate.is_none()) && cleanup.deletes() && now.at_rest() {
        let deleted = change(guest, Change::Delete, &before.tasks, trace, findings).await;
        findings.push(told(guest, Change::Delete, &deleted));
        let may_come = *cleanup == Cleanup::MayCome && deleted.is_err();
        now = read().await?;
        let why = may_come.then_some(MAY_COME);
        return Ok(remains(guest, &now, before, Disks::Whole, why));
    }
    let (disks, why) = match cleanup {
        Cleanup::Half(why) => (Disks::Half, Some(*why)),
        Cleanup::Unsure(why) => (Disks::Unsure, Some(*why)),
        Cleanup::Never(why) => (Disks::Whole, Some(*why)),
        Cleanup::MayCome => (Disks::Whole, Some(MAY_COME)),
        Cleanup::IfSafe | Cleanup::Nothing | Cleanup::Another(_) => (Disks::Whole, None),
    };
    // That it was deleted is no news where it is gone.
    let why = match cleanup {
        Cleanup::Never(_) if now.at_rest() => {
            why.filter(|_| now.world.snapshots.get(guest.name.as_str()).is_some())
        }
        _ => why,
    };
    Ok(remains(guest, &now, before, disks, why))
}

/// The words for a number that was given anew.
pub(super) fn other(why: &str) -> String {
    format!("another guest has this number now ({why}), so nothing more is touched")
}

fn taken(guest: &Guest, why: &str) -> Check {
    let text = format!("on {}: not known, {}", guest.label(), other(why));
    Check::fail("left", text).with(format!(
        "{} listsnapshot {}   # {} would be of this test, and of the former guest",
        guest.tool(),
        guest.vmid,
        guest.name
    ))
}

fn gone(guest: &Guest) -> Check {
    Check::fail("left", format!("{} is not there any more: somebody removed or moved it", guest.label()))
        .with(format!(
            "Look where it is (`pvesh get /cluster/resources --type vm`); if it has {} there, delete that.",
            guest.name
        ))
}

fn remains(guest: &Guest, now: &Now, before: &Before, disks: Disks, why: Option<&str>) -> Check {
    let (mut left, mut lines) = (Vec::new(), Vec::new());
    let Guest { vmid, name, node, .. } = guest;
    let (tool, Now { world, task }) = (guest.tool(), now);
    let own = world.snapshots.get(name.as_str());
    // Only then is a lock, or a half-made snapshot, the trace of something that is over.
    let over = *task == Ok(None);
    match task {
        Ok(None) => {}
        Ok(Some(upid)) => {
            left.push(format!("a task of it still runs ({upid})"));
            lines.push(format!("wait until {upid} has ended"));
        }
        Err(error) => {
            left.push(format!("whether a task of it runs cannot be read ({error})"));
            lines.push(format!(
                "pvesh get /nodes/{node}/tasks --vmid {vmid} --source active   # wait until there is none"
            ));
        }
    }
    if let Some(lock) = world.lock() {
        left.push(format!("it is locked ({lock})"));
        if over {
            lines.push(format!("{tool} unlock {vmid}   # as root"));
        }
    }
    let stopped = before.ran && !world.runs();
    if let Some(own) = own {
        left.push(match &own.snapstate {
            Some(state) if over => format!("the snapshot {name}, half made or half deleted ({state})"),
            Some(state) => format!("the snapshot {name} ({state})"),
            None => format!("the snapshot {name}"),
        });
        match disks {
            Disks::Whole => {}
            Disks::Half => lines.push(format!(
                "{tool} rollback {vmid} {name}   # first: its disks may be rolled back by halves"
            )),
            Disks::Unsure => {
                lines
                    .push(format!("{tool} rollback {vmid} {name}   # first, unless the rollback ended well"));
            }
        }
        lines.extend(removal(guest, over && own.snapstate.is_some()));
    }
    if stopped {
        left.push(match disks {
            Disks::Half => "it is stopped; it ran before, and half rolled back it is not started".to_owned(),
            Disks::Whole | Disks::Unsure => "it is stopped, and ran before".to_owned(),
        });
        lines.push(format!("{tool} start {vmid}"));
    }
    let changed = differences(&before.config, &world.config);
    if over && !changed.is_empty() {
        left.push(format!("its configuration is not that of before: {}", changes(&changed)));
        lines.push(format!("{tool} config {vmid}   # compare, and set what nobody else meant to change"));
    }
    if left.is_empty() {
        return match why {
            Some(why) => {
                Check::warn("left", format!("nothing on {} at this moment, but {why}", guest.label())).with(
                    format!(
                        "Look again in a minute; if {name} is there then:\n{}",
                        removal(guest, false).join("\n")
                    ),
                )
            }
            None => Check::ok("left", format!("nothing on {}", guest.label())),
        };
    }
    let why = why.filter(|_| own.is_some() || !over).map(|why| format!(" ({why})")).unwrap_or_default();
    Check::fail("left", format!("on {}: {}{why}", guest.label(), left.join("; "))).with(lines.join("\n"))
}

/// On the host, and from anywhere.
fn removal(guest: &Guest, forced: bool) -> [String; 2] {
    let Guest { node, kind, vmid, name, .. } = guest;
    let (tool, [long, api]) = (guest.tool(), if forced { [" --force", " --force 1"] } else { ["", ""] });
    [
        format!("{tool} delsnapshot {vmid} {name}{long}"),
        format!(
            "pvesh delete /nodes/{node}/{}/{vmid}/snapshot/{name}{api}   # the same by the API",
            path(*kind)
        ),
    ]
}

fn path(kind: GuestKind) -> &'static str {
    kind.as_str()
}

fn unread(guest: &Guest, error: &str) -> Check {
    let text = format!("{} cannot be read now, so what is left is not known: {error}", guest.label());
    let [remove, by_api] = removal(guest, false);
    Check::fail("left", text).with(format!(
        "{} listsnapshot {}   # if {} is there, and no task of the guest runs:\n{remove}\n{by_api}",
        guest.tool(),
        guest.vmid,
        guest.name
    ))
}

/// Somebody wants an end now: a short look, no change.
pub(super) async fn interrupted(trace: &Trace, findings: &mut Findings<'_>) {
    let (Some((guest, before)), Some(doing)) = (&trace.guest, trace.doing) else {
        findings.push(Check::fail("interrupted", "before anything was changed"));
        return;
    };
    let task = trace.upid.as_ref().map(|upid| format!(", task {upid}")).unwrap_or_default();
    findings.push(Check::fail("interrupted", format!("while {}{task}", doing.doing())));
    let look = async {
        let now = Now::read(guest).await?;
        if let Some(why) = another(&before.config, &now.world.config, false) {
            return Err(taken(guest, &why));
        }
        let disks =
            if doing == Change::Rollback { disks(guest, trace.upid.as_ref()).await } else { Disks::Whole };
        // Between a request and its answer nobody knows whether it will be carried out.
        let why = trace.upid.is_none().then_some(MAY_COME);
        Ok(remains(guest, &now, before, disks, why))
    };
    findings.push(match tokio::time::timeout(LAST_LOOK, look).await {
        Ok(found) => found.unwrap_or_else(|check| check),
        Err(_) => unread(guest, &format!("no answer within {} s", LAST_LOOK.as_secs())),
    });
}

/// How a rollback ended that nobody waited for.
async fn disks(guest: &Guest, upid: Option<&Upid>) -> Disks {
    let Some(upid) = upid else { return Disks::Unsure };
    match guest.client.task_status(upid).await {
        Ok(TaskStatus::Ended { exitstatus: Some(end) }) if end == "OK" || end.starts_with("WARNINGS") => {
            Disks::Whole
        }
        Ok(TaskStatus::Ended { exitstatus: Some(_) }) => Disks::Half,
        Ok(TaskStatus::Ended { exitstatus: None } | TaskStatus::Running) | Err(_) => Disks::Unsure,
    }
}
