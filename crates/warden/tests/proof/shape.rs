//! The simulated world as lines, so that two of them can be compared and a receipt with both.

use std::collections::{BTreeMap, BTreeSet};

use pve_sim::world::{Exit, Guest, Volume, World};

/// Name to words. Names begin with what a line is about: `guest 101 …`, `volume local:backup/…`, `storage …`.
pub(crate) type Shape = BTreeMap<String, String>;

/// What an order can change, and nothing that passes by itself: guests, volumes, storages, and how many
/// of the warden's tasks ended well. `vmgenid` changes with every rollback, as it must.
pub(crate) fn shape(world: &World) -> Shape {
    since(world, world)
}

/// The same; backups that were not there in `base` are numbered, because their names have a time in them.
pub(crate) fn since(world: &World, base: &World) -> Shape {
    let mut shape = lines(world, base, |guest| {
        let mut config = guest.config.clone();
        config.remove("vmgenid");
        // A guest that is made says when.
        config.remove("meta");
        let snapshots: Vec<String> = guest
            .snapshots
            .iter()
            .map(|(name, snapshot)| {
                format!("{name}<{:?}{:?}", snapshot.config.get("parent"), snapshot.snapstate)
            })
            .collect();
        let (runs, paused, pending) = (guest.running.is_some(), guest.paused, &guest.pending);
        [
            ("config", format!("{config:?}")),
            ("state", format!("runs {runs} paused {paused} pending {pending:?} snapshots {snapshots:?}")),
        ]
    });
    for task in &world.tasks.all {
        if matches!(task.ended, Some((Exit::Ok | Exit::Warnings(_), _))) {
            let count = shape.entry(format!("ended well: {}", task.upid.kind)).or_default();
            count.push('+');
        }
    }
    shape
}

/// Every byte of it, but for the tasks.
pub(crate) fn exact(world: &World, base: &World) -> Shape {
    let mut exact = lines(world, base, |guest| {
        let mut rest = guest.clone();
        rest.config.clear();
        [("config", format!("{:?}", guest.config)), ("state", format!("{rest:?}"))]
    });
    exact.insert("ha".into(), format!("{:?}", world.ha));
    exact.insert("access".into(), format!("{:?}", world.access));
    exact.insert("gone".into(), format!("{:?}", world.stock.gone));
    exact.insert("jobs".into(), format!("{:?} {:?}", world.stock.backup_jobs, world.stock.replications));
    exact
}

fn lines(world: &World, base: &World, of: impl Fn(&Guest) -> [(&'static str, String); 2]) -> Shape {
    let mut shape = Shape::new();
    for (vmid, guest) in &world.guests {
        shape.extend(of(guest).map(|(part, text)| (format!("guest {vmid} {part}"), text)));
    }
    for (id, storage) in &world.storages {
        shape.insert(format!("storage {id}"), format!("{storage:?}"));
    }
    let mut new = 0;
    for (id, volume) in &world.stock.volumes {
        let known = base.stock.volumes.contains_key(id);
        let name = if volume.content == "backup" && !known {
            new += 1;
            format!("volume, a new backup, number {new}")
        } else {
            format!("volume {id}")
        };
        let ctime = if known { volume.ctime } else { 0 };
        shape.insert(name, format!("{:?}", Volume { ctime, ..volume.clone() }));
    }
    shape
}

/// Every volume that a guest names or a storage lists besides.
pub(crate) fn volumes(world: &World) -> BTreeSet<String> {
    let guests = world.guests.values().flat_map(|guest| {
        let options = guest.config.iter();
        options.filter(|(key, _)| is_slot(key)).filter_map(|(_, value)| value.as_str())
    });
    let named = guests.filter_map(|line| line.split(',').next()).map(str::to_owned);
    named.chain(world.stock.volumes.keys().cloned()).collect()
}

fn is_slot(key: &str) -> bool {
    let letters = key.trim_end_matches(|c: char| c.is_ascii_digit());
    key == "rootfs" || (letters != key && matches!(letters, "scsi" | "sata" | "virtio" | "mp" | "unused"))
}

/// The names of the lines that differ.
pub(crate) fn differing(one: &Shape, other: &Shape) -> BTreeSet<String> {
    let keys = one.keys().chain(other.keys()).filter(|key| one.get(*key) != other.get(*key));
    keys.cloned().collect()
}

/// Which lines differ, and how.
pub(crate) fn differences(one: &Shape, other: &Shape) -> Vec<String> {
    let line = |key: &String| format!("{key}: {:?} / {:?}", one.get(key), other.get(key));
    differing(one, other).iter().map(line).collect()
}
