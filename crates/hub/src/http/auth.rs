//! The guard of every route of [`super::Access::Operator`].

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use protocol::Sha256;

use super::ApiError;
use crate::app::App;
use crate::store::Session;

/// Lets a request pass only with a token of an operator who still stands in the operators file
/// with the key that logged in. Handlers find the [`Session`] in the request's extensions.
pub(crate) async fn require_operator(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let session = authenticate(&app, request.headers()).await?;
    request.extensions_mut().insert(session);
    Ok(next.run(request).await)
}

async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Session, ApiError> {
    let header = headers.get(header::AUTHORIZATION).ok_or(ApiError::NoToken)?;
    let token =
        header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or(ApiError::BadToken)?;
    let hash = Sha256::of(token.as_bytes());
    let session = app.store.session(&hash, app.now()).await?.ok_or(ApiError::BadToken)?;
    let operators = app.operators.current().map_err(ApiError::Operators)?;
    if operators.has(&session.operator, &session.key) { Ok(session) } else { Err(ApiError::BadToken) }
}
