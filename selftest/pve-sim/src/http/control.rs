//! The side door `/sim/…`: the simulator's own, not part of any Proxmox VE.

use std::time::Duration;

use axum::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Shared, Withhold, lock};
use crate::world::{Fault, FaultPlan, HaResource, Injection};

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A 400 with a sentence.
pub(crate) fn refuse(sentence: &str) -> Response<Body> {
    json_answer(StatusCode::BAD_REQUEST, &json!({"error": sentence}))
}

/// Answers a request below `/sim/`.
pub(crate) fn answer(
    shared: &Shared,
    method: &str,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> Response<Body> {
    if (method, path) == ("GET", "requests") {
        let only_mutations = query == Some("mutations=1");
        let rows: Vec<Value> = lock(&shared.seen)
            .iter()
            .filter(|line| !only_mutations || line.method != "GET")
            .map(|line| json!({"method": line.method, "path": line.path}))
            .collect();
        return json_answer(StatusCode::OK, &Value::from(rows));
    }
    if path == "faults" && method != "POST" {
        return match method {
            "GET" => json_answer(StatusCode::OK, &pending(shared)),
            "DELETE" => {
                lock(&shared.plan).rules.clear();
                json_answer(StatusCode::OK, &json!({"ok": true}))
            }
            _ => refuse("POST a fault, GET those still to come, or DELETE them"),
        };
    }
    if (method, path) == ("POST", "faults") {
        let order = serde_json::from_slice(body).map_err(|e| format!("the body is no JSON: {e}"));
        return match order.and_then(|order| faults(shared, &order)) {
            Ok(()) => json_answer(StatusCode::OK, &json!({"ok": true, "pending": pending(shared)})),
            Err(sentence) => refuse(&sentence),
        };
    }
    let order: Value = if method == "POST" {
        match serde_json::from_slice(body) {
            Ok(order @ Value::Object(_)) => order,
            _ => return refuse("the body must be a JSON object"),
        }
    } else {
        Value::Null
    };
    let result = match (method, path) {
        ("POST", "replace-guest") => replace_guest(shared, &order),
        ("POST", "task-duration") => task_duration(shared, &order),
        ("POST", "fail-next") => fail_next(shared, &order),
        ("POST", "warn-next") => warn_next(shared, &order),
        ("POST", "storage") => storage(shared, &order),
        ("POST", "drop-answer-next") => drop_answer(shared, &order),
        ("POST", "lose-task") => lose_task(shared, &order),
        ("POST", "peer") => peer(shared, &order),
        ("POST", "ha") => ha(shared, &order),
        _ => {
            let sentence = format!("the simulator has no {method} /sim/{path}");
            return json_answer(StatusCode::NOT_FOUND, &json!({"error": sentence}));
        }
    };
    match result {
        Ok(()) => json_answer(StatusCode::OK, &json!({"ok": true})),
        Err(sentence) => refuse(&sentence),
    }
}

fn text<'a>(order: &'a Value, key: &str) -> Result<&'a str, String> {
    let found = order[key].as_str();
    found.ok_or_else(|| format!("'{key}' is missing or is not text"))
}

fn number(order: &Value, key: &str) -> Result<u32, String> {
    let found = order[key].as_u64().and_then(|n| u32::try_from(n).ok());
    found.ok_or_else(|| format!("'{key}' is missing or is not a whole number"))
}

fn replace_guest(shared: &Shared, order: &Value) -> Result<(), String> {
    let vmid = number(order, "vmid")?;
    let now = shared.now();
    let known = lock(&shared.world).replace_guest(vmid, now);
    known.then_some(()).ok_or_else(|| format!("there is no guest {vmid}"))
}

fn task_duration(shared: &Shared, order: &Value) -> Result<(), String> {
    let ms = number(order, "ms")?;
    lock(&shared.world).task_duration = Duration::from_millis(ms.into());
    Ok(())
}

fn inject(shared: &Shared, order: &Value, fault: Fault) -> Result<(), String> {
    let task = text(order, "task")?.to_owned();
    let mut world = lock(&shared.world);
    world.injections.push(Injection { task, fault });
    Ok(())
}

fn fail_next(shared: &Shared, order: &Value) -> Result<(), String> {
    if order["kill"] == json!(true) {
        return inject(shared, order, Fault::Kill);
    }
    let fault =
        Fault::Fail { text: text(order, "text")?.to_owned(), leave_lock: order["leave_lock"] == json!(true) };
    inject(shared, order, fault)
}

fn warn_next(shared: &Shared, order: &Value) -> Result<(), String> {
    inject(shared, order, Fault::Warn(number(order, "count")?))
}

fn storage(shared: &Shared, order: &Value) -> Result<(), String> {
    let id = text(order, "storage")?;
    let used = order["used_percent"].as_f64();
    let metadata = order["metadata_percent"].as_f64();
    let known = lock(&shared.world).set_usage(id, used, metadata);
    known.then_some(()).ok_or_else(|| format!("there is no storage '{id}'"))
}

fn drop_answer(shared: &Shared, order: &Value) -> Result<(), String> {
    let order =
        Withhold { method: text(order, "method")?.to_owned(), contains: text(order, "contains")?.to_owned() };
    lock(&shared.drops).push(order);
    Ok(())
}

fn lose_task(shared: &Shared, order: &Value) -> Result<(), String> {
    let upid = text(order, "upid")?;
    let known = lock(&shared.world).tasks.lose(upid);
    known.then_some(()).ok_or_else(|| format!("there is no task '{upid}'"))
}

fn pending(shared: &Shared) -> Value {
    let plan = lock(&shared.plan);
    plan.rules.iter().map(crate::world::FaultRule::to_json).collect()
}

/// All of the orders are read before any of them counts.
fn faults(shared: &Shared, order: &Value) -> Result<(), String> {
    let rules = FaultPlan::parse(order)?;
    for rule in rules {
        match rule.is_unconditional().then(|| shared.to_node(&rule.mishap, "")).flatten() {
            Some(done) => done?,
            None => lock(&shared.plan).rules.push(rule),
        }
    }
    Ok(())
}

fn peer(shared: &Shared, order: &Value) -> Result<(), String> {
    let name = text(order, "node")?;
    let online = order["online"].as_bool().unwrap_or(true);
    let mut world = lock(&shared.world);
    if name == world.node {
        return Err(format!("'{name}' is the node itself"));
    }
    match world.peers.get_mut(name) {
        Some(peer) => peer.online = online,
        None => world.add_peer(name, online),
    }
    Ok(())
}

fn ha(shared: &Shared, order: &Value) -> Result<(), String> {
    let vmid = number(order, "vmid")?;
    let mut world = lock(&shared.world);
    if !world.guests.contains_key(&vmid) {
        return Err(format!("there is no guest {vmid}"));
    }
    match order["state"].as_str() {
        Some(state) => world.ha.insert(vmid, HaResource::new(state)),
        None => world.ha.remove(&vmid),
    };
    Ok(())
}
