//! Starts one program, and ends it: an absolute path that only root can have changed, arguments from typed
//! fields, a cleared environment, nothing to read, a time limit, an output limit. Blocks.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: the one place where this crate starts a program"
)]

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::config::only_ours;

/// A program that is told to end has this long to do so: `pct` tells its worker, which tidies up.
const GRACE: Duration = Duration::from_secs(10);
/// After so long what is left of it is given up on.
const BURY: Duration = Duration::from_secs(10);
/// Most bytes that are kept of each output. What comes after them is read and dropped.
const KEEP: usize = 512 * 1024;
/// All that a program sees of an environment.
const ENVIRONMENT: &[(&str, &str)] = &[("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8")];

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program<'a> {
    /// Absolute.
    pub path: &'a Path,
    /// Each one its own.
    pub args: Vec<String>,
    /// It is ended after so long.
    pub timeout: Duration,
}

/// What it did.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub how: How,
    /// At most so many bytes of its output as are kept.
    pub stdout: Vec<u8>,
    /// Likewise.
    pub stderr: Vec<u8>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// We ended it.
    TimedOut,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not there, or not root's.
    #[error("{path} cannot be used: {why}", path = .path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// Cause and remedy.
        why: String,
    },
    /// The system.
    #[error("{path} could not be started: {source}", path = .path.display())]
    Start {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It was started, and what became of it is lost.
    #[error("{path} was started and could not be waited for ({source}): look at the host", path = .path.display())]
    Lost {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl RunError {
    /// Whether the program certainly did not run.
    pub const fn nothing_ran(&self) -> bool {
        matches!(self, Self::Program { .. } | Self::Start { .. })
    }
}

/// From here on orphans of programs become children of this process, which ends them ([`run`]). Only one program
/// may run at a time then.
pub fn adopt_orphans() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(Into::into)
}

/// Runs it to its end or its time limit. Afterwards nothing of its process group runs any more, and, with
/// [`adopt_orphans`], nothing else of it either.
pub fn run(program: &Program<'_>) -> Result<Ran, RunError> {
    let path = program.path;
    check(path).map_err(|why| RunError::Program { path: path.to_owned(), why })?;
    let mut child = Command::new(path)
        .args(&program.args)
        .env_clear()
        .envs(ENVIRONMENT.iter().copied())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| RunError::Start { path: path.to_owned(), source })?;
    let waited = wait(&mut child, program.timeout);
    if waited.is_err() {
        signal_group(&child, Signal::KILL);
        let _ = child.wait();
    }
    bury_orphans();
    waited.map_err(|source| RunError::Lost { path: path.to_owned(), source })
}

fn check(path: &Path) -> Result<(), String> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err("there is no such program: install it".into());
        }
        Err(error) => return Err(error.to_string()),
    };
    if !meta.is_file() || !only_ours(&meta) {
        return Err("it is no file that only root can change: look at who changed it".into());
    }
    Ok(())
}

fn wait(child: &mut Child, timeout: Duration) -> io::Result<Ran> {
    let process = Pid::from_child(child);
    let ended = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    let (mut out, mut err) = (Output::new(child.stdout.take())?, Output::new(child.stderr.take())?);
    let begun = Instant::now();
    let (mut until, mut told) = (begun + timeout, 0);
    loop {
        let now = Instant::now();
        if now >= until {
            match told {
                0 => signal_group(child, Signal::TERM),
                1 => signal_group(child, Signal::KILL),
                _ => return Err(io::Error::other("it does not die")),
            }
            told += 1;
            until = now + GRACE;
            continue;
        }
        let left = Timespec::try_from(until - now).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
        fds.extend(out.poll_fd());
        fds.extend(err.poll_fd());
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let over = !fds[0].revents().is_empty();
        drop(fds);
        out.read_what_is_there();
        err.read_what_is_there();
        if over {
            break;
        }
    }
    // Before it is buried: its number, and with it the group's, cannot be somebody else's yet.
    signal_group(child, Signal::KILL);
    let status = child.wait()?;
    out.read_what_is_there();
    err.read_what_is_there();
    let how = if told > 0 { How::TimedOut } else { how(status) };
    Ok(Ran { how, stdout: out.kept, stderr: err.kept })
}

fn how(status: ExitStatus) -> How {
    match (status.code(), status.signal()) {
        (Some(code), _) => How::Exited(code),
        (None, signal) => How::Signaled(signal.unwrap_or_default()),
    }
}

/// The child is its group's first process and not buried yet, so the number is its own.
fn signal_group(child: &Child, signal: Signal) {
    let _ = rustix::process::kill_process_group(Pid::from_child(child), signal);
}

/// One end of a pipe, as far as it is kept.
struct Output<R> {
    from: Option<R>,
    kept: Vec<u8>,
}

impl<R: Read + AsFd> Output<R> {
    fn new(from: Option<R>) -> io::Result<Self> {
        if let Some(from) = &from {
            let flags = rustix::fs::fcntl_getfl(from)?;
            rustix::fs::fcntl_setfl(from, flags | OFlags::NONBLOCK)?;
        }
        Ok(Self { from, kept: Vec::new() })
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        self.from.as_ref().map(|from| PollFd::new(from, PollFlags::IN))
    }

    /// Bounded: whoever writes without end must not keep us from looking at the clock.
    fn read_what_is_there(&mut self) {
        let Some(from) = &mut self.from else { return };
        let mut chunk = [0; 16 * 1024];
        for _ in 0..64 {
            match from.read(&mut chunk) {
                Ok(0) => {
                    self.from = None;
                    return;
                }
                Ok(count) => {
                    let room = KEEP.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&chunk[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.from = None;
                    return;
                }
            }
        }
    }
}

/// Ends what lost its parent and became our child: a worker that made a session of its own. Does nothing where
/// orphans are not ours.
fn bury_orphans() {
    let ours = rustix::process::getpid();
    if !matches!(rustix::process::child_subreaper(), Ok(Some(_))) {
        return;
    }
    let until = Instant::now() + BURY;
    while Instant::now() < until {
        let children = children_of(ours);
        if children.is_empty() {
            return;
        }
        for child in children {
            tracing::warn!(
                pid = child.as_raw_nonzero().get(),
                "a process that a program left behind is ended"
            );
            // A child of ours is not buried by anybody else, so the number is its own.
            let _ = rustix::process::kill_process(child, Signal::KILL);
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
        }
    }
}

fn children_of(process: Pid) -> Vec<Pid> {
    let parent = process.as_raw_nonzero().get();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // "pid (name) state ppid …"; the name may hold anything.
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(1);
            fields.next().and_then(|field| field.parse::<i32>().ok()) == Some(parent)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn of(text: &str, args: &[&str], timeout: Duration) -> Ran {
        // No file of ours: another test's fork could still hold it open.
        let args = ["-c", text, "program"].iter().chain(args).map(|&arg| arg.to_owned()).collect();
        run(&Program { path: Path::new("/bin/sh"), args, timeout }).unwrap()
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn arguments_arrive_whole_and_nothing_else_does() {
        let ran = of("printf '%s|' \"$@\"; env; cat; pwd", &["a b", "$(id)", "-x", "'\""], LONG);
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(text.starts_with("a b|$(id)|-x|'\"|"), "{text}");
        let variables: Vec<&str> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
            // The shell's own.
            .filter(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name))
            .collect();
        assert_eq!(variables.iter().filter(|name| !["PATH", "LC_ALL"].contains(name)).count(), 0, "{text}");
        assert!(text.ends_with("\n/\n"), "{text}");
        assert_eq!(ran.how, How::Exited(0));
    }

    #[test]
    fn ends_are_told_apart() {
        for (text, expected) in
            [("exit 0", How::Exited(0)), ("exit 7", How::Exited(7)), ("kill -9 $$", How::Signaled(9))]
        {
            assert_eq!(of(text, &[], LONG).how, expected, "{text}");
        }
        let ran = of("echo no such storage >&2; exit 255", &[], LONG);
        assert_eq!((ran.how, ran.stderr.as_slice()), (How::Exited(255), &b"no such storage\n"[..]));
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let begun = Instant::now();
        let ran = of(
            &format!("sleep 1000 & echo $$ $! > {}; wait", pids.display()),
            &[],
            Duration::from_millis(300),
        );
        assert_eq!(ran.how, How::TimedOut);
        assert!(begun.elapsed() < GRACE, "it went when it was told");
        let pids = std::fs::read_to_string(pids).unwrap();
        for pid in pids.split_whitespace() {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z"), "{pid} lives: {stat}");
        }
    }

    #[test]
    fn a_gigabyte_of_output_is_read_and_dropped() {
        let ran = of("head -c 1000000000 /dev/zero; echo end >&2", &[], Duration::from_secs(120));
        assert_eq!((ran.how, ran.stdout.len(), ran.stderr.as_slice()), (How::Exited(0), KEEP, &b"end\n"[..]));
    }

    /// Whoever keeps the pipe open does not keep us.
    #[test]
    fn what_stays_behind_in_the_group_is_ended() {
        let begun = Instant::now();
        let ran = of("sleep 1000 & exit 3", &[], LONG);
        assert_eq!(ran.how, How::Exited(3));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_program_that_others_can_change_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "echo ran > ran");
        let run = |path: &Path| run(&Program { path, args: vec![], timeout: LONG }).unwrap_err();
        for mode in [0o775, 0o757, 0o777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(run(&path).to_string().contains("only root can change"), "{mode:o}");
        }
        assert!(run(&dir.path().join("none")).to_string().contains("install it"));
        assert!(run(dir.path()).nothing_ran());
    }
}
