//! Enrollment, both sides: operators make codes and vouch for hosts, agents use codes. The hub
//! compares and stores; whom to believe is decided by the operator's tool and by the host.

use authz::{Namespace, statement};
use axum::extract::State;
use axum::{Extension, Json};
use protocol::api::{
    EnrollBegin, EnrollFinish, EnrollFinished, EnrollPolicy, EnrollmentApprove, EnrollmentCreated,
    EnrollmentNew, EnrollmentState, EnrollmentView,
};
use protocol::enroll::{EnrollmentAnswer, HostStatement};
use protocol::{Sha256, Signed};

use super::ApiError;
use super::request::{InPath, JsonBody};
use crate::app::App;
use crate::live::Closing;
use crate::operators::Entry;
use crate::store::{EnrollmentError, NewEnrollment, Session};
use crate::tls::DeviceKey;

/// Longest time that a code is good for, in seconds.
const MAX_EXPIRY_S: u64 = 7 * 24 * 3_600;
/// Longest name that a machine may give itself, in bytes.
const MAX_HOSTNAME: usize = 255;

/// `POST /api/v1/enrollments`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    JsonBody(new): JsonBody<EnrollmentNew>,
) -> Result<Json<EnrollmentCreated>, ApiError> {
    let EnrollmentNew { secret_sha256, policy, expires_in_s } = new;
    if !(1..=MAX_EXPIRY_S).contains(&expires_in_s) {
        return Err(ApiError::BadExpiry);
    }
    if !(1..=authz::policy::MAX_BYTES).contains(&policy.0.len()) {
        return Err(ApiError::BadPolicySize);
    }
    let now = app.now();
    let expires_at = now + expires_in_s;
    let new = NewEnrollment { secret_sha256, policy: &policy.0, created_by: &session.operator, expires_at };
    let id = app.store.add_enrollment(&new, now).await?;
    tracing::info!(enrollment = id, operator = %session.operator, "enrollment code made");
    Ok(Json(EnrollmentCreated { id, expires_at }))
}

/// `GET /api/v1/enrollments`
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<EnrollmentView>>, ApiError> {
    let enrollments = app.store.enrollments(app.now()).await?;
    Ok(Json(enrollments.into_iter().map(|enrollment| enrollment.view).collect()))
}

/// `GET /api/v1/enrollments/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    InPath(id): InPath<u64>,
) -> Result<Json<EnrollmentView>, ApiError> {
    let enrollment = app.store.enrollment(id, app.now()).await?.ok_or(EnrollmentError::Unknown)?;
    Ok(Json(enrollment.view))
}

/// `POST /api/v1/enrollments/{id}/approve`
pub(crate) async fn approve(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(id): InPath<u64>,
    JsonBody(EnrollmentApprove { statement: signed }): JsonBody<EnrollmentApprove>,
) -> Result<Json<EnrollmentView>, ApiError> {
    let now = app.now();
    let enrollment = app.store.enrollment(id, now).await?.ok_or(EnrollmentError::Unknown)?;
    check_signer(&app, &session, &signed)?;
    let statement = statement::read_host_unverified(&signed).map_err(|_| ApiError::BadStatement)?;
    if let Some(answer) = &enrollment.view.answer {
        compare(&statement, answer)?;
    }
    app.store.approve_enrollment(id, &signed, &statement, now).await?;
    tracing::info!(
        enrollment = id, operator = %session.operator, host = %statement.host_id, name = %statement.name,
        "host approved"
    );
    // A channel under the device key of before is not this host's any more.
    app.live.close(&statement.host_id, Closing::new("the host was enrolled again: connect anew", 1));
    app.live.enrollment_changed();
    show(State(app), InPath(id)).await
}

/// The statement must be the caller's own, so that the hub's list of who vouched for what is true.
/// Nobody else relies on this check: tools and hosts verify statements themselves.
fn check_signer(app: &App, session: &Session, signed: &Signed) -> Result<(), ApiError> {
    let operators = app.operators.current().map_err(ApiError::Operators)?;
    statement::verify_known(signed, Namespace::Enroll, app.now(), |claim| {
        operators.find(claim).filter(|entry| *entry.name() == session.operator).map(Entry::standing)
    })
    .map(drop)
    .map_err(|_| ApiError::NotYourStatement)
}

fn compare(statement: &HostStatement, answer: &EnrollmentAnswer) -> Result<(), ApiError> {
    let differs = [
        (statement.v != 1, "v"),
        (statement.host_id != answer.host_id, "host_id"),
        (statement.host_key != answer.host_key, "host_key"),
        (statement.host_key_gen != answer.host_key_gen, "host_key_gen"),
        (statement.device_key != answer.device_key, "device_key"),
        (statement.policy != answer.policy, "policy"),
    ];
    match differs.iter().find(|(differs, _)| *differs) {
        Some((_, field)) => Err(ApiError::OtherStatement(field)),
        None => Ok(()),
    }
}

/// `POST /api/v1/enrollments/{id}/reject`
pub(crate) async fn reject(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    InPath(id): InPath<u64>,
) -> Result<Json<EnrollmentView>, ApiError> {
    app.store.reject_enrollment(id, app.now()).await?;
    tracing::info!(enrollment = id, operator = %session.operator, "enrollment rejected");
    app.live.enrollment_changed();
    show(State(app), InPath(id)).await
}

/// `POST /agent/v1/enroll/begin`
pub(crate) async fn begin(
    State(app): State<App>,
    JsonBody(EnrollBegin { secret }): JsonBody<EnrollBegin>,
) -> Result<Json<EnrollPolicy>, ApiError> {
    let found = app.store.enrollment_by_secret(&Sha256::of(&secret.0), app.now()).await?;
    let enrollment = found.ok_or(EnrollmentError::UnknownCode)?;
    match enrollment.view.state {
        EnrollmentState::WaitingForHost => Ok(Json(EnrollPolicy { policy: enrollment.policy })),
        EnrollmentState::Expired => Err(EnrollmentError::Expired.into()),
        EnrollmentState::WaitingForApproval | EnrollmentState::Approved | EnrollmentState::Rejected => {
            Err(EnrollmentError::Used.into())
        }
    }
}

/// `POST /agent/v1/enroll/finish`
pub(crate) async fn finish(
    State(app): State<App>,
    device: Option<Extension<DeviceKey>>,
    JsonBody(EnrollFinish { secret, answer }): JsonBody<EnrollFinish>,
) -> Result<Json<EnrollFinished>, ApiError> {
    if device.map(|Extension(DeviceKey(key))| key) != Some(answer.device_key) {
        return Err(ApiError::WrongDevice);
    }
    let (secret, now) = (Sha256::of(&secret.0), app.now());
    let enrollment = app.store.enrollment_by_secret(&secret, now).await?;
    let expected = enrollment.ok_or(EnrollmentError::UnknownCode)?.view.policy;
    check_answer(&answer, &expected)?;
    let (id, state) = app.store.answer_enrollment(&secret, &answer, now).await?;
    tracing::info!(enrollment = id, host = %answer.host_id, "host answered an enrollment code");
    Ok(Json(EnrollFinished { id, state }))
}

/// Only what would be nonsense to show to an operator; the proof is the operator's to check.
fn check_answer(answer: &EnrollmentAnswer, policy: &Sha256) -> Result<(), ApiError> {
    if answer.v != 1 {
        return Err(ApiError::BadAnswer("the answer's version is not 1: update agent or hub"));
    }
    if answer.policy != *policy {
        return Err(ApiError::BadAnswer(
            "the answer accepts another policy than the code's: use another code",
        ));
    }
    if answer.hostname.len() > MAX_HOSTNAME {
        return Err(ApiError::BadAnswer("the machine's name is longer than 255 bytes: shorten it"));
    }
    if authz::PublicKey::try_from(answer.host_key).is_err() {
        return Err(ApiError::BadAnswer("the host key is malformed or weak: make a new one on the host"));
    }
    Ok(())
}
