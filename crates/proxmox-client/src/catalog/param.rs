//! Parameters: what may be sent under which name. The limits are those of Proxmox's own schema,
//! so that a refusal comes before anything is sent; `tests/schema.rs` compares them.

/// One parameter.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its name; `net[n]` stands for `net0`, `net1`, ….
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// 0 or 1; Proxmox refuses `true`.
    Flag,
    /// A whole number within bounds.
    Int(i64, i64),
    /// A number within bounds.
    Number(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Some of these words, comma separated.
    Words(&'static [&'static str]),
    /// Text of at most this many characters.
    Text(usize),
    /// Text of a certain form.
    Form(Form),
    /// Text of at least and at most this many characters that is never shown, not even where it is
    /// refused: passwords, console input.
    Secret(usize, usize),
}

/// Forms of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// 2 to 40 of letters, digits, `-` and `_`, starting with a letter: snapshot names.
    ConfigId,
    /// SHA-1 in hex. A part of one is sent too, since it never matches; `0` is not, because
    /// Proxmox takes it for "none given" and compares nothing.
    Digest,
    /// 100 to 999999999.
    Vmid,
    /// Such numbers, comma separated.
    VmidList,
    /// A node's name.
    Node,
    /// A storage's name: letters, digits, `-`, `_`, `.`, starting with a letter, ending in no sign.
    Storage,
    /// `storage:volume`.
    Volume,
    /// `10G`, or `+10G` to grow by.
    Size,
    /// A pool's name, `a/b` for one inside another.
    Pool,
    /// A host name.
    Dns,
    /// A disk's device, `/dev/` and letters, digits, slashes.
    Device,
    /// Option names, comma separated.
    Names,
    /// Tags, semicolon separated.
    Tags,
    /// `keep-last=3,keep-daily=7`, or `keep-all=1`.
    Retention,
    /// A drive of a virtual machine: `scsi0`, `efidisk0`, ….
    QemuDrive,
    /// The same, or one of its unused volumes, `unused0`.
    QemuVolume,
    /// `rootfs` or a mount point of a container, `mp0`.
    LxcDrive,
    /// The same, or one of its unused volumes, `unused0`.
    LxcVolume,
    /// What rights are granted on: `/`, `/vms/100`, `/storage/local`.
    AclPath,
    /// `user@realm` or `user@realm!token`.
    User,
    /// A UPID.
    Upid,
    /// An `http` or `https` address.
    Url,
    /// A file's name without a path.
    FileName,
    /// A property string or list: printable, one line.
    Line,
}

pub(crate) const fn param(name: &'static str, kind: Kind) -> Param {
    Param { name, kind }
}

pub(crate) const fn flag(name: &'static str) -> Param {
    param(name, Kind::Flag)
}

pub(crate) const fn form(name: &'static str, form: Form) -> Param {
    param(name, Kind::Form(form))
}

impl Param {
    /// Whether `name` is this parameter's, or one of its numbered ones.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        match self.name.strip_suffix("[n]") {
            None => self.name == name,
            Some(stem) => name.strip_prefix(stem).is_some_and(|number| {
                (1..=3).contains(&number.len())
                    && number.bytes().all(|b| b.is_ascii_digit())
                    && (number == "0" || !number.starts_with('0'))
            }),
        }
    }

    /// Why the value cannot be sent; `None` if it can.
    #[must_use]
    pub fn refuse(&self, value: &str) -> Option<String> {
        let wanted = self.kind.refuse(value)?;
        if matches!(self.kind, Kind::Secret(..)) {
            return Some(format!("`{}` cannot be sent: {wanted}", self.name));
        }
        let shown: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
        Some(format!("`{}` cannot be `{shown}`: {wanted}", self.name))
    }
}

impl Kind {
    /// What would be accepted instead.
    fn refuse(self, value: &str) -> Option<String> {
        match self {
            Self::Flag => (!matches!(value, "0" | "1")).then(|| "give 0 or 1".to_owned()),
            Self::Int(least, most) => {
                let good = value.parse::<i64>().is_ok_and(|number| (least..=most).contains(&number))
                    && !value.starts_with('+');
                (!good).then(|| format!("give a whole number from {least} to {most}"))
            }
            Self::Number(least, most) => {
                let good = value.parse::<f64>().is_ok_and(|number| (least..=most).contains(&number));
                (!good).then(|| format!("give a number from {least} to {most}"))
            }
            Self::Word(words) => {
                (!words.contains(&value)).then(|| format!("give one of {}", words.join(", ")))
            }
            Self::Words(words) => {
                let good = !value.is_empty() && value.split(',').all(|word| words.contains(&word));
                (!good).then(|| format!("give some of {}", words.join(",")))
            }
            Self::Text(most) => {
                if value.contains('\0') {
                    return Some("leave out the NUL byte".to_owned());
                }
                (value.chars().count() > most).then(|| format!("give at most {most} characters"))
            }
            Self::Form(form) => (!form.accepts(value)).then(|| format!("give {}", form.says())),
            Self::Secret(least, most) => {
                let good = (least..=most).contains(&value.chars().count()) && !value.contains('\0');
                (!good).then(|| format!("give {least} to {most} characters, no NUL byte among them"))
            }
        }
    }
}

impl Form {
    fn accepts(self, text: &str) -> bool {
        let all = |allowed: fn(u8) -> bool| text.bytes().all(allowed);
        match self {
            Self::ConfigId => (2..=40).contains(&text.len()) && is_config_id(text),
            Self::Digest => (1..=40).contains(&text.len()) && text != "0" && all(|b| b.is_ascii_hexdigit()),
            Self::Vmid => is_vmid(text),
            Self::VmidList => !text.is_empty() && text.split(',').all(is_vmid),
            Self::Node => crate::value::ids::is_node_name(text),
            Self::Storage => is_storage(text),
            Self::Volume => text.split_once(':').is_some_and(|(storage, volume)| {
                text.len() <= 255
                    && is_storage(storage)
                    && !volume.is_empty()
                    && is_line(volume)
                    && !volume.contains("..")
            }),
            Self::Size => is_size(text),
            Self::Pool => {
                !text.is_empty()
                    && text.split('/').count() <= 3
                    && text.split('/').all(|part| {
                        !part.is_empty()
                            && part
                                .bytes()
                                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                            && !matches!(part, "." | "..")
                    })
            }
            Self::Dns => {
                (1..=253).contains(&text.len())
                    && text.split('.').all(|label| {
                        (1..=63).contains(&label.len())
                            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                            && !label.starts_with('-')
                            && !label.ends_with('-')
                    })
            }
            Self::Device => text.strip_prefix("/dev/").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/')
            }),
            Self::Names => {
                !text.is_empty()
                    && text.split(',').all(|name| {
                        !name.is_empty()
                            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                    })
            }
            Self::Tags => text.split(';').all(|tag| {
                tag.bytes().enumerate().all(|(at, b)| {
                    b.is_ascii_alphanumeric() || b == b'_' || (at > 0 && matches!(b, b'-' | b'+' | b'.'))
                })
            }),
            Self::Retention => is_retention(text),
            Self::QemuDrive => is_qemu_drive(text),
            Self::QemuVolume => is_qemu_drive(text) || is_numbered(text, "unused", 255),
            Self::LxcDrive => text == "rootfs" || is_numbered(text, "mp", 255),
            Self::LxcVolume => {
                text == "rootfs" || is_numbered(text, "mp", 255) || is_numbered(text, "unused", 255)
            }
            Self::AclPath => {
                (1..=512).contains(&text.len())
                    && text.starts_with('/')
                    && all(|b| {
                        b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'@' | b':')
                    })
                    && !text.split('/').any(|part| matches!(part, "." | ".."))
            }
            Self::User => {
                (3..=64).contains(&text.len())
                    && text.split_once('@').is_some_and(|(user, rest)| {
                        let (realm, token) = rest.split_once('!').unwrap_or((rest, "aa"));
                        !user.is_empty()
                            && user.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b':' | b'/'))
                            && is_name(realm)
                            && is_name(token)
                    })
            }
            Self::Upid => text.parse::<crate::Upid>().is_ok(),
            Self::Url => {
                (text.starts_with("https://") || text.starts_with("http://"))
                    && is_line(text)
                    && !text.contains(' ')
            }
            Self::FileName => {
                (1..=255).contains(&text.len())
                    && !text.contains(['/', '\\'])
                    && is_line(text)
                    && !matches!(text, "." | "..")
            }
            Self::Line => is_line(text),
        }
    }

    const fn says(self) -> &'static str {
        match self {
            Self::ConfigId => "2 to 40 letters, digits, `_` or `-`, starting with a letter",
            Self::Digest => "the 40 hex digits of the digest that was read",
            Self::Vmid => "a number from 100 to 999999999",
            Self::VmidList => "numbers from 100 to 999999999, comma separated",
            Self::Node => "a node's short host name",
            Self::AclPath => "a path rights are granted on, such as `/vms/100`",
            Self::User => "`user@realm` or `user@realm!token`",
            Self::Storage => "a storage's name: letters, digits, `-`, `_`, `.`, starting with a letter",
            Self::Volume => "a volume, `storage:name`",
            Self::Size => "a size such as `10G`",
            Self::Pool => "a pool's name",
            Self::Dns => "a host name",
            Self::Device => "a device such as `/dev/sda`",
            Self::Names => "names of options, comma separated",
            Self::Tags => "tags, semicolon separated",
            Self::Retention => {
                "`keep-all=1` or some of keep-last, -hourly, -daily, -weekly, -monthly, -yearly, such as `keep-last=3,keep-daily=7`"
            }
            Self::QemuDrive => {
                "ide0 to ide3, sata0 to sata5, scsi0 to scsi30, virtio0 to virtio15, efidisk0 or tpmstate0"
            }
            Self::QemuVolume => {
                "ide0 to ide3, sata0 to sata5, scsi0 to scsi30, virtio0 to virtio15, efidisk0, tpmstate0 or unused0 to unused255"
            }
            Self::LxcDrive => "rootfs or mp0 to mp255",
            Self::LxcVolume => "rootfs, mp0 to mp255 or unused0 to unused255",
            Self::Upid => "a UPID",
            Self::Url => "an address that starts with http:// or https://",
            Self::FileName => "a file's name without a path",
            Self::Line => "one line without control characters",
        }
    }
}

fn is_config_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_vmid(text: &str) -> bool {
    text.parse::<crate::Vmid>().is_ok()
}

pub(crate) fn is_storage(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `stem` and a number up to `most`, written in one way only.
pub(crate) fn is_numbered(text: &str, stem: &str, most: u32) -> bool {
    text.strip_prefix(stem).is_some_and(|number| {
        number.bytes().all(|b| b.is_ascii_digit())
            && (number == "0" || !number.starts_with('0'))
            && number.parse::<u32>().is_ok_and(|number| number <= most)
    })
}

pub(crate) fn is_qemu_drive(text: &str) -> bool {
    matches!(text, "efidisk0" | "tpmstate0")
        || is_numbered(text, "ide", 3)
        || is_numbered(text, "sata", 5)
        || is_numbered(text, "scsi", 30)
        || is_numbered(text, "virtio", 15)
}

fn is_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A realm's or a token's name: a letter, then at least one of letters, digits, `.`, `-`, `_`.
fn is_name(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// `\+?\d+(\.\d+)?[KMGT]?`.
fn is_size(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |text: &str| (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    number(whole) && number(part)
}

fn is_retention(text: &str) -> bool {
    const KEYS: [&str; 7] =
        ["keep-all", "keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly"];
    let mut seen = Vec::new();
    text.split(',').all(|part| {
        let Some((key, number)) = part.split_once('=') else { return false };
        let new = !seen.contains(&key);
        seen.push(key);
        new && KEYS.contains(&key)
            && (1..=9).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
            && (key != "keep-all" || matches!(number, "0" | "1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names() {
        let net = form("net[n]", Form::Line);
        for good in ["net0", "net31", "net255"] {
            assert!(net.is(good), "{good}");
        }
        for bad in ["net", "net[n]", "net00", "net1234", "net-1", "nets0", "xnet0", ""] {
            assert!(!net.is(bad), "{bad}");
        }
        assert!(flag("start").is("start") && !flag("start").is("start0"));
    }

    #[test]
    fn what_the_schema_refuses_is_refused_here() {
        use Form::*;
        let good: &[(Form, &[&str])] = &[
            (ConfigId, &["ab", "pre-update_1"]),
            (Digest, &["da39a3ee5e6b4b0d3255bfef95601890afd80709", "0123"]),
            (VmidList, &["100", "100,101"]),
            (Storage, &["local", "local-lvm", "nfs.1"]),
            (Volume, &["local:iso/a.iso", "pbs:backup/vm/100/2026-01-31T01:00:05Z"]),
            (Size, &["10", "10G", "+1.5T", "512M"]),
            (Pool, &["lab", "a/b/c"]),
            (Dns, &["web-1", "a.b.example"]),
            (Device, &["/dev/sda", "/dev/nvme0n1", "/dev/disk/x"]),
            (Names, &["net0", "protection,net1"]),
            (Tags, &["", "a;b-1", "prod"]),
            (Retention, &["keep-all=1", "keep-last=3,keep-daily=7"]),
            (QemuDrive, &["scsi0", "scsi30", "ide3", "sata5", "virtio15", "efidisk0", "tpmstate0"]),
            (QemuVolume, &["scsi0", "unused255"]),
            (LxcDrive, &["rootfs", "mp0", "mp255"]),
            (LxcVolume, &["rootfs", "unused0"]),
            (Url, &["https://example.org/a.iso"]),
            (FileName, &["a.iso", "ubuntu 24.iso"]),
            (AclPath, &["/", "/vms/100", "/sdn/zones/localnetwork/vmbr0"]),
            (User, &["root@pam", "tester@pve!full"]),
            (Line, &["virtio=BC:24:11:00:00:01,bridge=vmbr0", ""]),
        ];
        for (form, values) in good {
            for value in *values {
                assert!(form.accepts(value), "{form:?} {value}");
            }
        }
        let bad: &[(Form, &[&str])] = &[
            (ConfigId, &["", "a", "1a", "a.b", "a/b", "ä1", &"a".repeat(41)[..0]]),
            (Digest, &["", "0", "zz39a3ee5e6b4b0d3255bfef95601890afd80709", &"a".repeat(41)]),
            (VmidList, &["", "99", "100,", "100;101", "100, 101"]),
            (Storage, &["", "a", "-a", "a-", "a/b", "a:b", "../x"]),
            (
                Volume,
                &[
                    "",
                    "local",
                    "local:",
                    ":x",
                    "local:../../etc/passwd",
                    "local:a\nb",
                    &format!("local:{}", "a".repeat(250)),
                ],
            ),
            (Size, &["", "G", "-1G", "1e9", "10GB", "++1", "1.G", "1..5"]),
            (Pool, &["", "/", "a//b", "..", "a/../b", "a/b/c/d"]),
            (Dns, &["", ".", "a..b", "-a", "a_b", "ä"]),
            (Device, &["", "/dev/", "sda", "/dev/../etc", "/dev/disk/by-id/x y"]),
            (Names, &["", ",", "a,,b", "a b"]),
            (Tags, &["-a", "a b", "ä", "a,b"]),
            (Retention, &["", "keep-all", "keep-all=2", "keep-last=-1", "keep-last=1,keep-last=2", "all=1"]),
            (QemuDrive, &["", "scsi", "scsi31", "scsi00", "ide4", "unused0", "rootfs", "efidisk1", "scsi+1"]),
            (QemuVolume, &["unused256", "mp0"]),
            (LxcDrive, &["mp256", "unused0", "rootfs0", "scsi0"]),
            (LxcVolume, &["", "unused256"]),
            (Url, &["", "ftp://x", "file:///etc", "https://a b", "http://a\n"]),
            (FileName, &["", ".", "..", "a/b", "a\\b", "a\0"]),
            (AclPath, &["", "vms/100", "/vms/../access", "/a b", "/ä"]),
            (User, &["", "root", "@pam", "a@b", "a/b@pve", "a@pve!", "a@pve!1x", "a@p\nve"]),
            (Line, &["a\nb", "a\u{7f}"]),
        ];
        for (form, values) in bad {
            for value in *values {
                assert!(!form.accepts(value), "{form:?} {value:?}");
            }
        }
    }

    #[test]
    fn kinds_and_their_words() {
        let says = |kind: Kind, value: &str| param("x", kind).refuse(value).unwrap_or_default();
        assert!(says(Kind::Flag, "true").contains("0 or 1"));
        assert!(says(Kind::Int(0, 10), "11").contains("from 0 to 10"));
        for bad in ["", "1.5", "+1", "٣", "1e1"] {
            assert!(!says(Kind::Int(0, 10), bad).is_empty(), "{bad}");
        }
        assert!(says(Kind::Number(0.0, 1.0), "NaN").contains("number"));
        assert!(says(Kind::Word(&["a", "b"]), "c").contains("a, b"));
        assert!(says(Kind::Words(&["a", "b"]), "a,c").contains("a,b"));
        assert!(says(Kind::Text(3), "äöüß").contains("3 characters"));
        assert!(says(Kind::Text(3), "a\0").contains("NUL"));
        assert_eq!(says(Kind::Text(4), "äöüß"), "");
        // A secret is not shown even where it is refused.
        let refused = says(Kind::Secret(5, 64), "abc");
        assert!(refused.contains("5 to 64") && !refused.contains("abc"), "{refused}");
        assert_eq!(says(Kind::Secret(5, 64), "abcde"), "");
        // What was given is shown on one line and cut.
        assert!(!says(Kind::Form(Form::Line), "a\nb").contains('\n'));
    }
}
