//! How a session ends, and that nothing of it survives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use authz::order::SessionMode;
use runner::engine::Engine;
use runner::engine::Leftover;
use runner::engine::session::{self, How};

use crate::client::{open, open_on, secret, spec, told};
use crate::common::*;

fn both() -> [Engine; 2] {
    [engine(), engine().without_cgroups()]
}

/// A command that leaves things behind in several ways and says when they are there.
fn litter(marker: &str) -> String {
    format!(
        "sleep {marker} & setsid nohup sleep {marker} >/dev/null 2>&1 </dev/null & \
         (setsid sh -c 'sleep {marker} & exec sleep {marker}' &) & "
    )
}

#[tokio::test]
async fn what_a_client_leaves_behind_is_killed() {
    for engine in both() {
        let marker = marker();
        let open = open_on(&engine, |_| ()).await;
        let command = format!(
            "{} while ! test $(pgrep -fc '^sleep {marker}') -ge 4; do :; done; exit 0",
            litter(&marker)
        );
        let (code, _, err) =
            told(&open.ssh(&[], &[&format!("({command}) >/dev/null 2>&1 </dev/null")]).await);
        assert_eq!(code, Some(0), "{err}");
        let end = open.end().await;
        assert_eq!(end.how, How::PeerClosed, "{}", end.said);
        assert!(end.leftovers_killed >= 4, "{}", end.leftovers_killed);
        assert_eq!(sleepers(&marker), Vec::<i32>::new());
    }
}

#[tokio::test]
async fn the_longest_time_ends_all_of_it() {
    for engine in both() {
        let marker = marker();
        let open = open_on(&engine, |spec| spec.max = Duration::from_secs(4)).await;
        let began = Instant::now();
        let mut ssh =
            open.ssh_running(terminal(), &[&format!("trap '' HUP TERM; {} sleep {marker}", litter(&marker))]);
        wait_until_async(|| sleeping(&marker, 5)).await;
        let end = open.end().await;
        assert_eq!(end.how, How::MaxTime, "{}", end.said);
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
        assert_eq!(sleepers(&marker), Vec::<i32>::new());
        assert!(!ssh.wait().await.unwrap().success(), "the client notices");
    }
}

#[tokio::test]
async fn idleness_ends_it() {
    let marker = marker();
    let sleeps = format!("sleep {marker}");
    let asked: [(&[&str], &[&str]); 3] = [(&[], &[&sleeps]), (terminal(), &[&sleeps]), (&["-N"], &[])];
    for (before, asked) in asked {
        let open = open(|spec| spec.idle = Duration::from_secs(1)).await;
        let began = Instant::now();
        let output = open.ssh(before, asked).await;
        assert!(!output.status.success());
        let end = open.end().await;
        assert_eq!(end.how, How::Idle, "{before:?} {asked:?} {}", end.said);
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
        assert_eq!(sleepers(&marker), Vec::<i32>::new());
    }
}

#[tokio::test]
async fn whoever_does_something_is_not_idle() {
    let open = open(|spec| spec.idle = Duration::from_secs(2)).await;
    let (code, out, _) = told(&open.ssh(&[], &["for n in 1 2 3 4 5; do sleep 0.6; echo $n; done"]).await);
    assert_eq!((code, out.lines().count()), (Some(0), 5));
    assert_eq!(open.end().await.how, How::PeerClosed);
}

#[tokio::test]
async fn a_client_that_never_comes_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(myself(), secret().public(), SessionMode::Full {});
    let session = session::start(&engine(), dir.path(), "/usr/sbin/sshd".as_ref(), spec).await.unwrap();
    drop(session.socket);
    let end = session.handle.wait().await;
    assert_eq!(end.how, How::NotAuthenticated, "{}", end.said);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn cancelling_and_dropping_end_all_of_it() {
    for engine in both() {
        let marker = marker();
        let command = format!("{} sleep {marker}", litter(&marker));
        let open = open_on(&engine, |_| ()).await;
        let _ssh = open.ssh_running(terminal(), &[&command]);
        wait_until_async(|| sleeping(&marker, 5)).await;
        open.handle.canceller().cancel();
        let end = open.end().await;
        assert_eq!(end.how, How::Cancelled, "{}", end.said);
        assert_eq!(sleepers(&marker), Vec::<i32>::new());

        let open = open_on(&engine, |_| ()).await;
        let _ssh = open.ssh_running(terminal(), &[&command]);
        wait_until_async(|| sleeping(&marker, 5)).await;
        let (root, supervisor) = (open.root.clone(), open.handle.leftover().supervisor());
        drop(open.handle);
        wait_until_async(|| !supervisor.is_alive()).await;
        assert_eq!(sleepers(&marker), Vec::<i32>::new());
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_killed_supervisor_takes_everything_along() {
    let _alone = ORPHANS.lock().await;
    for engine in both() {
        let marker = marker();
        let open = open_on(&engine, |_| ()).await;
        let _ssh = open.ssh_running(terminal(), &[&format!("{} sleep {marker}", litter(&marker))]);
        wait_until_async(|| sleeping(&marker, 5)).await;
        kill(open.handle.leftover().supervisor().pid());
        let end = open.end().await;
        assert_eq!(end.how, How::Lost, "{}", end.said);
        assert_eq!(sleepers(&marker), Vec::<i32>::new());
    }
}

/// What [`act`] starts for the next tests: a runner with one session whose client is ssh.
pub(crate) async fn act_as_runner() {
    let marker = std::env::var("MARKER").unwrap();
    let engine = match std::env::var("CGROUPS").unwrap().as_str() {
        "0" => engine().without_cgroups(),
        _ => engine(),
    };
    let open = open_on(&engine, |_| ()).await;
    let mut ssh = open.ssh_running(terminal(), &[&format!("{} sleep {marker}", litter(&marker))]);
    wait_until_async(|| sleeping(&marker, 5)).await;
    let told = (open.handle.leftover(), &open.root);
    println!("\n{}", serde_json::to_string(&told).unwrap());
    ssh.wait().await.unwrap();
}

struct Acting {
    actor: Actor,
    leftover: Leftover,
    root: PathBuf,
    _account: Option<Arc<TemporaryUser>>,
}

fn acting(marker: &str, cgroups: &str) -> Acting {
    let account = is_root().then(shared_user);
    let mut env = vec![("MARKER", marker), ("CGROUPS", cgroups)];
    env.extend(account.as_ref().map(|account| (ACCOUNT, account.name.as_str())));
    let mut actor = act("session", &env);
    let (leftover, root) = serde_json::from_str(&actor.says()).unwrap();
    Acting { actor, leftover, root, _account: account }
}

#[test]
fn a_killed_runner_takes_everything_along() {
    let _alone = ORPHANS.blocking_lock();
    let marker = marker();
    let Acting { mut actor, leftover, root, _account } = acting(&marker, "1");
    actor.kill();
    wait_until("the supervisor's end", || !leftover.supervisor().is_alive());
    assert_eq!(sleepers(&marker), Vec::<i32>::new());
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "the supervisor removes the directory");
    std::fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
fn what_outlives_runner_and_supervisor_is_found_again() {
    let _alone = ORPHANS.blocking_lock();
    // By what was written down of it, and by what its directory holds alone.
    for (cgroups, by_directory) in [("1", false), ("0", false), ("1", true), ("0", true)] {
        let marker = marker();
        let Acting { mut actor, leftover, root, _account } = acting(&marker, cgroups);
        // Stopped first: a supervisor that only learns that its runner died would clean up.
        let pid = nix::unistd::Pid::from_raw(leftover.supervisor().pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        actor.kill();
        kill(leftover.supervisor().pid());
        wait_until("sshd's end, by its parent's", || !leftover.main().is_alive());
        assert!(!sleepers(&marker).is_empty(), "something has to be left for this test to mean anything");
        let killed = if by_directory {
            let swept = session::sweep(&root).unwrap();
            assert_eq!(swept.dirs, 1);
            swept.killed
        } else {
            leftover.kill()
        };
        assert!(killed.killed >= 2 && killed.survivors.is_empty(), "{killed:?}");
        assert_eq!(sleepers(&marker), Vec::<i32>::new());
        assert_eq!(
            session::sweep(&root).unwrap(),
            session::Swept::default(),
            "its directory is gone already"
        );
        std::fs::remove_dir_all(root.parent().unwrap()).unwrap();
    }
}
