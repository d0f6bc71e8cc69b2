//! `/version` and `/cluster/…`, except high availability.

use serde_json::{Map, Value, json};

use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Guest, Now, Refusal, Release, TaskFilter, World};

/// How many tasks of each node `/cluster/tasks` knows.
const TASKS_PER_NODE: usize = 25;

pub(crate) fn version(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    Ok(call.world.version().into())
}

/// A guest's row, with its pool and its state under HA.
pub(crate) fn guest_row(world: &World, node: &str, vmid: u32, guest: &Guest, now: Now) -> Value {
    let mut row = guest.resource(node, vmid, now);
    if let Some(map) = row.as_object_mut()
        && world.release == Release::V8
    {
        map.remove("memhost");
    }
    if !world.access.pools.is_empty()
        && let Some(pool) = world.access.pool_of(&format!("/vms/{vmid}"))
    {
        row["pool"] = json!(pool);
    }
    if let Some(state) = world.ha_state(vmid) {
        row["hastate"] = json!(state);
    }
    row
}

pub(crate) fn resources(call: &Call<'_>) -> Result<Reply, Refusal> {
    const TYPES: &[&str] = &["vm", "storage", "node", "sdn"];
    call.params.check(&[Field("type", Ty::Enum(TYPES), true)])?;
    let wanted = |kind: &str| call.params.get("type").is_none_or(|t| t == kind);
    let (world, node) = (&*call.world, call.world.node.as_str());
    let sees = |vmid: &u32| call.may(&format!("/vms/{vmid}"), &["VM.Audit"]);
    let mut rows: Vec<Value> = Vec::new();
    if wanted("pool") {
        let visible =
            world.access.pools.keys().filter(|id| call.may(&format!("/pool/{id}"), &["Pool.Audit"]));
        rows.extend(visible.map(|id| json!({"id": format!("/pool/{id}"), "pool": id, "type": "pool"})));
    }
    if wanted("vm") {
        let visible = world.guests.iter().filter(|(vmid, _)| sees(vmid));
        rows.extend(visible.map(|(vmid, guest)| guest_row(world, node, *vmid, guest, call.now)));
        for (name, peer) in &world.peers {
            for (vmid, guest) in peer.world.guests.iter().filter(|(vmid, _)| sees(vmid)) {
                let mut row = guest_row(world, name, *vmid, guest, call.now);
                if !peer.online {
                    row["status"] = json!("unknown");
                    for key in ["name", "template", "uptime", "cpu", "mem"] {
                        row.as_object_mut().and_then(|map| map.remove(key));
                    }
                }
                rows.push(row);
            }
        }
    }
    if wanted("node") {
        let figures = call.may(&format!("/nodes/{node}"), &["Sys.Audit"]);
        rows.push(world.node_resource(call.now, figures));
        for (name, peer) in &world.peers {
            let figures = peer.online && call.may(&format!("/nodes/{name}"), &["Sys.Audit"]);
            let mut row = peer.world.node_resource(call.now, figures);
            if !peer.online {
                row["status"] = json!("offline");
            }
            rows.push(row);
        }
    }
    if wanted("storage") {
        let visible = |at: &World, name: &str| -> Vec<Value> {
            let storages = at.storages.iter();
            let seen = storages.filter(|(id, s)| s.enabled && super::node::sees_storage(call, id));
            seen.map(|(id, storage)| storage.resource(name, id)).collect()
        };
        rows.extend(visible(world, node));
        for (name, peer) in world.peers.iter().filter(|(_, p)| p.online) {
            rows.extend(visible(&peer.world, name));
        }
    }
    let zone = "/sdn/zones/localnetwork";
    if wanted("sdn") && call.may(zone, &["SDN.Audit", "SDN.Allocate"]) {
        let online = world.peers.iter().filter(|(_, p)| p.online).map(|(name, _)| name.as_str());
        rows.extend([node].into_iter().chain(online).map(|node| match world.release {
            // Not recorded; the type is `sdn` in the schema of 8.4.
            Release::V8 => json!({
                "id": format!("sdn/{node}/localnetwork"), "node": node, "type": "sdn",
                "sdn": "localnetwork", "status": "ok",
            }),
            Release::V9 => json!({
                "id": format!("network/{node}/zone/localnetwork"), "node": node, "type": "network",
                "network": "localnetwork", "network-type": "zone", "status": "ok",
            }),
        }));
    }
    Ok(Value::from(rows).into())
}

pub(crate) fn status(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[])?;
    let world = &*call.world;
    let row = |name: &str, at: &World, nodeid: usize, online: bool| {
        json!({
            "id": format!("node/{name}"), "name": name, "type": "node", "ip": at.node_ip, "level": "",
            "local": u8::from(name == world.node), "nodeid": nodeid, "online": u8::from(online),
        })
    };
    let Some(name) = &world.cluster.name else {
        return Ok(json!([row(&world.node, world, 0, true)]).into());
    };
    let mut rows = vec![
        json!({
            "id": "cluster", "type": "cluster", "name": name, "nodes": 1 + world.peers.len(),
            "quorate": u8::from(world.cluster.quorate), "version": 1 + world.peers.len(),
        }),
        row(&world.node, world, 1, true),
    ];
    let peers = world.peers.iter().enumerate();
    rows.extend(peers.map(|(i, (name, peer))| row(name, &peer.world, i + 2, peer.online)));
    Ok(Value::from(rows).into())
}

pub(crate) fn nextid(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[Field("vmid", Ty::Vmid, true)])?;
    let Some(wanted) = call.params.get("vmid") else {
        let free = (100..).find(|id| !call.world.vmid_taken(*id)).unwrap_or(100);
        return Ok(json!(free.to_string()).into());
    };
    if wanted.parse().is_ok_and(|id| call.world.vmid_taken(id)) {
        return Err(Refusal::parameter("vmid", format!("VM {wanted} already exists")));
    }
    Ok(json!(wanted).into())
}

/// The last tasks of every node. The real node compares a task's user without its token with the
/// caller's full name: without Sys.Audit on `/` a token sees none, not even its own, and a user
/// sees those of all the user's tokens.
pub(crate) fn tasks(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    let all = call.may("/", &["Sys.Audit"]);
    let caller = call.who.to_string();
    let filter = TaskFilter { active: true, archive: true, ..TaskFilter::default() };
    let mut rows: Vec<Value> = Vec::new();
    let peers = call.world.peers.values().map(|p| &*p.world);
    for world in [&*call.world].into_iter().chain(peers) {
        let found = world.tasks.list(&filter);
        let visible = found.iter().take(TASKS_PER_NODE).filter(|t| all || t.upid.user.user == caller);
        rows.extend(visible.enumerate().map(|(i, t)| t.cluster_row(i == 0)));
    }
    Ok(Value::from(rows).into())
}

pub(crate) fn options(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[])?;
    let data: Map<String, Value> = call.world.cluster.options.clone().into_iter().collect();
    Ok(Value::Object(data).into())
}

/// All figures in one answer. Not recorded; the form is the schema's.
pub(crate) fn metrics(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    let mut fields = vec![
        Field("history", Ty::Bool, true),
        Field("local-only", Ty::Bool, true),
        Field("start-time", Ty::Int(0), true),
    ];
    if call.world.release == Release::V9 {
        fields.push(Field("node-list", Ty::Any, true));
    }
    call.params.check(&fields)?;
    let (world, unix) = (&*call.world, call.now.unix);
    if call.params.number("start-time").is_some_and(|start| start > unix) {
        return Ok(json!({"data": []}).into());
    }
    let mut rows: Vec<Value> = Vec::new();
    let mut add = |id: &Value, from: &Value, names: &[(&str, &str, &str)]| {
        for (metric, key, kind) in names {
            if let Some(value) = from.get(*key).filter(|v| v.is_number()) {
                rows.push(
                    json!({"id": id, "metric": metric, "timestamp": unix, "type": kind, "value": value}),
                );
            }
        }
    };
    let node = world.node_resource(call.now, true);
    let common =
        [("mem_used", "mem", "gauge"), ("mem_total", "maxmem", "gauge"), ("uptime", "uptime", "gauge")];
    let disk = [("disk_used", "disk", "gauge"), ("disk_total", "maxdisk", "gauge")];
    let cpu = [("cpu_current", "cpu", "gauge"), ("cpu_max", "maxcpu", "gauge")];
    let traffic = [
        ("net_in", "netin", "derive"),
        ("net_out", "netout", "derive"),
        ("disk_read", "diskread", "derive"),
        ("disk_write", "diskwrite", "derive"),
    ];
    for names in [&common[..], &disk, &cpu] {
        add(&node["id"], &node, names);
    }
    for (vmid, guest) in &world.guests {
        let row = guest_row(world, &world.node, *vmid, guest, call.now);
        for names in [&common[..], &disk, &cpu, &traffic] {
            add(&row["id"], &row, names);
        }
    }
    for (id, storage) in &world.storages {
        let row = storage.resource(&world.node, id);
        add(&row["id"], &row, &disk);
    }
    Ok(json!({"data": rows}).into())
}
