//! The signed floor on disk: one small file beside the journal, written when the floor has moved enough. What
//! a crash takes of it costs nothing: the floor is then as it was minutes before.

use std::path::{Path, PathBuf};

use super::Floor;
use crate::files::{self, FileError};

const FILE: &str = "clock.json";
/// The floor on disk may be so much behind the one in memory, seconds: it need not be written for each order.
pub const WRITE_EVERY_S: u64 = 600;

/// Why the floor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what we wrote.
    #[error("{path} is damaged: remove it; the clock's floor then begins at the policy's date", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// The floor, kept. Times are CLOCK_BOOTTIME and unix seconds, all given by the caller.
#[derive(Debug)]
pub struct FloorStore {
    floor: Floor,
    written: u64,
    path: PathBuf,
    boot_id: String,
}

impl FloorStore {
    /// Begins at a signed time, whatever file is there.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn create(directory: &Path, signed: u64, boottime: u64, boot_id: &str) -> Result<Self, FloorError> {
        let mut store = Self::begin(directory, signed, boottime, boot_id);
        store.write()?;
        Ok(store)
    }

    /// Reads it; a file that is missing begins at `signed`, a newest signed time. The floor is not below
    /// `least`, however far behind the file is: for the latest expiry of what a journal forgot.
    ///
    /// # Errors
    /// The file is damaged, or could not be read or written.
    pub fn open(
        directory: &Path,
        signed: u64,
        least: u64,
        boottime: u64,
        boot_id: &str,
    ) -> Result<Self, FloorError> {
        let mut store = Self::begin(directory, signed, boottime, boot_id);
        let path = &store.path;
        match files::read_limited(path, 4_096) {
            Ok(bytes) => {
                let floor: Floor =
                    serde_json::from_slice(&bytes).map_err(|_| FloorError::Damaged { path: path.clone() })?;
                store.written = floor.at();
                store.floor = floor.at_least(least);
            }
            Err(error) if error.is_not_found() => {
                store.floor = store.floor.at_least(least);
                store.write()?;
            }
            Err(error) => return Err(error.into()),
        }
        store.advance(signed, boottime)?;
        Ok(store)
    }

    fn begin(directory: &Path, signed: u64, boottime: u64, boot_id: &str) -> Self {
        let floor = Floor::new(signed, boottime, boot_id);
        Self { floor, written: 0, path: directory.join(FILE), boot_id: boot_id.to_owned() }
    }

    /// The floor.
    pub fn floor(&self) -> &Floor {
        &self.floor
    }

    /// Takes in a time that somebody trusted signed.
    ///
    /// # Errors
    /// The file could not be written; the floor has moved all the same.
    pub fn advance(&mut self, signed: u64, boottime: u64) -> Result<(), FloorError> {
        if self.floor.advance(signed, boottime, &self.boot_id)
            && self.floor.at() >= self.written.saturating_add(WRITE_EVERY_S)
        {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), FloorError> {
        let bytes =
            serde_json::to_vec(&self.floor).map_err(|_| FloorError::Damaged { path: self.path.clone() })?;
        files::write_atomic(&self.path, &bytes)?;
        self.written = self.floor.at();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::STEP_S;

    const F: u64 = 1_763_770_000;

    fn open(directory: &Path, signed: u64, least: u64) -> u64 {
        FloorStore::open(directory, signed, least, 50, "boot").unwrap().floor().at()
    }

    #[test]
    fn it_survives_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let mut store = FloorStore::create(here, F, 50, "boot").unwrap();
        // Less than ten minutes need not be written,
        store.advance(F + WRITE_EVERY_S - 1, 50).unwrap();
        assert_eq!((store.floor().at(), open(here, 0, 0)), (F + WRITE_EVERY_S - 1, F));
        // more is, and is read again.
        store.advance(F + WRITE_EVERY_S, 50).unwrap();
        assert_eq!(open(here, 0, 0), F + WRITE_EVERY_S);
        assert_eq!(open(here, F, 0), F + WRITE_EVERY_S, "an older signed time moves nothing");
        assert_eq!(open(here, F + 2 * WRITE_EVERY_S, 0), F + 2 * WRITE_EVERY_S);
        assert_eq!(open(here, u64::MAX, 0), F + 2 * WRITE_EVERY_S + STEP_S, "one step at a time");
        assert_eq!(open(here, 0, 0), F + 2 * WRITE_EVERY_S + STEP_S, "and it was written");
        // A first day begins anew.
        FloorStore::create(here, F, 50, "boot").unwrap();
        assert_eq!(open(here, 0, 0), F);
    }

    #[test]
    fn what_the_journal_forgot_stays_below_it_without_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        FloorStore::create(here, F, 50, "boot").unwrap();
        assert_eq!(open(here, F, F + 7), F + 7);
        assert_eq!(open(here, F, F - 7), F);
        std::fs::remove_file(here.join(FILE)).unwrap();
        assert_eq!(open(here, F, F + 7), F + 7);
        assert_eq!(open(here, 0, 0), F + 7, "written");
    }

    #[test]
    fn damage_is_said_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["", "{}", "null", "{\"at\":1,\"since\":1,\"boot_id\":\"x\",\"y\":1}"] {
            std::fs::write(folder.path().join(FILE), bad).unwrap();
            let error = FloorStore::open(folder.path(), F, 0, 50, "boot").unwrap_err();
            assert!(matches!(error, FloorError::Damaged { .. }), "{bad}: {error}");
            assert!(error.to_string().contains("remove it"), "{error}");
            assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), bad.as_bytes());
        }
        std::fs::write(folder.path().join(FILE), vec![b' '; 5_000]).unwrap();
        assert!(FloorStore::open(folder.path(), F, 0, 50, "boot").is_err(), "too large");
    }
}
