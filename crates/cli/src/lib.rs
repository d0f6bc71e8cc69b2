//! `writ`, the operator's tool.
//!
//! The hub is a courier and is never believed. This tool believes two things: statements that an
//! operator signed, judged by the policy on this machine, and receipts that a host signed, judged
//! by the host key in such a statement. Everything else is shown as hearsay.
//!
//! Pure, without files, network or clock, and tested against a hub that lies:
//!
//! | module | does |
//! |---|---|
//! | [`resolve`] | which host a name means |
//! | [`prepare`] | orders from reports |
//! | [`judge`] | receipts and a host's log |
//! | [`policy_file`] | the first policy |
//! | [`render`], [`render_host`], [`text`] | how things read |
//! | [`document`] | the operator's TOML, with lines |
//!
//! The thin shell: [`args`], [`state`] (the private directory), [`tls`] and [`hub`] (one pinned
//! connection), [`commands`], [`error`] (sentences and exit codes).

pub mod args;
pub mod commands;
pub mod document;
pub mod error;
pub mod hub;
pub mod judge;
pub mod policy_file;
pub mod prepare;
pub mod render;
pub mod render_host;
pub mod resolve;
pub mod state;
pub mod text;
pub mod tls;

#[cfg(test)]
mod testing;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command line. Usage errors end with 2, failures with 1.
pub async fn run() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. A closed pipe is nobody's failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let verbose = cli.verbose;
    match commands::dispatch(cli).await {
        Ok(answer) => {
            // A reader such as `head` may close the pipe early.
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(answer.stdout.as_bytes()).and_then(|()| stdout.flush());
            for failure in &answer.failures {
                eprintln!("writ: {}", protocol::text::printable(failure));
            }
            if answer.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            eprintln!("{}", error::sentence(&failure, verbose));
            ExitCode::FAILURE
        }
    }
}
