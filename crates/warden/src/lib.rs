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
//! | [`adopted`] | guests in Writ's care, each with an instance id |
//! | [`world`] | reads guests, backups, storages from Proxmox |
//! | [`ops`] | pure: what an order does, as data: calls, tasks, what the world shows afterwards |
//! | [`check`] | pure: who carries a kind out? |
//! | [`bounds`] | pure: is an unsigned step inside the bounds and rates? |
//! | [`space`] | pure: is enough room known to be free? |
//! | [`exec`] | carries out a program: each call once, its task followed, the world read again |
//! | [`queue`] | who may work on which guest and storage, and who waits |
//! | [`plans`] | what an order would do, signed and remembered |
//! | [`orders`] | a signed order from envelope to receipt, and what a crash left of one |
//! | [`steps`] | an unsigned step from request to receipt |
//! | [`runner`] | asks the runner, over its socket |
//! | [`follow`] | brings a service of root's the policy that it lives by |
//! | [`privileged`] | what only root can do: handed to `writ-privileged` once |
//! | [`answers`] | pure: what the runner's answers say of a script or a session |
//! | [`jobs`] | a signed script: handed to the runner once, its result kept |
//! | [`results`] | sealed results that wait for the hub |
//! | [`sessions`] | a signed session: opened by the runner, passed to the agent, watched to its end |
//! | [`console`] | what root on the host can see without the hub |
//! | [`questions`] | answers what changes nothing |
//! | [`server`] | the socket |
//!
//! What is absent on purpose: no retry of a mutation, no second handover of a script, no way to skip a
//! check, no request that carries unsigned text to a shell, no byte of a session, no network peer but
//! Proxmox.

pub mod adopted;
pub mod answers;
pub mod bounds;
pub mod check;
pub mod config;
pub mod console;
mod exec;
mod follow;
pub mod hold;
pub mod identity;
pub mod jobs;
pub mod ledger;
pub mod ops;
pub mod orders;
mod plans;
pub mod policies;
pub mod privileged;
pub mod questions;
pub mod queue;
pub mod results;
pub mod runner;
pub mod server;
pub mod sessions;
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
