//! Identifiers that become path segments, so they are parsed before they can.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::value::lenient;

/// A guest's number, 100 to 999 999 999. Not an identity: a destroyed guest's number is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(u32);

impl Vmid {
    /// # Errors
    /// Outside 100..=999999999.
    pub fn new(number: u32) -> Result<Self, IdError> {
        if (100..=999_999_999).contains(&number) {
            Ok(Self(number))
        } else {
            Err(IdError::Vmid { given: number.to_string() })
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Vmid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        // `parse` alone would also take "+100"; one spelling per number.
        let bad = || IdError::Vmid { given: text.chars().filter(|c| !c.is_control()).take(20).collect() };
        if !text.bytes().all(|b| b.is_ascii_digit()) || text.starts_with('0') {
            return Err(bad());
        }
        Self::new(text.parse().map_err(|_| bad())?)
    }
}

impl TryFrom<u32> for Vmid {
    type Error = IdError;

    fn try_from(number: u32) -> Result<Self, IdError> {
        Self::new(number)
    }
}

impl<'de> Deserialize<'de> for Vmid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        lenient::as_u64(&value)
            .and_then(|number| u32::try_from(number).ok())
            .and_then(|number| Self::new(number).ok())
            .ok_or_else(|| serde::de::Error::custom("not a VMID"))
    }
}

/// A virtual machine or a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestKind {
    /// A QEMU virtual machine.
    Qemu,
    /// An LXC container.
    Lxc,
}

impl GuestKind {
    /// As the API spells it in paths.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }
}

impl fmt::Display for GuestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for GuestKind {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "qemu" => Ok(Self::Qemu),
            "lxc" => Ok(Self::Lxc),
            _ => Err(IdError::GuestKind),
        }
    }
}

/// A node's name: letters, digits and inner hyphens (the UPID regex's first field).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_node_name(text) { Ok(Self(text.to_owned())) } else { Err(IdError::Node) }
    }
}

/// `[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?`, at most 63 characters.
pub(crate) fn is_node_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A snapshot's name: a letter, then letters, digits, `_`, `-`; 2 to 40 characters; none of the
/// reserved names (`pve/facts.md` 6.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SnapshotName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let shaped = (2..=40).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !shaped {
            return Err(IdError::SnapshotName);
        }
        if ["current", "pending", "vzdump"].contains(&text.to_ascii_lowercase().as_str()) {
            return Err(IdError::ReservedSnapshotName { given: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

/// Not an identifier of that kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a VMID.
    #[error("`{given}` is not a VMID: give a number from 100 to 999999999")]
    Vmid {
        /// What was given.
        given: String,
    },
    /// Neither `qemu` nor `lxc`.
    #[error("unknown guest kind: write `qemu` or `lxc`")]
    GuestKind,
    /// Not a node name.
    #[error("not a node name: give the short host name as `GET /nodes` shows it (letters, digits, hyphens)")]
    Node,
    /// Not a snapshot name.
    #[error("not a snapshot name: use 2 to 40 letters, digits, `_` or `-`, starting with a letter (no dots)")]
    SnapshotName,
    /// A name Proxmox keeps for itself.
    #[error("`{given}` is a name Proxmox reserves: choose another snapshot name")]
    ReservedSnapshotName {
        /// What was given.
        given: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmid_has_bounds_and_one_spelling() {
        assert_eq!("100".parse::<Vmid>().unwrap().get(), 100);
        assert_eq!(Vmid::new(999_999_999).unwrap().to_string(), "999999999");
        for bad in ["", "99", "1000000000", "0100", "+100", "-100", "100 ", "1e3", "٣٣٣", "100/status"] {
            assert!(bad.parse::<Vmid>().is_err(), "{bad}");
        }
        for json in ["101", "\"101\"", "101.0"] {
            assert_eq!(serde_json::from_str::<Vmid>(json).unwrap().get(), 101, "{json}");
        }
        for json in ["99", "\"\"", "null", "1e12", "-101", "[101]"] {
            assert!(serde_json::from_str::<Vmid>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn snapshot_names_cannot_climb_out_of_their_path() {
        for good in ["ab", "pre_update", "Before-2026", &"a".repeat(40)] {
            assert_eq!(good.parse::<SnapshotName>().unwrap().as_str(), good);
        }
        for bad in
            ["", "a", ".", "..", "a.b", "a/b", "%2e%2e", "1ab", "-ab", "a b", "äb", "ab\n", &"a".repeat(41)]
        {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
        for reserved in ["current", "Current", "pending", "vzdump"] {
            assert!(matches!(reserved.parse::<SnapshotName>(), Err(IdError::ReservedSnapshotName { .. })));
        }
    }

    #[test]
    fn node_names_are_host_names() {
        assert!("pve1".parse::<NodeName>().is_ok());
        for bad in ["", "-a", "a-", "a.b", "a/b", "..", &"a".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }
}
