//! From method and path to a handler.

use serde_json::{Value, json};

use super::{Call, Reply, cluster, guest, node, snapshot, tasks};
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
        ("GET", ["access", "permissions"]) => cluster::permissions(&call),
        ("GET", ["nodes"]) => node::list(&call),
        (_, ["nodes", name, rest @ ..]) => {
            call.params.bind_path("node", name)?;
            at_node(call, method, name, rest)
                .unwrap_or_else(|| Err(Refusal::not_implemented(method, &joined(&parts))))
        }
        _ => Err(Refusal::not_implemented(method, &joined(&parts))),
    }
}

fn joined(parts: &[&str]) -> String {
    format!("/{}", parts.join("/"))
}

/// `None` when there is no such method below a node.
fn at_node(mut call: Call<'_>, method: &str, name: &str, rest: &[&str]) -> Option<Result<Reply, Refusal>> {
    let call = &mut call;
    Some(match (method, rest) {
        ("GET", ["status"]) => node::status(call, name),
        ("GET", ["time"]) => node::time(call, name),
        ("GET", ["storage"]) => node::storages(call, name),
        ("GET", ["storage", id, "status"]) => node::storage_status(call, name, id),
        ("GET", ["storage", id, "content"]) => node::storage_content(call, name, id),
        ("GET", ["disks", "lvmthin"]) => node::lvmthin(call, name),
        ("GET", ["certificates", "info"]) => node::certificates(call, name),
        ("GET", ["tasks"]) => tasks::list(call, name),
        ("GET", ["tasks", upid, "status"]) => tasks::status(call, name, upid),
        ("GET", ["tasks", upid, "log"]) => tasks::log(call, name, upid),
        ("DELETE", ["tasks", upid]) => tasks::stop(call, name, upid),
        (_, ["qemu", rest @ ..]) => return at_guests(call, method, name, Kind::Qemu, rest),
        (_, ["lxc", rest @ ..]) => return at_guests(call, method, name, Kind::Lxc, rest),
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
        return (method == "GET").then(|| guest::list(call, node, kind));
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
        ("GET", ["config"]) => guest::config(call, at),
        ("PUT", ["config"]) => guest::write_config(call, at, false),
        ("POST", ["config"]) if kind == Kind::Qemu => guest::write_config(call, at, true),
        ("GET", ["status", "current"]) => guest::current(call, at),
        ("POST", ["status", "start"]) => guest::start(call, at),
        ("POST", ["status", "stop"]) => guest::stop(call, at),
        ("POST", ["status", "shutdown"]) => guest::shutdown(call, at),
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
