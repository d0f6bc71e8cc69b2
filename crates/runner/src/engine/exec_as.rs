//! The last stage before the program: a process that becomes the user, cleans up after everything that it
//! inherited, and executes the program in its own place. (A closure between fork and exec would need
//! `unsafe`; a second execution of the own binary does not.)

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: the runner starts signed scripts and sessions; this is where"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio as ProcessStdio};

use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Uid};
use rustix::fs::Mode;
use rustix::io::FdFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal};

use super::wire::{self, ExecSpec, Identity, StageReport, Stdio};

/// The hidden subcommand `exec-as`. Returns only when the program could not be executed.
pub(crate) fn main() -> ExitCode {
    super::close_inherited();
    let parent = rustix::process::getppid();
    // Close-on-exec: the supervisor sees the end of this socket when the program is executed.
    let Ok(supervisor) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let why = match wire::receive::<ExecSpec>(supervisor.as_fd()) {
        Ok((spec, fds)) => match prepare(&spec, fds, parent) {
            Ok(mut command) => {
                if wire::send(supervisor.as_fd(), &StageReport::Ready {}, &[]).is_err() {
                    return ExitCode::FAILURE;
                }
                format!("{} cannot be executed ({})", spec.program.display(), command.exec())
            }
            Err(why) => why,
        },
        Err(error) => format!("the last stage got no specification ({error})"),
    };
    let _ = wire::send(supervisor.as_fd(), &StageReport::Failed { why }, &[]);
    ExitCode::FAILURE
}

fn prepare(spec: &ExecSpec, fds: Vec<OwnedFd>, parent: Option<Pid>) -> Result<Command, String> {
    let mut command = Command::new(&spec.program);
    command.env_clear().envs(spec.env.iter().map(|(name, value)| (name, value)));
    match (spec.stdio, <[OwnedFd; 3]>::try_from(fds)) {
        (Stdio::Script, Ok([stdout, stderr, script])) => {
            // The only descriptor beside 0, 1 and 2 that the program gets.
            rustix::io::fcntl_setfd(&script, FdFlags::empty())
                .map_err(|error| format!("the script cannot be handed over ({error})"))?;
            command.arg(format!("/proc/self/fd/{}", script.into_raw_fd()));
            command.stdin(ProcessStdio::null()).stdout(stdout).stderr(stderr);
            no_core_dumps()?;
        }
        (Stdio::Socket, Err(fds)) => {
            let [socket, stderr] =
                <[OwnedFd; 2]>::try_from(fds).map_err(|_| "the descriptors are not those of a session")?;
            let stdout = socket.try_clone().map_err(|error| format!("no descriptor is left ({error})"))?;
            command.stdin(socket).stdout(stdout).stderr(stderr);
        }
        _ => return Err("the descriptors are not those of a script".into()),
    }
    command.args(&spec.args);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if let Some(identity) = &spec.identity {
        become_user(identity)?;
    }
    if rustix::process::chdir(&spec.cwd).is_err() {
        rustix::process::chdir("/").map_err(|error| format!("/ cannot be entered ({error})"))?;
    }
    default_signals().map_err(|error| format!("signals cannot be reset ({error})"))?;
    // After becoming the user: that resets it. And if the supervisor died before this line, nobody else
    // would say so.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| error.to_string())?;
    if rustix::process::getppid() != parent {
        return Err("the supervisor is gone".into());
    }
    Ok(command)
}

fn no_core_dumps() -> Result<(), String> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| format!("core dumps cannot be switched off ({error})"))
}

/// Groups first: afterwards there is no right left to change them.
fn become_user(identity: &Identity) -> Result<(), String> {
    let failed = |what: &str, error: nix::Error| {
        format!("{} cannot be {what} ({error}): only root can run as somebody else", identity.name)
    };
    let name = CString::new(identity.name.as_str()).map_err(|_| "a user name without NUL is needed")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    nix::unistd::initgroups(&name, gid).map_err(|error| failed("given its groups", error))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(|error| failed("given its group", error))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|error| failed("become", error))?;
    let now = nix::unistd::getresuid().map_err(|error| failed("become", error))?;
    if (now.real, now.effective, now.saved) == (uid, uid, uid) {
        Ok(())
    } else {
        Err(format!("{} did not become the user although the kernel said so", identity.name))
    }
}

/// A signal that somebody above us ignores (nohup, a shell's background job, systemd's SIGPIPE) stays
/// ignored through exec; one that is *caught* falls back to its default. tokio catches signals without
/// `unsafe` on our side; its runtime ends with this process and has no thread. What is blocked stays blocked
/// too, so nothing is.
fn default_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    for number in 1..=31 {
        // Refused are those that cannot be caught or that are raised by the program's own faults.
        let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(number));
    }
    Ok(SigSet::empty().thread_set_mask()?)
}
