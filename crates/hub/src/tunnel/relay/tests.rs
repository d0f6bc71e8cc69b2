use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream, DuplexStream, duplex};

use super::*;

/// Longer than anything takes; the clock is paused and jumps when nothing moves.
const LONG: Duration = Duration::from_secs(3_600);
/// Bytes that a pipe between relay and end holds.
const PIPE: usize = 1_000;

fn connected(stream: impl Stream + 'static, read: &'static [u8]) -> Connected {
    Connected { stream: Box::new(stream), read: Bytes::from_static(read), place: None }
}

/// A relay with its operator and its host.
fn relay() -> (Relay, DuplexStream, DuplexStream, Arc<Counts>) {
    let ((operator, a), (host, b)) = (duplex(PIPE), duplex(PIPE));
    let counts = Arc::<Counts>::default();
    (Relay::new(connected(a, b""), connected(b, b""), counts.clone()), operator, host, counts)
}

fn noise(size: usize) -> Vec<u8> {
    (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_nothing_is_lost_by_not_waiting() {
    let (mut relay, mut operator, mut host, counts) = relay();
    let sent = noise(1_000_000);
    let mut taken = 0;
    // Nobody reads: at some point nothing more is taken, ever.
    loop {
        let write = async { timeout(LONG, operator.write(&sent[taken..])).await };
        tokio::select! {
            ended = relay.copy() => panic!("{ended:?}"),
            written = write => match written {
                Ok(written) => taken += written.unwrap(),
                Err(_) => break,
            },
        }
    }
    // The two pipes, and what one read found between them.
    assert_eq!(taken, 3 * PIPE);
    assert_eq!(counts.now(), Relayed { to_host: PIPE as u64, from_host: 0 });
    // The other direction is free all the same.
    let both = async {
        host.write_all(b"free").await.unwrap();
        operator.read_exact(&mut [0; 4]).await.unwrap()
    };
    tokio::select! { ended = relay.copy() => panic!("{ended:?}"), _ = both => {} }
    // However often the waiting for it was dropped, every byte comes out, in order.
    let (mut from, mut to) = (tokio::io::split(operator).1, Vec::new());
    let rest = sent[taken..].to_vec();
    let writing = tokio::spawn(async move { from.write_all(&rest).await.map(|()| from) });
    while to.len() < sent.len() {
        let mut some = [0; 777];
        tokio::select! {
            biased;
            got = host.read(&mut some) => to.extend_from_slice(&some[..got.unwrap()]),
            ended = relay.copy() => panic!("{ended:?}"),
        }
    }
    writing.await.unwrap().unwrap();
    assert!(to == sent);
    assert_eq!(counts.now(), Relayed { to_host: 1_000_000, from_host: 4 });
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_delivered_both_ways_before_the_end() {
    let (mut relay, mut operator, mut host, counts) = relay();
    // Twice what a pipe holds: one half waits in the pipe to the end, the other inside the relay.
    let (up, down) = (noise(2 * PIPE), [noise(PIPE), vec![7; PIPE]].concat());
    let writing = async { tokio::join!(operator.write_all(&up), host.write_all(&down)) };
    tokio::select! {
        ended = relay.copy() => panic!("{ended:?}"),
        (one, other) = writing => one.and(other).unwrap(),
    }
    assert!(timeout(LONG, relay.copy()).await.is_err(), "nobody reads and nobody ends");
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    // Both ends wait for the end and neither has closed yet.
    let ends = async { tokio::join!(host.read_to_end(&mut got_up), operator.read_to_end(&mut got_down)) };
    let before = tokio::time::Instant::now();
    let (one, other) = tokio::select! {
        () = relay.finish(LONG) => panic!("it waits until both ends have closed too"),
        ends = ends => ends,
    };
    one.and(other).unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(got_up == up && got_down == down);
    assert_eq!(counts.now(), Relayed { to_host: 2 * PIPE as u64, from_host: 2 * PIPE as u64 });
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_stuck_takes_no_more_than_the_patience() {
    let (mut relay, mut operator, mut host, _) = relay();
    let sent = noise(2_500);
    tokio::select! {
        ended = relay.copy() => panic!("{ended:?}"),
        written = operator.write_all(&sent) => written.unwrap(),
    }
    // The host takes nothing; the operator is told at once all the same.
    let before = tokio::time::Instant::now();
    let told = async {
        operator.read_to_end(&mut Vec::new()).await.unwrap();
        before.elapsed()
    };
    let ((), told) = tokio::join!(relay.finish(Duration::from_secs(5)), told);
    assert_eq!((told, before.elapsed()), (Duration::ZERO, Duration::from_secs(5)));
    let mut got = Vec::new();
    host.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, sent[..PIPE]);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_reported_after_all_that_came_before_it() {
    let (mut relay, mut operator, mut host, _) = relay();
    host.write_all(b"exit status 0").await.unwrap();
    host.shutdown().await.unwrap();
    assert_eq!(relay.copy().await, Ended { end: End::Host, broken: false });
    let mut got = vec![0; 13];
    operator.read_exact(&mut got).await.unwrap();
    assert_eq!(got, b"exit status 0");

    // An end that has gone is noticed when it should take something.
    let ((mut operator, a), (host, b)) = (duplex(PIPE), duplex(PIPE));
    let mut relay = Relay::new(connected(a, b""), connected(b, b"early"), Arc::default());
    drop(host);
    operator.write_all(b"x").await.unwrap();
    assert!(matches!(relay.copy().await, Ended { end: End::Host, .. }));
    let mut got = Vec::new();
    let (_, ()) = tokio::join!(operator.read_to_end(&mut got), relay.finish(Duration::from_secs(1)));
    assert_eq!(got, b"early", "what came with the request comes first");
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_in_a_layer_beneath_for_more() {
    let ((mut operator, a), (mut host, b)) = (duplex(PIPE), duplex(PIPE));
    let (a, b) = (BufStream::new(a), BufStream::new(b));
    let mut relay = Relay::new(connected(a, b""), connected(b, b""), Arc::default());
    let talk = async {
        let mut got = [0; 2];
        for _ in 0..3 {
            operator.write_all(b"up").await.unwrap();
            timeout(LONG, host.read_exact(&mut got)).await.expect("it was flushed").unwrap();
            host.write_all(b"do").await.unwrap();
            timeout(LONG, operator.read_exact(&mut got)).await.expect("it was flushed").unwrap();
        }
    };
    tokio::select! { ended = relay.copy() => panic!("{ended:?}"), () = talk => {} }
}

/// Always has bytes and always takes some.
struct Endless;

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        out.put_slice(&vec![7; out.remaining()]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_endless_stream_lets_others_have_the_thread() {
    let counts = Arc::<Counts>::default();
    let mut relay = Relay::new(connected(Endless, b""), connected(Endless, b""), counts.clone());
    for turn in 1..=3 {
        tokio::select! {
            biased;
            ended = relay.copy() => panic!("{ended:?}"),
            // Only reached when the copying has paused.
            () = std::future::ready(()) => {}
        }
        let Relayed { to_host, from_host } = counts.now();
        assert_eq!((to_host, from_host), (turn * TURN as u64, turn * TURN as u64));
    }
}
