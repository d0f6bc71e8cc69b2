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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::NewTunnel;
    use crate::testing::{TestHost, TestHub, alice};
    use protocol::{Envelope, TunnelId};

    #[tokio::test]
    async fn what_an_earlier_run_left_open_is_closed_and_one_day_forgotten() {
        let hub = TestHub::new().await;
        let token = hub.login(&alice()).await;
        let host = TestHost::new(1);
        hub.enroll(&token, &host, "web1").await;
        let new = NewTunnel {
            id: TunnelId::from_bytes([1; 16]),
            host_id: host.id,
            envelope: Envelope::new(b"session".to_vec().into(), vec!["s".to_owned()]),
            operator: "alice".parse().unwrap(),
            key: alice().public().fingerprint(),
        };
        hub.app.store.open_tunnel(&new, 1, hub.app.now()).await.unwrap();
        hub.pass(60);
        close_left_tunnels(&hub.app).await.unwrap();
        let view = hub.app.store.tunnel(&new.id).await.unwrap().unwrap();
        assert_eq!(view.why.as_deref(), Some("the hub was restarted"));
        assert_eq!(view.closed_at, Some(view.opened_at + 60));

        hub.pass(TUNNELS_KEPT_S);
        round(&hub.app).await.unwrap();
        assert!(hub.app.store.tunnel(&new.id).await.unwrap().is_some(), "to the second");
        hub.pass(1);
        let running = tokio::spawn(run(hub.app.clone()));
        let gone = async {
            while hub.app.store.tunnel(&new.id).await.unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the first round is at once");
        hub.app.live.stop();
        tokio::time::timeout(Duration::from_secs(20), running).await.expect("it ends with the hub").unwrap();
    }
}
