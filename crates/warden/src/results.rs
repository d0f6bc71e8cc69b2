//! Sealed results of scripts that wait until the hub holds them: one file each, so they survive restarts
//! and a damaged ledger. Nobody here can read what is inside.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use protocol::job::MAX_SEALED_RESULT;
use protocol::local::WardenAnswer;
use protocol::{Bytes, Sha256};
use serde::{Deserialize, Serialize};

use crate::warden::{chain, refused};

const RESULTS: &str = "results";
/// So many results may wait before no further script is taken: each can be megabytes.
pub const MAX_WAITING: usize = 64;
/// Largest file: a result as base64, and what stands around it.
const MAX_FILE: u64 = (MAX_SEALED_RESULT as u64).div_ceil(3) * 4 + 1024;

/// Why a result cannot be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what we wrote.
    #[error("{path} is damaged, and the result of the script with it: remove the file", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// Larger than any result.
    #[error("a result of {0} bytes is too large: at most {MAX_SEALED_RESULT} are kept")]
    TooLarge(usize),
}

/// A result as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredResult {
    v: u32,
    /// The order.
    pub op: Sha256,
    /// From start to end, milliseconds: the receipt names it, and it stands sealed in the result.
    pub duration_ms: u64,
    /// A [`protocol::job::JobResult`] under seal.
    pub sealed: Bytes,
}

impl StoredResult {
    /// Refuses what is larger than any result.
    pub fn new(op: Sha256, sealed: Bytes, duration_ms: u64) -> Result<Self, ResultError> {
        if sealed.0.len() > MAX_SEALED_RESULT {
            return Err(ResultError::TooLarge(sealed.0.len()));
        }
        Ok(Self { v: 1, op, duration_ms, sealed })
    }
}

/// The directory of results.
#[derive(Debug)]
pub struct Results {
    directory: PathBuf,
}

impl Results {
    /// Makes the directory if it is not there.
    pub fn open(state_dir: &Path) -> Result<Self, FileError> {
        let directory = state_dir.join(RESULTS);
        files::prepare_state_dir(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self, op: &Sha256) -> PathBuf {
        self.directory.join(format!("{op}.json"))
    }

    /// Keeps a result, durably.
    pub fn store(&self, result: &StoredResult) -> Result<(), ResultError> {
        let path = self.path(&result.op);
        let bytes = serde_json::to_vec(result).map_err(|_| ResultError::Damaged { path: path.clone() })?;
        Ok(files::write_atomic(&path, &bytes)?)
    }

    /// One result, if it is there.
    pub fn read(&self, op: &Sha256) -> Result<Option<StoredResult>, ResultError> {
        let path = self.path(op);
        let bytes = match files::read_limited(&path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(FileError::TooLarge { .. }) => return Err(ResultError::Damaged { path }),
            Err(error) => return Err(error.into()),
        };
        let parsed: Option<StoredResult> = serde_json::from_slice(&bytes).ok();
        let ours = |r: &StoredResult| r.v == 1 && r.op == *op && r.sealed.0.len() <= MAX_SEALED_RESULT;
        parsed.filter(ours).map(Some).ok_or(ResultError::Damaged { path })
    }

    /// Whose results wait, oldest first.
    pub fn list(&self) -> Result<Vec<Sha256>, ResultError> {
        let fail = |source| FileError::io("read", &self.directory, source);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            // Unfinished writes begin with a dot and were never acknowledged.
            let op = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<Sha256>().ok());
            let Some(op) = op else { continue };
            match entry.metadata().and_then(|meta| meta.modified()) {
                Ok(written) => found.push((written, op)),
                // Stored at the hub in this moment.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error).into()),
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, op)| op).collect())
    }

    /// Forgets a result; one that is not there is no error.
    pub fn remove(&self, op: &Sha256) -> Result<(), ResultError> {
        let path = self.path(op);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::io("remove", &path, error).into()),
            Ok(()) => Ok(files::sync_directory(&self.directory)?),
        }
    }

    /// Answers [`protocol::local::WardenRequest::Results`].
    pub fn answer_list(&self) -> WardenAnswer {
        match self.list() {
            Ok(ops) => WardenAnswer::Results { ops },
            Err(error) => refused("results", chain(&error)),
        }
    }

    /// Answers [`protocol::local::WardenRequest::Result`].
    pub fn answer_one(&self, op: Sha256) -> WardenAnswer {
        match self.read(&op) {
            Ok(Some(result)) => WardenAnswer::Result { op, sealed: result.sealed },
            Ok(None) => refused(
                "no_result",
                format!("no result of order {op} waits here: its script has not ended, or the hub has it"),
            ),
            Err(error) => refused("results", chain(&error)),
        }
    }

    /// Answers [`protocol::local::WardenRequest::ResultStored`].
    pub fn answer_stored(&self, op: &Sha256) -> WardenAnswer {
        match self.remove(op) {
            Ok(()) => WardenAnswer::Forgotten {},
            Err(error) => refused("results", chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn result(n: u8) -> StoredResult {
        StoredResult::new(Sha256::of(&[n]), vec![n; 9].into(), 7).unwrap()
    }

    #[test]
    fn results_stay_until_they_are_removed_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::open(dir.path()).unwrap();
        for n in 0..4 {
            results.store(&result(n)).unwrap();
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(100 - u64::from(n));
            let file = std::fs::File::options().write(true).open(results.path(&result(n).op)).unwrap();
            file.set_modified(written).unwrap();
        }
        let results = Results::open(dir.path()).unwrap();
        assert_eq!(results.list().unwrap(), [3, 2, 1, 0].map(|n| result(n).op));
        assert_eq!(results.read(&result(2).op).unwrap(), Some(result(2)));
        results.remove(&result(2).op).unwrap();
        results.remove(&result(2).op).unwrap();
        assert_eq!(results.read(&result(2).op).unwrap(), None);
        assert_eq!(results.list().unwrap().len(), 3);
    }

    #[test]
    fn what_we_did_not_write_is_not_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::open(dir.path()).unwrap();
        let (good, op) = (serde_json::to_string(&result(1)).unwrap(), result(1).op);
        for bad in [
            String::new(),
            "{}".into(),
            good[..good.len() - 1].to_owned(),
            good.replace("\"v\":1", "\"v\":2"),
            good.replace("\"v\":1", "\"v\":1,\"x\":1"),
            serde_json::to_string(&result(2)).unwrap(),
            " ".repeat(MAX_FILE as usize + 1),
        ] {
            std::fs::write(results.path(&op), &bad).unwrap();
            assert!(matches!(results.read(&op), Err(ResultError::Damaged { .. })), "{:.80}", bad);
        }
        for name in ["notes.json", ".x.json.new", "zz"] {
            std::fs::write(results.directory.join(name), &good).unwrap();
        }
        assert_eq!(results.list().unwrap(), [op]);
    }

    #[test]
    fn the_largest_result_fits_and_one_byte_more_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::open(dir.path()).unwrap();
        let op = Sha256::of(b"x");
        let largest = StoredResult::new(op, vec![7; MAX_SEALED_RESULT].into(), u64::MAX).unwrap();
        results.store(&largest).unwrap();
        assert_eq!(results.read(&op).unwrap(), Some(largest.clone()));
        let answer = results.answer_one(op);
        assert!(protocol::local::encode(&answer).is_ok(), "and it fits into one frame");
        let more = StoredResult::new(op, vec![7; MAX_SEALED_RESULT + 1].into(), 1);
        assert!(matches!(more, Err(ResultError::TooLarge(_))));
    }
}
