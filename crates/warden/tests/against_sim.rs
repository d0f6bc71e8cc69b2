//! The warden's library against a simulated Proxmox: every request type, and what the simulator saw.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use authz::order::{HostRef, Order, Params, PolicyRef, Preconditions, RollbackParams};
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Event, Kind, Namespace, Outcome, PublicKey, Receipt, RefusalCode, SecretKey};
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use protocol::plan::Step;
use protocol::{Envelope, GuestKind, GuestRef, Nonce, Sha256, SnapshotRef, Vmid};
use pve_sim::{Sim, SimConfig};
use tokio::sync::mpsc;
use warden::config::ProxmoxConfig;
use warden::world::{Observed, observe};
use warden::{Warden, WardenConfig, now, orders, steps};

struct Rig {
    sim: Sim,
    warden: Arc<Warden>,
    client: proxmox_client::Client,
    operator: SecretKey,
    dir: tempfile::TempDir,
    nonces: std::cell::Cell<u8>,
}

fn policy(operator: &SecretKey) -> PolicyDocument {
    let rule = |kind| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold: 1,
        standing: true,
        max_validity_s: 3600,
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
        operators: vec![Operator { name: "alice".parse().unwrap(), keys: vec![operator.public().into()] }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Op, Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: [Kind::SnapshotRollback, Kind::SnapshotDelete, Kind::GuestStop, Kind::GuestSuspend]
            .map(rule)
            .into(),
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

fn config(sim: &Sim, dir: &Path, state: &str) -> WardenConfig {
    WardenConfig {
        state_dir: dir.join(state),
        socket: dir.join("socket"),
        allowed_uids: vec![0],
        reader_uids: vec![],
        privileged_socket: None,
        runner_socket: None,
        sessions_per_operator: 1,
        bounds: warden::bounds::LocalBounds::default(),
        host_root: "/".into(),
        proxmox: ProxmoxConfig {
            api: sim.url(),
            pins: vec![format!("spki:{}", sim.pins().spki)],
            pins_dir: None,
            token_file: dir.join("token"),
            node: None,
        },
    }
}

fn vmid(n: u32) -> Vmid {
    Vmid::try_from(n).unwrap()
}

impl Rig {
    async fn start() -> Self {
        let sim = Sim::start(SimConfig { task_duration: Duration::from_millis(20), ..SimConfig::demo() })
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        authz::files::write_atomic(&token_file, sim.tokens().1.as_bytes()).unwrap();
        let config = config(&sim, dir.path(), "state");
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

    fn host_key(&self) -> PublicKey {
        PublicKey::try_from(self.warden.status().enrolled.unwrap().host_key).unwrap()
    }

    fn read(&self, answer: WardenAnswer) -> Receipt {
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        Receipt::verify(&signed, &self.warden.status().enrolled.unwrap().host_id, &self.host_key()).unwrap()
    }

    async fn see(&self, kind: GuestKind, n: u32) -> Observed {
        observe(&self.client, kind, vmid(n)).await.unwrap()
    }

    async fn guest(&self, kind: GuestKind, n: u32) -> GuestRef {
        let seen = self.see(kind, n).await;
        GuestRef { vmid: vmid(n), kind, name: seen.name, identity: seen.identity }
    }

    /// An order as the operator's tool would prepare it now.
    async fn order(&self, kind: GuestKind, n: u32, snapshot: &str, params: Params) -> Order {
        let seen = self.see(kind, n).await;
        let enrolled = self.warden.status().enrolled.unwrap();
        let snapshot = seen.snapshots.iter().find(|s| s.name == snapshot).unwrap();
        self.nonces.set(self.nonces.get() + 1);
        let about_snapshot = matches!(params, Params::SnapshotRollback(_) | Params::SnapshotDelete(_));
        Order {
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
            pre: Preconditions {
                state: Some(seen.state),
                digest: Some(seen.digest.parse().unwrap()),
                snapshot: about_snapshot.then(|| SnapshotRef {
                    name: snapshot.name.parse().unwrap(),
                    time: snapshot.snaptime.unwrap(),
                    parent: snapshot.parent.clone(),
                }),
                ..Preconditions::default()
            },
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

    fn sign(&self, order: &Order) -> Envelope {
        let payload = order.encode();
        let sigs = vec![self.operator.sign(Namespace::Op, &payload)];
        Envelope::new(payload.into(), sigs)
    }

    async fn submit(&self, envelope: &Envelope) -> (Receipt, Vec<OrderState>) {
        let (progress, mut states) = mpsc::channel(16);
        let answer = orders::order(self.warden.clone(), envelope.clone(), progress).await;
        let mut seen = Vec::new();
        while let Ok(state) = states.try_recv() {
            seen.push(state);
        }
        (self.read(answer), seen)
    }

    async fn step(&self, step: Step) -> Outcome {
        let receipt = self.read(steps::step(self.warden.clone(), step, 1).await);
        let Event::Step { outcome, .. } = receipt.event else { panic!("{receipt:?}") };
        outcome
    }

    fn mutations(&self) -> usize {
        self.sim.requests().iter().filter(|r| r.method != "GET").count()
    }
}

fn outcome(receipt: &Receipt) -> &Outcome {
    receipt.order_outcome().unwrap().1
}

fn rollback() -> Params {
    Params::SnapshotRollback(RollbackParams { start: false })
}

fn code(receipt: &Receipt) -> RefusalCode {
    match outcome(receipt) {
        Outcome::Refused { code, .. } => *code,
        other => panic!("{other}"),
    }
}

async fn first_snapshot(rig: &Rig, kind: GuestKind, n: u32) -> String {
    let seen = rig.see(kind, n).await;
    if let Some(snapshot) = seen.snapshots.first() {
        return snapshot.name.clone();
    }
    let step = Step::SnapshotCreate { guest: rig.guest(kind, n).await, snapshot: "base".parse().unwrap() };
    let outcome = rig.step(step).await;
    assert!(outcome.is_success(), "{outcome}");
    "base".into()
}

#[tokio::test]
async fn a_signed_rollback_is_carried_out_once_for_both_kinds() {
    let rig = Rig::start().await;
    for (kind, n) in [(GuestKind::Qemu, 101), (GuestKind::Lxc, 201)] {
        let snapshot = first_snapshot(&rig, kind, n).await;
        let envelope = rig.sign(&rig.order(kind, n, &snapshot, rollback()).await);
        let before = rig.mutations();
        let (receipt, states) = rig.submit(&envelope).await;
        assert!(matches!(outcome(&receipt), Outcome::Done { upid: Some(_), .. }), "{}", outcome(&receipt));
        assert!(receipt.entry.is_some());
        assert!(
            matches!(
                states[..],
                [
                    OrderState::Verified,
                    OrderState::Committed,
                    OrderState::Starting,
                    OrderState::Running { .. }
                ]
            ),
            "{states:?}"
        );
        assert_eq!(rig.mutations(), before + 1);
        assert_eq!(rig.see(kind, n).await.parent.as_deref(), Some(snapshot.as_str()));

        // The same order again, and again: refused, logged once, nothing sent.
        let (again, states) = rig.submit(&envelope).await;
        assert_eq!((code(&again), states.len()), (RefusalCode::Replay, 0));
        assert!(again.entry.is_some(), "the first refusal is in the log");
        let (third, _) = rig.submit(&envelope).await;
        assert_eq!((code(&third), third.entry), (RefusalCode::Replay, None), "the second is not");
        assert_eq!(rig.mutations(), before + 1);
    }
}

#[tokio::test]
async fn a_rollback_can_start_the_guest_and_a_delete_deletes() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    let start = Params::SnapshotRollback(RollbackParams { start: true });
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, start).await);
    let (receipt, _) = rig.submit(&envelope).await;
    assert!(outcome(&receipt).to_string().contains("is running"), "{}", outcome(&receipt));
    let delete = Params::SnapshotDelete(authz::order::NoParams {});
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, delete).await);
    let (receipt, _) = rig.submit(&envelope).await;
    assert!(outcome(&receipt).is_success(), "{}", outcome(&receipt));
    assert!(rig.see(GuestKind::Qemu, 101).await.snapshots.iter().all(|s| s.name != snapshot));
}

#[tokio::test]
async fn refused_orders_send_nothing_to_proxmox() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    let order = rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await;
    let good = rig.sign(&order);
    let before = rig.mutations();

    let mut altered = good.clone();
    let at = altered.payload.0.windows(4).position(|w| w == b"test").unwrap();
    altered.payload.0[at] = b'b';
    let stranger = SecretKey::from_seed(&[99; 32]).sign(Namespace::Op, &good.payload.0);
    let unsigned = [
        (altered, RefusalCode::BadSignature),
        (Envelope { sigs: vec![], ..good.clone() }, RefusalCode::Unsigned),
        (Envelope { sigs: vec![stranger], ..good.clone() }, RefusalCode::UnknownSigner),
    ];
    for (envelope, expected) in unsigned {
        let (receipt, _) = rig.submit(&envelope).await;
        assert_eq!((code(&receipt), receipt.entry), (expected, None), "not a word in the log");
    }
    // The guest is replaced by one with the same VMID and name.
    let moment = pve_sim::world::Now { mono: Duration::from_secs(1), unix: 1_800_000_000 };
    assert!(rig.sim.world().lock().unwrap().replace_guest(101, moment));
    let (receipt, _) = rig.submit(&good).await;
    assert_eq!(code(&receipt), RefusalCode::GuestIdentity);
    assert!(receipt.entry.is_some());
    let mut missing = order.clone();
    missing.guest.as_mut().unwrap().vmid = vmid(555);
    let (receipt, _) = rig.submit(&rig.sign(&missing)).await;
    assert_eq!(code(&receipt), RefusalCode::Proxmox);
    assert_eq!(rig.mutations(), before);
    // None of this burned the nonce.
    assert!(!rig.dir.path().join("state/orders").read_dir().unwrap().any(|_| true));
}

/// A kind that this version does not carry out is refused by name, and its nonce stays unused.
#[tokio::test]
async fn a_kind_without_hands_is_refused_before_it_is_used_up() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    let mut order = rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await;
    order.params = Params::GuestSuspend(authz::order::SuspendParams { to_disk: true });
    let started = rig.step(Step::Start { guest: rig.guest(GuestKind::Qemu, 101).await }).await;
    assert!(started.is_success(), "{started}");
    let state = Some(protocol::RunState::Running);
    let ha = Some(protocol::refs::HaState::Unmanaged);
    order.pre = Preconditions { state, ha, ..Preconditions::default() };
    let before = rig.mutations();
    for _ in 0..2 {
        let (receipt, states) = rig.submit(&rig.sign(&order)).await;
        assert_eq!(
            (code(&receipt), states.len()),
            (RefusalCode::Kind, 0),
            "and no replay the second time: {}",
            outcome(&receipt)
        );
        let why = outcome(&receipt).to_string();
        assert!(why.contains("only root can clear"), "{why}");
    }
    assert_eq!(rig.mutations(), before);
}

#[tokio::test]
async fn what_proxmox_says_ends_up_in_the_receipt() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    let inject = |fault| {
        let injection = pve_sim::world::Injection { task: "qmrollback".into(), fault };
        rig.sim.world().lock().unwrap().injections.push(injection);
    };
    inject(pve_sim::world::Fault::Fail { text: "no space left".into(), leave_lock: false });
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await);
    let (receipt, _) = rig.submit(&envelope).await;
    assert!(
        matches!(outcome(&receipt), Outcome::Failed { upid: Some(_), why } if why.as_str().starts_with("no space left"))
    );
    let (receipt, _) = rig.submit(&envelope).await;
    assert_eq!(code(&receipt), RefusalCode::Replay, "a failed order is used up too");

    inject(pve_sim::world::Fault::Warn(2));
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await);
    let (receipt, _) = rig.submit(&envelope).await;
    assert!(matches!(outcome(&receipt), Outcome::Warnings { count: 2, .. }), "{}", outcome(&receipt));

    inject(pve_sim::world::Fault::Kill);
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await);
    let (receipt, _) = rig.submit(&envelope).await;
    assert!(matches!(outcome(&receipt), Outcome::Unknown { upid: Some(_), .. }), "{}", outcome(&receipt));
}

/// The answer to the one call is lost: the task is found and followed, and nothing is sent again.
#[tokio::test]
async fn a_lost_answer_is_found_again() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    rig.sim.drop_answer_next("POST", "/rollback");
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await);
    let before = rig.mutations();
    let (receipt, states) = rig.submit(&envelope).await;
    assert!(matches!(outcome(&receipt), Outcome::Done { upid: Some(_), .. }), "{}", outcome(&receipt));
    assert!(states.iter().any(|s| matches!(s, OrderState::Running { .. })));
    assert_eq!(rig.mutations(), before + 1);
}

#[tokio::test]
async fn two_copies_at_once_are_carried_out_once() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await);
    let before = rig.mutations();
    let (one, two) = tokio::join!(rig.submit(&envelope), rig.submit(&envelope));
    let done = [&one.0, &two.0].into_iter().filter(|r| outcome(r).is_success()).count();
    assert_eq!((done, rig.mutations()), (1, before + 1), "{} / {}", outcome(&one.0), outcome(&two.0));
}

#[tokio::test]
async fn unsigned_steps_work_inside_their_bounds() {
    let rig = Rig::start().await;
    let guest = rig.guest(GuestKind::Qemu, 101).await;
    assert!(rig.step(Step::Start { guest: guest.clone() }).await.is_success());
    let refused = rig.step(Step::Start { guest: guest.clone() }).await;
    assert!(matches!(refused, Outcome::Refused { code: RefusalCode::Precondition, .. }), "{refused}");

    let digest = rig.see(GuestKind::Qemu, 101).await.digest;
    let tags = vec!["prod".parse().unwrap(), "web".parse().unwrap()];
    let set = Step::SetTags { guest: guest.clone(), digest, tags };
    assert!(rig.step(set.clone()).await.is_success());
    let stale = rig.step(set).await;
    assert!(matches!(stale, Outcome::Refused { code: RefusalCode::Precondition, .. }), "{stale}");
    let digest = rig.see(GuestKind::Qemu, 101).await.digest;
    let clear = rig.step(Step::SetTags { guest: guest.clone(), digest, tags: vec![] }).await;
    assert!(clear.is_success(), "{clear}");

    assert!(rig.sim.world().lock().unwrap().set_usage("local-lvm", Some(85.0), None));
    let create = Step::SnapshotCreate { guest: guest.clone(), snapshot: "s1".parse().unwrap() };
    let full = rig.step(create.clone()).await;
    assert!(matches!(full, Outcome::Refused { code: RefusalCode::Space, .. }), "{full}");
    assert!(rig.sim.world().lock().unwrap().set_usage("local-lvm", Some(20.0), Some(85.0)));
    let full = rig.step(create.clone()).await;
    assert!(full.to_string().contains("metadata"), "{full}");
    assert!(rig.sim.world().lock().unwrap().set_usage("local-lvm", Some(20.0), Some(10.0)));
    assert!(rig.step(create).await.is_success());

    // Four changes so far; the fifth is the last within the hour.
    let digest = rig.see(GuestKind::Qemu, 101).await.digest;
    assert!(rig.step(Step::SetTags { guest: guest.clone(), digest, tags: vec![] }).await.is_success());
    let digest = rig.see(GuestKind::Qemu, 101).await.digest;
    let more = rig.step(Step::SetTags { guest, digest, tags: vec![] }).await;
    assert!(matches!(more, Outcome::Refused { code: RefusalCode::Rate, .. }), "{more}");
}

#[tokio::test]
async fn enrollment_is_idempotent_and_takes_no_second_policy() {
    let rig = Rig::start().await;
    let bytes = policy(&rig.operator).encode();
    let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
    let enroll =
        |bytes: &[u8], hash| rig.warden.enroll(&bytes.to_vec().into(), hash, &vec![1; 32].into(), device);
    let size = rig.warden.status().log_size;
    let again = enroll(&bytes, Sha256::of(&bytes));
    assert!(
        matches!(again, WardenAnswer::Enrolled { host_id, .. } if host_id == rig.warden.status().enrolled.unwrap().host_id)
    );
    assert_eq!(rig.warden.status().log_size, size, "nothing new to log");
    let other = policy(&SecretKey::from_seed(&[9; 32])).encode();
    assert!(
        matches!(enroll(&other, Sha256::of(&other)), WardenAnswer::Refused { code, .. } if code == "already_enrolled")
    );
    assert!(
        matches!(enroll(&bytes, Sha256::of(b"x")), WardenAnswer::Refused { code, .. } if code == "other_policy")
    );
    assert!(
        matches!(enroll(b"junk", Sha256::of(b"junk")), WardenAnswer::Refused { code, .. } if code == "bad_policy")
    );
}

/// Whoever can write in the state directory cannot make the past shorter unnoticed, and neither can a
/// disk: the warden opens closed, says what is missing, and signs nothing but refusals.
#[tokio::test]
async fn a_state_directory_with_a_hole_is_closed() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await);
    assert!(outcome(&rig.submit(&envelope).await.0).is_success());
    type Damage = fn(&Path);
    fn cut(path: &Path, keep: impl Fn(&[u8]) -> usize) {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..keep(&bytes)]).unwrap();
    }
    let cases: [(&str, Damage, &str); 8] = [
        ("log emptied", |d| cut(&d.join("log.jsonl"), |_| 0), "ends before entry"),
        ("log shortened by a byte", |d| cut(&d.join("log.jsonl"), |b| b.len() - 1), "ends before entry"),
        ("log gone", |d| std::fs::remove_file(d.join("log.jsonl")).unwrap(), "is missing"),
        (
            "log emptied and its head gone",
            |d| {
                cut(&d.join("log.jsonl"), |_| 0);
                std::fs::remove_file(d.join("log.head")).unwrap();
            },
            "log and order files know nothing",
        ),
        (
            "enrollment cut out of the log",
            |d| {
                let text = std::fs::read_to_string(d.join("log.jsonl")).unwrap();
                std::fs::write(d.join("log.jsonl"), text.split_once('\n').unwrap().1).unwrap();
            },
            "damaged at entry 0",
        ),
        (
            "journal's last record cut",
            |d| cut(&d.join("nonces-000001.seg"), |b| b.len() - 96),
            "nonce journal does not know it",
        ),
        (
            "journal's last record damaged",
            |d| cut(&d.join("nonces-000001.seg"), |b| b.len() - 1),
            "nonce journal does not know it",
        ),
        ("journal gone", |d| std::fs::remove_file(d.join("nonces-000001.seg")).unwrap(), "is missing"),
    ];
    for (index, (what, damage, says)) in cases.into_iter().enumerate() {
        let name = format!("damaged-{index}");
        let copy = rig.dir.path().join(&name);
        authz::files::prepare_state_dir(&copy).unwrap();
        authz::files::prepare_state_dir(&copy.join("orders")).unwrap();
        for file in ["host.key", "identity.json", "policy.json", "log.jsonl", "log.head", "nonces-000001.seg"]
        {
            authz::files::write_atomic(
                &copy.join(file),
                &std::fs::read(rig.dir.path().join("state").join(file)).unwrap(),
            )
            .unwrap();
        }
        damage(&copy);
        let journal = std::fs::read(copy.join("nonces-000001.seg")).ok();
        let (warden, left) = Warden::open(config(&rig.sim, rig.dir.path(), &name)).unwrap();
        let closed =
            warden.status().closed.unwrap_or_else(|| panic!("{what}: opened as if nothing were missing"));
        assert!(closed.contains(says), "{what}: {closed}");
        assert!(left.is_empty());
        let (progress, _states) = mpsc::channel(16);
        let refused = rig.read(orders::order(warden.clone(), envelope.clone(), progress).await);
        assert_eq!((code(&refused), refused.entry), (RefusalCode::Closed, None), "{what}");
        assert_eq!(
            std::fs::read(copy.join("nonces-000001.seg")).ok(),
            journal,
            "{what}: evidence was destroyed"
        );
    }
    // The identity alone is gone: not a fresh host.
    let copy = rig.dir.path().join("damaged-0");
    std::fs::write(copy.join("log.jsonl"), std::fs::read(rig.dir.path().join("state/log.jsonl")).unwrap())
        .unwrap();
    std::fs::remove_file(copy.join("identity.json")).unwrap();
    let Err(error) = Warden::open(config(&rig.sim, rig.dir.path(), "damaged-0")) else {
        panic!("started anew")
    };
    assert!(error.to_string().contains("has a history"), "{error}");
}

/// The rate is counted when a step begins, so many at once cannot slip under it together, and device
/// keys are not vouched for without end.
#[tokio::test]
async fn many_at_once_do_not_slip_under_the_limits() {
    let rig = Rig::start().await;
    let mut handles = Vec::new();
    for (kind, n) in [
        (GuestKind::Qemu, 100),
        (GuestKind::Qemu, 101),
        (GuestKind::Qemu, 102),
        (GuestKind::Lxc, 200),
        (GuestKind::Lxc, 201),
    ] {
        for round in 0..2 {
            let digest = rig.see(kind, n).await.digest;
            let tags = vec![format!("t{round}").parse().unwrap()];
            let step = Step::SetTags { guest: rig.guest(kind, n).await, digest, tags };
            handles.push(tokio::spawn(steps::step(rig.warden.clone(), step, 1)));
        }
    }
    let before = rig.mutations();
    for handle in handles {
        rig.read(handle.await.unwrap());
    }
    assert!(rig.mutations() <= 5, "{} changes, {before} of them before", rig.mutations());

    let bytes = policy(&rig.operator).encode();
    let mut refused = 0;
    for seed in 10..30 {
        let device = SecretKey::from_seed(&[seed; 32]).public().to_wire();
        let answer =
            rig.warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        refused += usize::from(matches!(answer, WardenAnswer::Refused { code, .. } if code == "rate"));
    }
    assert_eq!(refused, 11, "nine after the first are vouched for");
}

/// The guest is replaced by a namesake after all checks, while the warden writes down what it is about to
/// do: it looks once more.
#[tokio::test]
async fn a_guest_replaced_after_the_checks_is_left_alone() {
    let rig = Rig::start().await;
    let snapshot = first_snapshot(&rig, GuestKind::Qemu, 101).await;
    let envelope = rig.sign(&rig.order(GuestKind::Qemu, 101, &snapshot, rollback()).await);
    let (progress, mut states) = mpsc::channel(16);
    let before = rig.mutations();
    let running = tokio::spawn(orders::order(rig.warden.clone(), envelope, progress));
    // STARTING is announced right before the second look; the world changes at VERIFIED.
    assert_eq!(states.recv().await, Some(OrderState::Verified));
    let moment = pve_sim::world::Now { mono: Duration::from_secs(1), unix: 1_800_000_000 };
    assert!(rig.sim.world().lock().unwrap().replace_guest(101, moment));
    let receipt = rig.read(running.await.unwrap());
    assert!(matches!(outcome(&receipt), Outcome::Aborted { .. }), "{}", outcome(&receipt));
    assert_eq!(rig.mutations(), before);
}
