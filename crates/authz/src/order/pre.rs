//! Preconditions: the world as the signer saw it, and which of its facts each kind states.
//!
//! There is no optional safety, both ways. A fact that a kind must state and does not is refused,
//! and so is a fact that would not be compared for that kind: an order never looks safer than it is.

use protocol::refs::{BackupRef, ConfigDigest, DiskRef, HaState, ReplicationId, VolumeRef};
use protocol::{RunState, Sha256, SnapshotRef};
use serde::{Deserialize, Serialize};

use super::params::Wrong;
use super::{Kind, OrderError};

/// The world as the signer saw it. The warden reads it again and refuses on any difference
/// ([`crate::world`]). `null` means "not stated"; an empty list means "there are none".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preconditions {
    /// Whether the guest runs.
    pub state: Option<RunState>,
    /// Proxmox's digest of the whole configuration.
    pub digest: Option<ConfigDigest>,
    /// SHA-256 over the configuration's lines ([`crate::world::config_sha256`]), because the digest is
    /// SHA-1. Wherever a digest is stated this may be stated too.
    pub config_sha256: Option<Sha256>,
    /// The snapshot that the order is about: name, time and parent.
    pub snapshot: Option<SnapshotRef>,
    /// Volumes: of a guest that is destroyed or restored over all of them, else those that the order is
    /// about. At most [`MAX_VOLUMES`].
    pub volumes: Option<Vec<VolumeRef>>,
    /// All snapshots of the guest. At most [`MAX_SNAPSHOTS`].
    pub snapshots: Option<Vec<SnapshotRef>>,
    /// Whether Proxmox's `protection` is on.
    pub protection: Option<bool>,
    /// What high availability is asked to do with the guest.
    pub ha: Option<HaState>,
    /// All replication jobs of the guest. At most [`MAX_REPLICATION`].
    pub replication: Option<Vec<ReplicationId>>,
    /// Backups that the order is about or relies on. At most [`MAX_BACKUPS`].
    pub backups: Option<Vec<BackupRef>>,
    /// The physical disk.
    pub disk: Option<DiskRef>,
}

/// Most volumes in an order.
pub const MAX_VOLUMES: usize = 64;
/// Most snapshots in an order.
pub const MAX_SNAPSHOTS: usize = 128;
/// Most replication jobs in an order.
pub const MAX_REPLICATION: usize = 16;
/// Most backups in an order.
pub const MAX_BACKUPS: usize = 128;

/// Whether a kind states a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Refused without.
    Must,
    /// Compared when stated.
    May,
    /// Refused when stated: nobody would compare it.
    No,
}

/// What a kind states, one [`Need`] per field of [`Preconditions`] and one for the order's guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The guest and its identity. (Of `volume.delete` the owner in the parameters decides.)
    pub guest: Need,
    /// [`Preconditions::state`]
    pub state: Need,
    /// [`Preconditions::digest`]
    pub digest: Need,
    /// [`Preconditions::snapshot`]
    pub snapshot: Need,
    /// [`Preconditions::volumes`]
    pub volumes: Need,
    /// [`Preconditions::snapshots`]
    pub snapshots: Need,
    /// [`Preconditions::protection`]
    pub protection: Need,
    /// [`Preconditions::ha`]
    pub ha: Need,
    /// [`Preconditions::replication`]
    pub replication: Need,
    /// [`Preconditions::backups`]
    pub backups: Need,
    /// [`Preconditions::disk`]
    pub disk: Need,
}

/// About the host; nothing is stated.
const HOST: Needs = Needs {
    guest: Need::No,
    state: Need::No,
    digest: Need::No,
    snapshot: Need::No,
    volumes: Need::No,
    snapshots: Need::No,
    protection: Need::No,
    ha: Need::No,
    replication: Need::No,
    backups: Need::No,
    disk: Need::No,
};
/// About a guest whose state and configuration may be stated.
const GUEST: Needs = Needs { guest: Need::Must, state: Need::May, digest: Need::May, ..HOST };
/// A change of a guest's configuration: compare-and-set by its digest.
const CONFIG: Needs = Needs { digest: Need::Must, ..GUEST };
/// A change of the run state, which high availability would undo.
const POWER: Needs = Needs { guest: Need::Must, state: Need::Must, ha: Need::Must, ..HOST };
/// About one snapshot.
const SNAPSHOT: Needs = Needs { state: Need::Must, digest: Need::Must, snapshot: Need::Must, ..GUEST };
/// Data of a guest goes: everything that could be lost or get in the way is stated.
const LOSS: Needs = Needs {
    volumes: Need::Must,
    snapshots: Need::Must,
    protection: Need::Must,
    ha: Need::Must,
    replication: Need::Must,
    ..CONFIG
};
/// The whole guest goes, or is replaced. Proxmox destroys a stopped one only, so one that runs is stopped first.
const END: Needs = Needs { state: Need::Must, ..LOSS };

impl Kind {
    /// What an order of this kind states (design section 4, column "preconditions").
    pub const fn needs(self) -> Needs {
        match self {
            Self::GuestStart | Self::SnapshotCreate | Self::BackupCreate => GUEST,
            // What can be resumed depends on what it is now.
            Self::GuestResume => Needs { state: Need::Must, ..GUEST },
            Self::GuestTag
            | Self::GuestConfig
            | Self::GuestResize
            | Self::GuestAdopt
            | Self::GuestRelease => CONFIG,
            Self::GuestGrow | Self::DiskMove => Needs { volumes: Need::Must, ..CONFIG },
            Self::GuestShutdown | Self::GuestStop | Self::GuestReboot | Self::GuestSuspend => POWER,
            Self::SnapshotRollback | Self::SnapshotDelete => SNAPSHOT,
            Self::BackupDelete | Self::BackupPrune | Self::BackupProtect => {
                Needs { backups: Need::Must, ..HOST }
            }
            Self::GuestRestoreOver => Needs { backups: Need::Must, ..END },
            Self::GuestDestroy => END,
            Self::DiskDetach => LOSS,
            // With an owner: as for its disks. Without: the volume alone (`needs_of`).
            Self::VolumeDelete => Needs { guest: Need::May, ..LOSS },
            Self::UsbMount | Self::UsbUnmount => Needs { disk: Need::Must, ..HOST },
            // The identity of what backs the storage is in the parameters.
            Self::StorageAdd | Self::StorageRemove => HOST,
            Self::GuestCreate
            | Self::TemplateDownload
            | Self::PlanApprove
            | Self::JobRun
            | Self::SessionOpen
            | Self::PolicyUpdate
            | Self::KeyRevoke
            | Self::HostRebind
            | Self::LogReanchor
            | Self::AgentUpdate => HOST,
        }
    }
}

/// Of `volume.delete` where no guest owns the volume.
pub(super) const ORPHAN: Needs = Needs { volumes: Need::Must, ..HOST };

impl Preconditions {
    /// Each fact that must be stated is, and no other one is.
    pub(super) fn check(&self, kind: Kind, needs: &Needs) -> Result<(), OrderError> {
        let Self {
            state,
            digest,
            config_sha256,
            snapshot,
            volumes,
            snapshots,
            protection,
            ha,
            replication,
            backups,
            disk,
        } = self;
        // The SHA-256 of the configuration goes with the digest, and is never needed.
        let config = if needs.digest == Need::No { Need::No } else { Need::May };
        let known = state.is_some_and(|state| state != RunState::Unknown);
        if state.is_some() && !known {
            return Err(OrderError::Precondition { kind, missing: "pre.state (running or stopped)" });
        }
        for (need, stated, field) in [
            (needs.state, known, "pre.state"),
            (needs.digest, digest.is_some(), "pre.digest"),
            (config, config_sha256.is_some(), "pre.config_sha256"),
            (needs.snapshot, snapshot.is_some(), "pre.snapshot (name, time and parent)"),
            (needs.volumes, volumes.is_some(), "pre.volumes (volid, size and format)"),
            (needs.snapshots, snapshots.is_some(), "pre.snapshots"),
            (needs.protection, protection.is_some(), "pre.protection"),
            (needs.ha, ha.is_some(), "pre.ha"),
            (needs.replication, replication.is_some(), "pre.replication"),
            (needs.backups, backups.is_some(), "pre.backups (volid, size and ctime)"),
            (needs.disk, disk.is_some(), "pre.disk (serial, WWN and size)"),
        ] {
            match (need, stated) {
                (Need::Must, false) => return Err(OrderError::Precondition { kind, missing: field }),
                (Need::No, true) => return Err(OrderError::Needless { kind, field }),
                (Need::Must | Need::May, true) | (Need::May | Need::No, false) => {}
            }
        }
        self.check_lists().map_err(|(field, allowed)| OrderError::Range { kind, field, allowed })
    }

    fn check_lists(&self) -> Result<(), Wrong> {
        if let Some(snapshot) = &self.snapshot {
            check_parent(snapshot, "pre.snapshot.parent")?;
        }
        for snapshot in self.snapshots.iter().flatten() {
            check_parent(snapshot, "pre.snapshots")?;
        }
        let list = |fits: bool, wrong: Wrong| if fits { Ok(()) } else { Err(wrong) };
        list(
            distinct(&self.volumes, MAX_VOLUMES, |volume| &volume.volid),
            ("pre.volumes", "a list of at most 64, each volume once"),
        )?;
        list(
            distinct(&self.snapshots, MAX_SNAPSHOTS, |snapshot| &snapshot.name),
            ("pre.snapshots", "a list of at most 128, each snapshot once"),
        )?;
        list(
            distinct(&self.replication, MAX_REPLICATION, |job| job),
            ("pre.replication", "a list of at most 16, each job once"),
        )?;
        list(
            distinct(&self.backups, MAX_BACKUPS, |backup| &backup.volid),
            ("pre.backups", "a list of at most 128, each backup once"),
        )?;
        let named = self.backups.iter().flatten().all(|backup| backup.volid.is_backup());
        list(named, ("pre.backups", "a list of backups (STORAGE:backup/…)"))
    }
}

/// Parents are names of snapshots too, but old ones may have been made under other rules.
fn check_parent(snapshot: &SnapshotRef, field: &'static str) -> Result<(), Wrong> {
    let fits = snapshot.parent.as_deref().is_none_or(|parent| {
        (1..=64).contains(&parent.len())
            && parent.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    });
    if fits { Ok(()) } else { Err((field, "a parent's name of letters, digits, '_' and '-', or null")) }
}

/// At most `most`, and each `name` once. A list that is not stated fits.
pub(super) fn distinct<'a, T, N: Ord + 'a>(
    list: &'a Option<Vec<T>>,
    most: usize,
    name: impl Fn(&'a T) -> &'a N,
) -> bool {
    list.as_ref().is_none_or(|list| {
        list.len() <= most
            && list.iter().map(name).collect::<std::collections::BTreeSet<_>>().len() == list.len()
    })
}
