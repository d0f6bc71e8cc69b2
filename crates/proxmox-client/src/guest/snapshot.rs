//! Snapshots.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::catalog::{Both, Call, Calls, Data, Form, Kind, Param, Verb, json, nothing, rows, upid};
use crate::client::Client;
use crate::value::ids::{GuestKind, SnapshotName, Vmid};
use crate::value::lenient;
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

const NAME: Param = Param { name: "snapname", kind: Kind::Form(Form::ConfigId) };
const DESCRIPTION: Param = Param { name: "description", kind: Kind::Text(8192) };
const FEATURE: Param = Param { name: "feature", kind: Kind::Word(&["snapshot", "clone", "copy"]) };
const START: Param = Param { name: "start", kind: Kind::Flag };

static LIST: Both<SnapshotList> = Both {
    qemu: Call::get("qemu snapshot list", "/nodes/{node}/qemu/{vmid}/snapshot", list).needs(&["VM.Audit"]),
    lxc: Call::get("lxc snapshot list", "/nodes/{node}/lxc/{vmid}/snapshot", list).needs(&["VM.Audit"]),
};
static CREATE: Both<Upid> = Both {
    qemu: Call::new("qemu snapshot create", Verb::Post, "/nodes/{node}/qemu/{vmid}/snapshot", upid)
        .starts(&["qmsnapshot"])
        .params(&[NAME, DESCRIPTION, Param { name: "vmstate", kind: Kind::Flag }])
        .needs(&["VM.Snapshot"]),
    lxc: Call::new("lxc snapshot create", Verb::Post, "/nodes/{node}/lxc/{vmid}/snapshot", upid)
        .starts(&["vzsnapshot"])
        .params(&[NAME, DESCRIPTION])
        .needs(&["VM.Snapshot"]),
};
static ROLLBACK: Both<Upid> = Both {
    qemu: Call::new(
        "qemu snapshot rollback",
        Verb::Post,
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback",
        upid,
    )
    .starts(&["qmrollback"])
    .params(&[START])
    .needs(&["VM.Snapshot"]),
    lxc: Call::new(
        "lxc snapshot rollback",
        Verb::Post,
        "/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/rollback",
        upid,
    )
    .starts(&["vzrollback"])
    .params(&[START])
    .needs(&["VM.Snapshot"]),
};
static DELETE: Both<Upid> = Both {
    qemu: Call::new(
        "qemu snapshot delete",
        Verb::Delete,
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}",
        upid,
    )
    .starts(&["qmdelsnapshot"])
    .needs(&["VM.Snapshot"]),
    lxc: Call::new("lxc snapshot delete", Verb::Delete, "/nodes/{node}/lxc/{vmid}/snapshot/{snapname}", upid)
        .starts(&["vzdelsnapshot"])
        .needs(&["VM.Snapshot"]),
};
static CONFIG: Both<SnapshotConfig> = Both {
    qemu: Call::get(
        "qemu snapshot config",
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config",
        snapshot_config,
    )
    .needs(&["VM.Audit"]),
    lxc: Call::get(
        "lxc snapshot config",
        "/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config",
        snapshot_config,
    )
    .needs(&["VM.Audit"]),
};
static DESCRIBE: Both<()> = Both {
    qemu: Call::new(
        "qemu snapshot update",
        Verb::Put,
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config",
        nothing,
    )
    .params(&[DESCRIPTION])
    .needs(&["VM.Snapshot"]),
    lxc: Call::new(
        "lxc snapshot update",
        Verb::Put,
        "/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config",
        nothing,
    )
    .params(&[DESCRIPTION])
    .needs(&["VM.Snapshot"]),
};
static HAS_FEATURE: Both<FeatureAnswer> = Both {
    qemu: Call::get("qemu feature", "/nodes/{node}/qemu/{vmid}/feature", has_feature)
        .params(&[FEATURE, NAME])
        .needs(&["VM.Audit"]),
    lxc: Call::get("lxc feature", "/nodes/{node}/lxc/{vmid}/feature", has_feature)
        .params(&[FEATURE, NAME])
        .needs(&["VM.Audit"]),
};

pub(super) static CALLS: Calls = &[
    &LIST.qemu,
    &LIST.lxc,
    &CREATE.qemu,
    &CREATE.lxc,
    &ROLLBACK.qemu,
    &ROLLBACK.lxc,
    &DELETE.qemu,
    &DELETE.lxc,
    &CONFIG.qemu,
    &CONFIG.lxc,
    &DESCRIBE.qemu,
    &DESCRIBE.lxc,
    &HAS_FEATURE.qemu,
    &HAS_FEATURE.lxc,
];

/// One snapshot of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// Its name, as listed. Not every listed name can be used again: parse it into a [`SnapshotName`].
    pub name: String,
    /// Seconds since 1970; absent in some broken leftovers.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub snaptime: Option<u64>,
    /// The snapshot before it; absent for the first.
    #[serde(default, deserialize_with = "lenient::text")]
    pub parent: Option<String>,
    /// Without the newline containers add at the end.
    #[serde(default, deserialize_with = "description")]
    pub description: String,
    /// Whether the machine's memory is in it. Always false for containers.
    #[serde(default, deserialize_with = "vmstate")]
    pub vmstate: bool,
    /// `prepare` or `delete`: being worked on, or the leftover of a broken operation.
    #[serde(default, deserialize_with = "lenient::text")]
    pub snapstate: Option<String>,
}

fn description<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = lenient::text(deserializer)?.unwrap_or_default();
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

fn vmstate<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(lenient::flag(deserializer)?.unwrap_or(false))
}

/// The pseudo entry `current` that ends every snapshot list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CurrentState {
    /// The snapshot the current state descends from.
    pub parent: Option<String>,
    /// Whether the guest runs.
    pub running: Option<bool>,
    /// The config's digest at that moment.
    pub digest: Option<String>,
}

/// A guest's snapshots, the pseudo entry apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotList {
    /// Real snapshots, in the order listed. The order means nothing: follow `parent`.
    pub snapshots: Vec<Snapshot>,
    /// Where the guest is now.
    pub current: CurrentState,
}

impl SnapshotList {
    /// The snapshot of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == name)
    }

    pub(crate) fn from_entries(entries: Vec<Value>) -> Result<Self, serde_json::Error> {
        let mut list = Self::default();
        for entry in entries {
            if entry.get("name").and_then(Value::as_str) == Some("current") {
                list.current = CurrentState {
                    parent: entry.get("parent").and_then(lenient::as_text),
                    running: entry.get("running").and_then(lenient::as_bool),
                    digest: entry.get("digest").and_then(lenient::as_text),
                };
            } else {
                list.snapshots.push(Snapshot::deserialize(entry)?);
            }
        }
        Ok(list)
    }
}

fn list(data: Data) -> Result<SnapshotList, String> {
    SnapshotList::from_entries(rows(data)?).map_err(|error| error.to_string())
}

/// What a snapshot holds. It has no digest, so nothing can be compared with it; see
/// [`Client::guest_config_of_snapshot`] for one that has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// Seconds since 1970.
    pub snaptime: Option<u64>,
    /// Every key, scalars as text.
    pub raw: BTreeMap<String, String>,
}

impl SnapshotConfig {
    /// One raw value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.raw.get(key).map(String::as_str)
    }
}

fn snapshot_config(data: Data) -> Result<SnapshotConfig, String> {
    let fields: Map<String, Value> = json(data)?;
    Ok(SnapshotConfig {
        snaptime: fields.get("snaptime").and_then(lenient::as_u64),
        raw: fields.into_iter().filter_map(|(key, value)| Some((key, lenient::as_text(&value)?))).collect(),
    })
}

/// What a snapshot is taken with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    description: String,
    vmstate: bool,
}

impl NewSnapshot {
    /// Without description and without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { description: String::new(), vmstate: false }
    }

    /// Up to 8192 characters.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        text.clone_into(&mut self.description);
        self
    }

    /// With the memory of the running machine; it goes to the storage, in the machine's full size.
    /// Containers have none.
    #[must_use]
    pub const fn with_memory(mut self) -> Self {
        self.vmstate = true;
        self
    }
}

/// What all volumes of a guest may be able to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Snapshots.
    Snapshot,
    /// Linked clones.
    Clone,
    /// Full clones.
    Copy,
}

impl Feature {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Clone => "clone",
            Self::Copy => "copy",
        }
    }
}

/// Whether they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeatureAnswer {
    /// All volumes support it.
    pub has: bool,
    /// Nodes that reach all volumes; empty for containers, which are not told.
    pub nodes: Vec<String>,
}

fn has_feature(data: Data) -> Result<FeatureAnswer, String> {
    let fields: Map<String, Value> = json(data)?;
    let has = fields.get("hasFeature").and_then(lenient::as_bool).ok_or("no `hasFeature`")?;
    let nodes = fields.get("nodes").and_then(Value::as_array);
    Ok(FeatureAnswer { has, nodes: nodes.into_iter().flatten().filter_map(lenient::as_text).collect() })
}

impl Client {
    /// Lists a guest's snapshots.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn snapshots(&self, kind: GuestKind, vmid: Vmid) -> Result<SnapshotList, ApiError> {
        self.send(LIST.of(kind).at(&self.guest(vmid).await?.parts())).await
    }

    /// Takes a snapshot, without the machine's memory.
    ///
    /// # Errors
    /// [`ApiError`]. A duplicate name, a lock or missing storage support only show in the task.
    pub async fn snapshot_create(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        name: &SnapshotName,
        description: &str,
    ) -> Result<Upid, ApiError> {
        let how = NewSnapshot::new().description(description);
        self.snapshot_create_with(kind, vmid, name, &how).await
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    /// [`ApiError`], as [`Client::snapshot_create`]. Memory of a container is refused here.
    pub async fn snapshot_create_with(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        name: &SnapshotName,
        how: &NewSnapshot,
    ) -> Result<Upid, ApiError> {
        let request = CREATE.of(kind).at(&self.guest(vmid).await?.parts()).set("snapname", name);
        let request = request.opt("description", (!how.description.is_empty()).then_some(&how.description));
        // Always explicit where it exists; containers refuse the parameter.
        let request = match kind {
            GuestKind::Qemu => request.flag("vmstate", how.vmstate),
            GuestKind::Lxc => request
                .refuse_if(how.vmstate, "a container's snapshot cannot hold its memory; leave that out"),
        };
        self.send(request).await
    }

    /// What a snapshot holds.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn snapshot_config(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        name: &SnapshotName,
    ) -> Result<SnapshotConfig, ApiError> {
        let guest = self.guest(vmid).await?;
        self.send(CONFIG.of(kind).at(&guest.and(name.as_str()))).await
    }

    /// Changes a snapshot's description; an empty one removes it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn snapshot_describe(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        name: &SnapshotName,
        description: &str,
    ) -> Result<(), ApiError> {
        let guest = self.guest(vmid).await?;
        self.send(DESCRIBE.of(kind).at(&guest.and(name.as_str())).set("description", description)).await
    }

    /// Rolls back. **Hard-stops** a running guest and leaves it stopped unless the snapshot holds
    /// its memory or `start` is wanted (`pve/facts.md` 6.4).
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn snapshot_rollback(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        name: &SnapshotName,
        start: bool,
    ) -> Result<Upid, ApiError> {
        let guest = self.guest(vmid).await?;
        let request = ROLLBACK.of(kind).at(&guest.and(name.as_str())).flag_if("start", start);
        self.send(request).await
    }

    /// Deletes a snapshot. Never with `force`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn snapshot_delete(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        name: &SnapshotName,
    ) -> Result<Upid, ApiError> {
        let guest = self.guest(vmid).await?;
        self.send(DELETE.of(kind).at(&guest.and(name.as_str()))).await
    }

    /// Whether all of a guest's volumes can be snapshotted.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn feature_snapshot(&self, kind: GuestKind, vmid: Vmid) -> Result<bool, ApiError> {
        self.feature(kind, vmid, Feature::Snapshot, None).await.map(|answer| answer.has)
    }

    /// Whether all of a guest's volumes, or those of one of its snapshots, are able to do something.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn feature(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        feature: Feature,
        snapshot: Option<&SnapshotName>,
    ) -> Result<FeatureAnswer, ApiError> {
        let guest = self.guest(vmid).await?;
        let request = HAS_FEATURE.of(kind).at(&guest.parts()).set("feature", feature.as_str());
        self.send(request.opt("snapname", snapshot)).await
    }
}
