//! Ours against the real `age` of this machine, in both directions, with keys of the real
//! `ssh-keygen`; and one law: whatever we open, `age` opens too, to the same bytes.
//!
//! Without `age` on the PATH each test says that it is skipped. Where CI or WRIT_REQUIRE_TOOLS is set
//! it fails instead.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use authz::{PublicKey, SecretKey};
use data_encoding::BASE64;
use scenarios::process::{Output, run};
use sealed::{OpenError, Randomness};
use tempfile::TempDir;

const LENGTHS: [usize; 6] = [0, 1, 65535, 65536, 65537, 200_000];
/// The key that the kept cases of `crates/sealed` are sealed to.
const KEPT_SEED: [u8; 32] = [7; 32];

/// A directory for keys and files of the real tools.
struct Desk(TempDir);

impl Desk {
    /// None where there is no `age`.
    async fn new(test: &str) -> Option<Self> {
        let desk = Self(tempfile::tempdir().unwrap());
        let found = run(Path::new("age"), &["--version"], &[], desk.0.path(), b"").await;
        let required = ["CI", "WRIT_REQUIRE_TOOLS"].iter().any(|name| std::env::var_os(name).is_some());
        match found {
            Ok(_) => Some(desk),
            Err(error) if required => {
                panic!("{test} needs age, and CI or WRIT_REQUIRE_TOOLS is set: {error}")
            }
            Err(error) => {
                println!("SKIPPED {test}: install the package age to run it ({error})");
                None
            }
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn tool(&self, program: &str, args: &[&str]) -> Output {
        run(Path::new(program), args, &[], self.0.path(), b"").await.unwrap()
    }

    /// A key made by `ssh-keygen`: its public half, and the seed of its private one.
    async fn new_key(&self, name: &str) -> (PublicKey, [u8; 32]) {
        let out = self
            .tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "a host's key", "-f", name])
            .await;
        assert!(out.ok(), "ssh-keygen makes a key: {}", out.text());
        let line = std::fs::read_to_string(self.at(&format!("{name}.pub"))).unwrap();
        let public = PublicKey::from_line(line.trim()).unwrap();
        let seed = seed_in(&std::fs::read_to_string(self.at(name)).unwrap(), &public);
        assert_eq!(SecretKey::from_seed(&seed).public(), public, "the seed is this key's");
        (public, seed)
    }

    /// `age -d`: what comes out, or why nothing does.
    async fn opens(&self, key: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        std::fs::write(self.at("in.age"), sealed).unwrap();
        std::fs::write(self.at("out"), b"").unwrap();
        // A file that fails in a later chunk leaves its first ones behind: the exit code decides. An
        // empty plaintext leaves the file as it was (age 1.1.1).
        let out = self.tool("age", &["-d", "-i", key, "-o", "out", "in.age"]).await;
        if out.ok() { Ok(std::fs::read(self.at("out")).unwrap()) } else { Err(out.text()) }
    }

    /// `age` with these recipients.
    async fn seals(&self, recipients: &[&str], plaintext: &[u8]) -> Vec<u8> {
        std::fs::write(self.at("in"), plaintext).unwrap();
        let out = self.tool("age", &[recipients, &["-o", "out.age", "in"]].concat()).await;
        assert!(out.ok(), "age seals: {}", out.text());
        std::fs::read(self.at("out.age")).unwrap()
    }

    /// The key of the kept cases, written by us as an OpenSSH file.
    fn kept_key(&self) -> PublicKey {
        let secret = SecretKey::from_seed(&KEPT_SEED);
        let text = secret.to_openssh("kept").unwrap();
        authz::files::write_atomic(&self.at("kept"), text.as_bytes()).unwrap();
        secret.public()
    }
}

/// The private half in an unencrypted OpenSSH key file: 64 bytes, the seed and the public key.
fn seed_in(file: &str, public: &PublicKey) -> [u8; 32] {
    let b64: String = file.lines().filter(|line| !line.starts_with("-----")).collect();
    let blob = BASE64.decode(b64.as_bytes()).unwrap();
    let wire = public.to_wire();
    let pair = blob
        .windows(4 + 64)
        .find(|pair| pair.starts_with(&[0, 0, 0, 64]) && pair.ends_with(wire.as_bytes()))
        .unwrap();
    pair[4..36].try_into().unwrap()
}

/// Different for every number; that nobody guesses it is not needed here.
fn randomness(number: usize) -> Randomness {
    Randomness::from_bytes(&std::array::from_fn(|at| ((at + 1) * (number + 3) % 255 + 1) as u8))
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 253) as u8).collect()
}

#[tokio::test]
async fn what_we_seal_age_opens() {
    let Some(desk) = Desk::new("what_we_seal_age_opens").await else { return };
    desk.new_key("other").await;
    for (number, len) in LENGTHS.into_iter().enumerate() {
        let name = format!("host{number}");
        let (public, _) = desk.new_key(&name).await;
        let plaintext = text(len);
        let sealed = sealed::seal(&public.to_wire(), &plaintext, randomness(number)).unwrap();
        let out = desk.opens(&name, &sealed).await.unwrap_or_else(|error| panic!("{len}: {error}"));
        assert!(out == plaintext, "{len}: age gives other bytes");
        assert!(desk.opens("other", &sealed).await.is_err(), "{len}: another key opens nothing");
        let mut changed = sealed;
        *changed.last_mut().unwrap() ^= 1;
        assert!(desk.opens(&name, &changed).await.is_err(), "{len}: the check can fail");
    }
    // A key file that we write is one with which age opens.
    let public = desk.kept_key();
    let sealed = sealed::seal(&public.to_wire(), b"text", randomness(99)).unwrap();
    assert_eq!(desk.opens("kept", &sealed).await.unwrap(), b"text");
}

#[tokio::test]
async fn what_age_seals_we_open() {
    let Some(desk) = Desk::new("what_age_seals_we_open").await else { return };
    let (other, other_seed) = desk.new_key("other").await;
    for (number, len) in LENGTHS.into_iter().enumerate() {
        let name = format!("host{number}");
        let (public, seed) = desk.new_key(&name).await;
        let plaintext = text(len);
        // From the file that ssh-keygen wrote, and from our own spelling of the key.
        let (file, line) = (format!("{name}.pub"), public.to_wire().to_string());
        for recipient in [["-R", &file], ["-r", &line]] {
            let sealed = desk.seals(&recipient, &plaintext).await;
            assert_eq!(sealed.len(), sealed::sealed_len(len), "{len}: no byte that we do not know");
            assert!(**sealed::open(&seed, &sealed, len).unwrap() == plaintext, "{len}: we give other bytes");
            let refused = sealed::open(&other_seed, &sealed, len).unwrap_err();
            assert_eq!(refused, OpenError::OtherKey { ours: other.fingerprint() });
        }
    }
    // What it makes for others, or for more than one, is refused by name.
    let (_, seed) = desk.new_key("host").await;
    let out = desk.tool("ssh-keygen", &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", "rsa"]).await;
    assert!(out.ok(), "{}", out.text());
    for (recipients, refused) in [
        (&["-R", "rsa.pub"][..], OpenError::OtherKind("ssh-rsa")),
        (&["-R", "host.pub", "-R", "other.pub"], OpenError::Several),
        (&["-a", "-R", "host.pub"], OpenError::NotSealed),
    ] {
        let sealed = desk.seals(recipients, b"text").await;
        assert_eq!(sealed::open(&seed, &sealed, 100).unwrap_err(), refused, "{recipients:?}");
    }
}

/// Files of `crates/sealed/tests/cases`, by class and name.
fn kept_files() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/sealed/tests/cases");
    let mut found = BTreeMap::new();
    for class in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        for file in std::fs::read_dir(class.path()).unwrap().map(|entry| entry.unwrap()) {
            let name = [class.file_name(), file.file_name()].map(|name| name.into_string().unwrap());
            found.insert(name.join("/"), std::fs::read(file.path()).unwrap());
        }
    }
    assert!(found.len() > 100, "the cases are there");
    found
}

/// One bit of every byte changed, cuts, insertions and removals; the same on every run.
fn mutants(file: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::from([("as made".to_owned(), file.to_vec())]);
    for at in 0..file.len() {
        let mut changed = file.to_vec();
        changed[at] ^= 1;
        all.insert(format!("byte {at} changed"), changed);
    }
    for at in (0..file.len()).step_by(4) {
        all.insert(format!("cut at {at}"), file[..at].to_vec());
        all.insert(format!("byte {at} removed"), [&file[..at], &file[at + 1..]].concat());
        for byte in [b'\n', b' ', b'=', b'\r', b'A'] {
            let longer = [&file[..at], &[byte], &file[at..]].concat();
            all.insert(format!("{byte} inserted at {at}"), longer);
        }
    }
    for tail in [&b"\n"[..], b"\0", file] {
        all.insert(format!("{} bytes more", tail.len()), [file, tail].concat());
    }
    all
}

#[tokio::test]
async fn whatever_we_open_age_opens_to_the_same_bytes() {
    let Some(desk) = Desk::new("whatever_we_open_age_opens_to_the_same_bytes").await else { return };
    let start = Instant::now();
    let public = desk.kept_key();
    let mut files = kept_files();
    let line = public.to_wire().to_string();
    for (maker, file) in [
        ("age", desk.seals(&["-r", &line], b"some text\n").await),
        ("ours", sealed::seal(&public.to_wire(), b"some text\n", randomness(7)).unwrap()),
    ] {
        files.extend(mutants(&file).into_iter().map(|(name, bytes)| (format!("{maker}: {name}"), bytes)));
    }
    let (mut both, mut neither, mut only_theirs) = (Vec::new(), 0, BTreeMap::new());
    for (name, bytes) in &files {
        match (sealed::open(&KEPT_SEED, bytes, 1000), desk.opens("kept", bytes).await) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(*ours, theirs, "{name}: other bytes");
                both.push(name.as_str());
            }
            (Ok(_), Err(error)) => panic!("{name}: we open what age refuses: {error}"),
            (Err(why), Ok(_)) => drop(only_theirs.insert(name.as_str(), why)),
            (Err(_), Err(_)) => neither += 1,
        }
    }
    println!(
        "law: {} files in {:.1} s: {} opened by both, {neither} by neither, {} by age alone",
        files.len(),
        start.elapsed().as_secs_f32(),
        both.len(),
        only_theirs.len()
    );
    assert_eq!(both, ["age: as made", "good/by_age.age", "good/ours.age", "ours: as made"]);
    assert!(neither > 700, "{neither}: enough that is bad");
    // Where we alone refuse, it is one of the three things that the crate's page says: armor, more or
    // other recipients, and a body that is not the 32 bytes of a wrapped file key.
    for (name, why) in only_theirs {
        let known = match name.split_once('/').unwrap_or((name, "")).0 {
            "not_age" => name == "not_age/armored.age" && why == OpenError::NotSealed,
            "recipients" => matches!(why, OpenError::Several | OpenError::OtherKind(_)),
            "body" => name.starts_with("body/file_key_of_") && why == OpenError::Damaged,
            _ => false,
        };
        assert!(known, "an unexplained refusal: {name}: {why}");
    }
}
