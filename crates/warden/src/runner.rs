//! The warden's side of the runner's socket: one request a connection, and the runner's anchor.

use std::path::PathBuf;
use std::time::Duration;

use local_socket::{Framed, SocketError};
use protocol::runner::{AnchorStatus, RunnerAnswer, RunnerRequest, RunnerStatus};
use protocol::text::printable;
use protocol::{Envelope, Sha256};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::follow::{Brought, Follower, Odd};

/// A runner takes a connection within this time.
const CONNECT: Duration = Duration::from_secs(5);
/// It takes a request within this time, and answers one that needs no waiting.
const ASK: Duration = Duration::from_secs(10);

/// Why the runner cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// Not set up.
    #[error(
        "scripts and sessions are not set up on this host: install writ-runner there, and name its socket as runner_socket in the warden's configuration"
    )]
    NotConfigured,
    /// Nobody there.
    #[error("the runner cannot be reached at {path} ({reason}): start writ-runner, or correct runner_socket", path = .path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It said nothing.
    #[error("the runner did not answer within {} s: look at its log", ASK.as_secs())]
    Silent,
    /// The connection broke.
    #[error("the runner broke off the conversation ({0}): look at its log")]
    Lost(String),
    /// An answer to another question.
    #[error(
        "the runner answered something else than it was asked: are warden and runner of the same version?"
    )]
    Unexpected,
    /// In its own words.
    #[error("the runner refuses ({code}): {why}")]
    Refused {
        /// Its code.
        code: String,
        /// Cause and remedy.
        why: String,
    },
    /// It refuses everything.
    #[error("the runner refuses everything at the moment: {0}")]
    Closed(String),
    /// It lives by something else.
    #[error(
        "the runner lives by policy {} for host {}, and this host is {host} with policy {policy}: root anchors the runner anew (see runner.toml)",
        .anchored.policy, .anchored.host_id
    )]
    OtherAnchor {
        /// What it lives by.
        anchored: Box<AnchorStatus>,
        /// This host.
        host: protocol::HostId,
        /// This host's policy.
        policy: Sha256,
    },
}

impl From<SocketError> for RunnerError {
    fn from(error: SocketError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// The chain that the runner has to follow.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Hash of the policy in force.
    pub policy: Sha256,
    /// Policies and revocations after the first policy, oldest first.
    pub documents: Vec<Envelope>,
    /// The last word of freshness.
    pub fresh: Option<Envelope>,
    /// Its time.
    pub fresh_at: u64,
}

/// The runner of this host, if there is one.
#[derive(Debug, Clone)]
pub struct Runner {
    socket: Option<PathBuf>,
}

impl Runner {
    /// At this socket; connects to nothing yet.
    pub const fn new(socket: Option<PathBuf>) -> Self {
        Self { socket }
    }

    /// Whether there is one at all.
    pub fn configured(&self) -> Result<(), RunnerError> {
        self.socket.as_ref().map(drop).ok_or(RunnerError::NotConfigured)
    }

    /// What the runner says of itself.
    pub async fn status(&self) -> Result<RunnerStatus, RunnerError> {
        match self.ask(&RunnerRequest::Status {}).await? {
            RunnerAnswer::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// Tells it that the end of a script is durable here.
    pub async fn forget(&self, op: Sha256) -> Result<(), RunnerError> {
        self.done(&RunnerRequest::Forget { op }).await
    }

    async fn done(&self, request: &RunnerRequest) -> Result<(), RunnerError> {
        match self.ask(request).await? {
            RunnerAnswer::Done {} => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// One question and its answer.
    async fn ask(&self, request: &RunnerRequest) -> Result<RunnerAnswer, RunnerError> {
        let mut connection = self.connect().await?;
        let conversation = async {
            let sent = connection.send(request).await;
            // A runner that turns this user away answers without reading the question.
            match (connection.receive().await, sent) {
                (Ok(Some(answer)), _) => Ok(answer),
                (_, Err(error)) | (Err(error), Ok(())) => Err(error.into()),
                (Ok(None), Ok(())) => Err(RunnerError::Lost("end of data".into())),
            }
        };
        timeout(ASK, conversation).await.map_err(|_| RunnerError::Silent)?
    }

    /// A connection for one request. Until [`hand_over`] nothing has been asked.
    pub async fn connect(&self) -> Result<Framed, RunnerError> {
        let path = self.socket.as_ref().ok_or(RunnerError::NotConfigured)?;
        let fail = |reason: String| RunnerError::Connect { path: path.clone(), reason };
        match timeout(CONNECT, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => Ok(stream.into()),
            Ok(Err(error)) => Err(fail(match error.kind() {
                std::io::ErrorKind::NotFound => "there is no such socket".into(),
                std::io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
                std::io::ErrorKind::PermissionDenied => "permission denied".into(),
                _ => error.to_string(),
            })),
            Err(_) => Err(fail(format!("no connection within {} s", CONNECT.as_secs()))),
        }
    }
}

/// Sends a request whose answers take their time. After an error the runner may have got it all the same.
pub async fn hand_over(connection: &mut Framed, request: &RunnerRequest) -> Result<(), RunnerError> {
    timeout(ASK, connection.send(request)).await.map_err(|_| RunnerError::Silent)?.map_err(Into::into)
}

/// The next answer on such a connection.
pub async fn next(connection: &mut Framed) -> Result<RunnerAnswer, RunnerError> {
    connection.receive().await?.ok_or_else(|| RunnerError::Lost("end of data".into()))
}

impl Follower for Runner {
    type Status = RunnerStatus;
    type Error = RunnerError;

    async fn status(&self) -> Result<RunnerStatus, RunnerError> {
        Self::status(self).await
    }

    fn lives_by(status: &RunnerStatus) -> (Option<&AnchorStatus>, Option<&str>) {
        (status.anchored.as_ref(), status.closed.as_deref())
    }

    async fn anchor(&self, brought: Brought) -> Result<(), RunnerError> {
        let Brought { policy, documents, host_id, host_key, host_key_gen } = brought;
        self.done(&RunnerRequest::Anchor { policy, documents, host_id, host_key, host_key_gen }).await
    }

    async fn take(&self, document: Envelope) -> Result<(), RunnerError> {
        self.done(&RunnerRequest::Policy { documents: vec![document] }).await
    }

    fn error(odd: Odd) -> RunnerError {
        match odd {
            Odd::Closed(why) => RunnerError::Closed(why),
            Odd::Other { anchored, host, policy } => RunnerError::OtherAnchor { anchored, host, policy },
            Odd::NotAnchored => RunnerError::Unexpected,
        }
    }
}

fn unexpected(answer: RunnerAnswer) -> RunnerError {
    match answer {
        RunnerAnswer::Refused { code, why } => {
            RunnerError::Refused { code: printable(&code), why: printable(&why) }
        }
        RunnerAnswer::Status(_)
        | RunnerAnswer::Done {}
        | RunnerAnswer::Committed {}
        | RunnerAnswer::Started {}
        | RunnerAnswer::Ended { .. }
        | RunnerAnswer::NotStarted { .. }
        | RunnerAnswer::Unknown { .. }
        | RunnerAnswer::NotKnown {}
        | RunnerAnswer::SessionReady { .. }
        | RunnerAnswer::SessionEnded { .. } => RunnerError::Unexpected,
    }
}
