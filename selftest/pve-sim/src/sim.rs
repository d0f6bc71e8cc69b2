//! Starting and stopping the simulator.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::http::{RequestLine, Shared, Withhold, lock};
use crate::tls::{Identity, Pins, TlsError};
use crate::world::{AuthId, World};

/// The web server of Proxmox VE closes idle connections after five seconds.
const IDLE: Duration = Duration::from_secs(5);
/// … and every connection after this many requests.
const REQUESTS_PER_CONNECTION: u32 = 100;
/// Its limits on the header block.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// How to start a simulator.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// The address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The initial state. Tokens without a secret get a random one.
    pub world: World,
    /// Where CA and leaf are kept, so that a restart has the same ones; `None` makes fresh ones.
    pub ca_dir: Option<PathBuf>,
    /// How long tasks run.
    pub task_duration: Duration,
    /// How long a 401 takes; three seconds in Proxmox VE.
    pub auth_failure_delay: Duration,
}

impl SimConfig {
    /// The demo world on a free local port.
    pub fn demo() -> SimConfig {
        SimConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            world: World::demo(),
            ca_dir: None,
            task_duration: Duration::from_millis(50),
            auth_failure_delay: Duration::from_secs(3),
        }
    }
}

/// Why a simulator could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}; choose another address or stop what uses it")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The certificates could not be prepared.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes; try again later")]
    Random(#[source] getrandom::Error),
}

/// A running simulator; dropping it stops it.
pub struct Sim {
    addr: SocketAddr,
    pins: Pins,
    ca_pem: String,
    shared: Arc<Shared>,
    quit: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Sim {
    /// Starts listening.
    pub async fn start(config: SimConfig) -> Result<Sim, SimError> {
        let mut world = config.world;
        world.task_duration = config.task_duration;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(SimError::Random)?;
        world.reseed(seed);
        let unset: Vec<AuthId> = world
            .access
            .tokens
            .iter()
            .filter(|(_, token)| token.secret.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in unset {
            let secret = world.fresh_uuid();
            if let Some(token) = world.access.tokens.get_mut(&id) {
                token.secret = Some(secret);
            }
        }
        let shared = Shared::new(world, config.auth_failure_delay);
        let unix = u64::try_from(shared.now().unix).unwrap_or_default();
        let identity = {
            let mut world = lock(&shared.world);
            let dir = config.ca_dir.as_deref();
            let identity = Identity::open(dir, &world.node, &world.node_ip, unix)?;
            world.certificates = identity.info();
            world.fingerprint = identity.fingerprint();
            identity
        };
        let tls = TlsAcceptor::from(Arc::new(identity.server_config()?));
        let refused = |source| SimError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        let (quit, quitting) = watch::channel(false);
        let shared = Arc::new(shared);
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&shared), quitting));
        Ok(Sim { addr, pins: identity.pins(), ca_pem: identity.ca_pem, shared, quit, accepting })
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// The values a client may pin.
    pub fn pins(&self) -> Pins {
        self.pins.clone()
    }

    /// The CA certificate as PEM, for a client's root store.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The state, for looking at and for changing it under a client's feet.
    pub fn world(&self) -> Arc<Mutex<World>> {
        Arc::clone(&self.shared.world)
    }

    /// Every request seen so far, without those of the side door.
    pub fn requests(&self) -> Vec<RequestLine> {
        lock(&self.shared.seen).clone()
    }

    /// The next matching request is handled, and its answer is lost: the connection just closes.
    pub fn drop_answer_next(&self, method: &str, contains: &str) {
        let order = Withhold { method: method.to_owned(), contains: contains.to_owned() };
        lock(&self.shared.drops).push(order);
    }

    /// The demo world's tokens `report` and `act` as `USER@REALM!TOKENID=SECRET`; empty text for
    /// one the world does not have.
    pub fn tokens(&self) -> (String, String) {
        (self.token("writ@pve!report"), self.token("writ@pve!act"))
    }

    /// Any token of the world as `USER@REALM!TOKENID=SECRET`, empty when there is none.
    pub fn token(&self, id: &str) -> String {
        let world = lock(&self.shared.world);
        let token = world.access.tokens.get(&AuthId::parse(id));
        let secret = token.and_then(|t| t.secret.as_deref());
        secret.map(|s| format!("{id}={s}")).unwrap_or_default()
    }

    /// Stops listening and closes all connections.
    pub async fn stop(self) {
        // The receiver lives in the task awaited next; if it is gone already, so is the listener.
        let _ = self.quit.send(true);
        let _ = self.accepting.await;
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    mut quitting: watch::Receiver<bool>,
) {
    // Dropping the set at the end of this function ends all connections.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = quitting.changed() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of file descriptors: give the running connections time to end.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) -> Result<(), Infallible> {
    let handshake = tokio::time::timeout(IDLE, tls.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else {
        return Ok(());
    };
    let served = std::sync::atomic::AtomicU32::new(0);
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        let count = served.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        async move {
            let mut response = shared.answer(request.map(Body::new)).await?;
            if count >= REQUESTS_PER_CONNECTION {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, crate::http::Withheld>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended");
    }
    Ok(())
}
