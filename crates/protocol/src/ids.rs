//! Identifiers. Each is a newtype with one spelling, so that equal things have equal bytes
//! (orders are signed over their bytes and must round-trip exactly).

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Why a piece of text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}; got {got:?}")]
pub struct IdError {
    what: &'static str,
    rule: &'static str,
    got: String,
}

impl IdError {
    pub(crate) fn new(what: &'static str, rule: &'static str, got: &str) -> Self {
        // Hostile input can be long; the error should not be.
        let got = got.chars().take(80).collect();
        Self { what, rule, got }
    }
}

/// Serde, `Display` and `FromStr` by way of the type's one spelling.
macro_rules! spelled {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.to_string()
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }
    };
}
pub(crate) use spelled;

/// Fixed-size bytes spelled as lower-case hexadecimal.
macro_rules! hex_id {
    ($(#[$doc:meta])* $type:ident, $len:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type([u8; $len]);

        impl $type {
            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }
        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError::new(stringify!($type), $rule, text);
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
                Ok(Self(bytes.try_into().map_err(|_| wrong())?))
            }
        }
        spelled!($type);
    };
}

hex_id!(
    /// A host: 128 random bits, made once on the host, kept across re-enrollment.
    HostId, 16, "32 lower-case hexadecimal digits"
);
hex_id!(
    /// What makes an order unique and usable once: 128 random bits from the signer.
    Nonce, 16, "32 lower-case hexadecimal digits"
);
hex_id!(
    /// One tunnel through a hub: 128 random bits from the hub. It names a tunnel and proves nothing.
    TunnelId, 16, "32 lower-case hexadecimal digits"
);
hex_id!(
    /// A SHA-256 digest.
    Sha256, 32, "64 lower-case hexadecimal digits"
);

impl Sha256 {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

/// An SSH key fingerprint as OpenSSH prints it: `SHA256:` and 43 base64 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a key given as its SSH wire bytes (RFC 4253 section 6.6).
    pub fn of_key_blob(blob: &[u8]) -> Self {
        Self(sha2::Sha256::digest(blob).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", BASE64_NOPAD.encode(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("Fingerprint", "SHA256: and 43 base64 characters", text);
        let b64 = text.strip_prefix("SHA256:").ok_or_else(wrong)?;
        let bytes = BASE64_NOPAD.decode(b64.as_bytes()).map_err(|_| wrong())?;
        Ok(Self(bytes.try_into().map_err(|_| wrong())?))
    }
}
spelled!(Fingerprint);

/// An Ed25519 public key in OpenSSH's spelling without a comment: `ssh-ed25519 AAAA…`. Host keys
/// and device keys are always of this type. Whether the 32 bytes are a usable point is decided
/// where a signature is checked, in `authz`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ed25519Key([u8; 32]);

impl Ed25519Key {
    const PREFIX: &'static [u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";

    /// Wraps the 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// The SSH wire form (RFC 8709 section 4).
    pub fn blob(&self) -> Vec<u8> {
        [Self::PREFIX, &self.0].concat()
    }
    /// As `ssh-keygen -lf` prints it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_key_blob(&self.blob())
    }
}

impl fmt::Display for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh-ed25519 {}", BASE64.encode(&self.blob()))
    }
}

impl FromStr for Ed25519Key {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("key", "'ssh-ed25519 ' and the base64 of an Ed25519 key", text);
        let b64 = text.strip_prefix("ssh-ed25519 ").ok_or_else(wrong)?;
        let blob = BASE64.decode(b64.as_bytes()).map_err(|_| wrong())?;
        let key = blob.strip_prefix(Self::PREFIX).ok_or_else(wrong)?;
        Ok(Self(key.try_into().map_err(|_| wrong())?))
    }
}
spelled!(Ed25519Key);

/// A name made of a small set of characters.
macro_rules! name_id {
    ($(#[$doc:meta])* $type:ident, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError::new(stringify!($type), $rule, text))
                }
            }
        }
        spelled!($type);
    };
}
pub(crate) use name_id;

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

name_id!(
    /// The name an operator gave a host in a signed statement; also used for sites and operators.
    HostName, "1 to 63 of a-z, 0-9 and '-', not at the ends", is_label
);
name_id!(
    /// A snapshot's name (pve-configid, `pve/facts.md` 6.1; `current`, `pending` and `vzdump` are
    /// Proxmox's own).
    SnapshotName,
    "2 to 40 characters, a letter first, then letters, digits, '_' and '-', and not current, pending or vzdump",
    |text| {
        (2..=40).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            && !["current", "pending", "vzdump"].contains(&text)
    }
);
name_id!(
    /// A guest tag (`pve-tag`, lower case as Proxmox stores it).
    Tag, "1 to 64 of a-z, 0-9, '_', '-', '+' and '.', starting with a-z, 0-9 or '_'",
    |text| {
        let start = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        (1..=64).contains(&text.len())
            && text.bytes().next().is_some_and(start)
            && text.bytes().all(|b| start(b) || matches!(b, b'-' | b'+' | b'.'))
    }
);

name_id!(
    /// A local account's name on a host (useradd(8), with upper case and dots as some sites use).
    UserName, "1 to 32 of a-z, A-Z, 0-9, '_', '-' and '.', starting with a letter or '_'",
    |text| {
        (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    }
);
name_id!(
    /// The program that reads a script: a path from the root, nothing relative in it.
    Interpreter, "an absolute path of at most 128 of a-z, A-Z, 0-9 and '._+-/', without '.' or '..' as a part",
    |text| {
        (2..=128).contains(&text.len())
            && text.starts_with('/')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-' | b'/'))
            && text.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
    }
);
name_id!(
    /// An environment variable that a script may be given. What changes how programs are loaded
    /// (`LD_…`) or what a shell runs first (`BASH_ENV`, `ENV`) is refused.
    EnvName, "1 to 64 of A-Z, a-z, 0-9 and '_', not starting with a digit or LD_, and not BASH_ENV, ENV or IFS",
    |text| {
        (1..=64).contains(&text.len())
            && !text.starts_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !text.starts_with("LD_")
            && !["BASH_ENV", "ENV", "IFS"].contains(&text)
    }
);
name_id!(
    /// Where a session may forward to, as sshd's `PermitOpen` takes it: `127.0.0.1:8006`,
    /// `db.example:5432`, `[::1]:8006`. No wildcards.
    ForwardTarget, "HOST:PORT with a name, an IPv4 or a bracketed IPv6 address, and a port from 1 to 65535",
    |text| {
        let Some((host, port)) = text.rsplit_once(':') else { return false };
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host_fits = match inner {
            Some(v6) => v6.parse::<core::net::Ipv6Addr>().is_ok(),
            None => {
                (1..=253).contains(&host.len())
                    && host.split('.').all(|label| {
                        (1..=63).contains(&label.len())
                            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                            && !label.starts_with('-')
                    })
            }
        };
        let port_fits = !port.starts_with('0')
            && port.len() <= 5
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0);
        host_fits && port_fits
    }
);

impl ForwardTarget {
    /// Host, without brackets, and port.
    pub fn parts(&self) -> (&str, u16) {
        // Holds since parsing.
        let (host, port) = self.0.rsplit_once(':').unwrap_or((&self.0, "0"));
        (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or_default())
    }
}

/// A guest's number, unique in its cluster at one time but **recycled**: never an identity by
/// itself (`pve/facts.md` 5.6, 5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vmid(u32);

impl Vmid {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vmid {
    type Error = IdError;
    fn try_from(number: u32) -> Result<Self, IdError> {
        if (100..=999_999_999).contains(&number) {
            Ok(Self(number))
        } else {
            Err(IdError::new("VMID", "a number from 100 to 999999999", &number.to_string()))
        }
    }
}

impl From<Vmid> for u32 {
    fn from(vmid: Vmid) -> u32 {
        vmid.0
    }
}

impl FromStr for Vmid {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("VMID", "a number from 100 to 999999999", text);
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        text.parse::<u32>().map_err(|_| wrong())?.try_into()
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The two kinds of guest, named as in Proxmox's API paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl fmt::Display for GuestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_ids_have_one_spelling() {
        let text = "00112233445566778899aabbccddeeff";
        assert_eq!(text.parse::<HostId>().unwrap().to_string(), text);
        for bad in
            ["", "0011", &text.to_uppercase(), &format!("{text}0"), &format!(" {text}"), &"é".repeat(16)]
        {
            assert!(bad.parse::<HostId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fingerprints_read_like_ssh_keygen() {
        let fp = Fingerprint::of_key_blob(b"x");
        assert_eq!(fp.to_string().parse::<Fingerprint>().unwrap(), fp);
        for bad in ["SHA256:", "MD5:00", "SHA256:=", "sha256:AAAA"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad:?}");
        }
        // The last base64 digit carries four spare bits, which must be zero: one spelling only.
        let mut text = fp.to_string();
        let last = text.pop().unwrap();
        let next = char::from(last as u8 + 1);
        text.push(next);
        assert!(
            text.parse::<Fingerprint>().is_err_and(|_| true) || text.parse::<Fingerprint>().unwrap() != fp
        );
    }

    #[test]
    fn names_refuse_what_proxmox_refuses() {
        for good in ["ab", "before_update-2", "A1"] {
            assert!(good.parse::<SnapshotName>().is_ok(), "{good}");
        }
        for bad in ["a", "1a", "a.b", "current", "a/b", "ab\n", "../x", &"a".repeat(41)] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
        for bad in ["", "-x", "A", "a;b", "a b"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        for bad in ["99", "+100", "0x64", "1000000000", "", " 100"] {
            assert!(bad.parse::<Vmid>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Vmid>("99").is_err());
    }

    #[test]
    fn names_for_scripts_and_sessions_hold_no_tricks() {
        for bad in ["", "-rf", "0day", "a b", "root\n", "a:b", "a/b", "$x", &"a".repeat(33)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
        for bad in
            ["", "/", "sh", "./sh", "/bin/../sh", "/bin//sh", "/bin/sh ", "/bin/sh;x", "/bin/", "/bin/."]
        {
            assert!(bad.parse::<Interpreter>().is_err(), "{bad:?}");
        }
        for bad in ["", "LD_PRELOAD", "ENV", "1A", "A-B", "A=B", "IFS"] {
            assert!(bad.parse::<EnvName>().is_err(), "{bad:?}");
        }
        for bad in [
            "", ":22", "*:22", "a:*", "a:0", "a:65536", "a:022", "a:22 ", "::1:22", "[::1]", "[x]:22",
            "-a:22", "a b:22", "a,b:22", "a..b:22", "a:+2", "a\":22",
        ] {
            assert!(bad.parse::<ForwardTarget>().is_err(), "{bad:?}");
        }
        for (good, parts) in [
            ("127.0.0.1:8006", ("127.0.0.1", 8006)),
            ("[::1]:22", ("::1", 22)),
            ("db.example:5432", ("db.example", 5432)),
        ] {
            assert_eq!(good.parse::<ForwardTarget>().unwrap().parts(), parts);
        }
        assert!("root".parse::<UserName>().is_ok() && "/usr/bin/python3.11".parse::<Interpreter>().is_ok());
    }
}
