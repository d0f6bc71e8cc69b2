//! Every error of every call (`security.md` 4.5), at every place where a journal's life makes that call:
//! what it says, and that nothing was acknowledged without a durable record.

use std::collections::{BTreeMap, BTreeSet};

use authz::journal::{JournalError, NonceJournal};

use crate::model::{Call, Fault, Model, Trouble};
use crate::{LATE, burn, dir, found, open};

const CAPACITY: u64 = 4;
const TROUBLES: [(&str, Trouble); 6] = [
    ("EIO", Trouble::Errno(5)),
    ("ENOSPC", Trouble::Errno(28)),
    ("EDQUOT", Trouble::Errno(122)),
    ("EROFS", Trouble::Errno(30)),
    ("EINTR", Trouble::Errno(4)),
    ("short", Trouble::Short),
];

/// What a journal says to a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    /// Nothing: the call was made again, or the rest of it.
    Done,
    /// Nothing was burned, and it goes on.
    Refused,
    /// It takes nothing more until it is opened again.
    Poisoned,
    /// It did not open.
    Closed,
}

/// One life with one fault. Whoever gets an error does what the warden does: goes on after a refusal, and
/// starts again after anything else.
struct Life {
    model: Model,
    journal: Option<NonceJournal>,
    said: BTreeSet<Said>,
    refused: BTreeSet<u8>,
}

impl Life {
    fn new(fault: Option<Fault>) -> Self {
        let model = Model::default();
        model.record();
        if let Some(fault) = fault {
            model.inject(fault);
        }
        Self { model, journal: None, said: BTreeSet::new(), refused: BTreeSet::new() }
    }

    fn run(&mut self) {
        self.start();
        (1..=7).for_each(|n| self.burn(n));
        self.forget();
        self.burn(8);
        self.journal = None;
        // So that the next record has something to cut off.
        self.model.tear();
        (9..=11).for_each(|n| self.burn(n));
        self.forget();
        self.burn(12);
    }

    /// A started journal; the fault comes once, so the second attempt is the last.
    fn start(&mut self) {
        for _ in 0..2 {
            if self.journal.is_some() {
                return;
            }
            let made = self.model.state().tried.contains(&0);
            let opened = if made {
                open(&self.model, CAPACITY)
            } else {
                NonceJournal::begin_on(&|| Box::new(self.model.clone()), dir(), CAPACITY)
            };
            match opened {
                Ok(journal) => {
                    let there = found(&journal);
                    assert!(there.is_disjoint(&self.refused), "{:?} was burned all the same", self.refused);
                    self.model.note(|state| {
                        state.tried.insert(0);
                        // Whoever opened it acts on what it says.
                        state.acknowledged.extend(there);
                    });
                    self.journal = Some(journal);
                }
                Err(error) => {
                    assert!(error.to_string().contains(':'), "{error}");
                    self.said.insert(Said::Closed);
                }
            }
        }
        assert!(self.journal.is_some(), "it never opened");
    }

    fn burn(&mut self, n: u8) {
        for _ in 0..2 {
            self.start();
            let journal = self.journal.as_mut().unwrap();
            self.model.note(|state| {
                state.tried.insert(n);
            });
            match burn(journal, n) {
                Ok(()) => {
                    self.model.note(|state| {
                        state.acknowledged.insert(n);
                    });
                    self.refused.remove(&n);
                    return;
                }
                // It was burned before the process ended; that it was not acknowledged is allowed.
                Err(JournalError::Burned { .. }) => return,
                Err(error) => self.failed(&error, Some(n)),
            }
        }
        panic!("{n} was never burned");
    }

    fn forget(&mut self) {
        for _ in 0..2 {
            self.start();
            self.model.note(|state| state.forgettable = state.acknowledged.clone());
            match self.journal.as_mut().unwrap().compact(LATE, LATE, &BTreeSet::new()) {
                Ok(_) => return,
                Err(error) => self.failed(&error, None),
            }
        }
        panic!("never forgotten");
    }

    fn failed(&mut self, error: &JournalError, burning: Option<u8>) {
        let journal = self.journal.as_mut().unwrap();
        if error.burned_nothing() {
            self.said.insert(Said::Refused);
            self.refused.extend(burning);
            assert!(error.to_string().contains("nothing was burned"), "{error}");
            return;
        }
        self.said.insert(Said::Poisoned);
        assert!(matches!(error, JournalError::File(_)), "{error}");
        assert!(matches!(burn(journal, 200), Err(JournalError::Poisoned)));
        assert!(matches!(journal.reserve(), Err(JournalError::Poisoned)));
        assert!(matches!(journal.compact(LATE, LATE, &BTreeSet::new()), Err(JournalError::Poisoned)));
        self.journal = None;
    }

    /// At every moment: what had been acknowledged is on the disk, whatever else reached it.
    fn check(&self, what: &str) {
        for state in self.model.history() {
            if !state.tried.contains(&0) {
                continue;
            }
            for disk in [state.least(), Model::after_kill(&state).image()] {
                let journal = open(&Model::of_image(&disk), CAPACITY);
                let there = found(&journal.unwrap_or_else(|error| panic!("{what}: {error}")));
                let lost: Vec<_> = state.acknowledged.difference(&there).collect();
                assert!(lost.iter().all(|n| state.forgettable.contains(n)), "{what}: lost {lost:?}");
            }
        }
    }
}

#[test]
fn every_error_of_every_call_is_told_and_nothing_is_acknowledged_without_its_record() {
    use Said::{Closed, Done, Poisoned, Refused};
    let calls = [
        ("open", Call::Open),
        ("write", Call::Write),
        ("fdatasync", Call::Sync),
        ("fsync dir", Call::SyncDirectory),
        ("rename", Call::Rename),
        ("ftruncate", Call::SetLen),
        ("fallocate", Call::Reserve),
        ("flock", Call::Lock),
    ];
    let mut table = BTreeMap::new();
    let mut runs = 0;
    for (call_name, call) in calls.into_iter().chain([("unlink", Call::Remove)]) {
        for (name, trouble) in TROUBLES {
            let mut said = BTreeSet::new();
            for nth in 0.. {
                let mut life = Life::new(Some(Fault { call, nth, trouble }));
                life.run();
                if !life.model.hit() {
                    assert!(nth > 0, "{call_name} is never called");
                    break;
                }
                if life.said.is_empty() {
                    life.said.insert(Done);
                }
                life.check(&format!("{name} at {call_name} {nth}"));
                said.extend(life.said);
                runs += 1;
            }
            println!("{call_name:<10} {name:<7} {said:?}");
            table.insert((call_name, name), said);
        }
    }
    println!("errors: {} cells, {runs} lives", table.len());
    assert_eq!(table.len(), 54);
    let expected = |call: &str, name: &str| -> Vec<Said> {
        let room = ["ENOSPC", "EDQUOT", "EROFS", "EINTR"].contains(&name);
        match call {
            // Of a segment or the tombstone that is to be made: refused where room is missing.
            "open" if room => vec![Refused, Closed],
            "open" => vec![Poisoned, Closed],
            "write" if ["EINTR", "short"].contains(&name) => vec![Done],
            "write" | "fdatasync" | "fsync dir" => vec![Poisoned, Closed],
            "rename" | "ftruncate" | "unlink" => vec![Poisoned],
            "fallocate" if room => vec![Refused],
            "fallocate" => vec![Poisoned],
            "flock" => vec![Closed],
            _ => vec![],
        }
    };
    for ((call, name), said) in table {
        assert_eq!(said, expected(call, name).into_iter().collect(), "{name} at {call}");
    }
}
