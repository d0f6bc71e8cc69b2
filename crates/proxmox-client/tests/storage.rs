//! Calls about storages and backups: the bytes they become, what is refused before any are sent,
//! and what is made of recorded answers.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

mod common;

use std::io::Write as _;

use common::{React, Server};
use proxmox_client::{
    ApiError, Checksum, Client, Content, ContentFilter, Delivery, DownloadUrl, ErrorClass, Fetched,
    GuestKind, Mark, PruneScope, Retention, Started, StorageName, Upload, Vmid, Volid, VolumeChange,
    VolumeKind,
};

/// The task that was asked for.
const TASK: &str = "task";
const ARCHIVE: &str = "local:backup/vzdump-lxc-200-2026_11_22-03_15_29.tar.zst";
/// How that is written in a path.
const ARCHIVE_IN_PATH: &str =
    "storage/local/content/local%3Abackup%2Fvzdump-lxc-200-2026_11_22-03_15_29.tar.zst";

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn storage(text: &str) -> StorageName {
    text.parse().unwrap()
}

fn volid(text: &str) -> Volid {
    text.parse().unwrap()
}

async fn answering(data: &'static str) -> (Server, Client) {
    Server::pinned(move |seen, _| if data == TASK { React::task(seen) } else { React::ok(data) }).await
}

#[track_caller]
fn was(server: &Server, method: &str, path: &str, body: &str) {
    let seen = server.last();
    let target = seen.target.strip_prefix("/api2/json/").unwrap();
    let target = target.strip_prefix("nodes/pve1/").unwrap_or(target);
    assert_eq!((seen.method.as_str(), target, seen.body.as_str()), (method, path, body));
}

#[track_caller]
fn refused<T: std::fmt::Debug>(server: &Server, result: Result<T, ApiError>, says: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.class(), error.delivery()), (ErrorClass::Parameter, Delivery::NotSent), "{error}");
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(server.count(), 0, "it was sent");
}

#[tokio::test]
async fn volumes_are_named_in_one_path_segment() {
    let (server, client) = answering(TASK).await;
    assert!(matches!(client.volume_delete(&volid(ARCHIVE)).await.unwrap(), Started::Task(_)));
    was(&server, "DELETE", ARCHIVE_IN_PATH, "");
    client.volume_delete(&volid("pbs1:backup/ct/100/2026-01-31T01:00:05Z")).await.unwrap();
    was(&server, "DELETE", "storage/pbs1/content/pbs1%3Abackup%2Fct%2F100%2F2026-01-31T01%3A00%3A05Z", "");
    client.volume_delete(&volid("local:iso/100%25 ä;b=c?d#e.iso")).await.unwrap();
    was(&server, "DELETE", "storage/local/content/local%3Aiso%2F100%2525%20%C3%A4%3Bb%3Dc%3Fd%23e.iso", "");

    let (server, client) = answering("null").await;
    assert_eq!(client.volume_delete(&volid(ARCHIVE)).await.unwrap(), Started::AtOnce);
    let change = VolumeChange::new().protected(false).notes("neue Notiz");
    client.volume_update(&volid(ARCHIVE), &change).await.unwrap();
    was(&server, "PUT", ARCHIVE_IN_PATH, "notes=neue+Notiz&protected=0");

    let (server, client) = answering("null").await;
    refused(&server, client.volume_update(&volid(ARCHIVE), &VolumeChange::new()).await, "no change");
    let change = VolumeChange::new().notes("a\0b");
    refused(&server, client.volume_update(&volid(ARCHIVE), &change).await, "NUL");
}

#[tokio::test]
async fn recorded_content_is_read() {
    let (server, client) = answering(
        r#"[{"size":53687296,"vmid":100,"format":"qcow2","content":"images","used":339968,"ctime":1795317686,"parent":null,"volid":"local:100/vm-100-disk-0.qcow2"},
            {"subtype":"qemu","size":"2189","vmid":"100","format":"vma.zst","ctime":1795317687,"content":"backup","notes":"vm100","protected":1,"volid":"local:backup/vzdump-qemu-100-2026_11_22-03_21_27.vma.zst"},
            {"volid":"pbs1:backup/vm/100/2026-01-31T01:00:05Z","format":"pbs-vm","content":"backup","vmid":0,"size":1,"encrypted":1,"verification":{"state":"ok","upid":"UPID:x"}},
            {"content":"vztmpl","ctime":1795317210,"size":1.067341e+06,"format":"tgz","volid":"local:vztmpl/busybox-tiny_1.0_amd64.tar.gz"}]"#,
    )
    .await;
    let filter = ContentFilter { content: Some(Content::Backup), vmid: Some(vmid(100)) };
    let content = client.storage_content(&storage("local"), filter).await.unwrap();
    was(&server, "GET", "storage/local/content?content=backup&vmid=100", "");
    let kinds: Vec<VolumeKind> = content.iter().map(|volume| volume.volid.kind()).collect();
    assert_eq!(kinds, [VolumeKind::Disk, VolumeKind::Backup, VolumeKind::Backup, VolumeKind::Template]);
    assert_eq!((content[0].used, content[0].protected), (Some(339_968), None));
    assert_eq!(
        (content[1].size, content[1].vmid, content[1].protected),
        (Some(2189), Some(vmid(100)), Some(true))
    );
    assert_eq!((content[2].vmid, content[2].encrypted.as_deref()), (None, Some("1")));
    assert_eq!(content[2].verification.as_ref().unwrap().state.as_deref(), Some("ok"));
    assert_eq!(content[3].size, Some(1_067_341));

    let (server, client) = answering(
        r#"{"protected":1,"notes":"ct200 auf pve1","used":4096,"size":1024,"path":"/var/lib/vz/dump/x.tar.zst","format":"raw"}"#,
    )
    .await;
    let info = client.volume_info(&volid(ARCHIVE)).await.unwrap();
    was(&server, "GET", ARCHIVE_IN_PATH, "");
    assert_eq!(
        (info.protected, info.size, info.notes.as_deref()),
        (Some(true), Some(1024), Some("ct200 auf pve1"))
    );

    for hostile in [r#"[{"volid":"../../etc"}]"#, r#"[{"size":1}]"#, "{}", "7"] {
        let (_server, client) = answering(hostile).await;
        let error = client.storage_content(&storage("local"), ContentFilter::default()).await.unwrap_err();
        assert_eq!(error.delivery(), Delivery::MaybeExecuted, "{hostile}");
    }
    let (_server, client) = answering("null").await;
    assert!(client.storage_content(&storage("local"), ContentFilter::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn storages_and_their_configs() {
    let (server, client) = answering(
        r#"[{"prune-backups":"keep-all=1","digest":"8ae0cb27e628d30363d0458c829835d5bbdb3592","type":"dir","storage":"local","path":"/var/lib/vz","content":"vztmpl,rootdir,images"},
            {"storage":"nas","type":"nfs","content":"backup","disable":"1","shared":1,"nodes":"pve1,pve2","prune-backups":{"keep-last":"3"},"options":null}]"#,
    )
    .await;
    let configs = client.storage_configs().await.unwrap();
    was(&server, "GET", "storage", "");
    assert_eq!(configs[0].content, ["images", "rootdir", "vztmpl"]);
    assert_eq!((configs[0].disabled, configs[0].shared), (false, None));
    assert_eq!(configs[0].raw["path"], "/var/lib/vz");
    assert_eq!((configs[1].disabled, configs[1].shared), (true, Some(true)));
    assert_eq!(configs[1].nodes, ["pve1", "pve2"]);
    assert_eq!(configs[1].prune_backups.as_deref(), Some("keep-last=3"));

    let (server, client) = answering(
        r#"[{"shared":0,"active":0,"total":0,"avail":0,"enabled":1,"storage":"offl","content":"backup","used":0,"type":"dir"},
            {"used":42790912,"storage":"btr","total":"2.672656e+09","content":"images,rootdir","type":"btrfs","active":1,"used_fraction":0.0132840474446615}]"#,
    )
    .await;
    let list = client.storages_for(Content::Backup).await.unwrap();
    was(&server, "GET", "storage?content=backup&enabled=1", "");
    assert_eq!((list[0].active, list[0].used_fraction), (Some(false), None));
    assert_eq!((list[1].total, list[1].used_fraction), (Some(2_672_656_000), Some(0.013_284_047_444_661_5)));

    let (server, client) =
        answering(r#"{"type":"dir","content":"backup,iso","used":27065724928,"shared":0,"total":270553174016,"active":1,"enabled":1,"avail":70507024384}"#)
            .await;
    let state = client.storage_status(&storage("local")).await.unwrap();
    was(&server, "GET", "storage/local/status", "");
    assert_eq!((state.active, state.avail), (Some(true), Some(70_507_024_384)));
}

#[tokio::test]
async fn pruning_names_its_guest_or_says_all() {
    let (server, client) = answering(
        r#"[{"mark":"remove","vmid":200,"type":"lxc","volid":"local:backup/vzdump-lxc-200-2026_11_22-03_16_18.tar.gz","ctime":1795317378},
            {"mark":"keep","vmid":"200","type":"lxc","ctime":"1795317383","volid":"local:backup/vzdump-lxc-200-2026_11_22-03_16_23.tar.zst"},
            {"mark":"frozen","volid":"local:backup/renamed.tar.zst"}]"#,
    )
    .await;
    let keep = Retention::new().last(1);
    let all = client.prune_preview(&storage("local"), Some(&keep), PruneScope::EveryGuest).await.unwrap();
    was(&server, "GET", "storage/local/prunebackups?prune-backups=keep-last%3D1", "");
    let marks: Vec<Mark> = all.into_iter().map(|item| item.mark).collect();
    assert_eq!(marks, [Mark::Remove, Mark::Keep, Mark::Other("frozen".to_owned())]);
    let guest = PruneScope::Guest(GuestKind::Lxc, vmid(200));
    client.prune_preview(&storage("local"), None, guest).await.unwrap();
    was(&server, "GET", "storage/local/prunebackups?type=lxc&vmid=200", "");

    let (server, client) = answering(TASK).await;
    let keep = Retention::new().last(3).hourly(1).daily(7).weekly(4).monthly(6).yearly(2);
    client.prune(&storage("local"), &keep, guest).await.unwrap();
    was(
        &server,
        "DELETE",
        "storage/local/prunebackups?prune-backups=keep-last%3D3%2Ckeep-hourly%3D1%2Ckeep-daily%3D7%2Ckeep-weekly%3D4%2Ckeep-monthly%3D6%2Ckeep-yearly%3D2&type=lxc&vmid=200",
        "",
    );
    client.prune(&storage("local"), &Retention::keep_all(), PruneScope::EveryGuest).await.unwrap();
    was(&server, "DELETE", "storage/local/prunebackups?prune-backups=keep-all%3D1", "");

    let (server, client) = answering(TASK).await;
    for keep in [Retention::new(), Retention::new().last(0), Retention::keep_all().daily(1)] {
        refused(&server, client.prune(&storage("local"), &keep, guest).await, "");
        refused(&server, client.prune_preview(&storage("local"), Some(&keep), guest).await, "");
    }
}

#[tokio::test]
async fn the_node_fetches_files() {
    let (server, client) = answering(TASK).await;
    let sum = "ab".repeat(32);
    let file = DownloadUrl::new(Fetched::Iso, "debian-13.iso", "https://example.org/d?a=b;c&d")
        .checksum(Checksum::Sha256(sum.clone()));
    client.download_url(&storage("local"), &file).await.unwrap();
    was(
        &server,
        "POST",
        "storage/local/download-url",
        &format!(
            "content=iso&filename=debian-13.iso&url=https%3A%2F%2Fexample.org%2Fd%3Fa%3Db%3Bc%26d&checksum-algorithm=sha256&checksum={sum}&verify-certificates=1"
        ),
    );
    client.appliance_download(&storage("local"), "debian-13-standard_13.1-1_amd64.tar.zst").await.unwrap();
    was(&server, "POST", "aplinfo", "storage=local&template=debian-13-standard_13.1-1_amd64.tar.zst");
    let (server, client) = answering(
        r#"[{"template":"a.tar.zst","package":"a","version":13.1,"type":"lxc","section":"system"}]"#,
    )
    .await;
    assert_eq!(client.appliances().await.unwrap()[0].version.as_deref(), Some("13.1"));
    was(&server, "GET", "aplinfo", "");

    let (server, client) = answering(TASK).await;
    let file = |name: &str, url: &str| DownloadUrl::new(Fetched::Iso, name, url);
    for (file, says) in [
        (file("a b.iso", "https://example.org/a"), "another name"),
        (file("../a.iso", "https://example.org/a"), "another name"),
        (file("", "https://example.org/a"), "another name"),
        (file("..", "https://example.org/a"), "filename"),
        (file("a.iso", "file:///etc/shadow"), "url"),
        (file("a.iso", "https://example.org/a b"), "url"),
        (file("a.iso", "https://example.org/a").from_unverified_server(), "needs a checksum"),
        (file("a.iso", "https://example.org/a").checksum(Checksum::Sha256("ab".to_owned())), "hex digits"),
        (file("a.iso", "https://example.org/a").checksum(Checksum::Sha512("zz".repeat(64))), "hex digits"),
        (file(&"a".repeat(256), "https://example.org/a"), "filename"),
    ] {
        refused(&server, client.download_url(&storage("local"), &file).await, says);
    }
    refused(&server, client.appliance_download(&storage("local"), "../a").await, "template");
}

fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".iso").tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[tokio::test]
async fn an_upload_is_one_body_of_known_length() {
    let (server, client) = answering(TASK).await;
    // More than one piece, and not a whole number of them.
    let bytes: Vec<u8> = (0..200_003_u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    let file = file_with(&bytes);
    let sum = "cd".repeat(64);
    let upload = Upload::new(Fetched::Iso, file.path())
        .filename("debian-13.iso")
        .checksum(Checksum::Sha512(sum.clone()));
    client.upload(&storage("local"), &upload).await.unwrap();

    let seen = server.last();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/api2/json/nodes/pve1/storage/local/upload")
    );
    let head = seen.head.to_lowercase();
    assert!(!head.contains("transfer-encoding") && !head.contains("expect:"), "{head}");
    assert_eq!(head.matches("content-length:").count(), 1, "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", seen.body.len())), "{head}");
    assert!(head.contains(&format!("authorization: pveapitoken={}\r\n", common::TOKEN)), "{head}");
    let boundary = head.split("content-type: multipart/form-data; boundary=").nth(1).unwrap();
    let boundary = boundary.split("\r\n").next().unwrap();
    assert!(boundary.len() >= 32, "{boundary}");
    let field = |name: &str, value: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let expected = [
        field("checksum-algorithm", "sha512"),
        field("checksum", &sum),
        field("content", "iso"),
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"debian-13.iso\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        ),
        String::from_utf8(bytes).unwrap(),
        format!("\r\n--{boundary}--\r\n"),
    ]
    .concat();
    assert!(seen.body == expected, "{} bytes, {} expected", seen.body.len(), expected.len());

    // An empty file is a file.
    let empty = file_with(b"");
    client
        .upload(&storage("local"), &Upload::new(Fetched::Iso, empty.path()).filename("e.iso"))
        .await
        .unwrap();
    assert!(server.last().body.contains("octet-stream\r\n\r\n\r\n--writ-"), "{}", server.last().body);
}

#[tokio::test]
async fn bad_uploads_are_not_sent_and_lost_ones_not_repeated() {
    let (server, client) = answering(TASK).await;
    let file = file_with(b"x");
    let upload = |name: &str| Upload::new(Fetched::Iso, file.path()).filename(name);
    for (upload, says) in [
        (upload("a\"; name=\"content"), "another name"),
        (upload("a\r\nb"), "another name"),
        (upload("a/b.iso"), "another name"),
        (upload(".."), "filename"),
        (upload("a.iso").checksum(Checksum::Sha256("x".repeat(64))), "hex digits"),
        (Upload::new(Fetched::Iso, &file.path().join("nosuch")).filename("a.iso"), "cannot read"),
        (Upload::new(Fetched::Iso, file.path().parent().unwrap()).filename("a.iso"), "is not a file"),
    ] {
        refused(&server, client.upload(&storage("local"), &upload).await, says);
    }

    let (server, client) = Server::pinned(|_, _| React::Close).await;
    let error = client.upload(&storage("local"), &upload("a.iso")).await.unwrap_err();
    assert_eq!((error.delivery(), server.count()), (Delivery::MaybeExecuted, 1), "{error}");
    let (_server, client) = Server::pinned(|_, _| {
        React::json("403 Permission check failed", r#"{"data":null,"message":"Permission check failed (/storage/local, Datastore.AllocateTemplate)\n"}"#)
    })
    .await;
    let error = client.upload(&storage("local"), &upload("a.iso")).await.unwrap_err();
    assert!(matches!(error.class(), ErrorClass::Permission { .. }), "{error}");
}

#[tokio::test]
async fn what_backups_hold_and_jobs_cover() {
    let (server, client) = answering(
        r##""#Zeile 1\n#Zeile 2%3A %C3%A4%C3%B6%C3%BC\nboot: order=scsi0\nname: vm100\nscsi0: local:100/vm-100-disk-0.qcow2,size=52429K\n\n#qmdump#map:scsi0:drive-scsi0:local:qcow2:\n""##,
    )
    .await;
    let stored = client
        .backup_config(&volid("local:backup/vzdump-qemu-100-2026_11_22-03_21_27.vma.zst"))
        .await
        .unwrap();
    was(
        &server,
        "GET",
        "vzdump/extractconfig?volume=local%3Abackup%2Fvzdump-qemu-100-2026_11_22-03_21_27.vma.zst",
        "",
    );
    assert_eq!((stored.name(), stored.description.as_str()), (Some("vm100"), "Zeile 1\nZeile 2: äöü"));

    let (server, client) = answering(
        r#"{"ionice":7,"lockwait":"180","prune-backups":"keep-all=1","compress":"0","mode":"snapshot","storage":"local","remove":1,"fleecing":{"enabled":0}}"#,
    )
    .await;
    let defaults = client.backup_defaults(Some(&storage("local"))).await.unwrap();
    was(&server, "GET", "vzdump/defaults?storage=local", "");
    assert_eq!((defaults.remove, defaults.lockwait), (Some(true), Some(180)));
    assert_eq!(
        (defaults.prune_backups.as_deref(), defaults.raw["ionice"].as_str()),
        (Some("keep-all=1"), "7")
    );

    // Not recorded with entries; by the schema's `returns`.
    let (server, client) = answering(
        r#"[{"id":"backup-1b2c3d4e-5f60","enabled":"1","schedule":"sat 02:00","storage":"pbs1","mode":"snapshot","vmid":"100,200","prune-backups":{"keep-last":3},"next-run":1795400000,"comment":"x"},
            {"id":"all","all":1,"exclude":"101","enabled":0,"starttime":"00:00","dow":"sat"}]"#,
    )
    .await;
    let jobs = client.backup_jobs().await.unwrap();
    was(&server, "GET", "cluster/backup", "");
    assert_eq!((jobs[0].vmids.as_slice(), jobs[0].enabled), ([100, 200].as_slice(), Some(true)));
    assert_eq!(
        (jobs[0].prune_backups.as_deref(), jobs[0].raw["comment"].as_str()),
        (Some("keep-last=3"), "x")
    );
    assert!(jobs[1].all && jobs[1].exclude == [101] && jobs[1].enabled == Some(false));
    let (server, client) = answering(r#"{"id":"all","all":1}"#).await;
    assert!(client.backup_job("all").await.unwrap().all);
    was(&server, "GET", "cluster/backup/all", "");

    let (server, client) = answering(
        r#"{"children":[{"id":100,"name":"vm100","type":"qemu","children":[{"id":"100:scsi0","name":"local:100/vm-100-disk-0.qcow2","included":1,"reason":"enabled"},{"id":"100:ide2","included":0,"reason":"CD-ROM"}]},{"id":"999","type":"unknown","children":null}]}"#,
    )
    .await;
    let guests = client.backup_job_volumes("all").await.unwrap();
    was(&server, "GET", "cluster/backup/all/included_volumes", "");
    assert_eq!((guests[0].volumes[0].included, guests[0].volumes[1].included), (Some(true), Some(false)));
    assert_eq!((guests[1].vmid, guests[1].volumes.len()), (Some(999), 0));
    let (server, client) = answering(r#"[{"vmid":"200","name":"ct200","type":"lxc"}]"#).await;
    assert_eq!(client.guests_without_backup_job().await.unwrap()[0].vmid, Some(200));
    was(&server, "GET", "cluster/backup-info/not-backed-up", "");

    let (server, client) = answering("null").await;
    for id in ["", "a b", "..", &"x".repeat(51)] {
        let error = client.backup_job(id).await.unwrap_err();
        assert_eq!((error.delivery(), server.count()), (Delivery::NotSent, 0), "{id:?}");
    }
}
