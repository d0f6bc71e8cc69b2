//! Who descends from whom, read from /proc, and killing all of it.
//!
//! A process is known by its number **and** the moment it was started: numbers are used again, and nothing
//! is ever sent a signal by its number alone. Parentage is what a job cannot shake off: the supervisor is a
//! subreaper, so whatever loses its parent below it becomes its child, whichever session, process group or
//! cgroup it has moved to.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

/// After so long the engine says that something would not die.
pub const KILL_WITHIN: Duration = Duration::from_secs(10);
/// Most process numbers that are named as survivors.
const NAMED: usize = 16;
/// Between two looks at what is dying.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// One process, not to be confused with a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawProcessId", into = "RawProcessId")]
pub struct ProcessId {
    pid: i32,
    start: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProcessId {
    pid: i32,
    start: u64,
}

impl TryFrom<RawProcessId> for ProcessId {
    type Error = &'static str;
    fn try_from(raw: RawProcessId) -> Result<Self, &'static str> {
        // 0 and below mean groups to kill(2), and 1 is init.
        if raw.pid > 1 {
            Ok(Self { pid: raw.pid, start: raw.start })
        } else {
            Err("a process number is at least 2")
        }
    }
}

impl From<ProcessId> for RawProcessId {
    fn from(id: ProcessId) -> Self {
        Self { pid: id.pid, start: id.start }
    }
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| stat.id)
    }

    /// Its number.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// When it was started: clock ticks after boot (proc(5), field 22 of `stat`).
    pub fn start(self) -> u64 {
        self.start
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.id == self && stat.alive)
    }

    /// Sends a signal to exactly this process. `Ok(false)`: it is gone.
    pub(crate) fn signal(self, signal: Signal) -> Result<bool, Errno> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(false),
            Err(error) => return Err(error),
        };
        // The handle holds whoever has the number now; only then is it worth comparing.
        if Stat::read(self.pid).is_none_or(|stat| stat.id != self) {
            return Ok(false);
        }
        match rustix::process::pidfd_send_signal(handle.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What /proc says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stat {
    pub(crate) id: ProcessId,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) alive: bool,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// This process. Its session and its group are 0 where they were opened outside its pid namespace
    /// (getsid(2) says 0 there as well, which a type that holds process numbers cannot).
    fn own() -> io::Result<Self> {
        let me = rustix::process::getpid().as_raw_pid();
        Self::read(me).ok_or_else(|| io::Error::other("/proc does not show this process"))
    }

    /// proc(5). The name in parentheses is chosen by the process and may contain anything.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|b| *b == b'(')?;
        let close = text.iter().rposition(|b| *b == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let rest: Vec<&str> =
            std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
        let number = |field: usize| rest.get(field - 3)?.parse::<i64>().ok();
        // A process whose first thread has ended looks like a zombie while its other threads run on.
        let alive = !matches!(*rest.first()?, "Z" | "X" | "x") || number(20)? > 1;
        Some(Self {
            id: ProcessId { pid, start: rest.get(22 - 3)?.parse().ok()? },
            parent: i32::try_from(number(4)?).ok()?,
            group: i32::try_from(number(5)?).ok()?,
            session: i32::try_from(number(6)?).ok()?,
            alive,
        })
    }
}

/// Everybody whom /proc shows.
pub(crate) fn everybody() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(pid.and_then(Stat::read));
    }
    Ok(found)
}

/// The roots among `all`, and all their descendants.
pub(crate) fn with_descendants(all: &[Stat], root: impl Fn(&Stat) -> bool) -> Vec<Stat> {
    let mut children: BTreeMap<i32, Vec<&Stat>> = BTreeMap::new();
    for stat in all {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut open: Vec<&Stat> = all.iter().filter(|stat| root(stat)).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(stat) = open.pop() {
        if seen.insert(stat.id.pid) {
            found.push(*stat);
            open.extend(children.get(&stat.id.pid).into_iter().flatten());
        }
    }
    found
}

/// This process, its parents up to the first, and init: whom nobody here ever kills.
pub(crate) fn line_of(all: &[Stat], pid: i32) -> BTreeSet<i32> {
    let mut line = BTreeSet::from([0, 1]);
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| line.insert(*pid)) {
        next = all.iter().find(|stat| stat.id.pid == pid).map(|stat| stat.parent);
    }
    line
}

/// What killing came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Killed {
    /// So many processes were killed.
    pub killed: u32,
    /// Some of those (process numbers) that were still alive after [`KILL_WITHIN`]. Empty is what one wants.
    pub survivors: Vec<i32>,
}

/// What is to be killed and how to wait, for [`kill_all`].
pub(crate) trait Prey {
    /// Who is there now, zombies left out.
    fn find(&mut self) -> io::Result<Vec<Stat>>;
    /// A blow that reaches many at once, if there is one.
    fn strike(&mut self) {}
    /// Whether everybody in their process groups is of them.
    fn groups_are_ours(&self) -> bool {
        true
    }
    /// Whether killing this one is worth a number in [`Killed`].
    fn counts(&self, _: ProcessId) -> bool {
        true
    }
    /// Waits a little, and buries the dead where that is ours to do.
    fn pause(&mut self, time: Duration);
}

/// Kills until nobody is left.
///
/// What forks faster than one can look is met three ways: by the cgroup, where there is one; by killing whole
/// process groups, which the kernel does under the lock that fork takes, so that no child slips away; and
/// by stopping the rest, again and again until a look finds nobody new, before killing it: what is
/// stopped cannot fork.
pub(crate) fn kill_all(prey: &mut dyn Prey, within: Duration) -> Killed {
    let deadline = boottime() + within;
    let own_group = Stat::own().map_or(0, |own| own.group);
    let mut hit: HashSet<ProcessId> = HashSet::new();
    loop {
        let mut frozen: HashSet<ProcessId> = HashSet::new();
        let mut there = prey.find().unwrap_or_default();
        if there.is_empty() {
            return Killed { killed: count(hit.len()), survivors: Vec::new() };
        }
        while boottime() < deadline {
            prey.strike();
            let mut groups = BTreeSet::from([own_group]);
            let mut anybody_new = false;
            for stat in &there {
                if frozen.insert(stat.id) {
                    anybody_new = true;
                    // Whom we may not signal shows up among the survivors.
                    let _ = stat.id.signal(Signal::STOP);
                }
                if prey.groups_are_ours() && groups.insert(stat.group) {
                    kill_group_of(stat);
                }
            }
            if !anybody_new {
                break;
            }
            there = prey.find().unwrap_or_default();
        }
        for id in frozen {
            if id.signal(Signal::KILL).is_ok() && prey.counts(id) {
                hit.insert(id);
            }
        }
        prey.pause(LOOK_AGAIN);
        if boottime() >= deadline {
            let mut survivors: Vec<i32> =
                prey.find().unwrap_or_default().into_iter().map(|stat| stat.id.pid).collect();
            survivors.truncate(NAMED);
            return Killed { killed: count(hit.len()), survivors };
        }
    }
}

/// Of somebody who has just been stopped: as long as that one is in it, the group's number is no one else's.
fn kill_group_of(stat: &Stat) {
    let still = Stat::read(stat.id.pid).is_some_and(|now| now.id == stat.id && now.group == stat.group);
    if let (true, Some(group)) = (still && stat.group > 1, Pid::from_raw(stat.group)) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Makes this process the one that orphans below it fall to. The server calls it once, before it starts
/// anything: it is what makes a killed supervisor's processes findable ([`kill_orphans`]).
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Supervisors that this process has started and not yet waited for. Of the process, not of an engine:
/// so are its children.
static SUPERVISORS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

pub(crate) fn supervisors() -> MutexGuard<'static, BTreeSet<i32>> {
    SUPERVISORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills what fell to this process because a supervisor was killed. Blocks, at most [`KILL_WITHIN`].
///
/// An orphan is a child of this process in another session that is no supervisor: each supervisor opens a
/// session, and no process can ever join another one, so nothing that a supervisor started can be in
/// ours, and what this process starts otherwise is, as long as it does not call setsid(2).
pub fn kill_orphans() -> Killed {
    kill_all(&mut Orphans, KILL_WITHIN)
}

struct Orphans;

impl Prey for Orphans {
    fn find(&mut self) -> io::Result<Vec<Stat>> {
        let me = rustix::process::getpid().as_raw_pid();
        let session = Stat::own()?.session;
        // Held while looking, so that no supervisor can appear that is not yet listed.
        let ours = supervisors();
        let all = everybody()?;
        let orphan =
            |stat: &Stat| stat.parent == me && stat.session != session && !ours.contains(&stat.id.pid);
        let found = with_descendants(&all, orphan);
        drop(ours);
        for stat in &found {
            if stat.parent == me && !stat.alive {
                bury(stat.id.pid);
            }
        }
        Ok(found.into_iter().filter(|stat| stat.alive).collect())
    }

    fn pause(&mut self, time: Duration) {
        pause(time);
    }
}

fn bury(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Somebody else may have been faster; then there is nothing to do.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Lets time pass without a signal or a descriptor to wait for.
pub(crate) fn pause(time: Duration) {
    let _ = rustix::event::poll(&mut [], Some(&timespec(time)));
}

/// Time since boot, with the time asleep in it: a limit on a session must not stop when the host does.
pub(crate) fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The same as /proc counts it: what is started from now on has no smaller [`ProcessId::start`].
pub(crate) fn ticks() -> u64 {
    let a_second = u128::from(rustix::param::clock_ticks_per_second());
    u64::try_from(boottime().as_nanos() * a_second / 1_000_000_000).unwrap_or(u64::MAX)
}

pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests;
