//! What is under way, in memory: one place for each script and each session, and the orders that somebody
//! was told about that they are not known. A restart of the runner ends everything in here: whoever waited
//! for an answer has lost the connection then, and no request of before is still on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use authz::RefusalCode;
use protocol::runner::RunnerAnswer;
use protocol::{HostName, Sha256};
use tokio::sync::watch;

use crate::checks::Denied;

/// Most orders that can be settled until a restart. The warden asks about orders that it has accepted
/// itself and whose answer it has lost, so a handful is much.
const SETTLED: usize = 65_536;

/// Gives the last answer about a script.
pub type Waiter = watch::Receiver<Option<RunnerAnswer>>;

/// All of them.
#[derive(Debug, Default)]
pub struct Places {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: BTreeMap<Sha256, Waiter>,
    sessions: u32,
    of_operator: BTreeMap<HostName, u32>,
    settled: BTreeSet<Sha256>,
}

/// What is to be said of an order that somebody asks about.
#[derive(Debug)]
pub enum Settled {
    /// It is under way; wait for this.
    UnderWay(Waiter),
    /// It is not, and never will be from now on.
    Never,
}

impl Places {
    /// A panic while the lock was held leaves the data as it was between two complete changes.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a script; at most `most` at once.
    pub fn job(self: &Arc<Self>, op: Sha256, most: u32) -> Result<JobPlace, Denied> {
        let mut inner = self.lock();
        if inner.settled.contains(&op) {
            let why = "the warden has been told that this order never came, so it is refused from now on: prepare and sign a new one";
            return Err(Denied::new(RefusalCode::Replay, why));
        }
        if inner.jobs.contains_key(&op) {
            let why = "this very order is being carried out: wait for its end";
            return Err(Denied::new(RefusalCode::Replay, why));
        }
        if inner.jobs.len() >= most as usize {
            let why =
                format!("{most} scripts run on this host already: wait until one has ended (jobs_at_once)");
            return Err(Denied::new(RefusalCode::Busy, why));
        }
        let (sender, waiter) = watch::channel(None);
        inner.jobs.insert(op, waiter);
        Ok(JobPlace { places: self.clone(), op, sender })
    }

    /// A place for a session of these operators; at most `most` at once for each.
    pub fn session(self: &Arc<Self>, operators: Vec<HostName>, most: u32) -> Result<SessionPlace, Denied> {
        let mut inner = self.lock();
        let full = |operator: &&HostName| inner.of_operator.get(operator).is_some_and(|open| *open >= most);
        if let Some(operator) = operators.iter().find(full) {
            let why = format!(
                "{operator} has {most} open session(s) on this host, which is all that one may have: close one first (sessions_per_operator)"
            );
            return Err(Denied::new(RefusalCode::Sessions, why));
        }
        for operator in &operators {
            *inner.of_operator.entry(operator.clone()).or_default() += 1;
        }
        inner.sessions += 1;
        Ok(SessionPlace { places: self.clone(), operators })
    }

    /// Asks about a script, which settles it.
    pub fn settle(&self, op: &Sha256) -> Result<Settled, Denied> {
        let mut inner = self.lock();
        if let Some(waiter) = inner.jobs.get(op) {
            return Ok(Settled::UnderWay(waiter.clone()));
        }
        if inner.settled.len() >= SETTLED && !inner.settled.contains(op) {
            let why = format!("{SETTLED} unknown orders were asked about: restart the runner");
            return Err(Denied::new(RefusalCode::Busy, why));
        }
        inner.settled.insert(*op);
        Ok(Settled::Never)
    }

    /// Takes back [`Self::settle`] for an order that turned out to be known: its burned nonce refuses it.
    pub fn known(&self, op: &Sha256) {
        self.lock().settled.remove(op);
    }

    /// Whether a script is under way.
    pub fn has_job(&self, op: &Sha256) -> bool {
        self.lock().jobs.contains_key(op)
    }

    /// (sessions, scripts)
    pub fn count(&self) -> (u32, u32) {
        let inner = self.lock();
        (inner.sessions, u32::try_from(inner.jobs.len()).unwrap_or(u32::MAX))
    }
}

/// Held while a script is under way. Dropped without an end it tells the waiting that nobody knows.
#[derive(Debug)]
pub struct JobPlace {
    places: Arc<Places>,
    op: Sha256,
    sender: watch::Sender<Option<RunnerAnswer>>,
}

impl JobPlace {
    /// Frees the place and gives everybody who waits the last answer.
    pub fn end(self, answer: RunnerAnswer) {
        // Whoever asks from here on finds the file.
        self.places.lock().jobs.remove(&self.op);
        self.sender.send_replace(Some(answer));
    }
}

impl Drop for JobPlace {
    fn drop(&mut self) {
        // After an end the place may be somebody else's already: a refused order can come again.
        let mut inner = self.places.lock();
        if inner.jobs.get(&self.op).is_some_and(|waiter| waiter.same_channel(&self.sender.subscribe())) {
            inner.jobs.remove(&self.op);
        }
    }
}

/// Held while a session is open.
#[derive(Debug)]
pub struct SessionPlace {
    places: Arc<Places>,
    operators: Vec<HostName>,
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let mut inner = self.places.lock();
        inner.sessions = inner.sessions.saturating_sub(1);
        for operator in &self.operators {
            if let Some(open) = inner.of_operator.get_mut(operator) {
                *open -= 1;
                if *open == 0 {
                    inner.of_operator.remove(operator);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(text: &str) -> Sha256 {
        Sha256::of(text.as_bytes())
    }

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Denied>) -> String {
        result.unwrap_err().code
    }

    #[test]
    fn one_place_an_order_and_no_more_than_allowed() {
        let places = Arc::new(Places::default());
        let first = places.job(op("a"), 2).unwrap();
        assert_eq!(code(places.job(op("a"), 2)), "replay");
        let second = places.job(op("b"), 2).unwrap();
        assert_eq!(code(places.job(op("c"), 2)), "busy");
        assert_eq!(places.count(), (0, 2));
        first.end(RunnerAnswer::NotStarted { why: "x".into() });
        let third = places.job(op("c"), 2).unwrap();
        drop((second, third));
        assert_eq!(places.count(), (0, 0));
    }

    #[test]
    fn who_is_told_never_is_told_the_truth() {
        let places = Arc::new(Places::default());
        assert!(matches!(places.settle(&op("a")), Ok(Settled::Never)));
        assert_eq!(code(places.job(op("a"), 9)), "replay");
        places.known(&op("a"));
        places.job(op("a"), 9).unwrap();
    }

    #[test]
    fn waiting_ends_with_the_answer_or_with_the_loss_of_it() {
        let places = Arc::new(Places::default());
        let place = places.job(op("a"), 9).unwrap();
        let Ok(Settled::UnderWay(waiter)) = places.settle(&op("a")) else { panic!("it is under way") };
        assert_eq!(*waiter.borrow(), None);
        place.end(RunnerAnswer::NotKnown {});
        assert_eq!(*waiter.borrow(), Some(RunnerAnswer::NotKnown {}));
        let place = places.job(op("a"), 9).unwrap();
        let Ok(Settled::UnderWay(waiter)) = places.settle(&op("a")) else { panic!("it is under way") };
        drop(place);
        assert!(waiter.has_changed().is_err(), "nobody will ever say");
        assert_eq!(places.count(), (0, 0));
    }

    #[test]
    fn settling_is_bounded() {
        let places = Places::default();
        for n in 0..SETTLED {
            places.settle(&op(&n.to_string())).unwrap();
        }
        assert_eq!(code(places.settle(&op("one more"))), "busy");
        places.settle(&op("7")).unwrap();
    }

    #[test]
    fn sessions_are_counted_for_everybody_who_signed() {
        let places = Arc::new(Places::default());
        let both = places.session(vec![name("alice"), name("bob")], 1).unwrap();
        assert_eq!(code(places.session(vec![name("bob")], 1)), "sessions");
        assert_eq!(code(places.session(vec![name("carol"), name("alice")], 1)), "sessions");
        let carol = places.session(vec![name("carol")], 1).unwrap();
        assert_eq!(places.count(), (2, 0));
        drop(both);
        let bob = places.session(vec![name("bob")], 1).unwrap();
        drop((carol, bob));
        assert_eq!(places.count(), (0, 0));
        assert!(places.lock().of_operator.is_empty());
    }
}
