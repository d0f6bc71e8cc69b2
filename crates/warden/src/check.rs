//! Pure checks of the live world against what was signed, and of unsigned steps against the bounds.

use authz::RefusalCode;
use authz::order::{Order, Params};
use authz::policy::Bounds;
use protocol::plan::Step;
use protocol::{GuestRef, RunState, SnapshotName};

use crate::world::Observed;

/// Why not: the rule and the sentence.
pub type Refused = (RefusalCode, String);

/// The guest is the one that was meant, and nothing else works on it.
pub fn guest(meant: &GuestRef, seen: &Observed) -> Result<(), Refused> {
    if seen.name != meant.name {
        return Err((
            RefusalCode::GuestIdentity,
            format!(
                "guest {} is now called {:?}, not {:?}: it may be another guest",
                meant.vmid, seen.name, meant.name
            ),
        ));
    }
    let differences = meant.identity.differences(&seen.identity);
    if differences == ["vmgenid"] {
        return Err((
            RefusalCode::GuestIdentity,
            format!(
                "guest {} was rolled back, restored or cloned since this was prepared: prepare it again",
                meant.vmid
            ),
        ));
    }
    if !differences.is_empty() {
        return Err((
            RefusalCode::GuestIdentity,
            format!(
                "guest {} is not the one that was meant: {} differ(s) (VMIDs are reused; look at the guest and prepare again)",
                meant.vmid,
                differences.join(", ")
            ),
        ));
    }
    if let Some(lock) = &seen.lock {
        return Err((
            RefusalCode::Busy,
            format!("guest {} is locked ({lock}): wait for that to end, then prepare again", meant.vmid),
        ));
    }
    if !seen.consistent {
        return Err((
            RefusalCode::Busy,
            format!("guest {} was changed while it was read: try again", meant.vmid),
        ));
    }
    Ok(())
}

/// The preconditions of a signed order (`security.md` 2.16, step 14).
pub fn preconditions(order: &Order, seen: &Observed) -> Result<(), Refused> {
    let Some(meant) = &order.guest else {
        return Err((RefusalCode::BadOrder, "the order names no guest".into()));
    };
    guest(meant, seen)?;
    let wrong = |why: String| Err((RefusalCode::Precondition, why));
    if let Some(state) = order.pre.state
        && state != seen.state
    {
        return wrong(format!(
            "the guest was {state} when the order was prepared and is {} now: prepare again",
            seen.state
        ));
    }
    if let Some(digest) = &order.pre.digest
        && *digest != seen.digest
    {
        return wrong("the guest's configuration changed since the order was prepared: prepare again".into());
    }
    if let Some(meant) = &order.pre.snapshot {
        let Some(snapshot) = seen.snapshots.iter().find(|s| s.name == meant.name.as_str()) else {
            return wrong(format!("the guest has no snapshot {}", meant.name));
        };
        if snapshot.snaptime != Some(meant.time) || snapshot.parent != meant.parent {
            return wrong(format!(
                "snapshot {} is another one than was meant (its time or parent differs): prepare again",
                meant.name
            ));
        }
        if let Some(state) = &snapshot.snapstate {
            return wrong(format!("snapshot {} is incomplete ({state}): it cannot be used", meant.name));
        }
    }
    match &order.params {
        Params::GuestStart(_) => startable(seen),
        Params::SnapshotCreate(params) => snapshot_free(&params.snapshot, seen),
        Params::GuestTag(_) | Params::SnapshotRollback(_) | Params::SnapshotDelete(_) => Ok(()),
        Params::JobRun(_) | Params::SessionOpen(_) => {
            Err((RefusalCode::BadOrder, "the order is not about a guest".into()))
        }
    }
}

/// An unsigned step: allowed by the bounds, about the right guest, and sensible now. Space and rate
/// are checked apart.
pub fn step(step: &Step, bounds: &Bounds, seen: &Observed) -> Result<(), Refused> {
    let vmid = step.guest().vmid;
    let bound = |why: String| Err((RefusalCode::Bounds, why));
    if !bounds.allows_guest(vmid) {
        return bound(format!("the policy's bounds do not let unsigned changes touch guest {vmid}"));
    }
    let allowed = match step {
        Step::Start { .. } => bounds.start,
        Step::SetTags { .. } => bounds.tags,
        Step::SnapshotCreate { .. } => bounds.snapshots,
    };
    if !allowed {
        return bound(format!(
            "the policy's bounds do not allow unsigned {}: sign an order for it",
            step.kind()
        ));
    }
    guest(step.guest(), seen)?;
    match step {
        Step::Start { .. } => startable(seen),
        Step::SetTags { digest, .. } if *digest != seen.digest => Err((
            RefusalCode::Precondition,
            "the guest's configuration changed since the step was planned: it will be planned again".into(),
        )),
        Step::SetTags { .. } => Ok(()),
        Step::SnapshotCreate { snapshot, .. } => {
            snapshot_free(snapshot, seen)?;
            if seen.snapshots.len() >= bounds.max_snapshots_per_guest as usize {
                return bound(format!(
                    "guest {vmid} has {} snapshots and the policy's bounds allow {}: delete one first",
                    seen.snapshots.len(),
                    bounds.max_snapshots_per_guest
                ));
            }
            Ok(())
        }
    }
}

fn startable(seen: &Observed) -> Result<(), Refused> {
    match seen.state {
        RunState::Stopped if !seen.template => Ok(()),
        RunState::Stopped => Err((RefusalCode::Precondition, "a template cannot be started".into())),
        state => Err((RefusalCode::Precondition, format!("the guest is {state}, so it is not started"))),
    }
}

fn snapshot_free(name: &SnapshotName, seen: &Observed) -> Result<(), Refused> {
    if seen.template {
        return Err((RefusalCode::Precondition, "a template cannot have snapshots".into()));
    }
    if seen.snapshots.iter().any(|snapshot| snapshot.name == name.as_str()) {
        return Err((RefusalCode::Precondition, format!("the guest has a snapshot {name} already")));
    }
    Ok(())
}

/// The rate bound: `recent` are the times of unsigned changes, oldest first.
pub fn rate(bounds: &Bounds, recent: &[u64], now: u64) -> Result<(), Refused> {
    let hour = recent.iter().filter(|time| now.saturating_sub(**time) < 3600).count();
    if hour >= bounds.max_changes_per_hour as usize {
        return Err((
            RefusalCode::Rate,
            format!(
                "{hour} unsigned changes within the hour; the policy's bounds allow {}",
                bounds.max_changes_per_hour
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
