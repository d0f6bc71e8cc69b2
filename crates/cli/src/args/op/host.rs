//! Storages, templates, USB disks.

use authz::order::{
    Backing, ContentType, Filesystem, MountParams, StorageAddParams, TemplateParams, UnmountParams,
};
use clap::{ArgGroup, Args};
use protocol::refs::{DirPath, FsUuid, LvmUuid, MountName, PoolName, StorageId, TemplateName, ZfsGuid};
use protocol::{HostName, Sha256};

use super::values::{content, filesystem, thin_pool};
use super::{Asked, OpOptions};
use crate::prepare::{StorageWish, UsbWish, Wish};

/// `template.download`
#[derive(Debug, Args)]
pub struct DownloadTemplate {
    /// The host's name
    host: HostName,
    /// Its file name in Proxmox's index
    #[arg(value_name = "TEMPLATE")]
    template: TemplateName,
    /// Where it goes
    #[arg(long)]
    storage: StorageId,
    /// SHA-256 of the file: what arrives otherwise does not count
    #[arg(long, value_name = "HEX")]
    sha256: Sha256,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `storage.add`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("backing").required(true))]
pub struct AddStorage {
    /// The host's name
    host: HostName,
    /// The new storage's name
    #[arg(value_name = "STORAGE")]
    storage: StorageId,
    /// A directory on a mounted filesystem
    #[arg(long, value_name = "PATH", group = "backing", requires = "uuid")]
    dir: Option<DirPath>,
    /// UUID of the filesystem
    #[arg(long, requires = "dir")]
    uuid: Option<FsUuid>,
    /// A ZFS pool
    #[arg(long, value_name = "POOL", group = "backing", requires = "guid")]
    zfs: Option<PoolName>,
    /// GUID of the ZFS pool, as `zpool get guid` prints it
    #[arg(long, requires = "zfs")]
    guid: Option<ZfsGuid>,
    /// A thin pool of LVM
    #[arg(long, value_parser = thin_pool, value_name = "VG/POOL", group = "backing", requires = "vg_uuid")]
    lvmthin: Option<(PoolName, PoolName)>,
    /// UUID of the volume group, as `vgs -o vg_uuid` prints it
    #[arg(long, value_name = "UUID", requires = "lvmthin")]
    vg_uuid: Option<LvmUuid>,
    /// What may be kept on it
    #[arg(long, required = true, value_delimiter = ',', value_parser = content(), value_name = "LIST")]
    content: Vec<ContentType>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `storage.remove`
#[derive(Debug, Args)]
pub struct RemoveStorage {
    /// The host's name
    host: HostName,
    /// The storage
    #[arg(value_name = "STORAGE")]
    storage: StorageId,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `usb.mount`
#[derive(Debug, Args)]
pub struct MountUsb {
    /// The host's name
    host: HostName,
    /// The filesystem
    #[arg(value_name = "UUID")]
    uuid: FsUuid,
    /// The last part of its path
    #[arg(value_name = "NAME")]
    name: MountName,
    /// Its type
    #[arg(long, value_parser = filesystem(), value_name = "TYPE")]
    filesystem: Filesystem,
    /// Without writing
    #[arg(long)]
    read_only: bool,
    /// Again after a reboot
    #[arg(long)]
    persist: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `usb.unmount`
#[derive(Debug, Args)]
pub struct UnmountUsb {
    /// The host's name
    host: HostName,
    /// The filesystem
    #[arg(value_name = "UUID")]
    uuid: FsUuid,
    /// The last part of its path
    #[arg(value_name = "NAME")]
    name: MountName,
    /// Not again after a reboot
    #[arg(long)]
    forget: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

impl DownloadTemplate {
    pub(super) fn ask(self) -> Asked {
        let Self { host, template, storage, sha256, options } = self;
        let params = TemplateParams { storage, template, sha256 };
        Asked::new(host, options, Wish::Storage(StorageWish::Download(params)))
    }
}

impl AddStorage {
    pub(super) fn ask(self) -> Asked {
        let Self { host, storage, dir, uuid, zfs, guid, lvmthin, vg_uuid, mut content, options } = self;
        content.sort();
        content.dedup();
        let dir = dir.zip(uuid).map(|(path, uuid)| Backing::Dir { path, uuid });
        let zfs = zfs.zip(guid).map(|(pool, guid)| Backing::ZfsPool { pool, guid });
        let thin = lvmthin.zip(vg_uuid).map(|((vg, pool), uuid)| Backing::LvmThin { vg, uuid, pool });
        let wish = match dir.or(zfs).or(thin) {
            Some(backing) => StorageWish::Add(StorageAddParams { storage, backing, content }),
            None => unreachable!("one of the group, each with its identity, is there once clap has parsed"),
        };
        Asked::new(host, options, Wish::Storage(wish))
    }
}

impl RemoveStorage {
    pub(super) fn ask(self) -> Asked {
        let Self { host, storage, options } = self;
        Asked::new(host, options, Wish::Storage(StorageWish::Remove(storage)))
    }
}

impl MountUsb {
    pub(super) fn ask(self) -> Asked {
        let Self { host, uuid, name, filesystem, read_only, persist, options } = self;
        let params = MountParams { uuid, filesystem, name, read_only, persist };
        Asked::new(host, options, Wish::Usb(UsbWish::Mount(params)))
    }
}

impl UnmountUsb {
    pub(super) fn ask(self) -> Asked {
        let Self { host, uuid, name, forget, options } = self;
        Asked::new(host, options, Wish::Usb(UsbWish::Unmount(UnmountParams { uuid, name, forget })))
    }
}
