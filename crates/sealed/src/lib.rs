//! Bytes sealed to one Ed25519 SSH key, so that what carries them cannot read them.
//!
//! An operator's tool seals what a host shall run to the host's key; the host seals what came out
//! to a key that the signed order names. Both are [`seal`] and [`open`], and both give plain age
//! files: `age -R host.pub` and `age -d -i key` write and read them too, without anything of ours.
//!
//! Sealing hides. It does **not** say who sealed: a public key is public, and whoever has it can
//! seal anything to it. What was opened counts for something only if a signature covers it, or
//! covers the sealed bytes. It does not give forward secrecy to a key that is kept either: who steals
//! a host's key can open what was sealed to it earlier. Padding there is none: the length shows.
//!
//! # The format
//!
//! [age v1](https://age-encryption.org/v1) (C2SP `age.md`), in binary, without armor, with exactly
//! one recipient stanza, of type `ssh-ed25519`. With exactly this stanza the header has one length:
//!
//! ```text
//! age-encryption.org/v1                               22 bytes
//! -> ssh-ed25519 TAG SHARE                            66      TAG 6, SHARE 43 characters
//! BODY                                                44
//! --- MAC                                             48
//! nonce                                               16
//! chunks of 65536 bytes, the last 1 to 65536          16 more for each chunk
//! ```
//!
//! | what | how | source |
//! |---|---|---|
//! | base64 | standard alphabet, no padding, canonical only | age.md, conventions; RFC 4648 section 3.5 |
//! | HKDF | SHA-256, 32 bytes | age.md, conventions; RFC 5869 |
//! | file key | 16 random bytes, of one file only | age.md, file key |
//! | TAG | SHA-256(SSH key)\[..4\]; SSH key is the wire form of RFC 8709 section 4 | age design, ssh-ed25519; `agessh` |
//! | SHARE | X25519(ephemeral, base point); RFC 7748 | the same |
//! | converted key | the Ed25519 point on the Montgomery curve, u = (1 + y) / (1 - y) | the same; RFC 7748 section 4.1 |
//! | tweak | HKDF(ikm empty, salt SSH key, info `age-encryption.org/v1/ssh-ed25519`) | the same |
//! | shared secret | X25519(tweak, X25519(ephemeral, converted key)), refused when all zero | the same; RFC 7748 section 6.1 |
//! | wrap key | HKDF(ikm shared secret, salt SHARE ‖ converted key, the same info) | the same |
//! | BODY | ChaCha20-Poly1305(wrap key, nonce zero, file key): 32 bytes, so one line of 43 columns; lines of 64 columns and a shorter last one are the rule | the same; age.md, recipient stanza |
//! | MAC | HMAC-SHA-256 of all up to and with `---`, key HKDF(file key, salt empty, info `header`) | age.md, header MAC |
//! | payload | ChaCha20-Poly1305, key HKDF(file key, salt nonce, info `payload`); chunk nonce: 11 bytes counter, 1 byte last-chunk flag; the last chunk is empty only if all is | age.md, payload |
//!
//! The five native recipient types of age.md do not include `ssh-ed25519`. It is described in the
//! older text "A simple file encryption tool & format" (age-tool.com), section recipients, which
//! age.md replaced, and implemented by `filippo.io/age/agessh`. Ours is held against the real `age`
//! in both directions by `selftest/scenarios/tests/age.rs`. On one key for signatures and for
//! X25519: <https://eprint.iacr.org/2021/509>.
//!
//! # Stricter than age
//!
//! age.md wants foreign stanzas to be skipped. Here a file for more than one recipient, or for any
//! other type, is refused by name: nobody else shall read along unnoticed, and there is one
//! spelling. That shuts out files of tools that add made-up stanzas to keep readers honest. The
//! plaintext is given out whole or not at all, never by the chunk.
//!
//! # Limits
//!
//! All is done in memory, at most [`MAX_PLAINTEXT`] bytes; [`open`] takes a smaller limit too.
//! The size follows from the length of the sealed bytes ([`sealed_len`]) and is checked before
//! memory for the plaintext is taken and before anything is decrypted. The header has a fixed
//! length, so nothing a stranger writes into it makes it cost more.
//!
//! # Why an own codec
//!
//! The crate `age` (0.12 with its `ssh` feature) brings second major versions of sha2, hmac, hkdf,
//! rand, curve25519-dalek and chacha20poly1305, and `rsa`, which has an advisory without a fix;
//! `deny.toml` refuses both. It brings a translation system too (i18n-embed, fluent). What is ours
//! is the text of the header and the order of the steps; curve, hash, MAC and cipher are ed25519-dalek, curve25519-dalek and RustCrypto. No clock, no files, no
//! randomness: [`Randomness`] is an argument.
//!
//! | module | does |
//! |---|---|
//! | `file` | [`seal`] and [`open`]: the parts put together |
//! | `header` | the text before the payload, decoded strictly |
//! | `keys` | the file key, wrapped for one SSH key, and what is derived from it |
//! | `payload` | the chunks |

mod error;
mod file;
mod header;
mod keys;
mod payload;

pub use error::{OpenError, SealError};
pub use file::{MAX_PLAINTEXT, Randomness, open, seal, sealed_len};
