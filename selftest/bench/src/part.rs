//! The processes that the bare counterparts are made of. Each is this program again, so that a floor has as
//! many processes as what it is held against.

use std::path::{Path, PathBuf};

use scenarios::process::Process;

use crate::job::bare as job;
use crate::relay::{bare as relay, far};
use crate::{Fallible, ground};

/// Which.
#[derive(clap::Subcommand)]
pub(crate) enum Part {
    /// The hub's counterpart: pairs streams and copies
    Relay {
        #[arg(long)]
        dir: PathBuf,
    },
    /// The agent's counterpart: dials the relay and has the far end in itself or behind socket pairs
    Dial {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        streams: u8,
        #[arg(long)]
        pairs: bool,
    },
    /// The far end on standard input and output
    Far,
    /// The far end of each connection to a port
    FarTcp,
    /// The hub's counterpart for jobs
    JobHub {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        durable: bool,
    },
    /// The agent's counterpart for jobs
    JobAgent {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        socket: PathBuf,
    },
    /// What starts the processes
    JobExec {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        durable: bool,
    },
}

/// Is this process.
pub(crate) fn run(part: Part) -> Fallible<()> {
    match part {
        Part::Far => return far::standard_streams(),
        Part::FarTcp => return far::listen(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match part {
            Part::Relay { dir } => relay::relay(&dir).await,
            Part::Dial { dir, port, streams, pairs } => relay::dial(&dir, port, streams, pairs).await,
            Part::Far | Part::FarTcp => Ok(()),
            Part::JobHub { dir, durable } => job::hub(&dir, durable).await,
            Part::JobAgent { dir, port, socket } => job::agent(&dir, port, &socket).await,
            Part::JobExec { dir, socket, durable } => job::exec(&dir, &socket, durable).await,
        }
    })
}

/// What a part says, with a word or number after it, once it can be used.
pub(crate) const READY: &str = "ready";

/// Starts one and waits until it is ready; gives what it said besides.
pub(crate) async fn start(name: &str, args: &[&str], logs: &Path) -> Fallible<(Process, String)> {
    let args = [&["part"], args].concat();
    let mut process = Process::start(name, &ground::me()?, &args, &[], logs)?;
    let line = process.line_with(READY).await?;
    Ok((process, line.trim_start_matches(READY).trim().to_owned()))
}
