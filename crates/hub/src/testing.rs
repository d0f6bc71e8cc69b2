//! A hub without sockets, with a clock that tests turn.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use authz::{SecretKey, enroll, statement};
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use protocol::api::{EnrollFinish, EnrollmentApprove, EnrollmentNew, LoginAnswer, LoginChallenge};
use protocol::enroll::{EnrollmentAnswer, HostStatement};
use protocol::{Ed25519Key, HostId, Sha256, Signed};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::app::{App, AppInner, Clock, Environment, Limits};
use crate::http;
use crate::live::Live;
use crate::operators::OperatorsFile;
use crate::questions::Questions;
use crate::store::Store;
use crate::tls::DeviceKey;
use crate::tunnel::Tunnels;

pub(crate) const POLICY: &[u8] = b"a policy, which the hub does not read";

pub(crate) struct TestHub {
    pub(crate) app: App,
    pub(crate) clock: Arc<AtomicU64>,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn alice() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

pub(crate) fn bob() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

pub(crate) fn mallory() -> SecretKey {
    SecretKey::from_seed(&[66; 32])
}

pub(crate) fn operators() -> String {
    format!("alice {} laptop\nbob {}\n", alice().public(), bob().public())
}

/// A host as far as a hub can see one.
pub(crate) struct TestHost {
    pub(crate) id: HostId,
    pub(crate) key: SecretKey,
    pub(crate) device: Ed25519Key,
}

impl TestHost {
    pub(crate) fn new(number: u8) -> Self {
        let device = SecretKey::from_seed(&[number + 100; 32]).public().to_wire();
        Self { id: HostId::from_bytes([number; 16]), key: SecretKey::from_seed(&[number; 32]), device }
    }

    pub(crate) fn answer(&self) -> EnrollmentAnswer {
        let (host_key, policy) = (self.key.public().to_wire(), Sha256::of(POLICY));
        EnrollmentAnswer {
            v: 1,
            host_id: self.id,
            host_key,
            host_key_gen: 1,
            device_key: self.device,
            device_cert: enroll::certify_device(self.id, 1, self.device, &self.key),
            policy,
            proof: enroll::proof(b"k", &policy, &self.id, &host_key, &self.device),
            hostname: "pve".to_owned(),
        }
    }

    pub(crate) fn statement(&self, name: &str) -> HostStatement {
        HostStatement {
            v: 1,
            name: name.parse().unwrap(),
            site: "lab".parse().unwrap(),
            host_id: self.id,
            host_key: self.key.public().to_wire(),
            host_key_gen: 1,
            device_key: self.device,
            policy: Sha256::of(POLICY),
            issued_at: 1,
        }
    }

    pub(crate) fn signed(&self, name: &str) -> Signed {
        statement::sign_host(&self.statement(name), &alice())
    }
}

impl TestHub {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operators");
        std::fs::write(&path, operators()).unwrap();
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let now = clock.clone();
        let environment =
            Environment { clock: Clock::new(move || now.load(Ordering::Relaxed)), limits: Limits::default() };
        let app = Arc::new(AppInner {
            store: Store::open(&dir.path().join("hub.sqlite")).await.unwrap(),
            live: Live::new(),
            tunnels: Tunnels::default(),
            questions: Questions::default(),
            sessions_per_operator: NonZeroU8::MIN,
            operators: OperatorsFile::new(&path),
            pin: Sha256::of(b"this hub's key"),
            environment,
        });
        Self { app, clock, dir }
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(crate) fn set_operators(&self, text: &str) {
        std::fs::write(self.dir.path().join("operators"), text).unwrap();
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = http::router(self.app.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: impl serde::Serialize,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.send(request.body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, Some(token), Value::Null).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        token: &str,
        body: impl serde::Serialize,
    ) -> (StatusCode, Value) {
        self.call(Method::POST, path, Some(token), body).await
    }

    pub(crate) async fn challenge(&self) -> Sha256 {
        let (status, body) = self.call(Method::POST, "/api/v1/login/challenge", None, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value::<LoginChallenge>(body).unwrap().challenge
    }

    pub(crate) async fn try_login(&self, signed: &Signed) -> (StatusCode, Value) {
        self.call(Method::POST, "/api/v1/login", None, signed).await
    }

    pub(crate) async fn login(&self, key: &SecretKey) -> String {
        let signed = statement::sign_login(self.app.pin, self.challenge().await, key);
        let (status, body) = self.try_login(&signed).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value::<LoginAnswer>(body).unwrap().token
    }

    pub(crate) async fn new_code(&self, token: &str, secret: &[u8], expires_in_s: u64) -> u64 {
        let new =
            EnrollmentNew { secret_sha256: Sha256::of(secret), policy: POLICY.to_vec().into(), expires_in_s };
        let (status, body) = self.post("/api/v1/enrollments", token, new).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["id"].as_u64().unwrap()
    }

    /// As if the TLS handshake had proven `device`.
    pub(crate) async fn finish(
        &self,
        device: Option<Ed25519Key>,
        secret: &[u8],
        answer: &EnrollmentAnswer,
    ) -> (StatusCode, Value) {
        let body = EnrollFinish { secret: secret.to_vec().into(), answer: answer.clone() };
        let mut request = Request::post("/agent/v1/enroll/finish")
            .body(Body::from(serde_json::to_vec(&body).unwrap()))
            .unwrap();
        if let Some(device) = device {
            request.extensions_mut().insert(DeviceKey(device));
        }
        self.send(request).await
    }

    pub(crate) async fn approve(&self, token: &str, id: u64, statement: Signed) -> (StatusCode, Value) {
        self.post(&format!("/api/v1/enrollments/{id}/approve"), token, EnrollmentApprove { statement }).await
    }

    /// Code, answer, approval.
    pub(crate) async fn enroll(&self, token: &str, host: &TestHost, name: &str) {
        let secret = [host.device.as_bytes().as_slice(), name.as_bytes()].concat();
        let id = self.new_code(token, &secret, 600).await;
        let (status, body) = self.finish(Some(host.device), &secret, &host.answer()).await;
        assert_eq!((status, &body), (StatusCode::OK, &json!({"id": id, "state": "waiting_for_approval"})));
        let (status, body) = self.approve(token, id, host.signed(name)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}
