//! Tunnels: which are open, and what became of the others. That an operator has no more of them on a
//! host than allowed is a rule of the database, not of this code.

use protocol::api::TunnelView;
use protocol::{Envelope, Fingerprint, HostId, HostName, Sha256, TunnelId};

use super::{Store, StoreError, bytes, from_db, text, to_db, to_json};

/// Most tunnels in one list.
const LISTED: i64 = 100;

/// A tunnel that is to be opened.
#[derive(Debug, Clone)]
pub(crate) struct NewTunnel {
    /// Its name.
    pub(crate) id: TunnelId,
    /// To which host.
    pub(crate) host_id: HostId,
    /// The signed `session.open`.
    pub(crate) envelope: Envelope,
    /// For whom.
    pub(crate) operator: HostName,
    /// The key that they logged in with.
    pub(crate) key: Fingerprint,
}

/// Why no tunnel was opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenTunnelError {
    /// The operator has as many as allowed; this is one of them.
    #[error(
        "you have as many sessions open on this host as the hub allows: see `writ sessions HOST`, or close one with `writ sessions close {0}`"
    )]
    Exists(TunnelId),
    /// The order came by the other way before.
    #[error(
        "this order was submitted before, as one to be delivered by itself: sign a new one for a session"
    )]
    Ordinary,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for OpenTunnelError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Bytes that were relayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// From the operator.
    pub(crate) to_host: u64,
    /// To the operator.
    pub(crate) from_host: u64,
}

type Row = (Vec<u8>, Vec<u8>, Vec<u8>, String, i64, Option<i64>, Option<String>, i64, i64);

fn from_row(row: Row) -> Result<TunnelView, StoreError> {
    let (id, host_id, op, operator, opened_at, closed_at, why, to_host, from_host) = row;
    Ok(TunnelView {
        id: TunnelId::from_bytes(bytes("tunnel id", id)?),
        host_id: HostId::from_bytes(bytes("host id", host_id)?),
        op: Sha256::from_bytes(bytes("order id", op)?),
        operator: text("operator", &operator)?,
        opened_at: from_db(opened_at),
        closed_at: closed_at.map(from_db),
        why,
        bytes_to_host: from_db(to_host),
        bytes_from_host: from_db(from_host),
    })
}

impl Store {
    /// Takes a slot of the operator's for a tunnel, and notes its order as one that is on its way
    /// already.
    pub(crate) async fn open_tunnel(
        &self,
        new: &NewTunnel,
        slots: u8,
        now: u64,
    ) -> Result<(), OpenTunnelError> {
        let (host_id, op) = (new.host_id.as_bytes().as_slice(), new.envelope.id());
        let mut tx = self.write.begin().await?;
        let mut opened = false;
        for slot in 0..slots {
            let done = sqlx::query(
                "INSERT INTO tunnels (id, host_id, op, operator, fingerprint, slot, opened_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) \
                 ON CONFLICT (host_id, operator, slot) WHERE closed_at IS NULL DO NOTHING",
            )
            .bind(new.id.as_bytes().as_slice())
            .bind(host_id)
            .bind(op.as_bytes().as_slice())
            .bind(new.operator.as_str())
            .bind(new.key.to_string())
            .bind(i64::from(slot))
            .bind(to_db(now))
            .execute(&mut *tx)
            .await?;
            opened = done.rows_affected() == 1;
            if opened {
                break;
            }
        }
        if !opened {
            let (id,): (Vec<u8>,) = sqlx::query_as(
                "SELECT id FROM tunnels WHERE host_id = $1 AND operator = $2 AND closed_at IS NULL \
                 ORDER BY n LIMIT 1",
            )
            .bind(host_id)
            .bind(new.operator.as_str())
            .fetch_one(&mut *tx)
            .await?;
            return Err(OpenTunnelError::Exists(TunnelId::from_bytes(bytes("tunnel id", id)?)));
        }
        let noted = sqlx::query(
            "INSERT INTO orders (host_id, op, payload, sigs, submitted_by, submitted_at, submission, version, \
             delivered, session) VALUES ($1, $2, $3, $4, $5, $6, 1, 1, 1, 1) \
             ON CONFLICT (host_id, op) DO UPDATE SET sigs = excluded.sigs, \
             submitted_by = excluded.submitted_by, submitted_at = excluded.submitted_at, \
             submission = orders.submission + 1, version = orders.version + 1, problem = NULL \
             WHERE orders.session = 1",
        )
        .bind(host_id)
        .bind(op.as_bytes().as_slice())
        .bind(new.envelope.payload.0.as_slice())
        .bind(to_json(&new.envelope.sigs))
        .bind(new.operator.as_str())
        .bind(to_db(now))
        .execute(&mut *tx)
        .await?;
        if noted.rows_affected() != 1 {
            return Err(OpenTunnelError::Ordinary);
        }
        tx.commit().await?;
        Ok(())
    }

    /// Closes a tunnel and so frees its slot. Closing it again may give a better reason and later
    /// figures; the time stays.
    pub(crate) async fn close_tunnel(
        &self,
        id: &TunnelId,
        why: &str,
        relayed: Relayed,
        now: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE tunnels SET closed_at = coalesce(closed_at, $1), why = $2, bytes_to_host = $3, \
             bytes_from_host = $4 WHERE id = $5",
        )
        .bind(to_db(now))
        .bind(why)
        .bind(to_db(relayed.to_host))
        .bind(to_db(relayed.from_host))
        .bind(id.as_bytes().as_slice())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Closes what an earlier run left open; gives how many.
    pub(crate) async fn close_all_tunnels(&self, why: &str, now: u64) -> Result<u64, StoreError> {
        let done = sqlx::query("UPDATE tunnels SET closed_at = $1, why = $2 WHERE closed_at IS NULL")
            .bind(to_db(now))
            .bind(why)
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected())
    }

    /// One tunnel.
    pub(crate) async fn tunnel(&self, id: &TunnelId) -> Result<Option<TunnelView>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT id, host_id, op, operator, opened_at, closed_at, why, bytes_to_host, bytes_from_host \
             FROM tunnels WHERE id = $1",
        )
        .bind(id.as_bytes().as_slice())
        .fetch_optional(&self.read)
        .await?;
        row.map(from_row).transpose()
    }

    /// The newest tunnels of a host.
    pub(crate) async fn tunnels(&self, host_id: &HostId) -> Result<Vec<TunnelView>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, host_id, op, operator, opened_at, closed_at, why, bytes_to_host, bytes_from_host \
             FROM tunnels WHERE host_id = $1 ORDER BY n DESC LIMIT $2",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(LISTED)
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(from_row).collect()
    }

    /// Forgets tunnels that were closed before `before`, unix seconds; gives how many.
    pub(crate) async fn forget_tunnels(&self, before: u64) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM tunnels WHERE closed_at < $1")
            .bind(to_db(before))
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected())
    }
}
