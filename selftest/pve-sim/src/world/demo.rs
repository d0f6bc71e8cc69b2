//! The demo world: one node, five guests, four storages.

use serde_json::{Value, json};

use super::guests::set_identity;
use super::{Config, Guest, Kind, Now, Running, Storage, ThinPool, World};

const GIB: u64 = 1 << 30;
/// When the demo's guests were created (2025-06-01).
const CREATED: i64 = 1_748_736_000;
/// When the demo's snapshot was taken (2025-09-01).
const SNAPSHOTTED: i64 = 1_756_684_800;
/// When the running guests were started (2025-10-01).
pub(super) const STARTED: i64 = 1_759_276_800;

impl World {
    /// The demo world. Its secrets are unset until a simulator starts with it.
    pub fn demo() -> World {
        let mut w = World::empty([0x42; 32]);
        w.demo_access();
        w.demo_storages();
        w.demo_stock(CREATED);
        w.demo_qemu(100, "web", "local-lvm:vm-100-disk-0,size=16G", 2048, 2);
        w.demo_qemu(101, "db", "local-lvm:vm-101-disk-0,size=32G", 4096, 2);
        w.demo_qemu(102, "files", "tank:vm-102-disk-0,size=64G", 1024, 1);
        w.demo_lxc(200, "dns", "local-lvm:vm-200-disk-0,size=4G", 256);
        w.demo_lxc(201, "mail", "tank:subvol-201-disk-0,size=8G", 1024);
        for vmid in [100, 200] {
            let pid = w.tasks.fresh_pid();
            if let Some(guest) = w.guests.get_mut(&vmid) {
                guest.running = Some(Running { pid, since: STARTED });
            }
        }
        let then = Now { mono: std::time::Duration::ZERO, unix: SNAPSHOTTED };
        w.add_snapshot(101, "before-upgrade", "before the database upgrade", then);
        w
    }

    fn demo_access(&mut self) {
        let a = &mut self.access;
        a.add_user("root@pam");
        a.add_user("writ@pve");
        a.grant("/", "root@pam", "Administrator");
        // A separated token holds what both it and its user hold: the user needs the roles too.
        a.grant("/", "writ@pve", "WritAgent");
        a.grant("/", "writ@pve", "PVEAuditor");
        a.add_token("writ@pve!report", None, 0);
        a.grant("/", "writ@pve!report", "PVEAuditor");
        a.add_token("writ@pve!act", None, 0);
        a.grant("/", "writ@pve!act", "WritAgent");
        a.add_token("writ@pve!expired", None, CREATED);
        a.grant("/", "writ@pve!expired", "PVEAuditor");
        a.add_token("writ@pve!noacl", None, 0);
    }

    fn demo_storages(&mut self) {
        let storage = |plugin: &str, content: &str, total: u64, used: u64| Storage {
            plugin: plugin.to_owned(),
            content: content.to_owned(),
            total,
            used,
            active: true,
            enabled: true,
            thin: None,
            ..Storage::default()
        };
        let local = storage("dir", "iso,vztmpl,backup,snippets", 100 * GIB, 23 * GIB);
        let mut thin = storage("lvmthin", "images,rootdir", 400 * GIB, 120 * GIB);
        thin.thin = Some(ThinPool {
            vg: "pve".to_owned(),
            lv: "data".to_owned(),
            metadata_size: 4 * GIB,
            metadata_used: GIB / 16,
        });
        let tank = storage("zfspool", "images,rootdir", 1800 * GIB, 600 * GIB);
        let mut offl = storage("dir", "backup", 0, 0);
        offl.active = false;
        for (id, storage) in [("local", local), ("local-lvm", thin), ("tank", tank), ("offl", offl)] {
            self.storages.insert(id.to_owned(), storage);
        }
    }

    fn demo_guest(&mut self, vmid: u32, kind: Kind, values: Value) {
        let Value::Object(values) = values else {
            return;
        };
        let mut config: Config = values.into_iter().collect();
        let (uuid, genid, mac) = (self.fresh_uuid(), self.fresh_uuid(), self.fresh_mac());
        set_identity(kind, &mut config, &uuid, &genid, &mac, CREATED);
        self.guests.insert(vmid, Guest::new(kind, config));
    }

    fn demo_qemu(&mut self, vmid: u32, name: &str, disk: &str, memory: u32, cores: u32) {
        let values = json!({
            "name": name, "memory": memory.to_string(), "cores": cores, "sockets": 1,
            "cpu": "x86-64-v2-AES", "ostype": "l26", "scsihw": "virtio-scsi-single",
            "scsi0": disk, "boot": "order=scsi0", "onboot": 1,
        });
        self.demo_guest(vmid, Kind::Qemu, values);
    }

    fn demo_lxc(&mut self, vmid: u32, name: &str, rootfs: &str, memory: u32) {
        let values = json!({
            "hostname": name, "memory": memory, "swap": 0, "cores": 1, "arch": "amd64",
            "ostype": "debian", "rootfs": rootfs, "unprivileged": 1, "onboot": 1,
        });
        self.demo_guest(vmid, Kind::Lxc, values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_guest_runs_longer_than_the_node() {
        let world = World::demo();
        // From the guests' start to some years later.
        for later in [0, 1, 3_600, 417 * 86_400, 3_650 * 86_400] {
            let now = Now { mono: std::time::Duration::from_secs(1_742), unix: STARTED + later };
            let node = world.node_row(now, true)["uptime"].as_i64().unwrap();
            let guests: Vec<i64> = world
                .guests
                .iter()
                .map(|(vmid, guest)| guest.row(*vmid, now, true)["uptime"].as_i64().unwrap())
                .collect();
            assert_eq!(guests.iter().max(), Some(&later), "the running ones count from their start");
            assert!(guests.iter().all(|guest| *guest < node), "{guests:?} on a node up {node} s");
        }
    }
}
