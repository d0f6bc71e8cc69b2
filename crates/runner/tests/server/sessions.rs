//! Sessions as the warden sees them: ready with a descriptor, one for each operator, over with the
//! connection. What happens inside is the engine's tests' business.

use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use authz::{Params, SecretKey};
use local_socket::Framed;
use protocol::runner::{RunnerAnswer, RunnerRequest};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;

use crate::rig::{DEADLINE, Process, Rig, Wishes, code, next, until};

struct Open {
    warden: Framed,
    client: BufReader<UnixStream>,
}

fn ask(rig: &Rig) -> RunnerRequest {
    RunnerRequest::Session { envelope: rig.sign(&rig.session()) }
}

async fn open(rig: &Rig) -> Open {
    let mut warden = rig.send(&ask(rig)).await;
    let ready = next(&mut warden).await;
    assert!(matches!(ready, RunnerAnswer::SessionReady { .. }), "{ready:?}");
    let stream = StdStream::from(warden.take_fd().expect("a descriptor came with it"));
    stream.set_nonblocking(true).unwrap();
    let mut client = BufReader::new(UnixStream::from_std(stream).unwrap());
    let mut banner = String::new();
    tokio::time::timeout(DEADLINE, client.read_line(&mut banner)).await.unwrap().unwrap();
    assert!(banner.starts_with("SSH-2.0-OpenSSH"), "{banner:?}");
    Open { warden, client }
}

/// sshd is gone, and what was made for it.
async fn gone(rig: &Rig, mut client: BufReader<UnixStream>) {
    let mut rest = Vec::new();
    // Reset when sshd was killed with something of ours unread.
    let _ = tokio::time::timeout(DEADLINE, client.read_to_end(&mut rest)).await.expect("sshd is gone");
    let dir = rig.path("sessions");
    until("no directory", || std::fs::read_dir(&dir).unwrap().next().is_none().then_some(())).await;
}

fn why(answer: &RunnerAnswer) -> &str {
    match answer {
        RunnerAnswer::SessionEnded { why, .. } => why,
        _ => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn a_session_lives_as_long_as_its_connection() {
    let (rig, _process) = Rig::anchored().await;
    let asked = ask(&rig);
    let Open { mut warden, client } = open(&rig).await;
    assert_eq!(rig.status().await.sessions, 1);
    let second = rig.ask(&asked).await;
    assert_eq!(code(&second), "sessions", "{second:?}");
    // The warden's way of hanging up: it still wants to hear the end.
    warden.finish().await.unwrap();
    let end = next(&mut warden).await;
    assert!(why(&end).contains("the warden closed its connection"), "{end:?}");
    gone(&rig, client).await;
    assert_eq!(rig.status().await.sessions, 0);

    let RunnerRequest::Session { envelope } = &asked else { unreachable!() };
    let mut third = rig.send(&RunnerRequest::Session { envelope: envelope.clone() }).await;
    assert!(matches!(next(&mut third).await, RunnerAnswer::SessionReady { .. }), "a refusal burns nothing");
    let client = StdStream::from(third.take_fd().unwrap());
    // The warden dies.
    drop(third);
    until("the session's end", || {
        std::fs::read_dir(rig.path("sessions")).unwrap().next().is_none().then_some(())
    })
    .await;
    drop(client);
    until("room for another", || Some(())).await;
    assert_eq!(code(&rig.ask(&asked).await), "replay");
}

#[tokio::test]
async fn the_client_can_end_it_too() {
    let (rig, _process) = Rig::anchored().await;
    let Open { mut warden, client } = open(&rig).await;
    drop(client);
    let end = next(&mut warden).await;
    assert!(!why(&end).contains("warden"), "{end:?}");
    assert_eq!(warden.receive::<RunnerAnswer>().await.unwrap(), None);
    assert_eq!(rig.status().await.sessions, 0);
}

#[tokio::test]
async fn the_longest_time_is_the_longest_time() {
    let (rig, _process) = Rig::anchored().await;
    let mut order = rig.session();
    if let Params::SessionOpen(params) = &mut order.params {
        (params.idle_s, params.max_s) = (5, 5);
    }
    let mut warden = rig.send(&RunnerRequest::Session { envelope: rig.sign(&order) }).await;
    next(&mut warden).await;
    let _client = warden.take_fd().unwrap();
    let end = next(&mut warden).await;
    let RunnerAnswer::SessionEnded { duration_ms, .. } = end else { panic!("{end:?}") };
    assert!(duration_ms < Duration::from_secs(8).as_millis() as u64, "{duration_ms}");
}

#[tokio::test]
async fn no_session_outlives_the_runner() {
    for signal in [Signal::TERM, Signal::KILL] {
        let (rig, mut process) = Rig::anchored().await;
        let Open { mut warden, client } = open(&rig).await;
        process.signal(signal);
        if signal == Signal::TERM {
            let end = next(&mut warden).await;
            assert!(why(&end).contains("the runner was stopped"), "{end:?}");
        }
        assert_eq!(process.ended().await, signal == Signal::TERM);
        gone(&rig, client).await;
        let _process = rig.again().await;
        drop(open(&rig).await);
    }
}

#[tokio::test]
async fn leftovers_of_the_power_going_out_are_swept() {
    let (rig, process) = Rig::anchored().await;
    process.kill();
    let dead = rig.path("sessions/00112233445566778899aabbccddeeff");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("host_key"), "x").unwrap();
    let _process: Process = rig.again().await;
    assert!(!dead.exists());
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_before_anything_is_burned() {
    let rig = Rig::new();
    let process = rig.start(&Wishes { more: "sshd = \"/no/such/sshd\"", ..Wishes::default() }, "").await;
    rig.anchor().await;
    let asked = ask(&rig);
    let answer = rig.ask(&asked).await;
    assert!(
        matches!(&answer, RunnerAnswer::Refused { code, why } if code == "runner" && why.contains("openssh-server")),
        "{answer:?}"
    );
    let with = |change: &dyn Fn(&mut authz::order::SessionParams)| {
        let mut order = rig.session();
        let Params::SessionOpen(params) = &mut order.params else { unreachable!() };
        change(params);
        RunnerRequest::Session { envelope: rig.sign(&order) }
    };
    drop(process);
    let _process = rig.again().await;
    let weak = protocol::Ed25519Key::from_bytes([0; 32]);
    let command = |text: &str| authz::order::SessionMode::Exec { command: text.parse().unwrap() };
    for (other, expected) in [
        (with(&|params| params.user = "no-such-user-here".parse().unwrap()), "user"),
        (with(&|params| params.key = weak), "bad_order"),
        (with(&|params| params.mode = command("echo \\")), "bad_order"),
    ] {
        let answer = rig.ask(&other).await;
        assert_eq!(code(&answer), expected, "{answer:?}");
    }
    let mallory = SecretKey::from_seed(&[66; 32]);
    let order = rig.session();
    let stranger = crate::rig::sign_as(&order, authz::Namespace::Session, &mallory);
    assert_eq!(code(&rig.ask(&RunnerRequest::Session { envelope: stranger }).await), "unknown_signer");
    let as_job = crate::rig::sign_as(&order, authz::Namespace::Job, &rig.operator);
    assert_eq!(code(&rig.ask(&RunnerRequest::Session { envelope: as_job }).await), "namespace");
    let mut warden = rig.send(&asked).await;
    assert!(matches!(next(&mut warden).await, RunnerAnswer::SessionReady { .. }));
}
