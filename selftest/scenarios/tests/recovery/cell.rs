//! One cell of the matrix.

use std::path::PathBuf;
use std::time::Duration;

use authz::order::{HostRef, Order, Params, PolicyRef, Preconditions, RollbackParams};
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Event, Kind, Namespace, Outcome, Receipt, SecretKey};
use local_socket::Framed;
use protocol::local::{WardenAnswer, WardenRequest};
use protocol::{Envelope, GuestKind, GuestRef, Nonce, Sha256, SnapshotRef, Vmid};
use pve_sim::world::{AuthId, Fault, FaultRule, Injection, Job, Kind as SimKind, Mishap, Now, World};
use pve_sim::{Sim, SimConfig};
use scenarios::bins::Bins;
use scenarios::process::{DEADLINE, Process};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use warden::identity::Identity;
use warden::ledger::Ledger;
use warden::world::observe;
use warden::{Warden, WardenConfig, now};

use crate::table::{Disk, End, Side, Truth, disk, has_ended, was_sent};

pub(crate) const VMID: u32 = 101;
const SNAPSHOT: &str = "before-upgrade";
const ACT: &str = "writ@pve!act";
/// The warden looks this long for the task of a lost answer, by the node's clock; nobody waits for it here.
pub(crate) const LATER_S: i64 = 60;

pub(crate) struct Cell {
    pub(crate) sim: Sim,
    dir: tempfile::TempDir,
    pub(crate) config: WardenConfig,
    pub(crate) client: proxmox_client::Client,
    operator: SecretKey,
    binary: PathBuf,
}

/// Runs one and says how the order ended.
pub(crate) async fn run(bins: &Bins, point: &str, side: Side, truth: Truth) -> Result<(End, String), String> {
    let cell = Cell::start(bins).await;
    let between = disk(point, side) == Disk::Between;
    cell.world(|world| {
        if between {
            world.guests.get_mut(&VMID).unwrap().config.insert("protection".into(), serde_json::json!(1));
        }
        // Rolled back to the snapshot where it stands already, the guest would not show whether it was.
        world.guests.get_mut(&VMID).unwrap().config.remove("parent");
    });
    let envelope = cell.envelope().await;
    let since = cell.sim.requests().len();
    let untouched = cell.world(|world| world.clone());
    if was_sent(point, side) {
        let mishap = match (has_ended(point, side), truth) {
            (false, _) => Some(Mishap::TaskEndless {}),
            (true, Truth::Failed) => Some(Mishap::TaskFail { text: "disk full".into(), leave_lock: false }),
            (true, _) => None,
        };
        if let Some(mishap) = mishap {
            cell.sim.fault(FaultRule::new(mishap).method("POST")).unwrap();
        }
    }

    // The crash. Of a program with two calls only the first is made when "between" is reached.
    let name = match (point, side) {
        ("between", _) => "starting".to_owned(),
        (point, Side::Before) => format!("before-{point}"),
        (point, Side::After) => point.to_owned(),
    };
    let mut held = cell.process("held", &[("WRIT_WARDEN_HOLD_AT", &name)]).await?;
    let asked = cell.ask(&WardenRequest::Order { envelope: envelope.clone() }).await?;
    let holding = held.line_with(&format!("holding at {name}")).await;
    holding.map_err(|error| error.to_string())?;
    held.kill().await;
    drop(asked);
    if between {
        cell.make_two_calls_of_it(envelope.id(), side);
    }

    // What Proxmox says from now on.
    let made = cell.sim.requests()[since..].iter().filter(|line| line.method != "GET").count();
    if made != usize::from(was_sent(point, side)) {
        return Err(format!("{made} calls were made before the crash"));
    }
    let task = cell.tell(point, side, truth, &untouched);
    cell.sim.set_clock(cell.sim.now().unix + LATER_S);

    let again = cell.process("again", &[]).await?;
    let (end, told) = cell.end_of(envelope.id(), task.as_deref()).await?;
    let sent = cell.rollbacks(since);
    if sent > 1 || (sent == 1) != was_sent(point, side) {
        return Err(format!("{sent} rollbacks were asked for"));
    }
    let protected = cell.world(|world| world.guests[&VMID].config.get("protection").cloned());
    if between && protected != Some(serde_json::json!(1)) {
        return Err(format!("the guest was not protected again: {protected:?}, {end:?}"));
    }
    cell.replayed(&envelope, end, since).await?;
    again.stop().await;
    let identity = Identity::load(&cell.config.state_dir).unwrap().unwrap();
    Ledger::inspect(&cell.config.state_dir, &identity).map_err(|error| error.to_string())?;
    Ok((end, told))
}

impl Cell {
    /// Everything, enrolled, and no process yet.
    pub(crate) async fn start(bins: &Bins) -> Self {
        let config = SimConfig { task_duration: Duration::ZERO, ..SimConfig::demo() };
        let sim = Sim::start(config).await.unwrap();
        let dir = tempfile::Builder::new().prefix("writ-").tempdir().unwrap();
        authz::files::write_atomic(&dir.path().join("token"), sim.tokens().1.as_bytes()).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let text = format!(
            "state_dir = \"{}\"\nsocket = \"{}\"\nallowed_uids = [{}]\n\n[proxmox]\napi = \"{}\"\npins = [\"spki:{}\"]\ntoken_file = \"{}\"\n",
            path("state"),
            path("socket"),
            rustix::process::getuid().as_raw(),
            sim.url(),
            sim.pins().spki,
            path("token")
        );
        std::fs::write(dir.path().join("warden.toml"), text).unwrap();
        let config = WardenConfig::load(&dir.path().join("warden.toml")).unwrap();
        let client = config.proxmox.client().unwrap();
        let operator = SecretKey::from_seed(&[7; 32]);
        let (warden, _) = Warden::open(config.clone()).unwrap();
        let bytes = policy(&operator).encode();
        let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
        let answer = warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        assert!(matches!(answer, WardenAnswer::Enrolled { .. }), "{answer:?}");
        Self { sim, dir, config, client, operator, binary: bins.path("writ-warden") }
    }

    pub(crate) fn world<T>(&self, with: impl FnOnce(&mut World) -> T) -> T {
        with(&mut self.sim.world().lock().unwrap())
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::load(&self.config.state_dir).unwrap().unwrap()
    }

    async fn envelope(&self) -> Envelope {
        let vmid = Vmid::try_from(VMID).unwrap();
        let seen = observe(&self.client, GuestKind::Qemu, vmid).await.unwrap();
        let snapshot = seen.snapshots.iter().find(|snapshot| snapshot.name == SNAPSHOT).unwrap();
        let pre = Preconditions {
            state: Some(seen.state),
            digest: Some(seen.digest.parse().unwrap()),
            snapshot: Some(SnapshotRef {
                name: SNAPSHOT.parse().unwrap(),
                time: snapshot.snaptime.unwrap(),
                parent: snapshot.parent.clone(),
            }),
            ..Preconditions::default()
        };
        let guest = GuestRef { vmid, kind: GuestKind::Qemu, name: seen.name, identity: seen.identity };
        let order = self.order(Params::SnapshotRollback(RollbackParams { start: false }), guest, pre);
        self.signed(&order)
    }

    /// An order that this host accepts.
    pub(crate) fn order(&self, params: Params, guest: GuestRef, pre: Preconditions) -> Order {
        let identity = self.identity();
        Order {
            params,
            host: HostRef {
                id: identity.host_id,
                key: identity.host_key.public().fingerprint(),
                generation: 1,
                cluster: None,
                name: "web1".parse().unwrap(),
            },
            guest: Some(guest),
            pre,
            plan: None,
            nonce: Nonce::from_bytes([1; 16]),
            nbf: now(),
            exp: now() + 600,
            after: None,
            policy: PolicyRef { version: 1, sha256: *identity.policy.hash() },
            min_signers: 1,
            reason: "test".parse().unwrap(),
            ticket: None,
        }
    }

    pub(crate) fn signed(&self, order: &Order) -> Envelope {
        let payload = order.encode();
        let sigs = vec![self.operator.sign(Namespace::Op, &payload)];
        Envelope::new(payload.into(), sigs)
    }

    pub(crate) async fn process(&self, name: &str, env: &[(&str, &str)]) -> Result<Process, String> {
        let config = self.dir.path().join("warden.toml").display().to_string();
        let args = ["serve", "--config", &config];
        let told = |error: scenarios::Trouble| error.to_string();
        let mut process = Process::start(name, &self.binary, &args, env, self.dir.path()).map_err(told)?;
        process.line_with("ready").await.map_err(told)?;
        Ok(process)
    }

    pub(crate) async fn ask(&self, request: &WardenRequest) -> Result<Framed, String> {
        let stream = UnixStream::connect(&self.config.socket).await.map_err(|error| error.to_string())?;
        let mut peer = Framed::from(stream);
        peer.send(request).await.map_err(|error| error.to_string())?;
        Ok(peer)
    }

    /// What the order's file says after the first call of a program of two: protection is taken away first, and
    /// put back when it does not get further; the second call is the rollback. (The other matrix has programs that
    /// are like this by themselves.) Before the point the first call was not made, after it it was.
    fn make_two_calls_of_it(&self, op: Sha256, side: Side) {
        let path = self.config.state_dir.join("orders").join(format!("{op}.json"));
        let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let guest = serde_json::json!({ "type": "qemu", "vmid": VMID });
        let set = |value: Option<&str>| {
            serde_json::json!({ "of": "config", "is": {
                "guest": guest, "options": { "protection": value }, "digest": null
            }})
        };
        let first = serde_json::json!({ "call": set(None), "undo": set(Some("1")), "guarded": true });
        file["program"]["actions"].as_array_mut().unwrap().insert(0, first);
        authz::files::write_atomic(&path, &serde_json::to_vec(&file).unwrap()).unwrap();
        if side == Side::After {
            self.world(|world| {
                world.guests.get_mut(&VMID).unwrap().config.remove("protection");
            });
        }
    }

    /// Makes the simulator say what is to be so. Gives the task that still runs.
    fn tell(&self, point: &str, side: Side, truth: Truth, untouched: &World) -> Option<String> {
        let now = self.sim.now();
        let world = self.sim.world();
        let mut world = world.lock().unwrap();
        let upid = if was_sent(point, side) {
            Some(world.tasks.all.last().unwrap().upid.to_string())
        } else if truth == Truth::NotStarted || disk(point, side) == Disk::Between {
            None
        } else {
            // The call had left when the warden died, or somebody else with the token was quicker.
            let job = Job::Rollback { name: SNAPSHOT.into(), start: false };
            let upid = world.begin(now, &AuthId::parse(ACT), SimKind::Qemu, VMID, job);
            world.afflict(&upid, &Mishap::TaskEndless {});
            Some(upid)
        };
        let upid = upid?;
        let task = world.tasks.all.iter_mut().find(|task| task.upid.to_string() == upid).unwrap();
        match truth {
            Truth::NotStarted => {
                world.tasks.lose(&upid);
                world.guests = untouched.guests.clone();
                return None;
            }
            Truth::Running => {
                task.ended = None;
                task.due = Duration::MAX;
                return Some(upid);
            }
            Truth::Ok => task.due = now.mono,
            Truth::Failed => {
                task.due = now.mono;
                let fault = Fault::Fail { text: "disk full".into(), leave_lock: false };
                task.fate = Some(Injection { task: task.upid.kind.clone(), fault });
            }
        }
        world.settle(now);
        None
    }

    /// Waits for the order's end in the log. A task that runs does so until the warden was seen to ask for it.
    async fn end_of(&self, op: Sha256, running: Option<&str>) -> Result<(End, String), String> {
        let deadline = Instant::now() + DEADLINE;
        let asked = self.sim.requests().len();
        loop {
            if let Some(upid) = running
                && self.sim.requests()[asked.min(self.sim.requests().len())..]
                    .iter()
                    .any(|line| line.path.ends_with("/status") && line.path.contains("UPID"))
            {
                let now = Now { mono: self.sim.now().mono, ..self.sim.now() };
                self.world(|world| {
                    let task = world.tasks.all.iter_mut().find(|task| task.upid.to_string() == upid);
                    if let Some(task) = task.filter(|task| task.ended.is_none()) {
                        task.due = now.mono;
                    }
                    world.settle(now);
                });
            }
            let (ended, committed) = self.log_says(&op).await?;
            let open = self.config.state_dir.join("orders").join(format!("{op}.json")).exists();
            if let (Some(outcome), false) = (&ended, open) {
                return Ok((word(outcome)?, outcome.to_string()));
            }
            if ended.is_none() && !committed && !open {
                return Ok((End::Free, String::new()));
            }
            if Instant::now() > deadline {
                return Err(format!("no end: {ended:?}, open: {open}"));
            }
            sleep(Duration::from_millis(15)).await;
        }
    }

    /// The one end that the log tells of this order, and whether it says that it was committed, once.
    pub(crate) async fn log_says(&self, op: &Sha256) -> Result<(Option<Outcome>, bool), String> {
        let mut peer = self.ask(&WardenRequest::Receipts { first: 0, max: 64 }).await?;
        let answer: Option<WardenAnswer> = peer.receive().await.map_err(|error| error.to_string())?;
        let Some(WardenAnswer::Receipts { receipts, .. }) = answer else { return Err(format!("{answer:?}")) };
        let identity = self.identity();
        let (mut ends, mut committed) = (Vec::new(), 0);
        for signed in receipts {
            let read = Receipt::verify(&signed, &identity.host_id, &identity.host_key.public());
            match read.map_err(|error| error.to_string())?.event {
                Event::Order { op: of, outcome, .. } if of == *op => ends.push(outcome),
                Event::OrderCommitted { op: of, .. } if of == *op => committed += 1,
                _ => {}
            }
        }
        if ends.len() > 1 || committed > 1 || (ends.len() == 1 && committed == 0) {
            return Err(format!("the log says committed {committed} times, and these ends: {ends:?}"));
        }
        Ok((ends.pop(), committed == 1))
    }

    /// Rollbacks that the warden asked for.
    fn rollbacks(&self, since: usize) -> usize {
        let requests = self.sim.requests();
        requests[since..]
            .iter()
            .filter(|line| line.method == "POST" && line.path.ends_with("/rollback"))
            .count()
    }

    /// What becomes of an order.
    pub(crate) async fn submit(&self, envelope: &Envelope) -> Result<String, String> {
        let mut peer = self.ask(&WardenRequest::Order { envelope: envelope.clone() }).await?;
        let answer = loop {
            match peer.receive().await.map_err(|error| error.to_string())? {
                Some(WardenAnswer::Progress(_)) => {}
                Some(WardenAnswer::Receipt(signed)) => break signed,
                other => return Err(format!("{other:?}")),
            }
        };
        let identity = self.identity();
        let receipt = Receipt::verify(&answer, &identity.host_id, &identity.host_key.public()).unwrap();
        Ok(receipt.order_outcome().unwrap().1.to_string())
    }

    /// The same order again: refused as a replay when it was accepted, judged anew when it was not.
    async fn replayed(&self, envelope: &Envelope, end: End, since: usize) -> Result<(), String> {
        let before = self.rollbacks(since);
        let outcome = self.submit(envelope).await?;
        let replay = outcome.contains("replay");
        let more = self.rollbacks(since) - before;
        match (end, replay, more) {
            (End::Free, false, 0 | 1) => Ok(()),
            (End::Free, ..) => Err(format!("the nonce was not burned, and yet: {outcome}")),
            (_, true, 0) => Ok(()),
            _ => Err(format!("accepted again: {outcome}, {more} rollbacks")),
        }
    }
}

fn word(outcome: &Outcome) -> Result<End, String> {
    let text = outcome.to_string();
    Ok(match outcome {
        Outcome::Done { upid: Some(_), .. } => End::Done,
        _ if text.contains("put right: protection is 1") && !outcome.is_success() => End::PutRight,
        Outcome::Aborted { .. } => End::Aborted,
        Outcome::Failed { why, .. } if why.as_str().contains("disk full") => End::Failed,
        Outcome::Unknown { .. } => End::Unknown,
        _ => return Err(text),
    })
}

fn policy(operator: &SecretKey) -> PolicyDocument {
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
        rules: [Kind::SnapshotRollback, Kind::GuestDestroy]
            .map(|kind| Rule {
                kind,
                role: "ops".parse().unwrap(),
                also: vec![],
                threshold: 1,
                standing: kind == Kind::SnapshotRollback,
                max_validity_s: 3600,
            })
            .into(),
        bounds: Bounds {
            guests: vec![],
            start: false,
            tags: false,
            snapshots: false,
            max_snapshots_per_guest: 1,
            max_pool_used_percent: 80,
            max_changes_per_hour: 1,
            ..Bounds::default()
        },
        revoked: vec![],
    }
}
