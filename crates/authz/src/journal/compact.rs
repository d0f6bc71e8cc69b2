//! Forgetting whole segments by the signed floor (`security.md` 2.8, 2.9), and the tombstone that keeps
//! their link, so that the chain still verifies and the numbers go on.
//!
//! The tombstone is one record, replaced atomically before the segments go: `seq` is how many records were
//! deleted, `nonce` the number of the last segment deleted and how many nonces there were (8 bytes each),
//! `op` the exclusive or of their orders' ids (what [`Compacted::explains`] needs), `exp` the latest
//! expiry, `prev` the link of the last record deleted.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::record::{RECORD, Record, RecordKind, number};
use super::scan::{NEW_TOMBSTONE, TOMBSTONE, segment_name};
use super::{JournalError, NonceJournal};
use crate::files::FileError;
use crate::files::layer::{How, Layer, write_all};

/// How far the signed floor must be past the last expiry of a segment, in seconds: 48 hours.
pub const FLOOR_MARGIN: u64 = 48 * 3600;
/// How long ago the last expiry of a segment must be, in seconds: 400 days.
pub const AGE: u64 = 400 * 24 * 3600;

/// What was forgotten, over all compactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// The last segment deleted; segments are numbered from 1.
    pub(super) segments: u64,
    /// Records deleted, headers among them.
    pub(super) records: u64,
    /// Nonces forgotten.
    pub(super) burned: u64,
    /// The exclusive or of their ops.
    ops: [u8; 16],
    /// The latest expiry among them, unix seconds.
    exp: u64,
    /// The link of the last record deleted.
    pub(super) link: [u8; 16],
}

impl Compacted {
    /// How many nonces were forgotten.
    pub fn burned(&self) -> u64 {
        self.burned
    }

    /// The latest expiry of an order whose nonce was forgotten, unix seconds; 0 when none was. Whoever judges
    /// orders refuses those that expire no later than this, whatever became of the floor.
    pub fn latest_exp(&self) -> u64 {
        self.exp
    }

    /// Whether exactly these orders (the first 16 bytes of each id, each once) were forgotten: with a
    /// complete list of the orders that were ever accepted, whatever the journal lost otherwise shows.
    pub fn explains(&self, missing: impl IntoIterator<Item = [u8; 16]>) -> bool {
        let mut count = 0;
        let ops = missing.into_iter().fold([0; 16], |ops, op| {
            count += 1;
            xor(ops, op)
        });
        count == self.burned && ops == self.ops
    }

    pub(super) fn read(layer: &dyn Layer, directory: &Path) -> Result<Self, JournalError> {
        let path = directory.join(TOMBSTONE);
        let bytes = layer.read(&path).map_err(|source| FileError::io("read", &path, source))?;
        let record = <&[u8; RECORD]>::try_from(bytes.as_slice())
            .map_err(|_| "it has not the length of one record")
            .and_then(Record::decode);
        match record {
            Ok(record) if record.kind == RecordKind::Tombstone => Ok(Self {
                segments: number(&record.nonce[..8]),
                records: record.seq,
                burned: number(&record.nonce[8..]),
                ops: record.op,
                exp: record.exp,
                link: record.prev,
            }),
            Ok(_) => Err(JournalError::Corrupt { path, record: 0, why: "it is no tombstone" }),
            Err(why) => Err(JournalError::Corrupt { path, record: 0, why }),
        }
    }

    fn encode(&self) -> [u8; RECORD] {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.segments.to_be_bytes());
        nonce[8..].copy_from_slice(&self.burned.to_be_bytes());
        let kind = RecordKind::Tombstone;
        Record { kind, seq: self.records, nonce, op: self.ops, exp: self.exp, prev: self.link }.encode()
    }
}

impl NonceJournal {
    /// Forgets the oldest segments whose orders expired more than [`FLOOR_MARGIN`] before the signed
    /// `floor` and more than [`AGE`] before `now`; never the segment in use, and none with an order of
    /// `open`, whose story is still being written. Gives how many nonces were forgotten by this call.
    ///
    /// The caller must refuse every order whose `exp` is not after the floor, whatever the clock says:
    /// that is what makes a forgotten nonce unusable.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`] before anything was changed; after any other error the journal takes
    /// nothing more, and what was forgotten shows when it is opened again.
    pub fn compact(&mut self, floor: u64, now: u64, open: &BTreeSet<[u8; 16]>) -> Result<u64, JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        let next = self.forgettable(floor, now, open);
        let forgotten = next.burned - self.compacted.burned;
        if next != self.compacted {
            self.bury(&next)?;
            self.leftover.extend(self.compacted.segments + 1..=next.segments);
            self.compacted = next;
            self.segments.retain(|segment| segment.number > next.segments);
            self.chain.burned.retain(|_, burned| burned.record >= next.records);
        }
        self.sweep()?;
        Ok(forgotten)
    }

    /// What was forgotten so far.
    pub fn compacted(&self) -> Compacted {
        self.compacted
    }

    fn forgettable(&self, floor: u64, now: u64, open: &BTreeSet<[u8; 16]>) -> Compacted {
        let mut next = self.compacted;
        for pair in self.segments.windows(2) {
            let (segment, after) = (pair[0], pair[1]);
            let mut with = next;
            with.segments = segment.number;
            with.records = after.first;
            let within = |record: u64| (segment.first..after.first).contains(&record);
            for burned in self.chain.burned.values().filter(|burned| within(burned.record)) {
                if open.contains(&burned.op) {
                    return next;
                }
                with.burned += 1;
                with.ops = xor(with.ops, burned.op);
                with.exp = with.exp.max(burned.exp);
            }
            let old = floor > with.exp.saturating_add(FLOOR_MARGIN) && now > with.exp.saturating_add(AGE);
            if !old {
                return next;
            }
            with.link = after.link;
            next = with;
        }
        next
    }

    /// Writes the tombstone: a temporary file, fsync, rename, fsync of the directory.
    fn bury(&mut self, next: &Compacted) -> Result<(), JournalError> {
        let path = self.directory.join(TOMBSTONE);
        let temporary = self.directory.join(NEW_TOMBSTONE);
        let mut file = match self.layer.open(&temporary, How::Either) {
            Ok(file) => file,
            Err(source) => return Err(self.refuse_or_poison("create", &temporary, source)),
        };
        match file.reserve(0, RECORD as u64) {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                return Err(self.refuse_or_poison("reserve space for", &temporary, error));
            }
            _ => {}
        }
        let written = file
            .set_len(0)
            .and_then(|()| write_all(&mut *file, &next.encode(), 0))
            .and_then(|()| file.sync())
            .and_then(|()| self.layer.rename(&temporary, &path))
            .and_then(|()| self.layer.sync_directory(&self.directory));
        written.map_err(|source| self.poison("write", &path, source))
    }

    /// Removes what the tombstone says is deleted, also what an interrupted compaction left.
    fn sweep(&mut self) -> Result<(), JournalError> {
        if self.leftover.is_empty() {
            return Ok(());
        }
        for number in std::mem::take(&mut self.leftover) {
            let path = self.directory.join(segment_name(number));
            match self.layer.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.poison("remove", &path, error));
                }
                _ => {}
            }
        }
        let directory = self.directory.clone();
        self.layer
            .sync_directory(&directory)
            .map_err(|source| self.poison("sync directory", &directory, source))
    }
}

fn xor(one: [u8; 16], other: [u8; 16]) -> [u8; 16] {
    std::array::from_fn(|at| one[at] ^ other[at])
}
