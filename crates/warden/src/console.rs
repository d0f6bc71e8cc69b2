//! `writ-warden status | queue | receipts | plan | smart`: what root on the host can see without the hub. Nothing here
//! changes anything. What needs the running warden asks its socket; the rest is read from the state directory,
//! so it works while the warden is stopped, too.

pub mod smart;

use std::path::Path;

use authz::log::AuditLog;
use authz::plan::Plan;
use authz::{Order, Receipt};
use local_socket::Framed;
use protocol::ask::{Question, Reply};
use protocol::local::{QueueEntry, WardenAnswer, WardenRequest};
use protocol::text::printable;
use tokio::net::UnixStream;

use crate::config::WardenConfig;
use crate::identity::Identity;
use crate::ledger::{self, Ledger, OpenOrder, Stage};
use crate::now;
use crate::policies::Policies;
use crate::warden::chain;

/// Most entries that `receipts` prints.
pub const MAX_RECEIPTS: usize = 10_000;

/// Asks the warden that runs.
async fn ask(config: &WardenConfig, request: &WardenRequest) -> Result<WardenAnswer, String> {
    let path = config.socket.display();
    let stream = UnixStream::connect(&config.socket).await.map_err(|error| {
        format!("no warden answers at {path} ({error}): is it running? (systemctl status writ-warden)")
    })?;
    let mut peer = Framed::from(stream);
    peer.send(request).await.map_err(|error| format!("{path}: {error}"))?;
    match peer.receive().await.map_err(|error| format!("{path}: {error}"))? {
        Some(WardenAnswer::Refused { why, .. }) => Err(printable(&why)),
        Some(answer) => Ok(answer),
        None => Err(format!("the warden at {path} closed the connection without an answer")),
    }
}

fn identity(config: &WardenConfig) -> Result<Identity, String> {
    match Identity::load(&config.state_dir).map_err(|error| chain(&error))? {
        Some(identity) => Ok(identity),
        None => Err("this host is not enrolled: run writ-agent enroll".to_owned()),
    }
}

fn age(then: u64) -> String {
    let seconds = now().saturating_sub(then);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Less than this is as good as nothing: an order needs room for its file, its nonce and its log entries, and room
/// is held back for the ends of those that were accepted.
const LITTLE_ROOM: u64 = 1 << 20;

/// What is left where the state lies, bytes.
fn room(config: &WardenConfig) -> Result<u64, String> {
    let state = rustix::fs::statvfs(&config.state_dir)
        .map_err(|error| format!("how much room {} has is unknown: {error}", config.state_dir.display()))?;
    Ok(state.f_bavail.saturating_mul(state.f_frsize))
}

/// `status`: who this host is, and whether anything is wrong. An error when signed orders are refused.
pub async fn status(path: &Path, json: bool) -> Result<(), String> {
    let config = WardenConfig::load(path).map_err(|error| chain(&error))?;
    let running = ask(&config, &WardenRequest::Status {}).await;
    let identity = identity(&config)?;
    let policy = Policies::read(&config.state_dir, identity.policy.clone()).map_err(|error| chain(&error))?;
    let checked = Ledger::inspect(&config.state_dir, &identity).map_err(|error| chain(&error));
    let open = ledger::open_orders(&config.state_dir).map_err(|error| chain(&error))?;
    let room = room(&config);
    let little = match &room {
        Ok(room) if *room < LITTLE_ROOM => Some(format!(
            "only {} KiB are left at {}: make room, or orders are refused",
            room >> 10,
            config.state_dir.display()
        )),
        _ => None,
    };
    let (live, closed) = match &running {
        Ok(WardenAnswer::Status(status)) => (true, status.closed.clone()),
        _ => (false, None),
    };
    if json {
        let value = serde_json::json!({
            "running": live,
            "host": identity.host_id,
            "host_key": identity.host_key.public().fingerprint(),
            "host_key_gen": identity.host_key_gen,
            "policy": { "version": policy.version(), "sha256": policy.hash() },
            "nonces_burned": checked.as_ref().ok().map(|(burned, _)| burned),
            "log_entries": checked.as_ref().ok().map(|(_, entries)| entries),
            "open_orders": open.len(),
            "room_bytes": room.as_ref().ok(),
            "refuses_because": closed.clone().or(checked.clone().err()).or(little.clone()),
        });
        println!("{value}");
    } else {
        match &running {
            Ok(_) => println!("warden    runs, version {}", env!("CARGO_PKG_VERSION")),
            Err(why) => println!("warden    DOES NOT ANSWER: {why}"),
        }
        println!("host      {}", identity.host_id);
        println!(
            "host key  {} (generation {})",
            identity.host_key.public().fingerprint(),
            identity.host_key_gen
        );
        println!("policy    version {}, sha256 {}", policy.version(), policy.hash());
        match &checked {
            Ok((burned, entries)) => {
                println!("journal   ok, {burned} nonce(s) burned");
                println!("log       ok, {entries} entries");
            }
            Err(why) => println!("ledger    DAMAGED: {why}"),
        }
        match (&room, &little) {
            (_, Some(why)) => println!("disk      {why}"),
            (Ok(room), None) => println!("disk      ok, {} MiB left", room >> 20),
            (Err(why), None) => println!("disk      {why}"),
        }
        println!("open      {} order(s) accepted and not ended", open.len());
    }
    match closed.or(checked.err()).or(little) {
        Some(why) => Err(format!("signed orders are refused: {why}")),
        None if !live => Err("the warden does not answer, so nothing is carried out".to_owned()),
        None => Ok(()),
    }
}

/// `queue`: what is being done, and what waits.
pub async fn queue(path: &Path, json: bool) -> Result<(), String> {
    let config = WardenConfig::load(path).map_err(|error| chain(&error))?;
    let open = ledger::open_orders(&config.state_dir).map_err(|error| chain(&error))?;
    let entries = match ask(&config, &WardenRequest::Queue {}).await {
        Ok(WardenAnswer::Queue { entries }) => entries,
        Ok(_) => return Err("the warden answered something else: are both of one version?".to_owned()),
        Err(why) => {
            eprintln!("writ-warden: {why}; this is what the state directory holds");
            Vec::new()
        }
    };
    if json {
        let open: Vec<_> = open
            .iter()
            .map(|order| serde_json::json!({ "op": order.op, "kind": kind(order), "stage": order.stage }))
            .collect();
        println!("{}", serde_json::json!({ "queue": entries, "open": open }));
        return Ok(());
    }
    if entries.is_empty() && open.is_empty() {
        println!("nothing is being done, and nothing waits");
        return Ok(());
    }
    println!("{:<14} {:<20} {:<9} {:<7} WORKS ON / HOW FAR", "ORDER", "KIND", "STATE", "SINCE");
    for entry in &entries {
        let order = open.iter().find(|order| Some(order.op) == entry.op);
        let far = order.map_or_else(String::new, |order| format!("; {}", far(order)));
        println!("{}{far}", row(entry, order));
    }
    for order in open.iter().filter(|order| !entries.iter().any(|entry| entry.op == Some(order.op))) {
        println!("{:<14} {:<20} {:<9} {:<7} {}", short(Some(order)), kind(order), "open", "", far(order));
    }
    Ok(())
}

fn row(entry: &QueueEntry, order: Option<&OpenOrder>) -> String {
    let name = match entry.op {
        Some(op) => op.to_string().chars().take(12).collect(),
        None => "unsigned".to_owned(),
    };
    let state = if entry.working { "working" } else { "waiting" };
    let kind = order.map_or_else(String::new, kind);
    let resources = entry.resources.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    format!("{name:<14} {kind:<20} {state:<9} {:<7} {resources}", age(entry.since))
}

fn short(order: Option<&OpenOrder>) -> String {
    order.map_or_else(String::new, |order| order.op.to_string().chars().take(12).collect())
}

fn kind(order: &OpenOrder) -> String {
    order.order().map_or_else(|_| "?".to_owned(), |order| order.kind().to_string())
}

fn far(order: &OpenOrder) -> String {
    let call = |at: usize| {
        let all = order.program.as_ref().map_or(0, |program| program.actions.len());
        let line = order.program.as_ref().and_then(|program| program.actions.get(at));
        let line = line.map_or_else(String::new, |action| format!(", {}", action.call.line()));
        format!("call {} of {all}{line}", at + 1)
    };
    match &order.stage {
        Stage::Verified {} => "verified; Proxmox was not called".to_owned(),
        Stage::Starting { action, .. } => format!("{} is being made, or was", call(*action)),
        Stage::Running { action, upid } => format!("{} runs as {upid}", call(*action)),
        Stage::Handing { .. } => "handed to its executor, or about to be".to_owned(),
    }
}

/// `receipts`: the last entries of the audit log, every signature checked.
pub fn receipts(path: &Path, last: usize, json: bool) -> Result<(), String> {
    let config = WardenConfig::load(path).map_err(|error| chain(&error))?;
    let identity = identity(&config)?;
    let mut kept: std::collections::VecDeque<Receipt> = std::collections::VecDeque::new();
    let key = identity.host_key.public();
    AuditLog::inspect(&config.state_dir, &identity.host_id, &key, |receipt| {
        kept.push_back(receipt.clone());
        if kept.len() > last.min(MAX_RECEIPTS) {
            kept.pop_front();
        }
    })
    .map_err(|error| chain(&error))?;
    for receipt in &kept {
        if json {
            println!("{}", serde_json::to_string(receipt).map_err(|error| error.to_string())?);
        } else {
            let seq = receipt.entry.map_or(0, |entry| entry.seq);
            let (what, how) = receipt.event.words();
            println!("{seq:>6}  {:>6} ago  {what}: {how}", age(receipt.time));
        }
    }
    Ok(())
}

/// `plan`: what an order file would do here, now.
pub async fn plan(path: &Path, file: &Path, json: bool) -> Result<(), String> {
    let config = WardenConfig::load(path).map_err(|error| chain(&error))?;
    let bytes = authz::files::read_limited(file, protocol::Envelope::MAX_PAYLOAD as u64)
        .map_err(|error| chain(&error))?;
    let order = Order::decode(&bytes).map_err(|error| chain(&error))?;
    let draft = Order { plan: None, ..order.clone() };
    let question = Question::Plan { draft: draft.encode().into() };
    let reply = match ask(&config, &WardenRequest::Ask { question }).await? {
        WardenAnswer::Answered { reply } => reply,
        _ => return Err("the warden answered something else: are both of one version?".to_owned()),
    };
    let signed = match reply {
        Reply::Plan { plan } => plan,
        Reply::Refused { code, why } => {
            return Err(format!("this host would refuse it ({}): {}", printable(&code), printable(&why)));
        }
        Reply::World { .. } => return Err("the warden answered another question".to_owned()),
    };
    let identity = identity(&config)?;
    let (plan, _) = Plan::verify(&signed, &identity.host_id, &identity.host_key.public(), &draft)
        .map_err(|error| chain(&error))?;
    if json {
        println!("{}", String::from_utf8_lossy(&signed.payload.0).trim_end());
        return Ok(());
    }
    println!("{} would do this now (it is not signed by anybody, and nothing was done):", order.kind());
    plan.effects.iter().for_each(|effect| println!("  - {effect}"));
    println!("by these calls:");
    plan.calls.iter().for_each(|call| println!("  {call}"));
    Ok(())
}
