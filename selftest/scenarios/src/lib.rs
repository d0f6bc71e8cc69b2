//! Whole-system scenarios: the real binaries as separate processes against a simulated Proxmox VE, on
//! this machine only, in a temporary directory.
//!
//! | module | does |
//! |---|---|
//! | [`bins`] | finds the workspace's binaries, building what is missing |
//! | [`process`] | child processes that never outlive their owner |
//! | [`stand`] | brings up pve-sim, hub, warden, runner and agent; drives `writ` and `ssh-keygen` as a person would |
//! | [`client`] | OpenSSH's clients on the stand, through `writ connect` |
//! | [`processes`] | what runs on this machine |
//! | [`tap`] | listens in front of the hub with its stolen key |
//! | [`search`] | looks for a text in whatever encoding |
//! | [`courier`] | talks to the hub's API directly, with orders written by hand |
//! | [`evil_hub`] | what somebody could do who owns the hub: rewrite its database |
//! | [`forge`] | changes an order the way an attacker or a mistake would |
//! | [`journal_writer`] | a process that burns nonces until it is killed |
//! | [`recordings`] | reads recorded answers with the client's decoders |
//! | [`demo`] | `./run demo` |
//!
//! The tests beside this library use the same stand; `tests/fence.rs` holds the architecture to what
//! ARCHITECTURE.md says.

pub mod bins;
pub mod client;
pub mod courier;
pub mod demo;
pub mod evil_hub;
pub mod forge;
pub mod journal_writer;
pub mod process;
pub mod processes;
pub mod recordings;
pub mod search;
pub mod stand;
pub mod tap;

/// Whatever goes wrong while a scenario is set up or driven, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

impl Trouble {
    /// With context.
    pub fn new(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

/// Most functions here.
pub type Fallible<T> = Result<T, Trouble>;
