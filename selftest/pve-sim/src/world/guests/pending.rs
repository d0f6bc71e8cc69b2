//! Writing configurations: what takes effect at once, what waits for the next start, and what
//! happens to disks on the way.

use serde_json::{Map, Value, json};

use crate::world::disks::{
    drive_text, forget_unused, is_cdrom, parse_new_disk, rest_of, size_of, unused_key,
};
use crate::world::guests::{is_volume_key, numbered};
use crate::world::snapshots::description_out;
use crate::world::{Guest, Kind, World};

/// Whether a change of `key` reaches a running guest.
fn hotplugs(kind: Kind, key: &str) -> bool {
    let both = [
        "description",
        "onboot",
        "protection",
        "startup",
        "tags",
        "hookscript",
        "lock",
        "cpulimit",
        "cpuunits",
    ];
    if both.contains(&key) || numbered(key, "net") || numbered(key, "unused") {
        return true;
    }
    match kind {
        // Disks and network devices are plugged by default, processors and memory are not.
        Kind::Qemu => {
            ["scsi", "virtio", "usb"].iter().any(|p| numbered(key, p))
                || matches!(key, "name" | "shares" | "balloon" | "vmstatestorage" | "hotplug" | "cdrom")
        }
        Kind::Lxc => numbered(key, "mp") || matches!(key, "hostname" | "cores" | "memory" | "swap"),
    }
}

/// A network device with a hardware address, in the form the configuration keeps.
pub(crate) fn complete_net(kind: Kind, text: &str, mac: &str) -> String {
    let parts: Vec<(&str, &str)> =
        text.split(',').map(|part| part.split_once('=').unwrap_or((part, ""))).collect();
    let get = |name: &str| parts.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    match kind {
        Kind::Qemu => {
            let short = parts.iter().find(|(n, _)| {
                !matches!(
                    *n,
                    "model"
                        | "macaddr"
                        | "bridge"
                        | "firewall"
                        | "link_down"
                        | "mtu"
                        | "queues"
                        | "rate"
                        | "tag"
                        | "trunks"
                )
            });
            let model = get("model").or(short.map(|(n, _)| *n)).unwrap_or("virtio");
            let given = get("macaddr").or(short.map(|(_, v)| *v)).filter(|m| !m.is_empty());
            let mut all = vec![format!("{model}={}", given.unwrap_or(mac))];
            let mut rest: Vec<String> = parts
                .iter()
                .filter(|(n, _)| !matches!(*n, "model" | "macaddr") && Some(*n) != short.map(|(s, _)| *s))
                .map(|(n, v)| format!("{n}={v}"))
                .collect();
            rest.sort();
            all.extend(rest);
            all.join(",")
        }
        Kind::Lxc => {
            let mut rest: Vec<String> =
                parts.iter().filter(|(n, _)| *n != "name").map(|(n, v)| format!("{n}={v}")).collect();
            if get("hwaddr").is_none() {
                rest.push(format!("hwaddr={mac}"));
            }
            if get("type").is_none() {
                rest.push("type=veth".to_owned());
            }
            rest.sort();
            format!("name={},{}", get("name").unwrap_or("eth0"), rest.join(","))
        }
    }
}

/// The bridges and VLAN tags a network device uses, as the ACL paths `SDN.Use` is needed on.
pub(crate) fn bridge_path(text: &str) -> Option<String> {
    let get = |name: &str| text.split(',').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
    let bridge = get("bridge")?;
    let tag = get("tag").map(|tag| format!("/{tag}")).unwrap_or_default();
    Some(format!("/sdn/zones/localnetwork/{bridge}{tag}"))
}

impl Guest {
    /// What a start does first.
    pub(in crate::world) fn apply_pending(&mut self) {
        for (key, value) in std::mem::take(&mut self.pending) {
            self.write(&key, value);
        }
    }

    /// Writes one value at once; a disk that is replaced or removed becomes unused.
    fn write(&mut self, key: &str, value: Option<Value>) {
        let volume = |value: &Value| -> Option<String> {
            let text = value.as_str()?;
            (!is_cdrom(text)).then(|| text.split(',').next().unwrap_or_default().to_owned())
        };
        if is_volume_key(self.kind, key) {
            let new = value.as_ref().and_then(volume);
            let old = self.config.get(key).and_then(volume);
            if let Some(new) = &new {
                forget_unused(&mut self.config, new);
            }
            if let Some(old) = old.filter(|old| old.contains(':') && Some(old) != new.as_ref()) {
                let bytes = self.text(key).map(size_of).unwrap_or_default();
                self.sizes.insert(old.clone(), bytes);
                self.config.insert(unused_key(&self.config), json!(old));
            }
        }
        match value {
            Some(value) => self.config.insert(key.to_owned(), value),
            None => self.config.remove(key),
        };
    }

    /// `GET …/config`: pending changes are shown as if they were made, unless `current` is asked
    /// for.
    pub fn shown_config(&self, current: bool) -> Value {
        let mut map: Map<String, Value> = self.config.clone().into_iter().collect();
        if !current {
            for (key, value) in &self.pending {
                match value {
                    Some(value) => map.insert(key.clone(), value.clone()),
                    None => map.remove(key),
                };
            }
        }
        if let Some(Value::String(text)) = map.get("description") {
            let text = description_out(self.kind, text);
            map.insert("description".to_owned(), json!(text));
        }
        if map.contains_key("cipassword") {
            map.insert("cipassword".to_owned(), json!("**********"));
        }
        map.insert("digest".to_owned(), json!(self.digest()));
        Value::Object(map)
    }

    /// `GET …/pending`.
    pub fn pending_list(&self) -> Value {
        let Value::Object(current) = self.shown_config(true) else {
            return json!([]);
        };
        let mut rows: Vec<Value> = current
            .iter()
            .map(|(key, value)| {
                let mut row = json!({"key": key, "value": value});
                match self.pending.get(key) {
                    Some(Some(value)) => row["pending"] = value.clone(),
                    Some(None) => row["delete"] = json!(1),
                    None => {}
                }
                row
            })
            .collect();
        let new = self.pending.iter().filter(|(key, _)| !self.config.contains_key(*key));
        rows.extend(new.map(|(key, value)| match value {
            Some(value) => json!({"key": key, "pending": value}),
            None => json!({"key": key, "delete": 1}),
        }));
        Value::Array(rows)
    }

    /// Takes pending changes back.
    pub fn revert(&mut self, key: &str) {
        self.pending.remove(key);
    }
}

impl World {
    /// Writes changes; `None` deletes the key. Orders for new disks are carried out. Options that a
    /// running guest cannot take become pending.
    pub(crate) fn change(
        &mut self,
        kind: Kind,
        vmid: u32,
        changes: &[(String, Option<Value>)],
    ) -> Result<(), String> {
        for (key, value) in changes {
            let value = match value {
                Some(Value::String(text)) if is_volume_key(kind, key) => {
                    Some(json!(self.make_drive(kind, vmid, key, text)?))
                }
                Some(Value::String(text)) if numbered(key, "net") => {
                    let mac = self.fresh_mac();
                    Some(json!(complete_net(kind, text, &mac)))
                }
                other => other.clone(),
            };
            let gone = value.is_none() && numbered(key, "unused");
            let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
            if guest.running.is_some() && !hotplugs(kind, key) {
                if guest.config.get(key) == value.as_ref() {
                    guest.pending.remove(key);
                } else {
                    guest.pending.insert(key.clone(), value);
                }
                continue;
            }
            let volume = guest.text(key).map(str::to_owned);
            guest.pending.remove(key);
            guest.write(key, value);
            if let Some(volume) = volume.filter(|_| gone) {
                let bytes = self.volume_size(&volume);
                self.free(&volume, bytes);
            }
        }
        Ok(())
    }

    /// The property string of a drive; a volume is made when it is an order for one.
    fn make_drive(&mut self, kind: Kind, vmid: u32, key: &str, text: &str) -> Result<String, String> {
        if is_cdrom(text) || !text.contains(':') {
            return Ok(text.to_owned());
        }
        if let Some(disk) = parse_new_disk(key, text) {
            let (volume, _) = self.allocate(&disk.storage, kind, vmid, disk.bytes, disk.format.as_deref())?;
            return Ok(drive_text(&volume, &disk.rest, disk.bytes));
        }
        // A volume that exists keeps its size, which the caller may have left out.
        let volume = text.split(',').next().unwrap_or_default();
        let bytes = self.volume_size(volume);
        let bytes = if size_of(text) > 0 { size_of(text) } else { bytes };
        if bytes == 0 {
            return Ok(text.to_owned());
        }
        Ok(drive_text(volume, &rest_of(text), bytes))
    }

    /// How large a guest's volume is; 0 when nothing tells it.
    pub(crate) fn volume_size(&self, volume: &str) -> u64 {
        let told = |g: &Guest| {
            let texts = g.config.values().filter_map(Value::as_str);
            let here = texts.filter(|t| t.split(',').next() == Some(volume)).map(size_of).max();
            here.filter(|n| *n > 0).or_else(|| g.sizes.get(volume).copied())
        };
        let stocked = || self.stock.volumes.get(volume).map(|v| v.size);
        self.guests.values().find_map(told).or_else(stocked).unwrap_or_default()
    }

    /// Detaches disks; with `force` their volumes go too.
    pub(crate) fn unlink(
        &mut self,
        kind: Kind,
        vmid: u32,
        keys: &[String],
        force: bool,
    ) -> Result<(), String> {
        for key in keys {
            let volume = {
                let guest = self.guest(kind, vmid).map_err(|r| r.text)?;
                guest.text(key).map(|t| t.split(',').next().unwrap_or_default().to_owned())
            };
            self.change(kind, vmid, &[(key.clone(), None)])?;
            if let Some(volume) = volume.filter(|_| force && !numbered(key, "unused")) {
                let guest = self.guest_mut(kind, vmid).map_err(|r| r.text)?;
                forget_unused(&mut guest.config, &volume);
                let bytes = self.volume_size(&volume);
                self.free(&volume, bytes);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_guest_takes_some_changes_at_once_and_others_later() {
        let mut w = World::demo();
        let digest = w.guests[&100].digest();
        let set = |key: &str, value: Value| (key.to_owned(), Some(value));
        w.change(Kind::Qemu, 100, &[set("cores", json!(4)), set("tags", json!("a"))]).unwrap();
        assert_eq!(w.guests[&100].config["cores"], 2);
        assert_eq!(w.guests[&100].config["tags"], "a");
        assert_ne!(w.guests[&100].digest(), digest);
        assert_eq!(w.guests[&100].shown_config(false)["cores"], 4);
        assert_eq!(w.guests[&100].shown_config(true)["cores"], 2);
        let list = w.guests[&100].pending_list();
        let row = list.as_array().unwrap().iter().find(|r| r["key"] == "cores").unwrap();
        assert_eq!(*row, json!({"key": "cores", "value": 2, "pending": 4}));
        w.change(Kind::Qemu, 100, &[set("cores", json!(2))]).unwrap();
        assert!(w.guests[&100].pending.is_empty(), "what is the case already is not pending");
        w.change(Kind::Qemu, 100, &[("agent".to_owned(), None), set("cores", json!(8))]).unwrap();
        let list = w.guests[&100].pending_list().to_string();
        assert!(!list.contains("agent"), "{list}");
        let guest = w.guests.get_mut(&100).unwrap();
        guest.halt();
        guest.launch(crate::world::Running { pid: 1, since: 0 });
        assert_eq!(guest.config["cores"], 8);
        assert!(guest.pending.is_empty());
    }

    #[test]
    fn disks_become_unused_and_come_back() {
        let mut w = World::demo();
        let set = |key: &str, value: &str| (key.to_owned(), Some(json!(value)));
        w.change(Kind::Qemu, 101, &[set("scsi1", "local-lvm:8,iothread=1")]).unwrap();
        assert_eq!(w.guests[&101].config["scsi1"], "local-lvm:vm-101-disk-1,iothread=1,size=8G");
        w.change(Kind::Qemu, 101, &[("scsi1".to_owned(), None)]).unwrap();
        assert_eq!(w.guests[&101].config["unused0"], "local-lvm:vm-101-disk-1");
        w.change(Kind::Qemu, 101, &[set("scsi2", "local-lvm:vm-101-disk-1")]).unwrap();
        assert_eq!(w.guests[&101].config.get("unused0"), None);
        assert_eq!(w.guests[&101].config["scsi2"], "local-lvm:vm-101-disk-1,size=8G");
        w.unlink(Kind::Qemu, 101, &["scsi2".to_owned()], true).unwrap();
        assert_eq!(w.guests[&101].config.get("unused0"), None);
        assert!(w.change(Kind::Qemu, 101, &[set("scsi3", "nosuch:8")]).is_err());
    }

    #[test]
    fn devices_get_an_address() {
        let mac = "BC:24:11:00:00:01";
        assert_eq!(
            complete_net(Kind::Qemu, "virtio,firewall=1,bridge=b", mac),
            format!("virtio={mac},bridge=b,firewall=1")
        );
        assert_eq!(complete_net(Kind::Qemu, "model=e1000,macaddr=AA", mac), "e1000=AA");
        assert_eq!(
            complete_net(Kind::Lxc, "name=eth0,ip=dhcp,bridge=b", mac),
            format!("name=eth0,bridge=b,hwaddr={mac},ip=dhcp,type=veth")
        );
        assert_eq!(
            bridge_path("virtio,bridge=vmbr0,tag=5").as_deref(),
            Some("/sdn/zones/localnetwork/vmbr0/5")
        );
        assert_eq!(bridge_path("virtio"), None);
    }
}
