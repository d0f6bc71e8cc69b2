//! `writ-warden`: see the library for what it does.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use protocol::privileged::{BlockDevice, SmartTransport};
use tokio::signal::unix::{SignalKind, signal};
use warden::identity::Identity;
use warden::ledger::Ledger;
use warden::policies::Policies;
use warden::warden::chain;
use warden::{StartError, Warden, WardenConfig, console, orders, server, upkeep};

/// The only writer on a Proxmox VE host: verifies signed orders, checks unsigned steps against the
/// policy's bounds, carries them out once, and signs a receipt for each.
#[derive(Parser)]
#[command(name = "writ-warden", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the warden.
    Serve {
        /// Configuration file; crates/warden/warden.toml.example documents it.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
    },
    /// Who this host is and whether anything is wrong. Fails when signed orders are refused.
    Status {
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// What is being done, what waits, and how far each accepted order has come.
    Queue {
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// The last entries of the audit log, every signature checked. Works while the warden is stopped.
    Receipts {
        /// How many, at most 10000.
        #[arg(long, default_value_t = 20)]
        last: usize,
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
        /// For programs: one entry a line.
        #[arg(long)]
        json: bool,
    },
    /// What an order file would do on this host now: effects and calls. Does nothing.
    Plan {
        /// The order, as `writ op` writes it; signed or not.
        order: PathBuf,
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Read a disk's SMART values, also behind a USB bridge, through writ-privileged. Wakes no disk that sleeps.
    Smart {
        /// The disk, such as /dev/sda.
        device: BlockDevice,
        /// How smartctl speaks to it (its -d), such as sat or sntjmicron; else it chooses.
        #[arg(long, value_parser = console::smart::transport)]
        transport: Option<SmartTransport>,
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
        /// For programs: what smartctl printed.
        #[arg(long)]
        json: bool,
    },
    /// Print the policy that this host lives by.
    Policy {
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
    },
    /// Look at the nonce journal and the audit log.
    #[command(subcommand)]
    Journal(JournalCommand),
}

#[derive(Subcommand)]
enum JournalCommand {
    /// Verify every record and every signature. Changes nothing; works while the warden runs.
    Verify {
        /// Configuration file.
        #[arg(long, default_value = "/etc/writ/warden.toml")]
        config: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
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
        Command::Serve { config } => serve(&config).await,
        Command::Status { config, json } => console::status(&config, json).await,
        Command::Queue { config, json } => console::queue(&config, json).await,
        Command::Receipts { last, config, json } => console::receipts(&config, last, json),
        Command::Plan { order, config, json } => console::plan(&config, &order, json).await,
        Command::Smart { device, transport, config, json } => {
            console::smart::run(&config, device, transport, json).await
        }
        Command::Policy { config } => policy(&config),
        Command::Journal(JournalCommand::Verify { config }) => verify(&config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("writ-warden: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(path: &std::path::Path) -> Result<(), String> {
    let run = async {
        let config = WardenConfig::load(path)?;
        let (warden, interrupted) = Warden::open(config.clone())?;
        let socket = server::bind(&config.socket).await?;
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            return Err(StartError::Disk("signals cannot be received".into()));
        };
        for order in interrupted {
            tokio::spawn(orders::resume(warden.clone(), order));
        }
        tracing::info!(socket = %config.socket.display(), state_dir = %config.state_dir.display(), "ready");
        tokio::select! {
            () = server::serve(&socket, &warden) => Ok(()),
            () = upkeep::daily(warden.clone()) => Ok(()),
            why = warden.fatal() => Err(StartError::Disk(why)),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    };
    run.await.map_err(|error: StartError| chain(&error))
}

fn enrolled(path: &std::path::Path) -> Result<(WardenConfig, Identity), String> {
    let config = WardenConfig::load(path).map_err(|error| chain(&error))?;
    match Identity::load(&config.state_dir).map_err(|error| chain(&error))? {
        Some(identity) => Ok((config, identity)),
        None => Err("this host is not enrolled: run writ-agent enroll".into()),
    }
}

fn policy(path: &std::path::Path) -> Result<(), String> {
    let (config, identity) = enrolled(path)?;
    let policy = Policies::read(&config.state_dir, identity.policy).map_err(|error| chain(&error))?;
    let json = serde_json::to_string_pretty(policy.document()).map_err(|error| error.to_string())?;
    println!("{json}");
    eprintln!("policy version {}, sha256 {}", policy.version(), policy.hash());
    for revoked in policy.taken() {
        eprintln!("revoked besides: {revoked}");
    }
    Ok(())
}

fn verify(path: &std::path::Path) -> Result<(), String> {
    let (config, identity) = enrolled(path)?;
    let (burned, entries) = Ledger::inspect(&config.state_dir, &identity).map_err(|error| chain(&error))?;
    println!("host     {}", identity.host_id);
    println!("host key {} (generation {})", identity.host_key.public().fingerprint(), identity.host_key_gen);
    println!("journal  ok, {burned} nonce(s) burned");
    println!("log      ok, {entries} entries, every signature and link checked, in step with the journal");
    Ok(())
}
