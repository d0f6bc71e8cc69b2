//! Snapshots and what creating, rolling back and deleting them does to a guest.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::world::{Config, Guest, Kind, Now, World};

/// A snapshot; its `parent` is a line of its configuration, as in Proxmox VE.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The guest's configuration at that time.
    pub config: Config,
    /// When it was taken, in seconds since 1970.
    pub snaptime: i64,
    /// The description as given; empty when none was.
    pub description: String,
    /// Whether the memory was saved.
    pub vmstate: bool,
    /// `prepare` or `delete` while such an operation is unfinished.
    pub snapstate: Option<String>,
    /// Order of creation, which ZFS cares about.
    pub order: u64,
}

/// Keys that belong to a configuration section itself and are not copied between sections.
fn is_private(key: &str) -> bool {
    matches!(key, "lock" | "description" | "parent" | "vmstate" | "runningmachine" | "runningcpu")
        || crate::world::guests::numbered(key, "unused")
}

fn copied(config: &Config) -> Config {
    config
        .iter()
        .filter(|(key, _)| !is_private(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// LXC reads every non-empty description back with a newline at its end.
pub(crate) fn description_out(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Lxc if !text.is_empty() && !text.ends_with('\n') => format!("{text}\n"),
        _ => text.to_owned(),
    }
}

impl Guest {
    /// `GET …/snapshot`: the snapshots, and `current` at the end.
    pub fn snapshot_list(&self) -> Value {
        let mut all: Vec<_> = self.snapshots.iter().collect();
        all.sort_by_key(|(_, snapshot)| snapshot.order);
        let mut rows: Vec<Value> = all.into_iter().map(|(n, s)| self.snapshot_row(n, s)).collect();
        let mut current = json!({
            "name": "current",
            "description": "You are here!",
            "digest": self.digest(),
            "running": u8::from(self.running.is_some()),
        });
        if let Some(parent) = self.config.get("parent") {
            current["parent"] = parent.clone();
        }
        rows.push(current);
        Value::Array(rows)
    }

    fn snapshot_row(&self, name: &str, snapshot: &Snapshot) -> Value {
        let mut row = json!({
            "name": name,
            "description": description_out(self.kind, &snapshot.description),
            "snaptime": snapshot.snaptime,
        });
        if self.kind == Kind::Qemu {
            row["vmstate"] = json!(u8::from(snapshot.vmstate));
        }
        if let Some(parent) = snapshot.config.get("parent") {
            row["parent"] = parent.clone();
        }
        if let Some(state) = &snapshot.snapstate {
            row["snapstate"] = json!(state);
        }
        row
    }

    /// `GET …/snapshot/NAME/config`.
    pub fn snapshot_config(&self, name: &str) -> Option<Value> {
        let snapshot = self.snapshots.get(name)?;
        let mut map: Map<String, Value> = snapshot.config.clone().into_iter().collect();
        map.insert("snaptime".to_owned(), json!(snapshot.snaptime));
        if !snapshot.description.is_empty() {
            let text = description_out(self.kind, &snapshot.description);
            map.insert("description".to_owned(), json!(text));
        }
        if let Some(state) = &snapshot.snapstate {
            map.insert("snapstate".to_owned(), json!(state));
        }
        Some(Value::Object(map))
    }

    /// Starts a snapshot: the section exists with `snapstate: prepare`, the guest is locked.
    pub(in crate::world) fn prepare_snapshot(&mut self, name: &str, text: &str, vmstate: bool, now: Now) {
        let mut config = copied(&self.config);
        if let Some(parent) = self.config.get("parent") {
            config.insert("parent".to_owned(), parent.clone());
        }
        let saves = vmstate && self.running.is_some();
        let order = self.snapshots.values().map(|s| s.order).max().unwrap_or(0) + 1;
        let snapshot = Snapshot {
            config,
            snaptime: now.unix,
            description: text.to_owned(),
            vmstate: saves,
            snapstate: Some("prepare".to_owned()),
            order,
        };
        self.snapshots.insert(name.to_owned(), snapshot);
        self.config.insert("lock".to_owned(), json!("snapshot"));
    }

    /// Ends a snapshot: it becomes the current state's parent.
    pub(in crate::world) fn commit_snapshot(&mut self, name: &str) {
        if let Some(snapshot) = self.snapshots.get_mut(name) {
            snapshot.snapstate = None;
        }
        self.config.insert("parent".to_owned(), json!(name));
        self.config.remove("lock");
    }

    /// Replaces the configuration by the snapshot's; description and unused volumes stay.
    /// Returns whether the snapshot holds the memory of a running guest.
    pub(in crate::world) fn apply_snapshot(&mut self, name: &str, genid: String) -> bool {
        let Some(snapshot) = self.snapshots.get(name) else {
            return false;
        };
        let mut config = copied(&snapshot.config);
        for (key, value) in &self.config {
            if key == "description" || crate::world::guests::numbered(key, "unused") {
                config.insert(key.clone(), value.clone());
            }
        }
        config.insert("parent".to_owned(), json!(name));
        if self.kind == Kind::Qemu {
            // A rolled back machine must notice it: Proxmox VE gives it a new generation id.
            config.insert("vmgenid".to_owned(), json!(genid));
        }
        let vmstate = snapshot.vmstate;
        // A disk that came after the snapshot is not lost: it becomes an unused one.
        let kept: Vec<(String, u64)> = self
            .volumes()
            .into_iter()
            .map(|(key, volume)| {
                (volume.to_owned(), crate::world::disks::size_of(self.text(key).unwrap_or_default()))
            })
            .collect();
        let named = |config: &Config, volume: &str| {
            config.values().filter_map(Value::as_str).any(|t| t.split(',').next() == Some(volume))
        };
        for (volume, bytes) in kept {
            if volume.contains(':') && !named(&config, &volume) {
                config.insert(crate::world::disks::unused_key(&config), json!(volume));
                self.sizes.insert(volume, bytes);
            }
        }
        // One that is in use again is not unused any more.
        let used: Vec<String> = crate::world::disks::volumes_of(self.kind, &config)
            .map(|(_, volume)| volume.to_owned())
            .collect();
        for volume in used {
            crate::world::disks::forget_unused(&mut config, &volume);
        }
        self.config = config;
        self.pending.clear();
        vmstate
    }

    /// Removes a snapshot; what pointed at it points at its parent afterwards.
    pub(in crate::world) fn drop_snapshot(&mut self, name: &str) {
        let Some(gone) = self.snapshots.remove(name) else {
            return;
        };
        let parent = gone.config.get("parent").cloned();
        let relink = |config: &mut Config| {
            if config.get("parent").and_then(Value::as_str) == Some(name) {
                match &parent {
                    Some(parent) => config.insert("parent".to_owned(), parent.clone()),
                    None => config.remove("parent"),
                };
            }
        };
        relink(&mut self.config);
        for snapshot in self.snapshots.values_mut() {
            relink(&mut snapshot.config);
        }
    }

    /// The name of the snapshot taken last.
    pub(in crate::world) fn newest_snapshot(&self) -> Option<&str> {
        let newest = self.snapshots.iter().max_by_key(|(_, s)| s.order)?;
        Some(newest.0.as_str())
    }
}

impl World {
    /// Adds a finished snapshot at once, for setting a world up.
    pub fn add_snapshot(&mut self, vmid: u32, name: &str, description: &str, now: Now) -> bool {
        let Some(guest) = self.guests.get_mut(&vmid) else {
            return false;
        };
        guest.prepare_snapshot(name, description, false, now);
        guest.commit_snapshot(name);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Now = Now { mono: Duration::ZERO, unix: 1000 };

    fn guest(kind: Kind) -> Guest {
        let config = Config::from([
            ("description".to_owned(), json!("mine")),
            ("cores".to_owned(), json!(1)),
            ("vmgenid".to_owned(), json!("old")),
        ]);
        Guest::new(kind, config)
    }

    fn take(guest: &mut Guest, name: &str) {
        guest.prepare_snapshot(name, "", false, NOW);
        guest.commit_snapshot(name);
    }

    #[test]
    fn tree_links_and_relinks() {
        let mut g = guest(Kind::Qemu);
        for name in ["a1", "b1", "c1"] {
            take(&mut g, name);
        }
        let list = g.snapshot_list();
        assert_eq!(list[0].get("parent"), None);
        assert_eq!(list[1]["parent"], "a1");
        assert_eq!(list[3]["name"], "current");
        assert_eq!(list[3]["parent"], "c1");
        g.drop_snapshot("b1");
        assert_eq!(g.snapshot_list()[1]["parent"], "a1");
        g.drop_snapshot("a1");
        assert_eq!(g.snapshot_list()[0].get("parent"), None);
        g.drop_snapshot("c1");
        assert_eq!(g.snapshot_list()[0].get("parent"), None);
    }

    #[test]
    fn prepare_is_visible_and_locks() {
        let mut g = guest(Kind::Qemu);
        g.prepare_snapshot("s1", "", true, NOW);
        assert_eq!(g.lock(), Some("snapshot"));
        let list = g.snapshot_list();
        assert_eq!(list[0]["snapstate"], "prepare");
        assert_eq!(list[0]["vmstate"], 0, "no memory of a stopped machine");
        assert_eq!(list[1].get("parent"), None);
    }

    #[test]
    fn rollback_keeps_description_and_renews_vmgenid() {
        let mut g = guest(Kind::Qemu);
        take(&mut g, "s1");
        g.config.insert("cores".to_owned(), json!(8));
        g.config.insert("description".to_owned(), json!("later"));
        g.apply_snapshot("s1", "new".to_owned());
        assert_eq!(g.config["cores"], 1);
        assert_eq!(g.config["description"], "later");
        assert_eq!(g.config["vmgenid"], "new");
        assert_eq!(g.config["parent"], "s1");
    }

    #[test]
    fn kinds_differ_in_the_list() {
        let (mut q, mut l) = (guest(Kind::Qemu), guest(Kind::Lxc));
        q.prepare_snapshot("s1", "text", false, NOW);
        l.prepare_snapshot("s1", "text", false, NOW);
        assert_eq!(q.snapshot_list()[0]["description"], "text");
        assert_eq!(l.snapshot_list()[0]["description"], "text\n");
        assert_eq!(l.snapshot_list()[0].get("vmstate"), None);
    }
}
