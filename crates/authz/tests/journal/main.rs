//! The nonce journal against everything a disk and a crash can do (`security.md` 4.4 D1, D2, D6, D7 and
//! 4.5), on a model of a file system. Nothing acknowledged is ever lost, nothing lost is ever
//! acknowledged, and what a crash leaves always opens.
//!
//! | module | shows |
//! |---|---|
//! | [`model`] | the file system: what is seen, what is durable, and every state in between |
//! | [`power`] | power lost at any moment, also after a process was killed |
//! | [`errors`] | every error of every call |
//! | [`damage`] | flipped bits, missing and foreign files |
//! | [`running`] | files changed under a running journal, two journals, forgetting |
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

mod damage;
mod errors;
mod model;
mod power;
mod running;

use std::collections::BTreeSet;
use std::path::Path;

use authz::journal::{AGE, JournalError, NonceJournal};
use model::Model;
use protocol::{Nonce, Sha256};

/// Where the journal of a model is.
const DIR: &str = "state";
/// When the orders of the tests expire.
const EXP: u64 = 1_000_000;
/// A time at which all of them may be forgotten, for the floor and for the clock.
const LATE: u64 = EXP + AGE + 1;

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn nonce(n: u8) -> Nonce {
    Nonce::from_bytes([n; 16])
}

fn op(n: u8) -> Sha256 {
    Sha256::of(&[n])
}

fn short(n: u8) -> [u8; 16] {
    op(n).as_bytes()[..16].try_into().unwrap()
}

fn burn(journal: &mut NonceJournal, n: u8) -> Result<(), JournalError> {
    journal.burn(&nonce(n), &op(n), EXP)
}

fn create(model: &Model, capacity: u64) -> NonceJournal {
    NonceJournal::create_on(Box::new(model.clone()), dir(), capacity).unwrap()
}

fn open(model: &Model, capacity: u64) -> Result<NonceJournal, JournalError> {
    NonceJournal::open_on(Box::new(model.clone()), dir(), capacity)
}

/// Which of the nonces of these tests are burned.
fn found(journal: &NonceJournal) -> BTreeSet<u8> {
    (1..30).chain(100..104).filter(|n| journal.find(&nonce(*n)).is_some()).collect()
}
