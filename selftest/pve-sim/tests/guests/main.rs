//! Guests over HTTPS: made, changed, copied, driven and removed.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed step fails the test")]

mod agent;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod create;
mod lifecycle;
mod power;
mod refusals;
mod snapshots;

use std::time::{Duration, Instant};

use pve_sim::world::World;
use pve_sim::{Sim, SimConfig};
use reqwest::{Client, Method};
use serde_json::Value;

use common::trusting;

/// How long a test waits for a task.
const DEADLINE: Duration = Duration::from_secs(20);
/// A container template of the tests' world.
const TEMPLATE: &str = "local:vztmpl/debian-13-standard_13.1-1_amd64.tar.zst";

/// An answer as it came over the wire.
#[derive(Debug)]
struct Answer {
    status: u16,
    reason: String,
    body: Value,
}

impl Answer {
    /// The data of a 200.
    fn data(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["data"].clone()
    }

    fn is(&self, status: u16, reason: &str) {
        assert_eq!((self.status, self.reason.as_str()), (status, reason), "{self:?}");
        if status != 400 {
            assert_eq!(self.body["message"], format!("{reason}\n"));
        }
    }

    /// A 400 about this parameter.
    fn is_about(&self, name: &str, text: &str) {
        assert_eq!((self.status, self.reason.as_str()), (400, "Parameter verification failed."), "{self:?}");
        let error = self.body["errors"][name].as_str().unwrap_or_default();
        assert!(error.contains(text), "{self:?}");
    }
}

/// The demo with a client of one token.
struct Bench {
    sim: Sim,
    client: Client,
    token: String,
}

impl Bench {
    /// The demo; `shape` changes it before it starts. The token is the demo's `act`.
    async fn with(shape: impl FnOnce(&mut World)) -> Bench {
        let mut config = SimConfig::demo();
        config.auth_failure_delay = Duration::from_millis(1);
        config.task_duration = Duration::from_millis(1);
        config.world.add_volume(TEMPLATE, 120 << 20, 1_750_000_000);
        config.world.add_volume("local:iso/debian.iso", 600 << 20, 1_750_000_000);
        shape(&mut config.world);
        let sim = Sim::start(config).await.unwrap();
        let client = Client::builder()
            .tls_backend_preconfigured(trusting(&sim))
            .pool_idle_timeout(Duration::from_secs(4))
            .build()
            .unwrap();
        let (_, token) = sim.tokens();
        Bench { sim, client, token }
    }

    async fn demo() -> Bench {
        Bench::with(|_| {}).await
    }

    /// Gives the demo's `act` (and its user) more privileges.
    fn allow(world: &mut World, privileges: &[&str]) {
        let role = world.access.roles.get_mut("WritAgent").unwrap();
        role.extend(privileges.iter().map(|p| (*p).to_owned()));
    }

    fn world<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.sim.world().lock().unwrap())
    }

    /// A request below `/nodes/pve1`; parameters go into the query of GET and DELETE and into the
    /// body of the others.
    async fn call(&self, method: &str, path: &str, params: &[(&str, &str)]) -> Answer {
        let url = format!("{}/api2/json/nodes/pve1{path}", self.sim.url());
        let mut request = self
            .client
            .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
            .header("Authorization", format!("PVEAPIToken={}", self.token));
        request = match method {
            "GET" | "DELETE" => request.query(params),
            _ if params.is_empty() => request,
            _ => request.form(params),
        };
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let reason = response
            .extensions()
            .get::<hyper::ext::ReasonPhrase>()
            .map(|r| String::from_utf8_lossy(r.as_bytes()).into_owned())
            .or_else(|| response.status().canonical_reason().map(str::to_owned))
            .unwrap_or_default();
        let body = serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null);
        Answer { status, reason, body }
    }

    async fn get(&self, path: &str) -> Value {
        self.call("GET", path, &[]).await.data()
    }

    /// A call that starts a task, to its end: exit status and log.
    async fn run(&self, method: &str, path: &str, params: &[(&str, &str)]) -> (String, Vec<String>) {
        let data = self.call(method, path, params).await.data();
        self.finish(data.as_str().unwrap()).await
    }

    async fn finish(&self, upid: &str) -> (String, Vec<String>) {
        let end = Instant::now() + DEADLINE;
        let exit = loop {
            let status = self.get(&format!("/tasks/{upid}/status")).await;
            if let Some(exit) = status["exitstatus"].as_str() {
                break exit.to_owned();
            }
            assert!(Instant::now() < end, "the task does not end: {upid}");
            tokio::task::yield_now().await;
        };
        let log = self.call("GET", &format!("/tasks/{upid}/log"), &[("limit", "0")]).await;
        let rows = log.body["data"].as_array().unwrap().clone();
        (exit, rows.iter().map(|r| r["t"].as_str().unwrap().to_owned()).collect())
    }

    /// [`Bench::run`] that ends well.
    async fn ok(&self, method: &str, path: &str, params: &[(&str, &str)]) -> Vec<String> {
        let (exit, log) = self.run(method, path, params).await;
        assert_eq!(exit, "OK", "{method} {path}: {log:?}");
        log
    }

    /// [`Bench::run`] that ends with this text.
    async fn fails(&self, method: &str, path: &str, params: &[(&str, &str)], text: &str) {
        assert_eq!(self.run(method, path, params).await.0, text, "{method} {path}");
    }
}
