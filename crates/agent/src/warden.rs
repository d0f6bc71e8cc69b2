//! The client of the warden's socket: one connection a request. Nothing here is ever sent twice:
//! whoever asks decides what a lost answer means.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::frame::OrderState;
use protocol::local::{FrameBuffer, LocalError, WardenAnswer, WardenRequest, WardenStatus, encode};
use protocol::text::printable;
use protocol::{Ed25519Key, HostId, Sha256, Signed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For connecting and handing the request over.
const CONNECT: Duration = Duration::from_secs(5);
/// For answers that need no work in Proxmox.
const QUICK: Duration = Duration::from_secs(10);

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
}

/// Where the warden is.
#[derive(Debug, Clone)]
pub struct Warden {
    socket: PathBuf,
}

impl Warden {
    /// A client for that socket; connects to nothing yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
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
            WardenAnswer::Receipts { first, log_size, receipts } => Ok(LogPart { first, log_size, receipts }),
            other => Err(self.unexpected(other)),
        }
    }

    /// Hands over a step or an order; what follows takes as long as it takes.
    pub async fn perform(&self, request: &WardenRequest) -> Result<Performing<'_>, WardenError> {
        Ok(Performing(self.send(request).await?))
    }

    async fn quick(&self, request: &WardenRequest) -> Result<WardenAnswer, WardenError> {
        let asking = async { self.send(request).await?.answer().await };
        timeout(QUICK, asking).await.unwrap_or_else(|_| {
            Err(WardenError::Timeout { path: self.socket.clone(), seconds: QUICK.as_secs() })
        })
    }

    async fn send(&self, request: &WardenRequest) -> Result<Connection<'_>, WardenError> {
        let frame = encode(request).map_err(WardenError::Request)?;
        let cannot = |reason: String| WardenError::Connect { path: self.socket.clone(), reason };
        let mut stream = match timeout(CONNECT, UnixStream::connect(&self.socket)).await {
            Ok(connected) => connected.map_err(|error| cannot(reason(&error)))?,
            Err(_) => return Err(cannot(format!("no connection within {} s", CONNECT.as_secs()))),
        };
        // From here on the warden may have got it.
        match timeout(CONNECT, stream.write_all(&frame)).await {
            Ok(Ok(())) => {}
            // A warden that turns this user away answers without reading the question; its words
            // are there all the same, and if they are not, the end of data says so.
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Ok(Err(error)) => return Err(self.closed(reason(&error))),
            Err(_) => {
                return Err(WardenError::Timeout { path: self.socket.clone(), seconds: CONNECT.as_secs() });
            }
        }
        Ok(Connection { warden: self, stream, buffer: FrameBuffer::default() })
    }

    fn closed(&self, reason: String) -> WardenError {
        WardenError::Closed { path: self.socket.clone(), reason }
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
            | WardenAnswer::Receipts { .. } => WardenError::Unexpected { path: self.socket.clone() },
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
pub struct Performing<'a>(Connection<'a>);

/// What the warden says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It goes on.
    Progress(OrderState),
    /// It has ended, or was refused.
    Receipt(Signed),
}

impl Performing<'_> {
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

struct Connection<'a> {
    warden: &'a Warden,
    stream: UnixStream,
    buffer: FrameBuffer,
}

impl Connection<'_> {
    async fn answer(&mut self) -> Result<WardenAnswer, WardenError> {
        loop {
            let taken = self
                .buffer
                .take()
                .map_err(|source| WardenError::Frame { path: self.warden.socket.clone(), source })?;
            if let Some(answer) = taken {
                return Ok(answer);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk).await {
                Ok(0) => return Err(self.warden.closed("end of data".to_owned())),
                Ok(read) => self.buffer.push(&chunk[..read]),
                Err(error) => return Err(self.warden.closed(reason(&error))),
            }
        }
    }
}
