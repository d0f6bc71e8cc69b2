//! What the runner lives by: one policy, and the host that orders must name. The warden brings it once;
//! root says beforehand, in `runner.toml`, which policy it may be.
//!
//! `host.json` is written last, so a crash before it leaves a runner that is not anchored and takes the
//! same anchor again. Once it is there, a missing policy or journal is damage, never a fresh start.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use authz::policy::PolicyError;
use authz::verify::HostFacts;
use authz::{KeyError, Policy, PublicKey};
use protocol::runner::AnchorStatus;
use protocol::{Ed25519Key, HostId, Sha256};
use serde::{Deserialize, Serialize};

const HOST: &str = "host.json";
const POLICY: &str = "policy.json";

/// Why there is no usable anchor.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what we wrote.
    #[error("{path} is damaged: restore it from a backup, or {start_over}", path = .path.display(), start_over = start_over(directory(.path)))]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// There is a history without the anchor that it belongs to.
    #[error("{path} is missing, although this runner has a history in the same directory: restore it, or {start_over}", path = .path.display(), start_over = start_over(directory(.path)))]
    Lost {
        /// Which file.
        path: PathBuf,
    },
    /// The policy on disk is not the one that was accepted.
    #[error("{path} is not the policy that this runner accepted ({expected}): restore it, or {start_over}", path = .path.display(), start_over = start_over(directory(.path)))]
    OtherPolicy {
        /// Which file.
        path: PathBuf,
        /// The accepted one.
        expected: Sha256,
    },
    /// The policy cannot be lived by.
    #[error("the policy cannot be used: {0}")]
    Policy(#[from] PolicyError),
    /// The host key.
    #[error("the host's key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// Root took its word back.
    #[error(
        "runner.toml has no policy_sha256 any more, and this runner lives by policy {anchored}: put the line policy_sha256 = \"{anchored}\" back to let it work on"
    )]
    NotConfigured {
        /// What it lives by.
        anchored: Sha256,
    },
    /// Root names another one.
    #[error("runner.toml has policy_sha256 {configured}, and this runner lives by policy {anchored}: correct the line, or {start_over}", start_over = start_over(directory(.path)))]
    OtherConfigured {
        /// Root's word.
        configured: Sha256,
        /// What it lives by.
        anchored: Sha256,
        /// A file of the state directory.
        path: PathBuf,
    },
}

/// How a new beginning goes. Orders that are still valid would count once more with an empty journal;
/// none is valid for more than a day.
pub(crate) fn start_over(state_dir: &Path) -> String {
    format!(
        "start over: root stops the runner, waits until no signed order is valid any more (a day), empties {} and starts it again",
        state_dir.display()
    )
}

/// Of a file in the state directory.
pub(crate) fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostFile {
    v: u32,
    host_id: HostId,
    host_key: Ed25519Key,
    host_key_gen: u32,
    policy: Sha256,
}

/// Policy and host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    policy: Policy,
    host_id: HostId,
    host_key: PublicKey,
    host_key_gen: u32,
}

impl Anchor {
    /// From what the warden says. Whether root agrees is for [`Self::check_configured`] to say.
    pub fn parse(
        policy: &[u8],
        host_id: HostId,
        host_key: Ed25519Key,
        host_key_gen: u32,
    ) -> Result<Self, AnchorError> {
        let policy = Policy::decode(policy)?;
        Ok(Self { policy, host_id, host_key: PublicKey::try_from(host_key)?, host_key_gen })
    }

    /// The anchor on disk; none before anchoring.
    pub fn load(directory: &Path) -> Result<Option<Self>, AnchorError> {
        let path = directory.join(HOST);
        let bytes = match files::read_secret(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: HostFile = serde_json::from_slice(&bytes)
            .ok()
            .filter(|file: &HostFile| file.v == 1)
            .ok_or(AnchorError::Damaged { path })?;
        let path = directory.join(POLICY);
        let policy = match files::read_secret(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Err(AnchorError::Lost { path }),
            Err(error) => return Err(error.into()),
        };
        if Sha256::of(&policy) != file.policy {
            return Err(AnchorError::OtherPolicy { path, expected: file.policy });
        }
        Ok(Some(Self::parse(&policy, file.host_id, file.host_key, file.host_key_gen)?))
    }

    /// The error of a history that has lost its anchor.
    pub(crate) fn lost(directory: &Path) -> AnchorError {
        AnchorError::Lost { path: directory.join(HOST) }
    }

    /// Whether root's word and this anchor agree.
    pub fn check_configured(&self, configured: Option<&Sha256>, directory: &Path) -> Result<(), AnchorError> {
        let anchored = *self.policy.hash();
        match configured {
            Some(configured) if *configured == anchored => Ok(()),
            Some(configured) => Err(AnchorError::OtherConfigured {
                configured: *configured,
                anchored,
                path: directory.join(HOST),
            }),
            None => Err(AnchorError::NotConfigured { anchored }),
        }
    }

    /// Writes the policy; the first step of anchoring.
    pub fn prepare(&self, directory: &Path) -> Result<(), AnchorError> {
        Ok(files::write_atomic(&directory.join(POLICY), &self.policy.document().encode())?)
    }

    /// The last step: from here on the runner is anchored.
    pub fn finish(&self, directory: &Path) -> Result<(), AnchorError> {
        let path = directory.join(HOST);
        let file = HostFile {
            v: 1,
            host_id: self.host_id,
            host_key: self.host_key.to_wire(),
            host_key_gen: self.host_key_gen,
            policy: *self.policy.hash(),
        };
        let bytes = serde_json::to_vec(&file).map_err(|_| AnchorError::Damaged { path: path.clone() })?;
        Ok(files::write_atomic(&path, &bytes)?)
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What [`authz::verify::verify`] has to know. There is no log here: the warden has compared it.
    pub fn facts(&self) -> HostFacts<'static> {
        HostFacts {
            clock: authz::clock::State::Trusted,
            stale: false,
            plans: None,
            id: self.host_id,
            key: self.host_key.fingerprint(),
            generation: self.host_key_gen,
            log: None,
        }
    }

    /// As the status says it.
    pub fn status(&self) -> AnchorStatus {
        AnchorStatus {
            host_id: self.host_id,
            host_key: self.host_key.to_wire(),
            host_key_gen: self.host_key_gen,
            policy: *self.policy.hash(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn it_is_there_after_the_last_step_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let anchor = testing::anchor();
        assert_eq!(Anchor::load(dir.path()).unwrap(), None);
        anchor.prepare(dir.path()).unwrap();
        assert_eq!(Anchor::load(dir.path()).unwrap(), None);
        anchor.finish(dir.path()).unwrap();
        assert_eq!(Anchor::load(dir.path()).unwrap(), Some(anchor));
    }

    #[test]
    fn damage_is_no_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        let anchor = testing::anchor();
        anchor.prepare(dir.path()).unwrap();
        anchor.finish(dir.path()).unwrap();
        let (host, policy) = (dir.path().join(HOST), dir.path().join(POLICY));
        let good = (std::fs::read(&host).unwrap(), std::fs::read(&policy).unwrap());
        let said = || Anchor::load(dir.path()).unwrap_err().to_string();

        for bad in ["", "{}", "null", &String::from_utf8_lossy(&good.0).replace("\"v\":1", "\"v\":2")] {
            files::write_atomic(&host, bad.as_bytes()).unwrap();
            assert!(said().contains("host.json is damaged"), "{bad}: {}", said());
        }
        files::write_atomic(&host, &good.0).unwrap();
        let other = String::from_utf8_lossy(&good.1).replace("alice", "malory");
        files::write_atomic(&policy, other.as_bytes()).unwrap();
        assert!(said().contains("is not the policy that this runner accepted"), "{}", said());
        std::fs::remove_file(&policy).unwrap();
        assert!(said().contains("policy.json is missing"), "{}", said());
        assert!(said().contains("a day"), "it says how to start over: {}", said());
    }

    #[test]
    fn root_has_to_agree() {
        let anchor = testing::anchor();
        let ours = *anchor.policy().hash();
        let here = Path::new("/state");
        anchor.check_configured(Some(&ours), here).unwrap();
        let other = anchor.check_configured(Some(&Sha256::of(b"x")), here).unwrap_err().to_string();
        assert!(other.contains(&ours.to_string()) && other.contains("empties /state"), "{other}");
        let none = anchor.check_configured(None, here).unwrap_err().to_string();
        assert!(none.contains(&format!("policy_sha256 = \"{ours}\"")), "{none}");
    }

    #[test]
    fn weak_keys_and_bad_policies_are_no_anchor() {
        let good = testing::policy().encode();
        let (id, key) = (testing::HOST_ID, testing::host().public().to_wire());
        Anchor::parse(&good, id, key, 1).unwrap();
        assert!(matches!(Anchor::parse(b"{}", id, key, 1), Err(AnchorError::Policy(_))));
        assert!(matches!(
            Anchor::parse(&[good.clone(), vec![b' ']].concat(), id, key, 1),
            Err(AnchorError::Policy(_))
        ));
        let weak = Ed25519Key::from_bytes([0; 32]);
        assert!(matches!(Anchor::parse(&good, id, weak, 1), Err(AnchorError::Key(_))));
    }
}
