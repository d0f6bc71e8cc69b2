//! What became of a request whose answer was lost.

use std::time::Instant;

use crate::client::Client;
use crate::task::{Listed, TaskEntry, TaskFilter, TaskSource};
use crate::value::ids::Vmid;
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

/// [`Client::find_tasks`] allows the clocks of the two sides to differ by this much.
const CLOCK_SLACK: u64 = 2;
const FIND_LIMIT: u32 = 500;
/// A request that was cut off may still wait for a lock (ten seconds) behind a proxy that gave up
/// after thirty (`pve/facts.md` 3.8, 5.2); only after that does "no task" mean "never started".
const SETTLED: u64 = 45;

/// The task to look for: that of a request whose answer was lost.
///
/// Take [`Client::node_clock`] and the tasks there are **before** sending; afterwards it is too late to
/// know either.
#[derive(Debug, Clone, Copy)]
pub struct FindTask<'a> {
    /// Begun at this second or later: [`Client::node_clock`] as it was before the request was sent, and
    /// no clock of this machine, which may differ.
    pub since: u64,
    /// `qmsnapshot`, …; of a guest that HA manages also `hastart` or `hastop`.
    pub task_types: &'a [&'a str],
    /// What it is about: the guest's number, or what stands there for other tasks (`200@local` of a
    /// volume that is deleted, a file's escaped name; `pve/facts.md` 4.2).
    pub id: &'a str,
    /// The author, `user@realm!tokenid`: [`Client::identity`].
    pub user: &'a str,
    /// Tasks that were there before the request was sent, or that are known to be of others. Without
    /// them, a task of the same kind that began in the second of `since` is taken for this one's.
    pub known: &'a [Upid],
}

/// What [`Client::find_task`] found.
#[derive(Debug, Clone)]
pub enum FoundTask {
    /// Exactly one task fits. Wait for it.
    Found(Upid),
    /// None fits, the list would have shown it, and 45 seconds have passed since the request. It was in
    /// all likelihood not carried out; for certain it is not, because what hangs inside Proxmox for
    /// longer than its own timeouts may still begin. Look at the guest before sending anew.
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
    /// Rows of the list could not be read, and the task may be one of them.
    #[error("{rows} of the tasks listed could not be read; look at the node's task list itself")]
    Unreadable {
        /// How many.
        rows: usize,
    },
    /// The author is another token, whose tasks this one cannot see.
    #[error(
        "the tasks of `{user}` are shown only to itself and with Sys.Audit on the node; ask with its token"
    )]
    Hidden {
        /// The author asked for.
        user: String,
    },
    /// No task yet, and without the node's clock nobody can say whether one may still come.
    #[error(
        "no task was started yet, and what time it is on the node is not known: grant the token Sys.Audit on it, or look at its task list a minute after the request"
    )]
    NoClock,
    /// No task yet, and one may still come.
    #[error(
        "no task was started yet, and the request may still be waiting inside Proxmox; look again in {seconds} s"
    )]
    TooEarly {
        /// How long until none means none.
        seconds: u64,
    },
}

/// What a list that holds these rows that fit says. `now` is the node's clock, not later than when the
/// list was made.
fn judge(mut fitting: Vec<Upid>, listed: &Listed, since: u64, now: Option<u64>) -> FoundTask {
    // What the list hides may be the task, or another that fits as well.
    if listed.unreadable > 0 {
        return FoundTask::CannotTell(Doubt::Unreadable { rows: listed.unreadable });
    }
    if listed.rows() >= FIND_LIMIT as usize {
        return FoundTask::CannotTell(Doubt::TooMany);
    }
    match (fitting.pop(), fitting.is_empty(), now) {
        (Some(upid), true, _) => FoundTask::Found(upid),
        (Some(last), false, _) => {
            fitting.push(last);
            FoundTask::Several(fitting)
        }
        (None, _, None) => FoundTask::CannotTell(Doubt::NoClock),
        (None, _, Some(now)) => match since.saturating_add(SETTLED).saturating_sub(now) {
            0 => FoundTask::NotFound,
            seconds => FoundTask::CannotTell(Doubt::TooEarly { seconds }),
        },
    }
}

/// The tasks of a list that fit, each once. What was asked of the server is checked here again: rows of
/// running tasks spell their author differently from finished ones, the UPID does not; and a task that
/// ends while the list is made stands in it twice.
fn fitting(tasks: &[TaskEntry], find: &FindTask<'_>) -> Vec<Upid> {
    let mut fitting: Vec<Upid> = Vec::new();
    for upid in tasks.iter().map(|task| &task.upid) {
        let fits = upid.user() == find.user
            && find.task_types.contains(&upid.task_type())
            && upid.id() == find.id
            && upid.starttime() >= find.since
            && !find.known.contains(upid);
        if fits && !fitting.contains(upid) {
            fitting.push(upid.clone());
        }
    }
    fitting
}

impl Client {
    /// What became of a request whose answer was lost; [`Client::find_task_of`] without known tasks.
    /// `since` is the node's clock as it was before sending, see [`FindTask`].
    pub async fn find_task(&self, since: u64, task_type: &str, vmid: Vmid, user: &str) -> FoundTask {
        let id = vmid.to_string();
        self.find_task_of(&FindTask { since, task_types: &[task_type], id: &id, user, known: &[] }).await
    }

    /// What became of a request whose answer was lost: looks for its task by type, guest, author and
    /// time. Never guesses.
    pub async fn find_task_of(&self, find: &FindTask<'_>) -> FoundTask {
        // The clock first: what it says must not be later than the list is.
        let before = self.node_clock().await.ok();
        let asked = Instant::now();
        let listed = match self.candidates(find.since, find.task_types, find.id).await {
            Ok(listed) => listed,
            Err(error) => return FoundTask::CannotTell(Doubt::NotListed(error)),
        };
        let took = asked.elapsed().as_secs() + 1;
        let fitting = fitting(&listed.tasks, find);
        if fitting.is_empty() && find.user != self.identity() && !self.sees_all_tasks().await {
            return FoundTask::CannotTell(Doubt::Hidden { user: find.user.to_owned() });
        }
        let now = match (before, listed.date) {
            // Without Sys.Audit the node's clock is hidden, but not when it sent its answer; the list may
            // be as much older as the call took.
            (None, Some(date)) if fitting.is_empty() && self.is_only_node().await => {
                Some(date.saturating_sub(took))
            }
            (before, _) => before,
        };
        judge(fitting, &listed, find.since, now)
    }

    /// The node's clock now, seconds since 1970; what tasks are dated with. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn node_clock(&self) -> Result<u64, ApiError> {
        self.node_time().await.map(|time| time.time)
    }

    /// Whether who answers is the node that is asked about. In a cluster it may be another one, with a
    /// clock of its own.
    async fn is_only_node(&self) -> bool {
        let (Ok(node), Ok(nodes)) = (self.node().await, self.nodes().await) else { return false };
        matches!(nodes.as_slice(), [only] if only.node == node.as_str())
    }

    async fn sees_all_tasks(&self) -> bool {
        let Ok(node) = self.node().await else { return false };
        let rights = self.permissions_on(&format!("/nodes/{node}")).await;
        rights.is_ok_and(|rights| rights.contains_key("Sys.Audit"))
    }

    /// Tasks that a lost answer may have started: this type, this guest, this author
    /// (`user@realm!tokenid`), begun at or after `since` (seconds since 1970, by the node's clock,
    /// two seconds of slack), running or not. Leaves out rows that cannot be read; for a verdict see
    /// [`Client::find_task_of`].
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
        let since = since.saturating_sub(CLOCK_SLACK);
        let (task_types, id) = (&[task_type], vmid.to_string());
        let mut tasks = self.candidates(since, task_types, &id).await?.tasks;
        let find = FindTask { since: 0, task_types, id: &id, user, known: &[] };
        let wanted = fitting(&tasks, &find);
        tasks.retain(|task| wanted.contains(&task.upid));
        Ok(tasks)
    }

    /// What the server can narrow down: one type, and a number.
    async fn candidates(&self, since: u64, task_types: &[&str], id: &str) -> Result<Listed, ApiError> {
        let filter = TaskFilter {
            source: TaskSource::All,
            vmid: id.parse().ok(),
            task_type: match task_types {
                [only] => Some((*only).to_owned()),
                _ => None,
            },
            since: Some(since),
            limit: Some(FIND_LIMIT),
            ..TaskFilter::default()
        };
        self.list_tasks(&filter).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upid(pid: u32) -> Upid {
        begun(pid, "6B025FB3")
    }

    fn begun(pid: u32, at: &str) -> Upid {
        format!("UPID:pve1:{pid:08X}:00000001:{at}:qmsnapshot:100:tester@pve!full:").parse().unwrap()
    }

    fn entry(upid: &Upid) -> TaskEntry {
        TaskEntry { upid: upid.clone(), endtime: None, status: None }
    }

    /// A list of that many rows, some of which could not be read.
    fn list(rows: usize, unreadable: usize) -> Listed {
        Listed { tasks: vec![entry(&upid(9)); rows - unreadable], unreadable, date: None }
    }

    #[test]
    fn none_means_none_only_when_it_is_late_and_the_list_is_whole() {
        let none = |rows, now| judge(Vec::new(), &list(rows, 0), 1000, now);
        assert!(matches!(none(0, Some(1045)), FoundTask::NotFound));
        assert!(matches!(none(3, Some(9999)), FoundTask::NotFound));
        for (now, left) in [(1000, 45), (1044, 1), (900, 145)] {
            let FoundTask::CannotTell(doubt) = none(0, Some(now)) else { panic!("too early") };
            assert!(doubt.to_string().contains(&format!("in {left} s")), "{doubt}");
        }
        assert!(matches!(none(500, Some(9999)), FoundTask::CannotTell(Doubt::TooMany)));
        assert!(matches!(none(0, None), FoundTask::CannotTell(Doubt::NoClock)));
        let late = judge(Vec::new(), &list(0, 0), u64::MAX, Some(9999));
        assert!(matches!(late, FoundTask::CannotTell(Doubt::TooEarly { .. })));
    }

    #[test]
    fn one_is_found_and_two_are_not_chosen_from() {
        let judged = |all: Vec<Upid>, rows, unreadable| judge(all, &list(rows, unreadable), 1000, Some(1000));
        assert!(matches!(judged(vec![upid(1)], 499, 0), FoundTask::Found(found) if found == upid(1)));
        let FoundTask::Several(all) = judged(vec![upid(1), upid(2)], 2, 0) else { panic!("several") };
        assert_eq!(all, [upid(1), upid(2)]);
        // The other one may be among what the list does not show.
        assert!(matches!(judged(vec![upid(1)], 500, 0), FoundTask::CannotTell(Doubt::TooMany)));
        for fits in [vec![], vec![upid(1)], vec![upid(1), upid(2)]] {
            let judged = judged(fits, 3, 2);
            assert!(matches!(judged, FoundTask::CannotTell(Doubt::Unreadable { rows: 2 })), "{judged:?}");
        }
    }

    #[test]
    fn only_new_tasks_of_that_kind_fit_and_each_once() {
        let known = [upid(7)];
        let find = FindTask {
            since: 0x6B02_5FB3,
            task_types: &["qmsnapshot"],
            id: "100",
            user: "tester@pve!full",
            known: &known,
        };
        let other = |text: &str| entry(&text.parse().unwrap());
        let tasks = [
            entry(&upid(1)),
            entry(&begun(2, "6B025FB2")),
            TaskEntry { status: Some("OK".to_owned()), ..entry(&upid(1)) },
            entry(&upid(7)),
            other("UPID:pve1:00000003:00000001:6B025FB3:qmsnapshot:1000:tester@pve!full:"),
            other("UPID:pve1:00000003:00000001:6B025FB3:qmsnapshot:100:tester@pve!other:"),
            other("UPID:pve1:00000003:00000001:6B025FB3:qmdelsnapshot:100:tester@pve!full:"),
        ];
        assert_eq!(fitting(&tasks, &find), [upid(1)]);
        assert_eq!(fitting(&tasks, &FindTask { known: &[], ..find }), [upid(1), upid(7)]);
    }
}
