//! What the guard needs of a guest's configuration, from the options as Proxmox spells them. What cannot be
//! read is an error and never a default of ours; Proxmox's own defaults are its own.

use std::collections::BTreeMap;

use protocol::GuestKind;
use protocol::refs::DiskSlot;
use proxmox_client::PropertyString;

type Config = BTreeMap<String, String>;

/// A disk, from its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) volume: String,
    /// Bytes.
    pub(super) size: u64,
}

/// Cores and sockets. A container without the option has all cores of its host, which is no number.
pub(super) fn cores(kind: GuestKind, config: &Config) -> Result<(u32, u32), String> {
    let number = |key: &str| config.get(key).map(|text| whole(key, text)).transpose();
    match (kind, number("cores")?) {
        (GuestKind::Lxc, None) => {
            Err("the container has no limit of cores now, so nobody can say how far a number is from it"
                .into())
        }
        (GuestKind::Lxc, Some(cores)) => Ok((cores, 1)),
        (GuestKind::Qemu, cores) => Ok((cores.unwrap_or(1), number("sockets")?.unwrap_or(1))),
    }
}

/// Memory; both kinds have 512 MiB where nothing is said.
pub(super) fn memory_mib(config: &Config) -> Result<u32, String> {
    let Some(text) = config.get("memory") else {
        return Ok(512);
    };
    // Of virtual machines a property string: `2048` or `current=2048`.
    let line = PropertyString::parse(text);
    whole("memory", line.get("current").or_else(|| line.default_value()).unwrap_or(text))
}

/// Whether it starts with the host.
pub(super) fn onboot(config: &Config) -> Result<bool, String> {
    match config.get("onboot").map(String::as_str) {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(format!("onboot is {}, which is neither 0 nor 1", shown(other))),
    }
}

/// The notes. Proxmox ends them with a newline.
pub(super) fn description(config: &Config) -> &str {
    config.get("description").map_or("", |text| text.trim_end_matches('\n'))
}

/// The disk at a slot; a CD-ROM, a cloud-init drive or something detached is none.
pub(super) fn disk(config: &Config, slot: &DiskSlot) -> Result<Disk, String> {
    let name = slot.as_str();
    if slot.is_unused() || name.starts_with("efidisk") || name.starts_with("tpmstate") {
        return Err(format!("{slot} is no disk that can grow"));
    }
    let line = config.get(name).ok_or_else(|| format!("the guest has no {slot}"))?;
    parse_disk(name, line)?.ok_or_else(|| format!("{slot} is a CD-ROM or cloud-init drive, not a disk"))
}

/// Bytes of all disks together.
pub(super) fn all_disks(config: &Config) -> Result<u64, String> {
    let mut all = 0_u64;
    for (name, line) in config {
        let is_slot = name.parse::<DiskSlot>().is_ok_and(|slot| !slot.is_unused());
        // A bind mount has a path, and is not in a backup.
        if is_slot && !line.starts_with('/') {
            all = all.saturating_add(parse_disk(name, line)?.map_or(0, |disk| disk.size));
        }
    }
    if all == 0 { Err("the guest has no disk whose size is known".into()) } else { Ok(all) }
}

/// None for a CD-ROM.
fn parse_disk(name: &str, line: &str) -> Result<Option<Disk>, String> {
    let line = PropertyString::parse(line);
    let volume = line.default_value().or_else(|| line.get("file")).or_else(|| line.get("volume"));
    let volume = volume.ok_or_else(|| format!("{name} names no volume"))?;
    if line.get("media") == Some("cdrom") || volume.contains("cloudinit") {
        return Ok(None);
    }
    let size = line.get("size").and_then(bytes).ok_or_else(|| format!("the size of {name} is not known"))?;
    Ok(Some(Disk { volume: volume.to_owned(), size }))
}

/// `32G`, as Proxmox writes sizes of disks: whole numbers, powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(1 << shift)
}

fn whole(key: &str, text: &str) -> Result<u32, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| plain && *number > 0)
        .ok_or_else(|| format!("{key} is {}, which is no number that can be compared", shown(text)))
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lines: &[(&str, &str)]) -> Config {
        lines.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_read_as_proxmox_spells_them() {
        let empty = config(&[]);
        assert_eq!(cores(GuestKind::Qemu, &empty), Ok((1, 1)));
        assert!(cores(GuestKind::Lxc, &empty).unwrap_err().contains("no limit"));
        let two = config(&[("cores", "4"), ("sockets", "2"), ("memory", "current=2048"), ("onboot", "1")]);
        assert_eq!(cores(GuestKind::Qemu, &two), Ok((4, 2)));
        assert_eq!(cores(GuestKind::Lxc, &two), Ok((4, 1)));
        assert_eq!((memory_mib(&empty), memory_mib(&two)), (Ok(512), Ok(2048)));
        assert_eq!(memory_mib(&config(&[("memory", "4096")])), Ok(4096));
        assert_eq!((onboot(&empty), onboot(&two)), (Ok(false), Ok(true)));
        assert_eq!(description(&config(&[("description", "notes\n")])), "notes");
        assert_eq!(description(&empty), "");
    }

    #[test]
    fn what_cannot_be_read_is_no_number() {
        for bad in ["", "0", "-1", "+2", "2.5", "1e3", "99999999999", "two", "2 ", "2,current=9"] {
            let odd = config(&[("cores", bad), ("memory", bad), ("onboot", bad), ("sockets", bad)]);
            assert!(cores(GuestKind::Qemu, &odd).is_err(), "{bad:?}");
            assert!(cores(GuestKind::Lxc, &odd).is_err(), "{bad:?}");
            if bad != "2,current=9" {
                assert!(memory_mib(&odd).is_err(), "{bad:?}");
            }
            if bad != "0" {
                assert!(onboot(&odd).is_err(), "{bad:?}");
            }
        }
        assert_eq!(bytes("32G"), Some(32 << 30));
        assert_eq!(bytes("4194304"), Some(4 << 20));
        for bad in [
            "",
            "G",
            "-1G",
            "+1G",
            "1.5G",
            "1g",
            "1GB",
            "99999999999999999999",
            "18446744073709551615T",
            "1 G",
        ] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_disks_are_disks() {
        let guest = config(&[
            ("scsi0", "local-lvm:vm-101-disk-0,iothread=1,size=32G"),
            ("virtio1", "file=local-lvm:vm-101-disk-1,size=1T"),
            ("ide2", "local:iso/debian.iso,media=cdrom,size=600M"),
            ("ide0", "local-lvm:vm-101-cloudinit,media=cdrom,size=4M"),
            ("ide1", "local-lvm:vm-101-cloudinit,size=4M"),
            ("efidisk0", "local-lvm:vm-101-disk-2,size=4M"),
            ("unused0", "local-lvm:vm-101-disk-3"),
            ("mp1", "/srv/share,mp=/srv"),
            ("scsi5", "none,media=cdrom"),
            ("scsi6", "local-lvm:vm-101-disk-6"),
        ]);
        let at = |slot: &str| disk(&guest, &slot.parse().unwrap());
        assert_eq!(at("scsi0"), Ok(Disk { volume: "local-lvm:vm-101-disk-0".into(), size: 32 << 30 }));
        assert_eq!(at("virtio1").unwrap().size, 1 << 40);
        for none in ["ide2", "ide0", "ide1", "efidisk0", "unused0", "mp1", "scsi5", "scsi6", "scsi9"] {
            assert!(at(none).is_err(), "{none}");
        }
        assert!(all_disks(&guest).unwrap_err().contains("scsi6"), "one unknown size, and the sum is unknown");
        let mut known = guest.clone();
        known.remove("scsi6");
        assert_eq!(all_disks(&known), Ok((32 << 30) + (1 << 40) + (4 << 20)));
        assert!(all_disks(&config(&[("cores", "2")])).is_err());
        let huge = config(&[("scsi0", "a:b,size=16777215T"), ("scsi1", "a:c,size=16777215T")]);
        assert_eq!(all_disks(&huge), Ok(u64::MAX), "no overflow");
    }
}
