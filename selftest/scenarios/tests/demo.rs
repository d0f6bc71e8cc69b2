//! The demo as a stranger runs it: it ends by itself or when told to, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use scenarios::process::{DEADLINE, Process, run};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const DEMO: &str = env!("CARGO_BIN_EXE_scenarios");

/// Command lines of running processes that mention the directory.
fn running_in(directory: &Path) -> Vec<String> {
    let directory = directory.display().to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(&directory))
        .collect()
}

/// No process and no file is left. What was killed may need a moment to be gone.
async fn nothing_left(directory: &TempDir) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let running = running_in(directory.path());
        if running.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "still running: {running:#?}");
        sleep(Duration::from_millis(50)).await;
    }
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "still there: {left:?}");
}

#[tokio::test]
async fn once_it_plays_as_expected_and_cleans_up() {
    let directory = tempfile::tempdir().unwrap();
    let tmp = directory.path().display().to_string();
    let env = [("TMPDIR", tmp.as_str())];
    let out = run(Path::new(DEMO), &["demo", "--once"], &env, directory.path(), b"").await.unwrap();
    assert_eq!(out.code, Some(0), "{}", out.text());
    assert!(out.stdout.contains(&format!("everything lives in {tmp}/writ-")), "{}", out.stdout);
    assert!(!out.stdout.contains("NOT OK"), "{}", out.stdout);
    let last = out.stdout.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    let steps = last.strip_prefix("demo: ").and_then(|rest| rest.strip_suffix(" steps, all as expected"));
    let steps: usize = steps.and_then(|steps| steps.parse().ok()).unwrap_or_default();
    assert!(steps >= 20, "the last line counts the steps: {last:?}");
    nothing_left(&directory).await;
}

/// What the demo prints to try does work, as printed and in that order.
#[tokio::test]
async fn the_commands_to_try_work() {
    let directory = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let tmp = directory.path().display().to_string();
    let mut demo =
        Process::start("demo", Path::new(DEMO), &["demo"], &[("TMPDIR", &tmp)], logs.path()).unwrap();
    demo.line_with("Ctrl-C ends it").await.unwrap();
    let output = demo.output();
    let printed = output.split_once("In another terminal:").unwrap().1;
    let commands: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    let script = format!("set -eu\n{}\n", commands.join("\n"));
    let out = run(Path::new("sh"), &["-c", &script], &[], logs.path(), b"").await.unwrap();
    assert_eq!(out.code, Some(0), "{script}\n{}", out.text());
    assert!(out.stdout.contains("done: the guest stands at snapshot before-update"), "{}", out.stdout);
    demo.signal(Signal::TERM);
    demo.ended().await.unwrap();
    nothing_left(&directory).await;
}

/// Starts the demo, waits for each of these lines, sends the signal.
async fn stopped(after: &[&str], signal: Signal) {
    let directory = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let tmp = directory.path().display().to_string();
    let mut demo =
        Process::start("demo", Path::new(DEMO), &["demo"], &[("TMPDIR", &tmp)], logs.path()).unwrap();
    for line in after {
        demo.line_with(line).await.unwrap();
    }
    assert!(!running_in(directory.path()).is_empty(), "the check for processes can fail");
    demo.signal(signal);
    let start = Instant::now();
    demo.ended().await.unwrap();
    assert!(start.elapsed() < DEADLINE / 4, "it ended after {:?}", start.elapsed());
    let output = demo.output();
    assert!(output.contains("demo: stopped") && !output.contains("panicked"), "{output}");
    nothing_left(&directory).await;
}

const MILESTONES: [&str; 4] = ["The first HostReport", "One signed order", "A stolen hub", "Ctrl-C ends it"];

#[tokio::test]
async fn sigint_ends_the_demo_that_stays_up() {
    stopped(&MILESTONES, Signal::INT).await;
}

#[tokio::test]
async fn sigterm_ends_the_demo_that_stays_up() {
    stopped(&MILESTONES, Signal::TERM).await;
}

#[tokio::test]
async fn sigterm_in_the_middle_leaves_nothing_either() {
    stopped(&MILESTONES[..2], Signal::TERM).await;
}
