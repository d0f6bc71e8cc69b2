//! Backup jobs: locks, faults, limits, retention.

use std::time::Duration;

use pve_sim::world::{Fault, HaResource, Storage};
use serde_json::{Value, json};

use super::{ACT, ADMIN, Bench};

const VZDUMP: &str = "/nodes/pve1/vzdump";

async fn slow() -> Bench {
    Bench::with(|c| c.task_duration = Duration::from_secs(600)).await
}

#[tokio::test]
async fn a_guest_is_locked_while_it_is_saved_and_a_second_job_waits() {
    let b = slow().await;
    let params = |vmid: &'static str| [("vmid", vmid), ("storage", "local")];
    let first = b.call(ACT, "POST", VZDUMP, &params("100")).await.data();
    let first = first.as_str().unwrap();
    assert_eq!(b.get(ACT, "/nodes/pve1/qemu/100/config").await["lock"], "backup");
    let second = b.call(ACT, "POST", VZDUMP, &params("101")).await.data();
    assert_eq!(b.get(ACT, "/nodes/pve1/qemu/101/config").await.get("lock"), None, "it waits");
    // One that may not wait gives up without a last line.
    let hasty = [("vmid", "101"), ("storage", "local"), ("lockwait", "0")];
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &hasty).await;
    assert_eq!(exit, "unexpected status");
    let wanted = [
        "ERROR: can't acquire lock '/var/run/vzdump.lock' (wait = 0)",
        "INFO: notified via target `mail-to-root`",
    ];
    assert_eq!(log, wanted);

    assert_eq!(b.call(ACT, "DELETE", &format!("/nodes/pve1/tasks/{first}"), &[]).await.data(), Value::Null);
    let (exit, log) = b.finish(first).await;
    assert_eq!(exit, "interrupted by signal");
    let end: Vec<&str> = log.iter().rev().take(4).map(String::as_str).collect();
    assert_eq!(end[0], "TASK ERROR: interrupted by signal");
    assert_eq!(end[2], "ERROR: Backup job failed - interrupted by signal");
    assert!(log.contains(&"ERROR: Backup of VM 100 failed - interrupted by signal".to_owned()));
    assert_eq!(b.get(ACT, "/nodes/pve1/qemu/100/config").await.get("lock"), None);
    assert_eq!(b.backups(ACT).await, Vec::<String>::new());
    // Now the second has the lock.
    assert_eq!(b.get(ACT, "/nodes/pve1/qemu/101/config").await["lock"], "backup");
    let status = b.get(ACT, &format!("/nodes/pve1/tasks/{}/status", second.as_str().unwrap())).await;
    assert_eq!(status["status"], "running");
    b.sim.stop().await;
}

#[tokio::test]
async fn faults_of_backups() {
    let b = Bench::demo().await;
    b.fail_next("vzdump", "the disk is on fire");
    let params = [("vmid", "100,101"), ("storage", "local")];
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &params).await;
    assert_eq!(exit, "job errors");
    assert!(log.contains(&"ERROR: Backup of VM 100 failed - the disk is on fire".to_owned()), "{log:?}");
    assert_eq!(b.backups(ACT).await.len(), 1, "the other guest is saved");
    let params = [("vmid", "100"), ("storage", "local")];
    b.order("vzdump", Fault::Warn(2));
    assert_eq!(b.run(ACT, "POST", VZDUMP, &params).await.0, "WARNINGS: 2");
    b.order("vzdump", Fault::Kill);
    assert_eq!(b.run(ACT, "POST", VZDUMP, &params).await.0, "unexpected status");
    assert_eq!(b.get(ACT, "/nodes/pve1/qemu/100/config").await["lock"], "backup", "nobody cleaned up");
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &params).await;
    assert_eq!(exit, "job errors");
    assert!(log.contains(&"ERROR: Backup of VM 100 failed - VM is locked (backup)".to_owned()), "{log:?}");
    b.sim.stop().await;
}

#[tokio::test]
async fn a_full_storage_fails_the_backup() {
    let b = Bench::demo().await;
    b.world(|w| w.set_usage("local", Some(100.0), None));
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &[("vmid", "200"), ("storage", "local")]).await;
    assert_eq!(exit, "job errors", "{log:?}");
    assert!(b.backups(ACT).await.is_empty());
    assert_eq!(b.get(ACT, "/nodes/pve1/lxc/200/config").await.get("lock"), None);
    b.sim.stop().await;
}

#[tokio::test]
async fn retention_after_a_backup() {
    let b = Bench::demo().await;
    b.world(|w| {
        let local = w.storages.get_mut("local").unwrap();
        local.options.insert("prune-backups".to_owned(), json!("keep-last=2"));
    });
    let kept = b.save("100", &[("protected", "1")]).await;
    let oldest = b.save("100", &[]).await;
    let other = b.save("101", &[]).await;
    let middle = b.save("100", &[]).await;
    // Without pruning the limit counts, and a protected backup is the way around it.
    let limit = "There is a max backup limit of 2 enforced by the target storage or the vzdump parameters. Either increase the limit or delete old backups.";
    let (exit, log) =
        b.run(ACT, "POST", VZDUMP, &[("vmid", "100"), ("storage", "local"), ("remove", "0")]).await;
    assert_eq!(exit, "job errors");
    assert!(log.contains(&format!("ERROR: Backup of VM 100 failed - {limit}")), "{log:?}");
    let spare = b.save("100", &[("remove", "0"), ("protected", "1")]).await;
    // With pruning, which is the default, the oldest that is not protected goes.
    let params = [("vmid", "100"), ("storage", "local")];
    let (_, log) = b.run(ACT, "POST", VZDUMP, &params).await;
    assert!(log.contains(&format!("INFO: removing backup '{oldest}'")), "{log:?}");
    let left = b.backups(ACT).await;
    assert!(!left.contains(&oldest));
    for volid in [&kept, &other, &middle, &spare] {
        assert!(left.contains(volid), "{volid} in {left:?}");
    }
    assert_eq!(left.len(), 5);
    b.sim.stop().await;
}

#[tokio::test]
async fn five_protected_backups_are_the_limit() {
    let b = Bench::demo().await;
    for _ in 0..5 {
        b.save("101", &[("protected", "1")]).await;
    }
    let text = "The number of protected backups per guest is limited to 5 on storage 'local'";
    let params = [("vmid", "101"), ("storage", "local"), ("protected", "1")];
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &params).await;
    assert_eq!(exit, "job errors");
    assert!(log.contains(&format!("ERROR: Backup of VM 101 failed - {text}")), "{log:?}");
    let plain = b.save("101", &[]).await;
    let path = format!("/nodes/pve1/storage/local/content/{plain}");
    b.call(ACT, "PUT", &path, &[("protected", "1")]).await.refused(500, text);
    // Those who may do everything with the storage have no limit.
    assert_eq!(b.call(ADMIN, "PUT", &path, &[("protected", "1")]).await.data(), Value::Null);
    b.sim.stop().await;
}

#[tokio::test]
async fn choices_of_guests() {
    let b = Bench::demo().await;
    let post = |params: Vec<(&'static str, &'static str)>| {
        let b = &b;
        async move { b.call(ACT, "POST", VZDUMP, &params).await }
    };
    let local = ("storage", "local");
    post(vec![local, ("all", "1"), ("vmid", "100")])
        .await
        .wrong("all", "option conflicts with option 'vmid'");
    post(vec![local, ("exclude", "101"), ("vmid", "100")])
        .await
        .wrong("exclude", "option conflicts with option 'vmid'");
    post(vec![("vmid", "100"), ("notes-template", "x")])
        .await
        .wrong("storage", "missing property - 'notes-template' requires this property");
    assert_eq!(post(vec![local, ("pool", "nosuch")]).await.data(), "OK", "nothing to do is no task");
    let upid = post(vec![local, ("all", "1"), ("exclude", "100,101")]).await.data();
    let upid = upid.as_str().unwrap();
    assert!(upid.contains(":vzdump::writ@pve!act:"), "{upid}");
    assert_eq!(b.finish(upid).await.0, "OK");
    let saved = b.backups(ACT).await;
    assert_eq!(saved.len(), 3, "{saved:?}");
    b.world(|w| w.ha.insert(100, HaResource::new("started")));
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &[("vmid", "100"), local, ("mode", "stop")]).await;
    assert_eq!(exit, "job errors", "{log:?}");
    b.sim.stop().await;
}

#[tokio::test]
async fn a_backup_server_has_other_names() {
    let b = Bench::with(|c| {
        let pbs =
            Storage::new("pbs", "backup", 1 << 40).with("server", "192.0.2.9").with("datastore", "main");
        c.world.storages.insert("pbs1".to_owned(), pbs);
    })
    .await;
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &[("vmid", "200"), ("storage", "pbs1")]).await;
    assert_eq!(exit, "OK");
    let line =
        log.iter().find_map(|l| l.strip_prefix("INFO: creating Proxmox Backup Server archive '")).unwrap();
    let name = line.trim_end_matches('\'');
    assert!(name.starts_with("ct/200/20") && name.ends_with('Z'), "{name}");
    let list = b.get(ACT, "/nodes/pve1/storage/pbs1/content").await;
    assert_eq!(list[0]["volid"], format!("pbs1:backup/{name}"));
    assert_eq!((&list[0]["format"], &list[0]["subtype"]), (&json!("pbs-ct"), &json!("lxc")));
    let row = b.get(ACT, "/nodes/pve1/storage/pbs1/status").await;
    assert_eq!((&row["type"], &row["shared"]), (&json!("pbs"), &json!(1)));
    b.world(|w| w.storages.get_mut("pbs1").unwrap().active = false);
    let away = b.call(ACT, "GET", "/nodes/pve1/storage/pbs1/content", &[]).await;
    assert!(away.status == 500 && away.reason.contains("192.0.2.9:8007"), "{away:?}");
    b.sim.stop().await;
}

#[tokio::test]
async fn containers_fall_back_to_suspend() {
    let b = Bench::with(|c| {
        let lvm = Storage::new("lvm", "rootdir,images", 1 << 40).with("vgname", "vg");
        c.world.storages.insert("thick".to_owned(), lvm);
        let guest = c.world.guests.get_mut(&200).unwrap();
        guest.config.insert("rootfs".to_owned(), json!("thick:vm-200-disk-0,size=4G"));
        guest.config.insert("mp0".to_owned(), json!("/srv/data,mp=/data"));
    })
    .await;
    let (exit, log) = b.run(ACT, "POST", VZDUMP, &[("vmid", "200"), ("storage", "local")]).await;
    assert_eq!(exit, "OK");
    for line in [
        "INFO: trying 'suspend' mode instead",
        "INFO: backup mode: suspend",
        "INFO: excluding bind mount point mp0 ('/data') from backup (not a volume)",
    ] {
        assert!(log.iter().any(|l| l == line), "{line} in {log:#?}");
    }
    b.sim.stop().await;
}
