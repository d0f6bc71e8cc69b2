use super::*;
use protocol::guest::{GuestIdentity, SnapshotRef};
use protocol::{GuestKind, SnapshotName};

fn vmid(number: u32) -> Vmid {
    number.try_into().unwrap()
}

fn tags(names: &[&str]) -> BTreeSet<Tag> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn names(names: &[&str]) -> BTreeSet<SnapshotName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn snapshot(name: &str) -> SnapshotRef {
    SnapshotRef { name: name.parse().unwrap(), time: 1, parent: None }
}

fn guest(number: u32, name: &str) -> GuestReport {
    GuestReport {
        vmid: vmid(number),
        kind: GuestKind::Qemu,
        name: name.to_owned(),
        state: RunState::Stopped,
        uptime_s: None,
        memory: None,
        config: Known::Known(GuestConfigReport {
            digest: "d0".to_owned(),
            identity: GuestIdentity {
                macs: vec![format!("BC:24:11:00:00:{number:02}")],
                ..Default::default()
            },
            tags: Vec::new(),
            lock: None,
            protection: false,
        }),
        snapshots: Known::Known(Vec::new()),
    }
}

fn want(number: u32, name: &str) -> DesiredGuest {
    DesiredGuest {
        vmid: vmid(number),
        name: name.to_owned(),
        running: None,
        tags: None,
        snapshots: BTreeSet::new(),
    }
}

fn config(guest: &mut GuestReport) -> &mut GuestConfigReport {
    match &mut guest.config {
        Known::Known(config) => config,
        Known::Unknown(_) => panic!("known here"),
    }
}

fn plan_one(want: DesiredGuest, guest: GuestReport) -> Plan {
    plan(Some((3, &DesiredState { guests: vec![want] })), &[guest], &BTreeSet::new())
}

fn kinds(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(Step::kind).collect()
}

#[test]
fn nothing_wanted_is_nothing_to_do() {
    assert_eq!(plan(None, &[guest(100, "web")], &BTreeSet::new()), Plan::default());
    let plan = plan_one(want(100, "web"), guest(100, "web"));
    assert!(plan.is_converged());
    assert_eq!(plan.generation, 3);
}

#[test]
fn tags_then_start_then_snapshots_in_later_rounds() {
    let everything = DesiredGuest {
        running: Some(true),
        tags: Some(tags(&["b", "a"])),
        snapshots: names(&["s1", "s2"]),
        ..want(100, "web")
    };
    let mut web = guest(100, "web");
    let first = plan_one(everything.clone(), web.clone());
    assert_eq!(kinds(&first), ["guest.tag", "guest.start"]);
    let Step::SetTags { digest, tags, guest } = &first.steps[0] else { panic!("{first:?}") };
    assert_eq!((digest.as_str(), tags.iter().map(Tag::as_str).collect::<Vec<_>>()), ("d0", vec!["a", "b"]));
    assert_eq!(guest.identity.macs, ["BC:24:11:00:00:100"]);
    config(&mut web).tags = vec!["b".to_owned(), "a".to_owned()];
    let second = plan_one(everything.clone(), web.clone());
    assert_eq!(kinds(&second), ["guest.start", "snapshot.create"]);
    web.state = RunState::Running;
    web.snapshots = Known::Known(vec![snapshot("s1")]);
    let third = plan_one(everything.clone(), web.clone());
    assert_eq!(
        third.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["snapshot.create qemu 100 (web) as s2"]
    );
    web.snapshots = Known::Known(vec![snapshot("s2"), snapshot("extra"), snapshot("s1")]);
    assert!(plan_one(everything, web).is_converged());
}

/// Each of these could be a reason to act on the wrong thing; none may lead to a step.
#[test]
fn what_is_unknown_locked_or_signed_only_waits() {
    let all = DesiredGuest {
        running: Some(true),
        tags: Some(tags(&["a"])),
        snapshots: names(&["s1"]),
        ..want(100, "web")
    };
    let base = guest(100, "web");
    let mut locked = base.clone();
    config(&mut locked).lock = Some("backup".to_owned());
    let mut faceless = base.clone();
    config(&mut faceless).identity = GuestIdentity::default();
    let unread = GuestReport {
        config: Known::Unknown("403".into()),
        snapshots: Known::Unknown("timeout".into()),
        state: RunState::Unknown,
        ..base.clone()
    };
    let unread_config = GuestReport { config: Known::Unknown("403".into()), ..base.clone() };
    let cases = [
        (locked, 3, "lock (backup)"),
        (faceless, 3, "cannot be told from another"),
        (unread, 3, "another reading"),
        (unread_config, 3, "another reading of its configuration (403)"),
        (GuestReport { name: "mail".into(), ..base.clone() }, 1, "VMID 100 is now called mail"),
        (guest(101, "web"), 1, "VMID 100 does not exist"),
    ];
    for (seen, count, says) in cases {
        let plan = plan_one(all.clone(), seen);
        assert_eq!(plan.steps, [], "{says}");
        assert_eq!(plan.waiting.len(), count, "{says}: {:?}", plan.waiting);
        assert!(plan.waiting.iter().all(|entry| entry.needs.contains(says)), "{says}: {:?}", plan.waiting);
    }
    let stop = DesiredGuest { running: Some(false), ..want(100, "web") };
    let running = GuestReport { state: RunState::Running, ..base.clone() };
    let plan = plan_one(stop.clone(), running);
    assert_eq!(plan.steps, []);
    assert!(plan.waiting[0].needs.contains("guest.shutdown needs a signed order"));
    assert!(plan_one(stop.clone(), base.clone()).is_converged());
    let unknown = GuestReport { state: RunState::Unknown, ..base };
    assert_eq!(plan_one(stop, unknown).waiting.len(), 1);
}

/// What is already as wanted needs no reading of the rest.
#[test]
fn an_unread_part_that_does_not_matter_does_not_wait() {
    let seen = GuestReport {
        state: RunState::Running,
        config: Known::Unknown("x".into()),
        snapshots: Known::Unknown("y".into()),
        ..guest(100, "web")
    };
    assert!(plan_one(DesiredGuest { running: Some(true), ..want(100, "web") }, seen).is_converged());
}

#[test]
fn guests_with_an_order_in_flight_are_left_alone() {
    let state = DesiredState {
        guests: vec![
            DesiredGuest { running: Some(true), ..want(101, "db") },
            DesiredGuest { running: Some(true), ..want(100, "web") },
        ],
    };
    let seen = [guest(101, "db"), guest(100, "web")];
    let busy = BTreeSet::from([vmid(101)]);
    let part = plan(Some((1, &state)), &seen, &busy);
    assert_eq!(part.steps.iter().map(|step| step.vmid().unwrap().get()).collect::<Vec<_>>(), [100]);
    assert_eq!(part.waiting[0].vmid, vmid(101));
    let whole = plan(Some((1, &state)), &seen, &BTreeSet::new());
    assert_eq!(whole.steps.iter().map(|step| step.vmid().unwrap().get()).collect::<Vec<_>>(), [100, 101]);
}

#[test]
fn without_a_list_of_guests_everything_waits() {
    let state = DesiredState { guests: vec![want(100, "web"), want(101, "db")] };
    let plan = plan_unread(Some((4, &state)), "PVE unreachable");
    assert_eq!((plan.generation, plan.steps.len(), plan.waiting.len()), (4, 0, 2));
    assert!(plan.waiting[0].needs.contains("PVE unreachable"));
    assert_eq!(plan_unread(None, "x"), Plan::default());
}

/// A tiny world: what each step does, including that every change makes a new digest.
fn apply(world: &mut [GuestReport], step: &Step) {
    let target = step.guest().expect("every planned step is about a guest");
    let seen = world.iter_mut().find(|seen| seen.vmid == target.vmid).expect("planned for a guest we saw");
    assert_eq!(seen.name, target.name);
    assert_eq!(config(seen).identity, target.identity);
    assert_eq!(config(seen).lock, None, "no step on a locked guest");
    match step {
        Step::Start { .. } => {
            assert_eq!(seen.state, RunState::Stopped);
            seen.state = RunState::Running;
            // Pending changes are applied by a start.
            config(seen).digest.push('p');
        }
        Step::SetTags { digest, tags, .. } => {
            let config = config(seen);
            assert_eq!(*digest, config.digest, "compare-and-set would fail");
            config.tags = tags.iter().map(ToString::to_string).collect();
            config.digest.push('t');
        }
        Step::SnapshotCreate { snapshot: name, .. } => {
            config(seen).digest.push('s');
            let Known::Known(list) = &mut seen.snapshots else { panic!("snapshots were read") };
            assert!(list.iter().all(|have| have.name != *name), "the name is taken");
            list.push(snapshot(name.as_str()));
        }
        other => panic!("nothing in the desired state asks for this yet: {other}"),
    }
}

/// Knuth's MMIX generator: enough for choosing cases, and the same cases every time.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
    fn some_of(&mut self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|_| self.coin()).collect()
    }
}

fn random_guest(random: &mut Lcg, number: u32) -> GuestReport {
    let mut seen = guest(number, if random.below(8) == 0 { "other" } else { "name" });
    seen.state = match random.below(5) {
        0 => RunState::Unknown,
        1 | 2 => RunState::Running,
        _ => RunState::Stopped,
    };
    config(&mut seen).tags = random.some_of(&["a", "b", "c"]).into_iter().map(str::to_owned).collect();
    if random.below(6) == 0 {
        config(&mut seen).lock = Some("snapshot".to_owned());
    }
    if random.below(8) == 0 {
        seen.config = Known::Unknown("no".to_owned());
    }
    seen.snapshots = if random.below(8) == 0 {
        Known::Unknown("no".to_owned())
    } else {
        Known::Known(random.some_of(&["s1", "s2", "s3"]).into_iter().map(snapshot).collect())
    };
    seen
}

fn random_want(random: &mut Lcg, number: u32) -> DesiredGuest {
    DesiredGuest {
        running: [None, Some(true), Some(true), Some(false)][random.below(4) as usize],
        tags: random.coin().then(|| tags(&random.some_of(&["a", "b", "d"]))),
        snapshots: names(&random.some_of(&["s1", "s2", "s4"])),
        ..want(number, "name")
    }
}

/// The property of the whole crate: applying leads to a state where there is nothing left to do,
/// every step's precondition holds when its turn comes, and waiting things stay as they were.
#[test]
fn applying_the_plan_leaves_no_steps() {
    let mut random = Lcg(42);
    let (mut with_steps, mut converged) = (0, 0);
    for case in 0..3000 {
        let numbers: Vec<u32> = (100..100 + random.below(6) as u32).collect();
        let mut world: Vec<GuestReport> = Vec::new();
        let mut state = DesiredState::default();
        for number in numbers {
            if random.below(8) != 0 {
                world.push(random_guest(&mut random, number));
            }
            if random.below(4) != 0 {
                state.guests.insert(0, random_want(&mut random, number));
            }
        }
        let first = plan(Some((1, &state)), &world, &BTreeSet::new());
        assert_eq!(first, plan(Some((1, &state)), &world, &BTreeSet::new()), "deterministic");
        with_steps += usize::from(!first.steps.is_empty());
        let mut now = first.clone();
        let mut rounds = 0;
        while !now.steps.is_empty() {
            rounds += 1;
            assert!(rounds <= 4, "case {case}: no end: {now:?}");
            for step in &now.steps {
                apply(&mut world, step);
            }
            now = plan(Some((1, &state)), &world, &BTreeSet::new());
        }
        assert_eq!(now.waiting, first.waiting, "case {case}: steps change nothing about what waits");
        converged += usize::from(now.is_converged() && !first.steps.is_empty());
    }
    assert!(with_steps > 1000 && converged > 200, "the cases are worth it: {with_steps} {converged}");
}
