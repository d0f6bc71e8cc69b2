//! The one place where this tool starts processes: the real ssh, scp and ssh-keygen.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: writ starts OpenSSH's own tools, to connect and to sign, here and nowhere else in this crate"
)]

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use authz::Namespace;
use protocol::Envelope;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::signals::{Signals, Stop};

/// Why a program of OpenSSH did not run.
#[derive(Debug, thiserror::Error)]
pub enum OpenSshError {
    /// Not installed.
    #[error("{0} is not installed on this machine: apt install openssh-client")]
    Absent(&'static str),
    /// It cannot be started or waited for.
    #[error("{program} cannot be run: {source}")]
    Run {
        /// Which.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It said no, in its own words on the terminal.
    #[error(
        "ssh-keygen did not sign with {path} (exit status {status}): its own words are above; without a terminal it can ask for a passphrase or a PIN by $SSH_ASKPASS only", path = .path.display()
    )]
    NotSigned {
        /// The key's file.
        path: std::path::PathBuf,
        /// Its exit status.
        status: u8,
    },
    /// Too much, or no text.
    #[error(
        "what ssh-keygen wrote is no SSH signature: is the first ssh-keygen in $PATH the one of OpenSSH?"
    )]
    NoSignature,
    /// We do not know our own path.
    #[error("this program cannot find its own file, which ssh is to start ({0}): was it replaced meanwhile?")]
    OwnPath(io::Error),
}

/// What may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// ssh(1)
    Ssh,
    /// scp(1)
    Scp,
    /// ssh-keygen(1)
    Keygen,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Scp => "scp",
            Self::Keygen => "ssh-keygen",
        }
    }
}

/// Runs it in our place, on our terminal, to its end. Gives its exit status, or 128 and the signal.
pub async fn run(program: Program, args: &[OsString]) -> Result<u8, OpenSshError> {
    let mut command = Command::new(program.name());
    command.args(args);
    run_command(command, program.name()).await
}

async fn run_command(mut command: Command, program: &'static str) -> Result<u8, OpenSshError> {
    let fail = |source| OpenSshError::Run { program, source };
    // Before the child exists, so that no signal leaves it behind.
    let mut signals = Signals::listen().map_err(fail)?;
    // The ProxyCommand is quoted for a POSIX shell, and ssh takes the user's.
    let mut child = command.env("SHELL", "/bin/sh").spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => OpenSshError::Absent(program),
        _ => fail(source),
    })?;
    // A handle and no number: the process that it means is always this child.
    let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            ended = &mut ended => {
                return ended.map_err(io::Error::other).and_then(|ended| ended).map(status).map_err(fail);
            }
            stop = signals.next() => match (stop, &handle) {
                // It came from the terminal and went to the child as well, which decides what it means.
                (Stop::Interrupt, _) => {}
                (Stop::End, Ok(handle)) => _ = pidfd_send_signal(handle, Signal::TERM),
                // An old kernel: the child ends when its connection does.
                (Stop::End, Err(_)) => return Ok(255),
            },
        }
    }
}

/// What ssh-keygen needs of our environment: to ask the owner, to find agent, token and helpers.
const KEYGEN_NEEDS: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TERM",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSH_ASKPASS",
    "SSH_ASKPASS_REQUIRE",
    "SSH_SK_PROVIDER",
    "SSH_SK_HELPER",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
];

/// Has `ssh-keygen -Y sign` sign `message` with the key in `path`: the armored signature, **not** verified
/// here. It asks for passphrase, PIN and touch on the terminal, and says there what is wrong.
pub async fn sign(path: &Path, namespace: Namespace, message: &[u8]) -> Result<String, OpenSshError> {
    let (path, message) = (path.to_owned(), message.to_owned());
    let mut command = Command::new(Program::Keygen.name());
    command.args(["-q", "-Y", "sign", "-n", namespace.as_str(), "-f"]).arg(&path).env_clear();
    command.envs(KEYGEN_NEEDS.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))));
    let work = tokio::task::spawn_blocking(move || sign_command(command, &path, &message));
    work.await.map_err(|error| run_error(io::Error::other(error)))?
}

fn run_error(source: io::Error) -> OpenSshError {
    let program = Program::Keygen.name();
    match source.kind() {
        io::ErrorKind::NotFound => OpenSshError::Absent(program),
        _ => OpenSshError::Run { program, source },
    }
}

fn sign_command(mut command: Command, path: &Path, message: &[u8]) -> Result<String, OpenSshError> {
    // Standard error stays ours: it is where "touch your key" is said.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(run_error)?;
    // It reads all before it writes, so neither waits for the other. One that ends early says why.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(message);
    }
    let mut armored = Vec::new();
    let read = child.stdout.take().map(|stdout| {
        // One more than any signature has, and never what a stranger's program likes to write.
        stdout.take(Envelope::MAX_ARMOR as u64 + 1).read_to_end(&mut armored)
    });
    let ended = child.wait().map_err(run_error)?;
    read.transpose().map_err(run_error)?;
    if armored.len() > Envelope::MAX_ARMOR {
        return Err(OpenSshError::NoSignature);
    }
    match status(ended) {
        0 => String::from_utf8(armored).map_err(|_| OpenSshError::NoSignature),
        status => Err(OpenSshError::NotSigned { path: path.to_owned(), status }),
    }
}

fn status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, quote_all};
    use crate::ssh_config::tests::{grant, mode};
    use crate::ssh_config::{Route, connect_words};
    use crate::testing::name;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStringExt as _;
    use std::path::Path;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn exit_statuses_pass_through() {
        for (script, wanted) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)] {
            assert_eq!(run_command(sh(script), "sh").await.unwrap(), wanted, "{script}");
        }
        let error = run_command(Command::new("/nonexistent/ssh"), "ssh").await.unwrap_err().to_string();
        assert_eq!(error, "ssh is not installed on this machine: apt install openssh-client");
    }

    #[test]
    fn a_signer_that_misbehaves_is_named() {
        let (path, large) = (Path::new("id"), vec![b'x'; 64 * 1024]);
        let sign = |script: &str| sign_command(sh(script), path, &large);
        assert_eq!(sign("cat >/dev/null; echo signature").unwrap(), "signature\n");
        assert!(matches!(sign("exit 3"), Err(OpenSshError::NotSigned { status: 3, .. })));
        assert!(matches!(sign("kill -9 $$"), Err(OpenSshError::NotSigned { status: 137, .. })));
        assert!(matches!(sign("cat >/dev/null; yes"), Err(OpenSshError::NoSignature)));
        assert!(matches!(sign("cat >/dev/null; printf '\\377'"), Err(OpenSshError::NoSignature)));
        let absent = sign_command(Command::new("/nonexistent/ssh-keygen"), path, b"x");
        assert!(matches!(absent, Err(OpenSshError::Absent("ssh-keygen"))));
    }

    /// The oracle for `script`: what a real shell makes of quoted words.
    #[test]
    fn a_real_shell_sees_the_same_words() {
        let words: Vec<OsString> = [
            &b"printf"[..],
            b"%s\\0",
            b"it's",
            b"$HOME `id` $(id) ${x}",
            b"",
            b"a\\b\\\\c\"d",
            b"*?[a]{b,c}~ #!&|;<>()",
            b"line\nbreak\ttab\r",
            b"\xff\xfe",
            "Zürich".as_bytes(),
            b"'''",
            b"-n",
        ]
        .iter()
        .map(|bytes| OsString::from_vec(bytes.to_vec()))
        .collect();
        let script = Script::from_words(&words, [0xa5; 16]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s"), &script.bytes).unwrap();
        let out = Command::new(script.interpreter.as_str()).arg(dir.path().join("s")).output().unwrap();
        let wanted: Vec<u8> =
            words[2..].iter().flat_map(|word| [word.as_encoded_bytes(), b"\0"].concat()).collect();
        assert_eq!(String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&wanted));
        assert_eq!(quote_all([OsStr::new("a")]), b"'a'");
    }

    /// The oracle for `ssh_config`: what the real ssh understands, also against what a user passes on.
    #[test]
    fn the_real_ssh_understands_what_it_is_told() {
        let (host, user) = (name("web1"), "www-data".parse().unwrap());
        let directory = Path::new("/tmp/a b/100%");
        let words =
            connect_words(Path::new("/usr/bin/wr'it"), Path::new("/h"), &host, &grant(), &mode(), directory);
        let route = Route { host: &host, user: &user, directory, proxy: words };
        let dir = tempfile::tempdir().unwrap();
        // At the top of a configuration that turns everything off.
        let below = "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nKnownHostsCommand /evil\nForwardAgent yes\n\
            ForwardX11 yes\nPermitLocalCommand yes\nIdentityAgent /evil\nPasswordAuthentication yes\n";
        std::fs::write(dir.path().join("config"), format!("{}{below}", route.block().unwrap())).unwrap();
        let config = dir.path().join("config");
        let by_file = vec!["-F".into(), config.clone().into_os_string(), "web1.writ".into()];
        let by_options: Vec<OsString> = route
            .options()
            .unwrap()
            .into_iter()
            .chain(
                [
                    "web1",
                    "-o",
                    "ProxyCommand=evil",
                    "-o",
                    "HostKeyAlias=evil",
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-oKnownHostsCommand=/evil",
                    "-oForwardAgent=yes",
                    "-oForwardX11=yes",
                    "-oPermitLocalCommand=yes",
                    "-oPasswordAuthentication=yes",
                ]
                .map(Into::into),
            )
            .collect();
        for args in [by_file, by_options] {
            let out = Command::new("ssh").arg("-G").args(&args).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            for line in [
                "hostkeyalias writ-web1",
                "user www-data",
                "stricthostkeychecking true",
                "identitiesonly yes",
                "identityagent none",
                "hostkeyalgorithms ssh-ed25519",
                "globalknownhostsfile /dev/null",
                "updatehostkeys false",
                "forwardagent no",
                "forwardx11 no",
                "permitlocalcommand no",
                "passwordauthentication no",
                "kbdinteractiveauthentication no",
                "checkhostip no",
            ] {
                assert!(text.lines().any(|l| l == line), "{line:?} is missing in\n{text}");
            }
            let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            assert!(["", "none"].contains(&value("knownhostscommand ")), "{text}");
            assert!(value("identityfile ").contains("/tmp/a b/100%"), "{text}");
            assert!(value("userknownhostsfile ").contains("/tmp/a b/100%"), "{text}");
            let proxy = value("proxycommand ");
            assert!(proxy.starts_with("'/usr/bin/wr'\\''it' '--quiet'"), "{text}");
            assert!(proxy.contains("'it'\\''s 100%% needed'") && !proxy.contains("evil"), "{text}");
        }
        // What stands below the block still counts for other hosts.
        let out = Command::new("ssh").arg("-G").arg("-F").arg(config).arg("other").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.lines().any(|l| l == "forwardagent yes"), "{text}");
    }
}
