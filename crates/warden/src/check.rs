//! Pure checks of the live world against what was signed ([`authz::world`] does the comparing), and of
//! unsigned steps against the bounds.

use authz::RefusalCode;
use authz::order::{JobParams, Params};
use authz::policy::Bounds;
use authz::world::{self, snapshot_free, startable};
use protocol::plan::Step;

use crate::world::Observed;

pub use authz::world::Refused;

/// Who carries out an order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work<'a> {
    /// This process, by Proxmox's API.
    Proxmox,
    /// The runner.
    Job(&'a JobParams),
    /// The runner, over a connection of its own.
    Session,
    /// Nobody in this version.
    Nobody,
}

/// Who carries out an order with these parameters. Asked before the nonce is burned.
pub(crate) fn work(params: &Params) -> Work<'_> {
    match params {
        Params::JobRun(params) => Work::Job(params),
        Params::SessionOpen(_) => Work::Session,
        Params::UsbMount(_)
        | Params::UsbUnmount(_)
        | Params::PlanApprove(_)
        | Params::HostRebind(_)
        | Params::LogReanchor(_)
        | Params::AgentUpdate(_) => Work::Nobody,
        _ => Work::Proxmox,
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
    let now = seen.guest_now();
    world::guest(step.guest(), &now)?;
    match step {
        Step::Start { .. } => startable(&now),
        Step::SetTags { digest, .. } if *digest != seen.digest => Err((
            RefusalCode::Precondition,
            "the guest's configuration changed since the step was planned: it will be planned again".into(),
        )),
        Step::SetTags { .. } => Ok(()),
        Step::SnapshotCreate { snapshot, .. } => {
            snapshot_free(snapshot, &now)?;
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
