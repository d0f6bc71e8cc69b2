//! A simulated Proxmox, a warden in front of it, and an operator who signs; all in one thread.

use std::cell::Cell;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use authz::order::{
    Binding, HostRef, Need, Needs, Order, Params, PlanRef, PolicyRef, Preconditions, VolumeDeleteParams,
    VolumeOwner,
};
use authz::plan::Plan;
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Kind, Namespace, Outcome, PublicKey, Receipt, RefusalCode, SecretKey};
use protocol::ask::{Look, Owner, Question, Reply};
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use protocol::refs::{BackupRef, VolumeFormat, VolumeId, VolumeRef};
use protocol::{Envelope, GuestKind, GuestRef, Nonce, Sha256, SnapshotRef, Vmid};
use proxmox_client::{Content, ContentFilter};
use pve_sim::world::World;
use pve_sim::{Sim, SimConfig};
use tokio::sync::mpsc;
use warden::config::ProxmoxConfig;
use warden::ledger::Interrupted;
use warden::world::{Extent, observe_all};
use warden::{Warden, WardenConfig, now, orders, questions};

use crate::kinds::{Row, Seen, Twin};

/// Turns of the runtime without a request until everybody counts as waiting for a clock. A request and its
/// answer need half a dozen, a new connection a dozen.
const QUIET_TURNS: u32 = 16;
/// Turns after which they are taken to wait still.
const STILL_TURNS: u32 = 6;
/// How far the clocks then go at once. Shorter than any timeout, so that one wrong guess breaks nothing.
const LEAP: Duration = Duration::from_secs(1);

pub(crate) struct Rig {
    pub(crate) sim: Sim,
    warden: Option<Arc<Warden>>,
    pub(crate) client: proxmox_client::Client,
    operator: SecretKey,
    config: WardenConfig,
    nonces: Cell<u64>,
    _dir: tempfile::TempDir,
}

/// Everything that an operator can sign for, so that a new kind needs no line here.
fn policy(operator: &SecretKey) -> PolicyDocument {
    let rule = |kind: &Kind| {
        let stands = matches!(kind.binding(), Binding::None | Binding::PlanOrStanding | Binding::Standing);
        Rule {
            kind: *kind,
            role: "ops".parse().unwrap(),
            also: vec![],
            threshold: 1,
            standing: stands,
            max_validity_s: 600,
        }
    };
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        // Close enough for a clock to be believed.
        issued_at: now() / 8_640_000 * 8_640_000,
        operators: vec![Operator { name: "alice".parse().unwrap(), keys: vec![operator.public().into()] }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Op, Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: Kind::ALL.iter().filter(|kind| kind.namespace() == Namespace::Op).map(rule).collect(),
        bounds: Bounds {
            guests: vec![(vmid(100), vmid(299))],
            start: true,
            tags: true,
            snapshots: true,
            max_snapshots_per_guest: 3,
            max_pool_used_percent: 80,
            max_changes_per_hour: 5,
            ..Bounds::default()
        },
        revoked: vec![],
    }
}

pub(crate) fn vmid(number: u32) -> Vmid {
    Vmid::try_from(number).unwrap()
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let config = SimConfig { task_duration: Duration::ZERO, ..SimConfig::demo() };
        let sim = Sim::start(config).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        authz::files::write_atomic(&token_file, sim.tokens().1.as_bytes()).unwrap();
        let config = config_of(&sim, dir.path());
        crate::bulk::host_files(&config.host_root);
        let client = config.proxmox.client().unwrap();
        let (warden, left) = Warden::open(config.clone()).unwrap();
        assert!(left.is_empty());
        let operator = SecretKey::from_seed(&[7; 32]);
        let bytes = policy(&operator).encode();
        let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
        let answer = warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        assert!(matches!(answer, WardenAnswer::Enrolled { .. }), "{answer:?}");
        Self { sim, warden: Some(warden), client, operator, config, nonces: Cell::new(0), _dir: dir }
    }

    pub(crate) fn warden(&self) -> &Arc<Warden> {
        self.warden.as_ref().unwrap()
    }

    /// What a restart finds. Whoever still uses the old one must have been ended before.
    pub(crate) fn reopen(&mut self) -> Vec<Interrupted> {
        let old = self.warden.take().unwrap();
        assert_eq!(Arc::strong_count(&old), 1, "a part of the crashed warden lives on");
        drop(old);
        let (warden, left) = Warden::open(self.config.clone()).unwrap();
        assert_eq!(warden.status().closed, None, "the state is whole after a crash");
        self.warden = Some(warden);
        left
    }

    /// The state directory.
    pub(crate) fn state(&self) -> &Path {
        &self.config.state_dir
    }

    pub(crate) fn save(&self) -> World {
        self.sim.world().lock().unwrap().clone()
    }

    pub(crate) fn restore(&self, world: &World) {
        self.sim.clear_faults();
        *self.sim.world().lock().unwrap() = world.clone();
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.sim.world().lock().unwrap())
    }

    /// Puts its twin in the place of what the row means.
    pub(crate) fn replace(&self, row: &Row) {
        let now = self.sim.now();
        match &row.twin {
            Twin::Guest => assert!(self.change(|world| world.replace_guest(row.vmid, now))),
            Twin::Other { put, .. } | Twin::Made { put, .. } => self.change(put),
        }
    }

    /// Drives `work` to its end. Whenever nothing but clocks can go on, the clocks do: the runtime's, which
    /// the warden's pauses and timeouts go by, and the simulated node's.
    pub(crate) async fn fast<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let (mut seen, mut quiet) = (self.sim.request_count(), 0);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
            let count = self.sim.request_count();
            quiet = if count == seen { quiet + 1 } else { 0 };
            seen = count;
            if quiet >= QUIET_TURNS {
                quiet -= STILL_TURNS;
                tokio::time::pause();
                tokio::time::advance(LEAP).await;
                tokio::time::resume();
                self.sim.set_clock(self.sim.now().unix + LEAP.as_secs() as i64);
            }
        }
    }

    pub(crate) async fn see(&self, row: &Row) -> Seen {
        let all = Extent { volumes: true, ha: true, replication: true };
        let guest = observe_all(&self.client, row.guest, vmid(row.vmid), all).await.unwrap();
        let filter = ContentFilter {
            content: Some(Content::Backup),
            vmid: Some(warden::world::client_vmid(vmid(row.vmid))),
        };
        let listed = self.client.storage_content(&"local".parse().unwrap(), filter).await.unwrap();
        let backup = |volume: proxmox_client::Volume| BackupRef {
            volid: volume.volid.as_str().parse().unwrap(),
            size: volume.size.unwrap(),
            ctime: volume.ctime.unwrap(),
        };
        let mut backups: Vec<_> = listed.into_iter().map(backup).collect();
        backups.sort_by_key(|backup| backup.ctime);
        Seen { guest, backups }
    }

    /// Lets the warden read what it reads once and then knows, so that each run makes the same calls.
    pub(crate) async fn warm_up(&self) {
        let look = Look { storages: vec!["local".parse().unwrap()], ..Look::default() };
        let owner = Some(Owner { vmid: vmid(101), kind: GuestKind::Qemu });
        let answer = questions::answer(self.warden(), Question::Look(Look { owner, ..look })).await;
        assert!(matches!(answer, WardenAnswer::Answered { .. }), "{answer:?}");
    }

    /// As the operator's tool would prepare it: everything stated that the kind may state. Without its plan.
    pub(crate) async fn draft(&self, row: &Row) -> Order {
        let seen = self.see(row).await;
        let params = (row.params)(&seen);
        assert!(row.name.starts_with(params.kind().as_str()), "{} is another kind", row.name);
        let needs = needs(&params);
        let enrolled = self.warden().status().enrolled.unwrap();
        let all = seen.guest_now();
        let snapshots: Vec<SnapshotRef> = all
            .snapshots
            .as_known()
            .unwrap()
            .iter()
            .map(|snapshot| SnapshotRef {
                name: snapshot.name.parse().unwrap(),
                time: snapshot.time.unwrap(),
                parent: snapshot.parent.clone(),
            })
            .collect();
        fn when<T>(need: Need, value: T) -> Option<T> {
            (need != Need::No).then_some(value)
        }
        fn must<T>(need: Need, value: impl FnOnce() -> T) -> Option<T> {
            (need == Need::Must).then(value)
        }
        let named =
            || snapshots.iter().find(|snapshot| snapshot.name.as_str() == row.snapshot).unwrap().clone();
        Order {
            host: HostRef {
                id: enrolled.host_id,
                key: enrolled.host_key.fingerprint(),
                generation: 1,
                cluster: None,
                name: "web1".parse().unwrap(),
            },
            guest: must(needs.guest, || GuestRef {
                vmid: vmid(row.vmid),
                kind: row.guest,
                name: seen.name.clone(),
                identity: seen.identity.clone(),
            }),
            pre: Preconditions {
                state: when(needs.state, seen.state),
                digest: when(needs.digest, seen.digest.parse().unwrap()),
                snapshot: must(needs.snapshot, named),
                volumes: must(needs.volumes, || self.volumes(&params, &seen)),
                snapshots: must(needs.snapshots, || snapshots.clone()),
                protection: must(needs.protection, || seen.protection),
                ha: must(needs.ha, || *seen.ha.as_known().unwrap()),
                replication: must(needs.replication, || seen.replication.as_known().unwrap().clone()),
                backups: must(needs.backups, || backups(&params, &seen)),
                ..Preconditions::default()
            },
            params,
            plan: None,
            nonce: self.nonce(),
            nbf: now(),
            exp: now() + 600,
            after: None,
            policy: PolicyRef { version: 1, sha256: enrolled.policy },
            min_signers: 1,
            reason: "test".parse().unwrap(),
            ticket: None,
        }
    }

    fn nonce(&self) -> Nonce {
        self.nonces.set(self.nonces.get() + 1);
        let mut nonce = [0; 16];
        nonce[8..].copy_from_slice(&self.nonces.get().to_be_bytes());
        Nonce::from_bytes(nonce)
    }

    /// The same once more, as another order, of a world that is as it was.
    pub(crate) fn renewed(&self, draft: &Order) -> Order {
        Order { nonce: self.nonce(), nbf: now(), exp: now() + 600, ..draft.clone() }
    }

    /// Those volumes that the order is about: the guest's, all of them, or the one that nobody owns.
    fn volumes(&self, params: &Params, seen: &Seen) -> Vec<VolumeRef> {
        let orphan = match params {
            Params::VolumeDelete(VolumeDeleteParams { volume, owner: VolumeOwner::Gone { .. } }) => volume,
            _ => return seen.volumes.as_known().unwrap().clone(),
        };
        let size = self.sim.world().lock().unwrap().stock.volumes[orphan.as_str()].size;
        vec![VolumeRef { volid: orphan.clone(), size, format: VolumeFormat::Raw }]
    }

    /// Asks the warden for the plan where the kind wants one.
    pub(crate) async fn planned(&self, draft: Order) -> Result<Order, String> {
        if draft.kind().binding() != Binding::Plan {
            return Ok(draft);
        }
        let question = Question::Plan { draft: draft.encode().into() };
        match questions::answer(self.warden(), question).await {
            WardenAnswer::Answered { reply: Reply::Plan { plan } } => {
                let enrolled = self.warden().status().enrolled.unwrap();
                let key = PublicKey::try_from(enrolled.host_key).unwrap();
                let (_, named): (Plan, PlanRef) =
                    Plan::verify(&plan, &enrolled.host_id, &key, &draft).unwrap();
                Ok(Order { plan: Some(named), ..draft })
            }
            WardenAnswer::Answered { reply: Reply::Refused { why, .. } } => Err(why),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn sign(&self, order: &Order) -> Envelope {
        let payload = order.encode();
        let sigs = vec![self.operator.sign(Namespace::Op, &payload)];
        Envelope::new(payload.into(), sigs)
    }

    /// Draft, plan, signature.
    pub(crate) async fn envelope(&self, row: &Row) -> Envelope {
        let draft = self.draft(row).await;
        self.sign(&self.planned(draft).await.unwrap())
    }

    pub(crate) fn read(&self, answer: WardenAnswer) -> Receipt {
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        let enrolled = self.warden().status().enrolled.unwrap();
        let key = PublicKey::try_from(enrolled.host_key).unwrap();
        Receipt::verify(&signed, &enrolled.host_id, &key).unwrap()
    }

    /// Sends it and waits for the end, at each state doing what `at` says.
    pub(crate) async fn submit_with(&self, envelope: &Envelope, at: impl Fn(&OrderState)) -> Outcome {
        let (progress, mut states) = mpsc::channel(16);
        let work = orders::order(self.warden().clone(), envelope.clone(), progress);
        let watch = async {
            while let Some(state) = states.recv().await {
                at(&state);
            }
        };
        let (answer, ()) = self.fast(async { tokio::join!(biased; work, watch) }).await;
        let receipt = self.read(answer);
        let entries = self.warden().status().log_size;
        assert!(receipt.entry.is_none_or(|entry| entry.seq < entries));
        receipt.order_outcome().unwrap().1.clone()
    }

    pub(crate) async fn submit(&self, envelope: &Envelope) -> Outcome {
        self.submit_with(envelope, |_| {}).await
    }

    /// Requests that change something, since there were `since` in all: method and path.
    pub(crate) fn mutations(&self, since: usize) -> Vec<String> {
        self.mutations_of(since, since).1
    }

    /// The same, up to `until` and from there on.
    pub(crate) fn mutations_of(&self, since: usize, until: usize) -> (Vec<String>, Vec<String>) {
        let requests = self.sim.requests();
        let lines = |requests: &[pve_sim::RequestLine]| {
            let lines = requests.iter().filter(|line| line.method != "GET");
            lines.map(|line| format!("{} {}", line.method, line.path)).collect()
        };
        (lines(&requests[since..until]), lines(&requests[until..]))
    }

    /// Nothing is left over of any order, and log and journal verify.
    pub(crate) fn at_rest(&self) {
        assert_eq!(self.warden().queue.entries(), vec![], "the queue is empty");
        let left: Vec<_> = self.state().join("orders").read_dir().unwrap().collect();
        assert!(left.is_empty(), "open orders are left: {left:?}");
        let identity = warden::identity::Identity::load(self.state()).unwrap().unwrap();
        warden::ledger::Ledger::inspect(self.state(), &identity).unwrap();
    }
}

/// As [`authz::order::Kind::needs`], but a volume that nobody owns states itself alone.
fn needs(params: &Params) -> Needs {
    match params {
        Params::VolumeDelete(VolumeDeleteParams { owner: VolumeOwner::Guest {}, .. }) => {
            Needs { guest: Need::Must, ..params.kind().needs() }
        }
        Params::VolumeDelete(_) => Needs { volumes: Need::Must, ..Kind::GuestCreate.needs() },
        _ => params.kind().needs(),
    }
}

/// Those backups that the order is about.
fn backups(params: &Params, seen: &Seen) -> Vec<BackupRef> {
    let named: Vec<_> = match params {
        Params::BackupDelete(params) => params.remove.iter().collect(),
        Params::BackupProtect(params) => vec![&params.volume],
        Params::BackupPrune(params) => params.remove.iter().chain(&params.keep).collect(),
        _ => return seen.backups.clone(),
    };
    let of = |volid: &VolumeId| seen.backups.iter().find(|backup| backup.volid == *volid).unwrap().clone();
    named.into_iter().map(of).collect()
}

fn config_of(sim: &Sim, dir: &Path) -> WardenConfig {
    WardenConfig {
        state_dir: dir.join("state"),
        socket: dir.join("socket"),
        allowed_uids: vec![0],
        reader_uids: vec![0],
        runner_socket: None,
        privileged_socket: None,
        sessions_per_operator: 1,
        bounds: warden::bounds::LocalBounds::default(),
        host_root: dir.join("host"),
        proxmox: ProxmoxConfig {
            api: sim.url(),
            pins: vec![format!("spki:{}", sim.pins().spki)],
            pins_dir: None,
            token_file: dir.join("token"),
            node: None,
        },
    }
}

/// The rule of a refusal.
pub(crate) fn code(outcome: &Outcome) -> Option<RefusalCode> {
    match outcome {
        Outcome::Refused { code, .. } => Some(*code),
        _ => None,
    }
}

/// Runs each row on a thread and a runtime of its own, a few at once on each processor: they wait for timers more than they compute. Gives what
/// they found wrong.
pub(crate) fn each<R: Sync, F: AsyncFn(&R) -> Vec<String> + Sync>(rows: &[R], try_out: F) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(Vec::new());
    let threads = (4 * std::thread::available_parallelism().map_or(2, usize::from)).min(rows.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let wrong = runtime.block_on(try_out(row));
                    found.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    found.into_inner().unwrap()
}
