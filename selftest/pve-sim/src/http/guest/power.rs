//! `…/status/start` and its neighbours.

use super::{At, VMID, begin, no_skiplock};
use crate::http::node::NODE;
use crate::http::params::{Field, Ty};
use crate::http::{Call, Reply};
use crate::world::{HaRequest, Job, Kind, Refusal};

const SKIPLOCK: Field = Field("skiplock", Ty::Bool, true);
const TIMEOUT: Field = Field("timeout", Ty::Int(0), true);

/// The checks every one of these calls begins with; the VMID.
fn entry(call: &mut Call<'_>, at: At<'_>, qemu: Vec<Field>, lxc: Vec<Field>) -> Result<u32, Refusal> {
    call.require(&at.path(), &["VM.PowerMgmt"])?;
    let mut fields = vec![NODE, VMID];
    fields.extend(if at.kind == Kind::Qemu { qemu } else { lxc });
    let vmid = at.check(call, &[], &fields)?;
    no_skiplock(call)?;
    Ok(vmid)
}

fn runs(call: &Call<'_>, at: At<'_>, vmid: u32) -> bool {
    call.world.guest(at.kind, vmid).is_ok_and(|g| g.running.is_some())
}

/// The 500 of a call that takes a running guest. Containers do not look for their configuration
/// first.
fn need_running(call: &Call<'_>, at: At<'_>, vmid: u32) -> Result<(), Refusal> {
    if at.kind == Kind::Qemu {
        call.world.guest(at.kind, vmid)?;
    }
    if runs(call, at, vmid) {
        return Ok(());
    }
    Err(Refusal::internal(format!("{} {vmid} not running", at.kind.label())))
}

/// Hands the call to the HA manager where the guest is under it.
fn or_ha(call: &mut Call<'_>, at: At<'_>, vmid: u32, request: HaRequest, job: Job) -> Result<Reply, Refusal> {
    if call.world.guest(at.kind, vmid).is_ok()
        && let Some(upid) = call.world.ha_request(call.now, &call.who, vmid, request)
    {
        return Ok(serde_json::json!(upid).into());
    }
    begin(call, at, vmid, job)
}

pub(crate) fn start(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let text = |name| Field(name, Ty::Any, true);
    let mut qemu = vec![SKIPLOCK, TIMEOUT];
    let internal = [
        "force-cpu",
        "machine",
        "migratedfrom",
        "migration_network",
        "migration_type",
        "nets-host-mtu",
        "stateuri",
        "targetstorage",
        "with-conntrack-state",
    ];
    qemu.extend(internal.map(text));
    let vmid = entry(call, at, qemu, vec![SKIPLOCK, Field("debug", Ty::Bool, true)])?;
    for name in internal {
        // What migrations use among themselves.
        if call.params.get(name).is_some() && !matches!(name, "force-cpu" | "machine") {
            return Err(Refusal::parameter(name, "Only root may use this option."));
        }
    }
    if at.kind == Kind::Lxc && runs(call, at, vmid) {
        // Containers report this at once, machines in the task.
        return Err(Refusal::internal(format!("CT {vmid} already running")));
    }
    or_ha(call, at, vmid, HaRequest::Start, Job::Start)
}

pub(crate) fn stop(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let overrule = || Field("overrule-shutdown", Ty::Bool, true);
    let qemu = vec![
        SKIPLOCK,
        TIMEOUT,
        Field("keepActive", Ty::Bool, true),
        Field("migratedfrom", Ty::Any, true),
        overrule(),
    ];
    let vmid = entry(call, at, qemu, vec![SKIPLOCK, overrule()])?;
    for name in ["keepActive", "migratedfrom"] {
        if call.params.get(name).is_some_and(|v| v != "0") {
            return Err(Refusal::parameter(name, "Only root may use this option."));
        }
    }
    if at.kind == Kind::Lxc {
        need_running(call, at, vmid)?;
    }
    or_ha(call, at, vmid, HaRequest::Stop, Job::Stop)
}

pub(crate) fn shutdown(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let force = || Field("forceStop", Ty::Bool, true);
    let qemu = vec![SKIPLOCK, TIMEOUT, force(), Field("keepActive", Ty::Bool, true)];
    let vmid = entry(call, at, qemu, vec![TIMEOUT, force()])?;
    if at.kind == Kind::Lxc {
        need_running(call, at, vmid)?;
    }
    let job = if call.params.flag("forceStop") { Job::ShutdownOrStop } else { Job::Shutdown };
    or_ha(call, at, vmid, HaRequest::Stop, job)
}

pub(crate) fn reboot(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = entry(call, at, vec![TIMEOUT], vec![TIMEOUT])?;
    need_running(call, at, vmid)?;
    begin(call, at, vmid, Job::Reboot)
}

pub(crate) fn reset(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = entry(call, at, vec![SKIPLOCK], vec![])?;
    need_running(call, at, vmid)?;
    begin(call, at, vmid, Job::Reset)
}

pub(crate) fn suspend(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let qemu = vec![SKIPLOCK, Field("statestorage", Ty::Any, true), Field("todisk", Ty::Bool, true)];
    let vmid = entry(call, at, qemu, vec![])?;
    let to_disk = call.params.flag("todisk");
    let storage = call.params.get("statestorage").map(str::to_owned);
    if storage.is_some() && !to_disk {
        return Err(Refusal::parameter(
            "statestorage",
            "missing property - 'statestorage' requires this property",
        ));
    }
    need_running(call, at, vmid)?;
    if !to_disk {
        return begin(call, at, vmid, Job::Suspend);
    }
    call.require(&at.path(), &["VM.Config.Disk"])?;
    if let Some(storage) = &storage {
        call.world.storage(storage)?;
        call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    begin(call, at, vmid, Job::SuspendToDisk { storage })
}

pub(crate) fn resume(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = entry(call, at, vec![SKIPLOCK, Field("nocheck", Ty::Bool, true)], vec![])?;
    if call.params.flag("nocheck") {
        return Err(Refusal::parameter("nocheck", "Only root may use this option."));
    }
    let asleep = call.world.guest(at.kind, vmid).is_ok_and(|g| g.lock() == Some("suspended"));
    if !asleep {
        need_running(call, at, vmid)?;
    }
    begin(call, at, vmid, Job::Resume)
}
