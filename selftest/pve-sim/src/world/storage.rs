//! Storages and the thin pool.

use serde_json::{Value, json};

use super::{Guest, Kind, World};

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

/// A storage.
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
}

impl Storage {
    /// The row of `GET /nodes/NODE/storage`, or with `id` absent the answer of `…/status`.
    pub fn status(&self, id: Option<&str>) -> Value {
        let (total, used) = if self.active { (self.total, self.used) } else { (0, 0) };
        let mut row = json!({
            "type": self.plugin,
            "content": self.content,
            "active": u8::from(self.active),
            "enabled": u8::from(self.enabled),
            "shared": 0,
            "total": total,
            "used": used,
            "avail": total.saturating_sub(used),
        });
        if let Some(id) = id {
            row["storage"] = json!(id);
            if self.active && total > 0 {
                row["used_fraction"] = json!(used as f64 / total as f64);
            }
        }
        row
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
            "shared": 0,
            "status": if self.active { "available" } else { "unknown" },
        });
        if self.active {
            row["disk"] = json!(self.used);
            row["maxdisk"] = json!(self.total);
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
    fn can_snapshot(&self, kind: Kind, volume: &str) -> bool {
        match self.plugin.as_str() {
            "lvmthin" | "zfspool" | "rbd" | "btrfs" => true,
            // Containers have raw images or subvolumes on a directory, never qcow2.
            "dir" | "nfs" | "cifs" => kind == Kind::Qemu && volume.ends_with(".qcow2"),
            _ => false,
        }
    }
}

impl World {
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
    pub(super) fn newest_only_volume<'a>(&self, guest: &'a Guest) -> Option<&'a str> {
        guest.volumes().into_iter().map(|(_, v)| v).find(|volume| {
            volume
                .split_once(':')
                .and_then(|(id, _)| self.storages.get(id))
                .is_some_and(|s| s.plugin == "zfspool")
        })
    }

    /// A snapshot on a thin pool takes a little data and metadata space.
    pub(super) fn charge_snapshot(&mut self, guest: &Guest) {
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
