//! The command line of the selftests, and what it comes to.

use std::path::{Path, PathBuf};

use clap::Args;
use protocol::text::printable;
use proxmox_client::{Pin, Vmid};

use crate::config::{AgentConfig, ProxmoxSettings};
use crate::selftest::read::Role;
use crate::sentence;

/// Where Proxmox keeps the certificate it serves: an own one first, else the node's.
const SERVED: [&str; 2] = ["/etc/pve/local/pveproxy-ssl.pem", "/etc/pve/local/pve-ssl.pem"];

/// The options that go with `--selftest`.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Check what works: `read` (Proxmox; the default), `hub` (one report), `task` (a snapshot of the guest
    /// --vmid, rolled back to and deleted). Only `task` changes anything.
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "read")]
    pub selftest: Option<String>,
    /// With --selftest and no --config: the Proxmox API, https://host:8006.
    #[arg(long, value_name = "URL", requires = "selftest", conflicts_with = "config")]
    pub api: Option<String>,
    /// With --api: what its certificate must show, such as spki:HEX64. May be repeated.
    #[arg(long, value_name = "KIND:SHA256", requires = "api")]
    pub pin: Vec<String>,
    /// With --selftest: a file (mode 0600) with one line user@realm!tokenid=secret.
    #[arg(long, value_name = "FILE", requires = "selftest")]
    pub token_file: Option<PathBuf>,
    /// With --selftest: the node, if it shall not be asked for.
    #[arg(long, value_name = "NAME", requires = "selftest")]
    pub node: Option<String>,
    /// With --selftest=read: the role to compare the token's rights with, `report` or `act`. Without it a token
    /// that may create guests is compared with `act`.
    #[arg(long, value_name = "ROLE", requires = "selftest")]
    pub role: Option<String>,
    /// With --selftest=task: the guest.
    #[arg(long, value_name = "N", requires = "selftest")]
    pub vmid: Option<String>,
    /// With --selftest=task: the guest may be stopped hard if it runs; it is started again.
    #[arg(long, requires = "selftest")]
    pub allow_stop: bool,
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// `--selftest=read`
    Read {
        /// Proxmox.
        proxmox: ProxmoxSettings,
        /// Which role, if that was said.
        role: Option<Role>,
        /// Whether this is the token of the agent's configuration.
        of_agent: bool,
    },
    /// `--selftest=hub`
    Hub(AgentConfig),
    /// `--selftest=task`
    Task {
        /// Proxmox.
        proxmox: ProxmoxSettings,
        /// The guest.
        vmid: Vmid,
        /// Whether it may be stopped.
        allow_stop: bool,
    },
}

/// Why it cannot be done: cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Something that it names is.
    #[error("{0}")]
    Setup(String),
}

fn usage(text: impl Into<String>) -> OptionsError {
    OptionsError::Usage(text.into())
}

impl Options {
    /// What the options ask for; `mode` is the value of `--selftest`. Reads the configuration where one is
    /// needed.
    pub fn wanted(&self, mode: &str, config: &Path) -> Result<Wanted, OptionsError> {
        let only = |given: bool, option: &str, belongs: &str| match given && mode != belongs {
            true => Err(usage(format!("{option} goes with --selftest={belongs} only"))),
            false => Ok(()),
        };
        only(self.role.is_some(), "--role", "read")?;
        only(self.vmid.is_some(), "--vmid", "task")?;
        only(self.allow_stop, "--allow-stop", "task")?;
        match mode {
            "read" => {
                let role = self.role.as_deref().map(str::parse).transpose().map_err(usage)?;
                let of_agent = self.api.is_none() && self.token_file.is_none();
                Ok(Wanted::Read { proxmox: self.proxmox(config)?, role, of_agent })
            }
            "hub" => {
                let of_proxmox = self.api.is_some() || self.token_file.is_some() || self.node.is_some();
                if of_proxmox {
                    return Err(usage("--selftest=hub takes a configuration and nothing else"));
                }
                Ok(Wanted::Hub(load(config)?))
            }
            "task" => {
                let vmid = self.vmid.as_deref().ok_or_else(|| {
                    usage(
                        "--selftest=task needs --vmid N: it takes a snapshot of that guest and rolls it back",
                    )
                })?;
                let vmid = vmid.parse().map_err(|error| usage(format!("--vmid: {error}")))?;
                if self.token_file.is_none() {
                    return Err(usage(
                        "--selftest=task needs --token-file FILE with a token that may take snapshots: the agent's own only reads",
                    ));
                }
                Ok(Wanted::Task { proxmox: self.proxmox(config)?, vmid, allow_stop: self.allow_stop })
            }
            other => Err(usage(format!("--selftest={}: there is read, hub and task", printable(other)))),
        }
    }

    /// The API, pins, token and node of the options, or of the configuration where they leave it open.
    fn proxmox(&self, config: &Path) -> Result<ProxmoxSettings, OptionsError> {
        let wrong = |(key, problem): (&str, String)| {
            let option = if key == "pins" { "pin" } else { key };
            usage(format!("--{option}: {problem}"))
        };
        let Some(api) = &self.api else {
            let mut settings = load(config)
                .map_err(|error| {
                    OptionsError::Setup(format!("{error}; or give --api, --pin and --token-file"))
                })?
                .proxmox;
            if let Some(file) = &self.token_file {
                settings.token_file.clone_from(file);
            }
            if let Some(node) = &self.node {
                settings.node = Some(node.parse().map_err(|error| usage(format!("--node: {error}")))?);
            }
            return Ok(settings);
        };
        let token_file = self.token_file.clone().ok_or_else(|| usage("--api needs --token-file FILE"))?;
        if self.pin.is_empty() {
            return Err(usage(format!(
                "--api needs --pin: no pin, no connection. {}",
                pin_advice(Path::exists)
            )));
        }
        // Each by itself, so that the one that is wrong is named.
        for pin in &self.pin {
            pin.parse::<Pin>().map_err(|error| usage(format!("--pin: {error}")))?;
        }
        ProxmoxSettings::from_parts(api, &self.pin, token_file, self.node.as_deref()).map_err(wrong)
    }
}

fn load(config: &Path) -> Result<AgentConfig, OptionsError> {
    AgentConfig::load(config).map_err(|error| OptionsError::Setup(sentence(&error)))
}

/// How to get a pin: from the file on the host itself, never from what answers on the network.
fn pin_advice(exists: impl Fn(&Path) -> bool) -> String {
    let here = SERVED.iter().find(|file| exists(Path::new(file)));
    let (place, file) = match here {
        Some(file) => ("This host serves that certificate; as root, this", *file),
        None => ("On the node's own console (pveproxy-ssl.pem instead where there is one), this", SERVED[1]),
    };
    format!(
        "{place} prints the number of the pin spki:NUMBER:\n  openssl x509 -in {file} -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "/nonexistent/agent.toml";

    fn wanted(options: Options, mode: &str) -> Result<Wanted, OptionsError> {
        options.wanted(mode, Path::new(NONE))
    }

    fn api() -> Options {
        Options {
            api: Some("https://h".to_owned()),
            pin: vec![format!("spki:{}", "0".repeat(64)), format!("leaf:{}", "1".repeat(64))],
            token_file: Some("t".into()),
            ..Options::default()
        }
    }

    #[test]
    fn an_address_pins_and_a_token_are_enough() {
        let node = Some("pve2".to_owned());
        let Ok(Wanted::Read { proxmox, role, of_agent }) = wanted(Options { node, ..api() }, "read") else {
            panic!("read")
        };
        assert_eq!(proxmox.pins.pins().len(), 2);
        assert_eq!(proxmox.node.unwrap().as_str(), "pve2");
        assert!(role.is_none() && !of_agent);
        let task = Options { vmid: Some("101".to_owned()), allow_stop: true, ..api() };
        let Ok(Wanted::Task { vmid, allow_stop, .. }) = wanted(task, "task") else { panic!("task") };
        assert_eq!((vmid.get(), allow_stop), (101, true));
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        let vmid = Some("101".to_owned());
        for (options, mode, says) in [
            (api(), "write", "read, hub and task"),
            (api(), "task", "needs --vmid"),
            (Options { token_file: None, vmid: vmid.clone(), ..api() }, "task", "needs --token-file"),
            (Options { vmid: Some("99".to_owned()), ..api() }, "task", "--vmid"),
            (Options { vmid, ..api() }, "read", "--selftest=task only"),
            (Options { allow_stop: true, ..api() }, "read", "--selftest=task only"),
            (Options { role: Some("act".to_owned()), ..api() }, "hub", "--selftest=read only"),
            (Options { role: Some("root".to_owned()), ..api() }, "read", "report or act"),
            (Options { token_file: None, ..api() }, "read", "--token-file"),
            (Options { pin: Vec::new(), ..api() }, "read", "openssl x509 -in /etc/pve/local/pve"),
            (Options { pin: vec!["spki:xx".to_owned()], ..api() }, "read", "--pin: `spki:xx`"),
            (Options { api: Some("http://h".to_owned()), ..api() }, "read", "--api"),
            (Options { node: Some("../x".to_owned()), ..api() }, "read", "--node"),
            (api(), "hub", "nothing else"),
        ] {
            let Err(OptionsError::Usage(text)) = wanted(options, mode) else { panic!("{mode}: {says}") };
            assert!(text.contains(says), "{text}");
        }
        let Err(OptionsError::Setup(text)) = wanted(Options::default(), "read") else { panic!("no file") };
        assert!(text.contains(NONE), "{text}");
    }

    #[test]
    fn the_file_that_is_served_is_the_one_to_pin() {
        assert!(pin_advice(|_| true).contains("-in /etc/pve/local/pveproxy-ssl.pem"));
        let nodes = pin_advice(|file| file.ends_with("pve-ssl.pem"));
        assert!(nodes.contains("-in /etc/pve/local/pve-ssl.pem") && nodes.contains("This host"), "{nodes}");
        assert!(pin_advice(|_| false).contains("own console"));
    }
}
