//! The runner's unix socket: peer checked, one request a connection, everything bounded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use local_socket::{Framed, Listener};
use protocol::runner::{RunnerAnswer, RunnerRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::checks::{Answer as _, Denied};
use crate::runner::Runner;
use crate::{jobs, sessions};

/// Most connections at once whose request is not known to be good: asking, and being refused. An accepted order
/// gives its place back; how many of those there are is limited where they are accepted.
const ASKING: usize = 32;
/// Most connections at once that wait for the end of a script which another one ordered.
const WAITING: usize = 128;
/// Longest request in bytes. The longest honest ones are a script (256 KiB) in base64 with its order (64 KiB,
/// likewise) and signatures (8 of 16 KiB).
const MAX_REQUEST: usize = 640 * 1024;
/// Peers that may not ask are named in the log so often.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// A peer that connects has this long to ask.
const ASK: Duration = Duration::from_secs(10);
/// So many peers that were turned away are listened to for a moment: whoever is hung up on while it still
/// asks learns of a broken pipe and not of the reason.
const TURNED_AWAY: usize = 8;
/// The moment.
const LINGER: Duration = Duration::from_secs(1);
/// A peer that does not take its answer for this long is left.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// Serves until dropped. What was begun goes on.
pub async fn serve(listener: &Listener, runner: &Arc<Runner>) {
    let slots = Arc::new(Semaphore::new(ASKING));
    let waiting = Arc::new(Semaphore::new(WAITING));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    let strangers = Arc::new(Mutex::new(Strangers::default()));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(stream) => {
                let (runner, turned_away) = (runner.clone(), turned_away.clone());
                let (strangers, places) =
                    (strangers.clone(), Slots { asking: slot, waiting: waiting.clone() });
                tokio::spawn(async move {
                    let mut peer = Framed::with_limit(stream, MAX_REQUEST);
                    if may_ask(&mut peer, &runner, &strangers).await {
                        return connection(peer, runner, places).await;
                    }
                    // Room for those who may ask.
                    drop(places);
                    if let Ok(_room) = turned_away.try_acquire() {
                        let _ = tokio::time::timeout(LINGER, peer.closed()).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection's place, and those that it may change it for.
struct Slots {
    asking: OwnedSemaphorePermit,
    waiting: Arc<Semaphore>,
}

/// Counts peers that may not ask: anybody can connect, and nobody should be able to fill the log so.
#[derive(Debug, Default)]
struct Strangers {
    told: Option<Instant>,
    since: u32,
}

impl Strangers {
    /// One more. How many are to be named now, this one included.
    fn another(&mut self, now: Instant) -> Option<u32> {
        self.since = self.since.saturating_add(1);
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < WARN_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// Whether the peer is the warden; otherwise it has been told.
async fn may_ask(peer: &mut Framed, runner: &Runner, strangers: &Mutex<Strangers>) -> bool {
    let turned_away = |uid: Option<u32>| {
        let count = strangers.lock().unwrap_or_else(PoisonError::into_inner).another(Instant::now());
        if let Some(count) = count {
            tracing::warn!(uid, count, "peers that may not connect were turned away; the last one is named");
        }
    };
    let uid = match peer.peer_uid() {
        Ok(uid) => uid,
        Err(error) => {
            tracing::debug!(%error, "a peer has no credentials");
            turned_away(None);
            return false;
        }
    };
    if runner.config.allowed_uids.contains(&uid) {
        return true;
    }
    turned_away(Some(uid));
    let why = format!("user id {uid} may not ask the runner: put it into allowed_uids if it is the warden's");
    send(peer, &Denied::other("peer", why).answer()).await;
    false
}

async fn connection(mut peer: Framed, runner: Arc<Runner>, slots: Slots) {
    let request = match tokio::time::timeout(ASK, peer.receive()).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            let why = error.to_string();
            tracing::warn!(%why, "a request could not be read");
            send(&mut peer, &Denied::other("request", why).answer()).await;
            return;
        }
        Err(_) => return tracing::debug!("a peer asked nothing"),
    };
    // From here on the end of the process waits for the answer.
    let Some(_at_work) = runner.work() else {
        let why = "the runner is being stopped: ask again when it is back";
        send(&mut peer, &Denied::new(authz::RefusalCode::Busy, why).answer()).await;
        return;
    };
    answer(&mut peer, runner, request, slots).await;
}

async fn answer(peer: &mut Framed, runner: Arc<Runner>, request: RunnerRequest, slots: Slots) {
    let Slots { asking, waiting } = slots;
    // Given up as soon as something else limits this connection, else with its end.
    let mut asking = Some(asking);
    let _waiting;
    let last = match request {
        RunnerRequest::Status {} => RunnerAnswer::Status(runner.status()),
        RunnerRequest::Anchor { policy, documents, host_id, host_key, host_key_gen } => {
            runner.anchor(&anchored::Anchoring {
                policy: &policy,
                documents: &documents,
                host_id,
                host_key,
                host_key_gen,
            })
        }
        RunnerRequest::Policy { documents } => runner.policy(&documents),
        RunnerRequest::Job { envelope, script } => {
            let (progress, mut steps) = mpsc::channel(4);
            // Spawned: an accepted script runs to its end, whether or not the warden stays.
            let job = tokio::spawn(jobs::job(runner, envelope, script, progress));
            let mut listening = true;
            while let Some(step) = steps.recv().await {
                // It is accepted, so from here on `jobs_at_once` counts it.
                drop(asking.take());
                listening = listening && send(peer, &step).await;
            }
            job.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a request ended in a panic");
                RunnerAnswer::Unknown { why: jobs::PANIC.to_owned() }
            })
        }
        // A warden that loses patience again and again must not fill the connections.
        RunnerRequest::JobOutcome { op } => {
            let Ok(place) = waiting.try_acquire_owned() else {
                let why = "too many wait for the ends of scripts already: ask again later";
                send(peer, &Denied::new(authz::RefusalCode::Busy, why).answer()).await;
                return;
            };
            _waiting = place;
            drop(asking.take());
            tokio::select! {
                answer = jobs::outcome(&runner, op) => answer,
                () = peer.closed() => return tracing::debug!("the peer left before its answer"),
            }
        }
        RunnerRequest::Forget { op } => jobs::forget(&runner, op),
        RunnerRequest::Session { envelope } => match asking.take() {
            Some(slot) => sessions::session(&runner, &envelope, peer, slot).await,
            None => return,
        },
    };
    if !send(peer, &last).await {
        tracing::debug!("the peer left before its answer");
    }
}

/// Whether it arrived in the kernel.
async fn send(peer: &mut Framed, answer: &RunnerAnswer) -> bool {
    tokio::time::timeout(ANSWER, peer.send(answer)).await.is_ok_and(|sent| sent.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_strangers_is_one_line_in_the_log() {
        let mut strangers = Strangers::default();
        let begun = Instant::now();
        assert_eq!(strangers.another(begun), Some(1));
        for n in 0..1000 {
            assert_eq!(strangers.another(begun + Duration::from_millis(n * 9)), None);
        }
        assert_eq!(strangers.another(begun + WARN_EVERY), Some(1001));
        assert_eq!(strangers.another(begun + WARN_EVERY), None);
        assert_eq!(strangers.another(begun + WARN_EVERY * 2), Some(2));
    }

    #[test]
    fn the_longest_honest_request_fits_and_not_much_more() {
        let sig = "x".repeat(70) + "\n";
        let armor = sig.repeat(protocol::Envelope::MAX_ARMOR / sig.len());
        let sigs = vec![armor; protocol::Envelope::MAX_SIGNATURES];
        let order = vec![0xff; protocol::Envelope::MAX_PAYLOAD].into();
        let envelope = protocol::Envelope::new(order, sigs);
        let script = vec![0xff; protocol::job::MAX_SCRIPT].into();
        let frame = protocol::local::encode(&RunnerRequest::Job { envelope, script }).unwrap();
        assert!((MAX_REQUEST - 128 * 1024..MAX_REQUEST).contains(&frame.len()), "{}", frame.len());
    }
}
