//! The files of a session: the client key that the order names, and the host key that ssh may believe. They
//! exist as long as the session does.
//!
//! An ssh_config names one directory, and ssh may be started several times with it. Sessions that use a
//! directory at the same time share its client key, and ssh believes the host keys of all of them, each of
//! which the host signed; the last one to end removes the files. `writ ssh` makes a directory for each session.

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
    /// The key could not be written down, or read again.
    #[error("the session key {path} cannot be used ({why}): remove it when no session uses it", path = .path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: KeyError,
    },
}

/// Largest file of ours, in bytes.
const MAX_FILE: u64 = 64 * 1024;

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

/// A private directory that this session uses; its files go with the last session that does.
#[derive(Debug)]
pub struct SessionDir {
    path: PathBuf,
    key: PublicKey,
    /// Locked while files are made or removed, never for long.
    door: File,
    /// Locked together with others while the session lasts.
    users: File,
}

impl SessionDir {
    /// Made 0700 if absent. `fresh` becomes its client key, unless sessions use it now: then it is theirs. ssh
    /// reads the key when it authenticates, so it is there before anything is sent.
    pub fn open(path: &Path, fresh: &SecretKey) -> Result<Self, SessionDirError> {
        files::prepare_state_dir(path)?;
        let (door, users) = (lock_file(&path.join("lock"))?, lock_file(&path.join("users"))?);
        let locked = |source| FileError::io("lock", path, source);
        door.lock().map_err(locked)?;
        let key = match users.try_lock() {
            Ok(()) => {
                users.unlock().map_err(locked)?;
                start(path, fresh)?
            }
            Err(TryLockError::WouldBlock) => read_key(path)?,
            Err(TryLockError::Error(source)) => return Err(locked(source).into()),
        };
        users.lock_shared().map_err(locked)?;
        door.unlock().map_err(locked)?;
        Ok(Self { path: path.to_owned(), key, door, users })
    }

    /// The client key that the order is to name.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Lets ssh believe this host key, beside those of other sessions that use the directory.
    pub fn believe(&self, host: &HostName, key: &PublicKey) -> Result<(), SessionDirError> {
        let locked = |source| FileError::io("lock", &self.path, source);
        self.door.lock().map_err(locked)?;
        let added = add_line(&known_hosts_file(&self.path), &format!("{} {key}\n", alias(host)));
        self.door.unlock().map_err(locked)?;
        Ok(added?)
    }
}

fn add_line(path: &Path, line: &str) -> Result<(), FileError> {
    let mut lines = match files::read_limited(path, MAX_FILE) {
        Err(error) if error.is_not_found() => Vec::new(),
        other => other?,
    };
    lines.extend_from_slice(line.as_bytes());
    files::write_atomic(path, &lines)
}

impl Drop for SessionDir {
    fn drop(&mut self) {
        // Best effort: what stays opens nothing once its session is over.
        let last =
            self.door.lock().and_then(|()| self.users.unlock()).is_ok() && self.users.try_lock().is_ok();
        if last {
            // The key stays: the next ssh may have read it already. It opens nothing without a new grant.
            let _ = std::fs::remove_file(known_hosts_file(&self.path));
        }
    }
}

/// Nobody uses the directory: whatever is in it was left by a session that was killed.
fn start(path: &Path, key: &SecretKey) -> Result<PublicKey, SessionDirError> {
    let _ = std::fs::remove_file(known_hosts_file(path));
    // ssh reads its key file before it starts us, so a key that is there is the one it will use.
    let private = files::read_secret(&key_file(path)).ok();
    let kept = private.and_then(|text| SecretKey::from_openssh(std::str::from_utf8(&text).ok()?, None).ok());
    if let Some(kept) = kept
        && read_key(path).is_ok_and(|public| public == kept.public())
    {
        return Ok(kept.public());
    }
    remove_files(path);
    let file = key_file(path);
    let text =
        key.to_openssh("writ session").map_err(|why| SessionDirError::Key { path: file.clone(), why })?;
    files::write_atomic(&file, text.as_bytes())?;
    let line = format!("{} writ session\n", key.public());
    files::write_atomic(&file.with_extension("pub"), line.as_bytes())?;
    Ok(key.public())
}

fn read_key(path: &Path) -> Result<PublicKey, SessionDirError> {
    let path = key_file(path).with_extension("pub");
    let bytes = files::read_limited(&path, MAX_FILE)?;
    PublicKey::from_line(&String::from_utf8_lossy(&bytes)).map_err(|why| SessionDirError::Key { path, why })
}

fn remove_files(directory: &Path) {
    let key = key_file(directory);
    for file in [key.with_extension("pub"), key, known_hosts_file(directory)] {
        let _ = std::fs::remove_file(file);
    }
}

fn lock_file(path: &Path) -> Result<File, FileError> {
    let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    options.map_err(|source| FileError::io("open", path, source))
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
        let session = SessionDir::open(&path, &alice()).unwrap();
        assert_eq!(session.key(), alice().public());
        session.believe(&name("web1"), &mallory().public()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::metadata(key_file(&path)).unwrap().mode() & 0o7777, 0o600);
        let key = std::fs::read_to_string(key_file(&path)).unwrap();
        assert_eq!(SecretKey::from_openssh(&key, None).unwrap().public(), alice().public());
        let public = std::fs::read_to_string(path.join("id_ed25519.pub")).unwrap();
        assert_eq!(PublicKey::from_line(&public).unwrap(), alice().public());
        let known = std::fs::read_to_string(known_hosts_file(&path)).unwrap();
        assert_eq!(known, format!("writ-web1 {}\n", mallory().public()));

        drop(session);
        let mut left: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["id_ed25519", "id_ed25519.pub", "lock", "users"]);
        // ssh may have read it for the next session already.
        let next = SessionDir::open(&path, &mallory()).unwrap();
        assert_eq!(next.key(), alice().public());
        drop(next);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(SessionDir::open(&path, &alice()).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn sessions_that_share_a_directory_share_its_key_and_the_last_one_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let (path, host) = (dir.path().join("s"), name("web1"));
        let known = || std::fs::read_to_string(known_hosts_file(&path)).unwrap_or_default();
        let first = SessionDir::open(&path, &alice()).unwrap();
        first.believe(&host, &alice().public()).unwrap();
        let second = SessionDir::open(&path, &mallory()).unwrap();
        assert_eq!(second.key(), alice().public());
        second.believe(&host, &mallory().public()).unwrap();
        assert_eq!(known(), format!("writ-web1 {}\nwrit-web1 {}\n", alice().public(), mallory().public()));
        drop(first);
        assert!(key_file(&path).exists() && !known().is_empty());
        drop(second);
        assert!(known().is_empty(), "no host key outlives its session");
        // Half a key is nobody's.
        std::fs::remove_file(key_file(&path)).unwrap();
        std::fs::write(key_file(&path).with_extension("pub"), alice().public().to_string()).unwrap();
        std::fs::write(known_hosts_file(&path), "writ-web1 ssh-ed25519 AAAA\n").unwrap();
        let third = SessionDir::open(&path, &mallory()).unwrap();
        assert_eq!(third.key(), mallory().public());
        assert!(known().is_empty());
        // Damaged under a running session.
        std::fs::write(key_file(&path).with_extension("pub"), "garbage").unwrap();
        assert!(matches!(SessionDir::open(&path, &alice()), Err(SessionDirError::Key { .. })));
    }

    #[test]
    fn paths_reach_ssh_as_they_are_or_not_at_all() {
        assert_eq!(for_ssh(Path::new("/home/a b/100%/x")).unwrap(), "\"/home/a b/100%%/x\"");
        for bad in ["/a\"b", "/a\\b", "/${HOME}", "/a\nb"] {
            assert!(for_ssh(Path::new(bad)).unwrap_err().to_string().contains("--session-dir"), "{bad}");
        }
    }
}
