//! A runner that says what a test tells it to say, on a real socket.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use local_socket::Framed;
use protocol::runner::{RunnerAnswer, RunnerRequest, RunnerStatus};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::rig::within;

/// What it does next on a connection; at the end of the list it closes.
pub(crate) enum Act {
    Say(RunnerAnswer),
    /// A frame that is no answer at all.
    Junk(serde_json::Value),
    Pass(RunnerAnswer, OwnedFd),
    /// Waits until the warden has closed its half.
    AwaitEnd,
    /// Waits for the test.
    Await(oneshot::Receiver<()>),
    /// Says nothing, and stays.
    Hang,
}

pub(crate) struct FakeRunner {
    socket: PathBuf,
    inner: Arc<Inner>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    seen: watch::Sender<Vec<RunnerRequest>>,
    /// How many lifelines were seen to end.
    ends: watch::Sender<usize>,
    plans: Mutex<BTreeMap<&'static str, VecDeque<Vec<Act>>>>,
    status: Mutex<RunnerStatus>,
    alive: watch::Sender<u64>,
    connections: AtomicUsize,
    /// This connection is accepted and not read.
    deaf_at: AtomicUsize,
}

pub(crate) fn name(request: &RunnerRequest) -> &'static str {
    match request {
        RunnerRequest::Status {} => "status",
        RunnerRequest::Anchor { .. } => "anchor",
        RunnerRequest::Policy { .. } => "policy",
        RunnerRequest::Job { .. } => "job",
        RunnerRequest::JobOutcome { .. } => "outcome",
        RunnerRequest::Forget { .. } => "forget",
        RunnerRequest::Session { .. } => "session",
    }
}

impl FakeRunner {
    pub(crate) async fn start(socket: &Path) -> Self {
        let status = RunnerStatus {
            version: "0.1.0".into(),
            root: true,
            anchored: None,
            closed: None,
            sessions: 0,
            jobs: 0,
        };
        let inner = Arc::new(Inner {
            seen: watch::channel(Vec::new()).0,
            ends: watch::channel(0).0,
            plans: Mutex::default(),
            status: Mutex::new(status),
            alive: watch::channel(0).0,
            connections: AtomicUsize::new(0),
            deaf_at: AtomicUsize::new(usize::MAX),
        });
        let runner = Self { socket: socket.to_owned(), inner, task: Mutex::default() };
        runner.listen().await;
        runner
    }

    pub(crate) async fn listen(&self) {
        let listener = local_socket::bind(&self.socket).await.unwrap();
        let inner = self.inner.clone();
        let task = tokio::spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap();
                let (inner, mut alive) = (inner.clone(), inner.alive.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = inner.serve(stream.into()) => {}
                        _ = alive.changed() => {}
                    }
                });
            }
        });
        *self.task.lock().unwrap() = Some(task);
    }

    /// Nobody listens any more; what runs goes on.
    pub(crate) async fn leave(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        let _ = task.await;
    }

    /// What happens on the next connection with this request.
    pub(crate) fn plan(&self, request: &'static str, acts: Vec<Act>) {
        self.inner.plans.lock().unwrap().entry(request).or_default().push_back(acts);
    }

    pub(crate) fn say(&self, request: &'static str, answers: Vec<RunnerAnswer>) {
        self.plan(request, answers.into_iter().map(Act::Say).collect());
    }

    pub(crate) fn forget_plans(&self) {
        self.inner.plans.lock().unwrap().clear();
    }

    /// Every connection breaks.
    pub(crate) fn drop_connections(&self) {
        self.inner.alive.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn change_status(&self, change: impl FnOnce(&mut RunnerStatus)) {
        change(&mut self.inner.status.lock().unwrap());
    }

    /// The connection after so many more is not read.
    pub(crate) fn deaf_after(&self, count: usize) {
        self.inner.deaf_at.store(self.inner.connections.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// What it usually answers to Status.
    pub(crate) fn status(&self) -> RunnerAnswer {
        RunnerAnswer::Status(self.inner.status.lock().unwrap().clone())
    }

    pub(crate) fn seen(&self) -> Vec<RunnerRequest> {
        self.inner.seen.borrow().clone()
    }

    pub(crate) fn count(&self, request: &str) -> usize {
        self.inner.seen.borrow().iter().filter(|seen| name(seen) == request).count()
    }

    /// Waits until so many of these came.
    pub(crate) async fn wait(&self, request: &str, count: usize) {
        let mut seen = self.inner.seen.subscribe();
        let enough = |all: &Vec<RunnerRequest>| all.iter().filter(|r| name(r) == request).count() >= count;
        within(100, seen.wait_for(enough)).await.unwrap();
    }

    /// Waits until so many lifelines have ended.
    pub(crate) async fn wait_ends(&self, count: usize) {
        let mut ends = self.inner.ends.subscribe();
        within(100, ends.wait_for(|n| *n >= count)).await.unwrap();
    }
}

impl Inner {
    async fn serve(self: Arc<Self>, mut peer: Framed) {
        if self.connections.fetch_add(1, Ordering::Relaxed) == self.deaf_at.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let Ok(Some(request)) = peer.receive::<RunnerRequest>().await else { return };
        let planned = self.plans.lock().unwrap().get_mut(name(&request)).and_then(VecDeque::pop_front);
        let acts = planned.unwrap_or_else(|| self.usual(&request));
        self.seen.send_modify(|seen| seen.push(request));
        for act in acts {
            match act {
                Act::Say(answer) => drop(peer.send(&answer).await),
                Act::Junk(json) => drop(peer.send(&json).await),
                Act::Pass(answer, fd) => drop(peer.send_with_fd(&answer, fd.as_fd()).await),
                Act::AwaitEnd => {
                    peer.closed().await;
                    self.ends.send_modify(|ends| *ends += 1);
                }
                Act::Await(go) => drop(go.await),
                Act::Hang => std::future::pending().await,
            }
        }
    }

    fn usual(&self, request: &RunnerRequest) -> Vec<Act> {
        let answer = match request {
            RunnerRequest::Status {} => RunnerAnswer::Status(self.status.lock().unwrap().clone()),
            RunnerRequest::Anchor { policy, host_id, host_key, host_key_gen, .. } => {
                self.status.lock().unwrap().anchored = Some(protocol::runner::AnchorStatus {
                    host_id: *host_id,
                    host_key: *host_key,
                    host_key_gen: *host_key_gen,
                    policy: protocol::Sha256::of(&policy.0),
                    documents: 0,
                    fresh_at: 0,
                });
                RunnerAnswer::Done {}
            }
            RunnerRequest::Forget { .. } | RunnerRequest::Policy { .. } => RunnerAnswer::Done {},
            RunnerRequest::Job { .. } | RunnerRequest::JobOutcome { .. } | RunnerRequest::Session { .. } => {
                return Vec::new();
            }
        };
        vec![Act::Say(answer)]
    }
}
