//! Storages and templates.

use authz::Kind;
use authz::order::{Backing, Params, Preconditions, StorageAddParams, StorageRemoveParams, TemplateParams};
use protocol::ask::Look;
use protocol::refs::{FsUuid, StorageId};

use super::facts::Facts;
use super::{Parts, PrepareError};

/// What is ordered about the host's storages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageWish {
    /// `storage.add`
    Add(StorageAddParams),
    /// `storage.remove`
    Remove(StorageId),
    /// `template.download`
    Download(TemplateParams),
}

impl StorageWish {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Add(_) => Kind::StorageAdd,
            Self::Remove(_) => Kind::StorageRemove,
            Self::Download(_) => Kind::TemplateDownload,
        }
    }

    pub(super) fn look(&self) -> Look {
        let disks = matches!(self, Self::Add(_));
        Look { backing: true, disks, ..Look::default() }
    }

    pub(super) fn parts(&self, facts: Facts<'_>) -> Result<Parts, PrepareError> {
        let storages = || facts.known(&facts.world.storages, "its storages");
        let params = match self {
            Self::Add(params) => {
                if storages()?.contains_key(&params.storage) {
                    return Err(PrepareError::Pointless(format!(
                        "there is a storage {} already: choose another name",
                        params.storage
                    )));
                }
                if let Backing::Dir { uuid, .. } = &params.backing {
                    let mounted = facts.known(&facts.world.mounted, "what is mounted")?;
                    if !mounted.contains(uuid) {
                        let names = mounted.iter().map(FsUuid::as_str);
                        let of = format!("host '{}'", facts.host);
                        return Err(PrepareError::not_there(of, "mounted filesystem", uuid.as_str(), names));
                    }
                }
                Params::StorageAdd(params.clone())
            }
            Self::Remove(storage) => {
                facts.storage(storage)?;
                let what = || format!("what is behind storage {storage}");
                let backing = match storages()?.get(storage) {
                    Some(backing) => facts.known(backing, what())?.clone(),
                    None => return Err(PrepareError::Range(what())),
                };
                Params::StorageRemove(StorageRemoveParams { storage: storage.clone(), backing })
            }
            Self::Download(params) => {
                facts.storage(&params.storage)?;
                Params::TemplateDownload(params.clone())
            }
        };
        Ok(Parts::of_host(params, Preconditions::default()))
    }
}
