//! Files that must not open, each with the answer it must get.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

mod forge;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forge::{CHUNK, HOST, OTHER, TEXT, good, large_cases, nonce, small_cases};
use sealed::{MAX_PLAINTEXT, OpenError, open, sealed_len};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// Every kept file by class and name, without the good ones.
fn kept() -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for class in std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap()) {
        let class_name = class.file_name().into_string().unwrap();
        for case in std::fs::read_dir(class.path()).unwrap().map(|entry| entry.unwrap().path()) {
            assert_eq!(case.extension().unwrap(), "age", "{}", case.display());
            let name = format!("{class_name}/{}", case.file_stem().unwrap().to_str().unwrap());
            found.insert(name, std::fs::read(case).unwrap());
        }
    }
    found.retain(|name, _| !name.starts_with("good/"));
    found
}

#[test]
fn kept_cases_are_refused_each_for_its_reason() {
    assert_eq!(**open(&HOST, &good(), 100).unwrap(), *TEXT, "what the cases are made from is good");
    let cases = small_cases();
    // After a change to the forger; what was written is to be read before it is kept.
    if std::env::var_os("WRIT_WRITE_CASES").is_some() {
        for case in &cases {
            let path = folder().join(format!("{}.age", case.name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &case.bytes).unwrap();
        }
    }
    let mut kept = kept();
    assert!(cases.len() > 100, "the cases are there");
    for case in cases {
        let bytes = kept.remove(&case.name).unwrap_or_else(|| panic!("{} is not kept", case.name));
        assert!(bytes == case.bytes, "{}: the kept file is not what the forger makes", case.name);
        assert_eq!(open(&HOST, &bytes, 1000).unwrap_err(), case.refused, "{}", case.name);
    }
    assert_eq!(kept.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "kept, but nobody's case");
}

#[test]
fn large_cases_are_refused() {
    let cases = large_cases();
    assert!(cases.len() > 30, "the cases are there");
    for case in cases {
        assert_eq!(open(&HOST, &case.bytes, usize::MAX).unwrap_err(), case.refused, "{}", case.name);
    }
}

/// Whether a refused change to the file can be told as what it is: never as a success.
fn refused(bytes: &[u8], what: &str) -> OpenError {
    match open(&HOST, bytes, 1000) {
        Err(error) => error,
        Ok(_) => panic!("{what} was opened"),
    }
}

#[test]
fn every_changed_bit_is_noticed() {
    let file = good();
    let mut answers = BTreeMap::<String, usize>::new();
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            let error = refused(&changed, &format!("byte {at}, bit {bit}"));
            let expected = match at {
                0..22 => matches!(error, OpenError::NotSealed),
                // The type and its end: most changes name another, the others are no type at all.
                25..37 => matches!(error, OpenError::OtherKind("unknown to us") | OpenError::Damaged),
                // The tag: another key's, or not base64.
                37..43 => matches!(error, OpenError::OtherKey { .. } | OpenError::Damaged),
                _ => error == OpenError::Damaged,
            };
            assert!(expected, "byte {at}, bit {bit}: {error}");
            *answers.entry(error.to_string()).or_default() += 1;
        }
    }
    assert_eq!(answers.values().sum::<usize>(), file.len() * 8);
    assert_eq!(answers.len(), 4, "{answers:?}");
}

#[test]
fn every_cut_insertion_and_removal_is_noticed() {
    let file = good();
    for at in 0..file.len() {
        let error = refused(&file[..at], &format!("the first {at} bytes"));
        let expected = if at < 22 { OpenError::NotSealed } else { OpenError::Damaged };
        assert_eq!(error, expected, "the first {at} bytes");
        refused(&file[at + 1..], &format!("the bytes after {at}"));
        refused(&[&file[..at], &file[at + 1..]].concat(), &format!("all but byte {at}"));
        for byte in [0, b'A', b'\n', b' ', file[at]] {
            refused(&[&file[..at], &[byte], &file[at..]].concat(), &format!("{byte} before byte {at}"));
        }
    }
    for byte in 0..=255 {
        refused(&[&file[..], &[byte]].concat(), &format!("{byte} at the end"));
    }
}

#[test]
fn files_put_together_from_others_are_refused() {
    let [a, b] = [&[1; 64], &[2; 64]].map(|random| {
        let randomness = sealed::Randomness::from_bytes(random);
        sealed::seal(&forge::public(&HOST), TEXT, randomness).unwrap()
    });
    assert!(open(&HOST, &a, 100).is_ok() && open(&HOST, &b, 100).is_ok());
    refused(&[&a[..], &b].concat(), "two files in a row");
    refused(&[&a[..], &a].concat(), "a file twice");
    // Within the share (all before it is the same in both), each line end, and about the nonce's end.
    for at in [60, 88, 132, 180, 196, 200] {
        refused(&[&a[..at], &b[at..]].concat(), &format!("a up to {at}, then b"));
    }
}

#[test]
fn the_wrong_key_learns_that_it_is_wrong() {
    let error = open(&OTHER, &good(), 100).unwrap_err();
    assert_eq!(error, OpenError::OtherKey { ours: forge::public(&OTHER).fingerprint() });
    assert!(error.to_string().contains("another key than SHA256:"), "{error}");
}

#[test]
fn sizes_are_decided_by_the_length_before_anything_is_opened() {
    let file = good();
    assert_eq!(**open(&HOST, &file, TEXT.len()).unwrap(), *TEXT);
    let limit = TEXT.len() - 1;
    assert_eq!(open(&HOST, &file, limit).unwrap_err(), OpenError::TooLarge { limit });
    assert_eq!(open(&HOST, &file, 0).unwrap_err(), OpenError::TooLarge { limit: 0 });
    // Too large comes before anything is decrypted: the same without a genuine byte in it.
    let mut broken = file.clone();
    broken[100..132].fill(b'A');
    broken[131] = b'\n';
    broken[180..].fill(0);
    assert_eq!(open(&HOST, &broken, limit).unwrap_err(), OpenError::TooLarge { limit });
    assert_eq!(open(&HOST, &broken, TEXT.len()).unwrap_err(), OpenError::Damaged);
    // Nobody can lift the limit of the crate.
    let mut huge = file[..180].to_vec();
    huge.resize(sealed_len(MAX_PLAINTEXT + 1), 0);
    let error = open(&HOST, &huge, usize::MAX).unwrap_err();
    assert_eq!(error, OpenError::TooLarge { limit: MAX_PLAINTEXT });
    // An empty file needs no room at all.
    let empty = forge::file_of(&[(b"", nonce(0, true))]);
    assert!(open(&HOST, &empty, 0).unwrap().is_empty());
    assert_eq!(empty.len(), sealed_len(0));
    assert_eq!(sealed_len(CHUNK) - CHUNK, sealed_len(0));
}
