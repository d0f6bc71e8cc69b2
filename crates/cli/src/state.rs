//! What this machine keeps: one private directory. The policy in it is what everything else is
//! judged by.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use authz::policy::PolicyError;
use authz::policy::chain::Chain;
use authz::policy::store::{ChainStore, ChainStoreError};
use authz::{KeyError, Policy, SecretKey};
use protocol::config::{ConfigError, parse_toml};
use protocol::enroll::HostStatement;
use protocol::{Envelope, HostId, HostName, Sha256, Signed};
use serde::{Deserialize, Serialize};

use crate::hub::{HubAddress, HubError};
use crate::resolve::{Believed, Distrust, Memory, compare_with_memory};

mod kept;

/// Largest file of ours, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Why the state directory or a file in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No place for it.
    #[error("there is no home directory: name a state directory with --home DIR or $WRIT_HOME")]
    NoHome,
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody has logged in yet.
    #[error(
        "this machine knows no hub yet: run `writ login --hub https://… --pin HEX --key FILE --policy policy.json`"
    )]
    NoConfig,
    /// The login's token is gone.
    #[error("you are not logged in: run `writ login`")]
    NoToken,
    /// No trust root.
    #[error("this machine has no trusted policy yet: run `writ login … --policy policy.json`")]
    NoPolicy,
    /// A damaged policy.
    #[error("{path} is not a policy: {why}", path = .path.display())]
    Policy {
        /// Which file.
        path: PathBuf,
        /// In words.
        why: String,
        /// What exactly.
        #[source]
        source: PolicyError,
    },
    /// The chain of policies.
    #[error(transparent)]
    Chain(#[from] ChainStoreError),
    /// A damaged file of ours.
    #[error("{path} is damaged: remove it, or restore it from a backup", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What exactly.
        #[source]
        source: serde_json::Error,
    },
    /// A damaged address in the configuration.
    #[error("{path}: {why}", path = .path.display())]
    Address {
        /// Which file.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// A path that the configuration cannot hold.
    #[error("the path {0:?} contains control characters or is not UTF-8: rename it")]
    Path(PathBuf),
    /// A damaged memory of hosts, or one that contradicts.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// The private key.
    #[error("{path}: {why}", path = .path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Cause and remedy.
        why: KeyError,
    },
    /// No terminal to ask for a passphrase on.
    #[error(
        "{path} is protected by a passphrase and there is no terminal to ask for it on: run writ in a terminal, or use a key without a passphrase for automation", path = .path.display()
    )]
    NoTerminal {
        /// Which file.
        path: PathBuf,
        /// What exactly.
        #[source]
        source: std::io::Error,
    },
}

/// config.toml: where the hub is and with which key to log in and sign.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    hub: String,
    hub_pin: Sha256,
    key: Option<PathBuf>,
}

/// The same, parsed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address.
    pub hub: HubAddress,
    /// SHA-256 of its TLS SubjectPublicKeyInfo.
    pub pin: Sha256,
    /// The operator's key file, private or public; none: the one key in ssh-agent.
    pub key: Option<PathBuf>,
}

/// What is kept of an enrollment until the host is approved. K in it is secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingEnrollment {
    /// The hub's number.
    pub id: u64,
    /// The name that the host will have.
    pub name: HostName,
    /// Its site.
    pub site: HostName,
    /// The policy in the code.
    pub policy: Sha256,
    /// Proves the host's answer; hexadecimal.
    pub k: Sha256,
}

/// What is kept of a submitted order, so that waiting can be resumed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmittedOrder {
    /// To which host.
    pub host: HostId,
    /// The order.
    pub envelope: Envelope,
    /// The version at which the last submission started; none while the hub has not answered.
    pub version: Option<u64>,
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// `--home`, else `$WRIT_HOME`, else `~/.config/writ`. Made if absent.
    pub fn open(option: Option<PathBuf>) -> Result<Self, StateError> {
        let from_environment = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = match option.or_else(|| from_environment("WRIT_HOME")) {
            Some(root) => root,
            None => {
                let config = from_environment("HOME").ok_or(StateError::NoHome)?.join(".config");
                std::fs::create_dir_all(&config)
                    .map_err(|source| FileError::io("create directory", &config, source))?;
                config.join("writ")
            }
        };
        files::prepare_state_dir(&root)?;
        for part in ["enrollments", "hosts", "logs", "orders", "results", "sessions"] {
            files::prepare_state_dir(&root.join(part))?;
        }
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where something is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The configuration.
    pub fn config(&self) -> Result<Config, StateError> {
        let path = self.path("config.toml");
        let bytes = match files::read_limited(&path, MAX_FILE) {
            Err(error) if error.is_not_found() => return Err(StateError::NoConfig),
            other => other?,
        };
        let file: ConfigFile = parse_toml(&path.display().to_string(), &String::from_utf8_lossy(&bytes))?;
        let hub = file
            .hub
            .parse()
            .map_err(|error: HubError| StateError::Address { path, why: error.to_string() })?;
        Ok(Config { hub, pin: file.hub_pin, key: file.key })
    }

    /// Replaces the configuration.
    pub fn save_config(&self, config: &Config) -> Result<(), StateError> {
        let mut text =
            format!("# Written by `writ login`.\nhub = \"{}\"\nhub_pin = \"{}\"\n", config.hub, config.pin);
        if let Some(path) = &config.key {
            let key = path.to_str().filter(|key| !key.contains(char::is_control));
            let key = key.ok_or_else(|| StateError::Path(path.clone()))?;
            // Without control characters a JSON string is a TOML string.
            text.push_str(&format!("key = {}\n", serde_json::Value::from(key)));
        }
        Ok(files::write_atomic(&self.path("config.toml"), text.as_bytes())?)
    }

    /// The login's token.
    pub fn token(&self) -> Result<String, StateError> {
        match files::read_secret(&self.path("token")) {
            Err(error) if error.is_not_found() => Err(StateError::NoToken),
            other => Ok(String::from_utf8_lossy(&other?).trim().to_owned()),
        }
    }

    /// Replaces the token.
    pub fn save_token(&self, token: &str) -> Result<(), StateError> {
        Ok(files::write_atomic(&self.path("token"), format!("{token}\n").as_bytes())?)
    }

    /// The trusted policy, as far as this machine has followed it, and its bytes.
    pub fn policy(&self) -> Result<(Policy, Vec<u8>), StateError> {
        let (first, bytes) = self.first_policy()?;
        if !ChainStore::exists(&self.root) {
            return Ok((first, bytes));
        }
        let current = ChainStore::inspect(&self.root, first)?.current().clone();
        let bytes = current.document().encode();
        Ok((current, bytes))
    }

    /// Whether nobody has said for too long that the trusted policy is the newest, as far as this machine knows;
    /// a host may have heard a later word. `now` is unix seconds.
    pub fn policy_is_stale(&self, now: u64) -> bool {
        let Ok((first, _)) = self.first_policy() else { return false };
        let chain = match ChainStore::inspect(&self.root, first.clone()) {
            Ok(store) => store.chain().clone(),
            Err(_) => Chain::new(first),
        };
        chain.is_stale(now)
    }

    /// The policy that the operator named: everything after it is signed.
    fn first_policy(&self) -> Result<(Policy, Vec<u8>), StateError> {
        match read_policy(&self.path("policy.json")) {
            Err(StateError::File(error)) if error.is_not_found() => Err(StateError::NoPolicy),
            other => other,
        }
    }

    /// The chain from the trusted policy on.
    pub fn chain(&self) -> Result<ChainStore, StateError> {
        let (first, _) = self.first_policy()?;
        Ok(if ChainStore::exists(&self.root) {
            ChainStore::open(&self.root, first)?
        } else {
            ChainStore::create(&self.root, first)?
        })
    }

    /// Replaces the trusted policy. One that this machine has followed already changes nothing: it never
    /// goes back by itself.
    pub fn save_policy(&self, bytes: &[u8]) -> Result<(), StateError> {
        let followed = ChainStore::exists(&self.root)
            && self.chain().is_ok_and(|store| store.chain().has(&Sha256::of(bytes)));
        if followed {
            return Ok(());
        }
        ChainStore::forget(&self.root)?;
        Ok(files::write_atomic(&self.path("policy.json"), bytes)?)
    }

    /// All host statements that this machine believed.
    pub fn memory(&self) -> Result<Memory, StateError> {
        let mut memory = Memory::new();
        for path in self.list("hosts")? {
            let signed: Signed = read_json(&path)?;
            // Every one was believed once. What the policy of today does not accept, or a certificate
            // that ended, is still what was believed: it may only cause refusals.
            match authz::statement::read_host_unverified(&signed) {
                Ok(statement) => {
                    memory.insert(statement.name.clone(), statement);
                }
                Err(_) => {
                    let source = <serde_json::Error as serde::de::Error>::custom("not a host statement");
                    return Err(StateError::Damaged { path, source });
                }
            }
        }
        Ok(memory)
    }

    /// Remembers what is believed now.
    pub fn remember(&self, host: &Believed) -> Result<(), StateError> {
        self.remember_signed(&host.statement, &host.signed)
    }

    /// Remembers a statement that this machine made or believed.
    pub fn remember_signed(&self, statement: &HostStatement, signed: &Signed) -> Result<(), StateError> {
        let memory = self.memory()?;
        compare_with_memory(statement, &memory)?;
        if memory.get(&statement.name) == Some(statement) {
            return Ok(());
        }
        write_json(&self.path("hosts").join(format!("{}.json", statement.name)), signed)
    }

    /// Forgets a name. False when it was not known.
    pub fn forget(&self, name: &HostName) -> Result<bool, StateError> {
        remove(&self.path("hosts").join(format!("{name}.json")))
    }

    /// Keeps a pending enrollment with its K.
    pub fn save_enrollment(&self, pending: &PendingEnrollment) -> Result<(), StateError> {
        write_json(&self.path("enrollments").join(format!("{}.json", pending.id)), pending)
    }

    /// All pending enrollments of this machine.
    pub fn enrollments(&self) -> Result<Vec<PendingEnrollment>, StateError> {
        self.list("enrollments")?.iter().map(|path| read_json(path)).collect()
    }

    /// Forgets an enrollment and its K.
    pub fn forget_enrollment(&self, id: u64) -> Result<bool, StateError> {
        remove(&self.path("enrollments").join(format!("{id}.json")))
    }

    /// Keeps a submitted order.
    pub fn save_order(&self, order: &SubmittedOrder) -> Result<(), StateError> {
        write_json(&self.path("orders").join(format!("{}.json", order.envelope.id())), order)
    }

    /// A submitted order, if this machine submitted it.
    pub fn order(&self, op: &Sha256) -> Result<Option<SubmittedOrder>, StateError> {
        match read_json(&self.path("orders").join(format!("{op}.json"))) {
            Err(StateError::File(error)) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Keeps the private key to the result of a script. An OpenSSH key file, so that `age -d -i` can open
    /// the result too.
    pub fn save_result_key(&self, op: &Sha256, key: &SecretKey) -> Result<(), StateError> {
        let path = self.result_key_path(op);
        let text = key
            .to_openssh(&format!("result of order {op}"))
            .map_err(|why| StateError::Key { path: path.clone(), why })?;
        Ok(files::write_atomic(&path, text.as_bytes())?)
    }

    /// That key; none when another machine sent the order, or its result was read.
    pub fn result_key(&self, op: &Sha256) -> Result<Option<SecretKey>, StateError> {
        let path = self.result_key_path(op);
        let bytes = match files::read_secret(&path) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let fail = |why| StateError::Key { path: path.clone(), why };
        let text = std::str::from_utf8(&bytes).map_err(|_| fail(KeyError::NotAPrivateKey))?;
        SecretKey::from_openssh(text, None).map(Some).map_err(fail)
    }

    /// Forgets that key.
    pub fn forget_result_key(&self, op: &Sha256) -> Result<bool, StateError> {
        remove(&self.result_key_path(op))
    }

    /// Where that key is.
    pub fn result_key_path(&self, op: &Sha256) -> PathBuf {
        self.path("results").join(op.to_string())
    }

    /// Where the session of a host has its files when nobody says where.
    pub fn session_dir(&self, host: &HostName) -> PathBuf {
        self.path("sessions").join(host.as_str())
    }

    fn list(&self, part: &str) -> Result<Vec<PathBuf>, StateError> {
        let directory = self.path(part);
        let fail = |source| FileError::io("list", &directory, source);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            // Temporary files of an interrupted write begin with a dot.
            let hidden = path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
            if !hidden && path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// Reads a policy file and its bytes.
pub fn read_policy(path: &Path) -> Result<(Policy, Vec<u8>), StateError> {
    let bytes = files::read_limited(path, MAX_FILE)?;
    match Policy::decode(&bytes) {
        Ok(policy) => Ok((policy, bytes)),
        Err(source) => Err(StateError::Policy { path: path.to_owned(), why: source.to_string(), source }),
    }
}

/// Reads the operator's private key; asks for a passphrase on the terminal where one is needed.
pub fn read_key(path: &Path) -> Result<SecretKey, StateError> {
    let bytes = files::read_secret(path)?;
    let fail = |why| StateError::Key { path: path.to_owned(), why };
    let text = std::str::from_utf8(&bytes).map_err(|_| fail(KeyError::NotAPrivateKey))?;
    match SecretKey::from_openssh(text, None) {
        Err(KeyError::NeedsPassphrase) => {
            let passphrase = rpassword::prompt_password(format!("Passphrase for {}: ", path.display()))
                .map_err(|source| StateError::NoTerminal { path: path.to_owned(), source })?;
            let passphrase = zeroize::Zeroizing::new(passphrase);
            SecretKey::from_openssh(text, Some(&passphrase)).map_err(fail)
        }
        other => other.map_err(fail),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, StateError> {
    let bytes = zeroize::Zeroizing::new(files::read_limited(path, MAX_FILE)?);
    serde_json::from_slice(&bytes).map_err(|source| StateError::Damaged { path: path.to_owned(), source })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(value).expect("our own state holds only strings, numbers and structs");
    let bytes = zeroize::Zeroizing::new(bytes);
    Ok(files::write_atomic(path, &bytes)?)
}

fn remove(path: &Path) -> Result<bool, StateError> {
    match std::fs::remove_file(path) {
        Ok(()) => {
            files::sync_directory(path.parent().unwrap_or(Path::new(".")))?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FileError::io("remove", path, source).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{alice, believed, name, policy, statement};

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().join("writ"))).unwrap();
        home.save_policy(&policy().document().encode()).unwrap();
        (dir, home)
    }

    #[test]
    fn configuration_round_trips_and_its_absence_says_what_to_do() {
        let (_dir, home) = home();
        assert!(home.config().unwrap_err().to_string().contains("writ login --hub"));
        assert!(home.token().unwrap_err().to_string().contains("writ login"));
        let config = Config {
            hub: "https://hub.example:8440".parse().unwrap(),
            pin: Sha256::of(b"pin"),
            key: Some("/home/a \"b\"\\/id".into()),
        };
        home.save_config(&config).unwrap();
        let again = home.config().unwrap();
        assert_eq!((again.hub, again.pin, again.key), (config.hub, config.pin, config.key));
        let evil = Config { key: Some("/x\n[evil]".into()), ..home.config().unwrap() };
        assert!(matches!(home.save_config(&evil), Err(StateError::Path(_))));
        home.save_config(&Config { key: None, ..home.config().unwrap() }).unwrap();
        assert_eq!(home.config().unwrap().key, None);
        home.save_token("secret").unwrap();
        assert_eq!(home.token().unwrap(), "secret");
    }

    #[test]
    fn the_key_to_a_result_is_private_and_kept_until_it_is_forgotten() {
        use std::os::unix::fs::MetadataExt as _;
        let (_dir, home) = home();
        let op = Sha256::of(b"op");
        assert!(home.result_key(&op).unwrap().is_none());
        home.save_result_key(&op, &alice()).unwrap();
        let path = home.path("results").join(op.to_string());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(*home.result_key(&op).unwrap().unwrap().seed(), *alice().seed());
        assert!(home.forget_result_key(&op).unwrap() && !home.forget_result_key(&op).unwrap());
        files::write_atomic(&path, b"garbage").unwrap();
        assert!(home.result_key(&op).unwrap_err().to_string().contains("not an OpenSSH private key"));
    }

    #[test]
    fn a_host_is_remembered_until_it_is_forgotten() {
        let (_dir, home) = home();
        home.remember(&believed(1, "web1")).unwrap();
        home.remember(&believed(1, "web1")).unwrap();
        assert_eq!(home.memory().unwrap()[&name("web1")], statement(1, "web1"));
        assert!(matches!(home.remember(&believed(2, "web1")), Err(StateError::Distrust(_))));
        assert!(matches!(home.remember(&believed(1, "db1")), Err(StateError::Distrust(_))));
        assert!(home.forget(&name("web1")).unwrap());
        assert!(!home.forget(&name("web1")).unwrap());
        home.remember(&believed(2, "web1")).unwrap();
    }

    #[test]
    fn a_damaged_memory_is_an_error_and_not_an_empty_one() {
        let (_dir, home) = home();
        std::fs::write(home.path("hosts").join("web1.json"), b"{}").unwrap();
        assert!(matches!(home.memory(), Err(StateError::Damaged { .. })));
        std::fs::write(home.path("hosts").join("web1.json"), br#"{"payload":"AAAA","sig":""}"#).unwrap();
        assert!(matches!(home.memory(), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn keys_that_others_can_read_are_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        files::write_atomic(&path, alice().to_openssh("alice").unwrap().as_bytes()).unwrap();
        assert_eq!(read_key(&path).unwrap().public(), alice().public());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_key(&path).unwrap_err().to_string().contains("chmod 600"));
        files::write_atomic(&path, b"garbage").unwrap();
        assert!(read_key(&path).unwrap_err().to_string().contains("not an OpenSSH private key"));
    }
}
