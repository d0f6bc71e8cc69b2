//! Faults: what goes wrong, and with which request.
//!
//! A rule is a matcher and a mishap. Rules come from a script (the side door, a file, or Rust) or
//! from a seed: then the number of the request alone decides, so that the same seed gives the same
//! faults to the same sequence of requests.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Which certificate the node serves next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewCertificate {
    /// A renewal: another leaf with the same key from the same CA, so the SPKI stays.
    SameKey,
    /// Another leaf with another key from the same CA, as an ACME order gives.
    NewKey,
    /// Everything new, as after joining a cluster.
    NewCa,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// What goes wrong. In JSON the variant is `"fault"` in snake case, its fields stand beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mishap {
    /// The connection is closed unanswered, the request not handled, and nobody listens for `ms`.
    Refuse {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// There is no answer, ever; the connection stays open.
    Hang {
        /// Whether the request is handled.
        #[serde(default)]
        handled: bool,
    },
    /// The answer comes in pieces of `bytes` every `ms`.
    Drip {
        /// Bytes per piece.
        #[serde(default = "one")]
        bytes: u32,
        /// Milliseconds between pieces.
        #[serde(default = "one")]
        ms: u32,
    },
    /// The connection is closed without an answer.
    Reset {
        /// Whether the request is handled before.
        #[serde(default)]
        handled: bool,
    },
    /// 401 after the usual delay; not handled.
    Unauthorized {
        /// The reason phrase; that of the release when absent.
        #[serde(default)]
        reason: Option<String>,
    },
    /// A 500 with this text in the usual envelope; not handled.
    Error {
        /// The text, without the newline at its end.
        text: String,
    },
    /// Any status, reason and body.
    Status {
        /// The status.
        status: u16,
        /// The reason phrase.
        #[serde(default)]
        reason: String,
        /// The body; empty when absent.
        #[serde(default)]
        body: String,
        /// Whether the request is handled.
        #[serde(default)]
        handled: bool,
    },
    /// 595 is answered for a request that was not handled; 596, 597 and 599 for one that is.
    Proxy {
        /// 595 to 599.
        status: u16,
        /// The reason phrase; the usual one when absent.
        #[serde(default)]
        reason: Option<String>,
        /// How many milliseconds after the answer the handler runs; 0 is before the answer.
        #[serde(default)]
        later_ms: u64,
    },
    /// The request is handled, but the answer names another task.
    Upid {
        /// The UPID answered; when absent one of a process that never was.
        #[serde(default)]
        upid: Option<String>,
    },
    /// The task begun by the request ends with this text and changes nothing.
    TaskFail {
        /// The text.
        text: String,
        /// Whether lock and half-made things stay.
        #[serde(default)]
        leave_lock: bool,
    },
    /// The task's worker is killed: `unexpected status`, the lock stays.
    TaskKill {},
    /// The task ends in `WARNINGS: count`.
    TaskWarn {
        /// How many.
        #[serde(default = "one")]
        count: u32,
    },
    /// The task never ends.
    TaskEndless {},
    /// The next lookups of the task's status find `no such task`.
    TaskLate {
        /// How many lookups.
        #[serde(default = "one")]
        lookups: u32,
    },
    /// The task's log file is gone: its status is `no such task`, the lists still know it.
    TaskLogGone {},
    /// The node serves another certificate from the next connection on.
    Certificate {
        /// Which one.
        new: NewCertificate,
    },
    /// The request is handled, and its answer is JSON with this many bytes in `data`.
    BigBody {
        /// How many.
        #[serde(default = "big")]
        bytes: u64,
    },
    /// The request is handled, and its answer is this text as JSON.
    BadJson {
        /// The text; half an envelope when absent.
        #[serde(default)]
        text: Option<String>,
    },
    /// The request is handled, and its answer is JSON but for bytes that are no UTF-8.
    BadText {},
    /// The request is handled, and `data` is missing in its answer.
    NoData {},
    /// Just before the request another guest takes this VMID, with the same name and snapshots.
    ReplaceGuest {
        /// The VMID; that of the request's path when absent.
        #[serde(default)]
        vmid: Option<u32>,
    },
    /// Just before the request somebody else changes the guest's configuration.
    DigestRace {
        /// The VMID; that of the request's path when absent.
        #[serde(default)]
        vmid: Option<u32>,
    },
    /// Somebody holds the short lock of the guest's configuration file: what takes it next gives up,
    /// a task in its log and a change of the configuration with a 500.
    Flock {
        /// The VMID; that of the request's path when absent.
        #[serde(default)]
        vmid: Option<u32>,
    },
    /// From now on the cluster has no quorum, or has it again.
    Quorum {
        /// Whether it is lost.
        #[serde(default = "yes")]
        lost: bool,
    },
    /// The daemon behind the web server restarts: its running tasks are interrupted, and requests
    /// it would handle meet 595 until `ms` and `requests` are both over.
    DaemonRestart {
        /// For how many milliseconds.
        #[serde(default)]
        ms: u64,
        /// For at least how many requests.
        #[serde(default)]
        requests: u32,
    },
}

/// Every fault once, as an order in JSON, with what it does.
pub const FAULT_EXAMPLES: [(&str, &str); 26] = [
    (
        r#"{"fault":"refuse","ms":500}"#,
        "nobody listens for so long; with a matcher the request is not handled",
    ),
    (r#"{"fault":"hang"}"#, "no answer, ever; with \"handled\":true the request is carried out"),
    (r#"{"fault":"drip","bytes":1,"ms":20}"#, "the answer comes in pieces"),
    (r#"{"fault":"reset"}"#, "the connection closes before the request is handled"),
    (r#"{"fault":"reset","handled":true}"#, "… and after: only the answer is lost"),
    (r#"{"fault":"unauthorized"}"#, "401 after the usual delay"),
    (r#"{"fault":"error","text":"got timeout"}"#, "a 500 with this text, not handled"),
    (
        r#"{"fault":"status","status":502,"reason":"Bad","body":"x"}"#,
        "any answer; with \"handled\":true carried out",
    ),
    (
        r#"{"fault":"proxy","status":596,"later_ms":50}"#,
        "595 not handled; 596, 597, 599 handled, later_ms after the answer",
    ),
    (r#"{"fault":"upid"}"#, "handled, but another UPID is answered (or the one in \"upid\")"),
    (r#"{"fault":"task_fail","text":"disk full","leave_lock":false}"#, "200, then the task fails"),
    (r#"{"fault":"task_kill"}"#, "the task ends in `unexpected status`, its lock stays"),
    (r#"{"fault":"task_warn","count":2}"#, "the task ends in `WARNINGS: 2`"),
    (r#"{"fault":"task_endless"}"#, "the task never ends"),
    (r#"{"fault":"task_late","lookups":3}"#, "its status is `no such task` so many times"),
    (r#"{"fault":"task_log_gone"}"#, "the task's log is gone, the lists know it"),
    (r#"{"fault":"certificate","new":"same_key"}"#, "another certificate: same_key, new_key or new_ca"),
    (r#"{"fault":"big_body","bytes":200000000}"#, "handled, but the answer is that large"),
    (r#"{"fault":"bad_json"}"#, "handled, but the answer is half an envelope (or \"text\")"),
    (r#"{"fault":"bad_text"}"#, "handled, but the answer is no UTF-8"),
    (r#"{"fault":"no_data"}"#, "handled, but `data` is missing"),
    (
        r#"{"fault":"replace_guest","vmid":101}"#,
        "just before, another guest takes the VMID (or that of the path)",
    ),
    (r#"{"fault":"digest_race","vmid":101}"#, "just before, somebody else changes the configuration"),
    (
        r#"{"fault":"flock","vmid":101}"#,
        "what takes the lock of the guest's file next ends in `can't lock file … - got timeout`",
    ),
    (
        r#"{"fault":"quorum","lost":true}"#,
        "writes end in `cluster not ready - no quorum?` until \"lost\":false",
    ),
    (r#"{"fault":"daemon_restart","ms":200,"requests":1}"#, "tasks are interrupted; 595 until both are over"),
];

fn big() -> u64 {
    200_000_000
}

/// A matcher and a mishap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    /// Only requests with this method.
    pub method: Option<String>,
    /// Only requests whose path and query, as sent, contain this.
    pub contains: Option<String>,
    /// The first matching request it happens to, counted from 1.
    pub nth: u32,
    /// To how many matching requests in a row it happens; 0 is all of them.
    pub times: u32,
    /// What happens.
    pub mishap: Mishap,
    /// Matching requests so far.
    seen: u32,
}

impl FaultRule {
    /// A rule for the very next request.
    pub fn new(mishap: Mishap) -> FaultRule {
        FaultRule { method: None, contains: None, nth: 1, times: 1, mishap, seen: 0 }
    }

    /// Only for this method.
    pub fn method(mut self, method: &str) -> FaultRule {
        self.method = Some(method.to_ascii_uppercase());
        self
    }

    /// Only for requests whose path and query contain this.
    pub fn contains(mut self, part: &str) -> FaultRule {
        self.contains = Some(part.to_owned());
        self
    }

    /// Only from the n-th matching request on.
    pub fn nth(mut self, nth: u32) -> FaultRule {
        self.nth = nth.max(1);
        self
    }

    /// For so many matching requests; 0 is all of them.
    pub fn times(mut self, times: u32) -> FaultRule {
        self.times = times;
        self
    }

    /// Whether it waits for no particular request: then what concerns the whole node happens at
    /// once, without a request.
    pub fn is_unconditional(&self) -> bool {
        self.method.is_none() && self.contains.is_none() && self.nth == 1 && self.times == 1
    }

    /// Reads `{"fault": …, "method"?, "contains"?, "nth"?, "times"?, …}`; the error is a sentence.
    pub fn parse(order: &Value) -> Result<FaultRule, String> {
        let Value::Object(map) = order else {
            return Err("a fault must be a JSON object, such as {\"fault\":\"hang\"}".to_owned());
        };
        let mut map = map.clone();
        let text = |map: &mut Map<String, Value>, key: &str| match map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("'{key}' must be text, not {other}")),
        };
        let method = text(&mut map, "method")?.map(|m| m.to_ascii_uppercase());
        let contains = text(&mut map, "contains")?;
        let count = |map: &mut Map<String, Value>, key: &str, least: u64| match map.remove(key) {
            None => Ok(1),
            Some(value) => value
                .as_u64()
                .filter(|n| *n >= least)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| format!("'{key}' must be a whole number from {least} on, not {value}")),
        };
        let nth = count(&mut map, "nth", 1)?;
        let times = count(&mut map, "times", 0)?;
        if !map.contains_key("fault") {
            return Err("'fault' is missing: which one is it to be?".to_owned());
        }
        let mishap: Mishap = serde_json::from_value(Value::Object(map)).map_err(|e| e.to_string())?;
        if let Mishap::Status { status, .. } = &mishap
            && !(200..=999).contains(status)
        {
            return Err(format!("{status} is no status a server may end a request with (200 to 999)"));
        }
        if let Mishap::Proxy { status, .. } = &mishap
            && !(595..=599).contains(status)
        {
            return Err(format!("{status} is none of the proxy's own (595 to 599)"));
        }
        Ok(FaultRule { method, contains, nth, times, mishap, seen: 0 })
    }

    /// The order as [`FaultRule::parse`] reads it.
    pub fn to_json(&self) -> Value {
        let mut order = json!(self.mishap);
        order["nth"] = json!(self.nth.saturating_sub(self.seen).max(1));
        let used = self.seen.saturating_sub(self.nth - 1);
        order["times"] = json!(if self.times == 0 { 0 } else { self.times.saturating_sub(used) });
        for (key, value) in [("method", &self.method), ("contains", &self.contains)] {
            if let Some(value) = value {
                order[key] = json!(value);
            }
        }
        order
    }

    fn matches(&self, method: &str, target: &str) -> bool {
        self.method.as_ref().is_none_or(|m| m == method)
            && self.contains.as_ref().is_none_or(|part| target.contains(part.as_str()))
    }
}

/// The faults still to come.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    /// The rules, in the order they were given.
    pub rules: Vec<FaultRule>,
    seed: Option<(u64, f64)>,
    number: u64,
}

impl FaultPlan {
    /// Reads one rule, a list of them, or `{"faults": […]}`.
    pub fn parse(order: &Value) -> Result<Vec<FaultRule>, String> {
        match order {
            Value::Array(rules) => rules
                .iter()
                .enumerate()
                .map(|(i, rule)| FaultRule::parse(rule).map_err(|e| format!("fault {}: {e}", i + 1)))
                .collect(),
            Value::Object(map) if map.contains_key("faults") && map.len() == 1 => {
                FaultPlan::parse(&order["faults"])
            }
            one => FaultRule::parse(one).map(|rule| vec![rule]),
        }
    }

    /// Faults by chance: each request meets one with this probability (0 to 1).
    pub fn by_seed(&mut self, seed: u64, rate: f64) {
        self.seed = Some((seed, rate.clamp(0.0, 1.0)));
    }

    /// What happens to the next request.
    pub fn fire(&mut self, method: &str, target: &str) -> Vec<Mishap> {
        self.number += 1;
        let mut fired = Vec::new();
        for rule in &mut self.rules {
            if !rule.matches(method, target) {
                continue;
            }
            rule.seen += 1;
            if rule.seen >= rule.nth {
                fired.push(rule.mishap.clone());
            }
        }
        self.rules.retain(|r| r.times == 0 || r.seen < r.nth.saturating_add(r.times - 1));
        if fired.is_empty()
            && let Some((seed, rate)) = self.seed
        {
            fired.extend(by_chance(seed, rate, self.number, method));
        }
        fired
    }
}

/// The fault of one request, from the seed and the request's number alone.
fn by_chance(seed: u64, rate: f64, number: u64, method: &str) -> Option<Mishap> {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(number.to_be_bytes());
    let bytes: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, pick, detail, ..] = bytes;
    if f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX) >= rate {
        return None;
    }
    let error = |text: &str| Mishap::Error { text: text.to_owned() };
    let proxy = |status| Mishap::Proxy { status, reason: None, later_ms: u64::from(detail % 8) };
    // Nothing here takes longer than the slowest drip: a run of many requests is to end.
    Some(if method == "GET" {
        match pick % 8 {
            0 => Mishap::Reset { handled: false },
            1 => error("got timeout"),
            2 => proxy(595),
            3 => proxy(596),
            4 => Mishap::BadJson { text: None },
            5 => Mishap::NoData {},
            6 => Mishap::Unauthorized { reason: None },
            _ => Mishap::Drip { bytes: 64, ms: 1 },
        }
    } else {
        match pick % 10 {
            0 => Mishap::Reset { handled: false },
            1 | 2 => Mishap::Reset { handled: true },
            3 => proxy(595),
            4 => proxy(596),
            5 => proxy(599),
            6 => error("got timeout"),
            7 => Mishap::TaskFail {
                text: "simulated failure".to_owned(),
                leave_lock: detail.is_multiple_of(2),
            },
            8 => Mishap::TaskKill {},
            _ => Mishap::TaskWarn { count: 1 },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FaultRule, String> {
        FaultRule::parse(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn counting() {
        let mut plan = FaultPlan::default();
        plan.rules.push(FaultRule::new(Mishap::NoData {}).method("post").contains("/snap").nth(2).times(2));
        let hits: Vec<bool> = (0..5).map(|_| !plan.fire("POST", "/a/snapshot").is_empty()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert!(plan.rules.is_empty());
        plan.rules.push(FaultRule::new(Mishap::NoData {}).times(0));
        assert!((0..50).all(|_| plan.fire("GET", "/").len() == 1), "for ever");
        plan.rules = vec![FaultRule::new(Mishap::NoData {}).contains("x")];
        assert!(plan.fire("GET", "/y").is_empty());
        assert_eq!(plan.rules.len(), 1, "what does not match does not count");
    }

    #[test]
    fn orders_are_read_and_written() {
        for good in [
            r#"{"fault":"hang","method":"get","contains":"x","nth":3,"times":0}"#,
            r#"{"fault":"status","status":418,"reason":"teapot","body":"x"}"#,
            r#"{"fault":"proxy","status":596,"later_ms":5}"#,
            r#"{"fault":"certificate","new":"same_key"}"#,
            r#"{"fault":"task_kill"}"#,
        ] {
            let rule = parse(good).unwrap();
            assert_eq!(FaultRule::parse(&rule.to_json()).unwrap(), rule, "{good}");
        }
        for (bad, part) in [
            ("[]", "JSON object"),
            ("{}", "'fault' is missing"),
            (r#"{"fault":"nosuch"}"#, "unknown variant"),
            (r#"{"fault":"hang","nth":0}"#, "'nth'"),
            (r#"{"fault":"hang","times":-1}"#, "'times'"),
            (r#"{"fault":"hang","times":99999999999}"#, "'times'"),
            (r#"{"fault":"hang","method":5}"#, "'method'"),
            (r#"{"fault":"hang","nosuch":5}"#, "unknown field"),
            (r#"{"fault":"error"}"#, "missing field"),
            (r#"{"fault":"status","status":100}"#, "100"),
            (r#"{"fault":"proxy","status":500}"#, "595"),
            (r#"{"fault":"certificate","new":"x"}"#, "unknown variant"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
        for (example, _) in FAULT_EXAMPLES {
            parse(example).unwrap();
        }
        let list = serde_json::from_str(r#"[{"fault":"hang"},{"fault":"?"}]"#).unwrap();
        assert!(FaultPlan::parse(&list).unwrap_err().starts_with("fault 2: "));
    }

    #[test]
    fn the_seed_decides_and_nothing_else() {
        let run = |seed, rate| {
            let mut plan = FaultPlan::default();
            plan.by_seed(seed, rate);
            (0..400).map(|i| plan.fire(["GET", "POST"][i % 2], "/x")).collect::<Vec<_>>()
        };
        let hits = |run: &[Vec<Mishap>]| run.iter().filter(|f| !f.is_empty()).count();
        assert_eq!(run(7, 0.25), run(7, 0.25));
        assert_ne!(run(7, 0.25), run(8, 0.25));
        assert_eq!(hits(&run(7, 0.0)), 0);
        assert_eq!(hits(&run(7, 1.0)), 400);
        assert!((60..140).contains(&hits(&run(7, 0.25))), "{}", hits(&run(7, 0.25)));
    }
}
