//! The options of a guest's config: which can be sent, within which limits, and which are kept for
//! root, whatever privileges a token has (`pve/facts.md` 2). Only what Proxmox VE 8.4 and 9 both
//! know is here.

use crate::catalog::{Form, Kind, Param, flag, form, is_numbered, param};
use crate::value::ids::GuestKind;

/// Where the schema sets no upper limit.
pub(super) const MANY: i64 = 999_999_999_999;

const fn line(name: &'static str) -> Param {
    form(name, Form::Line)
}

/// Options of virtual machines.
pub(super) const QEMU: [Param; 67] = [
    flag("acpi"),
    line("agent"),
    line("audio0"),
    flag("autostart"),
    param("balloon", Kind::Int(0, MANY)),
    param("bios", Kind::Word(&["seabios", "ovmf"])),
    line("boot"),
    line("bootdisk"),
    line("cdrom"),
    line("cicustom"),
    param("cipassword", Kind::Secret(1, 1024)),
    param("citype", Kind::Word(&["configdrive2", "nocloud", "opennebula"])),
    flag("ciupgrade"),
    line("ciuser"),
    param("cores", Kind::Int(1, MANY)),
    line("cpu"),
    param("cpulimit", Kind::Number(0.0, 128.0)),
    param("cpuunits", Kind::Int(1, 262_144)),
    param("description", Kind::Text(8192)),
    line("efidisk0"),
    flag("freeze"),
    line("hostpci[n]"),
    line("hotplug"),
    line("ide[n]"),
    line("ipconfig[n]"),
    param("keyboard", Kind::Word(KEYBOARDS)),
    flag("kvm"),
    flag("localtime"),
    line("machine"),
    line("memory"),
    param("migrate_downtime", Kind::Number(0.0, 1e9)),
    param("migrate_speed", Kind::Int(0, MANY)),
    form("name", Form::Dns),
    line("nameserver"),
    line("net[n]"),
    flag("numa"),
    line("numa[n]"),
    flag("onboot"),
    param("ostype", Kind::Word(QEMU_SYSTEMS)),
    flag("protection"),
    flag("reboot"),
    line("rng0"),
    line("sata[n]"),
    line("scsi[n]"),
    param("scsihw", Kind::Word(SCSI_CONTROLLERS)),
    line("searchdomain"),
    line("serial[n]"),
    param("shares", Kind::Int(0, 50_000)),
    param("smbios1", Kind::Text(512)),
    param("smp", Kind::Int(1, MANY)),
    param("sockets", Kind::Int(1, MANY)),
    line("sshkeys"),
    line("startdate"),
    line("startup"),
    flag("tablet"),
    form("tags", Form::Tags),
    flag("tdf"),
    flag("template"),
    line("tpmstate0"),
    line("unused[n]"),
    line("usb[n]"),
    param("vcpus", Kind::Int(1, MANY)),
    line("vga"),
    line("virtio[n]"),
    line("virtiofs[n]"),
    form("vmstatestorage", Form::Storage),
    line("watchdog"),
];

const KEYBOARDS: &[&str] = &[
    "de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hu", "is", "it",
    "ja", "lt", "mk", "nl", "no", "pl", "pt", "pt-br", "sv", "sl", "tr",
];
const QEMU_SYSTEMS: &[&str] = &[
    "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26",
    "solaris",
];
const SCSI_CONTROLLERS: &[&str] =
    &["lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"];

/// Options of containers.
pub(super) const LXC: [Param; 26] = [
    param("arch", Kind::Word(&["amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"])),
    param("cmode", Kind::Word(&["shell", "console", "tty"])),
    flag("console"),
    param("cores", Kind::Int(1, 8192)),
    param("cpulimit", Kind::Number(0.0, 8192.0)),
    param("cpuunits", Kind::Int(0, 500_000)),
    flag("debug"),
    param("description", Kind::Text(8192)),
    line("features"),
    form("hostname", Form::Dns),
    param("memory", Kind::Int(16, MANY)),
    line("mp[n]"),
    line("nameserver"),
    line("net[n]"),
    flag("onboot"),
    param("ostype", Kind::Word(LXC_SYSTEMS)),
    flag("protection"),
    line("rootfs"),
    line("searchdomain"),
    line("startup"),
    param("swap", Kind::Int(0, MANY)),
    form("tags", Form::Tags),
    flag("template"),
    line("timezone"),
    param("tty", Kind::Int(0, 6)),
    line("unused[n]"),
];

const LXC_SYSTEMS: &[&str] = &[
    "debian",
    "devuan",
    "ubuntu",
    "centos",
    "fedora",
    "opensuse",
    "archlinux",
    "alpine",
    "gentoo",
    "nixos",
    "unmanaged",
];

/// Two lists in one.
pub(super) const fn join<const A: usize, const B: usize, const N: usize>(
    first: [Param; A],
    second: [Param; B],
) -> [Param; N] {
    assert!(A + B == N, "the length of the joined list");
    let mut all = [first[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < A { first[at] } else { second[at - A] };
        at += 1;
    }
    all
}

/// Privileges of the role that a config may need.
pub(super) const CONFIG_NEEDS: &[&str] = &[
    "VM.Config.Disk",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "Datastore.AllocateSpace",
    "SDN.Use",
];
/// And beyond it: CD drives, hardware types, cloud-init, mapped devices; `startup` needs Sys.Modify,
/// the host's own CD drive Sys.Console.
pub(super) const QEMU_BEYOND: &[&str] = &[
    "VM.Config.CDROM",
    "VM.Config.HWType",
    "VM.Config.Cloudinit",
    "Mapping.Use",
    "Sys.Modify",
    "Sys.Console",
];

/// Why no token can set or delete this option, however many privileges it has; Proxmox refuses it
/// to everybody but `root@pam` itself. `value` is `None` where it is to be deleted.
pub(super) fn kept_for_root(kind: GuestKind, name: &str, value: Option<&str>) -> Option<String> {
    let whole: &[&str] = match kind {
        GuestKind::Qemu => &[
            "args",
            "affinity",
            "amd-sev",
            "intel-tdx",
            "arch",
            "hookscript",
            "hugepages",
            "keephugepages",
            "ivshmem",
            "lock",
            "spice_enhancements",
            "vmgenid",
        ],
        GuestKind::Lxc => &["hookscript", "lock"],
    };
    let numbered: &[(&str, u32)] = match kind {
        GuestKind::Qemu => &[("parallel", 2)],
        GuestKind::Lxc => &[("dev", 255)],
    };
    let root = |what: &str| {
        Some(format!("{what} is kept for root@pam itself and closed to every API token: set it on the host"))
    };
    if whole.contains(&name) || numbered.iter().any(|(stem, most)| is_numbered(name, stem, *most)) {
        return root(&format!("`{name}`"));
    }
    let value = value?;
    match kind {
        GuestKind::Qemu => {
            let raw_device = (is_numbered(name, "usb", 13) || is_numbered(name, "hostpci", 15))
                && value.split(',').any(|part| match part.split_once('=') {
                    // The first part needs no key.
                    None => !part.eq_ignore_ascii_case("spice"),
                    Some(("host", device)) => !device.eq_ignore_ascii_case("spice"),
                    Some((key, _)) => key == "romfile",
                });
            let serial = is_numbered(name, "serial", 3) && value.starts_with("/dev/");
            let drive = crate::catalog::is_qemu_drive(name)
                && value.split(',').any(|part| match part.split_once('=') {
                    None => part.starts_with('/'),
                    Some((key, value)) => matches!(key, "file" | "import-from") && value.starts_with('/'),
                });
            if drive {
                return root(&format!("a path of the host in `{name}`"));
            }
            (raw_device || serial)
                .then(|| {
                    root(&format!("a device of the host in `{name}` (a mapped one, `mapping=`, is not)"))
                })
                .flatten()
        }
        GuestKind::Lxc => {
            let feature = name == "features"
                && value.split(',').any(|part| part.split_once('=').is_none_or(|(key, _)| key != "nesting"));
            if feature {
                return root("every feature but `nesting`");
            }
            let path = (name == "rootfs" || is_numbered(name, "mp", 255))
                && value.split(',').any(|part| match part.split_once('=') {
                    None => part.starts_with('/'),
                    Some((key, value)) => key == "volume" && value.starts_with('/'),
                });
            path.then(|| root(&format!("a path of the host in `{name}`"))).flatten()
        }
    }
}

/// Why there is no such option: Proxmox numbers each kind up to its own limit.
pub(super) fn no_such_number(kind: GuestKind, name: &str) -> Option<String> {
    let limits: &[(&str, u32)] = match kind {
        GuestKind::Qemu => &[
            ("ide", 3),
            ("sata", 5),
            ("scsi", 30),
            ("virtio", 15),
            ("unused", 255),
            ("net", 31),
            ("ipconfig", 31),
            ("serial", 3),
            ("usb", 13),
            ("hostpci", 15),
            ("numa", 7),
            ("virtiofs", 9),
        ],
        GuestKind::Lxc => &[("net", 31), ("mp", 255), ("unused", 255)],
    };
    limits.iter().find_map(|(stem, most)| {
        let number = name.strip_prefix(stem)?;
        let counts = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        (counts && !is_numbered(name, stem, *most))
            .then(|| format!("`{name}`: Proxmox knows {stem}0 to {stem}{most}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_root_is_named() {
        use GuestKind::{Lxc, Qemu};
        for (kind, name, value) in [
            (Qemu, "args", Some("-device x")),
            (Qemu, "args", None),
            (Qemu, "lock", None),
            (Qemu, "hookscript", Some("local:snippets/a.pl")),
            (Qemu, "parallel0", Some("/dev/parport0")),
            (Qemu, "vmgenid", Some("1")),
            (Qemu, "usb0", Some("host=1234:5678")),
            (Qemu, "usb0", Some("1234:5678")),
            (Qemu, "hostpci0", Some("0000:00:02.0,pcie=1")),
            (Qemu, "hostpci0", Some("mapping=gpu,romfile=a.rom")),
            (Qemu, "serial0", Some("/dev/ttyS0")),
            (Qemu, "scsi0", Some("/dev/sdb")),
            (Qemu, "virtio1", Some("local:0,import-from=/srv/a.raw")),
            (Qemu, "sata0", Some("file=/dev/disk/by-id/x,backup=0")),
            (Lxc, "lock", Some("backup")),
            (Lxc, "dev0", Some("/dev/dri/card0")),
            (Lxc, "hookscript", None),
            (Lxc, "features", Some("nesting=1,keyctl=1")),
            (Lxc, "features", Some("fuse=1")),
            (Lxc, "mp0", Some("/mnt/usb,mp=/usb")),
            (Lxc, "mp0", Some("volume=/mnt/usb,mp=/usb")),
        ] {
            let why = kept_for_root(kind, name, value).unwrap_or_else(|| panic!("{kind} {name} {value:?}"));
            assert!(why.contains("root@pam") && why.contains("API token"), "{why}");
        }
        for (kind, name, value) in [
            (Qemu, "name", Some("web")),
            (Qemu, "usb0", Some("spice,usb3=1")),
            (Qemu, "usb0", Some("host=spice")),
            (Qemu, "usb0", Some("mapping=stick")),
            (Qemu, "usb0", None),
            (Qemu, "serial0", Some("socket")),
            (Qemu, "scsi0", Some("local-lvm:8")),
            (Lxc, "features", Some("nesting=1")),
            (Lxc, "features", None),
            (Lxc, "arch", Some("amd64")),
            (Lxc, "mp0", Some("local-zfs:8,mp=/data")),
        ] {
            assert_eq!(kept_for_root(kind, name, value), None, "{kind} {name}");
        }
    }

    #[test]
    fn numbers_end_where_proxmox_ends_them() {
        use GuestKind::{Lxc, Qemu};
        for (kind, name) in [
            (Qemu, "scsi31"),
            (Qemu, "net32"),
            (Qemu, "ide4"),
            (Lxc, "mp256"),
            (Qemu, "numa8"),
            (Qemu, "scsi01"),
        ] {
            assert!(no_such_number(kind, name).is_some(), "{name}");
        }
        for (kind, name) in [
            (Qemu, "scsi30"),
            (Qemu, "numa"),
            (Qemu, "scsihw"),
            (Lxc, "net0"),
            (Lxc, "mp255"),
            (Qemu, "efidisk0"),
        ] {
            assert!(no_such_number(kind, name).is_none(), "{name}");
        }
    }
}
