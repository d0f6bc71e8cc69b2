//! What an order names besides the guest: volumes, backups, disks, storages, slots. Names can be
//! reused, so a thing is named together with the facts that make it this one: a backup by volume
//! id, size and time, a disk by serial number, WWN and size (`security.md` 2.5).
//!
//! Every name has a grammar that is a part of what Proxmox allows. What falls outside it cannot be
//! named in an order; it is refused where the order is prepared, with the name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{GuestKind, IdError, Vmid, name_id, spelled};

fn is_storage(text: &str) -> bool {
    (2..=100).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

name_id!(
    /// A storage's name (`pve-storage-id`).
    StorageId,
    "2 to 100 letters, digits, '-', '_' and '.', a letter first and a letter or digit last",
    is_storage
);
name_id!(
    /// A volume's full name, `storage:volume` (`pve/facts.md` 7.6). A part of what Proxmox allows:
    /// names with spaces or other letters cannot be named in an order.
    VolumeId,
    "STORAGE:NAME of at most 512 letters, digits and '._+-:@=~/', without '', '.' or '..' as a part",
    |text| {
        text.len() <= 512
            && text.split_once(':').is_some_and(|(storage, volume)| {
                is_storage(storage)
                    && volume
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"._+-:@=~/".contains(&b))
                    && volume.split('/').all(|part| !matches!(part, "" | "." | ".."))
            })
    }
);

impl VolumeId {
    /// The storage that it is on.
    pub fn storage(&self) -> StorageId {
        // Holds since parsing.
        StorageId(self.0.split_once(':').map_or("", |(storage, _)| storage).to_owned())
    }
    /// Whether its name is one of a backup.
    pub fn is_backup(&self) -> bool {
        self.0.split_once(':').is_some_and(|(_, volume)| volume.starts_with("backup/"))
    }
    /// Whose backup it is by its name (`pve/facts.md` 7.6): `backup/vzdump-qemu-100-…`, and on a backup
    /// server `backup/vm/100/…`. None where the name does not say.
    pub fn backup_owner(&self) -> Option<(GuestKind, Vmid)> {
        let name = self.0.split_once(':')?.1.strip_prefix("backup/")?;
        let kinds = [
            ("vzdump-qemu-", '-', GuestKind::Qemu),
            ("vzdump-lxc-", '-', GuestKind::Lxc),
            ("vm/", '/', GuestKind::Qemu),
            ("ct/", '/', GuestKind::Lxc),
        ];
        kinds.into_iter().find_map(|(prefix, end, kind)| {
            let (number, _) = name.strip_prefix(prefix)?.split_once(end)?;
            let plain = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
            Some((kind, plain.then(|| number.parse().ok()).flatten()?))
        })
    }
    /// Whether its name is one of a container template.
    pub fn is_template(&self) -> bool {
        self.0.split_once(':').is_some_and(|(_, volume)| volume.starts_with("vztmpl/"))
    }
}

name_id!(
    /// The file name of a container template in Proxmox's index (`pve/facts.md` 8.1).
    TemplateName, "1 to 128 letters, digits and '._+-', a letter or digit first",
    |text| {
        (1..=128).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
    }
);
name_id!(
    /// A guest's name: `name` of a virtual machine, `hostname` of a container (`dns-name`).
    GuestName, "1 to 253 of a-z, A-Z, 0-9, '-' and '.', no part empty or with '-' at an end",
    |text| {
        (1..=253).contains(&text.len())
            && text.split('.').all(|part| {
                (1..=63).contains(&part.len())
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && !part.starts_with('-')
                    && !part.ends_with('-')
            })
    }
);
name_id!(
    /// A resource pool of Proxmox, a ZFS pool, a volume group or a thin pool.
    PoolName, "1 to 64 letters, digits, '-', '_' and '.', a letter first",
    |text| {
        (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    }
);
name_id!(
    /// A network bridge.
    BridgeName, "1 to 15 letters, digits, '_' and '.', a letter first",
    |text| {
        (1..=15).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
    }
);
name_id!(
    /// The last part of a mount point's path.
    MountName, "1 to 32 of a-z, 0-9, '_' and '-', a letter or digit first",
    |text| {
        (1..=32).contains(&text.len())
            && !text.starts_with(['_', '-'])
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
    }
);
name_id!(
    /// A directory from the root, nothing relative in it.
    DirPath, "an absolute path of at most 128 of a-z, A-Z, 0-9 and '._-/', without '', '.' or '..' as a part",
    |text| {
        (2..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
            && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
    }
);

fn is_hex(text: &str, upper: bool) -> bool {
    text.bytes().all(|b| {
        b.is_ascii_digit() || if upper { (b'A'..=b'F').contains(&b) } else { (b'a'..=b'f').contains(&b) }
    })
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|part| is_hex(part, false))
}

name_id!(
    /// A UUID in lower case: a boot id, a volume group's or a pool's identity.
    Uuid, "8-4-4-4-12 lower-case hexadecimal digits", is_uuid
);
name_id!(
    /// A filesystem's UUID as `blkid` and `/dev/disk/by-uuid` spell it: of ext4, XFS and btrfs a UUID
    /// in lower case, of FAT `ABCD-0123`, of NTFS 16 digits.
    FsUuid, "a UUID in lower case, ABCD-0123 (FAT) or 16 upper-case hexadecimal digits (NTFS)",
    |text| {
        is_uuid(text)
            || (text.len() == 16 && is_hex(text, true))
            || text.split_once('-').is_some_and(|(a, b)| a.len() == 4 && b.len() == 4 && is_hex(a, true) && is_hex(b, true))
    }
);
name_id!(
    /// A ZFS pool's GUID, decimal as `zpool get guid` prints it.
    ZfsGuid, "1 to 20 digits, none of them a leading zero",
    |text| (1..=20).contains(&text.len()) && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
);
name_id!(
    /// An LVM volume group's UUID, as `vgs -o vg_uuid` prints it.
    LvmUuid, "6-4-4-4-4-4-6 letters and digits",
    |text| {
        text.split('-').map(str::len).eq([6, 4, 4, 4, 4, 4, 6])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    }
);
name_id!(
    /// A disk's serial number.
    DiskSerial, "1 to 64 letters, digits and '_-.:+'",
    |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:+".contains(&b))
    }
);
name_id!(
    /// A disk's world wide name.
    Wwn, "0x, eui., naa. or nvme., and 8 to 64 lower-case hexadecimal digits, '.' and '-'",
    |text| {
        ["0x", "eui.", "naa.", "nvme."].iter().any(|prefix| {
            text.strip_prefix(prefix).is_some_and(|rest| {
                (8..=64).contains(&rest.len())
                    && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || matches!(b, b'.' | b'-'))
            })
        })
    }
);
name_id!(
    /// Proxmox's digest of a configuration (SHA-1 of the whole file, `pve/facts.md` 5.3).
    ConfigDigest, "40 or 64 lower-case hexadecimal digits",
    |text| matches!(text.len(), 40 | 64) && is_hex(text, false)
);
name_id!(
    /// A replication job, `100-0`.
    ReplicationId, "VMID-NUMBER",
    |text| {
        text.split_once('-').is_some_and(|(vmid, number)| {
            vmid.parse::<crate::ids::Vmid>().is_ok()
                && !vmid.starts_with('0')
                && (1..=4).contains(&number.len())
                && number.bytes().all(|b| b.is_ascii_digit())
                && (number.len() == 1 || !number.starts_with('0'))
        })
    }
);
name_id!(
    /// A released version of Writ.
    ReleaseVersion, "MAJOR.MINOR.PATCH, numbers of at most 5 digits without leading zeros",
    |text| {
        text.split('.').count() == 3
            && text.split('.').all(|n| {
                (1..=5).contains(&n.len())
                    && n.bytes().all(|b| b.is_ascii_digit())
                    && (n.len() == 1 || !n.starts_with('0'))
            })
    }
);
name_id!(
    /// Where a volume hangs on its guest: `scsi0` to `scsi30`, `virtio0` to `virtio15`, `sata0` to
    /// `sata5`, `ide0` to `ide3`, `efidisk0`, `tpmstate0` (virtual machines); `rootfs`, `mp0` to
    /// `mp255` (containers); `unused0` to `unused255` (both).
    DiskSlot, "a slot such as scsi0, virtio1, sata0, ide2, efidisk0, tpmstate0, rootfs, mp0 or unused0",
    |text| {
        if text == "rootfs" {
            return true;
        }
        let digits = text.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let last = match &text[..text.len() - digits.len()] {
            "scsi" => 30,
            "virtio" => 15,
            "sata" => 5,
            "ide" => 3,
            "efidisk" | "tpmstate" => 0,
            "mp" | "unused" => 255,
            _ => return false,
        };
        digits.bytes().all(|b| b.is_ascii_digit())
            && (digits.len() == 1 || !digits.starts_with('0'))
            && digits.parse::<u16>().is_ok_and(|number| number <= last)
    }
);

impl DiskSlot {
    /// Whether what is there is detached.
    pub fn is_unused(&self) -> bool {
        self.0.starts_with("unused")
    }
    /// Whether guests of this kind have such a slot.
    pub fn fits(&self, kind: GuestKind) -> bool {
        let container = self.0 == "rootfs" || self.0.starts_with("mp");
        self.is_unused() || container == (kind == GuestKind::Lxc)
    }
}

/// A volume and what makes it this one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRef {
    /// Its name.
    pub volid: VolumeId,
    /// Bytes.
    pub size: u64,
    /// How it is kept.
    pub format: VolumeFormat,
}

/// How a volume is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeFormat {
    /// Plain blocks.
    Raw,
    /// QEMU's file format.
    Qcow2,
    /// VMware's file format.
    Vmdk,
    /// A directory or dataset of a container.
    Subvol,
}

/// A backup and what makes it this one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRef {
    /// Its name.
    pub volid: VolumeId,
    /// Bytes.
    pub size: u64,
    /// When it was begun, unix seconds.
    pub ctime: u64,
}

/// A physical disk. Device names such as `/dev/sdb` change and are never used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRef {
    /// Its serial number.
    pub serial: DiskSerial,
    /// Its world wide name; many USB disks have none.
    pub wwn: Option<Wwn>,
    /// Bytes.
    pub size: u64,
}

/// What high availability is asked to do with a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HaState {
    /// It does not know the guest.
    Unmanaged,
    /// Keep it running.
    Started,
    /// Keep it stopped.
    Stopped,
    /// Let it be, and move it nowhere.
    Disabled,
    /// Look away.
    Ignored,
}

/// Serde's word for a value of a closed list.
macro_rules! shown {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(serde_json::to_value(self).ok().as_ref().and_then(|v| v.as_str()).unwrap_or("?"))
            }
        }
    )*};
}
shown!(VolumeFormat, HaState);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err = IdError> + fmt::Display>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(text.parse::<T>().unwrap().to_string(), *text);
        }
        for text in bad.iter().chain(&["", " ", "ä", "a\u{202e}b", "a\nb", "\u{0}", "../x", "a b", "$(x)"]) {
            assert!(text.parse::<T>().is_err(), "{text:?} is no {}", std::any::type_name::<T>());
        }
    }

    #[test]
    fn volumes_are_names_and_nothing_else() {
        check::<StorageId>(&["local", "local-lvm", "pbs.1"], &["l", "1a", "local-", "lo/cal", "a:b"]);
        check::<VolumeId>(
            &[
                "local-lvm:vm-100-disk-0",
                "local:100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2",
                "pbs1:backup/ct/100/2026-01-31T01:00:05Z",
                "local:backup/vzdump-qemu-100-2026_11_22-03_21_27.vma.zst",
                "iscsi1:0.0.1.scsi-36",
            ],
            &[
                "local",
                "local:",
                ":x",
                "local:../x",
                "local:a/../b",
                "local:/etc",
                "local:a//b",
                "a:b",
                "local:a,b",
                "local:a%2f",
            ],
        );
        assert!(format!("local:{}", "x".repeat(510)).parse::<VolumeId>().is_err());
        let volume: VolumeId = "local:backup/x.vma".parse().unwrap();
        assert!(volume.is_backup() && !volume.is_template());
        assert_eq!(volume.storage().as_str(), "local");
        let owner = |text: &str| {
            let owner = text.parse::<VolumeId>().unwrap().backup_owner();
            owner.map(|(kind, vmid)| format!("{kind} {vmid}"))
        };
        for (text, whose) in [
            ("local:backup/vzdump-qemu-100-2026_11_22-03_21_27.vma.zst", Some("qemu 100")),
            ("local:backup/vzdump-lxc-999999999-x.tar", Some("lxc 999999999")),
            ("pbs1:backup/ct/101/2026-01-31T01:00:05Z", Some("lxc 101")),
            ("pbs1:backup/vm/101/2026-01-31T01:00:05Z", Some("qemu 101")),
            ("local:backup/vzdump-qemu-99-x.vma", None),
            ("local:backup/vzdump-qemu-0100-x.vma", None),
            ("local:backup/vzdump-qemu-+100-x.vma", None),
            ("local:backup/vzdump-qemu-100", None),
            ("local:backup/mine.vma", None),
            ("pbs1:backup/host/101/x", None),
            ("local:iso/vzdump-qemu-100-x", None),
        ] {
            assert_eq!(owner(text).as_deref(), whose, "{text}");
        }
        check::<ConfigDigest>(&[&"a".repeat(40), &"0".repeat(64)], &["a", &"A".repeat(40), &"a".repeat(41)]);
    }

    #[test]
    fn slots_are_proxmox_slots() {
        check::<DiskSlot>(
            &[
                "scsi0",
                "scsi30",
                "virtio15",
                "sata5",
                "ide3",
                "efidisk0",
                "tpmstate0",
                "rootfs",
                "mp0",
                "mp255",
                "unused9",
            ],
            &[
                "scsi", "scsi31", "scsi00", "scsi+1", "virtio16", "sata6", "ide4", "efidisk1", "mp256",
                "rootfs0", "net0", "usb0", "hostpci0", "SCSI0",
            ],
        );
        let fits = |text: &str| {
            let slot: DiskSlot = text.parse().unwrap();
            (slot.fits(GuestKind::Qemu), slot.fits(GuestKind::Lxc))
        };
        assert_eq!(
            [fits("scsi0"), fits("mp1"), fits("rootfs"), fits("unused0")],
            [(true, false), (false, true), (false, true), (true, true)]
        );
    }

    #[test]
    fn identities_have_one_spelling() {
        let uuid = "0d6e5c1c-8a5b-4e57-9f3b-111111111111";
        check::<Uuid>(&[uuid], &[&uuid.to_uppercase(), "0d6e5c1c", "0d6e5c1c8a5b4e579f3b111111111111"]);
        check::<FsUuid>(&[uuid, "ABCD-0123", "0123456789ABCDEF"], &["abcd-0123", "ABCD-01234", "ABCD0123"]);
        check::<ZfsGuid>(&["1", "12345678901234567890"], &["0", "01", "123456789012345678901", "-1"]);
        check::<LvmUuid>(&["Zr5zT9-1a2b-3c4d-5e6f-7g8h-9i0j-AbCdEf"], &[uuid, "Zr5zT9"]);
        check::<DiskSerial>(&["WD-WX11D1234567", "S3Z9NB0K_1"], &["a/b", &"x".repeat(65)]);
        check::<Wwn>(
            &["0x5000c500a1b2c3d4", "eui.0025385881b00001"],
            &["5000c500a1b2c3d4", "0x", "0x5000C500A1B2C3D4"],
        );
        check::<ReplicationId>(&["100-0", "100-12"], &["99-0", "100", "100-", "100-01", "0100-1", "100-x"]);
        check::<ReleaseVersion>(
            &["0.1.0", "12.3.45"],
            &["1.0", "1.0.0.0", "01.0.0", "1.0.x", "v1.0.0", "1.0.123456"],
        );
    }

    #[test]
    fn names_refuse_paths_and_signs() {
        check::<TemplateName>(&["debian-12-standard_12.7-1_amd64.tar.zst"], &["-x", "a/b", ".x"]);
        check::<GuestName>(&["db", "db.example.org", "A1"], &["-a", "a-", "a..b", "a_b", &"a".repeat(64)]);
        check::<PoolName>(&["rpool", "pve", "data_1"], &["1a", "a/b"]);
        check::<BridgeName>(&["vmbr0", "vmbr0.10"], &["0br", "a-b", &"a".repeat(16)]);
        check::<MountName>(&["backup-usb", "a"], &["-a", "A", "a.b"]);
        check::<DirPath>(&["/mnt/usb", "/srv/a.b"], &["/", "mnt", "/mnt/", "//mnt", "/a/../b", "/a/./b"]);
        assert_eq!(HaState::Unmanaged.to_string(), "unmanaged");
        assert_eq!(VolumeFormat::Qcow2.to_string(), "qcow2");
    }
}
