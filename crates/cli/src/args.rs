//! The command line, with the help that a newcomer reads first.

use std::path::PathBuf;

use authz::order::OrderError;
use clap::{Args, Parser, Subcommand};
use protocol::text::SafeText;
use protocol::{HostName, Sha256, SnapshotName, Tag, Vmid};

use crate::text::parse_duration;

/// The operator's tool of Writ: names hosts, signs orders, and believes only what is signed.
#[derive(Debug, Parser)]
#[command(
    name = "writ",
    version,
    propagate_version = true,
    after_help = "The hub between you and your hosts is a courier: it is never believed. Names of hosts come from\n\
        statements that operators signed, outcomes of orders from receipts that hosts signed.\n\n\
        The first hour:\n  \
        writ policy init --operator alice=$HOME/.ssh/id_ed25519.pub\n  \
        writ login --hub https://hub.example:8440 --pin HEX --key ~/.ssh/id_ed25519 --policy policy.json\n  \
        writ enroll new --name web1 --site berlin     # then on the host: writ-agent enroll\n  \
        writ enroll approve web1 --wait 60s\n  \
        writ hosts\n  \
        writ op snapshot.rollback web1 101 before-update --reason 'undo the update'\n  \
        writ sign order.json && writ submit order.json\n\n\
        Results go to stdout, progress to stderr. Exit status: 0 success, 1 refused or failed, 2 wrong usage."
)]
pub struct Cli {
    /// State directory (0700) with login, trusted policy and known hosts [default: $WRIT_HOME, else ~/.config/writ]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Print no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// After an error, also print what caused it
    #[arg(long, global = true)]
    pub verbose: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make or read the policy: who may order what on your hosts
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Log in at the hub with your SSH key; later `writ login` alone renews the login
    #[command(after_help = "Examples:\n  \
        writ login --hub https://hub.example:8440 --pin 3f…9a --key ~/.ssh/id_ed25519 --policy policy.json\n  \
        writ login\n\n\
        The pin is the SHA-256 of the hub's TLS public key; `writ-hub init` prints it on the hub's own console.\n\
        Nothing is stored when the login fails.")]
    Login(LoginArgs),
    /// Bring a host in: make a code, approve the host's answer
    #[command(subcommand)]
    Enroll(EnrollCommand),
    /// List the hosts whose names an operator signed
    #[command(
        after_help = "A host about which the hub says something that no operator signed is shown as REFUSED, with the\n\
        reason, and the exit status is 1.\n\nExample:\n  writ hosts --forget web1   # after web1 was really enrolled again"
    )]
    Hosts(HostsArgs),
    /// Show one host: its report, desired state and plan
    Host(HostArgs),
    /// Send desired state from a TOML file to the hosts named in it
    #[command(
        after_help = "Example file:\n  [[host.web1.guest]]\n  vmid = 101\n  name = \"db\"          # a guest of another name is left alone\n  \
        running = true\n  tags = [\"prod\"]\n  snapshots = [\"before-update\"]\n\n\
        All names are checked before anything is sent. What needs a signature is printed as waiting.\n\n\
        Example:\n  writ apply hosts.toml --wait 2m"
    )]
    Apply(ApplyArgs),
    /// Show what a host will do next, and what waits for a signature
    Plan(HostArgs),
    /// Prepare an order as a file to sign
    #[command(
        subcommand,
        after_help = "Every fact in the order comes from the host's last report; the host reads each of them again and\n\
        refuses on any difference. Then sign it with `writ sign order.json`, or with nothing but OpenSSH:\n  \
        ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n op.v1@writ order.json\n\nExample:\n  \
        writ op snapshot.rollback web1 101 before-update --start --reason 'undo the update' --ticket OPS-118"
    )]
    Op(OpCommand),
    /// Show an order file as a person reads it
    Show {
        /// The order
        order: PathBuf,
    },
    /// Sign an order file with your SSH key, into ORDER.json.sig
    #[command(after_help = "The order is shown before it is signed. The signature is the one that\n  \
        ssh-keygen -Y sign -f KEY -n op.v1@writ ORDER.json\nmakes, and `ssh-keygen -Y verify` accepts it.")]
    Sign(SignArgs),
    /// Send a signed order and wait for the host's signed receipt
    #[command(
        after_help = "Exit status 0 only when a receipt, verified with the host's key from the operator-signed statement,\n\
        says that the order was carried out. Interrupting does not recall the order: `writ order HOST OP --wait`.\n\n\
        Examples:\n  writ submit order.json\n  writ submit order.json --sig alice.sig --sig bob.sig --timeout 30m\n  \
        writ submit damaged.bin --raw web1   # send bytes as they are, to see the host refuse them"
    )]
    Submit(SubmitArgs),
    /// List the orders of a host
    Orders(HostArgs),
    /// Show one order and its receipts
    Order(OrderArgs),
    /// Verify and print a host's whole signed log
    #[command(
        after_help = "Every entry is checked: signed by the host's key, in its place, continuing the one before. The first\n\
        bad one is named, and the exit status is 1."
    )]
    Receipts(HostArgs),
}

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
    /// Your SSH private key (Ed25519)
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
        /// Your SSH private key [default: the one of your login]
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

/// `writ hosts`
#[derive(Debug, Args)]
pub struct HostsArgs {
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// Forget what this machine believed about a name, so that a new statement can be believed
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    pub forget: Option<HostName>,
}

/// Commands about one host.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// The host's name
    pub host: HostName,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `writ apply`
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The TOML file
    pub file: PathBuf,
    /// How long to wait until the hosts have nothing left to do; 0s not to wait
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "DURATION")]
    pub wait: u64,
}

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
    /// Your SSH private key [default: the one of your login]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Where to write the signature [default: ORDER.json.sig]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace an existing signature
    #[arg(long)]
    pub force: bool,
}

/// `writ submit`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The order
    pub order: PathBuf,
    /// A signature file; repeat for more signers [default: ORDER.json.sig]
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

fn operator(text: &str) -> Result<(HostName, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write NAME=KEY.pub")?;
    if file.is_empty() {
        return Err("write NAME=KEY.pub".to_owned());
    }
    Ok((name.parse().map_err(|error: protocol::IdError| error.to_string())?, file.into()))
}

fn range(text: &str) -> Result<(Vmid, Vmid), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |text: &str| text.parse::<Vmid>().map_err(|error| error.to_string());
    let (first, last) = (parse(first)?, parse(last)?);
    if first > last { Err("write the smaller number first".to_owned()) } else { Ok((first, last)) }
}

/// Also as other tools print it: upper case, with colons, with `spki:` or `sha256:` before it.
fn pin(text: &str) -> Result<Sha256, String> {
    let lower = text.trim().to_ascii_lowercase();
    let hex = lower.strip_prefix("spki:").or_else(|| lower.strip_prefix("sha256:")).unwrap_or(&lower);
    hex.replace(':', "").parse().map_err(|_| "a pin is a SHA-256: 64 hexadecimal digits".to_owned())
}

/// Whether an order error means that bytes are no order at all, for the advice to use `--raw`.
pub fn advice(error: &OrderError) -> &'static str {
    match error {
        OrderError::NotBuilt(_) => "this version cannot prepare or show it",
        OrderError::Canonical(_)
        | OrderError::NoSuchKind(_)
        | OrderError::TooLarge(_)
        | OrderError::Version(_)
        | OrderError::Precondition { .. } => "prepare orders with `writ op`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn examples_of_the_help_parse() {
        for line in [
            "writ policy init --operator alice=a.pub --operator bob=b.pub --guests 100-199 -o p.json",
            "writ login --hub https://hub.example:8440 --pin SPKI:3F:00:000000000000000000000000000000000000000000000000000000000000 --key k --policy p",
            "writ enroll new --name web1 --site berlin --code-only",
            "writ enroll approve web1 --wait 60s",
            "writ hosts --json",
            "writ op snapshot.rollback web1 101 before-update --start --reason x --ticket OPS-118 --valid 10m",
            "writ op guest.tag web1 101 a b c -o o.json",
            "writ submit order.json --sig a.sig --sig b.sig --timeout 30m",
            "writ submit x --raw web1",
            "writ receipts web1 --json --home /tmp/x -q",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_words_are_refused_with_the_rule() {
        for (line, says) in [
            ("writ op snapshot.rollback web1 99 before-update", "100 to 999999999"),
            ("writ op snapshot.rollback web1 101 current", "not current"),
            ("writ op snapshot.rollback WEB1 101 ok-name", "a-z"),
            ("writ op guest.tag web1 101 UPPER", "a-z"),
            ("writ op guest.destroy web1 101", "unrecognized"),
            ("writ login --pin 00", "64 hexadecimal digits"),
            ("writ policy init --operator alice", "NAME=KEY.pub"),
            ("writ policy init --operator a=b --guests 200-100", "smaller"),
            ("writ enroll new --name a --site b --expires 10", "90s, 10m"),
            ("writ order web1 123", "64 lower-case"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
        let bidi = "a\u{202e}b";
        let error = Cli::try_parse_from(["writ", "op", "guest.start", "web1", "101", "--reason", bidi]);
        assert!(error.unwrap_err().to_string().contains("U+202E"));
    }

    #[test]
    fn help_does_not_promise_what_the_hub_refuses() {
        let mut command = <Cli as clap::CommandFactory>::command();
        let help = command.find_subcommand_mut("submit").unwrap().render_long_help().to_string();
        assert!(
            !help.contains("signed or not") && help.contains("without any signature are refused by the hub")
        );
    }
}
