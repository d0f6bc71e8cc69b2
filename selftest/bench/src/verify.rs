//! Verify a signed order and burn its nonce, against the same work without our rules (one Ed25519
//! verification and one fdatasync of 96 appended bytes) and against `ssh-keygen -Y verify`, which keeps no
//! nonces.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here ssh-keygen is the peer"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use authz::journal::NonceJournal;
use authz::order::{HostRef, Order, Params, PolicyRef, Preconditions, RollbackParams};
use authz::policy::{Bounds, Credential, Operator, Policy, PolicyDocument, Role, Root, Rule};
use authz::verify::{HostFacts, verify};
use authz::{Kind, Namespace, SecretKey, sshsig};
use protocol::{
    Envelope, Fingerprint, GuestIdentity, GuestKind, GuestRef, HostId, Nonce, RunState, SnapshotRef, Vmid,
};

use crate::Fallible;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant once, in turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Orders per round (the peer does a tenth).
    #[arg(long, default_value_t = 200)]
    orders: usize,
}

/// The time at which orders are judged, unix seconds.
pub(crate) const NOW: u64 = 1_763_770_000;

struct Work {
    policy: Policy,
    host: HostFacts<'static>,
    envelopes: Vec<Envelope>,
    orders: Vec<Order>,
    key: SecretKey,
}

pub(crate) fn run(args: &Args) -> Fallible<()> {
    let dir = tempfile::tempdir()?;
    let mut ours = Vec::new();
    let mut floor = Vec::new();
    let mut peer = Vec::new();
    let peer_ready = write_peer_files(dir.path())?;
    for round in 0..args.rounds {
        let work = work(round, args.orders)?;
        ours.extend(ours_round(&work, &dir.path().join(format!("journal-{round}")))?);
        floor.extend(floor_round(&work, &dir.path().join(format!("floor-{round}")))?);
        if peer_ready {
            peer.extend(peer_round(&work, dir.path(), args.orders.div_ceil(10))?);
        }
    }
    println!("verify a signed order and burn its nonce, serial, {} rounds of {}", args.rounds, args.orders);
    let floor = line("limit: Ed25519 verify + fdatasync of a 96-byte append", &mut floor, None);
    let ours = line("writ:  whole verification + journal", &mut ours, floor);
    match line("peer:  ssh-keygen -Y verify (no replay protection)", &mut peer, floor) {
        Some(peer) => {
            println!("writ / peer {:.3}", ours.unwrap_or_default().as_secs_f64() / peer.as_secs_f64());
        }
        None => println!("peer:  ssh-keygen was not found; not measured"),
    }
    Ok(())
}

fn line(name: &str, samples: &mut [Duration], floor: Option<Duration>) -> Option<Duration> {
    samples.sort();
    let at = |share: usize| samples.get(samples.len() * share / 100).or(samples.last()).copied();
    let (p50, p99) = (at(50)?, at(99)?);
    let ratio = floor
        .map_or(String::new(), |floor| format!("  {:6.2} x limit", p50.as_secs_f64() / floor.as_secs_f64()));
    println!("{name:<56} p50 {:>9.1} us  p99 {:>9.1} us{ratio}", micros(p50), micros(p99));
    Some(p50)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn ours_round(work: &Work, directory: &Path) -> Fallible<Vec<Duration>> {
    std::fs::create_dir(directory)?;
    let mut journal = NonceJournal::create(directory)?;
    let mut samples = Vec::new();
    for envelope in &work.envelopes {
        let start = Instant::now();
        let authorized = verify(envelope, &work.policy, &work.host, NOW)?;
        journal.burn(&authorized.get().nonce, authorized.op(), authorized.get().exp)?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}

/// The least that could be done: the same signature checked once, the same bytes made durable once.
fn floor_round(work: &Work, path: &Path) -> Fallible<Vec<Duration>> {
    let mut file = File::create_new(path)?;
    let mut samples = Vec::new();
    for (envelope, order) in work.envelopes.iter().zip(&work.orders) {
        let payload = order.encode();
        let signature = sshsig::decode(&envelope.sigs[0], Namespace::Op)?;
        let start = Instant::now();
        signature.verify(&payload)?;
        file.write_all(&[0x5a; 96])?;
        file.sync_data()?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}

fn write_peer_files(directory: &Path) -> Fallible<bool> {
    let key = SecretKey::from_seed(&[1; 32]);
    std::fs::write(directory.join("signers"), format!("alice {}\n", key.public()))?;
    let probe = Command::new("ssh-keygen").arg("-?").stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(probe.is_ok())
}

fn peer_round(work: &Work, directory: &Path, count: usize) -> Fallible<Vec<Duration>> {
    let signature = directory.join("sig");
    let payload = directory.join("payload");
    let mut samples = Vec::new();
    for envelope in work.envelopes.iter().take(count) {
        std::fs::write(&signature, &envelope.sigs[0])?;
        std::fs::write(&payload, &envelope.payload.0)?;
        let start = Instant::now();
        let status = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "alice", "-n", "op.v1@writ", "-f"])
            .arg(directory.join("signers"))
            .arg("-s")
            .arg(&signature)
            .stdin(File::open(&payload)?)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        samples.push(start.elapsed());
        if !status.success() {
            return Err("ssh-keygen refused a signature that we made".into());
        }
    }
    Ok(samples)
}

/// One operator with these keys, who may order rollbacks.
pub(crate) fn policy(keys: Vec<Credential>) -> Fallible<Policy> {
    let ops: protocol::HostName = "ops".parse()?;
    let alice: protocol::HostName = "alice".parse()?;
    let root: protocol::HostName = "root".parse()?;
    let document = PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: Root { role: root.clone(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: 1,
        operators: vec![
            Operator { name: alice.clone(), keys },
            Operator { name: root.clone(), keys: vec![SecretKey::from_seed(&[2; 32]).public().into()] },
        ],
        roles: vec![
            Role { name: ops.clone(), namespaces: vec![Namespace::Op], members: vec![alice] },
            Role { name: root.clone(), namespaces: vec![Namespace::Policy], members: vec![root] },
        ],
        rules: vec![Rule {
            kind: Kind::SnapshotRollback,
            role: ops,
            also: vec![],
            threshold: 1,
            standing: true,
            max_validity_s: 3600,
        }],
        bounds: Bounds::default(),
        revoked: vec![],
    };
    Ok(Policy::decode(&document.encode())?)
}

pub(crate) fn host() -> HostFacts<'static> {
    HostFacts {
        clock: authz::clock::State::Trusted,
        floor: 0,
        stale: false,
        plans: None,
        id: HostId::from_bytes([2; 16]),
        key: Fingerprint::of_key_blob(b"host"),
        generation: 1,
        log: None,
    }
}

fn work(round: usize, count: usize) -> Fallible<Work> {
    let key = SecretKey::from_seed(&[1; 32]);
    let (policy, host) = (policy(vec![key.public().into()])?, host());
    let mut work = Work { policy, host, envelopes: Vec::new(), orders: Vec::new(), key };
    for index in 0..count {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&(round as u64).to_be_bytes());
        nonce[8..].copy_from_slice(&(index as u64).to_be_bytes());
        let order = order(&work.policy, nonce)?;
        let payload = order.encode();
        let sigs = vec![work.key.sign(Namespace::Op, &payload)];
        work.envelopes.push(Envelope::new(payload.into(), sigs));
        work.orders.push(order);
    }
    Ok(work)
}

pub(crate) fn order(policy: &Policy, nonce: [u8; 16]) -> Fallible<Order> {
    let host = host();
    Ok(Order {
        params: Params::SnapshotRollback(RollbackParams { start: false }),
        host: HostRef { id: host.id, key: host.key, generation: 1, cluster: None, name: "web1".parse()? },
        guest: Some(GuestRef {
            vmid: Vmid::try_from(101)?,
            kind: GuestKind::Qemu,
            name: "db".into(),
            identity: GuestIdentity { smbios_uuid: Some("u".into()), ..GuestIdentity::default() },
        }),
        pre: Preconditions {
            state: Some(RunState::Stopped),
            digest: Some("0123456789abcdef0123456789abcdef01234567".parse()?),
            snapshot: Some(SnapshotRef { name: "before".parse()?, time: 1, parent: None }),
            ..Preconditions::default()
        },
        plan: None,
        nonce: Nonce::from_bytes(nonce),
        nbf: NOW,
        exp: NOW + 600,
        after: None,
        policy: PolicyRef { version: 1, sha256: *policy.hash() },
        min_signers: 1,
        reason: "bench".parse()?,
        ticket: None,
    })
}
