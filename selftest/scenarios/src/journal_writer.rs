//! A process that burns nonces and says so, to be killed at any system call, or to run into a full disk.
//! Started by `tests/journal_crash.rs`; its lines are the acknowledgements.

use std::collections::BTreeSet;
use std::path::Path;

use authz::files::layer::Disk;
use authz::journal::{JournalError, NonceJournal};
use protocol::{Nonce, Sha256};

use crate::{Fallible, Trouble};

/// Records a segment, so that a few nonces need several.
pub const RECORDS: u64 = 3;

/// The nonce and the order of a number.
pub fn order(number: u64) -> (Nonce, Sha256) {
    let mut nonce = [0; 16];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    (Nonce::from_bytes(nonce), Sha256::of(&nonce))
}

/// Opens what is there, or begins.
pub fn open(directory: &Path, records: u64) -> Result<NonceJournal, JournalError> {
    NonceJournal::begin_on(&|| Box::new(Disk), directory, records)
}

/// Burns as many nonces, forgets in the middle what can be forgotten, and goes on.
pub fn run(directory: &Path, count: u64) -> Fallible<()> {
    let mut journal = open(directory, RECORDS).map_err(told)?;
    for number in 1..=count {
        let (nonce, op) = order(number);
        journal.burn(&nonce, &op, 1).map_err(told)?;
        println!("burned {number}");
        if number == count / 2 + 1 {
            println!("forgetting");
            journal.compact(u64::MAX, u64::MAX, &BTreeSet::new()).map_err(told)?;
        }
    }
    println!("done");
    Ok(())
}

/// Burns nonces until there is no room, checks that the one that was refused is not burned and that all
/// others are, makes room, and burns it.
pub fn run_until_full(directory: &Path) -> Fallible<()> {
    // A page a segment.
    let records = 42;
    let filler = directory.join("filler");
    let fail = |error| Trouble::new("the filler", error);
    std::fs::write(&filler, [1; 16 * 1024]).map_err(fail)?;
    let mut journal = open(directory, records).map_err(told)?;
    let mut number = 1;
    let refused = loop {
        let (nonce, op) = order(number);
        match journal.burn(&nonce, &op, 1) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
        if number > 100_000 {
            return Err(Trouble("this disk never gets full".into()));
        }
    };
    if !refused.burned_nothing() {
        return Err(told(refused));
    }
    println!("full after {}: {refused}", number - 1);
    if !journal.reserve().is_err_and(|error| error.burned_nothing()) {
        return Err(Trouble("there is room all of a sudden".into()));
    }
    drop(journal);
    let mut journal = open(directory, records).map_err(told)?;
    if (1..number).any(|number| journal.find(&order(number).0).is_none()) {
        return Err(Trouble("an acknowledged nonce is lost".into()));
    }
    if journal.find(&order(number).0).is_some() {
        return Err(Trouble("the refused nonce is burned".into()));
    }
    std::fs::remove_file(&filler).map_err(fail)?;
    let (nonce, op) = order(number);
    journal.burn(&nonce, &op, 1).map_err(told)?;
    println!("went on with {number}");
    Ok(())
}

fn told(error: JournalError) -> Trouble {
    Trouble::new("the journal", error)
}
