//! The policy chain that this host lives by, and the signed floor of its clock (`security.md` 2.8, 2.10).
//!
//! Documents come through the hub and are judged here: written before they take effect, in the log when they
//! did. The log and the chain are compared at the start; each shows what the other one lost.

use std::path::Path;

use authz::clock::State;
use authz::clock::store::{FloorError, FloorStore};
use authz::order::{Order, PolicyRef};
use authz::policy::chain::Accepted;
use authz::policy::store::{ChainStore, ChainStoreError, TakeError};
use authz::receipt::Signer;
use authz::{Event, Policy, Refusal, RefusalCode};
use protocol::local::{DocumentAnswer, WardenAnswer};
use protocol::runner::RunnerStatus;
use protocol::text::printable;
use protocol::{Envelope, Sha256};
use rustix::time::{ClockId, clock_gettime};

use crate::follow::follow;
use crate::identity::Identity;
use crate::now;
use crate::privileged::PrivilegedError;
use crate::runner::{Documents, RunnerError};
use crate::warden::{Warden, chain};

/// Most documents in one request.
const MAX_AT_ONCE: usize = 64;

/// Why the chain or the clock's floor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyProblem {
    /// The chain on disk.
    #[error(transparent)]
    Chain(#[from] ChainStoreError),
    /// Log and chain differ.
    #[error(
        "the audit log says that this host took in {logged} policies and revocations, and its policy directory holds {held} or others: restore both from one backup, or start over with an empty state directory"
    )]
    NotInStep {
        /// By the log.
        logged: usize,
        /// On disk.
        held: usize,
    },
    /// The clock's floor on disk.
    #[error(transparent)]
    Clock(#[from] FloorError),
}

/// What became of a document.
#[derive(Debug)]
pub enum Taken {
    /// In force; the event belongs into the log. A word of freshness has none.
    Accepted(Option<Event>),
    /// Nothing new.
    Known,
    /// By a rule.
    Refused(Refusal),
}

/// Chain and clock.
#[derive(Debug)]
pub struct Policies {
    chain: ChainStore,
    floor: FloorStore,
}

impl Policies {
    /// Begins with the policy of the enrollment.
    pub(crate) fn create(directory: &Path, first: Policy, boot_id: &str) -> Result<Self, PolicyProblem> {
        let chain = ChainStore::create(directory, first)?;
        let floor = FloorStore::create(directory, chain.chain().fresh_at(), boottime(), boot_id)?;
        Ok(Self { chain, floor })
    }

    /// Reads the chain and judges all of it again. `least` is the latest expiry of the nonces that the journal
    /// forgot: the floor is not below it, whatever became of its file.
    pub(crate) fn open(
        directory: &Path,
        first: Policy,
        least: u64,
        boot_id: &str,
    ) -> Result<Self, PolicyProblem> {
        let chain = ChainStore::open(directory, first)?;
        let floor = FloorStore::open(directory, chain.chain().fresh_at(), least, boottime(), boot_id)?;
        Ok(Self { chain, floor })
    }

    /// The policy in force by the chain alone; changes nothing.
    pub fn read(directory: &Path, first: Policy) -> Result<Policy, PolicyProblem> {
        Ok(ChainStore::inspect(directory, first)?.current().clone())
    }

    /// The checks of a start, changing nothing.
    pub(crate) fn inspect(directory: &Path, first: Policy, logged: &[Event]) -> Result<(), PolicyProblem> {
        unlogged(&ChainStore::inspect(directory, first)?, logged).map(drop)
    }

    /// What a crash kept from the log: at most the last document.
    pub(crate) fn unlogged(&self, logged: &[Event]) -> Result<Vec<Event>, PolicyProblem> {
        unlogged(&self.chain, logged)
    }

    /// The policy in force.
    pub fn current(&self) -> &Policy {
        self.chain.current()
    }

    /// Whether the policy with this hash is of the chain.
    pub(crate) fn has(&self, sha256: &Sha256) -> bool {
        self.chain.chain().has(sha256)
    }

    /// What the runner has to know.
    pub fn documents(&self) -> Documents {
        Documents {
            policy: *self.current().hash(),
            documents: self.chain.documents().iter().map(|document| document.envelope.clone()).collect(),
            fresh: self.chain.fresh().cloned(),
            fresh_at: self.chain.chain().fresh_at(),
        }
    }

    /// What the clock is worth.
    pub fn clock(&self, now: u64) -> State {
        // Whether the clock is synchronised only the kernel could say, and nobody asks it yet.
        self.floor.floor().judge(now, None)
    }

    /// Whether the last word that the policy is the newest is too old; a clock that was set back does not hide it.
    pub fn is_stale(&self, now: u64) -> bool {
        self.chain.chain().is_stale(self.floor.floor().not_before(now))
    }

    /// The signed floor, unix seconds.
    pub fn floor(&self) -> u64 {
        self.floor.floor().at()
    }

    /// Takes in a time that somebody trusted signed.
    pub(crate) fn signed_time(&mut self, signed: u64) {
        // In memory it has moved, and on disk it may lag: what the journal forgot by it is in the journal's
        // own tombstone. So a full disk is no reason to stop.
        if let Err(error) = self.floor.advance(signed, boottime()) {
            tracing::warn!(error = %chain(&error), "the clock's floor could not be written down; it will be tried again");
        }
    }

    /// Judges a document; what is accepted is durable when this returns.
    pub(crate) fn take(&mut self, document: &Envelope, now: u64) -> Result<Taken, PolicyProblem> {
        match self.chain.take(document, now) {
            Ok(Accepted::Known) => Ok(Taken::Known),
            Ok(accepted) => {
                self.signed_time(self.chain.chain().fresh_at());
                Ok(Taken::Accepted(event(&accepted)))
            }
            Err(TakeError::Refused(refusal)) => Ok(Taken::Refused(refusal)),
            Err(TakeError::NoRoom(error)) => {
                let why = format!("{}; nothing was accepted", chain(&error));
                Ok(Taken::Refused(Refusal::new(RefusalCode::Closed, why)))
            }
            Err(TakeError::Store(error)) => Err(error.into()),
        }
    }

    /// Why an order that was verified under an earlier policy or floor, or with a key that is revoked by now, is
    /// not carried out.
    pub(crate) fn outdated(&self, order: &Order, signers: &[Signer]) -> Option<(RefusalCode, String)> {
        let policy = self.current();
        if order.policy != PolicyRef::from(policy) {
            let why = format!(
                "the policy of this host became version {} while the order was being checked: prepare it again",
                policy.version()
            );
            return Some((RefusalCode::OtherPolicy, why));
        }
        if order.exp <= self.floor() {
            let why = "operators signed at a later time than its end while the order was being checked: prepare and sign a new one";
            return Some((RefusalCode::Expired, why.to_owned()));
        }
        let gone = signers.iter().find(|signer| policy.has_revoked(&signer.key))?;
        let why = format!("key {} was revoked while the order was being checked", gone.key);
        Some((RefusalCode::Revoked, why))
    }
}

fn event(accepted: &Accepted) -> Option<Event> {
    match accepted.clone() {
        Accepted::Advanced { policy: PolicyRef { version, sha256 }, signers } => {
            Some(Event::PolicyAdvanced { version, sha256, signers })
        }
        Accepted::Revoked { what, signers } => Some(Event::Revoked { what, signers }),
        Accepted::Fresh(_) | Accepted::Known => None,
    }
}

/// A document is written before its event is logged, one at a time: the log is a beginning of the chain, and
/// at most one short.
fn unlogged(chain: &ChainStore, logged: &[Event]) -> Result<Vec<Event>, PolicyProblem> {
    let held: Vec<Event> = chain.documents().iter().filter_map(|d| event(&d.accepted)).collect();
    let rest = held.strip_prefix(logged).filter(|rest| rest.len() <= 1);
    rest.map(<[Event]>::to_vec).ok_or(PolicyProblem::NotInStep { logged: logged.len(), held: held.len() })
}

/// Seconds since the machine was started, asleep or not.
pub(crate) fn boottime() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

impl Warden {
    /// Answers [`protocol::local::WardenRequest::Policy`].
    pub async fn policy(&self, documents: &[Envelope]) -> WardenAnswer {
        if documents.len() > MAX_AT_ONCE {
            return crate::warden::refused("size", format!("at most {MAX_AT_ONCE} documents at once"));
        }
        let mut answers = Vec::new();
        for document in documents {
            // One at a time, so that orders can come in between.
            let taken = match self.with_ledger(|_, ledger| ledger.take_policy(document, now())) {
                Ok(taken) => taken,
                Err(shut) => return shut.answer(),
            };
            answers.push(match taken {
                Ok(Taken::Known) => DocumentAnswer::Known {},
                Ok(Taken::Refused(refusal)) => {
                    tracing::warn!(code = %refusal.code, why = refusal.why, "a policy document was refused");
                    DocumentAnswer::Refused { code: refusal.code.to_string(), why: refusal.why }
                }
                Ok(Taken::Accepted(event)) => {
                    tracing::info!(?event, "a policy document is in force");
                    self.end_sessions_of_the_gone();
                    DocumentAnswer::Accepted {}
                }
                Err(error) => {
                    self.fail(&error);
                    let why = format!("{}; whether the policy counts shows after a restart", chain(&error));
                    return WardenAnswer::Unknown { why };
                }
            });
        }
        match self.with_ledger(|_, ledger| PolicyRef::from(ledger.policies().current())) {
            Ok(PolicyRef { version, sha256 }) => WardenAnswer::Policy { version, sha256, answers },
            Err(shut) => shut.answer(),
        }
    }

    /// Whoever lost the key that a session was signed with does not keep the session.
    fn end_sessions_of_the_gone(&self) {
        let Ok(policy) = self.with_ledger(|_, ledger| ledger.policies().current().clone()) else { return };
        self.sessions.end_signed("a key that signed for it was revoked", |signer| {
            policy.has_revoked(&signer.key) || policy.operator(&signer.operator).is_none()
        });
    }

    /// The chain that root's services have to follow.
    fn followed(&self) -> Result<Documents, String> {
        let documents = self.with_ledger(|_, ledger| ledger.policies().documents());
        documents.map_err(|_| printable("the warden's ledger is closed, so its policy is not known"))
    }

    /// The runner, if it works and lives by the policy that this host lives by now.
    pub(crate) async fn ready_runner(&self, identity: &Identity) -> Result<RunnerStatus, RunnerError> {
        let documents = self.followed().map_err(RunnerError::Closed)?;
        follow(&self.runner, identity, &documents).await
    }

    /// Likewise `writ-privileged`.
    pub(crate) async fn ready_privileged(&self, identity: &Identity) -> Result<(), PrivilegedError> {
        let documents = self.followed().map_err(PrivilegedError::Closed)?;
        follow(&self.privileged, identity, &documents).await.map(drop)
    }
}
