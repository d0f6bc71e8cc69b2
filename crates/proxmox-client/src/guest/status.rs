//! Whether a guest runs, and how it is doing.

use serde::{Deserialize, Deserializer};

use crate::catalog::{Both, Call, Calls, flag, json, rows};
use crate::client::Client;
use crate::value::ids::{GuestKind, Vmid};
use crate::value::lenient;
use crate::wire::error::ApiError;

static LIST: Both<Vec<GuestStatus>> = Both {
    qemu: Call::get("qemu list", "/nodes/{node}/qemu", rows)
        .long()
        .params(&[flag("full")])
        .needs(&["VM.Audit"]),
    lxc: Call::get("lxc list", "/nodes/{node}/lxc", rows).long().needs(&["VM.Audit"]),
};
static CURRENT: Both<GuestStatus> = Both {
    qemu: Call::get("qemu status", "/nodes/{node}/qemu/{vmid}/status/current", json).needs(&["VM.Audit"]),
    lxc: Call::get("lxc status", "/nodes/{node}/lxc/{vmid}/status/current", json).needs(&["VM.Audit"]),
};

pub(super) static CALLS: Calls = &[&LIST.qemu, &LIST.lxc, &CURRENT.qemu, &CURRENT.lxc];

/// Whether a guest runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunState {
    /// Running, or paused (see [`GuestStatus::qmpstatus`]).
    Running,
    /// Stopped.
    Stopped,
    /// Something newer, by its own name.
    Other(String),
}

impl<'de> Deserialize<'de> for RunState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)?.as_str() {
            "running" => Self::Running,
            "stopped" => Self::Stopped,
            other => Self::Other(other.to_owned()),
        })
    }
}

/// An entry of a guest list, or a guest's `status/current`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GuestStatus {
    /// Its number.
    pub vmid: Vmid,
    /// Running or stopped.
    pub status: RunState,
    /// `running`, `paused`, ...: virtual machines, `status/current` and full lists.
    #[serde(default, deserialize_with = "lenient::text")]
    pub qmpstatus: Option<String>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Tags.
    #[serde(default, deserialize_with = "lenient::tags")]
    pub tags: Vec<String>,
    /// `backup`, `snapshot`, ...
    #[serde(default, deserialize_with = "lenient::text")]
    pub lock: Option<String>,
    /// A template cannot be started or snapshotted.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub template: Option<bool>,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub uptime: Option<u64>,
    /// Host process.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub pid: Option<u64>,
    /// 0 to 1 over all its cores.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub cpu: Option<f64>,
    /// Cores.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub cpus: Option<f64>,
    /// Bytes used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub mem: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub maxmem: Option<u64>,
    /// Bytes used; 0 for virtual machines.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub disk: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub maxdisk: Option<u64>,
    /// Bytes the guest takes of the host (PVE 9).
    #[serde(default, deserialize_with = "lenient::u64")]
    pub memhost: Option<u64>,
    /// Bytes of swap a container may use.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub maxswap: Option<u64>,
    /// Bytes of swap a container uses.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub swap: Option<u64>,
    /// Bytes the balloon leaves to a machine.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub balloon: Option<u64>,
    /// Bytes received since the start.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub netin: Option<u64>,
    /// Bytes sent since the start.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub netout: Option<u64>,
    /// Bytes read since the start.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub diskread: Option<u64>,
    /// Bytes written since the start.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub diskwrite: Option<u64>,
    /// Share of time some task waited for CPU, percent (PVE 9, running guests).
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressurecpusome: Option<f64>,
    /// The same for disks.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressureiosome: Option<f64>,
    /// The same for memory.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressurememorysome: Option<f64>,
    /// Share of time all tasks waited for CPU, percent.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressurecpufull: Option<f64>,
    /// The same for disks.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressureiofull: Option<f64>,
    /// The same for memory.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressurememoryfull: Option<f64>,
    /// Whether the machine has a guest agent configured, `status/current` only.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub agent: Option<bool>,
    /// The machine type it was started with, running machines only.
    #[serde(default, rename = "running-machine", deserialize_with = "lenient::text")]
    pub running_machine: Option<String>,
    /// The QEMU version it was started with, running machines only.
    #[serde(default, rename = "running-qemu", deserialize_with = "lenient::text")]
    pub running_qemu: Option<String>,
    /// HA, `status/current` only.
    #[serde(default)]
    pub ha: Option<HaStatus>,
}

/// Whether HA manages a guest. If so, its power tasks end long before the guest changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct HaStatus {
    /// Managed.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub managed: Option<bool>,
    /// Requested state.
    #[serde(default, deserialize_with = "lenient::text")]
    pub state: Option<String>,
}

impl Client {
    /// All guests of that kind on the node that the token may see.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn guests(&self, kind: GuestKind) -> Result<Vec<GuestStatus>, ApiError> {
        self.send(LIST.of(kind).at(&[self.node().await?.as_str()])).await
    }

    /// The same with the state QEMU itself reports. It asks every running machine, so it is slow
    /// and one that hangs holds it up. Containers have nothing more to tell.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn guests_full(&self, kind: GuestKind) -> Result<Vec<GuestStatus>, ApiError> {
        let request = LIST.of(kind).at(&[self.node().await?.as_str()]);
        let request = match kind {
            GuestKind::Qemu => request.flag("full", true),
            GuestKind::Lxc => request,
        };
        self.send(request).await
    }

    /// A guest's `status/current`.
    ///
    /// # Errors
    /// [`ApiError`]; an unknown guest is class `NotFound`.
    pub async fn guest_status(&self, kind: GuestKind, vmid: Vmid) -> Result<GuestStatus, ApiError> {
        self.send(CURRENT.of(kind).at(&self.guest(vmid).await?.parts())).await
    }
}
