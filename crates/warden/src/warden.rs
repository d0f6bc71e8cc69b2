//! The warden's state and its start.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use authz::files::{self, FileError};
use authz::journal::JournalError;
use authz::policy::PolicyError;
use authz::{Event, Policy};
use protocol::local::{EnrolledStatus, WardenAnswer, WardenStatus};
use protocol::{Bytes, Ed25519Key, Sha256, Signed};
use proxmox_client::Client;
use tokio::sync::{Semaphore, watch};

use crate::adopted::Care;
use crate::config::{ConfigProblem, WardenConfig};
use crate::identity::{Identity, IdentityError};
use crate::ledger::{Interrupted, Ledger, LedgerError};
use crate::plans::Plans;
use crate::privileged::Privileged;
use crate::queue::Queue;
use crate::results::Results;
use crate::runner::Runner;
use crate::sessions::Sessions;
use crate::world::Near;
use crate::{jobs, now};

/// Why the warden does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Configuration.
    #[error(transparent)]
    Config(#[from] ConfigProblem),
    /// State directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Host id, key or policy.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another warden.
    #[error(transparent)]
    Locked(JournalError),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] local_socket::BindError),
    /// A disk error while running. A restart reads again what is really there.
    #[error("stopped after a disk error, because what was written cannot be trusted any more: {0}")]
    Disk(String),
}

/// What the warden knows of itself.
enum State {
    /// Nobody has given it a policy.
    Unenrolled,
    /// Works.
    Open { identity: Arc<Identity>, ledger: Box<Ledger> },
    /// Knows who it is, and refuses everything that would need the ledger.
    Closed { identity: Arc<Identity>, why: String },
}

/// The warden. One per process, shared by all connections.
pub struct Warden {
    pub(crate) config: WardenConfig,
    pub(crate) client: Client,
    pub(crate) runner: Runner,
    pub(crate) privileged: Privileged,
    /// Results of scripts that wait for the hub.
    pub results: Results,
    /// Sessions that are open.
    pub sessions: Arc<Sessions>,
    /// Places for scripts that run.
    pub(crate) jobs: Arc<Semaphore>,
    boot_id: String,
    state: Mutex<State>,
    /// Who works on what.
    pub queue: Arc<Queue>,
    pub(crate) plans: Mutex<Plans>,
    /// Guests that were adopted.
    pub(crate) care: Mutex<Care>,
    fatal: watch::Sender<Option<String>>,
    /// Locked while the warden runs, enrolled or not.
    _lock: std::fs::File,
}

/// Most device keys that are vouched for in any hour.
const DEVICES_PER_HOUR: usize = 10;

/// A panic while the lock was held leaves the data as it was between two complete changes.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Warden {
    /// What the world is read with.
    pub(crate) fn near(&self) -> Near<'_> {
        Near { client: &self.client, root: &self.config.host_root }
    }

    /// Opens the state. Gives what a crash left behind, for [`crate::orders::resume`].
    pub fn open(config: WardenConfig) -> Result<(Arc<Self>, Vec<Interrupted>), StartError> {
        let client = config.proxmox.client()?;
        files::prepare_state_dir(&config.state_dir)?;
        let lock = lock_state(&config.state_dir)?;
        let boot_id = boot_id()?;
        let (state, interrupted) = match Identity::load(&config.state_dir)? {
            None => (State::Unenrolled, Vec::new()),
            Some(identity) => {
                let identity = Arc::new(identity);
                match Ledger::open(&config.state_dir, identity.clone(), &boot_id) {
                    Ok((ledger, interrupted)) => {
                        (State::Open { identity, ledger: Box::new(ledger) }, interrupted)
                    }
                    Err(LedgerError::Journal(error @ JournalError::Locked { .. })) => {
                        return Err(StartError::Locked(error));
                    }
                    Err(error) => {
                        let why = chain(&error);
                        tracing::error!(%why, "the ledger cannot be used; everything that would need it is refused");
                        (State::Closed { identity, why }, Vec::new())
                    }
                }
            }
        };
        let care = Care::open(&config.state_dir);
        let warden = Self {
            client,
            runner: Runner::new(config.runner_socket.clone()),
            privileged: Privileged::new(config.privileged_socket.clone()),
            results: Results::open(&config.state_dir)?,
            sessions: Arc::default(),
            jobs: Arc::new(Semaphore::new(jobs::MAX_RUNNING)),
            config,
            boot_id,
            state: Mutex::new(state),
            queue: Arc::default(),
            plans: Mutex::default(),
            care: Mutex::new(care),
            fatal: watch::channel(None).0,
            _lock: lock,
        };
        Ok((Arc::new(warden), interrupted))
    }

    /// Resolves when a disk error makes it wrong to go on.
    pub async fn fatal(&self) -> String {
        let mut receiver = self.fatal.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the warden is gone".into(),
        }
    }

    /// Closes for good after a disk error: after a failed fsync nobody knows what is on the disk, so
    /// the process ends and reads again (`security.md` 2.9).
    pub(crate) fn fail(&self, error: &LedgerError) {
        let why = chain(error);
        tracing::error!(%why, "disk error; the warden stops");
        let mut state = lock(&self.state);
        if let State::Open { identity, .. } = &*state {
            *state = State::Closed { identity: identity.clone(), why: why.clone() };
        }
        drop(state);
        self.sessions.end("the warden stops after a disk error", |_, _| true);
        self.fatal.send_replace(Some(why));
    }

    /// Who this host is.
    pub(crate) fn identity(&self) -> Result<Arc<Identity>, Shut> {
        match &*lock(&self.state) {
            State::Unenrolled => Err(Shut::NotEnrolled),
            State::Open { identity, .. } => Ok(identity.clone()),
            State::Closed { identity, why } => Err(Shut::Closed(identity.clone(), why.clone())),
        }
    }

    /// Runs `f` on the open ledger.
    pub(crate) fn with_ledger<T>(&self, f: impl FnOnce(&Identity, &mut Ledger) -> T) -> Result<T, Shut> {
        match &mut *lock(&self.state) {
            State::Unenrolled => Err(Shut::NotEnrolled),
            State::Open { identity, ledger } => Ok(f(identity, ledger)),
            State::Closed { identity, why } => Err(Shut::Closed(identity.clone(), why.clone())),
        }
    }

    /// Signs something although the ledger is closed.
    pub(crate) fn sign_closed(&self, identity: &Identity, event: Event) -> Signed {
        authz::Receipt {
            v: 1,
            host: identity.host_id,
            host_key_gen: identity.host_key_gen,
            boot_id: self.boot_id.clone(),
            time: now(),
            entry: None,
            event,
        }
        .sign(&identity.host_key)
    }

    /// Tells boots apart.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Answers [`protocol::local::WardenRequest::Status`].
    pub fn status(&self) -> WardenStatus {
        let enrolled = |identity: &Identity, policy: &Policy| EnrolledStatus {
            host_id: identity.host_id,
            host_key: identity.host_key.public().to_wire(),
            host_key_gen: identity.host_key_gen,
            policy_version: policy.version(),
            policy: *policy.hash(),
        };
        let (enrolled, log_size, closed) = match &*lock(&self.state) {
            State::Unenrolled => (None, 0, None),
            State::Open { identity, ledger } => {
                (Some(enrolled(identity, ledger.policies().current())), ledger.size(), None)
            }
            // The first policy: which one followed is not known to a ledger that cannot be read.
            State::Closed { identity, why } => {
                (Some(enrolled(identity, &identity.policy)), 0, Some(why.clone()))
            }
        };
        WardenStatus { version: env!("CARGO_PKG_VERSION").to_owned(), enrolled, log_size, closed }
    }

    /// Answers [`protocol::local::WardenRequest::Receipts`].
    pub fn receipts(&self, first: u64, max: u32) -> WardenAnswer {
        let max = max.min(protocol::frame::RECEIPTS_PER_FRAME as u32) as usize;
        let read = |ledger: &mut Ledger| -> Result<WardenAnswer, LedgerError> {
            let receipts = ledger.read(first, max)?;
            let checkpoint = Some(ledger.checkpoint());
            Ok(WardenAnswer::Receipts { first, log_size: ledger.size(), receipts, checkpoint })
        };
        match self.with_ledger(|_, ledger| read(ledger)) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => refused("log", chain(&error)),
            Err(shut) => shut.answer(),
        }
    }

    /// Answers [`protocol::local::WardenRequest::Enroll`].
    pub fn enroll(&self, policy: &Bytes, wanted: Sha256, k: &Bytes, device_key: Ed25519Key) -> WardenAnswer {
        if Sha256::of(&policy.0) != wanted {
            return refused(
                "other_policy",
                "the policy's bytes do not have the hash that the enrollment code demands".into(),
            );
        }
        let parsed = match Policy::decode(&policy.0) {
            Ok(parsed) => parsed,
            Err(error) => return refused("bad_policy", policy_problem(&error)),
        };
        let parsed_version = parsed.version();
        let mut state = lock(&self.state);
        if matches!(*state, State::Unenrolled) {
            match first_enrollment(&self.config.state_dir, &policy.0, parsed, &self.boot_id) {
                Ok((identity, ledger)) => *state = State::Open { identity, ledger: Box::new(ledger) },
                Err(why) => return refused("state", why),
            }
        }
        let State::Open { identity, ledger } = &mut *state else {
            return refused(
                "closed",
                "the warden's ledger is damaged, so it vouches for nothing: see its log".into(),
            );
        };
        // The policy of the code may be any that this host has lived by since its enrollment.
        if !ledger.policies().has(&wanted) {
            return refused(
                "already_enrolled",
                format!(
                    "this host lives by policy {} already and takes no other: to start over, root empties {}",
                    ledger.policies().current().hash(),
                    self.config.state_dir.display()
                ),
            );
        }
        let (device, times) = ledger.enrolled();
        if device != Some(device_key.fingerprint()) {
            // Each goes into the log, and whoever owns the agent's process can ask for more.
            if times.iter().filter(|time| now().saturating_sub(**time) < 3600).count() >= DEVICES_PER_HOUR {
                return refused(
                    "rate",
                    format!(
                        "{DEVICES_PER_HOUR} device keys were vouched for within the hour: wait, and look at who asks"
                    ),
                );
            }
            let event = Event::Enrolled {
                policy: wanted,
                policy_version: parsed_version,
                device_key: device_key.fingerprint(),
            };
            if let Err(error) = ledger.append(event, now()) {
                drop(state);
                self.fail(&error);
                return refused("state", chain(&error));
            }
        }
        let host_key = identity.host_key.public().to_wire();
        WardenAnswer::Enrolled {
            host_id: identity.host_id,
            host_key,
            host_key_gen: identity.host_key_gen,
            device_cert: authz::enroll::certify_device(
                identity.host_id,
                identity.host_key_gen,
                device_key,
                &identity.host_key,
            ),
            proof: authz::enroll::proof(&k.0, &wanted, &identity.host_id, &host_key, &device_key),
        }
    }
}

fn first_enrollment(
    directory: &Path,
    bytes: &[u8],
    policy: Policy,
    boot_id: &str,
) -> Result<(Arc<Identity>, Ledger), String> {
    let identity = Arc::new(Identity::prepare(directory, bytes, policy).map_err(|error| chain(&error))?);
    let ledger = Ledger::create(directory, identity.clone(), boot_id).map_err(|error| chain(&error))?;
    identity.finish(directory).map_err(|error| chain(&error))?;
    Ok((identity, ledger))
}

/// One warden a state directory, also before there is a journal to lock: a second one could write
/// another policy over the first one's.
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
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked(JournalError::Locked { path })),
        Err(std::fs::TryLockError::Error(source)) => Err(FileError::io("lock", &path, source).into()),
    }
}

fn policy_problem(error: &PolicyError) -> String {
    format!("the policy of the enrollment code cannot be used: {error}")
}

/// Why the ledger is not to be had.
pub(crate) enum Shut {
    NotEnrolled,
    Closed(Arc<Identity>, String),
}

impl Shut {
    pub(crate) fn answer(self) -> WardenAnswer {
        match self {
            Self::NotEnrolled => {
                refused("not_enrolled", "this host is not enrolled: run writ-agent enroll on it".into())
            }
            Self::Closed(_, why) => refused("closed", why),
        }
    }
}

pub(crate) fn refused(code: &str, why: String) -> WardenAnswer {
    WardenAnswer::Refused { code: code.to_owned(), why }
}

/// An error and its causes in one line, for the log and for the agent.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Tells boots apart.
fn boot_id() -> Result<String, FileError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let bytes = files::read_limited(path, 64)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
