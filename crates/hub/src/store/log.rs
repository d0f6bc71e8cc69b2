//! Checkpoints of the hosts' logs, and the hashes that proofs are made of. The hub is believed in none of
//! this: a checkpoint is signed by the host, and a proof is right or it is not.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use authz::merkle::{Frontier, KEPT_LEVEL, Node, Plan, leaf_hash, node_hash};
use protocol::{HostId, Note, Sha256};
use sqlx::{Sqlite, Transaction};

use super::{Store, StoreError, bytes, to_db};

/// Entries under a node of [`KEPT_LEVEL`].
const BLOCK: u64 = 1 << KEPT_LEVEL;

/// Hashes that were read for one proof.
#[derive(Default)]
struct Read {
    nodes: BTreeMap<Node, Sha256>,
    /// Leaves of whole or last blocks, by the block's place.
    blocks: BTreeMap<u64, Vec<Sha256>>,
}

impl Store {
    /// The newest checkpoint whose entries are all held.
    pub(crate) async fn checkpoint(&self, host_id: &HostId) -> Result<Option<Note>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT note FROM checkpoints WHERE host_id = $1")
            .bind(host_id.as_bytes().as_slice())
            .fetch_optional(&self.read)
            .await?;
        row.map(|(note,)| note.parse().map_err(|_| StoreError::Corrupt("checkpoint"))).transpose()
    }

    /// The hashes of a proof or root over entries that are held. Reads two blocks of entries and some
    /// dozens of kept hashes, whatever the size of the log; what was not kept yet is made and kept.
    pub(crate) async fn log_hashes(&self, host_id: &HostId, plan: &Plan) -> Result<Vec<Sha256>, StoreError> {
        let mut read = Read::default();
        for node in plan.nodes() {
            self.read_node(host_id, node, &mut read).await?;
        }
        plan.hashes(|node| read.nodes.get(&node).copied().ok_or(StoreError::Corrupt("log")))
    }

    async fn read_node(&self, host_id: &HostId, wanted: Node, read: &mut Read) -> Result<(), StoreError> {
        let mut open = vec![wanted];
        while let Some(node) = open.last().copied() {
            if !read.nodes.contains_key(&node) {
                let hash = if node.level < KEPT_LEVEL {
                    self.subtree_of_block(host_id, node, read).await?
                } else if let Some(kept) = self.kept_node(host_id, node).await? {
                    kept
                } else if node.level == KEPT_LEVEL {
                    let hash = self.subtree_of_block(host_id, node, read).await?;
                    // A whole block is read for this one hash.
                    read.blocks.remove(&node.index);
                    self.keep_node(host_id, node, &hash).await?;
                    hash
                } else {
                    let halves = node.halves().ok_or(StoreError::Corrupt("log"))?;
                    let hashes = halves.map(|half| read.nodes.get(&half).copied());
                    let [Some(left), Some(right)] = hashes else {
                        open.extend(halves.into_iter().filter(|half| !read.nodes.contains_key(half)));
                        continue;
                    };
                    let hash = node_hash(&left, &right);
                    self.keep_node(host_id, node, &hash).await?;
                    hash
                };
                read.nodes.insert(node, hash);
            }
            open.pop();
        }
        Ok(())
    }

    /// A subtree of at most [`BLOCK`] entries, from the entries.
    async fn subtree_of_block(
        &self,
        host_id: &HostId,
        node: Node,
        read: &mut Read,
    ) -> Result<Sha256, StoreError> {
        let first = node.first_leaf();
        let block = first / BLOCK;
        let leaves = match read.blocks.entry(block) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
                    "SELECT payload FROM receipts WHERE host_id = $1 AND seq >= $2 AND seq < $3 ORDER BY seq",
                )
                .bind(host_id.as_bytes().as_slice())
                .bind(to_db(block * BLOCK))
                .bind(to_db((block + 1) * BLOCK))
                .fetch_all(&self.read)
                .await?;
                place.insert(rows.iter().map(|(payload,)| leaf_hash(payload)).collect())
            }
        };
        let start = (first % BLOCK) as usize;
        let leaves = leaves.get(start..start + (1 << node.level));
        let mut subtree = Frontier::default();
        leaves.ok_or(StoreError::Corrupt("log"))?.iter().for_each(|leaf| subtree.push(*leaf));
        Ok(subtree.root())
    }

    async fn kept_node(&self, host_id: &HostId, node: Node) -> Result<Option<Sha256>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT hash FROM log_nodes WHERE host_id = $1 AND level = $2 AND idx = $3")
                .bind(host_id.as_bytes().as_slice())
                .bind(i64::from(node.level))
                .bind(to_db(node.index))
                .fetch_optional(&self.read)
                .await?;
        row.map(|(hash,)| bytes("hash of a log", hash).map(Sha256::from_bytes)).transpose()
    }

    async fn keep_node(&self, host_id: &HostId, node: Node, hash: &Sha256) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO log_nodes (host_id, level, idx, hash) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (host_id, level, idx) DO NOTHING",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(i64::from(node.level))
        .bind(to_db(node.index))
        .bind(hash.as_bytes().as_slice())
        .execute(&self.write)
        .await?;
        Ok(())
    }
}

/// Keeps a checkpoint unless a newer one is kept.
pub(super) async fn put_checkpoint(
    tx: &mut Transaction<'_, Sqlite>,
    host_id: &HostId,
    size: u64,
    note: &Note,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO checkpoints (host_id, size, note) VALUES ($1, $2, $3) \
         ON CONFLICT (host_id) DO UPDATE SET size = excluded.size, note = excluded.note \
         WHERE excluded.size > checkpoints.size",
    )
    .bind(host_id.as_bytes().as_slice())
    .bind(to_db(size))
    .bind(note.as_str())
    .execute(&mut **tx)
    .await
    .map(drop)
}
