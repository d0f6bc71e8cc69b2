//! Guests: lists and what all calls on one guest share.

pub(crate) mod agent;
pub(crate) mod config;
pub(crate) mod console;
pub(crate) mod lifecycle;
pub(crate) mod options;
pub(crate) mod power;
pub(crate) mod volumes;

use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply, routes};
use crate::world::{Feature, Job, Kind, Refusal};

/// The schema line of the VMID in the path.
pub(crate) const VMID: Field = Field("vmid", Ty::Vmid, false);

/// Which guest a request is about; the VMID is checked only after the permissions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a str,
    pub(crate) kind: Kind,
    pub(crate) vmid: &'a str,
}

impl At<'_> {
    /// The guest's ACL path.
    pub(crate) fn path(&self) -> String {
        format!("/vms/{}", self.vmid)
    }

    /// Permissions, then the node, then the parameters: the order of the real router.
    pub(crate) fn check(
        &self,
        call: &Call<'_>,
        privileges: &[&str],
        fields: &[Field],
    ) -> Result<u32, Refusal> {
        if !privileges.is_empty() {
            call.require(&self.path(), privileges)?;
        }
        resolve(call, self.node)?;
        call.params.check(fields)?;
        self.id()
    }

    pub(crate) fn id(&self) -> Result<u32, Refusal> {
        self.vmid.parse().map_err(|_| Refusal::internal(format!("unable to parse VMID '{}'", self.vmid)))
    }
}

/// Whether the caller is the user `root@pam` itself, which no token ever is.
pub(crate) fn is_root(call: &Call<'_>) -> bool {
    call.who.token.is_none() && call.who.user == "root@pam"
}

/// The 400 for an option that only root may use.
pub(crate) fn no_skiplock(call: &Call<'_>) -> Result<(), Refusal> {
    if call.params.flag("skiplock") && !is_root(call) {
        return Err(Refusal::parameter("skiplock", "Only root may use this option."));
    }
    Ok(())
}

pub(crate) fn list(call: &Call<'_>, node: &str, kind: Kind) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    match kind {
        Kind::Qemu => call.params.check(&[NODE, Field("full", Ty::Bool, true)])?,
        Kind::Lxc => call.params.check(&[NODE])?,
    }
    let full = call.params.flag("full");
    let rows: Vec<Value> = call
        .world
        .guests
        .iter()
        .filter(|(_, guest)| guest.kind == kind)
        .filter(|(vmid, _)| call.may(&format!("/vms/{vmid}"), &["VM.Audit"]))
        .filter_map(|(vmid, _)| call.world.guest_row(*vmid, call.now, full))
        .collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn index(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    at.check(call, &[], &[NODE, VMID])?;
    match at.kind {
        Kind::Qemu => routes::index(&[
            "config",
            "cloudinit",
            "pending",
            "status",
            "unlink",
            "vncproxy",
            "termproxy",
            "migrate",
            "resize",
            "move",
            "rrd",
            "rrddata",
            "monitor",
            "agent",
            "snapshot",
            "spiceproxy",
            "sendkey",
            "firewall",
            "mtunnel",
            "remote_migrate",
        ]),
        Kind::Lxc => routes::index(&[
            "config",
            "pending",
            "status",
            "vncproxy",
            "termproxy",
            "vncwebsocket",
            "spiceproxy",
            "migrate",
            "clone",
            "rrd",
            "rrddata",
            "firewall",
            "snapshot",
            "resize",
            "interfaces",
        ]),
    }
}

/// `GET …/status`. Not recorded.
pub(crate) fn status_index(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    at.check(call, &[], &[NODE, VMID])?;
    let mut names = vec!["current", "start", "stop", "shutdown", "suspend", "resume", "reboot"];
    if at.kind == Kind::Qemu {
        names.push("reset");
    }
    routes::index(&names)
}

pub(crate) fn current(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(call, &["VM.Audit"], &[NODE, VMID])?;
    call.world.guest(at.kind, vmid)?;
    Ok(call.world.guest_current(vmid, call.now).unwrap_or_default().into())
}

pub(crate) fn feature(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    const FEATURES: &[&str] = &["snapshot", "clone", "copy"];
    let fields =
        [NODE, VMID, Field("feature", Ty::Enum(FEATURES), false), Field("snapname", Ty::SnapName, true)];
    let vmid = at.check(call, &["VM.Audit"], &fields)?;
    let guest = call.world.guest(at.kind, vmid)?;
    let snapshot = call.params.get("snapname");
    if let Some(name) = snapshot.filter(|name| !guest.snapshots.contains_key(*name)) {
        return Err(Refusal::internal(format!("snapshot '{name}' does not exist")));
    }
    let feature = match call.params.get("feature") {
        Some("clone") => Feature::Clone,
        Some("copy") => Feature::Copy,
        _ => Feature::Snapshot,
    };
    let has = u8::from(call.world.has_feature(guest, feature, snapshot));
    Ok(match at.kind {
        Kind::Qemu => json!({"hasFeature": has, "nodes": [call.world.node]}),
        Kind::Lxc => json!({"hasFeature": has}),
    }
    .into())
}

/// Starts the task and answers its UPID.
pub(crate) fn begin(call: &mut Call<'_>, at: At<'_>, vmid: u32, job: Job) -> Result<Reply, Refusal> {
    let upid = call.world.begin(call.now, &call.who, at.kind, vmid, job);
    Ok(json!(upid).into())
}
