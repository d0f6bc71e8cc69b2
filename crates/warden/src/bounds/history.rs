//! What was begun without a signature, as the log says, and the time by which it is counted.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use authz::Event;
use protocol::Vmid;
use protocol::plan::{Direction, Effect, Field};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// The guard's own time. It begins where clock or log are further and then runs by the time that passes, so
/// whoever turns the host's clock forth or back makes nothing older and nothing forgotten. What it cannot see
/// is a clock that was turned forth while the warden did not run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: u64,
    since: Duration,
}

impl Clock {
    /// Begins: `wall` and the last time in the log, unix seconds; `monotonic` from any fixed moment on.
    pub fn new(wall: u64, last_in_log: u64, monotonic: Duration) -> Self {
        Self { base: wall.max(last_in_log), since: monotonic }
    }

    /// The time now.
    pub fn at(&self, monotonic: Duration) -> u64 {
        self.base.saturating_add(monotonic.saturating_sub(self.since).as_secs())
    }
}

/// One step that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) at: u64,
    pub(super) vmid: Option<Vmid>,
    pub(super) effect: Effect,
}

/// Unsigned steps of the last 24 hours, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    begun: VecDeque<Begun>,
    last: u64,
}

impl History {
    /// The next entry of the log, at the time that it gives or, of the running warden, at [`Clock::at`]. An
    /// entry that claims to be older than the one before it is as old as that one.
    pub fn visit(&mut self, event: &Event, at: u64) {
        self.last = self.last.max(at);
        let Event::StepStarted { kind, vmid, effect, .. } = event else {
            return;
        };
        // Entries of before the effect was written down: there were three kinds then.
        let before = || {
            let (field, direction) = match kind.as_str() {
                "guest.start" => (Field::Power, Direction::Up),
                "snapshot.create" => (Field::Snapshots, Direction::Add),
                _ => (Field::Tags, Direction::Set),
            };
            Effect { field, direction, from: 0, to: 0 }
        };
        self.begun.push_back(Begun { at: self.last, vmid: *vmid, effect: effect.unwrap_or_else(before) });
        while self.begun.front().is_some_and(|oldest| self.last - oldest.at >= DAY) {
            self.begun.pop_front();
        }
    }

    /// The latest time that any entry of the log had.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn last_hour(&self, now: u64) -> impl Iterator<Item = &Begun> {
        self.begun.iter().filter(move |begun| now.saturating_sub(begun.at) < HOUR)
    }

    pub(super) fn last_day(&self, now: u64) -> impl Iterator<Item = &Begun> {
        self.begun.iter().filter(move |begun| now.saturating_sub(begun.at) < DAY)
    }

    /// How many guests but this one are among these. That this one is among them too is no excuse: after a
    /// clock was turned back, entries can seem younger than they are, and then there are more than ever were.
    pub(super) fn others<'a>(&self, vmid: Vmid, entries: impl Iterator<Item = &'a Begun>) -> u64 {
        let others: BTreeSet<Vmid> =
            entries.filter_map(|begun| begun.vmid).filter(|other| *other != vmid).collect();
        others.len() as u64
    }

    /// Steps of one field of a guest within 24 hours.
    pub(super) fn of_guest(&self, vmid: Vmid, field: Field, now: u64) -> u64 {
        self.field_of(vmid, field, now).count() as u64
    }

    /// Steps of one field within 24 hours.
    pub(super) fn of_field(&self, field: Field, now: u64) -> u64 {
        self.last_day(now).filter(|begun| begun.effect.field == field).count() as u64
    }

    /// Bytes that were added to a guest's disks within 24 hours.
    pub(super) fn grown(&self, vmid: Vmid, now: u64) -> u64 {
        self.field_of(vmid, Field::Disk, now)
            .map(|begun| begun.effect.to.saturating_sub(begun.effect.from))
            .fold(0, u64::saturating_add)
    }

    /// What an amount was before each step of the last 24 hours.
    pub(super) fn amounts_before(&self, vmid: Vmid, field: Field, now: u64) -> impl Iterator<Item = u64> {
        self.field_of(vmid, field, now).map(|begun| begun.effect.from)
    }

    fn field_of(&self, vmid: Vmid, field: Field, now: u64) -> impl Iterator<Item = &Begun> {
        self.last_day(now).filter(move |begun| begun.vmid == Some(vmid) && begun.effect.field == field)
    }

    /// How many reversals of this field of this guest there would be within the hour with this step; 0 where
    /// the step is none. An amount is reversed when it goes the other way than before; what has only positions
    /// (running, onboot, tags, description) by each further change within the hour, since somebody else must
    /// have changed it back or the last one was not meant.
    pub(super) fn flips_with(&self, vmid: Vmid, effect: &Effect, now: u64) -> u64 {
        let by_direction = match effect.field {
            Field::Cores | Field::Memory => true,
            Field::Power | Field::Tags | Field::Onboot | Field::Description => false,
            Field::Snapshots | Field::Disk | Field::Backups | Field::Templates | Field::Guests => return 0,
        };
        let steps: Vec<(u64, Direction)> = self
            .field_of(vmid, effect.field, now)
            .map(|begun| (begun.at, begun.effect.direction))
            .chain([(now, effect.direction)])
            .collect();
        let flips: Vec<bool> = steps
            .windows(2)
            .map(|pair| {
                let [(before, was), (after, is)] = pair else { return false };
                now.saturating_sub(*after) < HOUR
                    && after.saturating_sub(*before) < HOUR
                    && (!by_direction || was != is)
            })
            .collect();
        if flips.last() == Some(&true) { flips.iter().filter(|flip| **flip).count() as u64 } else { 0 }
    }
}
