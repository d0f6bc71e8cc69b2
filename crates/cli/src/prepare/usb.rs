//! USB disks: the filesystem is named, and the disk that it is on is looked up.

use authz::Kind;
use authz::order::{MountParams, Params, Preconditions, UnmountParams};
use protocol::ask::Look;
use protocol::refs::FsUuid;

use super::facts::Facts;
use super::{Parts, PrepareError};

/// What is ordered about a USB disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsbWish {
    /// `usb.mount`
    Mount(MountParams),
    /// `usb.unmount`
    Unmount(UnmountParams),
}

impl UsbWish {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Mount(_) => Kind::UsbMount,
            Self::Unmount(_) => Kind::UsbUnmount,
        }
    }

    pub(super) fn look(&self) -> Look {
        Look { disks: true, ..Look::default() }
    }

    pub(super) fn parts(&self, facts: Facts<'_>) -> Result<Parts, PrepareError> {
        let (uuid, params, mount) = match self {
            Self::Mount(params) => (&params.uuid, Params::UsbMount(params.clone()), true),
            Self::Unmount(params) => (&params.uuid, Params::UsbUnmount(params.clone()), false),
        };
        let disks = facts.known(&facts.world.disks, "its disks")?;
        let found: Vec<_> = disks.iter().filter(|now| now.filesystems.contains(uuid)).collect();
        let disk = match found.as_slice() {
            [now] => now.disk.clone(),
            [] => {
                let names = disks.iter().flat_map(|now| &now.filesystems).map(FsUuid::as_str);
                let of = format!("host '{}'", facts.host);
                return Err(PrepareError::not_there(of, "filesystem", uuid.as_str(), names));
            }
            more => {
                return Err(PrepareError::Pointless(format!(
                    "{} disks have a filesystem {uuid}: they are copies of one another, so unplug all but one",
                    more.len()
                )));
            }
        };
        match (facts.known(&facts.world.mounted, "what is mounted")?.contains(uuid), mount) {
            (true, false) | (false, true) => {}
            (true, true) => {
                return Err(PrepareError::Pointless(format!("filesystem {uuid} is mounted already")));
            }
            (false, false) => {
                return Err(PrepareError::Pointless(format!("filesystem {uuid} is not mounted")));
            }
        }
        let pre = Preconditions { disk: Some(disk), ..Preconditions::default() };
        Ok(Parts::of_host(params, pre))
    }
}
