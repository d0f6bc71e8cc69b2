//! What is behind storages, read from the host itself: kernel and udev tell it to everybody, so no root is
//! needed. `/sys/block`, `/run/udev/data` and `/proc/self/mountinfo`; nothing is opened but small text files,
//! and what does not parse is no disk, no filesystem, no pool.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use authz::order::Backing;
use authz::world::DiskNow;
use protocol::refs::{DiskRef, FsUuid, LvmUuid, ZfsGuid};
use protocol::report::Known;
use proxmox_client::StorageConfig;

/// Longest file that is read.
const MAX_FILE: u64 = 1 << 20;
/// Most block devices that are looked at.
const MAX_DEVICES: usize = 4096;

/// A block device, and what udev says of it.
#[derive(Debug, Clone, Default)]
struct Device {
    /// `8:0`
    number: String,
    /// Bytes.
    size: u64,
    /// udev's properties.
    facts: BTreeMap<String, String>,
    /// Its partitions' numbers.
    parts: Vec<String>,
    /// Of a device-mapper device: name and uuid.
    mapped: Option<(String, String)>,
}

/// Everything, read once.
struct Host {
    /// Whole devices, by the kernel's name.
    devices: BTreeMap<String, Device>,
    /// udev's properties of partitions, by number.
    partitions: BTreeMap<String, BTreeMap<String, String>>,
    /// Number and place of what is mounted.
    mounts: Vec<(String, String)>,
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn line(path: &Path) -> Option<String> {
    Some(read(path).ok()?.trim().to_owned())
}

/// `E:KEY=VALUE`
fn facts(root: &Path, number: &str) -> BTreeMap<String, String> {
    let text = read(&root.join("run/udev/data").join(format!("b{number}"))).unwrap_or_default();
    let fact = |line: &str| {
        let (key, value) = line.strip_prefix("E:")?.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(fact).collect()
}

/// `\040` and the like, as mountinfo spells blanks.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Host {
    fn read(root: &Path) -> Result<Self, String> {
        let block = root.join("sys/block");
        let list = std::fs::read_dir(&block).map_err(|error| format!("{}: {error}", block.display()))?;
        let (mut devices, mut partitions) = (BTreeMap::new(), BTreeMap::new());
        for entry in list.take(MAX_DEVICES).filter_map(Result::ok) {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let Some(number) = line(&path.join("dev")) else { continue };
            let size = line(&path.join("size")).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            let mapped = line(&path.join("dm/name")).zip(line(&path.join("dm/uuid")));
            let mut parts = Vec::new();
            let inner = std::fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
            for part in inner.filter(|part| part.file_name().to_string_lossy().starts_with(&name)) {
                if let Some(number) = line(&part.path().join("dev")) {
                    partitions.insert(number.clone(), facts(root, &number));
                    parts.push(number);
                }
            }
            let facts = facts(root, &number);
            let size = size.saturating_mul(512);
            devices.insert(name, Device { number, size, facts, parts, mapped });
        }
        let mountinfo = root.join("proc/self/mountinfo");
        let text = read(&mountinfo).map_err(|error| format!("{}: {error}", mountinfo.display()))?;
        let mount = |line: &str| {
            let mut words = line.split(' ');
            let number = words.nth(2)?.to_owned();
            Some((number, unescaped(words.nth(1)?)))
        };
        let mounts = text.lines().filter_map(mount).collect();
        Ok(Self { devices, partitions, mounts })
    }

    /// udev's properties of a device or a partition.
    fn facts(&self, number: &str) -> Option<&BTreeMap<String, String>> {
        let device = self.devices.values().find(|device| device.number == number).map(|device| &device.facts);
        device.or_else(|| self.partitions.get(number))
    }

    fn filesystem(&self, number: &str) -> Option<FsUuid> {
        self.facts(number)?.get("ID_FS_UUID")?.parse().ok()
    }

    /// The filesystem that is mounted there; the last one, which hides those before it.
    fn at(&self, place: &str) -> Option<FsUuid> {
        let (number, _) = self.mounts.iter().rfind(|(_, at)| at == place)?;
        self.filesystem(number)
    }

    /// The GUID of a pool, by the labels of its members. Two pools of one name are none.
    fn pool(&self, name: &str) -> Option<ZfsGuid> {
        let all = self.devices.values().map(|device| &device.facts).chain(self.partitions.values());
        let members = all.filter(|facts| {
            facts.get("ID_FS_TYPE").is_some_and(|word| word == "zfs_member")
                && facts.get("ID_FS_LABEL").is_some_and(|label| label == name)
        });
        let guids: BTreeSet<&String> = members.filter_map(|facts| facts.get("ID_FS_UUID")).collect();
        match guids.into_iter().collect::<Vec<_>>().as_slice() {
            [one] => one.parse().ok(),
            _ => None,
        }
    }

    /// The UUID of a volume group, by the device of a thin pool in it.
    fn group(&self, vg: &str, pool: &str) -> Option<LvmUuid> {
        // Device mapper doubles a hyphen that belongs to a name.
        let double = |name: &str| name.replace('-', "--");
        let name = format!("{}-{}", double(vg), double(pool));
        let names = [name.clone(), format!("{name}-tpool")];
        let (_, uuid) = self
            .devices
            .values()
            .filter_map(|device| device.mapped.as_ref())
            .find(|(mapped, _)| names.contains(mapped))?;
        let plain = uuid.strip_prefix("LVM-")?.get(..32)?;
        let mut at = 0;
        let parts = [6, 4, 4, 4, 4, 4, 6].map(|length| {
            let part = plain.get(at..at + length).unwrap_or_default();
            at += length;
            part
        });
        parts.join("-").parse().ok()
    }
}

fn host(root: &Path) -> Result<Host, String> {
    Host::read(root).map_err(|why| format!("the host's devices could not be read: {why}"))
}

/// Whether this very thing is there, right now.
pub(crate) fn present(root: &Path, backing: &Backing) -> Known<bool> {
    let host = match host(root) {
        Ok(host) => host,
        Err(why) => return Known::Unknown(why),
    };
    Known::Known(match backing {
        Backing::Dir { path, uuid } => host.at(path.as_str()).as_ref() == Some(uuid),
        Backing::ZfsPool { pool, guid } => host.pool(pool.as_str()).as_ref() == Some(guid),
        Backing::LvmThin { vg, uuid, pool } => host.group(vg.as_str(), pool.as_str()).as_ref() == Some(uuid),
    })
}

/// What is behind each of these storages.
pub(super) fn of(root: &Path, storages: &[StorageConfig]) -> Vec<Known<Backing>> {
    match host(root) {
        Ok(host) => storages.iter().map(|storage| one(&host, storage)).collect(),
        Err(why) => storages.iter().map(|_| Known::Unknown(why.clone())).collect(),
    }
}

fn one(host: &Host, storage: &StorageConfig) -> Known<Backing> {
    let option = |key: &str| storage.raw.get(key).map(String::as_str);
    let found = match storage.plugin.as_deref() {
        Some("dir") => option("path")
            .and_then(|path| Some(Backing::Dir { path: path.parse().ok()?, uuid: host.at(path)? })),
        Some("zfspool") => option("pool").and_then(|pool| {
            // A dataset is a part of its pool, and an order names the pool.
            let name = pool.split('/').next().unwrap_or(pool);
            Some(Backing::ZfsPool { pool: pool.parse().ok()?, guid: host.pool(name)? })
        }),
        Some("lvmthin") => option("vgname").zip(option("thinpool")).and_then(|(vg, pool)| {
            Some(Backing::LvmThin {
                vg: vg.parse().ok()?,
                uuid: host.group(vg, pool)?,
                pool: pool.parse().ok()?,
            })
        }),
        _ => None,
    };
    match found {
        Some(backing) => Known::Known(backing),
        None => Known::Unknown(format!(
            "what is behind a storage of type {} there cannot be told by an identity of its own",
            storage.plugin.as_deref().unwrap_or("?")
        )),
    }
}

/// Physical disks: whole devices with a serial number.
pub(super) fn disks(root: &Path) -> Known<Vec<DiskNow>> {
    let host = match host(root) {
        Ok(host) => host,
        Err(why) => return Known::Unknown(why),
    };
    let disk = |device: &Device| {
        let serial = device.facts.get("ID_SERIAL_SHORT")?.parse().ok()?;
        let wwn = device.facts.get("ID_WWN").and_then(|wwn| wwn.to_ascii_lowercase().parse().ok());
        let own = std::iter::once(&device.number).chain(&device.parts);
        let filesystems = own.filter_map(|number| host.filesystem(number)).collect();
        Some(DiskNow { disk: DiskRef { serial, wwn, size: device.size }, filesystems })
    };
    let plain = host.devices.values().filter(|device| device.mapped.is_none());
    Known::Known(plain.filter_map(disk).collect())
}

/// Filesystems that are mounted, as far as they have a UUID.
pub(super) fn mounted(root: &Path) -> Known<BTreeSet<FsUuid>> {
    match host(root) {
        Ok(host) => {
            Known::Known(host.mounts.iter().filter_map(|(number, _)| host.filesystem(number)).collect())
        }
        Err(why) => Known::Unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "sys/block/sda/dev", "8:0\n");
        put(root, "sys/block/sda/size", "2048\n");
        put(root, "sys/block/sda/sda1/dev", "8:1\n");
        put(root, "sys/block/sda/queue/rotational", "1\n");
        put(
            root,
            "run/udev/data/b8:0",
            "S:disk/by-id/x\nE:ID_SERIAL_SHORT=WD-1\nE:ID_WWN=0x50014ee2b1234567\n",
        );
        put(root, "run/udev/data/b8:1", &format!("E:ID_FS_UUID={UUID}\nE:ID_FS_TYPE=ext4\n"));
        put(root, "sys/block/sdb/dev", "8:16\n");
        put(root, "sys/block/sdb/sdb1/dev", "8:17\n");
        put(
            root,
            "run/udev/data/b8:17",
            "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\nE:ID_FS_UUID=1234567890123456789\n",
        );
        put(root, "sys/block/dm-0/dev", "253:0\n");
        put(root, "sys/block/dm-0/dm/name", "my--vg-data-tpool\n");
        put(
            root,
            "sys/block/dm-0/dm/uuid",
            "LVM-Zr5zT91a2b3c4d5e6f7g8h9i0jAbCdEfabcdefghijklmnopqrstuvwxyz012345-tpool\n",
        );
        put(
            root,
            "proc/self/mountinfo",
            "22 1 8:1 / /mnt/usb\\040disk rw - ext4 /dev/sda1 rw\n23 1 8:1 / /mnt/usb rw - ext4 /dev/sda1 rw\n24 1 0:5 / /proc rw - proc proc rw\n",
        );
        dir
    }

    #[test]
    fn what_the_kernel_and_udev_tell() {
        let dir = tree();
        let root = dir.path();
        let there = |backing: &Backing| present(root, backing) == Known::Known(true);
        let uuid: FsUuid = UUID.parse().unwrap();
        assert!(there(&Backing::Dir { path: "/mnt/usb".parse().unwrap(), uuid: uuid.clone() }));
        assert!(!there(&Backing::Dir { path: "/mnt/other".parse().unwrap(), uuid: uuid.clone() }));
        assert!(!there(&Backing::Dir {
            path: "/mnt/usb".parse().unwrap(),
            uuid: "ABCD-0123".parse().unwrap()
        }));
        let zfs =
            |guid: &str| Backing::ZfsPool { pool: "tank".parse().unwrap(), guid: guid.parse().unwrap() };
        assert!(there(&zfs("1234567890123456789")) && !there(&zfs("1")));
        let lvm = |uuid: &str| Backing::LvmThin {
            vg: "my-vg".parse().unwrap(),
            uuid: uuid.parse().unwrap(),
            pool: "data".parse().unwrap(),
        };
        assert!(there(&lvm("Zr5zT9-1a2b-3c4d-5e6f-7g8h-9i0j-AbCdEf")));
        assert!(!there(&lvm("Zr5zT9-1a2b-3c4d-5e6f-7g8h-9i0j-AbCdEg")));
        let Known::Known(disks) = disks(root) else { panic!() };
        let [disk] = disks.as_slice() else { panic!("{disks:?}") };
        assert_eq!((disk.disk.serial.as_str(), disk.disk.size), ("WD-1", 1 << 20));
        assert_eq!(disk.disk.wwn.as_ref().unwrap().as_str(), "0x50014ee2b1234567");
        assert_eq!(disk.filesystems, [uuid.clone()].into());
        assert_eq!(mounted(root), Known::Known([uuid].into()));
    }

    #[test]
    fn two_pools_of_one_name_and_hostile_files() {
        let dir = tree();
        let root = dir.path();
        put(root, "run/udev/data/b8:16", "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\nE:ID_FS_UUID=42\n");
        let zfs = Backing::ZfsPool { pool: "tank".parse().unwrap(), guid: "42".parse().unwrap() };
        assert_eq!(present(root, &zfs), Known::Known(false));
        for junk in [
            "",
            "E:",
            "E:=\nE:ID_FS_UUID",
            "E:ID_FS_UUID=../../x\n",
            "\u{0}\u{ff}",
            "E:ID_SERIAL_SHORT=a b/c",
        ] {
            put(root, "run/udev/data/b8:0", junk);
            put(root, "run/udev/data/b8:1", junk);
            put(root, "sys/block/dm-0/dm/uuid", junk);
            put(root, "proc/self/mountinfo", junk);
            assert_eq!(disks(root), Known::Known(vec![]));
            assert_eq!(mounted(root), Known::Known(BTreeSet::new()));
        }
        std::fs::remove_dir_all(root.join("sys")).unwrap();
        assert!(matches!(disks(root), Known::Unknown(_)) && matches!(present(root, &zfs), Known::Unknown(_)));
        assert_eq!(unescaped("a\\040b\\134\\9"), "a b\\\\9");
    }
}
