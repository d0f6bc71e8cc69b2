//! Each benchmark runs to its end and prints what it should, with the smallest numbers. Nothing here judges
//! a time.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here the program under test"
)]

use std::process::Command;

/// Runs it; gives what it printed.
fn bench(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_bench")).args(args).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{args:?}: {text}{errors}");
    text.into_owned()
}

/// How many rows begin like this, each with three numbers above zero.
fn rows(text: &str, name: &str) -> usize {
    let rows = text.lines().filter(|line| line.trim().starts_with(name)).map(|line| {
        let numbers = line.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
        let good = numbers.filter(|number| number.is_finite() && *number > 0.0).count();
        assert!(good >= 3, "{line}");
    });
    rows.count()
}

#[test]
fn verify() {
    let text = bench(&["--rounds", "1", "--orders", "10"]);
    assert!(text.contains("writ:") && text.contains("limit:"), "{text}");
}

#[test]
fn commit() {
    let text = bench(&["commit", "--rounds", "1", "--commits", "5"]);
    for name in ["limit: ", "writ: "] {
        assert_eq!(rows(&text, name), 1, "{name}: {text}");
    }
}

#[test]
fn relay() {
    let text = bench(&["relay", "--rounds", "1", "--mib", "1", "--echoes", "3", "--streams", "2"]);
    for name in ["floor: ", "floor 2: ", "writ: hub and agent", "writ: ssh through", "peer: ssh straight"] {
        assert!(rows(&text, name) >= 10, "{name}: {text}");
    }
}

#[test]
fn job() {
    let text = bench(&["job", "--rounds", "1", "--jobs", "2", "--in-flight", "2"]);
    for (name, count) in [("limit: ", 2), ("floor: ", 5), ("durable floor: ", 5), ("writ: ", 5)] {
        assert_eq!(rows(&text, name), count, "{name}: {text}");
    }
}

#[test]
fn wait() {
    let text = bench(&["wait", "--rounds", "1", "--lengths", "60"]);
    for name in ["limit: ", "writ: wait_task"] {
        assert!(rows(&text, name) >= 1, "{name}: {text}");
    }
}

#[test]
fn collect() {
    let text = bench(&["collect", "--rounds", "1", "--guests", "30", "--delays", "1"]);
    for name in ["limit: ", "bare: ", "writ: "] {
        assert_eq!(rows(&text, name), 1, "{name}: {text}");
    }
    assert!(text.contains(" calls, "), "{text}");
}
