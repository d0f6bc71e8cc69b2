//! Random orders, faults and crashes against a small model of guests. By seed: `WRIT_MODEL_SEED=7` runs one
//! again and tells its steps, `WRIT_MODEL_SEEDS=5000` runs so many.
//!
//! What must hold after each step: no order's call was sent twice; the world is where the receipt says that it
//! is; the log verifies, and has one end of each accepted order; an accepted order is never accepted again;
//! nothing is left in the queue.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use authz::{Event, Outcome, Receipt, RefusalCode};
use protocol::local::WardenAnswer;
use protocol::{Envelope, Sha256};
use pve_sim::world::{FaultRule, Mishap, World};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use warden::orders;

use crate::kinds::{self, Row};
use crate::rig::{Rig, code, each};

const SEEDS: u64 = 240;
const STEPS: u64 = 5;

/// SplitMix64: the same numbers everywhere, for ever.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// A guest, as far as the orders here change one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Guest {
    runs: bool,
    paused: bool,
    snapshots: BTreeSet<String>,
    /// The snapshot that it descends from.
    at: Option<String>,
    tags: String,
}

/// What the warden is asked for, in the model's words.
fn can(row: &Row, guest: &Guest) -> bool {
    let (kind, container) = row.name.split_once(' ').map_or((row.name, false), |(k, g)| (k, g == "lxc"));
    match kind {
        "guest.start" => !guest.runs,
        "guest.stop" | "guest.shutdown" | "guest.reboot" => guest.runs && !guest.paused,
        "guest.suspend" => guest.runs && !guest.paused,
        "snapshot.create" => !guest.snapshots.contains("fresh"),
        // ZFS, where the containers lie, goes back to the last one only.
        "snapshot.rollback" => guest.snapshots.contains("base") && !(container && guest.snapshots.len() > 1),
        "snapshot.delete" => guest.snapshots.contains("base"),
        "guest.tag" => true,
        _ => false,
    }
}

fn done(row: &Row, guest: &mut Guest) {
    let kind = row.name.split(' ').next().unwrap();
    match kind {
        "guest.start" => guest.runs = true,
        "guest.stop" | "guest.shutdown" => (guest.runs, guest.paused) = (false, false),
        "guest.reboot" => {}
        "guest.suspend" => guest.paused = true,
        "snapshot.create" => {
            guest.snapshots.insert("fresh".into());
            guest.at = Some("fresh".into());
        }
        "snapshot.rollback" => {
            (guest.runs, guest.paused) = (row.name.contains("and start"), false);
            guest.at = Some("base".into());
            guest.tags.clear();
        }
        "snapshot.delete" => {
            guest.snapshots.remove("base");
        }
        "guest.tag" => guest.tags = "prod;web".into(),
        other => panic!("the model knows no {other}"),
    }
}

fn seen(world: &World) -> BTreeMap<u32, Guest> {
    let text = |guest: &pve_sim::world::Guest, key: &str| {
        guest.config.get(key).and_then(|value| value.as_str()).map(str::to_owned)
    };
    let guests = world.guests.iter().map(|(vmid, guest)| {
        let all = guest.snapshots.keys().cloned().collect();
        let it = Guest {
            runs: guest.running.is_some(),
            paused: guest.paused,
            snapshots: all,
            at: text(guest, "parent"),
            tags: text(guest, "tags").unwrap_or_default(),
        };
        (*vmid, it)
    });
    guests.collect()
}

/// Where a snapshot is deleted that the guest descends from, it then descends from that one's parent; the
/// model does not follow that.
fn same(one: &BTreeMap<u32, Guest>, other: &BTreeMap<u32, Guest>, row: &Row) -> bool {
    let flat = |guests: &BTreeMap<u32, Guest>| {
        let mut guests = guests.clone();
        if row.name.starts_with("snapshot.delete") {
            guests.values_mut().for_each(|guest| guest.at = None);
        }
        guests
    };
    flat(one) == flat(other)
}

struct Run {
    seed: u64,
    rig: Rig,
    rng: Rng,
    model: BTreeMap<u32, Guest>,
    sent: Vec<Envelope>,
    told: RefCell<Vec<String>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, after these steps:\n{}", self.seed, self.told.borrow().join("\n"));
        }
    }
}

/// What the log says of an order.
#[derive(Debug, Default)]
struct Said {
    committed: usize,
    ends: Vec<Outcome>,
}

impl Run {
    fn tell(&self, what: String) {
        self.told.borrow_mut().push(what);
    }

    fn log(&self) -> BTreeMap<Sha256, Said> {
        let enrolled = self.rig.warden().status().enrolled.unwrap();
        let key = authz::PublicKey::try_from(enrolled.host_key).unwrap();
        let mut said: BTreeMap<Sha256, Said> = BTreeMap::new();
        let mut first = 0;
        loop {
            let answer = self.rig.warden().receipts(first, 1000);
            let WardenAnswer::Receipts { receipts, log_size, .. } = answer else { panic!("{answer:?}") };
            first += receipts.len() as u64;
            for signed in receipts {
                match Receipt::verify(&signed, &enrolled.host_id, &key).unwrap().event {
                    Event::OrderCommitted { op, .. } => said.entry(op).or_default().committed += 1,
                    Event::Order { outcome: Outcome::Refused { .. }, .. } => {}
                    Event::Order { op, outcome, .. } => said.entry(op).or_default().ends.push(outcome),
                    _ => {}
                }
            }
            if first >= log_size {
                return said;
            }
        }
    }

    /// A fault for one of the next requests; half of the time none.
    fn mishap(&mut self) -> Option<FaultRule> {
        if self.rng.one_in(2) {
            return None;
        }
        let nth = 1 + self.rng.below(24) as u32;
        let handled = self.rng.one_in(2);
        let mishap = match self.rng.below(8) {
            0 => Mishap::Error { text: "it broke".into() },
            1 => Mishap::Reset { handled },
            2 => Mishap::Proxy { status: 595, reason: None, later_ms: 0 },
            3 => Mishap::Proxy { status: 596, reason: None, later_ms: 0 },
            4 => Mishap::Unauthorized { reason: None },
            5 => Mishap::NoData {},
            6 => Mishap::Flock { vmid: Some(101) },
            _ => return Some(self.against_a_task()),
        };
        Some(FaultRule::new(mishap).nth(nth).contains("/api2"))
    }

    fn against_a_task(&mut self) -> FaultRule {
        let leave_lock = self.rng.one_in(2);
        let mishap = match self.rng.below(5) {
            0 => Mishap::TaskFail { text: "it failed".into(), leave_lock },
            1 => Mishap::TaskKill {},
            2 => Mishap::TaskWarn { count: 1 },
            3 => Mishap::TaskLate { lookups: 2 },
            _ => Mishap::TaskLogGone {},
        };
        let method = if self.rng.one_in(6) { "DELETE" } else { "POST" };
        FaultRule::new(mishap).method(method)
    }

    /// Runs `work` until its end, or until the request at which it is to be killed hangs.
    async fn killed(&self, work: JoinHandle<()>) -> bool {
        let abort = work.abort_handle();
        // Nobody is killed who was not meant to be.
        let armed = self.rig.sim.faults().iter().any(|rule| matches!(rule.mishap, Mishap::Hang { .. }));
        let hangs = async {
            if !armed {
                std::future::pending::<()>().await;
            }
            while self.rig.sim.faults().iter().any(|rule| matches!(rule.mishap, Mishap::Hang { .. })) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let mut work = work;
        let killed = self
            .rig
            .fast(async {
                tokio::select! {
                    biased;
                    ended = &mut work => { ended.unwrap(); false }
                    () = hangs => true,
                }
            })
            .await;
        if killed {
            abort.abort();
            let _ = work.await;
        }
        self.rig.sim.clear_faults();
        killed
    }

    /// Restarts until nothing of what was interrupted is left; may be killed again on the way.
    async fn recover(&mut self) {
        for round in 0.. {
            let left = self.rig.reopen();
            if left.is_empty() {
                return;
            }
            if round < 2 && self.rng.one_in(3) {
                let nth = 1 + self.rng.below(12) as u32;
                self.tell(format!("  killed again at request {nth}"));
                let hang = Mishap::Hang { handled: self.rng.one_in(2) };
                self.rig.sim.fault(FaultRule::new(hang).nth(nth).contains("/api2")).unwrap();
            }
            let warden = self.rig.warden().clone();
            let resume = tokio::spawn(async move {
                for interrupted in left {
                    orders::resume(warden.clone(), interrupted).await;
                }
            });
            self.killed(resume).await;
        }
    }

    /// Sends an order, perhaps with a fault, perhaps killed, perhaps twice at once.
    async fn order(&mut self, row: &Row) {
        let envelope = self.rig.envelope(row).await;
        let since = self.rig.sim.request_count();
        let copies = if self.rng.one_in(6) { 2 } else { 1 };
        let kill = self.rng.one_in(3);
        if kill {
            let nth = 1 + self.rng.below(26) as u32;
            let handled = self.rng.one_in(2);
            self.tell(format!("{} killed at request {nth} (carried out: {handled})", row.name));
            let hang = FaultRule::new(Mishap::Hang { handled });
            self.rig.sim.fault(hang.nth(nth).contains("/api2")).unwrap();
        } else {
            let rule = self.mishap();
            self.tell(format!(
                "{} {copies} time(s), fault {:?}",
                row.name,
                rule.as_ref().map(FaultRule::to_json)
            ));
            rule.into_iter().for_each(|rule| self.rig.sim.fault(rule).unwrap());
        }
        let (warden, sent) = (self.rig.warden().clone(), envelope.clone());
        let work = tokio::spawn(async move {
            let one = || async {
                let (progress, _states) = mpsc::channel(16);
                orders::order(warden.clone(), sent.clone(), progress).await;
            };
            match copies {
                1 => one().await,
                _ => drop(tokio::join!(one(), one())),
            }
        });
        if self.killed(work).await {
            self.recover().await;
        }
        let mutations = self.rig.mutations(since);
        let log = self.log();
        let said = log.get(&envelope.id());
        let end = said.and_then(|said| said.ends.first()).cloned();
        self.tell(format!("  {:?}, sent {mutations:?}", end.as_ref().map(ToString::to_string)));
        // A lock that Proxmox itself could not take is the one thing that is asked for again.
        let calls = mutations.len();
        let flocked = self.told.borrow().iter().rev().take(2).any(|line| line.contains("flock"));
        assert!(
            calls <= row.calls || (flocked && calls <= row.calls + 3),
            "sent more than once: {mutations:?}"
        );
        self.agrees(row, end.as_ref());
        self.sent.push(envelope);
    }

    /// The world is where the receipt says that it is. After an end that leaves it open root looks, and takes
    /// away what Proxmox left behind.
    fn agrees(&mut self, row: &Row, end: Option<&Outcome>) {
        let now = seen(&self.rig.save());
        let before = self.model.clone();
        let mut after = before.clone();
        done(row, after.get_mut(&row.vmid).unwrap());
        match end {
            Some(Outcome::Done { .. } | Outcome::Warnings { .. }) => {
                assert!(same(&now, &after, row), "done:\n{now:?}\nmodel:\n{after:?}");
            }
            None | Some(Outcome::Aborted { .. }) => {
                assert!(same(&now, &before, row), "untouched:\n{now:?}\nmodel:\n{before:?}");
            }
            Some(Outcome::Failed { why, .. }) if same(&now, &before, row) => {
                assert!(!why.as_str().is_empty())
            }
            Some(Outcome::Failed { why, .. }) => assert!(why.as_str().contains("now "), "{why}"),
            Some(Outcome::Unknown { .. }) => {}
            Some(other) => panic!("{other}"),
        }
        self.rig.change(|world| {
            world.flocked.clear();
            for guest in world.guests.values_mut() {
                if guest.config.remove("lock").is_some() {
                    guest.snapshots.retain(|_, snapshot| snapshot.snapstate.is_none());
                }
            }
        });
        self.model = seen(&self.rig.save());
    }

    /// An order that was sent before, again.
    async fn replay(&mut self) {
        let at = self.rng.below(self.sent.len() as u64) as usize;
        let envelope = self.sent[at].clone();
        let burned = self.log().get(&envelope.id()).is_some_and(|said| said.committed > 0);
        if !burned {
            return;
        }
        self.tell(format!("order {at} again"));
        let since = self.rig.sim.request_count();
        let outcome = self.rig.submit(&envelope).await;
        assert_eq!(code(&outcome), Some(RefusalCode::Replay), "{outcome}");
        assert_eq!(self.rig.mutations(since), Vec::<String>::new());
    }

    async fn step(&mut self, rows: &[Row]) {
        if !self.sent.is_empty() && self.rng.one_in(5) {
            return self.replay().await;
        }
        if self.rng.one_in(8) {
            self.tell("restarted".into());
            assert!(self.rig.reopen().is_empty());
        }
        let fitting: Vec<&Row> = rows.iter().filter(|row| can(row, &self.model[&row.vmid])).collect();
        let row = fitting[self.rng.below(fitting.len() as u64) as usize];
        self.order(row).await;
        self.rig.at_rest();
        for (op, said) in self.log() {
            assert_eq!((said.committed, said.ends.len()), (1, 1), "{op}: {said:?}");
        }
    }
}

async fn try_out(seed: &u64) -> Vec<String> {
    let rig = Rig::start().await;
    let rows = kinds::rows();
    let base = kinds::row("snapshot.rollback qemu");
    rig.change(|world| (base.set_up)(world, rig.sim.now()));
    let model = seen(&rig.save());
    let (sent, told) = (Vec::new(), RefCell::default());
    let mut run = Run { seed: *seed, rig, rng: Rng(*seed), model, sent, told };
    for _ in 0..STEPS {
        run.step(&rows).await;
    }
    if std::env::var_os("WRIT_MODEL_SEED").is_some() {
        println!("seed {seed}:\n{}", run.told.borrow().join("\n"));
    }
    Vec::new()
}

#[test]
fn random_orders_faults_and_crashes_agree_with_a_small_model() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match number("WRIT_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("WRIT_MODEL_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let wrong = each(&seeds, try_out);
    assert!(wrong.is_empty(), "{wrong:?}");
}
