//! `scenarios`: the demo, and reading recordings.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use scenarios::demo::Ending;

/// Whole-system scenarios on this machine, with the real binaries and a simulated Proxmox VE.
#[derive(Parser)]
#[command(name = "scenarios", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the whole system up, enroll a host, carry out one signed order, and show what is refused
    Demo {
        /// End by itself: exit 0 only when every step was as expected
        #[arg(long)]
        once: bool,
    },
    /// Read recorded answers of a real Proxmox VE with the client's decoders: exit 0 only when all are understood
    Recordings {
        /// Files with one exchange a line
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Burn nonces in a journal and say so; started by tests, which kill it
    #[command(hide = true)]
    JournalWriter {
        /// Where the journal is
        directory: PathBuf,
        /// How many; without it, until there is no room
        #[arg(long)]
        count: Option<u64>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match Args::parse().command {
        Command::Demo { once } => demo(once).await,
        Command::JournalWriter { directory, count } => {
            let done = match count {
                Some(count) => scenarios::journal_writer::run(&directory, count),
                None => scenarios::journal_writer::run_until_full(&directory),
            };
            match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(trouble) => {
                    eprintln!("journal-writer: {trouble}");
                    ExitCode::FAILURE
                }
            }
        }
        Command::Recordings { files } => match scenarios::recordings::run(&files) {
            Ok(counts) if counts.is_good() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(trouble) => {
                eprintln!("recordings: {trouble}");
                ExitCode::from(2)
            }
        },
    }
}

async fn demo(once: bool) -> ExitCode {
    match scenarios::demo::run(once).await {
        Ok(Ending::AsExpected) => ExitCode::SUCCESS,
        // Without --once, being stopped is how it is meant to end.
        Ok(Ending::Stopped) if !once => ExitCode::SUCCESS,
        Ok(Ending::Stopped | Ending::NotAsExpected) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("demo: {trouble}");
            ExitCode::FAILURE
        }
    }
}
