//! `/version`, `/cluster/…` and `/access/permissions`.

use serde_json::{Value, json};

use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{AuthId, Refusal, TaskFilter};

pub(crate) fn version(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    Ok(json!({"version": "9.1.8", "release": "9.1", "repoid": "a8e257e1ad64dd92"}).into())
}

pub(crate) fn resources(call: &Call<'_>) -> Result<Reply, Refusal> {
    const TYPES: &[&str] = &["vm", "storage", "node", "sdn"];
    call.params.check(&[Field("type", Ty::Enum(TYPES), true)])?;
    let wanted = |kind: &str| call.params.get("type").is_none_or(|t| t == kind);
    let (world, node) = (&*call.world, call.world.node.as_str());
    let mut rows: Vec<Value> = Vec::new();
    if wanted("vm") {
        let visible =
            world.guests.iter().filter(|(vmid, _)| call.may(&format!("/vms/{vmid}"), &["VM.Audit"]));
        rows.extend(visible.map(|(vmid, guest)| guest.resource(node, *vmid, call.now)));
    }
    if wanted("node") {
        let figures = call.may(&format!("/nodes/{node}"), &["Sys.Audit"]);
        rows.push(world.node_resource(call.now, figures));
    }
    if wanted("storage") {
        let visible =
            world.storages.iter().filter(|(id, s)| s.enabled && super::node::sees_storage(call, id));
        rows.extend(visible.map(|(id, storage)| storage.resource(node, id)));
    }
    let zone = "/sdn/zones/localnetwork";
    if wanted("sdn") && call.may(zone, &["SDN.Audit", "SDN.Allocate"]) {
        rows.push(json!({
            "id": format!("network/{node}/zone/localnetwork"), "node": node, "type": "network",
            "network": "localnetwork", "network-type": "zone", "status": "ok",
        }));
    }
    Ok(Value::from(rows).into())
}

pub(crate) fn status(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[])?;
    let node = &call.world.node;
    Ok(json!([{
        "id": format!("node/{node}"), "name": node, "type": "node", "ip": call.world.node_ip,
        "level": "", "local": 1, "nodeid": 0, "online": 1,
    }])
    .into())
}

pub(crate) fn nextid(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[Field("vmid", Ty::Vmid, true)])?;
    let Some(wanted) = call.params.get("vmid") else {
        return Ok(json!(call.world.next_vmid().to_string()).into());
    };
    let taken = wanted.parse().is_ok_and(|id| call.world.guests.contains_key(&id));
    if taken {
        return Err(Refusal::parameter("vmid", format!("VM {wanted} already exists")));
    }
    Ok(json!(wanted).into())
}

/// The last tasks. The real node compares the owner wrongly, so that without Sys.Audit on `/` a
/// token sees none, not even its own.
pub(crate) fn tasks(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    if !call.may("/", &["Sys.Audit"]) {
        return Ok(json!([]).into());
    }
    let filter = TaskFilter { active: true, archive: true, ..TaskFilter::default() };
    let found = call.world.tasks.list(&filter);
    let rows: Vec<Value> = found.iter().take(25).map(|t| t.cluster_row()).collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn permissions(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[Field("path", Ty::Any, true), Field("userid", Ty::Any, true)])?;
    let who = match call.params.get("userid") {
        Some(other) if other != call.who.to_string() => {
            call.require("/access", &["Sys.Audit"])?;
            AuthId::parse(other)
        }
        _ => call.who.clone(),
    };
    let flags = |held: crate::world::Privileges| -> Value {
        held.into_iter().map(|(privilege, propagate)| (privilege, json!(u8::from(propagate)))).collect()
    };
    let access = &call.world.access;
    let data: Value = match call.params.get("path") {
        Some(path) => json!({path: flags(access.effective(&who, path))}),
        None => access.permissions(&who).into_iter().map(|(path, held)| (path, flags(held))).collect(),
    };
    Ok(data.into())
}
