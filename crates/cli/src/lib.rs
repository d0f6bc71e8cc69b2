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
//! | [`prepare`] | orders from reports, and orders about the host |
//! | [`planned`] | orders that are bound to a host's plan |
//! | [`live`] | what an order relies on, against the world as the host sees it now |
//! | [`cosigning`] | what a second signer must know |
//! | [`judge`] | receipts and a host's log |
//! | [`history`] | checkpoints: whether a log continues what this machine saw |
//! | [`audit`] | a copy of a log, without any hub |
//! | [`script`], [`result`] | what `writ run` sends, and what comes back under seal |
//! | [`ssh_config`], [`ssh_args`] | what ssh is told, and what it may be told |
//! | [`policy_file`] | the first policy |
//! | [`render`], [`render_host`], [`text`] | how things read |
//! | [`document`] | the operator's TOML, with lines |
//!
//! The thin shell: [`args`], [`state`] (the private directory), [`signer`] and [`agent`] (key files,
//! ssh-agent, ssh-keygen), [`tls`] and [`hub`] (one pinned connection), [`tunnel`], [`session_dir`] and [`signals`]
//! (sessions), [`openssh`] (the one place that starts a process), [`commands`], [`error`] (sentences and exit
//! codes).

pub mod agent;
pub mod args;
pub mod audit;
pub mod commands;
pub mod cosigning;
pub mod document;
pub mod error;
pub mod history;
pub mod hub;
pub mod judge;
pub mod live;
pub mod openssh;
pub mod planned;
pub mod policy_file;
pub mod prepare;
pub mod render;
pub mod render_host;
pub mod render_world;
pub mod resolve;
pub mod result;
pub mod script;
pub mod session_dir;
pub mod signals;
pub mod signer;
pub mod ssh_args;
pub mod ssh_config;
pub mod state;
pub mod text;
pub mod tls;
pub mod tunnel;

#[cfg(test)]
mod testing;

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser as _;

use error::{Answer, Output};

/// Runs the command line. Usage errors end with 2, failures as [`error::failure_status`] says.
pub async fn run() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. A closed pipe is nobody's failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let status = error::failure_status(&cli.command);
    // Where a script's or ssh's own status comes through, 3 is one of theirs.
    let (verbose, failed, alarms) = (cli.verbose, ExitCode::from(status), status == 1);
    let answer = match commands::dispatch(cli, agent::Agent::from_environment()).await {
        Ok(answer) => answer,
        Err(failure) => {
            eprintln!("{}", error::sentence(&failure, verbose));
            return error::alarm_status(&failure).filter(|_| alarms).map_or(failed, ExitCode::from);
        }
    };
    if let Err(error) = print(&answer) {
        // What was not printed can be asked for again: its key stays.
        let again = if answer.forget.is_some() { "; read it again with `writ result HOST OP`" } else { "" };
        eprintln!("writ: the result cannot be written ({error}){again}");
        return failed;
    }
    if let Some(Err(error)) = answer.forget.as_deref().map(std::fs::remove_file)
        && error.kind() != ErrorKind::NotFound
    {
        eprintln!("writ: the key to the result is not needed any more and cannot be removed ({error})");
    }
    for line in answer.notes.iter().chain(&answer.failures) {
        eprintln!("writ: {}", protocol::text::printable(line));
    }
    match answer.failures.is_empty() {
        true => ExitCode::from(answer.status),
        false if answer.alarm => ExitCode::from(error::ALARM),
        false => failed,
    }
}

/// A reader such as `head` may close the pipe early: that is nobody's failure.
fn print(answer: &Answer) -> io::Result<()> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let closed_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    };
    closed_is_fine(write(&mut stdout.lock(), answer.stdout.as_bytes()))?;
    let Some(Output { stdout: out, stderr: err, raw }) = &answer.output else { return Ok(()) };
    closed_is_fine(write_output(&mut stdout.lock(), out, *raw || !stdout.is_terminal()))?;
    closed_is_fine(write_output(&mut stderr.lock(), err, *raw || !stderr.is_terminal()))
}

/// Bytes from a host as they are, or as a terminal may have them.
fn write_output(to: &mut impl Write, bytes: &[u8], raw: bool) -> io::Result<()> {
    if raw { write(to, bytes) } else { write(to, result::for_terminal(bytes).as_bytes()) }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).and_then(|()| to.flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_exactly_the_bytes_and_a_terminal_gets_text() {
        let bytes = b"\x1b[2J\xff\r\n";
        let (mut pipe, mut terminal) = (Vec::new(), Vec::new());
        write_output(&mut pipe, bytes, true).unwrap();
        write_output(&mut terminal, bytes, false).unwrap();
        assert_eq!(pipe, bytes);
        assert_eq!(terminal, b"^[[2J\\xff^M\n");
    }
}
