//! `writ-warden`: the only writer on a host.
//!
//! The agent reads, the warden writes. Every mutation is one typed request over a unix socket; the
//! warden checks the peer, the host's own policy, signatures where they are needed, and the live
//! world; then it writes down what it is about to do, does it once, reads the world again and signs a
//! receipt. It is a client of Proxmox on 127.0.0.1 and of nothing else.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | `warden.toml` |
//! | [`identity`] | host id, host key and policy on disk; first enrollment |
//! | [`ledger`] | journal, log and open orders: everything that must survive |
//! | [`policies`] | the policy chain that the host lives by, and its clock's signed floor |
//! | [`world`] | reads a guest from Proxmox |
//! | [`check`] | pure: is the world what was signed, is a step inside the bounds? |
//! | [`space`] | pure: is enough room known to be free? |
//! | [`act`] | sends one mutation to Proxmox and follows its task |
//! | [`recover`] | pure: what to say of an order that a crash interrupted |
//! | [`orders`] | a signed order from envelope to receipt, and what a crash left of one |
//! | [`steps`] | an unsigned step from request to receipt |
//! | [`runner`] | asks the runner, over its socket |
//! | [`answers`] | pure: what the runner's answers say of a script or a session |
//! | [`jobs`] | a signed script: handed to the runner once, its result kept |
//! | [`results`] | sealed results that wait for the hub |
//! | [`sessions`] | a signed session: opened by the runner, passed to the agent, watched to its end |
//! | [`questions`] | answers what changes nothing |
//! | [`upkeep`] | once a day: forgets old nonces |
//! | [`server`] | the socket |
//!
//! What is absent on purpose: no retry of a mutation, no second handover of a script, no way to skip a
//! check, no request that carries unsigned text to a shell, no byte of a session, no network peer but
//! Proxmox.

pub mod act;
pub mod answers;
pub mod check;
pub mod config;
pub mod hold;
pub mod identity;
pub mod jobs;
pub mod ledger;
pub mod orders;
pub mod policies;
pub mod questions;
pub mod recover;
pub mod results;
pub mod runner;
pub mod server;
pub mod sessions;
pub mod space;
pub mod steps;
pub mod upkeep;
pub mod warden;
pub mod world;

pub use config::WardenConfig;
pub use warden::{StartError, Warden};

/// The host's clock, unix seconds. The one place where the warden reads it.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Any text as it may stand in a receipt.
pub(crate) fn safe(text: &str) -> protocol::text::SafeText {
    protocol::text::SafeText::sanitize(text.trim())
}
