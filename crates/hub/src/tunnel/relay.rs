//! Copying between the two ends of a tunnel. The bytes are opaque, memory is bounded, and a side that
//! does not take stops the reading of the other.
//!
//! One task moves both directions, so a chunk is handed from no task to another. Everything that is
//! half done stands in [`Relay`] and not in a future: whoever waits for it may stop waiting and go on
//! with [`Relay::finish`], and nothing that was read is lost.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::End;
use crate::server::Connection;
use crate::store::Relayed;

/// Bytes of buffer for each direction. Half of it is as good, a quarter costs a tenth more CPU (measured
/// against a bare relay of two TLS connections, which this one equals).
const BUFFER: usize = 64 * 1024;
/// After so many bytes in one direction without a pause the task lets others have its thread: a worker
/// asks for news from the network only between polls.
const TURN: usize = BUFFER;

/// What a relay can copy from and to.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One end's connection.
pub(crate) struct Connected {
    pub(crate) stream: Box<dyn Stream>,
    /// What was read from it before it became one.
    pub(crate) read: Bytes,
    /// Its place among the hub's connections, until it ends.
    pub(crate) place: Option<Connection>,
}

/// How far both directions are, also for those who only look.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    to_host: AtomicU64,
    from_host: AtomicU64,
}

impl Counts {
    pub(crate) fn now(&self) -> Relayed {
        Relayed {
            to_host: self.to_host.load(Ordering::Relaxed),
            from_host: self.from_host.load(Ordering::Relaxed),
        }
    }
}

/// How copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Whose connection ended first.
    pub(crate) end: End,
    /// Not by closing it, but by an error.
    pub(crate) broken: bool,
}

/// Both ends and what is on its way between them.
pub(crate) struct Relay {
    operator: Side,
    host: Side,
    counts: Arc<Counts>,
}

/// One end, and the bytes that were read from it.
struct Side {
    stream: Box<dyn Stream>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Nothing more will be read from it.
    ended: bool,
    /// It has been given bytes that may still wait in its TLS.
    unflushed: bool,
    /// Nothing can be written to it any more, or it was told that there is no more.
    shut: bool,
    _place: Option<Connection>,
}

impl Side {
    fn new(Connected { stream, read, place }: Connected) -> Self {
        // hyper reads at most a few KiB before it sees the end of a request.
        let mut buffer = vec![0; BUFFER.max(read.len())].into_boxed_slice();
        buffer[..read.len()].copy_from_slice(&read);
        Self {
            stream,
            buffer,
            start: 0,
            end: read.len(),
            ended: false,
            unflushed: false,
            shut: false,
            _place: place,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end += read;
        self.ended = read == 0;
        Poll::Ready(Ok(()))
    }

    /// Writes what was read to `other`, until that takes no more.
    fn poll_write_to(
        &mut self,
        other: &mut Self,
        count: &AtomicU64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.start < self.end {
            let bytes = &self.buffer[self.start..self.end];
            let written = std::task::ready!(Pin::new(&mut other.stream).poll_write(cx, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += written;
            other.unflushed = true;
            count.fetch_add(written as u64, Ordering::Relaxed);
        }
        (self.start, self.end) = (0, 0);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that there is no more, and waits until the other end says so too. Closing earlier, with
    /// bytes of the other end unread, would take back what has not arrived there yet.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.shut {
            self.shut = std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_ok();
            self.ended |= !self.shut;
        }
        // Not into the buffer, which may hold what the other end still waits for.
        let mut nowhere = [0; 4096];
        while !self.ended {
            let mut room = ReadBuf::new(&mut nowhere);
            let read = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
            self.ended = read.is_err() || room.filled().is_empty();
        }
        Poll::Ready(())
    }
}

/// Which of the two connections failed.
enum Failed {
    From,
    To,
}

/// Moves bytes from one side to the other until one of them has none or takes none. Ready when there
/// will never be more.
fn poll_direction(
    from: &mut Side,
    to: &mut Side,
    count: &AtomicU64,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failed>> {
    let mut moved = 0;
    loop {
        // Nothing is read while something waits to be written: that is the back-pressure.
        std::task::ready!(from.poll_write_to(to, count, cx)).map_err(|_| Failed::To)?;
        if from.ended {
            std::task::ready!(to.poll_flush(cx)).map_err(|_| Failed::To)?;
            return Poll::Ready(Ok(()));
        }
        if moved >= TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match from.poll_read(cx) {
            Poll::Ready(Ok(())) => moved += from.end,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Failed::From)),
            Poll::Pending => {
                std::task::ready!(to.poll_flush(cx)).map_err(|_| Failed::To)?;
                return Poll::Pending;
            }
        }
    }
}

impl Relay {
    pub(crate) fn new(operator: Connected, host: Connected, counts: Arc<Counts>) -> Self {
        Self { operator: Side::new(operator), host: Side::new(host), counts }
    }

    /// Copies until an end closes its connection or breaks it. May be dropped and called again.
    pub(crate) async fn copy(&mut self) -> Ended {
        poll_fn(|cx| self.poll_copy(cx)).await
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Self { operator, host, counts } = self;
        let ended = |result, from, to| match result {
            Ok(()) => Ended { end: from, broken: false },
            Err(Failed::From) => Ended { end: from, broken: true },
            Err(Failed::To) => Ended { end: to, broken: true },
        };
        if let Poll::Ready(result) = poll_direction(host, operator, &counts.from_host, cx) {
            return Poll::Ready(ended(result, End::Host, End::Operator));
        }
        if let Poll::Ready(result) = poll_direction(operator, host, &counts.to_host, cx) {
            return Poll::Ready(ended(result, End::Operator, End::Host));
        }
        Poll::Pending
    }

    /// Delivers what was read, says to both ends that there is no more, and waits for them to close
    /// too. What has not happened after `patience` does not happen.
    pub(crate) async fn finish(mut self, patience: Duration) {
        let _ = timeout(patience, poll_fn(|cx| self.poll_finish(cx))).await;
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { operator, host, counts } = self;
        let one = poll_last(host, operator, &counts.from_host, cx);
        let other = poll_last(operator, host, &counts.to_host, cx);
        if one.is_ready() && other.is_ready() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Delivers what was read from one side to the other and closes that one.
fn poll_last(from: &mut Side, to: &mut Side, count: &AtomicU64, cx: &mut Context<'_>) -> Poll<()> {
    if !to.shut {
        // An error means that there is nobody to deliver to; closing finds that out as well.
        let _ = std::task::ready!(from.poll_write_to(to, count, cx));
    }
    to.poll_close(cx)
}

/// Closes a connection that found no other end.
pub(crate) async fn close(connected: Connected, patience: Duration) {
    let mut side = Side::new(connected);
    let _ = timeout(patience, poll_fn(|cx| side.poll_close(cx))).await;
}

#[cfg(test)]
mod tests;
