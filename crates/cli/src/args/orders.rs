//! Orders: preparing, signing, sending, looking.

use std::path::PathBuf;

use authz::order::OrderError;
use clap::{Args, Subcommand};
use protocol::text::SafeText;
use protocol::{HostName, Sha256, SnapshotName, Tag, Vmid};

use crate::text::parse_duration;

/// What every prepared order has.
#[derive(Debug, Args)]
pub struct OpArgs {
    /// The host's name
    pub host: HostName,
    /// The guest's number
    pub vmid: Vmid,
}

/// How an order is prepared.
#[derive(Debug, Args)]
pub struct OpOptions {
    /// Where to write the order
    #[arg(short, long, default_value = "order.json", value_name = "FILE")]
    pub output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
    /// Why, for the people who read the order and the log
    #[arg(long, default_value = "")]
    pub reason: SafeText,
    /// A ticket
    #[arg(long)]
    pub ticket: Option<SafeText>,
    /// How long the order can be used, from now
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    pub valid: u64,
    /// How many operators must sign, where that is more than the policy wants
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=8), value_name = "N")]
    pub min_signers: u32,
    /// Bind the order to a plan that the host computes, also where the policy lets it do without: the plan says what will be done, and can be used for 15 minutes
    #[arg(long)]
    pub plan: bool,
}

/// `writ op KIND`
#[derive(Debug, Subcommand)]
pub enum OpCommand {
    /// Roll a guest back to a snapshot: everything since is lost, a running guest is stopped hard
    #[command(name = "snapshot.rollback")]
    SnapshotRollback {
        /// Where
        #[command(flatten)]
        at: OpArgs,
        /// The snapshot
        snapshot: SnapshotName,
        /// Start the guest afterwards
        #[arg(long)]
        start: bool,
        /// How
        #[command(flatten)]
        options: OpOptions,
    },
    /// Delete a snapshot for good
    #[command(name = "snapshot.delete")]
    SnapshotDelete {
        /// Where
        #[command(flatten)]
        at: OpArgs,
        /// The snapshot
        snapshot: SnapshotName,
        /// How
        #[command(flatten)]
        options: OpOptions,
    },
    /// Take a snapshot, without memory
    #[command(name = "snapshot.create")]
    SnapshotCreate {
        /// Where
        #[command(flatten)]
        at: OpArgs,
        /// Its new name
        #[arg(value_name = "NAME")]
        snapshot: SnapshotName,
        /// How
        #[command(flatten)]
        options: OpOptions,
    },
    /// Start a guest
    #[command(name = "guest.start")]
    GuestStart {
        /// Where
        #[command(flatten)]
        at: OpArgs,
        /// How
        #[command(flatten)]
        options: OpOptions,
    },
    /// Give a guest exactly these tags; none removes all
    #[command(name = "guest.tag")]
    GuestTag {
        /// Where
        #[command(flatten)]
        at: OpArgs,
        /// All tags it shall have
        #[arg(value_name = "TAG")]
        tags: Vec<Tag>,
        /// How
        #[command(flatten)]
        options: OpOptions,
    },
}

/// `writ sign`
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The order
    pub order: PathBuf,
    /// Your SSH key, of any type: a private key file, or a public one or a certificate whose private half is in ssh-agent or beside it [default: the one of your login]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Where to write the signature [default: ORDER.json.sig]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace an existing signature
    #[arg(long)]
    pub force: bool,
    /// Only print the order as you would sign it: nothing is signed, and no key is needed
    #[arg(long, conflicts_with_all = ["key", "output", "force"])]
    pub explain: bool,
}

/// `writ cosign`
#[derive(Debug, Args)]
pub struct CosignArgs {
    /// The order, with the signatures so far beside it
    pub order: PathBuf,
    /// Your SSH key, of any type: a private key file, or a public one or a certificate whose private half is in ssh-agent or beside it [default: the one of your login]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Where to write the signature [default: the first free one of ORDER.json.sig.2, .sig.3, …]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `writ submit`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The order
    pub order: PathBuf,
    /// A signature file; repeat for more signers [default: ORDER.json.sig, ORDER.json.sig.2, … as far as they are there]
    #[arg(long = "sig", value_name = "FILE")]
    pub sigs: Vec<PathBuf>,
    /// How long to wait for the receipt
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: u64,
    /// Send the bytes to this host as they are, readable as an order or not, whoever signed them: for tests and demonstrations. Bytes without any signature are refused by the hub
    #[arg(long, value_name = "HOST")]
    pub raw: Option<HostName>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `writ order`
#[derive(Debug, Args)]
pub struct OrderArgs {
    /// The host's name
    pub host: HostName,
    /// The order's SHA-256, as `writ submit` and `writ orders` print it
    #[arg(value_name = "OP")]
    pub op: Sha256,
    /// Wait for the receipt, as `writ submit` does
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION", requires = "wait")]
    pub timeout: u64,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// Whether an order error means that bytes are no order at all, for the advice to use `--raw`.
pub fn advice(error: &OrderError) -> &'static str {
    match error {
        OrderError::NotAnOrder { .. } => "it is not sent to a host as an order",
        OrderError::Canonical(_)
        | OrderError::NoSuchKind(_)
        | OrderError::TooLarge(_)
        | OrderError::Version(_)
        | OrderError::Range { .. }
        | OrderError::NoGuest(_)
        | OrderError::Needless { .. }
        | OrderError::Precondition { .. } => "prepare orders with `writ op`",
    }
}
