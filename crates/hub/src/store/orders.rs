//! Orders on their way. The hub keeps their bytes and never asks what they say. The sealed part is
//! stored to be delivered and never shown: it is large, and whoever sent it has it.

use protocol::api::{OrderReceipt, OrderView};
use protocol::frame::OrderProgress;
use protocol::{Bytes, Envelope, HostId, HostName, Sha256, Signed};

use super::{Store, StoreError, bytes, from_db, json, text, to_db, to_json};

/// Most orders of one host that wait for delivery.
const MAX_UNDELIVERED: i64 = 1_000;
/// Most bytes of sealed scripts of one host that wait for delivery.
const MAX_UNDELIVERED_SEALED: i64 = 64 * 1024 * 1024;
/// Most orders in one list.
const LISTED: i64 = 100;

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    /// The host is away for long, or somebody floods it.
    #[error("{MAX_UNDELIVERED} orders wait for this host already: wait until it is connected")]
    Full,
    /// The same by size.
    #[error(
        "scripts of {} MiB wait for this host already: wait until it is connected",
        MAX_UNDELIVERED_SEALED / 1024 / 1024
    )]
    FullOfScripts,
    /// It came with a request for a tunnel before.
    #[error("this order opens a session and is not delivered by itself: open it with `writ ssh`")]
    Session,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for SubmitError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// An order that is to be delivered.
#[derive(Debug)]
pub(crate) struct NextOrder {
    /// Which.
    pub(crate) op: Sha256,
    /// Which submission of it.
    pub(crate) submission: i64,
    /// Its bytes.
    pub(crate) envelope: Envelope,
}

type Row = (Vec<u8>, i64, String, i64, Vec<u8>, String, i64, Option<String>, Option<String>);

/// Order, submission, payload, signatures, sealed part.
type NextRow = (Vec<u8>, i64, Vec<u8>, String, Option<Vec<u8>>);

fn from_row(row: Row, receipts: Vec<OrderReceipt>) -> Result<OrderView, StoreError> {
    let (op, version, submitted_by, submitted_at, payload, sigs, delivered, progress, problem) = row;
    Ok(OrderView {
        op: Sha256::from_bytes(bytes("order id", op)?),
        version: from_db(version),
        submitted_by: text("operator", &submitted_by)?,
        submitted_at: from_db(submitted_at),
        envelope: Envelope::new(payload.into(), json("signatures", &sigs)?),
        delivered: delivered != 0,
        // Whoever knows the channels fills it in.
        online: false,
        progress: progress.map(|progress| json("progress", &progress)).transpose()?,
        problem,
        receipts,
        // Large, so only asked for where one order is shown.
        result: None,
    })
}

impl Store {
    /// Takes an order and gives its version. The same order again is delivered again.
    pub(crate) async fn submit_order(
        &self,
        host_id: &HostId,
        envelope: &Envelope,
        submitted_by: &HostName,
        now: u64,
    ) -> Result<u64, SubmitError> {
        let mut tx = self.write.begin().await?;
        let (waiting, sealed): (i64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(sum(length(sealed)), 0) FROM orders \
             WHERE host_id = $1 AND delivered = 0",
        )
        .bind(host_id.as_bytes().as_slice())
        .fetch_one(&mut *tx)
        .await?;
        if waiting >= MAX_UNDELIVERED {
            return Err(SubmitError::Full);
        }
        if envelope.sealed.is_some() && sealed >= MAX_UNDELIVERED_SEALED {
            return Err(SubmitError::FullOfScripts);
        }
        // Submitted again without its script, it keeps the one that came before.
        let row: Option<(i64,)> = sqlx::query_as(
            "INSERT INTO orders (host_id, op, payload, sigs, submitted_by, submitted_at, submission, version, \
             delivered, sealed) VALUES ($1, $2, $3, $4, $5, $6, 1, 1, 0, $7) \
             ON CONFLICT (host_id, op) DO UPDATE SET sigs = excluded.sigs, \
             submitted_by = excluded.submitted_by, submitted_at = excluded.submitted_at, \
             submission = orders.submission + 1, version = orders.version + 1, delivered = 0, problem = NULL, \
             sealed = coalesce(excluded.sealed, orders.sealed) \
             WHERE orders.session = 0 \
             RETURNING version",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(envelope.id().as_bytes().as_slice())
        .bind(envelope.payload.0.as_slice())
        .bind(to_json(&envelope.sigs))
        .bind(submitted_by.as_str())
        .bind(to_db(now))
        .bind(envelope.sealed.as_ref().map(|sealed| sealed.0.as_slice()))
        .fetch_optional(&mut *tx)
        .await?;
        let (version,) = row.ok_or(SubmitError::Session)?;
        tx.commit().await?;
        Ok(from_db(version))
    }

    /// The oldest order that waits for delivery.
    pub(crate) async fn next_order(&self, host_id: &HostId) -> Result<Option<NextOrder>, StoreError> {
        let row: Option<NextRow> = sqlx::query_as(
            "SELECT op, submission, payload, sigs, sealed FROM orders \
             WHERE host_id = $1 AND delivered = 0 AND session = 0 ORDER BY n LIMIT 1",
        )
        .bind(host_id.as_bytes().as_slice())
        .fetch_optional(&self.read)
        .await?;
        row.map(|(op, submission, payload, sigs, sealed)| {
            Ok(NextOrder {
                op: Sha256::from_bytes(bytes("order id", op)?),
                submission,
                envelope: Envelope {
                    sealed: sealed.map(Bytes),
                    ..Envelope::new(payload.into(), json("signatures", &sigs)?)
                },
            })
        })
        .transpose()
    }

    /// Books a delivery, unless the order was submitted again meanwhile.
    pub(crate) async fn order_delivered(
        &self,
        host_id: &HostId,
        order: &NextOrder,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE orders SET delivered = 1, version = version + 1 \
             WHERE host_id = $1 AND op = $2 AND submission = $3",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(order.op.as_bytes().as_slice())
        .bind(order.submission)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Has orders delivered once more of which nothing was heard: they were sent on a channel that broke,
    /// perhaps before the host read them. Gives how many. A host that did read one refuses the second.
    pub(crate) async fn deliver_unheard_again(&self, host_id: &HostId) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE orders SET delivered = 0, version = version + 1 \
             WHERE host_id = $1 AND delivered = 1 AND session = 0 AND progress IS NULL AND problem IS NULL \
             AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.host_id = orders.host_id AND r.op = orders.op) \
             AND NOT EXISTS (SELECT 1 FROM refusals r WHERE r.host_id = orders.host_id AND r.op = orders.op)",
        )
        .bind(host_id.as_bytes().as_slice())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected())
    }

    /// Notes progress; false when there is no such order.
    pub(crate) async fn order_progress(
        &self,
        host_id: &HostId,
        progress: &OrderProgress,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE orders SET progress = $1, version = version + 1 WHERE host_id = $2 AND op = $3",
        )
        .bind(to_json(progress))
        .bind(host_id.as_bytes().as_slice())
        .bind(progress.op.as_bytes().as_slice())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes what the agent could not do; false when there is no such order.
    pub(crate) async fn order_problem(
        &self,
        host_id: &HostId,
        op: &Sha256,
        problem: &str,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE orders SET problem = $1, version = version + 1 WHERE host_id = $2 AND op = $3",
        )
        .bind(problem)
        .bind(host_id.as_bytes().as_slice())
        .bind(op.as_bytes().as_slice())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The version alone, for those who wait for it to grow.
    pub(crate) async fn order_version(
        &self,
        host_id: &HostId,
        op: &Sha256,
    ) -> Result<Option<u64>, StoreError> {
        let row: Option<(i64,)> = sqlx::query_as("SELECT version FROM orders WHERE host_id = $1 AND op = $2")
            .bind(host_id.as_bytes().as_slice())
            .bind(op.as_bytes().as_slice())
            .fetch_optional(&self.read)
            .await?;
        Ok(row.map(|(version,)| from_db(version)))
    }

    /// One order with its receipts and the result of its script; `online` is not known here and false.
    pub(crate) async fn order(&self, host_id: &HostId, op: &Sha256) -> Result<Option<OrderView>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT op, version, submitted_by, submitted_at, payload, sigs, delivered, progress, problem \
             FROM orders WHERE host_id = $1 AND op = $2",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(op.as_bytes().as_slice())
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let view = from_row(row, self.order_receipts(host_id, op).await?)?;
        Ok(Some(OrderView { result: self.result(host_id, op).await?, ..view }))
    }

    /// The newest orders of a host; `online` is not known here and false.
    pub(crate) async fn orders(&self, host_id: &HostId) -> Result<Vec<OrderView>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT op, version, submitted_by, submitted_at, payload, sigs, delivered, progress, problem \
             FROM orders WHERE host_id = $1 ORDER BY n DESC LIMIT $2",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(LISTED)
        .fetch_all(&self.read)
        .await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            let mut view = from_row(row, Vec::new())?;
            view.receipts = self.order_receipts(host_id, &view.op).await?;
            views.push(view);
        }
        Ok(views)
    }

    async fn order_receipts(&self, host_id: &HostId, op: &Sha256) -> Result<Vec<OrderReceipt>, StoreError> {
        let rows: Vec<(i64, Vec<u8>, String)> = sqlx::query_as(
            "SELECT version, payload, sig FROM receipts WHERE host_id = $1 AND op = $2 \
             UNION ALL SELECT version, payload, sig FROM refusals WHERE host_id = $1 AND op = $2 \
             ORDER BY 1",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(op.as_bytes().as_slice())
        .fetch_all(&self.read)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(version, payload, sig)| OrderReceipt {
                version: from_db(version),
                receipt: Signed { payload: payload.into(), sig },
            })
            .collect())
    }
}
