//! From method and path to a handler.

use serde_json::{Value, json};

use super::{
    Call, Reply, access, backup, cluster, content, create, disks, guest, ha, jobs, node, pools, snapshot,
    storage, tasks, upload,
};
use crate::world::{Kind, Refusal};

/// An index answer: `[{"subdir": …}, …]`.
pub(crate) fn index(names: &[&str]) -> Result<Reply, Refusal> {
    let rows: Vec<Value> = names.iter().map(|n| json!({"subdir": n})).collect();
    Ok(Value::from(rows).into())
}

/// Runs the handler for an API path (already percent-decoded, without `/api2/json`).
pub(crate) fn dispatch(mut call: Call<'_>, method: &str, path: &str) -> Result<Reply, Refusal> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match (method, parts.as_slice()) {
        ("GET", []) => index(&["version", "cluster", "nodes", "storage", "access", "pools"]),
        ("GET", ["version"]) => cluster::version(&call),
        ("GET", ["cluster", "resources"]) => cluster::resources(&call),
        ("GET", ["cluster", "status"]) => cluster::status(&call),
        ("GET", ["cluster", "nextid"]) => cluster::nextid(&call),
        ("GET", ["cluster", "tasks"]) => cluster::tasks(&call),
        (_, ["access", ..] | ["pools", ..]) | (_, ["cluster", "ha" | "metrics" | "options", ..]) => {
            at_cluster(&mut call, method, &parts)
                .unwrap_or_else(|| Err(Refusal::not_implemented(method, &joined(&parts))))
        }
        (_, ["storage", ..] | ["cluster", "backup" | "backup-info" | "replication", ..]) => {
            at_datacenter(&mut call, method, &parts)
                .unwrap_or_else(|| Err(Refusal::not_implemented(method, &joined(&parts))))
        }
        ("GET", ["nodes"]) => node::list(&call),
        (_, ["nodes", name, rest @ ..]) => {
            call.params.bind_path("node", name)?;
            at_node(call, method, name, rest)
                .unwrap_or_else(|| Err(Refusal::not_implemented(method, &joined(&parts))))
        }
        _ => Err(Refusal::not_implemented(method, &joined(&parts))),
    }
}

/// Access control, pools and high availability; `None` when there is no such method.
fn at_cluster(call: &mut Call<'_>, method: &str, parts: &[&str]) -> Option<Result<Reply, Refusal>> {
    let bound = match parts {
        ["access", "users", user, rest @ ..] => {
            call.params.bind_path("userid", user).and_then(|()| match rest {
                ["token", token] => call.params.bind_path("tokenid", token),
                _ => Ok(()),
            })
        }
        ["access", "roles", role] => call.params.bind_path("roleid", role),
        ["pools", pool] => call.params.bind_path("poolid", pool),
        ["cluster", "ha", "resources", sid] => call.params.bind_path("sid", sid),
        _ => Ok(()),
    };
    if let Err(refusal) = bound {
        return Some(Err(refusal));
    }
    Some(match (method, parts) {
        ("GET", ["access"]) => {
            index(&["users", "groups", "roles", "acl", "domains", "ticket", "permissions"])
        }
        ("GET", ["access", "ticket"]) => Ok(Value::Null.into()),
        ("POST", ["access", "ticket"]) => access::log_in(call),
        ("GET", ["access", "domains"]) => access::domains(call),
        ("GET", ["access", "permissions"]) => access::permissions(call),
        ("GET", ["access", "acl"]) => access::acl(call),
        ("PUT", ["access", "acl"]) => access::change_acl(call),
        ("GET", ["access", "users"]) => access::users(call),
        ("POST", ["access", "users"]) => access::add_user(call),
        ("GET", ["access", "users", id]) => access::user(call, id),
        ("PUT", ["access", "users", id]) => access::change_user(call, id),
        ("DELETE", ["access", "users", id]) => access::delete_user(call, id),
        ("GET", ["access", "users", id, "token"]) => access::tokens(call, id),
        ("GET", ["access", "users", id, "token", token]) => access::token(call, id, token),
        ("POST", ["access", "users", id, "token", token]) => access::add_token(call, id, token),
        ("PUT", ["access", "users", id, "token", token]) => access::change_token(call, id, token),
        ("DELETE", ["access", "users", id, "token", token]) => access::delete_token(call, id, token),
        ("GET", ["access", "roles"]) => access::roles(call),
        ("POST", ["access", "roles"]) => {
            let id = call.params.get("roleid").unwrap_or_default().to_owned();
            access::write_role(call, &id, true)
        }
        ("GET", ["access", "roles", id]) => access::role(call, id),
        ("PUT", ["access", "roles", id]) => access::write_role(call, id, false),
        ("DELETE", ["access", "roles", id]) => access::delete_role(call, id),
        ("GET", ["pools"]) => pools::list(call),
        ("POST", ["pools"]) => pools::create(call),
        ("GET", ["pools", id]) => pools::get(call, id),
        ("PUT", ["pools", id]) => pools::change(call, id),
        ("DELETE", ["pools", id]) => pools::delete(call, id),
        ("GET", ["cluster", "options"]) => cluster::options(call),
        ("GET", ["cluster", "metrics", "export"]) => cluster::metrics(call),
        ("GET", ["cluster", "ha", "status", "current"]) => ha::current(call),
        ("GET", ["cluster", "ha", "resources"]) => ha::resources(call),
        ("POST", ["cluster", "ha", "resources"]) => ha::add(call),
        ("GET", ["cluster", "ha", "resources", sid]) => ha::resource(call, sid),
        ("PUT", ["cluster", "ha", "resources", sid]) => ha::change(call, sid),
        ("DELETE", ["cluster", "ha", "resources", sid]) => ha::remove(call, sid),
        _ => return None,
    })
}

fn joined(parts: &[&str]) -> String {
    format!("/{}", parts.join("/"))
}

/// `None` when there is no such method below a node.
fn at_node(mut call: Call<'_>, method: &str, name: &str, rest: &[&str]) -> Option<Result<Reply, Refusal>> {
    let call = &mut call;
    Some(match (method, rest) {
        (_, ["storage" | "aplinfo" | "query-url-metadata" | "vzdump" | "replication", ..]) => {
            return at_storage(call, method, name, rest);
        }
        (_, ["disks" | "hardware", ..]) => return at_disks(call, method, name, rest),
        ("GET", ["tasks"]) => tasks::list(call, name),
        ("GET", ["tasks", upid, "status"]) => tasks::status(call, name, upid),
        ("GET", ["tasks", upid, "log"]) => tasks::log(call, name, upid),
        ("DELETE", ["tasks", upid]) => tasks::stop(call, name, upid),
        (_, ["qemu", rest @ ..]) => return at_guests(call, method, name, Kind::Qemu, rest),
        (_, ["lxc", rest @ ..]) => return at_guests(call, method, name, Kind::Lxc, rest),
        _ => return at_host(call, method, name, rest),
    })
}

/// Storages, their content, and backups.
fn at_storage(
    call: &mut Call<'_>,
    method: &str,
    name: &str,
    rest: &[&str],
) -> Option<Result<Reply, Refusal>> {
    Some(match (method, rest) {
        ("GET", ["storage"]) => storage::list(call, name),
        ("GET", ["storage", id]) => storage::index(call, name, id),
        ("GET", ["storage", id, "status"]) => storage::status(call, name, id),
        ("GET", ["storage", id, "rrddata"]) => storage::rrddata(call, name, id),
        ("GET", ["storage", id, "content"]) => content::list(call, name, id),
        ("POST", ["storage", id, "content"]) => content::alloc(call, name, id),
        ("GET", ["storage", id, "content", volume @ ..]) => content::view(call, name, id, volume),
        ("PUT", ["storage", id, "content", volume @ ..]) => content::change(call, name, id, volume),
        ("DELETE", ["storage", id, "content", volume @ ..]) => content::delete(call, name, id, volume),
        ("GET", ["storage", id, "prunebackups"]) => content::prune_preview(call, name, id),
        ("DELETE", ["storage", id, "prunebackups"]) => content::prune(call, name, id),
        ("POST", ["storage", id, "upload"]) => upload::upload(call, name, id),
        ("POST", ["storage", id, "download-url"]) => upload::download(call, name, id),
        ("GET", ["query-url-metadata"]) => upload::url_metadata(call, name),
        ("GET", ["aplinfo"]) => upload::templates(call, name),
        ("POST", ["aplinfo"]) => upload::fetch_template(call, name),
        ("POST", ["vzdump"]) => backup::vzdump(call, name),
        ("GET", ["vzdump", "defaults"]) => backup::defaults(call, name),
        ("GET", ["vzdump", "extractconfig"]) => backup::extract_config(call, name),
        ("GET", ["replication"]) => jobs::replication_states(call, name),
        ("GET", ["replication", id, "status"]) => jobs::replication_state(call, name, id),
        _ => return None,
    })
}

/// Disks and devices.
fn at_disks(call: &mut Call<'_>, method: &str, name: &str, rest: &[&str]) -> Option<Result<Reply, Refusal>> {
    Some(match (method, rest) {
        ("GET", ["disks"]) => disks::index(call, name),
        ("GET", ["disks", "list"]) => disks::list(call, name),
        ("GET", ["disks", "smart"]) => disks::smart(call, name),
        ("GET", ["disks", "zfs"]) => disks::zfs(call, name),
        ("GET", ["disks", "zfs", pool]) => disks::zpool(call, name, pool),
        ("GET", ["disks", "lvm"]) => disks::lvm(call, name),
        ("GET", ["disks", "lvmthin"]) => disks::lvmthin(call, name),
        ("GET", ["disks", "directory"]) => disks::directory(call, name),
        ("GET", ["hardware"]) => index(&["pci", "usb"]),
        ("GET", ["hardware", "usb"]) => disks::usb(call, name),
        ("GET", ["hardware", "pci"]) => disks::pci(call, name),
        _ => return None,
    })
}

/// The node itself.
fn at_host(call: &mut Call<'_>, method: &str, name: &str, rest: &[&str]) -> Option<Result<Reply, Refusal>> {
    Some(match (method, rest) {
        ("GET", []) => node::index(call, name),
        ("GET", ["status"]) => node::status(call, name),
        ("GET", ["time"]) => node::time(call, name),
        ("GET", ["version"]) => node::version(call, name),
        ("GET", ["certificates", "info"]) => node::certificates(call, name),
        ("GET", ["services"]) => node::services(call, name),
        ("GET", ["services", service, "state"]) => node::service_state(call, name, service),
        ("POST", ["services", service, verb @ ("start" | "stop" | "restart" | "reload")]) => {
            node::service_command(call, name, service, verb)
        }
        ("GET", ["apt", "update"]) => node::updates(call, name),
        ("POST", ["apt", "update"]) => node::refresh_updates(call, name),
        ("GET", ["apt", "versions"]) => node::versions(call, name),
        ("GET", ["network"]) => node::network(call, name),
        ("GET", ["network", interface]) => node::interface(call, name, interface),
        ("GET", ["journal"]) => node::journal(call, name),
        ("GET", ["syslog"]) => node::syslog(call, name),
        ("GET", ["rrddata"]) => node::rrddata(call, name),
        ("GET", ["dns"]) => node::dns(call, name),
        ("GET", ["subscription"]) => node::subscription(call, name),
        ("GET", ["report"]) => node::report(call, name),
        ("GET", ["netstat"]) => node::netstat(call, name),
        _ => return None,
    })
}

/// Configuration of storages, backup jobs and replication of the whole cluster.
fn at_datacenter(call: &mut Call<'_>, method: &str, parts: &[&str]) -> Option<Result<Reply, Refusal>> {
    Some(match (method, parts) {
        ("GET", ["storage"]) => storage::configs(call),
        ("POST", ["storage"]) => storage::create(call),
        ("GET", ["storage", id]) => storage::config(call, id),
        ("PUT", ["storage", id]) => storage::update(call, id),
        ("DELETE", ["storage", id]) => storage::delete(call, id),
        ("GET", ["cluster", "backup"]) => jobs::list(call),
        ("POST", ["cluster", "backup"]) => jobs::create(call),
        ("GET", ["cluster", "backup", id]) => jobs::get(call, id),
        ("PUT", ["cluster", "backup", id]) => jobs::update(call, id),
        ("DELETE", ["cluster", "backup", id]) => jobs::delete(call, id),
        ("GET", ["cluster", "backup", id, "included_volumes"]) => jobs::included_volumes(call, id),
        ("GET", ["cluster", "backup-info"]) => index(&["not-backed-up"]),
        ("GET", ["cluster", "backup-info", "not-backed-up"]) => jobs::not_backed_up(call),
        ("GET", ["cluster", "replication"]) => jobs::replications(call),
        ("POST", ["cluster", "replication"]) => jobs::replicate(call),
        ("DELETE", ["cluster", "replication", id]) => jobs::unreplicate(call, id),
        _ => return None,
    })
}

fn at_guests(
    call: &mut Call<'_>,
    method: &str,
    node: &str,
    kind: Kind,
    rest: &[&str],
) -> Option<Result<Reply, Refusal>> {
    let [vmid, rest @ ..] = rest else {
        return match method {
            "GET" => Some(guest::list(call, node, kind)),
            "POST" => Some(create::create(call, node, kind)),
            _ => None,
        };
    };
    let at = guest::At { node, kind, vmid };
    if let Err(refusal) = call.params.bind_path("vmid", vmid) {
        return Some(Err(refusal));
    }
    if let ["snapshot", name, ..] = rest
        && let Err(refusal) = call.params.bind_path("snapname", name)
    {
        return Some(Err(refusal));
    }
    Some(match (method, rest) {
        ("GET", []) => guest::index(call, at),
        ("DELETE", []) => guest::lifecycle::destroy(call, at),
        ("GET", ["config"]) => guest::config::config(call, at),
        ("PUT", ["config"]) => guest::config::write(call, at, false),
        ("POST", ["config"]) if kind == Kind::Qemu => guest::config::write(call, at, true),
        ("GET", ["pending"]) => guest::config::pending(call, at),
        ("GET", ["status"]) => guest::status_index(call, at),
        ("GET", ["status", "current"]) => guest::current(call, at),
        ("POST", ["status", "start"]) => guest::power::start(call, at),
        ("POST", ["status", "stop"]) => guest::power::stop(call, at),
        ("POST", ["status", "shutdown"]) => guest::power::shutdown(call, at),
        ("POST", ["status", "reboot"]) => guest::power::reboot(call, at),
        ("POST", ["status", "reset"]) if kind == Kind::Qemu => guest::power::reset(call, at),
        ("POST", ["status", "suspend"]) => guest::power::suspend(call, at),
        ("POST", ["status", "resume"]) => guest::power::resume(call, at),
        ("POST", ["clone"]) => guest::lifecycle::clone(call, at),
        ("POST", ["template"]) => guest::lifecycle::template(call, at),
        ("GET", ["migrate"]) => guest::lifecycle::migrate_preview(call, at),
        ("POST", ["migrate"]) => guest::lifecycle::migrate(call, at),
        ("PUT", ["resize"]) => guest::volumes::resize(call, at),
        ("POST", ["move_disk"]) if kind == Kind::Qemu => guest::volumes::relocate(call, at),
        ("POST", ["move_volume"]) if kind == Kind::Lxc => guest::volumes::relocate(call, at),
        ("PUT", ["unlink"]) if kind == Kind::Qemu => guest::volumes::unlink(call, at),
        ("POST", ["vncproxy"]) => guest::console::vnc(call, at),
        ("POST", ["termproxy"]) => guest::console::terminal(call, at),
        ("GET", ["interfaces"]) if kind == Kind::Lxc => guest::console::interfaces(call, at),
        ("POST", ["agent", "ping"]) if kind == Kind::Qemu => guest::agent::ping(call, at),
        ("POST", ["agent", "exec"]) if kind == Kind::Qemu => guest::agent::exec(call, at),
        ("GET", ["agent", "exec-status"]) if kind == Kind::Qemu => guest::agent::exec_status(call, at),
        ("GET", ["agent", "get-osinfo"]) if kind == Kind::Qemu => guest::agent::osinfo(call, at),
        ("GET", ["agent", "network-get-interfaces"]) if kind == Kind::Qemu => {
            guest::agent::interfaces(call, at)
        }
        ("GET", ["feature"]) => guest::feature(call, at),
        ("GET", ["snapshot"]) => snapshot::list(call, at),
        ("POST", ["snapshot"]) => snapshot::create(call, at),
        ("GET", ["snapshot", _]) => snapshot::index(call, at),
        ("DELETE", ["snapshot", name]) => snapshot::delete(call, at, name),
        ("GET", ["snapshot", name, "config"]) => snapshot::config(call, at, name),
        ("PUT", ["snapshot", name, "config"]) => snapshot::describe(call, at, name),
        ("POST", ["snapshot", name, "rollback"]) => snapshot::rollback(call, at, name),
        _ => return None,
    })
}
