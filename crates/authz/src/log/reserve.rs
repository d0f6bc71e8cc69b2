//! Space that is held for the end of what has begun. One file of bytes that no file system can leave out or press
//! together.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::files::{FileError, sync_directory};

const FILE: &str = "log.reserve";
/// Bytes; the story of one order needs a tenth.
pub(super) const LENGTH: u64 = 64 * 1024;

/// Makes sure that the space is held.
pub(super) fn hold(directory: &Path) -> Result<(), FileError> {
    let path = directory.join(FILE);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == LENGTH) {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let mut hash = Sha256::digest(FILE);
    while (bytes.len() as u64) < LENGTH {
        bytes.extend_from_slice(&hash);
        hash = Sha256::digest(hash);
    }
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    if let Err(source) = written {
        // Half of it would only be in the way.
        let _ = fs::remove_file(&path);
        return Err(FileError::io("reserve space in", &path, source));
    }
    sync_directory(directory)
}

/// Gives the space up.
pub(super) fn release(directory: &Path) -> Result<(), FileError> {
    let path = directory.join(FILE);
    match OpenOptions::new().write(true).open(&path) {
        Ok(file) => file
            .set_len(0)
            .and_then(|()| file.sync_all())
            .map_err(|source| FileError::io("give up space in", &path, source)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FileError::io("open", &path, source)),
    }
}
