//! What nobody asks for: once a start and once a day the journal forgets what it need not know any more.

use std::sync::Arc;
use std::time::Duration;

use crate::warden::{Shut, Warden, chain};

/// So often, at most.
pub const EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Compacts the nonce journal now and once a day, until it is dropped.
pub async fn daily(warden: Arc<Warden>) {
    loop {
        warden.compact(crate::now());
        tokio::time::sleep(EVERY).await;
    }
}

impl Warden {
    /// Forgets nonces that signed floor and clock are long past ([`crate::ledger::Ledger::compact`]). `now` is
    /// the host's clock, unix seconds. Gives how many.
    pub fn compact(&self, now: u64) -> u64 {
        match self.with_ledger(|_, ledger| ledger.compact(now)) {
            Ok(Ok(forgotten)) => {
                if forgotten > 0 {
                    tracing::info!(forgotten, "the nonce journal forgot orders that ended long ago");
                }
                forgotten
            }
            // A full disk, or a file that could not be read: there is another day.
            Ok(Err(error)) if !error.is_of_the_journal() => {
                tracing::warn!(error = %chain(&error), "the nonce journal could not be made shorter");
                0
            }
            Ok(Err(error)) => {
                self.fail(&error);
                0
            }
            Err(Shut::NotEnrolled | Shut::Closed(..)) => 0,
        }
    }
}
