//! Clone, template, destroy.

use pve_sim::world::{AclEntry, AuthId, Pool};
use serde_json::{Map, json};

use super::Bench;

#[tokio::test]
async fn a_full_clone_is_another_machine() {
    let bench = Bench::demo().await;
    bench.call("PUT", "/qemu/101/config", &[("description", "mine"), ("protection", "1")]).await.data();
    let source = bench.get("/qemu/101/config").await;
    let log = bench.ok("POST", "/qemu/101/clone", &[("newid", "140"), ("name", "copy"), ("full", "1")]).await;
    assert_eq!(log[0], "creating a clone of VM 101 with ID 140");
    assert_eq!(log[1], "create full clone of drive scsi0 (local-lvm:vm-101-disk-0)");
    let copy = bench.get("/qemu/140/config").await;
    assert_eq!((&copy["name"], &copy["scsi0"]), (&"copy".into(), &"local-lvm:vm-140-disk-0,size=32G".into()));
    for key in ["smbios1", "vmgenid", "net0", "digest"] {
        assert_ne!(copy[key], source[key], "{key}");
    }
    for key in ["meta", "description", "cores", "memory", "protection"] {
        assert_eq!(copy[key], source[key], "{key}");
    }
    assert_eq!((copy.get("parent"), copy.get("lock")), (None, None));
    assert_eq!(bench.get("/qemu/140/snapshot").await.as_array().unwrap().len(), 1, "snapshots stay behind");
    bench.ok("POST", "/qemu/101/clone", &[("newid", "141")]).await;
    assert_eq!(bench.get("/qemu/141/config").await["name"], "Copy-of-VM-db");
    let taken = bench.call("POST", "/qemu/101/clone", &[("newid", "140")]).await;
    taken.is(500, "unable to create VM 140: config file already exists");
    let other = bench.call("POST", "/qemu/101/clone", &[("newid", "200")]).await;
    other.is(500, "CT 200 already exists on node 'pve1'");
}

#[tokio::test]
async fn features_of_root_survive_a_clone_by_a_token() {
    let bench = Bench::demo().await;
    bench.world(|w| {
        let config = &mut w.guests.get_mut(&200).unwrap().config;
        config.insert("features".to_owned(), json!("keyctl=1,nesting=1"));
    });
    let running = bench.call("POST", "/lxc/200/clone", &[("newid", "240")]).await;
    running.is(500, "Cannot do full clones on a running container without snapshots");
    bench.ok("POST", "/lxc/200/snapshot", &[("snapname", "s1")]).await;
    let params = [("newid", "240"), ("snapname", "s1"), ("full", "1"), ("hostname", "copy")];
    bench.ok("POST", "/lxc/200/clone", &params).await;
    let copy = bench.get("/lxc/240/config").await;
    assert_eq!((&copy["features"], &copy["hostname"]), (&"keyctl=1,nesting=1".into(), &"copy".into()));
    assert_ne!(copy["net0"], bench.get("/lxc/200/config").await["net0"]);
    assert_eq!(bench.get("/lxc/200/config").await.get("lock"), None);
    bench.world(|w| {
        let config = &mut w.guests.get_mut(&201).unwrap().config;
        config.insert("mp0".to_owned(), json!("/mnt/usb,mp=/data"));
    });
    let bind = bench.call("POST", "/lxc/201/clone", &[("newid", "241")]).await;
    bind.is(500, "unable to clone mountpoint 'mp0' (type bind)");
}

#[tokio::test]
async fn clones_follow_what_the_storage_can() {
    let bench = Bench::demo().await;
    for (params, text) in [
        (vec![("full", "0")], "Linked clone feature is not supported for drive 'scsi0'"),
        (vec![("full", "0"), ("storage", "tank")], "parameter 'storage' not allowed for linked clones"),
        (vec![("snapname", "nosuch")], "snapshot 'nosuch' does not exist"),
        (vec![("target", "pve9")], "no such cluster node 'pve9'"),
    ] {
        let mut all = vec![("newid", "142")];
        all.extend(params);
        bench.call("POST", "/qemu/101/clone", &all).await.is(500, text);
    }
    bench.ok("POST", "/qemu/102/snapshot", &[("snapname", "s1")]).await;
    let zfs = bench.call("POST", "/qemu/102/clone", &[("newid", "142"), ("snapname", "s1")]).await;
    zfs.is(500, "Full clone feature is not supported for a snapshot of 'tank:vm-102-disk-0' (scsi0)");
    bench.world(|w| {
        let role = w.access.roles.get_mut("WritAgent").unwrap();
        role.remove("SDN.Use");
    });
    let bridge = bench.call("POST", "/qemu/101/clone", &[("newid", "142")]).await;
    bridge.is(403, "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)");
    bench.world(|w| {
        w.access.roles.get_mut("WritAgent").unwrap().remove("VM.Allocate");
    });
    let id = bench.call("POST", "/qemu/101/clone", &[("newid", "142")]).await;
    id.is(403, "Permission check failed");
    bench.world(|w| {
        w.access.roles.get_mut("WritAgent").unwrap().remove("VM.Clone");
    });
    let source = bench.call("POST", "/qemu/999/clone", &[("newid", "142")]).await;
    source.is(403, "Permission check failed (/vms/999, VM.Clone)");
}

#[tokio::test]
async fn a_template_only_gives_birth() {
    let bench = Bench::demo().await;
    bench.ok("POST", "/qemu/102/template", &[]).await;
    let config = bench.get("/qemu/102/config").await;
    assert_eq!((&config["template"], &config["scsi0"]), (&1.into(), &"tank:base-102-disk-0,size=64G".into()));
    assert_eq!(bench.get("/qemu/102/status/current").await["template"], 1);
    bench.fails("POST", "/qemu/102/status/start", &[], "you can't start a vm if it's a template").await;
    let text = "you can't take a snapshot if it's a template";
    bench.fails("POST", "/qemu/102/snapshot", &[("snapname", "s1")], text).await;
    assert_eq!(bench.get("/qemu/102/feature?feature=clone").await["hasFeature"], 1);
    bench.ok("POST", "/qemu/102/clone", &[("newid", "150")]).await;
    let child = bench.get("/qemu/150/config").await;
    assert_eq!(child["scsi0"], "tank:base-102-disk-0/vm-150-disk-0,size=64G");
    assert_eq!(child.get("template"), None);
    let text = "base volume 'tank:base-102-disk-0' is still in use by linked cloned";
    bench.fails("DELETE", "/qemu/102", &[], text).await;
    bench.ok("DELETE", "/qemu/150", &[]).await;
    bench.ok("DELETE", "/qemu/102", &[]).await;

    // The container's call answers nothing, but there is a task.
    assert_eq!(bench.call("POST", "/lxc/201/template", &[]).await.data(), serde_json::Value::Null);
    let tasks = bench.call("GET", "/tasks", &[("typefilter", "vztemplate"), ("source", "all")]).await;
    bench.finish(tasks.body["data"][0]["upid"].as_str().unwrap()).await;
    bench.fails("POST", "/lxc/201/status/start", &[], "you can't start a CT if it's a template").await;
    assert_eq!(bench.get("/lxc/201/feature?feature=clone").await["hasFeature"], 1);
    bench.ok("POST", "/lxc/201/clone", &[("newid", "151"), ("full", "0")]).await;
    let child = bench.get("/lxc/151/config").await;
    assert_eq!(child["rootfs"], "tank:basevol-201-disk-0/subvol-151-disk-0,size=8G");
    assert_eq!(bench.get("/lxc/151/feature?feature=clone").await["hasFeature"], 0);
    assert_eq!(bench.get("/lxc/151/feature?feature=snapshot").await["hasFeature"], 1);
    let snapshots = bench.call("POST", "/qemu/101/template", &[]).await;
    assert_eq!(snapshots.status, 500);
    let running = bench.call("POST", "/qemu/100/template", &[]).await;
    running.is(500, "you can't convert a VM to template if VM is running");
}

#[tokio::test]
async fn destroy_takes_rights_and_membership_always_and_jobs_only_with_purge() {
    let bench = Bench::with(|w| {
        w.access.pools.insert("lab".to_owned(), Pool { guests: [101, 201].into(), ..Pool::default() });
        for vmid in [101, 201] {
            let who = AuthId::parse("writ@pve!act");
            let line =
                AclEntry { path: format!("/vms/{vmid}"), who, role: "WritAgent".to_owned(), propagate: true };
            w.access.acl.push(line);
        }
        let job: Map<_, _> = [("vmid".to_owned(), json!("100,101,201"))].into_iter().collect();
        w.stock.backup_jobs.insert("nightly".to_owned(), job);
        w.add_volume("tank:vm-101-disk-7", 1 << 30, 1);
    })
    .await;
    bench.ok("DELETE", "/qemu/101", &[]).await;
    bench.world(|w| {
        assert!(!w.guests.contains_key(&101));
        assert!(!w.access.acl.iter().any(|line| line.path == "/vms/101"));
        assert!(!w.access.pools["lab"].guests.contains(&101));
        assert_eq!(w.stock.backup_jobs["nightly"]["vmid"], "100,101,201", "still there for the next 101");
        assert!(w.volume("tank:vm-101-disk-7").is_some());
    });
    let params = [("purge", "1"), ("destroy-unreferenced-disks", "1")];
    let log = bench.ok("DELETE", "/lxc/201", &params).await;
    assert_eq!(log[0], "purging CT 201 from related configurations..");
    bench.world(|w| assert_eq!(w.stock.backup_jobs["nightly"]["vmid"], "100,101"));
    for (path, text) in [
        ("qemu/100", "VM 100 is running - destroy failed"),
        ("lxc/200", "unable to destroy CT 200 - container is running"),
        ("qemu/101", "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist"),
    ] {
        bench.call("DELETE", &format!("/{path}"), &[]).await.is(500, text);
    }
    bench.ok("DELETE", "/lxc/200", &[("force", "1")]).await;
    bench.call("PUT", "/qemu/102/config", &[("protection", "1")]).await.data();
    bench.call("DELETE", "/qemu/102", &[]).await.is(500, "can't remove VM 102 - protection mode enabled");
}

#[tokio::test]
async fn there_is_nowhere_to_migrate_to() {
    let bench = Bench::with(|w| Bench::allow(w, &["VM.Migrate"])).await;
    for guest in ["qemu/101", "lxc/201"] {
        let answer = bench.call("POST", &format!("/{guest}/migrate"), &[("target", "pve2")]).await;
        answer.is(500, "no such cluster node 'pve2'");
        let here = bench.call("POST", &format!("/{guest}/migrate"), &[("target", "pve1")]).await;
        here.is_about("target", "target is local node.");
        let preview = bench.get(&format!("/{guest}/migrate")).await;
        assert_eq!(preview["running"], 0);
    }
}
