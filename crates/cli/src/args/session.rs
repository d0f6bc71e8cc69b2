//! Sessions: SSH, end to end, through the hub.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use protocol::text::SafeText;
use protocol::{ForwardTarget, HostName, TunnelId, UserName};

use super::parse::session_time;

/// What every session asks for.
#[derive(Debug, Clone, Args)]
pub struct GrantArgs {
    /// As whom to log in
    #[arg(long, default_value = "root", value_name = "NAME")]
    pub user: UserName,
    /// The session ends after so long without traffic
    #[arg(long, default_value = "10m", value_parser = session_time, value_name = "DURATION")]
    pub idle: u32,
    /// The session ends after so long whatever happens, at most 24h
    #[arg(long, default_value = "8h", value_parser = session_time, value_name = "DURATION")]
    pub max: u32,
    /// Why, for the people who read the order and the log
    #[arg(long, default_value = "")]
    pub reason: SafeText,
    /// Your SSH key: a private key file, or a public one whose private half is in ssh-agent [default: the one of your login]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// What the session may do.
#[derive(Debug, Clone, Args)]
pub struct ModeArgs {
    /// What the host allows in the session
    #[arg(long, value_enum, default_value_t = Mode::Full)]
    pub mode: Mode,
    /// With --mode exec: the one command, for the user's shell
    #[arg(long, value_name = "CMD", required_if_eq("mode", "exec"))]
    pub command: Option<SafeText>,
    /// Where connections may be forwarded to; repeat for more
    #[arg(long = "forward", value_name = "HOST:PORT")]
    pub forwards: Vec<ForwardTarget>,
}

/// What sshd on the host can enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Shell, commands and sftp
    Full,
    /// Files only
    Sftp,
    /// Only the forwards that are listed
    Forward,
    /// Exactly the command of --command
    Exec,
}

impl Mode {
    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Sftp => "sftp",
            Self::Forward => "forward",
            Self::Exec => "exec",
        }
    }
}

/// `writ connect`
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The host's name
    pub host: HostName,
    /// What to ask for
    #[command(flatten)]
    pub grant: GrantArgs,
    /// What it may do
    #[command(flatten)]
    pub mode: ModeArgs,
    /// Where the session's key and known_hosts are put (0700), until it ends [default: one for each host in the state directory]
    #[arg(long, value_name = "DIR")]
    pub session_dir: Option<PathBuf>,
    /// Connect nothing: print a configuration for `ssh -F` that does
    #[arg(long)]
    pub ssh_config: bool,
}

/// `writ ssh`
#[derive(Debug, Args)]
pub struct SshArgs {
    /// What to ask for
    #[command(flatten)]
    pub grant: GrantArgs,
    /// What it may do
    #[command(flatten)]
    pub mode: ModeArgs,
    /// The host's name
    pub host: HostName,
    /// For ssh: options, then a command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SSH ARGUMENTS")]
    pub args: Vec<OsString>,
}

/// `writ cp`
#[derive(Debug, Args)]
pub struct CpArgs {
    /// What to ask for
    #[command(flatten)]
    pub grant: GrantArgs,
    /// Copy folders with what is in them
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep times and modes
    #[arg(short, long)]
    pub preserve: bool,
    /// Sources and a target; one of them is HOST:PATH
    #[arg(required = true, num_args = 2.., value_name = "PATH|HOST:PATH")]
    pub paths: Vec<OsString>,
}

/// `writ sessions`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SessionsArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: Option<SessionsCommand>,
    /// The host's name
    #[arg(required = true)]
    pub host: Option<HostName>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `writ sessions …`
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// End a session now, with everything that runs in it
    Close {
        /// Its number, as `writ sessions HOST` prints it
        id: TunnelId,
    },
}
