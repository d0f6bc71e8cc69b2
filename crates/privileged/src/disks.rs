//! Which disk a filesystem is on, and what is mounted: read from the kernel and from udev's database, the same
//! facts that Proxmox's list of disks shows and that an order states. Device names are never trusted: a name
//! only leads to its facts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use authz::world::{DiskNow, World};
use protocol::refs::{DiskRef, FsUuid};
use protocol::report::Known;

use crate::config::Places;

/// Most bytes of one small file.
const SMALL: u64 = 1 << 20;

/// A device with a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `sdb1`
    pub name: String,
    /// `8:17`
    pub number: String,
    /// Whether it hangs on a USB bus.
    pub usb: bool,
    /// `sdb`
    disk: String,
}

/// A line of what is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// `8:17`; of btrfs another one.
    number: String,
    /// What it is mounted from: `/dev/sdb1`.
    source: String,
    /// Where.
    pub at: String,
    /// `rw`, `nosuid`, …
    pub options: Vec<String>,
}

/// The devices and mounts of this host.
#[derive(Debug)]
pub struct View {
    filesystems: BTreeMap<FsUuid, Device>,
    disks: BTreeMap<String, DiskRef>,
    mounted: Vec<Mounted>,
}

impl View {
    /// Reads it. Blocks.
    pub fn read(places: &Places) -> io::Result<Self> {
        let blocks = blocks(&places.sys)?;
        let mut disks = BTreeMap::new();
        for (name, block) in blocks.iter().filter(|(name, block)| block.disk == **name) {
            if let Some(disk) = disk(&places.udev, block) {
                disks.insert(name.clone(), disk);
            }
        }
        let mut filesystems = BTreeMap::new();
        let links = places.dev.join("disk/by-uuid");
        let entries = match std::fs::read_dir(&links) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let name = entry.file_name();
            let Some(uuid) = name.to_str().and_then(|name| name.parse::<FsUuid>().ok()) else { continue };
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let Some(name) = target.file_name().and_then(|name| name.to_str()) else { continue };
            if let Some(block) = blocks.get(name) {
                let Block { number, usb, disk, .. } = block.clone();
                filesystems.insert(uuid, Device { name: name.to_owned(), number, usb, disk });
            }
        }
        let mounted = mounted(&read(&places.mountinfo)?);
        Ok(Self { filesystems, disks, mounted })
    }

    /// As orders are compared with it. What this service does not read is unknown.
    pub fn world(&self) -> World {
        let disks = self.disks.iter().map(|(name, disk)| DiskNow {
            disk: disk.clone(),
            filesystems: self.on(name).map(|(uuid, _)| uuid.clone()).collect(),
        });
        let uuids = self.filesystems.iter().filter(|(_, device)| self.mounts(device).next().is_some());
        World {
            disks: Known::Known(disks.collect()),
            mounted: Known::Known(uuids.map(|(uuid, _)| uuid.clone()).collect::<BTreeSet<_>>()),
            ..World::unread("writ-privileged does not read it")
        }
    }

    fn on<'a>(&'a self, disk: &'a str) -> impl Iterator<Item = (&'a FsUuid, &'a Device)> {
        self.filesystems.iter().filter(move |(_, device)| device.disk == disk)
    }

    /// The device with this filesystem.
    pub fn device(&self, uuid: &FsUuid) -> Option<&Device> {
        self.filesystems.get(uuid)
    }

    /// What is known of the disk that a device is on.
    pub fn disk_of(&self, device: &Device) -> Option<&DiskRef> {
        self.disks.get(&device.disk)
    }

    /// Where a device is mounted.
    pub fn mounts<'a>(&'a self, device: &'a Device) -> impl Iterator<Item = &'a Mounted> {
        let source = format!("/dev/{}", device.name);
        self.mounted.iter().filter(move |mounted| mounted.number == device.number || mounted.source == source)
    }

    /// Everything that is mounted exactly there; the last one is seen.
    pub fn at<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Mounted> {
        self.mounted.iter().filter(move |mounted| mounted.at == path)
    }

    /// Whether this line is that device's.
    pub fn is_of(&self, mounted: &Mounted, device: &Device) -> bool {
        self.mounts(device).any(|other| other == mounted)
    }

    /// Whether there is a whole disk of this name.
    pub fn has_disk(places: &Places, name: &str) -> bool {
        places.sys.join("class/block").join(name).join("dev").exists()
    }
}

#[derive(Debug, Clone)]
struct Block {
    number: String,
    bytes: u64,
    usb: bool,
    disk: String,
}

/// All block devices by their names.
fn blocks(sys: &Path) -> io::Result<BTreeMap<String, Block>> {
    let mut blocks = BTreeMap::new();
    for entry in std::fs::read_dir(sys.join("class/block"))? {
        let path = entry?.path();
        // Devices come and go while they are looked at.
        if let Some((name, block)) = block(&path) {
            blocks.insert(name, block);
        }
    }
    Ok(blocks)
}

fn block(path: &Path) -> Option<(String, Block)> {
    let name = path.file_name()?.to_str()?.to_owned();
    let real = path.canonicalize().ok()?;
    let number = read(&real.join("dev")).ok()?.trim().to_owned();
    let sectors: u64 = read(&real.join("size")).ok()?.trim().parse().ok()?;
    let whole: PathBuf =
        if real.join("partition").exists() { real.parent()?.to_owned() } else { real.clone() };
    let disk = whole.file_name()?.to_str()?.to_owned();
    let usb = real.components().any(|part| {
        let part = part.as_os_str().to_str().unwrap_or_default();
        part.strip_prefix("usb").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    Some((name, Block { number, bytes: sectors.checked_mul(512)?, usb, disk }))
}

/// A disk without a serial number cannot be told from another, so there is nothing that an order could name.
fn disk(udev: &Path, block: &Block) -> Option<DiskRef> {
    let facts = read(&udev.join(format!("b{}", block.number))).ok()?;
    let fact = |key: &str| {
        facts.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='))
    };
    Some(DiskRef {
        serial: fact("ID_SERIAL_SHORT")?.parse().ok()?,
        wwn: fact("ID_WWN").and_then(|wwn| wwn.parse().ok()),
        size: block.bytes,
    })
}

/// `ID PARENT MAJ:MIN ROOT AT OPTIONS … - TYPE SOURCE SUPER`, odd characters as three octal digits.
fn mounted(text: &str) -> Vec<Mounted> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        Some(Mounted {
            number: (*before.get(2)?).to_owned(),
            source: after.split(' ').nth(1)?.to_owned(),
            at: (*before.get(4)?).to_owned(),
            options: before.get(5)?.split(',').map(str::to_owned).collect(),
        })
    };
    text.lines().filter_map(line).collect()
}

fn read(path: &Path) -> io::Result<String> {
    let bytes = authz::files::read_limited(path, SMALL).map_err(io::Error::other)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
