//! The client and its node-wide reading calls. Guests are in `guests.rs`, tasks in `task_api.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::endpoint::Endpoint;
use crate::error::{ApiError, ClientError};
use crate::ids::NodeName;
use crate::lenient;
use crate::pin::PinSet;
use crate::token::ApiToken;
use crate::transport::{Params, Transport};
use crate::types::{
    CertificateInfo, NodeEntry, NodeStatus, NodeTime, Permissions, Resource, StorageStatus, ThinPool, Version,
};

/// A connection to one node with one token. Cheap to clone; clones share the limits.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    node: Arc<OnceCell<NodeName>>,
}

impl Client {
    /// Sets the client up; connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError`] if TLS or the HTTP client refuse their configuration.
    pub fn new(endpoint: Endpoint, pins: PinSet, token: ApiToken) -> Result<Self, ClientError> {
        Ok(Self {
            transport: Arc::new(Transport::new(endpoint, pins, &token)?),
            node: Arc::new(OnceCell::new()),
        })
    }

    /// The same client for a named node; without it the node is the one that answers.
    #[must_use]
    pub fn with_node(self, node: NodeName) -> Self {
        Self { node: Arc::new(OnceCell::new_with(Some(node))), ..self }
    }

    /// `user@realm!tokenid`, for [`Client::find_tasks`] and messages. Not secret.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.transport.identity()
    }

    /// Where it connects.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.transport.endpoint()
    }

    /// The node the calls go to: the only one, or the entry marked local. Asked once and kept.
    ///
    /// # Errors
    /// [`ApiError`]; in a cluster also if the token may not read `/cluster/status`.
    pub async fn node(&self) -> Result<&NodeName, ApiError> {
        self.node.get_or_try_init(|| self.find_node()).await
    }

    async fn find_node(&self) -> Result<NodeName, ApiError> {
        let nodes = self.nodes().await?;
        let path = ["nodes"];
        let name = if let [only] = nodes.as_slice() {
            only.node.clone()
        } else {
            let path = ["cluster", "status"];
            let entries: Vec<Value> = self.read(&path, &[]).await?;
            entries
                .iter()
                .find(|entry| entry.get("local").and_then(lenient::as_bool) == Some(true))
                .and_then(|entry| entry.get("name")?.as_str())
                .ok_or_else(|| {
                    self.transport.bad_answer(&Method::GET, &path, "no entry is marked as the local node")
                })?
                .to_owned()
        };
        name.parse().map_err(|error| self.transport.bad_answer(&Method::GET, &path, error))
    }

    /// `GET /version`: the cheapest authenticated call.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn version(&self) -> Result<Version, ApiError> {
        self.read(&["version"], &[]).await
    }

    /// All nodes of the cluster.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn nodes(&self) -> Result<Vec<NodeEntry>, ApiError> {
        self.read(&["nodes"], &[]).await
    }

    /// Load, memory, versions. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn node_status(&self) -> Result<NodeStatus, ApiError> {
        self.read_node(&["status"], &[]).await
    }

    /// The node's clock. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn node_time(&self) -> Result<NodeTime, ApiError> {
        self.read_node(&["time"], &[]).await
    }

    /// Guests, nodes, storages and pools of all nodes. Filtered by the token's rights: an empty
    /// list may mean "nothing visible".
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn cluster_resources(&self) -> Result<Vec<Resource>, ApiError> {
        self.read(&["cluster", "resources"], &[]).await
    }

    /// The token's effective rights.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn permissions(&self) -> Result<Permissions, ApiError> {
        let raw: BTreeMap<String, BTreeMap<String, Value>> =
            self.read(&["access", "permissions"], &[]).await?;
        Ok(raw
            .into_iter()
            .map(|(path, privileges)| {
                let privileges = privileges
                    .into_iter()
                    .map(|(name, flag)| (name, lenient::as_bool(&flag).unwrap_or(false)));
                (path, privileges.collect())
            })
            .collect())
    }

    /// Storages with their fill levels. Touches the storages, so it may be slow.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn storage_list(&self) -> Result<Vec<StorageStatus>, ApiError> {
        self.read_node(&["storage"], &[]).await
    }

    /// LVM thin pools with data and metadata usage. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn lvmthin(&self) -> Result<Vec<ThinPool>, ApiError> {
        self.read_node(&["disks", "lvmthin"], &[]).await
    }

    /// The node's certificates with fingerprints and expiry.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn certificates_info(&self) -> Result<Vec<CertificateInfo>, ApiError> {
        self.read_node(&["certificates", "info"], &[]).await
    }

    /// A GET below `/nodes/{node}`.
    pub(crate) async fn read_node<T: DeserializeOwned>(
        &self,
        tail: &[&str],
        params: Params<'_>,
    ) -> Result<T, ApiError> {
        let path = [&["nodes", self.node().await?.as_str()], tail].concat();
        self.read(&path, params).await
    }

    pub(crate) async fn read<T: DeserializeOwned>(
        &self,
        path: &[&str],
        params: Params<'_>,
    ) -> Result<T, ApiError> {
        let reply = self.transport.get(path, params).await?;
        T::deserialize(reply.data).map_err(|error| self.transport.bad_answer(&Method::GET, path, error))
    }
}

#[cfg(test)]
#[path = "client/tests.rs"]
mod tests;
