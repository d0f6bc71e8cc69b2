//! What the rest of the runner holds of something that runs.

use std::sync::Arc;

use tokio::sync::{Notify, oneshot};

use super::leftover::Leftover;

/// A running job or session. Dropping it ends it, like [`Canceller::cancel`].
#[derive(Debug)]
#[must_use = "dropping it ends what runs"]
pub struct Handle<End> {
    leftover: Leftover,
    cancel: Canceller,
    end: oneshot::Receiver<End>,
    lost: fn(String) -> End,
}

/// Ends a job or a session from elsewhere.
#[derive(Debug, Clone)]
pub struct Canceller(Arc<Notify>);

impl Canceller {
    /// Kills everything of it. Again, or after its end, does nothing.
    pub fn cancel(&self) {
        self.0.notify_one();
    }

    pub(crate) fn new() -> Self {
        Self(Arc::new(Notify::new()))
    }

    pub(crate) async fn cancelled(&self) {
        self.0.notified().await;
    }
}

impl<End> Handle<End> {
    pub(crate) fn new(
        leftover: Leftover,
        cancel: Canceller,
        end: oneshot::Receiver<End>,
        lost: fn(String) -> End,
    ) -> Self {
        Self { leftover, cancel, end, lost }
    }

    /// What finds it again after a crash. To be written down durably while it runs.
    pub fn leftover(&self) -> &Leftover {
        &self.leftover
    }

    /// For ending it while somebody else waits.
    pub fn canceller(&self) -> Canceller {
        self.cancel.clone()
    }

    /// Waits for its end: everything of it is dead then, unless the end names survivors. Dropping this
    /// future ends it.
    pub async fn wait(mut self) -> End {
        match (&mut self.end).await {
            Ok(end) => end,
            Err(_) => (self.lost)("the runner is being shut down".into()),
        }
    }
}

impl<End> Drop for Handle<End> {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
