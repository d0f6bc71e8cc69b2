//! Parameters, typed per kind. Each type is in the module of what it is about; all are closed:
//! no free maps, lists bounded and without duplicates, numbers within a range, strings of a grammar.

mod backup;
mod disk;
mod guest;
mod host;
mod job;
mod options;
mod plan;
mod session;
mod snapshot;
mod storage;
mod usb;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Kind, OrderError};
use crate::canonical::CanonicalError;

pub use backup::{
    BackupDeleteParams, BackupMode, BackupOwner, BackupParams, BackupProtectParams, BackupPruneParams,
    Compression,
};
pub use disk::{DetachParams, GrowParams, MoveParams, VolumeDeleteParams, VolumeOwner};
pub use guest::{
    AdoptParams, Amount, ConfigChange, ConfigParams, CreateParams, DestroyParams, NetParams, NoParams,
    PowerOffParams, RebootParams, ResizeParams, RestoreOverParams, SuspendParams, TagParams, TemplateSource,
};
pub use host::{Arch, Checkpoint, ReanchorParams, RebindParams, UpdateParams};
pub use job::{EnvVar, JobParams, MAX_JOB_S};
pub use options::{ConfigKey, ConfigValue};
pub use plan::ApproveParams;
pub use session::{MAX_FORWARDS, MAX_SESSION_S, MIN_IDLE_S, SessionMode, SessionParams};
pub use snapshot::{RollbackParams, SnapshotParams};
pub use storage::{Backing, ContentType, StorageAddParams, StorageRemoveParams, TemplateParams};
pub use usb::{Filesystem, MountParams, UnmountParams};

/// A field, and what it must be.
pub(crate) type Wrong = (&'static str, &'static str);

/// What parsing alone does not show.
trait Checked: Serialize + DeserializeOwned {
    /// Ranges, bounds and duplicates.
    fn check(&self) -> Result<(), Wrong> {
        Ok(())
    }
}

/// Declares the kinds that are orders, each with its parameters' type.
macro_rules! params {
    ($($(#[$doc:meta])* $variant:ident($type:ident);)*) => {
        /// Parameters, typed per kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Params {
            $($(#[$doc])* $variant($type),)*
        }

        impl Params {
            /// The kind that these belong to.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$variant(_) => Kind::$variant),* }
            }

            pub(super) fn check(&self) -> Result<(), Wrong> {
                match self { $(Self::$variant(params) => params.check()),* }
            }

            pub(super) fn parse(kind: Kind, json: &str) -> Result<Self, OrderError> {
                match kind {
                    $(Kind::$variant => typed(json).map(Self::$variant),)*
                    Kind::PolicyUpdate => Err(OrderError::NotAnOrder { kind, how: "writ policy apply" }),
                    Kind::KeyRevoke => Err(OrderError::NotAnOrder { kind, how: "writ policy revoke" }),
                }
            }

            pub(super) fn to_raw(&self) -> Box<RawValue> {
                match self { $(Self::$variant(params) => serde_json::value::to_raw_value(params)),* }
                    .expect("parameters hold only strings, numbers, booleans, lists and structs")
            }
        }
    };
}

params! {
    /// `guest.start`
    GuestStart(NoParams);
    /// `snapshot.create`
    SnapshotCreate(SnapshotParams);
    /// `backup.create`
    BackupCreate(BackupParams);
    /// `guest.tag`
    GuestTag(TagParams);
    /// `guest.grow`: one disk, larger.
    GuestGrow(GrowParams);
    /// `guest.create`: from a pinned template only.
    GuestCreate(CreateParams);
    /// `template.download`
    TemplateDownload(TemplateParams);
    /// `guest.resume`: a paused or suspended guest goes on.
    GuestResume(NoParams);
    /// `guest.shutdown`: asks the guest.
    GuestShutdown(PowerOffParams);
    /// `guest.stop`: pulls the plug.
    GuestStop(NoParams);
    /// `guest.reboot`
    GuestReboot(RebootParams);
    /// `guest.suspend`
    GuestSuspend(SuspendParams);
    /// `backup.protect`: from deletion and pruning, or no longer.
    BackupProtect(BackupProtectParams);
    /// `guest.config`
    GuestConfig(ConfigParams);
    /// `guest.resize`: processors and memory.
    GuestResize(ResizeParams);
    /// `disk.move`
    DiskMove(MoveParams);
    /// `snapshot.rollback`: back to the snapshot named in the preconditions.
    SnapshotRollback(RollbackParams);
    /// `snapshot.delete`: the snapshot named in the preconditions.
    SnapshotDelete(NoParams);
    /// `backup.delete`
    BackupDelete(BackupDeleteParams);
    /// `backup.prune`
    BackupPrune(BackupPruneParams);
    /// `guest.restore_over`
    GuestRestoreOver(RestoreOverParams);
    /// `guest.destroy`
    GuestDestroy(DestroyParams);
    /// `disk.detach`
    DiskDetach(DetachParams);
    /// `volume.delete`
    VolumeDelete(VolumeDeleteParams);
    /// `storage.add`
    StorageAdd(StorageAddParams);
    /// `storage.remove`: from Proxmox's configuration; no data goes.
    StorageRemove(StorageRemoveParams);
    /// `usb.mount`
    UsbMount(MountParams);
    /// `usb.unmount`
    UsbUnmount(UnmountParams);
    /// `plan.approve`
    PlanApprove(ApproveParams);
    /// `job.run`
    JobRun(JobParams);
    /// `session.open`
    SessionOpen(SessionParams);
    /// `host.rebind`
    HostRebind(RebindParams);
    /// `log.reanchor`
    LogReanchor(ReanchorParams);
    /// `agent.update`
    AgentUpdate(UpdateParams);
    /// `guest.adopt`
    GuestAdopt(AdoptParams);
    /// `guest.release`
    GuestRelease(NoParams);
}

fn typed<T: Checked>(json: &str) -> Result<T, OrderError> {
    serde_json::from_str(json).map_err(|error| {
        let detail = format!("params: {}", protocol::text::printable(&error.to_string()));
        CanonicalError::Malformed { what: "order", detail }.into()
    })
}

/// `fits`, or what is wrong.
fn demand(fits: bool, field: &'static str, allowed: &'static str) -> Result<(), Wrong> {
    if fits { Ok(()) } else { Err((field, allowed)) }
}

/// Whether each item stands once.
fn each_once<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}
