//! The run state of a guest.

use std::time::Duration;

use authz::RefusalCode;
use authz::order::{Order, Params};
use authz::world::Refused;
use protocol::{GuestKind, RunState};
use proxmox_client::{ApiError, Client, Shutdown};
use serde::{Deserialize, Serialize};

use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::rights::{self, Right};
use super::{Target, lock_of, not_yet};
use crate::world::{Boot, Observed, client_kind, client_vmid, observe};

/// A change of the run state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerCall {
    /// Of which guest.
    pub guest: Target,
    /// What.
    pub to: Power,
}

/// What a guest is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Power {
    /// Start.
    Start {},
    /// The plug is pulled.
    Stop {},
    /// It is asked to shut down, and stopped when it takes too long if `force`.
    Shutdown {
        /// How long it may take.
        timeout_s: u32,
        /// Pull the plug then.
        force: bool,
    },
    /// Down and up again.
    Reboot {
        /// How long the way down may take.
        timeout_s: u32,
        /// The process that goes. A reboot ends in the state that it began in; this tells them apart.
        was: Option<Boot>,
    },
    /// It stands still and keeps its memory.
    Suspend {},
    /// It goes on.
    Resume {},
}

/// How long a guest that was shut down for a reboot may take to be started again.
const UP_AGAIN: Duration = Duration::from_secs(60);

/// Of an order about power.
pub(super) fn call(order: &Order, guest: Target) -> Result<Call, Refused> {
    let to = match &order.params {
        Params::GuestStart(_) => Power::Start {},
        Params::GuestStop(_) => Power::Stop {},
        Params::GuestShutdown(params) => Power::Shutdown { timeout_s: params.timeout_s, force: params.force },
        Params::GuestReboot(params) => Power::Reboot { timeout_s: params.timeout_s, was: None },
        Params::GuestResume(_) => Power::Resume {},
        Params::GuestSuspend(params) if params.to_disk => {
            // Needs VM.Config.Disk and a state storage, and Proxmox clears the lock only for root.
            let why = "suspending to disk leaves a lock that only root can clear, so Writ does not do it: shut the guest down, or pause it";
            return Err((RefusalCode::Kind, why.to_owned()));
        }
        Params::GuestSuspend(_) => Power::Suspend {},
        _ => return Err(not_yet(order)),
    };
    Ok(Call::Power(PowerCall { guest, to }))
}

/// Start it.
pub(super) fn start(guest: Target) -> Call {
    Call::Power(PowerCall { guest, to: Power::Start {} })
}

/// Pull the plug.
pub(super) fn stop(guest: Target) -> Call {
    Call::Power(PowerCall { guest, to: Power::Stop {} })
}

impl PowerCall {
    /// Pure: whether the guest is what it was told to be.
    pub fn judge_seen(&self, seen: &Observed) -> Judged {
        let lock = lock_of(seen);
        let now = if seen.paused { "paused".to_owned() } else { seen.state.to_string() };
        let (wanted, before) = match self.to {
            Power::Start {} => (RunState::Running, RunState::Stopped),
            Power::Stop {} | Power::Shutdown { .. } => (RunState::Stopped, RunState::Running),
            Power::Reboot { was, .. } if seen.state == RunState::Running => {
                return rebooted(was, seen.boot, &lock);
            }
            Power::Reboot { .. } => {
                return Judged::Otherwise(format!(
                    "the guest went down and did not come up: it is {now}{lock}"
                ));
            }
            // A container does not tell; its task does.
            Power::Suspend {} | Power::Resume {} if seen.kind == GuestKind::Lxc => {
                return Judged::when(seen.state == RunState::Running, format!("the guest is {now}{lock}"));
            }
            Power::Suspend {} => return Judged::when(seen.paused, format!("the guest is {now}{lock}")),
            Power::Resume {} => {
                let runs = seen.state == RunState::Running && !seen.paused;
                return Judged::when(runs, format!("the guest is {now}{lock}"));
            }
        };
        match seen.state {
            state if state == wanted => Judged::Done(match wanted {
                RunState::Running => "the guest runs".to_owned(),
                _ => format!("the guest is {now}"),
            }),
            state if state == before => Judged::NotDone(format!("the guest is {now}{lock}")),
            _ => Judged::Otherwise(format!("the guest is {now}{lock}")),
        }
    }
}

/// Whether a running guest was rebooted: it is another process, or at least a younger one.
fn rebooted(was: Option<Boot>, now: Option<Boot>, lock: &str) -> Judged {
    match (was, now) {
        (Some(was), Some(now)) if was.pid.is_some() && now.pid.is_some() => {
            let pid = |boot: Boot| boot.pid.map_or_else(String::new, |pid| pid.to_string());
            match was.pid == now.pid {
                true => Judged::NotDone(format!("the guest runs as process {} as before{lock}", pid(was))),
                false => Judged::Done(format!(
                    "the guest runs as process {} instead of {}, for {} s{lock}",
                    pid(now),
                    pid(was),
                    now.uptime_s
                )),
            }
        }
        (Some(was), Some(now)) if now.uptime_s < was.uptime_s => {
            Judged::Done(format!("the guest runs for {} s only{lock}", now.uptime_s))
        }
        (Some(_), Some(now)) => {
            Judged::NotDone(format!("the guest runs for {} s, and was not started again{lock}", now.uptime_s))
        }
        _ => Judged::Otherwise(format!("the guest runs, and Proxmox does not say since when{lock}")),
    }
}

impl Answers for PowerCall {
    fn line(&self) -> String {
        let at = self.guest;
        match self.to {
            Power::Start {} => format!("POST {at}/status/start"),
            Power::Stop {} => format!("POST {at}/status/stop"),
            Power::Shutdown { timeout_s, force } => {
                format!("POST {at}/status/shutdown timeout={timeout_s} forceStop={}", u8::from(force))
            }
            Power::Reboot { timeout_s, .. } => format!("POST {at}/status/reboot timeout={timeout_s}"),
            Power::Suspend {} => format!("POST {at}/status/suspend"),
            Power::Resume {} => format!("POST {at}/status/resume"),
        }
    }

    fn task(&self) -> Option<TaskName> {
        let (qemu, lxc): (&[_], &[_]) = match self.to {
            Power::Start {} => (&["qmstart", "hastart"], &["vzstart", "hastart"]),
            Power::Stop {} => (&["qmstop", "hastop"], &["vzstop", "hastop"]),
            Power::Shutdown { .. } => (&["qmshutdown", "hastop"], &["vzshutdown", "hastop"]),
            Power::Reboot { .. } => (&["qmreboot"], &["vzreboot"]),
            Power::Suspend {} => (&["qmsuspend", "qmpause"], &["vzsuspend"]),
            Power::Resume {} => (&["qmresume"], &["vzresume"]),
        };
        let types = match self.guest.kind {
            GuestKind::Qemu => qemu,
            GuestKind::Lxc => lxc,
        };
        Some(TaskName { types: types.to_vec(), id: self.guest.vmid.to_string() })
    }

    fn rights(&self) -> Vec<Right> {
        vec![rights::on_guest(self.guest.vmid, "VM.PowerMgmt")]
    }

    fn patience(&self) -> Duration {
        match self.to {
            // Proxmox's task ends when the guest is down; starting it again is somebody else's.
            Power::Reboot { .. } => UP_AGAIN,
            _ => Duration::ZERO,
        }
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let (kind, vmid) = (client_kind(self.guest.kind), client_vmid(self.guest.vmid));
        let seconds = |s: u32| Duration::from_secs(s.into());
        Ok(match self.to {
            Power::Start {} => client.start(kind, vmid).await?,
            Power::Stop {} => client.stop(kind, vmid).await?,
            Power::Shutdown { timeout_s, force } => {
                let how = Shutdown::new().timeout(seconds(timeout_s));
                client.shutdown(kind, vmid, if force { how.then_force_stop() } else { how }).await?
            }
            Power::Reboot { timeout_s, .. } => client.reboot(kind, vmid, Some(seconds(timeout_s))).await?,
            Power::Suspend {} => client.suspend(kind, vmid).await?,
            Power::Resume {} => client.resume(kind, vmid).await?,
        }
        .into())
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        Ok(self.judge_seen(&observe(client, self.guest.kind, self.guest.vmid).await?))
    }
}
