//! The live world of a case: what Proxmox would answer the host that judges it.

use std::collections::{BTreeMap, BTreeSet};

use authz::order::{Backing, Binding, Order, Params};
use authz::policy::Rule;
use authz::world::{DiskNow, GuestNow, SnapshotNow, World, config_sha256};
use authz::{Kind, Namespace};
use protocol::RunState;
use protocol::refs::HaState;
use protocol::report::Known;

use crate::base::{Desk, Draft, rule};
use crate::forge::Key;

/// Orders whose bytes are frozen in crate authz.
macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../../../crates/authz/fixtures/orders/", $name, ".json")).as_slice()
    };
}

/// Of a guest: a rollback, as every desk has it.
pub const ROLLBACK: &[u8] = golden!("snapshot.rollback");
/// Of a guest and all that it has.
pub const DESTROY: &[u8] = golden!("guest.destroy");
/// Of a disk in its slot.
pub const DETACH: &[u8] = golden!("disk.detach");
/// Of a disk's size.
pub const GROW: &[u8] = golden!("guest.grow");
/// Of options, each with its old value.
pub const CONFIG: &[u8] = golden!("guest.config");
/// Of whether a guest runs.
pub const STOP: &[u8] = golden!("guest.stop");
/// Of a disk in the host's slot.
pub const MOUNT: &[u8] = golden!("usb.mount");
/// Of backups.
pub const BACKUPS: &[u8] = golden!("backup.delete");
/// Those of them that are about a guest.
pub const OF_GUESTS: [&[u8]; 6] = [ROLLBACK, DESTROY, DETACH, GROW, CONFIG, STOP];

/// A desk with this order, a rule for its kind, and the world in which it makes sense. Changed, then bound to a
/// plan where the kind needs one.
pub fn desk(golden: &[u8], change: impl FnOnce(&mut Desk)) -> Desk {
    let mut desk = Desk::new();
    desk.order = Order::decode(golden).unwrap();
    desk.order.plan = None;
    let kind = desk.order.kind();
    allow(&mut desk, kind);
    let config = config(&desk.order);
    if desk.order.guest.is_some() && desk.order.pre.digest.is_some() {
        desk.order.pre.config_sha256 = Some(config_sha256(&config));
    }
    desk.host.world = Some(world(&desk.order, config));
    change(&mut desk);
    if stands(kind) { desk } else { desk.planned(|_| {}) }
}

fn stands(kind: Kind) -> bool {
    matches!(kind.binding(), Binding::None | Binding::PlanOrStanding | Binding::Standing)
}

/// A rule for the kind, where there is none.
pub fn allow(desk: &mut Desk, kind: Kind) {
    if !desk.policy.rules.iter().any(|rule| rule.kind == kind) {
        desk.policy.rules.push(Rule { standing: stands(kind), max_validity_s: 900, ..rule(kind, 1) });
    }
}

/// The order, signed by alice.
pub fn alice(desk: &Desk) -> Draft {
    assert_eq!(desk.order.kind().namespace(), Namespace::Op);
    desk.signed(&[&Key::ed25519()])
}

fn config(order: &Order) -> BTreeMap<String, String> {
    let mut config: BTreeMap<String, String> = [
        ("cores", "4"),
        ("memory", "8192"),
        ("scsi0", "local-lvm:vm-101-disk-0,size=32G"),
        ("smbios1", "uuid=0d6e5c1c-8a5b-4e57-9f3b-111111111111"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    if let Params::GuestConfig(params) = &order.params {
        for change in &params.changes {
            if let Some(old) = &change.old {
                config.insert(change.key.to_string(), old.to_string());
            }
        }
    }
    config
}

fn world(order: &Order, config: BTreeMap<String, String>) -> World {
    let pre = &order.pre;
    let stated = pre.snapshots.iter().flatten().chain(&pre.snapshot);
    let snapshots = stated.map(|meant| SnapshotNow {
        name: meant.name.to_string(),
        time: Some(meant.time),
        parent: meant.parent.clone(),
        unfinished: None,
    });
    let guest = order.guest.as_ref().map(|meant| GuestNow {
        kind: meant.kind,
        name: meant.name.clone(),
        identity: meant.identity.clone(),
        digest: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        config: Known::Known(config),
        lock: None,
        template: false,
        state: pre.state.unwrap_or(RunState::Stopped),
        snapshots: Known::Known(snapshots.collect()),
        consistent: true,
        volumes: Known::Known(pre.volumes.clone().unwrap_or_default()),
        protection: Known::Known(pre.protection.unwrap_or_default()),
        ha: Known::Known(pre.ha.unwrap_or(HaState::Unmanaged)),
        replication: Known::Known(pre.replication.clone().unwrap_or_default()),
    });
    let filesystems: BTreeSet<_> = match &order.params {
        Params::UsbMount(params) => [params.uuid.clone()].into(),
        _ => BTreeSet::new(),
    };
    let disks = pre.disk.iter().map(|disk| DiskNow { disk: disk.clone(), filesystems: filesystems.clone() });
    let path = Backing::Dir {
        path: "/var/lib/vz".parse().unwrap(),
        uuid: "0a0b0c0d-0e0f-4a1b-8c2d-444444444444".parse().unwrap(),
    };
    World {
        guest: guest.map_or_else(|| Known::Unknown("the order names none".to_owned()), Known::Known),
        backups: Known::Known(pre.backups.clone().unwrap_or_default()),
        unlisted: [].into(),
        protected: [].into(),
        volumes: Known::Known(vec![]),
        disks: Known::Known(disks.collect()),
        storages: Known::Known(
            [("local".parse().unwrap(), Known::Known(path)), ("local-lvm".parse().unwrap(), unasked())]
                .into(),
        ),
        vmids: Known::Known([crate::base::vmid(101), crate::base::vmid(200)].into()),
        mounted: Known::Known(BTreeSet::new()),
        template: unasked(),
    }
}

fn unasked<T>() -> Known<T> {
    Known::Unknown("not asked".to_owned())
}

/// The world of a desk.
pub fn of(desk: &mut Desk) -> &mut World {
    desk.host.world.as_mut().unwrap()
}

/// The guest in it.
pub fn guest(desk: &mut Desk) -> &mut GuestNow {
    known(&mut of(desk).guest)
}

/// What was read.
pub fn known<T>(value: &mut Known<T>) -> &mut T {
    match value {
        Known::Known(value) => value,
        Known::Unknown(why) => panic!("not in this world: {why}"),
    }
}
