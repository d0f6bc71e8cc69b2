//! The service's state, its start and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchored::{Anchoring, Denied, Keeper, LedgerError, Seat, SeatError, TakeProblem, chain};
use authz::RefusalCode;
use authz::files::FileError;
use local_socket::BindError;
use protocol::privileged::{BlockDevice, PrivilegedAnswer, PrivilegedStatus, SmartTransport};
use protocol::{Envelope, Sha256};
use tokio::sync::{Mutex, watch};

use crate::config::{ConfigProblem, PrivilegedConfig};
use crate::ledger::{Stage, WHO};
use crate::smart::{self, Rates};
use crate::{golden, now, run};

/// Why the service does not start, or stops.
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
    /// What ends with us cannot be found.
    #[error("the kernel does not let writ-privileged adopt orphans: {0}")]
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

/// What only one request at a time may touch: programs, and what follows from their order.
#[derive(Debug, Default)]
pub struct Work {
    /// Orders that somebody was told about that they are not known. A restart forgets them: no request of
    /// before is still on its way then.
    pub(crate) settled: BTreeSet<Sha256>,
    rates: Rates,
}

/// The service. One per process, shared by all connections.
pub struct Service {
    pub(crate) config: PrivilegedConfig,
    pub(crate) keeper: Keeper<Stage>,
    pub(crate) work: Arc<Mutex<Work>>,
    fatal: watch::Sender<Option<String>>,
    /// Held while the service runs, anchored or not.
    _seat: Seat,
}

/// As it crosses the socket.
pub(crate) fn answer_of(denied: Denied) -> PrivilegedAnswer {
    PrivilegedAnswer::Refused { code: denied.code, why: denied.why }
}

impl Service {
    /// Opens the state. Blocks.
    pub fn open(config: PrivilegedConfig) -> Result<Arc<Self>, StartError> {
        let seat = Seat::take(WHO, &config.state_dir)?;
        run::adopt_orphans().map_err(StartError::Subreaper)?;
        golden::prepare(&config.state_dir)?;
        prepare_parent(&config.socket)?;
        let keeper = Keeper::open(&config.state_dir, config.policy_sha256, &BTreeMap::new())?;
        let service =
            Self { config, keeper, work: Arc::default(), fatal: watch::channel(None).0, _seat: seat };
        // What the signed floor is long past need not be remembered.
        if let Err(error) = service.keeper.compact(now()) {
            service.fail(&error);
        }
        Ok(Arc::new(service))
    }

    /// Resolves when a disk error makes it wrong to go on.
    pub async fn fatal(&self) -> String {
        let mut receiver = self.fatal.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the service is gone".into(),
        }
    }

    /// Closes for good after a disk error.
    pub(crate) fn fail(&self, error: &LedgerError) {
        let why = self.keeper.fail(error);
        self.fatal.send_replace(Some(why));
    }

    /// Waits until nothing is carried out any more, and lets nothing begin: whether that came to be in time.
    pub async fn idle(&self, patience: Duration) -> bool {
        match tokio::time::timeout(patience, self.work.clone().lock_owned()).await {
            // Never given back: the process ends now.
            Ok(work) => {
                std::mem::forget(work);
                true
            }
            Err(_) => false,
        }
    }

    /// Answers [`protocol::privileged::PrivilegedRequest::Status`].
    pub fn status(&self) -> PrivilegedStatus {
        let (anchored, closed) = self.keeper.status();
        PrivilegedStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: rustix::process::geteuid().is_root(),
            anchored,
            closed,
        }
    }

    /// Answers [`protocol::privileged::PrivilegedRequest::Anchor`].
    pub fn anchor(&self, brought: &Anchoring<'_>) -> PrivilegedAnswer {
        match self.keeper.anchor(brought, now()) {
            Ok(()) => PrivilegedAnswer::Done {},
            Err(denied) => {
                tracing::warn!(code = denied.code, why = denied.why, "an anchor was refused");
                answer_of(denied)
            }
        }
    }

    /// Answers [`protocol::privileged::PrivilegedRequest::Policy`].
    pub fn policy(&self, documents: &[Envelope]) -> PrivilegedAnswer {
        let denied = match self.keeper.take_policies(documents, now()) {
            Ok(()) => return PrivilegedAnswer::Done {},
            Err(TakeProblem::Denied(denied)) => denied,
            Err(TakeProblem::Disk(error)) => {
                self.fail(&error);
                Denied::new(RefusalCode::Closed, chain(&error))
            }
        };
        tracing::warn!(code = denied.code, why = denied.why, "a policy document was refused");
        answer_of(denied)
    }

    /// Answers [`protocol::privileged::PrivilegedRequest::Smart`]. Needs no anchor: it only reads.
    pub async fn smart(
        self: &Arc<Self>,
        device: BlockDevice,
        transport: Option<SmartTransport>,
    ) -> PrivilegedAnswer {
        // An order is never kept waiting by readings, and a reading does not wait for orders.
        let Ok(mut work) = self.work.clone().try_lock_owned() else {
            let why = "another reading or an order is under way: ask again later";
            return answer_of(Denied::new(RefusalCode::Busy, why));
        };
        let every = Duration::from_secs(self.config.smart_every_s);
        let may = smart::exists(&self.config, &device)
            .and_then(|()| work.rates.take(&device, Instant::now(), every));
        if let Err(denied) = may {
            return answer_of(denied);
        }
        let reader = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = smart::read(&reader.config, &device, transport);
            drop(work);
            read
        });
        match read.await {
            Ok(Ok(reading)) => PrivilegedAnswer::Smart(reading),
            Ok(Err(denied)) => answer_of(denied),
            Err(error) => answer_of(Denied::new(RefusalCode::Privileged, error.to_string())),
        }
    }
}

/// /run is empty after each boot.
fn prepare_parent(path: &Path) -> Result<(), FileError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    let made = match std::fs::DirBuilder::new().mode(0o755).create(directory) {
        // Whatever the umask is.
        Ok(()) => std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    made.map_err(|source| FileError::io("create", directory, source))
}
