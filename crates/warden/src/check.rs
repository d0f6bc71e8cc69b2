//! Pure checks of the live world against what was signed ([`authz::world`] does the comparing), and of
//! unsigned steps against the bounds.

use authz::order::{JobParams, Order, Params};
use authz::policy::Bounds;
use authz::world::{self, World, snapshot_free, startable};
use authz::{Kind, RefusalCode};
use protocol::plan::Step;
use protocol::report::Known;

use crate::world::Observed;

pub use authz::world::Refused;

/// Who carries out an order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work<'a> {
    /// This process, by Proxmox's API.
    Guest,
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
        Params::GuestStart(_)
        | Params::GuestTag(_)
        | Params::SnapshotCreate(_)
        | Params::SnapshotRollback(_)
        | Params::SnapshotDelete(_) => Work::Guest,
        Params::JobRun(params) => Work::Job(params),
        Params::SessionOpen(_) => Work::Session,
        Params::BackupCreate(_)
        | Params::GuestGrow(_)
        | Params::GuestCreate(_)
        | Params::TemplateDownload(_)
        | Params::GuestResume(_)
        | Params::GuestShutdown(_)
        | Params::GuestStop(_)
        | Params::GuestReboot(_)
        | Params::GuestSuspend(_)
        | Params::GuestConfig(_)
        | Params::GuestResize(_)
        | Params::DiskMove(_)
        | Params::BackupProtect(_)
        | Params::BackupDelete(_)
        | Params::BackupPrune(_)
        | Params::GuestRestoreOver(_)
        | Params::GuestDestroy(_)
        | Params::DiskDetach(_)
        | Params::VolumeDelete(_)
        | Params::StorageAdd(_)
        | Params::StorageRemove(_)
        | Params::UsbMount(_)
        | Params::UsbUnmount(_)
        | Params::PlanApprove(_)
        | Params::HostRebind(_)
        | Params::LogReanchor(_)
        | Params::AgentUpdate(_)
        | Params::GuestAdopt(_)
        | Params::GuestRelease(_) => Work::Nobody,
    }
}

/// Why an order of a kind is not carried out, whoever signed it.
pub(crate) fn not_yet(kind: Kind) -> Refused {
    (
        RefusalCode::Kind,
        format!("this version's warden does not carry out {kind} yet: the order was not used up"),
    )
}

/// The preconditions of a signed order (`security.md` 2.16, step 14).
pub fn preconditions(order: &Order, seen: &Observed) -> Result<(), Refused> {
    let guest = Known::Known(seen.guest_now());
    world::check(order, &World { guest, ..World::unread("this order needs no more than its guest") })
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
