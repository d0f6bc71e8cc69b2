//! `writ-agent --selftest=read` and `=task` as a person runs them on a host where nothing is installed yet:
//! an address, a pin and a token, against the simulated Proxmox VE. The simulator counts what was changed.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::time::Duration;

use rustix::process::Signal;
use scenarios::process::{DEADLINE, Output, Process};
use scenarios::stand::{Stand, expect};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A simulated Proxmox VE and nothing else.
async fn stand() -> Stand {
    let mut stand = Stand::new().await.unwrap();
    stand.start_sim().await.unwrap();
    stand
}

fn pin(stand: &Stand, kind: &str) -> String {
    let pins = stand.read("pve/pins").unwrap();
    pins.lines().find(|line| line.starts_with(kind)).unwrap().to_owned()
}

/// The arguments up to the mode's own.
fn args(stand: &Stand, mode: &str, token: &str, more: &[&str]) -> Vec<String> {
    let (mode, api, pin) = (format!("--selftest={mode}"), stand.pve_url(), pin(stand, "spki:"));
    let token = stand.text(&format!("pve/{token}.token"));
    let first = [&mode, "--api", &api, "--pin", &pin, "--token-file", &token];
    first.into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
}

async fn run(stand: &Stand, args: &[String]) -> Output {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    stand.run("writ-agent", &args).await.unwrap()
}

async fn task(stand: &Stand, more: &[&str]) -> Output {
    run(stand, &args(stand, "task", "act", more)).await
}

/// Starts a test in the background, and waits until it has changed something.
async fn begun(stand: &Stand, name: &str, vmid: &str) -> Process {
    let args = args(stand, "task", "act", &["--vmid", vmid]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let process = Process::start(name, &stand.bin("writ-agent"), &args, &[], &stand.at("logs")).unwrap();
    let end = Instant::now() + DEADLINE;
    while stand.mutations("").await.unwrap() == 0 {
        assert!(Instant::now() < end, "it did not begin: {}", process.output());
        sleep(Duration::from_millis(20)).await;
    }
    process
}

fn left(out: &Output) -> &str {
    let at =
        out.stdout.find(" left ").unwrap_or_else(|| panic!("nothing about what is left: {}", out.text()));
    &out.stdout[at..]
}

#[tokio::test]
async fn a_token_that_lacks_rights_is_told_what_and_how() {
    let mut stand = stand().await;
    let out = run(&stand, &args(&stand, "read", "report", &["--role", "act", "--node", "pve1"])).await;
    assert_eq!(out.code, Some(1), "{}", out.text());
    for says in [
        "fail permissions",
        "VM.Snapshot on /vms",
        "SDN.Use on /sdn",
        "pveum acl modify / --tokens 'writ@pve!report' --roles WritAgent",
        "ok   config",
    ] {
        assert!(out.stdout.contains(says), "{says}: {}", out.stdout);
    }
    let out = run(&stand, &args(&stand, "read", "act", &["--json"])).await;
    expect("the acting token", &out).unwrap();
    let found: Value = serde_json::from_str(&out.stdout).unwrap();
    let permissions = found["checks"].as_array().unwrap().iter().find(|check| check["name"] == "permissions");
    assert!(permissions.unwrap()["detail"].as_str().unwrap().contains("all 16"), "{found}");
    assert_eq!(stand.mutations("").await.unwrap(), 0);
    stand.stop().await;
}

#[tokio::test]
async fn a_wrong_pin_a_wrong_token_and_no_pin_are_told_apart() {
    let mut stand = stand().await;
    let (api, token, good) = (stand.pve_url(), stand.text("pve/report.token"), pin(&stand, "leaf:"));
    let wrong = format!("leaf:{}", "0".repeat(64));
    let read = async |more: &[&str]| {
        let args: Vec<&str> =
            ["--selftest=read", "--api", &api].into_iter().chain(more.iter().copied()).collect();
        stand.run("writ-agent", &args).await.unwrap()
    };
    let out = read(&["--pin", &wrong, "--token-file", &token]).await;
    assert_eq!(out.code, Some(1));
    assert!(out.stdout.contains("fail pin") && out.stdout.contains(&good), "both are shown: {}", out.stdout);
    let out = read(&["--pin", &wrong, "--pin", &good, "--token-file", &token]).await;
    expect("one of two pins", &out).unwrap();
    assert!(out.stdout.contains("not shown: leaf:0000000000000000"), "{}", out.stdout);
    let out = read(&["--token-file", &token]).await;
    assert_eq!(out.code, Some(2));
    assert!(out.stderr.contains("openssl x509 -in /etc/pve/local/"), "{}", out.stderr);

    // A secret that was mistyped: one slow 401, one line, no further question.
    let secret = stand.read("pve/report.token").unwrap().trim().to_owned();
    let mistyped = format!("{}x", &secret[..secret.len() - 1]);
    let file = stand.text("mistyped.token");
    let made = stand.tool("install", &["-m", "600", "/dev/null", &file]).await.unwrap();
    expect("install", &made).unwrap();
    stand.write("mistyped.token", &mistyped).unwrap();
    let out = read(&["--pin", &good, "--token-file", &file]).await;
    assert_eq!(out.code, Some(1));
    assert!(out.stdout.contains("fail token"), "{}", out.stdout);
    assert!(!out.text().contains(mistyped.split('=').nth(1).unwrap()), "no secret is shown: {}", out.text());
    stand.stop().await;
}

#[tokio::test]
async fn a_snapshot_there_and_back() {
    let mut stand = stand().await;
    let out = task(&stand, &["--vmid", "101"]).await;
    expect("a stopped VM", &out).unwrap();
    assert!(out.stdout.ends_with("nothing on VM 101 (db) on pve1\n"), "{}", out.stdout);
    let out = task(&stand, &["--vmid", "201", "--json"]).await;
    expect("a stopped container", &out).unwrap();
    let found: Value = serde_json::from_str(&out.stdout).unwrap();
    assert!(found["selftest"] == "task" && found["ok"] == true && found["node"] == "pve1", "{found}");
    assert_eq!(stand.mutations("").await.unwrap(), 6);
    for vmid in ["100", "200"] {
        let out = task(&stand, &["--vmid", vmid, "--allow-stop"]).await;
        expect("a running guest", &out).unwrap();
        assert!(out.stdout.contains("ok   running       the guest runs again"), "{}", out.stdout);
    }
    assert_eq!(stand.mutations("").await.unwrap(), 14);
    assert_eq!(stand.mutations("/status/start").await.unwrap(), 2);
    stand.stop().await;
}

/// The other release, larger, slower, one node of a cluster with another that is off: nothing of that is a
/// reason to fail.
#[tokio::test]
async fn another_release_and_another_size() {
    let mut stand = Stand::new().await.unwrap();
    let more = ["--release", "8", "--guests", "60", "--call-delay-ms", "2", "--peer", "pve2=offline"];
    stand.start_sim_with(&more).await.unwrap();
    for (token, role) in [("report", "report"), ("act", "act")] {
        let out = run(&stand, &args(&stand, "read", token, &["--role", role])).await;
        expect(role, &out).unwrap();
        assert!(out.stdout.contains("is Proxmox VE 8.4.14"), "{}", out.stdout);
    }
    assert_eq!(stand.mutations("").await.unwrap(), 0);
    for vmid in ["101", "201"] {
        let out = task(&stand, &["--vmid", vmid]).await;
        expect("there and back", &out).unwrap();
        assert!(out.stdout.contains("left          nothing on "), "{}", out.stdout);
    }
    assert_eq!(stand.mutations("").await.unwrap(), 6);
    stand.stop().await;
}

#[tokio::test]
async fn what_it_refuses_it_does_not_touch() {
    let mut stand = stand().await;
    for (more, says) in [
        (&["--vmid", "100"][..], "--allow-stop"),
        (&["--vmid", "999"], "there is no guest 999"),
        (&["--vmid", "101", "--node", "pve2"], "is on pve1, not on pve2"),
        (&["--vmid", "99"], "--vmid"),
        (&[], "needs --vmid"),
    ] {
        let out = task(&stand, more).await;
        assert_eq!(out.code, Some(2), "{}", out.text());
        assert!(out.text().contains(says), "{says}: {}", out.text());
    }
    let reader = run(&stand, &args(&stand, "task", "report", &["--vmid", "101"])).await;
    assert_eq!(reader.code, Some(2));
    assert!(reader.stdout.contains("lacks VM.Snapshot"), "{}", reader.stdout);
    let (api, pin) = (stand.pve_url(), pin(&stand, "spki:"));
    let out =
        stand.run("writ-agent", &["--selftest=task", "--vmid", "101", "--api", &api, "--pin", &pin]).await;
    let out = out.unwrap();
    assert_eq!(out.code, Some(2));
    assert!(out.stderr.contains("needs --token-file"), "{}", out.stderr);
    assert_eq!(stand.mutations("").await.unwrap(), 0);
    stand.stop().await;
}

/// A rollback takes the changes that wait for a start with it, whether the guest runs or not.
#[tokio::test]
async fn changes_that_wait_are_not_lost() {
    let mut stand = stand().await;
    let waiting =
        r#"{"data":[{"key":"memory","value":"2048","pending":"4096"},{"key":"name","value":"db"}]}"#;
    for (fault, says) in [
        (json!({"fault": "status", "status": 200, "body": waiting}), "would lose them: memory\n"),
        (json!({"fault": "error", "text": "got timeout"}), "cannot be read, and a rollback would lose them"),
    ] {
        let mut fault = fault;
        fault["contains"] = "/qemu/101/pending".into();
        stand.sim_post("faults", fault).await.unwrap();
        let out = task(&stand, &["--vmid", "101"]).await;
        assert_eq!(out.code, Some(2), "{}", out.text());
        assert!(out.stdout.contains("fail pending") && out.stdout.contains(says), "{}", out.stdout);
    }
    assert_eq!(stand.mutations("").await.unwrap(), 0);
    stand.stop().await;
}

/// The guest is destroyed and its number given anew just before the last look.
#[tokio::test]
async fn a_number_that_was_given_anew_is_not_touched() {
    let mut stand = stand().await;
    stand
        .sim_post("faults", json!({"fault": "replace_guest", "method": "POST", "contains": "/101/snapshot"}))
        .await
        .unwrap();
    let out = task(&stand, &["--vmid", "101"]).await;
    assert_eq!(out.code, Some(1), "{}", out.text());
    assert!(left(&out).contains("another guest has this number now (its uuid was"), "{}", out.stdout);
    assert!(!out.stdout.contains("delsnapshot"), "{}", out.stdout);
    assert_eq!(stand.mutations("").await.unwrap(), 1, "{}", out.stdout);
    stand.stop().await;
}

#[tokio::test]
async fn a_refusal_is_not_taken_for_an_absent_part() {
    let mut stand = stand().await;
    let fault = json!({"fault": "error", "text": "got timeout", "contains": "/disks/list"});
    stand.sim_post("faults", fault).await.unwrap();
    let out = run(&stand, &args(&stand, "read", "report", &[])).await;
    expect("a warning is no failure", &out).unwrap();
    let line = out.stdout.lines().find(|line| line.contains("got timeout")).unwrap_or_default();
    assert!(line.starts_with("warn disks ") && !line.contains("not available"), "{}", out.stdout);
    stand.stop().await;
}

#[tokio::test]
async fn in_a_cluster_the_node_is_found_by_its_certificate_or_asked_for_once() {
    let mut stand = Stand::new().await.unwrap();
    stand.start_sim_with(&["--peer", "pve2"]).await.unwrap();
    let out = run(&stand, &args(&stand, "read", "report", &["--node", "pve9"])).await;
    assert_eq!(out.code, Some(1), "{}", out.text());
    let failed: Vec<&str> = out.stdout.lines().filter(|line| line.starts_with("fail ")).collect();
    assert!(failed.len() == 1 && failed[0].contains("no node pve9; there is pve1, pve2"), "{}", out.stdout);
    assert!(out.stdout.contains("--node NAME"), "{}", out.stdout);
    let refused = json!({
        "fault": "status", "status": 403, "reason": "Permission check failed (/, Sys.Audit)",
        "contains": "/cluster/status", "times": 0,
    });
    stand.sim_post("faults", refused).await.unwrap();
    let out = run(&stand, &args(&stand, "read", "report", &[])).await;
    assert_eq!(out.code, Some(1), "{}", out.text());
    assert!(out.stdout.contains("pve1, known by its certificate only"), "{}", out.stdout);
    assert_eq!(out.stdout.matches("--tokens").count(), 1, "{}", out.stdout);
    stand.stop().await;
}

#[tokio::test]
async fn a_certificate_swapped_on_the_way_is_said_once() {
    let mut stand = stand().await;
    let swap = json!({"fault": "certificate", "new": "new_key", "contains": "/access/permissions"});
    stand.sim_post("faults", swap).await.unwrap();
    let close = json!({"fault": "reset", "contains": "/cluster/status"});
    stand.sim_post("faults", close).await.unwrap();
    let out = run(&stand, &args(&stand, "read", "report", &[])).await;
    assert_eq!(out.code, Some(1), "{}", out.text());
    assert_eq!(out.stdout.matches("the server presented").count(), 1, "{}", out.stdout);
    assert!(!out.stdout.contains("CONFIG") && !out.stdout.contains("sed -i"), "{}", out.stdout);
    stand.stop().await;
}

#[tokio::test]
async fn failures_say_what_is_left_and_how_to_remove_it() {
    let mut stand = stand().await;
    stand.sim_post("fail-next", json!({"task": "qmsnapshot", "text": "no space"})).await.unwrap();
    let out = task(&stand, &["--vmid", "101"]).await;
    assert_eq!(out.code, Some(1));
    assert!(out.stdout.contains("the task failed: no space"), "{}", out.stdout);
    assert!(left(&out).contains("nothing on VM 101"), "{}", out.stdout);

    stand.sim_post("fail-next", json!({"task": "vzrollback", "text": "half-way"})).await.unwrap();
    let out = task(&stand, &["--vmid", "201"]).await;
    assert_eq!(out.code, Some(1));
    let text = left(&out);
    let (again, delete) = (text.find("pct rollback 201 writ-selftest-"), text.find("pct delsnapshot 201 "));
    assert!(again.is_some() && again < delete, "{}", out.stdout);
    assert!(!text.contains("--force") && !text.contains("unlock"), "{}", out.stdout);
    assert!(text.contains("pvesh delete /nodes/pve1/lxc/201/snapshot/writ-selftest-"), "{}", out.stdout);
    assert_eq!(stand.mutations("").await.unwrap(), 3, "nothing was sent after the rollback");

    // What one left, the next one finds.
    let out = task(&stand, &["--vmid", "201"]).await;
    assert_eq!(out.code, Some(2));
    assert!(out.stdout.contains("another selftest is at work, or left it"), "{}", out.stdout);
    stand
        .sim_post("fail-next", json!({"task": "qmsnapshot", "text": "killed", "leave_lock": true}))
        .await
        .unwrap();
    let out = task(&stand, &["--vmid", "102"]).await;
    assert!(out.code == Some(1) && left(&out).contains("qm unlock 102"), "{}", out.stdout);
    let out = task(&stand, &["--vmid", "102"]).await;
    assert!(out.code == Some(2) && out.stdout.contains("it is locked (snapshot)"), "{}", out.stdout);
    assert_eq!(stand.mutations("").await.unwrap(), 4);
    stand.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_looked_for_and_nothing_is_sent_twice() {
    let mut stand = stand().await;
    for (method, part) in [("POST", "/snapshot"), ("POST", "/rollback"), ("DELETE", "/snapshot/")] {
        let before = stand.mutations("").await.unwrap();
        stand.sim_post("drop-answer-next", json!({"method": method, "contains": part})).await.unwrap();
        let out = task(&stand, &["--vmid", "101"]).await;
        expect("with a lost answer", &out).unwrap();
        assert!(out.stdout.contains("the answer was lost, its task was found: UPID:pve1:"), "{}", out.stdout);
        assert_eq!(stand.mutations("").await.unwrap() - before, 3, "{part}");
    }
    stand.stop().await;
}

#[tokio::test]
async fn a_second_run_at_once_is_refused() {
    let mut stand = stand().await;
    stand.sim_post("task-duration", json!({"ms": 3000})).await.unwrap();
    let mut first = begun(&stand, "first", "101").await;
    let second = task(&stand, &["--vmid", "101"]).await;
    assert_eq!(second.code, Some(2), "{}", second.text());
    assert!(second.stdout.contains("is running on this machine"), "{}", second.stdout);
    stand.sim_post("task-duration", json!({"ms": 50})).await.unwrap();
    assert_eq!(first.ended().await.unwrap(), Some(0), "{}", first.output());
    assert_eq!(stand.mutations("").await.unwrap(), 3, "the first one's");
    stand.stop().await;
}

#[tokio::test]
async fn an_interruption_says_what_is_left() {
    let mut stand = stand().await;
    stand.sim_post("task-duration", json!({"ms": 600_000})).await.unwrap();
    let mut process = begun(&stand, "interrupted", "101").await;
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.unwrap(), Some(1), "{}", process.output());
    let said = process.output();
    assert!(said.contains("fail interrupted   while taking the snapshot"), "{said}");
    assert!(said.contains("the snapshot writ-selftest-") && said.contains("qm delsnapshot 101"), "{said}");
    assert!(said.contains("wait until UPID:pve1:") && said.contains(" has ended\n"), "{said}");
    assert!(!said.contains("unlock") && !said.contains("--force"), "its task still runs: {said}");
    assert_eq!(stand.mutations("").await.unwrap(), 1);
    stand.stop().await;
}
