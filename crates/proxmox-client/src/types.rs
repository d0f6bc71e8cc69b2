//! What the read-only calls return. Every field that may be absent is an `Option`: a privilege may
//! hide it, an older version may not have it, an inactive storage has no sizes. Bytes and seconds
//! throughout.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::ids::Vmid;
use crate::lenient;

/// `GET /version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// `9.1.8`.
    #[serde(default)]
    pub version: String,
    /// `9.1`.
    #[serde(default)]
    pub release: String,
    /// The build's commit.
    #[serde(default)]
    pub repoid: String,
}

impl Version {
    /// The first number of `version`: 8 or 9.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// One entry of `GET /nodes`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct NodeEntry {
    /// Its name.
    pub node: String,
    /// `online`, `offline`, `unknown`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub status: Option<String>,
    /// SHA-256 of the active pveproxy certificate, colon hex.
    #[serde(default, deserialize_with = "lenient::text")]
    pub ssl_fingerprint: Option<String>,
    /// Seconds since boot.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub uptime: Option<u64>,
    /// 0 to 1 over all cores; hidden without Sys.Audit.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub cpu: Option<f64>,
    /// Cores.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub maxcpu: Option<u64>,
    /// Bytes used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub mem: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub maxmem: Option<u64>,
}

/// Total, used and free bytes of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub total: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub free: Option<u64>,
    /// Bytes an ordinary user can still take: rootfs' `avail`, memory's `available`.
    #[serde(default, alias = "available", deserialize_with = "lenient::u64")]
    pub avail: Option<u64>,
}

/// `GET /nodes/{node}/status`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct NodeStatus {
    /// 0 to 1 over all cores.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub cpu: Option<f64>,
    /// Fraction of time waiting for disks.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub wait: Option<f64>,
    /// 1, 5 and 15 minutes; empty if unknown.
    #[serde(default, deserialize_with = "lenient::f64_list")]
    pub loadavg: Vec<f64>,
    /// Seconds since boot.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub uptime: Option<u64>,
    /// Memory.
    #[serde(default)]
    pub memory: Usage,
    /// Swap.
    #[serde(default)]
    pub swap: Usage,
    /// The file system of `/`.
    #[serde(default)]
    pub rootfs: Usage,
    /// `pve-manager/9.1.8/...`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub pveversion: Option<String>,
    /// The kernel's full version line.
    #[serde(default, deserialize_with = "lenient::text")]
    pub kversion: Option<String>,
    /// The processors.
    #[serde(default)]
    pub cpuinfo: CpuInfo,
    /// The running kernel.
    #[serde(default, rename = "current-kernel")]
    pub current_kernel: KernelInfo,
}

/// `cpuinfo` of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CpuInfo {
    /// Threads.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub cpus: Option<u64>,
    /// Sockets.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub sockets: Option<u64>,
    /// Marketing name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub model: Option<String>,
}

/// `current-kernel` of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct KernelInfo {
    /// As `uname -r`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub release: Option<String>,
}

/// `GET /nodes/{node}/time`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NodeTime {
    /// Seconds since 1970, UTC.
    pub time: u64,
    /// IANA name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub timezone: Option<String>,
}

/// What an entry of `/cluster/resources` is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
    /// A node.
    Node,
    /// A storage on a node.
    Storage,
    /// A pool.
    Pool,
    /// Anything else, by its own name (`network`, `sdn`, ...).
    Other(String),
}

impl<'de> Deserialize<'de> for ResourceKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)?.as_str() {
            "qemu" => Self::Qemu,
            "lxc" => Self::Lxc,
            "node" => Self::Node,
            "storage" => Self::Storage,
            "pool" => Self::Pool,
            other => Self::Other(other.to_owned()),
        })
    }
}

/// One entry of `GET /cluster/resources`: all nodes at once, at most some ten seconds old, and the
/// cheapest call there is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Resource {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    /// `qemu/100`, `storage/pve1/local`, `node/pve1`, ...
    pub id: String,
    /// The node it is on.
    #[serde(default, deserialize_with = "lenient::text")]
    pub node: Option<String>,
    /// Guests only.
    #[serde(default)]
    pub vmid: Option<Vmid>,
    /// A guest's name; absent for guests on a dead node.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// `running`, `stopped`, `online`, `available`, `unknown`, ...
    #[serde(default, deserialize_with = "lenient::text")]
    pub status: Option<String>,
    /// A guest's tags.
    #[serde(default, deserialize_with = "lenient::tags")]
    pub tags: Vec<String>,
    /// A guest's lock.
    #[serde(default, deserialize_with = "lenient::text")]
    pub lock: Option<String>,
    /// The pool a guest is in.
    #[serde(default, deserialize_with = "lenient::text")]
    pub pool: Option<String>,
    /// HA state, if managed.
    #[serde(default, deserialize_with = "lenient::text")]
    pub hastate: Option<String>,
    /// Whether a guest is a template.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub template: Option<bool>,
    /// A storage's name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub storage: Option<String>,
    /// A storage's plugin (`dir`, `lvmthin`, ...).
    #[serde(default, deserialize_with = "lenient::text")]
    pub plugintype: Option<String>,
    /// A storage's content types, comma separated.
    #[serde(default, deserialize_with = "lenient::text")]
    pub content: Option<String>,
    /// Whether a storage is shared.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub shared: Option<bool>,
    /// 0 to 1 over all its cores.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub cpu: Option<f64>,
    /// Cores.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub maxcpu: Option<f64>,
    /// Bytes used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub mem: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub maxmem: Option<u64>,
    /// Bytes used; always 0 for virtual machines.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub disk: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub maxdisk: Option<u64>,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub uptime: Option<u64>,
}

/// One entry of `GET /nodes/{node}/storage`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct StorageStatus {
    /// Its name.
    pub storage: String,
    /// The plugin: `dir`, `zfspool`, `lvmthin`, `pbs`, ...
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub plugin: Option<String>,
    /// Content types, comma separated.
    #[serde(default, deserialize_with = "lenient::text")]
    pub content: Option<String>,
    /// Reachable right now.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub active: Option<bool>,
    /// Not disabled in the configuration.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub enabled: Option<bool>,
    /// The same storage on all nodes.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub shared: Option<bool>,
    /// Bytes; 0 while inactive, so look at `active` first.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub total: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub avail: Option<u64>,
}

/// One entry of `GET /nodes/{node}/disks/lvmthin` (needs Sys.Audit on `/`). A thin pool whose data
/// **or** metadata runs full corrupts the guests on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ThinPool {
    /// The pool's name.
    pub lv: String,
    /// Its volume group.
    #[serde(default, deserialize_with = "lenient::text")]
    pub vg: Option<String>,
    /// Bytes of data space.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub lv_size: Option<u64>,
    /// Bytes of data used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// Bytes of metadata space.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub metadata_size: Option<u64>,
    /// Bytes of metadata used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub metadata_used: Option<u64>,
}

/// One entry of `GET /nodes/{node}/certificates/info`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CertificateInfo {
    /// `pve-root-ca.pem`, `pve-ssl.pem` or `pveproxy-ssl.pem`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub filename: Option<String>,
    /// SHA-256 of the certificate, colon hex.
    #[serde(default, deserialize_with = "lenient::text")]
    pub fingerprint: Option<String>,
    /// Subject.
    #[serde(default, deserialize_with = "lenient::text")]
    pub subject: Option<String>,
    /// Issuer.
    #[serde(default, deserialize_with = "lenient::text")]
    pub issuer: Option<String>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub notbefore: Option<u64>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub notafter: Option<u64>,
    /// Names it is for.
    #[serde(default, deserialize_with = "lenient::text_list")]
    pub san: Vec<String>,
    /// The certificate itself.
    #[serde(default, deserialize_with = "lenient::text")]
    pub pem: Option<String>,
}

/// `GET /access/permissions`: path to privilege to "propagates to what is below".
pub type Permissions = BTreeMap<String, BTreeMap<String, bool>>;

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
    /// `running`, `paused`, ...: virtual machines, `status/current` only.
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
    /// Share of time some task waited for CPU, percent (PVE 9, running guests).
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressurecpusome: Option<f64>,
    /// The same for disks.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressureiosome: Option<f64>,
    /// The same for memory.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub pressurememorysome: Option<f64>,
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
