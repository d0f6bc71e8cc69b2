//! What became of a script. The runner writes this, seals it to the key that the signed order names
//! (crate `sealed`), and only the holder of that key reads it: agent, hub and warden carry sealed bytes.

use serde::{Deserialize, Serialize};

use crate::envelope::Bytes;
use crate::ids::Sha256;

/// Longest script in bytes.
pub const MAX_SCRIPT: usize = 256 * 1024;
/// Most output, both streams together, that an order may ask to keep; bytes.
pub const MAX_OUTPUT: usize = 2 * 1024 * 1024;
/// Longest sealed result in bytes: output as base64 in JSON, and the seal.
pub const MAX_SEALED_RESULT: usize = MAX_OUTPUT / 3 * 4 + 64 * 1024;

/// The end of a script, with what it printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobResult {
    /// 1.
    pub v: u32,
    /// The order.
    pub op: Sha256,
    /// How it ended.
    pub end: JobEnd,
    /// Standard output, as many bytes of it as the order lets keep.
    pub stdout: Bytes,
    /// Standard error, likewise.
    pub stderr: Bytes,
    /// There was more output than the order lets keep.
    pub truncated: bool,
    /// From start to end, milliseconds.
    pub duration_ms: u64,
    /// Processes that the script had left behind and that were killed.
    pub leftovers_killed: u32,
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case", deny_unknown_fields)]
pub enum JobEnd {
    /// By itself.
    Exited {
        /// Exit code, 0 to 255.
        code: i32,
    },
    /// By a signal that was not ours.
    Signaled {
        /// Its number.
        signal: i32,
    },
    /// Killed at the time limit.
    TimedOut {},
    /// Killed before its time, for this reason.
    Cancelled {
        /// Why, in words.
        why: String,
    },
}

impl JobEnd {
    /// As a shell would say it: the code, 128 and the signal, 124 for the time limit (as timeout(1)), 125
    /// for a script that was killed for another reason.
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code } => *code,
            Self::Signaled { signal } => 128i32.saturating_add(*signal),
            Self::TimedOut {} => 124,
            Self::Cancelled { .. } => 125,
        }
    }
}

impl std::fmt::Display for JobEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit code {code}"),
            Self::Signaled { signal } => write!(f, "killed by signal {signal}"),
            Self::TimedOut {} => f.write_str("killed at its time limit"),
            Self::Cancelled { why } => write!(f, "killed: {why}"),
        }
    }
}
