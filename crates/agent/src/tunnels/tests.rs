//! Tunnels between a warden and a hub that are made for the test.

mod relay;

use super::*;
use std::os::fd::AsFd as _;

use crate::device::DeviceKey;
use crate::hub::HubPins;
use crate::testing::{FakeWarden, HubSocket, TlsHub, Upgrade, done, receipt, soon};
use authz::RefusalCode;
use local_socket::Framed;
use protocol::local::WardenAnswer;
use protocol::tunnel::{Decoder, Piece, close_frame, data_header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const ID: TunnelId = TunnelId::from_bytes([7; 16]);

fn order() -> Envelope {
    Envelope::new(b"session".to_vec().into(), vec![])
}

fn signed(n: u8) -> Signed {
    Signed { payload: vec![n].into(), sig: "s".to_owned() }
}

/// Bytes without a pattern.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| step()).collect()
}

/// What the operator's end sees, up to a close or the end of data.
async fn receive(hub: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, Option<String>) {
    let (mut decoder, mut data, mut buffer) = (Decoder::default(), Vec::new(), vec![0; 64 * 1024]);
    loop {
        let length = soon(hub.read(&mut buffer)).await.unwrap_or(0);
        if length == 0 {
            return (data, None);
        }
        let mut input = &buffer[..length];
        while let Some(piece) = decoder.take(&mut input).unwrap() {
            match piece {
                Piece::Data(bytes) => data.extend_from_slice(bytes),
                Piece::Close(why) => return (data, Some(why)),
            }
        }
    }
}

async fn send(hub: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    for chunk in bytes.chunks(50_000) {
        hub.write_all(&data_header(chunk.len()).unwrap()).await.unwrap();
        hub.write_all(chunk).await.unwrap();
    }
    hub.flush().await.unwrap();
}

/// The end of data, also where the other end left bytes unread.
async fn is_closed(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.map_or(true, |length| length == 0)
}

/// Whether the agent gave the session up.
async fn is_let_go(warden: &mut Framed) -> bool {
    matches!(soon(warden.receive::<WardenAnswer>()).await, Ok(None) | Err(_))
}

struct Bench {
    warden: FakeWarden,
    hub: TlsHub,
    tunnels: Tunnels,
    _dir: tempfile::TempDir,
}

/// A session that is open at all its ends.
struct Running {
    warden: Framed,
    session: UnixStream,
    hub: HubSocket,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let warden = FakeWarden::start(dir.path(), |request, _| panic!("nobody may ask for {request:?}"));
        let hub = TlsHub::start(|path, _| panic!("nobody posts here: {path}"), Upgrade::Right).await;
        let tunnels = Tunnels::new(Warden::new(&warden.socket), hub.client(dir.path()));
        Self { warden, hub, tunnels, _dir: dir }
    }

    /// A session that waits: the warden's connection, and the inner end of its socket.
    async fn ready(&mut self) -> (Framed, UnixStream) {
        assert_eq!(self.tunnels.open(ID, order()), None);
        let (envelope, mut warden) = self.warden.session().await;
        assert_eq!(envelope, order());
        let (session, passed) = UnixStream::pair().unwrap();
        let ready = WardenAnswer::SessionReady { receipt: signed(1) };
        warden.send_with_fd(&ready, passed.as_fd()).await.unwrap();
        drop(passed);
        let told = soon(self.tunnels.next()).await;
        assert_eq!(told, AgentFrame::TunnelReady { tunnel: ID, receipt: signed(1) });
        (warden, session)
    }

    async fn running(&mut self) -> Running {
        let (warden, session) = self.ready().await;
        let (tunnel, hub) = self.hub.tunnel().await;
        assert_eq!(tunnel, ID);
        Running { warden, session, hub }
    }

    /// The last frame about the tunnel; then it is no more.
    async fn closed(&mut self) -> String {
        let told = soon(self.tunnels.next()).await;
        let AgentFrame::TunnelClose { tunnel: ID, why } = told else { panic!("{told:?}") };
        assert!(self.tunnels.open.is_empty());
        why
    }

    async fn error(&mut self) -> (Option<Signed>, Option<String>) {
        let told = soon(self.tunnels.next()).await;
        let AgentFrame::TunnelError { tunnel: ID, receipt, problem } = told else { panic!("{told:?}") };
        assert!(self.tunnels.open.is_empty());
        assert!(self.hub.data.try_recv().is_err(), "nobody dialled");
        (receipt, problem)
    }
}

fn ended(how: &str) -> WardenAnswer {
    let outcome = Outcome::Done { upid: None, seen: how.parse().unwrap() };
    WardenAnswer::Receipt(receipt(Some(1), Some(order().id()), outcome))
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_end_is_told() {
    for proxied in [false, true] {
        let mut bench = Bench::new().await;
        bench.tunnels.ends.hub.proxied = proxied;
        let Running { mut warden, session, hub } = bench.running().await;
        let (up, down) = (noise(1, 8 << 20), noise(2, 8 << 20));
        let (mut from_session, mut to_session) = session.into_split();
        let (mut from_hub, mut to_hub) = tokio::io::split(hub);
        let (wants_down, sends_up) = (down.len(), up.clone());
        let host = tokio::spawn(async move {
            let writing = async {
                to_session.write_all(&sends_up).await.unwrap();
                to_session
            };
            let mut got = vec![0; wants_down];
            let (writer, read) = tokio::join!(writing, from_session.read_exact(&mut got));
            read.unwrap();
            // Now the session ends by itself, and the warden says how.
            drop((writer, from_session));
            warden.send(&ended("the session lasted 3 s and ended: exit")).await.unwrap();
            (got, warden)
        });
        let sending = async {
            send(&mut to_hub, &down).await;
            to_hub
        };
        let (mut to_hub, (got, why)) = tokio::join!(sending, receive(&mut from_hub));
        assert!(got == up, "proxied {proxied}: {} bytes came up", got.len());
        assert_eq!(why.as_deref(), Some("the session lasted 3 s and ended: exit"));
        assert_eq!(from_hub.read(&mut [0; 1]).await.unwrap(), 0, "and a proper end of TLS");
        to_hub.shutdown().await.unwrap();
        drop((from_hub, to_hub));
        assert_eq!(bench.closed().await, "the session lasted 3 s and ended: exit");
        let (got, mut warden) = soon(host).await.unwrap();
        assert!(got == down);
        assert!(is_let_go(&mut warden).await);
    }
}

/// The receipt may be faster than the session's last words, and the operator slower than both.
#[tokio::test]
async fn what_a_session_said_last_arrives() {
    let mut bench = Bench::new().await;
    let Running { mut warden, mut session, mut hub } = bench.running().await;
    warden.send(&ended("killed at its time limit")).await.unwrap();
    let words = noise(3, 3 << 20);
    let sent = words.clone();
    let host = tokio::spawn(async move { session.write_all(&sent).await });
    let (got, why) = receive(&mut hub).await;
    assert!(got == words, "{} bytes", got.len());
    assert_eq!(why.as_deref(), Some("killed at its time limit"));
    soon(host).await.unwrap().unwrap();
    // A hub that sees only that the connection ended has no better word.
    bench.tunnels.close(ID, "the host closed its connection".to_owned());
    assert!(futures_util::FutureExt::now_or_never(bench.tunnels.next()).is_none());
    drop(hub);
    assert_eq!(bench.closed().await, "killed at its time limit");
}

#[tokio::test]
async fn a_refusal_goes_up_as_the_host_signed_it() {
    let mut bench = Bench::new().await;
    bench.tunnels.open(ID, order());
    let (_, mut warden) = bench.warden.session().await;
    let why = Outcome::Refused { code: RefusalCode::Expired, why: "too late".parse().unwrap() };
    let refusal = receipt(None, Some(order().id()), why);
    warden.send(&WardenAnswer::Progress(protocol::frame::OrderState::Verified)).await.unwrap();
    warden.send(&WardenAnswer::Receipt(refusal.clone())).await.unwrap();
    assert_eq!(bench.error().await, (Some(refusal), None));
    assert!(is_let_go(&mut warden).await);
}

#[tokio::test]
async fn a_session_that_does_not_come_is_told_truthfully() {
    let refused = WardenAnswer::Refused { code: "closed".into(), why: "the journal\u{1b}[2J".into() };
    let unknown = WardenAnswer::Unknown { why: "the disk is full".into() };
    let other = WardenAnswer::Results { ops: vec![] };
    let no_socket = WardenAnswer::SessionReady { receipt: signed(1) };
    for (answer, says, never) in [
        (Some(refused), "No session was opened", "not known"),
        (Some(unknown), "not known", "No session"),
        (Some(other), "not known whether the session was opened", "No session"),
        (Some(no_socket), "passed no usable socket", "No session"),
        (None, "not known whether the session was opened", "No session"),
    ] {
        let mut bench = Bench::new().await;
        bench.tunnels.open(ID, order());
        let (_, mut warden) = bench.warden.session().await;
        if let Some(answer) = answer {
            warden.send(&answer).await.unwrap();
            assert!(is_let_go(&mut warden).await, "{says}");
        }
        drop(warden);
        let (receipt, problem) = bench.error().await;
        let problem = problem.unwrap();
        assert!(problem.contains(says) && !problem.contains(never), "{problem}");
        assert!(receipt.is_none() && !problem.contains('\u{1b}'), "{problem}");
    }
    let mut bench = Bench::new().await;
    bench.warden.die();
    bench.tunnels.open(ID, order());
    let problem = bench.error().await.1.unwrap();
    assert!(problem.contains("writ-warden runs") && problem.contains("No session was opened"), "{problem}");
}

/// What is passed must be a socket.
#[tokio::test]
async fn a_descriptor_that_is_none_is_no_session() {
    let mut bench = Bench::new().await;
    bench.tunnels.open(ID, order());
    let (_, mut warden) = bench.warden.session().await;
    let file = tempfile::tempfile().unwrap();
    let ready = WardenAnswer::SessionReady { receipt: signed(1) };
    warden.send_with_fd(&ready, file.as_fd()).await.unwrap();
    let problem = bench.error().await.1.unwrap();
    assert!(problem.contains("no usable socket"), "{problem}");
    assert!(is_let_go(&mut warden).await);
}

#[tokio::test]
async fn a_warden_that_dies_ends_the_session() {
    let mut bench = Bench::new().await;
    let Running { warden, mut session, mut hub } = bench.running().await;
    drop(warden);
    assert!(is_closed(&mut session).await);
    let (_, why) = receive(&mut hub).await;
    assert!(
        why.as_deref().is_some_and(|why| why.contains("given up") && why.contains("see its log")),
        "{why:?}"
    );
    drop(hub);
    assert_eq!(Some(bench.closed().await), why);
}

#[tokio::test]
async fn a_hub_that_leaves_ends_the_session_on_the_host() {
    let close = close_frame("done\u{1b}[2J");
    let half = [0, 0, 0, 9, b'x'];
    for (bytes, orderly, says) in [
        (&close[..], true, "the other end closed the session: done?[2J"),
        (&close, false, "the other end closed the session: done?[2J"),
        (&[], true, "lost: closed without a reason"),
        (&half, true, "lost: closed in the middle of a frame"),
        (&[], false, "lost: "),
    ] {
        let mut bench = Bench::new().await;
        let Running { mut warden, mut session, mut hub } = bench.running().await;
        hub.write_all(bytes).await.unwrap();
        hub.flush().await.unwrap();
        if orderly {
            hub.shutdown().await.unwrap();
        }
        drop(hub);
        assert!(is_let_go(&mut warden).await, "{says}");
        let mut rest = Vec::new();
        let _ = soon(session.read_to_end(&mut rest)).await;
        // Only now the warden can say how it ended; it is in the log when the agent reads that next.
        assert!(bench.tunnels.said.is_empty() && bench.tunnels.open.len() == 1);
        warden.send(&ended("the agent left")).await.unwrap();
        let why = bench.closed().await;
        assert!(why.contains(says), "{why:?} should say {says:?}");
    }
}

#[tokio::test]
async fn the_hub_can_close_a_tunnel_at_any_time() {
    let mut bench = Bench::new().await;
    let Running { mut warden, mut session, hub: _hub } = bench.running().await;
    bench.tunnels.close(TunnelId::from_bytes([8; 16]), "another one".to_owned());
    bench.tunnels.close(ID, "its operator may not stay".to_owned());
    bench.tunnels.close(ID, "twice".to_owned());
    assert!(is_let_go(&mut warden).await);
    assert!(is_closed(&mut session).await);
    drop(warden);
    assert_eq!(bench.closed().await, "the hub closed the tunnel: its operator may not stay");
    // Before the session is ready.
    bench.tunnels.open(ID, order());
    let (_, mut warden) = bench.warden.session().await;
    bench.tunnels.close(ID, "its operator left".to_owned());
    assert!(is_let_go(&mut warden).await);
    let problem = bench.error().await.1.unwrap();
    assert!(problem.contains("its operator left"), "{problem}");
}

#[tokio::test]
async fn a_hub_that_does_not_take_the_data_connection_ends_the_session() {
    let refusal = r#"{"code":"no_tunnel","message":"there is no such tunnel"}"#;
    let with =
        |head: &str, body: &str| format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let cases = [
        (with("404 Not Found", refusal), "(404): there is no such tunnel"),
        (format!("HTTP/1.1 503 X\r\n\r\n{refusal}"), "(503): there is no such tunnel"),
        (with("403 X", "<html>"), "no reason"),
        (with("200 OK", "hello"), "status 200 instead of a tunnel"),
        ("HTTP/1.1 302 X\r\nLocation: https://evil/\r\n\r\n".to_owned(), "status 302"),
        (
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(),
            "another protocol",
        ),
        ("HTTP/1.1 101 X\r\nUpgr".to_owned(), "close_notify"),
        ("\u{0}\u{1}\r\n\r\n".to_owned(), "no HTTP"),
    ];
    for (answer, says) in cases {
        let mut bench = Bench::new().await;
        *bench.hub.no_data.lock().unwrap() = Some(answer);
        let (mut warden, mut session) = bench.ready().await;
        assert!(is_let_go(&mut warden).await, "{says}");
        assert!(is_closed(&mut session).await, "{says}");
        drop(warden);
        let why = bench.closed().await;
        assert!(why.contains("the data connection could not be opened"), "{why}");
        assert!(why.contains(says), "{why:?} should say {says:?}");
    }
    // Another key than the pinned one, and no TLS at all.
    let mut bench = Bench::new().await;
    let dir = tempfile::tempdir().unwrap();
    let device = DeviceKey::open_or_create(dir.path(), &[1; 32]).unwrap();
    let pins = HubPins { current: protocol::Sha256::of(b"another"), next: None };
    let url = bench.hub.url.clone();
    for (proxied, url) in [(false, url.clone()), (true, url), (false, "http://127.0.0.1:1".to_owned())] {
        let mut client = HubClient::new(&url, pins.clone(), &device).unwrap();
        client.proxied = proxied;
        let error = dial(&client, ID).await.err().unwrap().to_string();
        let says = if url.starts_with("https") { "refused to talk" } else { "https://" };
        assert!(error.contains(says), "{error}");
    }
    assert!(bench.hub.data.try_recv().is_err());
}

#[tokio::test]
async fn a_hub_that_sends_no_frames_is_left_with_words() {
    let long = [0, 1, 0, 1];
    let long_close = [1, 0, 4, 1];
    for (bytes, says) in [
        (&[7, 0, 0, 1, 0][..], "kind 7"),
        (&[0xff; 16], "kind 255"),
        (&long, "65537 bytes"),
        (&long_close, "1025 bytes"),
        (&[0, 0, 0, 1, b'a', 9, 0, 0, 0], "kind 9"),
    ] {
        let mut bench = Bench::new().await;
        let Running { mut warden, mut session, mut hub } = bench.running().await;
        hub.write_all(bytes).await.unwrap();
        hub.flush().await.unwrap();
        assert!(is_let_go(&mut warden).await, "{says}");
        let (_, why) = receive(&mut hub).await;
        assert!(why.as_deref().is_some_and(|why| why.contains(says)), "{why:?} should say {says}");
        let mut got = Vec::new();
        let _ = soon(session.read_to_end(&mut got)).await;
        assert!(got.is_empty() || got == b"a", "{got:?}");
        drop((warden, hub));
        assert_eq!(Some(bench.closed().await), why);
    }
}

#[tokio::test]
async fn tunnels_are_counted_and_not_opened_twice() {
    let mut bench = Bench::new().await;
    let id = |n: usize| TunnelId::from_bytes([u8::try_from(n).unwrap(); 16]);
    let mut sessions = Vec::new();
    for n in 0..AT_ONCE {
        assert_eq!(bench.tunnels.open(id(n), order()), None);
        sessions.push(bench.warden.session().await.1);
    }
    assert_eq!(bench.tunnels.open(id(3), order()), None, "ignored");
    let refused = bench.tunnels.open(id(AT_ONCE), order());
    let Some(AgentFrame::TunnelError { tunnel, receipt: None, problem: Some(problem) }) = refused else {
        panic!("{refused:?}")
    };
    assert!(tunnel == id(AT_ONCE) && problem.contains("32 sessions are open"), "{problem}");
    assert!(problem.contains("was not handed over"), "{problem}");
    // One that ends makes room.
    drop(sessions.pop());
    let told = soon(bench.tunnels.next()).await;
    assert!(
        matches!(&told, AgentFrame::TunnelError { tunnel, .. } if *tunnel == id(AT_ONCE - 1)),
        "{told:?}"
    );
    assert_eq!(bench.tunnels.open(id(AT_ONCE), order()), None);
    bench.warden.session().await;
    assert!(bench.warden.sessions.try_recv().is_err(), "each order was handed over once");
}

#[tokio::test]
async fn dropping_the_tunnels_ends_the_sessions() {
    for properly in [true, false] {
        let mut bench = Bench::new().await;
        let Running { mut warden, mut session, mut hub } = bench.running().await;
        let Bench { tunnels, .. } = bench;
        if properly {
            soon(tunnels.end()).await;
            // At once: nothing has to run for it any more.
            let mut byte = [0];
            assert!(matches!(session.try_read(&mut byte), Ok(0) | Err(_)));
        } else {
            drop(tunnels);
        }
        assert!(is_let_go(&mut warden).await);
        assert!(is_closed(&mut session).await);
        assert_eq!(receive(&mut hub).await, (vec![], None));
    }
}

#[test]
fn the_hosts_words_about_an_end_are_shown() {
    let of = |outcome| how(&receipt(Some(1), Some(order().id()), outcome));
    assert_eq!(of(done()), "as wanted");
    let unknown = Outcome::Unknown { upid: None, why: "the runner was lost".parse().unwrap() };
    assert_eq!(of(unknown), "unknown: the runner was lost");
    for other in [signed(1), receipt(Some(1), None, done())] {
        assert!(how(&other).contains("see its log"));
    }
}
