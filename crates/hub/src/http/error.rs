//! Every way in which a request can fail, and what the client is told. This is the only place
//! where failures become HTTP status codes.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::api::ApiFailure;
use protocol::desired::DesiredError;

use crate::operators::OperatorsError;
use crate::questions::AskError;
use crate::store::{EnrollmentError, OpenTunnelError, PolicyStoreError, StoreError, SubmitError};
use crate::tunnel::UpgradeError;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("there is nothing at this path: are tool and hub of the same version?")]
    NoSuchPath,
    #[error("this path does not have this method: are tool and hub of the same version?")]
    WrongMethod,
    #[error("a token is needed: log in with `writ login`")]
    NoToken,
    #[error("the token is not valid (any more): log in with `writ login`")]
    BadToken,
    #[error("the request cannot be read: {0}")]
    BadRequest(String),
    #[error("the request's body is larger than {max} bytes: send less", max = super::request::MAX_BODY)]
    TooLarge,
    #[error("the request did not arrive in time: send it again")]
    Slow,
    #[error("too many logins are under way: try again in a minute")]
    Busy,
    #[error("the login cannot be read: are tool and hub of the same version?")]
    BadLogin,
    #[error("the login's challenge is unknown, used or older than a minute: log in again")]
    BadChallenge,
    #[error("key {0} may not log in here: add it to the hub's operators file")]
    UnknownOperator(protocol::Fingerprint),
    #[error("the login names another hub's TLS key: somebody may be relaying it; check the hub's pin")]
    OtherHub,
    #[error("the login's signature is not valid: sign the challenge again")]
    BadSignature,
    #[error("the login does not count: {0}")]
    Unaccepted(#[source] authz::sshsig::SigError),
    #[error("the hub cannot read its operators file: its administrator finds the reason in the hub's log")]
    Operators(#[source] OperatorsError),
    #[error("the code must expire within 7 days and not at once: choose another expires_in_s")]
    BadExpiry,
    #[error("the policy must have 1 to {max} bytes: correct it", max = authz::policy::MAX_BYTES)]
    BadPolicySize,
    #[error("{0}")]
    BadAnswer(&'static str),
    #[error(
        "the enrollment must be finished over TLS with the device key that it names: the client certificate is another one"
    )]
    WrongDevice,
    #[error(
        "the statement does not say what the host answered ({0} differs): sign the answer that is waiting"
    )]
    OtherStatement(&'static str),
    #[error("the statement cannot be read: was it made by another version?")]
    BadStatement,
    #[error("the statement is not signed by a key of yours: sign it with the key that you logged in with")]
    NotYourStatement,
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    #[error("there is no host {0}: list them with `writ hosts`")]
    NoSuchHost(protocol::HostId),
    #[error("host {0} has no desired state: set one with `writ apply`")]
    NoDesired(protocol::HostId),
    #[error("there is no order {0} for this host: list them or submit it")]
    NoSuchOrder(protocol::Sha256),
    #[error("the hub has no checkpoint of the log of host {0} yet: has the host connected since?")]
    NoCheckpoint(protocol::HostId),
    #[error("the hub holds {held} entries of this log, and there is no such proof about them: ask for less")]
    NoProof { held: u64 },
    #[error("this is no order: {0}")]
    BadOrder(&'static str),
    #[error(transparent)]
    Desired(#[from] DesiredError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Policy(#[from] PolicyStoreError),
    #[error(
        "this device key is not known here: enroll the host with `writ-agent enroll`, and connect with its device key as TLS client certificate"
    )]
    UnknownDevice,
    #[error("this path wants a WebSocket: does a proxy in between drop the upgrade?")]
    NotAWebSocket,
    #[error("host {0} is not connected to the hub: a session needs it now; see `writ hosts`")]
    Offline(protocol::HostId),
    #[error("this is no question: it names too much, or its draft is longer than an order can be")]
    BadQuestion,
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    OpenTunnel(#[from] OpenTunnelError),
    #[error("there is no tunnel {0} for you, or it is closed: list them with `writ sessions HOST`")]
    NoSuchTunnel(protocol::TunnelId),
    #[error("this end of tunnel {0} has its data connection already: open another session")]
    TunnelTaken(protocol::TunnelId),
    #[error(
        "this path wants an HTTP/1.1 upgrade to {}: does a proxy in between drop it, or is the tool of another version?",
        protocol::tunnel::UPGRADE
    )]
    NotATunnel(#[from] UpgradeError),
    #[error("the hub is stopping: try again in a minute")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the hub cannot get random numbers: its administrator finds the reason in the hub's log")]
    Random(#[source] getrandom::Error),
}

impl ApiError {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::NoSuchPath => (S::NOT_FOUND, "not_found"),
            Self::WrongMethod => (S::METHOD_NOT_ALLOWED, "wrong_method"),
            Self::NoToken => (S::UNAUTHORIZED, "no_token"),
            Self::BadToken => (S::UNAUTHORIZED, "bad_token"),
            Self::BadRequest(_) => (S::BAD_REQUEST, "bad_request"),
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Slow => (S::REQUEST_TIMEOUT, "slow"),
            Self::Busy => (S::TOO_MANY_REQUESTS, "busy"),
            Self::BadLogin => (S::BAD_REQUEST, "bad_login"),
            Self::BadChallenge => (S::UNAUTHORIZED, "bad_challenge"),
            Self::UnknownOperator(_) => (S::FORBIDDEN, "unknown_operator"),
            Self::OtherHub => (S::FORBIDDEN, "other_hub"),
            Self::BadSignature => (S::FORBIDDEN, "bad_signature"),
            Self::Unaccepted(_) => (S::FORBIDDEN, "unaccepted_signature"),
            Self::Operators(_) => (S::SERVICE_UNAVAILABLE, "operators"),
            Self::BadExpiry => (S::UNPROCESSABLE_ENTITY, "bad_expiry"),
            Self::BadPolicySize => (S::UNPROCESSABLE_ENTITY, "bad_policy"),
            Self::BadAnswer(_) => (S::UNPROCESSABLE_ENTITY, "bad_answer"),
            Self::WrongDevice => (S::FORBIDDEN, "wrong_device"),
            Self::OtherStatement(_) => (S::UNPROCESSABLE_ENTITY, "other_statement"),
            Self::BadStatement => (S::UNPROCESSABLE_ENTITY, "bad_statement"),
            Self::NotYourStatement => (S::FORBIDDEN, "not_your_statement"),
            Self::Enrollment(error) => match error {
                EnrollmentError::Unknown => (S::NOT_FOUND, "no_such_enrollment"),
                EnrollmentError::UnknownCode => (S::NOT_FOUND, "unknown_code"),
                EnrollmentError::Expired => (S::GONE, "expired"),
                EnrollmentError::Used => (S::CONFLICT, "used"),
                EnrollmentError::Exists => (S::CONFLICT, "exists"),
                EnrollmentError::NotWaiting(_) => (S::CONFLICT, "not_waiting"),
                EnrollmentError::NameTaken(_) => (S::CONFLICT, "name_taken"),
                EnrollmentError::OtherHostKey(_) => (S::CONFLICT, "other_host_key"),
                EnrollmentError::DeviceTaken => (S::CONFLICT, "device_taken"),
                EnrollmentError::Store(_) => (S::INTERNAL_SERVER_ERROR, "storage"),
            },
            Self::NoSuchHost(_) => (S::NOT_FOUND, "no_such_host"),
            Self::NoDesired(_) => (S::NOT_FOUND, "no_desired_state"),
            Self::NoSuchOrder(_) => (S::NOT_FOUND, "no_such_order"),
            Self::NoCheckpoint(_) => (S::NOT_FOUND, "no_checkpoint"),
            Self::NoProof { .. } => (S::NOT_FOUND, "no_proof"),
            Self::BadOrder(_) => (S::UNPROCESSABLE_ENTITY, "bad_order"),
            Self::Desired(_) => (S::UNPROCESSABLE_ENTITY, "bad_desired_state"),
            Self::Submit(error) => match error {
                SubmitError::Full | SubmitError::FullOfScripts => (S::TOO_MANY_REQUESTS, "queue_full"),
                SubmitError::Session => (S::CONFLICT, "is_a_session"),
                SubmitError::Store(_) => (S::INTERNAL_SERVER_ERROR, "storage"),
            },
            Self::Policy(error) => match error {
                PolicyStoreError::Full => (S::TOO_MANY_REQUESTS, "policy_full"),
                PolicyStoreError::Store(_) => (S::INTERNAL_SERVER_ERROR, "storage"),
            },
            Self::Offline(_) => (S::CONFLICT, "offline"),
            Self::BadQuestion => (S::UNPROCESSABLE_ENTITY, "bad_question"),
            Self::Ask(error) => match error {
                AskError::Offline(_) => (S::CONFLICT, "offline"),
                AskError::TooOld(_) => (S::CONFLICT, "agent_too_old"),
                AskError::ManyOfOperator | AskError::ManyOfHost(_) => (S::TOO_MANY_REQUESTS, "busy"),
                AskError::Rate(_) => (S::TOO_MANY_REQUESTS, "rate"),
                AskError::ChannelEnded(_) => (S::BAD_GATEWAY, "channel_ended"),
                AskError::NoAnswer { .. } => (S::GATEWAY_TIMEOUT, "no_answer"),
                AskError::Stopping => (S::SERVICE_UNAVAILABLE, "stopping"),
            },
            Self::OpenTunnel(error) => match error {
                OpenTunnelError::Exists(_) => (S::CONFLICT, "session_exists"),
                OpenTunnelError::Ordinary => (S::CONFLICT, "is_no_session"),
                OpenTunnelError::Store(_) => (S::INTERNAL_SERVER_ERROR, "storage"),
            },
            Self::NoSuchTunnel(_) => (S::NOT_FOUND, "no_such_tunnel"),
            Self::TunnelTaken(_) => (S::CONFLICT, "tunnel_taken"),
            Self::NotATunnel(_) => (S::UPGRADE_REQUIRED, "not_a_tunnel"),
            Self::Store(_) => (S::INTERNAL_SERVER_ERROR, "storage"),
            Self::UnknownDevice => (S::FORBIDDEN, "unknown_device"),
            Self::NotAWebSocket => (S::UPGRADE_REQUIRED, "not_a_websocket"),
            Self::Stopping => (S::SERVICE_UNAVAILABLE, "stopping"),
            Self::Random(_) => (S::INTERNAL_SERVER_ERROR, "random"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        if status.is_server_error() {
            // Only here are the causes spelled out; they are ours and hold no payloads.
            tracing::error!(code, error = %Chain(&self), "request failed");
        } else {
            tracing::debug!(code, %status, "request refused");
        }
        let failure = ApiFailure { code: code.to_owned(), message: self.to_string() };
        let mut response = (status, Json(failure)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let bearer = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        if let Self::NotATunnel(_) = self {
            // RFC 9110 section 15.5.22: 426 names what is wanted.
            let wanted = header::HeaderValue::from_static(protocol::tunnel::UPGRADE);
            response.headers_mut().insert(header::UPGRADE, wanted);
        }
        response
    }
}

/// An error with all its sources, for logs and for `main`.
#[derive(Debug)]
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let says = error.to_string();
            // A transparent error has its source's words; once is enough.
            if says != said {
                write!(f, ": {says}")?;
                said = says;
            }
            next = error.source();
        }
        Ok(())
    }
}
