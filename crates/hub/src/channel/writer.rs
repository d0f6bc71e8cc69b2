//! The sending side of a channel.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use protocol::HostId;
use protocol::frame::HubFrame;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use crate::app::App;
use crate::live::{Closing, Wake};
use crate::store::StoreError;

/// Answers that may wait for a slow agent; one more and it is dropped.
pub(super) const QUEUE: usize = 64;

/// What the reading side asks for.
#[derive(Debug)]
pub(super) enum Out {
    /// An answer.
    Frame(HubFrame),
    /// From now on the desired state is sent, now and whenever it changes.
    SendDesired,
    /// From now on policy documents are sent, all of them and each new one.
    SendPolicy,
    /// From now on tunnels may be asked for.
    SendTunnels,
    /// From now on orders are delivered.
    SendOrders,
    /// The last words.
    Bye(Closing),
}

/// Why sending ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// It does not read.
    #[error("the agent does not read; the channel is dropped")]
    Slow,
    /// It is gone.
    #[error("the connection is broken")]
    Gone(#[source] axum::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sends until told to stop, or until nobody can ask any more.
pub(super) struct Writer {
    pub(super) app: App,
    pub(super) host_id: HostId,
    pub(super) sink: SplitSink<WebSocket, Message>,
    pub(super) queue: mpsc::Receiver<Out>,
    /// Frames about tunnels, from those who keep them.
    pub(super) tunnels: mpsc::Receiver<HubFrame>,
    pub(super) wake: Arc<Wake>,
}

impl Writer {
    pub(super) async fn run(mut self) -> Result<(), SendError> {
        let period = self.app.limits().heartbeat;
        let mut heartbeat = interval_at(tokio::time::Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut desired, mut tunnels, mut orders, mut generation) = (false, false, false, 0);
        let (mut policy, mut policy_sent) = (false, 0);
        let wake = self.wake.clone();
        loop {
            tokio::select! {
                biased;
                out = self.queue.recv() => match out {
                    None => return Ok(()),
                    Some(Out::Frame(frame)) => self.send(&frame).await?,
                    Some(Out::SendDesired) => {
                        desired = true;
                        wake.desired.notify_one();
                    }
                    Some(Out::SendPolicy) => {
                        policy = true;
                        wake.policy.notify_one();
                    }
                    Some(Out::SendTunnels) => tunnels = true,
                    Some(Out::SendOrders) => {
                        let again = self.app.store.deliver_unheard_again(&self.host_id).await?;
                        if again > 0 {
                            tracing::info!(host = %self.host_id, again, "orders of which nothing was heard go out again");
                        }
                        orders = true;
                        wake.orders.notify_one();
                    }
                    Some(Out::Bye(Closing { why, retry_after_s })) => {
                        self.send(&HubFrame::Bye { why, retry_after_s }).await?;
                        return self.raw(Message::Close(None)).await;
                    }
                },
                // An operator waits for this one.
                Some(frame) = self.tunnels.recv(), if tunnels => self.send(&frame).await?,
                _ = heartbeat.tick() => {
                    self.send(&HubFrame::Heartbeat {}).await?;
                    // An agent that waits for approval sends nothing, but its WebSocket answers.
                    self.raw(Message::Ping(Vec::new().into())).await?;
                }
                () = wake.desired.notified(), if desired => {
                    generation = self.send_desired(generation).await?;
                }
                // Before orders: they name the newest policy.
                () = wake.policy.notified(), if policy => {
                    if let Some(document) = self.app.store.policy_document_after(policy_sent).await? {
                        self.send(&HubFrame::Policy { document: document.envelope }).await?;
                        policy_sent = document.n;
                        wake.policy.notify_one();
                    }
                }
                () = wake.orders.notified(), if orders => {
                    // One at a time, so that answers and heartbeats come in between.
                    if self.send_next_order().await? {
                        wake.orders.notify_one();
                    }
                }
            }
        }
    }

    async fn send_desired(&mut self, sent: u64) -> Result<u64, SendError> {
        match self.app.store.desired(&self.host_id).await? {
            Some(desired) if desired.generation > sent => {
                let generation = desired.generation;
                self.send(&HubFrame::Desired { generation, state: desired.state }).await?;
                tracing::debug!(host = %self.host_id, generation, "desired state sent");
                Ok(generation)
            }
            _ => Ok(sent),
        }
    }

    async fn send_next_order(&mut self) -> Result<bool, SendError> {
        let Some(order) = self.app.store.next_order(&self.host_id).await? else { return Ok(false) };
        self.send(&HubFrame::Order { envelope: order.envelope.clone() }).await?;
        // Sent first and booked after: an order may arrive twice, which the host refuses, but it
        // is never lost between the two.
        self.app.store.order_delivered(&self.host_id, &order).await?;
        self.app.live.order_changed(&self.host_id);
        tracing::info!(host = %self.host_id, op = %order.op, "order delivered");
        Ok(true)
    }

    async fn send(&mut self, frame: &HubFrame) -> Result<(), SendError> {
        let text = serde_json::to_string(frame).expect("frames hold nothing that JSON cannot say");
        self.raw(Message::Text(text.into())).await
    }

    async fn raw(&mut self, message: Message) -> Result<(), SendError> {
        let patience: Duration = self.app.limits().send;
        match timeout(patience, self.sink.send(message)).await {
            Ok(sent) => sent.map_err(SendError::Gone),
            Err(_) => Err(SendError::Slow),
        }
    }
}
