//! Who is connected now, and who waits for news. Nothing here is durable: what has to survive is
//! in the store, and this only says "look there again".

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::HostId;
use protocol::frame::HubFrame;
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
    pub(crate) policy: Notify,
}

/// What a channel gives to those who want something of its host.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) wake: Arc<Wake>,
    /// Unix seconds of the last frame.
    pub(crate) last_seen: Arc<AtomicU64>,
    /// Frames about tunnels, and questions. They are for this channel only and not kept for a later one.
    pub(crate) tunnels: mpsc::Sender<HubFrame>,
    /// Whether the agent speaks a version in which it answers questions.
    pub(crate) answers: bool,
}

/// A host's channel as a tunnel or a question sees it, which lives and ends with it.
#[derive(Debug)]
pub(crate) struct Line {
    /// Which channel.
    pub(crate) channel: u64,
    /// Frames about this tunnel, or this question.
    pub(crate) frames: mpsc::Sender<HubFrame>,
    /// Ends when the channel ended or was replaced; nothing is ever sent.
    pub(crate) alive: watch::Receiver<()>,
    /// See [`Handle::answers`].
    pub(crate) answers: bool,
}

/// The registered channel of a host's service.
#[derive(Debug)]
struct Entry {
    id: u64,
    boot_id: String,
    handle: Handle,
    close: watch::Sender<Option<Closing>>,
    /// Dropped with the entry, which is what tunnels wait for.
    alive: watch::Sender<()>,
}

/// A channel's own end of its registration.
#[derive(Debug)]
pub(crate) struct Registered {
    /// Unlike any other channel's.
    pub(crate) id: u64,
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
    pub(crate) fn register(&self, host_id: HostId, boot_id: &str, handle: Handle) -> Registered {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let close = watch::Sender::new(None);
        let closing = close.subscribe();
        let alive = watch::Sender::new(());
        let entry = Entry { id, boot_id: boot_id.to_owned(), handle, close, alive };
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
        lock(&self.channels).get(host_id).map(|entry| entry.handle.last_seen.load(Ordering::Relaxed))
    }

    /// Whether the host is connected.
    pub(crate) fn online(&self, host_id: &HostId) -> bool {
        lock(&self.channels).contains_key(host_id)
    }

    /// For a tunnel through the host's channel; none when it is not connected.
    pub(crate) fn line(&self, host_id: &HostId) -> Option<Line> {
        lock(&self.channels).get(host_id).map(|entry| Line {
            channel: entry.id,
            frames: entry.handle.tunnels.clone(),
            alive: entry.alive.subscribe(),
            answers: entry.handle.answers,
        })
    }

    /// A new desired state is stored.
    pub(crate) fn desired_changed(&self, host_id: &HostId) {
        if let Some(entry) = lock(&self.channels).get(host_id) {
            entry.handle.wake.desired.notify_one();
        }
    }

    /// A policy document is stored: for every host.
    pub(crate) fn policy_changed(&self) {
        for entry in lock(&self.channels).values() {
            entry.handle.wake.policy.notify_one();
        }
    }

    /// An order to deliver is stored.
    pub(crate) fn order_submitted(&self, host_id: &HostId) {
        if let Some(entry) = lock(&self.channels).get(host_id) {
            entry.handle.wake.orders.notify_one();
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
        let (tunnels, _) = mpsc::channel(1);
        let handle = Handle { wake: Arc::default(), last_seen: Arc::default(), tunnels, answers: true };
        live.register(HostId::from_bytes([1; 16]), boot_id, handle)
    }

    #[test]
    fn the_newest_channel_wins_and_an_old_one_cannot_remove_it() {
        let live = Live::new();
        let host = HostId::from_bytes([1; 16]);
        let first = join(&live, "boot-1");
        assert!(!first.cloned && first.closing.borrow().is_none());
        let line = live.line(&host).unwrap();
        assert!(line.channel == first.id && line.alive.has_changed().is_ok());
        let second = join(&live, "boot-1");
        assert!(line.alive.has_changed().is_err(), "a tunnel ends with the channel it was opened on");
        assert!(!second.cloned && first.closing.borrow().is_some());
        live.unregister(&first);
        assert!(live.online(&host));
        let third = join(&live, "boot-2");
        assert!(third.cloned, "another boot id while the first is connected");
        live.unregister(&third);
        assert!(!live.online(&host) && live.line(&host).is_none());
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
