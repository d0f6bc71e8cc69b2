//! Scripts and their results: sealed bytes that the hub cannot open.

use authz::{Outcome, Receipt};
use protocol::{Bytes, HostId, Sha256};
use sqlx::{Sqlite, Transaction};

use super::receipts::bump;
use super::{Store, StoreError, to_db};

/// What became of a result that a host sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResultStored {
    /// It is kept, and it was not before.
    New,
    /// What is kept stays: the same, or the one that the host's log names.
    Kept,
    /// There is no such order; nothing was stored.
    UnknownOrder,
}

impl Store {
    /// Keeps the result of a script. Of two different ones the one that the host's signed log names
    /// is kept, else the newer.
    pub(crate) async fn put_result(
        &self,
        host_id: &HostId,
        op: &Sha256,
        sealed: &[u8],
        now: u64,
    ) -> Result<ResultStored, StoreError> {
        let mut tx = self.write.begin().await?;
        let known: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM orders WHERE host_id = $1 AND op = $2")
            .bind(host_id.as_bytes().as_slice())
            .bind(op.as_bytes().as_slice())
            .fetch_optional(&mut *tx)
            .await?;
        if known.is_none() {
            return Ok(ResultStored::UnknownOrder);
        }
        let before: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT sealed FROM job_results WHERE host_id = $1 AND op = $2")
                .bind(host_id.as_bytes().as_slice())
                .bind(op.as_bytes().as_slice())
                .fetch_optional(&mut *tx)
                .await?;
        if let Some((before,)) = before
            && (before == sealed || named_results(&mut tx, host_id, op).await?.contains(&Sha256::of(&before)))
        {
            return Ok(ResultStored::Kept);
        }
        sqlx::query(
            "INSERT INTO job_results (host_id, op, sealed, received_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (host_id, op) DO UPDATE SET sealed = excluded.sealed, \
             received_at = excluded.received_at",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(op.as_bytes().as_slice())
        .bind(sealed)
        .bind(to_db(now))
        .execute(&mut *tx)
        .await?;
        bump(&mut tx, host_id, op).await?;
        tx.commit().await?;
        Ok(ResultStored::New)
    }

    /// The result of a script, once the host delivered it.
    pub(crate) async fn result(&self, host_id: &HostId, op: &Sha256) -> Result<Option<Bytes>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT sealed FROM job_results WHERE host_id = $1 AND op = $2")
                .bind(host_id.as_bytes().as_slice())
                .bind(op.as_bytes().as_slice())
                .fetch_optional(&self.read)
                .await?;
        Ok(row.map(|(sealed,)| sealed.into()))
    }

    /// Forgets scripts that were delivered and whose order has ended by the host's log; gives how many.
    pub(crate) async fn forget_scripts(&self) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE orders SET sealed = NULL WHERE sealed IS NOT NULL AND delivered = 1 AND EXISTS \
             (SELECT 1 FROM receipts WHERE receipts.host_id = orders.host_id AND receipts.op = orders.op)",
        )
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected())
    }
}

/// Hashes of results that entries of the host's log name. Their signatures were checked when they came.
async fn named_results(
    tx: &mut Transaction<'_, Sqlite>,
    host_id: &HostId,
    op: &Sha256,
) -> Result<Vec<Sha256>, StoreError> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT payload FROM receipts WHERE host_id = $1 AND op = $2")
        .bind(host_id.as_bytes().as_slice())
        .bind(op.as_bytes().as_slice())
        .fetch_all(&mut **tx)
        .await?;
    let receipts = rows.iter().filter_map(|(payload,)| serde_json::from_slice::<Receipt>(payload).ok());
    Ok(receipts
        .filter_map(|receipt| match receipt.order_outcome() {
            Some((_, Outcome::Ran { result, .. })) => Some(*result),
            _ => None,
        })
        .collect())
}
