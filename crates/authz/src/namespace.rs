//! One SSHSIG namespace per authority, so that a signature given for one purpose is worth nothing
//! for another. Compared byte for byte (rule V7); a verifier always uses the one it expects.

use serde::{Deserialize, Serialize};

/// The closed list of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Namespace {
    /// Orders about guests, backups and storage.
    #[serde(rename = "op.v1@writ")]
    Op,
    /// Changes of policy, keys and hosts.
    #[serde(rename = "policy.v1@writ")]
    Policy,
    /// Sessions.
    #[serde(rename = "session.v1@writ")]
    Session,
    /// Scripts.
    #[serde(rename = "job.v1@writ")]
    Job,
    /// Operators' statements about hosts.
    #[serde(rename = "enroll.v1@writ")]
    Enroll,
    /// Logins at a hub.
    #[serde(rename = "login.v1@writ")]
    Login,
    /// A host key's receipts. No operator key is ever valid here, and no host key elsewhere.
    #[serde(rename = "receipt.v1@writ")]
    Receipt,
    /// A host key's statement about its device key.
    #[serde(rename = "device.v1@writ")]
    Device,
    /// A host key's plans.
    #[serde(rename = "plan.v1@writ")]
    Plan,
}

impl Namespace {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Op,
        Self::Policy,
        Self::Session,
        Self::Job,
        Self::Enroll,
        Self::Login,
        Self::Receipt,
        Self::Device,
        Self::Plan,
    ];

    /// As it stands in the signed bytes and after `ssh-keygen -Y sign -n`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Op => "op.v1@writ",
            Self::Policy => "policy.v1@writ",
            Self::Session => "session.v1@writ",
            Self::Job => "job.v1@writ",
            Self::Enroll => "enroll.v1@writ",
            Self::Login => "login.v1@writ",
            Self::Receipt => "receipt.v1@writ",
            Self::Device => "device.v1@writ",
            Self::Plan => "plan.v1@writ",
        }
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
