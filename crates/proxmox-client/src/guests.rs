//! Guests: listing, configuration with compare-and-set, starting, snapshots.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::config::GuestConfig;
use crate::error::{ApiError, Failure};
use crate::ids::{GuestKind, SnapshotName, Vmid};
use crate::lenient;
use crate::transport::Params;
use crate::types::GuestStatus;
use crate::upid::Upid;

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

impl Client {
    /// All guests of that kind on the node that the token may see.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn guests(&self, kind: GuestKind) -> Result<Vec<GuestStatus>, ApiError> {
        self.read_node(&[kind.as_str()], &[]).await
    }

    /// A guest's `status/current`.
    ///
    /// # Errors
    /// [`ApiError`]; an unknown guest is class `NotFound`.
    pub async fn guest_status(&self, kind: GuestKind, vmid: Vmid) -> Result<GuestStatus, ApiError> {
        self.read_node(&[kind.as_str(), &vmid.to_string(), "status", "current"], &[]).await
    }

    /// A guest's configuration, pending changes merged in.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn guest_config(&self, kind: GuestKind, vmid: Vmid) -> Result<GuestConfig, ApiError> {
        let number = vmid.to_string();
        let tail = [kind.as_str(), &number, "config"];
        let fields: Map<String, Value> = self.read_node(&tail, &[]).await?;
        GuestConfig::from_fields(kind, fields).ok_or_else(|| {
            self.transport.bad_answer(&Method::GET, &tail, "a guest configuration without digest")
        })
    }

    /// Changes options with the synchronous PUT, if the config still has that digest. The key
    /// `delete` removes options. On a running guest the change may be pending until it restarts.
    ///
    /// # Errors
    /// [`ApiError`]; class `DigestMismatch` if the config changed meanwhile. An empty digest or a
    /// `digest` among the changes is refused here: both would defeat the comparison.
    pub async fn set_guest_config(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        changes: BTreeMap<&str, String>,
        digest: &str,
    ) -> Result<(), ApiError> {
        let number = vmid.to_string();
        let path = ["nodes", self.node().await?.as_str(), kind.as_str(), &number, "config"];
        let refuse =
            |why: &str| self.transport.fault(&Method::PUT, &path, Failure::Invalid { why: why.to_owned() });
        if digest.is_empty() {
            return Err(refuse(
                "a config change needs the digest the decision was based on; read the config first",
            ));
        }
        if ["digest", "skiplock", "force"].iter().any(|key| changes.contains_key(key)) {
            return Err(refuse("`digest`, `skiplock` and `force` cannot be among the changes"));
        }
        if changes.is_empty() {
            return Err(refuse("no change was given"));
        }
        let mut params: Vec<(&str, String)> = changes.into_iter().collect();
        params.push(("digest", digest.to_owned()));
        self.transport.mutate(Method::PUT, &path, &params).await?;
        Ok(())
    }

    /// Starts a guest.
    ///
    /// # Errors
    /// [`ApiError`]. Most reasons only show in the task.
    pub async fn start(&self, kind: GuestKind, vmid: Vmid) -> Result<Upid, ApiError> {
        self.run(Method::POST, &[kind.as_str(), &vmid.to_string(), "status", "start"], &[]).await
    }

    /// Lists a guest's snapshots.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn snapshots(&self, kind: GuestKind, vmid: Vmid) -> Result<SnapshotList, ApiError> {
        let number = vmid.to_string();
        let tail = [kind.as_str(), &number, "snapshot"];
        let entries = self.read_node(&tail, &[]).await?;
        SnapshotList::from_entries(entries)
            .map_err(|error| self.transport.bad_answer(&Method::GET, &tail, error))
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
        let mut params = vec![("snapname", name.to_string())];
        if !description.is_empty() {
            params.push(("description", description.to_owned()));
        }
        // Always explicit where it exists; containers refuse the parameter.
        match kind {
            GuestKind::Qemu => params.push(("vmstate", "0".to_owned())),
            GuestKind::Lxc => {}
        }
        self.run(Method::POST, &[kind.as_str(), &vmid.to_string(), "snapshot"], &params).await
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
        let tail = [kind.as_str(), &vmid.to_string(), "snapshot", name.as_str(), "rollback"];
        let start: &[(&str, String)] = if start { &[("start", "1".to_owned())] } else { &[] };
        self.run(Method::POST, &tail, start).await
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
        self.run(Method::DELETE, &[kind.as_str(), &vmid.to_string(), "snapshot", name.as_str()], &[]).await
    }

    /// Whether all of a guest's volumes can be snapshotted.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn feature_snapshot(&self, kind: GuestKind, vmid: Vmid) -> Result<bool, ApiError> {
        let number = vmid.to_string();
        let tail = [kind.as_str(), &number, "feature"];
        let fields: Map<String, Value> = self.read_node(&tail, &[("feature", "snapshot".to_owned())]).await?;
        fields
            .get("hasFeature")
            .and_then(lenient::as_bool)
            .ok_or_else(|| self.transport.bad_answer(&Method::GET, &tail, "no `hasFeature`"))
    }

    /// A mutation below `/nodes/{node}` whose answer names its task.
    async fn run(&self, method: Method, tail: &[&str], params: Params<'_>) -> Result<Upid, ApiError> {
        let path = [&["nodes", self.node().await?.as_str()], tail].concat();
        let reply = self.transport.mutate(method.clone(), &path, params).await?;
        let text = reply.data.as_str().unwrap_or_default();
        text.parse().map_err(|error| self.transport.bad_answer(&method, &path, error))
    }
}
