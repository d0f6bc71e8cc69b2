//! The nonce journal: which orders were ever accepted (`security.md` 2.9).
//!
//! Append-only files ("segments") of fixed 96-byte records, each chained to the one before, over all
//! segments. A nonce is burned when its record is on the disk ([`NonceJournal::burn`] returned), and from
//! then on for ever, whatever becomes of the order. Opening verifies the whole chain: a damaged **last**
//! record is the trace of a crash during a write that was never acknowledged, and is cut off; damage
//! anywhere else means that the past cannot be known, and the journal refuses to open. The same holds when
//! a file is missing. After an error of the disk a journal refuses everything until it is opened again:
//! what the kernel still holds cannot be trusted.
//!
//! ```text
//! magic 4 | version 1 | kind 1 | reserved 2 | seq 8 | nonce 16 | op 16 | exp 8 | prev 16 | check 24
//! ```
//! Integers are big-endian. `op` is the start of the payload's SHA-256, `prev` the start of the
//! previous record's SHA-256, `check` the start of the SHA-256 of the bytes before it.
//!
//! | step | order of writes |
//! |---|---|
//! | burn | record, fdatasync |
//! | new segment | space reserved, header, fdatasync, fsync of the directory, then the first record |
//! | open | the last record again, fdatasync, fsync of the directory: a killed process may have left what is seen and not durable |
//! | compaction | tombstone (temporary file, fdatasync, rename, fsync of the directory), then the segments go |
//!
//! Space is reserved without changing a file's length: the length is what tells a record that was never
//! written from one whose block was lost, so zeros at the end are damage and not an empty place.
//!
//! A last record that rotted looks like a torn one, and a last segment that is gone like one that never
//! was. The log and the order files tell what is missing then: [`NonceJournal::ops`] is compared with them.
//!
//! | module | does |
//! |---|---|
//! | `record` | one record, and whether it follows |
//! | `scan` | a directory, verified |
//! | `compact` | what is forgotten, and when |

mod compact;
mod record;
mod scan;

use std::collections::BTreeSet;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

use protocol::{Nonce, Sha256};

pub use compact::{AGE, Compacted, FLOOR_MARGIN};
pub use record::RECORD;

use crate::files::FileError;
use crate::files::layer::{Disk, Handle, How, Layer, write_all};
use record::{Chain, Record, RecordKind, half};
use scan::{Found, LOCK, Names, Segment, segment_name};

/// Records a segment, its header among them: 384 KiB, some weeks to years of orders.
pub const SEGMENT: u64 = 4096;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("{path} is locked: another warden uses this state directory; stop it first", path = .path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// It was there once and is gone, or never was.
    #[error("the nonce journal {path} is missing, so it cannot be known which orders were used: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew", path = .path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is there already.
    #[error("a nonce journal exists at {path}: it is never overwritten", path = .path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Damaged in the middle.
    #[error("the nonce journal {path} is damaged at record {record} ({why}): signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew", path = .path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Which record, from 0.
        record: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk failed earlier.
    #[error(
        "the nonce journal had a disk error and takes nothing more: restart the warden, and look at the disk"
    )]
    Poisoned,
    /// Changed by somebody else while it was open.
    #[error("the nonce journal {path} was changed under the running program ({why}), so it takes nothing more: find out who did that, and restart; what is there then is verified anew", path = .path.display())]
    Replaced {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no room for the next record.
    #[error("the next record of the nonce journal {path} cannot be given its place on the disk ({source}); nothing was burned, so the same order can come again: free some space, or make the file system writable", path = .path.display())]
    NoRoom {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that looks like ours and is not.
    #[error("{path} is no file of the nonce journal, and only files of the journal may be called so: signed orders are refused until root moves it elsewhere", path = .path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// Used before.
    #[error("this nonce was burned before, by record {record}")]
    Burned {
        /// By which.
        record: u64,
    },
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One burned nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burned {
    /// Number of its record, over all segments.
    pub record: u64,
    /// First 16 bytes of the order's id.
    pub op: [u8; 16],
    /// When the order would have expired, unix seconds.
    pub exp: u64,
}

/// What a journal says that was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// As [`NonceJournal::ops`].
    pub ops: BTreeSet<[u8; 16]>,
    /// As [`NonceJournal::compacted`].
    pub compacted: Compacted,
}

/// The open journal. One per state directory.
#[derive(Debug)]
pub struct NonceJournal {
    layer: Box<dyn Layer>,
    directory: PathBuf,
    /// Records a segment.
    capacity: u64,
    /// Held for its lock.
    _lock: Box<dyn Handle>,
    /// The last segment.
    file: Box<dyn Handle>,
    path: PathBuf,
    /// Where its next record goes.
    end: u64,
    /// Its length: more than `end` where the trace of an unfinished write follows the last record. That is
    /// cut off when the next record is written, not before: until somebody compared journal and log it may
    /// be evidence.
    length: u64,
    segments: Vec<Segment>,
    chain: Chain,
    compacted: Compacted,
    /// Deleted segments that are still there.
    leftover: Vec<u64>,
    /// The next segment's file is there, without its header.
    begun: bool,
    poisoned: bool,
}

impl NonceJournal {
    /// Makes an empty journal: at enrollment, once.
    ///
    /// # Errors
    /// [`JournalError::Exists`] when any file of a journal is there.
    pub fn create(directory: &Path) -> Result<Self, JournalError> {
        Self::create_on(Box::new(Disk), directory, SEGMENT)
    }

    /// Opens and verifies. The trace of an unfinished write is ignored, and cut off by the next record.
    ///
    /// # Errors
    /// Anything that was acknowledged and cannot be read back.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        Self::open_on(Box::new(Disk), directory, SEGMENT)
    }

    /// Makes an empty journal, finishes one whose making was interrupted, or opens the one that is there:
    /// as long as an enrollment may be begun again.
    ///
    /// # Errors
    /// Those of [`Self::create`] and [`Self::open`].
    pub fn begin(directory: &Path) -> Result<Self, JournalError> {
        Self::begin_on(&|| Box::new(Disk), directory, SEGMENT)
    }

    /// [`Self::create`] on any file system, with any number of records a segment (at least two).
    ///
    /// # Errors
    /// As there.
    pub fn create_on(layer: Box<dyn Layer>, directory: &Path, capacity: u64) -> Result<Self, JournalError> {
        let lock = lock(&*layer, directory)?;
        let path = directory.join(segment_name(1));
        if !Names::read(&*layer, directory)?.is_empty() {
            return Err(JournalError::Exists { path });
        }
        let file = layer.open(&path, How::New).map_err(|source| FileError::io("create", &path, source))?;
        let mut journal = Self {
            layer,
            directory: directory.to_owned(),
            capacity: capacity.max(2),
            _lock: lock,
            file,
            path,
            end: 0,
            length: 0,
            segments: vec![Segment { number: 1, first: 0, link: [0; 16] }],
            chain: Chain::default(),
            compacted: Compacted::default(),
            leftover: Vec::new(),
            begun: false,
            poisoned: false,
        };
        journal.header()?;
        Ok(journal)
    }

    /// [`Self::open`] on any file system.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(layer: Box<dyn Layer>, directory: &Path, capacity: u64) -> Result<Self, JournalError> {
        let lock = lock(&*layer, directory)?;
        let found = Found::read(&*layer, directory)?;
        let number = found.segments.last().map_or(1, |segment| segment.number);
        let path = directory.join(segment_name(number));
        let mut file =
            layer.open(&path, How::Existing).map_err(|source| FileError::io("open", &path, source))?;
        // What is seen is acted upon from here on, so it must be as durable as if it had been acknowledged.
        // Only the last record can be one that was not, and it is written again: after a failed fsync the
        // kernel takes a page for clean that never reached the disk.
        write_all(&mut *file, &found.last, found.end - RECORD as u64)
            .and_then(|()| file.sync())
            .map_err(|source| FileError::io("sync", &path, source))?;
        layer
            .sync_directory(directory)
            .map_err(|source| FileError::io("sync directory", directory, source))?;
        let Found { chain, compacted, segments, end, length, begun, leftover, .. } = found;
        Ok(Self {
            layer,
            directory: directory.to_owned(),
            capacity: capacity.max(2),
            _lock: lock,
            file,
            path,
            end,
            length,
            segments,
            chain,
            compacted,
            leftover,
            begun,
            poisoned: false,
        })
    }

    /// [`Self::begin`] on any file system.
    ///
    /// # Errors
    /// As there.
    pub fn begin_on(
        layer: &dyn Fn() -> Box<dyn Layer>,
        directory: &Path,
        capacity: u64,
    ) -> Result<Self, JournalError> {
        match Self::create_on(layer(), directory, capacity) {
            Err(JournalError::Exists { .. }) => {}
            other => return other,
        }
        match Self::open_on(layer(), directory, capacity) {
            Err(JournalError::Corrupt { path, .. }) if is_trace(&*layer(), directory)? => {
                layer().remove(&path).map_err(|source| FileError::io("remove", &path, source))?;
                Self::create_on(layer(), directory, capacity)
            }
            other => other,
        }
    }

    /// Whether any file of a journal is there, also one that was only begun; a directory that cannot be
    /// read counts as one with a journal.
    pub fn exists(directory: &Path) -> bool {
        Names::read(&Disk, directory).map_or(true, |names| !names.is_empty())
    }

    /// Whether all that is there is the trace of a making that was interrupted: no nonce can ever have been
    /// burned in it.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn is_trace(directory: &Path) -> Result<bool, JournalError> {
        is_trace(&Disk, directory)
    }

    /// Verifies without opening: takes no lock, changes nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn inspect(directory: &Path) -> Result<Inspected, JournalError> {
        Self::inspect_on(&Disk, directory)
    }

    /// [`Self::inspect`] on any file system.
    ///
    /// # Errors
    /// As there.
    pub fn inspect_on(layer: &dyn Layer, directory: &Path) -> Result<Inspected, JournalError> {
        let found = Found::read(layer, directory)?;
        let ops = found.chain.burned.values().map(|burned| burned.op).collect();
        Ok(Inspected { ops, compacted: found.compacted })
    }

    /// Whether and by which record the nonce was burned.
    pub fn find(&self, nonce: &Nonce) -> Option<&Burned> {
        self.chain.burned.get(nonce)
    }

    /// What was ever accepted and not forgotten by [`Self::compact`]: the first 16 bytes of each order's
    /// id. Used to compare with the log.
    pub fn ops(&self) -> BTreeSet<[u8; 16]> {
        self.chain.burned.values().map(|burned| burned.op).collect()
    }

    /// Makes sure that the next record has its place, and that nobody changed the file meanwhile: asked
    /// before an order is accepted, so that a full disk refuses while the nonce is still free.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`], after which the journal goes on as before; after any other error it takes
    /// nothing more. Nothing is burned in either case.
    pub fn reserve(&mut self) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        self.unchanged()?;
        if self.begun || self.end >= self.capacity * RECORD as u64 {
            self.next_segment()?;
        }
        self.allocate()
    }

    /// Burns a nonce. When this returns `Ok`, no crash and no later call can make it usable again.
    /// When it returns an error, the nonce may or may not be burned, and nothing may be executed;
    /// [`JournalError::burned_nothing`] says when it certainly is not.
    ///
    /// # Errors
    /// After any but [`JournalError::Burned`] and [`JournalError::NoRoom`] the journal takes nothing more.
    pub fn burn(&mut self, nonce: &Nonce, op: &Sha256, exp: u64) -> Result<(), JournalError> {
        if let Some(burned) = self.chain.burned.get(nonce).filter(|_| !self.poisoned) {
            return Err(JournalError::Burned { record: burned.record });
        }
        self.reserve()?;
        let burned = Burned { record: self.chain.records, op: half(op.as_bytes()), exp };
        let record = Record {
            kind: RecordKind::Committed,
            seq: burned.record,
            nonce: *nonce.as_bytes(),
            op: burned.op,
            exp,
            prev: self.chain.prev,
        };
        self.append(&record)?;
        self.chain.burned.insert(*nonce, burned);
        Ok(())
    }

    /// Writes a record, and returns when it is durable.
    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let bytes = record.encode();
        let cut = if self.length > self.end { self.file.set_len(self.end) } else { Ok(()) };
        let written =
            cut.and_then(|()| write_all(&mut *self.file, &bytes, self.end)).and_then(|()| self.file.sync());
        if let Err(source) = written {
            let path = self.path.clone();
            return Err(self.poison("write", &path, source));
        }
        self.chain.follow(&bytes);
        self.end += RECORD as u64;
        self.length = self.end;
        Ok(())
    }

    /// The first record of a segment, and its name made durable.
    fn header(&mut self) -> Result<(), JournalError> {
        self.append(&Record::header(self.chain.records, self.chain.prev))?;
        let directory = self.directory.clone();
        self.layer
            .sync_directory(&directory)
            .map_err(|source| self.poison("sync directory", &directory, source))
    }

    /// Begins the next segment, or finishes its beginning.
    fn next_segment(&mut self) -> Result<(), JournalError> {
        let number = self.segments.last().map_or(1, |segment| segment.number + 1);
        let path = self.directory.join(segment_name(number));
        let how = if self.begun { How::Either } else { How::New };
        let file = match self.layer.open(&path, how) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.poisoned = true;
                return Err(JournalError::Replaced { path, why: "the next file is there already" });
            }
            Err(source) => return Err(self.refuse_or_poison("create", &path, source)),
        };
        // From here on the file is there; it stays without a header until that is written as a whole.
        self.begun = true;
        let length = file.stat().map(|stat| stat.length);
        let length = length.map_err(|source| self.poison("look at", &path, source))?;
        if length > RECORD as u64 {
            self.poisoned = true;
            return Err(JournalError::Replaced { path, why: "the next file has content already" });
        }
        let before = (
            std::mem::replace(&mut self.file, file),
            std::mem::replace(&mut self.path, path),
            std::mem::take(&mut self.end),
            std::mem::replace(&mut self.length, length),
        );
        if let Err(error) = self.allocate() {
            // The segment in use is still the one before.
            (self.file, self.path, self.end, self.length) = before;
            return Err(error);
        }
        let segment = Segment { number, first: self.chain.records, link: self.chain.prev };
        self.header()?;
        self.segments.push(segment);
        self.begun = false;
        Ok(())
    }

    /// Reserves the rest of the segment.
    fn allocate(&mut self) -> Result<(), JournalError> {
        let all = self.capacity * RECORD as u64;
        match self.file.reserve(self.end, all.saturating_sub(self.end)) {
            Ok(()) => Ok(()),
            // A file system without reservations: there the order's own file is the test for space.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            Err(source) => {
                let path = self.path.clone();
                Err(self.refuse_or_poison("reserve space for", &path, source))
            }
        }
    }

    /// Whether the file in use is still the one at its path, with the length that we gave it.
    fn unchanged(&mut self) -> Result<(), JournalError> {
        let path = self.path.clone();
        let ours = self.file.stat().map_err(|source| self.poison("look at", &path, source))?;
        let why = match self.layer.stat(&path) {
            Ok(there) if (there.device, there.inode) != (ours.device, ours.inode) => "it is another file now",
            Ok(_) if ours.length < self.length => "it is shorter than it was",
            Ok(_) if ours.length > self.length => "it is longer than it was",
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it is gone",
            Err(source) => return Err(self.poison("look at", &path, source)),
        };
        self.poisoned = true;
        Err(JournalError::Replaced { path, why })
    }

    /// For calls that change nothing when they fail: where only room is missing, the journal goes on.
    fn refuse_or_poison(&mut self, action: &'static str, path: &Path, source: io::Error) -> JournalError {
        use io::ErrorKind::{Interrupted, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | Interrupted) {
            return JournalError::NoRoom { path: path.to_owned(), source };
        }
        self.poison(action, path, source)
    }

    /// After a failed write or fsync nobody knows what is on the disk, so nothing is written any more
    /// through these handles.
    fn poison(&mut self, action: &'static str, path: &Path, source: io::Error) -> JournalError {
        self.poisoned = true;
        FileError::io(action, path, source).into()
    }
}

impl JournalError {
    /// Whether this error of [`NonceJournal::burn`] certainly burned nothing and leaves the journal as
    /// usable as it was.
    pub fn burned_nothing(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
    }
}

fn lock(layer: &dyn Layer, directory: &Path) -> Result<Box<dyn Handle>, JournalError> {
    let path = directory.join(LOCK);
    match layer.lock(&path) {
        Ok(lock) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(FileError::io("lock", &path, source).into()),
    }
}

fn is_trace(layer: &dyn Layer, directory: &Path) -> Result<bool, JournalError> {
    let names = Names::read(layer, directory)?;
    if names.tombstone || names.segments != [1] {
        return Ok(false);
    }
    let path = directory.join(segment_name(1));
    let length = layer.stat(&path).map_err(|source| FileError::io("look at", &path, source))?.length;
    Ok(length < RECORD as u64
        || length == RECORD as u64
            && matches!(Found::read(layer, directory), Err(JournalError::Corrupt { .. })))
}

#[cfg(test)]
mod tests;
