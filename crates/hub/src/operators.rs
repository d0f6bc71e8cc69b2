//! The operators file: who may log in at this hub. It gives no power over any host; a host has its
//! own policy.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use authz::OperatorKey;
use authz::files::{self, FileError};
use authz::policy::CERT_VALIDITY_S;
use authz::sshsig::Claim;
use authz::statement::Standing;
use protocol::{Fingerprint, HostName, IdError};

/// Longest operators file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What `writ-hub init` writes.
pub(crate) const EMPTY: &str = "\
# Who may log in at this hub: one key per line, the OpenSSH public key line with a name before it.
#
#     NAME ssh-ed25519 AAAA... comment
#     NAME cert-authority,principals=\"NAME\" ssh-ed25519 AAAA... comment
#
# Any key type but DSA and short RSA; a CA's certificates must name a principal (NAME, if none is written)
# and be valid for 16 hours at most. verify-required asks for PIN or biometric. NAME is a-z, 0-9 and '-'. One person may have several lines. The file is read again whenever it
# changes; removing a key ends the sessions that were opened with it.
";

/// What may stand before the key, separated by commas.
const OPTIONS: [&str; 3] = ["cert-authority", "principals=", "verify-required"];

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

/// One line: a key, or a CA whose certificates stand for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    name: HostName,
    key: OperatorKey,
    /// Of a CA: a certificate must name one of these, exactly.
    principals: Option<Vec<String>>,
    verify_required: bool,
}

impl Entry {
    /// Whose it is.
    pub(crate) fn name(&self) -> &HostName {
        &self.name
    }

    /// `SHA256:…` of the key in the line.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// What a login with it must keep to.
    pub(crate) fn standing(&self) -> Standing {
        Standing { verify_required: self.verify_required, max_validity_s: CERT_VALIDITY_S }
    }

    fn parse(line: &str) -> Result<Self, String> {
        let (name, rest) = line
            .split_once(char::is_whitespace)
            .ok_or_else(|| "a name and a key are needed: NAME ssh-ed25519 AAAA... comment".to_owned())?;
        let name: HostName = name.parse().map_err(|error: IdError| error.to_string())?;
        let rest = rest.trim_start();
        let (first, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let options = OPTIONS.iter().any(|option| first.starts_with(option));
        let (options, key) = if options { (first, after) } else { ("", rest) };
        let key = OperatorKey::from_line(key).map_err(|error| error.to_string())?;
        let (mut authority, mut principals, mut verify_required) = (false, None, false);
        for option in split_options(options) {
            match option {
                "cert-authority" if !authority => authority = true,
                "verify-required" if !verify_required => verify_required = true,
                _ => {
                    let list = option.strip_prefix("principals=\"").and_then(|list| list.strip_suffix('"'));
                    let list = list.filter(|_| principals.is_none()).ok_or_else(|| {
                        format!(
                            "the option '{option}' is unknown or stands twice: there are {}",
                            OPTIONS.join(", ")
                        )
                    })?;
                    principals = Some(list.split(',').map(str::to_owned).collect::<Vec<_>>());
                }
            }
        }
        let plain = |word: &String| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && !b"*?!\"".contains(&b))
        };
        match (authority, &principals) {
            (false, Some(_)) => return Err("principals are for a cert-authority: add that option".to_owned()),
            (true, Some(named)) if !named.iter().all(plain) => {
                return Err("a principal is one plain word, without wildcards: correct the list".to_owned());
            }
            _ => {}
        }
        if verify_required && !authority && !key.is_security_key() {
            return Err("only security keys (sk-) can ask for a PIN: remove verify-required".to_owned());
        }
        let principals = authority.then(|| principals.unwrap_or_else(|| vec![name.to_string()]));
        Ok(Self { name, key, principals, verify_required })
    }

    /// Whether both could let somebody in as two people.
    fn clashes(&self, other: &Self) -> bool {
        self.key == other.key
            && match (&self.principals, &other.principals) {
                (Some(ours), Some(theirs)) => ours.iter().any(|principal| theirs.contains(principal)),
                // A CA's key is nobody's: it certifies, it does not log in.
                _ => true,
            }
    }
}

/// Commas in quotes separate principals, not options.
fn split_options(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let split = text.split(|c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    split.filter(|option| !option.is_empty()).collect()
}

/// Keys and CAs, and whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Operators {
    entries: Vec<Entry>,
}

impl Operators {
    /// The line that a signature with this claim would count by. Costs no mathematics (V22). A
    /// certificate that stands for two people counts for neither (V20).
    pub(crate) fn find(&self, claim: &Claim<'_>) -> Option<&Entry> {
        let mut found = self.entries.iter().filter(|entry| match (claim, &entry.principals) {
            (Claim::Key(raw), None) => entry.key.blob() == *raw,
            (Claim::Certificate { ca, principals, .. }, Some(known)) => {
                entry.key.blob() == *ca && known.iter().any(|principal| principals.contains(principal))
            }
            (Claim::Key(_), Some(_)) | (Claim::Certificate { .. }, None) => false,
        });
        let entry = found.next()?;
        found.all(|other| other.name == entry.name).then_some(entry)
    }

    /// Whether the operator has a line with this fingerprint.
    pub(crate) fn has(&self, name: &HostName, key: &Fingerprint) -> bool {
        self.entries.iter().any(|entry| entry.name == *name && entry.fingerprint() == *key)
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
            let entry = Entry::parse(line).map_err(wrong)?;
            if let Some(other) = operators.entries.iter().find(|other| other.clashes(&entry)) {
                let owner = &other.name;
                return Err(wrong(format!("this key stands here already, for {owner}: remove one line")));
            }
            operators.entries.push(entry);
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
        assert_eq!(now.find(&Claim::Key(&key.blob())).unwrap().name().as_str(), "alice");
        let stranger = SecretKey::from_seed(&[3; 32]).public();
        assert!(now.find(&Claim::Key(&stranger.blob())).is_none());
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
            ("alice ssh-dss AAAA".to_owned(), "ssh-dss are not accepted"),
            (good.replace("alice", "alice from=\"*\""), "line 1"),
            (good.replace("alice", "alice verify-required"), "only security keys"),
            (good.replace("alice", "alice principals=\"a\""), "are for a cert-authority"),
            (good.replace("alice", "alice cert-authority,principals=\"a*\""), "one plain word"),
            (good.replace("alice", "alice cert-authority,cert-authority"), "stands twice"),
            (format!("{good}{}", good.replace("alice", "bob cert-authority")), "already, for alice"),
            (format!("# x\n\n{}", good.replace("AAAA", "!!!!")), "line 3"),
            (format!("{good}{}", good.replace("alice", "bob")), "already, for alice"),
        ];
        for (text, says) in cases {
            let error = Operators::parse(Path::new("operators"), &text).unwrap_err().to_string();
            assert!(error.contains(says), "{error:?} should say {says:?}");
        }
    }

    #[test]
    fn a_ca_lets_in_whom_its_certificates_name_and_its_key_nobody() {
        let ca = SecretKey::from_seed(&[9; 32]).public();
        let text = format!("alice cert-authority {ca}\nbob cert-authority,principals=\"bob,root\" {ca}\n",);
        let operators = Operators::parse(Path::new("operators"), &text).unwrap();
        let (blob, subject) = (ca.blob(), SecretKey::from_seed(&[1; 32]).public().blob());
        let name = |principals: &[&str]| {
            let principals: Vec<_> = principals.iter().map(|word| (*word).to_owned()).collect();
            let claim = Claim::Certificate {
                ca: &blob,
                subject: &subject,
                principals: &principals,
                serial: 1,
                key_id: b"",
                valid_before: 9,
            };
            operators.find(&claim).map(|entry| entry.name().to_string())
        };
        assert_eq!(name(&["alice"]).as_deref(), Some("alice"));
        assert_eq!(name(&["root"]).as_deref(), Some("bob"));
        for nobody in [&["carol"][..], &["alice", "bob"], &["Alice"]] {
            assert_eq!(name(nobody), None, "{nobody:?}");
        }
        assert!(operators.find(&Claim::Key(&blob)).is_none());
        assert!(operators.has(&"bob".parse().unwrap(), &ca.fingerprint()));
    }
}
