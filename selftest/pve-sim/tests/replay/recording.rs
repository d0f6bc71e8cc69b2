//! Recorded exchanges: the big recordings beside the repository, and the fixtures cut from them.
//!
//! A fixture has one JSON object a line. The first names the tokens with their secrets and the
//! UPIDs; `«7»` elsewhere stands for the eighth, `‹7›` for its form in a path. `at` counts seconds
//! from the exchange before. What no comparison looks at is cut: headers,
//! tickets, rows of a list beyond the third of the same form, progress in logs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A request and what the real node answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Exchange {
    /// The name in the recording.
    #[serde(rename = "n")]
    pub(crate) name: String,
    /// When, in seconds since 1970; 0 is unknown.
    #[serde(rename = "at", default, skip_serializing_if = "is_zero")]
    pub(crate) time: i64,
    /// The method.
    #[serde(rename = "m", default = "get", skip_serializing_if = "is_get")]
    pub(crate) method: String,
    /// Path and query below `/api2`.
    #[serde(rename = "u", default, skip_serializing_if = "String::is_empty")]
    pub(crate) url: String,
    /// The `Authorization` header; in a fixture a token alone, when it has its usual secret.
    #[serde(rename = "t", default = "full", skip_serializing_if = "is_full")]
    pub(crate) auth: String,
    /// Other headers that matter.
    #[serde(rename = "h", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body.
    #[serde(rename = "b", default, skip_serializing_if = "String::is_empty")]
    pub(crate) body: String,
    /// The status of the answer.
    #[serde(rename = "s", default = "ok", skip_serializing_if = "is_ok")]
    pub(crate) status: u16,
    /// Its reason phrase.
    #[serde(rename = "r", default = "fine", skip_serializing_if = "is_fine")]
    pub(crate) reason: String,
    /// Its body: JSON, or text when it is none; null when there is none.
    #[serde(rename = "a", default, skip_serializing_if = "Value::is_null")]
    pub(crate) answer: Value,
    /// The bytes of the request and of the answers, where they were recorded instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raw: Option<(String, Vec<String>)>,
}

fn is_zero(time: &i64) -> bool {
    *time == 0
}
fn get() -> String {
    "GET".to_owned()
}
fn is_get(method: &str) -> bool {
    method == "GET"
}
fn full() -> String {
    "tester@pve!full".to_owned()
}
fn is_full(auth: &str) -> bool {
    auth == "tester@pve!full"
}
fn ok() -> u16 {
    200
}
fn is_ok(status: &u16) -> bool {
    *status == 200
}
fn fine() -> String {
    "OK".to_owned()
}
fn is_fine(reason: &str) -> bool {
    reason == "OK"
}

/// The recording of one release.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Recording {
    /// The tokens of the recorded node with their secrets.
    pub(crate) tokens: BTreeMap<String, String>,
    /// The exchanges in their order.
    pub(crate) exchanges: Vec<Exchange>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    tokens: BTreeMap<String, String>,
    upids: Vec<String>,
}

const TOKEN: &str = "PVEAPIToken=";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/pve")
}

/// The big recording of a release, if it is there.
pub(crate) fn big(release: &str) -> Option<Recording> {
    let text = std::fs::read_to_string(folder().join(format!("recordings-{release}.jsonl"))).ok()?;
    let mut recording = Recording::default();
    let mut last = 0;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut exchange = exchange(&line);
        if exchange.time == 0 {
            exchange.time = last;
        }
        last = exchange.time;
        if let Some((id, secret)) = exchange.auth.strip_prefix(TOKEN).and_then(|t| t.rsplit_once('=')) {
            // The secrets of the recorded node have this form, made-up ones do not.
            if secret.starts_with("00000000-0000-4000-8000-") && !id.contains("@nope") {
                recording.tokens.insert(id.to_owned(), secret.to_owned());
            }
        }
        recording.exchanges.push(exchange);
    }
    Some(recording)
}

fn exchange(line: &Value) -> Exchange {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let name = text(&line["name"]);
    let time = line["time"].as_i64().unwrap_or_default();
    if let Some(request) = line["request_raw"].as_str() {
        // Several answers came one after the other; only the last line of a page matters.
        let answers = text(&line["response_raw"]).replace("HTTP/1.", "\u{0}HTTP/1.");
        let answers = answers.split('\u{0}').filter(|a| !a.is_empty()).map(essence).collect();
        return Exchange { name, time, raw: Some((request.to_owned(), answers)), ..Exchange::default() };
    }
    let (request, response) = (&line["request"], &line["response"]);
    let mut headers = BTreeMap::new();
    for (key, value) in request["headers"].as_object().unwrap() {
        let known = ["Cookie", "CSRFPreventionToken", "Accept-Encoding"].contains(&key.as_str());
        if known || (key == "Content-Type" && value != "application/x-www-form-urlencoded") {
            headers.insert(key.clone(), text(value));
        }
    }
    let raw = text(&response["body_raw"]);
    let answer = match serde_json::from_str(&raw) {
        Ok(json) => json,
        Err(_) if raw.is_empty() => Value::Null,
        Err(_) => json!(raw),
    };
    Exchange {
        name,
        time,
        method: text(&request["method"]),
        url: text(&request["url"]).trim_start_matches("/api2").to_owned(),
        auth: text(&request["headers"]["Authorization"]),
        headers,
        body: text(&request["body"]),
        status: response["status"].as_u64().and_then(|s| s.try_into().ok()).unwrap(),
        reason: text(&response["reason"]),
        answer,
        raw: None,
    }
}

/// Status line and body of an answer; of a page only its first line.
pub(crate) fn essence(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let body = if body.starts_with('<') { body.lines().next().unwrap_or_default() } else { body };
    format!("{}\n{body}", head.lines().next().unwrap_or_default())
}

/// The fixture of a release.
pub(crate) fn fixture(text: &str) -> Recording {
    let mut lines = text.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut time = 0;
    for line in lines {
        let line =
            expand(&expand(line, ('«', '»'), &head.upids, str::to_owned), ('‹', '›'), &head.upids, encode);
        let mut exchange: Exchange = serde_json::from_str(&line).unwrap();
        if let Some(secret) = head.tokens.get(&exchange.auth) {
            exchange.auth = format!("{TOKEN}{}={secret}", exchange.auth);
        }
        if let Some((before, count)) = exchange.body.split_once('×') {
            exchange.body = before.to_owned() + &"x".repeat(count.parse().unwrap());
        }
        time += exchange.time;
        exchange.time = time;
        exchanges.push(exchange);
    }
    Recording { tokens: head.tokens, exchanges }
}

/// Puts the UPIDs back where their numbers stand between `marks`.
fn expand(line: &str, marks: (char, char), upids: &[String], form: fn(&str) -> String) -> String {
    let mut pieces = line.split(marks.0);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (index, rest) = piece.split_once(marks.1).unwrap();
        out.push_str(&form(&upids[index.parse::<usize>().unwrap()]));
        out.push_str(rest);
    }
    out
}

/// A UPID as it stands in a path.
pub(crate) fn encode(upid: &str) -> String {
    upid.replace(':', "%3A").replace('@', "%40").replace('!', "%21")
}

/// What is compared of a recording, without the rest.
pub(crate) fn cut(recording: &Recording) -> Recording {
    let exchanges = recording.exchanges.iter().cloned().map(|mut e| {
        if let Some(rows) = e.answer.get_mut("data").and_then(Value::as_array_mut) {
            let mut seen: BTreeMap<Vec<String>, usize> = BTreeMap::new();
            rows.retain(|row| {
                let line = row["t"].as_str().unwrap_or_default();
                if line.starts_with("progress ") && !line.starts_with("progress 100%") {
                    return false;
                }
                let keys: Vec<String> =
                    row.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
                let count = seen.entry(keys).or_default();
                *count += 1;
                *count <= 3 || !(row.get("upid").is_some() || row.get("time").is_some())
            });
        }
        // Nobody is to wonder whether these are secrets, or whose kernel that was.
        for key in ["ticket", "CSRFPreventionToken", "kversion", "current-kernel/release"] {
            if let Some(secret) = e.answer.pointer_mut(&format!("/data/{key}")) {
                *secret = json!("cut");
            }
        }
        if let Some(cookie) = e.headers.get_mut("Cookie") {
            *cookie = "PVEAuthCookie=cut".to_owned();
        }
        if e.status == 200 && e.answer.is_string() {
            e.answer = json!("packed");
        }
        e
    });
    Recording { tokens: recording.tokens.clone(), exchanges: exchanges.collect() }
}

/// The text of a fixture.
pub(crate) fn write(recording: &Recording) -> String {
    let recording = cut(recording);
    let mut upids = BTreeSet::new();
    let all: Vec<String> = recording.exchanges.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
    for line in &all {
        for piece in line.split("UPID:").skip(1) {
            let fields: Vec<&str> = piece.splitn(8, ':').collect();
            if fields.len() == 8 {
                upids.insert(format!("UPID:{}:", fields[..7].join(":")));
            }
        }
    }
    let upids: Vec<String> = upids.into_iter().collect();
    let mut out =
        serde_json::to_string(&Head { tokens: recording.tokens.clone(), upids: upids.clone() }).unwrap();
    let mut time = 0;
    for mut e in recording.exchanges {
        let now = e.time;
        e.time -= time;
        time = now;
        let usual = e.auth.strip_prefix(TOKEN).and_then(|t| t.rsplit_once('='));
        if let Some((id, secret)) = usual
            && recording.tokens.get(id).is_some_and(|s| s == secret)
        {
            e.auth = id.to_owned();
        }
        let xs = e.body.len() - e.body.trim_end_matches('x').len();
        if xs > 1000 {
            e.body = format!("{}×{xs}", e.body.trim_end_matches('x'));
        }
        let mut line = serde_json::to_string(&e).unwrap();
        for (index, upid) in upids.iter().enumerate() {
            line = line.replace(upid, &format!("«{index}»")).replace(&encode(upid), &format!("‹{index}›"));
        }
        out.push('\n');
        out.push_str(&line);
    }
    out.push('\n');
    out
}
