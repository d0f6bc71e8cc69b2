//! Worlds of any size, the same every time.

use serde_json::json;

use super::{Config, Guest, Kind, Running, Storage, World};

/// The most guests [`World::populate`] makes.
pub const MAX_GUESTS: u32 = 5_000;
/// The first VMID of made-up guests.
const FIRST_VMID: u32 = 1_000;
const GIB: u64 = 1 << 30;

impl World {
    /// Adds or removes guests until there are exactly `count` (at most [`MAX_GUESTS`]): machines
    /// and containers, running and stopped, in the storages of the demo. What is added depends on
    /// its number alone.
    pub fn populate(&mut self, count: u32) {
        let count = usize::try_from(count.min(MAX_GUESTS)).unwrap_or(usize::MAX);
        while self.guests.len() > count {
            self.guests.pop_last();
        }
        let mut number = 0;
        while self.guests.len() < count {
            let vmid = FIRST_VMID + number;
            if !self.vmid_taken(vmid) {
                let guest = self.made_up(vmid, number);
                self.guests.insert(vmid, guest);
            }
            number += 1;
        }
    }

    fn made_up(&mut self, vmid: u32, number: u32) -> Guest {
        let kind = if number % 3 == 2 { Kind::Lxc } else { Kind::Qemu };
        let (storage, disk) = match (number % 4, kind) {
            (3, Kind::Lxc) => ("tank", format!("subvol-{vmid}-disk-0")),
            (3, Kind::Qemu) => ("tank", format!("vm-{vmid}-disk-0")),
            _ => ("local-lvm", format!("vm-{vmid}-disk-0")),
        };
        let volume = format!("{storage}:{disk},size={}G", 4 << (number % 5));
        let cores = 1 + number % 4;
        let memory = 256 << (number % 4);
        let values = match kind {
            Kind::Qemu => json!({
                "name": format!("vm-{number:04}"), "memory": memory.to_string(), "cores": cores,
                "sockets": 1, "ostype": "l26", "scsihw": "virtio-scsi-single", "scsi0": volume,
                "boot": "order=scsi0", "onboot": number % 2,
            }),
            Kind::Lxc => json!({
                "hostname": format!("ct-{number:04}"), "memory": memory, "swap": 0, "cores": cores,
                "arch": "amd64", "ostype": "debian", "rootfs": volume, "unprivileged": 1,
            }),
        };
        let mut config: Config = match values {
            serde_json::Value::Object(map) => map.into_iter().collect(),
            _ => Config::new(),
        };
        if number.is_multiple_of(7) {
            config.insert("tags".to_owned(), json!("made-up;test"));
        }
        let (uuid, genid, mac) = (self.fresh_uuid(), self.fresh_uuid(), self.fresh_mac());
        super::guests::set_identity(kind, &mut config, &uuid, &genid, &mac, super::demo::STARTED);
        let mut guest = Guest::new(kind, config);
        if number.is_multiple_of(2) {
            guest.running = Some(Running { pid: self.tasks.fresh_pid(), since: super::demo::STARTED });
        }
        guest
    }

    /// Adds storages until there are `count`: directories, each with a hundred GiB.
    pub fn populate_storages(&mut self, count: u32) {
        let Some(model) = self.storages.values().find(|s| s.plugin == "dir" && s.active).cloned() else {
            return;
        };
        let mut number: u32 = 1;
        while self.storages.len() < usize::try_from(count.min(MAX_GUESTS)).unwrap_or(usize::MAX) {
            let used = u64::from(number % 90) * GIB;
            let storage = Storage { total: 100 * GIB, used, ..model.clone() };
            self.storages.entry(format!("store{number:03}")).or_insert(storage);
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_and_always_the_same() {
        for count in [1, 5, 6, 300, MAX_GUESTS] {
            let made = |count| {
                let mut w = World::demo();
                w.populate(count);
                w
            };
            let (one, two) = (made(count), made(count));
            assert_eq!(one.guests.len(), usize::try_from(count).unwrap());
            let digests = |w: &World| w.guests.values().map(Guest::digest).collect::<Vec<_>>();
            if count <= 300 {
                assert_eq!(digests(&one), digests(&two), "{count}");
            }
            let kinds = one.guests.values().filter(|g| g.kind == Kind::Lxc).count();
            assert!(count < 6 || kinds > 0 && kinds < one.guests.len());
        }
        let mut w = World::demo();
        w.populate(u32::MAX);
        assert_eq!(w.guests.len(), usize::try_from(MAX_GUESTS).unwrap());
        w.populate_storages(40);
        assert_eq!(w.storages.len(), 40);
    }
}
