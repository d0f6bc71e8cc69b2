//! Mistakes, through the real binaries: exit 1, one sentence that names cause and remedy, and nothing
//! half-done.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;

use scenarios::process::{Output, run};
use scenarios::stand::{Stand, expect};

/// A line of tracing's, which is no part of the sentence.
fn is_log(line: &str) -> bool {
    line.len() > 20 && line.starts_with("20") && line.as_bytes()[10] == b'T'
}

/// Exit 1, nothing on standard output, and one sentence on standard error with all of these words.
fn refused(what: &str, out: &Output, says: &[&str]) {
    let shown = format!("{what}\n  exit {:?}\n  out {:?}\n  err {:?}", out.code, out.stdout, out.stderr);
    assert_eq!(out.code, Some(1), "{shown}");
    assert_eq!(out.stdout, "", "{shown}");
    let lines: Vec<&str> = out.stderr.lines().filter(|line| !is_log(line)).collect();
    assert_eq!(lines.len(), 1, "one line: {shown}");
    assert!(lines[0].starts_with("writ") || lines[0].starts_with("pve-sim"), "says who speaks: {shown}");
    for word in says {
        assert!(lines[0].contains(word), "does not say {word:?}: {shown}");
    }
    assert!(!lines[0].contains("panicked"), "{shown}");
}

/// Exit 1, and a check that failed with all of these words, those of its remedy below it included.
fn check_failed(what: &str, out: &Output, says: &[&str]) {
    let shown = format!("{what}\n  exit {:?}\n  out {}\n  err {:?}", out.code, out.stdout, out.stderr);
    assert_eq!(out.code, Some(1), "{shown}");
    let mut checks: Vec<String> = Vec::new();
    for line in out.stdout.lines() {
        match checks.last_mut() {
            Some(check) if line.starts_with(' ') => check.push_str(line),
            _ => checks.push(line.to_owned()),
        }
    }
    let failed =
        checks.iter().any(|check| check.starts_with("fail") && says.iter().all(|w| check.contains(w)));
    assert!(failed, "no failed check says {says:?}: {shown}");
}

fn chmod(stand: &Stand, path: &str, mode: u32) {
    std::fs::set_permissions(stand.at(path), std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Files below a directory of the stand, hidden ones too.
fn files(stand: &Stand, directory: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(stand.at(directory))
        .map(|entries| entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Everything that an unenrolled host and a hub need; only the simulator runs.
async fn prepared() -> Stand {
    let mut stand = Stand::new().await.unwrap();
    stand.start_sim().await.unwrap();
    stand.init_hub().await.unwrap();
    stand.make_policy().await.unwrap();
    stand.write_host_configs().unwrap();
    stand
}

/// A copy of a configuration with one thing changed.
fn changed(stand: &Stand, file: &str, from: &str, to: &str) -> String {
    let text = stand.read(file).unwrap();
    assert!(text.contains(from), "{file} has {from}");
    let (folder, name) = file.rsplit_once('/').map_or((String::new(), file), |(f, n)| (format!("{f}/"), n));
    let copy = format!("{folder}changed-{name}");
    stand.write(&copy, &text.replacen(from, to, 1)).unwrap();
    stand.text(&copy)
}

fn quoted(stand: &Stand, name: &str) -> String {
    format!("\"{}\"", stand.text(name))
}

#[tokio::test]
async fn unknown_keys_name_the_nearest_one() {
    let stand = prepared().await;
    for (binary, command, file, from, to, nearest) in [
        ("writ-warden", "serve", "warden.toml", "allowed_uids", "alowed_uids", "allowed_uids"),
        ("writ-warden", "serve", "warden.toml", "pins", "pin", "pins"),
        ("writ-agent", "run", "agent.toml", "warden_socket", "wardn_socket", "warden_socket"),
        ("writ-agent", "run", "agent.toml", "token_file", "tokenfile", "token_file"),
        ("writ-hub", "serve", "hub/hub.toml", "tls_cert", "tls_crt", "tls_cert"),
    ] {
        let path = changed(&stand, file, from, to);
        let out = stand.run(binary, &[command, "--config", &path]).await.unwrap();
        let remedy = format!("did you mean `{nearest}`");
        refused(&format!("{binary} with {to}"), &out, &[&path, "line", "unknown key", &remedy]);
    }
    for gone in ["warden", "agent", "warden.sock", "hub/state/hub.sqlite"] {
        assert!(!stand.at(gone).exists(), "{gone} was made although nothing could be read");
    }
    for (binary, command) in [("writ-warden", "serve"), ("writ-agent", "run"), ("writ-hub", "serve")] {
        let out = stand.run(binary, &[command, "--config", &stand.text("none.toml")]).await.unwrap();
        refused(binary, &out, &["none.toml", "does not exist", "correct the path"]);
    }
}

#[tokio::test]
async fn the_nearest_key_in_hosts_toml_and_nothing_is_sent() {
    let stand = Stand::enrolled().await.unwrap();
    let text = "[[host.web1.guest]]\nvmid = 101\nname = \"db\"\nrunnning = true\n";
    stand.write_work("hosts.toml", text.as_bytes()).unwrap();
    let out = stand.writ(&["apply", "hosts.toml"]).await.unwrap();
    refused("hosts.toml", &out, &["hosts.toml, line 4", "unknown key `runnning`", "did you mean `running`"]);
    let host = stand.writ(&["host", "web1"]).await.unwrap();
    assert!(host.stdout.contains("Desired state: none"), "{}", host.text());
    // Names are checked before anything is sent, too.
    let text =
        "[[host.web1.guest]]\nvmid = 101\nname = \"db\"\n[[host.web2.guest]]\nvmid = 101\nname = \"db\"\n";
    stand.write_work("hosts.toml", text.as_bytes()).unwrap();
    let out = stand.writ(&["apply", "hosts.toml"]).await.unwrap();
    refused("an unknown host", &out, &["hosts.toml, line 4", "web2", "nothing was sent"]);
    let host = stand.writ(&["host", "web1"]).await.unwrap();
    assert!(host.stdout.contains("Desired state: none"), "{}", host.text());

    // Guests and snapshots that are not there: no file is written.
    let out = stand.writ(&["op", "snapshot.rollback", "web1", "999", "before"]).await.unwrap();
    refused("an unknown guest", &out, &["no guest 999", "writ host web1"]);
    let out = stand.writ(&["op", "snapshot.rollback", "web1", "101", "before-upgrad"]).await.unwrap();
    refused("an unknown snapshot", &out, &["no snapshot 'before-upgrad'", "before-upgrade"]);
    let out = stand.writ(&["op", "guest.start", "web2", "101"]).await.unwrap();
    refused("an unknown host", &out, &["web2", "did you mean 'web1'"]);
    assert!(!stand.at("work/order.json").exists(), "no order was written");

    // Bytes that are no order.
    stand.write_work("bad.json", b"{\"v\":1,").unwrap();
    let out = stand.writ(&["show", "bad.json"]).await.unwrap();
    refused("writ show", &out, &["bad.json is not an order", "writ op"]);
    let out = stand.writ(&["sign", "bad.json"]).await.unwrap();
    refused("writ sign", &out, &["bad.json is not an order"]);
    let out = stand.writ(&["submit", "bad.json"]).await.unwrap();
    refused("writ submit", &out, &["bad.json is not an order", "writ op"]);
    assert_eq!(files(&stand, "operator/orders"), [""; 0], "nothing was kept of it");
    // The host itself says no to them when they are sent as they are.
    stand.ssh_sign("alice", "bad.json").await.unwrap();
    let out = stand.writ(&["submit", "bad.json", "--raw", "web1", "--timeout", "20s"]).await.unwrap();
    assert_eq!(out.code, Some(1), "{}", out.text());
    assert!(out.stdout.contains("refused (") && out.stdout.contains("receipt verified"), "{}", out.text());
    // An order without a signature, and one whose file is already there.
    stand.rollback_order("order.json").await.unwrap();
    std::fs::remove_file(stand.at("work/order.json.sig")).unwrap();
    let out = stand.writ(&["submit", "order.json"]).await.unwrap();
    refused("an unsigned order", &out, &["is not signed", "writ sign order.json"]);
    let before = stand.read_work("order.json").unwrap();
    let out = stand.writ(&["op", "guest.start", "web1", "101"]).await.unwrap();
    refused("an order file in the way", &out, &["order.json exists already", "--force"]);
    assert_eq!(stand.read_work("order.json").unwrap(), before);
    assert_eq!(stand.mutations("").await.unwrap(), 0, "Proxmox was not asked to change anything");
}

#[tokio::test]
async fn secrets_that_others_can_read_are_not_used() {
    let mut stand = Stand::enrolled().await.unwrap();
    for process in [stand.agent.take(), stand.warden.take(), stand.hub.take()].into_iter().flatten() {
        process.stop().await;
    }
    let (warden, agent, hub) =
        (stand.text("warden.toml"), stand.text("agent.toml"), stand.text("hub/hub.toml"));
    let cases: &[(&str, u32, &str, &[&str])] = &[
        ("pve/act.token", 0o644, "writ-warden", &["serve", "--config", &warden]),
        ("pve/report.token", 0o644, "writ-agent", &["run", "--config", &agent]),
        ("warden/host.key", 0o644, "writ-warden", &["serve", "--config", &warden]),
        ("warden/host.key", 0o640, "writ-warden", &["policy", "--config", &warden]),
        ("agent/device.key", 0o604, "writ-agent", &["run", "--config", &agent]),
        ("hub/tls.key", 0o644, "writ-hub", &["serve", "--config", &hub]),
        ("hub/state/hub.sqlite", 0o644, "writ-hub", &["serve", "--config", &hub]),
        ("operator/token", 0o644, "writ", &["hosts"]),
        ("keys/alice", 0o644, "writ", &["login"]),
        ("warden", 0o755, "writ-warden", &["serve", "--config", &warden]),
        ("agent", 0o755, "writ-agent", &["run", "--config", &agent]),
        ("hub/state", 0o755, "writ-hub", &["serve", "--config", &hub]),
        ("operator", 0o755, "writ", &["hosts"]),
    ];
    for (path, mode, binary, args) in cases {
        let good = std::fs::metadata(stand.at(path)).unwrap().mode() & 0o7777;
        chmod(&stand, path, *mode);
        let out = match *binary {
            "writ" => stand.writ(args).await.unwrap(),
            binary => stand.run(binary, args).await.unwrap(),
        };
        let remedy = if stand.at(path).is_dir() { "chmod 700" } else { "chmod 600" };
        let full = stand.text(path);
        refused(
            &format!("{binary} {args:?}, {path} {mode:o}"),
            &out,
            &[&full, &format!("{mode:04o}"), remedy],
        );
        let now = std::fs::metadata(stand.at(path)).unwrap().mode() & 0o7777;
        assert_eq!(now, *mode, "{path}: its mode is not quietly corrected");
        chmod(&stand, path, good);
    }
    // And as they were, everything starts again.
    stand.start_hub().await.unwrap();
    stand.start_warden(&[]).await.unwrap();
    stand.start_agent().await.unwrap();
    stand.wait_online("web1").await.unwrap();
    assert!(stand.writ(&["login"]).await.unwrap().ok());
}

#[tokio::test]
async fn places_that_cannot_be_written_and_ports_and_sockets_in_use() {
    let mut stand = prepared().await;
    // /proc takes no files from anybody, root included.
    let nowhere = "\"/proc/writ\"";
    let warden = changed(&stand, "warden.toml", &quoted(&stand, "warden"), nowhere);
    let out = stand.run("writ-warden", &["serve", "--config", &warden]).await.unwrap();
    refused("the warden's state_dir", &out, &["/proc/writ", "correct the path"]);
    assert!(!stand.at("warden.sock").exists(), "no socket is left");
    let agent = changed(&stand, "agent.toml", &quoted(&stand, "agent"), nowhere);
    let out = stand.run("writ-agent", &["run", "--config", &agent]).await.unwrap();
    refused("the agent's state_dir", &out, &["/proc/writ", "correct the path"]);
    let hub = changed(&stand, "hub/hub.toml", "\"state\"", nowhere);
    let out = stand.run("writ-hub", &["serve", "--config", &hub]).await.unwrap();
    refused("the hub's state_dir", &out, &["/proc/writ", "correct the path"]);
    let args = ["init", "--dir", "/proc/writ", "--url", "https://127.0.0.1:1"];
    let out = stand.run("writ-hub", &args).await.unwrap();
    refused("writ-hub init", &out, &["/proc/writ", "correct the path"]);
    let home = [("WRIT_HOME", "/proc/writ")];
    let out = run(&stand.bin("writ"), &["hosts"], &home, &stand.at("work"), b"").await.unwrap();
    refused("WRIT_HOME", &out, &["/proc/writ", "correct the path"]);
    let out = stand.writ(&["policy", "init", "--operator", "alice=../keys/alice.pub", "-o", "/proc/p"]).await;
    refused("writ policy init -o", &out.unwrap(), &["/proc", "correct the path"]);
    // A second init leaves the first as it is.
    let before = stand.read("hub/tls.key").unwrap();
    let (dir, url) = (stand.text("hub"), stand.hub_url());
    let out = stand.run("writ-hub", &["init", "--dir", &dir, "--url", &url]).await.unwrap();
    refused("a second init", &out, &["exists already", "--dir"]);
    assert_eq!(stand.read("hub/tls.key").unwrap(), before);

    // Ports.
    let port = stand.pve_url().replace("https://", "");
    let hub_port = stand.hub_url().replace("https://", "");
    let hub = changed(&stand, "hub/hub.toml", &format!("\"{hub_port}\""), &format!("\"{port}\""));
    let out = stand.run("writ-hub", &["serve", "--config", &hub]).await.unwrap();
    refused("the hub's port", &out, &[&port, "another process uses this port", "choose another"]);
    assert!(!files(&stand, "hub/state").iter().any(|name| name.contains("sqlite")), "no database is left");
    let out = stand.run("pve-sim", &["serve", "--listen", &port]).await.unwrap();
    refused("the simulator's port", &out, &[&port, "choose another address"]);

    // Sockets.
    stand.write("warden.sock", "something else").unwrap();
    let config = stand.text("warden.toml");
    let out = stand.run("writ-warden", &["serve", "--config", &config]).await.unwrap();
    refused("a file where the socket goes", &out, &["warden.sock", "no socket", "move it"]);
    assert_eq!(stand.read("warden.sock").unwrap(), "something else", "and it is left alone");
    std::fs::remove_file(stand.at("warden.sock")).unwrap();
    let foreign = UnixListener::bind(stand.at("warden.sock")).unwrap();
    let out = stand.run("writ-warden", &["serve", "--config", &config]).await.unwrap();
    refused("somebody listens on the socket", &out, &["warden.sock", "another", "stop it"]);
    assert!(stand.at("warden.sock").exists(), "and stays");
    drop(foreign);
    // Nobody listens any more: a leftover of a crash is no obstacle.
    stand.start_warden(&[]).await.unwrap();
    let long = changed(&stand, "warden.toml", "warden.sock\"", &format!("{}.sock\"", "s".repeat(120)));
    let long = stand.read("changed-warden.toml").map(|text| {
        let own = text.replacen(&quoted(&stand, "warden"), &quoted(&stand, "long"), 1);
        stand.write("long.toml", &own).unwrap();
        drop(long);
        stand.text("long.toml")
    });
    let out = stand.run("writ-warden", &["serve", "--config", &long.unwrap()]).await.unwrap();
    refused("a socket path that is too long", &out, &["cannot listen on", "shorter"]);
}

/// Two wardens on one state would each know only half of the burned nonces.
#[tokio::test]
async fn a_second_warden_on_the_same_state_is_refused() {
    let mut stand = prepared().await;
    let other = changed(&stand, "warden.toml", "warden.sock", "other.sock");
    // Not enrolled yet: the second could accept another policy over the first one's.
    stand.start_warden(&[]).await.unwrap();
    let second = stand
        .tool(
            "timeout",
            &["10", &stand.bin("writ-warden").display().to_string(), "serve", "--config", &other],
        )
        .await
        .unwrap();
    refused("a second warden, not enrolled", &second, &[&stand.text("warden"), "another warden", "stop it"]);
    assert!(!stand.at("other.sock").exists(), "no socket is left");

    stand.start_hub().await.unwrap();
    stand.login().await.unwrap();
    stand.enroll("web1").await.unwrap();
    let second = stand.run("writ-warden", &["serve", "--config", &other]).await.unwrap();
    refused("a second warden, enrolled", &second, &[&stand.text("warden"), "another warden", "stop it"]);
    assert!(!stand.at("other.sock").exists(), "no socket is left");
    let config = stand.text("warden.toml");
    let same = stand.run("writ-warden", &["serve", "--config", &config]).await.unwrap();
    refused("the same warden twice", &same, &["another warden", "stop it"]);
    assert!(stand.at("warden.sock").exists(), "the first one keeps its socket");
    let hub = stand.text("hub/hub.toml");
    let second = stand.run("writ-hub", &["serve", "--config", &hub]).await.unwrap();
    refused("a second hub", &second, &["another writ-hub", "stop it"]);
    stand.start_agent().await.unwrap();
    stand.wait_online("web1").await.unwrap();
}

#[tokio::test]
async fn a_proxmox_that_is_not_the_pinned_one_or_does_not_know_us() {
    let mut stand = Stand::standing().await.unwrap();
    let selftest = |config: String| {
        let binary = stand.bin("writ-agent");
        let work = stand.at("work");
        async move { run(&binary, &["--selftest", "--config", &config], &[], &work, b"").await.unwrap() }
    };
    let good = selftest(stand.text("agent.toml")).await;
    expect("the selftest as it is", &good).unwrap();
    let text = stand.read("agent.toml").unwrap();
    let at = text.find("spki:").unwrap() + 5;
    let spki = text[at..at + 64].to_owned();
    let wrong = changed(&stand, "agent.toml", &spki, &"0".repeat(64));
    check_failed("a wrong pin", &selftest(wrong).await, &["pin", &spki]);
    let act = stand.read("pve/act.token").unwrap();
    let secret = act.trim().rsplit_once('=').unwrap().1.to_owned();
    let uuid = "00000000-0000-4000-8000-000000000000";
    for (name, token, says) in [
        ("wrong", format!("writ@pve!report={uuid}"), &["401", "token"][..]),
        ("expired", format!("writ@pve!expired={uuid}"), &["401", "token"]),
        ("unknown", format!("writ@pve!nobody={uuid}"), &["401", "token"]),
    ] {
        let file = format!("{name}.token");
        authz::files::write_atomic(&stand.at(&file), format!("{token}\n").as_bytes()).unwrap();
        let config = changed(&stand, "agent.toml", &stand.text("pve/report.token"), &stand.text(&file));
        let out = selftest(config).await;
        check_failed(&format!("the {name} token"), &out, says);
        assert!(
            !out.text().contains(uuid) && !out.text().contains(&secret),
            "no secret is shown: {}",
            out.text()
        );
    }
    let config = changed(&stand, "agent.toml", &stand.text("pve/report.token"), &stand.text("none.token"));
    check_failed("no token file", &selftest(config).await, &["none.token", "0600"]);
    let config = changed(&stand, "agent.toml", &stand.pve_url(), "https://127.0.0.1:1");
    check_failed("an address where nobody listens", &selftest(config).await, &["127.0.0.1:1"]);

    // The warden with a wrong pin: the order is refused and can be used later.
    stand.rollback_order("order.json").await.unwrap();
    stand.warden.take().unwrap().stop().await;
    let right = stand.read("warden.toml").unwrap();
    stand.write("warden.toml", &right.replacen(&spki, &"0".repeat(64), 1)).unwrap();
    stand.start_warden(&[]).await.unwrap();
    let out = stand.writ(&["submit", "order.json", "--timeout", "40s"]).await.unwrap();
    assert_eq!(out.code, Some(1), "{}", out.text());
    assert!(out.stdout.contains("refused (proxmox)") && out.stdout.contains("pin"), "{}", out.text());
    stand.warden.take().unwrap().stop().await;
    stand.write("warden.toml", &right).unwrap();
    stand.start_warden(&[]).await.unwrap();
    assert_eq!(stand.mutations("").await.unwrap(), 0, "nothing was sent");
    let out = stand.writ(&["submit", "order.json", "--timeout", "40s"]).await.unwrap();
    assert!(out.ok(), "the nonce was not burned: {}", out.text());
}

/// A first login on a fresh machine.
async fn login(stand: &Stand, pin: &str) -> Output {
    let (hub, key) = (stand.hub_url(), stand.text("keys/alice"));
    let args = ["login", "--hub", &hub, "--pin", pin, "--key", &key, "--policy", "policy.json"];
    stand.writ_as("fresh", &args).await.unwrap()
}

#[tokio::test]
async fn a_hub_that_is_not_there_or_is_another_one() {
    let mut stand = Stand::enrolled().await.unwrap();
    let hub = stand.hub_url();
    let wrong = "0".repeat(64);
    let out = login(&stand, &wrong).await;
    refused("a wrong pin", &out, &[&stand.hub_pin, "nothing was sent", "compare"]);
    for gone in ["token", "config.toml", "policy.json"] {
        assert!(!stand.at("fresh").join(gone).exists(), "{gone} was stored by a failed login");
    }
    stand.new_key("stranger").await.unwrap();
    let stranger = stand.text("keys/stranger");
    let args =
        ["login", "--hub", &hub, "--pin", &stand.hub_pin, "--key", &stranger, "--policy", "policy.json"];
    let out = stand.writ_as("fresh", &[&args[..], &["--quiet"]].concat()).await.unwrap();
    refused("a stranger's key", &out, &["may not log in", "operators file"]);
    let out = stand.writ_as("empty", &["hosts"]).await.unwrap();
    refused("nobody logged in", &out, &["knows no hub", "writ login"]);

    let code =
        stand.writ(&["enroll", "new", "--name", "web2", "--site", "berlin", "--code-only"]).await.unwrap();
    stand.hub.take().unwrap().stop().await;
    let out = login(&stand, &stand.hub_pin).await;
    refused("no hub", &out, &[&hub, "cannot be reached", "check that it runs"]);
    for gone in ["token", "config.toml", "policy.json"] {
        assert!(!stand.at("fresh").join(gone).exists(), "{gone} was stored by a failed login");
    }
    let out = stand.writ(&["hosts"]).await.unwrap();
    refused("no hub", &out, &[&hub, "cannot be reached", "check that it runs"]);

    let before = stand.read("agent/hub.json").unwrap();
    let out = stand.agent_enroll(&code.stdout).await.unwrap();
    refused("enrolling without a hub", &out, &[&hub, "cannot reach the hub", "check that the hub runs"]);
    assert_eq!(stand.read("agent/hub.json").unwrap(), before, "the old enrollment stands");
    let out = stand.agent_enroll("hello").await.unwrap();
    refused("no code", &out, &["not an enrollment code", "writ enroll new"]);
    let config = stand.text("agent.toml");
    let out = stand.run("writ-agent", &["--selftest=hub", "--config", &config]).await.unwrap();
    check_failed("selftest=hub", &out, &[&hub, "cannot reach the hub", "check that the hub runs"]);
    // The service itself does not give up.
    let agent = stand.agent.as_mut().unwrap();
    let line = agent.line_with("cannot reach the hub").await.unwrap();
    assert!(line.contains("check that the hub runs") && line.contains("retry_in_ms"), "{line}");
    assert!(agent.is_running());
    stand.start_hub().await.unwrap();
    stand.host_when("web1", "back", |host| host["online"] == true).await.unwrap();
    let config = changed(&stand, "agent.toml", &quoted(&stand, "agent"), &quoted(&stand, "nobody"));
    let out = stand.run("writ-agent", &["run", "--config", &config]).await.unwrap();
    refused("an agent that is not enrolled", &out, &["not enrolled", "writ-agent enroll"]);
}
