//! What crosses the sockets between runner, supervisor and the last stage: one JSON line each way, with
//! file descriptors attached to its first byte.
//!
//! Everything else is inherited by nobody: descriptors travel by `SCM_RIGHTS` and arrive close-on-exec, so
//! two jobs that are started at the same moment cannot receive each other's.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tree::ProcessId;

/// Longest line, bytes. The longest honest one holds 64 arguments and 64 variables of 512 bytes each.
pub(crate) const MAX_LINE: usize = 256 * 1024;
/// Most descriptors beside one line.
pub(crate) const MAX_FDS: usize = 3;

/// The random name of one job or session: of its cgroup, its directory and its script.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

/// What is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token is 32 lower-case hexadecimal digits")]
pub struct NotAToken;

impl Token {
    /// A fresh one.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(data_encoding::HEXLOWER.encode(&bytes)))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = NotAToken;
    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let good = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if good { Ok(Self(text.to_owned())) } else { Err(NotAToken) }
    }
}

impl TryFrom<String> for Token {
    type Error = NotAToken;
    fn try_from(text: String) -> Result<Self, NotAToken> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// To the supervisor, once. The descriptors beside it are those of [`Stdio`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SuperviseSpec {
    pub(crate) token: Token,
    /// Whether to try for a cgroup.
    pub(crate) cgroup: bool,
    /// Everything is killed after so long, milliseconds.
    pub(crate) limit_ms: u64,
    pub(crate) exec: ExecSpec,
    /// A session's directory, removed at the end.
    pub(crate) dir: Option<PathBuf>,
}

/// To the last stage, once, with the same descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecSpec {
    /// Absolute.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// All of it; nothing is inherited.
    pub(crate) env: Vec<(String, String)>,
    /// Whom to become; nobody else where absent.
    pub(crate) identity: Option<Identity>,
    /// Where to start if it can be entered, else `/`.
    pub(crate) cwd: PathBuf,
    pub(crate) stdio: Stdio,
}

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Which descriptors come along and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stdio {
    /// Three: stdout, stderr, the script, which becomes the first argument. stdin is /dev/null.
    Script,
    /// Two: a socket for stdin and stdout, stderr.
    Socket,
}

impl Stdio {
    pub(crate) const fn descriptors(self) -> usize {
        match self {
            Self::Script => 3,
            Self::Socket => 2,
        }
    }
}

/// From the supervisor: Started and Ended, or Refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Report {
    /// The program has been executed.
    Started { main: ProcessId, cgroup: Option<PathBuf> },
    /// It has not and will not be.
    Refused { why: String },
    /// It is over, and so is everything that it started, except the survivors.
    Ended { end: MainEnd, duration_ms: u64, killed: u32, survivors: Vec<i32> },
}

/// How the program itself ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum MainEnd {
    Exited { code: i32 },
    Signaled { signal: i32 },
    TimedOut {},
    Cancelled {},
}

/// From the last stage: Ready and then nothing when the program was executed, else Failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum StageReport {
    /// The next thing is execve(2).
    Ready {},
    /// It did not work.
    Failed { why: String },
}

/// Why a line could not be sent or taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the other end is gone")]
    Closed,
    #[error("not a line of ours: {0}")]
    Malformed(&'static str),
    #[error("the line cannot be read as what it should be")]
    Json(#[source] serde_json::Error),
    #[error("the socket failed")]
    Socket(#[source] Errno),
}

/// Sends one line. Blocks, also on a socket that does not.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), WireError> {
    let mut bytes = serde_json::to_vec(message).map_err(WireError::Json)?;
    bytes.push(b'\n');
    if bytes.len() > MAX_LINE {
        return Err(WireError::Malformed("too long"));
    } else if fds.len() > MAX_FDS {
        return Err(WireError::Malformed("too many descriptors"));
    }
    let mut sent = 0;
    while sent < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(WireError::Malformed("too many descriptors"));
        }
        let rest = [IoSlice::new(&bytes[sent..])];
        match retry_on_intr(|| rustix::net::sendmsg(socket, &rest, &mut control, SendFlags::NOSIGNAL)) {
            Ok(count) => sent += count,
            Err(Errno::AGAIN) => {
                let mut room = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
                retry_on_intr(|| rustix::event::poll(&mut room, None)).map_err(WireError::Socket)?;
            }
            Err(Errno::PIPE) => return Err(WireError::Closed),
            Err(error) => return Err(WireError::Socket(error)),
        }
    }
    Ok(())
}

/// Takes the one line that the other end ever sends, and its descriptors. Blocks. Whatever follows the
/// line is an error, because nothing may.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<(T, Vec<OwnedFd>), WireError> {
    let mut line = Vec::new();
    let mut fds = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while line.last() != Some(&b'\n') {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = retry_on_intr(|| {
            let mut into = [IoSliceMut::new(&mut buffer)];
            rustix::net::recvmsg(socket.as_fd(), &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
        })
        .map_err(WireError::Socket)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(WireError::Malformed("too many descriptors"));
        }
        let bytes = &buffer[..got.bytes];
        let end = bytes.iter().position(|b| *b == b'\n');
        if bytes.is_empty() {
            return Err(WireError::Closed);
        } else if line.len() + bytes.len() > MAX_LINE {
            return Err(WireError::Malformed("too long"));
        } else if end.is_some_and(|end| end + 1 != bytes.len()) {
            return Err(WireError::Malformed("more than one line"));
        }
        line.extend_from_slice(bytes);
    }
    line.pop();
    Ok((serde_json::from_slice(&line).map_err(WireError::Json)?, fds))
}

#[cfg(test)]
mod tests;
