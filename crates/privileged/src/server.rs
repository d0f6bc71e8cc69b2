//! The unix socket: peer checked, one request a connection, everything bounded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anchored::{Anchoring, Denied};
use local_socket::{Framed, Listener};
use protocol::privileged::{PrivilegedAnswer, PrivilegedRequest};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::orders;
use crate::service::{Service, answer_of};

/// Most connections at once.
const CONNECTIONS: usize = 32;
/// Longest request in bytes: an order (64 KiB in base64) with its signatures (8 of 16 KiB), or a policy chain.
const MAX_REQUEST: usize = 4 * 1024 * 1024;
/// A peer that connects has this long to ask.
const ASK: Duration = Duration::from_secs(10);
/// A peer that does not take its answer for this long is left.
const ANSWER: Duration = Duration::from_secs(30);
/// Whoever may not ask is named in the log so often: anybody can connect.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Whoever is hung up on while it still asks learns of a broken pipe and not of the reason.
const LINGER: Duration = Duration::from_millis(500);

/// Serves until dropped. What was accepted goes on.
pub async fn serve(listener: &Listener, service: &Arc<Service>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let warned = Arc::new(Mutex::new(None::<Instant>));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(stream) => {
                let (service, warned) = (service.clone(), warned.clone());
                tokio::spawn(async move {
                    let mut peer = Framed::with_limit(stream, MAX_REQUEST);
                    if may_ask(&mut peer, &service, &warned).await {
                        connection(peer, service).await;
                    } else {
                        let _ = timeout(LINGER, peer.closed()).await;
                    }
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

/// Whether the peer is the warden; otherwise it has been told.
async fn may_ask(peer: &mut Framed, service: &Service, warned: &Mutex<Option<Instant>>) -> bool {
    let uid = match peer.peer_uid() {
        Ok(uid) if service.config.allowed_uids.contains(&uid) => return true,
        Ok(uid) => uid,
        Err(error) => {
            tracing::debug!(%error, "a peer has no credentials");
            return false;
        }
    };
    {
        let mut last = warned.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            *last = Some(Instant::now());
            tracing::warn!(uid, "a peer that may not connect was turned away");
        }
    }
    let why =
        format!("user id {uid} may not ask writ-privileged: put it into allowed_uids if it is the warden's");
    send(peer, &answer_of(Denied::other("peer", why))).await;
    false
}

async fn connection(mut peer: Framed, service: Arc<Service>) {
    let request = match timeout(ASK, peer.receive()).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            let why = error.to_string();
            tracing::warn!(%why, "a request could not be read");
            send(&mut peer, &answer_of(Denied::other("request", why))).await;
            return;
        }
        Err(_) => return tracing::debug!("a peer asked nothing"),
    };
    let last = match request {
        PrivilegedRequest::Status {} => PrivilegedAnswer::Status(service.status()),
        PrivilegedRequest::Anchor { policy, documents, host_id, host_key, host_key_gen } => {
            let (policy, documents) = (&policy, documents.as_slice());
            service.anchor(&Anchoring { policy, documents, host_id, host_key, host_key_gen })
        }
        PrivilegedRequest::Policy { documents } => service.policy(&documents),
        PrivilegedRequest::Order { envelope } => {
            let (progress, mut steps) = mpsc::channel(4);
            // Spawned: an accepted order is carried out to its end, whether or not the warden stays.
            let order = tokio::spawn(orders::order(service, envelope, progress));
            let mut listening = true;
            while let Some(step) = steps.recv().await {
                listening = listening && send(&mut peer, &step).await;
            }
            order.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a request ended in a panic");
                PrivilegedAnswer::Unknown { why: orders::PANIC.to_owned() }
            })
        }
        PrivilegedRequest::Outcome { op } => tokio::select! {
            answer = orders::outcome(&service, op) => answer,
            () = peer.closed() => return tracing::debug!("the peer left before its answer"),
        },
        PrivilegedRequest::Forget { op } => orders::forget(&service, op).await,
        PrivilegedRequest::Smart { device, transport } => service.smart(device, transport).await,
    };
    if !send(&mut peer, &last).await {
        tracing::debug!("the peer left before its answer");
    }
}

/// Whether it arrived in the kernel.
async fn send(peer: &mut Framed, answer: &PrivilegedAnswer) -> bool {
    timeout(ANSWER, peer.send(answer)).await.is_ok_and(|sent| sent.is_ok())
}
