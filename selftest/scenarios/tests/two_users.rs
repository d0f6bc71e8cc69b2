//! The separation that the runbook sets up, with real users: warden and agent as two different users, and
//! what each cannot read of the other. Needs root and setpriv; says so and does nothing elsewhere.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use scenarios::process::{Output, Process, run};
use scenarios::stand::{Stand, expect};

/// Numbers that belong to nobody.
const WARDEN: u32 = 64_001;
const AGENT: u32 = 64_002;
const STRANGER: u32 = 64_003;

fn possible() -> bool {
    rustix::process::getuid().is_root() && Path::new("/usr/bin/setpriv").exists()
}

fn as_user(uid: u32, program: &Path, args: &[&str]) -> Vec<String> {
    let mut line = vec![format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()];
    line.push(program.display().to_string());
    line.extend(args.iter().map(|arg| (*arg).to_owned()));
    line
}

async fn run_as(stand: &Stand, uid: u32, program: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let line = as_user(uid, program, args);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    run(Path::new("setpriv"), &line, &[], &stand.at("work"), stdin).await.unwrap()
}

fn start_as(stand: &Stand, name: &str, uid: u32, binary: &str, args: &[&str]) -> Process {
    let line = as_user(uid, &stand.bin(binary), args);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    Process::start(name, Path::new("setpriv"), &line, &[], &stand.at("logs")).unwrap()
}

/// Gives a file or directory to a user, with this mode.
fn give(stand: &Stand, name: &str, uid: u32, mode: u32) {
    let path = stand.at(name);
    chown(&path, Some(uid), Some(uid)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn warden_and_agent_are_two_users_and_neither_reads_the_other() {
    if !possible() {
        println!("NOT RUN: two real users need root and setpriv");
        return;
    }
    let mut stand = Stand::new().await.unwrap();
    stand.start_sim().await.unwrap();
    stand.init_hub().await.unwrap();
    stand.start_hub().await.unwrap();
    stand.make_policy().await.unwrap();
    stand.login().await.unwrap();
    stand.write_host_configs().unwrap();

    // As the runbook lays it: a directory for each, a token for each, the socket's directory the warden's.
    std::fs::set_permissions(stand.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(stand.at("work"), std::fs::Permissions::from_mode(0o777)).unwrap();
    for (folder, uid, mode) in [("run", WARDEN, 0o755), ("warden", WARDEN, 0o700), ("agent", AGENT, 0o700)] {
        std::fs::create_dir(stand.at(folder)).unwrap();
        give(&stand, folder, uid, mode);
    }
    for (token, uid) in [("act", WARDEN), ("report", AGENT)] {
        std::fs::copy(stand.at(&format!("pve/{token}.token")), stand.at(&format!("{token}.token"))).unwrap();
        give(&stand, &format!("{token}.token"), uid, 0o600);
    }
    let me = rustix::process::getuid().as_raw();
    for file in ["warden.toml", "agent.toml"] {
        let text = std::fs::read_to_string(stand.at(file)).unwrap();
        let text = text
            .replace(&stand.text("warden.sock"), &stand.text("run/warden.sock"))
            .replace(&format!("allowed_uids = [{me}]"), &format!("allowed_uids = [{AGENT}]"))
            .replace("/pve/act.token", "/act.token")
            .replace("/pve/report.token", "/report.token");
        std::fs::write(stand.at(file), text).unwrap();
        give(&stand, file, 0, 0o644);
    }
    let (warden_config, agent_config) = (stand.text("warden.toml"), stand.text("agent.toml"));
    let mut warden =
        start_as(&stand, "warden", WARDEN, "writ-warden", &["serve", "--config", &warden_config]);
    warden.line_with("ready").await.unwrap();

    // A third user, and even root, may not ask.
    let agent = stand.bin("writ-agent");
    for uid in [STRANGER, 0] {
        let out = run_as(&stand, uid, &agent, &["status", "--config", &agent_config], b"").await;
        assert!(!out.ok(), "user {uid} was let in: {}", out.text());
    }

    let code =
        stand.writ(&["enroll", "new", "--name", "web1", "--site", "berlin", "--code-only"]).await.unwrap();
    let enroll = ["enroll", "--config", &agent_config];
    let out = run_as(&stand, AGENT, &agent, &enroll, code.stdout.as_bytes()).await;
    expect("writ-agent enroll", &out).unwrap();
    expect("approve", &stand.writ(&["enroll", "approve", "web1"]).await.unwrap()).unwrap();
    let running = start_as(&stand, "agent", AGENT, "writ-agent", &["run", "--config", &agent_config]);
    stand.wait_online("web1").await.unwrap();
    let hosts = "[[host.web1.guest]]\nvmid = 201\nname = \"mail\"\nrunning = true\n";
    stand.write_work("hosts.toml", hosts.as_bytes()).unwrap();
    expect("apply", &stand.writ(&["apply", "hosts.toml"]).await.unwrap()).unwrap();
    assert_eq!(stand.mutations("/status/start").await.unwrap(), 1);

    // Neither can read what is the other's; a stranger neither.
    let secrets = [
        ("warden/host.key", WARDEN),
        ("act.token", WARDEN),
        ("agent/device.key", AGENT),
        ("report.token", AGENT),
    ];
    for (file, owner) in secrets {
        assert!(stand.at(file).exists(), "{file} is not where this test looks");
        for uid in [WARDEN, AGENT, STRANGER] {
            let out = run_as(&stand, uid, Path::new("/usr/bin/cat"), &[&stand.text(file)], b"").await;
            assert_eq!(out.ok(), uid == owner, "user {uid} and {file}: {}", out.stderr);
        }
    }
    running.stop().await;
    warden.stop().await;
    stand.stop().await;
}
