//! The state directory: whose it is, and that only one process has it.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use authz::files::{self, FileError};

use crate::Who;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// The directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody else's.
    #[error("{path} belongs to user id {uid} and not to the {name}'s: chown it", path = .path.display(), name = .who.name)]
    Owner {
        /// Whose it should be.
        who: Who,
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Another process of the same kind.
    #[error("{}", .who.locked(.path))]
    Locked {
        /// Which service.
        who: Who,
        /// The lock.
        path: PathBuf,
    },
}

/// The directory is ours as long as this lives, anchored or not.
#[derive(Debug)]
pub struct Seat {
    _lock: std::fs::File,
}

impl Seat {
    /// Makes the directory when it is missing, and takes it.
    pub fn take(who: Who, directory: &Path) -> Result<Self, SeatError> {
        files::prepare_state_dir(directory)?;
        let meta = std::fs::metadata(directory)
            .map_err(|source| FileError::io("open state directory", directory, source))?;
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(SeatError::Owner { who, path: directory.to_owned(), uid: meta.uid() });
        }
        let path = directory.join("lock");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| FileError::io("open", &path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _lock: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(SeatError::Locked { who, path }),
            Err(std::fs::TryLockError::Error(source)) => Err(FileError::io("lock", &path, source).into()),
        }
    }
}
