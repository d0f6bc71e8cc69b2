//! What a store asks of the file system, as a trait: [`Disk`] is the real one; tests put a model in its
//! place that loses unsynced writes, fails any call, or dies between two of them (`security.md` 4.4, 4.5).
//!
//! A call that is interrupted or does half of its work says so: the store decides what that means.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Which file, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A file system.
pub trait Layer: Debug + Send {
    /// Opens a lock file, made if absent, and locks it until the handle goes.
    ///
    /// # Errors
    /// `WouldBlock` when somebody else holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Handle>, TryLockError>;

    /// Opens for reading and writing: what is there (`NotFound` if nothing is), what is there or a new
    /// file, or only a new file (`AlreadyExists`). New files have mode 0600.
    ///
    /// # Errors
    /// Those of `open(2)`.
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn Handle>>;

    /// All bytes of a file.
    ///
    /// # Errors
    /// Those of `open(2)` and `read(2)`.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Which file a path leads to.
    ///
    /// # Errors
    /// Those of `stat(2)`.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// The names in a directory, in no order.
    ///
    /// # Errors
    /// Those of `readdir(3)`.
    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Renames within a directory; what had the new name is gone.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// Those of `unlink(2)`.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes names durable: created, renamed and removed ones.
    ///
    /// # Errors
    /// Those of `fsync(2)`; afterwards nobody knows which names are durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// How to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It must be there.
    Existing,
    /// Made if absent.
    Either,
    /// It must not be there.
    New,
}

/// An open file.
pub trait Handle: Debug + Send {
    /// All bytes, from the start.
    ///
    /// # Errors
    /// Those of `read(2)`.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// Writes at an offset; gives how many bytes were written, which may be fewer.
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes content and length durable.
    ///
    /// # Errors
    /// Those of `fdatasync(2)`; afterwards nobody knows what is durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Sets the length.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    fn set_len(&mut self, length: u64) -> io::Result<()>;

    /// Makes sure of space for these bytes without changing the length, where the file system can.
    ///
    /// # Errors
    /// Those of `fallocate(2)`; `Unsupported` where it cannot.
    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// Which file this is.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    fn stat(&self) -> io::Result<Stat>;
}

/// Writes all of it, also where a call writes a part or is interrupted.
///
/// # Errors
/// The first error; a part may have been written.
pub fn write_all(file: &mut dyn Handle, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Layer for Disk {
    fn lock(&self, path: &Path) -> Result<Box<dyn Handle>, TryLockError> {
        let file = options(How::Either).open(path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn Handle>> {
        Ok(Box::new(options(how).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        std::fs::metadata(path).map(|meta| stat(&meta))
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

fn options(how: How) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).create(how == How::Either).create_new(how == How::New);
    options
}

fn stat(meta: &std::fs::Metadata) -> Stat {
    Stat { device: meta.dev(), inode: meta.ino(), length: meta.len() }
}

impl Handle for File {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.seek(SeekFrom::Start(0))?;
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        // The length stays: it is what tells a record that was never written from one whose block was lost.
        Ok(fallocate(&*self, FallocateFlags::KEEP_SIZE, offset, length)?)
    }

    fn stat(&self) -> io::Result<Stat> {
        self.metadata().map(|meta| stat(&meta))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_does_what_the_trait_says() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        assert_eq!(Disk.open(&one, How::Existing).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut file = Disk.open(&one, How::New).unwrap();
        assert_eq!(Disk.open(&one, How::New).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.reserve(0, 4096).unwrap();
        assert_eq!(file.stat().unwrap().length, 0, "space, not length");
        write_all(&mut *file, b"abcdef", 2).unwrap();
        file.set_len(5).unwrap();
        file.sync().unwrap();
        assert_eq!(file.read().unwrap(), b"\0\0abc");
        assert_eq!(file.stat().unwrap(), Disk.stat(&one).unwrap());
        Disk.rename(&one, &two).unwrap();
        Disk.sync_directory(dir.path()).unwrap();
        assert_eq!(Disk.names(dir.path()).unwrap(), ["two"]);
        assert_eq!(Disk.read(&two).unwrap(), b"\0\0abc");
        Disk.remove(&two).unwrap();
        drop(Disk.open(&two, How::Either).unwrap());
        let held = Disk.lock(&one).unwrap();
        assert!(matches!(Disk.lock(&one), Err(TryLockError::WouldBlock)));
        drop(held);
        drop(Disk.lock(&one).unwrap());
    }
}
