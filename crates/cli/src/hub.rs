//! The hub's `/api/v1`, from the operator's side. What it answers is data to be judged, never
//! trusted: see [`crate::resolve`] and [`crate::judge`].

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use protocol::api::{
    ApiFailure, DesiredAccepted, EnrollmentApprove, EnrollmentCreated, EnrollmentNew, EnrollmentView,
    HostDetail, HostView, LogCheckpoint, LogProof, LoginAnswer, LoginChallenge, OrderAccepted, OrderView,
    PolicyStored, PolicyView, ReceiptsView, TunnelAnswer, TunnelView,
};
use protocol::ask::{Question, Reply};
use protocol::desired::DesiredState;
use protocol::text::printable;
use protocol::{Envelope, HostId, Sha256, Signed, TunnelId, tunnel};
use reqwest::header::{AUTHORIZATION, CONNECTION, HeaderValue, UPGRADE};
use reqwest::{Method, RequestBuilder, StatusCode, Upgraded, Url, redirect};
use serde::de::DeserializeOwned;

use crate::tls::{Mismatch, client_config};

/// Longest answer that is read, in bytes: a fleet of reports fits, a hostile hub cannot fill memory.
const MAX_BODY: usize = 64 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(30);
/// Long polls last up to [`POLL_S`] at the hub.
const LONG_POLL: Duration = Duration::from_secs(40);
/// The hub waits up to 40 s for the host to open a session.
const TUNNEL: Duration = Duration::from_secs(60);
/// The hub waits up to 50 s for the host to answer a question.
const ASK: Duration = Duration::from_secs(60);
/// How long one question about an order waits at the hub, seconds.
pub const POLL_S: u64 = 25;
/// As long as the enrollment code allows.
const MAX_ADDRESS: usize = 200;

/// Why the hub did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not an address.
    #[error("'{0}' is not a hub address: write https://NAME or https://NAME:PORT, without a path")]
    Address(String),
    /// TLS could not be set up at all.
    #[error("TLS could not be set up on this machine: this build of writ is broken")]
    Tls(#[source] rustls::Error),
    /// The HTTP client could not be set up at all.
    #[error("the HTTP client could not be set up on this machine: this build of writ is broken")]
    Client(#[source] reqwest::Error),
    /// No connection.
    #[error("the hub at {hub} cannot be reached ({reason}): check that it runs, and the network in between")]
    Unreachable {
        /// Its address.
        hub: HubAddress,
        /// In words.
        reason: String,
        /// What exactly.
        #[source]
        source: reqwest::Error,
    },
    /// Somebody else, or a hub with a new key.
    #[error(
        "the server at {hub} shows key {seen}, but the hub's pin is {wanted}: nothing was sent. Either this is not your hub, or its key was changed: compare with `writ-hub` on the hub's own console, then `writ login --pin {seen}`"
    )]
    WrongPin {
        /// Its address.
        hub: HubAddress,
        /// The pin.
        wanted: Sha256,
        /// What it showed.
        seen: Sha256,
    },
    /// No token, or not any more.
    #[error("your login at the hub has expired or is not known there: run `writ login`")]
    Login,
    /// The hub's own words.
    #[error("the hub refuses ({code}): {message}")]
    Refused {
        /// HTTP.
        status: u16,
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// Another order than the one that was sent.
    #[error("sent order {sent}, the hub says that it took order {said}: the hub is wrong or lying")]
    OtherOrder {
        /// Ours.
        sent: Sha256,
        /// In its answer.
        said: Sha256,
    },
    /// Not the hub's way of answering.
    #[error(
        "the server at {hub} answered with status {status}, not as a hub does: is this the hub's address, and a hub of this version?"
    )]
    Status {
        /// Its address.
        hub: HubAddress,
        /// HTTP.
        status: u16,
    },
    /// Too much.
    #[error("the hub's answer is longer than {MAX_BODY} bytes: it was not read")]
    TooLarge,
    /// Not what was asked for.
    #[error("the hub's answer cannot be read as {what}: are hub and writ of the same version?")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What exactly.
        #[source]
        source: serde_json::Error,
    },
    /// A token that is no header value.
    #[error("the stored token is damaged: run `writ login`")]
    Token,
}

impl HubError {
    /// Whether what was asked may have been done all the same. Only what failed before a byte of it left is
    /// certain: whatever the hub answered, a no as well, nobody signed, and it can have delivered the order.
    pub fn is_uncertain(&self) -> bool {
        match self {
            Self::Address(_) | Self::Tls(_) | Self::Client(_) | Self::Token | Self::WrongPin { .. } => false,
            Self::Unreachable { source, .. } => !source.is_connect(),
            Self::Login
            | Self::Refused { .. }
            | Self::OtherOrder { .. }
            | Self::Status { .. }
            | Self::TooLarge
            | Self::Malformed { .. } => true,
        }
    }

    /// In words that leave the hub's no what it is: unsigned.
    pub fn as_its_word(&self) -> String {
        match self {
            // An honest hub answers so before it stores or delivers anything.
            Self::Refused { status: 400 | 413, code, message } => format!(
                "the hub says that it refuses ({code}): {message}: an honest hub that says so has not taken the order, but that is its word only"
            ),
            Self::Refused { code, message, .. } => {
                format!("the hub says that it refuses ({code}): {message}: that is its word only")
            }
            Self::Login => "the hub says that your login has expired or is not known there (`writ login` renews it): that is its word only".to_owned(),
            other => other.to_string(),
        }
    }

    /// Whether asking again can help: the connection was not there.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// `https://NAME[:PORT]`, nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress(String);

impl std::str::FromStr for HubAddress {
    type Err = HubError;
    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Address(printable(&text.chars().take(80).collect::<String>()));
        let url = Url::parse(text).map_err(|_| wrong())?;
        let plain = url.scheme() == "https"
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if plain && text.len() <= MAX_ADDRESS {
            Ok(Self(url.origin().ascii_serialization()))
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hub behind its pin, with or without a login.
pub struct Hub {
    address: HubAddress,
    pin: Sha256,
    client: reqwest::Client,
    mismatch: Mismatch,
    token: Option<HeaderValue>,
}

impl Hub {
    /// Sets up; connects with the first question.
    pub fn new(address: HubAddress, pin: Sha256, token: Option<&str>) -> Result<Self, HubError> {
        let (tls, mismatch) = client_config(pin).map_err(HubError::Tls)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .build()
            .map_err(HubError::Client)?;
        let token = token
            .map(|token| {
                let mut value =
                    HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| HubError::Token)?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        Ok(Self { address, pin, client, mismatch, token })
    }

    /// For login: a challenge.
    pub async fn challenge(&self) -> Result<LoginChallenge, HubError> {
        self.json("a login challenge", self.request(Method::POST, "login/challenge")).await
    }

    /// For login: the answer to it.
    pub async fn login(&self, login: &Signed) -> Result<LoginAnswer, HubError> {
        self.json("a login", self.request(Method::POST, "login").json(login)).await
    }

    /// Policy documents, and where hosts say they are.
    pub async fn policy(&self) -> Result<PolicyView, HubError> {
        self.json("policy documents", self.request(Method::GET, "policy")).await
    }

    /// Uploads a policy document.
    pub async fn submit_policy(&self, envelope: &Envelope) -> Result<PolicyStored, HubError> {
        self.json("an answer to a policy", self.request(Method::POST, "policy").json(envelope)).await
    }

    /// All enrollments.
    pub async fn enrollments(&self) -> Result<Vec<EnrollmentView>, HubError> {
        self.json("a list of enrollments", self.request(Method::GET, "enrollments")).await
    }

    /// One enrollment.
    pub async fn enrollment(&self, id: u64) -> Result<EnrollmentView, HubError> {
        self.json("an enrollment", self.request(Method::GET, &format!("enrollments/{id}"))).await
    }

    /// A new one.
    pub async fn enroll(&self, new: &EnrollmentNew) -> Result<EnrollmentCreated, HubError> {
        self.json("a new enrollment", self.request(Method::POST, "enrollments").json(new)).await
    }

    /// Vouches for a host.
    pub async fn approve(&self, id: u64, approve: &EnrollmentApprove) -> Result<(), HubError> {
        self.body(self.request(Method::POST, &format!("enrollments/{id}/approve")).json(approve))
            .await
            .map(drop)
    }

    /// Refuses one.
    pub async fn reject(&self, id: u64) -> Result<(), HubError> {
        self.body(self.request(Method::POST, &format!("enrollments/{id}/reject"))).await.map(drop)
    }

    /// All hosts, unjudged.
    pub async fn hosts(&self) -> Result<Vec<HostView>, HubError> {
        self.json("a list of hosts", self.request(Method::GET, "hosts")).await
    }

    /// One host, unjudged.
    pub async fn host(&self, id: &HostId) -> Result<HostDetail, HubError> {
        self.json("a host", self.request(Method::GET, &format!("hosts/{id}"))).await
    }

    /// Sets the desired state.
    pub async fn set_desired(&self, id: &HostId, state: &DesiredState) -> Result<DesiredAccepted, HubError> {
        let request = self.request(Method::PUT, &format!("hosts/{id}/desired")).json(state);
        self.json("an accepted desired state", request).await
    }

    /// Submits an order.
    pub async fn submit(&self, id: &HostId, envelope: &Envelope) -> Result<OrderAccepted, HubError> {
        let request = self.request(Method::POST, &format!("hosts/{id}/orders")).json(envelope);
        self.json("an accepted order", request).await
    }

    /// All orders of a host.
    pub async fn orders(&self, id: &HostId) -> Result<Vec<OrderView>, HubError> {
        self.json("a list of orders", self.request(Method::GET, &format!("hosts/{id}/orders"))).await
    }

    /// One order; waits at the hub until there is something newer than `after`.
    pub async fn order(
        &self,
        id: &HostId,
        op: &Sha256,
        after: u64,
        wait_s: u64,
    ) -> Result<OrderView, HubError> {
        let request = self
            .request(Method::GET, &format!("hosts/{id}/orders/{op}"))
            .query(&[("after", after), ("wait_s", wait_s)])
            .timeout(LONG_POLL);
        self.json("an order", request).await
    }

    /// Entries of a host's log from `first`, unjudged.
    pub async fn receipts(&self, id: &HostId, first: u64) -> Result<ReceiptsView, HubError> {
        let request = self.request(Method::GET, &format!("hosts/{id}/receipts")).query(&[("first", first)]);
        self.json("receipts", request).await
    }

    /// The newest checkpoint of a host's log, unjudged.
    pub async fn checkpoint(&self, id: &HostId) -> Result<LogCheckpoint, HubError> {
        self.json("a checkpoint", self.request(Method::GET, &format!("hosts/{id}/log/checkpoint"))).await
    }

    /// The hashes that should prove that an entry is among the first `size`, unjudged.
    pub async fn inclusion(&self, id: &HostId, entry: u64, size: u64) -> Result<Vec<Sha256>, HubError> {
        self.proof(id, [("entry", entry), ("size", size)]).await
    }

    /// The hashes that should prove that the log with `size` entries continues the one with `from`, unjudged.
    pub async fn consistency(&self, id: &HostId, from: u64, size: u64) -> Result<Vec<Sha256>, HubError> {
        self.proof(id, [("from", from), ("size", size)]).await
    }

    async fn proof(&self, id: &HostId, about: [(&str, u64); 2]) -> Result<Vec<Sha256>, HubError> {
        let request = self.request(Method::GET, &format!("hosts/{id}/log/proof")).query(&about);
        self.json::<LogProof>("a proof", request).await.map(|proof| proof.hashes)
    }

    /// Asks a host's warden a question that changes nothing; the hub waits for the host. The reply is unjudged:
    /// of a plan only the signature counts, and what stands in a world is compared again by the host.
    pub async fn ask(&self, host: &HostId, question: &Question) -> Result<Reply, HubError> {
        let request = self.request(Method::POST, &format!("hosts/{host}/ask")).json(question).timeout(ASK);
        self.json("a host's reply", request).await
    }

    /// Asks for a session; the hub waits for the host.
    pub async fn open_tunnel(&self, id: &HostId, envelope: &Envelope) -> Result<TunnelAnswer, HubError> {
        let request =
            self.request(Method::POST, &format!("hosts/{id}/tunnels")).json(envelope).timeout(TUNNEL);
        self.json("an answer about a session", request).await
    }

    /// A host's newest sessions.
    pub async fn tunnels(&self, id: &HostId) -> Result<Vec<TunnelView>, HubError> {
        self.json("a list of sessions", self.request(Method::GET, &format!("hosts/{id}/tunnels"))).await
    }

    /// Ends a session.
    pub async fn close_tunnel(&self, tunnel: &TunnelId) -> Result<TunnelView, HubError> {
        self.json("a closed session", self.request(Method::DELETE, &format!("tunnels/{tunnel}"))).await
    }

    /// The data connection of a session, behind the same pin.
    pub async fn dial(&self, tunnel: &TunnelId) -> Result<Upgraded, HubError> {
        let request = self
            .request(Method::GET, &format!("tunnels/{tunnel}/data"))
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, tunnel::UPGRADE);
        let response = request.send().await.map_err(|error| self.no_answer(error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        let named = response
            .headers()
            .get(UPGRADE)
            .map(|name| name.as_bytes().eq_ignore_ascii_case(tunnel::UPGRADE.as_bytes()));
        if named != Some(true) {
            return Err(HubError::Status { hub: self.address.clone(), status: 101 });
        }
        response.upgrade().await.map_err(|error| self.no_answer(error))
    }

    /// `path` is made of our own words, numbers and hexadecimal digits only.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/api/v1/{path}", self.address));
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.clone()),
            None => request,
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        request: RequestBuilder,
    ) -> Result<T, HubError> {
        let body = self.body(request).await?;
        serde_json::from_slice(&body).map_err(|source| HubError::Malformed { what, source })
    }

    async fn body(&self, request: RequestBuilder) -> Result<Vec<u8>, HubError> {
        let response = request.send().await.map_err(|error| self.no_answer(error))?;
        if response.status().is_success() {
            self.read(response).await
        } else {
            Err(self.refusal(response).await)
        }
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Vec<u8>, HubError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.no_answer(error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(HubError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What an answer that is no success says.
    async fn refusal(&self, response: reqwest::Response) -> HubError {
        let status = response.status();
        let body = match self.read(response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        // A refused login says why; with a token in hand 401 only means that it counts no more.
        if status == StatusCode::UNAUTHORIZED && self.token.is_some() {
            return HubError::Login;
        }
        match serde_json::from_slice::<ApiFailure>(&body) {
            Ok(ApiFailure { code, message }) => {
                let (code, message) = (printable(&code), printable(&message));
                HubError::Refused { status: status.as_u16(), code, message }
            }
            Err(_) => HubError::Status { hub: self.address.clone(), status: status.as_u16() },
        }
    }

    fn no_answer(&self, source: reqwest::Error) -> HubError {
        let hub = self.address.clone();
        // Of a connection that was made the pin was right, whatever another attempt saw.
        if let Some(seen) = self.mismatch.seen().filter(|_| source.is_connect()) {
            return HubError::WrongPin { hub, wanted: self.pin, seen };
        }
        HubError::Unreachable { hub, reason: reason(&source), source }
    }
}

/// The cause in a few words; the whole chain is shown with `--verbose`.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::ConnectionRefused => return "connection refused".to_owned(),
                std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
                    return "no route to it".to_owned();
                }
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof => {
                    return "the connection broke".to_owned();
                }
                _ => {}
            }
            match tls_error(io) {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    return "the server cannot prove that it holds the key that it shows".to_owned();
                }
                Some(_) => return "TLS failed; a hub speaks TLS 1.3".to_owned(),
                None => {}
            }
        }
        if inner.to_string().contains("dns error") {
            return "its name is not known".to_owned();
        }
        cause = inner.source();
    }
    if error.is_connect() { "no connection".to_owned() } else { "the connection broke".to_owned() }
}

/// Where the TLS stack puts its error: an I/O error, sometimes inside another one.
fn tls_error(io: &std::io::Error) -> Option<&rustls::Error> {
    let inner = io.get_ref()?;
    inner.downcast_ref().or_else(|| inner.downcast_ref::<std::io::Error>().and_then(tls_error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_addresses_are_hubs() {
        let good: HubAddress = "https://hub.example:8440/".parse().unwrap();
        assert_eq!(good.to_string(), "https://hub.example:8440");
        assert_eq!("https://[::1]:8440".parse::<HubAddress>().unwrap().to_string(), "https://[::1]:8440");
        for bad in [
            "",
            "hub.example",
            "http://hub.example",
            "https://hub.example/path",
            "https://user@hub.example",
            "https://user:pw@hub.example",
            "https://hub.example?x=1",
            "https://hub.example#x",
            "file:///etc/passwd",
            &format!("https://{}", "a".repeat(250)),
        ] {
            assert!(bad.parse::<HubAddress>().is_err(), "{bad}");
        }
    }
}
