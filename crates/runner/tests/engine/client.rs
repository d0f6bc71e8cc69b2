//! OpenSSH's own clients against a session. The session's socket is reached through a listener that
//! copies bytes, as agent and hub will.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use authz::order::SessionMode;
use authz::{PublicKey, SecretKey};
use protocol::UserName;
use runner::engine::session::{self, SessionSpec};
use runner::engine::{DEFAULT_SSHD, Engine, Handle, SessionEnd};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::*;

pub(crate) fn secret() -> SecretKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    SecretKey::from_seed(&seed)
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A session that lets `key` do everything for a while.
pub(crate) fn spec(user: UserName, key: PublicKey, mode: SessionMode) -> SessionSpec {
    SessionSpec {
        user,
        client_key: key,
        mode,
        forwards: vec![],
        idle: Duration::from_secs(60),
        max: Duration::from_secs(60),
        not_after: now() + 60,
    }
}

/// An open session and what a client needs for it.
pub(crate) struct Open {
    pub(crate) handle: Handle<SessionEnd>,
    /// Everything of the client's.
    pub(crate) dir: tempfile::TempDir,
    pub(crate) root: PathBuf,
    pub(crate) user: UserName,
    port: u16,
    /// Whose home has no start-up files of somebody's taste. Gone when everything of the session is.
    _account: Option<Arc<TemporaryUser>>,
}

/// Opens a full session: as root for a user of its own, else for whoever runs the test.
pub(crate) async fn open(change: impl FnOnce(&mut SessionSpec)) -> Open {
    open_on(&engine(), change).await
}

pub(crate) async fn open_on(engine: &Engine, change: impl FnOnce(&mut SessionSpec)) -> Open {
    let key = secret();
    let lent = std::env::var(ACCOUNT).ok().map(|name| name.parse().unwrap());
    let account = (is_root() && lent.is_none()).then(shared_user);
    let user = lent.or_else(|| account.as_ref().map(|account| account.name.clone())).unwrap_or_else(myself);
    let mut spec = spec(user, key.public(), SessionMode::Full {});
    change(&mut spec);
    let dir = tempfile::tempdir().unwrap();
    // The temporary directory itself is 0700, and sshd reads the authorized key as the user.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let root = dir.path().join("sessions");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o711)).unwrap();
    let user = spec.user.clone();
    let session = session::start(engine, &root, Path::new(DEFAULT_SSHD), spec).await.unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = std::os::unix::net::UnixStream::from(session.socket);
    socket.set_nonblocking(true).unwrap();
    let mut socket = UnixStream::from_std(socket).unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut socket).await;
    });
    let open = Open { handle: session.handle, dir, root, user, port, _account: account };
    open.write("key", &key.to_openssh("test").unwrap());
    open.write("known_hosts", &format!("[127.0.0.1]:{port} {}\n", session.host_key));
    open
}

impl Open {
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// A place in the home of the session's user where nothing is yet.
    pub(crate) fn fresh(&self) -> PathBuf {
        let user = nix::unistd::User::from_name(self.user.as_str()).unwrap().unwrap();
        user.dir.join(format!("fresh-{:08x}", random()))
    }

    fn options(&self) -> Vec<String> {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let options = [
            "BatchMode=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            format!("UserKnownHostsFile={}", at("known_hosts")),
            format!("IdentityFile={}", at("key")),
            format!("Port={}", self.port),
            "LogLevel=ERROR".to_owned(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
        ["-F".to_owned(), "none".to_owned()].into_iter().chain(options).collect()
    }

    pub(crate) fn target(&self) -> String {
        format!("{}@127.0.0.1", self.user)
    }

    /// ssh, with `args` after the target.
    pub(crate) async fn ssh(&self, before: &[&str], args: &[&str]) -> Output {
        let mut command = self.client("ssh");
        command.args(before).arg(self.target()).args(args);
        ended(command).await
    }

    /// ssh that is still running.
    pub(crate) fn ssh_running(&self, before: &[&str], args: &[&str]) -> tokio::process::Child {
        let mut command = self.client("ssh");
        command.args(before).arg(self.target()).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// ssh, scp or sftp with the options of this session.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(self.options()).kill_on_drop(true).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// The same as one word for `rsync -e`.
    pub(crate) fn as_remote_shell(&self) -> String {
        format!("ssh {}", self.options().join(" "))
    }

    /// The end, after which nothing of it may be left.
    pub(crate) async fn end(self) -> SessionEnd {
        let end =
            timeout(Duration::from_secs(15), self.handle.wait()).await.expect("the session does not end");
        assert_eq!(end.survivors, Vec::<i32>::new());
        let left: Vec<_> = std::fs::read_dir(&self.root).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(running(&self.root.display().to_string()), Vec::<i32>::new());
        end
    }
}

/// Runs a client to its end.
pub(crate) async fn ended(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    timeout(Duration::from_secs(20), output).await.expect("the client does not end").unwrap()
}

/// Exit code, stdout and stderr.
pub(crate) fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
