//! The rules by which a host refuses: one stable code each, in receipts, tests and on every wire.

use std::fmt;

use protocol::text::SafeText;
use serde::{Deserialize, Serialize};

use crate::order::Kind;
use crate::receipt::Signer;

/// Which rule refused. Stable: programs and tests compare these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// V1: too many signatures, or too large.
    Size,
    /// There is no signature at all.
    Unsigned,
    /// V2 to V6, V9: not a well-formed signature.
    Malformed,
    /// V7: signed for another purpose.
    Namespace,
    /// V8: a key type that is not accepted.
    KeyType,
    /// V13: a key that the policy does not know, or not for this purpose.
    UnknownSigner,
    /// V16: a revoked key, CA or certificate.
    Revoked,
    /// V10: the signature does not fit the bytes.
    BadSignature,
    /// V12: a security key that was not touched, or did not ask for its PIN where it must.
    Presence,
    /// V15: a certificate that does not count.
    Certificate,
    /// V18, V19: the signed bytes are not an order in its one spelling.
    BadOrder,
    /// A kind that this version or this policy does not carry out.
    Kind,
    /// The order names another host, host key or cluster.
    OtherHost,
    /// The order names another policy.
    OtherPolicy,
    /// The document is not the next of this host's policy chain.
    Chain,
    /// The word that the policy is still the newest is too old.
    Stale,
    /// The policy protects the guest.
    Protected,
    /// V20: too few signers.
    Threshold,
    /// The kind needs a plan.
    NeedsPlan,
    /// The plan that the order is bound to is unknown, used, too old, or would come out differently now.
    Plan,
    /// The host's clock cannot be trusted, and an order without a plan needs it.
    Clock,
    /// `nbf` lies ahead.
    TooEarly,
    /// `exp` has passed.
    Expired,
    /// `exp - nbf` is longer than the policy allows.
    Validity,
    /// The host's log is not where the signer saw it.
    LogAnchor,
    /// The nonce was used before.
    Replay,
    /// The guest is not the one that was meant.
    GuestIdentity,
    /// The guest or its snapshot is not in the state that was signed.
    Precondition,
    /// The guest is locked, or another change of it is under way.
    Busy,
    /// Outside the policy's bounds for unsigned change.
    Bounds,
    /// Too many unsigned changes within the hour.
    Rate,
    /// Not enough space is known to be free.
    Space,
    /// Proxmox cannot be asked, or does not let us.
    Proxmox,
    /// The script beside the order is missing, cannot be opened, or is not the one that was signed.
    Script,
    /// The account does not exist, or this host cannot run things as it.
    User,
    /// Scripts and sessions are not set up on this host, or its runner does not answer.
    Runner,
    /// What only root can do is not set up on this host, or `writ-privileged` does not answer.
    Privileged,
    /// The operator has as many sessions on this host as one may have.
    Sessions,
    /// The journal is damaged or cannot be written.
    Closed,
    /// The host is not enrolled.
    NotEnrolled,
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The one spelling is serde's.
        f.write_str(serde_json::to_value(self).ok().as_ref().and_then(|v| v.as_str()).unwrap_or("?"))
    }
}

/// A refusal: the rule, and a sentence with cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// Which rule.
    pub code: RefusalCode,
    /// Cause and remedy.
    pub why: String,
    /// Whether a known operator's valid signature was on it: such a refusal belongs in the log.
    pub authenticated: bool,
    /// The kind, if the order could be read.
    pub kind: Option<Kind>,
    /// Whose valid signatures were on it.
    pub signers: Vec<Signer>,
}

impl Refusal {
    /// Before any signature was found valid.
    pub fn new(code: RefusalCode, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), authenticated: false, kind: None, signers: Vec::new() }
    }

    /// The sentence as it may stand in a receipt.
    pub fn safe_why(&self) -> SafeText {
        SafeText::sanitize(&self.why)
    }
}
