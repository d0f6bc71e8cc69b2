//! Results of scripts on their way up: which question to ask the warden next. Pure.
//!
//! The warden keeps each result until it is told that the hub holds it, so nothing is kept here but
//! names; one result at a time is in memory, between the warden's answer and the socket. A result
//! does not overtake the receipt of its order: it waits for a reading of the log that began after
//! the result was known.

use std::collections::{BTreeSet, VecDeque};

use protocol::Sha256;

use super::Effect;

/// Most results that are sent and not acknowledged, apart from those that the hub had time for.
pub(super) const WINDOW: usize = 8;

/// The results that this connection deals with.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// The warden is being asked something.
    asking: bool,
    /// Ask it which ones there are.
    wanted: bool,
    /// The last question failed: nothing is asked before the next tick.
    failed: bool,
    /// Readings of the log that began.
    begun: u64,
    /// The last of these that came to the log's end, and whose entries were sent.
    settled: u64,
    /// To be sent, each after a reading later than this one.
    waiting: VecDeque<(Sha256, u64)>,
    /// Sent since the last tick, and not acknowledged.
    sent: BTreeSet<Sha256>,
    /// Sent before. A hub does not take the result of an order that it does not know; such a one must
    /// not hold up the others.
    late: BTreeSet<Sha256>,
    /// Acknowledged, and not forgotten.
    stored: VecDeque<Sha256>,
}

impl Results {
    /// There may be results that nobody named.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// There is this one.
    pub(super) fn add(&mut self, op: Sha256) {
        if !self.knows(&op) {
            self.waiting.push_back((op, self.begun));
        }
    }

    fn knows(&self, op: &Sha256) -> bool {
        self.sent.contains(op)
            || self.late.contains(op)
            || self.stored.contains(op)
            || self.waiting.iter().any(|(waiting, _)| waiting == op)
    }

    /// The next question to the warden, one at a time.
    pub(super) fn next(&mut self) -> Option<Effect> {
        if self.asking || self.failed {
            return None;
        }
        let effect = if let Some(op) = self.stored.pop_front() {
            Effect::ForgetResult { op }
        } else if self.wanted {
            self.wanted = false;
            Effect::ListResults
        } else {
            let (op, after) = *self.waiting.front()?;
            if self.settled <= after || self.sent.len() >= WINDOW {
                return None;
            }
            self.waiting.pop_front();
            Effect::ReadResult { op }
        };
        self.asking = true;
        Some(effect)
    }

    /// The warden named the ones that wait. Says whether any was new.
    pub(super) fn on_list(&mut self, ops: Vec<Sha256>) -> bool {
        self.asking = false;
        let known = self.waiting.len();
        for op in ops {
            self.add(op);
        }
        self.waiting.len() > known
    }

    /// One is about to be sent.
    pub(super) fn on_read(&mut self, op: Sha256) {
        self.asking = false;
        self.sent.insert(op);
    }

    /// One is forgotten, or was not there.
    pub(super) fn on_answer(&mut self) {
        self.asking = false;
    }

    /// The warden did not answer; the next tick asks it again from the beginning.
    pub(super) fn on_failed(&mut self) {
        self.asking = false;
        self.failed = true;
    }

    /// It did not answer that this one is forgotten.
    pub(super) fn on_not_forgotten(&mut self, op: Sha256) {
        self.stored.push_front(op);
        self.on_failed();
    }

    /// The hub holds one. False when it was not sent on this connection.
    pub(super) fn on_stored(&mut self, op: Sha256) -> bool {
        let sent = self.sent.remove(&op) || self.late.remove(&op);
        if sent {
            self.stored.push_back(op);
        }
        sent
    }

    /// Time to try again what failed, and to go on without what is not acknowledged.
    pub(super) fn on_tick(&mut self) {
        self.late.append(&mut self.sent);
        if std::mem::take(&mut self.failed) {
            self.wanted = true;
        }
    }

    /// A reading of the log begins.
    pub(super) fn log_reading(&mut self) {
        self.begun += 1;
    }

    /// It came to the log's end.
    pub(super) fn log_at_end(&mut self) {
        self.settled = self.begun;
    }
}
