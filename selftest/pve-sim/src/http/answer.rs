//! What is answered: the envelope, the error forms, and the bytes on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Format, Reply, faults, gzip};
use crate::world::Refusal;

const JSON: &str = "application/json;charset=UTF-8";

/// An answer that is no JSON.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) kind: &'static str,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) body: Vec<u8>,
}

/// An answer before it becomes bytes.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    pub(crate) reason: String,
    /// The JSON body.
    pub(crate) envelope: Option<Value>,
    /// Another body, which wins over the JSON one.
    pub(crate) raw: Option<Raw>,
    /// `data` becomes so many letters.
    pub(crate) big: Option<u64>,
    /// The body comes in pieces of this size, this often.
    pub(crate) drip: Option<(usize, Duration)>,
}

impl Outcome {
    /// Without a body.
    pub(crate) fn bare(status: u16, reason: &str) -> Outcome {
        Outcome { status, reason: reason.to_owned(), ..Outcome::default() }
    }

    /// A handler's success.
    pub(crate) fn done(reply: Reply, format: Format) -> Outcome {
        let mut outcome = Outcome::bare(200, "OK");
        if reply.raw.is_some() {
            outcome.raw = reply.raw;
            return outcome;
        }
        let mut envelope = json!({"data": reply.data});
        if let Some(total) = reply.total {
            envelope["total"] = json!(total);
        }
        if format == Format::Extjs {
            envelope["success"] = json!(1);
        }
        outcome.envelope = Some(envelope);
        outcome
    }

    /// A handler's refusal: in the envelope, except where the proxy has nothing to wrap.
    pub(crate) fn refused(refusal: &Refusal, format: Format) -> Outcome {
        if refusal.status >= 595 {
            return Outcome::bare(refusal.status, &refusal.text);
        }
        let end = if refusal.newline { "\n" } else { "" };
        let mut envelope = json!({"data": null, "message": format!("{}{end}", refusal.text)});
        if !refusal.errors.is_empty() {
            let errors: &BTreeMap<String, String> = &refusal.errors;
            envelope["errors"] = json!(errors);
        }
        let mut outcome = Outcome::bare(refusal.status, &refusal.text);
        if format == Format::Extjs {
            // The web interface's form: always 200, the status is inside.
            outcome = Outcome::bare(200, "OK");
            envelope["success"] = json!(0);
            envelope["status"] = json!(refusal.status);
        }
        outcome.envelope = Some(envelope);
        outcome
    }

    /// A refusal of the web server itself: its text as the body, except where there is none at all.
    pub(crate) fn plain(refusal: &Refusal, method: &str) -> Outcome {
        let mut outcome = Outcome::bare(refusal.status, &refusal.text);
        if refusal.status != 401 && !matches!(method, "HEAD" | "OPTIONS") {
            let body = refusal.text.clone().into_bytes();
            outcome.raw = Some(Raw { kind: "", headers: Vec::new(), body });
        }
        outcome
    }

    /// Answers these bytes as JSON instead.
    pub(crate) fn replace_body(&mut self, text: &[u8]) {
        self.envelope = None;
        self.raw = Some(Raw { kind: JSON, headers: Vec::new(), body: text.to_vec() });
    }

    /// Packs a JSON body for a client that takes it so. The real server packs from about this size
    /// on; only one such answer was recorded.
    pub(crate) fn pack(&mut self) {
        let Some(body) = self.envelope.as_ref().filter(|_| self.raw.is_none()).map(Value::to_string) else {
            return;
        };
        if body.len() > 1024 {
            let headers = vec![(header::CONTENT_ENCODING, "gzip".to_owned())];
            self.raw = Some(Raw { kind: JSON, headers, body: gzip::store("", body.as_bytes()) });
        }
    }

    /// The UPID in `data`.
    pub(crate) fn upid(&self) -> Option<String> {
        let data = self.envelope.as_ref()?["data"].as_str()?;
        data.starts_with("UPID:").then(|| data.to_owned())
    }

    /// The bytes.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut kind = "";
        let mut extra = Vec::new();
        let body = match (self.raw, self.envelope) {
            (Some(raw), _) => {
                kind = raw.kind;
                extra = raw.headers;
                raw.body
            }
            (None, Some(envelope)) => {
                kind = JSON;
                envelope.to_string().into_bytes()
            }
            (None, None) => Vec::new(),
        };
        let mut response = match (self.big, self.drip) {
            (Some(letters), _) => {
                kind = JSON;
                faults::large(letters)
            }
            (None, Some((piece, every))) => faults::slowly(body, piece, every),
            (None, None) => Response::new(Body::from(body)),
        };
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let first = self.reason.lines().next().unwrap_or_default();
        let clean: String = first.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Ok(reason) = ReasonPhrase::try_from(clean) {
            response.extensions_mut().insert(reason);
        }
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(header::SERVER, HeaderValue::from_static("pve-api-daemon/3.0"));
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        for (name, value) in extra {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        let connection = if self.status >= 400 { "close" } else { "Keep-Alive" };
        headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
        response
    }
}
