//! `/nodes` and what is directly below a node, except guests and tasks.

use serde_json::{Value, json};

use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Refusal, Storage};

/// Whether the caller sees the storage in lists.
pub(crate) fn sees_storage(call: &Call<'_>, id: &str) -> bool {
    let wanted = ["Datastore.Audit", "Datastore.AllocateSpace"];
    call.may(&format!("/storage/{id}"), &wanted)
}

/// The 500 of a node that cannot be resolved. It comes after the permission check and before the
/// parameter check, as in the real router.
pub(crate) fn resolve(call: &Call<'_>, node: &str) -> Result<(), Refusal> {
    call.world.reach(node)
}

/// The schema line every path below a node has.
pub(crate) const NODE: Field = Field("node", Ty::Any, false);

pub(crate) fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    let figures = call.may(&format!("/nodes/{}", call.world.node), &["Sys.Audit"]);
    Ok(json!([call.world.node_row(call.now, figures)]).into())
}

pub(crate) fn status(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    call.require(&format!("/nodes/{node}"), &["Sys.Audit"])?;
    resolve(call, node)?;
    call.params.check(&[NODE])?;
    Ok(call.world.node_status(call.now).into())
}

pub(crate) fn time(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    call.require(&format!("/nodes/{node}"), &["Sys.Audit"])?;
    resolve(call, node)?;
    call.params.check(&[NODE])?;
    let unix = call.now.unix;
    Ok(json!({"time": unix, "localtime": unix, "timezone": "Etc/UTC"}).into())
}

pub(crate) fn storages(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[
        NODE,
        Field("content", Ty::Any, true),
        Field("enabled", Ty::Bool, true),
        Field("format", Ty::Bool, true),
        Field("storage", Ty::Any, true),
        Field("target", Ty::Any, true),
    ])?;
    let has_content = |storage: &Storage| {
        call.params.get("content").is_none_or(|wanted| {
            let has = |c: &str| storage.content.split(',').any(|have| have == c);
            wanted.split(',').any(has)
        })
    };
    let only = call.params.get("storage");
    let rows: Vec<Value> = call
        .world
        .storages
        .iter()
        .filter(|(id, _)| only.is_none_or(|o| o == id.as_str()) && sees_storage(call, id))
        .filter(|(_, s)| has_content(s) && (s.enabled || !call.params.flag("enabled")))
        .map(|(id, s)| s.status(Some(id)))
        .collect();
    Ok(Value::from(rows).into())
}

fn storage<'a>(call: &'a Call<'_>, node: &str, id: &str) -> Result<&'a Storage, Refusal> {
    let wanted = ["Datastore.Audit", "Datastore.AllocateSpace"];
    call.require(&format!("/storage/{id}"), &wanted)?;
    resolve(call, node)?;
    call.world.storage(id)
}

pub(crate) fn storage_status(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("storage", id)?;
    let storage = storage(call, node, id)?;
    call.params.check(&[NODE, Field("storage", Ty::Any, false)])?;
    Ok(storage.status(None).into())
}

pub(crate) fn storage_content(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    const TYPES: [&str; 7] = ["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import"];
    call.params.bind_path("storage", id)?;
    let found = storage(call, node, id);
    if matches!(&found, Err(refusal) if refusal.status == 403) {
        found?;
    }
    call.params.check(&[
        NODE,
        Field("storage", Ty::Any, false),
        Field("content", Ty::Any, true),
        Field("vmid", Ty::Vmid, true),
    ])?;
    let wanted = call.params.get("content");
    if let Some(bad) = wanted.filter(|w| !TYPES.contains(w)) {
        let text = format!("invalid format - invalid content type '{bad}'\n");
        return Err(Refusal::parameter("content", text));
    }
    let storage = storage(call, node, id)?;
    if !storage.enabled {
        return Err(Refusal::internal(format!("storage '{id}' is disabled")));
    }
    if !storage.active {
        return Err(Refusal::internal(format!(
            "unable to activate storage '{id}' - directory is expected to be a mount point but is not mounted: '/srv/off'"
        )));
    }
    let only = call.params.get("vmid");
    let mut rows = Vec::new();
    for (vmid, guest) in &call.world.guests {
        // Volumes of guests the caller may not change are left out silently.
        let visible = call.may(&format!("/vms/{vmid}"), &["VM.Config.Disk"]);
        let kind = match guest.kind {
            crate::world::Kind::Qemu => "images",
            crate::world::Kind::Lxc => "rootdir",
        };
        let asked = wanted.is_none_or(|w| w == kind) && only.is_none_or(|o| o == vmid.to_string());
        if !visible || !asked {
            continue;
        }
        let on_storage = |volume: &str| volume.split_once(':').is_some_and(|(s, _)| s == id);
        for (_, volume) in guest.volumes().into_iter().filter(|(_, v)| on_storage(v)) {
            let format = if volume.contains("subvol") { "subvol" } else { "raw" };
            rows.push(json!({
                "volid": volume, "content": kind, "format": format, "vmid": vmid,
                "size": guest.max_disk(),
            }));
        }
    }
    Ok(Value::from(rows).into())
}

pub(crate) fn lvmthin(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    resolve(call, node)?;
    call.params.check(&[NODE])?;
    let rows: Vec<Value> = call.world.storages.values().filter_map(Storage::lvmthin).collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn certificates(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[NODE])?;
    Ok(Value::from(call.world.certificates.clone()).into())
}
