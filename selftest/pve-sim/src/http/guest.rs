//! Guests: lists, configuration, power.

use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply, routes};
use crate::world::{Job, Kind, OptionKind, Refusal, option_kind};

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

    fn id(&self) -> Result<u32, Refusal> {
        self.vmid.parse().map_err(|_| Refusal::internal(format!("unable to parse VMID '{}'", self.vmid)))
    }
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
        .map(|(vmid, guest)| guest.row(*vmid, call.now, full))
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

pub(crate) fn config(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(
        call,
        &["VM.Audit"],
        &[NODE, VMID, Field("current", Ty::Bool, true), Field("snapshot", Ty::SnapName, true)],
    )?;
    let guest = call.world.guest(at.kind, vmid)?;
    match call.params.get("snapshot") {
        None => Ok(guest.config_view().into()),
        Some(name) => guest
            .snapshot_config(name)
            .map(Reply::from)
            .ok_or_else(|| Refusal::internal(format!("snapshot '{name}' does not exist"))),
    }
}

pub(crate) fn current(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(call, &["VM.Audit"], &[NODE, VMID])?;
    let guest = call.world.guest(at.kind, vmid)?;
    Ok(guest.current(vmid, call.now).into())
}

pub(crate) fn feature(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    const FEATURES: &[&str] = &["snapshot", "clone", "copy"];
    let fields =
        [NODE, VMID, Field("feature", Ty::Enum(FEATURES), false), Field("snapname", Ty::SnapName, true)];
    let vmid = at.check(call, &["VM.Audit"], &fields)?;
    let guest = call.world.guest(at.kind, vmid)?;
    // Of the three features only `snapshot` depends on the storage in this simulator.
    let snapshot = call.params.get("feature") == Some("snapshot");
    let has = u8::from(!snapshot || call.world.snapshot_feature(guest));
    Ok(match at.kind {
        Kind::Qemu => json!({"hasFeature": has, "nodes": [call.world.node]}),
        Kind::Lxc => json!({"hasFeature": has}),
    }
    .into())
}

/// What may be asked of a write, besides the options themselves.
const WRITE: [Field; 4] = [NODE, VMID, Field("digest", Ty::Text(64), true), Field("delete", Ty::Any, true)];

/// `PUT …/config` (at once), and for QEMU `POST …/config` (as a task).
pub(crate) fn write_config(call: &mut Call<'_>, at: At<'_>, as_task: bool) -> Result<Reply, Refusal> {
    let any: &[&str] = match at.kind {
        Kind::Qemu => &[
            "VM.Config.Disk",
            "VM.Config.CDROM",
            "VM.Config.CPU",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.HWType",
            "VM.Config.Options",
            "VM.Config.Cloudinit",
        ],
        Kind::Lxc => {
            &["VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"]
        }
    };
    call.require(&at.path(), any)?;
    resolve(call, at.node)?;
    let mut errors = call.params.errors(&WRITE, |key| option_kind(at.kind, key).is_some());
    let mut changes: Vec<(String, Option<Value>)> = Vec::new();
    for key in call.params.names() {
        let (Some((kind, _)), Some(text)) = (option_kind(at.kind, key), call.params.get(key)) else {
            continue;
        };
        match kind.read(text) {
            Ok(value) => changes.push((key.to_owned(), Some(value))),
            Err(text) => {
                errors.insert(key.to_owned(), text);
            }
        }
    }
    for key in call.params.get("delete").unwrap_or_default().split([',', ';', ' ']) {
        if key.is_empty() {
            continue;
        }
        match option_kind(at.kind, key) {
            Some(_) if changes.iter().any(|(k, _)| k == key) => {
                let text = format!("you can't use '-{key}' and -delete {key}' at the same time");
                errors.insert("delete".to_owned(), text);
            }
            Some(_) => changes.push((key.to_owned(), None)),
            None => {
                errors.insert("delete".to_owned(), format!("unknown option '{key}'"));
            }
        }
    }
    if !errors.is_empty() {
        return Err(Refusal::parameters(errors));
    }
    let vmid = at.id()?;
    for (key, _) in &changes {
        let Some((kind, privilege)) = option_kind(at.kind, key) else {
            continue;
        };
        if kind == OptionKind::RootOnly {
            return Err(Refusal::internal(format!("only root can set '{key}' config")));
        }
        call.require(&at.path(), &[privilege])?;
    }
    let digest = call.params.get("digest").map(str::to_owned);
    let guest = call.world.guest_mut(at.kind, vmid)?;
    guest.check_digest(digest.as_deref()).map_err(Refusal::internal)?;
    guest.check_lock().map_err(Refusal::internal)?;
    if as_task {
        return begin(call, at, vmid, Job::Config(changes));
    }
    guest.change(&changes);
    Ok(Value::Null.into())
}

/// Starts the task and answers its UPID.
pub(crate) fn begin(call: &mut Call<'_>, at: At<'_>, vmid: u32, job: Job) -> Result<Reply, Refusal> {
    let upid = call.world.begin(call.now, &call.who, at.kind, vmid, job);
    Ok(json!(upid).into())
}

fn power(call: &mut Call<'_>, at: At<'_>, qemu: &[Field], lxc: &[Field], job: Job) -> Result<Reply, Refusal> {
    call.require(&at.path(), &["VM.PowerMgmt"])?;
    let vmid = at.check(call, &[], if at.kind == Kind::Qemu { qemu } else { lxc })?;
    if call.params.flag("skiplock") {
        return Err(Refusal::parameter("skiplock", "Only root may use this option."));
    }
    if at.kind == Kind::Lxc {
        // Containers report these two at once, machines in the task.
        let running = call.world.guests.get(&vmid).map(|g| g.running.is_some());
        match (&job, running) {
            (Job::Start, Some(true)) => {
                return Err(Refusal::internal(format!("CT {vmid} already running")));
            }
            (Job::Stop | Job::Shutdown, Some(false) | None) => {
                return Err(Refusal::internal(format!("CT {vmid} not running")));
            }
            _ => {}
        }
    }
    begin(call, at, vmid, job)
}

pub(crate) fn start(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let qemu = [NODE, VMID, Field("skiplock", Ty::Bool, true), Field("timeout", Ty::Int(0), true)];
    let lxc = [NODE, VMID, Field("skiplock", Ty::Bool, true), Field("debug", Ty::Bool, true)];
    power(call, at, &qemu, &lxc, Job::Start)
}

pub(crate) fn stop(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let qemu = [
        NODE,
        VMID,
        Field("skiplock", Ty::Bool, true),
        Field("timeout", Ty::Int(0), true),
        Field("keepActive", Ty::Bool, true),
        Field("overrule-shutdown", Ty::Bool, true),
    ];
    let lxc = [NODE, VMID, Field("skiplock", Ty::Bool, true), Field("overrule-shutdown", Ty::Bool, true)];
    power(call, at, &qemu, &lxc, Job::Stop)
}

pub(crate) fn shutdown(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let qemu = [
        NODE,
        VMID,
        Field("skiplock", Ty::Bool, true),
        Field("timeout", Ty::Int(0), true),
        Field("forceStop", Ty::Bool, true),
        Field("keepActive", Ty::Bool, true),
    ];
    let lxc = [NODE, VMID, Field("timeout", Ty::Int(0), true), Field("forceStop", Ty::Bool, true)];
    power(call, at, &qemu, &lxc, Job::Shutdown)
}
