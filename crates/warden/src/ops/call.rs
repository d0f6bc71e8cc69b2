//! One call.

use std::time::Duration;

use proxmox_client::{ApiError, Client, Started, Upid};
use serde::{Deserialize, Serialize};

use super::rights::Right;
use super::{
    Target, backup, config, create, destroy, disk, power, restore, settle, snapshot, storage, volume,
};
use crate::world::Near;

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
    /// The end of a guest.
    Destroy(destroy::DestroyCall),
    /// A backup.
    Backup(backup::BackupCall),
    /// A new guest.
    Create(create::CreateCall),
    /// A new guest out of a backup.
    Restore(restore::RestoreCall),
    /// The options of a new guest.
    Settle(settle::SettleCall),
    /// A volume that nobody uses.
    Volume(volume::VolumeCall),
    /// A storage, or a template on it.
    Storage(storage::StorageCall),
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
pub(crate) trait Answers: Sync {
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
    /// What must hold right before it is sent, besides the order's guest being the one that was meant; or
    /// why it is not sent.
    fn ready(&self, _near: &Near<'_>) -> impl Future<Output = Result<(), String>> + Send {
        std::future::ready(Ok(()))
    }
    /// [`Self::judge`], where its task is known or more than Proxmox is looked at.
    fn judge_task(
        &self,
        near: &Near<'_>,
        _task: Option<&Upid>,
    ) -> impl Future<Output = Result<Judged, ApiError>> + Send {
        self.judge(near.client)
    }
    /// What its task did otherwise than was asked and did not count as a warning (`pve/facts.md` 7.3). It is
    /// told as one.
    fn asides(&self, _client: &Client, _task: &Upid) -> impl Future<Output = Vec<String>> + Send {
        std::future::ready(Vec::new())
    }
}

/// Hands each question to the subject's own type.
macro_rules! each {
    ($call:expr, $inner:ident => $answer:expr) => {
        match $call {
            Call::Power($inner) => $answer,
            Call::Snapshot($inner) => $answer,
            Call::Config($inner) => $answer,
            Call::Destroy($inner) => $answer,
            Call::Backup($inner) => $answer,
            Call::Create($inner) => $answer,
            Call::Restore($inner) => $answer,
            Call::Settle($inner) => $answer,
            Call::Volume($inner) => $answer,
            Call::Storage($inner) => $answer,
            Call::Disk($inner) => $answer,
        }
    };
}

impl Call {
    /// As a plan shows it: method, path, and what matters of the parameters.
    pub fn line(&self) -> String {
        each!(self, call => call.line())
    }

    /// Whether the guest is the same one after it, as far as its configuration tells.
    pub(crate) fn keeps_identity(&self) -> bool {
        let saved = matches!(self, Self::Backup(backup::BackupCall::Create { .. }));
        saved || matches!(self, Self::Power(_) | Self::Snapshot(_))
    }

    /// The guest that it makes, or that it goes on with after a call that made it.
    pub(crate) fn made_guest(&self) -> Option<Target> {
        match self {
            Self::Create(call) => Some(call.guest),
            Self::Restore(call) => Some(call.guest),
            Self::Settle(call) => Some(call.guest),
            Self::Power(call) => Some(call.guest),
            _ => None,
        }
    }

    /// Whether the guest has other devices after it than before, those of a snapshot.
    pub(crate) fn brings_devices_back(&self) -> bool {
        matches!(self, Self::Snapshot(call) if matches!(call.what, snapshot::SnapshotWhat::Rollback { .. }))
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

    /// Whether it may be sent right now, besides the order's guest being the one that was meant.
    pub(crate) async fn ready(&self, near: &Near<'_>) -> Result<(), String> {
        each!(self, call => call.ready(near).await)
    }

    /// Reads the world again and says whether it shows that the call was carried out.
    pub(crate) async fn judge(&self, near: &Near<'_>, task: Option<&Upid>) -> Result<Judged, ApiError> {
        each!(self, call => call.judge_task(near, task).await)
    }

    /// What its task did otherwise than was asked, without counting it as a warning.
    pub(crate) async fn asides(&self, client: &Client, task: &Upid) -> Vec<String> {
        each!(self, call => call.asides(client, task).await)
    }
}
