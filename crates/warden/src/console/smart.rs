//! `writ-warden smart`: a disk's SMART values for people. What the disk says is foreign text.

use std::path::Path;

use protocol::local::{WardenAnswer, WardenRequest};
use protocol::privileged::{BlockDevice, SmartReading, SmartTransport};
use protocol::text::printable;
use serde_json::Value;

use super::ask;
use crate::config::WardenConfig;
use crate::warden::chain;

/// The word after `smartctl -d`.
///
/// # Errors
/// A sentence with all words that there are.
pub fn transport(word: &str) -> Result<SmartTransport, String> {
    SmartTransport::ALL.iter().find(|one| one.word() == word).copied().ok_or_else(|| {
        let all: Vec<_> = SmartTransport::ALL.iter().map(|one| one.word()).collect();
        format!("it is one of {}", all.join(", "))
    })
}

/// Asks and prints. An error where the disk itself says that it fails.
pub async fn run(
    path: &Path,
    device: BlockDevice,
    transport: Option<SmartTransport>,
    json: bool,
) -> Result<(), String> {
    let config = WardenConfig::load(path).map_err(|error| chain(&error))?;
    let answer = ask(&config, &WardenRequest::Smart { device, transport }).await?;
    let WardenAnswer::Smart(reading) = answer else {
        return Err("the warden answered something else: are both of one version?".to_owned());
    };
    let value: Value = serde_json::from_slice(&reading.json.0)
        .map_err(|_| "what came is no JSON: are all parts of one version?".to_owned())?;
    if json {
        println!("{value}");
    } else {
        for (label, text) in rows(&reading, &value) {
            println!("{label:<12}{text}");
        }
    }
    match value.pointer("/smart_status/passed").and_then(Value::as_bool) {
        Some(false) => Err(format!("{} says that it FAILS: replace it", reading.device)),
        _ => Ok(()),
    }
}

/// What is shown of it. What a disk does not say is said to be unknown.
fn rows(reading: &SmartReading, value: &Value) -> Vec<(&'static str, String)> {
    let mut rows = vec![("disk", reading.device.to_string())];
    if reading.asleep {
        rows.push(("state", "asleep, and not woken: its values are unknown".to_owned()));
        return rows;
    }
    let told = |path: &str| match value.pointer(path) {
        Some(Value::String(text)) => printable(text),
        Some(Value::Number(number)) => number.to_string(),
        _ => "unknown".to_owned(),
    };
    rows.push(("model", told("/model_name")));
    rows.push(("serial", told("/serial_number")));
    rows.push((
        "health",
        match value.pointer("/smart_status/passed").and_then(Value::as_bool) {
            Some(true) => "passed",
            Some(false) => "FAILED",
            None => "unknown",
        }
        .to_owned(),
    ));
    rows.push(("temperature", format!("{} degrees Celsius", told("/temperature/current"))));
    rows.push(("powered on", format!("{} hours", told("/power_on_time/hours"))));
    for (path, label) in [
        ("/nvme_smart_health_information_log/percentage_used", "worn"),
        ("/nvme_smart_health_information_log/available_spare", "spare"),
    ] {
        if value.pointer(path).is_some() {
            rows.push((label, format!("{} %", told(path))));
        }
    }
    // The ones that mean sectors which could not be read or had to be replaced.
    let table = value.pointer("/ata_smart_attributes/table").and_then(Value::as_array);
    for attribute in table.into_iter().flatten() {
        let id = attribute.get("id").and_then(Value::as_u64);
        let label = match id {
            Some(5) => "reallocated",
            Some(197) => "pending",
            Some(198) => "unreadable",
            _ => continue,
        };
        let raw = attribute.pointer("/raw/value").and_then(Value::as_u64);
        rows.push((label, raw.map_or("unknown".to_owned(), |raw| format!("{raw} sector(s)"))));
    }
    // Bits 3 to 7 of smartctl's exit status; the lower three are errors and come as such.
    let warnings = [
        (3, "the disk is failing"),
        (4, "attributes are below their threshold"),
        (5, "attributes were below their threshold in the past"),
        (6, "the disk's error log has entries"),
        (7, "its self-test log has errors"),
    ];
    for (bit, text) in warnings {
        if reading.exit & (1 << bit) != 0 {
            rows.push(("warning", text.to_owned()));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reading(exit: u8, asleep: bool) -> SmartReading {
        SmartReading { device: "/dev/sda".parse().unwrap(), asleep, exit, json: vec![].into() }
    }

    fn text(exit: u8, asleep: bool, value: &Value) -> String {
        let rows = rows(&reading(exit, asleep), value);
        rows.iter().map(|(label, text)| format!("{label}: {text}\n")).collect()
    }

    #[test]
    fn what_is_unknown_is_not_healthy() {
        let nothing = text(0, false, &json!({}));
        assert!(nothing.contains("health: unknown") && nothing.contains("temperature: unknown"), "{nothing}");
        let asleep = text(2, true, &json!({"smart_status": {"passed": true}}));
        assert!(asleep.contains("unknown") && !asleep.contains("passed"), "{asleep}");
    }

    #[test]
    fn a_failing_disk_is_told_and_its_words_are_made_safe() {
        let value = json!({
            "model_name": "WD\u{1b}[2J", "serial_number": "X1", "smart_status": {"passed": false},
            "temperature": {"current": 61}, "power_on_time": {"hours": 4711},
            "ata_smart_attributes": {"table": [
                {"id": 5, "raw": {"value": 12}}, {"id": 194, "raw": {"value": 61}}, {"id": 197, "raw": {}},
            ]},
        });
        let shown = text(0b1101_1000, false, &value);
        for says in [
            "model: WD?[2J",
            "health: FAILED",
            "61 degrees",
            "4711 hours",
            "reallocated: 12",
            "pending: unknown",
            "the disk is failing",
            "below their threshold",
            "error log",
            "self-test",
        ] {
            assert!(shown.contains(says), "{says}: {shown}");
        }
        assert!(!shown.contains("in the past"), "{shown}");
    }

    #[test]
    fn every_transport_has_its_word() {
        for one in SmartTransport::ALL {
            assert_eq!(transport(one.word()), Ok(*one));
        }
        assert!(transport("sat -s off").unwrap_err().contains("sntasmedia"));
    }
}
