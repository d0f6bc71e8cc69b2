//! The supervisor: one process for each job and each session, single threaded, that outlives neither its
//! runner nor what it supervises.
//!
//! It opens a session, becomes a subreaper, executes the program through the last stage
//! ([`super::exec_as`]) and waits for the first of: the program ends, the time limit, the lifeline closes.
//! Then it kills all of its descendants, buries them, reports and ends. The lifeline is the socket that its
//! specification came through; the kernel closes it whatever becomes of the runner.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: the runner starts signed scripts and sessions; this is where"
)]

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio as ProcessStdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::cgroup::Cgroup;
use super::dir::SessionDir;
use super::tree::{self, Killed, Prey, ProcessId, Stat, boottime};
use super::wire::{ExecSpec, MainEnd, Report, StageReport, Stdio, SuperviseSpec};
use super::{logind, wire};

/// The program is told to end (SIGTERM) and killed after so long.
const GRACE: Duration = Duration::from_secs(1);
/// Becoming the user may ask a directory service that does not answer.
const STAGE_WITHIN: Duration = Duration::from_secs(30);
/// Longest sleep: poll(2) does not count the time that the host is suspended.
const LONGEST_NAP: Duration = Duration::from_secs(30);

/// The hidden subcommand `supervise`.
pub(crate) fn main() -> ExitCode {
    super::close_inherited();
    let (lifeline, spec, fds) = match begin() {
        Ok(begun) => begun,
        Err(why) => {
            eprintln!("writ-runner supervise: {why}: this is started by writ-runner itself, not by hand");
            return ExitCode::FAILURE;
        }
    };
    let token = spec.token.clone();
    let dir = spec.dir.clone();
    let report = match Supervisor::start(spec, fds, lifeline.as_fd()) {
        Ok(mut supervisor) => supervisor.see_through(),
        Err(why) => Report::Refused { why },
    };
    if let Some(dir) = dir.and_then(|dir| SessionDir::adopt(&dir, &token)) {
        dir.remove();
    }
    // The runner may be gone; then nobody is there to be told.
    match wire::send(lifeline.as_fd(), &report, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn begin() -> Result<(OwnedFd, SuperviseSpec, Vec<OwnedFd>), String> {
    let io = |error: rustix::io::Errno| error.to_string();
    // Ours alone from here on: what is started gets other descriptors in place of 0, 1 and 2.
    let lifeline = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    rustix::process::setsid().map_err(io)?;
    tree::become_subreaper().map_err(|error| error.to_string())?;
    // Besides the lifeline. It comes when the *thread* ends that started this process, so it is only a
    // reason to look whether the process is gone too.
    rustix::process::set_parent_process_death_signal(Some(Signal::HUP)).map_err(io)?;
    let (spec, fds) = wire::receive::<SuperviseSpec>(lifeline.as_fd()).map_err(|error| error.to_string())?;
    if fds.len() == spec.exec.stdio.descriptors() {
        Ok((lifeline, spec, fds))
    } else {
        Err("the specification came without its descriptors".into())
    }
}

struct Supervisor<'a> {
    lifeline: BorrowedFd<'a>,
    signals: SignalFd,
    parent: Option<Pid>,
    main: ProcessId,
    /// Ended by us before it was known to have begun.
    stopped: Option<MainEnd>,
    /// How the program ended, once it has.
    ended: Option<WaitStatus>,
    cgroup: Option<Cgroup>,
    began: Duration,
    deadline: Duration,
    is_session: bool,
}

impl<'a> Supervisor<'a> {
    /// Executes the program. An error means that it never ran.
    fn start(spec: SuperviseSpec, fds: Vec<OwnedFd>, lifeline: BorrowedFd<'a>) -> Result<Self, String> {
        let parent = rustix::process::getppid();
        let signals = signals().map_err(|error| format!("signals cannot be received ({error})"))?;
        let (ours, theirs) = super::socketpair().map_err(|error| format!("no socket ({error})"))?;
        let cgroup = spec.cgroup.then(|| Cgroup::create(&spec.token).ok()).flatten();
        // In a group of its own, so that `kill 0` in a script does not reach the supervisor; in the
        // supervisor's session without leading it, so that opening a terminal does not make it theirs.
        let child = Command::new("/proc/self/exe")
            .arg0("writ-runner")
            .arg("exec-as")
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(theirs)
            .stdout(ProcessStdio::null())
            .spawn()
            .map_err(|error| format!("the runner's own binary cannot be executed ({error})"))?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let main = ProcessId::of(pid).ok_or("the program was gone at once")?;
        // Before it gets its specification, so that nothing of it can be outside.
        let cgroup = cgroup.filter(|group| group.admit(child.id()).is_ok());
        let mut supervisor = Self {
            lifeline,
            signals,
            parent,
            main,
            stopped: None,
            ended: None,
            cgroup,
            began: boottime(),
            deadline: Duration::MAX,
            is_session: spec.exec.stdio == Stdio::Socket,
        };
        if let Err(why) = supervisor.hand_over(&spec.exec, fds, ours) {
            supervisor.kill();
            return Err(why);
        }
        supervisor.deadline = boottime().saturating_add(Duration::from_millis(spec.limit_ms));
        let cgroup = supervisor.cgroup.as_ref().map(|group| group.dir().to_owned());
        // Nobody to report to: the lifeline's end is noticed next.
        let _ = wire::send(lifeline, &Report::Started { main, cgroup }, &[]);
        Ok(supervisor)
    }

    /// Gives the last stage what it needs and waits until it has executed the program.
    fn hand_over(&mut self, spec: &ExecSpec, fds: Vec<OwnedFd>, stage: OwnedFd) -> Result<(), String> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        wire::send(stage.as_fd(), spec, &borrowed)
            .map_err(|error| format!("the last stage could not be told what to execute ({error})"))?;
        // An open copy here would keep the runner from ever seeing the end of the output.
        drop(fds);
        let deadline = boottime() + STAGE_WITHIN;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_sub(boottime());
            let (told, end) = match self.stopped {
                Some(_) => (true, false),
                // Not being able to wait is no reason to let it run on unwatched.
                None => self.wait(Some(stage.as_fd()), left).unwrap_or((false, true)),
            };
            if self.stopped.is_none() && (end || left.is_zero()) {
                // It may execute the program this very moment. Dead it says no more, and what it has said by
                // then decides.
                self.stopped = Some(if end { MainEnd::Cancelled {} } else { MainEnd::TimedOut {} });
                let _ = self.main.signal(Signal::KILL);
            } else if told {
                let mut buffer = [0; 4096];
                let got = rustix::io::read(&stage, &mut buffer).unwrap_or(0);
                said.extend_from_slice(&buffer[..got]);
                if got == 0 || said.len() > wire::MAX_LINE {
                    return self.judge(&said);
                }
            }
        }
    }

    /// From all that the last stage ever said: whether it executed the program.
    fn judge(&self, said: &[u8]) -> Result<(), String> {
        let mut lines = said.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let mut next = || lines.next().map(serde_json::from_slice::<StageReport>);
        match (next(), next(), self.stopped) {
            (Some(Ok(StageReport::Ready {})), None, _) => Ok(()),
            (Some(Ok(StageReport::Failed { why })), _, _) | (_, Some(Ok(StageReport::Failed { why })), _) => {
                Err(why)
            }
            (_, _, Some(MainEnd::TimedOut {})) => {
                Err(format!("becoming the user took more than {} s", STAGE_WITHIN.as_secs()))
            }
            (_, _, Some(_)) => Err("cancelled before it was executed".into()),
            (_, _, None) => Err("the last stage ended before it executed the program".into()),
        }
    }

    /// Waits for the end of the program or for a reason to end it; then ends everything.
    fn see_through(&mut self) -> Report {
        let end = self.stopped.unwrap_or_else(|| self.wait_for_end());
        let lasted = boottime().saturating_sub(self.began);
        self.ask_to_end();
        // Seen before they die: what their login was moved to.
        let scopes = if self.is_session { logind::foreign_scopes(&self.descendants()) } else { Vec::new() };
        let mut killed = self.kill();
        if !scopes.is_empty() {
            logind::terminate(&scopes);
            let late = self.kill();
            killed.killed = killed.killed.saturating_add(late.killed);
            killed.survivors = late.survivors;
        }
        Report::Ended {
            end,
            duration_ms: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
            killed: killed.killed,
            survivors: killed.survivors,
        }
    }

    fn wait_for_end(&mut self) -> MainEnd {
        loop {
            if let Some(status) = self.ended {
                return main_end(status);
            }
            let left = self.deadline.saturating_sub(boottime());
            if left.is_zero() {
                return MainEnd::TimedOut {};
            }
            match self.wait(None, left) {
                Ok((_, false)) => {}
                Ok((_, true)) | Err(_) => return MainEnd::Cancelled {},
            }
        }
    }

    /// SIGTERM to the program's process group, and a moment to act on it: sshd ends its PAM session then.
    fn ask_to_end(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if let Some(group) = Pid::from_raw(self.main.pid()) {
            // Not yet buried, so the number is still its own.
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
        }
        let deadline = boottime() + GRACE;
        while self.ended.is_none() && boottime() < deadline {
            self.pause(deadline.saturating_sub(boottime()));
        }
    }

    fn kill(&mut self) -> Killed {
        // Whoever forks in a loop should not get more time than whoever ends it. Only root may.
        let _ = rustix::process::setpriority_process(None, -20);
        let killed = tree::kill_all(self, tree::KILL_WITHIN);
        self.bury();
        killed
    }

    fn descendants(&self) -> Vec<Stat> {
        let me = rustix::process::getpid().as_raw_pid();
        let all = tree::everybody().unwrap_or_default();
        let below = tree::with_descendants(&all, |stat| stat.parent == me);
        below.into_iter().filter(|stat| stat.alive).collect()
    }

    /// Waits for a signal, the lifeline, `also`, or the time. (whether `also` is readable, whether to end)
    fn wait(&mut self, also: Option<BorrowedFd<'_>>, time: Duration) -> Result<(bool, bool), String> {
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.lifeline, PollFlags::IN),
        ];
        fds.extend(also.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let time = tree::timespec(time.min(LONGEST_NAP));
        match rustix::event::poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        // Nothing may come through the lifeline any more, so whatever is there is its end.
        let over = !fds[1].revents().is_empty();
        let also = fds.get(2).is_some_and(|fd| !fd.revents().is_empty());
        Ok((also, self.take_signals() || over))
    }

    /// Whether one of them was a reason to end.
    fn take_signals(&mut self) -> bool {
        let mut end = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match i32::try_from(signal.ssi_signo) {
                Ok(n) if n == NixSignal::SIGHUP as i32 => end |= rustix::process::getppid() != self.parent,
                Ok(n) if n == NixSignal::SIGCHLD as i32 => {}
                _ => end = true,
            }
        }
        self.bury();
        end
    }

    fn bury(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_pid() == self.main.pid() {
                self.ended = Some(status);
            }
        }
    }
}

impl Prey for Supervisor<'_> {
    fn find(&mut self) -> io::Result<Vec<Stat>> {
        self.bury();
        let mut found = self.descendants();
        found.extend(self.cgroup.iter().flat_map(Cgroup::members));
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn counts(&self, id: ProcessId) -> bool {
        id != self.main
    }

    fn strike(&mut self) {
        if let Some(group) = &self.cgroup {
            group.kill();
        }
    }

    fn pause(&mut self, time: Duration) {
        let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&tree::timespec(time)));
        self.take_signals();
    }
}

/// SIGCHLD, and what asks for the end. Blocked, so that they can only be read; the last stage lifts that
/// again, since the mask is inherited.
fn signals() -> nix::Result<SignalFd> {
    let wanted = [NixSignal::SIGCHLD, NixSignal::SIGTERM, NixSignal::SIGINT, NixSignal::SIGHUP];
    let mask = SigSet::from_iter(wanted);
    mask.thread_set_mask()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn main_end(status: WaitStatus) -> MainEnd {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => MainEnd::Exited { code },
        (None, Some(signal)) => MainEnd::Signaled { signal },
        (None, None) => MainEnd::Cancelled {},
    }
}
