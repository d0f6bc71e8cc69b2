//! Why something was not sealed or not opened.
//!
//! What fails in the dark (unwrapping, MAC, a chunk) is one error: which step it was tells a user
//! nothing, and a stranger who tries out changed files too much.

use protocol::Fingerprint;

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No point of the curve, not in its one spelling, or of small order: anybody could open it.
    #[error(
        "nothing can be sealed to this Ed25519 key, it is malformed or weak (small order): \
         make a new one with ssh-keygen -t ed25519"
    )]
    Key,
    /// More than [`MAX_PLAINTEXT`](crate::MAX_PLAINTEXT).
    #[error("this is too large to be sealed at once (at most {limit} bytes): seal it in parts")]
    TooLarge {
        /// Bytes that can be sealed at once.
        limit: usize,
    },
    /// A part of the random bytes is all zero: they were never filled.
    #[error("the random bytes for sealing are all zero: fill them from the system's random source")]
    Randomness,
}

/// Why sealed bytes were not opened. No plaintext is given out with any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The first line is another.
    #[error(
        "this is not a sealed file: give an age v1 file in binary, as `age` makes it without --armor, unchanged"
    )]
    NotSealed,
    /// The tag names another key. It is a hint of 32 bits, not a proof.
    #[error(
        "this was sealed to another key than {ours}: open it with the key it was sealed to, \
         or have it sealed again to this one"
    )]
    OtherKey {
        /// The key that was tried.
        ours: Fingerprint,
    },
    /// The first recipient is no `ssh-ed25519`.
    #[error(
        "this was sealed to a recipient of type {0}: have it sealed again to the ssh-ed25519 key alone \
         (age -R host.pub)"
    )]
    OtherKind(&'static str),
    /// More than one recipient, whoever they are.
    #[error("this was sealed to more than one recipient: have it sealed again to this key alone")]
    Several,
    /// Cut short, changed, badly made, or wrapped for another key under our tag.
    #[error(
        "this sealed file is damaged, cut short or altered, or not for this key: \
         get it again from whoever sealed it"
    )]
    Damaged,
    /// It holds more than the caller takes.
    #[error("what was sealed is larger than the {limit} bytes allowed here: have it sealed in smaller parts")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
}
