//! Operators' keys of every type and their certificates, against the real `ssh-keygen` of this machine.
//!
//! Law 1 (`security.md` 4.3): whatever we accept, `ssh-keygen -Y verify` accepts too. Law 2: where it alone
//! accepts, our reason stands in [`desk::STRICTER`]. There is no security key in the test: its signatures are made
//! in software, as OpenSSH's PROTOCOL.u2f says, and the tool is the judge that they are real.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

mod certificates;
mod crafted;
mod desk;
mod forge;
mod mutants;

use std::path::Path;
use std::time::{Duration, Instant};

use authz::policy::{Authority, Credential};
use authz::{OperatorKey, RefusalCode};
use scenarios::process::{Process, run};

use desk::{Desk, Tally, order, ours, policy};
use forge::{Token, blob_of};

const PLAIN: [(&str, &[&str]); 6] = [
    ("ed25519", &["-t", "ed25519"]),
    ("ecdsa256", &["-t", "ecdsa", "-b", "256"]),
    ("ecdsa384", &["-t", "ecdsa", "-b", "384"]),
    ("ecdsa521", &["-t", "ecdsa", "-b", "521"]),
    ("rsa3072", &["-t", "rsa", "-b", "3072"]),
    ("rsa4096", &["-t", "rsa", "-b", "4096"]),
];

const HASHES: [&str; 2] = ["sha256", "sha512"];

/// Every type x hash, signed from the key's file, by ssh-agent, and with a certificate from both.
#[tokio::test]
async fn real_signatures_of_every_type_are_accepted() {
    let (desk, order) = (Desk::new(), order());
    let (mut tally, mut slowest) = (Tally::default(), Duration::ZERO);
    let socket = desk.at("agent.sock");
    let socket = socket.to_str().unwrap();
    let agent =
        Process::start("ssh-agent", Path::new("ssh-agent"), &["-D", "-a", socket], &[], desk.0.path());
    let _agent = agent.unwrap();
    let started = tokio::time::Instant::now();
    while !Path::new(socket).exists() {
        assert!(started.elapsed().as_secs() < 20, "ssh-agent listens");
        tokio::task::yield_now().await;
    }
    let env = [("SSH_AUTH_SOCK", socket)];
    desk.new_key("ca", &["-t", "ed25519"]).await;
    let ca = desk.line("ca");
    let authority = Authority::new(desk.key("ca"), vec!["alice".to_owned()]);
    let by_ca = policy(Credential::Authority(authority));
    for (name, options) in PLAIN {
        desk.new_key(name, options).await;
        desk.certify("ca", name, &["-n", "alice", "-V", "+8h"]).await;
        let add = run(Path::new("ssh-add"), &["-q", name], &env, desk.0.path(), b"").await.unwrap();
        assert!(add.ok(), "{}", add.text());
        let (line, plain) = (desk.line(name), policy(desk.key(name).into()));
        // The private key is away while the agent signs.
        for hash in HASHES {
            let option = format!("hashalg={hash}");
            let by_file = desk.sign(name, &["-O", &option], &[], &order).await;
            let cert = format!("{name}-cert.pub");
            let cert_by_file = desk.sign(&cert, &["-O", &option], &[], &order).await;
            std::fs::rename(desk.at(name), desk.at("away")).unwrap();
            let by_agent = desk.sign(&format!("{name}.pub"), &["-O", &option], &env, &order).await;
            let cert_by_agent = desk.sign(&cert, &["-O", &option], &env, &order).await;
            std::fs::rename(desk.at("away"), desk.at(name)).unwrap();
            for (sig, policy, allowed) in [
                (by_file, &plain, line.clone()),
                (by_agent, &plain, line.clone()),
                (cert_by_file, &by_ca, format!("cert-authority {ca}")),
                (cert_by_agent, &by_ca, format!("cert-authority {ca}")),
            ] {
                let theirs = desk.theirs(&allowed, sig.as_bytes(), &order).await;
                assert!(theirs.ok(), "{name} {hash}: the signature is real: {}", theirs.text());
                let begin = Instant::now();
                assert_eq!(ours(policy, sig.as_bytes(), &order), Ok(()), "{name} {hash}");
                slowest = slowest.max(begin.elapsed());
                tally.count(name, Ok(()), true);
                let refused = ours(policy, sig.as_bytes(), b"other").unwrap_err();
                assert_eq!(refused.0, RefusalCode::BadSignature, "{name} {hash}: {refused:?}");
            }
        }
        // A plain key does not stand for its certificate, and a CA not for plain keys.
        let sig = desk.sign(name, &[], &[], &order).await;
        assert_eq!(ours(&by_ca, sig.as_bytes(), &order).unwrap_err().0, RefusalCode::UnknownSigner);
        let sig = desk.sign(&format!("{name}-cert.pub"), &[], &[], &order).await;
        assert_eq!(ours(&plain, sig.as_bytes(), &order).unwrap_err().0, RefusalCode::UnknownSigner);
    }
    for token in [Token::ed25519(), Token::p256()] {
        let line = token.line("ssh:");
        std::fs::write(desk.at("sk.pub"), &line).unwrap();
        desk.certify("ca", "sk", &["-n", "alice", "-V", "+8h"]).await;
        let cert = blob_of(&desk.line("sk-cert"));
        let plain = policy(OperatorKey::from_line(&line).unwrap().into());
        for hash in HASHES {
            for flags in [1, 5] {
                let sig = token.sign(token.blob("ssh:"), "ssh:", hash, flags, &order).armor();
                let theirs = desk.theirs(&line, &sig, &order).await;
                assert!(theirs.ok(), "{hash}: forged as a token does: {}", theirs.text());
                tally.count(token.name(), ours(&plain, &sig, &order), true);
                let sig = token.sign(cert.clone(), "ssh:", hash, flags, &order).armor();
                let theirs = desk.theirs(&format!("cert-authority {ca}"), &sig, &order).await;
                assert!(theirs.ok(), "{hash}: {}", theirs.text());
                tally.count(token.name(), ours(&by_ca, &sig, &order), true);
            }
        }
    }
    println!("{} signatures accepted by both; the slowest verification took {slowest:?}", tally.both);
    assert_eq!((tally.both, tally.only_theirs.len()), (6 * 2 * 4 + 2 * 2 * 2 * 2, 0));
}
