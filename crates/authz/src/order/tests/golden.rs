//! One golden order per kind, as data: `fixtures/orders/KIND.json` holds the exact signed bytes.
//! `WRIT_WRITE_GOLDEN=1 cargo test -p authz golden` writes them anew after a change of the format.

use std::collections::BTreeSet;
use std::path::PathBuf;

use protocol::refs::{BackupRef, DiskRef, HaState, VolumeFormat, VolumeRef};
use protocol::{GuestIdentity, GuestKind, GuestRef, RunState, SnapshotRef};

use super::*;

const GIB: u64 = 1 << 30;

pub(super) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/orders")
}

/// The frozen bytes, by kind.
pub(super) fn files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let kind = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (kind, std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn p<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn container() -> GuestRef {
    GuestRef {
        vmid: Vmid::try_from(200).unwrap(),
        kind: GuestKind::Lxc,
        name: "files".into(),
        identity: GuestIdentity {
            macs: vec!["BC:24:11:00:00:02".into()],
            volids: vec!["local-zfs:subvol-200-disk-0".into()],
            ..GuestIdentity::default()
        },
    }
}

fn volume(volid: &str, gib: u64, format: VolumeFormat) -> VolumeRef {
    VolumeRef { volid: p(volid), size: gib * GIB, format }
}

fn backup(day: u32) -> BackupRef {
    BackupRef {
        volid: p(&format!("local:backup/vzdump-qemu-101-2025_11_{day:02}-02_00_05.vma.zst")),
        size: 1_234_567_890 + u64::from(day),
        // Two in the morning, by a clock one hour ahead of UTC.
        ctime: 1_761_958_805 + u64::from(day - 1) * 86_400,
    }
}

/// A kind's order: on the virtual machine or the container of the other orders, or on none.
pub(super) fn golden() -> Vec<Order> {
    // A policy of their own: the data stays frozen whatever policy the other tests live by.
    let policy = PolicyRef { version: 7, sha256: Sha256::of(b"policy") };
    let frozen = |order: Order| Order { policy: policy.clone(), ..order };
    let rollback = frozen(rollback());
    let plan = Some(PlanRef { sha256: Sha256::of(b"plan"), challenge: Sha256::of(b"challenge") });
    let (state, digest) = (rollback.pre.state, rollback.pre.digest.clone());
    let nothing = Preconditions::default;
    let config = || Preconditions { digest: digest.clone(), ..nothing() };
    let disk = || volume("local-lvm:vm-101-disk-0", 32, VolumeFormat::Raw);
    let on_disk = || Preconditions { volumes: Some(vec![disk()]), ..config() };
    let power =
        || Preconditions { state: Some(RunState::Running), ha: Some(HaState::Unmanaged), ..nothing() };
    let loss = || Preconditions {
        snapshots: Some(vec![
            SnapshotRef { name: p("first"), time: 1_763_600_000, parent: None },
            SnapshotRef { name: p("before"), time: 1_763_700_000, parent: Some("first".into()) },
        ]),
        protection: Some(true),
        ha: Some(HaState::Unmanaged),
        replication: Some(vec![]),
        ..on_disk()
    };
    let end = || Preconditions {
        state,
        config_sha256: Some(Sha256::of(b"config")),
        replication: Some(vec![p("101-0")]),
        ha: Some(HaState::Stopped),
        ..loss()
    };
    let backups = |list: &[u32]| Some(list.iter().map(|day| backup(*day)).collect::<Vec<_>>());
    let volids = |list: &[u32]| list.iter().map(|day| backup(*day).volid).collect::<Vec<_>>();
    let usb = || Preconditions {
        disk: Some(DiskRef {
            serial: p("WD-WX11D1234567"),
            wwn: Some(p("0x50014ee2b1a2c3d4")),
            size: 2_000_398_934_016,
        }),
        ..nothing()
    };
    let owner = || BackupOwner { vmid: Vmid::try_from(101).unwrap(), kind: GuestKind::Qemu };
    let fs_uuid = "6f7a2c1e-0b5d-4c3a-9e8f-333333333333";

    let vm = |params, pre| Order { params, pre, ..rollback.clone() };
    let ct = |params, pre| Order { guest: Some(container()), ..vm(params, pre) };
    let host = |params, pre| Order { guest: None, ..vm(params, pre) };
    let planned = |order: Order| Order { plan: plan.clone(), ..order };

    vec![
        vm(Params::GuestStart(NoParams {}), Preconditions { state, ..config() }),
        vm(Params::SnapshotCreate(SnapshotParams { snapshot: p("s1") }), config()),
        vm(
            Params::BackupCreate(BackupParams {
                storage: p("local"),
                mode: BackupMode::Stop,
                compress: Compression::Zstd,
                protected: true,
                notes: p("before the move"),
            }),
            Preconditions { state, ..config() },
        ),
        vm(Params::GuestTag(TagParams { tags: vec![p("prod"), p("web")] }), config()),
        vm(
            Params::GuestGrow(GrowParams { disk: p("scsi0"), volume: disk().volid, size: 48 * GIB }),
            on_disk(),
        ),
        host(
            Params::GuestCreate(CreateParams {
                vmid: Vmid::try_from(301).unwrap(),
                kind: GuestKind::Lxc,
                name: p("ct301"),
                template: TemplateSource::Archive {
                    volume: p("local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"),
                    sha256: Sha256::of(b"template"),
                },
                storage: p("local-zfs"),
                disk: Some(8 * GIB),
                cores: 2,
                memory_mib: 1536,
                net: Some(NetParams { bridge: p("vmbr0"), vlan: Some(12), firewall: true }),
                unprivileged: true,
                onboot: false,
                start: true,
                pool: Some(p("kiosks")),
                tags: vec![p("kiosk")],
            }),
            nothing(),
        ),
        host(
            Params::TemplateDownload(TemplateParams {
                storage: p("local"),
                template: p("debian-12-standard_12.7-1_amd64.tar.zst"),
                sha256: Sha256::of(b"template"),
            }),
            nothing(),
        ),
        vm(Params::GuestResume(NoParams {}), Preconditions { state: Some(RunState::Running), ..config() }),
        vm(Params::GuestShutdown(PowerOffParams { timeout_s: 180, force: false }), power()),
        vm(Params::GuestStop(NoParams {}), Preconditions { ha: Some(HaState::Started), ..power() }),
        ct(Params::GuestReboot(RebootParams { timeout_s: 90 }), power()),
        vm(Params::GuestSuspend(SuspendParams { to_disk: true }), power()),
        host(
            Params::BackupProtect(BackupProtectParams {
                owner: owner(),
                volume: backup(3).volid,
                protected: false,
            }),
            Preconditions { backups: backups(&[3]), ..nothing() },
        ),
        vm(
            Params::GuestConfig(ConfigParams {
                changes: vec![
                    ConfigChange { key: p("onboot"), old: None, new: Some(p("1")) },
                    ConfigChange {
                        key: p("net0"),
                        old: Some(p("virtio=BC:24:11:00:00:01,bridge=vmbr0")),
                        new: Some(p("virtio=BC:24:11:00:00:01,bridge=vmbr1,tag=12")),
                    },
                    ConfigChange { key: p("startup"), old: Some(p("order=3")), new: None },
                ],
            }),
            config(),
        ),
        vm(
            Params::GuestResize(ResizeParams {
                cores: Some(Amount { old: Some(4), new: 2 }),
                sockets: None,
                memory_mib: Some(Amount { old: Some(8192), new: 4096 }),
                swap_mib: None,
            }),
            config(),
        ),
        vm(
            Params::DiskMove(MoveParams {
                disk: p("scsi0"),
                volume: disk().volid,
                storage: p("local-zfs"),
                delete_source: true,
            }),
            on_disk(),
        ),
        rollback.clone(),
        vm(Params::SnapshotDelete(NoParams {}), rollback.pre.clone()),
        host(
            Params::BackupDelete(BackupDeleteParams { owner: owner(), remove: volids(&[1, 2]) }),
            Preconditions { backups: backups(&[1, 2]), ..nothing() },
        ),
        host(
            Params::BackupPrune(BackupPruneParams {
                owner: owner(),
                storage: p("local"),
                remove: volids(&[1, 2]),
                keep: volids(&[3]),
            }),
            Preconditions { backups: backups(&[1, 2, 3]), ..nothing() },
        ),
        planned(vm(
            Params::GuestRestoreOver(RestoreOverParams {
                archive: backup(3).volid,
                storage: p("local-lvm"),
                unique: false,
                start: true,
            }),
            Preconditions { backups: backups(&[3, 2]), ..end() },
        )),
        planned(vm(Params::GuestDestroy(DestroyParams { purge: true, destroy_unreferenced: false }), end())),
        planned(vm(
            Params::DiskDetach(DetachParams { disk: p("scsi0"), volume: disk().volid }),
            Preconditions { state, ..loss() },
        )),
        planned(host(
            Params::VolumeDelete(VolumeDeleteParams {
                volume: p("local-lvm:vm-105-disk-1"),
                owner: VolumeOwner::Gone { vmid: Vmid::try_from(105).unwrap(), kind: GuestKind::Qemu },
            }),
            Preconditions {
                volumes: Some(vec![volume("local-lvm:vm-105-disk-1", 16, VolumeFormat::Raw)]),
                ..nothing()
            },
        )),
        host(
            Params::StorageAdd(StorageAddParams {
                storage: p("usb-backup"),
                backing: Backing::Dir { path: p("/mnt/writ/backup"), uuid: p(fs_uuid) },
                content: vec![ContentType::Backup, ContentType::Iso],
            }),
            nothing(),
        ),
        host(
            Params::StorageRemove(StorageRemoveParams {
                storage: p("old-thin"),
                backing: Backing::LvmThin {
                    vg: p("pve"),
                    uuid: p("Zr5zT9-1a2b-3c4d-5e6f-7g8h-9i0j-AbCdEf"),
                    pool: p("data"),
                },
            }),
            nothing(),
        ),
        host(
            Params::UsbMount(MountParams {
                uuid: p(fs_uuid),
                filesystem: Filesystem::Ext4,
                name: p("backup"),
                read_only: false,
                persist: true,
            }),
            usb(),
        ),
        host(Params::UsbUnmount(UnmountParams { uuid: p(fs_uuid), name: p("backup"), forget: true }), usb()),
        planned(host(
            Params::PlanApprove(ApproveParams { steps: Sha256::of(b"steps"), count: 4 }),
            nothing(),
        )),
        frozen(job()),
        frozen(session()),
        host(
            Params::HostRebind(RebindParams {
                boot_id: p("1b4e28ba-2fa1-4d3b-a3f5-444444444444"),
                host_key: Ed25519Key::from_bytes([0x79; 32]),
                generation: 2,
                log: Checkpoint { size: 118, head: Sha256::of(b"head") },
            }),
            nothing(),
        ),
        host(
            Params::LogReanchor(ReanchorParams {
                last: Some(Checkpoint { size: 117, head: Sha256::of(b"last") }),
                log: true,
                journal: false,
            }),
            nothing(),
        ),
        host(
            Params::AgentUpdate(UpdateParams {
                version: p("0.2.1"),
                arch: Arch::Amd64,
                sha256: Sha256::of(b"package"),
                size: 8_123_456,
            }),
            nothing(),
        ),
        vm(Params::GuestAdopt(AdoptParams { protect: true }), config()),
        vm(Params::GuestRelease(NoParams {}), config()),
    ]
}

#[test]
fn golden_orders_are_frozen_byte_for_byte() {
    let orders = golden();
    if std::env::var_os("WRIT_WRITE_GOLDEN").is_some() {
        for order in &orders {
            std::fs::write(directory().join(format!("{}.json", order.kind())), order.encode()).unwrap();
        }
    }
    let files = files();
    let names: BTreeSet<&str> = files.iter().map(|(kind, _)| kind.as_str()).collect();
    let documents = [Kind::PolicyUpdate, Kind::KeyRevoke];
    let wanted = Kind::ALL.iter().filter(|kind| !documents.contains(kind)).map(|kind| kind.as_str());
    assert_eq!(names, wanted.collect(), "one golden order per kind, but for the two documents");
    for (kind, bytes) in &files {
        let order = orders.iter().find(|order| order.kind().as_str() == kind).unwrap();
        assert_eq!(
            String::from_utf8_lossy(bytes),
            String::from_utf8_lossy(&order.encode()),
            "{kind}: an old order would mean something else now"
        );
        let read = Order::decode(bytes).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(read, *order, "{kind}");
        assert_eq!(read.encode(), *bytes, "{kind}");
    }
}

/// `guest.create` from a golden image: the same kind, carried out by somebody else.
#[test]
fn the_order_for_roots_pct_is_frozen_too() {
    let mut order = golden().into_iter().find(|order| order.kind() == Kind::GuestCreate).unwrap();
    let Params::GuestCreate(params) = &mut order.params else { unreachable!() };
    params.template = TemplateSource::Golden {
        volume: p("local:vztmpl/golden-debian-12.tar.zst"),
        sha256: Sha256::of(b"image"),
    };
    let path = directory().parent().unwrap().join("orders-of-root/guest.create.json");
    if std::env::var_os("WRIT_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, order.encode()).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&order.encode()));
    assert_eq!(Order::decode(&bytes).unwrap(), order);
}
