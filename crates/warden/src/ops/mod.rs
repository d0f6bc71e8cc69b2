//! What an order does to Proxmox, as data: decided before its nonce is burned, written down with it, and
//! carried out by [`crate::exec`] without anything left to decide.
//!
//! | module | of |
//! |---|---|
//! | [`call`] | one call: how it is sent, which task it starts, what the world shows when it is done |
//! | [`effects`] | the sentences of a plan: what will be different, hidden side effects too |
//! | [`rights`] | what the token must be allowed to do for it, asked before a nonce is burned |
//! | [`power`] | start, stop, shutdown, reboot, suspend, resume |
//! | [`snapshot`] | create, rollback, delete |
//! | [`config`] | options of a guest |
//! | [`destroy`] | the end of a guest |
//! | [`backup`] | take, protect, delete |
//! | [`create`], [`settle`] | new guests, and their options |
//! | [`restore`] | guests out of backups |
//! | [`volume`] | volumes that nobody uses |
//! | [`storage`] | storages, and templates on them |
//! | [`disk`] | disks: grow, move, detach |
//!
//! A new operation is a variant of its subject's enum with its four answers (line, task, send, judge), an arm in
//! [`program_of`] and its sentences in [`effects`].

use std::collections::BTreeSet;

use authz::RefusalCode;
use authz::order::{Order, Params, TemplateParams};
use authz::world::{Refused, World};
use protocol::plan::{Effect, Step};
use protocol::refs::{ConfigDigest, StorageId};
use protocol::{GuestKind, RunState, Vmid};
use serde::{Deserialize, Serialize};

pub mod backup;
pub mod call;
pub mod config;
pub mod create;
pub mod destroy;
pub mod disk;
pub mod effects;
pub mod power;
pub mod restore;
pub mod rights;
pub mod settle;
pub mod snapshot;
pub mod storage;
pub mod volume;

pub use call::{Call, Judged, Sent, TaskName};

use crate::world::Observed;

/// A guest by number. Its identity is compared before every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Its number.
    pub vmid: Vmid,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.vmid)
    }
}

/// All calls of an order, in their order. Each is sent at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Of an adoption or release maybe none: the rest of those is written down by the warden itself.
    pub actions: Vec<Action>,
}

/// One call, and how to put things right when a later one does not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The call.
    pub call: Call,
    /// Done, once, when the program ends early after this call: a call that is harmless whenever it comes.
    pub undo: Option<Call>,
    /// Whether the guest must still be the one that was signed right before this call. Not of a guest that the
    /// program itself has just made.
    pub guarded: bool,
}

impl Action {
    /// A call on the order's guest.
    pub fn on_guest(call: Call) -> Self {
        Self { call, undo: None, guarded: true }
    }

    /// A call on something that the program made, or that is no guest.
    pub fn free(call: Call) -> Self {
        Self { call, undo: None, guarded: false }
    }

    /// How to put this one right.
    #[must_use]
    pub fn or_else(mut self, undo: Call) -> Self {
        self.undo = Some(undo);
        self
    }
}

/// What must not be worked on by two orders at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A guest's number, taken or not.
    Guest(Vmid),
    /// A storage that bulk data goes to or comes from: Proxmox serialises that itself, badly.
    Storage(StorageId),
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Guest(vmid) => write!(f, "guest {vmid}"),
            Self::Storage(storage) => write!(f, "storage {storage}"),
        }
    }
}

/// What an order works on. Known from the order alone, so that it can wait before anything is read.
pub fn resources(order: &Order) -> BTreeSet<Resource> {
    let guest = order.guest.as_ref().map(|guest| Resource::Guest(guest.vmid));
    let storage = |storage: &StorageId| Resource::Storage(storage.clone());
    let more: Vec<Resource> = match &order.params {
        Params::BackupCreate(params) => vec![storage(&params.storage)],
        Params::DiskMove(params) => vec![storage(&params.storage), storage(&params.volume.storage())],
        Params::GuestCreate(params) => vec![Resource::Guest(params.vmid), storage(&params.storage)],
        Params::GuestRestoreOver(params) => vec![storage(&params.storage)],
        Params::TemplateDownload(params) => vec![storage(&params.storage)],
        Params::BackupDelete(params) => params
            .remove
            .iter()
            .map(|volume| storage(&volume.storage()))
            .chain([Resource::Guest(params.owner.vmid)])
            .collect(),
        Params::BackupProtect(params) => {
            vec![storage(&params.volume.storage()), Resource::Guest(params.owner.vmid)]
        }
        Params::BackupPrune(params) => vec![storage(&params.storage), Resource::Guest(params.owner.vmid)],
        Params::VolumeDelete(params) => vec![storage(&params.volume.storage())],
        Params::StorageAdd(params) => vec![storage(&params.storage)],
        Params::StorageRemove(params) => vec![storage(&params.storage)],
        _ => Vec::new(),
    };
    guest.into_iter().chain(more).collect()
}

/// What an order does, in the world as it is. Pure; the world has been compared with the order.
///
/// # Errors
/// A refusal: of a kind that this version does not carry out, or of something that would not work.
pub fn program_of(order: &Order, world: &World) -> Result<Program, Refused> {
    let target = || match &order.guest {
        Some(guest) => Ok(Target { kind: guest.kind, vmid: guest.vmid }),
        None => Err((RefusalCode::BadOrder, "the order does not say which guest is meant".to_owned())),
    };
    let one = |call: Call| Ok(Program { actions: vec![Action::on_guest(call)] });
    match &order.params {
        Params::GuestStart(_)
        | Params::GuestShutdown(_)
        | Params::GuestStop(_)
        | Params::GuestReboot(_)
        | Params::GuestResume(_)
        | Params::GuestSuspend(_) => one(power::call(order, target()?)?),
        Params::SnapshotCreate(_) | Params::SnapshotRollback(_) | Params::SnapshotDelete(_) => {
            one(snapshot::call(order, target()?)?)
        }
        Params::GuestTag(_) => one(config::tags(order, target()?)?),
        Params::GuestDestroy(params) => destroy::program(order, params, target()?),
        Params::VolumeDelete(params) => volume::program(order, params, world),
        Params::StorageAdd(params) => Ok(storage::add(params)),
        Params::StorageRemove(params) => Ok(storage::remove(params)),
        Params::TemplateDownload(params) => Ok(storage::template(params)),
        Params::GuestCreate(params) => create::program(params),
        Params::GuestRestoreOver(params) => restore::program_over(order, params, target()?, world),
        Params::BackupCreate(params) => one(backup::create(params, target()?, world)?),
        Params::BackupDelete(_) | Params::BackupPrune(_) | Params::BackupProtect(_) => backup::program(order),
        Params::GuestConfig(_) | Params::GuestResize(_) => one(config::changes(order, target()?)?),
        Params::GuestAdopt(_) | Params::GuestRelease(_) => config::care(order, target()?),
        Params::DiskMove(_) if disk::needs_rest(world) => {
            let why = "Proxmox moves no volume of a container that runs: shut it down first (guest.shutdown)";
            Err((RefusalCode::Precondition, why.to_owned()))
        }
        Params::GuestGrow(_) | Params::DiskMove(_) | Params::DiskDetach(_) => {
            one(disk::call(order, target()?)?)
        }
        _ => Err(not_yet(order)),
    }
}

/// What a program compares the world with afterwards and the order does not say: read together with the world
/// that the program was decided on.
pub fn complete(program: &mut Program, seen: Option<&Observed>) {
    for action in &mut program.actions {
        if let Call::Power(power::PowerCall { to: power::Power::Reboot { was, .. }, .. }) = &mut action.call {
            *was = seen.and_then(|seen| seen.boot);
        }
    }
}

pub use restore::not_put_aside;

/// What an unsigned step works on.
pub fn resources_of_step(step: &Step) -> BTreeSet<Resource> {
    let storage = match step {
        Step::Backup { storage, .. } | Step::TemplateDownload { storage, .. } => Some(storage.clone()),
        Step::CreateFromTemplate(new) => Some(new.storage.clone()),
        _ => None,
    };
    step.vmid().map(Resource::Guest).into_iter().chain(storage.map(Resource::Storage)).collect()
}

/// What an unsigned step does. The bounds have been kept.
///
/// # Errors
/// `bad_order`, of a step that contradicts itself.
pub fn program_of_step(step: &Step, effect: &Effect, seen: Option<&Observed>) -> Result<Program, Refused> {
    let nameless = || (RefusalCode::BadOrder, "the step does not say which guest is meant".to_owned());
    match step {
        Step::TemplateDownload { storage, template, sha256 } => {
            let (storage, template) = (storage.clone(), template.clone());
            return Ok(storage::template(&TemplateParams { storage, template, sha256: *sha256 }));
        }
        Step::CreateFromTemplate(new) => return create::program(&create::unsigned(new)),
        _ => {}
    }
    let guest = step.guest().ok_or_else(nameless)?;
    let target = Target { kind: guest.kind, vmid: guest.vmid };
    let set = |key, value: String, digest: &ConfigDigest| {
        config::set(target, [(key, (!value.is_empty()).then_some(value))], Some(digest.as_str()))
    };
    let call = match step {
        Step::Start { .. } => power::start(target),
        Step::SetTags { digest, tags, .. } => config::set_tags(target, tags, digest),
        Step::SnapshotCreate { snapshot, .. } => snapshot::create(target, snapshot),
        Step::SetCores { digest, cores, .. } => set("cores", cores.get().to_string(), digest),
        Step::SetMemory { digest, memory_mib, .. } => set("memory", memory_mib.get().to_string(), digest),
        Step::SetOnboot { digest, onboot, .. } => set("onboot", u8::from(*onboot).to_string(), digest),
        Step::SetDescription { digest, description, .. } => {
            set("description", description.to_string(), digest)
        }
        Step::Grow { digest, disk, volume, size, .. } => {
            disk::grow(target, disk, volume, (effect.from, size.get()), digest.as_str())
        }
        Step::Backup { storage, .. } => {
            let stopped = seen.is_some_and(|seen| seen.state == RunState::Stopped);
            backup::unsigned(target, storage, stopped)
        }
        Step::TemplateDownload { .. } | Step::CreateFromTemplate(_) => return Err(nameless()),
    };
    Ok(Program { actions: vec![Action::on_guest(call)] })
}

/// Why an order of a kind is not carried out, whoever signed it.
pub fn not_yet(order: &Order) -> Refused {
    let kind = order.kind();
    let why = format!("this version's warden does not carry out {kind} yet: the order was not used up");
    (RefusalCode::Kind, why)
}

/// Whether the guest shows what was signed about its lock, for sentences.
pub(crate) fn lock_of(seen: &Observed) -> String {
    seen.lock.as_ref().map_or(String::new(), |lock| format!(", and the guest is locked ({lock})"))
}
