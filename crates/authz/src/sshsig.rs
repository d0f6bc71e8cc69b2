//! SSHSIG, our strict profile (`security.md` 1.1 and 1.6; OpenSSH PROTOCOL.sshsig).
//!
//! Written here and not taken from a crate on purpose: both OpenSSH's tool and the `ssh-key` crate
//! accept things that must not count as an operator's signature (F1, F2). Whatever this module
//! accepts, `ssh-keygen -Y verify` accepts too; the tests hold it to that.

use data_encoding::BASE64;
use sha2::Digest as _;

use crate::keys::{OperatorIdentity, PublicKey, type_name};
use crate::namespace::Namespace;
use crate::wire::{Damaged, nothing_left, put_string, take, take_string, take_u32};
use protocol::Envelope;

mod operator;

pub(crate) use operator::Listed;
#[cfg(test)]
pub(crate) use operator::tests as tests_of_operators;
pub use operator::{Claim, OperatorSignature, decode_operator};

const MAGIC: &[u8; 6] = b"SSHSIG";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &str = "-----END SSH SIGNATURE-----";
const COLUMNS: usize = 70;

/// Why bytes are not a signature that we accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigError {
    /// V1.
    #[error("the signature is larger than {max} bytes: it is not one made by ssh-keygen -Y sign", max = Envelope::MAX_ARMOR)]
    TooLarge,
    /// V2.
    #[error(
        "the signature's armor is not exactly what ssh-keygen -Y sign writes (70 columns, nothing before or after): sign again"
    )]
    Armor,
    /// V3, V4, V6.
    #[error("the signature is damaged ({0}): sign again with ssh-keygen -Y sign")]
    Format(&'static str),
    /// V5.
    #[error("the signature uses a hash other than sha256 or sha512: sign again without -O hashalg")]
    Hash,
    /// V7.
    #[error("the signature is for another purpose: sign with -n {expected}")]
    Namespace {
        /// The one that was needed.
        expected: Namespace,
    },
    /// V8.
    #[error("signatures by keys of type {0} are not accepted yet: sign with an Ed25519 key")]
    KeyType(String),
    /// V8, of an operator's key.
    #[error(
        "signatures by keys of type {0} are not accepted: sign with an Ed25519 key, a security key, ECDSA, or RSA \
         of 3072 bits or more"
    )]
    NeverAccepted(String),
    /// V8, V12: a good type, but too weak, or made for something else.
    #[error("{0}")]
    KeyRefused(&'static str),
    /// V12: a valid signature of a security key that nobody touched.
    #[error(
        "nobody touched the security key for this signature: sign again and touch it (no-touch-required is never enough)"
    )]
    NoTouch,
    /// V12: PIN or biometric is required.
    #[error(
        "the policy wants PIN or biometric with every signature of this key: use a security key made with \
         ssh-keygen -t ed25519-sk -O verify-required"
    )]
    NotVerified,
    /// V12: flags that no SSH signature has.
    #[error(
        "the security key signed with flags that mean something else than an SSH signature: use another key"
    )]
    Flags,
    /// V15.
    #[error("the certificate does not count: {0}")]
    Certificate(&'static str),
    /// V8, V10.
    #[error("the signing key is malformed or weak: make a new one with ssh-keygen -t ed25519")]
    WeakKey,
    /// V10.
    #[error(
        "the signature does not fit these bytes: they were changed after signing, or another file was signed"
    )]
    Wrong,
}

impl From<Damaged> for SigError {
    fn from(error: Damaged) -> Self {
        Self::Format(error.0)
    }
}

/// The hash inside the signed structure (rule V5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

/// A signature that is well-formed in every respect, but not yet checked against any message.
/// Who made it is known; whether they really did is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    key: PublicKey,
    namespace: Namespace,
    hash: Hash,
    signature: [u8; 64],
}

/// The namespace that an armored signature says it is for, if it is one of ours. Choosing the expected one
/// by it is safe only from a closed list, and only when what was signed is held against it afterwards.
pub(crate) fn claimed_namespace(armored: &str) -> Option<Namespace> {
    let blob = dearmor(armored).ok()?;
    let mut rest = blob.as_slice();
    let reader = &mut rest;
    take(reader, MAGIC.len() + 4).ok()?;
    take_string(reader).ok()?;
    let name = take_string(reader).ok()?;
    Namespace::ALL.iter().copied().find(|namespace| namespace.as_str().as_bytes() == name)
}

/// Rules V1 to V7. The key is read by `read_key` in its place, so that what is refused first is what stands
/// first.
fn frame<K>(
    armored: &str,
    namespace: Namespace,
    read_key: impl FnOnce(&[u8]) -> Result<K, SigError>,
) -> Result<(K, Hash, Vec<u8>), SigError> {
    let blob = dearmor(armored)?;
    let mut rest = blob.as_slice();
    let reader = &mut rest;
    if take(reader, MAGIC.len())? != MAGIC {
        return Err(SigError::Format("no SSHSIG magic"));
    }
    if take_u32(reader)? != 1 {
        return Err(SigError::Format("version is not 1"));
    }
    let key = read_key(take_string(reader)?)?;
    if take_string(reader)? != namespace.as_str().as_bytes() {
        return Err(SigError::Namespace { expected: namespace });
    }
    if !take_string(reader)?.is_empty() {
        return Err(SigError::Format("reserved field in use"));
    }
    let hash = match take_string(reader)? {
        b"sha256" => Hash::Sha256,
        b"sha512" => Hash::Sha512,
        _ => return Err(SigError::Hash),
    };
    let inner = take_string(reader)?.to_vec();
    nothing_left(reader)?;
    Ok((key, hash, inner))
}

/// A signature by an Ed25519 key: form, namespace and key type (rules V1 to V10 without the mathematics).
/// Hosts and devices have no other keys; [`decode_operator`] is for operators.
pub fn decode(armored: &str, namespace: Namespace) -> Result<Unverified, SigError> {
    let (key, hash, inner) = frame(armored, namespace, public_key)?;
    let mut inner = inner.as_slice();
    // V9: the signature's own algorithm name fits the key.
    if take_string(&mut inner)? != b"ssh-ed25519" {
        return Err(SigError::Format("signature type differs from key type"));
    }
    let signature = take_string(&mut inner)?;
    nothing_left(inner)?;
    let signature = signature.try_into().map_err(|_| SigError::Format("signature is not 64 bytes"))?;
    Ok(Unverified { key, namespace, hash, signature })
}

impl Unverified {
    /// The key that claims to have signed. Look it up in the policy **before** [`Self::verify`]: an
    /// unknown key costs no public-key mathematics (rule V22).
    pub fn claimed_key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether that key signed exactly these bytes. The signed structure is rebuilt from the
    /// expected namespace.
    pub fn verify(&self, message: &[u8]) -> Result<PublicKey, SigError> {
        let signed = signed_bytes(self.namespace, self.hash, message);
        if self.key.verify_strict(&signed, &self.signature) { Ok(self.key) } else { Err(SigError::Wrong) }
    }
}

/// Decode and verify in one go, for where only one key can be meant.
pub fn verify(armored: &str, namespace: Namespace, message: &[u8], key: &PublicKey) -> Result<(), SigError> {
    let signature = decode(armored, namespace)?;
    if signature.claimed_key() != key {
        return Err(SigError::Wrong);
    }
    signature.verify(message).map(drop)
}

/// The bytes under the signature.
pub(crate) fn signed_bytes(namespace: Namespace, hash: Hash, message: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put_string(&mut bytes, namespace.as_str().as_bytes());
    put_string(&mut bytes, b"");
    match hash {
        Hash::Sha256 => {
            put_string(&mut bytes, b"sha256");
            put_string(&mut bytes, &sha2::Sha256::digest(message));
        }
        Hash::Sha512 => {
            put_string(&mut bytes, b"sha512");
            put_string(&mut bytes, &sha2::Sha512::digest(message));
        }
    }
    bytes
}

/// Our own signatures: SHA-512, canonical armor.
pub(crate) fn armor(key: &PublicKey, namespace: Namespace, signature: &[u8; 64]) -> String {
    armor_blob(&key.blob(), namespace, &ed25519_blob(signature))
}

/// An Ed25519 signature as SSH writes it.
pub(crate) fn ed25519_blob(signature: &[u8; 64]) -> Vec<u8> {
    let mut inner = Vec::new();
    put_string(&mut inner, b"ssh-ed25519");
    put_string(&mut inner, signature);
    inner
}

fn armor_blob(key: &[u8], namespace: Namespace, signature: &[u8]) -> String {
    let mut blob = MAGIC.to_vec();
    blob.extend_from_slice(&1u32.to_be_bytes());
    put_string(&mut blob, key);
    put_string(&mut blob, namespace.as_str().as_bytes());
    put_string(&mut blob, b"");
    put_string(&mut blob, b"sha512");
    put_string(&mut blob, signature);
    enarmor(&blob)
}

/// What a key that is held elsewhere (ssh-agent) signs so that [`from_raw`] makes the signature that
/// [`crate::SecretKey::sign`] would make.
pub fn to_sign(namespace: Namespace, message: &[u8]) -> Vec<u8> {
    signed_bytes(namespace, Hash::Sha512, message)
}

/// The armored signature from what `identity`, held elsewhere, made over [`to_sign`]: the SSH signature blob
/// (`string` algorithm, `string` signature, and of a security key flags and counter). Nothing is checked
/// here: [`OperatorSignature::verify_as`] before use.
pub fn from_raw(identity: &OperatorIdentity, namespace: Namespace, signature: &[u8]) -> String {
    armor_blob(identity.blob(), namespace, signature)
}

fn enarmor(blob: &[u8]) -> String {
    let mut text = BEGIN.to_owned();
    let b64 = BASE64.encode(blob);
    let mut rest = b64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// V1, V2: the armor must be the one that we would write for the blob (final newline optional).
fn dearmor(armored: &str) -> Result<Vec<u8>, SigError> {
    if armored.len() > Envelope::MAX_ARMOR {
        return Err(SigError::TooLarge);
    }
    let body = armored.strip_suffix('\n').unwrap_or(armored);
    let body = body.strip_prefix(BEGIN).and_then(|b| b.strip_suffix(END)).ok_or(SigError::Armor)?;
    let b64: String = body.split('\n').collect();
    let blob = BASE64.decode(b64.as_bytes()).map_err(|_| SigError::Armor)?;
    let ours = enarmor(&blob);
    if ours.strip_suffix('\n') == armored.strip_suffix('\n').or(Some(armored)) {
        Ok(blob)
    } else {
        Err(SigError::Armor)
    }
}

/// V8: only key types we accept, others by name.
fn public_key(blob: &[u8]) -> Result<PublicKey, SigError> {
    let mut rest = blob;
    let name = take_string(&mut rest)?;
    if name != b"ssh-ed25519" {
        return Err(SigError::KeyType(type_name(name)));
    }
    let key = take_string(&mut rest)?;
    nothing_left(rest)?;
    let key: [u8; 32] = key.try_into().map_err(|_| SigError::Format("key is not 32 bytes"))?;
    PublicKey::try_from(protocol::Ed25519Key::from_bytes(key)).map_err(|_| SigError::WeakKey)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod held_elsewhere {
    use super::*;

    #[test]
    fn a_key_held_elsewhere_makes_the_same_signature() {
        use ed25519_dalek::Signer as _;
        let (ours, elsewhere) =
            (crate::SecretKey::from_seed(&[7; 32]), ed25519_dalek::SigningKey::from_bytes(&[7; 32]));
        let message = b"an order";
        let raw = elsewhere.sign(&to_sign(Namespace::Job, message)).to_bytes();
        let armored = from_raw(&ours.public().into(), Namespace::Job, &ed25519_blob(&raw));
        assert_eq!(armored, ours.sign(Namespace::Job, message));
        verify(&armored, Namespace::Job, message, &ours.public()).unwrap();
        let other = from_raw(&ours.public().into(), Namespace::Session, &ed25519_blob(&raw));
        assert_eq!(verify(&other, Namespace::Session, message, &ours.public()), Err(SigError::Wrong));
    }
}
