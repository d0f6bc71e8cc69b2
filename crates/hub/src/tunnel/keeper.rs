//! The life of one tunnel, from the request to the closed row.

use std::pin::pin;
use std::time::Duration;

use protocol::api::TunnelAnswer;
use protocol::frame::HubFrame;
use protocol::text::SafeText;
use protocol::{Fingerprint, HostName};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};

use super::registry::{About, Kept};
use super::relay::{self, Connected, Relay};
use super::{Dialed, End, HostAnswer, Origin, Why};
use crate::app::App;
use crate::http::{ApiError, Chain};
use crate::live::Line;
use crate::store::{NewTunnel, Relayed};

/// What the operator's request is answered with.
type Answer = Result<TunnelAnswer, ApiError>;

/// Opens a tunnel and keeps it until it is closed. Runs in a task of its own: when the request is
/// dropped, somebody still has to close the row. That `answer` has lost its receiver is how the
/// keeper sees that the operator left.
pub(crate) async fn open(app: App, new: NewTunnel, answer: oneshot::Sender<Answer>) {
    // Held to the end, so that a hub that stops waits for the row.
    let Some(guard) = app.live.guard() else {
        drop(answer.send(Err(ApiError::Stopping)));
        return;
    };
    match Keeper::begin(app, new).await {
        Ok(keeper) => keeper.keep(answer).await,
        Err(error) => drop(answer.send(Err(error))),
    }
    drop(guard);
}

struct Keeper {
    app: App,
    new: NewTunnel,
    line: Line,
    kept: Kept,
    interrupts: Interrupts,
    /// A data connection that never got its other end.
    alone: Option<Connected>,
    /// What the closed row says.
    booked: Option<(Why, Relayed)>,
}

impl Keeper {
    /// Everything that can be refused without the host.
    async fn begin(app: App, new: NewTunnel) -> Result<Self, ApiError> {
        let line = app.live.line(&new.host_id).ok_or(ApiError::Offline(new.host_id))?;
        app.store.open_tunnel(&new, app.sessions_per_operator.get(), app.now()).await?;
        app.live.order_changed(&new.host_id);
        let kept = app.tunnels.add(About {
            id: new.id,
            op: new.envelope.id(),
            operator: new.operator.clone(),
            origin: Origin { host_id: new.host_id, channel: line.channel },
        });
        let interrupts = Interrupts::new(&app, &new, &line, &kept);
        tracing::info!(
            tunnel = %new.id, host = %new.host_id, operator = %new.operator, op = %kept.about.op,
            "tunnel asked for"
        );
        Ok(Self { app, new, line, kept, interrupts, alone: None, booked: None })
    }

    async fn keep(mut self, answer: oneshot::Sender<Answer>) {
        let (why, relay) = match self.opened(answer).await {
            Err(why) => (why, None),
            Ok(()) => match self.paired().await {
                Err(why) => (why, None),
                Ok(mut relay) => (self.relayed(&mut relay).await, Some(relay)),
            },
        };
        self.end(why, relay).await;
    }

    /// Asks the host and answers the operator.
    async fn opened(&mut self, mut answer: oneshot::Sender<Answer>) -> Result<(), Why> {
        let id = self.new.id;
        let (answered, why) = match self.asked(&mut answer).await {
            Ok(HostAnswer::Ready(receipt)) => {
                tracing::info!(tunnel = %id, "tunnel ready");
                let ready = answer.send(Ok(TunnelAnswer::Ready { id, receipt }));
                return ready.map_err(|_| Why::OperatorLeft);
            }
            Ok(HostAnswer::Refused(receipt)) => (TunnelAnswer::Refused { receipt }, Why::Refused),
            Ok(HostAnswer::Trouble(problem)) => trouble(Why::Trouble(problem)),
            Err(why) => trouble(why),
        };
        // First, so that the operator may ask again as soon as this is answered.
        self.book(&why).await;
        if let TunnelAnswer::Trouble { problem } = &answered {
            self.note_problem(problem).await;
        }
        drop(answer.send(Ok(answered)));
        Err(why)
    }

    async fn asked(&mut self, answer: &mut oneshot::Sender<Answer>) -> Result<HostAnswer, Why> {
        let frame = HubFrame::TunnelOpen { tunnel: self.new.id, envelope: self.new.envelope.clone() };
        self.line.frames.try_send(frame).map_err(|error| match error {
            TrySendError::Closed(_) => Why::ChannelEnded,
            TrySendError::Full(_) => {
                Why::Trouble(SafeText::sanitize("it does not read what it is sent: try again"))
            }
        })?;
        tokio::select! {
            biased;
            host = &mut self.kept.answer => host.map_err(|_| Why::NoAnswer),
            word = set(&mut self.kept.said_by_host) => Err(Why::Trouble(word)),
            why = self.interrupts.next() => Err(why),
            () = answer.closed() => Err(Why::OperatorLeft),
            () = sleep(self.app.limits().tunnel_answer) => Err(Why::NoAnswer),
        }
    }

    /// Waits for both data connections.
    async fn paired(&mut self) -> Result<Relay, Why> {
        let mut operator = pin!(connected(&mut self.kept.operator));
        let mut host = pin!(connected(&mut self.kept.host));
        let mut deadline = pin!(sleep(self.app.limits().tunnel_connect));
        let mut ends = (None, None);
        let why = loop {
            ends = match ends {
                (Some(operator), Some(host)) => {
                    tracing::info!(tunnel = %self.new.id, "tunnel connected");
                    return Ok(Relay::new(operator, host, self.kept.counts.clone()));
                }
                ends => ends,
            };
            tokio::select! {
                got = &mut operator, if ends.0.is_none() => match got {
                    Some(got) => ends.0 = Some(got),
                    None => break Why::NotUpgraded(End::Operator),
                },
                got = &mut host, if ends.1.is_none() => match got {
                    Some(got) => ends.1 = Some(got),
                    None => break Why::NotUpgraded(End::Host),
                },
                word = set(&mut self.kept.said_by_host) => break Why::ByHost(word),
                why = self.interrupts.next() => break why,
                () = &mut deadline => {
                    break Why::NotConnected(if ends.1.is_none() { End::Host } else { End::Operator });
                }
            }
        };
        self.alone = ends.0.or(ends.1);
        Err(why)
    }

    /// Copies until something ends it.
    async fn relayed(&mut self, relay: &mut Relay) -> Why {
        let word = tokio::select! {
            biased;
            ended = relay.copy() => {
                return if ended.broken { Why::Broken(ended.end) } else { Why::Ended(ended.end) };
            }
            word = set(&mut self.kept.said_by_host) => word,
            why = self.interrupts.next() => return why,
        };
        // What the host sent before it said this may still be on its way.
        tokio::select! {
            biased;
            _ = relay.copy() => {}
            _ = self.interrupts.next() => {}
            () = sleep(self.app.limits().tunnel_close) => {}
        }
        Why::ByHost(word)
    }

    /// Closes everything: the row first, which frees the operator's slot, then the connections.
    async fn end(mut self, why: Why, relay: Option<Relay>) {
        self.book(&why).await;
        let limits = self.app.limits();
        let patience = match why {
            Why::Stopping => limits.stop / 2,
            _ => limits.tunnel_drain,
        };
        let farewell = async {
            if let Some(relay) = relay {
                relay.finish(patience).await;
            } else if let Some(alone) = self.alone.take() {
                relay::close(alone, patience).await;
            }
        };
        let told = tell_host(&self.line, &self.new, &why, patience);
        let better = better_word(&why, &mut self.kept.said_by_host, limits.tunnel_close);
        let ((), (), better) = tokio::join!(farewell, told, better);
        let why = better.map_or(why, Why::ByHost);
        self.book(&why).await;
        let Relayed { to_host, from_host } = self.kept.counts.now();
        tracing::info!(tunnel = %self.new.id, %why, to_host, from_host, "tunnel closed");
    }

    /// Writes the row, unless it says all this already.
    async fn book(&mut self, why: &Why) {
        let news = (why.clone(), self.kept.counts.now());
        if self.booked.as_ref() == Some(&news) {
            return;
        }
        let words = SafeText::sanitize(&why.to_string());
        let closed = self.app.store.close_tunnel(&self.new.id, words.as_str(), news.1, self.app.now()).await;
        match closed {
            Ok(()) => self.booked = Some(news),
            // The slot stays taken until the hub starts again.
            Err(error) => tracing::error!(
                tunnel = %self.new.id, error = %Chain(&error), "a closed tunnel was not stored"
            ),
        }
        self.kept.closed.send_replace(true);
    }

    /// So that `writ orders` says what became of it; what the host signed needs no such note.
    async fn note_problem(&mut self, problem: &str) {
        let (host_id, op) = (&self.new.host_id, &self.kept.about.op);
        match self.app.store.order_problem(host_id, op, problem).await {
            Ok(_) => self.app.live.order_changed(host_id),
            Err(error) => tracing::error!(%op, error = %Chain(&error), "a problem was not stored"),
        }
    }
}

fn trouble(why: Why) -> (TunnelAnswer, Why) {
    (TunnelAnswer::Trouble { problem: why.to_string() }, why)
}

async fn connected(dialed: &mut oneshot::Receiver<Dialed>) -> Option<Connected> {
    dialed.await.ok()?.connected().await
}

/// What somebody sets once.
async fn set<T: Clone>(value: &mut watch::Receiver<Option<T>>) -> T {
    let value = value.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
    match value {
        Some(value) => value,
        // The entry in the registry is there as long as its keeper.
        None => std::future::pending().await,
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error is the end of everything, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A connection says that it ended but not why; when it was the host's, its word follows or never comes.
async fn better_word(
    why: &Why,
    said: &mut watch::Receiver<Option<SafeText>>,
    patience: Duration,
) -> Option<SafeText> {
    match why {
        Why::Ended(End::Host) | Why::Broken(End::Host) => timeout(patience, set(said)).await.ok(),
        _ => None,
    }
}

/// TunnelClose, unless it was the host who said so.
async fn tell_host(line: &Line, new: &NewTunnel, why: &Why, patience: Duration) {
    if !why.is_the_hosts_word() {
        let close = HubFrame::TunnelClose { tunnel: new.id, why: why.to_string() };
        // A channel that has ended has ended its sessions too, and one that takes nothing will.
        let _ = timeout(patience, line.frames.send(close)).await;
    }
}

/// What ends a tunnel at any time.
struct Interrupts {
    app: App,
    operator: HostName,
    key: Fingerprint,
    alive: watch::Receiver<()>,
    stop: watch::Receiver<bool>,
    closed_by: watch::Receiver<Option<HostName>>,
    recheck: Interval,
    /// Looks in a row that did not find the operator's key.
    missed: u32,
}

impl Interrupts {
    fn new(app: &App, new: &NewTunnel, line: &Line, kept: &Kept) -> Self {
        let period = app.limits().tunnel_recheck;
        let mut recheck = interval_at(Instant::now() + period, period);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            app: app.clone(),
            operator: new.operator.clone(),
            key: new.key,
            alive: line.alive.clone(),
            stop: app.live.watch_stop(),
            closed_by: kept.closed_by.clone(),
            recheck,
            missed: 0,
        }
    }

    /// The next one. May be dropped and called again.
    async fn next(&mut self) -> Why {
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => return Why::Stopping,
                by = set(&mut self.closed_by) => return Why::ClosedBy(by),
                // Nothing is ever sent, so this is the end.
                _ = self.alive.changed() => return Why::ChannelEnded,
                _ = self.recheck.tick() => {
                    if self.is_removed() {
                        return Why::Removed;
                    }
                }
            }
        }
    }

    /// Only when two looks in a row say so: a file may be seen while it is being written, and a
    /// session cannot be brought back.
    fn is_removed(&mut self) -> bool {
        let listed =
            self.app.operators.current().is_ok_and(|operators| operators.has(&self.operator, &self.key));
        self.missed = if listed { 0 } else { self.missed + 1 };
        self.missed >= 2
    }
}
