//! Everything that must survive: the service's own nonce journal, and one file per order from its
//! acceptance until the warden says that its end is durable elsewhere. Their rules against each other:
//!
//! * the file is there before the nonce is burned, so that the burned nonce of an order has its story
//!   until it is forgotten (a runner's sessions have none: they end with their connection);
//! * the file says STARTING before anything can run, so a burned nonce without it is an order that never ran;
//! * the end is written before anybody is told, and goes only when the warden says so.
//!
//! What the stages in between are is the service's own affair ([`Story`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use authz::clock::Floor;
use authz::clock::store::{FloorError, FloorStore};
use authz::files::{self, FileError};
use authz::journal::{JournalError, NonceJournal};
use authz::{Authorized, Order};
use protocol::{Nonce, Sha256};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Who;
use crate::anchor::directory;

/// How far an order has come, as one service tells it.
pub trait Story: Clone + Debug + PartialEq + Serialize + DeserializeOwned {
    /// Whose orders these are.
    const WHO: Who;
    /// The files' directory, in the state directory.
    const DIRECTORY: &'static str;
    /// Largest file, bytes.
    const MAX_FILE: u64;

    /// Written before the nonce is burned: whether it was is for the journal to say.
    fn is_accepted(&self) -> bool;

    /// What is to be said from now on of an order that the service's end left here; none when it had ended
    /// already. `told` is what became of its processes, where that was looked into.
    fn settle(&self, told: Option<&str>) -> Option<Self>;
}

/// Why the ledger cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The journal.
    #[error("{}", journal_problem(.who, .source))]
    Journal {
        /// Whose.
        who: Who,
        /// What.
        source: JournalError,
    },
    /// The policy chain, which is written beside it.
    #[error(transparent)]
    Policy(authz::policy::store::ChainStoreError),
    /// The signed floor of the clock.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// An order's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// An order's file is not what we wrote.
    #[error("{path} is damaged, so what became of its {what} is lost; {start_over}", path = .path.display(), what = .who.what, start_over = .who.start_over(directory(directory(.path))))]
    Damaged {
        /// Whose.
        who: Who,
        /// Which file.
        path: PathBuf,
    },
    /// An order was accepted, and the journal says that it was not.
    #[error("{path} tells of a {what} that the nonce journal does not know: the journal is older than it should be; {start_over}", path = .path.display(), what = .who.what, start_over = .who.start_over(directory(directory(.path))))]
    LostNonce {
        /// Whose.
        who: Who,
        /// The order's file.
        path: PathBuf,
    },
}

impl LedgerError {
    /// Whether this error of [`Ledger::burn`] certainly burned nothing and leaves the ledger as it was.
    pub fn burned_nothing(&self) -> bool {
        matches!(self, Self::Journal { source, .. } if source.burned_nothing())
    }

    /// Whether the journal takes nothing more, so that the service has to start again.
    pub fn is_of_the_journal(&self) -> bool {
        matches!(self, Self::Journal { source, .. } if !source.burned_nothing())
    }
}

fn of_the_journal(who: Who) -> impl FnOnce(JournalError) -> LedgerError {
    move |source| LedgerError::Journal { who, source }
}

/// In the service's words: `authz` speaks of the warden and its enrollment.
fn journal_problem(who: &Who, error: &JournalError) -> String {
    let unknowable = "so it cannot be known which orders were used";
    match error {
        JournalError::Missing { path } => format!(
            "the nonce journal {} is missing, {unknowable}; {}",
            path.display(),
            who.start_over(directory(path))
        ),
        JournalError::Corrupt { path, record, why } => format!(
            "the nonce journal {} is damaged at record {record} ({why}), {unknowable}; {}",
            path.display(),
            who.start_over(directory(path))
        ),
        JournalError::Locked { path } => who.locked(path),
        JournalError::Poisoned => format!(
            "the nonce journal had a disk error and takes nothing more: look at the disk, and restart {}",
            who.unit
        ),
        JournalError::Replaced { .. }
        | JournalError::NoRoom { .. }
        | JournalError::Foreign { .. }
        | JournalError::Exists { .. }
        | JournalError::Burned { .. }
        | JournalError::File(_) => error.to_string(),
    }
}

/// An order's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoryFile<S> {
    v: u32,
    op: Sha256,
    state: S,
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger<S> {
    journal: NonceJournal,
    jobs: Stories<S>,
    burned: BTreeSet<[u8; 16]>,
    floor: FloorStore,
}

impl<S: Story> Ledger<S> {
    /// Whether there is a history that an anchor must belong to.
    pub fn has_history(directory: &Path) -> Result<bool, LedgerError> {
        let jobs = Stories::<S>::new(directory);
        match NonceJournal::inspect(directory) {
            Ok(burned) => {
                let forgotten = burned.compacted.burned();
                Ok(!burned.ops.is_empty() || forgotten > 0 || !jobs.list()?.is_empty())
            }
            // A journal without a whole first record is the trace of an interrupted beginning.
            Err(JournalError::Missing { .. }) => {
                Ok(NonceJournal::exists(directory) || !jobs.list()?.is_empty())
            }
            Err(JournalError::Corrupt { .. }) => Ok(!NonceJournal::is_trace(directory)
                .map_err(of_the_journal(S::WHO))?
                || !jobs.list()?.is_empty()),
            Err(source) => Err(of_the_journal(S::WHO)(source)),
        }
    }

    /// Makes or finishes an empty ledger; part of anchoring, and only without a history. `signed` is the date of
    /// the policy, unix seconds.
    pub fn create(directory: &Path, signed: u64) -> Result<Self, LedgerError> {
        let jobs = Stories::<S>::new(directory);
        files::prepare_state_dir(&jobs.directory)?;
        let journal = NonceJournal::begin(directory).map_err(of_the_journal(S::WHO))?;
        let burned = journal.ops();
        let floor = FloorStore::create(directory, signed, boottime(), &boot_id()?)?;
        Ok(Self { journal, jobs, burned, floor })
    }

    /// Opens and verifies the ledger of an anchored service. Settles what a crash left behind; `told` says
    /// what became of the processes of orders that were started, where that was looked into. `signed` is the
    /// newest date of the policy chain, unix seconds.
    pub fn open(directory: &Path, signed: u64, told: &BTreeMap<Sha256, String>) -> Result<Self, LedgerError> {
        let journal = NonceJournal::open(directory).map_err(of_the_journal(S::WHO))?;
        let jobs = Stories::<S>::new(directory);
        files::prepare_state_dir(&jobs.directory)?;
        let burned = journal.ops();
        let least = journal.compacted().latest_exp();
        let floor = FloorStore::open(directory, signed, least, boottime(), &boot_id()?)?;
        let ledger = Self { journal, jobs, burned, floor };
        let stages = ledger.jobs.compare(|op| ledger.knows(op))?;
        for (op, stage) in stages {
            if stage.is_accepted() && !ledger.knows(&op) {
                // Never accepted: the same order may still come again.
                ledger.jobs.remove(&op)?;
                continue;
            }
            let Some(settled) = stage.settle(told.get(&op).map(String::as_str)) else { continue };
            tracing::warn!(%op, ?settled, "an order was interrupted by the service's end");
            ledger.jobs.write(&op, &settled)?;
        }
        Ok(ledger)
    }

    /// Makes the same checks as [`Self::open`] and changes nothing: burned nonces, and how far the orders
    /// are that are not forgotten.
    pub fn inspect(directory: &Path) -> Result<(usize, BTreeMap<Sha256, S>), LedgerError> {
        let burned = NonceJournal::inspect(directory).map_err(of_the_journal(S::WHO))?;
        let jobs = Stories::<S>::new(directory);
        let stages = jobs.compare(|op| burned.ops.contains(&short(op)))?;
        Ok((burned.ops.len(), stages))
    }

    /// Whether this order was ever accepted.
    pub fn knows(&self, op: &Sha256) -> bool {
        self.burned.contains(&short(op))
    }

    /// Why a nonce cannot be used again, if it cannot.
    pub fn replayed(&self, nonce: &Nonce, op: &Sha256) -> Option<String> {
        let burned = self.journal.find(nonce)?;
        Some(if burned.op == short(op) {
            format!(
                "this order was accepted before (record {} of the {}'s nonce journal): prepare and sign a new one",
                burned.record,
                S::WHO.name
            )
        } else {
            format!(
                "its nonce was burned by another order (record {} of the {}'s nonce journal): prepare a new one",
                burned.record,
                S::WHO.name
            )
        })
    }

    /// The point of no return: when this returns `Ok`, nothing can make the order acceptable again.
    pub fn burn(&mut self, authorized: &Authorized<Order>) -> Result<(), LedgerError> {
        let order = authorized.get();
        self.journal.burn(&order.nonce, authorized.op(), order.exp).map_err(of_the_journal(S::WHO))?;
        self.burned.insert(short(authorized.op()));
        self.signed_time(order.nbf);
        Ok(())
    }

    /// The signed floor of the clock.
    pub fn floor(&self) -> &Floor {
        self.floor.floor()
    }

    /// Takes in a time that somebody trusted signed, unix seconds.
    pub fn signed_time(&mut self, signed: u64) {
        // On disk it may lag: what the journal forgot by it is in the journal's own tombstone.
        if let Err(error) = self.floor.advance(signed, boottime()) {
            tracing::warn!(error = %crate::chain(&error), "the clock's floor could not be written down; it will be tried again");
        }
    }

    /// Forgets nonces that the signed floor and the clock are long past ([`NonceJournal::compact`]), but of no
    /// order that the warden has not taken the end of. Gives how many. None of them can be used again: what
    /// expired before the floor is refused, whatever the clock says.
    pub fn compact(&mut self, now: u64) -> Result<u64, LedgerError> {
        let open = self.jobs.list()?.iter().map(short).collect();
        let floor = self.floor().at();
        let forgotten = self.journal.compact(floor, now, &open).map_err(of_the_journal(S::WHO))?;
        if forgotten > 0 {
            tracing::info!(forgotten, "the nonce journal forgot orders that ended long ago");
            self.burned = self.journal.ops();
        }
        Ok(forgotten)
    }

    /// The orders' files.
    pub fn jobs(&self) -> &Stories<S> {
        &self.jobs
    }
}

/// The orders' files.
#[derive(Debug)]
pub struct Stories<S> {
    directory: PathBuf,
    of: PhantomData<S>,
}

impl<S: Story> Stories<S> {
    /// Below this state directory. Nothing is read yet.
    pub fn new(state_dir: &Path) -> Self {
        Self { directory: state_dir.join(S::DIRECTORY), of: PhantomData }
    }

    fn path(&self, op: &Sha256) -> PathBuf {
        self.directory.join(format!("{op}.json"))
    }

    /// Writes how far an order has come, durably.
    pub fn write(&self, op: &Sha256, stage: &S) -> Result<(), LedgerError> {
        let path = self.path(op);
        let file = StoryFile { v: 1, op: *op, state: stage.clone() };
        let bytes = serde_json::to_vec(&file)
            .map_err(|_| LedgerError::Damaged { who: S::WHO, path: path.clone() })?;
        Ok(files::write_atomic(&path, &bytes)?)
    }

    /// How far an order has come; none if there is no file of it.
    pub fn read(&self, op: &Sha256) -> Result<Option<S>, LedgerError> {
        let path = self.path(op);
        let bytes = match files::read_limited(&path, S::MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: Option<StoryFile<S>> = serde_json::from_slice(&bytes).ok();
        match file.filter(|file| file.v == 1 && file.op == *op) {
            Some(file) => Ok(Some(file.state)),
            None => Err(LedgerError::Damaged { who: S::WHO, path }),
        }
    }

    /// Forgets an order.
    pub fn remove(&self, op: &Sha256) -> Result<(), LedgerError> {
        let path = self.path(op);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(files::sync_directory(&self.directory)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::io("remove", &path, error).into()),
        }
    }

    /// Which orders have a file.
    pub fn list(&self) -> Result<Vec<Sha256>, LedgerError> {
        self.entries()?
            .into_iter()
            .map(|op| op.map_err(|path| LedgerError::Damaged { who: S::WHO, path }))
            .collect()
    }

    /// The files' names; a path where one is none of ours.
    pub fn entries(&self) -> Result<Vec<Result<Sha256, PathBuf>>, FileError> {
        let fail = |source| FileError::io("read", &self.directory, source);
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut ops = Vec::new();
        for entry in entries {
            let path = entry.map_err(fail)?.path();
            // Unfinished writes have another ending and were never acknowledged.
            if path.extension().is_some_and(|extension| extension == "json") {
                let op = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
                ops.push(op.ok_or(path));
            }
        }
        Ok(ops)
    }

    /// All of them, held against the journal.
    fn compare(&self, burned: impl Fn(&Sha256) -> bool) -> Result<BTreeMap<Sha256, S>, LedgerError> {
        let mut stages = BTreeMap::new();
        for op in self.list()? {
            let Some(stage) = self.read(&op)? else { continue };
            if !stage.is_accepted() && !burned(&op) {
                return Err(LedgerError::LostNonce { who: S::WHO, path: self.path(&op) });
            }
            stages.insert(op, stage);
        }
        Ok(stages)
    }
}

/// Seconds since the machine was started, asleep or not.
fn boottime() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

/// Tells boots apart.
fn boot_id() -> Result<String, FileError> {
    let bytes = files::read_limited(Path::new("/proc/sys/kernel/random/boot_id"), 64)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The journal keeps the start of an order's id.
fn short(op: &Sha256) -> [u8; 16] {
    let mut start = [0; 16];
    start.copy_from_slice(&op.as_bytes()[..16]);
    start
}
