//! A sealed file: header, nonce, chunks.

use protocol::Ed25519Key;
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{OpenError, SealError};
use crate::header;
use crate::keys::{self, FileKey, Secret};
use crate::payload;

/// Bytes that can be sealed or opened at once: all of it is held in memory, twice.
pub const MAX_PLAINTEXT: usize = 64 * 1024 * 1024;

const NONCE: usize = 16;

/// Bytes of a sealed file that holds `plaintext` bytes.
pub const fn sealed_len(plaintext: usize) -> usize {
    payload::sealed_len(plaintext).saturating_add(header::LEN + NONCE)
}

/// What chance decides about one sealed file. Used up by it: with the same bytes twice, whoever
/// sees both files learns what their plaintexts differ in. Zeroed when dropped, never printed.
pub struct Randomness {
    /// The key of the file.
    pub file_key: [u8; 16],
    /// The sealer's private half of the key agreement.
    pub ephemeral: [u8; 32],
    /// What makes the payload's key another one even if the file key came twice.
    pub payload_nonce: [u8; 16],
}

impl Randomness {
    /// How many random bytes it takes.
    pub const LEN: usize = 64;

    /// From one draw of the system's random source, which is for this alone; the caller zeroes its copy.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut all = Self { file_key: [0; 16], ephemeral: [0; 32], payload_nonce: [0; NONCE] };
        all.file_key.copy_from_slice(&bytes[..16]);
        all.ephemeral.copy_from_slice(&bytes[16..48]);
        all.payload_nonce.copy_from_slice(&bytes[48..]);
        all
    }

    /// Whether somebody filled it. Chance leaves a part at zero once in 2^127 files.
    fn is_filled(&self) -> bool {
        [&self.file_key[..], &self.ephemeral, &self.payload_nonce]
            .iter()
            .all(|part| part.iter().any(|byte| *byte != 0))
    }
}

impl Drop for Randomness {
    fn drop(&mut self) {
        self.file_key.zeroize();
        self.ephemeral.zeroize();
        self.payload_nonce.zeroize();
    }
}

impl std::fmt::Debug for Randomness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Randomness")
    }
}

/// Seals `plaintext` so that only the private half of `recipient` opens it.
///
/// Gives [`sealed_len`] bytes. Says nothing about who sealed: see the crate's page.
pub fn seal(recipient: &Ed25519Key, plaintext: &[u8], randomness: Randomness) -> Result<Vec<u8>, SealError> {
    if plaintext.len() > MAX_PLAINTEXT {
        return Err(SealError::TooLarge { limit: MAX_PLAINTEXT });
    }
    if !randomness.is_filled() {
        return Err(SealError::Randomness);
    }
    let file_key = FileKey::new(&randomness.file_key);
    let stanza = keys::wrap(recipient, &randomness.ephemeral, &file_key)?;
    let mut out = Vec::with_capacity(sealed_len(plaintext.len()));
    header::encode(&stanza, &mut out);
    let mac = file_key.mac(&out);
    header::encode_mac(&mac, &mut out);
    out.extend_from_slice(&randomness.payload_nonce);
    payload::encrypt(&file_key.payload_key(&randomness.payload_nonce), plaintext, &mut out);
    Ok(out)
}

/// Opens what was sealed to the key with this seed (the 32 bytes of an Ed25519 private key), if it
/// holds at most `max_plaintext` bytes, or [`MAX_PLAINTEXT`] if that is less.
///
/// All or nothing: no byte is given out before the last one is known to be genuine. What comes out
/// is as trustworthy as whoever could seal it, which is anybody.
pub fn open(seed: &[u8; 32], sealed: &[u8], max_plaintext: usize) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let header = header::decode(sealed)?;
    let secret = Secret::from_seed(seed);
    secret.recognise(&header.stanza)?;
    let (nonce, chunks) = header.rest.split_first_chunk::<NONCE>().ok_or(OpenError::Damaged)?;
    let len = payload::plaintext_len(chunks.len()).ok_or(OpenError::Damaged)?;
    let limit = max_plaintext.min(MAX_PLAINTEXT);
    if len > limit {
        return Err(OpenError::TooLarge { limit });
    }
    let file_key = secret.unwrap(&header.stanza).ok_or(OpenError::Damaged)?;
    if !file_key.verify(header.covered, &header.mac) {
        return Err(OpenError::Damaged);
    }
    payload::decrypt(&file_key.payload_key(nonce), chunks, len).ok_or(OpenError::Damaged)
}
