//! Of every length and number the last that is allowed, and the first that is not.

use protocol::refs::{BackupRef, VolumeRef};

use super::golden::golden;
use super::*;

fn order_of(kind: Kind) -> Order {
    golden().into_iter().find(|order| order.kind() == kind).unwrap()
}

fn fits(order: &Order) -> bool {
    Order::decode(&order.encode()).is_ok()
}

#[test]
fn lists_of_preconditions() {
    let numbered = |order: &Order, change: &dyn Fn(&mut Preconditions, usize), most: usize| {
        [most, most + 1].map(|count| {
            let mut order = order.clone();
            change(&mut order.pre, count);
            fits(&order)
        })
    };
    let moved = order_of(Kind::DiskMove);
    let volume = moved.pre.volumes.as_ref().unwrap()[0].clone();
    let volumes = |pre: &mut Preconditions, count: usize| {
        let more = (1..count).map(|n| VolumeRef {
            volid: format!("local-lvm:vm-101-disk-{n}").parse().unwrap(),
            ..volume.clone()
        });
        pre.volumes = Some(std::iter::once(volume.clone()).chain(more).collect());
    };
    assert_eq!(numbered(&moved, &volumes, MAX_VOLUMES), [true, false]);

    let detach = order_of(Kind::DiskDetach);
    let snapshots = |pre: &mut Preconditions, count: usize| {
        let snapshot = |n| SnapshotRef { name: format!("s{n}").parse().unwrap(), time: 1, parent: None };
        pre.snapshots = Some((0..count).map(snapshot).collect());
    };
    assert_eq!(numbered(&detach, &snapshots, MAX_SNAPSHOTS), [true, false]);
    let replication = |pre: &mut Preconditions, count: usize| {
        pre.replication = Some((0..count).map(|n| format!("101-{n}").parse().unwrap()).collect());
    };
    assert_eq!(numbered(&detach, &replication, MAX_REPLICATION), [true, false]);

    let over = order_of(Kind::GuestRestoreOver);
    let stated = over.pre.backups.clone().unwrap();
    let backups = |pre: &mut Preconditions, count: usize| {
        let more = (stated.len()..count).map(|n| BackupRef {
            volid: format!("local:backup/more-{n}.vma").parse().unwrap(),
            ..stated[0].clone()
        });
        pre.backups = Some(stated.iter().cloned().chain(more).collect());
    };
    assert_eq!(numbered(&over, &backups, MAX_BACKUPS), [true, false]);

    for (parent, good) in [
        (Some("p".repeat(64)), true),
        (Some("p".repeat(65)), false),
        (Some("a_b-9".to_owned()), true),
        (Some(String::new()), false),
        (Some("a b".to_owned()), false),
        (None, true),
    ] {
        let mut one = rollback();
        one.pre.snapshot.as_mut().unwrap().parent.clone_from(&parent);
        let mut all = detach.clone();
        snapshots(&mut all.pre, 1);
        all.pre.snapshots.as_mut().unwrap()[0].parent.clone_from(&parent);
        assert_eq!((fits(&one), fits(&all)), (good, good), "{parent:?}");
    }
}

#[test]
fn words_of_a_guest() {
    type Change = fn(&mut GuestRef, &str);
    let uuid: Change = |g, text| g.identity.smbios_uuid = Some(text.into());
    let vmgenid: Change = |g, text| g.identity.vmgenid = Some(text.into());
    let giid: Change = |g, text| g.identity.giid = Some(text.into());
    let mac: Change = |g, text| g.identity.macs = vec![text.into()];
    let volid: Change = |g, text| g.identity.volids = vec![text.into()];
    let name: Change = |g, text| g.name = text.into();
    let x = |count: usize| "x".repeat(count);
    for (change, text, good) in [
        (name, x(253), true),
        (name, x(254), false),
        (name, "a\u{202e}".into(), false),
        (uuid, x(36), true),
        (uuid, x(37), false),
        (uuid, String::new(), false),
        (uuid, "0-9".into(), true),
        (uuid, "ABC".into(), false),
        (uuid, "a_b".into(), false),
        (vmgenid, x(36), true),
        (vmgenid, x(37), false),
        (giid, "0123456789abcdef".repeat(2), true),
        (giid, "0".repeat(31), false),
        (giid, "0".repeat(33), false),
        (giid, "g".repeat(32), false),
        (giid, "A".repeat(32), false),
        (mac, "BC:24:11:09:AF:00".into(), true),
        (mac, "BC:24:11:09:AF:0".into(), false),
        (mac, "BC:24:11:09:AF:00:".into(), false),
        (mac, "bc:24:11:09:af:00".into(), false),
        (mac, "BC:24:11:09:AF:0G".into(), false),
        (mac, "BC-24-11-09-AF-00".into(), false),
        (mac, "BC:24:11:09:AF000".into(), false),
        (mac, ":::::::::::::::::".into(), false),
        (volid, x(1024), true),
        (volid, x(1025), false),
        (volid, String::new(), false),
        (volid, "a b".into(), false),
        (volid, "a\u{200b}".into(), false),
    ] {
        let mut order = start_order();
        change(order.guest.as_mut().unwrap(), &text);
        assert_eq!(fits(&order), good, "{text:?}");
    }
    for (count, good) in [(300_u32, true), (301, false)] {
        let mut order = start_order();
        let identity = &mut order.guest.as_mut().unwrap().identity;
        identity.macs = (0..count).map(|n| format!("BC:24:11:00:{:02X}:{:02X}", n / 256, n % 256)).collect();
        assert_eq!(fits(&order), good, "{count} MAC addresses");
        let mut order = start_order();
        order.guest.as_mut().unwrap().identity.volids = (0..count).map(|n| format!("l:d{n:04}")).collect();
        assert_eq!(fits(&order), good, "{count} volumes");
    }
    for macs in [["BC:24:11:00:00:01", "BC:24:11:00:00:01"], ["BC:24:11:00:00:02", "BC:24:11:00:00:01"]] {
        let mut order = start_order();
        order.guest.as_mut().unwrap().identity.macs = macs.map(str::to_owned).to_vec();
        assert!(!fits(&order), "{macs:?}: sorted, each once");
    }
}

#[test]
fn the_order_itself() {
    for (cluster, good) in [("c".repeat(64), true), ("c".repeat(65), false), ("a b".into(), false)] {
        let mut order = rollback();
        order.host.cluster = Some(cluster.clone());
        assert_eq!(fits(&order), good, "{cluster}");
    }
    let mut order = rollback();
    order.exp = crate::canonical::MAX_INTEGER;
    assert!(fits(&order), "2^53 is a number still");
    order.exp += 1;
    assert!(!fits(&order));
    // Longer than a payload may be: not read at all.
    let why = |length: usize| Order::decode(&vec![b' '; length]).unwrap_err().to_string();
    assert!(!why(Envelope::MAX_PAYLOAD).contains("longer than"));
    assert!(why(Envelope::MAX_PAYLOAD + 1).contains("longer than"));
}
