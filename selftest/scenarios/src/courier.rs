//! What somebody can do with an operator's token and no tool of ours: talk to the hub's API directly. The
//! hub is a courier, so this is also what a thief with the hub can make it deliver.

use std::time::Duration;

use authz::order::{JobParams, SessionMode, SessionParams};
use authz::{Namespace, Order, Params, Receipt, SecretKey};
use protocol::api::{ApiFailure, HostDetail, OrderView, TunnelAnswer};
use protocol::enroll::HostStatement;
use protocol::{Ed25519Key, Envelope, HostId, Nonce, Sha256, TunnelId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::process::DEADLINE;
use crate::stand::{Stand, expect};
use crate::{Fallible, Trouble};

/// A connection to the hub's API with alice's token, her key, and what is needed to write orders by hand.
pub struct Courier {
    http: reqwest::Client,
    url: String,
    token: String,
    /// Alice's key.
    pub alice: SecretKey,
    base: Order,
    host_key: Ed25519Key,
    user: String,
}

impl Courier {
    /// For the host `web1` of a stand where alice is logged in.
    pub async fn new(stand: &Stand) -> Fallible<Self> {
        let trouble = |what: &str, why: String| Trouble::new(what, why);
        let cert = CertificateDer::from_pem_file(stand.at("hub/tls.crt"))
            .map_err(|error| trouble("the hub's certificate", error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert).map_err(|error| trouble("the hub's certificate", error.to_string()))?;
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| trouble("TLS", error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .build()
            .map_err(|error| trouble("the HTTP client", error.to_string()))?;
        // A harmless order, prepared by the real tool, names host, host key and policy.
        let out = stand.writ(&["op", "guest.start", "web1", "101", "--force", "-o", "base.json"]).await?;
        expect("writ op", &out)?;
        let base = Order::decode(&stand.read_work("base.json")?)
            .map_err(|error| trouble("the prepared order", error.to_string()))?;
        let key = stand.read("keys/alice")?;
        let alice =
            SecretKey::from_openssh(&key, None).map_err(|error| trouble("alice's key", error.to_string()))?;
        stand.wait_online("web1").await?;
        let mut courier = Self {
            http,
            url: stand.hub_url(),
            token: stand.read("operator/token")?.trim().to_owned(),
            alice,
            base,
            host_key: Ed25519Key::from_bytes([0; 32]),
            user: stand.user().await?,
        };
        let path = format!("/api/v1/hosts/{}", courier.host());
        let detail: HostDetail =
            courier.get(&path).await?.map_err(|failure| Trouble::new("the host", failure.message))?;
        let statement: HostStatement = serde_json::from_slice(&detail.host.statement.payload.0)
            .map_err(|error| Trouble::new("the host's statement", error))?;
        courier.host_key = statement.host_key;
        Ok(courier)
    }

    /// The host.
    pub fn host(&self) -> HostId {
        self.base.host.id
    }

    /// The key that scripts are sealed to.
    pub fn host_key(&self) -> &Ed25519Key {
        &self.host_key
    }

    fn order(&self, params: Params, nonce: u8) -> Order {
        let now = crate::demo::now();
        Order {
            params,
            guest: None,
            pre: Default::default(),
            nonce: Nonce::from_bytes([nonce; 16]),
            nbf: now - 5,
            exp: now + 120,
            ..self.base.clone()
        }
    }

    /// An order to run this script as this user.
    pub fn job(&self, script: &[u8], nonce: u8) -> Order {
        let params = JobParams {
            script: Sha256::of(script),
            script_len: u32::try_from(script.len()).unwrap_or(u32::MAX),
            interpreter: "/bin/sh".parse().expect("a constant path"),
            args: vec![],
            user: self.user.parse().expect("a user name"),
            env: vec![],
            timeout_s: 60,
            max_output: 65536,
            result_key: self.result_key().public().to_wire(),
        };
        self.order(Params::JobRun(params), nonce)
    }

    /// The key to which results of [`Self::job`] are sealed.
    pub fn result_key(&self) -> SecretKey {
        SecretKey::from_seed(&[0x71; 32])
    }

    /// A grant for a session of this user, with any key.
    pub fn session(&self, nonce: u8) -> Order {
        let params = SessionParams {
            key: SecretKey::from_seed(&[0x72; 32]).public().to_wire(),
            user: self.user.parse().expect("a user name"),
            mode: SessionMode::Full {},
            forwards: vec![],
            idle_s: 60,
            max_s: 120,
        };
        self.order(Params::SessionOpen(params), nonce)
    }

    /// Signs an order as its kind demands.
    pub fn signed(&self, order: &Order, key: &SecretKey) -> Envelope {
        let payload = order.encode();
        let sig = key.sign(order.kind().namespace(), &payload);
        Envelope::new(payload.into(), vec![sig])
    }

    /// The same for a script, which goes along under seal.
    pub fn signed_job(&self, order: &Order, key: &SecretKey, script: &[u8]) -> Fallible<Envelope> {
        let mut envelope = self.signed(order, key);
        envelope.sealed = Some(self.seal(script)?.into());
        Ok(envelope)
    }

    /// Seals bytes to the host.
    pub fn seal(&self, bytes: &[u8]) -> Fallible<Vec<u8>> {
        let randomness =
            sealed::Randomness { file_key: [0x31; 16], ephemeral: [0x32; 32], payload_nonce: [0x33; 16] };
        sealed::seal(&self.host_key, bytes, randomness).map_err(|error| Trouble::new("sealing", error))
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Fallible<Result<T, ApiFailure>> {
        let fail = |error: reqwest::Error| Trouble::new("the hub's API", error);
        let response = request.bearer_auth(&self.token).timeout(DEADLINE).send().await.map_err(fail)?;
        let good = response.status().is_success();
        let text = response.text().await.map_err(fail)?;
        let odd = |error: serde_json::Error| Trouble::new(format!("the hub's API said {text}"), error);
        if good {
            serde_json::from_str(&text).map(Ok).map_err(odd)
        } else {
            serde_json::from_str(&text).map(Err).map_err(odd)
        }
    }

    /// GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Fallible<Result<T, ApiFailure>> {
        self.answer(self.http.get(format!("{}{path}", self.url))).await
    }

    /// POST of an envelope.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        envelope: &Envelope,
    ) -> Fallible<Result<T, ApiFailure>> {
        self.answer(self.http.post(format!("{}{path}", self.url)).json(envelope)).await
    }

    /// Submits an order and gives the words of its first end or refusal that comes afterwards.
    pub async fn submit(&self, envelope: &Envelope) -> Fallible<String> {
        let path = format!("/api/v1/hosts/{}/orders", self.host());
        let accepted: protocol::api::OrderAccepted = match self.post(&path, envelope).await? {
            Ok(accepted) => accepted,
            Err(failure) => return Ok(format!("hub refused ({}): {}", failure.code, failure.message)),
        };
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            let view = self.view(&accepted.op).await?;
            let receipts = view.receipts.iter().filter(|receipt| receipt.version > accepted.version);
            for receipt in receipts {
                let receipt = self.receipt(&receipt.receipt)?;
                if let Some((op, outcome)) = receipt.order_outcome()
                    && *op == accepted.op
                {
                    return Ok(outcome.to_string());
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(Trouble("no receipt came".into()))
    }

    /// The hub's view of an order.
    pub async fn view(&self, op: &Sha256) -> Fallible<OrderView> {
        let path = format!("/api/v1/hosts/{}/orders/{op}", self.host());
        self.get(&path).await?.map_err(|failure| Trouble::new("the order", failure.message))
    }

    /// A receipt by the host.
    pub fn receipt(&self, signed: &protocol::Signed) -> Fallible<Receipt> {
        let key =
            authz::PublicKey::try_from(self.host_key).map_err(|error| Trouble::new("the host key", error))?;
        Receipt::verify(signed, &self.host(), &key).map_err(|error| Trouble::new("a receipt", error))
    }

    /// Asks for a session and gives its id, or the words of the refusal.
    pub async fn open(&self, envelope: &Envelope) -> Fallible<Result<TunnelId, String>> {
        let path = format!("/api/v1/hosts/{}/tunnels", self.host());
        Ok(match self.post(&path, envelope).await? {
            Ok(TunnelAnswer::Ready { id, .. }) => Ok(id),
            Ok(TunnelAnswer::Refused { receipt }) => {
                let receipt = self.receipt(&receipt)?;
                Err(receipt.order_outcome().map(|(_, outcome)| outcome.to_string()).unwrap_or_default())
            }
            Ok(TunnelAnswer::Trouble { problem }) => Err(problem),
            Err(failure) => Err(format!("hub refused ({}): {}", failure.code, failure.message)),
        })
    }

    /// Closes a tunnel.
    pub async fn close(&self, tunnel: &TunnelId) -> Fallible<()> {
        let request = self.http.delete(format!("{}/api/v1/tunnels/{tunnel}", self.url));
        match self.answer::<protocol::api::TunnelView>(request).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(Trouble::new("closing a tunnel", failure.message)),
        }
    }

    /// Tries the data connection of a tunnel; gives the HTTP status.
    pub async fn dial(&self, tunnel: &TunnelId) -> Fallible<u16> {
        let request = self
            .http
            .get(format!("{}/api/v1/tunnels/{tunnel}/data", self.url))
            .header("connection", "upgrade")
            .header("upgrade", protocol::tunnel::UPGRADE)
            .bearer_auth(&self.token)
            .timeout(DEADLINE);
        let response = request.send().await.map_err(|error| Trouble::new("the hub's API", error))?;
        Ok(response.status().as_u16())
    }

    /// Signs with a namespace of choice, for orders that are signed for the wrong purpose.
    pub fn signed_in(&self, order: &Order, key: &SecretKey, namespace: Namespace) -> Envelope {
        let payload = order.encode();
        let sig = key.sign(namespace, &payload);
        Envelope::new(payload.into(), vec![sig])
    }
}
