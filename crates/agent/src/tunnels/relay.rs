//! Carrying a session's bytes between its socket on the host and the hub's data connection.
//!
//! One task, two buffers, no queue: a direction reads again only when what it read is written, so a
//! slow reader at one end slows the writer at the other. Frames are made in the buffer that is read
//! into, and taken apart without a copy.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{Fuse, FutureExt as _};
use protocol::Signed;
use protocol::tunnel::{Decoder, HEADER, MAX_DATA, Piece, TunnelError, close_frame, data_header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::warden::{HeldSession, WardenError};

/// Most bytes that are read at once, with the header before them: whole TLS records.
const BUFFER: usize = MAX_DATA;
/// For what the session still had to say when it ended.
const DRAIN: Duration = Duration::from_secs(30);
/// For a goodbye to the hub.
const GOODBYE: Duration = Duration::from_secs(5);

/// A session on this host.
pub struct Session<'a> {
    /// Into it.
    pub socket: UnixStream,
    /// What keeps it alive.
    pub held: &'a mut HeldSession,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// The session is over, with the warden's last word if it came.
    Over(Option<Result<Signed, WardenError>>),
    /// The other end said goodbye; printable.
    Closed(String),
    /// The data connection broke.
    Lost(String),
    /// What came through it is no tunnel.
    Garbage(TunnelError),
}

/// Carries bytes until one end is gone. `early` is what came from the hub already. The session's
/// socket is closed when this returns; the hub's connection stays. The second value says whether the
/// frames sent to the hub are whole, so that another one may follow.
pub async fn relay<S>(hub: &mut S, early: &[u8], session: Session<'_>) -> (End, bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let whole = AtomicBool::new(true);
    let end = both_ways(hub, early, session, &whole).await;
    (end, whole.into_inner())
}

async fn both_ways<S>(hub: &mut S, early: &[u8], session: Session<'_>, whole: &AtomicBool) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Session { mut socket, held } = session;
    let (mut from_session, mut to_session) = socket.split();
    let (mut from_hub, mut to_hub) = tokio::io::split(hub);
    let mut upwards = std::pin::pin!(upwards(&mut from_session, &mut to_hub, whole));
    let mut downwards = std::pin::pin!(downwards(&mut from_hub, early, &mut to_session));
    let mut draining = std::pin::pin!(Fuse::terminated());
    let mut last_word = None;
    loop {
        // Not in a fixed order: a direction that is always ready must not starve the other one.
        tokio::select! {
            up = &mut upwards => match up {
                Up::SessionOver if last_word.is_some() => return End::Over(last_word),
                Up::SessionOver => return End::Over(held.last_word().await),
                Up::HubLost(why) => return End::Lost(why),
            },
            end = &mut downwards => return end,
            ended = held.ended() => match ended {
                // The session's last bytes may still be on their way.
                Ok(receipt) => {
                    last_word = Some(Ok(receipt));
                    draining.set(sleep(DRAIN).fuse());
                }
                Err(error) => return End::Over(Some(Err(error))),
            },
            () = &mut draining => return End::Over(last_word),
        }
    }
}

enum Up {
    SessionOver,
    HubLost(String),
}

async fn upwards<R, W>(session: &mut R, hub: &mut W, whole: &AtomicBool) -> Up
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match session.read(&mut buffer[HEADER..]).await {
            Ok(length) => length,
            // Also when the session closed without reading all that was written to it.
            Err(_) => return Up::SessionOver,
        };
        let Some(header) = data_header(length) else { return Up::SessionOver };
        buffer[..HEADER].copy_from_slice(&header);
        whole.store(false, Ordering::Relaxed);
        let sent = async {
            hub.write_all(&buffer[..HEADER + length]).await?;
            hub.flush().await
        };
        if let Err(error) = sent.await {
            return Up::HubLost(error.to_string());
        }
        whole.store(true, Ordering::Relaxed);
    }
}

async fn downwards<R, W>(hub: &mut R, early: &[u8], session: &mut W) -> End
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut sink = Sink { decoder: Decoder::default(), session, deaf: false };
    if let Some(end) = sink.take(early).await {
        return end;
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        match hub.read(&mut buffer).await {
            Ok(0) if sink.decoder.is_between_frames() => {
                return End::Lost("closed without a reason".to_owned());
            }
            Ok(0) => return End::Lost("closed in the middle of a frame".to_owned()),
            Ok(length) => {
                if let Some(end) = sink.take(&buffer[..length]).await {
                    return end;
                }
            }
            Err(error) => return End::Lost(error.to_string()),
        }
    }
}

struct Sink<'a, W> {
    decoder: Decoder,
    session: &'a mut W,
    /// The session reads no more. It may still have something to say, so this is no end.
    deaf: bool,
}

impl<W: AsyncWrite + Unpin> Sink<'_, W> {
    async fn take(&mut self, mut input: &[u8]) -> Option<End> {
        loop {
            match self.decoder.take(&mut input) {
                Ok(Some(Piece::Data(_))) if self.deaf => {}
                Ok(Some(Piece::Data(bytes))) => self.deaf = self.session.write_all(bytes).await.is_err(),
                Ok(Some(Piece::Close(why))) => return Some(End::Closed(why)),
                Ok(None) => return None,
                Err(error) => return Some(End::Garbage(error)),
            }
        }
    }
}

/// Says goodbye to the hub, with a reason if it does not know it, and waits until it closes: closing
/// with unread bytes would take back what is still on its way there.
pub async fn hang_up<S>(hub: &mut S, why: Option<&str>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let goodbye = async {
        if let Some(why) = why {
            hub.write_all(&close_frame(why)).await?;
        }
        hub.shutdown().await?;
        let mut rest = vec![0; HEADER * 1024];
        while hub.read(&mut rest).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Whether it arrives is not ours to know.
    let _ = timeout(GOODBYE, goodbye).await;
}
