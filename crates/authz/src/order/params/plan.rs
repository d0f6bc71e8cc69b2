//! Plans.

use protocol::Sha256;
use serde::{Deserialize, Serialize};

use super::{Checked, Wrong, demand};

/// Of `plan.approve`. The plan itself is named by the order's `plan`, which this kind must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproveParams {
    /// SHA-256 of the approved steps, exactly these and in this order.
    pub steps: Sha256,
    /// Their number, 1 to 1000.
    pub count: u32,
}

impl Checked for ApproveParams {
    fn check(&self) -> Result<(), Wrong> {
        demand((1..=1000).contains(&self.count), "params.count", "1 to 1000")
    }
}
