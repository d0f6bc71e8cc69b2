//! `POST …/qemu` and `POST …/lxc`.

use serde_json::Value;

use super::guest::lifecycle::{check_pool, pool_of};
use super::guest::options::{self, Change};
use super::guest::{At, begin, is_root};
use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply, restore};
use crate::world::{
    Config, CreateOrder, HaResource, Job, Kind, Refusal, Release, is_volume_key, numbered, option_spec,
    parse_new_disk,
};

/// What may be asked of a create besides the options.
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
        Kind::Qemu => all.extend([any("archive"), flag("live-restore"), any("import-working-storage")]),
        Kind::Lxc => all.extend([
            Field("ostemplate", Ty::Any, false),
            flag("restore"),
            flag("ignore-unpack-errors"),
            any("password"),
            any("ssh-public-keys"),
        ]),
    }
    all
}

pub(crate) fn create(call: &mut Call<'_>, node: &str, kind: Kind) -> Result<Reply, Refusal> {
    let is_restore = match kind {
        Kind::Qemu => call.params.get("archive").is_some(),
        Kind::Lxc => call.params.flag("restore"),
    };
    if is_restore {
        return restore::restore(call, node, kind);
    }
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
    if kind == Kind::Lxc {
        // Of a container the id is looked at first, of a machine last (recorded for a restore).
        call.world.check_vmid_free(vmid).map_err(Refusal::internal)?;
    }
    let pool = pool_of(call, &text)?;
    check_pool(call, pool.as_deref())?;
    let unprivileged = match values.iter().find(|(key, _)| key == "unprivileged") {
        Some((_, value)) => value.as_u64() == Some(1),
        // The default changed with 9.0.
        None => release == Release::V9,
    };
    let mut paths = vec![format!("/vms/{vmid}")];
    paths.extend(pool.iter().map(|name| format!("/pool/{name}")));
    let nothing = Config::new();
    let change = Change { kind, paths, config: &nothing, unprivileged };
    if kind == Kind::Lxc && !unprivileged && release == Release::V9 {
        call.require("/", &["Sys.Modify"])?;
    }
    for (key, value) in &values {
        change.check(call, key, Some(value.as_str().unwrap_or_default()))?;
    }
    if call.params.flag("ha-managed") {
        call.require("/", &["Sys.Console"])?;
    }
    let order = order(call, kind, vmid, unprivileged, pool, values)?;
    if kind == Kind::Qemu {
        call.world
            .check_vmid_free(vmid)
            .map_err(|text| Refusal::internal(format!("unable to create VM {vmid} - {text}")))?;
    }
    let managed = call.params.flag("ha-managed");
    let at = At { node, kind, vmid: &text };
    let reply = begin(call, at, vmid, Job::Create(Box::new(order)))?;
    if managed {
        call.world.ha.insert(vmid, HaResource::new("started"));
    }
    Ok(reply)
}

/// Turns the options into a configuration and the disks to be made, after a look at what they use.
fn order(
    call: &Call<'_>,
    kind: Kind,
    vmid: u32,
    unprivileged: bool,
    pool: Option<String>,
    values: Vec<(String, Value)>,
) -> Result<CreateOrder, Refusal> {
    let mut config = Config::new();
    let mut disks = Vec::new();
    for (key, value) in values {
        let text = value.as_str().unwrap_or_default();
        if numbered(&key, "net") || is_volume_key(kind, &key) {
            if kind == Kind::Lxc && options::mount_type(text).is_some() && !is_root(call) {
                return Err(Refusal::internal("Only root can pass arbitrary filesystem paths."));
            }
            options::check_resources(call, kind, vmid, &key, text)?;
        }
        match parse_new_disk(&key, text).filter(|_| is_volume_key(kind, &key)) {
            Some(disk) => disks.push(disk),
            None => {
                config.insert(key, value);
            }
        }
    }
    let mut template = None;
    if kind == Kind::Lxc {
        let archive = call.params.get("ostemplate").unwrap_or_default().to_owned();
        if archive == "-" {
            return Err(Refusal::internal("pipe requires cli environment"));
        }
        call.world.volume_access(&call.who, &archive, Some(vmid))?;
        if !config.contains_key("rootfs") && !disks.iter().any(|d| d.key == "rootfs") {
            let storage = call.params.get("storage").unwrap_or("local");
            options::check_storage(call, kind, storage)?;
            disks.extend(parse_new_disk("rootfs", &format!("{storage}:4")));
        }
        if unprivileged {
            config.insert("unprivileged".to_owned(), Value::from(1));
        } else {
            config.remove("unprivileged");
        }
        let name = archive.rsplit('/').next().unwrap_or_default();
        let known =
            ["debian", "ubuntu", "alpine", "fedora", "centos", "archlinux", "opensuse", "gentoo", "devuan"];
        let os = known.iter().find(|os| name.starts_with(**os)).copied().unwrap_or("unmanaged");
        config.entry("ostype".to_owned()).or_insert_with(|| Value::from(os));
        template = Some(archive);
    }
    Ok(CreateOrder { config, disks, template, pool, start: call.params.flag("start") })
}
