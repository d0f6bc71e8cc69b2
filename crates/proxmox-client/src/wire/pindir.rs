//! Fingerprints that root copies next to us. On the host itself, root's view of the certificate that
//! pveproxy uses is better than any pin: when the leaf changes, a oneshot writes its fingerprint here,
//! and a changed leaf is accepted only if it is the one written.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::wire::pin::{Pin, PinKind};

/// A fingerprint is 64 digits; a file of them is no novel.
const MAX_FILE: u64 = 64 * 1024;
const MAX_FILES: usize = 64;

/// A directory of leaf fingerprints: files `NAME.sha256` (64 hex digits, with or without colons; what
/// `sha256sum` prints behind them is not looked at), and a file `pins` with lines `leaf:HEX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinDir {
    path: PathBuf,
}

/// Why a pin directory says nothing.
#[derive(Debug, thiserror::Error)]
pub enum PinDirError {
    /// It cannot be read.
    #[error("cannot read {} ({source}): check that root's oneshot wrote it", path.display())]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else could have written it.
    #[error("{} is {what}, so its fingerprints prove nothing: `chown root` it and `chmod go-w` it", path.display())]
    Untrusted {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// It holds too much.
    #[error("{} holds more than {MAX_FILES} files: leave the fingerprints of this host there and nothing else", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// It holds something else than fingerprints.
    #[error("{} holds no fingerprint: write 64 hex digits, or lines `leaf:HEX` in the file `pins`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl PinDir {
    /// Where root's oneshot writes.
    pub const USUAL: &str = "/run/writ/pins";

    /// Nothing is read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The leaf fingerprints in it now.
    ///
    /// # Errors
    /// [`PinDirError`]: it is not there, others may write it, a file of it or a directory above it, it
    /// holds more than 64 files, or a file holds something else. One bad file spoils all.
    pub fn leaves(&self) -> Result<Vec<Pin>, PinDirError> {
        let read = |path: &Path| {
            let path = path.to_path_buf();
            move |source| PinDirError::Read { path, source }
        };
        // A link could be swapped for another by whoever owns it.
        let meta = fs::symlink_metadata(&self.path).map_err(read(&self.path))?;
        trusted(&self.path, &meta, meta.is_dir())?;
        self.nobody_else_can_replace_it()?;
        let mut leaves = Vec::new();
        for (number, entry) in fs::read_dir(&self.path).map_err(read(&self.path))?.enumerate() {
            // Half of root's view is not root's view.
            if number >= MAX_FILES {
                return Err(PinDirError::TooMany { path: self.path.clone() });
            }
            let path = entry.map_err(read(&self.path))?.path();
            let many = path.file_name().is_some_and(|name| name == "pins");
            if !many && path.extension().is_none_or(|extension| extension != "sha256") {
                continue;
            }
            // Before opening, because opening a pipe waits.
            let meta = fs::symlink_metadata(&path).map_err(read(&path))?;
            trusted(&path, &meta, meta.is_file())?;
            let file = File::open(&path).map_err(read(&path))?;
            let meta = file.metadata().map_err(read(&path))?;
            trusted(&path, &meta, meta.is_file())?;
            let mut text = String::new();
            file.take(MAX_FILE).read_to_string(&mut text).map_err(read(&path))?;
            let found = if many { lines(&text) } else { one(&text).map(|pin| vec![pin]) };
            leaves.extend(found.ok_or(PinDirError::Malformed { path })?);
        }
        Ok(leaves)
    }
}

impl PinDir {
    /// Who may write to a directory may put another one in the place of what is in it, at least an older
    /// one that root made; except where the sticky bit keeps everybody to what is his own. Whose the
    /// directories above are is not asked: `/run/writ` is the warden's, and it cannot make one of root's.
    fn nobody_else_can_replace_it(&self) -> Result<(), PinDirError> {
        let read = |source| PinDirError::Read { path: self.path.clone(), source };
        let real = fs::canonicalize(&self.path).map_err(read)?;
        for above in real.ancestors().skip(1) {
            let mode = fs::symlink_metadata(above).map_err(read)?.mode();
            if mode & 0o022 != 0 && mode & 0o1000 == 0 {
                let what = "writable by others";
                return Err(PinDirError::Untrusted { path: above.to_path_buf(), what });
            }
        }
        Ok(())
    }
}

fn trusted(path: &Path, meta: &Metadata, right_kind: bool) -> Result<(), PinDirError> {
    let own = rustix::process::geteuid().as_raw();
    let what = if !right_kind {
        "not a directory of plain files"
    } else if meta.uid() != 0 && meta.uid() != own {
        "owned by somebody else"
    } else if meta.mode() & 0o022 != 0 {
        "writable by others"
    } else {
        return Ok(());
    };
    Err(PinDirError::Untrusted { path: path.to_path_buf(), what })
}

fn one(text: &str) -> Option<Pin> {
    let digits = text.split_ascii_whitespace().next()?;
    if digits.starts_with("leaf:") { leaf(digits) } else { format!("leaf:{digits}").parse().ok() }
}

fn lines(text: &str) -> Option<Vec<Pin>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(leaf).collect()
}

fn leaf(text: &str) -> Option<Pin> {
    text.parse::<Pin>().ok().filter(|pin| pin.kind() == PinKind::Leaf)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const HEX: &str = "cc30f73b66c1c05c81977c0b66834c713abcf06f133b3fbaceac36d248bfe792";

    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, PinDir) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let pins = PinDir::new(directory.path());
        (directory, pins)
    }

    #[test]
    fn both_kinds_of_files_are_read() {
        let other = HEX.replace("cc30", "dd40");
        let (_kept, pins) = directory(&[
            ("pve-ssl.sha256", &format!("{HEX}  /etc/pve/local/pve-ssl.pem\n")),
            ("pins", &format!("# root wrote this\nleaf:{other}\n\n")),
            ("README", "something else"),
        ]);
        let mut leaves: Vec<String> = pins.leaves().unwrap().iter().map(Pin::to_string).collect();
        leaves.sort_unstable();
        assert_eq!(leaves, [format!("leaf:{HEX}"), format!("leaf:{other}")]);
        let (_kept, empty) = directory(&[]);
        assert_eq!(empty.leaves().unwrap(), []);
    }

    #[test]
    fn what_is_no_fingerprint_spoils_all() {
        let good = ("a.sha256", HEX);
        for (name, text) in [
            ("b.sha256", ""),
            ("b.sha256", "cc30"),
            ("b.sha256", "spki:cc30"),
            ("pins", HEX),
            ("pins", &format!("spki:{HEX}")),
            ("pins", &format!("leaf:{HEX}\nrubbish")),
        ] {
            let (_kept, pins) = directory(&[good, (name, text)]);
            assert!(matches!(pins.leaves(), Err(PinDirError::Malformed { .. })), "{name} {text}");
        }
    }

    #[test]
    fn more_files_than_anybody_needs_are_refused_and_not_cut_off() {
        let names: Vec<String> = (0..65).map(|n| format!("{n}.sha256")).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), HEX)).collect();
        let (_kept, pins) = directory(&files[..64]);
        assert_eq!(pins.leaves().unwrap().len(), 64);
        let (_kept, pins) = directory(&files);
        assert!(matches!(pins.leaves(), Err(PinDirError::TooMany { .. })));
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let refused = |pins: &PinDir| {
            let error = pins.leaves().unwrap_err();
            assert!(matches!(error, PinDirError::Untrusted { .. }), "{error}");
        };
        for mode in [0o775, 0o757, 0o1777] {
            let (kept, pins) = directory(&[("a.sha256", HEX)]);
            chmod(kept.path(), mode);
            refused(&pins);
        }
        for mode in [0o664, 0o646] {
            let (kept, pins) = directory(&[("a.sha256", HEX)]);
            chmod(&kept.path().join("a.sha256"), mode);
            refused(&pins);
        }
        // Links, to a file or to the directory itself, and directories in a file's place.
        let (kept, pins) = directory(&[("real", HEX)]);
        symlink(kept.path().join("real"), kept.path().join("a.sha256")).unwrap();
        refused(&pins);
        let (kept, _) = directory(&[("a.sha256", HEX)]);
        let (other, _) = directory(&[]);
        symlink(kept.path(), other.path().join("link")).unwrap();
        refused(&PinDir::new(other.path().join("link")));
        let (kept, pins) = directory(&[]);
        fs::create_dir(kept.path().join("a.sha256")).unwrap();
        refused(&pins);
        // Whoever may write above it can put another directory in its place.
        for (mode, fine) in [(0o777, false), (0o770, false), (0o755, true), (0o1777, true)] {
            let (kept, _) = directory(&[]);
            let below = kept.path().join("pins");
            fs::create_dir(&below).unwrap();
            chmod(&below, 0o755);
            chmod(kept.path(), mode);
            let pins = PinDir::new(below);
            if fine { assert_eq!(pins.leaves().unwrap(), []) } else { refused(&pins) }
        }
        assert!(matches!(PinDir::new("/nonexistent/pins").leaves(), Err(PinDirError::Read { .. })));
    }
}
