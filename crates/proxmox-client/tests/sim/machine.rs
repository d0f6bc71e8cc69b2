//! The life of a virtual machine: made, changed, grown, moved, snapshotted, copied, removed.

use std::collections::BTreeMap;

use proxmox_client::{
    ApiError, Client, CloneGuest, ConfigChange, CreateQemu, Destroy, DiskFormat, ErrorClass, Feature, GrowBy,
    MoveVolume, NewSnapshot, PropertyString, RunState, Started, classify_text,
};
use pve_sim::world::{Mishap, Release};

use crate::bench::{Bench, Notes, QEMU, snap, storage, vmid};

const NEW: u32 = 300;

fn plan() -> CreateQemu {
    let net = PropertyString::new().with_default("virtio").unwrap().with("bridge", "vmbr0").unwrap();
    CreateQemu::new(vmid(NEW))
        .name("writ-1")
        .memory(512)
        .cores(2)
        .option("scsi0", "local-lvm:4")
        .option("net0", net)
        .option("tags", "lab;web")
}

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::new(release).await;
    made(&b).await;
    changed(&b).await;
    pending(&b).await;
    volumes(&b).await;
    snapshots(&b).await;
    features(&b).await;
    copies(&b).await;
    removed(&b).await;
    b.into_notes()
}

async fn made(b: &Bench) {
    for bad in [
        plan().option("cpuunits", 0),
        plan().option("ostype", "bsd"),
        plan().option("protection", "yes"),
        plan().option("vmid", 301),
        plan().option("nosuch", 1),
        plan().option("args", "-s"),
        plan().option("hostpci0", "0000:01:00.0"),
        plan().option("scsi31", "local-lvm:1"),
        plan().pool("a b"),
        CreateQemu::new(vmid(NEW)).name("a_b"),
        CreateQemu::new(vmid(NEW)).option("description", "x".repeat(8193)),
    ] {
        b.unsent(async |c| c.create_qemu(&bad).await).await;
    }
    let free = b.ok("next vmid", async |c| c.next_vmid().await).await;
    assert_eq!(free, vmid(103));
    assert!(b.act.vmid_is_free(vmid(NEW)).await.unwrap());
    assert!(!b.act.vmid_is_free(vmid(100)).await.unwrap());

    b.run("qemu create", async |c| c.create_qemu(&plan()).await).await;
    assert_eq!((b.line(NEW, "name"), b.line(NEW, "memory")), ("writ-1".to_owned(), "512".to_owned()));
    assert_eq!((b.line(NEW, "onboot"), b.runs(NEW)), ("0".to_owned(), false));
    assert_eq!(b.line(NEW, "scsi0"), "local-lvm:vm-300-disk-0,size=4G");
    let error = b.no("qemu create", async |c| c.create_qemu(&plan()).await).await;
    assert!(error.message().unwrap().contains("already exists"), "{error}");

    let harder = CreateQemu::new(vmid(301)).option("machine", "q35").start().start_on_boot();
    let harder = harder.option("ide2", "none,media=cdrom").ssh_public_keys("ssh-ed25519 AAAA me@here\n");
    let end = b.end_by(&b.admin, "qemu create", async |c| c.create_qemu(&harder).await).await;
    assert_eq!(end, proxmox_client::TaskEnd::Ok);
    assert!(b.runs(301) && b.line(301, "sshkeys") == "ssh-ed25519%20AAAA%20me%40here%0A");
    let refused = b.no("qemu create", async |c| {
        c.create_qemu(&CreateQemu::new(vmid(302)).option("machine", "q35")).await
    });
    assert!(
        matches!(refused.await.class(), ErrorClass::Permission { privilege, .. } if privilege == "VM.Config.HWType")
    );

    let config = b.ok("qemu config", async |c| c.guest_config(QEMU, vmid(NEW)).await).await;
    assert_eq!((config.name(), config.tags()), (Some("writ-1"), vec!["lab".to_owned(), "web".to_owned()]));
    assert_eq!(config.volids()["scsi0"], "local-lvm:vm-300-disk-0");
    let world = b.world(|w| w.guests[&NEW].config.clone());
    let text = |key: &str| world[key].as_str().unwrap().to_owned();
    assert!(text("net0").contains(&config.macs()["net0"]));
    assert!(text("smbios1").contains(config.smbios_uuid().unwrap()));
    assert_eq!(config.vmgenid(), Some(text("vmgenid").as_str()));
    assert!(config.meta_ctime().is_some() && !config.protection() && !config.template());
}

/// Reads the digest and changes the guest.
async fn change(c: &Client, number: u32, set: &[(&str, &str)]) -> Result<(), ApiError> {
    let digest = c.guest_config(QEMU, vmid(number)).await?.digest;
    let change = set.iter().fold(ConfigChange::new(&digest), |all, (key, value)| all.set(key, value));
    c.change_config_now(QEMU, vmid(number), &change).await
}

async fn digest(b: &Bench, number: u32) -> String {
    b.act.guest_config(QEMU, vmid(number)).await.unwrap().digest
}

async fn changed(b: &Bench) {
    let guest = vmid(NEW);
    for (key, value) in [
        ("description", "x=1;y&z\nä"),
        ("cores", "4"),
        ("memory", "1024"),
        ("net1", "virtio,bridge=vmbr0"),
        ("scsi1", "tank:1"),
    ] {
        let old = digest(b, NEW).await;
        let change = ConfigChange::new(&old).set(key, value);
        b.ok("qemu config update", async |c| c.change_config_now(QEMU, guest, &change).await).await;
        assert!(!b.line(NEW, key).is_empty(), "{key}");
        let stale =
            b.no("qemu config update", async |c| c.change_config_now(QEMU, guest, &change).await).await;
        assert_eq!(stale.class(), ErrorClass::DigestMismatch, "{stale}");
    }
    assert_eq!(b.line(NEW, "description").trim_end(), "x=1;y&z\nä");
    let change = ConfigChange::new(&digest(b, NEW).await).set("scsihw", "virtio-scsi-pci");
    b.by(&b.admin, "qemu config update", async |c| c.change_config_now(QEMU, guest, &change).await).await;

    // Somebody else is quicker.
    let old = digest(b, NEW).await;
    b.mishap(Mishap::DigestRace { vmid: Some(NEW) });
    let late = ConfigChange::new(&old).set("cores", 1);
    let error = b.no("qemu config update", async |c| c.change_config_now(QEMU, guest, &late).await).await;
    assert_eq!((error.class(), b.line(NEW, "cores")), (ErrorClass::DigestMismatch, "4".to_owned()));
    let error = b.no("qemu config update task", async |c| c.change_config(QEMU, guest, &late).await).await;
    assert_eq!(error.class(), ErrorClass::DigestMismatch);

    let task = |key: &str, value: &str, digest: &str| ConfigChange::new(digest).set(key, value);
    for (key, value) in [
        ("name", "writ-2"),
        ("cores", "3"),
        ("memory", "768"),
        ("net2", "virtio,bridge=vmbr0"),
        ("scsi2", "local-lvm:1"),
    ] {
        let change = task(key, value, &digest(b, NEW).await);
        b.run("qemu config update task", async |c| c.change_config(QEMU, guest, &change).await).await;
    }
    assert_eq!((b.line(NEW, "name"), b.line(NEW, "cores")), ("writ-2".to_owned(), "3".to_owned()));
    let change = task("machine", "q35", &digest(b, NEW).await);
    let end =
        b.end_by(&b.admin, "qemu config update task", async |c| c.change_config(QEMU, guest, &change).await);
    assert_eq!(end.await, proxmox_client::TaskEnd::Ok);
    let change = ConfigChange::new(&digest(b, NEW).await).delete("net1").delete("net2").delete("scsi2");
    b.ok("qemu config update", async |c| c.change_config_now(QEMU, guest, &change).await).await;
    assert_eq!(
        (b.line(NEW, "net1"), b.line(NEW, "unused0")),
        (String::new(), "local-lvm:vm-300-disk-1".to_owned())
    );
    let by_map = BTreeMap::from([("onboot", "1".to_owned())]);
    let old = digest(b, NEW).await;
    b.ok("qemu config update", async |c| c.set_guest_config(QEMU, guest, by_map.clone(), &old).await).await;
    for bad in [
        ConfigChange::new("").set("cores", 1),
        ConfigChange::new(&old),
        ConfigChange::new(&old).set("skiplock", 1),
        ConfigChange::new(&old).set("cores", 1).delete("cores"),
        ConfigChange::new(&old).set("lock", "backup"),
        ConfigChange::new(&old).set("onboot", "on"),
    ] {
        b.unsent(async |c| c.change_config_now(QEMU, guest, &bad).await).await;
    }
}

async fn pending(b: &Bench) {
    let guest = vmid(NEW);
    b.run("qemu start", async |c| c.start(QEMU, guest).await).await;
    change(&b.act, NEW, &[("memory", "2048"), ("cores", "1")]).await.unwrap();
    let list = b.ok("qemu pending", async |c| c.guest_pending(QEMU, guest).await).await;
    let memory = list.iter().find(|option| option.key == "memory").unwrap();
    assert_eq!((memory.value.as_deref(), memory.pending.as_deref()), (Some("768"), Some("2048")));
    assert!(memory.is_pending() && !list.iter().find(|option| option.key == "name").unwrap().is_pending());
    assert_eq!(b.act.guest_config(QEMU, guest).await.unwrap().get("memory"), Some("2048"));
    let current = b.ok("qemu config", async |c| c.guest_config_current(QEMU, guest).await).await;
    assert_eq!((current.get("memory"), current.get("cores")), (Some("768"), Some("3")));
    let change = ConfigChange::new(&current.digest).revert("memory");
    b.ok("qemu config update", async |c| c.change_config_now(QEMU, guest, &change).await).await;
    let left = b.act.guest_pending(QEMU, guest).await.unwrap();
    let waiting: Vec<&str> = left.iter().filter(|o| o.is_pending()).map(|o| o.key.as_str()).collect();
    assert_eq!(waiting, ["cores"]);
    b.run("qemu stop", async |c| c.stop(QEMU, guest).await).await;
    b.run("qemu start", async |c| c.start(QEMU, guest).await).await;
    assert_eq!((b.line(NEW, "memory"), b.line(NEW, "cores")), ("768".to_owned(), "1".to_owned()));
}

async fn volumes(b: &Bench) {
    let guest = vmid(NEW);
    let old = digest(b, NEW).await;
    b.unsent(async |c| c.grow_volume(QEMU, guest, "scsi0", GrowBy::mib(0), None).await).await;
    b.unsent(async |c| c.grow_volume(QEMU, guest, "rootfs", GrowBy::gib(1), None).await).await;
    b.run("qemu resize", async |c| c.grow_volume(QEMU, guest, "scsi0", GrowBy::gib(1), Some(&old)).await)
        .await;
    assert_eq!(b.line(NEW, "scsi0"), "local-lvm:vm-300-disk-0,size=5G");
    let error =
        b.no("qemu resize", async |c| c.grow_volume(QEMU, guest, "scsi0", GrowBy::gib(1), Some(&old)).await);
    assert_eq!(error.await.class(), ErrorClass::DigestMismatch);
    let error =
        b.no("qemu resize", async |c| c.grow_volume(QEMU, guest, "scsi9", GrowBy::mib(1), None).await).await;
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");

    let away = MoveVolume::to_storage("scsi0", storage("files")).format(DiskFormat::Qcow2);
    let away = away.digest(&digest(b, NEW).await).then_delete_original();
    b.run("qemu move disk", async |c| c.move_volume(QEMU, guest, &away).await).await;
    assert!(b.line(NEW, "scsi0").starts_with("files:300/vm-300-disk-0.qcow2"), "{}", b.line(NEW, "scsi0"));
    let back = MoveVolume::to_storage("scsi0", storage("tank"));
    b.run("qemu move disk", async |c| c.move_volume(QEMU, guest, &back).await).await;
    assert!(b.line(NEW, "scsi0").starts_with("tank:vm-300-disk-"));
    assert_eq!(b.line(NEW, "unused1"), "files:300/vm-300-disk-0.qcow2", "what was there stays");
    let error = b.no("qemu move disk", async |c| c.move_volume(QEMU, guest, &back).await).await;
    assert!(error.message().unwrap().contains("same storage"), "{error}");
    let itself = MoveVolume::to_guest("scsi0", guest, None);
    b.unsent(async |c| c.move_volume(QEMU, guest, &itself).await).await;
}

async fn snapshots(b: &Bench) {
    let guest = vmid(NEW);
    let with = NewSnapshot::new().description("a=b; c&d ä").with_memory();
    b.run("qemu snapshot create", async |c| c.snapshot_create_with(QEMU, guest, &snap("first"), &with).await)
        .await;
    b.run("qemu snapshot create", async |c| c.snapshot_create(QEMU, guest, &snap("second"), "").await).await;
    let list = b.ok("qemu snapshot list", async |c| c.snapshots(QEMU, guest).await).await;
    let (first, second) = (list.get("first").unwrap(), list.get("second").unwrap());
    assert_eq!((first.description.as_str(), first.vmstate, &first.parent), ("a=b; c&d ä", true, &None));
    assert_eq!((second.parent.as_deref(), second.vmstate), (Some("first"), false));
    assert_eq!((list.current.parent.as_deref(), list.current.running), (Some("second"), Some(true)));
    assert!(b.now().abs_diff(first.snaptime.unwrap()) < 60);
    let text = b
        .fails("qemu snapshot create", async |c| c.snapshot_create(QEMU, guest, &snap("first"), "").await)
        .await;
    assert_eq!(text, "snapshot name 'first' already used");

    b.ok("qemu snapshot update", async |c| {
        c.snapshot_describe(QEMU, guest, &snap("second"), "two\nlines").await
    })
    .await;
    let held =
        b.ok("qemu snapshot config", async |c| c.snapshot_config(QEMU, guest, &snap("second")).await).await;
    assert_eq!((held.get("description"), held.get("cores")), (Some("two\nlines"), Some("1")));
    assert_eq!(held.snaptime, second.snaptime);
    change(&b.act, NEW, &[("name", "writ-3")]).await.unwrap();
    let then =
        b.ok("qemu config", async |c| c.guest_config_of_snapshot(QEMU, guest, &snap("second")).await).await;
    assert_eq!((then.name(), &then.digest), (Some("writ-2"), &digest(b, NEW).await));

    b.run("qemu snapshot rollback", async |c| c.snapshot_rollback(QEMU, guest, &snap("second"), false).await)
        .await;
    assert_eq!((b.line(NEW, "name"), b.runs(NEW)), ("writ-2".to_owned(), false));
    b.run("qemu snapshot rollback", async |c| c.snapshot_rollback(QEMU, guest, &snap("second"), true).await)
        .await;
    assert!(b.runs(NEW));
    let text = b.fails("qemu snapshot rollback", async |c| {
        c.snapshot_rollback(QEMU, guest, &snap("first"), false).await
    });
    assert!(text.await.contains("is not most recent snapshot"), "ZFS goes back to the newest only");
    let text = b
        .fails("qemu snapshot delete", async |c| c.snapshot_delete(QEMU, guest, &snap("nosuch")).await)
        .await;
    assert_eq!(classify_text(&text), ErrorClass::NotFound, "{text}");
    b.run("qemu snapshot delete", async |c| c.snapshot_delete(QEMU, guest, &snap("second")).await).await;
    b.run("qemu snapshot delete", async |c| c.snapshot_delete(QEMU, guest, &snap("first")).await).await;
    assert!(b.world(|w| w.guests[&NEW].snapshots.is_empty()));
    b.unsent(async |c| c.snapshot_create(QEMU, guest, &snap("long"), &"x".repeat(8193)).await).await;
}

async fn features(b: &Bench) {
    b.act.create_qemu(&CreateQemu::new(vmid(303)).option("scsi0", "files:1,format=raw")).await.unwrap();
    let of = async |number: u32, what: Feature| {
        b.ok("qemu feature", async |c| c.feature(QEMU, vmid(number), what, None).await).await
    };
    // ZFS (102), a thin pool (101), raw files (303).
    for (number, snapshot) in [(102, true), (101, true), (303, false)] {
        let answer = of(number, Feature::Snapshot).await;
        assert_eq!((answer.has, answer.nodes), (snapshot, vec!["pve1".to_owned()]), "{number}");
        assert_eq!(b.act.feature_snapshot(QEMU, vmid(number)).await.unwrap(), snapshot);
        assert!(of(number, Feature::Copy).await.has, "{number}");
        assert!(!of(number, Feature::Clone).await.has, "no template: {number}");
    }
    let old = snap("before-upgrade");
    let copy = async |c: &Client| c.feature(QEMU, vmid(101), Feature::Copy, Some(&old)).await;
    assert!(b.ok("qemu feature", copy).await.has);
    let text = b
        .fails("qemu snapshot create", async |c| c.snapshot_create(QEMU, vmid(303), &snap("nope"), "").await);
    assert_eq!(text.await, "snapshot feature is not available");
}

async fn copies(b: &Bench) {
    let old = snap("before-upgrade");
    let full = CloneGuest::full(vmid(310)).name("copy").description("of 101").storage(storage("tank"));
    b.run("qemu clone", async |c| {
        c.clone_guest(QEMU, vmid(101), &full.clone().of_snapshot(old.clone())).await
    })
    .await;
    assert_eq!(b.line(310, "scsi0"), "tank:vm-310-disk-0,size=32G");
    assert_ne!(b.line(310, "smbios1"), b.line(101, "smbios1"));
    assert_eq!(
        (b.line(310, "name"), b.line(310, "description").trim_end().to_owned()),
        ("copy".into(), "of 101".into())
    );
    let error = b.no("qemu clone", async |c| c.clone_guest(QEMU, vmid(101), &full).await).await;
    assert!(error.message().unwrap().contains("already exists"), "{error}");
    for bad in [
        CloneGuest::full(vmid(101)),
        CloneGuest::linked(vmid(311)).storage(storage("tank")),
        CloneGuest::linked(vmid(311)).format(DiskFormat::Raw),
        CloneGuest::full(vmid(311)).name("a_b"),
    ] {
        b.unsent(async |c| c.clone_guest(QEMU, vmid(101), &bad).await).await;
    }
    let linked = CloneGuest::linked(vmid(311)).pool("lab");
    b.world(|w| w.access.pools.insert("lab".to_owned(), Default::default()));
    let error = b.no("qemu clone", async |c| c.clone_guest(QEMU, vmid(310), &linked).await).await;
    assert!(error.message().unwrap().contains("Linked clone feature is not supported"), "{error}");
    let error = b.no("qemu template", async |c| c.make_template(QEMU, vmid(101)).await).await;
    assert!(error.message().unwrap().contains("snapshots"), "{error}");
    b.run("qemu template", async |c| c.make_template(QEMU, vmid(310)).await).await;
    assert!(b.act.guest_config(QEMU, vmid(310)).await.unwrap().template());
    assert!(b.act.feature(QEMU, vmid(310), Feature::Clone, None).await.unwrap().has);
    b.run("qemu clone", async |c| c.clone_guest(QEMU, vmid(310), &linked).await).await;
    assert!(
        b.line(311, "scsi0").starts_with("tank:base-310-disk-0/vm-311-disk-0"),
        "{}",
        b.line(311, "scsi0")
    );
    assert!(b.world(|w| w.access.pools["lab"].guests.contains(&311)));
}

async fn removed(b: &Bench) {
    let plain = Destroy { purge: false, unreferenced_disks: false };
    let destroy = async |number: u32, how: Destroy| {
        b.no("qemu destroy", async |c| c.destroy_guest(QEMU, vmid(number), how).await)
            .await
            .message()
            .unwrap()
            .to_owned()
    };
    assert!(destroy(NEW, plain).await.contains("is running"));
    b.run("qemu stop", async |c| c.stop(QEMU, vmid(NEW)).await).await;
    // Compare-and-set: what was looked at is what goes.
    change(&b.act, NEW, &[("protection", "1")]).await.unwrap();
    assert_eq!(destroy(NEW, plain).await, "can't remove VM 300 - protection mode enabled");
    let seen = digest(b, NEW).await;
    b.mishap(Mishap::ReplaceGuest { vmid: Some(NEW) });
    let open = ConfigChange::new(&seen).delete("protection");
    let error = b.no("qemu config update", async |c| c.change_config_now(QEMU, vmid(NEW), &open).await).await;
    assert_eq!(error.class(), ErrorClass::DigestMismatch);
    assert_eq!(
        destroy(NEW, plain).await,
        "can't remove VM 300 - protection mode enabled",
        "the other guest stays"
    );
    let open = ConfigChange::new(&digest(b, NEW).await).delete("protection");
    b.ok("qemu config update", async |c| c.change_config_now(QEMU, vmid(NEW), &open).await).await;
    let free = b.world(|w| w.storages["files"].used);
    b.run("qemu destroy", async |c| c.destroy_guest(QEMU, vmid(NEW), plain).await).await;
    assert!(b.world(|w| !w.guests.contains_key(&NEW) && w.storages["files"].used < free));
    assert_eq!(b.act.guest_status(QEMU, vmid(NEW)).await.unwrap_err().class(), ErrorClass::NotFound);

    // A guest with replication and HA goes with purge only, and is forgotten then.
    b.world(|w| {
        w.ha.insert(102, pve_sim::world::HaResource::new("stopped"));
        let job = serde_json::json!({"target": "pve2", "type": "local"});
        w.stock.replications.insert("102-0".to_owned(), job.as_object().unwrap().clone());
        let job = serde_json::json!({"vmid": "101,102", "storage": "local", "schedule": "02:00"});
        w.stock.backup_jobs.insert("nightly".to_owned(), job.as_object().unwrap().clone());
    });
    assert!(destroy(102, plain).await.contains("purge"));
    let all = Destroy { purge: true, unreferenced_disks: true };
    let how = b.ok("qemu destroy", async |c| c.destroy_guest(QEMU, vmid(102), all).await).await;
    assert_eq!(b.act.wait_task(&how, crate::bench::LIMIT).await, proxmox_client::TaskEnd::Ok);
    assert!(b.world(|w| w.ha.is_empty() && w.stock.replications.is_empty()));
    let job = b.world(|w| w.stock.backup_jobs["nightly"]["vmid"].to_string());
    assert_eq!(job.trim_matches('"'), "101", "the job forgets it");
    // A machine's lock is met in the task, and nothing goes.
    b.world(|w| w.guests.get_mut(&101).unwrap().config.insert("lock".to_owned(), "backup".into()));
    let text = b.fails("qemu destroy", async |c| c.destroy_guest(QEMU, vmid(101), plain).await).await;
    assert_eq!(classify_text(&text), ErrorClass::Locked { by: "backup".to_owned() });
    assert_eq!(b.act.guest_status(QEMU, vmid(101)).await.unwrap().status, RunState::Stopped);
    assert!(matches!(b.act.make_template(QEMU, vmid(311)).await, Ok(Started::Task(_) | Started::AtOnce)));
}
