//! Clones, templates, and the end of a guest.

use crate::catalog::{Both, Call, Calls, Form, Kind, Param, Started, Verb, flag, form, param, started, upid};
use crate::client::Client;
use crate::storage::volid::StorageName;
use crate::value::ids::{GuestKind, NodeName, SnapshotName, Vmid};
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

const CLONE_NEEDS: &[&str] = &["VM.Clone", "VM.Allocate", "Datastore.AllocateSpace", "SDN.Use"];
const DESTROY: &[Param] = &[flag("purge"), flag("destroy-unreferenced-disks")];

static CLONE: Both<Upid> = Both {
    qemu: Call::new("qemu clone", Verb::Post, "/nodes/{node}/qemu/{vmid}/clone", upid)
        .starts(&["qmclone"])
        .params(&[
            form("newid", Form::Vmid),
            form("name", Form::Dns),
            param("description", Kind::Text(8192)),
            flag("full"),
            form("snapname", Form::ConfigId),
            form("storage", Form::Storage),
            param("format", Kind::Word(&["raw", "qcow2", "vmdk"])),
            form("pool", Form::Pool),
            form("target", Form::Node),
        ])
        .needs(CLONE_NEEDS),
    lxc: Call::new("lxc clone", Verb::Post, "/nodes/{node}/lxc/{vmid}/clone", upid)
        .starts(&["vzclone"])
        .params(&[
            form("newid", Form::Vmid),
            form("hostname", Form::Dns),
            param("description", Kind::Text(8192)),
            flag("full"),
            form("snapname", Form::ConfigId),
            form("storage", Form::Storage),
            form("pool", Form::Pool),
            form("target", Form::Node),
        ])
        .needs(CLONE_NEEDS),
};
static TEMPLATE: Both<Started> = Both {
    qemu: Call::new("qemu template", Verb::Post, "/nodes/{node}/qemu/{vmid}/template", started)
        .starts(&["qmtemplate"])
        .needs(&["VM.Allocate"]),
    lxc: Call::new("lxc template", Verb::Post, "/nodes/{node}/lxc/{vmid}/template", started)
        .starts(&["vztemplate"])
        .needs(&["VM.Allocate"]),
};
static END: Both<Upid> = Both {
    qemu: Call::new("qemu destroy", Verb::Delete, "/nodes/{node}/qemu/{vmid}", upid)
        .starts(&["qmdestroy"])
        .params(DESTROY)
        .needs(&["VM.Allocate"]),
    lxc: Call::new("lxc destroy", Verb::Delete, "/nodes/{node}/lxc/{vmid}", upid)
        .starts(&["vzdestroy"])
        .params(DESTROY)
        .needs(&["VM.Allocate"]),
};

pub(super) static CALLS: Calls =
    &[&CLONE.qemu, &CLONE.lxc, &TEMPLATE.qemu, &TEMPLATE.lxc, &END.qemu, &END.lxc];

/// The format of a disk image on a storage that keeps files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// Plain bytes.
    Raw,
    /// QEMU's own, the only one there with snapshots.
    Qcow2,
    /// VMware's.
    Vmdk,
}

impl DiskFormat {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

/// A clone to be made.
///
/// A clone keeps what only root could set (a container's `keyctl`, a machine's `args` and hook
/// script), and gets new MAC addresses and a new UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneGuest {
    newid: Vmid,
    full: bool,
    name: Option<String>,
    description: Option<String>,
    snapshot: Option<SnapshotName>,
    storage: Option<StorageName>,
    format: Option<DiskFormat>,
    pool: Option<String>,
    target: Option<NodeName>,
}

impl CloneGuest {
    /// A full clone, with volumes of its own, under this number.
    #[must_use]
    pub const fn full(newid: Vmid) -> Self {
        Self {
            newid,
            full: true,
            name: None,
            description: None,
            snapshot: None,
            storage: None,
            format: None,
            pool: None,
            target: None,
        }
    }

    /// A linked clone of a template: its volumes rest on the template's.
    #[must_use]
    pub fn linked(newid: Vmid) -> Self {
        Self { full: false, ..Self::full(newid) }
    }

    /// The name of a machine, the host name of a container.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Up to 8192 characters.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        self.description = Some(text.to_owned());
        self
    }

    /// Clones what this snapshot holds. A running container can be cloned in no other way.
    #[must_use]
    pub fn of_snapshot(mut self, name: SnapshotName) -> Self {
        self.snapshot = Some(name);
        self
    }

    /// Where the volumes of a full clone go.
    #[must_use]
    pub fn storage(mut self, storage: StorageName) -> Self {
        self.storage = Some(storage);
        self
    }

    /// The format of a full clone's disks; virtual machines only.
    #[must_use]
    pub const fn format(mut self, format: DiskFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// The pool the clone is put in.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    /// The node the clone is made on, if all volumes are on shared storages.
    #[must_use]
    pub fn target(mut self, node: NodeName) -> Self {
        self.target = Some(node);
        self
    }
}

/// What goes with a guest when it is destroyed. What it is granted by ACL, its pool membership and
/// its firewall file always go (`pve/facts.md` 5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destroy {
    /// Also takes it out of backup jobs, replication and HA. Without it, a guest with replication
    /// or HA is not destroyed, and backup jobs will pick up the next guest of that number.
    pub purge: bool,
    /// Also removes volumes that no config names but whose name bears this number, on every
    /// storage: those of a guest that had the number before, perhaps.
    pub unreferenced_disks: bool,
}

impl Client {
    /// Clones a guest.
    ///
    /// # Errors
    /// [`ApiError`]; a number that is taken is refused at once.
    pub async fn clone_guest(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        clone: &CloneGuest,
    ) -> Result<Upid, ApiError> {
        let name = match kind {
            GuestKind::Qemu => "name",
            GuestKind::Lxc => "hostname",
        };
        let request = CLONE.of(kind).at(&self.guest(vmid).await?.parts());
        let request = request
            .refuse_if(clone.newid == vmid, "a clone needs a number of its own")
            .refuse_if(
                !clone.full && (clone.storage.is_some() || clone.format.is_some()),
                "a linked clone stays on its template's storage, in its format; make a full clone or leave those out",
            )
            .refuse_if(
                kind == GuestKind::Lxc && clone.format.is_some(),
                "a container's volumes have no format to choose",
            )
            .set("newid", clone.newid)
            .flag("full", clone.full)
            .opt(name, clone.name.as_ref())
            .opt("description", clone.description.as_ref())
            .opt("snapname", clone.snapshot.as_ref())
            .opt("storage", clone.storage.as_ref())
            .opt("pool", clone.pool.as_ref())
            .opt("target", clone.target.as_ref());
        let request = match (kind, clone.format) {
            (GuestKind::Qemu, Some(format)) => request.set("format", format.as_str()),
            _ => request,
        };
        self.send(request).await
    }

    /// Makes a stopped guest a template. There is no way back.
    ///
    /// # Errors
    /// [`ApiError`]; a guest with snapshots is refused.
    pub async fn make_template(&self, kind: GuestKind, vmid: Vmid) -> Result<Started, ApiError> {
        self.send(TEMPLATE.of(kind).at(&self.guest(vmid).await?.parts())).await
    }

    /// Destroys a stopped guest and its volumes. The API takes no digest here; to be sure of *which*
    /// guest it is, keep `protection=1` on it and take that away with [`Client::change_config_now`]
    /// and the digest you know: the one call that follows is then about the guest you looked at.
    ///
    /// # Errors
    /// [`ApiError`]; a running or protected guest is refused at once. A locked machine is refused
    /// in the task, a locked container at once.
    pub async fn destroy_guest(&self, kind: GuestKind, vmid: Vmid, with: Destroy) -> Result<Upid, ApiError> {
        let request = END.of(kind).at(&self.guest(vmid).await?.parts());
        let request =
            request.flag("purge", with.purge).flag("destroy-unreferenced-disks", with.unreferenced_disks);
        self.send(request).await
    }
}
