//! The recordings of two real nodes, replayed: every recorded request goes, in its order, to a
//! simulator in the state the node was in, and the answers are compared.
//!
//! Compared are status, reason phrase, error texts and `errors`, the fields of an answer with their
//! types, the rows of lists, telling values, and how tasks end with their logs. What differs has to
//! be in `differences.json` with its reason, and what is there has to differ.
//!
//! The fixtures in the repository hold every exchange, cut as `recording.rs` says. The whole
//! recordings are replayed too where they lie beside the repository, and the fixtures have to be
//! what is cut from them (`cargo test -p pve-sim --test replay -- --ignored` writes them anew).
//!
//! One thing is not compared: what an early look at a task (`X-task-status-early`,
//! `X-task-log-early`) finds when one of the two had ended by then and the other had not. How far a
//! task is after some milliseconds is chance.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed step fails the test")]

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod interventions;
mod recording;
mod tame;
mod wire;
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pve_sim::world::{Release, Upid};
use pve_sim::{Sim, SimConfig};
use serde::Deserialize;
use serde_json::{Value, json};

use compare::Difference;
use recording::{Exchange, Recording};
use wire::{Received, Wire};

const RELEASES: [(Release, &str); 2] = [(Release::V9, "9.1.8"), (Release::V8, "8.4.14")];

/// An entry of the list: what differs and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    release: String,
    /// The exchange, or with a `*` at its end all that begin so.
    exchange: String,
    /// `aspect` or `aspect place`, as the test prints them.
    differs: Vec<String>,
    reason: String,
}

impl Listed {
    fn covers(&self, release: &str, name: &str) -> bool {
        let fits = match self.exchange.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == self.exchange,
        };
        self.release == release && fits
    }
}

fn listed() -> Vec<Listed> {
    serde_json::from_str(include_str!("differences.json")).unwrap()
}

fn fixture(release: Release) -> Recording {
    recording::fixture(match release {
        Release::V9 => include_str!("../fixtures/replay-9.1.8.jsonl"),
        Release::V8 => include_str!("../fixtures/replay-8.4.14.jsonl"),
    })
}

/// A simulator in the course of a recording.
struct Replay {
    release: Release,
    sim: Sim,
    wire: Wire,
    /// Early looks that found something else because one side was faster.
    open: usize,
    /// Recorded UPIDs, tickets and names of backups, and what stands for them here.
    names: BTreeMap<String, String>,
}

impl Replay {
    async fn begin(release: Release, recording: &Recording) -> Replay {
        let mut config = SimConfig::demo();
        config.world = worlds::host(release, recording);
        config.auth_failure_delay = Duration::ZERO;
        // Tasks end when the recording has got so far, not by the clock.
        config.task_duration = Duration::from_secs(1_000_000);
        let sim = Sim::start(config).await.unwrap();
        let wire = Wire::to(&sim);
        Replay { release, sim, wire, open: 0, names: BTreeMap::new() }
    }

    fn translated(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (theirs, ours) in &self.names {
            out = out.replace(theirs, ours);
            out = out.replace(&recording::encode(theirs), &recording::encode(ours));
        }
        out
    }

    /// Sends one recorded request and compares the answer.
    async fn step(&mut self, recorded: &Exchange) -> BTreeSet<Difference> {
        let name = recorded.name.as_str();
        self.sim.set_clock(recorded.time);
        let early = name.ends_with("-early");
        if !early && !interventions::keeps_running(self.release, name) {
            interventions::finish(&mut self.sim.world().lock().unwrap(), self.sim.now());
        }
        if let Some((theirs, ours)) = interventions::before(self.release, name, &self.sim) {
            self.names.insert(theirs.to_owned(), ours);
        }
        if let Some((request, answers)) = &recorded.raw {
            let got = self.wire.bytes(request.as_bytes(), answers.len()).await;
            return raw(&got, answers);
        }
        let mut e = recorded.clone();
        if let Some(cookie) = e.headers.get_mut("Cookie") {
            *cookie = format!("PVEAuthCookie={}", self.names["PVEAuthCookie"]);
        }
        let (url, body) = (self.translated(&e.url), self.translated(&e.body));
        let got = self.wire.send(&e, &url, &body).await;
        let ours: Value = serde_json::from_slice(&got.body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&got.body).into_owned();
            if text.is_empty() { Value::Null } else { json!(text) }
        });
        self.learn(&e.answer, &ours);
        let found = compare(&e, &got, &ours);
        let ended = |v: &Value| v["data"]["status"] == "stopped";
        let chance = ended(&ours) != ended(&e.answer) || name.ends_with("-log-early");
        if early && !found.is_empty() && got.status == e.status && chance {
            self.open += 1;
            return BTreeSet::new();
        }
        found
    }

    /// Remembers what later requests call by the recorded name.
    fn learn(&mut self, theirs: &Value, ours: &Value) {
        let upid = |v: &Value| v["data"].as_str().filter(|t| Upid::parse(t).is_some()).map(str::to_owned);
        if let (Some(theirs), Some(ours)) = (upid(theirs), upid(ours)) {
            self.names.insert(theirs, ours);
        }
        if let Some(ticket) = ours["data"]["ticket"].as_str() {
            self.names.insert("PVEAuthCookie".to_owned(), ticket.replace(':', "%3A").replace('+', "%2B"));
        }
        let archives = |v: &Value| -> Vec<String> {
            let rows = v["data"].as_array().into_iter().flatten();
            let lines = rows.filter_map(|r| r["t"].as_str()?.strip_prefix("INFO: creating vzdump archive '"));
            lines.map(|path| path.trim_end_matches('\'').rsplit('/').next().unwrap().to_owned()).collect()
        };
        for (theirs, ours) in archives(theirs).into_iter().zip(archives(ours)) {
            self.names.insert(theirs, ours);
        }
    }
}

fn compare(e: &Exchange, got: &Received, ours: &Value) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    if got.status != e.status {
        found.insert(Difference::new("status", "", format!("{} {ours}", got.status), e.status));
        return found;
    }
    if got.reason != e.reason {
        found.insert(Difference::new("reason", "", &got.reason, &e.reason));
    }
    if e.status == 200 && e.answer.is_string() {
        if !got.body.starts_with(&[0x1f, 0x8b]) {
            found.insert(Difference::new("text", "", ours, "gzip"));
        }
        return found;
    }
    if e.status != 200 || !e.answer.is_object() {
        let (a, b) = (tame::value(ours), tame::value(&e.answer));
        if a != b {
            found.insert(Difference::new("text", "", a, b));
        }
        return found;
    }
    let log = e.name.ends_with("-log") || e.name.ends_with("-log-early") || e.url.contains("/log");
    if log {
        found.extend(compare::logs(ours, &e.answer));
        return found;
    }
    for difference in compare::bodies(ours, &e.answer) {
        let task = difference.place == "data.exitstatus" || difference.place == "data.status";
        let is_task = e.name.contains("-task-status") && task;
        let aspect = if is_task { "task" } else { difference.aspect };
        found.insert(Difference { aspect, ..difference });
    }
    found
}

fn raw(got: &[Received], answers: &[String]) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    if got.len() != answers.len() {
        found.insert(Difference::new("status", "", got.len(), answers.len()));
    }
    for (ours, theirs) in got.iter().zip(answers) {
        let body = String::from_utf8_lossy(&ours.body);
        let ours = recording::essence(&format!("{}\r\n\r\n{body}", ours.headers));
        let split = |text: &str| -> (String, Value) {
            let (line, body) = text.split_once('\n').unwrap();
            (line.to_owned(), serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
        };
        let ((line, body), (their_line, their_body)) = (split(&ours), split(theirs));
        if line != their_line {
            found.insert(Difference::new("status", "", line, their_line));
        } else if body != their_body {
            found.insert(Difference::new("text", "", body, their_body));
        }
    }
    found
}

/// Replays a recording; the test fails for what differs and is not listed, and the other way round.
async fn replay(release: Release, version: &str, recording: &Recording) {
    let listed = listed();
    let mut replay = Replay::begin(release, recording).await;
    let mut wrong = Vec::new();
    for name in interventions::names(release) {
        assert!(recording.exchanges.iter().any(|e| e.name == name), "nothing is called {name}");
    }
    let mut needed: BTreeSet<(usize, String)> = BTreeSet::new();
    let (mut equal, mut excused) = (0, 0);
    for exchange in &recording.exchanges {
        let found = replay.step(exchange).await;
        if found.is_empty() {
            equal += 1;
            continue;
        }
        let before = wrong.len();
        for difference in found {
            let key = difference.key();
            let entry =
                listed.iter().position(|l| l.covers(version, &exchange.name) && l.differs.contains(&key));
            match entry {
                Some(entry) => {
                    needed.insert((entry, key));
                }
                None => wrong.push(format!("{}: {key}: {}", exchange.name, difference.detail)),
            }
        }
        excused += usize::from(wrong.len() == before);
    }
    for (index, entry) in listed.iter().enumerate().filter(|(_, l)| l.release == version) {
        assert!(entry.reason.len() > 20, "{}: why?", entry.exchange);
        for key in &entry.differs {
            if !needed.contains(&(index, key.clone())) {
                wrong.push(format!("{}: '{key}' is listed but does not differ any more", entry.exchange));
            }
        }
    }
    let entries = listed.iter().filter(|l| l.release == version).count();
    println!(
        "{version}: {} exchanges compared, {} equal, {} early looks at tasks left open, {excused} with a listed \
         difference ({entries} entries)",
        recording.exchanges.len(),
        equal - replay.open,
        replay.open
    );
    replay.sim.stop().await;
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn release_9_1_8() {
    let recording = fixture(Release::V9);
    assert_eq!(recording.exchanges.len(), 562);
    replay(Release::V9, "9.1.8", &recording).await;
}

#[tokio::test]
async fn release_8_4_14() {
    let recording = fixture(Release::V8);
    assert_eq!(recording.exchanges.len(), 124);
    replay(Release::V8, "8.4.14", &recording).await;
}

#[tokio::test]
async fn whole_recordings() {
    for (release, version) in RELEASES {
        let Some(whole) = recording::big(version) else {
            println!("the recording of {version} is not here: only its fixture is replayed");
            continue;
        };
        assert_eq!(recording::cut(&whole), fixture(release), "the fixture is not cut from the recording");
        replay(release, version, &whole).await;
    }
}

/// A change to a recorded exchange.
type Spoil = fn(&mut Exchange);

/// The first exchange of this name, with what `spoil` did to it, played at its place: what is found.
async fn spoilt(name: &str, spoil: Spoil) -> Vec<String> {
    let recording = fixture(Release::V9);
    let mut replay = Replay::begin(Release::V9, &recording).await;
    for exchange in &recording.exchanges {
        if exchange.name == name {
            let mut exchange = exchange.clone();
            spoil(&mut exchange);
            let found = replay.step(&exchange).await;
            replay.sim.stop().await;
            return found.iter().map(Difference::key).collect();
        }
        replay.step(exchange).await;
    }
    panic!("there is no {name}");
}

#[tokio::test]
async fn every_aspect_is_looked_at() {
    let cases: [(&str, Spoil, &str); 12] = [
        ("nextid", |e| e.status = 500, "status"),
        ("unknown-token", |e| e.reason.push('x'), "reason"),
        ("lxc-unknown-config", |e| e.answer["message"] = json!("x"), "text"),
        ("lxc-bad-vmid", |e| e.answer["errors"] = json!({"vmid": "x"}), "text"),
        ("nextid", |e| e.answer["data"] = json!("101"), "values data"),
        ("lxc-config", |e| e.answer["data"]["new"] = json!(1), "fields data.new"),
        ("lxc-config", |e| e.answer["data"]["memory"] = json!("128"), "types data.memory"),
        ("lxc-list", |e| e.answer["data"][0]["vmid"] = json!(777), "rows data[]"),
        ("snap-list-one", |e| e.answer["data"][0]["description"] = json!("x"), "values data[].description"),
        ("snap-create-duplicate", |e| e.answer = json!({"data": "OK"}), "values data"),
        (
            "lxc-create-task-status-final",
            |e| e.answer["data"]["exitstatus"] = json!("x"),
            "task data.exitstatus",
        ),
        ("lxc-create-task-log", |e| e.answer["data"][0]["t"] = json!("x"), "log"),
    ];
    for (name, spoil, wanted) in cases {
        assert_eq!(spoilt(name, spoil).await, [wanted], "{name}");
        assert!(spoilt(name, |_| {}).await.is_empty(), "{name}");
    }
}

#[test]
#[ignore = "writes the fixtures from the recordings"]
fn write_fixtures() {
    for (_, version) in RELEASES {
        let whole = recording::big(version).unwrap();
        let path = format!("{}/tests/fixtures/replay-{version}.jsonl", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, recording::write(&whole)).unwrap();
    }
}

#[test]
fn the_list_is_readable_and_short() {
    let listed = listed();
    let count = |version: &str| listed.iter().filter(|l| l.release == version).count();
    assert!(count("9.1.8") < 25 && count("8.4.14") < 8, "{} and {}", count("9.1.8"), count("8.4.14"));
    assert!(listed.iter().all(|l| RELEASES.iter().any(|(_, v)| l.release == *v)));
}
