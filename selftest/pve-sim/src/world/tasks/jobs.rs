//! What tasks do: the checks when one begins, the effect when it ends.

use serde_json::Value;

use crate::world::lifecycle::{CloneOrder, CreateOrder, MoveOrder};
use crate::world::{AuthId, Exit, Kind, Now, StorageJob, Task, Upid, World};

/// The work of a task on one guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Job {
    /// Start the guest.
    Start,
    /// Stop it hard.
    Stop,
    /// Ask it to shut down.
    Shutdown,
    /// Ask it to shut down, and stop it hard when it does not.
    ShutdownOrStop,
    /// Ask it to shut down and start it again.
    Reboot,
    /// Press the reset button.
    Reset,
    /// Pause it.
    Suspend,
    /// Write its memory to a disk and stop it.
    SuspendToDisk {
        /// The storage for the memory; `None` takes that of the first disk.
        storage: Option<String>,
    },
    /// Continue after either kind of suspend.
    Resume,
    /// Take a snapshot.
    Snapshot {
        /// Its name.
        name: String,
        /// Its description, may be empty.
        description: String,
        /// Whether to save the memory.
        vmstate: bool,
    },
    /// Return to a snapshot.
    Rollback {
        /// Its name.
        name: String,
        /// Whether to start the guest afterwards.
        start: bool,
    },
    /// Delete a snapshot.
    DeleteSnapshot {
        /// Its name.
        name: String,
        /// Whether it goes even if its volumes cannot be removed.
        force: bool,
    },
    /// Change configuration values; `None` deletes the key.
    Config(Vec<(String, Option<Value>)>),
    /// Make the guest.
    Create(Box<CreateOrder>),
    /// Copy the guest to a new VMID.
    Clone(Box<CloneOrder>),
    /// Turn the guest into a template.
    Template,
    /// Remove the guest with its disks.
    Destroy {
        /// Whether backup jobs, replication and HA forget it too.
        purge: bool,
        /// Whether disks that carry its VMID but are not in its configuration go too.
        unreferenced: bool,
        /// Whether a running container is stopped for it.
        force: bool,
    },
    /// Grow a disk.
    Resize {
        /// The disk's key.
        disk: String,
        /// Its new size in bytes.
        bytes: u64,
    },
    /// Move a disk to another storage.
    Move(Box<MoveOrder>),
    /// Serve a console until it is closed.
    Console,
    /// Something about storages; see [`World::begin_storage`].
    Storage(StorageJob),
}

impl Job {
    /// The task type.
    fn task_type(&self, kind: Kind) -> String {
        let verb = match self {
            Job::Start => "start",
            Job::Stop => "stop",
            Job::Shutdown | Job::ShutdownOrStop => "shutdown",
            Job::Reboot => "reboot",
            Job::Reset => "reset",
            Job::Suspend if kind == Kind::Qemu => "pause",
            Job::Suspend | Job::SuspendToDisk { .. } => "suspend",
            Job::Resume => "resume",
            Job::Snapshot { .. } => "snapshot",
            Job::Rollback { .. } => "rollback",
            Job::DeleteSnapshot { .. } => "delsnapshot",
            Job::Config(_) => "config",
            Job::Create(_) => "create",
            Job::Clone(_) => "clone",
            Job::Template => "template",
            Job::Destroy { .. } => "destroy",
            Job::Resize { .. } => return "resize".to_owned(),
            Job::Move(_) if kind == Kind::Lxc => return "move_volume".to_owned(),
            Job::Move(_) => "move",
            Job::Console => return "vncproxy".to_owned(),
            Job::Storage(_) => return "unknown".to_owned(),
        };
        format!("{}{verb}", kind.task_prefix())
    }

    /// Whether the worker takes its changes back when it is interrupted, and the text it ends with.
    fn interrupted(&self) -> (bool, &'static str) {
        match self {
            Job::Clone(_) => (true, "interrupted by signal"),
            _ => (false, "received interrupt"),
        }
    }
}

/// A fault for the next task of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The task type, such as `qmrollback`.
    pub task: String,
    /// What happens to it.
    pub fault: Fault,
}

/// The kinds of ordered faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The task ends with this text. Nothing is changed, unless the lock is left behind as
    /// Proxmox VE leaves it when an operation dies half-way.
    Fail {
        /// The error text.
        text: String,
        /// Whether lock and half-made snapshot stay.
        leave_lock: bool,
    },
    /// The worker is killed: `unexpected status`, and the lock stays.
    Kill,
    /// The task succeeds with warnings.
    Warn(u32),
}

/// Why the work of a task failed at its end.
#[derive(Debug)]
pub(in crate::world) struct Failure {
    pub(in crate::world) text: String,
    /// Whether lock and half-done work stay.
    pub(in crate::world) leaves_traces: bool,
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, leaves_traces: false }
    }
}

impl World {
    /// Starts a task on a guest and returns its UPID. Failed preconditions end it at once, as the
    /// real node's workers do; otherwise the effect comes when [`World::settle`] finds it due.
    pub fn begin(&mut self, now: Now, who: &AuthId, kind: Kind, vmid: u32, job: Job) -> String {
        let upid = Upid {
            node: self.node.clone(),
            pid: self.tasks.fresh_pid(),
            pstart: self.tasks.jiffies(now),
            starttime: now.unix,
            kind: job.task_type(kind),
            id: vmid.to_string(),
            user: who.clone(),
        };
        let ordered = self.injections.iter().position(|i| i.task == upid.kind);
        let mut task = Task {
            due: now.mono + self.task_duration,
            log: Vec::new(),
            ended: None,
            fate: ordered.map(|at| self.injections.remove(at)),
            job,
            upid,
        };
        let flock = self.take_flock(kind, vmid);
        if flock.is_err() {
            task.log.push("trying to acquire lock...".to_owned());
        }
        match flock.and_then(|()| self.prepare(now, kind, vmid, &task.job)) {
            Ok(lines) => task.log = lines,
            Err(text) => {
                let text = match &task.fate {
                    Some(Injection { fault: Fault::Fail { text, .. }, .. }) => text.clone(),
                    _ => text,
                };
                task.end(Exit::Error(text), now);
            }
        }
        let id = task.upid.to_string();
        self.tasks.all.push(task);
        id
    }

    /// Applies the effects of every task that is due, in the order they fall due.
    pub fn settle(&mut self, now: Now) {
        let mut due: Vec<(std::time::Duration, usize)> = self
            .tasks
            .all
            .iter()
            .enumerate()
            .filter(|(_, t)| t.ended.is_none() && t.due <= now.mono)
            .map(|(i, t)| (t.due, i))
            .collect();
        due.sort_unstable();
        for (_, index) in due {
            self.finish(index, now);
        }
    }

    /// When the next running task falls due.
    pub fn next_due(&self) -> Option<std::time::Duration> {
        let running = self.tasks.all.iter().filter(|t| t.ended.is_none());
        running.map(|t| t.due).min()
    }

    /// Which guest a task is about.
    fn subject(&self, upid: &Upid) -> (Kind, u32) {
        let vmid: u32 = upid.id.parse().unwrap_or_default();
        let kind = match upid.kind.as_str() {
            "resize" | "vncproxy" => self.guests.get(&vmid).map_or(Kind::Qemu, |g| g.kind),
            "move_volume" => Kind::Lxc,
            other if other.starts_with("vz") => Kind::Lxc,
            _ => Kind::Qemu,
        };
        (kind, vmid)
    }

    fn finish(&mut self, index: usize, now: Now) {
        if matches!(self.tasks.all[index].job, Job::Storage(_)) {
            self.storage_due(index, now);
            return;
        }
        let task = &self.tasks.all[index];
        let (kind, vmid) = self.subject(&task.upid);
        let who = task.upid.user.clone();
        let (job, fate) = (task.job.clone(), task.fate.clone().map(|i| i.fault));
        let mut lines = Vec::new();
        let exit = match fate {
            Some(Fault::Kill) => Exit::Unexpected,
            Some(Fault::Fail { text, leave_lock }) => {
                if !leave_lock {
                    self.undo(kind, vmid, &job);
                }
                Exit::Error(text)
            }
            other => match self.apply(now, &who, kind, vmid, &job) {
                Ok(said) => {
                    lines = said;
                    let own = lines.iter().filter(|line| line.starts_with("WARN: ")).count();
                    let own = u32::try_from(own).unwrap_or(u32::MAX);
                    let ordered = match other {
                        Some(Fault::Warn(count)) => count,
                        _ => 0,
                    };
                    lines.extend((1..=ordered).map(|n| format!("WARN: simulated warning {n}")));
                    match own + ordered {
                        0 => Exit::Ok,
                        count => Exit::Warnings(count),
                    }
                }
                Err(failure) => {
                    if !failure.leaves_traces {
                        self.undo(kind, vmid, &job);
                    }
                    Exit::Error(failure.text)
                }
            },
        };
        let task = &mut self.tasks.all[index];
        task.log.extend(lines);
        task.end(exit, now);
    }

    /// `DELETE …/tasks/UPID`: interrupts a running task. Lock and half-made snapshot stay, since
    /// most workers have no time to clean up.
    pub fn interrupt(&mut self, upid: &str, now: Now) {
        let Some(task) = self.tasks.find(upid).filter(|t| t.ended.is_none()) else {
            return;
        };
        if matches!(task.job, Job::Storage(_)) {
            if let Some(index) = self.tasks.all.iter().position(|t| t.upid.to_string() == upid) {
                self.storage_interrupted(index, now);
            }
            return;
        }
        let (cleans_up, text) = task.job.interrupted();
        let job = task.job.clone();
        let (kind, vmid) = self.subject(&task.upid);
        if cleans_up {
            self.undo(kind, vmid, &job);
        }
        if let Some(task) = self.tasks.find_mut(upid) {
            task.end(Exit::Error(text.to_owned()), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono: Duration::from_millis(ms), unix: 1_795_317_258 }
    }

    fn who() -> AuthId {
        AuthId::parse("writ@pve!act")
    }

    fn exit(world: &World, upid: &str) -> String {
        let ended = world.tasks.find(upid).unwrap().ended.clone();
        ended.map_or("running".to_owned(), |(e, _)| e.to_string())
    }

    fn snapshot(name: &str) -> Job {
        Job::Snapshot { name: name.to_owned(), description: String::new(), vmstate: false }
    }

    fn rollback(name: &str) -> Job {
        Job::Rollback { name: name.to_owned(), start: false }
    }

    #[test]
    fn effect_comes_at_the_end() {
        let mut w = World::demo();
        let upid = w.begin(at(0), &who(), Kind::Qemu, 100, snapshot("s1"));
        assert_eq!(w.next_due(), Some(Duration::from_millis(50)));
        w.settle(at(49));
        assert_eq!(exit(&w, &upid), "running");
        assert_eq!(w.guests[&100].lock(), Some("snapshot"));
        let second = w.begin(at(49), &who(), Kind::Qemu, 100, snapshot("s2"));
        assert_eq!(exit(&w, &second), "VM is locked (snapshot)");
        w.settle(at(50));
        assert_eq!(exit(&w, &upid), "OK");
        assert_eq!(w.guests[&100].lock(), None);
    }

    #[test]
    fn rollback_stops_the_guest_and_zfs_takes_only_the_newest() {
        let mut w = World::demo();
        for (ms, name) in [(0, "a1"), (100, "b1")] {
            w.begin(at(ms), &who(), Kind::Qemu, 102, snapshot(name));
            w.begin(at(ms), &who(), Kind::Qemu, 100, snapshot(name));
            w.settle(at(ms + 60));
        }
        let zfs = w.begin(at(200), &who(), Kind::Qemu, 102, rollback("a1"));
        assert_eq!(
            exit(&w, &zfs),
            "can't rollback, 'a1' is not most recent snapshot on 'tank:vm-102-disk-0'"
        );
        let genid = w.guests[&100].config["vmgenid"].clone();
        assert!(w.guests[&100].running.is_some());
        let thin = w.begin(at(200), &who(), Kind::Qemu, 100, rollback("a1"));
        assert_eq!(w.guests[&100].lock(), Some("rollback"));
        w.settle(at(260));
        assert_eq!(exit(&w, &thin), "OK");
        assert!(w.guests[&100].running.is_none());
        assert_ne!(w.guests[&100].config["vmgenid"], genid);
    }

    #[test]
    fn ordered_faults() {
        let mut w = World::demo();
        let order = |w: &mut World, fault| {
            let task = "qmrollback".to_owned();
            w.injections.push(Injection { task, fault });
        };
        let name = "before-upgrade";
        let text = "disk on fire".to_owned();
        order(&mut w, Fault::Fail { text, leave_lock: false });
        order(&mut w, Fault::Warn(2));
        order(&mut w, Fault::Kill);
        let failed = w.begin(at(0), &who(), Kind::Qemu, 101, rollback(name));
        w.settle(at(50));
        assert_eq!(exit(&w, &failed), "disk on fire");
        assert_eq!(w.guests[&101].lock(), None);
        let warned = w.begin(at(100), &who(), Kind::Qemu, 101, rollback(name));
        w.settle(at(150));
        assert_eq!(exit(&w, &warned), "WARNINGS: 2");
        assert_eq!(w.tasks.find(&warned).unwrap().log.len(), 3);
        let killed = w.begin(at(200), &who(), Kind::Qemu, 101, rollback(name));
        w.settle(at(250));
        assert_eq!(exit(&w, &killed), "unexpected status");
        assert_eq!(w.guests[&101].lock(), Some("rollback"));
        assert!(w.injections.is_empty());
    }

    #[test]
    fn snapshots_fill_the_thin_pool() {
        let mut w = World::demo();
        let before = w.storages["local-lvm"].lvmthin().unwrap();
        w.begin(at(0), &who(), Kind::Qemu, 100, snapshot("s1"));
        w.settle(at(50));
        let after = w.storages["local-lvm"].lvmthin().unwrap();
        assert!(after["used"].as_u64() > before["used"].as_u64());
        assert!(after["metadata_used"].as_u64() > before["metadata_used"].as_u64());
    }
}
