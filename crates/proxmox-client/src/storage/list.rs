//! Which storages there are, and how full they are.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::catalog::{Call, Calls, Data, Kind, flag, json, param, rows};
use crate::client::Client;
use crate::storage::volid::StorageName;
use crate::value::lenient;
use crate::wire::error::ApiError;

/// What a storage may hold.
pub(super) const CONTENT: &[&str] =
    &["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import", "none"];
const READ: &[&str] = &["Datastore.Audit", "Datastore.AllocateSpace"];

static CONFIGS: Call<Vec<StorageConfig>> = Call::get("storage configs", "/storage", configs).needs(READ);
static LIST: Call<Vec<StorageStatus>> = Call::get("storage list", "/nodes/{node}/storage", rows)
    .params(&[param("content", Kind::Words(CONTENT)), flag("enabled")])
    .needs(READ)
    .slow();
static STATUS: Call<StorageState> =
    Call::get("storage status", "/nodes/{node}/storage/{storage}/status", json).needs(READ).slow();

pub(super) static CALLS: Calls = &[&CONFIGS, &LIST, &STATUS];

/// A kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Disks of virtual machines.
    Images,
    /// File systems of containers.
    Rootdir,
    /// Installation images.
    Iso,
    /// Container templates.
    Template,
    /// Backups.
    Backup,
    /// Snippets.
    Snippets,
    /// Images and appliances to import.
    Import,
}

impl Content {
    /// As Proxmox writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Rootdir => "rootdir",
            Self::Iso => "iso",
            Self::Template => "vztmpl",
            Self::Backup => "backup",
            Self::Snippets => "snippets",
            Self::Import => "import",
        }
    }
}

/// One storage of `/etc/pve/storage.cfg`, as far as the token may see it. Secrets are never told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageConfig {
    /// Its name.
    pub storage: String,
    /// The plugin: `dir`, `zfspool`, `lvmthin`, `pbs`, ...
    pub plugin: Option<String>,
    /// What it may hold, sorted.
    pub content: Vec<String>,
    /// The nodes it exists on; empty for all.
    pub nodes: Vec<String>,
    /// Switched off.
    pub disabled: bool,
    /// The same storage on all nodes, if the configuration says so; NFS and the like always are.
    pub shared: Option<bool>,
    /// What is kept when a backup job prunes, as a property string; a hash in older answers.
    pub prune_backups: Option<String>,
    /// SHA-1 of the whole file.
    pub digest: Option<String>,
    /// Every other option, scalars as text.
    pub raw: BTreeMap<String, String>,
}

fn configs(data: Data) -> Result<Vec<StorageConfig>, String> {
    let list: Vec<Map<String, Value>> = rows(data)?;
    list.into_iter().map(config).collect()
}

fn config(mut fields: Map<String, Value>) -> Result<StorageConfig, String> {
    let mut take = |name: &str| fields.remove(name);
    let mut text = |name: &str| take(name).as_ref().and_then(lenient::as_text);
    let storage = text("storage").ok_or("a storage without name")?;
    let plugin = text("type");
    let words = |text: Option<String>| {
        let mut words = text.as_deref().map(lenient::split_list).unwrap_or_default();
        words.sort_unstable();
        words
    };
    let (content, nodes) = (words(text("content")), words(text("nodes")));
    let digest = text("digest");
    let prune_backups = take("prune-backups").as_ref().and_then(property_text);
    let disabled = take("disable").as_ref().and_then(lenient::as_bool).unwrap_or(false);
    let shared = take("shared").as_ref().and_then(lenient::as_bool);
    let raw = fields.into_iter().filter_map(|(key, value)| Some((key, lenient::as_text(&value)?))).collect();
    Ok(StorageConfig { storage, plugin, content, nodes, disabled, shared, prune_backups, digest, raw })
}

/// `keep-last=3`, which some answers have taken apart already.
pub(crate) fn property_text(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => {
            let part = |(key, value): (&String, &Value)| Some(format!("{key}={}", lenient::as_text(value)?));
            let parts: Vec<String> = fields.iter().filter_map(part).collect();
            (!parts.is_empty()).then(|| parts.join(","))
        }
        _ => lenient::as_text(value),
    }
}

/// One entry of `GET /nodes/{node}/storage`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct StorageStatus {
    /// Its name.
    pub storage: String,
    /// The plugin: `dir`, `zfspool`, `lvmthin`, `pbs`, ...
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub plugin: Option<String>,
    /// Content types, comma separated.
    #[serde(default, deserialize_with = "lenient::text")]
    pub content: Option<String>,
    /// Reachable right now.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub active: Option<bool>,
    /// Not disabled in the configuration.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub enabled: Option<bool>,
    /// The same storage on all nodes.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub shared: Option<bool>,
    /// Bytes; 0 while inactive, so look at `active` first.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub total: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub avail: Option<u64>,
    /// 0 to 1; absent while inactive.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub used_fraction: Option<f64>,
}

/// `GET /nodes/{node}/storage/{storage}/status`: an entry of the list without its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct StorageState {
    /// The plugin.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub plugin: Option<String>,
    /// Content types, comma separated.
    #[serde(default, deserialize_with = "lenient::text")]
    pub content: Option<String>,
    /// Reachable right now.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub active: Option<bool>,
    /// Not disabled in the configuration.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub enabled: Option<bool>,
    /// The same storage on all nodes.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub shared: Option<bool>,
    /// Bytes; 0 while inactive.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub total: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub avail: Option<u64>,
}

impl Client {
    /// The configuration of all storages the token may see, of all nodes.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn storage_configs(&self) -> Result<Vec<StorageConfig>, ApiError> {
        self.send(CONFIGS.at(&[])).await
    }

    /// Storages with their fill levels. Touches the storages, so it may be slow.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn storage_list(&self) -> Result<Vec<StorageStatus>, ApiError> {
        self.send(LIST.at(&[self.node().await?.as_str()])).await
    }

    /// The same, only of storages that hold this content and are not switched off. The fewer are
    /// asked, the less one that hangs holds up.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn storages_for(&self, content: Content) -> Result<Vec<StorageStatus>, ApiError> {
        let request = LIST.at(&[self.node().await?.as_str()]);
        self.send(request.set("content", content.as_str()).flag("enabled", true)).await
    }

    /// One storage.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn storage_status(&self, storage: &StorageName) -> Result<StorageState, ApiError> {
        self.send(STATUS.at(&[self.node().await?.as_str(), storage.as_str()])).await
    }
}
