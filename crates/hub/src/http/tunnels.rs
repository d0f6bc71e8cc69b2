//! Tunnels: asked for, looked at, closed, and the data connections of both ends.

use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Extension, Json};
use protocol::api::{TunnelAnswer, TunnelView};
use protocol::{Envelope, HostId, TunnelId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ApiError;
use super::hosts::known;
use super::orders::check_size;
use super::request::{InPath, JsonBody};
use crate::app::{App, AppInner};
use crate::store::{NewTunnel, Relayed, Session};
use crate::tls::DeviceKey;
use crate::tunnel::{self, ConnectError};

/// `POST /api/v1/hosts/{host_id}/tunnels`
pub(crate) async fn open(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(host_id): InPath<HostId>,
    JsonBody(envelope): JsonBody<Envelope>,
) -> Result<Json<TunnelAnswer>, ApiError> {
    check_size(&envelope)?;
    if envelope.sealed.is_some() {
        return Err(ApiError::BadOrder("an order for a session carries nothing sealed"));
    }
    known(&app, &host_id).await?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(ApiError::Random)?;
    let Session { operator, key, .. } = session;
    let new = NewTunnel { id: TunnelId::from_bytes(id), host_id, envelope, operator, key };
    let (sender, answer) = oneshot::channel();
    tokio::spawn(tunnel::open(app, new, sender));
    // Without an answer the task was ended, which only happens with the hub.
    answer.await.unwrap_or(Err(ApiError::Stopping)).map(Json)
}

/// An open tunnel's figures are not in its row yet.
fn now(app: &AppInner, view: TunnelView) -> TunnelView {
    match app.tunnels.relayed(&view.id) {
        Some(Relayed { to_host, from_host }) => {
            TunnelView { bytes_to_host: to_host, bytes_from_host: from_host, ..view }
        }
        None => view,
    }
}

/// `GET /api/v1/hosts/{host_id}/tunnels`
pub(crate) async fn list(
    State(app): State<App>,
    InPath(host_id): InPath<HostId>,
) -> Result<Json<Vec<TunnelView>>, ApiError> {
    known(&app, &host_id).await?;
    let tunnels = app.store.tunnels(&host_id).await?;
    Ok(Json(tunnels.into_iter().map(|view| now(&app, view)).collect()))
}

/// `GET /api/v1/tunnels/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    InPath(id): InPath<TunnelId>,
) -> Result<Json<TunnelView>, ApiError> {
    let view = app.store.tunnel(&id).await?.ok_or(ApiError::NoSuchTunnel(id))?;
    Ok(Json(now(&app, view)))
}

/// `DELETE /api/v1/tunnels/{id}`: closes one; one that is closed stays so.
pub(crate) async fn close(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(id): InPath<TunnelId>,
) -> Result<Json<TunnelView>, ApiError> {
    if let Some(mut closed) = app.tunnels.close(&id, &session.operator) {
        tracing::info!(tunnel = %id, operator = %session.operator, "a tunnel's end was asked for");
        // The row says whether it worked.
        let _ = timeout(app.limits().tunnel_drain, closed.wait_for(|closed| *closed)).await;
    }
    show(State(app), InPath(id)).await
}

/// `GET /api/v1/tunnels/{id}/data`, for the operator who opened it.
pub(crate) async fn operator_data(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(id): InPath<TunnelId>,
    request: Request,
) -> Result<Response, ApiError> {
    if !app.tunnels.is_operators(&id, &session.operator) {
        return Err(ApiError::NoSuchTunnel(id));
    }
    let (dialed, response) = tunnel::accept(request)?;
    let connected = app.tunnels.connect_operator(&id, &session.operator, dialed);
    connected.map_err(|error| refuse(error, id)).map(|()| response)
}

/// `GET /agent/v1/tunnels/{id}`, for the host that it leads to.
pub(crate) async fn host_data(
    State(app): State<App>,
    device: Option<Extension<DeviceKey>>,
    InPath(id): InPath<TunnelId>,
    request: Request,
) -> Result<Response, ApiError> {
    let Extension(DeviceKey(device)) = device.ok_or(ApiError::UnknownDevice)?;
    let host_id = app.store.host_by_device(&device).await?.ok_or(ApiError::UnknownDevice)?.host_id;
    if !app.tunnels.is_hosts(&id, &host_id) {
        return Err(ApiError::NoSuchTunnel(id));
    }
    let (dialed, response) = tunnel::accept(request)?;
    let connected = app.tunnels.connect_host(&id, &host_id, dialed);
    connected.map_err(|error| refuse(error, id)).map(|()| response)
}

fn refuse(error: ConnectError, id: TunnelId) -> ApiError {
    match error {
        ConnectError::Unknown => ApiError::NoSuchTunnel(id),
        ConnectError::Taken => ApiError::TunnelTaken(id),
    }
}
