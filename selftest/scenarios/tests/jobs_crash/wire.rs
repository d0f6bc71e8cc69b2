//! What lies between agent and hub: a wire that can be cut, and held in either direction. What is held is in
//! nobody's hands, as in a network that has stalled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scenarios::{Fallible, Trouble};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

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
    /// Grows when everything that is connected is cut.
    cuts: u64,
}

/// Listens until it is dropped.
pub(crate) struct Wire {
    port: u16,
    state: Arc<watch::Sender<State>>,
    waiting: Arc<AtomicUsize>,
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
        let waiting = Arc::new(AtomicUsize::new(0));
        let (hub, states, counter) = (hub.to_owned(), state.clone(), waiting.clone());
        let listening = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let state = states.subscribe();
                if !state.borrow().down {
                    tokio::spawn(carry(agent, hub.clone(), state, counter.clone()));
                }
            }
        });
        Ok(Self { port, state, waiting, listening })
    }

    /// Where the agent shall connect.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// From now on nothing goes this way; what is sent waits here.
    pub(crate) fn hold(&self, way: Way) {
        self.waiting.store(0, Ordering::Relaxed);
        self.state.send_modify(|state| state.held = Some(way));
    }

    /// How many bytes wait on the connection that last got some.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Cuts what is connected, and loses what waits. New connections are carried.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            state.cuts += 1;
            (state.held, state.down) = (None, false);
        });
    }

    /// Cuts what is connected and takes nothing new.
    pub(crate) fn down(&self) {
        self.cut();
        self.state.send_modify(|state| state.down = true);
    }

    /// Everything goes on, and what waited goes first.
    pub(crate) fn release(&self) {
        self.state.send_modify(|state| (state.held, state.down) = (None, false));
    }
}

async fn carry(agent: TcpStream, hub: String, mut state: watch::Receiver<State>, waiting: Arc<AtomicUsize>) {
    let before = state.borrow().cuts;
    let Ok(hub) = TcpStream::connect(hub).await else { return };
    if agent.set_nodelay(true).is_err() || hub.set_nodelay(true).is_err() {
        return;
    }
    let ((from_agent, to_agent), (from_hub, to_hub)) = (agent.into_split(), hub.into_split());
    let up = copy(from_agent, to_hub, (Way::ToHub, before), state.clone(), &waiting);
    let down = copy(from_hub, to_agent, (Way::ToAgent, before), state.clone(), &waiting);
    // The end of either side is the end of both.
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = state.wait_for(|state| state.cuts != before) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (way, cuts): (Way, u64),
    mut state: watch::Receiver<State>,
    waiting: &AtomicUsize,
) {
    let (mut buffer, mut held) = (vec![0; 64 * 1024], Vec::new());
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(length @ 1..) => {
                    held.extend_from_slice(&buffer[..length]);
                    if state.borrow().held == Some(way) {
                        waiting.store(held.len(), Ordering::Relaxed);
                    }
                }
                Ok(0) | Err(_) => return,
            },
            // What is cut is lost, whatever else happens in that moment.
            cut = async { state.wait_for(|s| s.held != Some(way) || s.cuts != cuts).await.map_or(true, |s| s.cuts != cuts) },
                if !held.is_empty() =>
            {
                if cut || to.write_all(&held).await.is_err() {
                    return;
                }
                held.clear();
            }
        }
    }
}
