//! `/pools`. Recorded is `pool`; the rest follows the published schema.

use serde_json::{Value, json};

use super::cluster::guest_row;
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Pool, Refusal};

const POOLID: Field = Field("poolid", Ty::Any, false);
const TYPES: &[&str] = &["qemu", "lxc", "storage"];

fn entry(id: &str, pool: &Pool) -> Value {
    let mut row = json!({"poolid": id});
    if let Some(comment) = &pool.comment {
        row["comment"] = json!(comment);
    }
    row
}

fn find<'a>(call: &'a Call<'_>, id: &str) -> Result<&'a Pool, Refusal> {
    let missing = || Refusal::internal(format!("no such pool '{id}'"));
    call.world.access.pools.get(id).ok_or_else(missing)
}

fn with_members(call: &Call<'_>, id: &str) -> Result<Value, Refusal> {
    let pool = find(call, id)?;
    let wanted = |kind: &str| call.params.get("type").is_none_or(|t| t == kind);
    let world = &*call.world;
    let guests = pool.guests.iter().filter_map(|vmid| Some((*vmid, world.guests.get(vmid)?)));
    let guests = guests.filter(|(_, g)| wanted(g.kind.segment()));
    let mut members: Vec<Value> = guests
        .map(|(vmid, guest)| {
            let mut row = guest_row(world, &world.node, vmid, guest, call.now);
            if let Some(map) = row.as_object_mut() {
                // Recorded without them, although the container had tags.
                map.remove("pool");
                map.remove("tags");
            }
            row
        })
        .collect();
    if wanted("storage") {
        let storages = pool.storages.iter().filter_map(|id| Some((id, world.storages.get(id)?)));
        members.extend(storages.map(|(id, storage)| storage.resource(&world.node, id)));
    }
    let mut row = entry(id, pool);
    row["members"] = Value::from(members);
    Ok(row)
}

pub(crate) fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[Field("poolid", Ty::Any, true), Field("type", Ty::Enum(TYPES), true)])?;
    let visible = |id: &str| call.may(&format!("/pool/{id}"), &["Pool.Audit"]);
    if let Some(id) = call.params.get("poolid") {
        call.require(&format!("/pool/{id}"), &["Pool.Audit"])?;
        return Ok(json!([with_members(call, id)?]).into());
    }
    let pools = call.world.access.pools.iter().filter(|(id, _)| visible(id));
    Ok(Value::from(pools.map(|(id, pool)| entry(id, pool)).collect::<Vec<_>>()).into())
}

pub(crate) fn get(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.require(&format!("/pool/{id}"), &["Pool.Audit"])?;
    call.params.check(&[POOLID, Field("type", Ty::Enum(TYPES), true)])?;
    Ok(with_members(call, id)?.into())
}

pub(crate) fn create(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = call.params.get("poolid").unwrap_or_default().to_owned();
    call.require(&format!("/pool/{id}"), &["Pool.Allocate"])?;
    call.params.check(&[POOLID, Field("comment", Ty::Any, true)])?;
    if call.world.access.pools.contains_key(&id) {
        return Err(Refusal::internal(format!("create pool failed: pool '{id}' already exists")));
    }
    let comment = call.params.get("comment").map(str::to_owned);
    call.world.access.pools.insert(id, Pool { comment, ..Pool::default() });
    Ok(Value::Null.into())
}

pub(crate) fn change(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.require(&format!("/pool/{id}"), &["Pool.Allocate"])?;
    call.params.check(&[
        POOLID,
        Field("comment", Ty::Any, true),
        Field("vms", Ty::Any, true),
        Field("storage", Ty::Any, true),
        Field("delete", Ty::Bool, true),
        Field("allow-move", Ty::Bool, true),
    ])?;
    let mut pool = find(call, id)?.clone();
    let (delete, moves) = (call.params.flag("delete"), call.params.flag("allow-move"));
    let list = |name: &str| -> Vec<String> {
        let split = call.params.get(name).unwrap_or_default().split([',', ';', ' ']);
        split.filter(|n| !n.is_empty()).map(str::to_owned).collect()
    };
    for text in list("vms") {
        let vmid: u32 = text.parse().map_err(|_| {
            Refusal::parameter("vms", "invalid format - value does not look like a valid VM ID\n")
        })?;
        call.require(&format!("/vms/{vmid}"), &["Permissions.Modify", "VM.Allocate"])?;
        if delete {
            if !pool.guests.remove(&vmid) {
                return Err(Refusal::internal(format!(
                    "update pools failed: VM {vmid} is not a pool member"
                )));
            }
            continue;
        }
        let other = call.world.access.pool_of(&format!("/vms/{vmid}")).filter(|p| *p != id);
        if let Some(other) = other.filter(|_| !moves) {
            let text = format!("update pools failed: VM {vmid} belongs already to pool '{other}'");
            return Err(Refusal::internal(text));
        }
        pool.guests.insert(vmid);
    }
    for storage in list("storage") {
        call.require(&format!("/storage/{storage}"), &["Permissions.Modify", "Datastore.Allocate"])?;
        if !delete {
            pool.storages.insert(storage);
        } else if !pool.storages.remove(&storage) {
            let text = format!("update pools failed: Storage '{storage}' is not a pool member");
            return Err(Refusal::internal(text));
        }
    }
    if let Some(comment) = call.params.get("comment") {
        pool.comment = Some(comment.to_owned());
    }
    for (_, other) in call.world.access.pools.iter_mut().filter(|(name, _)| *name != id) {
        other.guests.retain(|vmid| !pool.guests.contains(vmid));
    }
    call.world.access.pools.insert(id.to_owned(), pool);
    Ok(Value::Null.into())
}

pub(crate) fn delete(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.require(&format!("/pool/{id}"), &["Pool.Allocate"])?;
    call.params.check(&[POOLID])?;
    let pool = find(call, id)?;
    // A guest that is gone does not keep its pool.
    let has_guests = pool.guests.iter().any(|vmid| call.world.guests.contains_key(vmid));
    if has_guests || !pool.storages.is_empty() {
        return Err(Refusal::internal(format!("delete pool failed: pool '{id}' is not empty")));
    }
    call.world.access.pools.remove(id);
    Ok(Value::Null.into())
}
