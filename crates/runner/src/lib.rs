//! `writ-runner`: runs signed scripts and opens signed sessions as the right user, in the host's namespaces.
//!
//! The warden hands over the signed *envelope*, never a bare command, and the runner verifies it again
//! itself: against a policy that root has named beforehand, and a nonce journal of its own. So a stolen
//! warden can neither invent a script nor replay one. What was accepted runs once, to its end or to its time
//! limit, and leaves nothing behind; its result is sealed to a key that the signed order names, and kept until
//! it is durable elsewhere.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | `runner.toml` |
//! | [`checks`] | pure: may this order be carried out here, as what was asked for? |
//! | [`ledger`] | how far a script has come, as it is kept (policy, journal and memory: the crate `anchored`) |
//! | [`places`] | what is under way, in memory, and how much may be |
//! | [`jobs`] | a signed script, from request to forgotten result |
//! | [`sessions`] | a signed session, as long as its connection |
//! | [`engine`] | starts processes as a user and ends all of them |
//! | [`upkeep`] | once a day: forgets old nonces |
//! | [`server`] | the socket |
//! | [`status`] | what is on the disk, for people |
//!
//! What is absent on purpose: no request that carries a command, no second run of anything, no copy of a
//! session's bytes, no network.

pub mod checks;
pub mod config;
pub mod engine;
pub mod hold;
pub mod jobs;
pub mod ledger;
pub mod places;
pub mod runner;
pub mod server;
pub mod sessions;
pub mod status;
#[cfg(test)]
mod testing;
pub mod upkeep;

pub use config::RunnerConfig;
pub use runner::{Runner, StartError};

/// The host's clock, unix seconds. The one place where the runner reads it.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub use anchored::chain;
