//! Anchor, policy chain and ledger while the service runs. Until root's word and the warden's documents agree
//! there is none of them, and after a disk error there is none any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use authz::journal::JournalError;
use authz::policy::store::{ChainStore, TakeError};
use authz::{Authorized, Order, RefusalCode};
use protocol::runner::AnchorStatus;
use protocol::{Bytes, Ed25519Key, Envelope, HostId, Sha256};

use crate::anchor::Anchor;
use crate::ledger::{Ledger, LedgerError, Story};
use crate::seat::SeatError;
use crate::{Denied, chain};

/// What the service knows of itself.
#[derive(Debug)]
enum State<S> {
    /// Nobody has given it a policy.
    Unanchored,
    /// Works.
    Open { anchor: Arc<Anchor>, policies: Box<ChainStore>, ledger: Box<Ledger<S>> },
    /// Refuses everything.
    Closed { anchor: Option<Arc<Anchor>>, why: String },
}

/// What the warden brings at the first time.
#[derive(Debug)]
pub struct Anchoring<'a> {
    /// The host's first policy.
    pub policy: &'a Bytes,
    /// What followed it.
    pub documents: &'a [Envelope],
    /// The host.
    pub host_id: HostId,
    /// Its key.
    pub host_key: Ed25519Key,
    /// Which of its keys.
    pub host_key_gen: u32,
}

/// Why a policy document was not taken.
#[derive(Debug)]
pub enum TakeProblem {
    /// By a rule.
    Denied(Denied),
    /// The disk failed: [`Keeper::fail`] with it.
    Disk(LedgerError),
}

/// Why an order's nonce was not burned, or perhaps was.
#[derive(Debug)]
pub enum NotBurned {
    /// Nothing was done, and it is not burned by this.
    Denied(Denied),
    /// The disk failed at it, so nobody knows. Nothing was started. The caller fails with it.
    Disk(LedgerError),
}

/// Anchor and ledger, shared by all connections.
#[derive(Debug)]
pub struct Keeper<S> {
    directory: PathBuf,
    configured: Option<Sha256>,
    state: Mutex<State<S>>,
}

/// A panic while the lock was held leaves the data as it was between two complete changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Story> Keeper<S> {
    /// Opens what is there. `configured` is the policy that root's configuration names; `told` as in
    /// [`Ledger::open`]. Damage is no error: everything is refused then, with the reason.
    pub fn open(
        directory: &Path,
        configured: Option<Sha256>,
        told: &BTreeMap<Sha256, String>,
    ) -> Result<Self, SeatError> {
        let state = open_state(directory, configured.as_ref(), told)?;
        if let State::Closed { why, .. } = &state {
            tracing::error!(%why, "everything is refused");
        }
        Ok(Self { directory: directory.to_owned(), configured, state: Mutex::new(state) })
    }

    /// Refuses everything from now on: after a failed fsync nobody knows what is on the disk, so the process
    /// ends and reads again (`security.md` 2.9). Gives the reason.
    pub fn fail(&self, error: &LedgerError) -> String {
        let why = chain(error);
        tracing::error!(%why, "disk error; the service stops");
        let mut state = lock(&self.state);
        let anchor = match &*state {
            State::Open { anchor, .. } => Some(anchor.clone()),
            State::Closed { anchor, .. } => anchor.clone(),
            State::Unanchored => None,
        };
        *state = State::Closed { anchor, why: why.clone() };
        why
    }

    /// Runs `f` on the open ledger.
    pub fn with_ledger<T>(&self, f: impl FnOnce(&Anchor, &mut Ledger<S>) -> T) -> Result<T, Denied> {
        match &mut *lock(&self.state) {
            State::Unanchored => {
                let (name, how) = (S::WHO.name, how_to_anchor::<S>(self.configured.as_ref()));
                let why = format!("{}, its {name} has no policy yet: {how}", S::WHO.not_set_up);
                Err(Denied::new(S::WHO.code, why))
            }
            State::Open { anchor, ledger, .. } => Ok(f(anchor, ledger)),
            State::Closed { why, .. } => Err(Denied::new(RefusalCode::Closed, why.clone())),
        }
    }

    /// What it lives by, and why everything is refused, if it is.
    pub fn status(&self) -> (Option<AnchorStatus>, Option<String>) {
        match &*lock(&self.state) {
            State::Unanchored => (None, None),
            State::Open { anchor, .. } => (Some(anchor.status()), None),
            State::Closed { anchor, why } => {
                (anchor.as_ref().map(|anchor| anchor.status()), Some(why.clone()))
            }
        }
    }

    /// Takes the first anchor. `now` is the host's clock, unix seconds.
    pub fn anchor(&self, brought: &Anchoring<'_>, now: u64) -> Result<(), Denied> {
        let who = S::WHO;
        let mut state = lock(&self.state);
        if let State::Closed { why, .. } = &*state {
            return Err(Denied::new(RefusalCode::Closed, why.clone()));
        }
        let Some(configured) = &self.configured else {
            return Err(Denied::new(who.code, how_to_anchor::<S>(None)));
        };
        let Anchoring { policy, documents, host_id, host_key, host_key_gen } = *brought;
        let wanted = Anchor::parse(who, &policy.0, host_id, host_key, host_key_gen)
            .map_err(|error| Denied::other("bad_anchor", chain(&error)))?;
        let followed = wanted.follow(documents, now);
        let followed = followed.map_err(|refusal| Denied::new(refusal.code, refusal.why))?;
        // The policy that root named vouches for those before it, and is followed by what is signed.
        if !followed.has(configured) {
            let why = format!(
                "{} has policy_sha256 {configured}, and the policy that the warden brought is {} and none before it was that: find out which one is yours (writ policy show)",
                who.config,
                followed.policy().hash()
            );
            return Err(Denied::new(RefusalCode::OtherPolicy, why));
        }
        match &*state {
            State::Open { anchor, .. } if anchor.begins_like(&wanted) => Ok(()),
            State::Open { anchor, .. } => {
                let status = anchor.status();
                let why = format!(
                    "this {} is anchored to host {} (key {}, generation {}) and policy {}, and takes no other; {}",
                    who.name,
                    status.host_id,
                    status.host_key.fingerprint(),
                    status.host_key_gen,
                    status.policy,
                    who.start_over(&self.directory)
                );
                Err(Denied::other("anchored", why))
            }
            State::Unanchored => {
                let (policies, ledger) = first_anchor(&self.directory, &wanted, documents, now)
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

    /// Judges these policy documents, in this order, and lives by what is accepted.
    pub fn take_policies(&self, documents: &[Envelope], now: u64) -> Result<(), TakeProblem> {
        for document in documents {
            let mut state = lock(&self.state);
            let denied = |code, why: String| Err(TakeProblem::Denied(Denied::new(code, why)));
            let (anchor, policies, ledger) = match &mut *state {
                State::Open { anchor, policies, ledger } => (anchor, policies, ledger),
                State::Unanchored => {
                    return denied(S::WHO.code, how_to_anchor::<S>(self.configured.as_ref()));
                }
                State::Closed { why, .. } => return denied(RefusalCode::Closed, why.clone()),
            };
            match policies.take(document, now) {
                Ok(_) => {
                    *anchor = Arc::new(anchor.at(policies));
                    ledger.signed_time(anchor.fresh_at());
                }
                Err(TakeError::Refused(refusal)) => return denied(refusal.code, refusal.why),
                Err(TakeError::NoRoom(error)) => {
                    return denied(RefusalCode::Closed, format!("{}; nothing was accepted", chain(&error)));
                }
                Err(TakeError::Store(error)) => return Err(TakeProblem::Disk(LedgerError::Policy(error))),
            }
        }
        Ok(())
    }

    /// Forgets nonces that signed floor and clock are long past ([`Ledger::compact`]); for once a start and once a
    /// day. `now` is the host's clock, unix seconds. Gives how many.
    ///
    /// # Errors
    /// The disk failed: [`Self::fail`] with it.
    pub fn compact(&self, now: u64) -> Result<u64, LedgerError> {
        match self.with_ledger(|_, ledger| ledger.compact(now)) {
            Ok(Err(error)) if error.is_of_the_journal() => Err(error),
            // A full disk, or a file that could not be read: there is another day.
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "the nonce journal could not be made shorter");
                Ok(0)
            }
            Ok(done) => done,
            Err(_) => Ok(0),
        }
    }

    /// The point of no return for an order's nonce.
    pub fn burn(&self, authorized: &Authorized<Order>) -> Result<(), NotBurned> {
        let burned = self.with_ledger(|_, ledger| {
            // Asked again under the lock: two orders with one nonce may have come this far.
            match ledger.replayed(&authorized.get().nonce, authorized.op()) {
                Some(why) => Ok(Some((RefusalCode::Replay, why))),
                // The floor may have moved since the order was checked, and nonces been forgotten by it.
                None if authorized.get().exp <= ledger.floor().at() => Ok(Some((
                    RefusalCode::Expired,
                    "operators signed at a later time than its end while the order was being checked: prepare and sign a new one".to_owned(),
                ))),
                None => ledger.burn(authorized).map(|()| None),
            }
        });
        match burned.map_err(NotBurned::Denied)? {
            Ok(None) => Ok(()),
            Ok(Some((code, why))) => Err(NotBurned::Denied(Denied::new(code, why))),
            // A full disk: the order can come again.
            Err(error) if error.burned_nothing() => {
                let why = format!("{}; nothing was accepted", chain(&error));
                Err(NotBurned::Denied(Denied::new(RefusalCode::Closed, why)))
            }
            Err(error) => Err(NotBurned::Disk(error)),
        }
    }
}

/// What is to be done on a host whose service has no policy.
pub fn how_to_anchor<S: Story>(configured: Option<&Sha256>) -> String {
    let config = S::WHO.config;
    match configured {
        Some(policy) => format!(
            "{config} allows policy {policy}, and the warden has not brought it: is the host enrolled with another one?"
        ),
        None => format!(
            "root writes the line policy_sha256 = \"…\", which `writ enroll new` and `writ policy show` print, into {config} and restarts the {}",
            S::WHO.name
        ),
    }
}

/// Policy and journal first, `host.json` last: a crash in between leaves a service that is not anchored and
/// has no history.
fn first_anchor<S: Story>(
    directory: &Path,
    anchor: &Anchor,
    documents: &[Envelope],
    now: u64,
) -> Result<(ChainStore, Ledger<S>), String> {
    let mut policies = anchor.prepare(directory).map_err(|error| chain(&error))?;
    for document in documents {
        policies.take(document, now).map_err(|error| chain(&error))?;
    }
    let ledger = Ledger::create(directory, policies.chain().fresh_at()).map_err(|error| chain(&error))?;
    anchor.finish(directory).map_err(|error| chain(&error))?;
    Ok((policies, ledger))
}

fn open_state<S: Story>(
    directory: &Path,
    configured: Option<&Sha256>,
    told: &BTreeMap<Sha256, String>,
) -> Result<State<S>, SeatError> {
    let closed = |anchor, error: &dyn std::error::Error| Ok(State::Closed { anchor, why: chain(error) });
    let anchor = match Anchor::load(S::WHO, directory) {
        Ok(Some(anchor)) => Arc::new(anchor),
        Ok(None) => {
            return match Ledger::<S>::has_history(directory) {
                Ok(false) => Ok(State::Unanchored),
                Ok(true) => closed(None, &Anchor::lost(S::WHO, directory)),
                Err(error) => closed(None, &error),
            };
        }
        Err(error) => return closed(None, &error),
    };
    let ledger = match Ledger::open(directory, anchor.fresh_at(), told) {
        Ok(ledger) => ledger,
        Err(LedgerError::Journal { source: JournalError::Locked { path }, .. }) => {
            return Err(SeatError::Locked { who: S::WHO, path });
        }
        Err(error) => return closed(Some(anchor), &error),
    };
    let policies = match anchor.open_chain(directory) {
        Ok(policies) => Box::new(policies),
        Err(error) => return closed(Some(anchor), &error),
    };
    match anchor.check_configured(configured, directory) {
        Ok(()) => Ok(State::Open { anchor, policies, ledger: Box::new(ledger) }),
        Err(error) => closed(Some(anchor), &error),
    }
}
