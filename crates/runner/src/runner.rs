//! The runner's state and its start.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use authz::RefusalCode;
use authz::files::{self, FileError};
use authz::journal::JournalError;
use authz::policy::store::{ChainStore, TakeError};
use local_socket::BindError;
use protocol::runner::{RunnerAnswer, RunnerStatus};
use protocol::{Bytes, Ed25519Key, Envelope, HostId, Sha256};
use tokio::sync::watch;

use crate::anchor::{Anchor, start_over};
use crate::checks::Denied;
use crate::config::{ConfigProblem, RunnerConfig};
use crate::engine::session::Swept;
use crate::engine::{self, DirError, Engine};
use crate::jobs::tell_killed;
use crate::ledger::{self, Ledger, LedgerError};
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
    File(#[from] FileError),
    /// Somebody else's state directory.
    #[error("{path} belongs to user id {uid} and not to the runner's: chown it", path = .path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Another runner.
    #[error("{path} is locked: another writ-runner uses this state directory; stop it first", path = .path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
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

/// What the runner knows of itself.
enum State {
    /// Nobody has given it a policy.
    Unanchored,
    /// Works.
    Open { anchor: Arc<Anchor>, policies: Box<ChainStore>, ledger: Box<Ledger> },
    /// Refuses everything.
    Closed { anchor: Option<Arc<Anchor>>, why: String },
}

/// The runner. One per process, shared by all connections.
pub struct Runner {
    pub(crate) config: RunnerConfig,
    pub(crate) engine: Engine,
    pub(crate) places: Arc<Places>,
    state: Mutex<State>,
    fatal: watch::Sender<Option<String>>,
    stopping: watch::Sender<Option<String>>,
    at_work: watch::Sender<usize>,
    /// Locked while the runner runs, anchored or not.
    _lock: std::fs::File,
}

/// Counted while it is held: the end of the process waits for it.
pub struct AtWork(Arc<Runner>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// A panic while the lock was held leaves the data as it was between two complete changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runner {
    /// Ends what an earlier runner left running, and opens the state. Blocks.
    pub fn open(config: RunnerConfig) -> Result<Arc<Self>, StartError> {
        files::prepare_state_dir(&config.state_dir)?;
        check_owner(&config.state_dir)?;
        let lock = lock_state(&config.state_dir)?;
        let engine = Engine::new().map_err(StartError::Subreaper)?;
        let told = ledger::kill_leftovers(&config.state_dir);
        prepare_parent(&config.socket)?;
        prepare_run_dir(&config.run_dir)?;
        let swept = engine::session::sweep(&config.run_dir)?;
        if swept != Swept::default() {
            let processes = tell_killed(&swept.killed);
            tracing::warn!(directories = swept.dirs, processes, "sessions of an earlier runner were ended");
        }
        let state = open_state(&config, &told)?;
        if let State::Closed { why, .. } = &state {
            tracing::error!(%why, "everything is refused");
        }
        Ok(Arc::new(Self {
            config,
            engine,
            places: Arc::new(Places::default()),
            state: Mutex::new(state),
            fatal: watch::channel(None).0,
            stopping: watch::channel(None).0,
            at_work: watch::channel(0).0,
            _lock: lock,
        }))
    }

    /// Resolves when a disk error makes it wrong to go on.
    pub async fn fatal(&self) -> String {
        said(self.fatal.subscribe()).await
    }

    /// Closes for good after a disk error: after a failed fsync nobody knows what is on the disk, so
    /// the process ends and reads again (`security.md` 2.9).
    pub(crate) fn fail(&self, error: &LedgerError) {
        let why = chain(error);
        tracing::error!(%why, "disk error; the runner stops");
        let mut state = lock(&self.state);
        let anchor = match &*state {
            State::Open { anchor, .. } => Some(anchor.clone()),
            State::Closed { anchor, .. } => anchor.clone(),
            State::Unanchored => None,
        };
        *state = State::Closed { anchor, why: why.clone() };
        drop(state);
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
        match &mut *lock(&self.state) {
            State::Unanchored => Err(Denied::new(
                RefusalCode::Runner,
                format!(
                    "scripts and sessions are not set up on this host, its runner has no policy yet: {}",
                    how_to_anchor(&self.config)
                ),
            )),
            State::Open { anchor, ledger, .. } => Ok(f(anchor, ledger)),
            State::Closed { why, .. } => Err(Denied::new(RefusalCode::Closed, why.clone())),
        }
    }

    /// Answers [`protocol::runner::RunnerRequest::Status`].
    pub fn status(&self) -> RunnerStatus {
        let (anchored, closed) = match &*lock(&self.state) {
            State::Unanchored => (None, None),
            State::Open { anchor, .. } => (Some(anchor.status()), None),
            State::Closed { anchor, why } => {
                (anchor.as_ref().map(|anchor| anchor.status()), Some(why.clone()))
            }
        };
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
    pub fn anchor(
        &self,
        policy: &Bytes,
        documents: &[Envelope],
        host_id: HostId,
        host_key: Ed25519Key,
        host_key_gen: u32,
    ) -> RunnerAnswer {
        match self.try_anchor(policy, documents, host_id, host_key, host_key_gen) {
            Ok(()) => RunnerAnswer::Done {},
            Err(denied) => {
                tracing::warn!(code = denied.code, why = denied.why, "an anchor was refused");
                denied.answer()
            }
        }
    }

    fn try_anchor(
        &self,
        policy: &Bytes,
        documents: &[Envelope],
        host_id: HostId,
        host_key: Ed25519Key,
        host_key_gen: u32,
    ) -> Result<(), Denied> {
        let mut state = lock(&self.state);
        if let State::Closed { why, .. } = &*state {
            return Err(Denied::new(RefusalCode::Closed, why.clone()));
        }
        let Some(configured) = &self.config.policy_sha256 else {
            return Err(Denied::new(RefusalCode::Runner, how_to_anchor(&self.config)));
        };
        let wanted = Anchor::parse(&policy.0, host_id, host_key, host_key_gen)
            .map_err(|error| Denied::other("bad_anchor", chain(&error)))?;
        let followed = wanted.follow(documents, now());
        let followed = followed.map_err(|refusal| Denied::new(refusal.code, refusal.why))?;
        // The policy that root named vouches for those before it, and is followed by what is signed.
        if !followed.has(configured) {
            let why = format!(
                "runner.toml has policy_sha256 {configured}, and the policy that the warden brought is {} and none before it was that: find out which one is yours (writ policy show)",
                followed.policy().hash()
            );
            return Err(Denied::new(RefusalCode::OtherPolicy, why));
        }
        let directory = &self.config.state_dir;
        match &*state {
            State::Open { anchor, .. } if anchor.begins_like(&wanted) => Ok(()),
            State::Open { anchor, .. } => {
                let status = anchor.status();
                let why = format!(
                    "this runner is anchored to host {} (key {}, generation {}) and policy {}, and takes no other; {}",
                    status.host_id,
                    status.host_key.fingerprint(),
                    status.host_key_gen,
                    status.policy,
                    start_over(directory)
                );
                Err(Denied::other("anchored", why))
            }
            State::Unanchored => {
                let (policies, ledger) = first_anchor(directory, &wanted, documents)
                    .map_err(|why| Denied::new(RefusalCode::Closed, why))?;
                let anchored = wanted.at(&policies);
                let status = anchored.status();
                tracing::info!(host = %status.host_id, policy = %status.policy, "anchored");
                *state = State::Open {
                    anchor: Arc::new(anchored),
                    policies: Box::new(policies),
                    ledger: Box::new(ledger),
                };
                Ok(())
            }
            State::Closed { why, .. } => Err(Denied::new(RefusalCode::Closed, why.clone())),
        }
    }
}

impl Runner {
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

    fn take_policies(&self, documents: &[Envelope]) -> Result<(), Denied> {
        for document in documents {
            let mut state = lock(&self.state);
            let (anchor, policies, ledger) = match &mut *state {
                State::Open { anchor, policies, ledger } => (anchor, policies, ledger),
                State::Unanchored => {
                    return Err(Denied::new(RefusalCode::Runner, how_to_anchor(&self.config)));
                }
                State::Closed { why, .. } => return Err(Denied::new(RefusalCode::Closed, why.clone())),
            };
            match policies.take(document, now()) {
                Ok(_) => {
                    *anchor = Arc::new(anchor.at(policies));
                    ledger.signed_time(anchor.fresh_at());
                }
                Err(TakeError::Refused(refusal)) => return Err(Denied::new(refusal.code, refusal.why)),
                Err(TakeError::NoRoom(error)) => {
                    let why = format!("{}; nothing was accepted", chain(&error));
                    return Err(Denied::new(RefusalCode::Closed, why));
                }
                Err(TakeError::Store(error)) => {
                    drop(state);
                    let error = LedgerError::Policy(error);
                    self.fail(&error);
                    return Err(Denied::new(RefusalCode::Closed, chain(&error)));
                }
            }
        }
        Ok(())
    }
}

async fn said(mut receiver: watch::Receiver<Option<String>>) -> String {
    match receiver.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "the runner is gone".into(),
    }
}

pub(crate) fn how_to_anchor(config: &RunnerConfig) -> String {
    match config.policy_sha256 {
        Some(policy) => format!("runner.toml allows policy {policy}, and the warden has not brought it: is the host enrolled with another one?"),
        None => "root writes the line policy_sha256 = \"…\", which `writ enroll new` and `writ policy show` print, into runner.toml and restarts the runner".into(),
    }
}

/// Policy and journal first, `host.json` last: a crash in between leaves a runner that is not anchored and
/// has no history.
fn first_anchor(
    directory: &Path,
    anchor: &Anchor,
    documents: &[Envelope],
) -> Result<(ChainStore, Ledger), String> {
    let mut policies = anchor.prepare(directory).map_err(|error| chain(&error))?;
    for document in documents {
        policies.take(document, now()).map_err(|error| chain(&error))?;
    }
    let ledger = Ledger::create(directory, policies.chain().fresh_at()).map_err(|error| chain(&error))?;
    anchor.finish(directory).map_err(|error| chain(&error))?;
    Ok((policies, ledger))
}

fn open_state(
    config: &RunnerConfig,
    told: &std::collections::BTreeMap<Sha256, String>,
) -> Result<State, StartError> {
    let directory = &config.state_dir;
    let closed = |anchor, error: &dyn std::error::Error| Ok(State::Closed { anchor, why: chain(error) });
    let anchor = match Anchor::load(directory) {
        Ok(Some(anchor)) => Arc::new(anchor),
        Ok(None) => {
            return match Ledger::has_history(directory) {
                Ok(false) => Ok(State::Unanchored),
                Ok(true) => closed(None, &Anchor::lost(directory)),
                Err(error) => closed(None, &error),
            };
        }
        Err(error) => return closed(None, &error),
    };
    let ledger = match Ledger::open(directory, anchor.fresh_at(), told) {
        Ok(ledger) => ledger,
        Err(LedgerError::Journal(JournalError::Locked { path })) => return Err(StartError::Locked { path }),
        Err(error) => return closed(Some(anchor), &error),
    };
    let policies = match anchor.open_chain(directory) {
        Ok(policies) => Box::new(policies),
        Err(error) => return closed(Some(anchor), &error),
    };
    match anchor.check_configured(config.policy_sha256.as_ref(), directory) {
        Ok(()) => Ok(State::Open { anchor, policies, ledger: Box::new(ledger) }),
        Err(error) => closed(Some(anchor), &error),
    }
}

fn check_owner(directory: &Path) -> Result<(), StartError> {
    let meta = std::fs::metadata(directory)
        .map_err(|source| FileError::io("open state directory", directory, source))?;
    let ours = rustix::process::geteuid().as_raw();
    if meta.uid() == ours {
        Ok(())
    } else {
        Err(StartError::Owner { path: directory.to_owned(), uid: meta.uid() })
    }
}

/// One runner a state directory, also before there is a journal to lock.
fn lock_state(directory: &Path) -> Result<std::fs::File, StartError> {
    let path = directory.join("lock");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| FileError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked { path }),
        Err(std::fs::TryLockError::Error(source)) => Err(FileError::io("lock", &path, source).into()),
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
