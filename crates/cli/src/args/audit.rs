//! The audit log: reading, exporting, checking.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::HostName;

use super::HostArgs;

/// `writ audit`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Verify and print a host's whole log
    Log(HostArgs),
    /// Write a host's log, its checkpoint and the operator's statement about the host into a directory
    Export(ExportArgs),
    /// Verify an exported log, or a copy of a warden's state directory, without any hub
    #[command(
        after_help = "Checks every signature, the chain, the root and the checkpoint, and whether all of it continues what\n\
        this machine saw. The host's key comes from the statement in the directory, judged by the policy of\n\
        this machine, from what this machine knows of the host, or from --host-key.\n\n\
        Exit status: 0 all is well; 1 it is not, and where; 3 it contradicts what this machine saw."
    )]
    Verify(VerifyArgs),
    /// Print the checkpoint of a host's log that this machine keeps
    Checkpoint {
        /// The host's name
        host: HostName,
    },
    /// Compare another operator's checkpoint with what this machine saw: one history, or a split view
    Compare(CompareArgs),
    /// Forget what this machine saw of a host's log, once it is explained why it must; the next
    /// checkpoint will be believed without comparison
    Forget {
        /// The host's name
        host: HostName,
    },
}

/// `writ audit export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The host's name
    pub host: HostName,
    /// Where to; made if absent, must be empty
    pub directory: PathBuf,
}

/// `writ audit verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// What `writ audit export` wrote, or a copy of a warden's state directory
    pub directory: PathBuf,
    /// The host's key, or a file with it: believed instead of any statement
    #[arg(long, value_name = "KEY|FILE")]
    pub host_key: Option<String>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `writ audit compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A checkpoint as `writ audit checkpoint` prints it
    #[arg(required_unless_present = "checkpoint")]
    pub file: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub checkpoint: Option<PathBuf>,
}
