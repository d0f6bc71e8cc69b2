//! A hub made of TLS and a few lines.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::tunnel::{AGENT_DATA_PATH, UPGRADE};
use protocol::{Sha256, TunnelId};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::soon;
use crate::device::DeviceKey;
use crate::hub::{HubClient, HubPins};

/// The hub's end of a channel.
pub(crate) struct HubEnd<S>(pub(crate) WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> HubEnd<S> {
    pub(crate) async fn send(&mut self, frame: &HubFrame) {
        self.text(&serde_json::to_string(frame).unwrap()).await;
    }

    pub(crate) async fn text(&mut self, text: &str) {
        // The agent may have left already; what it said is what is tested.
        let _ = self.0.send(Message::text(text)).await;
    }

    /// The agent's next frame; none when it closed.
    pub(crate) async fn next(&mut self) -> Option<AgentFrame> {
        loop {
            match soon(self.0.next()).await {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(text.as_str()).unwrap()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return None,
            }
        }
    }

    /// The next frame that `wanted` takes; others are skipped.
    pub(crate) async fn find<T>(&mut self, mut wanted: impl FnMut(AgentFrame) -> Option<T>) -> T {
        loop {
            let frame = self.next().await.expect("the channel ended before the frame came");
            if let Some(found) = wanted(frame) {
                return found;
            }
        }
    }
}

/// What a call gets.
pub(crate) type Reply = (u16, String);
type CallHandler = Box<dyn FnMut(&str, &[u8]) -> Reply + Send>;
/// The socket that a channel runs over.
pub(crate) type HubSocket = TlsStream<TcpStream>;

/// A hub: POST goes to the handler, an upgrade becomes a [`HubEnd`].
pub(crate) struct TlsHub {
    pub(crate) url: String,
    pub(crate) spki: Sha256,
    pub(crate) channels: mpsc::Receiver<HubEnd<HubSocket>>,
    /// Data connections of tunnels, after 101.
    pub(crate) data: mpsc::Receiver<(TunnelId, HubSocket)>,
    /// Instead of 101: a whole answer to whoever dials a data connection.
    pub(crate) no_data: Arc<Mutex<Option<String>>>,
    /// Public keys of the client certificates, by connection.
    pub(crate) clients: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// How a hub answers the upgrade.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    Right,
    WrongAccept,
    Forbidden,
}

impl TlsHub {
    pub(crate) async fn start(
        handler: impl FnMut(&str, &[u8]) -> Reply + Send + 'static,
        upgrade: Upgrade,
    ) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let cert = rcgen::CertificateParams::default().self_signed(&pair).unwrap().der().clone();
        let spki = Sha256::of(&webpki::EndEntityCert::try_from(&cert).unwrap().subject_public_key_info());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(AnyClient))
            .with_single_cert(vec![cert], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (channel_sender, channels) = mpsc::channel(8);
        let (data_sender, data) = mpsc::channel(8);
        let no_data = Arc::new(Mutex::new(None));
        let doors = Doors { upgrade, channels: channel_sender, data: data_sender, no_data: no_data.clone() };
        let clients = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&clients);
        let handler: Arc<Mutex<CallHandler>> = Arc::new(Mutex::new(Box::new(handler)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let cert = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                let key = webpki::EndEntityCert::try_from(&cert).unwrap().subject_public_key_info().to_vec();
                seen.lock().unwrap().push(key);
                tokio::spawn(connection(stream, Arc::clone(&handler), doors.clone()));
            }
        });
        Self { url, spki, channels, data, no_data, clients }
    }

    pub(crate) async fn channel(&mut self) -> HubEnd<HubSocket> {
        soon(self.channels.recv()).await.unwrap()
    }

    /// The next data connection.
    pub(crate) async fn tunnel(&mut self) -> (TunnelId, HubSocket) {
        soon(self.data.recv()).await.unwrap()
    }

    /// A client for it.
    pub(crate) fn client(&self, dir: &std::path::Path) -> HubClient {
        let device = DeviceKey::open_or_create(dir, &[1; 32]).unwrap();
        HubClient::new(&self.url, HubPins { current: self.spki, next: None }, &device).unwrap()
    }
}

/// What a request may become, other than an answer.
#[derive(Clone)]
struct Doors {
    upgrade: Upgrade,
    channels: mpsc::Sender<HubEnd<HubSocket>>,
    data: mpsc::Sender<(TunnelId, HubSocket)>,
    no_data: Arc<Mutex<Option<String>>>,
}

async fn connection(mut stream: HubSocket, handler: Arc<Mutex<CallHandler>>, doors: Doors) {
    let mut bytes = VecDeque::new();
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match next_byte(&mut stream, &mut bytes).await {
                Some(byte) => head.push(byte),
                None => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let path = head.split(' ').nth(1).unwrap().to_owned();
        if let Some(key) = header("sec-websocket-key") {
            let accept = match doors.upgrade {
                Upgrade::Right => derive_accept_key(key.as_bytes()),
                Upgrade::WrongAccept => derive_accept_key(b"another key"),
                Upgrade::Forbidden => {
                    let body = r#"{"code":"unknown_device","message":"this device is not enrolled"}"#;
                    respond(&mut stream, 403, body).await;
                    continue;
                }
            };
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            let _ = doors.channels.send(HubEnd(socket)).await;
            return;
        }
        if let Some(tunnel) = path.strip_prefix(AGENT_DATA_PATH) {
            assert_eq!(header("upgrade").as_deref(), Some(UPGRADE));
            let refusal = doors.no_data.lock().unwrap().clone();
            let answer = refusal.clone().unwrap_or_else(|| {
                format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n"
                )
            });
            stream.write_all(answer.as_bytes()).await.unwrap();
            if refusal.is_none() {
                let tunnel = tunnel.strip_prefix('/').unwrap().parse().unwrap();
                doors.data.send((tunnel, stream)).await.unwrap();
            }
            return;
        }
        let length: usize = header("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = Vec::new();
        while body.len() < length {
            body.push(next_byte(&mut stream, &mut bytes).await.unwrap());
        }
        let (status, text) = (handler.lock().unwrap())(&path, &body);
        respond(&mut stream, status, &text).await;
    }
}

async fn respond(stream: &mut HubSocket, status: u16, body: &str) {
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn next_byte(stream: &mut HubSocket, bytes: &mut VecDeque<u8>) -> Option<u8> {
    if bytes.is_empty() {
        let mut chunk = vec![0; 16 * 1024];
        let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        bytes.extend(&chunk[..read]);
    }
    bytes.pop_front()
}

/// Takes any client certificate whose key is proven.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &ring::default_provider().signature_verification_algorithms,
        )
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
