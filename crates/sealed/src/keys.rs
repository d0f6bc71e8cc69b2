//! The file key: wrapped for one SSH key, unwrapped with it, and the keys derived from it.

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use curve25519_dalek::MontgomeryPoint;
use curve25519_dalek::traits::IsIdentity as _;
use ed25519_dalek::{SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use protocol::Ed25519Key;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::error::{OpenError, SealError};
use crate::header::Stanza;

/// Bytes of a file key.
const FILE_KEY: usize = 16;
const LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";

/// A derived key; zeroed when dropped.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// The one key of a file; zeroed when dropped.
pub(crate) struct FileKey(Zeroizing<[u8; FILE_KEY]>);

impl FileKey {
    pub(crate) fn new(bytes: &[u8; FILE_KEY]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The MAC of the header text.
    pub(crate) fn mac(&self, covered: &[u8]) -> [u8; 32] {
        self.hmac(covered).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC of the header text; in constant time.
    pub(crate) fn verify(&self, covered: &[u8], mac: &[u8; 32]) -> bool {
        self.hmac(covered).verify_slice(mac).is_ok()
    }

    /// The key of the chunks.
    pub(crate) fn payload_key(&self, nonce: &[u8; 16]) -> Key {
        hkdf(nonce, &*self.0, b"payload")
    }

    fn hmac(&self, covered: &[u8]) -> Hmac<Sha256> {
        let key = hkdf(b"", &*self.0, b"header");
        let mut hmac = Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes a key of any length");
        hmac.update(covered);
        hmac
    }
}

/// The recipient's half of the key agreement.
struct Recipient {
    /// The SSH key in its wire form.
    blob: Vec<u8>,
    /// The same key as a point for X25519.
    converted: MontgomeryPoint,
}

impl Recipient {
    fn new(key: &Ed25519Key, point: &VerifyingKey) -> Self {
        Self { blob: key.blob(), converted: point.to_montgomery() }
    }

    fn tag(&self) -> [u8; 4] {
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(&self.blob).into();
        [a, b, c, d]
    }

    /// The key that wraps the file key, from X25519's result. None when that is all zero: then it
    /// depends on nobody's secret (RFC 7748 section 6.1). The tweak keeps zero at zero, so the one
    /// check behind it covers both steps.
    fn wrap_key(&self, secret: &MontgomeryPoint, share: &MontgomeryPoint) -> Option<Key> {
        let tweak = hkdf(&self.blob, b"", LABEL);
        let shared = Zeroizing::new(secret.mul_clamped(*tweak));
        let salt = [share.0, self.converted.0].concat();
        (!shared.is_identity()).then(|| hkdf(&salt, &shared.0, LABEL))
    }
}

/// Wraps `file_key` for `key`, with an ephemeral secret that must never be used again.
pub(crate) fn wrap(key: &Ed25519Key, ephemeral: &[u8; 32], file_key: &FileKey) -> Result<Stanza, SealError> {
    let point = VerifyingKey::from_bytes(key.as_bytes()).map_err(|_| SealError::Key)?;
    // A second spelling of a point would give a tag that its owner does not look for. A point of
    // small order is noticed by what it makes of the key agreement, in `wrap_key`.
    if point.to_edwards().compress().as_bytes() != key.as_bytes() {
        return Err(SealError::Key);
    }
    let recipient = Recipient::new(key, &point);
    let share = MontgomeryPoint::mul_base_clamped(*ephemeral);
    let secret = Zeroizing::new(recipient.converted.mul_clamped(*ephemeral));
    let wrap_key = recipient.wrap_key(&secret, &share).ok_or(SealError::Key)?;
    let mut body = [0; 32];
    let (text, tag) = body.split_at_mut(FILE_KEY);
    text.copy_from_slice(&*file_key.0);
    let made = ChaCha20Poly1305::new(&(*wrap_key).into())
        .encrypt_inout_detached(&Nonce::default(), b"", text.into())
        .expect("16 bytes are not too many for ChaCha20-Poly1305");
    tag.copy_from_slice(&made);
    Ok(Stanza { tag: recipient.tag(), share: share.0, body })
}

/// A private key on the receiving side.
pub(crate) struct Secret {
    key: SigningKey,
    public: Ed25519Key,
    recipient: Recipient,
}

impl Secret {
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let point = key.verifying_key();
        let public = Ed25519Key::from_bytes(point.to_bytes());
        Self { recipient: Recipient::new(&public, &point), key, public }
    }

    /// Whether the stanza names this key.
    pub(crate) fn recognise(&self, stanza: &Stanza) -> Result<(), OpenError> {
        if stanza.tag == self.recipient.tag() {
            Ok(())
        } else {
            Err(OpenError::OtherKey { ours: self.public.fingerprint() })
        }
    }

    /// The file key, if the stanza was made for this key.
    pub(crate) fn unwrap(&self, stanza: &Stanza) -> Option<FileKey> {
        let share = MontgomeryPoint(stanza.share);
        let scalar = Zeroizing::new(self.key.to_scalar_bytes());
        let secret = Zeroizing::new(share.mul_clamped(*scalar));
        let wrap_key = self.recipient.wrap_key(&secret, &share)?;
        let (text, tag) = stanza.body.split_at(FILE_KEY);
        let mut file_key = FileKey(Zeroizing::new([0; FILE_KEY]));
        file_key.0.copy_from_slice(text);
        ChaCha20Poly1305::new(&(*wrap_key).into())
            .decrypt_inout_detached(
                &Nonce::default(),
                b"",
                file_key.0.as_mut_slice().into(),
                &Tag::try_from(tag).ok()?,
            )
            .ok()?;
        Some(file_key)
    }
}

fn hkdf(salt: &[u8], ikm: &[u8], info: &[u8]) -> Key {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(salt), ikm)
        .expand(info, &mut *key)
        .expect("32 bytes are not too many for HKDF-SHA-256");
    key
}
