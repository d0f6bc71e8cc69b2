//! Checkpoints of the hosts' logs and proofs about them, for operators' tools to judge.

use authz::merkle::Plan;
use axum::Json;
use axum::extract::State;
use protocol::HostId;
use protocol::api::{LogCheckpoint, LogProof};
use serde::Deserialize;

use super::ApiError;
use super::hosts::known;
use super::request::{InPath, InQuery};
use crate::app::App;

/// `GET /api/v1/hosts/{host_id}/log/checkpoint`
pub(crate) async fn checkpoint(
    State(app): State<App>,
    InPath(host_id): InPath<HostId>,
) -> Result<Json<LogCheckpoint>, ApiError> {
    known(&app, &host_id).await?;
    let checkpoint = app.store.checkpoint(&host_id).await?.ok_or(ApiError::NoCheckpoint(host_id))?;
    Ok(Json(LogCheckpoint { checkpoint }))
}

/// Parameters of [`proof`]: one of `entry` and `from`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    entry: Option<u64>,
    from: Option<u64>,
    size: u64,
}

/// `GET /api/v1/hosts/{host_id}/log/proof?entry=N&size=S`, or `?from=A&size=S`
pub(crate) async fn proof(
    State(app): State<App>,
    InPath(host_id): InPath<HostId>,
    InQuery(Question { entry, from, size }): InQuery<Question>,
) -> Result<Json<LogProof>, ApiError> {
    let held = known(&app, &host_id).await?.receipts_held;
    if size > held {
        return Err(ApiError::NoProof { held });
    }
    let plan = match (entry, from) {
        (Some(entry), None) => Plan::inclusion(entry, size),
        (None, Some(from)) => Plan::consistency(from, size),
        _ => return Err(ApiError::BadRequest("name an entry, or from which size".to_owned())),
    };
    let plan = plan.ok_or(ApiError::NoProof { held })?;
    Ok(Json(LogProof { hashes: app.store.log_hashes(&host_id, &plan).await? }))
}
