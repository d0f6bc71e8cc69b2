//! VMIDs are used again. Between plan, signature and each moment of the execution what an order means is
//! replaced by another one of the same name: a guest of the same number, name and snapshots, another backup
//! under the name of the first, somebody else's guest under the number of a new one. Nothing happens to that
//! one.

use std::cell::{Cell, RefCell};

use authz::{Outcome, RefusalCode};
use protocol::frame::OrderState;
use pve_sim::world::{FaultRule, Mishap, World};

use crate::bulk::taken_numbers;
use crate::kinds::{Row, Twin, all};
use crate::rig::{Rig, code, each};
use crate::shape::{self, differing, exact, volumes};

/// When it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// After the operator looked, before the plan is asked for.
    Looked,
    /// After the plan, before the signature.
    Planned,
    /// After the signature, before the order is sent.
    Signed,
    /// All checks are passed, the nonce is about to be burned.
    Verified,
    /// The nonce is burned.
    Committed,
    /// STARTING is written, the call is about to be made: the first one, or one after so many.
    Starting(usize),
    /// After the last look, with the call itself: the gap that Proxmox leaves where it has no compare-and-set.
    /// Of guests only; the simulator replaces nothing else at a request.
    Called,
}

impl Moment {
    fn of(row: &Row) -> Vec<Self> {
        if matches!(row.twin, Twin::Made { .. }) {
            return (1..row.calls).map(Self::Starting).collect();
        }
        let mut all = vec![Self::Looked, Self::Planned, Self::Signed, Self::Verified, Self::Committed];
        all.extend((0..row.calls).map(Self::Starting));
        all.extend(matches!(row.twin, Twin::Guest).then_some(Self::Called));
        all
    }
}

async fn try_out(row: &Row) -> Vec<String> {
    let rig = Rig::start().await;
    rig.change(|world| (row.set_up)(world, rig.sim.now()));
    let saved = rig.save();
    let mut wrong = Vec::new();
    for moment in Moment::of(row) {
        rig.restore(&saved);
        let told = try_at(&rig, row, moment, &saved).await;
        wrong.extend(told.err().map(|why| format!("{} at {moment:?}: {why}", row.name)));
    }
    rig.at_rest();
    wrong
}

async fn try_at(rig: &Rig, row: &Row, moment: Moment, saved: &World) -> Result<(), String> {
    let guest = matches!(row.twin, Twin::Guest);
    let draft = rig.draft(row).await;
    // The planner's own looks count as well.
    let since = rig.sim.request_count();
    // The twin as it must stay.
    let replaced = RefCell::new(None);
    let replace_at = |now: Moment| {
        if now == moment {
            rig.replace(row);
            *replaced.borrow_mut() = Some(rig.save());
        }
    };
    replace_at(Moment::Looked);
    let order = match rig.planned(draft).await {
        Ok(order) => order,
        Err(why) if moment == Moment::Looked && (!guest || why.contains("is not the one that was meant")) => {
            return Ok(());
        }
        Err(why) => return Err(format!("no plan: {why}")),
    };
    replace_at(Moment::Planned);
    let envelope = rig.sign(&order);
    replace_at(Moment::Signed);
    if moment == Moment::Called {
        for method in ["POST", "PUT", "DELETE"] {
            let rule = FaultRule::new(Mishap::ReplaceGuest { vmid: Some(row.vmid) });
            rig.sim.fault(rule.method(method)).unwrap();
        }
    }
    let calls = Cell::new(0);
    let outcome = rig
        .submit_with(&envelope, |state| match state {
            OrderState::Verified => replace_at(Moment::Verified),
            OrderState::Committed => replace_at(Moment::Committed),
            OrderState::Starting => {
                replace_at(Moment::Starting(calls.get()));
                calls.set(calls.get() + 1);
            }
            _ => {}
        })
        .await;
    let sent = rig.mutations(since);
    let now = rig.save();
    let before = match (moment, replaced.into_inner()) {
        (Moment::Called, _) => return called(row, &outcome, saved, &now),
        (_, Some(before)) => before,
        (_, None) => return Err(format!("that moment never came: {outcome}")),
    };
    let lines = match row.twin {
        Twin::Guest => format!("guest {} ", row.vmid),
        Twin::Other { lines, .. } | Twin::Made { lines, .. } => lines.to_owned(),
    };
    let mut touched = differing(&exact(&before, &before), &exact(&now, &before));
    touched.retain(|line| line.starts_with(&lines));
    if !touched.is_empty() {
        return Err(format!("the twin was touched: {touched:?}; sent {sent:?}: {outcome}"));
    }
    match moment {
        // What is left to do may be about something else; if it is not, it was not done.
        Moment::Starting(made) if made > 0 => {
            let gone: Vec<_> = volumes(&before).difference(&volumes(&now)).cloned().collect();
            match (&outcome, gone.is_empty()) {
                (Outcome::Done { .. } | Outcome::Warnings { .. } | Outcome::Failed { .. }, true) => Ok(()),
                _ => Err(format!("{outcome}; gone {gone:?}; sent {sent:?}")),
            }
        }
        _ if !sent.is_empty() => Err(format!("sent {sent:?}: {outcome}")),
        _ if shape::shape(&now) != shape::shape(&before) => Err("something changed".to_owned()),
        Moment::Looked | Moment::Planned | Moment::Signed => match code(&outcome) {
            Some(RefusalCode::GuestIdentity | RefusalCode::Plan) if guest => Ok(()),
            Some(_) if !guest => Ok(()),
            // Some things only the last look sees.
            None if !guest && matches!(outcome, Outcome::Aborted { .. }) => Ok(()),
            _ => Err(format!("not refused: {outcome}")),
        },
        _ => match &outcome {
            Outcome::Aborted { why } if !guest || why.as_str().contains("is not the one that was meant") => {
                Ok(())
            }
            other => Err(format!("not aborted: {other}")),
        },
    }
}

/// What becomes of a guest that was replaced with the call itself.
fn called(row: &Row, outcome: &Outcome, saved: &World, now: &World) -> Result<(), String> {
    if row.compare_and_set {
        // Proxmox refuses what was decided on another configuration; to stop a guest, which comes before its
        // end, it compares nothing, and the receipt says what happened.
        let gone: Vec<_> = volumes(saved).difference(&volumes(now)).cloned().collect();
        return match outcome {
            Outcome::Failed { .. } | Outcome::Unknown { .. }
                if gone.is_empty() && now.guests.contains_key(&row.vmid) =>
            {
                Ok(())
            }
            other => Err(format!("not refused by Proxmox: {other}; gone {gone:?}")),
        };
    }
    // It has happened, and cannot be hidden: the receipt must not call it done. (A container that is
    // rolled back has the snapshot's devices, and nothing else to be known by.)
    match outcome {
        Outcome::Done { seen, .. } if seen.as_str().contains("are not those that were signed") => Ok(()),
        Outcome::Done { .. } | Outcome::Warnings { .. } => {
            Err(format!("done to another guest, and the receipt says done: {outcome}"))
        }
        _ => Ok(()),
    }
}

#[test]
fn a_namesake_is_left_alone_at_every_moment() {
    let rows: Vec<_> = all().into_iter().chain(taken_numbers()).collect();
    let wrong = each(&rows, try_out);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
