//! Power. Every method answers with a task; for a guest that HA manages the task ends as soon as
//! the wish is filed, long before the guest changes (`pve/facts.md` 4.15).

use std::time::Duration;

use crate::catalog::{Both, Call, Calls, Kind, Param, Verb, flag, param, upid};
use crate::client::Client;
use crate::value::ids::{GuestKind, Vmid};
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

/// Seconds, up to a week.
const TIMEOUT: Param = param("timeout", Kind::Int(0, 604_800));

macro_rules! power {
    ($name:literal, $qemu:expr, $lxc:expr, $qemu_starts:expr, $lxc_starts:expr) => {
        Both {
            qemu: Call::new(
                concat!("qemu ", $name),
                Verb::Post,
                concat!("/nodes/{node}/qemu/{vmid}/status/", $name),
                upid,
            )
            .params($qemu)
            .needs(&["VM.PowerMgmt"])
            .starts($qemu_starts),
            lxc: Call::new(
                concat!("lxc ", $name),
                Verb::Post,
                concat!("/nodes/{node}/lxc/{vmid}/status/", $name),
                upid,
            )
            .params($lxc)
            .needs(&["VM.PowerMgmt"])
            .starts($lxc_starts),
        }
    };
}

// For a guest that HA manages, starting and both ways of stopping become a wish filed with HA
// (`pve/facts.md` 4.15); the others do not.
static START: Both<Upid> = power!("start", &[TIMEOUT], &[], &["qmstart", "hastart"], &["vzstart", "hastart"]);
static STOP: Both<Upid> = power!("stop", &[TIMEOUT], &[], &["qmstop", "hastop"], &["vzstop", "hastop"]);
static SHUTDOWN: Both<Upid> = power!(
    "shutdown",
    &[TIMEOUT, flag("forceStop")],
    &[TIMEOUT, flag("forceStop")],
    &["qmshutdown", "hastop"],
    &["vzshutdown", "hastop"]
);
static REBOOT: Both<Upid> = power!("reboot", &[TIMEOUT], &[TIMEOUT], &["qmreboot"], &["vzreboot"]);
// `qmpause` is what stays in memory.
static SUSPEND: Both<Upid> =
    power!("suspend", &[flag("todisk")], &[], &["qmsuspend", "qmpause"], &["vzsuspend"]);
static RESUME: Both<Upid> = power!("resume", &[], &[], &["qmresume"], &["vzresume"]);
/// Containers have no reset.
static RESET: Call<Upid> =
    Call::new("qemu reset", Verb::Post, "/nodes/{node}/qemu/{vmid}/status/reset", upid)
        .needs(&["VM.PowerMgmt"])
        .starts(&["qmreset"]);

pub(super) static CALLS: Calls = &[
    &START.qemu,
    &START.lxc,
    &STOP.qemu,
    &STOP.lxc,
    &SHUTDOWN.qemu,
    &SHUTDOWN.lxc,
    &REBOOT.qemu,
    &REBOOT.lxc,
    &SUSPEND.qemu,
    &SUSPEND.lxc,
    &RESUME.qemu,
    &RESUME.lxc,
    &RESET,
];

/// How a guest is asked to shut down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shutdown {
    timeout: Option<Duration>,
    force_stop: bool,
}

impl Shutdown {
    /// With Proxmox's own patience and no force.
    #[must_use]
    pub const fn new() -> Self {
        Self { timeout: None, force_stop: false }
    }

    /// How long the guest may take, in whole seconds, a week at most.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Pulls the plug once the time is over. Without it the task fails instead.
    #[must_use]
    pub const fn then_force_stop(mut self) -> Self {
        self.force_stop = true;
        self
    }
}

impl Client {
    /// Starts a guest.
    ///
    /// # Errors
    /// [`ApiError`]. Most reasons only show in the task; a container that runs already is refused
    /// at once, a virtual machine in the task.
    pub async fn start(&self, kind: GuestKind, vmid: Vmid) -> Result<Upid, ApiError> {
        self.send(START.of(kind).at(&self.guest(vmid).await?.parts())).await
    }

    /// Pulls the plug. Stopping a stopped virtual machine succeeds, a stopped container is refused.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn stop(&self, kind: GuestKind, vmid: Vmid) -> Result<Upid, ApiError> {
        self.send(STOP.of(kind).at(&self.guest(vmid).await?.parts())).await
    }

    /// Asks a guest to shut down.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn shutdown(&self, kind: GuestKind, vmid: Vmid, how: Shutdown) -> Result<Upid, ApiError> {
        let request = SHUTDOWN.of(kind).at(&self.guest(vmid).await?.parts());
        let request = request.opt("timeout", how.timeout.map(|timeout| timeout.as_secs()));
        self.send(request.flag("forceStop", how.force_stop)).await
    }

    /// Shuts a running guest down and starts it again, which applies pending changes.
    ///
    /// # Errors
    /// [`ApiError`]; a stopped guest is refused.
    pub async fn reboot(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        timeout: Option<Duration>,
    ) -> Result<Upid, ApiError> {
        let request = REBOOT.of(kind).at(&self.guest(vmid).await?.parts());
        self.send(request.opt("timeout", timeout.map(|timeout| timeout.as_secs()))).await
    }

    /// Presses the reset button of a virtual machine.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn reset(&self, vmid: Vmid) -> Result<Upid, ApiError> {
        self.send(RESET.at(&self.guest(vmid).await?.parts())).await
    }

    /// Pauses a guest in memory. Container support is experimental in Proxmox itself.
    ///
    /// # Errors
    /// [`ApiError`]; a stopped guest is refused.
    pub async fn suspend(&self, kind: GuestKind, vmid: Vmid) -> Result<Upid, ApiError> {
        let request = SUSPEND.of(kind).at(&self.guest(vmid).await?.parts());
        let request = match kind {
            GuestKind::Qemu => request.flag("todisk", false),
            GuestKind::Lxc => request,
        };
        self.send(request).await
    }

    /// Lets a paused guest go on.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn resume(&self, kind: GuestKind, vmid: Vmid) -> Result<Upid, ApiError> {
        self.send(RESUME.of(kind).at(&self.guest(vmid).await?.parts())).await
    }
}
