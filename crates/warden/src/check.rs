//! Pure checks of the live world against what was signed ([`authz::world`] does the comparing). Unsigned
//! steps are [`crate::bounds`]' matter.

use authz::order::{JobParams, Order, Params};
use authz::world::{self, World};
use authz::{Kind, RefusalCode};
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
        | Params::GuestShutdown(_)
        | Params::GuestStop(_)
        | Params::GuestReboot(_)
        | Params::GuestSuspend(_)
        | Params::GuestConfig(_)
        | Params::GuestResize(_)
        | Params::DiskMove(_)
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

#[cfg(test)]
mod tests;
