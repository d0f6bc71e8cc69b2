//! Who may work on what: one order a guest and one bulk transfer a storage, first come first served, instead of
//! one lock for the host. Who waits is told to `writ-warden queue`; too many waiters are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use protocol::Sha256;
use tokio::sync::{OwnedMutexGuard, TryLockError};

use crate::ops::Resource;
use crate::warden::lock;

/// Most orders that wait on a host.
const MAX_WAITING: usize = 32;

/// The places.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// A place is kept while somebody holds it or waits for it.
    places: BTreeMap<Resource, Arc<tokio::sync::Mutex<()>>>,
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

/// An order that holds or waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The order; none of an unsigned step.
    pub op: Option<Sha256>,
    /// What it works on.
    pub resources: BTreeSet<Resource>,
    /// Since when, unix seconds.
    pub since: u64,
    /// Whether it has begun.
    pub working: bool,
}

/// There are too many.
#[derive(Debug, thiserror::Error)]
#[error(
    "{MAX_WAITING} orders are waiting on this host already: send it again when they are done (`writ-warden queue` on the host)"
)]
pub struct Full;

/// Keeps others away from its resources until it is dropped.
#[derive(Debug)]
pub struct Claim {
    queue: Arc<Queue>,
    number: u64,
    resources: BTreeSet<Resource>,
    guards: Vec<OwnedMutexGuard<()>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.guards.clear();
        let mut inner = lock(&self.queue.inner);
        inner.entries.remove(&self.number);
        for resource in &self.resources {
            // Nobody else knows the place: the map's own reference is the last.
            if inner.places.get(resource).is_some_and(|place| Arc::strong_count(place) == 1) {
                inner.places.remove(resource);
            }
        }
    }
}

impl Queue {
    fn enter(self: &Arc<Self>, op: Option<Sha256>, resources: BTreeSet<Resource>, working: bool) -> Claim {
        let mut inner = lock(&self.inner);
        let number = inner.next;
        inner.next += 1;
        let entry = Entry { op, resources: resources.clone(), since: crate::now(), working };
        inner.entries.insert(number, entry);
        Claim { queue: self.clone(), number, resources, guards: Vec::new() }
    }

    fn place(&self, resource: &Resource) -> Arc<tokio::sync::Mutex<()>> {
        lock(&self.inner).places.entry(resource.clone()).or_default().clone()
    }

    /// Waits until all of them are free, and calls `on_wait` before it first has to. Taken one after the other in their own order, so that no two wait for
    /// each other. Says whether it had to wait.
    pub async fn claim(
        self: &Arc<Self>,
        resources: BTreeSet<Resource>,
        op: &Sha256,
        on_wait: impl FnOnce() + Send,
    ) -> Result<(Claim, bool), Full> {
        if lock(&self.inner).entries.values().filter(|entry| !entry.working).count() >= MAX_WAITING {
            return Err(Full);
        }
        let mut claim = self.enter(Some(*op), resources, false);
        let mut on_wait = Some(on_wait);
        for resource in &claim.resources {
            let place = self.place(resource);
            let guard = match place.clone().try_lock_owned() {
                Ok(guard) => guard,
                Err(TryLockError { .. }) => {
                    if let Some(on_wait) = on_wait.take() {
                        on_wait();
                    }
                    place.lock_owned().await
                }
            };
            claim.guards.push(guard);
        }
        if let Some(entry) = lock(&self.inner).entries.get_mut(&claim.number) {
            entry.working = true;
        }
        Ok((claim, on_wait.is_none()))
    }

    /// Takes all of them, or says which is not free. For unsigned steps and for what a crash interrupted.
    pub fn try_claim(
        self: &Arc<Self>,
        resources: BTreeSet<Resource>,
        op: Option<&Sha256>,
    ) -> Result<Claim, Resource> {
        let mut claim = self.enter(op.copied(), resources, true);
        for resource in &claim.resources {
            match self.place(resource).try_lock_owned() {
                Ok(guard) => claim.guards.push(guard),
                Err(TryLockError { .. }) => return Err(resource.clone()),
            }
        }
        Ok(claim)
    }

    /// The same for people.
    pub fn told(&self) -> Vec<protocol::local::QueueEntry> {
        let told = |entry: Entry| protocol::local::QueueEntry {
            op: entry.op,
            resources: entry.resources.iter().map(ToString::to_string).collect(),
            since: entry.since,
            working: entry.working,
        };
        self.entries().into_iter().map(told).collect()
    }

    /// Who works and who waits, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.inner).entries.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Vmid;

    fn guests(numbers: &[u32]) -> BTreeSet<Resource> {
        numbers.iter().map(|number| Resource::Guest(Vmid::try_from(*number).unwrap())).collect()
    }

    fn op(number: u8) -> Sha256 {
        Sha256::of(&[number])
    }

    #[tokio::test]
    async fn one_at_a_time_in_order_and_others_beside() {
        let queue = Arc::new(Queue::default());
        let (first, waited) = queue.claim(guests(&[100]), &op(1), || ()).await.unwrap();
        assert!(!waited);
        // Another guest is no reason to wait.
        let (_beside, waited) = queue.claim(guests(&[101]), &op(2), || ()).await.unwrap();
        assert!(!waited);
        assert!(
            matches!(queue.try_claim(guests(&[100, 102]), None), Err(Resource::Guest(vmid)) if vmid.get() == 100)
        );
        let mut waiting = Vec::new();
        for number in 3..6 {
            let claim = queue.clone();
            waiting.push(tokio::spawn(async move {
                claim.claim(guests(&[100]), &op(number), || ()).await.unwrap()
            }));
            while queue.entries().len() < usize::from(number) {
                tokio::task::yield_now().await;
            }
        }
        drop(first);
        for next in waiting {
            let (claim, waited) = next.await.unwrap();
            assert!(waited);
            drop(claim);
        }
        assert_eq!(queue.entries().len(), 1);
        // Nothing is kept of what nobody holds.
        assert_eq!(lock(&queue.inner).places.len(), 1);
    }

    #[tokio::test]
    async fn two_that_want_each_others_do_not_wait_for_ever() {
        let queue = Arc::new(Queue::default());
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                let queue = queue.clone();
                let wants = if number % 2 == 0 { guests(&[100, 101]) } else { guests(&[101, 100]) };
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let (_claim, _) = queue.claim(wants.clone(), &op(number), || ()).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((queue.entries().len(), lock(&queue.inner).places.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_and_too_many_are_refused() {
        let queue = Arc::new(Queue::default());
        let (held, _) = queue.claim(guests(&[100]), &op(0), || ()).await.unwrap();
        let waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.claim(guests(&[100]), &op(1), || ()).await.map(drop) })
            })
            .collect();
        while queue.entries().len() <= MAX_WAITING {
            tokio::task::yield_now().await;
        }
        assert!(queue.claim(guests(&[555]), &op(2), || ()).await.is_err());
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        while queue.entries().len() > 1 {
            tokio::task::yield_now().await;
        }
        drop(held);
        assert!(lock(&queue.inner).places.is_empty());
    }
}
