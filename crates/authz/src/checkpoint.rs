//! Checkpoints: what a host says its whole log is, signed with its host key (C2SP `tlog-checkpoint`
//! over `signed-note`).
//!
//! ```text
//! writ.invalid/host/<host id>/key/<generation>      origin, and the name of the key
//! 1234                                              entries
//! <base64>                                          root of the RFC 6962 tree over the entries' payloads
//!
//! — writ.invalid/host/<host id>/key/<generation> <base64 of key hash and Ed25519 signature>
//! ```
//!
//! Two checkpoints of one origin that no consistency proof connects are proof that the host, or whoever
//! has its key, told two stories. A new host key is a new origin: its log starts anew and is shown as
//! such, never as a continuation.
//!
//! Domain separation: the host key also signs SSHSIGs (receipts, the device's certificate). What those
//! sign begins with the six bytes `SSHSIG`; the text of a checkpoint begins with [`Origin::PREFIX`]. So
//! neither signature can be shown as the other.
//!
//! We read one spelling only: no leading zeros, canonical base64, no extension lines (ours has none, and
//! nobody could audit them). Signatures by others, such as witnesses, may follow and are ignored as the
//! format demands, even under our name; ours must be there exactly once.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use protocol::{HostId, Note, Sha256};
use sha2::Digest as _;

use crate::canonical::MAX_INTEGER;
use crate::keys::PublicKey;
use crate::merkle::{self, ProofError};
use crate::secret::SecretKey;

/// Begins each line with a signature.
const DASH: &str = "\u{2014} ";
/// Signature type of plain Ed25519 (C2SP signed-note, "Signature types").
const ED25519: u8 = 1;
/// Lines with signatures that are looked at.
const MAX_SIGNATURES: usize = 16;
const MALFORMED: CheckpointError = CheckpointError::Malformed;

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not the one spelling of a checkpoint of ours.
    #[error("this is no checkpoint of a host's log, or not exactly as a host writes it")]
    Malformed,
    /// Another log's.
    #[error("the checkpoint is of log {found}, not of log {expected}: do not believe it")]
    OtherLog {
        /// Asked for.
        expected: Origin,
        /// Found.
        found: Origin,
    },
    /// Our key's signature is not there, or twice.
    #[error("the checkpoint of log {origin} does not carry one signature by key {key}: do not believe it", key = .key.fingerprint())]
    Unsigned {
        /// Which log.
        origin: Origin,
        /// Whose signature.
        key: PublicKey,
    },
    /// It is there and wrong.
    #[error("the checkpoint of log {origin} is forged: its signature is not by key {key}", key = .key.fingerprint())]
    Forged {
        /// Which log.
        origin: Origin,
        /// Whose signature.
        key: PublicKey,
    },
}

/// Names a log: a host and which of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The host.
    pub host: HostId,
    /// Which of its keys signs, from 1.
    pub generation: u32,
}

impl Origin {
    /// Begins every origin. `.invalid` is nobody's (RFC 2606), and the format demands no address that
    /// answers.
    pub const PREFIX: &'static str = "writ.invalid/host/";
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/key/{}", Self::PREFIX, self.host, self.generation)
    }
}

impl FromStr for Origin {
    type Err = CheckpointError;
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let (host, generation) =
            text.strip_prefix(Self::PREFIX).and_then(|rest| rest.split_once("/key/")).ok_or(MALFORMED)?;
        let origin = Self {
            host: host.parse().map_err(|_| MALFORMED)?,
            generation: generation.parse().map_err(|_| MALFORMED)?,
        };
        // One spelling: "+1" and "01" are numbers, too.
        if origin.to_string() == text { Ok(origin) } else { Err(MALFORMED) }
    }
}

/// How many entries a log has, and the root over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Entries.
    pub size: u64,
    /// Root of the tree over their payloads ([`merkle`]).
    pub root: Sha256,
}

impl Checkpoint {
    /// The signed text: three lines.
    fn text(&self, origin: &Origin) -> String {
        format!("{origin}\n{}\n{}\n", self.size, BASE64.encode(self.root.as_bytes()))
    }

    /// Signs with the host key.
    pub fn sign(&self, origin: &Origin, key: &SecretKey) -> Note {
        let text = self.text(origin);
        let signature = key.sign_bytes(text.as_bytes());
        let line = [key_hash(origin, &key.public()).as_slice(), &signature].concat();
        let note = format!("{text}\n{DASH}{origin} {}\n", BASE64.encode(&line));
        note.parse().expect("three short lines and a signature, without control characters")
    }

    /// Believes a checkpoint only when it is of log `origin` and `key`, the host's key from an
    /// operator-signed statement, signed exactly these lines.
    pub fn verify(note: &Note, origin: &Origin, key: &PublicKey) -> Result<Self, CheckpointError> {
        let parsed = Parsed::new(note.as_str())?;
        if parsed.origin != *origin {
            return Err(CheckpointError::OtherLog { expected: *origin, found: parsed.origin });
        }
        let (name, hash) = (origin.to_string(), key_hash(origin, key));
        // Others' signatures are ignored "even if they share a name or ID (but not both)" with ours.
        let mut ours = parsed.signatures.iter().filter(|line| line.name == name && line.hash == hash);
        let unsigned = CheckpointError::Unsigned { origin: *origin, key: *key };
        let (Some(line), None) = (ours.next(), ours.next()) else { return Err(unsigned) };
        let good = <&[u8; 64]>::try_from(line.signature.as_slice())
            .is_ok_and(|signature| key.verify_strict(parsed.text.as_bytes(), signature));
        if good { Ok(parsed.checkpoint) } else { Err(CheckpointError::Forged { origin: *origin, key: *key }) }
    }

    /// What a note says, believing nothing: for finding out whose key to judge it by.
    pub fn read_unverified(note: &Note) -> Result<(Origin, Self), CheckpointError> {
        Parsed::new(note.as_str()).map(|parsed| (parsed.origin, parsed.checkpoint))
    }

    /// Whether entry `index` of this log has exactly this payload.
    pub fn includes(&self, index: u64, payload: &[u8], proof: &[Sha256]) -> Result<(), ProofError> {
        merkle::verify_inclusion(&merkle::leaf_hash(payload), index, self.size, proof, &self.root)
    }

    /// Whether this log begins with all of `older`.
    pub fn continues(&self, older: &Self, proof: &[Sha256]) -> Result<(), ProofError> {
        merkle::verify_consistency(older.size, self.size, proof, &older.root, &self.root)
    }
}

/// A key as other tools take it to verify our notes: name, key hash, type and key
/// (`vkey` of Go's `sumdb/note`).
pub fn verifier_key(origin: &Origin, key: &PublicKey) -> String {
    let hash = u32::from_be_bytes(key_hash(origin, key));
    let typed = [&[ED25519], key.to_wire().as_bytes().as_slice()].concat();
    format!("{origin}+{hash:08x}+{}", BASE64.encode(&typed))
}

/// The first four bytes of `SHA-256(name || 0x0A || 0x01 || key)`. Only a hint: four bytes prove nothing.
fn key_hash(origin: &Origin, key: &PublicKey) -> [u8; 4] {
    named_key_hash(&origin.to_string(), key.to_wire().as_bytes())
}

fn named_key_hash(name: &str, key: &[u8; 32]) -> [u8; 4] {
    let digest = sha2::Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(key);
    let [a, b, c, d, ..]: [u8; 32] = digest.finalize().into();
    [a, b, c, d]
}

/// A note taken apart.
struct Parsed<'a> {
    text: &'a str,
    origin: Origin,
    checkpoint: Checkpoint,
    signatures: Vec<Line<'a>>,
}

/// A line with a signature.
struct Line<'a> {
    name: &'a str,
    hash: [u8; 4],
    signature: Vec<u8>,
}

impl<'a> Parsed<'a> {
    fn new(note: &'a str) -> Result<Self, CheckpointError> {
        // The last empty line ends the text; with three lines exactly there is no other.
        let end = note.rfind("\n\n").ok_or(MALFORMED)?;
        let (text, signatures) = (&note[..=end], &note[end + 2..]);
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(MALFORMED);
        };
        let origin: Origin = origin.parse()?;
        let root = BASE64.decode(root.as_bytes()).ok().and_then(|root| root.try_into().ok());
        let checkpoint = Checkpoint {
            // V19: no larger number is ever exact everywhere.
            size: size.parse().ok().filter(|size| *size <= MAX_INTEGER).ok_or(MALFORMED)?,
            root: Sha256::from_bytes(root.ok_or(MALFORMED)?),
        };
        let empty = checkpoint.size == 0;
        if checkpoint.text(&origin) != text || (empty && checkpoint.root != merkle::empty_root()) {
            return Err(MALFORMED);
        }
        let signatures: Vec<Line<'_>> =
            signatures.split_terminator('\n').map(Line::new).collect::<Option<_>>().ok_or(MALFORMED)?;
        if signatures.is_empty() || signatures.len() > MAX_SIGNATURES || !note.ends_with('\n') {
            return Err(MALFORMED);
        }
        Ok(Self { text, origin, checkpoint, signatures })
    }
}

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Option<Self> {
        let (name, base64) = line.strip_prefix(DASH)?.split_once(' ')?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '+') {
            return None;
        }
        let bytes = BASE64.decode(base64.as_bytes()).ok()?;
        let (hash, signature) = bytes.split_first_chunk::<4>()?;
        (!signature.is_empty()).then(|| Self { name, hash: *hash, signature: signature.to_vec() })
    }
}

#[cfg(test)]
mod tests;
