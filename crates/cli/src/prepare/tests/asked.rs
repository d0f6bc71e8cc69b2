//! Each kind from its command line and a world to the text that is read before signing, frozen in
//! `fixtures/op/NAME.txt` (`WRIT_WRITE_GOLDEN=1` writes them anew).

use super::*;

/// Name of the file, world, command line.
const CASES: &[(&str, &str, &str)] = &[
    ("guest.start", "machine", "guest.start web1 101"),
    ("guest.resume", "paused", "guest.resume web1 101"),
    ("guest.resume-from-disk", "suspended", "guest.resume web1 101"),
    ("guest.shutdown", "container", "guest.shutdown web1 200 --timeout 2m"),
    ("guest.shutdown-then-stop", "container", "guest.shutdown web1 200 --then-stop"),
    ("guest.stop", "container", "guest.stop web1 200"),
    ("guest.reboot", "container", "guest.reboot web1 200 --timeout 60s"),
    ("guest.suspend", "paused", "guest.suspend web1 101 --to-disk"),
    ("guest.tag", "machine", "guest.tag web1 101 prod a prod"),
    ("guest.config", "machine", "guest.config web1 101 --set onboot=0 --set name=db2 --unset startup"),
    ("guest.resize", "machine", "guest.resize web1 101 --cores 2 --memory 4G"),
    ("guest.resize-container", "container", "guest.resize web1 200 --memory 2G --swap 256M"),
    ("guest.grow", "machine", "guest.grow web1 101 scsi0 +16G"),
    ("guest.grow-container", "container", "guest.grow web1 200 rootfs 20G"),
    (
        "guest.create-archive",
        "container",
        "guest.create web1 301 --from local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst --sha256 1111111111111111111111111111111111111111111111111111111111111111 --name files2 --storage local-zfs --disk 8G --cores 2 --memory 1G --bridge vmbr0 --vlan 12 --tag b --tag a",
    ),
    (
        "guest.create-golden",
        "container",
        "guest.create web1 304 --golden local:vztmpl/golden.tar.zst --sha256 1111111111111111111111111111111111111111111111111111111111111111 --name files3 --storage local-zfs --disk 8G --cores 2 --memory 1G",
    ),
    (
        "guest.create-clone",
        "machine",
        "guest.create web1 302 --clone 9000 --name kiosk --storage local-lvm --cores 2 --memory 4G --bridge vmbr0 --no-firewall --start",
    ),
    (
        "guest.create-backup",
        "machine",
        "guest.create web1 303 --backup local:backup/vzdump-qemu-101-2026_11_21-02_00_05.vma.zst --name db-restored --storage local-lvm --cores 4 --memory 8G",
    ),
    (
        "guest.restore_over",
        "machine",
        "guest.restore-over web1 101 --storage local-lvm --archive local:backup/vzdump-qemu-101-2026_11_20-02_00_05.vma.zst --start",
    ),
    ("guest.destroy", "machine", "guest.destroy web1 101"),
    ("guest.destroy-running", "container", "guest.destroy web1 200 --stop"),
    ("guest.destroy-all", "machine", "guest.destroy web1 101 --purge --destroy-unreferenced"),
    ("guest.adopt", "machine", "guest.adopt web1 101 --protect"),
    ("guest.release", "machine", "guest.release web1 101"),
    ("snapshot.create", "machine", "snapshot.create web1 101 fresh"),
    ("snapshot.rollback", "machine", "snapshot.rollback web1 101 before-update --start"),
    ("snapshot.delete", "machine", "snapshot.delete web1 101 first"),
    ("backup.create", "machine", "backup.create web1 101 --storage local --protected --notes weekly"),
    (
        "backup.create-stopped",
        "machine",
        "backup.create web1 101 --storage local --mode stop --compress none",
    ),
    (
        "backup.delete",
        "machine",
        "backup.delete web1 101 usb-backup:backup/vzdump-qemu-101-2026_11_01-02_00_05.vma.zst local:backup/vzdump-qemu-101-2026_11_18-02_00_05.vma.zst",
    ),
    ("backup.prune", "machine", "backup.prune web1 101 --type qemu --storage local --keep-last 3"),
    (
        "backup.prune-named",
        "machine",
        "backup.prune web1 101 --storage local --keep local:backup/vzdump-qemu-101-2026_11_18-02_00_05.vma.zst local:backup/vzdump-qemu-101-2026_11_21-02_00_05.vma.zst",
    ),
    (
        "backup.protect",
        "machine",
        "backup.protect web1 101 local:backup/vzdump-qemu-101-2026_11_21-02_00_05.vma.zst",
    ),
    (
        "backup.protect-off",
        "machine",
        "backup.protect web1 101 local:backup/vzdump-qemu-101-2026_11_21-02_00_05.vma.zst --off",
    ),
    ("disk.move", "machine", "disk.move web1 101 scsi0 --to local-zfs --delete-source"),
    ("disk.detach", "machine", "disk.detach web1 101 scsi1"),
    ("volume.delete", "machine", "volume.delete web1 101 unused0"),
    ("volume.delete-orphan", "machine", "volume.delete web1 105 local-lvm:vm-105-disk-1 --gone qemu"),
    (
        "template.download",
        "machine",
        "template.download web1 debian-12-standard_12.7-1_amd64.tar.zst --storage local --sha256 1111111111111111111111111111111111111111111111111111111111111111",
    ),
    (
        "storage.add",
        "machine",
        "storage.add web1 usb2 --dir /mnt/writ/usb2 --uuid ABCD-0123 --content iso,backup",
    ),
    ("storage.add-zfs", "machine", "storage.add web1 tank --zfs tank --guid 42 --content images,rootdir"),
    (
        "storage.add-thin",
        "machine",
        "storage.add web1 thin --lvmthin pve/data --vg-uuid Zr5zT9-1a2b-3c4d-5e6f-7g8h-9i0j-AbCdEf --content images",
    ),
    ("storage.remove", "machine", "storage.remove web1 usb-backup"),
    (
        "usb.mount",
        "machine",
        "usb.mount web1 6f7a2c1e-0b5d-4c3a-9e8f-333333333333 media --filesystem ext4 --read-only --persist",
    ),
    ("usb.unmount", "machine", "usb.unmount web1 ABCD-0123 backup --forget"),
];

fn world(name: &str) -> World {
    let mut world = told(if name == "container" { name } else { "machine" });
    match name {
        "paused" => guest_of(&mut world).state = RunState::Running,
        "suspended" => guest_of(&mut world).lock = Some("suspended".into()),
        _ => {}
    }
    world
}

#[test]
fn every_kind_reads_as_it_did() {
    let host = believed(1, "web1");
    for (name, of, line) in CASES {
        let wish = wish(line);
        let kind = name.split('-').next().unwrap();
        assert_eq!(wish.kind().as_str(), kind, "{line}");
        let order = made(&wish, &world(of)).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(Order::decode(&order.encode()).unwrap(), order, "{line}");
        // One policy may grow while the texts stay.
        let order = Order { policy: PolicyRef { version: 7, sha256: Sha256::of(b"policy") }, ..order };
        assert_eq!(order.host.id, *host.id());
        let text = format!("$ writ op {line}\n{}", render::order(&order, &Sha256::of(&order.encode())));
        let path = root().join(format!("fixtures/op/{name}.txt"));
        if std::env::var_os("WRIT_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let frozen = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, frozen, "{name} reads otherwise: look at it as somebody who signs it would");
    }
}

/// Every kind that is prepared by hand is tried above; the others are named, with who prepares them.
#[test]
fn no_kind_is_forgotten() {
    use Kind::*;
    let elsewhere =
        [PlanApprove, JobRun, SessionOpen, PolicyUpdate, KeyRevoke, HostRebind, LogReanchor, AgentUpdate];
    for kind in Kind::ALL {
        let tried = CASES.iter().any(|(name, ..)| name.split('-').next() == Some(kind.as_str()));
        assert_eq!(tried, !elsewhere.contains(kind), "{kind}");
    }
    let files = std::fs::read_dir(root().join("fixtures/op")).unwrap().count();
    assert_eq!(files, CASES.len(), "a file without a case");
}

/// The question asks for what the answer is then taken from: nothing else is read from the world.
#[test]
fn what_is_not_asked_for_is_not_needed() {
    for (name, of, line) in CASES {
        let wish = wish(line);
        let look = wish.look();
        assert!(look.is_bounded());
        let full = world(of);
        let asked = World {
            guest: if look.guest.is_some() { full.guest.clone() } else { unread() },
            backups: if look.owner.is_some() { full.backups.clone() } else { unread() },
            unlisted: full.unlisted.clone(),
            protected: full.protected.clone(),
            volumes: if look.volumes.is_empty() { unread() } else { full.volumes.clone() },
            disks: if look.disks { full.disks.clone() } else { unread() },
            storages: if look.backing { full.storages.clone() } else { unread() },
            vmids: if look.vmids { full.vmids.clone() } else { unread() },
            mounted: if look.disks { full.mounted.clone() } else { unread() },
            template: if look.template.is_some() { full.template.clone() } else { unread() },
        };
        assert_eq!(made(&wish, &asked), made(&wish, &full), "{name}");
        assert_eq!(look.guest.is_some() && look.template.is_none(), wish.guest().is_some(), "{name}");
        // And an answer without it is no order, except where all that counts is in the words.
        let error = refused(line, &World::unread("no\u{202e} answer"));
        assert!(error.contains("no? answer"), "{name}: {error}");
    }
}

/// What was not said is found out, and only where it was not.
#[test]
fn whose_backups_they_are_is_said_named_or_reported() {
    let line = "backup.prune web1 101 --storage local --keep-last 1";
    assert_eq!(wish(line).of_unknown_kind(), Some(vmid()));
    assert_eq!(wish(line).look().owner, None);
    assert!(refused(line, &told("machine")).contains("--type"));
    let known = wish(line).of_kind(Some(GuestKind::Qemu));
    assert_eq!(known.look().owner.map(|owner| owner.kind), Some(GuestKind::Qemu));
    assert!(made(&known, &told("machine")).is_ok());
    let said = wish("backup.prune web1 101 --type lxc --storage local --keep-last 1");
    assert_eq!(said.of_unknown_kind(), None);
    assert_eq!(said.clone().of_kind(Some(GuestKind::Qemu)), said);
}

/// Every refusal names what is missing and what to do.
#[test]
fn refusals_say_what_to_do() {
    let machine = told("machine");
    let backup = "local:backup/vzdump-qemu-101-2026_11_21-02_00_05.vma.zst";
    let protect = |volume: &str| format!("backup.protect web1 101 {volume}");
    let create = |more: &str| {
        format!("guest.create web1 301 --name a --storage local-lvm --cores 1 --memory 1G {more}")
    };
    let sha = "1".repeat(64);
    for (line, says) in [
        ("snapshot.delete web1 101 before-updat", "did you mean 'before-update'?"),
        ("snapshot.rollback web1 101 zzz", "(there are: first, before-update)"),
        ("snapshot.create web1 101 first", "choose another name"),
        ("guest.shutdown web1 101", "guest 101 is stopped: there is nothing to shut down"),
        ("guest.stop web1 101", "nothing to stop"),
        ("guest.reboot web1 101", "use guest.start"),
        ("guest.suspend web1 101", "nothing to suspend"),
        ("guest.resume web1 101", "start it instead"),
        ("guest.config web1 101 --set onboot=1", "option onboot of guest 101 is '1' already"),
        ("guest.config web1 101 --unset searchdomain", "not set (set are: name, net0, onboot, startup"),
        ("guest.config web1 101 --set hostname=a", "a qemu one, and those have no option hostname"),
        ("guest.resize web1 101 --cores 4", "cores 4 already"),
        ("guest.resize web1 101 --swap 1G", "swap have only containers"),
        ("guest.resize web1 101 --cores 9000", "1 to 8192"),
        ("guest.grow web1 101 scsi2 +1G", "did you mean 'scsi"),
        ("guest.grow web1 101 scsi0 32G", "32.0 GiB (34359738368 bytes) now"),
        ("guest.grow web1 101 scsi0 16G", "+SIZE"),
        ("guest.grow web1 101 ide2 +1G", "no volume of its own (none)"),
        ("guest.grow web1 101 unused0 +1G", "a disk in use"),
        ("disk.move web1 101 scsi0 --to local-lvm", "on storage local-lvm already"),
        ("disk.move web1 101 scsi0 --to local-zsf", "did you mean 'local-zfs'?"),
        ("disk.detach web1 101 unused0", "volume.delete"),
        ("volume.delete web1 101 scsi1", "detach it first"),
        ("volume.delete web1 101 local-zfs:vm-101-disk-0", "scsi1 of guest 101 is in use"),
        ("volume.delete web1 101 local-lvm:vm-101-disk-7", "did you mean 'local-lvm:vm-101-disk-1'?"),
        ("volume.delete web1 101 unused3", "did you mean 'unused0'?"),
        ("volume.delete web1 200 local-lvm:vm-200-disk-1 --gone lxc", "there is a guest 200"),
        (
            "volume.delete web1 105 local-lvm:vm-105-disk-2 --gone qemu",
            "did you mean 'local-lvm:vm-105-disk-1'?",
        ),
        ("backup.create web1 101 --storage loacl", "did you mean 'local"),
        (&protect("local:backup/vzdump-qemu-101-2026_11_22-02_00_05.vma.zst"), "did you mean"),
        (&protect("local:backup/vzdump-qemu-102-2026_11_22-02_00_05.vma.zst"), "qemu 102, not of qemu 101"),
        ("backup.prune web1 101 --type qemu --storage local --keep-last 9", "nothing to prune"),
        ("backup.prune web1 101 --type qemu --storage other --keep-last 9", "there are 0 backups"),
        (
            "backup.prune web1 101 --storage local --keep usb-backup:backup/vzdump-qemu-101-2026_11_01-02_00_05.vma.zst",
            "stays anyway",
        ),
        (
            "guest.restore_over web1 101 --storage local-lvm --archive local:backup/vzdump-qemu-102-2026_11_20-02_00_05.vma.zst",
            "guest.create --backup",
        ),
        ("guest.restore_over web1 101 --storage local-lvm --archive local:backup/mine.vma", "whose backup"),
        (&format!("guest.restore_over web1 101 --storage nope --archive {backup}"), "no storage 'nope'"),
        (
            "guest.create web1 200 --name a --storage local-lvm --cores 1 --memory 1G --clone 9000",
            "such as 201",
        ),
        (&create("--clone 9000 --disk 8G"), "leave --disk out"),
        (&create(&format!("--from local:vztmpl/a.tar.zst --sha256 {sha}")), "give --disk"),
        (&create(&format!("--from local:iso/a.iso --sha256 {sha} --disk 8G")), "a container template"),
        (&create("--backup local:backup/vzdump-qemu-101-2026_11_21-02_00_05.vma"), "did you mean"),
        (&create(&format!("--backup {backup} --privileged")), "would be a virtual machine"),
        ("storage.add web1 local --zfs a --guid 1 --content iso", "there is a storage local already"),
        ("storage.add web1 new --dir /mnt/a --uuid ABCD-0124 --content iso", "did you mean 'ABCD-0123'?"),
        ("storage.remove web1 usb-bakup", "did you mean 'usb-backup'?"),
        ("storage.remove web1 local", "what is behind storage local"),
        ("usb.mount web1 ABCD-0123 a --filesystem vfat", "mounted already"),
        ("usb.mount web1 ABCD-0124 a --filesystem vfat", "did you mean 'ABCD-0123'?"),
        ("usb.unmount web1 6f7a2c1e-0b5d-4c3a-9e8f-333333333333 a", "not mounted"),
    ] {
        let error = refused(line, &machine);
        assert!(error.contains(says), "{line}: {error}");
    }
    let container = told("container");
    for (line, says) in [
        ("guest.destroy web1 200", "guest.shutdown comes first"),
        ("guest.start web1 200", "guest.resume"),
        ("guest.suspend web1 200", "only virtual machines"),
        ("guest.resume web1 200", "only virtual machines"),
        ("guest.resize web1 200 --sockets 2", "only virtual machines"),
        ("backup.create web1 200 --storage local --mode stop", "--mode snapshot"),
        ("guest.grow web1 200 mp0 +1G", "no volume of its own (/srv/shared)"),
        (
            "guest.restore_over web1 200 --storage local-zfs --archive local:backup/vzdump-lxc-200-2026_11_21-02_10_00.tar.zst",
            "take another one first with backup.create",
        ),
        ("disk.detach web1 200 rootfs", "root filesystem"),
    ] {
        let error = refused(line, &container);
        assert!(error.contains(says), "{line}: {error}");
    }
    let no_template = World {
        template: Known::Known(authz::world::TemplateNow { template: false, digest: "e".repeat(40) }),
        ..told("machine")
    };
    assert!(refused(&create("--clone 9000"), &no_template).contains("only templates are cloned"));
}
