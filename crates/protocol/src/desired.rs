//! Desired state: what the operator wants of a host's guests. The operator writes TOML
//! ([`DesiredDocument`]); the hub stores a [`DesiredState`] per host under a generation.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{HostName, Sha256, SnapshotName, Tag, Vmid};

/// Most guests in one host's desired state.
pub const MAX_GUESTS: usize = 10_000;

/// Why a desired state makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// The same guest twice.
    #[error("guest {0} stands twice in the desired state: merge the two entries")]
    Duplicate(Vmid),
    /// Too many.
    #[error("{0} guests in one desired state; at most {MAX_GUESTS} are allowed")]
    TooMany(usize),
}

/// What is wanted of one guest. What is absent is not touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredGuest {
    /// Which guest.
    pub vmid: Vmid,
    /// Its name, as a guard: a guest of another name under this VMID is left alone.
    pub name: String,
    /// Shall it run?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// Exactly these tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<Tag>>,
    /// At least these snapshots.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub snapshots: BTreeSet<SnapshotName>,
}

/// What is wanted of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredState {
    /// Guests, by VMID, each once (made so by [`DesiredState::check`]).
    #[serde(default, rename = "guest")]
    pub guests: Vec<DesiredGuest>,
}

impl DesiredState {
    /// Sorts by VMID and refuses duplicates.
    pub fn check(mut self) -> Result<Self, DesiredError> {
        if self.guests.len() > MAX_GUESTS {
            return Err(DesiredError::TooMany(self.guests.len()));
        }
        self.guests.sort_by_key(|guest| guest.vmid);
        match self.guests.windows(2).find(|pair| pair[0].vmid == pair[1].vmid) {
            Some(pair) => Err(DesiredError::Duplicate(pair[0].vmid)),
            None => Ok(self),
        }
    }

    /// Identifies the content: the same generation with another hash is refused.
    pub fn hash(&self) -> Sha256 {
        let json = serde_json::to_vec(self).expect("a struct of strings, numbers and lists serialises");
        Sha256::of(&json)
    }
}

/// The operator's file: `[host.NAME]` with `[[host.NAME.guest]]` entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredDocument {
    /// By host name.
    #[serde(default)]
    pub host: BTreeMap<HostName, DesiredState>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_toml;

    #[test]
    fn the_documented_file_parses() {
        let text = r#"
            [[host.web1.guest]]
            vmid = 101
            name = "db"
            running = true
            tags = ["prod", "managed"]
            snapshots = ["before-update"]

            [[host.web1.guest]]
            vmid = 100
            name = "web"
        "#;
        let document: DesiredDocument = parse_toml("hosts.toml", text).unwrap();
        let state = document.host.into_values().next().unwrap().check().unwrap();
        assert_eq!(state.guests.iter().map(|g| g.vmid.get()).collect::<Vec<_>>(), [100, 101]);
        assert_eq!(state.guests[0].running, None);
    }

    #[test]
    fn bad_documents_are_refused() {
        let cases = [
            ("[[host.web1.guest]]\nvmid = 101\nname = \"db\"\nrunnning = true", "did you mean `running`"),
            ("[[host.web1.guest]]\nvmid = 99\nname = \"db\"", "VMID"),
            ("[[host.\"a b\".guest]]\nvmid = 101\nname = \"db\"", "HostName"),
            ("[[host.web1.guest]]\nvmid = 101\nname = \"db\"\nsnapshots = [\"current\"]", "SnapshotName"),
            ("[[host.web1.guest]]\nname = \"db\"", "vmid"),
        ];
        for (text, says) in cases {
            let error = parse_toml::<DesiredDocument>("hosts.toml", text).unwrap_err().to_string();
            assert!(error.contains(says), "{error:?} should say {says:?}");
        }
        let twice: DesiredState =
            parse_toml("x", "[[guest]]\nvmid=101\nname=\"a\"\n[[guest]]\nvmid=101\nname=\"b\"").unwrap();
        assert!(matches!(twice.check(), Err(DesiredError::Duplicate(v)) if v.get() == 101));
    }
}
