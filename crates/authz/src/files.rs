//! Durable writes, and secrets in files that only their owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub mod layer;

/// Largest secret file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Why a file cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Others can read a secret.
    #[error("{path} has mode {mode:04o}, so others can read the secret in it: chmod 600 {path}", path = .path.display())]
    SecretMode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory with secrets that others can enter or change.
    #[error("directory {path} has mode {mode:04o}, so others can get at the state in it: chmod 700 {path}", path = .path.display())]
    DirectoryMode {
        /// Which directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a plain file.
    #[error("{path} is not a plain file: put the file itself there", path = .path.display())]
    NotAFile {
        /// Which file.
        path: PathBuf,
    },
    /// Far larger than any secret of ours.
    #[error("{path} is larger than {MAX_SECRET} bytes: this is not the file that is meant", path = .path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {action} {path}: {reason}", path = .path.display(), reason = reason(.source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn reason(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "it does not exist: correct the path or put the file there",
        io::ErrorKind::PermissionDenied => "permission denied: check the owner and the mode",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: use a writable directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space is left: free some",
        io::ErrorKind::NotADirectory => "a part of the path is not a directory: correct the path",
        _ => return error.to_string(),
    };
    remedy.to_owned()
}

impl FileError {
    /// For a failed system call.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether there is no room, or none that may be written to: refusing is enough, the disk did not fail.
    pub fn is_no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
    }

    /// Whether the file simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a secret; refuses when group or others have any right to the file.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = File::open(path).map_err(|source| FileError::io("read", path, source))?;
    // Of the open file, so that nobody can swap it in between.
    let meta = file.metadata().map_err(|source| FileError::io("read", path, source))?;
    if !meta.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::SecretMode { path: path.to_owned(), mode });
    }
    if meta.len() > MAX_SECRET {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0) + 1));
    file.take(MAX_SECRET + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| FileError::io("read", path, source))?;
    Ok(bytes)
}

/// Reads a whole file of at most `max` bytes.
pub fn read_limited(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|source| FileError::io("read", path, source))?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|source| FileError::io("read", path, source))?;
    if bytes.len() as u64 > max {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Writes a file with mode 0600 so that after a crash either the old or the new content is there:
/// temporary file, fsync, rename, fsync of the directory.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    Prepared::write(path, bytes)?.commit()
}

/// A file's new content, durable beside it: all that needs space is done, and nothing has changed yet. Gone when
/// it is dropped.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

impl Prepared {
    /// The first half of [`write_atomic`].
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn write(path: &Path, bytes: &[u8]) -> Result<Self, FileError> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = parent(path).join(format!(".{name}.new"));
        let fail = |source| FileError::io("write", path, source);
        // A leftover of a crash has our own name and mode; anything else there is in the way.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(fail)?;
        // From here on it is removed where it fails; leaving it would only waste space that may be short.
        let prepared = Self { path: path.to_owned(), temporary, committed: false };
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
        Ok(prepared)
    }

    /// The second half: from here on the new content counts.
    ///
    /// # Errors
    /// Nobody knows which content is there after a crash.
    pub fn commit(mut self) -> Result<(), FileError> {
        fs::rename(&self.temporary, &self.path)
            .map_err(|source| FileError::io("write", &self.path, source))?;
        self.committed = true;
        sync_directory(parent(&self.path))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a rename or a new file in the directory durable.
pub fn sync_directory(directory: &Path) -> Result<(), FileError> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| FileError::io("sync directory", directory, source))
}

/// Makes sure of a state directory: created 0700 if absent, otherwise it must not be open to
/// others, and it must be writable now rather than at the first order.
pub fn prepare_state_dir(directory: &Path) -> Result<(), FileError> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => sync_directory(parent(directory))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(FileError::io("create state directory", directory, source)),
    }
    let meta =
        fs::metadata(directory).map_err(|source| FileError::io("open state directory", directory, source))?;
    if !meta.is_dir() {
        let source = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(FileError::io("open state directory", directory, source));
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::DirectoryMode { path: directory.to_owned(), mode });
    }
    let probe = directory.join(".writable");
    File::create(&probe)
        .and_then(|_| fs::remove_file(&probe))
        .map_err(|source| FileError::io("write in state directory", directory, source))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn open_secrets_are_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write_atomic(&path, b"secret").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_slice(), b"secret");
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_secret(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && !error.contains("secret\n"), "{error}");
        }
        assert!(matches!(read_secret(dir.path()), Err(FileError::NotAFile { .. })));
        assert!(read_secret(&dir.path().join("absent")).unwrap_err().is_not_found());
    }

    #[test]
    fn a_leftover_of_a_crash_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_atomic(&path, b"old").unwrap();
        fs::write(dir.path().join(".state.new"), b"half").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_prepared_counts_when_it_is_committed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_atomic(&path, b"old").unwrap();
        drop(Prepared::write(&path, b"given up").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let prepared = Prepared::write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        prepared.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let said = |error: io::Error| FileError::io("write", Path::new("x"), error).is_no_room();
        assert!(said(OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err()));
        for (errno, expected) in [(28, true), (122, true), (30, true), (5, false), (2, false), (13, false)] {
            assert_eq!(said(io::Error::from_raw_os_error(errno)), expected, "{errno}");
        }
        assert!(!FileError::NotAFile { path: "x".into() }.is_no_room());
    }

    #[test]
    fn state_directories_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        prepare_state_dir(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(prepare_state_dir(&state).unwrap_err().to_string().contains("chmod 700"));
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(prepare_state_dir(&dir.path().join("file")).is_err());
        assert!(
            prepare_state_dir(&dir.path().join("no/parent"))
                .unwrap_err()
                .to_string()
                .contains("does not exist")
        );
    }
}
