//! What signs for the operator: a private key file, or a key in ssh-agent.

use std::path::{Path, PathBuf};

use authz::canonical;
use authz::files::{self, FileError};
use authz::{Namespace, PublicKey, SecretKey, sshsig};
use protocol::api::LoginStatement;
use protocol::enroll::HostStatement;
use protocol::{Bytes, Fingerprint, Sha256, Signed};
use zeroize::Zeroizing;

use crate::agent::{self, Agent, AgentError, Identity};
use crate::state::{StateError, read_key};

/// Largest key file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Why nothing can be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key file.
    #[error(transparent)]
    State(#[from] StateError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// No key file, and no agent that could take its place.
    #[error(
        "your login's key file {path} does not exist: put it back, name another with --key, or hold the key in ssh-agent", path = .0.display()
    )]
    NoKeyFile(PathBuf),
    /// Nothing to sign with.
    #[error("ssh-agent holds no Ed25519 key: add one with `ssh-add`, or name a key file with --key")]
    NoKey,
    /// Which of them?
    #[error(
        "ssh-agent holds several Ed25519 keys ({list}): name one by its public key file, --key FILE.pub, or a private key file"
    )]
    Several {
        /// Fingerprints and comments.
        list: String,
    },
    /// Another key than the one that is meant.
    #[error(
        "{path} is a public key ({key}) and ssh-agent does not hold its private half: `ssh-add` it, or name the private key file", path = .path.display()
    )]
    NotHeld {
        /// The file.
        path: PathBuf,
        /// The key.
        key: Fingerprint,
    },
    /// A signature that is none.
    #[error("ssh-agent gave a signature by another key than {0}, or over other bytes: do not use that agent")]
    Wrong(Fingerprint),
}

/// A key that signs.
#[derive(Debug)]
pub enum Signer {
    /// Read from a file.
    File(SecretKey),
    /// Held by ssh-agent.
    Agent {
        /// Whom to ask.
        agent: Agent,
        /// Which one.
        key: PublicKey,
    },
}

impl Signer {
    /// The key that the operator means: `named` on the command line, else the `stored` one of the login,
    /// else the only one in the agent.
    pub async fn choose(
        named: Option<&Path>,
        stored: Option<&Path>,
        agent: &Agent,
    ) -> Result<Self, SignerError> {
        if let Some(path) = named {
            return Self::from_file(path, agent).await;
        }
        match stored {
            None => Self::only_one(agent).await,
            Some(path) => match Self::from_file(path, agent).await {
                Err(SignerError::State(StateError::File(error))) if error.is_not_found() => {
                    if agent.is_known() {
                        Self::only_one(agent).await
                    } else {
                        Err(SignerError::NoKeyFile(path.to_owned()))
                    }
                }
                other => other,
            },
        }
    }

    async fn from_file(path: &Path, agent: &Agent) -> Result<Self, SignerError> {
        let bytes = Zeroizing::new(read(path)?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        if let Some(line) = public_line(text) {
            let why = |why| StateError::Key { path: path.to_owned(), why };
            let key = PublicKey::from_line(line).map_err(why)?;
            return if held(agent, &key).await? {
                Ok(Self::Agent { agent: agent.clone(), key })
            } else {
                Err(SignerError::NotHeld { path: path.to_owned(), key: key.fingerprint() })
            };
        }
        // Only a file with a passphrase is worth asking an agent, which may be hung or hostile.
        if agent.is_known()
            && let Some(key) = public_half_of_encrypted(text)
            && held(agent, &key).await.unwrap_or(false)
        {
            files::read_secret(path).map_err(StateError::File)?;
            return Ok(Self::Agent { agent: agent.clone(), key });
        }
        Ok(Self::File(read_key(path)?))
    }

    async fn only_one(agent: &Agent) -> Result<Self, SignerError> {
        match agent.identities().await?.as_slice() {
            [] => Err(SignerError::NoKey),
            [one] => Ok(Self::Agent { agent: agent.clone(), key: one.key }),
            several => Err(SignerError::Several { list: list(several) }),
        }
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::File(key) => key.public(),
            Self::Agent { key, .. } => *key,
        }
    }

    /// Where it is, for `--verbose`.
    pub fn place(&self) -> String {
        let key = self.public().fingerprint();
        match self {
            Self::File(_) => format!("signing with key {key} from its file"),
            Self::Agent { .. } => format!("signing with key {key} in ssh-agent"),
        }
    }

    /// Armored SSHSIG over `message`.
    pub async fn sign(&self, namespace: Namespace, message: &[u8]) -> Result<String, SignerError> {
        match self {
            Self::File(key) => Ok(key.sign(namespace, message)),
            Self::Agent { agent, key } => {
                let raw = agent.sign(key, &sshsig::to_sign(namespace, message)).await?;
                let armored = sshsig::from_raw(key, namespace, &raw);
                sshsig::verify(&armored, namespace, message, key)
                    .map_err(|_| SignerError::Wrong(key.fingerprint()))?;
                Ok(armored)
            }
        }
    }

    /// Answers a hub's challenge.
    pub async fn login(&self, hub_spki: Sha256, challenge: Sha256) -> Result<Signed, SignerError> {
        self.signed(Namespace::Login, canonical::encode(&LoginStatement { v: 1, hub_spki, challenge })).await
    }

    /// Vouches for a host.
    pub async fn vouch(&self, statement: &HostStatement) -> Result<Signed, SignerError> {
        self.signed(Namespace::Enroll, canonical::encode(statement)).await
    }

    async fn signed(&self, namespace: Namespace, payload: Vec<u8>) -> Result<Signed, SignerError> {
        let sig = self.sign(namespace, &payload).await?;
        Ok(Signed { payload: payload.into(), sig })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    // A directory opens and does not read; say what it is.
    if path.is_dir() {
        return Err(FileError::NotAFile { path: path.to_owned() }.into());
    }
    Ok(files::read_limited(path, MAX_FILE)?)
}

async fn held(agent: &Agent, key: &PublicKey) -> Result<bool, AgentError> {
    Ok(agent.identities().await?.iter().any(|identity| identity.key == *key))
}

fn list(identities: &[Identity]) -> String {
    let shown = identities.iter().map(|id| format!("{} {}", id.key.fingerprint(), id.comment));
    shown.collect::<Vec<_>>().join(", ")
}

/// The line of a public key file; none for anything else.
fn public_line(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let kind = line.split_ascii_whitespace().next()?;
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix)).then_some(line)
}

/// The public key stands in front of the encrypted part (OpenSSH PROTOCOL.key), so that nobody needs to be
/// asked for a passphrase to know which key a file holds. None for files without a passphrase.
fn public_half_of_encrypted(text: &str) -> Option<PublicKey> {
    let body = text.trim().strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let body = body.strip_suffix("-----END OPENSSH PRIVATE KEY-----")?;
    let body: String = body.split_ascii_whitespace().collect();
    let Bytes(bytes) = Bytes::try_from(body).ok()?;
    let bytes = Zeroizing::new(bytes);
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let rest = &mut rest;
    let cipher = agent::take_string(rest).ok()?;
    let (_kdf, _options) = (agent::take_string(rest).ok()?, agent::take_string(rest).ok()?);
    if cipher == b"none" || agent::take_u32(rest).ok()? != 1 {
        return None;
    }
    agent::ed25519(agent::take_string(rest).ok()?)
}

#[cfg(test)]
mod tests;
