//! Backups: made, found, read, protected, pruned, removed; and guests out of them.

use std::time::Duration;

use proxmox_client::{
    Backup, BackupMode, Compression, Content, ContentFilter, DestroyFirst, ErrorClass, GuestKind, Mark,
    PruneScope, Restore, Retention, Started, TaskEnd, Volid, Volume, VolumeChange, VolumeKind, classify_text,
};
use pve_sim::world::{Fault, Injection, Release};

use crate::bench::{Bench, LIMIT, LXC, Notes, QEMU, storage, vmid, volid};

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::new(release).await;
    for (kind, number) in [(QEMU, 101), (LXC, 201)] {
        kept(&b, kind, number).await;
    }
    refused(&b).await;
    limited(&b).await;
    for (kind, number) in [(QEMU, 101), (LXC, 201)] {
        restored(&b, kind, number).await;
        lost(&b, kind, number).await;
    }
    b.into_notes()
}

/// The guest's backups on `local`, oldest first.
async fn of(b: &Bench, number: u32) -> Vec<Volume> {
    let filter = ContentFilter { content: Some(Content::Backup), vmid: Some(vmid(number)) };
    let mut found = b.act.storage_content(&storage("local"), filter).await.unwrap();
    found.sort_by(|a, b| a.volid.cmp(&b.volid));
    found
}

async fn save(b: &Bench, backup: &Backup, number: u32) -> Volid {
    let before = of(b, number).await;
    b.run("vzdump", async |c| c.backup(backup).await).await;
    let new: Vec<Volume> = of(b, number).await.into_iter().filter(|v| !before.contains(v)).collect();
    let [one] = new.as_slice() else { panic!("one new backup: {new:?}") };
    one.volid.clone()
}

async fn kept(b: &Bench, kind: GuestKind, number: u32) {
    let plan = Backup::new(vmid(number), storage("local"));
    b.unsent(async |c| c.backup(&plan.clone().notes("a\0b")).await).await;
    b.unsent(async |c| c.backup(&plan.clone().then_prune(Retention::new())).await).await;
    b.unsent(async |c| c.backup(&plan.clone().wait_for_others(Duration::from_secs(700_000))).await).await;
    let first = plan.clone().protected().notes("{{guestname}} of {{node}}, {{vmid}}\nback\\slash");
    let first = save(b, &first.mode(BackupMode::Stop).compress(Compression::Gzip), number).await;
    let name = b.act.guest_config(kind, vmid(number)).await.unwrap().name().unwrap().to_owned();
    assert_eq!(
        (first.kind(), first.guest(), first.vmid()),
        (VolumeKind::Backup, Some(kind), Some(vmid(number)))
    );
    let row = of(b, number).await.into_iter().find(|v| v.volid == first).unwrap();
    assert_eq!((row.protected, row.subtype.as_deref()), (Some(true), Some(kind.as_str())));
    assert!(b.now().abs_diff(row.ctime.unwrap()) < 120 && row.format.unwrap().ends_with("gz"));
    let info = b.ok("volume", async |c| c.volume_info(&first).await).await;
    let notes = format!("{name} of pve1, {number}\nback\\slash");
    assert_eq!(
        (info.notes.as_deref().map(str::trim_end), info.protected),
        (Some(notes.as_str()), Some(true))
    );
    assert_eq!(info.size, row.size);

    // What it holds.
    let held = b.ok("vzdump extractconfig", async |c| c.backup_config(&first).await).await;
    assert_eq!((held.name(), held.kind()), (Some(name.as_str()), Some(kind)));
    let disk = if kind == QEMU { "scsi0" } else { "rootfs" };
    assert_eq!(held.get(disk).map(str::to_owned), Some(b.line(number, disk)));

    // A protected one cannot be deleted, which only the task tells.
    let text = b.fails("volume delete", async |c| c.volume_delete(&first).await).await;
    assert!(text.contains("protected"), "{text}");
    let change = VolumeChange::new().protected(false).notes("other");
    b.unsent(async |c| c.volume_update(&first, &VolumeChange::new()).await).await;
    b.ok("volume update", async |c| c.volume_update(&first, &change).await).await;
    assert_eq!(b.world(|w| w.volume(first.as_str()).unwrap().notes.clone()), "other");

    let (second, third) = (save(b, &plan, number).await, save(b, &plan, number).await);
    let (keep, scope) = (Retention::new().last(1), PruneScope::Guest(kind, vmid(number)));
    let local = storage("local");
    let items = b.ok("prune preview", async |c| c.prune_preview(&local, Some(&keep), scope).await).await;
    let mark = |volid: &Volid| items.iter().find(|item| item.volid == *volid).map(|item| item.mark.clone());
    assert_eq!([&first, &second, &third].map(mark), [Mark::Remove, Mark::Remove, Mark::Keep].map(Some));
    assert_eq!(of(b, number).await.len(), 3, "a preview deletes nothing");
    b.unsent(async |c| c.prune(&local, &Retention::keep_all().last(1), scope).await).await;
    b.act.volume_update(&second, &VolumeChange::new().protected(true)).await.unwrap();
    b.run("prune", async |c| c.prune(&local, &keep, scope).await).await;
    let left: Vec<Volid> = of(b, number).await.into_iter().map(|v| v.volid).collect();
    assert_eq!(left, [second.clone(), third.clone()], "the protected one stays");
    let everybody = async |c: &proxmox_client::Client| c.prune(&local, &keep, PruneScope::EveryGuest).await;
    assert_eq!(b.end_by(&b.admin, "prune", everybody).await, TaskEnd::Ok);
    let error = b.no("prune", everybody).await;
    assert!(
        matches!(error.class(), ErrorClass::Permission { privilege, .. } if privilege == "Datastore.Allocate")
    );
    // An auditor sees none of them in the content, all of them in the preview.
    let filter = ContentFilter { content: Some(Content::Backup), vmid: None };
    assert_eq!(b.report.storage_content(&local, filter).await.unwrap(), []);
    let all = Retention::keep_all();
    let list = b.report.prune_preview(&local, Some(&all), PruneScope::EveryGuest).await.unwrap();
    assert!(list.iter().any(|item| item.volid == third && item.vmid == Some(number.into())));

    b.act.volume_update(&second, &VolumeChange::new().protected(false)).await.unwrap();
    b.run("volume delete", async |c| c.volume_delete(&second).await).await;
    b.run("volume delete", async |c| c.volume_delete(&second).await).await;
    let gone = b.act.volume_info(&second).await.unwrap_err();
    // The text does not say that it is gone.
    assert_eq!((gone.class(), gone.status()), (ErrorClass::Other, Some(500)), "{gone}");
    let more =
        b.ok("storage content", async |c| c.storage_content(&local, ContentFilter::default()).await).await;
    assert!(
        more.iter().any(|v| v.content.as_deref() == Some("iso")) && more.iter().any(|v| v.volid == third)
    );
    let disk = volid(b.line(number, disk).split(',').next().unwrap());
    let info = b.ok("volume", async |c| c.volume_info(&disk).await).await;
    assert!(info.size.is_some() && info.format.is_some());
}

async fn refused(b: &Bench) {
    let to = |number: u32, on: &str| Backup::new(vmid(number), storage(on));
    // Only the task knows.
    for (plan, says) in [(to(999, "local"), "VM 999"), (to(100, "offl"), "offl")] {
        let Started::Task(upid) = b.act.backup(&plan).await.unwrap() else { panic!("a task") };
        let TaskEnd::Failed { text, last_lines } = b.act.wait_task(&upid, LIMIT).await else {
            panic!("{says} should fail")
        };
        assert!(last_lines.iter().chain([&text]).any(|line| line.contains(says)), "{text} {last_lines:?}");
    }
    b.world(|w| w.guests.get_mut(&102).unwrap().config.insert("lock".into(), "snapshot".into()));
    let end = b.end("vzdump", async |c| c.backup(&to(102, "local")).await).await;
    let TaskEnd::Failed { text, last_lines } = end else { panic!("{end:?}") };
    assert_eq!(text, "job errors");
    let locked = |line: &String| classify_text(line) == ErrorClass::Locked { by: "snapshot".to_owned() };
    assert!(last_lines.iter().any(locked), "{last_lines:?}");
    // A guest of another node is nothing to do here.
    b.world(|w| {
        w.add_peer("pve2", true);
        let guest = w.guests[&100].clone();
        w.peers.get_mut("pve2").unwrap().world.guests.insert(150, guest);
    });
    assert_eq!(b.ok("vzdump", async |c| c.backup(&to(150, "local")).await).await, Started::AtOnce);
    b.world(|w| w.peers.clear());
    let error = b.report.backup(&to(100, "local")).await.unwrap_err();
    assert!(
        matches!(error.class(), ErrorClass::Permission { privilege, .. } if privilege == "Datastore.AllocateSpace")
    );
    let defaults =
        b.by(&b.report, "vzdump defaults", async |c| c.backup_defaults(Some(&storage("local"))).await).await;
    assert_eq!(
        (defaults.mode.as_deref(), defaults.remove, defaults.lockwait),
        (Some("snapshot"), Some(true), Some(180))
    );
    assert_eq!(defaults.storage.as_deref(), Some("local"));
}

/// A storage with a limit: nothing is removed unless that was asked for.
async fn limited(b: &Bench) {
    b.world(|w| {
        let keep = serde_json::json!("keep-last=2");
        w.storages.get_mut("local").unwrap().options.insert("prune-backups".to_owned(), keep);
    });
    let plan = Backup::new(vmid(100), storage("local")).compress(Compression::None);
    let oldest = save(b, &plan, 100).await;
    save(b, &plan.clone().mode(BackupMode::Suspend), 100).await;
    let TaskEnd::Failed { text, last_lines } = b.end("vzdump", async |c| c.backup(&plan).await).await else {
        panic!("the limit")
    };
    assert_eq!(text, "job errors");
    assert!(last_lines.iter().any(|line| line.contains("max backup limit of 2")), "{last_lines:?}");
    let prunes = plan.clone().then_prune(Retention::new().last(2));
    assert_eq!(b.end_by(&b.admin, "vzdump", async |c| c.backup(&prunes).await).await, TaskEnd::Ok);
    let left = of(b, 100).await;
    assert!(left.len() == 2 && left.iter().all(|v| v.volid != oldest), "{left:?}");
    let error = b.no("vzdump", async |c| c.backup(&prunes).await).await;
    assert!(
        matches!(error.class(), ErrorClass::Permission { privilege, .. } if privilege == "Datastore.Allocate")
    );
    let items = b
        .ok("prune preview", async |c| c.prune_preview(&storage("local"), None, PruneScope::EveryGuest).await)
        .await;
    assert!(items.iter().filter(|item| item.vmid == Some(100)).all(|item| item.mark == Mark::Keep));
}

fn words(kind: GuestKind) -> (&'static str, &'static str, &'static str, u32) {
    match kind {
        GuestKind::Qemu => ("qemu create", "qmrestore", "scsi0", 500),
        GuestKind::Lxc => ("lxc create", "vzrestore", "rootfs", 510),
    }
}

async fn restored(b: &Bench, kind: GuestKind, number: u32) {
    let (call, task, disk, new) = words(kind);
    let archive = of(b, number).await.pop().unwrap().volid;
    let onto = |id: u32| Restore::new(vmid(id), archive.clone(), storage("tank"));
    let other = if kind == QEMU { LXC } else { QEMU };
    b.unsent(async |c| c.restore(other, &onto(new)).await).await;
    b.unsent(async |c| c.restore(kind, &onto(new).over(DestroyFirst::the_guest(vmid(number)))).await).await;
    b.unsent(async |c| c.restore(kind, &onto(new).option(disk, "tank:1")).await).await;
    b.unsent(async |c| c.restore(LXC, &onto(new).live()).await).await;
    b.unsent(async |c| c.restore(QEMU, &onto(new).unprivileged(true)).await).await;
    let iso = volid("local:iso/debian-13.1.0-amd64-netinst.iso");
    b.unsent(async |c| c.restore(kind, &Restore::new(vmid(new), iso.clone(), storage("tank"))).await).await;

    let name = if kind == QEMU { "name" } else { "hostname" };
    let fresh = onto(new).unique().option(name, "proof").option("onboot", 0);
    b.run(call, async |c| c.restore(kind, &fresh).await).await;
    assert_eq!((b.line(new, name), b.runs(new)), ("proof".to_owned(), false));
    assert!(b.line(new, disk).starts_with("tank:"));
    let macs = async |id: u32| b.act.guest_config(kind, vmid(id)).await.unwrap().macs();
    assert_ne!(macs(new).await, macs(number).await);
    b.run(call, async |c| c.restore(kind, &onto(new + 1)).await).await;
    assert_eq!(macs(new + 1).await, macs(number).await, "without `unique` it is the same guest");
    let error = b.no(call, async |c| c.restore(kind, &onto(number)).await).await;
    assert!(error.message().unwrap().contains("already exists"), "{error}");
    let tasks = b.act.find_tasks(b.now() - 60, task, vmid(new), b.act.identity()).await.unwrap();
    assert_eq!(tasks.len(), 1);

    // Over a guest that exists.
    b.world(|w| w.guests.get_mut(&number).unwrap().config.insert("description".into(), "newer".into()));
    let over = onto(number).over(DestroyFirst::the_guest(vmid(number)));
    b.run(call, async |c| c.restore(kind, &over).await).await;
    assert_eq!(b.line(number, "description"), "");
    b.run(&format!("{kind} start"), async |c| c.start(kind, vmid(number)).await).await;
    let running = b.act.restore(kind, &over).await;
    match (kind, running) {
        (GuestKind::Lxc, Err(error)) => assert!(error.message().unwrap().contains("running"), "{error}"),
        (GuestKind::Qemu, Ok(upid)) => {
            let end = b.act.wait_task(&upid, LIMIT).await;
            assert!(matches!(&end, TaskEnd::Failed { text, .. } if text.contains("running")), "{end:?}");
        }
        (_, other) => panic!("{other:?}"),
    }
    b.run(&format!("{kind} stop"), async |c| c.stop(kind, vmid(number)).await).await;
}

/// The archive is broken: the old guest is gone by then, and the client says that it failed.
async fn lost(b: &Bench, kind: GuestKind, number: u32) {
    let (call, task, disk, _) = words(kind);
    let archive = of(b, number).await.pop().unwrap().volid;
    let over =
        Restore::new(vmid(number), archive, storage("tank")).over(DestroyFirst::the_guest(vmid(number)));
    let old = b.line(number, disk);
    let old = old.split(',').next().unwrap().to_owned();
    let text = "wrong extent header checksum".to_owned();
    let fault = Fault::Fail { text: text.clone(), leave_lock: false };
    b.world(|w| w.injections.push(Injection { task: task.to_owned(), fault }));
    assert_eq!(b.fails(call, async |c| c.restore(kind, &over).await).await, text);
    match kind {
        GuestKind::Qemu => {
            assert!(b.world(|w| w.missing_volume(&w.guests[&number]).is_some()), "the disk is gone");
            let left = b.act.storage_content(&storage("tank"), ContentFilter::default()).await.unwrap();
            assert!(left.iter().all(|v| v.volid.as_str() != old), "{left:?}");
        }
        GuestKind::Lxc => {
            assert!(b.world(|w| !w.guests.contains_key(&number)));
            let error = b.act.guest_config(kind, vmid(number)).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::NotFound);
        }
    }
    let again = b.end(call, async |c| c.restore(kind, &over).await).await;
    assert_eq!(again, TaskEnd::Ok, "the archive is still there");
}
