//! Tasks that are about storages: their beginning, their end, and what a fault does to them.

use crate::world::retention::{Candidate, Keep, Mark};
use crate::world::volumes::parse_name;
use crate::world::{AuthId, Exit, Fault, Job, Kind, Now, Restore, Task, Upid, Vzdump, World};

/// The work of a task that is not about one guest only.
#[derive(Debug, Clone, PartialEq)]
pub enum StorageJob {
    /// `vzdump`.
    Vzdump(Box<Vzdump>),
    /// `qmrestore`, `vzrestore`.
    Restore(Box<Restore>),
    /// `imgdel`.
    Delete {
        /// The volume.
        volid: String,
    },
    /// `prunebackups`.
    Prune {
        /// The storage.
        storage: String,
        /// The retention.
        keep: Keep,
        /// Only this guest's backups.
        vmid: Option<u32>,
        /// Only this kind of guest.
        kind: Option<Kind>,
    },
    /// `download`, `imgcopy`: a file appears on a storage.
    Store {
        /// The volume it becomes.
        volid: String,
        /// Its size.
        size: u64,
        /// What the log says.
        log: Vec<String>,
        /// Why it fails, if it does.
        problem: Option<String>,
    },
    /// Something the node does that changes nothing here (`srvrestart`, `aptupdate`).
    Other {
        /// What the log says.
        log: Vec<String>,
    },
}

/// A backup and what a retention does to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The volume.
    pub volid: String,
    /// The kind of guest; `None` for a renamed file.
    pub kind: Option<Kind>,
    /// The guest; `None` for a renamed file.
    pub vmid: Option<u32>,
    /// When it was made, in seconds since 1970.
    pub ctime: i64,
    /// What becomes of it.
    pub mark: Mark,
}

impl World {
    /// Starts a task with any type and id and returns its UPID; see [`World::begin`] for those of
    /// a guest.
    pub fn begin_storage(&mut self, now: Now, who: &AuthId, kind: &str, id: &str, job: StorageJob) -> String {
        let upid = Upid {
            node: self.node.clone(),
            pid: self.tasks.fresh_pid(),
            pstart: self.tasks.jiffies(now),
            starttime: now.unix,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: who.clone(),
        };
        let ordered = self.injections.iter().position(|i| i.task == upid.kind);
        let text = upid.to_string();
        self.tasks.all.push(Task {
            due: now.mono + self.task_duration,
            log: Vec::new(),
            ended: None,
            fate: ordered.map(|at| self.injections.remove(at)),
            job: Job::Storage(job),
            upid,
        });
        let index = self.tasks.all.len() - 1;
        match &self.tasks.all[index].job {
            Job::Storage(StorageJob::Vzdump(_)) => self.vzdump_start(index, now),
            Job::Storage(StorageJob::Restore(_)) => {
                if let Err(text) = self.restore_start(index, now) {
                    self.tasks.all[index].end(Exit::Error(text), now);
                }
            }
            Job::Storage(StorageJob::Store { log, .. } | StorageJob::Other { log }) => {
                let log = log.clone();
                self.tasks.all[index].log = log;
            }
            _ => {}
        }
        text
    }

    /// A storage task is due. A job of several steps may have more of them behind it at once.
    pub(in crate::world) fn storage_due(&mut self, index: usize, now: Now) {
        loop {
            let Some(task) = self.tasks.all.get(index) else {
                return;
            };
            if task.ended.is_some() || task.due > now.mono {
                return;
            }
            let at = Now { mono: task.due, unix: now.unix };
            self.storage_step(index, at);
        }
    }

    fn storage_step(&mut self, index: usize, now: Now) {
        let task = &self.tasks.all[index];
        let Job::Storage(job) = task.job.clone() else {
            self.tasks.all[index].end(Exit::Ok, now);
            return;
        };
        let fate = task.fate.clone().map(|i| i.fault);
        if matches!(job, StorageJob::Vzdump(_)) {
            self.vzdump_due(index, now);
            return;
        }
        let result = match (fate, job) {
            (Some(Fault::Kill), job) => {
                if let StorageJob::Restore(restore) = job {
                    self.restore_failed(&restore, true, true);
                }
                self.tasks.all[index].end(Exit::Unexpected, now);
                return;
            }
            (Some(Fault::Fail { text, leave_lock }), job) => {
                if let StorageJob::Restore(restore) = job {
                    self.restore_failed(&restore, leave_lock, false);
                }
                Err(text)
            }
            (_, StorageJob::Restore(restore)) => self.restore_apply(&restore, now),
            (_, StorageJob::Delete { volid }) => self.delete_volume(&volid),
            (_, StorageJob::Prune { storage, keep, vmid, kind }) => {
                let gone = self.prune(&storage, &keep, vmid, kind);
                Ok(gone.into_iter().map(|volid| format!("removing backup '{volid}'")).collect())
            }
            (_, StorageJob::Store { problem: Some(text), .. }) => Err(text),
            (_, StorageJob::Store { volid, size, .. }) => {
                self.add_volume(&volid, size, now.unix);
                Ok(Vec::new())
            }
            (_, StorageJob::Other { .. } | StorageJob::Vzdump(_)) => Ok(Vec::new()),
        };
        let task = &mut self.tasks.all[index];
        let exit = match result {
            Err(text) => Exit::Error(text),
            Ok(lines) => {
                task.log.extend(lines);
                let ordered = match task.fate.as_ref().map(|i| &i.fault) {
                    Some(Fault::Warn(count)) => *count,
                    _ => 0,
                };
                task.log.extend((1..=ordered).map(|n| format!("WARN: simulated warning {n}")));
                let warnings = task.log.iter().filter(|line| line.starts_with("WARN: ")).count();
                match u32::try_from(warnings).unwrap_or(u32::MAX) {
                    0 => Exit::Ok,
                    count => Exit::Warnings(count),
                }
            }
        };
        task.end(exit, now);
    }

    /// `DELETE` of a running storage task.
    pub(in crate::world) fn storage_interrupted(&mut self, index: usize, now: Now) {
        match &self.tasks.all[index].job {
            Job::Storage(StorageJob::Vzdump(_)) => self.vzdump_interrupted(index, now),
            Job::Storage(StorageJob::Restore(restore)) => {
                // The worker dies at once, so that nothing is put back.
                let restore = restore.clone();
                self.restore_failed(&restore, true, true);
                self.tasks.all[index].end(Exit::Error("received interrupt".to_owned()), now);
            }
            _ => self.tasks.all[index].end(Exit::Error("received interrupt".to_owned()), now),
        }
    }

    /// Removes a volume; the log lines. Recorded: one that is gone already is no error.
    fn delete_volume(&mut self, volid: &str) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        let removed = format!("Removed volume '{volid}'");
        if self.volume(volid).is_some_and(|v| v.protected) {
            let (storage, name) = volid.split_once(':').unwrap_or_default();
            return Err(format!("cannot remove protected volume '{name}' on '{storage}'"));
        }
        let owner = self.guests.iter().find(|(_, g)| g.all_volumes().contains_key(volid)).map(|(id, _)| *id);
        if let Some(vmid) = owner.filter(|_| !self.stock.gone.contains(volid)) {
            // The real node frees a disk that a configuration still names, and so does this one.
            self.stock.gone.insert(volid.to_owned());
            if let Some(guest) = self.guests.get_mut(&vmid) {
                crate::world::disks::forget_unused(&mut guest.config, volid);
            }
        } else if !self.drop_volume(volid) {
            let path = self.volume_path(volid).map_err(|r| r.text)?;
            lines.push(format!("disk image '{path}' does not exist"));
        }
        lines.push(removed);
        Ok(lines)
    }

    /// The backups of a storage with their marks, ordered by type, guest and time.
    pub fn prune_list(
        &self,
        storage: &str,
        keep: &Keep,
        vmid: Option<u32>,
        kind: Option<Kind>,
    ) -> Vec<Marked> {
        let Some(place) = self.storages.get(storage) else {
            return Vec::new();
        };
        let mut found: Vec<_> = self
            .stock
            .volumes
            .iter()
            .filter(|(_, v)| v.content == "backup")
            .filter_map(|(volid, v)| {
                let (_, name) = volid.split_once(':').filter(|(s, _)| *s == storage)?;
                Some((volid, v, parse_name(place, name)?))
            })
            .filter(|(_, v, name)| {
                let its = name.kind.or(v.saved.as_ref().map(|s| s.kind));
                (vmid.is_none() || v.vmid == vmid) && (kind.is_none() || its == kind)
            })
            .collect();
        let word = |name: &crate::world::volumes::VolumeName| name.kind.map_or("unknown", Kind::segment);
        found.sort_by(|a, b| {
            (word(&a.2), a.1.vmid, a.1.ctime, a.0).cmp(&(word(&b.2), b.1.vmid, b.1.ctime, b.0))
        });
        let candidates: Vec<Candidate> = found
            .iter()
            .map(|(_, v, name)| Candidate {
                group: (word(name).to_owned(), v.vmid.unwrap_or_default()),
                ctime: name.ctime,
                protected: v.protected,
            })
            .collect();
        let marks = keep.mark(&candidates);
        let rows = found.into_iter().zip(marks);
        rows.map(|((volid, v, name), mark)| Marked {
            volid: volid.clone(),
            kind: name.kind,
            vmid: v.vmid,
            ctime: v.ctime,
            mark,
        })
        .collect()
    }

    /// Removes what a retention does not keep; the volumes that went.
    pub(in crate::world) fn prune(
        &mut self,
        storage: &str,
        keep: &Keep,
        vmid: Option<u32>,
        kind: Option<Kind>,
    ) -> Vec<String> {
        let listed = self.prune_list(storage, keep, vmid, kind);
        let gone: Vec<String> =
            listed.into_iter().filter(|row| row.mark == Mark::Remove).map(|row| row.volid).collect();
        for volid in &gone {
            self.drop_volume(volid);
        }
        gone
    }
}
