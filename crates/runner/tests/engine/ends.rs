//! Nothing of a job survives: its own end, the time limit, being cancelled, and whatever is killed.

use std::time::{Duration, Instant};

use runner::engine::job::{self, How, JobSpec};
use runner::engine::{Engine, Leftover};

use crate::common::*;
use crate::jobs::{run_on, spec, text};

/// Leaves things behind in every way there is, then goes on as `then` says.
fn litter(marker: &str, then: &str) -> String {
    format!(
        "sleep {marker} &\n\
         setsid nohup sleep {marker} >/dev/null 2>&1 </dev/null &\n\
         (setsid sh -c 'sleep {marker} & sleep {marker} &' &) &\n\
         (trap '' TERM HUP INT; sleep {marker}; sleep {marker}) &\n\
         while test $(ps -eo args | grep -c '^sleep {marker}') -lt 5; do :; done\n{then}\n"
    )
}

fn both(engine: impl Fn() -> Engine) -> [Engine; 2] {
    [engine(), engine().without_cgroups()]
}

#[tokio::test]
async fn what_is_left_behind_is_killed() {
    for engine in both(engine) {
        let marker = marker();
        let end = run_on(&engine, spec(&litter(&marker, "exit 7"))).await;
        assert_eq!(end.how, How::Exited(7), "{}", text(&end.stderr));
        assert!(end.leftovers_killed >= 5, "{}", end.leftovers_killed);
        assert_eq!(running(&marker), Vec::<i32>::new());
    }
}

#[tokio::test]
async fn the_time_limit_ends_all_of_it() {
    for engine in both(engine) {
        let marker = marker();
        let stubborn = litter(&marker, &format!("trap '' TERM; sleep {marker}; sleep {marker}"));
        let began = Instant::now();
        let end = run_on(&engine, JobSpec { timeout: Duration::from_millis(700), ..spec(&stubborn) }).await;
        assert_eq!(end.how, How::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        assert_eq!(running(&marker), Vec::<i32>::new());
    }
}

#[tokio::test]
async fn whoever_acts_on_sigterm_may_say_goodbye() {
    let script = "trap 'echo bye; exit 0' TERM; echo hello; sleep 1000 & wait";
    let end = run_on(&engine(), JobSpec { timeout: Duration::from_millis(300), ..spec(script) }).await;
    assert_eq!((end.how, text(&end.stdout)), (How::TimedOut, "hello\nbye\n".into()));
}

#[tokio::test]
async fn a_fork_bomb_loses() {
    if !needs_root("a_fork_bomb_loses") {
        return;
    }
    let user = TemporaryUser::create(0);
    for engine in both(engine) {
        for child in ["bomb &", "setsid bash -c bomb &"] {
            let marker = marker();
            // The limit keeps the machine usable meanwhile, and without it there is no test.
            let bomb = format!(
                "ulimit -u 150 || exit 99\nbomb() {{ {child} {child} sleep {marker}; bomb; }}\n\
                 export -f bomb; bomb 2>/dev/null"
            );
            let interpreter = "/bin/bash".parse().unwrap();
            let timeout = Duration::from_millis(500);
            let spec = JobSpec { user: user.name.clone(), timeout, interpreter, ..spec(&bomb) };
            let end = run_on(&engine, spec).await;
            assert_eq!(end.how, How::TimedOut);
            assert!(end.leftovers_killed > 20, "{}", end.leftovers_killed);
            assert_eq!(running(&marker), Vec::<i32>::new());
        }
    }
}

#[tokio::test]
async fn a_process_without_a_first_thread_is_no_zombie() {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        eprintln!("skipped: it needs python3");
        return;
    }
    let marker = marker();
    // The first thread ends by exit(2) alone; /proc shows the process as Z while the other one lives.
    let python = format!(
        "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=({marker},)).start()\n\
         print('up', flush=True)\nctypes.CDLL(None).syscall(60, 0)\n"
    );
    let script = format!(
        "/usr/bin/python3 -c \"{python}\" & echo $!\nwhile ! grep -q '^State:.Z' /proc/$!/status; do :; done"
    );
    for engine in both(engine) {
        let end = run_on(&engine, spec(&script)).await;
        let pid: i32 = text(&end.stdout).lines().find_map(|line| line.parse().ok()).unwrap();
        assert_eq!(end.leftovers_killed, 1, "{}", text(&end.stderr));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[tokio::test]
async fn cancelling_and_dropping_kill_all_of_it() {
    for engine in both(engine) {
        let marker = marker();
        let script = litter(&marker, &format!("echo ready; sleep {marker}"));
        let job = job::start(&engine, spec(&script)).await.unwrap();
        wait_until("everything of it running", || sleeping(&marker, 6));
        let canceller = job.canceller();
        canceller.cancel();
        let end = job.wait().await;
        assert_eq!((end.how, text(&end.stdout)), (How::Cancelled, "ready\n".into()));
        assert_eq!(running(&marker), Vec::<i32>::new());
        canceller.cancel();

        let job = job::start(&engine, spec(&script)).await.unwrap();
        wait_until("everything of it running", || sleeping(&marker, 6));
        let supervisor = job.leftover().supervisor();
        drop(job);
        while supervisor.is_alive() {
            tokio::task::yield_now().await;
        }
        assert_eq!(running(&marker), Vec::<i32>::new());
    }
}

#[tokio::test]
async fn output_that_somebody_else_holds_open_is_not_waited_for() {
    let job = job::start(&engine(), spec("echo here; sleep 0.2")).await.unwrap();
    let pid = job.leftover().main().pid();
    let held = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
    let began = Instant::now();
    let end = job.wait().await;
    assert_eq!((end.how, text(&end.stdout)), (How::Exited(0), "here\n".into()));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop(held);
}

#[tokio::test]
async fn many_at_once_do_not_mix() {
    let engine = engine();
    let jobs = (0..12).map(|n| {
        let engine = engine.clone();
        tokio::spawn(async move { (n, run_on(&engine, spec(&format!("echo {n}; exit {n}"))).await) })
    });
    for job in jobs.collect::<Vec<_>>() {
        let (n, end) = job.await.unwrap();
        assert_eq!((end.how, text(&end.stdout)), (How::Exited(n), format!("{n}\n")));
    }
}

#[tokio::test]
async fn a_killed_supervisor_takes_everything_along() {
    let _alone = ORPHANS.lock().await;
    for engine in both(engine) {
        let marker = marker();
        let script = litter(&marker, &format!("echo ready; sleep {marker}"));
        let job = job::start(&engine, spec(&script)).await.unwrap();
        wait_until("everything of it running", || sleeping(&marker, 6));
        let bystander = job::start(&engine, spec("sleep 0.5; echo unharmed")).await.unwrap();
        kill(job.leftover().supervisor().pid());
        let end = job.wait().await;
        assert!(matches!(&end.how, How::Lost(why) if why.contains("signal: 9")), "{:?}", end.how);
        assert_eq!((running(&marker), end.survivors), (vec![], vec![]));
        assert_eq!(text(&end.stdout), "ready\n");
        assert_eq!(text(&bystander.wait().await.stdout), "unharmed\n");
    }
}

#[test]
fn a_killed_runner_takes_everything_along() {
    let _alone = ORPHANS.blocking_lock();
    for cgroups in ["1", "0"] {
        let marker = marker();
        let script = litter(&marker, &format!("sleep {marker}"));
        let mut actor = act("runner", &[("SCRIPT", &script), ("CGROUPS", cgroups)]);
        let leftover: Leftover = serde_json::from_str(&actor.says()).unwrap();
        wait_until("everything of it running", || sleeping(&marker, 6));
        actor.kill();
        wait_until("the supervisor's end", || !leftover.supervisor().is_alive());
        assert_eq!(running(&marker), Vec::<i32>::new());
        assert_eq!(leftover.kill().survivors, Vec::<i32>::new());
    }
}

#[test]
fn what_outlives_runner_and_supervisor_is_found_again() {
    let _alone = ORPHANS.blocking_lock();
    for cgroups in ["1", "0"] {
        let marker = marker();
        let script = litter(&marker, &format!("sleep {marker}"));
        let mut actor = act("runner", &[("SCRIPT", &script), ("CGROUPS", cgroups)]);
        let leftover: Leftover = serde_json::from_str(&actor.says()).unwrap();
        wait_until("everything of it running", || sleeping(&marker, 6));
        // Stopped first: a supervisor that only learns that its runner died would clean up.
        let pid = nix::unistd::Pid::from_raw(leftover.supervisor().pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        actor.kill();
        kill(leftover.supervisor().pid());
        wait_until("the interpreter's end, by its parent's", || !leftover.main().is_alive());
        assert!(!running(&marker).is_empty(), "something has to be left for this test to mean anything");
        let killed = leftover.kill();
        assert!(killed.killed >= 4 && killed.survivors.is_empty(), "{killed:?}");
        assert_eq!(running(&marker), Vec::<i32>::new());
        assert_eq!(leftover.kill().killed, 0);
    }
}
