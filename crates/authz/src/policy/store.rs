//! A policy chain on disk: one numbered file for each accepted policy and revocation, one file for the last
//! word of freshness, and `head.json`, which says how many there are and which is the last.
//!
//! A document is written before it takes effect. Reading judges every document again, at the time at which it
//! was accepted; whatever is missing, damaged, swapped or added is an error, never an older policy. Each file
//! names the hash of the one before it, and `head.json` is written last: a crash in between leaves one
//! document more than it says, which was signed and judged, and counts.

use std::path::{Path, PathBuf};

use protocol::{Envelope, Sha256};
use serde::{Deserialize, Serialize};

use super::Policy;
use super::chain::{Accepted, Chain};
use crate::files::{self, FileError, Prepared};
use crate::refusal::{Refusal, RefusalCode};

/// The directory below a state directory.
pub const DIRECTORY: &str = "policy";
const HEAD: &str = "head.json";
const FRESH: &str = "fresh.json";
/// Most documents of one chain: at a change a week, 78 years.
pub const MAX_DOCUMENTS: usize = 4_096;
/// Longest file: an envelope of the largest size (V1) as base64, with room.
const MAX_FILE: u64 = 384 * 1024;

/// Why a chain on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainStoreError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something is not as it was written.
    #[error("the policy chain is damaged at {path} ({why}): restore it from a backup, or start over with an empty state directory", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a document was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// By a rule; nothing was changed.
    #[error("{}", .0.why)]
    Refused(Refusal),
    /// There is no room to write it; nothing was changed, and it can come again.
    #[error("{0}; nothing was changed")]
    NoRoom(FileError),
    /// It could not be written; it is not in force here. After an error of the disk it may count at the next start.
    #[error(transparent)]
    Store(#[from] ChainStoreError),
}

/// One accepted document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As it was signed.
    pub envelope: Envelope,
    /// What it came to.
    pub accepted: Accepted,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentFile {
    v: u32,
    /// SHA-256 of the file before; of the first policy for the first.
    prev: Sha256,
    accepted_at: u64,
    envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadFile {
    v: u32,
    documents: usize,
    /// SHA-256 of the last document's file; of the first policy while there is none.
    last: Sha256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FreshFile {
    v: u32,
    /// Documents before it.
    after: usize,
    accepted_at: u64,
    envelope: Envelope,
}

/// A chain that survives.
#[derive(Debug)]
pub struct ChainStore {
    directory: PathBuf,
    chain: Chain,
    documents: Vec<Document>,
    fresh: Option<Envelope>,
    /// Of the last file.
    last: Sha256,
}

impl ChainStore {
    /// Begins a chain with a policy that is trusted by its hash; what stood there before is forgotten.
    pub fn create(state: &Path, first: Policy) -> Result<Self, ChainStoreError> {
        let directory = state.join(DIRECTORY);
        remove_all(&directory)?;
        files::prepare_state_dir(&directory)?;
        let last = *first.hash();
        let store = Self { directory, chain: Chain::new(first), documents: Vec::new(), fresh: None, last };
        store.write_head(0, last)?;
        Ok(store)
    }

    /// Whether there is anything of a chain.
    pub fn exists(state: &Path) -> bool {
        state.join(DIRECTORY).join(HEAD).exists()
    }

    /// Forgets the chain, for one that begins with another policy.
    pub fn forget(state: &Path) -> Result<(), ChainStoreError> {
        remove_all(&state.join(DIRECTORY))
    }

    /// Reads and judges all of it. Completes a write that a crash interrupted.
    pub fn open(state: &Path, first: Policy) -> Result<Self, ChainStoreError> {
        let (store, said) = Self::read(state, first)?;
        if said != store.documents.len() {
            store.write_head(store.documents.len(), store.last)?;
        }
        Ok(store)
    }

    /// The same, and changes nothing.
    pub fn inspect(state: &Path, first: Policy) -> Result<Self, ChainStoreError> {
        Ok(Self::read(state, first)?.0)
    }

    /// The store, and how many documents its head says.
    fn read(state: &Path, first: Policy) -> Result<(Self, usize), ChainStoreError> {
        let directory = state.join(DIRECTORY);
        let head_path = directory.join(HEAD);
        let head: HeadFile = read_file(&head_path)?.0;
        let fresh: Option<FreshFile> = match read_file(&directory.join(FRESH)) {
            Ok((fresh, _)) => Some(fresh),
            Err(ChainStoreError::Damaged { why, .. }) if why == MISSING => None,
            Err(error) => return Err(error),
        };
        let count = count(&directory)?;
        let mut last = *first.hash();
        let damaged = |path: PathBuf, why: &str| ChainStoreError::Damaged { path, why: why.to_owned() };
        if head.v != 1 || count < head.documents || count > head.documents + 1 {
            let why = format!("it says that there are {} documents, and there are {count}", head.documents);
            return Err(ChainStoreError::Damaged { path: head_path, why });
        }
        let mut chain = Chain::new(first);
        let mut documents = Vec::new();
        for number in 0..=count {
            if number == head.documents && head.last != last {
                return Err(damaged(head_path, "it names another last document"));
            }
            if let Some(FreshFile { v, accepted_at, envelope, .. }) =
                fresh.as_ref().filter(|fresh| fresh.after == number)
            {
                let path = directory.join(FRESH);
                let taken = chain.accept(envelope, *accepted_at);
                if *v != 1 || !matches!(taken, Ok(Accepted::Fresh(_) | Accepted::Known)) {
                    return Err(damaged(path, "it is no word of freshness by this chain"));
                }
            }
            if number == count {
                break;
            }
            let path = path_of(&directory, number + 1);
            let (file, hash): (DocumentFile, Sha256) = read_file(&path)?;
            if file.v != 1 || file.prev != last {
                return Err(damaged(path, "it does not follow the file before it"));
            }
            match chain.accept(&file.envelope, file.accepted_at) {
                Ok(accepted @ (Accepted::Advanced { .. } | Accepted::Revoked { .. })) => {
                    documents.push(Document { envelope: file.envelope, accepted });
                }
                Ok(Accepted::Known | Accepted::Fresh(_)) => return Err(damaged(path, "it adds nothing")),
                Err(refusal) => {
                    let why = format!("{}: {}", refusal.code, refusal.why);
                    return Err(ChainStoreError::Damaged { path, why });
                }
            }
            last = hash;
        }
        if fresh.as_ref().is_some_and(|fresh| fresh.after > count) {
            return Err(damaged(directory.join(FRESH), "it follows documents that are not there"));
        }
        let fresh = fresh.map(|fresh| fresh.envelope);
        Ok((Self { directory, chain, documents, fresh, last }, head.documents))
    }

    /// Judges a document and takes it in: durable when this returns. `now` is the clock, unix seconds.
    pub fn take(&mut self, envelope: &Envelope, now: u64) -> Result<Accepted, TakeError> {
        // What travels with an envelope and is not signed is no part of the document.
        let envelope = Envelope::new(envelope.payload.clone(), envelope.sigs.clone());
        let mut next = self.chain.clone();
        let accepted = next.accept(&envelope, now).map_err(TakeError::Refused)?;
        match &accepted {
            Accepted::Known => return Ok(accepted),
            Accepted::Fresh(_) => {
                let after = self.documents.len();
                let file = FreshFile { v: 1, after, accepted_at: now, envelope: envelope.clone() };
                let (fresh, _) = prepare(&self.directory.join(FRESH), &file)?;
                fresh.commit().map_err(ChainStoreError::from)?;
                self.fresh = Some(envelope);
            }
            Accepted::Advanced { .. } | Accepted::Revoked { .. } => {
                let number = self.documents.len() + 1;
                if number > MAX_DOCUMENTS {
                    let why = format!("the policy chain has {MAX_DOCUMENTS} documents: begin a new one");
                    return Err(TakeError::Refused(Refusal::new(RefusalCode::Size, why)));
                }
                let file =
                    DocumentFile { v: 1, prev: self.last, accepted_at: now, envelope: envelope.clone() };
                // Both need their space before either counts.
                let (document, hash) = prepare(&path_of(&self.directory, number), &file)?;
                let head = HeadFile { v: 1, documents: number, last: hash };
                let (head, _) = prepare(&self.directory.join(HEAD), &head)?;
                document.commit().and_then(|()| head.commit()).map_err(ChainStoreError::from)?;
                self.last = hash;
                self.documents.push(Document { envelope, accepted: accepted.clone() });
            }
        }
        self.chain = next;
        Ok(accepted)
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The policy in force.
    pub fn current(&self) -> &Policy {
        self.chain.current()
    }

    /// Accepted policies and revocations, oldest first.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// The last word of freshness, if there was any.
    pub fn fresh(&self) -> Option<&Envelope> {
        self.fresh.as_ref()
    }

    fn write_head(&self, documents: usize, last: Sha256) -> Result<(), ChainStoreError> {
        write_file(&self.directory.join(HEAD), &HeadFile { v: 1, documents, last }).map(drop)
    }
}

const MISSING: &str = "it is missing";

fn path_of(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number:08}.json"))
}

/// How many documents there are, by the highest number: a gap shows when they are read.
fn count(directory: &Path) -> Result<usize, ChainStoreError> {
    let fail = |source| FileError::io("list", directory, source);
    let mut highest = 0;
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".json"));
        // Unfinished writes begin with a dot.
        let number = number.filter(|digits| digits.len() == 8).and_then(|digits| digits.parse().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    if highest > MAX_DOCUMENTS {
        let why = format!("there are more than {MAX_DOCUMENTS} documents");
        return Err(ChainStoreError::Damaged { path: directory.to_owned(), why });
    }
    Ok(highest)
}

fn read_file<T: serde::de::DeserializeOwned>(path: &Path) -> Result<(T, Sha256), ChainStoreError> {
    let damaged = |why: &str| ChainStoreError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let bytes = match files::read_limited(path, MAX_FILE) {
        Err(error) if error.is_not_found() => return Err(damaged(MISSING)),
        other => other?,
    };
    let parsed = serde_json::from_slice(&bytes).map_err(|_| damaged("it cannot be read"))?;
    Ok((parsed, Sha256::of(&bytes)))
}

fn write_file<T: Serialize>(path: &Path, value: &T) -> Result<Sha256, ChainStoreError> {
    let bytes = encode(path, value)?;
    files::write_atomic(path, &bytes)?;
    Ok(Sha256::of(&bytes))
}

/// All of a write that a full disk could refuse, and the hash of what was written.
fn prepare<T: Serialize>(path: &Path, value: &T) -> Result<(Prepared, Sha256), TakeError> {
    let bytes = encode(path, value)?;
    match Prepared::write(path, &bytes) {
        Ok(prepared) => Ok((prepared, Sha256::of(&bytes))),
        Err(error) if error.is_no_room() => Err(TakeError::NoRoom(error)),
        Err(error) => Err(TakeError::Store(error.into())),
    }
}

fn encode<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, ChainStoreError> {
    serde_json::to_vec(value)
        .map_err(|error| ChainStoreError::Damaged { path: path.to_owned(), why: error.to_string() })
}

/// The head goes first: a crash leaves a chain that is missing and not one that is shorter.
fn remove_all(directory: &Path) -> Result<(), ChainStoreError> {
    match std::fs::remove_file(directory.join(HEAD)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(FileError::io("remove", &directory.join(HEAD), error).into());
        }
        _ => {}
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::io("remove", directory, error).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
