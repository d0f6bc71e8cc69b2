//! Requests out, answers in: pins, permits, the circuit breaker, caps and the retry rule.

pub(crate) mod upload;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, DATE, HeaderValue};
use reqwest::{Method, Response, redirect};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::catalog::{Data, Request, Shape, Verb};
use crate::value::lenient;
use crate::wire::endpoint::Endpoint;
use crate::wire::error::{Answer, ApiError, ClientError, Failure};
use crate::wire::named::wrong_task;
use crate::wire::pin::PinSet;
use crate::wire::presented::{Presented, Shown};
use crate::wire::tls::{PinMismatch, client_config};
use crate::wire::token::ApiToken;
use crate::wire::validity::http_date;
use crate::wire::weight::too_heavy;

/// pveproxy closes idle connections after five seconds; leave first (`pve/facts.md` 3.6).
const POOL_IDLE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The proxy inside Proxmox gives up after 30 s, so waiting longer brings nothing (3.8).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// Three workers serve a node; two requests leave one for people (3.7).
const IN_FLIGHT: usize = 2;
/// A storage that hangs must not take both with it.
const SLOW_IN_FLIGHT: usize = 1;
/// Every 401 costs three seconds on the server side (1.3).
const AUTH_PAUSE: Duration = Duration::from_secs(30);
/// Lists, logs and numbers over time: none comes near this; what does is an attack or a fault.
pub(crate) const MAX_LONG_BODY: usize = 16 * 1024 * 1024;
/// Everything else.
pub(crate) const MAX_BODY: usize = 1024 * 1024;
/// Error bodies are one sentence.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Waits before the two retries of a GET whose connection broke, or met a daemon that was restarting.
const GET_BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// Parameters, in order.
type Params<'a> = &'a [(String, String)];

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
    /// For what touches disks and storages; taken before one of the others.
    slow: Semaphore,
    paused: Mutex<Option<Pause>>,
    shown: Arc<Shown>,
}

#[derive(Debug, Clone)]
struct Pause {
    until: Instant,
    reason: Option<String>,
}

impl Transport {
    pub(crate) fn new(endpoint: Endpoint, pins: PinSet, token: &ApiToken) -> Result<Self, ClientError> {
        let shown = Arc::<Shown>::default();
        let tls = client_config(pins, Arc::clone(&shown)).map_err(ClientError::Tls)?;
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
            slow: Semaphore::new(SLOW_IN_FLIGHT),
            paused: Mutex::new(None),
            shown,
        })
    }

    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// For a console's websocket, which this client does not open itself.
    pub(crate) fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    pub(crate) fn presented(&self) -> Option<Presented> {
        self.shown.proven()
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a request. A GET whose connection broke, or that met a daemon that was just restarting, is
    /// sent again, at most twice; a mutation is sent once, whatever happens.
    pub(crate) async fn send<T>(&self, request: &Request<T>) -> Result<T, ApiError> {
        let mut backoff = GET_BACKOFF.into_iter().filter(|_| request.is_read());
        loop {
            match self.once(request).await {
                Err(error) if may_read_again(error.failure()) => match backoff.next() {
                    Some(pause) => tokio::time::sleep(jittered(pause)).await,
                    None => return Err(error),
                },
                other => return other,
            }
        }
    }

    /// An error about a request that is not sent.
    pub(crate) fn refuse<T>(&self, request: &Request<T>, why: impl std::fmt::Display) -> ApiError {
        self.fault(request, Failure::Invalid { why: why.to_string() })
    }

    /// An error about the sense of what a GET answered.
    pub(crate) fn bad(&self, path: &str, why: String) -> ApiError {
        ApiError::new("GET", path, &self.shown_endpoint, &self.identity, Failure::BadAnswer { why })
    }

    fn fault<T>(&self, request: &Request<T>, failure: Failure) -> ApiError {
        let path = encode_path(&request.segments).unwrap_or_else(|why| format!("({why})"));
        let method = request.call.shape.verb.as_str();
        ApiError::new(method, &path, &self.shown_endpoint, &self.identity, failure)
    }

    async fn once<T>(&self, request: &Request<T>) -> Result<T, ApiError> {
        debug_assert!(
            crate::catalog::shapes().any(|shape| std::ptr::eq(shape, &request.call.shape)),
            "`{}` is not in the catalogue",
            request.call.shape.name
        );
        if let Some(why) = &request.wrong {
            return Err(self.refuse(request, why));
        }
        let path = encode_path(&request.segments).map_err(|why| self.refuse(request, why))?;
        let verb = request.call.shape.verb.as_str();
        let error = |failure| ApiError::new(verb, &path, &self.shown_endpoint, &self.identity, failure);

        self.check_pause().map_err(error)?;
        // The semaphores live as long as `self` and are never closed.
        let closed = |_| error(Failure::Invalid { why: "the client was closed".to_owned() });
        let _slow = match request.call.shape.slow {
            true => Some(self.slow.acquire().await.map_err(closed)?),
            false => None,
        };
        let _permit = self.permits.acquire().await.map_err(closed)?;
        // The call this one waited for may just have been refused.
        self.check_pause().map_err(error)?;

        let started = Instant::now();
        let result = self.exchange(&request.call.shape, &path, &request.params).await;
        tracing::debug!(
            verb,
            path,
            ok = result.is_ok(),
            elapsed_ms = started.elapsed().as_millis(),
            "proxmox call"
        );
        self.read(request, result.map_err(error)?).map_err(error)
    }

    /// Makes of an answer what was asked for.
    fn read<T>(&self, request: &Request<T>, data: Data) -> Result<T, Failure> {
        let segments: Vec<&str> = request.segments.iter().map(String::as_str).collect();
        let named = wrong_task(&request.call.shape, &segments, Some(&self.identity), &data.value);
        if let Some((upid, why)) = named {
            return Err(Failure::WrongTask { upid: Box::new(upid), why });
        }
        (request.call.decode)(data).map_err(|why| Failure::BadAnswer { why })
    }

    async fn exchange(&self, shape: &Shape, path: &str, params: Params<'_>) -> Result<Data, Failure> {
        let url = self.endpoint.api(path);
        let verb = shape.verb;
        let (client, method) = match verb {
            Verb::Get => (&self.reads, Method::GET),
            Verb::Post => (&self.writes, Method::POST),
            Verb::Put => (&self.writes, Method::PUT),
            Verb::Delete => (&self.writes, Method::DELETE),
        };
        let mut request = client.request(method, url).header(AUTHORIZATION, self.authorization.clone());
        // DELETE with a body is a 501, and chunked bodies are too (3.2); form encoding escapes `=`
        // and `;`, which Proxmox's own decoder would split at (3.3).
        request = match verb {
            Verb::Post | Verb::Put => request.form(params),
            Verb::Get | Verb::Delete if params.is_empty() => request,
            Verb::Get | Verb::Delete => request.query(params),
        };
        let response = request.send().await.map_err(|error| transport_failure(&error))?;
        self.receive(shape, response).await
    }

    async fn receive(&self, shape: &Shape, mut response: Response) -> Result<Data, Failure> {
        let status = response.status();
        if status.is_success() {
            let limit = body_limit(shape);
            let body = read_capped(&mut response, limit).await?;
            let date = response.headers().get(DATE).and_then(|date| http_date(date.as_bytes()));
            return envelope(&body, limit).map(|data| Data { date, ..data });
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

/// Whether a read that failed like this may well succeed a moment later. 595 `Connection refused` is a
/// daemon between stop and start; its other reasons (`No route to host`) take seconds and do not pass
/// by themselves. 596 and above come after thirty seconds while the handler goes on inside Proxmox
/// (`pve/facts.md` 3.8): asking again would occupy a second worker with what hangs already.
fn may_read_again(failure: &Failure) -> bool {
    match failure {
        Failure::Interrupted { .. } => true,
        Failure::Answer(answer) => answer.status == 595 && answer.text().contains("Connection refused"),
        Failure::Paused { .. }
        | Failure::Pin(_)
        | Failure::Tls { .. }
        | Failure::Connect { .. }
        | Failure::ConnectTimeout
        | Failure::Timeout
        | Failure::TooLarge { .. }
        | Failure::BadAnswer { .. }
        | Failure::WrongTask { .. }
        | Failure::Invalid { .. } => false,
    }
}

/// Between half and all of a pause, so that many clients that were cut off at once do not come back
/// at once.
fn jittered(pause: Duration) -> Duration {
    // No secret hangs on it; the hasher's keys are random for each of them.
    let random = RandomState::new().build_hasher().finish();
    let nanos = u64::try_from(pause.as_nanos() / 2).unwrap_or(u64::MAX);
    pause / 2 + Duration::from_nanos(random % nanos.max(1))
}

/// Joins and percent-encodes path segments. Empty and dot segments are refused: the URL would be
/// normalised, and `DELETE .../snapshot/..` is "destroy the guest".
fn encode_path<S: AsRef<str>>(segments: &[S]) -> Result<String, &'static str> {
    let mut path = String::new();
    for segment in segments {
        let segment = segment.as_ref();
        if matches!(segment, "" | "." | "..") {
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
    let too_large = || Failure::TooLarge { what: format!("is larger than {limit} bytes") };
    let announced = response.content_length().unwrap_or(0);
    if announced > limit as u64 {
        return Err(too_large());
    }
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_failure(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// How long the answer to such a call may be.
pub(crate) const fn body_limit(shape: &Shape) -> usize {
    if shape.long { MAX_LONG_BODY } else { MAX_BODY }
}

/// The envelope of a success, of at most `limit` bytes.
pub(crate) fn envelope(body: &[u8], limit: usize) -> Result<Data, Failure> {
    let bad = |why: &str| Failure::BadAnswer { why: why.to_owned() };
    if let Some(what) = too_heavy(body, limit) {
        return Err(Failure::TooLarge { what });
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| bad(&format!("not JSON: {error}")))?;
    let Value::Object(mut fields) = value else { return Err(bad("not a JSON object")) };
    // Whatever else it says, what lists errors is no success.
    if let Some(errors) = fields.get("errors").filter(|errors| says_something(errors)) {
        return Err(bad(&format!("a success that lists errors: {errors}")));
    }
    let data = fields.remove("data").ok_or_else(|| bad("no `data`"))?;
    Ok(Data { value: data, total: fields.get("total").and_then(lenient::as_u64), date: None })
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

pub(crate) fn error_answer(status: u16, reason: Option<String>, body: &[u8]) -> Answer {
    let mut answer = Answer { status, reason, message: None, errors: BTreeMap::new() };
    let body = if too_heavy(body, MAX_ERROR_BODY).is_some() { &[] } else { body };
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
        deepest = without_link(&current.to_string());
        let mut inside = current;
        while let Some(inner) = inside.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            inside = inner;
        }
        if let Some(rustls_error) = inside.downcast_ref::<rustls::Error>() {
            if let Some(mismatch) = pin_mismatch(rustls_error) {
                return Failure::Pin(mismatch);
            }
            tls = Some(without_link(&rustls_error.to_string()));
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

/// rustls points at its own manual, which is for who writes programs.
fn without_link(text: &str) -> String {
    text.split(": https://").next().unwrap_or(text).to_owned()
}

fn pin_mismatch(error: &rustls::Error) -> Option<PinMismatch> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref::<PinMismatch>().cloned()
}

#[cfg(test)]
mod tests;
