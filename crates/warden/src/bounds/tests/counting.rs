//! Rates: a table per rule, then random histories against counting by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use authz::Event;

use super::*;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const T0: u64 = 1_800_000_000;

fn started(n: u32, effect: Effect) -> Event {
    Event::StepStarted {
        generation: 1,
        kind: "k".into(),
        vmid: (n > 0).then(|| vmid(n)),
        what: "w".parse().unwrap(),
        effect: Some(effect),
    }
}

fn effect(field: Field, direction: Direction) -> Effect {
    Effect { field, direction, from: 0, to: 0 }
}

fn tags() -> Effect {
    effect(Field::Tags, Direction::Set)
}

fn cores(from: u64, to: u64) -> Effect {
    Effect {
        field: Field::Cores,
        direction: if to > from { Direction::Up } else { Direction::Down },
        from,
        to,
    }
}

/// A history of (seconds ago, guest, effect), oldest first.
fn history(entries: &[(u64, u32, Effect)]) -> History {
    let mut history = History::default();
    for (ago, n, effect) in entries {
        history.visit(&started(*n, *effect), T0 - ago);
    }
    history
}

fn ask(n: u32, effect: Effect, history: &History, guests: u64) -> Result<(), String> {
    let (policy, local) = (policy(), LocalBounds::default());
    let vmid = (n > 0).then(|| vmid(n));
    rates(vmid, &effect, &Limits::new(&policy, &local), history, guests, T0).map_err(|(code, why)| {
        assert_eq!(code, RefusalCode::Rate, "{why}");
        why
    })
}

#[test]
fn each_rate_refuses_by_its_name() {
    let snapshot = effect(Field::Snapshots, Direction::Add);
    let grown = |gib: u64| Effect { field: Field::Disk, direction: Direction::Up, from: 0, to: gib * GIB };
    let backup = effect(Field::Backups, Direction::Add);
    let template = effect(Field::Templates, Direction::Add);
    let guest = effect(Field::Guests, Direction::Add);
    let start = effect(Field::Power, Direction::Up);
    let many = |count: u32, ago: u64, effect: Effect| -> Vec<(u64, u32, Effect)> {
        (0..count).map(|n| (ago, 101 + n, effect)).collect()
    };
    let same = |count: usize, ago: u64, effect: Effect| vec![(ago, 101, effect); count];
    type Row = (&'static str, Vec<(u64, u32, Effect)>, u32, Effect, u64, Option<&'static str>);
    let table: Vec<Row> = vec![
        (
            "20 an hour",
            same(20, HOUR - 1, snapshot),
            101,
            snapshot,
            100,
            Some("rule bounds.max_changes_per_hour of"),
        ),
        ("19 an hour", same(19, HOUR - 1, snapshot), 101, snapshot, 100, None),
        ("20 before that", same(20, HOUR, snapshot), 101, snapshot, 100, None),
        (
            "10 guests an hour",
            many(10, 9, snapshot),
            150,
            snapshot,
            100,
            Some("rule bounds.rates.max_guests_per_hour"),
        ),
        ("10 guests, one of them again", many(10, 9, snapshot), 105, snapshot, 100, None),
        ("9 guests an hour", many(9, 9, snapshot), 150, snapshot, 100, None),
        ("20 % of 20", many(4, DAY - 1, tags()), 150, tags(), 20, Some("per_day of the policy of 20 guests")),
        ("20 % of 20, one of them again", many(4, DAY - 1, tags()), 101, tags(), 20, None),
        (
            "20 % of 24, rounded down",
            many(4, DAY - 1, tags()),
            150,
            tags(),
            24,
            Some("rule bounds.rates.max_percent"),
        ),
        ("20 % of 25", many(4, DAY - 1, tags()), 150, tags(), 25, None),
        ("yesterday", many(4, DAY, tags()), 150, tags(), 20, None),
        (
            "a small host",
            many(3, DAY - 1, tags()),
            150,
            tags(),
            5,
            Some("rule bounds.rates.few_guests_per_day"),
        ),
        ("a small host, three", many(2, DAY - 1, tags()), 150, tags(), 5, None),
        ("snapshots leave a guest as it is", many(9, 2 * HOUR, snapshot), 150, tags(), 5, None),
        ("snapshots are not counted by the day", many(9, 2 * HOUR, tags()), 150, snapshot, 5, None),
        ("made guests are changed ones", many(3, DAY - 1, tags()), 150, guest, 5, Some("few_guests_per_day")),
        ("third flip", same(3, 60, tags()), 101, tags(), 100, Some("rule bounds.rates.flips_per_hour")),
        ("second flip", same(2, 60, tags()), 101, tags(), 100, None),
        ("another guest's flips", same(3, 60, tags()), 102, tags(), 100, None),
        ("another field's flips", same(3, 60, tags()), 101, start, 100, None),
        ("flips of before", same(4, HOUR, tags()), 101, tags(), 100, None),
        (
            "started again and again",
            same(3, 60, start),
            101,
            start,
            100,
            Some("reversal number 3 of the power"),
        ),
        (
            "up, down, up, down",
            vec![(9, 101, cores(8, 9)), (8, 101, cores(9, 8)), (7, 101, cores(8, 9))],
            101,
            cores(9, 8),
            100,
            Some("reversal number 3 of the cores"),
        ),
        (
            "up, up, up, up",
            vec![(9, 101, cores(100, 101)), (8, 101, cores(101, 102)), (7, 101, cores(102, 103))],
            101,
            cores(103, 104),
            100,
            None,
        ),
        (
            "small steps that add up",
            vec![(DAY - 1, 101, cores(8, 10)), (9, 101, cores(10, 12))],
            101,
            cores(12, 13),
            100,
            Some("8 within 24 hours and would be 13"),
        ),
        ("and down", vec![(9, 101, cores(8, 7))], 101, cores(7, 5), 100, Some("fields.cores.down_percent")),
        (
            "bytes a day",
            vec![(DAY - 1, 101, grown(5))],
            101,
            grown(8),
            100,
            Some("max_bytes_per_guest_and_day"),
        ),
        ("bytes a day, just", vec![(DAY - 1, 101, grown(4))], 101, grown(8), 100, None),
        ("another guest's bytes", vec![(9, 102, grown(8))], 101, grown(8), 100, None),
        ("backups", same(2, DAY - 1, backup), 101, backup, 100, Some("fields.backups.max_per_guest_and_day")),
        ("another guest's backups", same(2, DAY - 1, backup), 102, backup, 100, None),
        (
            "downloads",
            vec![(DAY - 1, 0, template); 2],
            0,
            template,
            100,
            Some("fields.downloads.max_per_day"),
        ),
        ("new guests", many(2, DAY - 1, guest), 150, guest, 100, Some("fields.create.max_per_day")),
    ];
    for (what, entries, n, effect, guests, says) in table {
        match (ask(n, effect, &history(&entries), guests), says) {
            (Ok(()), None) => {}
            (Err(why), Some(says)) => assert!(why.contains(says), "{what}: {why:?} should say {says:?}"),
            (answer, _) => panic!("{what}: {answer:?}"),
        }
    }
}

/// The same with the host's own numbers, each by its name.
#[test]
fn a_hosts_own_rates_refuse_by_their_names() {
    let one = |n| LocalBounds { max_changes_per_hour: n, ..LocalBounds::default() };
    let table: [(LocalBounds, Effect, &str); 8] = [
        (one(Some(1)), tags(), "[bounds] max_changes_per_hour"),
        (LocalBounds { max_guests_per_hour: Some(1), ..one(None) }, tags(), "[bounds] max_guests_per_hour"),
        (
            LocalBounds { few_guests_per_day: Some(0), max_percent_of_guests_per_day: Some(1), ..one(None) },
            tags(),
            "[bounds] max_percent_of_guests_per_day",
        ),
        (LocalBounds { flips_per_hour: Some(1), ..one(None) }, tags(), "[bounds] flips_per_hour"),
        (
            LocalBounds { max_bytes_per_guest_and_day: Some(1), ..one(None) },
            Effect { field: Field::Disk, direction: Direction::Up, from: 0, to: 2 },
            "[bounds] max_bytes_per_guest_and_day",
        ),
        (
            LocalBounds { max_backups_per_guest_and_day: Some(0), ..one(None) },
            effect(Field::Backups, Direction::Add),
            "[bounds] max_backups_per_guest_and_day",
        ),
        (
            LocalBounds { max_created_per_day: Some(0), ..one(None) },
            effect(Field::Guests, Direction::Add),
            "[bounds] max_created_per_day",
        ),
        (
            LocalBounds { max_downloads_per_day: Some(0), ..one(None) },
            effect(Field::Templates, Direction::Add),
            "[bounds] max_downloads_per_day",
        ),
    ];
    for (local, effect, says) in table {
        let n = if says.contains("flips") { 101 } else { 102 };
        let policy = policy();
        let history = history(&[(9, 101, tags())]);
        let limits = Limits::new(&policy, &local);
        let (code, why) = rates(Some(vmid(n)), &effect, &limits, &history, 100, T0).expect_err(says);
        assert!(code == RefusalCode::Rate && why.contains(says), "{why:?} should say {says:?}");
    }
}

/// The whole guard in one call.
#[test]
fn check_asks_both() {
    let (policy, local) = (policy(), LocalBounds::default());
    let limits = Limits::new(&policy, &local);
    let start = step("start", json!({}));
    let empty = History::default();
    assert!(check(&start, &limits, Some(&seen()), &empty, 100, T0).is_ok());
    let busy = history(&[(9, 101, tags()); 20]);
    assert_eq!(check(&start, &limits, Some(&seen()), &busy, 100, T0).unwrap_err().0, RefusalCode::Rate);
    let running = Observed { state: RunState::Running, ..seen() };
    let refused = check(&start, &limits, Some(&running), &empty, 100, T0).unwrap_err();
    assert_eq!(refused.0, RefusalCode::Precondition);
}

#[test]
fn a_log_of_before_the_effects_counts_by_its_kinds() {
    let mut history = History::default();
    for kind in ["guest.start", "guest.tag", "snapshot.create"] {
        let text = json!({"event": "step_started", "generation": 1, "kind": kind, "vmid": 101, "what": "w"});
        history.visit(&serde_json::from_value(text).unwrap(), T0);
    }
    let count = |field| history.of_guest(vmid(101), field, T0);
    assert_eq!([count(Field::Power), count(Field::Tags), count(Field::Snapshots)], [1, 1, 1]);
}

#[test]
fn turning_the_clock_makes_nothing_older() {
    let second = Duration::from_secs;
    // Back: what is ahead of the clock was just now.
    let clock = Clock::new(T0 - 10 * DAY, T0, second(5));
    assert_eq!((clock.at(second(5)), clock.at(second(65))), (T0, T0 + 60));
    // A monotonic clock that goes back is none; it makes nothing younger either.
    assert_eq!(clock.at(second(0)), T0);
    // Forth, while the warden runs: its own time does not know.
    let clock = Clock::new(T0, T0 - 5, second(0));
    assert_eq!(clock.at(second(60)), T0 + 60);
    // Entries of a log that was written while the clock was behind are as old as those before them.
    let mut history = History::default();
    history.visit(&started(101, tags()), T0);
    history.visit(&started(102, tags()), T0 - 10 * DAY);
    assert_eq!((history.last_hour(T0 + 10).count(), history.last()), (2, T0));
    // What is no step moves the time too.
    let other = Event::PolicyAdvanced { version: 2, sha256: Sha256::of(b"p"), signers: vec![] };
    history.visit(&other, T0 + HOUR);
    assert_eq!((history.last_hour(history.last()).count(), history.last()), (0, T0 + HOUR));
    assert_eq!(Clock::new(0, u64::MAX, second(0)).at(second(9)), u64::MAX, "and nothing overflows");
}

/// Knuth's MMIX generator: the same histories every time.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Clone, Copy)]
struct Done {
    /// By true time.
    at: u64,
    n: u32,
    effect: Effect,
}

/// Counts by hand, over everything that was ever accepted, whether the last one broke a rule.
fn broken(done: &[Done], policy: &Bounds, guests: u64) -> Option<&'static str> {
    let last = done.last()?;
    let rates = policy.rates.unwrap_or_default();
    let fields = policy.fields.as_ref().unwrap();
    let within = |seconds: u64| done.iter().filter(move |d| last.at - d.at < seconds);
    if within(HOUR).count() > policy.max_changes_per_hour as usize {
        return Some("changes an hour");
    }
    let guests_of = |list: &mut dyn Iterator<Item = &Done>| {
        list.filter(|d| d.n > 0).map(|d| d.n).collect::<BTreeSet<_>>()
    };
    if guests_of(&mut within(HOUR)).len() > rates.max_guests_per_hour as usize {
        return Some("guests an hour");
    }
    let changed = guests_of(&mut within(DAY).filter(|d| d.effect.field.changes_guest()));
    let radius =
        (guests * u64::from(rates.max_percent_of_guests_per_day) / 100).max(rates.few_guests_per_day.into());
    if last.effect.field.changes_guest() && changed.len() as u64 > radius {
        return Some("blast radius");
    }
    let mine = || done.iter().filter(|d| d.n == last.n && d.effect.field == last.effect.field);
    let mut flips = 0;
    let mut before: Option<&Done> = None;
    for one in mine() {
        if let Some(before) = before {
            let turned = match one.effect.field {
                Field::Cores | Field::Memory => one.effect.direction != before.effect.direction,
                Field::Tags | Field::Power | Field::Onboot | Field::Description => true,
                _ => false,
            };
            flips += u32::from(turned && last.at - one.at < HOUR && one.at - before.at < HOUR);
        }
        before = Some(one);
    }
    if flips >= rates.flips_per_hour {
        return Some("flips");
    }
    let day: Vec<&Done> = mine().filter(|d| last.at - d.at < DAY).collect();
    let (from, to) = (day[0].effect.from, last.effect.to);
    match last.effect.field {
        Field::Disk => {
            let grown: u64 = day.iter().map(|d| d.effect.to - d.effect.from).sum();
            (grown > fields.grow.unwrap().max_bytes_per_guest_and_day).then_some("bytes a day")
        }
        Field::Cores => {
            let Amounts { up_percent, down_percent, .. } = fields.cores.unwrap();
            let far = to * 100 > from * u64::from(100 + up_percent)
                || to * 100 < from * u64::from(100 - down_percent);
            far.then_some("percent a day")
        }
        Field::Backups => {
            (day.len() > fields.backups.as_ref().unwrap().max_per_guest_and_day as usize).then_some("backups")
        }
        Field::Guests => {
            let made = within(DAY).filter(|d| d.effect.field == Field::Guests).count();
            (made > fields.create.as_ref().unwrap().max_per_day as usize).then_some("new guests")
        }
        _ => None,
    }
}

/// Whatever is asked for in whatever order, with restarts in between and a clock that is turned back: no window
/// ever holds more than the rates allow. And the guard is no wall: of each history a part is accepted, and
/// every rule refuses something.
#[test]
fn no_history_slips_under_a_rate() {
    let mut refusals: BTreeSet<&str> = BTreeSet::new();
    let (mut accepted, mut asked, mut restarts) = (0, 0, 0);
    for seed in 0..300 {
        let mut random = Lcg(seed);
        let mut policy = policy();
        policy.max_changes_per_hour = 5 + random.below(26) as u32;
        policy.rates = Some(Rates {
            max_guests_per_hour: 1 + random.below(10) as u32,
            max_percent_of_guests_per_day: random.below(21) as u32,
            few_guests_per_day: random.below(4) as u32,
            flips_per_hour: 1 + random.below(3) as u32,
        });
        let local = LocalBounds::default();
        let guests = 1 + random.below(60);
        // True time, and how far the host's clock is from it: only ever turned back.
        let (mut time, mut wrong) = (0_u64, 0_u64);
        let wall = |time: u64, wrong: u64| T0 + time - wrong;
        let mut log: Vec<(u64, Event)> = Vec::new();
        let mut history = History::default();
        let mut clock = Clock::new(wall(0, 0), 0, Duration::ZERO);
        let mut done: Vec<Done> = Vec::new();
        let mut amount = [8_u64; 60];
        let pace = [20, 400, 3_000][random.below(3) as usize];
        for _ in 0..200 {
            time += random.below(pace);
            if random.below(40) == 0 {
                wrong += random.below(3 * DAY);
            }
            if random.below(30) == 0 {
                restarts += 1;
                history = History::default();
                for (at, event) in &log {
                    history.visit(event, *at);
                }
                clock = Clock::new(wall(time, wrong), history.last(), Duration::from_secs(time));
            }
            let index = random.below(guests.min(12)) as usize;
            let n = 101 + index as u32;
            let up_or_down = if random.below(2) == 0 { Direction::Up } else { Direction::Down };
            let effect = match random.below(9) {
                0 => effect(Field::Power, Direction::Up),
                1 => tags(),
                2 => effect(Field::Onboot, up_or_down),
                3 => effect(Field::Snapshots, Direction::Add),
                4 => effect(Field::Backups, Direction::Add),
                5 => effect(Field::Guests, Direction::Add),
                6 => Effect {
                    field: Field::Disk,
                    direction: Direction::Up,
                    from: GIB,
                    to: (2 + random.below(8)) * GIB,
                },
                _ if up_or_down == Direction::Up => cores(amount[index], amount[index] + 1 + random.below(3)),
                _ => cores(amount[index], amount[index] - 1),
            };
            let at = clock.at(Duration::from_secs(time));
            asked += 1;
            let limits = Limits::new(&policy, &local);
            match rates(Some(vmid(n)), &effect, &limits, &history, guests, at) {
                Ok(()) => {
                    accepted += 1;
                    let event = started(n, effect);
                    history.visit(&event, at);
                    log.push((wall(time, wrong), event));
                    done.push(Done { at: time, n, effect });
                    if effect.field == Field::Cores {
                        amount[index] = effect.to.max(2);
                    }
                    let broken = broken(&done, &policy, guests);
                    assert_eq!(broken, None, "seed {seed}, after {} steps: {policy:?}", done.len());
                }
                Err((code, why)) => {
                    assert_eq!(code, RefusalCode::Rate);
                    let rules = [
                        "max_changes_per_hour",
                        "max_guests_per_hour",
                        "max_percent_of_guests_per_day",
                        "few_guests_per_day",
                        "flips_per_hour",
                        "max_bytes_per_guest_and_day",
                        "cores.up_percent",
                        "cores.down_percent",
                        "backups.max_per_guest_and_day",
                        "create.max_per_day",
                    ];
                    refusals.extend(rules.iter().filter(|rule| why.contains(*rule)));
                }
            }
        }
    }
    assert_eq!(refusals.len(), 10, "every rule has refused something: {refusals:?}");
    assert!(accepted * 20 > asked && restarts > 500, "{accepted} of {asked} accepted, {restarts} restarts");
}
