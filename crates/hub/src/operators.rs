//! The operators file: who may log in at this hub. It gives no power over any host; a host has its
//! own policy.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use authz::files::{self, FileError};
use authz::{KeyError, PublicKey};
use protocol::HostName;

/// Longest operators file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What `writ-hub init` writes.
pub(crate) const EMPTY: &str = "\
# Who may log in at this hub: one key per line, the OpenSSH public key line with a name before it.
#
#     NAME ssh-ed25519 AAAA... comment
#
# NAME is a-z, 0-9 and '-'. One person may have several lines. The file is read again whenever it
# changes; removing a key ends the sessions that were opened with it.
";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OperatorsError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not text.
    #[error("{path} is not text in UTF-8: write it as such", path = .0.display())]
    NotText(PathBuf),
    /// A line.
    #[error("{path}, line {line}: {problem}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Cause and remedy.
        problem: String,
    },
}

/// Keys and whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Operators {
    by_key: BTreeMap<PublicKey, HostName>,
}

impl Operators {
    /// Whose key it is.
    pub(crate) fn name_of(&self, key: &PublicKey) -> Option<&HostName> {
        self.by_key.get(key)
    }

    /// Whether the operator has a key with this fingerprint.
    pub(crate) fn has(&self, name: &HostName, key: &protocol::Fingerprint) -> bool {
        self.by_key.iter().any(|(known, owner)| owner == name && known.fingerprint() == *key)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, OperatorsError> {
        let mut operators = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong =
                |problem: String| OperatorsError::Line { path: path.to_owned(), line: index + 1, problem };
            let (name, key) = line.split_once(char::is_whitespace).ok_or_else(|| {
                wrong("a name and a key are needed: NAME ssh-ed25519 AAAA... comment".to_owned())
            })?;
            let name: HostName = name.parse().map_err(|error: protocol::IdError| wrong(error.to_string()))?;
            let key = PublicKey::from_line(key).map_err(|error: KeyError| wrong(error.to_string()))?;
            if let Some(owner) = operators.by_key.insert(key, name) {
                return Err(wrong(format!("this key stands here already, for {owner}: remove one line")));
            }
        }
        Ok(operators)
    }
}

/// The file, read again when it changes.
#[derive(Debug)]
pub(crate) struct OperatorsFile {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<Operators>)>>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl OperatorsFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: Mutex::new(None) }
    }

    /// The operators as the file has them now. A file that cannot be read means nobody: better to
    /// keep operators out than to let a removed one in.
    pub(crate) fn current(&self) -> Result<Arc<Operators>, OperatorsError> {
        let io = |source| FileError::io("read", &self.path, source);
        let meta = std::fs::metadata(&self.path).map_err(io)?;
        let stamp = Stamp {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, operators)) = &*read
            && *before == stamp
        {
            return Ok(operators.clone());
        }
        *read = None;
        let bytes = files::read_limited(&self.path, MAX_FILE)?;
        let text = String::from_utf8(bytes).map_err(|_| OperatorsError::NotText(self.path.clone()))?;
        let operators = Arc::new(Operators::parse(&self.path, &text)?);
        *read = Some((stamp, operators.clone()));
        Ok(operators)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use authz::SecretKey;

    fn line(name: &str, seed: u8) -> String {
        format!("{name} {} somebody's laptop\n", SecretKey::from_seed(&[seed; 32]).public())
    }

    #[test]
    fn the_file_is_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operators");
        std::fs::write(&path, EMPTY).unwrap();
        let file = OperatorsFile::new(&path);
        assert_eq!(*file.current().unwrap(), Operators::default());
        std::fs::write(&path, format!("{EMPTY}{}  {}", line("alice", 1), line("alice", 2))).unwrap();
        let now = file.current().unwrap();
        let key = SecretKey::from_seed(&[2; 32]).public();
        assert_eq!(now.name_of(&key).unwrap().as_str(), "alice");
        assert!(now.has(&"alice".parse().unwrap(), &key.fingerprint()));
        assert!(!now.has(&"bob".parse().unwrap(), &key.fingerprint()));
        std::fs::remove_file(&path).unwrap();
        assert!(file.current().unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn bad_lines_are_named() {
        let good = line("alice", 1);
        let cases = [
            ("alice".to_owned(), "line 1: a name and a key"),
            (good.replace("alice", "Alice"), "HostName"),
            ("alice ssh-rsa AAAA".to_owned(), "ssh-rsa are not accepted"),
            (format!("# x\n\n{}", good.replace("AAAA", "!!!!")), "line 3"),
            (format!("{good}{}", good.replace("alice", "bob")), "already, for alice"),
        ];
        for (text, says) in cases {
            let error = Operators::parse(Path::new("operators"), &text).unwrap_err().to_string();
            assert!(error.contains(says), "{error:?} should say {says:?}");
        }
    }
}
