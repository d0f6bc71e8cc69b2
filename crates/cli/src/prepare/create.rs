//! `guest.create`: everything that Proxmox would choose by itself is said.

use authz::order::{CreateParams, NetParams, Params, Preconditions, TemplateSource};
use protocol::ask::{Look, Owner};
use protocol::refs::{GuestName, PoolName, StorageId, VolumeId};
use protocol::{GuestKind, Sha256, Tag, Vmid};

use super::facts::Facts;
use super::{Parts, PrepareError};

/// A new guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateWish {
    /// Its number.
    pub vmid: Vmid,
    /// From what.
    pub from: Source,
    /// Its name.
    pub name: GuestName,
    /// Where its disks go.
    pub storage: StorageId,
    /// Bytes of a container's root filesystem.
    pub disk: Option<u64>,
    /// Cores.
    pub cores: u32,
    /// MiB
    pub memory_mib: u32,
    /// Its network device.
    pub net: Option<NetParams>,
    /// Of a container: without the host's root.
    pub unprivileged: bool,
    /// Start it when the host starts.
    pub onboot: bool,
    /// Start it afterwards.
    pub start: bool,
    /// The pool it joins.
    pub pool: Option<PoolName>,
    /// Its tags.
    pub tags: Vec<Tag>,
}

/// What a guest is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A container template in a file.
    Archive {
        /// Which.
        volume: VolumeId,
        /// What is in it, as the operator knows it.
        sha256: Sha256,
    },
    /// A full clone of a template.
    Clone(Vmid),
    /// A backup.
    Backup(VolumeId),
}

impl CreateWish {
    pub(super) fn look(&self) -> Look {
        let look = Look { vmids: true, backing: true, ..Look::default() };
        match &self.from {
            Source::Archive { .. } => look,
            // As a template for its digest, as a guest for its kind.
            Source::Clone(vmid) => Look { guest: Some(*vmid), template: Some(*vmid), ..look },
            Source::Backup(volume) => {
                let owner = volume.backup_owner().map(|(kind, vmid)| Owner { vmid, kind });
                Look { owner, storages: vec![volume.storage()], ..look }
            }
        }
    }

    pub(super) fn parts(&self, facts: Facts<'_>) -> Result<Parts, PrepareError> {
        let vmids = facts.known(&facts.world.vmids, "the numbers of all guests")?;
        if vmids.contains(&self.vmid) {
            let free = (self.vmid.get()..=999_999_999).filter_map(|n| Vmid::try_from(n).ok());
            // At most as many steps as there are guests.
            let free = free.take(vmids.len() + 1).find(|vmid| !vmids.contains(vmid));
            let free = free.map_or(String::new(), |vmid| format!(", such as {vmid}"));
            return Err(PrepareError::Pointless(format!(
                "there is a guest {} already: choose a free number{free}",
                self.vmid
            )));
        }
        facts.storage(&self.storage)?;
        let (kind, template) = self.source(facts)?;
        let Self {
            vmid,
            name,
            storage,
            disk,
            cores,
            memory_mib,
            net,
            unprivileged,
            onboot,
            start,
            pool,
            tags,
            ..
        } = self.clone();
        let wrong = |why: String| Err(PrepareError::Pointless(why));
        if kind == GuestKind::Qemu && !unprivileged {
            return wrong("--privileged is for containers, and this would be a virtual machine".into());
        }
        match &template {
            TemplateSource::Archive { .. } if disk.is_none() => {
                return wrong(
                    "a container from an archive needs the size of its root filesystem: give --disk".into(),
                );
            }
            TemplateSource::Guest { .. } | TemplateSource::Backup { .. } if disk.is_some() => {
                return wrong("a clone or a restored backup has disks of their own sizes: leave --disk out, and use guest.grow afterwards".into());
            }
            TemplateSource::Backup { .. } if net.is_some() => {
                return wrong("a restored backup brings its network devices: leave --bridge out, and use guest.config afterwards".into());
            }
            _ => {}
        }
        let params = CreateParams {
            vmid,
            kind,
            name,
            template,
            storage,
            disk,
            cores,
            memory_mib,
            net,
            unprivileged,
            onboot,
            start,
            pool,
            tags,
        };
        Ok(Parts::of_host(Params::GuestCreate(params), Preconditions::default()))
    }

    /// What it becomes, and what it is made from with the facts that pin it.
    fn source(&self, facts: Facts<'_>) -> Result<(GuestKind, TemplateSource), PrepareError> {
        match &self.from {
            Source::Archive { volume, sha256 } => {
                let source = TemplateSource::Archive { volume: volume.clone(), sha256: *sha256 };
                Ok((GuestKind::Lxc, source))
            }
            Source::Clone(vmid) => {
                let kind = facts.known(&facts.world.guest, format!("how guest {vmid} is"))?.kind;
                let now = facts.known(&facts.world.template, format!("how template {vmid} is"))?;
                if !now.template {
                    return Err(PrepareError::Pointless(format!(
                        "guest {vmid} is no template, and only templates are cloned: they do not change while they are copied"
                    )));
                }
                let digest =
                    now.digest.parse().map_err(|error: protocol::IdError| PrepareError::Unknown {
                        host: facts.host.clone(),
                        what: format!("the digest of template {vmid}"),
                        why: error.to_string(),
                    })?;
                Ok((kind, TemplateSource::Guest { vmid: *vmid, digest }))
            }
            Source::Backup(volume) => {
                let Some((kind, _)) = volume.backup_owner() else {
                    return Err(PrepareError::Pointless(format!(
                        "the name of {volume} does not tell what it is a backup of: restore it on the host"
                    )));
                };
                let found = facts.backup(volume)?;
                let (size, ctime) = (found.size, found.ctime);
                Ok((kind, TemplateSource::Backup { volume: volume.clone(), size, ctime }))
            }
        }
    }
}
