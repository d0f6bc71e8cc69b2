//! Guests, virtual machines and containers alike.

pub(crate) mod agent;
pub(crate) mod change;
pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod disk;
pub(crate) mod lifecycle;
mod options;
pub(crate) mod power;
pub(crate) mod property;
pub(crate) mod snapshot;
pub(crate) mod status;

use crate::catalog::AnyCall;
use crate::client::Client;
use crate::value::ids::{NodeName, Vmid};
use crate::wire::error::ApiError;

/// The calls of each part.
pub(crate) static CALLS: &[&[&dyn AnyCall]] = &[
    status::CALLS,
    config::CALLS,
    change::CALLS,
    create::CALLS,
    disk::CALLS,
    lifecycle::CALLS,
    power::CALLS,
    snapshot::CALLS,
    agent::CALLS,
];

/// The two path values that every call about a guest begins with.
pub(crate) struct Place<'a> {
    node: &'a NodeName,
    vmid: String,
}

impl Place<'_> {
    pub(crate) fn parts(&self) -> [&str; 2] {
        [self.node.as_str(), &self.vmid]
    }

    pub(crate) fn and<'b>(&'b self, more: &'b str) -> [&'b str; 3] {
        [self.node.as_str(), &self.vmid, more]
    }
}

impl Client {
    /// Where a guest is asked for.
    pub(crate) async fn guest(&self, vmid: Vmid) -> Result<Place<'_>, ApiError> {
        Ok(Place { node: self.node().await?, vmid: vmid.to_string() })
    }
}
