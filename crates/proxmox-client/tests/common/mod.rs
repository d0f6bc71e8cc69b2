//! A tiny HTTPS server whose every answer a test decides, and certificates made on the spot.
#![expect(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proxmox_client::catalog::{Shape, shapes};
use proxmox_client::{ApiToken, Client, Endpoint, Pin, PinKind, PinSet};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub(crate) const TOKEN: &str = "tester@pve!full=00000000-0000-4000-8000-000000000015";

/// A certificate chain with the leaf's key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

pub(crate) fn sha256(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

impl Identity {
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        Self::with_key(names, KeyPair::generate().unwrap())
    }

    pub(crate) fn with_key(names: &[&str], key: KeyPair) -> Self {
        let cert = params(names).self_signed(&key).unwrap();
        Self { chain: vec![cert.der().clone()], key }
    }

    pub(crate) fn leaf_pin(&self) -> Pin {
        Pin::new(PinKind::Leaf, sha256(&self.chain[0]))
    }

    pub(crate) fn spki_pin(&self) -> Pin {
        let cert = webpki::EndEntityCert::try_from(&self.chain[0]).unwrap();
        Pin::new(PinKind::Spki, sha256(&cert.subject_public_key_info()))
    }
}

pub(crate) fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin::new(PinKind::Ca, sha256(self.0.der()))
    }

    pub(crate) fn issue(&self, params: CertificateParams, send_ca: bool) -> Identity {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let mut chain = vec![leaf.der().clone()];
        chain.extend(send_ca.then(|| self.der()));
        Identity { chain, key }
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Presents `chain` and signs with `key`, whether or not they belong together.
pub(crate) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Fixed(Arc::new(CertifiedKey::new(chain, key)))))
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What the server does with a request.
pub(crate) enum React {
    /// Sends these bytes, then reads the next request of the connection.
    Send(Vec<u8>),
    /// Sends these bytes and closes.
    SendAndClose(Vec<u8>),
    /// Closes without an answer.
    Close,
    /// Sends these bytes once the gate is open.
    Behind(watch::Receiver<bool>, Vec<u8>),
}

impl React {
    pub(crate) fn json(status: &str, body: &str) -> Self {
        Self::Send(
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    }

    pub(crate) fn ok(data: &str) -> Self {
        Self::json("200 OK", &format!("{{\"data\":{data}}}"))
    }

    /// The task that such a request starts, or nothing.
    pub(crate) fn task(seen: &Seen) -> Self {
        let path = seen.target.split('?').next().unwrap().strip_prefix("/api2/json/").unwrap();
        let parts: Vec<&str> = path.split('/').collect();
        let fits = |shape: &&Shape| {
            let places: Vec<&str> = shape.path.split('/').skip(1).collect();
            shape.verb.as_str() == seen.method
                && !shape.starts.is_empty()
                && places.len() == parts.len()
                && places.iter().zip(&parts).all(|(place, part)| place.starts_with('{') || place == part)
        };
        let Some(shape) = shapes().find(fits) else { return Self::ok("null") };
        let vmid = shape.path.split('/').skip(1).position(|place| place == "{vmid}");
        let (kind, id) = (shape.starts[0], vmid.map_or("", |at| parts[at]));
        let node = parts[1];
        Self::ok(&format!("\"UPID:{node}:000003A4:000359AB:6B025FB3:{kind}:{id}:tester@pve!full:\""))
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    pin: Option<Pin>,
}

pub(crate) type Handler = dyn Fn(&Seen, usize) -> React + Send + Sync;

impl Server {
    /// `handler` gets each request and its number.
    pub(crate) async fn start(
        config: ServerConfig,
        handler: impl Fn(&Seen, usize) -> React + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
            pin: None,
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen, connections) = (Arc::clone(&server.seen), Arc::clone(&server.connections));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, handler, seen) = (acceptor.clone(), Arc::clone(&handler), Arc::clone(&seen));
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(tcp, acceptor, handler, seen));
            }
        });
        server
    }

    /// With a fresh self-signed identity, which the returned client pins by key.
    pub(crate) async fn pinned(
        handler: impl Fn(&Seen, usize) -> React + Send + Sync + 'static,
    ) -> (Self, Client) {
        let identity = Identity::self_signed(&["localhost"]);
        let config = server_config(identity.chain.clone(), &identity.key, rustls::ALL_VERSIONS);
        let server = Self { pin: Some(identity.spki_pin()), ..Self::start(config, handler).await };
        let client = server.another_client();
        (server, client)
    }

    /// Another client of a [`Server::pinned`], with limits of its own.
    pub(crate) fn another_client(&self) -> Client {
        client(self, vec![self.pin.unwrap()])
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().unwrap().clone()
    }
}

pub(crate) fn client(server: &Server, pins: Vec<Pin>) -> Client {
    client_at(&format!("https://127.0.0.1:{}", server.address.port()), pins)
}

/// For node `pve1`, so that tests see exactly the requests they ask for.
pub(crate) fn client_at(url: &str, pins: Vec<Pin>) -> Client {
    let endpoint: Endpoint = url.parse().unwrap();
    let token: ApiToken = TOKEN.parse().unwrap();
    Client::new(endpoint, PinSet::new(pins).unwrap(), token).unwrap().with_node("pve1".parse().unwrap())
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, handler: Arc<Handler>, seen: Arc<Mutex<Vec<Seen>>>) {
    let Ok(mut tls) = acceptor.accept(tcp).await else { return };
    while let Some(request) = read_request(&mut tls).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        match handler(&request, number) {
            React::Send(bytes) => {
                if tls.write_all(&bytes).await.is_err() || tls.flush().await.is_err() {
                    return;
                }
            }
            React::SendAndClose(bytes) => {
                // The client may hang up first; that is what some tests are about.
                let _sent = tls.write_all(&bytes).await;
                let _closed = tls.shutdown().await;
                return;
            }
            React::Close => return,
            React::Behind(mut gate, bytes) => {
                if gate.wait_for(|open| *open).await.is_err() || tls.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse().unwrap())
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let mut words = head.split(' ');
    Some(Seen {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        body: String::from_utf8(body).ok()?,
        head,
    })
}
