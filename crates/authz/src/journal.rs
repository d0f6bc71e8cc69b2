//! The nonce journal: which orders were ever accepted (`security.md` 2.9).
//!
//! An append-only file of fixed 96-byte records, each chained to the one before. A nonce is burned
//! when its record is on the disk ([`NonceJournal::burn`] returned), and from then on for ever,
//! whatever becomes of the order. Opening verifies the whole chain: a damaged **last** record is the
//! trace of a crash during a write that was never acknowledged, and is cut off; damage anywhere else
//! means that the past cannot be known, and the journal refuses to open. The same holds when the
//! file is missing. After an error of the disk a journal refuses everything until it is opened
//! again: what the kernel still holds cannot be trusted.
//!
//! ```text
//! magic 4 | version 1 | kind 1 | reserved 2 | seq 8 | nonce 16 | op 16 | exp 8 | prev 16 | check 24
//! ```
//! Integers are big-endian. `op` is the start of the payload's SHA-256, `prev` the start of the
//! previous record's SHA-256, `check` the start of the SHA-256 of the bytes before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::{Nonce, Sha256};
use sha2::Digest as _;

use crate::files::{FileError, sync_directory};

/// Length of a record in bytes.
pub const RECORD: usize = 96;
const MAGIC: &[u8; 4] = b"WRJN";
const FILE: &str = "nonces-000001.seg";
const LOCK: &str = "nonces.lock";

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordKind {
    /// The first record of a file.
    Header = 0,
    /// A nonce was burned.
    Committed = 1,
}

/// One burned nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burned {
    /// Number of its record.
    pub record: u64,
    /// First 16 bytes of the order's id.
    pub op: [u8; 16],
    /// When the order would have expired, unix seconds.
    pub exp: u64,
}

/// The open journal. One per state directory.
#[derive(Debug)]
pub struct NonceJournal {
    file: File,
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
    burned: BTreeMap<Nonce, Burned>,
    records: u64,
    prev: [u8; 16],
    /// The trace of an unfinished write follows the last record. It is cut off when the next record is
    /// written, not before: until somebody compared journal and log it may be evidence.
    torn: bool,
    poisoned: bool,
}

impl NonceJournal {
    /// Makes an empty journal: at enrollment, once.
    pub fn create(directory: &Path) -> Result<Self, JournalError> {
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let file = match options().create_new(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(JournalError::Exists { path });
            }
            Err(source) => return Err(FileError::io("create", &path, source).into()),
        };
        let mut journal = Self {
            file,
            path,
            _lock: lock,
            burned: BTreeMap::new(),
            records: 0,
            prev: [0; 16],
            torn: false,
            poisoned: false,
        };
        journal.append(RecordKind::Header, &Nonce::from_bytes([0; 16]), [0; 16], 0)?;
        sync_directory(directory)?;
        Ok(journal)
    }

    /// Opens and verifies. The trace of an unfinished write is ignored, and cut off by the next record.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let mut file = match options().open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(JournalError::Missing { path });
            }
            Err(source) => return Err(FileError::io("open", &path, source).into()),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| FileError::io("read", &path, source))?;
        let scan = scan(&bytes).map_err(|(record, why)| JournalError::Corrupt {
            path: path.clone(),
            record,
            why,
        })?;
        let good = scan.records * RECORD as u64;
        let torn = good != bytes.len() as u64;
        file.seek(SeekFrom::Start(good)).map_err(|source| FileError::io("seek in", &path, source))?;
        let Scan { records, prev, burned } = scan;
        Ok(Self { file, path, _lock: lock, burned, records, prev, torn, poisoned: false })
    }

    /// Whether a journal is there at all.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Verifies without opening: takes no lock, changes nothing. Gives what [`Self::ops`] gives.
    pub fn inspect(directory: &Path) -> Result<BTreeSet<[u8; 16]>, JournalError> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(JournalError::Missing { path });
            }
            Err(source) => return Err(FileError::io("read", &path, source).into()),
        };
        let scan = scan(&bytes).map_err(|(record, why)| JournalError::Corrupt { path, record, why })?;
        Ok(scan.burned.values().map(|burned| burned.op).collect())
    }

    /// Whether and by which record the nonce was burned.
    pub fn find(&self, nonce: &Nonce) -> Option<&Burned> {
        self.burned.get(nonce)
    }

    /// What was ever accepted: the first 16 bytes of each order's id. Used to compare with the log.
    pub fn ops(&self) -> BTreeSet<[u8; 16]> {
        self.burned.values().map(|burned| burned.op).collect()
    }

    /// Burns a nonce. When this returns `Ok`, no crash and no later call can make it usable again.
    /// When it returns an error, the nonce may or may not be burned, and nothing may be executed.
    pub fn burn(&mut self, nonce: &Nonce, op: &Sha256, exp: u64) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        if let Some(burned) = self.burned.get(nonce) {
            return Err(JournalError::Burned { record: burned.record });
        }
        let mut short = [0; 16];
        short.copy_from_slice(&op.as_bytes()[..16]);
        let record = self.records;
        self.append(RecordKind::Committed, nonce, short, exp)?;
        self.burned.insert(*nonce, Burned { record, op: short, exp });
        Ok(())
    }

    fn append(
        &mut self,
        kind: RecordKind,
        nonce: &Nonce,
        op: [u8; 16],
        exp: u64,
    ) -> Result<(), JournalError> {
        let record = encode(kind, self.records, nonce, op, exp, self.prev);
        let cut = if self.torn { self.file.set_len(self.records * RECORD as u64) } else { Ok(()) };
        let written = cut.and_then(|()| self.file.write_all(&record)).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // After a failed fsync nobody knows what is on the disk, so the file is not touched
            // again through this handle.
            self.poisoned = true;
            return Err(FileError::io("write", &self.path, source).into());
        }
        self.prev = link(&record);
        self.records += 1;
        self.torn = false;
        Ok(())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn lock(directory: &Path) -> Result<File, JournalError> {
    let path = directory.join(LOCK);
    let file = options()
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| FileError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(JournalError::Locked { path }),
        Err(std::fs::TryLockError::Error(source)) => Err(FileError::io("lock", &path, source).into()),
    }
}

fn encode(kind: RecordKind, seq: u64, nonce: &Nonce, op: [u8; 16], exp: u64, prev: [u8; 16]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(MAGIC);
    record[4] = 1;
    record[5] = kind as u8;
    record[8..16].copy_from_slice(&seq.to_be_bytes());
    record[16..32].copy_from_slice(nonce.as_bytes());
    record[32..48].copy_from_slice(&op);
    record[48..56].copy_from_slice(&exp.to_be_bytes());
    record[56..72].copy_from_slice(&prev);
    let check = sha2::Sha256::digest(&record[..72]);
    record[72..].copy_from_slice(&check[..24]);
    record
}

fn link(record: &[u8]) -> [u8; 16] {
    let digest = sha2::Sha256::digest(record);
    let mut link = [0; 16];
    link.copy_from_slice(&digest[..16]);
    link
}

/// What a whole file says.
#[derive(Debug)]
struct Scan {
    records: u64,
    prev: [u8; 16],
    burned: BTreeMap<Nonce, Burned>,
}

/// Pure: the good prefix of a file, or the record at which it is damaged beyond a torn tail.
fn scan(bytes: &[u8]) -> Result<Scan, (u64, &'static str)> {
    let mut scan = Scan { records: 0, prev: [0; 16], burned: BTreeMap::new() };
    let (whole, partial) = bytes.as_chunks::<RECORD>();
    for (index, record) in whole.iter().enumerate() {
        match take(record, &mut scan) {
            Ok(()) => scan.records += 1,
            // The last record, and nothing after it: a write that was never acknowledged. The
            // header was acknowledged before anything else, so it must be whole.
            Err(_) if index > 0 && index + 1 == whole.len() && partial.is_empty() => return Ok(scan),
            Err(why) => return Err((scan.records, why)),
        }
    }
    if scan.records == 0 {
        return Err((0, "there is no header"));
    }
    Ok(scan)
}

fn take(record: &[u8; RECORD], scan: &mut Scan) -> Result<(), &'static str> {
    let check = sha2::Sha256::digest(&record[..72]);
    if record[72..] != check[..24] {
        return Err("the checksum is wrong");
    }
    if record[..4] != *MAGIC || record[4] != 1 || record[6..8] != [0, 0] {
        return Err("it is no record of this format");
    }
    if number(&record[8..16]) != scan.records {
        return Err("the sequence number is wrong");
    }
    if record[56..72] != scan.prev {
        return Err("it does not follow the record before it");
    }
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&record[16..32]);
    let mut op = [0; 16];
    op.copy_from_slice(&record[32..48]);
    match (record[5], scan.records) {
        (0, 0) => {}
        (1, 1..) => {
            let burned = Burned { record: scan.records, op, exp: number(&record[48..56]) };
            if scan.burned.insert(Nonce::from_bytes(nonce), burned).is_some() {
                return Err("the nonce was burned before");
            }
        }
        _ => return Err("the record kind is wrong here"),
    }
    scan.prev = link(record);
    Ok(())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
