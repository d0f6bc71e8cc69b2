//! `vzdump`: backup jobs that run now, their defaults, and what a backup holds.

use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Keep, Refusal, StorageJob, Vzdump};

/// The parameters of a backup, which jobs share.
pub(crate) const OPTIONS: [Field; 31] = [
    Field("all", Ty::Bool, true),
    Field("bwlimit", Ty::Int(0), true),
    Field("compress", Ty::Enum(&["0", "1", "gzip", "lzo", "zstd"]), true),
    Field("dumpdir", Ty::Any, true),
    Field("exclude", Ty::Any, true),
    Field("exclude-path", Ty::Any, true),
    Field("fleecing", Ty::Any, true),
    Field("ionice", Ty::Int(0), true),
    Field("lockwait", Ty::Int(0), true),
    Field("mailnotification", Ty::Enum(&["always", "failure"]), true),
    Field("mailto", Ty::Any, true),
    Field("maxfiles", Ty::Int(1), true),
    Field("mode", Ty::Enum(&["snapshot", "suspend", "stop"]), true),
    Field("notes-template", Ty::Text(1024), true),
    Field("notification-mode", Ty::Enum(&["auto", "legacy-sendmail", "notification-system"]), true),
    Field("pbs-change-detection-mode", Ty::Enum(&["legacy", "data", "metadata"]), true),
    Field("performance", Ty::Any, true),
    Field("pigz", Ty::Int(i64::MIN), true),
    Field("pool", Ty::Any, true),
    Field("protected", Ty::Bool, true),
    Field("prune-backups", Ty::Any, true),
    Field("quiet", Ty::Bool, true),
    Field("remove", Ty::Bool, true),
    Field("script", Ty::Any, true),
    Field("stdexcludes", Ty::Bool, true),
    Field("stop", Ty::Bool, true),
    Field("stopwait", Ty::Int(0), true),
    Field("storage", Ty::Any, true),
    Field("tmpdir", Ty::Any, true),
    Field("vmid", Ty::Any, true),
    Field("zstd", Ty::Int(i64::MIN), true),
];

/// A list of VMIDs in its order, or the text of the schema's refusal.
pub(crate) fn vmids(text: &str) -> Result<Vec<u32>, String> {
    text.split([',', ';', ' '])
        .filter(|word| !word.is_empty())
        .map(|word| match word.parse::<u32>() {
            Ok(n @ 100..=999_999_999) if !word.starts_with(['+', '0']) => Ok(n),
            _ => Err("invalid format - value does not look like a valid VM ID\n".to_owned()),
        })
        .collect()
}

/// The schema check of [`OPTIONS`] and `more`, with what the formats refuse.
pub(crate) fn check(call: &Call<'_>, more: &[Field]) -> Result<(), Refusal> {
    let known = |name: &str| OPTIONS.iter().any(|f| f.0 == name);
    let mut errors = call.params.errors(more, known);
    errors.extend(call.params.errors(&OPTIONS, |name| !known(name)));
    for name in ["vmid", "exclude"] {
        if let Some(Err(text)) = call.params.get(name).map(vmids) {
            errors.insert(name.to_owned(), text);
        }
    }
    if let Some(Err(text)) = call.params.get("prune-backups").map(Keep::parse) {
        errors.insert("prune-backups".to_owned(), text);
    }
    for by in ["notes-template", "protected"] {
        if call.params.get(by).is_some() && call.params.get("storage").is_none() {
            let text = format!("missing property - '{by}' requires this property");
            errors.insert("storage".to_owned(), text);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Refusal::parameters(errors)) }
}

/// What only some may set.
pub(crate) fn check_rights(call: &Call<'_>) -> Result<(), Refusal> {
    let root = call.who.user == "root@pam" && call.who.token.is_none();
    if root {
        return Ok(());
    }
    for name in ["tmpdir", "dumpdir", "script", "job-id"] {
        if call.params.get(name).is_some() {
            return Err(Refusal::parameter(name, "Only root may set this option."));
        }
    }
    if ["bwlimit", "ionice", "performance"].iter().any(|name| call.params.get(name).is_some()) {
        call.require("/", &["Sys.Modify"])?;
    }
    let fleecing = call.params.get("fleecing").unwrap_or_default();
    if let Some(storage) = fleecing.split(',').find_map(|p| p.strip_prefix("storage=")) {
        call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    if call.params.get("prune-backups").is_some() {
        let storage = call.params.get("storage").unwrap_or("local");
        call.require(&format!("/storage/{storage}"), &["Datastore.Allocate"])?;
    }
    Ok(())
}

/// Conflicts between the ways to choose guests; recorded for a missing `vmid`.
pub(crate) fn check_choice(call: &Call<'_>) -> Result<(), Refusal> {
    let has = |name: &str| call.params.get(name).is_some();
    for other in ["exclude", "pool"] {
        if has(other) && has("vmid") {
            return Err(Refusal::parameter(other, "option conflicts with option 'vmid'"));
        }
    }
    if call.params.flag("all") && has("vmid") {
        return Err(Refusal::parameter("all", "option conflicts with option 'vmid'"));
    }
    if !call.params.flag("all")
        && !call.params.flag("stop")
        && !["vmid", "pool", "exclude"].iter().any(|n| has(n))
    {
        return Err(Refusal::parameter("vmid", "property is missing"));
    }
    let notes = call.params.get("notes-template").unwrap_or_default();
    let unknown = crate::world::unknown_variables(notes);
    if !unknown.is_empty() {
        let text = format!("unexpected variables: {}", unknown.join(", "));
        return Err(Refusal::parameter("notes-template", text));
    }
    Ok(())
}

/// `POST /nodes/NODE/vzdump`.
pub(crate) fn vzdump(call: &mut Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    let fields = [NODE, Field("stdout", Ty::Bool, true), Field("job-id", Ty::Text(50), true)];
    check(call, &fields)?;
    if call.params.get("stdout").is_some() {
        let text = "option is only allowed on the command line interface.";
        return Err(Refusal::parameter("stdout", text));
    }
    check_rights(call)?;
    check_choice(call)?;
    let world = &*call.world;
    let text = |name: &str| call.params.get(name).map(str::to_owned);
    let ids = |name: &str| vmids(call.params.get(name).unwrap_or_default()).unwrap_or_default();
    let exclude = ids("exclude");
    let pool = text("pool");
    let chosen: Vec<u32> = if let Some(pool) = &pool {
        let members = world.access.pools.get(pool).map(|p| p.guests.iter().copied().collect());
        members.unwrap_or_default()
    } else if call.params.get("vmid").is_some() {
        ids("vmid")
    } else if call.params.flag("stop") && !call.params.flag("all") {
        Vec::new()
    } else {
        let there = world.peers.values().flat_map(|p| p.world.guests.keys().copied());
        world.guests.keys().copied().chain(there).collect()
    };
    let is_elsewhere = |vmid: &u32| {
        world.elsewhere.contains(vmid) || world.peers.values().any(|p| p.world.guests.contains_key(vmid))
    };
    let (elsewhere, mut vmids): (Vec<u32>, Vec<u32>) =
        chosen.into_iter().filter(|id| !exclude.contains(id)).partition(is_elsewhere);
    vmids.sort_unstable();
    vmids.dedup();
    let all = call.params.get("vmid").is_none();
    if call.params.flag("stop") && vmids.is_empty() {
        return Ok(json!("OK").into());
    }
    // Nothing to do on this node is a success without a task.
    if vmids.is_empty() && (pool.is_some() || !all) {
        return Ok(json!("OK").into());
    }
    if let Some(storage) = call.params.get("storage") {
        call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    let id = match vmids.as_slice() {
        [one] => one.to_string(),
        _ => String::new(),
    };
    let number = |name: &str, default: u32| {
        call.params.number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
    };
    let node_name = world.node.clone();
    let words = call.params.names().filter(|name| !matches!(*name, "vmid" | "quiet")).map(|name| {
        let value = call.params.get(name).unwrap_or_default().to_owned();
        (name.to_owned(), if name == "node" { node_name.clone() } else { value })
    });
    let job = Vzdump {
        vmids,
        all,
        words: words.collect(),
        elsewhere,
        storage: text("storage").unwrap_or_else(|| "local".to_owned()),
        mode: text("mode").unwrap_or_else(|| "snapshot".to_owned()),
        compress: text("compress").unwrap_or_else(|| "0".to_owned()),
        notes: text("notes-template").unwrap_or_default(),
        protected: call.params.flag("protected"),
        remove: call.params.get("remove").is_none_or(|r| r == "1"),
        keep: call.params.get("prune-backups").and_then(|t| Keep::parse(t).ok()),
        lockwait: number("lockwait", 180),
        bwlimit: number("bwlimit", world.stock.bwlimit),
        ..Vzdump::default()
    };
    let job = StorageJob::Vzdump(Box::new(job));
    Ok(json!(call.world.begin_storage(call.now, &call.who, "vzdump", &id, job)).into())
}

/// `GET /nodes/NODE/vzdump/defaults`.
pub(crate) fn defaults(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[NODE, Field("storage", Ty::Any, true)])?;
    let id = call.params.get("storage").unwrap_or("local");
    call.require(&format!("/storage/{id}"), &super::storage::READ)?;
    let storage = call.world.storage(id)?;
    let mut found = json!({
        "all": 0, "bwlimit": call.world.stock.bwlimit, "compress": "0", "fleecing": {"enabled": 0}, "ionice": 7,
        "lockwait": 180, "mailnotification": "always", "mode": "snapshot", "notification-mode": "auto",
        "performance": {"max-workers": 16, "pbs-entries-max": 1_048_576}, "pigz": 0,
        "prune-backups": call.world.storage_keep(id).config(), "quiet": 0, "remove": 1,
        "stdexcludes": 1, "stop": 0, "stopwait": 10, "storage": id, "zstd": 1,
    });
    if storage.has_files() {
        found["dumpdir"] = json!(format!("{}/dump", storage.path(id)));
    }
    // Not for everybody: what tells about the node itself.
    if !call.may(&format!("/nodes/{}", call.world.node), &["Sys.Audit"])
        && let Some(map) = found.as_object_mut()
    {
        for hidden in ["mailto", "tmpdir", "dumpdir", "script", "ionice"] {
            map.remove(hidden);
        }
    }
    Ok(found.into())
}

/// `GET /nodes/NODE/vzdump/extractconfig`.
pub(crate) fn extract_config(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[NODE, Field("volume", Ty::Any, false)])?;
    let volid = call.params.get("volume").unwrap_or_default();
    call.world.volume_access(&call.who, volid, None)?;
    let (storage, name) = call.world.parse_volume(volid)?;
    if name.content != "backup" {
        return Err(Refusal::internal(format!("volume '{volid}' is not a backup")));
    }
    call.world.active_storage(&storage)?;
    let text = call.world.extract_config(volid);
    let text = text.ok_or_else(|| Refusal::internal(format!("volume '{volid}' does not exist")))?;
    Ok(Value::from(text).into())
}
