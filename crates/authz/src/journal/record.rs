//! One record: its bytes, and whether they follow the records before them. Pure.

use std::collections::BTreeMap;

use protocol::Nonce;
use sha2::Digest as _;

use super::Burned;

/// Length of a record in bytes.
pub const RECORD: usize = 96;
const MAGIC: &[u8; 4] = b"WRJN";

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// The first record of a segment; nonce, op and exp are zero.
    Header = 0,
    /// A nonce was burned.
    Committed = 1,
    /// The only record of the tombstone.
    Tombstone = 2,
}

/// The fields of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: RecordKind,
    pub(super) seq: u64,
    pub(super) nonce: [u8; 16],
    pub(super) op: [u8; 16],
    pub(super) exp: u64,
    pub(super) prev: [u8; 16],
}

impl Record {
    /// The first record of a segment.
    pub(super) fn header(seq: u64, prev: [u8; 16]) -> Self {
        Self { kind: RecordKind::Header, seq, nonce: [0; 16], op: [0; 16], exp: 0, prev }
    }

    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = 1;
        bytes[5] = self.kind as u8;
        bytes[8..16].copy_from_slice(&self.seq.to_be_bytes());
        bytes[16..32].copy_from_slice(&self.nonce);
        bytes[32..48].copy_from_slice(&self.op);
        bytes[48..56].copy_from_slice(&self.exp.to_be_bytes());
        bytes[56..72].copy_from_slice(&self.prev);
        let check = sha2::Sha256::digest(&bytes[..72]);
        bytes[72..].copy_from_slice(&check[..24]);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; RECORD]) -> Result<Self, &'static str> {
        let check = sha2::Sha256::digest(&bytes[..72]);
        if bytes[72..] != check[..24] {
            return Err("the checksum is wrong");
        }
        if bytes[..4] != *MAGIC || bytes[4] != 1 || bytes[6..8] != [0, 0] {
            return Err("it is no record of this format");
        }
        let kind = match bytes[5] {
            0 => RecordKind::Header,
            1 => RecordKind::Committed,
            2 => RecordKind::Tombstone,
            _ => return Err("the record kind is unknown"),
        };
        Ok(Self {
            kind,
            seq: number(&bytes[8..16]),
            nonce: half(&bytes[16..32]),
            op: half(&bytes[32..48]),
            exp: number(&bytes[48..56]),
            prev: half(&bytes[56..72]),
        })
    }
}

/// Why a record does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) why: &'static str,
    /// An unfinished write can look like this.
    pub(super) may_be_torn: bool,
}

impl From<&'static str> for Bad {
    fn from(why: &'static str) -> Self {
        Self { why, may_be_torn: true }
    }
}

/// What the records so far say, over all segments.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) records: u64,
    pub(super) prev: [u8; 16],
    pub(super) burned: BTreeMap<Nonce, Burned>,
}

impl Chain {
    /// Takes the next record; `first` of its segment or not.
    pub(super) fn take(&mut self, bytes: &[u8; RECORD], first: bool) -> Result<(), Bad> {
        let record = Record::decode(bytes)?;
        if record.seq != self.records {
            return Err("the sequence number is wrong".into());
        }
        if record.prev != self.prev {
            return Err("it does not follow the record before it".into());
        }
        // From here on the record was made to follow these very records: no unfinished write does that.
        let bad = |why| Err(Bad { why, may_be_torn: false });
        match (record.kind, first) {
            (RecordKind::Header, true) => {
                if record != Record::header(record.seq, record.prev) {
                    return bad("the header says more than a header does");
                }
            }
            (RecordKind::Committed, false) => {
                let nonce = Nonce::from_bytes(record.nonce);
                if self.burned.contains_key(&nonce) {
                    return bad("the nonce was burned before");
                }
                self.burned.insert(nonce, Burned { record: record.seq, op: record.op, exp: record.exp });
            }
            _ => return bad("the record kind is wrong here"),
        }
        self.follow(bytes);
        Ok(())
    }

    /// The record is the last one now.
    pub(super) fn follow(&mut self, bytes: &[u8; RECORD]) {
        self.prev = half(&sha2::Sha256::digest(bytes)[..16]);
        self.records += 1;
    }
}

/// The first 16 bytes of what is longer; shorter input is filled with zeros.
pub(super) fn half(bytes: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    half
}

pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
