//! A policy changes under a running host: signed by those who may, followed by warden, runner and operator's
//! tool, and never back. One signature takes a key away.

use scenarios::process::Output;
use scenarios::stand::Stand;
use scenarios::{Fallible, Trouble};
use serde_json::{Value, json};

/// Fails with everything that helps.
fn hold(good: bool, what: &str, out: &Output) -> Fallible<()> {
    if good { Ok(()) } else { Err(Trouble(format!("not so: {what}\n---\n{}", out.text()))) }
}

fn edit(stand: &Stand, from: &str, to: &str, change: impl FnOnce(&mut Value)) -> Fallible<()> {
    let read = |error| Trouble::new("a policy is JSON", error);
    let mut policy: Value = serde_json::from_slice(&stand.read_work(from)?).map_err(read)?;
    change(&mut policy);
    stand.write_work(to, serde_json::to_string_pretty(&policy).map_err(read)?.as_bytes())
}

fn push(value: &mut Value, item: Value) {
    if let Some(list) = value.as_array_mut() {
        list.push(item);
    }
}

#[tokio::test]
async fn a_policy_changes_and_a_key_is_revoked() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    for name in ["bob", "carol"] {
        stand.new_key(name).await?;
    }
    stand.rollback_order("old.json").await?;

    // Version 2: two more operators, two signers for a rollback and for a policy.
    let out = stand.writ(&["policy", "next", "-o", "two.json"]).await?;
    hold(out.ok(), "a draft", &out)?;
    let (bob, carol) = (stand.public_key("bob")?, stand.public_key("carol")?);
    let line = |key: &str| key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    edit(&stand, "two.json", "two.json", |policy| {
        for (name, key) in [("bob", line(&bob)), ("carol", line(&carol))] {
            push(&mut policy["operators"], json!({"name": name, "keys": [key]}));
            push(&mut policy["roles"][0]["members"], json!(name));
        }
        policy["root"]["threshold"] = json!(2);
        if let Some(rules) = policy["rules"].as_array_mut() {
            for rule in rules.iter_mut().filter(|rule| rule["kind"] == "snapshot.rollback") {
                rule["threshold"] = json!(2);
            }
        }
    })?;
    let out = stand.writ(&["policy", "sign", "two.json"]).await?;
    hold(!out.ok() && out.text().contains("writ policy fmt"), "only the one spelling is signed", &out)?;
    let out = stand.writ(&["policy", "fmt", "two.json"]).await?;
    hold(out.ok(), "formatted", &out)?;
    let out = stand.writ(&["policy", "diff", "current", "two.json"]).await?;
    for says in [
        "+ operator bob is added  (loosens)",
        "- snapshot.rollback, signers: 1 -> 2  (tightens)",
        "- signers for a new policy: 1 -> 2  (tightens)",
    ] {
        hold(out.ok() && out.stdout.contains(says), says, &out)?;
    }
    let (alice_key, bob_key, carol_key) =
        (stand.text("keys/alice"), stand.text("keys/bob"), stand.text("keys/carol"));
    let out = stand.writ(&["policy", "sign", "two.json", "--key", &alice_key]).await?;
    hold(out.ok(), "alice signs", &out)?;
    let out = stand.writ(&["policy", "apply", "two.json"]).await?;
    hold(!out.ok() && out.text().contains("(threshold)"), "one of two is too few", &out)?;
    let out = stand.writ(&["policy", "sign", "two.json", "--key", &bob_key]).await?;
    hold(out.ok(), "bob signs", &out)?;
    let out = stand.writ(&["policy", "apply", "two.json", "--wait", "60s"]).await?;
    hold(out.ok() && out.stdout.contains("lives by it"), "the host accepts version 2", &out)?;
    let log = stand.receipts("web1").await?;
    let advanced = log.iter().filter(|entry| entry["event"]["event"] == "policy_advanced").count();
    hold(advanced == 1, "it is in the host's signed log", &out)?;
    let out = stand.writ(&["policy", "apply", "two.json", "--wait", "60s"]).await?;
    hold(out.ok(), "the same again is known", &out)?;

    // What was made before it, and what has one signer only.
    let out = stand.writ(&["submit", "old.json", "--timeout", "30s"]).await?;
    hold(!out.ok() && out.text().contains("other_policy"), "an order under version 1", &out)?;
    stand.rollback_order("new.json").await?;
    let out = stand.writ(&["submit", "new.json", "--timeout", "30s"]).await?;
    hold(!out.ok() && out.text().contains("refused (threshold)"), "one signer is too few now", &out)?;
    // The runner was pinned to version 1 and follows.
    let out = stand.writ(&["run", "web1", "--user", &stand.user().await?, "--", "echo", "followed"]).await?;
    hold(out.ok() && out.stdout.contains("followed"), "a script under version 2", &out)?;

    // Another version 2 and one that skips.
    for (file, version) in [("fork.json", 2), ("skip.json", 4)] {
        edit(&stand, "two.json", file, |policy| {
            policy["version"] = json!(version);
            policy["bounds"]["start"] = json!(false);
        })?;
        for args in [
            vec!["policy", "fmt", file],
            vec!["policy", "sign", file, "--key", &alice_key],
            vec!["policy", "sign", file, "--key", &bob_key],
        ] {
            let out = stand.writ(&args).await?;
            hold(out.ok(), "signed", &out)?;
        }
        let out = stand.writ(&["policy", "apply", file]).await?;
        hold(!out.ok() && out.text().contains("(chain)"), file, &out)?;
    }

    // Carol's key is lost: Alice alone takes it away.
    let carol_pub = stand.text("keys/carol.pub");
    let out = stand.writ(&["policy", "revoke", &carol_pub, "--reason", "lost"]).await?;
    hold(out.ok() && out.text().contains("carol"), "revoked with one signature", &out)?;
    let end = tokio::time::Instant::now() + scenarios::process::DEADLINE;
    while !stand.receipts("web1").await?.iter().any(|entry| entry["event"]["event"] == "revoked") {
        hold(tokio::time::Instant::now() < end, "the host's log says so", &out)?;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let out = stand.writ(&["run", "web1", "--key", &carol_key, "--", "true"]).await?;
    hold(!out.ok() && out.text().contains("revoked"), "her next order is refused", &out)?;
    let out = stand.writ(&["policy", "refresh"]).await?;
    hold(out.ok(), "the policy is still the newest", &out)?;
    let out = stand.writ(&["policy", "status"]).await?;
    hold(out.ok() && out.stdout.contains("lives by it"), "status", &out)?;
    let out = stand.writ(&["run", "web1", "--user", &stand.user().await?, "--", "echo", "still"]).await?;
    hold(out.ok() && out.stdout.contains("still"), "and the others go on", &out)
}
