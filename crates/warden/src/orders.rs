//! A signed order, from envelope to receipt (`security.md` 2.16 and 2.7).
//!
//! Up to COMMITTED nothing has a side effect. From there on the order runs to its end whoever is
//! still listening, and a crash at any point ends in a true receipt or in `unknown`, never in a second
//! call.

use std::sync::Arc;
use std::time::Duration;

use crate::safe;
use authz::receipt::Signer;
use authz::{Authorized, Event, Order, Outcome, Refusal, RefusalCode};
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use protocol::{Envelope, Sha256, Signed};
use proxmox_client::{Delivery, Upid};
use tokio::sync::mpsc;

use crate::act::{End, Mutation, Sent, follow};
use crate::check;
use crate::hold::{self, Point};
use crate::ledger::{Interrupted, OpenOrder, Stage};
use crate::now;
use crate::recover::{Verdict, judge};
use crate::warden::{Claim, Shut, Warden, chain, refused};
use crate::world::{Observed, client_vmid, observe};

/// Who wants to know how far it is; nobody has to listen.
pub type Progress = mpsc::Sender<OrderState>;

/// Verifies and carries out. Spawned by the server, so it does not end with the connection.
pub async fn order(warden: Arc<Warden>, envelope: Envelope, progress: Progress) -> WardenAnswer {
    let op = envelope.id();
    match accept(&warden, &envelope, &progress).await {
        Ok(accepted) => match execute(&warden, accepted, &progress).await {
            Ok(receipt) => WardenAnswer::Receipt(receipt),
            // It ran; "refused" would be a lie.
            Err(why) => WardenAnswer::Unknown { why },
        },
        Err(Denied::Refusal(refusal)) => refuse(&warden, op, &refusal),
        Err(Denied::Shut(Shut::NotEnrolled)) => Shut::NotEnrolled.answer(),
        Err(Denied::Shut(Shut::Closed(identity, why))) => {
            let refusal = Refusal::new(RefusalCode::Closed, why);
            WardenAnswer::Receipt(warden.sign_closed(&identity, refusal_event(op, &refusal)))
        }
    }
}

enum Denied {
    Refusal(Refusal),
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

/// An order whose nonce is burned and which has not been sent.
struct Accepted {
    open: OpenOrder,
    order: Order,
    mutation: Mutation,
    known: std::collections::BTreeSet<String>,
    _claim: Claim,
}

async fn accept(warden: &Arc<Warden>, envelope: &Envelope, progress: &Progress) -> Result<Accepted, Denied> {
    let authorized = warden.with_ledger(|identity, ledger| {
        ledger.with_facts(|host| authz::verify::verify(envelope, &identity.policy, host, now()))
    })??;
    let order = authorized.get();
    let refuse = |code, why: String| Denied::from(authorized.refuse(order.kind(), code, why));

    if let Some(why) = warden.with_ledger(|_, ledger| ledger.replayed(&order.nonce, authorized.op()))? {
        return Err(refuse(RefusalCode::Replay, why));
    }
    let claim = warden.claim(order.guest.vmid).ok_or_else(|| {
        refuse(
            RefusalCode::Busy,
            format!("another change of guest {} is under way: try again", order.guest.vmid),
        )
    })?;
    let mutation = Mutation::of_order(order)
        .ok_or_else(|| refuse(RefusalCode::BadOrder, "the order does not say what it is about".into()))?;
    let seen = observe(&warden.client, order.guest.kind, order.guest.vmid)
        .await
        .map_err(|error| refuse(RefusalCode::Proxmox, format!("the guest could not be read: {error}")))?;
    check::preconditions(order, &seen).map_err(|(code, why)| refuse(code, why))?;
    let known = known_tasks(warden, &mutation).await.map_err(|error| {
        refuse(RefusalCode::Proxmox, format!("the node's tasks could not be read: {error}"))
    })?;
    let _ = progress.try_send(OrderState::Verified);

    let open = OpenOrder::new(&authorized);
    // Also the test for a full disk, while refusing still costs nothing.
    warden
        .with_ledger(|_, ledger| ledger.write_open(&open))?
        .map_err(|error| refuse(RefusalCode::Closed, format!("{}; nothing was accepted", chain(&error))))?;
    hold::at(Point::Verified).await;
    commit(warden, &authorized, &open)?;
    let _ = progress.try_send(OrderState::Committed);
    hold::at(Point::Committed).await;
    Ok(Accepted { open, mutation, known, order: authorized.get().clone(), _claim: claim })
}

/// The point of no return for the nonce.
fn commit(warden: &Warden, authorized: &Authorized<Order>, open: &OpenOrder) -> Result<(), Denied> {
    let committed = warden.with_ledger(|_, ledger| {
        // Asked again under the lock: two copies of one order may have come this far.
        if let Some(why) = ledger.replayed(&authorized.get().nonce, authorized.op()) {
            return Ok(Some(why));
        }
        ledger.commit(authorized, now()).map(|()| None)
    })?;
    match committed {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(authorized.refuse(authorized.get().kind(), RefusalCode::Replay, why).into()),
        Err(error) => {
            warden.fail(&error);
            tracing::error!(op = %open.op, "the nonce may be burned; the order was not carried out");
            let why =
                format!("{}; the order was not carried out, and its nonce may be burned", chain(&error));
            Err(authorized.refuse(authorized.get().kind(), RefusalCode::Closed, why).into())
        }
    }
}

async fn known_tasks(
    warden: &Warden,
    mutation: &Mutation,
) -> Result<std::collections::BTreeSet<String>, proxmox_client::ApiError> {
    Ok(tasks_since(warden, mutation, now().saturating_sub(60))
        .await?
        .iter()
        .map(|u| u.as_str().to_owned())
        .collect())
}

async fn tasks_since(
    warden: &Warden,
    mutation: &Mutation,
    since: u64,
) -> Result<Vec<Upid>, proxmox_client::ApiError> {
    let Some(task_type) = mutation.task_type() else {
        return Ok(Vec::new());
    };
    let client = &warden.client;
    let tasks = client.find_tasks(since, task_type, client_vmid(mutation.vmid), client.identity()).await?;
    Ok(tasks.into_iter().map(|task| task.upid).collect())
}

/// STARTING, the one call, RUNNING, the end. Errors only when the end could not be written down.
async fn execute(warden: &Arc<Warden>, accepted: Accepted, progress: &Progress) -> Result<Signed, String> {
    let Accepted { mut open, order, mutation, known, _claim } = accepted;
    let t0 = now();
    open.stage = Stage::Starting { t0, known: known.clone() };
    if let Err(why) = write_stage(warden, &open) {
        let why = format!("{why}; Proxmox was not called");
        return finish(warden, &open.op, &order, &open.signers, Outcome::Aborted { why: safe(&why) }).await;
    }
    let _ = progress.try_send(OrderState::Starting);
    hold::at(Point::Starting).await;
    // Disks can be slow and operators quick: the guest is looked at once more, right before the call.
    // Proxmox has no compare-and-set for these calls, so a moment remains.
    if let Err(why) = still_so(warden, &order).await {
        let why = format!("{why}; Proxmox was not called");
        return finish(warden, &open.op, &order, &open.signers, Outcome::Aborted { why: safe(&why) }).await;
    }

    let outcome = match mutation.send(&warden.client).await {
        Ok(Sent::Task(upid)) => {
            hold::at(Point::Called).await;
            run_task(warden, &mut open, &mutation, upid, progress).await
        }
        Ok(Sent::Synchronous) => judge_world(warden, &mutation, None).await,
        Err(error) => match error.delivery() {
            Delivery::NotSent => Outcome::Aborted { why: safe(&format!("Proxmox was not reached: {error}")) },
            Delivery::Answered => {
                Outcome::Failed { upid: None, why: safe(&format!("Proxmox refused: {error}")) }
            }
            Delivery::MaybeExecuted => {
                tracing::warn!(op = %open.op, %error, "the answer was lost; looking for the task");
                settle(warden, &mut open, &order, &mutation, &known, t0, progress).await
            }
        },
    };
    finish(warden, &open.op, &order, &open.signers, outcome).await
}

async fn still_so(warden: &Warden, order: &Order) -> Result<(), String> {
    let seen = observe(&warden.client, order.guest.kind, order.guest.vmid)
        .await
        .map_err(|error| format!("the guest could not be read again: {error}"))?;
    check::preconditions(order, &seen).map_err(|(_, why)| why)
}

fn write_stage(warden: &Warden, open: &OpenOrder) -> Result<(), String> {
    match warden.with_ledger(|_, ledger| ledger.write_open(open)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(Shut::NotEnrolled) => Err("the host is not enrolled".into()),
        Err(Shut::Closed(_, why)) => Err(why),
    }
}

async fn run_task(
    warden: &Warden,
    open: &mut OpenOrder,
    mutation: &Mutation,
    upid: Upid,
    progress: &Progress,
) -> Outcome {
    if !mutation.is_my_task(&upid, warden.client.identity()) {
        let why = format!("Proxmox answered with a task that is not ours ({upid})");
        return Outcome::Unknown { upid: Some(upid.to_string()), why: safe(&why) };
    }
    open.stage = Stage::Running { upid: upid.to_string() };
    if let Err(why) = write_stage(warden, open) {
        // It runs; a crash now would find it by STARTING.
        tracing::error!(op = %open.op, %why, "cannot write down that the task runs");
    }
    let _ = progress.try_send(OrderState::Running { upid: upid.to_string() });
    hold::at(Point::Running).await;
    let end = follow(&warden.client, &upid).await;
    end_of_task(warden, mutation, &upid, end).await
}

async fn end_of_task(warden: &Warden, mutation: &Mutation, upid: &Upid, end: End) -> Outcome {
    match end {
        End::Ok => judge_world(warden, mutation, Some((upid, None))).await,
        End::Warnings(count, lines) => {
            judge_world(warden, mutation, Some((upid, Some((count, lines))))).await
        }
        End::Failed(text) => Outcome::Failed { upid: Some(upid.to_string()), why: safe(&text) },
        End::Unknown(why) => {
            let seen = match mutation.look(&warden.client).await {
                Ok(seen) => mutation.judge(&seen).unwrap_or_else(|seen| seen),
                Err(error) => format!("the guest could not be read again: {error}"),
            };
            Outcome::Unknown { upid: Some(upid.to_string()), why: safe(&format!("{why}; now {seen}")) }
        }
    }
}

type TaskResult<'a> = Option<(&'a Upid, Option<(u32, Vec<String>)>)>;

/// Success is what the world shows, not what the task said.
pub(crate) async fn judge_world(warden: &Warden, mutation: &Mutation, task: TaskResult<'_>) -> Outcome {
    let upid = task.as_ref().map(|(upid, _)| upid.to_string());
    let seen = match mutation.look(&warden.client).await {
        Ok(seen) => seen,
        Err(error) => {
            let why = format!("Proxmox says that it is done, but the guest could not be read again: {error}");
            return Outcome::Unknown { upid, why: safe(&why) };
        }
    };
    match (mutation.judge(&seen), task) {
        (Err(seen), _) => {
            Outcome::Unknown { upid, why: safe(&format!("Proxmox says that it is done, but {seen}")) }
        }
        (Ok(seen), Some((upid, Some((count, lines))))) => Outcome::Warnings {
            upid: upid.to_string(),
            count,
            lines: lines.iter().take(10).map(|line| safe(line)).collect(),
            seen: safe(&seen),
        },
        (Ok(seen), _) => Outcome::Done { upid, seen: safe(&seen) },
    }
}

/// The call may or may not have arrived: find out, never call again.
async fn settle(
    warden: &Warden,
    open: &mut OpenOrder,
    order: &Order,
    mutation: &Mutation,
    known: &std::collections::BTreeSet<String>,
    t0: u64,
    progress: &Progress,
) -> Outcome {
    let unknown = |why: String| Outcome::Unknown { upid: None, why: safe(&why) };
    if mutation.task_type().is_none() {
        return match mutation.look(&warden.client).await {
            Ok(seen) => match mutation.judge(&seen) {
                Ok(seen) => Outcome::Done { upid: None, seen: safe(&seen) },
                Err(_) if unchanged(order, &seen) => not_accepted(),
                Err(seen) => unknown(format!("the answer was lost, and now {seen}")),
            },
            Err(error) => unknown(format!("the answer was lost and the guest cannot be read: {error}")),
        };
    }
    loop {
        let found = tasks_since(warden, mutation, t0).await;
        let verdict = match &found {
            Ok(found) => judge(found, known, t0, now()),
            Err(error) => {
                tracing::warn!(op = %open.op, %error, "cannot list tasks yet");
                judge(&[], known, t0, now())
            }
        };
        match verdict {
            Verdict::Adopt(upid) => return run_task(warden, open, mutation, upid, progress).await,
            Verdict::Ask => tokio::time::sleep(Duration::from_secs(2)).await,
            Verdict::Ambiguous(count) => {
                return unknown(format!(
                    "{count} tasks could be the one that this order started: look at the guest"
                ));
            }
            Verdict::NothingStarted => {
                return match (found, mutation.look(&warden.client).await) {
                    (Ok(_), Ok(seen)) if unchanged(order, &seen) => not_accepted(),
                    (Ok(_), Ok(seen)) => {
                        let seen = mutation.judge(&seen).unwrap_or_else(|seen| seen);
                        unknown(format!("no task of it was found, but the guest changed: {seen}"))
                    }
                    (Err(error), _) | (_, Err(error)) => {
                        unknown(format!("the answer was lost and Proxmox cannot be asked: {error}"))
                    }
                };
            }
        }
    }
}

fn not_accepted() -> Outcome {
    Outcome::Aborted { why: safe("Proxmox started no task of it, and the guest is unchanged") }
}

/// The guest is as it was when the order was verified.
fn unchanged(order: &Order, seen: &Observed) -> bool {
    check::preconditions(order, seen).is_ok()
}

/// Writes the end down and forgets the order.
async fn finish(
    warden: &Warden,
    op: &Sha256,
    order: &Order,
    signers: &[Signer],
    outcome: Outcome,
) -> Result<Signed, String> {
    tracing::info!(%op, kind = %order.kind(), vmid = order.guest.vmid.get(), %outcome, "order ended");
    let ended = outcome.to_string();
    let event = Event::Order {
        op: *op,
        kind: Some(order.kind().as_str().to_owned()),
        vmid: Some(order.guest.vmid),
        signers: signers.to_vec(),
        outcome,
    };
    match warden.with_ledger(|_, ledger| ledger.append(event, now())) {
        Ok(Ok(receipt)) => {
            hold::at(Point::Finished).await;
            if let Ok(Err(error)) = warden.with_ledger(|_, ledger| ledger.remove_open(op)) {
                // The log says that it ended; the file goes at the next start.
                tracing::warn!(%op, error = %chain(&error), "cannot remove the ended order");
            }
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

/// Ends an order that a crash interrupted. Never calls Proxmox to change anything.
pub async fn resume(warden: Arc<Warden>, interrupted: Interrupted) {
    let Interrupted { mut open, logged_committed } = interrupted;
    let op = open.op;
    let Ok(order) = open.order() else {
        tracing::error!(%op, "an interrupted order cannot be read by this version; it stays as it is");
        return;
    };
    let claim = warden.claim(order.guest.vmid);
    if !logged_committed {
        let logged = warden.with_ledger(|_, ledger| ledger.log_committed(&op, &order, &open.signers, now()));
        if let Ok(Err(error)) = logged {
            return warden.fail(&error);
        }
    }
    let (silent, _) = mpsc::channel(1);
    let outcome = match (&open.stage, Mutation::of_order(&order)) {
        (Stage::Verified {}, _) => Outcome::Aborted {
            why: safe("the warden ended after the nonce was burned and before Proxmox was called"),
        },
        (_, None) => Outcome::Unknown { upid: None, why: safe("the order cannot be read any more") },
        (Stage::Starting { t0, known }, Some(mutation)) => {
            let (t0, known) = (*t0, known.clone());
            settle(&warden, &mut open, &order, &mutation, &known, t0, &silent).await
        }
        (Stage::Running { upid }, Some(mutation)) => match upid.parse::<Upid>() {
            Ok(upid) => {
                let end = follow(&warden.client, &upid).await;
                end_of_task(&warden, &mutation, &upid, end).await
            }
            Err(_) => {
                Outcome::Unknown { upid: None, why: safe("the task's name was not written down whole") }
            }
        },
    };
    if let Err(why) = finish(&warden, &op, &order, &open.signers, outcome).await {
        tracing::error!(%op, %why, "the end of an interrupted order could not be written down");
    }
    drop(claim);
}
