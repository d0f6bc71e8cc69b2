//! Nothing can be sent that Proxmox's own schema does not know, in 8.4 and in 9.
//!
//! `fixtures/schema.json` holds what the schema says about the calls of this client, so that the
//! check runs everywhere. Where the whole schema lies beside the work tree, the fixture must be what
//! it says; `UPDATE_FIXTURES=1 cargo test -p proxmox-client --test schema` writes it anew.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proxmox_client::catalog::{Form, Kind, Param, Shape, shapes};
use serde_json::{Map, Value, json};

const VERSIONS: [&str; 2] = ["8.4", "9"];

/// Privileges that the schema does not name for a call, and why the call may need them all the same.
const UNNAMED_PRIVILEGES: &[(&str, &[&str], &str)] = &[
    ("cluster tasks", &["Sys.Audit"], "open to all, and without it the list is empty (facts 4.8)"),
    ("qemu create", OPTIONS, BY_OPTION),
    ("lxc create", OPTIONS, BY_OPTION),
    ("qemu config update", OPTIONS, BY_OPTION),
    ("lxc config update", OPTIONS, BY_OPTION),
    ("qemu config update task", OPTIONS, BY_OPTION),
    ("qemu resize", &["Datastore.AllocateSpace"], BY_OPTION),
    ("lxc resize", &["Datastore.AllocateSpace"], BY_OPTION),
    ("volume", VOLUMES, "the handler asks who may have the volume, by its kind and owner (facts 7.8)"),
    ("volume update", VOLUMES, "the handler asks who may have the volume, by its kind and owner (facts 7.8)"),
];
const BY_OPTION: &str = "the handler checks each option that is set (facts 2, 10)";
const OPTIONS: &[&str] = &[
    "VM.Config.Disk",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.HWType",
    "VM.Config.Options",
    "VM.Config.Cloudinit",
    "Datastore.AllocateSpace",
    "SDN.Use",
    "Mapping.Use",
    "Sys.Modify",
    "Sys.Console",
];
const VOLUMES: &[&str] = &["Datastore.Audit", "Datastore.AllocateSpace", "VM.Backup", "VM.Config.Disk"];

fn fixture_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema.json")
}

/// The whole schema, if it lies beside the work tree.
fn published() -> Option<BTreeMap<&'static str, Value>> {
    let shared = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/pve");
    let read = |version: &'static str| {
        let text = fs::read_to_string(shared.join(format!("apidoc-{version}.json"))).ok()?;
        let mut whole: Value = serde_json::from_str(&text).unwrap();
        Some((version, whole["paths"].take()))
    };
    VERSIONS.into_iter().map(read).collect()
}

/// What the schema says about our calls and their parameters, and about the parameters they must have.
fn curated(schema: &Value) -> Value {
    let mut calls = Map::new();
    for shape in shapes() {
        let method = &schema[shape.path][shape.verb.as_str()];
        if method.is_null() {
            continue;
        }
        let mut params = Map::new();
        for (name, fact) in method["params"].as_object().into_iter().flatten() {
            let in_path = shape.path.contains(&format!("{{{name}}}"));
            let ours = shape.params.iter().any(|param| param.name == name);
            let required = fact["opt"].as_u64() != Some(1);
            if ours || (required && !in_path) {
                let mut kept = Map::new();
                for key in ["t", "opt", "enum", "min", "max", "maxlen", "fmt"] {
                    match &fact[key] {
                        Value::Null => {}
                        // The parts of a property string are not looked at.
                        Value::Object(_) => drop(kept.insert(key.to_owned(), json!("(property string)"))),
                        plain => drop(kept.insert(key.to_owned(), plain.clone())),
                    }
                }
                params.insert(name.clone(), Value::Object(kept));
            }
        }
        calls.insert(
            format!("{} {}", shape.verb.as_str(), shape.path),
            json!({"params": params, "perm": privileges(&method["perm"])}),
        );
    }
    Value::Object(calls)
}

/// The privileges named anywhere in a permission, sorted; `null` for root only.
fn privileges(perm: &Value) -> Value {
    if perm.is_null() {
        return Value::Null;
    }
    let text = perm.to_string();
    let words =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').map(|word| word.trim_matches('.'));
    let areas = [
        "VM.",
        "Datastore.",
        "SDN.",
        "Sys.",
        "Pool.",
        "User.",
        "Mapping.",
        "Permissions.",
        "Group.",
        "Realm.",
    ];
    let mut found: Vec<&str> = words.filter(|word| areas.iter().any(|area| word.starts_with(area))).collect();
    found.sort_unstable();
    found.dedup();
    json!(found)
}

fn number(fact: &Value, key: &str) -> Option<f64> {
    fact[key].as_f64()
}

/// The most bytes a value of that form has; `None` if nothing bounds it.
fn longest(kind: Kind) -> Option<usize> {
    Some(match kind {
        Kind::Text(most) | Kind::Secret(_, most) => most,
        Kind::Form(Form::ConfigId | Form::Digest) => 40,
        Kind::Form(Form::Vmid) => 9,
        Kind::Form(Form::Node) => 63,
        Kind::Form(Form::User) => 64,
        Kind::Form(Form::Dns) => 253,
        Kind::Form(Form::FileName | Form::Volume) => 255,
        Kind::Word(words) => words.iter().map(|word| word.len()).max().unwrap_or(0),
        Kind::Flag | Kind::Int(..) | Kind::Number(..) => 20,
        _ => return None,
    })
}

/// What is wrong with a parameter of ours; `None` if nothing is.
fn refuse(param: &Param, fact: &Value) -> Option<String> {
    let kind = fact["t"].as_str().unwrap_or_default();
    let format = fact["fmt"].as_str().unwrap_or_default();
    let words = |ours: &[&str]| {
        let known = fact["enum"].as_array()?;
        let new = ours.iter().find(|word| !known.iter().any(|known| known == **word))?;
        Some(format!("the word `{new}` is not in {known:?}"))
    };
    let is = |good: bool, wanted: &str| (!good).then(|| format!("{wanted} here, {kind} {format} there"));
    let type_fault = match param.kind {
        Kind::Flag => is(kind == "boolean", "a flag"),
        Kind::Int(least, most) => is(matches!(kind, "integer" | "number"), "a whole number").or_else(|| {
            let (min, max) = (number(fact, "min"), number(fact, "max"));
            let wider =
                min.is_some_and(|min| (least as f64) < min) || max.is_some_and(|max| most as f64 > max);
            wider.then(|| format!("{least} to {most} here, {min:?} to {max:?} there"))
        }),
        Kind::Number(least, most) => is(kind == "number", "a number").or_else(|| {
            let (min, max) = (number(fact, "min"), number(fact, "max"));
            let wider = min.is_some_and(|min| least < min) || max.is_some_and(|max| most > max);
            wider.then(|| format!("{least} to {most} here, {min:?} to {max:?} there"))
        }),
        Kind::Word(ours) => is(kind == "string", "a word").or_else(|| words(ours)),
        Kind::Words(ours) => {
            is(kind == "string" && format.ends_with("-list"), "words").or_else(|| words(ours))
        }
        Kind::Form(Form::Vmid) => is(format == "pve-vmid", "a VMID"),
        Kind::Form(Form::VmidList) => is(format == "pve-vmid-list", "VMIDs"),
        Kind::Form(Form::ConfigId) => is(format == "pve-configid", "a name"),
        Kind::Form(Form::Node) => is(format == "pve-node", "a node"),
        Kind::Form(Form::Storage) => is(format == "pve-storage-id", "a storage"),
        Kind::Form(Form::Pool) => is(format == "pve-poolid", "a pool"),
        Kind::Form(Form::Tags) => is(format == "pve-tag-list", "tags"),
        Kind::Form(Form::Retention) => is(format == "prune-backups", "a retention"),
        // A list is sent as the same name again and again.
        _ => is(matches!(kind, "string" | "array"), "text"),
    };
    let too_long = || {
        let most = usize::try_from(fact["maxlen"].as_u64()?).ok()?;
        let fits = longest(param.kind).is_some_and(|ours| ours <= most);
        (!fits).then(|| format!("{:?} characters here, {most} there", longest(param.kind)))
    };
    type_fault.or_else(too_long)
}

fn faults(shape: &Shape, version: &str, all: &Value) -> Vec<String> {
    let place = format!("{} {}", shape.verb.as_str(), shape.path);
    let fault = |what: String| format!("{version} {} ({place}): {what}", shape.name);
    let call = &all[version][&place];
    let Some(params) = call["params"].as_object() else { return vec![fault("no such call".to_owned())] };
    let mut found = Vec::new();
    for param in shape.params {
        match params.get(param.name) {
            None => found.push(fault(format!("no parameter `{}`", param.name))),
            Some(fact) => {
                found.extend(refuse(param, fact).map(|why| fault(format!("`{}`: {why}", param.name))))
            }
        }
    }
    for (name, fact) in params {
        if fact["opt"].as_u64() != Some(1) && !shape.params.iter().any(|param| param.name == name) {
            found.push(fault(format!("the parameter `{name}` is required and cannot be sent")));
        }
    }
    let Some(named) = call["perm"].as_array() else {
        found.push(fault("closed to every token".to_owned()));
        return found;
    };
    for privilege in shape.needs.iter().chain(shape.beyond) {
        let excepted = UNNAMED_PRIVILEGES
            .iter()
            .any(|(name, known, why)| *name == shape.name && known.contains(privilege) && !why.is_empty());
        // Some exist in one version only.
        let other = VERSIONS.iter().any(|version| {
            let named = all[*version][&place]["perm"].as_array();
            named.is_some_and(|named| named.iter().any(|known| known == privilege))
        });
        if !named.iter().any(|known| known == privilege) && !other && !excepted {
            found.push(fault(format!("the privilege {privilege} is not named")));
        }
    }
    found
}

fn check(facts: &Value) -> Vec<String> {
    shapes()
        .flat_map(|shape| VERSIONS.into_iter().flat_map(|version| faults(shape, version, facts)))
        .collect()
}

/// As JSON that can be compared line by line.
fn one_call_a_line(whole: &Value) -> String {
    let version = |(name, calls): (&String, &Value)| {
        let calls = calls.as_object().unwrap().iter();
        let calls: Vec<String> = calls.map(|(place, facts)| format!("{}: {facts}", json!(place))).collect();
        format!("{}: {{\n{}\n}}", json!(name), calls.join(",\n"))
    };
    let versions: Vec<String> = whole.as_object().unwrap().iter().map(version).collect();
    format!("{{\n{}\n}}\n", versions.join(",\n"))
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned())).unwrap()
}

#[test]
fn every_call_is_in_both_schemas() {
    let mut facts = read(&fixture_path());
    if let Some(published) = published() {
        let whole: Map<String, Value> =
            published.iter().map(|(version, schema)| ((*version).to_owned(), curated(schema))).collect();
        let whole = Value::Object(whole);
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::write(fixture_path(), one_call_a_line(&whole)).unwrap();
        } else {
            assert!(
                facts == whole,
                "fixtures/schema.json is not what the schema says: UPDATE_FIXTURES=1 cargo test -p proxmox-client --test schema"
            );
        }
        facts = whole;
    } else {
        eprintln!("the schema does not lie beside the work tree: only the fixture was looked at");
    }
    let faults = check(&facts);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(shapes().count() >= 40);
}

#[test]
fn the_check_finds_what_is_wrong() {
    let param = |kind| Param { name: "x", kind };
    for (kind, fact) in [
        (Kind::Flag, json!({"t": "integer"})),
        (Kind::Int(0, 10), json!({"t": "integer", "min": 1})),
        (Kind::Int(0, 10), json!({"t": "integer", "max": 9})),
        (Kind::Int(0, 10), json!({"t": "string"})),
        (Kind::Number(0.0, 2.0), json!({"t": "number", "max": 1})),
        (Kind::Word(&["a", "b"]), json!({"t": "string", "enum": ["a"]})),
        (Kind::Text(10), json!({"t": "string", "maxlen": 9})),
        (Kind::Form(Form::Line), json!({"t": "string", "maxlen": 9})),
        (Kind::Form(Form::Vmid), json!({"t": "string"})),
        (Kind::Form(Form::ConfigId), json!({"t": "string", "fmt": "pve-configid", "maxlen": 20})),
    ] {
        assert!(refuse(&param(kind), &fact).is_some(), "{kind:?} {fact}");
    }
    assert_eq!(refuse(&param(Kind::Int(1, 9)), &json!({"t": "integer", "min": 1, "max": 9})), None);
    let empty = json!({});
    assert_eq!(check(&empty).len(), 2 * shapes().count());
    assert_eq!(
        privileges(&json!(["or", ["perm", "/", ["Sys.Audit"]], "needs 'VM.Audit'."])),
        json!(["Sys.Audit", "VM.Audit"])
    );
    assert_eq!(privileges(&Value::Null), Value::Null);
}
