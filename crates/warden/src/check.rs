//! Pure checks of the live world against what was signed ([`authz::world`] does the comparing). Unsigned
//! steps are [`crate::bounds`]' matter.

use authz::order::{JobParams, Params, TemplateSource};

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
    /// `writ-privileged`: only root can.
    Privileged,
    /// Nobody in this version.
    Nobody,
}

/// Who carries out an order with these parameters. Asked before the nonce is burned.
pub(crate) fn work(params: &Params) -> Work<'_> {
    match params {
        Params::JobRun(params) => Work::Job(params),
        Params::SessionOpen(_) => Work::Session,
        Params::UsbMount(_) | Params::UsbUnmount(_) => Work::Privileged,
        Params::GuestCreate(params) if matches!(params.template, TemplateSource::Golden { .. }) => {
            Work::Privileged
        }
        Params::PlanApprove(_) | Params::HostRebind(_) | Params::LogReanchor(_) | Params::AgentUpdate(_) => {
            Work::Nobody
        }
        _ => Work::Proxmox,
    }
}

#[cfg(test)]
mod tests;
