//! `scenarios`: the demo.

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
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Demo { once } = Args::parse().command;
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
