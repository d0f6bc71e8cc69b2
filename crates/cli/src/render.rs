//! Orders and receipts as a person reads them. Pure; every foreign word is made safe.

use authz::order::{JobParams, Params, SessionParams};
use authz::receipt::Signer;
use authz::{Order, Outcome, Receipt};
use protocol::text::printable;
use protocol::{Sha256, SnapshotRef};

use crate::text::utc;

mod kinds;
mod order;

pub use order::order;

/// What an order is about, in a few words: its kind, and the guest or the account.
pub fn about(order: &Order) -> String {
    match &order.params {
        Params::JobRun(JobParams { user, .. }) | Params::SessionOpen(SessionParams { user, .. }) => {
            format!("{} as {user}", order.kind())
        }
        _ => match order.vmid() {
            Some(vmid) => format!("{} {vmid}", order.kind()),
            None => order.kind().to_string(),
        },
    }
}

/// A snapshot with what makes it this one.
pub fn snapshot(snapshot: &SnapshotRef) -> String {
    let parent =
        snapshot.parent.as_deref().map_or_else(|| "none".to_owned(), |p| format!("'{}'", printable(p)));
    format!("snapshot '{}' of {}, parent {parent}", snapshot.name, utc(snapshot.time))
}

/// How it ended, with Proxmox's task and warnings.
pub fn outcome(outcome: &Outcome) -> String {
    let upid = match outcome {
        Outcome::Refused { .. } | Outcome::Aborted { .. } | Outcome::Ran { .. } => None,
        Outcome::Warnings { upid, .. } => Some(upid),
        Outcome::Done { upid, .. } | Outcome::Failed { upid, .. } | Outcome::Unknown { upid, .. } => {
            upid.as_ref()
        }
    };
    let mut text = printable(&outcome.to_string());
    if let Outcome::Warnings { lines, .. } = outcome {
        for line in lines {
            text.push_str(&format!("\n    warning: {}", printable(line.as_str())));
        }
    }
    if let Some(upid) = upid {
        text.push_str(&format!("\n    Proxmox task {}", printable(upid)));
    }
    text
}

/// Who signed, as the host names them.
pub fn signers(signers: &[Signer]) -> String {
    if signers.is_empty() {
        return "nobody known".to_owned();
    }
    signers.iter().map(|s| s.operator.to_string()).collect::<Vec<_>>().join(", ")
}

/// A receipt as a row: time, place, event, outcome.
pub fn receipt_row(receipt: &Receipt) -> Vec<String> {
    let place = receipt.entry.map_or_else(|| "-".to_owned(), |entry| entry.seq.to_string());
    let (event, how) = receipt.event.words();
    vec![place, utc(receipt.time), event, how]
}

/// Enough of a hash to recognise it in a list; never used to name anything to a machine.
pub fn short(hash: &Sha256) -> String {
    hash.to_string().chars().take(12).collect()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod golden;
