//! What happens to a journal while it is open: another one (D6), its files replaced (D7), and forgetting by
//! the signed floor.

use std::collections::BTreeSet;
use std::path::PathBuf;

use authz::files::layer::{Disk, Layer};
use authz::journal::{AGE, FLOOR_MARGIN, JournalError, NonceJournal, RECORD};

use crate::{EXP, LATE, burn, found, nonce, op, short};

const CAPACITY: u64 = 4;

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn with(count: u8) -> (Self, NonceJournal) {
        let rig = Self { dir: tempfile::tempdir().unwrap() };
        let mut journal = NonceJournal::create_on(Box::new(Disk), rig.dir.path(), CAPACITY).unwrap();
        (1..=count).for_each(|n| burn(&mut journal, n).unwrap());
        (rig, journal)
    }

    fn open(&self) -> Result<NonceJournal, JournalError> {
        NonceJournal::open_on(Box::new(Disk), self.dir.path(), CAPACITY)
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.dir.path().join(format!("nonces-{number:06}.seg"))
    }

    fn files(&self) -> BTreeSet<String> {
        Disk.names(self.dir.path()).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
    }
}

#[test]
fn segments_go_on_where_the_last_one_ended() {
    let (rig, journal) = Rig::with(8);
    drop(journal);
    assert_eq!(
        rig.files(),
        ["nonces-000001.seg", "nonces-000002.seg", "nonces-000003.seg", "nonces.lock"]
            .map(String::from)
            .into()
    );
    let mut journal = rig.open().unwrap();
    assert_eq!(found(&journal), (1..=8).collect());
    assert_eq!(journal.find(&nonce(8)).unwrap().record, 10, "records are numbered over all segments");
    assert!(matches!(burn(&mut journal, 1), Err(JournalError::Burned { record: 1 })));
    assert!(matches!(rig.open(), Err(JournalError::Locked { .. })), "D6");
}

/// What was written before there were segments: one file, however long.
#[test]
fn a_journal_of_one_long_file_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = NonceJournal::create_on(Box::new(Disk), dir.path(), 1000).unwrap();
    (1..=20).for_each(|n| burn(&mut journal, n).unwrap());
    drop(journal);
    let before = std::fs::read(dir.path().join("nonces-000001.seg")).unwrap();
    let mut journal = NonceJournal::open_on(Box::new(Disk), dir.path(), CAPACITY).unwrap();
    burn(&mut journal, 21).unwrap();
    drop(journal);
    assert_eq!(std::fs::read(dir.path().join("nonces-000001.seg")).unwrap(), before);
    let journal = NonceJournal::open_on(Box::new(Disk), dir.path(), CAPACITY).unwrap();
    assert_eq!(found(&journal), (1..=21).collect());
}

/// Once the next segment's file is there, a torn record in the one before would be damage: so nothing more
/// goes there, also where another version of this program makes segments longer.
#[test]
fn nothing_is_added_to_a_segment_after_which_another_was_begun() {
    let (rig, journal) = Rig::with(3);
    drop(journal);
    std::fs::write(rig.segment(2), "half a header").unwrap();
    let before = std::fs::read(rig.segment(1)).unwrap();
    let mut journal = NonceJournal::open_on(Box::new(Disk), rig.dir.path(), 1000).unwrap();
    burn(&mut journal, 4).unwrap();
    drop(journal);
    assert_eq!(std::fs::read(rig.segment(1)).unwrap(), before);
    assert_eq!(std::fs::metadata(rig.segment(2)).unwrap().len(), 2 * RECORD as u64);
    assert_eq!(found(&rig.open().unwrap()), (1..=4).collect());
}

#[test]
fn files_that_change_under_a_running_journal_are_noticed_before_the_next_record() {
    type Change = fn(&Rig);
    let cases: [(&str, Change, &str); 6] = [
        ("removed", |rig| std::fs::remove_file(rig.segment(2)).unwrap(), "it is gone"),
        (
            "replaced by a copy",
            |rig| {
                let copy = rig.dir.path().join("copy");
                std::fs::copy(rig.segment(2), &copy).unwrap();
                std::fs::rename(copy, rig.segment(2)).unwrap();
            },
            "another file",
        ),
        (
            "cut",
            |rig| {
                let file = std::fs::File::options().write(true).open(rig.segment(2)).unwrap();
                file.set_len(RECORD as u64).unwrap();
            },
            "shorter",
        ),
        ("emptied in place", |rig| std::fs::write(rig.segment(2), "").unwrap(), "shorter"),
        (
            "made longer",
            |rig| {
                let bytes = std::fs::read(rig.segment(2)).unwrap();
                std::fs::write(rig.segment(2), [&bytes[..], b"x"].concat()).unwrap();
            },
            "longer",
        ),
        (
            "the directory moved away and another put there",
            |rig| {
                let (here, away) = (rig.dir.path(), rig.dir.path().with_extension("away"));
                std::fs::rename(here, &away).unwrap();
                std::fs::create_dir(here).unwrap();
                std::fs::remove_dir_all(away).unwrap();
            },
            "it is gone",
        ),
    ];
    for (what, change, says) in cases {
        for reserve in [false, true] {
            let (rig, mut journal) = Rig::with(5);
            change(&rig);
            let error = if reserve { journal.reserve() } else { burn(&mut journal, 6) }.unwrap_err();
            assert!(error.to_string().contains(says), "{what}: {error}");
            assert!(!error.burned_nothing() && matches!(error, JournalError::Replaced { .. }));
            assert!(matches!(burn(&mut journal, 7), Err(JournalError::Poisoned)), "{what}");
        }
    }
    // A next segment that somebody else made.
    for (bytes, says) in [(&b""[..], "there already"), (&[0; 500], "there already")] {
        let (rig, mut journal) = Rig::with(6);
        std::fs::write(rig.segment(3), bytes).unwrap();
        let error = burn(&mut journal, 7).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn an_interrupted_making_is_finished_and_a_history_is_not_made_again() {
    for trace in [&b""[..], b"WRJN", &[0; RECORD]] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("nonces-000001.seg"), trace).unwrap();
        assert!(NonceJournal::is_trace(dir.path()).unwrap() && NonceJournal::exists(dir.path()));
        assert!(matches!(NonceJournal::create(dir.path()), Err(JournalError::Exists { .. })));
        assert!(matches!(NonceJournal::open(dir.path()), Err(JournalError::Corrupt { record: 0, .. })));
        let mut journal = NonceJournal::begin(dir.path()).unwrap();
        burn(&mut journal, 1).unwrap();
        drop(journal);
        assert!(!NonceJournal::is_trace(dir.path()).unwrap());
        assert_eq!(found(&NonceJournal::begin(dir.path()).unwrap()), [1].into());
    }
    let (rig, journal) = Rig::with(5);
    drop(journal);
    std::fs::write(rig.segment(1), [0; RECORD]).unwrap();
    assert!(!NonceJournal::is_trace(rig.dir.path()).unwrap());
    assert!(matches!(NonceJournal::begin(rig.dir.path()), Err(JournalError::Corrupt { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(!NonceJournal::is_trace(empty.path()).unwrap() && !NonceJournal::exists(empty.path()));
}

#[test]
fn only_whole_segments_that_floor_and_clock_are_long_past_are_forgotten() {
    let (rig, mut journal) = Rig::with(0);
    let exps = [10, 10, 10, 20, 5, 20, 10, 10].map(|days: u64| EXP + days * 24 * 3600);
    for (n, exp) in (1..).zip(exps) {
        journal.burn(&nonce(n), &op(n), exp).unwrap();
    }
    let none = BTreeSet::new();
    let far = u64::MAX;
    let first = exps[0];
    for (floor, now) in [(first + FLOOR_MARGIN, far), (far, first + AGE), (0, far), (far, 0)] {
        assert_eq!(journal.compact(floor, now, &none).unwrap(), 0, "{floor} {now}");
    }
    assert_eq!(journal.compact(far, far, &BTreeSet::from([short(2)])).unwrap(), 0, "its story goes on");
    assert_eq!(rig.files().len(), 4);

    assert_eq!(journal.compact(first + FLOOR_MARGIN + 1, first + AGE + 1, &none).unwrap(), 3);
    assert_eq!(found(&journal), (4..=8).collect());
    assert!(!rig.segment(1).exists() && rig.segment(2).exists());
    assert_eq!(journal.compact(far, far, &none).unwrap(), 3);
    assert_eq!(journal.compact(far, far, &none).unwrap(), 0, "the segment in use stays");
    assert_eq!(found(&journal), [7, 8].into());
    assert!(matches!(burn(&mut journal, 7), Err(JournalError::Burned { record: 9 })));
    burn(&mut journal, 9).unwrap();
    burn(&mut journal, 10).unwrap();
    let compacted = journal.compacted();
    drop(journal);

    let journal = rig.open().unwrap();
    assert_eq!(found(&journal), (7..=10).collect());
    assert_eq!(journal.find(&nonce(10)).unwrap().record, 13, "the numbers go on");
    assert_eq!(journal.compacted(), compacted);
    assert_eq!(NonceJournal::inspect(rig.dir.path()).unwrap().compacted, compacted);
    assert_eq!(compacted.burned(), 6);
    assert!(compacted.explains((1..=6).map(short)));
    assert!(!compacted.explains((1..=7).map(short)), "a lost nonce shows");
    assert!(!compacted.explains((2..=7).map(short)) && !compacted.explains((1..=5).map(short)));
    assert!(!compacted.explains([]));
}

/// A crash between tombstone and removal: the next compaction removes what is left.
#[test]
fn segments_that_came_back_are_removed_by_the_next_compaction() {
    let (rig, mut journal) = Rig::with(7);
    let first = std::fs::read(rig.segment(1)).unwrap();
    journal.compact(LATE, LATE, &BTreeSet::new()).unwrap();
    drop(journal);
    std::fs::write(rig.segment(1), first).unwrap();
    let mut journal = rig.open().unwrap();
    assert_eq!(found(&journal), [7].into());
    assert_eq!(journal.compact(0, 0, &BTreeSet::new()).unwrap(), 0);
    assert!(!rig.segment(1).exists());
}
