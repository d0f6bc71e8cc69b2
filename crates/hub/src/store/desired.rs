//! Desired states and their generations.

use protocol::api::{DesiredAccepted, DesiredView};
use protocol::desired::DesiredState;
use protocol::{HostId, HostName};

use super::{Store, StoreError, from_db, json, text, to_db, to_json};

impl Store {
    /// Stores a checked state. The generation grows only with a change, so a repeated request is
    /// the same as one.
    pub(crate) async fn put_desired(
        &self,
        host_id: &HostId,
        state: &DesiredState,
        set_by: &HostName,
        now: u64,
    ) -> Result<DesiredAccepted, StoreError> {
        let hash = state.hash();
        let mut tx = self.write.begin().await?;
        let before: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT generation, hash FROM desired WHERE host_id = $1")
                .bind(host_id.as_bytes().as_slice())
                .fetch_optional(&mut *tx)
                .await?;
        let generation = match before {
            Some((generation, before)) if before == hash.as_bytes() => {
                return Ok(DesiredAccepted { generation: from_db(generation), changed: false });
            }
            Some((generation, _)) => generation + 1,
            None => 1,
        };
        sqlx::query(
            "INSERT INTO desired (host_id, generation, hash, set_by, set_at, body) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (host_id) DO UPDATE SET generation = excluded.generation, hash = excluded.hash, \
             set_by = excluded.set_by, set_at = excluded.set_at, body = excluded.body",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(generation)
        .bind(hash.as_bytes().as_slice())
        .bind(set_by.as_str())
        .bind(to_db(now))
        .bind(to_json(state))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(DesiredAccepted { generation: from_db(generation), changed: true })
    }

    /// What is wanted of a host.
    pub(crate) async fn desired(&self, host_id: &HostId) -> Result<Option<DesiredView>, StoreError> {
        let row: Option<(i64, String, i64, String)> =
            sqlx::query_as("SELECT generation, set_by, set_at, body FROM desired WHERE host_id = $1")
                .bind(host_id.as_bytes().as_slice())
                .fetch_optional(&self.read)
                .await?;
        row.map(|(generation, set_by, set_at, body)| {
            Ok(DesiredView {
                generation: from_db(generation),
                set_by: text("operator", &set_by)?,
                set_at: from_db(set_at),
                state: json("desired state", &body)?,
            })
        })
        .transpose()
    }
}
