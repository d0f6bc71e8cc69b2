//! One session, without tunnels and TLS around it.

use super::*;
use protocol::tunnel::MAX_DATA;

/// A session without tunnels around it.
async fn held(warden: &mut FakeWarden) -> (UnixStream, HeldSession, Framed, UnixStream) {
    let client = Warden::new(&warden.socket);
    let asking = tokio::spawn(async move { client.session(order()).await });
    let (_, mut framed) = warden.session().await;
    let (session, passed) = UnixStream::pair().unwrap();
    let ready = WardenAnswer::SessionReady { receipt: signed(1) };
    framed.send_with_fd(&ready, passed.as_fd()).await.unwrap();
    let Ok(SessionAnswer::Ready { socket, held, .. }) = soon(asking).await.unwrap() else { panic!() };
    (socket, held, framed, session)
}

/// A session whose end nobody explains is over all the same. No deadline of the test's own here: they
/// are all that happens while time is paused.
#[tokio::test]
async fn a_silent_warden_does_not_keep_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let mut warden = FakeWarden::start(dir.path(), |_, _| vec![]);
    let (socket, mut holding, mut framed, session) = held(&mut warden).await;
    let (agent, mut hub) = tokio::io::duplex(2000);
    let (_stop, stopped) = oneshot::channel();
    let running = tokio::spawn(async move { run(agent, &[], socket, &mut holding, stopped).await });
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    drop(session);
    let why = running.await.unwrap();
    assert!(why.contains("does not say why"), "{why}");
    assert!(begun.elapsed().as_secs() >= 5, "it was waited for");
    let mut told = Vec::new();
    hub.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, close_frame(&why));
    assert!(is_let_go(&mut framed).await);
}

/// Writes until nothing more is taken; gives the number of bytes.
async fn fill(session: &UnixStream) -> usize {
    let (chunk, mut taken, mut idle) = (vec![5; 16 * 1024], 0, 0);
    while idle < 2000 {
        match session.try_write(&chunk) {
            Ok(length) => (taken, idle) = (taken + length, 0),
            Err(_) => {
                idle += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    taken
}

#[tokio::test]
async fn a_slow_reader_slows_the_session_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut warden = FakeWarden::start(dir.path(), |_, _| vec![]);
    let (socket, mut holding, mut framed, session) = held(&mut warden).await;
    let (mut agent, mut hub) = tokio::io::duplex(1000);
    let relaying = tokio::spawn(async move {
        let ended = relay(&mut agent, &[], Session { socket, held: &mut holding }).await;
        // Kept until the other end has read everything.
        (ended, agent)
    });
    let taken = fill(&session).await;
    assert!(taken > MAX_DATA && taken < 2 << 20, "{taken} bytes were taken by nobody");
    let mut got = 0;
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 100_000]);
    while got < taken {
        let length = soon(hub.read(&mut buffer)).await.unwrap();
        let mut input = &buffer[..length];
        while let Some(Piece::Data(bytes)) = decoder.take(&mut input).unwrap() {
            got += bytes.len();
        }
    }
    assert_eq!(got, taken);
    assert!(fill(&session).await > MAX_DATA, "and goes on when it reads");
    // In the middle of a frame nothing else may be said.
    drop(framed.finish().await);
    drop(framed);
    let ((end, whole), _) = soon(relaying).await.unwrap();
    assert!(matches!(end, End::Over(Some(Err(_)))) && !whole, "{end:?} {whole}");
}

/// The other direction: a session that does not read.
#[tokio::test]
async fn a_session_that_does_not_read_slows_the_operator_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut warden = FakeWarden::start(dir.path(), |_, _| vec![]);
    let (socket, mut holding, _framed, mut session) = held(&mut warden).await;
    let (mut agent, hub) = tokio::io::duplex(1000);
    // The first bytes came with the answer to the upgrade.
    let early = [&data_header(5).unwrap()[..], b"ear"].concat();
    let relaying =
        tokio::spawn(async move { relay(&mut agent, &early, Session { socket, held: &mut holding }).await });
    let (mut from_hub, mut to_hub) = tokio::io::split(hub);
    let words = noise(4, 8 << 20);
    let all = words.clone();
    let writing = tokio::spawn(async move {
        to_hub.write_all(b"ly").await.unwrap();
        send(&mut to_hub, &all).await;
        to_hub
    });
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished(), "8 MiB were taken by nobody");
    // It may talk meanwhile.
    session.write_all(b"busy").await.unwrap();
    let mut said = [0; 8];
    soon(from_hub.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"\0\0\0\x04busy");
    let mut got = vec![0; 5 + words.len()];
    soon(session.read_exact(&mut got)).await.unwrap();
    assert!(got[..5] == *b"early" && got[5..] == words);
    let mut to_hub = soon(writing).await.unwrap();
    to_hub.write_all(&close_frame("bye")).await.unwrap();
    let (end, whole) = soon(relaying).await.unwrap();
    assert!(matches!(&end, End::Closed(why) if why == "bye") && whole, "{end:?}");
}
