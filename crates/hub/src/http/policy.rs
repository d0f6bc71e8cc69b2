//! Policy documents: taken, handed on, shown. Whether one counts is decided on each host.

use axum::extract::State;
use axum::{Extension, Json};
use protocol::Envelope;
use protocol::api::{PolicyStored, PolicyView};

use super::ApiError;
use super::orders::check_size;
use super::request::JsonBody;
use crate::app::App;
use crate::store::Session;

/// `POST /api/v1/policy`
pub(crate) async fn submit(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    JsonBody(envelope): JsonBody<Envelope>,
) -> Result<Json<PolicyStored>, ApiError> {
    check_size(&envelope)?;
    if envelope.sealed.is_some() {
        return Err(ApiError::BadOrder("nothing sealed travels with a policy"));
    }
    let n = app.store.put_policy_document(&envelope, &session.operator, app.now()).await?;
    tracing::info!(n, sha256 = %envelope.id(), operator = %session.operator, "policy document stored");
    app.live.policy_changed();
    Ok(Json(PolicyStored { n }))
}

/// `GET /api/v1/policy`
pub(crate) async fn show(State(app): State<App>) -> Result<Json<PolicyView>, ApiError> {
    let documents = app.store.policy_documents().await?;
    Ok(Json(PolicyView { documents, hosts: app.store.host_policies().await? }))
}
