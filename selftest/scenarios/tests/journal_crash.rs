//! The nonce journal on the real file system: a process killed before and after every system call that
//! it makes on its files (`security.md` 4.4 D1), and a disk that really is full (4.5). What a loss of
//! power does is shown on a model, in `crates/authz/tests/journal`.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here strace, unshare and the program under test"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use scenarios::journal_writer::{RECORDS, open, order};

const WRITER: &str = env!("CARGO_BIN_EXE_scenarios");
/// Nonces of one life: four segments of two nonces, of which two are forgotten on the way.
const COUNT: u64 = 7;
const FORGOTTEN: u64 = 2;
/// Everything that changes something or makes it durable, and what decides about it.
const CALLS: [&str; 10] = [
    "openat",
    "pwrite64",
    "fdatasync",
    "fsync",
    "ftruncate",
    "fallocate",
    "rename",
    "unlink",
    "flock",
    "statx",
];

#[test]
fn a_process_killed_at_any_system_call_loses_nothing_acknowledged() {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !traced.is_ok_and(|traced| traced.status.success()) {
        println!("skipped: strace is not installed, or may not trace here");
        return;
    }
    let mut kills = BTreeMap::new();
    for (side, inject) in [("after", "signal=SIGKILL"), ("before", "error=EINTR:signal=SIGKILL")] {
        // strace counts the calls of each name by themselves.
        for call in CALLS {
            for when in 1.. {
                let dir = tempfile::tempdir().unwrap();
                let out = killed(dir.path(), call, &format!("inject={call}:{inject}:when={when}"));
                let said = String::from_utf8(out.stdout).unwrap();
                check(dir.path(), &said, &format!("killed {side} {call} {when}"));
                if out.status.success() {
                    assert!(said.ends_with("done\n") && when > 1, "{call} is never called: {said}");
                    break;
                }
                assert!(!said.contains("done"), "{said}");
                *kills.entry(side).or_insert(0) += 1;
            }
        }
    }
    println!("kill: {kills:?}, nothing acknowledged was lost, every store opened");
    // Each burn alone makes five calls.
    assert!(kills.values().all(|kills| *kills >= 50), "{kills:?}");
}

/// Runs the writer with something injected into the calls on its files, and on no others.
fn killed(directory: &Path, call: &str, inject: &str) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e"]).arg(format!("trace={call}")).args(["-e", inject]);
    let segments = (1..=COUNT).map(|number| format!("nonces-{number:06}.seg"));
    let others = ["", "nonces.lock", "nonces.tomb", ".nonces.tomb.new"].map(String::from);
    for name in segments.chain(others) {
        let path = directory.join(name);
        // Names end without a slash, as the kernel tells them.
        strace.arg("-P").arg(path.components().as_path());
    }
    strace.args([WRITER, "journal-writer"]).arg(directory).args(["--count", &COUNT.to_string()]);
    strace.output().unwrap()
}

fn check(directory: &Path, said: &str, what: &str) {
    let mut journal = open(directory, RECORDS).unwrap_or_else(|error| panic!("{what}: {error}"));
    let burned: Vec<u64> =
        said.lines().filter_map(|line| line.strip_prefix("burned ")?.parse().ok()).collect();
    let forgettable = if said.contains("forgetting") { FORGOTTEN } else { 0 };
    for number in burned.iter().filter(|number| **number > forgettable) {
        assert!(journal.find(&order(*number).0).is_some(), "{what}: {number} is lost");
    }
    assert!(journal.find(&order(burned.len() as u64 + 2).0).is_none(), "{what}: never tried");
    let (nonce, op) = order(1000);
    journal.burn(&nonce, &op, 1).unwrap();
    drop(journal);
    assert!(open(directory, RECORDS).unwrap().find(&nonce).is_some(), "{what}");
}

#[test]
fn a_full_disk_refuses_while_the_nonce_is_still_free() {
    let dir = tempfile::tempdir().unwrap();
    // The mount is this process's alone and goes with it.
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1\" || exit 77; exec \"$2\" journal-writer \"$1\"";
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(WRITER)
        .output();
    let out = match out {
        Ok(out)
            if out.status.success()
                || out.status.code() == Some(1) && !out.stderr.starts_with(b"unshare") =>
        {
            out
        }
        other => {
            println!("skipped: a file system of its own needs root and unshare ({other:?})");
            return;
        }
    };
    let said = String::from_utf8(out.stdout).unwrap();
    println!("{said}");
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("nothing was burned") && said.contains("went on with"), "{said}");
}
