//! `pve-sim serve`: the simulated Proxmox VE as a process.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use pve_sim::world::{AuthId, World};
use pve_sim::{Sim, SimConfig, SimError};
use tokio::signal::unix::{SignalKind, signal};

/// A simulated Proxmox VE node for tests and for trying things out.
#[derive(Parser)]
#[command(name = "pve-sim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the demo node until SIGINT or SIGTERM.
    Serve {
        /// The address to listen on.
        #[arg(long, default_value = "127.0.0.1:18006")]
        listen: SocketAddr,
        /// Keep certificates, tokens and pins in this directory and reuse them.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// How many milliseconds a task runs.
        #[arg(long, default_value_t = 50)]
        task_ms: u64,
    },
}

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Start(SimError),
    #[error("cannot read or write {}; choose a directory you may write to", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} does not hold a token of the form USER@REALM!TOKENID=SECRET; delete it and start again", path.display())]
    Token { path: PathBuf },
    #[error("cannot start or wait for signals; try again")]
    System(#[source] std::io::Error),
}

/// One sentence out of an error and its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, " ({error})");
        cause = error.source();
    }
    text
}

/// The token files and whose tokens they hold.
const TOKEN_FILES: [(&str, &str); 2] = [("report.token", "writ@pve!report"), ("act.token", "writ@pve!act")];

/// Gives the world the secrets of an earlier run.
fn load_tokens(dir: &Path, world: &mut World) -> Result<(), ServeError> {
    for (file, id) in TOKEN_FILES {
        let path = dir.join(file);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(ServeError::File { path, source }),
        };
        let secret = text.trim().strip_prefix(id).and_then(|t| t.strip_prefix('='));
        let Some(secret) = secret.filter(|s| !s.is_empty()) else {
            return Err(ServeError::Token { path });
        };
        if let Some(token) = world.access.tokens.get_mut(&AuthId::parse(id)) {
            token.secret = Some(secret.to_owned());
        }
    }
    Ok(())
}

fn save(dir: &Path, sim: &Sim) -> Result<(), ServeError> {
    let pins = sim.pins();
    let pins = format!("leaf:{}\nspki:{}\nca:{}\n", pins.leaf, pins.spki, pins.ca);
    let tokens = TOKEN_FILES.map(|(file, id)| (file, format!("{}\n", sim.token(id))));
    let [report, act] = tokens;
    for (file, text) in [report, act, ("pins", pins)] {
        let path = dir.join(file);
        pve_sim::write_private(&path, &text).map_err(|source| ServeError::File { path, source })?;
    }
    Ok(())
}

async fn serve(listen: SocketAddr, dir: Option<PathBuf>, task_ms: u64) -> Result<(), ServeError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::System)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::System)?;
    let mut config = SimConfig::demo();
    config.listen = listen;
    config.task_duration = Duration::from_millis(task_ms);
    config.ca_dir = dir.clone();
    if let Some(dir) = &dir {
        load_tokens(dir, &mut config.world)?;
    }
    let sim = Sim::start(config).await.map_err(ServeError::Start)?;
    if let Some(dir) = &dir {
        save(dir, &sim)?;
    }
    let (pins, (report, act)) = (sim.pins(), sim.tokens());
    let mut lines = vec![("url", sim.url()), ("leaf", pins.leaf), ("spki", pins.spki), ("ca", pins.ca)];
    match &dir {
        Some(dir) => lines.push(("files", dir.display().to_string())),
        // Without a directory the terminal is the only place the secrets of this run can go.
        None => lines.extend([("report", report), ("act", act)]),
    }
    let text: String = lines.iter().map(|(k, v)| format!("{k:<7} {v}\n")).collect();
    let written = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    if let Err(error) = written {
        tracing::warn!(%error, "cannot print the addresses");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    sim.stop().await;
    Ok(())
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Command::Serve { listen, dir, task_ms } = Cli::parse().command;
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::System)
        .and_then(|runtime| runtime.block_on(serve(listen, dir, task_ms)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pve-sim: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
