use super::*;
use crate::namespace::Namespace;
use crate::order::PolicyRef;
use crate::policy::PolicyDocument;
use crate::policy::tests::{alice, bob, document, helpdesk, mallory, policy};
use crate::policy::words::{Freshness, Revocation, Revoked};
use crate::secret::SecretKey;

const T: u64 = 1_763_000_100;

fn sign(payload: Vec<u8>, keys: &[&SecretKey]) -> Envelope {
    let sigs = keys.iter().map(|key| key.sign(Namespace::Policy, &payload)).collect();
    Envelope::new(payload.into(), sigs)
}

fn next(policy: &Policy) -> PolicyDocument {
    PolicyDocument::next_after(policy, T)
}

fn revoke(policy: &Policy, key: &SecretKey, by: &SecretKey) -> Envelope {
    let word = Revocation {
        v: 1,
        revoke: Revoked::Key { key: key.public().fingerprint() },
        policy: PolicyRef::from(policy),
        issued_at: T,
        reason: protocol::text::SafeText::sanitize("lost"),
    };
    sign(word.encode(), &[by])
}

fn fresh(policy: &Policy, at: u64) -> Envelope {
    let word = Freshness { v: 1, fresh: PolicyRef::from(policy), issued_at: at };
    sign(word.encode(), &[&bob()])
}

/// Version 2, a word of freshness, a revocation, version 3.
fn filled(dir: &Path) -> ChainStore {
    let mut store = ChainStore::create(dir, policy()).unwrap();
    let two = sign(next(store.current()).encode(), &[&alice()]);
    assert!(matches!(store.take(&two, T), Ok(Accepted::Advanced { .. })));
    assert!(matches!(store.take(&fresh(store.current(), T + 5), T), Ok(Accepted::Fresh(_))));
    let gone = revoke(store.current(), &helpdesk(), &bob());
    assert!(matches!(store.take(&gone, T), Ok(Accepted::Revoked { .. })));
    let three = sign(next(store.current()).encode(), &[&alice()]);
    assert!(matches!(store.take(&three, T), Ok(Accepted::Advanced { .. })));
    assert!(matches!(store.take(&two, T), Ok(Accepted::Known)), "replayed");
    assert!(matches!(store.take(&gone, T), Ok(Accepted::Known)), "replayed");
    store
}

#[test]
fn what_was_taken_in_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    for again in [ChainStore::open(dir.path(), policy()), ChainStore::inspect(dir.path(), policy())] {
        let again = again.unwrap();
        assert_eq!(again.current(), store.current());
        assert_eq!(again.documents(), store.documents());
        assert_eq!((again.current().version(), again.documents().len()), (3, 3));
        assert_eq!(again.chain().fresh_at(), T + 5);
        assert!(again.current().is_revoked(&helpdesk().public()));
    }
    // And it goes on.
    let mut again = ChainStore::open(dir.path(), policy()).unwrap();
    let four = sign(next(again.current()).encode(), &[&bob()]);
    assert!(matches!(again.take(&four, T), Ok(Accepted::Advanced { .. })));
    assert_eq!(ChainStore::open(dir.path(), policy()).unwrap().current().version(), 4);
}

#[test]
fn what_is_refused_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let mut fork = next(store.current());
    fork.version = 3;
    fork.prev = Some(Sha256::of(b"other"));
    let stranger = sign(next(store.current()).encode(), &[&mallory()]);
    let unsigned = Envelope::new(next(store.current()).encode().into(), vec![]);
    for (what, envelope, code) in [
        ("fork", sign(fork.encode(), &[&alice()]), RefusalCode::Chain),
        ("stranger", stranger, RefusalCode::UnknownSigner),
        ("unsigned", unsigned, RefusalCode::Unsigned),
        ("junk", sign(b"{}".to_vec(), &[&alice()]), RefusalCode::BadOrder),
    ] {
        match store.take(&envelope, T) {
            Err(TakeError::Refused(refusal)) => assert_eq!(refusal.code, code, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(ChainStore::open(dir.path(), policy()).unwrap().documents(), store.documents());
}

/// Every file removed, emptied, cut, changed in each byte, and swapped with every other.
#[test]
fn damage_is_never_an_older_policy() {
    let dir = tempfile::tempdir().unwrap();
    let good = filled(dir.path());
    let there = dir.path().join(DIRECTORY);
    let names = ["00000001.json", "00000002.json", "00000003.json", HEAD, FRESH];
    let bytes: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(there.join(name)).unwrap()).collect();
    let restore = || {
        for (name, bytes) in names.iter().zip(&bytes) {
            std::fs::write(there.join(name), bytes).unwrap();
        }
    };
    let opened = || ChainStore::open(dir.path(), policy());
    for (i, name) in names.iter().enumerate() {
        let path = there.join(name);
        std::fs::remove_file(&path).unwrap();
        if *name == FRESH {
            // Nobody's rights depend on it: without it the policy is sooner stale.
            assert!(opened().unwrap().chain().fresh_at() < T + 5);
        } else {
            assert!(matches!(opened(), Err(ChainStoreError::Damaged { .. })), "{name} removed");
        }
        restore();
        for cut in [0, 1, bytes[i].len() / 2, bytes[i].len() - 1] {
            std::fs::write(&path, &bytes[i][..cut]).unwrap();
            assert!(opened().is_err(), "{name} cut to {cut}");
        }
        for at in (0..bytes[i].len()).step_by(89) {
            let mut flipped = bytes[i].clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            if let Ok(store) = opened() {
                // Only the time of acceptance is free to say something else in the last files.
                assert_eq!(store.current(), good.current(), "{name} byte {at}");
            }
            restore();
        }
        for other in &bytes {
            if *other != bytes[i] {
                std::fs::write(&path, other).unwrap();
                assert!(opened().is_err(), "{name} swapped");
            }
        }
        restore();
    }
    // A document more than two behind the head, and a gap.
    std::fs::write(there.join("00000005.json"), &bytes[2]).unwrap();
    assert!(opened().is_err());
    std::fs::remove_file(there.join("00000005.json")).unwrap();
    // Another first policy.
    let mut other = document();
    other.issued_at += 1;
    assert!(ChainStore::open(dir.path(), Policy::decode(&other.encode()).unwrap()).is_err());
    assert_eq!(opened().unwrap().current(), good.current());
    std::fs::remove_dir_all(&there).unwrap();
    assert!(opened().is_err());
}

#[test]
fn a_crash_between_a_document_and_the_head_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = ChainStore::create(dir.path(), policy()).unwrap();
    let head = dir.path().join(DIRECTORY).join(HEAD);
    let before = std::fs::read(&head).unwrap();
    store.take(&sign(next(store.current()).encode(), &[&alice()]), T).unwrap();
    std::fs::write(&head, before).unwrap();
    assert_eq!(ChainStore::inspect(dir.path(), policy()).unwrap().current().version(), 2);
    assert_eq!(ChainStore::open(dir.path(), policy()).unwrap().current().version(), 2);
    assert_eq!(ChainStore::open(dir.path(), policy()).unwrap().documents().len(), 1);
    // The document that the head speaks of is gone now.
    std::fs::remove_file(dir.path().join(DIRECTORY).join("00000001.json")).unwrap();
    assert!(ChainStore::open(dir.path(), policy()).is_err());
}

/// Both files of a document need their room before one of them counts.
#[test]
fn what_cannot_be_written_changes_nothing_and_can_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = ChainStore::create(dir.path(), policy()).unwrap();
    let two = sign(next(store.current()).encode(), &[&alice()]);
    let listed = || {
        let names = std::fs::read_dir(dir.path().join(DIRECTORY)).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    for in_the_way in [".00000001.json.new", ".head.json.new"] {
        let path = dir.path().join(DIRECTORY).join(in_the_way);
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(store.take(&two, T), Err(TakeError::Store(_))), "{in_the_way}");
        assert_eq!(store.current(), &policy());
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(listed(), [HEAD], "{in_the_way}");
        assert_eq!(ChainStore::open(dir.path(), policy()).unwrap().current(), &policy());
    }
    assert!(matches!(store.take(&two, T), Ok(Accepted::Advanced { .. })));
    assert_eq!(ChainStore::inspect(dir.path(), policy()).unwrap().current(), store.current());
}
