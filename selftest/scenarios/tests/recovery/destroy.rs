//! A program of two calls by itself: `guest.destroy` takes the protection away by compare-and-set and deletes. The
//! real warden is killed around each durable point of both calls; never is a guest deleted twice, and what the
//! receipt says is so.

use std::time::Duration;

use authz::Outcome;
use authz::Params;
use authz::order::{DestroyParams, Order, Preconditions};
use authz::plan::Plan;
use protocol::ask::{Question, Reply};
use protocol::local::{WardenAnswer, WardenRequest};
use protocol::report::Known;
use protocol::{Envelope, GuestKind, GuestRef, Sha256, SnapshotRef, Vmid};
use pve_sim::world::{Fault, FaultRule, Injection, Mishap, World};
use scenarios::bins::Bins;
use scenarios::process::DEADLINE;
use serde_json::json;
use tokio::time::{Instant, sleep};
use warden::world::{Extent, observe_all};

use crate::cell::{Cell, LATER_S, VMID};
use crate::table::Truth;

/// Where it is killed, and what Proxmox got until then.
pub(crate) const PLACES: [(&str, Got); 19] = [
    ("before-starting:1", Got::Nothing),
    ("starting:1", Got::Nothing),
    ("before-called:1", Got::Nothing),
    ("called:1", Got::Unprotected),
    ("before-between:1", Got::Unprotected),
    ("between:1", Got::Unprotected),
    ("before-starting:2", Got::Unprotected),
    ("starting:2", Got::Unprotected),
    ("before-called:2", Got::Unprotected),
    ("called:2", Got::Task { named: false }),
    ("before-running:1", Got::Task { named: false }),
    ("running:1", Got::Task { named: true }),
    ("before-judged:1", Got::Over),
    ("judged:1", Got::Ended),
    ("before-finished:1", Got::Ended),
    ("finished:1", Got::Told),
    ("before-forgotten:1", Got::Told),
    ("forgotten:1", Got::Told),
    ("nowhere", Got::Told),
];

/// What Proxmox got before the warden died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// No call.
    Nothing,
    /// The change of `protection`.
    Unprotected,
    /// Both calls; whether the task's name was written down.
    Task {
        /// It was.
        named: bool,
    },
    /// Both calls, and the task has ended.
    Over,
    /// The same, and what had to be put right is put right; the log does not say so.
    Ended,
    /// Both calls, and the log says how it ended.
    Told,
}

/// What Proxmox can say then: of a call that was not made nothing but that.
pub(crate) fn truths(got: Got) -> &'static [Truth] {
    match got {
        Got::Nothing | Got::Unprotected => &[Truth::NotStarted],
        Got::Task { .. } => &Truth::ALL,
        Got::Over | Got::Ended | Got::Told => &[Truth::Ok, Truth::Failed],
    }
}

/// Runs one and says how the order ended, or what is not as it must be.
pub(crate) async fn run(bins: &Bins, place: &str, got: Got, truth: Truth) -> Result<String, String> {
    let cell = Cell::start(bins).await;
    cell.world(|world| {
        let guest = world.guests.get_mut(&VMID).unwrap();
        guest.config.insert("protection".into(), json!(1));
        guest.running = None;
    });
    let untouched = cell.world(|world| world.clone());
    let mishap = match (got, truth) {
        (_, Truth::Failed) => Some(Mishap::TaskFail { text: "disk full".into(), leave_lock: false }),
        (Got::Task { .. }, _) => Some(Mishap::TaskEndless {}),
        _ => None,
    };
    if let Some(mishap) = mishap {
        cell.sim.fault(FaultRule::new(mishap).method("DELETE")).unwrap();
    }
    if place == "nowhere" {
        let whole = cell.process("whole", &[]).await?;
        let envelope = planned(&cell).await?;
        let since = cell.sim.requests().len();
        let outcome = cell.submit(&envelope).await?;
        whole.stop().await;
        cell.so(&envelope, &outcome, truth, since).await?;
        return Ok(outcome);
    }
    let mut held = cell.process("held", &[("WRIT_WARDEN_HOLD_AT", place)]).await?;
    let envelope = planned(&cell).await?;
    let since = cell.sim.requests().len();
    let asked = cell.ask(&WardenRequest::Order { envelope: envelope.clone() }).await?;
    let name = place.split(':').next().unwrap();
    let holding = held.line_with(&format!("holding at {name}")).await;
    holding.map_err(|error| error.to_string())?;
    held.kill().await;
    drop(asked);
    let deleted = usize::from(!matches!(got, Got::Nothing | Got::Unprotected));
    let changes = match (got, truth) {
        (Got::Nothing, _) => 0,
        // It was put right.
        (Got::Ended | Got::Told, Truth::Failed) => 2,
        _ => 1,
    };
    let sent = (cell.count("PUT", since), cell.count("DELETE", since));
    if sent != (changes, deleted) {
        return Err(format!("{sent:?} changes and deletions were sent before the crash"));
    }
    if deleted == 1 {
        cell.tell_of_the_end(truth, &untouched);
    }
    cell.sim.set_clock(cell.sim.now().unix + LATER_S);
    let again = cell.process("again", &[]).await?;
    let outcome = cell.end(envelope.id(), truth).await?;
    cell.so(&envelope, &outcome.to_string(), truth, since).await?;
    let fits = match (got, truth, &outcome) {
        (Got::Nothing | Got::Unprotected, _, Outcome::Aborted { .. } | Outcome::Failed { .. }) => true,
        (Got::Task { named: false }, Truth::NotStarted, Outcome::Aborted { .. } | Outcome::Failed { .. }) => {
            true
        }
        // What was named and is gone cannot have been "not accepted".
        (Got::Task { named: true }, Truth::NotStarted, Outcome::Unknown { .. }) => true,
        (_, Truth::Ok | Truth::Running, Outcome::Done { .. }) => deleted == 1,
        (_, Truth::Failed, Outcome::Failed { why, .. }) => why.as_str().contains("disk full"),
        _ => false,
    };
    let replay = cell.submit(&envelope).await?;
    if !fits || !replay.contains("replay") || cell.count("DELETE", since) != deleted {
        return Err(format!("{outcome}; again: {replay}; {} DELETE", cell.count("DELETE", since)));
    }
    again.stop().await;
    Ok(outcome.to_string())
}

/// Bound to a plan of the warden that runs now; the next one will not know it.
async fn planned(cell: &Cell) -> Result<Envelope, String> {
    let vmid = Vmid::try_from(VMID).unwrap();
    let extent = Extent { volumes: true, ha: true, replication: true };
    let seen = observe_all(&cell.client, GuestKind::Qemu, vmid, extent).await.unwrap();
    fn known<T>(value: Known<T>) -> T {
        match value {
            Known::Known(value) => value,
            Known::Unknown(why) => panic!("{why}"),
        }
    }
    let snapshots = seen.snapshots.iter().map(|snapshot| SnapshotRef {
        name: snapshot.name.parse().unwrap(),
        time: snapshot.snaptime.unwrap(),
        parent: snapshot.parent.clone(),
    });
    let pre = Preconditions {
        state: Some(seen.state),
        digest: Some(seen.digest.parse().unwrap()),
        volumes: Some(known(seen.volumes)),
        snapshots: Some(snapshots.collect()),
        protection: Some(seen.protection),
        ha: Some(known(seen.ha)),
        replication: Some(known(seen.replication)),
        ..Preconditions::default()
    };
    let guest = GuestRef { vmid, kind: GuestKind::Qemu, name: seen.name, identity: seen.identity };
    let params = DestroyParams { purge: false, destroy_unreferenced: false };
    let draft = cell.order(Params::GuestDestroy(params), guest, pre);
    let question = Question::Plan { draft: draft.encode().into() };
    let mut peer = cell.ask(&WardenRequest::Ask { question }).await?;
    match peer.receive().await.map_err(|error| error.to_string())? {
        Some(WardenAnswer::Answered { reply: Reply::Plan { plan } }) => {
            let identity = cell.identity();
            let (_, named) = Plan::verify(&plan, &identity.host_id, &identity.host_key.public(), &draft)
                .map_err(|error| error.to_string())?;
            Ok(cell.signed(&Order { plan: Some(named), ..draft }))
        }
        other => Err(format!("{other:?}")),
    }
}

impl Cell {
    fn count(&self, method: &str, since: usize) -> usize {
        self.sim.requests()[since..].iter().filter(|line| line.method == method).count()
    }

    /// Makes the simulator say what became of the last task.
    fn tell_of_the_end(&self, truth: Truth, untouched: &World) {
        let now = self.sim.now();
        self.world(|world| {
            let upid = world.tasks.all.last().unwrap().upid.to_string();
            let task = world.tasks.all.last_mut().unwrap();
            match truth {
                Truth::NotStarted => {
                    world.tasks.lose(&upid);
                    // The change before it was made all the same.
                    world.guests = untouched.guests.clone();
                    world.guests.get_mut(&VMID).unwrap().config.remove("protection");
                    return;
                }
                Truth::Running => {
                    task.ended = None;
                    task.due = Duration::MAX;
                    return;
                }
                Truth::Ok => task.due = now.mono,
                Truth::Failed => {
                    task.due = now.mono;
                    let fault = Fault::Fail { text: "disk full".into(), leave_lock: false };
                    task.fate = Some(Injection { task: task.upid.kind.clone(), fault });
                }
            }
            world.settle(now);
        });
    }

    /// Waits for the end in the log; a task that runs ends once the warden was seen to ask for it.
    async fn end(&self, op: Sha256, truth: Truth) -> Result<Outcome, String> {
        let deadline = Instant::now() + DEADLINE;
        let asked = self.sim.requests().len();
        loop {
            let follows =
                |line: &pve_sim::RequestLine| line.path.ends_with("/status") && line.path.contains("UPID");
            if truth == Truth::Running && self.sim.requests()[asked..].iter().any(follows) {
                let now = self.sim.now();
                self.world(|world| {
                    if let Some(task) = world.tasks.all.iter_mut().find(|task| task.ended.is_none()) {
                        task.due = now.mono;
                    }
                    world.settle(now);
                });
            }
            let open = self.config.state_dir.join("orders").join(format!("{op}.json")).exists();
            if let (Some(outcome), false) = (self.log_says(&op).await?.0, open) {
                return Ok(outcome);
            }
            if Instant::now() > deadline {
                return Err("no end".to_owned());
            }
            sleep(Duration::from_millis(15)).await;
        }
    }

    /// Whether the world is as the outcome says, and nothing was deleted twice.
    async fn so(&self, envelope: &Envelope, outcome: &str, truth: Truth, since: usize) -> Result<(), String> {
        let now = self.sim.now();
        let guest = self.world(|world| {
            world.settle(now);
            world.guests.get(&VMID).map(|guest| guest.config.get("protection").cloned())
        });
        let deletes = self.count("DELETE", since);
        let good = match (&guest, outcome) {
            (None, text) => text.starts_with("done"),
            (Some(_), text) if text.starts_with("unknown") => truth == Truth::NotStarted,
            // Whatever was not done: the guest is there, and protected as before.
            (Some(protection), text) => !text.starts_with("done") && *protection == Some(json!(1)),
        };
        if good && deletes <= 1 {
            return Ok(());
        }
        Err(format!("{:?}: {outcome}; guest {guest:?}, {deletes} DELETE", envelope.id()))
    }
}
