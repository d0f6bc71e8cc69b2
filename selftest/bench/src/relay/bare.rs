//! The floor: two TLS 1.3 connections that meet in a relay, and nothing else. The operator's end and the
//! host's end both dial; the relay pairs them by a number and copies.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here a far end behind a socket pair"
)]

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConnection, StreamOwned};
use scenarios::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::near::{Link, Near};
use super::{CHUNK, far};
use crate::part::{READY, start};
use crate::{Fallible, ground, tls};

/// The processes of a floor; they end with this.
pub(crate) struct Bare {
    _relay: Process,
    _dialer: Process,
}

/// Starts a floor and opens its streams. With `pairs` the far ends are processes behind socket pairs, as
/// sessions are; without, they are in the process that dials.
pub(crate) async fn open(name: &str, dir: &Path, streams: u8, pairs: bool) -> Fallible<(Bare, Vec<Near>)> {
    let text = dir.display().to_string();
    let (relay, port) = start(&format!("{name}-relay"), &["relay", "--dir", &text], dir).await?;
    let count = streams.to_string();
    let mut args = vec!["dial", "--dir", &text, "--port", &port, "--streams", &count];
    args.extend(pairs.then_some("--pairs"));
    let (dialer, _) = start(&format!("{name}-dialer"), &args, dir).await?;
    let config = tls::client(dir)?;
    let mut nears = Vec::new();
    for number in 0..streams {
        let mut stream = tls::dial(port.parse()?, config.clone()).await?;
        stream.write_all(&[number]).await?;
        stream.flush().await?;
        nears.push(Near::new(Link::Tls(Box::new(stream))));
    }
    Ok((Bare { _relay: relay, _dialer: dialer }, nears))
}

/// The relay's process.
pub(crate) async fn relay(dir: &Path) -> Fallible<()> {
    let acceptor = tls::acceptor(dir)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{READY} {}", listener.local_addr()?.port());
    let waiting: Arc<Mutex<HashMap<u8, TlsStream<TcpStream>>>> = Arc::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, waiting) = (acceptor.clone(), waiting.clone());
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let number = stream.read_u8().await?;
            let (mut one, mut other) = {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                match waiting.remove(&number) {
                    Some(other) => (other, stream),
                    None => {
                        waiting.insert(number, stream);
                        return Ok(());
                    }
                }
            };
            copy_bidirectional_with_sizes(&mut one, &mut other, CHUNK, CHUNK).await?;
            std::io::Result::Ok(())
        });
    }
}

/// The process that dials.
pub(crate) async fn dial(dir: &Path, port: u16, streams: u8, pairs: bool) -> Fallible<()> {
    let config = tls::client(dir)?;
    let mut open = JoinSet::new();
    for number in 0..streams {
        if pairs {
            let mut stream = tls::dial(port, config.clone()).await?;
            stream.write_all(&[number]).await?;
            stream.flush().await?;
            let (ours, theirs) = StdUnixStream::pair()?;
            let mut process = far_process(theirs)?;
            ours.set_nonblocking(true)?;
            let mut ours = UnixStream::from_std(ours)?;
            open.spawn(async move {
                copy_bidirectional_with_sizes(&mut stream, &mut ours, CHUNK, CHUNK).await?;
                drop(ours);
                process.wait().await.map(drop)
            });
        } else {
            let config = config.clone();
            let name = tls::here()?;
            let stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            // Blocking: the least that an end can cost.
            open.spawn_blocking(move || {
                let tls = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
                let mut stream = StreamOwned::new(tls, stream);
                std::io::Write::write_all(&mut stream, &[number])?;
                far::serve(stream)
            });
        }
    }
    println!("{READY}");
    while open.join_next().await.is_some() {}
    Ok(())
}

/// A far end as a session is started: both standard streams are the one socket.
fn far_process(socket: StdUnixStream) -> Fallible<tokio::process::Child> {
    let output: OwnedFd = socket.try_clone()?.into();
    let input: OwnedFd = socket.into();
    let mut command = Command::new(ground::me()?);
    command.args(["part", "far"]).stdin(Stdio::from(input)).stdout(Stdio::from(output)).kill_on_drop(true);
    Ok(command.spawn()?)
}
