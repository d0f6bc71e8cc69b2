//! Which backups are kept. Looking is free; pruning deletes.

use std::fmt;

use serde::{Deserialize, Deserializer};

use crate::catalog::{Call, Calls, Form, Kind, Param, Request, Verb, form, param, rows, upid};
use crate::client::Client;
use crate::storage::volid::{StorageName, Volid};
use crate::value::ids::{GuestKind, Vmid};
use crate::value::lenient;
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

const PARAMS: &[Param] = &[
    form("prune-backups", Form::Retention),
    param("type", Kind::Word(&["qemu", "lxc"])),
    form("vmid", Form::Vmid),
];

static PREVIEW: Call<Vec<PruneItem>> =
    Call::get("prune preview", "/nodes/{node}/storage/{storage}/prunebackups", rows)
        .long()
        .params(PARAMS)
        .needs(&["Datastore.Audit", "Datastore.AllocateSpace"])
        .slow();
static PRUNE: Call<Upid> =
    Call::new("prune", Verb::Delete, "/nodes/{node}/storage/{storage}/prunebackups", upid)
        .starts(&["prunebackups"])
        .params(PARAMS)
        .needs(&["Datastore.AllocateSpace", "VM.Backup"])
        // For all guests at once.
        .beyond(&["Datastore.Allocate"])
        .slow();

pub(super) static CALLS: Calls = &[&PREVIEW, &PRUNE];

/// How many backups of a guest are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    all: bool,
    last: u32,
    hourly: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    yearly: u32,
}

macro_rules! keep {
    ($($name:ident: $doc:literal),*) => {
        $(
            #[doc = $doc]
            #[must_use]
            pub const fn $name(mut self, count: u32) -> Self {
                self.$name = count;
                self
            }
        )*
    };
}

impl Retention {
    /// Nothing is said yet; a retention that keeps nothing is refused.
    #[must_use]
    pub const fn new() -> Self {
        Self { all: false, last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 }
    }

    /// Everything is kept.
    #[must_use]
    pub const fn keep_all() -> Self {
        Self { all: true, ..Self::new() }
    }

    keep!(
        last: "The newest ones.",
        hourly: "The newest of each of that many hours.",
        daily: "The newest of each of that many days.",
        weekly: "The newest of each of that many weeks.",
        monthly: "The newest of each of that many months.",
        yearly: "The newest of each of that many years."
    );

    fn counts(&self) -> [(&'static str, u32); 6] {
        [
            ("keep-last", self.last),
            ("keep-hourly", self.hourly),
            ("keep-daily", self.daily),
            ("keep-weekly", self.weekly),
            ("keep-monthly", self.monthly),
            ("keep-yearly", self.yearly),
        ]
    }

    /// Why it cannot be used.
    pub(crate) fn wrong(&self) -> Option<&'static str> {
        let some = self.counts().iter().any(|(_, count)| *count > 0);
        match (self.all, some) {
            (true, true) => Some("keep everything, or so many; not both"),
            (false, false) => Some("a retention that keeps nothing is not sent; say how many are kept"),
            _ => None,
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all {
            f.write_str("keep-all=1")?;
        }
        let mut comma = if self.all { "," } else { "" };
        for (name, count) in self.counts().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{comma}{name}={count}")?;
            comma = ",";
        }
        Ok(())
    }
}

/// Whose backups are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneScope {
    /// One guest's. A number is reused: backups of a guest that had it before count as its own.
    Guest(GuestKind, Vmid),
    /// Every guest's on that storage, each with as many. Pruning so needs Datastore.Allocate.
    EveryGuest,
}

/// What would become of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// It stays.
    Keep,
    /// It is deleted.
    Remove,
    /// It stays because it is protected, and does not count.
    Protected,
    /// It stays because its name does not tell its age.
    Renamed,
    /// Something newer, by its own name.
    Other(String),
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)?.as_str() {
            "keep" => Self::Keep,
            "remove" => Self::Remove,
            "protected" => Self::Protected,
            "renamed" => Self::Renamed,
            other => Self::Other(other.to_owned()),
        })
    }
}

/// One backup of a preview.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PruneItem {
    /// Its name.
    pub volid: Volid,
    /// What would become of it.
    pub mark: Mark,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub ctime: Option<u64>,
    /// `qemu`, `lxc` or `unknown`.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// The guest in it, by number.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub vmid: Option<u64>,
}

fn fill<T>(request: Request<T>, keep: Option<&Retention>, scope: PruneScope) -> Request<T> {
    let wrong = keep.and_then(Retention::wrong);
    let request = request.refuse_if(wrong.is_some(), wrong.unwrap_or_default()).opt("prune-backups", keep);
    match scope {
        PruneScope::Guest(kind, vmid) => request.set("type", kind).set("vmid", vmid),
        PruneScope::EveryGuest => request,
    }
}

impl Client {
    /// What pruning would do; deletes nothing. Without `keep`, by the storage's own retention. With
    /// [`Retention::keep_all`] it lists every backup there is, even to a token that may not see
    /// them in the storage's content.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn prune_preview(
        &self,
        storage: &StorageName,
        keep: Option<&Retention>,
        scope: PruneScope,
    ) -> Result<Vec<PruneItem>, ApiError> {
        let request = PREVIEW.at(&[self.node().await?.as_str(), storage.as_str()]);
        self.send(fill(request, keep, scope)).await
    }

    /// Deletes the backups that are not to be kept. Protected ones stay.
    ///
    /// # Errors
    /// [`ApiError`]; a retention that keeps nothing is refused here.
    pub async fn prune(
        &self,
        storage: &StorageName,
        keep: &Retention,
        scope: PruneScope,
    ) -> Result<Upid, ApiError> {
        let request = PRUNE.at(&[self.node().await?.as_str(), storage.as_str()]);
        self.send(fill(request, Some(keep), scope)).await
    }
}
