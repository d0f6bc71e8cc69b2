use super::*;

const LINE: &str = "17 (sh) S 5 17 16 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 10 1844\n";

fn stat(pid: i32, parent: i32) -> Stat {
    Stat { id: ProcessId { pid, start: 1 }, parent, group: pid, session: pid, alive: true }
}

#[test]
fn what_proc_says_is_read_whatever_a_process_calls_itself() {
    let plain = Stat::parse(LINE.as_bytes()).unwrap();
    let id = ProcessId { pid: 17, start: 4242 };
    assert_eq!(plain, Stat { id, parent: 5, group: 17, session: 16, alive: true });
    for name in ["", ")", ") Z 1 1 1 (", "a b", "\u{fffd}\n", "S 1 1"] {
        assert_eq!(Stat::parse(LINE.replace("sh", name).as_bytes()), Some(plain), "{name:?}");
    }
    assert_eq!(
        Stat::parse(&LINE.as_bytes().iter().map(|b| if *b == b'h' { 0xff } else { *b }).collect::<Vec<_>>()),
        Some(plain)
    );
    let zombie = LINE.replace(") S", ") Z");
    assert!(!Stat::parse(zombie.as_bytes()).unwrap().alive);
    let threads = zombie.replace("20 0 1 0", "20 0 2 0");
    assert!(Stat::parse(threads.as_bytes()).unwrap().alive, "its other threads run on");
    for bad in
        ["", "17", "17 (sh", "17 (sh)", "17 (sh) S", "x (sh) S 5", "17 (sh) S 5 17 16 0 -1 4194560 1 2"]
    {
        assert_eq!(Stat::parse(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn this_process_is_found_and_known_by_its_start() {
    let me = i32::try_from(std::process::id()).unwrap();
    let found = everybody().unwrap().into_iter().find(|stat| stat.id.pid == me).unwrap();
    assert!(found.alive && found.id.is_alive() && ProcessId::of(me) == Some(found.id));
    let earlier = ProcessId { start: found.id.start - 1, ..found.id };
    assert!(!earlier.is_alive());
    assert_eq!(earlier.signal(Signal::KILL), Ok(false), "a recycled number is not hit");
    assert_eq!(ProcessId { pid: i32::MAX, start: 1 }.signal(Signal::KILL), Ok(false));
}

#[test]
fn descendants_are_all_of_them_and_nobody_else() {
    let all = [stat(2, 1), stat(3, 2), stat(4, 3), stat(5, 1), stat(6, 4), stat(7, 5)];
    let pids = |root: i32| {
        let mut found: Vec<i32> =
            with_descendants(&all, |stat| stat.id.pid == root).iter().map(|stat| stat.id.pid).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(pids(2), [2, 3, 4, 6]);
    assert_eq!(pids(5), [5, 7]);
    assert_eq!(pids(9), Vec::<i32>::new());
    // Read while everything moved, parents may seem to go round in a circle.
    let circle = [stat(2, 3), stat(3, 2)];
    assert_eq!(with_descendants(&circle, |stat| stat.id.pid == 2).len(), 2);
}

/// Somebody who cannot be killed, as a process that waits for a disk.
struct Undying {
    looks: u32,
}

impl Prey for Undying {
    fn find(&mut self) -> io::Result<Vec<Stat>> {
        self.looks += 1;
        Ok((0..40).map(|n| stat(i32::MAX - n, 1)).collect())
    }

    fn groups_are_ours(&self) -> bool {
        false
    }

    fn pause(&mut self, time: Duration) {
        pause(time);
    }
}

#[test]
fn whoever_does_not_die_is_named() {
    let mut prey = Undying { looks: 0 };
    let killed = kill_all(&mut prey, Duration::from_millis(50));
    assert_eq!(killed.survivors.len(), NAMED, "not all of thousands");
    assert!(killed.survivors.contains(&i32::MAX) && prey.looks > 2);
}

#[test]
fn numbers_that_mean_more_than_one_process_are_refused() {
    for bad in
        [r#"{"pid":0,"start":1}"#, r#"{"pid":-7,"start":1}"#, r#"{"pid":1,"start":1}"#, r#"{"pid":7}"#, "7"]
    {
        assert!(serde_json::from_str::<ProcessId>(bad).is_err(), "{bad}");
    }
    let id = ProcessId { pid: 7, start: 9 };
    assert_eq!(serde_json::from_str::<ProcessId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
}
