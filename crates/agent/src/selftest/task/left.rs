//! After the test: what is there now that was not there before, and how to be rid of it.

use proxmox_client::{GuestKind, TaskFilter, TaskSource};

use super::before::Before;
use super::call::{Change, change};
use super::steps::{World, told};
use super::{Guest, LAST_LOOK, Shared, Trace};
use crate::selftest::{Check, Findings};

const MAY_COME: &str = "a request whose answer was not seen may still be carried out";

/// What may be done with the own snapshot if it is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cleanup {
    /// There should be none.
    Nothing,
    /// Delete it, if the guest is unlocked, no task of it runs, and the snapshot is whole.
    IfSafe,
    /// The same; and if it is not there it may still come, because an answer was lost.
    MayCome,
    /// It stays: it is worth something.
    KeptFor(&'static str),
    /// It stays: somebody must look first.
    Never(&'static str),
}

/// Puts right what can be put right safely, and says what is left.
pub(super) async fn check(
    guest: &Guest,
    before: &Before,
    cleanup: Cleanup,
    trace: &Shared,
    findings: &mut Findings<'_>,
) {
    let mut world = match World::read(guest).await {
        Ok(world) => world,
        Err(error) => return findings.push(unread(guest, &error.to_string())),
    };
    let quiet = quiet(guest, &world).await;
    // The rollback stops the guest; its end is known here, so starting it again cannot collide.
    if before.ran
        && !world.runs()
        && quiet.is_ok()
        && !matches!(cleanup, Cleanup::Never(_) | Cleanup::Nothing)
    {
        let started = change(guest, Change::Start, &before.tasks, trace, findings).await;
        findings.push(told(guest, Change::Start, &started));
        world = match World::read(guest).await {
            Ok(world) => world,
            Err(error) => return findings.push(unread(guest, &error.to_string())),
        };
    }
    let whole = world.snapshots.get(guest.name.as_str()).is_some_and(|own| own.snapstate.is_none());
    if whole && matches!(cleanup, Cleanup::IfSafe | Cleanup::MayCome) && quiet.is_ok() {
        let deleted = change(guest, Change::Delete, &before.tasks, trace, findings).await;
        findings.push(told(guest, Change::Delete, &deleted));
        world = match World::read(guest).await {
            Ok(world) => world,
            Err(error) => return findings.push(unread(guest, &error.to_string())),
        };
    }
    let why = match (cleanup, &quiet) {
        (Cleanup::KeptFor(why) | Cleanup::Never(why), _) => Some(why.to_owned()),
        (Cleanup::IfSafe | Cleanup::MayCome, Err(why)) => Some(why.clone()),
        (Cleanup::MayCome, Ok(())) if !whole => Some(MAY_COME.to_owned()),
        (Cleanup::IfSafe | Cleanup::MayCome | Cleanup::Nothing, _) => None,
    };
    findings.push(remains(guest, &world, before.ran, why.as_deref()));
}

/// Whether nothing is going on with the guest.
async fn quiet(guest: &Guest, world: &World) -> Result<(), String> {
    if let Some(lock) = world.lock() {
        return Err(format!("the guest is locked ({lock})"));
    }
    let filter = TaskFilter { source: TaskSource::Active, vmid: Some(guest.vmid), ..TaskFilter::default() };
    match guest.client.tasks(&filter).await {
        Err(error) => Err(format!("its running tasks cannot be read ({error})")),
        Ok(tasks) => match tasks.iter().find(|task| task.is_running()) {
            Some(task) => Err(format!("a task of the guest is running ({})", task.upid)),
            None => Ok(()),
        },
    }
}

fn remains(guest: &Guest, world: &World, ran: bool, why: Option<&str>) -> Check {
    let (mut left, mut lines) = (Vec::new(), Vec::new());
    let (tool, vmid) = (guest.tool(), guest.vmid);
    if let Some(lock) = world.lock() {
        left.push(format!("the guest is locked ({lock})"));
        lines.push(format!("{tool} unlock {vmid}   # as root, once no task of the guest runs"));
    }
    if let Some(own) = world.snapshots.get(guest.name.as_str()) {
        left.push(match &own.snapstate {
            Some(state) => format!("the snapshot {}, half made or half deleted ({state})", guest.name),
            None => format!("the snapshot {}", guest.name),
        });
        lines.extend(removal(guest, own.snapstate.is_some()));
    }
    if ran && !world.runs() {
        left.push("the guest is stopped, and ran before".to_owned());
        lines.push(format!("{tool} start {vmid}"));
    }
    if left.is_empty() {
        return match why {
            Some(why) => {
                Check::warn("left", format!("nothing on {} at this moment, but {why}", guest.label())).with(
                    format!(
                        "Look again in a minute; if {} is there then:\n{}",
                        guest.name,
                        removal(guest, false).join("\n")
                    ),
                )
            }
            None => Check::ok("left", format!("nothing on {}", guest.label())),
        };
    }
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
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
        "{} listsnapshot {}   # if {} is there:\n{remove}\n{by_api}",
        guest.tool(),
        guest.vmid,
        guest.name
    ))
}

/// Somebody wants an end now: a short look, no change.
pub(super) async fn interrupted(trace: &Trace, findings: &mut Findings<'_>) {
    let (Some(guest), Some(doing)) = (&trace.guest, trace.doing) else {
        findings.push(Check::fail("interrupted", "before anything was changed"));
        return;
    };
    let task = trace.upid.as_ref().map(|upid| format!(", task {upid}")).unwrap_or_default();
    findings.push(Check::fail("interrupted", format!("while {doing}{task}")));
    let look = async {
        let world = World::read(guest).await.map_err(|error| error.to_string())?;
        let quiet = quiet(guest, &world).await;
        Ok::<_, String>((world, quiet))
    };
    // Between a request and its answer nobody knows whether it will be carried out.
    let underway = trace.upid.is_none().then(|| MAY_COME.to_owned());
    findings.push(match tokio::time::timeout(LAST_LOOK, look).await {
        Ok(Ok((world, quiet))) => remains(guest, &world, trace.ran, quiet.err().or(underway).as_deref()),
        Ok(Err(error)) => unread(guest, &error),
        Err(_) => unread(guest, &format!("no answer within {} s", LAST_LOOK.as_secs())),
    });
}
