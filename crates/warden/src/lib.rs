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
//! | [`world`] | reads a guest from Proxmox |
//! | [`check`] | pure: is the world what was signed, is a step inside the bounds? |
//! | [`space`] | pure: is enough room known to be free? |
//! | [`act`] | sends one mutation to Proxmox and follows its task |
//! | [`recover`] | pure: what to say of an order that a crash interrupted |
//! | [`orders`] | a signed order from envelope to receipt, and what a crash left of one |
//! | [`steps`] | an unsigned step from request to receipt |
//! | [`server`] | the socket |
//!
//! What is absent on purpose: no retry of a mutation, no way to skip a check, no request that carries
//! free text to a shell, no network peer but Proxmox.

pub mod act;
pub mod check;
pub mod config;
pub mod hold;
pub mod identity;
pub mod ledger;
pub mod orders;
pub mod recover;
pub mod server;
pub mod space;
pub mod steps;
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
