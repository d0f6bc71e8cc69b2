//! The engine: runs one script, or one sshd for one session, as the right user, and leaves nothing behind.
//!
//! ```text
//! runner ──socket──▶ writ-runner supervise ──socket──▶ writ-runner exec-as ──execve──▶ interpreter | sshd
//!        ◀─reports──  (subreaper, own session,           (becomes the user)             └─ whatever it forks
//!                      kills all below it)
//! ```
//!
//! Every job and every session has a supervisor of its own. What it started stays below it whatever it does
//! with sessions, process groups and cgroups, and is killed when the program ends, at the time limit, when
//! it is cancelled and when the runner dies. Where a supervisor is killed too, its orphans fall to the
//! runner, which kills them; where both are, a [`Leftover`] finds what remains after a restart.
//!
//! The engine asks nobody whether something may be run: signatures, policy and nonces are checked before.
//!
//! | module | holds |
//! |---|---|
//! | [`job`] | a script: sealed, executed, its output collected |
//! | [`session`] | a session: sshd on a socket pair, with a host key and one authorized key of its own |
//! | [`user`] | who it runs as |
//! | [`tree`] | processes, their descendants, and killing them |
//! | [`leftover`] | what a crash left running |
//!
//! What the engine cannot see is what a job asks *others* to run: `systemd-run`, `at`, `docker`.

mod cgroup;
mod dir;
mod exec_as;
mod handle;
pub mod job;
pub mod leftover;
mod log;
mod logind;
mod output;
mod run;
pub mod session;
mod sshd;
mod supervise;
pub mod tree;
pub mod user;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

pub use dir::DirError;
pub use handle::{Canceller, Handle};
pub use job::{Job, JobEnd, JobSpec, Script};
pub use leftover::Leftover;
pub use session::{Session, SessionEnd, SessionSpec};
pub use sshd::{DEFAULT as DEFAULT_SSHD, SshdError};
pub use user::UserError;
pub use wire::{NotAToken, Token};

/// Starts jobs and sessions.
#[derive(Debug, Clone)]
pub struct Engine {
    binary: PathBuf,
    cgroups: bool,
}

impl Engine {
    /// Makes this process the one that orphans fall to ([`tree::become_subreaper`]). Supervisors are this
    /// process's own binary, so that must call [`stage`] first of all.
    pub fn new() -> io::Result<Self> {
        tree::become_subreaper()?;
        Ok(Self { binary: "/proc/self/exe".into(), cgroups: true })
    }

    /// Supervisors are this binary instead. For tests, whose own binary is none.
    #[must_use]
    pub fn with_binary(self, binary: PathBuf) -> Self {
        Self { binary, ..self }
    }

    /// Never tries for a cgroup: parentage alone has to do.
    #[must_use]
    pub fn without_cgroups(self) -> Self {
        Self { cgroups: false, ..self }
    }
}

/// Why a job or a session did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not as this user.
    #[error(transparent)]
    User(#[from] UserError),
    /// No place for the session's files.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// sshd is missing, too old or refuses its configuration.
    #[error(transparent)]
    Sshd(#[from] SshdError),
    /// The specification asks for something that cannot be.
    #[error("{0}")]
    Spec(&'static str),
    /// The program was never executed.
    #[error("it was not started: {why}")]
    NotExecuted {
        /// What happened instead.
        why: String,
    },
    /// The system gave no resources; nothing was started.
    #[error("it was not started, because {what} failed: look for a lack of memory, processes or open files")]
    System {
        /// What.
        what: &'static str,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The supervisor ended before it said whether the program ran. Whatever ran is dead, except `survivors`.
    #[error(
        "its supervisor ended ({why}) before it said whether the program ran: look at what it may have done"
    )]
    Unknown {
        /// What is known of the supervisor.
        why: String,
        /// Process numbers that could not be killed.
        survivors: Vec<i32>,
    },
}

impl StartError {
    /// Whether it is certain that nothing of the program ran.
    pub fn nothing_ran(&self) -> bool {
        match self {
            Self::User(_)
            | Self::Dir(_)
            | Self::Sshd(_)
            | Self::Spec(_)
            | Self::NotExecuted { .. }
            | Self::System { .. } => true,
            Self::Unknown { .. } => false,
        }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// What the binary does when it was started as one of the engine's stages: call it first of all, before
/// there is a second thread. `None`: it was started as something else.
pub fn stage() -> Option<ExitCode> {
    match std::env::args_os().nth(1)?.to_str()? {
        "supervise" => Some(supervise::main()),
        "exec-as" => Some(exec_as::main()),
        _ => None,
    }
}

/// Closes everything but 0, 1 and 2: what the runner was given by careless parents must not reach a job. To
/// be called while nothing of our own is open.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // One of them was the directory itself, closed since.
        let _ = nix::unistd::close(number);
    }
}

fn socketpair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}
