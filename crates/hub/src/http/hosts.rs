//! Hosts as the hub knows them, what is wanted of them, and the copies of their logs.

use axum::extract::State;
use axum::{Extension, Json};
use protocol::HostId;
use protocol::api::{DesiredAccepted, DesiredView, HostDetail, HostView, ReceiptsView};
use protocol::desired::DesiredState;
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::request::{InPath, InQuery, JsonBody};
use crate::app::{App, AppInner};
use crate::store::{Host, Session};

/// Answer of `GET /healthz`.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    ok: bool,
}

/// `GET /healthz`
pub(crate) async fn health(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    app.store.ping().await?;
    Ok(Json(Health { ok: true }))
}

fn view(app: &AppInner, host: Host) -> HostView {
    let now_seen = app.live.last_seen(&host.host_id);
    HostView {
        host_id: host.host_id,
        name: host.name,
        statement: host.statement,
        online: now_seen.is_some(),
        last_seen: now_seen.or(host.last_seen),
        report_at: host.report_at,
        receipts_held: host.receipts_held,
    }
}

/// The host, or the refusal that names it.
pub(super) async fn known(app: &AppInner, host_id: &HostId) -> Result<Host, ApiError> {
    app.store.host(host_id).await?.ok_or(ApiError::NoSuchHost(*host_id))
}

/// `GET /api/v1/hosts`
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<HostView>>, ApiError> {
    let hosts = app.store.hosts().await?;
    Ok(Json(hosts.into_iter().map(|host| view(&app, host)).collect()))
}

/// `GET /api/v1/hosts/{host_id}`
pub(crate) async fn show(
    State(app): State<App>,
    InPath(host_id): InPath<HostId>,
) -> Result<Json<HostDetail>, ApiError> {
    let host = view(&app, known(&app, &host_id).await?);
    let report = app.store.report(&host_id).await?;
    let desired = app.store.desired(&host_id).await?;
    let plan = app.store.plan(&host_id).await?;
    Ok(Json(HostDetail { host, report, desired, plan }))
}

/// `GET /api/v1/hosts/{host_id}/desired`
pub(crate) async fn get_desired(
    State(app): State<App>,
    InPath(host_id): InPath<HostId>,
) -> Result<Json<DesiredView>, ApiError> {
    known(&app, &host_id).await?;
    app.store.desired(&host_id).await?.map(Json).ok_or(ApiError::NoDesired(host_id))
}

/// `PUT /api/v1/hosts/{host_id}/desired`
pub(crate) async fn put_desired(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(host_id): InPath<HostId>,
    JsonBody(state): JsonBody<DesiredState>,
) -> Result<Json<DesiredAccepted>, ApiError> {
    known(&app, &host_id).await?;
    let state = state.check()?;
    let accepted = app.store.put_desired(&host_id, &state, &session.operator, app.now()).await?;
    if accepted.changed {
        tracing::info!(
            host = %host_id, operator = %session.operator, generation = accepted.generation,
            "desired state changed"
        );
        app.live.desired_changed(&host_id);
    }
    Ok(Json(accepted))
}

/// Parameters of [`receipts`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct From {
    #[serde(default)]
    first: u64,
}

/// `GET /api/v1/hosts/{host_id}/receipts?first=N`
pub(crate) async fn receipts(
    State(app): State<App>,
    InPath(host_id): InPath<HostId>,
    InQuery(From { first }): InQuery<From>,
) -> Result<Json<ReceiptsView>, ApiError> {
    known(&app, &host_id).await?;
    let receipts = app.store.receipts(&host_id, first).await?;
    // Asked last, so that it is never less than what was just listed.
    let held = known(&app, &host_id).await?.receipts_held;
    Ok(Json(ReceiptsView { first, held, receipts }))
}
