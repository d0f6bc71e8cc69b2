//! `…/snapshot`.

use serde_json::{Value, json};

use super::guest::{At, VMID, begin};
use super::node::NODE;
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Job, Kind, Refusal};

const NAME: Field = Field("snapname", Ty::SnapName, false);

pub(crate) fn list(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(call, &["VM.Audit"], &[NODE, VMID])?;
    Ok(call.world.guest(at.kind, vmid)?.snapshot_list().into())
}

pub(crate) fn create(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let mut fields = vec![NODE, VMID, NAME, Field("description", Ty::Any, true)];
    if at.kind == Kind::Qemu {
        fields.push(Field("vmstate", Ty::Bool, true));
    }
    let vmid = at.check(call, &["VM.Snapshot"], &fields)?;
    let name = call.params.get("snapname").unwrap_or_default().to_owned();
    let reserved: &[&str] = match at.kind {
        Kind::Qemu => &["current", "pending"],
        Kind::Lxc => &["current", "vzdump"],
    };
    if reserved.contains(&name.as_str()) {
        return Err(Refusal::internal(format!("unable to use snapshot name '{name}' (reserved name)")));
    }
    if at.kind == Kind::Qemu {
        // A container's worker finds out itself that there is no such guest.
        call.world.guest(at.kind, vmid)?;
    }
    let job = Job::Snapshot {
        name,
        description: call.params.get("description").unwrap_or_default().to_owned(),
        vmstate: call.params.flag("vmstate"),
    };
    begin(call, at, vmid, job)
}

pub(crate) fn index(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    at.check(call, &[], &[NODE, VMID, NAME])?;
    Ok(json!([{"cmd": "rollback"}, {"cmd": "config"}]).into())
}

pub(crate) fn delete(call: &mut Call<'_>, at: At<'_>, name: &str) -> Result<Reply, Refusal> {
    let fields = [NODE, VMID, NAME, Field("force", Ty::Bool, true)];
    let vmid = at.check(call, &["VM.Snapshot"], &fields)?;
    let (name, force) = (name.to_owned(), call.params.flag("force"));
    begin(call, at, vmid, Job::DeleteSnapshot { name, force })
}

pub(crate) fn config(call: &Call<'_>, at: At<'_>, name: &str) -> Result<Reply, Refusal> {
    let any = ["VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"];
    let vmid = at.check(call, &any, &[NODE, VMID, NAME])?;
    let found = call.world.guest(at.kind, vmid)?.snapshot_config(name);
    found.map(Reply::from).ok_or_else(|| missing(name))
}

pub(crate) fn describe(call: &mut Call<'_>, at: At<'_>, name: &str) -> Result<Reply, Refusal> {
    let fields = [NODE, VMID, NAME, Field("description", Ty::Any, true)];
    let vmid = at.check(call, &["VM.Snapshot"], &fields)?;
    let text = call.params.get("description").map(str::to_owned);
    let guest = call.world.guest_mut(at.kind, vmid)?;
    guest.check_lock().map_err(Refusal::internal)?;
    let snapshot = guest.snapshots.get_mut(name).ok_or_else(|| missing(name))?;
    if let Some(text) = text {
        snapshot.description = text;
    }
    Ok(Value::Null.into())
}

pub(crate) fn rollback(call: &mut Call<'_>, at: At<'_>, name: &str) -> Result<Reply, Refusal> {
    let fields = [NODE, VMID, NAME, Field("start", Ty::Bool, true)];
    let any = ["VM.Snapshot", "VM.Snapshot.Rollback"];
    let vmid = at.check(call, &any, &fields)?;
    let job = Job::Rollback { name: name.to_owned(), start: call.params.flag("start") };
    begin(call, at, vmid, job)
}

fn missing(name: &str) -> Refusal {
    Refusal::internal(format!("snapshot '{name}' does not exist"))
}
