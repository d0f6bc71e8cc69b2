//! Login challenges and tokens.

use protocol::{Fingerprint, HostName, Sha256};

use super::{Store, StoreError, from_db, text, to_db};

/// Most challenges outstanding: they are given to anybody who asks.
const MAX_CHALLENGES: i64 = 10_000;

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// The operator.
    pub(crate) operator: HostName,
    /// The key that logged in; the CA's, where it was a certificate.
    pub(crate) key: Fingerprint,
    /// Unix seconds.
    pub(crate) expires_at: u64,
}

impl Store {
    /// Remembers a challenge; false when too many are outstanding.
    pub(crate) async fn add_challenge(
        &self,
        challenge: &Sha256,
        expires_at: u64,
        now: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write.begin().await?;
        sqlx::query("DELETE FROM logins WHERE expires_at <= $1").bind(to_db(now)).execute(&mut *tx).await?;
        let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM logins").fetch_one(&mut *tx).await?;
        let room = count < MAX_CHALLENGES;
        if room {
            sqlx::query("INSERT INTO logins (challenge, expires_at) VALUES ($1, $2)")
                .bind(challenge.as_bytes().as_slice())
                .bind(to_db(expires_at))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(room)
    }

    /// Uses a challenge up; false when there is none or it is too old.
    pub(crate) async fn take_challenge(&self, challenge: &Sha256, now: u64) -> Result<bool, StoreError> {
        let row: Option<(i64,)> =
            sqlx::query_as("DELETE FROM logins WHERE challenge = $1 RETURNING expires_at")
                .bind(challenge.as_bytes().as_slice())
                .fetch_optional(&self.write)
                .await?;
        Ok(row.is_some_and(|(expires_at,)| now < from_db(expires_at)))
    }

    /// Remembers a token by its hash, and forgets the expired ones.
    pub(crate) async fn add_token(
        &self,
        hash: &Sha256,
        session: &Session,
        now: u64,
    ) -> Result<(), StoreError> {
        let mut tx = self.write.begin().await?;
        sqlx::query("DELETE FROM tokens WHERE expires_at <= $1").bind(to_db(now)).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO tokens (sha256, operator, fingerprint, expires_at) VALUES ($1, $2, $3, $4)")
            .bind(hash.as_bytes().as_slice())
            .bind(session.operator.as_str())
            .bind(session.key.to_string())
            .bind(to_db(session.expires_at))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Looks a token up. Its hash is the key of the lookup, so how long the comparison takes says
    /// nothing about a token that the asker does not already have.
    pub(crate) async fn session(&self, hash: &Sha256, now: u64) -> Result<Option<Session>, StoreError> {
        let row: Option<(String, String, i64)> =
            sqlx::query_as("SELECT operator, fingerprint, expires_at FROM tokens WHERE sha256 = $1")
                .bind(hash.as_bytes().as_slice())
                .fetch_optional(&self.read)
                .await?;
        let Some((operator, key, expires_at)) = row.filter(|row| now < from_db(row.2)) else {
            return Ok(None);
        };
        Ok(Some(Session {
            operator: text("operator", &operator)?,
            key: text("fingerprint", &key)?,
            expires_at: from_db(expires_at),
        }))
    }
}
