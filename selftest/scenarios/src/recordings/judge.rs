//! What an exchange should be, from its status alone where that says it, and what the client makes of it.
//! The two are compared; a task's status is compared with the last line of its log besides.

use std::collections::BTreeMap;

use proxmox_client::catalog::{Understood, understand};
use proxmox_client::{Delivery, ErrorClass};
use serde_json::Value;

use super::exchange::Exchange;

/// See the module above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Understood,
    Unknown(String),
    Wrong(String),
}

/// Remembers how tasks ended, for their logs.
#[derive(Debug, Default)]
pub(super) struct Judge {
    ends: BTreeMap<String, String>,
}

const API: &str = "/api2/json";

impl Judge {
    /// The call's name for the table, the verdict, and what it was taken for, in a word or two.
    pub(super) fn judge(&mut self, exchange: &Exchange) -> (String, Verdict, String) {
        let Some(path) =
            exchange.target.strip_prefix(API).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        else {
            return other_format(exchange, "(outside /api2/json)");
        };
        // Compressed, or a file to be saved: the client asks for neither, and text cannot hold such bytes.
        let query = path.split_once('?').map_or("", |(_, query)| query);
        if exchange.encoding.is_some() || query.split('&').any(|pair| pair == "download=1") {
            return other_format(exchange, "(compressed, or a download)");
        }
        let reason = Some(exchange.reason.as_str()).filter(|reason| !reason.is_empty());
        let read = understand(&exchange.method, path, exchange.status, reason, &exchange.body);
        let call = read.call.unwrap_or("(no method of the client)").to_owned();
        let seen = match &read.outcome {
            Understood::Typed => "data".to_owned(),
            Understood::Envelope => "envelope".to_owned(),
            Understood::Refused { class, .. } => word(class),
            Understood::Unreadable(_) => "unreadable".to_owned(),
        };
        let verdict = match (&exchange.expect, &read.outcome) {
            (Some(expect), outcome) if *expect != describe(outcome) => {
                Verdict::Wrong(format!("it should be `{expect}` and is `{}`", describe(outcome)))
            }
            (_, Understood::Unreadable(why)) => {
                Verdict::Wrong(format!("a success that cannot be read: {why}"))
            }
            (_, Understood::Typed | Understood::Envelope) => self.task(exchange, path),
            (_, Understood::Refused { class, delivery, text }) => {
                refused(exchange.status, class, *delivery, text)
            }
        };
        (call, verdict, seen)
    }

    /// A task's status must be what its log's last line says.
    fn task(&mut self, exchange: &Exchange, path: &str) -> Verdict {
        let path = path.split('?').next().unwrap_or_default();
        let Some((upid, what)) = path.split_once("/tasks/").and_then(|(_, rest)| rest.rsplit_once('/'))
        else {
            return Verdict::Understood;
        };
        let upid = upid.to_ascii_lowercase().replace("%3a", ":").replace("%40", "@").replace("%21", "!");
        let Ok(body) = serde_json::from_slice::<Value>(&exchange.body) else { return Verdict::Understood };
        match what {
            "status" => {
                if let Some(exit) = body["data"]["exitstatus"].as_str() {
                    self.ends.insert(upid, exit.trim().to_owned());
                }
                Verdict::Understood
            }
            "log" => {
                let lines = body["data"].as_array().map(Vec::as_slice).unwrap_or_default();
                let whole = body["total"].as_u64().is_some_and(|total| total == lines.len() as u64);
                let (Some(exit), Some(last), true) = (self.ends.get(&upid), lines.last(), whole) else {
                    return Verdict::Understood;
                };
                let last = last["t"].as_str().unwrap_or_default();
                match log_end(last) {
                    // Lines of an error that has several are folded into one; only its end is here.
                    Some(end) if *exit != end && !exit.ends_with(last.trim()) => {
                        Verdict::Wrong(format!("the task ended `{exit}`, and its log ends `{last}`"))
                    }
                    _ => Verdict::Understood,
                }
            }
            _ => Verdict::Understood,
        }
    }
}

/// The exit status that a log's last line stands for.
fn log_end(last: &str) -> Option<String> {
    let rest = last.strip_prefix("TASK ")?;
    Some(rest.strip_prefix("ERROR: ").unwrap_or(rest).trim().to_owned())
}

/// What the client never asks for: nothing but the status can be judged.
fn other_format(exchange: &Exchange, call: &str) -> (String, Verdict, String) {
    let known = matches!(exchange.status, 200 | 301 | 308 | 400 | 401 | 403 | 500 | 501 | 595..=599);
    let verdict = match known {
        true => Verdict::Understood,
        false => Verdict::Unknown(format!("status {} {call}", exchange.status)),
    };
    (call.to_owned(), verdict, "not read".to_owned())
}

/// What a refusal must be, by its status.
fn refused(status: u16, class: &ErrorClass, delivery: Delivery, text: &str) -> Verdict {
    let expected = match status {
        595 => Delivery::NotSent,
        502..=504 | 596..=599 => Delivery::MaybeExecuted,
        _ => Delivery::Answered,
    };
    if delivery != expected {
        return Verdict::Wrong(format!("status {status} was taken for {delivery:?}"));
    }
    let fits = match (status, class) {
        (401, ErrorClass::Auth)
        | (400, ErrorClass::Parameter | ErrorClass::NotFound)
        | (595, ErrorClass::NodeUnreachable)
        | (502..=504 | 596..=599, ErrorClass::Ambiguous)
        | (501, ErrorClass::NoSuchMethod) => true,
        // Too large, a body where none may be: refusals of the web server, in words.
        (501 | 506, ErrorClass::Other) => !text.is_empty(),
        (403, ErrorClass::Permission { path, privilege }) => {
            !privilege.is_empty() && (!path.is_empty() || !text.contains("Permission check failed (/"))
        }
        (
            500,
            ErrorClass::Auth | ErrorClass::NoSuchMethod | ErrorClass::NodeUnreachable | ErrorClass::Ambiguous,
        ) => false,
        (500, _) => {
            if text.is_empty() {
                return Verdict::Unknown("a 500 without any text".to_owned());
            }
            true
        }
        (300..=399 | 405..=499 | 505 | 507..=594, _) => {
            return Verdict::Unknown(format!("no rule says what status {status} is ({text})"));
        }
        _ => false,
    };
    if fits {
        Verdict::Understood
    } else {
        Verdict::Wrong(format!("status {status} ({text}) was taken for {class:?}"))
    }
}

fn word(class: &ErrorClass) -> String {
    let debug = format!("{class:?}");
    debug.split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// As curated files write it: `data`, `envelope`, `Locked backup`, `Permission /vms/100 VM.Snapshot`.
pub(super) fn describe(outcome: &Understood) -> String {
    match outcome {
        Understood::Typed => "data".to_owned(),
        Understood::Envelope => "envelope".to_owned(),
        Understood::Unreadable(_) => "unreadable".to_owned(),
        Understood::Refused { class: ErrorClass::Locked { by }, .. } => format!("Locked {by}"),
        Understood::Refused { class: ErrorClass::Permission { path, privilege }, .. } => {
            format!("Permission {path} {privilege}")
        }
        Understood::Refused { class, .. } => word(class),
    }
}
