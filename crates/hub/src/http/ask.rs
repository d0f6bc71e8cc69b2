//! Questions to a host's warden. Nothing of them is kept.

use axum::extract::State;
use axum::{Extension, Json};
use protocol::HostId;
use protocol::ask::{Question, Reply};

use super::ApiError;
use super::hosts::known;
use super::request::{InPath, JsonBody};
use crate::app::App;
use crate::store::Session;

/// `POST /api/v1/hosts/{host_id}/ask`
pub(crate) async fn ask(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(host_id): InPath<HostId>,
    JsonBody(question): JsonBody<Question>,
) -> Result<Json<Reply>, ApiError> {
    if !question.is_bounded() {
        return Err(ApiError::BadQuestion);
    }
    known(&app, &host_id).await?;
    Ok(Json(app.questions.ask(&app, &host_id, &session.operator, question).await?))
}
