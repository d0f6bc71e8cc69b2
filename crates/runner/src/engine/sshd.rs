//! What sshd is told: its configuration and the one authorized key. See sshd_config(5) and sshd(8) of
//! OpenSSH 9.2, the first that can end idle sessions.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: the runner starts signed scripts and sessions; this asks sshd whether it takes its configuration"
)]

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use authz::order::SessionMode;
use protocol::text::printable;
use tokio::process::Command;
use tokio::time::timeout;

use super::dir::{AUTHORIZED, HOST_KEY, SessionDir};
use super::leftover::session_mark;
use super::session::SessionSpec;

/// Where Debian has it.
pub const DEFAULT: &str = "/usr/sbin/sshd";
/// sshd's empty directory, made by ssh.service and so missing where that never ran.
const PRIVSEP: &str = "/run/sshd";
const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// Why there can be no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshdError {
    /// Not installed.
    #[error(
        "there is no {path}: `apt-get install openssh-server` brings it and also starts a listener on port 22; \
         where that is not wanted, run `systemctl mask ssh.service ssh.socket` before",
        path = .0.display()
    )]
    Missing(PathBuf),
    /// Older than 9.2.
    #[error(
        "{version} cannot end idle sessions (ChannelTimeout, UnusedConnectionTimeout): sessions need OpenSSH 9.2 or \
         newer, as in Debian 12"
    )]
    TooOld {
        /// As it calls itself.
        version: String,
    },
    /// It does not take what the engine wrote.
    #[error("sshd refuses its configuration: {0}")]
    Refused(String),
    /// It could not be asked.
    #[error("{path} could not be asked whether it takes its configuration ({why}): try `{path} -t`", path = .path.display())]
    NoAnswer {
        /// Which.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// The command cannot be written into authorized_keys(5) so that exactly it comes out again.
    #[error("a command that ends in a backslash cannot be given to sshd: write it without")]
    Command,
    /// Not a time that sshd can read.
    #[error("the session's last moment is no date before the year 10000: order it with a nearer one")]
    NotAfter,
}

/// The whole configuration. Nothing of the system's own is read besides.
pub(crate) fn config(spec: &SessionSpec, dir: &SessionDir, pam: bool, to_root: bool) -> String {
    let user = spec.user.as_str();
    let idle = spec.idle.as_secs().max(1);
    let forwards = !spec.forwards.is_empty();
    let full = spec.mode == SessionMode::Full {};
    let files = matches!(spec.mode, SessionMode::Full {} | SessionMode::Sftp {});
    let yes = |yes| if yes { "yes" } else { "no" };
    let (host_key, authorized) = (dir.file(HOST_KEY), dir.file(AUTHORIZED));
    let mut text = format!(
        "HostKey {host_key}\n\
         HostKeyAlgorithms ssh-ed25519\n\
         AuthorizedKeysFile {authorized}\n\
         AuthenticationMethods publickey\n\
         PubkeyAuthentication yes\n\
         PubkeyAcceptedAlgorithms ssh-ed25519\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         HostbasedAuthentication no\n\
         PermitEmptyPasswords no\n\
         AuthorizedKeysCommand none\n\
         AuthorizedPrincipalsCommand none\n\
         AuthorizedPrincipalsFile none\n\
         TrustedUserCAKeys none\n\
         AllowUsers {user}\n\
         PermitRootLogin {root}\n\
         StrictModes no\n\
         UsePAM {pam}\n\
         UseDNS no\n\
         MaxAuthTries 6\n\
         LoginGraceTime 30\n\
         ClientAliveInterval 15\n\
         ClientAliveCountMax 4\n\
         TCPKeepAlive no\n\
         ChannelTimeout *={idle}s\n\
         UnusedConnectionTimeout {idle}s\n\
         MaxSessions {sessions}\n\
         PermitTTY {tty}\n\
         AllowTcpForwarding {tcp}\n\
         PermitListen none\n\
         GatewayPorts no\n\
         AllowStreamLocalForwarding no\n\
         AllowAgentForwarding no\n\
         X11Forwarding no\n\
         PermitTunnel no\n\
         PermitUserRC no\n\
         PermitUserEnvironment no\n\
         ExposeAuthInfo no\n\
         ChrootDirectory none\n\
         Banner none\n\
         PrintMotd no\n\
         PrintLastLog no\n\
         VersionAddendum none\n\
         PidFile none\n\
         SetEnv {mark}\n\
         LogLevel VERBOSE\n",
        host_key = host_key.display(),
        authorized = authorized.display(),
        mark = session_mark(dir.path().file_name().and_then(|name| name.to_str()).unwrap_or_default()),
        root = if to_root { "prohibit-password" } else { "no" },
        pam = yes(pam),
        tty = yes(full),
        tcp = if forwards { "local" } else { "no" },
        sessions = match &spec.mode {
            SessionMode::Full {} | SessionMode::Sftp {} => 10,
            SessionMode::Exec { .. } => 1,
            SessionMode::Forward {} => 0,
        },
    );
    text.push_str("PermitOpen");
    for target in &spec.forwards {
        text.push(' ');
        text.push_str(target.as_str());
    }
    text.push_str(if forwards { "\n" } else { " none\nDisableForwarding yes\n" });
    if files {
        text.push_str("Subsystem sftp internal-sftp\n");
    }
    if spec.mode == (SessionMode::Sftp {}) {
        text.push_str("ForceCommand internal-sftp\n");
    }
    text
}

/// The one line of authorized_keys, see sshd(8). A forced command stands here and not in the configuration:
/// here the rules for quotes are simple enough that any command comes out as it went in.
pub(crate) fn authorized_key(spec: &SessionSpec) -> Result<String, SshdError> {
    let mut line = "restrict".to_owned();
    if spec.mode == (SessionMode::Full {}) {
        line.push_str(",pty");
    }
    if !spec.forwards.is_empty() {
        line.push_str(",port-forwarding");
    }
    for target in &spec.forwards {
        let _ = write!(line, ",permitopen=\"{}\"", target.as_str());
    }
    if let SessionMode::Exec { command } = &spec.mode {
        // Only `\"` is special inside of quotes, so only a backslash before the closing one is in the way.
        if command.as_str().ends_with('\\') {
            return Err(SshdError::Command);
        }
        let _ = write!(line, ",command=\"{}\"", command.as_str().replace('"', "\\\""));
    }
    let _ = writeln!(line, ",expiry-time=\"{}\" {}", expiry(spec.not_after)?, spec.client_key);
    Ok(line)
}

/// `YYYYMMDDHHMMSSZ`: without the Z it would be local time.
fn expiry(unix: u64) -> Result<String, SshdError> {
    let seconds = i64::try_from(unix).map_err(|_| SshdError::NotAfter)?;
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| SshdError::NotAfter)?;
    let (date, time) = (at.date(), at.time());
    Ok(format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    ))
}

/// Makes sure that sshd is there, has what it needs and takes the configuration.
pub(crate) async fn check(sshd: &Path, config: &Path) -> Result<(), SshdError> {
    if !sshd.is_file() {
        return Err(SshdError::Missing(sshd.to_owned()));
    }
    if rustix::process::geteuid().is_root() && !Path::new(PRIVSEP).exists() {
        // Whatever the umask is. When it cannot be made, sshd says so itself.
        let made = std::fs::DirBuilder::new().mode(0o755).create(PRIVSEP);
        let _ = made.and_then(|()| std::fs::set_permissions(PRIVSEP, Permissions::from_mode(0o755)));
    }
    let (good, said) = ask(sshd, &["-t".as_ref(), "-f".as_ref(), config.as_os_str()]).await?;
    if good {
        Ok(())
    } else if ["ChannelTimeout", "UnusedConnectionTimeout"]
        .iter()
        .any(|option| said.contains(&format!("Bad configuration option: {option}")))
    {
        let (_, said) = ask(sshd, &["-V".as_ref()]).await?;
        // Old ones do not know -V and say their version together with the usage.
        let version = said.split([',', ' ', '\n']).find(|word| word.starts_with("OpenSSH_"));
        Err(SshdError::TooOld { version: printable(version.unwrap_or("this OpenSSH")) })
    } else {
        Err(SshdError::Refused(printable(said.trim())))
    }
}

async fn ask(sshd: &Path, args: &[&std::ffi::OsStr]) -> Result<(bool, String), SshdError> {
    let unanswered = |why: String| SshdError::NoAnswer { path: sshd.to_owned(), why };
    let mut command = Command::new(sshd);
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    match timeout(CHECK_WITHIN, command.output()).await {
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(4096)]);
            Ok((output.status.success(), said.into_owned()))
        }
        Ok(Err(error)) => Err(unanswered(error.to_string())),
        Err(_) => Err(unanswered(io::Error::from(io::ErrorKind::TimedOut).to_string())),
    }
}

#[cfg(test)]
mod tests;
