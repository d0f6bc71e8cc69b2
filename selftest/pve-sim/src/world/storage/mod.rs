//! Storages: their kinds, configuration, status, and the thin pool.

pub(in crate::world) mod backup;
pub(in crate::world) mod backup_log;
pub(in crate::world) mod calendar;
pub(in crate::world) mod depot;
pub(in crate::world) mod restore;
pub(in crate::world) mod retention;
pub(in crate::world) mod volumes;

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::world::{Guest, Kind, Refusal, World};

/// A thin pool behind a storage of type `lvmthin`.
#[derive(Debug, Clone)]
pub struct ThinPool {
    /// The volume group.
    pub vg: String,
    /// The pool's logical volume.
    pub lv: String,
    /// Size of the pool's metadata in bytes.
    pub metadata_size: u64,
    /// Used metadata in bytes.
    pub metadata_used: u64,
}

/// A storage. Build one with `..Storage::default()`, which is reachable and enabled.
#[derive(Debug, Clone)]
pub struct Storage {
    /// The plug-in: `dir`, `lvmthin`, `zfspool`, ….
    pub plugin: String,
    /// Comma-separated content types.
    pub content: String,
    /// Size in bytes.
    pub total: u64,
    /// Used bytes.
    pub used: u64,
    /// Whether the storage can be reached.
    pub active: bool,
    /// Whether the storage is enabled.
    pub enabled: bool,
    /// The pool of an `lvmthin` storage.
    pub thin: Option<ThinPool>,
    /// Whether all nodes see the same data.
    pub shared: bool,
    /// The other lines of `storage.cfg`: `path`, `pool`, `prune-backups`, `nodes`, ….
    pub options: BTreeMap<String, Value>,
}

impl Default for Storage {
    fn default() -> Storage {
        Storage {
            plugin: "dir".to_owned(),
            content: String::new(),
            total: 0,
            used: 0,
            active: true,
            enabled: true,
            thin: None,
            shared: false,
            options: BTreeMap::new(),
        }
    }
}

impl Storage {
    /// An empty storage of a kind, with the options every storage of that kind has.
    pub fn new(plugin: &str, content: &str, total: u64) -> Storage {
        Storage {
            plugin: plugin.to_owned(),
            content: content.to_owned(),
            total,
            // These kinds are shared without anybody saying so.
            shared: matches!(plugin, "nfs" | "cifs" | "pbs" | "rbd" | "cephfs"),
            ..Storage::default()
        }
    }

    /// The same with one more line of configuration.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Storage {
        self.options.insert(key.to_owned(), value.into());
        self
    }

    /// Whether it may hold this type of content.
    pub fn holds(&self, content: &str) -> bool {
        self.content.split(',').any(|have| have == content)
    }

    /// Whether volumes are files.
    pub fn has_files(&self) -> bool {
        matches!(self.plugin.as_str(), "dir" | "nfs" | "cifs" | "btrfs" | "cephfs")
    }

    /// An option that is text.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).and_then(Value::as_str)
    }

    /// Where the files of a storage are.
    pub fn path(&self, id: &str) -> String {
        match self.option("path") {
            Some(path) => path.to_owned(),
            None if id == "local" => "/var/lib/vz".to_owned(),
            // The one storage of the recordings that was offline.
            None if id == "offl" => "/srv/off".to_owned(),
            None => format!("/mnt/pve/{id}"),
        }
    }

    /// Whether it is configured for this node.
    pub fn on_node(&self, node: &str) -> bool {
        self.option("nodes").is_none_or(|nodes| nodes.split(',').any(|n| n == node))
    }

    /// The row of `GET /nodes/NODE/storage`, or with `id` absent the answer of `…/status`.
    pub fn status(&self, id: Option<&str>) -> Value {
        // A disabled storage is never looked at.
        let active = self.active && self.enabled;
        let (total, used) = if active { (self.total, self.used) } else { (0, 0) };
        let mut row = json!({
            "type": self.plugin,
            "content": self.content,
            "active": u8::from(active),
            "enabled": u8::from(self.enabled),
            "shared": u8::from(self.shared),
            "total": total,
            "used": used,
            "avail": total.saturating_sub(used),
        });
        if let Some(id) = id {
            row["storage"] = json!(id);
            if active && total > 0 {
                row["used_fraction"] = json!(used as f64 / total as f64);
            }
        }
        row
    }

    /// The formats of its images and the default one, as `format=1` shows them.
    pub fn formats(&self) -> Value {
        let (all, default): (&[&str], &str) = match self.plugin.as_str() {
            "dir" | "nfs" | "cifs" => (&["qcow2", "raw", "subvol", "vmdk"], "raw"),
            "btrfs" => (&["raw", "subvol"], "raw"),
            "zfspool" => (&["raw", "subvol"], "raw"),
            _ => (&["raw"], "raw"),
        };
        json!({"supported": all, "default": default})
    }

    /// The row of `GET /cluster/resources`.
    pub fn resource(&self, node: &str, id: &str) -> Value {
        let mut row = json!({
            "id": format!("storage/{node}/{id}"),
            "node": node,
            "type": "storage",
            "storage": id,
            "plugintype": self.plugin,
            "content": self.content,
            "shared": u8::from(self.shared),
            "status": if self.active { "available" } else { "unknown" },
        });
        if self.active {
            row["disk"] = json!(self.used);
            row["maxdisk"] = json!(self.total);
        }
        row
    }

    /// The section of `storage.cfg`, as `GET /storage` shows it.
    pub fn config(&self, id: &str, digest: &str) -> Value {
        let mut row = json!({
            "storage": id, "type": self.plugin, "content": self.content, "digest": digest,
        });
        for (key, value) in &self.options {
            // Secrets are kept in files that the API never shows.
            if !matches!(key.as_str(), "password" | "encryption-key" | "master-pubkey" | "health") {
                row[key] = value.clone();
            }
        }
        if !self.options.contains_key("path") && self.has_files() && self.plugin != "cephfs" {
            row["path"] = json!(self.path(id));
        }
        if self.shared && self.plugin == "dir" {
            row["shared"] = json!(1);
        }
        if !self.enabled {
            row["disable"] = json!(1);
        }
        if let Some(pool) = &self.thin {
            row["vgname"] = json!(pool.vg);
            row["thinpool"] = json!(pool.lv);
        }
        row
    }

    /// The row of `GET /nodes/NODE/disks/lvmthin`.
    pub fn lvmthin(&self) -> Option<Value> {
        let pool = self.thin.as_ref()?;
        Some(json!({
            "lv": pool.lv,
            "vg": pool.vg,
            "lv_size": self.total,
            "used": self.used,
            "metadata_size": pool.metadata_size,
            "metadata_used": pool.metadata_used,
        }))
    }

    /// Whether volumes on this storage can be snapshotted.
    pub fn can_snapshot(&self, kind: Kind, volume: &str) -> bool {
        match self.plugin.as_str() {
            "lvmthin" | "zfspool" | "rbd" | "btrfs" => true,
            // Containers have raw images or subvolumes on a directory, never qcow2.
            "dir" | "nfs" | "cifs" => kind == Kind::Qemu && volume.ends_with(".qcow2"),
            "lvm" => {
                volume.ends_with(".qcow2") && self.options.get("snapshot-as-volume-chain") == Some(&json!(1))
            }
            _ => false,
        }
    }

    /// The name of a new image of a guest, without the storage.
    pub fn image_name(&self, vmid: u32, index: u32, format: &str) -> String {
        let files = self.has_files();
        match (files, format) {
            (true, "subvol") => format!("{vmid}/subvol-{vmid}-disk-{index}.subvol"),
            (true, ext) => format!("{vmid}/vm-{vmid}-disk-{index}.{ext}"),
            (false, "subvol") => format!("subvol-{vmid}-disk-{index}"),
            (false, _) => format!("vm-{vmid}-disk-{index}"),
        }
    }

    /// Reserves or frees space.
    pub(in crate::world) fn charge(&mut self, bytes: i64) {
        self.used = self.used.saturating_add_signed(bytes).min(self.total);
    }
}

impl World {
    /// The digest of the whole storage configuration.
    pub fn storage_digest(&self) -> String {
        let rows: Vec<Value> = self.storages.iter().map(|(id, s)| s.config(id, "")).collect();
        HEXLOWER.encode(&Sha256::digest(Value::from(rows).to_string().as_bytes())[..20])
    }

    /// The storage if it exists, is meant for this node and is enabled.
    pub fn enabled_storage(&self, id: &str) -> Result<&Storage, Refusal> {
        let storage = self.storage(id)?;
        if !storage.enabled {
            return Err(Refusal::internal(format!("storage '{id}' is disabled")));
        }
        if !storage.on_node(&self.node) {
            let node = &self.node;
            return Err(Refusal::internal(format!("storage '{id}' is not available on node '{node}'")));
        }
        Ok(storage)
    }

    /// The storage if it can also be reached; recorded for a `dir` storage, the texts of the others
    /// say what that plug-in cannot do.
    pub fn active_storage(&self, id: &str) -> Result<&Storage, Refusal> {
        let storage = self.enabled_storage(id)?;
        if storage.active {
            return Ok(storage);
        }
        let text = match storage.plugin.as_str() {
            "nfs" | "cifs" => format!("storage '{id}' is not online"),
            "pbs" => {
                let server = storage.option("server").unwrap_or("localhost");
                format!("{id}: error fetching datastores - 500 Can't connect to {server}:8007")
            }
            "zfspool" => {
                let pool = storage.option("pool").unwrap_or(id);
                format!("could not activate storage '{id}', zfs error: cannot open '{pool}': no such pool")
            }
            "lvm" | "lvmthin" => {
                let vg = storage.thin.as_ref().map_or(id, |t| t.vg.as_str());
                format!("no such volume group '{vg}'")
            }
            _ => format!(
                "unable to activate storage '{id}' - directory is expected to be a mount point but is not mounted: '{}'",
                storage.path(id)
            ),
        };
        Err(Refusal::internal(text))
    }

    /// Whether the guest can be snapshotted: all its volumes must be able to.
    pub fn snapshot_feature(&self, guest: &Guest) -> bool {
        guest.volumes().into_iter().all(|(_, volume)| {
            // A bind or device mount has no storage, which rules a snapshot out.
            volume
                .split_once(':')
                .and_then(|(id, name)| Some((self.storages.get(id)?, name)))
                .is_some_and(|(storage, name)| storage.can_snapshot(guest.kind, name))
        })
    }

    /// The volume of the guest on a storage that rolls back to the newest snapshot only.
    pub(in crate::world) fn newest_only_volume<'a>(&self, guest: &'a Guest) -> Option<&'a str> {
        guest.volumes().into_iter().map(|(_, v)| v).find(|volume| {
            volume
                .split_once(':')
                .and_then(|(id, _)| self.storages.get(id))
                .is_some_and(|s| s.plugin == "zfspool" || s.plugin == "lvm")
        })
    }

    /// A snapshot on a thin pool takes a little data and metadata space.
    pub(in crate::world) fn charge_snapshot(&mut self, guest: &Guest) {
        for (_, volume) in guest.volumes() {
            let id = volume.split(':').next().unwrap_or_default();
            let Some(storage) = self.storages.get_mut(id) else {
                continue;
            };
            if let Some(pool) = storage.thin.as_mut() {
                storage.used = (storage.used + storage.total / 1000).min(storage.total);
                let metadata = pool.metadata_used + pool.metadata_size / 1000;
                pool.metadata_used = metadata.min(pool.metadata_size);
            }
        }
    }

    /// Sets how full a storage is; false when it is unknown.
    pub fn set_usage(&mut self, id: &str, used: Option<f64>, metadata: Option<f64>) -> bool {
        let Some(storage) = self.storages.get_mut(id) else {
            return false;
        };
        let share = |total: u64, percent: f64| (total as f64 * percent.clamp(0.0, 100.0) / 100.0) as u64;
        if let Some(percent) = used {
            storage.used = share(storage.total, percent);
        }
        if let (Some(percent), Some(pool)) = (metadata, storage.thin.as_mut()) {
            pool.metadata_used = share(pool.metadata_size, percent);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_differ_in_snapshots() {
        let can =
            |plugin: &str, kind, volume: &str| Storage::new(plugin, "images", 1).can_snapshot(kind, volume);
        for plugin in ["lvmthin", "zfspool", "btrfs", "rbd"] {
            assert!(can(plugin, Kind::Lxc, "vm-1-disk-0"), "{plugin}");
        }
        for plugin in ["dir", "nfs"] {
            assert!(can(plugin, Kind::Qemu, "1/vm-1-disk-0.qcow2"), "{plugin}");
            assert!(!can(plugin, Kind::Qemu, "1/vm-1-disk-0.raw"), "{plugin}");
            assert!(!can(plugin, Kind::Lxc, "1/vm-1-disk-0.qcow2"), "{plugin}");
        }
        assert!(!can("lvm", Kind::Qemu, "vm-1-disk-0.qcow2"));
        let chain = Storage::new("lvm", "images", 1).with("snapshot-as-volume-chain", 1);
        assert!(chain.can_snapshot(Kind::Qemu, "vm-1-disk-0.qcow2"));
    }

    #[test]
    fn a_disabled_storage_shows_no_sizes() {
        let mut storage = Storage::new("dir", "backup", 100);
        storage.used = 50;
        assert_eq!(storage.status(Some("x"))["used_fraction"], 0.5);
        storage.enabled = false;
        let row = storage.status(Some("x"));
        assert_eq!((&row["active"], &row["total"], row.get("used_fraction")), (&json!(0), &json!(0), None));
    }
}
