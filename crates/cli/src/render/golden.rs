//! The golden orders of `authz` as people read them: frozen as text in `fixtures/explain/KIND.txt`
//! (`WRIT_WRITE_GOLDEN=1` writes them anew), and nothing that is signed is left unseen.

use std::path::PathBuf;

use authz::Order;
use protocol::{Ed25519Key, Sha256};
use serde_json::Value;

use super::order;
use crate::text::utc;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn orders() -> Vec<(String, Vec<u8>)> {
    let mut orders: Vec<_> = std::fs::read_dir(root().join("../authz/fixtures/orders"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    orders.sort();
    assert!(orders.len() >= 36);
    orders
}

fn rendered(bytes: &[u8]) -> Option<String> {
    Some(order(&Order::decode(bytes).ok()?, &Sha256::of(bytes)))
}

#[test]
fn every_kind_reads_as_it_did() {
    for (kind, bytes) in orders() {
        let text = rendered(&bytes).unwrap();
        let path = root().join(format!("fixtures/explain/{kind}.txt"));
        if std::env::var_os("WRIT_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let frozen = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, frozen, "{kind} reads otherwise: look at it as somebody who signs it would");
        let last = text.lines().last().unwrap();
        assert!(last.contains("SHA-256") && last.contains(&Sha256::of(&bytes).to_string()), "{last}");
    }
}

/// Each scalar of a JSON value: its place and itself.
fn scalars(value: &Value, place: &str, into: &mut Vec<(String, Value)>) {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| scalars(item, &format!("{place}/{at}"), into));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(key, field)| scalars(field, &format!("{place}/{key}"), into));
        }
        scalar => into.push((place.to_owned(), scalar.clone())),
    }
}

/// Words that say the same as a value of a closed list, where the value itself does not stand.
const WORDS: &[(&str, &str, &str)] = &[
    ("/params/mode/allow", "full", "shell, commands and sftp"),
    ("/params/backing/type", "dir", "the directory"),
    ("/params/backing/type", "lvmthin", "the thin pool"),
    ("/params/template/from", "archive", "template"),
    ("/params/owner/is", "gone", "which is gone"),
];

/// Times stand as times and keys as fingerprints; everything else stands as it is signed.
fn forms(place: &str, value: &Value) -> Vec<String> {
    let mut forms = Vec::new();
    match value {
        Value::String(text) => {
            forms.push(text.clone());
            forms.extend(text.parse::<Ed25519Key>().ok().map(|key| key.fingerprint().to_string()));
            let words = WORDS.iter().filter(|(at, word, _)| *at == place && word == text);
            forms.extend(words.map(|(.., said)| (*said).to_owned()));
        }
        Value::Number(number) => {
            let time = ["/nbf", "/exp", "time"].iter().any(|name| place.ends_with(name));
            forms.push(if time { utc(number.as_u64().unwrap()) } else { number.to_string() });
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
    }
    forms
}

/// `text` stands in the rendering, and not only as a part of a longer word or number.
fn stands(rendering: &str, text: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    rendering.match_indices(text).any(|(at, _)| {
        !inside(rendering[..at].chars().next_back()) && !inside(rendering[at + text.len()..].chars().next())
    })
}

#[test]
fn nothing_is_signed_unseen() {
    let (mut seen, mut flipped) = (0, 0);
    for (kind, bytes) in orders() {
        let text = rendered(&bytes).unwrap();
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        let mut all = Vec::new();
        scalars(&json, "", &mut all);
        for (place, value) in all {
            // The one version that is read.
            if place == "/v" {
                continue;
            }
            let forms = forms(&place, &value);
            if !forms.is_empty() {
                assert!(
                    forms.iter().any(|form| stands(&text, form)),
                    "{kind}: {place} = {value} is not in\n{text}"
                );
                seen += 1;
            }
            // A flag has no word of its own: the text must change with it.
            if let Value::Bool(flag) = value {
                let changed = flip(&bytes, &place, flag);
                let Some(other) = rendered(&changed) else { continue };
                let strip =
                    |text: &str| text.lines().filter(|line| !line.contains("SHA-256")).collect::<String>();
                assert_ne!(strip(&other), strip(&text), "{kind}: {place} is not seen");
                flipped += 1;
            }
        }
    }
    assert!(seen > 700 && flipped >= 15, "{seen} values, {flipped} flags");
}

/// The order with one flag the other way round. Flags have names of their own in each order.
fn flip(bytes: &[u8], place: &str, flag: bool) -> Vec<u8> {
    let key = place.rsplit('/').next().unwrap();
    let text = std::str::from_utf8(bytes).unwrap();
    let now = format!("\"{key}\":{flag}");
    assert_eq!(text.matches(&now).count(), 1, "{place}");
    text.replacen(&now, &format!("\"{key}\":{}", !flag), 1).into_bytes()
}

/// What people must know before they sign, by the words that say it.
#[test]
fn side_effects_are_said() {
    let orders = orders();
    let text = |kind: &str| rendered(&orders.iter().find(|(k, _)| k == kind).unwrap().1).unwrap();
    for (kind, says) in [
        (
            "snapshot.rollback",
            &["everything since is LOST", "stopped hard", "configuration becomes the snapshot's"][..],
        ),
        (
            "guest.destroy",
            &["DESTROY", "purged from backup jobs", "other volumes with its number stay", "backups stay"],
        ),
        (
            "guest.restore_over",
            &["NEW guest", "another number", "all snapshots", "stays, stopped", "still mean the old"],
        ),
        ("backup.prune", &["delete 2 of the 3 backups", "stays", "if there is any other backup"]),
        ("backup.create", &["remove=0"]),
        ("guest.stop", &["plug were pulled", "LOST"]),
        ("disk.move", &["deleted afterwards"]),
        ("plan.approve", &["does not show the steps"]),
        ("job.run", &["does not show the script"]),
        ("log.reanchor", &["no order signed before this one counts"]),
        ("host.rebind", &["nobody from then on"]),
        ("storage.remove", &["data stays where it is"]),
    ] {
        for say in says {
            assert!(text(kind).contains(say), "{kind} does not say {say:?}:\n{}", text(kind));
        }
    }
}
