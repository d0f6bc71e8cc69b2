//! The lines of the bounds.

use std::collections::BTreeSet;

use protocol::Vmid;

use super::{Changes, Effect};
use crate::policy::bounds::{Amounts, Bounds, Create, Downloads, Fields, Rates};

pub(super) fn bounds(changes: &mut Changes, old: &Bounds, new: &Bounds) {
    let ranges = |list: &[(Vmid, Vmid)]| -> Vec<String> {
        list.iter().map(|(first, last)| format!("{first}-{last}")).collect()
    };
    changes.members("unsigned changes, guests", &ranges(&old.guests), &ranges(&new.guests));
    changes.flag("unsigned changes, start a guest", old.start, new.start);
    changes.flag("unsigned changes, set tags", old.tags, new.tags);
    changes.flag("unsigned changes, take a snapshot", old.snapshots, new.snapshots);
    changes.limit("snapshots per guest", old.max_snapshots_per_guest, new.max_snapshots_per_guest);
    changes.limit("percent of a pool in use", old.max_pool_used_percent, new.max_pool_used_percent);
    changes.limit("unsigned changes per hour", old.max_changes_per_hour, new.max_changes_per_hour);
    // Without rates the ceilings count, so the numbers are what is compared.
    let (before, after) = (old.rates.unwrap_or_default(), new.rates.unwrap_or_default());
    let Rates { max_guests_per_hour, max_percent_of_guests_per_day, few_guests_per_day, flips_per_hour } =
        after;
    changes.limit("guests touched per hour", before.max_guests_per_hour, max_guests_per_hour);
    changes.limit(
        "percent of the guests changed per day",
        before.max_percent_of_guests_per_day,
        max_percent_of_guests_per_day,
    );
    changes.limit("guests changed per day on a small host", before.few_guests_per_day, few_guests_per_day);
    changes.limit("reversals per hour that are refused", before.flips_per_hour, flips_per_hour);
    let none = Fields::default();
    fields(changes, old.fields.as_ref().unwrap_or(&none), new.fields.as_ref().unwrap_or(&none));
}

/// A field that comes or goes; the pair where it stays.
fn both<'a, T>(
    changes: &mut Changes,
    what: &str,
    old: Option<&'a T>,
    new: Option<&'a T>,
) -> Option<(&'a T, &'a T)> {
    changes.flag(&format!("unsigned changes, {what}"), old.is_some(), new.is_some());
    old.zip(new)
}

fn fields(changes: &mut Changes, old: &Fields, new: &Fields) {
    let Fields { cores, memory, onboot, description, grow, backups, downloads, create } = new;
    amounts(changes, "cores", old.cores.as_ref(), cores.as_ref());
    amounts(changes, "memory", old.memory.as_ref(), memory.as_ref());
    let direction =
        |switch: Option<crate::policy::bounds::Switch>| switch.map_or((false, false), |s| (s.on, s.off));
    let ((on_before, off_before), (on, off)) = (direction(old.onboot), direction(*onboot));
    changes.flag("unsigned changes, switch onboot on", on_before, on);
    changes.flag("unsigned changes, switch onboot off", off_before, off);
    changes.flag("unsigned changes, set the description", old.description, *description);
    if let Some((before, after)) = both(changes, "grow a disk", old.grow.as_ref(), grow.as_ref()) {
        changes.limit("bytes grown per step", before.max_bytes_per_step, after.max_bytes_per_step);
        changes.limit(
            "bytes grown per guest and day",
            before.max_bytes_per_guest_and_day,
            after.max_bytes_per_guest_and_day,
        );
    }
    if let Some((before, after)) = both(changes, "take a backup", old.backups.as_ref(), backups.as_ref()) {
        changes.members("unsigned backups, storages", &before.storages, &after.storages);
        let (before, after) = (before.max_per_guest_and_day, after.max_per_guest_and_day);
        changes.limit("unsigned backups per guest and day", before, after);
    }
    if let Some((before, after)) =
        both(changes, "download a template", old.downloads.as_ref(), downloads.as_ref())
    {
        let pins = |downloads: &Downloads| -> Vec<String> {
            downloads.templates.iter().map(|t| format!("{} (SHA-256 {})", t.template, t.sha256)).collect()
        };
        changes.members("unsigned downloads, storages", &before.storages, &after.storages);
        changes.members("unsigned downloads, templates", &pins(before), &pins(after));
        changes.limit("unsigned downloads per day", before.max_per_day, after.max_per_day);
    }
    if let Some((before, after)) =
        both(changes, "make a guest from a pinned template", old.create.as_ref(), create.as_ref())
    {
        let Create { templates, storages, bridges, max_cores, max_memory_mib, max_disk, max_per_day } = after;
        changes.members("guests made unsigned, templates", &before.templates, templates);
        changes.members("guests made unsigned, storages", &before.storages, storages);
        changes.members("guests made unsigned, bridges", &before.bridges, bridges);
        changes.limit("guests made unsigned, cores", before.max_cores, *max_cores);
        changes.limit("guests made unsigned, MiB of memory", before.max_memory_mib, *max_memory_mib);
        changes.limit("guests made unsigned, bytes of disk", before.max_disk, *max_disk);
        changes.limit("guests made unsigned per day", before.max_per_day, *max_per_day);
    }
    // What comes with a field as a whole is said once, and what is in it is shown by `writ policy show`.
    let came: BTreeSet<&str> = [
        (old.backups.is_none() && backups.is_some(), "backups"),
        (old.downloads.is_none() && downloads.is_some(), "downloads"),
        (old.create.is_none() && create.is_some(), "new guests"),
        (old.grow.is_none() && grow.is_some(), "growing disks"),
        (old.cores.is_none() && cores.is_some(), "cores"),
        (old.memory.is_none() && memory.is_some(), "memory"),
    ]
    .into_iter()
    .filter_map(|(new, what)| new.then_some(what))
    .collect();
    for what in came {
        changes.add(Effect::Changes, format!("new bounds of {what}: read them in `writ policy show`"));
    }
}

fn amounts(changes: &mut Changes, what: &str, old: Option<&Amounts>, new: Option<&Amounts>) {
    let set = format!("set {what}");
    let Some((before, after)) = both(changes, &set, old, new) else {
        return;
    };
    let Amounts { up_percent, down_percent, min, max } = *after;
    changes.limit(&format!("{what}, percent up"), before.up_percent, up_percent);
    changes.limit(&format!("{what}, percent down"), before.down_percent, down_percent);
    changes.demand(&format!("{what}, at least"), before.min, min);
    changes.limit(&format!("{what}, at most"), before.max, max);
}
