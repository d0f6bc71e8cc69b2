//! What every request and every channel shares.

use std::fmt;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use protocol::Sha256;
use protocol::frame::{HEARTBEAT_S, SILENCE_S};

use crate::live::Live;
use crate::operators::OperatorsFile;
use crate::questions::Questions;
use crate::store::Store;
use crate::tunnel::Tunnels;

/// The hub's insides; clones share them.
pub(crate) type App = Arc<AppInner>;

/// See [`App`].
#[derive(Debug)]
pub(crate) struct AppInner {
    pub(crate) store: Store,
    pub(crate) live: Live,
    pub(crate) tunnels: Tunnels,
    pub(crate) questions: Questions,
    /// Most sessions that an operator may have open on one host.
    pub(crate) sessions_per_operator: NonZeroU8,
    pub(crate) operators: OperatorsFile,
    /// SHA-256 of the hub's own SubjectPublicKeyInfo.
    pub(crate) pin: Sha256,
    pub(crate) environment: Environment,
}

impl AppInner {
    /// Unix seconds.
    pub(crate) fn now(&self) -> u64 {
        (self.environment.clock.0)()
    }
    pub(crate) fn limits(&self) -> &Limits {
        &self.environment.limits
    }
}

/// Gives unix seconds.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that asks `now` for unix seconds.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The machine's.
    pub fn system() -> Self {
        // A clock before 1970 makes everything look unexpired; such a machine has other problems.
        Self::new(|| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
        })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", (self.0)())
    }
}

/// How long the hub waits for others, and how many it serves at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For a request's header, also between two requests.
    pub header: Duration,
    /// For a request's body.
    pub body: Duration,
    /// For the first frame of a channel.
    pub hello: Duration,
    /// Between two heartbeats of the hub.
    pub heartbeat: Duration,
    /// Silence after which a channel is closed.
    pub silence: Duration,
    /// For one frame to leave; an agent that does not read for so long is dropped.
    pub send: Duration,
    /// For connections to end when the hub stops.
    pub stop: Duration,
    /// For a host to answer a question. The agent waits 40 s for its warden.
    pub answer: Duration,
    /// For a host to answer when a session is asked for.
    pub tunnel_answer: Duration,
    /// For both data connections of a tunnel to come, after the host said that it is ready.
    pub tunnel_connect: Duration,
    /// Between two looks whether an operator with an open session still stands in the operators file;
    /// two that say no end it.
    pub tunnel_recheck: Duration,
    /// For a tunnel's data connection to end by itself after the host said that its session is over,
    /// and for the host to say why after the connection ended.
    pub tunnel_close: Duration,
    /// For what a closed tunnel still holds to arrive.
    pub tunnel_drain: Duration,
    /// Between two rounds of forgetting what nobody needs any more.
    pub upkeep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(20),
            body: Duration::from_secs(30),
            hello: Duration::from_secs(10),
            heartbeat: Duration::from_secs(HEARTBEAT_S),
            silence: Duration::from_secs(SILENCE_S),
            send: Duration::from_secs(30),
            stop: Duration::from_secs(5),
            answer: Duration::from_secs(50),
            tunnel_answer: Duration::from_secs(40),
            tunnel_connect: Duration::from_secs(15),
            tunnel_recheck: Duration::from_secs(5),
            tunnel_close: Duration::from_secs(2),
            tunnel_drain: Duration::from_secs(5),
            upkeep: Duration::from_secs(3_600),
        }
    }
}

/// What a hub takes from its surroundings; tests bring their own.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Unix seconds.
    pub clock: Clock,
    /// Patience.
    pub limits: Limits,
}

impl Default for Environment {
    fn default() -> Self {
        Self { clock: Clock::system(), limits: Limits::default() }
    }
}
