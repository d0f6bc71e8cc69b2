//! Curated recorded exchanges, replayed in their order against the same initial state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use pve_sim::Sim;
use pve_sim::world::{AuthId, Config, Fault, Guest, Injection, Kind, Now, Upid, World};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Pve, demo};

#[derive(Deserialize)]
struct Exchange {
    name: String,
    token: String,
    method: String,
    path: String,
    body: String,
    status: u16,
    reason: String,
    compare: String,
    answer: Value,
    exit: Option<String>,
    log: Option<Vec<String>>,
}

fn recorded() -> Vec<Exchange> {
    serde_json::from_str(include_str!("../fixtures/recorded.json")).unwrap()
}

/// The state the recordings were made in.
fn world(exchanges: &[Exchange]) -> World {
    let answer = |name: &str| &exchanges.iter().find(|e| e.name == name).unwrap().answer;
    let config = |name: &str| -> Config {
        let map = answer(name)["data"].as_object().unwrap().clone();
        map.into_iter().filter(|(key, _)| key != "digest").collect()
    };
    let mut w = World::demo();
    w.guests.clear();
    let mut second = config("qemu-config");
    second.insert("scsi0".to_owned(), json!("local:101/vm-101-disk-0.raw,size=1G"));
    second.remove("serial0");
    second.remove("tags");
    w.guests.insert(100, Guest::new(Kind::Qemu, config("qemu-config")));
    w.guests.insert(101, Guest::new(Kind::Qemu, second));
    let mut first = config("lxc-config");
    first.insert("rootfs".to_owned(), json!("local-lvm:vm-200-disk-0,size=1G"));
    w.guests.insert(200, Guest::new(Kind::Lxc, first.clone()));
    first.insert("rootfs".to_owned(), json!("local:202/vm-202-disk-0.raw,size=1G"));
    w.guests.insert(202, Guest::new(Kind::Lxc, first));

    let full = &answer("permissions-full")["data"]["/"];
    let privileges: BTreeSet<String> = full.as_object().unwrap().keys().cloned().collect();
    let a = &mut w.access;
    a.acl.clear();
    a.roles.insert("Tester".to_owned(), privileges);
    let snapshots = BTreeSet::from(["VM.Snapshot".to_owned(), "VM.Audit".to_owned()]);
    a.roles.insert("Snapshots".to_owned(), snapshots);
    for user in ["tester@pve", "limited@pve", "root@pam"] {
        a.add_user(user);
    }
    for (token, role) in [("full", "Tester"), ("ro", "PVEAuditor"), ("snap", "Snapshots"), ("none", "")] {
        let id = format!("tester@pve!{token}");
        a.add_token(&id, None, 0);
        if !role.is_empty() {
            a.grant("/", &id, role);
        }
    }
    a.grant("/", "tester@pve", "Tester");
    a.add_token("tester@pve!expired", None, 1);
    a.add_token("limited@pve!sep", None, 0);
    a.grant("/vms", "limited@pve!sep", "Tester");
    a.add_token("root@pam!admin", None, 0);
    a.grant("/", "root@pam!admin", "Administrator");
    a.grant("/", "root@pam", "Administrator");
    w
}

/// What was done on the node itself between the recorded requests.
fn between(name: &str, w: &mut World) {
    let now = Now { mono: std::time::Duration::ZERO, unix: 1_795_317_289 };
    let mut set = |vmid: u32, key: &str, value: Option<&str>| {
        let config = &mut w.guests.get_mut(&vmid).unwrap().config;
        match value {
            Some(value) => config.insert(key.to_owned(), json!(value)),
            None => config.remove(key),
        };
    };
    match name {
        "snap-list-one" => {
            w.add_snapshot(200, "before", "vor dem Update", now);
        }
        "content-none" => set(200, "lock", None),
        "qemu-start-warnings" => {
            w.injections.push(Injection { task: "qmstart".to_owned(), fault: Fault::Warn(1) })
        }
        "qemu-locked-snap" => set(100, "lock", Some("snapshot")),
        "qemu-protection-put" => set(100, "lock", None),
        "lxc-start-200" => {
            set(200, "tags", Some("prod"));
            set(200, "parent", None);
            w.guests.get_mut(&200).unwrap().snapshots.clear();
        }
        "user-expired-401" => w.access.users.get_mut("limited@pve").unwrap().expire = 1,
        _ => {}
    }
}

/// Keys and kinds of values, down to the rows of a list.
fn shape(value: &Value, depth: u8) -> Value {
    match value {
        Value::Object(_) if depth == 0 => json!("object"),
        Value::Array(_) if depth == 0 => json!("array"),
        Value::Object(map) => {
            let known: BTreeMap<&String, Value> = map
                .iter()
                // The real node sends 1, "1" or "0" for no reason.
                .filter(|(key, _)| *key != "saved")
                .map(|(key, value)| (key, shape(value, depth - 1)))
                .collect();
            json!(known)
        }
        Value::Array(rows) => {
            let kinds: BTreeSet<String> = rows.iter().map(|r| shape(r, depth - 1).to_string()).collect();
            json!(kinds)
        }
        Value::Null => json!("null"),
        Value::Bool(_) => json!("boolean"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
    }
}

#[tokio::test]
async fn behaves_as_recorded() {
    let exchanges = recorded();
    let mut config = demo();
    config.world = world(&exchanges);
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::of(&sim);
    let mut compared = 0;
    let mut wrong = Vec::new();
    for e in &exchanges {
        between(&e.name, &mut sim.world().lock().unwrap());
        let mut token = sim.token(&e.token);
        if token.is_empty() || e.name == "malformed-token-secret" {
            token = format!("{}=00000000-0000-0000-0000-000000000000", e.token);
        }
        let body = match e.name.as_str() {
            "body-too-large" => format!("description={}", "x".repeat(600_000)),
            _ => e.body.clone(),
        };
        let got = pve.call(&token, &e.method, &e.path, &body).await;
        let mut differs = |what: &str, ours: &dyn Debug, theirs: &dyn Debug| {
            wrong.push(format!("{}: {what}\n  ours   {ours:?}\n  theirs {theirs:?}", e.name));
        };
        let line = (got.status, got.reason.clone());
        if line != (e.status, e.reason.clone()) {
            differs("status line", &line, &(e.status, &e.reason));
            continue;
        }
        match e.compare.as_str() {
            "exact" if got.body != e.answer => differs("body", &got.body, &e.answer),
            "shape" if shape(&got.body, 3) != shape(&e.answer, 3) => {
                differs("shape", &shape(&got.body, 3), &shape(&e.answer, 3));
            }
            "exact" | "shape" => {}
            "task" => {
                let upid = |v: &Value| Upid::parse(v["data"].as_str().unwrap()).unwrap();
                let essence = |u: Upid| (u.node, u.kind, u.id, u.user);
                let (ours, theirs) = (essence(upid(&got.body)), essence(upid(&e.answer)));
                if ours != theirs {
                    differs("UPID", &ours, &theirs);
                }
                let (exit, log) = pve.finish(&token, got.body["data"].as_str().unwrap()).await;
                if e.exit.as_ref().is_some_and(|wanted| *wanted != exit) {
                    differs("exit status", &exit, &e.exit);
                }
                if e.log.as_ref().is_some_and(|wanted| *wanted != log) {
                    differs("log", &log, &e.log);
                }
            }
            other => panic!("unknown comparison {other}"),
        }
        if e.answer.is_null() && e.name != "body-too-large" && !got.text.is_empty() {
            differs("body", &got.text, &"");
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 100, "only {compared} exchanges");
    assert!(sim.world().lock().unwrap().injections.is_empty());
    // Proves that the lookups above found what they were to find.
    assert!(sim.world().lock().unwrap().access.tokens.contains_key(&AuthId::parse("tester@pve!ro")));
    sim.stop().await;
}
