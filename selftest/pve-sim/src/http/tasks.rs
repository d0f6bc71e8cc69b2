//! `/nodes/NODE/tasks`.

use hyper::header;
use serde_json::{Value, json};

use super::node::{NODE, resolve};
use super::params::{Field, Ty};
use super::{Call, Raw, Reply, gzip};
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
    Ok(Reply { data: Value::from(rows), total, raw: None })
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
    let task = call.world.tasks.look_up(upid);
    let task = task.ok_or_else(|| Refusal::parameter("upid", "no such task"))?;
    Ok(task.status().into())
}

pub(crate) fn log(call: &mut Call<'_>, node: &str, upid: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.bind_path("upid", upid)?;
    call.params.check(&[
        NODE,
        UPID,
        Field("start", Ty::Int(0), true),
        Field("limit", Ty::Int(0), true),
        Field("download", Ty::Bool, true),
    ])?;
    let parsed = read(upid)?;
    check_owner(call, &parsed, "Sys.Audit")?;
    let known = call.world.tasks.find(upid).filter(|_| !call.world.tasks.lost_logs.contains(upid));
    if call.params.flag("download") {
        return download(call, &parsed, known.map(|t| t.log.join("\n") + "\n"));
    }
    let lines = match known {
        None => vec!["unable to open file - No such file or directory".to_owned()],
        Some(task) if task.log.is_empty() => vec!["no content".to_owned()],
        Some(task) => task.log.clone(),
    };
    let (start, limit) = window(call, 50);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let numbered = lines.iter().enumerate().skip(start).take(limit);
    let rows: Vec<Value> = numbered.map(|(i, t)| json!({"n": i + 1, "t": t})).collect();
    Ok(Reply { data: Value::from(rows), total: Some(lines.len()), raw: None })
}

/// The whole log as a file; a long one comes packed even if nobody asked for that.
fn download(call: &Call<'_>, upid: &Upid, log: Option<String>) -> Result<Reply, Refusal> {
    if call.params.get("start").is_some() || call.params.get("limit").is_some() {
        // Not recorded: only that the three do not go together.
        return Err(Refusal::parameter("download", "not possible together with 'start' or 'limit'"));
    }
    let missing = || Refusal::internal("unable to open file - No such file or directory");
    let log = log.ok_or_else(missing)?;
    let time = timestamp(upid.starttime);
    let name = format!("attachment; filename=\"task-{}-{}-{time}.log\"", upid.node, upid.kind);
    let mut headers = vec![(header::CONTENT_DISPOSITION, name)];
    let mut body = log.into_bytes();
    if body.len() > 1024 {
        body = gzip::store(&upid.to_string(), &body);
        headers.push((header::CONTENT_ENCODING, "gzip".to_owned()));
    }
    let raw = Some(Raw { kind: "text/plain", headers, body });
    Ok(Reply { raw, ..Reply::default() })
}

/// Seconds since 1970 as `2026-11-22T03:16:23Z`.
fn timestamp(unix: i64) -> String {
    let (days, rest) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // The civil calendar, counted in years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day = shifted.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest % 3_600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn timestamps() {
        // The first is the recorded name of a downloaded log.
        assert_eq!(timestamp(1_795_317_383), "2026-11-22T03:16:23Z");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(-1), "1969-12-31T23:59:59Z");
    }
}
