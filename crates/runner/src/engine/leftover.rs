//! What a crash of the runner may have left running.

use std::collections::BTreeSet;
use std::fs;
use std::io;
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
/// that is not of it: numbers count only together with the time of their start and the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leftover {
    pub(crate) token: Token,
    pub(crate) boot: BootId,
    pub(crate) supervisor: ProcessId,
    pub(crate) main: ProcessId,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) dir: Option<PathBuf>,
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
    /// what lives in the cgroup, and what has inherited the mark: children of an interpreter hold the script
    /// open, those of a session have its token in their environment.
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
        let mut remains = Remains { leftover: self, cgroup };
        tree::kill_all(&mut remains, KILL_WITHIN)
    }

    fn known_alive(&self) -> Vec<i32> {
        [self.supervisor, self.main].into_iter().filter(|id| id.is_alive()).map(ProcessId::pid).collect()
    }
}

struct Remains<'a> {
    leftover: &'a Leftover,
    cgroup: Option<Cgroup>,
}

impl Prey for Remains<'_> {
    fn find(&mut self) -> io::Result<Vec<Stat>> {
        let own = rustix::process::getpid().as_raw_pid();
        let all = tree::everybody()?;
        let marked: BTreeSet<i32> =
            all.iter().map(|stat| stat.id.pid()).filter(|pid| marked(*pid, &self.leftover.token)).collect();
        let known = [self.leftover.supervisor, self.leftover.main];
        let found = tree::with_descendants(&all, |stat| {
            known.contains(&stat.id) || (marked.contains(&stat.id.pid()) && stat.id.pid() != own)
        });
        let mut found: Vec<Stat> = found.into_iter().filter(|stat| stat.alive).collect();
        found.extend(self.cgroup.iter().flat_map(Cgroup::members));
        found.retain(|stat| stat.id.pid() != own);
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
    let script = format!("/memfd:{} (deleted)", memfd_name(token));
    let session = session_mark(token.as_str());
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|b| *b == 0).any(|variable| variable == session.as_bytes())
        || fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.as_os_str() == script.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> ProcessId {
        ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    fn leftover(id: ProcessId, boot: &str) -> Leftover {
        Leftover {
            token: Token::random().unwrap(),
            boot: BootId(boot.into()),
            supervisor: id,
            main: id,
            cgroup: None,
            dir: None,
        }
    }

    #[test]
    fn a_used_number_is_not_enough() {
        // This process has the number, but was not started then, or not in that boot: surviving this is the test.
        let boot = BootId::current().unwrap();
        let text = format!(r#"{{"pid":{},"start":{}}}"#, me().pid(), me().start() + 1);
        let other: ProcessId = serde_json::from_str(&text).unwrap();
        assert_eq!(leftover(other, &boot.0).kill(), Killed::default());
        let earlier = "00000000-0000-0000-0000-000000000000";
        assert_eq!(leftover(me(), earlier).kill(), Killed::default());
    }

    #[test]
    fn hostile_state_files_are_refused() {
        let boot = BootId::current().unwrap();
        let good = serde_json::to_value(leftover(me(), &boot.0)).unwrap();
        assert!(serde_json::from_value::<Leftover>(good.clone()).is_ok());
        for (field, bad) in [
            ("token", serde_json::json!("../../etc")),
            ("token", serde_json::json!("ABCDEF0123456789abcdef0123456789")),
            ("boot", serde_json::json!("")),
            ("boot", serde_json::json!("00000000-0000-0000-0000-00000000000\n")),
            ("supervisor", serde_json::json!({"pid": -1, "start": 5})),
            ("supervisor", serde_json::json!({"pid": 0, "start": 5})),
            ("main", serde_json::json!({"pid": 1, "start": 5})),
            ("main", serde_json::json!({"pid": 4294967297u64, "start": 5})),
            ("main", serde_json::json!({"pid": 7})),
            ("main", serde_json::json!({"pid": 7, "start": 5, "more": 1})),
            ("cgroup", serde_json::json!(7)),
            ("more", serde_json::json!(1)),
        ] {
            let mut value = good.clone();
            value[field] = bad;
            assert!(serde_json::from_value::<Leftover>(value.clone()).is_err(), "{value}");
        }
    }
}
