//! Restoring a guest from a backup: `POST …/qemu` with `archive`, `POST …/lxc` with `restore=1`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::guest::is_root;
use super::guest::lifecycle::check_pool;
use super::guest::options::{self, Change};
use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{
    Config, HaResource, Kind, Refusal, Release, Restore, StorageJob, is_volume_key, option_spec,
};

/// What may be asked of a restore besides the options.
fn fields(release: Release, kind: Kind) -> Vec<Field> {
    let any = |name| Field(name, Ty::Any, true);
    let flag = |name| Field(name, Ty::Bool, true);
    let mut all = vec![
        NODE,
        Field("vmid", Ty::Vmid, false),
        Field("bwlimit", Ty::Int(0), true),
        any("pool"),
        flag("start"),
        any("storage"),
        flag("unique"),
        flag("force"),
    ];
    if release == Release::V9 {
        all.push(flag("ha-managed"));
    }
    match kind {
        Kind::Qemu => {
            all.extend([
                Field("archive", Ty::Text(255), false),
                flag("live-restore"),
                any("import-working-storage"),
            ]);
        }
        Kind::Lxc => all.extend([
            Field("ostemplate", Ty::Text(255), false),
            flag("restore"),
            flag("ignore-unpack-errors"),
            any("password"),
            any("ssh-public-keys"),
        ]),
    }
    all
}

/// The restore of a guest; its checks come in the order of the recorded refusals, and where none is
/// recorded in that of the published sources.
pub(crate) fn restore(call: &mut Call<'_>, node: &str, kind: Kind) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    let release = call.world.release;
    let fields = fields(release, kind);
    let mut errors = call.params.errors(&fields, |key| option_spec(release, kind, key).is_some());
    let taken: Vec<&str> = fields.iter().map(|f| f.0).collect();
    let values = options::read(call, kind, &taken, &mut errors);
    if !errors.is_empty() {
        return Err(Refusal::parameters(errors));
    }
    let text = call.params.get("vmid").unwrap_or_default().to_owned();
    let vmid: u32 = text.parse().map_err(|_| Refusal::internal("unable to parse VMID"))?;
    let force = call.params.flag("force");
    if kind == Kind::Lxc {
        container_exists(call, vmid, force)?;
    } else if let Some(storage) = call.params.get("storage") {
        call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    let pool = call.params.get("pool").map(str::to_owned);
    check_pool(call, pool.as_deref())?;
    let exists = call.world.guests.get(&vmid).is_some_and(|g| g.kind == kind);
    let path = format!("/vms/{vmid}");
    let allowed = call.may(&path, &["VM.Allocate"])
        || pool.as_ref().is_some_and(|name| call.may(&format!("/pool/{name}"), &["VM.Allocate"]))
        // An existing guest may be overwritten by those who may save it.
        || (force && exists && call.may(&path, &["VM.Backup"]));
    if !allowed {
        return Err(Refusal::new(403, "Permission check failed"));
    }
    let mut order = order(call, kind, vmid, values, pool.as_deref())?;
    let managed = call.params.flag("ha-managed");
    if managed {
        call.require("/", &["Sys.Console"])?;
    }
    if kind == Kind::Qemu {
        let emsg = |text: String| Refusal::internal(format!("unable to restore VM {vmid} - {text}"));
        let here = call.world.guests.contains_key(&vmid);
        if !here || !force {
            call.world.check_vmid_free(vmid).map_err(emsg)?;
        }
        call.world.restore_reserve(&mut order).map_err(emsg)?;
    } else {
        call.world.restore_reserve(&mut order).map_err(Refusal::internal)?;
    }
    let task = match kind {
        Kind::Qemu => "qmrestore",
        Kind::Lxc => "vzrestore",
    };
    let job = StorageJob::Restore(Box::new(order));
    let upid = call.world.begin_storage(call.now, &call.who, task, &text, job);
    if managed {
        call.world.ha.insert(vmid, HaResource::new("started"));
    }
    Ok(json!(upid).into())
}

/// The first checks of a container: what is under this id now.
fn container_exists(call: &Call<'_>, vmid: u32, force: bool) -> Result<(), Refusal> {
    let here = call.world.guests.get(&vmid).filter(|g| force && g.kind == Kind::Lxc);
    let Some(guest) = here else {
        return call.world.check_vmid_free(vmid).map_err(Refusal::internal);
    };
    if guest.running.is_some() {
        return Err(Refusal::internal("can't overwrite running container"));
    }
    if guest.config.get("protection") == Some(&json!(1)) {
        return Err(Refusal::internal(format!("unable to restore CT {vmid} - protection mode enabled")));
    }
    guest.check_lock().map_err(|text| Refusal::internal(format!("unable to restore CT {vmid} - {text}")))
}

fn order(
    call: &Call<'_>,
    kind: Kind,
    vmid: u32,
    values: Vec<(String, Value)>,
    pool: Option<&str>,
) -> Result<Restore, Refusal> {
    let name = if kind == Kind::Qemu { "archive" } else { "ostemplate" };
    let volid = call.params.get(name).unwrap_or_default().to_owned();
    if kind == Kind::Qemu
        && let Some((key, _)) = values.iter().find(|(key, _)| is_volume_key(kind, key))
    {
        return Err(Refusal::parameter(key, "option conflicts with option 'archive'"));
    }
    let mut paths = vec![format!("/vms/{vmid}")];
    paths.extend(pool.map(|name| format!("/pool/{name}")));
    let nothing = Config::new();
    let asked = values.iter().find(|(key, _)| key == "unprivileged").map(|(_, v)| *v == json!(1));
    let saved = call.world.volume(&volid).and_then(|v| v.saved.as_ref());
    let was = saved.is_some_and(|s| s.config.get("unprivileged") == Some(&json!(1)));
    let change = Change { kind, paths, config: &nothing, unprivileged: asked.unwrap_or(was) };
    for (key, value) in &values {
        change.check(call, key, Some(value.as_str().unwrap_or_default()))?;
    }
    if volid == "-" {
        return Err(Refusal::internal("pipe requires cli environment"));
    }
    if !volid.contains(':') {
        return Err(Refusal::internal("Only root can pass arbitrary filesystem paths."));
    }
    let (_, parsed) = call.world.parse_volume(&volid)?;
    if parsed.content != "backup" {
        let text = format!("unable to use volume {volid} - content type needs to be 'backup'");
        return Err(Refusal::internal(text));
    }
    call.world.volume_access(&call.who, &volid, Some(vmid))?;
    if kind == Kind::Qemu && call.world.volume(&volid).is_none() {
        return Err(Refusal::internal(format!("volume '{volid}' does not exist")));
    }
    let (mut overrides, mut layout) = (Config::new(), BTreeMap::new());
    for (key, value) in values {
        let text = value.as_str().unwrap_or_default().to_owned();
        if kind == Kind::Lxc && is_volume_key(kind, &key) {
            if options::mount_type(&text).is_some() && !is_root(call) {
                return Err(Refusal::internal("Only root can pass arbitrary filesystem paths."));
            }
            options::check_resources(call, kind, vmid, &key, &text)?;
            layout.insert(key, text);
        } else {
            options::check_resources(call, kind, vmid, &key, &text)?;
            overrides.insert(key, value);
        }
    }
    if !layout.is_empty() && !layout.contains_key("rootfs") {
        return Err(Refusal::internal("mount points configured, but 'rootfs' not set - aborting"));
    }
    let mut storage = call.params.get("storage").map(str::to_owned);
    if kind == Kind::Lxc && layout.is_empty() {
        // The default is `local`, which often may not hold containers.
        let id = storage.unwrap_or_else(|| "local".to_owned());
        if !call.world.enabled_storage(&id)?.holds("rootdir") {
            let text = format!("storage '{id}' does not support container directories");
            return Err(Refusal::parameter("storage", text));
        }
        call.require(&format!("/storage/{id}"), &["Datastore.AllocateSpace"])?;
        call.world.active_storage(&id)?;
        storage = Some(id);
    }
    Ok(Restore {
        kind,
        vmid,
        volid,
        storage,
        unique: call.params.flag("unique"),
        start: call.params.flag("start"),
        force: call.params.flag("force"),
        overrides,
        layout,
        pool: pool.map(str::to_owned),
        before: None,
    })
}
