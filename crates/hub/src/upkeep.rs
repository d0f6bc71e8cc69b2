//! Forgetting what nobody needs any more, and what a start has to set right.

use tokio::time::{MissedTickBehavior, interval};

use crate::app::App;
use crate::http::Chain;
use crate::store::StoreError;

/// Seconds that a closed tunnel stays in the lists.
const TUNNELS_KEPT_S: u64 = 90 * 24 * 3_600;

/// A tunnel lives in the memory of one run; those that an earlier one left open are over.
pub(crate) async fn close_left_tunnels(app: &App) -> Result<(), StoreError> {
    let closed = app.store.close_all_tunnels("the hub was restarted", app.now()).await?;
    if closed > 0 {
        tracing::warn!(closed, "an earlier run of the hub ended with open tunnels");
    }
    Ok(())
}

/// Runs until the hub stops; the first round is at once.
pub(crate) async fn run(app: App) {
    let mut stop = app.live.watch_stop();
    let mut rounds = interval(app.limits().upkeep);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            _ = rounds.tick() => {}
        }
        if let Err(error) = round(&app).await {
            tracing::error!(error = %Chain(&error), "upkeep failed and is tried again later");
        }
    }
}

async fn round(app: &App) -> Result<(), StoreError> {
    let tunnels = app.store.forget_tunnels(app.now().saturating_sub(TUNNELS_KEPT_S)).await?;
    let scripts = app.store.forget_scripts().await?;
    if tunnels + scripts > 0 {
        tracing::info!(tunnels, scripts, "forgot old tunnels and scripts that have done their work");
    }
    Ok(())
}
