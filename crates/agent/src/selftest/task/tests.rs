use std::sync::Arc;

use proxmox_client::PinSet;
use pve_sim::world::{Fault, FaultRule, Injection, Mishap};
use pve_sim::{Sim, SimConfig};
use tokio::sync::Notify;

use super::*;
use crate::selftest::State;

struct Bench {
    sim: Sim,
    dir: tempfile::TempDir,
    limits: Limits,
}

impl Bench {
    async fn new() -> Self {
        let limits = Limits {
            task: Duration::from_secs(20),
            patience: Duration::from_secs(10),
            progress: Duration::from_millis(20),
        };
        Self { sim: Sim::start(SimConfig::demo()).await.unwrap(), dir: tempfile::tempdir().unwrap(), limits }
    }

    fn settings(&self, token: &str) -> ProxmoxSettings {
        let file = self.dir.path().join("token");
        authz::files::write_atomic(&file, self.sim.token(token).as_bytes()).unwrap();
        let pin = format!("spki:{}", self.sim.pins().spki).parse().unwrap();
        ProxmoxSettings {
            api: self.sim.url().parse().unwrap(),
            pins: PinSet::new(vec![pin]).unwrap(),
            token_file: file,
            node: None,
        }
    }

    async fn run(&self, vmid: u32, allow_stop: bool) -> Found {
        self.run_as("writ@pve!act", vmid, allow_stop).await
    }

    async fn run_as(&self, token: &str, vmid: u32, allow_stop: bool) -> Found {
        let mut findings = Findings::default();
        let verdict = task(
            &self.settings(token),
            Vmid::new(vmid).unwrap(),
            allow_stop,
            self.limits,
            std::future::pending(),
            &mut findings,
        )
        .await;
        Found { verdict, checks: findings.checks().to_vec() }
    }

    fn set(&self, vmid: u32, key: &str, value: impl Into<serde_json::Value>) {
        let world = self.sim.world();
        world.lock().unwrap().guests.get_mut(&vmid).unwrap().config.insert(key.to_owned(), value.into());
    }

    fn inject(&self, task: &str, fault: Fault) {
        self.sim.world().lock().unwrap().injections.push(Injection { task: task.to_owned(), fault });
    }

    fn fail(&self, task: &str, text: &str, leave_lock: bool) {
        self.inject(task, Fault::Fail { text: text.to_owned(), leave_lock });
    }

    fn mutations(&self) -> Vec<String> {
        let changes = self.sim.requests().into_iter().filter(|request| request.method != "GET");
        changes.map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    fn snapshots(&self, vmid: u32) -> Vec<String> {
        self.sim.world().lock().unwrap().guests[&vmid].snapshots.keys().cloned().collect()
    }

    fn runs(&self, vmid: u32) -> bool {
        self.sim.world().lock().unwrap().guests[&vmid].running.is_some()
    }
}

struct Found {
    verdict: Verdict,
    checks: Vec<Check>,
}

impl Found {
    fn check(&self, name: &str) -> &Check {
        let found = self.checks.iter().find(|check| check.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {:#?}", self.checks))
    }

    fn left(&self) -> (&str, &str) {
        let check = self.checks.last().unwrap();
        assert_eq!(check.name, "left", "{:#?}", self.checks);
        (&check.detail, check.remedy.as_deref().unwrap_or_default())
    }
}

#[tokio::test]
async fn there_and_back_on_both_kinds() {
    let bench = Bench::new().await;
    for (vmid, kind, before) in [(101, "qemu", vec!["before-upgrade"]), (201, "lxc", vec![])] {
        let found = bench.run(vmid, false).await;
        assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
        let names: Vec<&str> = found.checks.iter().map(|check| check.name).collect();
        assert_eq!(
            names,
            ["token file", "api", "guest", "snapshot", "list", "rollback", "state", "delete", "gone", "left"]
        );
        assert_eq!(bench.snapshots(vmid), before);
        assert!(!bench.runs(vmid));
        let changes = bench.mutations().split_off(if kind == "qemu" { 0 } else { 3 });
        let path = format!("/api2/json/nodes/pve1/{kind}/{vmid}/snapshot");
        assert_eq!(changes.len(), 3, "{changes:?}");
        assert_eq!(changes[0], format!("POST {path}"));
        assert!(
            changes[1].starts_with(&format!("POST {path}/{PREFIX}")) && changes[1].ends_with("/rollback")
        );
        assert!(changes[2].starts_with(&format!("DELETE {path}/{PREFIX}")), "{changes:?}");
    }
}

#[tokio::test]
async fn what_ran_runs_again() {
    let bench = Bench::new().await;
    for vmid in [100, 200] {
        let refused = bench.run(vmid, false).await;
        assert_eq!(refused.verdict, Verdict::Refused);
        assert!(refused.checks.last().unwrap().remedy.as_deref().unwrap().contains("--allow-stop"));
        assert!(bench.mutations().is_empty());
    }
    for vmid in [100, 200] {
        let found = bench.run(vmid, true).await;
        assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
        assert!(found.check("state").detail.contains("stopped, where it ran before"), "{:#?}", found.checks);
        assert!(found.check("running").passed() && bench.runs(vmid));
        assert!(bench.snapshots(vmid).is_empty());
    }
    assert_eq!(bench.mutations().len(), 8);
}

#[tokio::test]
async fn refused_guests_are_not_touched() {
    let bench = Bench::new().await;
    bench.set(102, "protection", 1);
    bench.set(201, "template", 1);
    bench.set(101, "lock", "backup");
    bench.set(100, "scsi0", "local:100/vm-100-disk-0.raw,size=16G");
    for (vmid, says) in [
        (102, "it is protected"),
        (201, "it is a template"),
        (101, "it is locked (backup)"),
        (100, "cannot be snapshotted"),
        (999, "there is no guest 999"),
    ] {
        let found = bench.run(vmid, true).await;
        assert_eq!(found.verdict, Verdict::Refused, "{vmid}");
        let check = found.checks.last().unwrap();
        assert!(check.detail.contains(says) && check.remedy.is_some(), "{check}");
    }
    let reader = bench.run_as("writ@pve!report", 200, true).await;
    assert_eq!(reader.verdict, Verdict::Refused);
    assert!(
        reader.checks.iter().any(|check| check.detail.contains("lacks VM.Snapshot")),
        "{:#?}",
        reader.checks
    );
    let blind = bench.run_as("writ@pve!noacl", 200, true).await;
    assert!(blind.checks.last().unwrap().detail.contains("may not see it"));
    let elsewhere = ProxmoxSettings { node: Some("pve2".parse().unwrap()), ..bench.settings("writ@pve!act") };
    let mut findings = Findings::default();
    let vmid = Vmid::new(200).unwrap();
    let verdict = task(&elsewhere, vmid, true, bench.limits, std::future::pending(), &mut findings).await;
    assert_eq!(verdict, Verdict::Refused);
    assert!(findings.checks().last().unwrap().detail.contains("is on pve1, not on pve2"));
    assert!(bench.mutations().is_empty());
}

#[tokio::test]
async fn only_one_at_a_time() {
    let bench = Bench::new().await;
    let settings = bench.settings("writ@pve!act");
    let key = format!("spki:{}", bench.sim.pins().spki).parse().unwrap();
    let held = alone::alone(&key, Vmid::new(101).unwrap()).unwrap();
    let second = bench.run(101, false).await;
    assert_eq!(second.verdict, Verdict::Refused);
    assert!(second.check("alone").detail.contains("on this machine"));
    drop(held);
    // Another machine's, seen by its snapshot, and then by its task.
    let client = settings.client().unwrap();
    let other = "writ-selftest-0000000000000000".parse().unwrap();
    let (kind, vmid) = (GuestKind::Qemu, Vmid::new(101).unwrap());
    let upid = client.snapshot_create(kind, vmid, &other, "").await.unwrap();
    client.wait_task(&upid, Duration::from_secs(10)).await;
    let second = bench.run(101, false).await;
    assert_eq!(second.verdict, Verdict::Refused);
    assert!(second.check("snapshots").detail.contains("another selftest"), "{:#?}", second.checks);
    bench.sim.world().lock().unwrap().task_duration = Duration::from_secs(3600);
    client.snapshot_delete(kind, vmid, &other).await.unwrap();
    let second = bench.run(101, false).await;
    assert_eq!(second.verdict, Verdict::Refused);
    assert!(second.check("tasks").detail.contains("qmdelsnapshot"), "{:#?}", second.checks);
    assert_eq!(bench.mutations().len(), 2, "both made here");
}

/// Two that saw nothing of each other: whoever finds the other's snapshot beside its own gives way.
#[tokio::test]
async fn who_comes_second_gives_way() {
    let bench = Bench::new().await;
    let settings = bench.settings("writ@pve!act");
    let (world, mut findings) = (bench.sim.world(), {
        let world = bench.sim.world();
        Findings::told(
            move |check| {
                if check.name == "snapshot" {
                    let mut world = world.lock().unwrap();
                    let guest = world.guests.get_mut(&101).unwrap();
                    let twin = guest.snapshots.values().last().unwrap().clone();
                    guest.snapshots.insert("writ-selftest-1111111111111111".to_owned(), twin);
                }
            },
            |_| {},
        )
    });
    let vmid = Vmid::new(101).unwrap();
    let verdict = task(&settings, vmid, false, bench.limits, std::future::pending(), &mut findings).await;
    assert_eq!(verdict, Verdict::Failed);
    let texts = findings.checks().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(
        texts.contains("this one gives way") && texts.ends_with("nothing on VM 101 (db) on pve1"),
        "{texts}"
    );
    drop(findings);
    let left: Vec<String> = world.lock().unwrap().guests[&101].snapshots.keys().cloned().collect();
    assert_eq!(left, ["before-upgrade", "writ-selftest-1111111111111111"]);
    assert!(bench.mutations().iter().all(|change| !change.ends_with("/rollback")));
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_nothing_or_says_what() {
    let bench = Bench::new().await;
    bench.fail("qmsnapshot", "out of space", false);
    let found = bench.run(101, false).await;
    assert_eq!(found.verdict, Verdict::Failed);
    assert!(found.check("snapshot").detail.contains("out of space"), "{:#?}", found.checks);
    assert_eq!(found.left(), ("nothing on VM 101 (db) on pve1", ""));
    assert_eq!(bench.mutations().len(), 1);

    bench.fail("vzsnapshot", "killed half-way", true);
    let found = bench.run(201, false).await;
    let (left, remedy) = found.left();
    let name = bench.snapshots(201).remove(0);
    assert!(left.contains("locked (snapshot)") && left.contains("half made"), "{left}");
    assert!(
        remedy.contains("pct unlock 201") && remedy.contains(&format!("pct delsnapshot 201 {name} --force"))
    );
    assert!(
        remedy.contains(&format!("pvesh delete /nodes/pve1/lxc/201/snapshot/{name} --force 1")),
        "{remedy}"
    );
    assert_eq!(bench.mutations().len(), 2, "nothing is tried on a locked guest");
}

#[tokio::test]
async fn a_rollback_that_fails_keeps_the_snapshot_and_starts_nothing() {
    let bench = Bench::new().await;
    bench.fail("qmrollback", "disk on fire", false);
    let found = bench.run(100, true).await;
    assert_eq!(found.verdict, Verdict::Failed);
    assert!(found.check("rollback").detail.contains("disk on fire"), "{:#?}", found.checks);
    let name = bench.snapshots(100).remove(0);
    let (left, remedy) = found.left();
    assert_eq!(
        left,
        format!(
            "on VM 100 (web) on pve1: the snapshot {name}; it is stopped; it ran before, and half rolled back it is not started (a rollback that failed half-way can be repeated with it)"
        )
    );
    let lines: Vec<&str> = remedy.lines().collect();
    assert!(lines[0].starts_with(&format!("qm rollback 100 {name}  ")), "{remedy}");
    assert!(lines[1] == format!("qm delsnapshot 100 {name}") && lines[3] == "qm start 100", "{remedy}");
    assert!(!bench.runs(100), "half rolled back it is not started");
    let started = bench.mutations().iter().any(|change| change.ends_with("/status/start"));
    assert!(!started, "{:?}", bench.mutations());
    assert!(bench.mutations().iter().all(|change| !change.starts_with("DELETE")));

    // One that was refused before it touched a volume: the snapshot is of no use.
    bench.fail("vzrollback", "can't rollback, 'x' is not most recent snapshot on 'tank:y'", false);
    let found = bench.run(201, false).await;
    assert_eq!(found.verdict, Verdict::Failed);
    assert_eq!(found.left().0, "nothing on container 201 (mail) on pve1");
    assert!(bench.snapshots(201).is_empty());

    bench.inject("qmrollback", Fault::Kill);
    let found = bench.run(101, false).await;
    let (left, remedy) = found.left();
    assert!(left.contains("locked (rollback)") && left.contains("nobody knows"), "{left}");
    assert!(remedy.starts_with("qm unlock 101 "), "{remedy}");
}

#[tokio::test]
async fn warnings_are_told_and_are_no_failure() {
    let bench = Bench::new().await;
    bench.inject("qmsnapshot", Fault::Warn(2));
    let found = bench.run(101, false).await;
    assert_eq!(found.verdict, Verdict::Ok);
    let check = found.check("snapshot");
    assert!(check.state == State::Warn && check.detail.contains("simulated warning 1"), "{check}");
}

#[tokio::test]
async fn lost_answers_are_looked_for_and_never_sent_again() {
    let bench = Bench::new().await;
    for (method, part, name) in [
        ("POST", "/snapshot", "snapshot"),
        ("POST", "/rollback", "rollback"),
        ("DELETE", "/snapshot/", "delete"),
    ] {
        let before = bench.mutations().len();
        bench.sim.drop_answer_next(method, part);
        let found = bench.run(101, false).await;
        assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
        let check = found.check(name);
        assert!(check.state == State::Warn && check.detail.contains("its task was found: UPID:"), "{check}");
        assert_eq!(bench.mutations().len() - before, 3);
        assert_eq!(bench.snapshots(101), ["before-upgrade"]);
    }
}

/// The answer is lost and the node has forgotten the task: only the guest can tell.
#[tokio::test]
async fn without_answer_and_task_the_guest_is_asked() {
    for (method, part) in [("POST", "/snapshot"), ("POST", "/rollback"), ("DELETE", "/snapshot/")] {
        let mut bench = Bench::new().await;
        bench.limits.patience = Duration::from_millis(300);
        bench.sim.drop_answer_next(method, part);
        let world = bench.sim.world();
        let forget = move |text: &str| {
            if text.contains("looking for its task") {
                let mut world = world.lock().unwrap();
                let all: Vec<String> = world.tasks.all.iter().map(|task| task.upid.to_string()).collect();
                // The last was the lost one; its work is done first.
                let now = pve_sim::world::Now { mono: Duration::from_secs(3600), unix: 1 };
                world.settle(now);
                assert!(all.iter().all(|upid| world.tasks.lose(upid)));
            }
        };
        let mut findings = Findings::told(|_| {}, forget);
        let settings = bench.settings("writ@pve!act");
        let vmid = Vmid::new(101).unwrap();
        let verdict = task(&settings, vmid, false, bench.limits, std::future::pending(), &mut findings).await;
        assert_eq!(verdict, Verdict::Failed, "{part}");
        let left = findings.checks().last().unwrap().to_string();
        let mine = bench.snapshots(101).len() - 1;
        let again: Vec<String> = bench.mutations();
        match (method, part) {
            // It was made: whole, unlocked, nothing running, so it could be deleted.
            ("POST", "/snapshot") => {
                assert_eq!(mine, 0, "{left}");
                assert_eq!(again.len(), 2, "one creation and one deletion: {again:?}");
            }
            ("POST", _) => {
                assert!(mine == 1 && left.contains("nobody knows what became of the rollback"), "{left}");
                assert!(left.contains("qm delsnapshot 101 writ-selftest-"), "{left}");
                assert_eq!(again.len(), 2, "{again:?}");
            }
            _ => {
                assert_eq!(again.len(), 3, "deleted once: {again:?}");
                assert!(mine == 0 && left.contains("nothing on VM 101"), "{left}");
            }
        }
    }
}

#[tokio::test]
async fn an_endless_task_is_left_alone() {
    let mut bench = Bench::new().await;
    bench.limits.task = Duration::from_millis(200);
    bench.sim.world().lock().unwrap().task_duration = Duration::from_secs(3600);
    let (told, heard) = std::sync::mpsc::channel();
    let mut findings = Findings::told(|_| {}, move |text| told.send(text.to_owned()).unwrap());
    let settings = bench.settings("writ@pve!act");
    let vmid = Vmid::new(101).unwrap();
    let verdict = task(&settings, vmid, false, bench.limits, std::future::pending(), &mut findings).await;
    assert_eq!(verdict, Verdict::Failed);
    assert!(heard.try_iter().any(|text| text.contains("taking the snapshot: 0 s so far")));
    let last = findings.checks().last().unwrap();
    assert!(last.detail.contains("a task of it still runs (UPID:"), "{last}");
    let remedy = last.remedy.as_deref().unwrap();
    assert!(
        remedy.starts_with("wait until UPID:") && remedy.contains("has ended\nqm delsnapshot 101 "),
        "{remedy}"
    );
    assert!(!remedy.contains("unlock") && !remedy.contains("force"), "{remedy}");
    assert_eq!(bench.mutations().len(), 1);
}

#[tokio::test]
async fn an_interruption_says_what_is_left() {
    for (at, doing, left) in [
        ("api", None, false),
        ("list", Some("while taking the snapshot, task UPID:"), true),
        ("state", Some("while rolling back, task UPID:"), true),
    ] {
        let bench = Bench::new().await;
        let stop = Arc::new(Notify::new());
        let pulled = Arc::clone(&stop);
        let mut findings = Findings::told(
            move |check| {
                if check.name == at {
                    pulled.notify_one()
                }
            },
            |_| {},
        );
        let settings = bench.settings("writ@pve!act");
        let vmid = Vmid::new(101).unwrap();
        let verdict = task(&settings, vmid, false, bench.limits, stop.notified(), &mut findings).await;
        assert_eq!(verdict, Verdict::Failed);
        let interrupted = findings.checks().iter().find(|check| check.name == "interrupted").unwrap();
        assert!(
            interrupted.detail.starts_with(doing.unwrap_or("before anything was changed")),
            "{interrupted}"
        );
        assert_eq!(bench.snapshots(101).len(), if left { 2 } else { 1 });
        if left {
            let last = findings.checks().last().unwrap();
            let remedy = last.remedy.as_deref().unwrap();
            assert!(last.detail.contains("the snapshot writ-selftest-"), "{last}");
            assert!(remedy.contains("qm delsnapshot 101 writ-selftest-"), "{last}");
        }
    }
}

#[tokio::test]
async fn what_comes_back_different_is_a_failure() {
    let bench = Bench::new().await;
    let world = bench.sim.world();
    let change = move |check: &Check| {
        if check.name == "list" {
            let mut world = world.lock().unwrap();
            let guest = world.guests.get_mut(&101).unwrap();
            let own = guest.snapshots.iter_mut().find(|(name, _)| name.starts_with(PREFIX)).unwrap().1;
            own.config.insert("memory".to_owned(), "1".into());
        }
    };
    let mut findings = Findings::told(change, |_| {});
    let settings = bench.settings("writ@pve!act");
    let vmid = Vmid::new(101).unwrap();
    let verdict = task(&settings, vmid, false, bench.limits, std::future::pending(), &mut findings).await;
    assert_eq!(verdict, Verdict::Failed);
    let state = findings.checks().iter().find(|check| check.name == "state").unwrap();
    assert!(state.detail.contains("not the same any more: memory"), "{state}");
    assert_eq!(bench.snapshots(101), ["before-upgrade"], "its own snapshot is of no more use");
}

/// The name of some other task is not an answer: the own one is looked for.
#[tokio::test]
async fn a_foreign_task_is_not_taken_for_the_own_one() {
    let bench = Bench::new().await;
    let foreign = "UPID:pve1:0000025C:0002E5E8:6B025E8B:qmdestroy:101:writ@pve!act:";
    let mishap = Mishap::Upid { upid: Some(foreign.to_owned()) };
    let rule = FaultRule::new(mishap).method("POST").contains("/snapshot");
    bench.sim.fault(rule).unwrap();
    let before = bench.mutations().len();
    let found = bench.run(101, false).await;
    assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
    let check = found.check("snapshot");
    assert!(check.state == State::Warn && check.detail.contains("its task was found: UPID:"), "{check}");
    assert_eq!(bench.mutations().len() - before, 3, "each was sent once");
}

#[test]
fn the_snapshots_name_is_the_tests_own() {
    let (one, two) = (own_name().unwrap(), own_name().unwrap());
    assert!(one.as_str().starts_with(PREFIX) && one.as_str().len() <= 40 && one != two);
}

mod meanwhile;
