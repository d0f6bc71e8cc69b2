//! What the server showed on the last connection that was made, for reports.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::pin::{Pin, PinKind};

/// The certificate of a server that proved its key, and the pin that it matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// SHA-256 of the certificate.
    pub leaf: Pin,
    /// SHA-256 of its public key.
    pub spki: Pin,
    /// When it ends, seconds since 1970; `None` if that cannot be read. An expired certificate is
    /// accepted where its own pin or its key's matches, so look.
    pub not_after: Option<u64>,
    /// What it was accepted for. A `leaf` that is none of the configured pins came from root's copy.
    pub matched: Pin,
}

/// A handshake first shows a certificate and later proves its key. What was only shown is kept apart,
/// because anybody can show a copy.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Shown and not proven yet, newest last.
    pending: Vec<Presented>,
    proven: Option<Presented>,
}

/// As many handshakes as can be under way.
const MOST_PENDING: usize = 16;

impl Shown {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn proven(&self) -> Option<Presented> {
        self.state().proven
    }

    /// A certificate that a pin allows.
    pub(crate) fn offer(&self, presented: Presented) {
        let mut state = self.state();
        state.pending.retain(|other| other.leaf != presented.leaf);
        if state.pending.len() >= MOST_PENDING {
            state.pending.remove(0);
        }
        state.pending.push(presented);
    }

    /// The key of that certificate was proven; `configured` are the pins that were given.
    pub(crate) fn prove(&self, leaf: Pin, configured: &[Pin]) {
        let mut state = self.state();
        let Some(at) = state.pending.iter().position(|other| other.leaf == leaf) else { return };
        let now = state.pending.remove(at);
        let before = state.proven.replace(now);
        let from_root = now.matched.kind() == PinKind::Leaf && !configured.contains(&now.matched);
        drop(state);
        // Said once for each certificate, not for each connection.
        if from_root && before.is_none_or(|before| before.leaf != now.leaf) {
            let old = before.map(|before| before.leaf);
            let old = old.or_else(|| configured.iter().copied().find(|pin| pin.kind() == PinKind::Leaf));
            tracing::warn!(
                old = old.map_or_else(|| "unknown".to_owned(), |pin| pin.to_string()),
                new = %now.leaf,
                "the node's certificate was rotated; root's copy of its fingerprint agrees, so it is accepted"
            );
        } else if let Some(before) = before.filter(|before| before.leaf != now.leaf) {
            tracing::info!(old = %before.leaf, new = %now.leaf, matched = %now.matched, "the node's certificate was renewed");
        }
    }
}
