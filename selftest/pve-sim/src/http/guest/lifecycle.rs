//! Clone, template, destroy, migrate.

use serde_json::Value;

use super::{At, VMID, begin, no_skiplock, options};
use crate::http::node::NODE;
use crate::http::params::{Field, Ty};
use crate::http::{Call, Reply};
use crate::world::{CloneOrder, Feature, Guest, Job, Kind, Refusal, bridge_path, numbered, volumes_of};

/// The pool a new guest is to join, if it may: the 403 has no path, as the router gives it where
/// one of several rights would do.
pub(crate) fn pool_of(call: &Call<'_>, vmid: &str) -> Result<Option<String>, Refusal> {
    let pool = call.params.get("pool").map(str::to_owned);
    let allowed = call.may(&format!("/vms/{vmid}"), &["VM.Allocate"])
        || pool.as_ref().is_some_and(|name| call.may(&format!("/pool/{name}"), &["VM.Allocate"]));
    if !allowed {
        return Err(Refusal::new(403, "Permission check failed"));
    }
    Ok(pool)
}

/// The 500 of a pool that does not exist. Not recorded.
pub(crate) fn check_pool(call: &Call<'_>, pool: Option<&str>) -> Result<(), Refusal> {
    match pool {
        Some(name) if !call.world.access.pools.contains_key(name) => {
            Err(Refusal::internal(format!("pool '{name}' does not exist")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn clone(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    const FORMATS: &[&str] = &["raw", "qcow2", "vmdk"];
    call.require(&at.path(), &["VM.Clone"])?;
    let newid = call.params.get("newid").unwrap_or_default().to_owned();
    let pool = pool_of(call, &newid)?;
    let mut fields = vec![
        NODE,
        VMID,
        Field("newid", Ty::Vmid, false),
        Field("bwlimit", Ty::Int(0), true),
        Field("description", Ty::Any, true),
        Field("full", Ty::Bool, true),
        Field("pool", Ty::Any, true),
        Field("snapname", Ty::SnapName, true),
        Field("storage", Ty::Any, true),
        Field("target", Ty::Any, true),
    ];
    match at.kind {
        Kind::Qemu => fields.extend([Field("name", Ty::Any, true), Field("format", Ty::Enum(FORMATS), true)]),
        Kind::Lxc => fields.push(Field("hostname", Ty::Any, true)),
    }
    let vmid = at.check(call, &[], &fields)?;
    let name_key = if at.kind == Kind::Qemu { "name" } else { "hostname" };
    let mut errors = std::collections::BTreeMap::new();
    let names = options::read(call, at.kind, &["description"], &mut errors);
    if !errors.is_empty() {
        return Err(Refusal::parameters(errors));
    }
    check_pool(call, pool.as_deref())?;
    let text = |key: &str| call.params.get(key).map(str::to_owned);
    let guest = call.world.guest(at.kind, vmid)?;
    let order = CloneOrder {
        newid: newid.parse().map_err(|_| Refusal::internal("unable to parse VMID"))?,
        snapshot: text("snapname").filter(|name| name != "current"),
        name: names.iter().find(|(k, _)| k == name_key).and_then(|(_, v)| Some(v.as_str()?.to_owned())),
        description: text("description"),
        storage: text("storage"),
        format: text("format"),
        full: call.params.get("full").map_or(!guest.is_template(), |full| full == "1"),
        pool,
    };
    check_clone(call, at, guest, &order)?;
    begin(call, at, vmid, Job::Clone(Box::new(order)))
}

fn check_clone(call: &Call<'_>, at: At<'_>, guest: &Guest, order: &CloneOrder) -> Result<(), Refusal> {
    let die = |text: String| Err(Refusal::internal(text));
    if let Some(target) = call.params.get("target").filter(|t| *t != call.world.node) {
        if !call.world.peers.contains_key(target) {
            return die(format!("no such cluster node '{target}'"));
        }
        return die(format!(
            "can't clone {} to node '{target}' ({} uses local storage)",
            at.kind.label(),
            at.kind.label()
        ));
    }
    guest.check_lock().map_err(Refusal::internal)?;
    if let Some(name) = order.snapshot.as_ref().filter(|name| !guest.snapshots.contains_key(*name)) {
        return die(format!("snapshot '{name}' does not exist"));
    }
    for (key, given) in [("storage", &order.storage), ("format", &order.format)] {
        if given.is_some() && !order.full {
            return die(format!("parameter '{key}' not allowed for linked clones"));
        }
    }
    if at.kind == Kind::Lxc && guest.running.is_some() && order.snapshot.is_none() && order.full {
        return die("Cannot do full clones on a running container without snapshots".to_owned());
    }
    let taken = call.world.check_vmid_free(order.newid);
    let same_kind = call.world.guest(at.kind, order.newid).is_ok();
    match taken {
        Err(_) if same_kind && at.kind == Kind::Qemu => {
            return die(format!("unable to create VM {}: config file already exists", order.newid));
        }
        Err(text) => return die(text),
        Ok(()) => {}
    }
    let base = order.snapshot.as_ref().and_then(|name| guest.snapshots.get(name));
    let base = base.map_or(&guest.config, |s| &s.config);
    if at.kind == Kind::Lxc {
        let points = base.iter().filter(|(key, _)| numbered(key, "mp"));
        for (key, value) in points {
            if let Some(what) = options::mount_type(value.as_str().unwrap_or_default()) {
                return die(format!("unable to clone mountpoint '{key}' (type {what})"));
            }
        }
    }
    for (key, volume) in volumes_of(at.kind, base) {
        let feature = if order.full { Feature::Copy } else { Feature::Clone };
        if !call.world.volume_feature(at.kind, volume, feature, order.snapshot.is_some()) {
            return die(match (order.full, &order.snapshot) {
                (true, Some(_)) => {
                    format!("Full clone feature is not supported for a snapshot of '{volume}' ({key})")
                }
                (true, None) => format!("Full clone feature is not supported for drive '{key}'"),
                (false, _) if at.kind == Kind::Lxc => {
                    format!("Linked clone feature is not supported for '{key}'")
                }
                (false, _) => format!("Linked clone feature is not supported for drive '{key}'"),
            });
        }
        let own = volume.split(':').next().unwrap_or_default();
        options::check_storage(call, at.kind, order.storage.as_deref().unwrap_or(own))?;
    }
    let nets = base.iter().filter(|(key, _)| numbered(key, "net"));
    for path in nets.filter_map(|(_, value)| bridge_path(value.as_str()?)) {
        call.require(&path, &["SDN.Use"])?;
    }
    Ok(())
}

pub(crate) fn template(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let mut fields = vec![NODE, VMID];
    if at.kind == Kind::Qemu {
        fields.push(Field("disk", Ty::Any, true));
    }
    let vmid = at.check(call, &["VM.Allocate"], &fields)?;
    let guest = call.world.guest(at.kind, vmid)?;
    guest.check_lock().map_err(Refusal::internal)?;
    let die = |text: &str| Err(Refusal::internal(text));
    let disk = call.params.get("disk");
    if guest.is_template() && disk.is_none() {
        return die(match at.kind {
            Kind::Qemu => "you can't convert a VM to template if it's already a template",
            Kind::Lxc => "you can't convert a CT to template if the CT is already a template",
        });
    }
    if guest.running.is_some() {
        return die(match at.kind {
            Kind::Qemu => "you can't convert a VM to template if VM is running",
            Kind::Lxc => "you can't convert a CT to template if the CT is running",
        });
    }
    if !guest.snapshots.is_empty() {
        return die("unable to create template, because the guest has snapshots");
    }
    let linked = |volume: &str| {
        let id = volume.split(':').next().unwrap_or_default();
        call.world.storages.get(id).is_some_and(|s| {
            matches!(s.plugin.as_str(), "lvmthin" | "zfspool" | "rbd" | "btrfs") || s.has_files()
        })
    };
    if let Some((key, _)) = guest.volumes().into_iter().find(|(_, volume)| !linked(volume)) {
        return die(&format!("unable to convert '{key}' to a base volume"));
    }
    let reply = begin(call, at, vmid, Job::Template)?;
    // The container call answers nothing although it starts a task: so says its schema.
    Ok(if at.kind == Kind::Lxc { Value::Null.into() } else { reply })
}

pub(crate) fn destroy(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let other = if at.kind == Kind::Qemu { "skiplock" } else { "force" };
    let fields = [
        NODE,
        VMID,
        Field("purge", Ty::Bool, true),
        Field("destroy-unreferenced-disks", Ty::Bool, true),
        Field(other, Ty::Bool, true),
    ];
    let vmid = at.check(call, &["VM.Allocate"], &fields)?;
    no_skiplock(call)?;
    let guest = call.world.guest(at.kind, vmid)?;
    let (label, purge) = (at.kind.label(), call.params.flag("purge"));
    let force = call.params.flag("force");
    let die = |text: String| Err(Refusal::internal(text));
    if guest.config.get("protection") == Some(&Value::from(1)) {
        return die(format!("can't remove {label} {vmid} - protection mode enabled"));
    }
    if at.kind == Kind::Lxc {
        // A machine's lock is met in the task only.
        guest.check_lock().map_err(Refusal::internal)?;
    }
    if !purge {
        if call.world.ha.contains_key(&vmid) {
            return die(format!(
                "unable to remove {label} {vmid} - used in HA resources and purge parameter not set."
            ));
        }
        let of_guest = format!("{vmid}-");
        if let Some(id) = call.world.stock.replications.keys().find(|id| id.starts_with(&of_guest)) {
            return die(format!(
                "There is a replication job '{id}' for guest '{vmid}' - Please remove that first."
            ));
        }
    }
    if guest.running.is_some() && !force {
        return die(match at.kind {
            Kind::Qemu => format!("VM {vmid} is running - destroy failed"),
            Kind::Lxc => format!("unable to destroy CT {vmid} - container is running"),
        });
    }
    let unreferenced = call.params.flag("destroy-unreferenced-disks");
    begin(call, at, vmid, Job::Destroy { purge, unreferenced, force })
}

/// `POST …/migrate`: on a node that is alone it is always refused, as recorded. Between peers
/// nothing is moved here.
pub(crate) fn migrate(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let any = |name| Field(name, Ty::Any, true);
    let flag = |name| Field(name, Ty::Bool, true);
    let mut fields =
        vec![NODE, VMID, Field("target", Ty::Any, false), flag("online"), Field("bwlimit", Ty::Int(0), true)];
    match at.kind {
        Kind::Qemu => fields.extend([
            flag("force"),
            any("migration_network"),
            any("migration_type"),
            any("targetstorage"),
            flag("with-conntrack-state"),
            flag("with-local-disks"),
        ]),
        Kind::Lxc => {
            fields.extend([flag("restart"), any("target-storage"), Field("timeout", Ty::Int(i64::MIN), true)])
        }
    }
    let vmid = at.check(call, &["VM.Migrate"], &fields)?;
    let target = call.params.get("target").unwrap_or_default().to_owned();
    if target == call.world.node {
        return Err(Refusal::parameter("target", "target is local node."));
    }
    if !call.world.peers.contains_key(&target) {
        return Err(Refusal::internal(format!("no such cluster node '{target}'")));
    }
    let guest = call.world.guest(at.kind, vmid)?;
    guest.check_lock().map_err(Refusal::internal)?;
    if guest.running.is_some() && at.kind == Kind::Qemu && !call.params.flag("online") {
        return Err(Refusal::parameter("online", "VM is running, please use --online"));
    }
    Err(Refusal::internal("the simulator does not move guests between its nodes"))
}

/// `GET …/migrate`: there is nowhere to go. Not recorded.
pub(crate) fn migrate_preview(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(call, &["VM.Migrate"], &[NODE, VMID, Field("target", Ty::Any, true)])?;
    let guest = call.world.guest(at.kind, vmid)?;
    let disks: Vec<Value> = guest
        .volumes()
        .into_iter()
        .map(|(key, volume)| {
            serde_json::json!({"drivename": key, "volid": volume, "cdrom": 0, "is_unused": 0, "size": guest.max_disk()})
        })
        .collect();
    let running = u8::from(guest.running.is_some());
    Ok(match at.kind {
        Kind::Qemu => serde_json::json!({
            "running": running, "allowed_nodes": [], "not_allowed_nodes": {}, "local_disks": disks,
            "local_resources": [], "mapped-resources": [], "mapped-resource-info": {},
        }),
        Kind::Lxc => serde_json::json!({"running": running, "allowed-nodes": [], "not-allowed-nodes": {}}),
    }
    .into())
}
