//! Tasks: UPIDs, logs, lists.

pub(in crate::world) mod effects;
pub(in crate::world) mod faults;
pub(in crate::world) mod jobs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{AuthId, Fault, Injection, Job, Mishap, Now, World};

/// A task's identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upid {
    /// The node it runs on.
    pub node: String,
    /// Process id of the worker.
    pub pid: u32,
    /// Start of the worker in jiffies since the node's boot.
    pub pstart: u64,
    /// Start in seconds since 1970.
    pub starttime: i64,
    /// Type, such as `qmsnapshot`.
    pub kind: String,
    /// What it works on; the VMID for guest tasks.
    pub id: String,
    /// Who started it.
    pub user: AuthId,
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UPID:{}:{:08X}:{:08X}:{:08X}:{}:{}:{}:",
            self.node, self.pid, self.pstart, self.starttime, self.kind, self.id, self.user
        )
    }
}

impl Upid {
    /// Reads a UPID; `None` when the text is not one.
    pub fn parse(text: &str) -> Option<Upid> {
        let rest = text.strip_prefix("UPID:")?.strip_suffix(':')?;
        let parts: Vec<&str> = rest.split(':').collect();
        let [node, pid, pstart, starttime, kind, id, user] = parts.as_slice() else {
            return None;
        };
        let hex = |t: &str, most: usize| -> Option<u64> {
            let fits = (8..=most).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(t, 16).ok())?
        };
        let clean = |t: &str| !t.contains(|c: char| c == '/' || c.is_whitespace());
        let node_ok = node.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !node.is_empty()
            && !node.starts_with('-')
            && !node.ends_with('-');
        let texts_ok = !kind.is_empty() && !user.is_empty() && clean(kind) && clean(id) && clean(user);
        if !node_ok || !texts_ok {
            return None;
        }
        Some(Upid {
            node: (*node).to_owned(),
            pid: u32::try_from(hex(pid, 8)?).ok()?,
            pstart: hex(pstart, 9)?,
            starttime: i64::try_from(hex(starttime, 8)?).ok()?,
            kind: (*kind).to_owned(),
            id: (*id).to_owned(),
            user: AuthId::parse(user),
        })
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Without trouble.
    Ok,
    /// Successfully, with this many warnings.
    Warnings(u32),
    /// With this error.
    Error(String),
    /// Killed: the log has no last line.
    Unexpected,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Ok => f.write_str("OK"),
            Exit::Warnings(n) => write!(f, "WARNINGS: {n}"),
            // Proxmox VE keeps one line in its index.
            Exit::Error(text) => f.write_str(&text.replace('\n', " ")),
            Exit::Unexpected => f.write_str("unexpected status"),
        }
    }
}

/// A task, running or finished.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its identifier.
    pub upid: Upid,
    /// What it does.
    pub job: Job,
    /// When the effect is applied, on the monotonic clock.
    pub due: Duration,
    /// Log lines so far.
    pub log: Vec<String>,
    /// How and when it ended; `None` while it runs.
    pub ended: Option<(Exit, i64)>,
    /// A fault ordered for it.
    pub fate: Option<Injection>,
}

impl Task {
    /// Ends the task and writes the last log line.
    pub(in crate::world) fn end(&mut self, exit: Exit, now: Now) {
        match &exit {
            Exit::Ok => self.log.push("TASK OK".to_owned()),
            Exit::Warnings(n) => self.log.push(format!("TASK WARNINGS: {n}")),
            Exit::Error(text) => {
                let lines = format!("TASK ERROR: {text}");
                self.log.extend(lines.lines().map(str::to_owned));
            }
            Exit::Unexpected => {}
        }
        self.ended = Some((exit, now.unix));
    }

    /// `GET …/tasks/UPID/status`.
    pub fn status(&self) -> Value {
        let mut row = self.base();
        row["status"] = json!("running");
        if let Some((exit, _)) = &self.ended {
            row["status"] = json!("stopped");
            row["exitstatus"] = json!(exit.to_string());
        }
        split_user(&mut row, &self.upid.user);
        row
    }

    /// The row of `GET …/tasks`: a running task keeps its owner in one piece.
    pub fn row(&self) -> Value {
        let mut row = self.base();
        match &self.ended {
            None => {
                row["status"] = json!("RUNNING");
                row["saved"] = json!("0");
                row["user"] = json!(self.upid.user.to_string());
            }
            Some((exit, endtime)) => {
                row["status"] = json!(exit.to_string());
                row["endtime"] = json!(endtime);
                split_user(&mut row, &self.upid.user);
            }
        }
        row
    }

    /// The row of `GET /cluster/tasks`; `saved` is a number in the first row only.
    pub fn cluster_row(&self, first: bool) -> Value {
        let mut row = self.base();
        split_user(&mut row, &self.upid.user);
        if let (Some((exit, endtime)), Some(map)) = (&self.ended, row.as_object_mut()) {
            map.insert("status".to_owned(), json!(exit.to_string()));
            map.insert("endtime".to_owned(), json!(endtime));
            map.insert("saved".to_owned(), if first { json!(1) } else { json!("1") });
            map.remove("pid");
        }
        if let Some(map) = row.as_object_mut() {
            map.remove("pstart");
        }
        row
    }

    fn base(&self) -> Value {
        json!({
            "upid": self.upid.to_string(),
            "node": self.upid.node,
            "pid": self.upid.pid,
            "pstart": self.upid.pstart,
            "starttime": self.upid.starttime,
            "type": self.upid.kind,
            "id": self.upid.id,
        })
    }

    /// `ok`, `warning`, `error` or `unknown`, as the list's `statusfilter` names them.
    fn class(&self) -> &'static str {
        match &self.ended {
            Some((Exit::Ok, _)) => "ok",
            Some((Exit::Warnings(_), _)) => "warning",
            Some((Exit::Error(_), _)) => "error",
            Some((Exit::Unexpected, _)) | None => "unknown",
        }
    }
}

fn split_user(row: &mut Value, user: &AuthId) {
    row["user"] = json!(user.user);
    if let Some(token) = &user.token {
        row["tokenid"] = json!(token);
    }
}

/// The filters of `GET …/tasks`.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Include running tasks.
    pub active: bool,
    /// Include finished tasks.
    pub archive: bool,
    /// Only tasks of this owner.
    pub owner: Option<AuthId>,
    /// Part of the owner's name, in any case.
    pub user: Option<String>,
    /// The exact id.
    pub id: Option<String>,
    /// The exact type.
    pub kind: Option<String>,
    /// Earliest start.
    pub since: Option<i64>,
    /// Latest start.
    pub until: Option<i64>,
    /// Only those that did not end well.
    pub errors: bool,
    /// Only these classes (`ok`, `warning`, `error`, `unknown`).
    pub classes: Vec<String>,
}

impl TaskFilter {
    fn matches(&self, task: &Task) -> bool {
        let running = task.ended.is_none();
        let user = task.upid.user.to_string().to_lowercase();
        (if running { self.active } else { self.archive })
            && self.owner.as_ref().is_none_or(|o| *o == task.upid.user)
            && self.user.as_ref().is_none_or(|u| user.contains(&u.to_lowercase()))
            && self.id.as_ref().is_none_or(|id| *id == task.upid.id)
            && self.kind.as_ref().is_none_or(|k| *k == task.upid.kind)
            && self.since.is_none_or(|t| task.upid.starttime >= t)
            && self.until.is_none_or(|t| task.upid.starttime <= t)
            && (!self.errors || task.class() != "ok")
            && (self.classes.is_empty() || self.classes.iter().any(|c| c == task.class()))
    }
}

/// All tasks, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// The tasks in the order of their start.
    pub all: Vec<Task>,
    /// Tasks whose log file is gone although the lists know them.
    pub lost_logs: BTreeSet<String>,
    /// How many more lookups do not find a task although it was started.
    pub late: BTreeMap<String, u32>,
    /// Jiffies that the node has been up for longer than the simulator: after 497 days they need nine
    /// digits in a UPID.
    pub uptime: u64,
    pids: u32,
}

/// What the node's process table starts at, so that pids look like those of a booted machine.
const FIRST_PID: u32 = 1000;
/// Jiffies since the node's boot when the simulator starts.
const FIRST_JIFFY: u64 = 177_036;

impl Tasks {
    /// A process id not given before.
    pub(in crate::world) fn fresh_pid(&mut self) -> u32 {
        self.pids += 1;
        FIRST_PID + self.pids
    }

    /// Jiffies (hundredths of a second) since the node's boot.
    pub(in crate::world) fn jiffies(&self, now: Now) -> u64 {
        FIRST_JIFFY + self.uptime + u64::try_from(now.mono.as_millis() / 10).unwrap_or(u64::MAX / 2)
    }

    /// The task with this UPID.
    pub fn find(&self, upid: &str) -> Option<&Task> {
        let upid = Upid::parse(upid)?;
        self.all.iter().rev().find(|t| t.upid == upid)
    }

    pub(in crate::world) fn find_mut(&mut self, upid: &str) -> Option<&mut Task> {
        let upid = Upid::parse(upid)?;
        self.all.iter_mut().rev().find(|t| t.upid == upid)
    }

    /// The task as a lookup of its status finds it: not while its log file is missing or late.
    pub fn look_up(&mut self, upid: &str) -> Option<&Task> {
        if let Some(left) = self.late.get_mut(upid) {
            *left -= 1;
            if *left == 0 {
                self.late.remove(upid);
            }
            return None;
        }
        self.find(upid).filter(|_| !self.lost_logs.contains(upid))
    }

    /// Forgets a task, as log rotation does; false when it is unknown.
    pub fn lose(&mut self, upid: &str) -> bool {
        let before = self.all.len();
        self.all.retain(|t| t.upid.to_string() != upid);
        self.all.len() != before
    }

    /// The matching tasks: running ones first, then newest first.
    pub fn list(&self, filter: &TaskFilter) -> Vec<&Task> {
        let mut found: Vec<_> = self.all.iter().rev().filter(|t| filter.matches(t)).collect();
        found.sort_by_key(|t| t.ended.is_some());
        found
    }
}

impl World {
    /// Lets something happen to a task that was just begun; false when there is no such task.
    pub fn afflict(&mut self, upid: &str, mishap: &Mishap) -> bool {
        let Some(task) = self.tasks.find_mut(upid) else {
            return false;
        };
        let fault = match mishap {
            Mishap::TaskFail { text, leave_lock } => {
                Fault::Fail { text: text.clone(), leave_lock: *leave_lock }
            }
            Mishap::TaskKill {} => Fault::Kill,
            Mishap::TaskWarn { count } => Fault::Warn(*count),
            Mishap::TaskEndless {} => {
                task.due = Duration::MAX;
                return true;
            }
            Mishap::TaskLate { lookups } => {
                if *lookups > 0 {
                    self.tasks.late.insert(upid.to_owned(), *lookups);
                }
                return true;
            }
            Mishap::TaskLogGone {} => {
                self.tasks.lost_logs.insert(upid.to_owned());
                return true;
            }
            _ => return false,
        };
        task.fate = Some(Injection { task: task.upid.kind.clone(), fault });
        true
    }

    /// The daemon whose children the workers are restarts: every running task is interrupted.
    pub fn interrupt_all(&mut self, now: Now) {
        let running = self.tasks.all.iter().filter(|t| t.ended.is_none());
        let upids: Vec<String> = running.map(|t| t.upid.to_string()).collect();
        for upid in upids {
            self.interrupt(&upid, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "UPID:pve1:0000016B:0002B38C:6B025E0A:vzcreate:200:tester@pve!full:";

    #[test]
    fn upid_has_the_recorded_form() {
        let upid = Upid::parse(RECORDED).unwrap();
        assert_eq!((upid.pid, upid.pstart), (363, 177_036));
        assert_eq!(upid.starttime, 1_795_317_258);
        assert_eq!(upid.user.token.as_deref(), Some("full"));
        assert_eq!(upid.to_string(), RECORDED);
        let long = Upid { pstart: 0x1_2345_6789, ..upid };
        assert!(long.to_string().contains(":123456789:"));
        assert_eq!(Upid::parse(&long.to_string()), Some(long));
    }

    #[test]
    fn hostile_upids_are_refused() {
        for bad in [
            "",
            "UPID:",
            "UPID:pve1:0000016B:0002B38C:6B025E0A:vzcreate:200:tester@pve!full",
            "UPID:pve1:16B:0002B38C:6B025E0A:vzcreate:200:tester@pve!full:",
            "UPID:pve1:0000016G:0002B38C:6B025E0A:vzcreate:200:tester@pve:",
            "UPID:-a:0000016B:0002B38C:6B025E0A:vzcreate:200:tester@pve:",
            "UPID:pve1:0000016B:0002B38C:6B025E0A:../x:200:tester@pve:",
            "UPID:pve1:0000016B:0002B38C:6B025E0A::200:tester@pve:",
            "UPID:pve1:0000016B:0002B38C:6B025E0A:a:b:c:d:",
            "UPID:pve1:+000016B:0002B38C:6B025E0A:vzcreate:200:tester@pve:",
        ] {
            assert_eq!(Upid::parse(bad), None, "{bad}");
        }
        assert!(Upid::parse("UPID:pve1:00000237:0002E478:6B025E87:vzdump::tester@pve:").is_some());
    }
}
