//! The recovery matrix (`security.md` 2.7): the real warden is killed right before and right after each durable
//! point of an order, Proxmox is made to say that the task was never started, runs, is done or failed, the
//! warden is started again, and its receipt must be the one of the table. 88 cells, printed as a table.
//!
//! | module | is |
//! |---|---|
//! | [`table`] | what must come out of each cell |
//! | [`cell`] | one of them: simulator, state directory, process, order |
//! | [`destroy`] | the same of the two calls that end a guest |
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions")]

mod cell;
mod destroy;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use scenarios::bins::Bins;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use table::{POINTS, Side, Truth, expected};

/// A few on each processor: they wait for each other's disks and sockets.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_whatever_proxmox_says_then() {
    let bins = Bins::ready().unwrap();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut cells = JoinSet::new();
    for point in POINTS {
        for side in Side::BOTH {
            for truth in Truth::ALL {
                let (bins, places) = (bins.clone(), places.clone());
                cells.spawn(async move {
                    let _place = places.acquire_owned().await.unwrap();
                    ((point, side, truth), cell::run(&bins, point, side, truth).await)
                });
            }
        }
    }
    let mut results = BTreeMap::new();
    while let Some(result) = cells.join_next().await {
        let (place, result) = result.unwrap();
        results.insert(place, result);
    }
    assert_eq!(results.len(), 88);
    let mut wrong = Vec::new();
    println!(
        "{:<11} {:<7} {:<12} {:<12} {:<12} {:<12}",
        "POINT", "SIDE", "not started", "running", "OK", "failed"
    );
    for point in POINTS {
        for side in Side::BOTH {
            let mut line = format!("{point:<11} {:<7}", side.word());
            for truth in Truth::ALL {
                let result = &results[&(point, side, truth)];
                let good = result.as_ref().is_ok_and(|(end, _)| *end == expected(point, side, truth));
                let word = match result {
                    Ok((end, _)) => end.word(),
                    Err(_) => "broken",
                };
                line.push_str(&format!(" {:<12}", if good { word.to_owned() } else { format!("!{word}") }));
                if !good {
                    let wanted = expected(point, side, truth).word();
                    wrong.push(format!("{point} {} {truth:?}: {wanted} expected: {result:?}", side.word()));
                }
            }
            println!("{line}");
        }
    }
    assert!(wrong.is_empty(), "{} of 88 wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_destroyed_once_wherever_the_warden_dies() {
    let bins = Bins::ready().unwrap();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut cells = JoinSet::new();
    for (place, got) in destroy::PLACES {
        for truth in destroy::truths(got) {
            let (bins, places) = (bins.clone(), places.clone());
            cells.spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                (place, *truth, destroy::run(&bins, place, got, *truth).await)
            });
        }
    }
    let (mut count, mut wrong) = (0, Vec::new());
    while let Some(result) = cells.join_next().await {
        let (place, truth, result) = result.unwrap();
        count += 1;
        match result {
            Ok(outcome) => println!("{place:<18} {truth:?}: {outcome}"),
            Err(why) => wrong.push(format!("{place} {truth:?}: {why}")),
        }
    }
    assert_eq!(count, 35);
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
