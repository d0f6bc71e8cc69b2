//! One error for every call: what was asked, what happened, and what to do about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::value::upid::Upid;
use crate::wire::classify::{ErrorClass, classify, is_lost_behind_a_proxy};
use crate::wire::tls::PinMismatch;

/// Whether a failed request may have had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It never reached the Proxmox handler. Sending it later is safe.
    NotSent,
    /// It was sent and no complete answer came. A mutation may have happened: look, do not resend.
    MaybeExecuted,
    /// Proxmox answered, and this is its answer.
    Answered,
}

/// What Proxmox said, when it said something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) errors: BTreeMap<String, String>,
}

impl Answer {
    /// The best text there is; before http-server 5.2.0 only the reason phrase carries one.
    pub(crate) fn text(&self) -> &str {
        self.message.as_deref().or(self.reason.as_deref()).unwrap_or_default()
    }

    pub(crate) fn class(&self) -> ErrorClass {
        classify(self.status, self.text(), &self.errors)
    }
}

/// Whether a request that was answered with this status may have had an effect.
pub(crate) const fn delivery(status: u16) -> Delivery {
    match status {
        // 595: the proxy could not connect to the node or daemon (`pve/facts.md` 3.8).
        595 => Delivery::NotSent,
        _ if is_lost_behind_a_proxy(status) => Delivery::MaybeExecuted,
        _ => Delivery::Answered,
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// A status other than 2xx.
    Answer(Answer),
    /// The circuit breaker is open after a 401.
    Paused { reason: Option<String>, seconds: u64 },
    /// The certificates match no pin.
    Pin(PinMismatch),
    /// Another TLS failure before any request was sent.
    Tls { cause: String },
    /// No connection.
    Connect { cause: String },
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// No complete answer within the request timeout.
    Timeout,
    /// The connection broke after the request went out.
    Interrupted { cause: String },
    /// A 2xx whose body is too large, or would be once it is parsed.
    TooLarge { what: String },
    /// A 2xx whose body is not what the API promises.
    BadAnswer { why: String },
    /// A 2xx that names the task of another request.
    WrongTask { upid: Box<Upid>, why: String },
    /// Refused here, before sending.
    Invalid { why: String },
}

/// Context shared by every failure of one call.
#[derive(Debug, Clone)]
struct Call {
    method: String,
    path: String,
    endpoint: Arc<str>,
    identity: Arc<str>,
    failure: Failure,
}

/// A failed API call. Its text is one sentence with the remedy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.0.sentence())]
pub struct ApiError(Box<Call>);

impl ApiError {
    pub(crate) fn new(
        method: &str,
        path: &str,
        endpoint: &Arc<str>,
        identity: &Arc<str>,
        failure: Failure,
    ) -> Self {
        Self(Box::new(Call {
            method: method.to_owned(),
            path: path.to_owned(),
            endpoint: Arc::clone(endpoint),
            identity: Arc::clone(identity),
            failure,
        }))
    }

    pub(crate) fn failure(&self) -> &Failure {
        &self.0.failure
    }

    fn answer(&self) -> Option<&Answer> {
        match &self.0.failure {
            Failure::Answer(answer) => Some(answer),
            Failure::Paused { .. }
            | Failure::Pin(_)
            | Failure::Tls { .. }
            | Failure::Connect { .. }
            | Failure::ConnectTimeout
            | Failure::Timeout
            | Failure::Interrupted { .. }
            | Failure::TooLarge { .. }
            | Failure::BadAnswer { .. }
            | Failure::WrongTask { .. }
            | Failure::Invalid { .. } => None,
        }
    }

    /// `GET`, `POST`, `PUT` or `DELETE`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// The path below `/api2/json`, as sent (percent-encoded).
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The HTTP status, if there was an answer that was not a success.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.answer().map(|answer| answer.status)
    }

    /// The reason phrase, where it says more than the status.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.answer().and_then(|answer| answer.reason.as_deref())
    }

    /// The `message` of the error body.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.answer().and_then(|answer| answer.message.as_deref())
    }

    /// The `errors` map of a 400: parameter to text.
    #[must_use]
    pub fn errors(&self) -> Option<&BTreeMap<String, String>> {
        self.answer().map(|answer| &answer.errors)
    }

    /// The fingerprints, if the server matched no pin.
    #[must_use]
    pub fn pin_mismatch(&self) -> Option<&PinMismatch> {
        if let Failure::Pin(mismatch) = &self.0.failure { Some(mismatch) } else { None }
    }

    /// Whether the request may have had an effect.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        match &self.0.failure {
            Failure::Answer(answer) => delivery(answer.status),
            Failure::Paused { .. }
            | Failure::Pin(_)
            | Failure::Tls { .. }
            | Failure::Connect { .. }
            | Failure::ConnectTimeout
            | Failure::Invalid { .. } => Delivery::NotSent,
            Failure::Timeout
            | Failure::Interrupted { .. }
            | Failure::TooLarge { .. }
            | Failure::BadAnswer { .. }
            | Failure::WrongTask { .. } => Delivery::MaybeExecuted,
        }
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.0.class()
    }
}

impl Call {
    fn class(&self) -> ErrorClass {
        match &self.failure {
            Failure::Answer(answer) => answer.class(),
            Failure::Paused { .. } => ErrorClass::Auth,
            Failure::Pin(_) | Failure::Tls { .. } => ErrorClass::Untrusted,
            Failure::Connect { .. } | Failure::ConnectTimeout => ErrorClass::NodeUnreachable,
            Failure::Timeout | Failure::Interrupted { .. } => ErrorClass::Ambiguous,
            Failure::TooLarge { .. } | Failure::BadAnswer { .. } | Failure::WrongTask { .. } => {
                ErrorClass::Other
            }
            Failure::Invalid { .. } => ErrorClass::Parameter,
        }
    }

    fn sentence(&self) -> String {
        let call = format!("{} {}", self.method, self.path);
        let endpoint = &self.endpoint;
        match &self.failure {
            Failure::Answer(answer) => self.answer_sentence(&call, answer),
            Failure::Paused { reason, seconds } => format!(
                "{call}: not sent, because {endpoint} refused the API token {}{} a moment ago: {}; calls resume in {seconds} s",
                self.identity,
                reason.as_deref().map(|reason| format!(" ({})", one_line(reason))).unwrap_or_default(),
                self.token_remedy(),
            ),
            Failure::Pin(mismatch) => format!("{call}: refused to talk to {endpoint}: {mismatch}"),
            Failure::Tls { cause } => format!(
                "{call}: the TLS handshake with {endpoint} failed ({}): the server does not prove the key of its certificate or speaks no TLS 1.2 or later; find out what answers on that port before anything else",
                one_line(cause)
            ),
            Failure::Connect { cause } => format!(
                "{call}: cannot connect to {endpoint} ({}): check the address, and on the node `systemctl status pveproxy`",
                one_line(cause)
            ),
            Failure::ConnectTimeout => format!(
                "{call}: {endpoint} did not take the connection within 5 s: check that the node is up and that no firewall drops port 8006"
            ),
            Failure::Timeout => format!(
                "{call}: {endpoint} gave no answer within 35 s: the request may still be carried out, so look at the node's tasks before trying again"
            ),
            Failure::Interrupted { cause } => format!(
                "{call}: the connection to {endpoint} broke before the answer was complete ({}): the request may have been carried out, so look at the node's tasks before trying again",
                one_line(cause)
            ),
            Failure::TooLarge { what } => {
                format!("{call}: the answer of {endpoint} {what} and was dropped: ask for less at a time")
            }
            Failure::BadAnswer { why } => format!(
                "{call}: {endpoint} answered something this client does not understand ({}): check that it really is a Proxmox VE 8 or 9 node",
                one_line(why)
            ),
            Failure::WrongTask { upid, why } => format!(
                "{call}: {endpoint} answered with the task {upid}, which is not this request's ({}): do not wait for it; the request may have been carried out, so look at the node's tasks before trying again",
                one_line(why)
            ),
            Failure::Invalid { why } => format!("{call}: not sent: {}", one_line(why)),
        }
    }

    fn answer_sentence(&self, call: &str, answer: &Answer) -> String {
        let (status, text) = (answer.status, one_line(answer.text()));
        match self.class() {
            ErrorClass::Auth => format!(
                "{call}: {} refused the API token {} ({status} {text}): {}",
                self.endpoint,
                self.identity,
                self.token_remedy()
            ),
            ErrorClass::Permission { path, privilege } if !path.is_empty() => format!(
                "{call}: the API token {} lacks {} on {}: grant it to the user and to the token, for example with `pveum acl modify {} --tokens '{}' --roles ROLE` (a token with privilege separation has only what both have)",
                self.identity,
                one_line(&privilege),
                one_line(&path),
                one_line(&path),
                self.identity,
            ),
            ErrorClass::Permission { .. } => format!(
                "{call}: not allowed for the API token {} ({status} {text}): compare `pveum user token permissions` with what this needs; some methods are closed to every token",
                self.identity
            ),
            ErrorClass::Parameter => {
                let mut list: Vec<String> = answer
                    .errors
                    .iter()
                    .map(|(name, text)| format!("{}: {}", one_line(name), one_line(text)))
                    .collect();
                if list.is_empty() {
                    list.push(text);
                }
                format!("{call}: Proxmox refused a parameter ({}): correct it", list.join("; "))
            }
            ErrorClass::NoSuchMethod => format!(
                "{call}: this Proxmox version has no such method ({text}): check `pveversion`; Writ needs Proxmox VE 8 or 9"
            ),
            ErrorClass::NotFound => {
                let text = answer.errors.get("upid").map_or(text, |upid| one_line(upid));
                format!(
                    "{call}: not found ({text}): check the number or name; it may have been removed or moved to another node"
                )
            }
            ErrorClass::Locked { by } => format!(
                "{call}: the guest is locked ({}): wait for that operation to end; a lock left by a crash can only be cleared by root on the host (`qm unlock` or `pct unlock`)",
                one_line(&by)
            ),
            ErrorClass::Busy => {
                format!("{call}: another operation holds the guest's config ({text}): try again in a moment")
            }
            ErrorClass::NoQuorum => {
                format!(
                    "{call}: the cluster has no quorum, so nothing can be changed ({text}): bring the other nodes back (`pvecm status`)"
                )
            }
            ErrorClass::DigestMismatch => {
                format!(
                    "{call}: the config was changed by someone else since it was read ({text}): read it again and decide anew"
                )
            }
            ErrorClass::NodeUnreachable => format!(
                "{call}: {} could not reach the target node or daemon ({status} {text}): check that the node is online and `systemctl status pvedaemon`",
                self.endpoint
            ),
            ErrorClass::Ambiguous => format!(
                "{call}: {} lost the answer ({status} {text}): the request may have been carried out, so look at the node's tasks before trying again",
                self.endpoint
            ),
            ErrorClass::Untrusted | ErrorClass::Other => {
                format!(
                    "{call}: Proxmox answered {status} {text}: see the node's task log and `journalctl -u pvedaemon -u pveproxy`"
                )
            }
        }
    }

    fn token_remedy(&self) -> String {
        let user = self.identity.split('!').next().unwrap_or_default();
        format!(
            "check that the token exists, has not expired and its user is enabled (`pveum user token list {user}`), and that the token file holds its current secret"
        )
    }
}

/// Server text as part of a sentence: no control characters, no endless lines.
fn one_line(text: &str) -> String {
    let flat: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect();
    flat.trim_end().to_owned()
}

/// The client could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// rustls refused the configuration.
    #[error("cannot set up TLS for the Proxmox client; this is a fault of the program, please report it")]
    Tls(#[source] rustls::Error),
    /// reqwest refused the configuration.
    #[error("cannot set up the Proxmox client; this is a fault of the program, please report it")]
    Http(#[source] reqwest::Error),
    /// The token cannot be a header.
    #[error(
        "the API token holds characters that cannot be sent in a header: create it again with `pveum user token add`"
    )]
    Token,
}
