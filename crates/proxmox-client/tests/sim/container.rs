//! The life of a container.

use proxmox_client::{
    CloneGuest, ConfigChange, CreateLxc, Destroy, DiskFormat, ErrorClass, Feature, GrowBy, MoveVolume,
    NewSnapshot, TaskEnd, classify_text,
};
use pve_sim::world::{Mishap, Release};

use crate::bench::{Bench, LXC, Notes, TEMPLATE, snap, storage, vmid, volid};

const NEW: u32 = 400;

fn plan(number: u32) -> CreateLxc {
    CreateLxc::new(vmid(number), volid(TEMPLATE), &storage("local-lvm"), 4)
        .hostname("writ-c")
        .memory(256)
        .swap(0)
        .option("cores", 1)
        .option("net0", "name=eth0,bridge=vmbr0,ip=dhcp")
        .option("features", "nesting=1")
}

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::new(release).await;
    made(&b).await;
    changed(&b).await;
    volumes(&b).await;
    snapshots(&b).await;
    copies(&b).await;
    removed(&b).await;
    b.into_notes()
}

async fn digest(b: &Bench) -> String {
    b.act.guest_config(LXC, vmid(NEW)).await.unwrap().digest
}

async fn made(b: &Bench) {
    for bad in [
        plan(NEW).memory(15),
        plan(NEW).hostname("a_b"),
        plan(NEW).option("features", "keyctl=1"),
        plan(NEW).option("lock", "backup"),
        plan(NEW).option("mp0", "/srv,mp=/srv"),
        plan(NEW).option("template", 1),
        plan(NEW).password("1234"),
    ] {
        b.unsent(async |c| c.create_lxc(&bad).await).await;
    }
    let backup = volid("local:backup/vzdump-lxc-200-2026_01_01-00_00_00.tar.zst");
    let not_so = CreateLxc::new(vmid(NEW), backup, &storage("local-lvm"), 4);
    b.unsent(async |c| c.create_lxc(&not_so).await).await;

    let secret = plan(NEW).password("s3cret!").ssh_public_keys("ssh-ed25519 AAAA me@here\n");
    b.run("lxc create", async |c| c.create_lxc(&secret).await).await;
    assert_eq!((b.line(NEW, "unprivileged"), b.line(NEW, "onboot")), ("1".to_owned(), "0".to_owned()));
    assert_eq!(b.line(NEW, "rootfs"), "local-lvm:vm-400-disk-0,size=4G");
    let error = b.no("lxc create", async |c| c.create_lxc(&plan(NEW)).await).await;
    assert!(error.message().unwrap().contains("already exists"), "{error}");
    let privileged = CreateLxc::new(vmid(401), volid(TEMPLATE), &storage("local-lvm"), 4);
    let privileged = privileged.privileged().option("startup", "order=1");
    let end = b.end_by(&b.admin, "lxc create", async |c| c.create_lxc(&privileged).await).await;
    assert_eq!((end, b.line(401, "unprivileged")), (TaskEnd::Ok, String::new()));

    let config = b.ok("lxc config", async |c| c.guest_config(LXC, vmid(NEW)).await).await;
    assert_eq!((config.name(), config.get("memory")), (Some("writ-c"), Some("256")));
    assert_eq!(config.volids()["rootfs"], "local-lvm:vm-400-disk-0");
    assert!(b.line(NEW, "net0").contains(&config.macs()["net0"]));
    assert_eq!((config.smbios_uuid(), config.vmgenid(), config.meta_ctime()), (None, None, None));
}

async fn changed(b: &Bench) {
    let guest = vmid(NEW);
    for (key, value) in [
        ("description", "x=1;y&z\nä"),
        ("cores", "2"),
        ("memory", "512"),
        ("net1", "name=eth1,bridge=vmbr0"),
        ("mp0", "tank:1,mp=/data"),
    ] {
        let change = ConfigChange::new(&digest(b).await).set(key, value);
        b.ok("lxc config update", async |c| c.change_config_now(LXC, guest, &change).await).await;
        assert!(!b.line(NEW, key).is_empty(), "{key}");
        let stale = b.no("lxc config update", async |c| c.change_config(LXC, guest, &change).await).await;
        assert_eq!(stale.class(), ErrorClass::DigestMismatch, "{stale}");
    }
    let change = ConfigChange::new(&digest(b).await).set("startup", "order=2");
    b.by(&b.admin, "lxc config update", async |c| c.change_config(LXC, guest, &change).await).await;
    let seen = digest(b).await;
    b.mishap(Mishap::DigestRace { vmid: Some(NEW) });
    let late = ConfigChange::new(&seen).set("cores", 1);
    let error = b.no("lxc config update", async |c| c.change_config_now(LXC, guest, &late).await).await;
    assert_eq!(error.class(), ErrorClass::DigestMismatch);

    b.run("lxc start", async |c| c.start(LXC, guest).await).await;
    let now = digest(b).await;
    let change = ConfigChange::new(&now).set("memory", 128).set("hostname", "writ-d");
    b.ok("lxc config update", async |c| c.change_config_now(LXC, guest, &change).await).await;
    let list = b.ok("lxc pending", async |c| c.guest_pending(LXC, guest).await).await;
    let name = list.iter().find(|option| option.key == "hostname").unwrap();
    assert!(
        name.value.is_some() && list.iter().any(|option| option.key == "digest" || option.key == "memory")
    );
    let current = b.ok("lxc config", async |c| c.guest_config_current(LXC, guest).await).await;
    assert_eq!(current.digest, digest(b).await);
    assert_eq!(b.act.guest_config(LXC, guest).await.unwrap().name(), Some("writ-d"));
    b.run("lxc stop", async |c| c.stop(LXC, guest).await).await;
}

async fn volumes(b: &Bench) {
    let guest = vmid(NEW);
    let old = digest(b).await;
    b.run("lxc resize", async |c| c.grow_volume(LXC, guest, "rootfs", GrowBy::mib(512), Some(&old)).await)
        .await;
    assert_eq!(b.line(NEW, "rootfs"), "local-lvm:vm-400-disk-0,size=4608M");
    b.unsent(async |c| c.grow_volume(LXC, guest, "scsi0", GrowBy::gib(1), None).await).await;
    let away = MoveVolume::to_storage("rootfs", storage("tank"));
    b.unsent(async |c| c.move_volume(LXC, guest, &away.clone().format(DiskFormat::Raw)).await).await;
    b.run("lxc move volume", async |c| c.move_volume(LXC, guest, &away).await).await;
    assert!(b.line(NEW, "rootfs").starts_with("tank:subvol-400-disk-"), "{}", b.line(NEW, "rootfs"));
    assert_eq!(b.line(NEW, "unused0"), "local-lvm:vm-400-disk-0");
    let back = MoveVolume::to_storage("mp0", storage("local-lvm")).then_delete_original();
    let back = back.digest(&digest(b).await);
    b.run("lxc move volume", async |c| c.move_volume(LXC, guest, &back).await).await;
    assert!(b.line(NEW, "mp0").starts_with("local-lvm:vm-400-disk-"), "{}", b.line(NEW, "mp0"));
    let error = b.no("lxc move volume", async |c| c.move_volume(LXC, guest, &back).await).await;
    assert_eq!(error.class(), ErrorClass::DigestMismatch, "{error}");
}

async fn snapshots(b: &Bench) {
    let guest = vmid(NEW);
    let memory = NewSnapshot::new().with_memory();
    b.unsent(async |c| c.snapshot_create_with(LXC, guest, &snap("first"), &memory).await).await;
    b.run("lxc snapshot create", async |c| c.snapshot_create(LXC, guest, &snap("first"), "a=b; c&d ä").await)
        .await;
    b.run("lxc snapshot create", async |c| c.snapshot_create(LXC, guest, &snap("second"), "").await).await;
    let list = b.ok("lxc snapshot list", async |c| c.snapshots(LXC, guest).await).await;
    assert_eq!(list.get("first").unwrap().description, "a=b; c&d ä", "without the newline at its end");
    assert_eq!(list.get("second").unwrap().parent.as_deref(), Some("first"));
    assert_eq!(list.current.parent.as_deref(), Some("second"));
    b.ok("lxc snapshot update", async |c| c.snapshot_describe(LXC, guest, &snap("first"), "one").await).await;
    let held =
        b.ok("lxc snapshot config", async |c| c.snapshot_config(LXC, guest, &snap("first")).await).await;
    assert_eq!(
        (held.get("description").map(str::trim_end), held.get("hostname")),
        (Some("one"), Some("writ-d"))
    );
    let then =
        b.ok("lxc config", async |c| c.guest_config_of_snapshot(LXC, guest, &snap("first")).await).await;
    assert_eq!((then.name(), &then.digest), (Some("writ-d"), &digest(b).await));
    b.run("lxc snapshot rollback", async |c| c.snapshot_rollback(LXC, guest, &snap("second"), true).await)
        .await;
    assert!(b.runs(NEW));
    b.run("lxc snapshot rollback", async |c| c.snapshot_rollback(LXC, guest, &snap("second"), false).await)
        .await;
    assert!(!b.runs(NEW));
    let text = b
        .fails("lxc snapshot create", async |c| c.snapshot_create(LXC, vmid(999), &snap("ghost"), "").await)
        .await;
    assert_eq!(classify_text(&text), ErrorClass::NotFound, "{text}");
    b.run("lxc snapshot delete", async |c| c.snapshot_delete(LXC, guest, &snap("first")).await).await;
    assert!(b.world(|w| !w.guests[&NEW].snapshots.contains_key("first")));
    for (number, has) in [(NEW, true), (200, true)] {
        let feature =
            b.ok("lxc feature", async |c| c.feature(LXC, vmid(number), Feature::Snapshot, None).await).await;
        assert_eq!((feature.has, feature.nodes.is_empty()), (has, true), "containers are not told the nodes");
    }
    let on_files = CreateLxc::new(vmid(402), volid(TEMPLATE), &storage("files"), 1);
    b.run("lxc create", async |c| c.create_lxc(&on_files).await).await;
    assert!(!b.act.feature_snapshot(LXC, vmid(402)).await.unwrap());
    let text =
        b.fails("lxc snapshot create", async |c| c.snapshot_create(LXC, vmid(402), &snap("nope"), "").await);
    assert_eq!(text.await, "snapshot feature is not available");
}

async fn copies(b: &Bench) {
    let full = CloneGuest::full(vmid(410)).name("copy");
    b.unsent(async |c| c.clone_guest(LXC, vmid(NEW), &full.clone().format(DiskFormat::Raw)).await).await;
    b.run("lxc start", async |c| c.start(LXC, vmid(NEW)).await).await;
    let error = b.no("lxc clone", async |c| c.clone_guest(LXC, vmid(NEW), &full).await).await;
    assert!(error.message().unwrap().contains("running container"), "{error}");
    b.world(|w| {
        w.guests.get_mut(&200).unwrap().config.insert("features".into(), "keyctl=1,nesting=1".into())
    });
    b.run("lxc snapshot create", async |c| c.snapshot_create(LXC, vmid(200), &snap("third"), "").await).await;
    let of_third = full.of_snapshot(snap("third")).storage(storage("tank"));
    b.run("lxc clone", async |c| c.clone_guest(LXC, vmid(200), &of_third).await).await;
    assert_eq!(b.line(410, "features"), "keyctl=1,nesting=1", "a clone keeps what no token may set");
    assert_eq!(b.line(410, "hostname"), "copy");
    assert_ne!(b.line(410, "net0"), b.line(200, "net0"));
    b.run("lxc template", async |c| c.make_template(LXC, vmid(410)).await).await;
    assert!(b.act.guest_config(LXC, vmid(410)).await.unwrap().template());
    let linked = CloneGuest::linked(vmid(411));
    b.run("lxc clone", async |c| c.clone_guest(LXC, vmid(410), &linked).await).await;
    assert!(
        b.line(411, "rootfs").starts_with("tank:basevol-410-disk-0/subvol-411-disk-0"),
        "{}",
        b.line(411, "rootfs")
    );
}

async fn removed(b: &Bench) {
    let plain = Destroy { purge: false, unreferenced_disks: false };
    let destroy = async |number: u32| {
        b.no("lxc destroy", async |c| c.destroy_guest(LXC, vmid(number), plain).await).await
    };
    assert!(destroy(NEW).await.message().unwrap().contains("is running"));
    b.run("lxc stop", async |c| c.stop(LXC, vmid(NEW)).await).await;
    let protect = ConfigChange::new(&digest(b).await).set("protection", 1);
    b.act.change_config_now(LXC, vmid(NEW), &protect).await.unwrap();
    assert_eq!(destroy(NEW).await.message(), Some("can't remove CT 400 - protection mode enabled"));
    let seen = digest(b).await;
    b.mishap(Mishap::ReplaceGuest { vmid: Some(NEW) });
    let open = ConfigChange::new(&seen).delete("protection");
    let error = b.no("lxc config update", async |c| c.change_config_now(LXC, vmid(NEW), &open).await).await;
    assert_eq!(error.class(), ErrorClass::DigestMismatch);
    let open = ConfigChange::new(&digest(b).await).delete("protection");
    b.ok("lxc config update", async |c| c.change_config_now(LXC, vmid(NEW), &open).await).await;
    // A container's lock is met at once.
    b.world(|w| w.guests.get_mut(&NEW).unwrap().config.insert("lock".into(), "backup".into()));
    assert_eq!(destroy(NEW).await.class(), ErrorClass::Locked { by: "backup".to_owned() });
    b.world(|w| w.guests.get_mut(&NEW).unwrap().config.remove("lock"));
    b.run("lxc destroy", async |c| c.destroy_guest(LXC, vmid(NEW), plain).await).await;
    assert!(b.world(|w| !w.guests.contains_key(&NEW)));
    assert_eq!(destroy(NEW).await.class(), ErrorClass::NotFound);
}
