//! An error at each call, and each answer lost. For every kind: a clean run tells which calls there are and
//! what the world looks like afterwards; then the same once more for each call and each way to fail. The
//! receipt must say what the simulator shows: done, untouched, or what was done of it.

use authz::Outcome;
use pve_sim::world::{FaultRule, Mishap};

use crate::kinds::{Row, rows};
use crate::rig::{Rig, differences, each, shape};

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// 500, and it was not carried out.
    Error,
    /// The connection is cut, and it was not carried out.
    Cut,
    /// Carried out, and its answer is lost.
    Lost,
    /// Carried out, and the answer is a gateway's.
    Gateway,
    /// The task that it starts fails.
    TaskFails,
    /// The task that it starts is killed and leaves its lock.
    TaskKilled,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Error, Self::Cut, Self::Lost, Self::Gateway, Self::TaskFails, Self::TaskKilled];

    fn mishap(self) -> Mishap {
        match self {
            Self::Error => Mishap::Error { text: "simulated error".into() },
            Self::Cut => Mishap::Reset { handled: false },
            Self::Lost => Mishap::Reset { handled: true },
            Self::Gateway => Mishap::Proxy { status: 596, reason: None, later_ms: 0 },
            Self::TaskFails => Mishap::TaskFail { text: "simulated failure".into(), leave_lock: false },
            Self::TaskKilled => Mishap::TaskKill {},
        }
    }

    /// Reads start no tasks, and are read again however they failed.
    fn is_for(self, method: &str) -> bool {
        method != "GET" || matches!(self, Self::Error | Self::Cut)
    }
}

async fn try_out(row: &Row) -> Vec<String> {
    let mut rig = Rig::start().await;
    rig.change(|world| (row.set_up)(world, rig.sim.now()));
    let saved = rig.save();
    let before = shape(&saved);

    let envelope = rig.envelope(row).await;
    let since = rig.sim.request_count();
    let outcome = rig.submit(&envelope).await;
    let calls: Vec<_> = rig.sim.requests()[since..].to_vec();
    let after = shape(&rig.save());
    let mut wrong = Vec::new();
    if !outcome.is_success() || before == after || rig.mutations(since).len() != row.calls {
        wrong.push(format!("{}: a clean run: {outcome}; {:?}", row.name, rig.mutations(since)));
    }

    let mut runs = 0;
    for (at, call) in calls.iter().enumerate() {
        for way in Way::ALL.into_iter().filter(|way| way.is_for(&call.method)) {
            rig.restore(&saved);
            // Plans are counted a minute, in memory only.
            if runs % 16 == 15 {
                assert!(rig.reopen().is_empty());
            }
            let envelope = rig.envelope(row).await;
            let since = rig.sim.request_count();
            let nth = u32::try_from(at + 1).unwrap();
            // A method makes it wait for a request even when it is the first.
            let rule = FaultRule::new(way.mishap()).nth(nth).contains("/api2");
            rig.sim.fault(rule).unwrap();
            let outcome = rig.submit(&envelope).await;
            runs += 1;
            let now = shape(&rig.save());
            let sent = rig.mutations(since);
            let so = says_so(&outcome, &before, &after, &now);
            let twice = sent_twice(&sent, row.calls);
            if let Some(why) = so.or(twice) {
                wrong.push(format!(
                    "{}: {way:?} at call {at} ({} {}): {why}\n  receipt: {outcome}\n  sent: {sent:?}\n  against before: {:?}\n  against done: {:?}",
                    row.name, call.method, call.path, differences(&before, &now), differences(&after, &now)
                ));
            }
            // The same order again changes nothing more.
            let again = rig.submit(&envelope).await;
            if rig.mutations(since).len() != sent.len() && !matches!(outcome, Outcome::Refused { .. }) {
                wrong.push(format!("{}: {way:?} at call {at}: carried out again: {again}", row.name));
            }
        }
    }
    rig.at_rest();
    println!("{:<34} {:>2} calls, {runs:>3} runs", row.name, calls.len());
    wrong
}

type Shape = std::collections::BTreeMap<String, String>;

/// What the receipt claims and the world does not show.
fn says_so(outcome: &Outcome, before: &Shape, after: &Shape, now: &Shape) -> Option<String> {
    let claim = |good: bool, what: &str| (!good).then(|| what.to_owned());
    match outcome {
        Outcome::Done { .. } | Outcome::Warnings { .. } => claim(now == after, "says done, and it is not"),
        Outcome::Refused { .. } | Outcome::Aborted { .. } => {
            claim(now == before, "says untouched, and it is not")
        }
        // Failed: untouched, or it says what is different.
        Outcome::Failed { why, .. } => claim(
            now == before || why.as_str().contains("now ") || why.as_str().contains("calls were made"),
            "says failed and not what is different",
        ),
        Outcome::Unknown { why, .. } => claim(!why.as_str().is_empty(), "says nothing"),
        Outcome::Ran { .. } => claim(false, "a script?"),
    }
}

/// No call is sent twice; what puts things right is a change of options, and nothing else.
fn sent_twice(sent: &[String], calls: usize) -> Option<String> {
    let mut once = sent.to_vec();
    once.sort();
    once.dedup();
    let rights = sent.len() - once.len();
    let only_options = sent.iter().filter(|line| line.starts_with("PUT ")).count() > rights;
    if sent.len() > calls + 1 || (sent.len() > calls && !only_options) || (rights > 0 && !only_options) {
        return Some(format!("{} calls were sent, of {calls}", sent.len()));
    }
    None
}

#[test]
fn an_error_at_each_call_and_each_answer_lost() {
    let wrong = each(&rows(), try_out);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
