//! Reading requests: bounded, in time, and failing as [`ApiError`].

use std::fmt::Display;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use protocol::Envelope;
use protocol::text::printable;
use serde::de::DeserializeOwned;

use super::ApiError;
use crate::app::App;

/// Longest body in bytes.
pub(crate) const MAX_BODY: usize = 1024 * 1024;

/// The largest order, in base64 and with room for the rest of its JSON, is a body.
const _: () = assert!(
    Envelope::MAX_SEALED / 3 * 4
        + Envelope::MAX_PAYLOAD / 3 * 4
        // A line end in an armored signature becomes two characters.
        + Envelope::MAX_SIGNATURES * (Envelope::MAX_ARMOR / 64 * 65)
        + 4096
        < MAX_BODY
);

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// Parameters in the path; a malformed one is a bad request, not an unknown path.
pub(crate) struct InPath<T>(pub(crate) T);

/// Parameters behind the `?`.
pub(crate) struct InQuery<T>(pub(crate) T);

fn bad(error: impl Display) -> ApiError {
    // Parsers repeat what they were given; it comes back to whoever sent it, but printable.
    ApiError::BadRequest(printable(&error.to_string()).chars().take(300).collect())
}

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let bytes = read(request.into_body(), app).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(bad)
    }
}

async fn read(body: Body, app: &App) -> Result<axum::body::Bytes, ApiError> {
    match tokio::time::timeout(app.limits().body, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // The only other cause is a connection that broke, and then nobody reads the answer.
        Ok(Err(_)) => Err(ApiError::TooLarge),
        Err(_) => Err(ApiError::Slow),
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<App> for InPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        Path::from_request_parts(parts, app).await.map(|Path(value)| Self(value)).map_err(bad)
    }
}

impl<T: DeserializeOwned> FromRequestParts<App> for InQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, app).await.map(|Query(value)| Self(value)).map_err(bad)
    }
}
