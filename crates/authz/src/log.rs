//! The host's log on disk: one signed receipt a line, each naming the one before it. Appending
//! returns when the entry is durable. A last line without its end is the trace of a crash and is ignored;
//! damage anywhere else refuses to open.
//!
//! Over the entries stands an RFC 6962 tree ([`crate::merkle`]) whose leaves are their payloads; its root
//! goes into checkpoints. Nothing of it is on disk: opening reads every entry anyway, and a root needs no
//! more than 64 hashes in memory.
//!
//! Beside the log lies `log.reserve`: space that is given up when the disk is full and the end of something
//! must be written down (`security.md` 2.9).
//!
//! And `log.head`: how many entries were acknowledged, and the hash of the last. It is
//! written after the entry is durable, so a crash can leave it behind the log but never ahead; where it
//! is ahead, acknowledged entries are missing.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::{HostId, Sha256, Signed};

use crate::checkpoint::Checkpoint;
use crate::files::{FileError, sync_directory};
use crate::keys::PublicKey;
use crate::merkle::{Frontier, leaf_hash};
use crate::receipt::{Entry, Receipt, ReceiptError};

mod reserve;

const FILE: &str = "log.jsonl";
const HEAD: &str = "log.head";
/// Longest line; an entry is far smaller.
const MAX_LINE: u64 = 256 * 1024;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Damaged before its last line.
    #[error("the audit log {path} is damaged at entry {entry} ({why}): signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew", path = .path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Which entry, from 0.
        entry: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// An entry is not this host's.
    #[error(
        "entry {entry} of the audit log is not this host's: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew"
    )]
    Receipt {
        /// Which entry.
        entry: u64,
        /// What is wrong.
        #[source]
        source: Box<ReceiptError>,
    },
    /// It was there once and is gone.
    #[error("the audit log {path} is missing: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew", path = .path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Entries that were acknowledged are gone.
    #[error("the audit log {path} ends before entry {acknowledged}, which was written: signed orders are refused. There is no re-anchoring yet: root moves the state directory away and enrolls the host anew", path = .path.display())]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// The last entry that was acknowledged, from 0.
        acknowledged: u64,
    },
    /// It is there already.
    #[error("an audit log exists at {path}: it is never overwritten", path = .path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// There is no room; nothing was written, and the log goes on.
    #[error("there is no room for the audit log: free some space")]
    NoRoom(#[source] FileError),
    /// The disk failed earlier.
    #[error(
        "the audit log had a disk error and takes nothing more: restart the warden, and look at the disk"
    )]
    Poisoned,
    /// A receipt for another place.
    #[error("the receipt is not for the next place in the log")]
    OutOfPlace,
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where an entry lies in the file, and its hash.
#[derive(Debug, Clone, Copy)]
struct Place {
    end: u64,
    hash: Sha256,
}

/// The open log. The journal's lock keeps a second process out.
#[derive(Debug)]
pub struct AuditLog {
    file: File,
    path: PathBuf,
    places: Vec<Place>,
    tree: Frontier,
    head: PathBuf,
    /// The trace of an unfinished write follows the last entry; the next entry cuts it off.
    torn: bool,
    poisoned: bool,
}

impl AuditLog {
    /// Makes an empty log: at enrollment, once.
    pub fn create(directory: &Path) -> Result<Self, LogError> {
        let path = directory.join(FILE);
        let file = match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(LogError::Exists { path });
            }
            Err(source) => return Err(FileError::io("create", &path, source).into()),
        };
        sync_directory(directory)?;
        Ok(Self::over(file, directory))
    }

    /// Opens, verifies the chain and every signature, and shows every entry to `visit`. Cuts off the
    /// trace of an unfinished write.
    pub fn open(
        directory: &Path,
        host: &HostId,
        key: &PublicKey,
        visit: impl FnMut(&Receipt),
    ) -> Result<Self, LogError> {
        let mut log = Self::over(open(OpenOptions::new().read(true).write(true), directory)?, directory);
        log.torn = log.scan(host, key, visit)?;
        log.compare_head()?;
        let end = log.end();
        log.file.seek(SeekFrom::Start(end)).map_err(|source| FileError::io("seek in", &log.path, source))?;
        Ok(log)
    }

    /// Verifies like [`Self::open`] and changes nothing. Gives the number of entries.
    pub fn inspect(
        directory: &Path,
        host: &HostId,
        key: &PublicKey,
        visit: impl FnMut(&Receipt),
    ) -> Result<u64, LogError> {
        let mut log = Self::over(open(OpenOptions::new().read(true), directory)?, directory);
        log.scan(host, key, visit)?;
        log.compare_head()?;
        Ok(log.size())
    }

    /// Whether anything was ever written here.
    pub fn has_history(directory: &Path) -> bool {
        std::fs::metadata(directory.join(FILE)).is_ok_and(|meta| meta.len() > 0)
            || directory.join(HEAD).exists()
    }

    fn over(file: File, directory: &Path) -> Self {
        let (path, head) = (directory.join(FILE), directory.join(HEAD));
        Self { file, path, places: Vec::new(), tree: Frontier::default(), head, torn: false, poisoned: false }
    }

    /// Whether the entry that was acknowledged last is there. A head that cannot be read proves nothing.
    fn compare_head(&self) -> Result<(), LogError> {
        let Ok(text) = std::fs::read_to_string(&self.head) else {
            return Ok(());
        };
        let Some((size, hash)) = text.trim_end().split_once(' ') else {
            return Ok(());
        };
        let (Ok(size), Ok(hash)) = (size.parse::<u64>(), hash.parse::<Sha256>()) else {
            return Ok(());
        };
        if self.head_at(size) == Some(hash) {
            Ok(())
        } else {
            Err(LogError::Truncated { path: self.path.clone(), acknowledged: size.saturating_sub(1) })
        }
    }

    /// Not synced: when it is lost in a crash, it is behind, which says nothing wrong.
    fn write_head(&self) {
        let hash = self.head_at(self.size()).unwrap_or(Sha256::from_bytes([0; 32]));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.head)
            .and_then(|file| {
                std::os::unix::fs::FileExt::write_all_at(
                    &file,
                    format!("{:020} {hash}\n", self.size()).as_bytes(),
                    0,
                )
            });
        // The entry itself is durable; only the guard against truncation lags.
        drop(written);
    }

    /// Reads everything; true when the last line is the trace of an unfinished write.
    fn scan(
        &mut self,
        host: &HostId,
        key: &PublicKey,
        mut visit: impl FnMut(&Receipt),
    ) -> Result<bool, LogError> {
        let handle = self.file.try_clone().map_err(|source| FileError::io("open", &self.path, source))?;
        let mut reader = BufReader::new(handle);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            if read.map_err(|source| FileError::io("read", &self.path, source))? == 0 {
                return Ok(false);
            }
            if line.last() != Some(&b'\n') {
                let at_end = reader.fill_buf().is_ok_and(<[u8]>::is_empty);
                return if at_end { Ok(true) } else { Err(self.corrupt("the line is too long")) };
            }
            let signed: Signed =
                serde_json::from_slice(&line).map_err(|_| self.corrupt("it is no signed receipt"))?;
            let receipt = Receipt::verify(&signed, host, key)
                .map_err(|source| LogError::Receipt { entry: self.size(), source: Box::new(source) })?;
            if receipt.entry != Some(self.next_entry()) {
                return Err(self.corrupt("it does not follow the entry before it"));
            }
            self.remember(&signed, line.len());
            visit(&receipt);
        }
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.places.len() as u64
    }

    /// The whole log as it is now, for signing.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { size: self.size(), root: self.tree.root() }
    }

    /// Hash of the last entry when the log had `size` entries; zeros for none.
    pub fn head_at(&self, size: u64) -> Option<Sha256> {
        match size.checked_sub(1) {
            None => Some(Sha256::from_bytes([0; 32])),
            Some(last) => self.places.get(usize::try_from(last).ok()?).map(|place| place.hash),
        }
    }

    /// What the next receipt has to say about its place.
    pub fn next_entry(&self) -> Entry {
        let prev = self.places.last().map_or(Sha256::from_bytes([0; 32]), |place| place.hash);
        Entry { seq: self.size(), prev }
    }

    /// Appends the receipt that was made for [`Self::next_entry`], durably.
    pub fn append(&mut self, receipt: &Receipt, signed: &Signed) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        if receipt.entry != Some(self.next_entry()) {
            return Err(LogError::OutOfPlace);
        }
        let mut line = serde_json::to_vec(signed).expect("two strings serialise");
        line.push(b'\n');
        self.write_line(&line)?;
        self.remember(signed, line.len());
        self.write_head();
        Ok(())
    }

    /// The same for what has happened already and must not be lost: on a full disk the reserve is given up for
    /// it ([`Self::reserve`]).
    pub fn append_end(&mut self, receipt: &Receipt, signed: &Signed) -> Result<(), LogError> {
        match self.append(receipt, signed) {
            Err(LogError::NoRoom(_)) => {}
            other => return other,
        }
        reserve::release(self.directory()).map_err(|error| self.poison(error))?;
        match self.append(receipt, signed) {
            // It happened, and nothing tells of it: the next start writes it down.
            Err(LogError::NoRoom(error)) => Err(self.poison(error)),
            other => other,
        }
    }

    /// Makes sure that there is room for the story of whatever begins next: before an order, a policy or a step
    /// is accepted, while refusing costs nothing.
    ///
    /// # Errors
    /// [`LogError::NoRoom`], and nothing has changed.
    pub fn reserve(&self) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        reserve::hold(self.directory())
            .map_err(|error| if error.is_no_room() { LogError::NoRoom(error) } else { LogError::File(error) })
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn poison(&mut self, error: FileError) -> LogError {
        self.poisoned = true;
        LogError::File(error)
    }

    fn write_line(&mut self, line: &[u8]) -> Result<(), LogError> {
        let end = self.end();
        let cut = if self.torn {
            self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end)).map(drop))
        } else {
            Ok(())
        };
        if let Err(source) = cut.and_then(|()| self.file.write_all(line)) {
            let error = FileError::io("write", &self.path, source);
            // Not synced and not acknowledged: what stands there is the trace of an unfinished write.
            self.torn = true;
            return Err(if error.is_no_room() { LogError::NoRoom(error) } else { self.poison(error) });
        }
        if let Err(source) = self.file.sync_data() {
            let error = FileError::io("write", &self.path, source);
            return Err(self.poison(error));
        }
        self.torn = false;
        Ok(())
    }

    /// Entries from `first` on, at most `max`.
    pub fn read(&self, first: u64, max: usize) -> Result<Vec<Signed>, LogError> {
        let first = usize::try_from(first).unwrap_or(usize::MAX).min(self.places.len());
        let last = first.saturating_add(max).min(self.places.len());
        if first == last {
            return Ok(Vec::new());
        }
        let start = first.checked_sub(1).map_or(0, |before| self.places[before].end);
        let length = self.places[last - 1].end - start;
        let fail = |source| FileError::io("read", &self.path, source);
        // A handle of its own: the append position must not move.
        let mut file = File::open(&self.path).map_err(fail)?;
        file.seek(SeekFrom::Start(start)).map_err(fail)?;
        BufReader::new(file.take(length))
            .split(b'\n')
            .map(|line| {
                let line = line.map_err(fail)?;
                serde_json::from_slice(&line).map_err(|_| self.corrupt("it changed since it was written"))
            })
            .collect()
    }

    fn end(&self) -> u64 {
        self.places.last().map_or(0, |place| place.end)
    }

    fn remember(&mut self, signed: &Signed, length: usize) {
        let end = self.end() + length as u64;
        self.tree.push(leaf_hash(&signed.payload.0));
        self.places.push(Place { end, hash: Sha256::of(&signed.payload.0) });
    }

    fn corrupt(&self, why: &'static str) -> LogError {
        LogError::Corrupt { path: self.path.clone(), entry: self.size(), why }
    }
}

fn open(options: &OpenOptions, directory: &Path) -> Result<File, LogError> {
    let path = directory.join(FILE);
    options.open(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LogError::Missing { path },
        _ => FileError::io("open", &path, source).into(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::receipt::Event;
    use crate::secret::SecretKey;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    fn host() -> HostId {
        HostId::from_bytes([2; 16])
    }

    fn receipt(log: &AuditLog, n: u64) -> Receipt {
        Receipt {
            v: 1,
            host: host(),
            host_key_gen: 1,
            boot_id: "b".into(),
            time: n,
            entry: Some(log.next_entry()),
            event: Event::OrderCommitted {
                op: Sha256::of(&n.to_be_bytes()),
                kind: "x".into(),
                signers: vec![],
            },
        }
    }

    fn filled(directory: &Path, count: u64) -> Vec<u8> {
        let mut log = AuditLog::create(directory).unwrap();
        for n in 0..count {
            let receipt = receipt(&log, n);
            log.append(&receipt, &receipt.sign(&key())).unwrap();
        }
        assert_eq!(log.read(1, 9).unwrap().len(), count as usize - 1);
        fs::read(directory.join(FILE)).unwrap()
    }

    fn open(directory: &Path) -> Result<AuditLog, LogError> {
        AuditLog::open(directory, &host(), &key().public(), |_| ())
    }

    /// Whatever was acknowledged and is gone is noticed, whole entries as well as parts of one.
    #[test]
    fn a_shortened_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = filled(dir.path(), 3);
        let ends: Vec<usize> =
            bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        for length in [0, ends[0], ends[1], bytes.len() - 1, ends[1] + 5] {
            fs::write(dir.path().join(FILE), &bytes[..length]).unwrap();
            let error = open(dir.path()).unwrap_err();
            assert!(matches!(error, LogError::Truncated { acknowledged: 2, .. }), "length {length}: {error}");
            assert_eq!(
                fs::read(dir.path().join(FILE)).unwrap().len(),
                length,
                "and nothing more is destroyed"
            );
        }
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(matches!(open(dir.path()), Err(LogError::Missing { .. })));
        fs::write(dir.path().join(FILE), &bytes).unwrap();
        assert_eq!(open(dir.path()).unwrap().size(), 3);
        // A head from before the last entry: the crash came between the two writes.
        fs::write(dir.path().join(HEAD), "").unwrap();
        assert_eq!(open(dir.path()).unwrap().size(), 3);
    }

    #[test]
    fn entries_survive_and_chain() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 3);
        let mut times = Vec::new();
        let mut log = AuditLog::open(dir.path(), &host(), &key().public(), |r| times.push(r.time)).unwrap();
        assert_eq!(times, [0, 1, 2]);
        let next = receipt(&log, 3);
        log.append(&next, &next.sign(&key())).unwrap();
        assert!(matches!(log.append(&next, &next.sign(&key())), Err(LogError::OutOfPlace)));
        let read = log.read(0, 100).unwrap();
        assert_eq!(read.len(), 4);
        assert_eq!(log.head_at(4), Some(Sha256::of(&read[3].payload.0)));
        assert_eq!(log.head_at(5), None);
        assert_eq!(log.read(4, 100).unwrap(), []);
        assert!(AuditLog::create(dir.path()).is_err());
    }

    #[test]
    fn every_torn_tail_opens_and_keeps_what_was_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = filled(dir.path(), 2);
        let first = 1 + bytes.iter().position(|b| *b == b'\n').unwrap();
        for length in (first..bytes.len()).step_by(7) {
            fs::write(dir.path().join(FILE), &bytes[..length]).unwrap();
            // The crash came before the second entry was acknowledged.
            let hash = Sha256::of(&serde_json::from_slice::<Signed>(&bytes[..first]).unwrap().payload.0);
            fs::write(dir.path().join(HEAD), format!("{:020} {hash}\n", 1)).unwrap();
            let mut log = open(dir.path()).unwrap();
            assert_eq!(log.size(), 1, "length {length}");
            let next = receipt(&log, 9);
            log.append(&next, &next.sign(&key())).unwrap();
            assert_eq!(open(dir.path()).unwrap().size(), 2, "the tail was cut before the next entry");
        }
    }

    #[test]
    fn a_rewritten_past_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = filled(dir.path(), 3);
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let cases = [
            ("an entry is gone", format!("{}\n{}\n", lines[0], lines[2])),
            ("the first is gone", format!("{}\n{}\n", lines[1], lines[2])),
            ("swapped", format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2])),
            ("no receipt", format!("{}\nhello\n", lines[0])),
            ("blank line", format!("{}\n\n", lines[0])),
            ("too long", format!("{}\n{}\n", lines[0], "x".repeat(MAX_LINE as usize + 10))),
        ];
        for (what, damaged) in cases {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            assert!(open(dir.path()).is_err(), "{what}");
        }
        // Signed by another key, at the right place.
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::remove_file(dir.path().join(HEAD)).unwrap();
        let mut log = AuditLog::create(dir.path()).unwrap();
        let forged = receipt(&log, 0);
        log.append(&forged, &forged.sign(&SecretKey::from_seed(&[9; 32]))).unwrap();
        assert!(matches!(open(dir.path()), Err(LogError::Receipt { entry: 0, .. })));
    }

    #[test]
    fn the_checkpoint_is_the_tree_over_the_payloads_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AuditLog::create(dir.path()).unwrap();
        assert_eq!(log.checkpoint(), Checkpoint { size: 0, root: crate::merkle::empty_root() });
        let mut tree = crate::merkle::Tree::default();
        for n in 0..9 {
            let receipt = receipt(&log, n);
            let signed = receipt.sign(&key());
            log.append(&receipt, &signed).unwrap();
            tree.push(leaf_hash(&signed.payload.0));
            assert_eq!(Some(log.checkpoint().root), tree.root(n + 1));
        }
        let before = log.checkpoint();
        drop(log);
        // What a crash leaves of an unfinished entry is in no checkpoint.
        let mut bytes = fs::read(dir.path().join(FILE)).unwrap();
        bytes.extend_from_slice(b"{\"payload\":");
        fs::write(dir.path().join(FILE), bytes).unwrap();
        let log = AuditLog::open(dir.path(), &host(), &key().public(), |_| ()).unwrap();
        assert_eq!((log.checkpoint(), before.size), (before, 9));
    }

    /// A disk without room, as far as the log can see.
    fn full() -> File {
        OpenOptions::new().read(true).write(true).open("/dev/full").unwrap()
    }

    #[test]
    fn a_full_disk_refuses_and_the_log_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AuditLog::create(dir.path()).unwrap();
        let entry = |log: &AuditLog| {
            let receipt = receipt(log, log.size());
            let signed = receipt.sign(&key());
            (receipt, signed)
        };
        let (first, signed) = entry(&log);
        log.append(&first, &signed).unwrap();
        let real = std::mem::replace(&mut log.file, full());
        let (second, signed) = entry(&log);
        assert!(matches!(log.append(&second, &signed), Err(LogError::NoRoom(_))));
        assert_eq!(log.size(), 1);
        log.file = real;
        log.file.write_all(b"half of what came before the disk was full").unwrap();
        log.append(&second, &signed).unwrap();
        assert_eq!(open(dir.path()).unwrap().size(), 2);
    }

    #[test]
    fn what_has_happened_gets_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AuditLog::create(dir.path()).unwrap();
        let reserve = dir.path().join("log.reserve");
        log.reserve().unwrap();
        log.reserve().unwrap();
        assert_eq!(fs::metadata(&reserve).unwrap().len(), reserve::LENGTH);
        let receipt = receipt(&log, 1);
        let signed = receipt.sign(&key());
        log.file = full();
        assert!(log.append(&receipt, &signed).is_err());
        assert_eq!(fs::metadata(&reserve).unwrap().len(), reserve::LENGTH, "not for what can be refused");
        // (This device has no length to cut back to.)
        log.torn = false;
        // The disk here stays full, so the reserve is of no use: that ends the log.
        assert!(matches!(log.append_end(&receipt, &signed), Err(LogError::File(_))));
        assert_eq!(fs::metadata(&reserve).unwrap().len(), 0);
        assert!(matches!(log.append_end(&receipt, &signed), Err(LogError::Poisoned)));
        assert!(matches!(log.reserve(), Err(LogError::Poisoned)));
        // It is held again before anything is accepted.
        open(dir.path()).unwrap().reserve().unwrap();
        assert_eq!(fs::metadata(&reserve).unwrap().len(), reserve::LENGTH);
    }
}
