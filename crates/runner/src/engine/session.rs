//! A session: `sshd -i` on one end of a socket pair, with a host key made for it, one authorized key, and a
//! configuration that permits what was ordered. The other end goes to whoever relays it; nothing here ever
//! sees what is inside.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use authz::order::SessionMode;
use authz::{PublicKey, SecretKey};
use protocol::{ForwardTarget, UserName};
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

use super::dir::{AUTHORIZED, CONFIG, HOST_KEY, SessionDir, TRACE};
pub use super::dir::{Swept, sweep};
use super::handle::{Canceller, Handle};
use super::job::PATH;
use super::leftover::{Trace, inode};
use super::log::Log;
use super::output::{Shared, collect};
use super::sshd;
use super::user::Account;
use super::wire::{ExecSpec, MainEnd, Stdio, SuperviseSpec, Token};
use super::{Engine, StartError, run};

/// What to open.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// As whom the client logs in.
    pub user: UserName,
    /// The one key that may.
    pub client_key: PublicKey,
    /// What it may do.
    pub mode: SessionMode,
    /// Where it may forward to, besides.
    pub forwards: Vec<ForwardTarget>,
    /// Whoever does nothing for so long is disconnected; whole seconds.
    pub idle: Duration,
    /// Everything is killed after so long.
    pub max: Duration,
    /// Nobody logs in after this; seconds since 1970.
    pub not_after: u64,
}

/// A session that waits for its client or has it.
#[derive(Debug)]
pub struct Session {
    /// What the client must find.
    pub host_key: PublicKey,
    /// The client's end, close-on-exec. Closing all copies of it ends the session.
    pub socket: OwnedFd,
    /// Everything else.
    pub handle: Handle<SessionEnd>,
}

/// What became of it. Its processes are dead, unless they are named, and its files are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// How it ended.
    pub how: How,
    /// What sshd said last, or what its supervisor died of: for whoever looks after this host. It names what the
    /// client asked for, so it is nobody else's business.
    pub said: String,
    /// From sshd's start to its end; zero where nobody can say.
    pub duration: Duration,
    /// Processes that outlived sshd and were killed.
    pub leftovers_killed: u32,
    /// Numbers of processes that could not be killed within [`super::tree::KILL_WITHIN`].
    pub survivors: Vec<i32>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The client had logged in, and left.
    PeerClosed,
    /// The client had logged in and did nothing for too long.
    Idle,
    /// Nobody logged in: wrong key, wrong user, too late, or the client never came.
    NotAuthenticated,
    /// Ended at its longest time.
    MaxTime,
    /// Ended because the runner asked.
    Cancelled,
    /// Its supervisor was killed.
    Lost,
}

/// Starts a session in a directory of its own below `root`, with the sshd at `sshd`
/// ([`super::DEFAULT_SSHD`] on Debian). It waits for its client as soon as this returns.
pub async fn start(
    engine: &Engine,
    root: &Path,
    sshd: &Path,
    spec: SessionSpec,
) -> Result<Session, StartError> {
    let user = spec.user.clone();
    let found = tokio::task::spawn_blocking(move || Account::find(&user)).await;
    let account = found.map_err(io::Error::other).map_err(StartError::system("looking up the user"))??;
    let random =
        |error: getrandom::Error| StartError::system("getting random numbers")(io::Error::other(error));
    let token = Token::random().map_err(random)?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(random)?;
    let mut files = Files { dir: SessionDir::create(root, &token)?, in_use: false };
    let session =
        open(engine, sshd, &spec, &account, &token, &files.dir, &SecretKey::from_seed(&seed)).await?;
    files.in_use = true;
    Ok(session)
}

/// Removes the directory when nothing came of it, also when nobody waited for that.
struct Files {
    dir: SessionDir,
    in_use: bool,
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.in_use {
            self.dir.remove();
        }
    }
}

async fn open(
    engine: &Engine,
    sshd: &Path,
    spec: &SessionSpec,
    account: &Account,
    token: &Token,
    dir: &SessionDir,
    host_key: &SecretKey,
) -> Result<Session, StartError> {
    let root = rustix::process::geteuid().is_root();
    // Without PAM a root sshd refuses accounts whose password is locked; an ordinary user's cannot use it.
    let pam = root && Path::new("/etc/pam.d/sshd").exists();
    let private = host_key
        .to_openssh("writ session")
        .map_err(|error| StartError::system("writing the host key")(io::Error::other(error)))?;
    dir.write(HOST_KEY, 0o600, &private)?;
    dir.write(AUTHORIZED, 0o644, &sshd::authorized_key(spec)?)?;
    dir.write(CONFIG, 0o600, &sshd::config(spec, dir, pam, account.uid == 0))?;
    let config = dir.file(CONFIG);
    sshd::check(sshd, &config).await?;
    let (socket, theirs) = super::socketpair().map_err(StartError::system("making a socket"))?;
    // Before there is anything to find.
    let trace =
        Trace::begin(account.uid, theirs.as_fd()).map_err(StartError::system("reading the boot id"))?;
    let text = serde_json::to_string(&trace)
        .map_err(|error| StartError::system("writing the trace")(io::Error::other(error)))?;
    dir.write(TRACE, 0o600, &text)?;
    let whose = run::Whose {
        uid: account.uid,
        socket: Some(inode(theirs.as_fd()).map_err(StartError::system("making a socket"))?),
    };
    let (log, log_writes) = super::pipe().map_err(StartError::system("making a pipe"))?;
    let supervise = SuperviseSpec {
        token: token.clone(),
        cgroup: engine.cgroups,
        limit_ms: u64::try_from(spec.max.as_millis()).unwrap_or(u64::MAX),
        exec: ExecSpec {
            program: sshd.to_owned(),
            args: ["-i", "-e", "-f"].map(str::to_owned).into_iter().chain([utf8(&config)?]).collect(),
            env: [("PATH", PATH), ("LANG", "C.UTF-8")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            // It becomes the user itself, after the login.
            identity: None,
            cwd: "/".into(),
            stdio: Stdio::Socket,
        },
        dir: Some(dir.path().to_owned()),
    };
    let running = run::launch(engine, supervise, vec![theirs, log_writes], whose).await?;
    let cancel = Canceller::new();
    let (tell, end) = oneshot::channel();
    let handle = Handle::new(running.leftover.clone(), cancel.clone(), end, lost);
    let (own, token, user) = (dir.path().to_owned(), token.clone(), spec.user.clone());
    tokio::spawn(async move {
        let said = Shared::new(Log::of(&user));
        let (over, tree_dead) = watch::channel(());
        let into = said.clone();
        let reader = collect(log, tree_dead, move |bytes| into.lock().take(bytes, Instant::now()));
        let finish = running.finish(&cancel).await;
        let ended = Instant::now();
        // Removed by the supervisor, unless that was killed.
        if let Some(dir) = SessionDir::adopt(&own, &token) {
            dir.remove();
        }
        drop(over);
        let _ = reader.await;
        let said = std::mem::replace(&mut *said.lock(), Log::of(&user));
        // Nobody waits any more; the session is over all the same.
        let _ = tell.send(session_end(finish, said, ended));
    });
    Ok(Session { host_key: host_key.public(), socket, handle })
}

fn session_end(finish: run::Finish, log: Log, ended: Instant) -> SessionEnd {
    let (how, duration) = match &finish.end {
        Ok((MainEnd::TimedOut {}, lasted)) => (How::MaxTime, *lasted),
        Ok((MainEnd::Cancelled {}, lasted)) => (How::Cancelled, *lasted),
        Ok((MainEnd::Exited { .. } | MainEnd::Signaled { .. }, lasted)) => {
            let how = match (log.authenticated, log.idle(ended)) {
                (false, _) => How::NotAuthenticated,
                (true, true) => How::Idle,
                (true, false) => How::PeerClosed,
            };
            (how, *lasted)
        }
        Err(_) => (How::Lost, Duration::ZERO),
    };
    let said = match finish.end {
        Err(why) => format!("its supervisor failed ({why}); sshd: {}", log.last_words()),
        Ok(_) => log.last_words(),
    };
    SessionEnd {
        how,
        said,
        duration,
        leftovers_killed: finish.killed.killed,
        survivors: finish.killed.survivors,
    }
}

fn lost(said: String) -> SessionEnd {
    SessionEnd { how: How::Lost, said, duration: Duration::ZERO, leftovers_killed: 0, survivors: Vec::new() }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerClosed => "the client left",
            Self::Idle => "nothing happened for the session's idle time",
            Self::NotAuthenticated => "nobody logged in",
            Self::MaxTime => "the session's longest time was over",
            Self::Cancelled => "the session was ended from this host",
            Self::Lost => "nobody knows how the session ended",
        })
    }
}

fn utf8(path: &Path) -> Result<String, StartError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or(StartError::Spec("the directory for sessions is not UTF-8: use another"))
}
