//! USB disks. The disk is named by the order's `pre.disk`, the filesystem on it here.

use protocol::refs::{FsUuid, MountName};
use serde::{Deserialize, Serialize};

use super::Checked;

/// Of `usb.mount`: under `/mnt/writ/NAME`, always `nosuid,nodev,noexec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountParams {
    /// Which filesystem.
    pub uuid: FsUuid,
    /// Of which type.
    pub filesystem: Filesystem,
    /// The last part of its path.
    pub name: MountName,
    /// Without writing.
    pub read_only: bool,
    /// Again after a reboot.
    pub persist: bool,
}

/// Of `usb.unmount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnmountParams {
    /// Which filesystem.
    pub uuid: FsUuid,
    /// The last part of its path.
    pub name: MountName,
    /// Not again after a reboot.
    pub forget: bool,
}

/// Types of filesystem that are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4
    Ext4,
    /// XFS
    Xfs,
    /// btrfs
    Btrfs,
    /// FAT
    Vfat,
    /// exFAT
    Exfat,
    /// NTFS, by the kernel's driver
    Ntfs3,
}

impl Checked for MountParams {}
impl Checked for UnmountParams {}
