//! New guests, and guests out of backups.
//!
//! What Proxmox would decide by a default that differs between its versions, or that does harm, is
//! always sent: `unprivileged`, `start`, `onboot`, `unique`, the storage.

use std::fmt;

use crate::catalog::{Both, Call, Calls, Form, Kind, Param, Request, Verb, flag, form, param, upid};
use crate::client::Client;
use crate::guest::change::put;
use crate::guest::options::{self, QEMU_BEYOND, join};
use crate::storage::volid::{StorageName, Volid, VolumeKind};
use crate::value::ids::{GuestKind, Vmid};
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

const CREATE: [Param; 5] =
    [form("vmid", Form::Vmid), flag("start"), flag("force"), flag("unique"), form("pool", Form::Pool)];
static QEMU: [Param; 75] = join(
    options::QEMU,
    join::<5, 3, 8>(
        CREATE,
        [form("archive", Form::Volume), flag("live-restore"), form("storage", Form::Storage)],
    ),
);
static LXC: [Param; 37] = join(
    options::LXC,
    join::<5, 6, 11>(
        CREATE,
        [
            form("ostemplate", Form::Volume),
            flag("restore"),
            flag("unprivileged"),
            form("storage", Form::Storage),
            param("password", Kind::Secret(5, 1024)),
            param("ssh-public-keys", Kind::Text(65_536)),
        ],
    ),
);
const NEEDS: &[&str] = &[
    "VM.Allocate",
    "VM.Backup",
    "VM.Config.Disk",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "Datastore.AllocateSpace",
    "SDN.Use",
];

static MAKE: Both<Upid> = Both {
    qemu: Call::new("qemu create", Verb::Post, "/nodes/{node}/qemu", upid)
        .starts(&["qmcreate", "qmrestore"])
        .params(&QEMU)
        .needs(NEEDS)
        .beyond(QEMU_BEYOND)
        .slow(),
    lxc: Call::new("lxc create", Verb::Post, "/nodes/{node}/lxc", upid)
        .starts(&["vzcreate", "vzrestore"])
        .params(&LXC)
        .needs(NEEDS)
        // Privileged containers on Proxmox VE 9.
        .beyond(&["Sys.Modify"])
        .slow(),
};

pub(super) static CALLS: Calls = &[&MAKE.qemu, &MAKE.lxc];

/// What all new guests have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NewGuest {
    vmid: Vmid,
    options: Vec<(String, String)>,
    pool: Option<String>,
    start: bool,
    onboot: bool,
}

impl NewGuest {
    const fn new(vmid: Vmid) -> Self {
        Self { vmid, options: Vec::new(), pool: None, start: false, onboot: false }
    }

    fn fill(&self, kind: GuestKind, request: Request<Upid>) -> Request<Upid> {
        let request = request.set("vmid", self.vmid).flag("start", self.start).flag("onboot", self.onboot);
        let request = request.opt("pool", self.pool.as_ref());
        put_all(request, kind, &self.options)
    }
}

fn put_all(mut request: Request<Upid>, kind: GuestKind, options: &[(String, String)]) -> Request<Upid> {
    const OTHERWISE: [&str; 8] =
        ["vmid", "start", "force", "unique", "archive", "ostemplate", "restore", "template"];
    for (name, value) in options {
        let otherwise = OTHERWISE.contains(&name.as_str());
        request = request
            .refuse_if(otherwise, format_args!("`{name}` is not an option; use the method made for it"));
        request = put(request, kind, name, value);
    }
    request
}

macro_rules! common {
    ($guest:ident) => {
        /// Any option of its config by name. Booleans are 0 and 1; property strings are best built
        /// with [`PropertyString`](crate::PropertyString).
        #[must_use]
        pub fn option(mut self, name: &str, value: impl fmt::Display) -> Self {
            self.$guest.options.push((name.to_owned(), value.to_string()));
            self
        }

        /// The pool it is put in.
        #[must_use]
        pub fn pool(mut self, pool: &str) -> Self {
            self.$guest.pool = Some(pool.to_owned());
            self
        }

        /// Starts it at once; without this, `start=0` is sent.
        #[must_use]
        pub const fn start(mut self) -> Self {
            self.$guest.start = true;
            self
        }

        /// Starts it whenever the host starts; without this, `onboot=0` is sent.
        #[must_use]
        pub const fn start_on_boot(mut self) -> Self {
            self.$guest.onboot = true;
            self
        }
    };
}

/// A virtual machine to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateQemu {
    guest: NewGuest,
}

impl CreateQemu {
    /// Stopped, and not started at boot.
    #[must_use]
    pub const fn new(vmid: Vmid) -> Self {
        Self { guest: NewGuest::new(vmid) }
    }

    common!(guest);

    /// Its name, a host name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.option("name", name)
    }

    /// Mebibytes.
    #[must_use]
    pub fn memory(self, mib: u64) -> Self {
        self.option("memory", mib)
    }

    /// The public keys that cloud-init gives its user, one a line. Needs VM.Config.Cloudinit.
    #[must_use]
    pub fn ssh_public_keys(self, keys: &str) -> Self {
        // The value is itself percent-encoded text.
        let mut encoded = String::new();
        for byte in keys.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
                encoded.push(char::from(byte));
            } else {
                encoded += &format!("%{byte:02X}");
            }
        }
        self.option("sshkeys", encoded)
    }

    /// Cores of each socket.
    #[must_use]
    pub fn cores(self, cores: u32) -> Self {
        self.option("cores", cores)
    }
}

/// A container to be made of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateLxc {
    guest: NewGuest,
    ostemplate: Volid,
    rootfs: String,
    privileged: bool,
    password: Option<Password>,
    ssh_public_keys: Option<String>,
}

/// Not shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl CreateLxc {
    /// Unprivileged, stopped, and not started at boot. The root file system goes to `storage`, with
    /// that many gibibytes.
    #[must_use]
    pub fn new(vmid: Vmid, ostemplate: Volid, storage: &StorageName, gib: u32) -> Self {
        Self {
            guest: NewGuest::new(vmid),
            ostemplate,
            rootfs: format!("{storage}:{gib}"),
            privileged: false,
            password: None,
            ssh_public_keys: None,
        }
    }

    common!(guest);

    /// Root in the container is root on the host. Needs Sys.Modify on `/` from Proxmox VE 9 on.
    #[must_use]
    pub const fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    /// Its host name.
    #[must_use]
    pub fn hostname(self, name: &str) -> Self {
        self.option("hostname", name)
    }

    /// Mebibytes, 16 at least.
    #[must_use]
    pub fn memory(self, mib: u64) -> Self {
        self.option("memory", mib)
    }

    /// Mebibytes, 0 for none.
    #[must_use]
    pub fn swap(self, mib: u64) -> Self {
        self.option("swap", mib)
    }

    /// Root's password, 5 characters at least. Never shown.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(Password(password.to_owned()));
        self
    }

    /// Root's public keys, one a line.
    #[must_use]
    pub fn ssh_public_keys(mut self, keys: &str) -> Self {
        self.ssh_public_keys = Some(keys.to_owned());
        self
    }
}

/// The caller's word that the guest under this number may be lost. A restore over it destroys its
/// volumes and snapshots *before* the archive is read; if the archive is broken, nothing is left
/// (`pve/facts.md` 7.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestroyFirst {
    vmid: Vmid,
}

impl DestroyFirst {
    /// Names the guest that may be lost; it must be the one that is restored over.
    #[must_use]
    pub const fn the_guest(vmid: Vmid) -> Self {
        Self { vmid }
    }
}

/// A guest to be made of a backup.
///
/// The safe order is a number nobody has, [`Restore::unique`], a look at the result, and only then
/// an end of the old guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    vmid: Vmid,
    archive: Volid,
    storage: StorageName,
    unique: bool,
    live: bool,
    unprivileged: Option<bool>,
    over: Option<DestroyFirst>,
    pool: Option<String>,
    options: Vec<(String, String)>,
}

impl Restore {
    /// Under that number, stopped, its volumes on that storage, with the MAC addresses and the UUID
    /// of the backup.
    #[must_use]
    pub const fn new(vmid: Vmid, archive: Volid, storage: StorageName) -> Self {
        Self {
            vmid,
            archive,
            storage,
            unique: false,
            live: false,
            unprivileged: None,
            over: None,
            pool: None,
            options: Vec::new(),
        }
    }

    /// With new MAC addresses and a new UUID, so that it can run beside the old guest.
    #[must_use]
    pub const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }

    /// Over a guest that exists, which is destroyed first.
    #[must_use]
    pub const fn over(mut self, guest: DestroyFirst) -> Self {
        self.over = Some(guest);
        self
    }

    /// Starts the machine while its data still arrives; only from a Proxmox Backup Server.
    #[must_use]
    pub const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// A container's kind; without this, what the backup says.
    #[must_use]
    pub const fn unprivileged(mut self, unprivileged: bool) -> Self {
        self.unprivileged = Some(unprivileged);
        self
    }

    /// The pool it is put in.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    /// Another value for an option than the backup has: `net0` with `link_down=1`, `onboot`, a
    /// name. Volumes cannot be changed in this way.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.options.push((name.to_owned(), value.to_string()));
        self
    }

    fn fill(&self, kind: GuestKind, request: Request<Upid>) -> Request<Upid> {
        let other = match kind {
            GuestKind::Qemu => GuestKind::Lxc,
            GuestKind::Lxc => GuestKind::Qemu,
        };
        let volume = |name: &str| match kind {
            GuestKind::Qemu => crate::catalog::is_qemu_drive(name) || name.starts_with("unused"),
            GuestKind::Lxc => name == "rootfs" || name.starts_with("mp") || name.starts_with("unused"),
        };
        let request = request
            .refuse_if(
                self.archive.kind() != VolumeKind::Backup,
                format_args!("`{}` is not a backup", self.archive),
            )
            .refuse_if(
                self.archive.guest() == Some(other),
                format_args!("`{}` holds the other kind of guest", self.archive),
            )
            .refuse_if(
                self.over.is_some_and(|over| over.vmid != self.vmid),
                "the guest that may be destroyed is not the one that would be",
            )
            .refuse_if(
                self.options.iter().any(|(name, _)| volume(name)),
                "volumes come out of the backup; change them afterwards",
            )
            .refuse_if(
                kind == GuestKind::Lxc && self.options.iter().any(|(name, _)| name == "features"),
                "a container keeps the features of its backup only if none are given; leave `features` out",
            )
            .refuse_if(
                kind == GuestKind::Qemu && self.unprivileged.is_some(),
                "a virtual machine is neither privileged nor unprivileged",
            )
            .refuse_if(
                kind == GuestKind::Lxc && self.live,
                "only a virtual machine can start while its data still arrives",
            )
            .set("vmid", self.vmid)
            .set("storage", &self.storage)
            .flag("start", false)
            .flag("unique", self.unique)
            .flag_if("force", self.over.is_some())
            .opt("pool", self.pool.as_ref());
        let request = match kind {
            GuestKind::Qemu => request.set("archive", &self.archive).flag_if("live-restore", self.live),
            GuestKind::Lxc => request
                .set("ostemplate", &self.archive)
                .flag("restore", true)
                .opt("unprivileged", self.unprivileged.map(u8::from)),
        };
        put_all(request, kind, &self.options)
    }
}

impl Client {
    /// Makes a virtual machine.
    ///
    /// # Errors
    /// [`ApiError`]; a number that is taken is refused at once.
    pub async fn create_qemu(&self, new: &CreateQemu) -> Result<Upid, ApiError> {
        let request = MAKE.qemu.at(&[self.node().await?.as_str()]);
        self.send(new.guest.fill(GuestKind::Qemu, request)).await
    }

    /// Makes a container.
    ///
    /// # Errors
    /// [`ApiError`]; a number that is taken is refused at once.
    pub async fn create_lxc(&self, new: &CreateLxc) -> Result<Upid, ApiError> {
        let request = MAKE.lxc.at(&[self.node().await?.as_str()]);
        let request = new.guest.fill(GuestKind::Lxc, request);
        let request = request
            .refuse_if(
                new.ostemplate.kind() == VolumeKind::Backup,
                "that is a backup, not a template; restore it instead",
            )
            .set("ostemplate", &new.ostemplate)
            .set("rootfs", &new.rootfs)
            .flag("unprivileged", !new.privileged)
            .opt("password", new.password.as_ref().map(|password| &password.0))
            .opt("ssh-public-keys", new.ssh_public_keys.as_ref());
        self.send(request).await
    }

    /// Makes a guest of a backup.
    ///
    /// # Errors
    /// [`ApiError`]; a number that is taken is refused at once unless [`Restore::over`] was said,
    /// a running guest always.
    pub async fn restore(&self, kind: GuestKind, restore: &Restore) -> Result<Upid, ApiError> {
        let request = MAKE.of(kind).at(&[self.node().await?.as_str()]);
        self.send(restore.fill(kind, request)).await
    }
}
