//! The limits in force: the policy's, and where this host's `warden.toml` is tighter, its own.

use std::fmt;

use authz::policy::bounds::{Amounts, Backups, Bounds, Create, Downloads, Fields, Grow, ceiling};
use protocol::plan::{Field, NewGuest, Pin};
use protocol::refs::{StorageId, TemplateName};
use protocol::{Sha256, Vmid};
use serde::Deserialize;

use super::{bound, over_bound};
use crate::check::Refused;

/// `[bounds]` of `warden.toml`: what this host allows less than its policy. What is absent is as the policy
/// says; nothing here can allow more, because the smaller number counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalBounds {
    /// Fields that do not change here without a signature.
    #[serde(default)]
    pub forbid: Vec<Field>,
    /// Only these guests: ranges of VMIDs, first and last.
    pub guests: Option<Vec<(Vmid, Vmid)>>,
    /// As in the policy.
    pub max_snapshots_per_guest: Option<u32>,
    /// As in the policy.
    pub max_pool_used_percent: Option<u32>,
    /// As in the policy.
    pub max_changes_per_hour: Option<u32>,
    /// As in the policy's rates.
    pub max_guests_per_hour: Option<u32>,
    /// As in the policy's rates.
    pub max_percent_of_guests_per_day: Option<u32>,
    /// As in the policy's rates.
    pub few_guests_per_day: Option<u32>,
    /// As in the policy's rates.
    pub flips_per_hour: Option<u32>,
    /// Most percent by which cores and memory change, up or down.
    pub max_percent: Option<u32>,
    /// Most cores of a guest.
    pub max_cores: Option<u32>,
    /// Most memory of a guest.
    pub max_memory_mib: Option<u32>,
    /// Most bytes that one step adds to a disk, and of the disk of a new guest.
    pub max_bytes_per_step: Option<u64>,
    /// Most bytes that steps add to all disks of a guest in any day.
    pub max_bytes_per_guest_and_day: Option<u64>,
    /// Most unsigned backups of a guest in any day.
    pub max_backups_per_guest_and_day: Option<u32>,
    /// Most downloads of templates in any day.
    pub max_downloads_per_day: Option<u32>,
    /// Most new guests in any day.
    pub max_created_per_day: Option<u32>,
}

impl LocalBounds {
    /// Refuses what nobody can have meant: a number above what any policy may allow, or a range turned round.
    ///
    /// # Errors
    /// The sentence.
    pub fn check(&self) -> Result<(), String> {
        let numbers: [(&str, Option<u32>, u32); 13] = [
            ("max_snapshots_per_guest", self.max_snapshots_per_guest, ceiling::SNAPSHOTS_PER_GUEST),
            ("max_pool_used_percent", self.max_pool_used_percent, ceiling::POOL_USED_PERCENT),
            ("max_changes_per_hour", self.max_changes_per_hour, ceiling::CHANGES_PER_HOUR),
            ("max_guests_per_hour", self.max_guests_per_hour, ceiling::GUESTS_PER_HOUR),
            (
                "max_percent_of_guests_per_day",
                self.max_percent_of_guests_per_day,
                ceiling::PERCENT_OF_GUESTS_PER_DAY,
            ),
            ("few_guests_per_day", self.few_guests_per_day, ceiling::FEW_GUESTS_PER_DAY),
            ("flips_per_hour", self.flips_per_hour, ceiling::FLIPS_PER_HOUR),
            ("max_percent", self.max_percent, ceiling::AMOUNT_PERCENT),
            ("max_cores", self.max_cores, ceiling::CORES),
            ("max_memory_mib", self.max_memory_mib, ceiling::MEMORY_MIB),
            ("max_backups_per_guest_and_day", self.max_backups_per_guest_and_day, ceiling::BACKUPS_PER_DAY),
            ("max_downloads_per_day", self.max_downloads_per_day, ceiling::DOWNLOADS_PER_DAY),
            ("max_created_per_day", self.max_created_per_day, ceiling::CREATED_PER_DAY),
        ];
        let numbers = numbers.map(|(name, value, most)| (name, value.map(u64::from), u64::from(most)));
        let bytes = [
            ("max_bytes_per_step", self.max_bytes_per_step, ceiling::GROW_STEP),
            ("max_bytes_per_guest_and_day", self.max_bytes_per_guest_and_day, ceiling::GROW_DAY),
        ];
        for (name, value, most) in numbers.into_iter().chain(bytes) {
            if let Some(value) = value.filter(|value| *value > most) {
                return Err(format!(
                    "{name} = {value}: nothing can allow more than {most} without a signature, and [bounds] can \
                     only tighten what the policy allows"
                ));
            }
        }
        if let Some((first, last)) = self.guests.iter().flatten().find(|(first, last)| first > last) {
            return Err(format!("guests has the range {first} to {last}"));
        }
        Ok(())
    }
}

/// A number and the rule that it comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) value: u64,
    rule: String,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)
    }
}

fn policy_rule(name: &str) -> String {
    format!("rule bounds.{name} of the policy")
}

fn local_rule(name: &str) -> String {
    format!("rule [bounds] {name} of this host's warden.toml")
}

/// The smaller one counts.
fn tighter(name: &str, policy: impl Into<u64>, local_name: &str, local: Option<impl Into<u64>>) -> Limit {
    let policy = policy.into();
    match local.map(Into::into).filter(|local| *local < policy) {
        Some(value) => Limit { value, rule: local_rule(local_name) },
        None => Limit { value: policy, rule: policy_rule(name) },
    }
}

/// The limits in force.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    policy: &'a Bounds,
    local: &'a LocalBounds,
}

/// The policy's word for a field.
fn word(field: Field) -> &'static str {
    match field {
        Field::Power => "start",
        Field::Tags => "tags",
        Field::Snapshots => "snapshots",
        Field::Disk => "fields.grow",
        Field::Cores => "fields.cores",
        Field::Memory => "fields.memory",
        Field::Onboot => "fields.onboot",
        Field::Description => "fields.description",
        Field::Backups => "fields.backups",
        Field::Templates => "fields.downloads",
        Field::Guests => "fields.create",
    }
}

impl<'a> Limits<'a> {
    /// Of a policy and a host.
    pub fn new(policy: &'a Bounds, local: &'a LocalBounds) -> Self {
        Self { policy, local }
    }

    fn fields(&self) -> Option<&'a Fields> {
        self.policy.fields.as_ref()
    }

    pub(super) fn allow_field(&self, field: Field) -> Result<(), Refused> {
        let Bounds { start, tags, snapshots, .. } = self.policy;
        let has = |f: fn(&Fields) -> bool| self.fields().is_some_and(f);
        let allowed = match field {
            Field::Power => *start,
            Field::Tags => *tags,
            Field::Snapshots => *snapshots,
            Field::Disk => has(|f| f.grow.is_some()),
            Field::Cores => has(|f| f.cores.is_some()),
            Field::Memory => has(|f| f.memory.is_some()),
            Field::Onboot => has(|f| f.onboot.is_some()),
            Field::Description => has(|f| f.description),
            Field::Backups => has(|f| f.backups.is_some()),
            Field::Templates => has(|f| f.downloads.is_some()),
            Field::Guests => has(|f| f.create.is_some()),
        };
        if !allowed {
            return Err(self.absent(field));
        }
        if self.local.forbid.contains(&field) {
            return Err(bound(format!(
                "{field} may not change here without a signature: sign an order for it ({})",
                local_rule("forbid")
            )));
        }
        Ok(())
    }

    fn absent(&self, field: Field) -> Refused {
        bound(format!(
            "{field} may not change without a signature: sign an order for it ({})",
            policy_rule(word(field))
        ))
    }

    pub(super) fn allow_guest(&self, vmid: Vmid) -> Result<(), Refused> {
        let refused =
            |rule| bound(format!("unsigned changes may not touch guest {vmid}: sign an order ({rule})"));
        if !self.policy.allows_guest(vmid) {
            return Err(refused(policy_rule("guests")));
        }
        match &self.local.guests {
            Some(ranges) if !ranges.iter().any(|(first, last)| (*first..=*last).contains(&vmid)) => {
                Err(refused(local_rule("guests")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn snapshots_per_guest(&self) -> Limit {
        let name = "max_snapshots_per_guest";
        tighter(name, self.policy.max_snapshots_per_guest, name, self.local.max_snapshots_per_guest)
    }

    /// Most percent of a pool in use, for the space guard, after the step.
    pub fn pool_used_percent(&self) -> u32 {
        let policy = self.policy.max_pool_used_percent;
        self.local.max_pool_used_percent.map_or(policy, |local| local.min(policy))
    }

    pub(super) fn changes_per_hour(&self) -> Limit {
        let name = "max_changes_per_hour";
        tighter(name, self.policy.max_changes_per_hour, name, self.local.max_changes_per_hour)
    }

    pub(super) fn guests_per_hour(&self) -> Limit {
        let policy = self.policy.rates.unwrap_or_default().max_guests_per_hour;
        tighter("rates.max_guests_per_hour", policy, "max_guests_per_hour", self.local.max_guests_per_hour)
    }

    pub(super) fn guests_per_day(&self, guests_on_host: u64) -> Limit {
        let rates = self.policy.rates.unwrap_or_default();
        let percent = tighter(
            "rates.max_percent_of_guests_per_day",
            rates.max_percent_of_guests_per_day,
            "max_percent_of_guests_per_day",
            self.local.max_percent_of_guests_per_day,
        );
        let few = tighter(
            "rates.few_guests_per_day",
            rates.few_guests_per_day,
            "few_guests_per_day",
            self.local.few_guests_per_day,
        );
        let value = guests_on_host.saturating_mul(percent.value) / 100;
        let rule = format!("{} of {guests_on_host} guests", percent.rule);
        if few.value >= value { few } else { Limit { value, rule } }
    }

    pub(super) fn flips_per_hour(&self) -> Limit {
        let policy = self.policy.rates.unwrap_or_default().flips_per_hour;
        tighter("rates.flips_per_hour", policy, "flips_per_hour", self.local.flips_per_hour)
    }

    fn grow(&self) -> Result<&'a Grow, Refused> {
        self.fields().and_then(|f| f.grow.as_ref()).ok_or_else(|| self.absent(Field::Disk))
    }

    pub(super) fn grow_step(&self) -> Result<Limit, Refused> {
        let policy = self.grow()?.max_bytes_per_step;
        let local = self.local.max_bytes_per_step;
        Ok(tighter("fields.grow.max_bytes_per_step", policy, "max_bytes_per_step", local))
    }

    pub(super) fn grow_day(&self) -> Result<Limit, Refused> {
        let policy = self.grow()?.max_bytes_per_guest_and_day;
        let local = self.local.max_bytes_per_guest_and_day;
        let name = "fields.grow.max_bytes_per_guest_and_day";
        Ok(tighter(name, policy, "max_bytes_per_guest_and_day", local))
    }

    fn amounts(&self, field: Field) -> Result<&'a Amounts, Refused> {
        let fields = self.fields();
        let amounts = match field {
            Field::Cores => fields.and_then(|f| f.cores.as_ref()),
            Field::Memory => fields.and_then(|f| f.memory.as_ref()),
            _ => None,
        };
        amounts.ok_or_else(|| self.absent(field))
    }

    /// Whether `to` is near enough to `from`, which was so `when`. Parts of one count for the tighter side.
    pub(super) fn percent(&self, field: Field, from: u64, to: u64, when: &str) -> Result<(), Refused> {
        let amounts = self.amounts(field)?;
        let (percent, name, way) = if to >= from {
            (amounts.up_percent, "up_percent", "more")
        } else {
            (amounts.down_percent, "down_percent", "less")
        };
        let name = format!("{}.{name}", word(field));
        let most = tighter(&name, percent, "max_percent", self.local.max_percent);
        let (from, to, allowed) = (u128::from(from), u128::from(to), u128::from(most.value));
        if from.abs_diff(to) * 100 > from * allowed {
            return Err(bound(format!(
                "{field} was {from} {when} and would be {to}, and at most {allowed} % {way} is allowed: \
                 sign an order for it ({most})"
            )));
        }
        Ok(())
    }

    pub(super) fn absolute(&self, field: Field, to: u64, less: bool) -> Result<(), Refused> {
        let amounts = self.amounts(field)?;
        let local = match field {
            Field::Cores => ("max_cores", self.local.max_cores),
            _ => ("max_memory_mib", self.local.max_memory_mib),
        };
        let most = tighter(&format!("{}.max", word(field)), amounts.max, local.0, local.1);
        // What is too much already may still come down.
        if to > most.value && !less {
            return Err(over_bound(to, &most, &format!("{field} it would have")));
        }
        if to < amounts.min.into() && less {
            return Err(bound(format!(
                "{field} would be {to}, and {} is the least: sign an order for less ({})",
                amounts.min,
                policy_rule(&format!("{}.min", word(field)))
            )));
        }
        Ok(())
    }

    pub(super) fn switch_onboot(&self, on: bool) -> Result<(), Refused> {
        let switch = self.fields().and_then(|f| f.onboot).ok_or_else(|| self.absent(Field::Onboot))?;
        let (allowed, way) = if on { (switch.on, "on") } else { (switch.off, "off") };
        if allowed {
            return Ok(());
        }
        Err(bound(format!(
            "onboot may not be switched {way} without a signature: sign an order for it ({})",
            policy_rule(&format!("fields.onboot.{way}"))
        )))
    }

    fn backups(&self) -> Result<&'a Backups, Refused> {
        self.fields().and_then(|f| f.backups.as_ref()).ok_or_else(|| self.absent(Field::Backups))
    }

    pub(super) fn backup_to(&self, storage: &StorageId) -> Result<(), Refused> {
        listed(&self.backups()?.storages, storage, "fields.backups.storages")
    }

    pub(super) fn backups_per_day(&self) -> Result<Limit, Refused> {
        let policy = self.backups()?.max_per_guest_and_day;
        let local = self.local.max_backups_per_guest_and_day;
        let name = "fields.backups.max_per_guest_and_day";
        Ok(tighter(name, policy, "max_backups_per_guest_and_day", local))
    }

    fn downloads(&self) -> Result<&'a Downloads, Refused> {
        self.fields().and_then(|f| f.downloads.as_ref()).ok_or_else(|| self.absent(Field::Templates))
    }

    pub(super) fn download(
        &self,
        storage: &StorageId,
        template: &TemplateName,
        sha256: &Sha256,
    ) -> Result<(), Refused> {
        let downloads = self.downloads()?;
        listed(&downloads.storages, storage, "fields.downloads.storages")?;
        if downloads.templates.iter().any(|pinned| pinned.template == *template && pinned.sha256 == *sha256) {
            return Ok(());
        }
        Err(bound(format!(
            "template {template} with SHA-256 {sha256} is not pinned: sign an order for it ({})",
            policy_rule("fields.downloads.templates")
        )))
    }

    pub(super) fn downloads_per_day(&self) -> Result<Limit, Refused> {
        let policy = self.downloads()?.max_per_day;
        let local = self.local.max_downloads_per_day;
        Ok(tighter("fields.downloads.max_per_day", policy, "max_downloads_per_day", local))
    }

    fn creation(&self) -> Result<&'a Create, Refused> {
        self.fields().and_then(|f| f.create.as_ref()).ok_or_else(|| self.absent(Field::Guests))
    }

    /// Whether the policy lets such a guest be made.
    pub(super) fn create(&self, new: &NewGuest) -> Result<(), Refused> {
        let create = self.creation()?;
        listed::<Pin>(&create.templates, &new.template, "fields.create.templates")?;
        listed(&create.storages, &new.storage, "fields.create.storages")?;
        if let Some(bridge) = &new.bridge {
            listed(&create.bridges, bridge, "fields.create.bridges")?;
        }
        let disk = new.disk.map_or(0, |size| size.get());
        let LocalBounds { max_cores, max_memory_mib, max_bytes_per_step, .. } = self.local;
        let limits = [
            (
                u64::from(new.cores.get()),
                tighter("fields.create.max_cores", create.max_cores, "max_cores", *max_cores),
                "cores it would have",
            ),
            (
                u64::from(new.memory_mib.get()),
                tighter(
                    "fields.create.max_memory_mib",
                    create.max_memory_mib,
                    "max_memory_mib",
                    *max_memory_mib,
                ),
                "MiB of memory it would have",
            ),
            (
                disk,
                tighter("fields.create.max_disk", create.max_disk, "max_bytes_per_step", *max_bytes_per_step),
                "bytes of disk it would have",
            ),
        ];
        for (value, most, what) in &limits {
            if *value > most.value {
                return Err(over_bound(*value, most, what));
            }
        }
        Ok(())
    }

    pub(super) fn created_per_day(&self) -> Result<Limit, Refused> {
        let policy = self.creation()?.max_per_day;
        let local = self.local.max_created_per_day;
        Ok(tighter("fields.create.max_per_day", policy, "max_created_per_day", local))
    }
}

fn listed<T: PartialEq + fmt::Display>(list: &[T], wanted: &T, name: &str) -> Result<(), Refused> {
    if list.contains(wanted) {
        return Ok(());
    }
    Err(bound(format!("{wanted} is not on the list: sign an order for it ({})", policy_rule(name))))
}
