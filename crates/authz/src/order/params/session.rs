//! Sessions.

use protocol::text::SafeText;
use protocol::{Ed25519Key, ForwardTarget, UserName};
use serde::{Deserialize, Serialize};

use super::{Checked, Wrong};

/// Longest session, seconds.
pub const MAX_SESSION_S: u32 = 24 * 3600;
/// Shortest idle time of a session, seconds.
pub const MIN_IDLE_S: u32 = 5;
/// Most forward targets of a session.
pub const MAX_FORWARDS: usize = 16;

/// Of `session.open`: one SSH connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionParams {
    /// The one key that may log in, made for this session.
    pub key: Ed25519Key,
    /// As whom.
    pub user: UserName,
    /// What it may do.
    pub mode: SessionMode,
    /// Where it may forward to, besides; at most [`MAX_FORWARDS`], each once. Nothing listed, no forwards.
    pub forwards: Vec<ForwardTarget>,
    /// Ended after so many idle seconds, [`MIN_IDLE_S`] to [`MAX_SESSION_S`].
    pub idle_s: u32,
    /// Ended after so many seconds whatever happens, [`MIN_IDLE_S`] to [`MAX_SESSION_S`].
    pub max_s: u32,
}

/// What sshd can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "allow", rename_all = "snake_case", deny_unknown_fields)]
pub enum SessionMode {
    /// Shell, commands, sftp.
    Full {},
    /// Exactly this command, whatever is asked for.
    Exec {
        /// Given to the user's shell.
        command: SafeText,
    },
    /// Files only.
    Sftp {},
    /// Only what is in `forwards`.
    Forward {},
}

impl std::fmt::Display for SessionMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full {} => f.write_str("shell, commands and sftp"),
            Self::Exec { command } => write!(f, "the one command {:?}", command.as_str()),
            Self::Sftp {} => f.write_str("sftp only"),
            Self::Forward {} => f.write_str("forwards only"),
        }
    }
}

impl Checked for SessionParams {
    fn check(&self) -> Result<(), Wrong> {
        let targets: std::collections::BTreeSet<_> = self.forwards.iter().collect();
        let times = MIN_IDLE_S..=MAX_SESSION_S;
        if self.forwards.len() > MAX_FORWARDS || targets.len() != self.forwards.len() {
            Err(("params.forwards", "a list of at most 16, each target once"))
        } else if self.mode == (SessionMode::Forward {}) && self.forwards.is_empty() {
            Err(("params.forwards", "a list of at least one target where only forwards are allowed"))
        } else if matches!(&self.mode, SessionMode::Exec { command } if command.as_str().trim().is_empty()) {
            Err(("params.mode.command", "a command"))
        } else if !times.contains(&self.idle_s) {
            Err(("params.idle_s", "5 to 86400 (a day)"))
        } else if !times.contains(&self.max_s) {
            Err(("params.max_s", "5 to 86400 (a day)"))
        } else {
            Ok(())
        }
    }
}
