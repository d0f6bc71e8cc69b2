//! Backup jobs, and the guests that none of them covers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::catalog::{Call, Calls, Data, json, rows};
use crate::client::Client;
use crate::storage::list::property_text;
use crate::value::lenient;
use crate::wire::error::ApiError;

static LIST: Call<Vec<BackupJob>> = Call::get("backup jobs", "/cluster/backup", |data| {
    let list: Vec<Map<String, Value>> = rows(data)?;
    list.into_iter().map(job).collect()
})
.needs(&["Sys.Audit"]);
static GET: Call<BackupJob> =
    Call::get("backup job", "/cluster/backup/{id}", |data| job(json(data)?)).needs(&["Sys.Audit"]);
static INCLUDED: Call<Vec<IncludedGuest>> =
    Call::get("backup job volumes", "/cluster/backup/{id}/included_volumes", included)
        .long()
        .needs(&["Sys.Audit"])
        .slow();
static MISSING: Call<Vec<UncoveredGuest>> =
    Call::get("guests without backup job", "/cluster/backup-info/not-backed-up", rows)
        .long()
        .needs(&["Sys.Audit"]);

pub(super) static CALLS: Calls = &[&LIST, &GET, &INCLUDED, &MISSING];

/// A backup job. It names guests by number, so it silently takes up whatever guest gets a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupJob {
    /// `backup-1b2c3d4e-5f60`, or what somebody called it.
    pub id: String,
    /// Absent means yes.
    pub enabled: Option<bool>,
    /// As systemd writes calendar events, `sat 02:00`. Jobs from before Proxmox VE 7.1 have
    /// `starttime` and `dow` instead, in `raw`.
    pub schedule: Option<String>,
    /// Seconds since 1970.
    pub next_run: Option<u64>,
    /// Where to.
    pub storage: Option<String>,
    /// `snapshot`, `suspend`, `stop`.
    pub mode: Option<String>,
    /// Every guest, but for those in `exclude`.
    pub all: bool,
    /// The guests, by number.
    pub vmids: Vec<u64>,
    /// The guests left out, by number.
    pub exclude: Vec<u64>,
    /// The guests of this pool.
    pub pool: Option<String>,
    /// Only on this node.
    pub node: Option<String>,
    /// What is kept, as a property string.
    pub prune_backups: Option<String>,
    /// Every other key, scalars as text.
    pub raw: BTreeMap<String, String>,
}

fn job(mut fields: Map<String, Value>) -> Result<BackupJob, String> {
    let mut take = |name: &str| fields.remove(name);
    let numbers = |value: Option<Value>| -> Vec<u64> {
        let text = value.as_ref().and_then(lenient::as_text).unwrap_or_default();
        lenient::split_list(&text).iter().filter_map(|number| number.parse().ok()).collect()
    };
    let (vmids, exclude) = (numbers(take("vmid")), numbers(take("exclude")));
    let enabled = take("enabled").as_ref().and_then(lenient::as_bool);
    let all = take("all").as_ref().and_then(lenient::as_bool).unwrap_or(false);
    let next_run = take("next-run").as_ref().and_then(lenient::as_u64);
    let prune_backups = take("prune-backups").as_ref().and_then(property_text);
    let mut text = |name: &str| take(name).as_ref().and_then(lenient::as_text);
    let id = text("id").ok_or("a backup job without id")?;
    let (schedule, storage, mode) = (text("schedule"), text("storage"), text("mode"));
    let (pool, node) = (text("pool"), text("node"));
    let raw = fields.into_iter().filter_map(|(key, value)| Some((key, lenient::as_text(&value)?))).collect();
    Ok(BackupJob {
        id,
        enabled,
        schedule,
        next_run,
        storage,
        mode,
        all,
        vmids,
        exclude,
        pool,
        node,
        prune_backups,
        raw,
    })
}

/// A guest of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct IncludedGuest {
    /// Its number.
    #[serde(default, rename = "id", deserialize_with = "lenient::u64")]
    pub vmid: Option<u64>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// `qemu`, `lxc`, or `unknown` for a number that no guest has.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Its volumes.
    #[serde(default, rename = "children", deserialize_with = "list")]
    pub volumes: Vec<IncludedVolume>,
}

/// A volume of a job's guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct IncludedVolume {
    /// The guest's number and the option, `100:scsi0`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub id: Option<String>,
    /// The volume, or a path of the host.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Whether the backup holds it. Unknown is not yes.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub included: Option<bool>,
    /// Why, or why not.
    #[serde(default, deserialize_with = "lenient::text")]
    pub reason: Option<String>,
}

/// `null` for none.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

fn included(data: Data) -> Result<Vec<IncludedGuest>, String> {
    #[derive(Deserialize)]
    struct Tree {
        #[serde(default, deserialize_with = "list")]
        children: Vec<IncludedGuest>,
    }
    let tree: Tree = json(data)?;
    Ok(tree.children)
}

/// A guest that no job covers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct UncoveredGuest {
    /// Its number.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub vmid: Option<u64>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// `qemu` or `lxc`.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
}

impl Client {
    /// All backup jobs. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn backup_jobs(&self) -> Result<Vec<BackupJob>, ApiError> {
        self.send(LIST.at(&[])).await
    }

    /// One backup job.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn backup_job(&self, id: &str) -> Result<BackupJob, ApiError> {
        self.send(GET.at(&[id]).refuse_if(!is_id(id), BAD_ID)).await
    }

    /// The guests and volumes of a job, and why a volume is in it or not. Mount points of a path of
    /// the host never are.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn backup_job_volumes(&self, id: &str) -> Result<Vec<IncludedGuest>, ApiError> {
        self.send(INCLUDED.at(&[id]).refuse_if(!is_id(id), BAD_ID)).await
    }

    /// The guests that no job covers, switched on or not.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn guests_without_backup_job(&self) -> Result<Vec<UncoveredGuest>, ApiError> {
        self.send(MISSING.at(&[])).await
    }
}

const BAD_ID: &str = "a backup job's id has 1 to 50 characters without blanks";

fn is_id(text: &str) -> bool {
    (1..=50).contains(&text.chars().count()) && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}
