//! Parameters, typed per kind.

use protocol::text::SafeText;
use protocol::{Ed25519Key, EnvName, ForwardTarget, Interpreter, Sha256, SnapshotName, Tag, UserName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Kind, OrderError};
use crate::canonical::CanonicalError;

/// Parameters, typed per kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Params {
    /// `guest.start`
    GuestStart(NoParams),
    /// `guest.tag`
    GuestTag(TagParams),
    /// `snapshot.create`
    SnapshotCreate(SnapshotParams),
    /// `snapshot.rollback`: back to the snapshot named in the preconditions.
    SnapshotRollback(RollbackParams),
    /// `snapshot.delete`: the snapshot named in the preconditions.
    SnapshotDelete(NoParams),
    /// `job.run`
    JobRun(JobParams),
    /// `session.open`
    SessionOpen(SessionParams),
}

/// No parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Of `guest.tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagParams {
    /// All tags it shall have.
    pub tags: Vec<Tag>,
}

/// Of `snapshot.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotParams {
    /// The new snapshot's name.
    pub snapshot: SnapshotName,
}

/// Of `snapshot.rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackParams {
    /// Start the guest afterwards. (Rollback hard-stops a running guest.)
    pub start: bool,
}

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

/// Longest running time of a script, seconds.
pub const MAX_JOB_S: u32 = 24 * 3600;
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

impl JobParams {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
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

impl SessionParams {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
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

impl Params {
    /// The kind that these belong to.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::GuestStart(_) => Kind::GuestStart,
            Self::GuestTag(_) => Kind::GuestTag,
            Self::SnapshotCreate(_) => Kind::SnapshotCreate,
            Self::SnapshotRollback(_) => Kind::SnapshotRollback,
            Self::SnapshotDelete(_) => Kind::SnapshotDelete,
            Self::JobRun(_) => Kind::JobRun,
            Self::SessionOpen(_) => Kind::SessionOpen,
        }
    }

    pub(super) fn check(&self) -> Result<(), OrderError> {
        let checked = match self {
            Self::JobRun(params) => params.check(),
            Self::SessionOpen(params) => params.check(),
            Self::GuestStart(_)
            | Self::GuestTag(_)
            | Self::SnapshotCreate(_)
            | Self::SnapshotRollback(_)
            | Self::SnapshotDelete(_) => Ok(()),
        };
        checked.map_err(|(field, allowed)| OrderError::Range { kind: self.kind(), field, allowed })
    }

    pub(super) fn parse(kind: Kind, json: &str) -> Result<Self, OrderError> {
        fn typed<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, OrderError> {
            serde_json::from_str(json).map_err(|error| {
                let detail = format!("params: {}", protocol::text::printable(&error.to_string()));
                CanonicalError::Malformed { what: "order", detail }.into()
            })
        }
        Ok(match kind {
            Kind::GuestStart => Self::GuestStart(typed(json)?),
            Kind::GuestTag => Self::GuestTag(typed(json)?),
            Kind::SnapshotCreate => Self::SnapshotCreate(typed(json)?),
            Kind::SnapshotRollback => Self::SnapshotRollback(typed(json)?),
            Kind::SnapshotDelete => Self::SnapshotDelete(typed(json)?),
            Kind::JobRun => Self::JobRun(typed(json)?),
            Kind::SessionOpen => Self::SessionOpen(typed(json)?),
            other => return Err(OrderError::NotBuilt(other)),
        })
    }

    pub(super) fn to_raw(&self) -> Box<RawValue> {
        let raw = match self {
            Self::GuestStart(params) | Self::SnapshotDelete(params) => {
                serde_json::value::to_raw_value(params)
            }
            Self::GuestTag(params) => serde_json::value::to_raw_value(params),
            Self::SnapshotCreate(params) => serde_json::value::to_raw_value(params),
            Self::SnapshotRollback(params) => serde_json::value::to_raw_value(params),
            Self::JobRun(params) => serde_json::value::to_raw_value(params),
            Self::SessionOpen(params) => serde_json::value::to_raw_value(params),
        };
        raw.expect("parameters hold only strings, numbers, booleans and lists")
    }
}
