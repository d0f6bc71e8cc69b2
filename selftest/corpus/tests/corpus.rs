//! The committed corpus: complete, as the generator writes it, and decided as expected.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use corpus::check::check;
use corpus::classes::BLOCKS;

fn on_disk(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_decision_and_code_is_the_expected_one() {
    let report = check(&corpus::committed()).unwrap();
    println!(
        "{} classes, {} cases, {} accepted; slowest {:?}: {}",
        report.classes,
        report.cases,
        report.accepted,
        report.slowest.0,
        report.slowest.1.display()
    );
    assert_eq!(report.wrong, Vec::<String>::new());
    assert!(report.classes >= 168 && report.cases >= 600 && report.accepted >= 50);
}

/// The catalogue of `security.md` 4.2, block by block: 168 classes.
#[test]
fn every_class_of_the_catalogue_is_there() {
    let all = corpus::classes::all();
    let names: BTreeSet<&str> = all.iter().map(|class| class.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "no name twice");
    assert_eq!(BLOCKS.iter().map(|(_, expected)| expected).sum::<usize>(), 168);
    for (block, expected) in BLOCKS {
        let here = names.iter().filter(|name| name.starts_with(&format!("{block}-"))).count();
        assert_eq!(here, expected, "{block}");
    }
    for class in &all {
        assert!(class.cases.len() >= 3, "{} has {} cases", class.name, class.cases.len());
        for (number, case) in class.cases.iter().enumerate() {
            let same = class.cases[..number].iter().any(|other| other.is_same(case));
            assert!(!same, "{} case {} is there twice", class.name, number + 1);
        }
    }
}

/// `cargo run -p corpus -- write` makes exactly what is committed.
#[test]
fn the_committed_corpus_is_what_its_seeds_give() {
    let committed = on_disk(&corpus::committed());
    let made: BTreeMap<PathBuf, Vec<u8>> = corpus::files().into_iter().collect();
    let stray: Vec<_> = committed.keys().filter(|path| !made.contains_key(*path)).collect();
    assert!(stray.is_empty(), "nobody made {stray:?}");
    for (path, bytes) in &made {
        let same = committed.get(path) == Some(bytes);
        assert!(
            same,
            "{} differs: run `cargo run -p corpus -- write` and look at the difference",
            path.display()
        );
    }
}

/// A judge that could not fail would say nothing.
#[test]
fn a_wrong_expectation_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let class = root.path().join("class");
    let copy = |from: &str, to: &str| {
        std::fs::create_dir_all(class.join(to)).unwrap();
        for entry in std::fs::read_dir(corpus::committed().join(from)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, class.join(to).join(path.file_name().unwrap())).unwrap();
        }
    };
    for number in ["1", "2", "3"] {
        copy("good-keys/1", number);
    }
    assert!(check(root.path()).unwrap().wrong.is_empty());
    let expect =
        |number: &str, text: &str| std::fs::write(class.join(number).join("expect.json"), text).unwrap();
    let refuse = r#"{"decision":"refuse","code":"replay","rule":"V21","why":"x"}"#;
    expect("1", refuse);
    expect("2", &refuse.replace("\"replay\"", "null"));
    std::fs::write(class.join("3/host.json"), "{}").unwrap();
    let wrong = check(root.path()).unwrap().wrong;
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    copy("armor-nul/1", "1");
    expect("1", &refuse.replace("replay", "namespace"));
    std::fs::remove_dir_all(class.join("3")).unwrap();
    let wrong = check(root.path()).unwrap().wrong;
    assert!(wrong.iter().any(|why| why.contains("2 cases")), "{wrong:?}");
    assert!(wrong.iter().any(|why| why.contains("refuse malformed")), "{wrong:?}");
}
