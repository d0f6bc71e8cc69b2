//! Listening on a path.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

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
pub async fn bind(path: &Path) -> Result<Listener, BindError> {
    let fail = |reason: String| BindError { path: path.to_owned(), reason };
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
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(|error| fail(error.to_string()))?;
    Ok(socket)
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
}
