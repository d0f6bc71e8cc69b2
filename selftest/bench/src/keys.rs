//! The whole verification of an order for each type of key, against the mathematics alone (hash and public-key
//! operation, everything decoded beforehand) and against `ssh-keygen -Y verify`. Keys and signatures are made
//! by the real `ssh-keygen`. A certificate costs the CA's signature too.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here ssh-keygen makes keys and is the peer"
)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use authz::policy::{Authority, Credential};
use authz::sshsig::decode_operator;
use authz::verify::verify;
use authz::{Namespace, OperatorKey, Policy};
use protocol::Envelope;

use crate::Fallible;
use crate::verify::{NOW, host, order, policy};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant of every type, in turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Verifications a round (the peer does a twentieth).
    #[arg(long, default_value_t = 200)]
    orders: usize,
}

/// Name, and what `ssh-keygen -t` is told.
const TYPES: [(&str, &[&str]); 6] = [
    ("ed25519", &["ed25519"]),
    ("ecdsa-p256", &["ecdsa", "-b", "256"]),
    ("ecdsa-p384", &["ecdsa", "-b", "384"]),
    ("ecdsa-p521", &["ecdsa", "-b", "521"]),
    ("rsa-3072", &["rsa", "-b", "3072"]),
    ("rsa-4096", &["rsa", "-b", "4096"]),
];

/// One type, ready to be measured.
struct Contest {
    name: &'static str,
    policy: Policy,
    envelope: Envelope,
    /// For the mathematics alone; a certificate is no single operation.
    key: Option<OperatorKey>,
    signers: String,
    /// Microseconds, one a round.
    whole: Vec<f64>,
    alone: Vec<f64>,
    peer: Vec<f64>,
}

pub(crate) fn run(args: &Args) -> Fallible<()> {
    let dir = tempfile::tempdir()?;
    let mut contests = Vec::new();
    for (name, kind) in TYPES {
        contests.push(plain(dir.path(), name, kind)?);
    }
    contests.push(certificate(dir.path())?);
    for _ in 0..args.rounds {
        for contest in &mut contests {
            contest.round(dir.path(), args.orders)?;
        }
    }
    println!(
        "whole verification of a signed order, medians of {} rounds of {} (ssh-keygen: {}), microseconds",
        args.rounds,
        args.orders,
        args.orders.div_ceil(20)
    );
    println!(
        "  {:<20} {:>9} {:>12} {:>8} {:>12} {:>12}",
        "key", "writ", "maths alone", "ratio", "ssh-keygen", "peer / writ"
    );
    for Contest { name, whole, alone, peer, .. } in &mut contests {
        let (whole, peer) = (median(whole), median(peer));
        let (maths, ratio) = match alone.is_empty() {
            true => ("-".to_owned(), "-".to_owned()),
            false => {
                let alone = median(alone);
                (format!("{alone:.1}"), format!("{:.2}", whole / alone))
            }
        };
        println!("  {name:<20} {whole:>9.1} {maths:>12} {ratio:>8} {peer:>12.0} {:>12.1}", peer / whole);
    }
    Ok(())
}

impl Contest {
    fn round(&mut self, dir: &Path, count: usize) -> Fallible<()> {
        let facts = host();
        let start = Instant::now();
        for _ in 0..count {
            verify(&self.envelope, &self.policy, &facts, NOW)?;
        }
        self.whole.push(start.elapsed().as_secs_f64() * 1e6 / count as f64);
        if let Some(key) = &self.key {
            let decoded = decode_operator(&self.envelope.sigs[0], Namespace::Op)?;
            let start = Instant::now();
            for _ in 0..count {
                decoded.verify_by(key, &self.envelope.payload.0)?;
            }
            self.alone.push(start.elapsed().as_secs_f64() * 1e6 / count as f64);
        }
        let [signers, sig, payload] = ["signers", "sig", "payload"].map(|name| dir.join(name));
        fs::write(&signers, &self.signers)?;
        fs::write(&sig, &self.envelope.sigs[0])?;
        fs::write(&payload, &self.envelope.payload.0)?;
        let times = count.div_ceil(20);
        let at = format!("verify-time={}", when(NOW)?);
        let start = Instant::now();
        for _ in 0..times {
            let status = Command::new("ssh-keygen")
                .args(["-Y", "verify", "-I", "alice", "-n", Namespace::Op.as_str(), "-O", &at, "-f"])
                .arg(&signers)
                .arg("-s")
                .arg(&sig)
                .stdin(File::open(&payload)?)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if !status.success() {
                return Err(format!("ssh-keygen refused its own {} signature", self.name).into());
            }
        }
        self.peer.push(start.elapsed().as_secs_f64() * 1e6 / times as f64);
        Ok(())
    }
}

fn plain(dir: &Path, name: &'static str, kind: &[&str]) -> Fallible<Contest> {
    let path = dir.join(name);
    keygen(&[&["-q", "-N", "", "-C", "", "-t"], kind].concat(), &path)?;
    let line = fs::read_to_string(path.with_extension("pub"))?;
    let key = OperatorKey::from_line(line.trim())?;
    let policy = policy(vec![Credential::Key(key.clone())])?;
    let envelope = sign(&policy, &path)?;
    let (whole, alone, peer) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Contest {
        name,
        policy,
        envelope,
        key: Some(key),
        signers: format!("alice {line}"),
        whole,
        alone,
        peer,
    })
}

fn certificate(dir: &Path) -> Fallible<Contest> {
    let [ca, key] = ["ca", "certified"].map(|name| dir.join(name));
    for path in [&ca, &key] {
        keygen(&["-q", "-N", "", "-C", "", "-t", "ed25519"], path)?;
    }
    let always = format!("{}:{}", when(NOW - 3_600)?, when(NOW + 3_600)?);
    let signed = Command::new("ssh-keygen")
        .args(["-q", "-s"])
        .arg(&ca)
        .args(["-I", "bench", "-n", "alice", "-V", &always])
        .arg(key.with_extension("pub"))
        .status()?;
    if !signed.success() {
        return Err("ssh-keygen made no certificate".into());
    }
    let line = fs::read_to_string(ca.with_extension("pub"))?;
    let authority = Authority::new(OperatorKey::from_line(line.trim())?, vec!["alice".to_owned()]);
    let policy = policy(vec![Credential::Authority(authority)])?;
    let certificate = dir.join("certified-cert.pub");
    let envelope = sign(&policy, &certificate)?;
    let signers = format!("alice cert-authority {line}");
    let name = "ed25519 certificate";
    let (whole, alone, peer) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Contest { name, policy, envelope, key: None, signers, whole, alone, peer })
}

/// As `ssh-keygen -V` reads it.
fn when(unix: u64) -> Fallible<String> {
    let output = Command::new("date").args(["-u", "-d", &format!("@{unix}"), "+%Y%m%d%H%M%SZ"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn keygen(args: &[&str], path: &Path) -> Fallible<()> {
    let made = Command::new("ssh-keygen").args(args).arg("-f").arg(path).stdin(Stdio::null()).status()?;
    if made.success() { Ok(()) } else { Err("ssh-keygen made no key".into()) }
}

fn sign(policy: &Policy, key: &Path) -> Fallible<Envelope> {
    let payload = order(policy, [7; 16])?.encode();
    let file = key.with_extension("order");
    fs::write(&file, &payload)?;
    let signed = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", Namespace::Op.as_str(), "-f"])
        .arg(key)
        .arg(&file)
        .stderr(Stdio::null())
        .status()?;
    if !signed.success() {
        return Err("ssh-keygen signed nothing".into());
    }
    let sig = fs::read_to_string(key.with_extension("order.sig"))?;
    Ok(Envelope::new(payload.into(), vec![sig]))
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
