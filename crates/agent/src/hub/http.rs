//! Calls to the hub, and one sentence for everything that can go wrong with them.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::api::ApiFailure;
use protocol::text::printable;
use serde::{Serialize, de::DeserializeOwned};

use crate::device::{DeviceKey, DeviceKeyError};
use crate::hub::tls::{HubPins, PinMismatch, client_config};

/// For everything up to the answer's head.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer to a call.
const MAX_ANSWER: usize = 1024 * 1024;

/// Why the hub could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Another key than the pinned one.
    #[error("refused to talk to the hub at {url}: {mismatch}")]
    Pin {
        /// The hub.
        url: String,
        /// The keys.
        mismatch: Box<PinMismatch>,
    },
    /// No connection or no answer.
    #[error(
        "cannot reach the hub at {url} ({cause}): check that the hub runs, the address, and that no firewall is between"
    )]
    Unreachable {
        /// The hub.
        url: String,
        /// In the system's words.
        cause: String,
    },
    /// An answer that is a refusal.
    #[error("the hub at {url} refuses ({status}): {message}")]
    Refused {
        /// The hub.
        url: String,
        /// HTTP status.
        status: u16,
        /// The hub's short code; empty when it gave none.
        code: String,
        /// The hub's sentence.
        message: String,
    },
    /// An answer that is none.
    #[error(
        "the hub at {url} answered something else than expected ({what}): are hub and agent of the same version?"
    )]
    Answer {
        /// The hub.
        url: String,
        /// What was wrong.
        what: String,
    },
    /// The client certificate.
    #[error(transparent)]
    Device(#[from] DeviceKeyError),
    /// TLS refuses its configuration.
    #[error("TLS for the hub cannot be set up; this is a fault of the program, please report it")]
    Tls(#[from] rustls::Error),
    /// The HTTP client refuses its configuration.
    #[error("the client for the hub cannot be set up; this is a fault of the program, please report it")]
    Client(#[source] reqwest::Error),
}

/// A client for one hub with one device key.
#[derive(Debug, Clone)]
pub struct HubClient {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// Whether a proxy may be between.
    pub(crate) proxied: bool,
}

/// Whether the environment names a proxy that reqwest might use for the hub.
fn names_a_proxy(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}

impl HubClient {
    /// Sets the client up; connects to nothing yet.
    pub fn new(url: &str, pins: HubPins, device: &DeviceKey) -> Result<Self, HubError> {
        let tls = client_config(pins, device.client_cert()?)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .https_only(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(HubError::Client)?;
        let proxied = names_a_proxy(|name| std::env::var_os(name));
        Ok(Self { url: url.trim_end_matches('/').to_owned(), http, tls: Arc::new(tls), proxied })
    }

    /// Where the hub is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// POSTs JSON, gives back JSON.
    pub async fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, HubError> {
        let call = async {
            let request = self.http.post(format!("{}{path}", self.url)).json(body);
            let response = request.send().await.map_err(|error| self.explain(&error))?;
            let status = response.status().as_u16();
            let bytes = self.limited_body(response).await?;
            if status != 200 && status != 201 {
                return Err(self.refused(status, &bytes));
            }
            serde_json::from_slice(&bytes).map_err(|error| self.odd(printable(&error.to_string())))
        };
        tokio::time::timeout(TIMEOUT, call).await.unwrap_or_else(|_| Err(self.late()))
    }

    pub(crate) async fn limited_body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, HubError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.explain(&error))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(self.odd(format!("more than {MAX_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    pub(crate) fn refused(&self, status: u16, body: &[u8]) -> HubError {
        let (code, message) = match serde_json::from_slice::<ApiFailure>(body) {
            Ok(failure) => (printable(&failure.code), printable(&failure.message)),
            Err(_) => (String::new(), "it gives no reason; is this address really a hub?".to_owned()),
        };
        HubError::Refused { url: self.url.clone(), status, code, message }
    }

    pub(crate) fn odd(&self, what: String) -> HubError {
        HubError::Answer { url: self.url.clone(), what }
    }

    pub(crate) fn late(&self) -> HubError {
        self.unreachable(&format!("no answer within {} s", TIMEOUT.as_secs()))
    }

    pub(crate) fn unreachable(&self, cause: &str) -> HubError {
        HubError::Unreachable { url: self.url.clone(), cause: printable(cause) }
    }

    pub(crate) const fn timeout() -> Duration {
        TIMEOUT
    }

    pub(crate) fn explain(&self, error: &(dyn Error + 'static)) -> HubError {
        let mut deepest = error.to_string();
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(mismatch) = pin_mismatch(cause) {
                return HubError::Pin { url: self.url.clone(), mismatch: Box::new(mismatch) };
            }
            deepest = cause.to_string();
            next = cause.source();
        }
        self.unreachable(&deepest)
    }
}

/// Errors of TLS travel inside io errors, whose `source` skips what they hold.
fn pin_mismatch(cause: &(dyn Error + 'static)) -> Option<PinMismatch> {
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        let inner: &(dyn Error + 'static) = io.get_ref()?;
        return pin_mismatch(inner);
    }
    match cause.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            other.0.downcast_ref::<PinMismatch>().cloned()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_noticed_where_reqwest_would() {
        let with = |set: &'static str, value: &'static str| {
            names_a_proxy(move |name| (name == set).then(|| OsString::from(value)))
        };
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            assert!(with(name, "http://p:3128"), "{name}");
            assert!(!with(name, ""), "{name}");
        }
        assert!(!with("HTTP_PROXY", "http://p:3128"), "the hub is never reached without TLS");
    }
}
