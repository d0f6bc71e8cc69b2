//! `scenarios recordings`: the curated exchanges of the repository always, all recordings where they are.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here the program under test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use scenarios::recordings::read;

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    files
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn curated_exchanges_are_what_a_person_said() {
    let files = files(&repository("fixtures/recordings"));
    assert_eq!(files.len(), 2, "one file for each release");
    let (text, counts) = read(&files).unwrap();
    assert!(counts.is_good() && counts.exchanges > 200, "{text}");
    // Not all of them are of the easy kind.
    for word in ["Locked", "Permission", "NotFound", "NodeUnreachable", "NoSuchMethod"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn all_recordings_are_understood() {
    let files = files(&repository("../../../shared/pve"));
    if files.is_empty() {
        println!("the recordings are not here: only the curated ones were read");
        return;
    }
    let (text, counts) = read(&files).unwrap();
    assert!(counts.is_good(), "{text}");
}

/// As a person calls it.
#[test]
fn the_command_ends_with_the_sum() {
    let program = env!("CARGO_BIN_EXE_scenarios");
    let curated = files(&repository("fixtures/recordings"));
    let out = Command::new(program).arg("recordings").args(&curated).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or_default();
    assert!(out.status.success() && last.ends_with(" understood, 0 unknown, 0 wrong"), "{text}");
    for (args, code) in [(&["recordings"][..], 2), (&["recordings", "/nonexistent.jsonl"], 2)] {
        assert_eq!(Command::new(program).args(args).output().unwrap().status.code(), Some(code), "{args:?}");
    }
}
