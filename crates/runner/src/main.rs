//! `writ-runner`: see the library for what it does.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use runner::{Runner, RunnerConfig, StartError, chain, engine, server, status, upkeep};
use tokio::signal::unix::{SignalKind, signal};

/// Everything that runs is killed within this time after the runner was told to end, twenty seconds at most,
/// and its result written down.
const END_WITHIN: Duration = Duration::from_secs(40);

/// Runs signed scripts and opens signed sessions on this host, as the user that the order names, once each.
#[derive(Parser)]
#[command(name = "writ-runner", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the runner.
    Serve {
        /// Configuration file; crates/runner/runner.toml.example documents it.
        #[arg(long, default_value = "/etc/writ/runner.toml")]
        config: PathBuf,
    },
    /// Print what the runner lives by and which results wait. Changes nothing; works while the runner runs.
    Status {
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/runner.toml")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    // The runner is its own supervisors' binary; those are no threads of anything.
    if let Some(code) = engine::stage() {
        return code;
    }
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    let result = match args.command {
        Command::Serve { config } => match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime.block_on(serve(&config)),
            Err(error) => Err(format!("no threads: {error}")),
        },
        Command::Status { config } => print_status(&config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("writ-runner: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(path: &Path) -> Result<(), String> {
    let run = async {
        let config = RunnerConfig::load(path)?;
        let (socket, state_dir) = (config.socket.clone(), config.state_dir.clone());
        // Before anything can be started that would have to be ended.
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
        let runner = Runner::open(config)?;
        let listener = local_socket::bind(&socket).await?;
        tracing::info!(socket = %socket.display(), state_dir = %state_dir.display(), "ready");
        let end = tokio::select! {
            () = server::serve(&listener, &runner) => Ok(()),
            () = upkeep::daily(runner.clone()) => Ok(()),
            why = runner.fatal() => Err(StartError::Disk(why)),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        drop(listener);
        runner.stop(if end.is_ok() { "the runner was stopped" } else { "the runner had a disk error" });
        if !runner.idle(END_WITHIN).await {
            tracing::error!("something did not end in time; the next start looks for it");
        }
        end
    };
    run.await.map_err(|error: StartError| chain(&error))
}

fn print_status(path: &Path) -> Result<(), String> {
    let config = RunnerConfig::load(path).map_err(|error| chain(&error))?;
    print!("{}", status::report(&config)?);
    Ok(())
}
