//! The run state.

use authz::order::{Order, Params};
use protocol::refs::HaState;

use super::{Effects, Subject};

/// True when the order is about this.
pub(super) fn tell(effects: &mut Effects, order: &Order, subject: &Subject<'_>) -> bool {
    let called = &subject.called;
    match &order.params {
        Params::GuestStart(_) => {
            effects.say(format!("{called} is started"));
            effects.say("changes of its configuration that waited for its next start take effect");
        }
        Params::GuestStop(_) => {
            effects.say(format!(
                "{called} is stopped hard, as if its plug were pulled: what it has not written to its disks is lost"
            ));
        }
        Params::GuestShutdown(params) => {
            effects.say(format!("{called} is asked to shut down, and has {} s for it", params.timeout_s));
            effects.say(match params.force {
                true => "when that is not enough it is stopped hard, as if its plug were pulled",
                false => "when that is not enough it goes on running, and the order has failed",
            });
            if managed(order) && !params.force {
                effects.say("a guest under high availability is stopped hard after that time all the same");
            }
        }
        Params::GuestReboot(params) => {
            effects.say(format!(
                "{called} is asked to shut down, and has {} s for it; then it is started again as a new process",
                params.timeout_s
            ));
            effects.say("when that is not enough it goes on running, and the order has failed");
            effects.say("changes of its configuration that waited for its next start take effect");
        }
        Params::GuestSuspend(_) => {
            effects.say(format!(
                "{called} stands still, keeps its memory, and loses it when the host goes down"
            ));
            effects.say("its clock and its connections stand still too");
        }
        Params::GuestResume(_) => {
            effects.say(format!("{called} goes on where it was suspended, its clock behind by that time"));
        }
        _ => return false,
    }
    if managed(order) {
        effects.say(match order.params {
            Params::GuestStop(_) | Params::GuestShutdown(_) => {
                "the wish is filed with high availability, which keeps the guest stopped from then on"
            }
            _ => "high availability carries it out, or undoes it, in its own time",
        });
    }
    effects.managed(order);
    true
}

fn managed(order: &Order) -> bool {
    order.pre.ha.is_some_and(|ha| matches!(ha, HaState::Started | HaState::Stopped | HaState::Disabled))
}
