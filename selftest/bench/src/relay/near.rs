//! The near end of a stream: what stands where an operator's tool would, over anything that carries bytes
//! to a far end ([`super::far`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protocol::tunnel::{Decoder, HEADER, Piece, data_header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio_rustls::client::TlsStream;

use super::CHUNK;
use super::far::{DOWN, ECHO, UP, command};
use crate::Fallible;

/// Asked for at once while a stream is kept busy.
const PORTION: u64 = 4 << 20;

/// What carries the bytes.
pub(crate) enum Link {
    /// TCP and nothing in it.
    Tcp(TcpStream),
    /// TLS and nothing in it.
    Tls(Box<TlsStream<TcpStream>>),
    /// Frames of `protocol::tunnel` in TLS.
    Tunnel(Box<TlsStream<TcpStream>>, Decoder),
    /// A process; it ends with this.
    Pipes {
        /// Only held.
        _process: Box<Child>,
        /// Where it reads.
        input: ChildStdin,
        /// Where it writes.
        output: ChildStdout,
    },
}

/// One stream.
pub(crate) struct Near {
    link: Link,
    /// Received and not yet asked for.
    have: u64,
    input: Vec<u8>,
    /// Room for a frame's header, and what is sent.
    output: Vec<u8>,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the host.
    Up,
    /// From the host.
    Down,
}

impl Near {
    /// On a link that is open.
    pub(crate) fn new(link: Link) -> Self {
        Self { link, have: 0, input: super::noise(CHUNK + HEADER), output: super::noise(CHUNK) }
    }

    /// Moves so many bytes and gives how long it took, until the other end has them.
    pub(crate) async fn bulk(&mut self, way: Way, bytes: u64) -> Fallible<Duration> {
        let start = Instant::now();
        match way {
            Way::Up => {
                self.send(&command(UP, bytes)).await?;
                self.send_noise(bytes).await?;
                self.take(1).await?;
            }
            Way::Down => {
                self.send(&command(DOWN, bytes)).await?;
                self.take(bytes).await?;
            }
        }
        Ok(start.elapsed())
    }

    /// One byte there and back, so many times.
    pub(crate) async fn echo(&mut self, count: u64) -> Fallible<Vec<Duration>> {
        self.send(&command(ECHO, count)).await?;
        let mut samples = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            self.send(b"x").await?;
            self.take(1).await?;
            samples.push(start.elapsed());
        }
        Ok(samples)
    }

    /// Keeps the stream busy until told to stop; gives the bytes that it moved, and the time that took.
    pub(crate) async fn load(&mut self, way: Way, stop: &AtomicBool) -> Fallible<(u64, Duration)> {
        let start = Instant::now();
        let mut asked: u64 = 0;
        let mut taken = 0;
        while !stop.load(Ordering::Relaxed) {
            asked += 1;
            match way {
                Way::Up => {
                    self.send(&command(UP, PORTION)).await?;
                    self.send_noise(PORTION).await?;
                }
                // The next is asked for before the last has come, so that there is no pause between.
                Way::Down => {
                    self.send(&command(DOWN, PORTION)).await?;
                    if asked > 1 {
                        self.take(PORTION).await?;
                        taken += 1;
                    }
                }
            }
        }
        let left = match way {
            Way::Up => asked,
            Way::Down => (asked - taken) * PORTION,
        };
        self.take(left).await?;
        Ok((asked * PORTION, start.elapsed()))
    }

    async fn send(&mut self, bytes: &[u8]) -> Fallible<()> {
        self.output[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
        self.send_output(bytes.len()).await?;
        self.flush().await
    }

    async fn send_noise(&mut self, bytes: u64) -> Fallible<()> {
        // A frame with its header is as long as what the others send at once.
        let most = CHUNK - HEADER;
        let mut left = bytes;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(most).min(most);
            self.send_output(count).await?;
            left -= count as u64;
        }
        self.flush().await
    }

    async fn send_output(&mut self, count: usize) -> Fallible<()> {
        let (all, bare) = (..HEADER + count, HEADER..HEADER + count);
        match &mut self.link {
            Link::Tcp(stream) => stream.write_all(&self.output[bare]).await?,
            Link::Tls(stream) => stream.write_all(&self.output[bare]).await?,
            Link::Tunnel(stream, _) => {
                let header = data_header(count).ok_or("a frame of no length")?;
                self.output[..HEADER].copy_from_slice(&header);
                stream.write_all(&self.output[all]).await?;
            }
            Link::Pipes { input, .. } => input.write_all(&self.output[bare]).await?,
        }
        Ok(())
    }

    async fn flush(&mut self) -> Fallible<()> {
        match &mut self.link {
            Link::Tcp(_) => {}
            Link::Tls(stream) | Link::Tunnel(stream, _) => stream.flush().await?,
            Link::Pipes { input, .. } => input.flush().await?,
        }
        Ok(())
    }

    /// Waits for so many bytes and forgets them.
    async fn take(&mut self, count: u64) -> Fallible<()> {
        while self.have < count {
            self.have += self.receive().await?;
        }
        self.have -= count;
        Ok(())
    }

    async fn receive(&mut self) -> Fallible<u64> {
        let count = match &mut self.link {
            Link::Tcp(stream) => stream.read(&mut self.input).await?,
            Link::Tls(stream) | Link::Tunnel(stream, _) => stream.read(&mut self.input).await?,
            Link::Pipes { output, .. } => output.read(&mut self.input).await?,
        };
        if count == 0 {
            return Err("a stream ended before its time".into());
        }
        let Link::Tunnel(_, decoder) = &mut self.link else { return Ok(count as u64) };
        let mut rest = &self.input[..count];
        let mut data = 0;
        while let Some(piece) = decoder.take(&mut rest)? {
            match piece {
                Piece::Data(bytes) => data += bytes.len() as u64,
                Piece::Close(why) => return Err(format!("a tunnel was closed: {why}").into()),
            }
        }
        Ok(data)
    }
}
