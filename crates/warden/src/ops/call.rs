//! One call.

use std::time::Duration;

use proxmox_client::{ApiError, Client, Started, Upid};
use serde::{Deserialize, Serialize};

use super::rights::Right;
use super::{config, disk, power, snapshot};

/// One mutation of Proxmox, as data. Each subject has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", content = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// The run state of a guest.
    Power(power::PowerCall),
    /// A snapshot.
    Snapshot(snapshot::SnapshotCall),
    /// Options of a guest.
    Config(config::ConfigCall),
    /// A guest's disk.
    Disk(disk::DiskCall),
}

/// Which task a call starts, so that it is found again when its answer is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskName {
    /// Proxmox's task types (`pve/facts.md` 4.3); more than one where high availability has its own.
    pub types: Vec<&'static str>,
    /// What stands in the task's name (4.2).
    pub id: String,
}

/// What Proxmox did with it.
#[derive(Debug)]
pub enum Sent {
    /// It runs as a task.
    Task(Upid),
    /// It is done already, as far as Proxmox says.
    AtOnce,
}

impl From<Upid> for Sent {
    fn from(upid: Upid) -> Self {
        Self::Task(upid)
    }
}

impl From<Started> for Sent {
    fn from(started: Started) -> Self {
        match started {
            Started::Task(upid) => Self::Task(upid),
            Started::AtOnce => Self::AtOnce,
        }
    }
}

/// Whether the world shows that a call was carried out; the sentence says what was seen either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It shows it.
    Done(String),
    /// It is as it would be without the call.
    NotDone(String),
    /// Neither: something else happened, or half of it.
    Otherwise(String),
}

impl Judged {
    /// What was seen.
    pub fn seen(&self) -> &str {
        match self {
            Self::Done(seen) | Self::NotDone(seen) | Self::Otherwise(seen) => seen,
        }
    }

    /// Done, or else as if nothing had been done.
    pub fn when(done: bool, seen: String) -> Self {
        if done { Self::Done(seen) } else { Self::NotDone(seen) }
    }
}

/// What every call can answer.
pub(crate) trait Answers {
    /// As a plan shows it: method, path, and what matters of the parameters.
    fn line(&self) -> String;
    /// None: there is no task, the answer is the end.
    fn task(&self) -> Option<TaskName>;
    /// What the token must be allowed to do. Nothing: Proxmox will say.
    fn rights(&self) -> Vec<Right> {
        Vec::new()
    }
    /// How long the world may take to show it after the task has ended.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
    /// Sends it, once. An error says by its delivery whether it may have happened.
    fn send(&self, client: &Client) -> impl Future<Output = Result<Sent, ApiError>> + Send;
    /// Reads the world again.
    fn judge(&self, client: &Client) -> impl Future<Output = Result<Judged, ApiError>> + Send;
}

/// Hands each question to the subject's own type.
macro_rules! each {
    ($call:expr, $inner:ident => $answer:expr) => {
        match $call {
            Call::Power($inner) => $answer,
            Call::Snapshot($inner) => $answer,
            Call::Config($inner) => $answer,
            Call::Disk($inner) => $answer,
        }
    };
}

impl Call {
    /// As a plan shows it: method, path, and what matters of the parameters.
    pub fn line(&self) -> String {
        each!(self, call => call.line())
    }

    /// None: there is no task, the answer is the end.
    pub fn task(&self) -> Option<TaskName> {
        each!(self, call => call.task())
    }

    /// What the token must be allowed to do.
    pub fn rights(&self) -> Vec<Right> {
        each!(self, call => call.rights())
    }

    /// How long the world may take to show it after the task has ended.
    pub fn patience(&self) -> Duration {
        each!(self, call => call.patience())
    }

    /// Sends it, once. An error says by its delivery whether it may have happened.
    pub async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        each!(self, call => call.send(client).await)
    }

    /// Reads the world again and says whether it shows that the call was carried out.
    pub async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        each!(self, call => call.judge(client).await)
    }
}
