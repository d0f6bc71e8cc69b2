//! What makes and ends guests and bulk data, against a simulated Proxmox: done, refused, failed, with its
//! answers lost, and with the world changed in between.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions")]

mod backup;
mod create;
mod destroy;
mod restore;
mod rig;
mod storage;
mod unsigned;
