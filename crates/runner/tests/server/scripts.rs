//! Scripts that run, and what is kept of them.

use authz::Params;
use protocol::job::{JobEnd, MAX_OUTPUT};
use protocol::runner::{RunnerAnswer, RunnerRequest};
use rustix::process::Signal;

use crate::rig::{Rig, Wishes, alive, all, code, next, request, until};

#[tokio::test]
async fn a_signed_script_runs_once_and_its_result_waits_until_it_is_forgotten() {
    let (rig, mut process) = Rig::anchored().await;
    let script = rig.counting("printf out; printf err >&2; exit 7");
    let (op, ask) = rig.script(&script);
    let answers = all(&mut rig.send(&ask).await).await;
    let [RunnerAnswer::Committed {}, RunnerAnswer::Started {}, ended] = &answers[..] else {
        panic!("{answers:?}")
    };
    let result = rig.result(ended);
    assert_eq!((result.op, &result.end), (op, &JobEnd::Exited { code: 7 }));
    assert_eq!((&result.stdout.0[..], &result.stderr.0[..]), (&b"out"[..], &b"err"[..]));

    assert_eq!(code(&rig.ask(&ask).await), "replay");
    assert_eq!(rig.outcome(op).await, *ended);
    process.signal(Signal::TERM);
    assert!(process.ended().await);
    let process = rig.again().await;
    assert_eq!(rig.outcome(op).await, *ended, "it survives restarts");
    process.kill();
    let process = rig.again().await;
    assert_eq!(rig.outcome(op).await, *ended, "and crashes");

    let (good, text) = rig.run("status", &Wishes::default()).await;
    assert!(
        good && text.contains("1 nonce(s) burned") && text.contains(&format!("{op} ended after")),
        "{text}"
    );
    for _ in 0..2 {
        assert_eq!(rig.ask(&RunnerRequest::Forget { op }).await, RunnerAnswer::Done {});
    }
    let forgotten = rig.outcome(op).await;
    assert!(
        matches!(&forgotten, RunnerAnswer::Unknown { why } if why.contains("forgotten")),
        "{forgotten:?}"
    );
    assert_eq!(code(&rig.ask(&ask).await), "replay", "forgotten, and still burned");
    drop(process);
    let _process = rig.again().await;
    assert_eq!(code(&rig.ask(&ask).await), "replay");
    assert_eq!(rig.runs(), 1);
}

#[tokio::test]
async fn what_nobody_sees_of_it() {
    let (rig, process) = Rig::anchored().await;
    let (op, ask) = rig.script("echo hunter2-in-the-output; env; ls -l /proc/self/fd");
    let answers = all(&mut rig.send(&ask).await).await;
    let seen = String::from_utf8_lossy(&rig.result(answers.last().unwrap()).stdout.0).into_owned();
    assert!(seen.contains("hunter2-in-the-output") && !seen.contains("WRIT_RUNNER"), "{seen}");
    assert!(!seen.contains(rig.path("state").to_str().unwrap()), "nothing of ours is open in it: {seen}");
    let file = std::fs::read_to_string(rig.path(&format!("state/jobs/{op}.json"))).unwrap();
    for text in [process.output(), file, format!("{answers:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn two_copies_of_one_order_run_once() {
    let (rig, _process) = Rig::anchored().await;
    for round in 1..=5 {
        let (_, ask) = rig.script(&rig.counting("exit 0"));
        let (mut one, mut two) = (rig.send(&ask).await, rig.send(&ask).await);
        let (one, two) = tokio::join!(all(&mut one), all(&mut two));
        let mut lasts = [code(one.last().unwrap()), code(two.last().unwrap())];
        lasts.sort_unstable();
        assert_eq!(lasts, ["accepted", "replay"], "{one:?} {two:?}");
        assert_eq!(rig.runs(), round);
    }
}

#[tokio::test]
async fn it_runs_to_its_end_although_the_warden_left() {
    let (rig, _process) = Rig::anchored().await;
    let (op, ask) = rig.script(&rig.counting(&rig.gated("echo gone through")));
    let mut framed = rig.send(&ask).await;
    assert_eq!(next(&mut framed).await, RunnerAnswer::Committed {});
    assert_eq!(next(&mut framed).await, RunnerAnswer::Started {});
    drop(framed);
    assert_eq!(rig.status().await.jobs, 1);
    assert_eq!(code(&rig.ask(&RunnerRequest::Forget { op }).await), "busy");
    assert_eq!(code(&rig.ask(&ask).await), "replay");
    // Somebody asks, loses patience, and somebody else asks.
    drop(rig.send(&RunnerRequest::JobOutcome { op }).await);
    let mut waiting = rig.send(&RunnerRequest::JobOutcome { op }).await;
    rig.open_gate();
    let ended = next(&mut waiting).await;
    assert_eq!(rig.result(&ended).stdout.0, b"gone through\n");
    assert_eq!(rig.outcome(op).await, ended);
    assert_eq!(rig.status().await.jobs, 0);
}

#[tokio::test]
async fn limits_of_the_order_hold() {
    let (rig, _process) = Rig::anchored().await;
    let script = "head -c 5000000 /dev/zero; sleep 1000";
    let mut order = rig.job(script);
    if let Params::JobRun(params) = &mut order.params {
        (params.timeout_s, params.max_output) = (1, MAX_OUTPUT as u32);
    }
    let answers = all(&mut rig.send(&request(rig.sign(&order), script)).await).await;
    let result = rig.result(answers.last().unwrap());
    assert_eq!(result.end, JobEnd::TimedOut {});
    assert_eq!(
        (result.stdout.0.len(), result.truncated),
        (MAX_OUTPUT, true),
        "the longest result gets through"
    );
}

#[tokio::test]
async fn what_cannot_start_is_said_to_have_not_started() {
    let (rig, _process) = Rig::anchored().await;
    let mut order = rig.job("true");
    if let Params::JobRun(params) = &mut order.params {
        params.interpreter = "/no/such/interpreter".parse().unwrap();
    }
    let envelope = rig.sign(&order);
    let op = envelope.id();
    let ask = request(envelope, "true");
    let answers = all(&mut rig.send(&ask).await).await;
    let [RunnerAnswer::Committed {}, not_started @ RunnerAnswer::NotStarted { .. }] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(rig.outcome(op).await, *not_started);
    assert_eq!(code(&rig.ask(&ask).await), "replay");
}

#[tokio::test]
async fn at_its_end_the_runner_ends_everything_and_says_so() {
    for signal in [Signal::TERM, Signal::INT] {
        let (rig, mut process) = Rig::anchored().await;
        let pid = rig.path("pid");
        let (op, ask) =
            rig.script(&format!("sleep 1000 & echo $! > {pid:?}.new; mv {pid:?}.new {pid:?}; wait"));
        let mut framed = rig.send(&ask).await;
        let pid = until("the script's child", || std::fs::read_to_string(&pid).ok()).await;
        process.signal(signal);
        let answers = all(&mut framed).await;
        let result = rig.result(answers.last().unwrap());
        assert!(
            matches!(&result.end, JobEnd::Cancelled { why } if why == "the runner was stopped"),
            "{:?}",
            result.end
        );
        assert!(process.ended().await && !rig.path("run/socket").exists());
        assert!(!alive(&pid));
        let _process = rig.again().await;
        assert_eq!(rig.outcome(op).await, *answers.last().unwrap());
    }
}

#[tokio::test]
async fn more_than_allowed_at_once_are_refused_and_may_come_again() {
    let rig = Rig::new();
    let _process = rig.start(&Wishes { more: "jobs_at_once = 1", ..Wishes::default() }, "").await;
    rig.anchor().await;
    let (_, first) = rig.script(&rig.gated("exit 0"));
    let (_, second) = rig.script(&rig.counting("exit 0"));
    let mut running = rig.send(&first).await;
    assert_eq!(next(&mut running).await, RunnerAnswer::Committed {});
    assert_eq!(code(&rig.ask(&second).await), "busy");
    rig.open_gate();
    all(&mut running).await;
    let answers = all(&mut rig.send(&second).await).await;
    assert_eq!(rig.result(answers.last().unwrap()).end, JobEnd::Exited { code: 0 });
    assert_eq!(rig.runs(), 1);
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_runner_and_not_the_truth() {
    let (rig, mut process) = Rig::anchored().await;
    let (op, ask) = rig.script(&rig.counting(&rig.gated("exit 0")));
    let mut framed = rig.send(&ask).await;
    assert_eq!(next(&mut framed).await, RunnerAnswer::Committed {});
    assert_eq!(next(&mut framed).await, RunnerAnswer::Started {});
    let (jobs, away) = (rig.path("state/jobs"), rig.path("state/away"));
    std::fs::rename(&jobs, &away).unwrap();
    rig.open_gate();
    let answers = all(&mut framed).await;
    assert!(
        matches!(&answers[..], [RunnerAnswer::Unknown { why }] if why.contains("could not be written down")),
        "{answers:?}"
    );
    assert!(!process.ended().await && process.output().contains("stopped after a disk error"));
    std::fs::rename(&away, &jobs).unwrap();
    let _process = rig.again().await;
    let answer = rig.outcome(op).await;
    assert!(matches!(answer, RunnerAnswer::Unknown { .. }), "{answer:?}");
    assert_eq!((code(&rig.ask(&ask).await), rig.runs()), ("replay", 1));
}

/// Where nothing can be written down, nothing is accepted, and the order may come again.
#[tokio::test]
async fn a_full_disk_is_a_refusal() {
    let (rig, _process) = Rig::anchored().await;
    let (_, ask) = rig.script(&rig.counting("exit 0"));
    let (jobs, away) = (rig.path("state/jobs"), rig.path("state/away"));
    std::fs::rename(&jobs, &away).unwrap();
    let answer = rig.ask(&ask).await;
    assert!(
        matches!(&answer, RunnerAnswer::Refused { code, why } if code == "closed" && why.contains("nothing was accepted")),
        "{answer:?}"
    );
    std::fs::rename(&away, &jobs).unwrap();
    let answers = all(&mut rig.send(&ask).await).await;
    assert!(matches!(answers.last(), Some(RunnerAnswer::Ended { .. })), "{answers:?}");
    assert_eq!(rig.runs(), 1);
}

/// A warden that takes no results must not fill the disk.
#[tokio::test]
async fn results_that_nobody_takes_stop_new_scripts() {
    let (rig, process) = Rig::anchored().await;
    let (op, ask) = rig.script("exit 0");
    all(&mut rig.send(&ask).await).await;
    drop(process);
    let text = std::fs::read_to_string(rig.path(&format!("state/jobs/{op}.json"))).unwrap();
    let process = rig.again().await;
    let mut others = Vec::new();
    for n in 1..64 {
        let other = protocol::Sha256::of(&[n]);
        let text = text.replace(&op.to_string(), &other.to_string());
        std::fs::write(rig.path(&format!("state/jobs/{other}.json")), text).unwrap();
        others.push(other);
    }
    let (_, ask) = rig.script("exit 0");
    let answer = rig.ask(&ask).await;
    assert!(
        matches!(&answer, RunnerAnswer::Refused { code, why } if code == "busy" && why.contains("64 results")),
        "{answer:?}"
    );
    rig.ask(&RunnerRequest::Forget { op: others[0] }).await;
    let answers = all(&mut rig.send(&ask).await).await;
    assert!(matches!(answers.last(), Some(RunnerAnswer::Ended { .. })), "{answers:?}");
    drop(process);
}
