//! What an operator runs to look at a working host: the selftests, `status`, the warden's own view, and a
//! second machine of the same operator. None of it changes anything.

use scenarios::stand::{Stand, expect};
use serde_json::Value;

#[tokio::test]
async fn looking_changes_nothing() {
    let mut stand = Stand::enrolled().await.unwrap();
    let (agent, warden) = (stand.text("agent.toml"), stand.text("warden.toml"));

    // Beside the running agent, without disturbing its channel.
    let out = stand.run("writ-agent", &["--selftest=hub", "--config", &agent]).await.unwrap();
    expect("--selftest=hub", &out).unwrap();
    let host = stand.wait_online("web1").await.unwrap();
    assert_eq!(host["online"], true);

    let out = stand.run("writ-agent", &["--selftest", "--json", "--config", &agent]).await.unwrap();
    expect("--selftest --json", &out).unwrap();
    let found: Value = serde_json::from_str(&out.stdout).unwrap();
    assert!(found["node"] == "pve1" && found["ok"] == true && found["version"].is_string(), "{found}");
    for check in found["checks"].as_array().unwrap() {
        assert!(check["name"].is_string() && check["detail"].is_string(), "{check}");
        assert!(["ok", "warn"].contains(&check["state"].as_str().unwrap()), "{check}");
    }

    // Without a configuration, as on a host where nothing is installed yet.
    let pins = std::fs::read_to_string(stand.at("pve/pins")).unwrap();
    let pin = pins.lines().find(|line| line.starts_with("leaf:")).unwrap();
    let (api, token) = (stand.pve_url(), stand.text("pve/report.token"));
    let args = ["--selftest=read", "--api", &api, "--pin", pin, "--token-file", &token];
    let out = stand.run("writ-agent", &args).await.unwrap();
    expect("--selftest=read without a configuration", &out).unwrap();
    let good =
        |line: &str| line.starts_with("ok   ") || line.starts_with("warn ") || line.starts_with("     ");
    assert!(out.stdout.lines().all(good), "{}", out.stdout);

    expect("status", &stand.run("writ-agent", &["status", "--config", &agent]).await.unwrap()).unwrap();
    let out = stand.run("writ-warden", &["journal", "verify", "--config", &warden]).await.unwrap();
    expect("journal verify", &out).unwrap();
    assert!(out.stdout.contains("0 nonce(s) burned") && out.stdout.contains("1 entries"), "{}", out.stdout);
    let out = stand.run("writ-warden", &["policy", "--config", &warden]).await.unwrap();
    expect("writ-warden policy", &out).unwrap();
    let policy: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(policy["operators"][0]["name"], "alice");

    assert_eq!(stand.mutations("").await.unwrap(), 0, "looking changed something");
    stand.stop().await;
}

/// The operator's other machine has the policy and the key, and nothing else: it believes the signed
/// statement, and with another policy it believes nobody.
#[tokio::test]
async fn a_second_machine_believes_what_operators_signed() {
    let mut stand = Stand::enrolled().await.unwrap();
    let (hub, key, pin) = (stand.hub_url(), stand.text("keys/alice"), stand.hub_pin.clone());
    let login = |policy: &'static str| {
        ["login", "--hub", &hub, "--pin", &pin, "--key", &key, "--policy", policy].map(str::to_owned)
    };
    let run = async |home: &str, args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        stand.writ_as(home, &args).await.unwrap()
    };
    expect("login from a second machine", &run("laptop", &login("policy.json")).await).unwrap();
    let out = stand.writ_as("laptop", &["hosts"]).await.unwrap();
    expect("writ hosts on a second machine", &out).unwrap();
    assert!(out.stdout.contains("web1"), "{}", out.stdout);

    // Mallory's policy makes mallory the only operator: alice's statement counts for nothing there.
    stand.new_key("mallory").await.unwrap();
    let operator = format!("mallory={}", stand.text("keys/mallory.pub"));
    let out = stand.writ(&["policy", "init", "--operator", &operator, "-o", "other.json"]).await.unwrap();
    expect("writ policy init", &out).unwrap();
    expect("login with another policy", &run("other", &login("other.json")).await).unwrap();
    let out = stand.writ_as("other", &["hosts"]).await.unwrap();
    assert!(!out.ok() && out.text().contains("REFUSED"), "{}", out.text());
    stand.stop().await;
}
