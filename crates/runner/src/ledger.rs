//! Everything that must survive: the runner's own nonce journal, and one file per script from its
//! acceptance until the warden says that its end is durable elsewhere. Their rules against each other:
//!
//! * the file is there before the nonce is burned, so that the burned nonce of a script has its story
//!   until it is forgotten (sessions have none: they end with their connection);
//! * the file says STARTING before the script can run, so a burned nonce without it is a script that never
//!   ran; and STARTED, with that by which the processes are found, as soon as it does;
//! * the end is written before anybody is told, and goes only when the warden says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use authz::clock::Floor;
use authz::clock::store::{FloorError, FloorStore};
use authz::files::{self, FileError};
use authz::journal::{JournalError, NonceJournal};
use authz::{Authorized, Order};
use protocol::job::MAX_SEALED_RESULT;
use protocol::runner::RunnerAnswer;
use protocol::{Bytes, Nonce, Sha256};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::anchor::{directory, start_over};
use crate::engine::Leftover;

const JOBS: &str = "jobs";
/// Largest file of a job: the longest sealed result as base64, and a little JSON.
const MAX_FILE: u64 = (MAX_SEALED_RESULT / 3 * 4 + 64 * 1024) as u64;

/// Why the ledger cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The journal.
    #[error("{}", journal_problem(.0))]
    Journal(#[from] JournalError),
    /// The policy chain, which is written beside it.
    #[error(transparent)]
    Policy(authz::policy::store::ChainStoreError),
    /// The signed floor of the clock.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// A job's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A job's file is not what we wrote.
    #[error("{path} is damaged, so what became of its script is lost; {start_over}", path = .path.display(), start_over = start_over(directory(directory(.path))))]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// A script was accepted, and the journal says that it was not.
    #[error("{path} tells of a script that the nonce journal does not know: the journal is older than it should be; {start_over}", path = .path.display(), start_over = start_over(directory(directory(.path))))]
    LostNonce {
        /// The script's file.
        path: PathBuf,
    },
}

impl LedgerError {
    /// Whether this error of [`Ledger::burn`] certainly burned nothing and leaves the ledger as it was.
    pub fn burned_nothing(&self) -> bool {
        matches!(self, Self::Journal(error) if error.burned_nothing())
    }
}

impl LedgerError {
    /// Whether the journal takes nothing more, so that the runner has to start again.
    pub fn is_of_the_journal(&self) -> bool {
        matches!(self, Self::Journal(error) if !error.burned_nothing())
    }
}

/// In the runner's words: `authz` speaks of the warden and its enrollment.
fn journal_problem(error: &JournalError) -> String {
    let unknowable = "so it cannot be known which orders were used";
    match error {
        JournalError::Missing { path } => {
            format!("the nonce journal {} is missing, {unknowable}; {}", path.display(), start_over(directory(path)))
        }
        JournalError::Corrupt { path, record, why } => format!(
            "the nonce journal {} is damaged at record {record} ({why}), {unknowable}; {}",
            path.display(),
            start_over(directory(path))
        ),
        JournalError::Locked { path } => {
            format!("{} is locked: another writ-runner uses this state directory; stop it first", path.display())
        }
        JournalError::Poisoned => {
            "the nonce journal had a disk error and takes nothing more: look at the disk, and restart the runner"
                .to_owned()
        }
        JournalError::Replaced { .. }
        | JournalError::NoRoom { .. }
        | JournalError::Foreign { .. }
        | JournalError::Exists { .. }
        | JournalError::Burned { .. }
        | JournalError::File(_) => error.to_string(),
    }
}

/// How far a script has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// All checks passed. Whether the nonce is burned is for the journal to say; the script has not run.
    Accepted {},
    /// It is about to run. Whether it did, nobody knows who finds this after a crash.
    Starting {},
    /// It runs, or did when this was written.
    Started {
        /// By what its processes are found.
        leftover: Leftover,
    },
    /// It ended, and here is the result.
    Ended {
        /// Sealed.
        sealed: Bytes,
        /// Milliseconds.
        duration_ms: u64,
    },
    /// It will never run.
    NotStarted {
        /// Why.
        why: String,
    },
    /// It ran, and nobody can say what came of it.
    Unknown {
        /// What is known.
        why: String,
    },
}

impl Stage {
    /// The last answer about a script; none while it is under way.
    pub fn answer(&self) -> Option<RunnerAnswer> {
        Some(match self {
            Self::Accepted {} | Self::Starting {} | Self::Started { .. } => return None,
            Self::Ended { sealed, duration_ms } => {
                RunnerAnswer::Ended { sealed: sealed.clone(), duration_ms: *duration_ms }
            }
            Self::NotStarted { why } => RunnerAnswer::NotStarted { why: why.clone() },
            Self::Unknown { why } => RunnerAnswer::Unknown { why: why.clone() },
        })
    }
}

/// A script's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    v: u32,
    op: Sha256,
    state: Stage,
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    journal: NonceJournal,
    jobs: Jobs,
    burned: BTreeSet<[u8; 16]>,
    floor: FloorStore,
}

impl Ledger {
    /// Whether there is a history that an anchor must belong to.
    pub fn has_history(directory: &Path) -> Result<bool, LedgerError> {
        let jobs = Jobs { directory: directory.join(JOBS) };
        match NonceJournal::inspect(directory) {
            Ok(burned) => {
                let forgotten = burned.compacted.burned();
                Ok(!burned.ops.is_empty() || forgotten > 0 || !jobs.list()?.is_empty())
            }
            // A journal without a whole first record is the trace of an interrupted beginning.
            Err(JournalError::Missing { .. }) => {
                Ok(NonceJournal::exists(directory) || !jobs.list()?.is_empty())
            }
            Err(JournalError::Corrupt { .. }) => {
                Ok(!NonceJournal::is_trace(directory)? || !jobs.list()?.is_empty())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes or finishes an empty ledger; part of anchoring, and only without a history. `signed` is the date of
    /// the policy, unix seconds.
    pub fn create(directory: &Path, signed: u64) -> Result<Self, LedgerError> {
        let jobs = Jobs { directory: directory.join(JOBS) };
        files::prepare_state_dir(&jobs.directory)?;
        let journal = NonceJournal::begin(directory)?;
        let burned = journal.ops();
        let floor = FloorStore::create(directory, signed, boottime(), &boot_id()?)?;
        Ok(Self { journal, jobs, burned, floor })
    }

    /// Opens and verifies the ledger of an anchored runner. Settles what a crash left behind; `told` says
    /// what became of the processes of scripts that were started ([`kill_leftovers`]). `signed` is the newest
    /// date of the policy chain, unix seconds.
    pub fn open(directory: &Path, signed: u64, told: &BTreeMap<Sha256, String>) -> Result<Self, LedgerError> {
        let journal = NonceJournal::open(directory)?;
        let jobs = Jobs { directory: directory.join(JOBS) };
        files::prepare_state_dir(&jobs.directory)?;
        let burned = journal.ops();
        let least = journal.compacted().latest_exp();
        let floor = FloorStore::open(directory, signed, least, boottime(), &boot_id()?)?;
        let ledger = Self { journal, jobs, burned, floor };
        let stages = ledger.jobs.compare(|op| ledger.knows(op))?;
        for (op, stage) in stages {
            let settled = match stage {
                Stage::Ended { .. } | Stage::NotStarted { .. } | Stage::Unknown { .. } => continue,
                Stage::Accepted {} if !ledger.knows(&op) => {
                    // Never accepted: the same order may still come again.
                    ledger.jobs.remove(&op)?;
                    continue;
                }
                Stage::Accepted {} => Stage::NotStarted {
                    why: "the runner ended after it had accepted the order and before it started the script".into(),
                },
                Stage::Starting {} => Stage::Unknown {
                    why: "the runner ended while it started the script; if the script ran, it was ended with the runner, and its output is lost".into(),
                },
                Stage::Started { .. } => {
                    let killed = told.get(&op).map_or("its processes were not looked for", String::as_str);
                    Stage::Unknown {
                        why: format!("the runner ended while the script ran, and its output is lost; {killed}"),
                    }
                }
            };
            tracing::warn!(%op, ?settled, "a script was interrupted by the runner's end");
            ledger.jobs.write(&op, &settled)?;
        }
        Ok(ledger)
    }

    /// Makes the same checks as [`Self::open`] and changes nothing: burned nonces, and how far the scripts
    /// are that are not forgotten.
    pub fn inspect(directory: &Path) -> Result<(usize, BTreeMap<Sha256, Stage>), LedgerError> {
        let burned = NonceJournal::inspect(directory)?;
        let jobs = Jobs { directory: directory.join(JOBS) };
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
                "this order was accepted before (record {} of the runner's nonce journal): prepare and sign a new one",
                burned.record
            )
        } else {
            format!(
                "its nonce was burned by another order (record {} of the runner's nonce journal): prepare a new one",
                burned.record
            )
        })
    }

    /// The point of no return: when this returns `Ok`, nothing can make the order acceptable again.
    pub fn burn(&mut self, authorized: &Authorized<Order>) -> Result<(), LedgerError> {
        let order = authorized.get();
        self.journal.burn(&order.nonce, authorized.op(), order.exp)?;
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
    /// script that the warden has not taken the end of. Gives how many. None of them can be used again: what
    /// expired before the floor is refused, whatever the clock says.
    pub fn compact(&mut self, now: u64) -> Result<u64, LedgerError> {
        let open = self.jobs.list()?.iter().map(short).collect();
        let forgotten = self.journal.compact(self.floor().at(), now, &open)?;
        if forgotten > 0 {
            self.burned = self.journal.ops();
        }
        Ok(forgotten)
    }

    /// The scripts' files.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }
}

/// The scripts' files.
#[derive(Debug)]
pub struct Jobs {
    directory: PathBuf,
}

impl Jobs {
    fn path(&self, op: &Sha256) -> PathBuf {
        self.directory.join(format!("{op}.json"))
    }

    /// Writes how far a script has come, durably.
    pub fn write(&self, op: &Sha256, stage: &Stage) -> Result<(), LedgerError> {
        let path = self.path(op);
        let file = JobFile { v: 1, op: *op, state: stage.clone() };
        let bytes = serde_json::to_vec(&file).map_err(|_| LedgerError::Damaged { path: path.clone() })?;
        Ok(files::write_atomic(&path, &bytes)?)
    }

    /// How far a script has come; none if there is no file of it.
    pub fn read(&self, op: &Sha256) -> Result<Option<Stage>, LedgerError> {
        let path = self.path(op);
        let bytes = match files::read_limited(&path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: Option<JobFile> = serde_json::from_slice(&bytes).ok();
        match file.filter(|file| file.v == 1 && file.op == *op) {
            Some(file) => Ok(Some(file.state)),
            None => Err(LedgerError::Damaged { path }),
        }
    }

    /// Forgets a script.
    pub fn remove(&self, op: &Sha256) -> Result<(), LedgerError> {
        let path = self.path(op);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(files::sync_directory(&self.directory)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::io("remove", &path, error).into()),
        }
    }

    /// Which scripts have a file.
    pub fn list(&self) -> Result<Vec<Sha256>, LedgerError> {
        self.entries()?.into_iter().map(|op| op.map_err(|path| LedgerError::Damaged { path })).collect()
    }

    /// The files' names; a path where one is none of ours.
    fn entries(&self) -> Result<Vec<Result<Sha256, PathBuf>>, FileError> {
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
    fn compare(&self, burned: impl Fn(&Sha256) -> bool) -> Result<BTreeMap<Sha256, Stage>, LedgerError> {
        let mut stages = BTreeMap::new();
        for op in self.list()? {
            let Some(stage) = self.read(&op)? else { continue };
            if stage != (Stage::Accepted {}) && !burned(&op) {
                return Err(LedgerError::LostNonce { path: self.path(&op) });
            }
            stages.insert(op, stage);
        }
        Ok(stages)
    }
}

/// Kills what scripts left running that an earlier runner started, and says in words what came of it.
/// Needs no anchor and no journal: also a runner that refuses everything leaves nothing running. Blocks.
pub fn kill_leftovers(directory: &Path) -> BTreeMap<Sha256, String> {
    let jobs = Jobs { directory: directory.join(JOBS) };
    let mut told = BTreeMap::new();
    for op in jobs.entries().into_iter().flatten().flatten() {
        // What cannot be read closes the ledger later on.
        if let Ok(Some(Stage::Started { leftover })) = jobs.read(&op) {
            let killed = leftover.kill();
            tracing::warn!(%op, ?killed, "a script of an earlier runner was ended");
            told.insert(op, crate::jobs::tell_killed(&killed));
        }
    }
    told
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

#[cfg(test)]
mod tests;
