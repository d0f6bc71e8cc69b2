//! `agent.toml`. See `agent.toml.example`, which a test parses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::files::{self, FileError};
use protocol::config::{ConfigError, parse_toml};
use proxmox_client::{ApiToken, Client, ClientError, Endpoint, NodeName, Pin, PinDir, PinSet, TokenError};
use serde::Deserialize;

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentConfigError {
    /// The file cannot be read.
    #[error("the configuration is not usable: {0}")]
    File(FileError),
    /// Not TOML, unknown keys, wrong types.
    #[error(transparent)]
    Toml(#[from] ConfigError),
    /// A value that makes no sense.
    #[error("{file}, key `{key}`: {problem}")]
    Value {
        /// The file.
        file: String,
        /// Which key.
        key: &'static str,
        /// Cause and remedy.
        problem: String,
    },
}

/// Why there is no Proxmox client.
#[derive(Debug, thiserror::Error)]
pub enum ProxmoxSetupError {
    /// No usable token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// TLS or HTTP refuse.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// How to reach Proxmox.
#[derive(Debug, Clone)]
pub struct ProxmoxSettings {
    /// Where.
    pub api: Endpoint,
    /// What its certificate must show.
    pub pins: PinSet,
    /// Where the token is.
    pub token_file: PathBuf,
    /// The node, if it shall not be asked for.
    pub node: Option<NodeName>,
}

impl ProxmoxSettings {
    /// From text, as on the command line; the error names the part that is wrong.
    pub fn from_parts(
        api: &str,
        pins: &[String],
        token_file: PathBuf,
        node: Option<&str>,
    ) -> Result<Self, (&'static str, String)> {
        let pins = pins
            .iter()
            .map(|pin| pin.parse::<Pin>())
            .collect::<Result<Vec<_>, _>>()
            .and_then(PinSet::new)
            .map_err(|error| ("pins", error.to_string()))?;
        Ok(Self {
            api: api.parse().map_err(|error: proxmox_client::EndpointError| ("api", error.to_string()))?,
            pins,
            token_file,
            node: node
                .map(str::parse)
                .transpose()
                .map_err(|error: proxmox_client::IdError| ("node", error.to_string()))?,
        })
    }

    /// Reads the token and sets a client up; connects to nothing yet.
    pub fn client(&self) -> Result<Client, ProxmoxSetupError> {
        let token = ApiToken::from_file(&self.token_file)?;
        let client = Client::new(self.api.clone(), self.pins.clone(), token)?;
        Ok(match &self.node {
            Some(node) => client.with_node(node.clone()),
            None => client,
        })
    }
}

/// The agent's configuration.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where the agent keeps what it must not forget.
    pub state_dir: PathBuf,
    /// The warden's socket.
    pub warden_socket: PathBuf,
    /// Between reports.
    pub report_interval: Duration,
    /// How to reach Proxmox.
    pub proxmox: ProxmoxSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled {
    state_dir: PathBuf,
    warden_socket: PathBuf,
    #[serde(default = "default_interval")]
    report_interval: u64,
    proxmox: SpelledProxmox,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpelledProxmox {
    api: String,
    pins: Vec<String>,
    pins_dir: Option<PathBuf>,
    token_file: PathBuf,
    node: Option<String>,
}

fn default_interval() -> u64 {
    60
}

impl AgentConfig {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, AgentConfigError> {
        let bytes = files::read_limited(path, MAX_FILE).map_err(AgentConfigError::File)?;
        Self::parse(&path.display().to_string(), &String::from_utf8_lossy(&bytes))
    }

    /// Parses the text; `file` is for messages.
    pub fn parse(file: &str, text: &str) -> Result<Self, AgentConfigError> {
        let spelled: Spelled = parse_toml(file, text)?;
        let wrong = |(key, problem)| AgentConfigError::Value { file: file.to_owned(), key, problem };
        if !(1..=86_400).contains(&spelled.report_interval) {
            let problem = "must be a number of seconds from 1 to 86400".to_owned();
            return Err(wrong(("report_interval", problem)));
        }
        let SpelledProxmox { api, pins, pins_dir, token_file, node } = spelled.proxmox;
        let mut proxmox =
            ProxmoxSettings::from_parts(&api, &pins, token_file, node.as_deref()).map_err(wrong)?;
        if let Some(directory) = pins_dir {
            proxmox.pins = proxmox.pins.with_root_copy(PinDir::new(directory));
        }
        Ok(Self {
            state_dir: spelled.state_dir,
            warden_socket: spelled.warden_socket,
            report_interval: Duration::from_secs(spelled.report_interval),
            proxmox,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../agent.toml.example");

    #[test]
    fn the_example_is_a_configuration() {
        let config = AgentConfig::parse("agent.toml.example", EXAMPLE).unwrap();
        assert_eq!(config.report_interval, Duration::from_secs(60));
        assert_eq!(config.proxmox.api.to_string(), "https://127.0.0.1:8006");
        assert!(config.proxmox.node.is_none());
        let named = EXAMPLE.replace("# node =", "node =");
        assert!(AgentConfig::parse("x", &named).unwrap().proxmox.node.is_some());
        let with = EXAMPLE.replace("# pins_dir =", "pins_dir =");
        assert_ne!(AgentConfig::parse("x", &with).unwrap().proxmox.pins, config.proxmox.pins);
    }

    #[test]
    fn mistakes_are_named_with_their_remedy() {
        let cases = [
            ("state_dir =", "stat_dir =", "did you mean `state_dir`"),
            ("token_file =", "tokenfile =", "did you mean `token_file`"),
            ("report_interval = 60", "report_interval = 0", "from 1 to 86400"),
            ("report_interval = 60", "report_interval = -1", "line"),
            ("https://127", "http://127", "key `api`"),
            ("\"spki:0", "\"sha256:0", "key `pins`"),
            ("pins = [", "pins = [] #", "key `pins`"),
            ("# node = \"pve1\"", "node = \"../x\"", "key `node`"),
        ];
        for (from, to, says) in cases {
            assert!(EXAMPLE.contains(from), "{from}");
            let error = AgentConfig::parse("a.toml", &EXAMPLE.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("a.toml"), "{error:?} should say {says:?}");
        }
        let error = AgentConfig::load(Path::new("/nonexistent/agent.toml")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/agent.toml") && error.contains("correct the path"), "{error}");
    }
}
