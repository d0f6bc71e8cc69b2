//! Reads the world from Proxmox: what an order, a step or a question is about, at one moment, and no more
//! than that. What cannot be read is unknown and says why; an order that states it is refused.
//!
//! | module | reads |
//! |---|---|
//! | [`guest`] | a guest: configuration, state, snapshots, volumes, HA, replication |
//! | [`host`] | backups, volumes, storages, numbers, templates |
//! | [`backing`] | disks, filesystems, pools: from the host itself |
//! | [`wanted`] | pure: which of it an order or a question needs |

pub(crate) mod backing;
mod guest;
mod host;
mod wanted;

use authz::world::World;
use protocol::report::Known;
use protocol::{GuestKind, Vmid};
use proxmox_client::{ApiError, Client, ErrorClass};

pub(crate) use guest::identity;
pub use guest::{Boot, Extent, Observed, observe, observe_all, pending};
pub use wanted::Wanted;

/// What the world is read with: Proxmox's API, and the host's own files.
#[derive(Debug, Clone, Copy)]
pub struct Near<'a> {
    /// The API.
    pub client: &'a Client,
    /// Where the host's files begin; `/` but in tests.
    pub root: &'a std::path::Path,
}

/// Reads what is wanted. Only a guest that is wanted and cannot be read is an error: everything else says
/// in its own place that it is unknown.
pub async fn read(near: &Near<'_>, wanted: &Wanted) -> Result<(World, Option<Observed>), ApiError> {
    let client = near.client;
    let unread = "nothing that was asked for needs it";
    let mut world = World::unread(unread);
    let mut seen = None;
    if let Some((kind, vmid)) = wanted.guest {
        let observed = observe_all(client, kind, vmid, wanted.extent).await?;
        world.guest = Known::Known(observed.guest_now());
        seen = Some(observed);
    }
    if let Some((owner, storages)) = &wanted.backups {
        let listed = host::backups(client, *owner, storages).await;
        (world.backups, world.unlisted, world.protected) =
            (listed.backups, listed.unlisted, listed.protected);
    }
    if !wanted.volumes.is_empty() {
        world.volumes = host::volumes(client, &wanted.volumes).await;
    }
    if wanted.storages {
        world.storages = host::storages(near).await;
    }
    if wanted.vmids {
        world.vmids = host::vmids(client).await;
    }
    if let Some(vmid) = wanted.template {
        world.template = host::template(client, vmid).await;
    }
    if wanted.disks {
        world.disks = backing::disks(near.root);
        world.mounted = backing::mounted(near.root);
    }
    Ok((world, seen))
}

/// Which kind of guest has this number; none when there is no such guest on this node.
pub async fn kind_of(client: &Client, vmid: Vmid) -> Result<Option<GuestKind>, ApiError> {
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        match client.guest_status(client_kind(kind), client_vmid(vmid)).await {
            Ok(_) => return Ok(Some(kind)),
            Err(error) if error.class() == ErrorClass::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A value that was read, or why it was not.
fn known<T>(read: Result<T, ApiError>) -> Known<T> {
    match read {
        Ok(value) => Known::Known(value),
        Err(error) => Known::Unknown(error.to_string()),
    }
}

/// The client's own type for the same thing.
pub fn client_kind(kind: GuestKind) -> proxmox_client::GuestKind {
    match kind {
        GuestKind::Qemu => proxmox_client::GuestKind::Qemu,
        GuestKind::Lxc => proxmox_client::GuestKind::Lxc,
    }
}

/// The client's own type for the same number.
pub fn client_vmid(vmid: Vmid) -> proxmox_client::Vmid {
    proxmox_client::Vmid::new(vmid.get()).expect("both types allow 100 to 999999999")
}
