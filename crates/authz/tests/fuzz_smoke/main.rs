//! The bodies of the fuzz targets, fed with seeded random changes of the corpus: a bounded run that needs neither
//! cargo-fuzz nor a nightly compiler. `WRIT_FUZZ=N` changes N times per target instead of the default;
//! `WRIT_FUZZ_SEEDS=DIR` writes what it starts from to DIR, a folder per target, for cargo-fuzz to start from too.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

mod bodies;

use std::path::{Path, PathBuf};

use bodies::{TARGETS, dearmor};

/// The same numbers on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

/// Bytes that parsers stumble over.
const WORDS: [&[u8]; 12] = [
    b"\"",
    b"{",
    b"}",
    b",",
    b"null",
    b"-1",
    b"18446744073709551616",
    b"\\u0000",
    b"\r\n",
    b"=",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
];

fn change(seed: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1);
        let to = at + dice.below(bytes.len() - at + 1).min(64);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
            2 => drop(bytes.drain(at..to)),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                bytes.splice(at..to, WORDS[dice.below(WORDS.len())].iter().copied());
            }
            _ => {
                let from = dice.below(other.len() + 1);
                bytes.splice(at..to, other[from..].iter().copied().take(64));
            }
        }
    }
    bytes
}

fn files(name: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let list = |folder: PathBuf| {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let cases = list(root).into_iter().flat_map(list);
    let mut found: Vec<Vec<u8>> = cases.filter_map(|case| std::fs::read(case.join(name)).ok()).collect();
    found.retain(|bytes| bytes.len() < 20_000);
    found.sort();
    found.dedup();
    found
}

/// The second field of an SSHSIG: the key or the certificate.
fn publickey(blob: &[u8]) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(blob.get(10..14)?.try_into().ok()?) as usize;
    blob.get(14..14 + length).map(<[u8]>::to_vec)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let blobs =
        || files("sig.asc").iter().map(|sig| dearmor(&String::from_utf8_lossy(sig))).collect::<Vec<_>>();
    match target {
        "armor" => files("sig.asc"),
        "blob" => blobs(),
        "certificate" => blobs().iter().filter_map(|blob| publickey(blob)).collect(),
        "key_line" => files("policy.json")
            .iter()
            .flat_map(|policy| {
                let text = String::from_utf8_lossy(policy).into_owned();
                let lines = text.split('"').filter(|word| word.contains(" AAAA"));
                lines.map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>()
            })
            .collect(),
        "payload" | "word" => files("payload"),
        "policy" => files("policy.json"),
        "case_file" => files("host.json"),
        "journal" => {
            let folder = tempfile::tempdir().unwrap();
            let mut journal = authz::journal::NonceJournal::create(folder.path()).unwrap();
            for number in 0..8 {
                let nonce = protocol::Nonce::from_bytes([number; 16]);
                journal.burn(&nonce, &protocol::Sha256::of(&[number]), 7).unwrap();
            }
            vec![std::fs::read(bodies::journal_file(folder.path())).unwrap()]
        }
        "krl" => krls(),
        "checkpoint" => checkpoints(),
        other => panic!("no seeds for {other}"),
    }
}

/// Lists of every sort of section, alone and together.
fn krls() -> Vec<Vec<u8>> {
    let tagged = |kind: u8, data: &[u8]| [&[kind][..], &bodies::strings(&[data])].concat();
    let numbers = |all: &[u64]| all.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    let key = |seed: u8| authz::SecretKey::from_seed(&[seed; 32]).public().to_wire().blob();
    let head = [b"SSHKRL\n\0".as_slice(), &1u32.to_be_bytes(), &numbers(&[7, 1_763_000_000, 0])].concat();
    let head = [head, bodies::strings(&[b"", b"by hand"])].concat();
    let bitmap = [numbers(&[1000]), bodies::strings(&[&[0x01, 0x00, 0x05]])].concat();
    let extension = [bodies::strings(&[b"bloom"]), vec![0], bodies::strings(&[b"contents"])].concat();
    let parts = [
        tagged(0x20, &numbers(&[3, 300, 9])),
        tagged(0x21, &numbers(&[20, 25])),
        tagged(0x22, &bitmap),
        tagged(0x23, &bodies::strings(&[b"alice laptop", b"bob"])),
    ];
    let certificates = |ca: &[u8]| tagged(1, &[bodies::strings(&[ca, b""]), parts.concat()].concat());
    let sections = [
        certificates(&key(1)),
        certificates(b""),
        tagged(2, &bodies::strings(&[&key(2), &key(3)])),
        tagged(3, &bodies::strings(&[&[1; 20], &[2; 20]])),
        tagged(5, &bodies::strings(&[&[1; 32], &[2; 32]])),
        tagged(255, &extension),
    ];
    let mut seeds: Vec<Vec<u8>> =
        sections.iter().map(|section| [head.as_slice(), section].concat()).collect();
    seeds.push([head, sections.concat()].concat());
    seeds
}

/// The true checkpoint with each true proof after it, and others that nobody believes.
fn checkpoints() -> Vec<Vec<u8>> {
    let ((origin, key), tree, all) = (bodies::log(), bodies::tree(), bodies::true_checkpoint());
    let note = all.sign(&origin, &key).as_str().as_bytes().to_vec();
    let mut seeds = vec![note.clone()];
    for place in 0..all.size {
        for proof in [tree.inclusion(place, all.size), tree.consistency(place, all.size)] {
            let words = proof.unwrap_or_default().into_iter().flat_map(|word| word.as_bytes().to_vec());
            let words: Vec<u8> = words.collect();
            // The last byte says which place the proof is for.
            seeds.push([&note, bodies::NOTE_END.as_slice(), &words, &[place as u8]].concat());
        }
    }
    let other = authz::checkpoint::Origin { generation: 2, ..origin };
    seeds.push(all.sign(&other, &key).as_str().as_bytes().to_vec());
    seeds
}

#[test]
fn no_change_of_the_corpus_makes_a_parser_panic() {
    let rounds = std::env::var("WRIT_FUZZ").map_or(3_000, |rounds| rounds.parse().unwrap());
    for (name, body) in TARGETS {
        let (seeds, mut dice) = (seeds(name), Dice(0x9e37_79b9_7f4a_7c15));
        assert!(!seeds.is_empty(), "{name} has seeds");
        if let Some(folder) = std::env::var_os("WRIT_FUZZ_SEEDS") {
            let folder = Path::new(&folder).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for (number, seed) in seeds.iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{number:04}")), seed).unwrap();
            }
        }
        let whole = seeds.iter().filter(|seed| body(seed)).count();
        assert!(whole > 0, "{name} takes some of its own seeds");
        let mut taken = 0;
        // A journal is synced to the disk each time.
        let rounds = if name == "journal" { rounds / 10 } else { rounds };
        for _ in 0..rounds {
            let (seed, other) = (dice.below(seeds.len()), dice.below(seeds.len()));
            taken += usize::from(body(&change(&seeds[seed], &seeds[other], &mut dice)));
        }
        println!("{name}: {} seeds, {whole} taken; {rounds} changes, {taken} taken", seeds.len());
        assert!(taken < rounds, "{name} refuses something");
    }
}
