//! `writ-privileged`: see the library for what it does.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anchored::{Anchor, Ledger, chain};
use clap::{Parser, Subcommand};
use privileged::ledger::{Stage, WHO};
use privileged::{PrivilegedConfig, Service, StartError, server};
use tokio::signal::unix::{SignalKind, signal};

/// An order that is being carried out when the service is told to end has this long. Afterwards nobody can say
/// what became of it.
const END_WITHIN: Duration = Duration::from_secs(60);

/// Does the three things on this host that only root's command line can do, as signed orders say.
#[derive(Parser)]
#[command(name = "writ-privileged", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service.
    Serve {
        /// Configuration file; crates/privileged/privileged.toml.example documents it.
        #[arg(long, default_value = "/etc/writ/privileged.toml")]
        config: PathBuf,
    },
    /// Print what the service lives by and which ends wait. Changes nothing; works while the service runs.
    Status {
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/privileged.toml")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
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
            Ok(runtime) => {
                let end = runtime.block_on(serve(&config));
                // A program that does not end must not keep us.
                runtime.shutdown_background();
                end
            }
            Err(error) => Err(format!("no threads: {error}")),
        },
        Command::Status { config } => status(&config).map(|text| print!("{text}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("writ-privileged: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(path: &Path) -> Result<(), String> {
    let run = async {
        let config = PrivilegedConfig::load(path)?;
        let (socket, state_dir) = (config.socket.clone(), config.state_dir.clone());
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
        let service = Service::open(config)?;
        let listener = local_socket::bind(&socket).await?;
        tracing::info!(socket = %socket.display(), state_dir = %state_dir.display(), "ready");
        let end = tokio::select! {
            () = server::serve(&listener, &service) => Ok(()),
            why = service.fatal() => Err(StartError::Disk(why)),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        drop(listener);
        if !service.idle(END_WITHIN).await {
            tracing::error!("an order did not end in time; what became of it is unknown");
        }
        end
    };
    run.await.map_err(|error: StartError| chain(&error))
}

fn status(path: &Path) -> Result<String, String> {
    let words = |error: &dyn std::error::Error| chain(error);
    let config = PrivilegedConfig::load(path).map_err(|error| words(&error))?;
    let directory = &config.state_dir;
    let anchor = match Anchor::load(WHO, directory).map_err(|error| words(&error))? {
        Some(anchor) => anchor,
        None if Ledger::<Stage>::has_history(directory).map_err(|error| words(&error))? => {
            return Err(chain(&Anchor::lost(WHO, directory)));
        }
        None => {
            let how = anchored::keeper::how_to_anchor::<Stage>(config.policy_sha256.as_ref());
            return Ok(format!("not anchored: {how}\n"));
        }
    };
    let (burned, orders) = Ledger::<Stage>::inspect(directory).map_err(|error| words(&error))?;
    anchor.check_configured(config.policy_sha256.as_ref(), directory).map_err(|error| words(&error))?;
    let known = anchor.status();
    let mut text = format!(
        "host     {}\nhost key {} (generation {})\npolicy   version {}, sha256 {}\njournal  ok, {burned} nonce(s) burned\norders   {} not forgotten\n",
        known.host_id,
        known.host_key.fingerprint(),
        known.host_key_gen,
        anchor.policy().version(),
        known.policy,
        orders.len()
    );
    for (op, stage) in orders {
        let told = protocol::text::printable(&format!("{stage:?}"));
        text.push_str(&format!("         {op} {told}\n"));
    }
    Ok(text)
}
