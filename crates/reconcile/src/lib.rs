//! From what is wanted and what was seen to what is to be done: `plan(desired, observed)`.
//!
//! Everything here is pure: no clock, no network, no memory of the last round. The same desired
//! state and the same reading give the same [`protocol::plan::Plan`], and planning again after its
//! steps were carried out gives no steps. What no unsigned step may bring about, or what could not
//! be read, becomes an entry of `waiting` that says what has to happen first; a missing reading is
//! never a reason to act.
//!
//! | module | decides |
//! |---|---|
//! | [`plan`](mod@plan) | which steps, in which order, and what waits for what |
//! | [`generation`] | whether a delivered desired state is newer than the one in force |

pub mod generation;
pub mod plan;

pub use generation::{Accept, GenerationRefused, MAX_GENERATION, MAX_LEAP, accept_generation};
pub use plan::{plan, plan_unread};
