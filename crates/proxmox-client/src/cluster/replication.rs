//! Storage replication: the jobs, and how they fare.

use serde::Deserialize;

use crate::catalog::{Call, Calls, Form, Kind, Param, object, rows};
use crate::client::Client;
use crate::value::ids::Vmid;
use crate::value::lenient;
use crate::wire::error::ApiError;

static JOBS: Call<Vec<ReplicationJob>> =
    Call::get("replication jobs", "/cluster/replication", rows).needs(&["VM.Audit"]);
static ON_NODE: Call<Vec<ReplicationJob>> =
    Call::get("replication on node", "/nodes/{node}/replication", rows)
        .params(&[Param { name: "guest", kind: Kind::Form(Form::Vmid) }])
        .needs(&["VM.Audit"]);
static STATE: Call<ReplicationJob> =
    Call::get("replication state", "/nodes/{node}/replication/{id}/status", object).needs(&["VM.Audit"]);

pub(super) static CALLS: Calls = &[&JOBS, &ON_NODE, &STATE];

/// A replication job; with its state where a node was asked. Not recorded: the fields of the job are
/// the schema's, those of the state are what `/nodes/{node}/replication` adds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ReplicationJob {
    /// `100-0`: guest and number.
    #[serde(default, deserialize_with = "lenient::string")]
    pub id: String,
    /// The guest.
    #[serde(default)]
    pub guest: Option<Vmid>,
    /// The node it copies from.
    #[serde(default, deserialize_with = "lenient::text")]
    pub source: Option<String>,
    /// The node it copies to.
    #[serde(default, deserialize_with = "lenient::text")]
    pub target: Option<String>,
    /// A calendar event; every quarter of an hour if absent.
    #[serde(default, deserialize_with = "lenient::text")]
    pub schedule: Option<String>,
    /// Limit, MB/s.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub rate: Option<f64>,
    /// Switched off.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub disable: Option<bool>,
    /// A remark.
    #[serde(default, deserialize_with = "lenient::text")]
    pub comment: Option<String>,
    /// `local` or `full`: marked for removal.
    #[serde(default, deserialize_with = "lenient::text")]
    pub remove_job: Option<String>,
    /// Last success, seconds since 1970; 0 if there was none.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub last_sync: Option<u64>,
    /// Last attempt, seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub last_try: Option<u64>,
    /// Next attempt, seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub next_sync: Option<u64>,
    /// Of the last run, seconds.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub duration: Option<f64>,
    /// Failures in a row.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub fail_count: Option<u64>,
    /// The last failure.
    #[serde(default, deserialize_with = "lenient::text")]
    pub error: Option<String>,
    /// Present while it runs.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub pid: Option<u64>,
}

impl Client {
    /// All replication jobs whose guests the token may see, without their state.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn replication_jobs(&self) -> Result<Vec<ReplicationJob>, ApiError> {
        self.send(JOBS.at(&[])).await
    }

    /// The jobs that run on the node, with their state; of one guest or of all.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn replication_status(&self, guest: Option<Vmid>) -> Result<Vec<ReplicationJob>, ApiError> {
        self.send(ON_NODE.at(&[self.node().await?.as_str()]).opt("guest", guest)).await
    }

    /// One job's state, on the node that runs it. `id` is `GUEST-NUMBER`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn replication_state(&self, id: &str) -> Result<ReplicationJob, ApiError> {
        let known = id.split_once('-').is_some_and(|(guest, number)| {
            guest.parse::<Vmid>().is_ok()
                && (1..=9).contains(&number.len())
                && number.bytes().all(|b| b.is_ascii_digit())
        });
        let request = STATE.at(&[self.node().await?.as_str(), id]);
        self.send(request.refuse_if(!known, "a replication job is named by guest and number, `100-0`")).await
    }
}
