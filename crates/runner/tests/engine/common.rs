//! What the engine's tests share: users that exist for one test, processes that can be recognized, and this
//! test binary acting as a runner that can be killed.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use protocol::UserName;
use runner::engine::Engine;

/// The engine, with the real binary for its supervisors.
pub(crate) fn engine() -> Engine {
    Engine::new().unwrap().with_binary(binary())
}

pub(crate) fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_writ-runner").into()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says so when a test cannot run.
pub(crate) fn needs_root(test: &str) -> bool {
    if !is_root() {
        eprintln!("{test}: skipped, it needs root");
    }
    is_root()
}

/// The user that runs this test.
pub(crate) fn myself() -> UserName {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    user.name.parse().unwrap()
}

pub(crate) fn random() -> u32 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

/// Seconds to sleep that nobody else sleeps: a process that can be recognized by its command line.
pub(crate) fn marker() -> String {
    format!("1000.{:010}", random())
}

/// Processes whose command line contains `text`, this one left out.
pub(crate) fn running(text: &str) -> Vec<i32> {
    let me = i32::try_from(std::process::id()).unwrap();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != me)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            text.is_empty() || line.windows(text.len()).any(|part| part == text.as_bytes())
        })
        .collect()
}

/// Processes that are exactly `sleep marker`.
pub(crate) fn sleepers(marker: &str) -> Vec<i32> {
    let line = format!("sleep\0{marker}\0");
    let exactly =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text == line.as_bytes());
    running(marker).into_iter().filter(exactly).collect()
}

/// Whether so many of them run.
pub(crate) fn sleeping(marker: &str, so_many: usize) -> bool {
    sleepers(marker).len() == so_many
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to pass");
        std::thread::yield_now();
        let nap = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        rustix::event::poll(&mut [], Some(&nap)).unwrap();
    }
}

/// The same while others work.
pub(crate) async fn wait_until_async(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come to pass");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A user with a locked password, removed at the end of the test.
pub(crate) struct TemporaryUser {
    pub(crate) name: UserName,
    pub(crate) uid: u32,
    pub(crate) home: PathBuf,
    groups: Vec<String>,
}

/// useradd and its like lock /etc/passwd, and give up when it is locked.
static ACCOUNTS: Mutex<()> = Mutex::new(());

fn admin(args: &[&str]) {
    let _lock = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    wait_until(&args.join(" "), || {
        let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
        // 1: the files are locked by somebody else. 10: groups likewise.
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1 | 10)), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        code == Some(0)
    });
}

/// The pid namespace, shortened: a process number means nothing in another one.
fn pid_namespace() -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!("{:05x}", fs::metadata("/proc/self/ns/pid").unwrap().ino() & 0xf_ffff)
}

/// Removes the users of test runs that were killed: their names hold the process that made them.
fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for file in ["/etc/passwd", "/etc/group"] {
            for line in fs::read_to_string(file).unwrap().lines() {
                let name = line.split(':').next().unwrap();
                let mut rest = name.strip_prefix("writ-test-").unwrap_or_default().split('-');
                let maker = rest.next().and_then(|pid| pid.parse::<u32>().ok());
                let Some(maker) = maker.filter(|_| rest.next() == Some(&pid_namespace())) else { continue };
                if !Path::new(&format!("/proc/{maker}")).exists() {
                    // A user's own group goes with the user; whoever else sweeps may be faster.
                    let program = if file == "/etc/passwd" { "userdel" } else { "groupdel" };
                    let _ = Command::new(program).arg(name).output().unwrap();
                    let _ = fs::remove_dir_all(format!("/tmp/{name}"));
                }
            }
        }
    });
}

impl TemporaryUser {
    pub(crate) fn create(groups: usize) -> Self {
        sweep();
        let name = format!("writ-test-{}-{}-{:04x}", std::process::id(), pid_namespace(), random() & 0xffff);
        let groups: Vec<String> = (0..groups).map(|n| format!("{name}-{n}")).collect();
        for group in &groups {
            admin(&["groupadd", group]);
        }
        let home = PathBuf::from(format!("/tmp/{name}"));
        let (list, at) = (groups.join(","), home.to_str().unwrap());
        admin(&["useradd", "-m", "-d", at, "-s", "/bin/sh", "-G", &list, &name]);
        let user = nix::unistd::User::from_name(&name).unwrap().unwrap();
        Self { name: name.parse().unwrap(), uid: user.uid.as_raw(), home, groups }
    }

    pub(crate) fn group_ids(&self) -> Vec<u32> {
        let id = |name: &str| nix::unistd::Group::from_name(name).unwrap().unwrap().gid.as_raw();
        let own = nix::unistd::User::from_name(self.name.as_str()).unwrap().unwrap().gid.as_raw();
        let mut ids: Vec<u32> = self.groups.iter().map(|name| id(name)).chain([own]).collect();
        ids.sort_unstable();
        ids
    }
}

/// A user for sessions, shared by the tests that run at the same time: accounts are slow to make.
pub(crate) fn shared_user() -> Arc<TemporaryUser> {
    static SHARED: Mutex<Weak<TemporaryUser>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let user = Arc::new(TemporaryUser::create(0));
        *shared = Arc::downgrade(&user);
        user
    })
}

/// Asks ssh for a terminal, where sshd can give one: an ordinary user's cannot change the group of a
/// terminal, and unless devpts is mounted with the right one (gid=5, as systemd does) it refuses.
pub(crate) fn terminal() -> &'static [&'static str] {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let right = mounts.lines().any(|line| line.starts_with("devpts ") && line.contains("gid=5"));
    if is_root() || right {
        &["-tt"]
    } else {
        eprintln!("without a terminal: /dev/pts is not mounted with gid=5");
        &[]
    }
}

impl Drop for TemporaryUser {
    fn drop(&mut self) {
        // A failed test may leave anything; nothing but the test runs as this user.
        let theirs = |pid: &i32| {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == self.uid)
        };
        for _ in 0..1000 {
            let left: Vec<i32> = running("").into_iter().filter(theirs).collect();
            if left.is_empty() {
                break;
            }
            for signal in [nix::sys::signal::SIGSTOP, nix::sys::signal::SIGKILL] {
                for pid in left.iter().filter(|pid| theirs(pid)) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), signal);
                }
            }
        }
        admin(&["userdel", self.name.as_str()]);
        for group in &self.groups {
            admin(&["groupdel", group]);
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Runs all tests of this binary again as an ordinary user, without this one.
pub(crate) fn again_as_an_ordinary_user(this: &str) {
    if !needs_root(this) {
        return;
    }
    let user = TemporaryUser::create(0);
    let id = user.uid.to_string();
    let output = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--init-groups", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--skip", this])
        // They mostly wait.
        .args(["--test-threads", "4"])
        // The same for every user, and slow.
        .args(["--skip", "exec_runs", "--skip", "whoever_does_something", "--skip", "bomb"])
        .current_dir("/")
        .env_clear()
        .env("HOME", &user.home)
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{}", said.lines().last().unwrap_or_default());
}

/// What finds orphans by their session, where this process's own session is of outside and has no number.
pub(crate) fn again_in_a_pid_namespace(this: &str) {
    let inside = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--"]);
        command
    };
    if !needs_root(this) {
        return;
    }
    if !inside().arg("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("{this}: not checked, no pid namespace can be had here");
        return;
    }
    let output = inside()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "ends::a_killed_supervisor_takes_everything_along"])
        .args(["ends::a_killed_runner_takes_everything_along"])
        .args(["ends::what_outlives_runner_and_supervisor_is_found_again"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("3 passed"), "{said}");
}

/// Names the role in which this test binary is started again.
pub(crate) const ROLE: &str = "WRIT_ENGINE_ROLE";
/// Lends it an account: one that it made itself would outlive it.
pub(crate) const ACCOUNT: &str = "WRIT_ENGINE_ACCOUNT";

/// This binary again, as a process that does `role` and can be killed. Its stdout is a pipe.
pub(crate) fn act(role: &str, env: &[(&str, &str)]) -> Actor {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "acting", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).envs(env.iter().copied()).stdout(Stdio::piped()).stdin(Stdio::null());
    Actor(command.spawn().unwrap())
}

/// The same, while it ignores signals as a careless parent may have left it.
pub(crate) fn act_ignoring_signals(role: &str, env: &[(&str, &str)]) -> Actor {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' HUP INT QUIT USR1 TSTP CHLD PIPE; exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "acting", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).envs(env.iter().copied()).stdout(Stdio::piped()).stdin(Stdio::null());
    command.process_group(0);
    Actor(command.spawn().unwrap())
}

pub(crate) struct Actor(Child);

impl Actor {
    /// The first line that is JSON.
    pub(crate) fn says(&mut self) -> String {
        use std::io::BufRead as _;
        let lines = std::io::BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        let mut lines = lines.map(|line| line.unwrap());
        lines.find(|line| line.starts_with(['{', '['])).expect("the actor said nothing")
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// kill -9.
pub(crate) fn kill(pid: i32) {
    use nix::sys::signal::{Signal, kill};
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// Whoever kills orphans would take those of the other test too, and that other test would see none.
pub(crate) static ORPHANS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
