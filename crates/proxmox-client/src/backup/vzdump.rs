//! One guest's backup, now; and what a backup says about its guest.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::catalog::{Call, Calls, Data, Form, Kind, Started, Verb, flag, form, json, param, started};
use crate::client::Client;
use crate::guest::property::PropertyString;
use crate::storage::list::property_text;
use crate::storage::prune::Retention;
use crate::storage::volid::{StorageName, Volid};
use crate::value::ids::{GuestKind, Vmid};
use crate::value::lenient;
use crate::wire::error::ApiError;

const MODES: &[&str] = &["snapshot", "suspend", "stop"];
const COMPRESS: &[&str] = &["0", "1", "gzip", "lzo", "zstd"];
/// Minutes, up to a week.
const LOCKWAIT: Kind = Kind::Int(0, 10_080);

static BACKUP: Call<Started> = Call::new("vzdump", Verb::Post, "/nodes/{node}/vzdump", started)
    .starts(&["vzdump"])
    .params(&[
        form("vmid", Form::VmidList),
        form("storage", Form::Storage),
        param("mode", Kind::Word(MODES)),
        param("compress", Kind::Word(COMPRESS)),
        flag("protected"),
        param("notes-template", Kind::Text(1024)),
        flag("remove"),
        form("prune-backups", Form::Retention),
        param("lockwait", LOCKWAIT),
    ])
    .needs(&["VM.Backup", "Datastore.AllocateSpace"])
    // For `prune-backups`.
    .beyond(&["Datastore.Allocate"]);
static DEFAULTS: Call<BackupDefaults> =
    Call::get("vzdump defaults", "/nodes/{node}/vzdump/defaults", defaults)
        .params(&[form("storage", Form::Storage)])
        .needs(&["Datastore.Audit", "Datastore.AllocateSpace", "Sys.Audit"]);
static STORED: Call<StoredConfig> =
    Call::get("vzdump extractconfig", "/nodes/{node}/vzdump/extractconfig", |data| {
        data.value.as_str().map(StoredConfig::parse).ok_or_else(|| "no text".to_owned())
    })
    .params(&[form("volume", Form::Volume)])
    .needs(&["VM.Backup", "Datastore.AllocateSpace"])
    .slow();

pub(super) static CALLS: Calls = &[&BACKUP, &DEFAULTS, &STORED];

/// How a guest is kept still while it is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupMode {
    /// It keeps running. A container whose volumes cannot be snapshotted is suspended instead,
    /// which the log alone tells: ask [`Client::feature_snapshot`] first.
    Snapshot,
    /// It is suspended.
    Suspend,
    /// It is shut down and started again.
    Stop,
}

/// How a backup file is packed. A Proxmox Backup Server does as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// LZO.
    Lzo,
    /// Zstandard.
    Zstd,
}

/// A backup to be made, of one guest: of several, one task would tell only `job errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    vmid: Vmid,
    storage: StorageName,
    mode: BackupMode,
    compress: Compression,
    protected: bool,
    notes: Option<String>,
    lockwait: Option<Duration>,
    prune: Option<Retention>,
}

impl Backup {
    /// Of a running guest, with Zstandard. No older backup is removed.
    #[must_use]
    pub const fn new(vmid: Vmid, storage: StorageName) -> Self {
        Self {
            vmid,
            storage,
            mode: BackupMode::Snapshot,
            compress: Compression::Zstd,
            protected: false,
            notes: None,
            lockwait: None,
            prune: None,
        }
    }

    /// How the guest is kept still.
    #[must_use]
    pub const fn mode(mut self, mode: BackupMode) -> Self {
        self.mode = mode;
        self
    }

    /// How the file is packed.
    #[must_use]
    pub const fn compress(mut self, compress: Compression) -> Self {
        self.compress = compress;
        self
    }

    /// Neither pruned nor deleted until that is taken back; and not counted against a limit of the
    /// storage, of which Proxmox allows 5 for each guest.
    #[must_use]
    pub const fn protected(mut self) -> Self {
        self.protected = true;
        self
    }

    /// Its notes; `{{guestname}}`, `{{node}}`, `{{vmid}}` and `{{cluster}}` are filled in.
    #[must_use]
    pub fn notes(mut self, template: &str) -> Self {
        self.notes = Some(template.to_owned());
        self
    }

    /// How long it may wait for another backup of this node, in whole minutes; Proxmox waits three
    /// hours if nothing is said.
    #[must_use]
    pub const fn wait_for_others(mut self, at_most: Duration) -> Self {
        self.lockwait = Some(at_most);
        self
    }

    /// Removes older backups of this guest afterwards. Needs Datastore.Allocate.
    #[must_use]
    pub const fn then_prune(mut self, keep: Retention) -> Self {
        self.prune = Some(keep);
        self
    }
}

/// Notes as Proxmox wants them, on one line.
fn one_line(template: &str) -> String {
    template.replace('\\', "\\\\").replace("\r\n", "\n").replace('\n', "\\n")
}

/// `GET …/vzdump/defaults`: what a backup does where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupDefaults {
    /// `snapshot`, `suspend`, `stop`.
    pub mode: Option<String>,
    /// `0`, `zstd`, …
    pub compress: Option<String>,
    /// The storage.
    pub storage: Option<String>,
    /// Whether older backups are removed. Proxmox's own answer is yes.
    pub remove: Option<bool>,
    /// What is kept then, as a property string.
    pub prune_backups: Option<String>,
    /// Minutes.
    pub lockwait: Option<u64>,
    /// Every other key, scalars as text, structures as JSON.
    pub raw: BTreeMap<String, String>,
}

fn defaults(data: Data) -> Result<BackupDefaults, String> {
    let mut fields: BTreeMap<String, Value> = json(data)?;
    let mut take = |name: &str| fields.remove(name);
    let prune_backups = take("prune-backups").as_ref().and_then(property_text);
    let remove = take("remove").as_ref().and_then(lenient::as_bool);
    let lockwait = take("lockwait").as_ref().and_then(lenient::as_u64);
    let mut text = |name: &str| take(name).as_ref().and_then(lenient::as_text);
    let (mode, compress, storage) = (text("mode"), text("compress"), text("storage"));
    let raw = fields.into_iter().filter_map(|(key, value)| Some((key, lenient::as_text(&value)?))).collect();
    Ok(BackupDefaults { mode, compress, storage, remove, prune_backups, lockwait, raw })
}

/// The config a backup holds. It is compared with what a guest is to be *before* a restore: whose
/// backup it is, which bridges it wants, which paths of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct StoredConfig {
    /// As stored.
    pub text: String,
    /// Options and their values; of one that is there twice (`lxc.idmap`) the first.
    pub options: BTreeMap<String, String>,
    /// The guest's notes.
    pub description: String,
}

impl StoredConfig {
    /// Reads `key: value` lines up to the first section: those that follow are snapshots' and
    /// pending options.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut options = BTreeMap::new();
        let mut description = String::new();
        for line in text.lines().take_while(|line| !line.starts_with('[')) {
            if let Some(comment) = line.strip_prefix('#') {
                // `#qmdump#` lines are vzdump's own: which archive entry is which disk.
                if !comment.starts_with("qmdump#") {
                    description += &decoded(comment);
                    description.push('\n');
                }
            } else if let Some((key, value)) = line.split_once(':') {
                options.entry(key.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
            }
        }
        Self { text: text.to_owned(), options, description: description.trim_end().to_owned() }
    }

    /// One option.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    /// One option as a property string.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<PropertyString> {
        self.get(key).map(PropertyString::parse)
    }

    /// `name` of a virtual machine, `hostname` of a container.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.get("name").or_else(|| self.get("hostname"))
    }

    /// What kind of guest it was, as far as its options tell.
    #[must_use]
    pub fn kind(&self) -> Option<GuestKind> {
        let has = |keys: &[&str]| keys.iter().any(|key| self.options.contains_key(*key));
        if has(&["rootfs"]) {
            return Some(GuestKind::Lxc);
        }
        has(&["smbios1", "vmgenid", "scsihw", "boot", "meta"]).then_some(GuestKind::Qemu)
    }
}

/// `%C3%A4` in a config's comment.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = || {
            let pair = std::str::from_utf8(after.get(..2)?).ok()?;
            pair.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(pair, 16).ok()).flatten()
        };
        match (first, hex()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Client {
    /// Backs a guest up. Whether that works only the task knows: an unknown guest, a missing
    /// privilege, an inactive storage all fail there. [`Started::AtOnce`] means that Proxmox found
    /// nothing to back up on this node. The new backup's name is not told: look for the newest of
    /// that guest in [`Client::storage_content`], not older than the task.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn backup(&self, backup: &Backup) -> Result<Started, ApiError> {
        let wrong = backup.prune.as_ref().and_then(Retention::wrong);
        let notes = backup.notes.as_deref().map(one_line);
        let request = BACKUP.at(&[self.node().await?.as_str()]);
        let request = request
            .refuse_if(wrong.is_some(), wrong.unwrap_or_default())
            .refuse_if(
                notes.as_deref().is_some_and(|notes| notes.chars().any(char::is_control)),
                "notes hold text and line breaks, no other control characters",
            )
            .set("vmid", backup.vmid)
            .set("storage", &backup.storage)
            .set(
                "mode",
                match backup.mode {
                    BackupMode::Snapshot => "snapshot",
                    BackupMode::Suspend => "suspend",
                    BackupMode::Stop => "stop",
                },
            )
            .set(
                "compress",
                match backup.compress {
                    Compression::None => "0",
                    Compression::Gzip => "gzip",
                    Compression::Lzo => "lzo",
                    Compression::Zstd => "zstd",
                },
            )
            .flag_if("protected", backup.protected)
            .opt("notes-template", notes)
            .opt("lockwait", backup.lockwait.map(|wait| wait.as_secs() / 60))
            // Its default is to remove: a safety backup could delete the only older one.
            .flag("remove", backup.prune.is_some())
            .opt("prune-backups", backup.prune);
        self.send(request).await
    }

    /// What a backup does where nothing is said, for a storage or in general.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn backup_defaults(&self, storage: Option<&StorageName>) -> Result<BackupDefaults, ApiError> {
        self.send(DEFAULTS.at(&[self.node().await?.as_str()]).opt("storage", storage)).await
    }

    /// The config that a backup holds.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn backup_config(&self, volid: &Volid) -> Result<StoredConfig, ApiError> {
        self.send(STORED.at(&[self.node().await?.as_str()]).set("volume", volid)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_config_is_read_up_to_its_first_section() {
        let text = "#Zeile 1\n#Zeile 2%3A %C3%A4%C3%B6%C3%BC 100%\nboot: order=scsi0\nname: vm100\nscsi0: local:100/vm-100-disk-0.qcow2,size=52429K\nsmbios1: uuid=1575a37c\n\n#qmdump#map:scsi0:drive-scsi0:local:qcow2:\n[before]\nname: other\n";
        let config = StoredConfig::parse(text);
        assert_eq!(config.description, "Zeile 1\nZeile 2: äöü 100%");
        assert_eq!((config.name(), config.kind()), (Some("vm100"), Some(GuestKind::Qemu)));
        assert_eq!(config.property("scsi0").unwrap().get("size"), Some("52429K"));
        assert_eq!(config.get("before"), None);
        assert_eq!(config.text, text);

        let config = StoredConfig::parse(
            "hostname: ct200\nrootfs: btr:200/x,size=1G\nlxc.idmap: u 0 1 2\nlxc.idmap: g 0 1 2\n",
        );
        assert_eq!((config.name(), config.kind()), (Some("ct200"), Some(GuestKind::Lxc)));
        assert_eq!(config.get("lxc.idmap"), Some("u 0 1 2"));
        assert_eq!(StoredConfig::parse("").kind(), None);
        for hostile in ["%", "#%zz%4", "::::", "[", "#%ff\n"] {
            assert_eq!(StoredConfig::parse(hostile).name(), None, "{hostile}");
        }
    }

    #[test]
    fn notes_go_on_one_line() {
        assert_eq!(one_line("a\nb\r\nc\\d"), "a\\nb\\nc\\\\d");
    }
}
