//! Pure: which parts of the world an order or a question is about.

use std::collections::BTreeSet;

use authz::order::{Need, Order, Params, TemplateSource, VolumeOwner};
use protocol::ask::{Look, Owner};
use protocol::refs::{StorageId, VolumeId};
use protocol::{GuestKind, Vmid};

use super::Extent;

/// What to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// This guest …
    pub guest: Option<(GuestKind, Vmid)>,
    /// … and so much of it.
    pub extent: Extent,
    /// Backups of this owner, on these storages or on all.
    pub backups: Option<(Owner, Vec<StorageId>)>,
    /// Volumes apart from a guest's.
    pub volumes: BTreeSet<VolumeId>,
    /// Storages with what is behind them.
    pub storages: bool,
    /// Numbers of all guests.
    pub vmids: bool,
    /// The guest that another is cloned from.
    pub template: Option<Vmid>,
    /// Physical disks and what is mounted.
    pub disks: bool,
}

impl Wanted {
    /// Of an order: exactly what its preconditions and parameters are compared with.
    pub fn of_order(order: &Order) -> Self {
        let pre = &order.pre;
        let stated_storages = || {
            let all = pre.backups.iter().flatten().map(|backup| backup.volid.storage());
            all.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let mut wanted = Self {
            guest: order.guest.as_ref().map(|guest| (guest.kind, guest.vmid)),
            extent: Extent {
                volumes: pre.volumes.is_some(),
                ha: pre.ha.is_some(),
                replication: pre.replication.is_some(),
            },
            disks: pre.disk.is_some(),
            ..Self::default()
        };
        let own = order.guest.as_ref().map(|guest| Owner { vmid: guest.vmid, kind: guest.kind });
        if let (Some(owner), Need::Must) = (own, order.kind().needs().backups) {
            wanted.backups = Some((owner, stated_storages()));
        }
        match &order.params {
            Params::BackupDelete(params) => {
                let owner = Owner { vmid: params.owner.vmid, kind: params.owner.kind };
                wanted.backups = Some((owner, stated_storages()));
            }
            Params::BackupProtect(params) => {
                let owner = Owner { vmid: params.owner.vmid, kind: params.owner.kind };
                wanted.backups = Some((owner, stated_storages()));
            }
            // The new one is what was not there before.
            Params::BackupCreate(params) => {
                wanted.storages = true;
                wanted.backups = own.map(|owner| (owner, vec![params.storage.clone()]));
            }
            Params::BackupPrune(params) => {
                let owner = Owner { vmid: params.owner.vmid, kind: params.owner.kind };
                wanted.backups = Some((owner, vec![params.storage.clone()]));
            }
            Params::GuestCreate(params) => {
                (wanted.vmids, wanted.storages) = (true, true);
                match &params.template {
                    TemplateSource::Archive { .. } | TemplateSource::Golden { .. } => {}
                    TemplateSource::Guest { vmid, .. } => wanted.template = Some(*vmid),
                    TemplateSource::Backup { volume, .. } => {
                        let owner = volume.backup_owner().map(|(kind, vmid)| Owner { vmid, kind });
                        wanted.backups = owner.map(|owner| (owner, vec![volume.storage()]));
                    }
                }
            }
            Params::VolumeDelete(params) => {
                if let VolumeOwner::Gone { .. } = params.owner {
                    wanted.vmids = true;
                    wanted.volumes = pre.volumes.iter().flatten().map(|v| v.volid.clone()).collect();
                }
            }
            Params::StorageAdd(_) | Params::StorageRemove(_) => {
                (wanted.storages, wanted.disks) = (true, true);
            }
            Params::TemplateDownload(_) | Params::DiskMove(_) => wanted.storages = true,
            // The new guest gets a number that is free.
            Params::GuestRestoreOver(_) => (wanted.storages, wanted.vmids) = (true, true),
            _ => {}
        }
        wanted
    }

    /// Of a question; its guest's kind has been found out.
    pub fn of_look(look: &Look, guest: Option<(GuestKind, Vmid)>) -> Self {
        Self {
            guest,
            extent: Extent { volumes: true, ha: true, replication: true },
            backups: look.owner.map(|owner| (owner, look.storages.clone())),
            volumes: look.volumes.iter().cloned().collect(),
            storages: look.backing,
            vmids: look.vmids,
            template: look.template,
            disks: look.disks,
        }
    }
}
