//! Scripts: running one, reading its result.

use std::ffi::OsString;
use std::path::PathBuf;

use authz::order::EnvVar;
use clap::Args;
use protocol::text::SafeText;
use protocol::{HostName, Interpreter, Sha256, UserName};

use super::parse::{env_var, job_time, max_output};
use crate::text::parse_duration;

/// `writ run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The host's name
    pub host: HostName,
    /// Without --script a program and its arguments, started as they are; with it the script's arguments
    #[arg(last = true, value_name = "ARG", required_unless_present = "script")]
    pub args: Vec<OsString>,
    /// The script, at most 256 KiB; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub script: Option<PathBuf>,
    /// What reads the script [default: the path in its #! line, else /bin/sh]
    #[arg(long, value_name = "PATH", requires = "script")]
    pub interpreter: Option<Interpreter>,
    /// As whom it runs
    #[arg(long, default_value = "root", value_name = "NAME")]
    pub user: UserName,
    /// It is killed after so long, at most 24h
    #[arg(long, default_value = "10m", value_parser = job_time, value_name = "DURATION")]
    pub timeout: u32,
    /// A variable for its environment, which is clean otherwise; repeat for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = env_var)]
    pub env: Vec<EnvVar>,
    /// Output to keep, both streams together, at most 2MiB; the rest is dropped
    #[arg(long, default_value = "1MiB", value_parser = max_output, value_name = "SIZE")]
    pub max_output: u32,
    /// Why, for the people who read the order and the log
    #[arg(long, default_value = "")]
    pub reason: SafeText,
    /// Your SSH key: a private key file, or a public one whose private half is in ssh-agent [default: the one of your login]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// How to print
    #[command(flatten)]
    pub print: PrintArgs,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct PrintArgs {
    /// Print output as it is even on a terminal, control characters and all
    #[arg(long)]
    pub raw: bool,
    /// One object for programs; the exit status stays the script's
    #[arg(long, conflicts_with = "raw")]
    pub json: bool,
}

/// `writ result`
#[derive(Debug, Args)]
pub struct ResultArgs {
    /// The host's name
    pub host: HostName,
    /// The order's SHA-256, as `writ run` and `writ orders` print it
    #[arg(value_name = "OP")]
    pub op: Sha256,
    /// How long to wait for a script that still runs
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: u64,
    /// How to print
    #[command(flatten)]
    pub print: PrintArgs,
}
