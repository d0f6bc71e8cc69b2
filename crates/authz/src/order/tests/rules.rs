//! What each kind must state and must not; what its parameters must not be.

use protocol::refs::{BackupRef, HaState, VolumeFormat};

use super::golden::golden;
use super::*;

fn order_of(kind: Kind) -> Order {
    golden().into_iter().find(|order| order.kind() == kind).unwrap()
}

/// Every field of the preconditions, stated.
fn everything() -> Preconditions {
    let destroy = order_of(Kind::GuestDestroy).pre;
    Preconditions {
        snapshot: rollback().pre.snapshot,
        backups: order_of(Kind::BackupDelete).pre.backups,
        disk: order_of(Kind::UsbMount).pre.disk,
        ..destroy
    }
}

type Field = (&'static str, fn(&Needs) -> Need, fn(&mut Preconditions, &Preconditions));

/// Each field: its need, and how it is copied.
const FIELDS: [Field; 10] = [
    ("state", |n| n.state, |to, from| to.state = from.state),
    ("digest", |n| n.digest, |to, from| to.digest.clone_from(&from.digest)),
    ("snapshot", |n| n.snapshot, |to, from| to.snapshot.clone_from(&from.snapshot)),
    ("volumes", |n| n.volumes, |to, from| to.volumes.clone_from(&from.volumes)),
    ("snapshots", |n| n.snapshots, |to, from| to.snapshots.clone_from(&from.snapshots)),
    ("protection", |n| n.protection, |to, from| to.protection = from.protection),
    ("ha", |n| n.ha, |to, from| to.ha = from.ha),
    ("replication", |n| n.replication, |to, from| to.replication.clone_from(&from.replication)),
    ("backups", |n| n.backups, |to, from| to.backups.clone_from(&from.backups)),
    ("disk", |n| n.disk, |to, from| to.disk.clone_from(&from.disk)),
];

/// No optional safety, both ways, for each kind and each field.
#[test]
fn preconditions_are_neither_missing_nor_needless() {
    for order in golden() {
        let (kind, needs) = (order.kind(), order.needs());
        let verdict = |order: &Order| Order::decode(&order.encode());
        for (field, need, copy) in FIELDS {
            let mut without = order.clone();
            copy(&mut without.pre, &Preconditions::default());
            let mut with = order.clone();
            copy(&mut with.pre, &everything());
            match need(&needs) {
                Need::Must => {
                    let refused = verdict(&without);
                    assert!(
                        matches!(refused, Err(OrderError::Precondition { .. })),
                        "{kind} without {field}"
                    );
                }
                Need::No => {
                    let refused = verdict(&with);
                    assert!(matches!(refused, Err(OrderError::Needless { .. })), "{kind} with {field}");
                }
                // A mode of backup.create needs the state; the parts must fit together.
                Need::May if kind == Kind::BackupCreate && field == "state" => {}
                Need::May => assert!(verdict(&without).is_ok() && verdict(&with).is_ok(), "{kind}: {field}"),
            }
        }
        let hashed = Order {
            pre: Preconditions { config_sha256: Some(Sha256::of(b"c")), ..order.pre.clone() },
            ..order.clone()
        };
        assert_eq!(verdict(&hashed).is_ok(), needs.digest != Need::No, "{kind}: config_sha256");
        let unknown = Order {
            pre: Preconditions { state: Some(RunState::Unknown), ..order.pre.clone() },
            ..order.clone()
        };
        assert!(verdict(&unknown).is_err(), "{kind}: an unknown state is none");
        let swapped =
            Order { guest: if order.guest.is_some() { None } else { rollback().guest }, ..order.clone() };
        assert!(verdict(&swapped).is_err(), "{kind}: the guest is there when it must, and only then");
    }
}

/// The design's table, row by row: what a person would look for.
#[test]
fn the_table_is_the_designs() {
    use Kind::*;
    for (kinds, wanted) in [
        (&[GuestShutdown, GuestStop, GuestReboot, GuestSuspend][..], &["state", "ha"][..]),
        (&[GuestResume], &["state"]),
        (&[GuestConfig, GuestResize], &["digest"]),
        (&[DiskMove], &["digest", "volumes"]),
        (&[SnapshotRollback, SnapshotDelete], &["state", "digest", "snapshot"]),
        (&[BackupDelete, BackupPrune, BackupProtect], &["backups"]),
        (&[GuestDestroy], &["state", "digest", "volumes", "snapshots", "protection", "ha", "replication"]),
        (
            &[GuestRestoreOver],
            &["state", "digest", "volumes", "snapshots", "protection", "ha", "replication", "backups"],
        ),
        (&[DiskDetach, VolumeDelete], &["digest", "volumes", "snapshots", "protection", "ha", "replication"]),
        (&[UsbMount, UsbUnmount], &["disk"]),
        (
            &[
                JobRun,
                SessionOpen,
                PlanApprove,
                StorageAdd,
                StorageRemove,
                HostRebind,
                LogReanchor,
                AgentUpdate,
            ],
            &[],
        ),
    ] {
        for kind in kinds {
            let must: Vec<_> = FIELDS
                .iter()
                .filter(|(_, need, _)| need(&kind.needs()) == Need::Must)
                .map(|(f, ..)| *f)
                .collect();
            assert_eq!(must, wanted, "{kind}");
        }
    }
    let orphan = order_of(VolumeDelete).needs();
    assert_eq!((orphan.guest, orphan.volumes, orphan.digest), (Need::No, Need::Must, Need::No));
}

/// A typed change of a golden order that must be refused.
macro_rules! refuse {
    ($variant:ident, $($what:literal => |$p:ident, $o:ident| $change:expr;)*) => {$({
        let mut order = order_of(Kind::$variant);
        let mut params = match &order.params { Params::$variant(params) => params.clone(), _ => unreachable!() };
        {
            let ($p, $o) = (&mut params, &mut order);
            let _ = (&$p, &$o);
            $change;
        }
        order.params = Params::$variant(params);
        let error = Order::decode(&order.encode()).expect_err($what);
        assert!(matches!(error, OrderError::Range { .. } | OrderError::Precondition { .. } | OrderError::Needless { .. }), "{}: {error}", $what);
    })*};
}

#[test]
fn parameters_have_ranges() {
    let gib = 1_u64 << 30;
    refuse!(GuestShutdown, "no time" => |p, o| p.timeout_s = 0; "too long" => |p, o| p.timeout_s = 3601;
        "not running" => |p, o| o.pre.state = Some(RunState::Stopped););
    refuse!(GuestReboot, "no time" => |p, o| p.timeout_s = 0;);
    refuse!(GuestSuspend, "container" => |p, o| o.guest.as_mut().unwrap().kind = GuestKind::Lxc;);
    refuse!(GuestResume, "container" => |p, o| o.guest.as_mut().unwrap().kind = GuestKind::Lxc;);
    refuse!(GuestTag, "twice" => |p, o| p.tags.push(p.tags[0].clone());
        "many" => |p, o| p.tags = (0..65).map(|n| format!("t{n}").parse().unwrap()).collect(););
    refuse!(GuestGrow, "smaller" => |p, o| p.size = 16 * gib; "the same" => |p, o| p.size = 32 * gib;
        "odd" => |p, o| p.size += 1; "huge" => |p, o| p.size = 1 << 52;
        "slot of a container" => |p, o| p.disk = "mp0".parse().unwrap();
        "foreign volume" => |p, o| p.volume = "local-lvm:vm-102-disk-0".parse().unwrap();
        "volume without facts" => |p, o| o.pre.volumes = Some(vec![]););
    refuse!(GuestCreate, "no cores" => |p, o| p.cores = 0; "memory" => |p, o| p.memory_mib = 8;
        "half a GiB" => |p, o| p.disk = Some(gib / 2); "archive without disk" => |p, o| p.disk = None;
        "VLAN 0" => |p, o| p.net.as_mut().unwrap().vlan = Some(0);
        "VLAN 4095" => |p, o| p.net.as_mut().unwrap().vlan = Some(4095);
        "an archive for a machine" => |p, o| p.kind = GuestKind::Qemu;
        "no template" => |p, o| p.template = TemplateSource::Archive {
            volume: "local:backup/vzdump-lxc-1.tar".parse().unwrap(), sha256: Sha256::of(b"") };
        "a golden image for a machine" => |p, o| (p.kind, p.template) = (GuestKind::Qemu, golden_image());
        "a golden image with the host's root" => |p, o| (p.unprivileged, p.template) = (false, golden_image());
        "a golden image without disk" => |p, o| (p.disk, p.template) = (None, golden_image());
        "no golden image" => |p, o| p.template = TemplateSource::Golden {
            volume: "local:backup/vzdump-lxc-1.tar".parse().unwrap(), sha256: Sha256::of(b"") };
        "of itself" => |p, o| (p.disk, p.template) = (None, TemplateSource::Guest {
            vmid: p.vmid, digest: "a".repeat(40).parse().unwrap() });
        "a clone with another disk" => |p, o| p.template = TemplateSource::Guest {
            vmid: 900.try_into().unwrap(), digest: "a".repeat(40).parse().unwrap() };
        "no backup" => |p, o| (p.disk, p.net, p.template) = (None, None, TemplateSource::Backup {
            volume: "local:iso/x.iso".parse().unwrap(), size: 1, ctime: 1 });
        "a backup with another disk" => |p, o| (p.net, p.template) = (None, a_backup());
        "a backup with another network" => |p, o| (p.disk, p.template) = (None, a_backup()););
    refuse!(GuestConfig, "nothing" => |p, o| p.changes.clear();
        "twice" => |p, o| p.changes.push(p.changes[0].clone());
        "no change" => |p, o| p.changes[0].old = p.changes[0].new.clone();
        "no value of it" => |p, o| p.changes[0].new = Some("maybe".parse().unwrap());
        "option of a machine" => |p, o| (o.guest.as_mut().unwrap().kind, p.changes[0].key) =
            (GuestKind::Lxc, "acpi".parse().unwrap()););
    refuse!(GuestResize, "nothing" => |p, o| (p.cores, p.memory_mib) = (None, None);
        "swap of a machine" => |p, o| p.swap_mib = Some(Amount { old: None, new: 1 });
        "sockets of a container" => |p, o| (o.guest.as_mut().unwrap().kind, p.sockets) =
            (GuestKind::Lxc, Some(Amount { old: None, new: 1 }));
        "no core" => |p, o| p.cores = Some(Amount { old: None, new: 0 });
        "the same" => |p, o| p.cores = Some(Amount { old: Some(2), new: 2 }););
    refuse!(DiskMove, "to itself" => |p, o| p.storage = "local-lvm".parse().unwrap(););
    refuse!(GuestGrow, "unused" => |p, o| p.disk = "unused0".parse().unwrap(););
    refuse!(DiskDetach, "unused, which would delete it" => |p, o| p.disk = "unused0".parse().unwrap(););
    refuse!(DiskDetach, "root" => |p, o| (o.guest.as_mut().unwrap().kind, p.disk) =
        (GuestKind::Lxc, "rootfs".parse().unwrap()););
}

#[test]
fn what_goes_is_named_exactly() {
    refuse!(BackupCreate, "stop of a running guest" => |p, o| o.pre.state = Some(RunState::Running);
        "stop of nobody knows" => |p, o| o.pre.state = None;);
    refuse!(BackupDelete, "nothing" => |p, o| p.remove.clear();
        "twice" => |p, o| p.remove.push(p.remove[0].clone());
        "another list" => |p, o| p.remove.swap(0, 1); "less than stated" => |p, o| p.remove.truncate(1);
        "a disk" => |p, o| {
            p.remove[0] = "local-lvm:vm-101-disk-0".parse().unwrap();
            o.pre.backups.as_mut().unwrap()[0].volid = p.remove[0].clone();
        };
        "the same stated twice" => |p, o| {
            let again = o.pre.backups.as_ref().unwrap()[0].clone();
            o.pre.backups.as_mut().unwrap().push(again);
        };);
    refuse!(BackupProtect, "another one stated" => |p, o| o.pre.backups = Some(vec![backup_ref()]);
        "nothing stated" => |p, o| o.pre.backups = Some(vec![]);
        "one more stated" => |p, o| o.pre.backups.as_mut().unwrap().push(backup_ref());
        "a disk" => |p, o| p.volume = "local-lvm:vm-101-disk-0".parse().unwrap(););
    refuse!(BackupPrune, "nothing goes" => |p, o| { let all = p.remove.split_off(0); p.keep.splice(0..0, all); };
        "nothing stays" => |p, o| { let all = p.keep.split_off(0); p.remove.extend(all); };
        "both goes and stays" => |p, o| p.keep.push(p.remove[0].clone());
        "elsewhere" => |p, o| p.storage = "other".parse().unwrap(););
    refuse!(GuestDestroy, "a state that nobody knows" => |p, o| o.pre.state = Some(RunState::Unknown);
        "a volume less" => |p, o| o.pre.volumes.as_mut().unwrap().clear();
        "a volume more" => |p, o| {
            let mut more = o.pre.volumes.as_ref().unwrap()[0].clone();
            (more.volid, more.format) = ("local-lvm:vm-101-disk-9".parse().unwrap(), VolumeFormat::Qcow2);
            o.pre.volumes.as_mut().unwrap().push(more);
        };
        "a snapshot twice" => |p, o| {
            let again = o.pre.snapshots.as_ref().unwrap()[0].clone();
            o.pre.snapshots.as_mut().unwrap().push(again);
        };
        "a parent that disguises" => |p, o| {
            o.pre.snapshots.as_mut().unwrap()[0].parent = Some("a\u{202e}".into());
        };);
    refuse!(GuestRestoreOver, "the only copy" => |p, o| o.pre.backups.as_mut().unwrap().truncate(1);
        "an archive that is not stated" => |p, o| p.archive = "local:backup/other.vma".parse().unwrap();
        "no backup" => |p, o| p.archive = "local:iso/x.iso".parse().unwrap();
        "a state that nobody knows" => |p, o| o.pre.state = Some(RunState::Unknown););
    refuse!(VolumeDelete, "another volume stated" => |p, o| {
            o.pre.volumes.as_mut().unwrap()[0].volid = "local-lvm:vm-105-disk-2".parse().unwrap();
        };
        "a backup" => |p, o| {
            p.volume = "local:backup/x.vma".parse().unwrap();
            o.pre.volumes.as_mut().unwrap()[0].volid = p.volume.clone();
        };
        "of a guest that is not named" => |p, o| p.owner = VolumeOwner::Guest {};);
    refuse!(PlanApprove, "no plan" => |p, o| o.plan = None; "no step" => |p, o| p.count = 0;
        "too many" => |p, o| p.count = 1001;);
    refuse!(StorageAdd, "no content" => |p, o| p.content.clear();
        "twice" => |p, o| p.content.push(ContentType::Iso););
    refuse!(HostRebind, "a generation skipped" => |p, o| p.generation = 3; "the old one" => |p, o| p.generation = 1;);
    refuse!(LogReanchor, "nothing" => |p, o| p.log = false;);
    refuse!(AgentUpdate, "empty" => |p, o| p.size = 0; "huge" => |p, o| p.size = (1 << 30) + 1;);
}

fn backup_ref() -> BackupRef {
    BackupRef { volid: "local:backup/vzdump-lxc-102-x.tar".parse().unwrap(), size: 5, ctime: 6 }
}

fn a_backup() -> TemplateSource {
    let BackupRef { volid: volume, size, ctime } = backup_ref();
    TemplateSource::Backup { volume, size, ctime }
}

/// The same order stops a guest that runs, and says so in `pre.state`.
#[test]
fn a_running_guest_can_be_ended_when_the_order_says_that_it_runs() {
    for kind in [Kind::GuestDestroy, Kind::GuestRestoreOver] {
        for state in [RunState::Running, RunState::Stopped] {
            let mut order = order_of(kind);
            order.pre.state = Some(state);
            assert_eq!(Order::decode(&order.encode()).unwrap(), order);
        }
    }
}

/// What no golden order shows: a new guest from a backup, of either kind.
#[test]
fn a_backup_is_restored_to_a_new_number() {
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        let mut order = order_of(Kind::GuestCreate);
        let Params::GuestCreate(params) = &mut order.params else { unreachable!() };
        (params.kind, params.disk, params.net, params.template) = (kind, None, None, a_backup());
        assert_eq!(Order::decode(&order.encode()).unwrap(), order);
    }
    assert_eq!(order_of(Kind::BackupProtect).vmid(), Some(101.try_into().unwrap()));
}

/// The owner's side of `volume.delete`, which no golden order shows.
#[test]
fn an_unused_disk_of_a_guest_can_be_deleted() {
    let detach = order_of(Kind::DiskDetach);
    let volume = detach.pre.volumes.as_ref().unwrap()[0].volid.clone();
    let params = VolumeDeleteParams { volume, owner: VolumeOwner::Guest {} };
    let order = Order { params: Params::VolumeDelete(params), ..detach };
    assert_eq!(Order::decode(&order.encode()).unwrap(), order);
    assert_eq!(order.vmid(), rollback().vmid());
    assert_eq!(order_of(Kind::VolumeDelete).vmid(), Some(105.try_into().unwrap()));
    assert_eq!(order_of(Kind::GuestCreate).vmid(), Some(301.try_into().unwrap()));
    assert_eq!(order_of(Kind::JobRun).vmid(), None);
}

/// V19 wherever a number stands, by its place.
#[test]
fn a_large_number_is_named_by_its_place() {
    let mut order = order_of(Kind::BackupDelete);
    order.pre.backups =
        Some(vec![BackupRef { size: (1 << 53) + 1, ..order.pre.backups.as_ref().unwrap()[0].clone() }]);
    assert_eq!(
        Order::decode(&order.encode()).unwrap_err().to_string(),
        "the number in field pre.backups[0].size is above 2^53"
    );
    assert_eq!(order_of(Kind::GuestStop).pre.ha, Some(HaState::Started));
}

fn golden_image() -> TemplateSource {
    TemplateSource::Golden {
        volume: "local:vztmpl/golden.tar.zst".parse().unwrap(),
        sha256: Sha256::of(b"image"),
    }
}
