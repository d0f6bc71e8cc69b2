//! What others do between two looks, and what a token may not see.

use pve_sim::world::{FaultRule, Mishap, World};

use super::*;

impl Bench {
    /// Runs it on 101, and changes the world after the check of that name.
    async fn run_and_change(&self, after: &'static str, mut change: impl FnMut(&mut World) + Send) -> Found {
        self.run_as_and_change("writ@pve!act", after, &mut change).await
    }

    async fn run_as_and_change(
        &self,
        token: &str,
        after: &'static str,
        change: &mut (impl FnMut(&mut World) + Send),
    ) -> Found {
        let world = self.sim.world();
        let listener = |check: &Check| {
            if check.name == after {
                change(&mut world.lock().unwrap());
            }
        };
        let mut findings = Findings::told(listener, |_| {});
        let vmid = Vmid::new(101).unwrap();
        let settings = self.settings(token);
        let verdict = task(&settings, vmid, false, self.limits, std::future::pending(), &mut findings).await;
        Found { verdict, checks: findings.checks().to_vec() }
    }
}

fn replace(world: &mut World) {
    assert!(world.replace_guest(101, pve_sim::world::Now { mono: Duration::ZERO, unix: 1_795_320_000 }));
}

#[tokio::test]
async fn changes_that_wait_forbid_it_for_a_stopped_guest_too() {
    let bench = Bench::new().await;
    let world = bench.sim.world();
    let wait = |vmid: u32| {
        let mut world = world.lock().unwrap();
        let pending = &mut world.guests.get_mut(&vmid).unwrap().pending;
        pending.insert("memory".to_owned(), Some("4096".into()));
    };
    for vmid in [101, 201] {
        wait(vmid);
        let found = bench.run(vmid, true).await;
        assert_eq!(found.verdict, Verdict::Refused, "{:#?}", found.checks);
        assert!(found.check("pending").detail.ends_with("would lose them: memory"), "{:#?}", found.checks);
    }
    world.lock().unwrap().guests.get_mut(&101).unwrap().pending.clear();
    let unreadable = Mishap::Error { text: "got timeout".to_owned() };
    bench.sim.fault(FaultRule::new(unreadable).contains("/101/pending")).unwrap();
    let found = bench.run(101, true).await;
    assert_eq!(found.verdict, Verdict::Refused, "{:#?}", found.checks);
    assert!(found.check("pending").detail.contains("cannot be read"), "{:#?}", found.checks);
    assert!(bench.mutations().is_empty());
    let absent = Mishap::Status {
        status: 501,
        reason: "Method 'GET /nodes/pve1/qemu/101/pending' not implemented".to_owned(),
        body: String::new(),
        handled: false,
    };
    bench.sim.fault(FaultRule::new(absent).contains("/101/pending")).unwrap();
    assert_eq!(bench.run(101, true).await.verdict, Verdict::Ok);
}

#[tokio::test]
async fn another_guest_is_not_touched() {
    for (after, changes) in [("guest", 0), ("list", 1), ("state", 2), ("rollback", 2)] {
        let bench = Bench::new().await;
        let found = bench.run_and_change(after, replace).await;
        assert_eq!(bench.mutations().len(), changes, "{after}: {:?}", bench.mutations());
        let texts = found.checks.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(texts.contains("another guest has this number now"), "{after}: {texts}");
        assert!(texts.contains("its uuid was "), "{after}: {texts}");
        if changes == 0 {
            assert_eq!(found.verdict, Verdict::Refused);
        } else {
            assert_eq!(found.verdict, Verdict::Failed);
            let (left, remedy) = found.left();
            assert!(left.contains("nothing more is touched"), "{left}");
            assert!(!remedy.contains("delsnapshot") && !remedy.contains("unlock"), "{remedy}");
        }
    }
}

#[tokio::test]
async fn what_somebody_changed_is_not_rolled_back() {
    let bench = Bench::new().await;
    let found = bench
        .run_and_change("list", |world| {
            let guest = world.guests.get_mut(&101).unwrap();
            guest.config.insert("memory".to_owned(), "8192".into());
        })
        .await;
    assert_eq!(found.verdict, Verdict::Failed);
    assert!(found.check("rollback").detail.contains("meanwhile (memory)"), "{:#?}", found.checks);
    assert_eq!(bench.snapshots(101), ["before-upgrade"], "its own one is deleted");
    assert_eq!(bench.mutations().len(), 2, "{:?}", bench.mutations());
    let (left, remedy) = found.left();
    assert!(left.contains("not that of before: memory (was "), "{left}");
    assert!(remedy.starts_with("qm config 101 "), "{remedy}");
    assert!(!left.contains("was deleted"), "{left}");

    // Started by somebody: a rollback would stop it hard.
    let bench = Bench::new().await;
    let twin = bench.sim.world().lock().unwrap().guests[&100].running;
    let found =
        bench.run_and_change("list", |world| world.guests.get_mut(&101).unwrap().running = twin).await;
    assert!(found.check("rollback").detail.contains("started or stopped"), "{:#?}", found.checks);
    assert!(bench.runs(101) && bench.mutations().len() == 2, "{:?}", bench.mutations());
}

#[tokio::test]
async fn what_came_between_two_looks_forbids_it() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 2] = [
        ("changed, started or stopped", |world| {
            let guest = world.guests.get_mut(&101).unwrap();
            guest.config.insert("memory".to_owned(), "8192".into());
        }),
        ("another selftest has begun", |world| {
            let guest = world.guests.get_mut(&101).unwrap();
            let twin = guest.snapshots.values().last().unwrap().clone();
            guest.snapshots.insert("writ-selftest-1111111111111111".to_owned(), twin);
        }),
    ];
    for (says, change) in cases {
        let bench = Bench::new().await;
        let found = bench.run_and_change("guest", change).await;
        assert_eq!(found.verdict, Verdict::Refused, "{:#?}", found.checks);
        assert!(found.checks.last().unwrap().detail.contains(says), "{:#?}", found.checks);
        assert!(bench.mutations().is_empty());
    }
}

/// Rights on one guest and nothing else: no clock, no storages, no list of other people's tasks.
#[tokio::test]
async fn rights_on_one_guest_are_enough() {
    let bench = Bench::new().await;
    {
        let world = bench.sim.world();
        let access = &mut world.lock().unwrap().access;
        access.acl.retain(|entry| entry.who.to_string() != "writ@pve!act");
        access.grant("/vms/101", "writ@pve!act", "WritAgent");
    }
    let found = bench.run(101, false).await;
    assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
    let storage = found.check("storage");
    assert!(storage.state == State::Warn && storage.detail.contains("is not in the list"), "{storage}");
    bench.sim.drop_answer_next("POST", "/rollback");
    let found = bench.run(101, false).await;
    assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
}
