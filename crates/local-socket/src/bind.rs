//! Listening on a path.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {reason}", path = .path.display())]
pub struct BindError {
    /// Where.
    pub path: PathBuf,
    /// Cause and remedy.
    pub reason: String,
}

/// A bound socket; its file goes away with it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// The next connection.
    pub async fn accept(&self) -> std::io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

/// Binds. A socket file that nobody listens on is a leftover and is replaced; anything else in the way
/// is left alone. Every user may connect: who is heard is decided by uid ([`crate::Framed::peer_uid`]).
/// The directory must be this user's or root's, and nobody else's to write to: whoever can exchange names in it
/// could listen in our place, or have us change the mode of a file of their choice.
pub async fn bind(path: &Path) -> Result<Listener, BindError> {
    let fail = |reason: String| BindError { path: path.to_owned(), reason };
    check_directory(path).map_err(fail)?;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(fail("another process listens there: stop it first".into()));
            }
            std::fs::remove_file(path).map_err(|error| fail(error.to_string()))?;
        }
        Ok(_) => return Err(fail("something that is no socket is in the way: move it".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error.to_string())),
    }
    let listener = UnixListener::bind(path).map_err(|error| {
        fail(match error.kind() {
            std::io::ErrorKind::NotFound => "its directory does not exist: create it".into(),
            std::io::ErrorKind::PermissionDenied => {
                "permission denied: check the owner of its directory".into()
            }
            _ => error.to_string(),
        })
    })?;
    let socket = Listener { listener, path: path.to_owned() };
    open_to_all(path).map_err(fail)?;
    Ok(socket)
}

fn check_directory(path: &Path) -> Result<(), String> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => return Err("write its whole path, from the root".into()),
    };
    let meta = match std::fs::metadata(directory) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("its directory does not exist: create it".into());
        }
        Err(error) => return Err(error.to_string()),
    };
    let me = rustix::process::geteuid().as_raw();
    // In a sticky directory (/tmp) others can add names and not exchange ours.
    let others_write = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
    if (meta.uid() != me && meta.uid() != 0) || others_write {
        return Err(format!(
            "user {} owns its directory {} (mode {:o}), so others could exchange the socket: give it a directory that only user {me} or root can write to",
            meta.uid(),
            directory.display(),
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

/// Lets every user connect. By descriptor, so that no name can lead elsewhere.
fn open_to_all(path: &Path) -> Result<(), String> {
    let words = |error: rustix::io::Errno| error.to_string();
    let socket = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(words)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&socket).map_err(words)?.st_mode);
    if kind != FileType::Socket {
        return Err("somebody exchanged the socket while it was made: look at who can write there".into());
    }
    let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::chmodat(rustix::fs::CWD, format!("/proc/self/fd/{number}"), mode, AtFlags::empty())
        .map_err(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leftovers_are_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = bind(&path).await.unwrap();
        let second = bind(&path).await.unwrap_err().to_string();
        assert!(second.contains("another process"), "{second}");
        drop(socket);
        assert!(!path.exists(), "gone with its owner");
        std::fs::write(&path, "mine").unwrap();
        assert!(bind(&path).await.unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        let nowhere = directory.path().join("no/s");
        assert!(bind(&nowhere).await.unwrap_err().to_string().contains("create it"));
    }

    #[tokio::test]
    async fn a_directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        for (mode, good) in [(0o777, false), (0o770, false), (0o755, true), (0o1777, true)] {
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let bound = bind(&path).await;
            assert_eq!(bound.is_ok(), good, "{mode:o}: {bound:?}");
            if let Ok(socket) = &bound {
                let mode = std::fs::metadata(&socket.path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o666);
            }
        }
    }

    /// What a name leads to by then is not our business: only a socket is opened to all.
    #[test]
    fn no_name_leads_elsewhere() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let (victim, link) = (directory.path().join("victim"), directory.path().join("link"));
        std::fs::write(&victim, "secret").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        for path in [&victim, &link] {
            assert!(open_to_all(path).unwrap_err().contains("exchanged"));
        }
        assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
