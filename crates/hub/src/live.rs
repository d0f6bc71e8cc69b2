//! Who is connected now, and who waits for news. Nothing here is durable: what has to survive is
//! in the store, and this only says "look there again".

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::HostId;
use tokio::sync::{Notify, mpsc, watch};

/// Why the hub ends a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closing {
    /// For the agent's log.
    pub(crate) why: String,
    /// Seconds.
    pub(crate) retry_after_s: u64,
}

impl Closing {
    pub(crate) fn new(why: impl Into<String>, retry_after_s: u64) -> Self {
        Self { why: why.into(), retry_after_s }
    }
}

/// Says to a channel's writer what is worth another look at the store.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) desired: Notify,
    pub(crate) orders: Notify,
}

/// The registered channel of a host's service.
#[derive(Debug)]
struct Entry {
    id: u64,
    boot_id: String,
    wake: Arc<Wake>,
    close: watch::Sender<Option<Closing>>,
    last_seen: Arc<AtomicU64>,
}

/// A channel's own end of its registration.
#[derive(Debug)]
pub(crate) struct Registered {
    id: u64,
    host_id: HostId,
    /// Set when the hub wants the channel to end.
    pub(crate) closing: watch::Receiver<Option<Closing>>,
    /// Whether another boot of the same host was connected when this one came.
    pub(crate) cloned: bool,
}

/// All channels and waiters.
#[derive(Debug)]
pub(crate) struct Live {
    channels: Mutex<BTreeMap<HostId, Entry>>,
    next_id: AtomicU64,
    /// One per enrolled host that somebody asked about, so it is bounded by the hosts.
    orders: Mutex<BTreeMap<HostId, watch::Sender<()>>>,
    enrollments: watch::Sender<()>,
    stop: watch::Sender<bool>,
    /// Every channel holds a clone; when all are gone, the receiver knows.
    guard: Mutex<Option<Guard>>,
    ended: tokio::sync::Mutex<mpsc::Receiver<Infallible>>,
}

/// Held by every channel while it runs.
pub(crate) type Guard = mpsc::Sender<Infallible>;

impl Live {
    pub(crate) fn new() -> Self {
        let (guard, ended) = mpsc::channel(1);
        Self {
            channels: Mutex::default(),
            next_id: AtomicU64::new(1),
            orders: Mutex::default(),
            enrollments: watch::Sender::new(()),
            stop: watch::Sender::new(false),
            guard: Mutex::new(Some(guard)),
            ended: tokio::sync::Mutex::new(ended),
        }
    }

    /// The newest channel of a host is the one that counts; an older one is told to go.
    pub(crate) fn register(
        &self,
        host_id: HostId,
        boot_id: &str,
        wake: Arc<Wake>,
        last_seen: Arc<AtomicU64>,
    ) -> Registered {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let close = watch::Sender::new(None);
        let closing = close.subscribe();
        let entry = Entry { id, boot_id: boot_id.to_owned(), wake, close, last_seen };
        let before = lock(&self.channels).insert(host_id, entry);
        let cloned = before.as_ref().is_some_and(|before| before.boot_id != boot_id);
        if let Some(before) = before {
            let why =
                "another channel of this host was opened: is a second agent running with this identity?";
            before.close.send_replace(Some(Closing::new(why, 60)));
        }
        Registered { id, host_id, closing, cloned }
    }

    /// Forgets a channel, unless a newer one has taken its place.
    pub(crate) fn unregister(&self, registered: &Registered) {
        let mut channels = lock(&self.channels);
        if channels.get(&registered.host_id).is_some_and(|entry| entry.id == registered.id) {
            channels.remove(&registered.host_id);
        }
    }

    /// Ends the channel of a host.
    pub(crate) fn close(&self, host_id: &HostId, closing: Closing) {
        if let Some(entry) = lock(&self.channels).get(host_id) {
            entry.close.send_replace(Some(closing));
        }
    }

    /// Time of the last frame, if the host is connected.
    pub(crate) fn last_seen(&self, host_id: &HostId) -> Option<u64> {
        lock(&self.channels).get(host_id).map(|entry| entry.last_seen.load(Ordering::Relaxed))
    }

    /// Whether the host is connected.
    pub(crate) fn online(&self, host_id: &HostId) -> bool {
        lock(&self.channels).contains_key(host_id)
    }

    /// A new desired state is stored.
    pub(crate) fn desired_changed(&self, host_id: &HostId) {
        if let Some(entry) = lock(&self.channels).get(host_id) {
            entry.wake.desired.notify_one();
        }
    }

    /// An order to deliver is stored.
    pub(crate) fn order_submitted(&self, host_id: &HostId) {
        if let Some(entry) = lock(&self.channels).get(host_id) {
            entry.wake.orders.notify_one();
        }
        self.order_changed(host_id);
    }

    /// Something happened to an order of this host.
    pub(crate) fn order_changed(&self, host_id: &HostId) {
        if let Some(changed) = lock(&self.orders).get(host_id) {
            changed.send_replace(());
        }
    }

    /// To wait for [`Self::order_changed`]. Only for hosts that exist.
    pub(crate) fn watch_orders(&self, host_id: &HostId) -> watch::Receiver<()> {
        lock(&self.orders).entry(*host_id).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// How many wait for news of this host's orders.
    #[cfg(test)]
    pub(crate) fn watchers(&self, host_id: &HostId) -> usize {
        lock(&self.orders).get(host_id).map_or(0, watch::Sender::receiver_count)
    }

    /// An enrollment was approved or rejected.
    pub(crate) fn enrollment_changed(&self) {
        self.enrollments.send_replace(());
    }

    /// To wait for [`Self::enrollment_changed`].
    pub(crate) fn watch_enrollments(&self) -> watch::Receiver<()> {
        self.enrollments.subscribe()
    }

    /// Becomes true when the hub stops.
    pub(crate) fn watch_stop(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Tells everything to end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
        lock(&self.guard).take();
    }

    /// For a channel that begins; none when the hub stops.
    pub(crate) fn guard(&self) -> Option<Guard> {
        lock(&self.guard).clone()
    }

    /// Waits until all channels have ended after [`Self::stop`]; false if that took too long.
    pub(crate) async fn ended(&self, patience: Duration) -> bool {
        let mut ended = self.ended.lock().await;
        // Nothing can be sent, so this returns when the last sender is dropped.
        tokio::time::timeout(patience, ended.recv()).await.is_ok()
    }
}

/// A panic elsewhere leaves these maps whole: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(live: &Live, boot_id: &str) -> Registered {
        live.register(HostId::from_bytes([1; 16]), boot_id, Arc::default(), Arc::default())
    }

    #[test]
    fn the_newest_channel_wins_and_an_old_one_cannot_remove_it() {
        let live = Live::new();
        let host = HostId::from_bytes([1; 16]);
        let first = join(&live, "boot-1");
        assert!(!first.cloned && first.closing.borrow().is_none());
        let second = join(&live, "boot-1");
        assert!(!second.cloned && first.closing.borrow().is_some());
        live.unregister(&first);
        assert!(live.online(&host));
        let third = join(&live, "boot-2");
        assert!(third.cloned, "another boot id while the first is connected");
        live.unregister(&third);
        assert!(!live.online(&host));
    }

    #[tokio::test]
    async fn the_end_is_awaited() {
        let live = Live::new();
        let guard = live.guard().unwrap();
        live.stop();
        assert!(*live.watch_stop().borrow() && live.guard().is_none());
        assert!(!live.ended(Duration::from_millis(1)).await);
        drop(guard);
        assert!(live.ended(Duration::from_secs(10)).await);
    }
}
