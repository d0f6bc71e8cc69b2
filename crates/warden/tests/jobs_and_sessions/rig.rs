//! An enrolled warden, its operator, and a scripted runner.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use authz::order::{HostRef, JobParams, Order, PolicyRef, Preconditions, SessionMode, SessionParams};
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Kind, Namespace, Outcome, Params, PublicKey, Receipt, RefusalCode, SecretKey};
use local_socket::Framed;
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use protocol::{Bytes, Ed25519Key, Envelope, Nonce, Sha256};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use warden::config::ProxmoxConfig;
use warden::identity::Identity;
use warden::ledger::Ledger;
use warden::{Warden, WardenConfig, now, orders, sessions};

use crate::fake_runner::FakeRunner;

pub(crate) const SCRIPT: &[u8] = b"#!/bin/sh\necho hello\n";
pub(crate) const TIMEOUT_S: u32 = 60;

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) warden: Arc<Warden>,
    pub(crate) runner: FakeRunner,
    pub(crate) alice: SecretKey,
    pub(crate) bob: SecretKey,
    nonces: Cell<u8>,
}

fn policy(alice: &SecretKey, bob: &SecretKey) -> PolicyDocument {
    let rule = |kind, standing, max_validity_s| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold: 1,
        standing,
        max_validity_s,
    };
    let operator = |name: &str, key: &SecretKey| Operator {
        name: name.parse().unwrap(),
        keys: vec![key.public().into()],
    };
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        // The same in every call, and close enough for a clock to be believed.
        issued_at: now() / 8_640_000 * 8_640_000,
        operators: vec![operator("alice", alice), operator("bob", bob)],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Op, Namespace::Job, Namespace::Session, Namespace::Policy],
            members: vec!["alice".parse().unwrap(), "bob".parse().unwrap()],
        }],
        rules: vec![
            rule(Kind::GuestStart, true, 3600),
            rule(Kind::JobRun, true, 3600),
            rule(Kind::SessionOpen, false, 600),
        ],
        bounds: Bounds::default(),
        revoked: vec![],
    }
}

pub(crate) fn config(dir: &Path) -> WardenConfig {
    WardenConfig {
        state_dir: dir.join("state"),
        socket: dir.join("warden.sock"),
        allowed_uids: vec![0],
        reader_uids: vec![],
        privileged_socket: None,
        runner_socket: Some(dir.join("runner.sock")),
        sessions_per_operator: 1,
        bounds: warden::bounds::LocalBounds::default(),
        host_root: "/".into(),
        // Nothing here may reach Proxmox.
        proxmox: ProxmoxConfig {
            api: "https://127.0.0.1:1".into(),
            pins: vec![format!("spki:{}", "0".repeat(64))],
            pins_dir: None,
            token_file: dir.join("token"),
            node: None,
        },
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = "writ@pve!act=00000000-0000-0000-0000-000000000000";
        authz::files::write_atomic(&dir.path().join("token"), token.as_bytes()).unwrap();
        let (warden, left) = Warden::open(config(dir.path())).unwrap();
        assert!(left.is_empty());
        let (alice, bob) = (SecretKey::from_seed(&[7; 32]), SecretKey::from_seed(&[9; 32]));
        let bytes = policy(&alice, &bob).encode();
        let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
        let answer = warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        assert!(matches!(answer, WardenAnswer::Enrolled { .. }), "{answer:?}");
        let runner = FakeRunner::start(&dir.path().join("runner.sock")).await;
        Self { dir, warden, runner, alice, bob, nonces: Cell::new(0) }
    }

    /// The warden ends and starts again; what it finds is worked off.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| (), |config| config).await
    }

    /// Likewise, with something done to the state directory in between, or with another configuration.
    pub(crate) async fn restart_after(
        self,
        meanwhile: impl FnOnce(&Path),
        change: fn(WardenConfig) -> WardenConfig,
    ) -> Self {
        let Self { dir, warden, runner, alice, bob, nonces } = self;
        let gone = Arc::downgrade(&warden);
        drop(warden);
        assert_eq!(gone.strong_count(), 0, "the old warden lives on");
        meanwhile(&dir.path().join("state"));
        let (warden, left) = Warden::open(change(config(dir.path()))).unwrap();
        assert_eq!(warden.status().closed, None);
        for interrupted in left {
            orders::resume(warden.clone(), interrupted).await;
        }
        Self { dir, warden, runner, alice, bob, nonces }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::load(&self.dir.path().join("state")).unwrap().unwrap()
    }

    fn host_key(&self) -> Ed25519Key {
        self.warden.status().enrolled.unwrap().host_key
    }

    pub(crate) fn order(&self, params: Params) -> Order {
        let enrolled = self.warden.status().enrolled.unwrap();
        self.nonces.set(self.nonces.get() + 1);
        Order {
            params,
            host: HostRef {
                id: enrolled.host_id,
                key: enrolled.host_key.fingerprint(),
                generation: 1,
                cluster: None,
                name: "web1".parse().unwrap(),
            },
            guest: None,
            pre: Preconditions::default(),
            plan: None,
            nonce: Nonce::from_bytes([self.nonces.get(); 16]),
            nbf: now(),
            exp: now() + 600,
            after: None,
            policy: PolicyRef { version: 1, sha256: enrolled.policy },
            min_signers: 1,
            reason: "test".parse().unwrap(),
            ticket: None,
        }
    }

    pub(crate) fn job_order(&self, script: &[u8]) -> Order {
        self.order(Params::JobRun(JobParams {
            script: Sha256::of(script),
            script_len: script.len() as u32,
            interpreter: "/bin/sh".parse().unwrap(),
            args: vec![],
            user: "root".parse().unwrap(),
            env: vec![],
            timeout_s: TIMEOUT_S,
            max_output: 1000,
            result_key: SecretKey::from_seed(&[3; 32]).public().to_wire(),
        }))
    }

    pub(crate) fn session_order(&self) -> Order {
        self.order(Params::SessionOpen(SessionParams {
            key: SecretKey::from_seed(&[4; 32]).public().to_wire(),
            user: "root".parse().unwrap(),
            mode: SessionMode::Full {},
            forwards: vec![],
            idle_s: 60,
            max_s: 600,
        }))
    }

    pub(crate) fn seal(&self, script: &[u8]) -> Option<Bytes> {
        seal(&self.host_key(), script)
    }

    /// An order with its script, as the operator's tool makes it.
    pub(crate) fn job(&self, script: &[u8]) -> Envelope {
        Envelope { sealed: self.seal(script), ..sign(&self.alice, Namespace::Job, &self.job_order(script)) }
    }

    pub(crate) fn session(&self) -> Envelope {
        sign(&self.alice, Namespace::Session, &self.session_order())
    }

    pub(crate) fn read(&self, answer: WardenAnswer) -> Receipt {
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        self.read_signed(&signed)
    }

    pub(crate) fn read_signed(&self, signed: &protocol::Signed) -> Receipt {
        let enrolled = self.warden.status().enrolled.unwrap();
        Receipt::verify(signed, &enrolled.host_id, &PublicKey::try_from(enrolled.host_key).unwrap()).unwrap()
    }

    pub(crate) async fn submit(&self, envelope: &Envelope) -> (Receipt, Vec<OrderState>) {
        let (progress, mut states) = mpsc::channel(16);
        let answer = within(1000, orders::order(self.warden.clone(), envelope.clone(), progress)).await;
        let mut seen = Vec::new();
        while let Ok(state) = states.try_recv() {
            seen.push(state);
        }
        (self.read(answer), seen)
    }

    /// Submits in the background.
    pub(crate) fn spawn(&self, envelope: &Envelope) -> JoinHandle<WardenAnswer> {
        let (progress, _) = mpsc::channel(16);
        tokio::spawn(orders::order(self.warden.clone(), envelope.clone(), progress))
    }

    /// Asks for a session as the agent does. Gives the agent's end of the connection.
    pub(crate) fn ask_session(&self, envelope: &Envelope) -> (Framed, JoinHandle<()>) {
        let (agent, warden) = UnixStream::pair().unwrap();
        let task = tokio::spawn(sessions::session(self.warden.clone(), envelope.clone(), warden.into()));
        (agent.into(), task)
    }

    /// Asks for a session that ends at once.
    pub(crate) async fn refused_session(&self, envelope: &Envelope) -> Receipt {
        let (mut agent, task) = self.ask_session(envelope);
        let answer = within(200, agent.receive()).await.unwrap().unwrap();
        assert!(agent.take_fd().is_none());
        within(200, task).await.unwrap();
        self.read(answer)
    }

    /// Burned nonces and log entries, after all checks that `writ-warden journal verify` makes.
    pub(crate) fn inspect(&self) -> (usize, u64) {
        Ledger::inspect(&self.dir.path().join("state"), &self.identity()).unwrap()
    }

    pub(crate) fn open_orders(&self) -> usize {
        self.dir.path().join("state/orders").read_dir().unwrap().count()
    }

    /// The log from its second entry on, read as a hub would.
    pub(crate) fn log(&self) -> Vec<Receipt> {
        let WardenAnswer::Receipts { receipts, .. } = self.warden.receipts(1, 100) else { panic!("no log") };
        receipts.iter().map(|signed| self.read_signed(signed)).collect()
    }

    /// The end of an order according to the log; it must have exactly one.
    pub(crate) fn end_of(&self, envelope: &Envelope) -> Outcome {
        let ends: Vec<Outcome> = self
            .log()
            .iter()
            .filter_map(Receipt::order_outcome)
            .filter(|(op, outcome)| **op == envelope.id() && !matches!(outcome, Outcome::Refused { .. }))
            .map(|(_, outcome)| outcome.clone())
            .collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
        ends[0].clone()
    }
}

/// What a test waits for comes in time, or the test fails.
pub(crate) async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    let limit = std::time::Duration::from_secs(seconds);
    tokio::time::timeout(limit, what).await.unwrap_or_else(|_| panic!("nothing came within {seconds} s"))
}

pub(crate) fn seal(key: &Ed25519Key, script: &[u8]) -> Option<Bytes> {
    let chance = sealed::Randomness::from_bytes(&[5; sealed::Randomness::LEN]);
    Some(sealed::seal(key, script, chance).unwrap().into())
}

pub(crate) fn sign(key: &SecretKey, namespace: Namespace, order: &Order) -> Envelope {
    let payload = order.encode();
    let sigs = vec![key.sign(namespace, &payload)];
    Envelope::new(payload.into(), sigs)
}

pub(crate) fn outcome(receipt: &Receipt) -> &Outcome {
    receipt.order_outcome().unwrap().1
}

#[track_caller]
pub(crate) fn code(receipt: &Receipt) -> RefusalCode {
    match outcome(receipt) {
        Outcome::Refused { code, .. } => *code,
        other => panic!("{other}"),
    }
}
