//! The files of one session: the client key that the order names, and the one host key that ssh may believe.
//! They exist as long as the session does.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use authz::{KeyError, PublicKey, SecretKey};
use protocol::HostName;

/// Why a session has no place for its files.
#[derive(Debug, thiserror::Error)]
pub enum SessionDirError {
    /// A file or the directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Two sessions would overwrite each other's key.
    #[error(
        "another `writ connect` uses the session directory {path} now: close that session, or name another directory with --session-dir", path = .0.display()
    )]
    InUse(PathBuf),
    /// A path that ssh would read as something else.
    #[error(
        "ssh cannot be given the path {path}, because of the character {character:?} in it: use another directory (--session-dir, --home or $WRIT_HOME)", path = .path.display()
    )]
    Path {
        /// The path.
        path: PathBuf,
        /// What ssh would expand or cannot have.
        character: char,
    },
    /// The key could not be written down.
    #[error("the session's key could not be written as an OpenSSH key file: {0}")]
    Key(KeyError),
}

/// What ssh is to call the host: a name that cannot be mistaken for one in ~/.ssh/known_hosts.
pub fn alias(host: &HostName) -> String {
    format!("writ-{host}")
}

/// Where the client key of a session in `directory` is.
pub fn key_file(directory: &Path) -> PathBuf {
    directory.join("id_ed25519")
}

/// Where the host key of a session in `directory` is.
pub fn known_hosts_file(directory: &Path) -> PathBuf {
    directory.join("known_hosts")
}

/// A path as the value of an option of ssh: quoted, nothing in it expanded.
pub fn for_ssh(path: &Path) -> Result<String, SessionDirError> {
    let fail = |character| SessionDirError::Path { path: path.to_owned(), character };
    let text = path.to_str().ok_or_else(|| fail('\u{fffd}'))?;
    // ssh_config(5): %% is a percent sign, ${NAME} is expanded and cannot be escaped.
    match text.chars().find(|c| c.is_control() || matches!(c, '"' | '\\' | '$')) {
        Some(character) => Err(fail(character)),
        None => Ok(format!("\"{}\"", text.replace('%', "%%"))),
    }
}

/// A private directory that this session has for itself; its files go when this goes.
#[derive(Debug)]
pub struct SessionDir {
    path: PathBuf,
    /// Held, not read.
    _lock: File,
}

impl SessionDir {
    /// Made 0700 if absent; refused while another session uses it.
    pub fn open(path: &Path) -> Result<Self, SessionDirError> {
        files::prepare_state_dir(path)?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(|source| FileError::io("open", &lock, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(SessionDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(FileError::io("lock", &lock, source).into()),
        }
    }

    /// Puts the client key there. ssh reads it when it authenticates, so it must be there before the session
    /// is.
    pub fn write_key(&self, key: &SecretKey) -> Result<(), SessionDirError> {
        let text = key.to_openssh("writ session").map_err(SessionDirError::Key)?;
        let path = key_file(&self.path);
        files::write_atomic(&path, text.as_bytes())?;
        files::write_atomic(
            &path.with_extension("pub"),
            format!("{} writ session\n", key.public()).as_bytes(),
        )?;
        Ok(())
    }

    /// Puts the host key there, the only one that ssh will believe.
    pub fn write_known_host(&self, host: &HostName, key: &PublicKey) -> Result<(), SessionDirError> {
        let line = format!("{} {key}\n", alias(host));
        Ok(files::write_atomic(&known_hosts_file(&self.path), line.as_bytes())?)
    }
}

impl Drop for SessionDir {
    fn drop(&mut self) {
        let key = key_file(&self.path);
        for file in [key.with_extension("pub"), key, known_hosts_file(&self.path)] {
            // What is gone is gone; what stays opens nothing any more.
            let _ = std::fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{alice, mallory, name};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    #[test]
    fn the_files_of_a_session_are_private_and_go_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let session = SessionDir::open(&path).unwrap();
        session.write_key(&alice()).unwrap();
        session.write_known_host(&name("web1"), &mallory().public()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::metadata(key_file(&path)).unwrap().mode() & 0o7777, 0o600);
        let key = std::fs::read_to_string(key_file(&path)).unwrap();
        assert_eq!(SecretKey::from_openssh(&key, None).unwrap().public(), alice().public());
        let public = std::fs::read_to_string(path.join("id_ed25519.pub")).unwrap();
        assert_eq!(PublicKey::from_line(&public).unwrap(), alice().public());
        let known = std::fs::read_to_string(known_hosts_file(&path)).unwrap();
        assert_eq!(known, format!("writ-web1 {}\n", mallory().public()));

        assert!(matches!(SessionDir::open(&path), Err(SessionDirError::InUse(_))));
        drop(session);
        let left: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        SessionDir::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(SessionDir::open(&path).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn paths_reach_ssh_as_they_are_or_not_at_all() {
        assert_eq!(for_ssh(Path::new("/home/a b/100%/x")).unwrap(), "\"/home/a b/100%%/x\"");
        for bad in ["/a\"b", "/a\\b", "/${HOME}", "/a\nb"] {
            assert!(for_ssh(Path::new(bad)).unwrap_err().to_string().contains("--session-dir"), "{bad}");
        }
    }
}
