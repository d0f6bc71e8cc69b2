//! Disks of guests: names, allocation, property strings, and what their storages can do.

use crate::world::guests::{format_size, is_volume_key, numbered};
use crate::world::{Config, Guest, Kind, World};

/// A disk that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// The option it becomes, such as `scsi0`.
    pub key: String,
    /// The storage it goes to.
    pub storage: String,
    /// Its size.
    pub bytes: u64,
    /// `raw`, `qcow2`, …; `None` takes the storage's default.
    pub format: Option<String>,
    /// The other properties, such as `iothread=1`.
    pub rest: Vec<String>,
}

/// `STORAGE:GIB[,more]`, the order for a new disk; `None` for everything else, such as the id of
/// a volume that exists.
pub(crate) fn parse_new_disk(key: &str, value: &str) -> Option<NewDisk> {
    let mut parts = value.split(',');
    let first = parts.next()?;
    let first = first.strip_prefix("file=").or_else(|| first.strip_prefix("volume=")).unwrap_or(first);
    let (storage, size) = first.split_once(':')?;
    let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let gib: f64 = size.parse().ok().filter(|_| digits)?;
    // Sizes are kept in KiB, rounded up: 0.05 becomes 52429K.
    let kib = (gib * 1024.0 * 1024.0).ceil();
    let mut disk = NewDisk {
        key: key.to_owned(),
        storage: storage.to_owned(),
        bytes: (kib as u64).saturating_mul(1024),
        format: None,
        rest: Vec::new(),
    };
    for part in parts {
        match part.split_once('=') {
            Some(("format", format)) => disk.format = Some(format.to_owned()),
            Some(("size", _)) => {}
            _ => disk.rest.push(part.to_owned()),
        }
    }
    Some(disk)
}

/// The property string of a disk: the volume, then what must be there, then the rest by name.
pub(crate) fn drive_text(volume: &str, rest: &[String], bytes: u64) -> String {
    let mut all: Vec<String> = rest.iter().filter(|p| !p.starts_with("size=")).cloned().collect();
    all.push(format!("size={}", format_size(bytes)));
    all.sort_by_key(|part| (!part.starts_with("mp="), part.clone()));
    format!("{volume},{}", all.join(","))
}

/// The properties after the volume.
pub(crate) fn rest_of(text: &str) -> Vec<String> {
    text.split(',').skip(1).map(str::to_owned).collect()
}

/// The size a disk's property string tells.
pub(crate) fn size_of(text: &str) -> u64 {
    let size = text.split(',').find_map(|p| p.strip_prefix("size="));
    size.map(crate::world::guests::parse_size).unwrap_or_default()
}

/// A volume id as storage and name.
fn split(volume: &str) -> (&str, &str) {
    volume.split_once(':').unwrap_or(("", volume))
}

/// The file format of a volume, from its name.
fn format_of(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((_, ext @ ("qcow2" | "vmdk" | "subvol"))) => ext,
        _ if name.contains("subvol-") || name.contains("basevol-") => "subvol",
        _ => "raw",
    }
}

/// No storage makes larger volumes (8 PiB).
pub(crate) const MAX_DISK: u64 = 1 << 53;

/// What a storage is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// To take a snapshot.
    Snapshot,
    /// To make a linked clone.
    Clone,
    /// To make a full copy.
    Copy,
}

impl World {
    /// The format a new volume gets.
    fn format_for(&self, storage: &str, kind: Kind, asked: Option<&str>) -> String {
        let plugin = self.storages.get(storage).map(|s| s.plugin.as_str()).unwrap_or_default();
        match (plugin, kind, asked) {
            ("zfspool", Kind::Lxc, _) => "subvol".to_owned(),
            ("dir" | "nfs" | "cifs", Kind::Qemu, Some(format)) => format.to_owned(),
            _ => "raw".to_owned(),
        }
    }

    /// Whether any guest holds the volume.
    fn is_held(&self, volume: &str) -> bool {
        self.guests.values().any(|g| g.held_volumes().contains(volume))
    }

    /// Makes a volume and says what its tools print. Fails where the storage cannot be reached or is
    /// full.
    pub(crate) fn allocate(
        &mut self,
        storage: &str,
        kind: Kind,
        vmid: u32,
        bytes: u64,
        format: Option<&str>,
    ) -> Result<(String, Vec<String>), String> {
        self.active_storage(storage).map_err(|r| r.text)?;
        let format = self.format_for(storage, kind, format);
        let volume = self.free_name(storage, vmid, &format)?;
        let Some(at) = self.storages.get_mut(storage) else {
            return Err(format!("storage '{storage}' does not exist"));
        };
        let thin = at.thin.is_some() || at.plugin == "zfspool";
        if bytes > MAX_DISK {
            return Err(format!("unable to create image: {bytes} bytes are more than a volume can have"));
        }
        if !thin && at.total.saturating_sub(at.used) < bytes {
            return Err(format!("unable to create image: not enough space on storage '{storage}'"));
        }
        let name = volume.split_once(':').map(|(_, name)| name).unwrap_or_default();
        let log = match at.plugin.as_str() {
            "lvmthin" | "lvm" => vec![format!("  Logical volume \"{name}\" created.")],
            _ if at.has_files() && format == "qcow2" => vec![format!(
                "Formatting '{}/images/{name}', fmt=qcow2 cluster_size=65536 extended_l2=off \
                 preallocation=metadata compression_type=zlib size={bytes} lazy_refcounts=off \
                 refcount_bits=16",
                at.path(storage)
            )],
            "dir" | "nfs" | "cifs" => vec![format!(
                "Formatting '{}/images/{name}', fmt={format} size={bytes} preallocation=off",
                at.path(storage)
            )],
            _ => Vec::new(),
        };
        // Thin volumes fill up as their guests write; a new one takes next to nothing.
        if !thin {
            at.charge(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        Ok((volume, log))
    }

    /// A volume id that nothing uses.
    pub(in crate::world) fn free_name(
        &self,
        storage: &str,
        vmid: u32,
        format: &str,
    ) -> Result<String, String> {
        let at = self.storages.get(storage);
        let at = at.ok_or_else(|| format!("storage '{storage}' does not exist"))?;
        let taken = |volume: &String| {
            // A base volume keeps its number.
            let base = volume.replace("vm-", "base-");
            self.is_held(volume) || self.is_held(&base) || self.stock.volumes.contains_key(volume)
        };
        let names = (0..1000).map(|n| format!("{storage}:{}", at.image_name(vmid, n, format)));
        let free = names.into_iter().find(|volume| !taken(volume));
        free.ok_or_else(|| format!("unable to allocate an image name for VM {vmid} in storage '{storage}'"))
    }

    /// Removes a volume that no configuration names any more.
    pub(crate) fn free(&mut self, volume: &str, bytes: u64) {
        let (storage, _) = split(volume);
        if self.stock.volumes.contains_key(volume) {
            self.drop_volume(volume);
            return;
        }
        if let Some(at) = self.storages.get_mut(storage)
            && at.thin.is_none()
            && at.plugin != "zfspool"
        {
            at.charge(-i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Whether a template's volume has linked clones.
    pub(in crate::world) fn has_linked_clones(&self, base: &str) -> bool {
        let inside = format!("{base}/");
        self.guests.values().flat_map(Guest::held_volumes).any(|volume| volume.starts_with(&inside))
    }

    /// Whether one volume has a feature; `state` is `current`, `base` or `snap`.
    pub(crate) fn volume_feature(
        &self,
        kind: Kind,
        volume: &str,
        feature: Feature,
        in_snapshot: bool,
    ) -> bool {
        let (id, name) = split(volume);
        let Some(storage) = self.storages.get(id) else {
            // Bind and device mounts have no storage.
            return false;
        };
        // The base of a container's file system is a `basevol-`, and what rests on it a `/subvol-`.
        let of_base = name.contains("base-") || name.contains("basevol-");
        let base = of_base && !name.contains("/vm-") && !name.contains("/subvol-");
        let format = format_of(name);
        match (storage.plugin.as_str(), feature) {
            (_, Feature::Snapshot) if base => false,
            (_, Feature::Snapshot) => storage.can_snapshot(kind, name),
            ("lvmthin" | "rbd", Feature::Clone) => base || in_snapshot,
            ("btrfs", Feature::Clone) => true,
            ("zfspool", Feature::Clone) => base,
            ("dir" | "nfs" | "cifs", Feature::Clone) => base && format != "subvol",
            (_, Feature::Clone) => false,
            ("lvmthin" | "rbd" | "btrfs", Feature::Copy) => true,
            ("dir" | "nfs" | "cifs", Feature::Copy) => !in_snapshot || format == "qcow2",
            (_, Feature::Copy) => !in_snapshot,
        }
    }

    /// `GET …/feature`: all volumes must have it.
    pub fn has_feature(&self, guest: &Guest, feature: Feature, snapshot: Option<&str>) -> bool {
        let config = match snapshot.and_then(|name| guest.snapshots.get(name)) {
            Some(snapshot) => &snapshot.config,
            None => &guest.config,
        };
        volumes_of(guest.kind, config)
            .all(|(_, volume)| self.volume_feature(guest.kind, volume, feature, snapshot.is_some()))
    }
}

/// Key and volume of every disk in a configuration, CD-ROMs apart.
pub(crate) fn volumes_of(kind: Kind, config: &Config) -> impl Iterator<Item = (&str, &str)> {
    config
        .iter()
        .filter(move |(key, _)| is_volume_key(kind, key))
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .filter(|(_, text)| !is_cdrom(text))
        .map(|(key, text)| (key, text.split(',').next().unwrap_or_default()))
}

/// Whether a drive's property string is that of a CD-ROM.
pub(crate) fn is_cdrom(text: &str) -> bool {
    text.split(',').any(|part| part == "media=cdrom") || text == "none" || text == "cdrom"
}

/// The first `unusedN` that is free.
pub(crate) fn unused_key(config: &Config) -> String {
    let mut keys = (0..256).map(|n| format!("unused{n}"));
    keys.find(|key| !config.contains_key(key)).unwrap_or_else(|| "unused255".to_owned())
}

/// Takes a volume out of the `unusedN` lines.
pub(crate) fn forget_unused(config: &mut Config, volume: &str) {
    config.retain(|key, value| !(numbered(key, "unused") && value.as_str() == Some(volume)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn orders_for_disks() {
        let disk = parse_new_disk("scsi0", "local:0.05,format=qcow2,iothread=1").unwrap();
        assert_eq!((disk.bytes, disk.format.as_deref()), (53_687_296, Some("qcow2")));
        let text = drive_text("local:100/vm-100-disk-0.qcow2", &disk.rest, disk.bytes);
        assert_eq!(text, "local:100/vm-100-disk-0.qcow2,iothread=1,size=52429K");
        let point = drive_text("a:b", &["backup=1".to_owned(), "mp=/data".to_owned()], 1 << 30);
        assert_eq!(point, "a:b,mp=/data,backup=1,size=1G");
        for other in ["local-lvm:vm-1-disk-0", "/mnt/x,mp=/x", "none", "local:", "a:1e3", "a:-1", ""] {
            assert_eq!(parse_new_disk("scsi0", other), None, "{other}");
        }
        assert!(parse_new_disk("scsi0", "a:99999999999999999999999").is_some(), "saturates");
        for text in ["52429K", "1G", "1025M", "2T"] {
            assert_eq!(format_size(crate::world::guests::parse_size(text)), text);
        }
    }

    #[test]
    fn names_follow_the_storage_and_are_not_used_twice() {
        let mut w = World::demo();
        let mut make = |storage: &str, kind, vmid| w.allocate(storage, kind, vmid, 1 << 30, None).unwrap().0;
        assert_eq!(make("local-lvm", Kind::Qemu, 100), "local-lvm:vm-100-disk-1");
        assert_eq!(make("tank", Kind::Lxc, 201), "tank:subvol-201-disk-1");
        assert_eq!(make("local", Kind::Qemu, 100), "local:100/vm-100-disk-0.raw");
        assert!(w.allocate("offl", Kind::Qemu, 100, 1, None).is_err());
        assert!(w.allocate("nosuch", Kind::Qemu, 100, 1, None).is_err());
        assert!(w.allocate("local", Kind::Qemu, 100, 1 << 50, None).is_err(), "full");
    }

    #[test]
    fn features_follow_storage_and_state() {
        let w = World::demo();
        let f = |volume: &str, feature, snap| w.volume_feature(Kind::Qemu, volume, feature, snap);
        assert!(f("local-lvm:base-1-disk-0", Feature::Clone, false));
        assert!(!f("local-lvm:vm-1-disk-0", Feature::Clone, false));
        assert!(f("local-lvm:vm-1-disk-0", Feature::Clone, true));
        assert!(!f("tank:vm-1-disk-0", Feature::Clone, true));
        assert!(!f("tank:vm-1-disk-0", Feature::Copy, true), "no full clone from a snapshot on ZFS");
        assert!(f("tank:vm-1-disk-0", Feature::Copy, false));
        assert!(!f("/mnt/usb", Feature::Copy, false));
        let mut guest = w.guests[&101].clone();
        assert!(w.has_feature(&guest, Feature::Snapshot, None));
        guest.config.insert("scsi1".to_owned(), json!("local:101/vm-101-disk-0.raw,size=1G"));
        assert!(!w.has_feature(&guest, Feature::Snapshot, None));
        assert!(w.has_feature(&guest, Feature::Clone, Some("before-upgrade")));
    }
}
