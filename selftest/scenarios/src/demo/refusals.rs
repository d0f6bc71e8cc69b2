//! The second half of the demo: everything that must be refused, each with its reason.

use serde_json::json;

use super::{Report, VMID, now, prepare};
use crate::process::Output;
use crate::stand::Stand;
use crate::{Fallible, evil_hub, forge};

/// Plays them all.
pub(super) async fn play(stand: &mut Stand, report: &mut Report) -> Fallible<()> {
    report.title("Refused by the host, each with its reason");
    let again = stand.writ(&["submit", "order.json"]).await?;
    refused(report, "the same order again", &again, "replay");

    prepare(stand, "fresh.json").await?;
    let order = stand.read_work("fresh.json")?;
    stand.ssh_sign("alice", "fresh.json").await?;
    stand.write_work("changed.json", &forge::one_byte(&order, "undo the update")?)?;
    let args = ["submit", "changed.json", "--sig", "fresh.json.sig"];
    let changed = stand.writ(&args).await?;
    refused(report, "the order with one byte changed", &changed, "bad_signature");

    signed(stand, "elsewhere.json", &forge::other_host(&order)?, "alice").await?;
    let elsewhere = stand.writ(&["submit", "elsewhere.json", "--raw", "web1"]).await?;
    refused(report, "an order for another host", &elsewhere, "other_host");

    signed(stand, "unbound.json", &forge::unbound(&order)?, "alice").await?;
    let unbound = stand.writ(&["submit", "unbound.json"]).await?;
    refused(report, "an order without the host's plan", &unbound, "needs_plan");

    signed(stand, "swapped.json", &forge::again(&order, 0xa3)?, "alice").await?;
    let swapped = stand.writ(&["submit", "swapped.json"]).await?;
    refused(report, "an order with another order's plan", &swapped, "plan");

    // A kind that needs no plan: of the others the host forgets the plan first.
    let args = ["op", "guest.tag", "web1", VMID, "late", "--force", "-o", "late.json"];
    crate::stand::expect("writ op", &stand.writ(&args).await?)?;
    let late = stand.read_work("late.json")?;
    signed(stand, "expired.json", &forge::expired(&late, now())?, "alice").await?;
    let expired = stand.writ(&["submit", "expired.json"]).await?;
    refused(report, "an expired order", &expired, "expired");

    stand.new_key("stranger").await?;
    signed(stand, "stranger.json", &forge::again(&order, 0xa4)?, "stranger").await?;
    let stranger = stand.writ(&["submit", "stranger.json"]).await?;
    refused(report, "an order signed by a stranger", &stranger, "unknown_signer");

    prepare(stand, "replaced.json").await?;
    stand.ssh_sign("alice", "replaced.json").await?;
    stand.sim_post("replace-guest", json!({"vmid": 101})).await?;
    let replaced = stand.writ(&["submit", "replaced.json"]).await?;
    refused(
        report,
        &format!("an order for guest {VMID}, replaced by a namesake"),
        &replaced,
        "guest_identity",
    );

    report.title("A stolen hub: its database is in the hands of a thief");
    let payload = forge::again(&order, 0xa6)?;
    let op = evil_hub::forge_order(stand, &payload).await?.to_string();
    let forged = stand.writ(&["order", "web1", &op, "--wait"]).await?;
    refused(report, "an order that the hub made up", &forged, "unknown_signer");

    let op = op.parse().map_err(|error| crate::Trouble::new("the order's id", error))?;
    evil_hub::forge_receipt(stand, op).await?;
    let receipt = stand.writ(&["order", "web1", &op.to_string()]).await?;
    lied(report, "a receipt that the hub made up", &receipt, "not signed by the host's key");

    evil_hub::rename_host(stand, "db1").await?;
    let renamed = stand.writ(&["host", "db1"]).await?;
    lied(report, "a host that the hub renamed", &renamed, "statement says");
    let hosts = stand.writ(&["hosts"]).await?;
    report.check(
        "writ hosts says so too",
        !hosts.ok() && hosts.text().contains("REFUSED"),
        "shown as REFUSED, exit 1",
    );
    evil_hub::rename_host(stand, "web1").await?;
    stand.wait_online("web1").await?;
    report.done("the right name again", "the operators' statement never changed");
    Ok(())
}

/// Writes an order and signs it with plain OpenSSH.
async fn signed(stand: &Stand, file: &str, bytes: &[u8], key: &str) -> Fallible<()> {
    stand.write_work(file, bytes)?;
    stand.ssh_sign(key, file).await
}

/// The host refused by this rule, and the tool believed its signed receipt.
pub(super) fn refused(report: &mut Report, what: &str, out: &Output, code: &str) {
    let text = out.text();
    let marker = format!("refused ({code})");
    let why = text.lines().find(|line| line.contains(&marker)).unwrap_or_else(|| text.trim());
    let why = why.find(&marker).map_or(why, |at| &why[at..]);
    report.check(what, out.code == Some(1) && text.contains(&marker), why);
}

/// The tool caught the hub lying.
fn lied(report: &mut Report, what: &str, out: &Output, says: &str) {
    let text = out.text();
    let why = text.lines().find(|line| line.contains(says)).unwrap_or_else(|| text.trim());
    report.check(what, out.code == Some(1) && text.contains(says), why.trim_start_matches("writ: "));
}
