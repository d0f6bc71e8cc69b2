//! What the agent must not forget: which hub it enrolled with, and which desired state is in force.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use protocol::desired::{DesiredError, DesiredState};
use protocol::{HostId, Sha256};
use reconcile::{Accept, GenerationRefused, accept_generation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Name of the hub record.
pub const HUB_FILE: &str = "hub.json";
/// Name of the desired state's file.
pub const DESIRED_FILE: &str = "desired.json";
/// Largest state file; a desired state comes in one frame.
const MAX_FILE: u64 = protocol::frame::MAX_FRAME as u64 + 4096;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content.
    #[error("{path} is damaged: {remedy}", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
}

/// The hub that this host enrolled with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubRecord {
    /// `https://host:port`.
    pub url: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub pin: Sha256,
    /// The key it will change to, if that is known.
    pub next: Option<Sha256>,
    /// Who this host is there.
    pub host_id: HostId,
}

impl HubRecord {
    /// The record, if the host was enrolled.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, StateError> {
        load(&state_dir.join(HUB_FILE), "delete it and run `writ-agent enroll` with a new code")
    }

    /// Writes it durably.
    pub fn save(&self, state_dir: &Path) -> Result<(), StateError> {
        save(&state_dir.join(HUB_FILE), self)
    }
}

fn load<T: DeserializeOwned>(path: &Path, remedy: &'static str) -> Result<Option<T>, StateError> {
    match files::read_limited(path, MAX_FILE) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|_| StateError::Damaged { path: path.to_owned(), remedy }),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let json = serde_json::to_vec(value).expect("state is made of strings, numbers and lists");
    Ok(files::write_atomic(path, &json)?)
}

/// A desired state that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// Only ever grows.
    pub generation: u64,
    /// Of the content, as it was delivered.
    pub hash: Sha256,
    /// The content.
    pub state: DesiredState,
}

/// Why a delivered desired state is not used.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    /// Its generation.
    #[error(transparent)]
    Generation(#[from] GenerationRefused),
    /// Its content.
    #[error(transparent)]
    Content(#[from] DesiredError),
    /// It could not be made durable, so it is not used either.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The desired state in force, on disk and in memory.
#[derive(Debug)]
pub struct DesiredStore {
    path: PathBuf,
    current: Option<Desired>,
}

impl DesiredStore {
    /// Reads what is in force.
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let path = state_dir.join(DESIRED_FILE);
        const REMEDY: &str = "delete it; the hub delivers the desired state again";
        let current: Option<Desired> = load(&path, REMEDY)?;
        if current.as_ref().is_some_and(|desired| desired.state.hash() != desired.hash) {
            return Err(StateError::Damaged { path, remedy: REMEDY });
        }
        Ok(Self { path, current })
    }

    /// What is in force.
    pub fn current(&self) -> Option<&Desired> {
        self.current.as_ref()
    }

    /// Decides about a delivered state; a new one is durable before it is used, so that a restart
    /// cannot go back to an older one.
    pub fn adopt(&mut self, generation: u64, state: DesiredState) -> Result<Accept, NotAdopted> {
        let state = state.check()?;
        let hash = state.hash();
        let current = self.current.as_ref().map(|desired| (desired.generation, desired.hash));
        let accept = accept_generation(current, (generation, hash))?;
        if accept == Accept::New {
            let desired = Desired { generation, hash, state };
            save(&self.path, &desired)?;
            self.current = Some(desired);
        }
        Ok(accept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str) -> DesiredState {
        protocol::config::parse_toml("t", &format!("[[guest]]\nvmid = 100\nname = \"{name}\"")).unwrap()
    }

    #[test]
    fn a_generation_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DesiredStore::open(dir.path()).unwrap();
        assert_eq!(store.adopt(4, state("web")).unwrap(), Accept::New);
        let mut store = DesiredStore::open(dir.path()).unwrap();
        assert_eq!(store.current().unwrap().generation, 4);
        assert_eq!(store.adopt(4, state("web")).unwrap(), Accept::Same);
        assert!(store.adopt(4, state("db")).unwrap_err().to_string().contains("other content"));
        assert!(store.adopt(3, state("db")).unwrap_err().to_string().contains("older"));
        let twice = DesiredState { guests: [state("a").guests, state("b").guests].concat() };
        assert!(matches!(store.adopt(9, twice), Err(NotAdopted::Content(_))));
        assert_eq!(store.current().unwrap().state, state("web"));
    }

    #[test]
    fn damaged_files_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "{", "[]", r#"{"generation":1}"#] {
            files::write_atomic(&dir.path().join(DESIRED_FILE), bad.as_bytes()).unwrap();
            files::write_atomic(&dir.path().join(HUB_FILE), bad.as_bytes()).unwrap();
            assert!(DesiredStore::open(dir.path()).unwrap_err().to_string().contains("delete it"), "{bad}");
            assert!(
                HubRecord::load(dir.path()).unwrap_err().to_string().contains("writ-agent enroll"),
                "{bad}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        DesiredStore::open(dir.path()).unwrap().adopt(1, state("web")).unwrap();
        let path = dir.path().join(DESIRED_FILE);
        let edited = std::fs::read_to_string(&path).unwrap().replace("web", "wob");
        std::fs::write(&path, edited).unwrap();
        assert!(DesiredStore::open(dir.path()).is_err(), "edited by hand");
    }

    #[test]
    fn a_state_that_cannot_be_written_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DesiredStore::open(&dir.path().join("gone")).unwrap();
        assert!(matches!(store.adopt(1, state("web")), Err(NotAdopted::State(_))));
        assert!(store.current().is_none());
    }
}
