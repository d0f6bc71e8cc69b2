//! What becomes of the bytes.

use std::time::Duration;

use protocol::frame::AgentFrame;
use protocol::tunnel::close_frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::tunnel::{Stand, exactly, quick, to_end};

/// Bytes that do not repeat where buffers do.
fn noise(size: usize, seed: u8) -> Vec<u8> {
    (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

#[tokio::test]
async fn both_ways_at_once_everything_arrives_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(dir.path()).await;
    let (id, operator, host) = stand.connected("one").await;
    let (up, down) = (noise(8 << 20, 1), noise(8 << 20, 2));
    let (mut operator_in, mut operator_out) = tokio::io::split(operator);
    let (mut host_in, mut host_out) = tokio::io::split(host);
    let (mut got_up, mut got_down) = (vec![0; up.len()], vec![0; down.len()]);
    let all = async {
        tokio::try_join!(
            async { operator_out.write_all(&up).await.and(operator_out.flush().await) },
            async { host_out.write_all(&down).await.and(host_out.flush().await) },
            host_in.read_exact(&mut got_up),
            operator_in.read_exact(&mut got_down),
        )
    };
    timeout(Duration::from_secs(60), all).await.unwrap().unwrap();
    assert!(got_up == up && got_down == down);
    let view = stand.view(id).await;
    assert_eq!((view.bytes_to_host, view.bytes_from_host), (8 << 20, 8 << 20), "also while it is open");
    assert_eq!(view.closed_at, None);
}

#[tokio::test]
async fn a_small_message_does_not_wait_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(dir.path()).await;
    let (_, mut operator, mut host) = stand.connected("one").await;
    for round in 0..200u32 {
        let message = round.to_be_bytes();
        operator.write_all(&message).await.unwrap();
        exactly(&mut host, &message).await;
        host.write_all(&message).await.unwrap();
        exactly(&mut operator, &message).await;
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(dir.path()).await;
    let (_, mut operator, mut host) = stand.connected("one").await;
    let chunk = noise(64 * 1024, 3);
    let mut written = 0;
    // What the kernels' buffers hold goes through; the hub itself holds next to nothing.
    while let Ok(done) = timeout(Duration::from_millis(500), operator.write(&chunk[written % 65_536..])).await
    {
        written += done.unwrap();
        assert!(written < 64 << 20, "the hub takes more than buffers can hold");
    }
    // The other direction does not suffer.
    host.write_all(b"meanwhile").await.unwrap();
    exactly(&mut operator, b"meanwhile").await;
    // And nothing of what was taken is lost.
    let more = async {
        let rest = &chunk[written % 65_536..];
        operator.write_all(rest).await.unwrap();
        operator.flush().await.unwrap();
        rest.len()
    };
    let all = async {
        let mut got = vec![0; 65_536];
        for _ in 0..written.div_ceil(65_536) {
            timeout(Duration::from_secs(20), host.read_exact(&mut got)).await.unwrap().unwrap();
            assert!(got == chunk);
        }
    };
    if written % 65_536 == 0 {
        all.await;
    } else {
        tokio::join!(more, all);
    }
}

#[tokio::test]
async fn the_last_bytes_arrive_and_the_end_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    // The host ends, saying why in the stream; the operator's end still writes.
    let (id, mut operator, mut host) = stand.connected("one").await;
    let last = [noise(300_000, 4), close_frame("idle for 600 s")].concat();
    operator.write_all(b"unread").await.unwrap();
    while stand.view(id).await.bytes_to_host < 6 {}
    host.write_all(&last).await.unwrap();
    host.shutdown().await.unwrap();
    assert!(to_end(&mut operator).await == last);
    drop(operator);
    // That the session is over is the host's word, which comes a little later.
    stand.told(id, "the host closed its connection").await;
    let why = "idle for 600 s\u{1b}[31m".to_owned();
    stand.channel.send(&AgentFrame::TunnelClose { tunnel: id, why }).await;
    let view = stand.closed(id, "closed by the host: idle for 600 s?[31m").await;
    assert_eq!((view.bytes_to_host, view.bytes_from_host), (6, last.len() as u64));

    // The operator ends.
    let (id, mut operator, mut host) = stand.connected("two").await;
    operator.write_all(b"exit\n").await.unwrap();
    operator.shutdown().await.unwrap();
    assert_eq!(to_end(&mut host).await, b"exit\n");
    stand.told(id, "the operator closed its connection").await;
    stand.closed(id, "the operator closed its connection").await;
    assert_eq!(to_end(&mut operator).await, b"", "what the host says to nobody is not waited for");
}

#[tokio::test]
async fn a_connection_that_breaks_ends_the_other_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let (id, mut operator, mut host) = stand.connected("one").await;
    operator.write_all(b"half a").await.unwrap();
    exactly(&mut host, b"half a").await;
    // No close_notify: as when the machine dies.
    drop(operator);
    assert_eq!(to_end(&mut host).await, b"");
    stand.told(id, "the operator's connection broke").await;
    stand.closed(id, "the operator's connection broke").await;

    let (id, mut operator, host) = stand.connected("two").await;
    drop(host);
    assert_eq!(to_end(&mut operator).await, b"");
    stand.told(id, "the host's connection broke").await;
    stand.closed(id, "the host's connection broke").await;
}

#[tokio::test]
async fn an_end_that_takes_nothing_does_not_keep_the_tunnel() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let (id, mut operator, mut host) = stand.connected("one").await;
    let chunk = noise(64 * 1024, 5);
    while let Ok(done) = timeout(Duration::from_millis(300), host.write(&chunk)).await {
        done.unwrap();
    }
    // The operator's connection is stuck in both ways that matter, and yet it closes.
    let (status, view): (_, protocol::api::TunnelView) =
        stand.alice.delete(&format!("/api/v1/tunnels/{id}")).await;
    assert_eq!((status, view.why.as_deref()), (200, Some("closed by alice")));
    stand.told(id, "closed by alice").await;
    let mut got = Vec::new();
    timeout(Duration::from_secs(20), operator.read_to_end(&mut got)).await.unwrap().ok();
    assert!(got.len() >= chunk.len(), "what was on its way is not taken back");
    stand.connected("two").await;
}

#[tokio::test]
async fn what_the_host_sent_before_its_word_still_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let (id, mut operator, mut host) = stand.connected("one").await;
    stand.channel.send(&AgentFrame::TunnelClose { tunnel: id, why: "time is up".to_owned() }).await;
    host.write_all(b"goodbye").await.unwrap();
    host.shutdown().await.unwrap();
    assert_eq!(to_end(&mut operator).await, b"goodbye");
    stand.closed(id, "closed by the host: time is up").await;

    // A host that says so and does not close is helped.
    let (id, mut operator, mut host) = stand.connected("two").await;
    stand.channel.send(&AgentFrame::TunnelClose { tunnel: id, why: "killed".to_owned() }).await;
    assert_eq!(to_end(&mut operator).await, b"");
    assert_eq!(to_end(&mut host).await, b"");
    stand.closed(id, "closed by the host: killed").await;
}
