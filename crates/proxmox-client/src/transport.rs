//! Requests out, answers in: pins, permits, the circuit breaker, caps and the retry rule.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Response, redirect};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::error::{Answer, ApiError, ClientError, Failure};
use crate::lenient;
use crate::pin::PinSet;
use crate::tls::{PinMismatch, client_config};
use crate::token::ApiToken;

/// pveproxy closes idle connections after five seconds; leave first (`pve/facts.md` 3.6).
const POOL_IDLE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The proxy inside Proxmox gives up after 30 s, so waiting longer brings nothing (3.8).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// Three workers serve a node; two requests leave one for people (3.7).
const IN_FLIGHT: usize = 2;
/// Every 401 costs three seconds on the server side (1.3).
const AUTH_PAUSE: Duration = Duration::from_secs(30);
/// No answer of the API comes near this; what does is an attack or a fault.
pub(crate) const MAX_BODY: usize = 16 * 1024 * 1024;
/// Error bodies are one sentence.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Waits before the two retries of a GET whose connection broke.
const GET_BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// Parameters, in order.
pub(crate) type Params<'a> = &'a [(&'a str, String)];

/// A successful answer's envelope.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) data: Value,
    pub(crate) total: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Transport {
    reads: reqwest::Client,
    /// Never reuses a connection: a mutation on a connection the server is about to close would
    /// turn "not sent" into "maybe executed" for nothing.
    writes: reqwest::Client,
    endpoint: Endpoint,
    shown_endpoint: Arc<str>,
    identity: Arc<str>,
    authorization: HeaderValue,
    permits: Semaphore,
    paused: Mutex<Option<Pause>>,
}

#[derive(Debug, Clone)]
struct Pause {
    until: Instant,
    reason: Option<String>,
}

impl Transport {
    pub(crate) fn new(endpoint: Endpoint, pins: PinSet, token: &ApiToken) -> Result<Self, ClientError> {
        let tls = client_config(pins).map_err(ClientError::Tls)?;
        let build = |idle: usize| {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .https_only(true)
                .http1_only()
                .no_proxy()
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle)
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(REQUEST_TIMEOUT)
                .build()
                .map_err(ClientError::Http)
        };
        let mut authorization =
            HeaderValue::from_str(&token.authorization()).map_err(|_| ClientError::Token)?;
        authorization.set_sensitive(true);
        Ok(Self {
            reads: build(IN_FLIGHT)?,
            writes: build(0)?,
            shown_endpoint: endpoint.to_string().into(),
            endpoint,
            identity: token.identity().into(),
            authorization,
            permits: Semaphore::new(IN_FLIGHT),
            paused: Mutex::new(None),
        })
    }

    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A GET; sent again, at most twice, if the connection broke under it.
    pub(crate) async fn get(&self, segments: &[&str], params: Params<'_>) -> Result<Reply, ApiError> {
        let mut backoff = GET_BACKOFF.into_iter();
        loop {
            match self.once(Method::GET, segments, params).await {
                Err(error) if matches!(error.failure(), Failure::Interrupted { .. }) => {
                    match backoff.next() {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return Err(error),
                    }
                }
                other => return other,
            }
        }
    }

    /// A mutation: sent once, whatever happens.
    pub(crate) async fn mutate(
        &self,
        method: Method,
        segments: &[&str],
        params: Params<'_>,
    ) -> Result<Reply, ApiError> {
        self.once(method, segments, params).await
    }

    /// An error about a call that is not made, or about an answer that makes no sense.
    pub(crate) fn fault(&self, method: &Method, segments: &[&str], failure: Failure) -> ApiError {
        let path = encode_path(segments).unwrap_or_else(|why| format!("({why})"));
        ApiError::new(method.as_str(), &path, &self.shown_endpoint, &self.identity, failure)
    }

    pub(crate) fn bad_answer(
        &self,
        method: &Method,
        segments: &[&str],
        why: impl std::fmt::Display,
    ) -> ApiError {
        self.fault(method, segments, Failure::BadAnswer { why: why.to_string() })
    }

    async fn once(&self, method: Method, segments: &[&str], params: Params<'_>) -> Result<Reply, ApiError> {
        let path = encode_path(segments)
            .map_err(|why| self.fault(&method, segments, Failure::Invalid { why: why.to_owned() }))?;
        let error =
            |failure| ApiError::new(method.as_str(), &path, &self.shown_endpoint, &self.identity, failure);

        self.check_pause().map_err(error)?;
        // The semaphore lives as long as `self` and is never closed.
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| error(Failure::Invalid { why: "the client was closed".to_owned() }))?;
        // The call this one waited for may just have been refused.
        self.check_pause().map_err(error)?;

        let started = Instant::now();
        let result = self.exchange(&method, &path, params).await;
        tracing::debug!(
            %method,
            path,
            ok = result.is_ok(),
            elapsed_ms = started.elapsed().as_millis(),
            "proxmox call"
        );
        result.map_err(error)
    }

    async fn exchange(&self, method: &Method, path: &str, params: Params<'_>) -> Result<Reply, Failure> {
        let url = self.endpoint.api(path);
        let client = if *method == Method::GET { &self.reads } else { &self.writes };
        let mut request =
            client.request(method.clone(), url).header(AUTHORIZATION, self.authorization.clone());
        // DELETE with a body is a 501, and chunked bodies are too (3.2); form encoding escapes `=`
        // and `;`, which Proxmox's own decoder would split at (3.3).
        request = if *method == Method::POST || *method == Method::PUT {
            request.form(params)
        } else if params.is_empty() {
            request
        } else {
            request.query(params)
        };
        let mut response = request.send().await.map_err(|error| transport_failure(&error))?;

        let status = response.status();
        if status.is_success() {
            let body = read_capped(&mut response, MAX_BODY).await?;
            return envelope(&body);
        }
        let reason = reason_phrase(&response).or_else(|| status.canonical_reason().map(str::to_owned));
        // Half an error body is better than no status at all.
        let body = read_capped(&mut response, MAX_ERROR_BODY).await.unwrap_or_default();
        let answer = error_answer(status.as_u16(), reason, &body);
        if answer.status == 401 {
            self.pause(answer.reason.clone().or_else(|| answer.message.clone()));
        }
        Err(Failure::Answer(answer))
    }

    fn check_pause(&self) -> Result<(), Failure> {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pause) = paused.as_ref() else { return Ok(()) };
        let left = pause.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            *paused = None;
            return Ok(());
        }
        Err(Failure::Paused { reason: pause.reason.clone(), seconds: left.as_secs() + 1 })
    }

    fn pause(&self, reason: Option<String>) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(Pause { until: Instant::now() + AUTH_PAUSE, reason });
    }
}

/// Joins and percent-encodes path segments. Empty and dot segments are refused: the URL would be
/// normalised, and `DELETE .../snapshot/..` is "destroy the guest".
fn encode_path(segments: &[&str]) -> Result<String, &'static str> {
    let mut path = String::new();
    for segment in segments {
        if segment.is_empty() || *segment == "." || *segment == ".." {
            return Err("a path segment is empty or a dot segment");
        }
        path.push('/');
        for byte in segment.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    path.push(char::from(byte))
                }
                // Writing to a String cannot fail.
                _ => drop(write!(path, "%{byte:02X}")),
            }
        }
    }
    Ok(path)
}

fn reason_phrase(response: &Response) -> Option<String> {
    let reason = response.extensions().get::<hyper::ext::ReasonPhrase>()?;
    Some(String::from_utf8_lossy(reason.as_bytes()).into_owned())
}

async fn read_capped(response: &mut Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let announced = response.content_length().unwrap_or(0);
    if announced > limit as u64 {
        return Err(Failure::TooLarge { limit });
    }
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_failure(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(Failure::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn envelope(body: &[u8]) -> Result<Reply, Failure> {
    let bad = |why: &str| Failure::BadAnswer { why: why.to_owned() };
    let value: Value = serde_json::from_slice(body).map_err(|error| bad(&format!("not JSON: {error}")))?;
    let Value::Object(mut fields) = value else { return Err(bad("not a JSON object")) };
    let data = fields.remove("data").ok_or_else(|| bad("no `data`"))?;
    Ok(Reply { data, total: fields.get("total").and_then(lenient::as_u64) })
}

pub(crate) fn error_answer(status: u16, reason: Option<String>, body: &[u8]) -> Answer {
    let mut answer = Answer { status, reason, message: None, errors: BTreeMap::new() };
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) => {
            answer.message =
                fields.get("message").and_then(lenient::as_text).map(|text| text.trim().to_owned());
            if let Some(Value::Object(errors)) = fields.get("errors") {
                answer.errors = errors
                    .iter()
                    .filter_map(|(name, text)| {
                        Some((name.clone(), lenient::as_text(text)?.trim().to_owned()))
                    })
                    .collect();
            }
        }
        // Some refusals are plain text (`for data too large`).
        _ => answer.message = Some(String::from_utf8_lossy(body).trim().to_owned()),
    }
    answer.message = answer.message.filter(|text| !text.is_empty());
    answer
}

/// Sorts what reqwest reports. The pin mismatch travels inside rustls' error inside one io::Error or
/// two, whose `source()` skips the value they wrap, so both ways must be taken.
fn transport_failure(error: &reqwest::Error) -> Failure {
    let mut deepest = String::new();
    let mut tls = None;
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        deepest = current.to_string();
        let mut inside = current;
        while let Some(inner) = inside.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            inside = inner;
        }
        if let Some(rustls_error) = inside.downcast_ref::<rustls::Error>() {
            if let Some(mismatch) = pin_mismatch(rustls_error) {
                return Failure::Pin(mismatch);
            }
            tls = Some(rustls_error.to_string());
        }
        next = current.source();
    }
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => Failure::ConnectTimeout,
        (true, false) => match tls {
            Some(cause) => Failure::Tls { cause },
            None => Failure::Connect { cause: deepest },
        },
        (false, true) => Failure::Timeout,
        (false, false) if error.is_builder() => Failure::Invalid { why: deepest },
        (false, false) => Failure::Interrupted { cause: tls.unwrap_or(deepest) },
    }
}

fn pin_mismatch(error: &rustls::Error) -> Option<PinMismatch> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref::<PinMismatch>().cloned()
}

#[cfg(test)]
#[path = "transport/tests.rs"]
mod tests;
