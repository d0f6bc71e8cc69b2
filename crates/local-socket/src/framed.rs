//! Frames on a connection. Sending and receiving may be dropped half way: a partly received frame stays,
//! a partly sent one makes the connection useless, so whoever drops a send drops the connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use protocol::local::{FrameBuffer, LocalError, encode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// File descriptors that may wait for their frame; a peer that sends more than that is wrong.
const MAX_FDS: usize = 4;
/// Most bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The connection.
    #[error("the local socket failed: {0}")]
    Io(#[from] io::Error),
    /// Not a message of the expected type.
    #[error(transparent)]
    Frame(#[from] LocalError),
    /// The end of data in the middle of a message.
    #[error("the other end closed the local socket in the middle of a message: see its log")]
    Cut,
    /// File descriptors that nobody asked for.
    #[error("the other end sent more than {MAX_FDS} file descriptors")]
    TooManyFds,
}

/// One connection.
#[derive(Debug)]
pub struct Framed {
    stream: UnixStream,
    buffer: FrameBuffer,
    fds: VecDeque<OwnedFd>,
}

impl From<UnixStream> for Framed {
    fn from(stream: UnixStream) -> Self {
        Self { stream, buffer: FrameBuffer::default(), fds: VecDeque::new() }
    }
}

impl Framed {
    /// One on which no message of more than so many bytes is taken.
    pub fn with_limit(stream: UnixStream, limit: usize) -> Self {
        Self { stream, buffer: FrameBuffer::with_limit(limit), fds: VecDeque::new() }
    }

    /// The uid of the other end when it connected, as the kernel knows it.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.stream.peer_cred()?.uid())
    }

    /// Sends a message.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), SocketError> {
        let frame = encode(message)?;
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Sends a message whose first byte carries a file descriptor. The caller's stays open.
    pub async fn send_with_fd<T: Serialize>(
        &mut self,
        message: &T,
        fd: BorrowedFd<'_>,
    ) -> Result<(), SocketError> {
        let frame = encode(message)?;
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = [fd];
                if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                    return Err(io::Error::other("no room for a file descriptor"));
                }
                let sent = rustix::net::sendmsg(
                    &self.stream,
                    &[IoSlice::new(&frame)],
                    &mut control,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                )?;
                Ok(sent)
            })
            .await?;
        Ok(self.stream.write_all(&frame[sent..]).await?)
    }

    /// The next message; none at the end of data. Can be dropped and called again.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SocketError> {
        loop {
            if let Some(message) = self.buffer.take()? {
                return Ok(Some(message));
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(SocketError::Cut) };
            }
        }
    }

    /// Resolves when the other end closes, or says something although it has nothing to say.
    pub async fn closed(&mut self) {
        let _ = self.fill().await;
    }

    /// The file descriptor that came with the messages so far, oldest first.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Says that nothing more will be sent; receiving goes on.
    pub async fn finish(&mut self) -> Result<(), SocketError> {
        Ok(self.stream.shutdown().await?)
    }

    async fn fill(&mut self) -> Result<usize, SocketError> {
        // On the heap: futures that hold this one stay small.
        let mut chunk = vec![0; CHUNK];
        let Self { stream, buffer, fds } = self;
        let (count, passed) = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let received = rustix::net::recvmsg(
                    &*stream,
                    &mut [IoSliceMut::new(&mut chunk)],
                    &mut control,
                    RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
                )?;
                let mut passed = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        passed.extend(rights);
                    }
                }
                Ok((received.bytes, passed))
            })
            .await?;
        if fds.len() + passed.len() > MAX_FDS {
            return Err(SocketError::TooManyFds);
        }
        fds.extend(passed);
        buffer.push(&chunk[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use protocol::local::WardenRequest;

    use super::*;

    fn pair() -> (Framed, Framed) {
        let (a, b) = UnixStream::pair().unwrap();
        (a.into(), b.into())
    }

    #[tokio::test]
    async fn messages_and_descriptors_arrive_together() {
        let (mut a, mut b) = pair();
        let (mut inside, outside) = std::os::unix::net::UnixStream::pair().unwrap();
        a.send(&WardenRequest::Status {}).await.unwrap();
        a.send_with_fd(&WardenRequest::Results {}, outside.as_fd()).await.unwrap();
        drop((outside, a));
        assert_eq!(b.receive().await.unwrap(), Some(WardenRequest::Status {}));
        assert_eq!(b.receive().await.unwrap(), Some(WardenRequest::Results {}));
        let mut passed = std::os::unix::net::UnixStream::from(b.take_fd().unwrap());
        assert!(b.take_fd().is_none());
        passed.write_all(b"hello").unwrap();
        drop(passed);
        let mut text = String::new();
        inside.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(b.receive::<WardenRequest>().await.unwrap(), None);
    }

    #[tokio::test]
    async fn large_messages_and_half_messages() {
        let (mut a, mut b) = pair();
        let large =
            WardenRequest::Session { envelope: protocol::Envelope::new(vec![7; 2_000_000].into(), vec![]) };
        let sending = async { a.send(&large).await.unwrap() };
        let receiving = b.receive::<WardenRequest>();
        let ((), received) = tokio::join!(sending, receiving);
        assert_eq!(received.unwrap(), Some(large));
        a.stream.write_all(&[0, 0, 0, 9, b'{']).await.unwrap();
        drop(a);
        assert!(matches!(b.receive::<WardenRequest>().await, Err(SocketError::Cut)));
    }

    #[tokio::test]
    async fn hostile_peers_get_errors() {
        let (mut a, mut b) = pair();
        a.stream.write_all(&[0xff; 8]).await.unwrap();
        assert!(matches!(b.receive::<WardenRequest>().await, Err(SocketError::Frame(_))));
        let (mut a, mut b) = pair();
        let (_x, fd) = std::os::unix::net::UnixStream::pair().unwrap();
        for _ in 0..=MAX_FDS {
            a.send_with_fd(&WardenRequest::Status {}, fd.as_fd()).await.unwrap();
        }
        let mut last = Ok(());
        for _ in 0..=MAX_FDS {
            last = b.receive::<WardenRequest>().await.map(drop);
        }
        assert!(matches!(last, Err(SocketError::TooManyFds)));
        let (a, mut b) = pair();
        drop(a);
        b.closed().await;
    }
}
