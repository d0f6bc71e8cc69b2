//! The agent: the network face of a host. It reads Proxmox, reports to the hub, plans towards the
//! desired state, and relays signed orders. It holds a **read-only** Proxmox token and decides
//! nothing: every change, signed or not, is one typed request to the warden, which checks it. Of
//! scripts and sessions it sees sealed bytes and ciphertext.
//!
//! One process, four parts that outlive every connection:
//!
//! * [`rounds`]: every interval collect a report, plan, hand the steps to the warden one after the
//!   other, collect and plan again. Runs with the hub away, too.
//! * [`orders`]: hands signed orders to the warden, several at once, each at most once.
//! * [`channel`]: one WebSocket to the hub; what it means is decided by the pure [`session`].
//! * [`run`]: starts the others and connects again, with back-off, for ever.
//!
//! What does not outlive a connection are the sessions that came through it ([`tunnels`] ends them
//! with it) and operators' [`questions`] to the warden.
//!
//! Parts talk in [`session::Note`]s; what could not be sent waits in the session's backlog.
//!
//! | module | is |
//! |---|---|
//! | [`config`] | `agent.toml` |
//! | [`device`] | the device key and its client certificate |
//! | [`state`] | `hub.json` and `desired.json` in the state directory |
//! | [`hub`] | pinned TLS to the hub: calls, the upgrade to a WebSocket, tunnels' data connections |
//! | [`warden`] | the client of the warden's socket |
//! | [`identity`], [`collect`] | from Proxmox's answers to a host report |
//! | [`enroll`] | from a code to an enrolled host, repeatable at every point |
//! | [`selftest`], [`status`] | what a person runs to see whether it works |

pub mod backoff;
pub mod channel;
pub mod collect;
pub mod config;
pub mod device;
pub mod enroll;
pub mod hub;
pub mod identity;
pub mod orders;
pub mod policies;
pub mod questions;
pub mod rounds;
pub mod run;
pub mod selftest;
pub mod session;
pub mod state;
pub mod status;
pub mod tunnels;
pub mod warden;

#[cfg(test)]
mod testing;

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the agent, as it reports it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Unix seconds by the host's clock.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The kernel's boot id.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// An error for a person: its sentence, and what caused it where the sentence does not say so.
pub fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text} [cause: {words}]");
        }
        next = cause.source();
    }
    protocol::text::printable(&text)
}
