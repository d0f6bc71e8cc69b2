//! Disks, pools and devices of the node. Only `lvmthin` is seen on real nodes in the recordings'
//! neighbourhood; the others have the fields of the published schema.

use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Refusal, Storage};

/// One physical disk.
struct Disk {
    dev: &'static str,
    kind: &'static str,
    model: &'static str,
    serial: &'static str,
    size: u64,
    used: &'static str,
    wearout: Option<u32>,
    rpm: i64,
    health: &'static str,
}

/// A boot disk, two disks of a mirrored pool, and one nobody uses.
const DISKS: [Disk; 4] = [
    Disk {
        dev: "/dev/nvme0n1",
        kind: "nvme",
        model: "Simulated NVMe 512",
        serial: "SIM-NVME-0001",
        size: 512_110_190_592,
        used: "BIOS boot",
        wearout: Some(97),
        rpm: 0,
        health: "PASSED",
    },
    Disk {
        dev: "/dev/sda",
        kind: "hdd",
        model: "Simulated_HDD_2T",
        serial: "SIM-HDD-0001",
        size: 2_000_398_934_016,
        used: "ZFS",
        wearout: None,
        rpm: 7_200,
        health: "PASSED",
    },
    Disk {
        dev: "/dev/sdb",
        kind: "hdd",
        model: "Simulated_HDD_2T",
        serial: "SIM-HDD-0002",
        size: 2_000_398_934_016,
        used: "ZFS",
        wearout: None,
        rpm: 7_200,
        health: "PASSED",
    },
    Disk {
        dev: "/dev/sdc",
        kind: "ssd",
        model: "Simulated_SSD_1T",
        serial: "SIM-SSD-0001",
        size: 1_000_204_886_016,
        used: "",
        wearout: Some(100),
        rpm: 0,
        health: "PASSED",
    },
];

/// What everything here but the list takes.
fn audit(call: &Call<'_>, node: &str, fields: &[Field]) -> Result<(), Refusal> {
    call.require("/", &["Sys.Audit"])?;
    resolve(call, node)?;
    call.params.check(fields)
}

pub(crate) fn index(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[NODE])?;
    let names = ["directory", "initgpt", "list", "lvm", "lvmthin", "smart", "wipedisk", "zfs"];
    let rows: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn list(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    if !call.may("/", &["Sys.Audit"]) {
        call.require(&format!("/nodes/{node}"), &["Sys.Audit"])?;
    }
    resolve(call, node)?;
    call.params.check(&[
        NODE,
        Field("include-partitions", Ty::Bool, true),
        Field("skipsmart", Ty::Bool, true),
        Field("type", Ty::Enum(&["unused", "journal_disks"]), true),
    ])?;
    let smart = !call.params.flag("skipsmart");
    let unused = call.params.get("type").is_some();
    let rows: Vec<Value> = DISKS
        .iter()
        .filter(|d| !unused || d.used.is_empty())
        .map(|d| {
            let mut row = json!({
                "devpath": d.dev, "by_id_link": format!("/dev/disk/by-id/{}", d.serial), "gpt": 1,
                "model": d.model, "serial": d.serial, "vendor": "unknown", "wwn": "unknown",
                "size": d.size, "type": d.kind, "rpm": d.rpm, "osdid": -1, "osdid-list": null,
                "mounted": 0, "health": "UNKNOWN", "wearout": "N/A",
            });
            if !d.used.is_empty() {
                row["used"] = json!(d.used);
            }
            if smart {
                row["health"] = json!(d.health);
                // A number where the disk knows it, text where it does not.
                row["wearout"] = d.wearout.map_or(json!("N/A"), Value::from);
            }
            row
        })
        .collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn smart(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    audit(call, node, &[NODE, Field("disk", Ty::Any, false), Field("healthonly", Ty::Bool, true)])?;
    let dev = call.params.get("disk").unwrap_or_default();
    let plain = dev
        .strip_prefix("/dev/")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/'));
    if !plain {
        return Err(Refusal::parameter("disk", "value does not match the regex pattern"));
    }
    let disk = DISKS.iter().find(|d| d.dev == dev);
    let disk = disk.ok_or_else(|| Refusal::internal(format!("not a valid disk: '{dev}'")))?;
    if call.params.flag("healthonly") {
        return Ok(json!({"health": disk.health}).into());
    }
    if disk.kind == "nvme" {
        let text = "\nSMART/Health Information (NVMe Log 0x02)\nCritical Warning: 0x00\n\
                    Temperature: 41 Celsius\nAvailable Spare: 100%\nPercentage Used: 3%\n\
                    Power On Hours: 8,766\nMedia and Data Integrity Errors: 0\n";
        return Ok(
            json!({"health": disk.health, "type": "text", "text": text, "wearout": disk.wearout}).into()
        );
    }
    let attribute = |id: u32, name: &str, value: u32, worst: u32, threshold: u32, raw: &str| {
        // Everything here is text, and the id is padded.
        json!({
            "id": format!("{id:3}"), "name": name, "value": value.to_string(), "worst": worst.to_string(),
            "threshold": threshold.to_string(), "raw": raw, "normalized": f64::from(value),
            "flags": "-O--CK", "fail": "-",
        })
    };
    let mut found = json!({
        "health": disk.health, "type": "ata",
        "attributes": [
            attribute(5, "Reallocated_Sector_Ct", 100, 100, 10, "0"),
            attribute(9, "Power_On_Hours", 91, 91, 0, "8766"),
            attribute(194, "Temperature_Celsius", 64, 52, 0, "36 (Min/Max 20/48)"),
            attribute(197, "Current_Pending_Sector", 100, 100, 0, "0"),
        ],
    });
    if let Some(wearout) = disk.wearout {
        found["wearout"] = json!(wearout);
    }
    Ok(found.into())
}

/// The ZFS pools behind the storages, each once.
fn pools<'a>(call: &'a Call<'_>) -> Vec<(&'a str, &'a Storage)> {
    let mut found: Vec<(&str, &Storage)> = Vec::new();
    for (id, storage) in call.world.storages.iter().filter(|(_, s)| s.plugin == "zfspool") {
        let pool = storage.option("pool").unwrap_or(id).split('/').next().unwrap_or_default();
        if storage.active && !found.iter().any(|(name, _)| *name == pool) {
            found.push((pool, storage));
        }
    }
    found
}

/// The state of a pool; tests set it as the option `health` of its storage.
fn health(storage: &Storage) -> &str {
    storage.option("health").unwrap_or("ONLINE")
}

pub(crate) fn zfs(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    audit(call, node, &[NODE])?;
    let rows: Vec<Value> = pools(call)
        .into_iter()
        .map(|(name, s)| {
            json!({
                "name": name, "size": s.total, "alloc": s.used, "free": s.total.saturating_sub(s.used),
                "frag": 7, "dedup": 1, "health": health(s),
            })
        })
        .collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn zpool(call: &mut Call<'_>, node: &str, name: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("name", name)?;
    audit(call, node, &[NODE, Field("name", Ty::Any, false)])?;
    let pool = pools(call).into_iter().find(|(pool, _)| *pool == name);
    let Some((_, storage)) = pool else {
        let text = format!("command '/sbin/zpool status -P {name}' failed: exit code 1");
        return Err(Refusal::internal(text));
    };
    let state = health(storage);
    let vdev = |name: &str, state: &str| json!({"name": name, "state": state, "read": 0, "write": 0, "cksum": 0, "msg": "", "leaf": 1});
    let second = if state == "ONLINE" { "ONLINE" } else { "FAULTED" };
    let disks = [vdev("/dev/sda1", "ONLINE"), vdev("/dev/sdb1", second)];
    let group = |name: &str, children: Value| {
        json!({
            "name": name, "state": state, "read": 0, "write": 0, "cksum": 0, "msg": "", "leaf": 0,
            "children": children,
        })
    };
    let mirror = group("mirror-0", Value::from(disks.to_vec()));
    let mut found = json!({
        "name": name, "state": state, "errors": "No known data errors", "leaf": 0,
        "scan": "scrub repaired 0B in 02:11:53 with 0 errors on Sun Sep 14 02:35:54 2025",
        "children": [group(name, json!([mirror]))],
    });
    if state != "ONLINE" {
        found["status"] = json!("One or more devices are faulted in response to persistent errors.");
        found["action"] =
            json!("Replace the faulted device, or use 'zpool clear' to mark the device repaired.");
    }
    Ok(found.into())
}

/// Volume groups as a tree. The pool's group is a little larger than the pool.
pub(crate) fn lvm(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    audit(call, node, &[NODE])?;
    let groups: Vec<Value> = call
        .world
        .storages
        .iter()
        .filter(|(_, s)| s.active)
        .filter_map(|(_, s)| {
            let name = s.thin.as_ref().map(|t| t.vg.as_str()).or(s.option("vgname"))?;
            let size = s.total + (16 << 30);
            Some(json!({
                "name": name, "size": size, "free": 16_u64 << 30, "leaf": 0, "lvcount": 3,
                "children": [{"name": "/dev/nvme0n1p3", "size": size, "free": 16_u64 << 30, "leaf": 1}],
            }))
        })
        .collect();
    Ok(json!({"leaf": 0, "children": groups}).into())
}

pub(crate) fn lvmthin(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    audit(call, node, &[NODE])?;
    let rows: Vec<Value> = call.world.storages.values().filter_map(Storage::lvmthin).collect();
    Ok(Value::from(rows).into())
}

/// Disks mounted by the node's own units: the storages below `/mnt/pve` that are plain directories.
pub(crate) fn directory(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    audit(call, node, &[NODE])?;
    let rows: Vec<Value> = call
        .world
        .storages
        .iter()
        .filter(|(id, s)| s.plugin == "dir" && s.path(id).starts_with("/mnt/pve/"))
        .map(|(id, s)| {
            let path = s.path(id);
            json!({
                "path": path, "device": format!("/dev/disk/by-uuid/{id}"), "type": "ext4",
                "options": "defaults",
                "unitfile": format!("/etc/systemd/system/mnt-pve-{id}.mount"),
            })
        })
        .collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn usb(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Modify"])?;
    resolve(call, node)?;
    call.params.check(&[NODE])?;
    Ok(json!([
        {
            "busnum": 1, "devnum": 1, "class": 9, "level": 0, "port": 0, "speed": "480",
            "vendid": "1d6b", "prodid": "0002", "manufacturer": "Linux", "product": "xHCI Host Controller",
        },
        {
            "busnum": 1, "devnum": 2, "class": 0, "level": 1, "port": 1, "speed": "480", "usbpath": "1",
            "vendid": "0781", "prodid": "5581", "manufacturer": "Simulated", "product": "Stick",
            "serial": "SIM-USB-0001",
        },
    ])
    .into())
}

pub(crate) fn pci(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit", "Sys.Modify"])?;
    resolve(call, node)?;
    call.params.check(&[
        NODE,
        Field("pci-class-blacklist", Ty::Any, true),
        Field("verbose", Ty::Bool, true),
    ])?;
    Ok(json!([{
        "id": "0000:00:1f.6", "class": "0x020000", "vendor": "0x8086", "device": "0x15fb",
        "iommugroup": 7, "vendor_name": "Intel Corporation", "device_name": "Ethernet Connection",
    }])
    .into())
}
