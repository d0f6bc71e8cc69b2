use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use protocol::RunState;
use protocol::report::Known;

use super::*;
use crate::order::{Params, VolumeDeleteParams, VolumeOwner};

mod edges;

/// The golden order of a kind.
fn golden(kind: Kind) -> Order {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/orders/{kind}.json"));
    Order::decode(&std::fs::read(path).unwrap()).unwrap()
}

fn all() -> impl Iterator<Item = Order> {
    let documents = [Kind::PolicyUpdate, Kind::KeyRevoke];
    Kind::ALL.iter().filter(move |kind| !documents.contains(kind)).map(|kind| golden(*kind))
}

/// The world in which the order makes sense: what it states, and what its kind needs besides.
fn world_of(order: &Order) -> World {
    let pre = &order.pre;
    let mut config: BTreeMap<String, String> =
        [("scsi0".to_owned(), "local-lvm:vm-101-disk-0,size=32G".to_owned())].into();
    let mut storages = BTreeSet::from(["local", "local-lvm", "local-zfs"].map(|s| s.parse().unwrap()));
    let mut removed = None;
    let mut mounted = BTreeSet::new();
    let mut filesystems = BTreeSet::new();
    match &order.params {
        Params::GuestConfig(params) => {
            let old =
                params.changes.iter().filter_map(|c| Some((c.key.to_string(), c.old.as_ref()?.to_string())));
            config.extend(old);
        }
        Params::GuestResize(_) => {
            config.extend([("cores".to_owned(), "4".to_owned()), ("memory".to_owned(), "8192".to_owned())]);
        }
        Params::StorageAdd(params) => {
            if let Backing::Dir { uuid, .. } = &params.backing {
                mounted.insert(uuid.clone());
            }
        }
        Params::StorageRemove(params) => {
            removed = Some((params.storage.clone(), Known::Known(params.backing.clone())));
        }
        Params::UsbMount(params) => {
            filesystems.insert(params.uuid.clone());
        }
        Params::UsbUnmount(params) => {
            filesystems.insert(params.uuid.clone());
            mounted.insert(params.uuid.clone());
        }
        _ => {}
    }
    let guest = order.guest.as_ref().map(|guest| GuestNow {
        kind: guest.kind,
        name: guest.name.clone(),
        identity: guest.identity.clone(),
        digest: pre.digest.as_ref().map_or("x".to_owned(), ToString::to_string),
        config: Known::Known(config.clone()),
        lock: None,
        template: false,
        state: pre.state.unwrap_or(RunState::Stopped),
        snapshots: Known::Known(
            pre.snapshots
                .iter()
                .flatten()
                .chain(&pre.snapshot)
                .map(|s| SnapshotNow {
                    name: s.name.to_string(),
                    time: Some(s.time),
                    parent: s.parent.clone(),
                    unfinished: None,
                })
                .collect(),
        ),
        consistent: true,
        volumes: Known::Known(pre.volumes.clone().unwrap_or_default()),
        protection: Known::Known(pre.protection.unwrap_or_default()),
        ha: Known::Known(pre.ha.unwrap_or(HaState::Unmanaged)),
        replication: Known::Known(pre.replication.clone().unwrap_or_default()),
    });
    let storages: BTreeMap<_, _> =
        std::mem::take(&mut storages).into_iter().map(|s| (s, unread("not asked"))).chain(removed).collect();
    World {
        guest: guest.map_or_else(|| unread("no guest"), Known::Known),
        backups: Known::Known(pre.backups.clone().unwrap_or_default()),
        unlisted: BTreeMap::new(),
        protected: BTreeSet::new(),
        volumes: Known::Known(pre.volumes.clone().unwrap_or_default()),
        disks: Known::Known(
            pre.disk
                .iter()
                .map(|disk| DiskNow { disk: disk.clone(), filesystems: filesystems.clone() })
                .collect(),
        ),
        storages: Known::Known(storages),
        vmids: Known::Known([101, 200].map(|n| Vmid::try_from(n).unwrap()).into()),
        mounted: Known::Known(mounted),
        template: unread("none"),
    }
}

/// The golden order, its configuration's SHA-256 made true.
fn true_order(kind: Kind) -> (Order, World) {
    let mut order = golden(kind);
    let world = world_of(&order);
    if order.pre.config_sha256.is_some()
        && let Known::Known(guest) = &world.guest
        && let Known::Known(config) = &guest.config
    {
        order.pre.config_sha256 = Some(config_sha256(config));
    }
    (order, world)
}

#[test]
fn every_golden_order_fits_its_world_and_no_unread_one() {
    for order in all() {
        let (order, world) = true_order(order.kind());
        check(&order, &world).unwrap_or_else(|(code, why)| panic!("{}: {code}: {why}", order.kind()));
        let nothing = World::unread("the API does not answer");
        let compares = order.guest.is_some() || order.pre != crate::order::Preconditions::default();
        if compares {
            let (code, why) = check(&order, &nothing).expect_err(order.kind().as_str());
            assert_eq!(code, RefusalCode::Precondition, "{why}");
            assert!(why.contains("does not answer"), "{why}");
        }
    }
}

fn guest_of(world: &mut World) -> &mut GuestNow {
    match &mut world.guest {
        Known::Known(guest) => guest,
        Known::Unknown(_) => unreachable!("a guest"),
    }
}

fn seen<T>(known: &mut Known<T>) -> &mut T {
    match known {
        Known::Known(value) => value,
        Known::Unknown(_) => unreachable!("known"),
    }
}

/// Each way in which a guest can differ from what was signed, for every kind that states it.
#[test]
fn any_difference_of_the_guest_refuses() {
    use RefusalCode::{Busy, GuestIdentity, Precondition};
    type Change = fn(&mut GuestNow);
    type States = fn(&Order) -> bool;
    let cases: &[(&str, States, Change, RefusalCode)] = &[
        ("recycled VMID: uuid", |_| true, |g| g.identity.smbios_uuid = Some("other".into()), GuestIdentity),
        (
            "rolled back",
            |o| o.guest.as_ref().unwrap().kind == GuestKind::Qemu,
            |g| g.identity.vmgenid = None,
            GuestIdentity,
        ),
        ("created again", |_| true, |g| g.identity.meta_ctime = Some(6), GuestIdentity),
        ("other MAC", |_| true, |g| g.identity.macs.clear(), GuestIdentity),
        ("volume added", |_| true, |g| g.identity.volids.push("x:y".into()), GuestIdentity),
        ("renamed", |_| true, |g| g.name.push('x'), GuestIdentity),
        (
            "another kind of guest",
            |_| true,
            |g| g.kind = if g.kind == GuestKind::Qemu { GuestKind::Lxc } else { GuestKind::Qemu },
            GuestIdentity,
        ),
        ("locked", |_| true, |g| g.lock = Some("backup".into()), Busy),
        ("changing", |_| true, |g| g.consistent = false, Busy),
        (
            "another state",
            |o| o.pre.state.is_some(),
            |g| g.state = if g.state == RunState::Running { RunState::Stopped } else { RunState::Running },
            Precondition,
        ),
        ("unknown state", |o| o.pre.state.is_some(), |g| g.state = RunState::Unknown, Precondition),
        ("configuration changed", |o| o.pre.digest.is_some(), |g| g.digest = "0".repeat(40), Precondition),
        (
            "configuration changed under one digest",
            |o| o.pre.config_sha256.is_some(),
            |g| drop(seen(&mut g.config).insert("args".into(), "x".into())),
            Precondition,
        ),
        (
            "configuration unread",
            |o| o.pre.config_sha256.is_some(),
            |g| g.config = unread("403"),
            Precondition,
        ),
        (
            "snapshots unread",
            |o| o.pre.snapshot.is_some() || o.pre.snapshots.is_some(),
            |g| g.snapshots = unread("403"),
            Precondition,
        ),
        (
            "snapshots gone",
            |o| o.pre.snapshot.is_some() || o.pre.snapshots.is_some(),
            |g| seen(&mut g.snapshots).clear(),
            Precondition,
        ),
        (
            "same name, other time",
            |o| o.pre.snapshot.is_some() || o.pre.snapshots.is_some(),
            |g| seen(&mut g.snapshots)[0].time = Some(8),
            Precondition,
        ),
        (
            "no time",
            |o| o.pre.snapshot.is_some() || o.pre.snapshots.is_some(),
            |g| seen(&mut g.snapshots)[0].time = None,
            Precondition,
        ),
        (
            "other parent",
            |o| o.pre.snapshot.is_some() || o.pre.snapshots.is_some(),
            |g| seen(&mut g.snapshots)[0].parent = Some("x".into()),
            Precondition,
        ),
        (
            "broken snapshot",
            |o| o.pre.snapshot.is_some(),
            |g| seen(&mut g.snapshots)[0].unfinished = Some("delete".into()),
            Precondition,
        ),
        (
            "a new snapshot",
            |o| o.pre.snapshots.is_some(),
            |g| {
                let mut s = seen(&mut g.snapshots)[0].clone();
                s.name = "new".into();
                seen(&mut g.snapshots).push(s);
            },
            Precondition,
        ),
        ("volume gone", |o| o.pre.volumes.is_some(), |g| seen(&mut g.volumes).clear(), Precondition),
        ("volume resized", |o| o.pre.volumes.is_some(), |g| seen(&mut g.volumes)[0].size += 1, Precondition),
        (
            "volume in another format",
            |o| o.pre.volumes.is_some(),
            |g| seen(&mut g.volumes)[0].format = protocol::refs::VolumeFormat::Vmdk,
            Precondition,
        ),
        (
            "one volume more",
            |o| matches!(o.kind(), Kind::GuestDestroy | Kind::GuestRestoreOver),
            |g| {
                let mut more = seen(&mut g.volumes)[0].clone();
                more.volid = "local-lvm:vm-101-disk-9".parse().unwrap();
                seen(&mut g.volumes).push(more);
            },
            Precondition,
        ),
        ("volumes unread", |o| o.pre.volumes.is_some(), |g| g.volumes = unread("403"), Precondition),
        (
            "protection off",
            |o| o.pre.protection == Some(true),
            |g| g.protection = Known::Known(false),
            Precondition,
        ),
        ("protection unread", |o| o.pre.protection.is_some(), |g| g.protection = unread("403"), Precondition),
        (
            "high availability",
            |o| o.pre.ha.is_some(),
            |g| g.ha = Known::Known(HaState::Ignored),
            Precondition,
        ),
        ("high availability unread", |o| o.pre.ha.is_some(), |g| g.ha = unread("403"), Precondition),
        (
            "replication",
            |o| o.pre.replication.is_some(),
            |g| seen(&mut g.replication).push("101-9".parse().unwrap()),
            Precondition,
        ),
        (
            "replication unread",
            |o| o.pre.replication.is_some(),
            |g| g.replication = unread("403"),
            Precondition,
        ),
    ];
    for (what, states, change, expected) in cases {
        let mut count = 0;
        for order in all().filter(|order| order.guest.is_some()) {
            let (order, mut world) = true_order(order.kind());
            if !states(&order) {
                continue;
            }
            change(guest_of(&mut world));
            let (code, why) = check(&order, &world).expect_err(&format!("{}: {what}", order.kind()));
            assert_eq!(code, *expected, "{}: {what}: {why}", order.kind());
            assert!(!why.contains('\u{1b}'));
            count += 1;
        }
        assert!(count > 0, "{what} was never tried");
    }
}

/// What the kinds need besides what is stated.
#[test]
fn orders_that_make_no_sense_now_are_refused() {
    type Change = fn(&mut Order, &mut World);
    let cases: &[(Kind, &str, Change, &str)] = &[
        (
            Kind::GuestStart,
            "running",
            |o, w| {
                o.pre.state = None;
                guest_of(w).state = RunState::Running;
            },
            "is running",
        ),
        (Kind::GuestStart, "template", |_, w| guest_of(w).template = true, "template"),
        (
            Kind::SnapshotCreate,
            "taken",
            |_, w| {
                seen(&mut guest_of(w).snapshots).push(SnapshotNow {
                    name: "s1".into(),
                    time: None,
                    parent: None,
                    unfinished: None,
                });
            },
            "already",
        ),
        (
            Kind::GuestResume,
            "stopped",
            |o, w| {
                o.pre.state = Some(RunState::Stopped);
                guest_of(w).state = RunState::Stopped;
            },
            "start it instead",
        ),
        (Kind::BackupProtect, "gone", |_, w| seen(&mut w.backups).clear(), "not there"),
        (Kind::BackupProtect, "rewritten", |_, w| seen(&mut w.backups)[0].ctime += 1, "another one"),
        (Kind::SnapshotCreate, "template", |_, w| guest_of(w).template = true, "template"),
        (Kind::SnapshotCreate, "unread", |_, w| guest_of(w).snapshots = unread("403"), "could not be read"),
        (
            Kind::GuestConfig,
            "other old value",
            |_, w| drop(seen(&mut guest_of(w).config).insert("startup".into(), "order=4".into())),
            "startup",
        ),
        (
            Kind::GuestConfig,
            "set by now",
            |_, w| drop(seen(&mut guest_of(w).config).insert("onboot".into(), "1".into())),
            "onboot",
        ),
        (
            Kind::GuestConfig,
            "unset by now",
            |_, w| drop(seen(&mut guest_of(w).config).remove("startup")),
            "startup",
        ),
        (
            Kind::GuestResize,
            "other cores",
            |_, w| drop(seen(&mut guest_of(w).config).insert("cores".into(), "8".into())),
            "cores",
        ),
        (
            Kind::GuestGrow,
            "other slot",
            |_, w| {
                drop(seen(&mut guest_of(w).config).insert("scsi0".into(), "local-lvm:vm-101-disk-00".into()))
            },
            "scsi0",
        ),
        (Kind::DiskMove, "empty slot", |_, w| drop(seen(&mut guest_of(w).config).remove("scsi0")), "nothing"),
        (Kind::DiskDetach, "unread", |_, w| guest_of(w).config = unread("403"), "could not be read"),
        (
            Kind::BackupPrune,
            "a storage that was not listed",
            |_, w| drop(w.unlisted.insert("local".parse().unwrap(), "away".into())),
            "could not be listed: away",
        ),
        (
            Kind::BackupDelete,
            "protected",
            |_, w| w.protected = seen(&mut w.backups).iter().map(|b| b.volid.clone()).collect(),
            "backup.protect",
        ),
        (
            Kind::BackupPrune,
            "protected",
            |_, w| w.protected = seen(&mut w.backups).iter().map(|b| b.volid.clone()).collect(),
            "backup.protect",
        ),
        (Kind::BackupDelete, "gone", |_, w| seen(&mut w.backups).clear(), "not there"),
        (Kind::BackupDelete, "rewritten", |_, w| seen(&mut w.backups)[0].size += 1, "another one"),
        (Kind::BackupDelete, "of another time", |_, w| seen(&mut w.backups)[1].ctime += 1, "another one"),
        (
            Kind::BackupPrune,
            "one more",
            |_, w| {
                let mut b = seen(&mut w.backups)[0].clone();
                b.volid = "local:backup/new.vma".parse().unwrap();
                seen(&mut w.backups).push(b);
            },
            "neither",
        ),
        (Kind::GuestRestoreOver, "the other copy gone", |_, w| drop(seen(&mut w.backups).pop()), "not there"),
        (Kind::GuestRestoreOver, "no storage", |_, w| seen(&mut w.storages).clear(), "no storage"),
        (
            Kind::GuestCreate,
            "taken",
            |_, w| assert!(seen(&mut w.vmids).insert(Vmid::try_from(301).unwrap())),
            "already",
        ),
        (Kind::GuestCreate, "unread", |_, w| w.vmids = unread("403"), "could not be read"),
        (
            Kind::VolumeDelete,
            "there is such a guest again",
            |_, w| assert!(seen(&mut w.vmids).insert(Vmid::try_from(105).unwrap())),
            "again",
        ),
        (Kind::VolumeDelete, "resized", |_, w| seen(&mut w.volumes)[0].size += 1, "prepare again"),
        (Kind::VolumeDelete, "gone", |_, w| seen(&mut w.volumes).clear(), "not there"),
        (
            Kind::StorageAdd,
            "taken",
            |_, w| drop(seen(&mut w.storages).insert("usb-backup".parse().unwrap(), unread(""))),
            "already",
        ),
        (Kind::StorageAdd, "not mounted", |_, w| seen(&mut w.mounted).clear(), "not mounted"),
        (Kind::StorageRemove, "gone", |_, w| seen(&mut w.storages).clear(), "no storage"),
        (
            Kind::StorageRemove,
            "unread",
            |_, w| drop(seen(&mut w.storages).insert("old-thin".parse().unwrap(), unread("403"))),
            "could not be read",
        ),
        (
            Kind::StorageRemove,
            "another",
            |_, w| {
                let other =
                    Backing::Dir { path: "/mnt/x".parse().unwrap(), uuid: "ABCD-0123".parse().unwrap() };
                seen(&mut w.storages).insert("old-thin".parse().unwrap(), Known::Known(other));
            },
            "another one",
        ),
        (
            Kind::UsbMount,
            "mounted already",
            |_, w| {
                let uuid = seen(&mut w.disks)[0].filesystems.clone();
                seen(&mut w.mounted).extend(uuid);
            },
            "already",
        ),
        (Kind::UsbMount, "no such disk", |_, w| seen(&mut w.disks).clear(), "connect it"),
        (
            Kind::UsbMount,
            "another disk of that serial",
            |_, w| seen(&mut w.disks)[0].disk.size += 1,
            "another one",
        ),
        (Kind::UsbMount, "no WWN", |_, w| seen(&mut w.disks)[0].disk.wwn = None, "another one"),
        (
            Kind::UsbMount,
            "two of them",
            |_, w| {
                let d = seen(&mut w.disks)[0].clone();
                seen(&mut w.disks).push(d);
            },
            "2 disks",
        ),
        (Kind::UsbMount, "formatted", |_, w| seen(&mut w.disks)[0].filesystems.clear(), "no filesystem"),
        (Kind::UsbUnmount, "not mounted", |_, w| seen(&mut w.mounted).clear(), "not mounted"),
    ];
    for (kind, what, change, says) in cases {
        let (mut order, mut world) = true_order(*kind);
        change(&mut order, &mut world);
        let (code, why) = check(&order, &world).expect_err(&format!("{kind}: {what}"));
        assert_eq!(code, RefusalCode::Precondition, "{kind}: {what}: {why}");
        assert!(why.contains(says), "{kind}: {what}: {why}");
    }
}

#[test]
fn a_clone_needs_the_very_template() {
    let (mut order, mut world) = true_order(Kind::GuestCreate);
    let Params::GuestCreate(params) = &mut order.params else { unreachable!() };
    params.disk = None;
    params.template = crate::order::TemplateSource::Guest {
        vmid: 900.try_into().unwrap(),
        digest: "a".repeat(40).parse().unwrap(),
    };
    Order::decode(&order.encode()).unwrap();
    assert!(check(&order, &world).is_err(), "unread");
    for (template, digest, good) in [(true, "a", true), (false, "a", false), (true, "b", false)] {
        world.template = Known::Known(TemplateNow { template, digest: digest.repeat(40) });
        assert_eq!(check(&order, &world).is_ok(), good);
    }
}

#[test]
fn a_restore_needs_the_very_backup() {
    let (mut order, mut world) = true_order(Kind::GuestCreate);
    let meant = BackupRef { volid: "local:backup/x.vma".parse().unwrap(), size: 5, ctime: 6 };
    let Params::GuestCreate(params) = &mut order.params else { unreachable!() };
    (params.disk, params.net) = (None, None);
    params.template = crate::order::TemplateSource::Backup { volume: meant.volid.clone(), size: 5, ctime: 6 };
    Order::decode(&order.encode()).unwrap();
    assert!(check(&order, &world).unwrap_err().1.contains("not there"));
    for (size, ctime, good) in [(5, 6, true), (6, 6, false), (5, 7, false)] {
        world.backups = Known::Known(vec![BackupRef { size, ctime, ..meant.clone() }]);
        assert_eq!(check(&order, &world).is_ok(), good);
    }
    world.backups = unread("403");
    assert!(check(&order, &world).unwrap_err().1.contains("could not be read"));
}

/// Suspended to disk is a lock of Proxmox, and the one that resuming does not wait for.
#[test]
fn only_a_suspended_guest_is_resumed() {
    let (mut order, mut world) = true_order(Kind::GuestResume);
    for (state, lock, code) in [
        (RunState::Running, None, None),
        (RunState::Stopped, Some("suspended"), None),
        (RunState::Running, Some("suspended"), Some(RefusalCode::Precondition)),
        (RunState::Stopped, None, Some(RefusalCode::Precondition)),
        (RunState::Stopped, Some("backup"), Some(RefusalCode::Busy)),
        (RunState::Running, Some("suspending"), Some(RefusalCode::Busy)),
    ] {
        order.pre.state = Some(state);
        (guest_of(&mut world).state, guest_of(&mut world).lock) = (state, lock.map(Into::into));
        assert_eq!(check(&order, &world).err().map(|(code, _)| code), code, "{state} {lock:?}");
    }
    let (start, mut world) = true_order(Kind::GuestStart);
    guest_of(&mut world).lock = Some("suspended".into());
    assert_eq!(check(&start, &world).unwrap_err().0, RefusalCode::Busy);
}

#[test]
fn only_an_unused_disk_is_deleted() {
    let (detach, mut world) = true_order(Kind::DiskDetach);
    let volume = detach.pre.volumes.as_ref().unwrap()[0].volid.clone();
    let params =
        Params::VolumeDelete(VolumeDeleteParams { volume: volume.clone(), owner: VolumeOwner::Guest {} });
    let order = Order { params, ..detach };
    assert!(check(&order, &world).unwrap_err().1.contains("scsi0"), "in use");
    seen(&mut guest_of(&mut world).config).clear();
    assert!(check(&order, &world).is_err(), "nowhere");
    seen(&mut guest_of(&mut world).config).insert("unused0".into(), format!("my-{volume}"));
    assert!(check(&order, &world).is_err(), "another storage's");
    seen(&mut guest_of(&mut world).config).insert("unused0".into(), volume.to_string());
    check(&order, &world).unwrap();
    seen(&mut guest_of(&mut world).config).insert("ide2".into(), format!("file={volume},media=cdrom"));
    assert!(check(&order, &world).is_err(), "also in use");
}

#[test]
fn the_configurations_hash_is_over_its_lines() {
    let config: BTreeMap<String, String> =
        [("name", "db"), ("cores", "4"), ("digest", "x")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(config_sha256(&config), Sha256::of(b"cores: 4\nname: db\n"));
}
