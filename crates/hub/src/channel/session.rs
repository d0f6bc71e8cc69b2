//! The reading side of a channel: Hello, waiting for approval, and then frame by frame.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use authz::merkle::{KEPT_LEVEL, Plan};
use authz::{Checkpoint, PublicKey, Receipt, receipt::Event};
use axum::extract::ws::{Message, WebSocket};
use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use protocol::frame::{ANSWERS_FROM, AgentFrame, HubFrame, OLDEST, Purpose, RECEIPTS_PER_FRAME, VERSION};
use protocol::text::SafeText;
use protocol::{Ed25519Key, HostId, Note, Sha256, Signed};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::timeout;

use super::chain::{self, Held};
use super::writer::{Out, QUEUE, Writer};
use crate::app::App;
use crate::live::{Closing, Handle, Registered, Wake};
use crate::store::{AppendError, Host, StoreError};
use crate::tunnel::Origin;

/// Longest text of a Proxmox task id that is kept.
const MAX_UPID: usize = 256;
/// After a violation of the protocol: nothing gets better by trying again at once.
const RETRY_LATER_S: u64 = 60;

/// How a channel ends.
#[derive(Debug)]
pub(super) enum End {
    /// The agent went away, or never said anything sensible; there is nobody to talk to.
    Gone(&'static str),
    /// The hub ends it.
    Bye(Closing),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %crate::http::Chain(&error), "a channel met a failing database");
        Self::Bye(Closing::new("the hub's database failed", 30))
    }
}

/// The agent broke the rules.
pub(super) fn refuse(why: impl Into<String>) -> End {
    End::Bye(Closing::new(why, RETRY_LATER_S))
}

/// Words of a host that will be shown to people.
fn words(text: &str) -> String {
    SafeText::sanitize(text).as_str().to_owned()
}

/// Hello's contents.
struct Hello {
    /// The version that both speak.
    v: u32,
    host_id: HostId,
    boot_id: String,
    agent_version: String,
    purpose: Purpose,
    log_size: u64,
}

/// Serves one channel to its end.
pub(super) async fn run(app: App, device: Ed25519Key, socket: WebSocket) {
    let (sink, stream) = socket.split();
    let (out, queue) = mpsc::channel(QUEUE);
    let (tunnel_frames, tunnels) = mpsc::channel(QUEUE);
    let wake = Arc::new(Wake::default());
    let last_seen = Arc::new(AtomicU64::new(app.now()));
    let handle = Handle { wake: wake.clone(), last_seen, tunnels: tunnel_frames, answers: false };
    let mut reader = Reader { app: app.clone(), device, stream, out: out.clone(), handle };
    let hello = match timeout(app.limits().hello, reader.hello()).await {
        Ok(Ok(hello)) => Ok(hello),
        Ok(Err(end)) => Err(end),
        Err(_) => Err(refuse("no Hello came in time")),
    };
    let host_id = hello.as_ref().map_or(HostId::from_bytes([0; 16]), |hello| hello.host_id);
    let writer = Writer { app: app.clone(), host_id, sink, queue, tunnels, wake };
    let mut writer = std::pin::pin!(writer.run());
    let end = match hello {
        Err(end) => end,
        Ok(hello) => tokio::select! {
            end = reader.serve(&hello) => end,
            sent = &mut writer => {
                if let Err(error) = sent {
                    tracing::warn!(host = %host_id, error = %crate::http::Chain(&error), "channel lost");
                }
                return;
            }
        },
    };
    match end {
        End::Gone(why) => tracing::info!(host = %host_id, why, "channel closed"),
        End::Bye(closing) => {
            tracing::info!(host = %host_id, why = %closing.why, "channel ended by the hub");
            // When even this does not fit, the agent is slow and gets no last words.
            if out.try_send(Out::Bye(closing)).is_ok() {
                // Closing a connection with unread data in it would take the Bye back.
                let drain = async { while let Some(Ok(_)) = reader.stream.next().await {} };
                let both = async { tokio::join!(&mut writer, drain) };
                let _ = timeout(app.limits().stop / 2, both).await;
            }
        }
    }
}

pub(super) struct Reader {
    pub(super) app: App,
    device: Ed25519Key,
    stream: SplitStream<WebSocket>,
    out: mpsc::Sender<Out>,
    handle: Handle,
}

impl Reader {
    async fn hello(&mut self) -> Result<Hello, End> {
        match self.next().await? {
            AgentFrame::Hello {
                v: v @ OLDEST..=VERSION,
                host_id,
                boot_id,
                agent_version,
                purpose,
                log_size,
            } => {
                self.handle.answers = v >= ANSWERS_FROM;
                Ok(Hello {
                    v,
                    host_id,
                    boot_id: words(&boot_id),
                    agent_version: words(&agent_version),
                    purpose,
                    log_size,
                })
            }
            AgentFrame::Hello { v, .. } => Err(refuse(format!(
                "the agent speaks version {v} of the protocol and this hub {VERSION}: update the older one"
            ))),
            _ => Err(refuse("the first frame must be Hello")),
        }
    }

    /// The next frame. Pings and pongs count as life and are skipped.
    async fn next(&mut self) -> Result<AgentFrame, End> {
        loop {
            let message = match timeout(self.app.limits().silence, self.stream.next()).await {
                Err(_) => return Err(End::Bye(Closing::new("nothing was heard from the agent", 0))),
                Ok(None) => return Err(End::Gone("the agent closed it")),
                Ok(Some(Err(_))) => return Err(End::Gone("broken, or a message was too large")),
                Ok(Some(Ok(message))) => message,
            };
            self.handle.last_seen.store(self.app.now(), Ordering::Relaxed);
            match message {
                Message::Text(text) => {
                    return serde_json::from_str(&text).map_err(|_| {
                        refuse("a frame could not be read: are agent and hub of the same version?")
                    });
                }
                Message::Binary(_) => return Err(refuse("frames must be text")),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return Err(End::Gone("the agent closed it")),
            }
        }
    }

    pub(super) fn answer(&self, out: Out) -> Result<(), End> {
        self.out.try_send(out).map_err(|error| match error {
            TrySendError::Full(_) => End::Bye(Closing::new("the agent does not read its answers", 5)),
            TrySendError::Closed(_) => End::Gone("the connection is broken"),
        })
    }

    async fn serve(&mut self, hello: &Hello) -> End {
        let mut stop = self.app.live.watch_stop();
        tokio::select! {
            end = self.serve_until_end(hello) => end,
            _ = stop.wait_for(|stop| *stop) => End::Bye(Closing::new("the hub is stopping", 5)),
        }
    }

    async fn serve_until_end(&mut self, hello: &Hello) -> End {
        let host = match self.admitted(hello).await {
            Ok(host) => host,
            Err(end) => return end,
        };
        let Hello { host_id, boot_id, agent_version, .. } = hello;
        tracing::info!(host = %host_id, name = %host.name, agent_version, purpose = ?hello.purpose, "channel open");
        let end = match hello.purpose {
            Purpose::Selftest => self.selftest(&host, hello.v).await,
            Purpose::Run => {
                let live = &self.app.live;
                let registered = live.register(*host_id, boot_id, self.handle.clone());
                let (cloned, mut closing) = (registered.cloned, registered.closing.clone());
                let origin = Origin { host_id: *host_id, channel: registered.id };
                // Also when this future is dropped, because the writer ended first.
                let _registration = Registration { app: self.app.clone(), registered };
                if cloned {
                    tracing::warn!(host = %host_id, name = %host.name, "cloned identity? Two boots of one host are connected");
                }
                tokio::select! {
                    end = self.service(&host, hello, origin) => end,
                    closing = closing.wait_for(Option::is_some) => match closing.ok().and_then(|c| c.clone()) {
                        Some(closing) => End::Bye(closing),
                        None => End::Gone("replaced"),
                    },
                }
            }
        };
        if let Err(error) =
            self.app.store.set_last_seen(host_id, self.handle.last_seen.load(Ordering::Relaxed)).await
        {
            tracing::error!(error = %crate::http::Chain(&error), "last_seen was not stored");
        }
        end
    }

    /// Waits until the device's host is approved.
    async fn admitted(&mut self, hello: &Hello) -> Result<Host, End> {
        let other = |is: &HostId| {
            refuse(format!("this device key belongs to host {is}, but the agent says {}", hello.host_id))
        };
        let mut changed = self.app.live.watch_enrollments();
        let mut said = false;
        loop {
            changed.mark_unchanged();
            if let Some(host) = self.app.store.host_by_device(&self.device).await? {
                return if host.host_id == hello.host_id { Ok(host) } else { Err(other(&host.host_id)) };
            }
            match self.app.store.waiting_answer(&self.device).await? {
                None => {
                    return Err(End::Bye(Closing::new("the enrollment was rejected: enroll again", 3_600)));
                }
                Some(answer) if answer.host_id != hello.host_id => return Err(other(&answer.host_id)),
                Some(_) if said => {}
                Some(_) => {
                    said = true;
                    tracing::info!(host = %hello.host_id, "a host waits for approval");
                    self.answer(Out::Frame(HubFrame::Pending {}))?;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                frame = self.next() => match frame? {
                    AgentFrame::Heartbeat {} => {}
                    _ => return Err(refuse("the host is not approved yet: send nothing")),
                },
            }
        }
    }

    fn welcome(&self, v: u32, receipts_held: u64) -> Result<(), End> {
        self.answer(Out::Frame(HubFrame::Welcome { v, receipts_held }))
    }

    async fn selftest(&mut self, host: &Host, v: u32) -> End {
        if let Err(end) = self.welcome(v, host.receipts_held) {
            return end;
        }
        loop {
            let done = match self.next().await {
                Ok(AgentFrame::Heartbeat {}) => Ok(()),
                Ok(AgentFrame::Report { seq, report }) => self.report(host, seq, &report).await,
                Ok(_) => Err(refuse("a selftest sends a report and nothing else")),
                Err(end) => Err(end),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn service(&mut self, host: &Host, hello: &Hello, origin: Origin) -> End {
        match self.service_frames(host, hello, origin).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn service_frames(
        &mut self,
        host: &Host,
        hello: &Hello,
        origin: Origin,
    ) -> Result<Infallible, End> {
        // Asked again now that this channel is the registered one: an approval in between has
        // closed the channel of before, not this one.
        let host_now = self.app.store.host_by_device(&self.device).await?;
        let held = match host_now {
            Some(now) if now.host_id == host.host_id => now.receipts_held,
            _ => return Err(refuse("the host was enrolled again with another device key")),
        };
        let key = PublicKey::try_from(host.host_key).map_err(|_| refuse("the host key is weak"))?;
        self.welcome(hello.v, held)?;
        self.answer(Out::SendPolicy)?;
        self.answer(Out::SendDesired)?;
        self.answer(Out::SendTunnels)?;
        let mut orders = hello.log_size <= held;
        if hello.log_size < held {
            tracing::warn!(
                host = %host.host_id, name = %host.name, log_size = hello.log_size, held,
                "the host's log is shorter than the hub's copy: was the host restored or cloned?"
            );
        }
        if orders {
            self.answer(Out::SendOrders)?;
        }
        loop {
            match self.next().await? {
                AgentFrame::Hello { .. } => return Err(refuse("Hello came twice")),
                AgentFrame::Heartbeat {} => {}
                AgentFrame::Report { seq, report } => self.report(host, seq, &report).await?,
                AgentFrame::Plan { plan, problem } => {
                    let problem = problem.as_deref().map(words);
                    self.app.store.put_plan(&host.host_id, &plan, problem.as_deref(), self.app.now()).await?;
                }
                AgentFrame::DesiredRefused { generation, why } => {
                    let problem = words(&format!("desired state {generation} was refused: {why}"));
                    tracing::warn!(host = %host.host_id, generation, "the agent refused a desired state");
                    self.app.store.put_plan_problem(&host.host_id, &problem, self.app.now()).await?;
                }
                AgentFrame::Policy { version, sha256, problem } => {
                    let problem = problem.as_deref().map(words);
                    let (host_id, now) = (&host.host_id, self.app.now());
                    self.app
                        .store
                        .put_host_policy(host_id, version, &sha256, problem.as_deref(), now)
                        .await?;
                }
                AgentFrame::Progress(progress) => {
                    let state = serde_json::to_string(&progress).map_or(usize::MAX, |json| json.len());
                    if state > MAX_UPID * 2 {
                        return Err(refuse("a task id is too long"));
                    }
                    let known = self.app.store.order_progress(&host.host_id, &progress).await?;
                    self.order_event(host, &progress.op, known);
                }
                AgentFrame::OrderTrouble { op, problem } => {
                    let problem = words(&problem);
                    let known = self.app.store.order_problem(&host.host_id, &op, &problem).await?;
                    self.order_event(host, &op, known);
                }
                AgentFrame::Receipts { first, receipts, checkpoint } => {
                    self.receipts(host, key, first, receipts, checkpoint).await?;
                    if !orders {
                        orders = true;
                        self.answer(Out::SendOrders)?;
                    }
                }
                AgentFrame::Refusal { op, receipt } => self.refusal(host, &key, op, receipt).await?,
                AgentFrame::JobResult { op, sealed } => self.job_result(host, op, &sealed.0).await?,
                AgentFrame::TunnelReady { tunnel, receipt } => {
                    self.tunnel_ready(origin, &key, &tunnel, receipt);
                }
                AgentFrame::TunnelError { tunnel, receipt, problem } => {
                    self.tunnel_error(origin, &key, &tunnel, receipt, problem.as_deref()).await?;
                }
                AgentFrame::TunnelClose { tunnel, why } => self.tunnel_close(origin, &tunnel, &why),
                AgentFrame::Answer { id, reply } => self.reply(origin, id, reply)?,
            }
        }
    }

    pub(super) fn order_event(&self, host: &Host, op: &Sha256, known: bool) {
        if known {
            self.app.live.order_changed(&host.host_id);
        } else {
            tracing::debug!(host = %host.host_id, %op, "news of an order that this hub does not know");
        }
    }

    async fn report(&self, host: &Host, seq: u64, report: &protocol::report::HostReport) -> Result<(), End> {
        let now = self.app.now();
        self.app.store.put_report(&host.host_id, seq, report, now).await?;
        self.app.store.set_last_seen(&host.host_id, now).await?;
        self.answer(Out::Frame(HubFrame::ReportStored { seq }))
    }

    async fn receipts(
        &self,
        host: &Host,
        key: PublicKey,
        first: u64,
        receipts: Vec<Signed>,
        checkpoint: Option<Note>,
    ) -> Result<(), End> {
        if receipts.len() > RECEIPTS_PER_FRAME {
            return Err(refuse(format!("more than {RECEIPTS_PER_FRAME} receipts in one frame")));
        }
        let host_id = host.host_id;
        let end = self.app.store.log_end(&host_id).await?;
        let (size, last) = end.ok_or_else(|| refuse("the host is not known any more"))?;
        let mut overlap = Vec::new();
        let sent_end = first.saturating_add(receipts.len() as u64);
        for seq in first..size.min(sent_end) {
            overlap.extend(self.app.store.receipt_hash(&host_id, seq).await?);
        }
        let held = Held { size, last, overlap };
        // A hundred signatures are some milliseconds of arithmetic: not on the network's threads.
        let checked =
            tokio::task::spawn_blocking(move || chain::check(&host_id, &key, &held, first, receipts)).await;
        let entries = match checked {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                tracing::warn!(
                    host = %host_id, name = %host.name, error = %crate::http::Chain(&error),
                    "receipts refused, nothing of the frame was stored"
                );
                return Err(refuse(error.to_string()));
            }
            Err(_) => return Err(End::Bye(Closing::new("the hub failed", 30))),
        };
        let checkpoint = match &checkpoint {
            Some(note) => Some((checkpoint_size(host, &key, note)?, note)),
            None => None,
        };
        let held = match self.app.store.append_receipts(&host_id, size, &entries, checkpoint).await {
            Ok(held) => held,
            Err(AppendError::Moved) => {
                return Err(End::Bye(Closing::new("the log moved on: connect again", 1)));
            }
            Err(AppendError::Store(error)) => return Err(error.into()),
        };
        if entries.iter().any(|entry| entry.op.is_some()) {
            self.app.live.order_changed(&host_id);
        }
        self.answer(Out::Frame(HubFrame::ReceiptsStored { held }))?;
        if held >> KEPT_LEVEL > size >> KEPT_LEVEL {
            // So that no proof has to read a long log at once.
            self.app.store.log_hashes(&host_id, &Plan::root(held)).await?;
        }
        Ok(())
    }

    async fn refusal(&self, host: &Host, key: &PublicKey, op: Sha256, signed: Signed) -> Result<(), End> {
        let good = Receipt::verify(&signed, &host.host_id, key).is_ok_and(|receipt| {
            receipt.entry.is_none()
                && matches!(&receipt.event, Event::Order { op: about, .. } if *about == op)
        });
        if !good {
            tracing::warn!(host = %host.host_id, name = %host.name, %op, "a refusal is not signed by the host");
            return Err(refuse("a refusal is not a refusal of that order signed with the host key"));
        }
        let known = self.app.store.add_refusal(&host.host_id, &op, &signed).await?;
        self.order_event(host, &op, known);
        Ok(())
    }
}

/// The number of entries in a checkpoint that the host signed. Whether its root is right is for operators'
/// tools to find out: they believe neither of us.
fn checkpoint_size(host: &Host, key: &PublicKey, note: &Note) -> Result<u64, End> {
    let origin = authz::Origin { host: host.host_id, generation: host.host_key_gen };
    match Checkpoint::verify(note, &origin, key) {
        Ok(checkpoint) => Ok(checkpoint.size),
        Err(error) => {
            tracing::warn!(host = %host.host_id, name = %host.name, %error, "a checkpoint is refused");
            Err(refuse("the checkpoint with these receipts is not signed by the host's key"))
        }
    }
}

/// Takes a channel off the list when it ends, however it ends.
struct Registration {
    app: App,
    registered: Registered,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.app.live.unregister(&self.registered);
    }
}
