//! Files that are sent to a storage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::fs::File;

use crate::catalog::{Call, Calls, Form, Kind, Verb, form, param, upid};
use crate::client::Client;
use crate::storage::fetch::{CHECKSUMS, Checksum, FETCHED, Fetched, RENAMED, renamed};
use crate::storage::volid::StorageName;
use crate::value::upid::Upid;
use crate::wire::error::ApiError;
use crate::wire::transport::upload::FilePart;

/// `filename` is the file's own field, with the file's name and bytes.
static UPLOAD: Call<Upid> = Call::new("upload", Verb::Post, "/nodes/{node}/storage/{storage}/upload", upid)
    .starts(&["imgcopy"])
    .params(&[
        param("checksum-algorithm", Kind::Word(CHECKSUMS)),
        param("checksum", Kind::Text(128)),
        param("content", Kind::Word(FETCHED)),
        form("filename", Form::FileName),
    ])
    .needs(&["Datastore.AllocateTemplate"])
    .slow();

pub(super) static CALLS: Calls = &[&UPLOAD];

/// An hour.
const LIMIT: Duration = Duration::from_secs(3600);

/// A file to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    content: Fetched,
    path: PathBuf,
    filename: Option<String>,
    checksum: Option<Checksum>,
    limit: Duration,
}

impl Upload {
    /// Under the name it has here.
    #[must_use]
    pub fn new(content: Fetched, path: &Path) -> Self {
        Self { content, path: path.to_owned(), filename: None, checksum: None, limit: LIMIT }
    }

    /// Under another name.
    #[must_use]
    pub fn filename(mut self, name: &str) -> Self {
        self.filename = Some(name.to_owned());
        self
    }

    /// Refused by the node unless what arrived has this checksum.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = Some(checksum);
        self
    }

    /// How long sending may take; an hour if nothing is said.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl Client {
    /// Sends a file to a storage. The node keeps it in its own `/var/tmp` first, so that needs room
    /// too, and moves it in the task.
    ///
    /// # Errors
    /// [`ApiError`]; a file that cannot be read, or whose name Proxmox would change silently, is
    /// refused here.
    pub async fn upload(&self, storage: &StorageName, file: &Upload) -> Result<Upid, ApiError> {
        let own = file.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = file.filename.clone().or(own).unwrap_or_default();
        let checksum = file.checksum.as_ref();
        // The order is Proxmox's: what it reads the file with comes before the file.
        let mut request = UPLOAD
            .at(&[self.node().await?.as_str(), storage.as_str()])
            .refuse_if(renamed(&name), RENAMED)
            .refuse_if(
                checksum.is_some_and(Checksum::wrong),
                "the checksum is not the hex digits of its algorithm",
            )
            .opt("checksum-algorithm", checksum.map(Checksum::algorithm))
            .opt("checksum", checksum.map(Checksum::hex))
            .set("content", file.content.as_str())
            .set("filename", &name);
        // Checked like the others, but sent as the name of the file.
        request.params.retain(|(field, _)| field != "filename");
        let opened = match &request.wrong {
            Some(why) => Err(why.clone()),
            None => open(&file.path).await,
        };
        match opened {
            Ok((handle, length)) => {
                let part = FilePart { field: "filename", name, file: handle, length, limit: file.limit };
                self.transport.upload(&request, part).await
            }
            Err(why) => Err(self.transport.refuse(&request, why)),
        }
    }
}

async fn open(path: &Path) -> Result<(File, u64), String> {
    let cannot = |why: std::io::Error| format!("cannot read `{}`: {why}", path.display());
    let file = File::open(path).await.map_err(cannot)?;
    let facts = file.metadata().await.map_err(cannot)?;
    if !facts.is_file() {
        return Err(format!("`{}` is not a file", path.display()));
    }
    Ok((file, facts.len()))
}
