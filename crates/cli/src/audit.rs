//! A copy of a host's log, verified without any hub: every signature, the chain, the root, the
//! checkpoint, and whether it continues what this machine saw. Pure over a reader.

use std::io::{self, BufRead, Read as _};

use authz::merkle::{Frontier, leaf_hash};
use authz::{Checkpoint, Origin, PublicKey, Receipt};
use protocol::{HostId, Note, Sha256, Signed};
use serde::Serialize;

/// Longest line of a log; an entry is far smaller.
const MAX_LINE: u64 = 256 * 1024;

/// Whose log it should be.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Host and key generation.
    pub origin: Origin,
    /// Its key, from an operator-signed statement or from the command line.
    pub key: PublicKey,
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// At which entry, from 0; none when it is about the log as a whole.
    pub entry: Option<u64>,
    /// What.
    pub what: String,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The host.
    pub host: HostId,
    /// Which of its keys.
    pub generation: u32,
    /// Good entries, from the first on.
    pub size: u64,
    /// Root over them.
    pub root: Sha256,
    /// Time of the first one by the host's clock, unix seconds.
    pub first_time: Option<u64>,
    /// Time of the last one.
    pub last_time: Option<u64>,
    /// Entries under the host's checkpoint, if there is a good one.
    pub checkpoint: Option<u64>,
    /// Entries under the checkpoint that this machine keeps, if the log contains all of them.
    pub continues: Option<u64>,
    /// Not wrong, and worth a word.
    pub notes: Vec<String>,
    /// Empty: all is well.
    pub problems: Vec<Problem>,
    /// It contradicts what this machine saw.
    pub contradicts: bool,
    /// The good entries.
    pub entries: Vec<Receipt>,
}

/// The host and key generation that a log claims in its first entry, believing nothing.
pub fn claimed_origin(mut log: impl BufRead) -> io::Result<Option<Origin>> {
    let Line::Whole(line) = next_line(&mut log)? else { return Ok(None) };
    let signed: Option<Signed> = serde_json::from_slice(&line).ok();
    let receipt = signed.and_then(|signed| serde_json::from_slice::<Receipt>(&signed.payload.0).ok());
    Ok(receipt.map(|receipt| Origin { host: receipt.host, generation: receipt.host_key_gen }))
}

/// Reads a log to its first bad entry. `kept` is what this machine saw of it before.
pub fn verify(
    mut log: impl BufRead,
    subject: &Subject,
    checkpoint: Option<&Note>,
    kept: Option<&Checkpoint>,
) -> io::Result<Page> {
    let Subject { origin, key } = subject;
    let mut page = Page {
        host: origin.host,
        generation: origin.generation,
        size: 0,
        root: authz::merkle::empty_root(),
        first_time: None,
        last_time: None,
        checkpoint: None,
        continues: None,
        notes: Vec::new(),
        problems: Vec::new(),
        contradicts: false,
        entries: Vec::new(),
    };
    let signed = checkpoint.and_then(|note| match Checkpoint::verify(note, origin, key) {
        Ok(checkpoint) => Some(checkpoint),
        Err(error) => {
            page.problems.push(Problem { entry: None, what: error.to_string() });
            None
        }
    });
    let (mut tree, mut prev) = (Frontier::default(), Sha256::from_bytes([0; 32]));
    let mut roots = Roots { signed, kept: kept.copied(), ..Roots::default() };
    loop {
        roots.see(&tree);
        let line = match next_line(&mut log)? {
            Line::Whole(line) => line,
            Line::End => break,
            Line::Torn => {
                page.notes.push(
                    "the last line has no end: the trace of a write that was interrupted, which no one acknowledged"
                        .to_owned(),
                );
                break;
            }
            Line::TooLong => {
                page.wrong(tree.size(), "the line is longer than any entry".to_owned());
                break;
            }
        };
        match entry(&line, subject, tree.size(), &prev) {
            Ok((signed, receipt)) => {
                prev = Sha256::of(&signed.payload.0);
                tree.push(leaf_hash(&signed.payload.0));
                page.entries.push(receipt);
            }
            // After the first bad entry nothing more can be proven.
            Err(what) => {
                page.wrong(tree.size(), what);
                break;
            }
        }
    }
    (page.size, page.root) = (tree.size(), tree.root());
    page.first_time = page.entries.first().map(|receipt| receipt.time);
    page.last_time = page.entries.last().map(|receipt| receipt.time);
    page.hold_against(&roots, checkpoint.is_some());
    Ok(page)
}

/// Roots of the log at the sizes of the checkpoints.
#[derive(Default)]
struct Roots {
    signed: Option<Checkpoint>,
    at_signed: Option<Sha256>,
    kept: Option<Checkpoint>,
    at_kept: Option<Sha256>,
}

impl Roots {
    fn see(&mut self, tree: &Frontier) {
        for (checkpoint, root) in [(&self.signed, &mut self.at_signed), (&self.kept, &mut self.at_kept)] {
            if checkpoint.is_some_and(|checkpoint| checkpoint.size == tree.size()) {
                *root = Some(tree.root());
            }
        }
    }
}

impl Page {
    fn wrong(&mut self, entry: u64, what: String) {
        self.problems.push(Problem { entry: Some(entry), what });
    }

    fn hold_against(&mut self, roots: &Roots, has_checkpoint: bool) {
        let mut about_all = |what: String| self.problems.push(Problem { entry: None, what });
        match (roots.signed, roots.at_signed) {
            (Some(signed), None) => about_all(format!(
                "the host signed a checkpoint over {} entries, and only {} good ones are here: entries are missing or damaged",
                signed.size, self.size
            )),
            (Some(signed), Some(root)) if root != signed.root => about_all(format!(
                "the first {} entries are not those under the host's checkpoint (root {root} instead of {}): the log was forked",
                signed.size, signed.root
            )),
            (Some(signed), Some(_)) => self.checkpoint = Some(signed.size),
            (None, _) if !has_checkpoint => self.notes.push(
                "there is no checkpoint: each entry is the host's, and whether the last ones are missing nobody can tell"
                    .to_owned(),
            ),
            (None, _) => {}
        }
        let newer = self.checkpoint.filter(|signed| *signed < self.size);
        if let Some(signed) = newer {
            self.notes.push(format!("{} entries are newer than the checkpoint", self.size - signed));
        }
        let mut contradiction = |what: String| {
            self.problems.push(Problem { entry: None, what });
            self.contradicts = true;
        };
        match (roots.kept, roots.at_kept) {
            (Some(kept), None) => contradiction(format!(
                "this machine saw a checkpoint over {} entries, and only {} good ones are here: this copy is older or was shortened",
                kept.size, self.size
            )),
            (Some(kept), Some(root)) if root != kept.root => contradiction(format!(
                "the first {} entries are not those whose checkpoint this machine saw (root {root} instead of {}): the history was rewritten",
                kept.size, kept.root
            )),
            (Some(kept), Some(_)) => self.continues = Some(kept.size),
            (None, _) => {}
        }
    }
}

/// The entry at this place, or what is wrong with it.
fn entry(line: &[u8], subject: &Subject, place: u64, prev: &Sha256) -> Result<(Signed, Receipt), String> {
    let signed: Signed = serde_json::from_slice(line).map_err(|_| "it is no signed entry".to_owned())?;
    let receipt = Receipt::verify(&signed, &subject.origin.host, &subject.key).map_err(|e| e.to_string())?;
    if receipt.v != 1 {
        return Err(format!("it has format version {}: use a newer writ", receipt.v));
    }
    if receipt.host_key_gen != subject.origin.generation {
        return Err(format!("it is signed as key generation {}: do not believe it", receipt.host_key_gen));
    }
    let Some(stands) = receipt.entry else {
        return Err("it is real but no entry of the log: somebody put it there".to_owned());
    };
    if stands.seq != place {
        return Err(format!("entry {} stands in its place: entries are missing or shuffled", stands.seq));
    }
    if stands.prev != *prev {
        return Err("it does not continue the entry before: the log was forked or rolled back".to_owned());
    }
    Ok((signed, receipt))
}

enum Line {
    Whole(Vec<u8>),
    /// Without a newline at the very end.
    Torn,
    TooLong,
    End,
}

fn next_line(log: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    // Nothing is reserved for a length, and no line is read further than any entry goes.
    log.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole(line),
        Some(_) if log.fill_buf()?.is_empty() => Line::Torn,
        Some(_) => Line::TooLong,
    })
}

#[cfg(test)]
mod tests;
