//! Operations on a guest that exists, both kinds of guest, against a simulated Proxmox: done, refused, changed
//! in between, locked, answered into the void, done with warnings, recycled, managed by high availability.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions")]

mod care;
#[path = "../common/mod.rs"]
mod common;
mod disks;
mod options;
mod power;
mod rights;
