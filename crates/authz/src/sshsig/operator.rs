//! Signatures by operators' keys of every type, and by certificates (rules V8 to V16).
//!
//! In three steps, cheap and safe first (`security.md` 2.16): [`decode_operator`] reads the form;
//! the policy says whose key that is; [`OperatorSignature::verify`] does the mathematics and then the rules of
//! security keys and certificates.

use protocol::Fingerprint;

use super::{Hash, SigError, frame, signed_bytes};
use crate::keys::cert::{CertError, Certificate, certified_type};
use crate::keys::shape::{Absence, Proof, Shape, ShapeError};
use crate::keys::{OperatorIdentity, OperatorKey};
use crate::namespace::Namespace;
use crate::wire::take_string;

/// Who a signature says made it. Nothing of it is true yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claimed {
    /// A key, by its SSH wire bytes.
    Key(Vec<u8>),
    Certificate(Box<Certificate>),
}

/// Who a signature says made it, for the look into the policy.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    /// A key, by its SSH wire bytes (V13).
    Key(&'a [u8]),
    /// A certificate.
    Certificate {
        /// The SSH wire bytes of the CA that says it made it.
        ca: &'a [u8],
        /// The SSH wire bytes of the certified key.
        subject: &'a [u8],
        /// Whom it stands for, 1 to 16 plain words.
        principals: &'a [String],
        /// Its serial number.
        serial: u64,
        /// Its key id, any bytes.
        key_id: &'a [u8],
        /// The first second, unix time, at which it counts no more.
        valid_before: u64,
    },
}

impl Claim<'_> {
    /// `SHA256:…` of the key that signs: of the certified one, where it is a certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Key(raw) => Fingerprint::of_key_blob(raw),
            Self::Certificate { subject, .. } => Fingerprint::of_key_blob(subject),
        }
    }
}

/// A signature by some operator's key, well-formed in every respect, not checked against any message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSignature {
    claimed: Claimed,
    namespace: Namespace,
    hash: Hash,
    proof: Proof,
}

/// What the policy says of the key or CA that a signature claims. Only a lookup makes it, so no mathematics
/// is done for unknown keys (V22).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    /// PIN or biometric is demanded (V12).
    pub(crate) verify_required: bool,
    /// Longest window of a certificate, seconds.
    pub(crate) max_validity_s: u64,
}

/// Reads a signature by a key of any accepted type, or by a certificate. Costs no public-key mathematics.
pub fn decode_operator(armored: &str, namespace: Namespace) -> Result<OperatorSignature, SigError> {
    let (claimed, hash, inner) = frame(armored, namespace, read_key)?;
    let proof = {
        let raw = match &claimed {
            Claimed::Key(raw) => raw,
            Claimed::Certificate(cert) => &cert.subject,
        };
        // V9.
        Proof::parse(&Shape::parse(raw).map_err(shape_error)?, &inner)?
    };
    Ok(OperatorSignature { claimed, namespace, hash, proof })
}

/// V8, and what of V15 stands in the certificate itself.
fn read_key(blob: &[u8]) -> Result<Claimed, SigError> {
    let mut rest = blob;
    if certified_type(take_string(&mut rest)?).is_none() {
        Shape::parse(blob).map_err(shape_error)?;
        return Ok(Claimed::Key(blob.to_vec()));
    }
    match Certificate::parse(blob) {
        Ok(cert) => Ok(Claimed::Certificate(Box::new(cert))),
        Err(CertError::Key(error)) => Err(shape_error(error)),
        Err(CertError::Rule(why)) => Err(SigError::Certificate(why)),
        Err(CertError::Damaged(what)) => Err(SigError::Format(what)),
    }
}

fn shape_error(error: ShapeError) -> SigError {
    match error {
        ShapeError::Type(name) => SigError::NeverAccepted(name),
        ShapeError::Refused(why) => SigError::KeyRefused(why),
        ShapeError::Damaged(what) => SigError::Format(what),
    }
}

impl OperatorSignature {
    /// Who says they signed. Look them up in the policy **before** anything else (V22).
    pub fn claim(&self) -> Claim<'_> {
        match &self.claimed {
            Claimed::Key(raw) => Claim::Key(raw),
            Claimed::Certificate(cert) => cert.claim(),
        }
    }

    /// The fingerprint of the key that signed: of the certified key, where it is a certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.claim().fingerprint()
    }

    /// For a signature by one known key and no certificate: whether that key signed exactly these bytes, and
    /// was touched where it is a security key.
    pub fn verify_by(&self, key: &OperatorKey, message: &[u8]) -> Result<(), SigError> {
        match &self.claimed {
            Claimed::Key(raw) if raw == key.blob() => {
                let listed = Listed { verify_required: false, max_validity_s: 0 };
                self.verify(message, listed, 0).map(drop)
            }
            Claimed::Key(_) | Claimed::Certificate(_) => Err(SigError::Wrong),
        }
    }

    /// For a signature that was asked of one key or certificate: whether exactly that one signed exactly these
    /// bytes, with a touch where it is a security key. A certificate must be signed by its CA and count at
    /// `now`, unix seconds; how long it may be valid is the policy's to say.
    pub fn verify_as(&self, identity: &OperatorIdentity, message: &[u8], now: u64) -> Result<(), SigError> {
        let same = match &self.claimed {
            Claimed::Key(raw) => raw == identity.blob(),
            Claimed::Certificate(cert) => identity.certificate() == Some(cert),
        };
        if !same {
            return Err(SigError::Wrong);
        }
        let listed = Listed { verify_required: false, max_validity_s: u64::MAX };
        self.verify(message, listed, now).map(drop)
    }

    /// Whether the key signed exactly these bytes, for the expected namespace; then touch and PIN (V12), and
    /// the certificate at the trusted time `now` (V15).
    pub(crate) fn verify(&self, message: &[u8], listed: Listed, now: u64) -> Result<OperatorKey, SigError> {
        let signed = signed_bytes(self.namespace, self.hash, message);
        let (raw, cert) = match &self.claimed {
            Claimed::Key(raw) => (raw, None),
            Claimed::Certificate(cert) => (&cert.subject, Some(cert)),
        };
        // The CA first: until it has spoken, the certified key is a stranger's choice.
        if cert.is_some_and(|cert| !cert.is_signed()) {
            return Err(SigError::Certificate("the CA did not sign it, or did so without a touch"));
        }
        let key = OperatorKey::from_blob(raw.clone()).map_err(|_| SigError::WeakKey)?;
        if !key.shape().is_some_and(|shape| shape.accepts(&signed, &self.proof)) {
            return Err(SigError::Wrong);
        }
        let verified = listed.verify_required || cert.is_some_and(|cert| cert.verify_required);
        self.proof.presence(verified).map_err(|absence| match absence {
            Absence::Touch => SigError::NoTouch,
            Absence::Verification => SigError::NotVerified,
            Absence::Flags => SigError::Flags,
        })?;
        if let Some(cert) = cert {
            cert.is_current(now, listed.max_validity_s).map_err(SigError::Certificate)?;
        }
        Ok(key)
    }
}

#[cfg(test)]
pub(crate) mod tests;
