//! What counts as the same answer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::tame;

/// What differs: the aspect, where, and both sides for whoever reads it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// `status`, `reason`, `text`, `fields`, `types`, `rows`, `values`, `task` or `log`.
    pub(crate) aspect: &'static str,
    /// The field, `data[].name`; empty for the whole.
    pub(crate) place: String,
    /// Ours and theirs.
    pub(crate) detail: String,
}

impl Difference {
    pub(crate) fn new(
        aspect: &'static str,
        place: &str,
        ours: impl ToString,
        theirs: impl ToString,
    ) -> Difference {
        let detail = format!("ours {} theirs {}", ours.to_string(), theirs.to_string());
        Difference { aspect, place: place.to_owned(), detail }
    }

    /// How the list of differences names it.
    pub(crate) fn key(&self) -> String {
        if self.place.is_empty() { self.aspect.to_owned() } else { format!("{} {}", self.aspect, self.place) }
    }
}

/// What names a row of a list.
const IDENTITIES: [&str; 10] =
    ["volid", "id", "vmid", "storage", "name", "key", "subdir", "cmd", "userid", "realm"];

/// Texts that differ from node to node; every other text and truth value must be the same.
const OWN: [&str; 24] = [
    "digest",
    "ticket",
    "CSRFPreventionToken",
    "ssl_fingerprint",
    "upid",
    "loadavg",
    "flags",
    "model",
    "mhz",
    "hvm",
    "family",
    "vendor",
    "machine",
    "release",
    "version",
    "sysname",
    "kversion",
    "repoid",
    "pveversion",
    "ip",
    "content",
    "t",
    "desc",
    "unit-state",
];
/// Numbers that must be the same.
const EXACT: [&str; 22] = [
    "vmid",
    "running",
    "vmstate",
    "hasFeature",
    "active",
    "enabled",
    "protected",
    "template",
    "memory",
    "maxmem",
    "shared",
    "serial",
    "managed",
    "success",
    "status",
    "privsep",
    "enable",
    "unprivileged",
    "swap",
    "kvm",
    "onboot",
    "n",
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Compares two JSON bodies: field sets and types down to the leaves, rows of lists by what names
/// them, and the values of telling fields.
pub(crate) fn bodies(ours: &Value, theirs: &Value) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    walk("", &tame::value(ours), &tame::value(theirs), &mut found);
    // One line per place is enough.
    let mut seen = BTreeSet::new();
    found.retain(|d| seen.insert(d.key()));
    found
}

fn walk(place: &str, ours: &Value, theirs: &Value, found: &mut BTreeSet<Difference>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => {
                        walk(&place, x, y, found);
                        let counts = match x {
                            Value::String(_) | Value::Bool(_) => !OWN.contains(&key.as_str()),
                            Value::Number(_) => EXACT.contains(&key.as_str()),
                            _ => false,
                        };
                        if counts && x != y && kind(x) == kind(y) {
                            found.insert(Difference::new("values", &place, x, y));
                        }
                    }
                    (x, y) => {
                        let word = |v: Option<&Value>| v.map_or("absent".to_owned(), |v| kind(v).to_owned());
                        found.insert(Difference::new("fields", &place, word(x), word(y)));
                    }
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => rows(&format!("{place}[]"), a, b, found),
        (a, b) if kind(a) != kind(b) => {
            found.insert(Difference::new("types", place, kind(a), kind(b)));
        }
        (Value::String(a), Value::String(b)) if place == "data" && a != b => {
            found.insert(Difference::new("values", place, a, b));
        }
        _ => {}
    }
}

fn rows(place: &str, ours: &[Value], theirs: &[Value], found: &mut BTreeSet<Difference>) {
    let unnamed = |row: &Value| !row.is_object() || row.get("upid").is_some() || row.get("time").is_some();
    let named = |key: &str| ours.iter().chain(theirs).all(|row| row.get(key).is_some() && !unnamed(row));
    match IDENTITIES.into_iter().find(|key| named(key)) {
        Some(key) => {
            let by_name = |rows: &[Value]| -> BTreeMap<String, Value> {
                // Two backups may have the same name once their times are tamed.
                let mut seen: BTreeMap<String, usize> = BTreeMap::new();
                let mut name = |row: &Value| {
                    let count = seen.entry(row[key].to_string()).or_default();
                    *count += 1;
                    if *count > 1 { format!("{}#{count}", row[key]) } else { row[key].to_string() }
                };
                rows.iter().map(|row| (name(row), row.clone())).collect()
            };
            let (a, b) = (by_name(ours), by_name(theirs));
            let names = |rows: &BTreeMap<String, Value>| rows.keys().cloned().collect::<Vec<_>>().join(" ");
            if names(&a) != names(&b) {
                found.insert(Difference::new("rows", place, names(&a), names(&b)));
            }
            for (name, row) in &a {
                if let Some(other) = b.get(name) {
                    walk(place, row, other, found);
                }
            }
        }
        None => {
            // Rows without a name, such as tasks: the fields and types that occur.
            if ours.is_empty() != theirs.is_empty() {
                found.insert(Difference::new("rows", place, ours.len(), theirs.len()));
                return;
            }
            let occurring = |rows: &[Value]| -> BTreeSet<String> {
                let fields = rows.iter().filter_map(Value::as_object).flatten();
                fields.map(|(key, value)| format!("{key}: {}", kind(value))).collect()
            };
            let (a, b) = (occurring(ours), occurring(theirs));
            if a != b {
                let only = |x: &BTreeSet<String>, y: &BTreeSet<String>| {
                    x.difference(y).cloned().collect::<Vec<_>>().join(", ")
                };
                found.insert(Difference::new("fields", place, only(&a, &b), only(&b, &a)));
            }
        }
    }
}

/// Compares two logs line by line.
pub(crate) fn logs(ours: &Value, theirs: &Value) -> BTreeSet<Difference> {
    let lines = |v: &Value| -> Vec<String> {
        let rows = v["data"].as_array().into_iter().flatten();
        tame::log(&rows.map(|r| r["t"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>())
    };
    let (a, b) = (lines(ours), lines(theirs));
    let mut found = BTreeSet::new();
    if a != b {
        let at = a.iter().zip(&b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()));
        let side = |lines: &[String]| format!("{} lines, [{at}] {:?}", lines.len(), lines.get(at));
        found.insert(Difference::new("log", "", side(&a), side(&b)));
    }
    found
}
