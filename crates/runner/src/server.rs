//! The runner's unix socket: peer checked, one request a connection, everything bounded.

use std::sync::Arc;
use std::time::Duration;

use local_socket::{Framed, Listener};
use protocol::runner::{RunnerAnswer, RunnerRequest};
use tokio::sync::{Semaphore, mpsc};

use crate::checks::Denied;
use crate::runner::Runner;
use crate::{jobs, sessions};

/// Most connections at once. Each open session and each running script that somebody waits for is one.
const CONNECTIONS: usize = 256;
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
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(stream) => {
                let (runner, turned_away) = (runner.clone(), turned_away.clone());
                tokio::spawn(async move {
                    let mut peer = Framed::from(stream);
                    if may_ask(&mut peer, &runner).await {
                        connection(peer, runner).await;
                        return drop(slot);
                    }
                    // Room for those who may ask.
                    drop(slot);
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

/// Whether the peer is the warden; otherwise it has been told.
async fn may_ask(peer: &mut Framed, runner: &Runner) -> bool {
    let uid = match peer.peer_uid() {
        Ok(uid) => uid,
        Err(error) => {
            tracing::warn!(%error, "a peer without credentials was turned away");
            return false;
        }
    };
    if runner.config.allowed_uids.contains(&uid) {
        return true;
    }
    tracing::warn!(uid, "a peer that may not connect was turned away");
    let why = format!("user id {uid} may not ask the runner: put it into allowed_uids if it is the warden's");
    send(peer, &Denied::other("peer", why).answer()).await;
    false
}

async fn connection(mut peer: Framed, runner: Arc<Runner>) {
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
    answer(&mut peer, runner, request).await;
}

async fn answer(peer: &mut Framed, runner: Arc<Runner>, request: RunnerRequest) {
    let last = match request {
        RunnerRequest::Status {} => RunnerAnswer::Status(runner.status()),
        RunnerRequest::Anchor { policy, host_id, host_key, host_key_gen } => {
            runner.anchor(&policy, host_id, host_key, host_key_gen)
        }
        RunnerRequest::Job { envelope, script } => {
            let (progress, mut steps) = mpsc::channel(4);
            // Spawned: an accepted script runs to its end, whether or not the warden stays.
            let job = tokio::spawn(jobs::job(runner, envelope, script, progress));
            let mut listening = true;
            while let Some(step) = steps.recv().await {
                listening = listening && send(peer, &step).await;
            }
            job.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a request ended in a panic");
                RunnerAnswer::Unknown { why: jobs::PANIC.to_owned() }
            })
        }
        // A warden that loses patience again and again must not fill the connections.
        RunnerRequest::JobOutcome { op } => tokio::select! {
            answer = jobs::outcome(&runner, op) => answer,
            () = peer.closed() => return tracing::debug!("the peer left before its answer"),
        },
        RunnerRequest::Forget { op } => jobs::forget(&runner, op),
        RunnerRequest::Session { envelope } => sessions::session(&runner, &envelope, peer).await,
    };
    if !send(peer, &last).await {
        tracing::debug!("the peer left before its answer");
    }
}

/// Whether it arrived in the kernel.
async fn send(peer: &mut Framed, answer: &RunnerAnswer) -> bool {
    tokio::time::timeout(ANSWER, peer.send(answer)).await.is_ok_and(|sent| sent.is_ok())
}
