//! A hub over real TLS for this crate's tests, which tells whatever lie a test wants.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use authz::merkle::{Tree, leaf_hash};
use authz::receipt::Entry;
use authz::{Checkpoint, Order, Outcome, Receipt};
use protocol::Sha256;
use protocol::api::{
    ApiFailure, DesiredAccepted, EnrollmentCreated, EnrollmentNew, EnrollmentState, EnrollmentView,
    HostDetail, HostView, LogCheckpoint, LogProof, LoginAnswer, LoginChallenge, OrderAccepted, OrderReceipt,
    OrderView, PlanView, ReceiptsView, TunnelView,
};
use protocol::ask::{Question, Reply};
use protocol::enroll::EnrollmentAnswer;
use protocol::report::HostReport;
use protocol::{Envelope, Note, Signed};
use rcgen::PublicKeyData as _;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::testing::{NOW, believed, host_key, name, plan_of};

/// Carries out a submitted script.
pub(super) type Runner = Box<dyn Fn(&Envelope) -> (Signed, Vec<u8>) + Send>;
/// Alters the hashes of a proof.
pub(super) type Spoiler = Box<dyn Fn(Vec<Sha256>) -> Vec<Sha256> + Send>;
/// Answers a request for a session: HTTP status and body.
pub(super) type Opener = Box<dyn Fn(&Envelope) -> (u16, String) + Send>;

/// Answers a question to a host: HTTP status and body.
pub(super) type Asked = Box<dyn FnMut(&Question) -> (u16, String) + Send>;

/// What the hub says. Tests change it as they like.
#[derive(Default)]
pub(super) struct Says {
    pub(super) hosts: Vec<HostView>,
    pub(super) report: Option<HostReport>,
    pub(super) receipts: Vec<Signed>,
    pub(super) held: u64,
    pub(super) answer: Option<EnrollmentAnswer>,
    /// Claims that the enrollment is approved.
    pub(super) approved: bool,
    pub(super) plan: Option<PlanView>,
    pub(super) policy: Option<Sha256>,
    pub(super) logged_out: bool,
    /// Makes the receipt for a submitted order.
    pub(super) judge: Option<Box<dyn Fn(Sha256) -> Signed + Send>>,
    /// Carries out a submitted script: the receipt, and the sealed result.
    pub(super) runner: Option<Runner>,
    result: Option<Vec<u8>>,
    /// What it answers about orders, which it takes and delivers all the same. Status 0: nothing.
    pub(super) denies_orders: Option<(u16, String)>,
    /// What it answers to questions about one order.
    pub(super) denies_order: Option<(u16, String)>,
    /// Answers a request for a session.
    pub(super) opens: Option<Opener>,
    pub(super) tunnels: Vec<TunnelView>,
    /// Answers questions to a host; otherwise the host web1 makes its plans, and looks at nothing.
    pub(super) asked: Option<Asked>,
    /// Takes the other end of a data connection.
    pub(super) data: Option<Box<dyn FnOnce(TlsStream<TcpStream>) + Send>>,
    /// The host's log: what [`Says::judge`] and [`Says::runner`] sign as the host goes in here, in its place.
    pub(super) log: Vec<Signed>,
    /// The host signs and does not log.
    pub(super) unlogged: bool,
    /// Shows another log than the host's: of so many entries, or with this in place of the last one.
    pub(super) shows_size: Option<u64>,
    pub(super) shows_fork: Option<Sha256>,
    /// Another checkpoint than the host's newest.
    pub(super) checkpoint: Option<Note>,
    /// Alters proofs.
    pub(super) spoils: Option<Spoiler>,
    /// What it answers when asked for proofs.
    pub(super) denies_proof: Option<(u16, String)>,
    order: Option<(Envelope, Vec<OrderReceipt>)>,
    /// Everything that arrived: method, path, body.
    pub(super) heard: Vec<(String, String, Vec<u8>)>,
}

impl Says {
    pub(super) fn heard(&self, method: &str, path_has: &str) -> Option<&[u8]> {
        let found = self.heard.iter().find(|(m, path, _)| m == method && path.contains(path_has));
        found.map(|(_, _, body)| body.as_slice())
    }

    fn reply(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        self.heard.push((method.to_owned(), path.to_owned(), body.to_vec()));
        let path = path.strip_prefix("/api/v1/").unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if self.logged_out && !path.starts_with("login") {
            let failure = ApiFailure { code: "bad_token".into(), message: "expired".into() };
            return (401, serde_json::to_string(&failure).unwrap());
        }
        let parts: Vec<&str> = path.split('/').collect();
        match (method, parts.as_slice()) {
            ("POST", ["login", "challenge"]) => {
                ok(&LoginChallenge { challenge: Sha256::of(b"c"), expires_at: NOW })
            }
            ("POST", ["login"]) => {
                ok(&LoginAnswer { token: "sesame".into(), operator: name("alice"), expires_at: NOW })
            }
            ("POST", ["enrollments"]) => {
                let new: EnrollmentNew = serde_json::from_slice(body).unwrap();
                self.policy = Some(Sha256::of(&new.policy.0));
                ok(&EnrollmentCreated { id: 7, expires_at: NOW })
            }
            ("GET", ["enrollments", "7"]) => ok(&self.enrollment()),
            ("GET", ["enrollments"]) => ok(&[self.enrollment()]),
            ("POST", ["enrollments", "7", _]) => ok(&self.enrollment()),
            ("GET", ["policy"]) => ok(&protocol::api::PolicyView::default()),
            ("GET", ["hosts"]) => ok(&self.hosts),
            ("GET", ["hosts", _]) => ok(&HostDetail {
                host: self.hosts[0].clone(),
                report: self.report.clone(),
                desired: None,
                plan: self.plan.clone(),
            }),
            ("GET", ["hosts", _, "receipts"]) => {
                if self.receipts.is_empty() && self.held == 0 {
                    let mut receipts = self.log.clone();
                    receipts.truncate(self.shows_size.map_or(receipts.len(), |size| size as usize));
                    return ok(&ReceiptsView { first: 0, held: receipts.len() as u64, receipts });
                }
                ok(&ReceiptsView { first: 0, held: self.held, receipts: self.receipts.clone() })
            }
            ("GET", ["hosts", _, "log", "checkpoint"]) => match self.checkpoint() {
                Some(checkpoint) => ok(&LogCheckpoint { checkpoint }),
                None => no(404, "no_checkpoint"),
            },
            ("GET", ["hosts", _, "log", "proof"]) => self.proof(query),
            ("PUT", ["hosts", _, "desired"]) => ok(&DesiredAccepted { generation: 3, changed: true }),
            ("GET", ["hosts", _, "orders"]) => ok(&self.order.as_ref().map(|_| self.order()).as_slice()),
            ("POST", ["hosts", _, "orders"]) => {
                let envelope: Envelope = serde_json::from_slice(body).unwrap();
                let op = envelope.id();
                let before = self.order.take().filter(|(envelope, _)| envelope.id() == op);
                let mut receipts = before.map(|(_, receipts)| receipts).unwrap_or_default();
                let version = receipts.last().map_or(1, |receipt| receipt.version + 1);
                if let Some(judge) = &self.judge {
                    let receipt = judge(op);
                    receipts.push(OrderReceipt { version: version + 1, receipt: self.logged(receipt) });
                }
                if let Some(runner) = &self.runner {
                    let (receipt, result) = runner(&envelope);
                    let receipt = self.logged(receipt);
                    receipts.push(OrderReceipt { version: version + 1, receipt });
                    self.result = Some(result);
                }
                self.order = Some((envelope, receipts));
                if let Some(denial) = &self.denies_orders {
                    return denial.clone();
                }
                ok(&OrderAccepted { op, version, online: true })
            }
            ("GET", ["hosts", _, "orders", _]) if self.denies_order.is_some() => {
                self.denies_order.clone().unwrap()
            }
            ("GET", ["hosts", _, "orders", _]) => {
                ok(&OrderView { result: self.result.clone().map(Into::into), ..self.order() })
            }
            ("POST", ["hosts", _, "ask"]) => {
                let question: Question = serde_json::from_slice(body).unwrap();
                match (&mut self.asked, &question) {
                    (Some(asked), _) => asked(&question),
                    (None, Question::Plan { draft }) => {
                        let plan = plan_of(&Order::decode_draft(&draft.0).unwrap()).sign(&host_key(1));
                        ok(&Reply::Plan { plan })
                    }
                    (None, Question::Look(_)) => no(409, "offline"),
                }
            }
            ("POST", ["hosts", _, "tunnels"]) => {
                let envelope: Envelope = serde_json::from_slice(body).unwrap();
                self.opens.as_ref().unwrap()(&envelope)
            }
            ("GET", ["hosts", _, "tunnels"]) => ok(&self.tunnels),
            ("DELETE", ["tunnels", id]) => {
                ok(self.tunnels.iter().find(|view| view.id.to_string() == **id).unwrap())
            }
            _ => (404, "not a hub's words".to_owned()),
        }
    }

    /// From now on only this about the order.
    pub(super) fn shows(&mut self, receipt: Signed, result: Vec<u8>) {
        let receipt = self.logged(receipt);
        let order = self.order.as_mut().unwrap();
        order.1 = vec![OrderReceipt { version: 9, receipt }];
        self.result = Some(result);
    }

    /// As the host web1 would have signed it into its log. What is not by its key, or a refusal outside
    /// the log, stays as it is.
    fn logged(&mut self, signed: Signed) -> Signed {
        let host = believed(1, "web1");
        let Ok(mut receipt) = Receipt::verify(&signed, host.id(), &host.key) else { return signed };
        let refused = receipt.order_outcome().is_some_and(|(_, end)| matches!(end, Outcome::Refused { .. }));
        if self.unlogged || (refused && receipt.entry.is_none()) {
            return signed;
        }
        let prev = self.log.last().map_or(Sha256::from_bytes([0; 32]), |last| Sha256::of(&last.payload.0));
        receipt.entry = Some(Entry { seq: self.log.len() as u64, prev });
        let signed = receipt.sign(&host_key(1));
        self.log.push(signed.clone());
        signed
    }

    /// The tree that it shows.
    fn tree(&self) -> Tree {
        let entries = if self.receipts.is_empty() { &self.log } else { &self.receipts };
        let size = self.shows_size.map_or(entries.len(), |size| size as usize);
        let mut leaves: Vec<Sha256> =
            entries.iter().take(size).map(|entry| leaf_hash(&entry.payload.0)).collect();
        if let (Some(fork), Some(last)) = (self.shows_fork, leaves.last_mut()) {
            *last = fork;
        }
        let mut tree = Tree::default();
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        tree
    }

    /// The host's, as the tests hold its key: a real hub can show only what the host signed.
    fn checkpoint(&self) -> Option<Note> {
        let (tree, origin) = (self.tree(), crate::history::origin(&believed(1, "web1")));
        let root = tree.root(tree.size()).filter(|_| tree.size() > 0)?;
        let newest = Checkpoint { size: tree.size(), root }.sign(&origin, &host_key(1));
        Some(self.checkpoint.clone().unwrap_or(newest))
    }

    fn proof(&self, query: &str) -> (u16, String) {
        if let Some(denial) = &self.denies_proof {
            return denial.clone();
        }
        let number = |name: &str| {
            query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        let (tree, size) = (self.tree(), number("size").unwrap());
        let hashes = match (number("entry"), number("from")) {
            (Some(entry), None) => tree.inclusion(entry, size),
            (None, Some(from)) => tree.consistency(from, size),
            _ => None,
        };
        match hashes {
            Some(hashes) => {
                ok(&LogProof { hashes: self.spoils.as_ref().map_or(hashes.clone(), |f| f(hashes)) })
            }
            None => no(404, "no_proof"),
        }
    }

    fn order(&self) -> OrderView {
        let (envelope, receipts) = self.order.clone().unwrap();
        OrderView {
            op: envelope.id(),
            version: receipts.last().map_or(1, |receipt| receipt.version),
            submitted_by: name("alice"),
            submitted_at: NOW,
            envelope,
            delivered: true,
            online: true,
            progress: None,
            problem: None,
            result: None,
            receipts,
        }
    }

    fn enrollment(&self) -> EnrollmentView {
        EnrollmentView {
            id: 7,
            state: match self.answer {
                _ if self.approved => EnrollmentState::Approved,
                Some(_) => EnrollmentState::WaitingForApproval,
                None => EnrollmentState::WaitingForHost,
            },
            created_by: name("alice"),
            created_at: NOW,
            expires_at: NOW,
            policy: self.policy.unwrap_or(Sha256::of(b"")),
            answer: self.answer.clone(),
        }
    }
}

/// A hub's no.
pub(super) fn no(status: u16, code: &str) -> (u16, String) {
    let failure = ApiFailure { code: code.into(), message: "in the hub's words".into() };
    (status, serde_json::to_string(&failure).unwrap())
}

pub(super) fn ok<T: Serialize + ?Sized>(value: &T) -> (u16, String) {
    (200, serde_json::to_string(value).unwrap())
}

/// A running hub.
pub(super) struct FakeHub {
    pub(super) address: String,
    pub(super) pin: Sha256,
    pub(super) says: Arc<Mutex<Says>>,
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl FakeHub {
    pub(super) async fn start() -> Self {
        Self::with_key(None).await
    }

    /// A thief: shows the hub's certificate, but signs with another key.
    pub(super) async fn start_with_stolen_certificate() -> Self {
        Self::with_key(Some(rcgen::KeyPair::generate().unwrap())).await
    }

    async fn with_key(other: Option<rcgen::KeyPair>) -> Self {
        let own = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["hub".to_owned()]).unwrap().self_signed(&own).unwrap();
        let pin = Sha256::of(&own.subject_public_key_info());
        let key = PrivateKeyDer::Pkcs8(other.unwrap_or(own).serialize_der().into());
        let provider = rustls::crypto::ring::default_provider();
        let signer = provider.key_provider.load_private_key(key).unwrap();
        let shown = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signer));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(shown)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let says = Arc::new(Mutex::new(Says::default()));
        let (acceptor, state) = (TlsAcceptor::from(Arc::new(config)), says.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(acceptor.clone(), stream, state.clone()));
            }
        });
        Self { address, pin, says }
    }
}

/// One request per connection. A failed handshake ends it, as it should.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream, says: Arc<Mutex<Says>>) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let length = text
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0usize);
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    if path.ends_with("/data") {
        let wanted = text.to_ascii_lowercase().contains("upgrade: writ-tunnel/1\r\n");
        let data = {
            let mut says = says.lock().unwrap();
            says.heard.push((method.to_owned(), path.to_owned(), bytes[..head].to_vec()));
            says.data.take()
        };
        if let (true, Some(data)) = (wanted, data) {
            let switch = "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: writ-tunnel/1\r\n\r\n";
            stream.write_all(switch.as_bytes()).await.unwrap();
            data(stream);
            return;
        }
    }
    let (status, body) = says.lock().unwrap().reply(method, path, &bytes[head..]);
    if status == 0 {
        return;
    }
    let answer = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
