//! Policy documents on their way to hosts. The hub keeps their bytes and order and judges none of them.

use protocol::api::{HostPolicy, StoredPolicy};
use protocol::{Envelope, HostId, HostName, Sha256};

use super::{Store, StoreError, bytes, from_db, json, text, to_db, to_json};

/// Most documents. Each host reads all of them at each connection.
const MAX_DOCUMENTS: i64 = 4_096;
/// Most bytes of them together.
const MAX_BYTES: i64 = 32 * 1024 * 1024;

/// Why a document was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyStoreError {
    /// Somebody floods it, or the chain is very old.
    #[error(
        "the hub holds {MAX_DOCUMENTS} policy documents, or {} MiB of them: its administrator has to clear the old ones away",
        MAX_BYTES / 1024 / 1024
    )]
    Full,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PolicyStoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Host, version, hash, problem, time.
type HostRow = (Vec<u8>, i64, Vec<u8>, Option<String>, i64);

type Row = (i64, Vec<u8>, String, String, i64);

fn from_row((n, payload, sigs, by, at): Row) -> Result<StoredPolicy, StoreError> {
    Ok(StoredPolicy {
        n: from_db(n),
        envelope: Envelope::new(payload.into(), json("signatures", &sigs)?),
        submitted_by: text("operator", &by)?,
        submitted_at: from_db(at),
    })
}

impl Store {
    /// Takes a document and gives its place; the same again keeps its place.
    pub(crate) async fn put_policy_document(
        &self,
        envelope: &Envelope,
        operator: &HostName,
        now: u64,
    ) -> Result<u64, PolicyStoreError> {
        let sigs = to_json(&envelope.sigs);
        let id = Sha256::of(&[Sha256::of(&envelope.payload.0).as_bytes(), sigs.as_bytes()].concat());
        let mut transaction = self.write.begin().await?;
        let known: Option<(i64,)> = sqlx::query_as("SELECT n FROM policy_documents WHERE sha256 = $1")
            .bind(id.as_bytes().as_slice())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some((n,)) = known {
            return Ok(from_db(n));
        }
        let (count, size, last): (i64, i64, i64) = sqlx::query_as(
            "SELECT COUNT(*), COALESCE(SUM(LENGTH(payload) + LENGTH(sigs)), 0), COALESCE(MAX(n), 0) \
             FROM policy_documents",
        )
        .fetch_one(&mut *transaction)
        .await?;
        if count >= MAX_DOCUMENTS || size >= MAX_BYTES {
            return Err(PolicyStoreError::Full);
        }
        sqlx::query(
            "INSERT INTO policy_documents (n, sha256, payload, sigs, submitted_by, submitted_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(last + 1)
        .bind(id.as_bytes().as_slice())
        .bind(envelope.payload.0.as_slice())
        .bind(sigs)
        .bind(operator.as_str())
        .bind(to_db(now))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(from_db(last + 1))
    }

    /// All of them, oldest first.
    pub(crate) async fn policy_documents(&self) -> Result<Vec<StoredPolicy>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT n, payload, sigs, submitted_by, submitted_at FROM policy_documents ORDER BY n",
        )
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(from_row).collect()
    }

    /// The first one after `n`.
    pub(crate) async fn policy_document_after(&self, n: u64) -> Result<Option<StoredPolicy>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT n, payload, sigs, submitted_by, submitted_at FROM policy_documents \
             WHERE n > $1 ORDER BY n LIMIT 1",
        )
        .bind(to_db(n))
        .fetch_optional(&self.read)
        .await?;
        row.map(from_row).transpose()
    }

    /// What a host says of itself.
    pub(crate) async fn put_host_policy(
        &self,
        host_id: &HostId,
        version: u64,
        sha256: &Sha256,
        problem: Option<&str>,
        now: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO host_policies (host_id, version, sha256, problem, received_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (host_id) DO UPDATE SET version = excluded.version, \
             sha256 = excluded.sha256, problem = excluded.problem, received_at = excluded.received_at",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(to_db(version))
        .bind(sha256.as_bytes().as_slice())
        .bind(problem)
        .bind(to_db(now))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// What hosts said.
    pub(crate) async fn host_policies(&self) -> Result<Vec<HostPolicy>, StoreError> {
        let rows: Vec<HostRow> = sqlx::query_as(
            "SELECT host_id, version, sha256, problem, received_at FROM host_policies ORDER BY host_id",
        )
        .fetch_all(&self.read)
        .await?;
        rows.into_iter()
            .map(|(host_id, version, sha256, problem, at)| {
                Ok(HostPolicy {
                    host_id: HostId::from_bytes(bytes("host id", host_id)?),
                    version: from_db(version),
                    sha256: Sha256::from_bytes(bytes("policy", sha256)?),
                    problem,
                    received_at: from_db(at),
                })
            })
            .collect()
    }
}
