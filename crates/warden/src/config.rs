//! `warden.toml`. A documented example is `crates/warden/warden.toml.example`.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use protocol::config::{ConfigError, parse_toml};
use proxmox_client::{
    ApiToken, Client, ClientError, Endpoint, EndpointError, NodeName, Pin, PinDir, PinError, PinSet,
    TokenError,
};
use serde::Deserialize;

use crate::bounds::LocalBounds;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It makes no sense.
    #[error(transparent)]
    Parse(#[from] ConfigError),
    /// Nobody may connect.
    #[error(
        "allowed_uids is empty, so nobody could ask the warden for anything: put the agent's user id there (id -u writ)"
    )]
    NobodyAllowed,
    /// More than any policy can allow.
    #[error("[bounds] {0}")]
    Bounds(String),
    /// Not an address of the API.
    #[error("[proxmox] api: {0}")]
    Endpoint(#[from] EndpointError),
    /// Not a pin, or none.
    #[error("[proxmox] pins: {0}")]
    Pin(#[from] PinError),
    /// Not a node name.
    #[error("[proxmox] node: {0}")]
    Node(String),
    /// The token file.
    #[error("[proxmox] token_file: {0}")]
    Token(#[from] TokenError),
    /// TLS set-up.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WardenConfig {
    /// Identity, policy, journal, log. 0700.
    pub state_dir: PathBuf,
    /// Where the agent connects.
    pub socket: PathBuf,
    /// User ids that may connect. Always explicit.
    pub allowed_uids: Vec<u32>,
    /// User ids that may look at status, queue and log, and ask for plans; nothing else.
    #[serde(default = "root")]
    pub reader_uids: Vec<u32>,
    /// Where the runner listens. Absent: signed scripts and sessions are refused.
    pub runner_socket: Option<PathBuf>,
    /// Where `writ-privileged` listens. Absent: what only root can do is refused.
    pub privileged_socket: Option<PathBuf>,
    /// How many sessions an operator may have open at once.
    #[serde(default = "one")]
    pub sessions_per_operator: u32,
    /// The API to act on.
    pub proxmox: ProxmoxConfig,
    /// What this host allows less than its policy without a signature.
    #[serde(default)]
    pub bounds: LocalBounds,
    /// Where the host's own files are looked for: `/sys`, `/proc`, `/run/udev`, templates. Anything but `/`
    /// is for tests.
    #[serde(default = "slash")]
    pub host_root: PathBuf,
}

fn slash() -> PathBuf {
    PathBuf::from("/")
}

fn root() -> Vec<u32> {
    vec![0]
}

const fn one() -> u32 {
    1
}

/// How to reach Proxmox.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxmoxConfig {
    /// `https://127.0.0.1:8006`
    pub api: String,
    /// `spki:…`, `leaf:…` or `ca:…`, at least one.
    pub pins: Vec<String>,
    /// Where root writes the fingerprint of the certificate in use; none when absent.
    pub pins_dir: Option<PathBuf>,
    /// The acting token: `user@realm!id=secret`, 0600.
    pub token_file: PathBuf,
    /// Node name; asked for when absent.
    pub node: Option<String>,
}

impl WardenConfig {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigProblem> {
        let bytes = files::read_limited(path, 64 * 1024)?;
        let config: Self = parse_toml(&path.display().to_string(), &String::from_utf8_lossy(&bytes))?;
        if config.allowed_uids.is_empty() {
            return Err(ConfigProblem::NobodyAllowed);
        }
        config.bounds.check().map_err(ConfigProblem::Bounds)?;
        Ok(config)
    }
}

impl ProxmoxConfig {
    /// A client; connects to nothing yet.
    pub fn client(&self) -> Result<Client, ConfigProblem> {
        let endpoint: Endpoint = self.api.parse()?;
        let pins = self.pins.iter().map(|pin| pin.parse::<Pin>()).collect::<Result<Vec<_>, _>>()?;
        let pins = match &self.pins_dir {
            None => PinSet::new(pins)?,
            Some(directory) => PinSet::new(pins)?.with_root_copy(PinDir::new(directory)),
        };
        let client = Client::new(endpoint, pins, ApiToken::from_file(&self.token_file)?)?;
        match &self.node {
            Some(name) => {
                let node: NodeName = name.parse().map_err(|error| ConfigProblem::Node(format!("{error}")))?;
                Ok(client.with_node(node))
            }
            None => Ok(client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_parses() {
        let text = include_str!("../warden.toml.example");
        let config: WardenConfig = parse_toml("warden.toml.example", text).unwrap();
        assert_eq!(config.proxmox.api, "https://127.0.0.1:8006");
        assert_eq!((config.runner_socket, config.sessions_per_operator), (None, 1));
        assert_eq!(config.bounds, LocalBounds::default());
        // The commented section says every key that there is, and tightens.
        let at = text.find("# [bounds]").unwrap();
        let bounds: String =
            text[at..].lines().map(|l| format!("{}\n", l.trim_start_matches("# "))).collect();
        let config: WardenConfig =
            parse_toml("warden.toml.example", &format!("{}{bounds}", &text[..at])).unwrap();
        config.bounds.check().unwrap();
        let shown = format!("{:?}", config.bounds);
        assert!(!shown.contains("None") && !config.bounds.forbid.is_empty(), "{shown}");
        let lines: Vec<&str> = text.lines().map(|l| l.trim_start_matches("# ")).collect();
        let line = |key: &str| *lines.iter().find(|l| l.starts_with(key)).unwrap();
        let with = format!(
            "{}\n{}\n{}\n{text}",
            line("runner_socket ="),
            line("privileged_socket ="),
            line("sessions_per_operator =")
        );
        let with = with.replace("# pins_dir =", "pins_dir =");
        let config: WardenConfig = parse_toml("warden.toml.example", &with).unwrap();
        assert_eq!(config.proxmox.pins_dir, Some("/run/writ/pins".into()));
        assert_eq!(config.runner_socket, Some("/run/writ-runner/runner.sock".into()));
        assert_eq!(config.privileged_socket, Some("/run/writ-privileged/privileged.sock".into()));
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("warden.toml");
        let good = include_str!("../warden.toml.example");
        for (from, to, says) in [
            ("allowed_uids", "alowed_uids", "did you mean `allowed_uids`"),
            ("allowed_uids = [", "allowed_uids = [] # [", "nobody could ask"),
            ("[proxmox]", "[proxmix]", "did you mean `proxmox`"),
            ("# privileged_socket", "privileged_sock", "did you mean `privileged_socket`"),
            ("# runner_socket", "runer_socket", "did you mean `runner_socket`"),
            ("# sessions_per_operator = 1", "sessions_per_operator = -1", "line "),
            ("# [bounds]", "[bounds]\nmax_guest_per_hour = 1\n#", "did you mean `max_guests_per_hour`"),
            (
                "# [bounds]",
                "[bounds]\nmax_changes_per_hour = 1000\n#",
                "[bounds] max_changes_per_hour = 1000: nothing",
            ),
            ("# [bounds]", "[bounds]\nallow = [\"power\"]\n#", "line "),
        ] {
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            let error = WardenConfig::load(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error:?} should say {says:?}");
        }
        assert!(
            WardenConfig::load(&dir.path().join("none")).unwrap_err().to_string().contains("does not exist")
        );
    }

    #[test]
    fn no_pin_no_client() {
        let mut config: WardenConfig = parse_toml("x", include_str!("../warden.toml.example")).unwrap();
        config.proxmox.pins.clear();
        assert!(matches!(config.proxmox.client(), Err(ConfigProblem::Pin(_))));
        config.proxmox.api = "http://127.0.0.1:8006".into();
        assert!(matches!(config.proxmox.client(), Err(ConfigProblem::Endpoint(_))));
    }
}
