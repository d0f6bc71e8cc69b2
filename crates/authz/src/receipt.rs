//! Receipts: what a host says happened, signed with its host key in `receipt.v1@writ`.
//!
//! Every entry of the host's log is a receipt, and each names the hash of the one before it, so
//! history cannot be rewritten in the middle. An operator's tool prints success only after it has
//! verified one. A refusal of an order that nobody known signed is signed too, but stands outside
//! the chain ([`Receipt::entry`] is none), so that a hub cannot fill the disk with junk orders.

use protocol::plan::Effect;
use protocol::text::SafeText;
use protocol::{Ed25519Key, Fingerprint, HostId, HostName, Sha256, Signed, Vmid};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::keys::PublicKey;
use crate::namespace::Namespace;
use crate::policy::words::Revoked;
use crate::refusal::RefusalCode;
use crate::secret::SecretKey;
use crate::sshsig::{self, SigError};

/// Why a receipt is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Forged, or by another key.
    #[error("the receipt is not signed by the host's key {expected}: do not believe it")]
    Signature {
        /// The key from the operator-signed host statement.
        expected: Fingerprint,
        /// What exactly was wrong.
        #[source]
        source: SigError,
    },
    /// Signed, but not a receipt.
    #[error("the host signed something that is not a receipt: are host and tool of the same version?")]
    Payload(#[source] CanonicalError),
    /// Another host's.
    #[error("the receipt is about host {found}, not about host {expected}: do not believe it")]
    OtherHost {
        /// Asked for.
        expected: HostId,
        /// Found.
        found: HostId,
    },
}

/// One signed statement by a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// 1.
    pub v: u32,
    /// The host.
    pub host: HostId,
    /// Which of its keys signs.
    pub host_key_gen: u32,
    /// The kernel's boot id at that time.
    pub boot_id: String,
    /// By the host's clock, unix seconds.
    pub time: u64,
    /// Place in the log; none outside it.
    pub entry: Option<Entry>,
    /// What happened.
    pub event: Event,
}

/// Place in the host's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// From 0.
    pub seq: u64,
    /// SHA-256 of the payload of the entry before; zeros for the first.
    pub prev: Sha256,
}

/// What a receipt is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The host accepted its first policy.
    Enrolled {
        /// Hash of the policy.
        policy: Sha256,
        /// Its version.
        policy_version: u64,
        /// Fingerprint of the device key that the host vouches for.
        device_key: Fingerprint,
    },
    /// The next policy of the chain is in force.
    PolicyAdvanced {
        /// Its version.
        version: u64,
        /// Its hash.
        sha256: Sha256,
        /// Who signed it.
        signers: Vec<Signer>,
    },
    /// Something counts no more on this host.
    Revoked {
        /// What.
        what: Revoked,
        /// Who signed that.
        signers: Vec<Signer>,
    },
    /// An order's nonce was burned. Written before anything is changed.
    OrderCommitted {
        /// SHA-256 of the payload.
        op: Sha256,
        /// Kind.
        kind: String,
        /// Who signed.
        signers: Vec<Signer>,
    },
    /// The session of an order waits for its one connection. Its end is an [`Event::Order`].
    SessionReady {
        /// SHA-256 of the payload.
        op: Sha256,
        /// The session's SSH host key, made for it alone.
        host_key: Ed25519Key,
    },
    /// An order ended, or was refused.
    Order {
        /// SHA-256 of the payload.
        op: Sha256,
        /// Kind; none when the payload could not be trusted enough to read it.
        kind: Option<String>,
        /// The guest.
        vmid: Option<Vmid>,
        /// Who signed; empty when that is not known.
        signers: Vec<Signer>,
        /// How it ended.
        outcome: Outcome,
    },
    /// An unsigned step passed its checks. Written before anything is changed, so that a crash leaves
    /// a trace and the hourly rate counts it.
    StepStarted {
        /// Of the desired state that asked for it.
        generation: u64,
        /// Kind.
        kind: String,
        /// The guest; none where no guest changes.
        vmid: Option<Vmid>,
        /// The step in words.
        what: SafeText,
        /// Which field in which direction: what rates and reversals are counted from, also after a restart.
        /// Absent in logs of before it existed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect: Option<Effect>,
    },
    /// An unsigned step ended, or was refused.
    Step {
        /// Of the desired state that asked for it.
        generation: u64,
        /// Kind.
        kind: String,
        /// The guest; none where no guest changes.
        vmid: Option<Vmid>,
        /// The step in words.
        what: SafeText,
        /// How it ended.
        outcome: Outcome,
    },
}

impl Event {
    /// For people: what it is about, and what happened to it.
    pub fn words(&self) -> (String, String) {
        let short = |op: &Sha256| op.to_string().chars().take(12).collect::<String>();
        let signers = |by: &[Signer]| match by {
            [] => "nobody known".to_owned(),
            by => by.iter().map(|signer| signer.operator.to_string()).collect::<Vec<_>>().join(", "),
        };
        match self {
            Event::Enrolled { policy_version, policy, .. } => {
                ("enrolled".to_owned(), format!("under policy version {policy_version} ({policy})"))
            }
            Event::PolicyAdvanced { version, sha256, signers: by } => (
                format!("policy version {version}"),
                format!("in force ({sha256}), signed by {}", signers(by)),
            ),
            Event::Revoked { what, signers: by } => {
                ("revocation".to_owned(), format!("{what} counts no more, signed by {}", signers(by)))
            }
            Event::OrderCommitted { op, kind, signers: by } => {
                (format!("order {} {kind}", short(op)), format!("committed, signed by {}", signers(by)))
            }
            Event::SessionReady { op, host_key } => (
                format!("order {} session.open", short(op)),
                format!("the session is open, its SSH host key is {}", host_key.fingerprint()),
            ),
            Event::Order { op, kind, vmid, outcome, .. } => {
                let vmid = vmid.map(|vmid| format!(" {vmid}")).unwrap_or_default();
                (
                    format!("order {} {}{vmid}", short(op), kind.as_deref().unwrap_or("(unread)")),
                    outcome.to_string(),
                )
            }
            Event::StepStarted { generation, what, .. } => {
                (format!("step of generation {generation}: {what}"), "started".to_owned())
            }
            Event::Step { generation, what, outcome, .. } => {
                (format!("step of generation {generation}: {what}"), outcome.to_string())
            }
        }
    }
}

/// Whose signature counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// As the policy names them.
    pub operator: HostName,
    /// With which key.
    pub key: Fingerprint,
}

/// How something ended. Only [`Outcome::Done`], [`Outcome::Warnings`] and [`Outcome::Ran`] are success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// Not accepted; nothing was changed and no nonce burned.
    Refused {
        /// Which rule.
        code: RefusalCode,
        /// Cause and remedy.
        why: SafeText,
    },
    /// Accepted, but nothing was changed.
    Aborted {
        /// Why.
        why: SafeText,
    },
    /// Done, and the world was read again to see that it is so.
    Done {
        /// Proxmox's task, where there was one.
        upid: Option<String>,
        /// What was seen afterwards.
        seen: SafeText,
    },
    /// Done, with warnings by Proxmox.
    Warnings {
        /// Proxmox's task.
        upid: String,
        /// How many.
        count: u32,
        /// Its last lines.
        lines: Vec<SafeText>,
        /// What was seen afterwards.
        seen: SafeText,
    },
    /// The script ran, once, to its end. Exit code and output stand in the sealed result, for whoever holds
    /// the key that the order names.
    Ran {
        /// SHA-256 of the sealed result.
        result: Sha256,
        /// Its size in bytes.
        size: u64,
        /// From start to end, milliseconds.
        duration_ms: u64,
    },
    /// Proxmox says that it failed.
    Failed {
        /// Proxmox's task, where there was one.
        upid: Option<String>,
        /// Its words.
        why: SafeText,
    },
    /// Nobody can say. It will not be tried again without a new order.
    Unknown {
        /// Proxmox's task, where there was one.
        upid: Option<String>,
        /// What is known.
        why: SafeText,
    },
}

impl Outcome {
    /// Whether what was asked for is so.
    pub fn is_success(&self) -> bool {
        match self {
            Self::Done { .. } | Self::Warnings { .. } | Self::Ran { .. } => true,
            Self::Refused { .. } | Self::Aborted { .. } | Self::Failed { .. } | Self::Unknown { .. } => false,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { code, why } => write!(f, "refused ({code}): {why}"),
            Self::Aborted { why } => write!(f, "aborted, nothing changed: {why}"),
            Self::Done { seen, .. } => write!(f, "done: {seen}"),
            Self::Warnings { count, seen, .. } => write!(f, "done with {count} warning(s): {seen}"),
            Self::Ran { size, duration_ms, .. } => {
                let (seconds, tenths) = (duration_ms / 1000, duration_ms % 1000 / 100);
                write!(f, "the script ran for {seconds}.{tenths} s; its result ({size} bytes) is sealed")
            }
            Self::Failed { why, .. } => write!(f, "failed: {why}"),
            Self::Unknown { why, .. } => write!(f, "unknown: {why}"),
        }
    }
}

impl Receipt {
    /// Signs with the host key.
    pub fn sign(&self, key: &SecretKey) -> Signed {
        let payload = canonical::encode(self);
        let sig = key.sign(Namespace::Receipt, &payload);
        Signed { payload: payload.into(), sig }
    }

    /// Believes a receipt only when `key`, the host's key from an operator-signed statement, signed
    /// exactly these bytes and they are about `host`.
    pub fn verify(signed: &Signed, host: &HostId, key: &PublicKey) -> Result<Self, ReceiptError> {
        sshsig::verify(&signed.sig, Namespace::Receipt, &signed.payload.0, key)
            .map_err(|source| ReceiptError::Signature { expected: key.fingerprint(), source })?;
        let receipt: Self = canonical::decode("receipt", &signed.payload.0).map_err(ReceiptError::Payload)?;
        if receipt.host == *host {
            Ok(receipt)
        } else {
            Err(ReceiptError::OtherHost { expected: *host, found: receipt.host })
        }
    }

    /// The order this is the end of, and how it ended.
    pub fn order_outcome(&self) -> Option<(&Sha256, &Outcome)> {
        match &self.event {
            Event::Order { op, outcome, .. } => Some((op, outcome)),
            Event::OrderCommitted { .. }
            | Event::SessionReady { .. }
            | Event::Enrolled { .. }
            | Event::PolicyAdvanced { .. }
            | Event::Revoked { .. }
            | Event::StepStarted { .. }
            | Event::Step { .. } => None,
        }
    }
}
