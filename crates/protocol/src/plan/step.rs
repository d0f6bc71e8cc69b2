//! The closed list of what may be done without a signature (`security.md` 2.13).
//!
//! The guard begins here: what has no variant cannot be asked for. There is none to stop, reboot or
//! suspend a guest, to delete or detach anything, to shrink or move a disk, to take a protection away, and
//! none that sets an option by its name, so cloud-init, `args`, `hookscript`, the boot order, CD-ROMs,
//! network devices, passed-through devices, machine and CPU types, features and mount points are out of
//! reach of a hub, whatever a policy says. Adding a variant is adding to what a stolen hub may do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::guest::GuestRef;
use crate::ids::{GuestKind, Sha256, SnapshotName, Tag, Vmid};
use crate::refs::{BridgeName, ConfigDigest, DiskSlot, GuestName, StorageId, TemplateName, VolumeId};
use crate::text::SafeText;

/// Why a number has no place in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}; got {got}")]
pub struct StepError {
    what: &'static str,
    rule: &'static str,
    got: u64,
}

macro_rules! amount {
    ($(#[$doc:meta])* $type:ident, $number:ty, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $type($number);

        impl $type {
            /// The number.
            pub const fn get(self) -> $number {
                self.0
            }
        }
        impl TryFrom<u64> for $type {
            type Error = StepError;
            fn try_from(got: u64) -> Result<Self, StepError> {
                let check: fn(u64) -> bool = $check;
                let wrong = StepError { what: stringify!($type), rule: $rule, got };
                if check(got) { <$number>::try_from(got).map(Self).map_err(|_| wrong) } else { Err(wrong) }
            }
        }
        impl From<$type> for u64 {
            fn from(amount: $type) -> u64 {
                amount.0.into()
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

amount!(
    /// Cores per socket of a virtual machine, cores of a container.
    Cores, u32, "1 to 8192", |n| (1..=8_192).contains(&n)
);
amount!(
    /// Memory in MiB.
    MemoryMib, u32, "16 to 8388608 MiB", |n| (16..=8_388_608).contains(&n)
);
amount!(
    /// A disk's size in bytes.
    DiskSize, u64, "whole KiB, 1 KiB to 128 TiB", |n| n > 0 && n % 1024 == 0 && n <= 1 << 47
);

/// One unsigned, benign change. The warden checks every one against host-local bounds and does
/// not trust the agent's reading of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Start a stopped guest.
    Start {
        /// Which.
        guest: GuestRef,
    },
    /// Replace the guest's tags.
    SetTags {
        /// Which.
        guest: GuestRef,
        /// Digest of the configuration that was read: compare-and-set.
        digest: String,
        /// All tags it shall have, sorted.
        tags: Vec<Tag>,
    },
    /// Take a snapshot (without memory).
    SnapshotCreate {
        /// Which.
        guest: GuestRef,
        /// Its new name.
        snapshot: SnapshotName,
    },
    /// Make a disk larger. There is no step that makes one smaller.
    Grow {
        /// Which.
        guest: GuestRef,
        /// Digest of the configuration that was read: compare-and-set.
        digest: ConfigDigest,
        /// Which disk.
        disk: DiskSlot,
        /// What hangs there.
        volume: VolumeId,
        /// Bytes it shall have: more than now.
        size: DiskSize,
    },
    /// Set the number of cores.
    SetCores {
        /// Which.
        guest: GuestRef,
        /// Digest of the configuration that was read: compare-and-set.
        digest: ConfigDigest,
        /// How many.
        cores: Cores,
    },
    /// Set the memory.
    SetMemory {
        /// Which.
        guest: GuestRef,
        /// Digest of the configuration that was read: compare-and-set.
        digest: ConfigDigest,
        /// How much.
        memory_mib: MemoryMib,
    },
    /// Set whether the guest starts when the host starts.
    SetOnboot {
        /// Which.
        guest: GuestRef,
        /// Digest of the configuration that was read: compare-and-set.
        digest: ConfigDigest,
        /// Whether.
        onboot: bool,
    },
    /// Replace the notes that people read.
    SetDescription {
        /// Which.
        guest: GuestRef,
        /// Digest of the configuration that was read: compare-and-set.
        digest: ConfigDigest,
        /// The text; empty for none.
        description: SafeText,
    },
    /// Take a backup: always with `remove=0`, of a running guest in mode `snapshot`, of a stopped one in
    /// mode `stop`, which stops nothing then. So no backup of an unsigned step interrupts or deletes.
    Backup {
        /// Which.
        guest: GuestRef,
        /// Where it goes.
        storage: StorageId,
    },
    /// Download a container template from Proxmox's own index; the policy pins its hash.
    TemplateDownload {
        /// Where it goes.
        storage: StorageId,
        /// Its file name in the index.
        template: TemplateName,
        /// SHA-256 of the file. What arrives otherwise does not count as downloaded.
        sha256: Sha256,
    },
    /// Make a guest from a template that the policy pins.
    CreateFromTemplate(Box<NewGuest>),
}

/// The guest that [`Step::CreateFromTemplate`] makes: always unprivileged, always behind Proxmox's firewall,
/// without VLAN and in no pool. Whatever needs more needs an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewGuest {
    /// Its number, which must be free.
    pub vmid: Vmid,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Its name.
    pub name: GuestName,
    /// From what.
    pub template: Pin,
    /// Where its disks go.
    pub storage: StorageId,
    /// Bytes of a container's root filesystem; null for the template's.
    pub disk: Option<DiskSize>,
    /// Cores.
    pub cores: Cores,
    /// Memory.
    pub memory_mib: MemoryMib,
    /// The bridge of its one network device; null for none.
    pub bridge: Option<BridgeName>,
    /// Start it afterwards.
    pub start: bool,
    /// Sorted.
    pub tags: Vec<Tag>,
}

/// What a guest is made from, so that nothing else can have taken its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase", deny_unknown_fields)]
pub enum Pin {
    /// A container template in a file.
    Archive {
        /// Which.
        volume: VolumeId,
        /// What is in it.
        sha256: Sha256,
    },
    /// A full clone of a guest that is a template.
    Guest {
        /// Its number.
        vmid: Vmid,
        /// Its whole configuration.
        digest: ConfigDigest,
    },
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive { volume, sha256 } => write!(f, "{volume} (SHA-256 {sha256})"),
            Self::Guest { vmid, digest } => write!(f, "template {vmid} (digest {digest})"),
        }
    }
}

/// What a step changes, as the rules for unsigned change name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Whether the guest runs.
    Power,
    /// Its tags.
    Tags,
    /// Its snapshots.
    Snapshots,
    /// The size of a disk.
    Disk,
    /// Its cores.
    Cores,
    /// Its memory.
    Memory,
    /// Whether it starts with the host.
    Onboot,
    /// Its notes.
    Description,
    /// Its backups.
    Backups,
    /// The templates on a storage.
    Templates,
    /// Whether the guest exists.
    Guests,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Power,
        Self::Tags,
        Self::Snapshots,
        Self::Disk,
        Self::Cores,
        Self::Memory,
        Self::Onboot,
        Self::Description,
        Self::Backups,
        Self::Templates,
        Self::Guests,
    ];

    /// Its one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Tags => "tags",
            Self::Snapshots => "snapshots",
            Self::Disk => "disk",
            Self::Cores => "cores",
            Self::Memory => "memory",
            Self::Onboot => "onboot",
            Self::Description => "description",
            Self::Backups => "backups",
            Self::Templates => "templates",
            Self::Guests => "guests",
        }
    }

    /// Whether a change of it makes the guest another one than before. A snapshot and a backup add to what
    /// there is and leave the guest as it was.
    pub const fn changes_guest(self) -> bool {
        !matches!(self, Self::Snapshots | Self::Backups | Self::Templates)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// In which direction a step changes its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More, or on.
    Up,
    /// Less, or off.
    Down,
    /// Replaced by something that is neither.
    Set,
    /// One more thing.
    Add,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Set => "set",
            Self::Add => "add",
        })
    }
}

/// What a step did to which field, as it stands in the log: rates and reversals are counted from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// What.
    pub field: Field,
    /// In which direction.
    pub direction: Direction,
    /// The amount before: bytes of a disk, cores, MiB of memory; else 0.
    pub from: u64,
    /// The amount afterwards.
    pub to: u64,
}

impl Step {
    /// The guest that it changes; none where it changes no guest that is there.
    pub fn guest(&self) -> Option<&GuestRef> {
        match self {
            Self::Start { guest }
            | Self::SetTags { guest, .. }
            | Self::SnapshotCreate { guest, .. }
            | Self::Grow { guest, .. }
            | Self::SetCores { guest, .. }
            | Self::SetMemory { guest, .. }
            | Self::SetOnboot { guest, .. }
            | Self::SetDescription { guest, .. }
            | Self::Backup { guest, .. } => Some(guest),
            Self::TemplateDownload { .. } | Self::CreateFromTemplate(_) => None,
        }
    }

    /// The number of the guest that it changes or makes.
    pub fn vmid(&self) -> Option<Vmid> {
        match self {
            Self::CreateFromTemplate(new) => Some(new.vmid),
            _ => self.guest().map(|guest| guest.vmid),
        }
    }

    /// The order kind it corresponds to.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "guest.start",
            Self::SetTags { .. } => "guest.tag",
            Self::SnapshotCreate { .. } => "snapshot.create",
            Self::Grow { .. } => "guest.grow",
            Self::SetCores { .. } | Self::SetMemory { .. } => "guest.resize",
            Self::SetOnboot { .. } | Self::SetDescription { .. } => "guest.config",
            Self::Backup { .. } => "backup.create",
            Self::TemplateDownload { .. } => "template.download",
            Self::CreateFromTemplate(_) => "guest.create",
        }
    }

    /// What it changes.
    pub fn field(&self) -> Field {
        match self {
            Self::Start { .. } => Field::Power,
            Self::SetTags { .. } => Field::Tags,
            Self::SnapshotCreate { .. } => Field::Snapshots,
            Self::Grow { .. } => Field::Disk,
            Self::SetCores { .. } => Field::Cores,
            Self::SetMemory { .. } => Field::Memory,
            Self::SetOnboot { .. } => Field::Onboot,
            Self::SetDescription { .. } => Field::Description,
            Self::Backup { .. } => Field::Backups,
            Self::TemplateDownload { .. } => Field::Templates,
            Self::CreateFromTemplate(_) => Field::Guests,
        }
    }

    /// Digest of the configuration that it was planned on.
    pub fn digest(&self) -> Option<&str> {
        match self {
            Self::SetTags { digest, .. } => Some(digest),
            Self::Grow { digest, .. }
            | Self::SetCores { digest, .. }
            | Self::SetMemory { digest, .. }
            | Self::SetOnboot { digest, .. }
            | Self::SetDescription { digest, .. } => Some(digest.as_str()),
            Self::Start { .. }
            | Self::SnapshotCreate { .. }
            | Self::Backup { .. }
            | Self::TemplateDownload { .. }
            | Self::CreateFromTemplate(_) => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        if let Some(guest) = self.guest() {
            write!(f, " {} {} ({})", guest.kind, guest.vmid, guest.name)?;
        }
        match self {
            Self::Start { .. } => Ok(()),
            Self::SetTags { tags, .. } => write!(f, " to {}", words(tags)),
            Self::SnapshotCreate { snapshot, .. } => write!(f, " as {snapshot}"),
            Self::Grow { disk, volume, size, .. } => write!(f, ": {disk} ({volume}) to {size} bytes"),
            Self::SetCores { cores, .. } => write!(f, " to {cores} cores"),
            Self::SetMemory { memory_mib, .. } => write!(f, " to {memory_mib} MiB of memory"),
            Self::SetOnboot { onboot: true, .. } => f.write_str(": start it with the host"),
            Self::SetOnboot { onboot: false, .. } => f.write_str(": do not start it with the host"),
            Self::SetDescription { description, .. } if description.as_str().is_empty() => {
                f.write_str(": no description")
            }
            Self::SetDescription { description, .. } => {
                write!(f, ": description \"{}\"", description.as_str())
            }
            Self::Backup { storage, .. } => write!(f, " to storage {storage}, deleting nothing"),
            Self::TemplateDownload { storage, template, sha256 } => {
                write!(f, " {template} to storage {storage} (SHA-256 {sha256})")
            }
            Self::CreateFromTemplate(new) => new.fmt(f),
        }
    }
}

impl fmt::Display for NewGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vmid, kind, name, template, storage, disk, cores, memory_mib, bridge, start, tags } = self;
        write!(f, " {kind} {vmid} ({name}) from {template} on storage {storage}")?;
        match disk {
            Some(size) => write!(f, ", {size} bytes")?,
            None => f.write_str(", as large as the template")?,
        }
        write!(f, ", {cores} cores, {memory_mib} MiB")?;
        match bridge {
            Some(bridge) => write!(f, ", network on {bridge}")?,
            None => f.write_str(", no network")?,
        }
        write!(f, ", tags {}, {}", words(tags), if *start { "started" } else { "not started" })
    }
}

fn words(tags: &[Tag]) -> String {
    let tags: Vec<_> = tags.iter().map(Tag::as_str).collect();
    if tags.is_empty() { "none".into() } else { tags.join(", ") }
}

#[cfg(test)]
mod tests;
