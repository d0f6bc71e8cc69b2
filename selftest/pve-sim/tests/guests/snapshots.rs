//! Snapshots beyond what was recorded.

use serde_json::json;

use super::Bench;

#[tokio::test]
async fn names_and_states_that_are_refused() {
    let bench = Bench::demo().await;
    for (guest, name) in
        [("qemu/101", "current"), ("qemu/101", "pending"), ("lxc/201", "current"), ("lxc/201", "vzdump")]
    {
        let answer = bench.call("POST", &format!("/{guest}/snapshot"), &[("snapname", name)]).await;
        answer.is(500, &format!("unable to use snapshot name '{name}' (reserved name)"));
    }
    for bad in ["a", "1a", "a.b", "a b", &"a".repeat(41)] {
        let answer = bench.call("POST", "/qemu/101/snapshot", &[("snapname", bad)]).await;
        assert!(answer.body["errors"]["snapname"].is_string(), "{bad}: {answer:?}");
    }
    bench.world(|w| {
        w.guests.get_mut(&201).unwrap().config.insert("mp0".to_owned(), json!("/mnt/usb,mp=/data"));
        w.guests
            .get_mut(&100)
            .unwrap()
            .config
            .insert("scsi1".to_owned(), json!("local:100/vm-100-disk-0.raw,size=1G"));
    });
    let text = "snapshot feature is not available";
    bench.fails("POST", "/lxc/201/snapshot", &[("snapname", "s1")], text).await;
    bench.fails("POST", "/qemu/100/snapshot", &[("snapname", "s1")], text).await;
    for guest in ["lxc/201", "qemu/100"] {
        let feature = bench.get(&format!("/{guest}/feature?feature=snapshot")).await;
        assert_eq!(feature["hasFeature"], 0, "{guest}");
    }
    bench.world(|w| {
        let disk = json!("local:100/vm-100-disk-0.qcow2,size=1G");
        w.guests.get_mut(&100).unwrap().config.insert("scsi1".to_owned(), disk);
    });
    bench.ok("POST", "/qemu/100/snapshot", &[("snapname", "s1")]).await;
}

#[tokio::test]
async fn rollback_goes_anywhere_on_lvm_thin_and_only_back_on_zfs() {
    let bench = Bench::demo().await;
    for guest in ["qemu/101", "qemu/102", "lxc/201", "lxc/200"] {
        for name in ["old", "new"] {
            bench.ok("POST", &format!("/{guest}/snapshot"), &[("snapname", name)]).await;
        }
    }
    for (guest, volume) in [("qemu/102", "tank:vm-102-disk-0"), ("lxc/201", "tank:subvol-201-disk-0")] {
        let text = format!("can't rollback, 'old' is not most recent snapshot on '{volume}'");
        bench.fails("POST", &format!("/{guest}/snapshot/old/rollback"), &[], &text).await;
        bench.ok("POST", &format!("/{guest}/snapshot/new/rollback"), &[]).await;
    }
    bench.ok("POST", "/qemu/101/snapshot/old/rollback", &[("start", "1")]).await;
    assert_eq!(bench.get("/qemu/101/status/current").await["status"], "running");
    bench.ok("POST", "/lxc/200/snapshot/old/rollback", &[]).await;
    assert_eq!(bench.get("/lxc/200/status/current").await["status"], "stopped", "stopped hard");
    let tree = bench.get("/qemu/101/snapshot").await;
    let current = tree.as_array().unwrap().last().unwrap().clone();
    assert_eq!((&current["name"], &current["parent"]), (&"current".into(), &"old".into()));
}

#[tokio::test]
async fn a_later_disk_becomes_unused_and_memory_brings_the_guest_back() {
    let bench = Bench::demo().await;
    bench.ok("POST", "/qemu/100/snapshot", &[("snapname", "live"), ("vmstate", "1")]).await;
    assert_eq!(bench.get("/qemu/100/snapshot").await[0]["vmstate"], 1);
    let saved = bench.get("/qemu/100/snapshot/live/config").await;
    assert_eq!(saved["vmstate"], "local-lvm:vm-100-state-live");
    bench.call("PUT", "/qemu/100/config", &[("scsi1", "local-lvm:1"), ("description", "later")]).await.data();
    bench.ok("POST", "/qemu/100/status/stop", &[]).await;
    bench.ok("POST", "/qemu/100/snapshot/live/rollback", &[]).await;
    let config = bench.get("/qemu/100/config").await;
    assert_eq!(config["unused0"], "local-lvm:vm-100-disk-1");
    assert_eq!((config.get("scsi1"), config.get("vmstate")), (None, None));
    assert_eq!((&config["description"], &config["parent"]), (&"later".into(), &"live".into()));
    assert_eq!(bench.get("/qemu/100/status/current").await["status"], "running");
}

#[tokio::test]
async fn a_half_made_snapshot_goes_only_by_force() {
    let bench = Bench::demo().await;
    bench.world(|w| {
        let fault = pve_sim::world::Fault::Kill;
        w.injections.push(pve_sim::world::Injection { task: "qmsnapshot".to_owned(), fault });
    });
    bench.fails("POST", "/qemu/101/snapshot", &[("snapname", "half")], "unexpected status").await;
    let list = bench.get("/qemu/101/snapshot").await;
    assert_eq!(list[1]["snapstate"], "prepare");
    bench.fails("DELETE", "/qemu/101/snapshot/half", &[("force", "1")], "VM is locked (snapshot)").await;
    let unlock = |b: &Bench| b.world(|w| w.guests.get_mut(&101).unwrap().config.remove("lock"));
    unlock(&bench);
    let text = "unable to rollback to incomplete snapshot (snapstate = prepare)";
    bench.fails("POST", "/qemu/101/snapshot/half/rollback", &[], text).await;
    let (exit, _) = bench.run("DELETE", "/qemu/101/snapshot/half", &[]).await;
    assert!(exit.contains("snap_vm-101-disk-0_half"), "{exit}");
    assert_eq!(bench.get("/qemu/101/config").await["lock"], "snapshot-delete", "as the real one leaves it");
    unlock(&bench);
    bench.ok("DELETE", "/qemu/101/snapshot/half", &[("force", "1")]).await;
    assert_eq!(bench.get("/qemu/101/snapshot").await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn descriptions_change() {
    let bench = Bench::demo().await;
    let path = "/qemu/101/snapshot/before-upgrade/config";
    bench.call("PUT", path, &[("description", "other")]).await.data();
    assert_eq!(bench.get(path).await["description"], "other");
    assert_eq!(bench.get(path).await.get("digest"), None);
    let whole = bench.get("/qemu/101/config").await["digest"].clone();
    assert_eq!(bench.get("/qemu/101/config?snapshot=before-upgrade").await["digest"], whole);
    let none = bench.call("PUT", "/qemu/101/snapshot/nosuch/config", &[("description", "x")]).await;
    none.is(500, "snapshot 'nosuch' does not exist");
}
