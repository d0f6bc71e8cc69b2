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

use crate::rig::{DEADLINE, Process, Rig, Wishes, alive, code, me, next, until};

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
    let dir = rig.path("run/sessions");
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
        std::fs::read_dir(rig.path("run/sessions")).unwrap().next().is_none().then_some(())
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
    let dead = rig.path("run/sessions/00112233445566778899aabbccddeeff");
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

/// The processes whose command line is this, zombies left out.
fn running(line: &str) -> Vec<String> {
    let line = format!("{}\0", line.replace(' ', "\0"));
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| Some(entry.file_name().to_str()?.to_owned()))
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text == line.as_bytes()))
        .filter(|pid| alive(pid))
        .collect()
}

/// As when the whole unit is killed while agent and operator hold on to the session.
#[tokio::test]
async fn what_outlives_runner_and_supervisor_is_ended_at_the_next_start() {
    let (rig, process) = Rig::anchored().await;
    let sleeps = format!("sleep 1000.{:010}", std::process::id());
    let mut order = rig.session();
    let Params::SessionOpen(params) = &mut order.params else { unreachable!() };
    // A shell of its own stays, so that there are two, and one of them in another session.
    params.mode =
        authz::order::SessionMode::Exec { command: format!("setsid {sleeps} & {sleeps}").parse().unwrap() };
    let mut warden = rig.send(&RunnerRequest::Session { envelope: rig.sign(&order) }).await;
    let ready = next(&mut warden).await;
    assert!(matches!(ready, RunnerAnswer::SessionReady { .. }), "{ready:?}");
    let stream = StdStream::from(warden.take_fd().unwrap());
    stream.set_nonblocking(true).unwrap();
    let mut session = UnixStream::from_std(stream).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let relay = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut session).await;
        // Held, as by somebody who does not notice.
        std::future::pending::<()>().await;
        drop(session);
    });
    let _client = ssh(&rig, port);
    until("the session's processes", || (running(&sleeps).len() == 2).then_some(())).await;

    let supervisors = process.supervisors();
    assert_eq!(supervisors.len(), 1);
    // Stopped first, so that it cannot see its runner go.
    rustix::process::kill_process(supervisors[0], Signal::STOP).unwrap();
    process.kill();
    rustix::process::kill_process(supervisors[0], Signal::KILL).unwrap();
    let supervisor = supervisors[0].as_raw_pid().to_string();
    until("the supervisor's end", || (!alive(&supervisor)).then_some(())).await;
    assert_eq!(running(&sleeps).len(), 2, "otherwise this shows nothing");
    let _process = rig.again().await;
    assert_eq!(running(&sleeps), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(rig.path("run/sessions")).unwrap().count(), 0);
    relay.abort();
}

#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: starts ssh, to have somebody in the session"
)]
fn ssh(rig: &Rig, port: u16) -> Process {
    use std::os::unix::fs::OpenOptionsExt as _;

    let key = rig.path("key");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key).unwrap();
    let text = SecretKey::from_seed(&[0x78; 32]).to_openssh("test").unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let mut command = std::process::Command::new("ssh");
    command.args(["-F", "none", "-T", "-oBatchMode=yes", "-oIdentitiesOnly=yes", "-oIdentityAgent=none"]);
    command.args(["-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-i"]).arg(&key);
    command.args(["-p", &port.to_string(), &format!("{}@127.0.0.1", me())]);
    rig.follow(command)
}

/// sshd's words name what the client asked for; a receipt is read by the hub.
#[tokio::test]
async fn what_sshd_says_stays_on_this_host() {
    use std::os::unix::fs::PermissionsExt as _;

    for (script, says) in [
        ("[ \"$1\" = -t ] || echo 'subsystem request for SECRET' >&2", "nobody logged in"),
        ("echo 'permitopen SECRET' >&2; exit 1", "sshd refuses its configuration"),
    ] {
        let rig = Rig::new();
        let sshd = rig.path("sshd");
        std::fs::write(&sshd, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&sshd, std::fs::Permissions::from_mode(0o755)).unwrap();
        let more = format!("sshd = {sshd:?}").leak();
        let process = rig.start(&Wishes { more, ..Wishes::default() }, "").await;
        rig.anchor().await;
        let mut warden = rig.send(&ask(&rig)).await;
        let mut end = next(&mut warden).await;
        if matches!(end, RunnerAnswer::SessionReady { .. }) {
            end = next(&mut warden).await;
        }
        let told = why(&end);
        assert!(told.contains(says) && !told.contains("SECRET"), "{told}");
        assert!(process.output().contains("SECRET"), "{}", process.output());
    }
}
