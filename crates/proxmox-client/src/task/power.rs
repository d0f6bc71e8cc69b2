//! Following a guest to the state wanted. A task that starts or stops a guest that HA manages ends when
//! the request is filed, seconds to minutes before the guest changes (`pve/facts.md` 4.15).

use std::time::Duration;

use tokio::time::Instant;

use crate::client::Client;
use crate::cluster::ResourceFilter;
use crate::guest::status::RunState;
use crate::task::watch::{FOREVER, Pace, TaskEnd};
use crate::value::ids::{GuestKind, Vmid};
use crate::value::upid::Upid;
use crate::wire::classify::ErrorClass;
use crate::wire::error::{ApiError, Delivery};

/// Where a guest was when following it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerEnd {
    /// In the state wanted.
    Reached,
    /// In another one when the time was over. It may still change.
    Still {
        /// The state it was last seen in.
        state: RunState,
    },
    /// It could not be seen.
    Unknown {
        /// Why.
        why: String,
    },
}

/// The end of a power task and of the change it was to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerOutcome {
    /// How the task ended.
    pub task: TaskEnd,
    /// What the guest did. This, not the task, is what was wanted.
    pub guest: PowerEnd,
}

/// The state, or why it is not known and whether to ask again.
struct Unseen {
    why: String,
    again: bool,
}

impl From<ApiError> for Unseen {
    fn from(error: ApiError) -> Self {
        let again = match error.class() {
            ErrorClass::Untrusted
            | ErrorClass::Permission { .. }
            | ErrorClass::Parameter
            | ErrorClass::NoSuchMethod => false,
            ErrorClass::Auth
            | ErrorClass::NotFound
            | ErrorClass::Locked { .. }
            | ErrorClass::Busy
            | ErrorClass::NoQuorum
            | ErrorClass::DigestMismatch
            | ErrorClass::NodeUnreachable
            | ErrorClass::Ambiguous
            | ErrorClass::Other => true,
        };
        Self { why: format!("the guest could not be seen ({error}); look at its status"), again }
    }
}

/// Where the loop looks.
trait StateSource {
    fn look(&mut self) -> impl Future<Output = Result<RunState, Unseen>> + Send;
}

struct Guest<'a> {
    client: &'a Client,
    kind: GuestKind,
    vmid: Vmid,
}

impl StateSource for Guest<'_> {
    async fn look(&mut self) -> Result<RunState, Unseen> {
        self.client.run_state(self.kind, self.vmid).await
    }
}

async fn follow(source: &mut impl StateSource, wanted: &RunState, limit: Duration) -> PowerEnd {
    let started = Instant::now();
    let deadline = started + limit.min(FOREVER);
    loop {
        let (end, again) = match source.look().await {
            Ok(state) if state == *wanted => return PowerEnd::Reached,
            Ok(state) => (PowerEnd::Still { state }, true),
            Err(unseen) => (PowerEnd::Unknown { why: unseen.why }, unseen.again),
        };
        let now = Instant::now();
        if !again || now >= deadline {
            return end;
        }
        tokio::time::sleep_until(deadline.min(now + Pace::USUAL.pause(now - started))).await;
    }
}

impl Client {
    /// Follows a guest to the state wanted, for at most `limit`; looks once if that is zero. A guest
    /// that HA moved is found on its new node.
    pub async fn follow_power(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        wanted: &RunState,
        limit: Duration,
    ) -> PowerEnd {
        follow(&mut Guest { client: self, kind, vmid }, wanted, limit).await
    }

    /// Waits for a power task and for the guest: the task's end is not the guest's. Where the task
    /// failed or still runs, the guest is looked at once.
    pub async fn power_end(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        upid: &Upid,
        wanted: &RunState,
        limit: Duration,
    ) -> PowerOutcome {
        let started = Instant::now();
        let task = self.wait_task(upid, limit).await;
        let left = match &task {
            TaskEnd::Ok | TaskEnd::Warnings { .. } => limit.saturating_sub(started.elapsed()),
            TaskEnd::Failed { .. } | TaskEnd::Unknown { .. } | TaskEnd::StillRunning { .. } => Duration::ZERO,
        };
        let guest = self.follow_power(kind, vmid, wanted, left).await;
        PowerOutcome { task, guest }
    }

    async fn run_state(&self, kind: GuestKind, vmid: Vmid) -> Result<RunState, Unseen> {
        match self.guest_status(kind, vmid).await {
            Ok(status) => Ok(status.status),
            Err(error) if error.class() == ErrorClass::NotFound && error.delivery() == Delivery::Answered => {
                self.run_state_elsewhere(vmid).await?.ok_or_else(|| error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// On another node, where HA may have taken it. That view is some ten seconds old.
    async fn run_state_elsewhere(&self, vmid: Vmid) -> Result<Option<RunState>, Unseen> {
        let guests = self.cluster_resources_of(ResourceFilter::Guests).await?;
        let found = guests.into_iter().find(|guest| guest.vmid == Some(vmid));
        Ok(found.and_then(|guest| guest.status).map(|status| match status.as_str() {
            "running" => RunState::Running,
            "stopped" => RunState::Stopped,
            _ => RunState::Other(status),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers in order; the last one for ever.
    struct Script {
        steps: Vec<fn() -> Result<RunState, Unseen>>,
        looks: usize,
    }

    impl StateSource for Script {
        async fn look(&mut self) -> Result<RunState, Unseen> {
            let step = self.looks.min(self.steps.len() - 1);
            self.looks += 1;
            self.steps[step]()
        }
    }

    fn script(steps: &[fn() -> Result<RunState, Unseen>]) -> Script {
        Script { steps: steps.to_vec(), looks: 0 }
    }

    fn stopped() -> Result<RunState, Unseen> {
        Ok(RunState::Stopped)
    }
    fn running() -> Result<RunState, Unseen> {
        Ok(RunState::Running)
    }
    fn away() -> Result<RunState, Unseen> {
        Err(Unseen { why: "restarting".to_owned(), again: true })
    }
    fn forbidden() -> Result<RunState, Unseen> {
        Err(Unseen { why: "VM.Audit".to_owned(), again: false })
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_followed_through_trouble_to_the_state_wanted() {
        let mut guest = script(&[stopped, stopped, away, stopped, running]);
        assert_eq!(follow(&mut guest, &RunState::Running, MINUTE).await, PowerEnd::Reached);
        assert_eq!(guest.looks, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn time_over_is_the_state_last_seen_and_not_a_failure() {
        let started = Instant::now();
        let mut guest = script(&[stopped]);
        let end = follow(&mut guest, &RunState::Running, 5 * MINUTE).await;
        assert_eq!(end, PowerEnd::Still { state: RunState::Stopped });
        assert!(started.elapsed() >= 5 * MINUTE && started.elapsed() < 5 * MINUTE + MINUTE / 60);
        assert!(guest.looks < 20 + 80 + 10 + 4 * 25 + 2, "{}", guest.looks);
        // What is not seen at the end is not called what it was before.
        let end = follow(&mut script(&[stopped, away]), &RunState::Running, MINUTE).await;
        assert_eq!(end, PowerEnd::Unknown { why: "restarting".to_owned() });
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_is_all_there_is_without_time_and_without_rights() {
        for (steps, limit) in [(&[stopped as fn() -> _][..], Duration::ZERO), (&[forbidden, running], MINUTE)]
        {
            let mut guest = script(steps);
            assert_ne!(follow(&mut guest, &RunState::Running, limit).await, PowerEnd::Reached);
            assert_eq!(guest.looks, 1);
        }
        assert_eq!(
            follow(&mut script(&[running]), &RunState::Running, Duration::ZERO).await,
            PowerEnd::Reached
        );
        assert_eq!(
            follow(&mut script(&[running]), &RunState::Running, Duration::MAX).await,
            PowerEnd::Reached
        );
    }
}
