//! Options of a guest's configuration that an order may change: a closed list of keys, each with the
//! grammar of its values. What only root may set is refused by name (`pve/facts.md` 2).

use protocol::GuestKind;
use protocol::text::SafeText;
use serde::{Deserialize, Serialize};

/// A value of an option, as Proxmox spells it. Old values only have to be safe to show; new ones follow
/// their key's grammar.
pub type ConfigValue = SafeText;

/// A key of the closed list, such as `onboot` or `net0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConfigKey(String);

/// Why a key is not in the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Proxmox lets only root@pam set it, never a token.
    #[error("option {0} can be set by root only, so no order can: set it on the host")]
    RootOnly(String),
    /// There is an order kind for it.
    #[error("option {key} is not changed by guest.config: use {instead}")]
    Elsewhere {
        /// The key.
        key: String,
        /// The kind.
        instead: &'static str,
    },
    /// A secret, or something that runs inside the guest.
    #[error("option {0} holds a secret or what the guest runs at its start: it has no place in an order")]
    Secret(String),
    /// Not in the list.
    #[error("there is no option {0:?} that guest.config can change; it can change {all}", all = changeable())]
    Unknown(String),
}

/// Which guests have an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Qemu,
    Lxc,
    Both,
}

/// What the values of an option look like.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Flag,
    Number(u32, u32),
    OneOf(&'static [&'static str]),
    Name,
    Words,
    Pairs(&'static [&'static str]),
    Boot,
}

use Of::{Both, Lxc, Qemu};
use Rule::{Boot, Flag, Name, Number, OneOf, Pairs, Words};

/// Keys without a number.
const KEYS: &[(&str, Of, Rule)] = &[
    ("acpi", Qemu, Flag),
    ("agent", Qemu, Pairs(&["enabled", "fstrim_cloned_disks", "freeze-fs-on-backup", "type"])),
    ("autostart", Qemu, Flag),
    ("balloon", Qemu, Number(0, 8_388_608)),
    ("bios", Qemu, OneOf(&["seabios", "ovmf"])),
    ("boot", Qemu, Boot),
    ("ciupgrade", Qemu, Flag),
    ("cmode", Lxc, OneOf(&["console", "shell", "tty"])),
    ("console", Lxc, Flag),
    ("cpu", Qemu, Words),
    ("cpulimit", Both, Number(0, 8_192)),
    ("cpuunits", Both, Number(1, 500_000)),
    ("features", Lxc, OneOf(&["nesting=0", "nesting=1"])),
    ("hostname", Lxc, Name),
    ("hotplug", Qemu, Words),
    ("kvm", Qemu, Flag),
    ("localtime", Qemu, Flag),
    ("machine", Qemu, Words),
    ("name", Qemu, Name),
    ("nameserver", Both, Words),
    ("numa", Qemu, Flag),
    ("onboot", Both, Flag),
    ("ostype", Both, Words),
    ("protection", Both, Flag),
    ("scsihw", Qemu, Words),
    ("searchdomain", Both, Words),
    ("shares", Qemu, Number(0, 50_000)),
    ("startup", Both, Pairs(&["order", "up", "down"])),
    ("tablet", Qemu, Flag),
    ("timezone", Lxc, Words),
    ("tty", Lxc, Number(0, 6)),
    ("vga", Qemu, Words),
];

/// Keys with a number: prefix, highest number, of which guests, values.
const NUMBERED: &[(&str, u32, Of, Rule)] = &[
    ("ipconfig", 31, Qemu, Pairs(&["ip", "gw", "ip6", "gw6"])),
    (
        "net",
        31,
        Both,
        Pairs(&[
            "bridge",
            "e1000",
            "e1000e",
            "firewall",
            "gw",
            "gw6",
            "hwaddr",
            "ip",
            "ip6",
            "link_down",
            "macaddr",
            "model",
            "mtu",
            "name",
            "queues",
            "rate",
            "rtl8139",
            "tag",
            "trunks",
            "type",
            "virtio",
            "vmxnet3",
        ]),
    ),
];

/// What only root@pam may set (`pve/facts.md` 2): options, and prefixes of numbered ones.
const ROOT_ONLY: &[&str] = &[
    "affinity",
    "amd-sev",
    "arch",
    "args",
    "cdrom",
    "dev",
    "hookscript",
    "hostpci",
    "hugepages",
    "intel-tdx",
    "ivshmem",
    "keephugepages",
    "lock",
    "lxc",
    "parallel",
    "serial",
    "skiplock",
    "spice_enhancements",
    "usb",
    "vmgenid",
];

/// What has a kind of its own, by option or prefix.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cores", "guest.resize"),
    ("efidisk", "disk.move or disk.detach"),
    ("ide", "guest.grow, disk.move or disk.detach"),
    ("memory", "guest.resize"),
    ("mp", "guest.grow, disk.move or disk.detach (bind mounts can be set by root only)"),
    ("rootfs", "guest.grow or disk.move"),
    ("sata", "guest.grow, disk.move or disk.detach"),
    ("scsi", "guest.grow, disk.move or disk.detach"),
    ("sockets", "guest.resize"),
    ("swap", "guest.resize"),
    ("tags", "guest.tag"),
    ("template", "another tool: a guest that became a template cannot be changed back"),
    ("tpmstate", "disk.move or disk.detach"),
    ("unused", "volume.delete"),
    ("virtio", "guest.grow, disk.move or disk.detach"),
];

/// Secrets, and what runs in a guest at its start: a way into the guest (`security.md` F9).
const SECRETS: &[&str] =
    &["cicustom", "cipassword", "ciuser", "citype", "entrypoint", "env", "password", "sshkeys"];

/// Each option that can be changed.
fn changeable() -> String {
    let plain = KEYS.iter().map(|(key, ..)| (*key).to_owned());
    let numbered = NUMBERED.iter().map(|(prefix, last, ..)| format!("{prefix}0 to {prefix}{last}"));
    plain.chain(numbered).collect::<Vec<_>>().join(", ")
}

impl ConfigKey {
    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn entry(text: &str) -> Option<(Of, Rule)> {
        let plain = KEYS.iter().find(|(key, ..)| *key == text).map(|(_, of, rule)| (*of, *rule));
        plain.or_else(|| {
            let (prefix, number) = numbered(text)?;
            let (_, last, of, rule) = NUMBERED.iter().find(|(key, ..)| *key == prefix)?;
            (number <= *last).then_some((*of, *rule))
        })
    }

    /// Whether guests of this kind have the option.
    pub fn fits(&self, kind: GuestKind) -> bool {
        Self::entry(&self.0).is_some_and(|(of, _)| match of {
            Both => true,
            Qemu => kind == GuestKind::Qemu,
            Lxc => kind == GuestKind::Lxc,
        })
    }

    /// Whether the option can be given this value.
    pub fn takes(&self, value: &ConfigValue) -> bool {
        Self::entry(&self.0).is_some_and(|(_, rule)| rule.takes(value.as_str()))
    }
}

/// `net12` as `net` and 12. One spelling per number.
fn numbered(text: &str) -> Option<(&str, u32)> {
    let prefix = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &text[prefix.len()..];
    let one = digits.len() == 1 || !digits.starts_with('0');
    one.then(|| digits.parse().ok()).flatten().map(|number| (prefix, number))
}

impl Rule {
    fn takes(self, text: &str) -> bool {
        let word = |text: &str, more: &[u8]| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        match self {
            Flag => matches!(text, "0" | "1"),
            Number(least, most) => {
                text.bytes().all(|b| b.is_ascii_digit())
                    && (text.len() == 1 || !text.starts_with('0'))
                    && text.parse::<u32>().is_ok_and(|number| (least..=most).contains(&number))
            }
            OneOf(words) => words.contains(&text),
            Name => text.parse::<protocol::refs::GuestName>().is_ok(),
            // One word or a list of words; no '=' of foreign keys but those that the words have themselves.
            Words => text.len() <= 256 && text.split([' ', ',']).all(|part| word(part, b"._+-:/;=")),
            Pairs(keys) => {
                let parts: Vec<&str> = text.split(',').collect();
                let known = parts.iter().enumerate().all(|(at, part)| match part.split_once('=') {
                    Some((key, value)) => keys.contains(&key) && word(value, b".:;/-"),
                    // Proxmox lets a first number stand without its key (`agent: 1`, `startup: 3`).
                    None => at == 0 && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()),
                });
                known && super::each_once(parts.iter().map(|part| part.split('=').next()))
            }
            Boot => text.strip_prefix("order=").is_some_and(|order| {
                let slots: Vec<&str> = order.split(';').collect();
                let fits = |slot: &&str| {
                    slot.parse::<protocol::refs::DiskSlot>().is_ok()
                        || matches!(numbered(slot), Some(("net", 0..=31)))
                };
                slots.iter().all(fits) && super::each_once(&slots)
            }),
        }
    }
}

impl std::str::FromStr for ConfigKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if Self::entry(text).is_some() {
            return Ok(Self(text.to_owned()));
        }
        let shown = || protocol::text::printable(&text.chars().take(40).collect::<String>());
        let (plain, _) = text.split_once(['.', '[']).unwrap_or((text, ""));
        let stem = numbered(plain).map_or(plain, |(prefix, _)| prefix);
        Err(if ROOT_ONLY.contains(&stem) {
            KeyError::RootOnly(shown())
        } else if SECRETS.contains(&stem) {
            KeyError::Secret(shown())
        } else if let Some((_, instead)) = ELSEWHERE.iter().find(|(key, _)| *key == stem) {
            KeyError::Elsewhere { key: shown(), instead }
        } else {
            KeyError::Unknown(shown())
        })
    }
}

impl TryFrom<String> for ConfigKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<ConfigKey> for String {
    fn from(key: ConfigKey) -> String {
        key.0
    }
}

impl std::fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl std::fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConfigKey({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(key: &str) -> KeyError {
        key.parse::<ConfigKey>().unwrap_err()
    }

    #[test]
    fn root_only_options_are_refused_by_name() {
        for key in ROOT_ONLY.iter().chain(&[
            "dev0",
            "usb1",
            "hostpci15",
            "serial0",
            "parallel2",
            "lxc.apparmor.profile",
        ]) {
            assert!(matches!(error(key), KeyError::RootOnly(_)), "{key}");
        }
        for key in SECRETS {
            assert!(matches!(error(key), KeyError::Secret(_)), "{key}");
        }
        for key in ["memory", "scsi0", "mp0", "rootfs", "tags", "unused3", "virtio15"] {
            assert!(matches!(error(key), KeyError::Elsewhere { .. }), "{key}");
        }
        for key in [
            "",
            "net",
            "net32",
            "net01",
            "net-1",
            "Net0",
            "onboot ",
            "on\u{202e}boot",
            "digest",
            "delete",
            "ipconfig99",
        ] {
            assert!(matches!(error(key), KeyError::Unknown(_)), "{key:?}");
        }
        assert!(!error("a\u{1b}[0m").to_string().contains('\u{1b}'));
    }

    #[test]
    fn values_follow_their_keys() {
        for (key, good, bad) in [
            ("onboot", &["0", "1"][..], &["", "2", "yes", "01"][..]),
            ("cpuunits", &["1", "1024"], &["0", "500001", "-1", "1e3", "0x10", "99999999999", "007"]),
            ("features", &["nesting=1"], &["keyctl=1", "nesting=1,keyctl=1", "fuse=1", ""]),
            ("name", &["db", "db.example"], &["-x", "a b", ""]),
            (
                "net0",
                &["virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=10", "name=eth0,bridge=vmbr0,ip=10.0.0.2/24"],
                &["bridge=vmbr0,bridge=vmbr1", "script=/bin/sh", "bridge=", "bridge=$(x)", ""],
            ),
            ("boot", &["order=scsi0;net0"], &["order=", "order=usb0", "order=scsi0;scsi0", "legacy=cdn"]),
            ("startup", &["order=3,up=10", "3"], &["order", "order=3,,", "x=1"]),
            ("nameserver", &["10.0.0.1 10.0.0.2"], &["", "a\"b", "a`b", "  "]),
        ] {
            let key: ConfigKey = key.parse().unwrap();
            for value in good {
                assert!(key.takes(&value.parse().unwrap()), "{key} takes {value:?}");
            }
            for value in bad {
                assert!(!key.takes(&value.parse().unwrap()), "{key} refuses {value:?}");
            }
        }
        let fits = |key: &str| {
            let key: ConfigKey = key.parse().unwrap();
            [GuestKind::Qemu, GuestKind::Lxc].map(|kind| key.fits(kind))
        };
        assert_eq!(
            [fits("bios"), fits("features"), fits("net0")],
            [[true, false], [false, true], [true, true]]
        );
    }
}
