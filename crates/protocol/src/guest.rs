//! What a guest is. VMIDs are recycled (`pve/facts.md` 5.7), so wherever something is to be done
//! to a guest it is named by VMID, kind, name **and** a fingerprint of stable facts, and whoever
//! acts re-reads them and refuses on any difference (`security.md` 2.5).

use serde::{Deserialize, Serialize};

use crate::ids::{GuestKind, SnapshotName, Vmid};

/// The stable facts of a guest, read from its configuration. Containers have no UUID, generation
/// id or creation time; for them the MAC addresses and volume ids are the identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestIdentity {
    /// `smbios1: uuid=`; made at creation, new for a clone. QEMU only.
    pub smbios_uuid: Option<String>,
    /// `vmgenid`; new after every rollback, restore and clone. QEMU only.
    pub vmgenid: Option<String>,
    /// `meta: ctime=`, unix seconds of creation. QEMU only.
    pub meta_ctime: Option<u64>,
    /// MAC addresses of all network devices, upper case, sorted.
    pub macs: Vec<String>,
    /// Volume ids of all owned volumes, sorted.
    pub volids: Vec<String>,
    /// Instance id, given by the warden when an operator puts the guest into its care; 32 lower-case hex digits.
    /// Only the warden knows it, so where it is not stated it is not compared.
    pub giid: Option<String>,
}

impl GuestIdentity {
    /// The identity from facts in whatever order and spelling they were read. The agent that
    /// reports a guest and the warden that checks it both come through here, so they agree.
    pub fn from_facts(
        smbios_uuid: Option<&str>,
        vmgenid: Option<&str>,
        meta_ctime: Option<u64>,
        macs: impl IntoIterator<Item = String>,
        volids: impl IntoIterator<Item = String>,
    ) -> Self {
        let sorted = |items: &mut dyn Iterator<Item = String>| -> Vec<String> {
            items.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
        };
        Self {
            smbios_uuid: smbios_uuid.map(str::to_ascii_lowercase),
            vmgenid: vmgenid.map(str::to_ascii_lowercase),
            meta_ctime,
            macs: sorted(&mut macs.into_iter().map(|mac| mac.to_ascii_uppercase())),
            volids: sorted(&mut volids.into_iter()),
            giid: None,
        }
    }

    /// The names of the facts that differ. Empty: the same guest, as far as can be told.
    pub fn differences(&self, now: &Self) -> Vec<&'static str> {
        let Self { smbios_uuid, vmgenid, meta_ctime, macs, volids, giid } = self;
        [
            (*smbios_uuid == now.smbios_uuid, "smbios_uuid"),
            (*vmgenid == now.vmgenid, "vmgenid"),
            (*meta_ctime == now.meta_ctime, "meta_ctime"),
            (*macs == now.macs, "macs"),
            (*volids == now.volids, "volids"),
            (giid.is_none() || *giid == now.giid, "giid"),
        ]
        .into_iter()
        .filter_map(|(same, name)| (!same).then_some(name))
        .collect()
    }

    /// Whether there is any fact to compare. A guest without one cannot be told from another.
    pub fn is_empty(&self) -> bool {
        self.smbios_uuid.is_none() && self.macs.is_empty() && self.volids.is_empty()
    }
}

/// A guest as an order or a step names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestRef {
    /// Its number.
    pub vmid: Vmid,
    /// Virtual machine or container.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// `name` of a virtual machine, `hostname` of a container.
    pub name: String,
    /// Its stable facts.
    pub identity: GuestIdentity,
}

/// Whether a guest runs. Unknown is a value of its own and never counts as either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Running (for Proxmox also: paused).
    Running,
    /// Stopped.
    Stopped,
    /// Could not be read, or a word we do not know.
    Unknown,
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        })
    }
}

/// A snapshot: its name can be reused, its time and parent cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRef {
    /// Name.
    pub name: SnapshotName,
    /// `snaptime`, unix seconds.
    pub time: u64,
    /// Name of the snapshot before it; none for the first.
    pub parent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_counts() {
        let old = GuestIdentity {
            smbios_uuid: Some("a".into()),
            vmgenid: Some("b".into()),
            meta_ctime: Some(1),
            macs: vec!["BC:24:11:00:00:01".into()],
            volids: vec!["local-lvm:vm-100-disk-0".into()],
            giid: None,
        };
        assert!(old.differences(&old).is_empty());
        let all = ["smbios_uuid", "vmgenid", "meta_ctime", "macs", "volids"];
        assert_eq!(old.differences(&GuestIdentity::default()), all);
        // An instance id that nobody stated is not compared; one that was stated must be the same.
        let given = |giid: Option<&str>| GuestIdentity { giid: giid.map(str::to_owned), ..old.clone() };
        assert!(old.differences(&given(Some("x"))).is_empty());
        assert!(given(Some("x")).differences(&given(Some("x"))).is_empty());
        assert_eq!(given(Some("x")).differences(&given(Some("y"))), ["giid"]);
        assert_eq!(given(Some("x")).differences(&old), ["giid"]);
        assert!(GuestIdentity::default().is_empty());
    }
}
