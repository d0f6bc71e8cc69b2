//! The real binary over its real socket, against a made-up host: a tree of devices, and small scripts that stand
//! in for `pct`, `systemctl` and `smartctl`.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

mod containers;
mod crash;
mod disks;
mod hostile;
mod rig;
mod smart;
mod units;
mod with_warden;
