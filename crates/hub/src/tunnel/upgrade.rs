//! From an HTTP request to the connection beneath it.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use protocol::tunnel::UPGRADE;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::relay::Connected;
use crate::server::Connection;

/// The request does not ask for what is served here.
#[derive(Debug, thiserror::Error)]
#[error("the request does not ask for an upgrade to {UPGRADE}")]
pub(crate) struct UpgradeError;

/// A data connection that was answered with 101 and becomes one when that answer has left.
#[derive(Debug)]
pub(crate) struct Dialed {
    upgrade: OnUpgrade,
    place: Option<Connection>,
}

/// Takes the connection beneath a request; the answer to it must be given back.
pub(crate) fn accept(mut request: Request) -> Result<(Dialed, Response), UpgradeError> {
    let headers = request.headers();
    // HEAD comes here as well; there is no tunnel for it.
    let asked = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, UPGRADE);
    if !asked {
        return Err(UpgradeError);
    }
    let place = request.extensions_mut().remove::<Connection>();
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(UPGRADE));
    Ok((Dialed { upgrade, place }, response))
}

/// Whether a list of tokens holds this one (RFC 9110 sections 7.6.1 and 7.8).
fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
}

impl Dialed {
    /// The connection itself; none when it broke.
    pub(super) async fn connected(self) -> Option<Connected> {
        let Self { upgrade, place } = self;
        // Beneath HTTP is always this; through HTTP's own layers it works as well, only slower.
        Some(match downcast::<TokioIo<TlsStream<TcpStream>>>(upgrade.await.ok()?) {
            Ok(parts) => Connected { stream: Box::new(parts.io.into_inner()), read: parts.read_buf, place },
            Err(upgraded) => {
                Connected { stream: Box::new(TokioIo::new(upgraded)), read: Bytes::new(), place }
            }
        })
    }
}
