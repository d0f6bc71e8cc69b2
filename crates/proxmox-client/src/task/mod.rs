//! Tasks: lists, status, logs, waiting, and finding the task of a lost answer.

pub(crate) mod find;
pub(crate) mod power;
pub(crate) mod wait;
pub(crate) mod watch;

use serde_json::{Map, Value};

use crate::client::Client;
use crate::value::ids::Vmid;
use crate::value::lenient;
use crate::wire::error::ApiError;

use crate::catalog::{Call, Calls, Data, Form, Kind, Param, Verb, json, nothing};
use crate::task::watch::TaskStatus;
use crate::value::upid::Upid;

const MOST: i64 = 1 << 40;

static LIST: Call<Listed> = Call::get("task list", "/nodes/{node}/tasks", list)
    .long()
    .params(&[
        Param { name: "source", kind: Kind::Word(&["archive", "active", "all"]) },
        Param { name: "vmid", kind: Kind::Form(Form::Vmid) },
        Param { name: "typefilter", kind: Kind::Form(Form::Line) },
        Param { name: "userfilter", kind: Kind::Form(Form::Line) },
        Param { name: "statusfilter", kind: Kind::Words(&["ok", "warning", "error", "unknown"]) },
        Param { name: "since", kind: Kind::Int(0, MOST) },
        Param { name: "until", kind: Kind::Int(0, MOST) },
        Param { name: "errors", kind: Kind::Flag },
        Param { name: "start", kind: Kind::Int(0, MOST) },
        Param { name: "limit", kind: Kind::Int(0, MOST) },
    ])
    .needs(&["Sys.Audit"]);
static STATUS: Call<TaskStatus> =
    Call::get("task status", "/nodes/{node}/tasks/{upid}/status", status).needs(&["Sys.Audit"]);
static LOG: Call<TaskLog> = Call::get("task log", "/nodes/{node}/tasks/{upid}/log", log)
    .long()
    .params(&[
        Param { name: "start", kind: Kind::Int(0, MOST) },
        Param { name: "limit", kind: Kind::Int(0, MOST) },
    ])
    .needs(&["Sys.Audit"]);

static STOP: Call<()> =
    Call::new("task stop", Verb::Delete, "/nodes/{node}/tasks/{upid}", nothing).beyond(&["Sys.Modify"]);

pub(crate) static CALLS: Calls = &[&LIST, &STATUS, &LOG, &STOP];

/// A list of tasks, and what is not in it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) tasks: Vec<TaskEntry>,
    /// Rows that could not be read and were left out.
    pub(crate) unreadable: usize,
    /// When the list was sent, by the clock of the node that was connected to.
    pub(crate) date: Option<u64>,
}

impl Listed {
    /// How many rows came.
    pub(crate) const fn rows(&self) -> usize {
        self.tasks.len() + self.unreadable
    }
}

pub(crate) fn list(data: Data) -> Result<Listed, String> {
    let date = data.date;
    let entries: Vec<Value> = json(data)?;
    let rows = entries.len();
    let mut first = None;
    let mut tasks = Vec::new();
    for entry in &entries {
        match TaskEntry::from_value(entry) {
            Some(task) => tasks.push(task),
            None => first = first.or(Some(entry)),
        }
    }
    let unreadable = rows - tasks.len();
    if let Some(first) = first {
        if tasks.is_empty() {
            return Err(format!(
                "none of {rows} task list entries is readable, the first: {}",
                start_of(first)
            ));
        }
        tracing::warn!(
            unreadable,
            rows,
            first = start_of(first),
            "task list entries are not readable and were left out"
        );
    }
    Ok(Listed { tasks, unreadable, date })
}

/// Enough of an entry to know it again.
fn start_of(entry: &Value) -> String {
    entry.to_string().chars().take(200).collect()
}

fn status(data: Data) -> Result<TaskStatus, String> {
    let fields: Map<String, Value> = json(data)?;
    match fields.get("status").and_then(Value::as_str) {
        Some("running") => Ok(TaskStatus::Running),
        Some("stopped") => {
            Ok(TaskStatus::Ended { exitstatus: fields.get("exitstatus").and_then(lenient::as_text) })
        }
        _ => Err("a task status that is neither running nor stopped".to_owned()),
    }
}

pub(crate) fn log(data: Data) -> Result<TaskLog, String> {
    let Value::Array(entries) = &data.value else { return Err("a log that is not a list".to_owned()) };
    let line = |entry: &Value| {
        Some(LogLine { n: lenient::as_u64(entry.get("n")?)?, text: lenient::as_text(entry.get("t")?)? })
    };
    let lines: Vec<LogLine> = entries.iter().filter_map(line).collect();
    let total = data.total.unwrap_or_else(|| lines.last().map_or(0, |line| line.n));
    Ok(TaskLog { total, lines })
}

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

/// A way to end, for [`TaskFilter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskResult {
    /// `OK`.
    Ok,
    /// `WARNINGS: n`.
    Warning,
    /// A text of its own.
    Error,
    /// Without any result.
    Unknown,
}

impl TaskResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Unknown => "unknown",
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
    /// Only tasks whose author contains this, upper or lower case.
    pub user: Option<String>,
    /// Only tasks that ended in one of these ways; all if empty.
    pub results: Vec<TaskResult>,
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

impl Client {
    /// The node's tasks, newest first. Rows that cannot be read are left out, with a warning in the log.
    ///
    /// # Errors
    /// [`ApiError`], as every method here; also if no row at all can be read.
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskEntry>, ApiError> {
        self.list_tasks(filter).await.map(|listed| listed.tasks)
    }

    pub(crate) async fn list_tasks(&self, filter: &TaskFilter) -> Result<Listed, ApiError> {
        let results: Vec<&str> = filter.results.iter().map(|result| result.as_str()).collect();
        let request = LIST
            .at(&[self.node().await?.as_str()])
            .set("source", filter.source.as_str())
            .opt("vmid", filter.vmid)
            .opt("typefilter", filter.task_type.as_ref())
            .opt("userfilter", filter.user.as_ref())
            .opt("statusfilter", (!results.is_empty()).then(|| results.join(",")))
            .opt("since", filter.since)
            .opt("until", filter.until)
            .flag_if("errors", filter.errors)
            .opt("start", (filter.start > 0).then_some(filter.start))
            .opt("limit", filter.limit);
        self.send(request).await
    }

    /// Whether a task runs, and how it ended. Asked of the node in the UPID.
    ///
    /// # Errors
    /// [`ApiError`]; class `NotFound` once the node has forgotten the task, and for a moment just
    /// after it was started.
    pub async fn task_status(&self, upid: &Upid) -> Result<TaskStatus, ApiError> {
        self.send(STATUS.at(&[upid.node(), upid.as_str()])).await
    }

    /// Lines of a task's log from `start` (0 is the first), at most `limit`; 0 means all.
    ///
    /// # Errors
    /// [`ApiError`]. A lost log is not an error but one line that says so.
    pub async fn task_log(&self, upid: &Upid, start: u64, limit: u32) -> Result<TaskLog, ApiError> {
        self.send(LOG.at(&[upid.node(), upid.as_str()]).set("start", start).set("limit", limit)).await
    }

    /// Stops a task: its processes are told to end, and killed five seconds later. Its own author may,
    /// others need Sys.Modify on the node. Says nothing about the task, which may have ended before.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn task_stop(&self, upid: &Upid) -> Result<(), ApiError> {
        self.send(STOP.at(&[upid.node(), upid.as_str()])).await
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
