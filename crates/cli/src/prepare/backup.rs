//! Backups. `backup.create` is about a guest that is there; the others about backups whose guest may be
//! gone.

use authz::Kind;
use authz::order::{
    BackupDeleteParams, BackupMode, BackupOwner, BackupParams, BackupProtectParams, BackupPruneParams,
    MAX_BACKUPS, Params, Preconditions,
};
use protocol::ask::{Look, Owner};
use protocol::refs::{BackupRef, StorageId, VolumeId};
use protocol::{GuestKind, RunState, Vmid};

use super::facts::{Facts, Guest, at_most};
use super::{Parts, PrepareError};

/// What is ordered about backups that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupWish {
    /// Whose: the number that the guest has or had.
    pub vmid: Vmid,
    /// What it is or was, where that is known.
    pub kind: Option<GuestKind>,
    /// What.
    pub change: BackupChange,
}

/// What becomes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupChange {
    /// `backup.delete`: these.
    Delete(Vec<VolumeId>),
    /// `backup.prune`: all on a storage but some.
    Prune {
        /// Where.
        storage: StorageId,
        /// Which stay.
        keep: Keep,
    },
    /// `backup.protect`
    Protect {
        /// Which.
        volume: VolumeId,
        /// Afterwards.
        protected: bool,
    },
}

/// Which backups stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// These.
    Named(Vec<VolumeId>),
    /// So many of the newest.
    Last(usize),
}

/// A new backup of a guest. The state counts for a stopped one only: another one may be backed up as it is.
pub(super) fn create(
    facts: Facts<'_>,
    guest: &Guest<'_>,
    params: &BackupParams,
) -> Result<Parts, PrepareError> {
    facts.storage(&params.storage)?;
    let mut pre = guest.configured()?;
    if params.mode == BackupMode::Stop {
        match guest.state()? {
            RunState::Stopped => pre.state = Some(RunState::Stopped),
            state => {
                let remedy = "--mode stop is for a stopped guest: shut it down first, or use --mode snapshot";
                return Err(PrepareError::State { vmid: guest.vmid, state, remedy });
            }
        }
    }
    Ok(Parts::of_guest(guest, Params::BackupCreate(params.clone()), pre))
}

/// The question before [`create`].
pub(super) fn look_for_create(vmid: Vmid) -> Look {
    Look { guest: Some(vmid), backing: true, ..Look::default() }
}

impl BackupWish {
    pub(super) fn order_kind(&self) -> Kind {
        match self.change {
            BackupChange::Delete(_) => Kind::BackupDelete,
            BackupChange::Prune { .. } => Kind::BackupPrune,
            BackupChange::Protect { .. } => Kind::BackupProtect,
        }
    }

    /// What the guest is or was, as far as that is said or backups are named for it.
    pub(super) fn kind(&self) -> Option<GuestKind> {
        let named = || match &self.change {
            BackupChange::Delete(named) | BackupChange::Prune { keep: Keep::Named(named), .. } => {
                named.first()
            }
            BackupChange::Prune { keep: Keep::Last(_), .. } => None,
            BackupChange::Protect { volume, .. } => Some(volume),
        };
        self.kind.or_else(|| Some(named()?.backup_owner()?.0))
    }

    fn owner(&self) -> Result<BackupOwner, PrepareError> {
        let kind = self.kind().ok_or(PrepareError::WhoseBackups(self.vmid))?;
        Ok(BackupOwner { vmid: self.vmid, kind })
    }

    pub(super) fn look(&self) -> Look {
        let mut storages: Vec<StorageId> = match &self.change {
            BackupChange::Delete(remove) => remove.iter().map(VolumeId::storage).collect(),
            BackupChange::Prune { storage, .. } => vec![storage.clone()],
            BackupChange::Protect { volume, .. } => vec![volume.storage()],
        };
        storages.sort();
        storages.dedup();
        let owner = self.kind().map(|kind| Owner { vmid: self.vmid, kind });
        Look { owner, storages, ..Look::default() }
    }

    pub(super) fn parts(&self, facts: Facts<'_>) -> Result<Parts, PrepareError> {
        let owner = self.owner()?;
        let (params, backups) = match &self.change {
            BackupChange::Delete(remove) => {
                let mut named: Vec<&VolumeId> = Vec::new();
                for volid in remove {
                    if !named.contains(&volid) {
                        named.push(volid);
                    }
                }
                let found = self.each(facts, named)?;
                let remove = volids(&found);
                (Params::BackupDelete(BackupDeleteParams { owner, remove }), found)
            }
            BackupChange::Protect { volume, protected } => {
                let found = self.each(facts, [volume])?;
                let (volume, protected) = (volume.clone(), *protected);
                (Params::BackupProtect(BackupProtectParams { owner, volume, protected }), found)
            }
            BackupChange::Prune { storage, keep } => {
                let (remove, keep) = self.prune(facts, storage, keep)?;
                let params = BackupPruneParams {
                    owner,
                    storage: storage.clone(),
                    remove: volids(&remove),
                    keep: volids(&keep),
                };
                (Params::BackupPrune(params), [remove, keep].concat())
            }
        };
        let pre = Preconditions { backups: Some(backups), ..Preconditions::default() };
        Ok(Parts::of_host(params, pre))
    }

    /// Each of them with its facts, and each the owner's as far as its name tells.
    fn each<'a>(
        &self,
        facts: Facts<'_>,
        volids: impl IntoIterator<Item = &'a VolumeId>,
    ) -> Result<Vec<BackupRef>, PrepareError> {
        let BackupOwner { vmid, kind } = self.owner()?;
        let one = |volid: &VolumeId| match volid.backup_owner() {
            Some(owner) if owner != (kind, vmid) => Err(PrepareError::Pointless(format!(
                "{volid} is a backup of {} {}, not of {kind} {vmid}",
                owner.0, owner.1
            ))),
            _ => facts.backup(volid).cloned(),
        };
        volids.into_iter().map(one).collect()
    }

    /// What goes and what stays, each from the oldest to the newest.
    fn prune(
        &self,
        facts: Facts<'_>,
        storage: &StorageId,
        keep: &Keep,
    ) -> Result<(Vec<BackupRef>, Vec<BackupRef>), PrepareError> {
        facts.listed(storage)?;
        let mut all: Vec<BackupRef> =
            facts.backups()?.iter().filter(|backup| backup.volid.storage() == *storage).cloned().collect();
        at_most(MAX_BACKUPS, all.len(), "backups", "delete some first with backup.delete")?;
        all.sort_by(|a, b| (a.ctime, &a.volid).cmp(&(b.ctime, &b.volid)));
        let BackupOwner { vmid, kind } = self.owner()?;
        let whose = format!("backups of {kind} {vmid} on storage {storage}");
        let (remove, keep): (Vec<BackupRef>, Vec<BackupRef>) = match keep {
            Keep::Last(count) => {
                let keep = all.split_off(all.len().saturating_sub(*count));
                (all, keep)
            }
            Keep::Named(named) => {
                self.each(facts, named)?;
                if let Some(elsewhere) = named.iter().find(|volid| volid.storage() != *storage) {
                    let why = format!("{elsewhere} is not on storage {storage}, so it stays anyway");
                    return Err(PrepareError::Pointless(why));
                }
                all.into_iter().partition(|backup| !named.contains(&backup.volid))
            }
        };
        if remove.is_empty() {
            let why =
                format!("there are {} {whose}, and all of them stay: there is nothing to prune", keep.len());
            return Err(PrepareError::Pointless(why));
        }
        if keep.is_empty() {
            let why = format!(
                "none of the {whose} would stay: keep one, or delete each by name with backup.delete"
            );
            return Err(PrepareError::Pointless(why));
        }
        Ok((remove, keep))
    }
}

fn volids(backups: &[BackupRef]) -> Vec<VolumeId> {
    backups.iter().map(|backup| backup.volid.clone()).collect()
}
