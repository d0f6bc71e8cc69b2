//! Orders: what an operator signs. One JSON object, one spelling (`security.md` 2.1, 2.2).
//!
//! Every kind of the closed list ([`Kind`]) has typed parameters here ([`Params`]), but two:
//! `policy.update` and `key.revoke` are signed documents for a whole fleet, not orders to one host.
//! Which of them a host carries out is the host's affair.
//!
//! | module | holds |
//! |---|---|
//! | [`kind`] | the closed list: name, namespace, class, binding |
//! | [`params`] | what each kind needs to know |
//! | [`pre`] | the world as the signer saw it, and which of its facts each kind states |

pub mod kind;
pub mod params;
pub mod pre;
mod together;

use protocol::text::SafeText;
use protocol::{Envelope, Fingerprint, GuestRef, HostId, HostName, Nonce, Sha256, Vmid};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::canonical::{self, CanonicalError, MAX_INTEGER};

pub use kind::{Binding, Class, Kind};
pub use params::*;
pub use pre::{MAX_BACKUPS, MAX_REPLICATION, MAX_SNAPSHOTS, MAX_VOLUMES, Need, Needs, Preconditions};

/// Why a payload is not an order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Not the JSON, or not the one spelling.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// A kind outside the closed list.
    #[error("there is no order kind {0:?}: see the list in `writ op --help`")]
    NoSuchKind(String),
    /// In the list, and a document for the whole fleet instead of an order to a host.
    #[error("{kind} is not ordered from one host: it is a signed document of its own, see `{how} --help`")]
    NotAnOrder {
        /// The kind.
        kind: Kind,
        /// The command that makes the document.
        how: &'static str,
    },
    /// A number above 2^53 (V19).
    #[error("the number in field {0} is above 2^53")]
    TooLarge(String),
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
    /// A precondition that this kind does not compare: stating it would look safer than it is.
    #[error("an order of kind {kind} must not state {field}, because nobody would compare it: leave it out")]
    Needless {
        /// The kind.
        kind: Kind,
        /// The field.
        field: &'static str,
    },
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
        Self::read(bytes, false)
    }

    /// Parses a draft, the same way: what a host is asked to compute a plan for. It names no plan, also where
    /// an order of its kind must.
    pub fn decode_draft(bytes: &[u8]) -> Result<Self, OrderError> {
        let draft = Self::read(bytes, true)?;
        match draft.plan {
            None => Ok(draft),
            Some(_) => Err(OrderError::Needless { kind: draft.kind(), field: "plan" }),
        }
    }

    fn read(bytes: &[u8], draft: bool) -> Result<Self, OrderError> {
        // V1: nothing longer is read at all.
        if bytes.len() > Envelope::MAX_PAYLOAD {
            let detail = format!("longer than {} bytes", Envelope::MAX_PAYLOAD);
            return Err(CanonicalError::Malformed { what: "order", detail }.into());
        }
        let spelled: Spelled = canonical::decode("order", bytes)?;
        if spelled.v != 1 {
            return Err(OrderError::Version(spelled.v));
        }
        let kind: Kind = spelled.kind.parse()?;
        let params = Params::parse(kind, spelled.params.get())?;
        // V19, wherever the number stands.
        let value: Value = serde_json::from_slice(bytes).map_err(|_| CanonicalError::NotCanonical)?;
        if let Some(path) = too_large(&value, "") {
            return Err(OrderError::TooLarge(path));
        }
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
        order.check(draft)?;
        // The parameters were raw until now: their spelling counts too.
        if order.encode() == bytes { Ok(order) } else { Err(CanonicalError::NotCanonical.into()) }
    }

    /// The guest that it is about: the order's, or the one whose number is in its parameters.
    pub fn vmid(&self) -> Option<Vmid> {
        match (&self.guest, &self.params) {
            (Some(guest), _) => Some(guest.vmid),
            (None, Params::GuestCreate(params)) => Some(params.vmid),
            (None, Params::BackupDelete(params)) => Some(params.owner.vmid),
            (None, Params::BackupPrune(params)) => Some(params.owner.vmid),
            (None, Params::BackupProtect(params)) => Some(params.owner.vmid),
            (None, Params::VolumeDelete(params)) => match params.owner {
                VolumeOwner::Gone { vmid, .. } => Some(vmid),
                VolumeOwner::Guest {} => None,
            },
            (None, _) => None,
        }
    }

    fn check(&self, draft: bool) -> Result<(), OrderError> {
        let kind = self.kind();
        let wrong = |(field, allowed)| OrderError::Range { kind, field, allowed };
        let missing = |missing| Err(OrderError::Precondition { kind, missing });
        self.params.check().map_err(wrong)?;
        let needs = self.needs();
        match (&self.guest, needs.guest) {
            (None, Need::Must) => return missing("guest"),
            (Some(_), Need::No) => return Err(OrderError::NoGuest(kind)),
            (Some(_), Need::Must | Need::May) | (None, Need::No | Need::May) => {}
        }
        if let Some(guest) = &self.guest {
            if guest.identity.is_empty() {
                return missing("guest.identity (a UUID, MAC addresses or volumes)");
            }
            together::check_guest(guest).map_err(wrong)?;
        }
        let cluster = self.host.cluster.as_deref().unwrap_or_default();
        if cluster.len() > 64 || !cluster.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(wrong(("host.cluster", "at most 64 letters, digits and '-', or null")));
        }
        self.pre.check(kind, &needs)?;
        self.check_together(draft)
    }
}

/// Where a number above 2^53 stands. (As deep as the parser went: at most 128.)
fn too_large(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .is_none_or(|number| number > MAX_INTEGER)
            .then(|| path.trim_start_matches('.').to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| too_large(item, &format!("{path}[{at}]")))
        }
        // Only keys that the typed parser knows are left, so the path is safe to show.
        Value::Object(fields) => {
            fields.iter().find_map(|(key, value)| too_large(value, &format!("{path}.{key}")))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
