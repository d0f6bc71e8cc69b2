//! Scripts.

use protocol::text::SafeText;
use protocol::{Ed25519Key, EnvName, Interpreter, Sha256, UserName};
use serde::{Deserialize, Serialize};

use super::{Checked, Wrong};

/// Longest running time of a script, seconds.
pub const MAX_JOB_S: u32 = 24 * 3600;

/// Of `job.run`: one script, run once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobParams {
    /// SHA-256 of the script's bytes. They travel beside the order, sealed to the host's key.
    pub script: Sha256,
    /// Their number, 1 to [`protocol::job::MAX_SCRIPT`].
    pub script_len: u32,
    /// What reads the script.
    pub interpreter: Interpreter,
    /// Arguments after the script, at most 64.
    pub args: Vec<SafeText>,
    /// As whom it runs, with that user's groups.
    pub user: UserName,
    /// Added to a clean environment; at most 64, each name once.
    pub env: Vec<EnvVar>,
    /// Killed after so many seconds, 1 to [`MAX_JOB_S`].
    pub timeout_s: u32,
    /// Output that is kept, both streams together; bytes, up to [`protocol::job::MAX_OUTPUT`]. More is
    /// read and dropped.
    pub max_output: u32,
    /// To whom the result is sealed.
    pub result_key: Ed25519Key,
}

/// One variable of a script's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Name.
    pub name: EnvName,
    /// Value.
    pub value: SafeText,
}

impl Checked for JobParams {
    fn check(&self) -> Result<(), Wrong> {
        let names: std::collections::BTreeSet<_> = self.env.iter().map(|var| &var.name).collect();
        if !(1..=protocol::job::MAX_SCRIPT).contains(&(self.script_len as usize)) {
            Err(("params.script_len", "1 to 262144 (256 KiB)"))
        } else if self.args.len() > 64 {
            Err(("params.args", "a list of at most 64"))
        } else if self.env.len() > 64 || names.len() != self.env.len() {
            Err(("params.env", "a list of at most 64, each name once"))
        } else if !(1..=MAX_JOB_S).contains(&self.timeout_s) {
            Err(("params.timeout_s", "1 to 86400 (a day)"))
        } else if self.max_output as usize > protocol::job::MAX_OUTPUT {
            Err(("params.max_output", "at most 2097152 (2 MiB)"))
        } else {
            Ok(())
        }
    }
}
