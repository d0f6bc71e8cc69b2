//! The network side: listening, TLS, connections, and a clean end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use authz::files::{self, FileError};
use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use protocol::Sha256;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::app::{App, AppInner, Environment};
use crate::config::HubConfig;
use crate::http;
use crate::live::Live;
use crate::operators::{OperatorsError, OperatorsFile};
use crate::questions::Questions;
use crate::store::{OpenError, Store};
use crate::tls::{self, Tls, TlsError};
use crate::tunnel::Tunnels;
use crate::upkeep;

/// Name of the database in the state directory.
const DATABASE: &str = "hub.sqlite";

/// Why a hub does not start.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] FileError),
    /// A second hub.
    #[error("another writ-hub uses the state directory {path}: stop it, or give this one its own state_dir", path = .0.display())]
    InUse(PathBuf),
    /// The database.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The database, once it is open.
    #[error("the database cannot be written: is the disk full or the file damaged?")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operators file.
    #[error(transparent)]
    Operators(#[from] OperatorsError),
    /// The port.
    #[error("cannot listen on {address}: {reason}", reason = listen_reason(.source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

fn listen_reason(error: &io::Error) -> String {
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process uses this port: stop it or choose another port in `listen`"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have this address: correct `listen` (0.0.0.0 is every IPv4 address)"
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: choose a port above 1023 in `listen` or grant CAP_NET_BIND_SERVICE"
        }
        _ => return error.to_string(),
    };
    reason.to_owned()
}

/// A place among the open connections. It follows the connection into its WebSocket or tunnel.
#[derive(Debug, Clone)]
pub(crate) struct Connection(#[expect(dead_code, reason = "held, never read")] Arc<OwnedSemaphorePermit>);

/// A hub that accepts connections. Dropping it ends it without waiting; [`Self::shutdown`] is the
/// clean end.
#[derive(Debug)]
pub struct RunningHub {
    app: App,
    address: SocketAddr,
    accepting: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    /// Locked while the hub runs.
    _lock: std::fs::File,
}

/// Starts a hub with the machine's clock and the usual limits.
pub async fn serve(config: HubConfig) -> Result<RunningHub, HubError> {
    serve_in(config, Environment::default()).await
}

/// Starts a hub in surroundings of the caller's choice.
pub async fn serve_in(config: HubConfig, environment: Environment) -> Result<RunningHub, HubError> {
    let HubConfig { listen, url, state_dir, tls_cert, tls_key, operators, sessions_per_operator } = config;
    files::prepare_state_dir(&state_dir)?;
    let lock = lock(&state_dir.join("lock"))?;
    let tls = tls::load(&tls_cert, &tls_key)?;
    let operators = OperatorsFile::new(&operators);
    operators.current()?;
    let listen_error = |source| HubError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let store = Store::open(&state_dir.join(DATABASE)).await?;
    let pin = tls.pin;
    let app: App = Arc::new(AppInner {
        store,
        live: Live::new(),
        tunnels: Tunnels::default(),
        questions: Questions::default(),
        sessions_per_operator,
        operators,
        pin,
        environment,
    });
    // Before anybody can open one, so that none of this run is meant.
    upkeep::close_left_tunnels(&app).await.map_err(|error| HubError::Write(Box::new(error)))?;
    let accepting = tokio::spawn(accept(listener, tls, app.clone()));
    let upkeep = tokio::spawn(upkeep::run(app.clone()));
    tracing::info!(%address, %url, %pin, "ready");
    Ok(RunningHub { app, address, accepting, upkeep, _lock: lock })
}

/// Two hubs on one database would not see each other's channels. The lock ends with the process.
fn lock(path: &std::path::Path) -> Result<std::fs::File, HubError> {
    let fail = |source| FileError::io("lock", path, source);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(HubError::InUse(path.parent().unwrap_or(path).to_owned()))
        }
        Err(std::fs::TryLockError::Error(source)) => Err(fail(source).into()),
    }
}

impl RunningHub {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// SHA-256 of its TLS key's SubjectPublicKeyInfo.
    pub fn pin(&self) -> Sha256 {
        self.app.pin
    }

    /// Says Bye on every channel, lets requests end, and closes the database.
    pub async fn shutdown(mut self) {
        self.app.live.stop();
        let patience = self.app.limits().stop;
        if !self.app.live.ended(patience).await {
            tracing::warn!("some channels did not end in time");
        }
        if timeout(patience * 2, &mut self.accepting).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        if timeout(patience, &mut self.upkeep).await.is_err() {
            tracing::warn!("the upkeep did not end in time");
        }
        self.app.store.close().await;
        tracing::info!("stopped");
    }
}

impl Drop for RunningHub {
    fn drop(&mut self) {
        self.app.live.stop();
        self.accepting.abort();
        self.upkeep.abort();
    }
}

/// Accepts until the hub stops, then waits a while for what is open.
async fn accept(listener: TcpListener, tls: Tls, app: App) {
    let acceptor = TlsAcceptor::from(tls.config);
    let router = http::router(app.clone());
    let places = Arc::new(Semaphore::new(app.limits().connections));
    let mut stop = app.live.watch_stop();
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = open.join_next() => continue,
            accepted = next(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        open.spawn(connection(
            stream,
            peer,
            Connection(Arc::new(place)),
            acceptor.clone(),
            router.clone(),
            app.clone(),
        ));
    }
    drop(listener);
    let patience = app.limits().stop;
    if timeout(patience, async { while open.join_next().await.is_some() {} }).await.is_err() {
        open.shutdown().await;
    }
}

async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // Closed never, so this only waits.
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Out of file descriptors, most likely; trying again at once would only burn CPU.
            tracing::error!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(200)).await;
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    place: Connection,
    acceptor: TlsAcceptor,
    router: Router,
    app: App,
) {
    let limits = app.limits().clone();
    // Frames are small and wait for no others.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let device = certificates.and_then(|chain| chain.first()).and_then(tls::device_key);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        if let Some(device) = device {
            request.extensions_mut().insert(device);
        }
        answer(router.clone(), request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let mut stop = app.live.watch_stop();
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    let mut response = router.oneshot(request).await?;
    // Answers hold tokens and states of hosts: nothing for a cache or for guessing types.
    let headers = response.headers_mut();
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Ok(response)
}
