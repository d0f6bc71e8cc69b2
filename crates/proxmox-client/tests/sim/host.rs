//! The node itself: what is read is what the simulated world holds.

use std::time::Duration;

use proxmox_client::{JournalFilter, Pin, TaskEnd, Timeframe};
use pve_sim::world::Release;

use crate::bench::{Bench, GIB, LIMIT, Notes, QEMU, vmid};

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::with(release, |world| {
        world.set_usage("local-lvm", Some(40.0), Some(12.5));
    })
    .await;
    node(&b).await;
    disks(&b).await;
    system(&b).await;
    history(&b).await;
    tasks(&b).await;
    b.into_notes()
}

async fn node(b: &Bench) {
    let version = b.by(&b.report, "version", async |c| c.version().await).await;
    let (number, major) = if b.is_9() { ("9.1.8", 9) } else { ("8.4.14", 8) };
    assert_eq!((version.version.as_str(), version.major()), (number, Some(major)));
    let status = b.by(&b.report, "node status", async |c| c.node_status().await).await;
    let memory = status.memory;
    assert!(memory.used.unwrap() > 0 && memory.used.unwrap() < memory.total.unwrap());
    assert!(status.pveversion.unwrap().contains(number) && status.loadavg.len() == 3);
    assert!(status.cpuinfo.cpus.unwrap() >= 1 && status.rootfs.total.unwrap() > 0);
    b.sim.set_clock(1_800_000_000);
    let time = b.by(&b.report, "node time", async |c| c.node_time().await).await;
    assert!((1_800_000_000..1_800_000_060).contains(&time.time), "{time:?}");
    b.sim.set_clock(i64::try_from(crate::bench::unix()).unwrap());
    let certificates = b.by(&b.report, "certificates", async |c| c.certificates_info().await).await;
    let shown = b.report.presented().unwrap();
    let leaf = certificates.iter().find(|cert| {
        let digits = cert.fingerprint.as_deref().unwrap_or_default().replace(':', "").to_lowercase();
        format!("leaf:{digits}").parse::<Pin>().ok() == Some(shown.leaf)
    });
    let leaf = leaf.unwrap();
    assert_eq!((leaf.filename.as_deref(), leaf.notafter), (Some("pve-ssl.pem"), shown.not_after));
    assert!(leaf.san.iter().any(|name| name == "pve1") && leaf.pem.is_some());
    assert_eq!(certificates.len(), b.world(|w| w.certificates.len()));
}

async fn disks(b: &Bench) {
    let pools = b.by(&b.report, "lvmthin list", async |c| c.lvmthin().await).await;
    let [pool] = pools.as_slice() else { panic!("{pools:?}") };
    let (used, total, thin) = b.world(|w| {
        let lvm = &w.storages["local-lvm"];
        (lvm.used, lvm.total, lvm.thin.clone().unwrap())
    });
    assert_eq!((pool.used, pool.lv_size), (Some(used), Some(total)));
    assert_eq!(
        (pool.metadata_used, pool.metadata_size),
        (Some(thin.metadata_used), Some(thin.metadata_size))
    );
    assert_eq!((pool.lv.as_str(), pool.vg.as_deref()), (thin.lv.as_str(), Some(thin.vg.as_str())));
    let groups = b.by(&b.report, "lvm", async |c| c.lvm().await).await;
    assert_eq!((groups[0].name.as_str(), groups[0].size), (thin.vg.as_str(), Some(total + 16 * GIB)));
    assert_eq!(groups[0].children.len(), 1);

    let (used, total) = b.world(|w| (w.storages["tank"].used, w.storages["tank"].total));
    let zfs = b.by(&b.report, "zfs pools", async |c| c.zfs_pools().await).await;
    assert_eq!((zfs[0].name.as_str(), zfs[0].alloc, zfs[0].size), ("tank", Some(used), Some(total)));
    assert_eq!((zfs[0].free, zfs[0].health.as_deref()), (Some(total - used), Some("ONLINE")));
    b.world(|w| w.storages.get_mut("tank").unwrap().options.insert("health".into(), "DEGRADED".into()));
    let tank = b.by(&b.report, "zfs pool", async |c| c.zfs_pool("tank").await).await;
    assert_eq!((tank.state.as_deref(), tank.status.is_some()), (Some("DEGRADED"), true));
    let mirror = &tank.children[0].children[0];
    assert_eq!((mirror.name.as_str(), mirror.children[1].state.as_deref()), ("mirror-0", Some("FAULTED")));

    let quiet = b.by(&b.report, "disks", async |c| c.disks(false).await).await;
    let asked = b.by(&b.report, "disks", async |c| c.disks(true).await).await;
    assert_eq!((quiet.len(), asked.len()), (4, 4));
    assert!(quiet.iter().all(|disk| disk.health.as_deref() == Some("UNKNOWN") && disk.wearout.is_none()));
    let nvme = asked.iter().find(|disk| disk.devpath == "/dev/nvme0n1").unwrap();
    assert_eq!((nvme.health.as_deref(), nvme.wearout, nvme.gpt), (Some("PASSED"), Some(97.0), Some(true)));
    assert_eq!(asked.iter().filter(|disk| disk.used.as_deref() == Some("ZFS")).count(), 2);
    let ata = b.by(&b.report, "smart", async |c| c.smart("/dev/sda", false).await).await;
    assert_eq!((ata.health.as_deref(), ata.kind.as_deref()), (Some("PASSED"), Some("ata")));
    let heat = ata.attributes.iter().find(|one| one.id.as_deref().map(str::trim) == Some("194")).unwrap();
    assert_eq!((heat.value, heat.raw.as_deref()), (Some(64.0), Some("36 (Min/Max 20/48)")));
    let short = b.report.smart("/dev/nvme0n1", true).await.unwrap();
    assert_eq!((short.health.as_deref(), short.attributes.len()), (Some("PASSED"), 0));
    let text = b.report.smart("/dev/nvme0n1", false).await.unwrap();
    assert!(text.kind.as_deref() == Some("text") && text.text.unwrap().contains("Percentage Used"));
    b.unsent(async |c| c.smart("/dev/../etc", false).await).await;
    let mounts = b.by(&b.report, "directories", async |c| c.directories().await).await;
    assert!(mounts.iter().any(|mount| mount.path == "/mnt/pve/files"), "{mounts:?}");
}

async fn system(b: &Bench) {
    let services = b.by(&b.report, "services", async |c| c.services().await).await;
    let proxy = services.iter().find(|service| service.service == "pveproxy").unwrap();
    assert_eq!((proxy.state.as_deref(), proxy.unit_state.as_deref()), (Some("running"), Some("enabled")));
    let one = b.by(&b.report, "service", async |c| c.service("pveproxy").await).await;
    assert_eq!(one, *proxy);
    let versions = b.by(&b.report, "apt versions", async |c| c.package_versions().await).await;
    let manager = versions.iter().find(|package| package.package == "pve-manager").unwrap();
    assert!(manager.manager_version.is_some() && manager.current_state.as_deref() == Some("Installed"));
    let updates = b.by(&b.admin, "apt updates", async |c| c.updates().await).await;
    let manager_update = updates.iter().find(|package| package.package == "pve-manager").unwrap();
    assert_eq!(manager_update.old_version, manager.version);
    let ip = b.world(|w| w.node_ip.clone());
    let network = b.by(&b.report, "network", async |c| c.network().await).await;
    let bridge = network.iter().find(|one| one.iface == "vmbr0").unwrap();
    assert_eq!((&bridge.cidr, bridge.kind.as_deref()), (&Some(format!("{ip}/24")), Some("bridge")));
    assert_eq!((bridge.active, bridge.bridge_ports.as_deref()), (Some(true), Some("eno1")));
    let dns = b.by(&b.report, "dns", async |c| c.dns().await).await;
    assert!(dns.dns1.is_some());
    let usb = b.by(&b.admin, "usb devices", async |c| c.usb_devices().await).await;
    let stick = usb.iter().find(|device| device.serial.is_some()).unwrap();
    assert_eq!(
        (stick.vendid.as_deref(), stick.speed.as_deref(), stick.busnum),
        (Some("0781"), Some("480"), Some(1))
    );
    let subscription = b.by(&b.report, "subscription", async |c| c.subscription().await).await;
    assert_eq!(subscription.status.as_deref(), Some("notfound"));
    let traffic = b.by(&b.report, "netstat", async |c| c.guest_traffic().await).await;
    let running = b.world(|w| {
        w.guests.iter().filter(|(_, g)| g.running.is_some()).map(|(n, _)| vmid(*n)).collect::<Vec<_>>()
    });
    assert!(
        traffic.iter().all(|row| row.dev.is_some() && running.contains(&row.vmid.unwrap())),
        "{traffic:?}"
    );
    assert_eq!(traffic.len(), running.len());
}

async fn history(b: &Bench) {
    let upid = b.act.start(QEMU, vmid(101)).await.unwrap();
    assert_eq!(b.act.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    let last = JournalFilter { last: Some(2), ..JournalFilter::default() };
    let journal = b.by(&b.admin, "journal", async |c| c.journal(&last).await).await;
    assert_eq!(journal.lines.len(), 2);
    assert!(journal.start.is_some() && journal.end.is_some());
    assert!(journal.lines.iter().any(|line| line.contains(upid.as_str())), "{journal:?}");
    let both = JournalFilter { last: Some(1), since: Some(1), ..JournalFilter::default() };
    b.unsent(async |c| c.journal(&both).await).await;
    let later = JournalFilter { since: Some(b.now() + 3600), ..JournalFilter::default() };
    assert!(b.admin.journal(&later).await.unwrap().lines.is_empty());
    let log = b.by(&b.admin, "syslog", async |c| c.syslog(0, 2, None).await).await;
    assert_eq!((log.lines.len(), log.lines[0].n), (2, 1));
    assert!(log.total > 2);
    let rest = b.admin.syslog(2, 500, Some("pvedaemon")).await.unwrap();
    assert!(rest.lines.iter().all(|line| line.text.contains("pvedaemon") && line.n > 2));
    for (frame, step) in [(Timeframe::Hour, 60), (Timeframe::Day, 0)] {
        let points = b.by(&b.report, "node rrddata", async |c| c.node_rrd(frame).await).await;
        let [.., before, last] = points.as_slice() else { panic!("{points:?}") };
        assert!(step == 0 || last.time - before.time == step);
        assert!(last.values["memtotal"] > last.values["memused"]);
        assert_eq!(last.values.contains_key("pressurecpusome"), b.is_9());
    }
}

async fn tasks(b: &Bench) {
    use proxmox_client::{LogLine, TaskFilter, TaskResult, TaskSource, TaskStatus, WaitOptions};
    let ours = b.act.find_tasks(b.now() - 60, "qmstart", vmid(101), b.act.identity()).await.unwrap();
    let [task] = ours.as_slice() else { panic!("{ours:?}") };
    let all = TaskFilter { source: TaskSource::All, limit: Some(1), ..TaskFilter::default() };
    let list = b.ok("task list", async |c| c.tasks(&all).await).await;
    assert_eq!(list.first().map(|row| &row.upid), Some(&task.upid));
    let status = b.by(&b.report, "task status", async |c| c.task_status(&task.upid).await).await;
    assert_eq!(status, TaskStatus::Ended { exitstatus: Some("OK".to_owned()) });
    let log = b.by(&b.report, "task log", async |c| c.task_log(&task.upid, 0, 0).await).await;
    assert_eq!(log.total, log.lines.len() as u64);
    let recent = b.by(&b.report, "cluster tasks", async |c| c.cluster_tasks().await).await;
    assert!(recent.iter().any(|row| row.upid == task.upid && !row.is_running()));

    // One that is stopped.
    b.world(|w| w.task_duration = Duration::from_secs(3600));
    let upid = b.act.stop(QEMU, vmid(101)).await.unwrap();
    let active = TaskFilter { source: TaskSource::Active, vmid: Some(vmid(101)), ..TaskFilter::default() };
    assert!(b.act.tasks(&active).await.unwrap().iter().any(|row| row.upid == upid && row.is_running()));
    assert_eq!(b.act.wait_task(&upid, Duration::ZERO).await, TaskEnd::StillRunning { upid: upid.clone() });
    let error = b.report.task_stop(&upid).await.unwrap_err();
    assert!(error.to_string().contains("Sys.Modify"), "{error}");
    b.by(&b.admin, "task stop", async |c| c.task_stop(&upid).await).await;
    let mut lines = Vec::new();
    let end = b
        .act
        .wait_task_with(&upid, WaitOptions::new(LIMIT), |line: &LogLine| lines.push(line.text.clone()))
        .await;
    let TaskEnd::Failed { text, last_lines } = end else { panic!("{end:?}") };
    assert!(text.contains("interrupt") && lines == last_lines, "{text} {lines:?} {last_lines:?}");
    let failed = TaskFilter {
        results: vec![TaskResult::Error],
        errors: true,
        user: Some("writ@pve!act".into()),
        ..TaskFilter::default()
    };
    let rows = b.act.tasks(&failed).await.unwrap();
    assert_eq!(rows.iter().map(|row| &row.upid).collect::<Vec<_>>(), [&upid]);
    // The other token of the same user sees it only because it is an auditor.
    b.world(|w| {
        w.access.grant("/nodes", "writ@pve!report", "NoAccess");
        w.task_duration = Duration::ZERO;
    });
    assert!(b.report.tasks(&failed).await.unwrap().is_empty());
    let error = b.report.task_status(&upid).await.unwrap_err();
    assert!(error.to_string().contains("Sys.Audit"), "{error}");
}
