//! A session's directory: sshd's configuration, its host key and the one authorized key.
//!
//! sshd reads the authorized key as the user who logs in, so the directory can be entered by anybody
//! (0711) and that file be read (0644); the host key and the configuration are 0600.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::leftover::Trace;
use super::tree::Killed;
use super::wire::Token;

pub(crate) const CONFIG: &str = "sshd_config";
pub(crate) const HOST_KEY: &str = "host_key";
pub(crate) const AUTHORIZED: &str = "authorized_keys";
/// What finds the session's processes after a crash: [`Trace`] as JSON.
pub(crate) const TRACE: &str = "trace.json";

/// Why sessions cannot live here.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Not to be used.
    #[error(
        "sessions cannot live in {path}: it must be a directory with an absolute path of letters, digits and \
         '._-/', owned by the runner's user and writable for nobody else (mkdir, then chmod 0711), and so must \
         all directories above it, which may also be root's: see namei -l {path}",
        path = .0.display()
    )]
    Unfit(PathBuf),
    /// The file system failed.
    #[error("{what} {path}: check space and permissions there", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
}

/// One session's directory. Not removed on drop: the session's end removes it.
#[derive(Debug)]
pub(crate) struct SessionDir {
    path: PathBuf,
}

impl SessionDir {
    /// Makes it, empty.
    pub(crate) fn create(root: &Path, token: &Token) -> Result<Self, DirError> {
        check_root(root)?;
        let path = root.join(token.as_str());
        let made = DirBuilder::new().mode(0o711).create(&path);
        // Whatever the umask is.
        made.and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o711)))
            .map_err(|source| DirError::Io { what: "cannot make", path: path.clone(), source })?;
        Ok(Self { path })
    }

    /// One that exists, if it is the session's own.
    pub(crate) fn adopt(path: &Path, token: &Token) -> Option<Self> {
        let named = path.file_name()?.to_str()? == token.as_str();
        let real = fs::symlink_metadata(path).ok()?.is_dir();
        (path.is_absolute() && named && real).then(|| Self { path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn write(&self, name: &str, mode: u32, text: &str) -> Result<(), DirError> {
        let path = self.file(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|source| DirError::Io { what: "cannot write", path: path.clone(), source })
    }

    /// None where there is none that can be read: it was being written, so nothing had been started.
    fn trace(&self) -> Option<Trace> {
        let file = OpenOptions::new().read(true).open(self.file(TRACE)).ok()?;
        let mut text = Vec::new();
        file.take(4096).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes what the engine put there, and nothing else. Again is no error. Whether it is gone.
    pub(crate) fn remove(&self) -> bool {
        // The trace last: as long as there is anything, it can be found whose it was.
        for name in [CONFIG, HOST_KEY, AUTHORIZED, TRACE] {
            let _ = fs::remove_file(self.file(name));
        }
        match fs::remove_dir(&self.path) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// What an earlier run of the runner had left of its sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// So many directories were removed.
    pub dirs: u32,
    /// Processes of those sessions.
    pub killed: Killed,
}

/// Ends the sessions that a crash left behind and removes their directories. A directory whose processes could
/// not be killed stays for the next time. For the start of the server, while no session of its own lives: it asks
/// nobody whether one does. Blocks, [`super::tree::KILL_WITHIN`] at most for each.
pub fn sweep(root: &Path) -> Result<Swept, DirError> {
    check_root(root)?;
    let read = |source| DirError::Io { what: "cannot read", path: root.to_owned(), source };
    let mut swept = Swept::default();
    for entry in fs::read_dir(root).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let token = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(token): Option<Token> = token else { continue };
        let Some(dir) = SessionDir::adopt(&path, &token) else { continue };
        let killed = dir.trace().map(|trace| trace.kill(&token)).unwrap_or_default();
        if killed.survivors.is_empty() {
            swept.dirs += u32::from(dir.remove());
        }
        swept.killed.killed = swept.killed.killed.saturating_add(killed.killed);
        swept.killed.survivors.extend(killed.survivors);
    }
    Ok(swept)
}

/// sshd's own check of the parents (`StrictModes`) is off, so this one stands in for it. The alphabet keeps
/// the path free of what sshd_config(5) would expand, split or quote.
fn check_root(root: &Path) -> Result<(), DirError> {
    let plain = root.is_absolute()
        && root.to_str().is_some_and(|text| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        });
    let fits = fs::symlink_metadata(root).is_ok_and(|meta| {
        meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0
    });
    if plain && fits && parents_fit(root) { Ok(()) } else { Err(DirError::Unfit(root.to_owned())) }
}

/// Whether nobody but root and we can exchange a directory above this one, on the way as it is written and on
/// the one that links make of it.
fn parents_fit(root: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let fits = |dir: &Path| {
        fs::metadata(dir).is_ok_and(|meta| {
            // In a sticky directory (/tmp) others can add names and not exchange ours.
            let others_write = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
            meta.is_dir() && (meta.uid() == own || meta.uid() == 0) && !others_write
        })
    };
    let real = fs::canonicalize(root).unwrap_or_default();
    real.is_absolute() && root.ancestors().skip(1).all(fits) && real.ancestors().skip(1).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn modes_are_what_sshd_needs() {
        let root = root();
        let token = Token::random().unwrap();
        let dir = SessionDir::create(root.path(), &token).unwrap();
        dir.write(HOST_KEY, 0o600, "secret").unwrap();
        dir.write(AUTHORIZED, 0o644, "key").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(dir.path()), 0o711);
        assert_eq!((mode(&dir.file(HOST_KEY)), mode(&dir.file(AUTHORIZED))), (0o600, 0o644));
        assert!(dir.write(HOST_KEY, 0o600, "again").is_err(), "nothing is overwritten");
        assert!(SessionDir::create(root.path(), &token).is_err(), "nor is a directory used twice");
        assert!(dir.remove() && dir.remove() && !dir.path().exists());
    }

    #[test]
    fn unfit_roots_are_refused() {
        let root = root();
        let loose = root.path().join("loose");
        fs::create_dir(&loose).unwrap();
        fs::set_permissions(&loose, Permissions::from_mode(0o777)).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        let spaced = root.path().join("a %h");
        fs::create_dir(&spaced).unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        for bad in [loose, link, spaced, file, root.path().join("none"), PathBuf::from("relative")] {
            assert!(matches!(check_root(&bad), Err(DirError::Unfit(_))), "{}", bad.display());
            assert!(sweep(&bad).is_err());
        }
        // A parent in which others can exchange names is no better.
        let (loose, within) = (root.path().join("parent"), root.path().join("parent/sessions"));
        fs::create_dir_all(&within).unwrap();
        for (mode, good) in [(0o777, false), (0o775, false), (0o1777, true), (0o755, true)] {
            fs::set_permissions(&loose, Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_root(&within).is_ok(), good, "{mode:o}");
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&loose, Some(65534), None).unwrap();
            assert!(check_root(&within).is_err(), "its owner can");
            let theirs = root.path().join("theirs");
            fs::create_dir(&theirs).unwrap();
            std::os::unix::fs::chown(&theirs, Some(65534), None).unwrap();
            assert!(check_root(&theirs).is_err());
        }
    }

    #[test]
    fn sweeping_takes_only_what_is_ours() {
        let root = root();
        for _ in 0..2 {
            let dir = SessionDir::create(root.path(), &Token::random().unwrap()).unwrap();
            dir.write(CONFIG, 0o600, "x").unwrap();
        }
        let kept = SessionDir::create(root.path(), &Token::random().unwrap()).unwrap();
        fs::write(kept.file("somebody-elses"), "").unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join(CONFIG), "").unwrap();
        let link = root.path().join(Token::random().unwrap().as_str());
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        fs::create_dir(root.path().join("other")).unwrap();
        assert_eq!(sweep(root.path()).unwrap(), Swept { dirs: 2, ..Swept::default() });
        assert!(kept.file("somebody-elses").exists() && root.path().join("other").exists());
        assert!(outside.path().join(CONFIG).exists(), "a link is not followed");
        assert_eq!(sweep(root.path()).unwrap(), Swept::default());
    }
}
