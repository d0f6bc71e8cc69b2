//! The unix socket of `writ-privileged`, which does the three things on a Proxmox host that only root's
//! command line can do. Frames as in [`crate::local`]; one request a connection; only the warden may ask.
//! Two of them are signed orders, handed over as they were signed and verified there again; the third only reads.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::envelope::{Bytes, Envelope};
use crate::ids::{Ed25519Key, HostId, IdError, Sha256, name_id, spelled};
use crate::runner::AnchorStatus;

/// Longest text of an answer, bytes: what a program said is cut to it.
pub const MAX_SAID: usize = 2048;
/// Longest SMART reading, bytes.
pub const MAX_SMART: usize = 256 * 1024;

name_id!(
    /// A whole disk by the kernel's name: `/dev/sda`, `/dev/nvme0n1`. No partition, no link.
    BlockDevice, "/dev/sdX (1 to 3 lower-case letters) or /dev/nvmeXnY (1 to 3 digits each)",
    |text| {
        let digits = |text: &str| (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.strip_prefix("/dev/").is_some_and(|name| {
            name.strip_prefix("sd").is_some_and(|rest| {
                (1..=3).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_lowercase())
            }) || name
                .strip_prefix("nvme")
                .and_then(|rest| rest.split_once('n'))
                .is_some_and(|(controller, namespace)| digits(controller) && digits(namespace))
        })
    }
);

impl BlockDevice {
    /// `sda`, without the directory.
    pub fn name(&self) -> &str {
        self.as_str().strip_prefix("/dev/").unwrap_or_default()
    }
}

/// How `smartctl -d` speaks to a disk. A closed list: most USB bridges need one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SmartTransport {
    /// ATA commands through SCSI, as most USB bridges take them.
    Sat,
    /// The same, 12 bytes long.
    Sat12,
    /// The same, 16 bytes long.
    Sat16,
    /// SCSI.
    Scsi,
    /// ATA.
    Ata,
    /// NVMe.
    Nvme,
    /// NVMe behind an ASMedia USB bridge.
    SntAsmedia,
    /// NVMe behind a JMicron USB bridge.
    SntJmicron,
    /// NVMe behind a Realtek USB bridge.
    SntRealtek,
    /// ATA behind a JMicron USB bridge.
    UsbJmicron,
    /// ATA behind a Prolific USB bridge.
    UsbProlific,
    /// ATA behind a SunplusIT USB bridge.
    UsbSunplus,
    /// ATA behind a Cypress USB bridge.
    UsbCypress,
}

impl SmartTransport {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Sat,
        Self::Sat12,
        Self::Sat16,
        Self::Scsi,
        Self::Ata,
        Self::Nvme,
        Self::SntAsmedia,
        Self::SntJmicron,
        Self::SntRealtek,
        Self::UsbJmicron,
        Self::UsbProlific,
        Self::UsbSunplus,
        Self::UsbCypress,
    ];

    /// The word after `-d`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sat => "sat",
            Self::Sat12 => "sat,12",
            Self::Sat16 => "sat,16",
            Self::Scsi => "scsi",
            Self::Ata => "ata",
            Self::Nvme => "nvme",
            Self::SntAsmedia => "sntasmedia",
            Self::SntJmicron => "sntjmicron",
            Self::SntRealtek => "sntrealtek",
            Self::UsbJmicron => "usbjmicron",
            Self::UsbProlific => "usbprolific",
            Self::UsbSunplus => "usbsunplus",
            Self::UsbCypress => "usbcypress",
        }
    }
}

/// From the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum PrivilegedRequest {
    /// How are you?
    Status {},
    /// Live by this policy, on this host. Accepted once, and only when root has written the policy's hash
    /// into `privileged.toml`; the same again is no error.
    Anchor {
        /// The policy's bytes: the host's first one.
        policy: Bytes,
        /// The policies and revocations that followed it; the one that root named must be among all of these.
        documents: Vec<Envelope>,
        /// The host.
        host_id: HostId,
        /// Its key.
        host_key: Ed25519Key,
        /// Which of its keys.
        host_key_gen: u32,
    },
    /// Judge these policies, revocations and words of freshness, in this order, and live by them.
    Policy {
        /// As they were signed.
        documents: Vec<Envelope>,
    },
    /// Carry out a signed `guest.create` from a golden image, `usb.mount` or `usb.unmount`. Answered by
    /// Committed, Started and one last answer; what was accepted goes on whether or not the warden stays.
    Order {
        /// The order as it was signed.
        envelope: Envelope,
    },
    /// What became of this order? Waits while it is carried out. Asking settles it: an order that is not known
    /// is refused from now on, should it still be on the way.
    Outcome {
        /// The order.
        op: Sha256,
    },
    /// The end is durable elsewhere: forget it.
    Forget {
        /// The order.
        op: Sha256,
    },
    /// Read a disk's SMART values without waking it.
    Smart {
        /// Which disk.
        device: BlockDevice,
        /// How to speak to it; none: `smartctl` chooses.
        transport: Option<SmartTransport>,
    },
}

/// To the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum PrivilegedAnswer {
    /// To Status.
    Status(PrivilegedStatus),
    /// To Anchor, to Policy and to Forget.
    Done {},
    /// The order passed every check and the nonce is burned.
    Committed {},
    /// The first program is about to be started.
    Started {},
    /// It was done, and as far as root can see the world shows it; last.
    Did {
        /// What was seen.
        seen: String,
    },
    /// A program said no, and what it had begun was undone as far as `why` says; last.
    Failed {
        /// In its words.
        why: String,
    },
    /// The order was accepted and no program was started; last.
    NotStarted {
        /// Why.
        why: String,
    },
    /// A program was started, and what became of it cannot be said; last.
    Unknown {
        /// What is known.
        why: String,
    },
    /// To Outcome: never accepted, and never will be; last.
    NotKnown {},
    /// To Smart.
    Smart(SmartReading),
    /// Nothing was done and no nonce burned; last.
    Refused {
        /// A refusal code of `authz`, or another short code.
        code: String,
        /// Cause and remedy.
        why: String,
    },
}

/// A disk's SMART values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmartReading {
    /// Which disk.
    pub device: BlockDevice,
    /// It sleeps and was not woken: there are no values.
    pub asleep: bool,
    /// How `smartctl` ended: a set of bits (see its manual); 0 is "read, and nothing wrong".
    pub exit: u8,
    /// The JSON object that it printed, at most [`MAX_SMART`] bytes, as it printed it. Foreign words: a disk
    /// says what it wants.
    pub json: Bytes,
}

/// What `writ-privileged` says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivilegedStatus {
    /// Its version.
    pub version: String,
    /// Whether it is root.
    pub root: bool,
    /// Present once it is anchored.
    pub anchored: Option<AnchorStatus>,
    /// Why orders are refused at the moment, if they are (a damaged journal).
    pub closed: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_request_with_free_text() {
        for bad in [
            "",
            "null",
            r#""pct""#,
            r#"{"ask":"exec","command":"reboot"}"#,
            r#"{"ask":"order","envelope":{"payload":"","sigs":[]},"args":["--force"]}"#,
            r#"{"ask":"order","envelope":"create"}"#,
            r#"{"ask":"smart","device":"/dev/sda; reboot","transport":null}"#,
            r#"{"ask":"smart","device":"/dev/sda","transport":"sat -t long"}"#,
            r#"{"ask":"smart","device":"/dev/sda","transport":"megaraid,1"}"#,
            r#"{"ask":"forget","op":"0"}"#,
        ] {
            assert!(serde_json::from_str::<PrivilegedRequest>(bad).is_err(), "{bad}");
        }
        let good = r#"{"ask":"smart","device":"/dev/sda","transport":"sat"}"#;
        serde_json::from_str::<PrivilegedRequest>(good).unwrap();
    }

    #[test]
    fn a_device_is_a_whole_disk_and_nothing_else() {
        for good in ["/dev/sda", "/dev/sdaa", "/dev/nvme0n1", "/dev/nvme12n123"] {
            assert_eq!(good.parse::<BlockDevice>().unwrap().name(), &good[5..]);
        }
        for bad in [
            "",
            "sda",
            "/dev/",
            "/dev/sd",
            "/dev/sda1",
            "/dev/sdA",
            "/dev/sdabcd",
            "/dev/nvme0",
            "/dev/nvme0n1p1",
            "/dev/nvmen1",
            "/dev/nvme0n",
            "/dev/../etc/shadow",
            "/dev/sda -X",
            "/dev/sda\n",
            "/dev/sd\u{0}a",
            "-/dev/sda",
            "/dev/disk/by-id/x",
            "/dev/mem",
            "/dev/loop0",
            "//dev/sda",
            "/dev/sda,/dev/sdb",
            "$(reboot)",
            "/dev/sdа",
        ] {
            assert!(bad.parse::<BlockDevice>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_of_the_list_cannot_be_options() {
        for transport in SmartTransport::ALL {
            let word = transport.word();
            assert!(
                word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b','),
                "{word}"
            );
        }
    }
}
