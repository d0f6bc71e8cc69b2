//! TLS 1.3 with the hub's key, and proof of possession of device keys.
//!
//! A client certificate is a container for a device key and nothing more: no name, date or issuer
//! in it means anything. What counts is that the client signed this very handshake with that key.
//! Sessions are never resumed, because a resumed one would skip that proof.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use authz::files::{self, FileError};
use protocol::{Ed25519Key, Sha256};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

/// SubjectPublicKeyInfo of an Ed25519 key up to the 32 bytes (RFC 8410).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Longest certificate file, in bytes.
const MAX_CERT: u64 = 256 * 1024;

/// Why the hub cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// No certificate in it.
    #[error("{path} holds no PEM certificate: put the hub's certificate there or make one with `writ-hub init`", path = .0.display())]
    NoCertificate(PathBuf),
    /// No key in it.
    #[error("{path} holds no PEM private key: put the hub's key there or make one with `writ-hub init`", path = .0.display())]
    NoKey(PathBuf),
    /// They do not fit each other, or are of an unusable kind.
    #[error("certificate {cert} and key {key} do not belong together or are of an unsupported kind: correct tls_cert and tls_key", cert = .cert.display(), key = .key.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library said.
        source: Error,
    },
}

/// The hub's TLS side.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// For the acceptor.
    pub(crate) config: Arc<ServerConfig>,
    /// What everybody pins.
    pub(crate) pin: Sha256,
}

/// The device key that the client proved to hold in this connection's handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKey(pub Ed25519Key);

/// The pin of a certificate file: SHA-256 of the first certificate's SubjectPublicKeyInfo.
pub fn pin_of_file(cert: &Path) -> Result<Sha256, TlsError> {
    let chain = read_chain(cert)?;
    pin(&chain).ok_or_else(|| TlsError::NoCertificate(cert.to_owned()))
}

fn read_chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = files::read_limited(cert, MAX_CERT)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::NoCertificate(cert.to_owned())),
    }
}

fn pin(chain: &[CertificateDer<'_>]) -> Option<Sha256> {
    let cert = webpki::EndEntityCert::try_from(chain.first()?).ok()?;
    Some(Sha256::of(cert.subject_public_key_info().as_ref()))
}

/// Reads certificate and key; the key's file must be closed to others.
pub(crate) fn load(cert: &Path, key: &Path) -> Result<Tls, TlsError> {
    let chain = read_chain(cert)?;
    let pin = pin(&chain).ok_or_else(|| TlsError::NoCertificate(cert.to_owned()))?;
    let pem = files::read_secret(key)?;
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey(key.to_owned()))?;
    let config = server_config(chain, secret).map_err(|source| TlsError::Unusable {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    Ok(Tls { config: Arc::new(config), pin })
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(DeviceVerifier::new(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The 32 raw bytes, if the certificate's key is an Ed25519 one.
pub(crate) fn device_key(cert: &CertificateDer<'_>) -> Option<DeviceKey> {
    let cert = webpki::EndEntityCert::try_from(cert).ok()?;
    let spki = cert.subject_public_key_info();
    let key: &[u8; 32] = spki.as_ref().strip_prefix(&ED25519_SPKI)?.try_into().ok()?;
    let key = Ed25519Key::from_bytes(*key);
    // With a small-order key anybody could "prove" possession.
    authz::PublicKey::try_from(key).ok().map(|_| DeviceKey(key))
}

/// Takes any certificate with an Ed25519 key, and really checks the handshake's signature with it.
#[derive(Debug)]
struct DeviceVerifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl DeviceVerifier {
    fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Which host the key belongs to is asked per request, from the database.
        device_key(end_entity)
            .map(|_| ClientCertVerified::assertion())
            .ok_or(Error::InvalidCertificate(rustls::CertificateError::BadEncoding))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    fn certificate(key: &KeyPair) -> CertificateDer<'static> {
        CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(key).unwrap().der().clone()
    }

    #[test]
    fn only_ed25519_certificates_carry_a_device_key() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let raw: [u8; 32] = key.public_key_raw().try_into().unwrap();
        let cert = certificate(&key);
        assert_eq!(device_key(&cert), Some(DeviceKey(Ed25519Key::from_bytes(raw))));
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        assert_eq!(device_key(&certificate(&other)), None);
        // A certificate around the neutral element, with which every signature would verify.
        let at = cert.windows(32).position(|w| w == raw).unwrap();
        let mut weak = cert.to_vec();
        weak[at..at + 32].fill(0);
        weak[at] = 1;
        assert_eq!(device_key(&CertificateDer::from(weak)), None);
        assert_eq!(device_key(&CertificateDer::from(vec![0x30, 0x00])), None);
    }

    #[test]
    fn certificate_and_key_must_fit_and_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&pair).unwrap().pem();
        std::fs::write(&cert, pem).unwrap();
        files::write_atomic(&key, pair.serialize_pem().as_bytes()).unwrap();
        assert_eq!(load(&cert, &key).unwrap().pin, pin_of_file(&cert).unwrap());

        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        files::write_atomic(&key, other.serialize_pem().as_bytes()).unwrap();
        assert!(load(&cert, &key).unwrap_err().to_string().contains("do not belong together"));
        files::write_atomic(&key, b"junk").unwrap();
        assert!(matches!(load(&cert, &key), Err(TlsError::NoKey(_))));
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(&cert, &key).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(&cert, "junk").unwrap();
        assert!(matches!(load(&cert, &key), Err(TlsError::NoCertificate(_))));
    }
}
