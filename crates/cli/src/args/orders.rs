//! Orders: signing, sending, looking. Preparing is in `op`.

use std::path::PathBuf;

use authz::order::OrderError;
use clap::Args;
use protocol::{HostName, Sha256};

use crate::text::parse_duration;

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
    /// Sign an order that is bound to a plan although this machine cannot show that plan
    #[arg(long)]
    pub unseen_plan: bool,
    /// Only print the order as you would sign it: nothing is signed, and no key is needed
    #[arg(long, conflicts_with_all = ["key", "output", "force", "unseen_plan"])]
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
