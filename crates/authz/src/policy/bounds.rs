//! What may change without a signature (`security.md` 2.13): fields, directions, amounts and rates.
//!
//! Three fences stand one inside the other. The outermost is [`protocol::plan::Step`]: what has no step
//! cannot be asked for. The second are the ceilings here, compiled in: a policy that asks for more is refused
//! when it is decoded, with the sentence. The third is the policy, and a host's `warden.toml` may be
//! tighter still.
//!
//! [`Bounds::fields`] and [`Bounds::rates`] may be absent: policies of before they existed keep their bytes and
//! their hash. Without `fields` only what stood there before may change; without `rates` the ceilings count.

use std::collections::BTreeSet;

use protocol::Vmid;
use protocol::plan::Pin;
use protocol::refs::{BridgeName, StorageId, TemplateName};
use serde::{Deserialize, Serialize};

/// The compiled ceilings: no policy can allow more.
pub mod ceiling {
    /// Unsigned steps in any hour.
    pub const CHANGES_PER_HOUR: u32 = 60;
    /// Different guests that unsigned steps touch in any hour.
    pub const GUESTS_PER_HOUR: u32 = 10;
    /// Different guests that unsigned steps change in any day, percent of the host's guests.
    pub const PERCENT_OF_GUESTS_PER_DAY: u32 = 20;
    /// So many guests a day may change where the percentage comes to less: a host has few guests.
    pub const FEW_GUESTS_PER_DAY: u32 = 3;
    /// Reversals of one field of one guest within an hour at which the breaker trips.
    pub const FLIPS_PER_HOUR: u32 = 3;
    /// Snapshots of one guest.
    pub const SNAPSHOTS_PER_GUEST: u32 = 50;
    /// Percent of a pool's data and metadata in use.
    pub const POOL_USED_PERCENT: u32 = 95;
    /// Percent by which cores or memory change in one step, and in any day together.
    pub const AMOUNT_PERCENT: u32 = 50;
    /// Cores of a guest.
    pub const CORES: u32 = 256;
    /// Memory of a guest, MiB.
    pub const MEMORY_MIB: u32 = 1 << 20;
    /// Bytes that one step adds to a disk: 256 GiB.
    pub const GROW_STEP: u64 = 256 << 30;
    /// Bytes that steps add to the disks of one guest in any day: 512 GiB.
    pub const GROW_DAY: u64 = 512 << 30;
    /// Backups of one guest in any day.
    pub const BACKUPS_PER_DAY: u32 = 24;
    /// Templates downloaded in any day.
    pub const DOWNLOADS_PER_DAY: u32 = 5;
    /// Guests made in any day.
    pub const CREATED_PER_DAY: u32 = 5;
    /// Entries of each list: ranges of guests, storages, pins, bridges.
    pub const LIST: usize = 64;
}

/// What the hub may have changed without a signature. Everything not allowed here is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Ranges of VMIDs that may be touched at all, first and last.
    pub guests: Vec<(Vmid, Vmid)>,
    /// May guests be started?
    pub start: bool,
    /// May tags be changed?
    pub tags: bool,
    /// May snapshots be taken? Only with the space guard below.
    pub snapshots: bool,
    /// Most snapshots of one guest after the step.
    pub max_snapshots_per_guest: u32,
    /// Most percent of a pool's data and of its metadata in use for a step that consumes space.
    pub max_pool_used_percent: u32,
    /// Most unsigned changes in any hour.
    pub max_changes_per_hour: u32,
    /// What else may change; absent: nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Fields>,
    /// How much in which time; absent: the ceilings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

/// Fields that may change besides power, tags and snapshots. Null, or false: not without a signature.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// Cores.
    pub cores: Option<Amounts>,
    /// Memory, in MiB.
    pub memory: Option<Amounts>,
    /// Whether a guest starts with the host.
    pub onboot: Option<Switch>,
    /// May the notes that people read be changed?
    pub description: bool,
    /// Disks; they only grow.
    pub grow: Option<Grow>,
    /// Backups.
    pub backups: Option<Backups>,
    /// Downloads of templates.
    pub downloads: Option<Downloads>,
    /// New guests.
    pub create: Option<Create>,
}

/// An amount: how far in which direction, and its limits. Percent are of what it is before the step and of
/// what it was before each step of the last 24 hours, so small steps do not add up to a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Percent more, 0 to 50; 0: not up.
    pub up_percent: u32,
    /// Percent less, 0 to 50; 0: not down.
    pub down_percent: u32,
    /// Least afterwards, 1 or more.
    pub min: u32,
    /// Most afterwards.
    pub max: u32,
}

/// Directions of a switch: at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// May it be switched on?
    pub on: bool,
    /// May it be switched off?
    pub off: bool,
}

/// How disks may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grow {
    /// Most bytes that one step adds.
    pub max_bytes_per_step: u64,
    /// Most bytes that steps add to all disks of a guest in any day.
    pub max_bytes_per_guest_and_day: u64,
}

/// Which backups may be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backups {
    /// Where to.
    pub storages: Vec<StorageId>,
    /// Most of one guest in any day.
    pub max_per_guest_and_day: u32,
}

/// Which templates may be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Downloads {
    /// Where to.
    pub storages: Vec<StorageId>,
    /// Which, by name and content.
    pub templates: Vec<PinnedTemplate>,
    /// Most in any day.
    pub max_per_day: u32,
}

/// A template of Proxmox's index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedTemplate {
    /// Its file name in the index.
    pub template: TemplateName,
    /// What is in it.
    pub sha256: protocol::Sha256,
}

/// Which guests may be made. Their numbers must lie in [`Bounds::guests`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// From what.
    pub templates: Vec<Pin>,
    /// Where their disks go.
    pub storages: Vec<StorageId>,
    /// Bridges that they may be on; none: without network.
    pub bridges: Vec<BridgeName>,
    /// Most cores.
    pub max_cores: u32,
    /// Most memory.
    pub max_memory_mib: u32,
    /// Most bytes of a root filesystem.
    pub max_disk: u64,
    /// Most in any day.
    pub max_per_day: u32,
}

/// How much in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Most different guests touched in any hour.
    pub max_guests_per_hour: u32,
    /// Blast radius: most different guests changed in any day, percent of the host's guests, rounded down.
    pub max_percent_of_guests_per_day: u32,
    /// So many guests a day may change also where the percentage comes to less.
    pub few_guests_per_day: u32,
    /// Oscillation breaker: the step that would be so many reversals of one field of one guest within an hour
    /// is refused.
    pub flips_per_hour: u32,
}

impl Default for Rates {
    /// The ceilings.
    fn default() -> Self {
        Self {
            max_guests_per_hour: ceiling::GUESTS_PER_HOUR,
            max_percent_of_guests_per_day: ceiling::PERCENT_OF_GUESTS_PER_DAY,
            few_guests_per_day: ceiling::FEW_GUESTS_PER_DAY,
            flips_per_hour: ceiling::FLIPS_PER_HOUR,
        }
    }
}

impl Bounds {
    /// Whether the guest may be touched by unsigned steps.
    pub fn allows_guest(&self, vmid: Vmid) -> bool {
        self.guests.iter().any(|(first, last)| (*first..=*last).contains(&vmid))
    }

    /// Every contradiction and everything above a ceiling, as a sentence.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            guests,
            start: _,
            tags: _,
            snapshots: _,
            max_snapshots_per_guest,
            max_pool_used_percent,
            max_changes_per_hour,
            fields,
            rates,
        } = self;
        if let Some((first, last)) = guests.iter().find(|(first, last)| first > last) {
            return Err(format!("bounds.guests has the range {first} to {last}"));
        }
        length("guests", guests.len())?;
        if *max_pool_used_percent > ceiling::POOL_USED_PERCENT {
            return Err(format!(
                "bounds.max_pool_used_percent is above {}: a full pool corrupts guests",
                ceiling::POOL_USED_PERCENT
            ));
        }
        within("max_snapshots_per_guest", *max_snapshots_per_guest, ceiling::SNAPSHOTS_PER_GUEST)?;
        within("max_changes_per_hour", *max_changes_per_hour, ceiling::CHANGES_PER_HOUR)?;
        if let Some(rates) = rates {
            rates.check()?;
        }
        fields.as_ref().map_or(Ok(()), Fields::check)
    }
}

impl Rates {
    fn check(&self) -> Result<(), String> {
        let Self { max_guests_per_hour, max_percent_of_guests_per_day, few_guests_per_day, flips_per_hour } =
            *self;
        within("rates.max_guests_per_hour", max_guests_per_hour, ceiling::GUESTS_PER_HOUR)?;
        let percent = max_percent_of_guests_per_day;
        within("rates.max_percent_of_guests_per_day", percent, ceiling::PERCENT_OF_GUESTS_PER_DAY)?;
        within("rates.few_guests_per_day", few_guests_per_day, ceiling::FEW_GUESTS_PER_DAY)?;
        at_least_one("rates.flips_per_hour", flips_per_hour)?;
        within("rates.flips_per_hour", flips_per_hour, ceiling::FLIPS_PER_HOUR)
    }
}

impl Fields {
    fn check(&self) -> Result<(), String> {
        let Self { cores, memory, onboot, description: _, grow, backups, downloads, create } = self;
        cores.map_or(Ok(()), |amounts| amounts.check("cores", ceiling::CORES))?;
        memory.map_or(Ok(()), |amounts| amounts.check("memory", ceiling::MEMORY_MIB))?;
        if onboot.is_some_and(|switch| !switch.on && !switch.off) {
            return Err("bounds.fields.onboot allows neither direction: write null".into());
        }
        if let Some(Grow { max_bytes_per_step: step, max_bytes_per_guest_and_day: day }) = *grow {
            at_least_one("fields.grow.max_bytes_per_step", step)?;
            within("fields.grow.max_bytes_per_step", step, ceiling::GROW_STEP)?;
            within("fields.grow.max_bytes_per_guest_and_day", day, ceiling::GROW_DAY)?;
            if day < step {
                return Err("bounds.fields.grow allows less in a day than in a step".into());
            }
        }
        if let Some(Backups { storages, max_per_guest_and_day }) = backups {
            list("fields.backups.storages", storages)?;
            at_least_one("fields.backups.max_per_guest_and_day", *max_per_guest_and_day)?;
            within("fields.backups.max_per_guest_and_day", *max_per_guest_and_day, ceiling::BACKUPS_PER_DAY)?;
        }
        if let Some(Downloads { storages, templates, max_per_day }) = downloads {
            list("fields.downloads.storages", storages)?;
            list("fields.downloads.templates", templates)?;
            // Two contents under one name: which of them is meant?
            let names: Vec<&TemplateName> = templates.iter().map(|pinned| &pinned.template).collect();
            list("fields.downloads.templates", &names)?;
            at_least_one("fields.downloads.max_per_day", *max_per_day)?;
            within("fields.downloads.max_per_day", *max_per_day, ceiling::DOWNLOADS_PER_DAY)?;
        }
        create.as_ref().map_or(Ok(()), Create::check)
    }
}

impl Amounts {
    fn check(&self, field: &str, most: u32) -> Result<(), String> {
        let Self { up_percent, down_percent, min, max } = *self;
        within(&format!("fields.{field}.up_percent"), up_percent, ceiling::AMOUNT_PERCENT)?;
        within(&format!("fields.{field}.down_percent"), down_percent, ceiling::AMOUNT_PERCENT)?;
        if up_percent == 0 && down_percent == 0 {
            return Err(format!("bounds.fields.{field} allows neither direction: write null"));
        }
        at_least_one(&format!("fields.{field}.min"), min)?;
        within(&format!("fields.{field}.max"), max, most)?;
        if min > max {
            return Err(format!("bounds.fields.{field} has min {min} above max {max}"));
        }
        Ok(())
    }
}

impl Create {
    fn check(&self) -> Result<(), String> {
        let Self { templates, storages, bridges, max_cores, max_memory_mib, max_disk, max_per_day } = self;
        list("fields.create.templates", templates)?;
        list("fields.create.storages", storages)?;
        if !bridges.is_empty() {
            list("fields.create.bridges", bridges)?;
        }
        if let Some(odd) =
            templates.iter().find(|pin| matches!(pin, Pin::Archive { volume, .. } if !volume.is_template()))
        {
            return Err(format!(
                "bounds.fields.create.templates names {odd}, which is no container template"
            ));
        }
        at_least_one("fields.create.max_cores", *max_cores)?;
        within("fields.create.max_cores", *max_cores, ceiling::CORES)?;
        at_least_one("fields.create.max_memory_mib", *max_memory_mib)?;
        within("fields.create.max_memory_mib", *max_memory_mib, ceiling::MEMORY_MIB)?;
        at_least_one("fields.create.max_disk", *max_disk)?;
        within("fields.create.max_disk", *max_disk, ceiling::GROW_DAY)?;
        at_least_one("fields.create.max_per_day", *max_per_day)?;
        within("fields.create.max_per_day", *max_per_day, ceiling::CREATED_PER_DAY)
    }
}

fn within<T: PartialOrd + std::fmt::Display>(what: &str, value: T, most: T) -> Result<(), String> {
    if value > most {
        return Err(format!(
            "bounds.{what} is {value}; no policy can allow more than {most} without a signature"
        ));
    }
    Ok(())
}

fn at_least_one<T: PartialEq + From<u8>>(what: &str, value: T) -> Result<(), String> {
    if value == T::from(0) {
        return Err(format!("bounds.{what} is 0: write null for what may not change without a signature"));
    }
    Ok(())
}

fn length(what: &str, length: usize) -> Result<(), String> {
    if length > ceiling::LIST {
        return Err(format!("bounds.{what} has {length} entries; at most {} are allowed", ceiling::LIST));
    }
    Ok(())
}

/// At least one, each once.
fn list<T: Ord>(what: &str, items: &[T]) -> Result<(), String> {
    length(what, items.len())?;
    if items.is_empty() {
        return Err(format!(
            "bounds.{what} is empty: write null for what may not change without a signature"
        ));
    }
    if items.iter().collect::<BTreeSet<_>>().len() != items.len() {
        return Err(format!("bounds.{what} names something twice"));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
