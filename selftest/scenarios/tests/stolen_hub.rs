//! A thief owns the hub and meddles with orders that operators really signed: takes the signatures
//! away, or delivers what was carried out once more. The host must do nothing of its own, and the
//! operator must not be led to believe what is not so.

use std::time::Duration;

use scenarios::process::DEADLINE;
use scenarios::stand::Stand;
use scenarios::{Fallible, Trouble, evil_hub};
use serde_json::Value;
use tokio::time::Instant;

/// Fails with everything that helps.
fn hold(good: bool, what: &str, shown: &str) -> Fallible<()> {
    if good { Ok(()) } else { Err(Trouble(format!("not so: {what}\n---\n{shown}"))) }
}

async fn rollbacks(stand: &Stand, wanted: usize) -> Fallible<()> {
    let found = stand.mutations("/rollback").await?;
    hold(found == wanted, &format!("Proxmox was asked for {wanted} rollback(s)"), &found.to_string())
}

#[tokio::test]
async fn an_order_without_its_signatures_is_refused_and_stays_valid() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    stand.rollback_order("order.json").await?;
    evil_hub::strip_signatures(&mut stand).await?;
    stand.wait_online("web1").await?;
    // A new order and, the second time, one that the hub has already.
    for turn in ["first", "again"] {
        let out = stand.writ(&["submit", "order.json", "--timeout", "30s"]).await?;
        let text = out.text();
        hold(out.code == Some(1), &format!("no success, {turn}"), &text)?;
        hold(text.contains("refused (unsigned)"), &format!("the host says why, {turn}"), &text)?;
        hold(text.contains("STILL VALID"), &format!("the operator is warned, {turn}"), &text)?;
        rollbacks(&stand, 0).await?;
    }
    evil_hub::keep_signatures(&mut stand).await?;
    stand.wait_online("web1").await?;
    rollbacks(&stand, 0).await?;
    // The refusal burned nothing: this is what the operator has to know.
    let out = stand.writ(&["submit", "order.json", "--timeout", "30s"]).await?;
    hold(out.ok() && out.stdout.contains("done:"), "the same order, with its signatures", &out.text())?;
    rollbacks(&stand, 1).await
}

/// The host's log entries about an order.
async fn about(stand: &Stand, op: &str) -> Fallible<Vec<Value>> {
    let log = stand.receipts("web1").await?;
    Ok(log.into_iter().filter(|entry| entry["event"]["op"] == op).collect())
}

#[tokio::test]
async fn an_order_that_is_delivered_twice_is_carried_out_once() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    let op = stand.rollback_order("order.json").await?;
    let name = op.to_string();
    let out = stand.writ(&["submit", "order.json", "--timeout", "30s"]).await?;
    hold(out.ok() && out.stdout.contains("done:"), "carried out", &out.text())?;
    let before = about(&stand, &name).await?;
    evil_hub::deliver_again(&mut stand, op).await?;
    stand.wait_online("web1").await?;
    // The host says in its log that it was given the order again.
    let end = Instant::now() + DEADLINE;
    let after = loop {
        let entries = about(&stand, &name).await?;
        let replayed = entries.iter().any(|entry| entry["event"]["outcome"]["code"] == "replay");
        if replayed {
            break entries;
        }
        hold(Instant::now() < end, "the second delivery arrives", &format!("{entries:#?}"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    rollbacks(&stand, 1).await?;
    hold(after.starts_with(&before), "the log keeps what it had", &format!("{before:#?}\n{after:#?}"))?;
    let ends = after.iter().filter(|entry| entry["event"]["outcome"]["outcome"] == "done").count();
    hold(ends == 1, "one end", &format!("{after:#?}"))?;
    let shown = stand.writ(&["order", "web1", &name]).await?;
    hold(shown.ok() && shown.stdout.contains("done:"), "the first receipt stays shown", &shown.text())
}

/// `security.md` 2.4: what a host does not remember cannot be replayed to it, not even after a restart of its
/// warden or on a copy of its disk; and a plan is good for one order.
#[tokio::test]
async fn a_plan_that_the_host_forgot_or_replaced_binds_nothing() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    stand.rollback_order("first.json").await?;
    // A second plan about the same guest takes the first one's place.
    stand.rollback_order("second.json").await?;
    let out = stand.writ(&["submit", "first.json", "--timeout", "30s"]).await?;
    hold(out.text().contains("refused (plan)"), "the older plan is gone", &out.text())?;
    if let Some(warden) = stand.warden.take() {
        warden.stop().await;
    }
    stand.start_warden(&[]).await?;
    stand.wait_online("web1").await?;
    let out = stand.writ(&["submit", "second.json", "--timeout", "30s"]).await?;
    hold(out.text().contains("refused (plan)"), "a restart forgets all plans", &out.text())?;
    rollbacks(&stand, 0).await?;
    // Prepared again it works, and only once.
    stand.rollback_order("third.json").await?;
    let out = stand.writ(&["submit", "third.json", "--timeout", "30s"]).await?;
    hold(out.ok() && out.stdout.contains("done:"), "a fresh plan", &out.text())?;
    let out = stand.writ(&["submit", "third.json", "--timeout", "30s"]).await?;
    hold(out.text().contains("refused (replay)"), "it was carried out, and says so", &out.text())?;
    rollbacks(&stand, 1).await
}
