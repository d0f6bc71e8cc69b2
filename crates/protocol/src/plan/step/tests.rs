use serde_json::{Value, json};

use super::*;

const DIGEST: &str = "0123456789abcdef0123456789abcdef01234567";

fn guest() -> Value {
    json!({"vmid": 101, "type": "qemu", "name": "db", "identity": {
        "smbios_uuid": "u", "vmgenid": null, "meta_ctime": 5, "macs": [], "volids": [], "giid": null
    }})
}

fn on_guest(what: &str, more: Value) -> Value {
    let mut step = json!({"do": what, "guest": guest()});
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

fn new_guest() -> Value {
    json!({
        "do": "create_from_template", "vmid": 150, "type": "lxc", "name": "app",
        "template": {"from": "archive", "volume": "local:vztmpl/debian.tar.zst", "sha256": "ab".repeat(32)},
        "storage": "local-lvm", "disk": 8_589_934_592_u64, "cores": 2, "memory_mib": 512,
        "bridge": "vmbr0", "start": true, "tags": ["prod"]
    })
}

/// One of each, with the sentence that people read.
fn table() -> Vec<(Value, Field, &'static str)> {
    let volume = "local-lvm:vm-101-disk-0";
    vec![
        (on_guest("start", json!({})), Field::Power, "guest.start qemu 101 (db)"),
        (
            on_guest("set_tags", json!({"digest": DIGEST, "tags": ["a", "b"]})),
            Field::Tags,
            "guest.tag qemu 101 (db) to a, b",
        ),
        (
            on_guest("snapshot_create", json!({"snapshot": "s1"})),
            Field::Snapshots,
            "snapshot.create qemu 101 (db) as s1",
        ),
        (
            on_guest("grow", json!({"digest": DIGEST, "disk": "scsi0", "volume": volume, "size": 2048})),
            Field::Disk,
            "guest.grow qemu 101 (db): scsi0 (local-lvm:vm-101-disk-0) to 2048 bytes",
        ),
        (
            on_guest("set_cores", json!({"digest": DIGEST, "cores": 4})),
            Field::Cores,
            "guest.resize qemu 101 (db) to 4 cores",
        ),
        (
            on_guest("set_memory", json!({"digest": DIGEST, "memory_mib": 2048})),
            Field::Memory,
            "guest.resize qemu 101 (db) to 2048 MiB of memory",
        ),
        (
            on_guest("set_onboot", json!({"digest": DIGEST, "onboot": false})),
            Field::Onboot,
            "guest.config qemu 101 (db): do not start it with the host",
        ),
        (
            on_guest("set_description", json!({"digest": DIGEST, "description": "the database"})),
            Field::Description,
            "guest.config qemu 101 (db): description \"the database\"",
        ),
        (
            on_guest("backup", json!({"storage": "pbs1"})),
            Field::Backups,
            "backup.create qemu 101 (db) to storage pbs1, deleting nothing",
        ),
        (
            json!({"do": "template_download", "storage": "local", "template": "debian.tar.zst",
                "sha256": "ab".repeat(32)}),
            Field::Templates,
            "template.download debian.tar.zst to storage local (SHA-256 abab",
        ),
        (
            new_guest(),
            Field::Guests,
            "guest.create lxc 150 (app) from local:vztmpl/debian.tar.zst (SHA-256 abab",
        ),
    ]
}

fn parse(value: &Value) -> Result<Step, serde_json::Error> {
    serde_json::from_slice(&serde_json::to_vec(value).unwrap())
}

#[test]
fn every_step_reads_back_and_says_what_it_does() {
    let mut fields = Vec::new();
    for (value, field, sentence) in table() {
        let step = parse(&value).unwrap_or_else(|error| panic!("{value}: {error}"));
        assert_eq!(serde_json::to_value(&step).unwrap(), value);
        assert_eq!(step.field(), field);
        assert!(step.to_string().starts_with(sentence), "{step}");
        assert_eq!(step.vmid().is_none(), field == Field::Templates, "{step}");
        fields.push(field);
    }
    assert_eq!(fields, Field::ALL, "each field has a step and each step a field");
    for field in Field::ALL {
        assert_eq!(serde_json::to_value(field).unwrap(), field.as_str());
    }
    let text = parse(&new_guest()).unwrap().to_string();
    assert!(
        text.ends_with("8589934592 bytes, 2 cores, 512 MiB, network on vmbr0, tags prod, started"),
        "{text}"
    );
}

/// What 2.13 denies has no step to be asked for with: neither a step of its own nor a field of another.
#[test]
fn what_is_denied_has_no_step() {
    let denied = [
        "stop",
        "shutdown",
        "reboot",
        "reset",
        "suspend",
        "resume",
        "destroy",
        "delete",
        "delete_snapshot",
        "snapshot_delete",
        "snapshot_rollback",
        "rollback",
        "delete_backup",
        "backup_delete",
        "prune",
        "restore",
        "detach",
        "shrink",
        "resize",
        "move_disk",
        "set_config",
        "config",
        "set_protection",
        "unprotect",
        "set_net",
        "set_firewall",
        "set_boot",
        "set_args",
        "set_hookscript",
        "set_cloudinit",
        "attach_iso",
        "set_cdrom",
        "set_features",
        "set_hostpci",
        "set_usb",
        "set_cpu",
        "set_machine",
        "set_bios",
        "set_mp",
        "job_remove",
        "run",
        "exec",
        "migrate",
        "",
        "Start",
        "START",
        "start ",
    ];
    for name in denied {
        let more = json!({"digest": DIGEST, "timeout_s": 1, "snapshot": "s1", "value": "1"});
        assert!(parse(&on_guest(name, more)).is_err(), "{name}");
        let error = parse(&json!({"do": name})).unwrap_err().to_string();
        assert!(error.contains("unknown variant"), "{name}: {error}");
    }
    // The options themselves, slipped into each step that there is.
    let options = [
        "ciuser",
        "cipassword",
        "sshkeys",
        "cicustom",
        "ipconfig0",
        "nameserver",
        "searchdomain",
        "args",
        "hookscript",
        "boot",
        "bootdisk",
        "cdrom",
        "ide2",
        "net0",
        "firewall",
        "vlan",
        "hostpci0",
        "usb0",
        "bios",
        "machine",
        "cpu",
        "unprivileged",
        "features",
        "mp0",
        "dev0",
        "protection",
        "delete",
        "revert",
        "force",
        "skiplock",
        "remove",
        "prune-backups",
        "script",
        "mode",
        "sockets",
        "vcpus",
        "swap",
        "pool",
        "url",
    ];
    for (value, ..) in table() {
        for option in options {
            let mut with = value.clone();
            with.as_object_mut().unwrap().insert(option.to_owned(), json!("0"));
            assert!(parse(&with).is_err(), "{option} in {value}");
        }
    }
}

#[test]
fn hostile_values_are_refused() {
    let step = |what, more| parse(&on_guest(what, more));
    let cases: Vec<(&str, Value)> = vec![
        ("set_cores", json!({"digest": DIGEST, "cores": 0})),
        ("set_cores", json!({"digest": DIGEST, "cores": 8193})),
        ("set_cores", json!({"digest": DIGEST, "cores": -1})),
        ("set_cores", json!({"digest": DIGEST, "cores": 2.5})),
        ("set_cores", json!({"digest": DIGEST, "cores": "2"})),
        ("set_cores", json!({"digest": DIGEST, "cores": 4_294_967_297_u64})),
        ("set_cores", json!({"digest": "", "cores": 2})),
        ("set_cores", json!({"cores": 2})),
        ("set_memory", json!({"digest": DIGEST, "memory_mib": 15})),
        ("set_memory", json!({"digest": DIGEST, "memory_mib": u64::MAX})),
        ("set_onboot", json!({"digest": DIGEST, "onboot": 1})),
        ("set_onboot", json!({"digest": DIGEST, "onboot": null})),
        ("set_description", json!({"digest": DIGEST, "description": "a\nhookscript: x"})),
        ("set_description", json!({"digest": DIGEST, "description": "a\u{202e}b"})),
        ("set_description", json!({"digest": DIGEST, "description": "x".repeat(513)})),
        ("grow", json!({"digest": DIGEST, "disk": "scsi0", "volume": "l:x", "size": 0})),
        ("grow", json!({"digest": DIGEST, "disk": "scsi0", "volume": "ll:x", "size": 1025})),
        ("grow", json!({"digest": DIGEST, "disk": "scsi0", "volume": "ll:x", "size": (1_u64 << 47) + 1024})),
        ("grow", json!({"digest": DIGEST, "disk": "net0", "volume": "ll:x", "size": 2048})),
        ("grow", json!({"digest": DIGEST, "disk": "scsi0", "volume": "ll:../x", "size": 2048})),
        ("grow", json!({"digest": DIGEST, "disk": "scsi0", "volume": "ll:x", "size": "+8G"})),
        ("backup", json!({"storage": "a b"})),
        ("backup", json!({})),
        ("start", json!({"guest2": 1})),
    ];
    for (what, more) in cases {
        assert!(step(what, more.clone()).is_err(), "{what} {more}");
    }
    type Spoil = fn(&mut Value);
    let spoiled: [(&str, Spoil); 9] = [
        ("vmid", |v| v["vmid"] = json!(99)),
        ("name", |v| v["name"] = json!("a,net0=x")),
        ("storage", |v| v["storage"] = json!("local:x")),
        ("bridge", |v| v["bridge"] = json!("vmbr0,tag=1")),
        ("unpinned", |v| v["template"] = json!({"from": "archive", "volume": "local:vztmpl/x.tar"})),
        ("null pin", |v| v["template"]["sha256"] = Value::Null),
        ("other source", |v| v["template"] = json!({"from": "url", "url": "http://x"})),
        ("memory", |v| v["memory_mib"] = json!(0)),
        ("tags", |v| v["tags"] = json!(["a;b"])),
    ];
    for (what, spoil) in spoiled {
        let mut value = new_guest();
        spoil(&mut value);
        assert!(parse(&value).is_err(), "{what}");
    }
    // Twice the same key: which of them counts must not depend on the reader.
    let twice =
        serde_json::to_string(&table()[4].0).unwrap().replace("\"cores\":4", "\"cores\":4,\"cores\":8");
    assert!(serde_json::from_str::<Step>(&twice).is_err());
    // Every cut and every changed byte of a step: an error or another valid step, never a panic.
    for (value, ..) in table() {
        let bytes = serde_json::to_vec(&value).unwrap();
        for at in 0..bytes.len() {
            assert!(serde_json::from_slice::<Step>(&bytes[..at]).is_err());
            for byte in [0, b'"', b'0', b'}', 0xff] {
                let mut other = bytes.clone();
                other[at] = byte;
                if let Ok(step) = serde_json::from_slice::<Step>(&other) {
                    assert!(parse(&serde_json::to_value(&step).unwrap()).is_ok_and(|again| again == step));
                }
            }
        }
    }
}
