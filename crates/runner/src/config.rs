//! `runner.toml`. A documented example is `crates/runner/runner.toml.example`.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use protocol::Sha256;
use protocol::config::{ConfigError, parse_toml};
use serde::Deserialize;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It makes no sense.
    #[error(transparent)]
    Parse(#[from] ConfigError),
    /// Others could change who may ask and which policy counts.
    #[error("{path} can be changed by others than root and the runner's user: chown root {path} and chmod 644 {path}", path = .path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// Nobody may connect.
    #[error(
        "allowed_uids is empty, so nobody could ask the runner for anything: put the warden's user id there (id -u writ-warden)"
    )]
    NobodyAllowed,
    /// A number that makes no sense.
    #[error("{key} is {value}, allowed are 1 to {MOST}: correct it")]
    Range {
        /// Which.
        key: &'static str,
        /// What stands there.
        value: u32,
    },
    /// A path that depends on where the runner was started.
    #[error("{key} must be an absolute path: write it from / on")]
    Relative {
        /// Which.
        key: &'static str,
    },
}

/// Most sessions of one operator, and most scripts at once.
const MOST: u32 = 64;

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerConfig {
    /// Policy, host, nonce journal, results. 0700.
    pub state_dir: PathBuf,
    /// Where the warden connects.
    pub socket: PathBuf,
    /// User ids that may connect. Always explicit.
    pub allowed_uids: Vec<u32>,
    /// The one policy that may be anchored.
    pub policy_sha256: Option<Sha256>,
    /// Sessions' directories.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// OpenSSH's server.
    #[serde(default = "default_sshd")]
    pub sshd: PathBuf,
    /// Sessions at once, for each operator.
    #[serde(default = "default_sessions")]
    pub sessions_per_operator: u32,
    /// Scripts at once.
    #[serde(default = "default_jobs")]
    pub jobs_at_once: u32,
}

fn default_run_dir() -> PathBuf {
    "/run/writ-runner/sessions".into()
}

fn default_sshd() -> PathBuf {
    "/usr/sbin/sshd".into()
}

const fn default_sessions() -> u32 {
    1
}

const fn default_jobs() -> u32 {
    8
}

impl RunnerConfig {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigProblem> {
        let bytes = files::read_limited(path, 64 * 1024)?;
        let meta = std::fs::metadata(path).map_err(|source| FileError::io("read", path, source))?;
        let ours = rustix::process::geteuid().as_raw();
        if meta.mode() & 0o022 != 0 || (meta.uid() != 0 && meta.uid() != ours) {
            return Err(ConfigProblem::Writable { path: path.to_owned() });
        }
        let config: Self = parse_toml(&path.display().to_string(), &String::from_utf8_lossy(&bytes))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigProblem> {
        if self.allowed_uids.is_empty() {
            return Err(ConfigProblem::NobodyAllowed);
        }
        for (key, value) in
            [("sessions_per_operator", self.sessions_per_operator), ("jobs_at_once", self.jobs_at_once)]
        {
            if !(1..=MOST).contains(&value) {
                return Err(ConfigProblem::Range { key, value });
            }
        }
        for (key, value) in [
            ("state_dir", &self.state_dir),
            ("socket", &self.socket),
            ("run_dir", &self.run_dir),
            ("sshd", &self.sshd),
        ] {
            if !value.is_absolute() {
                return Err(ConfigProblem::Relative { key });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const EXAMPLE: &str = include_str!("../runner.toml.example");

    /// What is commented out are the defaults, except for the policy, which has none.
    #[test]
    fn the_documented_example_parses_and_its_comments_tell_the_defaults() {
        let config: RunnerConfig = parse_toml("runner.toml.example", EXAMPLE).unwrap();
        config.check().unwrap();
        assert_eq!(config.policy_sha256, None);
        let mut said = EXAMPLE.to_owned();
        for key in ["policy_sha256", "run_dir", "sshd", "sessions_per_operator", "jobs_at_once"] {
            said = said.replacen(&format!("# {key} = "), &format!("{key} = "), 1);
        }
        let said: RunnerConfig = parse_toml("runner.toml.example", &said).unwrap();
        assert!(said.policy_sha256.is_some());
        assert_eq!(
            format!("{:?}", RunnerConfig { policy_sha256: None, ..said }),
            format!("{config:?}"),
            "the example names other defaults"
        );
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runner.toml");
        for (from, to, says) in [
            ("allowed_uids", "alowed_uids", "did you mean `allowed_uids`"),
            ("allowed_uids = [", "allowed_uids = [] # [", "nobody could ask"),
            ("# policy_sha256 = \"00", "policy_sha256 = \"zz", "64 lower-case hexadecimal digits"),
            ("# policy_sha256", "policy_sha265", "did you mean `policy_sha256`"),
            ("# jobs_at_once = 8", "jobs_at_once = 0", "allowed are 1 to 64"),
            ("# sessions_per_operator = 1", "sessions_per_operator = 65", "allowed are 1 to 64"),
            ("# sshd = \"/usr", "sshd = \"usr", "sshd must be an absolute path"),
            ("\"/var/lib", "\"var/lib", "state_dir must be an absolute path"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            std::fs::write(&path, EXAMPLE.replacen(from, to, 1)).unwrap();
            let error = RunnerConfig::load(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error:?} should say {says:?}");
        }
        let none = RunnerConfig::load(&dir.path().join("none")).unwrap_err().to_string();
        assert!(none.contains("does not exist"), "{none}");
    }

    #[test]
    fn a_file_that_others_can_write_is_not_roots_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runner.toml");
        std::fs::write(&path, EXAMPLE).unwrap();
        for mode in [0o664, 0o646, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(RunnerConfig::load(&path).unwrap_err().to_string().contains("chmod 644"));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        RunnerConfig::load(&path).unwrap();
    }
}
