//! Everything that must survive: the nonce journal, the signed log, and one file per order that has
//! been accepted and has not ended. Their rules against each other:
//!
//! * an order file is written before its nonce is burned, so that a burned nonce always has its story;
//! * the log entry `order_committed` follows the burned nonce, so the log shows a nonce that the
//!   journal lost;
//! * an order file is removed only after the order's end is in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use authz::files::{self, FileError};
use authz::journal::{Compacted, JournalError, NonceJournal};
use authz::log::{AuditLog, LogError};
use authz::plan::PlanBook;
use authz::receipt::Signer;
use authz::verify::{HostFacts, LogFacts};
use authz::{Authorized, Event, Order, Receipt, Refusal, RefusalCode};
use protocol::{Bytes, Envelope, Nonce, Sha256, Signed};
use serde::{Deserialize, Serialize};

use crate::bounds::{Clock, History};
use crate::check;
use crate::hold::{self, Point};
use crate::identity::Identity;
use crate::ops::Program;
use crate::policies::{Policies, PolicyProblem, Taken};

const ORDERS: &str = "orders";

/// Why the ledger cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An order file.
    #[error(transparent)]
    File(#[from] FileError),
    /// An order file is not what we wrote.
    #[error("{path} is damaged: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The log or an order file says more than the journal.
    #[error(
        "order {op} was accepted, and the nonce journal does not know it: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew"
    )]
    LostNonce {
        /// Which order.
        op: Sha256,
    },
    /// A nonce was burned, and nothing tells for which order.
    #[error(
        "the nonce journal holds an accepted order ({op}…) of which log and order files know nothing: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew"
    )]
    LostOrder {
        /// The start of the order's id.
        op: String,
    },
    /// The policy chain, or the clock's floor.
    #[error(transparent)]
    Policy(#[from] PolicyProblem),
    /// The log does not begin with the enrollment.
    #[error(
        "the audit log does not begin with this host's enrollment: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew"
    )]
    LostEnrollment,
}

impl LedgerError {
    /// Whether this error of [`Ledger::commit`] certainly burned nothing and leaves the ledger as it was.
    pub fn burned_nothing(&self) -> bool {
        matches!(self, Self::Journal(error) if error.burned_nothing())
    }

    /// Whether there was no room for an entry of the log, and nothing else is wrong: it was not written, and
    /// nothing happened that it would tell of.
    pub fn is_no_room(&self) -> bool {
        matches!(self, Self::Log(LogError::NoRoom(_)))
    }

    /// Whether the journal takes nothing more, so that the warden has to start again.
    pub fn is_of_the_journal(&self) -> bool {
        matches!(self, Self::Journal(error) if !error.burned_nothing())
    }
}

/// How far an accepted order has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// All checks passed. Whether the nonce is burned is for the journal to say.
    Verified {},
    /// Proxmox is about to be called, or was.
    Starting {
        /// Which call of the program.
        action: usize,
        /// By the node's clock, two seconds early.
        t0: u64,
        /// Tasks about the same thing that were there before.
        known: BTreeSet<String>,
    },
    /// Proxmox answered with this task.
    Running {
        /// Which call of the program.
        action: usize,
        /// The task.
        upid: String,
    },
    /// It is about to be handed to the runner or to `writ-privileged`, or was.
    Handing {
        /// When, unix seconds.
        t0: u64,
    },
}

/// An accepted order that has not ended, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenOrder {
    v: u32,
    /// Its id.
    pub op: Sha256,
    payload: Bytes,
    /// Whose signatures counted.
    pub signers: Vec<Signer>,
    /// What is done to Proxmox; none of scripts and sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    /// How far it has come.
    pub stage: Stage,
}

impl OpenOrder {
    /// From an authorized order.
    pub fn new(authorized: &Authorized<Order>) -> Self {
        Self {
            v: 1,
            op: *authorized.op(),
            payload: authorized.get().encode().into(),
            signers: authorized.signers().to_vec(),
            program: None,
            stage: Stage::Verified {},
        }
    }

    /// With what is done to Proxmox.
    #[must_use]
    pub fn with_program(self, program: Program) -> Self {
        Self { program: Some(program), ..self }
    }

    /// The order.
    pub fn order(&self) -> Result<Order, authz::order::OrderError> {
        Order::decode(&self.payload.0)
    }

    /// Whether a service of root's may have got it, and keeps it until it is told to forget it.
    fn may_be_kept_by_another(&self) -> bool {
        matches!(self.stage, Stage::Handing { .. })
            && self.order().is_ok_and(|order| {
                matches!(check::work(&order.params), check::Work::Job(_) | check::Work::Privileged)
            })
    }
}

/// What a crash left behind.
#[derive(Debug)]
pub struct Interrupted {
    /// The order.
    pub open: OpenOrder,
    /// Whether the log already says that it was committed.
    pub logged_committed: bool,
    /// The log already says how its script ended: only the runner may have to be told.
    pub ended: bool,
    /// Whether the log says that the session was ready.
    pub session_ready: bool,
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    identity: Arc<Identity>,
    boot_id: String,
    orders: PathBuf,
    journal: NonceJournal,
    log: AuditLog,
    policies: Policies,
    seen: Seen,
}

/// What the log says, kept in memory.
#[derive(Debug, Default)]
struct Seen {
    committed: BTreeSet<Sha256>,
    /// Ends and logged refusals, with their place.
    ended: BTreeMap<Sha256, u64>,
    /// Sessions that were ready.
    ready: BTreeSet<Sha256>,
    refused: BTreeSet<Sha256>,
    /// Unsigned changes that were begun.
    steps: History,
    /// Runs from the moment on when the log was read.
    clock: Option<(Clock, Instant)>,
    /// Times at which a device key was vouched for.
    enrolled: Vec<u64>,
    device: Option<protocol::Fingerprint>,
    /// Policies and revocations, in their order.
    policies: Vec<Event>,
    /// The log began with something other than the enrollment.
    headless: bool,
}

impl Seen {
    /// The time by which rates are counted. `wall` is that of the log's entry, which counts by itself only
    /// while the log is read.
    fn at(&self, wall: u64) -> u64 {
        self.clock.as_ref().map_or(wall, |(clock, opened)| clock.at(opened.elapsed()))
    }

    /// The log was read: from now on time is what passes.
    fn start_clock(&mut self) {
        let clock = Clock::new(crate::now(), self.steps.last(), Duration::ZERO);
        self.clock = Some((clock, Instant::now()));
    }

    fn visit(&mut self, receipt: &Receipt) {
        self.steps.visit(&receipt.event, self.at(receipt.time));
        let first = receipt.entry.is_some_and(|entry| entry.seq == 0);
        self.headless |= first && !matches!(receipt.event, Event::Enrolled { .. });
        match &receipt.event {
            Event::Enrolled { device_key, .. } => {
                self.device = Some(*device_key);
                self.enrolled.push(receipt.time);
            }
            Event::OrderCommitted { op, .. } => {
                self.committed.insert(*op);
            }
            Event::Order { op, outcome: authz::Outcome::Refused { .. }, .. } => {
                self.refused.insert(*op);
            }
            Event::Order { op, .. } => {
                self.ended.insert(*op, receipt.entry.map_or(0, |entry| entry.seq));
            }
            Event::SessionReady { op, .. } => {
                self.ready.insert(*op);
            }
            Event::PolicyAdvanced { .. } | Event::Revoked { .. } => self.policies.push(receipt.event.clone()),
            Event::StepStarted { .. } | Event::Step { .. } => {}
        }
    }

    /// Journal, log and order files are written in a fixed order, so each of them shows what another
    /// one lost.
    fn compare(
        &self,
        burned: &BTreeSet<[u8; 16]>,
        compacted: &Compacted,
        open: &[OpenOrder],
    ) -> Result<(), LedgerError> {
        let mut accepted =
            open.iter().filter(|order| order.stage != Stage::Verified {}).map(|order| &order.op);
        if let Some(op) = accepted.find(|op| !burned.contains(&short(op))) {
            return Err(LedgerError::LostNonce { op: *op });
        }
        // What the log knows and the journal does not: exactly what the journal says it forgot.
        let gone = || self.committed.iter().filter(|op| !burned.contains(&short(op)));
        if !compacted.explains(gone().map(short)) {
            return Err(match gone().next_back() {
                Some(op) => LedgerError::LostNonce { op: *op },
                None => LedgerError::LostOrder { op: "one of those that the journal forgot".into() },
            });
        }
        let told: BTreeSet<[u8; 16]> =
            self.ended.keys().chain(open.iter().map(|order| &order.op)).map(short).collect();
        if let Some(lost) = burned.iter().find(|op| !told.contains(*op)) {
            let op = lost.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            return Err(LedgerError::LostOrder { op });
        }
        if self.headless { Err(LedgerError::LostEnrollment) } else { Ok(()) }
    }
}

impl Ledger {
    /// Makes or finishes an empty ledger; part of the first enrollment.
    pub fn create(directory: &Path, identity: Arc<Identity>, boot_id: &str) -> Result<Self, LedgerError> {
        let orders = directory.join(ORDERS);
        files::prepare_state_dir(&orders)?;
        // A crash of an earlier attempt may have left either file, still without an entry.
        let journal = NonceJournal::begin(directory)?;
        let log = match AuditLog::create(directory) {
            Err(LogError::Exists { .. }) => {
                AuditLog::open(directory, &identity.host_id, &identity.host_key.public(), |_| ())?
            }
            other => other?,
        };
        let policies = Policies::create(directory, identity.policy.clone(), boot_id)?;
        let boot_id = boot_id.to_owned();
        let mut seen = Seen::default();
        seen.start_clock();
        Ok(Self { identity, boot_id, orders, journal, log, policies, seen })
    }

    /// Opens the ledger of an enrolled host, verifies it, and says what a crash left behind.
    pub fn open(
        directory: &Path,
        identity: Arc<Identity>,
        boot_id: &str,
    ) -> Result<(Self, Vec<Interrupted>), LedgerError> {
        let journal = NonceJournal::open(directory)?;
        let mut seen = Seen::default();
        let log =
            AuditLog::open(directory, &identity.host_id, &identity.host_key.public(), |r| seen.visit(r))?;
        seen.start_clock();
        let orders = directory.join(ORDERS);
        files::prepare_state_dir(&orders)?;
        let open = read_open(&orders)?;
        let burned = journal.ops();
        seen.compare(&burned, &journal.compacted(), &open)?;
        let policies =
            Policies::open(directory, identity.policy.clone(), journal.compacted().latest_exp(), boot_id)?;
        let unlogged = policies.unlogged(&seen.policies)?;
        let boot_id = boot_id.to_owned();
        let mut ledger = Self { identity, boot_id, orders, journal, log, policies, seen };
        for event in unlogged {
            ledger.append(event, crate::now())?;
        }
        let mut interrupted = Vec::new();
        for open in open {
            let burned = burned.iter().any(|op| open.op.as_bytes().starts_with(op));
            let ended = ledger.seen.ended.contains_key(&open.op);
            if !burned || (ended && !open.may_be_kept_by_another()) {
                // Never accepted, so the same order may still come again; or over.
                ledger.remove_open(&open.op)?;
            } else {
                let logged_committed = ledger.seen.committed.contains(&open.op);
                let session_ready = ledger.seen.ready.contains(&open.op);
                interrupted.push(Interrupted { open, logged_committed, ended, session_ready });
            }
        }
        Ok((ledger, interrupted))
    }

    /// Makes the same checks as [`Self::open`] and changes nothing: burned nonces and log entries.
    pub fn inspect(directory: &Path, identity: &Identity) -> Result<(usize, u64), LedgerError> {
        let burned = NonceJournal::inspect(directory)?;
        let mut seen = Seen::default();
        let entries =
            AuditLog::inspect(directory, &identity.host_id, &identity.host_key.public(), |r| seen.visit(r))?;
        seen.compare(&burned.ops, &burned.compacted, &read_open(&directory.join(ORDERS))?)?;
        Policies::inspect(directory, identity.policy.clone(), &seen.policies)?;
        Ok((burned.ops.len(), entries))
    }

    fn path(&self, op: &Sha256) -> PathBuf {
        order_path(&self.orders, op)
    }

    /// Writes how far an order has come, durably. Before an order is accepted this is the test for space,
    /// also for its nonce.
    pub fn write_open(&mut self, open: &OpenOrder) -> Result<(), LedgerError> {
        if open.stage == (Stage::Verified {}) {
            self.log.reserve()?;
            self.journal.reserve()?;
        }
        let bytes =
            serde_json::to_vec(open).map_err(|_| LedgerError::Damaged { path: self.path(&open.op) })?;
        Ok(files::write_atomic(&self.path(&open.op), &bytes)?)
    }

    /// Forgets an order whose end is in the log.
    pub fn remove_open(&self, op: &Sha256) -> Result<(), LedgerError> {
        let path = self.path(op);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError::io("remove", &path, error).into())
            }
            _ => Ok(files::sync_directory(&self.orders)?),
        }
    }

    /// Runs `f` with what [`authz::verify::verify`] has to know.
    pub fn with_facts<T>(&self, plans: Option<(&PlanBook, u64)>, f: impl FnOnce(&HostFacts<'_>) -> T) -> T {
        f(&HostFacts {
            clock: self.policies.clock(crate::now()),
            floor: self.policies.floor(),
            stale: self.policies.is_stale(crate::now()),
            plans,
            id: self.identity.host_id,
            key: self.identity.host_key.public().fingerprint(),
            generation: self.identity.host_key_gen,
            log: Some(LogFacts { size: self.log.size(), head_at: &|size| self.log.head_at(size) }),
        })
    }

    /// The chain that the host lives by.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Judges a policy document; what is accepted is durable and in the log when this returns.
    pub fn take_policy(&mut self, document: &Envelope, now: u64) -> Result<Taken, LedgerError> {
        // The chain says for itself when it has no room.
        match self.log.reserve() {
            Ok(()) => {}
            Err(error @ LogError::NoRoom(_)) => {
                let why = format!("{}; nothing was accepted", crate::warden::chain(&error));
                return Ok(Taken::Refused(Refusal::new(RefusalCode::Closed, why)));
            }
            Err(error) => return Err(error.into()),
        }
        let taken = self.policies.take(document, now)?;
        if let Taken::Accepted(Some(event)) = &taken {
            self.append(event.clone(), now)?;
        }
        Ok(taken)
    }

    /// Why a nonce cannot be used again, if it cannot.
    pub fn replayed(&self, nonce: &Nonce, op: &Sha256) -> Option<String> {
        let burned = self.journal.find(nonce)?;
        Some(match self.seen.ended.get(op) {
            Some(entry) => format!(
                "this order was accepted before and has ended (nonce burned by journal record {}; what became of it is log entry {entry}): look at that first, then prepare and sign a new one",
                burned.record
            ),
            None if op.as_bytes().starts_with(&burned.op) => {
                format!(
                    "this order was accepted before (journal record {}) and has not ended yet",
                    burned.record
                )
            }
            None => format!(
                "its nonce was burned by another order (journal record {}): prepare a new one",
                burned.record
            ),
        })
    }

    /// Burns the nonce, then logs that. After this nothing can make the order acceptable again.
    pub fn commit(&mut self, authorized: &Authorized<Order>, now: u64) -> Result<(), LedgerError> {
        let order = authorized.get();
        hold::block_before(Point::Burned);
        self.journal.burn(&order.nonce, authorized.op(), order.exp)?;
        hold::block_at(Point::Burned);
        hold::block_before(Point::Timed);
        self.policies.signed_time(order.nbf);
        hold::block_at(Point::Timed);
        hold::block_before(Point::Committed);
        self.log_committed(authorized.op(), order, authorized.signers(), now)
    }

    /// Forgets nonces that the signed floor and the clock are long past ([`NonceJournal::compact`]), but of no
    /// order that has not ended. Gives how many. None of them can be used again: what expired before the floor
    /// is refused, whatever the clock says.
    pub fn compact(&mut self, now: u64) -> Result<u64, LedgerError> {
        let open = read_open(&self.orders)?.iter().map(|order| short(&order.op)).collect();
        Ok(self.journal.compact(self.policies.floor(), now, &open)?)
    }

    /// The log's half of [`Self::commit`]; also used when a crash came between the two.
    pub fn log_committed(
        &mut self,
        op: &Sha256,
        order: &Order,
        signers: &[Signer],
        now: u64,
    ) -> Result<(), LedgerError> {
        let kind = order.kind().as_str().to_owned();
        self.append(Event::OrderCommitted { op: *op, kind, signers: signers.to_vec() }, now).map(drop)
    }

    /// Signs an event into the log, durably.
    pub fn append(&mut self, event: Event, now: u64) -> Result<Signed, LedgerError> {
        let receipt = self.receipt(Some(self.log.next_entry()), event, now);
        let signed = receipt.sign(&self.identity.host_key);
        // What can still be refused waits for room; what has happened is written down.
        match &receipt.event {
            Event::Order { outcome: authz::Outcome::Refused { .. }, .. }
            | Event::StepStarted { .. }
            | Event::Enrolled { .. } => self.log.append(&receipt, &signed)?,
            _ => self.log.append_end(&receipt, &signed)?,
        }
        self.seen.visit(&receipt);
        Ok(signed)
    }

    /// Signs an event outside the log.
    pub fn sign(&self, event: Event, now: u64) -> Signed {
        self.receipt(None, event, now).sign(&self.identity.host_key)
    }

    fn receipt(&self, entry: Option<authz::receipt::Entry>, event: Event, now: u64) -> Receipt {
        Receipt {
            v: 1,
            host: self.identity.host_id,
            host_key_gen: self.identity.host_key_gen,
            boot_id: self.boot_id.clone(),
            time: now,
            entry,
            event,
        }
    }

    /// Whether a refusal of this order is in the log already: a hub that repeats an order must not be
    /// able to fill the disk.
    pub fn refusal_logged(&self, op: &Sha256) -> bool {
        self.seen.refused.contains(op)
    }

    /// Unsigned changes that were begun, and the time by which they are counted.
    pub fn history(&self) -> (&History, u64) {
        (&self.seen.steps, self.seen.at(crate::now()))
    }

    /// The device key that was last vouched for, and when keys were vouched for, oldest first.
    pub fn enrolled(&self) -> (Option<protocol::Fingerprint>, &[u64]) {
        (self.seen.device, &self.seen.enrolled)
    }

    /// Entries in the log.
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// The host's signed word about its whole log. Costs a signature and no write.
    pub fn checkpoint(&self) -> protocol::Note {
        let Identity { host_id, host_key_gen, host_key, .. } = &*self.identity;
        let origin = authz::Origin { host: *host_id, generation: *host_key_gen };
        self.log.checkpoint().sign(&origin, host_key)
    }

    /// Log entries from `first` on.
    pub fn read(&self, first: u64, max: usize) -> Result<Vec<Signed>, LedgerError> {
        Ok(self.log.read(first, max)?)
    }
}

/// The journal keeps the start of an order's id.
fn short(op: &Sha256) -> [u8; 16] {
    let mut start = [0; 16];
    start.copy_from_slice(&op.as_bytes()[..16]);
    start
}

/// Orders that were accepted and have not ended, of a state directory. Changes nothing.
pub fn open_orders(directory: &Path) -> Result<Vec<OpenOrder>, LedgerError> {
    read_open(&directory.join(ORDERS))
}

/// All order files of a directory.
fn read_open(orders: &Path) -> Result<Vec<OpenOrder>, LedgerError> {
    let fail = |source| FileError::io("read", orders, source);
    let mut open = Vec::new();
    let entries = match std::fs::read_dir(orders) {
        Ok(entries) => entries,
        // No order is open then; if one was, the journal tells.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(open),
        Err(error) => return Err(fail(error).into()),
    };
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        // Unfinished writes have another ending and were never acknowledged.
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = files::read_limited(&path, 1024 * 1024)?;
        let parsed: Option<OpenOrder> = serde_json::from_slice(&bytes).ok();
        match parsed
            .filter(|o| o.v == 1 && Sha256::of(&o.payload.0) == o.op && order_path(orders, &o.op) == path)
        {
            Some(order) => open.push(order),
            None => return Err(LedgerError::Damaged { path }),
        }
    }
    open.sort_by_key(|order| order.op);
    Ok(open)
}

fn order_path(orders: &Path, op: &Sha256) -> PathBuf {
    orders.join(format!("{op}.json"))
}
