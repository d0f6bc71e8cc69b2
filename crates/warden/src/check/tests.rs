use authz::order::{HostRef, NoParams, PolicyRef, Preconditions, RollbackParams, SnapshotParams};
use protocol::{GuestIdentity, GuestKind, GuestRef, HostId, Nonce, RunState, Sha256, SnapshotRef, Vmid};
use proxmox_client::Snapshot;

use super::*;
use crate::world::Observed;
use authz::Order;
use authz::world::World;
use authz::{RefusalCode, world};
use protocol::report::Known;

fn preconditions(order: &Order, seen: &Observed) -> Result<(), Refused> {
    let guest = Known::Known(seen.guest_now());
    world::check(order, &World { guest, ..World::unread("this order needs no more than its guest") })
}

const DIGEST: &str = "0123456789abcdef0123456789abcdef01234567";

fn identity() -> GuestIdentity {
    GuestIdentity::from_facts(
        Some("uuid"),
        Some("gen"),
        Some(5),
        ["BC:24:11:00:00:01".to_owned()],
        ["local-lvm:vm-101-disk-0".to_owned()],
    )
}

fn meant() -> GuestRef {
    GuestRef {
        vmid: Vmid::try_from(101).unwrap(),
        kind: GuestKind::Qemu,
        name: "db".into(),
        identity: identity(),
    }
}

fn snapshot(name: &str) -> Snapshot {
    serde_json::from_value(serde_json::json!({"name": name, "snaptime": 7})).unwrap()
}

fn seen() -> Observed {
    Observed {
        kind: GuestKind::Qemu,
        vmid: Vmid::try_from(101).unwrap(),
        name: "db".into(),
        identity: identity(),
        digest: DIGEST.into(),
        config: [("onboot".to_owned(), "1".to_owned())].into(),
        slots: [("scsi0".to_owned(), "local-lvm:vm-101-disk-0".to_owned())].into(),
        boot: None,
        paused: false,
        volumes: Known::Unknown("not read".into()),
        ha: Known::Unknown("could not be read".into()),
        replication: Known::Unknown("not read".into()),
        protection: true,
        lock: None,
        template: false,
        tags: vec![],
        state: RunState::Stopped,
        snapshots: vec![snapshot("before")],
        parent: Some("before".into()),
        consistent: true,
    }
}

fn order(params: Params) -> Order {
    Order {
        params,
        host: HostRef {
            id: HostId::from_bytes([1; 16]),
            key: protocol::Fingerprint::of_key_blob(b"k"),
            generation: 1,
            cluster: None,
            name: "web1".parse().unwrap(),
        },
        guest: Some(meant()),
        pre: Preconditions {
            state: Some(RunState::Stopped),
            digest: Some(DIGEST.parse().unwrap()),
            snapshot: Some(SnapshotRef { name: "before".parse().unwrap(), time: 7, parent: None }),
            ..Preconditions::default()
        },
        plan: None,
        nonce: Nonce::from_bytes([1; 16]),
        nbf: 0,
        exp: 1,
        after: None,
        policy: PolicyRef { version: 1, sha256: Sha256::of(b"p") },
        min_signers: 1,
        reason: "".parse().unwrap(),
        ticket: None,
    }
}

/// Each way in which the world can differ from what was signed, and the rule that notices.
#[test]
fn any_difference_from_what_was_signed_refuses() {
    let rollback = order(Params::SnapshotRollback(RollbackParams { start: false }));
    preconditions(&rollback, &seen()).unwrap();
    type Change = fn(&mut Observed);
    let cases: [(&str, Change, RefusalCode); 14] = [
        (
            "recycled VMID: uuid",
            |o| o.identity.smbios_uuid = Some("other".into()),
            RefusalCode::GuestIdentity,
        ),
        ("no uuid any more", |o| o.identity.smbios_uuid = None, RefusalCode::GuestIdentity),
        ("rolled back meanwhile", |o| o.identity.vmgenid = Some("new".into()), RefusalCode::GuestIdentity),
        ("created again", |o| o.identity.meta_ctime = Some(6), RefusalCode::GuestIdentity),
        ("other MAC", |o| o.identity.macs = vec![], RefusalCode::GuestIdentity),
        ("volume added", |o| o.identity.volids.push("x:y".into()), RefusalCode::GuestIdentity),
        ("renamed", |o| o.name = "dbx".into(), RefusalCode::GuestIdentity),
        ("locked", |o| o.lock = Some("backup".into()), RefusalCode::Busy),
        ("changing", |o| o.consistent = false, RefusalCode::Busy),
        ("started", |o| o.state = RunState::Running, RefusalCode::Precondition),
        ("config changed", |o| o.digest = "e".into(), RefusalCode::Precondition),
        ("snapshot gone", |o| o.snapshots.clear(), RefusalCode::Precondition),
        ("same name, other time", |o| o.snapshots[0].snaptime = Some(8), RefusalCode::Precondition),
        ("other parent", |o| o.snapshots[0].parent = Some("x".into()), RefusalCode::Precondition),
    ];
    for (what, change, code) in cases {
        let mut world = seen();
        change(&mut world);
        assert_eq!(preconditions(&rollback, &world).expect_err(what).0, code, "{what}");
    }
    let mut broken = seen();
    broken.snapshots[0].snapstate = Some("delete".into());
    assert!(preconditions(&rollback, &broken).unwrap_err().1.contains("incomplete"));
}

#[test]
fn orders_that_make_no_sense_now_are_refused() {
    let mut running = seen();
    running.state = RunState::Running;
    let mut start = order(Params::GuestStart(NoParams {}));
    start.pre.state = None;
    preconditions(&start, &seen()).unwrap();
    assert!(preconditions(&start, &running).unwrap_err().1.contains("is running"));
    let mut template = seen();
    template.template = true;
    assert!(preconditions(&start, &template).is_err());
    let create =
        |name: &str| order(Params::SnapshotCreate(SnapshotParams { snapshot: name.parse().unwrap() }));
    preconditions(&create("fresh"), &seen()).unwrap();
    assert!(preconditions(&create("before"), &seen()).unwrap_err().1.contains("already"));
}

/// What the reports of this warden cannot compare is refused, and never taken for equal.
#[test]
fn what_is_not_read_is_not_equal() {
    let mut rollback = order(Params::SnapshotRollback(RollbackParams { start: false }));
    rollback.pre.config_sha256 = Some(authz::world::config_sha256(&seen().config));
    rollback.pre.protection = Some(true);
    preconditions(&rollback, &seen()).unwrap();
    rollback.pre.ha = Some(protocol::refs::HaState::Unmanaged);
    let (code, why) = preconditions(&rollback, &seen()).unwrap_err();
    assert_eq!(code, RefusalCode::Precondition);
    assert!(why.contains("could not be read"), "{why}");
}

/// Every golden order has somebody who carries it out, or is refused by name before its nonce is burned.
#[test]
fn kinds_that_are_not_carried_out_are_refused_by_name() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../authz/fixtures/orders");
    let unread = World::unread("not read");
    let mut nobody = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let order = Order::decode(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let program = crate::ops::program_of(&order, &unread);
        match work(&order.params) {
            Work::Proxmox => {
                if let Err((code, why)) = program {
                    assert!(!why.contains("does not carry out"), "{}: {code} {why}", order.kind());
                }
            }
            Work::Job(_) | Work::Session | Work::Privileged => assert!(program.is_err(), "{}", order.kind()),
            Work::Nobody => {
                let (code, why) = crate::ops::not_yet(&order);
                assert_eq!(code, RefusalCode::Kind);
                assert!(why.contains(order.kind().as_str()), "{why}");
                assert!(program.is_err(), "{}", order.kind());
                nobody.push(order.kind().as_str());
            }
        }
    }
    nobody.sort_unstable();
    assert_eq!(nobody, ["agent.update", "host.rebind", "log.reanchor", "plan.approve"]);
}
