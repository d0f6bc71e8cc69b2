//! Every exchange that was recorded with a real Proxmox VE, read as the client reads it. The
//! recordings lie beside the work tree; without them the fixtures in this crate have to do.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proxmox_client::catalog::{Understood, understand};
use proxmox_client::{Delivery, ErrorClass};
use serde_json::Value;

struct Exchange {
    name: String,
    method: String,
    target: String,
    status: u16,
    reason: String,
    body: Vec<u8>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Of bytes on the wire; where two answers follow one another on a connection, both.
fn wire(name: &str, request: &str, response: &str) -> Vec<Exchange> {
    let mut found = Vec::new();
    let mut rest = response;
    for request in request.split("\r\n\r\n").filter(|request| !request.trim().is_empty()) {
        let Some((head, body)) = rest.split_once("\r\n\r\n") else { break };
        let mut status = head.lines().next().unwrap().splitn(3, ' ').skip(1);
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")
                .map(|n| n.trim().parse::<usize>().unwrap())
        });
        let (body, after) = body.split_at(length.unwrap_or(body.len()).min(body.len()));
        rest = after;
        let mut words = request.split_ascii_whitespace();
        found.push(Exchange {
            name: name.to_owned(),
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            status: status.next().unwrap().parse().unwrap(),
            reason: status.next().unwrap_or_default().to_owned(),
            body: body.as_bytes().to_vec(),
        });
    }
    assert!(!found.is_empty(), "{name}");
    found
}

fn exchanges(path: &Path) -> Vec<Exchange> {
    let lines = fs::read_to_string(path).unwrap();
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    lines
        .flat_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let name = text(&line["name"]);
            if let (Some(request), Some(response)) =
                (line["request_raw"].as_str(), line["response_raw"].as_str())
            {
                return wire(&name, request, response);
            }
            let (request, response) = (&line["request"], &line["response"]);
            let url = text(&request["url"]);
            let below_host =
                url.split_once("://").map_or(url.as_str(), |(_, rest)| &rest[rest.find('/').unwrap()..]);
            vec![Exchange {
                name,
                method: text(&request["method"]),
                target: below_host.to_owned(),
                status: u16::try_from(response["status"].as_u64().unwrap()).unwrap(),
                reason: text(&response["reason"]),
                body: text(&response["body_raw"]).into_bytes(),
            }]
        })
        .collect()
}

/// `None` where nothing but the status can be said: the web pages, and what is no request at all.
fn read(exchange: &Exchange) -> Option<Understood> {
    let reason = Some(exchange.reason.as_str()).filter(|reason| !reason.is_empty());
    if let Some(path) = exchange.target.strip_prefix("/api2/json") {
        return Some(understand(&exchange.method, path, exchange.status, reason, &exchange.body).outcome);
    }
    // The web interface's own format has the status inside.
    let path = exchange.target.strip_prefix("/api2/extjs")?;
    let body: Value = serde_json::from_slice(&exchange.body).unwrap();
    let status = match body["success"].as_u64() {
        Some(0) => u16::try_from(body["status"].as_u64().unwrap()).unwrap(),
        _ => exchange.status,
    };
    Some(understand(&exchange.method, path, status, None, &exchange.body).outcome)
}

fn check(exchange: &Exchange) -> Result<&'static str, String> {
    let Some(outcome) = read(exchange) else {
        return if matches!(exchange.status, 200 | 400) {
            Ok("another format")
        } else {
            Err("no rule".to_owned())
        };
    };
    let (class, delivery, said) = match &outcome {
        Understood::Typed => return Ok("typed"),
        Understood::Envelope => return Ok("envelope"),
        Understood::Unreadable(why) => return Err(format!("a success that cannot be read: {why}")),
        Understood::Refused { class, delivery, text } => (class, *delivery, text),
    };
    let fits = match (exchange.status, class) {
        (401, ErrorClass::Auth)
        | (400, ErrorClass::Parameter)
        | (403, ErrorClass::Permission { .. })
        | (501, ErrorClass::NoSuchMethod)
        | (595, ErrorClass::NodeUnreachable)
        | (596, ErrorClass::Ambiguous) => true,
        (400, ErrorClass::NotFound) => String::from_utf8_lossy(&exchange.body).contains("no such task"),
        (501, ErrorClass::Other) => said.contains("too large") || said.starts_with("Unexpected content"),
        (200 | 500, ErrorClass::NotFound) => {
            said.contains("does not exist") || said.contains("hostname lookup") || said.starts_with("no such")
        }
        (500, ErrorClass::Locked { by }) => said.contains(&format!("is locked ({by})")),
        (500, ErrorClass::Permission { .. }) => said.contains("only root"),
        (500, ErrorClass::Busy) => said.contains("can't lock file"),
        // Refusals about the guest's state, which nothing here branches on.
        (500, ErrorClass::Other) => [
            "already exists",
            "already running",
            "not running",
            "is running",
            "running container",
            "protection mode enabled",
            "reserved name",
            "is disabled",
            "unable to activate storage",
            "No QEMU guest agent configured",
        ]
        .iter()
        .any(|known| said.contains(known)),
        _ => false,
    };
    let expected = match exchange.status {
        595 => Delivery::NotSent,
        596 => Delivery::MaybeExecuted,
        _ => Delivery::Answered,
    };
    if fits && delivery == expected { Ok("refused") } else { Err(format!("{class:?}, {delivery:?}: {said}")) }
}

#[test]
fn every_recorded_exchange_is_understood() {
    let shared = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/pve");
    let mut files: Vec<PathBuf> = fs::read_dir(&shared)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("recordings-") && name.ends_with(".jsonl")
    });
    if files.is_empty() {
        eprintln!("no recordings beside the work tree: nothing was compared with a real Proxmox VE");
        return;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for path in files {
        for exchange in exchanges(&path) {
            match check(&exchange) {
                Ok(what) => *counts.entry(what).or_default() += 1,
                Err(why) => {
                    wrong.push(format!("{} {} {}: {why}", exchange.name, exchange.method, exchange.target))
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {counts:?}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(counts["typed"] > 200 && counts["refused"] > 60, "{counts:?}");
}

#[test]
fn bytes_on_the_wire_come_apart() {
    let two = wire(
        "two",
        "GET /api2/json/version HTTP/1.1\r\n\r\nGET /api2/json/nosuch HTTP/1.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"data\":{}}HTTP/1.1 501 Method 'GET /nosuch' not implemented\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(two.iter().map(|exchange| exchange.status).collect::<Vec<_>>(), [200, 501]);
    assert_eq!(check(&two[0]), Ok("typed"));
    assert_eq!(check(&two[1]), Ok("refused"));
    // A rule that lets everything pass would prove nothing.
    let mut bent =
        wire("bent", "GET /api2/json/nodes HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n{\"data\":7}");
    assert!(check(&bent[0]).is_err());
    bent[0].status = 500;
    bent[0].body = b"{\"data\":null,\"message\":\"something new\"}".to_vec();
    assert!(check(&bent[0]).is_err());
}
