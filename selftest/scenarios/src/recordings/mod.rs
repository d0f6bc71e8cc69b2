//! `scenarios recordings FILE…`: answers that a real Proxmox VE gave, read by the client's own decoders.
//!
//! Each line of a file is one exchange. It is *understood* when the client makes of it what it is: the type
//! of the call, or an error of the class that the status and the text stand for. It is *unknown* when nobody
//! here can say what it should be, and *wrong* when the client makes something else of it.

mod exchange;
mod judge;
mod table;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use crate::{Fallible, Trouble};
use exchange::Exchange;
use judge::{Judge, Verdict};
use table::Table;

/// Longest line that is read. The largest recorded one has 60 kB.
const MAX_LINE: usize = 32 * 1024 * 1024;

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub exchanges: usize,
    /// As they should be.
    pub understood: usize,
    /// Nobody can say.
    pub unknown: usize,
    /// Not as they should be.
    pub wrong: usize,
}

impl Counts {
    /// Whether nothing is left to explain. No exchange at all proves nothing.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.exchanges > 0 && self.unknown == 0 && self.wrong == 0
    }
}

/// Reads all files; prints a table and what was not understood; gives the counts.
///
/// # Errors
/// A file that cannot be read.
pub fn run(files: &[impl AsRef<Path>]) -> Fallible<Counts> {
    let (text, counts) = read(files)?;
    print!("{text}");
    Ok(counts)
}

/// As [`run`], with the text instead of printing it.
///
/// # Errors
/// A file that cannot be read.
pub fn read(files: &[impl AsRef<Path>]) -> Fallible<(String, Counts)> {
    let mut table = Table::default();
    for path in files {
        let path = path.as_ref();
        let trouble = |why: std::io::Error| Trouble::new(path.display(), why);
        let mut judge = Judge::default();
        let mut reader = BufReader::new(File::open(path).map_err(trouble)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(trouble)? == 0 {
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = format!("{}:{number}", path.display());
            if line.len() > MAX_LINE {
                table.add("(not read)", &place, &Verdict::Unknown("the line is too long".to_owned()), "");
                continue;
            }
            match Exchange::parse(&line) {
                Ok(exchange) => {
                    let (call, verdict, seen) = judge.judge(&exchange);
                    table.add(&call, &format!("{place} {}", exchange.name), &verdict, &seen);
                }
                Err(why) => table.add("(not read)", &place, &Verdict::Unknown(why), ""),
            }
        }
    }
    Ok((table.render(), table.counts()))
}

#[cfg(test)]
mod tests;
