//! The content of a storage: lists, single volumes, pruning.

use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::storage::{CONTENT, READ, STORAGE, enter};
use super::{Call, Reply};
use crate::world::{Keep, Kind, Refusal, StorageJob};

/// `GET …/content`.
pub(crate) fn list(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    let fields = [NODE, STORAGE, Field("content", Ty::Any, true), Field("vmid", Ty::Vmid, true)];
    enter(call, node, id, &READ, &fields)?;
    let wanted = call.params.get("content");
    if let Some(bad) = wanted.filter(|w| !CONTENT.contains(w)) {
        let text = format!("invalid format - invalid content type '{bad}'\n");
        return Err(Refusal::parameter("content", text));
    }
    call.world.active_storage(id)?;
    let vmid = call.params.number("vmid").and_then(|n| u32::try_from(n).ok());
    Ok(Value::from(call.world.content(&call.who, id, wanted, vmid)).into())
}

/// `1G`, `52M` or a number of KiB, in bytes.
fn size_of(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'G' => (&text[..text.len() - 1], 30),
        b'M' => (&text[..text.len() - 1], 20),
        _ => (text, 10),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(1 << shift)
}

/// `POST …/content`: a new image. Not recorded.
pub(crate) fn alloc(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    let fields = [
        NODE,
        STORAGE,
        Field("filename", Ty::Any, false),
        Field("format", Ty::Enum(&["raw", "qcow2", "subvol", "vmdk"]), true),
        Field("size", Ty::Any, false),
        Field("vmid", Ty::Vmid, false),
    ];
    enter(call, node, id, &["Datastore.AllocateSpace"], &fields)?;
    let text = call.params.get("size").unwrap_or_default();
    let size =
        size_of(text).ok_or_else(|| Refusal::parameter("size", "value does not match the regex pattern"))?;
    let vmid = call.params.get("vmid").unwrap_or_default().to_owned();
    let filename = call.params.get("filename").unwrap_or_default().to_owned();
    let storage = call.world.active_storage(id)?;
    let name = if storage.has_files() { format!("{vmid}/{filename}") } else { filename.clone() };
    let volid = format!("{id}:{name}");
    let owner = call.world.parse_volume(&volid)?.1.owner.map(|n| n.to_string());
    if owner.as_deref() != Some(vmid.as_str()) || filename.contains('/') {
        return Err(Refusal::internal(format!("illegal name '{filename}' - should be 'vm-{vmid}-*'")));
    }
    if storage.total.saturating_sub(storage.used) < size {
        return Err(Refusal::internal(format!("unable to create image: not enough space on storage '{id}'")));
    }
    if call.world.size_and_format(&volid).is_some() {
        return Err(Refusal::internal(format!("disk image '{volid}' already exists")));
    }
    call.world.add_volume(&volid, size, call.now.unix);
    Ok(json!(volid).into())
}

/// The volume id of a path: with or without the storage in front.
fn volid(call: &mut Call<'_>, id: &str, rest: &[&str]) -> Result<String, Refusal> {
    let name = rest.join("/");
    call.params.bind_path("storage", id)?;
    call.params.bind_path("volume", &name)?;
    match name.split_once(':') {
        Some((other, _)) if other != id => {
            Err(Refusal::parameter("storage", format!("storage ID missmatch ({other} != {id})")))
        }
        Some(_) => Ok(name),
        None => Ok(format!("{id}:{name}")),
    }
}

const VOLUME: Field = Field("volume", Ty::Any, false);

/// `GET …/content/VOLUME`.
pub(crate) fn view(call: &mut Call<'_>, node: &str, id: &str, rest: &[&str]) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    let volid = volid(call, id, rest)?;
    call.params.check(&[NODE, STORAGE, VOLUME])?;
    call.world.volume_access(&call.who, &volid, None)?;
    call.world.active_storage(id)?;
    Ok(call.world.volume_view(&volid)?.into())
}

/// `PUT …/content/VOLUME`: notes and protection.
pub(crate) fn change(call: &mut Call<'_>, node: &str, id: &str, rest: &[&str]) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    let volid = volid(call, id, rest)?;
    call.params.check(&[
        NODE,
        STORAGE,
        VOLUME,
        Field("notes", Ty::Any, true),
        Field("protected", Ty::Bool, true),
    ])?;
    call.world.volume_access(&call.who, &volid, None)?;
    call.world.active_storage(id)?;
    let notes = call.params.get("notes").map(str::to_owned);
    let protected = call.params.get("protected").map(|p| p == "1");
    let volume = call.world.volume(&volid).filter(|v| v.content == "backup");
    let Some(volume) = volume else {
        let what = if notes.is_some() { "notes" } else { "protected" };
        return Err(match call.world.size_and_format(&volid) {
            Some(_) => Refusal::internal(format!("attribute '{what}' is not supported for volume '{volid}'")),
            None => Refusal::internal(format!("volume '{volid}' does not exist")),
        });
    };
    if let (Some(true), false, Some(vmid), Some(saved)) =
        (protected, volume.protected, volume.vmid, &volume.saved)
    {
        let kind = saved.kind;
        call.world.check_protected(&call.who, id, kind, vmid).map_err(Refusal::internal)?;
    }
    if let Some(volume) = call.world.stock.volumes.get_mut(&volid) {
        if let Some(notes) = notes {
            volume.notes = notes;
        }
        if let Some(protected) = protected {
            volume.protected = protected;
        }
    }
    Ok(Value::Null.into())
}

/// `DELETE …/content/VOLUME`.
pub(crate) fn delete(call: &mut Call<'_>, node: &str, id: &str, rest: &[&str]) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    let volid = volid(call, id, rest)?;
    call.params.check(&[NODE, STORAGE, VOLUME, Field("delay", Ty::Int(1), true)])?;
    let name = call.world.parse_volume(&volid)?.1;
    let path = format!("/storage/{id}");
    match (name.content, name.owner) {
        ("backup", Some(owner)) => {
            call.require(&path, &["Datastore.AllocateSpace"])?;
            call.require(&format!("/vms/{owner}"), &["VM.Backup"])?;
        }
        _ => call.require(&path, &["Datastore.Allocate"])?,
    }
    let task = match name.owner {
        Some(owner) => format!("{owner}@{id}"),
        None => id.to_owned(),
    };
    let upid = call.world.begin_storage(call.now, &call.who, "imgdel", &task, StorageJob::Delete { volid });
    Ok(json!(upid).into())
}

fn retention(call: &Call<'_>, id: &str) -> Result<Keep, Refusal> {
    match call.params.get("prune-backups") {
        Some(text) => Keep::parse(text).map_err(|why| Refusal::parameter("prune-backups", why)),
        None => Ok(call.world.storage_keep(id)),
    }
}

const PRUNE: [Field; 5] = [
    NODE,
    STORAGE,
    Field("prune-backups", Ty::Any, true),
    Field("type", Ty::Enum(&["qemu", "lxc"]), true),
    Field("vmid", Ty::Vmid, true),
];

fn chosen(call: &Call<'_>) -> (Option<u32>, Option<Kind>) {
    let kind = match call.params.get("type") {
        Some("qemu") => Some(Kind::Qemu),
        Some(_) => Some(Kind::Lxc),
        None => None,
    };
    (call.params.number("vmid").and_then(|n| u32::try_from(n).ok()), kind)
}

/// `GET …/prunebackups`: what would become of each backup. Observed: not filtered by VM.Backup.
pub(crate) fn prune_preview(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    enter(call, node, id, &READ, &PRUNE)?;
    let keep = retention(call, id)?;
    call.world.active_storage(id)?;
    let (vmid, kind) = chosen(call);
    let rows: Vec<Value> = call
        .world
        .prune_list(id, &keep, vmid, kind)
        .into_iter()
        .map(|found| {
            let mut row = json!({
                "volid": found.volid, "type": found.kind.map_or("unknown", Kind::segment),
                "ctime": found.ctime, "mark": found.mark.word(),
            });
            if let Some(vmid) = found.vmid {
                row["vmid"] = json!(vmid);
            }
            row
        })
        .collect();
    Ok(Value::from(rows).into())
}

/// `DELETE …/prunebackups`. Not recorded.
pub(crate) fn prune(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    enter(call, node, id, &[], &PRUNE)?;
    let keep = retention(call, id)?;
    let (vmid, kind) = chosen(call);
    let path = format!("/storage/{id}");
    match vmid {
        Some(vmid) => {
            call.require(&path, &["Datastore.AllocateSpace"])?;
            call.require(&format!("/vms/{vmid}"), &["VM.Backup"])?;
        }
        None => call.require(&path, &["Datastore.Allocate"])?,
    }
    call.world.active_storage(id)?;
    let task = vmid.map_or(id.to_owned(), |vmid| format!("{vmid}@{id}"));
    let job = StorageJob::Prune { storage: id.to_owned(), keep, vmid, kind };
    let upid = call.world.begin_storage(call.now, &call.who, "prunebackups", &task, job);
    Ok(json!(upid).into())
}
