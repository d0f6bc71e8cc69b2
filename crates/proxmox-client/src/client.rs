//! The client: one node, one token, the limits it keeps. What it can ask is in `cluster.rs`,
//! `node.rs`, `guest/` and `task/`.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::catalog::Request;
use crate::value::ids::NodeName;
use crate::wire::endpoint::Endpoint;
use crate::wire::error::{ApiError, ClientError};
use crate::wire::pin::PinSet;
use crate::wire::presented::Presented;
use crate::wire::token::ApiToken;
use crate::wire::transport::Transport;

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

    /// The certificate that the server showed, and whose key it proved, on the last connection that was
    /// made; `None` before the first.
    #[must_use]
    pub fn presented(&self) -> Option<Presented> {
        self.transport.presented()
    }

    /// The node the calls go to: the only one, or the entry marked local. Asked once and kept.
    ///
    /// # Errors
    /// [`ApiError`]; in a cluster also if the token may not read `/cluster/status`.
    pub async fn node(&self) -> Result<&NodeName, ApiError> {
        self.node.get_or_try_init(|| self.find_node()).await
    }

    async fn find_node(&self) -> Result<NodeName, ApiError> {
        let bad = |path: &str, why: String| self.transport.bad(path, why);
        let nodes = self.nodes().await?;
        if let [only] = nodes.as_slice() {
            return only.node.parse().map_err(|error: crate::IdError| bad("/nodes", error.to_string()));
        }
        let path = "/cluster/status";
        let entries = self.cluster_status().await?;
        let local = entries.into_iter().find(|entry| entry.local == Some(true)).and_then(|entry| entry.name);
        let name = local.ok_or_else(|| bad(path, "no entry is marked as the local node".to_owned()))?;
        name.parse().map_err(|error: crate::IdError| bad(path, error.to_string()))
    }

    pub(crate) async fn send<T>(&self, request: Request<T>) -> Result<T, ApiError> {
        self.transport.send(&request).await
    }
}

#[cfg(test)]
mod tests;
