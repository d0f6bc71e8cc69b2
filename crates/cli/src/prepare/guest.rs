//! Guests: power, configuration, end.

use std::collections::BTreeMap;

use authz::Kind;
use authz::order::{
    AdoptParams, Amount, ConfigChange, ConfigKey, ConfigParams, ConfigValue, DestroyParams, NoParams, Params,
    PowerOffParams, Preconditions, RebootParams, ResizeParams, RestoreOverParams, SuspendParams, TagParams,
};
use protocol::ask::{Look, Owner};
use protocol::refs::{StorageId, VolumeId};
use protocol::text::printable;
use protocol::{GuestKind, RunState, Tag, Vmid};

use super::facts::{Facts, Guest};
use super::{Parts, PrepareError, error};

/// What is ordered about a guest itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestWish {
    /// `guest.start`
    Start,
    /// `guest.resume`
    Resume,
    /// `guest.shutdown`
    Shutdown {
        /// How long it may take, seconds.
        timeout_s: u32,
        /// Pull the plug when it takes longer.
        force: bool,
    },
    /// `guest.stop`
    Stop,
    /// `guest.reboot`
    Reboot {
        /// How long the guest may take to stop, seconds.
        timeout_s: u32,
    },
    /// `guest.suspend`
    Suspend {
        /// Write its memory to disk and stop it.
        to_disk: bool,
    },
    /// `guest.tag`: exactly these.
    Tag(Vec<Tag>),
    /// `guest.config`: each option with its new value, or none to unset it.
    Config(Vec<(ConfigKey, Option<ConfigValue>)>),
    /// `guest.resize`: what shall change.
    Resize {
        /// Cores per socket.
        cores: Option<u32>,
        /// Sockets.
        sockets: Option<u32>,
        /// MiB
        memory_mib: Option<u32>,
        /// MiB
        swap_mib: Option<u32>,
    },
    /// `guest.restore_over`
    RestoreOver {
        /// The backup.
        archive: VolumeId,
        /// Where the disks go.
        storage: StorageId,
        /// MAC addresses of its own, not those of the backup.
        unique: bool,
        /// Start it afterwards.
        start: bool,
        /// Stop the old guest hard if it runs.
        stop: bool,
    },
    /// `guest.destroy`
    Destroy {
        /// Also out of backup jobs, replication and high availability.
        purge: bool,
        /// Also every other volume with its number.
        unreferenced: bool,
        /// Stop it hard if it runs.
        stop: bool,
    },
    /// `guest.adopt`
    Adopt {
        /// Also switch on Proxmox's `protection`.
        protect: bool,
    },
    /// `guest.release`
    Release,
}

impl GuestWish {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Start => Kind::GuestStart,
            Self::Resume => Kind::GuestResume,
            Self::Shutdown { .. } => Kind::GuestShutdown,
            Self::Stop => Kind::GuestStop,
            Self::Reboot { .. } => Kind::GuestReboot,
            Self::Suspend { .. } => Kind::GuestSuspend,
            Self::Tag(_) => Kind::GuestTag,
            Self::Config(_) => Kind::GuestConfig,
            Self::Resize { .. } => Kind::GuestResize,
            Self::RestoreOver { .. } => Kind::GuestRestoreOver,
            Self::Destroy { .. } => Kind::GuestDestroy,
            Self::Adopt { .. } => Kind::GuestAdopt,
            Self::Release => Kind::GuestRelease,
        }
    }

    pub(super) fn look(&self, vmid: Vmid) -> Look {
        let guest = Look { guest: Some(vmid), ..Look::default() };
        match self {
            Self::RestoreOver { archive, .. } => {
                let owner = archive.backup_owner().map(|(kind, vmid)| Owner { vmid, kind });
                Look { owner, backing: true, ..guest }
            }
            _ => guest,
        }
    }

    pub(super) fn parts(&self, facts: Facts<'_>, guest: &Guest<'_>) -> Result<Parts, PrepareError> {
        let vmid = guest.vmid;
        let running = |remedy| match guest.state()? {
            RunState::Running => Ok(()),
            state => Err(PrepareError::State { vmid, state, remedy }),
        };
        let stated = || Ok(Preconditions { state: Some(guest.state()?), ..guest.configured()? });
        let (params, pre) = match self {
            Self::Start => {
                if guest.now.state == RunState::Running {
                    let remedy = "there is nothing to start (a paused one goes on by guest.resume)";
                    return Err(PrepareError::State { vmid, state: RunState::Running, remedy });
                }
                (Params::GuestStart(NoParams {}), stated()?)
            }
            Self::Resume => {
                guest.machine("Proxmox resumes")?;
                (Params::GuestResume(NoParams {}), stated()?)
            }
            Self::Shutdown { timeout_s, force } => {
                running("there is nothing to shut down")?;
                let params = PowerOffParams { timeout_s: *timeout_s, force: *force };
                (Params::GuestShutdown(params), guest.powered()?)
            }
            Self::Stop => {
                running("there is nothing to stop")?;
                (Params::GuestStop(NoParams {}), guest.powered()?)
            }
            Self::Reboot { timeout_s } => {
                running("use guest.start")?;
                (Params::GuestReboot(RebootParams { timeout_s: *timeout_s }), guest.powered()?)
            }
            Self::Suspend { to_disk } => {
                guest.machine("Proxmox suspends")?;
                running("there is nothing to suspend")?;
                (Params::GuestSuspend(SuspendParams { to_disk: *to_disk }), guest.powered()?)
            }
            Self::Tag(tags) => {
                let mut tags = tags.clone();
                tags.sort();
                tags.dedup();
                // Tags may be changed in any state, so the state is no precondition.
                (Params::GuestTag(TagParams { tags }), guest.configured()?)
            }
            Self::Config(changes) => {
                let config = guest.config()?;
                let changes = changes.iter().map(|(key, new)| change(guest, config, key, new.as_ref()));
                let params = ConfigParams { changes: changes.collect::<Result<_, _>>()? };
                (Params::GuestConfig(params), guest.configured()?)
            }
            Self::Resize { cores, sockets, memory_mib, swap_mib } => {
                let amount = |key: &str, new: &Option<u32>| {
                    new.map(|new| resized(guest, guest.config()?, key, new)).transpose()
                };
                if sockets.is_some() {
                    guest.machine("sockets have")?;
                }
                if swap_mib.is_some() && guest.now.kind == GuestKind::Qemu {
                    let why = format!("guest {vmid} is a virtual machine, and swap have only containers");
                    return Err(PrepareError::Pointless(why));
                }
                let params = ResizeParams {
                    cores: amount("cores", cores)?,
                    sockets: amount("sockets", sockets)?,
                    memory_mib: amount("memory", memory_mib)?,
                    swap_mib: amount("swap", swap_mib)?,
                };
                (Params::GuestResize(params), guest.configured()?)
            }
            Self::RestoreOver { archive, storage, unique, start, stop } => {
                let pre = restored_over(facts, guest, archive, *stop)?;
                facts.storage(storage)?;
                let (archive, storage) = (archive.clone(), storage.clone());
                let params = RestoreOverParams { archive, storage, unique: *unique, start: *start };
                (Params::GuestRestoreOver(params), pre)
            }
            Self::Destroy { purge, unreferenced, stop } => {
                let params = DestroyParams { purge: *purge, destroy_unreferenced: *unreferenced };
                let remedy = "only a stopped guest is destroyed, so guest.shutdown comes first (or --stop pulls its plug)";
                let pre = guest.ending(*stop, remedy)?;
                (Params::GuestDestroy(params), pre)
            }
            Self::Adopt { protect } => {
                (Params::GuestAdopt(AdoptParams { protect: *protect }), guest.configured()?)
            }
            Self::Release => (Params::GuestRelease(NoParams {}), guest.configured()?),
        };
        Ok(Parts::of_guest(guest, params, pre))
    }
}

/// One option, then and now.
fn change(
    guest: &Guest<'_>,
    config: &BTreeMap<String, String>,
    key: &ConfigKey,
    new: Option<&ConfigValue>,
) -> Result<ConfigChange, PrepareError> {
    let vmid = guest.vmid;
    if !key.fits(guest.now.kind) {
        let kind = guest.now.kind;
        return Err(PrepareError::Pointless(format!(
            "guest {vmid} is a {kind} one, and those have no option {key}"
        )));
    }
    let old = match config.get(key.as_str()) {
        None => None,
        Some(value) => Some(value.parse::<ConfigValue>().map_err(|_| PrepareError::Disguised {
            vmid,
            what: "old value of a changed option",
            shown: printable(value),
        })?),
    };
    if old.as_ref() == new {
        return Err(PrepareError::Pointless(match new {
            Some(new) => format!("option {key} of guest {vmid} is '{new}' already"),
            None => {
                let set: Vec<&str> = config
                    .keys()
                    .map(String::as_str)
                    .filter(|key| key.parse::<ConfigKey>().is_ok())
                    .collect();
                format!("option {key} of guest {vmid} is not set (set are: {})", error::list(&set))
            }
        }));
    }
    Ok(ConfigChange { key: key.clone(), old, new: new.cloned() })
}

/// An amount, then and now.
fn resized(
    guest: &Guest<'_>,
    config: &BTreeMap<String, String>,
    key: &str,
    new: u32,
) -> Result<Amount, PrepareError> {
    let old = match config.get(key) {
        None => None,
        Some(text) => {
            Some(text.parse::<u32>().ok().filter(|old| old.to_string() == *text).ok_or_else(|| {
                PrepareError::Unnameable {
                    what: "amount that a guest has now",
                    shown: format!("{key}: {}", printable(text)),
                }
            })?)
        }
    };
    if old == Some(new) {
        return Err(PrepareError::Pointless(format!("guest {} has {key} {new} already", guest.vmid)));
    }
    Ok(Amount { old, new })
}

/// Everything that goes, the archive, and the newest other backup, which must still be there.
fn restored_over(
    facts: Facts<'_>,
    guest: &Guest<'_>,
    archive: &VolumeId,
    stop: bool,
) -> Result<Preconditions, PrepareError> {
    let vmid = guest.vmid;
    match archive.backup_owner() {
        Some((kind, owner)) if (kind, owner) == (guest.now.kind, vmid) => {}
        Some((kind, owner)) => {
            return Err(PrepareError::Pointless(format!(
                "{archive} is a backup of {kind} {owner}, not of {} {vmid}: restore it to a new number with guest.create --backup",
                guest.now.kind
            )));
        }
        None => {
            return Err(PrepareError::Pointless(format!(
                "the name of {archive} does not tell whose backup it is, so it is restored over no guest"
            )));
        }
    }
    let found = facts.backup(archive)?;
    let others = facts.backups()?.iter().filter(|backup| backup.volid != *archive);
    let Some(other) = others.max_by_key(|backup| (backup.ctime, &backup.volid)) else {
        for storage in facts.world.unlisted.keys() {
            facts.listed(storage)?;
        }
        return Err(PrepareError::Pointless(format!(
            "{archive} is the only backup of guest {vmid}, and nothing is restored over a guest from its only copy: take another one first with backup.create"
        )));
    };
    let remedy = "what it wrote since the backup is put aside with it, so guest.shutdown comes first (or --stop pulls its plug)";
    let pre = guest.ending(stop, remedy)?;
    Ok(Preconditions { backups: Some(vec![found.clone(), other.clone()]), ..pre })
}
