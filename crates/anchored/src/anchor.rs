//! What a service of root's lives by: a policy chain, and the host that orders must name. The warden brings
//! both; root says beforehand, in the service's own configuration, which policy must be of the chain, and what follows it is signed. Each
//! policy names the hash of the one before, so the one that root named vouches for all of them.
//!
//! `host.json` is written last, so a crash before it leaves a service that is not anchored and takes the
//! same anchor again. Once it is there, a missing policy or journal is damage, never a fresh start.

use std::path::{Path, PathBuf};

use authz::clock::Floor;
use authz::files::{self, FileError};
use authz::policy::PolicyError;
use authz::policy::chain::Chain;
use authz::policy::store::{ChainStore, ChainStoreError};
use authz::verify::HostFacts;
use authz::{Authorized, KeyError, Order, Policy, PublicKey};
use protocol::runner::AnchorStatus;
use protocol::{Ed25519Key, HostId, Sha256};
use serde::{Deserialize, Serialize};

use crate::{Denied, Who};

const HOST: &str = "host.json";
const POLICY: &str = "policy.json";

/// Why there is no usable anchor.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what we wrote.
    #[error("{path} is damaged: restore it from a backup, or {start_over}", path = .path.display(), start_over = .who.start_over(directory(.path)))]
    Damaged {
        /// Whose.
        who: Who,
        /// Which file.
        path: PathBuf,
    },
    /// There is a history without the anchor that it belongs to.
    #[error("{path} is missing, although this {name} has a history in the same directory: restore it, or {start_over}", name = .who.name, path = .path.display(), start_over = .who.start_over(directory(.path)))]
    Lost {
        /// Whose.
        who: Who,
        /// Which file.
        path: PathBuf,
    },
    /// The policy on disk is not the one that was accepted.
    #[error("{path} is not the policy that this {name} accepted ({expected}): restore it, or {start_over}", name = .who.name, path = .path.display(), start_over = .who.start_over(directory(.path)))]
    OtherPolicy {
        /// Whose.
        who: Who,
        /// Which file.
        path: PathBuf,
        /// The accepted one.
        expected: Sha256,
    },
    /// The policy chain.
    #[error(transparent)]
    Chain(#[from] ChainStoreError),
    /// The policy cannot be lived by.
    #[error("the policy cannot be used: {0}")]
    Policy(#[from] PolicyError),
    /// The host key.
    #[error("the host's key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// Root took its word back.
    #[error(
        "{config} has no policy_sha256 any more, and this {name} lives by policy {anchored}: put the line policy_sha256 = \"{anchored}\" back to let it work on", config = .who.config, name = .who.name
    )]
    NotConfigured {
        /// Whose.
        who: Who,
        /// What it lives by.
        anchored: Sha256,
    },
    /// Root names another one.
    #[error("{config} has policy_sha256 {configured}, and this {name} lives by policy {anchored}: correct the line, or {start_over}", config = .who.config, name = .who.name, start_over = .who.start_over(directory(.path)))]
    OtherConfigured {
        /// Whose.
        who: Who,
        /// Root's word.
        configured: Sha256,
        /// What it lives by.
        anchored: Sha256,
        /// A file of the state directory.
        path: PathBuf,
    },
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
    who: Who,
    first: Policy,
    chain: Chain,
    documents: u64,
    host_id: HostId,
    host_key: PublicKey,
    host_key_gen: u32,
}

impl Anchor {
    /// From what the warden says. Whether root agrees is for [`Self::check_configured`] to say.
    pub fn parse(
        who: Who,
        policy: &[u8],
        host_id: HostId,
        host_key: Ed25519Key,
        host_key_gen: u32,
    ) -> Result<Self, AnchorError> {
        let first = Policy::decode(policy)?;
        let chain = Chain::new(first.clone());
        Ok(Self {
            who,
            first,
            chain,
            documents: 0,
            host_id,
            host_key: PublicKey::try_from(host_key)?,
            host_key_gen,
        })
    }

    /// The anchor on disk; none before anchoring.
    pub fn load(who: Who, directory: &Path) -> Result<Option<Self>, AnchorError> {
        let path = directory.join(HOST);
        let bytes = match files::read_secret(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: HostFile = serde_json::from_slice(&bytes)
            .ok()
            .filter(|file: &HostFile| file.v == 1)
            .ok_or(AnchorError::Damaged { who, path })?;
        let path = directory.join(POLICY);
        let policy = match files::read_secret(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Err(AnchorError::Lost { who, path }),
            Err(error) => return Err(error.into()),
        };
        if Sha256::of(&policy) != file.policy {
            return Err(AnchorError::OtherPolicy { who, path, expected: file.policy });
        }
        let anchor = Self::parse(who, &policy, file.host_id, file.host_key, file.host_key_gen)?;
        let store = ChainStore::inspect(directory, anchor.first.clone())?;
        Ok(Some(anchor.at(&store)))
    }

    /// The chain on disk, with a crash's leftovers completed.
    pub(crate) fn open_chain(&self, directory: &Path) -> Result<ChainStore, AnchorError> {
        Ok(ChainStore::open(directory, self.first.clone())?)
    }

    /// The same host, as far along as the chain is.
    #[must_use]
    pub(crate) fn at(&self, store: &ChainStore) -> Self {
        let (chain, documents) = (store.chain().clone(), store.documents().len() as u64);
        Self { chain, documents, ..self.clone() }
    }

    /// The same host after these documents; nothing is written. `now` is the clock, unix seconds.
    pub(crate) fn follow(&self, documents: &[protocol::Envelope], now: u64) -> Result<Self, authz::Refusal> {
        let mut followed = self.clone();
        for document in documents {
            followed.chain.accept(document, now)?;
        }
        Ok(followed)
    }

    /// Whether the policy with this hash is of the chain.
    pub(crate) fn has(&self, sha256: &Sha256) -> bool {
        self.chain.has(sha256)
    }

    /// Whether this is the same host with the same first policy.
    pub(crate) fn begins_like(&self, other: &Self) -> bool {
        (&self.first, self.host_id, self.host_key, self.host_key_gen)
            == (&other.first, other.host_id, other.host_key, other.host_key_gen)
    }

    /// The error of a history that has lost its anchor.
    pub fn lost(who: Who, directory: &Path) -> AnchorError {
        AnchorError::Lost { who, path: directory.join(HOST) }
    }

    /// Whether root's word and this anchor agree.
    pub fn check_configured(&self, configured: Option<&Sha256>, directory: &Path) -> Result<(), AnchorError> {
        let anchored = *self.policy().hash();
        match configured {
            Some(configured) if self.chain.has(configured) => Ok(()),
            Some(configured) => Err(AnchorError::OtherConfigured {
                who: self.who,
                configured: *configured,
                anchored,
                path: directory.join(HOST),
            }),
            None => Err(AnchorError::NotConfigured { who: self.who, anchored }),
        }
    }

    /// Writes the first policy and an empty chain; the first step of anchoring.
    pub fn prepare(&self, directory: &Path) -> Result<ChainStore, AnchorError> {
        files::write_atomic(&directory.join(POLICY), &self.first.document().encode())?;
        Ok(ChainStore::create(directory, self.first.clone())?)
    }

    /// The last step: from here on the service is anchored.
    pub fn finish(&self, directory: &Path) -> Result<(), AnchorError> {
        let path = directory.join(HOST);
        let file = HostFile {
            v: 1,
            host_id: self.host_id,
            host_key: self.host_key.to_wire(),
            host_key_gen: self.host_key_gen,
            policy: *self.first.hash(),
        };
        let bytes = serde_json::to_vec(&file)
            .map_err(|_| AnchorError::Damaged { who: self.who, path: path.clone() })?;
        Ok(files::write_atomic(&path, &bytes)?)
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        self.chain.current()
    }

    /// When the policy was last signed for, unix seconds: a time below which the clock's floor never is.
    pub(crate) fn fresh_at(&self) -> u64 {
        self.chain.fresh_at()
    }

    /// What [`authz::verify::verify`] has to know. There is no log here: the warden has compared it.
    /// `now` is the host's clock, unix seconds, which is held against the signed floor.
    pub fn facts(&self, floor: &Floor, now: u64) -> HostFacts<'static> {
        HostFacts {
            clock: floor.judge(now, None),
            floor: floor.at(),
            stale: self.chain.is_stale(floor.not_before(now)),
            plans: None,
            id: self.host_id,
            key: self.host_key.fingerprint(),
            generation: self.host_key_gen,
            log: None,
        }
    }

    /// The order's signatures, host, policy and times, judged by this anchor. `now` is the host's clock,
    /// unix seconds.
    pub fn verify(
        &self,
        envelope: &protocol::Envelope,
        floor: &Floor,
        now: u64,
    ) -> Result<Authorized<Order>, Denied> {
        authz::verify::verify(envelope, self.policy(), &self.facts(floor, now), now)
            .map_err(|refusal| Denied::new(refusal.code, refusal.why))
    }

    /// As the status says it.
    pub fn status(&self) -> AnchorStatus {
        AnchorStatus {
            host_id: self.host_id,
            host_key: self.host_key.to_wire(),
            host_key_gen: self.host_key_gen,
            policy: *self.policy().hash(),
            documents: self.documents,
            fresh_at: self.chain.fresh_at(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, WHO};

    #[test]
    fn it_is_there_after_the_last_step_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let anchor = testing::anchor();
        assert_eq!(Anchor::load(WHO, dir.path()).unwrap(), None);
        anchor.prepare(dir.path()).unwrap();
        assert_eq!(Anchor::load(WHO, dir.path()).unwrap(), None);
        anchor.finish(dir.path()).unwrap();
        assert_eq!(Anchor::load(WHO, dir.path()).unwrap(), Some(anchor));
    }

    #[test]
    fn damage_is_no_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        let anchor = testing::anchor();
        anchor.prepare(dir.path()).unwrap();
        anchor.finish(dir.path()).unwrap();
        let (host, policy) = (dir.path().join(HOST), dir.path().join(POLICY));
        let good = (std::fs::read(&host).unwrap(), std::fs::read(&policy).unwrap());
        let said = || Anchor::load(WHO, dir.path()).unwrap_err().to_string();

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
        Anchor::parse(WHO, &good, id, key, 1).unwrap();
        assert!(matches!(Anchor::parse(WHO, b"{}", id, key, 1), Err(AnchorError::Policy(_))));
        assert!(matches!(
            Anchor::parse(WHO, &[good.clone(), vec![b' ']].concat(), id, key, 1),
            Err(AnchorError::Policy(_))
        ));
        let weak = Ed25519Key::from_bytes([0; 32]);
        assert!(matches!(Anchor::parse(WHO, &good, id, weak, 1), Err(AnchorError::Key(_))));
    }
}
