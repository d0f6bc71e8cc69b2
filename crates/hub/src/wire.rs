//! A TCP connection that can read ahead. rustls asks for 4 KiB at a time, which makes four system calls
//! of every full record; a relay has better things to do. Connections that carry little stay without
//! the buffer, because there may be thousands of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read at once.
const AHEAD: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: Box::default(), start: 0, end: 0 }
    }

    /// From now on, read as much as there is.
    pub(crate) fn read_ahead(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = vec![0; AHEAD].into_boxed_slice();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, ahead, start, end } = &mut *self;
        if start == end {
            if out.remaining() >= ahead.len() {
                return Pin::new(stream).poll_read(cx, out);
            }
            let mut room = ReadBuf::new(ahead);
            ready!(Pin::new(stream).poll_read(cx, &mut room))?;
            (*start, *end) = (0, room.filled().len());
        }
        let taken = out.remaining().min(*end - *start);
        out.put_slice(&ahead[*start..*start + taken]);
        *start += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
