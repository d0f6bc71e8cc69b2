//! Names of storages and volumes. A volume's name says what it is, whose it is and, for a backup,
//! when it was made; what it does not say stays unknown.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::catalog::is_storage_name;
use crate::value::ids::{GuestKind, Vmid};

/// A storage's name: a letter, then letters, digits, `-`, `_`, `.`, ending in no sign.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageName(String);

impl StorageName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StorageName {
    type Err = VolidError;

    fn from_str(text: &str) -> Result<Self, VolidError> {
        if is_storage_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(VolidError::Storage { given: shown(text) })
        }
    }
}

/// A volume's full name, `storage:volume`, kept as it came and taken apart once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Volid {
    raw: String,
    storage: StorageName,
    names: Names,
}

/// What the name tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Names {
    kind: VolumeKind,
    guest: Option<GuestKind>,
    vmid: Option<Vmid>,
    time: Option<VolumeTime>,
}

impl Names {
    fn of(kind: VolumeKind, vmid: Option<Vmid>) -> Self {
        Self { kind, guest: None, vmid, time: None }
    }
}

/// What a volume is, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeKind {
    /// A disk of a guest.
    Disk,
    /// A backup.
    Backup,
    /// An installation image.
    Iso,
    /// A container template.
    Template,
    /// A snippet.
    Snippet,
    /// An image or appliance to import.
    Import,
    /// The name does not tell.
    Unknown,
}

/// When a backup was made. The two forms must not be compared: one is UTC, the other is the
/// node's local time of that day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeTime {
    /// Of a vzdump archive, `2026-01-31T02:00:05` by the node's clock and zone.
    Local(String),
    /// Of a Proxmox Backup Server snapshot, `2026-01-31T01:00:05Z`.
    Utc(String),
}

impl Volid {
    /// The text as Proxmox gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// The storage it is on.
    #[must_use]
    pub const fn storage(&self) -> &StorageName {
        &self.storage
    }

    /// What comes after the storage and its colon.
    #[must_use]
    pub fn volume(&self) -> &str {
        self.raw.split_once(':').map_or("", |(_, volume)| volume)
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> VolumeKind {
        self.names.kind
    }

    /// The guest's number in the name. A number is reused once a guest is destroyed, so this is no
    /// proof of whose volume it is.
    #[must_use]
    pub const fn vmid(&self) -> Option<Vmid> {
        self.names.vmid
    }

    /// Of a backup: what kind of guest is in it.
    #[must_use]
    pub const fn guest(&self) -> Option<GuestKind> {
        self.names.guest
    }

    /// Of a backup: when it was begun.
    #[must_use]
    pub const fn time(&self) -> Option<&VolumeTime> {
        self.names.time.as_ref()
    }
}

impl fmt::Display for Volid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl FromStr for Volid {
    type Err = VolidError;

    fn from_str(text: &str) -> Result<Self, VolidError> {
        let bad = || VolidError::Volume { given: shown(text) };
        let (storage, volume) = text.split_once(':').ok_or_else(bad)?;
        let climbs = volume.split('/').any(|part| matches!(part, "" | "." | ".."));
        if climbs || volume.chars().any(char::is_control) || text.len() > 1024 {
            return Err(bad());
        }
        Ok(Self { raw: text.to_owned(), storage: storage.parse()?, names: names(volume) })
    }
}

impl<'de> Deserialize<'de> for Volid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn names(volume: &str) -> Names {
    let parts: Vec<&str> = volume.split('/').collect();
    match parts.as_slice() {
        ["backup", kind @ ("vm" | "ct"), number, time] => pbs(kind, number, time),
        ["backup", file] => vzdump(file),
        ["iso", _] => Names::of(VolumeKind::Iso, None),
        ["vztmpl", _] => Names::of(VolumeKind::Template, None),
        ["snippets", ..] => Names::of(VolumeKind::Snippet, None),
        ["import", ..] => Names::of(VolumeKind::Import, None),
        // A linked clone names its base first; the last part is the guest's own.
        [.., file] => match disk_owner(file) {
            Some(vmid) => Names::of(VolumeKind::Disk, Some(vmid)),
            None => Names::of(VolumeKind::Unknown, None),
        },
        [] => Names::of(VolumeKind::Unknown, None),
    }
}

/// `vm-100-disk-0.qcow2`, `base-100-disk-0`, `subvol-200-disk-0`, `vm-100-cloudinit`,
/// `vm-100-state-before`.
fn disk_owner(file: &str) -> Option<Vmid> {
    let mut parts = file.split('-');
    match parts.next()? {
        "vm" | "base" | "subvol" | "basevol" => parts.next()?.parse().ok(),
        _ => None,
    }
}

/// `vzdump-qemu-100-2026_01_31-02_00_05.vma.zst`; other files in that place are backups that
/// somebody renamed.
fn vzdump(file: &str) -> Names {
    let plain = Names::of(VolumeKind::Backup, None);
    let read = || {
        let rest = file.strip_prefix("vzdump-")?;
        let (kind, rest) = rest.split_once('-')?;
        let (number, rest) = rest.split_once('-')?;
        let guest = match kind {
            "qemu" => GuestKind::Qemu,
            "lxc" | "openvz" => GuestKind::Lxc,
            _ => return None,
        };
        let stamp = rest.split('.').next()?;
        let (date, clock) = stamp.split_once('-')?;
        let time = format!("{}T{}", date.replace('_', "-"), clock.replace('_', ":"));
        let time = is_stamp(&time).then_some(VolumeTime::Local(time));
        Some(Names { kind: VolumeKind::Backup, guest: Some(guest), vmid: Some(number.parse().ok()?), time })
    };
    read().unwrap_or(plain)
}

fn pbs(kind: &str, number: &str, time: &str) -> Names {
    let guest = if kind == "vm" { GuestKind::Qemu } else { GuestKind::Lxc };
    let utc = time.strip_suffix('Z').is_some_and(is_stamp);
    Names {
        kind: VolumeKind::Backup,
        guest: Some(guest),
        vmid: number.parse().ok(),
        time: utc.then(|| VolumeTime::Utc(time.to_owned())),
    }
}

/// `2026-01-31T02:00:05`, within a calendar's bounds.
fn is_stamp(text: &str) -> bool {
    let shape = text.len() == 19
        && text.bytes().enumerate().all(|(at, b)| match at {
            4 | 7 => b == b'-',
            10 => b == b'T',
            13 | 16 => b == b':',
            _ => b.is_ascii_digit(),
        });
    let within = |from: usize, least: u8, most: u8| {
        text.get(from..from + 2)
            .and_then(|two| two.parse::<u8>().ok())
            .is_some_and(|n| (least..=most).contains(&n))
    };
    shape
        && within(5, 1, 12)
        && within(8, 1, 31)
        && within(11, 0, 23)
        && within(14, 0, 59)
        && within(17, 0, 60)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Not a name of a storage or volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolidError {
    /// Not a storage's name.
    #[error(
        "`{given}` is not a storage's name: give it as `pvesm status` shows it (letters, digits, `-`, `_`, `.`)"
    )]
    Storage {
        /// What was given.
        given: String,
    },
    /// Not a volume's name.
    #[error("`{given}` is not a volume: give `storage:name` as `pvesm list STORAGE` shows it")]
    Volume {
        /// What was given.
        given: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volid(text: &str) -> Volid {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_the_name_tells() {
        use VolumeKind::*;
        for (text, kind, guest, vmid, time) in [
            (
                "local:backup/vzdump-qemu-100-2026_11_22-03_21_27.vma.zst",
                Backup,
                Some(GuestKind::Qemu),
                Some(100),
                Some(VolumeTime::Local("2026-11-22T03:21:27".to_owned())),
            ),
            (
                "local:backup/vzdump-lxc-200-2026_11_22-03_16_18.tar.gz",
                Backup,
                Some(GuestKind::Lxc),
                Some(200),
                Some(VolumeTime::Local("2026-11-22T03:16:18".to_owned())),
            ),
            (
                "pbs1:backup/ct/100/2026-01-31T01:00:05Z",
                Backup,
                Some(GuestKind::Lxc),
                Some(100),
                Some(VolumeTime::Utc("2026-01-31T01:00:05Z".to_owned())),
            ),
            ("pbs1:backup/vm/100/yesterday", Backup, Some(GuestKind::Qemu), Some(100), None),
            (
                "local:backup/vzdump-qemu-100-2026_13_99-03_21_27.vma",
                Backup,
                Some(GuestKind::Qemu),
                Some(100),
                None,
            ),
            ("local:backup/before-the-move.tar.zst", Backup, None, None, None),
            ("local:backup/vzdump-qemu-5-2026_11_22-03_21_27.vma", Backup, None, None, None),
            ("local:backup/host/pve1/2026-01-31T01:00:05Z", Unknown, None, None, None),
            ("local:100/vm-100-disk-0.qcow2", Disk, None, Some(100), None),
            ("local:100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2", Disk, None, Some(101), None),
            ("local-zfs:subvol-200-disk-1", Disk, None, Some(200), None),
            ("local-lvm:vm-100-cloudinit", Disk, None, Some(100), None),
            ("local:iso/debian.iso", Iso, None, None, None),
            ("local:vztmpl/busybox-tiny_1.0_amd64.tar.gz", Template, None, None, None),
            ("local:snippets/user.yaml", Snippet, None, None, None),
            ("local:import/a.ova/disk1.vmdk", Import, None, None, None),
            ("iscsi1:0.0.1.scsi-36", Unknown, None, None, None),
        ] {
            let volid = volid(text);
            assert_eq!(volid.kind(), kind, "{text}");
            assert_eq!((volid.guest(), volid.vmid().map(Vmid::get)), (guest, vmid), "{text}");
            assert_eq!(volid.time(), time.as_ref(), "{text}");
            assert_eq!(volid.to_string(), text);
            assert_eq!(format!("{}:{}", volid.storage(), volid.volume()), text);
        }
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        for bad in [
            "",
            "local",
            "local:",
            ":x",
            "local:../../etc/passwd",
            "local:a/../b",
            "local:/etc/passwd",
            "local:a//b",
            "lo/cal:a",
            "local:a\nb",
            "a:b",
            &format!("local:{}", "x".repeat(1100)),
        ] {
            assert!(bad.parse::<Volid>().is_err(), "{bad:?}");
        }
        assert!("..".parse::<StorageName>().is_err() && "local-lvm".parse::<StorageName>().is_ok());
        let error = "a\u{1b}[0m".parse::<Volid>().unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}
