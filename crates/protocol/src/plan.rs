//! Steps: what the agent may ask the warden to do without a signature, and the plan that says so.
//! A plan is data; it leaves nothing to decide while it is carried out, and it also says what it
//! waits for.

use serde::{Deserialize, Serialize};

use crate::guest::GuestRef;
use crate::ids::{SnapshotName, Tag, Vmid};

/// One unsigned, benign change. The warden checks every one against host-local bounds and does
/// not trust the agent's reading of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Start a stopped guest.
    Start {
        /// Which.
        guest: GuestRef,
    },
    /// Replace the guest's tags.
    SetTags {
        /// Which.
        guest: GuestRef,
        /// Digest of the configuration that was read: compare-and-set.
        digest: String,
        /// All tags it shall have, sorted.
        tags: Vec<Tag>,
    },
    /// Take a snapshot (without memory).
    SnapshotCreate {
        /// Which.
        guest: GuestRef,
        /// Its new name.
        snapshot: SnapshotName,
    },
}

impl Step {
    /// The guest that it changes.
    pub fn guest(&self) -> &GuestRef {
        match self {
            Self::Start { guest } | Self::SetTags { guest, .. } | Self::SnapshotCreate { guest, .. } => guest,
        }
    }

    /// The order kind it corresponds to.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "guest.start",
            Self::SetTags { .. } => "guest.tag",
            Self::SnapshotCreate { .. } => "snapshot.create",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let guest = self.guest();
        write!(f, "{} {} {} ({})", self.kind(), guest.kind, guest.vmid, guest.name)?;
        match self {
            Self::Start { .. } => Ok(()),
            Self::SetTags { tags, .. } => {
                let tags: Vec<_> = tags.iter().map(Tag::as_str).collect();
                write!(f, " to {}", if tags.is_empty() { "none".into() } else { tags.join(", ") })
            }
            Self::SnapshotCreate { snapshot, .. } => write!(f, " as {snapshot}"),
        }
    }
}

/// Something wanted that no unsigned step can bring about now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The guest.
    pub vmid: Vmid,
    /// What is wanted.
    pub want: String,
    /// What has to happen first: a signature, an operator, another reading.
    pub needs: String,
}

/// What to do next, for one generation of the desired state and one reading of the world.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Of the desired state; 0 while there is none.
    pub generation: u64,
    /// In the order in which they are carried out.
    pub steps: Vec<Step>,
    /// What cannot be done now.
    pub waiting: Vec<Waiting>,
}

impl Plan {
    /// Whether everything wanted is so.
    pub fn is_converged(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_empty()
    }
}
