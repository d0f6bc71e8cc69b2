//! The peer: OpenSSH's client, to a server of our own on a high port of this machine, or through
//! `writ connect`.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here ssh and its server"
)]

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Stdio;

use scenarios::process::{Process, run};
use scenarios::stand::{Stand, expect};
use tokio::process::Command;

use super::near::{Link, Near};
use crate::{Fallible, ground};

const SSHD: &str = "/usr/sbin/sshd";
/// sshd's empty directory; it starts only with it when it is root.
const PRIVSEP: &str = "/run/sshd";

/// The server; it ends with this.
pub(crate) struct Server {
    _sshd: Process,
}

/// Starts the server and opens `streams` connections to it.
pub(crate) async fn open(stand: &Stand, streams: u8) -> Fallible<(Server, Vec<Near>)> {
    stand.new_key("peer-host").await?;
    stand.new_key("peer-client").await?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (user, root) = (stand.user().await?, stand.tool("id", &["-u"]).await?.stdout.trim() == "0");
    if root && !Path::new(PRIVSEP).exists() {
        std::fs::DirBuilder::new().mode(0o755).create(PRIVSEP)?;
    }
    // A root sshd without PAM refuses accounts whose password is locked.
    let pam = if root && Path::new("/etc/pam.d/sshd").exists() { "yes" } else { "no" };
    stand.write(
        "peer-sshd_config",
        &format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nUsePAM {pam}\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             AllowUsers {user}\nPidFile none\nUseDNS no\n",
            stand.text("keys/peer-host"),
            stand.text("keys/peer-client.pub")
        ),
    )?;
    stand.write("peer-known_hosts", &format!("[127.0.0.1]:{port} {}\n", stand.public_key("peer-host")?))?;
    stand.write(
        "peer-ssh_config",
        &format!(
            "Host peer\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             IdentityAgent none\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n",
            stand.text("keys/peer-client"),
            stand.text("peer-known_hosts")
        ),
    )?;
    let config = stand.text("peer-sshd_config");
    let check = run(Path::new(SSHD), &["-t", "-f", &config], &[], stand.path(), b"").await?;
    expect("sshd -t", &check)?;
    let mut sshd =
        Process::start("sshd", Path::new(SSHD), &["-D", "-e", "-f", &config], &[], &stand.at("logs"))?;
    sshd.line_with("Server listening on").await?;
    let mut nears = Vec::new();
    for _ in 0..streams {
        nears.push(ssh(stand, &stand.text("peer-ssh_config"), "peer")?);
    }
    Ok((Server { _sshd: sshd }, nears))
}

/// One connection of the ordinary client, with a far end as its remote command.
pub(crate) fn ssh(stand: &Stand, config: &str, host: &str) -> Fallible<Near> {
    let far = format!("'{}' part far", ground::me()?.display());
    let mut process = Command::new("ssh")
        .args(["-F", config, "-o", "BatchMode=yes", "-o", "Compression=no", "-T", host, &far])
        .env("WRIT_HOME", stand.at("operator"))
        .current_dir(stand.at("work"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    let input = process.stdin.take().ok_or("ssh has no standard input")?;
    let output = process.stdout.take().ok_or("ssh has no standard output")?;
    Ok(Near::new(Link::Pipes { _process: Box::new(process), input, output }))
}
