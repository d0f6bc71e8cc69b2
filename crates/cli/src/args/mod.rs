//! The command line, with the help that a newcomer reads first.

mod audit;
mod op;
mod orders;
mod parse;
mod scripts;
mod session;
mod setup;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use protocol::{GuestKind, HostName, Vmid};

use crate::text::parse_duration;

pub use audit::{AuditCommand, CompareArgs, ExportArgs, VerifyArgs};
pub use op::{Asked, OpCommand, OpOptions};
pub use orders::{CosignArgs, OrderArgs, SignArgs, SubmitArgs, advice};
pub use scripts::{PrintArgs, ResultArgs, RunArgs};
pub use session::{ConnectArgs, CpArgs, GrantArgs, Mode, ModeArgs, SessionsArgs, SessionsCommand, SshArgs};
pub use setup::{EnrollCommand, LoginArgs, PolicyCommand};

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
        writ sign order.json && writ submit order.json\n  \
        writ run web1 -- uptime\n  \
        writ ssh web1\n\n\
        Results go to stdout, progress to stderr. Exit status: 0 success, 1 refused or failed, 2 wrong usage,\n\
        3 a host's history contradicts what this machine saw of it.\n\
        run, result, ssh, cp: that of what ran on the host; 255 when it is not known or writ failed."
)]
pub struct Cli {
    /// State directory (0700) with login, trusted policy and known hosts [default: $WRIT_HOME, else ~/.config/writ]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Print no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say which key signs; after an error, also print what caused it
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
        Ed25519, ECDSA, RSA of 3072 bits or more, security keys, and certificates for them. A key in\n\
        ssh-agent is named by its public half (--key id.pub), a certificate by its file (--key\n\
        id-cert.pub). For a private key file with a passphrase nobody is asked while ssh-agent holds the\n\
        same key. Of several keys in ssh-agent the only one in your policy is taken. Keys in files other\n\
        than Ed25519 sign by ssh-keygen, which asks for passphrase, PIN and touch.\n\n\
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
    /// Show how a host, or a guest on it, is right now: what orders are made of
    #[command(
        after_help = "The host is asked, and what it answers came through the hub and is not signed. Parts that could not be\n\
        read say so.\n\nExamples:\n  writ look web1\n  writ look web1 101\n  writ look web1 101 --json"
    )]
    Look(LookArgs),
    /// Prepare an order as a file to sign
    #[command(
        subcommand,
        after_help = "Every fact in the order comes from the host, which is asked through the hub; it reads each of them again\n\
        and refuses on any difference. For a host that does not answer the last report has to do, as far as it\n\
        tells what the order must name. Then sign it with `writ sign order.json`, or with nothing but OpenSSH:\n  \
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
    /// Add your signature to an order that others signed, after a look at what changed since
    #[command(
        after_help = "The signatures so far are checked against your policy, and every fact in the order against the host's\n\
        last report, before your key is touched. An order that has expired, or a fact that changed, is\n\
        refused: the host could only refuse too. One operator, and one key, counts once.\n\n\
        Signatures lie beside the order: ORDER.json.sig is the first, then ORDER.json.sig.2 to .sig.8. Give\n\
        all of them to the next operator; `writ submit` sends all that are there.\n\n\
        Example:\n  writ op snapshot.delete web1 101 old --min-signers 2 && writ sign order.json   # alice\n  \
        writ cosign order.json && writ submit order.json                               # bob"
    )]
    Cosign(CosignArgs),
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
    /// Verify and print a host's whole signed log; the same as `writ audit log`
    #[command(
        after_help = "Every entry is checked: signed by the host's key, in its place, continuing the one before. The first\n\
        bad one is named, and the exit status is 1. The log as a whole must be the one under the host's newest\n\
        checkpoint and continue what this machine saw of it before; else the exit status is 3."
    )]
    Receipts(HostArgs),
    /// Read, keep and check a host's log, also without any hub
    #[command(
        subcommand,
        after_help = "Each machine keeps the last checkpoint per host that it believed, and takes no smaller and no forked one:\n\
        exit status 3. What a machine sees first it has nothing to compare with; `compare` with the\n\
        checkpoint of another operator shows whether the hub tells both the same story.\n\n\
        Examples:\n  writ audit log web1\n  writ audit export web1 ./web1-log\n  \
        writ audit verify ./web1-log\n  writ audit verify ./copy-of-warden-state --host-key 'ssh-ed25519 AAAA…'\n  \
        writ audit checkpoint web1 > mine.note     # give it to another operator, who runs\n  \
        writ audit compare mine.note"
    )]
    Audit(AuditCommand),
    /// Run a program or a script on a host, and print what it printed
    #[command(
        after_help = "Without --script the words after -- are a program and its arguments, which it gets exactly as\n\
        they are: nothing in them is expanded. Quote for your own shell only. What needs a shell on\n\
        the host is a script.\n\n\
        The script travels sealed to the host's key and its output sealed to a key made for this one\n\
        order, so the hub reads neither. The order is signed right away; nobody is asked.\n\
        The hub does read the script's hash and length: a script whose only unknown part is a short secret\n\
        can be guessed from them, so put a comment of random characters into it, such as the output of\n\
        `openssl rand -hex 16`. To words after -- writ adds one.\n\
        Interrupting does not recall it: `writ result HOST OP` reads the result later, on this\n\
        machine, once.\n\n\
        Exit status: the script's; 128 and the signal that ended it; 124 at its time limit; 125\n\
        killed for another reason; 255 when the order was refused, its end is not known, or writ\n\
        failed; 2 wrong usage.\n\n\
        Examples:\n  writ run web1 -- zpool status -x\n  writ run web1 --user www-data --timeout 60s -- id\n  \
        writ run web1 --script update.sh --env DRY_RUN=1 -- --all\n  \
        echo 'ls /etc | wc -l' | writ run web1 --script -"
    )]
    Run(RunArgs),
    /// Read the result of a script that `writ run` started on this machine
    #[command(
        after_help = "The key to a result is made by `writ run` and kept until the result was printed once. Exit\n\
        status: as of `writ run`."
    )]
    Result(ResultArgs),
    /// Open a shell or run a command on a host with the real ssh, through the hub
    #[command(
        after_help = "Options of writ stand before HOST; what stands after it is for ssh. SSH runs end to end: the hub\n\
        relays ciphertext. Each session is signed for, with a key of its own, and ssh believes only\n\
        the host key that the host signed for this session. ~/.ssh/config is not read.\n\n\
        The targets of -L and -W are added to what is signed for. -D, -R and -w are refused: their\n\
        targets cannot be listed; -A, -X, -Y and -K because nothing of yours is lent to the host. -o takes\n\
        harmless options only. Forwards only:\n  writ ssh --mode forward HOST -N -L PORT:HOST:PORT\n\n\
        Exit status: that of ssh, which is the remote command's; 255 for any failure.\n\n\
        Examples:\n  writ ssh web1\n  writ ssh --user www-data web1 -t top\n  \
        writ ssh --mode forward web1 -N -L 8006:127.0.0.1:8006"
    )]
    Ssh(SshArgs),
    /// Copy files to or from a host with the real scp, through the hub
    #[command(
        after_help = "Paths are told apart as scp does: with a colon before the first slash it is HOST:PATH, so write\n\
        ./a:b for a local file of that name. One of the paths is on the host, either the target or\n\
        the one source; a pattern in it is expanded there. The session is for files only.\n\n\
        Exit status: that of scp; 255 when writ failed.\n\n\
        Examples:\n  writ cp backup.conf web1:/etc/\n  writ cp -r 'web1:/var/log/pve*' logs/"
    )]
    Cp(CpArgs),
    /// Be the ProxyCommand of ssh: open a session and relay it between standard input and output
    #[command(after_help = "For ssh, sftp, scp, rsync, Ansible and whatever else uses OpenSSH:\n  \
        writ connect --ssh-config web1 > web1.ssh\n  ssh -F web1.ssh web1.writ\n\n\
        Do not append it to ~/.ssh/config: ssh takes the first value that it finds, so lines above could\n\
        turn off the check of the host's key. At the top of that file it is safe.\n\n\
        The client key and known_hosts of the session are in the session directory while it lasts;\n\
        sessions that use one directory at a time share the key. The order is signed and the host's\n\
        word about the session verified before any byte is relayed.\n\n\
        Exit status: 0, or 255.")]
    Connect(ConnectArgs),
    /// List a host's sessions, or close one
    #[command(
        after_help = "What the list says is the hub's word; what the host signed is in `writ receipts HOST`.\n\n\
        Examples:\n  writ sessions web1\n  writ sessions close 00112233445566778899aabbccddeeff"
    )]
    Sessions(SessionsArgs),
    /// Decide a case of the adversarial corpus as a host would, without any host
    #[command(
        hide = true,
        after_help = "A case is a folder with payload, sig.asc (sig.2.asc, …), policy.json and host.json: what a host is\n\
        given and what it knows. One line is printed for each: `accept`, or `refuse` and the code. The decision is\n\
        the one of the host's own verifier, and of its nonces; no state of this machine is read.\n\n\
        Exit status: 0 all accepted; 1 one was refused; 2 one is no case.\n\n\
        Example:\n  writ verify-case corpus/armor-crlf/1 corpus/good-keys/1"
    )]
    VerifyCase(VerifyCaseArgs),
}

/// `writ verify-case`
#[derive(Debug, Args)]
pub struct VerifyCaseArgs {
    /// Folders, each a case
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// For programs: a list with folder, decision, code and why
    #[arg(long)]
    pub json: bool,
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

/// `writ look`
#[derive(Debug, Args)]
pub struct LookArgs {
    /// The host's name
    pub host: HostName,
    /// A guest's number: the guest, and its backups [default: the host's storages, disks and numbers]
    pub vmid: Option<Vmid>,
    /// What a guest was that is gone: shows the backups there are of it
    #[arg(long = "type", value_parser = op::guest_kind(), value_name = "TYPE", requires = "vmid")]
    pub kind: Option<GuestKind>,
    /// For programs: the answer as the host spells it
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

#[cfg(test)]
mod tests;
