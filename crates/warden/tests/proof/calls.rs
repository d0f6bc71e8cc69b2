//! An error at each call, and each answer lost. For every kind: a clean run tells which calls there are and
//! what the world looks like afterwards; then the same once more for each call and each way to fail. The
//! receipt must say what the simulator shows: done, untouched, or what was done of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use authz::Outcome;
use protocol::frame::OrderState;
use pve_sim::world::{FaultRule, Mishap, World};

use crate::kinds::{Row, all};
use crate::rig::{Rig, each};
use crate::shape::{self, Shape, differences, differing, exact, volumes};

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// 500, and it was not carried out.
    Error,
    /// The connection is cut, and it was not carried out.
    Cut,
    /// Carried out, and its answer is lost.
    Lost,
    /// Carried out, and the answer is a gateway's.
    Gateway,
    /// The task that it starts fails.
    TaskFails,
    /// The task that it starts is killed and leaves its lock.
    TaskKilled,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Error, Self::Cut, Self::Lost, Self::Gateway, Self::TaskFails, Self::TaskKilled];

    fn mishap(self) -> Mishap {
        match self {
            Self::Error => Mishap::Error { text: "simulated error".into() },
            Self::Cut => Mishap::Reset { handled: false },
            Self::Lost => Mishap::Reset { handled: true },
            Self::Gateway => Mishap::Proxy { status: 596, reason: None, later_ms: 0 },
            Self::TaskFails => Mishap::TaskFail { text: "simulated failure".into(), leave_lock: false },
            Self::TaskKilled => Mishap::TaskKill {},
        }
    }

    /// Reads start no tasks, and are read again however they failed.
    fn is_for(self, method: &str) -> bool {
        method != "GET" || matches!(self, Self::Error | Self::Cut)
    }
}

/// What a row's clean run shows.
struct Clean {
    /// How the lines of the order's guest begin; of an order about no guest, nothing does so.
    own: String,
    /// The world before it, and every byte of that.
    base: World,
    exact: Shape,
    /// The world before each call, and at the end.
    stages: Vec<Shape>,
    /// Volumes that are there before and at the end.
    kept: BTreeSet<String>,
    /// Calls that change something, in their order.
    sent: Vec<String>,
}

impl Clean {
    /// Lines that some call changes. No fault may change another one.
    fn touched(&self) -> BTreeSet<String> {
        self.stages.windows(2).flat_map(|pair| differing(&pair[0], &pair[1])).collect()
    }

    /// Lines that the call after `made` others changes.
    fn by_call(&self, made: usize) -> BTreeSet<String> {
        match self.stages.get(made..made + 2) {
            Some([before, after]) => differing(before, after),
            _ => BTreeSet::new(),
        }
    }
}

/// One run with a fault in it.
struct Run<'a> {
    way: Way,
    /// To what.
    method: &'a str,
    outcome: &'a Outcome,
    sent: &'a [String],
    now: &'a Shape,
    world: &'a World,
}

/// Calls of a clean run, and how often an outcome was met.
#[derive(Default)]
struct Count {
    calls: usize,
    done: u32,
    untouched: u32,
    failed: u32,
    unknown: u32,
}

impl Count {
    fn runs(&self) -> u32 {
        self.done + self.untouched + self.failed + self.unknown
    }

    fn join(&mut self, other: &Self) {
        self.calls = self.calls.max(other.calls);
        self.done += other.done;
        self.untouched += other.untouched;
        self.failed += other.failed;
        self.unknown += other.unknown;
    }

    fn add(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Done { .. } | Outcome::Warnings { .. } => &mut self.done,
            Outcome::Refused { .. } | Outcome::Aborted { .. } => &mut self.untouched,
            Outcome::Failed { .. } => &mut self.failed,
            Outcome::Unknown { .. } | Outcome::Ran { .. } => &mut self.unknown,
        } += 1;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { calls, done, untouched, failed, unknown } = self;
        write!(
            f,
            "{calls:>3} calls, {:>3} runs: {done:>3} done, {untouched:>3} untouched, {failed:>2} failed, {unknown:>2} unknown",
            self.runs()
        )
    }
}

/// A part of a row's runs: every so manieth, from one on. Rows of many calls have more runs, so they are tried
/// out by more threads.
struct Part<'a> {
    row: &'a Row,
    from: usize,
    step: usize,
    counts: &'a Mutex<BTreeMap<&'static str, Count>>,
}

async fn try_out(part: &Part<'_>) -> Vec<String> {
    let row = part.row;
    let mut rig = Rig::start().await;
    rig.warm_up().await;
    rig.change(|world| (row.set_up)(world, rig.sim.now()));
    let saved = rig.save();

    let draft = rig.draft(row).await;
    let envelope = rig.sign(&rig.planned(draft.clone()).await.unwrap());
    let since = rig.sim.request_count();
    let stages = RefCell::new(Vec::new());
    let outcome = rig
        .submit_with(&envelope, |state| {
            if *state == OrderState::Starting {
                stages.borrow_mut().push(shape::since(&rig.save(), &saved));
            }
        })
        .await;
    let calls: Vec<_> = rig.sim.requests()[since..].to_vec();
    let end = rig.save();
    let mut stages = stages.into_inner();
    stages.push(shape::since(&end, &saved));
    let own = match draft.guest {
        Some(_) => format!("guest {} ", row.vmid),
        None => "no guest".to_owned(),
    };
    let clean = Clean {
        own,
        exact: exact(&saved, &saved),
        kept: volumes(&saved).intersection(&volumes(&end)).cloned().collect(),
        sent: rig.mutations(since),
        base: saved.clone(),
        stages,
    };
    let mut wrong = Vec::new();
    let each_changes = (0..row.calls).all(|made| !clean.by_call(made).is_empty());
    if !outcome.is_success()
        || clean.sent.len() != row.calls
        || clean.stages.len() != row.calls + 1
        || !each_changes
    {
        wrong.push(format!("{}: a clean run: {outcome}; {:?}", row.name, clean.sent));
    }

    let mut count = Count { calls: calls.len(), ..Count::default() };
    let points = calls.iter().enumerate().flat_map(|(at, call)| {
        let tried = row.reads || call.method != "GET";
        let ways = Way::ALL.into_iter().filter(move |way| tried && way.is_for(&call.method));
        ways.map(move |way| (at, call, way))
    });
    for (at, call, way) in points.skip(part.from).step_by(part.step) {
        rig.restore(&saved);
        // Plans are counted a minute, in memory only.
        if count.runs() % 16 == 15 {
            assert!(rig.reopen().is_empty());
            rig.warm_up().await;
        }
        let envelope = rig.sign(&rig.planned(rig.renewed(&draft)).await.unwrap());
        let since = rig.sim.request_count();
        let nth = u32::try_from(at + 1).unwrap();
        // A method makes it wait for a request even when it is the first.
        let rule = FaultRule::new(way.mishap()).nth(nth).contains("/api2");
        rig.sim.fault(rule).unwrap();
        let outcome = rig.submit(&envelope).await;
        count.add(&outcome);
        let until = rig.sim.request_count();
        let mut world = rig.save();
        if why(&outcome).contains("look for a leftover lock") {
            take_locks_away(&mut world);
        }
        let now = shape::since(&world, &saved);
        // The same order again changes nothing more.
        let again = rig.submit(&envelope).await;
        let (sent, more) = rig.mutations_of(since, until);
        if !more.is_empty() && !matches!(outcome, Outcome::Refused { .. }) {
            wrong.push(format!("{}: {way:?} at call {at}: carried out again: {again}", row.name));
        }
        // It was that call which went wrong, and no other one. (Tasks have new names each time.)
        let met = &rig.sim.requests()[since + at];
        let name = |path: &str| path.split("UPID").next().map(str::to_owned);
        if (&met.method, name(&met.path)) != (&call.method, name(&call.path)) {
            wrong.push(format!("{}: {way:?} at call {at} met {} {}", row.name, met.method, met.path));
        }
        let run = Run { way, method: &call.method, outcome: &outcome, sent: &sent, now: &now, world: &world };
        let found = [says_so(&clean, &run), spares_the_rest(&clean, &run), sent_twice(&clean, &run)];
        for why in found.into_iter().flatten() {
            let made = calls_made(&outcome);
            wrong.push(format!(
                    "{}: {way:?} at call {at} ({} {}): {why}\n  receipt: {outcome}\n  sent: {sent:?}\n  against before: {:?}\n  against stage {made}: {:?}\n  against done: {:?}",
                    row.name, call.method, call.path, differences(&clean.stages[0], &now), differences(&clean.stages[made.min(row.calls)], &now), differences(&clean.stages[row.calls], &now)
                ));
        }
    }
    rig.at_rest();
    part.counts.lock().unwrap().entry(row.name).or_default().join(&count);
    wrong
}

/// A worker that was killed leaves its lock.
fn take_locks_away(world: &mut World) {
    for guest in world.guests.values_mut() {
        guest.config.remove("lock");
    }
}

fn why(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed { why, .. } | Outcome::Unknown { why, .. } | Outcome::Aborted { why } => why.as_str(),
        _ => "",
    }
}

/// How many calls the receipt says were made before the one that did not succeed.
fn calls_made(outcome: &Outcome) -> usize {
    let words = why(outcome).split_once("Before that, ").and_then(|(_, rest)| rest.split(' ').next());
    words.map_or(0, |count| count.parse().unwrap())
}

/// What the receipt claims and the world does not show.
fn says_so(clean: &Clean, run: &Run<'_>) -> Option<String> {
    let claim = |good: bool, what: &str| (!good).then(|| what.to_owned());
    match run.outcome {
        Outcome::Done { .. } | Outcome::Warnings { .. } => {
            claim(Some(run.now) == clean.stages.last(), "says done, and it is not")
        }
        Outcome::Refused { .. } | Outcome::Aborted { .. } => {
            let now = exact(run.world, &clean.base);
            claim(now == clean.exact, "says untouched, and it is not")
        }
        Outcome::Failed { .. } => half_way(clean, run),
        // An answer was lost, a worker killed, or what became of it could not be read.
        Outcome::Unknown { why, .. } => {
            let lost = match (run.method, run.way) {
                ("GET", _) => !run.sent.is_empty(),
                (_, way) => !matches!(way, Way::Error | Way::TaskFails),
            };
            claim(!why.as_str().is_empty(), "says nothing")
                .or(claim(lost, "says unknown, and nothing was lost"))
                .or_else(|| half_way(clean, run))
        }
        Outcome::Ran { .. } => claim(false, "a script?"),
    }
}

/// The program ended early: the world is where the words say, but for what the last call left half done, and
/// for what was put right.
fn half_way(clean: &Clean, run: &Run<'_>) -> Option<String> {
    let (words, made) = (why(run.outcome), calls_made(run.outcome));
    let stage = &clean.stages[made];
    let mut open = BTreeSet::new();
    // Words that say what is different.
    if matches!(run.outcome, Outcome::Unknown { .. })
        || words.contains("now ")
        || words.contains("not as it was")
    {
        open = clean.by_call(made);
    }
    let undone = words.split_once("Then: ").map_or("", |(_, undone)| undone);
    let mut wrong = Vec::new();
    for line in differing(run.now, stage) {
        let before = clean.stages[0].get(&line);
        let now = run.now.get(&line);
        let put_right = undone.contains("put right: ") && !undone.contains("NOT put right");
        if open.contains(&line)
            || (put_right
                && line.ends_with(" config")
                && now.map(|config| bare(config)) == before.map(|config| bare(config)))
        {
            continue;
        }
        wrong.push(line);
    }
    (!wrong.is_empty()).then(|| format!("says {made} calls, and not what is different: {wrong:?}"))
}

/// Without what is put on for safety and not taken off again.
fn bare(config: &str) -> String {
    config.replace(", \"protection\": Number(1)", "").replace(", \"protection\": String(\"1\")", "")
}

/// What the order is not about is as it was, to the byte, and what it was not to destroy is there.
fn spares_the_rest(clean: &Clean, run: &Run<'_>) -> Option<String> {
    let touched = clean.touched();
    let mut wrong = differing(&exact(run.world, &clean.base), &clean.exact);
    wrong.retain(|line| {
        !line.starts_with(&clean.own) && !touched.contains(line) && !of_a_touched_guest(line, &touched)
    });
    if !wrong.is_empty() {
        return Some(format!("touched what it is not about: {wrong:?}"));
    }
    let there = volumes(run.world);
    let gone: Vec<_> = clean.kept.difference(&there).collect();
    let (first, last) = (&clean.stages[0], clean.stages.last().unwrap());
    let lost: Vec<_> =
        first.keys().filter(|line| last.contains_key(*line) && !run.now.contains_key(*line)).collect();
    (!gone.is_empty() || !lost.is_empty()).then(|| format!("destroyed {gone:?} {lost:?}"))
}

/// A guest's configuration takes a lock, its state has the sizes of its disks.
fn of_a_touched_guest(line: &str, touched: &BTreeSet<String>) -> bool {
    let guest = line.rsplit_once(' ').map_or(line, |(guest, _)| guest);
    line.starts_with("guest ")
        && touched.iter().any(|line| line.rsplit_once(' ').is_some_and(|(other, _)| other == guest))
}

/// No call is sent twice; what puts things right is a change of options, sent once, and told.
fn sent_twice(clean: &Clean, run: &Run<'_>) -> Option<String> {
    let mut left = clean.sent.clone();
    let mut more = Vec::new();
    for line in run.sent {
        match left.iter().position(|known| known == line) {
            Some(at) => drop(left.remove(at)),
            None => more.push(line),
        }
    }
    let rights =
        why(run.outcome).matches("put right").count().max(why(run.outcome).matches("Then: ").count());
    let told =
        more.len() <= rights && more.iter().all(|line| line.starts_with("PUT ") && line.ends_with("/config"));
    (!told).then(|| format!("sent more than the order: {more:?}"))
}

#[test]
fn an_error_at_each_call_and_each_answer_lost() {
    let mut rows = all();
    // The longest first: nobody waits for them in the end.
    rows.sort_by_key(|row| std::cmp::Reverse(row.calls));
    let counts = Mutex::new(BTreeMap::new());
    let mut parts = Vec::new();
    for row in &rows {
        let step = row.calls.div_ceil(2);
        parts.extend((0..step).map(|from| Part { row, from, step, counts: &counts }));
    }
    let wrong = each(&parts, try_out);
    let mut all = Count::default();
    for (name, count) in counts.lock().unwrap().iter() {
        println!("{name:<38} {count}");
        all.join(count);
    }
    println!("{} rows, the longest of {all}", rows.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
