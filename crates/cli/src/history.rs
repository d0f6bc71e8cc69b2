//! Whether what a hub shows of a host's log continues what this machine saw of it before. Pure; tested
//! against a hub that shortens, forks and swaps.
//!
//! Every machine with this tool is a witness (`security.md` 2.9 anchor C, 2.11): it keeps the last
//! checkpoint per host and never takes a smaller one, nor one that does not continue it. What a machine
//! sees first it has nothing to compare with; comparing with another operator's ([`compare`] on two
//! kept ones, `writ audit compare`) shows whether a hub tells everybody the same story.

use authz::canonical;
use authz::checkpoint::CheckpointError;
use authz::merkle::ProofError;
use authz::{Checkpoint, Origin, Receipt};
use protocol::{HostName, Note, Sha256};
use serde::{Deserialize, Serialize};

use crate::resolve::Believed;

/// Why a host's history is not believed. Whatever was kept before is still kept.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Forged, or of another log.
    #[error("HISTORY NOT BELIEVED: the hub's checkpoint for host '{host}' is not by the host: {why}")]
    Checkpoint {
        /// The host.
        host: HostName,
        /// In words.
        why: String,
        /// What exactly.
        #[source]
        source: CheckpointError,
    },
    /// Fewer entries than before.
    #[error(
        "HISTORY NOT BELIEVED: the log of host '{host}' has {shown} entries now, and this machine has seen one of {kept} that the host signed: the hub hides entries or runs on an old copy, or the host was rolled back. The checkpoint of {kept} entries is kept. Compare with another operator (`writ audit compare`); once it is explained, `writ audit forget {host}` starts anew"
    )]
    Shrunk {
        /// The host.
        host: HostName,
        /// Entries seen before.
        kept: u64,
        /// Entries shown now.
        shown: u64,
    },
    /// Two histories of one length.
    #[error(
        "HISTORY NOT BELIEVED: host '{host}' signed two different logs of {size} entries (roots {kept} and {shown}): its history was rewritten, or two hosts run with one key. The checkpoint seen first is kept; `writ audit checkpoint {host}` prints it for other operators"
    )]
    Forked {
        /// The host.
        host: HostName,
        /// Entries in both.
        size: u64,
        /// Root seen before.
        kept: Sha256,
        /// Root shown now.
        shown: Sha256,
    },
    /// Longer, but not a continuation; or nobody shows that it is one.
    #[error(
        "HISTORY NOT BELIEVED: nothing shows that the log of host '{host}' with {shown} entries continues the one with {kept} that this machine saw ({why}): the hub is lying, or the host's history was rewritten. The checkpoint of {kept} entries is kept; compare with another operator (`writ audit compare`)"
    )]
    NotContinued {
        /// The host.
        host: HostName,
        /// Entries seen before.
        kept: u64,
        /// Entries shown now.
        shown: u64,
        /// In words.
        why: String,
    },
    /// A receipt that is not in the log.
    #[error(
        "HISTORY NOT BELIEVED: host '{host}' signed a receipt for entry {entry}, but nothing shows that its log of {size} entries has it there ({why}): the hub is lying, or the host's log was forked"
    )]
    NotIncluded {
        /// The host.
        host: HostName,
        /// Its place.
        entry: u64,
        /// Entries in the log.
        size: u64,
        /// In words.
        why: String,
    },
    /// The entries that the hub shows are not those under the checkpoint.
    #[error(
        "HISTORY NOT BELIEVED: the {size} entries that the hub shows for host '{host}' are not the ones whose checkpoint the host signed (root {found} instead of {signed}): the log was forked"
    )]
    OtherEntries {
        /// The host.
        host: HostName,
        /// Entries.
        size: u64,
        /// Root in the checkpoint.
        signed: Sha256,
        /// Root of what is shown.
        found: Sha256,
    },
    /// Only refusals may stand outside the log.
    #[error(
        "HISTORY NOT BELIEVED: host '{host}' signed that the order succeeded, but as no entry of its log: no host of ours does that"
    )]
    Unlogged {
        /// The host.
        host: HostName,
    },
    /// A key of the past.
    #[error(
        "HISTORY NOT BELIEVED: host '{host}' is stated with key generation {shown} now, and this machine has seen its log under generation {kept}: an older key must not come back. Once it is explained, `writ audit forget {host}` starts anew"
    )]
    OlderKey {
        /// The host.
        host: HostName,
        /// Generation seen before.
        kept: u32,
        /// Generation now.
        shown: u32,
    },
    /// Another key under the same generation, or a damaged file.
    #[error(
        "HISTORY NOT BELIEVED: the checkpoint that this machine keeps for host '{host}' is not by the key that operators state now ({why}): was the host made anew under its old id? Once it is explained, `writ audit forget {host}` starts anew"
    )]
    Kept {
        /// The host.
        host: HostName,
        /// In words.
        why: String,
        /// What exactly.
        #[source]
        source: CheckpointError,
    },
}

/// A place in a host's log that this machine has verified; what an order's `after` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// Entries up to there.
    pub size: u64,
    /// SHA-256 of the last one's payload.
    pub head: Sha256,
}

/// What this machine keeps of a host's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// 1.
    pub v: u32,
    /// The newest checkpoint that was believed.
    pub note: Note,
    /// The newest entry that was proven to be in the log.
    pub anchor: Option<Anchor>,
    /// By this machine's clock, unix seconds.
    pub seen_at: u64,
}

/// A receipt that is proven to be in the host's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Its place, from 0.
    pub entry: u64,
    /// Entries in the log.
    pub size: u64,
    /// Root of the log, as the host signed it.
    pub root: Sha256,
}

/// What is still to be shown about a new checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is the first, and there is nothing to compare with.
    First,
    /// Nothing: it is the kept one.
    Same,
    /// That it continues the kept one.
    Continues,
}

/// Which log is meant by a host.
pub fn origin(host: &Believed) -> Origin {
    Origin { host: *host.id(), generation: host.statement.host_key_gen }
}

/// A checkpoint by this host, under the key that the operator vouched for.
pub fn believe(note: &Note, host: &Believed) -> Result<Checkpoint, HistoryError> {
    Checkpoint::verify(note, &origin(host), &host.key).map_err(|source| HistoryError::Checkpoint {
        host: host.name().clone(),
        why: source.to_string(),
        source,
    })
}

/// A checkpoint that this machine kept.
pub fn believe_kept(kept: &Kept, host: &Believed) -> Result<Checkpoint, HistoryError> {
    Checkpoint::verify(&kept.note, &origin(host), &host.key).map_err(|source| HistoryError::Kept {
        host: host.name().clone(),
        why: source.to_string(),
        source,
    })
}

/// Holds a new checkpoint against the kept one.
pub fn compare(host: &HostName, kept: Option<&Checkpoint>, shown: &Checkpoint) -> Result<Next, HistoryError> {
    let Some(kept) = kept else { return Ok(Next::First) };
    if shown.size < kept.size {
        return Err(HistoryError::Shrunk { host: host.clone(), kept: kept.size, shown: shown.size });
    }
    if shown == kept {
        return Ok(Next::Same);
    }
    if shown.size == kept.size {
        let (kept, size, shown) = (kept.root, shown.size, shown.root);
        return Err(HistoryError::Forked { host: host.clone(), size, kept, shown });
    }
    Ok(Next::Continues)
}

/// Judges the hub's proof that `shown` continues `kept`.
pub fn check_continues(
    host: &HostName,
    kept: &Checkpoint,
    shown: &Checkpoint,
    proof: &[Sha256],
) -> Result<(), HistoryError> {
    shown.continues(kept, proof).map_err(|error| not_continued(host, kept, shown, explain(error)))
}

/// For a hub that gives no such proof.
pub fn not_continued(host: &HostName, kept: &Checkpoint, shown: &Checkpoint, why: String) -> HistoryError {
    HistoryError::NotContinued { host: host.clone(), kept: kept.size, shown: shown.size, why }
}

/// Judges the hub's proof that a believed receipt is the entry that it says it is.
pub fn check_included(
    host: &HostName,
    receipt: &Receipt,
    entry: u64,
    checkpoint: &Checkpoint,
    proof: &[Sha256],
) -> Result<Anchor, HistoryError> {
    // A believed receipt has one spelling (rule V18): these are the bytes that were signed.
    let payload = canonical::encode(receipt);
    checkpoint
        .includes(entry, &payload, proof)
        .map_err(|error| not_included(host, entry, checkpoint, explain(error)))?;
    Ok(Anchor { size: entry + 1, head: Sha256::of(&payload) })
}

/// For a hub that gives no such proof.
pub fn not_included(host: &HostName, entry: u64, checkpoint: &Checkpoint, why: String) -> HistoryError {
    HistoryError::NotIncluded { host: host.clone(), entry, size: checkpoint.size, why }
}

fn explain(error: ProofError) -> String {
    format!("the hub's proof is wrong: {error}")
}

#[cfg(test)]
mod tests;
