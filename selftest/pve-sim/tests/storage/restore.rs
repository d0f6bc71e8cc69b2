//! Restoring, also over a guest that exists, and what is left when it fails.

use pve_sim::world::{Fault, Storage};
use serde_json::{Value, json};

use super::{ACT, ADMIN, Bench, REPORT};

const QEMU: &str = "/nodes/pve1/qemu";
const LXC: &str = "/nodes/pve1/lxc";

async fn config(b: &Bench, path: &str) -> Value {
    b.get(ADMIN, &format!("/nodes/pve1/{path}/config")).await
}

fn mac(config: &Value) -> String {
    let net = config["net0"].as_str().unwrap();
    net.split(',').find_map(|p| p.split_once('=').filter(|(_, v)| v.len() == 17)).unwrap().1.to_owned()
}

#[tokio::test]
async fn a_machine_to_a_new_id() {
    let b = Bench::demo().await;
    let volid = b.save("101", &[]).await;
    let old = config(&b, "qemu/101").await;
    let params =
        [("vmid", "300"), ("archive", &volid), ("storage", "tank"), ("unique", "1"), ("name", "proof")];
    let upid = b.call(ACT, "POST", QEMU, &params).await.data();
    assert!(upid.as_str().unwrap().contains(":qmrestore:300:writ@pve!act:"), "{upid}");
    let (exit, log) = b.finish(upid.as_str().unwrap()).await;
    assert_eq!(exit, "OK");
    assert!(log[0].starts_with("restore vma archive: vma extract -v -r /var/tmp/vzdumptmp"), "{}", log[0]);
    assert_eq!(log[log.len() - 2], "rescan volumes...");
    assert!(log.contains(&"new volume ID is 'tank:vm-300-disk-0'".to_owned()), "{log:#?}");
    let new = config(&b, "qemu/300").await;
    assert_eq!(new["scsi0"], "tank:vm-300-disk-0,size=32G");
    assert_eq!((&new["name"], &new["memory"]), (&json!("proof"), &old["memory"]));
    assert_eq!(new["meta"], old["meta"], "the time of creation is no identity");
    for key in ["smbios1", "vmgenid"] {
        assert_ne!(new[key], old[key], "{key}");
    }
    assert_ne!(mac(&new), mac(&old));
    assert_eq!((new.get("lock"), new.get("parent")), (None, None));
    let snapshots = b.get(ADMIN, "/nodes/pve1/qemu/300/snapshot").await;
    assert_eq!(snapshots.as_array().unwrap().len(), 1, "snapshots are in no backup");

    // Without `unique` all but the generation is the same.
    let params = [("vmid", "301"), ("archive", volid.as_str())];
    assert_eq!(b.run(ACT, "POST", QEMU, &params).await.0, "OK");
    let twin = config(&b, "qemu/301").await;
    assert_eq!((&twin["smbios1"], mac(&twin)), (&old["smbios1"], mac(&old)));
    assert_ne!(twin["vmgenid"], old["vmgenid"]);
    assert_eq!(twin["scsi0"], "local-lvm:vm-301-disk-0,size=32G");
    b.sim.stop().await;
}

#[tokio::test]
async fn over_a_machine_that_exists() {
    let b = Bench::demo().await;
    let volid = b.save("101", &[]).await;
    let plain = [("vmid", "101"), ("archive", volid.as_str())];
    b.call(ACT, "POST", QEMU, &plain)
        .await
        .refused(500, "unable to restore VM 101 - VM 101 already exists on node 'pve1'");
    let force = [("vmid", "101"), ("archive", volid.as_str()), ("force", "1")];
    b.call(ACT, "PUT", "/nodes/pve1/qemu/101/config", &[("protection", "1")]).await.data();
    assert_eq!(
        b.run(ACT, "POST", QEMU, &force).await.0,
        "unable to restore VM 101 - - protection mode enabled"
    );
    b.call(ACT, "PUT", "/nodes/pve1/qemu/101/config", &[("protection", "0")]).await.data();
    b.run(ACT, "POST", "/nodes/pve1/qemu/101/status/start", &[]).await;
    assert_eq!(b.run(ACT, "POST", QEMU, &force).await.0, "unable to restore VM 101 - vm is running");
    b.run(ACT, "POST", "/nodes/pve1/qemu/101/status/stop", &[]).await;
    assert_eq!(config(&b, "qemu/101").await.get("lock"), None);
    let before = config(&b, "qemu/101").await;
    b.world(|w| {
        let guest = w.guests.get_mut(&101).unwrap();
        guest.config.insert("scsi1".to_owned(), json!("tank:vm-101-disk-9,size=1G"));
        guest.config.insert("cores".to_owned(), json!(7));
    });
    let (exit, log) = b.run(ACT, "POST", QEMU, &force).await;
    assert_eq!(exit, "OK", "{log:#?}");
    let after = config(&b, "qemu/101").await;
    assert_eq!((&after["scsi0"], &after["cores"]), (&before["scsi0"], &before["cores"]));
    assert_eq!(after["unused0"], "tank:vm-101-disk-9", "a disk that is in no backup stays");
    let snapshots = b.get(ADMIN, "/nodes/pve1/qemu/101/snapshot").await;
    assert_eq!(snapshots.as_array().unwrap().len(), 1, "its snapshots are gone");
    b.sim.stop().await;
}

#[tokio::test]
async fn a_failed_restore_leaves_no_old_disks() {
    let b = Bench::demo().await;
    let disks = |b: &Bench| {
        let access = b.world(|w| w.content(&pve_sim::world::AuthId::parse(ADMIN), "local-lvm", None, None));
        access.iter().map(|r| r["volid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let machine = b.save("101", &[]).await;
    b.fail_next("qmrestore", "wrong vma extent header checksum");
    let force = [("vmid", "101"), ("archive", machine.as_str()), ("force", "1")];
    assert_eq!(b.run(ACT, "POST", QEMU, &force).await.0, "wrong vma extent header checksum");
    let left = config(&b, "qemu/101").await;
    // The trap: the configuration still names the disk, which is gone.
    assert_eq!(
        (left["scsi0"].as_str().unwrap(), left.get("lock")),
        ("local-lvm:vm-101-disk-0,size=32G", None)
    );
    assert!(!disks(&b).contains(&"local-lvm:vm-101-disk-0".to_owned()));
    b.world(|w| assert_eq!(w.missing_volume(&w.guests[&101]), Some("local-lvm:vm-101-disk-0")));
    // The backup is still there, and a second try brings the guest back.
    assert_eq!(b.run(ACT, "POST", QEMU, &force).await.0, "OK");
    assert!(disks(&b).contains(&"local-lvm:vm-101-disk-0".to_owned()));

    let container = b.save("201", &[]).await;
    b.fail_next("vzrestore", "tar: Unexpected EOF in archive");
    let force =
        [("vmid", "201"), ("ostemplate", &container), ("restore", "1"), ("force", "1"), ("storage", "tank")];
    assert_eq!(b.run(ACT, "POST", LXC, &force).await.0, "tar: Unexpected EOF in archive");
    let gone = b.call(ACT, "GET", "/nodes/pve1/lxc/201/config", &[]).await;
    gone.refused(500, "Configuration file 'nodes/pve1/lxc/201.conf' does not exist");
    assert_eq!(b.run(ACT, "POST", LXC, &force).await.0, "OK");
    assert_eq!(config(&b, "lxc/201").await["rootfs"], "tank:subvol-201-disk-0,size=8G");

    b.order("vzrestore", Fault::Kill);
    assert_eq!(b.run(ACT, "POST", LXC, &force).await.0, "unexpected status");
    assert_eq!(config(&b, "lxc/201").await["lock"], "create");
    b.sim.stop().await;
}

#[tokio::test]
async fn containers() {
    let b = Bench::demo().await;
    b.world(|w| {
        let guest = w.guests.get_mut(&201).unwrap();
        guest.config.insert("features".to_owned(), json!("keyctl=1,nesting=1"));
        guest.config.insert("mp0".to_owned(), json!("tank:subvol-201-disk-1,mp=/data,backup=1,size=2G"));
    });
    let volid = b.save("201", &[("compress", "zstd")]).await;
    let base = [("vmid", "310"), ("ostemplate", volid.as_str()), ("restore", "1")];
    let with = |more: &[(&'static str, &'static str)]| [base.as_slice(), more].concat();
    b.call(ACT, "POST", LXC, &base)
        .await
        .wrong("storage", "storage 'local' does not support container directories");
    b.call(ACT, "POST", LXC, &with(&[("storage", "tank"), ("features", "keyctl=1")])).await.refused(
        403,
        "Permission check failed (changing feature flags (except nesting) is only allowed for root@pam)",
    );
    let upid = b
        .call(ACT, "POST", LXC, &with(&[("storage", "local-lvm"), ("unique", "1"), ("hostname", "proof")]))
        .await;
    let upid = upid.data();
    assert!(upid.as_str().unwrap().contains(":vzrestore:310:"), "{upid}");
    let (exit, log) = b.finish(upid.as_str().unwrap()).await;
    assert_eq!(exit, "OK", "{log:#?}");
    assert_eq!(log[0], format!("recovering backed-up configuration from '{volid}'"));
    assert!(log.contains(&format!("restoring '{volid}' now..")));
    assert_eq!(log[log.len() - 2], "merging backed-up and given configuration..");
    let (old, new) = (config(&b, "lxc/201").await, config(&b, "lxc/310").await);
    assert_eq!(new["features"], "keyctl=1,nesting=1", "a restore keeps what no token may set");
    assert_eq!(
        (&new["rootfs"], &new["hostname"]),
        (&json!("local-lvm:vm-310-disk-0,size=8G"), &json!("proof"))
    );
    assert!(new["mp0"].as_str().unwrap().starts_with("local-lvm:vm-310-disk-1,mp=/data"), "{new}");
    assert_ne!(mac(&new), mac(&old));
    // A new layout instead of the saved one.
    let layout = [("vmid", "311"), ("ostemplate", &volid), ("restore", "1"), ("rootfs", "tank:5")];
    assert_eq!(b.run(ACT, "POST", LXC, &layout).await.0, "OK");
    let third = config(&b, "lxc/311").await;
    assert_eq!((&third["rootfs"], third.get("mp0")), (&json!("tank:subvol-311-disk-0,size=5G"), None));
    assert_eq!(mac(&third), mac(&old));

    b.run(ACT, "POST", "/nodes/pve1/lxc/201/status/start", &[]).await;
    let over =
        [("vmid", "201"), ("ostemplate", &volid), ("restore", "1"), ("force", "1"), ("storage", "tank")];
    b.call(ACT, "POST", LXC, &over).await.refused(500, "can't overwrite running container");
    b.call(ACT, "POST", LXC, &over[..3]).await.refused(500, "CT 201 already exists on node 'pve1'");
    b.sim.stop().await;
}

#[tokio::test]
async fn rights_and_refusals() {
    let b = Bench::demo().await;
    let volid = b.save("101", &[]).await;
    let to = |vmid: &'static str| vec![("vmid", vmid), ("archive", volid.as_str())];
    b.call(REPORT, "POST", QEMU, &to("320")).await.refused(403, "Permission check failed");
    b.call(ACT, "POST", QEMU, &[to("320"), vec![("scsi0", "tank:1")]].concat())
        .await
        .wrong("scsi0", "option conflicts with option 'archive'");
    b.call(ACT, "POST", QEMU, &[("vmid", "320"), ("archive", "local:iso/debian-13.1.0-amd64-netinst.iso")])
        .await
        .refused(
            500,
            "unable to use volume local:iso/debian-13.1.0-amd64-netinst.iso - content type needs to be 'backup'",
        );
    b.call(ACT, "POST", QEMU, &[("vmid", "320"), ("archive", "/etc/passwd")])
        .await
        .refused(500, "Only root can pass arbitrary filesystem paths.");
    // The owner of the backup counts, and so do the bridges it names.
    b.world(|w| w.access.grant("/vms/101", ACT, "PVEAuditor"));
    b.call(ACT, "POST", QEMU, &to("320")).await.refused(403, "Permission check failed (/vms/101, VM.Backup)");
    b.world(|w| w.access.acl.retain(|e| e.path != "/vms/101"));
    b.world(|w| w.access.grant("/sdn/zones/localnetwork/vmbr0", ACT, "NoAccess"));
    let (exit, _) = b.run(ACT, "POST", QEMU, &to("320")).await;
    assert!(exit.contains("(/sdn/zones/localnetwork/vmbr0, SDN.Use)"), "{exit}");
    b.world(|w| w.access.acl.retain(|e| !e.path.starts_with("/sdn/")));
    let (exit, _) = b.run(ACT, "POST", QEMU, &[to("321"), vec![("storage", "local")]].concat()).await;
    assert_eq!(exit, "storage 'local' does not support content-type 'images'");
    // A full target: nothing is made.
    b.world(|w| {
        let thick = Storage::new("lvm", "images", 1 << 30).with("vgname", "vg");
        w.storages.insert("thick".to_owned(), thick);
    });
    let (exit, _) = b.run(ACT, "POST", QEMU, &[to("322"), vec![("storage", "thick")]].concat()).await;
    assert!(exit.contains("not enough space"), "{exit}");
    b.sim.stop().await;
}
