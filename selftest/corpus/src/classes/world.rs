//! What the order says of the world, against the world: 2.16 step 14. All of it is signed well, and everything but
//! one fact is as the signer saw it.

use authz::RefusalCode::{self, BadSignature, Busy, GuestIdentity, Precondition, Replay};
use authz::world::SnapshotNow;
use protocol::refs::{VolumeFormat, VolumeRef};
use protocol::report::Known;
use protocol::{GuestKind, RunState};

use crate::base::{Case, Class, Desk, class, vmid};
use crate::live::{
    BACKUPS, CONFIG, DESTROY, DETACH, GROW, MOUNT, OF_GUESTS, ROLLBACK, STOP, alice, desk, guest, known, of,
};

type Change<'a> = &'a dyn Fn(&mut Desk);
/// Why, which order, and what is otherwise.
type Row<'a> = (&'a str, &'a [u8], Change<'a>);

/// Each row refused by this rule, and the order of the first one accepted where nothing differs.
fn refused(name: &str, code: RefusalCode, rule: &str, rows: &[Row<'_>]) -> Class {
    let mut cases: Vec<Case> =
        rows.iter().map(|(why, order, change)| alice(&desk(order, change)).refuse(code, rule, why)).collect();
    if let Some((_, order, _)) = rows.first() {
        cases.push(alice(&desk(order, |_| {})).accept(rule, "the same, where all is as the signer saw it"));
    }
    class(name, cases)
}

/// The change in the world of every kind of order about a guest.
fn everywhere<'a>(why: &'a str, change: Change<'a>) -> impl Iterator<Item = Row<'a>> {
    OF_GUESTS.into_iter().map(move |order| (why, order, change))
}

pub(super) fn classes() -> Vec<Class> {
    let (identity, pre) = (GuestIdentity, Precondition);
    vec![
        other_vmid(),
        refused(
            "semantic-recycled-vmid",
            identity,
            "2.6",
            &everywhere("a new guest under the old number and name", &recycled)
                .chain([
                    ("another UUID alone", ROLLBACK, &uuid as Change<'_>),
                    ("another time of creation alone", DESTROY, &|d| {
                        guest(d).identity.meta_ctime = Some(1_753_001_235);
                    }),
                    ("no time of creation", DESTROY, &|d| guest(d).identity.meta_ctime = None),
                    ("no UUID any more", ROLLBACK, &|d| guest(d).identity.smbios_uuid = None),
                    ("another network card", CONFIG, &|d| {
                        guest(d).identity.macs = vec!["BC:24:11:00:00:02".to_owned()];
                    }),
                    ("rolled back or restored since", DESTROY, &|d| {
                        guest(d).identity.vmgenid = Some("7f2f0c34-3c55-44a5-9d0f-999999999999".to_owned());
                    }),
                    ("another name", STOP, &|d| guest(d).name = "web".to_owned()),
                ])
                .collect::<Vec<_>>(),
        ),
        refused(
            "semantic-other-guest-type",
            identity,
            "2.6",
            &everywhere("a container now, the rest the same", &|d| guest(d).kind = GuestKind::Lxc)
                .chain([
                    (
                        "the order says container",
                        STOP,
                        &(|d: &mut Desk| d.order.guest.as_mut().unwrap().kind = GuestKind::Lxc) as Change<'_>,
                    ),
                    ("a container with its own facts", DESTROY, &|d| {
                        let now = guest(d);
                        now.kind = GuestKind::Lxc;
                        (now.identity.smbios_uuid, now.identity.vmgenid, now.identity.meta_ctime) =
                            (None, None, None);
                    }),
                ])
                .collect::<Vec<_>>(),
        ),
        refused(
            "semantic-digest-changed",
            pre,
            "2.6",
            &[
                ("rollback", ROLLBACK, &|d| digest(d, "1123456789abcdef0123456789abcdef01234567")),
                ("destroy", DESTROY, &|d| digest(d, "0123456789abcdef0123456789abcdef01234568")),
                ("options", CONFIG, &|d| digest(d, "ffffffffffffffffffffffffffffffffffffffff")),
                ("cut short", ROLLBACK, &|d| digest(d, "0123456789abcdef0123456789abcdef0123456")),
                ("none", DETACH, &|d| digest(d, "")),
                ("in capitals", GROW, &|d| digest(d, "0123456789ABCDEF0123456789ABCDEF01234567")),
            ],
        ),
        refused(
            "semantic-config-changed",
            pre,
            "2.6",
            &[
                ("an option more", ROLLBACK, &|d| set(d, "args", Some("-device x"))),
                ("an option less", DESTROY, &|d| set(d, "memory", None)),
                ("another value", DETACH, &|d| set(d, "cores", Some("5"))),
                ("two values changed places", GROW, &|d| {
                    set(d, "cores", Some("8192"));
                    set(d, "memory", Some("4"));
                }),
                ("a value that looks like a line more", CONFIG, &|d| set(d, "cores", Some("4\nx: y"))),
                ("the option that is changed", CONFIG, &|d| {
                    d.order.pre.config_sha256 = None;
                    set(d, "startup", Some("order=4"));
                }),
                ("an option that was not there", CONFIG, &|d| {
                    d.order.pre.config_sha256 = None;
                    set(d, "onboot", Some("0"));
                }),
                ("it cannot be read", ROLLBACK, &|d| guest(d).config = lost()),
            ],
        ),
        snapshot_times(),
        refused(
            "semantic-snapshot-parent",
            pre,
            "2.6",
            &[
                ("a parent, where there was none", ROLLBACK, &|d| snapshot(d, |s| parent(s, Some("first")))),
                ("an empty name", ROLLBACK, &|d| snapshot(d, |s| parent(s, Some("")))),
                ("itself", ROLLBACK, &|d| snapshot(d, |s| parent(s, Some("before")))),
                ("none, where there was one", DESTROY, &|d| snapshot(d, |s| parent(s, None))),
                ("another one", DESTROY, &|d| snapshot(d, |s| parent(s, Some("fifth")))),
                ("in capitals", DETACH, &|d| snapshot(d, |s| parent(s, Some("First")))),
            ],
        ),
        volume_added(),
        refused(
            "semantic-volume-resized",
            pre,
            "2.6",
            &[
                ("a byte more", DESTROY, &|d| volume(d, |v| v.size += 1)),
                ("twice as large", GROW, &|d| volume(d, |v| v.size *= 2)),
                ("empty", DETACH, &|d| volume(d, |v| v.size = 0)),
                ("another format", DESTROY, &|d| volume(d, |v| v.format = VolumeFormat::Qcow2)),
                ("it cannot be read", GROW, &|d| guest(d).volumes = lost()),
            ],
        ),
        disk_swapped(),
        refused(
            "world-state",
            pre,
            "2.6",
            &[
                ("it runs", ROLLBACK, &|d| guest(d).state = RunState::Running),
                ("it stands still", STOP, &|d| guest(d).state = RunState::Stopped),
                ("nobody knows", DESTROY, &|d| guest(d).state = RunState::Unknown),
                ("protection is off", DESTROY, &|d| *known(&mut guest(d).protection) = false),
                ("high availability has it now", DETACH, &|d| {
                    *known(&mut guest(d).ha) = protocol::refs::HaState::Started;
                }),
                ("it is not replicated any more", DESTROY, &|d| known(&mut guest(d).replication).clear()),
                ("a backup is gone", BACKUPS, &|d| drop(known(&mut of(d).backups).pop())),
                ("a backup was made anew", BACKUPS, &|d| known(&mut of(d).backups)[0].ctime += 1),
            ],
        ),
        refused(
            "world-busy",
            Busy,
            "2.6",
            &everywhere("a backup is being made", &|d| guest(d).lock = Some("backup".to_owned()))
                .chain(everywhere("changed while it was read", &|d| guest(d).consistent = false))
                .collect::<Vec<_>>(),
        ),
        refused(
            "world-unread",
            pre,
            "2.16",
            &everywhere("the guest", &|d| of(d).guest = lost())
                .chain([
                    ("snapshots", ROLLBACK, &(|d: &mut Desk| guest(d).snapshots = lost()) as Change<'_>),
                    ("protection", DESTROY, &|d| guest(d).protection = lost()),
                    ("high availability", STOP, &|d| guest(d).ha = lost()),
                    ("replication", DETACH, &|d| guest(d).replication = lost()),
                    ("disks", MOUNT, &|d| of(d).disks = lost()),
                    ("what is mounted", MOUNT, &|d| of(d).mounted = lost()),
                    ("backups", BACKUPS, &|d| of(d).backups = lost()),
                ])
                .collect::<Vec<_>>(),
        ),
        good(),
    ]
}

/// The order of the checks is the warden's: what was signed decides before the world is looked at.
fn good() -> Class {
    let orders = OF_GUESTS.into_iter().chain([MOUNT, BACKUPS]);
    let mut cases: Vec<Case> = orders
        .map(|order| alice(&desk(order, |_| {})).accept("2.16", "all is as the signer saw it"))
        .collect();
    let more = desk(ROLLBACK, |d| {
        known(&mut guest(d).snapshots).push(SnapshotNow {
            name: "later".to_owned(),
            time: None,
            parent: Some("before".to_owned()),
            unfinished: Some("delete".to_owned()),
        });
        *known(&mut guest(d).protection) = true;
    });
    cases.push(alice(&more).accept("2.2", "what the order does not state may differ"));
    let burned = desk(ROLLBACK, |d| {
        d.host.burned.push(d.order.nonce);
        recycled(d);
    });
    cases.push(alice(&burned).refuse(Replay, "2.16", "used before, and the guest is another one"));
    class("good-worlds", cases)
}

fn lost<T>() -> Known<T> {
    Known::Unknown("HTTP 596".to_owned())
}

fn uuid(desk: &mut Desk) {
    guest(desk).identity.smbios_uuid = Some("0d6e5c1c-8a5b-4e57-9f3b-999999999999".to_owned());
}

fn recycled(desk: &mut Desk) {
    uuid(desk);
    let identity = &mut guest(desk).identity;
    identity.meta_ctime = Some(1_760_000_000);
    identity.vmgenid = Some("7f2f0c34-3c55-44a5-9d0f-999999999999".to_owned());
    identity.macs = vec!["BC:24:11:99:99:99".to_owned()];
}

fn digest(desk: &mut Desk, digest: &str) {
    guest(desk).digest = digest.to_owned();
}

fn set(desk: &mut Desk, option: &str, value: Option<&str>) {
    let config = known(&mut guest(desk).config);
    match value {
        Some(value) => drop(config.insert(option.to_owned(), value.to_owned())),
        None => drop(config.remove(option).unwrap()),
    }
}

/// The snapshot `before`.
fn snapshot(desk: &mut Desk, change: impl FnOnce(&mut SnapshotNow)) {
    change(known(&mut guest(desk).snapshots).iter_mut().find(|snapshot| snapshot.name == "before").unwrap());
}

fn parent(snapshot: &mut SnapshotNow, parent: Option<&str>) {
    snapshot.parent = parent.map(str::to_owned);
}

fn volume(desk: &mut Desk, change: impl FnOnce(&mut VolumeRef)) {
    change(&mut known(&mut guest(desk).volumes)[0]);
}

fn second_volume() -> VolumeRef {
    VolumeRef { volid: "local-lvm:vm-101-disk-1".parse().unwrap(), size: 1 << 30, format: VolumeFormat::Raw }
}

/// The order is for 101, and its facts are. Whoever writes another number must sign again, and then the facts do not
/// fit.
fn other_vmid() -> Class {
    let meant_102 = |d: &mut Desk| d.order.guest.as_mut().unwrap().vmid = vmid(102);
    let mut cases: Vec<Case> = OF_GUESTS
        .into_iter()
        .map(|order| {
            let other = desk(order, |d| {
                meant_102(d);
                recycled(d);
                guest(d).name = "web".to_owned();
            });
            alice(&other).refuse(GuestIdentity, "2.6", "the number of another guest, the facts of this one")
        })
        .collect();
    let twin = desk(ROLLBACK, |d| {
        meant_102(d);
        guest(d).identity.volids = vec!["local-lvm:vm-102-disk-0".to_owned()];
    });
    cases.push(alice(&twin).refuse(GuestIdentity, "2.6", "a copy with the same facts but its disks"));
    let gone = desk(STOP, |d| {
        meant_102(d);
        of(d).guest = Known::Unknown("there is no guest 102".to_owned());
    });
    cases.push(alice(&gone).refuse(Precondition, "2.16", "no guest has the number"));
    let signed = desk(ROLLBACK, |_| {});
    let text = signed.text();
    let swapped = text.replacen("\"vmid\":101", "\"vmid\":102", 1);
    assert_ne!(text, swapped);
    let sig = crate::forge::Key::ed25519().sign(text.as_bytes());
    cases.push(signed.case(swapped.as_bytes(), vec![sig]).refuse(
        BadSignature,
        "V10",
        "the number written over",
    ));
    class("semantic-other-vmid", cases)
}

fn snapshot_times() -> Class {
    refused(
        "semantic-snapshot-time",
        Precondition,
        "2.6",
        &[
            ("a second later", ROLLBACK, &|d| snapshot(d, |s| s.time = Some(1_763_700_001))),
            ("taken anew today", ROLLBACK, &|d| snapshot(d, |s| s.time = Some(1_763_769_999))),
            ("Proxmox knows none", ROLLBACK, &|d| snapshot(d, |s| s.time = None)),
            ("one of all", DESTROY, &|d| snapshot(d, |s| s.time = Some(1_763_700_001))),
            ("one of all, taken at no time", DETACH, &|d| snapshot(d, |s| s.time = Some(0))),
            ("the same time under another name", ROLLBACK, &|d| {
                snapshot(d, |s| s.name = "Before".to_owned())
            }),
            ("incomplete", ROLLBACK, &|d| snapshot(d, |s| s.unfinished = Some("prepare".to_owned()))),
            ("one that nobody named", DESTROY, &|d| {
                let snapshots = known(&mut guest(d).snapshots);
                let more = SnapshotNow { name: "third".to_owned(), ..snapshots[0].clone() };
                snapshots.push(more);
            }),
            ("one is gone", DESTROY, &|d| drop(known(&mut guest(d).snapshots).pop())),
            ("one is there twice", DESTROY, &|d| {
                let snapshots = known(&mut guest(d).snapshots);
                snapshots.push(snapshots[0].clone());
            }),
        ],
    )
}

/// A disk more is another guest: its volumes are a part of what it is.
fn volume_added() -> Class {
    let added = |d: &mut Desk| {
        guest(d).identity.volids.push("local-lvm:vm-101-disk-1".to_owned());
        known(&mut guest(d).volumes).push(second_volume());
    };
    // Still in the configuration, and not on the storage any more.
    let gone = |d: &mut Desk| {
        let name = second_volume().volid.to_string();
        d.order.guest.as_mut().unwrap().identity.volids.push(name.clone());
        guest(d).identity.volids.push(name);
        d.order.pre.volumes.as_mut().unwrap().push(second_volume());
    };
    let mut cases: Vec<Case> = OF_GUESTS
        .into_iter()
        .map(|order| {
            alice(&desk(order, added)).refuse(GuestIdentity, "2.6", "a disk more than the signer saw")
        })
        .collect();
    let less = desk(DESTROY, |d| guest(d).identity.volids.clear());
    cases.push(alice(&less).refuse(GuestIdentity, "2.6", "its disk is not in its configuration any more"));
    for order in [DESTROY, DETACH] {
        cases.push(alice(&desk(order, gone)).refuse(Precondition, "2.6", "a disk less than the signer saw"));
    }
    let renamed = desk(DESTROY, |d| volume(d, |v| v.volid = second_volume().volid));
    cases.push(alice(&renamed).refuse(Precondition, "2.6", "the same size under another name"));
    class("semantic-volume-added", cases)
}

/// A name in the machine is no disk: neither `/dev/sdb` nor `scsi0`.
fn disk_swapped() -> Class {
    let disk = |d: &mut Desk| known(&mut of(d).disks)[0].clone();
    refused(
        "semantic-disk-swapped",
        Precondition,
        "2.6",
        &[
            ("another serial number where the disk was", MOUNT, &|d| {
                known(&mut of(d).disks)[0].disk.serial = "WD-WX11D7654321".parse().unwrap();
            }),
            ("another WWN", MOUNT, &|d| {
                known(&mut of(d).disks)[0].disk.wwn = Some("0x50014ee2b1a2c3d5".parse().unwrap());
            }),
            ("no WWN", MOUNT, &|d| known(&mut of(d).disks)[0].disk.wwn = None),
            ("another size", MOUNT, &|d| known(&mut of(d).disks)[0].disk.size += 512),
            ("the filesystem is on another disk", MOUNT, &|d| {
                let mut other = disk(d);
                known(&mut of(d).disks)[0].filesystems.clear();
                other.disk.serial = "WD-WX11D7654321".parse().unwrap();
                known(&mut of(d).disks).push(other);
            }),
            ("two disks with one serial number", MOUNT, &|d| {
                let twin = disk(d);
                known(&mut of(d).disks).push(twin);
            }),
            ("no disk", MOUNT, &|d| known(&mut of(d).disks).clear()),
            ("another volume in the guest's slot", DETACH, &|d| {
                d.order.pre.config_sha256 = None;
                set(d, "scsi0", Some("local-lvm:vm-101-disk-1,size=32G"));
                set(d, "scsi1", Some("local-lvm:vm-101-disk-0,size=32G"));
            }),
            ("the slot is empty", GROW, &|d| {
                d.order.pre.config_sha256 = None;
                set(d, "scsi0", None);
            }),
        ],
    )
}
