//! `pve-sim serve`: the simulated Proxmox VE as a process.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use pve_sim::world::{AuthId, FAULT_EXAMPLES, FaultPlan, MAX_GUESTS, Release, World};
use pve_sim::{Sim, SimConfig, SimError};
use tokio::signal::unix::{SignalKind, signal};

/// A simulated Proxmox VE node for tests and for trying things out.
#[derive(Parser)]
#[command(
    name = "pve-sim",
    after_help = "Try:\n  pve-sim serve\n  pve-sim serve --release 8 --guests 500 --call-delay-ms 20\n  \
                  pve-sim serve --fault-seed 7 --fault-rate 0.05\n  pve-sim faults"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a node until SIGINT or SIGTERM, and print its address, pins and tokens.
    Serve(Box<Serve>),
    /// List what can go wrong: one fault a line, ready for --faults and POST /sim/faults.
    Faults,
}

#[derive(Args)]
struct Serve {
    /// The address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:18006")]
    listen: SocketAddr,
    /// Keep certificates, tokens and pins in this directory and reuse them.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Which Proxmox VE to be: 8 (8.4.14) or 9 (9.1.8).
    #[arg(long, default_value = "9", value_parser = release)]
    release: Release,
    /// How many milliseconds a task runs.
    #[arg(long, default_value_t = 50)]
    task_ms: u64,
    /// How many milliseconds every answer of the API takes longer.
    #[arg(long, default_value_t = 0)]
    call_delay_ms: u64,
    /// How many guests there are; the demo has five.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_GUESTS)))]
    guests: Option<u32>,
    /// How many storages there are at least; the demo has four.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=500))]
    storages: Option<u32>,
    /// Another node of the cluster, NAME or NAME=offline; may be given several times.
    #[arg(long, value_name = "NAME[=offline]")]
    peer: Vec<String>,
    /// A password for root@pam, so that tickets can be tried. Make one up.
    #[arg(long, value_name = "TEXT")]
    root_password: Option<String>,
    /// Faults from a file: a JSON array as `pve-sim faults` shows them.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Faults by chance: the same seed gives the same faults to the same requests.
    #[arg(long, value_name = "N", requires = "fault_rate")]
    fault_seed: Option<u64>,
    /// How likely a request meets a fault, from 0 to 1.
    #[arg(long, value_name = "P", requires = "fault_seed", value_parser = rate)]
    fault_rate: Option<f64>,
}

fn release(text: &str) -> Result<Release, String> {
    match text.split('.').next() {
        Some("8") => Ok(Release::V8),
        Some("9") => Ok(Release::V9),
        _ => Err("there are recordings of 8 and 9 only".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| "a probability is a number from 0 to 1, such as 0.05".to_owned())
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
    #[error("cannot read {}; check the name and that you may read it", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no faults: {sentence}; `pve-sim faults` shows the form", path.display())]
    Faults { path: PathBuf, sentence: String },
    #[error("a fault of the file cannot happen: {0}; correct it and start again")]
    Fault(String),
    #[error("--peer {0:?} is no node's name: letters, digits and dashes, then =offline or nothing")]
    Peer(String),
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

/// The world and the plan the options ask for.
fn configure(options: &Serve) -> Result<SimConfig, ServeError> {
    let mut config = SimConfig::demo();
    config.listen = options.listen;
    config.task_duration = Duration::from_millis(options.task_ms);
    config.call_delay = Duration::from_millis(options.call_delay_ms);
    config.ca_dir = options.dir.clone();
    let world = &mut config.world;
    world.set_release(options.release);
    if let Some(count) = options.storages {
        world.populate_storages(count);
    }
    for peer in &options.peer {
        let (name, online) = match peer.split_once('=') {
            None => (peer.as_str(), true),
            Some((name, "offline")) => (name, false),
            Some(_) => return Err(ServeError::Peer(peer.clone())),
        };
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name.is_empty() || !name.bytes().all(good) || name == world.node {
            return Err(ServeError::Peer(peer.clone()));
        }
        world.add_peer(name, online);
    }
    if let Some(count) = options.guests {
        world.populate(count);
    }
    if let Some(root) = world.access.users.get_mut("root@pam") {
        root.password = options.root_password.clone();
    }
    if let Some(dir) = &options.dir {
        load_tokens(dir, world)?;
    }
    if let Some(path) = &options.faults {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ServeError::Read { path: path.clone(), source })?;
        let wrong = |sentence: String| ServeError::Faults { path: path.clone(), sentence };
        let order = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        config.faults.rules = FaultPlan::parse(&order).map_err(wrong)?;
    }
    if let (Some(seed), Some(rate)) = (options.fault_seed, options.fault_rate) {
        config.faults.by_seed(seed, rate);
    }
    Ok(config)
}

async fn serve(options: Serve) -> Result<(), ServeError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::System)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::System)?;
    let dir = options.dir.clone();
    let mut config = configure(&options)?;
    let rules = std::mem::take(&mut config.faults.rules);
    let sim = Sim::start(config).await.map_err(ServeError::Start)?;
    if let Some(dir) = &dir {
        save(dir, &sim)?;
    }
    for rule in rules {
        sim.fault(rule).map_err(ServeError::Fault)?;
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

fn list_faults() -> ExitCode {
    let mut text = String::from(
        "Each may also have \"method\", \"contains\" (a part of path and query as sent), \"nth\" (the first\n\
         matching request it happens to, from 1) and \"times\" (to how many; 0 is all; 1 if absent).\n\n",
    );
    for (order, meaning) in FAULT_EXAMPLES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{order}\n    {meaning}");
    }
    match std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let options = match Cli::parse().command {
        Command::Serve(options) => options,
        Command::Faults => return list_faults(),
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::System)
        .and_then(|runtime| runtime.block_on(serve(*options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pve-sim: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
