//! Backup jobs of the cluster, what they would save, and replication. Only the empty list of jobs is
//! recorded; the rest follows the published schema.

use serde_json::{Map, Value, json};

use super::backup::{self, OPTIONS};
use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Guest, Kind, Refusal};

const ID: Field = Field("id", Ty::Text(50), false);

/// The parameters of a job besides those of a backup.
fn fields(new: bool) -> Vec<Field> {
    let mut all = vec![
        Field("id", Ty::Text(50), new),
        Field("comment", Ty::Text(512), true),
        Field("dow", Ty::Any, true),
        Field("enabled", Ty::Bool, true),
        Field("node", Ty::Any, true),
        Field("repeat-missed", Ty::Bool, true),
        Field("schedule", Ty::Text(128), true),
        Field("starttime", Ty::Any, true),
    ];
    if !new {
        all.push(Field("delete", Ty::Any, true));
    }
    all
}

fn no_job(id: &str) -> Refusal {
    Refusal::parameter("id", format!("No such job '{id}'"))
}

/// The next run of the two forms of schedules the simulator reads: `HH:MM` and `…/…`; a job with any
/// other one shows none.
fn next_run(call: &Call<'_>, schedule: &str) -> Option<i64> {
    let (hour, minute) = schedule.rsplit(' ').next()?.split_once(':')?;
    let (hour, minute) = (hour.parse::<i64>().ok()?, minute.parse::<i64>().ok()?);
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) || schedule.contains(' ') {
        return None;
    }
    let midnight = call.now.unix - call.now.unix.rem_euclid(86_400);
    let today = midnight + hour * 3_600 + minute * 60;
    Some(if today > call.now.unix { today } else { today + 86_400 })
}

fn row(call: &Call<'_>, id: &str, job: &Map<String, Value>) -> Value {
    let mut row = job.clone();
    row.insert("id".to_owned(), json!(id));
    row.insert("type".to_owned(), json!("vzdump"));
    row.entry("enabled").or_insert(json!(1));
    let on = row.get("enabled") == Some(&json!(1));
    let schedule = job.get("schedule").and_then(Value::as_str).unwrap_or_default();
    if let Some(next) = next_run(call, schedule).filter(|_| on) {
        row.insert("next-run".to_owned(), json!(next));
    }
    Value::Object(row)
}

/// `GET /cluster/backup`.
pub(crate) fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[])?;
    let rows: Vec<Value> = call.world.stock.backup_jobs.iter().map(|(id, job)| row(call, id, job)).collect();
    Ok(Value::from(rows).into())
}

/// `GET /cluster/backup/ID`.
pub(crate) fn get(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("id", id)?;
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[ID])?;
    let job = call.world.stock.backup_jobs.get(id).ok_or_else(|| no_job(id))?;
    Ok(row(call, id, job).into())
}

/// The options of a request as a job keeps them: `prune-backups`, `fleecing` and `performance` are
/// shown as objects.
fn options(call: &Call<'_>) -> Map<String, Value> {
    let mut job = Map::new();
    for name in call.params.names().filter(|n| !matches!(*n, "id" | "delete" | "starttime" | "dow")) {
        let text = call.params.get(name).unwrap_or_default();
        let is_number = OPTIONS.iter().any(|f| f.0 == name && matches!(f.1, Ty::Bool | Ty::Int(_)))
            || matches!(name, "enabled" | "repeat-missed");
        let value = match (name, text.parse::<i64>()) {
            ("prune-backups" | "fleecing" | "performance", _) => text
                .split(',')
                .filter_map(|part| part.split_once('='))
                .map(|(key, value)| (key.to_owned(), json!(value)))
                .collect(),
            (_, Ok(number)) if is_number => json!(number),
            _ => json!(text),
        };
        job.insert(name.to_owned(), value);
    }
    job
}

/// The old way to say when: days and a time.
fn schedule(call: &Call<'_>) -> Option<String> {
    let time = call.params.get("starttime")?;
    Some(match call.params.get("dow") {
        Some(days) => format!("{days} {time}"),
        None => time.to_owned(),
    })
}

/// `POST /cluster/backup`.
pub(crate) fn create(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Modify"])?;
    backup::check(call, &fields(true))?;
    backup::check_rights(call)?;
    backup::check_choice(call)?;
    if call.params.get("schedule").is_some() && call.params.get("starttime").is_some() {
        return Err(Refusal::parameter("starttime", "'starttime' and 'schedule' cannot both be set"));
    }
    let id = match call.params.get("id") {
        Some(id) => id.to_owned(),
        None => format!("backup-{}", &call.world.fresh_uuid()[..13]),
    };
    if call.world.stock.backup_jobs.contains_key(&id) {
        return Err(Refusal::internal(format!("Job '{id}' already exists")));
    }
    let mut job = options(call);
    match schedule(call).or_else(|| call.params.get("schedule").map(str::to_owned)) {
        Some(when) => job.insert("schedule".to_owned(), json!(when)),
        None => return Err(Refusal::parameter("schedule", "property is missing and it is not optional")),
    };
    call.world.stock.backup_jobs.insert(id, job);
    Ok(Value::Null.into())
}

/// `PUT /cluster/backup/ID`.
pub(crate) fn update(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("id", id)?;
    call.require("/", &["Sys.Modify"])?;
    backup::check(call, &fields(false))?;
    backup::check_rights(call)?;
    let changes = options(call);
    let when = schedule(call);
    let delete = call.params.get("delete").unwrap_or_default().to_owned();
    let job = call.world.stock.backup_jobs.get_mut(id).ok_or_else(|| no_job(id))?;
    for key in delete.split([',', ';', ' ']) {
        job.remove(key);
    }
    // The ways to choose guests exclude each other.
    for chosen in ["vmid", "all", "pool"].iter().filter(|name| changes.contains_key(**name)) {
        for other in ["vmid", "all", "pool"].iter().filter(|name| *name != chosen) {
            job.remove(*other);
        }
    }
    job.extend(changes);
    if let Some(when) = when {
        job.insert("schedule".to_owned(), json!(when));
    }
    Ok(Value::Null.into())
}

/// `DELETE /cluster/backup/ID`.
pub(crate) fn delete(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("id", id)?;
    call.require("/", &["Sys.Modify"])?;
    call.params.check(&[ID])?;
    call.world.stock.backup_jobs.remove(id).ok_or_else(|| no_job(id))?;
    Ok(Value::Null.into())
}

/// The guests a job saves.
fn included(call: &Call<'_>, job: &Map<String, Value>) -> Vec<u32> {
    let ids = |key: &str| {
        let text = job.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        backup::vmids(&text.unwrap_or_default()).unwrap_or_default()
    };
    let excluded = ids("exclude");
    let here = call.world.guests.keys().copied();
    let mut chosen: Vec<u32> = if let Some(pool) = job.get("pool").and_then(Value::as_str) {
        let members = call.world.access.pools.get(pool).map(|p| p.guests.iter().copied().collect());
        members.unwrap_or_default()
    } else if job.get("all") == Some(&json!(1)) {
        here.chain(call.world.peers.values().flat_map(|p| p.world.guests.keys().copied())).collect()
    } else {
        ids("vmid")
    };
    chosen.retain(|id| !excluded.contains(id));
    chosen.sort_unstable();
    chosen
}

fn anywhere<'a>(call: &'a Call<'_>, vmid: u32) -> Option<&'a Guest> {
    let worlds = call.world.peers.values().map(|p| &p.world.guests);
    call.world.guests.get(&vmid).or_else(|| worlds.filter_map(|g| g.get(&vmid)).next())
}

/// Each disk of a guest, whether it is saved, and why.
fn volumes(guest: &Guest) -> Vec<Value> {
    let rows = guest.volumes().into_iter().map(|(key, volume)| {
        let text = guest.text(key).unwrap_or_default();
        let backup = text.split(',').find_map(|p| p.strip_prefix("backup="));
        let mount = volume.starts_with('/');
        let (included, reason) = match (guest.kind, backup) {
            (Kind::Qemu, None) => (1, "enabled"),
            (Kind::Qemu, Some("0" | "no")) => (0, "disabled"),
            (Kind::Qemu, Some(_)) => (1, "enabled"),
            (Kind::Lxc, _) if key == "rootfs" => (1, "rootfs"),
            (Kind::Lxc, _) if mount => (0, "not a volume"),
            (Kind::Lxc, Some("1")) => (1, "enabled"),
            (Kind::Lxc, _) => (0, "disabled"),
        };
        json!({"id": key, "name": volume, "included": included, "reason": reason})
    });
    rows.collect()
}

/// `GET /cluster/backup/ID/included_volumes`.
pub(crate) fn included_volumes(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("id", id)?;
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[ID])?;
    let job = call.world.stock.backup_jobs.get(id).ok_or_else(|| no_job(id))?;
    let children: Vec<Value> = included(call, job)
        .into_iter()
        .map(|vmid| match anywhere(call, vmid) {
            Some(guest) => json!({
                "id": vmid, "name": guest.name(), "type": guest.kind.segment(), "children": volumes(guest),
            }),
            None => json!({"id": vmid, "type": "unknown"}),
        })
        .collect();
    Ok(json!({"children": children}).into())
}

/// `GET /cluster/backup-info/not-backed-up`: guests no job saves.
pub(crate) fn not_backed_up(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.require("/", &["Sys.Audit"])?;
    call.params.check(&[])?;
    let saved: Vec<u32> = call.world.stock.backup_jobs.values().flat_map(|job| included(call, job)).collect();
    let here = call.world.guests.iter();
    let there = call.world.peers.values().flat_map(|p| p.world.guests.iter());
    let rows: Vec<Value> = here
        .chain(there)
        .filter(|(vmid, _)| !saved.contains(vmid) && call.may(&format!("/vms/{vmid}"), &["VM.Audit"]))
        .map(|(vmid, g)| json!({"vmid": vmid, "name": g.name(), "type": g.kind.segment()}))
        .collect();
    Ok(Value::from(rows).into())
}

/// The guest a replication job is about.
fn guest_of(id: &str) -> Option<u32> {
    let (vmid, number) = id.split_once('-')?;
    let plain = |t: &str, most: usize| (1..=most).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    (plain(vmid, 9) && plain(number, 9)).then(|| vmid.parse().ok())?.filter(|n| *n >= 100)
}

fn replication_row(id: &str, job: &Map<String, Value>) -> Value {
    let mut row = job.clone();
    row.insert("id".to_owned(), json!(id));
    row.insert("guest".to_owned(), json!(guest_of(id)));
    let number = id.rsplit('-').next().and_then(|n| n.parse::<u32>().ok());
    row.insert("jobnum".to_owned(), json!(number));
    Value::Object(row)
}

/// `GET /cluster/replication`.
pub(crate) fn replications(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    let visible = |id: &str| guest_of(id).is_some_and(|n| call.may(&format!("/vms/{n}"), &["VM.Audit"]));
    let jobs = call.world.stock.replications.iter().filter(|(id, _)| visible(id));
    Ok(Value::from(jobs.map(|(id, job)| replication_row(id, job)).collect::<Vec<_>>()).into())
}

/// A job with its state; `None` where its guest is on another node.
fn state_row(call: &Call<'_>, id: &str, job: &Map<String, Value>, vmid: u32) -> Option<Value> {
    let kind = call.world.guests.get(&vmid)?.kind;
    let mut row = replication_row(id, job);
    for (key, default) in [("last_sync", 0), ("last_try", 0), ("next_sync", 0), ("fail_count", 0)] {
        if row.get(key).is_none() {
            row[key] = json!(default);
        }
    }
    row["vmtype"] = json!(kind.segment());
    Some(row)
}

/// `GET /nodes/NODE/replication/ID/status`: one of them.
pub(crate) fn replication_state(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("id", id)?;
    resolve(call, node)?;
    call.params.check(&[NODE, Field("id", Ty::Text(20), false)])?;
    let vmid = guest_of(id).ok_or_else(|| {
        Refusal::parameter("id", "invalid format - value does not look like a valid replication job id\n")
    })?;
    call.require(&format!("/vms/{vmid}"), &["VM.Audit"])?;
    let job = call.world.stock.replications.get(id);
    let row = job.and_then(|job| state_row(call, id, job, vmid));
    row.map(Reply::from).ok_or_else(|| Refusal::internal(format!("no such replication job '{id}'")))
}

/// `GET /nodes/NODE/replication`: the state of the jobs whose guest is on this node.
pub(crate) fn replication_states(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[NODE, Field("guest", Ty::Vmid, true)])?;
    let only = call.params.number("guest");
    let rows: Vec<Value> = call
        .world
        .stock
        .replications
        .iter()
        .filter_map(|(id, job)| Some((id, job, guest_of(id)?)))
        .filter(|(_, _, vmid)| only.is_none_or(|o| o == i64::from(*vmid)))
        .filter(|(_, _, vmid)| call.may(&format!("/vms/{vmid}"), &["VM.Audit"]))
        .filter_map(|(id, job, vmid)| state_row(call, id, job, vmid))
        .collect();
    Ok(Value::from(rows).into())
}

/// `POST /cluster/replication`.
pub(crate) fn replicate(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let fields = [
        ID,
        Field("target", Ty::Any, false),
        Field("type", Ty::Enum(&["local"]), false),
        Field("comment", Ty::Text(4096), true),
        Field("disable", Ty::Bool, true),
        Field("rate", Ty::Int(1), true),
        Field("schedule", Ty::Text(128), true),
        Field("source", Ty::Any, true),
    ];
    call.params.check(&fields)?;
    let id = call.params.get("id").unwrap_or_default().to_owned();
    let bad = || Refusal::parameter("id", "value does not match the regex pattern");
    let vmid = guest_of(&id).ok_or_else(bad)?;
    call.require(&format!("/vms/{vmid}"), &["VM.Replicate"])?;
    let target = call.params.get("target").unwrap_or_default().to_owned();
    if target == call.world.node {
        return Err(Refusal::internal("Source and target must not be the same node".to_owned()));
    }
    if !call.world.peers.contains_key(&target) {
        return Err(Refusal::internal(format!("node '{target}' does not exist")));
    }
    if call.world.stock.replications.contains_key(&id) {
        return Err(Refusal::internal(format!("replication job '{id}' already exists")));
    }
    let mut job = Map::new();
    job.insert("schedule".to_owned(), json!("*/15"));
    job.insert("source".to_owned(), json!(call.world.node));
    for name in ["target", "type", "comment", "schedule", "source"] {
        if let Some(text) = call.params.get(name) {
            job.insert(name.to_owned(), json!(text));
        }
    }
    for name in ["disable", "rate"] {
        if let Some(number) = call.params.number(name) {
            job.insert(name.to_owned(), json!(number));
        }
    }
    call.world.stock.replications.insert(id, job);
    Ok(Value::Null.into())
}

/// `DELETE /cluster/replication/ID`.
pub(crate) fn unreplicate(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("id", id)?;
    call.params.check(&[ID, Field("force", Ty::Bool, true), Field("keep", Ty::Bool, true)])?;
    let bad = || Refusal::parameter("id", "value does not match the regex pattern");
    let vmid = guest_of(id).ok_or_else(bad)?;
    call.require(&format!("/vms/{vmid}"), &["VM.Replicate"])?;
    let gone = call.world.stock.replications.remove(id);
    gone.map(|_| Value::Null.into())
        .ok_or_else(|| Refusal::internal(format!("no such replication job '{id}'")))
}
