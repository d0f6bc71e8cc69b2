//! What lies between agent and hub: a wire that can be cut, and held in either direction. What is held is in
//! nobody's hands, as in a network that has stalled.

use std::sync::Arc;

use scenarios::{Fallible, Trouble};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Nothing but the result of a script is so long; bytes in one piece.
const LONG: usize = 15_000;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToHub,
    ToAgent,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Connections are refused.
    down: bool,
    held: Option<Way>,
    /// Is to be held towards the hub from the next long message on.
    catching: bool,
    /// Grows when everything that is connected is cut.
    cuts: u64,
}

/// Listens until it is dropped.
pub(crate) struct Wire {
    port: u16,
    state: Arc<watch::Sender<State>>,
    listening: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Wire {
    /// In front of a hub, `127.0.0.1:port`.
    pub(crate) async fn to(hub: &str) -> Fallible<Self> {
        let fail = |error: std::io::Error| Trouble::new("the wire", error);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(fail)?;
        let port = listener.local_addr().map_err(fail)?.port();
        let state = Arc::new(watch::channel(State::default()).0);
        let (hub, states) = (hub.to_owned(), state.clone());
        let listening = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                if !states.borrow().down {
                    tokio::spawn(carry(agent, hub.clone(), states.clone()));
                }
            }
        });
        Ok(Self { port, state, listening })
    }

    /// Where the agent shall connect.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// From now on nothing goes this way, and everything the other way; what is sent waits here.
    pub(crate) fn hold(&self, way: Way) {
        self.state.send_modify(|state| (state.held, state.catching) = (Some(way), false));
    }

    /// Holds the way to the hub as soon as a result is on it.
    pub(crate) fn catch_result(&self) {
        self.state.send_modify(|state| state.catching = true);
    }

    /// Whether anything is held this way.
    pub(crate) fn holds(&self, way: Way) -> bool {
        self.state.borrow().held == Some(way)
    }

    /// Cuts what is connected, and loses what waits. New connections are carried.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            *state = State { cuts: state.cuts + 1, ..State::default() };
        });
    }

    /// Cuts what is connected and takes nothing new.
    pub(crate) fn down(&self) {
        self.cut();
        self.state.send_modify(|state| state.down = true);
    }

    /// Everything goes on, and what waited goes first.
    pub(crate) fn release(&self) {
        self.state.send_modify(|state| *state = State { cuts: state.cuts, ..State::default() });
    }
}

async fn carry(agent: TcpStream, hub: String, state: Arc<watch::Sender<State>>) {
    let before = state.borrow().cuts;
    let Ok(hub) = TcpStream::connect(hub).await else { return };
    if agent.set_nodelay(true).is_err() || hub.set_nodelay(true).is_err() {
        return;
    }
    let ((from_agent, to_agent), (from_hub, to_hub)) = (agent.into_split(), hub.into_split());
    let mut cut = state.subscribe();
    // The end of either side is the end of both.
    tokio::select! {
        () = copy(from_agent, to_hub, (Way::ToHub, before), &state) => {}
        () = copy(from_hub, to_agent, (Way::ToAgent, before), &state) => {}
        _ = cut.wait_for(|state| state.cuts != before) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (way, cuts): (Way, u64),
    state: &watch::Sender<State>,
) {
    let (mut buffer, mut held, mut free) = (vec![0; 64 * 1024], Vec::new(), state.subscribe());
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(length @ 1..) => {
                    if way == Way::ToHub && length >= LONG && state.borrow().catching {
                        state.send_modify(|state| (state.held, state.catching) = (Some(way), false));
                    }
                    held.extend_from_slice(&buffer[..length]);
                }
                Ok(0) | Err(_) => return,
            },
            // What is cut is lost, whatever else happens in that moment.
            cut = async {
                free.wait_for(|s| s.held != Some(way) || s.cuts != cuts).await.map_or(true, |s| s.cuts != cuts)
            }, if !held.is_empty() => {
                if cut || to.write_all(&held).await.is_err() {
                    return;
                }
                held.clear();
            }
        }
    }
}
