//! A simulated Proxmox, a warden on it, and an operator who prepares orders the way the operator's tool does:
//! every fact that the kind demands is read from the world as it is now, and a plan is asked for.

use std::sync::Arc;
use std::time::Duration;

use authz::order::{Binding, HostRef, Kind, Need, Order, Params, PolicyRef, Preconditions};
use authz::plan::Plan;
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Event, Namespace, Outcome, PublicKey, Receipt, RefusalCode, SecretKey};
use protocol::ask::{Question, Reply};
use protocol::local::WardenAnswer;
use protocol::plan::Step;
use protocol::report::Known;
use protocol::{Envelope, GuestKind, GuestRef, Nonce, Sha256, SnapshotRef, Vmid};
use pve_sim::{Sim, SimConfig};
use tokio::sync::mpsc;
use warden::config::ProxmoxConfig;
use warden::world::{Extent, Observed, observe_all};
use warden::{Warden, WardenConfig, now, orders, questions, steps};

/// Both kinds of guest with the numbers of the demo world: a stopped and a running one.
pub(crate) const BOTH: [(GuestKind, u32, u32); 2] = [(GuestKind::Qemu, 101, 100), (GuestKind::Lxc, 201, 200)];

pub(crate) struct Rig {
    pub(crate) sim: Sim,
    pub(crate) warden: Arc<Warden>,
    pub(crate) client: proxmox_client::Client,
    pub(crate) operator: SecretKey,
    pub(crate) dir: tempfile::TempDir,
    nonces: std::cell::Cell<u8>,
}

pub(crate) fn vmid(n: u32) -> Vmid {
    Vmid::try_from(n).unwrap()
}

fn policy(operator: &SecretKey) -> PolicyDocument {
    let rule = |kind: Kind| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold: 1,
        standing: kind.binding() != Binding::Immediate && kind.binding() != Binding::Plan,
        max_validity_s: 600,
    };
    let kinds = [
        Kind::GuestStart,
        Kind::GuestGrow,
        Kind::GuestResume,
        Kind::GuestShutdown,
        Kind::GuestStop,
        Kind::GuestReboot,
        Kind::GuestSuspend,
        Kind::GuestConfig,
        Kind::GuestResize,
        Kind::DiskMove,
        Kind::DiskDetach,
        Kind::SnapshotRollback,
        Kind::GuestAdopt,
        Kind::GuestRelease,
    ];
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        // The same in every call, and close enough for a clock to be believed.
        issued_at: now() / 8_640_000 * 8_640_000,
        operators: vec![Operator { name: "alice".parse().unwrap(), keys: vec![operator.public().into()] }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Op, Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: kinds.map(rule).into(),
        bounds: Bounds {
            guests: vec![(vmid(100), vmid(299))],
            start: true,
            tags: true,
            snapshots: true,
            max_snapshots_per_guest: 3,
            max_pool_used_percent: 80,
            max_changes_per_hour: 50,
            ..Bounds::default()
        },
        revoked: vec![],
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let sim = Sim::start(SimConfig { task_duration: Duration::from_millis(20), ..SimConfig::demo() })
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        authz::files::write_atomic(&dir.path().join("token"), sim.tokens().1.as_bytes()).unwrap();
        let config = config(&sim, dir.path());
        let client = config.proxmox.client().unwrap();
        let (warden, left) = Warden::open(config).unwrap();
        assert!(left.is_empty());
        let operator = SecretKey::from_seed(&[7; 32]);
        let rig = Self { sim, warden, client, operator, dir, nonces: std::cell::Cell::new(0) };
        let bytes = policy(&rig.operator).encode();
        let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
        let answer =
            rig.warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        assert!(matches!(answer, WardenAnswer::Enrolled { .. }), "{answer:?}");
        rig
    }

    /// The same state directory, opened again.
    pub(crate) fn reopen(self) -> Self {
        let Self { sim, warden, client, operator, dir, nonces } = self;
        drop(warden);
        let (warden, left) = Warden::open(config(&sim, dir.path())).unwrap();
        assert!(left.is_empty());
        Self { sim, warden, client, operator, dir, nonces }
    }

    pub(crate) async fn see(&self, kind: GuestKind, n: u32) -> Observed {
        let extent = Extent { volumes: true, ha: true, replication: true };
        observe_all(&self.client, kind, vmid(n), extent).await.unwrap()
    }

    pub(crate) async fn guest(&self, kind: GuestKind, n: u32) -> GuestRef {
        let seen = self.see(kind, n).await;
        GuestRef { vmid: vmid(n), kind, name: seen.name, identity: seen.identity }
    }

    /// An order with everything that its kind demands.
    pub(crate) async fn order(&self, kind: GuestKind, n: u32, params: Params) -> Order {
        let seen = self.see(kind, n).await;
        let enrolled = self.warden.status().enrolled.unwrap();
        self.nonces.set(self.nonces.get() + 1);
        let mut order = Order {
            params,
            host: HostRef {
                id: enrolled.host_id,
                key: enrolled.host_key.fingerprint(),
                generation: 1,
                cluster: None,
                name: "web1".parse().unwrap(),
            },
            guest: Some(GuestRef {
                vmid: vmid(n),
                kind,
                name: seen.name.clone(),
                identity: seen.identity.clone(),
            }),
            pre: Preconditions::default(),
            plan: None,
            nonce: Nonce::from_bytes([self.nonces.get(); 16]),
            nbf: now(),
            exp: now() + 500,
            after: None,
            policy: PolicyRef { version: 1, sha256: enrolled.policy },
            min_signers: 1,
            reason: "test".parse().unwrap(),
            ticket: None,
        };
        let needs = order.kind().needs();
        let must = |need: Need| need == Need::Must;
        let snapshots = || {
            let all = seen.snapshots.iter().map(|snapshot| SnapshotRef {
                name: snapshot.name.parse().unwrap(),
                time: snapshot.snaptime.unwrap(),
                parent: snapshot.parent.clone(),
            });
            all.collect::<Vec<_>>()
        };
        order.pre = Preconditions {
            state: must(needs.state).then_some(seen.state),
            digest: must(needs.digest).then(|| seen.digest.parse().unwrap()),
            snapshot: must(needs.snapshot).then(|| snapshots().remove(0)),
            volumes: must(needs.volumes).then(|| read(&seen.volumes)),
            snapshots: must(needs.snapshots).then(snapshots),
            protection: must(needs.protection).then_some(seen.protection),
            ha: must(needs.ha).then(|| read(&seen.ha)),
            replication: must(needs.replication).then(|| read(&seen.replication)),
            ..Preconditions::default()
        };
        order
    }

    /// The plan of an order: its sentences, and the order bound to it; or the refusal.
    pub(crate) async fn planned(&self, order: &Order) -> Result<(Vec<String>, Order), String> {
        let draft = Order { plan: None, ..order.clone() };
        let question = Question::Plan { draft: draft.encode().into() };
        let WardenAnswer::Answered { reply } = questions::answer(&self.warden, question).await else {
            panic!("not an answer")
        };
        match reply {
            Reply::Plan { plan } => {
                let enrolled = self.warden.status().enrolled.unwrap();
                let key = PublicKey::try_from(enrolled.host_key).unwrap();
                let (plan, name) = Plan::verify(&plan, &enrolled.host_id, &key, &draft).unwrap();
                let lines = plan.effects.iter().map(|line| line.as_str().to_owned()).collect();
                Ok((lines, Order { plan: Some(name), ..draft }))
            }
            Reply::Refused { code, why } => Err(format!("{code}: {why}")),
            Reply::World { .. } => panic!("not a plan"),
        }
    }

    /// Signs and submits; with a plan where the kind demands one.
    pub(crate) async fn carry_out(&self, order: &Order) -> Outcome {
        let mut order = order.clone();
        if order.kind().binding() == Binding::Plan && order.plan.is_none() {
            order = self.planned(&order).await.unwrap().1;
        }
        self.submit(&order).await
    }

    /// Signs and submits it as it is.
    pub(crate) async fn submit(&self, order: &Order) -> Outcome {
        let payload = order.encode();
        let sigs = vec![self.operator.sign(order.kind().namespace(), &payload)];
        let (progress, _states) = mpsc::channel(16);
        let envelope = Envelope::new(payload.into(), sigs);
        let receipt = self.read(orders::order(self.warden.clone(), envelope, progress).await);
        receipt.order_outcome().unwrap().1.clone()
    }

    /// Prepares, signs and submits.
    pub(crate) async fn run(&self, kind: GuestKind, n: u32, params: Params) -> Outcome {
        let order = self.order(kind, n, params).await;
        self.carry_out(&order).await
    }

    pub(crate) async fn step(&self, step: Step) -> Outcome {
        let receipt = self.read(steps::step(self.warden.clone(), step, 1).await);
        let Event::Step { outcome, .. } = receipt.event else { panic!("{receipt:?}") };
        outcome
    }

    fn read(&self, answer: WardenAnswer) -> Receipt {
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        let enrolled = self.warden.status().enrolled.unwrap();
        let key = PublicKey::try_from(enrolled.host_key).unwrap();
        Receipt::verify(&signed, &enrolled.host_id, &key).unwrap()
    }

    /// Requests that could have changed something.
    pub(crate) fn mutations(&self) -> usize {
        self.sim.requests().iter().filter(|r| r.method != "GET").count()
    }

    pub(crate) fn inject(&self, task: &str, fault: pve_sim::world::Fault) {
        let injection = pve_sim::world::Injection { task: task.to_owned(), fault };
        self.sim.world().lock().unwrap().injections.push(injection);
    }

    pub(crate) fn replace(&self, n: u32) {
        let moment = pve_sim::world::Now { mono: Duration::from_secs(1), unix: 1_800_000_000 };
        assert!(self.sim.world().lock().unwrap().replace_guest(n, moment));
    }

    /// Sets or removes an option behind everybody's back.
    pub(crate) fn set_option(&self, n: u32, key: &str, value: Option<&str>) {
        let world = self.sim.world();
        let mut world = world.lock().unwrap();
        let config = &mut world.guests.get_mut(&n).unwrap().config;
        match value {
            Some(value) => config.insert(key.to_owned(), value.into()),
            None => config.remove(key),
        };
    }

    pub(crate) fn manage(&self, n: u32, state: &str) {
        let resource = pve_sim::world::HaResource::new(state);
        self.sim.world().lock().unwrap().ha.insert(n, resource);
    }
}

fn config(sim: &Sim, dir: &std::path::Path) -> WardenConfig {
    WardenConfig {
        state_dir: dir.join("state"),
        socket: dir.join("socket"),
        allowed_uids: vec![0],
        reader_uids: vec![],
        privileged_socket: None,
        bounds: warden::bounds::LocalBounds::default(),
        host_root: "/".into(),
        runner_socket: None,
        sessions_per_operator: 1,
        proxmox: ProxmoxConfig {
            api: sim.url(),
            pins: vec![format!("spki:{}", sim.pins().spki)],
            pins_dir: None,
            token_file: dir.join("token"),
            node: None,
        },
    }
}

fn read<T: Clone + std::fmt::Debug>(known: &Known<T>) -> T {
    match known {
        Known::Known(value) => value.clone(),
        Known::Unknown(why) => panic!("{why}"),
    }
}

pub(crate) fn code(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused { code, .. } => *code,
        other => panic!("{other}"),
    }
}
