//! Durable commits a second of the nonce journal, against one write and one fdatasync of as many bytes
//! appended to a plain file on the same disk.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use authz::journal::{NonceJournal, RECORD};
use protocol::{Nonce, Sha256};

use crate::Fallible;
use crate::table::Table;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant once, in turn.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Commits per round.
    #[arg(long, default_value_t = 400)]
    commits: usize,
    /// Where; the disk that is measured. Without it, the directory for temporary files.
    #[arg(long)]
    directory: Option<PathBuf>,
}

const FLOOR: &str = "limit: write + fdatasync of 96 bytes, appended";
const OURS: &str = "writ:  a nonce burned";

pub(crate) fn run(args: &Args) -> Fallible<()> {
    let dir = match &args.directory {
        Some(directory) => tempfile::tempdir_in(directory)?,
        None => tempfile::tempdir()?,
    };
    let title = format!("durable commits a second, serial, {} rounds of {}", args.rounds, args.commits);
    let mut table = Table::new(title, "the rate of the bare calls").against("writ / limit", FLOOR, &[OURS]);
    for round in 0..args.rounds {
        // Whoever comes second finds another disk than who came first: they take turns.
        let bare = || bare(&dir.path().join(format!("bare-{round}")), args.commits);
        let ours = || ours(&dir.path().join(format!("journal-{round}")), args.commits);
        let (bare, ours) = if round % 2 == 0 {
            let bare = bare()?;
            (bare, ours()?)
        } else {
            let ours = ours()?;
            (bare()?, ours)
        };
        table.add(FLOOR, bare);
        table.add(OURS, ours);
    }
    print!("{}", table.render());
    Ok(())
}

fn rate(commits: usize, start: Instant) -> f64 {
    commits as f64 / start.elapsed().as_secs_f64()
}

fn ours(directory: &Path, commits: usize) -> Fallible<f64> {
    std::fs::create_dir(directory)?;
    let mut journal = NonceJournal::create(directory)?;
    let start = Instant::now();
    for index in 0..commits {
        let mut nonce = [0; 16];
        nonce[8..].copy_from_slice(&(index as u64).to_be_bytes());
        journal.burn(&Nonce::from_bytes(nonce), &Sha256::of(&nonce), 0)?;
    }
    Ok(rate(commits, start))
}

fn bare(path: &Path, commits: usize) -> Fallible<f64> {
    let file = File::create_new(path)?;
    let start = Instant::now();
    for index in 0..commits {
        file.write_all_at(&[0x5a; RECORD], (index * RECORD) as u64)?;
        file.sync_data()?;
    }
    Ok(rate(commits, start))
}
