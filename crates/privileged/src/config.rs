//! `privileged.toml`. A documented example is `crates/privileged/privileged.toml.example`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use protocol::Sha256;
use protocol::config::{ConfigError, parse_toml};
use protocol::refs::StorageId;
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
    #[error("{path} can be changed by others than root and the service's user: chown root {path} and chmod 644 {path}", path = .path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// Nobody may connect.
    #[error(
        "allowed_uids is empty, so nobody could ask writ-privileged for anything: put the warden's user id there (id -u writ-warden)"
    )]
    NobodyAllowed,
    /// A number that makes no sense.
    #[error("{key} is {value}, allowed are {least} to {most}: correct it")]
    Range {
        /// Which.
        key: &'static str,
        /// What stands there.
        value: u64,
        /// At least.
        least: u64,
        /// At most.
        most: u64,
    },
    /// A path that depends on where the service was started.
    #[error("{key} must be an absolute path: write it from / on")]
    Relative {
        /// Which.
        key: String,
    },
}

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivilegedConfig {
    /// Policy, host, nonce journal, orders. 0700.
    pub state_dir: PathBuf,
    /// Where the warden connects.
    pub socket: PathBuf,
    /// User ids that may connect. Always explicit.
    pub allowed_uids: Vec<u32>,
    /// The one policy that may be anchored.
    pub policy_sha256: Option<Sha256>,
    /// Time limit of `pct create`, seconds.
    #[serde(default = "default_create")]
    pub create_timeout_s: u64,
    /// Time limit of `systemctl` and `smartctl`, seconds.
    #[serde(default = "default_mount")]
    pub mount_timeout_s: u64,
    /// Between two readings of one disk, seconds.
    #[serde(default = "default_smart")]
    pub smart_every_s: u64,
    /// Largest golden image, bytes.
    #[serde(default = "default_image")]
    pub max_image: u64,
    /// Where each storage's container templates lie.
    #[serde(default)]
    pub templates: BTreeMap<StorageId, PathBuf>,
    /// Stand-ins, for tests.
    #[serde(default)]
    pub stand_ins: Places,
}

/// Where programs and the system's own files are. Root can put others in their places; only tests do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Places {
    /// Proxmox's container tool.
    pub pct: PathBuf,
    /// systemd's.
    pub systemctl: PathBuf,
    /// smartmontools'.
    pub smartctl: PathBuf,
    /// The kernel's devices.
    pub sys: PathBuf,
    /// Device files, for `disk/by-uuid`.
    pub dev: PathBuf,
    /// What udev knows of each device.
    pub udev: PathBuf,
    /// What is mounted.
    pub mountinfo: PathBuf,
    /// Units that are kept.
    pub units: PathBuf,
    /// Units until the next boot.
    pub runtime_units: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            pct: "/usr/sbin/pct".into(),
            systemctl: "/usr/bin/systemctl".into(),
            smartctl: "/usr/sbin/smartctl".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            udev: "/run/udev/data".into(),
            mountinfo: "/proc/self/mountinfo".into(),
            units: "/etc/systemd/system".into(),
            runtime_units: "/run/systemd/system".into(),
        }
    }
}

const fn default_create() -> u64 {
    1800
}

const fn default_mount() -> u64 {
    90
}

const fn default_smart() -> u64 {
    60
}

const fn default_image() -> u64 {
    4 << 30
}

impl PrivilegedConfig {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigProblem> {
        let bytes = files::read_limited(path, 64 * 1024)?;
        let meta = std::fs::metadata(path).map_err(|source| FileError::io("read", path, source))?;
        if !only_ours(&meta) {
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
        for (key, value, least, most) in [
            ("create_timeout_s", self.create_timeout_s, 10, 7200),
            ("mount_timeout_s", self.mount_timeout_s, 5, 600),
            ("smart_every_s", self.smart_every_s, 1, 86_400),
            ("max_image", self.max_image, 1, 1 << 40),
        ] {
            if !(least..=most).contains(&value) {
                return Err(ConfigProblem::Range { key, value, least, most });
            }
        }
        let Places { pct, systemctl, smartctl, sys, dev, udev, mountinfo, units, runtime_units } =
            &self.stand_ins;
        let fixed = [
            ("state_dir", &self.state_dir),
            ("socket", &self.socket),
            ("stand_ins.pct", pct),
            ("stand_ins.systemctl", systemctl),
            ("stand_ins.smartctl", smartctl),
            ("stand_ins.sys", sys),
            ("stand_ins.dev", dev),
            ("stand_ins.udev", udev),
            ("stand_ins.mountinfo", mountinfo),
            ("stand_ins.units", units),
            ("stand_ins.runtime_units", runtime_units),
        ];
        let fixed = fixed.into_iter().map(|(key, path)| (key.to_owned(), path));
        let templates = self.templates.iter().map(|(storage, path)| (format!("templates.{storage}"), path));
        match fixed.chain(templates).find(|(_, path)| !path.is_absolute()) {
            Some((key, _)) => Err(ConfigProblem::Relative { key }),
            None => Ok(()),
        }
    }
}

/// Whether a file is root's or ours, and nobody else can write to it.
pub(crate) fn only_ours(meta: &std::fs::Metadata) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    meta.mode() & 0o022 == 0 && (meta.uid() == 0 || meta.uid() == ours)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const EXAMPLE: &str = include_str!("../privileged.toml.example");

    /// What is commented out are the defaults, but for the policy and the templates, which have none.
    #[test]
    fn the_documented_example_parses_and_its_comments_tell_the_defaults() {
        let config: PrivilegedConfig = parse_toml("privileged.toml.example", EXAMPLE).unwrap();
        config.check().unwrap();
        assert_eq!((config.policy_sha256, config.templates.len()), (None, 0));
        let mut said = EXAMPLE.to_owned();
        for key in
            ["policy_sha256", "create_timeout_s", "mount_timeout_s", "smart_every_s", "max_image", "local"]
        {
            let line = format!("# {key} = ");
            assert!(said.contains(&line), "{key}");
            said = said.replacen(&line, &format!("{key} = "), 1);
        }
        let said: PrivilegedConfig = parse_toml("privileged.toml.example", &said).unwrap();
        assert!(said.policy_sha256.is_some());
        assert_eq!(said.templates.len(), 1);
        let plain = PrivilegedConfig { policy_sha256: None, templates: BTreeMap::new(), ..said };
        assert_eq!(format!("{plain:?}"), format!("{config:?}"), "the example names other defaults");
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("privileged.toml");
        for (from, to, says) in [
            ("allowed_uids", "alowed_uids", "did you mean `allowed_uids`"),
            ("allowed_uids = [", "allowed_uids = [] # [", "nobody could ask"),
            ("# policy_sha256 = \"00", "policy_sha256 = \"zz", "64 lower-case hexadecimal digits"),
            ("# mount_timeout_s = 90", "mount_timeout_s = 1", "allowed are 5 to 600"),
            ("# smart_every_s = 60", "smart_every_s = 0", "allowed are 1 to 86400"),
            ("\"/var/lib/writ", "\"var/lib/writ", "state_dir must be an absolute path"),
            ("# local = \"/", "local = \"", "templates.local must be an absolute path"),
            ("# local = ", "\"../x\" = ", "letters, digits"),
            (
                "[templates]",
                "[stand_ins]\npct = \"pct\"\n[templates]",
                "stand_ins.pct must be an absolute path",
            ),
            ("[templates]", "[stand_ins]\nsh = \"/bin/sh\"\n[templates]", "unknown key `sh`"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            std::fs::write(&path, EXAMPLE.replacen(from, to, 1)).unwrap();
            let error = PrivilegedConfig::load(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error:?} should say {says:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_not_roots_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("privileged.toml");
        std::fs::write(&path, EXAMPLE).unwrap();
        for (mode, good) in [(0o664, false), (0o646, false), (0o666, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(PrivilegedConfig::load(&path).is_ok(), good, "{mode:o}");
        }
    }
}
