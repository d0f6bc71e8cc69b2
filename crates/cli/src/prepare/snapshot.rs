//! Snapshots.

use authz::Kind;
use authz::order::{NoParams, Params, Preconditions, RollbackParams, SnapshotParams};
use protocol::SnapshotName;

use super::facts::Guest;
use super::{Parts, PrepareError};

/// What is ordered about a guest's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotWish {
    /// `snapshot.create`
    Create(SnapshotName),
    /// `snapshot.rollback`
    Rollback {
        /// Back to this one.
        snapshot: SnapshotName,
        /// Start the guest afterwards.
        start: bool,
    },
    /// `snapshot.delete`
    Delete(SnapshotName),
}

impl SnapshotWish {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Create(_) => Kind::SnapshotCreate,
            Self::Rollback { .. } => Kind::SnapshotRollback,
            Self::Delete(_) => Kind::SnapshotDelete,
        }
    }

    pub(super) fn parts(&self, guest: &Guest<'_>) -> Result<Parts, PrepareError> {
        let about = |snapshot: &SnapshotName| {
            Ok(Preconditions {
                state: Some(guest.state()?),
                snapshot: Some(guest.snapshot(snapshot)?),
                ..guest.configured()?
            })
        };
        let (params, pre) = match self {
            Self::Create(name) => {
                if guest.has_snapshot(name)? {
                    return Err(PrepareError::SnapshotExists { vmid: guest.vmid, snapshot: name.clone() });
                }
                let params = SnapshotParams { snapshot: name.clone() };
                (Params::SnapshotCreate(params), guest.configured()?)
            }
            Self::Rollback { snapshot, start } => {
                (Params::SnapshotRollback(RollbackParams { start: *start }), about(snapshot)?)
            }
            Self::Delete(snapshot) => (Params::SnapshotDelete(NoParams {}), about(snapshot)?),
        };
        Ok(Parts::of_guest(guest, params, pre))
    }
}
