//! The warden's unix socket: peer checked, one request a connection, everything bounded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use local_socket::{Framed, Listener, SocketError};
use protocol::local::{WardenAnswer, WardenRequest};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::warden::{StartError, Warden, refused};
use crate::{orders, questions, sessions, steps};

/// Most connections at once.
const CONNECTIONS: usize = 64;
/// A peer that connects has this long to ask.
const ASK: Duration = Duration::from_secs(10);
/// A peer that does not take its answer for this long is left.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// Binds. The agent connects as another user; who may ask is decided by its uid, not by the mode.
pub async fn bind(path: &Path) -> Result<Listener, StartError> {
    Ok(local_socket::bind(path).await?)
}

/// Serves until dropped.
pub async fn serve(socket: &Listener, warden: &Arc<Warden>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok(stream) => {
                let warden = warden.clone();
                tokio::spawn(async move {
                    connection(stream.into(), warden).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(mut peer: Framed, warden: Arc<Warden>) {
    let uid = match peer.peer_uid() {
        Ok(uid) => uid,
        Err(error) => return tracing::warn!(%error, "a peer without credentials was turned away"),
    };
    let (may_order, may_look) =
        (warden.config.allowed_uids.contains(&uid), warden.config.reader_uids.contains(&uid));
    if !may_order && !may_look {
        tracing::warn!(uid, "a peer that may not connect was turned away");
        let why =
            format!("user id {uid} may not ask the warden: put it into allowed_uids if it is the agent's");
        let _ = send(&mut peer, &refused("peer", why)).await;
        return;
    }
    let request = match timeout(ASK, peer.receive()).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None) | Err(SocketError::Cut)) => return,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a request could not be read");
            let _ = send(&mut peer, &refused("request", error.to_string())).await;
            return;
        }
        Err(_) => return tracing::debug!("a peer asked nothing"),
    };
    if !may_order && !only_looks(&request) {
        tracing::warn!(uid, "a peer that may only look asked for more");
        let why = format!("user id {uid} may look and not ask for changes: those come from the agent");
        let _ = send(&mut peer, &refused("peer", why)).await;
        return;
    }
    answer(peer, warden, request).await;
}

/// Whether a request changes nothing and gives nothing away but what root can read anyway.
const fn only_looks(request: &WardenRequest) -> bool {
    match request {
        WardenRequest::Status {}
        | WardenRequest::Receipts { .. }
        | WardenRequest::Queue {}
        | WardenRequest::Smart { .. }
        | WardenRequest::Ask { .. } => true,
        WardenRequest::Enroll { .. }
        | WardenRequest::Step { .. }
        | WardenRequest::Order { .. }
        | WardenRequest::Session { .. }
        | WardenRequest::Policy { .. }
        | WardenRequest::Results {}
        | WardenRequest::Result { .. }
        | WardenRequest::ResultStored { .. } => false,
    }
}

async fn answer(mut peer: Framed, warden: Arc<Warden>, request: WardenRequest) {
    let last = match request {
        WardenRequest::Status {} => WardenAnswer::Status(warden.status()),
        WardenRequest::Receipts { first, max } => warden.receipts(first, max),
        WardenRequest::Enroll { policy, policy_sha256, k, device_key } => {
            warden.enroll(&policy, policy_sha256, &k, device_key)
        }
        WardenRequest::Step { step, generation } => {
            ended(tokio::spawn(steps::step(warden, step, generation)).await)
        }
        WardenRequest::Order { envelope } => {
            let (progress, mut states) = mpsc::channel(8);
            // Spawned: an accepted order runs to its end, whether or not the agent stays.
            let order = tokio::spawn(orders::order(warden, envelope, progress));
            let mut listening = true;
            while let Some(state) = states.recv().await {
                listening = listening && send(&mut peer, &WardenAnswer::Progress(state)).await.is_ok();
            }
            ended(order.await)
        }
        // Lives and dies with this connection.
        WardenRequest::Session { envelope } => return sessions::session(warden, envelope, peer).await,
        WardenRequest::Policy { documents } => warden.policy(&documents).await,
        WardenRequest::Smart { device, transport } => warden.privileged.answer_smart(device, transport).await,
        WardenRequest::Queue {} => WardenAnswer::Queue { entries: warden.queue.told() },
        WardenRequest::Ask { question } => questions::answer(&warden, question).await,
        WardenRequest::Results {} => warden.results.answer_list(),
        WardenRequest::Result { op } => warden.results.answer_one(op),
        WardenRequest::ResultStored { op } => warden.results.answer_stored(&op),
    };
    if let Err(error) = send(&mut peer, &last).await {
        tracing::debug!(%error, "the peer left before its answer");
    }
}

fn ended(result: Result<WardenAnswer, tokio::task::JoinError>) -> WardenAnswer {
    result.unwrap_or_else(|error| {
        tracing::error!(%error, "a request ended in a panic");
        {
            let why = "the warden made a mistake; what became of the request is in its log after a restart";
            WardenAnswer::Unknown { why: why.to_owned() }
        }
    })
}

/// Sends an answer, as long as the peer takes it within [`ANSWER`].
pub(crate) async fn send(peer: &mut Framed, answer: &WardenAnswer) -> Result<(), SocketError> {
    timeout(ANSWER, peer.send(answer)).await.map_err(std::io::Error::other)?
}
