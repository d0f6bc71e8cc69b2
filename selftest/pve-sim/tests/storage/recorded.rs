//! The recorded exchanges about storages and backups, in a world like the recorded one.

use pve_sim::world::{Config, Guest, Kind, Now, Release, Storage, World};
use serde_json::{Value, json};

use super::{ACT, ADMIN, Bench, REPORT};

fn config(value: Value) -> Config {
    value.as_object().unwrap().clone().into_iter().collect()
}

/// The storages and guests of the recordings.
fn recorded(w: &mut World) {
    w.guests.clear();
    w.storages.clear();
    w.stock.volumes.clear();
    let all = "vztmpl,backup,snippets,images,rootdir,iso";
    w.storages.insert("local".to_owned(), Storage::new("dir", all, 270_553_174_016));
    w.storages.insert("btr".to_owned(), Storage::new("btrfs", "rootdir,images", 3_221_225_472));
    let mut offl = Storage::new("dir", "backup", 0).with("is_mountpoint", "1").with("path", "/srv/off");
    offl.active = false;
    w.storages.insert("offl".to_owned(), offl);
    let vm = json!({
        "meta": "creation-qemu=10.0.13,ctime=1795317658", "vmgenid": "939c158f-07fc-404a-a43b-9852fa42d49a",
        "cores": 1, "smbios1": "uuid=1575a37c-cbc2-44a6-8cba-f4e510bb5d49", "kvm": 0, "vga": "none",
        "name": "vm100", "scsi0": "local:100/vm-100-disk-0.qcow2,size=52429K", "tags": "prod;web",
        "onboot": 0, "ostype": "l26", "description": "Zeile 1\nZeile 2: äöü", "serial0": "socket",
        "memory": "64", "scsihw": "virtio-scsi-single", "boot": "order=scsi0", "cpu": "qemu64",
    });
    w.guests.insert(100, Guest::new(Kind::Qemu, config(vm)));
    let now = Now { mono: std::time::Duration::ZERO, unix: 1_795_317_660 };
    w.add_snapshot(100, "before", "", now);
    for vmid in [200, 202] {
        let disk = if vmid == 200 { "btr:200/vm-200-disk-0.raw" } else { "local:202/vm-202-disk-0.raw" };
        let ct = json!({
            "unprivileged": 1, "rootfs": format!("{disk},size=1G"), "ostype": "unmanaged", "swap": 0,
            "hostname": format!("ct{vmid}"), "memory": 128, "arch": "amd64",
        });
        w.guests.insert(vmid, Guest::new(Kind::Lxc, config(ct)));
    }
}

/// What differs from run to run: times, ids, rates, sizes.
fn same(line: &str) -> String {
    let mut out = String::new();
    for c in line.chars() {
        out.push(if c.is_ascii_digit() { '0' } else { c });
    }
    let cut = ["INFO: started backup task", "INFO: Total bytes written", "INFO: archive file size"];
    cut.iter().find(|c| out.starts_with(**c)).map_or(out.clone(), |c| (*c).to_owned())
}

async fn compare(b: &Bench, params: &[(&str, &str)], exit: &str, lines: &[&str]) {
    let (got, log) = b.run(ACT, "POST", "/nodes/pve1/vzdump", params).await;
    assert_eq!(got, exit, "{params:?}: {log:#?}");
    let ours: Vec<String> = log.iter().skip(1).map(|l| same(l)).collect();
    let theirs: Vec<String> = lines.iter().map(|l| same(l)).collect();
    assert_eq!(ours, theirs, "{params:?}");
}

#[tokio::test]
async fn logs_of_backups() {
    let b = Bench::with(|c| recorded(&mut c.world)).await;
    let end =
        ["INFO: Backup job finished successfully", "INFO: notified via target `mail-to-root`", "TASK OK"];
    let bad = [
        "INFO: Failed at 2026-11-22 03:15:27",
        "INFO: Backup job finished with errors",
        "INFO: notified via target `mail-to-root`",
        "TASK ERROR: job errors",
    ];
    let ct = |id: &str| {
        [
            format!("INFO: Starting Backup of VM {id} (lxc)"),
            "INFO: Backup started at 2026-11-22 03:16:23".to_owned(),
            "INFO: status = stopped".to_owned(),
            "INFO: backup mode: stop".to_owned(),
            "INFO: ionice priority: 7".to_owned(),
            format!("INFO: CT Name: ct{id}"),
            "INFO: including mount point rootfs ('/') in backup".to_owned(),
            format!(
                "INFO: creating vzdump archive '/var/lib/vz/dump/vzdump-lxc-{id}-2026_11_22-03_16_23.tar.zst'"
            ),
            "INFO: Total bytes written".to_owned(),
            "INFO: archive file size".to_owned(),
            format!("INFO: Finished Backup of VM {id} (00:00:02)"),
            "INFO: Backup finished at 2026-11-22 03:16:25".to_owned(),
        ]
    };
    let (first, second) = (ct("200"), ct("202"));
    let two: Vec<&str> = first.iter().chain(&second).map(String::as_str).chain(end).collect();
    compare(&b, &[("vmid", "200,202"), ("storage", "local"), ("compress", "zstd")], "OK", &two).await;

    let unknown = ["ERROR: Backup of VM 999 failed - unable to find VM '999'"];
    let lines: Vec<&str> = second.iter().map(String::as_str).chain(unknown).chain(bad).collect();
    let params = [("vmid", "202,999"), ("storage", "local"), ("compress", "zstd")];
    compare(&b, &params, "job errors", &lines).await;
    let lines: Vec<&str> = unknown.into_iter().chain(bad).collect();
    compare(&b, &[("vmid", "999"), ("storage", "local")], "job errors", &lines).await;

    let head = [
        "INFO: Starting Backup of VM 100 (qemu)",
        "INFO: Backup started at 2026-11-22 03:21:33",
        "INFO: status = stopped",
    ];
    let vm = [
        "INFO: backup mode: stop",
        "INFO: ionice priority: 7",
        "INFO: VM Name: vm100",
        "INFO: include disk 'scsi0' 'local:100/vm-100-disk-0.qcow2' 52429K",
        "INFO: snapshots found (not included into backup)",
        "INFO: creating vzdump archive '/var/lib/vz/dump/vzdump-qemu-100-2026_11_22-03_21_33.vma.zst'",
        "INFO: starting kvm to execute backup task",
        "INFO: starting backup via QMP command",
        "INFO: started backup task",
        "INFO: 100% (51.2 MiB of 51.2 MiB) in 0s, read: 51.2 MiB/s, write: 0 B/s",
        "INFO: backup is sparse: 51.25 MiB (100%) total zero data",
        "INFO: transferred 51.20 MiB in <1 seconds",
        "INFO: stopping kvm after backup task",
        "INFO: archive file size: 2KB",
        "INFO: Finished Backup of VM 100 (00:00:00)",
        "INFO: Backup finished at 2026-11-22 03:21:33",
    ];
    let lines: Vec<&str> = head.into_iter().chain(vm).chain(end).collect();
    let params = [("vmid", "100"), ("storage", "local"), ("mode", "stop"), ("compress", "zstd")];
    let (exit, log) = b.run(ACT, "POST", "/nodes/pve1/vzdump", &params).await;
    assert_eq!(exit, "OK");
    let first = "INFO: starting new backup job: vzdump 100 --compress zstd --mode stop --storage local";
    assert!(log[0].starts_with("INFO: starting new backup job: vzdump 100 --"), "{}", log[0]);
    for word in first.split(" --").skip(1).chain(["node pve1"]) {
        assert!(log[0].contains(&format!(" --{word}")), "{word} in {}", log[0]);
    }
    let ours: Vec<String> = log.iter().skip(1).map(|l| same(l)).collect();
    let wanted: Vec<String> = lines.iter().map(|l| same(l)).collect();
    assert_eq!(ours, wanted);

    b.world(|w| w.guests.get_mut(&100).unwrap().config.insert("lock".to_owned(), json!("snapshot")));
    let locked = ["ERROR: Backup of VM 100 failed - VM is locked (snapshot)"];
    let lines: Vec<&str> = head.into_iter().chain(locked).chain(bad).collect();
    compare(&b, &[("vmid", "100"), ("storage", "local")], "job errors", &lines).await;
    b.sim.stop().await;
}

#[tokio::test]
async fn storages_that_cannot_be_used() {
    let b = Bench::with(|c| recorded(&mut c.world)).await;
    let offline = "unable to activate storage 'offl' - directory is expected to be a mount point but is not mounted: '/srv/off'";
    b.call(ACT, "GET", "/nodes/pve1/storage/offl/content", &[]).await.refused(500, offline);
    let to = |storage: &'static str| [("vmid", "100"), ("storage", storage)];
    for (storage, exit) in [
        ("offl", format!("could not activate storage 'offl': {offline}")),
        (
            "btr",
            "could not get storage information for 'btr': can't use storage 'btr' for backups - wrong content type"
                .to_owned(),
        ),
        (
            "nosuch",
            "could not activate storage 'nosuch': storage 'nosuch' does not exist could not get storage information for 'nosuch': storage 'nosuch' does not exist"
                .to_owned(),
        ),
    ] {
        let (got, log) = b.run(ACT, "POST", "/nodes/pve1/vzdump", &to(storage)).await;
        assert_eq!(got, exit);
        assert_eq!(log[0], "INFO: notified via target `mail-to-root`");
    }
    b.world(|w| w.storages.get_mut("offl").unwrap().enabled = false);
    b.call(ACT, "GET", "/nodes/pve1/storage/offl/content", &[])
        .await
        .refused(500, "storage 'offl' is disabled");
    let (got, _) = b.run(ACT, "POST", "/nodes/pve1/vzdump", &to("offl")).await;
    assert_eq!(got, "could not activate storage 'offl': storage 'offl' is disabled");
    let list = b.get(REPORT, "/nodes/pve1/storage").await;
    let row = list.as_array().unwrap().iter().find(|r| r["storage"] == "offl").unwrap();
    let wanted = json!({
        "type": "dir", "content": "backup", "storage": "offl", "used": 0, "total": 0, "active": 0,
        "shared": 0, "enabled": 0, "avail": 0,
    });
    assert_eq!(*row, wanted);
    b.call(ACT, "GET", "/nodes/pve1/storage/nosuch/status", &[]).await.wrong("storage", "No such storage.");
    b.call(ACT, "GET", "/nodes/pve1/storage/nosuch/content", &[])
        .await
        .refused(500, "storage 'nosuch' does not exist");
    b.call(ACT, "GET", "/nodes/pve1/storage/local/content", &[("content", "foo")])
        .await
        .wrong("content", "invalid format - invalid content type 'foo'\n");
    b.sim.stop().await;
}

#[tokio::test]
async fn refusals_of_backups() {
    let b = Bench::with(|c| recorded(&mut c.world)).await;
    let post = |token, params: Vec<(&'static str, &'static str)>| {
        let b = &b;
        async move { b.call(token, "POST", "/nodes/pve1/vzdump", &params).await }
    };
    let guest = ("vmid", "200");
    let local = ("storage", "local");
    post(REPORT, vec![guest, local])
        .await
        .refused(403, "Permission check failed (/storage/local, Datastore.AllocateSpace)");
    post(ACT, vec![guest, local, ("bwlimit", "1")])
        .await
        .refused(403, "Permission check failed (/, Sys.Modify)");
    post(ACT, vec![guest, local, ("script", "/bin/true")])
        .await
        .wrong("script", "Only root may set this option.");
    post(ACT, vec![guest, local, ("mode", "fast")])
        .await
        .wrong("mode", "value 'fast' does not have a value in the enumeration 'snapshot, suspend, stop'");
    post(ACT, vec![local]).await.wrong("vmid", "property is missing");
    post(ACT, vec![guest, local, ("protected", "maybe")])
        .await
        .wrong("protected", "type check ('boolean') failed - got 'maybe'");
    post(ACT, vec![("vmid", "20x"), local])
        .await
        .wrong("vmid", "invalid format - value does not look like a valid VM ID\n");
    // Without the privilege on one guest the job dies in its task.
    b.world(|w| w.access.grant("/vms/202", ACT, "PVEAuditor"));
    for chosen in ["202", "200,202"] {
        let params = [("vmid", chosen), local];
        let (exit, log) = b.run(ACT, "POST", "/nodes/pve1/vzdump", &params).await;
        assert_eq!(exit, "403 Permission check failed (/vms/202, VM.Backup)");
        assert_eq!(log.len(), 2, "{log:?}");
    }
    let (exit, log) = b.run(ACT, "POST", "/nodes/pve1/vzdump", &[("all", "1"), local]).await;
    assert_eq!(exit, "OK");
    assert!(!log.iter().any(|l| l.contains("VM 202")), "all=1 leaves it out: {log:?}");
    b.sim.stop().await;
}

#[tokio::test]
async fn a_backup_as_volume() {
    let b = Bench::with(|c| recorded(&mut c.world)).await;
    let more =
        [("compress", "zstd"), ("protected", "1"), ("notes-template", "{{guestname}} auf {{node}}\\nmehr")];
    let volid = b.save("200", &more).await;
    let path = format!("/nodes/pve1/storage/local/content/{}", volid.replace(':', "%3A").replace('/', "%2F"));
    let view = b.get(ACT, &path).await;
    assert_eq!((&view["protected"], &view["notes"]), (&json!(1), &json!("ct200 auf pve1\nmehr")));
    let file = volid.strip_prefix("local:backup/").unwrap();
    assert_eq!(view["path"], format!("/var/lib/vz/dump/{file}"));
    assert_eq!(view["format"], "raw");
    let list = b.get(ACT, "/nodes/pve1/storage/local/content?content=backup&vmid=200").await;
    let keys: Vec<&String> = list[0].as_object().unwrap().keys().collect();
    let wanted = ["content", "ctime", "format", "notes", "protected", "size", "subtype", "vmid", "volid"];
    let mut keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, wanted);
    assert_eq!((&list[0]["notes"], &list[0]["format"]), (&json!("ct200 auf pve1"), &json!("tar.zst")));

    let (exit, _) = b.run(ACT, "DELETE", &path, &[]).await;
    assert_eq!(exit, format!("cannot remove protected volume 'backup/{file}' on 'local'"));
    let change = [("protected", "0"), ("notes", "neue Notiz")];
    assert_eq!(b.call(ACT, "PUT", &path, &change).await.data(), Value::Null);
    b.call(REPORT, "DELETE", &path, &[])
        .await
        .refused(403, "Permission check failed (/storage/local, Datastore.AllocateSpace)");
    let upid = b.call(ACT, "DELETE", &path, &[]).await.data();
    assert!(upid.as_str().unwrap().contains(":imgdel:200@local:writ@pve!act:"), "{upid}");
    let removed = format!("Removed volume '{volid}'");
    assert_eq!(b.finish(upid.as_str().unwrap()).await.1, [removed.clone(), "TASK OK".to_owned()]);
    let again = b.run(ACT, "DELETE", &path, &[]).await;
    let gone = format!("disk image '/var/lib/vz/dump/{file}' does not exist");
    assert_eq!(again, ("OK".to_owned(), vec![gone, removed, "TASK OK".to_owned()]));
    b.sim.stop().await;
}

#[tokio::test]
async fn stored_configuration_and_defaults() {
    let b = Bench::with(|c| recorded(&mut c.world)).await;
    let volid = b.save("100", &[]).await;
    let text = b.get(ACT, &format!("/nodes/pve1/vzdump/extractconfig?volume={volid}")).await;
    let wanted = "#Zeile 1\n#Zeile 2%3A %C3%A4%C3%B6%C3%BC\nboot: order=scsi0\ncores: 1\ncpu: qemu64\nkvm: 0\nmemory: 64\nmeta: creation-qemu=10.0.13,ctime=1795317658\nname: vm100\nonboot: 0\nostype: l26\nscsi0: local:100/vm-100-disk-0.qcow2,size=52429K\nscsihw: virtio-scsi-single\nserial0: socket\nsmbios1: uuid=1575a37c-cbc2-44a6-8cba-f4e510bb5d49\ntags: prod;web\nvga: none\nvmgenid: 939c158f-07fc-404a-a43b-9852fa42d49a\n\n#qmdump#map:scsi0:drive-scsi0:local:qcow2:\n";
    assert_eq!(text, wanted);
    let defaults = b.get(ADMIN, "/nodes/pve1/vzdump/defaults?storage=local").await;
    let wanted = json!({
        "ionice": 7, "bwlimit": 0, "lockwait": 180, "mailnotification": "always",
        "prune-backups": "keep-all=1", "dumpdir": "/var/lib/vz/dump", "all": 0, "fleecing": {"enabled": 0},
        "pigz": 0, "compress": "0", "mode": "snapshot", "storage": "local",
        "performance": {"max-workers": 16, "pbs-entries-max": 1_048_576}, "quiet": 0, "remove": 1,
        "notification-mode": "auto", "zstd": 1, "stop": 0, "stdexcludes": 1, "stopwait": 10,
    });
    assert_eq!(defaults, wanted);
    assert_eq!(b.get(REPORT, "/cluster/backup").await, json!([]));
    b.sim.stop().await;
}

#[tokio::test]
async fn the_older_release_has_fewer_lines() {
    let b = Bench::with(|c| {
        recorded(&mut c.world);
        c.world.release = Release::V8;
    })
    .await;
    let (_, log) = b.run(ACT, "POST", "/nodes/pve1/vzdump", &[("vmid", "100"), ("storage", "local")]).await;
    assert!(!log.iter().any(|l| l.contains("QMP")), "{log:?}");
    b.sim.stop().await;
}

#[tokio::test]
async fn logs_of_restores() {
    let b = Bench::with(|c| recorded(&mut c.world)).await;
    let volid = b.save("100", &[("compress", "zstd")]).await;
    let file = volid.strip_prefix("local:backup/").unwrap();
    let params = [("vmid", "103"), ("archive", &volid), ("storage", "local"), ("unique", "1")];
    let formatting = "Formatting '/var/lib/vz/images/103/vm-103-disk-0.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off preallocation=metadata compression_type=zlib size=53687296 lazy_refcounts=off refcount_bits=16";
    let wanted = [
        format!(
            "restore vma archive: zstd -q -d -c /var/lib/vz/dump/{file} | vma extract -v -r /var/tmp/vzdumptmp711.fifo - /var/tmp/vzdumptmp711"
        ),
        "CFG: size: 434 name: qemu-server.conf".to_owned(),
        "DEV: dev_id=1 size: 53687296 devname: drive-scsi0".to_owned(),
        "CTIME: Sun Nov 22 03:21:27 2026".to_owned(),
        formatting.to_owned(),
        "new volume ID is 'local:103/vm-103-disk-0.qcow2'".to_owned(),
        "map 'drive-scsi0' to '/var/lib/vz/images/103/vm-103-disk-0.qcow2' (write zeros = 0)".to_owned(),
    ];
    let check = |log: &[String]| {
        // The pid and the date are those of the run.
        let plain = |l: &String| {
            if l.starts_with("CTIME: ") { "CTIME".to_owned() } else { same(l).replace("0000", "000") }
        };
        let ours: Vec<String> = log.iter().take(7).map(plain).collect();
        assert_eq!(ours, wanted.iter().map(plain).collect::<Vec<_>>());
        assert_eq!(log.len(), 111, "as many lines as recorded: {log:#?}");
        assert_eq!(log[109..], ["rescan volumes...", "TASK OK"]);
    };
    let (exit, log) = b.run(ACT, "POST", "/nodes/pve1/qemu", &params).await;
    assert_eq!(exit, "OK");
    check(&log);
    b.call(ACT, "POST", "/nodes/pve1/qemu", &params)
        .await
        .refused(500, "unable to restore VM 103 - VM 103 already exists on node 'pve1'");
    let force = [("vmid", "103"), ("archive", &volid), ("storage", "local"), ("force", "1")];
    let (exit, log) = b.run(ACT, "POST", "/nodes/pve1/qemu", &force).await;
    assert_eq!(exit, "OK");
    check(&log);

    let volid = b.save("202", &[("compress", "zstd")]).await;
    let file = volid.strip_prefix("local:backup/").unwrap();
    let params = [
        ("vmid", "203"),
        ("ostemplate", volid.as_str()),
        ("restore", "1"),
        ("storage", "local"),
        ("rootfs", "local:1"),
        ("unprivileged", "1"),
    ];
    let (exit, log) = b.run(ACT, "POST", "/nodes/pve1/lxc", &params).await;
    assert_eq!(exit, "OK");
    let wanted = [
        &format!("recovering backed-up configuration from '{volid}'"),
        "Formatting '/var/lib/vz/images/203/vm-203-disk-0.raw', fmt=raw size=1073741824 preallocation=off",
        "Creating filesystem with 262144 4k blocks and 65536 inodes",
        "Superblock backups stored on blocks: ",
        "\t32768, 98304, 163840, 229376",
        &format!("restoring '{volid}' now.."),
        &format!("extracting archive '/var/lib/vz/dump/{file}'"),
        "merging backed-up and given configuration..",
        "TASK OK",
    ];
    // Two lines have an id and a size of their own.
    let ours: Vec<&str> = log
        .iter()
        .map(String::as_str)
        .filter(|l| !l.starts_with("Filesystem UUID: ") && !l.starts_with("Total bytes read: "))
        .collect();
    assert_eq!(ours, wanted);
    assert_eq!(log.len(), 11);
    b.sim.stop().await;
}

/// The fields of a volume list with an image, backups, and a template.
#[tokio::test]
async fn fields_of_lists() {
    let b = Bench::with(|c| {
        recorded(&mut c.world);
        c.world.add_volume("local:vztmpl/busybox-tiny_1.0_amd64.tar.gz", 1_067_341, 1_795_317_210);
    })
    .await;
    b.save("100", &[("compress", "zstd"), ("notes-template", "{{guestname}}")]).await;
    let keys = |v: &Value| {
        let mut keys: Vec<String> = v.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    let list = b.get(ACT, "/nodes/pve1/storage/local/content?vmid=100").await;
    assert_eq!(keys(&list[0]), "content ctime format parent size used vmid volid");
    assert_eq!((&list[0]["size"], &list[0]["parent"]), (&json!(53_687_296), &Value::Null));
    assert_eq!(keys(&list[1]), "content ctime format notes size subtype vmid volid");
    let list = b.get(REPORT, "/nodes/pve1/storage/local/content?content=vztmpl").await;
    let wanted = json!([{
        "content": "vztmpl", "ctime": 1_795_317_210, "size": 1_067_341, "format": "tgz",
        "volid": "local:vztmpl/busybox-tiny_1.0_amd64.tar.gz",
    }]);
    assert_eq!(list, wanted);
    let list = b.get(REPORT, "/storage").await;
    assert_eq!(keys(&list[0]), "content digest path storage type");
    let status = b.get(REPORT, "/nodes/pve1/storage/local/status").await;
    assert_eq!(keys(&status), "active avail content enabled shared total type used");
    b.sim.stop().await;
}
