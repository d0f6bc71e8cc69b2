//! Peers that are not the warden, and one that has the right uid and nothing else.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: becomes another user, to be turned away"
)]

use protocol::privileged::{PrivilegedAnswer, PrivilegedRequest};
use protocol::{HostId, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::rig::{DEADLINE, Rig, all, code, policy};

fn framed(json: &str) -> Vec<u8> {
    [&u32::try_from(json.len()).unwrap().to_be_bytes()[..], json.as_bytes()].concat()
}

#[tokio::test]
async fn junk_is_answered_or_left_and_harms_nobody() {
    let (rig, _process) = Rig::anchored().await;
    let deep = format!("{{\"ask\":\"order\",\"envelope\":{}", "[".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("4 GiB", vec![0xff, 0xff, 0xff, 0xff, b'{'], true),
        ("no JSON", framed("pct create 100"), true),
        ("nothing in it", framed(""), true),
        ("no request", framed("{\"ask\":\"exec\",\"command\":\"reboot\"}"), true),
        ("one field more", framed("{\"ask\":\"status\",\"user\":\"root\"}"), true),
        (
            "an option for a device",
            framed("{\"ask\":\"smart\",\"device\":\"--help\",\"transport\":null}"),
            true,
        ),
        (
            "a path for a device",
            framed("{\"ask\":\"smart\",\"device\":\"/dev/../etc/shadow\",\"transport\":null}"),
            true,
        ),
        (
            "a transport with more in it",
            framed("{\"ask\":\"smart\",\"device\":\"/dev/sda\",\"transport\":\"sat -s off\"}"),
            true,
        ),
        ("an order in the clear", framed("{\"ask\":\"order\",\"vmid\":301,\"image\":\"x\"}"), true),
        ("not UTF-8", [&[0, 0, 0, 2][..], &[0xc3, 0x28]].concat(), true),
        ("deep", framed(&deep), true),
        ("half a frame", framed("{\"ask\":\"status\"}")[..9].to_vec(), true),
        ("nothing", vec![], false),
    ];
    for (what, bytes, answered) in cases {
        let mut stream = UnixStream::connect(rig.path("run/socket")).await.unwrap();
        // It may hang up before it has read all of it.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut framed = local_socket::Framed::from(stream);
        let answer: Option<PrivilegedAnswer> =
            tokio::time::timeout(DEADLINE, framed.receive()).await.unwrap().unwrap();
        assert_eq!(answer.as_ref().map(code), answered.then_some("request"), "{what}");
        assert_eq!(rig.status().await.closed, None, "{what}");
    }
    assert_eq!((rig.text("bin/smartctl.log"), rig.text("bin/pct.log")), (String::new(), String::new()));
}

#[tokio::test]
async fn only_roots_policy_is_anchored_and_only_once() {
    let rig = Rig::new();
    let PrivilegedRequest::Anchor { policy: bytes, host_key, .. } = rig.anchor_request() else {
        unreachable!()
    };
    let ask = |policy, host_id| PrivilegedRequest::Anchor {
        policy,
        documents: vec![],
        host_id,
        host_key,
        host_key_gen: 1,
    };
    let process = rig.start_with("", "").await;
    assert_eq!(code(&rig.ask(&rig.anchor_request()).await), "privileged", "root has said nothing");
    drop(process);
    let _process = rig.start("").await;
    let mut other = policy();
    other.issued_at += 1;
    let host_id = crate::rig::HOST_ID;
    assert_eq!(code(&rig.ask(&ask(other.encode().into(), host_id)).await), "other_policy");
    assert_eq!(rig.ask(&rig.anchor_request()).await, PrivilegedAnswer::Done {});
    assert_eq!(code(&rig.ask(&ask(bytes, HostId::from_bytes([9; 16]))).await), "anchored");
    assert_eq!(rig.status().await.anchored.unwrap().policy, Sha256::of(&policy().encode()));
}

/// Where the peer is checked by the kernel's word: another user of this machine comes and asks.
#[tokio::test]
async fn another_user_is_turned_away() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let (rig, process) = Rig::anchored().await;
    let out = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::asks_as_a_stranger", "--ignored", "--nocapture"])
        .env("WRIT_TEST_SOCKET", rig.path("run/socket"))
        .output();
    let out = match out {
        Ok(out) => {
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
        }
        Err(error) => {
            eprintln!("skipped: setpriv: {error}");
            return;
        }
    };
    if out.contains("Permission denied") {
        eprintln!("skipped: nobody may not start this test's binary");
        return;
    }
    assert!(out.contains("the stranger was told: peer"), "{out}");
    assert!(process.output().contains("uid=65534"), "{}", process.output());
}

/// Run by the test above, as nobody.
#[tokio::test]
#[ignore = "is started by another test, as another user"]
async fn asks_as_a_stranger() {
    let Some(path) = std::env::var_os("WRIT_TEST_SOCKET") else { return };
    let mut framed: local_socket::Framed = UnixStream::connect(path).await.unwrap().into();
    let _ = framed.send(&PrivilegedRequest::Status {}).await;
    let answer = all(&mut framed).await.pop().unwrap();
    println!("the stranger was told: {}", code(&answer));
}
