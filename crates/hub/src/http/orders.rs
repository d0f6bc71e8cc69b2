//! Orders: taken, handed on, and what came back. The hub looks at sizes only; whether an order is
//! good is decided on the host.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use protocol::api::{OrderAccepted, OrderView};
use protocol::{Envelope, HostId, Sha256};
use serde::Deserialize;
use tokio::time::Instant;

use super::ApiError;
use super::hosts::known;
use super::request::{InPath, InQuery, JsonBody};
use crate::app::App;
use crate::store::Session;

/// Longest wait for news, in seconds.
const MAX_WAIT_S: u64 = 30;

/// `POST /api/v1/hosts/{host_id}/orders`
pub(crate) async fn submit(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(host_id): InPath<HostId>,
    JsonBody(envelope): JsonBody<Envelope>,
) -> Result<Json<OrderAccepted>, ApiError> {
    check_size(&envelope)?;
    known(&app, &host_id).await?;
    let op = envelope.id();
    let version = app.store.submit_order(&host_id, &envelope, &session.operator, app.now()).await?;
    tracing::info!(host = %host_id, %op, operator = %session.operator, version, "order submitted");
    app.live.order_submitted(&host_id);
    Ok(Json(OrderAccepted { op, version, online: app.live.online(&host_id) }))
}

pub(super) fn check_size(envelope: &Envelope) -> Result<(), ApiError> {
    if !(1..=Envelope::MAX_PAYLOAD).contains(&envelope.payload.0.len()) {
        return Err(ApiError::BadOrder("its payload must have 1 to 65536 bytes"));
    }
    if !(1..=Envelope::MAX_SIGNATURES).contains(&envelope.sigs.len()) {
        return Err(ApiError::BadOrder("it must carry 1 to 8 signatures"));
    }
    if envelope.sigs.iter().any(|sig| sig.is_empty() || sig.len() > Envelope::MAX_ARMOR) {
        return Err(ApiError::BadOrder("a signature must have 1 to 16384 bytes"));
    }
    if envelope.sealed.as_ref().is_some_and(|sealed| !(1..=Envelope::MAX_SEALED).contains(&sealed.0.len())) {
        return Err(ApiError::BadOrder("its sealed part must have 1 to 266240 bytes"));
    }
    Ok(())
}

/// `GET /api/v1/hosts/{host_id}/orders`
pub(crate) async fn list(
    State(app): State<App>,
    InPath(host_id): InPath<HostId>,
) -> Result<Json<Vec<OrderView>>, ApiError> {
    known(&app, &host_id).await?;
    let online = app.live.online(&host_id);
    let orders = app.store.orders(&host_id).await?;
    Ok(Json(orders.into_iter().map(|order| OrderView { online, ..order }).collect()))
}

/// Parameters of [`show`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_s: u64,
}

/// `GET /api/v1/hosts/{host_id}/orders/{op}?after=VERSION&wait_s=N`
pub(crate) async fn show(
    State(app): State<App>,
    InPath((host_id, op)): InPath<(HostId, Sha256)>,
    InQuery(Wait { after, wait_s }): InQuery<Wait>,
) -> Result<Json<OrderView>, ApiError> {
    known(&app, &host_id).await?;
    let until = Instant::now() + Duration::from_secs(wait_s.min(MAX_WAIT_S));
    // Before the first look, so that nothing can happen unnoticed between look and wait.
    let mut changed = app.live.watch_orders(&host_id);
    let mut stop = app.live.watch_stop();
    loop {
        let version = app.store.order_version(&host_id, &op).await?.ok_or(ApiError::NoSuchOrder(op))?;
        if version > after || *stop.borrow() || Instant::now() >= until {
            break;
        }
        tokio::select! {
            _ = changed.changed() => {}
            _ = stop.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
    let order = app.store.order(&host_id, &op).await?.ok_or(ApiError::NoSuchOrder(op))?;
    Ok(Json(OrderView { online: app.live.online(&host_id), ..order }))
}
