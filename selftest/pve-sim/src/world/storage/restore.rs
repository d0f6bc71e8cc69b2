//! Restoring guests from backups, with everything that can go wrong half-way.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::world::calendar::Date;
use crate::world::disks::{drive_text, parse_new_disk, rest_of, size_of, unused_key, volumes_of};
use crate::world::guests::numbered;
use crate::world::volumes::SavedGuest;
use crate::world::{AuthId, Config, Guest, Job, Kind, Now, Release, Running, StorageJob, World};

/// An order to restore a guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Restore {
    /// Virtual machine or container.
    pub kind: Kind,
    /// The VMID it gets.
    pub vmid: u32,
    /// The backup.
    pub volid: String,
    /// The storage of all disks; `None` takes where they were.
    pub storage: Option<String>,
    /// New MAC addresses and a new smbios UUID.
    pub unique: bool,
    /// Start it afterwards.
    pub start: bool,
    /// Over an existing guest.
    pub force: bool,
    /// Options that win over those of the backup.
    pub overrides: Config,
    /// Mount points of a container that replace those of the backup.
    pub layout: BTreeMap<String, String>,
    /// The pool it is put into.
    pub pool: Option<String>,
    /// The configuration that was there before.
    pub before: Option<Config>,
}

impl World {
    /// Reserves the VMID before the task: the file exists from here on, with `lock: create`.
    /// The error is that of the API call.
    pub fn restore_reserve(&mut self, order: &mut Restore) -> Result<(), String> {
        let (kind, vmid) = (order.kind, order.vmid);
        match self.guests.get_mut(&vmid) {
            None => {
                let config = Config::from([("lock".to_owned(), json!("create"))]);
                self.guests.insert(vmid, Guest::new(kind, config));
            }
            Some(guest) if order.force && guest.kind == kind => {
                guest.check_lock()?;
                order.before = Some(guest.config.clone());
                guest.config.insert("lock".to_owned(), json!("create"));
            }
            Some(guest) => {
                let label = guest.kind.label();
                return Err(format!("{label} {vmid} already exists on node '{}'", self.node));
            }
        }
        Ok(())
    }

    fn restore_say(&mut self, index: usize, lines: impl IntoIterator<Item = String>) {
        if let Some(task) = self.tasks.all.get_mut(index) {
            task.log.extend(lines);
        }
    }

    /// The beginning of the worker: what it checks first, and then, with `force`, the destruction of
    /// the guest that was there.
    pub(in crate::world) fn restore_start(&mut self, index: usize, _now: Now) -> Result<(), String> {
        let Some(task) = self.tasks.all.get(index) else {
            return Ok(());
        };
        let (pid, who) = (task.upid.pid, task.upid.user.clone());
        let Job::Storage(StorageJob::Restore(order)) = task.job.clone() else {
            return Ok(());
        };
        match self.restore_checks(index, &order, &who, pid) {
            Ok(()) => {
                self.restore_destroy(&order);
                Ok(())
            }
            Err(text) => {
                // Nothing was destroyed yet. A container that was there stays; the empty
                // configuration that reserved a machine's VMID stays too, as the published sources
                // have it.
                match &order.before {
                    Some(_) => self.unlock_create(order.vmid),
                    None => self.restore_failed(&order, false, false),
                }
                Err(order.failure(&text))
            }
        }
    }

    fn unlock_create(&mut self, vmid: u32) {
        if let Some(guest) = self.guests.get_mut(&vmid)
            && guest.lock() == Some("create")
        {
            guest.config.remove("lock");
        }
    }

    fn restore_checks(
        &mut self,
        index: usize,
        order: &Restore,
        who: &AuthId,
        pid: u32,
    ) -> Result<(), String> {
        let (vmid, volid) = (order.vmid, &order.volid);
        let label = order.kind.label();
        let old = self.guests.get(&vmid).filter(|_| order.before.is_some());
        if let Some(old) = old {
            if old.config.get("protection") == Some(&json!(1)) {
                // The text has two dashes in the published sources.
                return Err(format!("unable to restore {label} {vmid} - - protection mode enabled"));
            }
            if old.running.is_some() {
                return Err(format!("unable to restore {label} {vmid} - vm is running"));
            }
        }
        let path = self.volume_path(volid).map_err(|r| r.text)?;
        let (storage, _) = self.parse_volume(volid).map_err(|r| r.text)?;
        self.active_storage(&storage).map_err(|r| r.text)?;
        if order.kind == Kind::Lxc {
            let line = format!("recovering backed-up configuration from '{volid}'");
            self.restore_say(index, [line]);
        } else if self.storages.get(&storage).is_none_or(|s| s.plugin != "pbs") {
            let unpack = match path.rsplit('.').next() {
                Some("zst") => format!("zstd -q -d -c {path} | "),
                Some("gz") => format!("zcat {path} | "),
                Some("lzo") => format!("lzop -d -c {path} | "),
                _ => String::new(),
            };
            let source = if unpack.is_empty() { path.as_str() } else { "-" };
            let tmp = format!("/var/tmp/vzdumptmp{pid}");
            let line = format!("restore vma archive: {unpack}vma extract -v -r {tmp}.fifo {source} {tmp}");
            self.restore_say(index, [line]);
        }
        let volume = self.volume(volid).ok_or(format!("volume '{volid}' does not exist"))?;
        let saved = volume.saved.clone().ok_or("archive contains no configuration file")?;
        if saved.kind != order.kind {
            return Err("archive contains no configuration file".to_owned());
        }
        if order.kind == Kind::Qemu {
            let made = Date::at(volume.ctime).ctime();
            let mut lines = vec!["CFG: size: 434 name: qemu-server.conf".to_owned()];
            for (n, (key, text)) in drives(&saved).into_iter().enumerate() {
                let size = size_of(&text);
                lines.push(format!("DEV: dev_id={} size: {size} devname: drive-{key}", n + 1));
            }
            lines.push(format!("CTIME: {made}"));
            self.restore_say(index, lines);
        }
        self.restore_rights(order, &saved, who)?;
        for (_, storage, _) in self.restore_layout(order, &saved) {
            let wanted = if order.kind == Kind::Qemu { "images" } else { "rootdir" };
            let place = self.active_storage(&storage).map_err(|r| r.text)?;
            if !place.holds(wanted) {
                return Err(format!("storage '{storage}' does not support content-type '{wanted}'"));
            }
            let path = format!("/storage/{storage}");
            self.access
                .require(who, &path, &["Datastore.AllocateSpace"])
                .map_err(|r| format!("403 {}", r.text))?;
        }
        Ok(())
    }

    /// The rights the restored configuration takes: bridges, and for containers what only root may.
    fn restore_rights(&self, order: &Restore, saved: &SavedGuest, who: &AuthId) -> Result<(), String> {
        let need = |path: &str, privilege: &str| {
            self.access.require(who, path, &[privilege]).map_err(|r| format!("403 {}", r.text))
        };
        let mut config = saved.config.clone();
        config.extend(order.overrides.clone());
        for (_, value) in config.iter().filter(|(key, _)| numbered(key, "net")) {
            let text = value.as_str().unwrap_or_default();
            let bridge = text.split(',').find_map(|p| p.strip_prefix("bridge="));
            if let Some(bridge) = bridge {
                need(&format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use")?;
            }
        }
        let root = who.user == "root@pam" && who.token.is_none();
        let raw = |key: &str, word: &str| {
            config.iter().any(|(k, v)| {
                numbered(k, key) && v.as_str().is_some_and(|t| t.split(',').any(|p| p.starts_with(word)))
            })
        };
        if order.kind == Kind::Qemu {
            if !root && (raw("hostpci", "host=") || raw("usb", "host=")) {
                return Err("only root can restore a VM with raw host devices; use a mapping".to_owned());
            }
            return Ok(());
        }
        let bind = volumes_of(Kind::Lxc, &saved.config).find(|(_, v)| v.starts_with('/'));
        if let Some((key, _)) = bind.filter(|_| !root && order.layout.is_empty()) {
            return Err(format!("restoring '{key}' to bind mount is only possible for root"));
        }
        if config.get("unprivileged") != Some(&json!(1)) && self.release == Release::V9 && !root {
            need("/", "Sys.Modify")?;
        }
        Ok(())
    }

    /// Key, storage and size of every disk the restored guest will have.
    fn restore_layout(&self, order: &Restore, saved: &SavedGuest) -> Vec<(String, String, u64)> {
        if order.kind == Kind::Lxc && !order.layout.is_empty() {
            let disks = order.layout.iter().filter_map(|(key, text)| parse_new_disk(key, text));
            let mut found: Vec<_> = disks.map(|disk| (disk.key, disk.storage, disk.bytes)).collect();
            found.sort_by_key(|(key, ..)| key != "rootfs");
            return found;
        }
        drives(saved)
            .into_iter()
            .map(|(key, text)| {
                let old = text.split(':').next().unwrap_or_default().to_owned();
                (key, order.storage.clone().unwrap_or(old), size_of(&text))
            })
            .collect()
    }

    /// What `force` does first. A container loses everything at once. A machine loses the disks that
    /// the backup has too, and its snapshots with them; its configuration file still names them.
    fn restore_destroy(&mut self, order: &Restore) {
        let Some(before) = &order.before else {
            return;
        };
        let saved = self.volume(&order.volid).and_then(|v| v.saved.clone());
        let Some(guest) = self.guests.get_mut(&order.vmid) else {
            return;
        };
        let all = guest.all_volumes();
        guest.running = None;
        match order.kind {
            Kind::Lxc => {
                guest.snapshots.clear();
                guest.config = Config::from([("lock".to_owned(), json!("create"))]);
                for (volume, bytes) in all {
                    self.free(&volume, bytes);
                }
            }
            Kind::Qemu => {
                let in_backup: Vec<String> = saved.iter().flat_map(drives).map(|(key, _)| key).collect();
                for (key, volume) in volumes_of(Kind::Qemu, before) {
                    if in_backup.iter().any(|k| k == key) {
                        let bytes = size_of(before.get(key).and_then(Value::as_str).unwrap_or_default());
                        self.free(volume, bytes);
                        self.stock.gone.insert(volume.to_owned());
                    }
                }
            }
        }
    }

    /// The end of a restore that failed: nothing is left of a container, and of a machine only its
    /// configuration. With `locked` even the lock stays. A killed worker takes nothing back.
    pub(in crate::world) fn restore_failed(&mut self, order: &Restore, locked: bool, killed: bool) {
        if order.kind == Kind::Lxc && !locked && !killed {
            self.guests.remove(&order.vmid);
        } else if !locked {
            self.unlock_create(order.vmid);
        }
    }

    /// The end of a restore that went well; the last log lines.
    pub(in crate::world) fn restore_apply(
        &mut self,
        order: &Restore,
        now: Now,
    ) -> Result<Vec<String>, String> {
        let vmid = order.vmid;
        // While disks are made only the new ones and those that stay are in the configuration, so
        // that an old name that is free again does not count as taken.
        let parked = self.guests.remove(&vmid);
        let mut spare = Config::new();
        if let Some(before) = order.before.as_ref().filter(|_| order.kind == Kind::Qemu) {
            let stays = volumes_of(Kind::Qemu, before).filter(|(_, v)| !self.stock.gone.contains(*v));
            for (_, volume) in stays {
                spare.insert(unused_key(&spare), json!(volume));
            }
        }
        self.guests.insert(vmid, Guest::new(order.kind, spare.clone()));
        match self.restore_build(order) {
            Ok((mut config, lines)) => {
                config.extend(spare);
                let pid = self.tasks.fresh_pid();
                let mut guest = Guest::new(order.kind, config);
                guest.running = order.start.then_some(Running { pid, since: now.unix });
                let held = guest.all_volumes();
                self.stock.gone.retain(|volume| !held.contains_key(volume));
                for (_, volume) in order.before.iter().flat_map(|c| volumes_of(order.kind, c)) {
                    self.stock.gone.remove(volume);
                }
                self.guests.insert(vmid, guest);
                let pool = order.pool.as_ref().and_then(|name| self.access.pools.get_mut(name));
                if let Some(pool) = pool {
                    pool.guests.insert(vmid);
                }
                Ok(lines)
            }
            Err(text) => {
                self.guests.remove(&vmid);
                if let Some(parked) = parked {
                    self.guests.insert(vmid, parked);
                }
                self.restore_failed(order, false, false);
                Err(order.failure(&text))
            }
        }
    }

    /// Allocates the disks and puts the new configuration together.
    fn restore_build(&mut self, order: &Restore) -> Result<(Config, Vec<String>), String> {
        let saved = self.volume(&order.volid).and_then(|v| v.saved.clone());
        let saved = saved.ok_or(format!("archive '{}' does not exist", order.volid))?;
        let old = drives(&saved);
        let mut config = saved.config.clone();
        match order.kind {
            Kind::Lxc => config.retain(|key, _| key != "rootfs" && !numbered(key, "mp")),
            // What was left out of the backup has no data to come back.
            Kind::Qemu => {
                let left_out: Vec<String> = volumes_of(Kind::Qemu, &saved.config)
                    .map(|(key, _)| key.to_owned())
                    .filter(|key| !old.iter().any(|(k, _)| k == key))
                    .collect();
                config.retain(|key, _| !left_out.contains(key));
            }
        }
        let mut lines = Vec::new();
        for (key, storage, bytes) in self.restore_layout(order, &saved) {
            let text = old.iter().find(|(k, _)| *k == key).map(|(_, t)| t.as_str()).unwrap_or_default();
            let text = order.layout.get(&key).map_or(text, String::as_str);
            let format = format_of(text);
            let (volume, said) = self.allocate(&storage, order.kind, order.vmid, bytes, format.as_deref())?;
            lines.extend(said);
            let new = drive_text(&volume, &rest_of(text), bytes);
            if order.kind == Kind::Qemu {
                let path = self.volume_path(&volume).unwrap_or_default();
                lines.push(format!("new volume ID is '{volume}'"));
                lines.push(format!("map 'drive-{key}' to '{path}' (write zeros = 0)"));
            } else if !volume.contains("subvol-") {
                lines.push(format!("Creating filesystem with {} 4k blocks and 65536 inodes", bytes >> 12));
                lines.push(format!("Filesystem UUID: {}", self.fresh_uuid()));
                lines.push("Superblock backups stored on blocks: ".to_owned());
                lines.push("\t32768, 98304, 163840, 229376".to_owned());
            }
            config.insert(key.clone(), json!(new));
            if let Some(guest) = self.guests.get_mut(&order.vmid) {
                guest.config.insert(key, json!(new));
            }
        }
        let total: u64 = old.iter().map(|(_, text)| size_of(text)).sum();
        match order.kind {
            Kind::Qemu => {
                let read = |percent: u64| total / 100 * percent;
                lines.extend(
                    (1..=100).map(|n| format!("progress {n}% (read {} bytes, duration 0 sec)", read(n))),
                );
                lines.push(format!("total bytes read {total}, sparse bytes {total} (100%)"));
                lines.push("space reduction due to 4K zero blocks 0%".to_owned());
                lines.push("rescan volumes...".to_owned());
            }
            Kind::Lxc => {
                let path = self.volume_path(&order.volid).map_err(|r| r.text)?;
                lines.push(format!("restoring '{}' now..", order.volid));
                lines.push(format!("extracting archive '{path}'"));
                lines.push(format!("Total bytes read: {total} ({}MiB, 100MiB/s)", total >> 20));
                lines.push("merging backed-up and given configuration..".to_owned());
            }
        }
        // Raw lines are root's alone.
        let raw: Vec<String> = config.keys().filter(|key| key.starts_with("lxc.")).cloned().collect();
        for key in raw {
            config.remove(&key);
            lines.push(format!("WARN: skipping custom lxc option '{key}': only root can restore it"));
        }
        self.restore_identity(order, &mut config);
        config.extend(order.overrides.clone());
        Ok((config, lines))
    }

    /// A restored machine always gets a new generation id; with `unique` it and a container become
    /// another guest.
    fn restore_identity(&mut self, order: &Restore, config: &mut Config) {
        if config.contains_key("vmgenid") {
            let fresh = self.fresh_uuid();
            config.insert("vmgenid".to_owned(), json!(fresh));
        }
        if !order.unique {
            return;
        }
        if order.kind == Kind::Qemu {
            let fresh = self.fresh_uuid();
            let rest = config.get("smbios1").and_then(Value::as_str).unwrap_or_default().to_owned();
            let mut parts = vec![format!("uuid={fresh}")];
            parts.extend(
                rest.split(',').filter(|p| !p.is_empty() && !p.starts_with("uuid=")).map(str::to_owned),
            );
            config.insert("smbios1".to_owned(), json!(parts.join(",")));
        }
        let nets: Vec<String> = config.keys().filter(|key| numbered(key, "net")).cloned().collect();
        for key in nets {
            let mac = self.fresh_mac();
            if let Some(text) = config.get(&key).and_then(Value::as_str).map(|t| with_mac(t, &mac)) {
                config.insert(key, json!(text));
            }
        }
    }
}

impl Restore {
    /// The text of a failure, with the prefix that containers have.
    fn failure(&self, text: &str) -> String {
        match self.kind {
            Kind::Lxc => format!("unable to restore CT {} - {text}", self.vmid),
            Kind::Qemu => text.to_owned(),
        }
    }
}

/// The format a disk had.
fn format_of(text: &str) -> Option<String> {
    let volume = text.split(',').next().unwrap_or_default();
    let ext = volume.rsplit_once('.')?.1;
    matches!(ext, "qcow2" | "vmdk").then(|| ext.to_owned())
}

/// Key and property string of every disk a backup has.
fn drives(saved: &SavedGuest) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = volumes_of(saved.kind, &saved.config)
        .filter(|(_, volume)| volume.contains(':') && !volume.starts_with('/'))
        .filter_map(|(key, _)| Some((key.to_owned(), saved.config.get(key)?.as_str()?.to_owned())))
        .filter(|(_, text)| {
            let off = |p: &str| matches!(p, "backup=0" | "backup=no");
            saved.kind == Kind::Lxc || !text.split(',').any(off)
        })
        .collect();
    // The root comes before what is mounted in it.
    found.sort_by_key(|(key, _)| key != "rootfs");
    found
}

/// A network interface with another address.
fn with_mac(text: &str, mac: &str) -> String {
    let is_mac = |v: &str| v.len() == 17 && v.bytes().filter(|b| *b == b':').count() == 5;
    let parts: Vec<String> = text
        .split(',')
        .map(|part| match part.split_once('=') {
            Some((key, value)) if is_mac(value) => format!("{key}={mac}"),
            _ => part.to_owned(),
        })
        .collect();
    parts.join(",")
}
