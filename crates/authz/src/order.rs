//! Orders: what an operator signs. One JSON object, one spelling (`security.md` 2.1, 2.2).
//!
//! The payload has its final shape. Of the closed list of kinds ([`Kind`]) those in [`Params`] can
//! be carried out so far; the others are recognised and refused by name.
//!
//! | module | holds |
//! |---|---|
//! | [`kind`] | the closed list: name, namespace, class, binding |
//! | [`params`] | what each kind needs to know |

pub mod kind;
pub mod params;

use protocol::text::SafeText;
use protocol::{Fingerprint, GuestRef, HostId, HostName, Nonce, RunState, Sha256, SnapshotRef};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::canonical::{self, CanonicalError, MAX_INTEGER};

pub use kind::{Binding, Class, Kind};
pub use params::{
    EnvVar, JobParams, MAX_FORWARDS, MAX_JOB_S, MAX_SESSION_S, MIN_IDLE_S, NoParams, Params, RollbackParams,
    SessionMode, SessionParams, SnapshotParams, TagParams,
};

/// Why a payload is not an order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Not the JSON, or not the one spelling.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// A kind outside the closed list.
    #[error("there is no order kind {0:?}: see the list in `writ op --help`")]
    NoSuchKind(String),
    /// In the list, not built.
    #[error("orders of kind {0} cannot be carried out by this version yet")]
    NotBuilt(Kind),
    /// A number above 2^53 (V19).
    #[error("the number in field {0} is above 2^53")]
    TooLarge(&'static str),
    /// Not version 1.
    #[error("order format version {0} is not supported: this version reads 1")]
    Version(u32),
    /// A number or a list outside what the kind allows.
    #[error("{field} of an order of kind {kind} must be {allowed}: prepare it again")]
    Range {
        /// The kind.
        kind: Kind,
        /// The field.
        field: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A kind that is about the host names a guest.
    #[error("an order of kind {0} is about the host: it must name no guest and no guest's state")]
    NoGuest(Kind),
    /// A precondition that this kind needs is absent. There is no optional safety.
    #[error("an order of kind {kind} must state {missing}: prepare it with `writ op`")]
    Precondition {
        /// The kind.
        kind: Kind,
        /// The absent field.
        missing: &'static str,
    },
}

/// The host that an order is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRef {
    /// Its id.
    pub id: HostId,
    /// Its key.
    pub key: Fingerprint,
    /// Which of its keys: orders for an older key are dead.
    #[serde(rename = "gen")]
    pub generation: u32,
    /// Cluster id; null for a single node. (Clusters are not built: must be null.)
    pub cluster: Option<String>,
    /// The operators' name for it; for display only.
    pub name: HostName,
}

/// The world as the signer saw it. The warden reads it again and refuses on any difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preconditions {
    /// Whether the guest runs.
    pub state: Option<RunState>,
    /// Proxmox's digest of the whole configuration.
    pub digest: Option<String>,
    /// The snapshot: name, time and parent.
    pub snapshot: Option<SnapshotRef>,
}

/// The plan that the signer approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRef {
    /// SHA-256 of the plan's bytes.
    pub sha256: Sha256,
    /// The warden's random challenge in it, kept only in its memory.
    pub challenge: Sha256,
}

/// A place in the host's log that must be there (`security.md` 2.9, anchor C).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogAnchor {
    /// Entries that the signer knows of.
    pub size: u64,
    /// Hash of the last of them.
    pub head: Sha256,
    /// The log must have exactly this size.
    pub strict: bool,
}

/// The policy that the signer saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// Its version.
    pub version: u64,
    /// Its hash.
    pub sha256: Sha256,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is to be done.
    pub params: Params,
    /// Where.
    pub host: HostRef,
    /// To which guest; none for what is done to the host itself.
    pub guest: Option<GuestRef>,
    /// In which state of the world.
    pub pre: Preconditions,
    /// Bound to a plan, or standing.
    pub plan: Option<PlanRef>,
    /// Usable once.
    pub nonce: Nonce,
    /// Not before, unix seconds.
    pub nbf: u64,
    /// Not after, unix seconds.
    pub exp: u64,
    /// Where the host's log must have come.
    pub after: Option<LogAnchor>,
    /// Under which policy.
    pub policy: PolicyRef,
    /// At least so many signers; can raise the policy's threshold, never lower it.
    pub min_signers: u32,
    /// Why, for people.
    pub reason: SafeText,
    /// A ticket, for people.
    pub ticket: Option<SafeText>,
}

/// The order as it is spelled: fields in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled {
    v: u32,
    kind: String,
    params: Box<RawValue>,
    host: HostRef,
    guest: Option<GuestRef>,
    pre: Preconditions,
    plan: Option<PlanRef>,
    nonce: Nonce,
    nbf: u64,
    exp: u64,
    after: Option<LogAnchor>,
    policy: PolicyRef,
    min_signers: u32,
    reason: SafeText,
    ticket: Option<SafeText>,
}

impl Order {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.params.kind()
    }

    /// The bytes to sign.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            params,
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
        } = self.clone();
        canonical::encode(&Spelled {
            v: 1,
            kind: params.kind().as_str().to_owned(),
            params: params.to_raw(),
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
        })
    }

    /// Parses bytes that are already known to be signed (rule V17), with `encode(parse(x)) == x`.
    pub fn decode(bytes: &[u8]) -> Result<Self, OrderError> {
        let spelled: Spelled = canonical::decode("order", bytes)?;
        if spelled.v != 1 {
            return Err(OrderError::Version(spelled.v));
        }
        let kind: Kind = spelled.kind.parse()?;
        for (number, field) in [
            (spelled.nbf, "nbf"),
            (spelled.exp, "exp"),
            (spelled.policy.version, "policy.version"),
            (spelled.after.as_ref().map_or(0, |after| after.size), "after.size"),
            (spelled.pre.snapshot.as_ref().map_or(0, |snapshot| snapshot.time), "pre.snapshot.time"),
            (
                spelled.guest.as_ref().and_then(|guest| guest.identity.meta_ctime).unwrap_or(0),
                "guest.identity.meta_ctime",
            ),
        ] {
            if number > MAX_INTEGER {
                return Err(OrderError::TooLarge(field));
            }
        }
        let params = Params::parse(kind, spelled.params.get())?;
        let Spelled {
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
            ..
        } = spelled;
        let order = Self {
            params,
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
        };
        order.check_preconditions()?;
        // The parameters were raw until now: their spelling counts too.
        if order.encode() == bytes { Ok(order) } else { Err(CanonicalError::NotCanonical.into()) }
    }

    fn check_preconditions(&self) -> Result<(), OrderError> {
        self.params.check()?;
        let kind = self.kind();
        let missing = |missing| Err(OrderError::Precondition { kind, missing });
        let Some(guest) = &self.guest else {
            return match self.params {
                Params::JobRun(_) | Params::SessionOpen(_) if self.pre == Preconditions::default() => Ok(()),
                Params::JobRun(_) | Params::SessionOpen(_) => Err(OrderError::NoGuest(kind)),
                Params::GuestStart(_)
                | Params::GuestTag(_)
                | Params::SnapshotCreate(_)
                | Params::SnapshotRollback(_)
                | Params::SnapshotDelete(_) => missing("guest"),
            };
        };
        if guest.identity.is_empty() {
            return missing("guest.identity (a UUID, MAC addresses or volumes)");
        }
        if guest.identity.giid.is_some() {
            return missing("guest.identity without giid (instance ids are not built yet)");
        }
        match self.params {
            Params::SnapshotRollback(_) | Params::SnapshotDelete(_) => {
                if self.pre.state.is_none_or(|state| state == RunState::Unknown) {
                    return missing("pre.state");
                }
                if self.pre.digest.is_none() {
                    return missing("pre.digest");
                }
                if self.pre.snapshot.is_none() {
                    return missing("pre.snapshot (name, time and parent)");
                }
            }
            Params::GuestTag(_) => {
                if self.pre.digest.is_none() {
                    return missing("pre.digest");
                }
            }
            Params::JobRun(_) | Params::SessionOpen(_) => return Err(OrderError::NoGuest(kind)),
            Params::GuestStart(_) | Params::SnapshotCreate(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
