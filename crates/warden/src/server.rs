//! The warden's unix socket: peer checked, one request a connection, everything bounded.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::local::{self, FrameBuffer, WardenAnswer, WardenRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use crate::warden::{StartError, Warden, refused};
use crate::{orders, steps};

/// Most connections at once.
const CONNECTIONS: usize = 64;
/// A peer that connects has this long to ask.
const ASK: Duration = Duration::from_secs(10);
/// A peer that does not take its answer for this long is left.
const ANSWER: Duration = Duration::from_secs(30);

/// A bound socket; its file goes away with it.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds. A socket file that nobody listens on is a leftover and is replaced; anything else in the way
/// is left alone.
pub async fn bind(path: &Path) -> Result<Socket, StartError> {
    let fail = |reason: String| StartError::Socket { socket: path.display().to_string(), reason };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(fail("another warden listens there: stop it first".into()));
            }
            std::fs::remove_file(path).map_err(|error| fail(error.to_string()))?;
        }
        Ok(_) => return Err(fail("something that is no socket is in the way: move it".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error.to_string())),
    }
    let listener = UnixListener::bind(path).map_err(|error| {
        fail(match error.kind() {
            std::io::ErrorKind::NotFound => "its directory does not exist: create it".into(),
            std::io::ErrorKind::PermissionDenied => {
                "permission denied: check the owner of its directory".into()
            }
            _ => error.to_string(),
        })
    })?;
    // The agent connects as another user; who may ask is decided by its uid, not by the mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(|error| fail(error.to_string()))?;
    Ok(Socket { listener, path: path.to_owned() })
}

/// Serves until dropped.
pub async fn serve(socket: &Socket, warden: &Arc<Warden>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let warden = warden.clone();
                tokio::spawn(async move {
                    connection(stream, warden).await;
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

async fn connection(mut stream: UnixStream, warden: Arc<Warden>) {
    let uid = match stream.peer_cred() {
        Ok(peer) => peer.uid(),
        Err(error) => return tracing::warn!(%error, "a peer without credentials was turned away"),
    };
    if !warden.config.allowed_uids.contains(&uid) {
        tracing::warn!(uid, "a peer that may not connect was turned away");
        let why =
            format!("user id {uid} may not ask the warden: put it into allowed_uids if it is the agent's");
        let _ = send(&mut stream, &refused("peer", why)).await;
        return;
    }
    let request = match tokio::time::timeout(ASK, receive(&mut stream)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(why)) => {
            tracing::warn!(%why, "a request could not be read");
            let _ = send(&mut stream, &refused("request", why)).await;
            return;
        }
        Err(_) => return tracing::debug!("a peer asked nothing"),
    };
    answer(&mut stream, warden, request).await;
}

async fn answer(stream: &mut UnixStream, warden: Arc<Warden>, request: WardenRequest) {
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
                listening = listening && send(stream, &WardenAnswer::Progress(state)).await.is_ok();
            }
            ended(order.await)
        }
    };
    if let Err(error) = send(stream, &last).await {
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

async fn receive(stream: &mut UnixStream) -> Result<Option<WardenRequest>, String> {
    let mut buffer = FrameBuffer::default();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut bytes).await {
            Ok(0) => return Ok(None),
            Ok(count) => buffer.push(&bytes[..count]),
            Err(error) => return Err(error.to_string()),
        }
        if let Some(request) = buffer.take().map_err(|error| error.to_string())? {
            return Ok(Some(request));
        }
    }
}

async fn send(stream: &mut UnixStream, answer: &WardenAnswer) -> std::io::Result<()> {
    let frame = local::encode(answer).map_err(std::io::Error::other)?;
    tokio::time::timeout(ANSWER, stream.write_all(&frame)).await.map_err(std::io::Error::other)?
}
