//! What is asked of the cluster as a whole: version, nodes, resources, numbers, options.

pub(crate) mod ha;
pub(crate) mod metrics;
pub(crate) mod pool;
pub(crate) mod replication;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::catalog::{Call, Calls, Data, Form, Kind, Param, json, object, rows};
use crate::client::Client;
use crate::task::{self, TaskEntry};
use crate::value::ids::Vmid;
use crate::value::lenient;
use crate::wire::error::ApiError;

static VERSION: Call<Version> = Call::get("version", "/version", object);
static NODES: Call<Vec<NodeEntry>> = Call::get("nodes", "/nodes", rows);
static STATUS: Call<Vec<ClusterEntry>> =
    Call::get("cluster status", "/cluster/status", rows).needs(&["Sys.Audit"]);
static RESOURCES: Call<Vec<Resource>> = Call::get("cluster resources", "/cluster/resources", rows)
    .long()
    .params(&[Param { name: "type", kind: Kind::Word(&["vm", "storage", "node", "sdn"]) }]);
static TASKS: Call<Vec<TaskEntry>> =
    Call::get("cluster tasks", "/cluster/tasks", |data| task::list(data).map(|listed| listed.tasks))
        .long()
        .needs(&["Sys.Audit"]);
static NEXT_ID: Call<Vmid> = Call::get("next vmid", "/cluster/nextid", json)
    .params(&[Param { name: "vmid", kind: Kind::Form(Form::Vmid) }]);
static OPTIONS: Call<BTreeMap<String, String>> =
    Call::get("cluster options", "/cluster/options", options).needs(&["Sys.Audit"]);

/// The calls of each part.
pub(crate) static CALLS: &[Calls] = &[
    &[&VERSION, &NODES, &STATUS, &RESOURCES, &TASKS, &NEXT_ID, &OPTIONS],
    ha::CALLS,
    metrics::CALLS,
    pool::CALLS,
    replication::CALLS,
];

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

/// One entry of `GET /cluster/status`: the cluster itself, or a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ClusterEntry {
    /// `cluster` or `node`; a single node has no `cluster` entry.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// The node that answers.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub local: Option<bool>,
    /// Whether a node is reachable.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub online: Option<bool>,
    /// Whether the cluster has a quorum.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub quorate: Option<bool>,
    /// A node's address.
    #[serde(default, deserialize_with = "lenient::text")]
    pub ip: Option<String>,
    /// How many nodes a cluster has.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub nodes: Option<u64>,
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

/// Which entries of `/cluster/resources` to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceFilter {
    /// Virtual machines and containers.
    Guests,
    /// Storages.
    Storages,
    /// Nodes.
    Nodes,
    /// Software-defined networks.
    Sdn,
}

impl ResourceFilter {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Guests => "vm",
            Self::Storages => "storage",
            Self::Nodes => "node",
            Self::Sdn => "sdn",
        }
    }
}

fn options(data: Data) -> Result<BTreeMap<String, String>, String> {
    let fields: Map<String, Value> = json(data)?;
    Ok(fields.into_iter().filter_map(|(name, value)| Some((name, lenient::as_text(&value)?))).collect())
}

impl Client {
    /// `GET /version`: the cheapest authenticated call.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn version(&self) -> Result<Version, ApiError> {
        self.send(VERSION.at(&[])).await
    }

    /// All nodes of the cluster.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn nodes(&self) -> Result<Vec<NodeEntry>, ApiError> {
        self.send(NODES.at(&[])).await
    }

    /// The cluster, where there is one, and its nodes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn cluster_status(&self) -> Result<Vec<ClusterEntry>, ApiError> {
        self.send(STATUS.at(&[])).await
    }

    /// Guests, nodes, storages and pools of all nodes. Filtered by the token's rights: an empty
    /// list may mean "nothing visible".
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn cluster_resources(&self) -> Result<Vec<Resource>, ApiError> {
        self.send(RESOURCES.at(&[])).await
    }

    /// The same of one kind only.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn cluster_resources_of(&self, filter: ResourceFilter) -> Result<Vec<Resource>, ApiError> {
        self.send(RESOURCES.at(&[]).set("type", filter.as_str())).await
    }

    /// The newest tasks of all nodes, some 25 of each. Without Sys.Audit on `/` a token sees none, not
    /// even its own (`pve/facts.md` 4.8): ask a node with [`Client::tasks`].
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn cluster_tasks(&self) -> Result<Vec<TaskEntry>, ApiError> {
        self.send(TASKS.at(&[])).await
    }

    /// A VMID that nobody has now. It is not reserved: if creating then says that it exists, ask
    /// again.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn next_vmid(&self) -> Result<Vmid, ApiError> {
        self.send(NEXT_ID.at(&[])).await
    }

    /// Whether nobody has that VMID now, on any node, seen or unseen by the token.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn vmid_is_free(&self, vmid: Vmid) -> Result<bool, ApiError> {
        match self.send(NEXT_ID.at(&[]).set("vmid", vmid)).await {
            Ok(free) => Ok(free == vmid),
            // Not recorded: the check is a parameter check, with its text in the map of parameters.
            Err(error)
                if error.status() == Some(400)
                    && error
                        .errors()
                        .and_then(|map| map.get("vmid"))
                        .is_some_and(|text| text.contains("already exists")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The cluster's own options (`datacenter.cfg`), as text by name; some are hidden without
    /// Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn cluster_options(&self) -> Result<BTreeMap<String, String>, ApiError> {
        self.send(OPTIONS.at(&[])).await
    }
}
