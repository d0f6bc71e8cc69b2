//! Snapshots.

use protocol::SnapshotName;
use serde::{Deserialize, Serialize};

use super::Checked;

/// Of `snapshot.create`: always without memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotParams {
    /// The new snapshot's name.
    pub snapshot: SnapshotName,
}

/// Of `snapshot.rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackParams {
    /// Start the guest afterwards. (Rollback hard-stops a running guest.)
    pub start: bool,
}

impl Checked for SnapshotParams {}
impl Checked for RollbackParams {}
