//! TLS whose trust is the pin set. The only place that touches rustls' `dangerous()` builder, and
//! it adds a check there, never removes one: handshake signatures are always verified, so showing
//! a copied certificate without its key is refused.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::wire::pin::{Pin, PinKind, PinSet};
use crate::wire::presented::{Presented, Shown};
use crate::wire::validity::not_after;

/// The server showed certificates that match no pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinMismatch {
    /// SHA-256 of the certificate the server presented.
    pub leaf: Pin,
    /// SHA-256 of its public key; `None` if the certificate does not parse.
    pub spki: Option<Pin>,
    /// The pins that were configured.
    pub wanted: Vec<Pin>,
    /// Why the `ca` pins did not match, and why root's copy did not help; empty without either.
    pub ca_notes: Vec<String>,
}

impl std::error::Error for PinMismatch {}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server presented {}", self.leaf)?;
        match self.spki {
            Some(spki) => write!(f, " with {spki}")?,
            None => f.write_str(", which is not a readable certificate")?,
        }
        f.write_str(", and no configured pin matches; expected ")?;
        for (at, pin) in self.wanted.iter().enumerate() {
            write!(f, "{}{pin}", if at == 0 { "" } else { " or " })?;
        }
        for note in &self.ca_notes {
            write!(f, " ({note})")?;
        }
        f.write_str(
            "; compare these fingerprints on the host's own console (`openssl x509 -in /etc/pve/local/pve-ssl.pem -noout -fingerprint -sha256`, or pveproxy-ssl.pem where a custom certificate is used) and re-pin only if they agree",
        )?;
        let shown = |kind| if kind == PinKind::Spki { self.spki } else { Some(self.leaf) };
        let old = self.wanted.iter().find(|pin| pin.kind() != PinKind::Ca);
        match old.and_then(|old| Some((old, shown(old.kind())?))) {
            Some((old, new)) => {
                write!(f, ": `sed -i 's/{old}/{new}/' CONFIG`, where CONFIG is the file that holds the pin")
            }
            None => Ok(()),
        }
    }
}

/// The configuration every connection uses: ring, TLS 1.2 and 1.3, HTTP/1.1, pins, no resumption.
pub(crate) fn client_config(pins: PinSet, shown: Arc<Shown>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier { pins, algorithms, shown }))
        .with_no_client_auth();
    // pveproxy speaks HTTP/1.1 only (`pve/facts.md` 3.1); a preconfigured config carries its own ALPN.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session skips the verifier.
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct PinVerifier {
    pins: PinSet,
    algorithms: WebPkiSupportedAlgorithms,
    shown: Arc<Shown>,
}

impl PinVerifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Presented, PinMismatch> {
        let presented_leaf = Pin::of(PinKind::Leaf, leaf);
        let parsed = EndEntityCert::try_from(leaf).ok();
        let presented_spki =
            parsed.as_ref().map(|cert| Pin::of(PinKind::Spki, &cert.subject_public_key_info()));
        let accepted = |matched| {
            // Without a readable key there is no signature to check, and the handshake fails anyway.
            let spki = presented_spki.unwrap_or_else(|| Pin::of(PinKind::Spki, &[]));
            Presented { leaf: presented_leaf, spki, not_after: not_after(leaf), matched }
        };
        let mut ca_notes = Vec::new();
        for pin in self.pins.pins() {
            match pin.kind() {
                PinKind::Leaf if *pin == presented_leaf => return Ok(accepted(*pin)),
                PinKind::Spki if Some(*pin) == presented_spki => return Ok(accepted(*pin)),
                PinKind::Leaf | PinKind::Spki => {}
                PinKind::Ca => match self.check_ca(*pin, parsed.as_ref(), intermediates, server_name, now) {
                    Ok(()) => return Ok(accepted(*pin)),
                    Err(note) => ca_notes.push(note),
                },
            }
        }
        // Read at each handshake: what root takes back is refused at once.
        if let Some(directory) = self.pins.root_copy() {
            match directory.leaves() {
                Ok(leaves) if leaves.contains(&presented_leaf) => return Ok(accepted(presented_leaf)),
                Ok(_) => ca_notes.push(format!("{} does not hold it either", directory.path().display())),
                Err(error) => ca_notes.push(error.to_string()),
            }
        }
        Err(PinMismatch {
            leaf: presented_leaf,
            spki: presented_spki,
            wanted: self.pins.pins().to_vec(),
            ca_notes,
        })
    }

    /// The pinned CA must be in the presented chain and the leaf must verify under it for this
    /// name, now.
    fn check_ca(
        &self,
        pin: Pin,
        leaf: Option<&EndEntityCert<'_>>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), String> {
        let Some(ca) = intermediates.iter().find(|der| Pin::of(PinKind::Ca, der) == pin) else {
            return Err(format!(
                "{pin}: the server does not send that CA certificate, so the pin cannot match"
            ));
        };
        let Some(leaf) = leaf else {
            return Err(format!("{pin}: the leaf certificate does not parse"));
        };
        let anchor = anchor_from_trusted_cert(ca)
            .map_err(|error| format!("{pin}: the CA certificate does not parse: {error}"))?;
        leaf.verify_for_usage(
            self.algorithms.all,
            &[anchor],
            intermediates,
            now,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(|error| format!("{pin}: the leaf does not verify under that CA: {error}"))?;
        leaf.verify_is_valid_for_subject_name(server_name)
            .map_err(|error| format!("{pin}: the leaf is not for {}: {error}", server_name.to_str()))
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.check(end_entity, intermediates, server_name, now) {
            Ok(presented) => {
                self.shown.offer(presented);
                Ok(ServerCertVerified::assertion())
            }
            Err(mismatch) => Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls12_signature(message, cert, dss, &self.algorithms)?;
        self.shown.prove(Pin::of(PinKind::Leaf, cert), self.pins.pins());
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, cert, dss, &self.algorithms)?;
        self.shown.prove(Pin::of(PinKind::Leaf, cert), self.pins.pins());
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
