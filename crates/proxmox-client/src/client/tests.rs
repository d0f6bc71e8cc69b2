//! Recorded bodies, decoded the way the client does.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cluster::*;
use crate::guest::config::GuestConfig;
use crate::guest::snapshot::SnapshotList;
use crate::guest::status::*;
use crate::node::disk::ThinPool;
use crate::node::*;
use crate::task::TaskEntry;
use crate::value::ids::GuestKind;

fn data(body: &str) -> Value {
    let mut envelope: Map<String, Value> = serde_json::from_str(body).unwrap();
    envelope.remove("data").unwrap()
}

fn decode<T: DeserializeOwned>(body: &str) -> T {
    serde_json::from_value(data(body)).unwrap()
}

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../tests/fixtures/", $name, ".json"))
    };
}

fn config(kind: GuestKind, body: &str) -> GuestConfig {
    let Value::Object(fields) = data(body) else { panic!("an object") };
    GuestConfig::from_fields(kind, fields).unwrap()
}

fn snapshots(body: &str) -> SnapshotList {
    SnapshotList::from_entries(decode(body)).unwrap()
}

#[test]
fn version_and_nodes() {
    let version: Version = decode(recorded!("version-9"));
    assert_eq!(
        (version.version.as_str(), version.release.as_str(), version.major()),
        ("9.1.8", "9.1", Some(9))
    );
    let nodes: Vec<NodeEntry> = decode(recorded!("nodes-9"));
    assert_eq!(nodes[0].node, "pve1");
    assert_eq!(nodes[0].maxmem, Some(25_276_063_744));
    // Without Sys.Audit the numbers are missing, not zero.
    let hidden: Vec<NodeEntry> =
        serde_json::from_value(json!([{"node": "pve1", "status": "online", "type": "node"}])).unwrap();
    assert_eq!((hidden[0].cpu, hidden[0].mem), (None, None));
}

#[test]
fn node_status_of_both_versions() {
    for (body, version) in [(recorded!("node-status-9"), "9.1.8"), (recorded!("node-status-8"), "8.4")] {
        let status: NodeStatus = decode(body);
        assert_eq!(status.loadavg.len(), 3);
        assert!(status.loadavg[0] > 0.0);
        assert_eq!(status.memory.total, Some(25_276_063_744));
        assert_eq!(status.cpuinfo.cpus, Some(2));
        assert!(status.pveversion.unwrap().contains(version));
        assert_eq!(status.current_kernel.release.as_deref(), Some("6.17.2-1-pve"));
    }
    let status: NodeStatus = decode(recorded!("node-status-9"));
    assert_eq!((status.memory.avail, status.rootfs.avail), (Some(23_120_240_640), Some(72_824_041_472)));
}

#[test]
fn cluster_resources_of_every_kind() {
    let resources: Vec<Resource> = decode(recorded!("cluster-resources-9"));
    let vm = resources.iter().find(|r| r.id == "qemu/100").unwrap();
    assert_eq!(
        (&vm.kind, vm.vmid.unwrap().get(), vm.tags.as_slice()),
        (&ResourceKind::Qemu, 100, &["prod".to_owned(), "web".to_owned()][..])
    );
    assert_eq!(vm.template, Some(false));
    let offline = resources.iter().find(|r| r.storage.as_deref() == Some("offl")).unwrap();
    assert_eq!((offline.status.as_deref(), offline.maxdisk), (Some("unknown"), None));
    assert!(resources.iter().any(|r| r.kind == ResourceKind::Other("network".to_owned())));
    assert!(resources.iter().any(|r| r.kind == ResourceKind::Pool));
}

#[test]
fn storages_say_when_they_are_inactive() {
    let storages: Vec<crate::StorageStatus> = decode(recorded!("storage-list-9"));
    let offline = storages.iter().find(|s| s.storage == "offl").unwrap();
    assert_eq!((offline.active, offline.enabled), (Some(false), Some(true)));
    let local = storages.iter().find(|s| s.storage == "local").unwrap();
    assert_eq!(
        (local.active, local.plugin.as_deref(), local.total),
        (Some(true), Some("dir"), Some(270_553_174_016))
    );
}

#[test]
fn guest_lists_and_status_of_both_kinds() {
    let vms: Vec<GuestStatus> = decode(recorded!("qemu-list-9"));
    let running = vms.iter().find(|g| g.vmid.get() == 100).unwrap();
    assert_eq!((&running.status, running.pid), (&RunState::Running, Some(963)));
    let containers: Vec<GuestStatus> = decode(recorded!("lxc-list-9"));
    assert!(containers.iter().all(|g| g.status == RunState::Stopped && g.pid.is_none()));

    let vm: GuestStatus = decode(recorded!("qemu-status-9"));
    assert_eq!((vm.qmpstatus.as_deref(), vm.pressurecpusome), (Some("running"), Some(0.0)));
    let vm8: GuestStatus = decode(recorded!("qemu-status-8"));
    assert_eq!((vm8.status, vm8.pressurecpusome), (RunState::Running, None));
    // The container's pressure comes as the string "0.00".
    let container: GuestStatus = decode(recorded!("lxc-status-9"));
    assert_eq!((container.pressurecpusome, container.ha.unwrap().managed), (Some(0.0), Some(false)));
    let stopped: GuestStatus = decode(recorded!("lxc-status-8"));
    assert_eq!(stopped.status, RunState::Stopped);
}

#[test]
fn guest_configs() {
    let vm = config(GuestKind::Qemu, recorded!("qemu-config-9"));
    assert_eq!(vm.digest, "c0859ab5fe47ced18c25b82e06c7bf5cfb3bb1bd");
    assert_eq!((vm.name(), vm.parent(), vm.lock()), (Some("vm100"), Some("live1"), None));
    assert_eq!(vm.smbios_uuid(), Some("1575a37c-cbc2-44a6-8cba-f4e510bb5d49"));
    assert_eq!(vm.vmgenid(), Some("939c158f-07fc-404a-a43b-9852fa42d49a"));
    assert_eq!(vm.meta_ctime(), Some(1_795_317_658));
    assert_eq!(vm.volids()["scsi0"], "local:100/vm-100-disk-0.qcow2");
    assert!(!vm.protection());
    assert_eq!(config(GuestKind::Qemu, recorded!("qemu-config-8")).tags(), ["prod", "web"]);

    let locked = config(GuestKind::Lxc, recorded!("lxc-config-9"));
    assert_eq!(
        (locked.name(), locked.lock(), locked.parent()),
        (Some("ct200"), Some("backup"), Some("before"))
    );
    assert_eq!(
        locked.volids(),
        BTreeMap::from([("rootfs".to_owned(), "btr:200/vm-200-disk-0.raw".to_owned())])
    );
    assert_eq!(config(GuestKind::Lxc, recorded!("lxc-config-8")).get("unprivileged"), Some("1"));
}

#[test]
fn snapshot_lists_without_the_pseudo_entry() {
    let list = snapshots(recorded!("qemu-snapshots-9"));
    assert_eq!(list.snapshots.len(), 2);
    let (first, live) = (list.get("pre_update").unwrap(), list.get("live1").unwrap());
    assert_eq!((first.parent.as_deref(), first.vmstate, first.snaptime), (None, false, Some(1_795_317_683)));
    assert_eq!((live.parent.as_deref(), live.vmstate), (Some("pre_update"), true));
    assert_eq!((list.current.parent.as_deref(), list.current.running), (Some("live1"), Some(true)));
    assert!(list.get("current").is_none());

    let preparing = snapshots(recorded!("qemu-snapshots-preparing-9"));
    assert_eq!(preparing.get("con1").unwrap().snapstate.as_deref(), Some("prepare"));

    // Containers add a newline to the description and have no vmstate.
    let container = snapshots(recorded!("lxc-snapshots-9"));
    assert_eq!(container.get("before").unwrap().description, "vor dem Update");
    assert!(!container.get("before").unwrap().vmstate);
    assert!(snapshots(recorded!("lxc-snapshots-empty-9")).snapshots.is_empty());
    assert_eq!(snapshots(recorded!("qemu-snapshots-8")).snapshots.len(), 1);
}

#[test]
fn task_lists() {
    let entries: Vec<Value> = decode(recorded!("tasks-all-9"));
    let tasks: Vec<TaskEntry> = entries.iter().filter_map(TaskEntry::from_value).collect();
    assert_eq!(tasks.len(), entries.len());
    assert!(tasks[0].is_running());
    assert_eq!((tasks[1].is_running(), tasks[1].status.as_deref()), (false, Some("OK")));
    assert!(tasks.iter().all(|task| task.upid.user() == "tester@pve!full"));
    let old: Vec<Value> = decode(recorded!("tasks-8"));
    assert!(old.iter().filter_map(TaskEntry::from_value).any(|t| t.status.as_deref() == Some("job errors")));
}

#[test]
fn what_is_not_recorded_follows_the_schema() {
    let pools: Vec<ThinPool> = serde_json::from_value(json!([
        {"lv": "data", "vg": "pve", "lv_size": "1000", "used": 5.0e2, "metadata_size": 100, "metadata_used": 7, "new": []}
    ]))
    .unwrap();
    assert_eq!((pools[0].lv_size, pools[0].used, pools[0].metadata_used), (Some(1000), Some(500), Some(7)));
    let certs: Vec<CertificateInfo> = serde_json::from_value(json!([
        {"filename": "pve-ssl.pem", "fingerprint": "AB:CD", "notafter": 1_800_000_000, "san": ["pve1", "127.0.0.1"]},
        {}
    ]))
    .unwrap();
    assert_eq!((certs[0].notafter, certs[0].san.len(), certs[1].notafter), (Some(1_800_000_000), 2, None));
    let time: NodeTime = serde_json::from_value(
        json!({"time": 1_795_317_658, "localtime": 1_795_321_258, "timezone": "Europe/Berlin"}),
    )
    .unwrap();
    assert_eq!(time.time, 1_795_317_658);
}

#[test]
fn permissions_decode() {
    let raw: BTreeMap<String, BTreeMap<String, Value>> = decode(recorded!("permissions-9"));
    assert!(raw["/vms/100"].contains_key("VM.Snapshot"));
}
