//! Reading and writing configurations.

use serde_json::{Value, json};

use super::Bench;

/// The row of a key in `…/pending`.
async fn pending(bench: &Bench, guest: &str, key: &str) -> Option<Value> {
    let rows = bench.get(&format!("/{guest}/pending")).await;
    rows.as_array().unwrap().iter().find(|r| r["key"] == key).cloned()
}

#[tokio::test]
async fn what_a_running_guest_cannot_take_waits_for_its_next_start() {
    let bench = Bench::demo().await;
    bench.call("PUT", "/qemu/100/config", &[("cores", "4"), ("description", "now")]).await.data();
    assert_eq!(
        pending(&bench, "qemu/100", "cores").await.unwrap(),
        json!({"key": "cores", "value": 2, "pending": 4})
    );
    assert_eq!(pending(&bench, "qemu/100", "description").await.unwrap()["value"], "now");
    assert_eq!(bench.get("/qemu/100/config").await["cores"], 4, "merged by default");
    assert_eq!(bench.get("/qemu/100/config?current=1").await["cores"], 2);
    bench.call("PUT", "/qemu/100/config", &[("revert", "cores")]).await.data();
    assert_eq!(bench.get("/qemu/100/config").await["cores"], 2);
    bench.call("PUT", "/qemu/100/config", &[("cores", "8"), ("delete", "cpu")]).await.data();
    assert_eq!(pending(&bench, "qemu/100", "cpu").await.unwrap()["delete"], 1);
    assert_eq!(bench.get("/qemu/100/config").await.get("cpu"), None);
    bench.ok("POST", "/qemu/100/status/reboot", &[]).await;
    let config = bench.get("/qemu/100/config?current=1").await;
    assert_eq!((&config["cores"], config.get("cpu")), (&8.into(), None));
    assert_eq!(pending(&bench, "qemu/100", "cores").await.unwrap(), json!({"key": "cores", "value": 8}));
}

#[tokio::test]
async fn features_of_a_running_container_wait() {
    let bench = Bench::demo().await;
    bench.call("PUT", "/lxc/200/config", &[("features", "nesting=1"), ("memory", "512")]).await.data();
    assert_eq!(bench.get("/lxc/200/config").await["features"], "nesting=1");
    let current = bench.get("/lxc/200/config?current=1").await;
    assert_eq!((current.get("features"), &current["memory"]), (None, &512.into()));
    let refused = bench.call("PUT", "/lxc/200/config", &[("features", "nesting=1,keyctl=1")]).await;
    assert_eq!(refused.status, 403);
    let root = bench.call("PUT", "/lxc/200/config", &[("mp0", "/mnt/usb,mp=/data")]).await;
    root.is(403, "Permission check failed (mount point type bind is only allowed for root@pam)");
    let fixed = bench.call("PUT", "/lxc/201/config", &[("unprivileged", "0")]).await;
    fixed.is(500, "unable to modify read-only option: 'unprivileged'");
}

#[tokio::test]
async fn pending_rows_of_a_container_are_as_recorded() {
    let bench = Bench::demo().await;
    let rows = bench.get("/lxc/201/pending").await;
    for row in rows.as_array().unwrap() {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["key", "value"]);
    }
    assert!(rows.to_string().contains("digest"));
    assert_eq!(pending(&bench, "lxc/201", "memory").await.unwrap()["value"], 1024);
}

#[tokio::test]
async fn disks_are_added_detached_and_removed() {
    let bench = Bench::demo().await;
    bench.call("PUT", "/qemu/101/config", &[("scsi1", "local-lvm:2")]).await.data();
    assert_eq!(bench.get("/qemu/101/config").await["scsi1"], "local-lvm:vm-101-disk-1,size=2G");
    bench.call("PUT", "/qemu/101/unlink", &[("idlist", "scsi1")]).await.data();
    let config = bench.get("/qemu/101/config").await;
    assert_eq!((config.get("scsi1"), &config["unused0"]), (None, &"local-lvm:vm-101-disk-1".into()));
    bench.call("PUT", "/qemu/101/config", &[("virtio0", "local-lvm:vm-101-disk-1")]).await.data();
    let config = bench.get("/qemu/101/config").await;
    assert_eq!(
        (config.get("unused0"), &config["virtio0"]),
        (None, &"local-lvm:vm-101-disk-1,size=2G".into())
    );
    bench.call("PUT", "/qemu/101/config", &[("delete", "virtio0"), ("force", "1")]).await.data();
    assert_eq!(bench.get("/qemu/101/config").await.get("unused0"), None);
    bench.call("PUT", "/qemu/101/config", &[("protection", "1")]).await.data();
    let kept = bench.call("PUT", "/qemu/101/config", &[("delete", "scsi0")]).await;
    kept.is(500, "can't remove drive 'scsi0' - protection mode enabled");
    let needed = bench.call("PUT", "/lxc/201/config", &[("delete", "rootfs")]).await;
    needed.is(500, "unable to delete required option 'rootfs'");
}

#[tokio::test]
async fn disks_grow_and_move() {
    let bench = Bench::demo().await;
    let log = bench.ok("PUT", "/qemu/101/resize", &[("disk", "scsi0"), ("size", "+1G")]).await;
    assert!(log.last().unwrap() == "TASK OK" && log.len() > 1, "{log:?}");
    assert_eq!(bench.get("/qemu/101/config").await["scsi0"], "local-lvm:vm-101-disk-0,size=33G");
    bench.ok("PUT", "/lxc/201/resize", &[("disk", "rootfs"), ("size", "9G")]).await;
    assert_eq!(bench.get("/lxc/201/status/current").await["maxdisk"], 9_u64 << 30);
    for (guest, disk, text) in [
        ("qemu/101", "scsi0", "shrinking disks is not supported"),
        ("lxc/201", "rootfs", "unable to shrink disk size"),
    ] {
        bench.call("PUT", &format!("/{guest}/resize"), &[("disk", disk), ("size", "1G")]).await.is(500, text);
    }
    let missing = bench.call("PUT", "/qemu/101/resize", &[("disk", "scsi9"), ("size", "+1G")]).await;
    missing.is(500, "disk 'scsi9' does not exist");
    let bad = bench.call("PUT", "/qemu/101/resize", &[("disk", "scsi0"), ("size", "-1G")]).await;
    bad.is_about("size", "regex");

    bench.ok("POST", "/qemu/102/move_disk", &[("disk", "scsi0"), ("storage", "local-lvm")]).await;
    let config = bench.get("/qemu/102/config").await;
    assert_eq!(config["scsi0"], "local-lvm:vm-102-disk-0,size=64G");
    assert_eq!(config["unused0"], "tank:vm-102-disk-0");
    let params = [("volume", "rootfs"), ("storage", "local-lvm"), ("delete", "1")];
    bench.ok("POST", "/lxc/201/move_volume", &params).await;
    let config = bench.get("/lxc/201/config").await;
    assert_eq!((&config["rootfs"], config.get("unused0")), (&"local-lvm:vm-201-disk-0,size=9G".into(), None));
    assert_eq!(config.get("lock"), None);
    let running =
        bench.call("POST", "/lxc/200/move_volume", &[("volume", "rootfs"), ("storage", "tank")]).await;
    running.is(500, "cannot move volumes of a running container");
    let same =
        bench.call("POST", "/qemu/102/move_disk", &[("disk", "scsi0"), ("storage", "local-lvm")]).await;
    same.is(500, "you can't move to the same storage with same format");
    let kept = [("disk", "scsi0"), ("storage", "tank"), ("delete", "1")];
    let kept = bench.call("POST", "/qemu/101/move_disk", &kept).await;
    kept.is(500, "you can't move a disk with snapshots and delete the source");
}

#[tokio::test]
async fn values_and_keys_are_checked() {
    let bench = Bench::demo().await;
    for (guest, key, value, text) in [
        ("qemu/101", "cores", "0", "minimum value of 1"),
        ("qemu/101", "onboot", "yes", "type check ('boolean') failed - got 'yes'"),
        ("qemu/101", "name", "a_b", "valid DNS name"),
        ("qemu/101", "ostype", "beos", "does not have a value in the enumeration"),
        ("qemu/101", "net0", "bridge=vmbr0", "net0.model"),
        ("qemu/101", "tags", "a;/", "invalid characters in tag"),
        ("qemu/101", "rootfs", "tank:1", "not defined in schema"),
        ("qemu/101", "scsi31", "tank:1", "not defined in schema"),
        ("qemu/101", "delete", "nosuch", "unknown option 'nosuch'"),
        ("lxc/201", "swap", "-1", "minimum value of 0"),
        ("lxc/201", "memory", "8", "minimum value of 16"),
        ("lxc/201", "mp0", "tank:1", "mp0.mp"),
        ("lxc/201", "skiplock", "1", "not defined in schema"),
    ] {
        let answer = bench.call("PUT", &format!("/{guest}/config"), &[(key, value)]).await;
        answer.is_about(key, text);
    }
    let both = bench.call("PUT", "/qemu/101/config", &[("onboot", "1"), ("delete", "onboot")]).await;
    both.is_about("delete", "at the same time");
    let nothing = bench.call("PUT", "/qemu/101/config", &[]).await;
    nothing.is(500, "no options specified");
    let skip = bench.call("PUT", "/qemu/101/config", &[("onboot", "1"), ("skiplock", "1")]).await;
    skip.is_about("skiplock", "Only root may use this option.");
    let late = bench.call("PUT", "/qemu/101/config", &[("startup", "order=1")]).await;
    late.is(403, "Permission check failed (/, Sys.Modify)");
    bench.call("PUT", "/lxc/201/config", &[("startup", "order=1")]).await.data();
}

#[tokio::test]
async fn nothing_of_a_refused_write_stays() {
    let bench = Bench::demo().await;
    let before = bench.get("/qemu/101/config").await;
    for params in [
        vec![("onboot", "0"), ("args", "-x")],
        vec![("onboot", "0"), ("scsi1", "nosuch:1")],
        vec![("onboot", "0"), ("digest", "0000000000000000000000000000000000000000")],
        vec![("onboot", "0"), ("cores", "x")],
    ] {
        assert_ne!(bench.call("PUT", "/qemu/101/config", &params).await.status, 200);
        assert_eq!(bench.get("/qemu/101/config").await, before, "{params:?}");
    }
}
