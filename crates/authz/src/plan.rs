//! Plans: what an order would do, computed and signed by the host that would do it (`security.md` 2.4).
//!
//! An operator sends a **draft**, the order without its plan. The host reads the world, writes down the exact
//! effects, adds a random challenge that it keeps in its memory only, and signs that. The operator's tool
//! verifies and shows it, and the order that is signed names the plan's hash and the challenge. The host
//! accepts the order only while it remembers the plan, once, within [`LIFE_S`], and only when it would write
//! the same effects down again. A copy of the host's disk knows no plan, so nothing can be replayed to it, and
//! no clock but the kernel's own is needed.

use std::collections::VecDeque;

use protocol::text::SafeText;
use protocol::{HostId, Sha256, Signed, Vmid};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError, MAX_INTEGER};
use crate::keys::PublicKey;
use crate::namespace::Namespace;
use crate::order::{Kind, Order, PlanRef};
use crate::refusal::RefusalCode;
use crate::secret::SecretKey;
use crate::sshsig::{self, SigError};

/// How long a plan can be used, seconds of CLOCK_BOOTTIME.
pub const LIFE_S: u64 = 15 * 60;
/// Most plans that a host remembers.
pub const MAX_LIVE: usize = 32;
/// Most effects and most calls in a plan.
pub const MAX_LINES: usize = 256;

/// What would be done. Everything in it but these is computed again before the order is carried out:
/// `challenge`, `boot_id`, `boottime_s`, `time`, `log_size`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// 1.
    pub v: u32,
    /// The host.
    pub host: HostId,
    /// Which of its keys signs.
    pub host_key_gen: u32,
    /// SHA-256 of the draft: the order's own bytes with `plan` null.
    pub draft: Sha256,
    /// What the order is.
    pub kind: Kind,
    /// To which guest, if any.
    pub vmid: Option<Vmid>,
    /// What will be different afterwards, the side effects that Proxmox does not mention too; a sentence each.
    pub effects: Vec<SafeText>,
    /// The calls that will be made, in order.
    pub calls: Vec<SafeText>,
    /// SHA-256 of the guest's configuration text as it was read; none where there is no guest.
    pub config_sha256: Option<Sha256>,
    /// 256 random bits.
    pub challenge: Sha256,
    /// The kernel's boot id.
    pub boot_id: SafeText,
    /// CLOCK_BOOTTIME, seconds.
    pub boottime_s: u64,
    /// By the host's clock, unix seconds; for people.
    pub time: u64,
    /// Entries in the host's log.
    pub log_size: u64,
}

/// Why a plan is not believed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Forged, or by another key.
    #[error("the plan is not signed by the host's key: do not believe it")]
    Signature(#[source] SigError),
    /// Signed, but not a plan.
    #[error("the host signed something that is not a plan: are host and tool of the same version?")]
    Payload(#[source] CanonicalError),
    /// Another version, or a number or a list beyond its bound.
    #[error("the plan has a {0} that this version does not read: are host and tool of the same version?")]
    Bound(&'static str),
    /// Of another host.
    #[error("the plan is of host {found}, not of host {expected}: do not believe it")]
    OtherHost {
        /// Asked for.
        expected: HostId,
        /// Found.
        found: HostId,
    },
    /// For another order.
    #[error("the plan is for another order: ask again")]
    OtherOrder,
}

/// What an order is without its plan, and its hash.
pub fn draft_of(order: &Order) -> Sha256 {
    Sha256::of(&Order { plan: None, ..order.clone() }.encode())
}

impl Plan {
    /// Signs with the host key.
    pub fn sign(&self, key: &SecretKey) -> Signed {
        let payload = canonical::encode(self);
        let sig = key.sign(Namespace::Plan, &payload);
        Signed { payload: payload.into(), sig }
    }

    /// Believes a plan only when the host's key, from an operator-signed statement, signed exactly these bytes
    /// and they are about this draft. Gives what the order then names.
    pub fn verify(
        signed: &Signed,
        host: &HostId,
        key: &PublicKey,
        draft: &Order,
    ) -> Result<(Self, PlanRef), PlanError> {
        sshsig::verify(&signed.sig, Namespace::Plan, &signed.payload.0, key).map_err(PlanError::Signature)?;
        let plan: Self = canonical::decode("plan", &signed.payload.0).map_err(PlanError::Payload)?;
        let Self { v, effects, calls, boottime_s, time, log_size, .. } = &plan;
        if *v != 1 {
            return Err(PlanError::Bound("version"));
        }
        if effects.len() > MAX_LINES || calls.len() > MAX_LINES {
            return Err(PlanError::Bound("list"));
        }
        if [boottime_s, time, log_size].iter().any(|number| **number > MAX_INTEGER) {
            return Err(PlanError::Bound("number"));
        }
        if plan.host != *host {
            return Err(PlanError::OtherHost { expected: *host, found: plan.host });
        }
        if plan.draft != draft_of(draft) || plan.kind != draft.kind() {
            return Err(PlanError::OtherOrder);
        }
        let name = PlanRef { sha256: Sha256::of(&signed.payload.0), challenge: plan.challenge };
        Ok((plan, name))
    }

    /// The same, apart from what is different each time.
    pub fn same_effects(&self, now: &Self) -> bool {
        let fixed = |plan: &Self| Self {
            challenge: Sha256::from_bytes([0; 32]),
            boot_id: SafeText::default(),
            boottime_s: 0,
            time: 0,
            log_size: 0,
            ..plan.clone()
        };
        fixed(self) == fixed(now)
    }
}

/// A plan that the host remembers.
#[derive(Debug, Clone)]
struct Live {
    sha256: Sha256,
    plan: Plan,
}

/// The plans that the host remembers. In memory only: what a restart or a copy of the disk does not have
/// cannot be replayed there.
#[derive(Debug, Clone, Default)]
pub struct PlanBook {
    live: VecDeque<Live>,
}

impl PlanBook {
    /// Remembers a plan. A newer one about the same guest takes the older one's place, and the oldest goes
    /// when there are more than [`MAX_LIVE`].
    pub fn remember(&mut self, plan: Plan, signed: &Signed) {
        self.live.retain(|live| {
            live.plan.draft != plan.draft && (plan.vmid.is_none() || live.plan.vmid != plan.vmid)
        });
        self.live.push_back(Live { sha256: Sha256::of(&signed.payload.0), plan });
        if self.live.len() > MAX_LIVE {
            self.live.pop_front();
        }
    }

    /// The plan that an order is bound to. `boottime_s` is CLOCK_BOOTTIME now.
    pub fn find(&self, order: &Order, boottime_s: u64) -> Result<&Plan, (RefusalCode, String)> {
        let refuse = |why: &str| Err((RefusalCode::Plan, why.to_owned()));
        let Some(name) = &order.plan else {
            return refuse("the order is bound to no plan");
        };
        let Some(live) = self.live.iter().find(|live| live.sha256 == name.sha256) else {
            return refuse(
                "this host does not remember the plan that the order is bound to: it was used, replaced by a newer one, or lost with a restart; prepare the order again",
            );
        };
        let plan = &live.plan;
        if plan.challenge != name.challenge {
            return refuse("the order names another challenge than its plan: prepare the order again");
        }
        if plan.draft != draft_of(order) {
            return refuse(
                "the order is not the one that the plan was computed for: prepare the order again",
            );
        }
        let age = boottime_s.checked_sub(plan.boottime_s);
        if age.is_none_or(|age| age > LIFE_S) {
            return refuse(
                "the plan that the order is bound to is over 15 minutes old: prepare the order again",
            );
        }
        Ok(plan)
    }

    /// Forgets a plan when its order is accepted: it cannot be used twice.
    pub fn used(&mut self, order: &Order) {
        if let Some(name) = &order.plan {
            self.live.retain(|live| live.sha256 != name.sha256);
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

#[cfg(test)]
mod tests;
