//! Plans: what an order would do, computed here, signed by the host key, remembered in memory only
//! (`security.md` 2.4). Anybody who reaches the hub may ask for one; asking changes nothing.

use authz::order::Order;
use authz::plan::{self, Plan, PlanBook};
use authz::world::{Refused, World, config_sha256};
use authz::{Kind, RefusalCode};
use protocol::report::Known;
use protocol::text::SafeText;
use protocol::{Bytes, Sha256, Signed};

use crate::now;
use crate::ops::{self, Program};
use crate::policies::boottime;
use crate::warden::{Shut, Warden, lock};
use crate::world::{self, Wanted};

/// Most plans that are computed within a minute: each costs a dozen calls to Proxmox.
const PER_MINUTE: usize = 30;

/// The plans that this process remembers, and when it made the last ones.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    pub(crate) book: PlanBook,
    /// CLOCK_BOOTTIME, seconds.
    made: std::collections::VecDeque<u64>,
}

impl Plans {
    /// Counts one more, unless there were too many.
    fn count(&mut self, boottime_s: u64) -> Result<(), Refused> {
        self.made.retain(|made| boottime_s.saturating_sub(*made) < 60);
        if self.made.len() >= PER_MINUTE {
            let why = format!("{PER_MINUTE} plans were computed within a minute: wait a little");
            return Err((RefusalCode::Rate, why));
        }
        self.made.push_back(boottime_s);
        Ok(())
    }
}

impl Warden {
    /// Computes, signs and remembers the plan of a draft.
    pub(crate) async fn plan(&self, draft: &Bytes) -> Result<Signed, Refused> {
        lock(&self.plans).count(boottime())?;
        let order = Order::decode_draft(&draft.0)
            .map_err(|error| (RefusalCode::BadOrder, format!("the draft cannot be read: {error}")))?;
        let (seen, program) = self.look_ahead(&order).await?;
        let plan = self.computed(&order, &seen, &program)?;
        let identity = self.identity().map_err(shut)?;
        let signed = plan.sign(&identity.host_key);
        lock(&self.plans).book.remember(plan, &signed);
        Ok(signed)
    }

    /// The world that an order is about, compared with it, and what it would do there.
    async fn look_ahead(&self, order: &Order) -> Result<(World, Program), Refused> {
        let identity = self.identity().map_err(shut)?;
        if order.host.id != identity.host_id {
            let why = format!("the draft is for host {}, and this is {}", order.host.id, identity.host_id);
            return Err((RefusalCode::OtherHost, why));
        }
        if order.kind() == Kind::PlanApprove {
            return Err(ops::not_yet(order));
        }
        let (mut seen, _) = world::read(&self.near(), &Wanted::of_order(order))
            .await
            .map_err(|error| (RefusalCode::Proxmox, format!("the world could not be read: {error}")))?;
        self.recognize(&mut seen, order.guest.as_ref().map(|guest| guest.vmid))?;
        authz::world::check(order, &seen)?;
        self.can_care(order)?;
        let program = ops::program_of(order, &seen)?;
        crate::orders::proxmox::may(self, &program).await?;
        Ok((seen, program))
    }

    /// What is signed. Everything in it follows from the order and the world but the challenge and the times.
    fn computed(&self, order: &Order, seen: &World, program: &Program) -> Result<Plan, Refused> {
        let identity = self.identity().map_err(shut)?;
        let mut challenge = [0; 32];
        getrandom::fill(&mut challenge)
            .map_err(|error| (RefusalCode::Plan, format!("the system gives no random numbers: {error}")))?;
        let (effects, calls) = ops::effects::describe(order, seen, program);
        let config = match &seen.guest {
            Known::Known(guest) => match &guest.config {
                Known::Known(config) => Some(config_sha256(config)),
                Known::Unknown(_) => None,
            },
            Known::Unknown(_) => None,
        };
        Ok(Plan {
            v: 1,
            host: identity.host_id,
            host_key_gen: identity.host_key_gen,
            draft: plan::draft_of(order),
            kind: order.kind(),
            vmid: order.guest.as_ref().map(|guest| guest.vmid),
            effects,
            calls,
            config_sha256: config,
            challenge: Sha256::from_bytes(challenge),
            boot_id: SafeText::sanitize(self.boot_id()),
            boottime_s: boottime(),
            time: now(),
            log_size: self.with_ledger(|_, ledger| ledger.size()).map_err(shut)?,
        })
    }

    /// An order that is bound to a plan would still do exactly what the plan says.
    pub(crate) fn plan_holds(&self, order: &Order, seen: &World, program: &Program) -> Result<(), Refused> {
        if order.plan.is_none() {
            return Ok(());
        }
        let now = self.computed(order, seen, program)?;
        let mut plans = lock(&self.plans);
        let then = plans.book.find(order, boottime())?;
        if then.same_effects(&now) {
            return Ok(());
        }
        let changed = then.effects.iter().zip(&now.effects).find(|(then, now)| then != now);
        let how = changed.map_or_else(String::new, |(then, now)| format!(" (\"{then}\" is now \"{now}\")"));
        // Refused once it stays refused, also when the world goes back: people prepare another order meanwhile.
        plans.book.used(order);
        Err((
            RefusalCode::Plan,
            format!("the order would not do any more what its plan says{how}: prepare the order again"),
        ))
    }
}

fn shut(shut: Shut) -> Refused {
    match shut {
        Shut::NotEnrolled => (RefusalCode::Closed, "this host is not enrolled".to_owned()),
        Shut::Closed(_, why) => (RefusalCode::Closed, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_questions_is_refused_and_passes() {
        let mut plans = Plans::default();
        for at in 0..PER_MINUTE as u64 {
            plans.count(1000 + at / 10).unwrap();
        }
        assert_eq!(plans.count(1003).unwrap_err().0, RefusalCode::Rate);
        plans.count(1060).unwrap();
    }
}
