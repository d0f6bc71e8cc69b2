//! What is asked of one node: load, clock, storages, certificates; the rest in parts.

pub(crate) mod disk;
pub(crate) mod history;
pub(crate) mod system;

use serde::Deserialize;

use crate::catalog::{Call, Calls, object, rows};
use crate::client::Client;
use crate::value::lenient;
use crate::wire::error::ApiError;

static STATUS: Call<NodeStatus> =
    Call::get("node status", "/nodes/{node}/status", object).needs(&["Sys.Audit"]);
static TIME: Call<NodeTime> = Call::get("node time", "/nodes/{node}/time", object).needs(&["Sys.Audit"]);
static CERTIFICATES: Call<Vec<CertificateInfo>> =
    Call::get("certificates", "/nodes/{node}/certificates/info", rows);

/// The calls of each part.
pub(crate) static CALLS: &[Calls] =
    &[&[&STATUS, &TIME, &CERTIFICATES], disk::CALLS, system::CALLS, history::CALLS];

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

impl Client {
    /// Load, memory, versions. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn node_status(&self) -> Result<NodeStatus, ApiError> {
        self.send(STATUS.at(&[self.node().await?.as_str()])).await
    }

    /// The node's clock. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn node_time(&self) -> Result<NodeTime, ApiError> {
        self.send(TIME.at(&[self.node().await?.as_str()])).await
    }

    /// The node's certificates with fingerprints and expiry.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn certificates_info(&self) -> Result<Vec<CertificateInfo>, ApiError> {
        self.send(CERTIFICATES.at(&[self.node().await?.as_str()])).await
    }
}
