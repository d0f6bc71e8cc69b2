//! The audit log end to end, with real binaries: an order's receipt is proven to be in the host's log, the
//! log is exported and verified without a hub, and a hub that runs on an old copy of its database is found
//! out by every operator who saw more.

use std::path::Path;
use std::time::Duration;

use scenarios::client::hold;
use scenarios::process::DEADLINE;
use scenarios::stand::{Stand, expect};
use scenarios::{Fallible, Trouble};
use serde_json::Value;
use tokio::time::Instant;

/// Copies a directory's plain files.
fn copy(from: &Path, to: &Path) -> Fallible<()> {
    let copied = || -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        for old in std::fs::read_dir(to)? {
            std::fs::remove_file(old?.path())?;
        }
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    };
    copied().map_err(|error| Trouble::new("cannot copy a directory", error))
}

/// An order that is carried out, with its proof. Gives the number of entries under the host's checkpoint.
async fn carried_out(stand: &Stand, file: &str) -> Fallible<u64> {
    let op = stand.rollback_order(file).await?;
    let out = stand.writ(&["submit", file, "--timeout", "30s"]).await?;
    expect("writ submit", &out)?;
    hold(out.stdout.contains("proven to be in the log of "), "the receipt is proven", &out.text())?;
    let page = stand.writ(&["order", "web1", &op.to_string(), "--wait", "--json"]).await?;
    expect("writ order --json", &page)?;
    let page: Value =
        serde_json::from_str(&page.stdout).map_err(|error| Trouble::new("writ order --json", error))?;
    hold(page["success"] == true, "success", &page.to_string())?;
    page["proof"]["size"].as_u64().ok_or_else(|| Trouble(format!("there is no proof in {page}")))
}

#[tokio::test]
async fn history_is_proven_exported_and_never_taken_back() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    let first = carried_out(&stand, "one.json").await?;

    // The hub's database as it is now, for later.
    if let Some(hub) = stand.hub.take() {
        hub.stop().await;
    }
    copy(&stand.at("hub/state"), &stand.at("old-state"))?;
    stand.start_hub().await?;
    stand.wait_online("web1").await?;
    let second = carried_out(&stand, "two.json").await?;
    hold(second > first, "the log grew", &format!("{first} and {second}"))?;

    // What is prepared now names the newest entry that this machine verified.
    stand.rollback_order("three.json").await?;
    let three = String::from_utf8_lossy(&stand.read_work("three.json")?).into_owned();
    hold(three.contains("\"after\":{\"size\":"), "the order names what its signer knew", &three)?;

    // Exported, and checked without any hub.
    expect("writ audit log", &stand.writ(&["audit", "log", "web1"]).await?)?;
    expect("writ audit export", &stand.writ(&["audit", "export", "web1", "web1-log"]).await?)?;
    let whole = stand.writ(&["audit", "verify", "web1-log"]).await?;
    expect("writ audit verify", &whole)?;
    for says in ["All is well", "'web1' by the word of operator alice", "under the host's signed checkpoint"]
    {
        hold(whole.stdout.contains(says), says, &whole.text())?;
    }
    // The warden's own file, in a copy as a rescue system would have it.
    copy(&stand.at("warden"), &stand.at("work/state"))?;
    let own = stand.writ(&["audit", "verify", "state"]).await?;
    hold(own.ok() && own.stdout.contains("known to this machine"), "a copy of the state", &own.text())?;
    // One letter in one entry.
    let log = String::from_utf8_lossy(&stand.read_work("web1-log/log.jsonl")?).into_owned();
    let mut lines: Vec<String> = log.lines().map(str::to_owned).collect();
    let line = lines.get_mut(1).ok_or_else(|| Trouble("the log has no second entry".to_owned()))?;
    let (at, letter) = (30, if line.as_bytes()[30] == b'A' { "B" } else { "A" });
    line.replace_range(at..=at, letter);
    stand.write_work("web1-log/log.jsonl", format!("{}\n", lines.join("\n")).as_bytes())?;
    let bad = stand.writ(&["audit", "verify", "web1-log"]).await?;
    hold(bad.code == Some(3) && bad.text().contains("entry 1: "), "the altered entry is named", &bad.text())?;

    // Nobody else's view is another one; the checkpoint is what they exchange.
    let mine = stand.writ(&["audit", "checkpoint", "web1"]).await?;
    expect("writ audit checkpoint", &mine)?;
    stand.write_work("mine.note", mine.stdout.as_bytes())?;
    let same = stand.writ(&["audit", "compare", "mine.note"]).await?;
    hold(same.ok() && same.stdout.contains("One history"), "one history", &same.text())?;

    // A thief, or a restored backup: the hub with its database of before.
    for process in [&mut stand.agent, &mut stand.hub].into_iter().filter_map(Option::take) {
        process.stop().await;
    }
    copy(&stand.at("hub/state"), &stand.at("new-state"))?;
    copy(&stand.at("old-state"), &stand.at("hub/state"))?;
    stand.start_hub().await?;
    for words in [&["audit", "log", "web1"][..], &["receipts", "web1"]] {
        let out = stand.writ(words).await?;
        let named = out.text().contains("HISTORY NOT BELIEVED");
        hold(out.code == Some(3) && named, "the old copy is refused", &out.text())?;
    }
    // Whoever saw less cannot know; what they see is real, only old.
    let one = stand.writ(&["audit", "checkpoint", "web1"]).await?;
    hold(one.stdout == mine.stdout, "what was seen is kept", &one.text())?;

    // The host has everything still: when it connects, the hub is told the rest, and all is well.
    stand.start_agent().await?;
    stand.wait_online("web1").await?;
    let end = Instant::now() + DEADLINE;
    let log = loop {
        let log = stand.writ(&["audit", "log", "web1"]).await?;
        if log.ok() || Instant::now() > end {
            break log;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    hold(log.ok(), "the history is whole again", &log.text())?;
    stand.stop().await;
    Ok(())
}
