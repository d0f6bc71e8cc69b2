//! What is on a storage.

use serde::Deserialize;

use crate::catalog::{
    Call, Calls, Form, Kind, Started, Verb, flag, form, json, nothing, param, rows, started,
};
use crate::client::Client;
use crate::storage::list::{CONTENT, Content};
use crate::storage::volid::{StorageName, Volid};
use crate::value::ids::Vmid;
use crate::value::lenient;
use crate::wire::error::ApiError;

const READ: &[&str] = &["Datastore.Audit", "Datastore.AllocateSpace"];

static LIST: Call<Vec<Volume>> =
    Call::get("storage content", "/nodes/{node}/storage/{storage}/content", rows)
        .long()
        .params(&[param("content", Kind::Word(CONTENT)), form("vmid", Form::Vmid)])
        .needs(READ)
        .slow();
static INFO: Call<VolumeInfo> = Call::get("volume", "/nodes/{node}/storage/{storage}/content/{volume}", json)
    .needs(&["Datastore.Audit", "Datastore.AllocateSpace", "VM.Backup", "VM.Config.Disk"])
    .slow();
static UPDATE: Call<()> =
    Call::new("volume update", Verb::Put, "/nodes/{node}/storage/{storage}/content/{volume}", nothing)
        .params(&[param("notes", Kind::Text(65_536)), flag("protected")])
        .needs(&["Datastore.AllocateSpace", "VM.Backup"])
        .slow();
static DELETE: Call<Started> =
    Call::new("volume delete", Verb::Delete, "/nodes/{node}/storage/{storage}/content/{volume}", started)
        .starts(&["imgdel"])
        .needs(&["Datastore.AllocateSpace", "VM.Backup"])
        // For everything that is no backup.
        .beyond(&["Datastore.Allocate"])
        .slow();

pub(super) static CALLS: Calls = &[&LIST, &INFO, &UPDATE, &DELETE];

/// One entry of a storage's content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Volume {
    /// Its name.
    pub volid: Volid,
    /// `images`, `backup`, `iso`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub content: Option<String>,
    /// `raw`, `qcow2`, `vma.zst`, `pbs-vm`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub format: Option<String>,
    /// Bytes; of a backup on a Proxmox Backup Server 1 if it is not known.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub size: Option<u64>,
    /// Bytes it takes up, where that is less than its size.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub ctime: Option<u64>,
    /// The guest it belongs to, by number.
    #[serde(default, deserialize_with = "vmid")]
    pub vmid: Option<Vmid>,
    /// Of a backup: `qemu` or `lxc`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub subtype: Option<String>,
    /// Of a backup: the first line of its notes.
    #[serde(default, deserialize_with = "lenient::text")]
    pub notes: Option<String>,
    /// Of a backup: neither pruned nor deleted. Absent means no.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub protected: Option<bool>,
    /// Of a backup on a Proxmox Backup Server: the key's fingerprint, or `1`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub encrypted: Option<String>,
    /// Of a backup on a Proxmox Backup Server: its last verification.
    #[serde(default)]
    pub verification: Option<Verification>,
    /// The volume a linked clone rests on.
    #[serde(default, deserialize_with = "lenient::text")]
    pub parent: Option<String>,
}

/// Numbers of volumes that belong to no guest vary; what is no VMID is none.
fn vmid<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vmid>, D::Error> {
    let number = lenient::u64(deserializer)?.and_then(|number| u32::try_from(number).ok());
    Ok(number.and_then(|number| Vmid::new(number).ok()))
}

/// What a Proxmox Backup Server found when it last read a backup through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Verification {
    /// `ok`, `failed`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub state: Option<String>,
    /// The task on the backup server.
    #[serde(default, deserialize_with = "lenient::text")]
    pub upid: Option<String>,
}

/// `GET …/content/{volume}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct VolumeInfo {
    /// Where it is on the node.
    #[serde(default, deserialize_with = "lenient::text")]
    pub path: Option<String>,
    /// Bytes of the disk; of a backup of the file.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub size: Option<u64>,
    /// Bytes it takes up.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// `raw`, `qcow2`, `subvol`, …; `raw` for every backup file.
    #[serde(default, deserialize_with = "lenient::text")]
    pub format: Option<String>,
    /// All lines of a backup's notes.
    #[serde(default, deserialize_with = "lenient::text")]
    pub notes: Option<String>,
    /// Neither pruned nor deleted. Absent means no.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub protected: Option<bool>,
}

/// Narrows a list of content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContentFilter {
    /// Only this kind.
    pub content: Option<Content>,
    /// Only the volumes of this guest.
    pub vmid: Option<Vmid>,
}

/// What is changed about a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeChange {
    notes: Option<String>,
    protected: Option<bool>,
}

impl VolumeChange {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { notes: None, protected: None }
    }

    /// Replaces the notes; an empty text removes them.
    #[must_use]
    pub fn notes(mut self, text: &str) -> Self {
        self.notes = Some(text.to_owned());
        self
    }

    /// Keeps it from being pruned and deleted, or no longer.
    #[must_use]
    pub const fn protected(mut self, protected: bool) -> Self {
        self.protected = Some(protected);
        self
    }
}

impl Client {
    /// What is on a storage, as far as the token may see it: without VM.Backup on a guest, its
    /// backups are left out silently. A Proxmox Backup Server is asked itself, which can take
    /// longer than an answer may.
    ///
    /// # Errors
    /// [`ApiError`]; an inactive or disabled storage is refused.
    pub async fn storage_content(
        &self,
        storage: &StorageName,
        filter: ContentFilter,
    ) -> Result<Vec<Volume>, ApiError> {
        let request = LIST.at(&[self.node().await?.as_str(), storage.as_str()]);
        let request = request.opt("content", filter.content.map(Content::as_str)).opt("vmid", filter.vmid);
        self.send(request).await
    }

    /// One volume.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn volume_info(&self, volid: &Volid) -> Result<VolumeInfo, ApiError> {
        let node = self.node().await?.as_str();
        self.send(INFO.at(&[node, volid.storage().as_str(), volid.as_str()])).await
    }

    /// Protects a backup or changes its notes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn volume_update(&self, volid: &Volid, change: &VolumeChange) -> Result<(), ApiError> {
        let node = self.node().await?.as_str();
        let request = UPDATE.at(&[node, volid.storage().as_str(), volid.as_str()]);
        let request = request
            .refuse_if(change.notes.is_none() && change.protected.is_none(), "no change was given")
            .opt("notes", change.notes.as_ref())
            .opt("protected", change.protected.map(u8::from));
        self.send(request).await
    }

    /// Deletes a volume. Only the task knows whether that was allowed: a protected backup fails
    /// there, and one that is gone already ends well.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn volume_delete(&self, volid: &Volid) -> Result<Started, ApiError> {
        let node = self.node().await?.as_str();
        self.send(DELETE.at(&[node, volid.storage().as_str(), volid.as_str()])).await
    }
}
