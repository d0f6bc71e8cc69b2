//! An operator's tool and an agent, as far as a hub can tell.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use authz::{SecretKey, enroll, statement};
use futures_util::{SinkExt as _, StreamExt as _};
use hub::config::HubUrl;
use hub::{Environment, HubConfig, RunningHub};
use protocol::api::{
    ENROLL_BEGIN_PATH, ENROLL_FINISH_PATH, EnrollBegin, EnrollFinish, EnrollFinished, EnrollPolicy,
    EnrollmentApprove, EnrollmentCreated, EnrollmentNew, LoginAnswer, LoginChallenge,
};
use protocol::enroll::{EnrollmentAnswer, HostStatement};
use protocol::frame::{AgentFrame, CHANNEL_PATH, HubFrame, Purpose, VERSION};
use protocol::{Ed25519Key, HostId, Sha256, Signed};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SignatureAlgorithm};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

pub(crate) const POLICY: &[u8] = b"a policy";
/// Nothing that works takes so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn alice() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

/// A directory made by `init`, with alice as operator, on a free port.
pub(crate) fn new_config(dir: &Path) -> HubConfig {
    let url: HubUrl = "https://127.0.0.1:8440".parse().unwrap();
    let made = hub::init::init(&dir.join("hub"), &url, Some("127.0.0.1:0".parse().unwrap())).unwrap();
    std::fs::write(&made.operators, format!("alice {}\n", alice().public())).unwrap();
    HubConfig::load(&made.config).unwrap()
}

pub(crate) async fn start(dir: &Path) -> RunningHub {
    hub::serve(new_config(dir)).await.unwrap()
}

pub(crate) async fn start_in(dir: &Path, environment: Environment) -> RunningHub {
    hub::serve_in(new_config(dir), environment).await.unwrap()
}

#[derive(Debug)]
struct Pinned(Sha256);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let cert = webpki::EndEntityCert::try_from(end_entity).unwrap();
        if Sha256::of(cert.subject_public_key_info().as_ref()) == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate and the key that will be used with it, which may be another one's.
pub(crate) struct ClientCert {
    pub(crate) cert: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

pub(crate) fn client_cert(algorithm: &'static SignatureAlgorithm) -> (KeyPair, ClientCert) {
    let pair = KeyPair::generate_for(algorithm).unwrap();
    let cert = CertificateParams::new(vec![]).unwrap().self_signed(&pair).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    (pair, ClientCert { cert, key })
}

#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

pub(crate) fn client_config(
    pin: Sha256,
    client: Option<&ClientCert>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(pin)));
    match client {
        None => builder.with_no_client_auth(),
        Some(ClientCert { cert, key }) => {
            // Not with_client_auth_cert, which refuses a certificate with a foreign key.
            let key = provider.key_provider.load_private_key(key.clone_key()).unwrap();
            let certified = rustls::sign::CertifiedKey::new(vec![cert.clone()], key);
            builder.with_client_cert_resolver(Arc::new(Always(Arc::new(certified))))
        }
    }
}

/// A bare connection.
pub(crate) async fn tls(
    hub: &RunningHub,
    client: Option<&ClientCert>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = client_config(hub.pin(), client, &[&rustls::version::TLS13]);
    let tcp = TcpStream::connect(hub.addr()).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("hub.example").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// HTTPS to one hub.
pub(crate) struct Http {
    client: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Http {
    pub(crate) fn new(hub: &RunningHub, client: Option<&ClientCert>) -> Self {
        let config = client_config(hub.pin(), client, &[&rustls::version::TLS13]);
        let client = reqwest::Client::builder().tls_backend_preconfigured(config).build().unwrap();
        Self { client, base: format!("https://{}", hub.addr()), token: None }
    }

    pub(crate) async fn alice(hub: &RunningHub) -> Self {
        Self::operator(hub, &alice()).await
    }

    pub(crate) async fn operator(hub: &RunningHub, key: &SecretKey) -> Self {
        let mut http = Self::new(hub, None);
        let (_, challenge): (_, LoginChallenge) = http.post("/api/v1/login/challenge", &()).await;
        let signed = statement::sign_login(hub.pin(), challenge.challenge, key);
        let (_, answer): (_, LoginAnswer) = http.post("/api/v1/login", &signed).await;
        http.token = Some(answer.token);
        http
    }

    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().unwrap()
    }

    pub(crate) async fn try_call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).timeout(DEADLINE);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> (u16, T) {
        let response = self.try_call(method, path, body).await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {status} {error} {text}")),
        )
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.call(reqwest::Method::GET, path, None::<&()>).await.1
    }
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> (u16, T) {
        self.call(reqwest::Method::POST, path, Some(body)).await
    }
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> (u16, T) {
        self.call(reqwest::Method::DELETE, path, None::<&()>).await
    }
    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> (u16, T) {
        self.call(reqwest::Method::PUT, path, Some(body)).await
    }
}

/// A host with its keys.
pub(crate) struct TestHost {
    pub(crate) id: HostId,
    pub(crate) key: SecretKey,
    pub(crate) device: Ed25519Key,
    pub(crate) cert: ClientCert,
}

impl TestHost {
    pub(crate) fn new(number: u8) -> Self {
        let (pair, cert) = client_cert(&PKCS_ED25519);
        let device = Ed25519Key::from_bytes(pair.public_key_raw().try_into().unwrap());
        Self { id: HostId::from_bytes([number; 16]), key: SecretKey::from_seed(&[number; 32]), device, cert }
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/v1/hosts/{}{rest}", self.id)
    }

    pub(crate) fn answer(&self) -> EnrollmentAnswer {
        let (host_key, policy) = (self.key.public().to_wire(), Sha256::of(POLICY));
        EnrollmentAnswer {
            v: 1,
            host_id: self.id,
            host_key,
            host_key_gen: 1,
            device_key: self.device,
            device_cert: enroll::certify_device(self.id, 1, self.device, &self.key),
            policy,
            proof: enroll::proof(b"k", &policy, &self.id, &host_key, &self.device),
            hostname: "pve".to_owned(),
        }
    }

    fn statement(&self) -> Signed {
        let statement = HostStatement {
            v: 1,
            name: format!("host-{}", self.id).parse().unwrap(),
            site: "lab".parse().unwrap(),
            host_id: self.id,
            host_key: self.key.public().to_wire(),
            host_key_gen: 1,
            device_key: self.device,
            policy: Sha256::of(POLICY),
            issued_at: 1,
        };
        statement::sign_host(&statement, &alice())
    }

    /// Code, begin and finish; gives the enrollment's id.
    pub(crate) async fn answer_code(&self, hub: &RunningHub, operator: &Http) -> u64 {
        let secret = self.device.as_bytes().to_vec();
        let new = EnrollmentNew {
            secret_sha256: Sha256::of(&secret),
            policy: POLICY.to_vec().into(),
            expires_in_s: 600,
        };
        let (_, created): (_, EnrollmentCreated) = operator.post("/api/v1/enrollments", &new).await;
        let agent = Http::new(hub, Some(&self.cert));
        let begin = EnrollBegin { secret: secret.clone().into() };
        let (_, policy): (_, EnrollPolicy) = agent.post(ENROLL_BEGIN_PATH, &begin).await;
        assert_eq!(policy.policy.0, POLICY);
        let finish = EnrollFinish { secret: secret.into(), answer: self.answer() };
        let (_, finished): (_, EnrollFinished) = agent.post(ENROLL_FINISH_PATH, &finish).await;
        assert_eq!(finished.id, created.id);
        created.id
    }

    pub(crate) async fn approve(&self, operator: &Http, id: u64) {
        let approve = EnrollmentApprove { statement: self.statement() };
        let (status, body): (_, serde_json::Value) =
            operator.post(&format!("/api/v1/enrollments/{id}/approve"), &approve).await;
        assert_eq!(status, 200, "{body}");
    }

    pub(crate) async fn enrolled(number: u8, hub: &RunningHub, operator: &Http) -> Self {
        let host = Self::new(number);
        let id = host.answer_code(hub, operator).await;
        host.approve(operator, id).await;
        host
    }

    pub(crate) fn hello(&self, purpose: Purpose, boot_id: &str, log_size: u64) -> AgentFrame {
        AgentFrame::Hello {
            v: VERSION,
            host_id: self.id,
            boot_id: boot_id.to_owned(),
            agent_version: "0.1.0".to_owned(),
            purpose,
            log_size,
        }
    }
}

/// The agent's end of a channel.
pub(crate) struct Channel(pub(crate) WebSocketStream<TlsStream<TcpStream>>);

impl Channel {
    /// The HTTP status when the hub refuses; 0 when there is not even TLS.
    pub(crate) async fn open(hub: &RunningHub, client: Option<&ClientCert>) -> Result<Self, u16> {
        let tls = tls(hub, client).await.map_err(|_| 0u16)?;
        let request = format!("wss://hub.example{CHANNEL_PATH}").into_client_request().unwrap();
        match tokio_tungstenite::client_async(request, tls).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(WsError::Http(response)) => Err(response.status().as_u16()),
            Err(_) => Err(0),
        }
    }

    /// Opens, says Hello and is welcome.
    pub(crate) async fn welcome(hub: &RunningHub, host: &TestHost, log_size: u64, held: u64) -> Self {
        let mut channel = Self::open(hub, Some(&host.cert)).await.unwrap();
        channel.send(&host.hello(Purpose::Run, "boot", log_size)).await;
        assert_eq!(channel.next().await, Some(HubFrame::Welcome { v: VERSION, receipts_held: held }));
        channel
    }

    pub(crate) async fn send(&mut self, frame: &AgentFrame) {
        self.send_text(&serde_json::to_string(frame).unwrap()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.0.send(Message::Text(text.into())).await.unwrap();
    }

    /// The next frame that is no heartbeat; none at the end.
    pub(crate) async fn next(&mut self) -> Option<HubFrame> {
        loop {
            match self.any().await? {
                HubFrame::Heartbeat {} => {}
                frame => return Some(frame),
            }
        }
    }

    pub(crate) async fn any(&mut self) -> Option<HubFrame> {
        loop {
            let message =
                tokio::time::timeout(DEADLINE, self.0.next()).await.expect("the hub says something");
            match message {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The hub's last words.
    pub(crate) async fn bye(&mut self) -> String {
        match self.next().await {
            Some(HubFrame::Bye { why, .. }) => {
                assert_eq!(self.next().await, None);
                why
            }
            other => panic!("Bye was expected, not {other:?}"),
        }
    }
}
