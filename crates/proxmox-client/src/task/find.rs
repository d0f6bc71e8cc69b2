//! What became of a request whose answer was lost.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::Client;
use crate::task::{TaskEntry, TaskFilter, TaskSource};
use crate::value::ids::Vmid;
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

/// Clocks of the two sides may differ by this much when looking for a task.
const CLOCK_SLACK: u64 = 2;
const FIND_LIMIT: u32 = 500;
/// A request that was cut off may still wait for a lock (ten seconds) behind a proxy that gave up
/// after thirty (`pve/facts.md` 3.8, 5.2); only after that does "no task" mean "never started".
const SETTLED: u64 = 45;

/// What [`Client::find_task`] found.
#[derive(Debug, Clone)]
pub enum FoundTask {
    /// Exactly one task fits. Wait for it.
    Found(Upid),
    /// None fits, the list would have shown it, and it is too late for it to start: the request was
    /// not carried out.
    NotFound,
    /// More than one fits. Which of them is this one cannot be said; nothing must be sent again.
    Several(Vec<Upid>),
    /// It cannot be said.
    CannotTell(Doubt),
}

/// Why it cannot be said what became of a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Doubt {
    /// The list could not be read.
    #[error("the node's tasks could not be listed ({0}); ask again when it answers")]
    NotListed(ApiError),
    /// The list was cut off.
    #[error("more than {FIND_LIMIT} tasks of that kind were started since; narrow the time")]
    TooMany,
    /// The author is another token, whose tasks this one cannot see.
    #[error(
        "the tasks of `{user}` are shown only to itself and with Sys.Audit on the node; ask with its token"
    )]
    Hidden {
        /// The author asked for.
        user: String,
    },
    /// No task yet, and one may still come.
    #[error(
        "no task was started yet, and the request may still be waiting inside Proxmox; look again in {seconds} s"
    )]
    TooEarly {
        /// How long until none means none.
        seconds: u64,
    },
}

/// What the rows that fit say, at `now` by the node's clock.
fn judge(mut fitting: Vec<Upid>, listed: usize, since: u64, now: u64) -> FoundTask {
    match (fitting.pop(), fitting.is_empty()) {
        (Some(upid), true) => FoundTask::Found(upid),
        (Some(last), false) => {
            fitting.push(last);
            FoundTask::Several(fitting)
        }
        (None, _) if listed >= FIND_LIMIT as usize => FoundTask::CannotTell(Doubt::TooMany),
        (None, _) => match (since + SETTLED).saturating_sub(now) {
            0 => FoundTask::NotFound,
            seconds => FoundTask::CannotTell(Doubt::TooEarly { seconds }),
        },
    }
}

impl Client {
    /// What became of a request whose answer was lost: looks for its task by type, guest and author,
    /// begun at or after `since` (seconds since 1970 by the node's clock, taken before sending). Never
    /// guesses. Of a guest that HA manages, the type is `hastart` or `hastop`.
    pub async fn find_task(&self, since: u64, task_type: &str, vmid: Vmid, user: &str) -> FoundTask {
        let (rows, listed) = match self.search(since, task_type, vmid, user).await {
            Ok(found) => found,
            Err(error) => return FoundTask::CannotTell(Doubt::NotListed(error)),
        };
        let fitting: Vec<Upid> = rows.into_iter().map(|row| row.upid).collect();
        if fitting.is_empty() && user != self.identity() && !self.sees_all_tasks().await {
            return FoundTask::CannotTell(Doubt::Hidden { user: user.to_owned() });
        }
        let now = match self.node_time().await {
            Ok(time) => time.time,
            // Without Sys.Audit the node's clock is hidden; it is this machine's, or near it.
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        };
        judge(fitting, listed, since, now)
    }

    async fn sees_all_tasks(&self) -> bool {
        let Ok(node) = self.node().await else { return false };
        let rights = self.permissions_on(&format!("/nodes/{node}")).await;
        rights.is_ok_and(|rights| rights.contains_key("Sys.Audit"))
    }

    /// Tasks that a lost answer may have started: this type, this guest, this author
    /// (`user@realm!tokenid`), begun at or after `since` (seconds since 1970, by the node's clock,
    /// two seconds of slack), running or not.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn find_tasks(
        &self,
        since: u64,
        task_type: &str,
        vmid: Vmid,
        user: &str,
    ) -> Result<Vec<TaskEntry>, ApiError> {
        Ok(self.search(since, task_type, vmid, user).await?.0)
    }

    /// The tasks that fit, and how many were listed.
    async fn search(
        &self,
        since: u64,
        task_type: &str,
        vmid: Vmid,
        user: &str,
    ) -> Result<(Vec<TaskEntry>, usize), ApiError> {
        let filter = TaskFilter {
            source: TaskSource::All,
            vmid: Some(vmid),
            task_type: Some(task_type.to_owned()),
            since: Some(since.saturating_sub(CLOCK_SLACK)),
            limit: Some(FIND_LIMIT),
            ..TaskFilter::default()
        };
        let mut tasks = self.tasks(&filter).await?;
        let listed = tasks.len();
        // Asked of the server and checked here: rows of running tasks spell their author
        // differently from finished ones, the UPID does not.
        let number = vmid.to_string();
        tasks.retain(|task| {
            task.upid.user() == user && task.upid.task_type() == task_type && task.upid.id() == number
        });
        Ok((tasks, listed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upid(pid: u32) -> Upid {
        format!("UPID:pve1:{pid:08X}:00000001:6B025FB3:qmsnapshot:100:tester@pve!full:").parse().unwrap()
    }

    #[test]
    fn none_means_none_only_when_it_is_late_and_the_list_is_whole() {
        let none = |listed, now| judge(Vec::new(), listed, 1000, now);
        assert!(matches!(none(0, 1045), FoundTask::NotFound));
        assert!(matches!(none(3, 9999), FoundTask::NotFound));
        for (now, left) in [(1000, 45), (1044, 1), (900, 145)] {
            let FoundTask::CannotTell(doubt) = none(0, now) else { panic!("too early") };
            assert!(doubt.to_string().contains(&format!("in {left} s")), "{doubt}");
        }
        assert!(matches!(none(500, 9999), FoundTask::CannotTell(Doubt::TooMany)));
    }

    #[test]
    fn one_is_found_and_two_are_not_chosen_from() {
        assert!(matches!(judge(vec![upid(1)], 500, 1000, 1000), FoundTask::Found(found) if found == upid(1)));
        let FoundTask::Several(all) = judge(vec![upid(1), upid(2)], 2, 1000, 1000) else { panic!("several") };
        assert_eq!(all, [upid(1), upid(2)]);
    }
}
