//! What the hub remembers, in one SQLite file. Everything else in the hub talks to plain async
//! functions on [`Store`] and never to SQL.
//!
//! One connection writes, so writers wait for each other in a queue instead of failing with
//! "database is locked"; a small pool reads. `synchronous=FULL`: what was acknowledged survives a
//! power cut. The SQL keeps to `$1` and to what PostgreSQL understands too.

mod desired;
mod enrollments;
mod hosts;
mod jobs;
mod log;
mod orders;
mod policies;
mod receipts;
mod sessions;
mod tunnels;

#[cfg(test)]
mod tests;

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use authz::files::FileError;
use sqlx::SqlitePool;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

pub(crate) use enrollments::{EnrollmentError, NewEnrollment};
pub(crate) use hosts::Host;
pub(crate) use jobs::ResultStored;
pub(crate) use orders::SubmitError;
pub(crate) use policies::PolicyStoreError;
pub(crate) use receipts::{AppendError, LogEntry};
pub(crate) use sessions::Session;
pub(crate) use tunnels::{NewTunnel, OpenTunnelError, Relayed};

/// Connections for reading.
const READERS: u32 = 4;

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// SQLite does not take it.
    #[error("cannot open the database {path}: is it a hub's SQLite file and not damaged? Restore a copy or move it away", path = .path.display())]
    Sqlite {
        /// The file.
        path: std::path::PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// A newer hub wrote it, or it is damaged.
    #[error("the database {path} has a format that this version does not know: use the version of writ-hub that last wrote it, or a newer one", path = .path.display())]
    Migrate {
        /// The file.
        path: std::path::PathBuf,
        /// Which migration.
        source: MigrateError,
    },
}

/// Why a question to the store has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite.
    #[error("the database failed: see the hub's log")]
    Sqlite(#[from] sqlx::Error),
    /// A row that this program cannot have written.
    #[error("the database holds a {0} that cannot be read: see the hub's log")]
    Corrupt(&'static str),
}

/// Handle to the database; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    write: SqlitePool,
    read: SqlitePool,
}

impl Store {
    /// Opens the file, made with mode 0600 if absent, and brings its format up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, OpenError> {
        prepare_file(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(sqlite)?;
        sqlx::migrate!()
            .run(&write)
            .await
            .map_err(|source| OpenError::Migrate { path: path.to_owned(), source })?;
        let read =
            SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.map_err(sqlite)?;
        Ok(Self { write, read })
    }

    /// Waits for what is under way and closes the file.
    pub(crate) async fn close(&self) {
        self.read.close().await;
        // Last, so that it can fold the write-ahead log back into the file.
        self.write.close().await;
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.read).await?;
        Ok(())
    }
}

/// SQLite gives its side files the mode of the main file, so that one has to be right first.
fn prepare_file(path: &Path) -> Result<(), FileError> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| FileError::io("open database", path, source))?;
    let meta = opened.metadata().map_err(|source| FileError::io("open database", path, source))?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::SecretMode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Numbers of ours stay far below 2^63; a larger one from outside is as good as the largest.
fn to_db(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The database never holds a negative number of ours.
fn from_db(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A fixed-size column.
fn bytes<const N: usize>(what: &'static str, column: Vec<u8>) -> Result<[u8; N], StoreError> {
    column.try_into().map_err(|_| StoreError::Corrupt(what))
}

/// A column of an identifier's one spelling.
fn text<T: std::str::FromStr>(what: &'static str, column: &str) -> Result<T, StoreError> {
    column.parse().map_err(|_| StoreError::Corrupt(what))
}

/// A JSON column.
fn json<T: serde::de::DeserializeOwned>(what: &'static str, column: &str) -> Result<T, StoreError> {
    serde_json::from_str(column).map_err(|_| StoreError::Corrupt(what))
}

/// For a JSON column.
fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the wire types hold nothing that JSON cannot say")
}
