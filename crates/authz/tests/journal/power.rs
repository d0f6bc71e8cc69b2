//! Power lost at any moment of a journal's life, and of its life after it was killed at any moment. The
//! figure that is printed counts different disks, each of which was opened and held against what had been
//! acknowledged.

use std::collections::BTreeSet;

use authz::journal::NonceJournal;

use crate::model::{Image, Model, State};
use crate::{LATE, burn, dir, found, open};

/// Records a segment: three nonces each.
const CAPACITY: u64 = 4;

/// Burns, and notes what was acknowledged.
fn acknowledge(model: &Model, journal: &mut NonceJournal, n: u8) {
    model.note(|state| {
        state.tried.insert(n);
    });
    burn(journal, n).unwrap();
    model.note(|state| {
        state.acknowledged.insert(n);
    });
}

fn forget(model: &Model, journal: &mut NonceJournal, up_to: u8) {
    model.note(|state| state.forgettable.extend(1..=up_to));
    let forgotten = journal.compact(LATE, LATE, &BTreeSet::new()).unwrap();
    assert_eq!(journal.compacted().burned(), u64::from(up_to), "{forgotten} now");
}

/// From nothing over three segments, a compaction, a start, two more segments and another compaction.
fn life(model: &Model) {
    let mut journal = NonceJournal::create_on(Box::new(model.clone()), dir(), CAPACITY).unwrap();
    model.note(|state| {
        state.tried.insert(0);
    });
    (1..=7).for_each(|n| acknowledge(model, &mut journal, n));
    forget(model, &mut journal, 6);
    acknowledge(model, &mut journal, 8);
    drop(journal);
    let mut journal = open(model, CAPACITY).unwrap();
    (9..=13).for_each(|n| acknowledge(model, &mut journal, n));
    forget(model, &mut journal, 12);
    acknowledge(model, &mut journal, 14);
}

/// Opens what is left on a disk; `state` says what had been acknowledged when the power went.
fn check(state: &State, disk: &Image, on: bool) {
    let model = Model::of_image(disk);
    // Before the first journal was made, an enrollment begins again.
    let made = state.tried.contains(&0);
    let opened = if made {
        open(&model, CAPACITY)
    } else {
        NonceJournal::begin_on(&|| Box::new(model.clone()), dir(), CAPACITY)
    };
    let mut journal = opened.unwrap_or_else(|error| panic!("{error}\n{state:?}\n{disk:?}"));
    let there = found(&journal);
    let lost: BTreeSet<_> = state.acknowledged.difference(&there).collect();
    assert!(lost.iter().all(|n| state.forgettable.contains(n)), "lost {lost:?}\n{state:?}\n{disk:?}");
    assert!(there.is_subset(&state.tried), "{there:?} was never tried\n{disk:?}");
    if on {
        // What was opened is as good as acknowledged, and goes on: over a next segment, and a power cut.
        let more: Vec<u8> = (100..104).collect();
        more.iter().for_each(|n| burn(&mut journal, *n).unwrap());
        drop(journal);
        let again = open(&Model::of_image(&model.state().least()), CAPACITY).unwrap();
        assert!(found(&again).is_superset(&there.into_iter().chain(more).collect()), "{disk:?}");
    }
}

#[test]
fn power_lost_at_any_moment_loses_nothing_acknowledged() {
    let model = Model::default();
    model.record();
    life(&model);
    let history = model.history();
    let mut count = 0;
    for state in &history {
        for (number, disk) in state.disks(true).iter().enumerate() {
            check(state, disk, number % 32 == 0);
            count += 1;
        }
    }
    println!("power: {} moments, {count} disks, all opened, nothing lost", history.len());
    assert!(count >= 100_000, "{count}");
}

/// A killed process leaves what is seen and not yet durable; the next one builds on it.
#[test]
fn power_lost_after_a_kill_at_any_moment_loses_nothing_acknowledged() {
    let model = Model::default();
    model.record();
    life(&model);
    let (mut kills, mut count) = (0, 0);
    for killed in model.history() {
        let model = Model::after_kill(&killed);
        model.record();
        let journal = NonceJournal::begin_on(&|| Box::new(model.clone()), dir(), CAPACITY);
        let mut journal = journal.unwrap();
        // Whoever opened it acts on what it says.
        let there = found(&journal);
        model.note(|state| {
            state.tried.insert(0);
            state.acknowledged.extend(&there);
        });
        (20..=23).for_each(|n| acknowledge(&model, &mut journal, n));
        kills += 1;
        for state in model.history() {
            for (number, disk) in state.disks(false).iter().enumerate() {
                check(&state, disk, number % 32 == 0);
                count += 1;
            }
        }
    }
    println!("power after a kill: {kills} kills, {count} disks, all opened, nothing lost");
    assert!(kills > 50 && count > 10_000);
}
