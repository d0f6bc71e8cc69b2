//! Trust in the hub is its public key and nothing else. The check here replaces the chain, never
//! the proof: handshake signatures are always verified, so a copied certificate is worth nothing.

use std::fmt;
use std::sync::Arc;

use protocol::Sha256;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme,
};
use webpki::EndEntityCert;

/// The keys that a hub may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPins {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub current: Sha256,
    /// The one it will change to.
    pub next: Option<Sha256>,
}

/// The server showed another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinMismatch {
    /// What it showed; none when its certificate cannot be read.
    pub shown: Option<Sha256>,
    /// What is pinned.
    pub wanted: HubPins,
}

impl std::error::Error for PinMismatch {}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shown {
            Some(shown) => write!(f, "the server shows the key {shown}")?,
            None => f.write_str("the server shows no readable certificate")?,
        }
        write!(
            f,
            ", but this host enrolled with {}: something stands between, the address is wrong, or the hub has a new key; compare with `writ-hub` on the hub, and enroll again only if it is the hub's",
            self.wanted.current
        )
    }
}

/// The configuration of every connection to the hub: ring, TLS 1.3, HTTP/1.1, no resumption (a
/// resumed session would skip the check).
pub fn client_config(
    pins: HubPins,
    identity: (CertificateDer<'static>, PrivateKeyDer<'static>),
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier { pins, algorithms }))
        .with_client_auth_cert(vec![identity.0], identity.1)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct PinVerifier {
    pins: HubPins,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown =
            EndEntityCert::try_from(end_entity).ok().map(|cert| Sha256::of(&cert.subject_public_key_info()));
        if shown.is_some() && (shown == Some(self.pins.current) || shown == self.pins.next) {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = PinMismatch { shown, wanted: self.pins.clone() };
        Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
    }

    /// TLS 1.2 is not offered, so this cannot be reached; refusing is right in any case.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
