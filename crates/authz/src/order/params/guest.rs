//! Guests: power, configuration, creation, end.

use protocol::refs::{BridgeName, ConfigDigest, GuestName, PoolName, StorageId, VolumeId};
use protocol::{GuestKind, Sha256, Tag, Vmid};
use serde::{Deserialize, Serialize};

use super::options::{ConfigKey, ConfigValue};
use super::{Checked, Wrong, demand, each_once};

/// No parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Of `guest.tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagParams {
    /// All tags it shall have; at most 64, each once.
    pub tags: Vec<Tag>,
}

/// Of `guest.shutdown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerOffParams {
    /// How long the guest may take, seconds, 1 to 3600.
    pub timeout_s: u32,
    /// Pull the plug when it takes longer.
    pub force: bool,
}

/// Of `guest.reboot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebootParams {
    /// How long the guest may take to stop, seconds, 1 to 3600.
    pub timeout_s: u32,
}

/// Of `guest.suspend`: virtual machines only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendParams {
    /// Write its memory to disk and stop it; else it is paused and keeps its memory.
    pub to_disk: bool,
}

/// Of `guest.config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigParams {
    /// 1 to 32, each option once.
    pub changes: Vec<ConfigChange>,
}

/// One option, then and now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// Which.
    pub key: ConfigKey,
    /// Its value when the order was prepared; null when it was not set.
    pub old: Option<ConfigValue>,
    /// Its value afterwards; null to unset it.
    pub new: Option<ConfigValue>,
}

/// Of `guest.resize`: at least one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeParams {
    /// Cores per socket, 1 to 8192.
    pub cores: Option<Amount>,
    /// Sockets, 1 to 16; virtual machines only.
    pub sockets: Option<Amount>,
    /// Memory in MiB, 16 to 8388608.
    pub memory_mib: Option<Amount>,
    /// Swap in MiB, 0 to 8388608; containers only.
    pub swap_mib: Option<Amount>,
}

/// An amount, then and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// When the order was prepared; null when it was not set.
    pub old: Option<u32>,
    /// Afterwards.
    pub new: u32,
}

/// Of `guest.create`. Everything that Proxmox would choose by itself is said here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateParams {
    /// Its number, which must be free.
    pub vmid: Vmid,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Its name.
    pub name: GuestName,
    /// From what.
    pub template: TemplateSource,
    /// Where its disks go.
    pub storage: StorageId,
    /// Bytes of a container's root filesystem, whole GiB; null to keep the template's or the backup's.
    pub disk: Option<u64>,
    /// Cores, 1 to 8192.
    pub cores: u32,
    /// Memory in MiB, 16 to 8388608.
    pub memory_mib: u32,
    /// Its one network device; null for none, and for a backup, whose devices come with it.
    pub net: Option<NetParams>,
    /// Of a container: without the host's root. Of a virtual machine always true.
    pub unprivileged: bool,
    /// Start it when the host starts.
    pub onboot: bool,
    /// Start it afterwards.
    pub start: bool,
    /// The pool it joins.
    pub pool: Option<PoolName>,
    /// At most 64, each once.
    pub tags: Vec<Tag>,
}

/// What a guest is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase", deny_unknown_fields)]
pub enum TemplateSource {
    /// A container template in a file.
    Archive {
        /// Which.
        volume: VolumeId,
        /// What is in it.
        sha256: Sha256,
    },
    /// A golden image in a file, by root's own `pct`, because no token can: a container that may nest and keep
    /// keys (features `nesting` and `keyctl`), without the host's root.
    Golden {
        /// Which: `STORAGE:vztmpl/NAME`.
        volume: VolumeId,
        /// What is in it. Root checks it.
        sha256: Sha256,
    },
    /// A full clone of a guest that is a template.
    Guest {
        /// Its number.
        vmid: Vmid,
        /// Its whole configuration.
        digest: ConfigDigest,
    },
    /// A backup, restored to a new number: the backup stays, and so does the guest it is of. The new guest
    /// gets an identity of its own, and its network devices start without a link.
    Backup {
        /// Which.
        volume: VolumeId,
        /// Bytes.
        size: u64,
        /// When it was begun, unix seconds.
        ctime: u64,
    },
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetParams {
    /// On which bridge.
    pub bridge: BridgeName,
    /// VLAN, 1 to 4094; null for none.
    pub vlan: Option<u32>,
    /// Whether Proxmox's firewall is before it.
    pub firewall: bool,
}

/// Of `guest.restore_over`: a new guest, made from the archive, takes the guest's place; the old one stays, put
/// aside, until it is destroyed by an order of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreOverParams {
    /// The backup. Its size and time stand in `pre.backups`, and so does at least one other backup that
    /// must still exist: never over the only copy.
    pub archive: VolumeId,
    /// Where its disks go.
    pub storage: StorageId,
    /// MAC addresses of its own; else those of the archive. Its UUID is a new one in any case.
    pub unique: bool,
    /// Start it afterwards.
    pub start: bool,
}

/// Of `guest.destroy`. What goes stands in the preconditions: volumes and snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyParams {
    /// Also take it out of backup jobs, replication and high availability.
    pub purge: bool,
    /// Also delete every other volume with its number, on all storages.
    pub destroy_unreferenced: bool,
}

/// Of `guest.adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptParams {
    /// Also switch on Proxmox's `protection`.
    pub protect: bool,
}

const MIB: std::ops::RangeInclusive<u32> = 16..=8_388_608;
const CORES: std::ops::RangeInclusive<u32> = 1..=8_192;

fn check_tags(tags: &[Tag]) -> Result<(), Wrong> {
    demand(tags.len() <= 64 && each_once(tags), "params.tags", "a list of at most 64, each tag once")
}

impl Checked for NoParams {}
impl Checked for SuspendParams {}
impl Checked for DestroyParams {}
impl Checked for AdoptParams {}

impl Checked for TagParams {
    fn check(&self) -> Result<(), Wrong> {
        check_tags(&self.tags)
    }
}

impl Checked for PowerOffParams {
    fn check(&self) -> Result<(), Wrong> {
        demand((1..=3600).contains(&self.timeout_s), "params.timeout_s", "1 to 3600 (an hour)")
    }
}

impl Checked for RebootParams {
    fn check(&self) -> Result<(), Wrong> {
        demand((1..=3600).contains(&self.timeout_s), "params.timeout_s", "1 to 3600 (an hour)")
    }
}

impl Checked for ConfigParams {
    fn check(&self) -> Result<(), Wrong> {
        let fits = (1..=32).contains(&self.changes.len()) && each_once(self.changes.iter().map(|c| &c.key));
        demand(fits, "params.changes", "a list of 1 to 32, each option once")?;
        for ConfigChange { key, old, new } in &self.changes {
            demand(old != new, "params.changes", "changes: the old value is the new one")?;
            let takes = new.as_ref().is_none_or(|value| key.takes(value));
            demand(takes, "params.changes.new", "a value that the option takes")?;
        }
        Ok(())
    }
}

impl Checked for ResizeParams {
    fn check(&self) -> Result<(), Wrong> {
        let Self { cores, sockets, memory_mib, swap_mib } = self;
        let amount = |amount: &Option<Amount>, range: std::ops::RangeInclusive<u32>, field, allowed| {
            let fits = amount.is_none_or(|a| range.contains(&a.new) && a.old != Some(a.new));
            demand(fits, field, allowed)
        };
        demand(
            [cores, sockets, memory_mib, swap_mib].iter().any(|amount| amount.is_some()),
            "params",
            "at least one change",
        )?;
        amount(cores, CORES, "params.cores", "another number than now, 1 to 8192")?;
        amount(sockets, 1..=16, "params.sockets", "another number than now, 1 to 16")?;
        amount(memory_mib, MIB, "params.memory_mib", "another number than now, 16 to 8388608 (8 TiB)")?;
        amount(swap_mib, 0..=8_388_608, "params.swap_mib", "another number than now, 0 to 8388608 (8 TiB)")
    }
}

impl Checked for CreateParams {
    fn check(&self) -> Result<(), Wrong> {
        let container = self.kind == GuestKind::Lxc;
        demand(CORES.contains(&self.cores), "params.cores", "1 to 8192")?;
        demand(MIB.contains(&self.memory_mib), "params.memory_mib", "16 to 8388608 (8 TiB)")?;
        let whole =
            self.disk.is_none_or(|size| (1 << 30..=1 << 47).contains(&size) && size.is_multiple_of(1 << 30));
        demand(whole, "params.disk", "whole GiB in bytes, at most 128 TiB, or null")?;
        match &self.template {
            TemplateSource::Archive { volume, .. } => {
                demand(
                    container && volume.is_template(),
                    "params.template",
                    "a container template (STORAGE:vztmpl/…)",
                )?;
                demand(self.disk.is_some(), "params.disk", "given for a container from an archive")?;
            }
            TemplateSource::Golden { volume, .. } => {
                demand(
                    container && volume.is_template(),
                    "params.template",
                    "a container template (STORAGE:vztmpl/…)",
                )?;
                demand(self.unprivileged, "params.unprivileged", "true for a container that keeps keys")?;
                demand(self.disk.is_some(), "params.disk", "given for a container from a golden image")?;
            }
            TemplateSource::Guest { vmid, .. } => {
                demand(*vmid != self.vmid, "params.template.vmid", "another guest than the new one")?;
                demand(self.disk.is_none(), "params.disk", "null for a clone: it keeps the template's")?;
            }
            TemplateSource::Backup { volume, .. } => {
                demand(volume.is_backup(), "params.template", "a backup (STORAGE:backup/…)")?;
                demand(self.disk.is_none(), "params.disk", "null for a backup: its disks have their sizes")?;
                demand(self.net.is_none(), "params.net", "null for a backup: its devices come with it")?;
            }
        }
        demand(self.unprivileged || container, "params.unprivileged", "true for a virtual machine")?;
        let vlan = self.net.as_ref().and_then(|net| net.vlan);
        demand(vlan.is_none_or(|vlan| (1..=4094).contains(&vlan)), "params.net.vlan", "1 to 4094, or null")?;
        check_tags(&self.tags)
    }
}

impl Checked for RestoreOverParams {
    fn check(&self) -> Result<(), Wrong> {
        demand(self.archive.is_backup(), "params.archive", "a backup (STORAGE:backup/…)")
    }
}
