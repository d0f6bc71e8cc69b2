//! A peer that has the right uid and nothing else.

use std::time::{Duration, Instant};

use protocol::runner::{RunnerAnswer, RunnerRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::rig::{DEADLINE, Rig, Wishes, code, next};

fn framed(json: &str) -> Vec<u8> {
    [&u32::try_from(json.len()).unwrap().to_be_bytes()[..], json.as_bytes()].concat()
}

#[tokio::test]
async fn junk_is_answered_or_left_and_harms_nobody() {
    let (rig, _process) = Rig::anchored().await;
    let huge_list = format!("{{\"ask\":\"job\",\"envelope\":{}", "[".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("4 GiB", vec![0xff, 0xff, 0xff, 0xff, b'{'], true),
        ("one byte over the limit", (640 * 1024 + 1u32).to_be_bytes().to_vec(), true),
        ("no JSON", framed("sh -c reboot"), true),
        ("nothing in it", framed(""), true),
        ("no request", framed("{\"ask\":\"exec\",\"command\":\"reboot\"}"), true),
        ("one field more", framed("{\"ask\":\"status\",\"user\":\"root\"}"), true),
        ("not UTF-8", [&[0, 0, 0, 2][..], &[0xc3, 0x28]].concat(), true),
        ("deep", framed(&huge_list), true),
        ("half a frame", framed("{\"ask\":\"status\"}")[..9].to_vec(), true),
        ("half a length", vec![0, 0], true),
        ("nothing", vec![], false),
    ];
    for (what, bytes, answered) in cases {
        let mut stream = UnixStream::connect(rig.path("run/socket")).await.unwrap();
        // It may hang up before it has read all of it.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut framed = local_socket::Framed::from(stream);
        let answer: Option<RunnerAnswer> =
            tokio::time::timeout(DEADLINE, framed.receive()).await.unwrap().unwrap();
        assert_eq!(answer.as_ref().map(code), answered.then_some("request"), "{what}");
        assert_eq!(rig.status().await.closed, None, "{what}");
    }
}

#[tokio::test]
async fn whoever_says_nothing_is_left() {
    let (rig, _process) = Rig::anchored().await;
    let mut silent = Vec::new();
    for bytes in [&b""[..], &[0, 0, 0, 9, b'{']] {
        let mut stream = UnixStream::connect(rig.path("run/socket")).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        silent.push(stream);
    }
    assert_eq!(rig.status().await.jobs, 0, "others are heard meanwhile");
    for mut stream in silent {
        let mut rest = Vec::new();
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn more_peers_than_there_is_room_for_wait_their_turn() {
    let (rig, _process) = Rig::anchored().await;
    let mut crowd = Vec::new();
    for _ in 0..33 {
        crowd.push(UnixStream::connect(rig.path("run/socket")).await.unwrap());
    }
    // Whoever says nothing is left after ten seconds, and then others have their turn.
    let begun = Instant::now();
    assert_eq!(rig.status().await.closed, None);
    assert!(begun.elapsed() > Duration::from_secs(5), "there is no limit");
    drop(crowd);
}

/// Thirty-two places are for those who ask; what was accepted has its own.
#[tokio::test]
async fn what_runs_takes_no_place_of_those_who_ask() {
    let rig = Rig::new();
    let _process = rig.start(&Wishes { more: "jobs_at_once = 64", ..Wishes::default() }, "").await;
    rig.anchor().await;
    let mut held = Vec::new();
    let mut last = None;
    for _ in 0..33 {
        let (op, ask) = rig.script("exec sleep 1000");
        let mut warden = rig.send(&ask).await;
        assert_eq!(next(&mut warden).await, RunnerAnswer::Committed {});
        assert_eq!(next(&mut warden).await, RunnerAnswer::Started {});
        held.push(warden);
        last = Some(op);
    }
    let op = last.unwrap();
    for _ in 0..33 {
        held.push(rig.send(&RunnerRequest::JobOutcome { op }).await);
    }
    let begun = Instant::now();
    assert_eq!(rig.status().await.jobs, 33);
    assert!(begun.elapsed() < Duration::from_secs(5), "it had to wait for a place");
}

#[tokio::test]
async fn sessions_take_no_place_of_those_who_ask() {
    let rig = Rig::new();
    let _process = rig.start(&Wishes { more: "sessions_per_operator = 64", ..Wishes::default() }, "").await;
    rig.anchor().await;
    let mut held = Vec::new();
    for _ in 0..33 {
        let mut warden = rig.send(&RunnerRequest::Session { envelope: rig.sign(&rig.session()) }).await;
        let ready = next(&mut warden).await;
        assert!(matches!(ready, RunnerAnswer::SessionReady { .. }), "{ready:?}");
        held.push((warden.take_fd().unwrap(), warden));
    }
    let begun = Instant::now();
    assert_eq!(rig.status().await.sessions, 33);
    assert!(begun.elapsed() < Duration::from_secs(5), "it had to wait for a place");
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_before_it_has_come() {
    let (rig, _process) = Rig::anchored().await;
    let mut stream = UnixStream::connect(rig.path("run/socket")).await.unwrap();
    stream.write_all(&(640 * 1024 + 1u32).to_be_bytes()).await.unwrap();
    // Whoever is only slow hears nothing at all.
    assert_eq!(code(&next(&mut stream.into()).await), "request");
}
