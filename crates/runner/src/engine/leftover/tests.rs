#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: tests of the runner start processes that must or must not be killed"
)]

use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use super::*;

fn me() -> ProcessId {
    ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap()
}

fn leftover(id: ProcessId, boot: &str) -> Leftover {
    Leftover {
        token: Token::random().unwrap(),
        boot: BootId(boot.into()),
        supervisor: id,
        main: id,
        cgroup: None,
        dir: None,
        uid: rustix::process::getuid().as_raw(),
        socket: None,
    }
}

#[test]
fn a_used_number_is_not_enough() {
    // This process has the number, but was not started then, or not in that boot: surviving this is the test.
    let boot = BootId::current().unwrap();
    let text = format!(r#"{{"pid":{},"start":{}}}"#, me().pid(), me().start() + 1);
    let other: ProcessId = serde_json::from_str(&text).unwrap();
    assert_eq!(leftover(other, &boot.0).kill(), Killed::default());
    let earlier = "00000000-0000-0000-0000-000000000000";
    assert_eq!(leftover(me(), earlier).kill(), Killed::default());
}

#[test]
fn hostile_state_files_are_refused() {
    let boot = BootId::current().unwrap();
    let good = serde_json::to_value(leftover(me(), &boot.0)).unwrap();
    assert!(serde_json::from_value::<Leftover>(good.clone()).is_ok());
    for (field, bad) in [
        ("token", serde_json::json!("../../etc")),
        ("token", serde_json::json!("ABCDEF0123456789abcdef0123456789")),
        ("boot", serde_json::json!("")),
        ("boot", serde_json::json!("00000000-0000-0000-0000-00000000000\n")),
        ("supervisor", serde_json::json!({"pid": -1, "start": 5})),
        ("supervisor", serde_json::json!({"pid": 0, "start": 5})),
        ("main", serde_json::json!({"pid": 1, "start": 5})),
        ("main", serde_json::json!({"pid": 4294967297u64, "start": 5})),
        ("main", serde_json::json!({"pid": 7})),
        ("main", serde_json::json!({"pid": 7, "start": 5, "more": 1})),
        ("cgroup", serde_json::json!(7)),
        ("uid", serde_json::json!(-1)),
        ("uid", serde_json::json!(null)),
        ("socket", serde_json::json!("socket:[7]")),
        ("more", serde_json::json!(1)),
    ] {
        let mut value = good.clone();
        value[field] = bad;
        assert!(serde_json::from_value::<Leftover>(value.clone()).is_err(), "{value}");
    }
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// Ended when dropped.
struct Bystander(Child);

impl Bystander {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn sleeps() -> Command {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(pid_of(&self.0)).unwrap()
    }

    /// Who is dead needs burying before it looks so.
    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A leftover whose known processes are long gone, and whose supervisor was started then.
fn of_user(uid: u32, since: u64) -> Leftover {
    let gone: ProcessId =
        serde_json::from_value(serde_json::json!({"pid": i32::MAX, "start": since})).unwrap();
    Leftover { uid, ..leftover(gone, &BootId::current().unwrap().0) }
}

fn wait_until(holds: impl Fn() -> bool) {
    let deadline = boottime() + Duration::from_secs(10);
    while !holds() {
        assert!(boottime() < deadline, "it did not come to pass");
        tree::pause(LOOK_AGAIN);
    }
}

fn own() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Not root, for whom any user counts.
const SOMEBODY: u32 = 54_321;

#[test]
fn whoever_was_handed_the_mark_is_not_killed() {
    let now = tree::ticks();
    let mut old = of_user(own(), now + 1_000_000);
    let mut others = of_user(SOMEBODY, 0);
    let mut daemon = Bystander::start(Bystander::sleeps().env("WRIT_SESSION", old.token.as_str()));
    others.token = old.token.clone();
    let id = daemon.id();
    wait_until(|| marked(id.pid(), &old.token));
    assert_eq!(old.kill(), Killed::default());
    assert!(daemon.lives(), "it was there before the job's supervisor");
    assert_eq!(others.kill(), Killed::default());
    assert!(daemon.lives(), "it is another user's");
    old.uid = 0;
    assert_eq!(old.kill(), Killed::default());
    assert!(daemon.lives(), "what root hands to an old process does not count either");
    let theirs = Leftover { token: old.token.clone(), ..of_user(own(), id.start()) };
    assert_eq!(theirs.kill().killed, 1);
    assert!(!daemon.lives(), "otherwise this shows nothing");
}

#[test]
fn a_script_that_was_handed_on_is_no_reason_to_kill() {
    let mut leftover = of_user(SOMEBODY, 0);
    let name = memfd_name(&leftover.token);
    let script = rustix::fs::memfd_create(&name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut daemon = Bystander(Bystander::sleeps().stdin(script).spawn().unwrap());
    let id = daemon.id();
    wait_until(|| marked(id.pid(), &leftover.token));
    assert_eq!(leftover.kill(), Killed::default());
    assert!(daemon.lives());
    leftover.uid = own();
    assert_eq!(leftover.kill().killed, 1);
    assert!(!daemon.lives());
}

#[test]
fn children_of_whoever_has_only_the_mark_are_left_alone() {
    let marks = of_user(own(), tree::ticks());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "env -u WRIT_SESSION sleep 1000.25 & wait"]);
    let mut daemon = Bystander::start(command.env("WRIT_SESSION", marks.token.as_str()));
    let id = daemon.id();
    let child = || {
        let all = tree::everybody().unwrap();
        all.into_iter().find(|stat| {
            let sleeps = fs::read(format!("/proc/{}/cmdline", stat.id.pid())).unwrap_or_default();
            stat.parent == id.pid() && sleeps == b"sleep\x001000.25\0"
        })
    };
    wait_until(|| child().is_some());
    let child = child().unwrap().id;
    assert_eq!(marks.kill().killed, 1);
    assert!(!daemon.lives() && child.is_alive());
    // Known by its number it is another matter.
    let known = Leftover { main: child, ..marks };
    assert_eq!(known.kill().killed, 1);
    wait_until(|| !child.is_alive());
}

/// Otherwise this test, and whoever runs it, would be gone: all of them count as marked and known.
#[test]
fn the_runner_and_its_parents_are_never_of_it() {
    let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
    let all = tree::everybody().unwrap();
    let spared = tree::line_of(&all, me().pid());
    assert!([me().pid(), parent, 1].iter().all(|pid| spared.contains(pid)), "{spared:?}");
    let token = Token::random().unwrap();
    let marks = Marks { token: &token, since: 0, uid: 0, socket: None };
    let known = vec![me(), ProcessId::of(parent).unwrap()];
    let mut remains = Remains { known, marks, cgroup: None };
    assert_eq!(remains.find().unwrap(), []);
}

#[test]
fn a_trace_of_another_boot_kills_nobody() {
    let (socket, _other) = super::super::socketpair().unwrap();
    let token = Token::random().unwrap();
    let mut trace = Trace::begin(own(), socket.as_fd()).unwrap();
    let mut left = Bystander::start(Bystander::sleeps().env("WRIT_SESSION", token.as_str()));
    let id = left.id();
    wait_until(|| marked(id.pid(), &token));
    let boot = std::mem::replace(&mut trace.boot, BootId("00000000-0000-0000-0000-000000000000".into()));
    assert_eq!(trace.kill(&token), Killed::default());
    assert!(left.lives());
    trace.boot = boot;
    assert_eq!(trace.kill(&token).killed, 1);
    assert!(!left.lives());
}
