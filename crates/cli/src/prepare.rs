//! Orders from reports: the facts that an order must name are taken from the host's last report,
//! the host from its operator-signed statement, the policy from this machine. Pure.
//!
//! The report came through the hub and is not signed. That is safe: the warden reads every fact
//! again and refuses on any difference, so a lying report can only make an order useless.

use authz::order::{
    HostRef, NoParams, Params, PolicyRef, Preconditions, RollbackParams, SnapshotParams, TagParams,
};
use authz::{Kind, Order, Policy};
use protocol::config::nearest;
use protocol::refs::ConfigDigest;
use protocol::report::{GuestConfigReport, GuestReport, HostReport, Known};
use protocol::text::{SafeText, printable};
use protocol::{GuestRef, HostName, Nonce, RunState, SnapshotName, SnapshotRef, Tag, Vmid};

use crate::resolve::Believed;

mod host;

pub use host::{longest_validity, prepare_for_host};

/// What the operator wants to order about a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// `guest.start`
    Start,
    /// `guest.tag`: exactly these.
    Tag(Vec<Tag>),
    /// `snapshot.create`
    SnapshotCreate(SnapshotName),
    /// `snapshot.rollback`
    Rollback {
        /// Back to this one.
        snapshot: SnapshotName,
        /// Start the guest afterwards.
        start: bool,
    },
    /// `snapshot.delete`
    SnapshotDelete(SnapshotName),
}

impl Wish {
    /// Its order kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Start => Kind::GuestStart,
            Self::Tag(_) => Kind::GuestTag,
            Self::SnapshotCreate(_) => Kind::SnapshotCreate,
            Self::Rollback { .. } => Kind::SnapshotRollback,
            Self::SnapshotDelete(_) => Kind::SnapshotDelete,
        }
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

/// Why no order can be prepared. Nothing was signed or sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The guests could not be read.
    #[error(
        "host '{host}' could not read its guests ({why}), so no order can be prepared: see `writ host {host}`"
    )]
    GuestsUnknown {
        /// The host.
        host: HostName,
        /// Its words.
        why: String,
    },
    /// Not there.
    #[error("host '{host}' reports no guest {vmid}: see `writ host {host}`")]
    NoSuchGuest {
        /// The host.
        host: HostName,
        /// As asked for.
        vmid: Vmid,
    },
    /// A fact that the order must name is missing.
    #[error(
        "the report of host '{host}' does not tell {what} of guest {vmid} ({why}), and an order must name it: wait for the next report, or see `writ host {host}`"
    )]
    Unknown {
        /// The host.
        host: HostName,
        /// The guest.
        vmid: Vmid,
        /// Which fact.
        what: &'static str,
        /// Why it is missing.
        why: String,
    },
    /// A word that could make the order look like another one.
    #[error(
        "the {what} of guest {vmid} contains characters that could disguise what is signed ({shown}): rename it on the host first"
    )]
    Disguised {
        /// The guest.
        vmid: Vmid,
        /// Which fact.
        what: &'static str,
        /// Made safe.
        shown: String,
    },
    /// No such snapshot.
    #[error("guest {vmid} has no snapshot '{snapshot}'{hint}")]
    NoSuchSnapshot {
        /// The guest.
        vmid: Vmid,
        /// As asked for.
        snapshot: SnapshotName,
        /// Which there are.
        hint: String,
    },
    /// The name is taken.
    #[error("guest {vmid} already has a snapshot '{snapshot}': choose another name")]
    SnapshotExists {
        /// The guest.
        vmid: Vmid,
        /// As asked for.
        snapshot: SnapshotName,
    },
    /// Nothing to start.
    #[error("guest {vmid} is running already, as far as the last report tells")]
    Running {
        /// The guest.
        vmid: Vmid,
    },
    /// Nobody may order it.
    #[error("your policy has no rule for {0}: the host would refuse the order")]
    NoRule(Kind),
    /// A plan would be needed, and nobody makes one for this kind.
    #[error(
        "your policy does not let {0} stand without a plan, and there are no plans for it: the host would refuse the order; let it stand in the policy (`writ policy next`)"
    )]
    NeedsPlan(Kind),
    /// More signatures than one person can give.
    #[error(
        "your policy wants {threshold} signers for {kind}, and this command signs with one key: the host would refuse the order"
    )]
    Signers {
        /// The kind.
        kind: Kind,
        /// The policy's.
        threshold: u32,
    },
    /// A number or a list that no order may have.
    #[error("no order can be made of this: {0}")]
    Range(String),
    /// Too long.
    #[error("your policy lets {kind} be valid for at most {max_s} s, not {asked_s} s: use a shorter --valid")]
    Validity {
        /// The kind.
        kind: Kind,
        /// The policy's.
        max_s: u64,
        /// As asked for.
        asked_s: u64,
    },
}

/// Prepares an order for signing.
pub fn prepare(
    host: &Believed,
    policy: &Policy,
    report: &HostReport,
    vmid: Vmid,
    wish: &Wish,
    with: Circumstances,
) -> Result<Order, PrepareError> {
    check_rule(policy, wish.kind(), with.valid_s)?;
    let guest = find_guest(host, report, vmid)?;
    let unknown = |what, why: String| PrepareError::Unknown {
        host: host.name().clone(),
        vmid,
        what,
        why: printable(&why),
    };
    let config = match &guest.config {
        Known::Known(config) => config,
        Known::Unknown(why) => return Err(unknown("the configuration", why.clone())),
    };
    if config.identity.is_empty() {
        let why = "it has no UUID, no network device and no volume".to_owned();
        return Err(unknown("an identity", why));
    }
    check_disguise(guest, config)?;
    let digest: ConfigDigest = config
        .digest
        .parse()
        .map_err(|error: protocol::IdError| unknown("the configuration's digest", error.to_string()))?;
    let state = || match guest.state {
        RunState::Unknown => Err(unknown("the state", "it could not be read".to_owned())),
        known => Ok(Some(known)),
    };
    let snapshots = || match &guest.snapshots {
        Known::Known(snapshots) => Ok(snapshots),
        Known::Unknown(why) => Err(unknown("the snapshots", why.clone())),
    };
    let pre = |snapshot: Option<SnapshotRef>| {
        Ok(Preconditions {
            state: state()?,
            digest: Some(digest.clone()),
            snapshot,
            ..Preconditions::default()
        })
    };
    let (params, pre) = match wish {
        Wish::Start => {
            if guest.state == RunState::Running {
                return Err(PrepareError::Running { vmid });
            }
            (Params::GuestStart(NoParams {}), pre(None)?)
        }
        Wish::Tag(tags) => {
            let mut tags = tags.clone();
            tags.sort();
            tags.dedup();
            // Tags may be changed in any state, so the state is no precondition.
            let pre = Preconditions { digest: Some(digest.clone()), ..Preconditions::default() };
            (Params::GuestTag(TagParams { tags }), pre)
        }
        Wish::SnapshotCreate(name) => {
            if snapshots()?.iter().any(|snapshot| snapshot.name == *name) {
                return Err(PrepareError::SnapshotExists { vmid, snapshot: name.clone() });
            }
            let pre = Preconditions { digest: Some(digest.clone()), ..Preconditions::default() };
            (Params::SnapshotCreate(SnapshotParams { snapshot: name.clone() }), pre)
        }
        Wish::Rollback { snapshot, start } => {
            let snapshot = find_snapshot(vmid, snapshots()?, snapshot)?;
            (Params::SnapshotRollback(RollbackParams { start: *start }), pre(Some(snapshot))?)
        }
        Wish::SnapshotDelete(snapshot) => {
            let snapshot = find_snapshot(vmid, snapshots()?, snapshot)?;
            (Params::SnapshotDelete(NoParams {}), pre(Some(snapshot))?)
        }
    };
    let Circumstances { nonce, now, valid_s, reason, ticket } = with;
    Ok(Order {
        params,
        host: host_ref(host),
        guest: Some(GuestRef {
            vmid,
            kind: guest.kind,
            name: guest.name.clone(),
            identity: config.identity.clone(),
        }),
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
    })
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

fn find_guest<'a>(
    host: &Believed,
    report: &'a HostReport,
    vmid: Vmid,
) -> Result<&'a GuestReport, PrepareError> {
    match &report.guests {
        Known::Unknown(why) => {
            Err(PrepareError::GuestsUnknown { host: host.name().clone(), why: printable(why) })
        }
        Known::Known(guests) => guests
            .iter()
            .find(|guest| guest.vmid == vmid)
            .ok_or_else(|| PrepareError::NoSuchGuest { host: host.name().clone(), vmid }),
    }
}

fn find_snapshot(
    vmid: Vmid,
    snapshots: &[SnapshotRef],
    name: &SnapshotName,
) -> Result<SnapshotRef, PrepareError> {
    if let Some(found) = snapshots.iter().find(|snapshot| snapshot.name == *name) {
        return match &found.parent {
            Some(parent) if printable(parent) != *parent => {
                Err(PrepareError::Disguised { vmid, what: "snapshot's parent", shown: printable(parent) })
            }
            _ => Ok(found.clone()),
        };
    }
    let names: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
    let hint = match nearest(name.as_str(), &names) {
        Some(best) => format!(": did you mean '{best}'?"),
        None if names.is_empty() => ": it has none".to_owned(),
        None => format!(" (there are: {})", names.join(", ")),
    };
    Err(PrepareError::NoSuchSnapshot { vmid, snapshot: name.clone(), hint })
}

/// Proxmox never makes such words; a host or hub that sends them wants to deceive the signer.
fn check_disguise(guest: &GuestReport, config: &GuestConfigReport) -> Result<(), PrepareError> {
    let identity = &config.identity;
    let words = [("name", Some(&guest.name)), ("configuration digest", Some(&config.digest))]
        .into_iter()
        .chain([("UUID", identity.smbios_uuid.as_ref()), ("generation id", identity.vmgenid.as_ref())])
        .chain([("instance id", identity.giid.as_ref())])
        .chain(identity.macs.iter().map(|mac| ("MAC address", Some(mac))))
        .chain(identity.volids.iter().map(|volid| ("volume", Some(volid))));
    for (what, word) in words {
        if let Some(word) = word.filter(|word| printable(word) != **word) {
            return Err(PrepareError::Disguised { vmid: guest.vmid, what, shown: printable(word) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
