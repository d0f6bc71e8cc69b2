//! Sessions: one task for each tunnel that the hub opens, all of them bound to one live channel.
//!
//! A task asks the warden for the session, dials the hub's data connection and carries ciphertext
//! between the two ([`mod@relay`]). What keeps a session alive on the host is the task's connection to
//! the warden: however a task ends, also when it is only dropped, that connection is closed and the
//! session with it.

pub mod relay;

use std::collections::BTreeMap;

use authz::{Event, Outcome, Receipt};
use protocol::frame::AgentFrame;
use protocol::text::printable;
use protocol::{Envelope, Signed, TunnelId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinSet};

use crate::hub::{DataStream, HubClient, dial};
use crate::sentence;
use crate::tunnels::relay::{End, Session, hang_up, relay};
use crate::warden::{HeldSession, SessionAnswer, Warden, WardenError};

/// Most tunnels at once.
pub const AT_ONCE: usize = 32;

/// The tunnels of one live channel. Dropping this ends them all.
pub struct Tunnels {
    ends: Ends,
    open: BTreeMap<TunnelId, Open>,
    tasks: JoinSet<AgentFrame>,
    say: mpsc::Sender<AgentFrame>,
    said: mpsc::Receiver<AgentFrame>,
}

struct Open {
    task: Id,
    /// None once it was told to stop.
    stop: Option<oneshot::Sender<String>>,
}

/// Where a tunnel leads.
#[derive(Clone)]
struct Ends {
    warden: Warden,
    hub: HubClient,
}

impl Tunnels {
    /// None yet.
    pub fn new(warden: Warden, hub: HubClient) -> Self {
        let (say, said) = mpsc::channel(AT_ONCE);
        Self { ends: Ends { warden, hub }, open: BTreeMap::new(), tasks: JoinSet::new(), say, said }
    }

    /// Opens one. Gives back a frame for the hub if that is not possible.
    pub fn open(&mut self, tunnel: TunnelId, envelope: Envelope) -> Option<AgentFrame> {
        if self.open.contains_key(&tunnel) {
            tracing::warn!(%tunnel, "the hub opens a tunnel that is open: ignored");
            return None;
        }
        if self.open.len() >= AT_ONCE {
            let problem = format!(
                "{AT_ONCE} sessions are open on this host already; the order was not handed over: end one of them and submit it again"
            );
            return Some(AgentFrame::TunnelError { tunnel, receipt: None, problem: Some(problem) });
        }
        tracing::info!(%tunnel, op = %envelope.id(), "session asked of the warden");
        let (stop, stopped) = oneshot::channel();
        let task = carry(self.ends.clone(), tunnel, envelope, self.say.clone(), stopped);
        let task = self.tasks.spawn(task).id();
        self.open.insert(tunnel, Open { task, stop: Some(stop) });
        None
    }

    /// Ends one; [`Tunnels::next`] tells when it is over.
    pub fn close(&mut self, tunnel: TunnelId, why: String) {
        match self.open.get_mut(&tunnel).and_then(|open| open.stop.take()) {
            // Otherwise it ends already.
            Some(stop) => drop(stop.send(why)),
            None => tracing::debug!(%tunnel, "the hub closes a tunnel that is not open"),
        }
    }

    /// What the hub is to be told next. Can be dropped and called again; waits while there is nothing.
    pub async fn next(&mut self) -> AgentFrame {
        loop {
            tokio::select! {
                // What a task said comes before what it ended with.
                biased;
                Some(frame) = self.said.recv() => return frame,
                Some(ended) = self.tasks.join_next_with_id() => {
                    let task = match &ended {
                        Ok((task, _)) => *task,
                        Err(error) => error.id(),
                    };
                    let Some(tunnel) = self.open.iter().find(|(_, open)| open.task == task).map(|(id, _)| *id)
                    else {
                        continue;
                    };
                    self.open.remove(&tunnel);
                    return ended.map_or_else(
                        |_| {
                            let why = "the agent failed; this is a fault of the program, please report it";
                            AgentFrame::TunnelClose { tunnel, why: why.to_owned() }
                        },
                        |(_, last)| last,
                    );
                }
                else => return std::future::pending().await,
            }
        }
    }

    /// Ends all at once; they are over when this returns.
    pub async fn end(mut self) {
        if !self.open.is_empty() {
            tracing::warn!(sessions = self.open.len(), "the live channel ended, and its sessions with it");
        }
        self.tasks.shutdown().await;
    }
}

/// One tunnel from its beginning to its end. Gives the last frame about it.
async fn carry(
    ends: Ends,
    tunnel: TunnelId,
    envelope: Envelope,
    say: mpsc::Sender<AgentFrame>,
    mut stopped: oneshot::Receiver<String>,
) -> AgentFrame {
    let opened = tokio::select! {
        opened = ends.warden.session(envelope) => opened,
        why = &mut stopped => {
            let why = why.unwrap_or_default();
            let problem = format!("the tunnel was closed before the session was ready ({why}); nothing uses it");
            return AgentFrame::TunnelError { tunnel, receipt: None, problem: Some(problem) };
        }
    };
    let (receipt, socket, mut held) = match opened {
        Ok(SessionAnswer::Ready { receipt, socket, held }) => (receipt, socket, held),
        Ok(SessionAnswer::Refused(receipt)) => {
            return AgentFrame::TunnelError { tunnel, receipt: Some(receipt), problem: None };
        }
        Err(error) => {
            let problem = trouble(&error);
            tracing::warn!(%tunnel, problem, "no session");
            return AgentFrame::TunnelError { tunnel, receipt: None, problem: Some(problem) };
        }
    };
    let dialling = async {
        // Only fails when the channel has ended, and this task with it.
        let _ = say.send(AgentFrame::TunnelReady { tunnel, receipt }).await;
        dial(&ends.hub, tunnel).await
    };
    let dialled = tokio::select! {
        dialled = dialling => {
            dialled.map_err(|error| format!("the data connection could not be opened: {}", sentence(&error)))
        }
        why = &mut stopped => Err(closed_by_hub(why.ok())),
    };
    let why = match dialled {
        Ok(DataStream::Direct { stream, early }) => run(*stream, &early, socket, &mut held, stopped).await,
        Ok(DataStream::Proxied(stream)) => run(stream, &[], socket, &mut held, stopped).await,
        Err(why) => {
            drop(socket);
            why
        }
    };
    held.end().await;
    tracing::info!(%tunnel, why, "session over");
    AgentFrame::TunnelClose { tunnel, why }
}

fn closed_by_hub(why: Option<String>) -> String {
    format!("the hub closed the tunnel: {}", why.unwrap_or_default())
}

/// Carries a session until one of its ends is gone or the hub closes it; says why.
async fn run<S>(
    mut hub: S,
    early: &[u8],
    socket: UnixStream,
    held: &mut HeldSession,
    stopped: oneshot::Receiver<String>,
) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Only here: afterwards it is known why, and the hub's word about an end that it heard of from us
    // says less.
    let ended = tokio::select! {
        ended = relay(&mut hub, early, Session { socket, held: &mut *held }) => Ok(ended),
        why = stopped => Err(closed_by_hub(why.ok())),
    };
    let (why, tell) = match ended {
        Ok((end, whole)) => {
            let (why, tell) = explain(end);
            (why, tell && whole)
        }
        Err(why) => (why, false),
    };
    tokio::join!(held.end(), hang_up(&mut hub, tell.then_some(why.as_str())));
    why
}

/// An end in words, and whether the other end of the data connection does not know them.
fn explain(end: End) -> (String, bool) {
    match end {
        End::Over(Some(Ok(receipt))) => (how(&receipt), true),
        End::Over(Some(Err(error))) => (format!("the session was given up: {}", sentence(&error)), true),
        End::Over(None) => {
            let why = "the session's end at the host closed, and the warden does not say why: see its log";
            (why.to_owned(), true)
        }
        End::Closed(why) => (format!("the other end closed the session: {why}"), false),
        End::Lost(why) => (format!("the data connection to the hub was lost: {why}"), false),
        End::Garbage(error) => (error.to_string(), true),
    }
}

/// How a session ended, in the host's words. For display only: nothing is decided by it.
fn how(receipt: &Signed) -> String {
    match serde_json::from_slice::<Receipt>(&receipt.payload.0) {
        Ok(Receipt { event: Event::Order { outcome: Outcome::Done { seen, .. }, .. }, .. }) => {
            seen.to_string()
        }
        Ok(Receipt { event: Event::Order { outcome, .. }, .. }) => printable(&outcome.to_string()),
        Ok(_) | Err(_) => {
            "the session ended, and the warden's receipt does not say how: see its log".to_owned()
        }
    }
}

/// What is told of a session without a receipt.
fn trouble(error: &WardenError) -> String {
    let what = sentence(error);
    match error {
        WardenError::NoSocket { .. } => format!("{what} The session was given up."),
        _ if error.nothing_happened() => format!("{what}. No session was opened."),
        _ => format!(
            "{what}. It is not known whether the session was opened; nothing is connected to it, and it ends with the connection to the warden, which was closed."
        ),
    }
}

#[cfg(test)]
mod tests;
