//! What tasks do: the checks when one begins, the effect when it ends.

use serde_json::Value;

use super::{AuthId, Exit, Kind, Now, Refusal, Running, Task, Tasks, Upid, World};

/// The work of a task on one guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Job {
    /// Start the guest.
    Start,
    /// Stop it hard.
    Stop,
    /// Shut it down.
    Shutdown,
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
    },
    /// Change configuration values; `None` deletes the key.
    Config(Vec<(String, Option<Value>)>),
}

impl Job {
    fn verb(&self) -> &'static str {
        match self {
            Job::Start => "start",
            Job::Stop => "stop",
            Job::Shutdown => "shutdown",
            Job::Snapshot { .. } => "snapshot",
            Job::Rollback { .. } => "rollback",
            Job::DeleteSnapshot { .. } => "delsnapshot",
            Job::Config(_) => "config",
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

impl World {
    /// Starts a task on a guest and returns its UPID. Failed preconditions end it at once, as the
    /// real node's workers do; otherwise the effect comes when [`World::settle`] finds it due.
    pub fn begin(&mut self, now: Now, who: &AuthId, kind: Kind, vmid: u32, job: Job) -> String {
        let upid = Upid {
            node: self.node.clone(),
            pid: self.tasks.fresh_pid(),
            pstart: Tasks::jiffies(now),
            starttime: now.unix,
            kind: format!("{}{}", kind.task_prefix(), job.verb()),
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
        match self.prepare(now, kind, vmid, &task.job) {
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

    /// The preconditions, and what is visible while the task runs; the log lines of its beginning.
    fn prepare(&mut self, now: Now, kind: Kind, vmid: u32, job: &Job) -> Result<Vec<String>, String> {
        let guest = self.guest(kind, vmid).map_err(|r| r.text)?.clone();
        let mut log = Vec::new();
        let lock = match job {
            Job::Start => {
                guest.check_lock()?;
                if guest.running.is_some() {
                    return Err(format!("{} {vmid} already running", kind.label()));
                }
                None
            }
            Job::Stop | Job::Shutdown => {
                // Stopping what is stopped ends well before the lock is looked at.
                if guest.running.is_some() {
                    guest.check_lock()?;
                }
                None
            }
            Job::Snapshot { name, description, vmstate } => {
                guest.check_lock()?;
                if guest.snapshots.contains_key(name) {
                    return Err(format!("snapshot name '{name}' already used"));
                }
                if !self.snapshot_feature(&guest) {
                    return Err("snapshot feature is not available".to_owned());
                }
                if kind == Kind::Qemu {
                    if *vmstate && guest.running.is_some() {
                        log.push("saving VM state and RAM using storage 'local'".to_owned());
                        log.push("completed saving the VM state in 0s, saved 880.22 KiB".to_owned());
                    }
                    for (key, volume) in guest.volumes() {
                        log.push(format!("snapshotting 'drive-{key}' ({volume})"));
                    }
                }
                if let Ok(guest) = self.guest_mut(kind, vmid) {
                    guest.prepare_snapshot(name, description, *vmstate, now);
                }
                None
            }
            Job::Rollback { name, .. } => {
                let Some(snapshot) = guest.snapshots.get(name) else {
                    return Err(format!("snapshot '{name}' does not exist"));
                };
                if let Some(volume) = self.newest_only_volume(&guest)
                    && guest.newest_snapshot() != Some(name.as_str())
                {
                    return Err(format!(
                        "can't rollback, '{name}' is not most recent snapshot on '{volume}'"
                    ));
                }
                if let Some(state) = &snapshot.snapstate {
                    return Err(format!("unable to rollback to incomplete snapshot (snapstate = {state})"));
                }
                guest.check_lock()?;
                Some("rollback")
            }
            Job::DeleteSnapshot { name } => {
                if !guest.snapshots.contains_key(name) {
                    return Err(format!("snapshot '{name}' does not exist"));
                }
                guest.check_lock()?;
                if let Ok(guest) = self.guest_mut(kind, vmid)
                    && let Some(snapshot) = guest.snapshots.get_mut(name)
                {
                    snapshot.snapstate = Some("delete".to_owned());
                }
                Some("snapshot-delete")
            }
            Job::Config(changes) => {
                guest.check_lock()?;
                let words: Vec<String> = changes
                    .iter()
                    .map(|(key, value)| match value {
                        Some(value) => format!("-{key} {}", plain(value)),
                        None => format!("-delete {key}"),
                    })
                    .collect();
                log.push(format!("update VM {vmid}: {}", words.join(" ")));
                None
            }
        };
        if let Ok(guest) = self.guest_mut(kind, vmid) {
            if let Some(lock) = lock {
                guest.config.insert("lock".to_owned(), lock.into());
            }
            if matches!(job, Job::Rollback { .. }) {
                // The running guest is stopped hard before its volumes are touched.
                guest.running = None;
            }
        }
        Ok(log)
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

    fn finish(&mut self, index: usize, now: Now) {
        let task = &self.tasks.all[index];
        let kind = if task.upid.kind.starts_with("vz") { Kind::Lxc } else { Kind::Qemu };
        let vmid: u32 = task.upid.id.parse().unwrap_or_default();
        let (job, fate) = (task.job.clone(), task.fate.clone().map(|i| i.fault));
        let mut warnings = 0;
        let exit = match fate {
            Some(Fault::Kill) => Exit::Unexpected,
            Some(Fault::Fail { text, leave_lock }) => {
                if !leave_lock {
                    self.undo(kind, vmid, &job);
                }
                Exit::Error(text)
            }
            other => match self.apply(now, kind, vmid, &job) {
                Ok(()) => match other {
                    Some(Fault::Warn(count)) if count > 0 => {
                        warnings = count;
                        Exit::Warnings(count)
                    }
                    _ => Exit::Ok,
                },
                Err(refusal) => Exit::Error(refusal.text),
            },
        };
        let task = &mut self.tasks.all[index];
        task.log.extend((1..=warnings).map(|n| format!("WARN: simulated warning {n}")));
        task.end(exit, now);
    }

    fn apply(&mut self, now: Now, kind: Kind, vmid: u32, job: &Job) -> Result<(), Refusal> {
        let genid = self.fresh_uuid();
        let pid = self.tasks.fresh_pid();
        let running = Some(Running { pid, since: now.unix });
        let guest = self.guest_mut(kind, vmid)?;
        match job {
            Job::Start => guest.running = running,
            Job::Stop | Job::Shutdown => guest.running = None,
            Job::Snapshot { name, .. } => {
                guest.commit_snapshot(name);
                let guest = guest.clone();
                self.charge_snapshot(&guest);
            }
            Job::Rollback { name, start } => {
                let resumes = guest.apply_snapshot(name, genid);
                guest.running = if resumes || *start { running } else { None };
            }
            Job::DeleteSnapshot { name } => {
                guest.drop_snapshot(name);
                guest.config.remove("lock");
            }
            Job::Config(changes) => guest.change(changes),
        }
        Ok(())
    }

    /// Takes back what [`World::prepare`] made visible.
    fn undo(&mut self, kind: Kind, vmid: u32, job: &Job) {
        let Ok(guest) = self.guest_mut(kind, vmid) else {
            return;
        };
        match job {
            Job::Snapshot { name, .. } => {
                guest.snapshots.remove(name);
            }
            Job::DeleteSnapshot { name } => {
                if let Some(snapshot) = guest.snapshots.get_mut(name) {
                    snapshot.snapstate = None;
                }
            }
            Job::Rollback { .. } => {}
            _ => return,
        }
        guest.config.remove("lock");
    }

    /// `DELETE …/tasks/UPID`: interrupts a running task. Lock and half-made snapshot stay, since
    /// the worker has no time to clean up.
    pub fn interrupt(&mut self, upid: &str, now: Now) {
        if let Some(task) = self.tasks.find_mut(upid)
            && task.ended.is_none()
        {
            task.end(Exit::Error("received interrupt".to_owned()), now);
        }
    }
}

/// A value as it appears in a log line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
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
