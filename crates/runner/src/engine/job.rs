//! A script, run once.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use protocol::text::SafeText;
use protocol::{EnvName, Interpreter, UserName};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;
use tokio::sync::{oneshot, watch};

use super::handle::{Canceller, Handle};
use super::leftover::memfd_name;
use super::output::{Shared, collect};
use super::user::Account;
use super::wire::{ExecSpec, MainEnd, Stdio, SuperviseSpec, Token};
use super::{Engine, StartError, run};

/// Where programs are looked for, for root and everybody.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Script bytes that nobody can change any more.
#[derive(Debug)]
pub struct Script {
    memory: OwnedFd,
    token: Token,
}

impl Script {
    /// Puts them into sealed memory. The interpreter gets a descriptor of it, so the script never touches a
    /// disk and what runs is what was verified.
    pub fn seal(bytes: &[u8]) -> io::Result<Self> {
        let token = Token::random().map_err(io::Error::other)?;
        let name = memfd_name(&token);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = match rustix::fs::memfd_create(&name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3.
            Err(Errno::INVAL) => rustix::fs::memfd_create(&name, flags)?,
            made => made?,
        };
        let mut file = std::fs::File::from(memory);
        file.write_all(bytes)?;
        // The interpreter opens it again, as the user, through /proc.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Self { memory: file.into(), token })
    }
}

/// What to run.
#[derive(Debug)]
pub struct JobSpec {
    /// The script.
    pub script: Script,
    /// What reads it: executed as `interpreter /proc/self/fd/N args…`.
    pub interpreter: Interpreter,
    /// Arguments after the script.
    pub args: Vec<SafeText>,
    /// As whom, with all of that user's groups.
    pub user: UserName,
    /// Beside PATH, HOME, USER, LOGNAME, SHELL and LANG; the same name replaces.
    pub env: Vec<(EnvName, SafeText)>,
    /// Everything is killed after so long.
    pub timeout: Duration,
    /// Output that is kept, both streams together; bytes.
    pub max_output: usize,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEnd {
    /// How the interpreter ended.
    pub how: How,
    /// What it and its children wrote to standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Likewise to standard error.
    pub stderr: Vec<u8>,
    /// There was more. It was read and dropped, so nobody waited for a full pipe.
    pub truncated: bool,
    /// From execution to end; zero where nobody can say.
    pub duration: Duration,
    /// Processes that outlived the interpreter and were killed. At the time limit: all but the interpreter.
    pub leftovers_killed: u32,
    /// Numbers of processes that could not be killed within [`super::tree::KILL_WITHIN`]. Not empty: something
    /// of the job still runs.
    pub survivors: Vec<i32>,
}

/// How an interpreter ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// Killed at the time limit.
    TimedOut,
    /// Killed because the runner asked.
    Cancelled,
    /// It ran, and nobody knows how it ended: its supervisor was killed. In words.
    Lost(String),
}

/// A script that runs.
pub type Job = Handle<JobEnd>;

/// Starts a script. It runs as soon as this returns.
pub async fn start(engine: &Engine, spec: JobSpec) -> Result<Job, StartError> {
    let user = spec.user.clone();
    let found = tokio::task::spawn_blocking(move || Account::find(&user)).await;
    let account = found.map_err(io::Error::other).map_err(StartError::system("looking up the user"))??;
    let supervise = SuperviseSpec {
        token: spec.script.token,
        cgroup: engine.cgroups,
        limit_ms: u64::try_from(spec.timeout.as_millis()).unwrap_or(u64::MAX),
        exec: ExecSpec {
            program: spec.interpreter.as_str().into(),
            args: spec.args.iter().map(|arg| arg.as_str().to_owned()).collect(),
            env: environment(&account, &spec.env)?,
            identity: account.identity(),
            cwd: account.home,
            stdio: Stdio::Script,
        },
        dir: None,
    };
    let pipes = || super::pipe().map_err(StartError::system("making a pipe"));
    let ((out, out_writes), (err, err_writes)) = (pipes()?, pipes()?);
    let fds = vec![out_writes, err_writes, spec.script.memory];
    let whose = run::Whose { uid: account.uid, socket: None };
    let running = run::launch(engine, supervise, fds, whose).await?;
    let cancel = Canceller::new();
    let (tell, end) = oneshot::channel();
    let handle = Handle::new(running.leftover.clone(), cancel.clone(), end, lost);
    tokio::spawn(async move {
        let kept = Shared::new(Kept { left: spec.max_output, ..Kept::default() });
        let (over, ended) = watch::channel(());
        let readers = [(out, Stream::Out), (err, Stream::Err)].map(|(pipe, stream)| {
            let kept = kept.clone();
            collect(pipe, ended.clone(), move |bytes| kept.lock().take(stream, bytes))
        });
        let finish = running.finish(&cancel).await;
        drop(over);
        for reader in readers {
            let _ = reader.await;
        }
        let kept = std::mem::take(&mut *kept.lock());
        // Nobody waits any more; the job is over all the same.
        let _ = tell.send(job_end(finish, kept));
    });
    Ok(handle)
}

fn job_end(finish: run::Finish, kept: Kept) -> JobEnd {
    let (how, duration) = match finish.end {
        Ok((end, duration)) => (how(end), duration),
        Err(why) => (How::Lost(format!("its supervisor failed ({why})")), Duration::ZERO),
    };
    JobEnd {
        how,
        stdout: kept.stdout,
        stderr: kept.stderr,
        truncated: kept.truncated,
        duration,
        leftovers_killed: finish.killed.killed,
        survivors: finish.killed.survivors,
    }
}

fn how(end: MainEnd) -> How {
    match end {
        MainEnd::Exited { code } => How::Exited(code),
        MainEnd::Signaled { signal } => How::Signaled(signal),
        MainEnd::TimedOut {} => How::TimedOut,
        MainEnd::Cancelled {} => How::Cancelled,
    }
}

fn lost(why: String) -> JobEnd {
    let finish = run::Finish { end: Err(why), killed: super::tree::Killed::default() };
    job_end(finish, Kept::default())
}

/// The whole environment of a program that runs as `account`.
pub(crate) fn environment(
    account: &Account,
    more: &[(EnvName, SafeText)],
) -> Result<Vec<(String, String)>, StartError> {
    let text = |path: &Path| {
        let utf8 = path.to_str().map(str::to_owned);
        utf8.ok_or(StartError::Spec(
            "the user's home directory or shell is not UTF-8: change it with usermod",
        ))
    };
    let name = account.name.as_str().to_owned();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), text(&account.home)?),
        ("USER".to_owned(), name.clone()),
        ("LOGNAME".to_owned(), name),
        ("SHELL".to_owned(), text(&account.shell)?),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    env.extend(more.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_str().to_owned())));
    Ok(env.into_iter().collect())
}

/// Output so far. What does not fit is gone: the first bytes are kept, of whichever stream.
#[derive(Debug, Default)]
struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    left: usize,
    truncated: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Out,
    Err,
}

impl Kept {
    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let fits = bytes.len().min(self.left);
        self.left -= fits;
        self.truncated |= fits < bytes.len();
        let into = match stream {
            Stream::Out => &mut self.stdout,
            Stream::Err => &mut self.stderr,
        };
        into.extend_from_slice(&bytes[..fits]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_share_one_limit() {
        let mut kept = Kept { left: 5, ..Kept::default() };
        kept.take(Stream::Out, b"abc");
        assert!(!kept.truncated);
        kept.take(Stream::Err, b"de");
        assert!(!kept.truncated, "exactly full is not too much");
        kept.take(Stream::Out, b"f");
        assert_eq!((&kept.stdout[..], &kept.stderr[..], kept.truncated), (&b"abc"[..], &b"de"[..], true));
    }

    #[test]
    fn a_sealed_script_stays_as_it_is() {
        let script = Script::seal(b"echo").unwrap();
        assert_eq!(rustix::io::pwrite(&script.memory, b"X", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&script.memory, 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&script.memory, 9), Err(Errno::PERM));
        let more = rustix::fs::fcntl_add_seals(&script.memory, SealFlags::FUTURE_WRITE);
        assert_eq!(more, Err(Errno::PERM), "nor can the seals be changed");
    }
}
