//! Volumes: what a storage holds, and who may see it.
//!
//! Disks of guests are read from the guests' configurations; everything else is in [`Stock`].

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::world::calendar::Date;
use crate::world::guests::numbered;
use crate::world::{AuthId, Config, Guest, Kind, Refusal, Storage, World};

/// What a backup holds besides data.
#[derive(Debug, Clone)]
pub struct SavedGuest {
    /// Virtual machine or container.
    pub kind: Kind,
    /// Its configuration as it was: no lock, no snapshots.
    pub config: Config,
}

/// A volume that is no disk of a guest's configuration.
#[derive(Debug, Clone, Default)]
pub struct Volume {
    /// The type: `backup`, `iso`, `vztmpl`, `images`, ….
    pub content: String,
    /// `vma.zst`, `tgz`, `raw`, ….
    pub format: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was made, in seconds since 1970.
    pub ctime: i64,
    /// The guest it belongs to.
    pub vmid: Option<u32>,
    /// Notes of a backup; empty for none.
    pub notes: String,
    /// Whether a backup is protected.
    pub protected: bool,
    /// The saved guest of a backup.
    pub saved: Option<SavedGuest>,
    /// The `verification` of a backup on a Proxmox Backup Server.
    pub verification: Option<Value>,
    /// Fingerprint of the key of an encrypted backup.
    pub encrypted: Option<String>,
}

/// Everything about storages that is not the storages themselves.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// Volumes by volume id.
    pub volumes: BTreeMap<String, Volume>,
    /// Disks that a configuration still names although they are gone.
    pub gone: BTreeSet<String>,
    /// The `bwlimit` of the node's `vzdump.conf` in KiB/s, which counts where a request has none.
    pub bwlimit: u32,
    /// Backup jobs by id.
    pub backup_jobs: BTreeMap<String, Map<String, Value>>,
    /// Replication jobs by id (`100-0`).
    pub replications: BTreeMap<String, Map<String, Value>>,
}

/// What the name of a volume says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeName {
    /// The type of content.
    pub content: &'static str,
    /// The guest it belongs to.
    pub owner: Option<u32>,
    /// Of a backup: the kind of guest.
    pub kind: Option<Kind>,
    /// Of a backup with a standard name: when it was made.
    pub ctime: Option<i64>,
    /// The format.
    pub format: String,
}

/// The extensions of backup files.
const BACKUPS: [&str; 8] = ["vma.zst", "vma.gz", "vma.lzo", "vma", "tar.zst", "tar.gz", "tar.lzo", "tar"];

/// Reads the part of a volume id after the storage.
pub(crate) fn parse_name(storage: &Storage, name: &str) -> Option<VolumeName> {
    let plain = |content, format: &str| {
        Some(VolumeName { content, owner: None, kind: None, ctime: None, format: format.to_owned() })
    };
    if storage.plugin == "pbs" {
        let rest = name.strip_prefix("backup/")?;
        let (kind, rest) = match rest.split_once('/')? {
            ("vm", rest) => (Kind::Qemu, rest),
            ("ct", rest) => (Kind::Lxc, rest),
            _ => return None,
        };
        let (vmid, time) = rest.split_once('/')?;
        let format = if kind == Kind::Qemu { "pbs-vm" } else { "pbs-ct" };
        return Some(VolumeName {
            content: "backup",
            owner: vmid.parse().ok(),
            kind: Some(kind),
            ctime: pbs_time(time),
            format: format.to_owned(),
        });
    }
    if storage.has_files()
        && let Some((folder, file)) = name.split_once('/')
    {
        let clean = !file.is_empty() && !file.contains('/') && !file.starts_with('.');
        let ends = |all: &[&'static str]| all.iter().copied().find(|e| file.ends_with(&format!(".{e}")));
        match folder {
            _ if !clean => return None,
            "iso" => return ends(&["iso", "img"]).and_then(|_| plain("iso", "iso")),
            "snippets" => return plain("snippets", "snippet"),
            "import" => {
                return ends(&["ova", "ovf", "qcow2", "raw", "vmdk"]).and_then(|e| plain("import", e));
            }
            "vztmpl" => {
                return match ends(&["tar.gz", "tar.xz", "tar.zst", "tar.bz2"])? {
                    "tar.gz" => plain("vztmpl", "tgz"),
                    "tar.xz" => plain("vztmpl", "txz"),
                    "tar.zst" => plain("vztmpl", "tzst"),
                    _ => plain("vztmpl", "tbz2"),
                };
            }
            "backup" => {
                let ext = ends(&BACKUPS)?;
                let stem = file.strip_suffix(ext)?.strip_suffix('.')?;
                let mut found = plain("backup", ext)?;
                if let Some((kind, vmid, time)) = standard_name(stem) {
                    found.kind = Some(kind);
                    found.owner = Some(vmid);
                    found.ctime = Some(time);
                }
                return Some(found);
            }
            _ => {}
        }
    }
    let (owner, file) = match name.split_once('/') {
        Some((vmid, file)) if storage.has_files() => (vmid.parse::<u32>().ok()?, file),
        Some(_) => return None,
        None if storage.has_files() => return None,
        None => (name.split('-').nth(1)?.parse().ok()?, name),
    };
    let subvol = file.starts_with("subvol-") || file.starts_with("basevol-") || file.ends_with(".subvol");
    let known = ["vm-", "base-", "subvol-", "basevol-"].iter().any(|p| file.starts_with(p));
    // A file may have any name, an LV or data set may not.
    if !known && !storage.has_files() {
        return None;
    }
    let format = match file.rsplit_once('.') {
        _ if subvol => "subvol",
        Some((_, "qcow2")) => "qcow2",
        Some((_, "vmdk")) => "vmdk",
        _ => "raw",
    };
    Some(VolumeName {
        content: "images",
        owner: Some(owner),
        kind: None,
        ctime: None,
        format: format.to_owned(),
    })
}

/// `vzdump-qemu-100-2026_11_22-03_21_27`.
fn standard_name(stem: &str) -> Option<(Kind, u32, i64)> {
    let rest = stem.strip_prefix("vzdump-")?;
    let (kind, rest) = match rest.split_once('-')? {
        ("qemu", rest) => (Kind::Qemu, rest),
        ("lxc", rest) => (Kind::Lxc, rest),
        _ => return None,
    };
    let (vmid, time) = rest.split_once('-')?;
    Some((kind, vmid.parse().ok()?, Date::parse_name(time)?))
}

/// `2026-11-22T03:21:27Z`.
fn pbs_time(text: &str) -> Option<i64> {
    let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
    Date::parse_name(&format!("{}-{}", day.replace('-', "_"), time.replace(':', "_")))
}

/// A volume as the lists show it.
struct Listed {
    row: Value,
    content: String,
    vmid: Option<u32>,
}

impl Guest {
    /// Every volume id that the configuration or one of the snapshots names, with its size.
    pub(in crate::world) fn all_volumes(&self) -> BTreeMap<String, u64> {
        let size = |text: &str| {
            let found = text.split(',').find_map(|p| p.strip_prefix("size="));
            found.map(crate::world::guests::parse_size).unwrap_or_default()
        };
        let mut found = BTreeMap::new();
        let configs = self.snapshots.values().map(|s| &s.config).chain([&self.config]);
        for config in configs {
            let view = Guest::new(self.kind, config.clone());
            for (key, volume) in view.volumes() {
                found.insert(volume.to_owned(), size(view.text(key).unwrap_or_default()));
            }
            for (key, value) in config {
                if let (true, Some(volume)) = (numbered(key, "unused"), value.as_str()) {
                    found.entry(volume.split(',').next().unwrap_or_default().to_owned()).or_insert(0);
                }
            }
        }
        // Bind and device mounts are no volumes.
        found.retain(|volume, _| volume.contains(':') && !volume.starts_with('/'));
        found
    }
}

impl World {
    /// A volume that is no disk of a guest: a template, an image, a backup.
    pub fn volume(&self, volid: &str) -> Option<&Volume> {
        self.stock.volumes.get(volid)
    }

    /// The files of the demo: a template and an image. They are part of what `local` uses already.
    pub(in crate::world) fn demo_stock(&mut self, ctime: i64) {
        let used = self.storages.get("local").map(|s| s.used);
        self.add_volume("local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst", 129_710_398, ctime);
        self.add_volume("local:iso/debian-13.1.0-amd64-netinst.iso", 821_035_008, ctime);
        if let (Some(storage), Some(used)) = (self.storages.get_mut("local"), used) {
            storage.used = used;
        }
    }

    /// Adds or replaces a volume; its type, format and owner come from its name.
    pub fn add_volume(&mut self, volid: &str, size: u64, ctime: i64) {
        let Ok((storage, name)) = self.parse_volume(volid) else {
            return;
        };
        let volume = Volume {
            content: name.content.to_owned(),
            format: name.format,
            size,
            ctime,
            vmid: name.owner,
            ..Volume::default()
        };
        self.put_volume(&storage, volid, volume);
    }

    /// Adds a volume and takes its space from the storage.
    pub(in crate::world) fn put_volume(&mut self, storage: &str, volid: &str, volume: Volume) {
        if let Some(storage) = self.storages.get_mut(storage) {
            storage.charge(i64::try_from(volume.size).unwrap_or(i64::MAX));
        }
        self.stock.gone.remove(volid);
        self.stock.volumes.insert(volid.to_owned(), volume);
    }

    /// Removes a volume and gives its space back; false when there is none.
    pub(in crate::world) fn drop_volume(&mut self, volid: &str) -> bool {
        let Some(volume) = self.stock.volumes.remove(volid) else {
            return false;
        };
        let storage = volid.split(':').next().unwrap_or_default();
        if let Some(storage) = self.storages.get_mut(storage) {
            storage.charge(-i64::try_from(volume.size).unwrap_or(i64::MAX));
        }
        true
    }

    /// Storage and meaning of a volume id, or the 500 of one that cannot be read.
    pub fn parse_volume(&self, volid: &str) -> Result<(String, VolumeName), Refusal> {
        let Some((id, name)) = volid.split_once(':') else {
            return Err(Refusal::internal(format!("unable to parse volume ID '{volid}'")));
        };
        let storage = self.storage(id)?;
        let kind = match storage.plugin.as_str() {
            "zfspool" => "zfs",
            "lvmthin" | "lvm" => "lvm",
            "pbs" => "pbs",
            "btrfs" => "btrfs",
            _ => "directory",
        };
        let parsed = parse_name(storage, name)
            .ok_or_else(|| Refusal::internal(format!("unable to parse {kind} volume name '{name}'")))?;
        Ok((id.to_owned(), parsed))
    }

    /// The first disk that the guest's configuration names and that is gone.
    pub fn missing_volume<'a>(&self, guest: &'a Guest) -> Option<&'a str> {
        guest.volumes().into_iter().map(|(_, v)| v).find(|v| self.stock.gone.contains(*v))
    }

    /// The 403 unless this caller may read the volume. `for_guest` is the guest it is to be used
    /// for, whose own volumes need no more rights.
    pub fn volume_access(&self, who: &AuthId, volid: &str, for_guest: Option<u32>) -> Result<(), Refusal> {
        let (storage, name) = self.parse_volume(volid)?;
        let path = format!("/storage/{storage}");
        if self.access.has_any(who, &path, &["Datastore.Allocate"]) {
            return Ok(());
        }
        match (name.content, name.owner) {
            ("iso" | "vztmpl" | "import", _) => {
                self.access.require(who, &path, &["Datastore.AllocateSpace", "Datastore.Audit"])
            }
            (_, Some(owner)) if for_guest == Some(owner) => Ok(()),
            ("backup", Some(owner)) => {
                self.access.require(who, &path, &["Datastore.AllocateSpace"])?;
                self.access.require(who, &format!("/vms/{owner}"), &["VM.Backup"])
            }
            ("images", Some(owner)) => {
                self.access.require(who, &path, &["Datastore.Audit"])?;
                self.access.require(who, &format!("/vms/{owner}"), &["VM.Config.Disk"])
            }
            _ => Err(Refusal::internal(format!("missing privileges to access {volid}"))),
        }
    }

    /// The content of a storage that this caller may see, ordered by volume id.
    pub fn content(&self, who: &AuthId, id: &str, wanted: Option<&str>, vmid: Option<u32>) -> Vec<Value> {
        let Some(storage) = self.storages.get(id) else {
            return Vec::new();
        };
        let mut found: BTreeMap<String, Listed> = BTreeMap::new();
        for (owner, guest) in &self.guests {
            // The size of a container's or machine's disk comes from its configuration.
            for (volid, size) in guest.all_volumes() {
                let Some((_, name)) = volid.split_once(':').filter(|(s, _)| *s == id) else {
                    continue;
                };
                let is_image = parse_name(storage, name).filter(|n| n.content == "images");
                let (Some(parsed), false) = (is_image, self.stock.gone.contains(&volid)) else {
                    continue;
                };
                let content = if guest.kind == Kind::Qemu { "images" } else { "rootdir" };
                let row = disk_row(storage, &volid, content, &parsed.format, size, *owner);
                found.insert(volid, Listed { row, content: content.to_owned(), vmid: Some(*owner) });
            }
        }
        for (volid, volume) in &self.stock.volumes {
            if volid.split_once(':').is_some_and(|(s, _)| s == id) && !found.contains_key(volid) {
                let row = volume.row(storage, volid);
                let listed = Listed { row, content: volume.content.clone(), vmid: volume.vmid };
                found.insert(volid.clone(), listed);
            }
        }
        found
            .into_iter()
            .filter(|(_, v)| storage.holds(&v.content) || storage.plugin == "pbs")
            .filter(|(_, v)| wanted.is_none_or(|w| w == v.content))
            .filter(|(_, v)| vmid.is_none() || v.vmid == vmid)
            .filter(|(volid, _)| self.volume_access(who, volid, None).is_ok())
            .map(|(_, v)| v.row)
            .collect()
    }

    /// Size and format of a volume, be it a guest's disk or not.
    pub fn size_and_format(&self, volid: &str) -> Option<(u64, String)> {
        if let Some(volume) = self.stock.volumes.get(volid) {
            // To the storage every file that is no disk image is raw.
            let known = matches!(volume.format.as_str(), "qcow2" | "subvol" | "vmdk");
            return Some((volume.size, if known { volume.format.clone() } else { "raw".to_owned() }));
        }
        if self.stock.gone.contains(volid) {
            return None;
        }
        let size = self.guests.values().find_map(|g| g.all_volumes().get(volid).copied())?;
        let (_, name) = self.parse_volume(volid).ok()?;
        Some((size, name.format))
    }

    /// Where a volume is on the node.
    pub fn volume_path(&self, volid: &str) -> Result<String, Refusal> {
        let (id, parsed) = self.parse_volume(volid)?;
        let storage = self.storage(&id)?;
        let name = volid.split_once(':').map_or("", |(_, name)| name);
        let file = name.rsplit('/').next().unwrap_or_default();
        Ok(match storage.plugin.as_str() {
            "lvm" | "lvmthin" => {
                let vg = storage.thin.as_ref().map(|t| t.vg.as_str()).or(storage.option("vgname"));
                format!("/dev/{}/{name}", vg.unwrap_or(&id))
            }
            "zfspool" => {
                let pool = storage.option("pool").unwrap_or(&id);
                let root = if parsed.format == "subvol" { "" } else { "/dev/zvol" };
                format!("{root}/{pool}/{name}")
            }
            "pbs" => {
                let get = |key, default| storage.option(key).unwrap_or(default);
                let user = get("username", "root@pam");
                let repository =
                    format!("{user}@{}:{}", get("server", "localhost"), get("datastore", "store"));
                format!("pbs://{repository}:{}", name.trim_start_matches("backup/"))
            }
            _ => {
                let root = storage.path(&id);
                match parsed.content {
                    "backup" => format!("{root}/dump/{file}"),
                    "iso" => format!("{root}/template/iso/{file}"),
                    "vztmpl" => format!("{root}/template/cache/{file}"),
                    "images" => format!("{root}/images/{name}"),
                    folder => format!("{root}/{folder}/{file}"),
                }
            }
        })
    }

    /// `GET …/content/VOLUME`.
    pub fn volume_view(&self, volid: &str) -> Result<Value, Refusal> {
        let path = self.volume_path(volid)?;
        let (size, format) = self
            .size_and_format(volid)
            .ok_or_else(|| Refusal::internal(format!("volume_size_info on '{volid}' failed")))?;
        let mut view = json!({
            "path": path, "size": size, "used": size.div_ceil(4_096) * 4_096, "format": format,
        });
        if let Some(volume) = self.stock.volumes.get(volid).filter(|v| v.content == "backup") {
            view["protected"] = json!(u8::from(volume.protected));
            view["notes"] = json!(volume.notes);
        }
        Ok(view)
    }
}

fn disk_row(storage: &Storage, volid: &str, content: &str, format: &str, size: u64, vmid: u32) -> Value {
    let mut row = json!({
        "volid": volid, "content": content, "format": format, "size": size, "vmid": vmid,
    });
    if storage.has_files() {
        // Recorded: an image file has these, and no backing file is an explicit null.
        row["used"] = json!(size / 100);
        row["parent"] = Value::Null;
        row["ctime"] = json!(crate::world::demo::STARTED);
    }
    row
}

impl Volume {
    fn row(&self, storage: &Storage, volid: &str) -> Value {
        if matches!(self.content.as_str(), "images" | "rootdir") {
            let vmid = self.vmid.unwrap_or_default();
            return disk_row(storage, volid, &self.content, &self.format, self.size, vmid);
        }
        let mut row = json!({
            "volid": volid, "content": self.content, "format": self.format, "size": self.size,
            "ctime": self.ctime,
        });
        let notes = self.notes.lines().next().unwrap_or_default();
        if !notes.is_empty() {
            row["notes"] = json!(notes);
        }
        if self.protected {
            row["protected"] = json!(1);
        }
        if let Some(vmid) = self.vmid {
            row["vmid"] = json!(vmid);
        }
        if let Some(saved) = &self.saved {
            row["subtype"] = json!(saved.kind.segment());
        }
        if let Some(verification) = &self.verification {
            row["verification"] = verification.clone();
        }
        if let Some(key) = &self.encrypted {
            row["encrypted"] = json!(key);
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(plugin: &str, text: &str) -> Option<VolumeName> {
        parse_name(&Storage::new(plugin, "", 1), text)
    }

    #[test]
    fn recorded_names() {
        let b = name("dir", "backup/vzdump-lxc-200-2026_11_22-03_15_29.tar.zst").unwrap();
        assert_eq!((b.content, b.owner, b.kind), ("backup", Some(200), Some(Kind::Lxc)));
        assert_eq!((b.ctime, b.format.as_str()), (Some(1_795_317_329), "tar.zst"));
        let b = name("pbs", "backup/vm/100/2026-11-22T03:15:29Z").unwrap();
        assert_eq!((b.owner, b.ctime), (Some(100), Some(1_795_317_329)));
        let renamed = name("dir", "backup/mine.vma").unwrap();
        assert_eq!((renamed.owner, renamed.ctime), (None, None));
        assert_eq!(name("dir", "vztmpl/a_1_amd64.tar.gz").unwrap().format, "tgz");
        assert_eq!(name("dir", "100/vm-100-disk-0.qcow2").unwrap().format, "qcow2");
        assert_eq!(name("zfspool", "subvol-201-disk-0").unwrap().format, "subvol");
        assert_eq!(name("lvmthin", "vm-100-disk-0").unwrap().owner, Some(100));
    }

    #[test]
    fn hostile_names() {
        for bad in [
            "",
            "x",
            "backup/",
            "backup/../etc/passwd",
            "iso/x.exe",
            "iso/../x.iso",
            "vztmpl/x.zip",
            "abc/vm-1-disk-0.raw",
            "backup/vzdump-qemu-100-2026_11_22-03_21_27.exe",
            "iso/.iso",
        ] {
            assert_eq!(name("dir", bad), None, "{bad}");
        }
        for bad in ["", "vm-", "vm-x-disk-0", "100/vm-100-disk-0", "other-100-disk-0", "backup/x.vma"] {
            assert_eq!(name("lvmthin", bad), None, "{bad}");
        }
        for bad in ["backup/vm/100", "backup/host/x/2026-11-22T03:15:29Z", "vm/100/x"] {
            assert_eq!(name("pbs", bad), None, "{bad}");
        }
    }
}
