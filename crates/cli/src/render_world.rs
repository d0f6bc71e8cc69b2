//! The world as a host tells it, for people. Nothing in it is signed, and every word is made safe.

use std::collections::BTreeMap;

use authz::order::Backing;
use authz::world::{DiskNow, GuestNow, SnapshotNow, World};
use protocol::Vmid;
use protocol::refs::{BackupRef, StorageId, VolumeRef};
use protocol::report::Known;
use protocol::text::printable;

use crate::text::{bytes, fields, utc};

type Rows = Vec<(&'static str, String)>;

/// Longest value of a guest's option that is shown; the JSON has all of it.
const LONGEST: usize = 200;

/// What of the world was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The host.
    Host,
    /// The guest of that number with its backups.
    Guest(Vmid),
    /// The backups of a guest that is gone.
    Backups,
}

/// That part of it, a row for each fact.
pub fn world(world: &World, shown: Shown) -> String {
    // Taken apart, so that a new part cannot be forgotten here.
    let World {
        guest: now,
        backups,
        unlisted,
        protected,
        volumes: _,
        disks,
        storages,
        vmids,
        mounted,
        template: _,
    } = world;
    let mut rows = Rows::new();
    match shown {
        Shown::Guest(_) | Shown::Backups => {
            match (now, shown) {
                (Known::Known(now), Shown::Guest(vmid)) => guest(vmid, now, &mut rows),
                (Known::Unknown(why), Shown::Guest(_)) => rows.push(("guest", unknown(why))),
                _ => {}
            }
            each("backup", backups, &mut rows, |BackupRef { volid, size, ctime }| {
                let kept = if protected.contains(volid) { ", protected" } else { "" };
                format!("{volid} of {}, {}{kept}", utc(*ctime), bytes(*size))
            });
            let missing =
                unlisted.iter().map(|(storage, why)| format!("of storage {storage}: {}", unknown(why)));
            rows.extend(missing.map(|row| ("backup", row)));
        }
        Shown::Host => {
            named_storages(storages, &mut rows);
            each("disk", disks, &mut rows, |DiskNow { disk, filesystems }| {
                let all: Vec<_> = filesystems.iter().map(ToString::to_string).collect();
                let all = if all.is_empty() { "no filesystem".to_owned() } else { all.join(", ") };
                format!("serial number {}, {}: {all}", disk.serial, bytes(disk.size))
            });
            joined("mounted", mounted, &mut rows);
            joined("guests", vmids, &mut rows);
        }
    }
    fields(&rows)
}

fn unknown(why: &str) -> String {
    format!("unknown ({})", printable(why))
}

/// A row for each, or that there is none, or that it is not known.
fn each<T>(label: &'static str, list: &Known<Vec<T>>, rows: &mut Rows, shown: impl Fn(&T) -> String) {
    match list {
        Known::Unknown(why) => rows.push((label, unknown(why))),
        Known::Known(list) if list.is_empty() => rows.push((label, "none".to_owned())),
        Known::Known(list) => rows.extend(list.iter().map(|item| (label, shown(item)))),
    }
}

fn joined<T: ToString>(label: &'static str, set: &Known<std::collections::BTreeSet<T>>, rows: &mut Rows) {
    rows.push((
        label,
        match set {
            Known::Unknown(why) => unknown(why),
            Known::Known(set) if set.is_empty() => "none".to_owned(),
            Known::Known(set) => set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        },
    ));
}

fn named_storages(storages: &Known<BTreeMap<StorageId, Known<Backing>>>, rows: &mut Rows) {
    match storages {
        Known::Unknown(why) => rows.push(("storage", unknown(why))),
        Known::Known(all) => rows.extend(all.iter().map(|(name, backing)| {
            let behind = match backing {
                Known::Unknown(why) => format!("what is behind it is {}", unknown(why)),
                Known::Known(Backing::Dir { path, uuid }) => format!("directory {path} on filesystem {uuid}"),
                Known::Known(Backing::ZfsPool { pool, guid }) => format!("ZFS pool {pool} ({guid})"),
                Known::Known(Backing::LvmThin { vg, uuid, pool }) => {
                    format!("thin pool {vg}/{pool} ({uuid})")
                }
            };
            ("storage", format!("{name}: {behind}"))
        })),
    }
}

fn guest(vmid: Vmid, now: &GuestNow, rows: &mut Rows) {
    let GuestNow {
        kind,
        name,
        identity: _,
        digest,
        config,
        lock,
        template,
        state,
        snapshots,
        consistent,
        volumes,
        protection,
        ha,
        replication,
    } = now;
    let template = if *template { ", a template" } else { "" };
    rows.push(("guest", format!("{kind} {vmid} '{name}', {state}{template}")));
    if let Some(lock) = lock {
        rows.push(("lock", lock.clone()));
    }
    if !consistent {
        rows.push(("note", "it was changed while it was read: look again".to_owned()));
    }
    rows.push(("digest", digest.clone()));
    rows.push((
        "protection",
        match protection {
            Known::Known(on) => if *on { "on" } else { "off" }.to_owned(),
            Known::Unknown(why) => unknown(why),
        },
    ));
    rows.push((
        "HA",
        match ha {
            Known::Known(state) => state.to_string(),
            Known::Unknown(why) => unknown(why),
        },
    ));
    each("replication", replication, rows, ToString::to_string);
    match config {
        Known::Unknown(why) => rows.push(("option", unknown(why))),
        Known::Known(config) => rows.extend(config.iter().map(|(key, value)| {
            let cut: String = value.chars().take(LONGEST).collect();
            let more = if cut.len() < value.len() { "…" } else { "" };
            ("option", format!("{key}: {cut}{more}"))
        })),
    }
    each("volume", volumes, rows, |VolumeRef { volid, size, format }| {
        format!("{volid}, {} as {format}", bytes(*size))
    });
    each("snapshot", snapshots, rows, |SnapshotNow { name, time, parent, unfinished }| {
        let time = time.map_or("an unknown time".to_owned(), utc);
        let parent = parent.as_deref().unwrap_or("none");
        let state = unfinished.as_ref().map_or(String::new(), |step| format!(", INCOMPLETE ({step})"));
        format!("'{name}' of {time}, parent {parent}{state}")
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str) -> World {
        let path = format!("{}/fixtures/worlds/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn what_is_there_is_shown_and_what_is_unknown_says_so() {
        let machine = told("machine");
        let text = world(&machine, Shown::Guest(Vmid::try_from(101).unwrap()));
        for says in [
            "qemu 101 'db', stopped",
            "scsi0: local-lvm:vm-101-disk-0,size=32G",
            "local-lvm:vm-101-disk-0, 32.0 GiB as raw",
            "'before-update' of 2026-11-22 04:13:58Z, parent first",
            "replication  101-0",
            "vzdump-qemu-101-2026_11_21",
        ] {
            assert!(text.contains(says), "{says}:\n{text}");
        }
        let text = world(&machine, Shown::Host);
        for says in [
            "thin pool pve/data",
            "nothing to compare",
            "WD-WX11D1234567",
            "mounted  ABCD-0123",
            "101, 200, 9000",
        ] {
            assert!(text.contains(says), "{says}:\n{text}");
        }
        let mut gone = told("machine");
        gone.unlisted.insert("usb".parse().unwrap(), "not plugged in\u{1b}".to_owned());
        let text = world(&gone, Shown::Backups);
        assert!(text.lines().all(|line| line.starts_with("  backup")), "{text}");
        assert!(text.contains("of storage usb: unknown (not plugged in?)"), "{text}");
        let text = world(&World::unread("403\u{1b}[2J\u{202e}"), Shown::Host);
        assert_eq!(text.matches("unknown (403?[2J?)").count(), 4, "{text}");
    }

    #[test]
    fn no_word_moves_the_cursor_or_fills_the_screen() {
        let mut machine = told("machine");
        if let Known::Known(now) = &mut machine.guest {
            (now.name, now.lock) = ("db\u{1b}[2J\u{202e}\n".into(), Some("\r".into()));
            if let (Known::Known(config), Known::Known(snapshots)) = (&mut now.config, &mut now.snapshots) {
                config.insert("description".into(), "\u{1b}\n".repeat(100_000));
                snapshots[0].unfinished = Some("\u{9b}".into());
            }
        }
        let text = world(&machine, Shown::Guest(Vmid::try_from(101).unwrap()));
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\r', '\u{9b}']), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 300), "{text}");
    }
}
