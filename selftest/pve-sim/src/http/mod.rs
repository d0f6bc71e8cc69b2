//! The HTTP face: what the web server of Proxmox VE does before and after a handler.

mod access;
mod answer;
mod backup;
mod cluster;
mod content;
mod control;
mod create;
mod disks;
mod faults;
mod gate;
mod guest;
mod gzip;
mod ha;
mod jobs;
mod node;
mod params;
mod pools;
mod restore;
mod routes;
mod snapshot;
mod storage;
mod tasks;
mod upload;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, to_bytes};
use hyper::header::{ACCEPT_ENCODING, HeaderMap};
use hyper::{Request, Response};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use crate::sim::{Door, SimConfig};
use crate::tls::{Identity, Pins, TlsError};
use crate::world::{AuthId, FaultPlan, NewCertificate, Now, Refusal, World};
use answer::{Outcome, Raw};
use faults::{Before, DaemonRest};
use params::Params;

/// Bodies over this are refused before they are read.
const BODY_LIMIT: usize = 512 * 1024;

/// One request that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLine {
    /// The method.
    pub method: String,
    /// The path as it was sent, without the query.
    pub path: String,
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer is withheld, as ordered through the simulator's side door")]
pub(crate) struct Withheld;

/// An order to withhold an answer.
#[derive(Debug, Clone)]
pub(crate) struct Withhold {
    pub(crate) method: String,
    pub(crate) contains: String,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) seen: Mutex<Vec<RequestLine>>,
    pub(crate) drops: Mutex<Vec<Withhold>>,
    /// The faults still to come.
    pub(crate) plan: Mutex<FaultPlan>,
    /// Whether anybody listens.
    pub(crate) door: watch::Sender<Door>,
    /// What is served to new connections.
    pub(crate) tls: Mutex<Served>,
    /// The daemon behind the web server, while it restarts.
    pub(crate) daemon: Mutex<DaemonRest>,
    /// Told when a task may have begun.
    pub(crate) begun: Notify,
    ca_dir: Option<PathBuf>,
    born: Instant,
    /// How many seconds the node's clock goes wrong.
    clock: AtomicI64,
    auth_failure_delay: Duration,
    call_delay: Duration,
}

/// The certificate of new connections.
pub(crate) struct Served {
    pub(crate) identity: Identity,
    pub(crate) acceptor: TlsAcceptor,
    /// Counts the changes, so that connections with an older one can end.
    pub(crate) generation: u64,
}

/// A request on its way to a handler.
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) path: String,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
}

/// How answers are wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `/api2/json`.
    Json,
    /// `/api2/extjs`: what the web interface uses.
    Extjs,
}

/// Locks; a panicking handler must not take the whole simulator with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A successful answer: `data`, and `total` beside it where a list has one.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    data: Value,
    total: Option<usize>,
    /// An answer that is no JSON at all.
    raw: Option<Raw>,
}

impl From<Value> for Reply {
    fn from(data: Value) -> Reply {
        Reply { data, ..Reply::default() }
    }
}

/// A request as the handlers see it.
pub(crate) struct Call<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) now: Now,
    pub(crate) who: AuthId,
    pub(crate) params: Params,
}

impl Call<'_> {
    /// The 403 unless any of `wanted` is held on `path`.
    fn require(&self, path: &str, wanted: &[&str]) -> Result<(), Refusal> {
        self.world.access.require(&self.who, path, wanted)
    }

    /// Whether any of `wanted` is held on `path`.
    fn may(&self, path: &str, wanted: &[&str]) -> bool {
        self.world.access.has_any(&self.who, path, wanted)
    }
}

impl Shared {
    pub(crate) fn new(config: SimConfig, world: World, identity: Identity) -> Result<Shared, TlsError> {
        let acceptor = identity.acceptor()?;
        Ok(Shared {
            world: Arc::new(Mutex::new(world)),
            seen: Mutex::default(),
            drops: Mutex::default(),
            plan: Mutex::new(config.faults),
            door: watch::Sender::new(Door::Open),
            tls: Mutex::new(Served { identity, acceptor, generation: 0 }),
            daemon: Mutex::default(),
            begun: Notify::new(),
            ca_dir: config.ca_dir,
            born: Instant::now(),
            clock: AtomicI64::new(0),
            auth_failure_delay: config.auth_failure_delay,
            call_delay: config.call_delay,
        })
    }

    /// The current instant.
    pub(crate) fn now(&self) -> Now {
        let wrong = self.clock.load(Ordering::Relaxed);
        Now { mono: self.born.elapsed(), unix: unix_now().saturating_add(wrong) }
    }

    /// Sets the node's clock, which goes on from there.
    pub(crate) fn set_clock(&self, unix: i64) {
        self.clock.store(unix.saturating_sub(unix_now()), Ordering::Relaxed);
    }

    /// Serves another certificate from the next connection on.
    pub(crate) fn swap_certificate(&self, new: NewCertificate) -> Result<Pins, TlsError> {
        let mut tls = lock(&self.tls);
        let mut world = lock(&self.world);
        let unix = u64::try_from(unix_now()).unwrap_or_default();
        let identity =
            tls.identity.replaced(new, self.ca_dir.as_deref(), &world.node, &world.node_ip, unix)?;
        tls.acceptor = identity.acceptor()?;
        tls.generation += 1;
        world.certificates = identity.info();
        world.fingerprint = identity.fingerprint();
        let pins = identity.pins();
        tls.identity = identity;
        Ok(pins)
    }

    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Withheld> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let method = head.method.as_str().to_owned();
        let query = head.uri.query().map(str::to_owned);
        if let Some(rest) = path.strip_prefix("/sim/") {
            let Ok(bytes) = to_bytes(body, BODY_LIMIT).await else {
                return Ok(control::refuse("the body is too large"));
            };
            return Ok(control::answer(&self, &method, rest, query.as_deref(), &bytes));
        }
        if self.door.borrow().is_closed() {
            return Err(Withheld);
        }
        lock(&self.seen).push(RequestLine { method: method.clone(), path: path.clone() });
        if !self.call_delay.is_zero() {
            tokio::time::sleep(self.call_delay).await;
        }
        let target = match &query {
            Some(query) => format!("{path}?{query}"),
            None => path.clone(),
        };
        let fired = lock(&self.plan).fire(&method, &target);
        let packs = head.headers.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
        let packs = packs.is_some_and(|v| v.split(',').any(|c| c.trim().eq_ignore_ascii_case("gzip")));
        let incoming =
            Incoming { method: method.clone(), path: path.clone(), query, headers: head.headers, body };
        let mut outcome = match self.before(&fired, &path) {
            Before::Close => return Err(Withheld),
            Before::Hang => std::future::pending().await,
            Before::Answer(outcome) => {
                if outcome.status == 401 {
                    tokio::time::sleep(self.auth_failure_delay).await;
                }
                outcome
            }
            Before::Handle => match Shared::answered_early(&fired) {
                Some((later, outcome)) => {
                    self.handle_later(incoming, later).await;
                    outcome
                }
                None => {
                    let outcome = self.respond(incoming).await;
                    self.after(&fired, outcome).await.ok_or(Withheld)?
                }
            },
        };
        self.begun.notify_one();
        let mut drops = lock(&self.drops);
        let ordered = |d: &Withhold| d.method == method && path.contains(&d.contains);
        if let Some(at) = drops.iter().position(ordered) {
            drops.remove(at);
            return Err(Withheld);
        }
        if packs {
            outcome.pack();
        }
        Ok(outcome.into_response())
    }

    /// Handles the request some time after its connection got another answer.
    async fn handle_later(self: &Arc<Self>, mut incoming: Incoming, later: Duration) {
        // The body must be read while the client still sends it.
        let body = std::mem::take(&mut incoming.body);
        incoming.body = to_bytes(body, BODY_LIMIT).await.map(Body::from).unwrap_or_default();
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(later).await;
            let outcome = shared.respond(incoming).await;
            tracing::debug!(status = outcome.status, "a request was handled after its answer");
            shared.begun.notify_one();
        });
    }

    /// The checks of the web server, then the handler.
    async fn respond(&self, mut incoming: Incoming) -> Outcome {
        let outcome = match self.gate(&incoming) {
            Err(refusal) => Outcome::plain(&refusal, &incoming.method),
            Ok(passed) => {
                let body = std::mem::take(&mut incoming.body);
                // The gate has looked at its length already.
                let Ok(bytes) = to_bytes(body, upload::UPLOAD_LIMIT).await else {
                    return Outcome::plain(&Refusal::new(501, "for data too large"), &incoming.method);
                };
                self.handle(&incoming, passed, &bytes)
            }
        };
        if outcome.status == 401 {
            // Only the authentication is slow; a browser's typo costs three seconds too.
            tokio::time::sleep(self.auth_failure_delay).await;
        }
        outcome
    }

    /// Lets the effects of tasks come in time even if no request does; never returns.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        loop {
            let due = lock(&self.world).next_due_all();
            let wait = due.map_or(Duration::MAX, |due| due.saturating_sub(self.born.elapsed()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    let now = self.now();
                    lock(&self.world).settle_all(now);
                }
                () = self.begun.notified() => {}
            }
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_secs()).unwrap_or(i64::MAX)
}
