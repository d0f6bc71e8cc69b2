//! Whether a receipt is believed, and what it says about an order or a host's history. Pure;
//! tested against a hub that forges, mixes up and leaves out.

use authz::receipt::ReceiptError;
use authz::{Event, Outcome, PublicKey, Receipt, RefusalCode};
use protocol::api::{OrderReceipt, OrderView};
use protocol::{Envelope, HostName, Sha256, Signed};

use crate::history::Proof;
use crate::resolve::Believed;

mod refusal;

pub use refusal::{Aftermath, weight};

/// Why a receipt is not believed.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// Not by the host, not about it, or not a receipt.
    #[error("forged receipt: {why}")]
    Forged {
        /// In words.
        why: String,
        /// What exactly was wrong.
        #[source]
        source: ReceiptError,
    },
    /// Another format.
    #[error("the receipt of host '{host}' has format version {version}: use a newer writ")]
    Version {
        /// The host.
        host: HostName,
        /// Its version.
        version: u32,
    },
    /// Signed by the right key under another generation.
    #[error(
        "the receipt is signed as key generation {found} of host '{host}', the operator-signed statement knows generation {expected}: do not believe it"
    )]
    Generation {
        /// The host.
        host: HostName,
        /// The statement's.
        expected: u32,
        /// The receipt's.
        found: u32,
    },
    /// A real receipt, shown for another order.
    #[error(
        "the hub shows a receipt {about} as one about order {expected}: the hub is wrong or lying, the fate of your order is not known"
    )]
    OtherOrder {
        /// Asked for.
        expected: Sha256,
        /// What it is about.
        about: String,
    },
    /// A real receipt about this order, but no open session.
    #[error(
        "the hub says that the session is open, but host '{host}' signed something else about it: {about}"
    )]
    NotReady {
        /// The host.
        host: HostName,
        /// What it signed.
        about: String,
    },
    /// The answer is about another order altogether.
    #[error("asked about order {expected}, the hub answers about order {found}: the hub is wrong or lying")]
    OtherView {
        /// Asked for.
        expected: Sha256,
        /// Found.
        found: Sha256,
    },
}

/// A receipt by this host, under the key that the operator vouched for.
pub fn believe(signed: &Signed, host: &Believed) -> Result<Receipt, JudgeError> {
    let receipt = Receipt::verify(signed, host.id(), &host.key)
        .map_err(|source| JudgeError::Forged { why: source.to_string(), source })?;
    if receipt.v != 1 {
        return Err(JudgeError::Version { host: host.name().clone(), version: receipt.v });
    }
    if receipt.host_key_gen != host.statement.host_key_gen {
        return Err(JudgeError::Generation {
            host: host.name().clone(),
            expected: host.statement.host_key_gen,
            found: receipt.host_key_gen,
        });
    }
    Ok(receipt)
}

/// A receipt by this host about this order.
pub fn believe_about(signed: &Signed, host: &Believed, op: &Sha256) -> Result<Receipt, JudgeError> {
    let receipt = believe(signed, host)?;
    let about = match &receipt.event {
        Event::Order { op: found, .. }
        | Event::OrderCommitted { op: found, .. }
        | Event::SessionReady { op: found, .. } => {
            if found == op {
                return Ok(receipt);
            }
            format!("about order {found}")
        }
        Event::StepStarted { generation, .. } | Event::Step { generation, .. } => {
            format!("about a step of generation {generation}")
        }
        Event::Enrolled { .. } => "about the host's enrollment".to_owned(),
        Event::PolicyAdvanced { .. } | Event::Revoked { .. } => "about the host's policy".to_owned(),
    };
    Err(JudgeError::OtherOrder { expected: *op, about })
}

/// The SSH host key of the session that this order opened, by the host's word. Nobody else's word will do:
/// whoever could name another key could stand in the middle of the session.
pub fn session_host_key(signed: &Signed, host: &Believed, op: &Sha256) -> Result<PublicKey, JudgeError> {
    let receipt = believe_about(signed, host, op)?;
    let not_ready = |about: String| JudgeError::NotReady { host: host.name().clone(), about };
    match &receipt.event {
        Event::SessionReady { host_key, .. } => {
            PublicKey::try_from(*host_key).map_err(|error| not_ready(error.to_string()))
        }
        Event::Order { outcome, .. } => Err(not_ready(outcome.to_string())),
        Event::OrderCommitted { .. }
        | Event::Enrolled { .. }
        | Event::PolicyAdvanced { .. }
        | Event::Revoked { .. }
        | Event::StepStarted { .. }
        | Event::Step { .. } => Err(not_ready("it is only accepted".to_owned())),
    }
}

/// What the receipts of one order say.
#[derive(Debug, Default)]
pub struct Story {
    /// How it ended for this submission: of the receipts newer than the version it started at, the
    /// one that says most. A refusal outside the host's log is only taken while there is no other.
    pub end: Option<Receipt>,
    /// The nonce was burned during this submission.
    pub committed: bool,
    /// Of a session: it was open.
    pub ready: bool,
    /// A successful end that lies before this submission.
    pub earlier_success: Option<Receipt>,
    /// The order as the hub shows it, if its payload is the one that was asked for.
    pub envelope: Option<Envelope>,
    /// That the end is in the host's log; none for a refusal outside it, and until it is proven.
    pub proof: Option<Proof>,
    /// Of a script: what the hub shows as its sealed result. The receipt tells whether it is.
    pub result: Option<Vec<u8>>,
}

/// Believes every receipt in the hub's answer or none: one bad receipt means that this hub's
/// answer about the order is worth nothing. `after` is the version that the submission started at.
pub fn story(view: &OrderView, after: u64, host: &Believed, op: &Sha256) -> Result<Story, JudgeError> {
    if view.op != *op {
        return Err(JudgeError::OtherView { expected: *op, found: view.op });
    }
    let envelope = Some(&view.envelope).filter(|envelope| envelope.id() == *op).cloned();
    let result = view.result.as_ref().map(|sealed| sealed.0.clone());
    let mut story = Story { envelope, result, ..Story::default() };
    for OrderReceipt { version, receipt } in &view.receipts {
        let receipt = believe_about(receipt, host, op)?;
        let success = receipt.order_outcome().map(|(_, outcome)| outcome.is_success());
        match (success, *version > after) {
            (Some(true), false) => story.earlier_success = Some(receipt),
            (Some(false), false) => {}
            // A second copy of an order that runs is refused, and says nothing about how the first one ends.
            (Some(false), true)
                if story.committed && receipt.order_outcome().is_some_and(|(_, end)| is_replay(end)) => {}
            // Of equals the first is this submission's; a later one belongs to a later submission.
            // But a refusal is not the end of an order's danger: the hub may first deliver it
            // without its signatures and then as it is.
            (Some(_), true) => {
                if story.end.as_ref().is_none_or(|end| weight(end) < weight(&receipt)) {
                    story.end = Some(receipt);
                }
            }
            (None, new) => {
                story.committed |= new;
                story.ready |= new && matches!(receipt.event, Event::SessionReady { .. });
            }
        }
    }
    Ok(story)
}

/// Whether the host refused the order because it was used before.
pub fn is_replay(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { code: RefusalCode::Replay, .. })
}

impl Story {
    /// The script ran, and the hub does not show its result yet.
    pub fn lacks_result(&self) -> bool {
        let ran = |receipt: &Receipt| {
            receipt.order_outcome().is_some_and(|(_, outcome)| matches!(outcome, Outcome::Ran { .. }))
        };
        self.result.is_none() && self.end.as_ref().is_some_and(ran)
    }
}

/// Why the host's history has a hole or a crack.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Not believed at all.
    #[error("entry {place}: {why}")]
    Receipt {
        /// Where.
        place: u64,
        /// In words.
        why: String,
        /// What exactly.
        #[source]
        source: JudgeError,
    },
    /// A receipt from outside the log.
    #[error("entry {place}: the receipt is real but no entry of the host's log: the hub put it there")]
    NoEntry {
        /// Where.
        place: u64,
    },
    /// Left out, doubled or shuffled.
    #[error("entry {place}: the hub shows entry {found} in its place: entries are missing or shuffled")]
    Place {
        /// Where.
        place: u64,
        /// What is there.
        found: u64,
    },
    /// Does not continue what is before.
    #[error(
        "entry {place}: it does not continue entry {before}: the host's log was forked or rolled back",
        before = .place.saturating_sub(1)
    )]
    Prev {
        /// Where.
        place: u64,
    },
    /// The hub says it holds more than it shows.
    #[error("the hub says that it holds {held} entries and shows only {shown}: entries are missing")]
    Missing {
        /// Announced.
        held: u64,
        /// Shown.
        shown: u64,
    },
}

/// Follows a host's log from its first entry.
#[derive(Debug)]
pub struct Chain {
    next: u64,
    prev: Sha256,
}

impl Default for Chain {
    fn default() -> Self {
        Self { next: 0, prev: Sha256::from_bytes([0; 32]) }
    }
}

impl Chain {
    /// The place of the next entry.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next entry if it is by the host, in its place, and continues the one before.
    pub fn push(&mut self, signed: &Signed, host: &Believed) -> Result<Receipt, ChainError> {
        let place = self.next;
        let receipt = believe(signed, host).map_err(|source| ChainError::Receipt {
            place,
            why: source.to_string(),
            source,
        })?;
        let entry = receipt.entry.ok_or(ChainError::NoEntry { place })?;
        if entry.seq != place {
            return Err(ChainError::Place { place, found: entry.seq });
        }
        if entry.prev != self.prev {
            return Err(ChainError::Prev { place });
        }
        self.next += 1;
        self.prev = Sha256::of(&signed.payload.0);
        Ok(receipt)
    }

    /// At the end: everything that the hub announced was there.
    pub fn finish(&self, held: u64) -> Result<(), ChainError> {
        if self.next < held { Err(ChainError::Missing { held, shown: self.next }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
