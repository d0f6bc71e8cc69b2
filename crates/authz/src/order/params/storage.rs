//! Storages and templates. What backs a storage is named by an identity that a reused name does not
//! have: a filesystem's UUID, a pool's GUID, a volume group's UUID. Storages that need a password
//! (CIFS, PBS) or have no such identity (NFS) are not added by order: secrets have no place in one.

use protocol::Sha256;
use protocol::refs::{DirPath, FsUuid, LvmUuid, PoolName, StorageId, TemplateName, ZfsGuid};
use serde::{Deserialize, Serialize};

use super::{Checked, Wrong, demand, each_once};

/// Of `storage.add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAddParams {
    /// Its name, which must be free.
    pub storage: StorageId,
    /// What is behind it.
    pub backing: Backing,
    /// What may be kept on it: 1 to 6, each once.
    pub content: Vec<ContentType>,
}

/// Of `storage.remove`: from Proxmox's configuration only. The data stays where it is, and guests with
/// volumes there can no longer reach them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageRemoveParams {
    /// Its name.
    pub storage: StorageId,
    /// What is behind it, as the signer saw it.
    pub backing: Backing,
}

/// What is behind a storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Backing {
    /// A directory on a mounted filesystem; always with `is_mountpoint`.
    Dir {
        /// Where it is mounted.
        path: DirPath,
        /// Which filesystem.
        uuid: FsUuid,
    },
    /// A ZFS pool or a dataset in it.
    ZfsPool {
        /// The pool.
        pool: PoolName,
        /// Its identity.
        guid: ZfsGuid,
    },
    /// A thin pool of LVM.
    LvmThin {
        /// The volume group.
        vg: PoolName,
        /// Its identity.
        uuid: LvmUuid,
        /// The thin pool in it.
        pool: PoolName,
    },
}

/// What a storage may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    /// Disks of virtual machines.
    Images,
    /// Disks of containers.
    Rootdir,
    /// Installation images.
    Iso,
    /// Container templates.
    Vztmpl,
    /// Backups.
    Backup,
    /// Disks to import.
    Import,
}

/// Of `template.download`: from Proxmox's own index, which Proxmox verifies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateParams {
    /// Where it goes.
    pub storage: StorageId,
    /// Its file name in the index.
    pub template: TemplateName,
    /// SHA-256 of the file. What arrives otherwise does not count as downloaded.
    pub sha256: Sha256,
}

impl Checked for StorageAddParams {
    fn check(&self) -> Result<(), Wrong> {
        let fits = (1..=6).contains(&self.content.len()) && each_once(&self.content);
        demand(fits, "params.content", "a list of 1 to 6, each once")
    }
}

impl Checked for StorageRemoveParams {}
impl Checked for TemplateParams {}
