//! What signs for the operator: a private key file, a key in ssh-agent, or ssh-keygen with a key of any type.
//! Whatever was signed elsewhere is verified here, by our own verifier, before it is used.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use authz::sshsig::SigError;
use authz::{KeyError, Namespace, OperatorIdentity, Policy, SecretKey, canonical, lookup, sshsig};
use protocol::api::LoginStatement;
use protocol::enroll::HostStatement;
use protocol::{Bytes, Fingerprint, Sha256, Signed};
use zeroize::Zeroizing;

use crate::agent::{self, Agent, AgentError, Held};
use crate::openssh::{self, OpenSshError};
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
    /// ssh-keygen.
    #[error(transparent)]
    Keygen(#[from] OpenSshError),
    /// No key file, and no agent that could take its place.
    #[error(
        "your login's key file {path} does not exist: put it back, name another with --key, or hold the key in ssh-agent", path = .0.display()
    )]
    NoKeyFile(PathBuf),
    /// A private key in PEM, which does not say which key it is.
    #[error(
        "{path} does not tell its public half, and there is no {path}.pub: write it with `ssh-keygen -y -f {path} > {path}.pub`", path = .0.display()
    )]
    NoPublicHalf(PathBuf),
    /// Nothing to sign with.
    #[error(
        "ssh-agent holds no key that an operator may have: add one with `ssh-add`, or name a key file with --key"
    )]
    NoKey,
    /// Which of them?
    #[error(
        "ssh-agent holds several keys ({list}): name one by its public key file, --key FILE.pub, or a private key file"
    )]
    Several {
        /// Fingerprints and comments.
        list: String,
    },
    /// Another key than the one that is meant.
    #[error(
        "{path} is a public key ({key}), ssh-agent does not hold its private half, and no private key file is beside it: `ssh-add` it, or name the private key file", path = .path.display()
    )]
    NotHeld {
        /// The file.
        path: PathBuf,
        /// The key.
        key: Fingerprint,
    },
    /// Files beside each other that do not belong together.
    #[error("{path} is not the private half of the key {key} that you named: name the right file with --key", path = .path.display())]
    OtherHalf {
        /// The private key file.
        path: PathBuf,
        /// The key.
        key: Fingerprint,
    },
    /// A signature that is none.
    #[error("{by} gave a signature by another key than {key}, or over other bytes: do not use it")]
    Wrong {
        /// Who made it.
        by: &'static str,
        /// The key that was asked for.
        key: Fingerprint,
        /// What exactly.
        #[source]
        source: SigError,
    },
    /// A good signature that every host refuses.
    #[error("nothing was signed with key {key}: {why}")]
    Useless {
        /// The key.
        key: Fingerprint,
        /// In words.
        why: String,
        /// What exactly.
        #[source]
        source: SigError,
    },
}

/// What a signature shall be good for: of several keys the one that fits is taken.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The policy of this machine, if there is one.
    pub policy: Option<&'a Policy>,
    /// The authority; none for a login, which any operator may have.
    pub namespace: Option<Namespace>,
    /// Unix seconds.
    pub now: u64,
}

impl Purpose<'_> {
    /// Whether the policy would count it.
    pub fn fits(&self, identity: &OperatorIdentity) -> bool {
        let wanted = self.namespace.as_ref().map_or(Namespace::ALL, std::slice::from_ref);
        let listed = |policy: &Policy| {
            wanted.iter().any(|namespace| lookup::operator_of(&identity.claim(), policy, *namespace).is_ok())
        };
        identity.is_current(self.now) && self.policy.is_some_and(listed)
    }
}

/// Who makes the signatures.
#[derive(Debug)]
enum Via {
    /// This program, with an Ed25519 key from a file.
    File(SecretKey),
    /// ssh-keygen, with this file.
    Keygen(PathBuf),
    /// ssh-agent, asked for this: the certified key where it does not hold the certificate.
    Agent { agent: Agent, asked: OperatorIdentity },
}

/// A key or certificate that signs.
#[derive(Debug)]
pub struct Signer {
    identity: OperatorIdentity,
    via: Via,
    now: u64,
}

impl Signer {
    /// The key that the operator means: `named` on the command line, else the `stored` one of the login,
    /// else the one in the agent that is fit for the purpose, or the only one.
    pub async fn choose(
        named: Option<&Path>,
        stored: Option<&Path>,
        agent: &Agent,
        purpose: Purpose<'_>,
    ) -> Result<Self, SignerError> {
        let (identity, via) = Self::found(named, stored, agent, purpose).await?;
        Ok(Self { identity, via, now: purpose.now })
    }

    async fn found(
        named: Option<&Path>,
        stored: Option<&Path>,
        agent: &Agent,
        purpose: Purpose<'_>,
    ) -> Result<(OperatorIdentity, Via), SignerError> {
        if let Some(path) = named {
            return from_file(path, agent).await;
        }
        match stored {
            None => from_agent(agent, purpose).await,
            Some(path) => match from_file(path, agent).await {
                Err(SignerError::State(StateError::File(error))) if error.is_not_found() => {
                    if agent.is_known() {
                        from_agent(agent, purpose).await
                    } else {
                        Err(SignerError::NoKeyFile(path.to_owned()))
                    }
                }
                other => other,
            },
        }
    }

    /// Its public half.
    pub fn public(&self) -> &OperatorIdentity {
        &self.identity
    }

    /// Where it is, for `--verbose`.
    pub fn place(&self) -> String {
        let what = self.identity.describe();
        match &self.via {
            Via::File(_) => format!("signing with {what} from its file"),
            Via::Keygen(path) => format!("signing with {what} by ssh-keygen -f {}", path.display()),
            Via::Agent { .. } => format!("signing with {what} in ssh-agent"),
        }
    }

    /// Armored SSHSIG over `message`.
    pub async fn sign(&self, namespace: Namespace, message: &[u8]) -> Result<String, SignerError> {
        match &self.via {
            Via::File(key) => Ok(key.sign(namespace, message)),
            Via::Keygen(path) => {
                if self.identity.key().is_security_key() {
                    eprintln!("Touch your security key when it blinks.");
                }
                let armored = openssh::sign(path, namespace, message).await?;
                self.checked(armored, namespace, message, "ssh-keygen")
            }
            Via::Agent { agent, asked } => {
                if self.identity.key().is_security_key() {
                    eprintln!("Touch your security key when it blinks.");
                }
                let raw = agent.sign(asked, &sshsig::to_sign(namespace, message)).await?;
                let armored = sshsig::from_raw(&self.identity, namespace, &raw);
                self.checked(armored, namespace, message, "ssh-agent")
            }
        }
    }

    /// What somebody else signed is judged as a host judges it, before anybody sees it.
    fn checked(
        &self,
        armored: String,
        namespace: Namespace,
        message: &[u8],
        by: &'static str,
    ) -> Result<String, SignerError> {
        let key = self.identity.fingerprint();
        let signature = sshsig::decode_operator(&armored, namespace);
        match signature.and_then(|signature| signature.verify_as(&self.identity, message, self.now)) {
            Ok(()) => Ok(armored),
            Err(source @ (SigError::NoTouch | SigError::Flags | SigError::Certificate(_))) => {
                Err(SignerError::Useless { key, why: source.to_string(), source })
            }
            Err(source) => Err(SignerError::Wrong { by, key, source }),
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

impl From<SecretKey> for Signer {
    fn from(key: SecretKey) -> Self {
        Self { identity: key.public().into(), via: Via::File(key), now: 0 }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    // A directory opens and does not read; say what it is.
    if path.is_dir() {
        return Err(FileError::NotAFile { path: path.to_owned() }.into());
    }
    Ok(files::read_limited(path, MAX_FILE)?)
}

async fn from_agent(agent: &Agent, purpose: Purpose<'_>) -> Result<(OperatorIdentity, Via), SignerError> {
    let held = agent.identities().await?;
    let take = |held: &Held| {
        let asked = held.identity.clone();
        (asked.clone(), Via::Agent { agent: agent.clone(), asked })
    };
    match held.as_slice() {
        [] => Err(SignerError::NoKey),
        [one] => Ok(take(one)),
        several => {
            let mut fit = several.iter().filter(|held| purpose.fits(&held.identity));
            match (fit.next(), fit.next()) {
                (Some(one), None) => Ok(take(one)),
                _ => Err(SignerError::Several { list: list(several, purpose) }),
            }
        }
    }
}

async fn from_file(path: &Path, agent: &Agent) -> Result<(OperatorIdentity, Via), SignerError> {
    let bytes = Zeroizing::new(read(path)?);
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    if let Some(line) = public_line(text) {
        let why = |why| StateError::Key { path: path.to_owned(), why };
        let identity = OperatorIdentity::from_line(line).map_err(why)?;
        return from_public_file(path, identity, agent).await;
    }
    from_private_file(path, text, agent).await
}

/// A public key or certificate was named: the agent holds its private half, or the file beside it does.
async fn from_public_file(
    path: &Path,
    identity: OperatorIdentity,
    agent: &Agent,
) -> Result<(OperatorIdentity, Via), SignerError> {
    let in_agent = held(agent, &identity).await;
    if let Ok(Some(asked)) = in_agent {
        return Ok((identity, Via::Agent { agent: agent.clone(), asked }));
    }
    let Some(private) = private_beside(path) else {
        in_agent?;
        return Err(SignerError::NotHeld { path: path.to_owned(), key: identity.fingerprint() });
    };
    let bytes = Zeroizing::new(read(&private)?);
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let (key, via) = from_private_file(&private, text, agent).await?;
    if key.key() != identity.key() {
        return Err(SignerError::OtherHalf { path: private, key: identity.fingerprint() });
    }
    // ssh-keygen finds the private half by the certificate's name, as we did.
    let via = if identity.is_certificate() { Via::Keygen(path.to_owned()) } else { via };
    Ok((identity, via))
}

/// `KEY` of `KEY.pub` and `KEY-cert.pub`, where OpenSSH looks for it too.
fn private_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix("-cert.pub").or_else(|| name.strip_suffix(".pub"))?;
    let private = path.with_file_name(stem);
    (!stem.is_empty() && private.is_file()).then_some(private)
}

async fn from_private_file(
    path: &Path,
    text: &str,
    agent: &Agent,
) -> Result<(OperatorIdentity, Via), SignerError> {
    let Some((identity, encrypted)) = public_half(path, text)? else {
        let key = read_key(path)?;
        return Ok((key.public().into(), Via::File(key)));
    };
    files::read_secret(path).map_err(StateError::File)?;
    // Only a file with a passphrase is worth asking an agent, which may be hung or hostile.
    if encrypted
        && agent.is_known()
        && let Ok(Some(asked)) = held(agent, &identity).await
    {
        return Ok((identity, Via::Agent { agent: agent.clone(), asked }));
    }
    if identity.key().type_name() == "ssh-ed25519" {
        return Ok((identity, Via::File(read_key(path)?)));
    }
    Ok((identity, Via::Keygen(path.to_owned())))
}

/// What the agent must be asked for to sign by `identity`: itself, or the key that it certifies.
async fn held(agent: &Agent, identity: &OperatorIdentity) -> Result<Option<OperatorIdentity>, AgentError> {
    let plain = OperatorIdentity::from(identity.key().clone());
    let held = agent.identities().await?;
    let holds = |wanted: &OperatorIdentity| held.iter().any(|held| held.identity == *wanted);
    Ok([identity.clone(), plain].into_iter().find(holds))
}

fn list(held: &[Held], purpose: Purpose<'_>) -> String {
    let shown = held.iter().map(|Held { identity, comment }| {
        let known = if purpose.fits(identity) { ", in your policy" } else { "" };
        format!("{} {comment}{known}", identity.describe())
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// The line of a public key file; none for anything else.
fn public_line(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let kind = line.split_ascii_whitespace().next()?;
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix)).then_some(line)
}

/// Which key a private key file holds, and whether it asks for a passphrase; none for what is no private
/// key that ssh-keygen could use either.
fn public_half(path: &Path, text: &str) -> Result<Option<(OperatorIdentity, bool)>, SignerError> {
    let why = |why: KeyError| StateError::Key { path: path.to_owned(), why };
    if let Some((blob, encrypted)) = openssh_public_half(text) {
        let identity = OperatorIdentity::from_blob(blob).map_err(|error| match error {
            KeyError::NotAKey => why(KeyError::NotAPrivateKey),
            other => why(other),
        })?;
        return Ok(Some((identity, encrypted)));
    }
    let pem = ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];
    if !pem.iter().any(|kind| text.trim_start().starts_with(&format!("-----BEGIN {kind}-----"))) {
        return Ok(None);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    let public = match read(Path::new(&beside)) {
        Err(StateError::File(error)) if error.is_not_found() => {
            return Err(SignerError::NoPublicHalf(path.to_owned()));
        }
        other => other?,
    };
    let line =
        std::str::from_utf8(&public).ok().and_then(public_line).ok_or_else(|| why(KeyError::NotAKey))?;
    let encrypted = text.contains("ENCRYPTED");
    Ok(Some((OperatorIdentity::from_line(line).map_err(why)?, encrypted)))
}

/// The public key stands in front of the private part, encrypted or not (OpenSSH PROTOCOL.key), so that
/// nobody needs to be asked for a passphrase to know which key a file holds.
fn openssh_public_half(text: &str) -> Option<(Vec<u8>, bool)> {
    let body = text.trim().strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let body = body.strip_suffix("-----END OPENSSH PRIVATE KEY-----")?;
    let body: String = body.split_ascii_whitespace().collect();
    let Bytes(bytes) = Bytes::try_from(body).ok()?;
    let bytes = Zeroizing::new(bytes);
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let rest = &mut rest;
    let cipher = agent::take_string(rest).ok()?;
    let (_kdf, _options) = (agent::take_string(rest).ok()?, agent::take_string(rest).ok()?);
    if agent::take_u32(rest).ok()? != 1 {
        return None;
    }
    Some((agent::take_string(rest).ok()?.to_vec(), cipher != b"none"))
}

#[cfg(test)]
mod tests;
