//! `/nodes/NODE/tasks`.

use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Refusal, TaskFilter, Upid};

const UPID: Field = Field("upid", Ty::Any, false);

pub(crate) fn list(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    const SOURCES: &[&str] = &["archive", "active", "all"];
    resolve(call, node)?;
    call.params.check(&[
        NODE,
        Field("errors", Ty::Bool, true),
        Field("limit", Ty::Int(0), true),
        Field("since", Ty::Int(i64::MIN), true),
        Field("source", Ty::Enum(SOURCES), true),
        Field("start", Ty::Int(0), true),
        Field("statusfilter", Ty::Any, true),
        Field("typefilter", Ty::Any, true),
        Field("until", Ty::Int(i64::MIN), true),
        Field("userfilter", Ty::Any, true),
        Field("vmid", Ty::Vmid, true),
    ])?;
    let text = |name: &str| call.params.get(name).map(str::to_owned);
    let source = call.params.get("source").unwrap_or("archive");
    let sees_all = call.may(&format!("/nodes/{}", call.world.node), &["Sys.Audit"]);
    let classes = call.params.get("statusfilter").unwrap_or_default();
    let filter = TaskFilter {
        active: source != "archive",
        archive: source != "active",
        owner: (!sees_all).then(|| call.who.clone()),
        user: text("userfilter"),
        id: text("vmid"),
        kind: text("typefilter"),
        since: call.params.number("since"),
        until: call.params.number("until"),
        errors: call.params.flag("errors"),
        classes: classes.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect(),
    };
    let found = call.world.tasks.list(&filter);
    let (start, limit) = window(call, 50);
    let rows: Vec<Value> = found.iter().skip(start).take(limit).map(|t| t.row()).collect();
    // The real node leaves `total` out when nothing was found.
    let total = (!found.is_empty()).then_some(found.len());
    Ok(Reply { data: Value::from(rows), total })
}

/// `start` and `limit` as counts.
fn window(call: &Call<'_>, default: usize) -> (usize, usize) {
    let count = |name: &str| call.params.number(name).and_then(|n| usize::try_from(n).ok());
    (count("start").unwrap_or(0), count("limit").unwrap_or(default))
}

fn read(upid: &str) -> Result<Upid, Refusal> {
    Upid::parse(upid).ok_or_else(|| Refusal::parameter("upid", "unable to parse worker upid"))
}

/// Somebody else's task, even of the same user's other token, takes a privilege.
fn check_owner(call: &Call<'_>, upid: &Upid, privilege: &str) -> Result<(), Refusal> {
    if upid.user == call.who {
        return Ok(());
    }
    call.require(&format!("/nodes/{}", call.world.node), &[privilege])
}

pub(crate) fn status(call: &mut Call<'_>, node: &str, upid: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.bind_path("upid", upid)?;
    call.params.check(&[NODE, UPID])?;
    let parsed = read(upid)?;
    check_owner(call, &parsed, "Sys.Audit")?;
    let task = call.world.tasks.find(upid);
    let task = task.ok_or_else(|| Refusal::parameter("upid", "no such task"))?;
    Ok(task.status().into())
}

pub(crate) fn log(call: &mut Call<'_>, node: &str, upid: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.bind_path("upid", upid)?;
    call.params.check(&[NODE, UPID, Field("start", Ty::Int(0), true), Field("limit", Ty::Int(0), true)])?;
    let parsed = read(upid)?;
    check_owner(call, &parsed, "Sys.Audit")?;
    let lines = match call.world.tasks.find(upid) {
        None => vec!["unable to open file - No such file or directory".to_owned()],
        Some(task) if task.log.is_empty() => vec!["no content".to_owned()],
        Some(task) => task.log.clone(),
    };
    let (start, limit) = window(call, 50);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let numbered = lines.iter().enumerate().skip(start).take(limit);
    let rows: Vec<Value> = numbered.map(|(i, t)| json!({"n": i + 1, "t": t})).collect();
    Ok(Reply { data: Value::from(rows), total: Some(lines.len()) })
}

pub(crate) fn stop(call: &mut Call<'_>, node: &str, upid: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.bind_path("upid", upid)?;
    call.params.check(&[NODE, UPID])?;
    let parsed = read(upid)?;
    if call.world.tasks.find(upid).is_none() {
        return Err(Refusal::parameter("upid", "no such task"));
    }
    check_owner(call, &parsed, "Sys.Modify")?;
    call.world.interrupt(upid, call.now);
    Ok(Value::Null.into())
}
