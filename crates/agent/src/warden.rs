//! The client of the warden's socket: one connection a request. Nothing here is ever sent twice:
//! whoever asks decides what a lost answer means.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use local_socket::{Framed, SocketError};
use protocol::ask::{MAX_REPLY, Question, Reply};
use protocol::frame::OrderState;
use protocol::job::MAX_SEALED_RESULT;
use protocol::local::{DocumentAnswer, LocalError, WardenAnswer, WardenRequest, WardenStatus};
use protocol::text::printable;
use protocol::{Bytes, Ed25519Key, Envelope, HostId, Note, Sha256, Signed};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For connecting and handing the request over.
const CONNECT: Duration = Duration::from_secs(5);
/// For answers that need no work in Proxmox.
const QUICK: Duration = Duration::from_secs(10);
/// For answers that the warden reads Proxmox for. The hub waits 10 s longer.
const ASK: Duration = Duration::from_secs(40);
/// Until a session waits: two verifications, and an sshd that starts. Longer than the warden waits.
const SESSION: Duration = Duration::from_secs(75);
/// For the last answer about a session, once its end is asked for.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Why the warden did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    /// Nobody listens. Nothing was handed over.
    #[error("cannot reach the warden at {path} ({reason}): check that writ-warden runs and that warden_socket is right", path = .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// In the system's words.
        reason: String,
    },
    /// The request is too long for the socket. Nothing was handed over.
    #[error("the request is too long for the warden: make it smaller")]
    Request(#[source] LocalError),
    /// The connection ended before the answer did.
    #[error("the warden at {path} ended the connection before it answered ({reason}): see its log", path = .path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// In the system's words.
        reason: String,
    },
    /// No answer in time.
    #[error("the warden at {path} gave no answer within {seconds} s: see its log", path = .path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long.
        seconds: u64,
    },
    /// Not an answer.
    #[error("the warden at {path} answered something unreadable: are agent and warden of the same version?", path = .path.display())]
    Frame {
        /// The socket.
        path: PathBuf,
        /// What exactly.
        #[source]
        source: LocalError,
    },
    /// An answer to another question.
    #[error("the warden at {path} answered another question than was asked: are agent and warden of the same version?", path = .path.display())]
    Unexpected {
        /// The socket.
        path: PathBuf,
    },
    /// A session without the socket that leads into it.
    #[error("the warden at {path} said that a session waits and passed no usable socket for it ({reason}): are agent and warden of the same version?", path = .path.display())]
    NoSocket {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It took the request, and cannot tell what became of it.
    #[error("the outcome is not known: {why}; after a restart of the warden its log says what is known")]
    Unknown {
        /// What happened, in its words.
        why: String,
    },
    /// It says no, and nothing was changed.
    #[error("the warden refuses ({code}): {why}")]
    Refused {
        /// Its short code.
        code: String,
        /// Cause and remedy.
        why: String,
    },
}

impl WardenError {
    /// Whether it is certain that the warden did not get, or did not carry out, the request.
    pub fn nothing_happened(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Request(_) | Self::Refused { .. } => true,
            Self::Closed { .. }
            | Self::Timeout { .. }
            | Self::Frame { .. }
            | Self::Unexpected { .. }
            | Self::NoSocket { .. }
            | Self::Unknown { .. } => false,
        }
    }
}

/// What the warden answers to an enrollment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The host.
    pub host_id: HostId,
    /// Its key.
    pub host_key: Ed25519Key,
    /// Which of its keys.
    pub host_key_gen: u32,
    /// About the device key.
    pub device_cert: Signed,
    /// HMAC under K.
    pub proof: Sha256,
}

/// Log entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Place of the first.
    pub first: u64,
    /// Entries in the log.
    pub log_size: u64,
    /// The entries.
    pub receipts: Vec<Signed>,
    /// The host's signed word about its whole log; the hub's and the operators' business.
    pub checkpoint: Option<Note>,
}

/// The policy in force on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyState {
    /// Its version.
    pub version: u64,
    /// Its hash.
    pub sha256: Sha256,
    /// What became of the document that was handed over.
    pub answer: Option<DocumentAnswer>,
}

/// Where the warden is.
#[derive(Debug, Clone)]
pub struct Warden {
    socket: Arc<Path>,
}

impl Warden {
    /// A client for that socket; connects to nothing yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// How it is.
    pub async fn status(&self) -> Result<WardenStatus, WardenError> {
        match self.quick(&WardenRequest::Status {}).await? {
            WardenAnswer::Status(status) => Ok(status),
            other => Err(self.unexpected(other)),
        }
    }

    /// Has it accept a policy and vouch for the device key.
    pub async fn enroll(&self, request: &WardenRequest) -> Result<Enrolled, WardenError> {
        match self.quick(request).await? {
            WardenAnswer::Enrolled { host_id, host_key, host_key_gen, device_cert, proof } => {
                Ok(Enrolled { host_id, host_key, host_key_gen, device_cert, proof })
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Log entries from `first` on.
    pub async fn receipts(&self, first: u64, max: u32) -> Result<LogPart, WardenError> {
        match self.quick(&WardenRequest::Receipts { first, max }).await? {
            WardenAnswer::Receipts { first, log_size, receipts, checkpoint } => {
                Ok(LogPart { first, log_size, receipts, checkpoint })
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// The orders whose scripts' results wait for the hub, oldest first.
    pub async fn results(&self) -> Result<Vec<Sha256>, WardenError> {
        match self.quick(&WardenRequest::Results {}).await? {
            WardenAnswer::Results { ops } => Ok(ops),
            other => Err(self.unexpected(other)),
        }
    }

    /// One of these results, under seal; at most [`MAX_SEALED_RESULT`] bytes.
    pub async fn result(&self, op: Sha256) -> Result<Bytes, WardenError> {
        match self.quick(&WardenRequest::Result { op }).await? {
            WardenAnswer::Result { op: about, sealed }
                if about == op && sealed.0.len() <= MAX_SEALED_RESULT =>
            {
                Ok(sealed)
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Tells it that the hub holds this result durably.
    pub async fn result_stored(&self, op: Sha256) -> Result<(), WardenError> {
        match self.quick(&WardenRequest::ResultStored { op }).await? {
            WardenAnswer::Forgotten {} => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Has it judge a policy document, if there is one, and says which policy is in force.
    pub async fn policy(&self, document: Option<Envelope>) -> Result<PolicyState, WardenError> {
        let asked = document.is_some();
        let request = WardenRequest::Policy { documents: document.into_iter().collect() };
        match self.quick(&request).await? {
            WardenAnswer::Policy { version, sha256, mut answers } if answers.len() == usize::from(asked) => {
                Ok(PolicyState { version, sha256, answer: answers.pop() })
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// An operator's question, which changes nothing. An answer that is too long to be passed on becomes a
    /// refusal that says so.
    pub async fn ask(&self, question: Question) -> Result<Reply, WardenError> {
        let asking = async { self.send(&WardenRequest::Ask { question }).await?.answer().await };
        match self.within(ASK, asking).await? {
            WardenAnswer::Answered { reply } if reply.is_bounded() => Ok(reply),
            WardenAnswer::Answered { .. } => Ok(Reply::Refused {
                code: "size".to_owned(),
                why: format!("the host's answer is longer than {MAX_REPLY} bytes: ask for less of it"),
            }),
            other => Err(self.unexpected(other)),
        }
    }

    /// Hands over a step or an order; what follows takes as long as it takes.
    pub async fn perform(&self, request: &WardenRequest) -> Result<Performing, WardenError> {
        Ok(Performing(self.send(request).await?))
    }

    /// Hands over a signed `session.open`. When this is given up, so is the session.
    pub async fn session(&self, envelope: Envelope) -> Result<SessionAnswer, WardenError> {
        let asking = async {
            let mut connection = self.send(&WardenRequest::Session { envelope }).await?;
            loop {
                match connection.answer().await? {
                    WardenAnswer::Progress(_) => {}
                    WardenAnswer::Receipt(receipt) => return Ok(SessionAnswer::Refused(receipt)),
                    WardenAnswer::SessionReady { receipt } => {
                        let socket = connection.socket()?;
                        let held = HeldSession { connection, over: false };
                        return Ok(SessionAnswer::Ready { receipt, socket, held });
                    }
                    other => return Err(self.unexpected(other)),
                }
            }
        };
        self.within(SESSION, asking).await
    }

    async fn quick(&self, request: &WardenRequest) -> Result<WardenAnswer, WardenError> {
        self.within(QUICK, async { self.send(request).await?.answer().await }).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        asking: impl Future<Output = Result<T, WardenError>>,
    ) -> Result<T, WardenError> {
        timeout(limit, asking).await.unwrap_or_else(|_| Err(self.late(limit)))
    }

    async fn send(&self, request: &WardenRequest) -> Result<Connection, WardenError> {
        let cannot = |reason: String| WardenError::Connect { path: self.path(), reason };
        let stream = match timeout(CONNECT, UnixStream::connect(&*self.socket)).await {
            Ok(connected) => connected.map_err(|error| cannot(reason(&error)))?,
            Err(_) => return Err(cannot(format!("no connection within {} s", CONNECT.as_secs()))),
        };
        let mut framed = Framed::from(stream);
        // From here on the warden may have got it.
        match timeout(CONNECT, framed.send(request)).await {
            Ok(Ok(())) => {}
            // A warden that turns this user away answers without reading the question; its words
            // are there all the same, and if they are not, the end of data says so.
            Ok(Err(SocketError::Io(error))) if error.kind() == io::ErrorKind::BrokenPipe => {}
            // A message is made before the first byte of it is sent.
            Ok(Err(SocketError::Frame(error))) => return Err(WardenError::Request(error)),
            Ok(Err(error)) => return Err(self.closed(&error)),
            Err(_) => return Err(self.late(CONNECT)),
        }
        Ok(Connection { warden: self.clone(), framed })
    }

    fn path(&self) -> PathBuf {
        self.socket.to_path_buf()
    }

    fn late(&self, limit: Duration) -> WardenError {
        WardenError::Timeout { path: self.path(), seconds: limit.as_secs() }
    }

    fn closed(&self, error: &SocketError) -> WardenError {
        let reason = match error {
            SocketError::Io(error) => reason(error),
            SocketError::Cut => "end of data in the middle of a message".to_owned(),
            SocketError::Frame(_) | SocketError::TooManyFds => error.to_string(),
        };
        WardenError::Closed { path: self.path(), reason }
    }

    fn unexpected(&self, answer: WardenAnswer) -> WardenError {
        match answer {
            WardenAnswer::Refused { code, why } => {
                WardenError::Refused { code: printable(&code), why: printable(&why) }
            }
            WardenAnswer::Unknown { why } => WardenError::Unknown { why: printable(&why) },
            WardenAnswer::Status(_)
            | WardenAnswer::Enrolled { .. }
            | WardenAnswer::Progress(_)
            | WardenAnswer::Receipt(_)
            | WardenAnswer::Receipts { .. }
            | WardenAnswer::SessionReady { .. }
            | WardenAnswer::Policy { .. }
            | WardenAnswer::Queue { .. }
            | WardenAnswer::Smart(_)
            | WardenAnswer::Answered { .. }
            | WardenAnswer::Results { .. }
            | WardenAnswer::Result { .. }
            | WardenAnswer::Forgotten {} => WardenError::Unexpected { path: self.path() },
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// A step or an order in the warden's hands.
pub struct Performing(Connection);

/// What the warden says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It goes on.
    Progress(OrderState),
    /// It has ended, or was refused.
    Receipt(Signed),
}

impl Performing {
    /// What comes next; nothing after a receipt or an error.
    pub async fn next(&mut self) -> Result<Said, WardenError> {
        match self.0.answer().await? {
            WardenAnswer::Progress(state) => Ok(Said::Progress(state)),
            WardenAnswer::Receipt(receipt) => Ok(Said::Receipt(receipt)),
            other => Err(self.0.warden.unexpected(other)),
        }
    }

    /// The end.
    pub async fn receipt(&mut self) -> Result<Signed, WardenError> {
        loop {
            if let Said::Receipt(receipt) = self.next().await? {
                return Ok(receipt);
            }
        }
    }
}

/// What became of a `session.open`.
#[derive(Debug)]
pub enum SessionAnswer {
    /// The session waits at the other end of `socket`.
    Ready {
        /// The log entry, with the session's SSH host key.
        receipt: Signed,
        /// Into the session.
        socket: UnixStream,
        /// What keeps it alive.
        held: HeldSession,
    },
    /// There is none, and this receipt says why.
    Refused(Signed),
}

/// The lifeline of a session: it ends on the host when this is dropped.
#[derive(Debug)]
pub struct HeldSession {
    connection: Connection,
    over: bool,
}

impl HeldSession {
    /// Resolves when the session is over on the host, with the receipt that says how, or when the
    /// warden can no longer say. Can be dropped and called again; waits for ever after that.
    pub async fn ended(&mut self) -> Result<Signed, WardenError> {
        if self.over {
            return std::future::pending().await;
        }
        let answer = self.connection.answer().await;
        self.over = true;
        match answer? {
            WardenAnswer::Receipt(receipt) => Ok(receipt),
            other => Err(self.connection.warden.unexpected(other)),
        }
    }

    /// Gives the warden a moment to say by itself how the session ended; none when it does not.
    pub async fn last_word(&mut self) -> Option<Result<Signed, WardenError>> {
        timeout(LAST_WORD, self.ended()).await.ok()
    }

    /// Ends the session, if it is not over, and waits a moment for its last entry in the log, so that
    /// it is there when the log is read next.
    pub async fn end(&mut self) {
        if !self.over && self.connection.framed.finish().await.is_ok() {
            let _ = self.last_word().await;
        }
        self.over = true;
    }
}

#[derive(Debug)]
struct Connection {
    warden: Warden,
    framed: Framed,
}

impl Connection {
    /// Can be dropped and called again.
    async fn answer(&mut self) -> Result<WardenAnswer, WardenError> {
        // Receiving holds a buffer; on the heap it does not make every future around it large.
        match Box::pin(self.framed.receive()).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => {
                Err(WardenError::Closed { path: self.warden.path(), reason: "end of data".to_owned() })
            }
            Err(SocketError::Frame(source)) => Err(WardenError::Frame { path: self.warden.path(), source }),
            Err(error) => Err(self.warden.closed(&error)),
        }
    }

    fn socket(&mut self) -> Result<UnixStream, WardenError> {
        let unusable = |reason: String| WardenError::NoSocket { path: self.warden.path(), reason };
        let Some(fd) = self.framed.take_fd() else { return Err(unusable("none came".to_owned())) };
        let stream = std::os::unix::net::UnixStream::from(fd);
        // The other end of the pair has its own mode.
        stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map_err(|error| unusable(error.to_string()))
    }
}
