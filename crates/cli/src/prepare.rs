//! Orders from facts: what an order must name is taken from what the host tells of its world, the host
//! itself from its operator-signed statement, the policy from this machine. Pure.
//!
//! The facts came through the hub and are not signed. That is safe: the warden reads every one of them
//! again and refuses on any difference, so a lie can only make an order useless. What a lie could do is
//! deceive the person who signs, so nothing that could disguise an order gets into one.

use authz::order::{HostRef, Params, PolicyRef, Preconditions};
use authz::world::{self, World};
use authz::{Kind, Order, Policy};
use protocol::ask::Look;
use protocol::text::{SafeText, printable};
use protocol::{GuestKind, GuestRef, Nonce, Vmid};

use crate::resolve::Believed;

mod backup;
mod create;
mod disk;
mod error;
mod facts;
mod guest;
mod host;
mod report;
mod snapshot;
mod storage;
mod usb;

use facts::{Facts, Guest};

pub use authz::order::BackupParams;
pub use backup::{BackupChange, BackupWish, Keep};
pub use create::{CreateWish, Source};
pub use disk::{DiskWish, NewSize, OrphanWish, UnusedDisk};
pub use error::PrepareError;
pub use guest::GuestWish;
pub use host::{longest_validity, prepare_for_host};
pub use report::of_report;
pub use snapshot::SnapshotWish;
pub use storage::StorageWish;
pub use usb::UsbWish;

/// What the operator wants to order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// About a guest.
    Guest(Vmid, GuestWish),
    /// About a guest's snapshots.
    Snapshot(Vmid, SnapshotWish),
    /// About a guest's disks.
    Disk(Vmid, DiskWish),
    /// `volume.delete` of a guest that is gone.
    Orphan(OrphanWish),
    /// `backup.create`
    Backup(Vmid, BackupParams),
    /// About backups that are there.
    Backups(BackupWish),
    /// `guest.create`
    Create(Box<CreateWish>),
    /// About the host's storages.
    Storage(StorageWish),
    /// About a USB disk.
    Usb(UsbWish),
}

impl Wish {
    /// Its order kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Guest(_, wish) => wish.kind(),
            Self::Snapshot(_, wish) => wish.kind(),
            Self::Disk(_, wish) => wish.kind(),
            Self::Orphan(_) => Kind::VolumeDelete,
            Self::Backup(..) => Kind::BackupCreate,
            Self::Backups(wish) => wish.order_kind(),
            Self::Create(_) => Kind::GuestCreate,
            Self::Storage(wish) => wish.kind(),
            Self::Usb(wish) => wish.kind(),
        }
    }

    /// What must be known of the host's world for it.
    pub fn look(&self) -> Look {
        match self {
            Self::Guest(vmid, wish) => wish.look(*vmid),
            Self::Snapshot(vmid, _) => Look { guest: Some(*vmid), ..Look::default() },
            Self::Disk(vmid, wish) => wish.look(*vmid),
            Self::Orphan(wish) => wish.look(),
            Self::Backup(vmid, _) => backup::look_for_create(*vmid),
            Self::Backups(wish) => wish.look(),
            Self::Create(wish) => wish.look(),
            Self::Storage(wish) => wish.look(),
            Self::Usb(wish) => wish.look(),
        }
    }

    /// The guest that must be there for it.
    pub fn guest(&self) -> Option<Vmid> {
        match self {
            Self::Guest(vmid, _) | Self::Snapshot(vmid, _) | Self::Disk(vmid, _) | Self::Backup(vmid, _) => {
                Some(*vmid)
            }
            Self::Orphan(_) | Self::Backups(_) | Self::Create(_) | Self::Storage(_) | Self::Usb(_) => None,
        }
    }

    /// The guest whose backups are meant, where nobody said what it is.
    pub fn of_unknown_kind(&self) -> Option<Vmid> {
        match self {
            Self::Backups(wish) if wish.kind().is_none() => Some(wish.vmid),
            _ => None,
        }
    }

    /// The same, with what it is as far as that is known now.
    #[must_use]
    pub fn of_kind(self, kind: Option<GuestKind>) -> Self {
        match self {
            Self::Backups(wish) => Self::Backups(BackupWish { kind: wish.kind.or(kind), ..wish }),
            other => other,
        }
    }

    fn parts(&self, facts: Facts<'_>) -> Result<Parts, PrepareError> {
        match self {
            Self::Guest(vmid, wish) => wish.parts(facts, &facts.guest(*vmid)?),
            Self::Snapshot(vmid, wish) => wish.parts(&facts.guest(*vmid)?),
            Self::Disk(vmid, wish) => wish.parts(facts, &facts.guest(*vmid)?),
            Self::Orphan(wish) => wish.parts(facts),
            Self::Backup(vmid, params) => backup::create(facts, &facts.guest(*vmid)?, params),
            Self::Backups(wish) => wish.parts(facts),
            Self::Create(wish) => wish.parts(facts),
            Self::Storage(wish) => wish.parts(facts),
            Self::Usb(wish) => wish.parts(facts),
        }
    }
}

/// What the facts make of a wish.
struct Parts {
    params: Params,
    guest: Option<GuestRef>,
    pre: Preconditions,
}

impl Parts {
    fn of_guest(guest: &Guest<'_>, params: Params, pre: Preconditions) -> Self {
        Self { params, guest: Some(guest.reference()), pre }
    }

    fn of_host(params: Params, pre: Preconditions) -> Self {
        Self { params, guest: None, pre }
    }
}

/// What the shell adds: randomness, time, words.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// 128 random bits.
    pub nonce: Nonce,
    /// Unix seconds.
    pub now: u64,
    /// Seconds.
    pub valid_s: u64,
    /// Why, for people.
    pub reason: SafeText,
    /// A ticket, for people.
    pub ticket: Option<SafeText>,
}

/// Prepares an order for signing out of the answer to [`Wish::look`].
///
/// # Errors
/// What is missing, and what the policy, the order's own rules or the host would refuse: better said before
/// anybody signs.
pub fn prepare(
    host: &Believed,
    policy: &Policy,
    world: &World,
    wish: &Wish,
    with: Circumstances,
) -> Result<Order, PrepareError> {
    check_rule(policy, wish.kind(), with.valid_s)?;
    let Parts { params, guest, pre } = wish.parts(Facts { host: host.name(), world })?;
    let Circumstances { nonce, now, valid_s, reason, ticket } = with;
    let order = Order {
        params,
        host: host_ref(host),
        guest,
        pre,
        plan: None,
        nonce,
        nbf: now,
        exp: now.saturating_add(valid_s),
        after: None,
        policy: PolicyRef { version: policy.version(), sha256: *policy.hash() },
        min_signers: 1,
        reason,
        ticket,
    };
    // As the host will read it, and against the world that it told.
    Order::decode(&order.encode()).map_err(|error| PrepareError::Range(error.to_string()))?;
    world::check(&order, world).map_err(|(_, why)| PrepareError::Refused(printable(&why)))?;
    Ok(order)
}

fn host_ref(host: &Believed) -> HostRef {
    HostRef {
        id: *host.id(),
        key: host.key.fingerprint(),
        generation: host.statement.host_key_gen,
        cluster: None,
        name: host.name().clone(),
    }
}

/// What the host would refuse anyway is said before anybody signs.
fn check_rule(policy: &Policy, kind: Kind, valid_s: u64) -> Result<(), PrepareError> {
    let rule = policy.rule(kind).ok_or(PrepareError::NoRule(kind))?;
    if valid_s > rule.max_validity_s {
        return Err(PrepareError::Validity { kind, max_s: rule.max_validity_s, asked_s: valid_s });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
