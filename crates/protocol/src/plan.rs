//! Steps: what the agent may ask the warden to do without a signature, and the plan that says so.
//! A plan is data; it leaves nothing to decide while it is carried out, and it also says what it
//! waits for.

use serde::{Deserialize, Serialize};

use crate::ids::Vmid;

mod step;

pub use step::{Cores, Direction, DiskSize, Effect, Field, MemoryMib, NewGuest, Pin, Step, StepError};

/// Something wanted that no unsigned step can bring about now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The guest.
    pub vmid: Vmid,
    /// What is wanted.
    pub want: String,
    /// What has to happen first: a signature, an operator, another reading.
    pub needs: String,
}

/// What to do next, for one generation of the desired state and one reading of the world.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Of the desired state; 0 while there is none.
    pub generation: u64,
    /// In the order in which they are carried out.
    pub steps: Vec<Step>,
    /// What cannot be done now.
    pub waiting: Vec<Waiting>,
}

impl Plan {
    /// Whether everything wanted is so.
    pub fn is_converged(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_empty()
    }
}
