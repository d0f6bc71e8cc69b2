//! The options of guest configurations: names, types and ranges of the published schema, and the
//! privilege that changing each takes.

use crate::world::guests::numbered;
use crate::world::{Kind, Release};

/// The type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OptionKind {
    /// 0 or 1.
    Bool,
    /// A whole number between these.
    Int(i64, i64),
    /// A number between these, kept as text.
    Number(i64, i64),
    /// A number of at least this that QEMU keeps as text.
    NumberAsText(i64),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// Text of at most this many characters.
    Text(usize),
    /// A host or domain name.
    DnsName,
    /// Tags.
    Tags,
    /// `order=N,up=N,down=N`.
    Startup,
    /// A network device.
    Net,
    /// A disk or a mount point.
    Drive,
}

/// Who may change an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// This privilege on the guest.
    Guest(&'static str),
    /// Any of these on the guest.
    AnyOf(&'static [&'static str]),
    /// This privilege on `/`.
    Root(&'static str),
    /// No token at all.
    RootOnly,
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) kind: OptionKind,
    pub(crate) need: Need,
}

const MAX: i64 = i64::MAX;
const ANY: usize = usize::MAX;

/// The option `key`; `None` for a property the schema does not know.
pub(crate) fn option_spec(release: Release, kind: Kind, key: &str) -> Option<Spec> {
    if release == Release::V8 && matches!(key, "allow-ksm" | "intel-tdx" | "entrypoint" | "env") {
        return None;
    }
    let (kind, need) = match kind {
        Kind::Qemu => qemu(key)?,
        Kind::Lxc => lxc(key)?,
    };
    Some(Spec { kind, need })
}

const OPTIONS: Need = Need::Guest("VM.Config.Options");
const CPU: Need = Need::Guest("VM.Config.CPU");
const MEMORY: Need = Need::Guest("VM.Config.Memory");
const NETWORK: Need = Need::Guest("VM.Config.Network");
const DISK: Need = Need::Guest("VM.Config.Disk");
const HWTYPE: Need = Need::Guest("VM.Config.HWType");
const CLOUDINIT: Need = Need::AnyOf(&["VM.Config.Cloudinit", "VM.Config.Network"]);

/// Whether `key` is `prefix` and a number below `end`.
fn indexed(key: &str, prefix: &str, end: u32) -> bool {
    let number = || key[prefix.len()..].parse::<u32>();
    numbered(key, prefix) && number().is_ok_and(|n| n < end && format!("{prefix}{n}") == key)
}

fn qemu(key: &str) -> Option<(OptionKind, Need)> {
    use OptionKind::{Bool, DnsName, Drive, Enum, Int, Net, Number, NumberAsText, Startup, Tags, Text};
    let drives = [
        ("ide", 4),
        ("sata", 6),
        ("scsi", 31),
        ("virtio", 16),
        ("efidisk", 1),
        ("tpmstate", 1),
        ("unused", 256),
    ];
    if drives.iter().any(|(prefix, end)| indexed(key, prefix, *end)) {
        return Some((Drive, DISK));
    }
    if indexed(key, "net", 32) {
        return Some((Net, NETWORK));
    }
    if indexed(key, "ipconfig", 32) {
        return Some((Text(ANY), CLOUDINIT));
    }
    let hardware = [("serial", 4), ("usb", 14), ("hostpci", 16), ("numa", 8), ("virtiofs", 10)];
    if hardware.iter().any(|(prefix, end)| indexed(key, prefix, *end)) {
        return Some((Text(ANY), HWTYPE));
    }
    if indexed(key, "parallel", 3) {
        return Some((Text(ANY), Need::RootOnly));
    }
    Some(match key {
        "name" => (DnsName, OPTIONS),
        "description" => (Text(8192), OPTIONS),
        "tags" => (Tags, OPTIONS),
        "startup" => (Startup, Need::Root("Sys.Modify")),
        "agent" | "boot" | "bootdisk" | "cicustom" | "smbios1" | "startdate" | "vmstatestorage"
        | "hotplug" => (Text(ANY), OPTIONS),
        "onboot" | "protection" | "autostart" | "freeze" | "localtime" | "reboot" | "tdf" | "template"
        | "acpi" | "kvm" | "tablet" | "allow-ksm" => (Bool, OPTIONS),
        "ostype" => (
            Enum(&[
                "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24",
                "l26", "solaris",
            ]),
            OPTIONS,
        ),
        "migrate_downtime" => (Number(0, MAX), OPTIONS),
        "migrate_speed" => (Int(0, MAX), OPTIONS),
        "cores" | "sockets" | "smp" | "vcpus" => (Int(1, MAX), CPU),
        "numa" => (Bool, CPU),
        "cpu" => (Text(ANY), CPU),
        "cpulimit" => (Number(0, 128), CPU),
        "cpuunits" => (Int(1, 262_144), CPU),
        "memory" => (NumberAsText(16), MEMORY),
        "balloon" => (Int(0, MAX), MEMORY),
        "shares" => (Int(0, 50_000), MEMORY),
        "audio0" | "machine" | "rng0" | "vga" | "watchdog" => (Text(ANY), HWTYPE),
        "bios" => (Enum(&["seabios", "ovmf"]), HWTYPE),
        "keyboard" => (Text(5), HWTYPE),
        "scsihw" => (
            Enum(&["lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"]),
            HWTYPE,
        ),
        "cdrom" => (Drive, Need::Guest("VM.Config.CDROM")),
        "cipassword" | "ciuser" | "sshkeys" | "nameserver" | "searchdomain" => (Text(ANY), CLOUDINIT),
        "citype" => (Enum(&["configdrive2", "nocloud", "opennebula"]), CLOUDINIT),
        "ciupgrade" => (Bool, CLOUDINIT),
        "lock" => (
            Enum(&[
                "backup",
                "clone",
                "create",
                "migrate",
                "rollback",
                "snapshot",
                "snapshot-delete",
                "suspending",
                "suspended",
            ]),
            Need::RootOnly,
        ),
        "args" | "affinity" | "amd-sev" | "intel-tdx" | "arch" | "hookscript" | "hugepages" | "ivshmem"
        | "spice_enhancements" | "vmgenid" => (Text(ANY), Need::RootOnly),
        "keephugepages" => (Bool, Need::RootOnly),
        _ => return None,
    })
}

fn lxc(key: &str) -> Option<(OptionKind, Need)> {
    use OptionKind::{Bool, DnsName, Drive, Enum, Int, Net, Number, Startup, Tags, Text};
    if key == "rootfs" || indexed(key, "mp", 256) || indexed(key, "unused", 256) {
        return Some((Drive, DISK));
    }
    if indexed(key, "net", 32) {
        return Some((Net, NETWORK));
    }
    if indexed(key, "dev", 256) {
        return Some((Text(ANY), Need::RootOnly));
    }
    Some(match key {
        "hostname" => (DnsName, NETWORK),
        "nameserver" | "searchdomain" => (Text(ANY), NETWORK),
        "description" => (Text(8192), OPTIONS),
        "tags" => (Tags, OPTIONS),
        "startup" => (Startup, OPTIONS),
        "onboot" | "protection" | "console" | "debug" | "template" | "unprivileged" => (Bool, OPTIONS),
        "arch" => (Enum(&["amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"]), OPTIONS),
        "cmode" => (Enum(&["shell", "console", "tty"]), OPTIONS),
        "ostype" => (
            Enum(&[
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
            ]),
            OPTIONS,
        ),
        "tty" => (Int(0, 6), OPTIONS),
        "timezone" | "entrypoint" | "env" => (Text(ANY), OPTIONS),
        "cores" => (Int(1, 8192), CPU),
        "cpulimit" => (Number(0, 8192), CPU),
        "cpuunits" => (Int(0, 500_000), CPU),
        "memory" => (Int(16, MAX), MEMORY),
        "swap" => (Int(0, MAX), MEMORY),
        // The handler looks at these two itself: it depends on the container what they take.
        "features" => (Text(ANY), Need::Guest("VM.Allocate")),
        "hookscript" => (Text(ANY), Need::RootOnly),
        "lock" => (
            Enum(&[
                "backup",
                "create",
                "destroyed",
                "disk",
                "fstrim",
                "migrate",
                "mounted",
                "rollback",
                "snapshot",
                "snapshot-delete",
            ]),
            OPTIONS,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_schema() {
        let known = |release, kind, key: &str| option_spec(release, kind, key).is_some();
        for key in ["scsi30", "ide3", "net31", "efidisk0", "memory", "cpu", "tags", "unused255", "ipconfig0"]
        {
            assert!(known(Release::V9, Kind::Qemu, key), "{key}");
        }
        for key in ["scsi31", "ide4", "net32", "net", "net01", "rootfs", "features", "", "nosuch", "mp0"] {
            assert!(!known(Release::V9, Kind::Qemu, key), "{key}");
        }
        for key in ["rootfs", "mp255", "dev0", "features", "net0", "lock"] {
            assert!(known(Release::V9, Kind::Lxc, key), "{key}");
        }
        assert!(known(Release::V9, Kind::Lxc, "entrypoint") && !known(Release::V8, Kind::Lxc, "entrypoint"));
        for key in ["args", "lock", "vmgenid", "hookscript", "parallel0"] {
            let spec = option_spec(Release::V8, Kind::Qemu, key).unwrap();
            assert_eq!(spec.need, Need::RootOnly, "{key}");
        }
    }
}
