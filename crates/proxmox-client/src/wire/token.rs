//! API tokens: read from a private file, shown to nobody.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// A token line is some 80 bytes; anything much longer is the wrong file.
const MAX_FILE: u64 = 4096;

/// `user@realm!tokenid=secret`. The secret is wiped on drop and never printed.
#[derive(Clone)]
pub struct ApiToken {
    user: String,
    token_id: String,
    secret: Zeroizing<String>,
}

impl ApiToken {
    /// Reads the one line of a token file.
    ///
    /// # Errors
    /// The file is missing, readable by group or others, not a regular file, or not one token line.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let owned = || path.to_path_buf();
        let open = |source| TokenError::Open { path: owned(), source };
        // Opening a device can do something, and opening a pipe waits for somebody to write; between this
        // look and the opening it may become one, hence the flag.
        if !fs::metadata(path).map_err(open)?.is_file() {
            return Err(TokenError::NotAFile { path: owned() });
        }
        let at_once = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(at_once).open(path).map_err(open)?;
        // Ask the open file, not the path: the two could differ by the time we read.
        let meta = file.metadata().map_err(|source| TokenError::Open { path: owned(), source })?;
        if !meta.is_file() {
            return Err(TokenError::NotAFile { path: owned() });
        }
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::TooOpen { path: owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize + 1));
        file.take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(|source| TokenError::Open { path: owned(), source })?;
        parse(&text).map_err(|why| TokenError::Malformed { path: Some(owned()), why })
    }

    /// The owner, `user@realm`.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The token's name, the part after `!`.
    #[must_use]
    pub fn token_id(&self) -> &str {
        &self.token_id
    }

    /// `user@realm!tokenid`: how tasks name their author. Not secret.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{}!{}", self.user, self.token_id)
    }

    /// The value of the `Authorization` header. Proxmox percent-decodes it and stops at `;`
    /// (`pve/facts.md` 1.1), so both characters are escaped.
    pub(crate) fn authorization(&self) -> Zeroizing<String> {
        let secret = &*self.secret;
        let plain = Zeroizing::new(format!("{}!{}={secret}", self.user, self.token_id));
        let mut value = Zeroizing::new(String::with_capacity(plain.len() * 3 + 16));
        value.push_str("PVEAPIToken=");
        for c in plain.chars() {
            match c {
                '%' => value.push_str("%25"),
                ';' => value.push_str("%3B"),
                _ => value.push(c),
            }
        }
        value
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiToken({}!{}=[redacted])", self.user, self.token_id)
    }
}

impl FromStr for ApiToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        parse(text).map_err(|why| TokenError::Malformed { path: None, why })
    }
}

fn parse(text: &str) -> Result<ApiToken, &'static str> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.len() as u64 > MAX_FILE {
        return Err("it is far too long");
    }
    if line.is_empty() {
        return Err("it is empty");
    }
    if !line.chars().all(|c| c.is_ascii_graphic()) {
        return Err("it holds spaces, more than one line, or other than visible ASCII characters");
    }
    if line.starts_with("PVEAPIToken=") {
        return Err("it starts with the header name `PVEAPIToken=`, which does not belong there");
    }
    // Proxmox splits at the last `=` and the last `!` as well.
    let (name, secret) = line.rsplit_once('=').ok_or("it has no `=`")?;
    let (user, token_id) = name.rsplit_once('!').ok_or("it has no `!` between user and token name")?;
    let (account, realm) = user.rsplit_once('@').ok_or("its user has no `@realm`")?;
    if account.is_empty() || account.contains([':', '/', '!']) {
        return Err("its user name is not valid");
    }
    if !is_config_name(realm) || !is_config_name(token_id) {
        return Err("its realm or token name is not valid");
    }
    if secret.is_empty() {
        return Err("its secret is empty");
    }
    Ok(ApiToken {
        user: user.to_owned(),
        token_id: token_id.to_owned(),
        secret: Zeroizing::new(secret.to_owned()),
    })
}

fn is_config_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// A token that cannot be used. Never holds the secret or any part of the line.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Missing or unreadable.
    #[error("cannot read the token file {}: create it with one line `user@realm!tokenid=secret`, mode 0600, owned by the user this runs as", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A directory, device or pipe.
    #[error("{} is not a regular file: a token lives in a file with one line `user@realm!tokenid=secret`", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Group or others may read it.
    #[error("the token file {} is open to other users (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not `user@realm!tokenid=secret`.
    #[error("{} is not an API token, {why}: it must be one line `user@realm!tokenid=secret`, as `pveum user token add` prints it", place(path.as_deref()))]
    Malformed {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// What is wrong, without quoting the line.
        why: &'static str,
    },
}

fn place(path: Option<&Path>) -> String {
    path.map_or_else(|| "the given text".to_owned(), |path| format!("the content of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "tester@pve!full=00000000-0000-4000-8000-000000000015";

    fn file(mode: u32, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_private_file_is_read() {
        for mode in [0o600, 0o400] {
            let (_dir, path) = file(mode, &format!("{LINE}\n"));
            let token = ApiToken::from_file(&path).unwrap();
            assert_eq!((token.user(), token.token_id()), ("tester@pve", "full"));
            assert_eq!(token.identity(), "tester@pve!full");
            assert_eq!(token.authorization().as_str(), format!("PVEAPIToken={LINE}"));
        }
    }

    #[test]
    fn a_file_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o644, 0o660, 0o610, 0o601] {
            let (_dir, path) = file(mode, LINE);
            let error = ApiToken::from_file(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
            assert!(error.contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn missing_directory_and_huge_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ApiToken::from_file(&dir.path().join("none")), Err(TokenError::Open { .. })));
        assert!(matches!(ApiToken::from_file(dir.path()), Err(TokenError::NotAFile { .. })));
        let (_dir, path) = file(0o600, &format!("{LINE}{}", "0".repeat(100_000)));
        assert!(matches!(ApiToken::from_file(&path), Err(TokenError::Malformed { .. })));
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert!(matches!(ApiToken::from_file(&path), Err(TokenError::NotAFile { .. })));
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(matches!(ApiToken::from_file(&dir.path().join("link")), Err(TokenError::NotAFile { .. })));
        assert!(matches!(ApiToken::from_file(Path::new("/dev/zero")), Err(TokenError::NotAFile { .. })));
    }

    #[test]
    fn neither_debug_nor_errors_show_the_secret() {
        let token: ApiToken = LINE.parse().unwrap();
        assert_eq!(format!("{token:?}"), "ApiToken(tester@pve!full=[redacted])");
        for bad in [
            "",
            "\n",
            "s3cretvalue",
            "tester@pve=s3cretvalue",
            "tester!full=s3cretvalue",
            "@pve!full=s3cretvalue",
            "tester@pve!=s3cretvalue",
            "tester@pve!full=",
            "tester@pve!full=s3cretvalue x",
            "tester@pve!full=s3cretvalue\nsecond",
            "tester@pve!full=s3cretvalue\n\n",
            "tester@pve!fu:ll=s3cretvalue",
            "te/ster@pve!full=s3cretvalue",
            "PVEAPIToken=tester@pve!full=s3cretvalue",
            "tester@pve!full=s3cretvalü",
        ] {
            let error = bad.parse::<ApiToken>().unwrap_err();
            assert!(!format!("{error:?} {error}").contains("s3cret"), "{bad:?}");
        }
    }

    #[test]
    fn percent_and_semicolon_are_escaped_in_the_header() {
        let token: ApiToken = "a%41;b@pve!t=x".parse().unwrap();
        assert_eq!(token.authorization().as_str(), "PVEAPIToken=a%2541%3Bb@pve!t=x");
    }
}
