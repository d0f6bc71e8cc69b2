use std::fs;

use super::*;

const FILE: &str = "nonces-000001.seg";

/// Reads a directory that holds these bytes as its only segment.
fn scan(bytes: &[u8]) -> Result<Inspected, JournalError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), bytes).unwrap();
    NonceJournal::inspect(dir.path())
}

fn nonce(n: u8) -> Nonce {
    Nonce::from_bytes([n; 16])
}

fn filled(directory: &Path, count: u8) -> Vec<u8> {
    let mut journal = NonceJournal::create(directory).unwrap();
    for n in 1..=count {
        journal.burn(&nonce(n), &Sha256::of(&[n]), 1000).unwrap();
    }
    drop(journal);
    fs::read(directory.join(FILE)).unwrap()
}

#[test]
fn burned_stays_burned_across_opening() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(filled(dir.path(), 3).len(), 4 * RECORD);
    let mut journal = NonceJournal::open(dir.path()).unwrap();
    assert!(matches!(
        journal.burn(&nonce(2), &Sha256::of(b"other"), 9),
        Err(JournalError::Burned { record: 2 })
    ));
    assert!(journal.find(&nonce(4)).is_none());
    let op = |n: u8| -> [u8; 16] { Sha256::of(&[n]).as_bytes()[..16].try_into().unwrap() };
    assert!(journal.ops().contains(&op(3)) && !journal.ops().contains(&op(4)));
    assert_eq!(NonceJournal::inspect(dir.path()).unwrap().ops, journal.ops());
    journal.burn(&nonce(4), &Sha256::of(&[4]), 9).unwrap();
}

#[test]
fn a_second_warden_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = NonceJournal::create(dir.path()).unwrap();
    assert!(matches!(NonceJournal::open(dir.path()), Err(JournalError::Locked { .. })));
}

#[test]
fn a_missing_or_existing_journal_is_never_papered_over() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(NonceJournal::open(dir.path()), Err(JournalError::Missing { .. })));
    drop(NonceJournal::create(dir.path()).unwrap());
    assert!(matches!(NonceJournal::create(dir.path()), Err(JournalError::Exists { .. })));
}

/// Every length a crash can leave: all records that were acknowledged before survive.
#[test]
fn every_torn_tail_opens_and_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = filled(dir.path(), 3);
    for length in RECORD..=bytes.len() {
        let scan = scan(&bytes[..length]).unwrap();
        assert_eq!(scan.ops.len(), length / RECORD - 1, "length {length}");
    }
    // The same, where the file already has its new length but not all of its bytes.
    for kept in 3 * RECORD..bytes.len() {
        for fill in [0x00, 0xff] {
            let mut torn = bytes.clone();
            torn[kept..].fill(fill);
            let scan = scan(&torn).unwrap();
            assert!(scan.ops.len() >= 2, "kept {kept} fill {fill}");
        }
    }
    // On disk: cut, usable, and the cut is durable.
    fs::write(dir.path().join(FILE), &bytes[..bytes.len() - 1]).unwrap();
    let mut journal = NonceJournal::open(dir.path()).unwrap();
    assert_eq!(
        fs::read(dir.path().join(FILE)).unwrap().len(),
        bytes.len() - 1,
        "opening destroys no evidence"
    );
    journal.burn(&nonce(9), &Sha256::of(&[9]), 1).unwrap();
    drop(journal);
    assert!(NonceJournal::open(dir.path()).unwrap().find(&nonce(9)).is_some());
}

#[test]
fn every_flipped_bit_is_refused_or_is_in_the_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = filled(dir.path(), 3);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match scan(&flipped) {
            Err(_) => assert!(bit / 8 < 3 * RECORD),
            Ok(scan) => {
                assert!(bit / 8 >= 3 * RECORD, "bit {bit} went unnoticed");
                assert_eq!(scan.ops.len(), 2);
            }
        }
    }
}

#[test]
fn damage_that_no_crash_makes_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = filled(dir.path(), 4);
    let record = |n: usize| bytes[n * RECORD..(n + 1) * RECORD].to_vec();
    let cases = [
        ("empty", vec![]),
        ("half a header", bytes[..50].to_vec()),
        ("bad header only", vec![0; RECORD]),
        ("a record is gone", [record(0), record(1), record(3), record(4)].concat()),
        ("records swapped", [record(0), record(2), record(1), record(3)].concat()),
        ("a record twice", [record(0), record(1), record(1), record(2)].concat()),
        ("a second header", [record(0), record(0), record(1)].concat()),
        ("two damaged records", {
            let mut b = bytes.clone();
            b[3 * RECORD..].fill(0);
            b
        }),
        ("damaged record and a torn one", {
            let mut b = bytes.clone();
            b[4 * RECORD] ^= 1;
            b.push(0);
            b
        }),
    ];
    for (what, damaged) in cases {
        assert!(scan(&damaged).is_err(), "{what}");
    }
    fs::write(dir.path().join(FILE), &bytes[RECORD..]).unwrap();
    let error = NonceJournal::open(dir.path()).unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { record: 0, .. }), "{error}");
}

#[test]
fn after_a_disk_error_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = NonceJournal::create(dir.path()).unwrap();
    // A handle that cannot be written to stands for any failing disk.
    journal.file = Box::new(fs::File::open(dir.path().join(FILE)).unwrap());
    assert!(matches!(journal.burn(&nonce(1), &Sha256::of(b"1"), 1), Err(JournalError::File(_))));
    assert!(matches!(journal.burn(&nonce(2), &Sha256::of(b"2"), 1), Err(JournalError::Poisoned)));
}
