//! Reading what a program writes: to its end, and never longer because somebody else holds the pipe.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// After the whole tree is dead, output is still read for so long. It ends at once unless somebody who is
/// not of the tree holds the pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// What several readers fill.
#[derive(Debug, Default)]
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a pipe to its end, or until a moment after `ended`'s sender is gone.
pub(crate) fn collect(
    pipe: OwnedFd,
    mut ended: watch::Receiver<()>,
    mut take: impl FnMut(&[u8]) + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let Ok(mut pipe) = Receiver::from_owned_fd(pipe) else { return };
        let mut buffer = vec![0; 32 * 1024];
        let mut until: Option<Instant> = None;
        loop {
            let got = match until {
                Some(until) => match timeout_at(until, pipe.read(&mut buffer)).await {
                    Ok(got) => got,
                    Err(_) => return,
                },
                None => tokio::select! {
                    got = pipe.read(&mut buffer) => got,
                    _ = ended.changed() => {
                        until = Some(Instant::now() + DRAIN);
                        continue;
                    }
                },
            };
            match got {
                Ok(0) | Err(_) => return,
                Ok(got) => take(&buffer[..got]),
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
        }
    })
}
