//! What a session lets its client do, tried with OpenSSH's own clients.

use std::path::Path;
use std::time::Duration;

use authz::order::SessionMode;
use runner::engine::session::{self, How};
use runner::engine::{SshdError, StartError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Open, ended, now, open, secret, spec, told};
use crate::common::*;

fn exec(command: &str) -> SessionMode {
    SessionMode::Exec { command: command.parse().unwrap() }
}

#[tokio::test]
async fn a_command_s_streams_and_exit_code_come_back() {
    let open = open(|_| ()).await;
    let output = open.ssh(&[], &["echo out; echo err >&2; exit 7"]).await;
    assert_eq!(told(&output), (Some(7), "out\n".into(), "err\n".into()));
    let end = open.end().await;
    assert_eq!((end.how, end.leftovers_killed), (How::PeerClosed, 0), "{}", end.said);
    assert!(end.said.contains("Accepted publickey for "), "{}", end.said);
}

#[tokio::test]
async fn a_shell_gets_a_terminal() {
    if terminal().is_empty() {
        return;
    }
    let open = open(|_| ()).await;
    let (code, out, _) = told(&open.ssh(&["-tt"], &["tty; test -t 0 && id -un; exit 3"]).await);
    assert_eq!(code, Some(3));
    assert!(out.starts_with("/dev/pts/") && out.contains(open.user.as_str()), "{out}");
    assert_eq!(open.end().await.how, How::PeerClosed);
}

#[tokio::test]
async fn the_host_key_is_the_one_announced_and_no_other() {
    let open = open(|_| ()).await;
    let known = std::fs::read_to_string(open.dir.path().join("known_hosts")).unwrap();
    let place = known.split(' ').next().unwrap();
    open.write("known_hosts", &format!("{place} {}\n", secret().public()));
    let (code, _, err) = told(&open.ssh(&[], &["true"]).await);
    assert_eq!(code, Some(255));
    assert!(err.contains("HOST IDENTIFICATION HAS CHANGED"), "{err}");
    assert_eq!(open.end().await.how, How::NotAuthenticated);
}

#[tokio::test]
async fn another_key_another_name_or_too_late_is_nobody() {
    let wrong_key = open(|_| ()).await;
    wrong_key.write("key", &secret().to_openssh("other").unwrap());
    let wrong_name = open(|_| ()).await;
    let too_late = open(|spec| spec.not_after = now() - 1).await;
    for (open, before) in [(wrong_key, vec![]), (wrong_name, vec!["-l", "daemon"]), (too_late, vec![])] {
        let mut command = open.client("ssh");
        let output = ended(match before[..] {
            [] => {
                command.args([&open.target(), "true"]);
                command
            }
            _ => {
                command.args(&before).args(["127.0.0.1", "true"]);
                command
            }
        })
        .await;
        let (code, _, err) = told(&output);
        assert_eq!(code, Some(255));
        assert!(err.contains("Permission denied (publickey)"), "{err}");
        let end = open.end().await;
        assert_eq!(end.how, How::NotAuthenticated, "{}", end.said);
    }
}

#[tokio::test]
async fn exec_runs_exactly_its_command_whatever_is_asked_for() {
    for (n, command) in [
        "echo plain",
        r#"echo "double" 'single' \"kept\" \\ `echo tick` $((6*7)) # comment"#,
        r#"printf '%s|' "it's" 'a"b' a\"b "c\\d" é"#,
        "echo restrict,pty,command=\\\"x\\\" %h %% {} | cat",
        "exec sh -c 'echo \"$0\"' 'trailing \\' ",
    ]
    .into_iter()
    .enumerate()
    {
        let wanted = std::process::Command::new("/bin/sh").args(["-c", command]).output().unwrap();
        // Another command, or a shell.
        let asked: &[&str] = if n % 2 == 0 { &["id -u; echo other"] } else { &[] };
        let open = open(|spec| spec.mode = exec(command)).await;
        let (code, out, err) = told(&open.ssh(&[], asked).await);
        assert_eq!((code, out.as_bytes()), (Some(0), &wanted.stdout[..]), "{command} {asked:?}: {err}");
        open.end().await;
    }
    let open = open(|spec| spec.mode = exec("echo plain")).await;
    let (code, out, err) = told(&open.ssh(&["-s"], &["sftp"]).await);
    assert_eq!((code, &out[..]), (Some(255), ""), "{err}");
    assert!(err.contains("subsystem request failed"), "{err}");
    open.end().await;
}

#[tokio::test]
async fn exec_gives_no_terminal_and_no_forwards() {
    let open = open(|spec| spec.mode = exec("tty; sleep 1")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let (code, out, err) = told(&open.ssh(&["-tt", "-W", &target.to_string()], &[]).await);
    assert_eq!((code, &out[..]), (Some(255), ""));
    assert!(err.contains("stdio forwarding failed"), "{err}");
    open.end().await;
    let open = open_exec_tty().await;
    let (code, out, err) = told(&open.ssh(&["-tt"], &[]).await);
    assert_eq!((code, &out[..], err.trim()), (Some(255), "", "PTY allocation request failed on channel 0"));
    open.end().await;
    let open = open_exec_tty().await;
    let (code, out, err) = told(&open.ssh(&[], &[]).await);
    assert_eq!((code, out.trim()), (Some(1), "not a tty"), "{err}");
    open.end().await;
}

async fn open_exec_tty() -> Open {
    open(|spec| spec.mode = exec("tty")).await
}

#[tokio::test]
async fn a_command_that_could_not_be_exact_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(myself(), secret().public(), exec("echo \\"));
    let refused = session::start(&engine(), dir.path(), Path::new("/usr/sbin/sshd"), spec).await.unwrap_err();
    assert!(matches!(refused, StartError::Sshd(SshdError::Command)), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays behind");
}

#[tokio::test]
async fn sftp_mode_moves_files_and_runs_nothing() {
    let open = open(|spec| spec.mode = SessionMode::Sftp {}).await;
    let (from, to) = (open.dir.path().join("from"), open.fresh());
    std::fs::write(&from, b"bytes \0\xff").unwrap();
    open.write("batch", &format!("put {} {}\n", from.display(), to.display()));
    let mut sftp = open.client("sftp");
    sftp.arg("-b").arg(open.dir.path().join("batch")).arg(open.target());
    let (code, _, err) = told(&ended(sftp).await);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(std::fs::read(to).unwrap(), b"bytes \0\xff");
    assert_eq!(open.end().await.how, How::PeerClosed);

    let open = self::open(|spec| spec.mode = SessionMode::Sftp {}).await;
    let mark = open.fresh();
    let (code, out, _) = told(&open.ssh(&[], &[&format!("touch {}; id -u", mark.display())]).await);
    assert_eq!((code, &out[..]), (Some(1), "This service allows sftp connections only.\n"));
    assert!(!mark.exists());
    open.end().await;
}

#[tokio::test]
async fn scp_and_rsync_work_where_everything_does() {
    for program in ["scp", "rsync"] {
        let open = open(|_| ()).await;
        let (from, to) = (open.dir.path().join("from"), open.fresh());
        std::fs::write(&from, vec![7; 300_000]).unwrap();
        let there = format!("{}:{}", open.target(), to.display());
        let command = if program == "scp" {
            let mut scp = open.client("scp");
            scp.arg(&from).arg(there);
            scp
        } else {
            let mut rsync = tokio::process::Command::new("rsync");
            rsync.arg("-e").arg(open.as_remote_shell()).arg(&from).arg(there);
            rsync
        };
        let (code, _, err) = told(&ended(command).await);
        assert_eq!(code, Some(0), "{program}: {err}");
        assert_eq!(std::fs::read(to).unwrap(), vec![7; 300_000]);
        assert_eq!(open.end().await.how, How::PeerClosed);
    }
}

/// Answers one connection with what it says.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_listed_forward_works_and_no_other() {
    for mode in [SessionMode::Forward {}, SessionMode::Full {}] {
        let (listed, unlisted) = (echo().await, echo().await);
        let open = open(|spec| {
            spec.mode = mode.clone();
            spec.forwards = vec![format!("127.0.0.1:{listed}").parse().unwrap(), "[::1]:9".parse().unwrap()];
        })
        .await;
        let free = || async { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port() };
        let (a, b) = (free().await, free().await);
        let forwards =
            [format!("-L127.0.0.1:{a}:127.0.0.1:{listed}"), format!("-L127.0.0.1:{b}:127.0.0.1:{unlisted}")];
        let mut ssh = open.ssh_running(&["-N", &forwards[0], &forwards[1]], &[]);
        let mut good = connect(a).await;
        good.write_all(b"through the tunnel").await.unwrap();
        let mut answer = [0; 18];
        good.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"through the tunnel");
        let mut bad = connect(b).await;
        // Its target echoes, so an end without an answer is a refusal.
        let _ = bad.write_all(b"x").await;
        let mut nothing = Vec::new();
        let _ = bad.read_to_end(&mut nothing).await;
        assert_eq!(nothing, b"", "sshd let an unlisted forward through");
        ssh.kill().await.unwrap();
        assert_eq!(open.end().await.how, How::PeerClosed);
    }
}

/// ssh listens a little later than it starts.
async fn connect(port: u16) -> TcpStream {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => return stream,
            Err(_) => {
                assert!(std::time::Instant::now() < deadline, "ssh does not listen");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[tokio::test]
async fn forward_mode_runs_nothing() {
    for (before, asked) in [(vec![], "touch"), (terminal().to_vec(), ""), (vec!["-s"], "sftp")] {
        let open = open(|spec| {
            spec.mode = SessionMode::Forward {};
            spec.forwards = vec!["127.0.0.1:9".parse().unwrap()];
        })
        .await;
        let mark = open.fresh();
        let asked = if asked == "touch" { format!("touch {}", mark.display()) } else { asked.to_owned() };
        let asked: Vec<&str> = [&asked[..]].into_iter().filter(|word| !word.is_empty()).collect();
        let (code, out, _) = told(&open.ssh(&before, &asked).await);
        assert_eq!((code, &out[..], mark.exists()), (Some(255), "", false), "{before:?} {asked:?}");
        open.end().await;
    }
}

#[tokio::test]
async fn nothing_is_forwarded_that_was_not_ordered() {
    let echo = echo().await.to_string();
    let open_full = || open(|_| ());
    let local = open_full().await;
    let (code, _, err) = told(&local.ssh(&["-W", &format!("127.0.0.1:{echo}")], &[]).await);
    assert_eq!(code, Some(255));
    assert!(err.contains("stdio forwarding failed"), "{err}");
    local.end().await;
    for (listed, forward) in
        [(false, "-R0:127.0.0.1:9"), (true, "-R0:127.0.0.1:9"), (true, "-R/tmp/writ-no:127.0.0.1:9")]
    {
        let open = open(|spec| {
            if listed {
                spec.forwards = vec!["127.0.0.1:9".parse().unwrap()];
            }
        })
        .await;
        let (code, _, err) = told(&open.ssh(&["-N", "-oExitOnForwardFailure=yes", forward], &[]).await);
        assert_eq!(code, Some(255), "{forward}");
        assert!(err.contains("remote port forwarding failed"), "{err}");
        open.end().await;
    }
    let agent = open_full().await;
    let (code, out, _) = told(&agent.ssh(&["-A", "-X"], &["echo \"[$SSH_AUTH_SOCK][$DISPLAY]\""]).await);
    assert_eq!((code, &out[..]), (Some(0), "[][]\n"));
    agent.end().await;
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |sshd: &Path| {
        let spec = spec(myself(), secret().public(), SessionMode::Full {});
        let refused = session::start(&engine(), dir.path(), sshd, spec).await.unwrap_err();
        assert!(refused.nothing_ran());
        refused.to_string()
    };
    let why = start(Path::new("/nonexistent/sshd")).await;
    assert!(why.contains("apt-get install openssh-server") && why.contains("port 22"), "{why}");
    let fake = |text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join("sshd");
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    };
    let old = "case $1 in -t) echo \"$3: line 26: Bad configuration option: ChannelTimeout\" >&2;;\n\
               *) printf 'unknown option -- V\\nOpenSSH_8.4p1 Debian-5, OpenSSL 1.1.1w\\n' >&2;; esac; exit 255";
    let why = start(&fake(old)).await;
    assert!(why.starts_with("OpenSSH_8.4p1 cannot end idle sessions"), "{why}");
    let why = start(&fake("printf 'no hostkeys \\033[31mavailable' >&2; exit 1")).await;
    assert!(why.starts_with("sshd refuses its configuration: no hostkeys ?[31mavailable"), "{why}");
    let _ = std::fs::remove_file(dir.path().join("sshd"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays behind");
}

#[tokio::test]
async fn root_itself_may_log_in_when_it_is_named() {
    if !needs_root("root_itself_may_log_in_when_it_is_named") {
        return;
    }
    // sftp, which needs no shell and so none of root's start-up files.
    let open = open(|spec| spec.user = "root".parse().unwrap()).await;
    open.write("batch", "pwd\n");
    let mut sftp = open.client("sftp");
    sftp.arg("-b").arg(open.dir.path().join("batch")).arg(open.target());
    let (code, out, err) = told(&ended(sftp).await);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("Remote working directory: /root"), "{out}");
    assert_eq!(open.end().await.how, How::PeerClosed);
}

#[tokio::test]
async fn root_lets_in_a_user_whose_password_is_locked() {
    if !needs_root("root_lets_in_a_user_whose_password_is_locked") {
        return;
    }
    let user = TemporaryUser::create(1);
    let open = open(|spec| spec.user = user.name.clone()).await;
    let (code, out, err) = told(&open.ssh(&[], &["id -u; id -G | wc -w; pwd; umask"]).await);
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..3], [&user.uid.to_string()[..], "2", user.home.to_str().unwrap()]);
    assert_eq!(open.end().await.how, How::PeerClosed);
}
