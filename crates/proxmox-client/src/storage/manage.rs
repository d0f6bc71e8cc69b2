//! Storages are added to and removed from Proxmox's configuration. Only kinds that need no secret.

use std::fmt;

use crate::catalog::{Call, Calls, Form, Kind, Verb, flag, form, nothing, param};
use crate::client::Client;
use crate::storage::list::{CONTENT, Content, StorageConfig};
use crate::storage::volid::StorageName;
use crate::wire::error::ApiError;

static ADD: Call<()> = Call::new("storage add", Verb::Post, "/storage", nothing)
    .params(&[
        form("storage", Form::Storage),
        param("type", Kind::Word(&["dir", "zfspool", "lvmthin"])),
        param("content", Kind::Words(CONTENT)),
        param("path", Kind::Text(1024)),
        param("is_mountpoint", Kind::Word(&["1"])),
        param("pool", Kind::Text(256)),
        param("vgname", Kind::Text(128)),
        param("thinpool", Kind::Text(128)),
        flag("create-base-path"),
    ])
    .beyond(&["Datastore.Allocate"])
    .slow();
static REMOVE: Call<()> = Call::new("storage remove", Verb::Delete, "/storage/{storage}", nothing)
    .beyond(&["Datastore.Allocate"])
    .slow();

pub(super) static CALLS: Calls = &[&ADD, &REMOVE];

/// What is behind a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageBacking {
    /// A directory on which a filesystem is mounted: while nothing is, the storage is offline.
    Dir {
        /// Where.
        path: String,
    },
    /// A ZFS pool or dataset.
    ZfsPool {
        /// Its name.
        pool: String,
    },
    /// A thin pool of LVM.
    LvmThin {
        /// The volume group.
        vg: String,
        /// The thin pool.
        pool: String,
    },
}

impl StorageBacking {
    /// Whether a storage is configured like this.
    #[must_use]
    pub fn is(&self, storage: &StorageConfig) -> bool {
        let option = |key: &str| storage.raw.get(key).map(String::as_str);
        let plugin = storage.plugin.as_deref();
        match self {
            Self::Dir { path } => plugin == Some("dir") && option("path") == Some(path),
            Self::ZfsPool { pool } => plugin == Some("zfspool") && option("pool") == Some(pool),
            Self::LvmThin { vg, pool } => {
                plugin == Some("lvmthin") && option("vgname") == Some(vg) && option("thinpool") == Some(pool)
            }
        }
    }
}

impl fmt::Display for StorageBacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir { path } => write!(f, "type=dir path={path} is_mountpoint=1 create-base-path=0"),
            Self::ZfsPool { pool } => write!(f, "type=zfspool pool={pool}"),
            Self::LvmThin { vg, pool } => write!(f, "type=lvmthin vgname={vg} thinpool={pool}"),
        }
    }
}

/// A storage to be added, for all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStorage {
    name: StorageName,
    backing: StorageBacking,
    content: Vec<Content>,
}

impl NewStorage {
    /// What it may hold is always said: Proxmox's default differs by kind.
    #[must_use]
    pub const fn new(name: StorageName, backing: StorageBacking, content: Vec<Content>) -> Self {
        Self { name, backing, content }
    }
}

impl Client {
    /// Adds a storage to the configuration. Nothing is formatted; folders for what it holds are made inside.
    ///
    /// # Errors
    /// [`ApiError`]; needs Datastore.Allocate on `/storage`.
    pub async fn storage_add(&self, new: &NewStorage) -> Result<(), ApiError> {
        let content: Vec<&str> = new.content.iter().map(|content| content.as_str()).collect();
        let request = ADD
            .at(&[])
            .refuse_if(content.is_empty(), "a storage that may hold nothing is of no use")
            .set("storage", &new.name)
            .set("content", content.join(","));
        let request = match &new.backing {
            StorageBacking::Dir { path } => request
                .set("type", "dir")
                .set("path", path)
                .set("is_mountpoint", 1)
                .flag("create-base-path", false),
            StorageBacking::ZfsPool { pool } => request.set("type", "zfspool").set("pool", pool),
            StorageBacking::LvmThin { vg, pool } => {
                request.set("type", "lvmthin").set("vgname", vg).set("thinpool", pool)
            }
        };
        self.send(request).await
    }

    /// Takes a storage out of the configuration, of all nodes. What is on it stays.
    ///
    /// # Errors
    /// [`ApiError`]; needs Datastore.Allocate on `/storage`.
    pub async fn storage_remove(&self, storage: &StorageName) -> Result<(), ApiError> {
        self.send(REMOVE.at(&[storage.as_str()])).await
    }
}
