//! USB disks.

use authz::order::Params;
use protocol::privileged::PrivilegedAnswer;

use crate::rig::{Rig, UNIT, UUID, code, words};

#[tokio::test]
async fn a_disk_is_mounted_until_the_next_boot_and_unmounted() {
    let (rig, _process) = Rig::anchored().await;
    let answer = rig.order(&rig.mount(false)).await;
    assert!(
        matches!(&answer, PrivilegedAnswer::Did { seen } if seen.contains("/mnt/writ/backup-usb")),
        "{answer:?}"
    );
    let unit = rig.text(&format!("runtime/{UNIT}"));
    assert!(unit.contains(&format!("What=/dev/disk/by-uuid/{UUID}\n")), "{unit}");
    assert!(unit.contains("Options=nosuid,nodev,noexec,rw\n"), "{unit}");
    assert_eq!(rig.ran("systemctl", "enable"), 0);
    let again = rig.order(&rig.mount(false)).await;
    assert!(words(&again).contains("is mounted already"), "{again:?}");
    let answer = rig.order(&rig.unmount(false)).await;
    assert!(matches!(answer, PrivilegedAnswer::Did { .. }), "{answer:?}");
    assert_eq!(rig.text(&format!("runtime/{UNIT}")), "");
    assert!(words(&rig.order(&rig.unmount(false)).await).contains("is not mounted"));
}

#[tokio::test]
async fn a_kept_disk_is_kept_until_it_is_forgotten() {
    let (rig, _process) = Rig::anchored().await;
    assert!(matches!(rig.order(&rig.mount(true)).await, PrivilegedAnswer::Did { .. }));
    assert!(rig.text(&format!("units/{UNIT}")).contains("[Install]"));
    assert_eq!(rig.ran("systemctl", "enable"), 1);
    assert!(matches!(rig.order(&rig.unmount(false)).await, PrivilegedAnswer::Did { .. }));
    assert_ne!(rig.text(&format!("units/{UNIT}")), "", "again after a reboot");
    let other = rig.order(&rig.mount(false)).await;
    assert!(words(&other).contains("is there already"), "{other:?}");
    assert!(matches!(rig.order(&rig.mount(true)).await, PrivilegedAnswer::Did { .. }));
    assert!(matches!(rig.order(&rig.unmount(true)).await, PrivilegedAnswer::Did { .. }));
    assert_eq!((rig.text(&format!("units/{UNIT}")).as_str(), rig.ran("systemctl", "disable")), ("", 1));
}

/// Each row changes the host after the order was signed.
#[tokio::test]
async fn another_disk_is_not_the_one_that_was_signed() {
    type Change = fn(&Rig);
    let rows: &[(&str, Change, &str)] = &[
        (
            "another serial, same UUID",
            |r| r.put("udev/b8:16", "E:ID_SERIAL_SHORT=USB-2\n"),
            "no disk with serial number USB-1",
        ),
        (
            "another WWN",
            |r| r.put("udev/b8:16", "E:ID_SERIAL_SHORT=USB-1\nE:ID_WWN=0x5000c50000000000\n"),
            "WWN or size differs",
        ),
        ("no WWN", |r| r.put("udev/b8:16", "E:ID_SERIAL_SHORT=USB-1\n"), "WWN or size differs"),
        (
            "another size",
            |r| r.put("sys/devices/pci0/usb1/1-1/block/sdb/size", "134217736"),
            "WWN or size differs",
        ),
        ("no serial at all", |r| r.put("udev/b8:16", "E:ID_BUS=usb\n"), "no disk with serial number USB-1"),
        ("the filesystem is on another disk", |r| r.link(UUID, "sda1"), "no filesystem"),
        (
            "the filesystem is gone",
            |r| std::fs::remove_file(r.path("dev/disk/by-uuid").join(UUID)).unwrap(),
            "no filesystem",
        ),
        (
            "two disks say the same",
            |r| r.put_disk("pci0/usb1/1-2", "sdc", "8:32", "USB-1", Some("0x5000c500a1b2c3d4")),
            "2 disks have the serial number",
        ),
        ("a link that leads elsewhere", |r| r.link(UUID, "../../../etc/passwd"), "no filesystem"),
        (
            "a size that is no number",
            |r| r.put("sys/devices/pci0/usb1/1-1/block/sdb/size", "99999999999999999999999"),
            "no disk with serial number",
        ),
        (
            "a size that overflows",
            |r| r.put("sys/devices/pci0/usb1/1-1/block/sdb/size", "18446744073709551615"),
            "no disk with serial number",
        ),
        (
            "something is mounted there",
            |r| {
                r.put("mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 1 8:99 / /mnt/writ/backup-usb rw - ext4 /dev/sdx rw\n");
            },
            "something is mounted at /mnt/writ/backup-usb",
        ),
        (
            "it is mounted elsewhere",
            |r| {
                r.put("mountinfo", "30 1 8:17 / /media rw - ext4 /dev/sdb1 rw\n");
            },
            "is mounted already",
        ),
        (
            "somebody's unit is in the way",
            |r| r.put(&format!("runtime/{UNIT}"), "[Mount]\nWhat=/dev/sda1\n"),
            "not ours",
        ),
        (
            "our unit of another disk is in the way",
            |r| {
                r.put(&format!("runtime/{UNIT}"), "# Written by writ-privileged; replaced and removed by it.\nWhat=/dev/disk/by-uuid/ABCD-0123\n");
            },
            "belongs to filesystem ABCD-0123",
        ),
    ];
    for (what, change, says) in rows {
        let (rig, _process) = Rig::anchored().await;
        let order = rig.mount(false);
        change(&rig);
        let answer = rig.order(&order).await;
        assert_eq!(code(&answer), "precondition", "{what}: {answer:?}");
        assert!(words(&answer).contains(says), "{what}: {answer:?}");
        assert_eq!(rig.text("bin/systemctl.log"), "", "{what}");
    }
}

#[tokio::test]
async fn nothing_but_usb_disks_is_mounted() {
    let rig = Rig::new();
    rig.link("ABCD-0123", "sda1");
    rig.put("mountinfo", "");
    let _process = rig.start("").await;
    rig.ask(&rig.anchor_request()).await;
    let mut order = rig.mount(false);
    let Params::UsbMount(params) = &mut order.params else { unreachable!() };
    params.uuid = "ABCD-0123".parse().unwrap();
    order.pre.disk =
        Some(protocol::refs::DiskRef { serial: "SYS-1".parse().unwrap(), wwn: None, size: 64 << 30 });
    let answer = rig.order(&order).await;
    assert!(words(&answer).contains("no USB disk"), "{answer:?}");
}

/// What happens after the last check is seen afterwards, and undone.
#[tokio::test]
async fn what_is_mounted_is_looked_at_again() {
    for (mode, says) in [
        ("swap", "another one than was signed"),
        ("other", "is not filesystem"),
        ("exec", "without noexec"),
        ("lie", "nothing is mounted"),
        ("fail", "ended with 1: Job for"),
        ("hang", "took too long"),
    ] {
        let (rig, _process) = Rig::anchored().await;
        rig.mode(mode);
        let answer = rig.order(&rig.mount(true)).await;
        assert!(
            matches!(&answer, PrivilegedAnswer::Failed { why } if why.contains(says) && why.contains("is undone")),
            "{mode}: {answer:?}"
        );
        assert_eq!(rig.text(&format!("units/{UNIT}")), "", "{mode}");
        assert!(!rig.text("mountinfo").contains("/mnt/writ"), "{mode}");
    }
}

#[tokio::test]
async fn what_is_in_use_stays_mounted_and_foreign_mounts_stay_too() {
    let (rig, _process) = Rig::anchored().await;
    assert!(matches!(rig.order(&rig.mount(false)).await, PrivilegedAnswer::Did { .. }));
    rig.mode("busy");
    let answer = rig.order(&rig.unmount(true)).await;
    assert!(
        matches!(&answer, PrivilegedAnswer::Failed { why } if why.contains("still mounted")),
        "{answer:?}"
    );
    assert_ne!(rig.text(&format!("runtime/{UNIT}")), "");
    rig.mode("");
    rig.put(&format!("runtime/{UNIT}"), "[Mount]\n");
    let answer = rig.order(&rig.unmount(true)).await;
    assert!(words(&answer).contains("was not mounted by Writ"), "{answer:?}");
    assert_eq!(rig.ran("systemctl", "stop"), 1);
}
