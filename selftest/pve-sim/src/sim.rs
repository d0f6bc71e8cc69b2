//! Starting and stopping the simulator.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::{RequestLine, Shared, Withhold, lock, unix_now};
use crate::tls::{Identity, Pins, TlsError};
use crate::world::{AuthId, FaultPlan, FaultRule, NewCertificate, Now, World};

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
    /// How long every answer of the API takes longer.
    pub call_delay: Duration,
    /// What goes wrong.
    pub faults: FaultPlan,
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
            call_delay: Duration::ZERO,
            faults: FaultPlan::default(),
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

/// Whether anybody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    /// Until then, or until somebody opens it.
    Closed(Option<Instant>),
}

impl Door {
    pub(crate) fn closed_for(time: Duration) -> Door {
        Door::Closed(Instant::now().checked_add(time))
    }

    pub(crate) fn is_closed(self) -> bool {
        match self {
            Door::Open => false,
            Door::Closed(until) => until.is_none_or(|until| Instant::now() < until),
        }
    }
}

/// A running simulator; dropping it stops it.
pub struct Sim {
    addr: SocketAddr,
    ca_pem: String,
    shared: Arc<Shared>,
    quit: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    time: AbortOnDrop,
}

/// Ends a task of the runtime with the simulator.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Sim {
    /// Starts listening.
    pub async fn start(config: SimConfig) -> Result<Sim, SimError> {
        let (listen, dir) = (config.listen, config.ca_dir.clone());
        let mut world = config.world.clone();
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
        let unix = u64::try_from(unix_now()).unwrap_or_default();
        let identity = Identity::open(dir.as_deref(), &world.node, &world.node_ip, unix)?;
        world.certificates = identity.info();
        world.fingerprint = identity.fingerprint();
        let ca_pem = identity.ca_pem.clone();
        let refused = |source| SimError::Listen { addr: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        let (quit, quitting) = watch::channel(false);
        let shared = Arc::new(Shared::new(config, world, identity)?);
        let time = AbortOnDrop(tokio::spawn(Arc::clone(&shared).keep_time()));
        let accepting = tokio::spawn(accept(listener, addr, Arc::clone(&shared), quitting));
        Ok(Sim { addr, ca_pem, shared, quit, accepting, time })
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// The values a client may pin now.
    pub fn pins(&self) -> Pins {
        lock(&self.shared.tls).identity.pins()
    }

    /// The CA certificate of the start as PEM, for a client's root store.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The state, for looking at and for changing it under a client's feet.
    pub fn world(&self) -> Arc<Mutex<World>> {
        Arc::clone(&self.shared.world)
    }

    /// Sets the node's clock to so many seconds since 1970; it goes on from there. The monotonic
    /// clock, which tasks and faults go by, does not notice.
    pub fn set_clock(&self, unix: i64) {
        self.shared.set_clock(unix);
    }

    /// The instant a request that came now would be handled at.
    pub fn now(&self) -> Now {
        self.shared.now()
    }

    /// Every request seen so far, without those of the side door.
    pub fn requests(&self) -> Vec<RequestLine> {
        lock(&self.shared.seen).clone()
    }

    /// How many requests were seen so far, without those of the side door.
    pub fn request_count(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// The next matching request is handled, and its answer is lost: the connection just closes.
    pub fn drop_answer_next(&self, method: &str, contains: &str) {
        let order = Withhold { method: method.to_owned(), contains: contains.to_owned() };
        lock(&self.shared.drops).push(order);
    }

    /// Orders a fault. What concerns the whole node and waits for no particular request (see
    /// [`FaultRule::is_unconditional`]) happens at once; the error says why it cannot.
    pub fn fault(&self, rule: FaultRule) -> Result<(), String> {
        if rule.is_unconditional()
            && let Some(done) = self.shared.to_node(&rule.mishap, "")
        {
            return done;
        }
        lock(&self.shared.plan).rules.push(rule);
        Ok(())
    }

    /// The faults still to come.
    pub fn faults(&self) -> Vec<FaultRule> {
        lock(&self.shared.plan).rules.clone()
    }

    /// Takes back the faults still to come.
    pub fn clear_faults(&self) {
        lock(&self.shared.plan).rules.clear();
    }

    /// Nobody listens until [`Sim::listen_again`]: connections are refused, and those there are
    /// are closed with their next request.
    pub fn refuse_connections(&self) {
        self.shared.door.send_replace(Door::Closed(None));
    }

    /// Ends [`Sim::refuse_connections`] and a fault `refuse`. Returns once connections are accepted.
    pub async fn listen_again(&self) {
        self.shared.door.send_replace(Door::Open);
        while TcpStream::connect(self.addr).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Serves another certificate from the next connection on, and answers its pins.
    pub fn swap_certificate(&self, new: NewCertificate) -> Result<Pins, TlsError> {
        self.shared.swap_certificate(new)
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
        drop(self.time);
    }
}

/// Waits until the door is open; false when the simulator ends before.
async fn opened(door: &mut watch::Receiver<Door>, quitting: &mut watch::Receiver<bool>) -> bool {
    loop {
        let wait = match *door.borrow_and_update() {
            Door::Open => return true,
            Door::Closed(None) => Duration::MAX,
            Door::Closed(Some(until)) => until.saturating_duration_since(Instant::now()),
        };
        tokio::select! {
            _ = quitting.changed() => return false,
            _ = door.changed() => {}
            () = tokio::time::sleep(wait) => return true,
        }
    }
}

async fn accept(
    listener: TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared>,
    mut quitting: watch::Receiver<bool>,
) {
    // Dropping the set at the end of this function ends all connections.
    let mut connections = JoinSet::new();
    let mut door = shared.door.subscribe();
    let mut listening = Some(listener);
    loop {
        if door.borrow_and_update().is_closed() {
            listening = None;
        }
        let Some(listener) = &listening else {
            if !opened(&mut door, &mut quitting).await {
                return;
            }
            match TcpListener::bind(addr).await {
                Ok(again) => {
                    listening = Some(again);
                    shared.door.send_if_modified(|door| {
                        let over = *door != Door::Open && !door.is_closed();
                        if over {
                            *door = Door::Open;
                        }
                        over
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot listen again yet");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            continue;
        };
        tokio::select! {
            _ = quitting.changed() => return,
            _ = door.changed() => {}
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, addr, Arc::clone(&shared)));
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

async fn serve(stream: TcpStream, addr: SocketAddr, shared: Arc<Shared>) -> Result<(), Infallible> {
    let (acceptor, generation) = {
        let tls = lock(&shared.tls);
        (tls.acceptor.clone(), tls.generation)
    };
    let handshake = tokio::time::timeout(IDLE, async {
        let mut first = [0];
        // A TLS connection begins with a record of type 22.
        if stream.peek(&mut first).await.is_ok_and(|n| n == 1) && first != [22] {
            redirect(stream, addr).await;
            return None;
        }
        acceptor.accept(stream).await.ok()
    });
    let Ok(Some(stream)) = handshake.await else {
        return Ok(());
    };
    let served = std::sync::atomic::AtomicU32::new(0);
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        let count = served.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let last = is_last(&request);
        async move {
            let mut response = Arc::clone(&shared).answer(request.map(Body::new)).await?;
            let outdated = lock(&shared.tls).generation != generation;
            if last || count >= REQUESTS_PER_CONNECTION || outdated || shared.door.borrow().is_closed() {
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

/// Whether the client wants the connection closed after this request.
fn is_last<T>(request: &hyper::Request<T>) -> bool {
    let header = request.headers().get(CONNECTION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    header.eq_ignore_ascii_case("close")
        || (request.version() == hyper::Version::HTTP_10 && !header.eq_ignore_ascii_case("keep-alive"))
}

/// Plain HTTP on the TLS port is sent to HTTPS: 301 for GET and HEAD, 308 for the rest. The text
/// of the real answer was not recorded.
async fn redirect(mut stream: TcpStream, addr: SocketAddr) {
    let mut head = Vec::new();
    while head.len() < MAX_HEADER_BYTES && !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let status = match method {
        "GET" | "HEAD" => "301 Moved Permanently",
        _ => "308 Permanent Redirect",
    };
    let path = if path.starts_with('/') { path } else { "/" };
    let answer = format!(
        "HTTP/1.1 {status}\r\nLocation: https://{addr}{path}\r\nServer: pve-api-daemon/3.0\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    if let Err(error) = stream.write_all(answer.as_bytes()).await {
        tracing::debug!(%error, "a redirection was not wanted");
    }
}
