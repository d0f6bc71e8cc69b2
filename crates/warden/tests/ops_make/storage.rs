//! `volume.delete`, `template.download`, `storage.add`, `storage.remove`.

use authz::order::{
    Backing, ContentType, Order, Params, StorageAddParams, StorageRemoveParams, TemplateParams,
    VolumeDeleteParams, VolumeOwner,
};
use authz::{Outcome, RefusalCode};
use protocol::refs::{VolumeFormat, VolumeRef};
use protocol::{GuestKind, Sha256};
use pve_sim::world::{Fault, Volume};

use crate::rig::{Lxc, Qemu, Rig, code, vmid};

const GIB: u64 = 1 << 30;

/// The acting token gets what the usual role has not.
fn allow(rig: &Rig) {
    rig.change(|w| {
        for who in ["writ@pve", "writ@pve!act"] {
            w.access.grant("/", who, "Administrator");
        }
    });
}

async fn unused(rig: &Rig, kind: GuestKind, n: u32) -> Order {
    let volume = format!("tank:{}-{n}-disk-7", if kind == Qemu { "vm" } else { "subvol" });
    rig.set(n, "unused0", format!("{volume},size=1G"));
    let volume = volume.parse().unwrap();
    let params = VolumeDeleteParams { volume, owner: VolumeOwner::Guest {} };
    rig.on_guest(kind, n, Params::VolumeDelete(params)).await
}

#[tokio::test]
async fn an_unused_disk_goes_by_compare_and_set() {
    for (kind, n) in [(Qemu, 102), (Lxc, 201)] {
        for lost in [false, true] {
            let rig = Rig::start().await;
            let order = rig.plan(&unused(&rig, kind, n).await).await.unwrap().1;
            if lost {
                rig.sim.drop_answer_next(if kind == Qemu { "POST" } else { "PUT" }, "/config");
            }
            let outcome = rig.submit(&order).await;
            assert!(outcome.is_success(), "{outcome}");
            assert_eq!((rig.option(n, "unused0"), rig.mutations().len()), (None, 1));
        }
        let rig = Rig::start().await;
        let order = rig.plan(&unused(&rig, kind, n).await).await.unwrap().1;
        rig.set(n, "memory", 333);
        assert_eq!(code(&rig.submit(&order).await), RefusalCode::Precondition);
        assert!(rig.option(n, "unused0").is_some());
    }
}

/// What a snapshot names Proxmox does not free; the warden looks before it asks.
#[tokio::test]
async fn a_volume_that_a_snapshot_holds_stays() {
    let rig = Rig::start().await;
    rig.change(|world| {
        let snapshot = world.guests.get_mut(&101).unwrap().snapshots.values_mut().next().unwrap();
        snapshot.config.insert("scsi0".into(), "tank:vm-101-disk-7,size=1G".into());
    });
    let order = unused(&rig, Qemu, 101).await;
    let order = rig.plan(&order).await.unwrap().1;
    let outcome = rig.submit(&order).await;
    let Outcome::Aborted { why } = &outcome else { panic!("{outcome}") };
    assert!(why.as_str().contains("delete the snapshot first"), "{why}");
    assert!(rig.mutations().is_empty() && rig.option(101, "unused0").is_some());
}

fn orphan(rig: &Rig, n: u32) -> Order {
    let volid = format!("tank:vm-{n}-disk-0");
    let volume = Volume {
        content: "images".into(),
        format: "raw".into(),
        size: GIB,
        vmid: Some(n),
        ..Volume::default()
    };
    rig.change(|w| drop(w.stock.volumes.insert(volid.clone(), volume)));
    let volid: protocol::refs::VolumeId = volid.parse().unwrap();
    let owner = VolumeOwner::Gone { vmid: vmid(n), kind: Qemu };
    let mut order = rig.order(Params::VolumeDelete(VolumeDeleteParams { volume: volid.clone(), owner }));
    order.pre.volumes = Some(vec![VolumeRef { volid, size: GIB, format: VolumeFormat::Raw }]);
    order
}

#[tokio::test]
async fn an_orphan_goes_only_while_nobody_has_its_number() {
    let rig = Rig::start().await;
    let refused = match rig.plan(&orphan(&rig, 400)).await {
        Ok((_, order)) => rig.submit(&order).await.to_string(),
        Err(why) => why,
    };
    assert!(refused.contains("Datastore.Allocate"), "{refused}");
    assert_eq!(rig.mutations().len(), 0);
    allow(&rig);
    let order = rig.plan(&orphan(&rig, 400)).await.unwrap().1;
    rig.change(|w| {
        let guest = w.guests[&102].clone();
        w.guests.insert(400, guest);
    });
    assert!(matches!(rig.submit(&order).await, Outcome::Refused { .. }));
    rig.change(|w| drop(w.guests.remove(&400)));
    let order = rig.plan(&orphan(&rig, 400)).await.unwrap().1;
    rig.sim.drop_answer_next("DELETE", "/content/");
    let outcome = rig.submit(&order).await;
    assert!(outcome.is_success(), "{outcome}");
    assert_eq!(rig.count("DELETE", ""), 1);
}

const TEMPLATE: &str = "alpine-3.22-default_20250617_amd64.tar.xz";

fn template(rig: &Rig, bytes: &[u8]) -> Order {
    rig.order(Params::TemplateDownload(TemplateParams {
        storage: "local".parse().unwrap(),
        template: TEMPLATE.parse().unwrap(),
        sha256: Sha256::of(bytes),
    }))
}

fn arrives(rig: &Rig, bytes: &[u8]) {
    let cache = rig.dir.path().join("host/var/lib/vz/template/cache");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join(TEMPLATE), bytes).unwrap();
}

#[tokio::test]
async fn a_template_counts_only_with_its_hash() {
    let rig = Rig::start().await;
    arrives(&rig, b"alpine");
    rig.sim.drop_answer_next("POST", "/aplinfo");
    let outcome = rig.submit(&template(&rig, b"alpine")).await;
    assert!(outcome.is_success(), "{outcome}");
    let again = rig.submit(&template(&rig, b"alpine")).await;
    assert!(matches!(again, Outcome::Aborted { .. }), "{again}");
    assert_eq!(rig.mutations().len(), 1);
    for (file, says) in [(Some(&b"evil"[..]), "do not use it"), (None, "cannot read")] {
        let rig = Rig::start().await;
        if let Some(bytes) = file {
            arrives(&rig, bytes);
        }
        let outcome = rig.submit(&template(&rig, b"alpine")).await;
        let Outcome::Unknown { why, .. } = &outcome else { panic!("{outcome}") };
        assert!(why.as_str().contains(says), "{why}");
    }
    let rig = Rig::start().await;
    rig.inject("download", Fault::Fail { text: "checksum mismatch".into(), leave_lock: false });
    let outcome = rig.submit(&template(&rig, b"alpine")).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome}");
}

fn put(rig: &Rig, path: &str, text: &str) {
    let path = rig.dir.path().join("host").join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn usb(rig: &Rig) -> Backing {
    let uuid = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
    put(rig, "sys/block/sda/dev", "8:0\n");
    put(rig, "run/udev/data/b8:0", &format!("E:ID_FS_UUID={uuid}\n"));
    put(rig, "proc/self/mountinfo", "22 1 8:0 / /mnt/usb rw - ext4 /dev/sda rw\n");
    Backing::Dir { path: "/mnt/usb".parse().unwrap(), uuid: uuid.parse().unwrap() }
}

fn add(rig: &Rig, backing: Backing) -> Order {
    let content = vec![ContentType::Backup, ContentType::Iso];
    rig.order(Params::StorageAdd(StorageAddParams { storage: "usb1".parse().unwrap(), backing, content }))
}

fn remove(rig: &Rig, backing: Backing) -> Order {
    rig.order(Params::StorageRemove(StorageRemoveParams { storage: "usb1".parse().unwrap(), backing }))
}

#[tokio::test]
async fn a_storage_is_added_and_removed_by_what_is_behind_it() {
    let rig = Rig::start().await;
    let backing = usb(&rig);
    let outcome = rig.submit(&add(&rig, backing.clone())).await;
    assert!(outcome.to_string().contains("Datastore.Allocate"), "{outcome}");
    allow(&rig);
    for lost in [false, true] {
        if lost {
            rig.sim.drop_answer_next("POST", "/storage");
        }
        let outcome = rig.submit(&add(&rig, backing.clone())).await;
        assert!(outcome.is_success(), "{outcome}");
        let again = rig.submit(&add(&rig, backing.clone())).await;
        assert_eq!(code(&again), RefusalCode::Precondition);
        // Another disk is mounted there by now.
        put(&rig, "run/udev/data/b8:0", "E:ID_FS_UUID=ABCD-0123\n");
        assert_eq!(code(&rig.submit(&remove(&rig, backing.clone())).await), RefusalCode::Precondition);
        usb(&rig);
        if lost {
            rig.sim.drop_answer_next("DELETE", "/storage/usb1");
        }
        let outcome = rig.submit(&remove(&rig, backing.clone())).await;
        assert!(outcome.is_success(), "{outcome}");
    }
    assert_eq!(rig.mutations().len(), 4);
    let nowhere = Backing::ZfsPool { pool: "tank".parse().unwrap(), guid: "42".parse().unwrap() };
    let outcome = rig.submit(&add(&rig, nowhere)).await;
    assert!(outcome.to_string().contains("is not there"), "{outcome}");
}
