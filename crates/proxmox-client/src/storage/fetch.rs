//! Images and templates that the node fetches itself.

use serde::Deserialize;

use crate::catalog::{Call, Calls, Form, Kind, Verb, flag, form, param, rows, upid};
use crate::client::Client;
use crate::storage::volid::StorageName;
use crate::value::lenient;
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

pub(super) const CHECKSUMS: &[&str] = &["md5", "sha1", "sha224", "sha256", "sha384", "sha512"];
pub(super) const FETCHED: &[&str] = &["iso", "vztmpl", "import"];

static DOWNLOAD: Call<Upid> =
    Call::new("download-url", Verb::Post, "/nodes/{node}/storage/{storage}/download-url", upid)
        .starts(&["download"])
        .params(&[
            param("content", Kind::Word(FETCHED)),
            form("filename", Form::FileName),
            form("url", Form::Url),
            param("checksum", Kind::Text(128)),
            param("checksum-algorithm", Kind::Word(CHECKSUMS)),
            flag("verify-certificates"),
        ])
        .needs(&["Datastore.AllocateTemplate", "Sys.Audit"])
        // Sys.Modify with Sys.Audit on `/`, or Sys.AccessNetwork on the node.
        .beyond(&["Sys.Modify", "Sys.AccessNetwork"])
        .slow();
static TEMPLATES: Call<Vec<Appliance>> =
    Call::get("appliance list", "/nodes/{node}/aplinfo", rows).long().slow();
static TEMPLATE: Call<Upid> = Call::new("appliance download", Verb::Post, "/nodes/{node}/aplinfo", upid)
    .starts(&["download"])
    .params(&[form("storage", Form::Storage), form("template", Form::FileName)])
    .needs(&["Datastore.AllocateTemplate"])
    .slow();

pub(super) static CALLS: Calls = &[&DOWNLOAD, &TEMPLATES, &TEMPLATE];

/// What can be fetched and uploaded. Snippets cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// An installation image, `.iso` or `.img`.
    Iso,
    /// A container template.
    Template,
    /// An image or appliance to import.
    Import,
}

impl Fetched {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Iso => "iso",
            Self::Template => "vztmpl",
            Self::Import => "import",
        }
    }
}

/// A checksum, compared by the node before the file takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// Hex.
    Sha256(String),
    /// Hex.
    Sha512(String),
}

impl Checksum {
    pub(super) const fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    pub(super) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Sha512(hex) => hex,
        }
    }

    pub(super) fn wrong(&self) -> bool {
        let digits = match self {
            Self::Sha256(_) => 64,
            Self::Sha512(_) => 128,
        };
        self.hex().len() != digits || !self.hex().bytes().all(|b| b.is_ascii_hexdigit())
    }
}

/// Whether Proxmox would store the file under another name: it replaces every other sign by `_`
/// without a word.
pub(super) fn renamed(name: &str) -> bool {
    name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

pub(super) const RENAMED: &str =
    "Proxmox would store the file under another name; use letters, digits, `-`, `_` and `.` only";

/// A file that the node is to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadUrl {
    content: Fetched,
    filename: String,
    url: String,
    checksum: Option<Checksum>,
    verify: bool,
}

impl DownloadUrl {
    /// From an `http` or `https` address, whose certificate the node verifies.
    #[must_use]
    pub fn new(content: Fetched, filename: &str, url: &str) -> Self {
        Self { content, filename: filename.to_owned(), url: url.to_owned(), checksum: None, verify: true }
    }

    /// Refused unless the file has this checksum.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = Some(checksum);
        self
    }

    /// Takes the file from a server whatever its certificate; only with a checksum.
    #[must_use]
    pub const fn from_unverified_server(mut self) -> Self {
        self.verify = false;
        self
    }
}

/// A container template that Proxmox offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Appliance {
    /// The file's name, for [`Client::appliance_download`].
    #[serde(default, deserialize_with = "lenient::text")]
    pub template: Option<String>,
    /// `debian-12-standard`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub package: Option<String>,
    /// Its version.
    #[serde(default, deserialize_with = "lenient::text")]
    pub version: Option<String>,
    /// `debian-12`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub os: Option<String>,
    /// `system`, `turnkeylinux`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub section: Option<String>,
    /// `lxc`.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// One line about it.
    #[serde(default, deserialize_with = "lenient::text")]
    pub headline: Option<String>,
    /// Of the file, hex.
    #[serde(default, deserialize_with = "lenient::text")]
    pub sha512sum: Option<String>,
}

impl Client {
    /// Lets the node fetch a file into a storage.
    ///
    /// # Errors
    /// [`ApiError`]; a name that Proxmox would change silently is refused here.
    pub async fn download_url(&self, storage: &StorageName, file: &DownloadUrl) -> Result<Upid, ApiError> {
        let checksum = file.checksum.as_ref();
        let request = DOWNLOAD.at(&[self.node().await?.as_str(), storage.as_str()]);
        let request = request
            .refuse_if(renamed(&file.filename), RENAMED)
            .refuse_if(
                checksum.is_some_and(Checksum::wrong),
                "the checksum is not the hex digits of its algorithm",
            )
            .refuse_if(
                !file.verify && checksum.is_none(),
                "a file from a server that is not verified needs a checksum",
            )
            .set("content", file.content.as_str())
            .set("filename", &file.filename)
            .set("url", &file.url)
            .opt("checksum-algorithm", checksum.map(Checksum::algorithm))
            .opt("checksum", checksum.map(Checksum::hex))
            .flag("verify-certificates", file.verify);
        self.send(request).await
    }

    /// The container templates that Proxmox offers, from the list the node last fetched.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn appliances(&self) -> Result<Vec<Appliance>, ApiError> {
        self.send(TEMPLATES.at(&[self.node().await?.as_str()])).await
    }

    /// Lets the node fetch one of them; it verifies the checksum by its list.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn appliance_download(&self, storage: &StorageName, template: &str) -> Result<Upid, ApiError> {
        let request = TEMPLATE.at(&[self.node().await?.as_str()]);
        self.send(request.set("storage", storage).set("template", template)).await
    }
}
