//! THE FENCE: the three things that only root's command line can do on a Proxmox host.
//!
//! **Not built yet.** This crate holds the typed requests and the refusals; the binary refuses
//! everything by name. What is decided already and will not change: exactly these three operations,
//! each with validated fields and a fixed argv, an absolute path, a cleared environment, a time limit and
//! an output limit; the signed envelope is verified here again, against root's own policy anchor and
//! nonce journal; and nothing in this crate ever opens a network connection.

use protocol::{Envelope, SnapshotName, Vmid};
use serde::{Deserialize, Serialize};

/// A disk device by kernel name: `/dev/sda`, `/dev/nvme0n1`. Nothing else reaches `smartctl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlockDevice(String);

/// A file system's UUID as `blkid` prints it: hexadecimal digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilesystemUuid(String);

/// A field of a request is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct FieldError {
    what: &'static str,
    rule: &'static str,
}

impl TryFrom<String> for BlockDevice {
    type Error = FieldError;
    fn try_from(text: String) -> Result<Self, FieldError> {
        let name = text.strip_prefix("/dev/").unwrap_or_default();
        if (2..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            Ok(Self(text))
        } else {
            Err(FieldError {
                what: "a block device",
                rule: "/dev/ and 2 to 32 lower-case letters and digits",
            })
        }
    }
}

impl From<BlockDevice> for String {
    fn from(device: BlockDevice) -> String {
        device.0
    }
}

impl TryFrom<String> for FilesystemUuid {
    type Error = FieldError;
    fn try_from(text: String) -> Result<Self, FieldError> {
        let good = (9..=36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if good {
            Ok(Self(text))
        } else {
            Err(FieldError { what: "a file system UUID", rule: "9 to 36 hexadecimal digits and hyphens" })
        }
    }
}

impl From<FilesystemUuid> for String {
    fn from(uuid: FilesystemUuid) -> String {
        uuid.0
    }
}

/// The three exceptions, from the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum PrivilegedRequest {
    /// Create a container with `keyctl` from a golden image (`pct`).
    CreateContainer {
        /// The order as it was signed.
        envelope: Envelope,
        /// The new container's number.
        vmid: Vmid,
        /// The golden image's name.
        image: SnapshotName,
    },
    /// Mount or unmount a USB disk through a templated systemd mount unit.
    UsbMount {
        /// The order as it was signed.
        envelope: Envelope,
        /// Which file system.
        filesystem: FilesystemUuid,
        /// Mount, or unmount.
        mount: bool,
    },
    /// Read SMART where the API cannot. Reads only, so it needs no order.
    Smart {
        /// Which disk.
        device: BlockDevice,
    },
}

/// Why it is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "refused", rename_all = "snake_case", deny_unknown_fields)]
pub enum PrivilegedRefusal {
    /// This version cannot.
    #[error("{what} is not built yet in this version of writ-privileged: do it by hand as root until then")]
    NotBuilt {
        /// In words.
        what: String,
    },
}

impl PrivilegedRequest {
    /// Today's answer to everything.
    pub fn refuse(&self) -> PrivilegedRefusal {
        let what = match self {
            Self::CreateContainer { .. } => "creating a container with keyctl",
            Self::UsbMount { mount: true, .. } => "mounting a USB disk",
            Self::UsbMount { mount: false, .. } => "unmounting a USB disk",
            Self::Smart { .. } => "reading SMART as root",
        };
        PrivilegedRefusal::NotBuilt { what: what.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_could_carry_something_else_are_refused() {
        for good in ["/dev/sda", "/dev/nvme0n1"] {
            assert!(BlockDevice::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in [
            "sda",
            "/dev/",
            "/dev/a",
            "/dev/../etc/shadow",
            "/dev/sda -X",
            "/dev/SDA",
            "/dev/sd\n",
            "/dev/disk/by-id/x",
        ] {
            assert!(BlockDevice::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        for good in ["0d6e5c1c-8a5b-4e57-9f3b-111111111111", "ABCD-1234"] {
            assert!(FilesystemUuid::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "x", "../../etc", "ABCD-1234\n", "ABCD 1234", &"a".repeat(37)] {
            assert!(FilesystemUuid::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn everything_is_refused_by_name() {
        let envelope = Envelope::new(b"x".to_vec().into(), vec![]);
        let requests = [
            PrivilegedRequest::CreateContainer {
                envelope: envelope.clone(),
                vmid: Vmid::try_from(300).unwrap(),
                image: "golden".parse().unwrap(),
            },
            PrivilegedRequest::UsbMount {
                envelope,
                filesystem: FilesystemUuid::try_from("ABCD-1234".to_owned()).unwrap(),
                mount: true,
            },
            PrivilegedRequest::Smart { device: BlockDevice::try_from("/dev/sda".to_owned()).unwrap() },
        ];
        for request in requests {
            assert!(request.refuse().to_string().contains("not built yet"), "{request:?}");
        }
    }
}
