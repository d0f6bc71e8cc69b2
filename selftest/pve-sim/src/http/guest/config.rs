//! `…/config` and `…/pending`.

use serde_json::Value;

use super::options::{self, Change};
use super::{At, VMID, begin, is_root};
use crate::http::node::{NODE, resolve};
use crate::http::params::{Field, Ty};
use crate::http::{Call, Reply};
use crate::world::{Guest, Job, Kind, Refusal, is_volume_key, numbered, option_spec};

pub(crate) fn config(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(
        call,
        &["VM.Audit"],
        &[NODE, VMID, Field("current", Ty::Bool, true), Field("snapshot", Ty::SnapName, true)],
    )?;
    let guest = call.world.guest(at.kind, vmid)?;
    match call.params.get("snapshot") {
        None => Ok(guest.shown_config(call.params.flag("current")).into()),
        Some(name) => {
            let mut found = guest
                .snapshot_config(name)
                .ok_or_else(|| Refusal::internal(format!("snapshot '{name}' does not exist")))?;
            // Not recorded; in the schema the digest is always there, and there is one for the whole file.
            found["digest"] = guest.digest().into();
            Ok(found.into())
        }
    }
}

pub(crate) fn pending(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(call, &["VM.Audit"], &[NODE, VMID])?;
    Ok(call.world.guest(at.kind, vmid)?.pending_list().into())
}

/// The privileges one of which opens the call at all.
fn any_privilege(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Qemu => &[
            "VM.Config.Disk",
            "VM.Config.CDROM",
            "VM.Config.CPU",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.HWType",
            "VM.Config.Options",
            "VM.Config.Cloudinit",
        ],
        Kind::Lxc => {
            &["VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"]
        }
    }
}

/// What a list of options holds.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', ';', ' ']).filter(|key| !key.is_empty())
}

/// `PUT …/config` (at once), and for QEMU `POST …/config` (as a task).
pub(crate) fn write(call: &mut Call<'_>, at: At<'_>, as_task: bool) -> Result<Reply, Refusal> {
    call.require(&at.path(), any_privilege(at.kind))?;
    resolve(call, at.node)?;
    let mut fields = vec![
        NODE,
        VMID,
        Field("digest", Ty::Text(40), true),
        Field("delete", Ty::Any, true),
        Field("revert", Ty::Any, true),
    ];
    if at.kind == Kind::Qemu {
        fields.extend([Field("skiplock", Ty::Bool, true), Field("force", Ty::Bool, true)]);
    }
    if as_task {
        fields.extend([
            Field("background_delay", Ty::Int(1), true),
            Field("import-working-storage", Ty::Any, true),
        ]);
    }
    let release = call.world.release;
    let mut errors = call.params.errors(&fields, |key| option_spec(release, at.kind, key).is_some());
    let taken: Vec<&str> = fields.iter().map(|f| f.0).collect();
    let values = options::read(call, at.kind, &taken, &mut errors);
    let list = |name: &str| -> Vec<String> {
        items(call.params.get(name).unwrap_or_default()).map(str::to_owned).collect()
    };
    let (deleted, reverted) = (list("delete"), list("revert"));
    for (name, keys) in [("delete", &deleted), ("revert", &reverted)] {
        for key in keys {
            if option_spec(release, at.kind, key).is_none() {
                errors.insert(name.to_owned(), format!("unknown option '{key}'"));
            } else if values.iter().any(|(k, _)| k == key) {
                let text = format!("you can't use '-{key}' and -{name} {key}' at the same time");
                errors.insert(name.to_owned(), text);
            }
        }
    }
    if !errors.is_empty() {
        return Err(Refusal::parameters(errors));
    }
    super::no_skiplock(call)?;
    let vmid = at.id()?;
    if values.is_empty() && deleted.is_empty() && reverted.is_empty() {
        return Err(Refusal::internal("no options specified"));
    }
    check_writes(call, at, vmid, &values, &deleted)?;
    let skip_lock = call.params.flag("skiplock");
    let force = call.params.flag("force");
    call.world.take_flock(at.kind, vmid).map_err(Refusal::internal)?;
    let guest = call.world.guest_mut(at.kind, vmid)?;
    guest.check_digest(call.params.get("digest")).map_err(Refusal::internal)?;
    if !skip_lock {
        guest.check_lock().map_err(Refusal::internal)?;
    }
    check_removals(guest, vmid, &deleted)?;
    let (hard, soft): (Vec<String>, Vec<String>) =
        deleted.into_iter().partition(|key| force && is_volume_key(at.kind, key));
    let mut changes: Vec<(String, Option<Value>)> = values.into_iter().map(|(k, v)| (k, Some(v))).collect();
    changes.extend(soft.into_iter().map(|key| (key, None)));
    for key in &reverted {
        guest.revert(key);
    }
    if as_task && hard.is_empty() && call.params.get("background_delay").is_none() {
        return begin(call, at, vmid, Job::Config(changes));
    }
    // With a delay to wait for, a change that takes no time is answered like a synchronous one.
    call.world.change(at.kind, vmid, &changes).map_err(Refusal::internal)?;
    call.world.unlink(at.kind, vmid, &hard, true).map_err(Refusal::internal)?;
    Ok(Value::Null.into())
}

/// Rights on the options and on what they use.
fn check_writes(
    call: &Call<'_>,
    at: At<'_>,
    vmid: u32,
    values: &[(String, Value)],
    deleted: &[String],
) -> Result<(), Refusal> {
    // Rights are asked for before the guest is looked for.
    let nobody = Guest::new(at.kind, Default::default());
    let guest = call.world.guest(at.kind, vmid).unwrap_or(&nobody);
    let change = Change::of(guest, at.path());
    for (key, value) in values {
        change.check(call, key, Some(value.as_str().unwrap_or_default()))?;
    }
    for key in deleted {
        change.check(call, key, None)?;
    }
    call.world.guest(at.kind, vmid)?;
    for (key, value) in values {
        if at.kind == Kind::Lxc && key == "unprivileged" {
            return Err(Refusal::internal(format!("unable to modify read-only option: '{key}'")));
        }
        if let (Some(text), false) =
            (value.as_str(), is_root(call) && value.as_str().is_some_and(|t| t.starts_with('/')))
        {
            options::check_resources(call, at.kind, vmid, key, text)?;
        }
    }
    Ok(())
}

/// What cannot be deleted: needed options, and disks of a protected guest.
fn check_removals(guest: &Guest, vmid: u32, deleted: &[String]) -> Result<(), Refusal> {
    let protected = guest.config.get("protection") == Some(&Value::from(1));
    for key in deleted {
        if guest.kind == Kind::Lxc && matches!(key.as_str(), "memory" | "rootfs") {
            return Err(Refusal::internal(format!("unable to delete required option '{key}'")));
        }
        let is_disk = is_volume_key(guest.kind, key) || numbered(key, "unused");
        if is_disk && protected && guest.config.contains_key(key) {
            let what = match guest.kind {
                Kind::Lxc => format!("CT {vmid} drive '{key}'"),
                Kind::Qemu if numbered(key, "unused") => {
                    format!("unused disk '{}'", guest.text(key).unwrap_or_default())
                }
                Kind::Qemu => format!("drive '{key}'"),
            };
            return Err(Refusal::internal(format!("can't remove {what} - protection mode enabled")));
        }
    }
    Ok(())
}
