use super::*;
use crate::testing::{believed, done, ended, host_key, mallory, receipt};

fn subject() -> Subject {
    let host = believed(1, "web1");
    Subject { origin: crate::history::origin(&host), key: host.key }
}

/// A host's log, and the checkpoints over its first entries.
fn log(length: u64) -> (Vec<Signed>, Vec<Checkpoint>) {
    let (mut prev, mut tree, mut entries) = (Sha256::from_bytes([0; 32]), Frontier::default(), Vec::new());
    let mut checkpoints = vec![Checkpoint { size: 0, root: tree.root() }];
    for seq in 0..length {
        let signed = receipt(1, Some((seq, prev)), ended(Sha256::of(&seq.to_be_bytes()), done()));
        prev = Sha256::of(&signed.payload.0);
        tree.push(leaf_hash(&signed.payload.0));
        checkpoints.push(Checkpoint { size: tree.size(), root: tree.root() });
        entries.push(signed);
    }
    (entries, checkpoints)
}

fn lines(entries: &[Signed]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(serde_json::to_vec(entry).unwrap());
        bytes.push(b'\n');
    }
    bytes
}

fn run(bytes: &[u8], checkpoint: Option<&Note>, kept: Option<&Checkpoint>) -> Page {
    verify(bytes, &subject(), checkpoint, kept).unwrap()
}

#[test]
fn a_good_log_is_well_with_and_without_a_checkpoint() {
    let (entries, checkpoints) = log(6);
    let bytes = lines(&entries);
    let note = checkpoints[6].sign(&subject().origin, &host_key(1));
    let page = run(&bytes, Some(&note), Some(&checkpoints[4]));
    assert_eq!(page.problems, []);
    assert_eq!(
        (page.size, page.root, page.checkpoint, page.continues),
        (6, checkpoints[6].root, Some(6), Some(4))
    );
    assert!(page.notes.is_empty() && page.first_time.is_some() && page.entries.len() == 6);
    let older = checkpoints[5].sign(&subject().origin, &host_key(1));
    assert!(run(&bytes, Some(&older), None).notes[0].contains("1 entries are newer"));
    let bare = run(&bytes, None, None);
    assert!(bare.problems.is_empty() && bare.notes[0].contains("no checkpoint"), "{:?}", bare.notes);
    assert_eq!(claimed_origin(bytes.as_slice()).unwrap(), Some(subject().origin));
    // The empty log has a checkpoint, too.
    let empty = checkpoints[0].sign(&subject().origin, &host_key(1));
    let page = run(b"", Some(&empty), None);
    assert_eq!((page.problems, page.checkpoint, page.size), (vec![], Some(0), 0));
    assert_eq!(claimed_origin(&b""[..]).unwrap(), None);
}

/// 4.12: dropped, altered, reordered, doubled, forged and foreign entries, each with its place.
#[test]
fn each_crack_is_named_with_its_place() {
    let (entries, checkpoints) = log(6);
    let note = checkpoints[6].sign(&subject().origin, &host_key(1));
    let swapped = |a: usize, b: usize| {
        let mut entries = entries.clone();
        entries.swap(a, b);
        lines(&entries)
    };
    let with = |place: usize, entry: Signed| {
        let mut entries = entries.clone();
        entries[place] = entry;
        lines(&entries)
    };
    let prev = Sha256::of(&entries[2].payload.0);
    let event = || ended(Sha256::of(b"x"), done());
    let real = Receipt::verify(&entries[3], &subject().origin.host, &subject().key).unwrap();
    let mut altered = entries[3].clone();
    altered.payload.0[20] ^= 1;
    let bidi = String::from_utf8(entries[3].payload.0.clone()).unwrap().replace("rolled", "\u{202e}olled");
    let bidi = bidi.into_bytes();
    let sig = host_key(1).sign(authz::Namespace::Receipt, &bidi);
    let bidi = Signed { payload: bidi.into(), sig };
    let generation = Receipt { host_key_gen: 2, ..real.clone() }.sign(&host_key(1));
    let version = Receipt { v: 2, ..real.clone() }.sign(&host_key(1));
    let spaced = [entries[3].payload.0.as_slice(), b" "].concat();
    let sig = host_key(1).sign(authz::Namespace::Receipt, &spaced);
    let spaced = Signed { payload: spaced.into(), sig };
    for (bytes, place, says) in [
        (lines(&[&entries[..3], &entries[4..]].concat()), 3, "entry 4 stands in its place"),
        (lines(&entries[1..]), 0, "entry 1 stands in its place"),
        (swapped(3, 4), 3, "entry 4 stands in its place"),
        (lines(&[&entries[..4], &entries[3..]].concat()), 4, "entry 3 stands in its place"),
        (with(3, altered), 3, "not signed by the host's key"),
        (with(3, real.sign(&mallory())), 3, "not signed by the host's key"),
        (with(3, receipt(2, Some((3, prev)), event())), 3, "not signed by the host's key"),
        (with(3, receipt(1, None, event())), 3, "no entry of the log"),
        (with(3, receipt(1, Some((3, Sha256::of(b"y"))), event())), 3, "forked or rolled back"),
        // Another entry in a place, properly signed: what follows shows it.
        (with(3, receipt(1, Some((3, prev)), event())), 4, "forked or rolled back"),
        (with(3, generation), 3, "generation 2"),
        (with(3, version), 3, "format version 2"),
        (with(3, bidi), 3, "not a receipt"),
        (with(3, spaced), 3, "not a receipt"),
        ([lines(&entries[..3]), b"{}\n".to_vec(), lines(&entries[3..])].concat(), 3, "no signed entry"),
        ([lines(&entries[..3]), b"\n".to_vec(), lines(&entries[3..])].concat(), 3, "no signed entry"),
        (
            [lines(&entries[..3]), vec![b'x'; 300_000], lines(&entries[3..])].concat(),
            3,
            "longer than any entry",
        ),
    ] {
        for checkpoint in [None, Some(&note)] {
            let page = run(&bytes, checkpoint, None);
            let problem = &page.problems[0];
            assert!(
                problem.entry == Some(place) && problem.what.contains(says),
                "{says}: {:?}",
                page.problems
            );
            assert_eq!(page.size, place);
            // And the checkpoint says that more was there.
            assert_eq!(page.problems.len(), if checkpoint.is_some() { 2 } else { 1 });
        }
    }
}

/// 4.12: truncation and forks at the end, which the chain alone cannot show.
#[test]
fn only_checkpoints_show_what_is_missing_at_the_end() {
    let (entries, checkpoints) = log(6);
    let note = checkpoints[6].sign(&subject().origin, &host_key(1));
    let short = lines(&entries[..4]);
    assert!(run(&short, None, None).problems.is_empty());
    let page = run(&short, Some(&note), None);
    assert!(page.problems[0].what.contains("over 6 entries, and only 4 good ones"), "{:?}", page.problems);
    assert!(!page.contradicts);
    let page = run(&short, None, Some(&checkpoints[5]));
    assert!(
        page.contradicts && page.problems[0].what.contains("older or was shortened"),
        "{:?}",
        page.problems
    );
    let prev = Sha256::of(&entries[4].payload.0);
    let other = receipt(1, Some((5, prev)), ended(Sha256::of(b"another end"), done()));
    let fork = lines(&[&entries[..5], &[other]].concat());
    assert!(run(&fork, None, Some(&checkpoints[5])).problems.is_empty());
    let page = run(&fork, Some(&note), Some(&checkpoints[6]));
    assert!(page.contradicts && page.problems.len() == 2, "{:?}", page.problems);
    assert!(page.problems[0].what.contains("the log was forked"), "{:?}", page.problems);
    assert!(page.problems[1].what.contains("history was rewritten"), "{:?}", page.problems);
    // A torn last line is what a crash leaves, and hides nothing that was acknowledged.
    let torn = &lines(&entries)[..lines(&entries).len() - 10];
    let page = run(torn, None, None);
    assert!(page.problems.is_empty() && page.size == 5 && page.notes[0].contains("no end"), "{page:?}");
    assert_eq!(run(torn, Some(&note), None).problems.len(), 1);
}

/// 4.12: stale, foreign and forged checkpoints.
#[test]
fn a_checkpoint_that_is_not_the_hosts_is_a_problem() {
    let (entries, checkpoints) = log(3);
    let bytes = lines(&entries);
    let origin = subject().origin;
    for lie in [
        checkpoints[3].sign(&origin, &mallory()),
        checkpoints[3].sign(&Origin { generation: 2, ..origin }, &host_key(1)),
        checkpoints[3].sign(&Origin { host: HostId::from_bytes([2; 16]), ..origin }, &host_key(1)),
        "hello\n".parse().unwrap(),
    ] {
        let page = run(&bytes, Some(&lie), None);
        assert_eq!((page.problems.len(), page.size, page.checkpoint), (1, 3, None), "{:?}", page.problems);
        assert!(page.notes.is_empty());
    }
}

/// Noise of every kind ends with a page and never with a panic.
#[test]
fn noise_is_no_log() {
    let (entries, _) = log(2);
    let good = lines(&entries);
    let mut state = 3u64;
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = (state >> 33) as usize % bytes.len();
            bytes[place] = (state >> 20) as u8;
        }
        let page = run(&bytes, None, None);
        assert!(page.size < 2 || page.problems.is_empty() || page.size <= 2);
        if bytes != good {
            assert!(page.size < 2 || !page.notes.is_empty(), "an altered log was believed");
        }
        let _ = claimed_origin(bytes.as_slice()).unwrap();
    }
    for bad in [&b"\xff\xfe\n"[..], b"[[[[[[\n", b"null\n", b"{\"payload\":\"\",\"sig\":\"\"}\n"] {
        assert_eq!(run(bad, None, None).problems.len(), 1);
        assert_eq!(claimed_origin(bad).unwrap(), None);
    }
}
