//! The runner's side of one supervisor: starts it, hears its reports, and knows what to do when it is
//! killed.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: the runner starts signed scripts and sessions; this starts their supervisors"
)]

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout};

use super::handle::Canceller;
use super::leftover::{BootId, Leftover};
use super::tree::{self, KILL_WITHIN, Killed, ProcessId};
use super::wire::{self, MAX_LINE, MainEnd, Report, SuperviseSpec};
use super::{Engine, StartError};

/// A supervisor has its own clock. Only when it fails to act on it by so much does the runner act.
const SUPERVISOR_LATE: Duration = Duration::from_secs(30);
/// Between its last report and its end.
const SUPERVISOR_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A supervisor whose program runs.
pub(crate) struct Running {
    supervisor: Supervisor,
    pub(crate) leftover: Leftover,
    limit: Duration,
}

/// What a [`Leftover`] tells its processes by.
pub(crate) struct Whose {
    pub(crate) uid: u32,
    /// The client's socket, sshd's end.
    pub(crate) socket: Option<u64>,
}

/// How it went.
pub(crate) struct Finish {
    /// The program's end and how long it took, or why nobody can say.
    pub(crate) end: Result<(MainEnd, Duration), String>,
    pub(crate) killed: Killed,
}

struct Supervisor {
    child: Child,
    id: ProcessId,
    reports: BufReader<OwnedReadHalf>,
    lifeline: Option<OwnedWriteHalf>,
    _registered: Registered,
}

/// In [`tree::supervisors`] as long as it may live.
struct Registered(i32);

impl Drop for Registered {
    fn drop(&mut self) {
        tree::supervisors().remove(&self.0);
    }
}

/// Starts a supervisor and waits until it has executed the program.
pub(crate) async fn launch(
    engine: &Engine,
    spec: SuperviseSpec,
    fds: Vec<OwnedFd>,
    Whose { uid, socket }: Whose,
) -> Result<Running, StartError> {
    let boot = BootId::current().map_err(StartError::system("reading the boot id"))?;
    let (token, dir) = (spec.token.clone(), spec.dir.clone());
    let limit = Duration::from_millis(spec.limit_ms);
    let binary = engine.binary.clone();
    // fork(2) and a socket that may be full for a moment.
    let spawned = tokio::task::spawn_blocking(move || spawn(binary, &spec, fds)).await;
    let mut supervisor = match spawned {
        // An error means that it did not get all of its specification.
        Ok(spawned) => spawned.map_err(StartError::system("starting the supervisor"))?,
        Err(panic) => return Err(StartError::Unknown { why: panic.to_string(), survivors: Vec::new() }),
    };
    match timeout(SUPERVISOR_LATE * 2, supervisor.report()).await {
        Ok(Ok(Report::Started { main, cgroup })) => {
            let leftover =
                Leftover { token, boot, supervisor: supervisor.id, main, cgroup, dir, uid, socket };
            Ok(Running { supervisor, leftover, limit })
        }
        Ok(Ok(Report::Refused { why })) => {
            supervisor.ends().await;
            Err(StartError::NotExecuted { why })
        }
        other => {
            let why = match other {
                Ok(Ok(Report::Ended { .. })) => "it reported an end without a start".to_owned(),
                Ok(Err(why)) => why,
                _ => "it said nothing".to_owned(),
            };
            let why = format!("{why}; {}", supervisor.kill().await);
            Err(StartError::Unknown { why, survivors: kill_orphans(None).await.survivors })
        }
    }
}

/// The last thing that can fail is to hand over the specification, of which a supervisor acts on all or nothing:
/// an error means that it starts nothing.
fn spawn(binary: PathBuf, spec: &SuperviseSpec, fds: Vec<OwnedFd>) -> io::Result<Supervisor> {
    let (ours, theirs) = super::socketpair()?;
    let mut command = Command::new(binary);
    command.arg0("writ-runner").arg("supervise").env_clear().current_dir("/");
    command.stdin(theirs).stdout(Stdio::null());
    // Held while it is born: whoever looks for orphans must not take it for one.
    let mut known = tree::supervisors();
    let child = command.spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    known.insert(pid);
    drop(known);
    let registered = Registered(pid);
    // Our copy of its end would keep its death from us.
    drop(command);
    let id = ProcessId::of(pid).ok_or_else(|| io::Error::other("it was gone at once"))?;
    let ours = std::os::unix::net::UnixStream::from(ours);
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    wire::send(ours.as_fd(), spec, &borrowed).map_err(io::Error::other)?;
    let (reports, lifeline) = ours.into_split();
    let reports = BufReader::new(reports);
    Ok(Supervisor { child, id, reports, lifeline: Some(lifeline), _registered: registered })
}

impl Supervisor {
    async fn report(&mut self) -> Result<Report, String> {
        report(&mut self.reports).await
    }

    /// Waits for its end, and forces it when it does not come.
    async fn ends(&mut self) -> String {
        match timeout(SUPERVISOR_ENDS_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            _ => self.kill().await,
        }
    }

    async fn kill(&mut self) -> String {
        let _ = self.child.start_kill();
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

async fn report(from: &mut BufReader<OwnedReadHalf>) -> Result<Report, String> {
    let mut line = Vec::new();
    let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    match from.take(most).read_until(b'\n', &mut line).await {
        Ok(_) if line.last() == Some(&b'\n') => {
            serde_json::from_slice(&line).map_err(|_| "its report could not be read".to_owned())
        }
        Ok(_) => Err("it ended without a report".to_owned()),
        Err(error) => Err(format!("its reports could not be read ({error})")),
    }
}

impl Running {
    /// Waits for the end; closes the lifeline when told to.
    pub(crate) async fn finish(mut self, cancel: &Canceller) -> Finish {
        let mut deadline = Instant::now() + self.limit + SUPERVISOR_LATE;
        let told = {
            let Supervisor { reports, lifeline, .. } = &mut self.supervisor;
            let report = report(reports);
            tokio::pin!(report);
            loop {
                tokio::select! {
                    told = &mut report => break told,
                    () = cancel.cancelled(), if lifeline.is_some() => {
                        // Dropping this half shuts it down: the supervisor reads the end, and may still write.
                        lifeline.take();
                        deadline = deadline.min(Instant::now() + KILL_WITHIN * 2 + SUPERVISOR_LATE);
                    }
                    () = sleep_until(deadline) => break Err("it did not keep to the time limit".to_owned()),
                }
            }
        };
        match told {
            Ok(Report::Ended { end, duration_ms, killed, survivors }) => {
                self.supervisor.ends().await;
                let killed = Killed { killed, survivors };
                Finish { end: Ok((end, Duration::from_millis(duration_ms))), killed }
            }
            Ok(_) => self.lost("it reported out of turn".to_owned()).await,
            Err(why) => self.lost(why).await,
        }
    }

    /// The supervisor failed. Nobody knows how the program ended; what is left of it is killed.
    async fn lost(mut self, why: String) -> Finish {
        let why = format!("{why}; {}", self.supervisor.kill().await);
        let killed = kill_orphans(Some(self.leftover)).await;
        Finish { end: Err(why), killed }
    }
}

async fn kill_orphans(leftover: Option<Leftover>) -> Killed {
    let both = tokio::task::spawn_blocking(move || {
        let first = tree::kill_orphans();
        let second = leftover.map(|leftover| leftover.kill()).unwrap_or_default();
        let mut survivors = [first.survivors, second.survivors].concat();
        survivors.sort_unstable();
        survivors.dedup();
        Killed { killed: first.killed.saturating_add(second.killed), survivors }
    });
    both.await.unwrap_or_default()
}
