//! The runner's state and its start.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anchored::{Anchor, Anchoring, Keeper, Seat, SeatError, TakeProblem};
use authz::files::FileError;
use authz::{Authorized, Order, RefusalCode};
use local_socket::BindError;
use protocol::Envelope;
use protocol::runner::{RunnerAnswer, RunnerStatus};
use tokio::sync::watch;

use crate::checks::{Answer as _, Denied};
use crate::config::{ConfigProblem, RunnerConfig};
use crate::engine::session::Swept;
use crate::engine::{self, DirError, Engine};
use crate::jobs::tell_killed;
use crate::ledger::{self, Ledger, LedgerError, Stage, WHO};
use crate::places::Places;
use crate::{chain, now};

/// Why the runner does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Configuration.
    #[error(transparent)]
    Config(#[from] ConfigProblem),
    /// State directory.
    #[error(transparent)]
    Seat(#[from] SeatError),
    /// Another directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Sessions' directory.
    #[error("run_dir: {0}")]
    RunDir(#[from] DirError),
    /// What ends with us cannot be found.
    #[error("the kernel does not let the runner adopt orphans: {0}")]
    Subreaper(std::io::Error),
    /// The end could not be asked for.
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// A disk error while running. A restart reads again what is really there.
    #[error("stopped after a disk error, because what was written cannot be trusted any more: {0}")]
    Disk(String),
}

/// The runner. One per process, shared by all connections.
pub struct Runner {
    pub(crate) config: RunnerConfig,
    pub(crate) engine: Engine,
    pub(crate) places: Arc<Places>,
    keeper: Keeper<Stage>,
    fatal: watch::Sender<Option<String>>,
    stopping: watch::Sender<Option<String>>,
    at_work: watch::Sender<usize>,
    /// Held while the runner runs, anchored or not.
    _seat: Seat,
}

/// Counted while it is held: the end of the process waits for it.
pub struct AtWork(Arc<Runner>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Runner {
    /// Ends what an earlier runner left running, and opens the state. Blocks.
    pub fn open(config: RunnerConfig) -> Result<Arc<Self>, StartError> {
        let seat = Seat::take(WHO, &config.state_dir)?;
        let engine = Engine::new().map_err(StartError::Subreaper)?;
        let told = ledger::kill_leftovers(&config.state_dir);
        prepare_parent(&config.socket)?;
        prepare_run_dir(&config.run_dir)?;
        let swept = engine::session::sweep(&config.run_dir)?;
        if swept != Swept::default() {
            let processes = tell_killed(&swept.killed);
            tracing::warn!(directories = swept.dirs, processes, "sessions of an earlier runner were ended");
        }
        let keeper = Keeper::open(&config.state_dir, config.policy_sha256, &told)?;
        Ok(Arc::new(Self {
            config,
            engine,
            places: Arc::new(Places::default()),
            keeper,
            fatal: watch::channel(None).0,
            stopping: watch::channel(None).0,
            at_work: watch::channel(0).0,
            _seat: seat,
        }))
    }

    /// Resolves when a disk error makes it wrong to go on.
    pub async fn fatal(&self) -> String {
        said(self.fatal.subscribe()).await
    }

    /// Closes for good after a disk error: after a failed fsync nobody knows what is on the disk, so
    /// the process ends and reads again (`security.md` 2.9).
    pub(crate) fn fail(&self, error: &LedgerError) {
        let why = self.keeper.fail(error);
        self.fatal.send_replace(Some(why));
    }

    /// Ends every script and every session, for this reason.
    pub fn stop(&self, why: &str) {
        self.stopping.send_replace(Some(why.to_owned()));
    }

    /// Resolves, with the reason, when everything is to end.
    pub(crate) async fn stopping(&self) -> String {
        said(self.stopping.subscribe()).await
    }

    /// Why everything is to end, if it is.
    pub(crate) fn stops(&self) -> Option<String> {
        self.stopping.borrow().clone()
    }

    /// Counts as work until it is dropped. None when everything is to end.
    pub(crate) fn work(self: &Arc<Self>) -> Option<AtWork> {
        self.at_work.send_modify(|count| *count += 1);
        let work = AtWork(self.clone());
        self.stops().is_none().then_some(work)
    }

    /// Waits until nothing is at work any more; whether that came to be within `patience`.
    pub async fn idle(&self, patience: Duration) -> bool {
        let mut count = self.at_work.subscribe();
        let idle = count.wait_for(|count| *count == 0);
        tokio::time::timeout(patience, idle).await.is_ok_and(|idle| idle.is_ok())
    }

    /// Runs `f` on the open ledger.
    pub(crate) fn with_ledger<T>(&self, f: impl FnOnce(&Anchor, &mut Ledger) -> T) -> Result<T, Denied> {
        self.keeper.with_ledger(f)
    }

    /// The point of no return for an order's nonce.
    pub(crate) fn burn(&self, authorized: &Authorized<Order>) -> Result<(), anchored::NotBurned> {
        self.keeper.burn(authorized)
    }

    /// Answers [`protocol::runner::RunnerRequest::Status`].
    pub fn status(&self) -> RunnerStatus {
        let (anchored, closed) = self.keeper.status();
        let (sessions, jobs) = self.places.count();
        RunnerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: rustix::process::geteuid().is_root(),
            anchored,
            closed,
            sessions,
            jobs,
        }
    }

    /// Answers [`protocol::runner::RunnerRequest::Anchor`].
    pub fn anchor(&self, brought: &Anchoring<'_>) -> RunnerAnswer {
        match self.keeper.anchor(brought, now()) {
            Ok(()) => RunnerAnswer::Done {},
            Err(denied) => {
                tracing::warn!(code = denied.code, why = denied.why, "an anchor was refused");
                denied.answer()
            }
        }
    }

    /// Answers [`protocol::runner::RunnerRequest::Policy`].
    pub fn policy(&self, documents: &[Envelope]) -> RunnerAnswer {
        match self.take_policies(documents) {
            Ok(()) => RunnerAnswer::Done {},
            Err(denied) => {
                tracing::warn!(code = denied.code, why = denied.why, "a policy document was refused");
                denied.answer()
            }
        }
    }

    /// Forgets nonces that signed floor and clock are long past ([`anchored::keeper::Keeper::compact`]). `now` is
    /// the host's clock, unix seconds. Gives how many.
    pub fn compact(&self, now: u64) -> u64 {
        self.keeper.compact(now).unwrap_or_else(|error| {
            self.fail(&error);
            0
        })
    }

    fn take_policies(&self, documents: &[Envelope]) -> Result<(), Denied> {
        self.keeper.take_policies(documents, now()).map_err(|problem| match problem {
            TakeProblem::Denied(denied) => denied,
            TakeProblem::Disk(error) => {
                self.fail(&error);
                Denied::new(RefusalCode::Closed, chain(&error))
            }
        })
    }
}

async fn said(mut receiver: watch::Receiver<Option<String>>) -> String {
    match receiver.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "the runner is gone".into(),
    }
}

/// Sessions' directories live below it and are read by the users who log in, so it can be entered by
/// anybody; whether it is safe is for the engine to say.
fn prepare_run_dir(directory: &Path) -> Result<(), FileError> {
    prepare_parent(directory)?;
    make(directory, 0o711)
}

/// /run is empty after each boot.
fn prepare_parent(path: &Path) -> Result<(), FileError> {
    path.parent().map_or(Ok(()), |parent| make(parent, 0o755))
}

fn make(directory: &Path, mode: u32) -> Result<(), FileError> {
    let made = std::fs::DirBuilder::new().mode(mode).create(directory);
    let made = match made {
        // Whatever the umask is.
        Ok(()) => std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    made.map_err(|source| FileError::io("create", directory, source))
}
