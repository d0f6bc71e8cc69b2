//! One connection to the hub, from Hello to its end: moves frames between the socket, the
//! [`Session`] that understands them, and the other parts of the agent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Fuse, FutureExt as _};
use futures_util::{SinkExt as _, StreamExt as _};
use protocol::frame::{
    AgentFrame, HEARTBEAT_S, HubFrame, MAX_FRAME, Purpose, RECEIPTS_PER_FRAME, SILENCE_S, VERSION,
};
use protocol::{Bytes, Envelope, HostId, Sha256};
use reconcile::Accept;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::hub::HubClient;
use crate::orders::OrderDesk;
use crate::policies::Policies;
use crate::questions::Questions;
use crate::session::{Effect, Note, Session};
use crate::state::{Desired, DesiredStore};
use crate::tunnels::Tunnels;
use crate::warden::{LogPart, PolicyState, Warden, WardenError};
use crate::{VERSION as AGENT_VERSION, sentence};

const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_S);
const SILENCE: Duration = Duration::from_secs(SILENCE_S);

/// What a connection works with; outlives it.
pub struct Ports {
    /// Where the host's log is read, and where its sessions are.
    pub warden: Warden,
    /// Where the sessions' data connections go.
    pub hub: HubClient,
    /// Takes orders.
    pub desk: OrderDesk,
    /// What is wanted.
    pub desired: DesiredStore,
    /// Tells the reconciler what is wanted.
    pub wanted: watch::Sender<Option<Arc<Desired>>>,
    /// Wakes the reconciler.
    pub kick: Arc<Notify>,
    /// News from the reconciler and the order clerk.
    pub notes: mpsc::Receiver<Note>,
    /// What has been said and what waits.
    pub session: Session,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Why, for the log.
    pub why: String,
    /// Not before this long.
    pub retry_after: Duration,
    /// Whether the hub had welcomed us: then the next attempt may come soon.
    pub was_open: bool,
}

/// The first frame. `log_size` is unknown when the warden did not answer; then the largest number
/// is said, so that the hub waits for the log before it dispatches orders.
pub fn hello(host_id: HostId, boot_id: String, purpose: Purpose, log_size: Option<u64>) -> AgentFrame {
    AgentFrame::Hello {
        v: VERSION,
        host_id,
        boot_id,
        agent_version: AGENT_VERSION.to_owned(),
        purpose,
        log_size: log_size.unwrap_or(u64::MAX),
    }
}

/// Why a frame cannot be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The connection.
    #[error("the connection to the hub broke ({0})")]
    Broken(String),
    /// It does not take what is sent.
    #[error("the hub did not take a frame within {SILENCE_S} s")]
    Stuck,
    /// Nothing came.
    #[error("nothing was heard from the hub for {SILENCE_S} s")]
    Silent,
    /// Something else than a frame came.
    #[error("the hub sent something that is not a frame ({0}): are hub and agent of the same version?")]
    NotAFrame(String),
    /// Too long for one frame.
    #[error("a frame of {0} bytes is too long for the hub (at most {MAX_FRAME}) and was not sent")]
    TooLong(usize),
}

/// The frames of one connection.
pub struct Carrier<S> {
    socket: WebSocketStream<S>,
    heard: Instant,
    said: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Carrier<S> {
    /// Takes over an open socket.
    pub fn new(socket: WebSocketStream<S>) -> Self {
        let now = Instant::now();
        Self { socket, heard: now, said: now }
    }

    /// Sends one frame.
    pub async fn send(&mut self, frame: &AgentFrame) -> Result<(), CarrierError> {
        let json = serde_json::to_string(frame)
            .map_err(|error| CarrierError::NotAFrame(format!("our own: {error}")))?;
        if json.len() > MAX_FRAME {
            return Err(CarrierError::TooLong(json.len()));
        }
        let sending = self.socket.send(Message::Text(Utf8Bytes::from(json)));
        match timeout(SILENCE, sending).await {
            Ok(Ok(())) => {
                self.said = Instant::now();
                Ok(())
            }
            Ok(Err(error)) => Err(CarrierError::Broken(error.to_string())),
            Err(_) => Err(CarrierError::Stuck),
        }
    }

    /// The next frame. May be dropped and called again: nothing is lost.
    pub async fn receive(&mut self) -> Result<HubFrame, CarrierError> {
        loop {
            let message = tokio::select! {
                message = self.socket.next() => message,
                () = sleep_until(self.heard + SILENCE) => return Err(CarrierError::Silent),
            };
            self.heard = Instant::now();
            match message {
                None => return Err(CarrierError::Broken("closed by the hub".to_owned())),
                Some(Err(error)) => return Err(CarrierError::Broken(error.to_string())),
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(text.as_str())
                        .map_err(|error| CarrierError::NotAFrame(error.to_string()));
                }
                // Pings are answered by the library at the next reading.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) => {
                    return Err(CarrierError::Broken("closed by the hub".to_owned()));
                }
                Some(Ok(Message::Binary(_))) => {
                    return Err(CarrierError::NotAFrame("binary".to_owned()));
                }
            }
        }
    }

    /// When a heartbeat is due.
    pub fn heartbeat_at(&self) -> Instant {
        self.said + HEARTBEAT
    }

    /// Says goodbye, without insisting.
    pub async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }
}

/// Speaks with the hub until the connection ends. `first` is Hello.
pub async fn serve<S>(socket: WebSocketStream<S>, first: AgentFrame, ports: &mut Ports) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    ports.session.begin();
    let mut carrier = Carrier::new(socket);
    // Also when this is only dropped, no session outlives the channel that it was opened through.
    let mut tunnels = Tunnels::new(ports.warden.clone(), ports.hub.clone());
    let (why, retry_after) = match carrier.send(&first).await {
        Ok(()) => talk(&mut carrier, &mut tunnels, ports).await,
        Err(error) => (sentence(&error), Duration::ZERO),
    };
    tunnels.end().await;
    carrier.close().await;
    let was_open = ports.session.is_open();
    // From now on news wait.
    ports.session.begin();
    Ended { why, retry_after, was_open }
}

async fn talk<S>(carrier: &mut Carrier<S>, tunnels: &mut Tunnels, ports: &mut Ports) -> (String, Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Readings of the warden's log and of results go on beside everything else.
    let mut log = Box::pin(Fuse::terminated());
    let mut result = Box::pin(Fuse::terminated());
    let (mut policies, mut policy) = (Policies::default(), Box::pin(Fuse::terminated()));
    let mut judging = false;
    let mut questions = Questions::new(ports.warden.clone());
    // They may name a policy that the warden is still judging.
    let mut held: Vec<Envelope> = Vec::new();
    loop {
        let heartbeat_at = carrier.heartbeat_at();
        let effects = tokio::select! {
            frame = carrier.receive() => match frame {
                Ok(frame) => ports.session.on_frame(frame),
                Err(error) => return (sentence(&error), Duration::ZERO),
            },
            note = ports.notes.recv() => match note {
                Some(note) => ports.session.on_note(note),
                None => return ("the agent is stopping".to_owned(), Duration::ZERO),
            },
            part = &mut log => on_log(part, &mut ports.session),
            answer = &mut result => on_result(answer, &mut ports.session),
            (document, answer) = &mut policy => {
                judging = false;
                let (frame, grew) = policies.answered(Option::<Envelope>::as_ref(&document), answer);
                let mut effects: Vec<Effect> = frame.into_iter().map(Effect::Send).collect();
                if policies.is_empty() {
                    effects.extend(held.drain(..).map(Effect::Relay));
                }
                effects.extend(grew.then(|| ports.session.on_note(Note::LogGrew)).into_iter().flatten());
                effects
            }
            answer = questions.next() => vec![Effect::Send(answer)],
            frame = tunnels.next() => ports.session.on_tunnel(frame),
            () = sleep_until(heartbeat_at) => {
                let mut effects = ports.session.on_tick();
                effects.push(Effect::Send(AgentFrame::Heartbeat {}));
                effects
            }
        };
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(frame) => match carrier.send(&frame).await {
                    Ok(()) => {}
                    Err(error @ CarrierError::TooLong(_)) => tracing::error!("{}", sentence(&error)),
                    Err(error) => {
                        ports.session.not_sent(frame);
                        for effect in effects {
                            if let Effect::Send(frame) = effect {
                                ports.session.not_sent(frame);
                            }
                        }
                        return (sentence(&error), Duration::ZERO);
                    }
                },
                Effect::Opened => {
                    tracing::info!("the hub welcomes this host");
                    ports.kick.notify_one();
                    policies.push(None);
                }
                Effect::JudgePolicy(document) => {
                    if !policies.push(Some(document)) {
                        return ("the hub sent too many policy documents".to_owned(), SILENCE);
                    }
                }
                Effect::Relay(envelope) if judging || !policies.is_empty() => {
                    held.push(envelope);
                }
                Effect::Relay(envelope) => {
                    effects.extend(ports.desk.submit(envelope).map(Effect::Send));
                }
                Effect::Adopt { generation, state } => {
                    effects.extend(adopt(ports, generation, state).map(Effect::Send));
                }
                Effect::ReadLog { first } => log = Box::pin(read_log(ports.warden.clone(), first).fuse()),
                Effect::ListResults => result = Box::pin(ask(ports.warden.clone(), Ask::List).fuse()),
                Effect::ReadResult { op } => {
                    result = Box::pin(ask(ports.warden.clone(), Ask::Read(op)).fuse());
                }
                Effect::ForgetResult { op } => {
                    result = Box::pin(ask(ports.warden.clone(), Ask::Forget(op)).fuse());
                }
                Effect::OpenTunnel { tunnel, envelope } => {
                    effects.extend(tunnels.open(tunnel, envelope).map(Effect::Send));
                }
                Effect::Ask { id, question } => {
                    effects.extend(questions.ask(id, question).map(Effect::Send));
                }
                Effect::CloseTunnel { tunnel, why } => tunnels.close(tunnel, why),
                Effect::Close { why, retry_after } => return (why, retry_after),
            }
        }
        if !judging && let Some(document) = policies.pop() {
            judging = true;
            policy = Box::pin(offer(ports.warden.clone(), document).fuse());
        }
    }
}

async fn offer(
    warden: Warden,
    document: Option<Envelope>,
) -> (Option<Envelope>, Result<PolicyState, WardenError>) {
    let answer = warden.policy(document.clone()).await;
    (document, answer)
}

async fn read_log(warden: Warden, first: u64) -> Result<LogPart, WardenError> {
    warden.receipts(first, RECEIPTS_PER_FRAME as u32).await
}

fn on_log(part: Result<LogPart, WardenError>, session: &mut Session) -> Vec<Effect> {
    match part {
        Ok(LogPart { first, receipts, log_size, checkpoint }) => {
            if log_size < first {
                tracing::error!(
                    log_size,
                    held = first,
                    "the host's log is shorter than the hub's copy of it: was this machine restored from a backup?"
                );
            }
            session.on_log(first, receipts, checkpoint)
        }
        Err(error) => {
            tracing::warn!("the host's log cannot be read: {}", sentence(&error));
            session.on_log_failed()
        }
    }
}

/// A question about results of scripts.
enum Ask {
    List,
    Read(Sha256),
    Forget(Sha256),
}

/// The warden's answer to it.
enum Answer {
    List(Vec<Sha256>),
    Read(Sha256, Bytes),
    Forgotten,
}

async fn ask(warden: Warden, ask: Ask) -> Result<Answer, (Ask, WardenError)> {
    match ask {
        Ask::List => warden.results().await.map(Answer::List),
        Ask::Read(op) => warden.result(op).await.map(|sealed| Answer::Read(op, sealed)),
        Ask::Forget(op) => warden.result_stored(op).await.map(|()| Answer::Forgotten),
    }
    .map_err(|error| (ask, error))
}

fn on_result(answer: Result<Answer, (Ask, WardenError)>, session: &mut Session) -> Vec<Effect> {
    match answer {
        Ok(Answer::List(ops)) => session.on_results(ops),
        Ok(Answer::Read(op, sealed)) => session.on_result(op, sealed),
        Ok(Answer::Forgotten) => session.on_result_done(),
        Err((ask, error)) => {
            tracing::warn!("results of scripts cannot be passed on: {}", sentence(&error));
            match (ask, error) {
                // It is gone, or cannot be read; the others can.
                (Ask::Read(_), WardenError::Refused { .. }) => session.on_result_done(),
                (Ask::List | Ask::Read(_), _) => session.on_results_failed(),
                (Ask::Forget(op), _) => session.on_not_forgotten(op),
            }
        }
    }
}

/// Decides about a delivered desired state; what is refused is answered.
fn adopt(ports: &mut Ports, generation: u64, state: protocol::desired::DesiredState) -> Option<AgentFrame> {
    let content: Sha256 = state.hash();
    match ports.desired.adopt(generation, state) {
        Ok(Accept::New) => {
            ports.session.on_adopted(None);
            tracing::info!(generation, %content, "a new desired state is in force");
            ports.wanted.send_replace(ports.desired.current().cloned().map(Arc::new));
            None
        }
        Ok(Accept::Same) => {
            ports.session.on_adopted(None);
            None
        }
        Err(error) => {
            let why = sentence(&error);
            tracing::warn!(generation, why, "a desired state was refused");
            ports.session.on_adopted(Some(format!("desired state {generation} was refused: {why}")));
            Some(AgentFrame::DesiredRefused { generation, why })
        }
    }
}

#[cfg(test)]
mod tests;
