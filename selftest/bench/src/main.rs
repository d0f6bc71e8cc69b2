//! Side-by-side benchmarks: ours, the limit and the peer in the same run, interleaved, with the ratio.
//! Never fails on time.
//!
//! | command | measures (row of `performance.md`) |
//! |---|---|
//! | none | verify a signed order and burn its nonce (e) |
//! | `keys` | the whole verification for each type of key (e) |
//! | `commit` | durable commits of the nonce journal |
//! | `order` | an order over the bare call of the API that it makes: time, calls, fsyncs |
//! | `relay` | a session's bytes through hub and agent: throughput and echo (c, c') |
//! | `job` | a signed script, from submitting it to its durable result (b) |
//! | `wait` | how soon after a Proxmox task's end its waiter knows (f') |
//! | `collect` | calls and time to collect a host of many guests (f) |
//!
//! | module | does |
//! |---|---|
//! | [`table`] | samples, medians, ratios, and how they are printed |
//! | [`part`] | the processes that the bare counterparts of hub, agent and host are made of |
//! | [`tls`] | the bare counterparts' TLS, and trust in the stand's hub |
//! | [`ground`] | the stand with everything of ours, ready to be measured |
//! | [`pve`] | a simulated Proxmox VE and the client |

mod commit;
mod ground;
mod job;
mod keys;
mod order;
mod part;
mod pve;
mod relay;
mod table;
mod tls;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measures ours, the limit and the peer in one run.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    verify: verify::Args,
}

#[derive(Subcommand)]
enum Command {
    /// The whole verification of an order, for each type of key
    Keys(keys::Args),
    /// Durable commits a second of the nonce journal
    Commit(commit::Args),
    /// A session's bytes through hub and agent: throughput and echo
    Relay(relay::Args),
    /// An order over the bare call of the API that it makes: time, calls, fsyncs
    Order(order::Args),
    /// A signed script: from submitting it until its result is durable at both ends
    Job(job::Args),
    /// How soon after a Proxmox task's end its waiter knows
    Wait(pve::wait::Args),
    /// Calls and time to collect a host of many guests
    Collect(pve::collect::Args),
    /// One process of a contestant; started by the others
    #[command(hide = true, subcommand)]
    Part(part::Part),
}

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => verify::run(&cli.verify),
        Some(Command::Keys(args)) => keys::run(&args),
        Some(Command::Commit(args)) => commit::run(&args),
        Some(Command::Relay(args)) => measure(relay::run(&args)),
        Some(Command::Order(args)) => measure(order::run(&args)),
        Some(Command::Job(args)) => measure(job::run(&args)),
        Some(Command::Wait(args)) => measure(pve::wait::run(&args)),
        Some(Command::Collect(args)) => measure(pve::collect::run(&args)),
        Some(Command::Part(part)) => part::run(part),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a benchmark on a runtime of its own; being told to stop ends it early, and with it everything that
/// it started.
fn measure(benchmark: impl Future<Output = Fallible<()>>) -> Fallible<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            done = benchmark => done,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("told to stop".into()),
        }
    })
}
