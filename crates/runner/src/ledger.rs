//! How far a script has come, as it is kept: the runner's part of [`anchored::ledger`]. The file says STARTED,
//! with that by which the processes are found, as soon as the script runs.

use std::collections::BTreeMap;
use std::path::Path;

use anchored::{Story, Who};
use authz::RefusalCode;
use protocol::job::MAX_SEALED_RESULT;
use protocol::runner::RunnerAnswer;
use protocol::{Bytes, Sha256};
use serde::{Deserialize, Serialize};

use crate::engine::Leftover;

pub use anchored::LedgerError;

/// The runner, in words.
pub const WHO: Who = Who {
    name: "runner",
    unit: "writ-runner",
    config: "runner.toml",
    what: "script",
    not_set_up: "scripts and sessions are not set up on this host",
    code: RefusalCode::Runner,
};

/// The runner's ledger.
pub type Ledger = anchored::Ledger<Stage>;

/// How far a script has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// All checks passed. Whether the nonce is burned is for the journal to say; the script has not run.
    Accepted {},
    /// It is about to run. Whether it did, nobody knows who finds this after a crash.
    Starting {},
    /// It runs, or did when this was written.
    Started {
        /// By what its processes are found.
        leftover: Leftover,
    },
    /// It ended, and here is the result.
    Ended {
        /// Sealed.
        sealed: Bytes,
        /// Milliseconds.
        duration_ms: u64,
    },
    /// It will never run.
    NotStarted {
        /// Why.
        why: String,
    },
    /// It ran, and nobody can say what came of it.
    Unknown {
        /// What is known.
        why: String,
    },
}

impl Stage {
    /// The last answer about a script; none while it is under way.
    pub fn answer(&self) -> Option<RunnerAnswer> {
        Some(match self {
            Self::Accepted {} | Self::Starting {} | Self::Started { .. } => return None,
            Self::Ended { sealed, duration_ms } => {
                RunnerAnswer::Ended { sealed: sealed.clone(), duration_ms: *duration_ms }
            }
            Self::NotStarted { why } => RunnerAnswer::NotStarted { why: why.clone() },
            Self::Unknown { why } => RunnerAnswer::Unknown { why: why.clone() },
        })
    }
}

impl Story for Stage {
    const WHO: Who = WHO;
    const DIRECTORY: &'static str = "jobs";
    /// The longest sealed result as base64, and a little JSON.
    const MAX_FILE: u64 = (MAX_SEALED_RESULT / 3 * 4 + 64 * 1024) as u64;

    fn is_accepted(&self) -> bool {
        *self == Self::Accepted {}
    }

    fn settle(&self, told: Option<&str>) -> Option<Self> {
        Some(match self {
            Self::Ended { .. } | Self::NotStarted { .. } | Self::Unknown { .. } => return None,
            Self::Accepted {} => Self::NotStarted {
                why: "the runner ended after it had accepted the order and before it started the script".into(),
            },
            Self::Starting {} => Self::Unknown {
                why: "the runner ended while it started the script; if the script ran, it was ended with the runner, and its output is lost".into(),
            },
            Self::Started { .. } => {
                let killed = told.unwrap_or("its processes were not looked for");
                Self::Unknown {
                    why: format!("the runner ended while the script ran, and its output is lost; {killed}"),
                }
            }
        })
    }
}

/// Kills what scripts left running that an earlier runner started, and says in words what came of it.
/// Needs no anchor and no journal: also a runner that refuses everything leaves nothing running. Blocks.
pub fn kill_leftovers(directory: &Path) -> BTreeMap<Sha256, String> {
    let jobs = anchored::Stories::<Stage>::new(directory);
    let mut told = BTreeMap::new();
    for op in jobs.entries().into_iter().flatten().flatten() {
        // What cannot be read closes the ledger later on.
        if let Ok(Some(Stage::Started { leftover })) = jobs.read(&op) {
            let killed = leftover.kill();
            tracing::warn!(%op, ?killed, "a script of an earlier runner was ended");
            told.insert(op, crate::jobs::tell_killed(&killed));
        }
    }
    told
}

#[cfg(test)]
mod tests;
