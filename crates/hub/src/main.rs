//! The command line of `writ-hub`.

use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hub::config::{HubConfig, HubUrl, LoadError};
use hub::init::{InitError, init};
use hub::tls::{TlsError, pin_of_file};
use hub::{HubError, serve};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Carries reports up and orders down; has no authority over any host.
#[derive(Debug, Parser)]
#[command(name = "writ-hub", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a directory with TLS key, certificate, hub.toml and an operators file
    Init {
        /// Directory to make (mode 0700); nothing in it is overwritten
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How operators and hosts will reach the hub: https://HOST:PORT
        #[arg(long)]
        url: HubUrl,
        /// Address to listen on [default: 0.0.0.0 and the port of --url]
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Run the hub until SIGINT or SIGTERM
    Serve {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the pin of the hub's TLS key (SHA-256 of its SubjectPublicKeyInfo)
    Pin {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Everything that can end a command.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] LoadError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("the process cannot start its threads or signal handlers: raise its limits (ulimit -u)")]
    Runtime(#[source] std::io::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("writ-hub: {failure}");
            if let Failure::Hub(error @ (HubError::Store(_) | HubError::Write(_))) = &failure
                && let Some(cause) = error.source()
            {
                eprintln!("  cause: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init { dir, url, listen } => {
            let made = init(&dir, &url, listen)?;
            say(&format!(
                "hub          {url}\npin          {}\n\nnext\n  add yourself  echo \"NAME $(cat ~/.ssh/id_ed25519.pub)\" >> {}\n  start         writ-hub serve --config {}\n  log in        writ login --hub {url} --pin {} --key ~/.ssh/id_ed25519 --policy policy.json\n",
                made.pin,
                made.operators.display(),
                made.config.display(),
                made.pin,
            ));
            Ok(())
        }
        Command::Pin { config } => {
            let config = HubConfig::load(&config)?;
            say(&format!("{}\n", pin_of_file(&config.tls_cert)?));
            Ok(())
        }
        Command::Serve { config } => {
            let config = HubConfig::load(&config)?;
            log_to_stderr();
            tokio::runtime::Runtime::new().map_err(Failure::Runtime)?.block_on(run_hub(config))
        }
    }
}

/// A closed standard output is no reason to fail.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
}

async fn run_hub(config: HubConfig) -> Result<(), Failure> {
    // Before anything is open, so that an early signal is not the default's sudden death.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let hub = serve(config).await?;
    say(&format!("writ-hub listening on https://{} pin {}\n", hub.addr(), hub.pin()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    hub.shutdown().await;
    Ok(())
}
