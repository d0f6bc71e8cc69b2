//! What can go wrong, and what several nodes, releases and sizes change: over HTTPS.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed step fails the test")]

mod access;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod node;
mod tasks;
mod wire;

use std::time::{Duration, Instant};

use pve_sim::world::Config;
use pve_sim::{Sim, SimConfig};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use common::trusting;

/// How long a test waits for something.
const DEADLINE: Duration = Duration::from_secs(20);

/// The demo, with quick refusals and quick tasks.
fn demo() -> SimConfig {
    let mut config = SimConfig::demo();
    config.auth_failure_delay = Duration::from_millis(1);
    config.task_duration = Duration::from_millis(1);
    config
}

#[derive(Debug)]
struct Answer {
    status: u16,
    reason: String,
    text: String,
    body: Value,
}

impl Answer {
    fn line(&self) -> (u16, &str) {
        (self.status, &self.reason)
    }

    fn upid(&self) -> &str {
        self.body["data"].as_str().unwrap()
    }
}

/// A client that trusts the simulator's CA and nothing else.
struct Pve {
    client: Client,
    base: String,
    token: String,
}

impl Pve {
    /// As the demo's `act` token.
    fn of(sim: &Sim) -> Pve {
        Pve::with(sim, &sim.tokens().1)
    }

    fn with(sim: &Sim, token: &str) -> Pve {
        // A kept connection that is reset would be tried again silently: every request has its own.
        let client = Client::builder()
            .tls_backend_preconfigured(trusting(sim))
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Pve { client, base: sim.url(), token: token.to_owned() }
    }

    fn request(&self, method: &str, path: &str, body: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        if !self.token.is_empty() {
            request = request.header("Authorization", format!("PVEAPIToken={}", self.token));
        }
        if !body.is_empty() {
            request =
                request.header("Content-Type", "application/x-www-form-urlencoded").body(body.to_owned());
        }
        request
    }

    /// A request below `/api2/json`, which may fail on the way.
    async fn try_call(&self, method: &str, path: &str, body: &str) -> Result<Answer, reqwest::Error> {
        read(self.request(method, &format!("/api2/json{path}"), body).send().await?).await
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.try_call(method, path, body).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "").await
    }

    /// Orders something through the side door.
    async fn order(&self, path: &str, body: &str) -> Answer {
        let request = self.client.post(format!("{}/sim/{path}", self.base));
        read(request.body(body.to_owned()).send().await.unwrap()).await.unwrap()
    }

    /// Orders faults and expects them to be accepted.
    async fn fault(&self, order: &str) {
        let answer = self.order("faults", order).await;
        assert_eq!(answer.status, 200, "{order}: {}", answer.text);
    }

    /// Waits for the end of a task.
    async fn finish(&self, upid: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let answer = self.get(&format!("/nodes/pve1/tasks/{upid}/status")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            if let Some(exit) = answer.body["data"]["exitstatus"].as_str() {
                return exit.to_owned();
            }
            assert!(Instant::now() < end, "the task does not end: {upid}");
            tokio::task::yield_now().await;
        }
    }
}

async fn read(response: reqwest::Response) -> Result<Answer, reqwest::Error> {
    let status = response.status().as_u16();
    let reason = response
        .extensions()
        .get::<hyper::ext::ReasonPhrase>()
        .map(|r| String::from_utf8_lossy(r.as_bytes()).into_owned())
        .or_else(|| response.status().canonical_reason().map(str::to_owned))
        .unwrap_or_default();
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answer { status, reason, text, body })
}

/// The configuration of a guest as the simulator has it.
fn config_of(sim: &Sim, vmid: u32) -> Config {
    sim.world().lock().unwrap().guests[&vmid].config.clone()
}
