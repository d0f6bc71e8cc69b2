//! The copy of each host's signed log, and signed refusals that stand outside it.

use protocol::{HostId, Note, Sha256, Signed};
use sqlx::{Sqlite, Transaction};

use super::{Store, StoreError, bytes, from_db, log, to_db};

/// Refusals kept per order: the newest, because only those answer the last submission.
const REFUSALS_PER_ORDER: i64 = 20;
/// Most receipts in one answer.
const LISTED: i64 = 100;

/// Why entries were not added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Another channel of the same host was quicker.
    #[error("the copy of the host's log has moved on meanwhile: connect again")]
    Moved,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for AppendError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// An entry of a host's log whose signature and place were checked.
#[derive(Debug)]
pub(crate) struct LogEntry {
    /// As it came.
    pub(crate) signed: Signed,
    /// The order that it ends.
    pub(crate) op: Option<Sha256>,
}

impl Store {
    /// Hash of the payload of one stored entry.
    pub(crate) async fn receipt_hash(
        &self,
        host_id: &HostId,
        seq: u64,
    ) -> Result<Option<Sha256>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT payload FROM receipts WHERE host_id = $1 AND seq = $2")
                .bind(host_id.as_bytes().as_slice())
                .bind(to_db(seq))
                .fetch_optional(&self.read)
                .await?;
        Ok(row.map(|(payload,)| Sha256::of(&payload)))
    }

    /// Adds checked entries behind the first `held`; all of them or none. Gives the number held. With them
    /// the checkpoint, so that whoever sees a new entry can have its proof: when all that it covers is held
    /// now, and it is no step back.
    pub(crate) async fn append_receipts(
        &self,
        host_id: &HostId,
        held: u64,
        entries: &[LogEntry],
        checkpoint: Option<(u64, &Note)>,
    ) -> Result<u64, AppendError> {
        let mut tx = self.write.begin().await?;
        let (now_held,): (i64,) = sqlx::query_as("SELECT receipts_held FROM hosts WHERE host_id = $1")
            .bind(host_id.as_bytes().as_slice())
            .fetch_one(&mut *tx)
            .await?;
        if from_db(now_held) != held {
            return Err(AppendError::Moved);
        }
        let mut seq = now_held;
        for LogEntry { signed, op } in entries {
            let version = match op {
                Some(op) => bump(&mut tx, host_id, op).await?.unwrap_or(0),
                None => 0,
            };
            sqlx::query(
                "INSERT INTO receipts (host_id, seq, payload, sig, op, version) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(host_id.as_bytes().as_slice())
            .bind(seq)
            .bind(signed.payload.0.as_slice())
            .bind(signed.sig.as_str())
            .bind(op.as_ref().map(|op| op.as_bytes().as_slice()))
            .bind(version)
            .execute(&mut *tx)
            .await?;
            seq += 1;
        }
        if let Some(last) = entries.last() {
            sqlx::query("UPDATE hosts SET receipts_held = $1, receipts_hash = $2 WHERE host_id = $3")
                .bind(seq)
                .bind(Sha256::of(&last.signed.payload.0).as_bytes().as_slice())
                .bind(host_id.as_bytes().as_slice())
                .execute(&mut *tx)
                .await?;
        }
        if let Some((size, note)) = checkpoint.filter(|(size, _)| *size <= from_db(seq)) {
            log::put_checkpoint(&mut tx, host_id, size, note).await?;
        }
        tx.commit().await?;
        Ok(from_db(seq))
    }

    /// Entries from `first` on, at most 100.
    pub(crate) async fn receipts(&self, host_id: &HostId, first: u64) -> Result<Vec<Signed>, StoreError> {
        let rows: Vec<(Vec<u8>, String)> = sqlx::query_as(
            "SELECT payload, sig FROM receipts WHERE host_id = $1 AND seq >= $2 ORDER BY seq LIMIT $3",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(to_db(first))
        .bind(LISTED)
        .fetch_all(&self.read)
        .await?;
        Ok(rows.into_iter().map(|(payload, sig)| Signed { payload: payload.into(), sig }).collect())
    }

    /// Keeps a checked refusal; false when there is no such order.
    pub(crate) async fn add_refusal(
        &self,
        host_id: &HostId,
        op: &Sha256,
        refusal: &Signed,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write.begin().await?;
        let Some(version) = bump(&mut tx, host_id, op).await? else { return Ok(false) };
        // An order refused twice in one second gives the same bytes twice; both are news.
        sqlx::query("DELETE FROM refusals WHERE host_id = $1 AND op = $2 AND payload = $3")
            .bind(host_id.as_bytes().as_slice())
            .bind(op.as_bytes().as_slice())
            .bind(refusal.payload.0.as_slice())
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO refusals (host_id, op, version, payload, sig) VALUES ($1, $2, $3, $4, $5)")
            .bind(host_id.as_bytes().as_slice())
            .bind(op.as_bytes().as_slice())
            .bind(version)
            .bind(refusal.payload.0.as_slice())
            .bind(refusal.sig.as_str())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "DELETE FROM refusals WHERE host_id = $1 AND op = $2 AND n NOT IN \
             (SELECT n FROM refusals WHERE host_id = $1 AND op = $2 ORDER BY n DESC LIMIT $3)",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(op.as_bytes().as_slice())
        .bind(REFUSALS_PER_ORDER)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// What the next entry of a host's log must be: its place, and the hash that it must name.
    pub(crate) async fn log_end(&self, host_id: &HostId) -> Result<Option<(u64, Sha256)>, StoreError> {
        let row: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT receipts_held, receipts_hash FROM hosts WHERE host_id = $1")
                .bind(host_id.as_bytes().as_slice())
                .fetch_optional(&self.read)
                .await?;
        row.map(|(held, hash)| Ok((from_db(held), Sha256::from_bytes(bytes("receipt hash", hash)?))))
            .transpose()
    }
}

/// Counts an event of an order, if the hub knows it.
pub(super) async fn bump(
    tx: &mut Transaction<'_, Sqlite>,
    host_id: &HostId,
    op: &Sha256,
) -> Result<Option<i64>, sqlx::Error> {
    let row: Option<(i64,)> = sqlx::query_as(
        "UPDATE orders SET version = version + 1 WHERE host_id = $1 AND op = $2 RETURNING version",
    )
    .bind(host_id.as_bytes().as_slice())
    .bind(op.as_bytes().as_slice())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(version,)| version))
}
