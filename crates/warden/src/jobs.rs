//! A script, from its order to its stored result and receipt.
//!
//! It is handed to the runner at most once. Whatever happens afterwards, to the connection, to the runner or
//! to the warden, only questions follow; what they can mean is in [`crate::answers`]. The sealed result is
//! durable here before the receipt says that the script ran, and only then the runner may forget it.

use std::sync::Arc;
use std::time::Duration;

use authz::order::JobParams;
use authz::{Authorized, Kind, Order, Outcome, PublicKey, RefusalCode, SecretKey};
use protocol::frame::OrderState;
use protocol::job::MAX_SCRIPT;
use protocol::runner::RunnerRequest;
use protocol::{Bytes, Envelope, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroizing;

use crate::answers::{Asked, Ending, Heard, SLACK_S, Says, of_script, patience};
use crate::hold::{self, Point};
use crate::ledger::{OpenOrder, Stage};
use crate::orders::{self, Denied, Progress, Written};
use crate::results::{MAX_WAITING, StoredResult};
use crate::runner::{self, RunnerError};
use crate::warden::{Warden, chain};
use crate::{now, safe};

/// Scripts that may run at once.
pub const MAX_RUNNING: usize = 8;
/// Between two questions to a runner that does not answer: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Between two attempts to store a result, while the disk is full or worse.
const STORE_PAUSE: Duration = Duration::from_secs(30);

/// Opens the script that came sealed beside its order. Pure.
///
/// Anybody can seal to the host's key: what makes the script the operator's is the hash in the order.
pub fn open_script(
    host_key: &SecretKey,
    sealed: Option<&Bytes>,
    params: &JobParams,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let sealed = sealed.ok_or("the script did not come with the order: submit it again with `writ run`")?;
    let script = sealed::open(&host_key.seed(), &sealed.0, MAX_SCRIPT)
        .map_err(|error| format!("the script that came with the order cannot be opened: {error}"))?;
    if script.len() != params.script_len as usize || Sha256::of(&script) != params.script {
        return Err(format!(
            "the script that came with the order is not the one that was signed ({} bytes came, {} were signed): submit it again, and look at what lies in between",
            script.len(),
            params.script_len
        ));
    }
    Ok(script)
}

/// Checks, commits, hands over, and waits for the end.
pub(crate) async fn carry_out(
    warden: &Arc<Warden>,
    envelope: &Envelope,
    authorized: &Authorized<Order>,
    params: &JobParams,
    progress: &Progress,
) -> Result<Written, Denied> {
    orders::fresh(warden, authorized)?;
    let refuse = |code, why: String| Denied::from(authorized.refuse(Kind::JobRun, code, why));
    let runner = |error: RunnerError| refuse(RefusalCode::Runner, error.to_string());
    warden.runner.configured().map_err(runner)?;
    let _slot = slot(warden).map_err(|why| refuse(RefusalCode::Busy, why))?;
    PublicKey::try_from(params.result_key).map_err(|error| {
        refuse(RefusalCode::BadOrder, format!("nothing can be sealed to the order's result key: {error}"))
    })?;
    let identity = warden.identity()?;
    let script = open_script(&identity.host_key, envelope.sealed.as_ref(), params)
        .map_err(|why| refuse(RefusalCode::Script, why))?;
    warden.ready_runner(&identity).await.map_err(runner)?;

    let mut open = orders::commit(warden, authorized, OpenOrder::new(authorized), progress).await?;
    let order = authorized.get();
    let t0 = now();
    open.stage = Stage::Handing { t0 };
    if let Err(why) = orders::write_stage(warden, &open) {
        let why = format!("{why}; the script was not handed over");
        return Ok(orders::finish(warden, &open, order, Outcome::Aborted { why: safe(&why) }).await);
    }
    hold::at(Point::Handing).await;
    let envelope = Envelope::new(envelope.payload.clone(), envelope.sigs.clone());
    let request = RunnerRequest::Job { envelope, script: script.to_vec().into() };
    drop(script);
    let mut watch = Watch::new(warden, open.op, patience(t0, params.timeout_s, t0), Some(progress));
    let ending = watch.hand_over(request).await;
    Ok(conclude(warden, &open, order, ending).await)
}

fn slot(warden: &Warden) -> Result<OwnedSemaphorePermit, String> {
    let slot = warden.jobs.clone().try_acquire_owned().map_err(|_| {
        format!("{MAX_RUNNING} scripts run on this host already: submit it again when one has ended")
    })?;
    match warden.results.list() {
        Ok(waiting) if waiting.len() < MAX_WAITING => Ok(slot),
        Ok(waiting) => Err(format!(
            "the results of {} scripts wait on this host until the hub takes them: see that the agent reaches the hub, then submit it again",
            waiting.len()
        )),
        Err(error) => Err(chain(&error)),
    }
}

/// Waits for the end of one script, for a bounded time.
struct Watch<'a> {
    warden: &'a Warden,
    op: Sha256,
    patience: Duration,
    until: Instant,
    heard: Heard,
    progress: Option<&'a Progress>,
}

impl<'a> Watch<'a> {
    fn new(warden: &'a Warden, op: Sha256, patience: Duration, progress: Option<&'a Progress>) -> Self {
        let until = Instant::now() + patience;
        Self { warden, op, patience, until, heard: Heard::Nothing, progress }
    }

    /// The one handover.
    async fn hand_over(&mut self, request: RunnerRequest) -> Ending {
        let mut connection = match self.warden.runner.connect().await {
            Ok(connection) => connection,
            Err(error) => return Ending::NotAccepted(format!("{error}; the script was not handed over")),
        };
        let sent = runner::hand_over(&mut connection, &request).await;
        drop(request);
        hold::at(Point::Handed).await;
        let trouble = match sent {
            // It does not even read: there is nothing to listen to.
            Err(error @ RunnerError::Silent) => error.to_string(),
            // A runner that turns the warden away says so without reading the request.
            sent => match (self.listen(Asked::Run, &mut connection).await, sent) {
                (Ok(ending), _) => return ending,
                (Err(trouble), Ok(())) => trouble,
                (Err(_), Err(error)) => error.to_string(),
            },
        };
        drop(connection);
        tracing::warn!(op = %self.op, trouble, "asking the runner what became of the script");
        self.ask(trouble).await
    }

    /// Asks what became of it, and asks again while there is no answer.
    async fn ask(&mut self, mut trouble: String) -> Ending {
        let (mut pause, longest) = PAUSE;
        while Instant::now() < self.until {
            match self.ask_once().await {
                Ok(ending) => return ending,
                Err(again) => {
                    tracing::warn!(op = %self.op, trouble = again, "the runner does not say what became of it");
                    trouble = again;
                }
            }
            sleep(pause.min(self.until.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(longest);
        }
        let seconds = self.patience.as_secs();
        let why = format!("the runner did not say within {seconds} s what became of the script: {trouble}");
        Ending::Unknown { why, settled: false }
    }

    async fn ask_once(&mut self) -> Result<Ending, String> {
        let mut connection = self.warden.runner.connect().await.map_err(|error| error.to_string())?;
        runner::hand_over(&mut connection, &RunnerRequest::JobOutcome { op: self.op })
            .await
            .map_err(|error| error.to_string())?;
        self.listen(Asked::Outcome, &mut connection).await
    }

    /// Answers until the end, or what went wrong.
    async fn listen(
        &mut self,
        asked: Asked,
        connection: &mut local_socket::Framed,
    ) -> Result<Ending, String> {
        loop {
            let answer = timeout_at(self.until, runner::next(connection))
                .await
                .map_err(|_| "it kept silent".to_owned())?
                .map_err(|error| error.to_string())?;
            match of_script(asked, self.heard, answer) {
                Says::End(ending) => return Ok(ending),
                Says::Nothing(why) => return Err(why),
                Says::More(heard) => {
                    if let (Some(progress), Heard::Started) = (self.progress, heard)
                        && self.heard != Heard::Started
                    {
                        let _ = progress.try_send(OrderState::Executing);
                    }
                    self.heard = heard;
                }
            }
        }
    }
}

/// Stores the result, writes the end down, and lets the runner forget.
async fn conclude(warden: &Arc<Warden>, open: &OpenOrder, order: &Order, ending: Ending) -> Written {
    let kept = ending.is_kept_by_runner();
    let outcome = match ending {
        Ending::NotStarted(why) | Ending::NotAccepted(why) => Outcome::Aborted { why: safe(&why) },
        Ending::Unknown { why, .. } => Outcome::Unknown { upid: None, why: safe(&why) },
        Ending::Ran { sealed, duration_ms } => {
            hold::at(Point::Ended).await;
            match StoredResult::new(open.op, sealed, duration_ms) {
                Ok(result) => {
                    store(warden, &result).await;
                    hold::at(Point::Stored).await;
                    ran(&result)
                }
                Err(error) => Outcome::Unknown {
                    upid: None,
                    why: safe(&format!("the script ran to its end, and its result cannot be kept: {error}")),
                },
            }
        }
    };
    let receipt = orders::log_end(warden, open, order, outcome).await?;
    if kept {
        let_forget(warden, open.op).await;
    } else {
        orders::forget(warden, &open.op);
    }
    Ok(receipt)
}

fn ran(result: &StoredResult) -> Outcome {
    Outcome::Ran {
        result: Sha256::of(&result.sealed.0),
        size: result.sealed.0.len() as u64,
        duration_ms: result.duration_ms,
    }
}

/// Until it is stored there is no receipt. The runner keeps its copy, also when the warden ends meanwhile.
async fn store(warden: &Warden, result: &StoredResult) {
    while let Err(error) = warden.results.store(result) {
        tracing::error!(op = %result.op, error = %chain(&error), "a script's result cannot be stored yet; trying again");
        sleep(STORE_PAUSE).await;
    }
}

/// Lets the runner forget a script whose end is in the log. The receipt does not wait for a runner that is
/// away.
async fn let_forget(warden: &Arc<Warden>, op: Sha256) {
    if !forget(warden, &op).await {
        let warden = warden.clone();
        tokio::spawn(async move { forget_patiently(&warden, &op).await });
    }
}

/// Tells the runner. The order's file stays until that has worked: the next start tries again. Whether it has.
async fn forget(warden: &Warden, op: &Sha256) -> bool {
    match warden.runner.forget(*op).await {
        Ok(()) => {
            orders::forget(warden, op);
            true
        }
        Err(error) => {
            tracing::warn!(%op, %error, "the runner could not be told that a script is over");
            false
        }
    }
}

/// Tells the runner what it could not be told before. It may still be coming up.
pub(crate) async fn forget_patiently(warden: &Warden, op: &Sha256) {
    let (mut pause, longest) = PAUSE;
    let until = Instant::now() + Duration::from_secs(SLACK_S);
    while !forget(warden, op).await && Instant::now() < until {
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Ends a script's order that a crash interrupted. Hands nothing over.
pub(crate) async fn resume(
    warden: &Arc<Warden>,
    open: &OpenOrder,
    order: &Order,
    params: &JobParams,
) -> Written {
    let Stage::Handing { t0 } = open.stage else {
        let outcome = if open.stage == (Stage::Verified {}) {
            let why = "the warden ended after the nonce was burned and before the script was handed over";
            Outcome::Aborted { why: safe(why) }
        } else {
            orders::unreadable()
        };
        return orders::finish(warden, open, order, outcome).await;
    };
    match warden.results.read(&open.op) {
        Ok(Some(result)) => {
            let receipt = orders::log_end(warden, open, order, ran(&result)).await?;
            let_forget(warden, open.op).await;
            return Ok(receipt);
        }
        Ok(None) => {}
        // The runner has it still.
        Err(error) => tracing::warn!(op = %open.op, error = %chain(&error), "a stored result cannot be read"),
    }
    // Counted as running, as far as there is room.
    let _slot = warden.jobs.clone().try_acquire_owned();
    let mut watch = Watch::new(warden, open.op, patience(t0, params.timeout_s, now()), None);
    let ending = watch.ask("it was not asked yet".into()).await;
    conclude(warden, open, order, ending).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(script: &[u8]) -> JobParams {
        JobParams {
            script: Sha256::of(script),
            script_len: script.len() as u32,
            interpreter: "/bin/sh".parse().unwrap(),
            args: vec![],
            user: "root".parse().unwrap(),
            env: vec![],
            timeout_s: 10,
            max_output: 0,
            result_key: SecretKey::from_seed(&[3; 32]).public().to_wire(),
        }
    }

    fn seal(key: &SecretKey, script: &[u8]) -> Bytes {
        let chance = sealed::Randomness::from_bytes(&[5; sealed::Randomness::LEN]);
        sealed::seal(&key.public().to_wire(), script, chance).unwrap().into()
    }

    #[test]
    fn only_the_signed_script_is_opened() {
        let (host, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let script = b"echo hello\n";
        let open = |sealed: Option<&Bytes>| open_script(&host, sealed, &params(script));
        let good = seal(&host, script);
        assert_eq!(open(Some(&good)).unwrap().as_slice(), script);
        let mut altered = good.clone();
        *altered.0.last_mut().unwrap() ^= 1;
        let cut = good.0[..good.0.len() - 1].to_vec().into();
        for (sealed, says) in [
            (None, "did not come with the order"),
            (Some(&seal(&other, script)), "another key"),
            (Some(&seal(&host, b"echo HELLO\n")), "not the one that was signed"),
            (Some(&seal(&host, b"echo hello\n\n")), "not the one that was signed"),
            (Some(&seal(&host, &vec![b'#'; MAX_SCRIPT + 1])), "larger than"),
            (Some(&altered), "cannot be opened"),
            (Some(&cut), "cannot be opened"),
            (Some(&script.to_vec().into()), "not a sealed file"),
            (Some(&Vec::new().into()), "not a sealed file"),
        ] {
            let why = open(sealed).unwrap_err();
            assert!(why.contains(says), "{why:?} should say {says:?}");
        }
        let largest = vec![b'#'; MAX_SCRIPT];
        open_script(&host, Some(&seal(&host, &largest)), &params(&largest)).unwrap();
    }
}
