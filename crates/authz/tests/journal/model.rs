//! A file system in memory that knows what is seen, what is durable, and what lies between: a write is
//! durable after its file was synced, a name after its directory was. When the power goes, any part of what
//! lies between may have reached the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::TryLockError;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use authz::files::layer::{Handle, How, Layer, Stat};

/// What a disk holds: names and contents.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Open,
    Write,
    Sync,
    SyncDirectory,
    Rename,
    SetLen,
    Reserve,
    Lock,
    /// Not in the table of 4.5, and injected all the same.
    Remove,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// It fails with this error number, and did nothing.
    Errno(i32),
    /// It did a part; a write says so, everything else fails all the same.
    Short,
}

/// One failure, once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// Which call of that kind, from 0.
    pub(crate) nth: usize,
    pub(crate) trouble: Trouble,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Naming {
    Add(String, u64),
    Remove(String),
    Rename(String, String),
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    pending: Vec<Naming>,
    /// What the program was told is burned.
    pub(crate) acknowledged: BTreeSet<u8>,
    /// What it ever tried to burn.
    pub(crate) tried: BTreeSet<u8>,
    /// What a compaction that was begun may forget.
    pub(crate) forgettable: BTreeSet<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    locked: bool,
    /// The state before the first and after every changing call.
    history: Option<Vec<State>>,
    fault: Option<Fault>,
    counts: BTreeMap<Call, usize>,
    hit: bool,
}

/// A handle to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model(Arc<Mutex<Inner>>);

impl Model {
    /// Running on in this state, with nobody holding the lock: what was seen is seen, what was not durable
    /// is not. This is what a killed process leaves.
    pub(crate) fn after_kill(state: &State) -> Self {
        let model = Self::default();
        model.inner().state = state.clone();
        model
    }

    /// A machine that starts with this on its disk.
    pub(crate) fn of_image(image: &Image) -> Self {
        let model = Self::default();
        for (inode, (name, bytes)) in (1..).zip(image) {
            let file = Inode { seen: bytes.clone(), durable: bytes.clone(), pending: Vec::new() };
            model.inner().state.inodes.insert(inode, file);
            model.inner().state.names.insert(name.clone(), inode);
        }
        model
    }

    /// Remembers every state from now on.
    pub(crate) fn record(&self) {
        let first = self.state();
        self.inner().history = Some(vec![first]);
    }

    pub(crate) fn history(&self) -> Vec<State> {
        self.inner().history.clone().unwrap_or_default()
    }

    pub(crate) fn inject(&self, fault: Fault) {
        self.inner().fault = Some(fault);
    }

    /// Whether the fault was met.
    pub(crate) fn hit(&self) -> bool {
        self.inner().hit
    }

    pub(crate) fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// Notes something about the program that runs.
    pub(crate) fn note(&self, f: impl FnOnce(&mut State)) {
        let mut inner = self.inner();
        f(&mut inner.state);
        inner.remember();
    }

    /// What is seen now.
    pub(crate) fn image(&self) -> Image {
        let state = self.state();
        state.seen().iter().map(|(name, inode)| (name.clone(), state.inodes[inode].seen.clone())).collect()
    }

    /// The trace of an unfinished write at the end of the last segment.
    pub(crate) fn tear(&self) {
        let mut inner = self.inner();
        let names = inner.state.seen();
        let (_, inode) = names.range(..="nonces.".to_owned()).next_back().unwrap();
        let file = file(&mut inner.state, *inode);
        let at = file.seen.len();
        file.change(Change::Write { at, bytes: vec![0xa5; 40] });
        inner.remember();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    fn remember(&mut self) {
        let state = self.state.clone();
        if let Some(history) = &mut self.history {
            history.push(state);
        }
    }

    /// The trouble with this call, if any.
    fn trouble(&mut self, call: Call) -> Option<Trouble> {
        let count = self.counts.entry(call).or_default();
        let nth = *count;
        *count += 1;
        let fault = self.fault.filter(|fault| fault.call == call && fault.nth == nth)?;
        self.hit = true;
        Some(fault.trouble)
    }

    /// For calls that do all or nothing.
    fn call(&mut self, call: Call, f: impl FnOnce(&mut State)) -> io::Result<()> {
        let trouble = self.trouble(call);
        if !matches!(trouble, Some(Trouble::Errno(_))) {
            f(&mut self.state);
        }
        self.remember();
        trouble.map_or(Ok(()), |trouble| Err(trouble.error()))
    }
}

impl Trouble {
    fn error(self) -> io::Error {
        match self {
            Self::Errno(number) => io::Error::from_raw_os_error(number),
            Self::Short => io::Error::other("it did a part"),
        }
    }
}

impl State {
    fn seen(&self) -> BTreeMap<String, u64> {
        let mut names = self.names.clone();
        self.pending.iter().for_each(|change| rename(&mut names, change));
        names
    }

    /// Every disk that may be left when the power goes now. `fine`: each byte where a write may be cut.
    pub(crate) fn disks(&self, fine: bool) -> Vec<Image> {
        let contents: BTreeMap<u64, Vec<Vec<u8>>> =
            self.inodes.iter().map(|(inode, file)| (*inode, file.variants(fine))).collect();
        let mut seen = BTreeSet::new();
        let mut disks = Vec::new();
        for subset in 0..1_u32 << self.pending.len() {
            let mut names = self.names.clone();
            let chosen = self.pending.iter().enumerate().filter(|(at, _)| subset >> at & 1 == 1);
            chosen.for_each(|(_, change)| rename(&mut names, change));
            let mut images = vec![Image::new()];
            for (name, inode) in &names {
                let mut more = Vec::new();
                for image in &images {
                    for content in &contents[inode] {
                        let mut image = image.clone();
                        image.insert(name.clone(), content.clone());
                        more.push(image);
                    }
                }
                images = more;
            }
            for image in images {
                let mut hasher = DefaultHasher::new();
                image.hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    disks.push(image);
                }
            }
        }
        disks
    }

    /// The disk that is left when nothing more reaches it.
    pub(crate) fn least(&self) -> Image {
        self.names.iter().map(|(name, inode)| (name.clone(), self.inodes[inode].durable.clone())).collect()
    }
}

fn rename(names: &mut BTreeMap<String, u64>, change: &Naming) {
    match change {
        Naming::Add(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Naming::Remove(name) => {
            names.remove(name);
        }
        Naming::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    /// What the file may hold when the power goes: any subset of the changes, each write cut anywhere.
    fn variants(&self, fine: bool) -> Vec<Vec<u8>> {
        let mut all = BTreeSet::from([self.durable.clone()]);
        for change in &self.pending {
            let more: Vec<_> = all.iter().flat_map(|content| change.partly(content, fine)).collect();
            all.extend(more);
        }
        all.into_iter().collect()
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Write { at, bytes } => {
                if content.len() < at + bytes.len() {
                    content.resize(at + bytes.len(), 0);
                }
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// What a disk may hold when this change reached it in part, or whole. Bytes that were there before are
    /// old or new; places that are new to the file may also hold zeros or garbage; the length may be ahead
    /// of the bytes.
    fn partly(&self, content: &[u8], fine: bool) -> Vec<Vec<u8>> {
        let mut whole = content.to_vec();
        self.apply(&mut whole);
        let Self::Write { at, bytes } = self else { return vec![whole] };
        let mut parts = vec![whole.clone()];
        let step = if fine { 1 } else { 24 };
        let fill = |part: &mut Vec<u8>, from: usize, to: usize, with: Option<u8>| {
            for (place, byte) in part.iter_mut().enumerate().take(to).skip(from) {
                *byte = match (content.get(place), with) {
                    (Some(old), _) => *old,
                    (None, Some(garbage)) => garbage,
                    (None, None) => 0,
                };
            }
        };
        for kept in (0..=bytes.len()).step_by(step) {
            for reached in (kept..=bytes.len()).step_by(step) {
                for with in [None, Some(0xa5)] {
                    let mut part = whole.clone();
                    fill(&mut part, at + kept, at + bytes.len(), with);
                    part.truncate((at + reached).max(content.len()));
                    parts.push(part);
                }
            }
        }
        // And pieces in any order: of six, each is there, zero, or garbage.
        let piece = bytes.len().div_ceil(if fine { 6 } else { 2 }).max(1);
        let pieces = bytes.len().div_ceil(piece);
        for choice in 0..3_usize.pow(u32::try_from(pieces).unwrap()) {
            let mut part = whole.clone();
            for number in 0..pieces {
                let (from, to) = (at + number * piece, at + bytes.len().min((number + 1) * piece));
                match choice / 3_usize.pow(u32::try_from(number).unwrap()) % 3 {
                    0 => {}
                    1 => fill(&mut part, from, to, None),
                    _ => fill(&mut part, from, to, Some(0xa5)),
                }
            }
            parts.push(part);
        }
        parts
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Layer for Model {
    fn lock(&self, _: &Path) -> Result<Box<dyn Handle>, TryLockError> {
        let mut inner = self.inner();
        if let Some(trouble) = inner.trouble(Call::Lock) {
            return Err(TryLockError::Error(trouble.error()));
        }
        if std::mem::replace(&mut inner.locked, true) {
            return Err(TryLockError::WouldBlock);
        }
        Ok(Box::new(OpenFile { model: self.clone(), inode: 0, lock: true }))
    }

    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn Handle>> {
        let mut inner = self.inner();
        let there = inner.state.seen().get(&name(path)).copied();
        let inode = match (there, how) {
            (Some(inode), How::Existing | How::Either) => {
                inner.call(Call::Open, |_| ())?;
                inode
            }
            (None, How::New | How::Either) => {
                let inode = inner.state.inodes.keys().last().copied().unwrap_or(0) + 1;
                inner.call(Call::Open, |state| {
                    state.inodes.insert(inode, Inode::default());
                    state.pending.push(Naming::Add(name(path), inode));
                })?;
                inode
            }
            (Some(_), How::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, How::Existing) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(OpenFile { model: self.clone(), inode, lock: false }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.image().remove(&name(path)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let inode = self.state().seen().get(&name(path)).copied();
        let inode = inode.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        OpenFile { model: self.clone(), inode, lock: false }.stat()
    }

    fn names(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.state().seen().into_keys().map(OsString::from).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let change = Naming::Rename(name(from), name(to));
        self.inner().call(Call::Rename, |state| state.pending.push(change))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if !inner.state.seen().contains_key(&name(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.call(Call::Remove, |state| state.pending.push(Naming::Remove(name(path))))
    }

    /// Names are kept by a journal of the file system: where syncing them fails, they stay pending.
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.inner().call(Call::SyncDirectory, |state| {
            for change in std::mem::take(&mut state.pending) {
                rename(&mut state.names, &change);
            }
        })
    }
}

#[derive(Debug)]
struct OpenFile {
    model: Model,
    inode: u64,
    lock: bool,
}

impl OpenFile {
    fn with<T>(&self, f: impl FnOnce(&mut Inner, u64) -> T) -> T {
        f(&mut self.model.inner(), self.inode)
    }
}

fn file(state: &mut State, inode: u64) -> &mut Inode {
    state.inodes.get_mut(&inode).unwrap()
}

impl Handle for OpenFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.with(|inner, inode| Ok(file(&mut inner.state, inode).seen.clone()))
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|inner, inode| {
            let count = match inner.trouble(Call::Write) {
                None => bytes.len(),
                Some(Trouble::Short) => bytes.len() / 2,
                Some(trouble) => return Err(trouble.error()),
            };
            let at = usize::try_from(offset).unwrap();
            file(&mut inner.state, inode).change(Change::Write { at, bytes: bytes[..count].to_vec() });
            inner.remember();
            Ok(count)
        })
    }

    /// Where this fails, what was pending is seen on and never reaches the disk by itself any more: that is
    /// what Linux does.
    fn sync(&mut self) -> io::Result<()> {
        self.with(|inner, inode| {
            let trouble = inner.trouble(Call::Sync);
            let file = file(&mut inner.state, inode);
            match trouble {
                None => file.sync(),
                Some(Trouble::Errno(_)) => file.pending.clear(),
                Some(Trouble::Short) => {
                    let first = file.pending.first().cloned();
                    file.pending.clear();
                    if let Some(change) = first {
                        let parts = change.partly(&file.durable, false);
                        file.durable = parts[parts.len() / 2].clone();
                    }
                }
            }
            inner.remember();
            trouble.map_or(Ok(()), |trouble| Err(trouble.error()))
        })
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap();
        self.with(|inner, inode| {
            inner.call(Call::SetLen, |state| file(state, inode).change(Change::Length(length)))
        })
    }

    fn reserve(&mut self, _: u64, _: u64) -> io::Result<()> {
        self.with(|inner, _| inner.call(Call::Reserve, |_| ()))
    }

    fn stat(&self) -> io::Result<Stat> {
        self.with(|inner, inode| {
            let length = file(&mut inner.state, inode).seen.len() as u64;
            Ok(Stat { device: 1, inode, length })
        })
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.lock {
            self.model.inner().locked = false;
        }
    }
}
