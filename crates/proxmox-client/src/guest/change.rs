//! Changing a guest's config, always compared with the digest the decision was based on.

use std::collections::BTreeMap;

use crate::catalog::{Both, Call, Calls, Form, Param, Request, Started, Verb, form, nothing, started};
use crate::client::Client;
use crate::guest::options::{self, CONFIG_NEEDS, QEMU_BEYOND, join, kept_for_root, no_such_number};
use crate::value::ids::{GuestKind, Vmid};
use crate::wire::error::ApiError;

const CHANGES: [Param; 3] =
    [form("digest", Form::Digest), form("delete", Form::Names), form("revert", Form::Names)];
static QEMU: [Param; 70] = join(options::QEMU, CHANGES);
static LXC: [Param; 29] = join(options::LXC, CHANGES);

/// Waits for the change.
static WRITE: Both<()> = Both {
    qemu: Call::new("qemu config update", Verb::Put, "/nodes/{node}/qemu/{vmid}/config", nothing)
        .params(&QEMU)
        .needs(CONFIG_NEEDS)
        .beyond(QEMU_BEYOND),
    lxc: Call::new("lxc config update", Verb::Put, "/nodes/{node}/lxc/{vmid}/config", nothing)
        .params(&LXC)
        .needs(CONFIG_NEEDS),
};
/// Leaves it to a task; containers have nothing of the kind.
static START_WRITE: Call<Started> =
    Call::new("qemu config update task", Verb::Post, "/nodes/{node}/qemu/{vmid}/config", started)
        .starts(&["qmconfig"])
        .params(&QEMU)
        .needs(CONFIG_NEEDS)
        .beyond(QEMU_BEYOND);

pub(super) static CALLS: Calls = &[&WRITE.qemu, &WRITE.lxc, &START_WRITE];

/// What is to become of a guest's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    digest: String,
    set: Vec<(String, String)>,
    delete: Vec<String>,
    revert: Vec<String>,
}

impl ConfigChange {
    /// `digest` is that of the config the decision was based on. If it has changed since, nothing
    /// happens and the error's class is `DigestMismatch`.
    #[must_use]
    pub fn new(digest: &str) -> Self {
        Self { digest: digest.to_owned(), set: Vec::new(), delete: Vec::new(), revert: Vec::new() }
    }

    /// Gives an option a value: text, a number, a [`PropertyString`](crate::PropertyString).
    /// Booleans are 0 and 1.
    #[must_use]
    pub fn set(mut self, option: &str, value: impl std::fmt::Display) -> Self {
        self.set.push((option.to_owned(), value.to_string()));
        self
    }

    /// Takes an option away. A disk's volume stays, as `unusedN`.
    #[must_use]
    pub fn delete(mut self, option: &str) -> Self {
        self.delete.push(option.to_owned());
        self
    }

    /// Takes back a change that waits for the guest's next start.
    #[must_use]
    pub fn revert(mut self, option: &str) -> Self {
        self.revert.push(option.to_owned());
        self
    }

    fn fill<T>(&self, kind: GuestKind, mut request: Request<T>) -> Request<T> {
        let names = || self.set.iter().map(|(name, _)| name).chain(&self.delete).chain(&self.revert);
        let twice = names().enumerate().find(|(at, name)| names().take(*at).any(|known| known == *name));
        request = request
            .refuse_if(
                self.digest.is_empty(),
                "a config change needs the digest the decision was based on; read the config first",
            )
            .refuse_if(
                names().any(|name| ["digest", "skiplock", "force"].contains(&name.as_str())),
                "`digest`, `skiplock` and `force` cannot be among the changes",
            )
            .refuse_if(names().next().is_none(), "no change was given");
        if let Some((_, name)) = twice {
            request = request.refuse_if(true, format_args!("`{name}` is changed twice"));
        }
        for name in self.delete.iter().chain(&self.revert) {
            let why = kept_for_root(kind, name, None);
            request = request.refuse_if(why.is_some(), why.unwrap_or_default());
        }
        for (name, value) in &self.set {
            request = put(request, kind, name, value);
        }
        let list = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
        request
            .opt("delete", list(&self.delete))
            .opt("revert", list(&self.revert))
            .set("digest", &self.digest)
    }
}

/// Puts an option of a guest in, unless no token can set it.
pub(super) fn put<T>(request: Request<T>, kind: GuestKind, name: &str, value: &str) -> Request<T> {
    let why = kept_for_root(kind, name, Some(value)).or_else(|| no_such_number(kind, name));
    request.refuse_if(why.is_some(), why.unwrap_or_default()).set(name, value)
}

impl Client {
    /// Changes options and waits, ten seconds at most if another operation holds the config (then
    /// class `Busy`). On a running guest the change may be pending until it restarts: see
    /// [`Client::guest_pending`]. For a virtual machine each option is written in turn, so after
    /// any error read the config again; for a container it is all or nothing.
    ///
    /// # Errors
    /// [`ApiError`]; class `DigestMismatch` if the config changed meanwhile.
    pub async fn change_config_now(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        change: &ConfigChange,
    ) -> Result<(), ApiError> {
        let request = WRITE.of(kind).at(&self.guest(vmid).await?.parts());
        self.send(change.fill(kind, request)).await
    }

    /// Changes options, for a virtual machine in a task: preparing a disk can take longer than the
    /// thirty seconds after which an answer is lost.
    ///
    /// # Errors
    /// [`ApiError`], as [`Client::change_config_now`].
    pub async fn change_config(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        change: &ConfigChange,
    ) -> Result<Started, ApiError> {
        match kind {
            GuestKind::Qemu => {
                let request = START_WRITE.at(&self.guest(vmid).await?.parts());
                self.send(change.fill(kind, request)).await
            }
            GuestKind::Lxc => self.change_config_now(kind, vmid, change).await.map(|()| Started::AtOnce),
        }
    }

    /// Changes options with the synchronous PUT, if the config still has that digest. The keys
    /// `delete` and `revert` take lists of options, comma separated. On a running guest the change
    /// may be pending until it restarts.
    ///
    /// # Errors
    /// [`ApiError`]; class `DigestMismatch` if the config changed meanwhile. An empty digest or a
    /// `digest` among the changes is refused here: both would defeat the comparison.
    pub async fn set_guest_config(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        changes: BTreeMap<&str, String>,
        digest: &str,
    ) -> Result<(), ApiError> {
        let change = changes.into_iter().fold(ConfigChange::new(digest), |change, (name, value)| {
            let list = || value.split(',').map(str::trim);
            match name {
                "delete" => list().fold(change, ConfigChange::delete),
                "revert" => list().fold(change, ConfigChange::revert),
                _ => change.set(name, value),
            }
        });
        self.change_config_now(kind, vmid, &change).await
    }
}
