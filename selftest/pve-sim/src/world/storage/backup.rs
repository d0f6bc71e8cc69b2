//! `vzdump`: the backup job, guest by guest.

use std::time::Duration;

use serde_json::json;

use crate::world::calendar::Date;
use crate::world::retention::Keep;
use crate::world::volumes::{SavedGuest, Volume};
use crate::world::{AuthId, Config, Exit, Fault, Guest, Job, Kind, Now, StorageJob, World};

/// The lock all backup jobs of a node share.
const LOCK: &str = "/var/run/vzdump.lock";
/// What the recordings end a job's log with.
const NOTIFIED: &str = "INFO: notified via target `mail-to-root`";

/// A backup job.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vzdump {
    /// The guests still to be saved, in their order.
    pub vmids: Vec<u32>,
    /// Whether guests were chosen by `all` or a pool, which leaves out what may not be saved.
    pub all: bool,
    /// The job's parameters as the log shows them.
    pub words: Vec<(String, String)>,
    /// Chosen guests that are on other nodes.
    pub elsewhere: Vec<u32>,
    /// The target.
    pub storage: String,
    /// `snapshot`, `suspend` or `stop`.
    pub mode: String,
    /// `0`, `1`, `gzip`, `lzo` or `zstd`.
    pub compress: String,
    /// The template of the notes; empty for none.
    pub notes: String,
    /// Whether the backups are to be protected.
    pub protected: bool,
    /// Whether older backups are pruned afterwards.
    pub remove: bool,
    /// The retention of the job; the storage's if there is none.
    pub keep: Option<Keep>,
    /// How many minutes to wait for the lock.
    pub lockwait: u32,
    /// The rate limit in KiB/s, which only the log shows.
    pub bwlimit: u32,
    /// How far it is; the default is a job that has not begun.
    pub progress: Progress,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    state: State,
    failed: bool,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Default)]
enum State {
    /// Not begun.
    #[default]
    New,
    /// Another job has the lock.
    Waiting,
    /// A guest is being saved.
    Saving(Box<Saving>),
    /// Over.
    Done,
}

/// A guest that is being saved.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::world) struct Saving {
    vmid: u32,
    kind: Kind,
    started: i64,
    ctime: i64,
    pub(in crate::world) volid: String,
    pub(in crate::world) name: String,
    config: Config,
    pub(in crate::world) size: u64,
    /// The lines that come when the data is through.
    pub(in crate::world) last: Vec<String>,
}

fn took(seconds: i64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn stamp(now: Now) -> String {
    Date::at(now.unix).log()
}

impl Vzdump {
    /// The line a job's log begins with.
    fn command(&self) -> String {
        let quoted = |text: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.,:/=@%+".contains(&b);
            if !text.is_empty() && text.bytes().all(plain) {
                text.to_owned()
            } else {
                format!("'{}'", text.replace('\'', "'\"'\"'"))
            }
        };
        let mut words = vec!["vzdump".to_owned()];
        if !self.all {
            words.extend(self.vmids.iter().map(u32::to_string));
        }
        words.extend(self.words.iter().map(|(key, value)| format!("--{key} {}", quoted(value))));
        words.join(" ")
    }

    /// The notes of a guest's backup.
    fn notes_of(&self, world: &World, vmid: u32, name: &str) -> String {
        self.notes
            .replace("\\n", "\n")
            .replace("\\\\", "\\")
            .replace("{{cluster}}", &world.node)
            .replace("{{guestname}}", name)
            .replace("{{node}}", &world.node)
            .replace("{{vmid}}", &vmid.to_string())
    }

    fn extension(&self, kind: Kind) -> &'static str {
        match (kind, self.compress.as_str()) {
            (Kind::Qemu, "zstd") => "vma.zst",
            (Kind::Qemu, "gzip") => "vma.gz",
            (Kind::Qemu, "1" | "lzo") => "vma.lzo",
            (Kind::Qemu, _) => "vma",
            (Kind::Lxc, "zstd") => "tar.zst",
            (Kind::Lxc, "gzip") => "tar.gz",
            (Kind::Lxc, "1" | "lzo") => "tar.lzo",
            (Kind::Lxc, _) => "tar",
        }
    }
}

/// The variables a notes template may have; the names of unknown ones.
pub(crate) fn unknown_variables(template: &str) -> Vec<String> {
    let known = ["cluster", "guestname", "node", "vmid"];
    let names = template.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0));
    names.filter(|name| !known.contains(name)).map(str::to_owned).collect()
}

impl World {
    fn vzdump_of(&self, index: usize) -> Option<&Vzdump> {
        match &self.tasks.all.get(index)?.job {
            Job::Storage(StorageJob::Vzdump(job)) => Some(job),
            _ => None,
        }
    }

    fn vzdump_mut(&mut self, index: usize) -> Option<&mut Vzdump> {
        match &mut self.tasks.all.get_mut(index)?.job {
            Job::Storage(StorageJob::Vzdump(job)) => Some(job),
            _ => None,
        }
    }

    fn say(&mut self, index: usize, line: impl Into<String>) {
        if let Some(task) = self.tasks.all.get_mut(index) {
            task.log.push(line.into());
        }
    }

    /// Ends the job; the next one that waits gets the lock.
    fn vzdump_end(&mut self, index: usize, exit: Exit, now: Now) {
        if let Some(job) = self.vzdump_mut(index) {
            job.progress.state = State::Done;
        }
        if let Some(task) = self.tasks.all.get_mut(index) {
            task.end(exit, now);
        }
        let waits = |i: &usize| {
            self.tasks.all[*i].ended.is_none()
                && self.vzdump_of(*i).is_some_and(|j| j.progress.state == State::Waiting)
        };
        let next = (0..self.tasks.all.len()).find(waits);
        if let Some(next) = next.filter(|_| !self.vzdump_locked()) {
            self.say(next, "INFO: got global lock");
            self.vzdump_run(next, now);
        }
    }

    /// Whether a job has the lock of the node.
    fn vzdump_locked(&self) -> bool {
        (0..self.tasks.all.len()).any(|i| {
            self.tasks.all[i].ended.is_none()
                && self.vzdump_of(i).is_some_and(|j| matches!(j.progress.state, State::Saving(_)))
        })
    }

    /// The beginning of a job: target and lock.
    pub(in crate::world) fn vzdump_start(&mut self, index: usize, now: Now) {
        let Some(job) = self.vzdump_of(index).cloned() else {
            return;
        };
        let id = &job.storage;
        let mut errors = Vec::new();
        if let Err(refusal) = self.active_storage(id) {
            errors.push(format!("could not activate storage '{id}': {}", refusal.text));
        }
        match self.storage(id) {
            Err(refusal) => {
                errors.push(format!("could not get storage information for '{id}': {}", refusal.text));
            }
            Ok(storage) if !storage.holds("backup") => errors.push(format!(
                "could not get storage information for '{id}': can't use storage '{id}' for backups - wrong content type"
            )),
            Ok(_) => {}
        }
        if !errors.is_empty() {
            self.say(index, NOTIFIED);
            self.vzdump_end(index, Exit::Error(errors.join("\n")), now);
            return;
        }
        if !self.vzdump_locked() {
            self.vzdump_run(index, now);
            return;
        }
        if job.lockwait == 0 {
            self.vzdump_no_lock(index, now);
            return;
        }
        self.say(index, "INFO: trying to get global lock - waiting...");
        let due = now.mono + Duration::from_secs(60 * u64::from(job.lockwait));
        if let Some(job) = self.vzdump_mut(index) {
            job.progress.state = State::Waiting;
        }
        if let Some(task) = self.tasks.all.get_mut(index) {
            task.due = due;
        }
    }

    /// The worker gives up without a last line, so that its status is `unexpected status`.
    fn vzdump_no_lock(&mut self, index: usize, now: Now) {
        let wait = self.vzdump_of(index).map_or(0, |j| j.lockwait);
        self.say(index, format!("ERROR: can't acquire lock '{LOCK}' (wait = {wait})"));
        self.say(index, NOTIFIED);
        self.vzdump_end(index, Exit::Unexpected, now);
    }

    fn vzdump_run(&mut self, index: usize, now: Now) {
        let Some(job) = self.vzdump_of(index).cloned() else {
            return;
        };
        let who = self.tasks.all[index].upid.user.clone();
        self.say(index, format!("INFO: starting new backup job: {}", job.command()));
        if !job.elsewhere.is_empty() {
            let ids: Vec<String> = job.elsewhere.iter().map(u32::to_string).collect();
            self.say(index, format!("INFO: skip external VMs: {}", ids.join(", ")));
        }
        let mut chosen = Vec::new();
        for vmid in job.vmids {
            let path = format!("/vms/{vmid}");
            if !self.guests.contains_key(&vmid) || self.access.has_any(&who, &path, &["VM.Backup"]) {
                chosen.push(vmid);
            } else if !job.all {
                // Recorded: the whole job dies, with the status in the text.
                let text = format!("403 Permission check failed ({path}, VM.Backup)");
                self.vzdump_end(index, Exit::Error(text), now);
                return;
            }
        }
        if let Some(job) = self.vzdump_mut(index) {
            job.vmids = chosen;
        }
        self.vzdump_next(index, now);
    }

    /// Begins with the next guest, or ends the job.
    fn vzdump_next(&mut self, index: usize, now: Now) {
        loop {
            let Some(job) = self.vzdump_mut(index) else {
                return;
            };
            if job.vmids.is_empty() {
                break;
            }
            let vmid = job.vmids.remove(0);
            match self.vzdump_begin(index, vmid, now) {
                Ok(saving) => {
                    let due = now.mono + self.task_duration;
                    if let Some(job) = self.vzdump_mut(index) {
                        job.progress.state = State::Saving(Box::new(saving));
                    }
                    if let Some(task) = self.tasks.all.get_mut(index) {
                        task.due = due;
                    }
                    return;
                }
                Err(text) => self.vzdump_failed(index, vmid, &text, now),
            }
        }
        let failed = self.vzdump_of(index).is_some_and(|j| j.progress.failed);
        let end = if failed { "with errors" } else { "successfully" };
        self.say(index, format!("INFO: Backup job finished {end}"));
        self.say(index, NOTIFIED);
        let ordered = self.tasks.all[index].fate.as_ref().map(|i| i.fault.clone());
        let exit = match ordered {
            _ if failed => Exit::Error("job errors".to_owned()),
            Some(Fault::Warn(count)) if count > 0 => {
                for n in 1..=count {
                    self.say(index, format!("WARN: simulated warning {n}"));
                }
                Exit::Warnings(count)
            }
            _ => Exit::Ok,
        };
        self.vzdump_end(index, exit, now);
    }

    fn vzdump_failed(&mut self, index: usize, vmid: u32, text: &str, now: Now) {
        self.say(index, format!("ERROR: Backup of VM {vmid} failed - {text}"));
        self.say(index, format!("INFO: Failed at {}", stamp(now)));
        if let Some(job) = self.vzdump_mut(index) {
            job.progress.failed = true;
        }
    }

    /// The backups of a guest on a storage: how many are protected, how many are not.
    fn backup_counts(&self, storage: &str, kind: Kind, vmid: u32) -> (u64, u64) {
        let mine = self.stock.volumes.iter().filter(|(volid, v)| {
            volid.split_once(':').is_some_and(|(s, _)| s == storage)
                && v.vmid == Some(vmid)
                && v.saved.as_ref().is_some_and(|s| s.kind == kind)
        });
        mine.fold((0, 0), |(p, u), (_, v)| if v.protected { (p + 1, u) } else { (p, u + 1) })
    }

    /// How many protected backups a guest may have there: five, unless the storage says otherwise
    /// or the caller may do everything with it.
    pub fn max_protected(&self, who: &AuthId, storage: &str) -> Option<u64> {
        let set = self.storages.get(storage).and_then(|s| s.options.get("max-protected-backups"));
        match set.and_then(|v| v.as_i64().or_else(|| v.as_str()?.parse().ok())) {
            Some(n) => u64::try_from(n).ok(),
            None if self.access.has_any(who, &format!("/storage/{storage}"), &["Datastore.Allocate"]) => None,
            None => Some(5),
        }
    }

    /// The retention that counts for a storage.
    pub fn storage_keep(&self, storage: &str) -> Keep {
        let text = self.storages.get(storage).and_then(|s| s.option("prune-backups"));
        text.and_then(|t| Keep::parse(t).ok()).unwrap_or_else(Keep::all)
    }

    /// Whether one more protected backup of a guest would be too many.
    pub fn check_protected(&self, who: &AuthId, storage: &str, kind: Kind, vmid: u32) -> Result<(), String> {
        match self.max_protected(who, storage) {
            Some(most) if self.backup_counts(storage, kind, vmid).0 >= most => Err(format!(
                "The number of protected backups per guest is limited to {most} on storage '{storage}'"
            )),
            _ => Ok(()),
        }
    }

    /// The checks and first lines for one guest; then it is locked.
    fn vzdump_begin(&mut self, index: usize, vmid: u32, now: Now) -> Result<Saving, String> {
        let job = self.vzdump_of(index).cloned().ok_or("no such job")?;
        let who = self.tasks.all[index].upid.user.clone();
        let guest = self.guests.get(&vmid).cloned().ok_or(format!("unable to find VM '{vmid}'"))?;
        let kind = guest.kind;
        let limit = job.keep.clone().unwrap_or_else(|| self.storage_keep(&job.storage));
        if job.protected {
            self.check_protected(&who, &job.storage, kind, vmid)?;
        } else if !job.remove && !limit.keeps_all() {
            let (limit, count) = (limit.limit(), self.backup_counts(&job.storage, kind, vmid).1);
            if count >= limit {
                return Err(format!(
                    "There is a max backup limit of {limit} enforced by the target storage or the vzdump parameters. Either increase the limit or delete old backups."
                ));
            }
        }
        self.say(index, format!("INFO: Starting Backup of VM {vmid} ({})", kind.segment()));
        self.say(index, format!("INFO: Backup started at {}", stamp(now)));
        let running = guest.running.is_some();
        self.say(index, format!("INFO: status = {}", if running { "running" } else { "stopped" }));
        let managed = self.ha.get(&vmid).is_some_and(|ha| ha.state == "started");
        if running && job.mode == "stop" && managed {
            return Err(
                "Cannot execute a backup with stop mode on a HA managed and enabled Service. Use snapshot mode or disable the Service.".to_owned(),
            );
        }
        guest.check_lock()?;
        let mut saving = self.vzdump_target(&job, &guest, vmid, now);
        for line in self.vzdump_lines(&job, &guest, &mut saving) {
            self.say(index, line);
        }
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.config.insert("lock".to_owned(), json!("backup"));
        }
        Ok(saving)
    }

    /// The name and size the backup will have.
    fn vzdump_target(&self, job: &Vzdump, guest: &Guest, vmid: u32, now: Now) -> Saving {
        let kind = guest.kind;
        let pbs = self.storages.get(&job.storage).is_some_and(|s| s.plugin == "pbs");
        let volid = |unix: i64| {
            let (date, id) = (Date::at(unix), &job.storage);
            if pbs {
                let folder = if kind == Kind::Qemu { "vm" } else { "ct" };
                format!("{id}:backup/{folder}/{vmid}/{}", date.rfc3339())
            } else {
                let (word, ext) = (kind.segment(), job.extension(kind));
                format!("{id}:backup/vzdump-{word}-{vmid}-{}.{ext}", date.name())
            }
        };
        // Names have seconds. A simulated backup may take less than one, a real one does not.
        let mut ctime = now.unix;
        while self.stock.volumes.keys().any(|v| {
            let stem = |t: &str| t.split_once('.').map_or(t.to_owned(), |(s, _)| s.to_owned());
            stem(v) == stem(&volid(ctime))
        }) {
            ctime += 1;
        }
        let disks: u64 = guest.all_volumes().values().sum();
        let share = if matches!(job.compress.as_str(), "" | "0") { 25 } else { 100 };
        let config: Config = guest
            .config
            .iter()
            .filter(|(key, _)| {
                !matches!(key.as_str(), "lock" | "parent") && !crate::world::guests::numbered(key, "unused")
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Saving {
            vmid,
            kind,
            started: now.unix,
            ctime,
            volid: volid(ctime),
            name: guest.name().to_owned(),
            config,
            size: (disks / share).max(4_096),
            last: Vec::new(),
        }
    }

    /// A job is due: its guest is saved, or the lock did not come.
    pub(in crate::world) fn vzdump_due(&mut self, index: usize, now: Now) {
        let Some(state) = self.vzdump_of(index).map(|j| j.progress.state.clone()) else {
            return;
        };
        let saving = match state {
            State::Waiting => return self.vzdump_no_lock(index, now),
            State::Saving(saving) => saving,
            State::New | State::Done => return,
        };
        let fate = self.tasks.all[index].fate.as_ref().map(|i| i.fault.clone());
        match fate {
            Some(Fault::Kill) => return self.vzdump_end(index, Exit::Unexpected, now),
            Some(Fault::Fail { text, leave_lock }) => {
                // The order is for one guest, not for every one of the job.
                self.tasks.all[index].fate = None;
                if !leave_lock {
                    self.unlock_backup(saving.vmid);
                }
                self.vzdump_failed(index, saving.vmid, &text, now);
            }
            _ => {
                self.unlock_backup(saving.vmid);
                if let Err(text) = self.vzdump_store(index, &saving, now) {
                    self.vzdump_failed(index, saving.vmid, &text, now);
                }
            }
        }
        self.vzdump_next(index, now);
    }

    fn unlock_backup(&mut self, vmid: u32) {
        if let Some(guest) = self.guests.get_mut(&vmid)
            && guest.lock() == Some("backup")
        {
            guest.config.remove("lock");
        }
    }

    /// Writes the backup, and prunes.
    fn vzdump_store(&mut self, index: usize, saving: &Saving, now: Now) -> Result<(), String> {
        let job = self.vzdump_of(index).cloned().ok_or("no such job")?;
        let storage = self.active_storage(&job.storage).map_err(|r| r.text)?;
        if storage.used.saturating_add(saving.size) > storage.total {
            return Err(match saving.kind {
                Kind::Qemu => "vma_queue_write: write error - Broken pipe".to_owned(),
                Kind::Lxc => "archiver failed: No space left on device".to_owned(),
            });
        }
        for line in &saving.last {
            self.say(index, line.clone());
        }
        let notes = job.notes_of(self, saving.vmid, &saving.name);
        if !notes.is_empty() {
            self.say(index, "INFO: adding notes to backup");
        }
        if job.protected {
            self.say(index, "INFO: marking backup as protected");
        }
        let format = self.parse_volume(&saving.volid).map_err(|r| r.text)?.1.format;
        let volume = Volume {
            content: "backup".to_owned(),
            format,
            size: saving.size,
            ctime: saving.ctime,
            vmid: Some(saving.vmid),
            notes,
            protected: job.protected,
            saved: Some(SavedGuest { kind: saving.kind, config: saving.config.clone() }),
            ..Volume::default()
        };
        self.put_volume(&job.storage, &saving.volid, volume);
        let keep = job.keep.clone().unwrap_or_else(|| self.storage_keep(&job.storage));
        if job.remove && !keep.keeps_all() {
            self.say(index, format!("INFO: prune older backups with retention: {}", keep.describe()));
            let gone = self.prune(&job.storage, &keep, Some(saving.vmid), Some(saving.kind));
            for volid in &gone {
                self.say(index, format!("INFO: removing backup '{volid}'"));
            }
            let line = format!("INFO: pruned {} backup(s) not covered by keep-retention policy", gone.len());
            self.say(index, line);
        }
        let seconds = (now.unix - saving.started).max(0);
        self.say(index, format!("INFO: Finished Backup of VM {} ({})", saving.vmid, took(seconds)));
        self.say(index, format!("INFO: Backup finished at {}", stamp(now)));
        Ok(())
    }

    /// `DELETE` of the task: the worker cleans up and says so.
    pub(in crate::world) fn vzdump_interrupted(&mut self, index: usize, now: Now) {
        let text = "interrupted by signal";
        let state = self.vzdump_of(index).map(|j| j.progress.state.clone());
        if let Some(State::Saving(saving)) = state {
            self.unlock_backup(saving.vmid);
            self.say(index, format!("ERROR: {text}"));
            self.say(index, "INFO: aborting backup job");
            if saving.kind == Kind::Qemu {
                self.say(index, "INFO: resuming VM again");
            }
            self.vzdump_failed(index, saving.vmid, text, now);
            self.say(index, format!("ERROR: Backup job failed - {text}"));
            self.say(index, NOTIFIED);
        }
        self.vzdump_end(index, Exit::Error(text.to_owned()), now);
    }
}
