//! `hub.toml`.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use protocol::config::{ConfigError, parse_toml};
use serde::Deserialize;

/// The documented example: every key, with what it means.
pub const EXAMPLE: &str = include_str!("../hub.toml.example");

/// Longest configuration file, in bytes.
const MAX_CONFIG: u64 = 64 * 1024;
/// Longest address; it has to fit into enrollment codes.
const MAX_URL: usize = 200;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its text.
    #[error(transparent)]
    Text(#[from] ConfigError),
}

/// Everything a hub needs to know. Made by [`HubConfig::load`]; paths are absolute or relative to
/// the working directory by then.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// How operators and hosts reach the hub.
    pub url: HubUrl,
    /// Directory of the database.
    pub state_dir: PathBuf,
    /// Certificate chain, PEM.
    pub tls_cert: PathBuf,
    /// Its key, PEM, mode 0600.
    pub tls_key: PathBuf,
    /// Who may log in.
    pub operators: PathBuf,
    /// Most sessions that one operator may have open on one host.
    #[serde(default = "one")]
    pub sessions_per_operator: NonZeroU8,
}

fn one() -> NonZeroU8 {
    NonZeroU8::MIN
}

impl HubConfig {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = files::read_limited(path, MAX_CONFIG)?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigError {
            file: path.display().to_string(),
            line: None,
            problem: "the file is not text in UTF-8: write it as such".to_owned(),
        })?;
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        Ok(Self::parse(&path.display().to_string(), &text, directory)?)
    }

    /// Parses its text; relative paths start at `directory`.
    pub fn parse(file: &str, text: &str, directory: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = parse_toml(file, text)?;
        for path in [&mut config.state_dir, &mut config.tls_cert, &mut config.tls_key, &mut config.operators]
        {
            *path = directory.join(&*path);
        }
        Ok(config)
    }
}

/// Why a text is not the address of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the hub's address must be https://HOST or https://HOST:PORT and nothing else: correct it")]
pub struct UrlError;

/// `https://HOST[:PORT]`, without a path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HubUrl {
    text: String,
    host: String,
    port: u16,
}

impl HubUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
    /// The port; 443 when none was written.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl std::str::FromStr for HubUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("https://").filter(|_| text.len() <= MAX_URL).ok_or(UrlError)?;
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(UrlError)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError)?;
                (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("443")))
            }
            None => {
                let (host, port) = rest.split_once(':').unwrap_or((rest, "443"));
                let label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
                if host.is_empty() || !host.chars().all(label) {
                    return Err(UrlError);
                }
                (host, Some(port))
            }
        };
        let port = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit())).ok_or(UrlError)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(UrlError)?;
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port })
    }
}

impl TryFrom<String> for HubUrl {
    type Error = UrlError;
    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl std::fmt::Display for HubUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.text)
    }
}

/// The example with other values: what `writ-hub init` writes.
pub(crate) fn render(values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let value = line.split_once(" = ").and_then(|(key, _)| values.iter().find(|(name, _)| *name == key));
        match value {
            Some((key, value)) => {
                // A JSON string is a TOML basic string too.
                let value = serde_json::Value::from(*value);
                text.push_str(&format!("{key} = {value}"));
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_and_what_init_makes_of_it_parse() {
        let config = HubConfig::parse("hub.toml", EXAMPLE, Path::new("/etc/writ")).unwrap();
        assert_eq!(config.url.as_str(), "https://hub.example.org:8440");
        assert_eq!(config.state_dir, Path::new("/etc/writ/state"));
        assert_eq!(config.sessions_per_operator.get(), 1);
        let old = EXAMPLE.replace("sessions_per_operator = 1", "");
        assert_eq!(HubConfig::parse("hub.toml", &old, Path::new("/etc/writ")).unwrap(), config);
        let text = render(&[("listen", "127.0.0.1:1"), ("url", "https://[::1]:9"), ("state_dir", "/x\"y")]);
        let config = HubConfig::parse("hub.toml", &text, Path::new("/etc/writ")).unwrap();
        assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!((config.url.host(), config.url.port()), ("::1", 9));
        assert_eq!(config.state_dir, Path::new("/x\"y"));
        assert!(text.contains("# Who may log in"));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (EXAMPLE.replace("state_dir =", "stat_dir ="), "did you mean `state_dir`"),
            (EXAMPLE.replace("https://hub", "http://hub"), "https://HOST"),
            (EXAMPLE.replace("0.0.0.0:8440", "everywhere"), "line 5: invalid socket address"),
            (EXAMPLE.replace("tls_key = \"tls.key\"", ""), "tls_key"),
            (format!("{EXAMPLE}\ntoken = 1"), "unknown key `token`"),
            (EXAMPLE.replace("operator = 1", "operator = 0"), "nonzero"),
            (EXAMPLE.replace("operator = 1", "operator = 256"), "u8"),
        ];
        for (text, says) in cases {
            let error = HubConfig::parse("hub.toml", &text, Path::new("")).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for bad in [
            "",
            "https://",
            "https://h/",
            "https://h:0",
            "https://h:65536",
            "https://h:+1",
            "https://a b",
            "https://[::1",
            "https://[x]:1",
            "https://[::1]x",
            "https://u@h",
        ] {
            assert_eq!(bad.parse::<HubUrl>(), Err(UrlError), "{bad}");
        }
        assert_eq!("https://hub".parse::<HubUrl>().unwrap().port(), 443);
        assert_eq!("https://[::1]".parse::<HubUrl>().unwrap().port(), 443);
    }
}
