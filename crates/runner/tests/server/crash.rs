//! `kill -9` at every durable point of a script. The runner is held there (`runner::hold`), killed and
//! started again; then what it says, what ran, and what the same order means afterwards must fit.

use protocol::Sha256;
use protocol::job::JobEnd;
use protocol::runner::{RunnerAnswer, RunnerRequest};

use crate::rig::{Process, Rig, Wishes, alive, all, code, until};

struct Crashed {
    rig: Rig,
    op: Sha256,
    ask: RunnerRequest,
    _process: Process,
}

impl Crashed {
    /// A script that counts its runs and then does `then`, killed at a point together with its runner.
    async fn at(point: &str, then: &str, runs_before: usize) -> Self {
        let (rig, process) = Rig::anchored().await;
        drop(process);
        let mut held = rig.start(&Wishes::default(), point).await;
        let script = rig.counting(&format!("echo $$ > {:?}\n{then}", rig.path("pid")));
        let (op, ask) = rig.script(&script);
        let _asked = rig.send(&ask).await;
        held.says(&format!("holding at {point}"), 1).await;
        until("the script's runs", || (rig.runs() == runs_before).then_some(())).await;
        held.kill();
        let _process = rig.again().await;
        Self { rig, op, ask, _process }
    }

    /// Nothing else is ever said of it, and it never runs again.
    async fn settled(&self, answer: &RunnerAnswer, runs: usize) {
        assert_eq!(code(&self.rig.ask(&self.ask).await), "replay");
        assert_eq!(self.rig.outcome(self.op).await, *answer);
        assert_eq!(self.rig.runs(), runs);
    }
}

#[tokio::test]
async fn before_the_nonce_is_burned_nothing_was_accepted() {
    for point in ["verified", "accepted"] {
        let crashed = Crashed::at(point, "exit 0", 0).await;
        let answers = all(&mut crashed.rig.send(&crashed.ask).await).await;
        let ended = answers.last().unwrap();
        assert_eq!(crashed.rig.result(ended).end, JobEnd::Exited { code: 0 }, "{point}: it may come again");
        crashed.settled(ended, 1).await;

        let crashed = Crashed::at(point, "exit 0", 0).await;
        assert_eq!(crashed.rig.outcome(crashed.op).await, RunnerAnswer::NotKnown {}, "{point}");
        crashed.settled(&RunnerAnswer::NotKnown {}, 0).await;
    }
}

#[tokio::test]
async fn a_burned_nonce_without_a_start_is_an_order_that_never_ran() {
    let crashed = Crashed::at("committed", "exit 0", 0).await;
    let answer = crashed.rig.outcome(crashed.op).await;
    assert!(matches!(answer, RunnerAnswer::NotStarted { .. }), "{answer:?}");
    crashed.settled(&answer, 0).await;
}

/// Nobody can know any more whether it ran, so nobody says that it did not.
#[tokio::test]
async fn a_start_that_was_not_seen_is_unknown() {
    let crashed = Crashed::at("starting", "exit 0", 0).await;
    let answer = crashed.rig.outcome(crashed.op).await;
    assert!(
        matches!(&answer, RunnerAnswer::Unknown { why } if why.contains("if the script ran")),
        "{answer:?}"
    );
    crashed.settled(&answer, 0).await;
}

#[tokio::test]
async fn a_script_that_was_cut_off_is_unknown_and_leaves_nothing() {
    let crashed = Crashed::at("started", "sleep 1000", 1).await;
    let pid = std::fs::read_to_string(crashed.rig.path("pid")).unwrap();
    assert!(!alive(&pid), "the next start saw to it");
    let answer = crashed.rig.outcome(crashed.op).await;
    assert!(
        matches!(&answer, RunnerAnswer::Unknown { why } if why.contains("while the script ran")),
        "{answer:?}"
    );
    crashed.settled(&answer, 1).await;
}

#[tokio::test]
async fn an_end_that_was_not_written_down_is_unknown() {
    let crashed = Crashed::at("ended", "exit 0", 1).await;
    let answer = crashed.rig.outcome(crashed.op).await;
    assert!(matches!(answer, RunnerAnswer::Unknown { .. }), "{answer:?}");
    crashed.settled(&answer, 1).await;
}

#[tokio::test]
async fn an_end_that_was_written_down_is_told() {
    let crashed = Crashed::at("stored", "exit 3", 1).await;
    let answer = crashed.rig.outcome(crashed.op).await;
    assert_eq!(crashed.rig.result(&answer).end, JobEnd::Exited { code: 3 });
    crashed.settled(&answer, 1).await;
}

/// The runner **and** the supervisor are killed, as when a unit's cgroup is killed: what the script started
/// is found by what was written down.
#[tokio::test]
async fn orphans_of_both_are_found_again() {
    let (rig, process) = Rig::anchored().await;
    let pids = rig.path("pids");
    let (op, ask) = rig.script(
        &rig.counting(&format!("sleep 1000 & echo $$ $! > {pids:?}.new; mv {pids:?}.new {pids:?}; wait")),
    );
    let _asked = rig.send(&ask).await;
    let pids = until("the script", || std::fs::read_to_string(&pids).ok()).await;
    let state = rig.path(&format!("state/jobs/{op}.json"));
    let supervisor = until("its file", || {
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).ok()?).ok()?;
        i32::try_from(file["state"]["leftover"]["supervisor"]["pid"].as_i64()?).ok()
    })
    .await;
    // Stopped first, so that the supervisor cannot see its runner go.
    let supervisor = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::STOP).unwrap();
    process.kill();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    // The interpreter goes with its parent, the supervisor; what it started does not.
    assert!(pids.split_whitespace().next_back().is_some_and(alive), "otherwise this shows nothing");
    let _process = rig.again().await;
    assert!(!pids.split_whitespace().any(alive), "the next start saw to it");
    let answer = rig.outcome(op).await;
    assert!(matches!(&answer, RunnerAnswer::Unknown { why } if why.contains("were killed")), "{answer:?}");
    assert_eq!(rig.runs(), 1);
}
