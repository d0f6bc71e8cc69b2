//! Worlds that lie, hide or drown. What came through the hub deceives nobody who signs.

use authz::world::SnapshotNow;
use protocol::refs::{BackupRef, VolumeFormat, VolumeRef};

use super::*;

const BIDI: &str = "db\u{202e}";

#[test]
fn missing_facts_are_named_and_nothing_is_made_up() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change, &str)] = &[
        ("guest.destroy web1 101", |w| w.guest = unread(), "how guest 101 is"),
        ("guest.destroy web1 101", |w| guest_of(w).volumes = unread(), "the volumes of guest 101"),
        ("guest.destroy web1 101", |w| guest_of(w).snapshots = unread(), "the snapshots"),
        ("guest.destroy web1 101", |w| guest_of(w).protection = unread(), "the protection"),
        ("guest.destroy web1 101", |w| guest_of(w).ha = unread(), "high availability"),
        ("guest.destroy web1 101", |w| guest_of(w).replication = unread(), "the replication jobs"),
        ("guest.destroy web1 101", |w| guest_of(w).state = RunState::Unknown, "the state"),
        (
            "guest.destroy web1 101",
            |w| guest_of(w).identity = protocol::GuestIdentity::default(),
            "an identity",
        ),
        (
            "guest.destroy web1 101",
            |w| drop(seen(&mut guest_of(w).volumes).pop()),
            "size and format of volume",
        ),
        (
            "guest.destroy web1 101",
            |w| seen(&mut guest_of(w).snapshots)[0].time = None,
            "the time of snapshot 'first'",
        ),
        ("guest.tag web1 101", |w| guest_of(w).digest = "what".into(), "digest of guest 101"),
        ("guest.resize web1 101 --cores 2", |w| guest_of(w).config = unread(), "the configuration"),
        ("disk.detach web1 101 scsi1", |w| guest_of(w).volumes = unread(), "the volumes"),
        ("backup.create web1 101 --storage local", |w| w.storages = unread(), "its storages"),
        (
            "backup.prune web1 101 --type qemu --storage local --keep-last 1",
            |w| w.backups = unread(),
            "the backups",
        ),
        (
            "backup.prune web1 101 --type qemu --storage local --keep-last 1",
            |w| drop(w.unlisted.insert("local".parse().unwrap(), "not mounted".into())),
            "the backups on storage local (not mounted)",
        ),
        (
            "backup.delete web1 101 usb:backup/vzdump-qemu-101-2026_11_22-02_00_05.vma.zst",
            |w| drop(w.unlisted.insert("usb".parse().unwrap(), "not plugged in\u{1b}".into())),
            "the backups on storage usb (not plugged in?)",
        ),
        (
            "guest.restore_over web1 101 --storage local-lvm --archive local:backup/vzdump-qemu-101-2026_11_18-02_00_05.vma.zst",
            |w| {
                seen(&mut w.backups).truncate(1);
                w.unlisted.insert("usb".parse().unwrap(), "not plugged in".into());
            },
            "the backups on storage usb (not plugged in)",
        ),
        (
            "volume.delete web1 105 local-lvm:vm-105-disk-1 --gone qemu",
            |w| w.vmids = unread(),
            "the numbers of all guests",
        ),
        (
            "volume.delete web1 105 local-lvm:vm-105-disk-1 --gone qemu",
            |w| w.volumes = unread(),
            "the volume",
        ),
        ("usb.unmount web1 ABCD-0123 backup", |w| w.disks = unread(), "its disks"),
        ("usb.unmount web1 ABCD-0123 backup", |w| w.mounted = unread(), "what is mounted"),
        (
            "guest.create web1 302 --clone 9000 --name a --storage local --cores 1 --memory 1G",
            |w| w.template = unread(),
            "how template 9000 is",
        ),
    ];
    for (line, change, says) in cases {
        let mut world = told("machine");
        change(&mut world);
        let error = refused(line, &world);
        assert!(error.contains(says) && error.contains("host 'web1' does not tell"), "{line}: {error}");
        assert!(error.contains("writ host web1"), "{line}: {error}");
    }
}

#[test]
fn what_the_host_would_refuse_now_is_said_now() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change, &str)] = &[
        (
            "guest.start web1 101",
            |w| guest_of(w).lock = Some("backup\u{1b}[2J".into()),
            "locked (backup?[2J)",
        ),
        ("guest.start web1 101", |w| guest_of(w).template = true, "template"),
        ("guest.tag web1 101", |w| guest_of(w).consistent = false, "changed while it was read"),
        ("snapshot.create web1 101 new", |w| guest_of(w).template = true, "template"),
        ("guest.destroy web1 101", |w| guest_of(w).lock = Some("migrate".into()), "locked (migrate)"),
        (
            "volume.delete web1 101 unused0",
            |w| drop(seen(&mut guest_of(w).config).insert("scsi5".into(), "local-lvm:vm-101-disk-1".into())),
            "no unused disk",
        ),
        (
            "usb.mount web1 6f7a2c1e-0b5d-4c3a-9e8f-333333333333 a --filesystem ext4",
            |w| seen(&mut w.disks)[1].disk.serial = "WD-WX11D1234567".parse().unwrap(),
            "2 disks",
        ),
        (
            "usb.mount web1 6f7a2c1e-0b5d-4c3a-9e8f-333333333333 a --filesystem ext4",
            |w| {
                let uuid = "6f7a2c1e-0b5d-4c3a-9e8f-333333333333".parse().unwrap();
                assert!(seen(&mut w.disks)[1].filesystems.insert(uuid));
            },
            "unplug all but one",
        ),
        (
            "snapshot.rollback web1 101 first",
            |w| seen(&mut guest_of(w).snapshots)[0].unfinished = Some("delete".into()),
            "incomplete (delete)",
        ),
    ];
    for (line, change, says) in cases {
        let mut world = told("machine");
        change(&mut world);
        let error = refused(line, &world);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn disguises_are_not_signed() {
    type Change = fn(&mut World);
    let about_the_guest: &[(&str, Change)] = &[
        ("name", |w| guest_of(w).name = BIDI.into()),
        ("name", |w| guest_of(w).name = "db\n  host  web1".into()),
        ("UUID", |w| guest_of(w).identity.smbios_uuid = Some(BIDI.into())),
        ("generation id", |w| guest_of(w).identity.vmgenid = Some(BIDI.into())),
        ("instance id", |w| guest_of(w).identity.giid = Some(BIDI.into())),
        ("MAC address", |w| guest_of(w).identity.macs.push("\u{1b}[1A".into())),
        ("volume", |w| guest_of(w).identity.volids.push(BIDI.into())),
        ("configuration digest", |w| guest_of(w).digest = BIDI.into()),
    ];
    for (what, change) in about_the_guest {
        for line in [
            "guest.destroy web1 101",
            "guest.start web1 101",
            "snapshot.create web1 101 fresh",
            "disk.detach web1 101 scsi1",
        ] {
            let mut world = told("machine");
            change(&mut world);
            let error = refused(line, &world);
            assert!(error.contains("disguise") && error.contains(what), "{line}: {error}");
        }
    }
    // Elsewhere: parents, names, old values.
    let mut world = told("machine");
    seen(&mut guest_of(&mut world).snapshots)[1].parent = Some(BIDI.into());
    for line in ["snapshot.rollback web1 101 before-update", "guest.destroy web1 101"] {
        assert!(refused(line, &world).contains("snapshot's parent"), "{line}");
    }
    let mut world = told("machine");
    seen(&mut guest_of(&mut world).snapshots)[1].name = format!("a{BIDI}");
    assert!(refused("guest.destroy web1 101", &world).contains("no order can name"));
    assert!(refused("snapshot.delete web1 101 before-update", &world).contains('?'), "shown, and made safe");
    let mut world = told("machine");
    seen(&mut guest_of(&mut world).config).insert("onboot".into(), BIDI.into());
    assert!(refused("guest.config web1 101 --set onboot=1", &world).contains("old value"));
    seen(&mut guest_of(&mut world).config).insert("cores".into(), BIDI.into());
    assert!(refused("guest.resize web1 101 --cores 2", &world).contains("cores: db?"));
    seen(&mut guest_of(&mut world).config).insert("scsi7".into(), BIDI.into());
    assert!(refused("guest.grow web1 101 scsi7 +1G", &world).contains("(db?)"));
    // What is typed cannot even be read.
    let text = std::fs::read_to_string(root().join("fixtures/worlds/machine.json")).unwrap();
    for (old, new) in [
        ("\"local-lvm:vm-105-disk-1\"", "\"local-lvm:vm-105-\u{202e}disk-1\""),
        ("\"WD-WX11D1234567\"", "\"WD\u{202e}\""),
        ("\"rpool\"", "\"rp\u{200b}ool\""),
        ("\"backups\"", "\"backupz\""),
        ("\"101-0\"", "\"101-0\u{202e}\""),
    ] {
        assert!(text.contains(old), "{old}");
        assert!(serde_json::from_str::<World>(&text.replacen(old, new, 1)).is_err(), "{old}");
    }
}

/// Whatever is too much ends in a short sentence, and soon.
#[test]
fn more_than_an_order_can_name_is_refused_in_a_sentence() {
    let mut world = told("machine");
    *seen(&mut guest_of(&mut world).snapshots) = (0..100_000)
        .map(|n| SnapshotNow { name: format!("s{n}"), time: Some(NOW), parent: None, unfinished: None })
        .collect();
    assert!(refused("guest.destroy web1 101", &world).contains("at most 128"));
    assert!(refused("snapshot.delete web1 101 zzz", &world).contains("and 99992 more"));
    assert!(refused("snapshot.delete web1 101 s1000000", &world).contains("did you mean 's1"));
    // One of them is still one.
    assert!(made(&wish("snapshot.delete web1 101 s99999"), &world).is_ok());

    let mut world = told("machine");
    let long = "x".repeat(1 << 20);
    seen(&mut guest_of(&mut world).snapshots)[0].name = long.clone();
    assert!(refused("snapshot.delete web1 101 zzz", &world).contains("before-update"));
    guest_of(&mut world).name = long.clone();
    assert!(refused("guest.start web1 101", &world).contains("longer than"));
    let mut world = told("machine");
    seen(&mut guest_of(&mut world).config).insert("onboot".into(), long);
    assert!(refused("guest.grow web1 101 scsi9 +1G", &world).contains("scsi"));

    let mut world = told("machine");
    let backup = |n: u32| BackupRef {
        volid: format!("local:backup/vzdump-qemu-101-{n:06}.vma").parse().unwrap(),
        size: 1,
        ctime: u64::from(n),
    };
    *seen(&mut world.backups) = (0..5_000).map(backup).collect();
    let line = "backup.prune web1 101 --type qemu --storage local --keep-last 3";
    assert!(refused(line, &world).contains("5000 backups, and an order names at most 128"));
    seen(&mut world.backups).truncate(128);
    assert!(made(&wish(line), &world).is_ok());
    // The same backup twice, and one from the end of time.
    let mut world = told("machine");
    let again = seen(&mut world.backups)[0].clone();
    seen(&mut world.backups).push(again);
    assert!(refused(line, &world).contains("each backup once"));
    let mut world = told("machine");
    seen(&mut world.backups)[0].ctime = u64::MAX;
    assert!(refused(line, &world).contains("no order can be made of this"));

    let mut world = told("machine");
    let huge = VolumeRef {
        volid: "local-lvm:vm-101-disk-0".parse().unwrap(),
        size: u64::MAX - 1024,
        format: VolumeFormat::Raw,
    };
    seen(&mut guest_of(&mut world).volumes)[0] = huge;
    assert!(refused("guest.grow web1 101 scsi0 +16G", &world).contains("only grow"));
    // All numbers are taken.
    let mut world = told("machine");
    *seen(&mut world.vmids) = (999_990_000..=999_999_999).map(|n| Vmid::try_from(n).unwrap()).collect();
    let line = "guest.create web1 999999990 --clone 9000 --name a --storage local --cores 1 --memory 1G";
    assert!(refused(line, &world).ends_with("choose a free number"));
}
