//! Ours against the real `ssh-keygen` of this machine, in both directions, and law 1 of `security.md`
//! 4.3: whatever we accept as a signature, `ssh-keygen -Y verify` accepts too.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use authz::sshsig::{self, SigError};
use authz::{Namespace, PublicKey, SecretKey};
use data_encoding::BASE64;
use protocol::Signed;
use scenarios::process::{Output, run};
use scenarios::stand::Stand;
use tempfile::TempDir;

const ALL: [Namespace; 8] = [
    Namespace::Op,
    Namespace::Policy,
    Namespace::Session,
    Namespace::Job,
    Namespace::Enroll,
    Namespace::Login,
    Namespace::Receipt,
    Namespace::Device,
];

/// A directory with keys made by the real tool.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn keygen(&self, args: &[&str], stdin: &[u8]) -> Output {
        run(Path::new("ssh-keygen"), args, &[], self.0.path(), stdin).await.unwrap()
    }

    async fn new_key(&self, name: &str, options: &[&str]) {
        let out = self.keygen(&[&["-q", "-N", "", "-C", name, "-f", name], options].concat(), b"").await;
        assert!(out.ok(), "ssh-keygen makes a key: {}", out.text());
    }

    fn public(&self, name: &str) -> PublicKey {
        let line = std::fs::read_to_string(self.at(&format!("{name}.pub"))).unwrap();
        PublicKey::from_line(line.trim()).unwrap()
    }

    /// One line of an allowed_signers file.
    fn allow(&self, principal: &str, key: &str) {
        std::fs::write(self.at("allowed"), format!("{principal} {key}\n")).unwrap();
    }

    /// `ssh-keygen -Y sign` over a message on standard input.
    async fn sign(&self, key: &str, options: &[&str], namespace: Namespace, message: &[u8]) -> String {
        let args = [&["-q", "-Y", "sign", "-f", key, "-n", namespace.as_str()], options].concat();
        let out = self.keygen(&args, message).await;
        assert!(out.ok(), "ssh-keygen -Y sign: {}", out.text());
        out.stdout
    }

    /// Whether `ssh-keygen -Y verify` accepts.
    async fn verifies(&self, principal: &str, namespace: Namespace, sig: &[u8], message: &[u8]) -> Output {
        std::fs::write(self.at("sig"), sig).unwrap();
        let args = ["-Y", "verify", "-f", "allowed", "-I", principal, "-n", namespace.as_str(), "-s", "sig"];
        self.keygen(&args, message).await
    }

    /// Whether `ssh-keygen -Y check-novalidate` accepts.
    async fn checks(&self, namespace: Namespace, sig: &[u8], message: &[u8]) -> Output {
        std::fs::write(self.at("sig"), sig).unwrap();
        let args = ["-Y", "check-novalidate", "-n", namespace.as_str(), "-s", "sig"];
        self.keygen(&args, message).await
    }

    /// A desk with alice's key, and nobody else allowed.
    async fn of_alice() -> Self {
        let desk = Self::new();
        desk.new_key("alice", &["-t", "ed25519"]).await;
        desk.allow("alice", &std::fs::read_to_string(desk.at("alice.pub")).unwrap());
        desk
    }
}

/// The orders that the format was frozen with.
fn orders() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/authz/fixtures/orders");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "the golden orders are there");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[tokio::test]
async fn its_signatures_over_real_orders_verify_here() {
    let desk = Desk::of_alice().await;
    let alice = desk.public("alice");
    for order in orders() {
        for options in [&[][..], &["-O", "hashalg=sha256"], &["-O", "hashalg=sha512"]] {
            let sig = desk.sign("alice", options, Namespace::Op, &order).await;
            assert_eq!(sshsig::verify(&sig, Namespace::Op, &order, &alice), Ok(()), "{options:?}: {sig}");
            let mut changed = order.clone();
            changed[20] ^= 1;
            assert_eq!(sshsig::verify(&sig, Namespace::Op, &changed, &alice), Err(SigError::Wrong));
            let other = sshsig::verify(&sig, Namespace::Job, &order, &alice);
            assert_eq!(other, Err(SigError::Namespace { expected: Namespace::Job }));
        }
    }
}

#[tokio::test]
async fn our_signatures_verify_there_in_every_namespace() {
    let desk = Desk::of_alice().await;
    let secret = std::fs::read_to_string(desk.at("alice")).unwrap();
    let alice = SecretKey::from_openssh(&secret, None).unwrap();
    assert_eq!(alice.public(), desk.public("alice"), "the private key is read as the tool reads it");
    let order = &orders()[0];
    for namespace in ALL {
        let sig = alice.sign(namespace, order);
        let out = desk.verifies("alice", namespace, sig.as_bytes(), order).await;
        assert!(out.ok() && out.stdout.contains("Good"), "{namespace}: {}", out.text());
        let out = desk.checks(namespace, sig.as_bytes(), order).await;
        assert!(out.ok(), "{namespace}: {}", out.text());
        let out = desk.verifies("alice", namespace, sig.as_bytes(), b"other bytes").await;
        assert!(!out.ok(), "{namespace}: the check can fail");
        let elsewhere = ALL.into_iter().find(|other| *other != namespace).unwrap();
        let out = desk.verifies("alice", elsewhere, sig.as_bytes(), order).await;
        assert!(!out.ok(), "{namespace} is not {elsewhere}");
    }
    // Ed25519 is deterministic: ours and theirs are one and the same text.
    assert_eq!(alice.sign(Namespace::Op, order), desk.sign("alice", &[], Namespace::Op, order).await);
    // A private key that we write is one that the tool reads.
    let ours = SecretKey::from_seed(&[7; 32]);
    authz::files::write_atomic(&desk.at("ours"), ours.to_openssh("ours").unwrap().as_bytes()).unwrap();
    let out = desk.keygen(&["-y", "-f", "ours"], b"").await;
    assert!(out.ok(), "{}", out.text());
    assert_eq!(PublicKey::from_line(out.stdout.trim()).unwrap(), ours.public());
}

/// The armor of the real tool for a blob.
fn enarmor(blob: &[u8]) -> Vec<u8> {
    let b64 = BASE64.encode(blob);
    let lines: Vec<&[u8]> = b64.as_bytes().chunks(70).collect();
    let body = lines.join(&b'\n');
    [b"-----BEGIN SSH SIGNATURE-----\n", body.as_slice(), b"\n-----END SSH SIGNATURE-----\n"].concat()
}

fn dearmor(armor: &str) -> Vec<u8> {
    let b64: String = armor.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64.decode(b64.as_bytes()).unwrap()
}

/// SSH string at `at`: where the next field begins.
fn after_string(blob: &[u8], at: usize) -> usize {
    at + 4 + u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize
}

/// Every way of being nearly right, the same on every run.
fn mutants(armor: &str) -> Vec<Vec<u8>> {
    let blob = dearmor(armor);
    assert_eq!(enarmor(&blob), armor.as_bytes(), "the test's armor is the tool's");
    let mut all = vec![armor.as_bytes().to_vec(), armor.trim_end().as_bytes().to_vec()];
    let mut blobs = Vec::new();
    for at in 0..blob.len() {
        for bit in [0x01, 0x80] {
            let mut changed = blob.clone();
            changed[at] ^= bit;
            blobs.push(changed);
        }
    }
    for at in (0..blob.len()).step_by(5) {
        blobs.push(blob[..at].to_vec());
        for byte in [0x00, b'A'] {
            let mut changed = blob.clone();
            changed.insert(at, byte);
            blobs.push(changed);
        }
        let mut changed = blob.clone();
        changed.remove(at);
        blobs.push(changed);
    }
    blobs.push([blob.as_slice(), b"\0"].concat());
    // The reserved field in use, which the tool does not mind: magic, version, key, namespace come first.
    let reserved = after_string(&blob, after_string(&blob, 10));
    blobs.push([&blob[..reserved], b"\0\0\0\x03abc", &blob[reserved + 4..]].concat());
    all.extend(blobs.iter().map(|blob| enarmor(blob)));
    let bytes = armor.as_bytes();
    for at in (0..bytes.len()).step_by(6) {
        let mut changed = bytes.to_vec();
        changed[at] ^= 0x01;
        all.push(changed);
        for byte in [b'\n', b' ', b'=', b'\r'] {
            let mut changed = bytes.to_vec();
            changed.insert(at, byte);
            all.push(changed);
        }
        let mut changed = bytes.to_vec();
        changed.remove(at);
        all.push(changed);
    }
    let one_line =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", BASE64.encode(&blob));
    all.push(one_line.into_bytes());
    all.push(armor.replace('\n', "\r\n").into_bytes());
    all.push([bytes, b"\n"].concat());
    all.push([bytes, bytes].concat());
    all
}

#[tokio::test]
async fn law_1_what_we_accept_the_tool_accepts() {
    let start = Instant::now();
    let desk = Desk::of_alice().await;
    let alice = desk.public("alice");
    let order = &orders()[0];
    let (mut both, mut neither, mut only_theirs) = (0, 0, BTreeMap::<String, usize>::new());
    for options in [&[][..], &["-O", "hashalg=sha256"]] {
        let armor = desk.sign("alice", options, Namespace::Op, order).await;
        for mutant in mutants(&armor) {
            // What is not UTF-8 cannot even be put into an envelope.
            let ours = std::str::from_utf8(&mutant)
                .map_err(|_| SigError::Armor)
                .and_then(|text| sshsig::verify(text, Namespace::Op, order, &alice));
            let theirs = desk.verifies("alice", Namespace::Op, &mutant, order).await.ok();
            match (ours, theirs) {
                (Ok(()), true) => both += 1,
                (Ok(()), false) => panic!("we accept what ssh-keygen refuses: {:?}", mutant.escape_ascii()),
                (Err(why), true) => *only_theirs.entry(why.to_string()).or_default() += 1,
                (Err(_), false) => neither += 1,
            }
        }
    }
    let strict: usize = only_theirs.values().sum();
    println!(
        "law 1: {} mutants in {:.1} s: {both} accepted by both, {neither} refused by both, {strict} by us alone:",
        both + neither + strict,
        start.elapsed().as_secs_f32()
    );
    for (why, count) in &only_theirs {
        println!("  {count:>4}  {why}");
    }
    assert!(both + neither + strict >= 300, "enough mutants");
    assert_eq!(both, 4, "as made, and without the last line's end, for two hashes");
    assert!(neither > 300 && strict > 0, "both kinds of refusal are there");
    // Law 2: where we alone refuse, it is for one of the reasons that we have.
    for why in only_theirs.keys() {
        let known = ["armor is not exactly", "reserved field in use", "version is not 1", "damaged"];
        assert!(known.iter().any(|reason| why.contains(reason)), "an unexplained refusal: {why}");
    }
}

#[tokio::test]
async fn other_key_types_are_refused_by_name() {
    let desk = Desk::new();
    let order = &orders()[0];
    for (options, name) in [
        (&["-t", "ecdsa", "-b", "256"][..], "ecdsa-sha2-nistp256"),
        (&["-t", "ecdsa", "-b", "384"], "ecdsa-sha2-nistp384"),
        (&["-t", "ecdsa", "-b", "521"], "ecdsa-sha2-nistp521"),
        (&["-t", "rsa", "-b", "2048"], "ssh-rsa"),
    ] {
        desk.new_key(name, options).await;
        let sig = desk.sign(name, &[], Namespace::Op, order).await;
        desk.allow("alice", &std::fs::read_to_string(desk.at(&format!("{name}.pub"))).unwrap());
        let out = desk.verifies("alice", Namespace::Op, sig.as_bytes(), order).await;
        assert!(out.ok(), "the signature is a real one: {}", out.text());
        let refused = sshsig::decode(&sig, Namespace::Op).unwrap_err();
        assert_eq!(refused, SigError::KeyType(name.to_owned()));
        assert!(refused.to_string().contains("Ed25519"), "{refused}");
    }
}

#[tokio::test]
async fn a_hosts_receipts_verify_with_the_tool_alone() {
    let stand = Stand::enrolled().await.unwrap();
    stand.rollback_order("order.json").await.unwrap();
    let out = stand.writ(&["submit", "order.json"]).await.unwrap();
    assert!(out.ok(), "{}", out.text());
    let desk = Desk::new();
    let key = desk.keygen(&["-y", "-f", &stand.text("warden/host.key")], b"").await;
    assert!(key.ok(), "the host key is an OpenSSH key: {}", key.text());
    desk.allow("web1", key.stdout.trim());
    let log = stand.read("warden/log.jsonl").unwrap();
    let entries: Vec<Signed> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 3, "enrolled, committed, done");
    for signed in &entries {
        let (sig, payload) = (signed.sig.as_bytes(), &signed.payload.0);
        let out = desk.verifies("web1", Namespace::Receipt, sig, payload).await;
        assert!(out.ok() && out.stdout.contains("Good"), "{}", out.text());
        let out = desk.verifies("web1", Namespace::Op, sig, payload).await;
        assert!(!out.ok(), "a receipt is no order");
        let out = desk.verifies("web1", Namespace::Receipt, sig, &[payload.as_slice(), b" "].concat()).await;
        assert!(!out.ok(), "the check can fail");
    }
}
