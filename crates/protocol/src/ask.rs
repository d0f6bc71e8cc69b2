//! Questions that operators ask a host's warden through the hub. They change nothing: how is the world
//! that an order would be about, and what exactly would this order do?

use serde::{Deserialize, Serialize};

use crate::envelope::{Bytes, Envelope, Signed};
use crate::ids::{GuestKind, Vmid};
use crate::refs::{StorageId, VolumeId};

/// Most storages or volumes in one question.
pub const MAX_NAMED: usize = 128;

/// Longest answer in bytes: a world's JSON or a plan's, with its signature. In base64 it fits a frame.
pub const MAX_REPLY: usize = 2 * 1024 * 1024;

/// A question to the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// How is the world now? The answer is not signed: an order that is made from it is compared again.
    Look(Look),
    /// What would this order do?
    Plan {
        /// The order's bytes with `plan` null.
        draft: Bytes,
    },
}

/// Which parts of the world. What is not asked for is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// This guest, whatever its kind.
    pub guest: Option<Vmid>,
    /// Backups of this owner …
    pub owner: Option<Owner>,
    /// … on these storages; none named: on all that keep backups.
    pub storages: Vec<StorageId>,
    /// Volumes apart from a guest's.
    pub volumes: Vec<VolumeId>,
    /// The guest that another is cloned from.
    pub template: Option<Vmid>,
    /// Physical disks, and which filesystems are mounted.
    pub disks: bool,
    /// Storages, and what is behind them.
    pub backing: bool,
    /// Numbers of all guests.
    pub vmids: bool,
}

/// Whose backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The number that the guest has or had.
    pub vmid: Vmid,
    /// What it is or was.
    #[serde(rename = "type")]
    pub kind: GuestKind,
}

/// The warden's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To Look: JSON of `authz::world::World`; what was not asked for or could not be read says so.
    World {
        /// The JSON.
        json: Bytes,
    },
    /// To Plan: signed by the host key.
    Plan {
        /// An `authz::plan::Plan`.
        plan: Signed,
    },
    /// No answer to this question.
    Refused {
        /// A refusal code of `authz`.
        code: String,
        /// Cause and remedy.
        why: String,
    },
}

impl Question {
    /// Whether it is short enough to be passed on: [`Look::is_bounded`], and a draft that could be an order.
    pub fn is_bounded(&self) -> bool {
        match self {
            Self::Look(look) => look.is_bounded(),
            Self::Plan { draft } => (1..=Envelope::MAX_PAYLOAD).contains(&draft.0.len()),
        }
    }
}

impl Reply {
    /// Whether it is short enough to be passed on: [`MAX_REPLY`], and a plan's signature is one.
    pub fn is_bounded(&self) -> bool {
        match self {
            Self::World { json } => json.0.len() <= MAX_REPLY,
            Self::Plan { plan } => plan.payload.0.len() <= MAX_REPLY && plan.sig.len() <= Envelope::MAX_ARMOR,
            Self::Refused { code, why } => code.len() <= 64 && why.len() <= 4096,
        }
    }
}

impl Look {
    /// Whether the lists are within their bounds.
    pub fn is_bounded(&self) -> bool {
        self.storages.len() <= MAX_NAMED && self.volumes.len() <= MAX_NAMED
    }
}
