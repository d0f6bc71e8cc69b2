//! A signed script, from request to forgotten result.
//!
//! Up to COMMITTED nothing has a side effect, and a refusal can be asked again. From there on the script
//! runs to its end whoever is still listening, once, and a crash at any point ends in a true answer or in
//! `unknown`, never in a second run.

use std::sync::Arc;
use std::time::Duration;

use authz::order::JobParams;
use authz::{Authorized, Kind, Order, RefusalCode};
use protocol::job::{JobEnd, JobResult, MAX_SEALED_RESULT};
use protocol::runner::RunnerAnswer;
use protocol::{Bytes, Ed25519Key, Envelope, Sha256};
use tokio::sync::mpsc;
use zeroize::{Zeroize as _, Zeroizing};

use crate::checks::{self, Answer as _, Denied};
use crate::engine::job::How;
use crate::engine::tree::Killed;
use crate::engine::user::Account;
use crate::engine::{self, Job, JobSpec, Script};
use crate::hold::{self, Point};
use crate::ledger::Stage;
use crate::places::{JobPlace, Settled};
use crate::runner::Runner;
use crate::{chain, now};

/// Who wants to know how far it is; nobody has to listen.
pub type Progress = mpsc::Sender<RunnerAnswer>;

/// What is said when we do not know ourselves.
pub(crate) const PANIC: &str =
    "the runner made a mistake; what became of the script is known after a restart";

/// Most scripts whose end the warden has not taken yet. It takes each at once, so more than a handful
/// means that it does not, and then disks should not fill.
const WAITING: usize = 64;

/// Verifies and runs. Spawned by the server, so it does not end with the connection.
pub async fn job(runner: Arc<Runner>, envelope: Envelope, script: Bytes, progress: Progress) -> RunnerAnswer {
    let op = envelope.id();
    // The script may hold secrets of the operator's; after its start nobody needs it here.
    let script = Zeroizing::new(script.0);
    let accepted = match accept(&runner, &envelope, &script, &progress).await {
        Ok(accepted) => accepted,
        Err(not_burned) => {
            tracing::info!(%op, ?not_burned, "script refused");
            return not_burned.answer();
        }
    };
    drop((envelope, script));
    let Accepted { spec, result_key, place } = accepted;
    let stage = execute(&runner, &op, spec, result_key, &progress).await;
    let answer = finish(&runner, &op, stage).await;
    place.end(answer.clone());
    answer
}

/// Why an order goes no further.
#[derive(Debug)]
pub(crate) enum NotBurned {
    /// Nothing was done, and its nonce is not burned by it.
    Denied(Denied),
    /// The disk failed at the nonce, so nobody knows. Nothing was started.
    Disk(String),
}

impl From<Denied> for NotBurned {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl NotBurned {
    fn answer(&self) -> RunnerAnswer {
        match self {
            Self::Denied(denied) => denied.clone().answer(),
            // "Refused" would say that the order can be used again.
            Self::Disk(why) => RunnerAnswer::NotStarted { why: why.clone() },
        }
    }
}

/// An order whose nonce is burned and whose script was not started.
struct Accepted {
    spec: JobSpec,
    result_key: Ed25519Key,
    place: JobPlace,
}

async fn accept(
    runner: &Arc<Runner>,
    envelope: &Envelope,
    script: &[u8],
    progress: &Progress,
) -> Result<Accepted, NotBurned> {
    let authorized = runner.with_ledger(|anchor, ledger| {
        checks::verify(envelope, anchor, ledger.floor(), Kind::JobRun, now())
    })??;
    let op = *authorized.op();
    let nonce = authorized.get().nonce;
    if let Some(why) = runner.with_ledger(|_, ledger| ledger.replayed(&nonce, &op))? {
        return Err(Denied::new(RefusalCode::Replay, why).into());
    }
    let params = checks::job(&authorized, script)?;
    let place = runner.places.job(op, runner.config.jobs_at_once)?;
    match accept_in(runner, &authorized, params, script, progress).await {
        Ok(spec) => Ok(Accepted { spec, result_key: params.result_key, place }),
        Err(not_burned) => {
            place.end(not_burned.answer());
            Err(not_burned)
        }
    }
}

/// What is left to check once the order has its place, and the point of no return.
async fn accept_in(
    runner: &Runner,
    authorized: &Authorized<Order>,
    params: &JobParams,
    script: &[u8],
    progress: &Progress,
) -> Result<JobSpec, NotBurned> {
    let op = *authorized.op();
    may_run_as(&params.user).await?;
    let closed = |error: &dyn std::error::Error| {
        Denied::new(RefusalCode::Closed, format!("{}; nothing was accepted", chain(error)))
    };
    let waiting = runner.with_ledger(|_, ledger| ledger.jobs().list())?.map_err(|error| closed(&error))?;
    if waiting.len() >= WAITING {
        let why = format!(
            "{} results wait for the warden to take them: see its log, and whether its disk is full",
            waiting.len()
        );
        return Err(Denied::new(RefusalCode::Busy, why).into());
    }
    let script = Script::seal(script).map_err(|error| {
        Denied::new(RefusalCode::Busy, format!("there is no memory for the script ({error}): try again"))
    })?;
    let spec = JobSpec {
        script,
        interpreter: params.interpreter.clone(),
        args: params.args.clone(),
        user: params.user.clone(),
        env: params.env.iter().map(|var| (var.name.clone(), var.value.clone())).collect(),
        timeout: Duration::from_secs(params.timeout_s.into()),
        max_output: params.max_output as usize,
    };
    hold::at(Point::Verified).await;
    // Also the test for a full disk, while refusing still costs nothing.
    runner
        .with_ledger(|_, ledger| ledger.jobs().write(&op, &Stage::Accepted {}))?
        .map_err(|error| closed(&error))?;
    hold::at(Point::Accepted).await;
    if let Err(not_burned) = burn(runner, authorized) {
        // A file that says ACCEPTED of an order that was not goes now or at the next start. After a failure
        // of the disk the ledger is closed, and the next start sees what is really there.
        let _ = runner.with_ledger(|_, ledger| ledger.jobs().remove(&op));
        return Err(not_burned);
    }
    let _ = progress.try_send(RunnerAnswer::Committed {});
    hold::at(Point::Committed).await;
    Ok(spec)
}

/// The point of no return for the nonce.
pub(crate) fn burn(runner: &Runner, authorized: &Authorized<Order>) -> Result<(), NotBurned> {
    match runner.burn(authorized) {
        Ok(()) => Ok(()),
        Err(anchored::NotBurned::Denied(denied)) => Err(denied.into()),
        Err(anchored::NotBurned::Disk(error)) => {
            runner.fail(&error);
            let why = format!("{}; nothing was started, and the order's nonce may be burned", chain(&error));
            Err(NotBurned::Disk(why))
        }
    }
}

/// Whether this runner can run things as that user. The database of users may be slow.
pub(crate) async fn may_run_as(user: &protocol::UserName) -> Result<(), Denied> {
    let name = user.clone();
    match tokio::task::spawn_blocking(move || Account::find(&name)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Denied::new(RefusalCode::User, error.to_string())),
        Err(error) => Err(Denied::new(RefusalCode::User, format!("{user} could not be looked up: {error}"))),
    }
}

/// STARTING, the start, STARTED, the end. Gives what is to be written down of it.
async fn execute(
    runner: &Arc<Runner>,
    op: &Sha256,
    spec: JobSpec,
    result_key: Ed25519Key,
    progress: &Progress,
) -> Stage {
    if let Some(why) = runner.stops() {
        return Stage::NotStarted { why };
    }
    if let Err(why) = write(runner, op, &Stage::Starting {}) {
        return Stage::NotStarted { why: format!("{why}; the script was not started") };
    }
    hold::at(Point::Starting).await;
    let job = match engine::job::start(&runner.engine, spec).await {
        Ok(job) => job,
        Err(error) if error.nothing_ran() => return Stage::NotStarted { why: chain(&error) },
        Err(error) => return Stage::Unknown { why: chain(&error) },
    };
    let started = Stage::Started { leftover: job.leftover().clone() };
    if let Err(why) = write(runner, op, &started) {
        // It ran, but a crash could not find it again.
        job.canceller().cancel();
        let shown = told(&job.wait().await, &why);
        tracing::info!(%op, end = shown, "script ended");
        return Stage::Unknown { why: format!("{why}; the script had begun and was ended") };
    }
    let _ = progress.try_send(RunnerAnswer::Started {});
    tracing::info!(%op, "script started");
    hold::at(Point::Started).await;
    let (end, cancelled) = wait(runner, job).await;
    hold::at(Point::Ended).await;
    let why = cancelled.unwrap_or_else(|| "somebody ended it from outside".into());
    let shown = told(&end, &why);
    tracing::info!(%op, end = shown, duration_ms = millis(end.duration), "script ended");
    end_of(op, end, &why, &result_key)
}

/// The script's own end, or ours, with the reason for that.
async fn wait(runner: &Arc<Runner>, job: Job) -> (engine::JobEnd, Option<String>) {
    let canceller = job.canceller();
    let ending = job.wait();
    tokio::pin!(ending);
    tokio::select! {
        end = &mut ending => (end, None),
        why = runner.stopping() => {
            canceller.cancel();
            (ending.await, Some(why))
        }
    }
}

/// What is to be written down of an end. How it ended is for the result's key alone: the words of an unknown end
/// go into a receipt.
fn end_of(op: &Sha256, end: engine::JobEnd, why: &str, to: &Ed25519Key) -> Stage {
    seal_end(op, end, why, to)
        .unwrap_or_else(|problem| Stage::Unknown { why: format!("the script ended, but {problem}") })
}

/// The result as it is kept; an error when there is none that would be the whole truth.
fn seal_end(op: &Sha256, end: engine::JobEnd, why: &str, to: &Ed25519Key) -> Result<Stage, String> {
    let duration_ms = millis(end.duration);
    if !end.survivors.is_empty() {
        return Err(format!(
            "process(es) {} of it could not be killed and still run: look at them; its output is dropped",
            numbers(&end.survivors)
        ));
    }
    let how = match end.how {
        How::Exited(code) => JobEnd::Exited { code },
        How::Signaled(signal) => JobEnd::Signaled { signal },
        How::TimedOut => JobEnd::TimedOut {},
        How::Cancelled => JobEnd::Cancelled { why: why.to_owned() },
        How::Lost(_) => return Err("how it ended was lost, and its output with it".into()),
    };
    let result = JobResult {
        v: 1,
        op: *op,
        end: how,
        stdout: end.stdout.into(),
        stderr: end.stderr.into(),
        truncated: end.truncated,
        duration_ms,
        leftovers_killed: end.leftovers_killed,
    };
    let sealed = seal(&result, to).map_err(|why| format!("its result could not be sealed: {why}"))?;
    Ok(Stage::Ended { sealed: sealed.into(), duration_ms })
}

fn seal(result: &JobResult, to: &Ed25519Key) -> Result<Vec<u8>, String> {
    let plain = Zeroizing::new(serde_json::to_vec(result).map_err(|error| error.to_string())?);
    let mut random = [0; sealed::Randomness::LEN];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let randomness = sealed::Randomness::from_bytes(&random);
    random.zeroize();
    let sealed = sealed::seal(to, &plain, randomness).map_err(|error| error.to_string())?;
    if sealed.len() > MAX_SEALED_RESULT {
        return Err(format!("it is longer than {MAX_SEALED_RESULT} bytes"));
    }
    Ok(sealed)
}

/// Writes the end down, and only then says it.
async fn finish(runner: &Runner, op: &Sha256, stage: Stage) -> RunnerAnswer {
    let answer = stage.answer().unwrap_or_else(|| RunnerAnswer::Unknown { why: PANIC.to_owned() });
    match (write(runner, op, &stage), stage) {
        (Ok(()), _) => {
            hold::at(Point::Stored).await;
            answer
        }
        // The next start says the same, from what is on the disk now.
        (Err(_), Stage::NotStarted { .. } | Stage::Unknown { .. }) => answer,
        (Err(why), _) => RunnerAnswer::Unknown {
            why: format!("the script ended, but its result could not be written down and is lost: {why}"),
        },
    }
}

/// Writes how far it is. A disk that fails ends the runner.
fn write(runner: &Runner, op: &Sha256, stage: &Stage) -> Result<(), String> {
    match runner.with_ledger(|_, ledger| ledger.jobs().write(op, stage)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            runner.fail(&error);
            Err(chain(&error))
        }
        Err(denied) => Err(denied.why),
    }
}

/// Answers [`protocol::runner::RunnerRequest::JobOutcome`].
pub async fn outcome(runner: &Runner, op: Sha256) -> RunnerAnswer {
    match try_outcome(runner, op).await {
        Ok(answer) => answer,
        Err(denied) => denied.answer(),
    }
}

async fn try_outcome(runner: &Runner, op: Sha256) -> Result<RunnerAnswer, Denied> {
    runner.with_ledger(|_, _| ())?;
    while let Settled::UnderWay(mut waiter) = runner.places.settle(&op)? {
        match waiter.wait_for(Option::is_some).await.map(|answer| answer.clone()) {
            // Then it is under way no more, and perhaps known from an earlier time.
            Ok(Some(RunnerAnswer::Refused { .. }) | None) => {}
            Ok(Some(answer)) => return Ok(answer),
            Err(_) => return Ok(RunnerAnswer::Unknown { why: PANIC.to_owned() }),
        }
    }
    let (stage, burned) = runner.with_ledger(|_, ledger| (ledger.jobs().read(&op), ledger.knows(&op)))?;
    let stage = stage.map_err(|error| Denied::new(RefusalCode::Closed, chain(&error)))?;
    if !burned {
        return Ok(RunnerAnswer::NotKnown {});
    }
    runner.places.known(&op);
    Ok(match stage {
        Some(stage) => stage.answer().unwrap_or_else(|| RunnerAnswer::Unknown { why: PANIC.to_owned() }),
        None => RunnerAnswer::Unknown {
            why: "this order was accepted once, and its end was forgotten since, because the warden said that it is durable elsewhere".into(),
        },
    })
}

/// Answers [`protocol::runner::RunnerRequest::Forget`].
pub fn forget(runner: &Runner, op: Sha256) -> RunnerAnswer {
    if runner.places.has_job(&op) {
        let why = "the script is under way, so there is no end to forget: ask for its outcome first";
        return Denied::new(RefusalCode::Busy, why).answer();
    }
    match runner.with_ledger(|_, ledger| ledger.jobs().remove(&op)) {
        Ok(Ok(())) => RunnerAnswer::Done {},
        Ok(Err(error)) => {
            runner.fail(&error);
            Denied::new(RefusalCode::Closed, chain(&error)).answer()
        }
        Err(denied) => denied.answer(),
    }
}

/// An end without the output, for this host's log alone.
fn told(end: &engine::JobEnd, why: &str) -> String {
    match &end.how {
        How::Exited(code) => format!("exit code {code}"),
        How::Signaled(signal) => format!("killed by signal {signal}"),
        How::TimedOut => "killed at its time limit".into(),
        How::Cancelled => format!("killed: {why}"),
        How::Lost(why) => why.clone(),
    }
}

/// What became of what was left running, for people.
pub(crate) fn tell_killed(killed: &Killed) -> String {
    match (killed.killed, killed.survivors.as_slice()) {
        (0, []) => "nothing of it runs any more".into(),
        (n, []) => format!("{n} process(es) of it still ran and were killed"),
        (_, survivors) => {
            format!(
                "process(es) {} of it could not be killed and still run: look at them",
                numbers(survivors)
            )
        }
    }
}

fn numbers(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use authz::SecretKey;

    use super::*;

    fn ended(how: How) -> engine::JobEnd {
        engine::JobEnd {
            how,
            stdout: b"out".to_vec(),
            stderr: vec![],
            truncated: true,
            duration: Duration::from_millis(7),
            leftovers_killed: 2,
            survivors: vec![],
        }
    }

    #[test]
    fn a_result_is_sealed_to_the_key_of_the_order_and_to_nobody_else() {
        let key = SecretKey::from_seed(&[3; 32]);
        let op = Sha256::of(b"op");
        let stage = seal_end(&op, ended(How::Cancelled), "stopped", &key.public().to_wire()).unwrap();
        let Stage::Ended { sealed, duration_ms: 7 } = stage else { panic!("{stage:?}") };
        let plain = sealed::open(&key.seed(), &sealed.0, MAX_SEALED_RESULT).unwrap();
        let result: JobResult = serde_json::from_slice(&plain).unwrap();
        assert_eq!(result.end, JobEnd::Cancelled { why: "stopped".into() });
        assert_eq!((result.op, result.stdout.0.as_slice(), result.leftovers_killed), (op, &b"out"[..], 2));
        let other = SecretKey::from_seed(&[4; 32]);
        assert!(sealed::open(&other.seed(), &sealed.0, MAX_SEALED_RESULT).is_err());
    }

    #[test]
    fn the_longest_result_fits() {
        let half = vec![0xff; protocol::job::MAX_OUTPUT / 2];
        let end = engine::JobEnd { stdout: half.clone(), stderr: half, ..ended(How::Exited(255)) };
        let key = SecretKey::from_seed(&[3; 32]).public().to_wire();
        let stage = seal_end(&Sha256::of(b"op"), end, "", &key).unwrap();
        let answer = stage.answer().unwrap();
        protocol::local::encode(&answer).unwrap();
    }

    #[test]
    fn what_is_not_the_whole_truth_is_no_result() {
        let key = SecretKey::from_seed(&[3; 32]).public().to_wire();
        let seal = |end| seal_end(&Sha256::of(b"op"), end, "", &key).unwrap_err();
        assert!(seal(ended(How::Lost("gone".into()))).contains("was lost"));
        let alive = engine::JobEnd { survivors: vec![12, 13], ..ended(How::TimedOut) };
        assert!(seal(alive).contains("12, 13 of it could not be killed"));
        let weak = Ed25519Key::from_bytes([0; 32]);
        let why = seal_end(&Sha256::of(b"op"), ended(How::Exited(0)), "", &weak).unwrap_err();
        assert!(why.contains("could not be sealed"), "{why}");
    }

    #[test]
    fn how_it_ended_is_in_the_sealed_result_alone() {
        let key = SecretKey::from_seed(&[3; 32]).public().to_wire();
        let weak = Ed25519Key::from_bytes([0; 32]);
        let survived = engine::JobEnd { survivors: vec![7], ..ended(How::Exited(42)) };
        for (end, key) in [
            (survived, key),
            (ended(How::Exited(42)), weak),
            (ended(How::Signaled(42)), weak),
            (ended(How::Lost("exit status: 42, out".into())), key),
        ] {
            let Stage::Unknown { why } = end_of(&Sha256::of(b"op"), end, "", &key) else { panic!("known") };
            assert!(!["42", "exit code", "signal", "out\""].iter().any(|word| why.contains(word)), "{why}");
        }
    }

    #[test]
    fn what_was_killed_is_told() {
        let killed =
            |killed, survivors: &[i32]| tell_killed(&Killed { killed, survivors: survivors.to_vec() });
        assert!(killed(0, &[]).contains("nothing of it runs"));
        assert!(killed(3, &[]).contains("3 process(es) of it still ran and were killed"));
        assert!(killed(3, &[9]).contains("9 of it could not be killed"));
    }
}
