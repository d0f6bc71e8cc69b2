//! What nobody asks for: once a start and once a day the journal forgets what it need not know any more.

use std::sync::Arc;
use std::time::Duration;

use crate::runner::Runner;

/// So often, at most.
pub const EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Compacts the nonce journal now and once a day, until it is dropped.
pub async fn daily(runner: Arc<Runner>) {
    loop {
        runner.compact(crate::now());
        tokio::time::sleep(EVERY).await;
    }
}
