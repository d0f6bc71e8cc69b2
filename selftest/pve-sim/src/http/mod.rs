//! The HTTP face: what the web server of Proxmox VE does before and after a handler.

mod cluster;
mod control;
mod guest;
mod node;
mod params;
mod restore;
mod routes;
mod snapshot;
mod tasks;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, to_bytes};
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::world::{AuthId, Now, Refusal, World};
use params::Params;

/// Bodies over this are refused before they are read.
const BODY_LIMIT: usize = 512 * 1024;

/// One request that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLine {
    /// The method.
    pub method: String,
    /// The path as it was sent, without the query.
    pub path: String,
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer is withheld, as ordered through the simulator's side door")]
pub(crate) struct Withheld;

/// An order to withhold an answer.
#[derive(Debug, Clone)]
pub(crate) struct Withhold {
    pub(crate) method: String,
    pub(crate) contains: String,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) seen: Mutex<Vec<RequestLine>>,
    pub(crate) drops: Mutex<Vec<Withhold>>,
    born: Instant,
    auth_failure_delay: Duration,
}

/// Locks; a panicking handler must not take the whole simulator with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A successful answer: `data`, and `total` beside it where a list has one.
#[derive(Debug)]
pub(crate) struct Reply {
    data: Value,
    total: Option<usize>,
}

impl From<Value> for Reply {
    fn from(data: Value) -> Reply {
        Reply { data, total: None }
    }
}

/// A request as the handlers see it.
pub(crate) struct Call<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) now: Now,
    pub(crate) who: AuthId,
    pub(crate) params: Params,
}

impl Call<'_> {
    /// The 403 unless any of `wanted` is held on `path`.
    fn require(&self, path: &str, wanted: &[&str]) -> Result<(), Refusal> {
        self.world.access.require(&self.who, path, wanted)
    }

    /// Whether any of `wanted` is held on `path`.
    fn may(&self, path: &str, wanted: &[&str]) -> bool {
        self.world.access.has_any(&self.who, path, wanted)
    }
}

impl Shared {
    pub(crate) fn new(world: World, auth_failure_delay: Duration) -> Shared {
        Shared {
            world: Arc::new(Mutex::new(world)),
            seen: Mutex::default(),
            drops: Mutex::default(),
            born: Instant::now(),
            auth_failure_delay,
        }
    }

    /// The current instant.
    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.born.elapsed(), unix: i64::try_from(unix.as_secs()).unwrap_or(i64::MAX) }
    }

    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Withheld> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let method = head.method.as_str().to_owned();
        if let Some(rest) = path.strip_prefix("/sim/") {
            let Ok(bytes) = to_bytes(body, BODY_LIMIT).await else {
                return Ok(control::refuse("the body is too large"));
            };
            return Ok(control::answer(&self, &method, rest, head.uri.query(), &bytes));
        }
        lock(&self.seen).push(RequestLine { method: method.clone(), path: path.clone() });
        let gate = self.gate(&method, &path, &head.headers);
        let response = match gate {
            Err(refusal) => {
                if refusal.status == 401 {
                    // Only the authentication is slow; a browser's typo costs three seconds too.
                    tokio::time::sleep(self.auth_failure_delay).await;
                }
                plain(&refusal, &method)
            }
            Ok((who, api_path)) => {
                let Ok(bytes) = to_bytes(body, BODY_LIMIT).await else {
                    return Ok(plain(&Refusal::new(501, "for data too large"), &method));
                };
                self.handle(&method, &api_path, head.uri.query(), &head.headers, &bytes, who)
            }
        };
        self.wake_for_tasks();
        let mut drops = lock(&self.drops);
        let ordered = |d: &Withhold| d.method == method && path.contains(&d.contains);
        if let Some(at) = drops.iter().position(ordered) {
            drops.remove(at);
            return Err(Withheld);
        }
        Ok(response)
    }

    /// The checks before a handler: method, transfer encoding, ticket, body.
    fn gate(&self, method: &str, path: &str, headers: &HeaderMap) -> Result<(AuthId, String), Refusal> {
        if !matches!(method, "GET" | "POST" | "PUT" | "DELETE") {
            return Err(Refusal::new(501, format!("method '{method}' not available")));
        }
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        if let Some(encoding) = text(header::TRANSFER_ENCODING) {
            return Err(Refusal::new(
                501,
                if encoding.eq_ignore_ascii_case("chunked") {
                    "chunked transfer encoding not supported".to_owned()
                } else {
                    format!("Unknown transfer encoding '{encoding}'")
                },
            ));
        }
        let Some(api_path) = path.strip_prefix("/api2/json") else {
            return Err(Refusal::new(404, format!("no such file '{path}'")));
        };
        let credentials = text(header::AUTHORIZATION).and_then(token_of);
        let Some((id, secret)) = credentials else {
            return Err(Refusal::new(401, "No ticket"));
        };
        let known = lock(&self.world).access.authenticate(&id, &secret, self.now().unix);
        let Some(who) = known else {
            return Err(Refusal::new(401, "Authentication failed!"));
        };
        let length: u64 = text(header::CONTENT_LENGTH).and_then(|v| v.parse().ok()).unwrap_or(0);
        if length > 0 && matches!(method, "GET" | "DELETE") {
            let message = format!("Unexpected content for method '{method}'");
            return Err(Refusal::new(501, message));
        }
        if length > BODY_LIMIT as u64 {
            return Err(Refusal::new(501, "for data too large"));
        }
        if length > 0 {
            let kind = text(header::CONTENT_TYPE).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim();
            let known = ["", "application/x-www-form-urlencoded", "application/json"];
            if !known.contains(&kind) {
                let message = format!("upload 'Content-Type '{kind}'' not implemented");
                return Err(Refusal::new(506, message));
            }
        }
        Ok((who, params::unescape(api_path.as_bytes(), false)))
    }

    fn handle(
        &self,
        method: &str,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &Bytes,
        who: AuthId,
    ) -> Response<Body> {
        let is_json =
            headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
        let from_body =
            if is_json && !body.is_empty() { Params::from_json(body) } else { Ok(Params::from_form(body)) };
        let mut params = match from_body {
            Ok(params) => params,
            Err(refusal) => return plain(&refusal, method),
        };
        params.override_with(Params::from_form(query.unwrap_or_default().as_bytes()));
        let now = self.now();
        let mut world = lock(&self.world);
        world.settle(now);
        let call = Call { world: &mut world, now, who, params };
        match routes::dispatch(call, method, path) {
            Ok(reply) => {
                let mut envelope = json!({"data": reply.data});
                if let Some(total) = reply.total {
                    envelope["total"] = json!(total);
                }
                respond(200, "OK", Some(&envelope))
            }
            Err(refusal) => enveloped(&refusal),
        }
    }

    /// Lets the effect of the next running task come in time even if no request does.
    fn wake_for_tasks(self: &Arc<Self>) {
        let Some(due) = lock(&self.world).next_due() else {
            return;
        };
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(due.saturating_sub(shared.born.elapsed())).await;
            let now = shared.now();
            lock(&shared.world).settle(now);
        });
    }
}

/// Finds `PVEAPIToken=ID=SECRET` (or with a space) in the header; the value is percent-decoded and
/// split at its last `=`.
fn token_of(header: &str) -> Option<(String, String)> {
    let at = header.find("PVEAPIToken")?;
    if at > 0 && !header[..at].ends_with(char::is_whitespace) {
        return None;
    }
    let value = header[at..].strip_prefix("PVEAPIToken")?.strip_prefix(['=', ' '])?;
    let value = value.split(';').next().unwrap_or_default();
    let value = params::unescape(value.as_bytes(), false);
    let (id, secret) = value.rsplit_once('=')?;
    Some((id.to_owned(), secret.to_owned()))
}

/// A refusal of the web server itself: its text as the body, except where there is none at all.
fn plain(refusal: &Refusal, method: &str) -> Response<Body> {
    let bare = refusal.status == 401 || matches!(method, "HEAD" | "OPTIONS");
    let mut response = respond(refusal.status, &refusal.text, None);
    if !bare {
        *response.body_mut() = Body::from(refusal.text.clone());
    }
    response
}

/// A refusal of a handler, in the JSON envelope.
fn enveloped(refusal: &Refusal) -> Response<Body> {
    let end = if refusal.newline { "\n" } else { "" };
    let mut envelope = json!({"data": null, "message": format!("{}{end}", refusal.text)});
    if !refusal.errors.is_empty() {
        let errors: &BTreeMap<String, String> = &refusal.errors;
        envelope["errors"] = json!(errors);
    }
    respond(refusal.status, &refusal.text, Some(&envelope))
}

fn respond(status: u16, reason: &str, envelope: Option<&Value>) -> Response<Body> {
    let body = envelope.map(Value::to_string);
    let mut response = Response::new(Body::from(body.clone().unwrap_or_default()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let clean: String = reason
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if let Ok(reason) = ReasonPhrase::try_from(clean) {
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(header::SERVER, HeaderValue::from_static("pve-api-daemon/3.0"));
    if body.is_some() {
        let kind = HeaderValue::from_static("application/json;charset=UTF-8");
        headers.insert(header::CONTENT_TYPE, kind);
    }
    if status >= 400 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::token_of;

    #[test]
    fn authorization_forms() {
        let some = |id: &str, secret: &str| Some((id.to_owned(), secret.to_owned()));
        assert_eq!(token_of("PVEAPIToken=a@pve!t=s"), some("a@pve!t", "s"));
        assert_eq!(token_of("PVEAPIToken a@pve!t=s"), some("a@pve!t", "s"));
        assert_eq!(token_of("x PVEAPIToken=a%3Db@pve!t=s;rest"), some("a=b@pve!t", "s"));
        assert_eq!(token_of("Bearer x"), None);
        assert_eq!(token_of("xPVEAPIToken=a=b"), None);
        assert_eq!(token_of("PVEAPIToken=nothing"), None);
        assert_eq!(token_of("PVEAPIToken="), None);
    }
}
