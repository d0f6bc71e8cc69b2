//! A runner, the warden's side of its socket, and an operator.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: starts the runner, which may start processes"
)]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use authz::order::{HostRef, JobParams, PolicyRef, Preconditions, SessionMode, SessionParams};
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Kind, Namespace, Order, Params, SecretKey};
use local_socket::Framed;
use protocol::job::{JobResult, MAX_SEALED_RESULT};
use protocol::runner::{RunnerAnswer, RunnerRequest, RunnerStatus};
use protocol::{Envelope, HostId, Nonce, Sha256, UserName};
use rustix::process::{Pid, Signal};
use tokio::net::UnixStream;

/// How long anything may take before it counts as stuck.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for a value, level-triggered.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A runner that runs. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// Where in the log this run began.
    begin: usize,
}

impl Process {
    pub(crate) fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[self.begin.min(bytes.len())..]).into_owned()
    }

    /// Waits until so many lines contain `text`.
    pub(crate) async fn says(&mut self, text: &str, times: usize) {
        let end = Instant::now() + DEADLINE;
        while self.output().lines().filter(|line| line.contains(text)).count() < times {
            let status = self.child.try_wait().unwrap();
            assert!(status.is_none(), "ended ({status:?}): {}", self.output());
            assert!(Instant::now() < end, "did not say {text:?}: {}", self.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// kill -9
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Children of it that are supervisors.
    pub(crate) fn supervisors(&self) -> Vec<Pid> {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let read = |name| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
                read("status").contains(&parent) && read("cmdline").contains("\0supervise\0")
            })
            .filter_map(Pid::from_raw)
            .collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its own end: whether it was a success.
    pub(crate) async fn ended(&mut self) -> bool {
        until("the runner's end", || self.child.try_wait().unwrap()).await.success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of the configuration that a test wants otherwise.
pub(crate) struct Wishes {
    pub(crate) uid: u32,
    pub(crate) policy: Option<Sha256>,
    pub(crate) more: &'static str,
}

impl Default for Wishes {
    fn default() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self { uid, policy: Some(Sha256::of(&policy().encode())), more: "" }
    }
}

pub(crate) struct Rig {
    dir: tempfile::TempDir,
    pub(crate) operator: SecretKey,
    pub(crate) host: SecretKey,
    pub(crate) result: SecretKey,
    nonces: Cell<u8>,
}

pub(crate) const HOST_ID: HostId = HostId::from_bytes([0x11; 16]);

/// Alice may order scripts and sessions.
pub(crate) fn policy() -> PolicyDocument {
    let rule = |kind, standing, max_validity_s| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold: 1,
        standing,
        max_validity_s,
    };
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        // The same in every call, and close enough for a clock to be believed.
        issued_at: runner::now() / 8_640_000 * 8_640_000,
        operators: vec![Operator {
            name: "alice".parse().unwrap(),
            keys: vec![SecretKey::from_seed(&[7; 32]).public().into()],
        }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Job, Namespace::Session, Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: vec![rule(Kind::JobRun, true, 3600), rule(Kind::SessionOpen, false, 600)],
        bounds: Bounds {
            guests: vec![],
            start: false,
            tags: false,
            snapshots: false,
            max_snapshots_per_guest: 0,
            max_pool_used_percent: 80,
            max_changes_per_hour: 0,
            ..Bounds::default()
        },
        revoked: vec![],
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            operator: SecretKey::from_seed(&[7; 32]),
            host: SecretKey::from_seed(&[0x4b; 32]),
            result: SecretKey::from_seed(&[0x77; 32]),
            nonces: Cell::new(0),
        }
    }

    /// A runner that is anchored.
    pub(crate) async fn anchored() -> (Self, Process) {
        let rig = Self::new();
        let process = rig.start(&Wishes::default(), "").await;
        assert_eq!(rig.anchor().await, RunnerAnswer::Done {});
        (rig, process)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, wishes: &Wishes) -> PathBuf {
        let path = self.path("runner.toml");
        let policy =
            wishes.policy.map(|sha256| format!("policy_sha256 = \"{sha256}\"\n")).unwrap_or_default();
        let text = format!(
            "state_dir = {:?}\nrun_dir = {:?}\nsocket = {:?}\nallowed_uids = [{}]\n{policy}{}\n",
            self.path("state"),
            self.path("run/sessions"),
            self.path("run/socket"),
            wishes.uid,
            wishes.more,
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn spawn(&self, args: &[&str], config: &Path, hold_at: &str) -> Process {
        let log = self.path("log");
        let begin = std::fs::metadata(&log).map_or(0, |meta| usize::try_from(meta.len()).unwrap());
        let out = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_writ-runner"))
            .args(args)
            .arg("--config")
            .arg(config)
            .env("WRIT_RUNNER_HOLD_AT", hold_at)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Process { child, log, begin }
    }

    /// Something else that ends with the test.
    pub(crate) fn follow(&self, mut command: Command) -> Process {
        let log = self.path("log-of-another");
        let out = std::fs::File::create(&log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Process { child: command.spawn().unwrap(), log, begin: 0 }
    }

    /// Starts it, and waits until it listens.
    pub(crate) async fn start(&self, wishes: &Wishes, hold_at: &str) -> Process {
        let mut process = self.spawn(&["serve"], &self.configure(wishes), hold_at);
        process.says(" ready ", 1).await;
        process
    }

    /// Starts it again as it was.
    pub(crate) async fn again(&self) -> Process {
        self.start(&Wishes::default(), "").await
    }

    /// Starts one that ends by itself: whether it succeeded, and what it said.
    pub(crate) async fn run(&self, command: &str, wishes: &Wishes) -> (bool, String) {
        let mut process = self.spawn(&[command], &self.configure(wishes), "");
        let good = process.ended().await;
        (good, process.output())
    }

    pub(crate) async fn connect(&self) -> Framed {
        UnixStream::connect(self.path("run/socket")).await.unwrap().into()
    }

    pub(crate) async fn send(&self, request: &RunnerRequest) -> Framed {
        let mut framed = self.connect().await;
        framed.send(request).await.unwrap();
        framed
    }

    /// Asks, and takes the one answer.
    pub(crate) async fn ask(&self, request: &RunnerRequest) -> RunnerAnswer {
        let mut framed = self.send(request).await;
        let answer = next(&mut framed).await;
        let more = framed.receive::<RunnerAnswer>().await.unwrap();
        assert_eq!(more, None, "after {answer:?}");
        answer
    }

    pub(crate) async fn anchor(&self) -> RunnerAnswer {
        self.ask(&self.anchor_request()).await
    }

    pub(crate) fn anchor_request(&self) -> RunnerRequest {
        RunnerRequest::Anchor {
            policy: policy().encode().into(),
            documents: vec![],
            host_id: HOST_ID,
            host_key: self.host.public().to_wire(),
            host_key_gen: 1,
        }
    }

    pub(crate) async fn status(&self) -> RunnerStatus {
        match self.ask(&RunnerRequest::Status {}).await {
            RunnerAnswer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn outcome(&self, op: Sha256) -> RunnerAnswer {
        self.ask(&RunnerRequest::JobOutcome { op }).await
    }

    fn order(&self, params: Params) -> Order {
        self.nonces.set(self.nonces.get() + 1);
        let now = runner::now();
        Order {
            params,
            host: HostRef {
                id: HOST_ID,
                key: self.host.public().fingerprint(),
                generation: 1,
                cluster: None,
                name: "web1".parse().unwrap(),
            },
            guest: None,
            pre: Preconditions::default(),
            plan: None,
            nonce: Nonce::from_bytes([self.nonces.get(); 16]),
            nbf: now - 5,
            exp: now + 500,
            after: None,
            policy: PolicyRef { version: 1, sha256: Sha256::of(&policy().encode()) },
            min_signers: 1,
            reason: "test".parse().unwrap(),
            ticket: None,
        }
    }

    pub(crate) fn job(&self, script: &str) -> Order {
        self.order(Params::JobRun(JobParams {
            script: Sha256::of(script.as_bytes()),
            script_len: u32::try_from(script.len()).unwrap(),
            interpreter: "/bin/sh".parse().unwrap(),
            args: vec![],
            user: me(),
            env: vec![],
            timeout_s: 600,
            max_output: 65536,
            result_key: self.result.public().to_wire(),
        }))
    }

    pub(crate) fn session(&self) -> Order {
        self.order(Params::SessionOpen(SessionParams {
            key: SecretKey::from_seed(&[0x78; 32]).public().to_wire(),
            user: me(),
            mode: SessionMode::Full {},
            forwards: vec![],
            idle_s: 600,
            max_s: 3600,
        }))
    }

    /// Signed for what it is.
    pub(crate) fn sign(&self, order: &Order) -> Envelope {
        sign_as(order, order.kind().namespace(), &self.operator)
    }

    /// A request for a fresh order to run this.
    pub(crate) fn script(&self, script: &str) -> (Sha256, RunnerRequest) {
        let envelope = self.sign(&self.job(script));
        (envelope.id(), request(envelope, script))
    }

    /// Opens the sealed result of an end.
    pub(crate) fn result(&self, answer: &RunnerAnswer) -> JobResult {
        let RunnerAnswer::Ended { sealed, .. } = answer else { panic!("{answer:?}") };
        let plain = sealed::open(&self.result.seed(), &sealed.0, MAX_SEALED_RESULT).unwrap();
        serde_json::from_slice(&plain).unwrap()
    }

    /// A script that counts its runs, and then does `then`.
    pub(crate) fn counting(&self, then: &str) -> String {
        format!("echo run >> {:?}\n{then}\n", self.path("count"))
    }

    /// A script that waits for [`Self::open_gate`], and then does `then`.
    pub(crate) fn gated(&self, then: &str) -> String {
        format!("until [ -e {:?} ]; do sleep 0.02; done\n{then}\n", self.path("gate"))
    }

    pub(crate) fn open_gate(&self) {
        std::fs::write(self.path("gate"), "").unwrap();
    }

    pub(crate) fn runs(&self) -> usize {
        std::fs::read_to_string(self.path("count")).unwrap_or_default().lines().count()
    }
}

pub(crate) fn request(envelope: Envelope, script: &str) -> RunnerRequest {
    RunnerRequest::Job { envelope, script: script.as_bytes().to_vec().into() }
}

pub(crate) fn sign_as(order: &Order, namespace: Namespace, key: &SecretKey) -> Envelope {
    let payload = order.encode();
    let sigs = vec![key.sign(namespace, &payload)];
    Envelope::new(payload.into(), sigs)
}

pub(crate) async fn next(framed: &mut Framed) -> RunnerAnswer {
    let answer = tokio::time::timeout(DEADLINE, framed.receive()).await;
    answer.expect("an answer in time").unwrap().expect("an answer")
}

/// Everything up to the end of the connection.
pub(crate) async fn all(framed: &mut Framed) -> Vec<RunnerAnswer> {
    let mut answers = Vec::new();
    while let Some(answer) = tokio::time::timeout(DEADLINE, framed.receive()).await.unwrap().unwrap() {
        answers.push(answer);
    }
    answers
}

pub(crate) fn code(answer: &RunnerAnswer) -> &str {
    match answer {
        RunnerAnswer::Refused { code, .. } => code,
        _ => "accepted",
    }
}

/// Whoever runs the tests.
pub(crate) fn me() -> UserName {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
    user.expect("whoever runs the tests has a name").name.parse().unwrap()
}

pub(crate) fn alive(pid: &str) -> bool {
    // A zombie is dead; who buries it is another question.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}
