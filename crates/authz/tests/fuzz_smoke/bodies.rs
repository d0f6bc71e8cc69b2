//! What every fuzz target does with its bytes, shared by the targets in `fuzz/` and by `fuzz_smoke.rs`. A body may
//! refuse; it must not panic, and what it takes it must write again in the same bytes.

use std::path::Path;
use std::sync::LazyLock;

use authz::case::{Case, Files};
use authz::checkpoint::{Checkpoint, Origin};
use authz::journal::NonceJournal;
use authz::merkle::{Tree, leaf_hash};
use authz::policy::krl;
use authz::policy::words::Word;
use authz::sshsig::{decode, decode_operator};
use authz::{Namespace, OperatorKey, Order, Policy, SecretKey};
use protocol::{HostId, Note, Sha256};

/// Name and body of each target.
pub(crate) type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them. A body says whether it took the bytes.
pub(crate) const TARGETS: [Target; 11] = [
    ("armor", armor),
    ("blob", blob),
    ("certificate", certificate),
    ("key_line", key_line),
    ("payload", payload),
    ("policy", policy),
    ("word", word),
    ("krl", krl),
    ("journal", journal),
    ("case_file", case_file),
    ("checkpoint", checkpoint),
];

/// An armored signature.
pub(crate) fn armor(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let taken = decode_operator(text, Namespace::Op);
    // What hosts and devices sign with is a part of what operators sign with.
    if decode(text, Namespace::Op).is_ok() {
        assert!(taken.is_ok(), "the narrow decoder took what the wide one refused");
    }
    if taken.is_ok() {
        assert_eq!(enarmor(&dearmor(text)), text.trim_end_matches('\n').to_owned() + "\n", "V2");
    }
    taken.is_ok()
}

/// The bytes inside the armor.
pub(crate) fn blob(bytes: &[u8]) -> bool {
    armor(enarmor(bytes).as_bytes())
}

/// A certificate, or a key, under a signature that fits an Ed25519 key.
pub(crate) fn certificate(bytes: &[u8]) -> bool {
    let inner = strings(&[b"ssh-ed25519", &[7; 64]]);
    let fields = strings(&[bytes, b"op.v1@writ", b"", b"sha512", &inner]);
    blob(&[b"SSHSIG".as_slice(), &1u32.to_be_bytes(), &fields].concat())
}

/// An operator's public key.
pub(crate) fn key_line(bytes: &[u8]) -> bool {
    let Ok(key) = OperatorKey::from_line(&String::from_utf8_lossy(bytes)) else { return false };
    assert_eq!(OperatorKey::from_line(&key.to_string()).as_ref(), Ok(&key));
    assert_eq!(OperatorKey::from_blob(key.blob().to_vec()).as_ref(), Ok(&key));
    true
}

/// An order (V18).
pub(crate) fn payload(bytes: &[u8]) -> bool {
    let Ok(order) = Order::decode(bytes) else { return false };
    assert_eq!(order.encode(), bytes, "V18");
    true
}

/// A policy (V18).
pub(crate) fn policy(bytes: &[u8]) -> bool {
    let Ok(policy) = Policy::decode(bytes) else { return false };
    assert_eq!(policy.document().encode(), bytes, "V18");
    true
}

/// What is signed about a policy (V18).
pub(crate) fn word(bytes: &[u8]) -> bool {
    let Ok(word) = Word::decode(bytes) else { return false };
    let again = match word {
        Word::Policy(policy) => policy.document().encode(),
        Word::Revocation(word) => word.encode(),
        Word::Freshness(word) => word.encode(),
    };
    assert_eq!(again, bytes, "V18");
    true
}

/// A key revocation list as OpenSSH writes it: every byte is judged, so it can be written again.
pub(crate) fn krl(bytes: &[u8]) -> bool {
    let Ok(krl) = krl::parse(bytes) else { return false };
    let tagged = |kind: u8, data: &[u8]| [&[kind][..], &strings(&[data])].concat();
    let extension =
        |e: &krl::Extension<'_>| [strings(&[e.name.as_bytes()]), vec![0], strings(&[e.contents])].concat();
    let part = |part: &krl::Part<'_>| match part {
        krl::Part::Serials(all) => {
            tagged(0x20, &all.iter().flat_map(|at| at.is.to_be_bytes()).collect::<Vec<_>>())
        }
        krl::Part::Range(range) => {
            tagged(0x21, &[range.is.0.to_be_bytes(), range.is.1.to_be_bytes()].concat())
        }
        krl::Part::Bitmap(at) => {
            let (first, bits) = at.is;
            // A number: positive, so a leading bit is covered by a zero.
            let zero: &[u8] = if bits[0] >= 0x80 { &[0] } else { &[] };
            let bits = [zero, bits].concat();
            tagged(0x22, &[&first.to_be_bytes()[..], &strings(&[&bits])].concat())
        }
        krl::Part::KeyIds(ids) => {
            tagged(0x23, &ids.iter().flat_map(|id| strings(&[id.is.as_bytes()])).collect::<Vec<_>>())
        }
        krl::Part::Extension(e) => tagged(0x39, &extension(e)),
    };
    let section = |section: &krl::Section<'_>| match section {
        krl::Section::Certificates { ca, parts } => {
            let parts: Vec<u8> = parts.iter().flat_map(part).collect();
            tagged(1, &[strings(&[ca.is.unwrap_or_default(), b""]), parts].concat())
        }
        krl::Section::Keys(all) => {
            tagged(2, &all.iter().flat_map(|at| strings(&[at.is])).collect::<Vec<_>>())
        }
        krl::Section::Sha1(all) => {
            tagged(3, &all.iter().flat_map(|at| strings(&[&at.is])).collect::<Vec<_>>())
        }
        krl::Section::Sha256(all) => {
            tagged(5, &all.iter().flat_map(|at| strings(&[&at.is])).collect::<Vec<_>>())
        }
        krl::Section::Extension(e) => tagged(255, &extension(e)),
    };
    let numbers = [krl.version, krl.generated_at, 0].map(u64::to_be_bytes).concat();
    let head = [b"SSHKRL\n\0".as_slice(), &1u32.to_be_bytes(), &numbers].concat();
    let sections: Vec<u8> = krl.sections.iter().flat_map(section).collect();
    let again = [head, strings(&[b"", krl.comment.as_bytes()]), sections].concat();
    assert_eq!(again, bytes, "nothing is left out");
    true
}

/// A nonce journal's first file. Who looks and who opens find the same, and nothing that was there is lost.
pub(crate) fn journal(bytes: &[u8]) -> bool {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().unwrap();
    }
    FOLDER.with(|folder| {
        std::fs::write(journal_file(folder.path()), bytes).unwrap();
        let seen = NonceJournal::inspect(folder.path());
        let opened = NonceJournal::open(folder.path());
        assert_eq!(seen.is_ok(), opened.is_ok(), "{seen:?}, {opened:?}");
        let (Ok(seen), Ok(opened)) = (seen, opened) else { return false };
        assert_eq!(seen.ops, opened.ops());
        drop(opened);
        let after = std::fs::read(journal_file(folder.path())).unwrap();
        assert_eq!(after, bytes, "opening changes nothing");
        true
    })
}

/// Where the journal keeps its records.
pub(crate) fn journal_file(folder: &Path) -> std::path::PathBuf {
    folder.join("nonces-000001.seg")
}

/// `host.json` of a case.
pub(crate) fn case_file(bytes: &[u8]) -> bool {
    let files = Files { payload: vec![], sigs: vec![], policy: vec![], host: bytes.to_vec() };
    let Ok(case) = Case::parse(files) else { return false };
    assert!(case.judge().is_err(), "a host without a policy carries nothing out");
    true
}

/// The log that [`checkpoint`] is about.
const LEAVES: u64 = 23;

/// A checkpoint, as a note; and what follows it: a proof, 32 bytes each. Nothing but the true proofs may be believed
/// of the true log.
pub(crate) fn checkpoint(bytes: &[u8]) -> bool {
    let end = bytes.windows(4).position(|four| four == NOTE_END).unwrap_or(bytes.len());
    let (text, rest) = bytes.split_at(end);
    let words: Vec<Sha256> = rest
        .get(NOTE_END.len()..)
        .unwrap_or_default()
        .chunks_exact(32)
        .map(|word| Sha256::from_bytes(word.try_into().unwrap()))
        .collect();
    proofs(rest, &words);
    let Ok(note) = String::from_utf8_lossy(text).parse::<Note>() else { return false };
    let (origin, key) = log();
    let Ok((found, said)) = Checkpoint::read_unverified(&note) else {
        assert!(
            Checkpoint::verify(&note, &origin, &key.public()).is_err(),
            "what cannot be read is not believed"
        );
        return false;
    };
    assert_eq!(found.to_string().parse(), Ok(found));
    let ours = said.sign(&found, &key);
    let lines = |note: &Note| note.as_str().lines().take(3).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&ours), lines(&note), "one spelling");
    match Checkpoint::verify(&note, &origin, &key.public()) {
        Ok(believed) => {
            assert_eq!((found, said), (origin, believed));
            assert_eq!(believed, true_checkpoint(), "nothing else was ever signed");
            true
        }
        Err(_) => false,
    }
}

/// Between the note and the proof of [`checkpoint`].
pub(crate) const NOTE_END: &[u8; 4] = b"\n==\n";

/// Whose log, and by which key.
pub(crate) fn log() -> (Origin, SecretKey) {
    (Origin { host: HostId::from_bytes([0x11; 16]), generation: 1 }, SecretKey::from_seed(&[0x4b; 32]))
}

/// The log itself.
pub(crate) fn tree() -> &'static Tree {
    static TREE: LazyLock<Tree> = LazyLock::new(|| {
        let mut tree = Tree::default();
        (0..LEAVES).for_each(|leaf| tree.push(leaf_hash(&leaf.to_be_bytes())));
        tree
    });
    &TREE
}

/// Of all of it.
pub(crate) fn true_checkpoint() -> Checkpoint {
    Checkpoint { size: LEAVES, root: tree().root(LEAVES).unwrap() }
}

/// Only the log's own proofs are believed, each for its own place.
fn proofs(rest: &[u8], words: &[Sha256]) {
    let (tree, all) = (tree(), true_checkpoint());
    let place = u64::from(rest.last().copied().unwrap_or_default()) % (LEAVES + 2);
    let payload = place.to_be_bytes();
    let good = tree.inclusion(place, LEAVES).is_some_and(|proof| proof == words);
    assert_eq!(all.includes(place, &payload, words).is_ok(), good, "inclusion of {place}");
    assert!(all.includes(place, &rest[..rest.len().min(7)], words).is_err(), "no entry is that short");
    let older = tree.root(place).map(|root| Checkpoint { size: place, root });
    if let Some(older) = older {
        let good = tree.consistency(place, LEAVES).is_some_and(|proof| proof == words);
        assert_eq!(all.continues(&older, words).is_ok(), good, "consistency from {place}");
        let forged = Checkpoint { root: leaf_hash(rest), ..older };
        assert!(all.continues(&forged, words).is_err(), "another root of size {place}");
    }
}

/// SSH strings, one after the other.
pub(crate) fn strings(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u32).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// Armor as ssh-keygen writes it.
pub(crate) fn enarmor(blob: &[u8]) -> String {
    let b64 = data_encoding::BASE64.encode(blob);
    let mut text = "-----BEGIN SSH SIGNATURE-----\n".to_owned();
    for line in b64.as_bytes().chunks(70) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text + "-----END SSH SIGNATURE-----\n"
}

/// The blob of well-formed armor; nothing where it is none.
pub(crate) fn dearmor(armor: &str) -> Vec<u8> {
    let b64: String = armor.lines().filter(|line| !line.starts_with("-----")).collect();
    data_encoding::BASE64.decode(b64.as_bytes()).unwrap_or_default()
}
