//! `corpus`: writes the adversarial corpus, or judges one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corpus::check::{BUDGET, Report};

/// The adversarial corpus of orders and signatures
#[derive(Parser)]
#[command(name = "corpus", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the corpus from its seeds, in place of what is there
    Write {
        /// Where [default: crates/authz/corpus of this repository]
        dir: Option<PathBuf>,
    },
    /// Judge a corpus: exit 0 only when every decision and code is the expected one
    Check {
        /// A folder of classes, each a folder of cases [default: crates/authz/corpus of this repository]
        dir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Write { dir } => {
            let dir = dir.unwrap_or_else(corpus::committed);
            corpus::write(&dir).map(|files| {
                println!("{files} files written to {}", dir.display());
                true
            })
        }
        Command::Check { dir } => {
            corpus::check::check(&dir.unwrap_or_else(corpus::committed)).map(|report| print(&report))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("corpus: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(report: &Report) -> bool {
    for wrong in &report.wrong {
        println!("WRONG {wrong}");
    }
    let (took, which) = &report.slowest;
    println!(
        "{} classes, {} cases, {} accepted, {} wrong; slowest {:.1} ms of {} ms: {}",
        report.classes,
        report.cases,
        report.accepted,
        report.wrong.len(),
        took.as_secs_f64() * 1e3,
        BUDGET.as_millis(),
        which.display()
    );
    if report.cases == 0 {
        println!("there is no case in it: nothing was judged");
    }
    report.wrong.is_empty() && report.cases > 0
}
