//! Enrollments: from a code to an approved host.

use protocol::api::{EnrollmentState, EnrollmentView};
use protocol::enroll::{EnrollmentAnswer, HostStatement};
use protocol::{Bytes, Ed25519Key, HostName, Sha256, Signed};
use sqlx::{Sqlite, Transaction};

use super::{Store, StoreError, bytes, from_db, json, text, to_db, to_json};

/// Most enrollments in one list.
const LISTED: i64 = 1_000;

/// An enrollment that is to begin.
#[derive(Debug)]
pub(crate) struct NewEnrollment<'a> {
    /// Of the code's secret.
    pub(crate) secret_sha256: Sha256,
    /// The policy's bytes.
    pub(crate) policy: &'a [u8],
    /// Who makes the code.
    pub(crate) created_by: &'a HostName,
    /// Unix seconds.
    pub(crate) expires_at: u64,
}

/// One enrollment.
#[derive(Debug, Clone)]
pub(crate) struct Enrollment {
    /// As operators see it.
    pub(crate) view: EnrollmentView,
    /// The policy's bytes.
    pub(crate) policy: Bytes,
}

/// Why an enrollment did not move on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollmentError {
    /// No such secret or id.
    #[error("there is no such enrollment: list them with `writ enroll list`")]
    Unknown,
    /// No such secret.
    #[error("this enrollment code is not known here: make a new one with `writ enroll new`")]
    UnknownCode,
    /// Too late.
    #[error("this enrollment code has expired: make a new one with `writ enroll new`")]
    Expired,
    /// Used by another answer.
    #[error("this enrollment code was already used: make a new one with `writ enroll new`")]
    Used,
    /// The secret's hash is in use.
    #[error("an enrollment with this secret exists already: make a new code with `writ enroll new`")]
    Exists,
    /// Not in a state in which that can be done.
    #[error("the enrollment is not waiting for approval (it is {0}): nothing was changed")]
    NotWaiting(&'static str),
    /// A name that means another host.
    #[error("another host is called {0} already: choose another name")]
    NameTaken(HostName),
    /// A host cannot change its host key by enrolling.
    #[error(
        "host {0} is enrolled with another host key: if its key was really lost, enroll it as a new host"
    )]
    OtherHostKey(protocol::HostId),
    /// A device key belongs to one host.
    #[error("this device key belongs to another host already: make a new one on the host and enroll again")]
    DeviceTaken,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for EnrollmentError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

type Row = (i64, Vec<u8>, String, i64, i64, String, Option<String>);

const COLUMNS_BY_ID: &str = "SELECT id, policy, created_by, created_at, expires_at, state, answer \
     FROM enrollments WHERE id = $1";
const COLUMNS_BY_SECRET: &str = "SELECT id, policy, created_by, created_at, expires_at, state, answer \
     FROM enrollments WHERE secret_sha256 = $1";

fn from_row(row: Row, now: u64) -> Result<Enrollment, StoreError> {
    let (id, policy, created_by, created_at, expires_at, state, answer) = row;
    let expires_at = from_db(expires_at);
    let state = match state.as_str() {
        "open" if now >= expires_at => EnrollmentState::Expired,
        "open" => EnrollmentState::WaitingForHost,
        "answered" => EnrollmentState::WaitingForApproval,
        "approved" => EnrollmentState::Approved,
        "rejected" => EnrollmentState::Rejected,
        _ => return Err(StoreError::Corrupt("state of an enrollment")),
    };
    let view = EnrollmentView {
        id: from_db(id),
        state,
        created_by: text("operator", &created_by)?,
        created_at: from_db(created_at),
        expires_at,
        policy: Sha256::of(&policy),
        answer: answer.map(|answer| json("answer", &answer)).transpose()?,
    };
    Ok(Enrollment { view, policy: policy.into() })
}

fn state_name(state: EnrollmentState) -> &'static str {
    match state {
        EnrollmentState::WaitingForHost => "waiting for the host",
        EnrollmentState::WaitingForApproval => "waiting for approval",
        EnrollmentState::Approved => "approved",
        EnrollmentState::Rejected => "rejected",
        EnrollmentState::Expired => "expired",
    }
}

impl Store {
    /// Begins one and gives its id.
    pub(crate) async fn add_enrollment(
        &self,
        new: &NewEnrollment<'_>,
        now: u64,
    ) -> Result<u64, EnrollmentError> {
        let row: Option<(i64,)> = sqlx::query_as(
            "INSERT INTO enrollments (secret_sha256, policy, created_by, created_at, expires_at, state) \
             VALUES ($1, $2, $3, $4, $5, 'open') ON CONFLICT (secret_sha256) DO NOTHING RETURNING id",
        )
        .bind(new.secret_sha256.as_bytes().as_slice())
        .bind(new.policy)
        .bind(new.created_by.as_str())
        .bind(to_db(now))
        .bind(to_db(new.expires_at))
        .fetch_optional(&self.write)
        .await?;
        row.map(|(id,)| from_db(id)).ok_or(EnrollmentError::Exists)
    }

    /// The newest ones.
    pub(crate) async fn enrollments(&self, now: u64) -> Result<Vec<Enrollment>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, policy, created_by, created_at, expires_at, state, answer \
             FROM enrollments ORDER BY id DESC LIMIT $1",
        )
        .bind(LISTED)
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(|row| from_row(row, now)).collect()
    }

    /// One of them.
    pub(crate) async fn enrollment(&self, id: u64, now: u64) -> Result<Option<Enrollment>, StoreError> {
        let row: Option<Row> =
            sqlx::query_as(COLUMNS_BY_ID).bind(to_db(id)).fetch_optional(&self.read).await?;
        row.map(|row| from_row(row, now)).transpose()
    }

    /// The one whose code has this secret, by the secret's hash.
    pub(crate) async fn enrollment_by_secret(
        &self,
        secret: &Sha256,
        now: u64,
    ) -> Result<Option<Enrollment>, StoreError> {
        let row: Option<Row> = sqlx::query_as(COLUMNS_BY_SECRET)
            .bind(secret.as_bytes().as_slice())
            .fetch_optional(&self.read)
            .await?;
        row.map(|row| from_row(row, now)).transpose()
    }

    /// The answer of the host that waits with this device key.
    pub(crate) async fn waiting_answer(
        &self,
        device: &Ed25519Key,
    ) -> Result<Option<EnrollmentAnswer>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT answer FROM enrollments WHERE device_key = $1 AND state = 'answered' \
             ORDER BY id DESC LIMIT 1",
        )
        .bind(device.as_bytes().as_slice())
        .fetch_optional(&self.read)
        .await?;
        row.map(|(answer,)| json("answer", &answer)).transpose()
    }

    /// Stores the host's answer. The same answer again is no error, whatever happened since.
    pub(crate) async fn answer_enrollment(
        &self,
        secret: &Sha256,
        answer: &EnrollmentAnswer,
        now: u64,
    ) -> Result<(u64, EnrollmentState), EnrollmentError> {
        let mut tx = self.write.begin().await?;
        let row: Option<Row> = sqlx::query_as(COLUMNS_BY_SECRET)
            .bind(secret.as_bytes().as_slice())
            .fetch_optional(&mut *tx)
            .await?;
        let view = from_row(row.ok_or(EnrollmentError::UnknownCode)?, now)?.view;
        match (view.state, view.answer) {
            (EnrollmentState::WaitingForHost, _) => {}
            (EnrollmentState::Expired, _) => return Err(EnrollmentError::Expired),
            (state, Some(before)) if before == *answer => return Ok((view.id, state)),
            _ => return Err(EnrollmentError::Used),
        }
        sqlx::query("UPDATE enrollments SET state = 'answered', answer = $1, device_key = $2 WHERE id = $3")
            .bind(to_json(answer))
            .bind(answer.device_key.as_bytes().as_slice())
            .bind(to_db(view.id))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok((view.id, EnrollmentState::WaitingForApproval))
    }

    /// Makes the answer's host known under the operator's statement, which the caller has compared
    /// with the answer. The same statement again is no error.
    pub(crate) async fn approve_enrollment(
        &self,
        id: u64,
        signed: &Signed,
        statement: &HostStatement,
        now: u64,
    ) -> Result<(), EnrollmentError> {
        let mut tx = self.write.begin().await?;
        let row: Option<Row> = sqlx::query_as(COLUMNS_BY_ID).bind(to_db(id)).fetch_optional(&mut *tx).await?;
        let view = from_row(row.ok_or(EnrollmentError::Unknown)?, now)?.view;
        match view.state {
            EnrollmentState::WaitingForApproval => {}
            EnrollmentState::Approved if has_statement(&mut tx, signed).await? => return Ok(()),
            state => return Err(EnrollmentError::NotWaiting(state_name(state))),
        }
        check_free(&mut tx, statement).await?;
        sqlx::query(
            "INSERT INTO hosts (host_id, name, site, statement_payload, statement_sig, device_key, host_key, \
             host_key_gen, enrolled_at, receipts_held, receipts_hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10) \
             ON CONFLICT (host_id) DO UPDATE SET name = excluded.name, site = excluded.site, \
             statement_payload = excluded.statement_payload, statement_sig = excluded.statement_sig, \
             device_key = excluded.device_key, host_key_gen = excluded.host_key_gen, \
             enrolled_at = excluded.enrolled_at",
        )
        .bind(statement.host_id.as_bytes().as_slice())
        .bind(statement.name.as_str())
        .bind(statement.site.as_str())
        .bind(signed.payload.0.as_slice())
        .bind(signed.sig.as_str())
        .bind(statement.device_key.as_bytes().as_slice())
        .bind(statement.host_key.as_bytes().as_slice())
        .bind(i64::from(statement.host_key_gen))
        .bind(to_db(now))
        .bind([0u8; 32].as_slice())
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE enrollments SET state = 'approved' WHERE id = $1")
            .bind(to_db(id))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Refuses the answer, or makes an unused code void.
    pub(crate) async fn reject_enrollment(&self, id: u64, now: u64) -> Result<(), EnrollmentError> {
        let mut tx = self.write.begin().await?;
        let row: Option<Row> = sqlx::query_as(COLUMNS_BY_ID).bind(to_db(id)).fetch_optional(&mut *tx).await?;
        let view = from_row(row.ok_or(EnrollmentError::Unknown)?, now)?.view;
        match view.state {
            EnrollmentState::WaitingForHost | EnrollmentState::WaitingForApproval => {}
            EnrollmentState::Rejected => return Ok(()),
            state => return Err(EnrollmentError::NotWaiting(state_name(state))),
        }
        sqlx::query("UPDATE enrollments SET state = 'rejected' WHERE id = $1")
            .bind(to_db(id))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn has_statement(tx: &mut Transaction<'_, Sqlite>, signed: &Signed) -> Result<bool, StoreError> {
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT 1 FROM hosts WHERE statement_payload = $1 AND statement_sig = $2")
            .bind(signed.payload.0.as_slice())
            .bind(signed.sig.as_str())
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.is_some())
}

/// Name, device key and host id must not collide with another host's.
async fn check_free(
    tx: &mut Transaction<'_, Sqlite>,
    statement: &HostStatement,
) -> Result<(), EnrollmentError> {
    let rows: Vec<(Vec<u8>, String, Vec<u8>)> = sqlx::query_as(
        "SELECT host_id, name, host_key FROM hosts \
         WHERE host_id = $1 OR name = $2 OR device_key = $3",
    )
    .bind(statement.host_id.as_bytes().as_slice())
    .bind(statement.name.as_str())
    .bind(statement.device_key.as_bytes().as_slice())
    .fetch_all(&mut **tx)
    .await?;
    for (host_id, name, host_key) in rows {
        let host_id = bytes::<16>("host id", host_id)?;
        if host_id == *statement.host_id.as_bytes() {
            if host_key != statement.host_key.as_bytes() {
                return Err(EnrollmentError::OtherHostKey(statement.host_id));
            }
        } else if name == statement.name.as_str() {
            return Err(EnrollmentError::NameTaken(statement.name.clone()));
        } else {
            return Err(EnrollmentError::DeviceTaken);
        }
    }
    Ok(())
}
