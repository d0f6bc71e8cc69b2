//! Orders that are bound to a plan of the host's: which need one, until when it can be used, whether a plan
//! belongs to an order, and how it reads. Pure.

use authz::order::Binding;
use authz::plan::{LIFE_S, Plan, PlanError};
use authz::{Kind, Order, Policy, PublicKey};
use protocol::text::printable;
use protocol::{HostName, Sha256, Signed};

use crate::text::{fields, span, utc};

/// Why a plan is not used.
#[derive(Debug, thiserror::Error)]
pub enum PlannedError {
    /// Not the host's word about this order.
    #[error("{error}")]
    Plan {
        /// What exactly.
        error: PlanError,
    },
    /// A genuine plan for this order, but another one than the order names.
    #[error("the order is bound to plan {named}, and this is plan {found}: prepare the order again")]
    OtherPlan {
        /// By the order.
        named: Sha256,
        /// Of the plan.
        found: Sha256,
    },
    /// There is a plan, and the order is bound to none.
    #[error("the order is bound to no plan: this one belongs to another order")]
    Unbound,
    /// By another key than the order's.
    #[error(
        "the plan is of host key generation {found}, the order is for generation {expected}: see `writ hosts`"
    )]
    Generation {
        /// Of the order.
        expected: u32,
        /// Of the plan.
        found: u32,
    },
    /// The host lost a part of its log.
    #[error(
        "the host made its plan with {found} entries in its log, and this machine knows of {known}: its history was rolled back; see `writ audit verify`"
    )]
    RolledBack {
        /// Known here.
        known: u64,
        /// In the plan.
        found: u64,
    },
}

/// Whether the host will take an order of this kind only with a plan, by this policy.
pub fn is_wanted(kind: Kind, policy: &Policy) -> bool {
    let stands = policy.rule(kind).is_some_and(|rule| rule.standing);
    match kind.binding() {
        Binding::None | Binding::Immediate => false,
        Binding::PlanOrStanding | Binding::Standing => !stands,
        Binding::Plan => true,
    }
}

/// Until when an order that is bound to a plan must have reached its host; unix seconds by the clock of the
/// machine that prepared it. The plan was computed later than that, so the host forgets it no earlier.
pub fn deadline(order: &Order) -> u64 {
    order.exp.min(order.nbf.saturating_add(LIFE_S))
}

/// Why it is too late to sign or send an order that is bound to a plan, if it is.
pub fn too_late(order: &Order, now: u64) -> Option<String> {
    let until = deadline(order);
    (order.plan.is_some() && now > until).then(|| {
        format!(
            "the order had to reach its host before {}: the host forgets a plan after {}, so prepare the order again with `writ op`",
            utc(until),
            span(LIFE_S)
        )
    })
}

/// A plan for a draft, when the host's key signed it about exactly this draft. Gives the order that is bound to
/// it, and the plan.
pub fn bind(draft: Order, signed: &Signed, key: &PublicKey) -> Result<(Order, Plan), PlannedError> {
    let (plan, name) =
        Plan::verify(signed, &draft.host.id, key, &draft).map_err(|error| PlannedError::Plan { error })?;
    let expected = draft.host.generation;
    if plan.host_key_gen != expected {
        return Err(PlannedError::Generation { expected, found: plan.host_key_gen });
    }
    if let Some(after) = draft.after.as_ref().filter(|after| plan.log_size < after.size) {
        return Err(PlannedError::RolledBack { known: after.size, found: plan.log_size });
    }
    Ok((Order { plan: Some(name), ..draft }, plan))
}

/// The plan beside an order, when it is the one that the order is bound to and the host's key signed it.
pub fn belongs(order: &Order, signed: &Signed, key: &PublicKey) -> Result<Plan, PlannedError> {
    let Some(named) = order.plan.clone() else { return Err(PlannedError::Unbound) };
    let (bound, plan) = bind(Order { plan: None, ..order.clone() }, signed, key)?;
    match bound.plan {
        Some(found) if found != named => {
            Err(PlannedError::OtherPlan { named: named.sha256, found: found.sha256 })
        }
        _ => Ok(plan),
    }
}

/// The plan as a person reads it: everything that the host says it will do, and how long that holds.
pub fn describe(plan: &Plan, order: &Order, host: &HostName, now: u64) -> String {
    let Plan { effects, calls, time, log_size, boot_id, .. } = plan;
    let mut rows = Vec::new();
    rows.extend(effects.iter().map(|effect| ("effect", printable(effect.as_str()))));
    if effects.is_empty() {
        rows.push(("effect", "none that the host knows of".to_owned()));
    }
    rows.extend(calls.iter().map(|call| ("call", printable(call.as_str()))));
    if calls.is_empty() {
        rows.push(("call", "none".to_owned()));
    }
    rows.push((
        "made",
        format!(
            "{} by the host's clock, at {log_size} log entries, boot {}",
            utc(*time),
            printable(boot_id.as_str())
        ),
    ));
    let until = deadline(order);
    rows.push((
        "use",
        match until.checked_sub(now) {
            Some(left) => format!("sign and submit before {} ({} left), once", utc(until), span(left)),
            None => format!("TOO LATE since {}: prepare the order again", utc(until)),
        },
    ));
    format!("Plan, computed and signed by host '{host}' for exactly this order\n{}", fields(&rows))
}

#[cfg(test)]
mod tests;
