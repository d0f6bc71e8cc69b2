//! The live world against what was signed (`security.md` 2.16, step 14). Pure: the warden reads, this
//! compares. Everything that an order states is compared, for every kind; what could not be read is
//! [`Known::Unknown`] and never equals anything.
//!
//! Serde's form of a [`World`] is part of a case of the corpus ([`crate::case`]) and of nothing else.

mod guest;
mod host;

use std::collections::{BTreeMap, BTreeSet};

use protocol::refs::{BackupRef, DiskRef, FsUuid, HaState, ReplicationId, StorageId, VolumeId, VolumeRef};
use protocol::report::Known;
use protocol::{GuestIdentity, GuestKind, GuestRef, RunState, Sha256, Vmid};
use serde::{Deserialize, Deserializer, Serialize};

use crate::order::{Backing, Kind, Order};
use crate::refusal::RefusalCode;

pub use guest::{guest, snapshot_free, startable, volume_in};

/// Why not: the rule and the sentence.
pub type Refused = (RefusalCode, String);

/// What was read for one order. A part that an order does not need need not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// The order's guest.
    pub guest: Known<GuestNow>,
    /// Backups: of the guest that the order's parameters name, on every storage that it names.
    pub backups: Known<Vec<BackupRef>>,
    /// Where all storages were asked for backups: those that did not answer, and why. `backups` lacks theirs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "each_once")]
    pub unlisted: BTreeMap<StorageId, String>,
    /// Those of `backups` that Proxmox protects: it deletes and prunes none of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub protected: BTreeSet<VolumeId>,
    /// Volumes that exist, of those that the order names without their guest.
    pub volumes: Known<Vec<VolumeRef>>,
    /// Physical disks, each with the UUIDs of the filesystems on it.
    pub disks: Known<Vec<DiskNow>>,
    /// Storages in Proxmox's configuration, with what is behind them where that could be read.
    #[serde(deserialize_with = "once")]
    pub storages: Known<BTreeMap<StorageId, Known<Backing>>>,
    /// Numbers of all guests of the cluster.
    pub vmids: Known<BTreeSet<Vmid>>,
    /// Filesystems that are mounted.
    pub mounted: Known<BTreeSet<FsUuid>>,
    /// The guest that a new one is cloned from: whether it is a template, and its digest.
    pub template: Known<TemplateNow>,
}

/// A guest as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestNow {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Name or hostname; empty when it has none.
    pub name: String,
    /// Stable facts.
    pub identity: GuestIdentity,
    /// Proxmox's digest of the whole configuration.
    pub digest: String,
    /// The configuration's options as Proxmox spells them, without the digest.
    #[serde(deserialize_with = "once")]
    pub config: Known<BTreeMap<String, String>>,
    /// Proxmox's lock word.
    pub lock: Option<String>,
    /// Templates cannot be started or snapshotted.
    pub template: bool,
    /// Whether it runs.
    pub state: RunState,
    /// Without the entry `current`.
    pub snapshots: Known<Vec<SnapshotNow>>,
    /// Whether all of this was read from one state of the configuration.
    pub consistent: bool,
    /// Its volumes.
    pub volumes: Known<Vec<VolumeRef>>,
    /// Whether Proxmox's `protection` is on.
    pub protection: Known<bool>,
    /// What high availability is asked to do with it.
    pub ha: Known<HaState>,
    /// Its replication jobs.
    pub replication: Known<Vec<ReplicationId>>,
}

/// A snapshot as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotNow {
    /// Name, whatever Proxmox has.
    pub name: String,
    /// When it was taken, unix seconds, if Proxmox knows.
    pub time: Option<u64>,
    /// Name of the one before it.
    pub parent: Option<String>,
    /// `prepare` or `delete`: left over from something that broke off.
    pub unfinished: Option<String>,
}

/// A physical disk as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskNow {
    /// What makes it this one.
    pub disk: DiskRef,
    /// Filesystems on it and on its partitions.
    pub filesystems: BTreeSet<FsUuid>,
}

/// A guest that others are cloned from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateNow {
    /// Whether it is a template at all.
    pub template: bool,
    /// Proxmox's digest of its configuration.
    pub digest: String,
}

impl World {
    /// Nothing was read. What the order states is then compared with nothing, and refused.
    pub fn unread(why: &str) -> Self {
        Self {
            guest: unread(why),
            backups: unread(why),
            unlisted: BTreeMap::new(),
            protected: BTreeSet::new(),
            volumes: unread(why),
            disks: unread(why),
            storages: unread(why),
            vmids: unread(why),
            mounted: unread(why),
            template: unread(why),
        }
    }
}

fn unread<T>(why: &str) -> Known<T> {
    Known::Unknown(why.to_owned())
}

/// Serde keeps the last of two equal keys and says nothing. Where a world is compared, neither may win.
fn once<'de, K, V, D>(from: D) -> Result<Known<BTreeMap<K, V>>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(match Known::<Once<K, V>>::deserialize(from)? {
        Known::Known(Once(map)) => Known::Known(map),
        Known::Unknown(why) => Known::Unknown(why),
    })
}

/// The same of a map that is never unknown.
fn each_once<'de, K, V, D>(from: D) -> Result<BTreeMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Once::deserialize(from).map(|Once(map)| map)
}

/// A map that names each key once.
struct Once<K, V>(BTreeMap<K, V>);

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Once<K, V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor<K, V>(std::marker::PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<K, V> {
            type Value = BTreeMap<K, V>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object that names each key once")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = from.next_entry()? {
                    if map.insert(key, value).is_some() {
                        return Err(serde::de::Error::custom("a key stands there twice"));
                    }
                }
                Ok(map)
            }
        }
        from.deserialize_map(Visitor(std::marker::PhantomData)).map(Self)
    }
}

/// SHA-256 over a configuration: for each option, in the order of their names, the bytes `NAME: VALUE` and
/// a line break, in the spelling of Proxmox's API (`GET …/config`), without `digest`. Numbers as decimal
/// text. Unlike Proxmox's SHA-1 digest it covers neither snapshots nor comments.
pub fn config_sha256(config: &BTreeMap<String, String>) -> Sha256 {
    let lines = config.iter().filter(|(name, _)| *name != "digest");
    Sha256::of(lines.map(|(name, value)| format!("{name}: {value}\n")).collect::<String>().as_bytes())
}

/// Whether the world is the one that the signer saw, and the order makes sense in it.
///
/// # Errors
/// The rule and the sentence: `guest_identity`, `busy` or `precondition`.
pub fn check(order: &Order, world: &World) -> Result<(), Refused> {
    match (&order.guest, needs_guest(order.kind())) {
        (Some(meant), _) => {
            let seen = known(&world.guest, "the guest")?;
            guest::check(order, meant, seen)?;
        }
        (None, true) => return Err((RefusalCode::BadOrder, "the order names no guest".into())),
        (None, false) => {}
    }
    host::check(order, world)
}

fn needs_guest(kind: Kind) -> bool {
    kind.needs().guest == crate::order::Need::Must
}

/// The value, or a refusal: what is not known cannot be the same as what was signed.
fn known<'a, T>(value: &'a Known<T>, what: &str) -> Result<&'a T, Refused> {
    match value {
        Known::Known(value) => Ok(value),
        Known::Unknown(why) => Err((
            RefusalCode::Precondition,
            format!(
                "{what} cannot be compared with what was signed, because it could not be read ({}): try again",
                protocol::text::printable(why)
            ),
        )),
    }
}

/// A stated value, compared with the one that was read. Nothing stated, nothing compared.
fn same<T: PartialEq>(
    stated: Option<&T>,
    seen: &Known<T>,
    what: &str,
    show: impl Fn(&T) -> String,
) -> Result<(), Refused> {
    let Some(stated) = stated else { return Ok(()) };
    let seen = known(seen, what)?;
    if seen == stated {
        return Ok(());
    }
    wrong(format!(
        "{what} was {} when the order was prepared and is {} now: prepare it again",
        show(stated),
        show(seen)
    ))
}

fn wrong<T>(why: String) -> Result<T, Refused> {
    Err((RefusalCode::Precondition, why))
}

/// Names in a sentence; long lists are cut.
fn list(names: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.len() {
        0 => "none".to_owned(),
        1..=8 => names.join(", "),
        more => format!("{} and {} more", names[..8].join(", "), more - 8),
    }
}

/// A guest's name for sentences.
fn called(meant: &GuestRef) -> String {
    format!("guest {}", meant.vmid)
}

#[cfg(test)]
mod tests;
