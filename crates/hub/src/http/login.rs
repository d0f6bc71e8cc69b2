//! Logging in: a signed challenge, no passwords.

use authz::sshsig::{Claim, SigError};
use authz::statement::{self, StatementError};
use axum::extract::State;
use axum::{Extension, Json};
use data_encoding::BASE64URL_NOPAD;
use protocol::api::{LoginAnswer, LoginChallenge};
use protocol::{Fingerprint, HostName, Sha256, Signed};
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::request::JsonBody;
use crate::app::App;
use crate::store::Session;

/// Seconds in which a challenge must be answered.
const CHALLENGE_S: u64 = 60;
/// Seconds that a token is good for.
const TOKEN_S: u64 = 12 * 3_600;

fn random() -> Result<[u8; 32], ApiError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(ApiError::Random)?;
    Ok(bytes)
}

/// `POST /api/v1/login/challenge`
pub(crate) async fn challenge(State(app): State<App>) -> Result<Json<LoginChallenge>, ApiError> {
    let challenge = Sha256::from_bytes(random()?);
    let now = app.now();
    let expires_at = now + CHALLENGE_S;
    if !app.store.add_challenge(&challenge, expires_at, now).await? {
        return Err(ApiError::Busy);
    }
    Ok(Json(LoginChallenge { challenge, expires_at }))
}

/// `POST /api/v1/login`
pub(crate) async fn login(
    State(app): State<App>,
    JsonBody(signed): JsonBody<Signed>,
) -> Result<Json<LoginAnswer>, ApiError> {
    let challenge = statement::login_challenge(&signed).map_err(refuse)?;
    let now = app.now();
    // Used up whatever comes next: one attempt per challenge.
    if !app.store.take_challenge(&challenge, now).await? {
        return Err(ApiError::BadChallenge);
    }
    let operators = app.operators.current().map_err(ApiError::Operators)?;
    let mut known = None;
    let key = statement::verify_login(&signed, &app.pin, &challenge, now, |claim| {
        let entry = operators.find(claim)?;
        let ends = match claim {
            Claim::Key(_) => u64::MAX,
            Claim::Certificate { valid_before, .. } => *valid_before,
        };
        known = Some((entry, ends));
        Some(entry.standing())
    })
    .map_err(refuse)?
    .fingerprint();
    let (entry, ends) = known.ok_or(ApiError::UnknownOperator(key))?;
    let operator = entry.name().clone();
    let token = BASE64URL_NOPAD.encode(&random()?);
    // A login by certificate ends with the certificate.
    let expires_at = (now + TOKEN_S).min(ends);
    // The line of the operators file that let them in: removing it ends the session.
    let session = Session { operator: operator.clone(), key: entry.fingerprint(), expires_at };
    app.store.add_token(&Sha256::of(token.as_bytes()), &session, now).await?;
    tracing::info!(%operator, %key, "operator logged in");
    Ok(Json(LoginAnswer { token, operator, expires_at }))
}

fn refuse(error: StatementError) -> ApiError {
    match error {
        // Only who made the signature learns why: the key was known, and nothing else is told.
        StatementError::Signature(
            error @ (SigError::NoTouch | SigError::NotVerified | SigError::Certificate(_)),
        ) => ApiError::Unaccepted(error),
        StatementError::Signature(_) | StatementError::Signer(_) => ApiError::BadSignature,
        StatementError::Stranger(key) => {
            tracing::warn!(%key, "login by an unknown key refused");
            ApiError::UnknownOperator(key)
        }
        StatementError::Payload(_) => ApiError::BadLogin,
        StatementError::OtherHub => ApiError::OtherHub,
        StatementError::OtherChallenge => ApiError::BadChallenge,
    }
}

/// Answer of `GET /api/v1/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Me {
    /// Whom the hub takes the caller for.
    pub(crate) operator: HostName,
    /// The key that logged in; the CA's, where it was a certificate.
    pub(crate) key: Fingerprint,
    /// Unix seconds until which the token is good.
    pub(crate) expires_at: u64,
}

/// `GET /api/v1/me`
pub(crate) async fn me(Extension(session): Extension<Session>) -> Json<Me> {
    let Session { operator, key, expires_at } = session;
    Json(Me { operator, key, expires_at })
}
