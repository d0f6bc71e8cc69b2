//! A guest is backed up, destroyed by an order that is bound to a plan, and made again from its backup. Then
//! the history of it is proven without the hub.

use serde_json::Value;

use super::Report;
use crate::Fallible;
use crate::process::Output;
use crate::stand::{Stand, expect};

/// A virtual machine of the simulated node that nothing else of the demo is about.
const VMID: &str = "102";
/// The number of the one that is made from its backup.
const AGAIN: &str = "302";

/// Plays it.
pub(super) async fn play(stand: &Stand, report: &mut Report) -> Fallible<()> {
    report.title("The end of a guest, and its return");
    order(stand, "backup.json", &["backup.create", "web1", VMID, "--storage", "local"]).await?;
    let backed_up = stand.writ(&["submit", "backup.json"]).await?;
    report.check("writ op backup.create web1 102", backed_up.ok(), "signed, done, looked for on the storage");
    let looked = stand.writ(&["look", "web1", VMID]).await?;
    let backup = looked.stdout.split_whitespace().find(|word| word.starts_with("local:backup/"));
    let backup = backup.unwrap_or("(no backup)").to_owned();

    let planned = order(stand, "end.json", &["guest.destroy", "web1", VMID, "--stop", "--purge"]).await?;
    report.check(
        "writ op guest.destroy web1 102",
        planned.stdout.contains("is deleted with its data"),
        "the host's plan, shown before anybody signs:",
    );
    let plan = planned.stdout.lines().skip_while(|line| !line.starts_with("Plan, "));
    report.block(&plan.take_while(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n"));
    let destroyed = stand.writ(&["submit", "end.json"]).await?;
    let calls = stand.sim_get("requests?mutations=1").await?;
    let calls = calls.as_array().or_else(|| calls["data"].as_array()).into_iter().flatten();
    let to_its_path = |row: &&Value| row["path"].as_str().is_some_and(|path| path.ends_with("/qemu/102"));
    let calls = calls.filter(|row| row["method"] == "DELETE").filter(to_its_path).count();
    report.check(
        "writ submit end.json",
        destroyed.ok() && calls == 1,
        &format!("gone, with its volume: the host looked; Proxmox was asked to delete it {calls} time(s)"),
    );

    let make = [
        "guest.create",
        "web1",
        AGAIN,
        "--backup",
        &backup,
        "--name",
        "files",
        "--storage",
        "tank",
        "--cores",
        "2",
        "--memory",
        "2G",
    ];
    order(stand, "again.json", &make).await?;
    let made = stand.writ(&["submit", "again.json"]).await?;
    report.check(
        "writ op guest.create web1 302 --backup …",
        made.ok(),
        "from its backup, with an identity of its own",
    );

    let exported = stand.writ(&["audit", "export", "web1", "history"]).await?;
    let verified = stand.writ(&["audit", "verify", "history"]).await?;
    report.check(
        "writ audit export web1; writ audit verify",
        exported.ok() && verified.ok(),
        "the host's whole history, verified without the hub",
    );
    Ok(())
}

/// Prepares an order and signs it.
async fn order(stand: &Stand, file: &str, args: &[&str]) -> Fallible<Output> {
    let args: Vec<&str> = ["op"].iter().chain(args).chain(&["--force", "-o", file]).copied().collect();
    let out = stand.writ(&args).await?;
    expect("writ op", &out)?;
    stand.ssh_sign("alice", file).await?;
    Ok(out)
}
