//! Orders about guests: the live world is compared with what was signed, Proxmox is called once, and its
//! task is followed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use authz::{Authorized, Order, Outcome, RefusalCode};
use protocol::GuestRef;
use protocol::frame::OrderState;
use proxmox_client::{Delivery, Upid};

use super::{Denied, Progress, Written, commit, finish, fresh, write_stage};
use crate::act::{End, Mutation, Sent, follow};
use crate::check;
use crate::hold::{self, Point};
use crate::ledger::{OpenOrder, Stage};
use crate::recover::{Verdict, judge};
use crate::warden::{Claim, Warden};
use crate::world::{Observed, client_vmid, observe};
use crate::{now, safe};

/// Verifies against the live world and carries out.
pub(super) async fn carry_out(
    warden: &Arc<Warden>,
    authorized: &Authorized<Order>,
    progress: &Progress,
) -> Result<Written, Denied> {
    let accepted = accept(warden, authorized, progress).await?;
    Ok(execute(warden, accepted, progress).await)
}

/// An order whose nonce is burned and which has not been sent.
struct Accepted {
    open: OpenOrder,
    order: Order,
    guest: GuestRef,
    mutation: Mutation,
    known: BTreeSet<String>,
    _claim: Claim,
}

async fn accept(
    warden: &Arc<Warden>,
    authorized: &Authorized<Order>,
    progress: &Progress,
) -> Result<Accepted, Denied> {
    let order = authorized.get();
    let refuse = |code, why: String| Denied::from(authorized.refuse(order.kind(), code, why));
    fresh(warden, authorized)?;
    let nothing = || refuse(RefusalCode::BadOrder, "the order does not say what it is about".into());
    let guest = order.guest.clone().ok_or_else(nothing)?;
    let mutation = Mutation::of_order(order).ok_or_else(nothing)?;
    let claim = warden.claim(guest.vmid).ok_or_else(|| {
        refuse(RefusalCode::Busy, format!("another change of guest {} is under way: try again", guest.vmid))
    })?;
    let seen = observe(&warden.client, guest.kind, guest.vmid)
        .await
        .map_err(|error| refuse(RefusalCode::Proxmox, format!("the guest could not be read: {error}")))?;
    check::preconditions(order, &seen).map_err(|(code, why)| refuse(code, why))?;
    let known = known_tasks(warden, &mutation).await.map_err(|error| {
        refuse(RefusalCode::Proxmox, format!("the node's tasks could not be read: {error}"))
    })?;
    let open = commit(warden, authorized, progress).await?;
    Ok(Accepted { open, guest, mutation, known, order: order.clone(), _claim: claim })
}

async fn known_tasks(
    warden: &Warden,
    mutation: &Mutation,
) -> Result<BTreeSet<String>, proxmox_client::ApiError> {
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
async fn execute(warden: &Warden, accepted: Accepted, progress: &Progress) -> Written {
    let Accepted { mut open, order, guest, mutation, known, _claim } = accepted;
    let t0 = now();
    open.stage = Stage::Starting { t0, known: known.clone() };
    if let Err(why) = write_stage(warden, &open) {
        let why = format!("{why}; Proxmox was not called");
        return finish(warden, &open, &order, Outcome::Aborted { why: safe(&why) }).await;
    }
    let _ = progress.try_send(OrderState::Starting);
    hold::at(Point::Starting).await;
    // Disks can be slow and operators quick: the guest is looked at once more, right before the call.
    // Proxmox has no compare-and-set for these calls, so a moment remains.
    if let Err(why) = still_so(warden, &order, &guest).await {
        let why = format!("{why}; Proxmox was not called");
        return finish(warden, &open, &order, Outcome::Aborted { why: safe(&why) }).await;
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
    finish(warden, &open, &order, outcome).await
}

async fn still_so(warden: &Warden, order: &Order, guest: &GuestRef) -> Result<(), String> {
    let seen = observe(&warden.client, guest.kind, guest.vmid)
        .await
        .map_err(|error| format!("the guest could not be read again: {error}"))?;
    check::preconditions(order, &seen).map_err(|(_, why)| why)
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
    known: &BTreeSet<String>,
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

/// What became of an order that a crash interrupted. Never calls Proxmox to change anything.
pub(super) async fn resume(warden: &Warden, open: &mut OpenOrder, order: &Order) -> Outcome {
    let (silent, _) = tokio::sync::mpsc::channel(1);
    match (open.stage.clone(), Mutation::of_order(order)) {
        (Stage::Verified {}, _) => Outcome::Aborted {
            why: safe("the warden ended after the nonce was burned and before Proxmox was called"),
        },
        (Stage::Starting { t0, known }, Some(mutation)) => {
            settle(warden, open, order, &mutation, &known, t0, &silent).await
        }
        (Stage::Running { upid }, Some(mutation)) => match upid.parse::<Upid>() {
            Ok(upid) => {
                let end = follow(&warden.client, &upid).await;
                end_of_task(warden, &mutation, &upid, end).await
            }
            Err(_) => {
                Outcome::Unknown { upid: None, why: safe("the task's name was not written down whole") }
            }
        },
        (_, None) | (Stage::Handing { .. }, _) => super::unreadable(),
    }
}
