//! `guest.create`.

use authz::order::NetParams;
use clap::{ArgGroup, Args};
use protocol::refs::{BridgeName, GuestName, PoolName, StorageId, VolumeId};
use protocol::{HostName, Sha256, Tag, Vmid};

use super::values::{amount, mebibytes};
use super::{Asked, OpOptions};
use crate::prepare::{CreateWish, Source, Wish};

/// `guest.create`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true))]
pub struct CreateGuest {
    /// The host's name
    host: HostName,
    /// The new guest's number
    #[arg(value_name = "NEWVMID")]
    vmid: Vmid,
    /// Make a container from this template, a file as STORAGE:vztmpl/NAME
    #[arg(long, value_name = "VOLUME", group = "source", requires = "sha256")]
    from: Option<VolumeId>,
    /// SHA-256 of the template's file: what the host has must be this
    #[arg(long, value_name = "HEX", requires = "from")]
    sha256: Option<Sha256>,
    /// Make a full clone of this guest, which must be a template
    #[arg(long, value_name = "VMID", group = "source")]
    clone: Option<Vmid>,
    /// Restore this backup to the new number; its network devices start without a link
    #[arg(long, value_name = "VOLUME", group = "source", conflicts_with = "disk")]
    backup: Option<VolumeId>,
    /// Its name
    #[arg(long)]
    name: GuestName,
    /// Where its disks go
    #[arg(long)]
    storage: StorageId,
    /// How large a container's root filesystem is, in whole GiB, such as 8G
    #[arg(long, value_parser = amount, value_name = "SIZE")]
    disk: Option<u64>,
    /// Cores
    #[arg(long, value_name = "N")]
    cores: u32,
    /// Memory, such as 2G
    #[arg(long, value_parser = mebibytes, value_name = "SIZE")]
    memory: u32,
    /// Its one network device, on this bridge [default: none]
    #[arg(long, conflicts_with = "backup")]
    bridge: Option<BridgeName>,
    /// VLAN of the network device
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4094), value_name = "TAG", requires = "bridge")]
    vlan: Option<u32>,
    /// Do not put Proxmox's firewall before the network device
    #[arg(long, requires = "bridge")]
    no_firewall: bool,
    /// Give a container the host's root: what escapes from it owns the host
    #[arg(long, conflicts_with = "clone")]
    privileged: bool,
    /// Start it when the host starts
    #[arg(long)]
    onboot: bool,
    /// Start it afterwards
    #[arg(long)]
    start: bool,
    /// The pool it joins
    #[arg(long)]
    pool: Option<PoolName>,
    /// A tag; repeat for more
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

impl CreateGuest {
    pub(super) fn ask(self) -> Asked {
        let Self {
            host,
            vmid,
            from,
            sha256,
            clone,
            backup,
            name,
            storage,
            disk,
            cores,
            memory,
            bridge,
            vlan,
            no_firewall,
            privileged,
            onboot,
            start,
            pool,
            mut tags,
            options,
        } = self;
        let from = match (from, sha256, clone, backup) {
            (Some(volume), Some(sha256), ..) => Source::Archive { volume, sha256 },
            (_, _, Some(vmid), _) => Source::Clone(vmid),
            (_, _, _, Some(volume)) => Source::Backup(volume),
            // The group demands one of them: a clone of itself is refused in any case.
            (_, _, None, None) => Source::Clone(vmid),
        };
        tags.sort();
        tags.dedup();
        let wish = CreateWish {
            vmid,
            from,
            name,
            storage,
            disk,
            cores,
            memory_mib: memory,
            net: bridge.map(|bridge| NetParams { bridge, vlan, firewall: !no_firewall }),
            unprivileged: !privileged,
            onboot,
            start,
            pool,
            tags,
        };
        Asked::new(host, options, Wish::Create(Box::new(wish)))
    }
}
