//! For tests: a warden that answers what it is told to, and a hub ([`hub`]).

mod hub;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authz::receipt::Entry;
use authz::{Event, Outcome, Receipt, SecretKey};
use local_socket::Framed;
use protocol::local::{EnrolledStatus, WardenAnswer, WardenRequest, WardenStatus};
use protocol::{Bytes, Envelope, HostId, Note, Sha256, Signed};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

pub(crate) use hub::{HubEnd, HubSocket, Reply, TlsHub, Upgrade};

pub(crate) const HOST: HostId = HostId::from_bytes([7; 16]);

/// Waits with a deadline: a test that hangs says so.
pub(crate) async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it should have happened by now")
}

pub(crate) fn host_key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

/// A receipt of an order or, without one, of a step.
pub(crate) fn receipt(seq: Option<u64>, op: Option<Sha256>, outcome: Outcome) -> Signed {
    let event = match op {
        Some(op) => Event::Order { op, kind: None, vmid: None, signers: vec![], outcome },
        None => Event::Step {
            generation: 1,
            kind: "guest.start".to_owned(),
            vmid: Some(100.try_into().unwrap()),
            what: "a step".parse().unwrap(),
            outcome,
        },
    };
    let entry = seq.map(|seq| Entry { seq, prev: Sha256::of(b"prev") });
    Receipt { v: 1, host: HOST, host_key_gen: 1, boot_id: "b".to_owned(), time: 1, entry, event }
        .sign(&host_key())
}

pub(crate) fn done() -> Outcome {
    Outcome::Done { upid: None, seen: "as wanted".parse().unwrap() }
}

type Handler = Box<dyn FnMut(&WardenRequest, u64) -> Vec<WardenAnswer> + Send>;
type Shared<T> = Arc<Mutex<T>>;

/// A warden with a log and results that the test fills. `handler` gives the answers to steps, orders
/// and enrollments; none: it hangs up. Its second argument is the log's size.
pub(crate) struct FakeWarden {
    pub(crate) socket: PathBuf,
    pub(crate) log: Shared<Vec<Signed>>,
    pub(crate) results: Shared<Vec<(Sha256, Bytes)>>,
    pub(crate) asked: Shared<Vec<WardenRequest>>,
    /// Orders that are not answered before they are taken out of here.
    pub(crate) slow: watch::Sender<BTreeSet<Sha256>>,
    /// Connections that ask for a session; the test is the warden there.
    pub(crate) sessions: mpsc::Receiver<(Envelope, Framed)>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Inside {
    handler: Mutex<Handler>,
    log: Shared<Vec<Signed>>,
    results: Shared<Vec<(Sha256, Bytes)>>,
    asked: Shared<Vec<WardenRequest>>,
    slow: watch::Receiver<BTreeSet<Sha256>>,
    sessions: mpsc::Sender<(Envelope, Framed)>,
}

impl FakeWarden {
    pub(crate) fn start(
        dir: &Path,
        handler: impl FnMut(&WardenRequest, u64) -> Vec<WardenAnswer> + Send + 'static,
    ) -> Self {
        let socket = dir.join("warden.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (log, results, asked) = <(Shared<_>, Shared<_>, Shared<_>)>::default();
        let (slow, is_slow) = watch::channel(BTreeSet::new());
        let (session, sessions) = mpsc::channel(64);
        let inside = Arc::new(Inside {
            handler: Mutex::new(Box::new(handler)),
            log: Arc::clone(&log),
            results: Arc::clone(&results),
            asked: Arc::clone(&asked),
            slow: is_slow,
            sessions: session,
        });
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&inside).serve(stream.into()));
            }
        });
        Self { socket, log, results, asked, slow, sessions, accepting }
    }

    /// Stops listening, as a warden that is killed.
    pub(crate) fn die(&self) {
        self.accepting.abort();
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// Requests that change something.
    pub(crate) fn changes(&self) -> Vec<WardenRequest> {
        let is_change = |request: &&WardenRequest| match request {
            WardenRequest::Enroll { .. } | WardenRequest::Step { .. } | WardenRequest::Order { .. } => true,
            WardenRequest::Status {}
            | WardenRequest::Receipts { .. }
            | WardenRequest::Session { .. }
            | WardenRequest::Policy { .. }
            | WardenRequest::Queue {}
            | WardenRequest::Ask { .. }
            | WardenRequest::Results {}
            | WardenRequest::Result { .. }
            | WardenRequest::ResultStored { .. } => false,
        };
        self.asked.lock().unwrap().iter().filter(is_change).cloned().collect()
    }

    /// The next connection that asks for a session.
    pub(crate) async fn session(&mut self) -> (Envelope, Framed) {
        soon(self.sessions.recv()).await.unwrap()
    }
}

impl Inside {
    async fn serve(self: Arc<Self>, mut stream: Framed) {
        // An agent may change its mind, for instance when its channel ends.
        let Ok(Some(request)) = stream.receive::<WardenRequest>().await else { return };
        if let WardenRequest::Session { envelope } = request {
            let _ = self.sessions.send((envelope, stream)).await;
            return;
        }
        if let WardenRequest::Order { envelope } = &request {
            let op = envelope.id();
            let _ = self.slow.clone().wait_for(|slow| !slow.contains(&op)).await;
        }
        for answer in &self.answers(&request) {
            // In the log before anyone hears of it.
            if let WardenAnswer::Receipt(signed) = answer {
                let receipt: Receipt = serde_json::from_slice(&signed.payload.0).unwrap();
                if receipt.entry.is_some() {
                    self.log.lock().unwrap().push(signed.clone());
                }
            }
            let _ = stream.send(answer).await;
        }
        self.asked.lock().unwrap().push(request);
    }

    fn answers(&self, request: &WardenRequest) -> Vec<WardenAnswer> {
        let log: Vec<Signed> = self.log.lock().unwrap().clone();
        let results = || self.results.lock().unwrap();
        vec![match request {
            WardenRequest::Status {} => WardenAnswer::Status(status(log.len() as u64)),
            WardenRequest::Receipts { first, max } => WardenAnswer::Receipts {
                first: *first,
                log_size: log.len() as u64,
                checkpoint: Some(checkpoint(&log)),
                receipts: log.into_iter().skip(*first as usize).take(*max as usize).collect(),
            },
            // A warden that is not enrolled.
            WardenRequest::Policy { documents } if documents.is_empty() => {
                WardenAnswer::Refused { code: "not_enrolled".into(), why: "nobody enrolled it".into() }
            }
            WardenRequest::Policy { documents } => WardenAnswer::Policy {
                version: 2,
                sha256: documents[0].id(),
                answers: vec![protocol::local::DocumentAnswer::Accepted {}; documents.len()],
            },
            WardenRequest::Results {} => {
                WardenAnswer::Results { ops: results().iter().map(|(op, _)| *op).collect() }
            }
            WardenRequest::Result { op } => match results().iter().find(|(held, _)| held == op) {
                Some((_, sealed)) => WardenAnswer::Result { op: *op, sealed: sealed.clone() },
                None => WardenAnswer::Refused { code: "no_result".into(), why: "there is none".into() },
            },
            WardenRequest::ResultStored { op } => {
                results().retain(|(held, _)| held != op);
                WardenAnswer::Forgotten {}
            }
            other => return (self.handler.lock().unwrap())(other, log.len() as u64),
        }]
    }
}

/// As the warden signs it.
pub(crate) fn checkpoint(log: &[Signed]) -> Note {
    let mut tree = authz::merkle::Frontier::default();
    log.iter().for_each(|entry| tree.push(authz::merkle::leaf_hash(&entry.payload.0)));
    let origin = authz::Origin { host: HOST, generation: 1 };
    authz::Checkpoint { size: tree.size(), root: tree.root() }.sign(&origin, &host_key())
}

fn status(log_size: u64) -> WardenStatus {
    WardenStatus {
        version: "0.1.0".to_owned(),
        enrolled: Some(EnrolledStatus {
            host_id: HOST,
            host_key: host_key().public().to_wire(),
            host_key_gen: 1,
            policy_version: 1,
            policy: Sha256::of(b"policy"),
        }),
        log_size,
        closed: None,
    }
}
