//! Starting, stopping and everything between.

use pve_sim::world::HaResource;

use super::Bench;

#[tokio::test]
async fn calls_that_need_a_running_guest_say_so_at_once() {
    let bench = Bench::demo().await;
    for (guest, calls, text) in [
        ("qemu/101", vec!["reboot", "reset", "suspend", "resume"], "VM 101 not running"),
        ("lxc/201", vec!["reboot", "suspend", "resume", "stop", "shutdown"], "CT 201 not running"),
    ] {
        for call in calls {
            bench.call("POST", &format!("/{guest}/status/{call}"), &[]).await.is(500, text);
        }
    }
    // Recorded: a stopped machine is stopped again without complaint.
    for call in ["stop", "shutdown"] {
        bench.ok("POST", &format!("/qemu/101/status/{call}"), &[]).await;
    }
    bench.fails("POST", "/qemu/100/status/start", &[], "VM 100 already running").await;
    bench.call("POST", "/lxc/200/status/start", &[]).await.is(500, "CT 200 already running");
    let none = bench.call("POST", "/lxc/200/status/reset", &[]).await;
    assert_eq!(none.status, 501);
}

#[tokio::test]
async fn a_guest_that_does_not_listen_is_stopped_only_by_force() {
    let bench = Bench::demo().await;
    bench.world(|w| {
        for vmid in [100, 200] {
            w.guests.get_mut(&vmid).unwrap().deaf = true;
        }
    });
    let text = "VM quit/powerdown failed - got timeout";
    bench.fails("POST", "/qemu/100/status/shutdown", &[("timeout", "4")], text).await;
    assert_eq!(bench.get("/qemu/100/status/current").await["status"], "running");
    let log = bench.ok("POST", "/qemu/100/status/shutdown", &[("timeout", "2"), ("forceStop", "1")]).await;
    assert_eq!(log, ["VM still running - terminating now with SIGTERM", "TASK OK"]);
    assert_eq!(bench.get("/qemu/100/status/current").await["status"], "stopped");
    let (exit, _) = bench.run("POST", "/lxc/200/status/shutdown", &[]).await;
    assert!(exit.ends_with("failed: exit code 1"), "{exit}");
    bench.ok("POST", "/lxc/200/status/shutdown", &[("forceStop", "1")]).await;
}

#[tokio::test]
async fn pausing_and_suspending_to_disk() {
    let bench = Bench::demo().await;
    bench.ok("POST", "/qemu/100/status/suspend", &[]).await;
    let view = bench.get("/qemu/100/status/current").await;
    assert_eq!((&view["status"], &view["qmpstatus"]), (&"running".into(), &"paused".into()));
    bench.ok("POST", "/qemu/100/status/resume", &[]).await;
    assert_eq!(bench.get("/qemu/100/status/current").await["qmpstatus"], "running");
    bench.ok("POST", "/qemu/100/status/suspend", &[("todisk", "1")]).await;
    let view = bench.get("/qemu/100/status/current").await;
    assert_eq!((&view["status"], &view["lock"]), (&"stopped".into(), &"suspended".into()));
    let held = bench.call("PUT", "/qemu/100/config", &[("onboot", "0")]).await;
    held.is(500, "VM is locked (suspended)");
    bench.ok("POST", "/qemu/100/status/start", &[]).await;
    let view = bench.get("/qemu/100/status/current").await;
    assert_eq!((&view["status"], view.get("lock")), (&"running".into(), None));
    assert_eq!(bench.get("/qemu/100/config").await.get("vmstate"), None);
    bench.ok("POST", "/qemu/100/status/reset", &[]).await;
    bench.ok("POST", "/lxc/200/status/suspend", &[]).await;
    bench.ok("POST", "/lxc/200/status/resume", &[]).await;
}

#[tokio::test]
async fn a_locked_guest_does_not_move() {
    let bench = Bench::demo().await;
    bench.world(|w| {
        for vmid in [100, 101, 200, 201] {
            w.guests.get_mut(&vmid).unwrap().config.insert("lock".to_owned(), "backup".into());
        }
    });
    for (path, text) in [
        ("qemu/100/status/shutdown", "VM is locked (backup)"),
        ("qemu/100/status/stop", "VM is locked (backup)"),
        ("qemu/101/status/start", "VM is locked (backup)"),
        ("lxc/201/status/start", "CT is locked (backup)"),
        ("lxc/200/status/reboot", "CT is locked (backup)"),
    ] {
        bench.fails("POST", &format!("/{path}"), &[], text).await;
    }
    // The order of the two kinds differs: recorded.
    bench.fails("DELETE", "/qemu/101", &[], "VM is locked (backup)").await;
    bench.call("DELETE", "/lxc/201", &[]).await.is(500, "CT is locked (backup)");
}

#[tokio::test]
async fn an_ha_guest_is_handed_to_its_manager() {
    let bench = Bench::with(|w| {
        w.ha.insert(101, HaResource::new("stopped"));
    })
    .await;
    assert_eq!(bench.get("/qemu/101/status/current").await["ha"]["managed"], 1);
    let upid = bench.call("POST", "/qemu/101/status/start", &[]).await.data();
    assert!(upid.as_str().unwrap().contains(":hastart:101:"), "{upid}");
    let kept = bench.call("DELETE", "/qemu/101", &[]).await;
    kept.is(500, "unable to remove VM 101 - used in HA resources and purge parameter not set.");
}

/// Recorded: a start that warns has succeeded.
#[tokio::test]
async fn a_start_may_warn() {
    let bench = Bench::demo().await;
    bench.world(|w| {
        let config = &mut w.guests.get_mut(&101).unwrap().config;
        config.insert("scsihw".to_owned(), "virtio-scsi-pci".into());
        config.insert("scsi0".to_owned(), "local-lvm:vm-101-disk-0,iothread=1,size=32G".into());
    });
    let (exit, log) = bench.run("POST", "/qemu/101/status/start", &[]).await;
    assert_eq!(exit, "WARNINGS: 1");
    assert!(log[0].starts_with("WARN: iothread is only valid"), "{log:?}");
    assert_eq!(bench.get("/qemu/101/status/current").await["status"], "running");
}
