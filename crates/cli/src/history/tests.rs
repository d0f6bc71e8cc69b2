use authz::merkle::{Tree, leaf_hash};

use super::*;
use crate::testing::{believed, done, ended, host_key, mallory, name, receipt};

fn log(length: u64, last: &[u8]) -> (Vec<Receipt>, Tree) {
    let (mut prev, mut tree, mut receipts) = (Sha256::from_bytes([0; 32]), Tree::default(), Vec::new());
    let host = believed(1, "web1");
    for seq in 0..length {
        let op = if seq + 1 == length { Sha256::of(last) } else { Sha256::of(&seq.to_be_bytes()) };
        let signed = receipt(1, Some((seq, prev)), ended(op, done()));
        prev = Sha256::of(&signed.payload.0);
        tree.push(leaf_hash(&signed.payload.0));
        receipts.push(crate::judge::believe(&signed, &host).unwrap());
    }
    (receipts, tree)
}

fn at(tree: &Tree, size: u64) -> Checkpoint {
    Checkpoint { size, root: tree.root(size).unwrap() }
}

#[test]
fn a_log_only_grows() {
    let web1 = name("web1");
    let (_, tree) = log(9, b"end");
    let (_, fork) = log(9, b"another end");
    let kept = at(&tree, 9);
    assert_eq!(compare(&web1, None, &kept).unwrap(), Next::First);
    assert_eq!(compare(&web1, Some(&kept), &kept).unwrap(), Next::Same);
    let error = compare(&web1, Some(&kept), &at(&tree, 8)).unwrap_err();
    assert!(matches!(error, HistoryError::Shrunk { kept: 9, shown: 8, .. }), "{error}");
    let error = compare(&web1, Some(&kept), &at(&fork, 9)).unwrap_err();
    assert!(matches!(error, HistoryError::Forked { size: 9, .. }), "{error}");
    // An emptied log is a shorter one.
    assert!(matches!(compare(&web1, Some(&kept), &at(&tree, 0)), Err(HistoryError::Shrunk { shown: 0, .. })));
    assert_eq!(compare(&web1, Some(&at(&tree, 0)), &kept).unwrap(), Next::Continues);
    let older = at(&tree, 6);
    assert_eq!(compare(&web1, Some(&older), &kept).unwrap(), Next::Continues);
    check_continues(&web1, &older, &kept, &tree.consistency(6, 9).unwrap()).unwrap();
    for proof in [vec![], fork.consistency(6, 9).unwrap(), tree.consistency(5, 9).unwrap()] {
        let error = check_continues(&web1, &older, &kept, &proof).unwrap_err();
        assert!(matches!(error, HistoryError::NotContinued { kept: 6, shown: 9, .. }), "{error}");
    }
}

/// 4.12: a receipt is bound to payload, signers and host.
#[test]
fn a_receipt_is_in_the_log_as_it_was_signed_or_not_at_all() {
    let web1 = name("web1");
    let (receipts, tree) = log(7, b"end");
    let checkpoint = at(&tree, 7);
    let proof = tree.inclusion(3, 7).unwrap();
    let anchor = check_included(&web1, &receipts[3], 3, &checkpoint, &proof).unwrap();
    assert_eq!(anchor, Anchor { size: 4, head: receipts[4].entry.unwrap().prev });
    let mut lies = vec![(receipts[3].clone(), 2), (receipts[4].clone(), 3), (receipts[3].clone(), 7)];
    for (place, alter) in [
        (3, (|r: &mut Receipt| r.time += 1) as fn(&mut Receipt)),
        (3, |r| r.host_key_gen = 2),
        (3, |r| r.host = protocol::HostId::from_bytes([2; 16])),
        (3, |r| r.boot_id.push('x')),
        (3, |r| {
            if let authz::Event::Order { signers, .. } = &mut r.event {
                let key = mallory().public().fingerprint();
                signers.push(authz::receipt::Signer { operator: name("mallory"), key });
            }
        }),
        (3, |r| {
            if let authz::Event::Order { op, .. } = &mut r.event {
                *op = Sha256::of(b"another order");
            }
        }),
    ] {
        let mut lie = receipts[3].clone();
        alter(&mut lie);
        lies.push((lie, place));
    }
    for (lie, place) in lies {
        let error = check_included(&web1, &lie, place, &checkpoint, &proof).unwrap_err();
        assert!(matches!(error, HistoryError::NotIncluded { .. }), "{error}");
    }
}

/// 4.12: wrong origin, generation change, another host's checkpoint.
#[test]
fn only_the_stated_key_of_the_stated_host_speaks_for_its_log() {
    let (_, tree) = log(4, b"end");
    let (host, checkpoint) = (believed(1, "web1"), at(&tree, 4));
    let signed = checkpoint.sign(&origin(&host), &host_key(1));
    assert_eq!(believe(&signed, &host).unwrap(), checkpoint);
    let kept = Kept { v: 1, note: signed.clone(), anchor: None, seen_at: 1 };
    assert_eq!(believe_kept(&kept, &host).unwrap(), checkpoint);
    let mut renewed = host.clone();
    renewed.statement.host_key_gen = 2;
    for (lie, about) in [
        (checkpoint.sign(&origin(&host), &mallory()), &host),
        (checkpoint.sign(&origin(&believed(2, "db1")), &host_key(1)), &host),
        (checkpoint.sign(&origin(&renewed), &host_key(1)), &host),
        (signed.clone(), &renewed),
        (signed, &believed(2, "db1")),
    ] {
        assert!(matches!(believe(&lie, about), Err(HistoryError::Checkpoint { .. })));
        let kept = Kept { v: 1, note: lie, anchor: None, seen_at: 1 };
        assert!(matches!(believe_kept(&kept, about), Err(HistoryError::Kept { .. })));
    }
}
