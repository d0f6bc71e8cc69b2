//! Policy, login, enrollment.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use protocol::{Fingerprint, HostName, Sha256, Vmid};

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
        /// Who may change the policy, if not the operators themselves: a person and a key file; repeat
        #[arg(long = "root", value_name = "NAME=KEY.pub", value_parser = operator)]
        roots: Vec<(HostName, PathBuf)>,
        /// How many of them must sign a new policy [default: 1 of one person, 2 of two or more]
        #[arg(long, value_name = "N")]
        root_threshold: Option<u32>,
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
    /// Write a draft of the next policy version, to be edited
    #[command(
        after_help = "Then edit the file, `writ policy fmt FILE`, `writ policy diff current FILE`, `writ policy sign FILE` by\n\
        as many as it needs, and `writ policy apply FILE`."
    )]
    Next {
        /// Where to write it
        #[arg(short, long, default_value = "policy-next.json")]
        output: PathBuf,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
    },
    /// Bring an edited policy into its one spelling, the one that is signed
    Fmt {
        /// The policy file; it is replaced
        file: PathBuf,
    },
    /// Show what changes from one policy to another, and what of it loosens or tightens
    Diff {
        /// A policy file, or `current` for the one this machine trusts
        old: PathBuf,
        /// A policy file
        new: PathBuf,
    },
    /// Show what a new policy changes, then sign it
    #[command(after_help = "The signature is the one that\n  \
        ssh-keygen -Y sign -f KEY -n policy.v1@writ FILE\nmakes. It goes into FILE.sig, or FILE.sig.2 and so on.")]
    Sign {
        /// The policy file
        file: PathBuf,
        /// Your SSH key [default: the one of your login]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Check a signed policy, send it to the hub, and wait until the hosts live by it
    Apply {
        /// The policy file; its signatures are FILE.sig, FILE.sig.2 and so on
        file: PathBuf,
        /// Signature files, if they are elsewhere
        #[arg(long = "sig", value_name = "FILE")]
        sigs: Vec<PathBuf>,
        /// How long to wait for the hosts; 0s not to wait
        #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "DURATION")]
        wait: u64,
    },
    /// Show by which policy each host lives
    Status {},
    /// Take a key or certificates away, for ever, with your signature alone
    #[command(after_help = "Examples:\n  writ policy revoke SHA256:… --reason 'laptop stolen'\n  \
        writ policy revoke --ca SHA256:… --serial 17 --reason 'laptop stolen'")]
    Revoke {
        /// The key: its fingerprint, or its public key file
        #[arg(value_name = "SHA256:…|KEY.pub", required_unless_present = "ca", conflicts_with = "ca")]
        key: Option<String>,
        /// The CA of the certificates
        #[arg(long, value_name = "SHA256:…")]
        ca: Option<Fingerprint>,
        /// Serial number of the certificate
        #[arg(long, requires = "ca", conflicts_with = "key_id")]
        serial: Option<u64>,
        /// Key id of the certificates
        #[arg(long, requires = "ca")]
        key_id: Option<String>,
        /// Why, for people
        #[arg(long)]
        reason: String,
        /// The SSH key to sign with [default: the one of your login]
        #[arg(long = "sign-with", value_name = "FILE")]
        sign_with: Option<PathBuf>,
    },
    /// Add what OpenSSH's files say to the next policy: keys of an allowed_signers file, revocations of a KRL
    #[command(
        after_help = "--allowed-signers: each line must say its namespaces; patterns, dates and unknown options\n\
        are refused, and one bad line refuses the file. Look at what it comes to:\n  \
        writ policy diff current DRAFT\n\n\
        --krl: its keys count no more, also as CA and in certificates; its serials and key ids must be\n\
        of a CA in the policy. A KRL has neither checksum nor proof of age: compare version, date and\n\
        counts that are shown with those of the machine that made it.\n\n\
        Examples:\n  writ policy import --krl revoked.krl -o next.json\n  \
        writ policy import --allowed-signers allowed_signers next.json"
    )]
    #[command(group = ArgGroup::new("from").required(true))]
    Import {
        /// The allowed_signers file
        #[arg(long, value_name = "FILE", group = "from", requires = "draft")]
        allowed_signers: Option<PathBuf>,
        /// The key revocation list, as `ssh-keygen -k` makes it
        #[arg(long, value_name = "FILE", group = "from")]
        krl: Option<PathBuf>,
        /// The draft, as of `writ policy next`; it is replaced
        #[arg(conflicts_with = "output", required_unless_present = "output")]
        draft: Option<PathBuf>,
        /// Begin a draft here, of the version after the one this machine trusts (with --krl)
        #[arg(short, long, value_name = "NEXT.json", conflicts_with = "allowed_signers")]
        output: Option<PathBuf>,
        /// Replace an existing file
        #[arg(long, requires = "output")]
        force: bool,
        /// Go on where the KRL has SHA-1 hashes of keys that are not in the policy: those are not revoked
        #[arg(long, conflicts_with = "allowed_signers")]
        ignore_unknown_sha1: bool,
    },
    /// Print the trusted policy's keys as an OpenSSH allowed_signers file
    Export {},
    /// Say with your signature that the policy is still the newest
    Refresh {
        /// Your SSH key [default: the one of your login]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
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
