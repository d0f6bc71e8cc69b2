//! What a crash of the runner may have left running.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::dir::SessionDir;
use super::tree::{self, KILL_WITHIN, Killed, Prey, ProcessId, Stat, boottime};
use super::wire::Token;

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Enough to find a job or a session again, for the runner's state directory. It never leads to a process
/// that is not of it: numbers count only together with the time of their start and the boot, and marks,
/// which can be handed on, only where whoever carries one can be of it ([`Marks`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leftover {
    pub(crate) token: Token,
    pub(crate) boot: BootId,
    pub(crate) supervisor: ProcessId,
    pub(crate) main: ProcessId,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) dir: Option<PathBuf>,
    /// As whom the job runs or the client logs in.
    pub(crate) uid: u32,
    /// The inode of sshd's end of the client's socket.
    pub(crate) socket: Option<u64>,
}

/// What a session's directory holds before there is a process of it, so that no crash of runner and
/// supervisor leaves one that nobody can find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trace {
    boot: BootId,
    since: u64,
    uid: u32,
    socket: u64,
}

/// One run of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct BootId(String);

impl BootId {
    pub(crate) fn current() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Self::try_from(text.trim().to_owned()).map_err(io::Error::other)
    }
}

impl TryFrom<String> for BootId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        let good = text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if good { Ok(Self(text)) } else { Err("a boot id is a UUID") }
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        id.0
    }
}

impl Leftover {
    /// The supervisor.
    pub fn supervisor(&self) -> ProcessId {
        self.supervisor
    }

    /// The interpreter or sshd.
    pub fn main(&self) -> ProcessId {
        self.main
    }

    /// Kills what is left of it and removes its files. Blocks, twice [`KILL_WITHIN`] at most.
    ///
    /// After a crash of the runner alone there is nothing left: the supervisor saw to it, or is about to, and
    /// is given the time. After one of both, what is found is what descends from the two known processes,
    /// what lives in the cgroup, and what has inherited the mark and is of the user: children of an interpreter
    /// hold the script open, those of a session have its token in their environment.
    pub fn kill(&self) -> Killed {
        let killed = match BootId::current() {
            Ok(boot) if boot == self.boot => self.kill_now(),
            // Whatever it was, it did not survive the reboot.
            Ok(_) => Killed::default(),
            // Not knowing which boot this is, nothing may be killed by number.
            Err(_) => Killed { killed: 0, survivors: self.known_alive() },
        };
        if let Some(dir) = self.dir.as_ref().and_then(|dir| SessionDir::adopt(dir, &self.token)) {
            dir.remove();
        }
        killed
    }

    fn kill_now(&self) -> Killed {
        if self.supervisor.signal(Signal::TERM) == Ok(true) {
            let deadline = boottime() + KILL_WITHIN;
            while self.supervisor.is_alive() && boottime() < deadline {
                tree::pause(LOOK_AGAIN);
            }
        }
        let cgroup = self.cgroup.as_ref().and_then(|dir| Cgroup::adopt(dir, &self.token));
        let Self { token, uid, socket, .. } = self;
        let marks = Marks { token, since: self.supervisor.start(), uid: *uid, socket: *socket };
        let known = vec![self.supervisor, self.main];
        tree::kill_all(&mut Remains { known, marks, cgroup }, KILL_WITHIN)
    }

    fn known_alive(&self) -> Vec<i32> {
        [self.supervisor, self.main].into_iter().filter(|id| id.is_alive()).map(ProcessId::pid).collect()
    }
}

impl Trace {
    /// Of what begins now.
    pub(crate) fn begin(uid: u32, socket: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { boot: BootId::current()?, since: tree::ticks(), uid, socket: inode(socket)? })
    }

    /// Kills what carries the marks of that session, and its sshd. Blocks, [`KILL_WITHIN`] at most.
    pub(crate) fn kill(&self, token: &Token) -> Killed {
        // Not knowing which boot this is, nothing may be killed; and nothing survives a reboot.
        if BootId::current().ok().as_ref() != Some(&self.boot) {
            return Killed::default();
        }
        let marks = Marks { token, since: self.since, uid: self.uid, socket: Some(self.socket) };
        let cgroup = Cgroup::find(token);
        tree::kill_all(&mut Remains { known: Vec::new(), marks, cgroup }, KILL_WITHIN)
    }
}

/// What tells processes that nobody knows by number. None of it is proof, because a mark can be handed on:
/// a script can pass its descriptor to any daemon that takes one. So whoever carries one counts only if it was
/// started since and is the user's own, and its children count only by marks of their own.
struct Marks<'a> {
    token: &'a Token,
    /// Clock ticks after boot; nothing of it is older.
    since: u64,
    uid: u32,
    socket: Option<u64>,
}

impl Marks<'_> {
    fn on(&self, stat: &Stat) -> bool {
        let pid = stat.id.pid();
        stat.id.start() >= self.since
            && (self.of_the_user(pid) && marked(pid, self.token) || self.is_sshd(pid))
    }

    /// What root runs becomes whoever it likes.
    fn of_the_user(&self, pid: i32) -> bool {
        self.uid == 0 || real_uid(pid) == Some(self.uid)
    }

    /// sshd overwrites its command line and environment, and is root, the user, or nobody in turn. What it
    /// keeps is the client's socket, which nothing else ever gets.
    fn is_sshd(&self, pid: i32) -> bool {
        let Some(socket) = self.socket else { return false };
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = program.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("sshd")) && holds(pid, &format!("socket:[{socket}]"))
    }
}

fn real_uid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The number that /proc shows for a socket.
pub(crate) fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

struct Remains<'a> {
    known: Vec<ProcessId>,
    marks: Marks<'a>,
    cgroup: Option<Cgroup>,
}

impl Prey for Remains<'_> {
    fn find(&mut self) -> io::Result<Vec<Stat>> {
        let all = tree::everybody()?;
        let spared = tree::line_of(&all, rustix::process::getpid().as_raw_pid());
        let members: Vec<Stat> = self.cgroup.iter().flat_map(Cgroup::members).collect();
        let known = |stat: &Stat| self.known.contains(&stat.id) || members.iter().any(|m| m.id == stat.id);
        let mut found = tree::with_descendants(&all, |stat| known(stat) && !spared.contains(&stat.id.pid()));
        found.extend(all.iter().filter(|stat| stat.alive && self.marks.on(stat)));
        found.retain(|stat| stat.alive && !spared.contains(&stat.id.pid()));
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Whoever was handed the mark by somebody else may be in any group.
    fn groups_are_ours(&self) -> bool {
        false
    }

    fn strike(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    fn pause(&mut self, time: Duration) {
        tree::pause(time);
    }
}

/// The name of a job's script, as memfd_create(2) takes it.
pub(crate) fn memfd_name(token: &Token) -> String {
    format!("writ-{}", token.as_str())
}

/// A session's mark, as environ(7) has it.
pub(crate) fn session_mark(token: &str) -> String {
    format!("WRIT_SESSION={token}")
}

fn marked(pid: i32, token: &Token) -> bool {
    let session = session_mark(token.as_str());
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|b| *b == 0).any(|variable| variable == session.as_bytes())
        || holds(pid, &format!("/memfd:{} (deleted)", memfd_name(token)))
}

/// Whether one of its descriptors is of this, as /proc names it.
fn holds(pid: i32, what: &str) -> bool {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.as_os_str() == what)
}

#[cfg(test)]
mod tests;
