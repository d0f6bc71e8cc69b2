//! The newest checkpoint of each host's log that this machine believed: `logs/HOST.GENERATION.json`.
//!
//! A file is replaced only by whoever compared with exactly what is in it, under a lock: of two commands
//! that run at once the second one compares again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use authz::Origin;
use authz::files::FileError;
use protocol::HostId;

use super::{Home, StateError, read_json, write_json};
use crate::history::Kept;

const LOGS: &str = "logs";

impl Home {
    fn checkpoint_path(&self, origin: &Origin) -> PathBuf {
        self.path(LOGS).join(format!("{}.{}.json", origin.host, origin.generation))
    }

    /// What is kept of a log; none when this machine never saw it, or lost its memory of it.
    pub fn kept_checkpoint(&self, origin: &Origin) -> Result<Option<Kept>, StateError> {
        match read_json(&self.checkpoint_path(origin)) {
            Err(StateError::File(error)) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// The highest key generation under which a host's log was seen.
    pub fn kept_generation(&self, host: &HostId) -> Result<Option<u32>, StateError> {
        let host = host.to_string();
        let generations = self.list(LOGS)?.into_iter().filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            name.strip_prefix(&host)?.strip_prefix('.')?.parse().ok()
        });
        Ok(generations.max())
    }

    /// Keeps `new` if `before` is still what is kept. False when it is not: compare again.
    pub fn keep_checkpoint(
        &self,
        origin: &Origin,
        before: Option<&Kept>,
        new: &Kept,
    ) -> Result<bool, StateError> {
        let _lock = self.lock_checkpoints()?;
        if self.kept_checkpoint(origin)?.as_ref() != before {
            return Ok(false);
        }
        write_json(&self.checkpoint_path(origin), new)?;
        Ok(true)
    }

    /// Starts anew with a host: what was kept is put aside, not deleted. False when nothing was kept.
    pub fn forget_checkpoints(&self, host: &HostId, now: u64) -> Result<bool, StateError> {
        let _lock = self.lock_checkpoints()?;
        let host = host.to_string();
        let mut any = false;
        for path in self.list(LOGS)? {
            let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&host));
            if ours {
                std::fs::rename(&path, path.with_extension(format!("forgotten-{now}")))
                    .map_err(|source| FileError::io("put aside", &path, source))?;
                any = true;
            }
        }
        authz::files::sync_directory(&self.path(LOGS))?;
        Ok(any)
    }

    /// Until it is dropped no other command replaces a checkpoint.
    fn lock_checkpoints(&self) -> Result<File, StateError> {
        let path = self.path(LOGS).join("lock");
        let fail = |source| FileError::io("lock", &path, source);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        file.lock().map_err(fail)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host_key;
    use authz::Checkpoint;
    use protocol::Sha256;

    #[test]
    fn only_who_compared_with_what_is_kept_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().join("writ"))).unwrap();
        let origin = Origin { host: HostId::from_bytes([1; 16]), generation: 2 };
        let at = |size| Kept {
            v: 1,
            note: Checkpoint { size, root: Sha256::of(b"r") }.sign(&origin, &host_key(1)),
            anchor: None,
            seen_at: size,
        };
        assert_eq!(home.kept_checkpoint(&origin).unwrap(), None);
        assert_eq!(home.kept_generation(&origin.host).unwrap(), None);
        assert!(home.keep_checkpoint(&origin, None, &at(3)).unwrap());
        assert!(!home.keep_checkpoint(&origin, None, &at(9)).unwrap(), "another command was quicker");
        assert_eq!(home.kept_checkpoint(&origin).unwrap(), Some(at(3)));
        assert!(home.keep_checkpoint(&origin, Some(&at(3)), &at(5)).unwrap());
        let next = Origin { generation: 10, ..origin };
        assert!(home.keep_checkpoint(&next, None, &at(1)).unwrap());
        assert_eq!(home.kept_generation(&origin.host).unwrap(), Some(10));
        assert_eq!(home.kept_generation(&HostId::from_bytes([2; 16])).unwrap(), None);
        assert!(home.forget_checkpoints(&origin.host, 7).unwrap());
        assert!(!home.forget_checkpoints(&origin.host, 7).unwrap());
        assert_eq!(home.kept_checkpoint(&origin).unwrap(), None);
        assert_eq!(home.kept_generation(&origin.host).unwrap(), None);
        // A damaged memory is an error, not an empty one.
        std::fs::write(home.checkpoint_path(&origin), b"{}").unwrap();
        assert!(matches!(home.kept_checkpoint(&origin), Err(StateError::Damaged { .. })));
    }
}
