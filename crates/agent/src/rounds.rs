//! Reports and reconcile rounds. One flow and no way back: collect, plan, hand each step to the
//! warden, collect and plan again until nothing is left that has not been tried. Reports go on
//! while a step takes its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use authz::{Event, Receipt};
use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use protocol::local::WardenRequest;
use protocol::plan::{Plan, Step};
use protocol::report::{HostReport, Known};
use protocol::{Signed, Vmid};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::collect::Collector;
use crate::orders::InFlight;
use crate::sentence;
use crate::session::Note;
use crate::state::Desired;
use crate::warden::{Warden, WardenError};

/// Most plans in one round: tags, start and some snapshots; the rest waits for the next round.
const PLANS_PER_ROUND: usize = 16;

/// Steps that did not work since the last tick of the interval: they are not tried again before
/// the next one, and the operator sees why. Pure.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Attempts {
    generation: u64,
    failed: BTreeMap<StepKey, String>,
}

/// A step without the digest that it was based on: a reading that changed is no new attempt.
type StepKey = (Option<Vmid>, &'static str, String);

fn key(step: &Step) -> StepKey {
    let detail = match step {
        Step::SnapshotCreate { snapshot, .. } => snapshot.to_string(),
        Step::Grow { disk, .. } => disk.to_string(),
        Step::Backup { storage, .. } => storage.to_string(),
        Step::TemplateDownload { storage, template, .. } => format!("{storage}:{template}"),
        // Two fields can share a kind.
        Step::Start { .. }
        | Step::SetTags { .. }
        | Step::SetCores { .. }
        | Step::SetMemory { .. }
        | Step::SetOnboot { .. }
        | Step::SetDescription { .. }
        | Step::CreateFromTemplate(_) => step.field().to_string(),
    };
    (step.vmid(), step.kind(), detail)
}

impl Attempts {
    /// A new interval, or another generation: everything may be tried again.
    pub fn renew(&mut self, generation: u64) {
        *self = Self { generation, failed: BTreeMap::new() };
    }

    /// The plan's steps that may be tried now.
    pub fn admit(&mut self, plan: &Plan) -> Vec<Step> {
        if plan.generation != self.generation {
            self.renew(plan.generation);
        }
        plan.steps.iter().filter(|step| !self.failed.contains_key(&key(step))).cloned().collect()
    }

    /// A step did not work.
    pub fn fail(&mut self, step: &Step, why: &str) {
        self.failed.insert(key(step), format!("{step}: {why}"));
    }

    /// What went wrong, for the operator.
    pub fn problem(&self) -> Option<String> {
        if self.failed.is_empty() {
            return None;
        }
        let all: Vec<&str> = self.failed.values().map(String::as_str).collect();
        Some(all.join("; "))
    }
}

/// Plans from a report.
pub fn plan_for(desired: &Desired, report: &HostReport, in_flight: &InFlight) -> Plan {
    let wanted = Some((desired.generation, &desired.state));
    match &report.guests {
        Known::Known(guests) => reconcile::plan(wanted, guests, &in_flight.guests()),
        Known::Unknown(why) => reconcile::plan_unread(wanted, why),
    }
}

/// How a step ended, from its receipt: `Err` says why it did not work.
pub fn step_outcome(receipt: &Signed) -> Result<(), String> {
    match serde_json::from_slice::<Receipt>(&receipt.payload.0) {
        Ok(Receipt { event: Event::Step { outcome, .. }, .. }) if outcome.is_success() => Ok(()),
        Ok(Receipt { event: Event::Step { outcome, .. }, .. }) => Err(outcome.to_string()),
        // The log has it, but it is no end.
        Ok(Receipt { event: Event::StepStarted { .. }, .. }) => Err(
            "the warden's receipt says that the step began, and not how it ended: its log says what is known"
                .to_owned(),
        ),
        Ok(Receipt {
            event:
                Event::Enrolled { .. }
                | Event::PolicyAdvanced { .. }
                | Event::Revoked { .. }
                | Event::OrderCommitted { .. }
                | Event::SessionReady { .. }
                | Event::Order { .. },
            ..
        })
        | Err(_) => {
            Err("the warden's receipt is not about a step: are agent and warden of the same version?"
                .to_owned())
        }
    }
}

/// What is told of a step without a receipt.
fn step_trouble(error: &WardenError) -> String {
    let what = sentence(error);
    match error {
        // It says all of it already.
        WardenError::Unknown { .. } => what,
        _ if error.nothing_happened() => what,
        _ => format!("{what}. It is not known whether the step was carried out; the next report shows it"),
    }
}

/// The reconciler.
pub struct Reconciler {
    /// Reads the world.
    pub collector: Collector,
    /// Changes it.
    pub warden: Warden,
    /// Between rounds.
    pub interval: Duration,
    /// What is wanted.
    pub desired: watch::Receiver<Option<Arc<Desired>>>,
    /// Wakes it out of turn.
    pub kick: Arc<Notify>,
    /// To the channel.
    pub notes: mpsc::Sender<Note>,
    /// Guests to leave alone.
    pub in_flight: Arc<InFlight>,
}

impl Reconciler {
    /// Runs rounds for ever.
    pub async fn run(mut self) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempts = Attempts::default();
        // The sender lives as long as the agent; without one only the interval is left.
        let mut watching = true;
        loop {
            tokio::select! {
                _ = ticks.tick() => attempts.renew(attempts.generation),
                () = self.kick.notified() => {}
                changed = self.desired.changed(), if watching => watching = changed.is_ok(),
            }
            self.round(&mut ticks, &mut attempts).await;
        }
    }

    async fn note(&self, note: Note) {
        // Only fails when the agent is stopping.
        let _ = self.notes.send(note).await;
    }

    async fn report(&self) -> HostReport {
        let report = self.collector.collect().await;
        self.note(Note::Report(Box::new(report.clone()))).await;
        report
    }

    async fn round(&mut self, ticks: &mut Interval, attempts: &mut Attempts) {
        let mut report = self.report().await;
        for turn in 1..=PLANS_PER_ROUND {
            let Some(desired) = self.desired.borrow_and_update().clone() else {
                return;
            };
            let plan = plan_for(&desired, &report, &self.in_flight);
            let steps = attempts.admit(&plan);
            self.note(Note::Plan { plan, problem: attempts.problem() }).await;
            if steps.is_empty() || turn == PLANS_PER_ROUND {
                return;
            }
            for step in &steps {
                if let Err(why) = self.step(ticks, step, desired.generation).await {
                    tracing::warn!(%step, why, "step failed");
                    attempts.fail(step, &why);
                }
                self.note(Note::LogGrew).await;
            }
            report = self.report().await;
        }
    }

    /// One step, with reports going on meanwhile.
    async fn step(&self, ticks: &mut Interval, step: &Step, generation: u64) -> Result<(), String> {
        tracing::info!(%step, generation, "step handed to the warden");
        let request = WardenRequest::Step { step: step.clone(), generation };
        let mut performing = std::pin::pin!(async { self.warden.perform(&request).await?.receipt().await });
        // Beside the step, never instead of it: the step's answer is taken as soon as it comes.
        let mut reporting = std::pin::pin!(Fuse::terminated());
        loop {
            tokio::select! {
                ended = &mut performing => {
                    let receipt = ended.map_err(|error: WardenError| step_trouble(&error))?;
                    return step_outcome(&receipt);
                }
                _ = &mut reporting => {}
                _ = ticks.tick(), if reporting.is_terminated() => reporting.set(self.report().fuse()),
                () = self.kick.notified(), if reporting.is_terminated() => reporting.set(self.report().fuse()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use authz::{Outcome, RefusalCode, SecretKey};
    use protocol::guest::{GuestIdentity, GuestRef};
    use protocol::{GuestKind, HostId, Sha256};

    fn guest(number: u32) -> GuestRef {
        GuestRef {
            vmid: number.try_into().unwrap(),
            kind: GuestKind::Qemu,
            name: "web".to_owned(),
            identity: GuestIdentity::default(),
        }
    }

    fn tag(digest: &str) -> Step {
        Step::SetTags { guest: guest(100), digest: digest.to_owned(), tags: vec![] }
    }

    fn plan(generation: u64, steps: &[Step]) -> Plan {
        Plan { generation, steps: steps.to_vec(), waiting: vec![] }
    }

    #[test]
    fn what_failed_is_tried_once_an_interval() {
        let mut attempts = Attempts::default();
        let snapshot =
            |name: &str| Step::SnapshotCreate { guest: guest(100), snapshot: name.parse().unwrap() };
        let all = plan(3, &[tag("d1"), snapshot("s1"), snapshot("s2")]);
        assert_eq!(attempts.admit(&all), all.steps);
        assert_eq!(attempts.problem(), None);
        attempts.fail(&tag("d1"), "refused (rate): too many");
        attempts.fail(&snapshot("s1"), "no room");
        assert_eq!(attempts.admit(&plan(3, &[tag("d2"), snapshot("s1"), snapshot("s2")])), [snapshot("s2")]);
        let problem = attempts.problem().unwrap();
        assert!(
            problem.contains("too many") && problem.contains("no room") && problem.contains("(web)"),
            "{problem}"
        );
        attempts.renew(3);
        assert_eq!(attempts.admit(&all), all.steps);
        attempts.fail(&tag("d1"), "x");
        assert_eq!(attempts.admit(&plan(4, &[tag("d1")])), [tag("d1")], "another generation");
        assert_eq!(attempts.problem(), None);
    }

    #[test]
    fn only_a_receipt_of_success_is_success() {
        let sign = |event: Event| {
            Receipt {
                v: 1,
                host: HostId::from_bytes([1; 16]),
                host_key_gen: 1,
                boot_id: "b".into(),
                time: 1,
                entry: None,
                event,
            }
            .sign(&SecretKey::from_seed(&[1; 32]))
        };
        let step = |outcome| {
            sign(Event::Step {
                generation: 1,
                kind: "guest.start".into(),
                vmid: Some(100.try_into().unwrap()),
                what: "start".parse().unwrap(),
                outcome,
            })
        };
        let seen = || "running".parse().unwrap();
        assert_eq!(step_outcome(&step(Outcome::Done { upid: None, seen: seen() })), Ok(()));
        for (outcome, says) in [
            (Outcome::Refused { code: RefusalCode::Busy, why: "busy".parse().unwrap() }, "busy"),
            (Outcome::Failed { upid: None, why: "no disk".parse().unwrap() }, "no disk"),
            (Outcome::Unknown { upid: None, why: "lost".parse().unwrap() }, "lost"),
            (Outcome::Aborted { why: "not sent".parse().unwrap() }, "not sent"),
        ] {
            assert!(step_outcome(&step(outcome)).unwrap_err().contains(says));
        }
        let began = sign(Event::StepStarted {
            generation: 1,
            kind: "guest.start".into(),
            vmid: Some(100.try_into().unwrap()),
            what: "start".parse().unwrap(),
            effect: None,
        });
        assert!(step_outcome(&began).unwrap_err().contains("not how it ended"), "a beginning is no success");
        let other = sign(Event::Enrolled {
            policy: Sha256::of(b"p"),
            policy_version: 1,
            device_key: SecretKey::from_seed(&[2; 32]).public().fingerprint(),
        });
        assert!(step_outcome(&other).is_err());
        assert!(step_outcome(&Signed { payload: b"{}".to_vec().into(), sig: String::new() }).is_err());
    }

    #[test]
    fn a_step_whose_end_is_lost_is_never_called_undone() {
        let path = || "/w.sock".into();
        for lost in [
            WardenError::Unknown { why: "the disk is full".into() },
            WardenError::Closed { path: path(), reason: "end of data".into() },
            WardenError::Timeout { path: path(), seconds: 5 },
            WardenError::Unexpected { path: path() },
        ] {
            let said = step_trouble(&lost);
            assert!(said.contains("not known") && !said.contains("not carried out"), "{said}");
        }
        let refused = step_trouble(&WardenError::Refused { code: "closed".into(), why: "no".into() });
        assert!(!refused.contains("not known"), "{refused}");
    }
}
