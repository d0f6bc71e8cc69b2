//! What root's services on a host have in common. The warden hands them signed orders, never commands, and they
//! trust neither it nor each other: each judges every order again by a policy that root named beforehand, with
//! a nonce journal and a memory of its own, so that a stolen warden can neither invent an order nor replay one.
//!
//! | module | does |
//! |---|---|
//! | [`anchor`] | policy and host on disk: what the service lives by |
//! | [`ledger`] | nonce journal and orders that are not forgotten: everything that must survive |
//! | [`keeper`] | both of them while the service runs, and when it refuses everything |
//! | [`seat`] | the state directory: whose it is, and that only one process has it |
//!
//! What the orders are, and how they are carried out, is the service's own. No socket, no process, no clock.

pub mod anchor;
pub mod keeper;
pub mod ledger;
pub mod seat;
#[cfg(test)]
mod testing;

use std::path::Path;

use authz::RefusalCode;

pub use anchor::{Anchor, AnchorError};
pub use keeper::{Anchoring, Keeper, NotBurned, TakeProblem};
pub use ledger::{Ledger, LedgerError, Stories, Story};
pub use seat::{Seat, SeatError};

/// Whose anchor and ledger these are, in words for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// "runner"
    pub name: &'static str,
    /// "writ-runner"
    pub unit: &'static str,
    /// "runner.toml"
    pub config: &'static str,
    /// What an order is about: "script".
    pub what: &'static str,
    /// The sentence of a host without an anchor.
    pub not_set_up: &'static str,
    /// The rule that refuses then.
    pub code: RefusalCode,
}

impl Who {
    /// How a new beginning goes. Orders that are still valid would count once more with an empty journal;
    /// none is valid for more than a day.
    pub fn start_over(&self, state_dir: &Path) -> String {
        format!(
            "start over: root stops the {}, waits until no signed order is valid any more (a day), empties {} and starts it again",
            self.name,
            state_dir.display()
        )
    }

    /// Somebody else has the state directory.
    pub(crate) fn locked(&self, path: &Path) -> String {
        format!(
            "{} is locked: another {} uses this state directory; stop it first",
            path.display(),
            self.unit
        )
    }
}

/// Why not. One of these is one refusal on the service's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// A refusal code of `authz`, or another short code.
    pub code: String,
    /// Cause and remedy.
    pub why: String,
}

impl Denied {
    /// By one of the rules that `authz` numbers.
    pub fn new(code: RefusalCode, why: impl Into<String>) -> Self {
        Self::other(&code.to_string(), why)
    }

    /// By a rule of the socket's.
    pub fn other(code: &str, why: impl Into<String>) -> Self {
        Self { code: code.to_owned(), why: why.into() }
    }
}

/// An error and its causes in one line, for the log and for the warden.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
