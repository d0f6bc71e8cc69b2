//! VMIDs are used again. Between plan, signature and each moment of the execution the guest is replaced by
//! another one of the same number, name and snapshots: nothing happens to that one.

use authz::{Outcome, RefusalCode};
use protocol::frame::OrderState;
use pve_sim::world::{FaultRule, Mishap};

use crate::kinds::{Row, rows};
use crate::rig::{Rig, code, differences, each, shape};

/// When the guest is replaced.
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
    /// STARTING is written, the call is about to be made.
    Starting,
    /// After the last look, with the call itself: the gap that Proxmox leaves where it has no compare-and-set.
    Called,
}

impl Moment {
    const ALL: [Self; 7] = [
        Self::Looked,
        Self::Planned,
        Self::Signed,
        Self::Verified,
        Self::Committed,
        Self::Starting,
        Self::Called,
    ];

    fn is(self, state: &OrderState) -> bool {
        match state {
            OrderState::Verified => self == Self::Verified,
            OrderState::Committed => self == Self::Committed,
            OrderState::Starting => self == Self::Starting,
            _ => false,
        }
    }
}

async fn try_out(row: &Row) -> Vec<String> {
    let rig = Rig::start().await;
    rig.change(|world| (row.set_up)(world, rig.sim.now()));
    let saved = rig.save();
    let mut wrong = Vec::new();
    for moment in Moment::ALL {
        rig.restore(&saved);
        let told = try_at(&rig, row, moment).await;
        wrong.extend(told.err().map(|why| format!("{} at {moment:?}: {why}", row.name)));
    }
    rig.at_rest();
    wrong
}

/// The namesake as it must stay: what is there once the guest was replaced.
async fn try_at(rig: &Rig, row: &Row, moment: Moment) -> Result<(), String> {
    let draft = rig.draft(row).await;
    // The planner's own looks count as well.
    let since = rig.sim.request_count();
    if moment == Moment::Looked {
        rig.replace(row.vmid);
    }
    let order = match rig.planned(draft).await {
        Ok(order) => order,
        Err(why) if moment == Moment::Looked && why.contains("is not the one that was meant") => {
            return Ok(());
        }
        Err(why) => return Err(format!("no plan: {why}")),
    };
    if moment == Moment::Planned {
        rig.replace(row.vmid);
    }
    let envelope = rig.sign(&order);
    if moment == Moment::Signed {
        rig.replace(row.vmid);
    }
    if moment == Moment::Called {
        for method in ["POST", "PUT", "DELETE"] {
            let rule = FaultRule::new(Mishap::ReplaceGuest { vmid: Some(row.vmid) });
            rig.sim.fault(rule.method(method)).unwrap();
        }
    }
    let replaced = std::cell::RefCell::new(None);
    let outcome = rig
        .submit_with(&envelope, |state| {
            if moment.is(state) {
                rig.replace(row.vmid);
                *replaced.borrow_mut() = Some(shape(&rig.save()));
            }
        })
        .await;
    let sent = rig.mutations(since);
    let before = match moment {
        Moment::Called => {
            if row.compare_and_set {
                // Proxmox refuses what was decided on another configuration.
                return match outcome {
                    Outcome::Failed { .. } => Ok(()),
                    other => Err(format!("not refused by Proxmox: {other}")),
                };
            }
            // It has happened, and cannot be hidden: the receipt must not call it done. (A container that is
            // rolled back has the snapshot's devices, and nothing else to be known by.)
            return match outcome {
                Outcome::Done { ref seen, .. }
                    if seen.as_str().contains("are not those that were signed") =>
                {
                    Ok(())
                }
                Outcome::Done { .. } | Outcome::Warnings { .. } => {
                    Err(format!("done to another guest, and the receipt says done: {outcome}"))
                }
                _ => Ok(()),
            };
        }
        _ => replaced.into_inner(),
    };
    if !sent.is_empty() {
        return Err(format!("sent {sent:?}: {outcome}"));
    }
    if let Some(before) = before {
        let now = shape(&rig.save());
        if now != before {
            return Err(format!("the namesake was touched: {:?}", differences(&before, &now)));
        }
    }
    match moment {
        Moment::Looked | Moment::Planned | Moment::Signed => match code(&outcome) {
            Some(RefusalCode::GuestIdentity | RefusalCode::Plan) => Ok(()),
            _ => Err(format!("not refused: {outcome}")),
        },
        _ => match &outcome {
            Outcome::Aborted { why } if why.as_str().contains("is not the one that was meant") => Ok(()),
            other => Err(format!("not aborted: {other}")),
        },
    }
}

#[test]
fn a_namesake_is_left_alone_at_every_moment() {
    let wrong = each(&rows(), try_out);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
