//! A warden, a simulated Proxmox, and an operator who asks for plans.

use std::sync::Arc;
use std::time::Duration;

use authz::order::{HostRef, Order, Params, PolicyRef, Preconditions};
use authz::plan::Plan;
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Event, Kind, Namespace, Outcome, PublicKey, Receipt, RefusalCode, SecretKey};
use protocol::ask::{Owner, Question, Reply};
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use protocol::plan::Step;
use protocol::refs::BackupRef;
use protocol::report::Known;
use protocol::{Envelope, GuestKind, GuestRef, Nonce, Sha256, SnapshotRef, Vmid};
use pve_sim::world::{Fault, FaultRule, Injection, Mishap, Now};
use pve_sim::{Sim, SimConfig};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use warden::config::ProxmoxConfig;
use warden::world::{Extent, Observed, observe_all};
use warden::{Warden, WardenConfig, now, orders, questions, steps};

pub(crate) use protocol::GuestKind::{Lxc, Qemu};

pub(crate) struct Rig {
    pub(crate) sim: Sim,
    pub(crate) warden: Arc<Warden>,
    pub(crate) client: proxmox_client::Client,
    operator: SecretKey,
    pub(crate) dir: tempfile::TempDir,
    nonces: std::cell::Cell<u8>,
}

pub(crate) fn vmid(n: u32) -> Vmid {
    Vmid::try_from(n).unwrap()
}

fn policy(operator: &SecretKey, bounds: Bounds) -> PolicyDocument {
    const KINDS: [Kind; 12] = [
        Kind::GuestDestroy,
        Kind::GuestRestoreOver,
        Kind::GuestCreate,
        Kind::BackupCreate,
        Kind::BackupDelete,
        Kind::BackupPrune,
        Kind::BackupProtect,
        Kind::VolumeDelete,
        Kind::TemplateDownload,
        Kind::StorageAdd,
        Kind::StorageRemove,
        Kind::GuestStop,
    ];
    let rule = |kind| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold: 1,
        standing: !matches!(kind, Kind::GuestDestroy | Kind::GuestRestoreOver | Kind::VolumeDelete),
        max_validity_s: 3600,
    };
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: now() / 8_640_000 * 8_640_000,
        operators: vec![Operator { name: "alice".parse().unwrap(), keys: vec![operator.public().into()] }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Op, Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: KINDS.map(rule).into(),
        bounds,
        revoked: vec![],
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let nothing = Bounds {
            guests: vec![],
            start: false,
            tags: false,
            snapshots: false,
            max_snapshots_per_guest: 3,
            max_pool_used_percent: 80,
            max_changes_per_hour: 5,
            ..Bounds::default()
        };
        Self::bounded(|_| {}, async |_| nothing).await
    }

    /// With a world that is not the usual one, and bounds for unsigned steps in it.
    pub(crate) async fn bounded(
        change: impl FnOnce(&mut pve_sim::world::World),
        bounds: impl AsyncFnOnce(&proxmox_client::Client) -> Bounds,
    ) -> Self {
        let sim = Sim::start(SimConfig { task_duration: Duration::from_millis(20), ..SimConfig::demo() })
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        authz::files::write_atomic(&token_file, sim.tokens().1.as_bytes()).unwrap();
        let config = WardenConfig {
            state_dir: dir.path().join("state"),
            socket: dir.path().join("socket"),
            allowed_uids: vec![0],
            reader_uids: vec![],
            privileged_socket: None,
            bounds: warden::bounds::LocalBounds::default(),
            runner_socket: None,
            sessions_per_operator: 1,
            host_root: dir.path().join("host"),
            proxmox: ProxmoxConfig {
                api: sim.url(),
                pins: vec![format!("spki:{}", sim.pins().spki)],
                pins_dir: None,
                token_file,
                node: None,
            },
        };
        change(&mut sim.world().lock().unwrap());
        let client = config.proxmox.client().unwrap();
        let (warden, _) = Warden::open(config).unwrap();
        let operator = SecretKey::from_seed(&[7; 32]);
        let bytes = policy(&operator, bounds(&client).await).encode();
        let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
        let answer = warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        assert!(matches!(answer, WardenAnswer::Enrolled { .. }), "{answer:?}");
        Self { sim, warden, client, operator, dir, nonces: std::cell::Cell::new(0) }
    }

    fn host_key(&self) -> PublicKey {
        PublicKey::try_from(self.warden.status().enrolled.unwrap().host_key).unwrap()
    }

    /// Changes the simulated world.
    pub(crate) fn change(&self, change: impl FnOnce(&mut pve_sim::world::World)) {
        change(&mut self.sim.world().lock().unwrap());
    }

    /// One option of a guest, in the simulated world.
    pub(crate) fn set(&self, n: u32, key: &str, value: impl Into<Value>) {
        self.change(|w| drop(w.guests.get_mut(&n).unwrap().config.insert(key.to_owned(), value.into())));
    }

    pub(crate) fn option(&self, n: u32, key: &str) -> Option<Value> {
        self.sim.world().lock().unwrap().guests.get(&n).unwrap().config.get(key).cloned()
    }

    pub(crate) fn exists(&self, n: u32) -> bool {
        self.sim.world().lock().unwrap().guests.contains_key(&n)
    }

    pub(crate) fn runs(&self, n: u32) -> bool {
        self.sim.world().lock().unwrap().guests[&n].running.is_some()
    }

    pub(crate) fn replace(&self, n: u32) {
        let moment = Now { mono: Duration::from_secs(1), unix: 1_800_000_000 };
        self.change(|w| assert!(w.replace_guest(n, moment)));
    }

    /// The next task of this type goes wrong.
    pub(crate) fn inject(&self, task: &str, fault: Fault) {
        self.change(|w| w.injections.push(Injection { task: task.into(), fault }));
    }

    /// The next request of this method, with that in its path, is answered with a 500 and not handled.
    pub(crate) fn refuse(&self, method: &str, part: &str, text: &str) {
        let mishap = Mishap::Error { text: text.into() };
        self.sim.fault(FaultRule::new(mishap).method(method).contains(part)).unwrap();
    }

    pub(crate) async fn see(&self, kind: GuestKind, n: u32) -> Observed {
        let extent = Extent { volumes: true, ha: true, replication: true };
        let mut seen = observe_all(&self.client, kind, vmid(n), extent).await.unwrap();
        // Two readings of one process are the same.
        seen.boot = seen.boot.map(|boot| warden::world::Boot { uptime_s: 0, ..boot });
        seen
    }

    /// An order about the host, stating nothing.
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

    /// About a guest, stating everything that is lost with it.
    pub(crate) async fn on_guest(&self, kind: GuestKind, n: u32, params: Params) -> Order {
        let seen = self.see(kind, n).await;
        let mut order = self.order(params);
        let Known::Known(volumes) = seen.volumes.clone() else { panic!("{:?}", seen.volumes) };
        let Known::Known(ha) = seen.ha.clone() else { panic!("{:?}", seen.ha) };
        let Known::Known(replication) = seen.replication.clone() else { panic!("{:?}", seen.replication) };
        order.guest =
            Some(GuestRef { vmid: vmid(n), kind, name: seen.name.clone(), identity: seen.identity.clone() });
        order.pre = Preconditions {
            state: Some(seen.state),
            digest: Some(seen.digest.parse().unwrap()),
            volumes: Some(volumes),
            snapshots: Some(
                seen.snapshots
                    .iter()
                    .map(|s| SnapshotRef {
                        name: s.name.parse().unwrap(),
                        time: s.snaptime.unwrap(),
                        parent: s.parent.clone(),
                    })
                    .collect(),
            ),
            protection: Some(seen.protection),
            ha: Some(ha),
            replication: Some(replication),
            ..Preconditions::default()
        };
        order
    }

    pub(crate) async fn backups(&self, kind: GuestKind, n: u32) -> Vec<BackupRef> {
        let world = self.backups_on(kind, n, vec!["local".parse().unwrap()]).await;
        let Known::Known(backups) = world.backups else { panic!("{:?}", world.backups) };
        backups
    }

    /// What the host tells of a guest's backups on these storages; none named: on all.
    pub(crate) async fn backups_on(
        &self,
        kind: GuestKind,
        n: u32,
        storages: Vec<protocol::refs::StorageId>,
    ) -> authz::world::World {
        let owner = Some(Owner { vmid: vmid(n), kind });
        let look = protocol::ask::Look { owner, storages, ..protocol::ask::Look::default() };
        let answer = questions::answer(&self.warden, Question::Look(look)).await;
        let WardenAnswer::Answered { reply: Reply::World { json } } = answer else { panic!("{answer:?}") };
        serde_json::from_slice(&json.0).unwrap()
    }

    /// An unsigned step.
    pub(crate) async fn step(&self, step: Step) -> Outcome {
        let answer = steps::step(self.warden.clone(), step, 1).await;
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        let enrolled = self.warden.status().enrolled.unwrap();
        let receipt = Receipt::verify(&signed, &enrolled.host_id, &self.host_key()).unwrap();
        let Event::Step { outcome, .. } = receipt.event else { panic!("{receipt:?}") };
        outcome
    }

    /// Makes a backup without the warden.
    pub(crate) async fn back_up(&self, kind: GuestKind, n: u32) -> BackupRef {
        let before = self.backups(kind, n).await;
        let backup =
            proxmox_client::Backup::new(warden::world::client_vmid(vmid(n)), "local".parse().unwrap());
        let proxmox_client::Started::Task(upid) = self.client.backup(&backup).await.unwrap() else {
            panic!()
        };
        self.client.wait_task(&upid, Duration::from_secs(60)).await;
        // Names have seconds in them.
        self.later(2);
        self.backups(kind, n).await.into_iter().find(|b| !before.contains(b)).unwrap()
    }

    /// The simulator's clock goes on.
    pub(crate) fn later(&self, seconds: i64) {
        self.sim.set_clock(self.sim.now().unix + seconds);
    }

    /// The plan of a draft, or why there is none.
    pub(crate) async fn plan(&self, draft: &Order) -> Result<(Plan, Order), String> {
        let question = Question::Plan { draft: draft.encode().into() };
        let answer = questions::answer(&self.warden, question).await;
        match answer {
            WardenAnswer::Answered { reply: Reply::Plan { plan } } => {
                let (plan, named) = Plan::verify(&plan, &draft.host.id, &self.host_key(), draft)
                    .map_err(|e| e.to_string())?;
                Ok((plan, Order { plan: Some(named), ..draft.clone() }))
            }
            WardenAnswer::Answered { reply: Reply::Refused { code, why } } => Err(format!("{code}: {why}")),
            other => panic!("{other:?}"),
        }
    }

    fn envelope(&self, order: &Order) -> Envelope {
        let payload = order.encode();
        let sigs = vec![self.operator.sign(Namespace::Op, &payload)];
        Envelope::new(payload.into(), sigs)
    }

    fn outcome(&self, answer: WardenAnswer) -> Outcome {
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        let host = self.warden.status().enrolled.unwrap().host_id;
        let receipt = Receipt::verify(&signed, &host, &self.host_key()).unwrap();
        receipt.order_outcome().unwrap().1.clone()
    }

    /// Signs and submits as it is.
    pub(crate) async fn submit(&self, order: &Order) -> Outcome {
        let (progress, _states) = mpsc::channel(64);
        self.outcome(orders::order(self.warden.clone(), self.envelope(order), progress).await)
    }

    /// Asks for a plan, signs it, and submits.
    pub(crate) async fn carry_out(&self, draft: &Order) -> Outcome {
        let (_, order) = self.plan(draft).await.unwrap();
        self.submit(&order).await
    }

    /// The same, and at the `nth` time that a call is announced the world is changed.
    pub(crate) async fn change_at(
        &self,
        order: &Order,
        state: OrderState,
        change: impl FnOnce(&Self),
    ) -> Outcome {
        let (progress, mut states) = mpsc::channel(64);
        let running = tokio::spawn(orders::order(self.warden.clone(), self.envelope(order), progress));
        while let Some(now) = states.recv().await {
            if now == state {
                change(self);
                break;
            }
        }
        while states.recv().await.is_some() {}
        self.outcome(running.await.unwrap())
    }

    /// How many requests of that method have that in their path.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.sim.requests().iter().filter(|r| r.method == method && r.path.contains(part)).count()
    }

    pub(crate) fn mutations(&self) -> Vec<String> {
        let all = self.sim.requests();
        all.iter().filter(|r| r.method != "GET").map(|r| format!("{} {}", r.method, r.path)).collect()
    }
}

pub(crate) fn code(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused { code, .. } => *code,
        other => panic!("{other}"),
    }
}

/// A text of a plan, all of it.
pub(crate) fn text(lines: &[protocol::text::SafeText]) -> String {
    lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub(crate) fn one() -> Value {
    json!(1)
}
