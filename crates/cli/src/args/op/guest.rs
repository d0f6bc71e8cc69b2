//! Guests.

use authz::order::{ConfigKey, ConfigValue};
use clap::{ArgGroup, Args};
use protocol::refs::{StorageId, VolumeId};

use super::values::{mebibytes, setting};
use super::{Asked, OpArgs, OpOptions};
use crate::prepare::GuestWish;
use crate::text::parse_duration;

/// How long a guest may take.
fn wait(text: &str) -> Result<u32, String> {
    let seconds = parse_duration(text).map_err(|error| error.to_string())?;
    let fits = u32::try_from(seconds).ok().filter(|seconds| (1..=3600).contains(seconds));
    fits.ok_or_else(|| "a guest may take 1s to 60m".to_owned())
}

/// `guest.shutdown`
#[derive(Debug, Args)]
pub struct Shutdown {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// How long the guest may take
    #[arg(long, default_value = "180s", value_parser = wait, value_name = "DURATION")]
    timeout: u32,
    /// Switch it off when it takes longer: what it had not written is lost
    #[arg(long)]
    then_stop: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `guest.reboot`
#[derive(Debug, Args)]
pub struct Reboot {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// How long the guest may take to stop
    #[arg(long, default_value = "180s", value_parser = wait, value_name = "DURATION")]
    timeout: u32,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `guest.suspend`
#[derive(Debug, Args)]
pub struct Suspend {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// Write its memory to disk and stop it; else it is paused and keeps its memory
    #[arg(long)]
    to_disk: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `guest.config`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub struct ChangeConfig {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// Give an option a value; repeat for more
    #[arg(long, value_parser = setting, value_name = "KEY=VALUE", group = "change")]
    set: Vec<(ConfigKey, ConfigValue)>,
    /// Remove an option, so that Proxmox's default counts; repeat for more
    #[arg(long, value_name = "KEY", group = "change")]
    unset: Vec<ConfigKey>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `guest.resize`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("amount").required(true).multiple(true))]
pub struct Resize {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// Cores (of a virtual machine: per socket)
    #[arg(long, value_name = "N", group = "amount")]
    cores: Option<u32>,
    /// Sockets; virtual machines only
    #[arg(long, value_name = "N", group = "amount")]
    sockets: Option<u32>,
    /// Memory, such as 4G
    #[arg(long, value_parser = mebibytes, value_name = "SIZE", group = "amount")]
    memory: Option<u32>,
    /// Swap, such as 512M; containers only
    #[arg(long, value_parser = mebibytes, value_name = "SIZE", group = "amount")]
    swap: Option<u32>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `guest.restore_over`
#[derive(Debug, Args)]
pub struct RestoreOver {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// The backup, one of this guest
    #[arg(long, value_name = "VOLUME")]
    archive: VolumeId,
    /// Where its disks go
    #[arg(long)]
    storage: StorageId,
    /// Give the new guest MAC addresses of its own, not those of the backup
    #[arg(long)]
    unique: bool,
    /// Start the new guest afterwards
    #[arg(long)]
    start: bool,
    /// Stop the old guest hard if it runs
    #[arg(long)]
    stop: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `guest.destroy`
#[derive(Debug, Args)]
pub struct Destroy {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// Also take it out of backup jobs, replication and high availability
    #[arg(long)]
    purge: bool,
    /// Also delete EVERY other volume with its number, on all storages, whosever it was
    #[arg(long)]
    destroy_unreferenced: bool,
    /// Stop it hard first if it runs
    #[arg(long)]
    stop: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `guest.adopt`
#[derive(Debug, Args)]
pub struct Adopt {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// Also switch on Proxmox's protection
    #[arg(long)]
    protect: bool,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

impl Shutdown {
    pub(super) fn ask(self) -> Asked {
        let Self { at, timeout, then_stop, options } = self;
        Asked::guest(at, options, GuestWish::Shutdown { timeout_s: timeout, force: then_stop })
    }
}

impl Reboot {
    pub(super) fn ask(self) -> Asked {
        let Self { at, timeout, options } = self;
        Asked::guest(at, options, GuestWish::Reboot { timeout_s: timeout })
    }
}

impl Suspend {
    pub(super) fn ask(self) -> Asked {
        let Self { at, to_disk, options } = self;
        Asked::guest(at, options, GuestWish::Suspend { to_disk })
    }
}

impl ChangeConfig {
    pub(super) fn ask(self) -> Asked {
        let Self { at, set, unset, options } = self;
        let set = set.into_iter().map(|(key, value)| (key, Some(value)));
        let changes = set.chain(unset.into_iter().map(|key| (key, None))).collect();
        Asked::guest(at, options, GuestWish::Config(changes))
    }
}

impl Resize {
    pub(super) fn ask(self) -> Asked {
        let Self { at, cores, sockets, memory, swap, options } = self;
        let wish = GuestWish::Resize { cores, sockets, memory_mib: memory, swap_mib: swap };
        Asked::guest(at, options, wish)
    }
}

impl RestoreOver {
    pub(super) fn ask(self) -> Asked {
        let Self { at, archive, storage, unique, start, stop, options } = self;
        Asked::guest(at, options, GuestWish::RestoreOver { archive, storage, unique, start, stop })
    }
}

impl Destroy {
    pub(super) fn ask(self) -> Asked {
        let Self { at, purge, destroy_unreferenced, stop, options } = self;
        Asked::guest(at, options, GuestWish::Destroy { purge, unreferenced: destroy_unreferenced, stop })
    }
}

impl Adopt {
    pub(super) fn ask(self) -> Asked {
        let Self { at, protect, options } = self;
        Asked::guest(at, options, GuestWish::Adopt { protect })
    }
}
