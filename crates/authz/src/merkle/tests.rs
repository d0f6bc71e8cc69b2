//! The fast code against the RFC's own recursive definitions, written down again below, for every size up
//! to 66 and every proof in it; and proofs that are wrong in every way a proof can be.

use super::*;

/// RFC 6962 section 2.1, word for word.
fn mth(leaves: &[Sha256]) -> Sha256 {
    match leaves {
        [] => Sha256::of(b""),
        [leaf] => *leaf,
        _ => {
            let k = k(leaves.len());
            node_hash(&mth(&leaves[..k]), &mth(&leaves[k..]))
        }
    }
}

/// The largest power of two smaller than `n`, by counting up.
fn k(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// RFC 6962 section 2.1.1.
fn path(m: usize, leaves: &[Sha256]) -> Vec<Sha256> {
    if leaves.len() == 1 {
        return vec![];
    }
    let k = k(leaves.len());
    if m < k {
        [path(m, &leaves[..k]), vec![mth(&leaves[k..])]].concat()
    } else {
        [path(m - k, &leaves[k..]), vec![mth(&leaves[..k])]].concat()
    }
}

/// RFC 6962 section 2.1.2: PROOF(m, D[n]) = SUBPROOF(m, D[n], true).
fn subproof(m: usize, leaves: &[Sha256], whole: bool) -> Vec<Sha256> {
    if m == leaves.len() {
        return if whole { vec![] } else { vec![mth(leaves)] };
    }
    let k = k(leaves.len());
    if m <= k {
        [subproof(m, &leaves[..k], whole), vec![mth(&leaves[k..])]].concat()
    } else {
        [subproof(m - k, &leaves[k..], false), vec![mth(&leaves[..k])]].concat()
    }
}

fn leaves(n: usize) -> Vec<Sha256> {
    (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

fn tree(leaves: &[Sha256]) -> Tree {
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree
}

/// The eight leaves that implementations of Certificate Transparency use as reference, and the roots of
/// their first one to eight (first published with Google's C++ `merkletree` tests, repeated by
/// transparency-dev/merkle and others).
#[test]
fn the_reference_leaves_have_the_known_roots() {
    let inputs: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let (mut frontier, mut tree) = (Frontier::default(), Tree::default());
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(frontier.root().to_string(), *root, "{size} leaves");
        assert_eq!(tree.root(size as u64).unwrap(), frontier.root());
        if let Some(input) = inputs.get(size) {
            frontier.push(leaf_hash(input));
            tree.push(leaf_hash(input));
        }
    }
    assert_eq!((frontier.size(), tree.size()), (8, 8));
}

/// Every root and proof up to 66 leaves is the RFC's, and so are those around the kept subtrees.
#[test]
fn roots_and_proofs_are_the_rfcs() {
    let all = leaves(66);
    let tree = tree(&all);
    let mut frontier = Frontier::default();
    for size in 0..=all.len() {
        let (first, n) = (&all[..size], size as u64);
        let root = mth(first);
        assert_eq!((tree.root(n), frontier.root()), (Some(root), root), "{size} leaves");
        for (index, leaf) in first.iter().enumerate() {
            let proof = tree.inclusion(index as u64, n).unwrap();
            assert_eq!(proof, path(index, first), "leaf {index} of {size}");
            verify_inclusion(leaf, index as u64, n, &proof, &root).unwrap();
        }
        for old in 0..=size {
            let proof = tree.consistency(old as u64, n).unwrap();
            if old > 0 {
                assert_eq!(proof, subproof(old, first, true), "{old} to {size}");
            }
            verify_consistency(old as u64, n, &proof, &mth(&all[..old]), &root).unwrap();
        }
        if let Some(leaf) = all.get(size) {
            frontier.push(*leaf);
        }
    }
}

#[test]
fn kept_subtrees_change_nothing() {
    let all = leaves(1100);
    let tree = tree(&all);
    assert_eq!(tree.kept.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2, 1]);
    for size in [255, 256, 257, 511, 512, 513, 768, 1023, 1024, 1025, 1100] {
        let root = mth(&all[..size]);
        assert_eq!(tree.root(size as u64), Some(root));
        for index in [0, 1, 254, 255, 256, 511, 512, 767, 1023, 1024, 1099] {
            let proof = tree.inclusion(index as u64, size as u64);
            assert_eq!(proof, (index < size).then(|| path(index, &all[..size])), "{index} of {size}");
            let proof = tree.consistency(index as u64, size as u64);
            let expected = (index <= size).then(|| match index {
                0 => vec![],
                _ => subproof(index, &all[..size], true),
            });
            assert_eq!(proof, expected, "{index} to {size}");
        }
    }
}

#[test]
fn nothing_is_proven_about_what_is_not_there() {
    let tree = tree(&leaves(5));
    assert_eq!((tree.inclusion(5, 5), tree.inclusion(0, 6), tree.inclusion(0, 0)), (None, None, None));
    assert_eq!((tree.consistency(4, 3), tree.consistency(3, 6), tree.root(6)), (None, None, None));
    assert_eq!(tree.inclusion(u64::MAX, u64::MAX), None);
    let (a, b) = (leaf_hash(b"a"), leaf_hash(b"b"));
    assert_eq!(verify_inclusion(&a, 0, 0, &[], &a), Err(ProofError::Beyond));
    assert_eq!(verify_inclusion(&a, u64::MAX, u64::MAX, &[], &a), Err(ProofError::Beyond));
    assert_eq!(verify_consistency(2, 1, &[], &a, &a), Err(ProofError::Beyond));
    // The log of one entry, and of none.
    verify_inclusion(&a, 0, 1, &[], &a).unwrap();
    assert_eq!(verify_inclusion(&a, 0, 1, &[], &b), Err(ProofError::Root));
    assert_eq!(verify_inclusion(&a, 0, 1, &[b], &a), Err(ProofError::Length { found: 1 }));
    verify_consistency(0, 0, &[], &empty_root(), &empty_root()).unwrap();
    verify_consistency(0, 9, &[], &empty_root(), &a).unwrap();
    assert_eq!(verify_consistency(0, 9, &[], &a, &a), Err(ProofError::OldRoot));
    assert_eq!(verify_consistency(0, 9, &[a], &empty_root(), &a), Err(ProofError::Length { found: 1 }));
    assert_eq!(verify_consistency(0, 0, &[], &empty_root(), &a), Err(ProofError::Root));
    verify_consistency(4, 4, &[], &a, &a).unwrap();
    assert_eq!(verify_consistency(4, 4, &[], &a, &b), Err(ProofError::Root));
    assert_eq!(verify_consistency(4, 4, &[a], &a, &a), Err(ProofError::Length { found: 1 }));
}

/// Every way to spoil a list of hashes.
fn spoiled(proof: &[Sha256]) -> Vec<Vec<Sha256>> {
    let mut lies = vec![];
    let stranger = Sha256::of(b"stranger");
    for place in 0..proof.len() {
        let mut lie = proof.to_vec();
        lie.remove(place);
        lies.push(lie);
        let mut lie = proof.to_vec();
        let mut bytes = *lie[place].as_bytes();
        bytes[place % 32] ^= 1 << (place % 8);
        lie[place] = Sha256::from_bytes(bytes);
        lies.push(lie);
        let mut lie = proof.to_vec();
        lie.swap(place, (place + 1) % proof.len());
        lies.push(lie);
        let mut lie = proof.to_vec();
        lie.insert(place, proof[place]);
        lies.push(lie);
    }
    for extra in [stranger, empty_root(), Sha256::from_bytes([0; 32])] {
        for place in 0..=proof.len() {
            let mut lie = proof.to_vec();
            lie.insert(place, extra);
            lies.push(lie);
        }
    }
    lies.push(vec![stranger; 64]);
    lies.push(vec![stranger; MAX_PROOF + 1000]);
    lies.retain(|lie| lie != proof);
    lies
}

/// Of every proof up to 40 leaves every mutation is refused: hashes, places, sizes and roots.
#[test]
fn no_spoiled_proof_proves_anything() {
    let all = leaves(40);
    let tree = tree(&all);
    let stranger = Sha256::of(b"stranger");
    let mut lies = 0;
    for size in 1..=all.len() as u64 {
        let root = tree.root(size).unwrap();
        for index in 0..size {
            let (leaf, proof) = (all[index as usize], tree.inclusion(index, size).unwrap());
            for lie in spoiled(&proof) {
                assert!(verify_inclusion(&leaf, index, size, &lie, &root).is_err(), "{index} of {size}");
                lies += 1;
            }
            assert!(verify_inclusion(&stranger, index, size, &proof, &root).is_err());
            assert!(verify_inclusion(&leaf, index, size, &proof, &stranger).is_err());
            for other in (0..=size + 1).filter(|other| *other != index) {
                // RFC 6962 leaves one freedom: a leaf's place and the size are bound by the path's turns, and
                // where another place has the same turns the leaf there is another one.
                assert!(verify_inclusion(&leaf, other, size, &proof, &root).is_err(), "{other} of {size}");
            }
        }
        for old in 0..=size {
            let (old_root, proof) = (tree.root(old).unwrap(), tree.consistency(old, size).unwrap());
            for lie in spoiled(&proof) {
                let judged = verify_consistency(old, size, &lie, &old_root, &root);
                assert!(judged.is_err(), "{old} to {size}");
                lies += 1;
            }
            assert!(verify_consistency(old, size, &proof, &stranger, &root).is_err());
            if old > 0 {
                assert!(verify_consistency(old, size, &proof, &old_root, &stranger).is_err());
            }
            for other in (1..size).filter(|other| *other != old && old > 0) {
                assert!(verify_consistency(other, size, &proof, &old_root, &root).is_err());
            }
        }
    }
    assert!(lies > 40_000, "{lies}");
}

/// Sizes no log of ours will have: the judge must neither panic nor loop, and still be right.
#[test]
fn large_sizes_are_only_numbers() {
    let (a, b) = (leaf_hash(b"a"), leaf_hash(b"b"));
    // 2^32 equal leaves: each level has one hash.
    let mut levels = vec![a];
    for level in 0..32 {
        levels.push(node_hash(&levels[level], &levels[level]));
    }
    let (size, root) = (1 << 32, levels[32]);
    for index in [0, 1, 12_345, u64::from(u32::MAX)] {
        verify_inclusion(&a, index, size, &levels[..32], &root).unwrap();
        assert_eq!(
            verify_inclusion(&a, index, size, &levels[..31], &root),
            Err(ProofError::Length { found: 31 })
        );
        assert_eq!(verify_inclusion(&b, index, size, &levels[..32], &root), Err(ProofError::Root));
    }
    assert_eq!(verify_inclusion(&a, size, size, &levels[..32], &root), Err(ProofError::Beyond));
    // One more entry: the log of 2^32 is its left half, and the new entry its right one.
    let larger = node_hash(&root, &b);
    verify_inclusion(&b, size, size + 1, &[root], &larger).unwrap();
    verify_consistency(size, size + 1, &[b], &root, &larger).unwrap();
    assert!(verify_consistency(size, size + 1, &[a], &root, &larger).is_err());
    let plan = Plan::consistency(size, size + 1).unwrap();
    assert_eq!(plan.nodes().collect::<Vec<_>>(), [Node { level: 0, index: size }]);
    assert_eq!(Plan::root(size).nodes().collect::<Vec<_>>(), [Node { level: 32, index: 0 }]);
    for size in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) + 1] {
        for other in [1, 2, size / 2, size - 1, size] {
            for proof in [vec![], vec![a], vec![a; 63], vec![a; 64], vec![a; 65]] {
                let _ = verify_inclusion(&a, other, size, &proof, &b);
                let _ = verify_consistency(other, size, &proof, &a, &b);
            }
            assert!(Plan::consistency(other, size).unwrap().nodes().count() < 130);
        }
        assert!(Plan::inclusion(size - 1, size).unwrap().hashes(|_| Ok::<_, ()>(a)).unwrap().len() <= 64);
    }
}

/// A million entries (4.12 asks for a proof in less than 50 ms; the time is printed, not asserted:
/// `cargo test … large_log -- --nocapture`).
#[test]
fn a_proof_in_a_large_log_needs_few_subtrees() {
    let size = 1_000_000u64;
    let mut tree = Tree::default();
    for index in 0..size {
        tree.push(Sha256::of(&index.to_be_bytes()));
    }
    let root = tree.root(size).unwrap();
    let begin = std::time::Instant::now();
    for index in [0, 1, 65_535, 65_536, 999_840, size - 1] {
        let proof = tree.inclusion(index, size).unwrap();
        assert!(proof.len() <= 20, "{}", proof.len());
        assert!(Plan::inclusion(index, size).unwrap().nodes().count() <= 2 * 20);
        verify_inclusion(&Sha256::of(&index.to_be_bytes()), index, size, &proof, &root).unwrap();
        let old = index + 1;
        let proof = tree.consistency(old, size).unwrap();
        verify_consistency(old, size, &proof, &tree.root(old).unwrap(), &root).unwrap();
    }
    println!("{:?} for an inclusion and a consistency proof, made and judged", begin.elapsed() / 6);
}
