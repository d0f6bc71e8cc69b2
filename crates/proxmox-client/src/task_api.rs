//! Tasks: lists, status, logs, waiting, and finding the task of a lost answer.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::error::ApiError;
use crate::ids::Vmid;
use crate::lenient;
use crate::task::{Exit, Observed, StatusSource, TaskEnd, TaskStatus, classify_exit, watch};
use crate::transport::Params;
use crate::upid::Upid;

/// Which tasks a list holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TaskSource {
    /// Finished ones.
    #[default]
    Archive,
    /// Running ones.
    Active,
    /// Both.
    All,
}

impl TaskSource {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Active => "active",
            Self::All => "all",
        }
    }
}

/// Filters of [`Client::tasks`]. Without Sys.Audit on the node a token sees only its own tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Running, finished or both.
    pub source: TaskSource,
    /// Only tasks whose id is exactly this VMID.
    pub vmid: Option<Vmid>,
    /// Only this type (`qmsnapshot`, ...).
    pub task_type: Option<String>,
    /// Only tasks started at or after, seconds since 1970.
    pub since: Option<u64>,
    /// Only tasks started at or before.
    pub until: Option<u64>,
    /// Only tasks that did not end `OK`.
    pub errors: bool,
    /// Skip this many.
    pub start: u32,
    /// At most this many; Proxmox gives 50 if not set.
    pub limit: Option<u32>,
}

/// One task of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEntry {
    /// Its name, with node, type, id, start time and author inside.
    pub upid: Upid,
    /// Absent while it runs.
    pub endtime: Option<u64>,
    /// `OK`, `WARNINGS: n` or the error's text; absent while it runs.
    pub status: Option<String>,
}

impl TaskEntry {
    /// Whether it was running when listed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.endtime.is_none() && self.status.is_none()
    }

    pub(crate) fn from_value(entry: &Value) -> Option<Self> {
        let upid = entry.get("upid")?.as_str()?.parse().ok()?;
        let status = entry.get("status").and_then(lenient::as_text).filter(|text| text != "RUNNING");
        Some(Self { upid, endtime: entry.get("endtime").and_then(lenient::as_u64), status })
    }
}

/// One line of a task's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its number, from 1.
    pub n: u64,
    /// Its text.
    pub text: String,
}

/// Part of a task's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskLog {
    /// Lines in the whole log.
    pub total: u64,
    /// The lines asked for.
    pub lines: Vec<LogLine>,
}

/// How much of a log an end shows.
const LAST_LINES: u64 = 20;
const MAX_WARNINGS: usize = 50;
const LOG_PAGE: u32 = 500;
const MAX_PAGES: u32 = 20;
/// Clocks of the two sides may differ by this much when looking for a task.
const CLOCK_SLACK: u64 = 2;
const FIND_LIMIT: u32 = 500;

impl Client {
    /// The node's tasks, newest first.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskEntry>, ApiError> {
        let mut params = vec![("source", filter.source.as_str().to_owned())];
        let mut push = |name, value: Option<String>| params.extend(value.map(|value| (name, value)));
        push("vmid", filter.vmid.map(|vmid| vmid.to_string()));
        push("typefilter", filter.task_type.clone());
        push("since", filter.since.map(|since| since.to_string()));
        push("until", filter.until.map(|until| until.to_string()));
        push("errors", filter.errors.then(|| "1".to_owned()));
        push("start", (filter.start > 0).then(|| filter.start.to_string()));
        push("limit", filter.limit.map(|limit| limit.to_string()));
        let entries: Vec<Value> = self.read_node(&["tasks"], &params).await?;
        Ok(entries
            .iter()
            .filter_map(|entry| {
                let task = TaskEntry::from_value(entry);
                if task.is_none() {
                    tracing::warn!(%entry, "a task list entry is not readable and was left out");
                }
                task
            })
            .collect())
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
        let filter = TaskFilter {
            source: TaskSource::All,
            vmid: Some(vmid),
            task_type: Some(task_type.to_owned()),
            since: Some(since.saturating_sub(CLOCK_SLACK)),
            limit: Some(FIND_LIMIT),
            ..TaskFilter::default()
        };
        let mut tasks = self.tasks(&filter).await?;
        // Asked of the server and checked here: rows of running tasks spell their author
        // differently from finished ones, the UPID does not.
        let number = vmid.to_string();
        tasks.retain(|task| {
            task.upid.user() == user && task.upid.task_type() == task_type && task.upid.id() == number
        });
        Ok(tasks)
    }

    /// Whether a task runs, and how it ended. Asked of the node in the UPID.
    ///
    /// # Errors
    /// [`ApiError`]; class `NotFound` once the node has forgotten the task, and for a moment just
    /// after it was started.
    pub async fn task_status(&self, upid: &Upid) -> Result<TaskStatus, ApiError> {
        let path = ["nodes", upid.node(), "tasks", upid.as_str(), "status"];
        let fields: Map<String, Value> = self.read(&path, &[]).await?;
        match fields.get("status").and_then(Value::as_str) {
            Some("running") => Ok(TaskStatus::Running),
            Some("stopped") => {
                Ok(TaskStatus::Ended { exitstatus: fields.get("exitstatus").and_then(lenient::as_text) })
            }
            _ => Err(self.transport.bad_answer(
                &Method::GET,
                &path,
                "a task status that is neither running nor stopped",
            )),
        }
    }

    /// Lines of a task's log from `start` (0 is the first), at most `limit`; 0 means all.
    ///
    /// # Errors
    /// [`ApiError`]. A lost log is not an error but one line that says so.
    pub async fn task_log(&self, upid: &Upid, start: u64, limit: u32) -> Result<TaskLog, ApiError> {
        let path = ["nodes", upid.node(), "tasks", upid.as_str(), "log"];
        let params: Params<'_> = &[("start", start.to_string()), ("limit", limit.to_string())];
        let reply = self.transport.get(&path, params).await?;
        let Value::Array(entries) = reply.data else {
            return Err(self.transport.bad_answer(&Method::GET, &path, "a log that is not a list"));
        };
        let lines: Vec<LogLine> = entries
            .iter()
            .filter_map(|entry| {
                Some(LogLine {
                    n: lenient::as_u64(entry.get("n")?)?,
                    text: lenient::as_text(entry.get("t")?)?,
                })
            })
            .collect();
        let total = reply.total.unwrap_or_else(|| start + lines.len() as u64);
        Ok(TaskLog { total, lines })
    }

    /// Follows a task for at most `limit`. Cannot fail: trouble on the way is survived for a while
    /// (restarting daemons, an unreachable node, a paused token) and then becomes
    /// [`TaskEnd::Unknown`].
    pub async fn wait_task(&self, upid: &Upid, limit: Duration) -> TaskEnd {
        let source = OneTask { client: self, upid };
        match watch(&source, limit).await {
            Observed::Running => TaskEnd::StillRunning { upid: upid.clone() },
            Observed::Lost(why) => TaskEnd::Unknown { why },
            Observed::Ended(exitstatus) => match classify_exit(exitstatus.as_deref()) {
                Exit::Ok => TaskEnd::Ok,
                Exit::Warnings(count) => TaskEnd::Warnings { count, lines: self.warnings(upid).await },
                Exit::Failed(text) => TaskEnd::Failed { text, last_lines: self.last_lines(upid).await },
                Exit::Unknown(why) => TaskEnd::Unknown { why },
            },
        }
    }

    /// The log's warning lines. A log that cannot be read does not change how the task ended.
    async fn warnings(&self, upid: &Upid) -> Vec<String> {
        let mut found = Vec::new();
        let mut start = 0;
        for _ in 0..MAX_PAGES {
            let Ok(page) = self.task_log(upid, start, LOG_PAGE).await else { break };
            let count = page.lines.len() as u64;
            found
                .extend(page.lines.into_iter().map(|line| line.text).filter(|text| text.starts_with("WARN")));
            start += count;
            if count == 0 || start >= page.total || found.len() >= MAX_WARNINGS {
                break;
            }
        }
        found.truncate(MAX_WARNINGS);
        found
    }

    async fn last_lines(&self, upid: &Upid) -> Vec<String> {
        let Ok(first) = self.task_log(upid, 0, 1).await else { return Vec::new() };
        let start = first.total.saturating_sub(LAST_LINES);
        let Ok(end) = self.task_log(upid, start, LAST_LINES as u32).await else { return Vec::new() };
        end.lines.into_iter().map(|line| line.text).collect()
    }
}

struct OneTask<'a> {
    client: &'a Client,
    upid: &'a Upid,
}

impl StatusSource for OneTask<'_> {
    async fn status(&self) -> Result<TaskStatus, ApiError> {
        self.client.task_status(self.upid).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_running_and_finished_tasks() {
        let upid = "UPID:pve1:00000221:0003BDA9:6B0260B3:vzdump:101:tester@pve!full:";
        let running = TaskEntry::from_value(
            &json!({"upid": upid, "status": "RUNNING", "user": "tester@pve!full", "saved": "0", "starttime": 1_795_317_939}),
        )
        .unwrap();
        assert!(running.is_running());
        assert_eq!(running.upid.user(), "tester@pve!full");
        let done = TaskEntry::from_value(
            &json!({"upid": upid, "status": "WARNINGS: 1", "user": "tester@pve", "tokenid": "full", "endtime": "1795317940"}),
        )
        .unwrap();
        assert!(!done.is_running());
        assert_eq!((done.status.as_deref(), done.endtime), (Some("WARNINGS: 1"), Some(1_795_317_940)));
        for bad in [json!({}), json!({"upid": 1}), json!({"upid": "UPID:x"}), json!(null), json!([upid])] {
            assert_eq!(TaskEntry::from_value(&bad), None, "{bad}");
        }
    }
}
