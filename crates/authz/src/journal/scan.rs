//! A directory's segments, read and verified as one chain. Changes nothing.

use std::path::{Path, PathBuf};

use super::JournalError;
use super::compact::Compacted;
use super::record::{Bad, Chain, RECORD};
use crate::files::FileError;
use crate::files::layer::Layer;

/// What every file of ours begins with.
const PREFIX: &str = "nonces";
pub(super) const LOCK: &str = "nonces.lock";
pub(super) const TOMBSTONE: &str = "nonces.tomb";
/// The unfinished tombstone; it never counts.
pub(super) const NEW_TOMBSTONE: &str = ".nonces.tomb.new";

/// A segment's file name; numbers begin with 1.
pub(super) fn segment_name(number: u64) -> String {
    format!("{PREFIX}-{number:06}.seg")
}

/// Names of a directory that are ours.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Ascending.
    pub(super) segments: Vec<u64>,
    pub(super) tombstone: bool,
}

impl Names {
    pub(super) fn read(layer: &dyn Layer, directory: &Path) -> Result<Self, JournalError> {
        let mut names = Self::default();
        let listed = match layer.names(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
            other => other.map_err(|source| FileError::io("list", directory, source))?,
        };
        for name in listed {
            let Some(text) = name.to_str().filter(|text| text.starts_with(PREFIX)) else { continue };
            let number = text
                .strip_prefix("nonces-")
                .and_then(|rest| rest.strip_suffix(".seg"))
                .and_then(|digits| digits.parse::<u64>().ok());
            match (text, number) {
                (LOCK, _) => {}
                (TOMBSTONE, _) => names.tombstone = true,
                // Only the one spelling of a number, so that no two names are the same segment.
                (_, Some(number)) if number > 0 && segment_name(number) == text => {
                    names.segments.push(number);
                }
                _ => return Err(JournalError::Foreign { path: directory.join(name) }),
            }
        }
        names.segments.sort_unstable();
        Ok(names)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && !self.tombstone
    }
}

/// A segment in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// The record number of its header.
    pub(super) first: u64,
    /// The link to the record before that.
    pub(super) link: [u8; 16],
}

/// What a whole directory says.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) chain: Chain,
    pub(super) compacted: Compacted,
    /// In order; never empty, and the last one is the one to write to.
    pub(super) segments: Vec<Segment>,
    /// The last good record, where it ends in the last segment, and how long that file is.
    pub(super) last: [u8; RECORD],
    pub(super) end: u64,
    pub(super) length: u64,
    /// The next segment was begun, and its header never became whole.
    pub(super) begun: bool,
    /// Segments that were deleted and came back with a crash; nothing of them counts.
    pub(super) leftover: Vec<u64>,
}

/// How far one segment's file is good.
enum Extent {
    /// Bytes of whole records; fewer than the file has where its end is torn.
    Good(u64),
    /// There is not even a header.
    NoHeader,
}

impl Found {
    pub(super) fn read(layer: &dyn Layer, directory: &Path) -> Result<Self, JournalError> {
        let names = Names::read(layer, directory)?;
        let compacted =
            if names.tombstone { Compacted::read(layer, directory)? } else { Compacted::default() };
        let (leftover, numbers): (Vec<u64>, Vec<u64>) =
            names.segments.iter().copied().partition(|number| *number <= compacted.segments);
        let chain = Chain { records: compacted.records, prev: compacted.link, ..Chain::default() };
        let mut found = Self {
            chain,
            compacted,
            segments: Vec::new(),
            last: [0; RECORD],
            end: 0,
            length: 0,
            begun: false,
            leftover,
        };
        let path = |number| directory.join(segment_name(number));
        let Some(highest) = numbers.last().copied() else {
            return Err(JournalError::Missing { path: path(compacted.segments + 1) });
        };
        for (expected, number) in (compacted.segments + 1..).zip(numbers) {
            if number != expected {
                return Err(JournalError::Missing { path: path(expected) });
            }
            found.segment(layer, path(number), number, number == highest)?;
        }
        Ok(found)
    }

    fn segment(
        &mut self,
        layer: &dyn Layer,
        path: PathBuf,
        number: u64,
        last: bool,
    ) -> Result<(), JournalError> {
        let bytes = match layer.read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(JournalError::Missing { path });
            }
            other => other.map_err(|source| FileError::io("read", &path, source))?,
        };
        let (first, link) = (self.chain.records, self.chain.prev);
        match extent(&bytes, last, &mut self.chain) {
            Ok(Extent::Good(end)) => {
                let good = usize::try_from(end).ok().and_then(|end| bytes.get(..end));
                self.last = good.and_then(<[u8]>::last_chunk::<RECORD>).copied().unwrap_or([0; RECORD]);
                self.segments.push(Segment { number, first, link });
                (self.end, self.length) = (end, bytes.len() as u64);
                Ok(())
            }
            // Nothing was acknowledged in it yet. Of the very first segment the creation was not, and that
            // is for `NonceJournal::begin` to judge.
            Ok(Extent::NoHeader) if !self.segments.is_empty() => {
                self.begun = true;
                Ok(())
            }
            Ok(Extent::NoHeader) => {
                Err(JournalError::Corrupt { path, record: first, why: "there is no header" })
            }
            Err(Bad { why, .. }) => Err(JournalError::Corrupt { path, record: self.chain.records, why }),
        }
    }
}

/// Pure: the good prefix of a segment's bytes. Only the last segment may end in an unfinished write, and
/// that is at most one record.
fn extent(bytes: &[u8], last: bool, chain: &mut Chain) -> Result<Extent, Bad> {
    let (whole, partial) = bytes.as_chunks::<RECORD>();
    for (index, record) in whole.iter().enumerate() {
        let Err(bad) = chain.take(record, index == 0) else { continue };
        let at_the_end = last && index + 1 == whole.len() && partial.is_empty();
        return match index {
            _ if !at_the_end || !bad.may_be_torn => Err(bad),
            0 => Ok(Extent::NoHeader),
            _ => Ok(Extent::Good((index * RECORD) as u64)),
        };
    }
    match (whole.len(), partial.is_empty()) {
        (0, _) if last => Ok(Extent::NoHeader),
        (0, _) => Err("there is no header".into()),
        (_, false) if !last => Err("its end is cut off, and another segment follows".into()),
        (count, _) => Ok(Extent::Good((count * RECORD) as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::layer::Disk;

    #[test]
    fn only_our_own_names_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "nonces-000002.seg",
            "nonces-000001.seg",
            "nonces-1000000.seg",
            LOCK,
            "log.jsonl",
            ".nonces.tomb.new",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(Names::read(&Disk, dir.path()).unwrap().segments, [1, 2, 1_000_000]);
        for name in [
            "nonces-1.seg",
            "nonces-000000.seg",
            "nonces-+00001.seg",
            "nonces-0000001.seg",
            "nonces-000001.seg.bak",
            "nonces",
            "nonces-x.seg",
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            let error = Names::read(&Disk, dir.path()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            std::fs::remove_file(path).unwrap();
        }
        assert!(Names::read(&Disk, &dir.path().join("nowhere")).unwrap().is_empty());
    }
}
