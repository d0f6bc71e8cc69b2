//! Growing and moving a guest's volumes.

use std::fmt;

use crate::catalog::{Both, Call, Calls, Form, Kind, Param, Verb, flag, form, param, upid};
use crate::client::Client;
use crate::guest::lifecycle::DiskFormat;
use crate::storage::volid::StorageName;
use crate::value::ids::{GuestKind, Vmid};
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

const DIGEST: Param = form("digest", Form::Digest);
const SIZE: Param = form("size", Form::Size);
const MOVE_NEEDS: &[&str] = &["VM.Config.Disk", "Datastore.AllocateSpace"];

static RESIZE: Both<Upid> = Both {
    qemu: Call::new("qemu resize", Verb::Put, "/nodes/{node}/qemu/{vmid}/resize", upid)
        .starts(&["resize"])
        .params(&[form("disk", Form::QemuDrive), SIZE, DIGEST])
        .needs(MOVE_NEEDS)
        .slow(),
    lxc: Call::new("lxc resize", Verb::Put, "/nodes/{node}/lxc/{vmid}/resize", upid)
        .starts(&["resize"])
        .params(&[form("disk", Form::LxcDrive), SIZE, DIGEST])
        .needs(MOVE_NEEDS)
        .slow(),
};
static MOVE: Both<Upid> = Both {
    qemu: Call::new("qemu move disk", Verb::Post, "/nodes/{node}/qemu/{vmid}/move_disk", upid)
        .starts(&["qmmove"])
        .params(&[
            form("disk", Form::QemuVolume),
            form("storage", Form::Storage),
            param("format", Kind::Word(&["raw", "qcow2", "vmdk"])),
            flag("delete"),
            DIGEST,
            form("target-vmid", Form::Vmid),
            form("target-disk", Form::QemuVolume),
            form("target-digest", Form::Digest),
        ])
        .needs(MOVE_NEEDS)
        .slow(),
    lxc: Call::new("lxc move volume", Verb::Post, "/nodes/{node}/lxc/{vmid}/move_volume", upid)
        .starts(&["move_volume"])
        .params(&[
            form("volume", Form::LxcVolume),
            form("storage", Form::Storage),
            flag("delete"),
            DIGEST,
            form("target-vmid", Form::Vmid),
            form("target-volume", Form::LxcVolume),
            form("target-digest", Form::Digest),
        ])
        .needs(MOVE_NEEDS)
        .slow(),
};

pub(super) static CALLS: Calls = &[&RESIZE.qemu, &RESIZE.lxc, &MOVE.qemu, &MOVE.lxc];

/// By how much a volume grows. It never shrinks: Proxmox would cut the file system off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrowBy {
    mib: u64,
}

impl GrowBy {
    /// Mebibytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self { mib }
    }

    /// Gibibytes.
    #[must_use]
    pub const fn gib(gib: u64) -> Self {
        Self { mib: gib.saturating_mul(1024) }
    }
}

impl fmt::Display for GrowBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mib.is_multiple_of(1024) {
            write!(f, "+{}G", self.mib / 1024)
        } else {
            write!(f, "+{}M", self.mib)
        }
    }
}

/// How large a volume shall be. Unlike [`GrowBy`] it does no harm when the volume has that size already,
/// and where it would shrink Proxmox refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrowTo {
    kib: u64,
}

impl GrowTo {
    /// Bytes, whole KiB; `None` for anything else and for nothing.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Option<Self> {
        if bytes == 0 || !bytes.is_multiple_of(1024) { None } else { Some(Self { kib: bytes / 1024 }) }
    }
}

impl fmt::Display for GrowTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GIB: u64 = 1 << 20;
        match self.kib {
            kib if kib.is_multiple_of(GIB) => write!(f, "{}G", kib / GIB),
            kib if kib.is_multiple_of(1024) => write!(f, "{}M", kib / 1024),
            kib => write!(f, "{kib}K"),
        }
    }
}

/// Where a volume goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum MoveTo {
    Storage(StorageName),
    Guest { vmid: Vmid, volume: Option<String>, digest: Option<String> },
}

/// A volume to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveVolume {
    volume: String,
    to: MoveTo,
    format: Option<DiskFormat>,
    delete: bool,
    digest: Option<String>,
}

impl MoveVolume {
    /// `volume` (`scsi0`, `rootfs`, `mp0`, `unused0`, …) is copied to another storage, and what was
    /// there before stays as an unused volume of the guest.
    #[must_use]
    pub fn to_storage(volume: &str, storage: StorageName) -> Self {
        let to = MoveTo::Storage(storage);
        Self { volume: volume.to_owned(), to, format: None, delete: false, digest: None }
    }

    /// `volume` is handed over to another guest of the same kind, as `target` there (the same name
    /// if none is given). It stays on its storage.
    #[must_use]
    pub fn to_guest(volume: &str, vmid: Vmid, target: Option<&str>) -> Self {
        let to = MoveTo::Guest { vmid, volume: target.map(str::to_owned), digest: None };
        Self { volume: volume.to_owned(), to, format: None, delete: false, digest: None }
    }

    /// Removes what was there before once it is copied.
    #[must_use]
    pub const fn then_delete_original(mut self) -> Self {
        self.delete = true;
        self
    }

    /// The format on the new storage; virtual machines only.
    #[must_use]
    pub const fn format(mut self, format: DiskFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Only if the guest's config still has this digest.
    #[must_use]
    pub fn digest(mut self, digest: &str) -> Self {
        self.digest = Some(digest.to_owned());
        self
    }

    /// Only if the other guest's config still has this digest.
    #[must_use]
    pub fn target_digest(mut self, theirs: &str) -> Self {
        if let MoveTo::Guest { digest, .. } = &mut self.to {
            *digest = Some(theirs.to_owned());
        }
        self
    }
}

impl Client {
    /// Grows a volume (`scsi0`, `rootfs`, `mp0`, …). A container's file system grows with it; in a
    /// virtual machine that is the guest's own business.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn grow_volume(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        volume: &str,
        by: GrowBy,
        digest: Option<&str>,
    ) -> Result<Upid, ApiError> {
        let request = RESIZE.of(kind).at(&self.guest(vmid).await?.parts());
        let request = request
            .refuse_if(by.mib == 0, "a volume grows by at least 1 MiB")
            .set("disk", volume)
            .set("size", by)
            .opt("digest", digest);
        self.send(request).await
    }

    /// Grows a volume to a size. A storage may round it up to whole blocks of its own.
    ///
    /// # Errors
    /// [`ApiError`]; one that is larger already is refused.
    pub async fn grow_volume_to(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        volume: &str,
        to: GrowTo,
        digest: Option<&str>,
    ) -> Result<Upid, ApiError> {
        let request = RESIZE.of(kind).at(&self.guest(vmid).await?.parts());
        self.send(request.set("disk", volume).set("size", to).opt("digest", digest)).await
    }

    /// Moves a volume.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn move_volume(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        what: &MoveVolume,
    ) -> Result<Upid, ApiError> {
        let (volume, target_volume) = match kind {
            GuestKind::Qemu => ("disk", "target-disk"),
            GuestKind::Lxc => ("volume", "target-volume"),
        };
        let request = MOVE.of(kind).at(&self.guest(vmid).await?.parts()).set(volume, &what.volume);
        let request = request.opt("digest", what.digest.as_ref());
        let request = match &what.to {
            MoveTo::Storage(storage) => request.set("storage", storage).flag("delete", what.delete),
            MoveTo::Guest { vmid: other, volume, digest } => request
                .refuse_if(*other == vmid, "the volume is that guest's already")
                .refuse_if(
                    what.delete || what.format.is_some(),
                    "a volume that is handed over is neither copied nor changed; leave format and deletion out",
                )
                .set("target-vmid", other)
                .opt(target_volume, volume.as_ref())
                .opt("target-digest", digest.as_ref()),
        };
        let request = match (kind, what.format) {
            (_, None) => request,
            (GuestKind::Qemu, Some(format)) => request.set("format", format.as_str()),
            (GuestKind::Lxc, Some(_)) => {
                request.refuse_if(true, "a container's volumes have no format to choose")
            }
        };
        self.send(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_in_the_largest_unit_that_is_exact() {
        let text = |bytes| GrowTo::bytes(bytes).map(|to| to.to_string());
        assert_eq!(text(8 << 30).as_deref(), Some("8G"));
        assert_eq!(text(1025 << 20).as_deref(), Some("1025M"));
        assert_eq!(text((1 << 30) + 1024).as_deref(), Some("1048577K"));
        assert_eq!((text(0), text(1000), text(1 << 47).as_deref()), (None, None, Some("131072G")));
    }
}
