//! How far an order has come, as it is kept: this service's part of [`anchored::ledger`].

use anchored::{Story, Who};
use authz::RefusalCode;
use protocol::privileged::PrivilegedAnswer;
use serde::{Deserialize, Serialize};

/// The service, in words.
pub const WHO: Who = Who {
    name: "service",
    unit: "writ-privileged",
    config: "privileged.toml",
    what: "order",
    not_set_up: "what only root can do is not set up on this host",
    code: RefusalCode::Privileged,
};

/// How far an order has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// All checks passed. Whether the nonce is burned is for the journal to say; nothing was started.
    Accepted {},
    /// A program is about to be started. Whether it was, nobody knows who finds this after a crash.
    Starting {},
    /// It was done.
    Did {
        /// What was seen.
        seen: String,
    },
    /// A program said no.
    Failed {
        /// In its words.
        why: String,
    },
    /// It will never be done.
    NotStarted {
        /// Why.
        why: String,
    },
    /// Nobody can say what came of it.
    Unknown {
        /// What is known.
        why: String,
    },
}

impl Stage {
    /// The last answer about an order; none while it is under way.
    pub fn answer(&self) -> Option<PrivilegedAnswer> {
        Some(match self {
            Self::Accepted {} | Self::Starting {} => return None,
            Self::Did { seen } => PrivilegedAnswer::Did { seen: seen.clone() },
            Self::Failed { why } => PrivilegedAnswer::Failed { why: why.clone() },
            Self::NotStarted { why } => PrivilegedAnswer::NotStarted { why: why.clone() },
            Self::Unknown { why } => PrivilegedAnswer::Unknown { why: why.clone() },
        })
    }
}

impl Story for Stage {
    const WHO: Who = WHO;
    const DIRECTORY: &'static str = "orders";
    const MAX_FILE: u64 = 64 * 1024;

    fn is_accepted(&self) -> bool {
        *self == Self::Accepted {}
    }

    fn settle(&self, _told: Option<&str>) -> Option<Self> {
        match self {
            Self::Did { .. } | Self::Failed { .. } | Self::NotStarted { .. } | Self::Unknown { .. } => None,
            Self::Accepted {} => Some(Self::NotStarted {
                why: "writ-privileged ended after it had accepted the order and before it started anything".into(),
            }),
            Self::Starting {} => Some(Self::Unknown {
                why: "writ-privileged ended while it carried out the order; a program of it may have run, and may run still: look at the host".into(),
            }),
        }
    }
}
