//! `writ-agent --selftest`: does it work, and if not, what to do.
//!
//! | mode | does | changes |
//! |---|---|---|
//! | `read` | reads from Proxmox whatever a report, and with an acting token an order, needs | nothing |
//! | `hub` | makes one round trip of a report | nothing |
//! | `task` | takes a snapshot of one guest, rolls back to it, deletes it | that guest, for a moment |
//!
//! [`options`] is the command line, [`report`] what is printed.

pub mod hub;
pub mod options;
pub mod read;
pub mod report;
pub mod task;

pub use report::{Check, Findings, Mode, State, Verdict};
