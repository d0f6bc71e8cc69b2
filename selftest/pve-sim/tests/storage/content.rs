//! Lists of content, allocation, uploads, downloads, pruning, the storage configuration.

use pve_sim::world::Storage;
use serde_json::{Value, json};

use super::{ACT, ADMIN, Bench, REPORT};

const LOCAL: &str = "/nodes/pve1/storage/local";

#[tokio::test]
async fn lists_show_only_what_the_caller_may_see() {
    let b = Bench::demo().await;
    b.save("100", &[]).await;
    b.save("101", &[]).await;
    assert_eq!(b.backups(ACT).await.len(), 2);
    // Observed: an auditor sees no backup in the list, and every one in the preview of pruning.
    assert_eq!(b.backups(REPORT).await, Vec::<String>::new());
    // A second = in a query is cut off with what follows it.
    let cut = b.call(REPORT, "GET", &format!("{LOCAL}/prunebackups?prune-backups=keep-all=1"), &[]).await;
    assert_eq!(cut.status, 400);
    let preview = b.get(REPORT, &format!("{LOCAL}/prunebackups?prune-backups=keep-all%3D1")).await;
    assert_eq!(preview.as_array().unwrap().len(), 2);
    let files = b.get(REPORT, &format!("{LOCAL}/content")).await;
    let kinds: Vec<&Value> = files.as_array().unwrap().iter().map(|r| &r["content"]).collect();
    assert_eq!(kinds, ["iso", "vztmpl"]);
    let disks = b.get(ACT, "/nodes/pve1/storage/tank/content").await;
    let disks: Vec<(&Value, &Value)> =
        disks.as_array().unwrap().iter().map(|r| (&r["volid"], &r["content"])).collect();
    let (images, rootdir) = (json!("images"), json!("rootdir"));
    assert_eq!(
        disks,
        [(&json!("tank:subvol-201-disk-0"), &rootdir), (&json!("tank:vm-102-disk-0"), &images)]
    );
    b.sim.stop().await;
}

#[tokio::test]
async fn pruning() {
    let b = Bench::demo().await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(b.save("100", &[]).await);
    }
    all.push(b.save("200", &[("protected", "1")]).await);
    let path = format!("{LOCAL}/prunebackups");
    let keep = ("prune-backups", "keep-last=1");
    let rows = b.call(ACT, "GET", &path, &[keep]).await.data();
    let rows = rows.as_array().unwrap();
    let marks: Vec<(&Value, &Value)> = rows.iter().map(|r| (&r["volid"], &r["mark"])).collect();
    let wanted = [(&all[3], "protected"), (&all[0], "remove"), (&all[1], "remove"), (&all[2], "keep")]
        .map(|(volid, mark)| (json!(volid), json!(mark)));
    assert_eq!(marks, wanted.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>());
    let mut keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["ctime", "mark", "type", "vmid", "volid"]);

    b.call(ACT, "GET", &path, &[("prune-backups", "keep-foo=1")]).await.wrong(
        "prune-backups",
        "invalid format - format error\nprune-backups.keep-foo: property is not defined in schema and the schema does not allow additional properties\n",
    );
    b.call(ACT, "DELETE", &path, &[keep])
        .await
        .refused(403, "Permission check failed (/storage/local, Datastore.Allocate)");
    let upid = b.call(ACT, "DELETE", &path, &[keep, ("vmid", "100")]).await.data();
    assert!(upid.as_str().unwrap().contains(":prunebackups:100@local:"), "{upid}");
    assert_eq!(b.finish(upid.as_str().unwrap()).await.0, "OK");
    assert_eq!(b.backups(ACT).await, [all[3].clone(), all[2].clone()]);
    b.call(REPORT, "DELETE", &path, &[keep, ("vmid", "100")])
        .await
        .refused(403, "Permission check failed (/storage/local, Datastore.AllocateSpace)");
    b.sim.stop().await;
}

#[tokio::test]
async fn volumes_and_who_may_do_what() {
    let b = Bench::demo().await;
    let params = [("filename", "vm-102-disk-7"), ("size", "1G"), ("vmid", "102")];
    let made = b.call(ACT, "POST", "/nodes/pve1/storage/tank/content", &params).await.data();
    assert_eq!(made, "tank:vm-102-disk-7");
    let bad = [("filename", "vm-103-disk-7"), ("size", "1G"), ("vmid", "102")];
    b.call(ACT, "POST", "/nodes/pve1/storage/tank/content", &bad)
        .await
        .refused(500, "illegal name 'vm-103-disk-7' - should be 'vm-102-*'");
    b.call(REPORT, "POST", "/nodes/pve1/storage/tank/content", &params)
        .await
        .refused(403, "Permission check failed (/storage/tank, Datastore.AllocateSpace)");
    let path = "/nodes/pve1/storage/tank/content/tank:vm-102-disk-7";
    let denied = "Permission check failed (/storage/tank, Datastore.Allocate)";
    b.call(ACT, "DELETE", path, &[]).await.refused(403, denied);
    assert_eq!(b.run(ADMIN, "DELETE", path, &[]).await.0, "OK");
    let gone = b.call(ADMIN, "GET", path, &[]).await;
    gone.refused(500, "volume_size_info on 'tank:vm-102-disk-7' failed");
    b.call(ACT, "GET", "/nodes/pve1/storage/tank/content/local:iso%2Fx.iso", &[])
        .await
        .wrong("storage", "storage ID missmatch (local != tank)");
    for hostile in ["backup%2F..%2F..%2Fetc%2Fpasswd", "%2e%2e%2f", "iso%2F", "x"] {
        let answer = b.call(ADMIN, "GET", &format!("{LOCAL}/content/{hostile}"), &[]).await;
        assert_eq!(answer.status, 500, "{hostile}: {answer:?}");
        assert!(answer.reason.starts_with("unable to parse"), "{hostile}: {answer:?}");
    }
    b.call(ACT, "GET", "/nodes/pve1/storage/nosuch/content/x", &[])
        .await
        .refused(500, "storage 'nosuch' does not exist");
    let copy = b.call(ACT, "POST", &format!("{LOCAL}/content/x.iso"), &[("target", "y.iso")]).await;
    copy.refused(403, "Permission check failed (user != root@pam)");
    b.sim.stop().await;
}

async fn upload(
    b: &Bench,
    token: &str,
    storage: &str,
    parts: &[(&str, Option<&str>, &str)],
) -> super::Answer {
    let mut body = String::new();
    for (name, file, data) in parts {
        let file = file.map(|f| format!("; filename=\"{f}\"")).unwrap_or_default();
        body.push_str(&format!(
            "--sep\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{data}\r\n"
        ));
    }
    body.push_str("--sep--\r\n");
    let url = format!("{}/api2/json/nodes/pve1/storage/{storage}/upload", b.sim.url());
    let request = b.client.post(url).header("Content-Type", "multipart/form-data; boundary=sep").body(body);
    b.send(request, token).await
}

#[tokio::test]
async fn uploads() {
    let b = Bench::demo().await;
    let file = ("filename", Some("a b.iso"), "0123456789");
    let upid = upload(&b, ACT, "local", &[("content", None, "iso"), file]).await.data();
    assert!(upid.as_str().unwrap().contains(":imgcopy::writ@pve!act:"), "{upid}");
    assert_eq!(b.finish(upid.as_str().unwrap()).await.0, "OK");
    let view = b.get(ACT, &format!("{LOCAL}/content/iso/a_b.iso")).await;
    assert_eq!(view["size"], 10);
    assert_eq!(view["path"], "/var/lib/vz/template/iso/a_b.iso");

    upload(&b, ACT, "local", &[file, ("content", None, "iso")])
        .await
        .wrong("content", "property is missing and it is not optional");
    upload(&b, ACT, "local", &[("content", None, "backup"), file])
        .await
        .wrong("content", "value 'backup' does not have a value in the enumeration 'iso, vztmpl, import'");
    upload(&b, ACT, "local", &[("content", None, "vztmpl"), file])
        .await
        .wrong("filename", "wrong file extension");
    upload(&b, REPORT, "local", &[("content", None, "iso"), file])
        .await
        .refused(403, "Permission check failed (/storage/local, Datastore.AllocateTemplate)");
    upload(&b, ACT, "tank", &[("content", None, "iso"), file])
        .await
        .wrong("storage", "can't upload to storage type 'zfspool'");
    // The SHA-256 of ten digits, and something else.
    let sum = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
    for (sum, exit) in [
        (sum.to_owned(), "OK".to_owned()),
        ("00".repeat(32), format!("checksum mismatch: got '{sum}' != expect '{}'", "00".repeat(32))),
    ] {
        let parts = [
            ("content", None, "iso"),
            ("checksum-algorithm", None, "sha256"),
            ("checksum", None, sum.as_str()),
            file,
        ];
        let upid = upload(&b, ACT, "local", &parts).await.data();
        assert_eq!(b.finish(upid.as_str().unwrap()).await.0, exit);
    }
    b.sim.stop().await;
}

#[tokio::test]
async fn downloads_and_templates() {
    let b = Bench::demo().await;
    let url = "https://example.invalid/x.iso";
    let params = [("content", "iso"), ("filename", "x:y.iso"), ("url", url)];
    let path = format!("{LOCAL}/download-url");
    b.call(ACT, "POST", &path, &params)
        .await
        .refused(403, "Permission check failed (/nodes/pve1, Sys.AccessNetwork)");
    let upid = b.call(ADMIN, "POST", &path, &params).await.data();
    assert!(upid.as_str().unwrap().contains(":download:x%3Ay.iso:"), "{upid}");
    // A UPID with an escape must be escaped once more in a path.
    assert_eq!(b.finish(&upid.as_str().unwrap().replace('%', "%25")).await.0, "OK");
    let twice = b.call(ADMIN, "POST", &path, &params).await;
    twice.wrong("filename", "file already exists: '/var/lib/vz/template/iso/x_y.iso'");
    b.call(ADMIN, "POST", &path, &[("content", "iso"), ("filename", "z.iso"), ("url", "file:///etc/passwd")])
        .await
        .wrong("url", "value does not match the regex pattern");

    let list = b.get(REPORT, "/nodes/pve1/aplinfo").await;
    let template = list[0]["template"].as_str().unwrap();
    let params = [("storage", "local"), ("template", template)];
    let upid = b.call(ACT, "POST", "/nodes/pve1/aplinfo", &params).await.data();
    assert_eq!(b.finish(upid.as_str().unwrap()).await.0, "OK");
    assert!(b.world(|w| w.volume(&format!("local:vztmpl/{template}")).is_some()));
    b.call(ACT, "POST", "/nodes/pve1/aplinfo", &[("storage", "local"), ("template", "nosuch")])
        .await
        .wrong("template", "no such template");
    b.sim.stop().await;
}

#[tokio::test]
async fn the_configuration_of_storages() {
    let b = Bench::demo().await;
    let dir = [
        ("storage", "usb"),
        ("type", "dir"),
        ("path", "/mnt/usb"),
        ("content", "backup"),
        ("is_mountpoint", "1"),
    ];
    b.call(ACT, "POST", "/storage", &dir)
        .await
        .refused(403, "Permission check failed (/storage, Datastore.Allocate)");
    let made = b.call(ADMIN, "POST", "/storage", &dir).await.data();
    assert_eq!(made, json!({"storage": "usb", "type": "dir"}));
    b.call(ADMIN, "POST", "/storage", &dir)
        .await
        .refused(500, "create storage failed: storage ID 'usb' already defined");
    b.call(ADMIN, "POST", "/storage", &[("storage", "x1"), ("type", "nfs"), ("server", "192.0.2.7")])
        .await
        .wrong("export", "property is missing and it is not optional");
    b.call(ADMIN, "POST", "/storage", &[("storage", "x1"), ("type", "floppy")]).await.wrong(
        "type",
        "value 'floppy' does not have a value in the enumeration 'btrfs, cephfs, cifs, dir, esxi, iscsi, iscsidirect, lvm, lvmthin, nfs, pbs, rbd, zfs, zfspool'",
    );
    let view = b.get(ADMIN, "/storage/usb").await;
    assert_eq!((&view["path"], &view["is_mountpoint"]), (&json!("/mnt/usb"), &json!("1")));
    assert_eq!(view["digest"].as_str().unwrap().len(), 40);
    b.call(REPORT, "GET", "/storage/usb", &[])
        .await
        .refused(403, "Permission check failed (/storage/usb, Datastore.Allocate)");
    let listed = b.get(REPORT, "/storage").await;
    assert_eq!(listed.as_array().unwrap().len(), 5);
    let stale = [("prune-backups", "keep-last=3"), ("digest", "00")];
    let text =
        "update storage failed: detected modified configuration - file changed by other user? Try again.";
    b.call(ADMIN, "PUT", "/storage/usb", &stale).await.refused(500, text);
    b.call(ADMIN, "PUT", "/storage/usb", &[("prune-backups", "keep-last=3"), ("disable", "1")]).await.data();
    let view = b.get(ADMIN, "/storage/usb").await;
    assert_eq!((&view["prune-backups"], &view["disable"]), (&json!("keep-last=3"), &json!(1)));
    let enabled = b.get(REPORT, "/nodes/pve1/storage?enabled=1").await;
    assert!(enabled.as_array().unwrap().iter().all(|r| r["storage"] != "usb"));
    let backups = b.get(REPORT, "/nodes/pve1/storage?content=backup&format=1").await;
    let ids: Vec<&Value> = backups.as_array().unwrap().iter().map(|r| &r["storage"]).collect();
    assert_eq!(ids, ["local", "offl", "usb"]);
    assert_eq!(backups[0]["formats"]["default"], "raw");
    assert_eq!(b.call(ADMIN, "DELETE", "/storage/usb", &[]).await.data(), Value::Null);
    b.call(ADMIN, "DELETE", "/storage/usb", &[])
        .await
        .refused(500, "delete storage failed: storage 'usb' does not exist");
    b.sim.stop().await;
}

#[tokio::test]
async fn a_storage_for_another_node() {
    let b = Bench::with(|c| {
        let far = Storage::new("dir", "backup", 1 << 30).with("nodes", "pve9");
        c.world.storages.insert("far".to_owned(), far);
    })
    .await;
    let list = b.get(ADMIN, "/nodes/pve1/storage").await;
    assert!(list.as_array().unwrap().iter().all(|r| r["storage"] != "far"));
    b.call(ADMIN, "GET", "/nodes/pve1/storage/far/content", &[])
        .await
        .refused(500, "storage 'far' is not available on node 'pve1'");
    b.sim.stop().await;
}
