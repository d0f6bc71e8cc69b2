//! Storages: their state on a node and their configuration.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Keep, Refusal, Storage};

/// What reading a storage takes.
pub(crate) const READ: [&str; 2] = ["Datastore.Audit", "Datastore.AllocateSpace"];
/// The schema line of the storage in the path.
pub(crate) const STORAGE: Field = Field("storage", Ty::Any, false);
/// The types of content.
pub(crate) const CONTENT: [&str; 8] =
    ["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import", "none"];

/// Whether the caller sees the storage in lists.
pub(crate) fn sees_storage(call: &Call<'_>, id: &str) -> bool {
    call.may(&format!("/storage/{id}"), &READ)
}

fn content_list(call: &Call<'_>, name: &str) -> Result<(), Refusal> {
    let all = call.params.get(name).unwrap_or_default();
    match all.split([',', ';', ' ']).find(|word| !word.is_empty() && !CONTENT.contains(word)) {
        Some(bad) => {
            let text = format!("invalid format - invalid content type '{bad}'\n");
            Err(Refusal::parameter(name, text))
        }
        None => Ok(()),
    }
}

/// `GET /nodes/NODE/storage`.
pub(crate) fn list(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[
        NODE,
        Field("content", Ty::Any, true),
        Field("enabled", Ty::Bool, true),
        Field("format", Ty::Bool, true),
        Field("storage", Ty::Any, true),
        Field("target", Ty::Any, true),
    ])?;
    content_list(call, "content")?;
    let target = call.params.get("target").filter(|t| *t != call.world.node && *t != "localhost");
    if let Some(target) = target {
        resolve(call, target)?;
    }
    let has_content = |storage: &Storage| {
        call.params.get("content").is_none_or(|wanted| {
            let mut words = wanted.split([',', ';', ' ']).filter(|w| !w.is_empty());
            words.any(|w| storage.holds(w))
        })
    };
    let only = call.params.get("storage");
    if let Some(id) = only {
        call.world.storage(id)?;
    }
    let rows: Vec<Value> = call
        .world
        .storages
        .iter()
        .filter(|(id, _)| only.is_none_or(|o| o == id.as_str()) && sees_storage(call, id))
        .filter(|(_, s)| s.on_node(&call.world.node) && target.is_none_or(|t| s.on_node(t)))
        .filter(|(_, s)| has_content(s) && (s.enabled || !call.params.flag("enabled")))
        .map(|(id, s)| {
            let mut row = s.status(Some(id));
            if call.params.flag("format") {
                row["formats"] = s.formats();
            }
            row
        })
        .collect();
    Ok(Value::from(rows).into())
}

/// Permissions and node; the storage itself is looked up only after the parameters.
pub(crate) fn enter(
    call: &mut Call<'_>,
    node: &str,
    id: &str,
    privileges: &[&str],
    fields: &[Field],
) -> Result<(), Refusal> {
    call.params.bind_path("storage", id)?;
    if !privileges.is_empty() {
        call.require(&format!("/storage/{id}"), privileges)?;
    }
    resolve(call, node)?;
    call.params.check(fields)
}

/// `GET …/storage/ID/status`.
pub(crate) fn status(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    enter(call, node, id, &READ, &[NODE, STORAGE])?;
    let here = call.world.storages.get(id).filter(|s| s.on_node(&call.world.node));
    // Not recorded: the published sources look into the list of the node's storages here.
    let storage = here.ok_or_else(|| Refusal::parameter("storage", "No such storage."))?;
    Ok(storage.status(None).into())
}

/// `GET …/storage/ID`.
pub(crate) fn index(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    enter(call, node, id, &[READ[0], READ[1], "Datastore.AllocateTemplate"], &[NODE, STORAGE])?;
    super::routes::index(&[
        "content",
        "download-url",
        "file-restore",
        "import-metadata",
        "prunebackups",
        "rrd",
        "rrddata",
        "status",
        "upload",
    ])
}

/// `GET …/storage/ID/rrddata`. Not recorded; the fields are those of the node's graph of a storage.
pub(crate) fn rrddata(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    let fields = [NODE, STORAGE, super::node::TIMEFRAME, super::node::CF];
    enter(call, node, id, &READ, &fields)?;
    let storage = call.world.storage(id)?;
    let row = |_| json!({"total": storage.total, "used": storage.used});
    Ok(super::node::series(call, row).into())
}

/// The kinds of storages.
const TYPES: &[&str] = &[
    "btrfs",
    "cephfs",
    "cifs",
    "dir",
    "esxi",
    "iscsi",
    "iscsidirect",
    "lvm",
    "lvmthin",
    "nfs",
    "pbs",
    "rbd",
    "zfs",
    "zfspool",
];

/// `GET /storage`.
pub(crate) fn configs(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[Field("type", Ty::Enum(TYPES), true)])?;
    let digest = call.world.storage_digest();
    let rows: Vec<Value> = call
        .world
        .storages
        .iter()
        .filter(|(id, s)| sees_storage(call, id) && call.params.get("type").is_none_or(|t| t == s.plugin))
        .map(|(id, s)| s.config(id, &digest))
        .collect();
    Ok(Value::from(rows).into())
}

/// `GET /storage/ID`.
pub(crate) fn config(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("storage", id)?;
    call.require(&format!("/storage/{id}"), &["Datastore.Allocate"])?;
    call.params.check(&[STORAGE])?;
    Ok(call.world.storage(id)?.config(id, &call.world.storage_digest()).into())
}

/// Options that can be written, besides those that have their own place: name, whether it is a
/// number, and whether it is fixed once the storage exists.
const OPTIONS: [(&str, bool, bool); 40] = [
    ("base", false, true),
    ("blocksize", false, false),
    ("bwlimit", false, false),
    ("content-dirs", false, false),
    ("create-base-path", true, false),
    ("create-subdirs", true, false),
    ("data-pool", false, false),
    ("datastore", false, true),
    ("domain", false, false),
    ("encryption-key", false, false),
    ("export", false, true),
    ("fingerprint", false, false),
    ("format", false, false),
    ("fs-name", false, false),
    ("fuse", true, false),
    ("is_mountpoint", false, false),
    ("krbd", true, false),
    ("master-pubkey", false, false),
    ("max-protected-backups", true, false),
    ("mkdir", true, false),
    ("monhost", false, false),
    ("mountpoint", false, false),
    ("namespace", false, false),
    ("nocow", true, false),
    ("nodes", false, false),
    ("options", false, false),
    ("password", false, false),
    ("path", false, true),
    ("pool", false, false),
    ("port", true, false),
    ("preallocation", false, false),
    ("prune-backups", false, false),
    ("saferemove", true, false),
    ("server", false, false),
    ("share", false, true),
    ("smbversion", false, false),
    ("snapshot-as-volume-chain", true, false),
    ("sparse", true, false),
    ("subdir", false, false),
    ("username", false, false),
];

/// What each kind must be given.
fn needed(plugin: &str) -> &'static [&'static str] {
    match plugin {
        "dir" | "btrfs" => &["path"],
        "nfs" => &["server", "export"],
        "cifs" => &["server", "share"],
        "pbs" => &["server", "datastore"],
        "zfspool" | "rbd" => &["pool"],
        "lvm" => &["vgname"],
        "lvmthin" => &["vgname", "thinpool"],
        _ => &[],
    }
}

/// What each kind may hold.
fn may_hold(plugin: &str) -> &'static [&'static str] {
    match plugin {
        "dir" | "nfs" | "cifs" | "cephfs" => &CONTENT,
        "btrfs" => &["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "none", "import"],
        "pbs" => &["backup", "none"],
        "iscsi" | "iscsidirect" => &["images", "none"],
        "esxi" => &["import"],
        _ => &["images", "rootdir", "none"],
    }
}

/// The checks that creating and changing share; the options as they are kept.
fn options(
    call: &Call<'_>,
    plugin: &str,
    fields: &[Field],
    new: bool,
) -> Result<BTreeMap<String, Value>, Refusal> {
    let given = |name: &str| OPTIONS.iter().any(|(n, _, fixed)| *n == name && (new || !fixed));
    let mut errors = call.params.errors(fields, given);
    let mut found = BTreeMap::new();
    for (name, number, _) in OPTIONS.iter().filter(|(n, ..)| given(n)) {
        let Some(text) = call.params.get(name) else {
            continue;
        };
        let value = match (number, text.parse::<i64>()) {
            (true, Ok(n)) => json!(n),
            (true, Err(_)) => {
                errors.insert((*name).to_owned(), format!("type check ('integer') failed - got '{text}'"));
                continue;
            }
            (false, _) => json!(text),
        };
        if *name == "prune-backups" {
            match Keep::parse(text) {
                Ok(keep) => {
                    found.insert((*name).to_owned(), json!(keep.config()));
                }
                Err(text) => {
                    errors.insert((*name).to_owned(), text);
                }
            }
            continue;
        }
        found.insert((*name).to_owned(), value);
    }
    if let Some(content) = call.params.get("content") {
        for word in content.split(',') {
            if !CONTENT.contains(&word) {
                let text = format!("invalid format - invalid content type '{word}'\n");
                errors.insert("content".to_owned(), text);
            } else if !may_hold(plugin).contains(&word) {
                let text = format!("storage does not support content type '{word}'");
                errors.insert("content".to_owned(), text);
            }
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(Refusal::parameters(errors)) }
}

/// `[a-z][a-z0-9_.-]*[a-z0-9]`.
fn is_storage_id(id: &str) -> bool {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    let last = id.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric());
    first && last && id.len() >= 2 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `POST /storage`. Not recorded.
pub(crate) fn create(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    call.require("/storage", &["Datastore.Allocate"])?;
    let fields = [
        STORAGE,
        Field("type", Ty::Enum(TYPES), false),
        Field("content", Ty::Any, true),
        Field("disable", Ty::Bool, true),
        Field("shared", Ty::Bool, true),
        Field("vgname", Ty::Any, true),
        Field("thinpool", Ty::Any, true),
    ];
    let plugin = call.params.get("type").unwrap_or_default().to_owned();
    let options = options(call, &plugin, &fields, true)?;
    let id = call.params.get("storage").unwrap_or_default().to_owned();
    if !is_storage_id(&id) {
        let text = format!("invalid format - storage ID '{id}' contains illegal characters\n");
        return Err(Refusal::parameter("storage", text));
    }
    let missing: BTreeMap<String, String> = needed(&plugin)
        .iter()
        .filter(|name| call.params.get(name).is_none())
        .map(|name| ((*name).to_owned(), "property is missing and it is not optional".to_owned()))
        .collect();
    if !missing.is_empty() {
        return Err(Refusal::parameters(missing));
    }
    if call.world.storages.contains_key(&id) {
        return Err(Refusal::internal(format!("create storage failed: storage ID '{id}' already defined")));
    }
    let content = call.params.get("content").map(str::to_owned);
    let default = if plugin == "pbs" { "backup" } else { "images,rootdir" };
    // A fresh storage of the simulator has room; nothing says how much a real one would have.
    let mut storage = Storage::new(&plugin, content.as_deref().unwrap_or(default), 500 << 30);
    storage.enabled = !call.params.flag("disable");
    storage.shared |= call.params.flag("shared");
    storage.options = options;
    if let (Some(vg), Some(lv)) = (call.params.get("vgname"), call.params.get("thinpool")) {
        storage.thin = Some(crate::world::ThinPool {
            vg: vg.to_owned(),
            lv: lv.to_owned(),
            metadata_size: 4 << 30,
            metadata_used: 1 << 20,
        });
    } else if let Some(vg) = call.params.get("vgname") {
        storage = storage.with("vgname", vg);
    }
    call.world.storages.insert(id.clone(), storage);
    Ok(json!({"storage": id, "type": plugin}).into())
}

/// `PUT /storage/ID`. Not recorded.
pub(crate) fn update(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("storage", id)?;
    call.require("/storage", &["Datastore.Allocate"])?;
    let plugin = call.world.storages.get(id).map(|s| s.plugin.clone()).unwrap_or_default();
    let fields = [
        STORAGE,
        Field("content", Ty::Any, true),
        Field("disable", Ty::Bool, true),
        Field("shared", Ty::Bool, true),
        Field("delete", Ty::Any, true),
        Field("digest", Ty::Text(64), true),
    ];
    let options = options(call, if plugin.is_empty() { "dir" } else { &plugin }, &fields, false)?;
    let failed = |text: &str| Refusal::internal(format!("update storage failed: {text}"));
    let digest = call.params.get("digest").map(str::to_owned);
    if digest.is_some_and(|d| d != call.world.storage_digest()) {
        return Err(failed("detected modified configuration - file changed by other user? Try again."));
    }
    let (content, disable, shared) = (
        call.params.get("content").map(str::to_owned),
        call.params.get("disable").map(|d| d == "1"),
        call.params.get("shared").map(|d| d == "1"),
    );
    let delete: Vec<String> = call
        .params
        .get("delete")
        .unwrap_or_default()
        .split([',', ';', ' '])
        .filter(|k| !k.is_empty())
        .map(str::to_owned)
        .collect();
    let Some(storage) = call.world.storages.get_mut(id) else {
        return Err(failed(&format!("storage '{id}' does not exist")));
    };
    for key in &delete {
        match key.as_str() {
            "disable" => storage.enabled = true,
            "shared" => storage.shared = false,
            _ if OPTIONS.iter().any(|(n, _, fixed)| n == key && !fixed) => {
                storage.options.remove(key);
            }
            _ => return Err(failed(&format!("unknown option '{key}'"))),
        }
    }
    storage.options.extend(options);
    if let Some(content) = content {
        storage.content = content;
    }
    if let Some(disable) = disable {
        storage.enabled = !disable;
    }
    if let Some(shared) = shared {
        storage.shared = shared;
    }
    Ok(json!({"storage": id, "type": plugin}).into())
}

/// `DELETE /storage/ID`: what is on it stays. Not recorded.
pub(crate) fn delete(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("storage", id)?;
    call.require("/storage", &["Datastore.Allocate"])?;
    call.params.check(&[STORAGE])?;
    if call.world.storages.remove(id).is_none() {
        return Err(Refusal::internal(format!("delete storage failed: storage '{id}' does not exist")));
    }
    Ok(Value::Null.into())
}
