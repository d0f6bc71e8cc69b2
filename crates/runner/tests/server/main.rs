//! The real binary over its real socket: what it does, what it refuses, and what is true after it was
//! killed. It runs as whoever runs the tests, and so do the scripts.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

mod anchoring;
mod crash;
mod hostile;
mod refusals;
mod rig;
mod scripts;
mod sessions;
