//! The operator's end of a session's data connection: bytes of an SSH client, in the frames of
//! [`protocol::tunnel`], both ways. Nothing here knows what the bytes mean.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use protocol::tunnel::{Decoder, HEADER, MAX_DATA, Piece, TunnelError, close_frame, data_header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// How long a last word to the other end may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the relay ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The other end does not speak frames.
    #[error(transparent)]
    Frames(#[from] TunnelError),
    /// The connection to the hub.
    #[error("the connection to the hub broke during the session ({0}): what was under way may be unfinished")]
    Connection(#[source] io::Error),
    /// The hub hung up in the middle.
    #[error("the hub ended the connection without a word: what was under way may be unfinished")]
    Silence,
    /// Standard input or output.
    #[error("standard {name} cannot be used ({source}): start `writ connect` as a ProxyCommand of ssh")]
    Stdio {
        /// input or output.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// How the relay ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The client on this side is gone.
    Here,
    /// A signal.
    Stopped,
    /// The other end closed, with its reason, made printable. Empty for an ordinary end.
    There(String),
}

/// Copies until one side ends. `stop` ends it from here.
pub async fn relay<I, O, T>(
    mut input: I,
    mut output: O,
    tunnel: T,
    stop: impl Future<Output = ()>,
) -> Result<Ended, RelayError>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite,
{
    let (mut from_hub, mut to_hub) = tokio::io::split(tunnel);
    let ended = tokio::select! {
        // Not biased: with much to do in one direction the other one would starve.
        ended = download(&mut from_hub, &mut output) => ended?,
        ended = upload(&mut input, &mut to_hub) => ended?,
        () = stop => Ended::Stopped,
    };
    if !matches!(ended, Ended::There(_)) {
        // The host would notice the closed connection too; so it also hears why.
        let farewell = async {
            to_hub.write_all(&close_frame("the operator's client ended the connection")).await?;
            to_hub.shutdown().await
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
    Ok(ended)
}

/// One frame for each read: header and payload in one buffer, so that they leave as one write.
async fn upload<I, W>(input: &mut I, to_hub: &mut W) -> Result<Ended, RelayError>
where
    I: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; HEADER + MAX_DATA];
    loop {
        let length = match input.read(&mut buffer[HEADER..]).await {
            Ok(length) => length,
            // The client is gone, however it went.
            Err(_) => return Ok(Ended::Here),
        };
        let Some(header) = data_header(length) else { return Ok(Ended::Here) };
        buffer[..HEADER].copy_from_slice(&header);
        to_hub.write_all(&buffer[..HEADER + length]).await.map_err(RelayError::Connection)?;
        to_hub.flush().await.map_err(RelayError::Connection)?;
    }
}

async fn download<R, O>(from_hub: &mut R, output: &mut O) -> Result<Ended, RelayError>
where
    R: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; HEADER + MAX_DATA];
    let mut decoder = Decoder::default();
    loop {
        let length = from_hub.read(&mut buffer).await.map_err(RelayError::Connection)?;
        if length == 0 {
            return Err(RelayError::Silence);
        }
        let mut rest = &buffer[..length];
        while let Some(piece) = decoder.take(&mut rest)? {
            match piece {
                Piece::Data(bytes) => {
                    if output.write_all(bytes).await.is_err() {
                        return Ok(Ended::Here);
                    }
                }
                Piece::Close(why) => {
                    let _ = output.flush().await;
                    return Ok(Ended::There(why));
                }
            }
        }
        if output.flush().await.is_err() {
            return Ok(Ended::Here);
        }
    }
}

/// Standard input as ssh gives it: a pipe or a socket, asked for by the reactor. Anything else is read by a
/// thread, which is slower.
pub fn stdin() -> Result<Box<dyn AsyncRead + Unpin + Send>, RelayError> {
    reader(io::stdin()).map_err(|source| RelayError::Stdio { name: "input", source })
}

/// Standard output, likewise.
pub fn stdout() -> Result<Box<dyn AsyncWrite + Unpin + Send>, RelayError> {
    writer(io::stdout()).map_err(|source| RelayError::Stdio { name: "output", source })
}

fn reader(fd: impl AsFd) -> io::Result<Box<dyn AsyncRead + Unpin + Send>> {
    match kind(&fd)? {
        (Stdio::Pipe, fd) => Ok(Box::new(pipe::Receiver::from_owned_fd(fd)?)),
        (Stdio::Socket, fd) => Ok(Box::new(socket(fd)?)),
        (Stdio::Other, fd) => {
            // A thread of its own: the runtime would wait at its end for a read that may never come.
            let (mut feed, fed) = tokio::io::duplex(MAX_DATA);
            let handle = tokio::runtime::Handle::current();
            let mut file = std::fs::File::from(fd);
            std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
                let mut buffer = vec![0; MAX_DATA];
                while let Ok(length) = io::Read::read(&mut file, &mut buffer) {
                    if length == 0 || handle.block_on(feed.write_all(&buffer[..length])).is_err() {
                        break;
                    }
                }
            })?;
            Ok(Box::new(fed))
        }
    }
}

fn writer(fd: impl AsFd) -> io::Result<Box<dyn AsyncWrite + Unpin + Send>> {
    match kind(&fd)? {
        (Stdio::Pipe, fd) => Ok(Box::new(pipe::Sender::from_owned_fd(fd)?)),
        (Stdio::Socket, fd) => Ok(Box::new(socket(fd)?)),
        (Stdio::Other, _) => Ok(Box::new(tokio::io::stdout())),
    }
}

enum Stdio {
    Pipe,
    Socket,
    Other,
}

fn kind(fd: &impl AsFd) -> io::Result<(Stdio, OwnedFd)> {
    let file = std::fs::File::from(fd.as_fd().try_clone_to_owned()?);
    let found = file.metadata()?.file_type();
    let kind = if found.is_fifo() {
        Stdio::Pipe
    } else if found.is_socket() {
        Stdio::Socket
    } else {
        Stdio::Other
    };
    Ok((kind, file.into()))
}

fn socket(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::io::{DuplexStream, duplex};

    /// A relay between a client and a hub, each held by the test.
    fn relaying() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Result<Ended, RelayError>>) {
        let (client, near) = duplex(1 << 20);
        let (hub, tunnel) = duplex(1 << 20);
        let task = tokio::spawn(async move {
            let (input, output) = tokio::io::split(near);
            relay(input, output, tunnel, pending()).await
        });
        (client, hub, task)
    }

    async fn frame(hub: &mut DuplexStream) -> (u8, Vec<u8>) {
        let mut header = [0; HEADER];
        hub.read_exact(&mut header).await.unwrap();
        let [kind, a, b, c] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        hub.read_exact(&mut payload).await.unwrap();
        (kind, payload)
    }

    #[tokio::test]
    async fn bytes_travel_in_frames_both_ways() {
        let (mut client, mut hub, task) = relaying();
        let big: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        client.write_all(&big).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < big.len() {
            let (kind, payload) = frame(&mut hub).await;
            assert!(kind == 0 && (1..=MAX_DATA).contains(&payload.len()));
            seen.extend_from_slice(&payload);
        }
        assert!(seen == big);
        let framed = [&data_header(5).unwrap()[..], b"hello", &data_header(1).unwrap(), b"!"].concat();
        // Cut where it hurts.
        for part in framed.chunks(3) {
            hub.write_all(part).await.unwrap();
        }
        let mut got = [0; 6];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello!");
        hub.write_all(&close_frame("idle for 600 s\u{1b}[2J")).await.unwrap();
        assert_eq!(task.await.unwrap().unwrap(), Ended::There("idle for 600 s?[2J".into()));
    }

    #[tokio::test]
    async fn a_client_that_leaves_says_goodbye() {
        let (client, mut hub, task) = relaying();
        drop(client);
        let (kind, why) = frame(&mut hub).await;
        assert_eq!((kind, why.as_slice()), (1, b"the operator's client ended the connection".as_slice()));
        assert_eq!(task.await.unwrap().unwrap(), Ended::Here);
        assert_eq!(hub.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_ends_it_even_when_nobody_reads() {
        let (_client, near) = duplex(64);
        // Full at once: the goodbye cannot be delivered.
        let (_hub, tunnel) = duplex(1);
        let (input, output) = tokio::io::split(near);
        let ended = relay(input, output, tunnel, std::future::ready(())).await.unwrap();
        assert_eq!(ended, Ended::Stopped);
    }

    #[tokio::test]
    async fn what_the_host_said_before_it_closed_is_not_lost() {
        let (mut client, mut hub, task) = relaying();
        let last = [&data_header(4).unwrap()[..], b"last", &close_frame("")].concat();
        hub.write_all(&last).await.unwrap();
        assert_eq!(task.await.unwrap().unwrap(), Ended::There(String::new()));
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last");
    }

    #[tokio::test]
    async fn hostile_frames_and_silence_are_errors() {
        for (bytes, silent) in [
            (&[9u8, 0, 0, 1, 0][..], false),
            (&[0, 0xff, 0xff, 0xff], false),
            (&[1, 0xff, 0, 0], false),
            (&[0, 0, 0, 9, 1, 2], true),
            (&[0, 0], true),
            (&[], true),
        ] {
            let (_client, mut hub, task) = relaying();
            hub.write_all(bytes).await.unwrap();
            drop(hub);
            let error = task.await.unwrap().unwrap_err();
            assert_eq!(matches!(error, RelayError::Silence), silent, "{bytes:?}: {error}");
            assert_eq!(matches!(error, RelayError::Frames(_)), !silent, "{bytes:?}: {error}");
        }
    }

    #[tokio::test]
    async fn pipes_sockets_and_files_can_be_read() {
        let (receiver, mut sender) = io::pipe().unwrap();
        io::Write::write_all(&mut sender, b"pipe").unwrap();
        drop(sender);
        let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        io::Write::write_all(&mut here, b"pair").unwrap();
        drop(here);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"file").unwrap();
        let file = std::fs::File::open(dir.path().join("f")).unwrap();
        for (fd, says) in [(OwnedFd::from(receiver), "pipe"), (there.into(), "pair"), (file.into(), "file")] {
            let mut text = String::new();
            reader(fd).unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, says);
        }
        let (mut receiver, sender) = io::pipe().unwrap();
        let mut to = writer(&sender).unwrap();
        drop(sender);
        to.write_all(b"out").await.unwrap();
        drop(to);
        let mut text = String::new();
        io::Read::read_to_string(&mut receiver, &mut text).unwrap();
        assert_eq!(text, "out");
    }
}
