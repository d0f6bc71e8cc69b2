//! The Merkle tree over a log (RFC 6962 section 2.1, RFC 9162 section 2.1): roots, proofs that an entry
//! is in a log, proofs that a longer log continues a shorter one, and judging both. Pure arithmetic.
//!
//! A leaf's hash is `SHA-256(0x00 || bytes)`, a node's `SHA-256(0x01 || left || right)`, so that neither
//! can be taken for the other. A tree of `n` leaves splits at the largest power of two below `n`;
//! whatever was a full subtree once stays one, which is why [`Node`]s can be kept and a proof costs a
//! few dozen of them, whatever the size of the log.
//!
//! | who | holds | for |
//! |---|---|---|
//! | warden, operator's tool | [`Frontier`]: at most 64 hashes | the root of what it has seen entry by entry |
//! | hub | entries, and [`Node`]s of 256 leaves and more | proofs, by [`Plan`] |
//! | tests, tools | [`Tree`]: 32 bytes a leaf | both |

use std::convert::Infallible;

use protocol::Sha256;
use sha2::Digest as _;

/// Longest proof that can be right: a path in a tree of 2^64 leaves has 64 steps, and a consistency
/// proof names one node more.
pub const MAX_PROOF: usize = 65;

/// Of a subtree whose hash a [`Tree`] keeps, and a hub in its database: 2^8 leaves.
pub const KEPT_LEVEL: u8 = 8;

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The entry or the older size is beyond the tree.
    #[error("it is about something beyond the end of the log")]
    Beyond,
    /// Not the number of hashes that these sizes need.
    #[error("it has {found} hashes, which does not fit these sizes")]
    Length {
        /// How many there are.
        found: usize,
    },
    /// The hashes lead to another root.
    #[error("its hashes do not lead to the root of the log")]
    Root,
    /// The hashes lead to another root of the older log.
    #[error("its hashes do not lead to the root of the older log")]
    OldRoot,
}

/// Hash of a leaf: of an entry's bytes.
pub fn leaf_hash(bytes: &[u8]) -> Sha256 {
    let digest = sha2::Sha256::new().chain_update([0]).chain_update(bytes);
    Sha256::from_bytes(digest.finalize().into())
}

/// Hash of an inner node.
pub fn node_hash(left: &Sha256, right: &Sha256) -> Sha256 {
    let digest = sha2::Sha256::new().chain_update([1]).chain_update(left.as_bytes());
    Sha256::from_bytes(digest.chain_update(right.as_bytes()).finalize().into())
}

/// Root of the tree without leaves: the hash of nothing.
pub fn empty_root() -> Sha256 {
    Sha256::of(b"")
}

/// A full subtree: the leaves from `index << level` on, `1 << level` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Its height; a leaf has 0. Below 64.
    pub level: u8,
    /// Its place among the nodes of this level, from 0.
    pub index: u64,
}

impl Node {
    /// Its two halves; none of a leaf.
    pub fn halves(self) -> Option<[Self; 2]> {
        let level = self.level.checked_sub(1)?;
        let index = self.index.checked_mul(2)?;
        Some([Self { level, index }, Self { level, index: index.checked_add(1)? }])
    }

    /// Place of its first leaf.
    pub fn first_leaf(self) -> u64 {
        self.index << self.level
    }
}

/// The full subtrees whose hashes make up a proof or a root. Made before anything is read, so that
/// whoever keeps them in a database knows what to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan(Vec<Vec<Node>>);

impl Plan {
    /// For the root of the first `size` leaves; one hash, none for an empty tree.
    pub fn root(size: u64) -> Self {
        Self(Some(full_subtrees(0, size)).filter(|nodes| !nodes.is_empty()).into_iter().collect())
    }

    /// For the proof that leaf `index` is among the first `size` (RFC 6962 section 2.1.1). None when it
    /// is not.
    pub fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        // From the root down: the sibling of each step.
        let (mut from, mut to, mut path) = (0, size, Vec::new());
        while to - from > 1 {
            let middle = from + split(to - from);
            if index < middle {
                path.push(full_subtrees(middle, to));
                to = middle;
            } else {
                path.push(full_subtrees(from, middle));
                from = middle;
            }
        }
        path.reverse();
        Some(Self(path))
    }

    /// For the proof that the first `new` leaves begin with the first `old` (RFC 6962 section 2.1.2).
    /// Empty when `old` is 0 or `new`; none when `old` is greater.
    pub fn consistency(old: u64, new: u64) -> Option<Self> {
        if old > new {
            return None;
        }
        if old == 0 || old == new {
            return Some(Self(Vec::new()));
        }
        let (mut from, mut to, mut path) = (0, new, Vec::new());
        // Down to the subtree that ends where the older log ended.
        while to != old {
            let middle = from + split(to - from);
            if old <= middle {
                path.push(full_subtrees(middle, to));
                to = middle;
            } else {
                path.push(full_subtrees(from, middle));
                from = middle;
            }
        }
        // When it is the whole older log, its root is known to whoever asks.
        if from != 0 {
            path.push(full_subtrees(from, to));
        }
        path.reverse();
        Some(Self(path))
    }

    /// Every subtree that is needed.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.0.iter().flatten().copied()
    }

    /// The proof's hashes, given those of the subtrees.
    pub fn hashes<E>(&self, mut hash: impl FnMut(Node) -> Result<Sha256, E>) -> Result<Vec<Sha256>, E> {
        self.0.iter().map(|nodes| fold(nodes, &mut hash)).collect()
    }
}

/// Joins neighbouring full subtrees, larger ones first, from the right.
fn fold<E>(nodes: &[Node], hash: &mut impl FnMut(Node) -> Result<Sha256, E>) -> Result<Sha256, E> {
    let Some((last, before)) = nodes.split_last() else { return Ok(empty_root()) };
    let last = hash(*last)?;
    before.iter().rev().try_fold(last, |right, left| Ok(node_hash(&hash(*left)?, &right)))
}

/// The largest power of two that is smaller than `n`, which is at least 2.
fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// The leaves from `from` to before `to` as full subtrees, larger ones first. `from` is a multiple of
/// the largest one, as RFC 6962's splitting has it.
fn full_subtrees(mut from: u64, to: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    while from < to {
        let level = (to - from).ilog2() as u8;
        nodes.push(Node { level, index: from >> level });
        from += 1 << level;
    }
    nodes
}

/// The root of a log that is read entry by entry, in at most 64 hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Of the full subtrees of `size`, larger ones first.
    subtrees: Vec<Sha256>,
}

impl Frontier {
    /// Adds a leaf's hash at the end.
    pub fn push(&mut self, leaf: Sha256) {
        let mut hash = leaf;
        // Each 1 at the end of the size is a full subtree that this leaf completes to a larger one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// How many leaves there were.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of all of them.
    pub fn root(&self) -> Sha256 {
        let mut subtrees = self.subtrees.iter().rev();
        let Some(last) = subtrees.next() else { return empty_root() };
        subtrees.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Every leaf's hash, and of each full subtree of 256 leaves and more its own: 32.13 bytes a leaf.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    leaves: Vec<Sha256>,
    /// Of level 8, 9, and so on.
    kept: Vec<Vec<Sha256>>,
}

impl Tree {
    /// Adds a leaf's hash at the end.
    pub fn push(&mut self, leaf: Sha256) {
        self.leaves.push(leaf);
        let size = self.leaves.len();
        for (above, level) in (KEPT_LEVEL..).enumerate() {
            if !size.is_multiple_of(1usize << level) {
                break;
            }
            let node = Node { level, index: (size >> level) as u64 - 1 };
            let hash = self.compute(node);
            if self.kept.len() == above {
                self.kept.push(Vec::new());
            }
            self.kept[above].push(hash);
        }
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// The root of the first `size` leaves; none when there are not so many.
    pub fn root(&self, size: u64) -> Option<Sha256> {
        (size <= self.size())
            .then(|| self.hashes(&Plan::root(size)).first().copied().unwrap_or_else(empty_root))
    }

    /// The proof that leaf `index` is among the first `size`; none when it is not.
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Sha256>> {
        let plan = Plan::inclusion(index, size).filter(|_| size <= self.size())?;
        Some(self.hashes(&plan))
    }

    /// The proof that the first `new` leaves continue the first `old`; none when there are not so many.
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Sha256>> {
        let plan = Plan::consistency(old, new).filter(|_| new <= self.size())?;
        Some(self.hashes(&plan))
    }

    fn hashes(&self, plan: &Plan) -> Vec<Sha256> {
        match plan.hashes(|node| Ok::<_, Infallible>(self.node(node))) {
            Ok(hashes) => hashes,
            Err(never) => match never {},
        }
    }

    fn node(&self, node: Node) -> Sha256 {
        let place = usize::try_from(node.index).unwrap_or(usize::MAX);
        let above = node.level.checked_sub(KEPT_LEVEL).and_then(|above| self.kept.get(usize::from(above)));
        above.and_then(|level| level.get(place).copied()).unwrap_or_else(|| self.compute(node))
    }

    fn compute(&self, node: Node) -> Sha256 {
        match node.halves() {
            Some([left, right]) => node_hash(&self.node(left), &self.node(right)),
            // Plans are only made for leaves that are there.
            None => usize::try_from(node.index)
                .ok()
                .and_then(|place| self.leaves.get(place).copied())
                .unwrap_or_else(empty_root),
        }
    }
}

/// Judges a proof that the leaf with this hash is entry `index` of the log with `size` entries and this
/// root (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(
    leaf: &Sha256,
    index: u64,
    size: u64,
    proof: &[Sha256],
    root: &Sha256,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Beyond);
    }
    let wrong = ProofError::Length { found: proof.len() };
    let (mut place, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(wrong);
        }
        if place % 2 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            // At the right edge there is no sibling until the next left turn.
            let skipped = if place % 2 == 0 { place.trailing_zeros() } else { 0 };
            (place, last) = (shr(place, skipped), shr(last, skipped));
        } else {
            hash = node_hash(&hash, sibling);
        }
        (place, last) = (place >> 1, last >> 1);
    }
    if last != 0 {
        return Err(wrong);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Judges a proof that the log with `new` entries and `new_root` begins with the `old` entries under
/// `old_root` (RFC 9162 section 2.1.4.2). Every log continues the empty one, and itself; both need no
/// hashes, and none may be there.
pub fn verify_consistency(
    old: u64,
    new: u64,
    proof: &[Sha256],
    old_root: &Sha256,
    new_root: &Sha256,
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Beyond);
    }
    let wrong = ProofError::Length { found: proof.len() };
    if old == 0 || old == new {
        if !proof.is_empty() {
            return Err(wrong);
        }
        if old == 0 && *old_root != empty_root() {
            return Err(ProofError::OldRoot);
        }
        return if old == new && old_root != new_root { Err(ProofError::Root) } else { Ok(()) };
    }
    // A full older log is its own first step.
    let (first, rest) = match proof.split_first() {
        _ if old.is_power_of_two() => (*old_root, proof),
        Some((first, rest)) => (*first, rest),
        None => return Err(wrong),
    };
    let skipped = (old - 1).trailing_ones();
    let (mut place, mut last) = (shr(old - 1, skipped), shr(new - 1, skipped));
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in rest {
        if last == 0 {
            return Err(wrong);
        }
        if place % 2 == 1 || place == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            let skipped = if place % 2 == 0 { place.trailing_zeros() } else { 0 };
            (place, last) = (shr(place, skipped), shr(last, skipped));
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (place, last) = (place >> 1, last >> 1);
    }
    if last != 0 {
        return Err(wrong);
    }
    if old_hash != *old_root {
        return Err(ProofError::OldRoot);
    }
    if new_hash == *new_root { Ok(()) } else { Err(ProofError::Root) }
}

/// `n >> by`, also for 64 and more: of zero all bits are trailing zeros.
fn shr(n: u64, by: u32) -> u64 {
    n.checked_shr(by).unwrap_or(0)
}

#[cfg(test)]
mod tests;
