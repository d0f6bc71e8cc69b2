//! A small client of ssh-agent: which keys and certificates it holds, and a signature with one of them
//! (draft-ietf-sshm-ssh-agent; OpenSSH PROTOCOL.agent). What an agent answers is not believed: lengths are
//! bounded, and [`crate::signer`] verifies each signature before it is used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::OperatorIdentity;
use protocol::Fingerprint;
use protocol::text::printable;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// As OpenSSH's agent has it.
const MAX_MESSAGE: usize = 256 * 1024;
/// As OpenSSH's client has it.
const MAX_KEYS: u32 = 2048;
/// Longest comment that is shown, characters.
const MAX_COMMENT: usize = 60;
/// To list keys.
const LIST: Duration = Duration::from_secs(10);
/// To sign: the agent may ask its user first.
const SIGN: Duration = Duration::from_secs(120);

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Of RSA keys: sign with SHA-512. Without it agents make SHA-1.
const RSA_SHA2_512: u32 = 4;

/// Why ssh-agent does not help.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody said where it is.
    #[error(
        "there is no ssh-agent to ask ($SSH_AUTH_SOCK is not set): start one with `eval $(ssh-agent)` and `ssh-add`, or name a private key file with --key"
    )]
    NoAgent,
    /// Not there, or gone.
    #[error(
        "the ssh-agent at {socket} cannot be asked ({source}): is it still running? See $SSH_AUTH_SOCK and `ssh-add -l`", socket = .socket.display()
    )]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It takes too long.
    #[error(
        "the ssh-agent at {socket} did not answer within {waited} s: is it waiting for a confirmation somewhere?", socket = .socket.display()
    )]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// Seconds.
        waited: u64,
    },
    /// Not an agent's answer.
    #[error(
        "what listens at {socket} does not answer as an ssh-agent does ({what}): see $SSH_AUTH_SOCK", socket = .socket.display()
    )]
    Nonsense {
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        what: &'static str,
    },
    /// It said no.
    #[error(
        "ssh-agent refuses to sign with key {0}: it may be locked (`ssh-add -X`), or the confirmation was declined"
    )]
    Refused(Fingerprint),
}

/// A key or certificate that the agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its public half.
    pub identity: OperatorIdentity,
    /// As its owner named it, made safe for the terminal.
    pub comment: String,
}

/// Where an agent listens, if anywhere.
#[derive(Debug, Clone, Default)]
pub struct Agent(Option<PathBuf>);

impl Agent {
    /// By `$SSH_AUTH_SOCK`.
    pub fn from_environment() -> Self {
        Self(std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()).map(PathBuf::from))
    }

    /// At this socket.
    pub fn at(socket: PathBuf) -> Self {
        Self(Some(socket))
    }

    /// Whether there is one to ask.
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// The keys and certificates it holds that an operator may have. Others are left out.
    pub async fn identities(&self) -> Result<Vec<Held>, AgentError> {
        let socket = self.socket()?;
        let answer = ask(socket, &[REQUEST_IDENTITIES], LIST).await?;
        parse_identities(&answer).map_err(|what| AgentError::Nonsense { socket: socket.to_owned(), what })
    }

    /// Has it sign with one of them: the SSH signature blob. It is **not** verified here.
    pub async fn sign(&self, held: &OperatorIdentity, data: &[u8]) -> Result<Vec<u8>, AgentError> {
        let socket = self.socket()?;
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, held.blob());
        put_string(&mut request, data);
        let flags = if held.key().type_name() == "ssh-rsa" { RSA_SHA2_512 } else { 0 };
        request.extend_from_slice(&flags.to_be_bytes());
        let answer = ask(socket, &request, SIGN).await?;
        if answer.first() == Some(&FAILURE) {
            return Err(AgentError::Refused(held.fingerprint()));
        }
        parse_signature(&answer).map_err(|what| AgentError::Nonsense { socket: socket.to_owned(), what })
    }

    fn socket(&self) -> Result<&Path, AgentError> {
        self.0.as_deref().ok_or(AgentError::NoAgent)
    }
}

/// One question on a connection of its own.
async fn ask(socket: &Path, request: &[u8], patience: Duration) -> Result<Vec<u8>, AgentError> {
    let unreachable = |source| AgentError::Unreachable { socket: socket.to_owned(), source };
    let nonsense = |what| AgentError::Nonsense { socket: socket.to_owned(), what };
    let talk = async {
        let mut stream = UnixStream::connect(socket).await.map_err(unreachable)?;
        let mut message = Vec::with_capacity(4 + request.len());
        put_string(&mut message, request);
        stream.write_all(&message).await.map_err(unreachable)?;
        let length = stream.read_u32().await.map_err(unreachable)? as usize;
        if length == 0 || length > MAX_MESSAGE {
            return Err(nonsense("a message of an impossible length"));
        }
        let mut answer = Vec::new();
        stream.take(length as u64).read_to_end(&mut answer).await.map_err(unreachable)?;
        if answer.len() < length {
            return Err(nonsense("a message that was cut short"));
        }
        Ok(answer)
    };
    match tokio::time::timeout(patience, talk).await {
        Ok(answer) => answer,
        Err(_) => Err(AgentError::Silent { socket: socket.to_owned(), waited: patience.as_secs() }),
    }
}

fn parse_identities(answer: &[u8]) -> Result<Vec<Held>, &'static str> {
    let rest = &mut &*answer;
    if take(rest, 1)? != [IDENTITIES_ANSWER] {
        return Err("no list of keys");
    }
    let count = take_u32(rest)?;
    if count > MAX_KEYS {
        return Err("a list of too many keys");
    }
    let mut found = Vec::new();
    for _ in 0..count {
        let (blob, comment) = (take_string(rest)?, take_string(rest)?);
        if let Ok(identity) = OperatorIdentity::from_blob(blob.to_vec()) {
            let comment: String = String::from_utf8_lossy(comment).chars().take(MAX_COMMENT).collect();
            found.push(Held { identity, comment: printable(&comment) });
        }
    }
    if rest.is_empty() { Ok(found) } else { Err("bytes left over") }
}

/// The SSH signature blob in it; what it says is for the verifier to judge.
fn parse_signature(answer: &[u8]) -> Result<Vec<u8>, &'static str> {
    let rest = &mut &*answer;
    if take(rest, 1)? != [SIGN_RESPONSE] {
        return Err("no signature");
    }
    let signature = take_string(rest)?;
    if rest.is_empty() { Ok(signature.to_vec()) } else { Err("bytes left over") }
}

pub(crate) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
    let (head, tail) = rest.split_at_checked(length).ok_or("a message that ends early")?;
    *rest = tail;
    Ok(head)
}

pub(crate) fn take_u32(rest: &mut &[u8]) -> Result<u32, &'static str> {
    Ok(take(rest, 4)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// RFC 4251 `string`; only cuts what is there.
pub(crate) fn take_string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = take_u32(rest)?;
    take(rest, usize::try_from(length).map_err(|_| "a message that ends early")?)
}

fn put_string(bytes: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("we send keys, and orders of at most 64 KiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(string);
}

#[cfg(test)]
pub(crate) mod fake {
    //! An ssh-agent that says what a test wants.

    use super::*;
    use authz::SecretKey;
    use tokio::net::UnixListener;

    /// A whole answer, with its length in front.
    pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_string(&mut bytes, body);
        bytes
    }

    /// The list of these keys.
    pub(crate) fn list(blobs: &[(Vec<u8>, &str)]) -> Vec<u8> {
        let mut body = vec![IDENTITIES_ANSWER];
        body.extend_from_slice(&u32::try_from(blobs.len()).unwrap().to_be_bytes());
        for (blob, comment) in blobs {
            put_string(&mut body, blob);
            put_string(&mut body, comment.as_bytes());
        }
        body
    }

    /// Listens in `dir` and answers each request by `says`: raw bytes to write.
    pub(crate) fn serve(dir: &Path, says: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Agent {
        let socket = dir.join("agent.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Ok(length) = stream.read_u32().await else { continue };
                let mut request = vec![0; length as usize];
                if stream.read_exact(&mut request).await.is_ok() {
                    let _ = stream.write_all(&says(&request)).await;
                }
            }
        });
        Agent::at(socket)
    }

    /// An honest agent with these keys.
    pub(crate) fn holding(dir: &Path, keys: Vec<(SecretKey, &'static str)>) -> Agent {
        serve(dir, move |request| {
            let rest = &mut &*request;
            match take(rest, 1).unwrap() {
                [REQUEST_IDENTITIES] => {
                    let blobs: Vec<_> = keys.iter().map(|(key, name)| (key.public().blob(), *name)).collect();
                    framed(&list(&blobs))
                }
                [SIGN_REQUEST] => {
                    let (blob, data) = (take_string(rest).unwrap(), take_string(rest).unwrap());
                    match keys.iter().find(|(key, _)| key.public().blob() == blob) {
                        Some((key, _)) => framed(&signature(&raw_signature(key, data))),
                        None => framed(&[FAILURE]),
                    }
                }
                _ => framed(&[FAILURE]),
            }
        })
    }

    /// An answer with this signature.
    pub(crate) fn signature(raw: &[u8]) -> Vec<u8> {
        let mut inner = Vec::new();
        put_string(&mut inner, b"ssh-ed25519");
        put_string(&mut inner, raw);
        let mut body = vec![SIGN_RESPONSE];
        put_string(&mut body, &inner);
        body
    }

    fn raw_signature(key: &SecretKey, data: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        ed25519_dalek::SigningKey::from_bytes(&key.seed()).sign(data).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{framed, list, serve, signature};
    use super::*;
    use crate::testing::{alice, mallory};

    #[tokio::test]
    async fn only_usable_keys_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let mut short_rsa = Vec::new();
        put_string(&mut short_rsa, b"ssh-rsa");
        put_string(&mut short_rsa, &[1, 0, 1]);
        put_string(&mut short_rsa, &[1; 129]);
        let mut weak = Vec::new();
        put_string(&mut weak, b"ssh-ed25519");
        put_string(&mut weak, &[0; 32]);
        let mut no_certificate = Vec::new();
        put_string(&mut no_certificate, b"ssh-ed25519-cert-v01@openssh.com");
        put_string(&mut no_certificate, &[0; 32]);
        let blobs = [
            (short_rsa, "rsa"),
            (weak, "weak"),
            (no_certificate, "cert"),
            (vec![], "empty"),
            (alice().public().blob(), "alice\u{1b}[2J"),
            ([alice().public().blob(), vec![0]].concat(), "longer"),
            (mallory().public().blob(), &"m".repeat(5000)),
        ];
        let answer = list(&blobs.each_ref().map(|(blob, comment)| (blob.clone(), *comment)));
        let agent = serve(dir.path(), move |_| framed(&answer));
        let found = agent.identities().await.unwrap();
        let keys: Vec<OperatorIdentity> = found.iter().map(|held| held.identity.clone()).collect();
        assert_eq!(keys, [alice().public().into(), mallory().public().into()]);
        assert_eq!((found[0].comment.as_str(), found[1].comment.len()), ("alice?[2J", MAX_COMMENT));
    }

    #[tokio::test]
    async fn hostile_agents_are_named_and_cost_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = alice().public().into();
        let many = [vec![IDENTITIES_ANSWER], u32::MAX.to_be_bytes().to_vec()].concat();
        let long_string =
            [vec![IDENTITIES_ANSWER], 1u32.to_be_bytes().to_vec(), u32::MAX.to_be_bytes().to_vec()].concat();
        let long_signature = [vec![SIGN_RESPONSE], u32::MAX.to_be_bytes().to_vec()].concat();
        for answer in [
            Vec::new(),
            vec![0, 0, 0, 0],
            u32::MAX.to_be_bytes().to_vec(),
            [&100u32.to_be_bytes()[..], b"short"].concat(),
            framed(b"HTTP/1.1 400 Bad Request"),
            framed(&many),
            framed(&long_string),
            framed(&long_signature),
            framed(&[list(&[(alice().public().blob(), "x")]), vec![0]].concat()),
            framed(&[IDENTITIES_ANSWER]),
            framed(&[signature(&[7; 64]), vec![0]].concat()),
        ] {
            let shown = format!("{:?}", &answer[..answer.len().min(40)]);
            let agent = serve(dir.path(), move |_| answer.clone());
            for error in
                [agent.identities().await.map(drop).err(), agent.sign(&key, b"x").await.map(drop).err()]
            {
                let bad =
                    matches!(&error, Some(AgentError::Nonsense { .. } | AgentError::Unreachable { .. }));
                assert!(bad, "{shown}: {error:?}");
            }
        }
        let agent = serve(dir.path(), |_| framed(&[FAILURE]));
        assert!(matches!(agent.sign(&key, b"x").await, Err(AgentError::Refused(_))));
        let gone = Agent::at(dir.path().join("absent"));
        assert!(gone.identities().await.unwrap_err().to_string().contains("still running"));
        let none = Agent::default().identities().await.unwrap_err().to_string();
        assert!(none.contains("SSH_AUTH_SOCK") && none.contains("--key"), "{none}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_agent_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        // Accepts nobody: the connection waits in the backlog.
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = Agent::at(socket).identities().await.unwrap_err();
        assert!(matches!(error, AgentError::Silent { waited: 10, .. }), "{error}");
    }
}
