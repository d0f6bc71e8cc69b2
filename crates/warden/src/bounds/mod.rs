//! Pure: what may change without a signature (`security.md` 2.13). Three fences, one inside the other: a
//! change without a [`Step`] cannot be asked for; the ceilings are compiled in; the policy, and after it this
//! host's `warden.toml`, can only be tighter ([`Limits`]).
//!
//! [`admit`] judges one step against the guest as it is now, [`rates`] against what was begun before
//! ([`History`], read from the log). Each refusal names its rule. What [`admit`] returns belongs into the log
//! with the beginning of the step, in the same breath as [`rates`] is asked, so that steps that come
//! together cannot slip under a rate together.
//!
//! Out of reach by construction, because no step says them: stop, shutdown, reboot, suspend; delete, detach,
//! shrink, move; cloud-init, `args`, `hookscript`, boot order, CD-ROM, network devices and their firewall,
//! passed-through devices, BIOS, machine and CPU type, features, mount points; taking a protection away. So the
//! rate of unsigned stops is none.

use authz::RefusalCode;
use authz::world::{self, snapshot_free, startable};
use protocol::plan::{Direction, Effect, Field, NewGuest, Pin, Step};
use protocol::refs::StorageId;
use protocol::{GuestKind, RunState, Vmid};

use crate::check::Refused;
use crate::world::Observed;

mod guest;
mod history;
mod limits;

pub use history::{Clock, History};
pub use limits::{Limits, LocalBounds};

use guest::Disk;
use limits::Limit;

/// Assumed of a template whose size nobody says before it is there, bytes.
const TEMPLATE_BYTES: u64 = 4 << 30;

/// Room that a step takes on a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Where.
    pub storage: StorageId,
    /// At most so many bytes.
    pub bytes: u64,
}

/// The guest that has to be read before [`admit`] can judge: the one that changes, of a clone its template.
pub fn subject(step: &Step) -> Option<(GuestKind, Vmid)> {
    match step {
        Step::CreateFromTemplate(new) => match &new.template {
            Pin::Guest { vmid, .. } => Some((new.kind, *vmid)),
            Pin::Archive { .. } => None,
        },
        _ => step.guest().map(|guest| (guest.kind, guest.vmid)),
    }
}

/// Whether the bounds allow the step on the guest as it is, whatever happened before. `seen` is the guest of
/// [`subject`].
///
/// # Errors
/// `bounds` with the rule, or what the world says against it: `guest_identity`, `busy`, `precondition`.
pub fn admit(step: &Step, limits: &Limits<'_>, seen: Option<&Observed>) -> Result<Effect, Refused> {
    limits.allow_field(step.field())?;
    if let Some(vmid) = step.vmid() {
        limits.allow_guest(vmid)?;
    }
    let Some(meant) = step.guest() else {
        return match step {
            Step::CreateFromTemplate(new) => create(new, limits, seen),
            Step::TemplateDownload { storage, template, sha256 } => {
                limits.download(storage, template, sha256)?;
                Ok(added(Field::Templates))
            }
            _ => Err(unread()),
        };
    };
    let seen = seen.ok_or_else(unread)?;
    let now = seen.guest_now();
    world::guest(meant, &now)?;
    if step.digest().is_some_and(|digest| digest != seen.digest) {
        return Err(wrong(
            "the guest's configuration changed since the step was planned: it will be planned again".into(),
        ));
    }
    let replaced = |field| Effect { field, direction: Direction::Set, from: 0, to: 0 };
    match step {
        Step::Start { .. } => {
            startable(&now)?;
            Ok(Effect { field: Field::Power, direction: Direction::Up, from: 0, to: 1 })
        }
        Step::SetTags { .. } => Ok(replaced(Field::Tags)),
        Step::SnapshotCreate { snapshot, .. } => {
            snapshot_free(snapshot, &now)?;
            let most = limits.snapshots_per_guest();
            if seen.snapshots.len() as u64 >= most.value {
                return Err(bound(format!(
                    "guest {} has {} snapshots, which is all that may be there: delete one first ({most})",
                    meant.vmid,
                    seen.snapshots.len(),
                )));
            }
            Ok(added(Field::Snapshots))
        }
        Step::Grow { disk, volume, size, .. } => {
            no_template(seen)?;
            let Disk { volume: there, size: from } = guest::disk(&seen.config, disk).map_err(wrong)?;
            if there != volume.as_str() {
                return Err(wrong(format!("{disk} is {there} now, not {volume}: it may be another disk")));
            }
            grow(from, size.get(), &limits.grow_step()?)
        }
        Step::SetCores { cores, .. } => {
            no_template(seen)?;
            let (from, sockets) = guest::cores(seen.kind, &seen.config).map_err(wrong)?;
            amount(Field::Cores, from, cores.get(), sockets, limits)
        }
        Step::SetMemory { memory_mib, .. } => {
            no_template(seen)?;
            let from = guest::memory_mib(&seen.config).map_err(wrong)?;
            amount(Field::Memory, from, memory_mib.get(), 1, limits)
        }
        Step::SetOnboot { onboot, .. } => {
            no_template(seen)?;
            let from = guest::onboot(&seen.config).map_err(wrong)?;
            if from == *onboot {
                return Err(already("onboot"));
            }
            limits.switch_onboot(*onboot)?;
            let direction = if *onboot { Direction::Up } else { Direction::Down };
            Ok(Effect { field: Field::Onboot, direction, from: from.into(), to: (*onboot).into() })
        }
        Step::SetDescription { description, .. } => {
            no_template(seen)?;
            if guest::description(&seen.config) == description.as_str() {
                return Err(already("the description"));
            }
            Ok(replaced(Field::Description))
        }
        Step::Backup { storage, .. } => {
            limits.backup_to(storage)?;
            if seen.state == RunState::Unknown {
                return Err(wrong(
                    "whether the guest runs is unknown, so nobody can say how to back it up".into(),
                ));
            }
            Ok(added(Field::Backups))
        }
        Step::TemplateDownload { .. } | Step::CreateFromTemplate(_) => Err(unread()),
    }
}

/// Whether what was begun before leaves room for one more. `now` is [`History`]'s own time ([`Clock`]);
/// `guests_on_host` counts all guests of this host, as they were just listed.
///
/// # Errors
/// `rate`, with the rule.
pub fn rates(
    vmid: Option<Vmid>,
    effect: &Effect,
    limits: &Limits<'_>,
    history: &History,
    guests_on_host: u64,
    now: u64,
) -> Result<(), Refused> {
    let hour = history.last_hour(now).count() as u64;
    full(hour, &limits.changes_per_hour(), "unsigned changes were begun within the hour")?;
    if let Some(vmid) = vmid {
        let touched = history.others(vmid, history.last_hour(now));
        full(touched, &limits.guests_per_hour(), "other guests were touched within the hour")?;
        if effect.field.changes_guest() {
            let changes = history.last_day(now).filter(|entry| entry.effect.field.changes_guest());
            let changed = history.others(vmid, changes);
            full(
                changed,
                &limits.guests_per_day(guests_on_host),
                "other guests were changed within 24 hours",
            )?;
        }
        let flips = history.flips_with(vmid, effect, now);
        let breaker = limits.flips_per_hour();
        if flips >= breaker.value {
            return Err((
                RefusalCode::Rate,
                format!(
                    "this would be reversal number {flips} of the {} of guest {vmid} within the hour: somebody or \
                     something changes it back each time; find out who before it is changed again ({breaker})",
                    effect.field
                ),
            ));
        }
    }
    match (effect.field, vmid) {
        (Field::Disk, Some(vmid)) => {
            let most = limits.grow_day()?;
            let grown = effect.to.saturating_sub(effect.from).saturating_add(history.grown(vmid, now));
            if grown > most.value {
                return Err(over(grown, &most, "bytes would be added to this guest's disks within 24 hours"));
            }
            Ok(())
        }
        (Field::Cores | Field::Memory, Some(vmid)) => {
            // Many small steps must not add up to a large one.
            for before in history.amounts_before(vmid, effect.field, now) {
                limits
                    .percent(effect.field, before, effect.to, "within 24 hours")
                    .map_err(|(_, why)| (RefusalCode::Rate, why))?;
            }
            Ok(())
        }
        (Field::Backups, Some(vmid)) => {
            let taken = history.of_guest(vmid, Field::Backups, now);
            full(taken, &limits.backups_per_day()?, "backups of this guest were begun within 24 hours")
        }
        (Field::Templates, _) => {
            let count = history.of_field(Field::Templates, now);
            full(count, &limits.downloads_per_day()?, "downloads were begun within 24 hours")
        }
        (Field::Guests, _) => {
            let count = history.of_field(Field::Guests, now);
            full(count, &limits.created_per_day()?, "guests were made within 24 hours")
        }
        _ => Ok(()),
    }
}

/// [`admit`], then [`rates`]: the whole guard.
///
/// # Errors
/// Theirs.
pub fn check(
    step: &Step,
    limits: &Limits<'_>,
    seen: Option<&Observed>,
    history: &History,
    guests_on_host: u64,
    now: u64,
) -> Result<Effect, Refused> {
    let effect = admit(step, limits, seen)?;
    rates(step.vmid(), &effect, limits, history, guests_on_host, now)?;
    Ok(effect)
}

/// The room that an admitted step takes, for the space guard; what nobody knows is an upper bound. None where
/// it takes none. A snapshot takes room on every storage of its guest, and nobody knows how much.
///
/// # Errors
/// `space`, where a size cannot be read.
pub fn room(step: &Step, seen: Option<&Observed>) -> Result<Option<Room>, Refused> {
    let all_disks = |seen: Option<&Observed>| {
        let seen = seen.ok_or_else(unread)?;
        guest::all_disks(&seen.config).map_err(|why| {
            (RefusalCode::Space, format!("{why}, so nobody can say that there is room: not done"))
        })
    };
    Ok(match step {
        Step::Grow { disk, volume, size, .. } => {
            let Disk { size: from, .. } =
                guest::disk(&seen.ok_or_else(unread)?.config, disk).map_err(wrong)?;
            Some(Room { storage: volume.storage(), bytes: size.get().saturating_sub(from) })
        }
        // Compressed and deduplicated it is less; a full backup storage is worse.
        Step::Backup { storage, .. } => Some(Room { storage: storage.clone(), bytes: all_disks(seen)? }),
        Step::TemplateDownload { storage, .. } => {
            Some(Room { storage: storage.clone(), bytes: TEMPLATE_BYTES })
        }
        Step::CreateFromTemplate(new) => {
            let bytes = match new.disk {
                Some(size) => size.get(),
                None => all_disks(seen)?,
            };
            Some(Room { storage: new.storage.clone(), bytes })
        }
        Step::Start { .. }
        | Step::SetTags { .. }
        | Step::SnapshotCreate { .. }
        | Step::SetCores { .. }
        | Step::SetMemory { .. }
        | Step::SetOnboot { .. }
        | Step::SetDescription { .. } => None,
    })
}

fn create(new: &NewGuest, limits: &Limits<'_>, seen: Option<&Observed>) -> Result<Effect, Refused> {
    limits.create(new)?;
    match &new.template {
        Pin::Archive { .. } => {
            if new.kind != GuestKind::Lxc || new.disk.is_none() {
                return Err(wrong(
                    "a container template makes a container, and the step has to say how large its disk is"
                        .into(),
                ));
            }
        }
        Pin::Guest { vmid, digest } => {
            let seen = seen.ok_or_else(unread)?;
            if !seen.template || seen.kind != new.kind || seen.digest != digest.as_str() {
                return Err(bound(format!(
                    "guest {vmid} is not the {} template that was pinned: it changed, or is another one \
                     (rule bounds.fields.create.templates of the policy)",
                    new.kind
                )));
            }
            if seen.lock.is_some() || !seen.consistent {
                return Err((
                    RefusalCode::Busy,
                    format!("template {vmid} is locked or changes: wait for that"),
                ));
            }
            if new.disk.is_some() {
                return Err(wrong("a clone is as large as its template: grow it afterwards".into()));
            }
        }
    }
    Ok(added(Field::Guests))
}

fn grow(from: u64, to: u64, most: &Limit) -> Result<Effect, Refused> {
    let Some(more) = to.checked_sub(from).filter(|more| *more > 0) else {
        return Err(bound(format!(
            "the disk has {from} bytes and would have {to}: without a signature disks only grow (rule: no shrinking)"
        )));
    };
    if more > most.value {
        return Err(over_bound(more, most, "bytes would be added in one step"));
    }
    Ok(Effect { field: Field::Disk, direction: Direction::Up, from, to })
}

/// `times` is what one of it counts: cores are per socket.
fn amount(field: Field, from: u32, to: u32, times: u32, limits: &Limits<'_>) -> Result<Effect, Refused> {
    let (from, to) = (u64::from(from), u64::from(to));
    if from == to {
        return Err(already(field.as_str()));
    }
    limits.percent(field, from, to, "now")?;
    limits.absolute(field, to.saturating_mul(times.into()), from > to)?;
    let direction = if to > from { Direction::Up } else { Direction::Down };
    Ok(Effect { field, direction, from, to })
}

const fn added(field: Field) -> Effect {
    Effect { field, direction: Direction::Add, from: 0, to: 0 }
}

fn full(count: u64, most: &Limit, what: &str) -> Result<(), Refused> {
    if count >= most.value { Err(over(count, most, what)) } else { Ok(()) }
}

fn over(count: u64, most: &Limit, what: &str) -> Refused {
    (
        RefusalCode::Rate,
        format!("{count} {what}, and {} are allowed: wait, or sign an order ({most})", most.value),
    )
}

fn over_bound(count: u64, most: &Limit, what: &str) -> Refused {
    bound(format!("{count} {what}, and {} are allowed: sign an order for more ({most})", most.value))
}

fn bound(why: String) -> Refused {
    (RefusalCode::Bounds, why)
}

fn wrong(why: String) -> Refused {
    (RefusalCode::Precondition, why)
}

fn already(what: &str) -> Refused {
    wrong(format!("{what} is so already: there is nothing to do"))
}

fn no_template(seen: &Observed) -> Result<(), Refused> {
    if seen.template {
        return Err(bound(
            "the guest is a template, and what is made from it would change: sign an order (rule: templates stay)"
                .into(),
        ));
    }
    Ok(())
}

/// A caller's mistake; said like everything else, and refused.
fn unread() -> Refused {
    wrong("the guest that the step is about was not read".into())
}

#[cfg(test)]
mod tests;
