//! Somebody in front of the hub who stole its TLS key: clients that pin that key take him for it. He
//! passes everything on to the real hub and keeps a copy of every byte beneath TLS, both ways.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::stand::Stand;
use crate::{Fallible, Trouble};

/// What one connection carried.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// From the client.
    pub to_hub: Vec<u8>,
    /// To the client.
    pub from_hub: Vec<u8>,
}

type Tapes = Arc<Mutex<Vec<Heard>>>;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Tap {
    port: u16,
    tapes: Tapes,
    listening: JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Tap {
    /// Steals the stand's hub's key and listens with it.
    pub async fn start(stand: &Stand) -> Fallible<Self> {
        let stolen = |error: &dyn std::fmt::Display| Trouble::new("the hub's key", error);
        let cert = CertificateDer::from_pem_file(stand.at("hub/tls.crt")).map_err(|error| stolen(&error))?;
        let key = PrivateKeyDer::from_pem_file(stand.at("hub/tls.key")).map_err(|error| stolen(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let only = [&rustls::version::TLS13];
        let mut as_hub = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&only)
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![cert.clone()], key))
            .map_err(|error| stolen(&error))?;
        as_hub.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut roots = RootCertStore::empty();
        roots.add(cert).map_err(|error| stolen(&error))?;
        let as_client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&only)
            .map_err(|error| stolen(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.map_err(|error| Trouble::new("the tap cannot listen", error))?;
        let port =
            listener.local_addr().map_err(|error| Trouble::new("the tap has no address", error))?.port();
        let tapes = Tapes::default();
        let line = Line {
            acceptor: Arc::new(as_hub).into(),
            connector: Arc::new(as_client).into(),
            hub: stand.hub_url().trim_start_matches("https://").to_owned(),
            tapes: tapes.clone(),
        };
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let line = line.clone();
                // A connection that breaks is the client's to report.
                tokio::spawn(async move { line.carry(client).await.unwrap_or_default() });
            }
        });
        Ok(Self { port, tapes, listening })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// All that it has heard so far, a connection each.
    pub fn heard(&self) -> Vec<Heard> {
        lock(&self.tapes).clone()
    }
}

#[derive(Clone)]
struct Line {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    hub: String,
    tapes: Tapes,
}

impl Line {
    async fn carry(self, client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let client = self.acceptor.accept(client).await?;
        let hub = TcpStream::connect(&self.hub).await?;
        hub.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").map_err(std::io::Error::other)?;
        let hub = self.connector.connect(name, hub).await?;
        let place = {
            let mut tapes = lock(&self.tapes);
            tapes.push(Heard::default());
            tapes.len() - 1
        };
        let ((from_client, to_client), (from_hub, to_hub)) =
            (tokio::io::split(client), tokio::io::split(hub));
        let keep = |pick: fn(&mut Heard) -> &mut Vec<u8>| {
            let tapes = self.tapes.clone();
            move |bytes: &[u8]| {
                if let Some(tape) = lock(&tapes).get_mut(place) {
                    pick(tape).extend_from_slice(bytes);
                }
            }
        };
        let ((), ()) = tokio::join!(
            copy(from_client, to_hub, keep(|heard| &mut heard.to_hub)),
            copy(from_hub, to_client, keep(|heard| &mut heard.from_hub)),
        );
        Ok(())
    }
}

/// Passes on what comes, and its end.
async fn copy<R, W>(mut from: R, mut to: W, keep: impl Fn(&[u8]))
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        keep(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

fn lock(tapes: &Mutex<Vec<Heard>>) -> MutexGuard<'_, Vec<Heard>> {
    tapes.lock().unwrap_or_else(PoisonError::into_inner)
}
