//! Making, copying and removing guests, and what happens to their disks.

use serde_json::{Value, json};

use crate::world::disks::{NewDisk, drive_text, rest_of, size_of, unused_key};
use crate::world::guests::numbered;
use crate::world::pending::complete_net;
use crate::world::{AuthId, Config, Guest, Job, Kind, Now, Release, World};

/// How to make a guest.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateOrder {
    /// The configuration, without the disks that are to be made.
    pub config: Config,
    /// The disks to make.
    pub disks: Vec<NewDisk>,
    /// The template of a container.
    pub template: Option<String>,
    /// The pool it becomes a member of.
    pub pool: Option<String>,
    /// Whether to start it.
    pub start: bool,
}

/// How to copy a guest.
#[derive(Debug, Clone, PartialEq)]
pub struct CloneOrder {
    /// The VMID of the copy.
    pub newid: u32,
    /// The snapshot to copy; `None` copies the current state.
    pub snapshot: Option<String>,
    /// The name of the copy; `None` derives one.
    pub name: Option<String>,
    /// Its description; `None` keeps that of the original.
    pub description: Option<String>,
    /// The storage of its disks; `None` keeps the original's.
    pub storage: Option<String>,
    /// The format of its disks.
    pub format: Option<String>,
    /// Whether its disks are independent of the original's.
    pub full: bool,
    /// The pool it becomes a member of.
    pub pool: Option<String>,
}

/// Where to move a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveOrder {
    /// The disk's key.
    pub disk: String,
    /// The storage it goes to.
    pub storage: String,
    /// The format it gets there.
    pub format: Option<String>,
    /// Whether the old volume goes.
    pub delete: bool,
}

/// Keys that are not copied to a clone.
fn stays_behind(key: &str) -> bool {
    matches!(key, "lock" | "parent" | "template" | "vmstate" | "digest" | "snaptime" | "snapstate")
        || numbered(key, "unused")
}

impl World {
    /// The id is reserved at once: the configuration exists and is locked.
    pub(in crate::world) fn prepare_create(
        &mut self,
        kind: Kind,
        vmid: u32,
        order: &CreateOrder,
    ) -> Result<Vec<String>, String> {
        self.reserve(kind, vmid, "create", order.pool.as_deref())?;
        Ok(Vec::new())
    }

    fn reserve(&mut self, kind: Kind, vmid: u32, lock: &str, pool: Option<&str>) -> Result<(), String> {
        self.check_vmid_free(vmid)?;
        let config = Config::from([("lock".to_owned(), json!(lock))]);
        self.guests.insert(vmid, Guest::new(kind, config));
        if let Some(pool) = pool.and_then(|name| self.access.pools.get_mut(name)) {
            pool.guests.insert(vmid);
        }
        Ok(())
    }

    /// Takes back what [`World::reserve`] did.
    pub(in crate::world) fn release_id(&mut self, vmid: u32) {
        if let Some(guest) = self.guests.remove(&vmid) {
            for volume in guest.held_volumes() {
                let told = guest.config.values().filter_map(Value::as_str);
                let bytes = told.filter(|t| t.split(',').next() == Some(&volume)).map(size_of).max();
                self.free(&volume, bytes.unwrap_or_default());
            }
        }
        for pool in self.access.pools.values_mut() {
            pool.guests.remove(&vmid);
        }
    }

    /// The refusal of an id that is in use, anywhere in the cluster.
    pub(crate) fn check_vmid_free(&self, vmid: u32) -> Result<(), String> {
        let peers = self.peers.iter().map(|(name, peer)| (name.as_str(), &*peer.world));
        let taken = std::iter::once((self.node.as_str(), self))
            .chain(peers)
            .find_map(|(node, world)| Some((node, world.guests.get(&vmid)?.kind.label())));
        match taken {
            Some((node, label)) => Err(format!("{label} {vmid} already exists on node '{node}'")),
            None => Ok(()),
        }
    }

    pub(in crate::world) fn apply_create(
        &mut self,
        now: Now,
        who: &AuthId,
        kind: Kind,
        vmid: u32,
        order: &CreateOrder,
    ) -> Result<Vec<String>, String> {
        if let Some(template) = order.template.as_ref().filter(|t| self.volume(t).is_none()) {
            return Err(format!("unable to create CT {vmid} - volume '{template}' does not exist"));
        }
        let mut log = Vec::new();
        let mut config = order.config.clone();
        for disk in &order.disks {
            let format = disk.format.as_deref();
            let (volume, lines) = self.allocate(&disk.storage, kind, vmid, disk.bytes, format)?;
            log.extend(lines);
            let text = drive_text(&volume, &disk.rest, disk.bytes);
            if kind == Kind::Qemu {
                log.push(format!("{}: successfully created disk '{text}'", disk.key));
            } else if !volume.contains("subvol-") {
                let blocks = disk.bytes / 4096;
                log.push(format!("Creating filesystem with {blocks} 4k blocks and {} inodes", blocks / 4));
                log.push(format!("Filesystem UUID: {}", self.fresh_uuid()));
                log.push("Superblock backups stored on blocks: ".to_owned());
                log.push("\t32768, 98304, 163840, 229376".to_owned());
            }
            config.insert(disk.key.clone(), json!(text));
            // The next disk's name must not collide with this one's.
            if let Ok(guest) = self.guest_mut(kind, vmid) {
                guest.config.insert(disk.key.clone(), json!(text));
            }
        }
        if let Some(template) = &order.template {
            log.push(format!("extracting archive '{}'", self.template_path(template)));
            log.push("Total bytes read: 2048000 (2.0MiB, 107MiB/s)".to_owned());
            if config.get("ostype") == Some(&json!("unmanaged")) {
                if self.release == Release::V8 {
                    log.push("implement me in sub-class".to_owned());
                    log.push(" at /usr/share/perl5/PVE/LXC/Setup.pm line 146.".to_owned());
                    log.push("Architecture detection failed: error in setup task (eval)".to_owned());
                }
                log.push("Falling back to amd64.".to_owned());
                log.push("Use `pct set VMID --arch ARCH` to change.".to_owned());
            } else {
                log.push("Detected container architecture: amd64".to_owned());
            }
        }
        self.identify(kind, vmid, &mut config, now);
        let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
        guest.config = config;
        if order.start {
            log.push("Execute autostart".to_owned());
            self.begin(now, who, kind, vmid, Job::Start);
        }
        Ok(log)
    }

    fn template_path(&self, volume: &str) -> String {
        let (storage, name) = volume.split_once(':').unwrap_or(("local", volume));
        let name = name.strip_prefix("vztmpl/").unwrap_or(name);
        let root = self.storages.get(storage).map(|s| s.path(storage)).unwrap_or_default();
        format!("{root}/template/cache/{name}")
    }

    /// Gives a new guest what tells it from others, unless the request did.
    fn identify(&mut self, kind: Kind, vmid: u32, config: &mut Config, now: Now) {
        let nets: Vec<String> = config.keys().filter(|key| numbered(key, "net")).cloned().collect();
        for key in nets {
            let mac = self.fresh_mac();
            if let Some(Value::String(text)) = config.get(&key) {
                let text = complete_net(kind, text, &mac);
                config.insert(key, json!(text));
            }
        }
        match kind {
            Kind::Qemu => {
                let (uuid, genid) = (self.fresh_uuid(), self.fresh_uuid());
                let has_uuid = config
                    .get("smbios1")
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.split(',').any(|p| p.starts_with("uuid=")));
                if !has_uuid {
                    let rest = config.get("smbios1").and_then(Value::as_str).unwrap_or_default();
                    let comma = if rest.is_empty() { "" } else { "," };
                    let text = format!("uuid={uuid}{comma}{rest}");
                    config.insert("smbios1".to_owned(), json!(text));
                }
                config.entry("vmgenid".to_owned()).or_insert(json!(genid));
                let meta = format!("creation-qemu=10.0.13,ctime={}", now.unix);
                config.entry("meta".to_owned()).or_insert(json!(meta));
                if !config.contains_key("boot") {
                    let order = default_boot(config);
                    if !order.is_empty() {
                        config.insert("boot".to_owned(), json!(format!("order={order}")));
                    }
                }
            }
            Kind::Lxc => {
                config.entry("hostname".to_owned()).or_insert(json!(format!("CT{vmid}")));
                config.entry("arch".to_owned()).or_insert(json!("amd64"));
            }
        }
    }

    pub(in crate::world) fn prepare_clone(
        &mut self,
        kind: Kind,
        vmid: u32,
        order: &CloneOrder,
    ) -> Result<Vec<String>, String> {
        let lock = if kind == Kind::Qemu { "clone" } else { "create" };
        let source = self.guest(kind, vmid).map_err(|r| r.text)?.clone();
        self.reserve(kind, order.newid, lock, order.pool.as_deref())?;
        if kind == Kind::Lxc
            && let Ok(guest) = self.guest_mut(kind, vmid)
        {
            // A container that is being copied is locked, a machine is not.
            guest.config.insert("lock".to_owned(), json!("disk"));
        }
        let mut log = Vec::new();
        if kind == Kind::Qemu {
            log.push(format!("creating a clone of VM {vmid} with ID {}", order.newid));
        }
        let how = if order.full { "full" } else { "linked" };
        let what = if kind == Kind::Qemu { "drive" } else { "mountpoint" };
        for (key, volume) in crate::world::disks::volumes_of(kind, clone_base(&source, order)) {
            log.push(format!("create {how} clone of {what} {key} ({volume})"));
        }
        Ok(log)
    }

    pub(in crate::world) fn apply_clone(
        &mut self,
        kind: Kind,
        vmid: u32,
        order: &CloneOrder,
    ) -> Result<Vec<String>, String> {
        let source = self.guest(kind, vmid).map_err(|r| r.text)?.clone();
        let base = clone_base(&source, order).clone();
        let mut log = Vec::new();
        let mut config = Config::new();
        for (key, value) in &base {
            let text = value.as_str().unwrap_or_default();
            if stays_behind(key) {
                continue;
            }
            if numbered(key, "net") {
                let text = self.with_fresh_mac(kind, text);
                config.insert(key.clone(), json!(text));
                continue;
            }
            config.insert(key.clone(), value.clone());
        }
        for (key, volume) in crate::world::disks::volumes_of(kind, &base) {
            let text = base.get(key).and_then(Value::as_str).unwrap_or_default();
            let bytes = size_of(text);
            let copy = if order.full {
                let storage = order.storage.clone();
                let storage =
                    storage.unwrap_or_else(|| volume.split(':').next().unwrap_or_default().to_owned());
                let own = volume.rsplit_once('.').map(|(_, ext)| ext);
                let format = order.format.as_deref().or(own);
                let (copy, lines) = self.allocate(&storage, kind, order.newid, bytes, format)?;
                log.extend(lines);
                if kind == Kind::Qemu {
                    if copy.contains('/') {
                        log.push(format!("allocated target volume '{copy}'"));
                    }
                    let all = mebibytes(bytes);
                    log.push(format!("transferred 0.0 B of {all} (0.00%)"));
                    log.extend([
                        format!("transferred {all} of {all} (100.00%)"),
                        format!("transferred {all} of {all} (100.00%)"),
                    ]);
                }
                copy
            } else {
                self.linked_name(kind, volume, order.newid)?
            };
            let text = drive_text(&copy, &rest_of(text), bytes);
            config.insert(key.to_owned(), json!(text));
            if let Ok(guest) = self.guest_mut(kind, order.newid) {
                guest.config.insert(key.to_owned(), json!(text));
            }
        }
        let (uuid, genid) = (self.fresh_uuid(), self.fresh_uuid());
        let (name_key, name) = match kind {
            Kind::Qemu => {
                config.insert("smbios1".to_owned(), json!(format!("uuid={uuid}")));
                config.insert("vmgenid".to_owned(), json!(genid));
                let old = if source.name().is_empty() { vmid.to_string() } else { source.name().to_owned() };
                ("name", Some(order.name.clone().unwrap_or(format!("Copy-of-VM-{old}"))))
            }
            Kind::Lxc => ("hostname", order.name.clone()),
        };
        if let Some(name) = name {
            config.insert(name_key.to_owned(), json!(name));
        }
        if let Some(text) = &order.description {
            config.insert("description".to_owned(), json!(text));
        } else if let Some(text) = source.config.get("description") {
            // A snapshot's own description is another thing.
            config.insert("description".to_owned(), text.clone());
        }
        let copy = self.guest_mut(kind, order.newid).map_err(|r| r.text)?;
        copy.config = config;
        copy.agent = source.agent;
        if kind == Kind::Lxc {
            self.guest_mut(kind, vmid).map_err(|r| r.text)?.config.remove("lock");
        }
        Ok(log)
    }

    /// The same device with another hardware address.
    fn with_fresh_mac(&mut self, kind: Kind, text: &str) -> String {
        let mac = self.fresh_mac();
        let is_mac = |value: &str| value.len() == 17 && value.matches(':').count() == 5;
        let parts: Vec<String> = text
            .split(',')
            .map(|part| match part.split_once('=') {
                Some((name, value)) if is_mac(value) && (kind == Kind::Qemu || name == "hwaddr") => {
                    format!("{name}={mac}")
                }
                _ => part.to_owned(),
            })
            .collect();
        parts.join(",")
    }

    /// The name of a linked clone: on LVM-thin it stands for itself, elsewhere it names its base.
    fn linked_name(&self, kind: Kind, base: &str, newid: u32) -> Result<String, String> {
        let (storage, name) = base.split_once(':').unwrap_or(("", base));
        let format = name.rsplit_once('.').map(|(_, ext)| ext);
        let is_subvol = kind == Kind::Lxc && (name.contains("subvol") || name.contains("basevol-"));
        let own =
            self.free_name(storage, newid, format.unwrap_or(if is_subvol { "subvol" } else { "raw" }))?;
        let plugin = self.storages.get(storage).map(|s| s.plugin.as_str()).unwrap_or_default();
        let own_name = own.split_once(':').map(|(_, n)| n).unwrap_or_default();
        Ok(match plugin {
            "lvmthin" | "btrfs" => own,
            _ => format!("{base}/{own_name}"),
        })
    }

    /// The checks of the work on a guest that exists, at its beginning.
    pub(in crate::world) fn prepare_change(
        &mut self,
        kind: Kind,
        vmid: u32,
        job: &Job,
    ) -> Result<Vec<String>, String> {
        let guest = self.guest(kind, vmid).map_err(|r| r.text)?.clone();
        guest.check_lock()?;
        match job {
            Job::Template => {
                if guest.running.is_some() {
                    let text = match kind {
                        Kind::Qemu => "you can't convert a running VM to a template",
                        Kind::Lxc => "you can't convert a running CT to template",
                    };
                    return Err(text.to_owned());
                }
                Ok(Vec::new())
            }
            Job::Destroy { force, .. } => {
                if guest.running.is_some() && !force {
                    return Err(match kind {
                        Kind::Qemu => format!("VM {vmid} is running - destroy failed"),
                        Kind::Lxc => format!("unable to destroy CT {vmid} - container is running"),
                    });
                }
                let linked = guest.held_volumes().into_iter().find(|v| self.has_linked_clones(v));
                match linked {
                    Some(base) => Err(format!("base volume '{base}' is still in use by linked cloned")),
                    None => Ok(Vec::new()),
                }
            }
            Job::Move(order) => {
                let volume = volume_at(&guest, &order.disk).unwrap_or_default();
                if kind == Kind::Lxc
                    && let Ok(guest) = self.guest_mut(kind, vmid)
                {
                    guest.config.insert("lock".to_owned(), json!("disk"));
                }
                Ok(match kind {
                    Kind::Qemu => vec![format!("create full clone of drive {} ({volume})", order.disk)],
                    Kind::Lxc => Vec::new(),
                })
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The work on a guest that exists, at its end.
    pub(in crate::world) fn apply_change(
        &mut self,
        kind: Kind,
        vmid: u32,
        job: &Job,
    ) -> Result<Vec<String>, String> {
        match job {
            Job::Template => self.make_template(kind, vmid),
            Job::Destroy { purge, unreferenced, .. } => self.destroy(kind, vmid, *purge, *unreferenced),
            Job::Resize { disk, bytes } => self.resize(kind, vmid, disk, *bytes),
            Job::Move(order) => self.move_disk(kind, vmid, order),
            _ => Ok(Vec::new()),
        }
    }

    fn make_template(&mut self, kind: Kind, vmid: u32) -> Result<Vec<String>, String> {
        let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
        let keys: Vec<String> = guest.volumes().into_iter().map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            if let Some(Value::String(text)) = guest.config.get_mut(&key) {
                // The base keeps the number of the volume it was.
                *text = text
                    .replacen("/vm-", "/base-", 1)
                    .replacen(":vm-", ":base-", 1)
                    .replacen("subvol-", "basevol-", 1);
            }
        }
        guest.config.insert("template".to_owned(), json!(1));
        Ok(Vec::new())
    }

    fn destroy(
        &mut self,
        kind: Kind,
        vmid: u32,
        purge: bool,
        unreferenced: bool,
    ) -> Result<Vec<String>, String> {
        self.guest(kind, vmid).map_err(|r| r.text)?;
        let Some(guest) = self.guests.remove(&vmid) else {
            return Ok(Vec::new());
        };
        for volume in guest.held_volumes() {
            let told = guest.config.values().filter_map(Value::as_str);
            let bytes = told.filter(|t| t.split(',').next() == Some(&volume)).map(size_of).max();
            self.free(&volume, bytes.filter(|b| *b > 0).or(guest.sizes.get(&volume).copied()).unwrap_or(0));
            self.stock.gone.remove(&volume);
        }
        if unreferenced {
            let stray: Vec<String> = self
                .stock
                .volumes
                .iter()
                .filter(|(_, v)| v.vmid == Some(vmid) && matches!(v.content.as_str(), "images" | "rootdir"))
                .map(|(volume, _)| volume.clone())
                .collect();
            for volume in stray {
                self.drop_volume(&volume);
            }
        }
        // Rights and pool membership always go with the guest.
        let path = format!("/vms/{vmid}");
        self.access.acl.retain(|line| line.path != path);
        for pool in self.access.pools.values_mut() {
            pool.guests.remove(&vmid);
        }
        if !purge {
            return Ok(Vec::new());
        }
        self.ha.remove(&vmid);
        let of_guest = format!("{vmid}-");
        self.stock.replications.retain(|id, _| !id.starts_with(&of_guest));
        for job in self.stock.backup_jobs.values_mut() {
            if let Some(Value::String(list)) = job.get_mut("vmid") {
                let rest: Vec<&str> = list.split(',').filter(|id| *id != vmid.to_string()).collect();
                *list = rest.join(",");
            }
        }
        // A job whose last guest is gone is gone too.
        self.stock.backup_jobs.retain(|_, job| job.get("vmid") != Some(&json!("")));
        Ok(vec![format!("purging {} {vmid} from related configurations..", kind.label())])
    }

    fn resize(&mut self, kind: Kind, vmid: u32, disk: &str, bytes: u64) -> Result<Vec<String>, String> {
        let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
        let Some(volume) = volume_at(guest, disk) else {
            return Err(format!("disk '{disk}' does not exist"));
        };
        let text = guest.text(disk).unwrap_or_default().to_owned();
        let text_new = drive_text(&volume, &rest_of(&text), bytes);
        guest.config.insert(disk.to_owned(), json!(text_new));
        let (storage, name) = volume.split_once(':').unwrap_or(("", &volume));
        let plugin = self.storages.get(storage).map(|s| s.plugin.clone()).unwrap_or_default();
        Ok(match plugin.as_str() {
            "lvmthin" | "lvm" => vec![
                format!(
                    "  Size of logical volume pve/{name} changed from {}.00 GiB to {}.00 GiB.",
                    size_of(&text) >> 30,
                    bytes >> 30
                ),
                format!("  Logical volume pve/{name} successfully resized."),
            ],
            "zfspool" => Vec::new(),
            _ => vec!["Image resized.".to_owned()],
        })
    }

    fn move_disk(&mut self, kind: Kind, vmid: u32, order: &MoveOrder) -> Result<Vec<String>, String> {
        let guest = self.guest(kind, vmid).map_err(|r| r.text)?;
        let Some(old) = volume_at(guest, &order.disk) else {
            return Err(format!("disk '{}' does not exist", order.disk));
        };
        let text = guest.text(&order.disk).unwrap_or_default().to_owned();
        let bytes = size_of(&text);
        let (new, log) = self.allocate(&order.storage, kind, vmid, bytes, order.format.as_deref())?;
        let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
        guest.config.insert(order.disk.clone(), json!(drive_text(&new, &rest_of(&text), bytes)));
        if kind == Kind::Lxc {
            guest.config.remove("lock");
        }
        if order.delete {
            self.free(&old, bytes);
        } else {
            guest.sizes.insert(old.clone(), bytes);
            guest.config.insert(unused_key(&guest.config), json!(old));
        }
        Ok(log)
    }
}

/// A size as the copying tool prints it.
fn mebibytes(bytes: u64) -> String {
    if bytes < 1 << 30 {
        format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
    } else {
        format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
    }
}

/// The configuration a clone starts from.
fn clone_base<'a>(source: &'a Guest, order: &CloneOrder) -> &'a Config {
    let snapshot = order.snapshot.as_ref().and_then(|name| source.snapshots.get(name));
    snapshot.map_or(&source.config, |s| &s.config)
}

/// The volume of a disk.
pub(crate) fn volume_at(guest: &Guest, key: &str) -> Option<String> {
    let (_, volume) = guest.volumes().into_iter().find(|(k, _)| *k == key)?;
    Some(volume.to_owned())
}

/// First disk, CD-ROM and network device, in that order.
fn default_boot(config: &Config) -> String {
    let is_drive = |key: &str| ["scsi", "virtio", "sata", "ide"].iter().any(|prefix| numbered(key, prefix));
    let cdrom = |value: &Value| value.as_str().is_some_and(crate::world::disks::is_cdrom);
    let disk = config.iter().find(|(k, v)| is_drive(k) && !cdrom(v));
    let cd = config.iter().find(|(k, v)| is_drive(k) && cdrom(v));
    let net = config.iter().find(|(k, _)| numbered(k, "net"));
    let found: Vec<&str> = [disk, cd, net].into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    found.join(";")
}

#[cfg(test)]
mod tests;
