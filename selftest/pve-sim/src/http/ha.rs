//! `/cluster/ha/…`, and what high availability and other nodes add to other answers.
//!
//! Nothing of this was recorded (the recorded node is in no cluster); it follows the published
//! schema.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{HaRequest, HaResource, Refusal, World};

const STATES: &[&str] = &["started", "stopped", "enabled", "disabled", "ignored"];
const TYPES: &[&str] = &["ct", "vm"];
const SID: Field = Field("sid", Ty::Any, false);

fn entry(world: &World, vmid: u32, resource: &HaResource) -> Value {
    let sid = world.ha_sid(vmid);
    let mut row = json!({
        "sid": sid, "type": sid.split(':').next(), "state": resource.state,
        "max_restart": resource.max_restart, "max_relocate": resource.max_relocate,
        "digest": HEXLOWER.encode(&Sha256::digest(format!("{:?}", world.ha))[..20]),
    });
    if let Some(comment) = &resource.comment {
        row["comment"] = json!(comment);
    }
    row
}

pub(crate) fn resources(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[Field("type", Ty::Enum(TYPES), true)])?;
    let all = call.world.ha.iter().map(|(vmid, resource)| entry(call.world, *vmid, resource));
    let wanted = call.params.get("type");
    let rows: Vec<Value> = all.filter(|row| wanted.is_none_or(|w| row["type"] == w)).collect();
    Ok(Value::from(rows).into())
}

/// The guest of `vm:100` or `100`.
fn vmid_of(call: &Call<'_>, sid: &str) -> Result<u32, Refusal> {
    let number = sid.trim_start_matches("vm:").trim_start_matches("ct:");
    let vmid = number.parse().ok().filter(|vmid| {
        call.world.guests.contains_key(vmid) && (number == sid || call.world.ha_sid(*vmid) == sid)
    });
    vmid.ok_or_else(|| Refusal::internal(format!("no such resource '{sid}'")))
}

fn managed(call: &Call<'_>, sid: &str) -> Result<u32, Refusal> {
    let vmid = vmid_of(call, sid)?;
    let known = call.world.ha.contains_key(&vmid).then_some(vmid);
    known.ok_or_else(|| Refusal::internal(format!("no such resource '{sid}'")))
}

pub(crate) fn resource(call: &Call<'_>, sid: &str) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[SID])?;
    let vmid = managed(call, sid)?;
    Ok(entry(call.world, vmid, &call.world.ha[&vmid]).into())
}

const FIELDS: [Field; 8] = [
    SID,
    Field("state", Ty::Enum(STATES), true),
    Field("comment", Ty::Text(4096), true),
    Field("max_restart", Ty::Int(0), true),
    Field("max_relocate", Ty::Int(0), true),
    Field("failback", Ty::Bool, true),
    Field("group", Ty::Any, true),
    Field("type", Ty::Enum(TYPES), true),
];

fn fill(call: &Call<'_>, resource: &mut HaResource) {
    if let Some(state) = call.params.get("state") {
        let state = if state == "enabled" { "started" } else { state };
        state.clone_into(&mut resource.state);
    }
    if let Some(comment) = call.params.get("comment") {
        resource.comment = Some(comment.to_owned());
    }
    let number = |name: &str| call.params.number(name).and_then(|n| u32::try_from(n).ok());
    resource.max_restart = number("max_restart").unwrap_or(resource.max_restart);
    resource.max_relocate = number("max_relocate").unwrap_or(resource.max_relocate);
}

/// Tells the HA manager of the wanted state.
fn pursue(call: &mut Call<'_>, vmid: u32) {
    let request = match call.world.ha.get(&vmid).map(|r| r.state.as_str()) {
        Some("started") => HaRequest::Start,
        Some("stopped" | "disabled") => HaRequest::Stop,
        _ => return,
    };
    call.world.ha_pursue(call.now, vmid, request);
}

pub(crate) fn add(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Console"])?;
    call.params.check(&FIELDS)?;
    let sid = call.params.get("sid").unwrap_or_default().to_owned();
    let vmid = vmid_of(call, &sid)?;
    if call.world.ha.contains_key(&vmid) {
        return Err(Refusal::internal(format!("resource ID '{}' already defined", call.world.ha_sid(vmid))));
    }
    let mut resource = HaResource::new("started");
    fill(call, &mut resource);
    call.world.ha.insert(vmid, resource);
    pursue(call, vmid);
    Ok(Value::Null.into())
}

pub(crate) fn change(call: &mut Call<'_>, sid: &str) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Console"])?;
    let errors = call.params.errors(&FIELDS, |name| matches!(name, "digest" | "delete"));
    if !errors.is_empty() {
        return Err(Refusal::parameters(errors));
    }
    let vmid = managed(call, sid)?;
    let mut resource = call.world.ha[&vmid].clone();
    fill(call, &mut resource);
    call.world.ha.insert(vmid, resource);
    pursue(call, vmid);
    Ok(Value::Null.into())
}

pub(crate) fn remove(call: &mut Call<'_>, sid: &str) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Console"])?;
    call.params.check(&[SID, Field("purge", Ty::Bool, true)])?;
    let vmid = managed(call, sid)?;
    call.world.ha.remove(&vmid);
    Ok(Value::Null.into())
}

pub(crate) fn current(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[])?;
    let world = &*call.world;
    let (node, quorate) = (&world.node, world.cluster.quorate);
    let word = if quorate { "OK" } else { "No quorum on node" };
    let mut rows = vec![json!({
        "id": "quorum", "type": "quorum", "node": node, "quorate": u8::from(quorate), "status": word,
    })];
    if !world.ha.is_empty() {
        let unix = call.now.unix;
        rows.push(json!({
            "id": "master", "type": "master", "node": node, "timestamp": unix,
            "status": format!("{node} (active)"),
        }));
        rows.push(json!({
            "id": format!("lrm:{node}"), "type": "lrm", "node": node, "timestamp": unix,
            "status": format!("{node} (active)"),
        }));
    }
    for (vmid, resource) in &world.ha {
        let (sid, state) = (world.ha_sid(*vmid), world.ha_state(*vmid).unwrap_or_default());
        rows.push(json!({
            "id": format!("service:{sid}"), "type": "service", "sid": sid, "node": node, "state": state,
            "crm_state": state, "request_state": resource.state, "max_restart": resource.max_restart,
            "max_relocate": resource.max_relocate, "status": format!("{sid} ({node}, {state})"),
        }));
    }
    Ok(Value::from(rows).into())
}

/// Puts into a handler's answer what the cluster adds: the state under HA of a guest, and the
/// other nodes in the list of nodes.
pub(crate) fn decorate(world: &World, method: &str, parts: &[&str], data: &mut Value) {
    match (method, parts) {
        ("GET", ["nodes", _, "qemu" | "lxc", vmid, "status", "current"]) => {
            if let Some(vmid) = vmid.parse().ok().filter(|vmid| world.ha.contains_key(vmid)) {
                data["ha"] = world.ha_view(vmid);
            }
        }
        ("GET", ["nodes"]) => {
            if let Some(rows) = data.as_array_mut() {
                rows.extend(world.peers.iter().map(|(name, peer)| {
                    let status = if peer.online { "online" } else { "offline" };
                    json!({
                        "node": name, "id": format!("node/{name}"), "type": "node", "status": status,
                        "level": "", "ssl_fingerprint": peer.world.fingerprint,
                    })
                }));
            }
        }
        _ => {}
    }
}
