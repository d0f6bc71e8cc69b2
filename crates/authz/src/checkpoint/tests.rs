use super::*;
use crate::merkle::{Frontier, Tree, empty_root, leaf_hash};

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn origin() -> Origin {
    Origin { host: HostId::from_bytes([0xab; 16]), generation: 1 }
}

fn checkpoint() -> Checkpoint {
    Checkpoint { size: 1234, root: Sha256::of(b"root") }
}

fn note(text: &str) -> Note {
    text.parse().unwrap()
}

fn judge(text: &str) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::verify(&note(text), &origin(), &key().public())
}

/// The format of others, by notes of others: the example of Go's `sumdb/note` package documentation, and
/// one that an Elixir implementation shows (yaglo/signed_note).
#[test]
fn key_hash_and_signature_are_those_of_other_tools() {
    for (name, hash, typed, text, signed) in [
        (
            "PeterNeumann",
            0xc74f_20a3_u32,
            "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n",
            "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=",
        ),
        (
            "example.com/foo",
            0x530d_903a,
            "AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            "This is an example message.\n",
            "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=",
        ),
    ] {
        let typed = BASE64.decode(typed.as_bytes()).unwrap();
        let (kind, bytes) = typed.split_first().unwrap();
        let bytes: [u8; 32] = bytes.try_into().unwrap();
        assert_eq!((*kind, named_key_hash(name, &bytes)), (ED25519, hash.to_be_bytes()), "{name}");
        let line = format!("{DASH}{name} {signed}");
        let line = Line::new(&line).unwrap();
        assert_eq!((line.name, line.hash), (name, hash.to_be_bytes()));
        let key = PublicKey::try_from(protocol::Ed25519Key::from_bytes(bytes)).unwrap();
        let signature: [u8; 64] = line.signature.try_into().unwrap();
        assert!(key.verify_strict(text.as_bytes(), &signature), "{name}");
    }
}

#[test]
fn a_checkpoint_has_frozen_bytes_and_round_trips() {
    let signed = checkpoint().sign(&origin(), &key());
    let text = "writ.invalid/host/abababababababababababababababab/key/1\n1234\n\
                SBNJTRN+FjG7owHVrKtue7eqdM4RhdRWVl71HXN2d7I=\n";
    let (head, tail) = signed.as_str().split_once("\n\n").unwrap();
    assert_eq!(format!("{head}\n"), text);
    assert!(tail.starts_with("— writ.invalid/host/abababababababababababababababab/key/1 "), "{tail}");
    assert_eq!(tail.lines().count(), 1);
    assert_eq!(judge(signed.as_str()).unwrap(), checkpoint());
    assert_eq!(Checkpoint::read_unverified(&signed).unwrap(), (origin(), checkpoint()));
    let vkey = verifier_key(&origin(), &key().public());
    let mut parts = vkey.split('+');
    assert_eq!(parts.next().unwrap(), origin().to_string());
    let hash = u32::from_be_bytes(key_hash(&origin(), &key().public()));
    assert_eq!(parts.next().unwrap(), format!("{hash:08x}"));
}

/// What an SSHSIG signs begins with its magic (PROTOCOL.sshsig), a checkpoint never does.
#[test]
fn a_checkpoint_is_never_an_sshsig() {
    assert!(!Origin::PREFIX.as_bytes().starts_with(b"SSHSIG"));
    assert!(checkpoint().text(&origin()).starts_with(Origin::PREFIX));
    let text = checkpoint().text(&origin());
    let receipt = key().sign(crate::Namespace::Receipt, text.as_bytes());
    assert!(
        crate::sshsig::verify(&receipt, crate::Namespace::Receipt, text.as_bytes(), &key().public()).is_ok()
    );
    // The same key's signature over the same text in the other format is none here.
    let blob: String = receipt.lines().filter(|line| !line.starts_with("--")).collect();
    let blob = BASE64.decode(blob.as_bytes()).unwrap();
    let line = [key_hash(&origin(), &key().public()).as_slice(), &blob[blob.len() - 64..]].concat();
    let lie = format!("{text}\n{DASH}{} {}\n", origin(), BASE64.encode(&line));
    assert!(matches!(judge(&lie), Err(CheckpointError::Forged { .. })));
}

#[test]
fn small_and_large_sizes() {
    let all = [
        (0, empty_root()),
        (1, leaf_hash(b"")),
        (1 << 32, Sha256::of(b"x")),
        (MAX_INTEGER, Sha256::of(b"x")),
    ];
    for (size, root) in all {
        let checkpoint = Checkpoint { size, root };
        assert_eq!(judge(checkpoint.sign(&origin(), &key()).as_str()).unwrap(), checkpoint);
    }
    for bad in [
        Checkpoint { size: 0, root: Sha256::of(b"x") },
        Checkpoint { size: MAX_INTEGER + 1, root: Sha256::of(b"x") },
        Checkpoint { size: u64::MAX, root: Sha256::of(b"x") },
    ] {
        assert_eq!(judge(bad.sign(&origin(), &key()).as_str()), Err(CheckpointError::Malformed), "{bad:?}");
    }
}

#[test]
fn other_logs_and_other_keys_are_named() {
    let signed = checkpoint().sign(&origin(), &key());
    let other = Origin { generation: 2, ..origin() };
    let error = Checkpoint::verify(&signed, &other, &key().public()).unwrap_err();
    assert_eq!(error, CheckpointError::OtherLog { expected: other, found: origin() });
    let host = Origin { host: HostId::from_bytes([1; 16]), ..origin() };
    assert!(matches!(
        Checkpoint::verify(&signed, &host, &key().public()),
        Err(CheckpointError::OtherLog { .. })
    ));
    let stranger = SecretKey::from_seed(&[2; 32]);
    // Another key has another hash; with the hash of ours the signature is looked at.
    let error = judge(checkpoint().sign(&origin(), &stranger).as_str()).unwrap_err();
    assert!(matches!(error, CheckpointError::Unsigned { .. }), "{error}");
    let text = checkpoint().text(&origin());
    let line =
        [key_hash(&origin(), &key().public()).as_slice(), &stranger.sign_bytes(text.as_bytes())].concat();
    let forged = format!("{text}\n{DASH}{} {}\n", origin(), BASE64.encode(&line));
    assert!(matches!(judge(&forged), Err(CheckpointError::Forged { .. })));
}

/// C2SP signed-note: signatures by unknown keys are ignored, also under a known name; ours must hold.
#[test]
fn others_may_sign_too() {
    let signed = checkpoint().sign(&origin(), &key());
    let text = checkpoint().text(&origin());
    let ours = signed.as_str().lines().last().unwrap().to_owned();
    let stranger = SecretKey::from_seed(&[2; 32]);
    let same_name = checkpoint().sign(&origin(), &stranger).as_str().lines().last().unwrap().to_owned();
    let witness = format!("{DASH}witness.example/w {}", BASE64.encode(&[7; 80]));
    let with = |lines: &[&str]| format!("{text}\n{}\n", lines.join("\n"));
    for lines in [vec![&ours, &witness], vec![&witness, &ours], vec![&same_name, &ours, &witness]] {
        let lines: Vec<&str> = lines.into_iter().map(String::as_str).collect();
        assert_eq!(judge(&with(&lines)).unwrap(), checkpoint());
    }
    let many = vec![ours.as_str()].into_iter().chain([witness.as_str(); 15]).collect::<Vec<_>>();
    assert_eq!(judge(&with(&many)).unwrap(), checkpoint());
    assert_eq!(judge(&with(&[many.as_slice(), &[&witness]].concat())), Err(CheckpointError::Malformed));
    for lines in [vec![ours.as_str(), &ours], vec![witness.as_str()], vec![same_name.as_str()]] {
        assert!(matches!(judge(&with(&lines)), Err(CheckpointError::Unsigned { .. })), "{lines:?}");
    }
}

#[test]
fn other_spellings_are_refused() {
    let good = checkpoint().sign(&origin(), &key()).as_str().to_owned();
    let (head, tail) = good.split_once("\n\n").unwrap();
    let name = origin().to_string();
    for bad in [
        good.replace("\n1234\n", "\n01234\n"),
        good.replace("\n1234\n", "\n+1234\n"),
        good.replace("\n1234\n", "\n1234 \n"),
        good.replace("\n1234\n", "\n-1\n"),
        good.replace("\n1234\n", "\n1e3\n"),
        good.replace("\n1234\n", "\n\n"),
        good.replace("\n1234\n", "\n99999999999999999999\n"),
        // Extension lines, blank lines, a line less.
        format!("{head}\nextension\n\n{tail}"),
        format!("{head}\n\n\n{tail}"),
        format!("\n{good}"),
        format!("{head}\n{tail}"),
        format!("{name}\n1234\n\n{tail}"),
        format!("{head}\n\n"),
        format!("{head}\n"),
        format!("{good}\n"),
        format!("{good}x\n"),
        format!("{good} \n"),
        good.replace(DASH, "-- "),
        good.replace(DASH, "\u{2013} "),
        good.replace(DASH, "\u{2014}"),
        // Base64: padding gone, bits in the padding, another alphabet.
        good.replace("d7I=\n", "d7I\n"),
        good.replace("d7I=\n", "d7J=\n"),
        good.replace("SBNJTRN+", "SBNJTRN-"),
        good.replace("d7I=\n", "d7I=A\n"),
        // The name.
        good.replace("/key/1", "/key/01"),
        good.replace("/key/1", "/key/+1"),
        good.replace("/key/1", "/key/"),
        good.replace("/key/1", "/key/1/"),
        good.replace("/key/1", "/key/4294967296"),
        good.replace("abab", "ABAB"),
        good.replace("writ.invalid", "writ.example"),
        good.replacen(&name, &format!("{name} "), 1),
    ] {
        let Ok(note) = bad.parse::<Note>() else { continue };
        let judged = Checkpoint::verify(&note, &origin(), &key().public());
        assert_eq!(judged, Err(CheckpointError::Malformed), "{bad:?}");
    }
    for bad in ["\n", "\n\n", "\n\n\n", "— \n", "\n\n— \n", "\n\n— a b\n", "a\n0\n\n\n— a AAAA\n"] {
        assert_eq!(judge(bad), Err(CheckpointError::Malformed), "{bad:?}");
    }
}

/// No byte of a signed checkpoint can be changed, left out or doubled; nothing panics.
#[test]
fn no_altered_checkpoint_is_believed() {
    let good = checkpoint().sign(&origin(), &key());
    let bytes = good.as_str().as_bytes();
    let mut looked_at = 0;
    for place in 0..bytes.len() {
        for change in 0..10 {
            let mut lie = bytes.to_vec();
            match change {
                0..=7 => lie[place] ^= 1 << change,
                8 => drop(lie.remove(place)),
                _ => lie.insert(place, bytes[place]),
            }
            let Some(note) = std::str::from_utf8(&lie).ok().and_then(|text| text.parse().ok()) else {
                continue;
            };
            looked_at += 1;
            // A changed name or hash on the signature's line makes it a stranger's; either way: no.
            assert!(Checkpoint::verify(&note, &origin(), &key().public()).is_err(), "byte {place}, {change}");
        }
        let short = std::str::from_utf8(&bytes[..place]).ok().and_then(|text| text.parse().ok());
        if let Some(note) = short {
            assert!(Checkpoint::verify(&note, &origin(), &key().public()).is_err());
        }
    }
    assert!(looked_at > 1000, "{looked_at}");
}

/// Seeded noise in the shape of a note: nothing panics, nothing is believed.
#[test]
fn noise_is_no_checkpoint() {
    let good = checkpoint().sign(&origin(), &key()).as_str().to_owned();
    let parts = [
        "\n",
        "\n\n",
        DASH,
        " ",
        "0",
        "1234",
        "+",
        "=",
        "AAAA",
        "/key/",
        &origin().to_string(),
        "\u{202e}",
        &good,
    ];
    let mut state = 7u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(parts[(state >> 33) as usize % (parts.len() - 1)]);
        }
        text.push('\n');
        if let Ok(note) = text.parse() {
            assert!(Checkpoint::verify(&note, &origin(), &key().public()).is_err(), "{text:?}");
        }
    }
}

/// A receipt is an entry, its proof and the checkpoint: none of the three fits others (J: receipt binding).
#[test]
fn a_proof_binds_entry_place_and_log() {
    let (mut tree, mut frontier) = (Tree::default(), Frontier::default());
    let payload = |n: u64| format!("{{\"entry\":{n}}}\n").into_bytes();
    for n in 0..21 {
        tree.push(leaf_hash(&payload(n)));
        frontier.push(leaf_hash(&payload(n)));
    }
    let old = Checkpoint { size: 13, root: tree.root(13).unwrap() };
    let new = Checkpoint { size: 21, root: frontier.root() };
    let proof = tree.inclusion(7, 21).unwrap();
    new.includes(7, &payload(7), &proof).unwrap();
    for (index, entry) in [(7, 8), (8, 7), (6, 7), (20, 7), (21, 7)] {
        assert!(new.includes(index, &payload(entry), &proof).is_err(), "{entry} at {index}");
    }
    assert!(old.includes(7, &payload(7), &proof).is_err());
    new.continues(&old, &tree.consistency(13, 21).unwrap()).unwrap();
    assert!(old.continues(&new, &tree.consistency(13, 21).unwrap()).is_err());
    // A fork: the same beginning, another entry 20.
    let mut fork = Tree::default();
    (0..20).for_each(|n| fork.push(leaf_hash(&payload(n))));
    fork.push(leaf_hash(&payload(99)));
    let forked = Checkpoint { size: 21, root: fork.root(21).unwrap() };
    assert!(forked.continues(&new, &[]).is_err());
    assert!(new.continues(&forked, &fork.consistency(20, 21).unwrap()).is_err());
    forked.continues(&old, &fork.consistency(13, 21).unwrap()).unwrap();
}
