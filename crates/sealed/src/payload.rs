//! The payload: chunks of 64 KiB, each under its own nonce, the last one marked (STREAM).
//!
//! The length alone says how many chunks there are, so which chunk is the last is never tried out:
//! a last chunk elsewhere, a chunk too many or a missing one fails to decrypt.

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use zeroize::Zeroizing;

use crate::keys::Key;

const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;

/// Bytes of the chunks for `plaintext` bytes.
pub(crate) const fn sealed_len(plaintext: usize) -> usize {
    let chunks = if plaintext == 0 { 1 } else { plaintext.div_ceil(CHUNK) };
    plaintext.saturating_add(chunks.saturating_mul(TAG))
}

/// Bytes of plaintext in `sealed` bytes of chunks. None if no plaintext has that length: the last
/// chunk is cut within its tag, is missing, or is empty though it is not the only one.
pub(crate) fn plaintext_len(sealed: usize) -> Option<usize> {
    let plaintext = sealed.checked_sub(sealed.div_ceil(CHUNK + TAG) * TAG)?;
    (sealed_len(plaintext) == sealed).then_some(plaintext)
}

/// Appends the chunks. The caller has reserved room, so that no plaintext is left in moved memory.
pub(crate) fn encrypt(key: &Key, plaintext: &[u8], out: &mut Vec<u8>) {
    let cipher = ChaCha20Poly1305::new(&(**key).into());
    let mut rest = plaintext;
    for index in 0.. {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK));
        let begin = out.len();
        out.extend_from_slice(chunk);
        let tag = cipher
            .encrypt_inout_detached(&nonce(index, after.is_empty()), b"", (&mut out[begin..]).into())
            .expect("64 KiB are not too many for ChaCha20-Poly1305");
        out.extend_from_slice(&tag);
        if after.is_empty() {
            break;
        }
        rest = after;
    }
}

/// The plaintext, `len` bytes as [`plaintext_len`] says, if every chunk is genuine and in its place.
pub(crate) fn decrypt(key: &Key, sealed: &[u8], len: usize) -> Option<Zeroizing<Vec<u8>>> {
    let cipher = ChaCha20Poly1305::new(&(**key).into());
    let mut plaintext = Zeroizing::new(Vec::with_capacity(len));
    let mut rest = sealed;
    for index in 0.. {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK + TAG));
        let (text, tag) = chunk.split_at_checked(chunk.len().checked_sub(TAG)?)?;
        let begin = plaintext.len();
        plaintext.extend_from_slice(text);
        cipher
            .decrypt_inout_detached(
                &nonce(index, after.is_empty()),
                b"",
                (&mut plaintext[begin..]).into(),
                &Tag::try_from(tag).ok()?,
            )
            .ok()?;
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    Some(plaintext)
}

/// Eleven bytes of counter, of which eight can ever be used, and the last-chunk flag.
fn nonce(index: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&index.to_be_bytes());
    nonce[11] = u8::from(last);
    nonce.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_meaning() {
        for plaintext in (0..=40).chain(CHUNK - 20..=CHUNK + 40).chain(3 * CHUNK - 20..=3 * CHUNK + 40) {
            assert_eq!(plaintext_len(sealed_len(plaintext)), Some(plaintext), "{plaintext}");
        }
        for nothing in [0, 1, 15, CHUNK + TAG + 1, CHUNK + 2 * TAG, 2 * (CHUNK + TAG) + TAG] {
            assert_eq!(plaintext_len(nothing), None, "{nothing}");
        }
        // Every length below three chunks is either of a plaintext, or of none; never of two.
        let mut known = 0;
        for sealed in 0..=3 * (CHUNK + TAG) {
            if let Some(plaintext) = plaintext_len(sealed) {
                assert_eq!(sealed_len(plaintext), sealed);
                known += 1;
            }
        }
        assert_eq!(known, 3 * CHUNK + 1);
    }
}
