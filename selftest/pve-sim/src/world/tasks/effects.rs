//! Power, snapshots and configuration: what a task checks at its beginning and does at its end.

use serde_json::{Value, json};

use crate::world::jobs::Failure;
use crate::world::{AuthId, Guest, Job, Kind, Now, Running, World};

impl World {
    /// The preconditions, and what is visible while the task runs; the log lines of its beginning.
    pub(in crate::world) fn prepare(
        &mut self,
        now: Now,
        kind: Kind,
        vmid: u32,
        job: &Job,
    ) -> Result<Vec<String>, String> {
        match job {
            Job::Create(order) => return self.prepare_create(kind, vmid, order),
            Job::Clone(order) => return self.prepare_clone(kind, vmid, order),
            Job::Template | Job::Destroy { .. } | Job::Resize { .. } | Job::Move(_) => {
                return self.prepare_change(kind, vmid, job);
            }
            _ => {}
        }
        let guest = self.guest(kind, vmid).map_err(|r| r.text)?.clone();
        let mut log = Vec::new();
        let lock = match job {
            Job::Start => {
                prepare_start(vmid, &guest)?;
                if let Some(volume) = self.missing_volume(&guest) {
                    return Err(self.gone_text(volume));
                }
                None
            }
            Job::Stop | Job::Shutdown | Job::ShutdownOrStop => {
                // Stopping what is stopped ends well before the lock is looked at.
                if guest.running.is_some() {
                    guest.check_lock()?;
                }
                None
            }
            Job::Reboot | Job::Reset | Job::Suspend | Job::Resume => {
                if !(matches!(job, Job::Resume) && guest.lock() == Some("suspended")) {
                    guest.check_lock()?;
                }
                None
            }
            Job::SuspendToDisk { .. } => {
                guest.check_lock()?;
                Some("suspending")
            }
            Job::Snapshot { name, description, vmstate } => {
                let lines = self.prepare_snapshot(vmid, &guest, name, *vmstate)?;
                log.extend(lines);
                let memory = self.state_volume(vmid, &guest, &format!("state-{name}"));
                if let Ok(guest) = self.guest_mut(kind, vmid) {
                    guest.prepare_snapshot(name, description, *vmstate, now);
                    if let Some(snapshot) = guest.snapshots.get_mut(name).filter(|s| s.vmstate) {
                        snapshot.config.insert("vmstate".to_owned(), json!(memory));
                        snapshot.config.insert("runningmachine".to_owned(), json!("pc-i440fx-10.0+pve0"));
                    }
                }
                None
            }
            Job::Rollback { name, .. } => {
                self.prepare_rollback(&guest, name)?;
                Some("rollback")
            }
            Job::DeleteSnapshot { name, .. } => {
                if !guest.snapshots.contains_key(name) {
                    return Err(format!("snapshot '{name}' does not exist"));
                }
                guest.check_lock()?;
                if let Ok(guest) = self.guest_mut(kind, vmid)
                    && let Some(snapshot) = guest.snapshots.get_mut(name)
                {
                    // A half-made one stays recognisable: its volumes may have no such snapshot.
                    snapshot.snapstate.get_or_insert_with(|| "delete".to_owned());
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
            _ => None,
        };
        if let Ok(guest) = self.guest_mut(kind, vmid) {
            if let Some(lock) = lock {
                guest.config.insert("lock".to_owned(), lock.into());
            }
            if matches!(job, Job::Rollback { .. }) {
                // The running guest is stopped hard before its volumes are touched.
                guest.halt();
            }
        }
        Ok(log)
    }

    /// What a storage says of a disk that is gone. Not recorded.
    fn gone_text(&self, volume: &str) -> String {
        let (id, name) = volume.split_once(':').unwrap_or(("", volume));
        match self.storages.get(id).map(|s| (s.plugin.as_str(), &s.thin)) {
            Some(("lvm" | "lvmthin", thin)) => {
                let vg = thin.as_ref().map_or("pve", |t| t.vg.as_str());
                format!("no such logical volume {vg}/{name}")
            }
            _ => format!("volume '{volume}' does not exist"),
        }
    }

    fn prepare_snapshot(
        &self,
        vmid: u32,
        guest: &Guest,
        name: &str,
        vmstate: bool,
    ) -> Result<Vec<String>, String> {
        if guest.is_template() {
            return Err("you can't take a snapshot if it's a template".to_owned());
        }
        guest.check_lock()?;
        if guest.snapshots.contains_key(name) {
            return Err(format!("snapshot name '{name}' already used"));
        }
        if !self.snapshot_feature(guest) {
            return Err("snapshot feature is not available".to_owned());
        }
        let mut log = Vec::new();
        if guest.kind == Kind::Qemu {
            let runs = guest.running.is_some();
            if vmstate && runs {
                let volume = self.state_volume(vmid, guest, &format!("state-{name}"));
                let (id, image) = volume.split_once(':').unwrap_or(("local", &volume));
                if let Some(storage) = self.storages.get(id).filter(|s| s.has_files()) {
                    // Twice the memory and half a gigabyte.
                    let bytes = guest.max_mem().saturating_mul(2).saturating_add(500 << 20);
                    log.push(format!(
                        "Formatting '{}/images/{image}', fmt=raw size={bytes} preallocation=off",
                        storage.path(id)
                    ));
                }
                log.push(format!("saving VM state and RAM using storage '{id}'"));
                log.push("192.00 B in 0s".to_owned());
                log.push("completed saving the VM state in 0s, saved 880.22 KiB".to_owned());
            }
            for (key, volume) in guest.volumes() {
                log.push(format!("snapshotting 'drive-{key}' ({volume})"));
                if runs && volume.ends_with(".qcow2") {
                    log.push("internal qemu snapshot".to_owned());
                }
            }
        }
        Ok(log)
    }

    fn prepare_rollback(&self, guest: &Guest, name: &str) -> Result<(), String> {
        if guest.is_template() {
            return Err("you can't rollback if vm is a template".to_owned());
        }
        let Some(snapshot) = guest.snapshots.get(name) else {
            return Err(format!("snapshot '{name}' does not exist"));
        };
        if let Some(volume) = self.newest_only_volume(guest)
            && guest.newest_snapshot() != Some(name)
        {
            return Err(format!("can't rollback, '{name}' is not most recent snapshot on '{volume}'"));
        }
        if let Some(state) = &snapshot.snapstate {
            return Err(format!("unable to rollback to incomplete snapshot (snapstate = {state})"));
        }
        guest.check_lock()
    }

    /// Does the work; the log lines it writes.
    pub(in crate::world) fn apply(
        &mut self,
        now: Now,
        who: &AuthId,
        kind: Kind,
        vmid: u32,
        job: &Job,
    ) -> Result<Vec<String>, Failure> {
        match job {
            Job::Create(order) => return Ok(self.apply_create(now, who, kind, vmid, order)?),
            Job::Clone(order) => return Ok(self.apply_clone(kind, vmid, order)?),
            Job::Template | Job::Destroy { .. } | Job::Resize { .. } | Job::Move(_) => {
                return Ok(self.apply_change(kind, vmid, job)?);
            }
            Job::DeleteSnapshot { name, force } => return self.delete_snapshot(kind, vmid, name, *force),
            _ => {}
        }
        let genid = self.fresh_uuid();
        let pid = self.tasks.fresh_pid();
        let running = Running { pid, since: now.unix };
        let memory = match (job, self.guest(kind, vmid)) {
            (Job::SuspendToDisk { storage: Some(storage) }, _) => {
                format!("{storage}:vm-{vmid}-state-suspend")
            }
            (Job::SuspendToDisk { .. }, Ok(guest)) => self.state_volume(vmid, guest, "state-suspend"),
            _ => String::new(),
        };
        let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
        let mut log = Vec::new();
        match job {
            Job::Start => {
                guest.launch(running);
                log.extend(iothread_warnings(guest));
            }
            Job::Stop => guest.halt(),
            Job::Shutdown if guest.deaf && guest.running.is_some() => {
                return Err(Failure::from(match kind {
                    Kind::Qemu => "VM quit/powerdown failed - got timeout".to_owned(),
                    Kind::Lxc => {
                        format!("command 'lxc-stop -n {vmid} --nokill --timeout 60' failed: exit code 1")
                    }
                }));
            }
            Job::ShutdownOrStop if guest.deaf && guest.running.is_some() => {
                if kind == Kind::Qemu {
                    log.push("VM still running - terminating now with SIGTERM".to_owned());
                }
                guest.halt();
            }
            Job::Shutdown | Job::ShutdownOrStop => guest.halt(),
            Job::Reboot if guest.deaf => {
                return Err(Failure::from("VM quit/powerdown failed - got timeout".to_owned()));
            }
            Job::Reboot => {
                guest.halt();
                guest.launch(running);
            }
            Job::Suspend => guest.paused = true,
            Job::SuspendToDisk { .. } => {
                guest.halt();
                guest.config.insert("lock".to_owned(), json!("suspended"));
                guest.config.insert("vmstate".to_owned(), json!(memory));
            }
            Job::Resume if guest.running.is_none() => guest.launch(running),
            Job::Resume => guest.paused = false,
            Job::Snapshot { name, .. } => {
                guest.commit_snapshot(name);
                let guest = guest.clone();
                self.charge_snapshot(&guest);
            }
            Job::Rollback { name, start } => {
                let resumes = guest.apply_snapshot(name, genid);
                if resumes || *start {
                    guest.launch(running);
                }
            }
            Job::Config(changes) => self.change(kind, vmid, changes)?,
            _ => {}
        }
        Ok(log)
    }

    /// The volume a machine's memory goes to: it lies beside its first disk.
    fn state_volume(&self, vmid: u32, guest: &Guest, what: &str) -> String {
        let first = guest.volumes().first().map_or("local", |(_, v)| v.split(':').next().unwrap_or("local"));
        if self.storages.get(first).is_some_and(crate::world::Storage::has_files) {
            format!("{first}:{vmid}/vm-{vmid}-{what}.raw")
        } else {
            format!("{first}:vm-{vmid}-{what}")
        }
    }

    /// A snapshot that was never finished has no snapshots of its volumes, which only `force`
    /// overlooks. The texts are those of the storages' own tools.
    fn delete_snapshot(
        &mut self,
        kind: Kind,
        vmid: u32,
        name: &str,
        force: bool,
    ) -> Result<Vec<String>, Failure> {
        let guest = self.guest(kind, vmid).map_err(|r| r.text)?;
        let half_made = guest.snapshots.get(name).is_some_and(|s| s.snapstate.as_deref() == Some("prepare"));
        let missing = guest.volumes().into_iter().next().filter(|_| half_made).map(|(_, volume)| {
            let (storage, image) = volume.split_once(':').unwrap_or(("", volume));
            match self.storages.get(storage).map(|s| s.plugin.as_str()) {
                Some("lvmthin") => {
                    let snap = format!("pve/snap_{image}_{name}");
                    format!("lvremove snapshot '{snap}' error:   Failed to find logical volume \"{snap}\"")
                }
                Some("zfspool") => {
                    "zfs error: could not find any snapshots to destroy; check snapshot names.".to_owned()
                }
                _ => format!("command '/usr/bin/qemu-img snapshot -d {name} {image}' failed: exit code 1"),
            }
        });
        let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
        match missing {
            Some(text) if !force => {
                if let Some(snapshot) = guest.snapshots.get_mut(name) {
                    snapshot.snapstate = Some("delete".to_owned());
                }
                Err(Failure { text, leaves_traces: true })
            }
            missing => {
                guest.drop_snapshot(name);
                guest.config.remove("lock");
                Ok(missing.into_iter().collect())
            }
        }
    }

    /// Takes back what [`World::prepare`] made visible.
    pub(in crate::world) fn undo(&mut self, kind: Kind, vmid: u32, job: &Job) {
        match job {
            Job::Create(_) => {
                self.release_id(vmid);
                return;
            }
            Job::Clone(order) => {
                self.release_id(order.newid);
                if kind == Kind::Qemu {
                    return;
                }
            }
            _ => {}
        }
        let Ok(guest) = self.guest_mut(kind, vmid) else {
            return;
        };
        match job {
            Job::Snapshot { name, .. } => {
                guest.snapshots.remove(name);
            }
            Job::DeleteSnapshot { name, .. } => {
                if let Some(snapshot) = guest.snapshots.get_mut(name)
                    && snapshot.snapstate.as_deref() == Some("delete")
                {
                    snapshot.snapstate = None;
                }
            }
            Job::Rollback { .. } | Job::SuspendToDisk { .. } | Job::Clone(_) | Job::Move(_) => {}
            _ => return,
        }
        guest.config.remove("lock");
    }
}

/// The recorded warning of a start.
pub(in crate::world) fn iothread_warnings(guest: &Guest) -> Vec<String> {
    let single = guest.text("scsihw") == Some("virtio-scsi-single");
    guest
        .volumes()
        .into_iter()
        .filter(|(key, _)| guest.kind == Kind::Qemu && !single && key.starts_with("scsi"))
        .filter(|(key, _)| guest.text(key).is_some_and(|t| t.split(',').any(|p| p == "iothread=1")))
        .map(|_| {
            "WARN: iothread is only valid with virtio disk or virtio-scsi-single controller, ignoring"
                .to_owned()
        })
        .collect()
}

/// A suspended machine may be started although it is locked: that is how it is woken.
fn prepare_start(vmid: u32, guest: &Guest) -> Result<(), String> {
    let label = guest.kind.label();
    if guest.is_template() {
        let what = if guest.kind == Kind::Qemu { "vm" } else { "CT" };
        return Err(format!("you can't start a {what} if it's a template"));
    }
    if guest.lock() != Some("suspended") {
        guest.check_lock()?;
    }
    if guest.running.is_some() {
        return Err(format!("{label} {vmid} already running"));
    }
    Ok(())
}

/// A value as it appears in a log line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
