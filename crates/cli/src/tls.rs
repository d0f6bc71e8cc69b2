//! TLS whose trust is one pin: the hub's SubjectPublicKeyInfo. The pin replaces a certificate
//! authority; handshake signatures are really verified, so a copied certificate is worth nothing.

use std::sync::{Arc, OnceLock};

use protocol::Sha256;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use webpki::EndEntityCert;

/// What a server showed instead of the pinned key, if one did.
#[derive(Debug, Clone, Default)]
pub struct Mismatch(Arc<OnceLock<Sha256>>);

impl Mismatch {
    /// The key that was seen, as a pin.
    pub fn seen(&self) -> Option<Sha256> {
        self.0.get().copied()
    }
}

/// TLS 1.3 with ring, trusting exactly the pinned key.
pub fn client_config(pin: Sha256) -> Result<(ClientConfig, Mismatch), rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mismatch = Mismatch::default();
    let verifier = PinVerifier { pin, algorithms, mismatch: mismatch.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not ask the verifier again.
    config.resumption = Resumption::disabled();
    Ok((config, mismatch))
}

#[derive(Debug)]
struct PinVerifier {
    pin: Sha256,
    algorithms: WebPkiSupportedAlgorithms,
    mismatch: Mismatch,
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
        // Neither name nor time: the operator named this key itself, by hand.
        let certificate = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let seen = Sha256::of(&certificate.subject_public_key_info());
        if seen == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            // The first one is the one to report.
            let _ = self.mismatch.0.set(seen);
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
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
