//! Every call the client can make, as data: method, path, parameters with their limits, the
//! privileges it needs, and how its answer is read. One definition serves sending, decoding, the
//! check against Proxmox's published schema, and the reading of recordings.

mod param;
mod request;
mod understand;

use crate::value::upid::Upid;

pub use param::{Form, Kind, Param};
pub(crate) use param::{flag, form, is_numbered, is_qemu_drive, is_storage as is_storage_name, param};
pub(crate) use request::Request;
pub use understand::{Understanding, Understood, understand};

/// The privileges of the role `WritAgent` (`pve/facts.md` 10); all exist in Proxmox VE 8 and 9.
pub const WRIT_AGENT: [&str; 16] = [
    "VM.Audit",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Backup",
    "VM.Allocate",
    "VM.Clone",
    "VM.Config.Disk",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "Datastore.Audit",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "SDN.Use",
    "Sys.Audit",
];

/// The HTTP method of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads; may be sent again.
    Get,
    /// Changes; sent once.
    Post,
    /// Changes; sent once.
    Put,
    /// Changes; sent once, parameters in the query.
    Delete,
}

impl Verb {
    /// `GET`, `POST`, `PUT`, `DELETE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// What a call looks like from outside.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its name in tables, `qemu snapshot create`.
    pub name: &'static str,
    /// The HTTP method.
    pub verb: Verb,
    /// As the schema writes it: `/nodes/{node}/qemu/{vmid}/snapshot`.
    pub path: &'static str,
    /// Parameters besides those in the path.
    pub params: &'static [Param],
    /// Privileges of the role [`WRIT_AGENT`] that it may need.
    pub needs: &'static [&'static str],
    /// Privileges beyond that role without which it is refused, wholly or for some parameters.
    pub beyond: &'static [&'static str],
    /// Touches disks or storages: one at a time per node.
    pub slow: bool,
    /// A list, a log or numbers over time: its answer may be long.
    pub long: bool,
    /// The types of the task that it may start (`pve/facts.md` 4.3); the answer must name one of them.
    pub starts: &'static [&'static str],
}

/// The `data` of an answer, and the `total` beside it where a list is paged.
#[derive(Debug, Clone)]
pub struct Data {
    pub(crate) value: serde_json::Value,
    pub(crate) total: Option<u64>,
    /// When the server sent the answer, by its clock, seconds since 1970.
    pub(crate) date: Option<u64>,
}

#[cfg(test)]
impl Data {
    pub(crate) const fn of(value: serde_json::Value) -> Self {
        Self { value, total: None, date: None }
    }
}

/// A call whose answer is read as `T`.
#[derive(Debug)]
pub(crate) struct Call<T: 'static> {
    pub(crate) shape: Shape,
    pub(crate) decode: fn(Data) -> Result<T, String>,
}

impl<T> Call<T> {
    pub(crate) const fn new(
        name: &'static str,
        verb: Verb,
        path: &'static str,
        decode: fn(Data) -> Result<T, String>,
    ) -> Self {
        let shape = Shape {
            name,
            verb,
            path,
            params: &[],
            needs: &[],
            beyond: &[],
            slow: false,
            long: false,
            starts: &[],
        };
        Self { shape, decode }
    }

    pub(crate) const fn get(
        name: &'static str,
        path: &'static str,
        decode: fn(Data) -> Result<T, String>,
    ) -> Self {
        Self::new(name, Verb::Get, path, decode)
    }

    pub(crate) const fn params(mut self, params: &'static [Param]) -> Self {
        self.shape.params = params;
        self
    }

    pub(crate) const fn needs(mut self, privileges: &'static [&'static str]) -> Self {
        self.shape.needs = privileges;
        self
    }

    pub(crate) const fn beyond(mut self, privileges: &'static [&'static str]) -> Self {
        self.shape.beyond = privileges;
        self
    }

    pub(crate) const fn slow(mut self) -> Self {
        self.shape.slow = true;
        self
    }

    pub(crate) const fn long(mut self) -> Self {
        self.shape.long = true;
        self
    }

    pub(crate) const fn starts(mut self, types: &'static [&'static str]) -> Self {
        self.shape.starts = types;
        self
    }

    /// The call with its path filled in, one value for each `{…}`, in order.
    pub(crate) fn at(&'static self, values: &[&str]) -> Request<T> {
        Request::new(self, values)
    }
}

/// The same call for both kinds of guests, which differ in path and parameters.
#[derive(Debug)]
pub(crate) struct Both<T: 'static> {
    pub(crate) qemu: Call<T>,
    pub(crate) lxc: Call<T>,
}

impl<T> Both<T> {
    pub(crate) const fn of(&'static self, kind: crate::GuestKind) -> &'static Call<T> {
        match kind {
            crate::GuestKind::Qemu => &self.qemu,
            crate::GuestKind::Lxc => &self.lxc,
        }
    }
}

/// A [`Call`] whatever it returns.
pub(crate) trait AnyCall: Sync {
    fn shape(&self) -> &Shape;
    /// Whether the answer can be read.
    fn check(&self, data: Data) -> Result<(), String>;
}

impl<T> AnyCall for Call<T> {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn check(&self, data: Data) -> Result<(), String> {
        (self.decode)(data).map(drop)
    }
}

pub(crate) type Calls = &'static [&'static dyn AnyCall];

/// All calls of the client, by area and part.
static AREAS: &[&[Calls]] = &[
    crate::cluster::CALLS,
    crate::access::CALLS,
    crate::node::CALLS,
    crate::guest::CALLS,
    crate::storage::CALLS,
    crate::backup::CALLS,
    crate::console::CALLS,
    &[crate::task::CALLS],
];

pub(crate) fn all() -> impl Iterator<Item = &'static dyn AnyCall> {
    AREAS.iter().flat_map(|parts| parts.iter()).flat_map(|calls| calls.iter().copied())
}

/// The shapes of all calls, for checks and tables.
pub fn shapes() -> impl Iterator<Item = &'static Shape> {
    all().map(AnyCall::shape)
}

/// Reads any JSON type.
pub(crate) fn json<T: serde::de::DeserializeOwned>(data: Data) -> Result<T, String> {
    serde_json::from_value(data.value).map_err(|error| error.to_string())
}

/// Reads an object. Lenient types would take an array for an object of which nothing is known.
pub(crate) fn object<T: serde::de::DeserializeOwned>(data: Data) -> Result<T, String> {
    if data.value.is_object() { json(data) } else { Err("not an object".to_owned()) }
}

/// Reads a list; Perl may say `null` for an empty one. Its entries are no lists, see [`object`].
pub(crate) fn rows<T: serde::de::DeserializeOwned>(data: Data) -> Result<Vec<T>, String> {
    match data.value.as_array() {
        None if data.value.is_null() => Ok(Vec::new()),
        Some(entries) if entries.iter().any(serde_json::Value::is_array) => {
            Err("a list where an entry is a list".to_owned())
        }
        _ => json(data),
    }
}

/// The answer of a call that returns nothing; `null` mostly, and whatever else is not looked at.
#[expect(clippy::unnecessary_wraps, reason = "a decoder like the others")]
pub(crate) fn nothing(_data: Data) -> Result<(), String> {
    Ok(())
}

/// The UPID of a task that was started.
pub(crate) fn upid(data: Data) -> Result<Upid, String> {
    let text = data.value.as_str().ok_or("neither a UPID nor any text")?;
    text.parse().map_err(|error: crate::UpidError| error.to_string())
}

/// What a call says that starts a task only where there is something to do (`pve/facts.md` 4.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// A task, to be waited for.
    Task(Upid),
    /// `OK` or `null`: done at once, or nothing to do. Look at the world.
    AtOnce,
}

/// See [`Started`].
pub(crate) fn started(data: Data) -> Result<Started, String> {
    match &data.value {
        serde_json::Value::Null => Ok(Started::AtOnce),
        serde_json::Value::String(text) if text == "OK" => Ok(Started::AtOnce),
        _ => upid(data).map(Started::Task),
    }
}

#[cfg(test)]
mod tests;
