//! Signed scripts and sessions: the warden's library against a scripted runner on a unix socket.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

mod crashes;
mod fake_runner;
mod jobs;
mod journal;
mod policies;
mod rig;
mod server;
mod sessions;
