//! A signed order, from envelope to receipt (`security.md` 2.16 and 2.7).
//!
//! Up to COMMITTED nothing has a side effect. From there on the order runs to its end whoever is
//! still listening, and a crash at any point ends in a true receipt or in `unknown`, never in a second
//! call. What is the same for all kinds is here; [`proxmox`] carries out what Proxmox's API does,
//! [`crate::jobs`] scripts, [`crate::sessions`] sessions.

pub(crate) mod proxmox;

use std::sync::Arc;

use authz::{Authorized, Event, Kind, Order, Outcome, Refusal, RefusalCode};
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use protocol::{Envelope, Sha256, Signed};
use tokio::sync::mpsc;

use crate::check::{self, Work};
use crate::hold::{self, Point};
use crate::ledger::{Interrupted, OpenOrder};
use crate::policies::boottime;
use crate::warden::{Shut, Warden, chain, lock, refused};
use crate::{jobs, now, ops, privileged, safe, sessions};

/// Who wants to know how far it is; nobody has to listen.
pub type Progress = mpsc::Sender<OrderState>;

/// The receipt of an end, or why that could not be written down.
pub(crate) type Written = Result<Signed, String>;

/// Verifies and carries out. Spawned by the server, so it does not end with the connection.
pub async fn order(warden: Arc<Warden>, envelope: Envelope, progress: Progress) -> WardenAnswer {
    match carry_out(&warden, &envelope, &progress).await {
        Ok(written) => last_answer(written),
        Err(denied) => denied.answer(&warden, envelope.id()),
    }
}

async fn carry_out(
    warden: &Arc<Warden>,
    envelope: &Envelope,
    progress: &Progress,
) -> Result<Written, Denied> {
    let authorized = verify(warden, envelope)?;
    match check::work(&authorized.get().params) {
        Work::Proxmox => proxmox::carry_out(warden, envelope, &authorized, progress).await,
        Work::Job(params) => jobs::carry_out(warden, envelope, &authorized, params, progress).await,
        Work::Privileged => privileged::carry_out(warden, envelope, &authorized, progress).await,
        Work::Nobody => {
            let (code, why) = ops::not_yet(authorized.get());
            Err(authorized.refuse(authorized.get().kind(), code, why).into())
        }
        Work::Session => {
            let why = "a session needs a connection of its own, and this came as an ordinary order: use `writ ssh`, or another tool that opens sessions";
            Err(authorized.refuse(Kind::SessionOpen, RefusalCode::Kind, why).into())
        }
    }
}

/// To whoever waits for an order's end.
pub(crate) fn last_answer(written: Written) -> WardenAnswer {
    match written {
        Ok(receipt) => WardenAnswer::Receipt(receipt),
        // It ran; "refused" would be a lie.
        Err(why) => WardenAnswer::Unknown { why },
    }
}

/// Why an order was not accepted.
pub(crate) enum Denied {
    /// By a rule.
    Refusal(Refusal),
    /// There is no ledger.
    Shut(Shut),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<Shut> for Denied {
    fn from(shut: Shut) -> Self {
        Self::Shut(shut)
    }
}

impl Denied {
    /// Signed, where there is a key to sign with.
    pub(crate) fn answer(self, warden: &Warden, op: Sha256) -> WardenAnswer {
        match self {
            Self::Refusal(refusal) => refuse(warden, op, &refusal),
            Self::Shut(Shut::NotEnrolled) => Shut::NotEnrolled.answer(),
            Self::Shut(Shut::Closed(identity, why)) => {
                let refusal = Refusal::new(RefusalCode::Closed, why);
                WardenAnswer::Receipt(warden.sign_closed(&identity, refusal_event(op, &refusal)))
            }
        }
    }
}

/// Signatures, host, policy, clock.
pub(crate) fn verify(warden: &Warden, envelope: &Envelope) -> Result<Authorized<Order>, Denied> {
    Ok(warden.with_ledger(|_, ledger| {
        let plans = lock(&warden.plans);
        let verified = ledger.with_facts(Some((&plans.book, boottime())), |host| {
            authz::verify::verify(envelope, ledger.policies().current(), host, now())
        });
        // A plan is forgotten when its order is accepted: that it was, says more than that its plan is gone.
        verified.map_err(|refusal| match Order::decode(&envelope.payload.0) {
            Ok(order) if refusal.authenticated && refusal.code == RefusalCode::Plan => {
                match ledger.replayed(&order.nonce, &envelope.id()) {
                    Some(why) => Refusal { code: RefusalCode::Replay, why, ..refusal },
                    None => refusal,
                }
            }
            _ => refusal,
        })
    })??)
}

/// Refuses an order whose nonce was burned before.
pub(crate) fn fresh(warden: &Warden, authorized: &Authorized<Order>) -> Result<(), Denied> {
    let order = authorized.get();
    match warden.with_ledger(|_, ledger| ledger.replayed(&order.nonce, authorized.op()))? {
        Some(why) => Err(authorized.refuse(order.kind(), RefusalCode::Replay, why).into()),
        None => Ok(()),
    }
}

/// Writes the order down and burns its nonce: the point of no return.
pub(crate) async fn commit(
    warden: &Warden,
    authorized: &Authorized<Order>,
    open: OpenOrder,
    progress: &Progress,
) -> Result<OpenOrder, Denied> {
    let refuse = |code, why: String| Denied::from(authorized.refuse(authorized.get().kind(), code, why));
    let _ = progress.try_send(OrderState::Verified);
    let nonce = &authorized.get().nonce;
    // Also the test for a full disk, while refusing still costs nothing. Two copies of one order may have
    // come this far, and the slower one must not write over how far the other has come: asked under the lock.
    hold::before(Point::Verified).await;
    let written = warden.with_ledger(|_, ledger| match ledger.replayed(nonce, authorized.op()) {
        Some(why) => Ok(Some(why)),
        None => ledger.write_open(&open).map(|()| None),
    })?;
    match written {
        Ok(None) => {}
        Ok(Some(why)) => return Err(refuse(RefusalCode::Replay, why)),
        Err(error) => {
            if error.is_of_the_journal() {
                warden.fail(&error);
            }
            return Err(refuse(RefusalCode::Closed, format!("{}; nothing was accepted", chain(&error))));
        }
    }
    hold::at(Point::Verified).await;
    let committed = warden.with_ledger(|_, ledger| match ledger.replayed(nonce, authorized.op()) {
        Some(why) => Ok(Some((RefusalCode::Replay, why))),
        // The policy may have moved on since the signatures were checked.
        None => match ledger.policies().outdated(authorized.get(), authorized.signers()) {
            Some(refused) => ledger.remove_open(authorized.op()).map(|()| Some(refused)),
            None => ledger.commit(authorized, now()).map(|()| None),
        },
    })?;
    match committed {
        Ok(None) => {}
        Ok(Some((code, why))) => return Err(refuse(code, why)),
        // The order's file says VERIFIED and its nonce is free: it goes when the order comes again, or at
        // the next start.
        Err(error) if error.burned_nothing() => {
            return Err(refuse(RefusalCode::Closed, format!("{}; nothing was accepted", chain(&error))));
        }
        Err(error) => {
            warden.fail(&error);
            tracing::error!(op = %open.op, "the nonce may be burned; the order was not carried out");
            let why =
                format!("{}; the order was not carried out, and its nonce may be burned", chain(&error));
            return Err(refuse(RefusalCode::Closed, why));
        }
    }
    lock(&warden.plans).book.used(authorized.get());
    let _ = progress.try_send(OrderState::Committed);
    hold::at(Point::Committed).await;
    Ok(open)
}

/// Writes down how far the order has come.
pub(crate) fn write_stage(warden: &Warden, open: &OpenOrder) -> Result<(), String> {
    match warden.with_ledger(|_, ledger| ledger.write_open(open)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(Shut::NotEnrolled) => Err("the host is not enrolled".into()),
        Err(Shut::Closed(_, why)) => Err(why),
    }
}

/// Writes the end down and forgets the order.
pub(crate) async fn finish(warden: &Warden, open: &OpenOrder, order: &Order, outcome: Outcome) -> Written {
    let receipt = log_end(warden, open, order, outcome).await?;
    forget(warden, &open.op);
    Ok(receipt)
}

/// Writes the end down.
pub(crate) async fn log_end(warden: &Warden, open: &OpenOrder, order: &Order, outcome: Outcome) -> Written {
    let (op, kind) = (open.op, order.kind());
    let vmid = order.guest.as_ref().map(|guest| guest.vmid);
    tracing::info!(%op, %kind, vmid = vmid.map(protocol::Vmid::get), %outcome, "order ended");
    let ended = outcome.to_string();
    let (kind, signers) = (Some(kind.as_str().to_owned()), open.signers.clone());
    let event = Event::Order { op, kind, vmid, signers, outcome };
    hold::before(Point::Finished).await;
    match warden.with_ledger(|_, ledger| ledger.append(event, now())) {
        Ok(Ok(receipt)) => {
            hold::at(Point::Finished).await;
            Ok(receipt)
        }
        Ok(Err(error)) => {
            warden.fail(&error);
            Err(unwritten(&ended, &chain(&error)))
        }
        Err(Shut::Closed(_, why)) => Err(unwritten(&ended, &why)),
        Err(Shut::NotEnrolled) => Err("the host is not enrolled".into()),
    }
}

fn unwritten(ended: &str, why: &str) -> String {
    format!("the order ended ({ended}), but that could not be written down: {why}")
}

/// Forgets an order whose end is in the log.
pub(crate) fn forget(warden: &Warden, op: &Sha256) {
    hold::block_before(Point::Forgotten);
    if let Ok(Err(error)) = warden.with_ledger(|_, ledger| ledger.remove_open(op)) {
        // The log says that it ended; the file goes at the next start.
        tracing::warn!(%op, error = %chain(&error), "cannot remove the ended order");
    }
    hold::block_at(Point::Forgotten);
}

fn refusal_event(op: Sha256, refusal: &Refusal) -> Event {
    Event::Order {
        op,
        kind: refusal.kind.map(|kind| kind.as_str().to_owned()),
        vmid: None,
        signers: refusal.signers.clone(),
        outcome: Outcome::Refused { code: refusal.code, why: refusal.safe_why() },
    }
}

/// A signed refusal: in the log once per order when a known operator signed it, else outside.
fn refuse(warden: &Warden, op: Sha256, refusal: &Refusal) -> WardenAnswer {
    tracing::info!(%op, code = %refusal.code, why = refusal.why, "order refused");
    let event = refusal_event(op, refusal);
    let signed = warden.with_ledger(|_, ledger| {
        if refusal.authenticated && !ledger.refusal_logged(&op) {
            ledger.append(event, now())
        } else {
            Ok(ledger.sign(event, now()))
        }
    });
    match signed {
        Ok(Ok(receipt)) => WardenAnswer::Receipt(receipt),
        Ok(Err(error)) => {
            warden.fail(&error);
            refused("disk", chain(&error))
        }
        Err(shut) => shut.answer(),
    }
}

/// An order file that says what no version writes about an order of this kind.
pub(crate) fn unreadable() -> Outcome {
    Outcome::Unknown { upid: None, why: safe("how far the order had come cannot be read any more") }
}

/// Ends an order that a crash interrupted. Changes nothing in the world: Proxmox and the runner are only
/// asked.
pub async fn resume(warden: Arc<Warden>, interrupted: Interrupted) {
    let Interrupted { mut open, logged_committed, ended, session_ready } = interrupted;
    let op = open.op;
    let Ok(order) = open.order() else {
        tracing::error!(%op, "an interrupted order cannot be read by this version; it stays as it is");
        return;
    };
    if ended {
        // Only the runner may not know yet that its part is done.
        return match check::work(&order.params) {
            Work::Privileged => privileged::forget_patiently(&warden, &op).await,
            _ => jobs::forget_patiently(&warden, &op).await,
        };
    }
    tracing::warn!(%op, kind = %order.kind(), "an order was interrupted; finding out what became of it");
    // Nothing else has begun yet: orders come in after the first of these claims.
    let _claim = warden.queue.try_claim(ops::resources(&order), Some(&op)).ok();
    if !logged_committed {
        let logged = warden.with_ledger(|_, ledger| ledger.log_committed(&op, &order, &open.signers, now()));
        if let Ok(Err(error)) = logged {
            return warden.fail(&error);
        }
    }
    let written = match check::work(&order.params) {
        Work::Proxmox => {
            let outcome = proxmox::resume(&warden, &mut open, &order).await;
            finish(&warden, &open, &order, outcome).await
        }
        // No version writes such an order down before it can carry it out.
        Work::Nobody => finish(&warden, &open, &order, unreadable()).await,
        Work::Job(params) => jobs::resume(&warden, &open, &order, params).await,
        Work::Privileged => privileged::resume(&warden, &open, &order).await,
        Work::Session => {
            let outcome = sessions::resume(&warden, &open, session_ready).await;
            finish(&warden, &open, &order, outcome).await
        }
    };
    if let Err(why) = written {
        tracing::error!(%op, %why, "the end of an interrupted order could not be written down");
    }
}
