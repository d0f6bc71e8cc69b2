//! TLS 1.3 with ring for the bare counterparts, and trust in one certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Fallible;

/// Certificate of the bare servers, PEM.
pub(crate) const CERT: &str = "bare.crt";
/// Its key.
pub(crate) const KEY: &str = "bare.key";

/// Makes the key and the certificate of the bare servers in a directory.
pub(crate) fn make(dir: &Path) -> Fallible<()> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    std::fs::write(dir.join(CERT), made.cert.pem())?;
    std::fs::write(dir.join(KEY), made.signing_key.serialize_pem())?;
    Ok(())
}

/// A bare server's.
pub(crate) fn acceptor(dir: &Path) -> Fallible<TlsAcceptor> {
    let cert = CertificateDer::from_pem_file(dir.join(CERT))?;
    let key = PrivateKeyDer::from_pem_file(dir.join(KEY))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    Ok(Arc::new(config).into())
}

/// Trust in a bare server.
pub(crate) fn client(dir: &Path) -> Fallible<Arc<ClientConfig>> {
    trusting(&dir.join(CERT))
}

/// Trust in the certificate of this file.
pub(crate) fn trusting(cert: &Path) -> Fallible<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whom everybody here expects to find.
pub(crate) fn here() -> Fallible<ServerName<'static>> {
    Ok(ServerName::try_from("127.0.0.1")?)
}

/// Connects to a port of this machine.
pub(crate) async fn dial(port: u16, config: Arc<ClientConfig>) -> Fallible<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(TlsConnector::from(config).connect(here()?, stream).await?)
}
