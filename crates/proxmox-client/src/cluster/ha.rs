//! High availability: who manages what, and in which state.

use serde::Deserialize;

use crate::catalog::{Call, Calls, Kind, Param, rows};
use crate::client::Client;
use crate::value::ids::Vmid;
use crate::value::lenient;
use crate::wire::error::ApiError;

static STATUS: Call<Vec<HaEntry>> =
    Call::get("ha status", "/cluster/ha/status/current", rows).needs(&["Sys.Audit"]);
static RESOURCES: Call<Vec<HaResource>> = Call::get("ha resources", "/cluster/ha/resources", rows)
    .params(&[Param { name: "type", kind: Kind::Word(&["ct", "vm"]) }])
    .needs(&["Sys.Audit"]);

pub(super) static CALLS: Calls = &[&STATUS, &RESOURCES];

/// One entry of `GET /cluster/ha/status/current`: the quorum, the master, a node's manager, or a
/// managed guest (`type` `service`). Not recorded; fields as the schema has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct HaEntry {
    /// `quorum`, `master`, `lrm:pve1`, `service:vm:100`.
    #[serde(default, deserialize_with = "lenient::string")]
    pub id: String,
    /// `quorum`, `master`, `lrm`, `service`, `fencing` (9), …
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// The node it is on or about.
    #[serde(default, deserialize_with = "lenient::text")]
    pub node: Option<String>,
    /// One line of text.
    #[serde(default, deserialize_with = "lenient::text")]
    pub status: Option<String>,
    /// `vm:100` or `ct:200`; services only.
    #[serde(default, deserialize_with = "lenient::text")]
    pub sid: Option<String>,
    /// What the guest is in now: `started`, `stopped`, `error`, `fence`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub state: Option<String>,
    /// What is wanted of it.
    #[serde(default, deserialize_with = "lenient::text")]
    pub request_state: Option<String>,
    /// What the cluster manager holds it for.
    #[serde(default, deserialize_with = "lenient::text")]
    pub crm_state: Option<String>,
    /// Whether the cluster has a quorum.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub quorate: Option<bool>,
    /// Last word of a manager, seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub timestamp: Option<u64>,
    /// Restarts tried on one node.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub max_restart: Option<u64>,
    /// Moves tried to another node.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub max_relocate: Option<u64>,
    /// `armed`, `standby`, `disarming`, `disarmed` (9.2).
    #[serde(default, rename = "armed-state", deserialize_with = "lenient::text")]
    pub armed_state: Option<String>,
}

impl HaEntry {
    /// The guest it is about, for `service` entries.
    #[must_use]
    pub fn vmid(&self) -> Option<Vmid> {
        guest(self.sid.as_deref()?)
    }
}

/// One entry of `GET /cluster/ha/resources`: a guest that HA manages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct HaResource {
    /// `vm:100` or `ct:200`.
    #[serde(default, deserialize_with = "lenient::string")]
    pub sid: String,
    /// `vm` or `ct`.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Wanted: `started`, `stopped`, `disabled`, `ignored`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub state: Option<String>,
    /// Its HA group (8).
    #[serde(default, deserialize_with = "lenient::text")]
    pub group: Option<String>,
    /// A remark.
    #[serde(default, deserialize_with = "lenient::text")]
    pub comment: Option<String>,
    /// Restarts tried on one node.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub max_restart: Option<u64>,
    /// Moves tried to another node.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub max_relocate: Option<u64>,
    /// Of the configuration it is in.
    #[serde(default, deserialize_with = "lenient::text")]
    pub digest: Option<String>,
}

impl HaResource {
    /// The guest.
    #[must_use]
    pub fn vmid(&self) -> Option<Vmid> {
        guest(&self.sid)
    }
}

/// `vm:100`, `ct:200`.
fn guest(sid: &str) -> Option<Vmid> {
    sid.strip_prefix("vm:").or_else(|| sid.strip_prefix("ct:"))?.parse().ok()
}

impl Client {
    /// What HA is doing. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn ha_status(&self) -> Result<Vec<HaEntry>, ApiError> {
        self.send(STATUS.at(&[])).await
    }

    /// The guests that HA manages. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn ha_resources(&self) -> Result<Vec<HaResource>, ApiError> {
        self.send(RESOURCES.at(&[])).await
    }
}
