//! Signatures changed at random, many of them: law 1 for all, law 2 for a sample.
//!
//! `WRIT_MUTANTS=1000000` makes a million of them, on all cores, and `WRIT_SEED=N` others than usual. Which they are
//! depends on both numbers only, for keys made anew each time.

use std::sync::atomic::{AtomicUsize, Ordering};

use authz::policy::{Authority, Credential};
use authz::{OperatorKey, Policy};

use crate::PLAIN;
use crate::desk::{Desk, Dice, Tally, order, ours, policy};
use crate::forge::{Parts, Token, blob_of, dearmor, enarmor};

/// How many are made where nobody says otherwise.
const USUAL: usize = 32_000;
/// How many are shown to the tool besides those that we accept.
const SHOWN: usize = 640;
/// Pieces of the work, so that the same mutants are made on any number of cores.
const PIECES: usize = 64;

/// A good signature to change.
struct Seed {
    name: String,
    blob: Vec<u8>,
    /// Of allowed_signers, after the principal.
    line: String,
    policy: Policy,
}

impl Seed {
    fn new(name: String, blob: Vec<u8>, line: String, policy: Policy) -> Self {
        Self { name, blob, line, policy }
    }
}

/// What a piece of the work found.
#[derive(Default)]
struct Found {
    made: usize,
    accepted: usize,
    /// Seed and mutant, for the tool to judge.
    show: Vec<(usize, Vec<u8>, &'static str)>,
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// One or a few changes of the kinds that parsers and verifiers stumble over.
fn change(blob: &[u8], other: &[u8], dice: &mut Dice) -> (Vec<u8>, &'static str) {
    let mut bytes = blob.to_vec();
    let at = dice.below(bytes.len());
    let what = match dice.below(10) {
        0 => {
            let second = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
            bytes[second] ^= 1 << dice.below(8);
            "two bits"
        }
        1 => {
            bytes.remove(at);
            "a byte gone"
        }
        2 => {
            bytes.insert(at, dice.below(256) as u8);
            "a byte more"
        }
        3 => {
            // Whatever stands here, read as a length, becomes a near one.
            let at = dice.below(bytes.len() - 4);
            let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let near = [
                length.wrapping_add(1),
                length.wrapping_sub(1),
                length.wrapping_add(256),
                length ^ (1 << 31),
            ];
            bytes[at..at + 4].copy_from_slice(&near[dice.below(4)].to_be_bytes());
            "a length"
        }
        4 => {
            let length = 1 + dice.below(64);
            let from = dice.below(other.len());
            let piece = &other[from..other.len().min(from + length)];
            let end = bytes.len().min(at + length);
            bytes.splice(at..end, piece.iter().copied());
            "a piece of another signature"
        }
        _ => {
            bytes[at] ^= 1 + dice.below(255) as u8;
            "a byte"
        }
    };
    (bytes, what)
}

fn piece(nth: usize, seeds: &[Seed], order: &[u8], total: usize, seed: usize) -> Found {
    let mut found = Found::default();
    let mut dice = Dice((seed as u64).wrapping_add(nth as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let every = (total / SHOWN).max(1);
    for count in (nth..total).step_by(PIECES) {
        let which = dice.below(seeds.len());
        let Seed { blob, policy, .. } = &seeds[which];
        let (changed, what) = change(blob, &seeds[dice.below(seeds.len())].blob, &mut dice);
        if changed == *blob {
            continue;
        }
        found.made += 1;
        let accepted = ours(policy, &enarmor(&changed), order).is_ok();
        found.accepted += usize::from(accepted);
        if accepted || count % every == 0 {
            found.show.push((which, changed, what));
        }
    }
    found
}

#[tokio::test]
async fn random_mutants_of_every_type() {
    let (desk, order) = (Desk::new(), order());
    desk.new_key("ca", &["-t", "ed25519"]).await;
    let certified = format!("cert-authority {}", desk.line("ca"));
    let by_ca = policy(Credential::Authority(Authority::new(desk.key("ca"), vec!["alice".to_owned()])));
    let mut seeds: Vec<Seed> = Vec::new();
    for (name, options) in PLAIN {
        desk.new_key(name, options).await;
        desk.certify("ca", name, &["-n", "alice", "-V", "+8h"]).await;
        let sig = desk.sign(name, &[], &[], &order).await;
        seeds.push(Seed::new(name.to_owned(), dearmor(&sig), desk.line(name), policy(desk.key(name).into())));
        let sig = desk.sign(&format!("{name}-cert.pub"), &[], &[], &order).await;
        seeds.push(Seed::new(format!("{name} certificate"), dearmor(&sig), certified.clone(), by_ca.clone()));
    }
    for token in [Token::ed25519(), Token::p256()] {
        let line = token.line("ssh:");
        std::fs::write(desk.at("sk.pub"), &line).unwrap();
        desk.certify("ca", "sk", &["-n", "alice", "-V", "+8h"]).await;
        let text = |parts: Parts| dearmor(&String::from_utf8(parts.armor()).unwrap());
        let plain = token.sign(token.blob("ssh:"), "ssh:", "sha512", 1, &order);
        let cert = token.sign(blob_of(&desk.line("sk-cert")), "ssh:", "sha512", 1, &order);
        let key = OperatorKey::from_line(&line).unwrap();
        seeds.push(Seed::new(token.name().to_owned(), text(plain), line, policy(key.into())));
        seeds.push(Seed::new(
            format!("{} certificate", token.name()),
            text(cert),
            certified.clone(),
            by_ca.clone(),
        ));
    }
    assert_eq!(seeds.len(), 16);
    for Seed { name, blob, policy, .. } in &seeds {
        assert_eq!(ours(policy, &enarmor(blob), &order), Ok(()), "{name}");
        // Every prefix, and lengths that promise more than there is.
        for cut in 0..blob.len() {
            assert!(ours(policy, &enarmor(&blob[..cut]), &order).is_err(), "{name} cut at {cut}");
        }
        for at in 10..blob.len() - 4 {
            let mut changed = blob.clone();
            changed[at..at + 4].copy_from_slice(&[0xff; 4]);
            assert!(ours(policy, &enarmor(&changed), &order).is_err(), "{name} length at {at}");
        }
    }

    let (total, seed) = (number("WRIT_MUTANTS", USUAL), number("WRIT_SEED", 1));
    println!("WRIT_MUTANTS={total} WRIT_SEED={seed}");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let mut found: Vec<(usize, Found)> = std::thread::scope(|scope| {
        let work = || {
            let mut mine = Vec::new();
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= PIECES {
                    return mine;
                }
                mine.push((nth, piece(nth, &seeds, &order, total, seed)));
            }
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    found.sort_by_key(|(nth, _)| *nth);

    let (mut tally, mut made, mut accepted) = (Tally::default(), 0, 0);
    for (_, found) in found {
        (made, accepted) = (made + found.made, accepted + found.accepted);
        for (which, changed, what) in found.show {
            let Seed { name, line, policy, .. } = &seeds[which];
            let sig = enarmor(&changed);
            let theirs = desk.theirs(line, &sig, &order).await.ok();
            let hex = data_encoding::HEXLOWER.encode(&changed);
            tally.count(&format!("{name}, {what}: {hex}"), ours(policy, &sig, &order), theirs);
        }
    }
    println!(
        "{} types, {made} mutants: {accepted} accepted here, {} refused; shown to ssh-keygen: {} accepted by both, \
         {} by neither, by it alone {:?}",
        seeds.len(),
        made - accepted,
        tally.both,
        tally.neither,
        tally.only_theirs
    );
    assert_eq!(accepted, 0, "whatever is changed, it is another signature");
    assert!(tally.neither > SHOWN / 2);
}
