//! Both ends of a tunnel, as far as a hub can tell.

use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::receipt::Entry;
use authz::{Event, Receipt, RefusalCode, SecretKey};
use hub::{Environment, Limits, RunningHub};
use protocol::api::{ApiFailure, TunnelAnswer, TunnelView};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::tunnel::{AGENT_DATA_PATH, UPGRADE};
use protocol::{Ed25519Key, Envelope, HostId, Sha256, Signed, TunnelId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::client::{self, Channel, ClientCert, DEADLINE, Http, TestHost, alice, new_config};
use super::order;

pub(crate) type Data = TlsStream<TcpStream>;

pub(crate) fn bob() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

/// A hub with alice and bob, and one host whose channel is open.
pub(crate) struct Stand {
    pub(crate) hub: RunningHub,
    pub(crate) alice: Http,
    pub(crate) host: TestHost,
    pub(crate) channel: Channel,
    pub(crate) operators: PathBuf,
}

impl Stand {
    pub(crate) async fn new(dir: &Path) -> Self {
        Self::with(dir, Environment::default(), 1).await
    }

    pub(crate) async fn limited(dir: &Path, limits: Limits) -> Self {
        Self::with(dir, Environment { limits, ..Environment::default() }, 1).await
    }

    pub(crate) async fn with(dir: &Path, environment: Environment, sessions: u8) -> Self {
        let mut config = new_config(dir);
        config.sessions_per_operator = sessions.try_into().unwrap();
        let operators = config.operators.clone();
        let both = format!("alice {}\nbob {}\n", alice().public(), bob().public());
        std::fs::write(&operators, both).unwrap();
        let hub = hub::serve_in(config, environment).await.unwrap();
        let alice = Http::alice(&hub).await;
        let host = TestHost::enrolled(1, &hub, &alice).await;
        let channel = Channel::welcome(&hub, &host, 0, 0).await;
        Self { hub, alice, host, channel, operators }
    }

    /// Asks as alice; the host says that it is ready.
    pub(crate) async fn ready(&mut self, text: &str) -> TunnelId {
        let envelope = order(text);
        let path = self.host.path("/tunnels");
        let asked = self.alice.post::<TunnelAnswer>(&path, &envelope);
        let answered = say_ready(&mut self.channel, &self.host, &envelope);
        let ((status, answer), (tunnel, receipt)) = tokio::join!(asked, answered);
        assert_eq!((status, answer), (200, TunnelAnswer::Ready { id: tunnel, receipt }));
        tunnel
    }

    /// Asks, and connects both ends: operator's, host's.
    pub(crate) async fn connected(&mut self, text: &str) -> (TunnelId, Data, Data) {
        let id = self.ready(text).await;
        let operator = self.dial_operator(&self.alice, id).await.unwrap();
        let host = self.dial_host(&self.host, id).await.unwrap();
        (id, operator, host)
    }

    pub(crate) async fn dial_operator(&self, http: &Http, id: TunnelId) -> Result<Data, (u16, String)> {
        let token = format!("authorization: Bearer {}\r\n{}", http.token(), upgrade(UPGRADE));
        dial(&self.hub, None, &format!("GET /api/v1/tunnels/{id}/data"), &token).await
    }

    pub(crate) async fn dial_host(&self, host: &TestHost, id: TunnelId) -> Result<Data, (u16, String)> {
        let path = format!("GET {AGENT_DATA_PATH}/{id}");
        dial(&self.hub, Some(&host.cert), &path, &upgrade(UPGRADE)).await
    }

    pub(crate) async fn view(&self, id: TunnelId) -> TunnelView {
        self.alice.get(&format!("/api/v1/tunnels/{id}")).await
    }

    /// The tunnel's row once it is closed and says what is expected.
    pub(crate) async fn closed(&self, id: TunnelId, why: &str) -> TunnelView {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let view = self.view(id).await;
            if view.closed_at.is_some() && view.why.as_deref() == Some(why) {
                return view;
            }
            assert!(Instant::now() < deadline, "{why:?} was expected, not {view:?}");
        }
    }

    /// The hub tells the host to end the session.
    pub(crate) async fn told(&mut self, id: TunnelId, why: &str) {
        let close = HubFrame::TunnelClose { tunnel: id, why: why.to_owned() };
        assert_eq!(self.channel.next().await, Some(close));
    }
}

/// Patience for tests that wait for it to end, and still enough for a busy machine.
pub(crate) fn quick() -> Limits {
    Limits {
        tunnel_drain: Duration::from_secs(1),
        tunnel_recheck: Duration::from_millis(30),
        ..Limits::default()
    }
}

pub(crate) fn upgrade(protocol: &str) -> String {
    format!("connection: Upgrade\r\nupgrade: {protocol}\r\n")
}

/// One request on a connection of its own: the connection after 101, else status and code.
pub(crate) async fn dial(
    hub: &RunningHub,
    cert: Option<&ClientCert>,
    line: &str,
    headers: &str,
) -> Result<Data, (u16, String)> {
    let mut tls = client::tls(hub, cert).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nhost: hub.example\r\n{headers}\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, tls.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let value = |name: &str| {
        head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name))
    };
    if status == 101 {
        assert_eq!(value("upgrade").unwrap().1, UPGRADE);
        return Ok(tls);
    }
    let mut body = vec![0; value("content-length").unwrap().1.parse().unwrap()];
    if !line.starts_with("HEAD") {
        tls.read_exact(&mut body).await.unwrap();
    }
    let failure = serde_json::from_slice::<ApiFailure>(&body);
    Err((status, failure.map(|failure| failure.code).unwrap_or_default()))
}

pub(crate) fn session_ready(host: HostId, op: Sha256, key: &SecretKey) -> Signed {
    let event = Event::SessionReady { op, host_key: Ed25519Key::from_bytes([7; 32]) };
    signed(host, Some(Entry { seq: 0, prev: super::NO_HASH }), event, key)
}

pub(crate) fn refused(host: HostId, op: Sha256, key: &SecretKey) -> Signed {
    let outcome =
        authz::Outcome::Refused { code: RefusalCode::Sessions, why: "no sshd here".parse().unwrap() };
    let event = Event::Order { op, kind: None, vmid: None, signers: vec![], outcome };
    signed(host, None, event, key)
}

pub(crate) fn signed(host: HostId, entry: Option<Entry>, event: Event, key: &SecretKey) -> Signed {
    Receipt { v: 1, host, host_key_gen: 1, boot_id: "boot".to_owned(), time: 5, entry, event }.sign(key)
}

/// The next TunnelOpen, which must carry this order. What is said about earlier tunnels is skipped.
pub(crate) async fn asked(channel: &mut Channel, envelope: &Envelope) -> TunnelId {
    loop {
        match channel.next().await {
            Some(HubFrame::TunnelOpen { tunnel, envelope: got }) => {
                assert_eq!(got, *envelope);
                return tunnel;
            }
            Some(HubFrame::TunnelClose { .. }) => {}
            other => panic!("TunnelOpen was expected, not {other:?}"),
        }
    }
}

async fn say_ready(channel: &mut Channel, host: &TestHost, envelope: &Envelope) -> (TunnelId, Signed) {
    let tunnel = asked(channel, envelope).await;
    let receipt = session_ready(host.id, envelope.id(), &host.key);
    channel.send(&AgentFrame::TunnelReady { tunnel, receipt: receipt.clone() }).await;
    (tunnel, receipt)
}

/// Everything until the end, which must be a clean one: rustls makes an error of a TCP end without
/// close_notify.
pub(crate) async fn to_end(data: &mut Data) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(DEADLINE, data.read_to_end(&mut bytes)).await.expect("an end").expect("a clean end");
    bytes
}

pub(crate) async fn exactly(data: &mut Data, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    timeout(DEADLINE, data.read_exact(&mut got)).await.expect("bytes in time").unwrap();
    assert!(got == expected, "other bytes came out");
}
