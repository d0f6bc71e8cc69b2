//! Policy, login, enrollment.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::{HostName, Sha256, Vmid};

use super::parse::{operator, pin, range};
use crate::text::parse_duration;

/// `writ policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Write a first policy: one role for all operators, one signature per order, careful bounds
    #[command(
        after_help = "Example:\n  writ policy init --operator alice=alice.pub --operator bob=bob.pub --guests 100-199"
    )]
    Init {
        /// An operator and an OpenSSH public key file; repeat for more people or more keys
        #[arg(long = "operator", required = true, value_name = "NAME=KEY.pub", value_parser = operator)]
        operators: Vec<(HostName, PathBuf)>,
        /// Guests that may be changed without a signature; repeat for more ranges [default: 100-999999999]
        #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
        guests: Vec<(Vmid, Vmid)>,
        /// Where to write it
        #[arg(short, long, default_value = "policy.json")]
        output: PathBuf,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
    },
    /// Show a policy as a person reads it
    Show {
        /// The policy file [default: the one this machine trusts]
        file: Option<PathBuf>,
    },
}

/// `writ login`
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Address of the hub
    #[arg(long, value_name = "https://NAME:PORT")]
    pub hub: Option<String>,
    /// SHA-256 of the hub's TLS public key, 64 hex digits
    #[arg(long, value_name = "HEX", value_parser = pin)]
    pub pin: Option<Sha256>,
    /// Your SSH key, of any type: a private key file, or a public one or a certificate whose private half is in ssh-agent or beside it [default: the one key in ssh-agent]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The policy that this machine shall trust from now on
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// `writ enroll …`
#[derive(Debug, Subcommand)]
pub enum EnrollCommand {
    /// Make an enrollment code for a new host
    #[command(
        after_help = "The code is secret and is shown once. Type or paste it on the host into `writ-agent enroll`, which\n\
        reads it from standard input or with --code-file, never from its arguments.\n\n\
        Example:\n  writ enroll new --name web1 --site berlin --code-only > code.txt"
    )]
    New {
        /// What you will call the host
        #[arg(long)]
        name: HostName,
        /// Where it stands
        #[arg(long)]
        site: HostName,
        /// How long the code can be used, at most 7d
        #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
        expires: u64,
        /// Print the code and nothing else
        #[arg(long)]
        code_only: bool,
    },
    /// List enrollments
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Check a host's answer, then vouch for it with your key
    #[command(
        after_help = "The answer is believed only when it proves knowledge of the code that this machine made, so approve\n\
        on the machine where you ran `writ enroll new`.\n\nExample:\n  writ enroll approve web1 --wait 60s"
    )]
    Approve {
        /// Its number or the name that you gave
        #[arg(value_name = "ID|NAME")]
        which: String,
        /// How long to wait for the host's answer
        #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "DURATION")]
        wait: u64,
        /// Your SSH key: a private key file, or a public one whose private half is in ssh-agent [default: the one of your login]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Refuse a host
    Reject {
        /// Its number or the name that you gave
        #[arg(value_name = "ID|NAME")]
        which: String,
    },
}
