//! What happened: journal, syslog, and measurements over time.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::catalog::{Call, Calls, Data, Form, Kind, Param, rows};
use crate::client::Client;
use crate::task::{self, TaskLog};
use crate::value::lenient;
use crate::wire::error::ApiError;

const MOST: i64 = 1 << 40;

static JOURNAL: Call<Journal> = Call::get("journal", "/nodes/{node}/journal", journal)
    .long()
    .params(&[
        Param { name: "since", kind: Kind::Int(0, MOST) },
        Param { name: "until", kind: Kind::Int(0, MOST) },
        Param { name: "lastentries", kind: Kind::Int(0, MOST) },
        Param { name: "startcursor", kind: Kind::Form(Form::Line) },
        Param { name: "endcursor", kind: Kind::Form(Form::Line) },
    ])
    .beyond(&["Sys.Syslog"]);
static SYSLOG: Call<TaskLog> = Call::get("syslog", "/nodes/{node}/syslog", task::log)
    .long()
    .params(&[
        Param { name: "start", kind: Kind::Int(0, MOST) },
        Param { name: "limit", kind: Kind::Int(0, MOST) },
        Param { name: "service", kind: Kind::Text(128) },
    ])
    .beyond(&["Sys.Syslog"]);
static RRD: Call<Vec<RrdPoint>> = Call::get("node rrddata", "/nodes/{node}/rrddata", rrd)
    .long()
    .params(&[
        Param { name: "timeframe", kind: Kind::Word(&["hour", "day", "week", "month", "year"]) },
        Param { name: "cf", kind: Kind::Word(&["AVERAGE", "MAX"]) },
    ])
    .needs(&["Sys.Audit"]);

pub(super) static CALLS: Calls = &[&JOURNAL, &SYSLOG, &RRD];

/// Which lines of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalFilter {
    /// From then on, seconds since 1970.
    pub since: Option<u64>,
    /// Until then, seconds since 1970.
    pub until: Option<u64>,
    /// The last so many; Proxmox refuses it together with `since` and `until`.
    pub last: Option<u64>,
    /// From that place on, see [`Journal::end`].
    pub from: Option<String>,
    /// Up to that place, see [`Journal::start`].
    pub to: Option<String>,
}

/// Lines of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// The place of the first line, if Proxmox told.
    pub start: Option<String>,
    /// The place of the last line.
    pub end: Option<String>,
    /// The lines, oldest first.
    pub lines: Vec<String>,
}

/// The lines come as an array; its first and last may be the places, `s=…;i=…`. Not recorded.
fn journal(data: Data) -> Result<Journal, String> {
    let lines: Vec<Value> = rows(data)?;
    let mut lines: Vec<String> = lines.iter().filter_map(lenient::as_text).collect();
    let place = |line: &String| line.starts_with("s=") && line.contains(";i=");
    let end = (lines.len() > 1).then(|| lines.pop_if(|line| place(line))).flatten();
    let start = lines.first().is_some_and(place).then(|| lines.remove(0));
    Ok(Journal { start, end, lines })
}

/// Over which time measurements are asked for, and so how fine they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeframe {
    /// The last hour.
    Hour,
    /// The last day.
    Day,
    /// The last week.
    Week,
    /// The last month.
    Month,
    /// The last year.
    Year,
}

impl Timeframe {
    /// As the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// Measurements of one moment. What was not measured is not there, and neither is what this
/// version does not know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RrdPoint {
    /// Seconds since 1970.
    pub time: u64,
    /// `cpu` and `iowait` (0 to 1), `memused`, `roottotal`, `arcsize` (bytes), `netin`, `netout` (bytes a
    /// second), `loadavg`, `pressureiosome` (percent, 9), …
    pub values: BTreeMap<String, f64>,
}

/// Points of a series, a node's or a guest's.
pub(crate) fn rrd(data: Data) -> Result<Vec<RrdPoint>, String> {
    let points: Vec<Map<String, Value>> = rows(data)?;
    let point = |mut fields: Map<String, Value>| {
        let time = fields.remove("time").as_ref().and_then(lenient::as_u64);
        let values = fields.iter().filter_map(|(name, value)| Some((name.clone(), lenient::as_f64(value)?)));
        Some(RrdPoint { time: time?, values: values.collect() })
    };
    points
        .into_iter()
        .map(point)
        .collect::<Option<_>>()
        .ok_or_else(|| "a measurement without time".to_owned())
}

impl Client {
    /// Lines of the node's journal. Needs Sys.Syslog on the node.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn journal(&self, filter: &JournalFilter) -> Result<Journal, ApiError> {
        let request = JOURNAL
            .at(&[self.node().await?.as_str()])
            .opt("since", filter.since)
            .opt("until", filter.until)
            .opt("lastentries", filter.last)
            .opt("startcursor", filter.from.as_ref())
            .opt("endcursor", filter.to.as_ref())
            .refuse_if(
                filter.last.is_some() && (filter.since.is_some() || filter.until.is_some()),
                "the last entries or a time, not both",
            );
        self.send(request).await
    }

    /// Lines of the node's system log from `start` (0 is the first), of one service or of all. Needs
    /// Sys.Syslog on the node. [`Client::journal`] is quicker on a long log.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn syslog(&self, start: u64, limit: u32, service: Option<&str>) -> Result<TaskLog, ApiError> {
        let request = SYSLOG.at(&[self.node().await?.as_str()]).set("start", start).set("limit", limit);
        self.send(request.opt("service", service)).await
    }

    /// The node's measurements over time, averages.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn node_rrd(&self, timeframe: Timeframe) -> Result<Vec<RrdPoint>, ApiError> {
        let request = RRD.at(&[self.node().await?.as_str()]).set("timeframe", timeframe.as_str());
        self.send(request.set("cf", "AVERAGE")).await
    }
}
